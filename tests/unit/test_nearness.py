"""Distances of voxels from cords and targets."""

from __future__ import annotations

import numpy as np
import pytest

from spinedose.grid import Grid
from spinedose.nearness import FAR_CM, around, distances, in_words, is_cord, is_target, targets_and_cords
from spinedose.structures import Structure, StructureSet

GRID = Grid((0.05, 0.05, 0.1), (0.1, 0.1, 0.2), (20, 60, 80))


def _box(name: str, low: tuple[float, ...], high: tuple[float, ...], **more: object) -> Structure:
    heights = np.arange(low[2] + 0.1, high[2], 0.2)
    corners = [(low[0], low[1]), (high[0], low[1]), (high[0], high[1]), (low[0], high[1])]
    contours = tuple(np.array([(x, y, h) for x, y in corners]) for h in heights)
    return Structure(1, name, contours_cm=contours, contour_spacing_cm=0.2, **more)  # type: ignore[arg-type]


class TestNames:
    @pytest.mark.parametrize(
        "name", ["SpinalCord", "cord", "Spinal_Cord_PRV", "CaudaEquina", "PRV_Canal", "thecal sac", "SpinalCanal"]
    )
    def test_cords(self, name: str) -> None:
        assert is_cord(Structure(1, name))

    @pytest.mark.parametrize("name", ["Vocal cords", "AnalCanal", "Anal Canal", "Kidney", "PTV-Cord", "Record"])
    def test_no_cords(self, name: str) -> None:
        assert not is_cord(Structure(1, name))

    @pytest.mark.parametrize(("name", "type"), [("L3", "PTV"), ("L3", "GTV"), ("PTV1", ""), ("ctv_L3", "ORGAN")])
    def test_targets(self, name: str, type: str) -> None:
        assert is_target(Structure(1, name, type))

    def test_no_targets(self) -> None:
        assert not is_target(Structure(1, "zPTV", "CONTROL"))
        assert not is_target(Structure(1, "Cord", "ORGAN"))

    def test_what_has_no_volume_is_left_out(self) -> None:
        plane = Structure(1, "PTV", "PTV", (np.array([(0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (1.0, 1.0, 0.0)]),))
        assert targets_and_cords(StructureSet((Structure(2, "Cord"), plane))) == []
        assert targets_and_cords(None) == []


class TestDistances:
    def test_of_two_structures(self) -> None:
        """A voxel at x = 2.05; the cord ends at x = 1.6 (its last centre at 1.55), the target holds the voxel."""
        cord = _box("SpinalCord", (1.0, 1.0, 0.0), (1.6, 2.0, 4.0))
        target = _box("PTV", (1.8, 1.0, 0.0), (3.0, 2.0, 4.0))
        found = distances(np.array([[10, 15, 20]]), GRID, [cord, target])
        assert found == (("PTV", 0.0), ("SpinalCord", pytest.approx(0.5)))
        assert in_words(found) == "0 mm from 'PTV', 5 mm from 'SpinalCord'"

    def test_along_z_with_the_slice_thickness(self) -> None:
        cord = _box("cord", (1.0, 1.0, 0.0), (2.0, 2.0, 1.0))  # slices 0 to 4
        assert distances(np.array([[8, 15, 15]]), GRID, [cord]) == (("cord", pytest.approx(4 * 0.2)),)

    def test_of_many_voxels_the_nearest_counts(self) -> None:
        cord = _box("cord", (1.0, 1.0, 0.0), (2.0, 2.0, 1.0))
        voxels = np.array([[2, 15, 70], [2, 15, 25], [2, 40, 40]])
        assert distances(voxels, GRID, [cord]) == (("cord", pytest.approx(2.55 - 1.95)),)

    def test_far_ones_are_left_out(self) -> None:
        cord = _box("cord", (0.2, 0.2, 0.0), (0.6, 0.6, 4.0))
        far = np.array([[5, 30, 75]])
        assert distances(far, GRID, [cord]) == ()
        assert distances(far, GRID, [cord], limit_cm=10.0) != ()
        assert FAR_CM < 7

    def test_without_voxels_there_is_nothing(self) -> None:
        assert distances(np.zeros((0, 3), dtype=np.intp), GRID, [_box("cord", (0, 0, 0), (1, 1, 1))]) == ()

    def test_the_box_around(self) -> None:
        part = around([_box("cord", (1.0, 1.0, 1.0), (2.0, 2.0, 2.0))], GRID, 0.5)
        assert part == (slice(2, 13), slice(5, 25), slice(5, 25))
        assert around([], GRID, 0.5) == (slice(0, 0), slice(0, 0), slice(0, 0))
