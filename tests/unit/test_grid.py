"""Where voxels are, and values between them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spinedose.errors import InvalidInput
from spinedose.grid import Grid, Volume, box_around

# Voxels of 0.1 x 0.2 x 0.5 cm; 4 along x, 3 along y, 2 along z; the first centre at (1, 2, 3).
GRID = Grid((1.0, 2.0, 3.0), (0.1, 0.2, 0.5), (2, 3, 4))


class TestGrid:
    def test_measures(self) -> None:
        assert GRID.size == 24
        assert GRID.voxel_volume_cm3 == pytest.approx(0.01)
        x, y, z = GRID.axes_cm
        np.testing.assert_allclose(x, [1.0, 1.1, 1.2, 1.3])
        np.testing.assert_allclose(y, [2.0, 2.2, 2.4])
        np.testing.assert_allclose(z, [3.0, 3.5])
        np.testing.assert_allclose(GRID.lower_cm, [0.95, 1.9, 2.75])
        np.testing.assert_allclose(GRID.upper_cm, [1.35, 2.5, 3.75])

    def test_indices_are_z_y_x(self) -> None:
        np.testing.assert_allclose(GRID.indices_of((1.3, 2.2, 3.25)), (0.5, 1.0, 3.0))
        assert GRID.indices_of(np.zeros((5, 6, 3))).shape == (5, 6, 3)

    def test_box_keeps_the_places_of_its_voxels(self) -> None:
        part = GRID.box((1, 0, 2), (2, 2, 4))
        assert part.shape == (1, 2, 2)
        np.testing.assert_allclose(part.origin_cm, (1.2, 2.0, 3.5))
        assert part.spacing_cm == GRID.spacing_cm

    def test_voxels_that_reach_into_a_box(self) -> None:
        assert GRID.reaching((1.11, 2.15, 3.1), (1.24, 2.25, 3.2)) == ((0, 1, 1), (1, 2, 3))
        assert GRID.reaching((1.0, 2.0, 3.0), (1.3, 2.4, 3.5)) == ((0, 0, 0), GRID.shape)
        assert GRID.reaching((-9.0, 2.0, 9.0), (-8.0, 9.0, 9.1)) == ((1, 0, 0), (2, 3, 1))  # one at least

    def test_the_box_around_voxels(self) -> None:
        is_wanted = np.zeros(GRID.shape, dtype=bool)
        assert box_around(is_wanted) == ((0, 0, 0), GRID.shape)
        is_wanted[1, 1, 1] = is_wanted[1, 1, 2] = True
        assert box_around(is_wanted) == ((1, 1, 1), (2, 2, 3))
        assert box_around(is_wanted, 1) == ((0, 0, 0), (2, 3, 4))

    def test_closeness_looks_at_every_voxel(self) -> None:
        assert GRID.is_close_to(Grid((1.00005, 2.0, 3.0), (0.1, 0.2, 0.5), (2, 3, 4)))
        assert not GRID.is_close_to(Grid((1.0002, 2.0, 3.0), (0.1, 0.2, 0.5), (2, 3, 4)))
        assert not GRID.is_close_to(Grid((1.0, 2.0, 3.0), (0.1, 0.2, 0.5), (2, 3, 5)))
        assert not GRID.is_close_to(Grid((1.0, 2.0, 3.0), (0.1001, 0.2, 0.5), (2, 3, 4)))

    @pytest.mark.parametrize(
        ("origin", "spacing", "shape", "words"),
        [
            ((np.nan, 0, 0), (1, 1, 1), (1, 1, 1), "origin"),
            ((0, 0, 0), (1, 0, 1), (1, 1, 1), "spacing"),
            ((0, 0, 0), (1, -1, 1), (1, 1, 1), "spacing"),
            ((0, 0, 0), (1, np.inf, 1), (1, 1, 1), "spacing"),
            ((0, 0, 0), (1, 1, 1), (1, 0, 1), "empty"),
            ((0, 0), (1, 1, 1), (1, 1, 1), "2 numbers instead of 3"),
        ],
    )
    def test_refuses_what_is_no_grid(self, origin: tuple, spacing: tuple, shape: tuple, words: str) -> None:
        with pytest.raises(InvalidInput, match=words):
            Grid(origin, spacing, shape)


class TestVolume:
    def test_refuses_values_of_another_shape(self) -> None:
        with pytest.raises(InvalidInput, match="do not fit"):
            Volume(GRID, np.zeros((2, 3, 5)))

    def test_is_read_only_and_leaves_the_original_alone(self) -> None:
        values = np.zeros(GRID.shape)
        volume = Volume(GRID, values)
        with pytest.raises(ValueError, match="read-only"):
            volume.values[0, 0, 0] = 1
        values[0, 0, 0] = 1

    @settings(deadline=None)
    @given(st.tuples(st.floats(1.0, 1.3), st.floats(2.0, 2.4), st.floats(3.0, 3.5)))
    def test_trilinear_functions_are_met_exactly(self, point: tuple[float, float, float]) -> None:
        def function(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
            return 2 + 3 * x - y + 4 * z + x * y - 2 * x * y * z

        x, y, z = GRID.axes_cm
        volume = Volume(GRID, function(x[None, None, :], y[None, :, None], z[:, None, None]))
        assert volume.sample(point) == pytest.approx(function(*(np.array(c) for c in point)), abs=1e-9)

    def test_a_part_has_its_values_at_their_places(self) -> None:
        volume = Volume(GRID, np.random.default_rng(3).random(GRID.shape))
        part = volume.near((1.11, 2.15, 3.1), (1.24, 2.25, 3.7))
        np.testing.assert_array_equal(part.values, volume.values[:, 1:2, 1:3])
        assert part.sample((1.14, 2.2, 3.3)) == pytest.approx(volume.sample((1.14, 2.2, 3.3)))

    def test_rim_and_beyond(self) -> None:
        volume = Volume(GRID, np.arange(24.0).reshape(GRID.shape))
        points = [(0.96, 2.0, 3.0), (1.34, 2.0, 3.0), (0.94, 2.0, 3.0), (1.0, 2.0, 3.76), (np.nan, 2.0, 3.0)]
        np.testing.assert_array_equal(volume.sample(points), [0.0, 3.0, np.nan, np.nan, np.nan])
        assert volume.sample((9, 9, 9), outside=-1.0) == -1.0

    def test_resampling_to_itself_and_to_half(self) -> None:
        volume = Volume(GRID, np.random.default_rng(3).random(GRID.shape).astype(np.float32))
        np.testing.assert_allclose(volume.resample(GRID).values, volume.values, rtol=1e-6)
        between = Grid((1.05, 2.1, 3.25), (0.1, 0.2, 0.5), (1, 2, 3))
        expected = sum(
            volume.values[dz : dz + 1, dy : dy + 2, dx : dx + 3] / 8 for dz in (0, 1) for dy in (0, 1) for dx in (0, 1)
        )
        np.testing.assert_allclose(volume.resample(between).values, expected, rtol=1e-5)
        far = Grid((9.0, 9.0, 9.0), (1.0, 1.0, 1.0), (1, 1, 1))
        assert volume.resample(far).values[0, 0, 0] == 0

    def test_resampling_is_sampling_at_every_voxel(self) -> None:
        volume = Volume(GRID, np.random.default_rng(4).random(GRID.shape).astype(np.float32))
        for grid in (
            Grid((0.9, 1.8, 2.7), (0.03, 0.07, 0.11), (12, 13, 14)),
            Grid((1.12, 1.0, 3.1), (1, 0.1, 1), (1, 20, 1)),
        ):
            x, y, z = grid.axes_cm
            points = np.stack(np.broadcast_arrays(x[None, None, :], y[None, :, None], z[:, None, None]), axis=-1)
            np.testing.assert_allclose(
                volume.resample(grid, outside=-1.0).values, volume.sample(points, outside=-1.0), rtol=1e-6
            )
