"""`spinedose batch`: exit codes, and what is printed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_up_work import MadeUpScenario, made_up, noted
from typer.testing import CliRunner, Result

from spinedose import batch, cli
from spinedose.batch import StudyFile
from spinedose.errors import BackendUnavailable

ONE, TWO = MadeUpScenario("one", 1.0), MadeUpScenario("two", 2.0)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, ["batch", *(str(argument) for argument in arguments)])


def asked_of(asked: dict[str, Any], folder: Path) -> Any:
    """The patients a and b, or those named, whether they have a plan or not."""
    if "patients" not in asked:
        return made_up(folder, *asked["scenarios"])
    folders = tuple((name, folder / name) for name in asked["patients"])
    return replace(made_up(folder, *asked["scenarios"], patients=1), folders=folders)


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A study of made-up work, in threads of this process; tables are none of its business."""
    distributed = pytest.importorskip("distributed")

    @contextmanager
    def in_threads(**options: Any) -> Iterator[Any]:
        asked["options"] = options
        with distributed.Client(
            processes=False, n_workers=1, threads_per_worker=1, dashboard_address=None, set_as_default=False
        ) as client:
            yield client

    asked: dict[str, Any] = {"scenarios": (ONE, TWO), "compiled": 0}

    def compile_first(tell: Any) -> None:
        asked["compiled"] += 1

    monkeypatch.setattr("spinedose.cli.batch.compile_first", compile_first)
    monkeypatch.setattr(batch, "open_client", in_threads)
    monkeypatch.setattr(batch, "visible_devices", lambda backend: ())
    monkeypatch.setattr(batch, "write_tables", lambda study, standing: (tmp_path / "values.csv",))
    monkeypatch.setattr(batch, "read_study_file", lambda path: StudyFile(path, "made up", asked_of(asked, tmp_path)))
    return asked


def test_a_whole_study_ends_well(study: dict[str, Any], tmp_path: Path) -> None:
    done = run("STUDY.toml", "--workers", 3)
    assert done.exit_code == 0, done.output
    assert done.output.startswith("made up: 4 of 4 scenarios of 2 patients done, 0 refused, 0 not computed.")
    assert "Computed now: 4." in done.output
    assert "Not for clinical use" in done.output
    assert study["options"]["workers"] == 3
    assert "Computed now: 0." in run("STUDY.toml").output


def test_code_is_compiled_before_for_workers_of_this_computer_without_a_gpu(
    study: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run("STUDY.toml")
    assert study["compiled"] == 1
    run("STUDY.toml", "--scheduler", "tcp://somewhere:8786")
    monkeypatch.setattr(batch, "visible_devices", lambda backend: ("0",))
    run("STUDY.toml")
    assert study["compiled"] == 1


def test_what_is_refused_shows_in_the_exit_code_and_on_the_error_stream(study: dict[str, Any]) -> None:
    study["scenarios"] = (ONE, MadeUpScenario("wrong", 9.0, "refuses"))
    done = run("STUDY.toml")
    assert done.exit_code == 1
    assert "2 of 4 scenarios of 2 patients done, 2 refused, 0 not computed." in done.stdout
    assert "a, wrong: wrong is wrong (it was made so)." in done.stderr


def test_patients_that_cannot_be_computed_are_in_the_first_line(study: dict[str, Any], tmp_path: Path) -> None:
    made_up(tmp_path, patients=2)
    (tmp_path / "b" / "plan.txt").unlink()
    study["patients"] = ("a", "b", "c")
    done = run("STUDY.toml")
    assert done.exit_code == 1
    assert done.stdout.startswith(
        "made up: 2 of 2 scenarios of 1 of 3 patients done, 0 refused, 0 not computed; 2 patients could not be "
        "computed at all: b, c (missing.csv)."
    )
    assert "b: There is no plan in 'b'." in done.stderr
    looked = run("STUDY.toml", "--status")
    assert "could not be computed at all: b, c." in looked.stdout


def test_the_status_computes_nothing(study: dict[str, Any], tmp_path: Path) -> None:
    looked = run("STUDY.toml", "--status")
    assert looked.exit_code == 1
    assert looked.stdout.startswith("made up: 0 of 4 scenarios of 2 patients done, 0 refused, 4 not computed.")
    assert noted(tmp_path, "computed") == []
    assert not (tmp_path / "out").exists()
    run("STUDY.toml")
    assert run("STUDY.toml", "--status").exit_code == 0


def test_quiet_says_nothing(study: dict[str, Any]) -> None:
    done = run("STUDY.toml", "-q")
    assert (done.exit_code, done.output) == (0, "")


def test_a_wrong_file_is_told_in_one_line(tmp_path: Path) -> None:
    done = run(tmp_path / "none.toml")
    assert done.exit_code == 2
    assert done.stderr.count("\n") == 1
    assert "There is no study file" in done.stderr
    (tmp_path / "RP.dcm").write_bytes(b"\0" * 128 + b"DICM\xff")
    for place, words in ((tmp_path, "is a folder"), (tmp_path / "RP.dcm", "is no text file")):
        done = run(place)
        assert done.exit_code == 2 and done.stderr.count("\n") == 1
        assert done.stderr.startswith("The study file '") and words in done.stderr


def test_a_gpu_that_is_not_there_is_told_with_the_key(study: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def none(backend: str) -> tuple[str, ...]:
        raise BackendUnavailable("There is no GPU", "0 were found", "Choose another", argument="backend")

    monkeypatch.setattr(batch, "visible_devices", none)
    done = run("STUDY.toml")
    assert (done.exit_code, done.stderr) == (
        2, "There is no GPU (0 were found). Choose another as 'backend' in [settings].\n"
    )  # fmt: skip
