"""Named materials: what may be asked for, and regions with a moved surface."""

from __future__ import annotations

import numpy as np
import pytest

from spinedose.assignments import Assignment, grown
from spinedose.errors import InvalidInput

SPACING = (0.1, 0.1, 0.2)


class TestAssignment:
    def test_has_the_nominal_densities(self) -> None:
        rod = Assignment("Ti", structure="ROD")
        assert (rod.made_of.name, rod.region) == ("titanium", "ROD")
        # Z/A of titanium 22 / 47.867, of water 0.555093
        assert rod.densities == (4.54, pytest.approx(4.54 * 22 / 47.867 / 0.555093, rel=1e-4))
        assert Assignment("titanium", above_hu=2500).region == "> 2500 HU"

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ({"material": "unobtainium", "structure": "ROD"}, "no material 'unobtainium'"),
            ({"material": "titanium"}, "neither was given"),
            ({"material": "titanium", "structure": "ROD", "above_hu": 2500.0}, "both were given"),
            ({"material": "titanium", "above_hu": 0.0}, "most of the patient"),
            ({"material": "titanium", "above_hu": float("nan")}, "most of the patient"),
            ({"material": "titanium", "above_hu": 2500.0, "grow_cm": 1.5}, "grow by 15 mm"),
            ({"material": "titanium", "above_hu": 2500.0, "grow_cm": float("nan")}, "grow by nan mm"),
        ],
    )
    def test_refuses_what_makes_no_sense(self, arguments: dict[str, object], words: str) -> None:
        with pytest.raises(InvalidInput, match=words):
            Assignment(**arguments)  # type: ignore[arg-type]


class TestGrown:
    """A block of 3 x 5 x 5 voxels (z, y, x) of 2 x 1 x 1 mm in the middle of 9 x 11 x 11."""

    @staticmethod
    def _block() -> np.ndarray:
        region = np.zeros((9, 11, 11), dtype=bool)
        region[3:6, 3:8, 3:8] = True
        return region

    @pytest.mark.parametrize(
        ("grow_cm", "along_x", "along_z"),
        [(0.0, 5, 3), (0.1, 7, 3), (0.14, 7, 3), (0.16, 9, 5), (-0.1, 3, 3), (-0.2, 1, 1), (-0.3, 0, 0)],
    )
    def test_moves_the_surface_by_whole_voxels(self, grow_cm: float, along_x: int, along_z: int) -> None:
        """Centres lie 0.5 mm inside the surface (the half of the shortest side), 1 or 2 mm apart."""
        moved = grown(self._block(), SPACING, grow_cm)
        assert moved[4, 5].sum() == along_x
        assert moved[:, 5, 5].sum() == along_z

    def test_there_and_back(self) -> None:
        block = self._block()
        np.testing.assert_array_equal(grown(grown(block, SPACING, 0.1), SPACING, -0.1), block)

    def test_a_region_at_the_rim_shrinks_there_too(self) -> None:
        moved = grown(np.ones((3, 5, 5), dtype=bool), SPACING, -0.1)
        assert moved[1].sum() == 9

    def test_nothing_stays_nothing(self) -> None:
        assert not grown(np.zeros((3, 3, 3), dtype=bool), SPACING, 0.3).any()
