"""`spinedose dose` and `spinedose demo`: compute a plan, or a made-up one."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spinedose._files import write_text
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
    check_target,
    check_target_folder,
    couch_and_surface,
    progress_bar,
    show_warnings,
)
from spinedose.units import CM_PER_MM, MM_PER_CM

if TYPE_CHECKING:
    from spinedose.assignments import Assignment
    from spinedose.density import CtImage
    from spinedose.dicom.dose import PlannedDose
    from spinedose.plan import Plan
    from spinedose.result import Dose
    from spinedose.structures import StructureSet


@app.command()
@plain_errors
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
    machine: Annotated[str | None, MachineOption] = None,
    curve: Annotated[str, CurveOption] = "generic",
    material: Annotated[list[str] | None, MaterialOption] = None,
    couch: Annotated[str | None, CouchOption] = None,
    spacing_mm: Annotated[float, typer.Option(help="Voxel size of the calculation [mm], 0.5 to 10.")] = 2.5,
    fine: Annotated[str | None, FineOption] = None,
    dose_to: Annotated[str, DoseToOption] = "water",
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
    missing_slices: Annotated[OnMissingSlices, MissingSlicesOption] = "refuse",
    beams: Annotated[str | None, BeamsOption] = None,
    fraction_group: Annotated[int | None, FractionGroupOption] = None,
    bolus: Annotated[OnBolus, BolusOption] = "refuse",
    patient_position: Annotated[str | None, PositionOption] = None,
    json: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write inputs, settings, warnings and timings as JSON; docs/formats/dose.md."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that exist.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print warnings and errors only.")] = False,
) -> None:
    """Compute the dose of an RTPLAN on a CT and write it as RTDOSE.

    The dose is that of all planned fractions together, in Gy. Warnings say what was assumed; they go to stderr and into
    the JSON file.
    """
    numbers = beam_numbers(beams)
    assignments = tuple(assignment(text) for text in material or ())
    couch_top, couch_surface_mm = couch_and_surface(couch)
    beam_folder = output.with_name(f"{output.stem}_beams") if per_beam else None
    given = [path for path in (plan, structures, like) if path is not None]
    check_spacing(spacing_mm)
    check_target(output, force=force, inputs=given)
    if json is not None:
        check_target(json, force=force, inputs=given, outputs=[output])
    if beam_folder is not None:
        check_target_folder(beam_folder, force=force)
    with progress_bar(wanted=not quiet) as report:
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
        files = [result.save(output, overwrite=force)]
        if beam_folder is not None:
            beam_folder.mkdir(exist_ok=True)
            files += result.save_beams(beam_folder, overwrite=force)
        if json is not None:
            write_text(json, result.to_json(files))
    if not quiet:
        typer.echo(_verdict(result))
        written = [str(path) for path in (output, beam_folder, json) if path is not None]
        typer.echo(f"Written: {', '.join(written)}")
        typer.echo(_timings(result))
        typer.echo(NOT_CLINICAL)
    show_warnings(result.metadata.warnings)


@app.command()
@plain_errors
def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write to; made if it is not there.")] = Path(
        "demo"
    ),
    spacing_mm: Annotated[float, typer.Option(help="Voxel size of the calculation [mm], 0.5 to 10.")] = 2.5,
    fine: Annotated[
        bool,
        typer.Option(
            "--fine/--no-fine", help="Voxels half as large around the target, and a dose file with voxels of 1.5 mm."
        ),
    ] = True,
    backend: Annotated[str, BackendOption] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print warnings and errors only.")] = False,
) -> None:
    """Make up a spine case, compute its plan and draw the dose.

    The case is synthetic: a vertebral target around a spinal cord, lungs, and titanium rods, in a CT, an RTSTRUCT and a
    two-arc VMAT RTPLAN. They are read back from the disk as any patient's files would be. Files of an earlier demo in
    the folder are replaced, any others are refused. `spinedose check DIR` then checks it as it would a planning
    system's.
    """
    check_spacing(spacing_mm)
    check_target_folder(out, force=True, parents=True)
    from spinedose.demo import demo_case, stored_grid, write_demo

    start = time.perf_counter()
    with progress_bar(wanted=not quiet) as report:
        report("make the case", 0.0)
        out.mkdir(parents=True, exist_ok=True)
        case = demo_case()
        files = write_demo(out, case)
        report("read", 0.0)
        inputs = _read_inputs(files.plan, files.ct, files.structures)
        around = ("PTV",) if fine else ()
        result = _compute(inputs, spacing_mm=spacing_mm, fine=around, backend=backend, progress=report)
        report("write", 1.0)
        target = out / "RD.dcm"
        stored = replace(result, volume=result.volume.resample(stored_grid(result.grid))) if fine else result
        stored.save(target, overwrite=True)
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
        typer.echo(f"Pictures: {', '.join(str(path) for path in pictures)}" if pictures else NO_PICTURES)
        typer.echo(NOT_CLINICAL)
    show_warnings(result.metadata.warnings)


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
    from spinedose.engine import compute_dose
    from spinedose.settings import Settings

    return compute_dose(
        inputs.plan,
        inputs.ct,
        machine=machine,
        structures=inputs.structures,
        materials=materials,
        couch=couch,
        couch_surface_cm=None if couch_surface_mm is None else CM_PER_MM * couch_surface_mm,
        spacing_cm=CM_PER_MM * spacing_mm,
        fine=fine or None,
        like=inputs.like,
        backend=backend,
        per_beam=per_beam,
        settings=Settings(curve=curve, dose_to=dose_to),
        progress=progress,
    )


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
