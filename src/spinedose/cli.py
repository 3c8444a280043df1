"""The command line: `spinedose dose`, `demo`, `commission`, `validate`, `machines` and `doctor`; verdicts first.

Exit codes: 0 done; 1 `doctor` found something missing, `commission --check` a drift, `validate` a number beyond its
limit, or a bug; 2 wrong input or arguments, with a message that reads PROBLEM (WHY) WHAT TO DO; 130 interrupted. An
output file is either complete or not there.
"""

from __future__ import annotations

import functools
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from spinedose._version import __version__
from spinedose.errors import InvalidInput, SpinedoseError
from spinedose.units import CM_PER_MM, MM_PER_CM

if TYPE_CHECKING:
    from spinedose.agreement import Agreement, BeamCheck
    from spinedose.assignments import Assignment
    from spinedose.commission import Commissioning, Curve, Fitted
    from spinedose.density import CtImage
    from spinedose.dicom.dose import PlannedDose
    from spinedose.machine import Calibration, Machine
    from spinedose.measurements import Finding, Scan
    from spinedose.plan import Plan
    from spinedose.record import Data
    from spinedose.report.curves import Facts
    from spinedose.result import Dose
    from spinedose.structures import StructureSet
    from spinedose.validate import Results

NOT_CLINICAL = "Not for clinical use without local commissioning."

INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 + SIGINT, as shells have it."""


class _Commands(TyperGroup):
    """The commands; wrong arguments are told in one line, as all other errors are."""

    def main(self, *args: Any, **options: Any) -> Any:
        """Run, and end the process where typer would."""
        ends_process = options.pop("standalone_mode", True)
        options["standalone_mode"] = False
        try:
            code = super().main(*args, **options)
        except Exception as error:
            message = error.format_message() if hasattr(error, "format_message") else ""
            if not ends_process or not message:
                raise
            if "\n" in message and hasattr(error, "show"):  # the help, where nothing was asked
                error.show()
            else:
                typer.echo(_usage_error(message, getattr(error, "ctx", None)), err=True)
            code = 2
        if ends_process:
            sys.exit(code or 0)
        return code


def _usage_error(message: str, context: Any) -> str:
    """PROBLEM (WHY) WHAT TO DO from typer's `Invalid value for '--bolus': Value error, 'x' is not one of 'a', 'b'.`"""
    message = message.replace("Value error, ", "").removesuffix(".")
    message = re.sub(r"^(Invalid value for .+?): (.+)$", r"\1 (\2)", message)
    end = "" if message.endswith("?") else "."
    return f"{message}{end} See '{context.command_path if context else 'spinedose'} --help'."


app = typer.Typer(
    cls=_Commands,
    help=f"Independent photon dose from a DICOM plan and CT. {NOT_CLINICAL}",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Entry point of the `spinedose` command."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


OnMissingSlices = Literal["refuse", "interpolate"]
OnBolus = Literal["refuse", "ignore"]


def _backend(name: str) -> str:
    """The name of a backend, or the reason why it is none."""
    from spinedose.backends.select import NAMES

    if NAMES.fullmatch(name) is None:
        raise typer.BadParameter(f"'{name}' is not one of 'auto', 'cpu', 'cuda', 'cuda:1' and so on")
    return name


BackendOption = typer.Option(
    parser=_backend, metavar="NAME", help="auto, cpu, cuda or cuda:1; auto takes the fastest there is."
)


def _plain_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Turn errors that a user can mend into one line on stderr and exit code 2, and Ctrl-C into 130."""

    @functools.wraps(command)
    def run(*args: Any, **options: Any) -> None:
        try:
            command(*args, **options)
        except SpinedoseError as error:
            typer.echo(error.spelled_with(_as_option(error.argument)), err=True)
            raise typer.Exit(2) from None
        except OSError as error:
            place = f" '{error.filename}'" if error.filename else ""
            typer.echo(
                f"A file{place} cannot be used ({error.strerror or error}). Check the path, its rights and the disk.",
                err=True,
            )
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            typer.echo("Interrupted; no file is half written.", err=True)
            raise typer.Exit(INTERRUPTED) from None

    return run


def _as_option(argument: str) -> str:
    """The option of a Python argument: `--bolus ignore` of `bolus="ignore"`, `--per-beam` of `per_beam=True`."""
    name, _, value = argument.partition("=")
    option = f"--{name.replace('_', '-')}" if name else ""
    return option if value in ("", "True") else f"{option} {value.strip(chr(34))}"


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"spinedose {__version__}")
        raise typer.Exit


@app.callback()
def spinedose(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Independent photon dose from a DICOM plan and CT. Not for clinical use without local commissioning."""


@app.command()
@_plain_errors
def dose(
    plan: Annotated[Path, typer.Argument(metavar="PLAN", help="RTPLAN file: the treatment plan.")],
    ct: Annotated[Path, typer.Argument(metavar="CTDIR", help="Folder with the slices of one CT series.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="RD.dcm", help="RTDOSE file to write.")],
    structures: Annotated[
        Path | None,
        typer.Option(
            metavar="RS.dcm",
            help="RTSTRUCT file: outline of the body, materials that the planner assigned, couch. Without it the body "
            "is found by threshold.",
        ),
    ] = None,
    machine: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|DIR",
            help="Machine of all beams: a name that `spinedose machines` lists, or a folder that holds a machine.toml. "
            "Without it the leaf widths in the plan decide.",
        ),
    ] = None,
    curve: Annotated[
        str,
        typer.Option(
            metavar="NAME|FILE.toml",
            help="Curve from CT numbers to density, best that of your scanner: a name, or a TOML file.",
        ),
    ] = "generic",
    material: Annotated[
        list[str] | None,
        typer.Option(
            metavar='"ROD=titanium"',
            help='Material of a structure, or above a CT number: ">2500=titanium"; ">2500=titanium:grow -1" moves its '
            "surface by 1 mm inwards. May be repeated; docs/formats/materials.md lists the materials.",
        ),
    ] = None,
    couch: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[:MM]",
            help="Couch top to put under the patient: a name (igrt-generic) or a TOML file; MM is the DICOM y of its "
            "surface. Without MM it touches the body.",
        ),
    ] = None,
    spacing_mm: Annotated[float, typer.Option(help="Voxel size of the calculation [mm], 0.5 to 10.")] = 2.5,
    fine: Annotated[
        str | None,
        typer.Option(
            metavar="PTV,SpinalCord",
            help="Structures around which voxels are half as large, with 1.5 cm around them; with commas.",
        ),
    ] = None,
    dose_to: Annotated[
        str,
        typer.Option(
            metavar="water|medium",
            help="Dose to a water-like medium, or to the medium that is there: in cortical bone 6 % less.",
        ),
    ] = "water",
    like: Annotated[
        Path | None,
        typer.Option(metavar="RD.dcm", help="Write the dose on the voxels of this RTDOSE file, to compare with it."),
    ] = None,
    per_beam: Annotated[
        bool,
        typer.Option(
            "--per-beam", help="Write the dose of each beam, too: RD_beam_<number>.dcm in the folder <output>_beams."
        ),
    ] = False,
    backend: Annotated[str, BackendOption] = "auto",
    missing_slices: Annotated[
        OnMissingSlices,
        typer.Option(help="Refuse a CT that lacks slices, or interpolate single ones and warn."),
    ] = "refuse",
    beams: Annotated[
        str | None,
        typer.Option(metavar="1,2", help="Numbers of the beams to compute, with commas. Without it all beams."),
    ] = None,
    fraction_group: Annotated[
        int | None,
        typer.Option(metavar="N", help="Number of the fraction group to compute; needed where the plan has several."),
    ] = None,
    bolus: Annotated[
        OnBolus,
        typer.Option(
            help="Refuse a beam with a bolus, whose shape an RTPLAN does not hold, or ignore the bolus and warn."
        ),
    ] = "refuse",
    patient_position: Annotated[
        str | None,
        typer.Option(
            metavar="HFS|HFP|FFS|FFP",
            help="How the patient lies, where plan or CT do not say it or say it wrongly: head or feet first, supine "
            "or prone.",
        ),
    ] = None,
    json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write settings, warnings and timings as JSON, too.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that exist.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print warnings and errors only.")] = False,
) -> None:
    """Compute the dose of an RTPLAN on a CT and write it as RTDOSE.

    The dose is that of all planned fractions together, in Gy. Warnings say what was assumed; they go to stderr and into
    the JSON file.
    """
    numbers = _beam_numbers(beams)
    assignments = tuple(_assignment(text) for text in material or ())
    couch_top, couch_surface_mm = _couch_and_surface(couch)
    beam_folder = output.with_name(f"{output.stem}_beams") if per_beam else None
    given = [path for path in (plan, structures, like) if path is not None]
    _check_spacing(spacing_mm)
    _check_target(output, force=force, inputs=given)
    if json is not None:
        _check_target(json, force=force, inputs=[*given, output])
    if beam_folder is not None:
        _check_target_folder(beam_folder, force=force)
    with _progress(wanted=not quiet) as report:
        report("read", 0.0)
        result = _compute(
            _read_inputs(
                plan,
                ct,
                structures,
                like,
                beams=numbers,
                fraction_group=fraction_group,
                bolus=bolus,
                patient_position=patient_position,
                missing_slices=missing_slices,
            ),
            machine=machine,
            curve=curve,
            materials=assignments,
            couch=couch_top,
            couch_surface_mm=couch_surface_mm,
            spacing_mm=spacing_mm,
            fine=tuple(name.strip() for name in (fine or "").split(",") if name.strip()),
            dose_to=dose_to,
            backend=backend,
            per_beam=per_beam,
            progress=report,
        )
        report("write", 1.0)
        result.save(output)
        if beam_folder is not None:
            beam_folder.mkdir(exist_ok=True)
            result.save_beams(beam_folder)
        if json is not None:
            _write_text(json, result.to_json())
    if not quiet:
        typer.echo(_verdict(result))
        written = [str(path) for path in (output, beam_folder, json) if path is not None]
        typer.echo(f"Written: {', '.join(written)}")
        typer.echo(_timings(result))
        typer.echo(NOT_CLINICAL)
    _show_warnings(result.metadata.warnings)


@app.command()
@_plain_errors
def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write to; made if it is not there.")] = Path(
        "demo"
    ),
    spacing_mm: Annotated[float, typer.Option(help="Voxel size of the calculation [mm], 0.5 to 10.")] = 2.5,
    backend: Annotated[str, BackendOption] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print warnings and errors only.")] = False,
) -> None:
    """Make up a spine case, compute its plan and draw the dose.

    The case is synthetic: a vertebral target around a spinal cord, lungs, and titanium rods, in a CT, an RTSTRUCT and a
    two-arc VMAT RTPLAN. They are read back from the disk as any patient's files would be. Files of an earlier demo in
    the folder are overwritten.
    """
    _check_spacing(spacing_mm)
    _check_target_folder(out, force=True, parents=True)
    from spinedose.demo import demo_case, write_demo

    start = time.perf_counter()
    with _progress(wanted=not quiet) as report:
        report("make the case", 0.0)
        out.mkdir(parents=True, exist_ok=True)
        case = demo_case()
        files = write_demo(out, case)
        report("read", 0.0)
        inputs = _read_inputs(files.plan, files.ct, files.structures)
        result = _compute(inputs, spacing_mm=spacing_mm, backend=backend, progress=report)
        report("write", 1.0)
        target = out / "RD.dcm"
        result.save(target)
        report("draw", 1.0)
        pictures = _draw(result, inputs, out, case.prescription_gy)
    if not quiet:
        typer.echo(_verdict(result))
        typer.echo(f"Prescribed to the target: {case.prescription_gy:g} Gy in {result.fractions} fraction(s).")
        typer.echo(_structure_table(result, inputs.structures))
        typer.echo(_timings(result))
        typer.echo(f"{time.perf_counter() - start:.1f} s in all, with reading, writing and drawing.")
        typer.echo(f"Dose: {target}")
        typer.echo(f"Case: {files.plan}, {files.structures}, {files.ct}{os.sep}")
        typer.echo(f"Pictures: {', '.join(str(path) for path in pictures)}" if pictures else _NO_PICTURES)
        typer.echo(NOT_CLINICAL)
    _show_warnings(result.metadata.warnings)


_NO_PICTURES = "No pictures: matplotlib is not installed (pip install 'spinedose[report]')."


@app.command()
@_plain_errors
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
            help="Calibration: field, SSD, depth [cm] and the dose there. Without it that of the start model stays.",
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
    held, calibration = _held(hold or ()), _calibration(reference)
    if output is None and not check:
        raise InvalidInput("There is no folder to write to", "a fit leaves files", "Name it with --output")
    from spinedose.machine import machine_folder, read_machine

    model = read_machine(machine)
    model.beam(beam)
    if output is not None:
        name = f"{beam}_check" if check else beam
        _check_machine_folder(output, name, machine_folder(machine), is_check=check, force=force, data=data)
    with _progress(wanted=not quiet) as report:
        report("read", 0.0)
        job = _commissioning_job(model, beam, data, detector, tuple(leave_out or ()), held, calibration, output)
        if check:
            done = _check(job, report)
        else:
            done = _fit(job, machine_folder(machine), report)
    if not quiet:
        for line in done.lines:
            typer.echo(line)
        typer.echo(NOT_CLINICAL)
    _show_warnings(done.warnings)
    if done.code:
        raise typer.Exit(done.code)


@app.command()
@_plain_errors
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
        _check_target(output, force=force, inputs=[])
    from spinedose.validate import Results, results_file
    from spinedose.validate import validate as compute

    with _progress(wanted=not quiet) as report:
        results = compute(case or (), data=data, machine=machine, beam=beam, backend=backend, progress=report)
    target = output or (results_file(results) if machine is None else None)
    if target is not None and results.lines:
        whole = results
        if output is None and target.is_file():
            whole = Results.from_json(target.read_text(encoding="utf-8")).updated(results)
        _write_text(target, whole.to_json())
    if not quiet:
        for line in _validation_verdict(results):
            typer.echo(line)
        if target is not None and results.lines:
            typer.echo(f"Written: {target}")
        typer.echo(NOT_CLINICAL)
    _show_warnings(tuple(f"Case {item.case} {item.beam} was skipped: {item.skipped}." for item in results.skipped))
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


@app.command()
@_plain_errors
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
@_plain_errors
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


@dataclass(frozen=True, slots=True, eq=False)
class _Inputs:
    """What a computation starts from, read and checked."""

    plan: Plan
    ct: CtImage
    structures: StructureSet | None
    like: PlannedDose | None


def _read_inputs(
    plan: Path,
    ct: Path,
    structures: Path | None,
    like: Path | None = None,
    *,
    beams: tuple[int, ...] | None = None,
    fraction_group: int | None = None,
    bolus: OnBolus = "refuse",
    patient_position: str | None = None,
    missing_slices: OnMissingSlices = "refuse",
) -> _Inputs:
    """Read all files; small ones first, so that a wrong path shows at once."""
    from spinedose.dicom.ct import read_ct
    from spinedose.dicom.dose import read_dose
    from spinedose.dicom.plan import read_plan
    from spinedose.dicom.structures import read_structures

    treatment = read_plan(
        plan, fraction_group=fraction_group, beams=beams, bolus=bolus, patient_position=patient_position
    )
    regions = read_structures(structures) if structures is not None else None
    planned = read_dose(like) if like is not None else None
    image = read_ct(ct, missing_slices=missing_slices, patient_position=patient_position)
    return _Inputs(treatment, image, regions, planned)


def _compute(
    inputs: _Inputs,
    *,
    progress: Callable[[str, float], None],
    machine: str | None = None,
    curve: str = "generic",
    materials: tuple[Assignment, ...] = (),
    couch: str = "",
    couch_surface_mm: float | None = None,
    spacing_mm: float,
    fine: tuple[str, ...] = (),
    dose_to: str = "water",
    backend: str,
    per_beam: bool = False,
) -> Dose:
    """Compute the dose with the settings of the command line."""
    from spinedose.engine import Settings, compute_dose
    from spinedose.nested import fine_box_around

    if fine and inputs.structures is None:
        raise InvalidInput(f"--fine {','.join(fine)} has no structures to look at", "", "Give", argument="structures")
    return compute_dose(
        inputs.plan,
        inputs.ct,
        machine=machine,
        structures=inputs.structures,
        materials=materials,
        couch=couch,
        couch_surface_cm=None if couch_surface_mm is None else CM_PER_MM * couch_surface_mm,
        spacing_cm=CM_PER_MM * spacing_mm,
        fine=fine_box_around(inputs.structures, fine) if fine and inputs.structures is not None else None,
        like=inputs.like,
        backend=backend,
        per_beam=per_beam,
        settings=Settings(curve=curve, dose_to=dose_to),
        progress=progress,
    )


@contextmanager
def _progress(*, wanted: bool) -> Iterator[Callable[[str, float], None]]:
    """A bar with the stage and its share done (0 to 1), on stderr, gone when finished; silent where nobody watches."""
    if not (wanted and sys.stderr.isatty()):
        yield lambda stage, fraction: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = TextColumn("{task.description:<18}"), BarColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=1.0)
        yield lambda stage, fraction: bar.update(task, description=stage, completed=fraction)


def _beam_numbers(text: str | None) -> tuple[int, ...] | None:
    """Beam numbers from `1,2`."""
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InvalidInput(
            f"--beams {text} cannot be understood", "it takes whole numbers", "Write them with commas: --beams 1,2"
        ) from None


def _assignment(text: str) -> Assignment:
    """A material from `ROD=titanium` or `>2500=titanium:grow -1` [HU, mm]."""
    from spinedose.assignments import Assignment

    region, _, rest = text.rpartition("=")
    name, colon, growth = rest.partition(":")
    region, words = region.strip(), growth.split()
    threshold = re.fullmatch(r">\s*([0-9.]+)(\s*HU)?", region, re.IGNORECASE)
    try:
        if not region or bool(colon) != (len(words) == 2 and words[0] == "grow"):
            raise ValueError
        above_hu = float(threshold[1]) if threshold else None
        grow_mm = float(words[1]) if words else 0.0
    except ValueError:
        raise InvalidInput(
            f'--material "{text}" cannot be understood',
            "it takes a structure or a CT number, and a material",
            'Write "ROD=titanium" or ">2500=titanium:grow -1"',
        ) from None
    return Assignment(name.strip(), "" if threshold else region, above_hu, CM_PER_MM * grow_mm)


def _couch_and_surface(text: str | None) -> tuple[str, float | None]:
    """A couch top and the height of its surface [mm] from `NAME` or `NAME:120`."""
    if text is None:
        return "", None
    name, colon, height = text.rpartition(":")
    if not colon or len(name) == 1:  # a drive letter
        return text, None
    try:
        surface_mm = float(height)
        if not (name and math.isfinite(surface_mm)):
            raise ValueError
    except ValueError:
        raise InvalidInput(
            f"--couch {text} cannot be understood", "after the colon comes a height in mm", "Write NAME or NAME:120"
        ) from None
    return name, surface_mm


def _check_spacing(spacing_mm: float) -> None:
    """Refuse impossible voxels before anything is read."""
    if not 0.5 <= spacing_mm <= 10:
        raise InvalidInput(
            f"--spacing-mm {spacing_mm:g} cannot be used",
            "voxels may measure 0.5 to 10 mm",
            "2.5 is usual, 1.25 is fine",
        )


def _check_target(path: Path, *, force: bool, inputs: list[Path]) -> None:
    """Refuse, before the computation, a file that could not be written after it."""
    if path.is_dir():
        raise InvalidInput(f"The output '{path}' is a folder", "a file is written", "Give it a file name")
    if any(path.resolve() == other.resolve() for other in inputs):
        raise InvalidInput(f"The output '{path}' is named twice", "a file would be lost", "Choose another name")
    if path.exists() and not force:
        raise InvalidInput(
            f"The output '{path}' exists", "it would be lost", "Choose another name, or overwrite with --force"
        )
    if path.exists():
        from spinedose.dicom.ct import is_ct_slice

        if is_ct_slice(path):
            raise InvalidInput(f"The output '{path}' is a CT slice", "it would be lost", "Choose another name")
    _check_folder(path.parent)


def _check_target_folder(path: Path, *, force: bool, parents: bool = False) -> None:
    """Refuse, before the computation, a folder that could not be filled after it."""
    if path.is_dir():
        if any(path.iterdir()) and not force:
            raise InvalidInput(
                f"The output folder '{path}' is not empty",
                "files would be mixed up",
                "Empty it, or overwrite with --force",
            )
        return _check_folder(path)
    if path.exists():
        raise InvalidInput(f"The output folder '{path}' is a file", "a folder is needed", "Choose another name")
    return _check_folder(next(p for p in path.absolute().parents if p.exists()) if parents else path.parent)


def _check_folder(folder: Path) -> None:
    """Refuse a folder that is none, or into which nothing can be written; what rights do not tell, a trial does."""
    import tempfile

    if not folder.exists():
        raise InvalidInput(f"The folder '{folder}' is not there", "nothing can be written into it", "Make it first")
    if not folder.is_dir():
        raise InvalidInput(f"'{folder}' is a file", "a folder is needed to write into", "Choose another place")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InvalidInput(
            f"Nothing can be written into the folder '{folder}'", error.strerror or str(error), "Choose another place"
        ) from None


def _write_text(path: Path, text: str) -> None:
    """Write a text file aside and rename it, so that it is complete or not there."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        aside.write_text(text + "\n", encoding="utf-8")
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def _verdict(result: Dose) -> str:
    """The dose maximum and where it lies."""
    import numpy as np

    values, facts = result.values, result.metadata
    z, y, x = (int(i) for i in np.unravel_index(int(np.argmax(values)), values.shape))
    place = ", ".join(
        f"{MM_PER_CM * float(axis[i]):.1f}" for axis, i in zip(result.grid.axes_cm, (x, y, z), strict=True)
    )
    time_s = sum(facts.timings_s.values())
    device = f"{facts.backend} ({facts.device})"
    return f"Maximum dose {values[z, y, x]:.2f} Gy at ({place}) mm; computed in {time_s:.1f} s on {device}."


def _structure_table(result: Dose, structures: StructureSet | None) -> str:
    """Doses of targets and cords, a line each."""
    from spinedose.compare.dvh import dvh
    from spinedose.grid import Volume

    volume = Volume(result.grid, result.values)
    lines = [f"{'structure':<16}{'volume cm3':>11}{'mean Gy':>9}{'max Gy':>8}{'D95% Gy':>9}{'D0.03cc Gy':>12}"]
    for structure in structures.structures if structures is not None else ():
        if structure.contours_cm and structure.type != "SUPPORT":
            found = dvh(volume, structure)
            lines.append(
                f"{structure.name:<16.16}{found.volume_cm3:>11.2f}{found.mean_gy:>9.2f}{found.maximum_gy:>8.2f}"
                f"{found.dose_at_percent(95):>9.2f}{found.dose_at_volume(0.03):>12.2f}"
            )
    return "\n".join(lines)


def _timings(result: Dose) -> str:
    """Time of each stage."""
    parts = [f"{name} {seconds:.2f} s" for name, seconds in result.metadata.timings_s.items()]
    return f"Stages: {', '.join(parts)}"


def _show_warnings(warnings: tuple[str, ...]) -> None:
    for text in warnings:
        typer.echo(f"Warning: {text}", err=True)


def _draw(result: Dose, inputs: _Inputs, folder: Path, prescription_gy: float) -> tuple[Path, ...]:
    """Pictures of the dose, where matplotlib is installed."""
    import importlib.util

    if importlib.util.find_spec("matplotlib") is None:
        return ()
    from spinedose.report.pictures import draw_dose

    return tuple(
        draw_dose(
            result, inputs.ct, inputs.structures, folder, prescription_gy=prescription_gy, title=inputs.plan.label
        )
    )


# ---------------------------------------------------------------------------------------------- commission


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    """What a fit or a check starts from, read and checked."""

    machine: Machine
    beam: str
    data: Data
    detector: str
    left_out: tuple[str, ...]
    hold: Mapping[str, float]
    calibration: Calibration | None
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
    calibration: Calibration | None,
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
    return _Job(machine, beam, data, detector, leave_out, hold, calibration, output)


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


def _curves(job: _Job) -> tuple[tuple[Curve, ...], tuple[Curve, ...]]:
    """Curves for the fit, and those that are kept apart."""
    from spinedose.agreement import is_output_factor
    from spinedose.commission import curves_of

    def is_apart(scan: Scan) -> bool:
        return _is_left_out(job, scan.field_cm, scan.depth_cm if scan.is_two_sided else math.nan)

    def chosen(leave_out: Callable[[Scan], bool], factors_are_apart: bool) -> tuple[Curve, ...]:
        curves = curves_of(job.data.measurements, job.beam, detector=job.detector, leave_out=leave_out)
        return tuple(
            curve
            for curve in curves
            if not is_output_factor(curve) or _is_left_out(job, curve.field_cm, math.nan) is factors_are_apart
        )

    used = chosen(is_apart, False)
    if not used:
        raise InvalidInput("No curve is left", "all were left out, or none can be used", "Leave out less")
    return used, chosen(lambda scan: not is_apart(scan), True) if job.left_out else ()


def _fit(job: _Job, start: Path, report: Callable[[str, float], None]) -> _Done:
    """Fit, write the machine folder and the report, and say what was found."""
    import shutil
    from dataclasses import replace

    from spinedose.agreement import agreement_of
    from spinedose.beam_file import write_beam
    from spinedose.commission import Calculator, fit_beam
    from spinedose.record import is_of_setup, provenance_of, warnings_of

    assert job.output is not None, "the command has refused this"
    curves, kept_apart = _curves(job)
    found = fit_beam(job.machine, job.beam, curves, hold=job.hold, progress=report)
    setup = {p.name: p.value for p in found.parameters if is_of_setup(p)}
    calculator = Calculator(job.machine)
    apart = tuple((curve, calculator.curve(curve, found.model, setup)) for curve in kept_apart)
    stated = ""
    if job.calibration is not None:
        c = job.calibration
        stated = (
            f"{100 * c.gy_per_mu:g} cGy/MU, {c.field_cm:g} x {c.field_cm:g} cm, SSD {c.ssd_cm:g} cm, depth "
            f"{c.depth_cm:g} cm (command line)"
        )
    provenance = provenance_of(
        job.machine, job.beam, found, job.data,
        left_out=job.left_out, detector=job.detector, calibration=stated,
    )  # fmt: skip
    model = replace(found.model, calibration=job.calibration or found.model.calibration, provenance=provenance)
    report("write", 0.97)
    verdict = _fit_verdict(job, found, agreement_of(apart))
    warnings = (*job.warnings, *warnings_of(found))
    if not stated:
        warnings += ("The calibration is that of the start model; state your own with --reference.",)
    job.output.mkdir(parents=True, exist_ok=True)
    pages = _report(
        job, job.output / f"{job.beam}_report.html", found.curves, apart,
        title=f"Beam {job.title}, fitted", verdict=verdict[:4], warnings=warnings, parameters=found.parameters,
        correlated=found.correlated,
    )  # fmt: skip
    target = job.output / "machine.toml"
    if not target.exists():
        aside = target.with_name(f".{target.name}.{os.getpid()}.part")
        try:
            shutil.copyfile(start / "machine.toml", aside)
            aside.replace(target)
        finally:
            aside.unlink(missing_ok=True)
    written = write_beam(model, job.output)
    lines = [*verdict, f"Written: {written}, {target}", *pages, f"Use it with --machine {job.output}"]
    return _Done(lines, warnings)


def _check(job: _Job, report: Callable[[str, float], None]) -> _Done:
    """Hold the model against the measurements and say what drifted."""
    from spinedose.agreement import check_beam

    found = check_beam(job.machine, job.beam, _curves(job)[0], hold=job.hold, progress=report)
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
            title=f"Beam {job.title}, checked", verdict=lines[:2], warnings=job.warnings, parameters=found.setup,
            judgements=found.judgements,
        )  # fmt: skip
    return _Done([*lines, *pages], job.warnings, code)


def _report(job: _Job, page: Path, pairs: Any, apart: Any, **facts: Any) -> list[str]:
    """Write the report, where matplotlib is installed, and say where it is."""
    import importlib.util

    if importlib.util.find_spec("matplotlib") is None:
        return [_NO_PICTURES.replace("pictures", "report")]
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
            doubts.setdefault(finding.code, []).append(finding)
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


def _calibration(text: str | None) -> Calibration | None:
    """The calibration from `10x10 ssd=100 depth=10 cGy_per_MU=0.665`."""
    if text is None:
        return None
    from spinedose.machine import Calibration

    size = re.match(r"\s*([\d.]+)\s*[xX×]\s*([\d.]+)\s+", text)
    stated = dict(re.findall(r"(\w+)\s*=\s*([-+.\w]+)", text))
    try:
        if size is None or stated.keys() != {"ssd", "depth", "cGy_per_MU"} or size[1] != size[2]:
            raise ValueError
        numbers = {name: float(value) for name, value in stated.items()}
        return Calibration(0.01 * numbers["cGy_per_MU"], float(size[1]), numbers["ssd"], numbers["depth"])
    except ValueError:
        raise InvalidInput(
            f"--reference '{text}' cannot be understood",
            "it takes a square field, SSD, depth and dose",
            'Write --reference "10x10 ssd=100 depth=10 cGy_per_MU=0.665"',
        ) from None


def _calibration_drift(job: _Job) -> tuple[str, bool] | None:
    """A stated calibration against the model's, which must be for the same geometry."""
    from spinedose.agreement import Limits

    new, old = job.calibration, job.machine.beam(job.beam).calibration
    if new is None:
        return None
    if (new.field_cm, new.ssd_cm, new.depth_cm) != (old.field_cm, old.ssd_cm, old.depth_cm):
        raise InvalidInput(
            "--reference is for another geometry than the model's calibration",
            f"that is {old.field_cm:g}x{old.field_cm:g} ssd={old.ssd_cm:g} depth={old.depth_cm:g}",
            "State the dose there",
        )
    off, limit = 100 * (old.gy_per_mu / new.gy_per_mu - 1), Limits().output_percent
    is_within = abs(off) <= limit
    mark = "within" if is_within else "OUTSIDE"
    return f"Calibration: model {off:+.2f} % against the one stated, {mark} the limit of {limit:g} %.", is_within


def _check_machine_folder(
    folder: Path, name: str, start: Path, *, is_check: bool, force: bool, data: list[Path]
) -> None:
    """Refuse, before anything is computed, a folder that could not take the files, or would mix machines up."""
    if folder.exists() and not folder.is_dir():
        raise InvalidInput(f"The output folder '{folder}' is a file", "a folder is needed", "Choose another name")
    targets = [folder / f"{name}.html"] if is_check else [folder / f"{name}.toml", folder / f"{name}_report.html"]
    for target in targets:
        if target.exists() and not force:
            raise InvalidInput(
                f"The output '{target}' exists", "it would be lost", "Choose another folder, or overwrite with --force"
            )
        if any(target.resolve() == path.resolve() for path in data):
            raise InvalidInput(f"The output '{target}' is named twice", "a file would be lost", "Choose another folder")
    there = folder / "machine.toml"
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
    _check_folder(folder if folder.is_dir() else next(p for p in folder.absolute().parents if p.exists()))
