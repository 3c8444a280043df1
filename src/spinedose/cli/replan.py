"""`spinedose replan`: the same plan computed many times, with one thing or another different each time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spinedose.cli._app import NOT_CLINICAL, app, plain_errors
from spinedose.cli._shared import (
    NO_PICTURES,
    BackendOption,
    BeamsOption,
    BolusOption,
    CouchOption,
    CurveOption,
    DoseToOption,
    FineOption,
    FractionGroupOption,
    MachineOption,
    MaterialOption,
    MissingSlicesOption,
    OnBolus,
    OnMissingSlices,
    PositionOption,
    assignment,
    beam_numbers,
    check_spacing,
    check_target_folder,
    chosen_structures,
    couch_and_surface,
    progress_bar,
    show_warnings,
)
from spinedose.errors import InvalidInput
from spinedose.units import CM_PER_MM

if TYPE_CHECKING:
    from spinedose.scenarios import Outcome, Scenario, Summary

USUAL_MM, USUAL_DEG = 0.5, 0.5
"""Standard deviations of --random where none are given [mm, degrees]. House default to try it with, not measured: a
result says so."""

MOST_ROWS = 12
"""Rows of the table on the screen; the files have all."""


@app.command()
@plain_errors
def replan(
    plan: Annotated[Path, typer.Argument(metavar="PLAN", help="RTPLAN file: the treatment plan.")],
    ct: Annotated[Path, typer.Argument(metavar="CTDIR", help="Folder with the slices of one CT series.")],
    structures: Annotated[
        Path, typer.Option(metavar="RS.dcm", help="RTSTRUCT file: body, densities, and what is measured.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for tables and pictures; made if not there.")
    ],
    shifts_mm: Annotated[
        str | None,
        typer.Option(
            metavar="1,2", help="Shift the patient by so much along each axis, both ways, one at a time; with commas."
        ),
    ] = None,
    turns_deg: Annotated[
        str | None,
        typer.Option(metavar="1,2", help="Turn the patient by so much about each axis, both ways, one at a time."),
    ] = None,
    random: Annotated[
        int, typer.Option(metavar="N", help="Treatments with random setup errors, anew in each fraction.")
    ] = 0,
    seed: Annotated[int, typer.Option(help="Seed of --random: the same seed, the same errors.")] = 1,
    systematic_mm: Annotated[
        float, typer.Option(help="Standard deviation of shifts that last a whole treatment [mm].")
    ] = USUAL_MM,
    systematic_deg: Annotated[float, typer.Option(help="The same of turns [degrees].")] = USUAL_DEG,
    random_mm: Annotated[
        float, typer.Option(help="Standard deviation of shifts that differ from fraction to fraction [mm].")
    ] = USUAL_MM,
    random_deg: Annotated[float, typer.Option(help="The same of turns [degrees].")] = USUAL_DEG,
    scenarios: Annotated[
        Path | None,
        typer.Option(metavar="FILE.toml|csv", help="Further scenarios of any kind; docs/formats/study.md."),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(metavar="D95%,D0.03cc", help="Metrics as AAPM TG-263 writes them, read from every structure."),
    ] = None,
    regions: Annotated[
        str | None,
        typer.Option(metavar="PTV,SpinalCord", help="Structures to measure; without it all targets, cords and organs."),
    ] = None,
    prescription_gy: Annotated[
        float | None, typer.Option(metavar="GY", help="Prescribed dose of all fractions, above that in the plan.")
    ] = None,
    protocol: Annotated[
        str, typer.Option(metavar="NAME|FILE.toml|none", help="Dose limits of structures; docs/formats/protocol.md.")
    ] = "spine",
    chosen: Annotated[
        list[str] | None,
        typer.Option(
            metavar='"SpinalCord=Cord_final"',
            help="Structure that a name of the protocol stands for; may be repeated.",
        ),
    ] = None,
    machine: Annotated[str | None, MachineOption] = None,
    curve: Annotated[str, CurveOption] = "generic",
    material: Annotated[list[str] | None, MaterialOption] = None,
    couch: Annotated[str | None, CouchOption] = None,
    spacing_mm: Annotated[float, typer.Option(help="Voxel size of the calculation [mm], 0.5 to 10.")] = 2.5,
    fine: Annotated[str | None, FineOption] = None,
    dose_to: Annotated[str, DoseToOption] = "water",
    backend: Annotated[str, BackendOption] = "auto",
    missing_slices: Annotated[OnMissingSlices, MissingSlicesOption] = "refuse",
    beams: Annotated[str | None, BeamsOption] = None,
    fraction_group: Annotated[int | None, FractionGroupOption] = None,
    bolus: Annotated[OnBolus, BolusOption] = "refuse",
    patient_position: Annotated[str | None, PositionOption] = None,
    parquet: Annotated[bool, typer.Option("--parquet", help="Write tables as Parquet, too; needs pyarrow.")] = False,
    pictures: Annotated[bool, typer.Option("--pictures/--no-pictures", help="Draw bands and heat maps.")] = True,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that exist.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print warnings and errors only.")] = False,
) -> None:
    """Compute a plan many times, with patient, CT or machine a little different, and tell worst case and spread.

    Shifts and turns move the patient, not a dose cloud: depths and scatter are computed anew. The folder gets
    values.csv (a number a row), scenarios.csv (a scenario a row), summary.csv, limits.csv, study.json and pictures.
    """
    numbers = beam_numbers(beams)
    assignments = tuple(assignment(text) for text in material or ())
    couch_top, couch_surface_mm = couch_and_surface(couch)
    names = chosen_structures(chosen or [])
    shifts, turns = _amounts(shifts_mm, "--shifts-mm"), _amounts(turns_deg, "--turns-deg")
    check_spacing(spacing_mm)
    if random < 0:
        raise InvalidInput(f"--random {random} cannot be used", "it counts treatments", "Give a number from 1")
    sizes = (systematic_mm, random_mm, systematic_deg, random_deg)
    _prove_sizes(*sizes)
    if not (shifts or turns or random or scenarios):
        raise InvalidInput(
            "Nothing is different from the plan", "there is nothing to compute", "Give --shifts-mm 1,2 for instance"
        )
    check_target_folder(output, force=force, parents=True)
    from spinedose.cli.compute import _read_inputs
    from spinedose.protocol import read_protocol
    from spinedose.scenarios import Study, summarise, write_study
    from spinedose.scenarios.study import METRICS
    from spinedose.settings import Settings

    with progress_bar(wanted=not quiet) as report:
        report("read", 0.0)
        inputs = _read_inputs(
            plan,
            ct,
            structures,
            beams=numbers,
            fraction_group=fraction_group,
            bolus=bolus,
            patient_position=patient_position,
            missing_slices=missing_slices,
        )
        assert inputs.structures is not None
        wanted = _scenarios(shifts, turns, random, seed, sizes, scenarios, inputs.plan.fractions)
        study = Study(
            inputs.plan,
            inputs.ct,
            inputs.structures,
            machine=machine,
            materials=assignments,
            couch=couch_top,
            couch_surface_cm=None if couch_surface_mm is None else CM_PER_MM * couch_surface_mm,
            spacing_cm=CM_PER_MM * spacing_mm,
            fine=_names(fine) or None,
            backend=backend,
            settings=Settings(curve=curve, dose_to=dose_to),
            metrics=_names(metrics) or METRICS,
            regions=_names(regions),
            prescription_gy=prescription_gy,
            protocol=None if protocol == "none" else read_protocol(protocol),
            chosen=names,
        )
        outcomes = list(study.run(wanted, progress=report))
        report("write", 1.0)
        about: dict[str, Any] = study.metadata()
        if random:
            keys = ("systematic_mm", "random_mm", "systematic_deg", "random_deg")
            about["random"] = {"count": random, "seed": seed, **dict(zip(keys, sizes, strict=True))}
        written = write_study(output, outcomes, about, formats=("csv", "parquet") if parquet else ("csv",))
        drawn = _draw(outcomes, output, study.prescription_gy, inputs.plan.label) if pictures else ()
    if not quiet:
        for line in (*_table(summarise(outcomes), outcomes), *_closing(outcomes)):
            typer.echo(line)
        typer.echo(f"Written into {output}: {', '.join(path.name for path in (*written, *drawn))}")
        if pictures and not drawn:
            typer.echo(NO_PICTURES)
        typer.echo(NOT_CLINICAL)
    show_warnings((*outcomes[0].warnings, *_usual(random, sizes), *_of_scenarios(outcomes)))


def _amounts(text: str | None, option: str) -> tuple[float, ...]:
    """Positive numbers from `1,2`."""
    from spinedose.scenarios.reading import largest

    most, unit = largest(option)
    try:
        found = tuple(float(part) for part in (text or "").split(",") if part.strip())
    except ValueError:
        found = (math.nan,)
    if not all(math.isfinite(value) and value > 0 for value in found):
        raise InvalidInput(
            f"{option} '{text}' cannot be understood",
            "it takes positive numbers, each both ways",
            f"Write {option} 1,2",
        )
    if max(found, default=0.0) > most:
        raise InvalidInput(
            f"{option} {max(found):g} cannot be used", f"up to {most:g} {unit} either way can be meant", "Correct it"
        )
    return found


def _prove_sizes(systematic_mm: float, random_mm: float, systematic_deg: float, random_deg: float) -> None:
    """Refuse standard deviations of setup errors that cannot be meant."""
    from spinedose.scenarios.reading import largest

    for option, value in (
        ("--systematic-mm", systematic_mm), ("--random-mm", random_mm),
        ("--systematic-deg", systematic_deg), ("--random-deg", random_deg),
    ):  # fmt: skip
        most, unit = largest(option, is_deviation=True)
        if not 0 <= value <= most:  # also when it is not a number
            why = f"a standard deviation is 0 to {most:g} {unit}"
            raise InvalidInput(f"{option} {value:g} cannot be used", why, "Correct it")


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())


def _scenarios(
    shifts_mm: Sequence[float],
    turns_deg: Sequence[float],
    random: int,
    seed: int,
    sizes: tuple[float, float, float, float],
    file: Path | None,
    fractions: int,
) -> tuple[Scenario, ...]:
    """All scenarios that were asked for."""
    from spinedose.scenarios import SetupErrors, random_setups, read_scenarios, setup_grid

    found: list[Scenario] = []
    if shifts_mm or turns_deg:
        found += setup_grid([CM_PER_MM * value for value in shifts_mm], turns_deg)
    if random:
        systematic_mm, random_mm, systematic_deg, random_deg = sizes
        errors = SetupErrors(CM_PER_MM * systematic_mm, CM_PER_MM * random_mm, systematic_deg, random_deg)
        found += random_setups(random, seed, errors, fractions=fractions)
    if file is not None:
        found += read_scenarios(file, fractions=fractions)
    return tuple(found)


def _draw(outcomes: Sequence[Outcome], folder: Path, prescription_gy: float, title: str) -> tuple[Path, ...]:
    """Pictures, where matplotlib is installed."""
    import importlib.util

    if importlib.util.find_spec("matplotlib") is None:
        return ()
    from spinedose.report.studies import draw_study

    return draw_study(outcomes, folder, prescription_gy=prescription_gy, title=title)


def _table(rows: Sequence[Summary], outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Planned, worst and usual values of the metrics that tell most."""
    from spinedose.scenarios import telling

    shown = telling(rows)[:MOST_ROWS]
    head = f"{'structure':<16}{'metric':<14}{'planned':>9}{'worst':>9}{'5 %':>9}{'50 %':>9}{'95 %':>9}  worst is"
    yield head
    for one in shown:
        spread = "".join(f"{value:>9.2f}" if math.isfinite(value) else f"{'-':>9}" for value in one.percentiles)
        values = f"{one.planned:>9.2f}{one.worst:>9.2f}{spread}"
        yield f"{one.structure:<16.16}{one.metric:<14.14}{values}  {one.worst_scenario}"
    samples = sum(one.scenario.is_sample for one in outcomes)
    if samples:
        yield f"Percentiles are of {samples} random treatments, the worst is that of all {len(outcomes)} scenarios."


def _closing(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Limits that are kept, and what it cost."""
    known = [[k.is_kept for k in one.limits if k.is_kept is not None] for one in outcomes]
    known = [each for each in known if each]
    if known:
        yield f"{sum(all(each) for each in known)} of {len(known)} scenarios keep all limits of the protocol."
    times = [one.seconds for one in outcomes]
    rest = times[1:]
    yield (
        f"{len(outcomes)} scenarios in {sum(times):.0f} s: the first {times[0]:.1f} s"
        + (f", the others {sum(rest) / len(rest):.1f} s each." if rest else ".")
    )


def _usual(random: int, sizes: tuple[float, ...]) -> tuple[str, ...]:
    if random and sizes == (USUAL_MM, USUAL_MM, USUAL_DEG, USUAL_DEG):
        return (
            f"The sizes of random setup errors ({USUAL_MM:g} mm, {USUAL_DEG:g} degrees) are defaults to try it with,"
            " not those of your department: give your own with --systematic-mm and the like.",
        )
    return ()


def _of_scenarios(outcomes: Sequence[Outcome]) -> tuple[str, ...]:
    """Warnings that not all scenarios share, with the first that has them."""
    known = set(outcomes[0].warnings)
    first: dict[str, str] = {}
    for one in outcomes[1:]:
        for text in one.warnings:
            if text not in known:
                first.setdefault(text, one.scenario.name)
    return tuple(f"{text} (scenario '{name}')" for text, name in first.items())
