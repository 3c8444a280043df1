"""Couch tops: the library, their place under the patient, and the warning where one is missing."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from made_up import ROUND_CURVE as CURVE
from spinedose._resources import folder
from spinedose.assignments import Assignment
from spinedose.couches import (
    CouchTop,
    list_couches,
    missing_couch,
    put_on_couch,
    read_couch,
    share_from_below,
)
from spinedose.density import CtImage, build_density, calculation_grid, find_body
from spinedose.errors import BeamDataError, InvalidInput
from spinedose.grid import Grid, Volume
from spinedose.materials import material
from spinedose.plan import Beam, Plan
from spinedose.structures import Structure, StructureSet

COUCH = CouchTop(
    name="slab",
    width_cm=6.0,
    thickness_cm=2.0,
    shell_thickness_cm=0.4,
    shell_mass_density_g_cm3=0.5,
    core_mass_density_g_cm3=0.05,
    shell_material="carbon-fibre",
    core_material="pmma",
    provenance="made up for this test",
)


def _box(name: str, low: tuple[float, ...], high: tuple[float, ...], **more: object) -> Structure:
    heights = np.arange(low[2] + 0.2, high[2], 0.4)
    corners = [(low[0], low[1]), (high[0], low[1]), (high[0], high[1]), (low[0], high[1])]
    contours = tuple(np.array([(x, y, h) for x, y in corners]) for h in heights)
    return Structure(1, name, contours_cm=contours, contour_spacing_cm=0.4, **more)  # type: ignore[arg-type]


def _scene() -> tuple[CtImage, StructureSet]:
    """Water, voxels of 2 x 2 x 4 mm from (0, 0, 0) to (4, 4, 4) cm, and a body from (1, 1) to (3, 3) cm."""
    grid = Grid((0.1, 0.1, 0.2), (0.2, 0.2, 0.4), (10, 20, 20))
    body = _box("BODY", (1, 1, 0), (3, 3, 4), type="EXTERNAL")
    return CtImage(Volume(grid, np.zeros(grid.shape, dtype=np.int16))), StructureSet((body,))


class TestLibrary:
    def test_every_couch_can_be_read_and_says_whence(self) -> None:
        assert "igrt-generic" in list_couches()
        for name in list_couches():
            couch = read_couch(name)
            assert couch.name == name
            assert "doi" in couch.provenance

    def test_the_generic_one_takes_what_was_published(self) -> None:
        """0.5 cm of water: 2 % of a 6 MV beam (0.04 per cm), and twice that at 60 degrees, as in Li et al. (4.1 %)."""
        couch = read_couch("igrt-generic")
        shell, core = couch.shell_thickness_cm, couch.thickness_cm - 2 * couch.shell_thickness_cm
        carbon, plastic = (material(name).electrons_per_gram for name in (couch.shell_material, couch.core_material))
        thickness = 2 * shell * couch.shell_mass_density_g_cm3 * carbon + core * couch.core_mass_density_g_cm3 * plastic
        assert 0.04 * thickness / np.cos(np.radians(60)) == pytest.approx(0.041, abs=0.003)
        assert couch.is_generic

    def test_names_what_there_is_instead(self) -> None:
        with pytest.raises(BeamDataError, match=r"Name one that spinedose has \(igrt-generic"):
            read_couch("sofa")

    @pytest.mark.parametrize(
        ("old", "new", "words"),
        [
            ("[couch]", "[couch", "is wrong"),
            ("generic = true ", "# ", "has no 'generic'"),
            ("width_cm = 53.0", "width_cm = 'wide'", "is wrong"),
            ("width_cm = 53.0", "width_cm = 530.0", "shell and core do not fit"),
            ("shell_thickness_cm = 0.4", "shell_thickness_cm = 2.5", "shell and core do not fit"),
            ("core_mass_density_g_cm3 = 0.03", "core_mass_density_g_cm3 = 30.0", "densities"),
            ('core_material = "pmma"', 'core_material = "feathers"', "no material 'feathers'"),
            ("[provenance]", "[sources]", "no provenance"),
        ],
    )
    def test_a_wrong_file_is_refused(self, tmp_path: Path, old: str, new: str, words: str) -> None:
        text = (folder("beam_data") / "couches" / "igrt-generic.toml").read_text(encoding="utf-8")
        assert old in text
        file = tmp_path / "bad.toml"
        file.write_text(text.replace(old, new), encoding="utf-8")
        with pytest.raises((BeamDataError, InvalidInput), match=re.escape(words)):
            read_couch(file)


class TestPlace:
    def test_under_a_supine_patient_it_touches_the_body(self) -> None:
        """Body from x = 1 to 3: the couch from -1 to 5, from y = 3 to 5; the CT grows by 1 cm on three sides."""
        ct, structures = _scene()
        body = find_body(ct, structures)
        wide, body, both = put_on_couch(ct, body, structures, COUCH, patient_position="HFS")
        np.testing.assert_allclose(wide.hu.grid.lower_cm, (-1, 0, 0), atol=1e-9)
        np.testing.assert_allclose(wide.hu.grid.upper_cm, (5, 5, 4), atol=1e-9)
        assert wide.hu.values[0, -1, 0] == -1000
        grid = calculation_grid(wide, spacing_cm=0.2, body=body, structures=both)
        assert grid.shape == (20, 22, 30)  # from y = 0.7 (margin 3 mm): 0.6 to 5.0, and all of x
        found = build_density(wide, grid, body=body, curve=CURVE, structures=both)
        middle = found.mass.values[10, :, 15]  # x = 2.1, y from 0.7
        expected = [0] * 2 + [1] * 10 + [0.5] * 2 + [0.05] * 6 + [0.5] * 2
        np.testing.assert_allclose(middle, expected, atol=1e-6)
        left = found.mass.values[10, 16]  # y = 3.9: the core, and the shell at both ends
        np.testing.assert_allclose(left, [0.5] * 2 + [0.05] * 26 + [0.5] * 2, atol=1e-6)
        electrons = found.electron.values[10, 13, 15] / found.mass.values[10, 13, 15]
        assert electrons == pytest.approx(0.9, abs=0.001)  # carbon
        assert [m.name for m in found.materials] == ["water"]

    @pytest.mark.parametrize("shell_cm", [0.4, 0.25, 0.07])
    def test_mass_is_that_of_the_couch(self, shell_cm: float) -> None:
        """Also where shell and core share voxels."""
        ct, structures = _scene()
        couch = replace(COUCH, shell_thickness_cm=shell_cm)
        wide, body, both = put_on_couch(ct, find_body(ct, structures), structures, couch, patient_position="HFS")
        found = build_density(wide, wide.hu.grid, body=body, curve=CURVE, structures=both)
        core = (6 - 2 * shell_cm) * (2 - 2 * shell_cm)
        shell = 6 * 2 - core
        assert found.total_mass_g == pytest.approx(4 * (2 * 2 + 0.5 * shell + 0.05 * core), rel=1e-5)
        assert not any("overlap" in text or "beyond the CT" in text for text in found.warnings)
        assert any("put under the body, its surface at y = 30 mm, its middle at x = 20 mm" in t for t in found.warnings)

    @pytest.mark.parametrize("position", ["HFP", "FFP"])
    def test_a_prone_patient_lies_on_the_front(self, position: str) -> None:
        ct, structures = _scene()
        wide, body, both = put_on_couch(ct, find_body(ct, structures), structures, COUCH, patient_position=position)
        np.testing.assert_allclose(wide.hu.grid.lower_cm, (-1, -1, 0), atol=1e-9)
        found = build_density(wide, wide.hu.grid, body=body, curve=CURVE, structures=both)
        np.testing.assert_allclose(
            found.mass.values[5, :12, 15], [0.5] * 2 + [0.05] * 6 + [0.5] * 2 + [1] * 2, atol=1e-6
        )

    def test_at_a_given_height(self) -> None:
        ct, structures = _scene()
        place = put_on_couch(ct, find_body(ct, structures), structures, COUCH, patient_position="FFS", surface_cm=3.6)
        found = build_density(place[0], place[0].hu.grid, body=place[1], curve=CURVE, structures=place[2])
        np.testing.assert_allclose(found.mass.values[5, 13:20, 15], [1, 1, 0, 0, 0, 0.5, 0.5], atol=1e-6)

    def test_not_inside_the_body(self) -> None:
        ct, structures = _scene()
        with pytest.raises(InvalidInput, match="lies 10 mm inside the body"):
            put_on_couch(ct, find_body(ct, structures), structures, COUCH, patient_position="HFS", surface_cm=2.0)

    @pytest.mark.parametrize(
        ("surface", "position", "words"),
        [(0.5, "HFS", "on the other side of the body"), (112.5, "HFS", "lies 1095 mm below the body"),
         (3.5, "HFP", "on the other side of the body"), (-40.0, "HFP", "lies 410 mm below the body")],
    )  # fmt: skip
    def test_not_where_it_carries_nobody(self, surface: float, position: str, words: str) -> None:
        ct, structures = _scene()
        body = find_body(ct, structures)
        with pytest.raises(InvalidInput, match=words):
            put_on_couch(ct, body, structures, COUCH, patient_position=position, surface_cm=surface)

    @pytest.mark.parametrize(("gap", "is_said"), [(10.0, False), (20.0, True)])
    def test_a_wide_gap_is_said(self, gap: float, is_said: bool) -> None:
        ct, structures = _scene()
        body = find_body(ct, structures)
        _, found, _ = put_on_couch(ct, body, structures, COUCH, patient_position="HFS", surface_cm=3.0 + gap)
        assert any("200 mm below the body" in text for text in found.warnings) == is_said

    def test_a_ct_that_is_large_enough_stays(self) -> None:
        ct, structures = _scene()
        small = replace(COUCH, width_cm=3.0, thickness_cm=1.0)
        wide, _, _ = put_on_couch(ct, find_body(ct, structures), structures, small, patient_position="HFS")
        assert wide is ct

    def test_without_structures_it_is_the_only_one(self) -> None:
        ct, structures = _scene()
        _, _, both = put_on_couch(ct, find_body(ct, structures), None, COUCH, patient_position="HFS")
        assert [s.type for s in both.structures] == ["SUPPORT", "SUPPORT"]

    def test_a_generic_one_is_told(self) -> None:
        ct, structures = _scene()
        generic = replace(COUCH, is_generic=True)
        _, body, _ = put_on_couch(ct, find_body(ct, structures), structures, generic, patient_position="HFS")
        assert "The couch top 'slab' is no measured one." in body.warnings


class TestMissing:
    @pytest.mark.parametrize(
        ("gantry", "share"),
        [
            ([0, 0], 0.0),
            ([180, 180], 1.0),
            ([90, 90], 0.0),
            ([270, 270], 0.0),
            ([100, 100], 1.0),
            ([181, 539], 0.5),
            ([539, 181], 0.5),
            ([0, 180], 0.5),
            ([-30, 30], 0.0),
        ],
    )
    def test_share_from_below(self, gantry: list[float], share: float) -> None:
        assert share_from_below(np.array(gantry, float), np.array([0.0, 1.0])) == pytest.approx(share, abs=0.04)

    def test_a_posterior_beam_without_couch_is_warned_about(
        self, make_plan: Callable[..., Plan], make_beam: Callable[..., Beam]
    ) -> None:
        plan = make_plan(make_beam(gantry_deg=np.full(2, 180.0)))
        (warning,) = missing_couch(plan, None)
        assert warning.startswith("100 % of the monitor units come from below, and there is no couch with a density")
        assert "4.1 %" in warning
        assert missing_couch(make_plan(make_beam(gantry_deg=np.zeros(2))), None) == ()

    @pytest.mark.parametrize(
        ("couch", "assignments", "warns"),
        [
            ({}, (), True),
            ({"relative_mass_density": 0.3}, (), False),
            ({}, (Assignment("pmma", structure="Couch"),), False),
        ],
    )
    def test_a_couch_counts_when_it_has_a_density(
        self,
        make_plan: Callable[..., Plan],
        make_beam: Callable[..., Beam],
        couch: dict[str, float],
        assignments: tuple[Assignment, ...],
        warns: bool,
    ) -> None:
        plan = make_plan(make_beam(gantry_deg=np.full(2, 180.0)))
        drawn = StructureSet((_box("Couch", (0, 3, 0), (4, 4, 4), type="SUPPORT", **couch),))
        assert bool(missing_couch(plan, drawn, assignments)) == warns
