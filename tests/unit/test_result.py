"""The result and its metadata."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from spinedose.errors import InvalidInput
from spinedose.grid import Grid, Volume
from spinedose.result import DISCLAIMER, Dose, ResultInfo

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
    again = ResultInfo(**info)
    assert again.as_dict() == info


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
    import pydicom

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
