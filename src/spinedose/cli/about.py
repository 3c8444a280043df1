"""`spinedose machines` and `spinedose doctor`: what there is, and whether all is well."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from spinedose.cli._app import NOT_CLINICAL, app, plain_errors


@app.command()
@plain_errors
def machines(
    sources: Annotated[bool, typer.Option("--sources", help="Show where the numbers come from, too.")] = False,
) -> None:
    """List the machines and beams that come with spinedose."""
    from spinedose.machine import list_machines, read_machine

    for name in list_machines():
        found = read_machine(name)
        typer.echo(f"{name}: {', '.join(found.beams)}")
        typer.echo(f"    {found.description} ({found.provenance.get('status', 'status unknown')})")
        if sources:
            _show_sources(found.provenance)
            for energy, beam in found.beams.items():
                typer.echo(f"    beam {energy}")
                _show_sources(beam.provenance, indent=8)
    typer.echo(NOT_CLINICAL)


def _show_sources(provenance: Mapping[str, Any], indent: int = 4) -> None:
    for key, text in provenance.items():
        if isinstance(text, Mapping):
            typer.echo(f"{' ' * indent}{key}:")
            _show_sources(text, indent + 4)
        else:
            typer.echo(f"{' ' * indent}{key}: {text}")


@app.command()
@plain_errors
def doctor() -> None:
    """Check libraries, devices and data.

    The exit code is 1 when something that is needed is missing.
    """
    from spinedose.doctor import examine

    findings = examine()
    is_well = all(finding.is_fine is not False for finding in findings)
    typer.echo("spinedose is ready." if is_well else "spinedose cannot compute here.")
    marks = {True: "ok", False: "MISSING", None: "-"}
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        typer.echo(f"{marks[finding.is_fine]:>7}  {finding.name:<{width}}  {finding.detail}")
    if not is_well:
        raise typer.Exit(1)
