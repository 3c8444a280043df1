"""`spinedose check`: exit codes, what is printed and written, and that nothing is half written."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_check import bump, ct_image, plan_of, planned_as, structure_set
from typer.testing import CliRunner, Result

import spinedose as sd
from spinedose import cli, report
from spinedose.check import Check, Finding, conduct
from spinedose.errors import UnsupportedPlan
from spinedose.grid import Volume
from spinedose.result import Dose, ResultInfo


def _checked(planned: Any, ours: Volume) -> Check:
    settings = {"spacing_cm": 0.25, "materials": {}, "couch": ""}
    info = ResultInfo("0", "cpu", "a processor", machines=("m/6FFF",), settings=settings, warnings=("A warning.",))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conduct, "compute_dose", lambda plan, ct, **_: Dose(ours, info, plan, ct))
        return sd.check(
            plan=plan_of(), ct=ct_image(), structures=structure_set(), dose=planned, machine="varian-truebeam-m120",
            causes=False,
        )  # fmt: skip


@pytest.fixture(scope="module")
def checks() -> dict[str, Check]:
    return {
        "within": _checked(planned_as(bump()), bump()),
        "outside": _checked(planned_as(bump()), bump(scale=1.05)),
        "not compared": _checked(None, bump()),
    }


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, checks: dict[str, Check]) -> dict[str, Any]:
    """The check and the reports are stand-ins; what they were asked is kept, `asked["finds"]` says what is found."""
    kept: dict[str, Any] = {"finds": "within"}

    def stand_in(folder: Path | None, **options: Any) -> Check:
        kept.update(options, folder=folder)
        return checks[kept["finds"]]

    monkeypatch.setattr(cli.check, "_conduct", stand_in)
    monkeypatch.setattr(report, "write_html", lambda found, path: Path(path).write_text("page"), raising=False)
    monkeypatch.setattr(report, "write_pdf", lambda found, path: Path(path).write_text("record"), raising=False)
    return kept


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, ["check", *(str(argument) for argument in arguments)])


@pytest.mark.parametrize(("verdict", "code"), [("within", 0), ("outside", 1), ("not compared", 2)])
def test_the_exit_code_is_the_verdict(asked: dict[str, Any], tmp_path: Path, verdict: str, code: int) -> None:
    asked["finds"] = verdict
    done = run(tmp_path, "-o", tmp_path / "out")
    assert done.exit_code == code, done.output
    lines = done.stdout.splitlines()
    assert lines[0].startswith(verdict.upper().split()[0])
    assert lines[-1] == cli.NOT_CLINICAL
    assert "approved" not in done.output.lower()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["check.json", "report.html", "report.pdf"]
    assert json.loads((tmp_path / "out" / "check.json").read_text())["verdict"] == verdict
    assert "A warning." in done.stderr


def test_nobody_is_printed(asked: dict[str, Any], tmp_path: Path) -> None:
    done = run(tmp_path, "-o", tmp_path / "out")
    assert "Doe" not in done.output and "123456" not in done.output
    assert "Doe" in (tmp_path / "out" / "check.json").read_text()
    run(tmp_path, "-o", tmp_path / "other", "--anonymous")
    assert "Doe" not in (tmp_path / "other" / "check.json").read_text()


def test_the_summary_has_numbers_side_by_side(asked: dict[str, Any], tmp_path: Path) -> None:
    asked["finds"] = "outside"
    text = run(tmp_path, "-o", tmp_path / "out").stdout
    assert "Mean[Gy]" in text and "+5.0 %" in text
    assert "gamma 3 %/2 mm global, above 10 %" in text
    assert text.index("mean dose of the target") < text.index("Prescription")


def test_quiet_prints_the_verdict_only(asked: dict[str, Any], tmp_path: Path) -> None:
    done = run(tmp_path, "-o", tmp_path / "out", "--quiet")
    assert done.stdout.splitlines() == ["WITHIN: Plan 'T7' keeps all 8 criteria."]


def test_a_problem_alone_is_not_told_as_missed_criteria(
    asked: dict[str, Any], checks: dict[str, Check], tmp_path: Path
) -> None:
    checks["blind"] = replace(checks["within"], findings=(Finding("no_target", "attention", "No target."),))
    asked["finds"] = "blind"
    (line,) = run(tmp_path, "-o", tmp_path / "blind", "--quiet").stdout.splitlines()
    assert line == "WITHIN: Plan 'T7' keeps all 8 criteria, but no target was judged."
    apart = replace(bump().grid, origin_cm=(300.0, 0.0, 0.0))
    checks["apart"] = _checked(planned_as(Volume(apart, bump().values)), bump())
    asked["finds"] = "apart"
    (line,) = run(tmp_path, "-o", tmp_path / "apart", "--quiet").stdout.splitlines()
    assert " cannot be judged by " in line
    checks["doubtful"] = _checked(planned_as(bump(), plan_uid="9.9"), bump())
    asked["finds"] = "doubtful"
    done = run(tmp_path, "-o", tmp_path / "out", "--quiet")
    assert done.stdout.splitlines() == ["OUTSIDE: Plan 'T7' keeps all 8 criteria, but 1 finding is a problem."]
    asked["finds"] = "outside"
    (line,) = run(tmp_path, "-o", tmp_path / "other", "--quiet").stdout.splitlines()
    assert line.startswith("OUTSIDE: Plan 'T7' misses ") and line.endswith(" of 8 criteria.") and " 0 of" not in line


def test_json_on_standard_output_is_alone(asked: dict[str, Any], tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(tmp_path, "--json", "-")
    assert json.loads(done.stdout)["schema_version"] == 1
    assert list(tmp_path.iterdir()) == []
    done = run(tmp_path, "--json", "extra.json", "-o", "out")
    assert (tmp_path / "extra.json").read_text() == (tmp_path / "out" / "check.json").read_text()


def test_the_folder_is_check_when_none_is_named(asked: dict[str, Any], tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(tmp_path).exit_code == 0
    assert (tmp_path / "check" / "check.json").is_file()
    again = run(tmp_path)
    assert again.exit_code == 2
    assert "exists (it would be lost)" in again.stderr and "--force" in again.stderr
    assert run(tmp_path, "--force").exit_code == 0


def test_every_option_arrives(asked: dict[str, Any], tmp_path: Path) -> None:
    options = ["--plan", "T7", "--ct", "CT", "--structures", "RS", "--dose", "a", "--dose", "b", "--machine", "m"]
    options += ["--curve", "c", "--criteria", "k", "--protocol", "p", "--chosen", "SpinalCord=Cord 2"]
    options += ["--prescription-gy", "24", "--spacing-mm", "2", "--fine", "PTV, Cord", "--couch", "igrt-generic:10"]
    options += ["--dose-to", "medium", "--planned-dose-to", "medium", "--per-beam", "--no-causes", "--beams", "1,2"]
    options += ["--fraction-group", "1", "--bolus", "ignore", "--patient-position", "HFS"]
    options += ["--missing-slices", "interpolate", "--backend", "cpu"]
    done = run(tmp_path, *options, "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    expected = {
        "plan": "T7", "ct": Path("CT"), "structures": Path("RS"), "dose": [Path("a"), Path("b")], "machine": "m",
        "curve": "c", "criteria": "k", "protocol": "p", "chosen": {"SpinalCord": "Cord 2"}, "prescription_gy": 24.0,
        "spacing_cm": pytest.approx(0.2), "fine": ("PTV", "Cord"), "couch": "igrt-generic",
        "couch_surface_cm": pytest.approx(1.0), "dose_to": "medium", "planned_dose_to": "medium", "per_beam": True,
        "causes": False, "beams": (1, 2), "fraction_group": 1, "bolus": "ignore", "patient_position": "HFS",
        "missing_slices": "interpolate", "backend": "cpu", "folder": tmp_path,
    }  # fmt: skip
    assert {key: asked[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "There is nothing to check"),
        (["F", "--chosen", "Cord"], "--chosen Cord cannot be understood"),
        (["F", "--spacing-mm", "0"], "--spacing-mm 0 cannot be used"),
        (["F", "-o", "file"], "is a file"),
        (["F", "--dose-to", "air"], "'--dose-to' ("),
    ],
)
def test_refused_before_anything_is_read(
    asked: dict[str, Any], tmp_path: Path, monkeypatch: Any, arguments: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("old")
    done = run(*arguments)
    assert done.exit_code == 2
    assert words in done.stderr and len(done.stderr.splitlines()) == 1
    assert list(asked) == ["finds"]


@pytest.mark.parametrize(
    ("error", "code"),
    [(UnsupportedPlan("Beam 3 has a wedge", "its fluence is not modelled"), 2), (KeyboardInterrupt(), 130)],
)
def test_errors_leave_no_file(
    asked: dict[str, Any], tmp_path: Path, monkeypatch: Any, error: BaseException, code: int
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(cli.check, "_conduct", fail)
    assert run(tmp_path, "-o", tmp_path / "out").exit_code == code
    assert list(tmp_path.iterdir()) == []


def test_an_unforeseen_error_is_no_verdict(
    asked: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise KeyError("a part\nthat is missing")

    monkeypatch.setattr(cli.check, "_conduct", fail)
    done = run(tmp_path, "-o", tmp_path / "out")
    assert done.exit_code == cli.FAILED == 70
    *lines, last = done.stderr.splitlines()
    assert lines[0].startswith("Traceback") and any("_conduct" in line for line in lines)
    assert last.startswith("spinedose ") and " failed unexpectedly (KeyError: 'a part" in last
    assert last.endswith("please report it, with the lines above.")
    assert done.stdout == "" and not (tmp_path / "out").exists()


def test_outputs_that_are_pipes_are_refused(asked: dict[str, Any], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "check.json")
    done = run(tmp_path, "-o", tmp_path, "--force")
    assert done.exit_code == 2 and "is a device or a pipe" in done.stderr
    assert (tmp_path / "check.json").is_fifo()


def test_the_plan_is_never_replaced(asked: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "RP.dcm").write_text("plan")
    done = run("--plan", tmp_path / "RP.dcm", "-o", tmp_path / "out", "--json", tmp_path / "RP.dcm", "--force")
    assert done.exit_code == 2 and "is one of the inputs" in done.stderr
    assert (tmp_path / "RP.dcm").read_text() == "plan"


def test_an_empty_name_of_logs_is_refused(asked: dict[str, Any], tmp_path: Path) -> None:
    for text in ("", " "):
        done = run(tmp_path, "-o", tmp_path / "out", "--logs", text)
        assert done.exit_code == 2 and "names nothing" in done.stderr
    assert asked == {"finds": "within"}


def test_an_interrupted_report_leaves_no_file(asked: dict[str, Any], tmp_path: Path, monkeypatch: Any) -> None:
    def interrupted(found: Check, path: Path) -> None:
        path.write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(report, "write_pdf", interrupted, raising=False)
    assert run(tmp_path, "-o", tmp_path / "out").exit_code == 130
    assert list((tmp_path / "out").iterdir()) == []


def test_a_refusal_is_json_where_json_was_asked_for(tmp_path: Path) -> None:
    done = run(tmp_path / "nowhere", "--json", "-")
    assert done.exit_code == 2 and "nowhere" in done.stderr
    found = json.loads(done.stdout)
    assert found["schema_version"] == 1
    assert set(found["error"]) == {"kind", "problem", "why", "advice"}
    assert found["error"]["kind"] == "InvalidInput" and "nowhere" in found["error"]["problem"]
    assert not run(tmp_path / "nowhere").stdout
