"""Runs a study over patients: what has no result yet is handed to Dask in pieces, and what is there is never redone."""

from __future__ import annotations

import logging
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from spinedose.batch.cluster import DEATHS_OF_A_TASK
from spinedose.batch.identity import program
from spinedose.batch.patients import PatientFiles
from spinedose.batch.results import Results, digest
from spinedose.batch.tasks import Chunk, Job, Work, compute_chunk, key_of
from spinedose.batch.wording import in_study_words
from spinedose.errors import InvalidInput, SpinedoseError

if TYPE_CHECKING:
    from distributed import Client, Future

log = logging.getLogger(__name__)

SCENARIOS_A_TASK = 8
"""Scenarios that a worker is given at once. A patient is made ready once for each worker that sees him, which costs
about a scenario; results are written one by one, so a large number loses nothing when a worker dies, it only lets
workers idle at the end. House default."""

RETRIES = 2
"""How often a task is tried again that ended with an error other than spinedose's own: a full disk, a driver."""

State = Literal["done", "failed", "absent"]


@dataclass(frozen=True, slots=True)
class Asked:
    """What a study asks for.

    Parameters
    ----------
    folders : tuple of (str, Path)
        Patients: what to call them, and where they lie.
    work : Work
        What to compute.
    scenarios : callable
        Scenarios of a patient, in the order of the tables. It is not sent to workers.
    output : Path
        Folder for results and tables.
    """

    folders: tuple[tuple[str, Path], ...]
    work: Work
    scenarios: Callable[[PatientFiles], Sequence[Any]]
    output: Path

    @property
    def results(self) -> Results:
        """Where results lie."""
        return Results(self.output.absolute() / "results")


@dataclass(frozen=True, slots=True)
class Line:
    """A scenario of a patient, and how it stands.

    Parameters
    ----------
    patient : PatientFiles
        Whose.
    scenario : object
        Which.
    key : str
        Name of its result; empty where not even that can be told.
    state : str
        `"done"`; `"failed"`: spinedose refused it; `"absent"`: not computed yet.
    reason : str
        Why it failed, or why it could not be computed now.
    """

    patient: PatientFiles
    scenario: Any
    key: str
    state: State
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Standing:
    """How a study stands.

    Parameters
    ----------
    lines : tuple of Line
        Patients by name, scenarios in their order.
    lost : tuple of (str, str)
        Patients that cannot be computed at all, with the reason.
    computed : int
        Results that were written by this run.
    """

    lines: tuple[Line, ...]
    lost: tuple[tuple[str, str], ...] = ()
    computed: int = 0

    def count(self, state: State) -> int:
        """Number of scenarios in a state."""
        return sum(line.state == state for line in self.lines)

    @property
    def is_complete(self) -> bool:
        """Whether every scenario of every patient has been computed."""
        return not self.lost and all(line.state == "done" for line in self.lines)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that a progress bar wants to know.

    Parameters
    ----------
    what : str
        `"patient"`: one was looked at; `"plan"`: `total` scenarios are asked for, `done` of them are there;
        `"result"`: one more was written.
    done, total : int
        So many of so many.
    failed : int
        Of those, refused.
    """

    what: Literal["patient", "plan", "result"]
    done: int
    total: int
    failed: int = 0


Watch = Callable[[Event], None]


@dataclass(slots=True, eq=False)
class _Count:
    """Counts results as workers tell of them, each once."""

    watch: Watch
    total: int
    done: int
    failed: int
    seen: set[str] = field(default_factory=set)

    def __call__(self, event: tuple[Any, dict[str, Any]]) -> None:
        message = event[1]
        if message["key"] not in self.seen:
            self.seen.add(message["key"])
            self.done += message["state"] == "done"
            self.failed += message["state"] == "failed"
            self.watch(Event("result", self.done, self.total, self.failed))


def status(asked: Asked, *, watch: Watch | None = None) -> Standing:
    """How a study stands, without computing or writing anything.

    Parameters
    ----------
    asked : Asked
        The study.
    watch : callable, optional
        Called with an `Event` now and then.
    """
    watch = watch or _nobody
    found = []
    for number, (name, folder) in enumerate(asked.folders, start=1):
        found.append(_look(asked.work, name, folder))
        watch(Event("patient", number, len(asked.folders)))
    patients, lost = _apart(found)
    return Standing(tuple(_lines(asked, patients)), tuple(lost))


def run(
    asked: Asked,
    client: Client,
    *,
    again: bool = False,
    scenarios_a_task: int = SCENARIOS_A_TASK,
    watch: Watch | None = None,
) -> Standing:
    """Compute what is missing.

    Parameters
    ----------
    asked : Asked
        The study.
    client : distributed.Client
        Workers; see `open_client`. They must see the same folders by the same names.
    again : bool
        Whether to try failed scenarios once more.
    scenarios_a_task : int
        Most scenarios that a worker is given at once; fewer where workers would have nothing to do.
    watch : callable, optional
        Called with an `Event` now and then, from another thread.

    Returns
    -------
    Standing
        How the study stands afterwards, read from the result files.
    """
    if scenarios_a_task < 1:
        raise InvalidInput(f"{scenarios_a_task} scenarios a task were asked for", "there is at least one")
    watch = watch or _nobody
    results = asked.results
    results.sweep()
    patients, lost = _look_at_all(asked, client, watch)
    before = list(_lines(asked, patients))
    wanted = {
        line.key: line for line in before if line.key and (line.state == "absent" or (again and line.state == "failed"))
    }
    if again:
        for line in wanted.values():
            results.path(line.key).unlink(missing_ok=True)
    others = {line.key: line.state for line in before if line.key and line.key not in wanted}
    there, failed = len(others), sum(state == "failed" for state in others.values())
    count = _Count(watch, there + len(wanted), there - failed, failed)
    watch(Event("plan", there - failed, count.total, failed))
    reasons: dict[str, str] = {}
    if wanted:
        name = f"spinedose-{uuid.uuid4().hex}"
        client.subscribe_topic(name, count)
        try:
            chunks = list(_chunks(asked, list(wanted.values()), scenarios_a_task, _workers(client), name))
            reasons = _hand_out(client, chunks, results)
        finally:
            client.unsubscribe_topic(name)
            for mark in results.marks(name):
                mark.unlink(missing_ok=True)
    after = tuple(_lines(asked, patients, reasons))
    computed = len({line.key for line in after if line.key in wanted and line.state != "absent"})
    return Standing(after, tuple(lost), computed)


def _look_at_all(asked: Asked, client: Client, watch: Watch) -> tuple[list[PatientFiles], list[tuple[str, str]]]:
    """Files are found and hashed by the workers: with many patients that takes minutes."""
    from distributed import as_completed
    from distributed.scheduler import KilledWorker

    def look(name: str) -> Future[PatientFiles | tuple[str, str]]:
        return client.submit(_look, asked.work, name, folders[name], pure=False, retries=RETRIES)

    def error_of(future: Future[PatientFiles | tuple[str, str]]) -> BaseException | None:
        return future.exception() if future.status == "error" else None

    folders = dict(asked.folders)
    futures = {look(name): name for name in folders}
    for number, _ in enumerate(as_completed(list(futures), loop=client.loop), start=1):
        watch(Event("patient", number, len(futures)))
    found: dict[str, PatientFiles | tuple[str, str]] = {}
    for future, name in futures.items():
        if isinstance(error_of(future), KilledWorker):  # perhaps it stood in line behind another that took workers down
            future = next(as_completed([look(name)], loop=client.loop))
        found[name] = future.result() if future.status == "finished" else (name, _short(error_of(future)))
    return _apart(list(found.values()))


def _apart(found: Sequence[PatientFiles | tuple[str, str]]) -> tuple[list[PatientFiles], list[tuple[str, str]]]:
    """Patients, and those that are lost."""
    return [one for one in found if isinstance(one, PatientFiles)], [one for one in found if isinstance(one, tuple)]


def _look(work: Work, name: str, folder: Path) -> PatientFiles | tuple[str, str]:
    try:
        return work.look(name, folder)
    except SpinedoseError as error:
        return name, in_study_words(error)


def _lines(asked: Asked, patients: Sequence[PatientFiles], reasons: dict[str, str] | None = None) -> Iterator[Line]:
    results = asked.results
    for patient in patients:
        for scenario in asked.scenarios(patient):
            try:
                key = key_of(asked.work, patient, scenario)
            except SpinedoseError as error:  # a file that it names is not there
                yield Line(patient, scenario, "", "failed", in_study_words(error))
                continue
            found = results.read(key)
            if found is None:
                yield Line(patient, scenario, key, "absent", (reasons or {}).get(key, ""))
            else:
                yield Line(patient, scenario, key, found["state"], found.get("error", ""))


def _chunks(asked: Asked, wanted: Sequence[Line], most: int, workers: int, name: str) -> Iterator[Chunk]:
    """Pieces of one patient each; small enough that every worker has some four, as far as there are scenarios."""
    size = max(1, min(most, len(wanted) // (4 * workers)))
    by_patient: dict[PatientFiles, list[Job]] = {}
    for line in wanted:
        by_patient.setdefault(line.patient, []).append(Job(line.key, line.scenario))
    asking = digest(program())
    for patient, jobs in by_patient.items():
        for start in range(0, len(jobs), size):
            part = tuple(jobs[start : start + size])
            yield Chunk(asked.work, patient, part, asked.results.folder, asking, name)


def _hand_out(client: Client, chunks: Sequence[Chunk], results: Results) -> dict[str, str]:
    """Let the workers compute, and return why scenarios have no result, by key.

    Dask gives up a task that was with several workers when they died, whether it was at work there or only waiting in
    line. Marks that are left behind tell which (`Results.at_work`): a scenario that was computed when its worker died
    goes on alone, until so many have died of it; one that waited is handed out again.
    """
    from distributed import as_completed
    from distributed.scheduler import KilledWorker

    waiting, reasons = as_completed(loop=client.loop), {}
    pending: dict[Future[int], tuple[Chunk, Set[Path]]] = {}

    def hand_out(chunk: Chunk, seen: Set[Path]) -> None:
        future = client.submit(compute_chunk, chunk, pure=False, retries=RETRIES)
        pending[future] = (chunk, seen)
        waiting.add(future)

    for chunk in chunks:
        hand_out(chunk, set())
    for future in waiting:
        chunk, seen = pending.pop(future)
        if future.status == "finished":
            continue
        error = future.exception() if future.status == "error" else None
        missing = [job for job in chunk.jobs if results.read(job.key) is None]
        if isinstance(error, KilledWorker) and (marks := results.marks(chunk.run)).keys() - seen:
            # without a new mark, workers die before they come to a scenario: that would never end
            deaths = Counter(marks.values())
            again = [(job,) for job in missing if 0 < deaths[job.key] <= DEATHS_OF_A_TASK]
            waited = tuple(job for job in missing if not deaths[job.key])
            for jobs in (*again, waited) if waited else again:
                hand_out(replace(chunk, jobs=jobs), marks.keys())
            missing = [job for job in missing if deaths[job.key] > DEATHS_OF_A_TASK]
        for job in missing:
            reasons[job.key] = _short(error)
            log.warning("'%s' of %s was not computed: %s", job.scenario.name, chunk.patient.name, _short(error))
    return reasons


def _short(error: BaseException | None) -> str:
    """One line that says what happened."""
    from distributed.scheduler import KilledWorker

    if error is None:
        return "The scheduler lost it"
    if isinstance(error, KilledWorker):
        return "Its workers died, time after time (memory, perhaps)"
    if isinstance(error, SpinedoseError):
        return in_study_words(error)
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _workers(client: Client) -> int:
    return max(1, len(client.nthreads()))


def _nobody(event: Event) -> None:
    """Who watches when nobody does."""
