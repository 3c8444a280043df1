"""The files of a plan are found by their references, wherever they lie and whatever they are called."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest

import spinedose as sd
from made_up import beam_of
from spinedose.density import CtImage
from spinedose.dicom.ct import write_ct
from spinedose.dicom.dose import write_dose
from spinedose.dicom.folder import find_case, telling
from spinedose.dicom.plan import write_plan
from spinedose.dicom.structures import write_structures
from spinedose.errors import InvalidInput, UnreadableFile
from spinedose.grid import Grid, Volume
from spinedose.plan import Identity, Plan
from spinedose.structures import Structure, StructureSet

GRID = Grid((0.0, 0.0, 0.0), (0.5, 0.5, 0.5), (4, 5, 6))
WHO = Identity("Doe^Jane", "1", study_instance_uid="1.2.1")
SQUARE = np.array([(0.5, 0.5, 0.5), (1.5, 0.5, 0.5), (1.5, 1.5, 0.5)])


def plan_of(label: str = "T7", uid: str = "1.2.50", **changes: str) -> Plan:
    beams = (beam_of(number=1), beam_of(number=2))
    values = {"structure_set_uid": "1.2.30", "frame_of_reference_uid": "1.2.9"} | changes
    return Plan(label, beams, uid=uid, identity=WHO, **values)  # type: ignore[arg-type]


def ct_of(folder: Path, frame: str = "1.2.9") -> list[Path]:
    image = CtImage(Volume(GRID, np.zeros(GRID.shape, np.int16)), frame_of_reference_uid=frame)
    return list(write_ct(image, folder, identity=WHO))


def dose_of(path: Path, plan: Plan, **options: object) -> Path:
    return write_dose(path, Volume(GRID, np.ones(GRID.shape, np.float32)), plan=plan, **options)  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A plan with all that belongs to it, in folders of odd names."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    slices = ct_of(tmp_path / "a" / "images")
    regions = StructureSet((Structure(1, "PTV", "PTV", (SQUARE,)),), uid="1.2.30", frame_of_reference_uid="1.2.9")
    write_structures(regions, tmp_path / "a" / "b" / "x.dcm", identity=WHO, ct_files=slices)
    write_plan(plan_of(), tmp_path / "a" / "y.dcm")
    dose_of(tmp_path / "z", plan_of())
    (tmp_path / "notes.txt").write_text("no DICOM")
    (tmp_path / ".hidden.dcm").write_text("")
    return tmp_path


def test_everything_is_found(folder: Path) -> None:
    found = find_case(folder)
    assert found.plan.name == "y.dcm"
    assert found.structures is not None and found.structures.name == "x.dcm"
    assert [path.name for path in found.doses] == ["z"]
    assert len(found.ct) == GRID.shape[0]
    assert found.notes == ()
    assert sd.read_ct(found.ct).hu.grid.is_close_to(GRID)


def test_the_other_series_and_the_other_dose_are_left(folder: Path) -> None:
    ct_of(folder / "a" / "images" / "more", frame="1.2.8")
    dose_of(folder / "other.dcm", plan_of(uid="1.2.51"))
    found = find_case(folder)
    assert {path.parent.name for path in found.ct} == {"images"}
    assert [path.name for path in found.doses] == ["z"]
    assert found.notes == ("1 dose(s) belong to other plans and were passed over.",)


@pytest.mark.parametrize("kind", ["FRACTION_SESSION", "BEAM_SESSION"])
def test_doses_of_sessions_are_taken_where_there_is_none_of_all(folder: Path, kind: str) -> None:
    for number in (1, 2):
        path = dose_of(folder / f"session{number}.dcm", plan_of(), summation="BEAM", beam_number=number)
        dataset = pydicom.dcmread(path)
        dataset.DoseSummationType = kind
        dataset.save_as(path)
    assert [path.name for path in find_case(folder).doses] == ["z"]
    (folder / "z").unlink()
    if kind == "BEAM_SESSION":
        assert [path.name for path in find_case(folder).doses] == ["session1.dcm", "session2.dcm"]
    else:
        with pytest.raises(InvalidInput, match="There are 2 doses of the plan"):
            find_case(folder)


def test_copies_count_once(folder: Path) -> None:
    shutil.copy(folder / "a" / "y.dcm", folder / "copy.dcm")
    assert find_case(folder).plan.name == "y.dcm"


@pytest.mark.parametrize("wanted", ["T8", "t8", "1.2.51", "second.dcm"])
def test_several_plans_are_listed_and_chosen(folder: Path, wanted: str) -> None:
    write_plan(plan_of("T8", "1.2.51"), folder / "second.dcm")
    with pytest.raises(InvalidInput, match=r"There are 2 plans \('T7' \(y\.dcm\), 'T8' \(second\.dcm\)\)\. .*`plan`"):
        find_case(folder)
    found = find_case(folder, plan=wanted)
    assert found.plan.name == "second.dcm"
    assert found.doses == ()
    with pytest.raises(InvalidInput, match="There is no plan 'T9'"):
        find_case(folder, plan="T9")


def test_the_plan_may_be_a_file_elsewhere(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = write_plan(plan_of("T8", "1.2.50"), tmp_path_factory.mktemp("e") / "RP.dcm")
    assert find_case(folder, plan=elsewhere).plan == elsewhere
    with pytest.raises(UnreadableFile, match="is no RTPLAN"):
        find_case(folder, plan=folder / "z")


def test_beams_where_there_is_no_sum(folder: Path) -> None:
    (folder / "z").unlink()
    for number in (1, 2):
        dose_of(folder / f"beam{number}.dcm", plan_of(), summation="BEAM", beam_number=number)
    assert [path.name for path in find_case(folder).doses] == ["beam1.dcm", "beam2.dcm"]
    dose_of(folder / "sum.dcm", plan_of())
    assert [path.name for path in find_case(folder).doses] == ["sum.dcm"]
    dose_of(folder / "sum2.dcm", plan_of())
    with pytest.raises(InvalidInput, match="There are 2 doses of the plan"):
        find_case(folder)
    assert find_case(folder, given=["dose"]).doses == ()


def test_a_structure_set_without_reference_is_taken_with_a_word(folder: Path) -> None:
    write_plan(plan_of(structure_set_uid="1.2.31"), folder / "a" / "y.dcm")
    found = find_case(folder)
    assert found.structures is not None
    assert "although the plan refers to another one" in found.notes[0]
    write_plan(plan_of(structure_set_uid="1.2.31", frame_of_reference_uid="1.2.7"), folder / "a" / "y.dcm")
    with pytest.raises(InvalidInput, match="CT series"):
        ct_of(folder / "second", frame="1.2.6")
        find_case(folder)


def test_a_dose_without_reference_is_taken_with_a_word(folder: Path) -> None:
    dataset = pydicom.dcmread(folder / "z")
    del dataset.ReferencedRTPlanSequence
    dataset.save_as(folder / "z")
    found = find_case(folder)
    assert [path.name for path in found.doses] == ["z"]
    assert "does not say to which plan it belongs" in found.notes[0]


@pytest.mark.parametrize(
    ("element", "value", "why"),
    [
        ("DoseUnits", "RELATIVE", "it is in units of RELATIVE, and only doses in GY can be compared"),
        ("DoseType", "EFFECTIVE", "it holds a dose of type EFFECTIVE, and only physical dose can be compared"),
    ],
)
def test_a_dose_that_cannot_be_compared_is_named_with_its_reason(
    folder: Path, element: str, value: str, why: str
) -> None:
    dataset = pydicom.dcmread(folder / "z")
    setattr(dataset, element, value)
    dataset.save_as(folder / "z")
    found = find_case(folder)
    assert found.doses == ()
    assert found.notes == (f"The dose 'z' was passed over: {why}.",)
    dose_of(folder / "second", plan_of())
    assert [path.name for path in find_case(folder).doses] == ["second"]


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="There is no folder"):
        find_case(tmp_path / "nowhere")
    with pytest.raises(InvalidInput, match="has no RTPLAN"):
        find_case(tmp_path)
    write_plan(plan_of(), tmp_path / "RP.dcm")
    with pytest.raises(InvalidInput, match="There is no CT"):
        find_case(tmp_path)
    ct_of(tmp_path / "CT", frame="1.2.9")
    found = find_case(tmp_path)
    assert found.structures is None and found.doses == ()


def test_damaged_files_are_passed_over_with_a_word(folder: Path) -> None:
    (folder / "empty.dcm").write_bytes(b"")
    found = find_case(folder)
    assert found.notes == ("'empty.dcm' was passed over: 'empty.dcm' is empty.",)


def test_what_could_not_be_read_stands_in_a_refusal(folder: Path) -> None:
    """A slice that is missing is often one of the files that were passed over."""
    (folder / "empty.dcm").write_bytes(b"")
    found = find_case(folder)
    assert found.unread == found.notes
    with pytest.raises(InvalidInput) as caught, telling(found.unread):
        raise InvalidInput("The CT lacks 1 slice(s)", "at 5 mm", "Export it", argument="x")
    assert str(caught.value) == (
        "The CT lacks 1 slice(s) (at 5 mm; 'empty.dcm' was passed over: 'empty.dcm' is empty). Export it with `x`."
    )
    with pytest.raises(InvalidInput, match=r"^A\.$"), telling(()):
        raise InvalidInput("A")
    with pytest.raises(InvalidInput, match="; 2 more files could not be read"), telling(["a."] * 5):
        raise InvalidInput("A")
    (folder / "a" / "y.dcm").unlink()
    with pytest.raises(InvalidInput, match=r"has no RTPLAN.*'empty.dcm' is empty"):
        find_case(folder)


def test_series_of_one_frame_are_told_apart_by_the_structure_set(folder: Path) -> None:
    ct_of(folder / "second")
    assert {path.parent.name for path in find_case(folder).ct} == {"images"}
    (folder / "a" / "b" / "x.dcm").unlink()
    with pytest.raises(InvalidInput, match=r"There are 2 CT series, and several of them fit .*`ct`"):
        find_case(folder)


def test_the_prescription_comes_back(tmp_path: Path) -> None:
    from spinedose.plan import PrescribedDose

    doses = (PrescribedDose(24.0, "PTV high", 3), PrescribedDose(18.0, "PTV low"))
    file = write_plan(replace(plan_of(), prescriptions=doses), tmp_path / "RP.dcm")
    assert sd.read_plan(file).prescriptions == doses
