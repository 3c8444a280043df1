"""Another process compiles before workers compute: once, and again when it failed or the program is another."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from spinedose.batch import identity
from spinedose.cli import _compiled
from spinedose.cli._compiled import compile_first, compute_once


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """Exit codes of the processes that are started, to be filled: the next one ends with the first."""
    codes: list[int] = []
    monkeypatch.setenv("SPINEDOSE_CACHE", str(tmp_path))
    monkeypatch.setattr(
        subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, codes.pop(0), b"", b"")
    )
    return codes


def test_it_is_done_once_for_a_program(started: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    started[:] = [0]
    compile_first(told.append)
    compile_first(told.append)
    assert not started and len(told) == 1
    monkeypatch.setattr(identity, "program", lambda: {"version": "another"})
    started[:] = [0]
    compile_first(told.append)
    assert not started and len(told) == 2


def test_what_failed_is_done_again(started: list[int]) -> None:
    started[:] = [1, 0]
    compile_first(lambda _: None)
    compile_first(lambda _: None)
    assert not started


def test_the_code_that_is_run_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[Any] = []
    monkeypatch.setattr(_compiled, "compute_once", lambda: called.append(1))
    exec(_compiled.CODE, {})
    assert called == [1]


@pytest.mark.slow
def test_the_scenarios_are_computed() -> None:
    compute_once()
