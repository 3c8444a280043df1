"""The result and its metadata."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from importlib import resources
from pathlib import Path

import jsonschema
import numpy as np
import pydicom
import pytest

from spinedose.check.findings import _TO_MEDIUM, _of_convention
from spinedose.density import CtImage
from spinedose.dicom.dose import read_dose
from spinedose.errors import InvalidInput
from spinedose.fingerprint import fingerprint
from spinedose.grid import Grid, Volume
from spinedose.plan import Identity
from spinedose.result import DISCLAIMER, DOSE_QUANTITY, Dose, ResultInfo
from spinedose.settings import Settings
from spinedose.structures import Structure, StructureSet

GRID = Grid((0.0, 0.0, 0.0), (0.5, 0.5, 0.5), (3, 4, 5))


def a_dose(make_plan: Callable[..., object], **changes: object) -> Dose:
    values = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    facts: dict[str, object] = {
        "volume": Volume(GRID, values),
        "metadata": ResultInfo(
            "1.2.3", "cpu", "a processor", warnings=("mind this",), settings={"directions": {"a/6X": 200}}
        ),
        "plan": make_plan(fractions=7),
    }
    return Dose(**(facts | changes))


def test_values_grid_and_samples(make_plan) -> None:
    dose = a_dose(make_plan)
    assert dose.values.dtype == np.float32 and dose.values.shape == (3, 4, 5)
    assert dose.grid == GRID and dose.fractions == 7
    assert dose.sample([0.5, 0.0, 0.0]) == pytest.approx(1.0)
    np.testing.assert_allclose(dose.sample([[0.25, 0.5, 0.0], [0.0, 0.0, 1.0]]), [5.5, 40.0])
    assert np.isnan(dose.sample([9.0, 0.0, 0.0]))
    with pytest.raises(ValueError, match="read-only"):
        dose.values[0, 0, 0] = 1.0


def test_metadata_survives_json(make_plan) -> None:
    info = json.loads(a_dose(make_plan).to_json())
    assert info["version"] == "1.2.3" and info["backend"] == "cpu"
    assert info["warnings"] == ["mind this"] and info["settings"]["directions"] == {"a/6X": 200}
    assert info["disclaimer"] == DISCLAIMER and "water" in info["dose_quantity"]
    known = a_dose(make_plan).metadata.as_dict()
    assert {key: info[key] for key in known} == known
    assert ResultInfo(**known).as_dict() == known


def schema() -> dict[str, object]:
    """The published form."""
    text = resources.files("spinedose").joinpath("dose.schema.json").read_text(encoding="utf-8")
    return json.loads(text)  # type: ignore[no-any-return]


def full_settings() -> dict[str, object]:
    return {**asdict(Settings()), "directions": {"a/6X": 200}, "pixel_cm": 0.1}


def test_json_says_what_was_computed_from_what(make_plan, make_beam, tmp_path: Path) -> None:
    plan = make_plan(
        make_beam(number=3), uid="1.2.3", frame_of_reference_uid="1.2.4", identity=Identity(patient_name="Doe^Jane")
    )
    structures = StructureSet((), label="set", uid="1.2.5", frame_of_reference_uid="1.2.4")
    ct = CtImage(Volume(GRID, np.zeros(GRID.shape, np.int16)), uid="1.2.6", frame_of_reference_uid="1.2.4")
    info = ResultInfo("1.2.3", "cpu", "a processor", settings=full_settings())
    values = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    dose = Dose(
        Volume(GRID, values), info, plan, ct, beams={3: Volume(GRID, values)}, structures=structures,
        beam_models={3: "a/6X"},
    )  # fmt: skip
    saved = [dose.save(tmp_path / "RD.dcm"), *dose.save_beams(tmp_path / "made" / "for them")]
    facts = json.loads(dose.to_json(saved))
    jsonschema.validate(facts, schema())
    assert facts["schema_version"] == 1
    inputs = facts["inputs"]
    assert (inputs["plan_uid"], inputs["structure_set_uid"], inputs["ct_uid"]) == ("1.2.3", "1.2.5", "1.2.6")
    assert (inputs["frame_of_reference_uid"], inputs["plan_label"]) == ("1.2.4", "test")
    assert inputs["ct_hash"] == fingerprint(ct) and inputs["structures_hash"] == fingerprint(structures)
    assert inputs["plan_hash"] == fingerprint(plan)
    assert facts["maximum"] == {"dose_gy": 59.0, "point_cm": [2.0, 1.5, 1.0]}
    assert facts["grid"] == {"origin_cm": [0.0] * 3, "spacing_cm": [0.5] * 3, "shape": [3, 4, 5]}
    (beam,) = facts["beams"]
    assert beam == {
        "number": 3, "name": "field", "machine": "TrueBeam", "energy": "6X", "beam_model": "a/6X", "meterset_mu": 100.0
    }  # fmt: skip
    whole, part = facts["output"]
    header = pydicom.dcmread(saved[0], stop_before_pixels=True)
    assert (whole["file"], whole["sop_instance_uid"]) == ("RD.dcm", header.SOPInstanceUID)
    assert (whole["beam_number"], part["beam_number"], whole["plan_uid"]) == (None, 3, "1.2.3")
    assert whole["sha256"] == hashlib.sha256(saved[0].read_bytes()).hexdigest()
    assert "Doe" not in dose.to_json(saved)
    (tmp_path / "other.dcm").write_text("other")
    with pytest.raises(InvalidInput, match="no dose that spinedose wrote"):
        dose.to_json([tmp_path / "other.dcm"])
    assert json.loads(dose.to_json(iter(saved)))["output"] == facts["output"]
    for wrong in (None, "RD.dcm", [3]):
        with pytest.raises(InvalidInput, match="saved as are given as "):
            dose.to_json(wrong)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match=r"other\.dcm' cannot be used"):
        dose.save_beams(tmp_path / "other.dcm")
    os.mkfifo(tmp_path / "pipe")
    for overwrite in (True, False):  # looking into a pipe would wait for ever
        with pytest.raises(InvalidInput, match="is a device or a pipe"):
            dose.save(tmp_path / "pipe", overwrite=overwrite)
    assert (tmp_path / "pipe").is_fifo()


def test_a_dose_without_a_plan_has_json_too(make_plan) -> None:
    info = ResultInfo("1", "cpu", "p", settings={**asdict(Settings()), "directions": 200})
    facts = json.loads(a_dose(make_plan, plan=None, metadata=info).to_json())
    jsonschema.validate(facts, schema())
    assert facts["beams"] == [] and facts["inputs"]["plan_hash"] is None and facts["output"] == []


def test_the_schema_is_that_of_the_check_where_both_have_the_same() -> None:
    text = resources.files("spinedose.check").joinpath("check.schema.json").read_text(encoding="utf-8")
    calculation = json.loads(text)["$defs"]["calculation"]["properties"]
    ours = schema()["properties"]
    assert {k: v for k, v in calculation.items() if k != "settings"} == {
        k: ours[k]
        for k in calculation
        if k != "settings"  # type: ignore[index]
    }


def test_points_that_are_none_are_told_of(make_plan) -> None:
    dose = a_dose(make_plan)
    for points, words in (([(0, 0)], "have 2 coordinates"), (5, "have no coordinates"), (["a"], "some are no numbers")):
        with pytest.raises(InvalidInput, match=f"{words}.*three coordinates"):
            dose.sample(points)


def test_a_line_about_it_says_what_it_is(make_plan, make_beam) -> None:
    dose = a_dose(make_plan)
    assert repr(dose) == ("<Dose of 'test', 7 fraction(s): 5 x 4 x 3 voxels of 0.5 x 0.5 x 0.5 cm, maximum 59 Gy>")
    assert repr(dose.volume) == "<Volume of 5 x 4 x 3 voxels of 0.5 x 0.5 x 0.5 cm, float32, 0 to 59>"
    plan = make_plan(make_beam(), make_beam(number=2, energy="10X"), identity=Identity(patient_name="Doe^Jane"))
    assert repr(plan) == "<Plan 'test': 2 beam(s) of 6X, 10X, 200 MU, 1 fraction(s), HFS>"
    assert repr(plan.beams[0]) == "<Beam 1 'field': TrueBeam 6X, 100 MU, gantry 0 degrees, 2 control points>"
    contour = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
    drawn = tuple(Structure(k, f"s{k}", "PTV", (contour,)) for k in range(10))
    assert repr(drawn[1]) == "<Structure 1 's1', PTV: 1 contour(s)>"
    assert repr(StructureSet(drawn, label="a")) == (
        "<StructureSet 'a': 10 structure(s): s0, s1, s2, s3, s4, s5, s6, s7, ...>"
    )
    ct = CtImage(Volume(GRID, np.zeros(GRID.shape, np.int16)))
    assert repr(ct) == "<CtImage HFS: 5 x 4 x 3 voxels of 0.5 x 0.5 x 0.5 cm>"


@pytest.mark.parametrize("dose_to", ["water", "medium"])
def test_the_file_says_what_it_is_a_dose_to(make_plan, make_beam, tmp_path: Path, dose_to: str) -> None:
    plan = make_plan(make_beam(number=3), uid="1.2.3", frame_of_reference_uid="1.2.4")
    info = ResultInfo("1", "cpu", "p", dose_quantity=DOSE_QUANTITY[dose_to])
    dose = a_dose(make_plan, plan=plan, metadata=info)
    dose = replace(dose, beams={3: dose.volume})
    for path in (dose.save(tmp_path / "RD.dcm"), *dose.save_beams(tmp_path)):
        header = pydicom.dcmread(path)
        assert f"dose to {dose_to}" in header.DoseComment and f"dose to {dose_to}" in header.SeriesDescription
        assert header.DoseComment.startswith("Not for clinical use; ")
        assert max(len(header.DoseComment), len(header.SeriesDescription)) <= 64
        back = read_dose(path)
        # what the check searches for a dose to medium (spinedose.check.findings)
        assert bool(_TO_MEDIUM.search(f"{back.system} {back.description}")) == (dose_to == "medium")
        assert not list(_of_convention(back, dose_to, "")), "the check reads it"
        (other,) = _of_convention(back, "medium" if dose_to == "water" else "water", "")
        assert other.code == "dose_convention_differs"


def test_only_a_dose_of_the_same_plan_is_replaced(make_plan, make_beam, tmp_path: Path) -> None:
    plan = make_plan(make_beam(number=3), uid="1.2.3", frame_of_reference_uid="1.2.4")
    dose = a_dose(make_plan, plan=plan)
    dose = replace(dose, beams={3: dose.volume})
    path = dose.save(tmp_path / "RD.dcm")
    first = pydicom.dcmread(path).SOPInstanceUID
    dose.save(path)
    dose.save_beams(tmp_path)
    dose.save_beams(tmp_path)
    assert pydicom.dcmread(path).SOPInstanceUID != first
    other = replace(dose, plan=replace(plan, uid="1.2.9"))
    with pytest.raises(
        InvalidInput, match=r"'.*RD.dcm' is there, and is the dose of another plan or beam \(it would be"
    ):
        other.save(path)
    header = pydicom.dcmread(path)
    header.Manufacturer = "A planning system"
    header.save_as(path)
    (tmp_path / "text.dcm").write_text("text")
    for name in ("RD.dcm", "text.dcm"):
        before = (tmp_path / name).read_bytes()
        with pytest.raises(InvalidInput, match="is no dose of spinedose"):
            dose.save(tmp_path / name)
        assert (tmp_path / name).read_bytes() == before
        dose.save(tmp_path / name, overwrite=True)
        assert read_dose(tmp_path / name).plan_uid == "1.2.3"
    with pytest.raises(InvalidInput, match="a path is asked for"):
        dose.save(5)


def test_result_cannot_be_changed(make_plan) -> None:
    dose = a_dose(make_plan)
    with pytest.raises(AttributeError):
        dose.volume = None
    with pytest.raises(AttributeError):
        dose.metadata.version = "2"


def test_beams_are_saved_only_if_there_are_any(make_plan, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="per_beam=True"):
        a_dose(make_plan).save_beams(tmp_path)
    assert not list(tmp_path.iterdir())


def test_plan_and_beams_are_saved_as_dicom(make_plan, make_beam, tmp_path: Path) -> None:
    plan = make_plan(make_beam(number=3), make_beam(number=5), uid="1.2.3", frame_of_reference_uid="1.2.4", fractions=2)
    values = np.random.default_rng(1).uniform(0, 2, (3, 4, 5)).astype(np.float32)
    dose = a_dose(
        make_plan, plan=plan, volume=Volume(GRID, values), beams={n: Volume(GRID, values / 2) for n in (3, 5)}
    )
    path = dose.save(tmp_path / "RD.dcm")
    paths = dose.save_beams(tmp_path)
    assert [p.name for p in (path, *paths)] == ["RD.dcm", "RD_beam_3.dcm", "RD_beam_5.dcm"]
    whole, beam = pydicom.dcmread(path), pydicom.dcmread(paths[0])
    assert whole.DoseSummationType == "PLAN" and beam.DoseSummationType == "BEAM"
    read = whole.pixel_array * float(whole.DoseGridScaling)
    np.testing.assert_allclose(read, values, atol=1e-6)
    np.testing.assert_allclose(beam.pixel_array * float(beam.DoseGridScaling), values / 2, atol=1e-6)
    assert "1.2.3" in str(beam.SoftwareVersions)
