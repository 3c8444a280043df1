"""What one worker does: a patient made ready once, a few scenarios computed, a result written after each."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from spinedose.batch.identity import program, versions
from spinedose.batch.patients import PatientFiles
from spinedose.batch.results import FORMAT, Results, digest
from spinedose.batch.wording import in_study_words
from spinedose.errors import BackendUnavailable, SpinedoseError

log = logging.getLogger(__name__)

_alone = threading.Lock()
"""A process computes one scenario at a time: numba's threads belong to all Python threads of a process together."""

Compute = Callable[[Any], Mapping[str, Any]]
"""Computes a scenario for a patient that was made ready: what a result file says of it, ready for JSON."""


class NotHere(SpinedoseError):
    """A scenario cannot be computed by this worker, or at this time; that says nothing about the scenario."""


class Work(Hashable, Protocol):
    """What a study does for each patient and scenario. It is sent to workers, and compared: frozen, and hashable."""

    def look(self, name: str, folder: Path) -> PatientFiles:
        """Find and hash a patient's files."""

    def facts(self, patient: PatientFiles, scenario: Any) -> Mapping[str, Any]:
        """Everything that the numbers depend on, program and data apart, ready for JSON; no names."""

    def prepare(self, patient: PatientFiles) -> Compute:
        """Make a patient ready: all that is the same for all scenarios."""


@dataclass(frozen=True, slots=True)
class Job:
    """A scenario to be computed.

    Parameters
    ----------
    key : str
        Hash of all inputs, and name of the result.
    scenario : object
        With a `name`.
    """

    key: str
    scenario: Any


@dataclass(frozen=True, slots=True)
class Chunk:
    """Scenarios of one patient, for one worker: the unit that Dask hands out and repeats.

    Parameters
    ----------
    work : Work
        What to do.
    patient : PatientFiles
        For whom.
    jobs : tuple of Job
        Which scenarios.
    results : Path
        Folder of the results.
    program : str
        Hash of the program that asked; a worker with another one refuses.
    run : str
        Name of the run that asked: the topic by which Dask is told of each result; empty for nobody.
    """

    work: Work
    patient: PatientFiles
    jobs: tuple[Job, ...]
    results: Path
    program: str
    run: str = ""


def key_of(work: Work, patient: PatientFiles, scenario: Any) -> str:
    """Hash of all that a result depends on: contents of files, scenario, settings, program and data."""
    return digest({"format": FORMAT, "program": program(), "inputs": work.facts(patient, scenario)})


def compute_chunk(chunk: Chunk) -> int:
    """Compute what has no valid result yet, and write each result when it is there.

    What spinedose refuses (`SpinedoseError`) is written as a failed result with its message, because it would be
    refused again. Anything else, a full disk for instance, leaves no result: the other scenarios are computed, then
    the first such error is raised, so that Dask tries again.

    Parameters
    ----------
    chunk : Chunk
        What to do.

    Returns
    -------
    int
        Number of results written.
    """
    if digest(program()) != chunk.program:
        raise NotHere(
            f"The worker on {socket.gethostname()} has another spinedose",
            "its numbers could not be told from those of this one",
            "Install the same spinedose everywhere",
        )
    results = Results(chunk.results)
    written, first = 0, None
    with _alone:
        for job in chunk.jobs:
            if results.read(job.key) is not None:
                continue
            start = time.perf_counter()
            try:
                with results.at_work(job.key, chunk.run):
                    content = {"state": "done", "found": dict(_prepared(chunk.work, chunk.patient)(job.scenario))}
            except (NotHere, BackendUnavailable) as error:
                raise NotHere(error.problem, error.why, error.advice, error.argument) from error
            except SpinedoseError as error:
                content = {"state": "failed", "error": in_study_words(error), "kind": type(error).__name__}
            except Exception as error:
                log.exception("'%s' of %s could not be computed", job.scenario.name, chunk.patient.name)
                error.add_note(f"Scenario '{job.scenario.name}' of {chunk.patient.name}")
                first = first or error
                continue
            seconds = time.perf_counter() - start
            results.write(job.key, {**content, "made": _made(seconds)})
            written += 1
            _tell(chunk.run, {"key": job.key, "state": content["state"], "seconds": seconds})
    if first is not None:
        raise first
    return written


_kept: dict[tuple[Work, PatientFiles], Compute] = {}
"""The patient of the last task, because the next one is often of the same; guarded by `_alone`."""


def _prepared(work: Work, patient: PatientFiles) -> Compute:
    """A patient made ready, now or for an earlier task."""
    key = (work, patient)
    if key not in _kept:
        _kept.clear()  # before the next is made: two patients may be too much for the memory
        if not patient.is_unchanged():
            raise NotHere(
                f"Files of {patient.name} have changed since the study began",
                "results would be filed under the hash of the old ones",
                "Run the study again",
            )
        _kept[key] = work.prepare(patient)
    return _kept[key]


def _made(seconds: float) -> dict[str, Any]:
    """How a result came about: no part of the tables."""
    return {
        "seconds": round(seconds, 3),
        "host": socket.gethostname(),
        "process": os.getpid(),
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": versions(),
    }


def _tell(run: str, message: dict[str, Any]) -> None:
    """Tell the one who asked, by way of the scheduler; a message that is lost costs nothing but a step of a bar."""
    if not run:
        return
    from distributed import get_worker

    get_worker().log_event(run, message)
