"""`spinedose batch` as a user runs it: killed, interrupted and gone on with, against one that nobody disturbed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from spinedose.batch.results import Results

pytest.importorskip("distributed")
psutil = pytest.importorskip("psutil")  # Dask needs it, too

pytestmark = pytest.mark.slow

COMMAND = [sys.executable, "-c", "from spinedose.cli import main; main()", "batch"]

STUDY = """
schema_version = 1
output = "out"
[patients]
folders = ["cohort/*"]
[settings]
spacing_mm = 6.0      # coarse, to be quick: this is about files and processes
directions = 100
backend = "cpu"
scenarios_a_task = 3
[measured]
metrics = ["D95%[Gy]", "D0.03cc[Gy]"]
structures = ["PTV", "SpinalCord"]
[grid]
shifts_mm = [2]
[random]
count = 2
seed = 1
random_mm = 1.0
[[scenario]]
name = "three percent more"
meterset_factor = 1.03
"""

SCENARIOS = 2 * (1 + 6 + 2 + 1)
PATIENCE_S = 900.0


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of two patients: the demo, and the demo with another plan."""
    from dataclasses import replace

    from spinedose.demo import demo_case, write_demo

    folder = tmp_path_factory.mktemp("study")
    case = demo_case()
    write_demo(folder / "cohort" / "p1", case)
    beams = tuple(replace(beam, meterset_mu=1.1 * beam.meterset_mu) for beam in case.plan.beams[:1])
    write_demo(folder / "cohort" / "p2", replace(case, plan=replace(case.plan, beams=beams)))
    (folder / "study.toml").write_text(STUDY)
    return folder


def _copy(cohort: Path, target: Path) -> Path:
    """The same study, with nothing computed."""
    target.mkdir()
    shutil.copy(cohort / "study.toml", target)
    (target / "cohort").symlink_to(cohort / "cohort", target_is_directory=True)
    return target


def _finish(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*COMMAND, str(folder / "study.toml"), "--workers", "2", *options],
        capture_output=True, text=True, check=False, timeout=PATIENCE_S,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done


@pytest.fixture(scope="module")
def undisturbed(cohort: Path) -> dict[str, bytes]:
    """Tables of a run that nobody disturbed."""
    done = _finish(cohort)
    assert done.returncode == 0, done.stderr
    assert f"{SCENARIOS} of {SCENARIOS} scenarios of 2 patients done" in done.stdout
    return _tables(cohort)


def _tables(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "out").iterdir() if path.is_file()}


def _files(folder: Path) -> dict[Path, tuple[int, int]]:
    """Result files, with what changes when one is written again."""
    found = sorted((folder / "out" / "results").glob("*/*.json"))
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in found}


@pytest.fixture
def started(cohort: Path, tmp_path: Path) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """A run in a new session, whatever is left of which ends with the test."""
    folder = _copy(cohort, tmp_path / "again")
    process = subprocess.Popen(
        [*COMMAND, str(folder / "study.toml"), "--workers", "2"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    family = [psutil.Process(process.pid)]
    try:
        yield folder, process
    finally:
        if _lives(family[0]):
            family += family[0].children(recursive=True)
        for one in reversed(family):
            with suppress(psutil.NoSuchProcess):
                one.kill()
        process.wait(60)


def _wait(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.05)


def _workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Processes that compute: those that were spawned, but for Python's own tracker of resources."""
    children = psutil.Process(process.pid).children(recursive=True)
    return [one for one in children if "spawn_main" in " ".join(one.cmdline())]


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # it ended between the two questions
        return False


def _is_whole(folder: Path) -> bool:
    """Whether every result file that there is can be read."""
    results = Results(folder / "out" / "results")
    return all(results.read(path.stem) is not None for path in _files(folder))


def test_the_first_run_computes_and_the_second_does_not(cohort: Path, undisturbed: dict[str, bytes]) -> None:
    before = _files(cohort)
    assert len(before) == SCENARIOS
    done = _finish(cohort)
    assert done.returncode == 0
    assert "Computed now: 0." in done.stdout
    assert _files(cohort) == before
    assert _tables(cohort) == undisturbed
    looked = _finish(cohort, "--status")
    assert looked.returncode == 0
    assert looked.stdout.startswith(f"study: {SCENARIOS} of {SCENARIOS} scenarios of 2 patients done")


def test_a_killed_worker_loses_and_repeats_nothing(
    started: tuple[Path, subprocess.Popen[str]], undisturbed: dict[str, bytes]
) -> None:
    folder, process = started
    _wait(lambda: len(_files(folder)) >= 3)
    victim = _workers(process)[0]
    victim.send_signal(signal.SIGKILL)
    before = _files(folder)
    assert len(before) < SCENARIOS, "it was over before the worker died"
    printed, complaint = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, complaint
    assert f"Computed now: {SCENARIOS}." in printed
    after = _files(folder)
    assert {path: after[path] for path in before} == before  # written once
    assert _tables(folder) == undisturbed


def test_a_killed_run_goes_on_where_it_was(
    started: tuple[Path, subprocess.Popen[str]], undisturbed: dict[str, bytes]
) -> None:
    folder, process = started
    _wait(lambda: len(_files(folder)) >= 4)
    workers = _workers(process)
    process.kill()
    process.wait(60)
    # workers see that their parent is gone, and end by themselves
    _wait(lambda: not any(map(_lives, workers)))
    before = _files(folder)
    assert 4 <= len(before) < SCENARIOS
    assert _is_whole(folder)
    assert not (folder / "out" / "values.csv").exists()
    looked = _finish(folder, "--status")
    assert looked.returncode == 1
    assert f"{len(before)} of {SCENARIOS} scenarios" in looked.stdout
    done = _finish(folder)
    assert done.returncode == 0, done.stderr
    assert f"Computed now: {SCENARIOS - len(before)}." in done.stdout
    after = _files(folder)
    assert len(after) == SCENARIOS
    assert {path: after[path] for path in before} == before
    assert _tables(folder) == undisturbed


def test_interrupting_leaves_whole_results(started: tuple[Path, subprocess.Popen[str]]) -> None:
    folder, process = started
    _wait(lambda: len(_files(folder)) >= 2)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does it: the workers get it as well
    _, complaint = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert complaint.splitlines()[-1] == "Interrupted; no file is half written."
    assert "Traceback" not in complaint, complaint
    assert _is_whole(folder)
    assert not list((folder / "out" / "results").glob("*/.*.part"))
