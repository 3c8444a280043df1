"""The command line: `spinedose dose`, `demo`, `machines` and `doctor`; the verdict comes first.

Exit codes: 0 done; 1 `doctor` found something missing, or a bug; 2 wrong input or arguments, with a message that reads
PROBLEM (WHY) WHAT TO DO; 130 interrupted. An output file is either complete or not there.
"""

from __future__ import annotations

import functools
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
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
    from spinedose.density import CtImage
    from spinedose.dicom.dose import PlannedDose
    from spinedose.plan import Plan
    from spinedose.result import Dose
    from spinedose.structures import StructureSet

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


Backend = Literal["auto", "cpu"]
OnMissingSlices = Literal["refuse", "interpolate"]
OnBolus = Literal["refuse", "ignore"]


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
    spacing_mm: Annotated[float, typer.Option(help="Voxel size of the calculation [mm], 0.5 to 10.")] = 2.5,
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
    backend: Annotated[Backend, typer.Option(help="Device to compute on; auto takes the fastest there is.")] = "auto",
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
            spacing_mm=spacing_mm,
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
    backend: Annotated[Backend, typer.Option(help="Device to compute on; auto takes the fastest there is.")] = "auto",
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
    spacing_mm: float,
    backend: Backend,
    per_beam: bool = False,
) -> Dose:
    """Compute the dose with the settings of the command line."""
    from spinedose.engine import Settings, compute_dose

    return compute_dose(
        inputs.plan,
        inputs.ct,
        machine=machine,
        structures=inputs.structures,
        spacing_cm=CM_PER_MM * spacing_mm,
        like=inputs.like,
        backend=backend,
        per_beam=per_beam,
        settings=Settings(curve=curve),
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
