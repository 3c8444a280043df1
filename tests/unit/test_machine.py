"""Machines: the files that come with spinedose, and what is refused."""

from __future__ import annotations

import os
import shutil
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spinedose._resources import folder
from spinedose.errors import BeamDataError, InvalidInput, UnknownMachine
from spinedose.geometry import rotation_about
from spinedose.machine import (
    Calibration,
    ElectronContamination,
    ExtraFocal,
    Jaw,
    RadialTable,
    Spectrum,
    SpotComponent,
    list_machines,
    machine_for_beam,
    read_machine,
)
from spinedose.plan import Beam

MACHINES = ("elekta-agility", "varian-truebeam-hd120", "varian-truebeam-m120")


def plan_beam(
    boundaries_cm: np.ndarray | None, energy: str = "6X", *, jaw_x: bool = True, jaw_y_cm: float = 5.0
) -> Beam:
    """A static beam with all leaves at -1 and 1 cm."""
    pairs = 0 if boundaries_cm is None else len(boundaries_cm) - 1
    leaf = None if boundaries_cm is None else np.tile(np.array([-1.0, 1.0])[None, :, None], (2, 1, pairs))
    return Beam(
        number=3,
        name="LAO",
        machine="Linac 7",
        energy=energy,
        meterset_mu=100.0,
        cumulative_meterset=np.array([0.0, 1.0]),
        gantry_deg=np.zeros(2),
        collimator_deg=np.zeros(2),
        couch_deg=np.zeros(2),
        isocentre_cm=np.zeros(3),
        jaw_x_cm=np.array([[-5.0, 5.0]] * 2) if jaw_x else None,
        jaw_y_cm=np.array([[-jaw_y_cm, jaw_y_cm]] * 2),
        leaf_boundaries_cm=boundaries_cm,
        leaf_cm=leaf,
    )


def millennium() -> np.ndarray:
    """Leaf boundaries of a Millennium 120: 10 x 10, 40 x 5, 10 x 10 mm."""
    return np.concatenate([np.arange(-20, -10), np.arange(-10, 10, 0.5), np.arange(10, 21)]).astype(float)


def copy_of(name: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder("beam_data") / name, tmp_path / name))


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_the_machines_are_there_with_their_beams() -> None:
    assert set(MACHINES) <= set(list_machines())
    assert set(read_machine("varian-truebeam-m120").beams) == {"6X", "6FFF", "10X", "10FFF"}
    assert set(read_machine("varian-truebeam-hd120").beams) == {"6X", "6FFF", "10X", "10FFF"}
    assert set(read_machine("elekta-agility").beams) == {"6X"}


def test_leaf_boundaries_are_those_of_the_makers() -> None:
    np.testing.assert_allclose(read_machine("varian-truebeam-m120").mlc.boundaries_cm, millennium())
    hd = np.concatenate([np.arange(-11, -4, 0.5), np.arange(-4, 4, 0.25), np.arange(4, 11.1, 0.5)])
    np.testing.assert_allclose(read_machine("varian-truebeam-hd120").mlc.boundaries_cm, hd)
    np.testing.assert_allclose(read_machine("elekta-agility").mlc.boundaries_cm, np.arange(-20, 20.1, 0.5))
    assert read_machine("elekta-agility").jaw_x is None


@pytest.mark.parametrize("name", MACHINES)
def test_every_group_of_numbers_has_a_source(name: str) -> None:
    machine = read_machine(name)
    assert machine.provenance["status"]
    groups = {"spectrum", "radial_fluence", "softening", "spot", "extra_focal", "jaw_transmission", "mlc_transmission"}
    groups |= {"leaf_attenuation", "leaf_offset", "electrons", "monitor_backscatter", "calibration", "status"}
    for beam in machine.beams.values():
        assert groups <= set(beam.provenance)


def test_beams_without_flattening_filter_differ_as_physics_says() -> None:
    machine = read_machine("varian-truebeam-m120")
    for flat, free in (("6X", "6FFF"), ("10X", "10FFF")):
        assert machine.beam(free).spectrum.mean_energy_MeV < machine.beam(flat).spectrum.mean_energy_MeV
        assert machine.beam(free).radial_fluence.at(10.0) < 0.8 < 1.0 < machine.beam(flat).radial_fluence.at(10.0)
        assert machine.beam(free).extra_focal.weight < machine.beam(flat).extra_focal.weight
        assert np.all(machine.beam(free).softening.value == 1)
        assert np.all(np.diff(machine.beam(flat).softening.at(np.arange(0, 19, 2.0))) > 0)


def test_the_hash_follows_the_content_and_not_the_line_ends(tmp_path: Path) -> None:
    place = copy_of("elekta-agility", tmp_path)
    original = read_machine("elekta-agility").data_hash
    assert len(original) == 64
    assert read_machine(place).data_hash == original
    assert read_machine(place / "machine.toml").data_hash == original
    beam = place / "6X.toml"
    beam.write_bytes(beam.read_bytes().replace(b"\n", b"\r\n"))
    assert read_machine(place).data_hash == original
    edit(beam, "gy_per_mu = 0.00812", "gy_per_mu = 0.00813")
    assert read_machine(place).data_hash != original


def test_files_are_parsed_once_and_read_anew_when_they_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The change keeps the size of the file and its time."""
    place, parse, parsed = copy_of("elekta-agility", tmp_path), tomllib.loads, []

    def counted(text: str) -> dict[str, Any]:
        parsed.append(text)
        return parse(text)

    edit(place / "6X.toml", "gy_per_mu = 0.00812", "gy_per_mu = 0.00814")
    first = read_machine(place)
    monkeypatch.setattr(tomllib, "loads", counted)
    again = read_machine(place)
    assert not parsed
    assert again.data_hash == first.data_hash and again.beam("6X").spectrum is first.beam("6X").spectrum
    before = (place / "6X.toml").stat()
    edit(place / "6X.toml", "gy_per_mu = 0.00814", "gy_per_mu = 0.00815")
    os.utime(place / "6X.toml", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert read_machine(place).beam("6X").calibration.gy_per_mu == 0.00815
    assert len(parsed) == 2 and first.beam("6X").calibration.gy_per_mu == 0.00814


def test_a_machine_takes_its_name_from_its_folder_even_when_the_files_are_alike(tmp_path: Path) -> None:
    place = copy_of("elekta-agility", tmp_path)
    assert read_machine(place).name == "elekta-agility"
    assert read_machine(place.rename(tmp_path / "ours")).name == "ours"


def test_whoever_changes_a_provenance_changes_nobody_elses(tmp_path: Path) -> None:
    place = copy_of("elekta-agility", tmp_path)
    one = read_machine(place)
    one.beam("6X").provenance["setup"]["depth_shift_cm"] = 9.0
    assert read_machine(place).beam("6X").provenance["setup"].get("depth_shift_cm") != 9.0


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("machine.toml", "sad_cm = 100.0", "sad_cm = 10.0", "SAD"),
        ("machine.toml", "sad_cm = 100.0", "", "sad_cm"),
        ("machine.toml", "sad_cm = 100.0", 'sad_cm = "100"', "sad_cm"),
        ("machine.toml", "tip_radius_cm = 17.0", "tip_radius_cm = 3.0", "tip radius"),
        ("machine.toml", "schema_version = 1", "schema_version = 2", "schema version"),
        ("6X.toml", 'energy = "6X"', 'energy = "10X"', "energy"),
        ("6X.toml", "schema_version = 1", "schema_version = 1\nspot_cm = 3", "spot_cm"),
        ("6X.toml", "weight = 1.0", "weight = 0.9", "Spot weights"),
        ("6X.toml", "attenuation_per_cm = 0.75", "attenuation_per_cm = 0.1", "solid leaves"),
        ("6X.toml", "distance_cm = 12.5", "distance_cm = nan", "finite"),
        ("6X.toml", "gy_per_mu = 0.00812", "gy_per_mu = 8.12", "calibration"),
        ("6X.toml", "[spectrum]", "[spectrum", "cannot be read"),
        ("6X.toml", "distance_cm = 12.5", "distance_cm = 40.0", "extra-focal"),
    ],
)
def test_wrong_files_are_refused_by_name(tmp_path: Path, file: str, old: str, new: str, message: str) -> None:
    place = copy_of("elekta-agility", tmp_path)
    edit(place / file, old, new)
    with pytest.raises(BeamDataError, match=message) as caught:
        read_machine(place)
    assert "6X" in str(caught.value) or "elekta-agility" in str(caught.value)


def test_unknown_machine_and_energy_say_what_there_is() -> None:
    with pytest.raises(UnknownMachine, match=r"varian-truebeam-m120.*`machine`"):
        read_machine("clinac-4")
    with pytest.raises(UnknownMachine, match=r"no beam '15X'.*6X.*`machine`"):
        read_machine("elekta-agility").beam("15X")


@pytest.mark.parametrize("name", MACHINES)
def test_leaf_boundaries_choose_the_machine(name: str) -> None:
    boundaries = read_machine(name).mlc.boundaries_cm + 0.009  # 0.09 mm: within the tolerance of 0.1 mm
    machine, warnings = machine_for_beam(plan_beam(boundaries, jaw_x=name != "elekta-agility"))
    assert machine.name == name
    assert len(warnings) == 1 and "Linac 7" in warnings[0] and name in warnings[0]


def test_boundaries_beyond_the_tolerance_are_unknown() -> None:
    boundaries = millennium()
    boundaries[30] += 0.011
    with pytest.raises(UnknownMachine, match=r"'LAO'.*Linac 7.*fit no machine"):
        machine_for_beam(plan_beam(boundaries))
    with pytest.raises(UnknownMachine, match="40 pairs"):
        machine_for_beam(plan_beam(np.arange(-20, 21.0)))  # Elekta MLCi: no data


def test_wider_outermost_leaves_are_tolerated_with_a_warning() -> None:
    boundaries = millennium()
    boundaries[[0, -1]] = -20.4, 20.4
    machine, warnings = machine_for_beam(plan_beam(boundaries))
    assert machine.name == "varian-truebeam-m120"
    assert any("outermost" in text and "20.40" in text for text in warnings)


def test_jaws_alone_need_a_name() -> None:
    with pytest.raises(UnknownMachine, match="`machine`"):
        machine_for_beam(plan_beam(None))
    machine, warnings = machine_for_beam(plan_beam(None), "varian-truebeam-hd120")
    assert machine.name == "varian-truebeam-hd120" and warnings == ()


@pytest.mark.parametrize(
    ("machine", "energy", "is_stated", "is_said"),
    [
        ("varian-truebeam-hd120", "6X", False, True),
        ("varian-truebeam-hd120", "6X", True, False),
        ("varian-truebeam-hd120", "6FFF", True, False),
        ("elekta-agility", "6X", False, False),  # has no beam without a filter
    ],
)
def test_a_fluence_mode_that_is_not_stated_is_said_where_it_matters(
    machine: str, energy: str, is_stated: bool, is_said: bool
) -> None:
    beams = [replace(plan_beam(None, energy), number=number, is_fluence_mode_stated=is_stated) for number in (1, 2)]
    said = [
        {text for text in machine_for_beam(beam, machine)[1] if "does not state the fluence mode" in text}
        for beam in beams
    ]
    assert len(said[0]) == is_said
    assert said[0] == said[1]  # one warning for all beams of a plan


def test_a_named_machine_must_fit() -> None:
    with pytest.raises(InvalidInput, match="60 pairs"):
        machine_for_beam(plan_beam(millennium()), "varian-truebeam-hd120")
    with pytest.raises(UnknownMachine, match="15X"):
        machine_for_beam(plan_beam(millennium(), "15X"))
    with pytest.raises(InvalidInput, match="X jaw"):
        machine_for_beam(plan_beam(millennium(), jaw_x=False))


def test_jaws_without_effect_and_beyond_the_leaves_are_reported() -> None:
    _, warnings = machine_for_beam(plan_beam(np.arange(-20, 20.1, 0.5)))
    assert any("X jaw" in text for text in warnings)
    hd = read_machine("varian-truebeam-hd120").mlc.boundaries_cm
    _, warnings = machine_for_beam(plan_beam(hd, jaw_y_cm=15.0))
    assert any("beyond the outermost leaves" in text for text in warnings)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Spectrum(np.array([1.0, 2.0]), np.array([0.5, 0.4])),
        lambda: Spectrum(np.array([2.0, 1.0]), np.array([0.5, 0.5])),
        lambda: Spectrum(np.array([1.0, 2.0]), np.array([1.5, -0.5])),
        lambda: RadialTable(np.array([1.0, 2.0]), np.array([1.0, 1.0])),
        lambda: RadialTable(np.array([0.0, 2.0]), np.array([0.9, 1.0])),
        lambda: SpotComponent(1.2, 0.1, 0.1),
        lambda: SpotComponent(1.0, -0.1, 0.1),
        lambda: ExtraFocal(12.5, 0.0, 0.1),
        lambda: ElectronContamination(0.01, 0.0, 3.0),
        lambda: Calibration(0.01, 10.0, 10.0, 10.0),
        lambda: Jaw(40.0, 30.0, 35.0),
        lambda: Jaw(30.0, 40.0, 45.0),
    ],
)
def test_wrong_data_cannot_be_constructed(make: object) -> None:
    with pytest.raises(BeamDataError):
        make()  # type: ignore[operator]


def test_arrays_of_a_machine_cannot_be_changed() -> None:
    machine = read_machine("elekta-agility")
    with pytest.raises(ValueError, match="read-only"):
        machine.mlc.boundaries_cm[0] = 0.0
    with pytest.raises(TypeError):
        machine.beams["6X"] = machine.beam("6X")  # type: ignore[index]
    assert replace(machine.beam("6X"), leaf_offset_cm=0.01).leaf_offset_cm == 0.01


def test_spot_turns_against_the_collimator() -> None:
    """Hand-worked: a spot long along gantry x lies along collimator -y after the collimator turned by +90 degrees."""
    spot = SpotComponent(1.0, 0.2, 0.1, rotation_deg=0.0)
    np.testing.assert_allclose(spot.covariance_cm2(90.0), np.diag([0.01, 0.04]), atol=1e-12)
    # At 45 degrees: vector (1, 0) in the gantry system is (1, -1) / sqrt 2 in the collimator's: negative correlation.
    np.testing.assert_allclose(spot.covariance_cm2(45.0), [[0.025, -0.015], [-0.015, 0.025]], atol=1e-12)


def test_spot_at_many_collimator_angles_is_that_at_each() -> None:
    spot, angle = SpotComponent(1.0, 0.2, 0.1, rotation_deg=15.0), np.array([[0.0, 30.0], [90.0, 300.0]])
    found = spot.covariance_cm2(angle)
    assert found.shape == (2, 2, 2, 2)
    for k in np.ndindex(2, 2):
        turn = rotation_about("z", 15.0 - angle[k])[:2, :2]
        np.testing.assert_allclose(found[k], turn @ np.diag([0.04, 0.01]) @ turn.T, atol=1e-15)
