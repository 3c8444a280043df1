"""Scenarios from files: every key of docs/formats/study.md, and what is wrong in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from spinedose.errors import InvalidInput
from spinedose.machine_change import MachineChange
from spinedose.scenarios import DensityChange, Registration, Scenario, read_scenarios
from spinedose.setup import Setup

WHOLE = """
schema_version = 1

[grid]
shifts_mm = [1, 2]
turns_deg = 1
axes = ["lateral", "yaw"]

[factorial]
vertical_mm = [-1, 0, 1]
pitch_deg = [-1, 1]

[random]
count = 3
seed = 7
systematic_mm = [1, 1, 2]
random_mm = 0.5
systematic_deg = 0.5
mean_mm = [0, 0, 1]

[[scenario]]
name = "all at once"
lateral_mm = 1.5
yaw_deg = -2
leaf_offset_mm = 0.2
spot_factor = 1.1
meterset_factor = 1.02
meterset = { 1 = 1.01 }
fractions = 3
density_g_cm3 = { PTV = 1.2 }
density_factor = { Lung_L = 0.9 }
hu_offset = 20
curve = "ours.toml"

[[scenario]]
name = "second CT"
ct = "CT2"
structures = "RS2.dcm"
registration_mm = [1, 0, 0, 10,  0, 1, 0, 0,  0, 0, 1, -20,  0, 0, 0, 1]
sample = true

[[scenario]]
name = "by file"
ct = "CT3"
registration = "REG.dcm"

[[scenario]]
name = "each its own"
fraction = [{ lateral_mm = 1 }, { roll_deg = 2 }]
"""


def _write(folder: Path, text: str, name: str = "study.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_every_key_is_understood(tmp_path: Path) -> None:
    found = read_scenarios(_write(tmp_path, WHOLE), fractions=2)
    assert len(found) == 4 + 2 + 6 + 3 + 4
    by_name = {one.name: one for one in found}
    assert by_name["lateral -2 mm"].setups[0] == Setup(lateral_cm=-0.2)
    assert by_name["vertical +1 mm, pitch -1 deg"].group == "factorial"
    assert by_name["all at once"] == Scenario(
        "all at once",
        Setup(lateral_cm=0.15000000000000002, yaw_deg=-2.0),
        MachineChange(0.020000000000000004, 1.1),
        meterset_factor=1.02,
        meterset_factors={1: 1.01},
        fractions=3,
        densities=(DensityChange("PTV", 1.2), DensityChange("Lung_L", 0.9, "times")),
        curve=str(tmp_path / "ours.toml"),
        hu_offset=20.0,
    )
    assert by_name["each its own"].setups == (Setup(lateral_cm=0.1), Setup(roll_deg=2.0))
    second = by_name["second CT"]
    assert second.ct is not None and second.is_sample
    assert isinstance(second.ct.registration, Registration)
    assert second.ct.ct == str(tmp_path / "CT2") and second.ct.structures == str(tmp_path / "RS2.dcm")
    assert second.ct.registration.shift_cm.tolist() == pytest.approx([1.0, 0.0, -2.0])
    by_file = by_name["by file"].ct
    assert by_file is not None and by_file.registration == str(tmp_path / "REG.dcm")
    drawn = [one for one in found if one.group == "random"]
    assert len(drawn) == 3 and all(len(one.setups) == 2 for one in drawn)


def test_a_csv_has_a_scenario_a_line(tmp_path: Path) -> None:
    text = "name,lateral_mm,yaw_deg,leaf_offset_mm,fractions,sample\na,1,,,,\nb,,-2,0.1,3,true\n\n"
    found = read_scenarios(_write(tmp_path, text, "s.csv"))
    assert found == (
        Scenario("a", Setup(lateral_cm=0.1)),
        Scenario("b", Setup(yaw_deg=-2.0), MachineChange(0.010000000000000002), fractions=3, is_sample=True),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "another version"),
        ("schema_version = 1", "no scenarios"),
        ("schema_version = 1\n[gird]\nshifts_mm = 1", "'gird'.*Write 'grid'"),
        ("schema_version = 1\n[grid]\nshift_mm = 1", "'shift_mm'.*Write 'shifts_mm'"),
        ("schema_version = 1\n[grid]\nshifts_mm = [-1]", r"\[grid\]: 'shifts_mm' is -1 "),
        ("schema_version = 1\n[grid]\nshifts_mm = 600", "'shifts_mm' is 600 .up to 500 mm"),
        ("schema_version = 1\n[factorial]\nyaw_deg = [200, 0]", "'yaw_deg' is 200 .up to 180 degrees"),
        ("schema_version = 1\n[random]\ncount = 3\nseed = 1\nrandom_mm = 60", "'random_mm' is 60 .*0 to 50 mm"),
        ("schema_version = 1\n[random]\ncount = 3\nseed = 1\nmean_mm = [0, 0, -501]", "'mean_mm' is -501 .up to 500"),
        ('schema_version = 1\n[[scenario]]\nname = "a"\nlateral_mm = -2000', "'lateral_mm' is -2000 .up to 500 mm"),
        ('schema_version = 1\n[[scenario]]\nname = "a"\nfractions = 0', "'fractions' is 0 .a treatment has one"),
        ('schema_version = 1\n[grid]\nshifts_mm = 1\naxes = ["up"]', "'up' is no axis"),
        ("schema_version = 1\n[random]\ncount = 3\nsystematic_mm = 1", "no 'seed'"),
        ("schema_version = 1\n[random]\ncount = 3.5\nseed = 1\nsystematic_mm = 1", "whole number"),
        ("schema_version = 1\n[[scenario]]\nlateral_mm = 1", "no name"),
        ('schema_version = 1\n[[scenario]]\nname = "a"\nlateral_mm = "1"', "'lateral_mm' is '1'"),
        ('schema_version = 1\n[[scenario]]\nname = "a"\nlateral_mm = nan', "'lateral_mm' is nan"),
        ('schema_version = 1\n[[scenario]]\nname = "a"\nstructures = "x"', "without 'ct'"),
        ('schema_version = 1\n[[scenario]]\nname = "a"\nct = "x"\nregistration_mm = [1, 2]', "2 numbers"),
        (
            'schema_version = 1\n[[scenario]]\nname = "a"\nct = "x"\nregistration = "y"\nregistration_mm = []',
            "as a file and as numbers",
        ),
        ('schema_version = 1\n[[scenario]]\nname = "a"\nmeterset = { first = 1.0 }', "'first' is no beam number"),
        (
            'schema_version = 1\n[[scenario]]\nname = "a"\nyaw_deg = 1\nfraction = [{}]',
            "and one of each",
        ),
        ('schema_version = 1\n[[scenario]]\nname = "a"\nsample = 1', "true or false"),
        ("schema_version = ", "no TOML"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as error:
        read_scenarios(_write(tmp_path, text))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,latral_mm\na,1\n", "'latral_mm'.*Write 'lateral_mm'"),
        ("name,yaw_deg\na,x\n", "line 2.*'yaw_deg' is 'x'"),
        ("name,yaw_deg\na,1,2\n", "more cells"),
        ("name,fractions\na,0\n", "line 2: 'fractions' is 0"),
        ("name,yaw_deg\n", "no scenarios"),
        ("name,name\na,b\n", "twice"),
        ("yaw_deg\n1\n", "no name"),
    ],
)
def test_what_is_wrong_in_a_csv(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        read_scenarios(_write(tmp_path, text, "s.csv"))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"'no.toml' cannot be read"):
        read_scenarios(tmp_path / "no.toml")
    with pytest.raises(InvalidInput, match=r"The file of scenarios '.+' is a folder"):
        read_scenarios(tmp_path)
    for content in (b"\0" * 128 + b"DICM", b"\xff\xfe\x00"):
        (tmp_path / "RP.dcm").write_bytes(content)
        with pytest.raises(InvalidInput, match=r"'RP\.dcm' is no text file \(it holds bytes that no text has\)"):
            read_scenarios(tmp_path / "RP.dcm")
