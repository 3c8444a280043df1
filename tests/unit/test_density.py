"""Matter: the curve, overrides, the outline of the body, and resampling that loses no mass."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from made_up import ROUND_CURVE as CURVE
from spinedose.assignments import Assignment
from spinedose.density import (
    Body,
    CtImage,
    DensityGrid,
    HuCurve,
    build_density,
    calculation_grid,
    find_body,
    list_curves,
    read_curve,
)
from spinedose.errors import BeamDataError, InvalidInput
from spinedose.grid import Grid, Volume
from spinedose.structures import Structure, StructureSet

MASS_TOLERANCE = 1e-6
"""Relative; sums run in float64, results are stored as float32 (6e-8 a voxel, and errors average)."""


def _everywhere(ct: CtImage) -> Body:
    return Body(Volume(ct.hu.grid, np.ones(ct.hu.grid.shape, dtype=bool)), "all of it")


def _box(name: str, low: tuple[float, ...], high: tuple[float, ...], dz: float, **more: object) -> Structure:
    """A cuboid drawn as rectangles in the middles of slices of thickness dz [cm]."""
    heights = np.arange(low[2] + dz / 2, high[2], dz)
    corners = [(low[0], low[1]), (high[0], low[1]), (high[0], high[1]), (low[0], high[1])]
    contours = tuple(np.array([(x, y, h) for x, y in corners]) for h in heights)
    return Structure(1, name, contours_cm=contours, contour_spacing_cm=dz, **more)  # type: ignore[arg-type]


def _water(
    shape: tuple[int, int, int] = (10, 20, 20), spacing: tuple[float, float, float] = (0.2, 0.2, 0.4)
) -> CtImage:
    """Water (0 HU) with its lower corner at (0, 0, 0)."""
    origin = tuple(0.5 * s for s in spacing)
    return CtImage(Volume(Grid(origin, spacing, shape), np.zeros(shape, dtype=np.int16)))  # type: ignore[arg-type]


class TestCurve:
    def test_passes_through_its_points_and_bends_there(self) -> None:
        mass, electron = CURVE.densities(np.array([-1000, -500, 0, 1, 1000, 2000], dtype=np.int16))
        np.testing.assert_allclose(mass, [0.001, 0.5005, 1.0, 1.001, 2.0, 3.0], rtol=1e-6)
        np.testing.assert_allclose(electron, [0.001, 0.5005, 1.0, 1.00085, 1.85, 2.7], rtol=1e-6)

    @pytest.mark.parametrize("kind", [np.int16, np.int32, np.uint16, np.float32, np.float64])
    def test_stays_at_its_ends(self, kind: type) -> None:
        mass, _ = CURVE.densities(np.array([2000, 2001, 3071, 30000], dtype=kind))
        np.testing.assert_allclose(mass, 3.0, rtol=1e-6)
        if kind is not np.uint16:
            np.testing.assert_allclose(CURVE.densities(np.array([-1001, -30000], dtype=kind))[0], 0.001, rtol=1e-6)

    @given(st.lists(st.floats(-3000, 5000, width=32), min_size=1, max_size=50))
    def test_fractional_ct_numbers_interpolate_as_numpy_does(self, hu: list[float]) -> None:
        mass, electron = CURVE.densities(np.array(hu))
        np.testing.assert_allclose(mass, np.interp(hu, CURVE.hu, CURVE.mass_density), rtol=2e-5, atol=1e-6)
        np.testing.assert_allclose(electron, np.interp(hu, CURVE.hu, CURVE.electron_density), rtol=2e-5, atol=1e-6)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"hu": [-1000, 0, 0]}, "does not rise"),
            ({"hu": [-1000, 0.5, 2000]}, "not whole"),
            ({"mass_density": [0.001, 1.0]}, "another number"),
            ({"mass_density": [0.001, 1.0, np.nan]}, "not a number"),
            ({"mass_density": [-0.001, 1.0, 3.0]}, "negative"),
            ({"electron_density": [0.001, 1.0, 4.0]}, "swapped"),
            ({"provenance": " "}, "no provenance"),
        ],
    )
    def test_refuses_what_is_no_curve(self, change: dict[str, object], words: str) -> None:
        parts: dict[str, object] = {"name": "bad", "hu": [-1000, 0, 2000], "mass_density": [0.001, 1.0, 3.0]}
        parts |= {"electron_density": [0.001, 1.0, 2.7], "provenance": "test"} | change
        with pytest.raises(BeamDataError, match=words):
            HuCurve(**parts)  # type: ignore[arg-type]


# Percent by weight of H C N O Na Mg P S Cl Ar K Ca: tissue classes of Schneider et al. (2000).
TISSUES = {
    -1000: (0, 0, 75.5, 23.2, 0, 0, 0, 0, 0, 1.3, 0, 0),
    -700: (10.3, 10.5, 3.1, 74.9, 0.2, 0, 0.2, 0.3, 0.3, 0, 0.2, 0),
    -200: (10.3, 10.5, 3.1, 74.9, 0.2, 0, 0.2, 0.3, 0.3, 0, 0.2, 0),
    -98: (11.6, 68.1, 0.2, 19.8, 0.1, 0, 0, 0.1, 0.1, 0, 0, 0),
    40: (10.3, 13.4, 3.0, 72.3, 0.2, 0, 0.2, 0.2, 0.2, 0, 0.2, 0),
    101: (9.5, 45.5, 2.5, 35.5, 0.1, 0, 2.1, 0.1, 0.1, 0, 0.1, 4.5),
    400: (7.6, 36.1, 3.0, 38.0, 0.1, 0.1, 4.7, 0.2, 0.1, 0, 0, 10.1),
    800: (5.6, 26.5, 3.6, 40.5, 0.1, 0.2, 7.3, 0.3, 0, 0, 0, 15.9),
    1200: (4.2, 19.4, 4.0, 42.5, 0.1, 0.2, 9.2, 0.3, 0, 0, 0, 20.1),
    1600: (3.4, 15.5, 4.2, 43.5, 0.1, 0.2, 10.3, 0.3, 0, 0, 0, 22.5),
    3000: (3.4, 15.5, 4.2, 43.5, 0.1, 0.2, 10.3, 0.3, 0, 0, 0, 22.5),
}
NUMBER = np.array([1, 6, 7, 8, 11, 12, 15, 16, 17, 18, 19, 20])
WEIGHT = np.array([1.008, 12.011, 14.007, 15.999, 22.990, 24.305, 30.974, 32.06, 35.45, 39.948, 39.098, 40.078])


class TestGenericCurve:
    def test_is_listed_and_says_that_it_is_generic(self) -> None:
        assert "generic" in list_curves()
        assert read_curve().is_generic

    def test_water_and_air(self) -> None:
        mass, electron = read_curve().densities(np.array([0, -1000, -1024]))
        np.testing.assert_allclose(mass, [1.0, 0.00121, 0.00121], rtol=1e-6)
        np.testing.assert_allclose(electron, [1.0, 0.00109, 0.00109], rtol=1e-6)

    def test_mass_lies_on_the_published_line(self) -> None:
        """Linear relations of Schneider et al. (2000), doi 10.1088/0031-9155/45/2/314, away from water."""
        hu = np.array([-900, -500, -300, 300, 700, 1500])
        lung = 0.00121 + (hu + 1000) * (0.93 - 0.00121) / 902
        bone = 1.0762 + (hu - 101) * (1.9642 - 1.0762) / 1499
        np.testing.assert_allclose(read_curve().densities(hu)[0], np.where(hu < 0, lung, bone), rtol=2e-4)

    @pytest.mark.parametrize("hu", TISSUES)
    def test_electron_density_follows_from_the_elements(self, hu: int) -> None:
        share = np.array(TISSUES[hu]) / sum(TISSUES[hu])
        electrons_per_gram = float(np.sum(share * NUMBER / WEIGHT))
        water = 10 / (2 * 1.008 + 15.999)
        mass, electron = read_curve().densities(np.array([hu]))
        assert electron[0] / mass[0] == pytest.approx(electrons_per_gram / water, rel=2e-3)  # printed to 4 digits

    def test_every_curve_is_tested_above(self) -> None:
        assert list_curves() == ("generic",)
        assert set(read_curve().hu) == {*TISSUES, 0}


class TestReadCurve:
    GOOD = """
        [curve]
        name = "ours"
        generic = false
        doubtful_above_hu = 2000
        points = [
          { hu = -1000, mass_density_g_cm3 = 0.001, relative_electron_density = 0.001 },
          { hu = 0, mass_density_g_cm3 = 1.0, relative_electron_density = 1.0 },
        ]
        [provenance]
        source = "measured"
    """

    def test_reads_a_file(self, tmp_path: Path) -> None:
        file = tmp_path / "ours.toml"
        file.write_text(self.GOOD)
        curve = read_curve(file)
        assert (curve.name, curve.is_generic, curve.last_hu, curve.doubtful_above_hu) == ("ours", False, 0.0, 2000.0)

    @pytest.mark.parametrize(
        ("old", "new", "words"),
        [
            ("[curve]", "[curve", "is wrong"),
            ("generic = false", "", "has no 'generic'"),
            ("hu = 0", "hu = 'zero'", "is wrong"),
            ('source = "measured"', "", "no provenance"),
            ("hu = 0", "hu = -1000", "does not rise"),
        ],
    )
    def test_refuses_a_wrong_file(self, tmp_path: Path, old: str, new: str, words: str) -> None:
        file = tmp_path / "bad.toml"
        assert old in self.GOOD
        file.write_text(self.GOOD.replace(old, new))
        with pytest.raises(BeamDataError, match=re.escape(words)):
            read_curve(file)

    def test_names_what_there_is_instead(self) -> None:
        with pytest.raises(BeamDataError, match=r"Name one that spinedose has \(generic\)"):
            read_curve("nonsense")


class TestOverrides:
    @pytest.mark.parametrize(
        ("relative", "mass", "electron", "warns"),
        [
            ({"relative_mass_density": 1.3, "relative_electron_density": 1.25}, 1.3, 1.25, False),
            ({"relative_mass_density": 2.0}, 2.0, 1.85, False),  # on the curve, half way to the last point
            ({"relative_electron_density": 1.85}, 2.0, 1.85, False),
            ({"relative_mass_density": 0.0}, 0.0, 0.0, False),
            ({"relative_electron_density": 0.0005}, 0.0005, 0.0005, False),  # thinner than air: in proportion
            # Titanium: 4.5 g/cm3 * 0.460 / 0.555093 = 3.729
            ({"relative_mass_density": 4.5}, 4.5, 3.729, True),
            ({"relative_electron_density": 3.729}, 4.5, 3.729, True),
        ],
    )
    def test_complete(self, relative: dict[str, float], mass: float, electron: float, warns: bool) -> None:
        found_mass, found_electron, warning = CURVE.complete(Structure(1, "Rod", **relative))  # type: ignore[arg-type]
        assert found_mass == pytest.approx(mass, rel=1e-3)
        assert found_electron == pytest.approx(electron, rel=1e-3)
        assert bool(warning) == warns
        assert not warns or "'Rod'" in warning

    def test_half_covered_voxels_get_half(self) -> None:
        ct = _water()
        # x from 0.9 to 1.5 covers half of voxel 4 (0.8-1.0), voxels 5 and 6, and half of voxel 7 (1.4-1.6)
        rod = _box(
            "rod", (0.9, 0.0, 0.0), (1.5, 4.0, 4.0), 0.4, relative_mass_density=3.0, relative_electron_density=2.7
        )
        found = build_density(ct, ct.hu.grid, body=_everywhere(ct), curve=CURVE, structures=StructureSet((rod,)))
        np.testing.assert_allclose(found.mass.values[5, 7, 3:9], [1, 2, 3, 3, 2, 1], rtol=1e-6)
        np.testing.assert_allclose(found.electron.values[5, 7, 3:9], [1, 1.85, 2.7, 2.7, 1.85, 1], rtol=1e-6)
        assert found.overrides == (("rod", pytest.approx(0.6 * 4 * 4)),)
        assert found.warnings == ()

    def test_the_smaller_wins_and_the_outline_counts_first(self) -> None:
        ct = _water()
        big = _box("big", (0.4, 0.4, 0), (3.6, 3.6, 4), 0.4, relative_mass_density=2.0, relative_electron_density=1.85)
        small = _box(
            "small", (1.6, 1.6, 0), (2.4, 2.4, 4), 0.4, relative_mass_density=3.0, relative_electron_density=2.7
        )
        out = _box("out", (0, 0, 0), (4, 4, 4), 0.4, type="EXTERNAL", relative_mass_density=0.5)
        both = StructureSet((small, big, out))
        found = build_density(ct, ct.hu.grid, body=find_body(ct, both), curve=CURVE, structures=both)
        np.testing.assert_allclose(found.mass.values[3, 10, [0, 4, 10]], [0.5, 2.0, 3.0], rtol=1e-6)
        assert any("'big' and 'small' overlap in 2.56 cm3" in text for text in found.warnings)

    def test_only_couch_bolus_and_fixation_count_outside_the_body(self) -> None:
        ct = _water()
        body = _box("body", (0, 0, 0), (2.0, 4, 4), 0.4, type="EXTERNAL")
        couch = _box("couch", (3.0, 0, 0), (4.0, 4, 4), 0.4, type="SUPPORT", relative_mass_density=0.5)
        stray = _box("stray", (2.2, 0, 0), (2.6, 4, 4), 0.4, type="ORGAN", relative_mass_density=0.7)
        hollow = _box("hollow", (2.6, 0, 0), (2.8, 4, 4), 0.4, type="SUPPORT")
        bolus = _box("bolus", (2.0, 0, 0), (2.2, 4, 4), 0.4, type="BOLUS")
        every = StructureSet((body, couch, stray, hollow, bolus))
        found = build_density(ct, ct.hu.grid, body=find_body(ct, every), curve=CURVE, structures=every)
        # voxels of 0.2 cm: body 0-9, bolus 10 (the CT's water), stray 11-12, hollow 13, nothing 14, couch 15-19
        expected = [1.0] * 10 + [1.0] + [0.0] * 4 + [0.5] * 5
        np.testing.assert_allclose(found.mass.values[4, 9], expected, atol=1e-6)
        assert sum("'hollow' has no density" in text for text in found.warnings) == 1
        assert sum("'bolus' has no density" in text for text in found.warnings) == 1

    @pytest.mark.parametrize(("edge", "warns"), [(3.0, False), (3.08, False), (3.12, True), (4.0, True)])
    def test_warns_when_the_body_cuts_off_a_part(self, edge: float, warns: bool) -> None:
        """The body ends at x = 3; of an override from 1 to `edge` the share (edge - 3) / (edge - 1) is lost."""
        ct = _water()
        body = _box("body", (0, 0, 0), (3.0, 4, 4), 0.4, type="EXTERNAL")
        rod = _box("rod", (1.0, 1, 0), (edge, 2, 4), 0.4, relative_mass_density=2.0)
        both = StructureSet((body, rod))
        warnings = build_density(ct, ct.hu.grid, body=find_body(ct, both), curve=CURVE, structures=both).warnings
        text = f"The density override of 'rod' counts in 8 of its {4 * (edge - 1):.3g} cm3"
        assert any(text in warning for warning in warnings) == warns
        assert any("'rod' counts" in warning for warning in warnings) == warns

    def test_a_coarse_ct_takes_nothing_from_an_override_within_the_body(self) -> None:
        """Overrides count by the exact share of each voxel, so that voxels of 1 cm keep a rod of 3 mm."""
        ct = _water((6, 6, 6), (1.0, 1.0, 1.0))
        body = _box("body", (0, 0, 0), (6, 6, 6), 1.0, type="EXTERNAL")
        rod = _box("rod", (2.4, 2.2, 1), (2.7, 2.5, 5), 1.0, relative_mass_density=2.0)
        both = StructureSet((body, rod))
        found = build_density(ct, ct.hu.grid, body=find_body(ct, both), curve=CURVE, structures=both)
        assert found.overrides == (("rod", pytest.approx(0.3 * 0.3 * 4)),)
        assert not any("'rod' counts" in warning for warning in found.warnings)

    def test_a_bolus_without_density_changes_nothing_inside_the_body(self) -> None:
        ct = _water()
        body = _box("body", (0, 0, 0), (2.0, 4, 4), 0.4, type="EXTERNAL")
        organ = _box("organ", (1.0, 0, 0), (2.0, 4, 4), 0.4, relative_mass_density=2.0)
        bolus = _box("bolus", (1.6, 0, 0), (2.4, 4, 4), 0.4, type="BOLUS")
        every = StructureSet((body, organ, bolus))
        found = build_density(ct, ct.hu.grid, body=find_body(ct, every), curve=CURVE, structures=every)
        np.testing.assert_allclose(found.mass.values[4, 9, [4, 5, 9, 10, 11, 12]], [1, 2, 2, 1, 1, 0], atol=1e-6)

    def test_the_outline_counts_first_even_when_it_is_small(self) -> None:
        ct = _water()
        body = _box("body", (0, 0, 0), (1.0, 4, 4), 0.4, type="EXTERNAL", relative_mass_density=0.5)
        couch = _box("couch", (0.6, 0, 0), (4.0, 4, 4), 0.4, type="SUPPORT", relative_mass_density=2.0)
        every = StructureSet((couch, body))
        found = build_density(ct, ct.hu.grid, body=find_body(ct, every), curve=CURVE, structures=every)
        np.testing.assert_allclose(found.mass.values[4, 9, [0, 2, 3, 4, 5]], [0.5, 0.5, 2, 2, 2], atol=1e-6)


class TestTopOfTheScale:
    def _ct(self, highest: int = 3071, saturated: int = 0) -> CtImage:
        ct = _water()
        hu = ct.hu.values.copy()
        hu[2, 3, 4:7] = highest
        hu[2, 5, 5] = 1450
        return CtImage(Volume(ct.hu.grid, hu), saturated_voxels=saturated)

    def test_is_counted_and_warned(self) -> None:
        ct = self._ct()
        found = build_density(ct, ct.hu.grid, body=_everywhere(ct), curve=CURVE)
        assert found.saturated_cm3 == pytest.approx(3 * 0.2 * 0.2 * 0.4)
        assert found.mass.values[2, 3, 5] == pytest.approx(3.0)  # the last point, nothing beyond
        assert "0.048 cm3 of the body have CT numbers above 2000 HU" in found.warnings[0]

    def test_an_override_answers_it(self) -> None:
        ct = self._ct()
        metal = {"relative_mass_density": 4.5, "relative_electron_density": 3.73}
        rod = _box("rod", (0.8, 0.6, 0.8), (1.4, 0.8, 1.2), 0.4, **metal)
        found = build_density(ct, ct.hu.grid, body=_everywhere(ct), curve=CURVE, structures=StructureSet((rod,)))
        assert found.saturated_cm3 == 0
        (warning,) = found.warnings
        assert "'rod' has the density of a metal (4.5 g/cm3) without its name" in warning
        assert found.mass.values[2, 3, 5] == pytest.approx(4.5)

    def test_metal_that_fills_a_voxel_partly_explains_its_ct_number(self) -> None:
        """Of the three voxels at 3071 HU (x 0.8-1.4 cm) the rod fills one, half of the next, and not the third."""
        ct = self._ct()
        metal = {"relative_mass_density": 4.5, "relative_electron_density": 3.73}
        rod = _box("rod", (0.8, 0.6, 0.8), (1.1, 0.8, 1.2), 0.4, **metal)
        found = build_density(ct, ct.hu.grid, body=_everywhere(ct), curve=CURVE, structures=StructureSet((rod,)))
        np.testing.assert_allclose(found.mass.values[2, 3, 3:8], [1, 4.5, (4.5 + 1) / 2, 3, 1], rtol=1e-6)
        np.testing.assert_allclose(found.electron.values[2, 3, 3:8], [1, 3.73, (3.73 + 1) / 2, 2.7, 1], rtol=1e-6)
        assert found.saturated_cm3 == pytest.approx(0.2 * 0.2 * 0.4)
        assert any("0.008 cm3 at the rim of metal" in text for text in found.warnings)

    def test_an_override_by_tissue_does_not_explain_it(self) -> None:
        ct = self._ct()
        bone = _box("bone", (0.8, 0.6, 0.8), (1.1, 0.8, 1.2), 0.4, relative_mass_density=1.5)
        found = build_density(ct, ct.hu.grid, body=_everywhere(ct), curve=CURVE, structures=StructureSet((bone,)))
        np.testing.assert_allclose(found.mass.values[2, 3, 3:8], [1, 1.5, (1.5 + 3) / 2, 3, 1], rtol=1e-6)
        assert found.saturated_cm3 == pytest.approx(1.5 * 0.2 * 0.2 * 0.4)

    def test_a_scale_that_ends_below_the_curve(self) -> None:
        ct = self._ct(highest=1500, saturated=3)
        found = build_density(ct, ct.hu.grid, body=_everywhere(ct), curve=CURVE)
        assert found.saturated_cm3 == pytest.approx(3 * 0.2 * 0.2 * 0.4)
        ct = self._ct(highest=1500)
        assert build_density(ct, ct.hu.grid, body=_everywhere(ct), curve=CURVE).saturated_cm3 == 0

    def test_outside_the_body_it_does_not_matter(self) -> None:
        ct = self._ct()
        inside = np.ones(ct.hu.grid.shape, dtype=bool)
        inside[2] = False
        found = build_density(ct, ct.hu.grid, body=Body(Volume(ct.hu.grid, inside), "part"), curve=CURVE)
        assert found.saturated_cm3 == 0
        assert not found.mass.values[2].any()

    def test_teeth_or_metal_below_the_end_are_reported(self) -> None:
        ct = self._ct()
        parts = {name: getattr(CURVE, name) for name in ("hu", "mass_density", "electron_density", "provenance")}
        curve = HuCurve("doubtful", doubtful_above_hu=1400, is_generic=True, **parts)
        found = build_density(ct, ct.hu.grid, body=_everywhere(ct), curve=curve)
        assert sum("0.016 cm3 of the body have CT numbers above 1400 HU" in text for text in found.warnings) == 1
        assert sum("not measured on the CT scanner" in text for text in found.warnings) == 1
        pin = _box("pin", (1.0, 1.0, 0.8), (1.2, 1.2, 1.2), 0.4, relative_mass_density=2.0)
        found = build_density(ct, ct.hu.grid, body=_everywhere(ct), curve=curve, structures=StructureSet((pin,)))
        assert not any("above 1400 HU" in text for text in found.warnings)


# Muscle's electrons per gram up to 0 HU, and cortical bone's at 2000 HU.
TISSUE = HuCurve(
    name="tissue",
    hu=np.array([-1000.0, 0.0, 2000.0]),
    mass_density=np.array([0.001, 1.0, 1.92]),
    electron_density=np.array([0.001, 0.99, 1.92 * 0.9274]),
    provenance="made up for this test",
)


def _names(found: DensityGrid) -> np.ndarray:
    """Name of the material of each voxel."""
    return np.array([m.name for m in found.materials])[found.material.values]


class TestMaterials:
    TITANIUM = (4.54, 4.54 * 22 / 47.867 / 0.555093)

    def _ct(self, **runs: tuple[slice, int]) -> CtImage:
        """Water with CT numbers along x in row 9 of slice 4."""
        hu = np.zeros((10, 20, 20), dtype=np.int16)
        for where, value in runs.values():
            hu[4, 9, where] = value
        return CtImage(Volume(Grid((0.1, 0.1, 0.2), (0.2, 0.2, 0.4), hu.shape), hu))

    def test_soft_tissue_lung_and_air_are_water(self) -> None:
        ct = self._ct(lung=(slice(0, 5), -700), air=(slice(5, 8), -1000), soft=(slice(10, 12), 40))
        found = build_density(ct, ct.hu.grid, body=_everywhere(ct), curve=TISSUE)
        assert [m.name for m in found.materials] == ["water"]
        assert not found.material.values.any()

    def test_bone_follows_from_electrons_per_gram(self) -> None:
        ct = self._ct(bone=(slice(0, 5), 2000), half=(slice(10, 15), 700))
        found = build_density(ct, ct.hu.grid, body=_everywhere(ct), curve=TISSUE)
        names = _names(found)[4, 9]
        assert names[2] == "bone-100%"
        # 1.322 g/cm3 with 0.99 + 0.35 * (1.7806 - 0.99) = 1.2667: 0.9582 a gram; (0.9908 - 0.9582) / 0.0634 = 0.515
        assert names[12] == "bone-50%"
        assert names[18] == "water"

    def test_a_structure_of_a_named_material_has_its_density(self) -> None:
        ct = self._ct(rod=(slice(5, 8), 3071))
        rod = _box("ROD", (1.0, 1.8, 1.6), (1.6, 2.0, 2.0), 0.4)
        found = build_density(
            ct,
            ct.hu.grid,
            body=_everywhere(ct),
            curve=CURVE,
            structures=StructureSet((rod,)),
            assignments=(Assignment("titanium", structure="ROD"),),
        )
        np.testing.assert_allclose(found.mass.values[4, 9, 4:9], [1, 4.54, 4.54, 4.54, 1], rtol=1e-6)
        np.testing.assert_allclose(found.electron.values[4, 9, 5], self.TITANIUM[1], rtol=1e-4)
        assert list(_names(found)[4, 9, 4:9]) == ["water", *["titanium"] * 3, "water"]
        assert found.saturated_cm3 == 0
        assert found.overrides == (("ROD", pytest.approx(0.6 * 0.2 * 0.4)),)
        assert found.warnings == ()

    def test_a_named_material_counts_above_the_plans_density(self) -> None:
        ct = self._ct()
        rod = _box("ROD", (1.0, 1.8, 1.6), (1.6, 2.0, 2.0), 0.4, relative_mass_density=3.5)
        inside = _box("core", (1.2, 1.8, 1.6), (1.4, 2.0, 2.0), 0.4, relative_mass_density=1.0)
        found = build_density(
            ct,
            ct.hu.grid,
            body=_everywhere(ct),
            curve=CURVE,
            structures=StructureSet((inside, rod)),
            assignments=(Assignment("CoCr", structure="ROD"),),
        )
        np.testing.assert_allclose(found.mass.values[4, 9, 5:8], 8.3, rtol=1e-6)
        assert any("'ROD' in the plan gives way to 'cobalt-chrome'" in text for text in found.warnings)
        assert any("'ROD' counts, which has a named material" in text for text in found.warnings)

    @pytest.mark.parametrize(
        ("density", "named"),
        [(3.0, "bone-100%"), (3.5, "titanium"), (4.43, "titanium"), (7.9, "cobalt-chrome"), (8.3, "cobalt-chrome")],
    )
    def test_metal_without_a_name_goes_by_its_density(self, density: float, named: str) -> None:
        ct = self._ct()
        rod = _box("rod", (1.0, 1.8, 1.6), (1.6, 2.0, 2.0), 0.4, relative_mass_density=density)
        found = build_density(ct, ct.hu.grid, body=_everywhere(ct), curve=CURVE, structures=StructureSet((rod,)))
        assert _names(found)[4, 9, 6] == named
        assert found.mass.values[4, 9, 6] == pytest.approx(density)
        noted = [text for text in found.warnings if "'rod' has the density of a metal" in text]
        assert len(noted) == (density > 3)
        assert all(f"as in {named} of that density" in text for text in noted)

    def test_the_majority_of_electrons_decides(self) -> None:
        """Voxels of twice the size: a rod that fills half of one has most of its electrons, a fifth has not."""
        ct = self._ct()
        for end, expected in ((1.0, "titanium"), (0.88, "water")):  # calculation voxel from x = 0.8 to 1.2
            rod = _box("ROD", (0.8, 1.6, 1.6), (end, 2.0, 2.4), 0.4)
            grid = Grid((0.2, 0.2, 0.4), (0.4, 0.4, 0.8), (5, 10, 10))
            found = build_density(
                ct,
                grid,
                body=_everywhere(ct),
                curve=CURVE,
                structures=StructureSet((rod,)),
                assignments=(Assignment("titanium", structure="ROD"),),
            )
            share = (end - 0.8) / 0.4
            assert found.mass.values[2, 4, 2] == pytest.approx(1 + share * 3.54)
            assert _names(found)[2, 4, 2] == expected

    def test_a_threshold_takes_what_is_above_it_inside_the_body(self) -> None:
        ct = self._ct(rod=(slice(5, 8), 2600), outside=(slice(12, 14), 2600), below=(slice(9, 10), 2500))
        inside = np.ones(ct.hu.grid.shape, dtype=bool)
        inside[:, :, 11:] = False
        body = Body(Volume(ct.hu.grid, inside), "part")
        rods = (Assignment("titanium", above_hu=2500),)
        found = build_density(ct, ct.hu.grid, body=body, curve=CURVE, assignments=rods)
        np.testing.assert_allclose(found.mass.values[4, 9, 4:14], [1, *[4.54] * 3, 1, 3, 1, 0, 0, 0], rtol=1e-6)
        assert found.overrides == (("> 2500 HU", pytest.approx(3 * 0.2 * 0.2 * 0.4)),)
        assert any("0.048 cm3 above 2500 HU were taken as 'titanium'." in text for text in found.warnings)
        assert found.saturated_cm3 == pytest.approx(0.2 * 0.2 * 0.4)  # the voxel of 2500 HU

    @pytest.mark.parametrize(("grow_cm", "voxels", "rim"), [(0.2, 7, 0), (0.0, 5, 0), (-0.2, 3, 2)])
    def test_a_threshold_grows_and_shrinks(self, grow_cm: float, voxels: int, rim: int) -> None:
        """A slab of 5 voxels (1 cm) across x, as wide as the CT: shrinking leaves water, and counts nothing twice."""
        hu = np.zeros((10, 20, 20), dtype=np.int16)
        hu[:, :, 7:12] = 3071
        ct = CtImage(Volume(Grid((0.1, 0.1, 0.2), (0.2, 0.2, 0.4), hu.shape), hu))
        slab = (Assignment("titanium", above_hu=2500, grow_cm=grow_cm),)
        found = build_density(ct, ct.hu.grid, body=_everywhere(ct), curve=CURVE, assignments=slab)
        row = found.mass.values[5, 10]
        assert np.count_nonzero(np.isclose(row, 4.54)) == voxels
        np.testing.assert_allclose(row[~np.isclose(row, 4.54)], 1)
        assert found.saturated_cm3 == 0
        assert len(found.overrides) == 1
        assert any("became water" in text for text in found.warnings) == bool(rim)

    def test_growth_that_moves_nothing_is_told(self) -> None:
        ct = self._ct(rod=(slice(5, 8), 2600))
        rods = (Assignment("titanium", above_hu=2500, grow_cm=-0.05),)
        found = build_density(ct, ct.hu.grid, body=_everywhere(ct), curve=CURVE, assignments=rods)
        assert found.overrides == (("> 2500 HU", pytest.approx(3 * 0.2 * 0.2 * 0.4)),)
        assert any("0.5 mm are less than half a CT voxel and did not move its surface." in t for t in found.warnings)

    def test_a_drawn_density_counts_above_a_threshold(self) -> None:
        ct = self._ct(rod=(slice(5, 8), 2600))
        streak = _box("streak", (1.0, 1.8, 1.6), (1.2, 2.0, 2.0), 0.4, relative_mass_density=1.0)
        found = build_density(
            ct,
            ct.hu.grid,
            body=_everywhere(ct),
            curve=CURVE,
            structures=StructureSet((streak,)),
            assignments=(Assignment("titanium", above_hu=2500),),
        )
        np.testing.assert_allclose(found.mass.values[4, 9, 5:8], [1, 4.54, 4.54], rtol=1e-6)

    def test_a_threshold_that_finds_nothing_is_told(self) -> None:
        ct = self._ct()
        found = build_density(
            ct, ct.hu.grid, body=_everywhere(ct), curve=CURVE, assignments=(Assignment("titanium", above_hu=2500),)
        )
        assert "Nothing of the body was taken as 'titanium' above 2500 HU." in found.warnings

    @pytest.mark.parametrize(
        ("assignments", "structures", "words"),
        [
            ((Assignment("titanium", structure="ROD"),), None, "there are no structures"),
            ((Assignment("titanium", structure="BAR"),), "ROD", "no structure 'BAR'"),
            (
                (Assignment("titanium", structure="ROD"), Assignment("peek", structure="ROD")),
                "ROD",
                "given two materials",
            ),
            ((Assignment("titanium", structure="empty"),), "ROD", "has no contours"),
        ],
    )
    def test_what_cannot_be_assigned_is_refused(
        self, assignments: tuple[Assignment, ...], structures: str | None, words: str
    ) -> None:
        ct = self._ct()
        rod = _box("ROD", (1.0, 1.8, 1.6), (1.6, 2.0, 2.0), 0.4)
        drawn = StructureSet((rod, Structure(2, "empty"))) if structures else None
        with pytest.raises(InvalidInput, match=words):
            build_density(ct, ct.hu.grid, body=_everywhere(ct), curve=CURVE, structures=drawn, assignments=assignments)

    def test_a_couch_of_a_named_material_counts_outside_the_body(self) -> None:
        ct = _water()
        body = _box("body", (0, 0, 0), (2.0, 4, 4), 0.4, type="EXTERNAL")
        couch = _box("couch", (3.0, 0, 0), (4.0, 4, 4), 0.4, type="SUPPORT")
        both, named = StructureSet((body, couch)), (Assignment("pmma", structure="couch"),)
        found_body = find_body(ct, both)
        grid = calculation_grid(ct, spacing_cm=0.2, body=found_body, structures=both, assignments=named)
        assert grid.upper_cm[0] == pytest.approx(4.0)
        found = build_density(ct, grid, body=found_body, curve=CURVE, structures=both, assignments=named)
        np.testing.assert_allclose(found.mass.values[4, 9, [9, 12, 17]], [1, 0, 1.19], rtol=1e-6)
        assert _names(found)[4, 9, 17] == "pmma"

    def test_a_curve_that_goes_on_into_metal(self) -> None:
        curve = HuCurve(
            name="extended",
            hu=np.array([-1000.0, 0.0, 2000.0, 12000.0, 30000.0]),
            mass_density=np.array([0.001, 1.0, 2.2, 4.54, 8.3]),
            electron_density=np.array([0.001, 1.0, 2.04, 3.76, 6.85]),
            provenance="made up for this test",
        )
        ct = self._ct(bone=(slice(2, 4), 2000), rod=(slice(6, 9), 12000), pin=(slice(12, 14), 29000))
        names = _names(build_density(ct, ct.hu.grid, body=_everywhere(ct), curve=curve))[4, 9]
        assert [names[i] for i in (0, 2, 7, 12)] == ["water", "bone-100%", "titanium", "cobalt-chrome"]

    @settings(max_examples=15, deadline=None)
    @given(seed=st.integers(0, 2**16), spacing=st.floats(0.07, 0.4))
    def test_materials_lose_neither_mass_nor_electrons(self, seed: int, spacing: float) -> None:
        """Mass on the calculation grid is that of CT voxels with the material's density laid over them."""
        rng = np.random.default_rng(seed)
        hu = rng.integers(-1000, 3000, (6, 8, 9)).astype(np.int16)
        ct = CtImage(Volume(Grid((1.0, -2.0, 3.0), (0.13, 0.17, 0.29), hu.shape), hu))
        low, high = ct.hu.grid.lower_cm - 0.1, ct.hu.grid.upper_cm + 0.1
        count = np.ceil((high - low) / spacing).astype(int)
        grid = Grid(tuple(low + spacing / 2), (spacing,) * 3, tuple(count[::-1]))  # type: ignore[arg-type]
        metal = (Assignment("titanium", above_hu=2500), Assignment("cobalt-chrome", above_hu=2800))
        found = build_density(ct, grid, body=_everywhere(ct), curve=CURVE, assignments=metal)
        volume = ct.hu.grid.voxel_volume_cm3
        for column, total, rods in (
            (CURVE.mass_density, found.total_mass_g, [a.densities[0] for a in metal]),
            (CURVE.electron_density, found.electron.values.sum(dtype=float) * grid.voxel_volume_cm3,
             [a.densities[1] for a in metal]),
        ):  # fmt: skip
            expected = np.interp(hu, CURVE.hu, column)
            expected[hu > 2500], expected[hu > 2800] = rods
            assert total == pytest.approx(expected.sum() * volume, rel=MASS_TOLERANCE)

    def test_a_grid_must_fit_its_materials(self) -> None:
        ct = self._ct()
        found = build_density(ct, ct.hu.grid, body=_everywhere(ct), curve=CURVE)
        wrong = Volume(ct.hu.grid, np.ones(ct.hu.grid.shape, dtype=np.uint8))
        with pytest.raises(InvalidInput, match="not on the list"):
            DensityGrid(found.mass, found.electron, wrong, found.materials)


class TestDistances:
    @staticmethod
    def _scene(hu: int, gap: int) -> tuple[CtImage, StructureSet]:
        """A rod of 2 x 2 voxels of 2 mm, a cord `gap` voxels beside it, and a target around both."""
        values = np.zeros((10, 20, 40), dtype=np.int16)
        values[:, 9:11, 10:12] = hu
        ct = CtImage(Volume(Grid((0.1, 0.1, 0.2), (0.2, 0.2, 0.4), values.shape), values))
        start = 0.2 * (12 + gap)
        cord = _box("SpinalCord", (start, 1.6, 0), (start + 0.8, 2.4, 4), 0.4)
        target = _box("PTV", (1.0, 1.0, 1.2), (3.0, 3.0, 2.8), 0.4, type="PTV")
        return ct, StructureSet((cord, target, _box("Kidney", (4.0, 0.4, 0), (6.0, 2.0, 4), 0.4)))

    def test_of_saturated_voxels(self) -> None:
        ct, structures = self._scene(3071, gap=1)
        found = build_density(ct, ct.hu.grid, body=_everywhere(ct), curve=CURVE, structures=structures)
        assert found.saturated_near == (("PTV", 0.0), ("SpinalCord", pytest.approx(0.4)))  # between voxel centres
        assert any("Nearest: 0 mm from 'PTV', 4 mm from 'SpinalCord'." in text for text in found.warnings)

    def test_far_from_everything_is_told_too(self) -> None:
        ct, _ = self._scene(3071, gap=1)
        far = StructureSet((_box("cord", (7.4, 0.2, 0), (7.8, 0.6, 4), 0.4),))
        found = build_density(ct, ct.hu.grid, body=_everywhere(ct), curve=CURVE, structures=far)
        assert found.saturated_near == ()
        assert any("more than 50 mm from all targets and cords" in text for text in found.warnings)

    @pytest.mark.parametrize(("gap", "warns"), [(0, True), (1, True), (2, False)])
    def test_metal_beside_the_cord(self, gap: int, warns: bool) -> None:
        """Centres are 2, 4 and 6 mm apart; 5 mm count."""
        ct, structures = self._scene(3071, gap)
        rods = (Assignment("titanium", above_hu=2500),)
        found = build_density(
            ct, ct.hu.grid, body=_everywhere(ct), curve=CURVE, structures=structures, assignments=rods
        )
        expected = (("metal", "SpinalCord", pytest.approx(0.2 * (gap + 1))),) if warns else ()
        assert found.dense_near == expected
        assert any("Metal lies" in text and "heterogeneity.md" in text for text in found.warnings) == warns

    def test_dense_bone_beside_the_cord(self) -> None:
        ct, structures = self._scene(800, gap=1)  # 1.8 g/cm3
        found = build_density(ct, ct.hu.grid, body=_everywhere(ct), curve=CURVE, structures=structures)
        assert found.dense_near == (("dense bone", "SpinalCord", pytest.approx(0.4)),)
        assert any("Dense bone lies 4 mm from 'SpinalCord'" in text for text in found.warnings)
        ct, structures = self._scene(500, gap=1)  # 1.5 g/cm3
        found = build_density(ct, ct.hu.grid, body=_everywhere(ct), curve=CURVE, structures=structures)
        assert found.dense_near == ()


class TestResampling:
    @settings(max_examples=30, deadline=None)
    @given(
        seed=st.integers(0, 2**16),
        spacing=st.floats(0.07, 0.6),
        shift=st.tuples(*[st.floats(-0.5, 0.5)] * 3),
    )
    def test_mass_and_electrons_are_conserved(
        self, seed: int, spacing: float, shift: tuple[float, float, float]
    ) -> None:
        shape = (6, 8, 9)
        hu = np.random.default_rng(seed).integers(-1000, 2000, shape).astype(np.int16)
        ct = CtImage(Volume(Grid((1.0, -2.0, 3.0), (0.13, 0.17, 0.29), shape), hu))
        low, high = ct.hu.grid.lower_cm - 0.7 + np.array(shift), ct.hu.grid.upper_cm + 0.7 + np.array(shift)
        count = np.ceil((high - low) / spacing).astype(int)
        grid = Grid(tuple(low + spacing / 2), (spacing,) * 3, tuple(count[::-1]))  # type: ignore[arg-type]
        found = build_density(ct, grid, body=_everywhere(ct), curve=CURVE)
        mass, electron = (np.interp(hu, CURVE.hu, column) for column in (CURVE.mass_density, CURVE.electron_density))
        assert found.total_mass_g == pytest.approx(mass.sum() * ct.hu.grid.voxel_volume_cm3, rel=MASS_TOLERANCE)
        total = found.electron.values.sum(dtype=float) * grid.voxel_volume_cm3
        assert total == pytest.approx(electron.sum() * ct.hu.grid.voxel_volume_cm3, rel=MASS_TOLERANCE)

    def test_averages_densities_and_not_ct_numbers(self) -> None:
        grid = Grid((0.05, 0.05, 0.05), (0.1, 0.1, 0.1), (1, 1, 2))
        ct = CtImage(Volume(grid, np.array([[[-1000, 2000]]], dtype=np.int16)))
        target = Grid((0.1, 0.05, 0.05), (0.2, 0.1, 0.1), (1, 1, 1))
        found = build_density(ct, target, body=_everywhere(ct), curve=CURVE)
        assert found.mass.values[0, 0, 0] == pytest.approx((0.001 + 3.0) / 2)  # the mean, 500 HU, would give 1.5

    def test_thirds_along_each_axis(self) -> None:
        """Three voxels of 1, 2 and 3 g/cm3 to two of 1.5 times the size: (1 + 2/2) / 1.5 and (2/2 + 3) / 1.5."""
        row = np.array([0, 1000, 2000], dtype=np.int16)
        for axis in range(3):
            shape, spacing = [1, 1, 1], [1.0, 1.0, 1.0]
            shape[axis], spacing[2 - axis] = 3, 0.2
            origin = tuple(s / 2 for s in spacing)
            ct = CtImage(Volume(Grid(origin, tuple(spacing), tuple(shape)), row.reshape(shape)))  # type: ignore[arg-type]
            shape[axis], spacing[2 - axis] = 2, 0.3
            target = Grid(tuple(s / 2 for s in spacing), tuple(spacing), tuple(shape))  # type: ignore[arg-type]
            found = build_density(ct, target, body=_everywhere(ct), curve=CURVE)
            np.testing.assert_allclose(found.mass.values.ravel(), [2 / 1.5, 4 / 1.5], rtol=1e-6)

    def test_vacuum_beyond_the_ct(self) -> None:
        ct = _water()
        target = Grid((-1.0, 2.0, 2.0), (1.0, 1.0, 1.0), (1, 1, 3))
        found = build_density(ct, target, body=_everywhere(ct), curve=CURVE)
        np.testing.assert_allclose(found.mass.values[0, 0], [0.0, 0.5, 1.0], atol=1e-6)
        assert any("beyond the calculation grid" in text for text in found.warnings)

    def test_a_grid_elsewhere_is_empty(self) -> None:
        ct = _water()
        found = build_density(ct, Grid((50, 50, 50), (1, 1, 1), (2, 2, 2)), body=_everywhere(ct), curve=CURVE)
        assert found.total_mass_g == 0


class TestBody:
    def test_external_takes_away_what_lies_outside(self) -> None:
        ct = _water()
        external = _box("Outline", (0.4, 0.4, 0), (3.6, 3.6, 4), 0.4, type="EXTERNAL")
        body = find_body(ct, StructureSet((external,)))
        assert body.source == "structure 'Outline'"
        assert body.warnings == ()
        found = build_density(ct, ct.hu.grid, body=body, curve=CURVE)
        assert found.total_mass_g == pytest.approx(3.2 * 3.2 * 4, rel=MASS_TOLERANCE)
        low, high = body.box()
        np.testing.assert_allclose([low, high], [(0.4, 0.4, 0), (3.6, 3.6, 4)], atol=1e-9)

    @pytest.mark.parametrize(("edge", "is_inside"), [(0.5, True), (0.51, False), (0.99, False), (0.49, True)])
    def test_a_voxel_belongs_to_it_from_one_half_on(self, edge: float, is_inside: bool) -> None:
        """An outline through voxel centres, as planning systems draw it, keeps the voxels that it runs through."""
        ct = _water()
        external = _box("Outline", (0.2 + edge * 0.2, 0.4, 0), (3.6, 3.6, 4), 0.4, type="EXTERNAL")
        inside = find_body(ct, StructureSet((external,))).inside.values
        assert inside[4, 9, 1] == is_inside
        assert inside[4, 9, 2]

    @pytest.mark.parametrize(
        ("end", "warning"),
        [
            (3.0, None),  # whole voxels
            (3.04, None),  # a fifth of a voxel: 0.04 / 2.64 = 1.5 %
            (3.08, "measures 41.6 cm3 in voxels of the CT, but 42.88 cm3 by its contours"),  # 0.08 / 2.68 = 3.0 % less
            (3.12, "measures 44.8 cm3 in voxels of the CT, but 43.52 cm3 by its contours"),  # 0.08 / 2.72 = 2.9 % more
        ],
    )
    def test_warns_when_voxels_are_too_coarse_for_the_outline(self, end: float, warning: str | None) -> None:
        """A slab 4 cm x 4 cm of voxels of 0.2 cm from x = 0.4 to `end`: voxels count from one half on."""
        ct = _water()
        external = _box("Outline", (0.4, 0, 0), (end, 4, 4), 0.4, type="EXTERNAL")
        found = [text for text in find_body(ct, StructureSet((external,))).warnings if "measures" in text]
        assert len(found) == (warning is not None)
        assert warning is None or warning in found[0]

    def test_without_external_the_skin_is_used_with_a_warning(self) -> None:
        grid = Grid((0.0, 0.0, 0.0), (0.2, 0.2, 0.4), (5, 40, 40))
        hu = np.full(grid.shape, -1000, dtype=np.int16)
        hu[:, 10:30, 10:30] = 20
        body = find_body(CtImage(Volume(grid, hu)))
        assert body.source == "skin by threshold"
        assert "No EXTERNAL structure" in body.warnings[0]
        np.testing.assert_array_equal(body.inside.values[:, 12:28, 12:28], True)
        assert not body.inside.values[:, :9].any()

    def test_warns_when_the_field_of_view_cuts_it(self) -> None:
        ct = _water()
        external = _box("Outline", (0.0, 0.4, 0), (3.6, 3.6, 4), 0.4, type="EXTERNAL")
        (warning,) = find_body(ct, StructureSet((external,))).warnings
        assert "edge (left or right)" in warning

    def test_warns_when_it_reaches_beyond_the_slices(self) -> None:
        ct = _water()
        external = _box("Outline", (0.4, 0.4, -2.0), (3.6, 3.6, 4), 0.4, type="EXTERNAL")
        (warning,) = find_body(ct, StructureSet((external,))).warnings
        assert "2.0 cm beyond the CT along z" in warning

    def test_an_outline_elsewhere_is_refused(self) -> None:
        external = _box("Outline", (90, 90, 90), (93, 93, 94), 0.4, type="EXTERNAL")
        with pytest.raises(InvalidInput, match="body is empty"):
            find_body(_water(), StructureSet((external,)))


class TestCalculationGrid:
    def test_holds_body_couch_and_margin_but_stays_on_the_ct(self) -> None:
        ct = _water()
        body = _box("Outline", (1.0, 1.0, 0), (2.0, 2.0, 4), 0.4, type="EXTERNAL")
        couch = _box("Couch", (0.6, 3.0, 0), (1.6, 3.4, 4), 0.4, type="SUPPORT", relative_mass_density=0.1)
        both = StructureSet((body, couch))
        grid = calculation_grid(ct, spacing_cm=0.2, body=find_body(ct, both), structures=both, margin_cm=0.3)
        np.testing.assert_allclose(grid.lower_cm, (0.2, 0.6, 0.0), atol=1e-9)
        np.testing.assert_allclose(grid.upper_cm, (2.4, 3.8, 4.0), atol=1e-9)

    def test_voxels_of_a_whole_multiple_coincide_with_the_ct(self) -> None:
        ct = _water()
        grid = calculation_grid(ct, spacing_cm=0.4, body=_everywhere(ct))
        np.testing.assert_allclose(grid.lower_cm, 0, atol=1e-12)
        assert grid.shape == (10, 10, 10)

    @pytest.mark.parametrize("spacing", [0.0, -0.1, np.nan, 3.0])
    def test_refuses_impossible_voxels(self, spacing: float) -> None:
        ct = _water()
        with pytest.raises(InvalidInput, match="voxel size"):
            calculation_grid(ct, spacing_cm=spacing, body=_everywhere(ct))


class TestCtImage:
    def test_refuses_what_is_not_a_number(self) -> None:
        grid = Grid((0, 0, 0), (1, 1, 1), (1, 1, 2))
        with pytest.raises(InvalidInput, match="not a number"):
            CtImage(Volume(grid, np.array([[[0.0, np.nan]]])))

    def test_refuses_an_unknown_position(self) -> None:
        with pytest.raises(InvalidInput, match="'HFDR'"):
            CtImage(Volume(Grid((0, 0, 0), (1, 1, 1), (1, 1, 1)), np.zeros((1, 1, 1))), patient_position="HFDR")
