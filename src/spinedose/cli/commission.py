"""`spinedose commission`: fit a beam to measurements in water, or check one."""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spinedose._files import aside, expect_replaceable
from spinedose._version import __version__
from spinedose.cli._app import NOT_CLINICAL, app, plain_errors
from spinedose.cli._shared import NO_PICTURES, check_folder, progress_bar, show_warnings
from spinedose.errors import InvalidInput

if TYPE_CHECKING:
    from spinedose.agreement import Agreement, BeamCheck
    from spinedose.commission import Commissioning, Curve, Fitted
    from spinedose.machine import Calibration, Machine
    from spinedose.measurements import Finding, Scan
    from spinedose.record import Data
    from spinedose.report.curves import Facts


@app.command()
@plain_errors
def commission(
    data: Annotated[
        list[Path],
        typer.Argument(
            metavar="DATA...",
            help="Files of measurements in water, or folders of them: tidy CSV, W2CAD .asc, PTW .mcc, RFA300 ASCII.",
        ),
    ],
    machine: Annotated[
        str,
        typer.Option(
            metavar="NAME|DIR",
            help="Machine to start from, or the one to check: a name that `spinedose machines` lists, or a folder that "
            "holds a machine.toml.",
        ),
    ],
    beam: Annotated[str, typer.Option(metavar="6X", help="The beam, named as in the machine and in the data.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="DIR", help="Folder for machine, beam and report; made if it is not there."
        ),
    ] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Fit nothing: hold the model against the measurements; exit code 1 when it drifted."
        ),
    ] = False,
    detector: Annotated[
        str, typer.Option(metavar="TEXT", help="Use curves whose detector has this text in its name.")
    ] = "",
    leave_out: Annotated[
        list[str] | None,
        typer.Option(
            metavar="7x7|depth=5",
            help="Keep a field, or profiles at a depth [cm], out of the fit and report them apart; may be repeated.",
        ),
    ] = None,
    hold: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Keep a parameter at a value; may be repeated."),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            metavar='"10x10 ssd=100 depth=10 cGy_per_MU=0.665"',
            help="Calibration: field, SSD, depth [cm] (or depth=dmax) and the dose there. Without it that of the data, "
            "or of a start model that states its own; or else 1 cGy/MU at dmax, 10x10, SSD 100, marked as assumed.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that exist.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print warnings and errors only.")] = False,
) -> None:
    """Fit a beam model to measurements in water, or check one with new measurements.

    Writes a machine folder that `--machine DIR` takes, with where every number comes from, and a report that shows
    every curve. What the data do not determine stays as it was and is marked so. docs/howto/commissioning.md says which
    curves are needed.
    """
    held, stated = _held(hold or ()), _stated(reference)
    if output is None and not check:
        raise InvalidInput("There is no folder to write to", "a fit leaves files", "Name it with --output")
    from spinedose.machine import machine_folder, read_machine

    model = read_machine(machine)
    model.beam(beam)
    if output is not None:
        name = f"{beam}_check" if check else beam
        _check_machine_folder(output, name, machine_folder(machine), is_check=check, force=force, data=data)
    with progress_bar(wanted=not quiet) as report:
        report("read", 0.0)
        job = _commissioning_job(model, beam, data, detector, tuple(leave_out or ()), held, stated, output)
        if check:
            done = _check(job, report)
        else:
            done = _fit(job, machine_folder(machine), report)
    if not quiet:
        for line in done.lines:
            typer.echo(line)
        typer.echo(NOT_CLINICAL)
    show_warnings(done.warnings)
    if done.code:
        raise typer.Exit(done.code)


@dataclass(frozen=True, slots=True)
class _Stated:
    """A calibration as somebody states it; the depth is NaN for that of the maximum dose."""

    gy_per_mu: float
    field_cm: float
    ssd_cm: float
    depth_cm: float
    where: str

    @property
    def told(self) -> str:
        """In words, for the provenance."""
        depth = "dmax" if math.isnan(self.depth_cm) else f"{self.depth_cm:g} cm"
        return (
            f"{100 * self.gy_per_mu:g} cGy/MU, {self.field_cm:g} x {self.field_cm:g} cm, SSD {self.ssd_cm:g} cm, depth "
            f"{depth} ({self.where})"
        )


CUSTOM = (0.01, 10.0, 100.0, math.nan)
"""What is assumed where nobody states a calibration: 1 cGy/MU at the maximum of 10 x 10 cm, SSD 100 cm."""


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    """What a fit or a check starts from, read and checked."""

    machine: Machine
    beam: str
    data: Data
    detector: str
    left_out: tuple[str, ...]
    hold: Mapping[str, float]
    stated: _Stated | None
    output: Path | None

    @property
    def title(self) -> str:
        """For the report."""
        return f"{self.beam} of {self.machine.name}"

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was found in the data: doubts of one kind together, refusals each."""
        return tuple(_findings(self.data.measurements.findings)) + tuple(
            f"'{name}' was passed over: {why}." for name, why in self.data.passed_over.items()
        )


@dataclass(frozen=True, slots=True)
class _Done:
    """What to print, and the exit code."""

    lines: list[str]
    warnings: tuple[str, ...]
    code: int = 0


def _commissioning_job(
    machine: Machine,
    beam: str,
    paths: list[Path],
    detector: str,
    leave_out: tuple[str, ...],
    hold: Mapping[str, float],
    stated: _Stated | None,
    output: Path | None,
) -> _Job:
    """Read the measurements, and prove that what is to be left out is there."""
    from spinedose.record import read_data

    data = read_data(paths, beam)
    scans, sets = data.measurements.scans, data.measurements.output_factors
    for text in leave_out:
        rule = _left_out_rule(text)
        in_scans = any(rule(scan.field_cm, scan.depth_cm if scan.is_two_sided else math.nan) for scan in scans)
        fields = ((x, y) for item in sets for x, y in zip(item.field_x_cm, item.field_y_cm, strict=True))
        if not in_scans and not any(rule((float(x), float(y)), math.nan) for x, y in fields):
            known = ", ".join(f"{x:g}x{y:g}" for x, y in data.measurements.fields_cm(beam))
            raise InvalidInput(f"--leave-out {text} fits no curve", f"the fields are {known}", "Correct it")
    return _Job(machine, beam, data, detector, leave_out, hold, stated or _stated_by(data, beam), output)


_Rule = Callable[[tuple[float, float], float], bool]
"""Whether a field (x, y) [cm] and the depth of a profile [cm], NaN for others, are meant."""


def _left_out_rule(text: str) -> _Rule:
    """What `7x7` and `depth=5` mean."""
    size = re.fullmatch(r"([\d.]+)\s*[xX×]\s*([\d.]+)", text.strip())
    at = re.fullmatch(r"depth\s*=\s*([\d.]+)", text.strip())
    try:
        if size:
            x, y = float(size[1]), float(size[2])
            return lambda field, depth: abs(field[0] - x) < 0.005 and abs(field[1] - y) < 0.005
        if at:
            wanted = float(at[1])
            return lambda field, depth: abs(depth - wanted) < 0.005
    except ValueError:  # such as 1.2.3
        pass
    raise InvalidInput(
        f"--leave-out {text} cannot be understood", "it takes a field or a depth in cm", "Write 7x7 or depth=5"
    )


def _is_left_out(job: _Job, field_cm: tuple[float, float], depth_cm: float) -> bool:
    return any(rule(field_cm, depth_cm) for rule in map(_left_out_rule, job.left_out))


def _curves(job: _Job) -> tuple[tuple[Curve, ...], tuple[Curve, ...], tuple[str, ...]]:
    """Curves for the fit, those that are kept apart, and what is not used, or for less than it could be."""
    from spinedose.agreement import is_output_factor
    from spinedose.commission import prepare_curves

    def is_apart(scan: Scan) -> bool:
        return _is_left_out(job, scan.field_cm, scan.depth_cm if scan.is_two_sided else math.nan)

    findings: dict[str, Finding] = {}

    def chosen(leave_out: Callable[[Scan], bool], factors_are_apart: bool) -> tuple[Curve, ...]:
        prepared = prepare_curves(job.data.measurements, job.beam, detector=job.detector, leave_out=leave_out)
        findings.update({str(finding): finding for finding in prepared.findings})
        return tuple(
            curve
            for curve in prepared.curves
            if not is_output_factor(curve) or _is_left_out(job, curve.field_cm, math.nan) is factors_are_apart
        )

    used = chosen(is_apart, False)
    if not used:
        raise _of_no_curve(job, tuple(findings.values()))
    apart = chosen(lambda scan: not is_apart(scan), True) if job.left_out else ()
    return used, apart, tuple(_findings(tuple(findings.values())))


MOST_REASONS = 3
"""Curves that cannot be used of which the reasons are told."""


def _of_no_curve(job: _Job, findings: tuple[Finding, ...]) -> InvalidInput:
    """Why there is nothing to fit or to judge."""
    unused = [
        ", ".join(filter(None, (f"{finding.curve}: {finding.problem}", finding.why)))
        for finding in findings
        if finding.code == "not_used"
    ]
    if not unused:
        return InvalidInput("No curve is left", "all were left out", "Leave out less")
    more = [f"and {len(unused) - MOST_REASONS} more"] if len(unused) > MOST_REASONS else []
    others = " that was not left out" if job.left_out else ""
    return InvalidInput(
        f"No curve{others} can be used", "; ".join([*unused[:MOST_REASONS], *more]), "Correct the measurements"
    )


def _fit(job: _Job, start: Path, report: Callable[[str, float], None]) -> _Done:
    """Fit, write the machine folder and the report, and say what was found."""
    import shutil
    from dataclasses import replace

    from spinedose.agreement import agreement_of
    from spinedose.beam_file import write_beam
    from spinedose.commission import Calculator, fit_beam
    from spinedose.record import is_of_setup, provenance_of, warnings_of

    assert job.output is not None, "the command has refused this"
    curves, kept_apart, unused = _curves(job)
    found = fit_beam(job.machine, job.beam, curves, hold=job.hold, progress=report)
    setup = {p.name: p.value for p in found.parameters if is_of_setup(p)}
    calculator = Calculator(job.machine)
    apart = tuple((curve, calculator.curve(curve, found.model, setup)) for curve in kept_apart)
    calibration, told, doubt = _calibrated(job, found)
    provenance = provenance_of(
        job.machine, job.beam, found, job.data,
        left_out=job.left_out, detector=job.detector, calibration=told, not_used=unused,
    )  # fmt: skip
    model = replace(found.model, calibration=calibration, provenance=provenance)
    report("write", 0.97)
    verdict = _fit_verdict(job, found, agreement_of(apart))
    warnings = (*job.warnings, *unused, *warnings_of(found), *doubt)
    job.output.mkdir(parents=True, exist_ok=True)
    pages = _report(
        job, job.output / f"{job.beam}_report.html", found.curves, apart,
        title=f"Beam {job.title}, fitted", verdict=verdict[:4], warnings=warnings, parameters=found.parameters,
        correlated=found.correlated,
    )  # fmt: skip
    target = job.output / "machine.toml"
    if not target.exists():
        with aside(target) as part:
            shutil.copyfile(start / "machine.toml", part)
    written = write_beam(model, job.output)
    lines = [*verdict, f"Written: {written}, {target}", *pages, f"Use it with --machine {job.output}"]
    return _Done(lines, warnings)


def _calibrated(job: _Job, found: Commissioning) -> tuple[Calibration, str, tuple[str, ...]]:
    """The calibration of the fitted beam, what the provenance says of it, and what the user must know."""
    from spinedose.commission import calibration_at_maximum
    from spinedose.machine import Calibration

    start = job.machine.beam(job.beam)
    is_stated = (
        str(start.provenance.get("calibration", ""))
        .removeprefix("value of the start model, not determined by these data: ")
        .startswith("stated: ")
    )
    if job.stated is None and is_stated:
        text = "The calibration is the one that the start model states; state another with --reference."
        return start.calibration, "", (text,)
    stated = job.stated or _Stated(*CUSTOM, "the custom, no measurement")
    doubt: tuple[str, ...] = ()
    if job.stated is None:
        doubt = ("The calibration is assumed: 1 cGy/MU at dmax, 10x10, SSD 100. State your own with --reference.",)
    if not math.isnan(stated.depth_cm):
        own = Calibration(stated.gy_per_mu, stated.field_cm, stated.ssd_cm, stated.depth_cm)
        return own, f"stated: {stated.told}", doubt
    at_depth, how = calibration_at_maximum(
        job.machine, found.model, job.data.measurements,
        gy_per_mu=stated.gy_per_mu, field_cm=stated.field_cm, ssd_cm=stated.ssd_cm,
    )  # fmt: skip
    return at_depth, f"{'stated' if job.stated else 'assumed'}: {stated.told}; {how}", doubt


def _check(job: _Job, report: Callable[[str, float], None]) -> _Done:
    """Hold the model against the measurements and say what drifted."""
    from spinedose.agreement import check_beam

    curves, _, unused = _curves(job)
    found = check_beam(job.machine, job.beam, curves, hold=job.hold, progress=report)
    warnings = (*job.warnings, *unused)
    lines = _check_verdict(job, found)
    code = 1 if found.outside else 0
    off = _calibration_drift(job)
    if off is not None:
        text, is_within = off
        lines.insert(1, text)
        code = code if is_within else 1
    pages = []
    if job.output is not None:
        report("write", 0.97)
        job.output.mkdir(parents=True, exist_ok=True)
        pairs = tuple((item.curve, item.calculated) for item in found.agreements)
        pages = _report(
            job, job.output / f"{job.beam}_check.html", pairs, (),
            title=f"Beam {job.title}, checked", verdict=lines[:2], warnings=warnings, parameters=found.setup,
            judgements=found.judgements,
        )  # fmt: skip
    return _Done([*lines, *pages], warnings, code)


def _report(job: _Job, page: Path, pairs: Any, apart: Any, **facts: Any) -> list[str]:
    """Write the report, where matplotlib is installed, and say where it is."""
    import importlib.util

    if importlib.util.find_spec("matplotlib") is None:
        return [NO_PICTURES.replace("pictures", "report")]
    from spinedose.report.curves import Facts, write_report

    rows = {
        "machine": f"{job.machine.name}: {job.machine.description} (data {job.machine.data_hash[:12]})",
        "data": "; ".join(f"{name} (SHA-256 {digest[:12]})" for name, digest in job.data.files.items()),
        "sources": "; ".join(job.data.sources) or "not stated",
        "detectors": job.detector or "all",
        "left out": ", ".join(job.left_out) or "nothing",
        "held": ", ".join(f"{name} = {value:g}" for name, value in job.hold.items()) or "nothing",
        "spinedose": f"{__version__}, {time.strftime('%Y-%m-%d')}",
    }
    said: Facts = Facts(rows=rows, **facts)
    written = write_report(page, pairs, said, left_out=apart)
    return [f"Report: {written[0]} (pictures in {written[0].with_suffix('')}{os.sep})"]


def _fit_verdict(job: _Job, found: Commissioning, apart: tuple[Agreement, ...]) -> list[str]:
    """The first lines: how many numbers, how well; then every number, and the worst curves."""
    from spinedose.agreement import agreement_of
    from spinedose.record import is_of_setup

    agreements = agreement_of(found.curves)
    own = [p for p in found.parameters if not is_of_setup(p)]
    count = {status: [p.name for p in own if p.status == status] for status in ("fitted", "at its bound", "held")}
    open_ = [p.name for p in own if p.status == "not determined"]
    numbers = f"{len(count['fitted'])} of {len(own)} numbers fitted to {len(agreements)} curves"
    lines = [f"{job.title}: {numbers}; {_overall(agreements)}."]
    lines.append(f"Left out of the fit: {len(apart)} curves; {_overall(apart)}." if apart else "No curve was left out.")
    lines.append(f"Not determined by these data: {', '.join(open_) or 'none'}.")
    lines.append(f"Worst curves: {_worst(agreements)}")
    if count["at its bound"]:
        lines.append(f"At their bounds: {', '.join(count['at its bound'])}.")
    lines.append(_parameter_lines([p for p in own if p.status != "not determined"]))
    lines.append("Set-up of the measurement, not part of the beam:")
    lines.append(_parameter_lines([p for p in found.parameters if is_of_setup(p)]))
    return lines


def _check_verdict(job: _Job, found: BeamCheck) -> list[str]:
    """The first lines: within or outside; then what drifted, the worst first."""
    outside, count = found.outside, len(found.judgements)
    if outside:
        lines = [f"{job.title}: OUTSIDE the limits in {len(outside)} of {count} comparisons."]
    else:
        lines = [f"{job.title}: within the limits in all {count} comparisons."]
    lines.append(f"{len(found.agreements)} curves; {_overall(found.agreements)}.")
    lines += [f"  {item}" for item in outside]
    if found.setup:
        lines.append("Set-up of the measurement, as found from it:")
        lines.append(_parameter_lines(list(found.setup)))
    return lines


def _overall(agreements: tuple[Agreement, ...]) -> str:
    """Differences of many curves in a few words, outside of penumbras."""
    import numpy as np

    parts = []
    for name, is_profile in (("depth doses", False), ("profiles", True)):
        every = [a.difference_percent[a.parts != "penumbra"] for a in agreements if a.curve.is_profile is is_profile]
        if every:
            values = np.concatenate(every)
            parts.append(
                f"{name} rms {np.sqrt(np.mean(values**2)):.2f} %, worst {values[np.argmax(np.abs(values))]:+.1f} %"
            )
    return "; ".join(parts)


def _worst(agreements: tuple[Agreement, ...]) -> str:
    from spinedose.report.curves import WORST, telling, worst_first

    return "; ".join(f"{item.title} ({telling(item)})" for item in worst_first(agreements)[:WORST]) + "."


def _parameter_lines(parameters: list[Fitted]) -> str:
    """Values with their standard deviations, a line each."""
    width = max((len(p.name) for p in parameters), default=0)
    return "\n".join(
        f"  {p.name:<{width}} {p.value:>10.4g}"
        + (f" +- {p.sigma:<8.2g}" if math.isfinite(p.sigma) else f"    {'':<8}")
        + f" start {p.start:<8.4g} {p.status}"
        for p in parameters
    )


def _findings(findings: tuple[Finding, ...]) -> Iterator[str]:
    """Findings in lines: refusals each, doubts of one kind together; notes of what a reader did are left out."""
    doubts: dict[str, list[Finding]] = {}
    for finding in findings:
        if finding.severity == "refuse":
            yield f"Refused: {finding}"
        elif finding.severity == "flag":
            # what is not used is told for each reason
            key = finding.code + (finding.problem if finding.code == "not_used" else "")
            doubts.setdefault(key, []).append(finding)
    for group in doubts.values():
        first = group[0]
        if len(group) == 1:
            yield str(first)
        else:
            yield f"{len(group)} curves, such as {first.curve}: {InvalidInput(first.problem, first.why, first.advice)}"


def _held(texts: Iterable[str]) -> dict[str, float]:
    """Parameters from `NAME=VALUE`."""
    held = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            held[name.strip()] = float(value)
        except ValueError:
            raise InvalidInput(
                f"--hold {text} cannot be understood", "it takes a name and a number", "Write NAME=VALUE"
            ) from None
    return held


def _stated(text: str | None) -> _Stated | None:
    """The calibration from `10x10 ssd=100 depth=10 cGy_per_MU=0.665`; `10x10, SSD 100, depth dmax, 1 cGy/MU` too."""
    if text is None:
        return None
    from spinedose.machine import Calibration

    number = r"([\d.]+)"
    words = text.replace(",", " ")
    size = re.match(rf"\s*{number}\s*[xX×]\s*{number}\s+", words)
    ssd = re.search(rf"\bssd\s*=?\s*{number}", words, re.IGNORECASE)
    depth = re.search(rf"\bdepth\s*=?\s*({number}|dmax)\b", words, re.IGNORECASE)
    dose = re.search(rf"\bcGy_per_MU\s*=\s*{number}|{number}\s*cGy/MU", words)
    try:
        if size is None or ssd is None or depth is None or dose is None or size[1] != size[2]:
            raise ValueError
        numbers = 0.01 * float(dose[1] or dose[2]), float(size[1]), float(ssd[1])
        at = math.nan if depth[1].lower() == "dmax" else float(depth[1])
        Calibration(*numbers, 1.5 if math.isnan(at) else at)  # refuses what is no calibration
        return _Stated(*numbers, at, "command line")
    except ValueError:
        raise InvalidInput(
            f"--reference '{text}' cannot be understood",
            "it takes a square field, SSD, depth and dose",
            'Write --reference "10x10 ssd=100 depth=10 cGy_per_MU=0.665"',
        ) from None


def _stated_by(data: Data, beam: str) -> _Stated | None:
    """The calibration that the measurements state; None where they state none."""
    for reference in data.measurements.references:
        if reference.field_x_cm != reference.field_y_cm:
            raise InvalidInput(
                f"The calibration of beam '{beam}' is for {reference.field_x_cm:g} x {reference.field_y_cm:g} cm",
                "a square field is needed",
                "State that of a square field, in the data or with --reference",
            )
        return _Stated(
            0.01 * reference.dose_cGy_per_MU, reference.field_x_cm, reference.ssd_cm, reference.depth_cm,
            reference.source or "data",
        )  # fmt: skip
    return None


def _calibration_drift(job: _Job) -> tuple[str, bool] | None:
    """A stated calibration against what the model gives at that point."""
    from spinedose.commission import dose_per_mu_at
    from spinedose.curve_judging import read_criteria

    new, model = job.stated, job.machine.beam(job.beam)
    if new is None:
        return None
    old = model.calibration
    gives, at = old.gy_per_mu, ""
    if (new.field_cm, new.ssd_cm, new.depth_cm) != (old.field_cm, old.ssd_cm, old.depth_cm):
        gives = dose_per_mu_at(job.machine, model, new.field_cm, new.ssd_cm, new.depth_cm)
        at = ", which is for another point than its own: calculated in the tank"
    off, limit = 100 * (gives / new.gy_per_mu - 1), read_criteria()["calibration"].limit
    is_within = abs(off) <= limit
    mark = "within" if is_within else "OUTSIDE"
    return f"Calibration: model {off:+.2f} % against the one stated{at}, {mark} the limit of {limit:g} %.", is_within


def _check_machine_folder(
    folder: Path, name: str, start: Path, *, is_check: bool, force: bool, data: list[Path]
) -> None:
    """Refuse, before anything is computed, a folder that could not take the files, or would mix machines up."""
    if folder.exists() and not folder.is_dir():
        raise InvalidInput(f"The output folder '{folder}' is a file", "a folder is needed", "Choose another name")
    targets = [folder / f"{name}.html"] if is_check else [folder / f"{name}.toml", folder / f"{name}_report.html"]
    for target in targets:
        expect_replaceable(target)
        if target.exists() and not force:
            raise InvalidInput(
                f"The output '{target}' exists", "it would be lost", "Choose another folder, or overwrite with --force"
            )
        if any(target.resolve() == path.resolve() for path in data):
            raise InvalidInput(
                f"The output '{target}' is one of the inputs", "it would be lost", "Choose another folder"
            )
    there = folder / "machine.toml"
    expect_replaceable(there)
    if not is_check and there.exists() and there.read_bytes() != (start / "machine.toml").read_bytes():
        raise InvalidInput(
            f"The output folder '{folder}' holds another machine",
            "its machine.toml is not that of the start machine",
            "Choose another folder",
        )
    if not is_check and folder.is_dir() and any(folder.iterdir()) and not there.exists() and not force:
        raise InvalidInput(
            f"The output folder '{folder}' is not empty and no machine", "files would be mixed up",
            "Choose another folder, or write into it with --force",
        )  # fmt: skip
    check_folder(folder if folder.is_dir() else next(p for p in folder.absolute().parents if p.exists()))
