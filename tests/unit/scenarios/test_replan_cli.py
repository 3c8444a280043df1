"""`spinedose replan`: from DICOM files to tables, and what it refuses before anything is read."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from spinedose import engine
from spinedose.cli import app
from spinedose.dicom.ct import write_ct
from spinedose.dicom.plan import write_plan
from spinedose.dicom.structures import write_structures

from made_study import small_ct, small_plan, small_structures  # isort: skip


@pytest.fixture
def case(tmp_path: Path) -> list[str]:
    """The small patient as files, and the arguments that name them."""
    slices = write_ct(small_ct(), tmp_path / "CT", identity=small_plan().identity)
    write_structures(small_structures(), tmp_path / "RS.dcm", identity=small_plan().identity, ct_files=slices)
    leaves = np.zeros((2, 2, 60))
    leaves[:, 0, 26:34], leaves[:, 1, 26:34] = -1.5, 1.5
    edges = np.concatenate([np.arange(-20.0, -10), np.arange(-10.0, 10, 0.5), np.arange(10.0, 21)])
    beams = tuple(replace_leaves(beam, edges, leaves) for beam in small_plan().beams)
    write_plan(small_plan(beams=beams), tmp_path / "RP.dcm")
    named = ["--structures", str(tmp_path / "RS.dcm"), "--machine", "varian-truebeam-m120", "--spacing-mm", "5"]
    return ["replan", str(tmp_path / "RP.dcm"), str(tmp_path / "CT"), *named, "-o", str(tmp_path / "out" / "study")]


def replace_leaves(beam, edges, leaves):  # type: ignore[no-untyped-def]
    from dataclasses import replace

    return replace(beam, leaf_boundaries_cm=edges, leaf_cm=leaves)


def _run(arguments: list[str]) -> object:
    return CliRunner().invoke(app, arguments)


def test_tables_and_pictures_are_written(case: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "reference_output", lambda *_: 0.025)
    file = tmp_path / "more.csv"
    file.write_text("name,meterset_factor\nfive more,1.05\n", encoding="utf-8")
    more = ["--shifts-mm", "2", "--random", "2", "--seed", "4", "--scenarios", str(file), "--metrics", "D95%,D0.03cc"]
    done = _run([*case, *more])
    assert done.exit_code == 0, done.output
    out = tmp_path / "out" / "study"
    expected = {"values.csv", "scenarios.csv", "summary.csv", "limits.csv", "study.json", "bands.png", "axes.png"}
    assert {path.name for path in out.iterdir()} == expected
    with (out / "scenarios.csv").open(newline="", encoding="utf-8") as table:
        rows = {row["scenario"]: row for row in csv.DictReader(table)}
    assert next(iter(rows)) == "nominal" and len(rows) == 1 + 6 + 2 + 1
    ratio = float(rows["five more"]["PTV D95%[Gy]"]) / float(rows["nominal"]["PTV D95%[Gy]"])
    assert ratio == pytest.approx(1.05, rel=1e-6)
    about = json.loads((out / "study.json").read_text(encoding="utf-8"))
    assert about["random"]["seed"] == 4 and about["metrics"] == ["D95%[Gy]", "D0.03cc[Gy]"]
    assert "nominal" not in done.stdout.splitlines()[0] and "10 scenarios in" in done.stdout
    assert "defaults to try it with" in done.stderr
    assert "the others" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Nothing is different from the plan"),
        (["--shifts-mm", "1,x"], "--shifts-mm '1,x' cannot be understood"),
        (["--shifts-mm", "-1"], "--shifts-mm '-1' cannot be understood"),
        (["--shifts-mm", "1,2000"], "--shifts-mm 2000 cannot be used (up to 500 mm either way can be meant)"),
        (["--turns-deg", "0"], "--turns-deg '0' cannot be understood"),
        (["--turns-deg", "200"], "--turns-deg 200 cannot be used (up to 180 degrees either way can be meant)"),
        (["--random", "2", "--systematic-mm", "nan"], "--systematic-mm nan cannot be used (a standard deviation is"),
        (["--random", "2", "--random-deg", "31"], "--random-deg 31 cannot be used (a standard deviation is 0 to 30"),
        (["--random", "-1"], "--random -1 cannot be used"),
        (["--shifts-mm", "1", "--spacing-mm", "50"], "--spacing-mm 50 cannot be used"),
    ],
)
def test_wrong_arguments_are_refused_before_reading(tmp_path: Path, arguments: list[str], message: str) -> None:
    place = ["replan", "nothing", "nowhere", "--structures", "none", "-o", str(tmp_path / "out")]
    done = _run([*place, *arguments])
    assert done.exit_code == 2
    assert done.stderr.startswith(message) and done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_with_files_is_kept(tmp_path: Path) -> None:
    (tmp_path / "old.txt").write_text("mine")
    done = _run(["replan", "a", "b", "--structures", "c", "-o", str(tmp_path), "--shifts-mm", "1"])
    assert done.exit_code == 2 and "is not empty" in done.stderr


def test_nothing_is_left_when_a_scenario_is_refused(case: list[str], tmp_path: Path) -> None:
    file = tmp_path / "more.csv"
    file.write_text("name,ct\nother,nowhere\n", encoding="utf-8")
    done = _run([*case, "--scenarios", str(file), "--metrics", "D95"])
    assert done.exit_code == 2 and "D95" in done.stderr
    assert not (tmp_path / "out").exists()
