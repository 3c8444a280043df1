"""Arguments of another kind than asked for are told in one line, by every function of the face that computes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import spinedose as sd
from made_up import beam_of
from spinedose._arguments import expect_callable, expect_each, expect_number, points_of, shown
from spinedose.errors import InvalidInput
from spinedose.grid import Grid, Volume
from spinedose.ideal import ideal_field_dose
from spinedose.machine import read_machine
from spinedose.nested import FineBox
from spinedose.patient import find_fine_box
from spinedose.scenarios import Study
from spinedose.structures import Structure, StructureSet

GRID = Grid((-4.5, -4.5, -4.5), (1.0, 1.0, 1.0), (10, 10, 10))
SQUARE = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
PTV = Structure(1, "PTV", "PTV", tuple(np.column_stack([SQUARE, np.full(4, z)]) for z in (-1.0, 0.0, 1.0)))
STRUCTURES = StructureSet((PTV,))


def a_ct() -> sd.CtImage:
    return sd.CtImage(Volume(GRID, np.zeros(GRID.shape, np.int16)))


def told(function: Callable[..., Any], *arguments: Any, **options: Any) -> str:
    with pytest.raises(InvalidInput) as caught:
        function(*arguments, **options)
    text = str(caught.value)
    assert "\n" not in text and "Traceback" not in text
    return text


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"plan": "RP.dcm"}, "The plan is 'RP.dcm' (a Plan is asked for). Read it with read_plan."),
        ({"plan": None}, "The plan is None (a Plan is asked for). Read it with read_plan."),
        ({"ct": Path("CT")}, "The CT is 'CT' (a CtImage is asked for). Read it with read_ct."),
        (
            {"ct": np.zeros((2, 3, 4))},
            "The CT is an array of shape (2, 3, 4) (a CtImage is asked for). Read it with read_ct.",
        ),
        (
            {"structures": "RS.dcm"},
            "The structure set is 'RS.dcm' (a StructureSet is asked for). Read it with read_structures.",
        ),
        ({"machine": 5}, "The machine is 5 (a name, a folder or a Machine is asked for). See list_machines()."),
        (
            {"materials": {"ROD": "titanium"}},
            "The materials are given as a dict (a sequence of Assignment is asked for). "
            "Write [Assignment('titanium', 'ROD')].",
        ),
        (
            {"materials": ["titanium"]},
            "The materials are given as 'titanium' (a sequence of Assignment is asked for). "
            "Write [Assignment('titanium', 'ROD')].",
        ),
        (
            {"materials": sd.Assignment("titanium", "ROD")},
            "The materials are given as an Assignment (a sequence of "
            "Assignment is asked for). Write [Assignment('titanium', 'ROD')].",
        ),
        ({"couch": 3}, "The couch is 3 (a name or a TOML file is asked for)."),
        ({"couch_surface_cm": "low"}, "The height of the couch is 'low' (a number is asked for, in cm)."),
        (
            {"spacing_cm": "a"},
            "The spacing is 'a' (a number is asked for, in cm). Give one for all axes: 0.25 is usual, 0.125 for spine.",
        ),
        (
            {"spacing_cm": (0.2, 0.2, 0.2)},
            "The spacing is a tuple (a number is asked for, in cm). Give one for all axes: "
            "0.25 is usual, 0.125 for spine.",
        ),
        (
            {"fine": 0.1},
            "The fine voxels are given as 0.1 (a sequence of names of structures, or a FineBox, is asked for).",
        ),
        (
            {"fine": "PTV"},
            "Fine voxels around PTV were asked for (there are no structures to look at). Give them with `structures`.",
        ),
        ({"fine": "Cord", "structures": STRUCTURES}, "There is no structure 'Cord' to compute finely (there are PTV)."),
        (
            {"like": "RD.dcm"},
            "The grid of the dose is 'RD.dcm' (a Grid or a dose is asked for). Read one with read_dose.",
        ),
        ({"backend": None}, "The backend is None (a name is asked for). Use auto, cpu, cuda or cuda:1."),
        (
            {"setup": (0.1, 0, 0)},
            "The setup is a tuple (a Setup is asked for). Write Setup(lateral_cm=0.1) for instance.",
        ),
        ({"change": 0.1}, "The change of the machine is 0.1 (a MachineChange is asked for). Write MachineChange(...)."),
        (
            {"settings": {"directions": 400}},
            "The choice of settings is a dict (a Settings is asked for). Write Settings(directions=400) for instance.",
        ),
        ({"progress": True}, "What is to be told of progress is True (a function is asked for)."),
    ],
)
def test_compute_dose_tells_of_wrong_kinds(
    make_plan: Callable[..., sd.Plan], options: dict[str, Any], text: str
) -> None:
    asked = {"plan": make_plan(), "ct": a_ct(), "machine": "varian-truebeam-m120", "backend": "cpu"} | options
    assert told(sd.compute_dose, asked.pop("plan"), asked.pop("ct"), **asked) == text


def test_irradiate_prepare_and_study_tell_of_wrong_kinds(make_plan: Callable[..., sd.Plan]) -> None:
    assert "Make one of a CT with prepare_patient" in told(sd.irradiate, make_plan(), a_ct())
    assert "Read it with read_ct" in told(sd.prepare_patient, "CT/")
    assert told(sd.prepare_patient, a_ct(), patient_position="prone").startswith("The patient position is 'prone' (")
    assert "Read it with read_plan" in told(Study, "RP.dcm", a_ct(), STRUCTURES)
    assert "Read it with read_structures" in told(Study, make_plan(), a_ct(), None)
    assert "There is no structure 'Cord'" in told(Study, make_plan(), a_ct(), STRUCTURES, fine="Cord")


def test_readers_and_check_tell_of_wrong_kinds(tmp_path: Path) -> None:
    for read in (sd.read_plan, sd.read_dose, sd.read_structures):
        assert told(read, 5) == "The file is 5 (a path is asked for)."
    text = "The CT slices are given as 5 (a sequence of paths is asked for). Name their folder, or the files."
    assert told(sd.read_ct, 5) == told(sd.read_ct, [5]) == text
    for wrong in (1, "1"):
        assert "a sequence of numbers is asked for" in told(sd.read_plan, "RP.dcm", beams=wrong)
    assert told(sd.check, 5) == "The folder is 5 (a path is asked for)."
    assert "a number is asked for, in Gy" in told(sd.check, tmp_path, prescription_gy="24")
    assert "a number is asked for, in cm" in told(sd.check, tmp_path, spacing_cm="a")
    assert "a mapping is asked for" in told(sd.check, tmp_path, chosen="Cord")
    assert "a Settings is asked for" in told(sd.check, tmp_path, settings={})


def test_an_ideal_field_tells_of_wrong_kinds() -> None:
    spectrum = read_machine("varian-truebeam-m120").beam("6X").spectrum
    density = Volume(GRID, np.ones(GRID.shape, np.float32))
    assert "a Volume is asked for" in told(ideal_field_dose, np.ones((3, 3, 3)), spectrum=spectrum, field_cm=5)
    assert "The spectrum is '6X'" in told(ideal_field_dose, density, spectrum="6X", field_cm=5)
    assert "Give the side of the square" in told(ideal_field_dose, density, spectrum=spectrum, field_cm=(5, 5))
    assert "a Settings is asked for" in told(ideal_field_dose, density, spectrum=spectrum, field_cm=5, settings={})


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: sd.Settings(directions="many"), "directions is 'many'"),
        (lambda: sd.Settings(moments=2.5), "moments is 2.5"),
        (lambda: sd.Settings(moments=None), "moments is None"),
        (lambda: sd.Settings(moments=float("nan")), "moments is nan"),
        (lambda: sd.Settings(directions=float("inf")), "directions is inf"),
        (lambda: sd.Settings(curve=None), "curve is None"),
        (lambda: sd.Settings(segment_step_deg="1"), "segment_step_deg is '1'"),
        (lambda: sd.Grid(0.0, (1, 1, 1), (3, 3, 3)), "origin_cm is 0.0"),
        (lambda: Volume(GRID, [[[0.0]]]), "What a volume holds is a list"),
        (lambda: Volume((3, 3, 3), np.zeros((3, 3, 3))), "The grid of a volume is a tuple"),
        (lambda: a_ct().hu.sample([(0.0, 0.0)]), "have 2 coordinates"),
        (lambda: a_ct().hu.resample((3, 3, 3)), "The grid to interpolate to is a tuple"),
        (lambda: sd.CtImage(np.zeros((3, 3, 3))), "What a CT holds is an array of shape (3, 3, 3)"),
        (lambda: sd.Plan("x", beam_of()), "The beams of a plan are given as a Beam"),
        (lambda: sd.machine(5), "The machine is 5"),
        (lambda: sd.Setup((0.1, 0.0, 0.0)), "lateral_cm of a setup is a tuple"),
        (lambda: sd.Setup(pivot_cm=(0.0, 1.0)), "have 2 coordinates"),
        (lambda: sd.MachineChange("wide"), "leaf offset is 'wide'"),
        (lambda: sd.Assignment(5, "ROD"), "material is 5"),
        (lambda: sd.Assignment("titanium", "ROD", grow_cm="1"), "growth of a region is '1'"),
        (lambda: sd.Assignment("titanium", above_hu="2500"), "CT number of a material is '2500'"),
    ],
)
def test_classes_of_the_face_tell_of_wrong_kinds(make: Callable[[], Any], words: str) -> None:
    assert words in told(make)


def test_names_of_structures_give_the_box_around_them() -> None:
    box = FineBox((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0))
    assert find_fine_box(None, None) is None and find_fine_box(box, None) is box
    for names in ("ptv", ("PTV",), ["PTV"]):
        found = find_fine_box(names, STRUCTURES)
        assert found == FineBox((-2.5, -2.5, -3.0), (2.5, 2.5, 3.0))


def test_what_is_right_passes_and_values_are_shown_in_short() -> None:
    expect_each("They", (), str, "names")
    expect_number("It", np.float32(1), "cm")
    expect_callable("It", print)
    assert points_of((0, 1, 2)).shape == (3,) and points_of(np.zeros((4, 5, 3))).shape == (4, 5, 3)
    assert shown("x" * 100) == "'" + "x" * 59 + "…'"
    assert (shown(True), shown(dict), shown([])) == ("True", "the class dict", "a list")
    assert told(expect_number, "It", True, "cm") == "It is True (a number is asked for, in cm)."
