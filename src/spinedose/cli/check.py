"""`spinedose check`: a plan computed again and held against the planned dose."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from spinedose._files import expect_replaceable
from spinedose.cli._app import NOT_CLINICAL, app, plain_errors
from spinedose.cli._shared import (
    BackendOption,
    OnBolus,
    OnMissingSlices,
    assignment,
    beam_numbers,
    check_folder,
    check_spacing,
    check_target,
    chosen_structures,
    couch_and_surface,
    progress_bar,
)
from spinedose.errors import InvalidInput
from spinedose.units import CM_PER_MM

if TYPE_CHECKING:
    from spinedose.check import Check

EXIT_CODES = {"within": 0, "outside": 1, "not compared": 2}
"""What a script sees; 2 also stands for input that cannot be checked."""

FILES = ("check.json", "report.html", "report.pdf")
"""What is written."""

DoseTo = Literal["water", "medium"]
Against = Literal["dose", "plan"]


@app.command()
@plain_errors
def check(
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="FOLDER",
            help="Folder with the DICOM files of a plan, in any order and depth: RTPLAN, CT, RTSTRUCT, RTDOSE. Their "
            "UIDs tell what belongs together.",
        ),
    ] = None,
    plan: Annotated[
        str | None,
        typer.Option(metavar="RP.dcm|LABEL|UID", help="The plan: a file, or which one of several in the folder."),
    ] = None,
    ct: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder with the slices of one CT series.")] = None,
    structures: Annotated[Path | None, typer.Option(metavar="RS.dcm", help="RTSTRUCT file.")] = None,
    dose: Annotated[
        list[Path] | None,
        typer.Option(metavar="RD.dcm", help="RTDOSE file with the planned dose; repeated for doses of single beams."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help="Folder for check.json, report.html and report.pdf; made if it is not there. Without it the folder "
            "'check', and with --json - none.",
        ),
    ] = None,
    prescription_gy: Annotated[
        float | None, typer.Option(metavar="GY", help="Prescribed dose of all fractions, above that in the plan.")
    ] = None,
    criteria: Annotated[
        str, typer.Option(metavar="NAME|FILE.toml", help="What is judged; docs/formats/criteria.md.")
    ] = "spine",
    protocol: Annotated[
        str, typer.Option(metavar="NAME|FILE.toml", help="Dose limits of structures; docs/formats/protocol.md.")
    ] = "spine",
    chosen: Annotated[
        list[str] | None,
        typer.Option(
            metavar='"SpinalCord=Cord_final"',
            help="Which structure a name of the protocol stands for, where that is not clear; may be repeated.",
        ),
    ] = None,
    machine: Annotated[
        str | None,
        typer.Option(metavar="NAME|DIR", help="Machine of all beams; without it the leaf widths in the plan decide."),
    ] = None,
    curve: Annotated[
        str, typer.Option(metavar="NAME|FILE.toml", help="Curve from CT numbers to density, best that of your scanner.")
    ] = "generic",
    material: Annotated[
        list[str] | None,
        typer.Option(
            metavar='"ROD=titanium"',
            help='Material of a structure, or above a CT number: ">2500=titanium:grow -1"; may be repeated.',
        ),
    ] = None,
    couch: Annotated[
        str | None,
        typer.Option(metavar="NAME[:MM]", help="Couch top to put under the patient, with the DICOM y of its surface."),
    ] = None,
    spacing_mm: Annotated[float, typer.Option(help="Voxel size of the calculation [mm], 0.5 to 10.")] = 2.5,
    fine: Annotated[
        str,
        typer.Option(
            metavar="auto|none|PTV,Cord",
            help="Where voxels are finer: around targets and cord as the plan needs it, nowhere, or around these "
            "structures.",
        ),
    ] = "auto",
    dose_to: Annotated[DoseTo, typer.Option(help="What to compute dose to.")] = "water",
    planned_dose_to: Annotated[
        str, typer.Option(metavar="water|medium", help="What the planned dose is a dose to, where you know it.")
    ] = "",
    backend: Annotated[str, BackendOption] = "auto",
    per_beam: Annotated[
        bool, typer.Option("--per-beam", help="Compute beams apart even if the plan states no dose for them.")
    ] = False,
    causes: Annotated[
        bool,
        typer.Option(
            "--causes/--no-causes", help="Where the doses differ, compute variants of the plan that would explain it."
        ),
    ] = True,
    beams: Annotated[str | None, typer.Option(metavar="1,2", help="Numbers of the beams to compute.")] = None,
    fraction_group: Annotated[
        int | None, typer.Option(metavar="N", help="Fraction group, where the plan has several.")
    ] = None,
    bolus: Annotated[
        OnBolus, typer.Option(help="Refuse a beam with a bolus, or ignore the bolus and warn.")
    ] = "refuse",
    patient_position: Annotated[
        str | None, typer.Option(metavar="HFS|HFP|FFS|FFP", help="Where plan or CT do not say it, or wrongly.")
    ] = None,
    missing_slices: Annotated[
        OnMissingSlices, typer.Option(help="Refuse a CT that lacks slices, or interpolate single ones and warn.")
    ] = "refuse",
    logs: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DIR|FILE|N=FILE",
            help="Machine logs (trajectory logs, dynalogs): compute what they recorded. N= names the beam that a log is"
            " of, where it does not tell; may be repeated. docs/howto/delivered.md.",
        ),
    ] = None,
    against: Annotated[
        Against,
        typer.Option(help="With --logs: compare with the planned dose, or with our own dose of the plan."),
    ] = "dose",
    json: Annotated[
        str | None, typer.Option(metavar="FILE|-", help="Write the JSON to this file, too; - for standard output.")
    ] = None,
    anonymous: Annotated[
        bool, typer.Option("--anonymous", help="Leave patient, UIDs and file names out of everything written.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that exist.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the verdict, warnings and errors only.")] = False,
) -> None:
    """Compute a plan again, hold it against the planned dose, and report.

    Exit code 0: within all criteria; 1: outside; 2: not checked, because something is wrong or missing or there is no
    planned dose.
    """
    numbers = beam_numbers(beams)
    assignments = tuple(assignment(text) for text in material or ())
    couch_top, couch_surface_mm = couch_and_surface(couch)
    names = chosen_structures(chosen or [])
    recorded = _logs(logs or [])
    check_spacing(spacing_mm)
    if folder is None and plan is None:
        raise InvalidInput("There is nothing to check", "no folder and no plan was named", "Name a folder")
    to_screen = json == "-"
    target = output or (None if to_screen else Path("check"))
    if target is not None:
        _check_places(target, force=force)
    if json is not None and not to_screen:
        named = (structures, None if plan is None else Path(plan), *(dose or []))
        check_target(Path(json), force=force, inputs=[path for path in named if path is not None])
    with progress_bar(wanted=not quiet) as report:
        found = _conduct(
            folder,
            plan=plan,
            ct=ct,
            structures=structures,
            dose=dose or None,
            machine=machine,
            curve=curve,
            criteria=criteria,
            protocol=protocol,
            chosen=names,
            prescription_gy=prescription_gy,
            spacing_cm=CM_PER_MM * spacing_mm,
            fine=_fine(fine),
            materials=assignments,
            couch=couch_top,
            couch_surface_cm=None if couch_surface_mm is None else CM_PER_MM * couch_surface_mm,
            dose_to=dose_to,
            planned_dose_to=planned_dose_to,
            backend=backend,
            per_beam=True if per_beam else None,
            causes=causes,
            beams=numbers,
            fraction_group=fraction_group,
            bolus=bolus,
            patient_position=patient_position,
            missing_slices=missing_slices,
            logs=recorded,
            against=against,
            progress=report,
        )
        found = found.anonymous() if anonymous else found
        written, notes = _write(found, target, None if to_screen or json is None else Path(json), report)
    if to_screen:
        typer.echo(found.to_json())
    else:
        lines = [_headline(found)] if quiet else [*summary(found), *_places(written), NOT_CLINICAL]
        for line in lines:
            typer.echo(line)
    for text in (*found.warnings, *notes):
        typer.echo(f"Warning: {text}", err=True)
    if EXIT_CODES[found.verdict]:
        raise typer.Exit(EXIT_CODES[found.verdict])


def _conduct(folder: Path | None, **arguments: Any) -> Check:
    """The check itself."""
    from spinedose.check import check as conduct

    done: Check = conduct(folder, **arguments)
    return done


def _logs(texts: list[str]) -> Any:
    """Log files as `spinedose.check` takes them, from `LOGS` or `2=Tlog.bin`."""
    if not all(text.strip() for text in texts):
        raise InvalidInput('--logs "" names nothing', "a folder or a file is asked for", "Name it, or leave --logs out")
    beam = re.compile(r"(\d+)=(.+)")
    named = [beam.fullmatch(text) for text in texts]
    if not any(named):
        return [Path(text) for text in texts] or None
    found: dict[int, list[Path]] = {}
    for text, match in zip(texts, named, strict=True):
        if match is None:
            raise InvalidInput(
                f"--logs {text} names no beam", "others do", "Write --logs NUMBER=FILE for all logs, or for none"
            )
        found.setdefault(int(match[1]), []).append(Path(match[2]))
    return found


def _fine(text: str) -> Any:
    """What `--fine` means for `spinedose.check`."""
    if text in ("auto", "none"):
        return "auto" if text == "auto" else None
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _check_places(folder: Path, *, force: bool) -> None:
    """Refuse, before anything is computed, a folder that could not take the files."""
    if folder.exists() and not folder.is_dir():
        raise InvalidInput(f"The output folder '{folder}' is a file", "a folder is needed", "Choose another name")
    for name in FILES:
        expect_replaceable(folder / name)
    there = [name for name in FILES if (folder / name).exists()]
    if there and not force:
        raise InvalidInput(
            f"The output '{folder / there[0]}' exists",
            "it would be lost",
            "Choose another folder with --output, or overwrite with --force",
        )
    check_folder(folder if folder.is_dir() else next(p for p in folder.absolute().parents if p.exists()))


def _write(
    found: Check, folder: Path | None, json: Path | None, report: Callable[[str, float], None]
) -> tuple[list[Path], list[str]]:
    """Write all files aside, then give them their names: what is there is whole and belongs together."""
    aside: dict[Path, Path] = {}
    notes: list[str] = []

    def place(target: Path) -> Path:
        aside[target] = target.with_name(f".{os.getpid()}.{target.name}")
        return aside[target]

    try:
        text = found.to_json() + "\n" if folder is not None or json is not None else ""
        if folder is not None:
            report("report", 0.98)
            folder.mkdir(parents=True, exist_ok=True)
            place(folder / "check.json").write_text(text, encoding="utf-8")
            notes += _write_reports(found, folder, place)
        if json is not None:
            place(json).write_text(text, encoding="utf-8")
        for target, file in aside.items():
            file.replace(target)
    finally:
        for file in aside.values():
            file.unlink(missing_ok=True)
    return list(aside), notes


def _write_reports(found: Check, folder: Path, place: Callable[[Path], Path]) -> list[str]:
    """Both reports, where the libraries for them are installed; says when they are not."""
    try:
        from spinedose.report import write_html, write_pdf
    except ImportError:
        return ["No report was written: its libraries are not installed (pip install 'spinedose[report]')."]
    write_html(found, place(folder / "report.html"))
    write_pdf(found, place(folder / "report.pdf"))
    return []


def _places(written: list[Path]) -> Iterator[str]:
    if written:
        yield f"Written: {', '.join(str(path) for path in written)}"


# -------------------------------------------------------------------------------------------------------------- summary


def _headline(found: Check) -> str:
    """The verdict in one line."""
    label = f"Plan '{found.names.plan_label}'" if found.names.plan_label else "The plan"
    count = len(found.judgement.judged) if found.judgement is not None else 0
    if found.verdict == "not compared":
        points = "1 point of a beam" if count == 1 else f"{count} points of beams"
        against = f"held against its dose at {points} only, within limits" if count else "held against nothing"
        return f"NOT COMPARED: {label} was computed, and {against}."
    if found.verdict == "within":
        return f"WITHIN: {label} keeps all {count} criteria{f', but {found.unjudged}' if found.unjudged else ''}."
    levels = [one.level for one in found.judgement.judged] if found.judgement is not None else []
    unjudged = levels.count("not judged")
    missed = count - levels.count("within") - unjudged
    problems = sum(one.severity == "problem" for one in found.findings)
    said = [f"misses {missed} of {count} criteria"] if missed else []
    said += [f"cannot be judged by {unjudged} of {count} criteria"] if unjudged else []
    said += [f"{problems} finding{' is a problem' if problems == 1 else 's are problems'}"] if problems else []
    kept = "" if missed or unjudged else f"keeps all {count} criteria, but "
    end = f"; {found.unjudged}" if found.unjudged else ""
    return f"OUTSIDE: {label} {kept}{', and '.join(said)}{end}."


MOST_REASONS = 12
"""Reasons on the terminal; the report has all."""


def summary(found: Check) -> Iterator[str]:
    """The lines that end a check: verdict, reasons, structures, gammas, beams and findings."""
    yield _headline(found)
    for reason in found.reasons[:MOST_REASONS]:
        yield f"  {reason}"
    if len(found.reasons) > MOST_REASONS:
        yield f"  ... and {len(found.reasons) - MOST_REASONS} more; see the report."
    yield f"Prescription: {found.prescription.text}"
    yield from _structure_lines(found)
    for gamma in found.gammas:
        whole = gamma.whole
        yield f"{gamma.question.name}: {whole.pass_percent:.2f} % of {whole.points} voxels pass, mean {whole.mean:.2f}"
    yield from _beam_lines(found)
    yield from _finding_lines(found)
    seconds = sum(found.timings_s.values())
    facts = found.dose.metadata
    yield f"Checked in {seconds:.1f} s on {facts.backend} ({facts.device}), spinedose {facts.version}."


def _structure_lines(found: Check) -> Iterator[str]:
    """Targets and cords, planned and recalculated."""
    rows = found.of_role("target", "cord")
    if not rows:
        return
    wanted = {"target": ("Mean[Gy]", "D95%[Gy]", "D2%[Gy]"), "cord": ("D0.03cc[Gy]", "D10%[Gy]", "Max[Gy]")}
    yield f"{'structure':<20}{'volume cm3':>11}  {'metric':<12}{'planned':>9}{'computed':>9}{'difference':>11}"
    for row in rows:
        for k, name in enumerate(wanted[row.role]):
            pair = row.metric(name)
            if pair is None:
                continue
            head = f"{row.name:<20.20}{_number(row.volume_cm3):>11}" if k == 0 else f"{'':<31}"
            off = f"{pair.difference_percent:+.1f} %" if math.isfinite(pair.difference_percent) else "-"
            mark = " ?" if pair.doubt else ""
            yield (
                f"{head}  {pair.name:<12}{_number(pair.planned):>9}{_number(pair.recalculated):>9}{off:>11}{mark}"
            ).rstrip()
        if not row.metrics:
            yield f"{row.name:<20.20}{'-':>11}  {row.doubt}"


def _beam_lines(found: Check) -> Iterator[str]:
    for beam in found.beams:
        row = beam.row
        line = f"beam {row.number} '{row.name}': {row.energy}, {row.meterset_mu:.1f} MU"
        if math.isfinite(beam.difference_percent):
            line += (
                f"; at its point {row.planned_point_dose_gy:.4f} Gy planned, {beam.recalculated_point_dose_gy:.4f} "
                f"computed, {beam.difference_percent:+.1f} %"
            )
        yield line


def _finding_lines(found: Check) -> Iterator[str]:
    marks = {"problem": "!!", "attention": " !", "information": "  "}
    for one in found.findings:
        yield f"{marks[one.severity]} {one.text}"


def _number(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "-"
