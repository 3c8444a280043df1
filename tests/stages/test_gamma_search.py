"""Gamma through the seam: closed forms on every backend. tests/unit/test_gamma.py has the rest of what gamma means."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from spinedose.backends.base import Backend
from spinedose.compare.gamma import GammaResult, gamma_index
from spinedose.errors import InvalidInput
from spinedose.grid import Grid, Volume

CLOSE = 1e-4 + 2e-5
"""The default accuracy of gamma, and rounding: 1e-7 of 60 Gy against a criterion of 1.8 Gy."""

Compare = Callable[..., GammaResult]


@pytest.fixture
def compare(backend: Backend) -> Compare:
    """`compare(reference, evaluated, ...)`: gamma found by a backend."""

    def gamma_of(reference: Volume, evaluated: Volume, **options: Any) -> GammaResult:
        return gamma_index(reference, evaluated, search=backend.gamma, **options)

    return gamma_of


def volume_of(
    function: Callable[..., Any],
    shape: tuple[int, int, int] = (12, 14, 16),
    spacing_cm: tuple[float, float, float] = (0.25, 0.25, 0.25),
    origin_cm: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Volume:
    """A dose from a function of x, y, z [cm]."""
    grid = Grid(origin_cm, spacing_cm, shape)
    x, y, z = grid.axes_cm
    values = function(x[None, None, :], y[None, :, None], z[:, None, None])
    return Volume(grid, np.array(np.broadcast_to(values, shape), dtype=np.float32))


@pytest.mark.parametrize(("evaluated_gy", "expected"), [(60.0, 0.0), (60.9, 0.5), (58.2, 1.0), (62.7, 1.5), (70, 2.0)])
def test_a_constant_difference_counts_in_units_of_the_criterion(
    compare: Compare, evaluated_gy: float, expected: float
) -> None:
    # 3 % of 60 Gy are 1.8 Gy; 10 Gy are beyond the cut-off of 2.
    result = compare(volume_of(lambda x, y, z: 60), volume_of(lambda x, y, z: evaluated_gy))
    assert result.values == pytest.approx(expected, abs=CLOSE)


def test_a_ramp_in_three_dimensions(compare: Compare) -> None:
    # Gradient (3, -4, 12) Gy/cm, 13 Gy/cm long: 2 / sqrt(1.8^2 + (13 x 0.2)^2) = 0.63246.
    one, other = (volume_of(lambda x, y, z, a=a: a + 3 * x - 4 * y + 12 * z) for a in (40, 38))
    result = compare(one, other, normalisation_gy=60)
    assert result.gamma.values[3:-3, 3:-3, 3:-3] == pytest.approx(0.63246, abs=CLOSE)


def test_a_shifted_steep_edge_shows_the_shift(compare: Compare) -> None:
    # 200 Gy/cm along (2, 3, 6) / 7, moved by 0.15 cm: 0.15 / sqrt((1.8 / 200)^2 + 0.2^2) = 0.74924.
    one, other = (volume_of(lambda x, y, z, a=a: 900 + 200 * ((2 * x + 3 * y + 6 * z) / 7 - a)) for a in (0, 0.15))
    result = compare(one, other, normalisation_gy=60)
    # float32 knows 1500 Gy to 1e-4 Gy only
    assert result.gamma.values[3:-3, 3:-3, 3:-3] == pytest.approx(0.74924, abs=CLOSE + 1e-4)


def test_a_saddle_is_not_mistaken_for_a_minimum(compare: Compare) -> None:
    # D = X Y on (-1, 1)^2 seen from its middle at 0.8 Gy with 1 Gy / 1 cm: the gradient there is zero, and the least of
    # w / 2 + (w - 0.8)^2 on X = Y, w = X^2, is 0.3375 at w = 0.55: sqrt(0.3375) = 0.58095.
    evaluated = Volume(Grid((0, 0, 0), (1, 1, 1), (2, 2, 2)), np.array([[[1, -1], [-1, 1]]] * 2, np.float32))
    reference = Volume(Grid((0.5, 0.5, 0.5), (1, 1, 1), (1, 1, 1)), np.full((1, 1, 1), 0.8))
    result = compare(reference, evaluated, dose_percent=100, distance_cm=1, normalisation_gy=1)
    assert result.values == pytest.approx([0.58095], abs=CLOSE)


def test_local_criteria_follow_the_dose(compare: Compare) -> None:
    # 0.36 Gy more than 18 Gy: of 3 % of 60 Gy that is 0.2; of 3 % of 18 Gy it is 0.6667.
    one, other = volume_of(lambda x, y, z: 18), volume_of(lambda x, y, z: 18.36)
    assert compare(one, other, normalisation_gy=60).values == pytest.approx(0.2, abs=CLOSE)
    assert compare(one, other, normalisation_gy=60, is_local=True).values == pytest.approx(0.66667, abs=CLOSE)


def test_the_search_ends_at_the_edge_of_the_evaluated_dose(compare: Compare) -> None:
    # In the first plane of two ramps the nearest point lies outside; on the edge the difference is 1.5 Gy: 0.83333.
    one, other = (volume_of(lambda x, y, z, a=a: a + 6 * x) for a in (40, 41.5))
    result = compare(one, other, normalisation_gy=60)
    assert result.gamma.values[6, 6, 0] == pytest.approx(0.83333, abs=CLOSE)
    assert result.gamma.values[6, 6, 1] == pytest.approx(0.69338, abs=CLOSE)


def test_grids_may_differ_in_everything_and_lie_far_away(compare: Compare) -> None:
    # One linear dose on two grids 50 cm from the origin, evaluated only where both are.
    def dose(x: Any, y: Any, z: Any) -> Any:
        return 30 + 2 * (x - 50) - 3 * (y + 50) + 4 * z

    reference = volume_of(dose, (11, 12, 13), (0.21, 0.17, 0.3), (50.05, -50.0, 0.02))
    grid = ((7, 21, 15), (0.33, 0.125, 0.5), (49.6, -50.3, 0.1))
    result = compare(reference, volume_of(dose, *grid), threshold_percent=0)
    assert result.maximum < 2e-5
    assert 0 < result.points < reference.values.size and result.points_outside > 0
    moved = compare(reference, volume_of(lambda *p: dose(*p) + 1.0, *grid), normalisation_gy=60)
    # gradient sqrt(29) Gy/cm: 1 / sqrt(1.8^2 + 29 x 0.04) = 0.47673
    assert moved.gamma.values[4:-4, 4:-4, 4:-4] == pytest.approx(0.47673, abs=CLOSE)


def test_noise_is_searched_to_the_end(compare: Compare) -> None:
    # Noise of 6 criteria from voxel to voxel halves cells often; a search ten times as exact finds at most 1e-4 less.
    rng = np.random.default_rng(3)
    one, other = (
        Volume(Grid((0, 0, 0), (0.1, 0.1, 0.1), (8, 9, 10)), (50 + rng.normal(0, 5, (8, 9, 10))).astype(np.float32))
        for _ in range(2)
    )
    options = {"normalisation_gy": 30.0, "threshold_percent": 0.0}
    excess = compare(one, other, **options).values - compare(one, other, **options, accuracy=1e-5).values
    assert np.abs(excess).max() <= CLOSE


def test_an_accuracy_beyond_single_precision_is_refused_or_kept(compare: Compare, backend: Backend) -> None:
    one, other = volume_of(lambda x, y, z: 60), volume_of(lambda x, y, z: 60.9)
    if backend.name == "cpu":
        assert compare(one, other, accuracy=1e-7).values == pytest.approx(0.5, abs=2e-5)
    else:
        with pytest.raises(InvalidInput, match="single precision"):
            compare(one, other, accuracy=1e-7)
