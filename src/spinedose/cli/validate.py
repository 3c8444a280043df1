"""`spinedose validate`: the engine and its beams against the world."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spinedose._files import write_text
from spinedose.cli._app import NOT_CLINICAL, app, plain_errors
from spinedose.cli._shared import BackendOption, check_target, progress_bar, show_warnings

if TYPE_CHECKING:
    from spinedose.validate import Results


@app.command()
@plain_errors
def validate(
    case: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Case to compute; may be repeated. Without it all; see docs/validation.md."),
    ] = None,
    backend: Annotated[str, BackendOption] = "auto",
    machine: Annotated[
        str | None,
        typer.Option(metavar="NAME|DIR", help="Hold this machine against the data, not the one they belong to."),
    ] = None,
    beam: Annotated[str | None, typer.Option(metavar="6X", help="Only this beam.")] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of the measured data. Without it the folder 'shared' beside the checkout; cases without data "
            "are skipped.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT.json",
            help="File for the results. In a checkout they go to validation/results, in place of earlier ones.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a file that exists.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print warnings and errors only.")] = False,
) -> None:
    """Hold the engine and its beams against measurements, literature, exact physics and Monte Carlo.

    Every number has a limit, and every limit a source. The exit code is 0 when all are within their limits, 1 when some
    are not, and 2 when nothing could be computed.
    """
    if output is not None:
        check_target(output, force=force, inputs=[])
    from spinedose.validate import Results, results_file
    from spinedose.validate import validate as compute

    with progress_bar(wanted=not quiet) as report:
        results = compute(case or (), data=data, machine=machine, beam=beam, backend=backend, progress=report)
    target = output or (results_file(results) if machine is None else None)
    if target is not None and results.lines:
        whole = results
        if output is None and target.is_file():
            whole = Results.from_json(target.read_text(encoding="utf-8")).updated(results)
        write_text(target, whole.to_json())
    if not quiet:
        for line in _validation_verdict(results):
            typer.echo(line)
        if target is not None and results.lines:
            typer.echo(f"Written: {target}")
        typer.echo(NOT_CLINICAL)
    show_warnings(tuple(f"Case {item.case} {item.beam} was skipped: {item.skipped}." for item in results.skipped))
    if not results.lines:
        raise typer.Exit(2)
    if results.failed:
        raise typer.Exit(1)


def _validation_verdict(results: Results) -> list[str]:
    """How many lines keep their limits, the weakest, and a table of all, fields and depths together."""
    from spinedose.validate import pooled

    if not results.lines:
        return ["Nothing was computed."]
    within = len(results.lines) - len(results.failed)
    said = [f"{within} of {len(results.lines)} lines are within their limits.", "Weakest:"]
    for line in results.weakest(3):
        where = f" at {line.where}" if line.where else ""
        said.append(
            f"  {'pass' if line.passed else 'FAIL'}  {line.title}{where}: {line.worst:+.3g} (limit {line.limit:g} "
            f"{line.unit}), {line.role}"
        )
    said.append(
        f"{'':6}{'beam':<6}{'quantity':<58}{'data':<16}{'lines':>6}{'n':>7}{'mean':>8}{'worst':>8}{'limit':>7}  unit"
    )
    case = ""
    for pool in pooled(results.lines):
        worst = pool.worst
        if worst.case != case:
            case = worst.case
            said.append(case)
        verdict = "pass" if pool.passed else "FAIL"
        what = f"{worst.quantity}, {worst.region}" if worst.region else worst.quantity
        said.append(
            f"{verdict:<6}{worst.beam:<6}{what:<58.57}{worst.role:<16}{len(pool.lines):>6}{pool.n_points:>7}"
            f"{pool.mean:>+8.2f}{worst.worst:>+8.2f}{worst.limit:>7g}  {worst.unit}"
        )
    return said
