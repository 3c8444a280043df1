"""STUDY.toml: what it says is proved when it is read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from spinedose.batch.compute import scenario_facts
from spinedose.batch.patients import PatientFiles
from spinedose.batch.results import digest
from spinedose.batch.study_file import StudyFile, read_study_file
from spinedose.batch.tasks import key_of
from spinedose.density import CtImage
from spinedose.errors import InvalidInput, SpinedoseError
from spinedose.scenarios import OtherCt, Scenario
from spinedose.setup import Setup

WHOLE = """
schema_version = 1
name = "setup"
output = "out"

[patients]
folders = ["cohort/*", "more/p9"]
exclude = ["cohort/p2"]

[settings]
spacing_mm = 3.0
directions = 200
backend = "cpu"
machine = "varian-truebeam-m120"
fine = ["PTV"]
scenarios_a_task = 5
[[settings.material]]
name = "titanium"
structure = "ROD"

[measured]
metrics = ["D95%[Gy]", "Mean[Gy]"]
structures = ["PTV", "SpinalCord"]
protocol = "spine"
prescription_gy = 24
[measured.chosen]
SpinalCord = "Cord_final"

[grid]
shifts_mm = [1, 2]

[random]
count = 2
seed = 7
random_mm = 1.0
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name in ("cohort/p1", "cohort/p2", "cohort/p3", "more/p9"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "cohort" / "notes.txt").touch()
    return tmp_path


def _read(place: Path, text: str = WHOLE) -> StudyFile:
    file = place / "study.toml"
    file.write_text(text)
    return read_study_file(file)


def _patient(name: str = "cohort/p1", fractions: int = 3) -> PatientFiles:
    return PatientFiles(name, Path("RP"), (Path("a"),), Path("RS"), "1", "2", "3", ("4",), fractions)


def test_everything_is_read(place: Path) -> None:
    found = _read(place)
    work = found.asked.work
    assert found.name == "setup"
    assert found.scenarios_a_task == 5
    assert [name for name, _ in found.asked.folders] == ["cohort/p1", "cohort/p3", "more/p9"]
    assert found.asked.output == place / "out"
    assert work.spacing_cm == pytest.approx(0.3)
    assert work.settings.directions == 200
    assert work.materials[0].material == "titanium"
    assert work.metrics == ("D95%[Gy]", "Mean[Gy]")
    assert work.regions == ("PTV", "SpinalCord")
    assert work.prescription_gy == 24.0
    assert work.chosen == (("SpinalCord", "Cord_final"),)
    assert isinstance(hash(work), int)  # workers remember patients by it


def test_the_planned_one_is_first_and_random_errors_are_those_of_the_patients_fractions(place: Path) -> None:
    scenarios = _read(place).asked.scenarios
    three, five = scenarios(_patient(fractions=3)), scenarios(_patient("cohort/p3", fractions=5))
    assert len(three) == 1 + 3 * 2 * 2 + 2  # planned; axes, amounts, signs; random
    assert three[0].is_nominal
    assert [one.name for one in three] == [one.name for one in five]
    assert (len(three[-1].setups), len(five[-1].setups)) == (3, 5)
    assert three[-1].setups == five[-1].setups[:3]  # the same draws for all patients


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("schema_version = 1", "schema_version = 2", "version 2"),
        ('name = "setup"', 'nmae = "setup"', r"unknown key 'nmae'.*Write 'name'"),
        ("exclude = ", "exlude = ", r"\[patients\] has an unknown key 'exlude'.*Write 'exclude'"),
        ("spacing_mm", "spacing_cm", r"unknown key 'spacing_cm'.*Write 'spacing_mm'"),
        ("spacing_mm = 3.0", "spacing_mm = 30", "Spacing is 3.0 cm"),
        ("spacing_mm = 3.0", "spacing_mm = '3'", "it is a number"),
        ("directions = 200", "directions = 200.5", "whole number"),
        ('backend = "cpu"', 'backend = "gpu"', "no backend 'gpu'"),
        ("varian-truebeam-m120", "varian-truebean-m120", "was not found"),
        ("titanium", "titanum", "titanum"),
        ("D95%[Gy]", "D95", "no dose metric"),
        ('protocol = "spine"', 'protocol = "spein"', "spein"),
        ('"cohort/*"', '"kohort/*"', "'kohort/\\*' names no folder"),
        ('"cohort/*"', '"cohort/*.txt"', "files only"),
        ("seed = 7", "sed = 7", "unknown key 'sed'.*'seed'"),
        ("exclude = ", 'bolus = "ignor"\nexclude = ', "it is one of refuse, ignore"),
        ("[grid]", "[gird]", r"unknown key 'gird'.*Write 'grid'"),
        ("scenarios_a_task = 5", "scenarios_a_task = 0", "at least one"),
        ('output = "out"', 'output = "cohort"', "patient lies in the output folder"),
        ("[random]", "[random", "cannot be read"),
    ],
)
def test_what_is_wrong_is_refused(place: Path, old: str, new: str, message: str) -> None:
    assert old in WHOLE
    with pytest.raises(SpinedoseError, match=message):
        _read(place, WHOLE.replace(old, new, 1))


def test_a_study_without_patients_is_refused(place: Path) -> None:
    with pytest.raises(InvalidInput, match="has no 'patients'"):
        _read(place, "schema_version = 1\n")
    with pytest.raises(InvalidInput, match="There is no study file"):
        read_study_file(place / "other.toml")


def test_names_in_tables_are_unique(place: Path) -> None:
    text = WHOLE + '[[scenario]]\nname = "nominal"\nmeterset_factor = 1.1\n'
    with pytest.raises(InvalidInput, match="two scenarios called 'nominal'"):
        _read(place, text)


def test_another_ct_is_that_of_the_patient_and_a_curve_lies_beside_the_file(place: Path) -> None:
    text = WHOLE + '[[scenario]]\nname = "later"\nct = "CT2"\ncurve = "ours.toml"\n'
    scenarios = _read(place, text).asked.scenarios
    for name in ("cohort/p1", "cohort/p3"):
        later = scenarios(_patient(name))[-1]
        assert later.ct is not None
        assert Path(str(later.ct.ct)) == place / name / "CT2"
        assert Path(later.curve) == place / "ours.toml"


def test_scenarios_may_come_from_a_list(place: Path) -> None:
    (place / "list.csv").write_text("name,lateral_mm\nleft,2\n")
    text = WHOLE.split("[grid]")[0].replace('output = "out"', 'output = "out"\nscenarios = "list.csv"')
    assert [one.name for one in _read(place, text).asked.scenarios(_patient())] == ["nominal", "left"]
    with pytest.raises(InvalidInput, match="in another file and"):
        _read(place, text + "[grid]\nshifts_mm = [1]\n")


# --- what is hashed ---------------------------------------------------------------------------------------------------


def test_the_key_hangs_on_every_input_and_on_no_name(place: Path) -> None:
    work = _read(place).asked.work
    patient, scenario = _patient(), Scenario("a", Setup(lateral_cm=0.1))
    key = key_of(work, patient, scenario)
    same = [
        key_of(work, replace(patient, name="other", plan=Path("RP2"), notes=("odd",)), scenario),
        key_of(work, patient, replace(scenario, name="b", group="grid", is_sample=True)),
        key_of(replace(work, plan="label", machine=""), patient, scenario),  # told by the contents of their files
    ]
    assert same == [key] * len(same)
    other = [
        key_of(work, replace(patient, plan_digest="9"), scenario),
        key_of(work, replace(patient, ct_digest="9"), scenario),
        key_of(work, replace(patient, structures_digest="9"), scenario),
        key_of(work, replace(patient, beam_data=("9",)), scenario),
        key_of(work, patient, Scenario("a", Setup(lateral_cm=0.2))),
        key_of(replace(work, spacing_cm=0.25), patient, scenario),
        key_of(replace(work, settings=replace(work.settings, moments=4)), patient, scenario),
        key_of(replace(work, metrics=("D95%[Gy]",)), patient, scenario),
        key_of(replace(work, backend="cuda"), patient, scenario),
        key_of(replace(work, protocol=""), patient, scenario),
    ]
    assert len({key, *other}) == 1 + len(other)
    assert key_of(replace(work, backend="cuda:1"), patient, scenario) == key_of(
        replace(work, backend="cuda"), patient, scenario
    )


def test_another_ct_counts_by_its_content(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.dcm").write_bytes(b"slice")
    one, two = (Scenario("later", ct=OtherCt(str(tmp_path / name))) for name in ("one", "two"))
    assert digest(scenario_facts(one)) == digest(scenario_facts(two))
    (tmp_path / "two" / "two.dcm").write_bytes(b"another slice")
    assert digest(scenario_facts(one)) != digest(scenario_facts(two))


def test_a_ct_that_is_not_there_or_in_memory_is_refused(tmp_path: Path, make_ct: CtImage) -> None:
    with pytest.raises(InvalidInput, match="there is no such folder"):
        scenario_facts(Scenario("later", ct=OtherCt(str(tmp_path / "none"))))
    with pytest.raises(InvalidInput, match="workers could not read it"):
        scenario_facts(Scenario("later", ct=OtherCt(make_ct)))


@pytest.fixture
def make_ct() -> CtImage:
    import numpy as np

    from spinedose.grid import Grid, Volume

    grid = Grid((0.0, 0.0, 0.0), (0.3, 0.3, 0.3), (2, 3, 4))
    return CtImage(Volume(grid, np.zeros(grid.shape, np.int16)))
