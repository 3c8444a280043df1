"""`spinedose batch`: a study over many patients and scenarios, computed by Dask's workers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spinedose.cli._app import NOT_CLINICAL, app, plain_errors
from spinedose.cli._compiled import compile_first
from spinedose.cli._shared import check_folder

if TYPE_CHECKING:
    from spinedose.batch import Event, Standing, StudyFile

MOST_REASONS = 10
"""Patients, and scenarios, without a result that are told of; all are in missing.csv."""


@app.command()
@plain_errors
def batch(
    study: Annotated[Path, typer.Argument(metavar="STUDY.toml", help="The study; docs/formats/batch.md.")],
    workers: Annotated[
        int | None,
        typer.Option(metavar="N", help="Processes on this computer; by default one for each GPU, or for each core."),
    ] = None,
    scheduler: Annotated[
        str, typer.Option(metavar="ADDRESS", help="A Dask scheduler that runs, tcp://host:8786; nothing is started.")
    ] = "",
    status: Annotated[
        bool, typer.Option("--status", help="Say how the study stands; compute and write nothing.")
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try scenarios once more that were refused.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar, no summary.")] = False,
) -> None:
    """Compute a study over many patients and scenarios.

    Every result is a file; what is there is not computed again, so that a run which was interrupted or killed goes on
    where it was. The exit code is 1 when a scenario has no result at the end.
    """
    from spinedose.batch import open_client, read_study_file, run, write_tables
    from spinedose.batch import status as status_of

    asked = read_study_file(study)
    if status:
        with _bar(wanted=not quiet) as watch:
            standing = status_of(asked.asked, watch=watch)
        _show(asked, standing, "")
        if not standing.is_complete:
            raise typer.Exit(1)
        return
    output = asked.asked.output.absolute()
    check_folder(next(place for place in (output, *output.parents) if place.exists()))
    devices = () if scheduler else _devices(asked.backend)
    with (
        open_client(workers=workers, scheduler=scheduler, devices=devices) as client,
        _bar(wanted=not quiet) as watch,
    ):
        if not (scheduler or devices):
            compile_first(lambda text: None if quiet else typer.echo(text, err=True))
        standing = run(asked.asked, client, again=retry_failed, scenarios_a_task=asked.scenarios_a_task, watch=watch)
    files = write_tables(asked, standing)
    if not quiet:
        _show(asked, standing, "missing.csv")
        typer.echo(f"Computed now: {standing.computed}. Tables: {', '.join(str(file) for file in files)}")
        typer.echo(NOT_CLINICAL)
    if not standing.is_complete:
        raise typer.Exit(1)


def _devices(backend: str) -> tuple[str, ...]:
    """GPUs for the workers; where there are none for what the study file asks for, its key is named."""
    from spinedose.batch import visible_devices
    from spinedose.errors import BackendUnavailable

    try:
        return visible_devices(backend)
    except BackendUnavailable as error:
        raise BackendUnavailable(error.problem, error.why, f"{error.advice} as 'backend' in [settings]") from None


def _show(study: StudyFile, standing: Standing, table: str) -> None:
    """How many of how many, and why some have no result; which table has the whole list, where one was written."""
    done, failed, absent = (standing.count(state) for state in ("done", "failed", "absent"))
    patients, lost = len(study.asked.folders), [name for name, _ in standing.lost]
    of_patients = f"{patients - len(lost)} of {patients}" if lost else str(patients)
    line = (
        f"{study.name}: {done} of {len(standing.lines)} scenarios of {of_patients} patients done, {failed} refused, "
        f"{absent} not computed"
    )
    if lost:
        names = ", ".join(lost[:MOST_REASONS]) + (", ..." if len(lost) > MOST_REASONS else "")
        count = f"{len(lost)} {'patient' if len(lost) == 1 else 'patients'}"
        line += f"; {count} could not be computed at all: {names}" + (f" ({table})" if table else "")
    typer.echo(f"{line}.")
    for name, reason in standing.lost[:MOST_REASONS]:
        typer.echo(f"{name}: {reason}", err=True)
    told = [one for one in standing.lines if one.reason]
    for one in told[:MOST_REASONS]:
        typer.echo(f"{one.patient.name}, {one.scenario.name}: {one.reason}", err=True)
    more = max(len(standing.lost) - MOST_REASONS, 0) + max(len(told) - MOST_REASONS, 0)
    if more:
        typer.echo(f"... and {more} more", err=True)


@contextmanager
def _bar(*, wanted: bool) -> Iterator[Callable[[Event], None]]:
    """Scenarios done of all, and the time that is left; on stderr, silent where nobody watches."""
    if not (wanted and sys.stderr.isatty()):
        yield lambda event: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description:<22}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("looking at patients", total=None)

        def watch(event: Event) -> None:
            words = "looking at patients" if event.what == "patient" else "scenarios"
            if event.failed:
                words += f", {event.failed} refused"
            bar.update(task, description=words, completed=event.done + event.failed, total=event.total)

        yield watch
