"""Tables come from result files alone: how and when they were computed leaves no trace."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spinedose.batch import Asked, Standing, StudyFile, status, write_tables
from spinedose.batch.compute import DoseWork
from spinedose.batch.patients import PatientFiles
from spinedose.batch.results import Results
from spinedose.scenarios import NOMINAL, Curve, Outcome, Scenario, Value
from spinedose.setup import Setup

LEFT = Scenario("left", Setup(lateral_cm=0.1), group="grid")
RIGHT = Scenario("right", Setup(lateral_cm=-0.1), group="grid")


class LookedAt:
    """A work whose patients need no files."""

    def __init__(self) -> None:
        self.work = DoseWork()

    def look(self, name: str, folder: Path) -> PatientFiles:
        return PatientFiles(name, folder / "RP", (), folder / "RS", name, "ct", "rs", ("beam",))

    def facts(self, patient: PatientFiles, scenario: Any) -> Any:
        return self.work.facts(patient, scenario)

    def prepare(self, patient: PatientFiles) -> Any:
        raise AssertionError("tables compute nothing")


@pytest.fixture
def study(tmp_path: Path) -> StudyFile:
    folders = tuple((name, tmp_path / name) for name in ("p1", "p2"))
    asked = Asked(folders, LookedAt(), lambda patient: (NOMINAL, LEFT, RIGHT), tmp_path / "out")
    return StudyFile(tmp_path / "s.toml", "made up", asked)


def _fill(study: StudyFile, *, backwards: bool = False, seconds: float = 1.0) -> None:
    lines = status(study.asked).lines
    for line in reversed(lines) if backwards else lines:
        shift = line.scenario.setups[0].lateral_cm
        cord = 10.0 + 20 * shift + (line.patient.name == "p2")
        values = (
            Value("PTV", "target", "D95%[Gy]", "Gy", 24.0 - abs(shift)),
            Value("Cord", "cord", "D0.03cc[Gy]", "Gy", math.nan if shift < 0 else cord, "small" if shift < 0 else ""),
        )
        curve = Curve("PTV", "target", 0.1, np.ones(3, np.float32))
        found = Outcome(line.scenario, values, (), (curve,), seconds, 1, ("odd",), {"version": "x"}).as_dict()
        del found["scenario"]
        study.asked.results.write(line.key, {"state": "done", "found": found, "made": {"seconds": seconds}})


def _rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as text:
        return list(csv.DictReader(text))


def test_numbers_find_their_places(study: StudyFile) -> None:
    _fill(study)
    write_tables(study, status(study.asked))
    rows = _rows(study.asked.output / "values.csv")
    assert len(rows) == 2 * 3 * 2
    cord = {(row["patient"], row["scenario"]): row["value"] for row in rows if row["structure"] == "Cord"}
    assert cord["p1", "left"] == "12"
    assert cord["p2", "left"] == "13"
    assert cord["p1", "right"] == ""
    summary = _rows(study.asked.output / "summary.csv")
    worst = {(row["patient"], row["metric"]): row["worst_scenario"] for row in summary}
    assert worst["p1", "D0.03cc[Gy]"] == "left"
    wide = _rows(study.asked.output / "scenarios.csv")
    assert [(row["patient"], row["scenario"]) for row in wide[:3]] == [
        ("p1", "nominal"), ("p1", "left"), ("p1", "right")
    ]  # fmt: skip
    assert wide[1]["PTV D95%[Gy]"] == "23.9"


def test_tables_do_not_tell_how_they_came_about(study: StudyFile, tmp_path: Path) -> None:
    _fill(study)
    write_tables(study, status(study.asked))
    other = replace(study, asked=replace(study.asked, output=tmp_path / "other"))
    _fill(other, backwards=True, seconds=77.0)
    standing = status(other.asked)
    write_tables(other, replace(standing, computed=3))
    names = sorted(path.name for path in study.asked.output.iterdir() if path.is_file())
    assert names == ["limits.csv", "missing.csv", "scenarios.csv", "study.json", "summary.csv", "values.csv"]
    for name in names:
        assert (other.asked.output / name).read_bytes() == (study.asked.output / name).read_bytes(), name


def test_what_is_missing_is_listed_and_the_rest_is_there(study: StudyFile) -> None:
    _fill(study)
    first, second = status(study.asked).lines[:2]
    results = Results(study.asked.results.folder)
    results.path(first.key).write_bytes(b"{")
    results.write(second.key, {"state": "failed", "error": "Left is wrong.", "kind": "InvalidInput"})
    standing = status(study.asked)
    write_tables(study, Standing(standing.lines, (("p3", "There is no plan."),)))
    rows = _rows(study.asked.output / "missing.csv")
    assert [tuple(row.values()) for row in rows] == [
        ("p3", "", "patient", "There is no plan."),
        ("p1", "nominal", "absent", ""),
        ("p1", "left", "failed", "Left is wrong."),
    ]
    assert len(_rows(study.asked.output / "scenarios.csv")) == 4


def test_a_study_without_results_has_empty_tables(study: StudyFile) -> None:
    write_tables(study, status(study.asked))
    assert _rows(study.asked.output / "values.csv") == []
    assert len(_rows(study.asked.output / "missing.csv")) == 6


def test_parquet_has_the_same_numbers(study: StudyFile) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    _fill(study)
    write_tables(replace(study, with_parquet=True), status(study.asked))
    table = parquet.read_table(study.asked.output / "values.parquet").to_pylist()
    rows = _rows(study.asked.output / "values.csv")
    assert [row["patient"] for row in table] == [row["patient"] for row in rows]
    for one, other in zip(table, rows, strict=True):
        assert one["value"] is None if other["value"] == "" else one["value"] == pytest.approx(float(other["value"]))
