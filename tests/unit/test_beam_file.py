"""A beam that is written is the beam that is read."""

from __future__ import annotations

import datetime
import math
import shutil
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spinedose.beam_file import WIDTH, beam_toml, write_beam
from spinedose.errors import BeamDataError, InvalidInput
from spinedose.machine import (
    BeamModel,
    RadialTable,
    Spectrum,
    SpotComponent,
    list_machines,
    machine_folder,
    read_machine,
)

M120 = "varian-truebeam-m120"
SHIPPED = [(name, beam) for name in list_machines() for beam in read_machine(name).beams]

TABLE = 1e-7
"""Tables have seven decimals."""
NUMBER = 5e-6
"""Single numbers have six digits: half of the last one of 1.00000."""


@pytest.fixture
def model() -> BeamModel:
    return read_machine(M120).beams["6X"]


def read_back(model: BeamModel, folder: Path) -> BeamModel:
    shutil.copy(machine_folder(M120) / "machine.toml", folder)
    write_beam(model, folder)
    return read_machine(folder).beams[model.energy]


def assert_same(found: BeamModel, wanted: BeamModel) -> None:
    for name in ("spectrum", "radial_fluence", "softening"):
        for part in ("energy_MeV", "weight", "radius_cm", "value"):
            if hasattr(getattr(wanted, name), part):
                a, b = (getattr(getattr(m, name), part) for m in (found, wanted))
                np.testing.assert_allclose(a, b, rtol=0, atol=TABLE, err_msg=f"{name}.{part}")
    for name in BeamModel.__slots__:
        value = getattr(wanted, name)
        if isinstance(value, float):
            assert getattr(found, name) == pytest.approx(value, rel=NUMBER, abs=0), name
    for name in ("extra_focal", "electrons", "calibration"):
        for part in type(getattr(wanted, name)).__slots__:
            a, b = (getattr(getattr(m, name), part) for m in (found, wanted))
            assert a == pytest.approx(b, rel=NUMBER, abs=0), f"{name}.{part}"
    assert len(found.spot) == len(wanted.spot)
    for a, b in zip(found.spot, wanted.spot, strict=True):
        assert a.weight == pytest.approx(b.weight, abs=2 * TABLE)
        assert (a.sigma_x_cm, a.sigma_y_cm, a.rotation_deg) == pytest.approx(
            (b.sigma_x_cm, b.sigma_y_cm, b.rotation_deg), rel=NUMBER
        )


@pytest.mark.parametrize(("name", "beam"), SHIPPED)
def test_shipped_beams_survive(name: str, beam: str, tmp_path: Path) -> None:
    wanted = read_machine(name).beams[beam]
    shutil.copy(machine_folder(name) / "machine.toml", tmp_path)
    path = write_beam(wanted, tmp_path)
    found = read_machine(tmp_path).beams[beam]
    assert path == tmp_path / f"{beam}.toml"
    assert_same(found, wanted)
    assert dict(found.provenance) == dict(wanted.provenance)
    assert beam_toml(found) == beam_toml(wanted)  # once written, numbers do not move any more
    assert sorted(item.name for item in tmp_path.iterdir()) == sorted(["machine.toml", path.name])


def test_numbers_of_a_fit_survive(model: BeamModel, tmp_path: Path) -> None:
    """Numbers that no one rounded, three spots of a third each, and a scatter angle."""
    rng = np.random.default_rng(3)
    weight = rng.random(40)
    radius = np.concatenate([[0.0], np.cumsum(0.1 + rng.random(20))])
    fitted = replace(
        model,
        spectrum=Spectrum(np.cumsum(rng.random(40)), weight / weight.sum()),
        radial_fluence=RadialTable(radius, np.concatenate([[1.0], 1 + 0.1 * rng.random(20)])),
        spot=tuple(SpotComponent(1 / 3, 0.1 * rng.random(), 0.1 * rng.random(), -33.3 * n) for n in range(3)),
        extra_focal=replace(model.extra_focal, sigma_cm=math.pi / 2, scatter_angle_deg=16 + 1 / 7),
        leaf_offset_cm=-0.0123456789,
        monitor_backscatter=1e-5,
    )
    found = read_back(fitted, tmp_path)
    assert_same(found, fitted)
    assert sum(component.weight for component in found.spot) == pytest.approx(1, abs=1e-12)


def test_an_isotropic_source_stays_one(model: BeamModel, tmp_path: Path) -> None:
    round_about = replace(model, extra_focal=replace(model.extra_focal, scatter_angle_deg=math.inf))
    assert "\nscatter_angle_deg =" not in beam_toml(round_about)
    assert math.isinf(read_back(round_about, tmp_path).extra_focal.scatter_angle_deg)


def test_provenance_may_be_nested(model: BeamModel, tmp_path: Path) -> None:
    wanted: dict[str, Any] = {
        "status": 'says "so"\n\\ tab\t DEL\x7f 3 µm – ü',
        "number": 3,
        "share": 0.25,
        "small": 1e-9,
        "is_fit": True,
        "date": datetime.date(2026, 11, 26),
        "none": [],
        "texts": ["a" * 70, "b" * 70],
        "numbers": list(range(60)),
        "mixed": [{"file": "a.csv", "points": 3}],
        "a key": {"deeper": {"value": 1.5}, "plain": "x"},
        "fit": {},
    }
    found = read_back(replace(model, provenance=wanted), tmp_path)
    assert dict(found.provenance) == wanted


def test_numpy_numbers_are_numbers(model: BeamModel) -> None:
    text = beam_toml(replace(model, provenance={"a": np.float64(0.5), "b": np.array([1.0, 2.0]), "c": np.int64(3)}))
    assert tomllib.loads(text)["provenance"] == {"a": 0.5, "b": [1.0, 2.0], "c": 3}


def test_what_a_file_cannot_hold_is_refused(model: BeamModel, tmp_path: Path) -> None:
    with pytest.raises(BeamDataError, match=r"\[provenance.fit\] sigma holds a NoneType"):
        write_beam(replace(model, provenance={"fit": {"sigma": None}}), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("energy", ["../6X", "machine", "6 X", ".."])
def test_an_energy_that_is_no_file_name_is_refused(model: BeamModel, tmp_path: Path, energy: str) -> None:
    with pytest.raises(InvalidInput, match="is no file name"):
        write_beam(replace(model, energy=energy), tmp_path)


def test_a_failed_write_leaves_the_old_file(model: BeamModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "6X.toml").write_text("old")

    def fail(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="No space"):
        write_beam(model, tmp_path)
    assert [item.name for item in tmp_path.iterdir()] == ["6X.toml"]
    assert (tmp_path / "6X.toml").read_text() == "old"


@pytest.mark.parametrize(("name", "beam"), SHIPPED)
def test_the_text_is_for_readers(name: str, beam: str) -> None:
    text = beam_toml(read_machine(name).beams[beam])
    tables = text.split("\n[provenance]")[0]
    assert max(map(len, tables.splitlines())) <= WIDTH + 2
    for word in ("# from the target", "# primary, in air", "README.md"):
        assert word in tables
    assert "e-" not in tables  # no 6.7e-05 where 0.000067 can be read; shipped numbers are not that small
