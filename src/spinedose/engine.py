"""The conductor: plan, CT and machine in, dose out. It calls the stages in order and holds no array loop of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spinedose._arguments import PATH, expect, expect_callable
from spinedose._version import __version__
from spinedose.assignments import Assignment
from spinedose.belonging import doubts
from spinedose.calibration import reference_output
from spinedose.clock import Clock, Progress
from spinedose.couches import missing_couch
from spinedose.density import CtImage
from spinedose.errors import InvalidInput, NumericalError
from spinedose.grid import Grid, Volume
from spinedose.machine import Machine, list_machines, machine_for_beam, read_machine
from spinedose.machine_change import MachineChange
from spinedose.missing_matter import through_ends
from spinedose.patient import FineLike, PreparedPatient, prepare_patient, prove_image
from spinedose.plan import Beam, Plan
from spinedose.result import DOSE_QUANTITY, Dose, ResultInfo
from spinedose.settings import Settings, prove_settings
from spinedose.setup import Setup
from spinedose.stages import Job, Memory, deliver
from spinedose.structures import StructureSet

__all__ = ["Memory", "PreparedPatient", "Settings", "compute_dose", "irradiate", "prepare_patient"]


def compute_dose(
    plan: Plan,
    ct: CtImage,
    *,
    machine: Machine | str | Path | None = None,
    structures: StructureSet | None = None,
    materials: Sequence[Assignment] = (),
    couch: str | Path = "",
    couch_surface_cm: float | None = None,
    spacing_cm: float = 0.25,
    fine: FineLike = None,
    like: Any = None,
    backend: str = "auto",
    per_beam: bool = False,
    setup: Setup | None = None,
    change: MachineChange | None = None,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> Dose:
    """Compute the dose of a plan, all fractions together.

    Parameters
    ----------
    plan : Plan
        From `read_plan`.
    ct : CtImage
        From `read_ct`, in the same frame of reference.
    machine : Machine, str or path, optional
        Machine to use; otherwise the plan's leaf boundaries decide, with a warning in the result.
    structures : StructureSet, optional
        Gives body outline and density overrides.
    materials : sequence of Assignment, optional
        Named materials of structures, or above a CT number; they count above the plan's overrides.
    couch : str or path, optional
        Couch top to put under the patient: a name (`spinedose.couches.list_couches`) or a TOML file.
    couch_surface_cm : float, optional
        DICOM y of its surface [cm]; otherwise it touches the body.
    spacing_cm : float
        Voxel size of the calculation [cm].
    fine : str, sequence of str or FineBox, optional
        Structures around which voxels are half as large, the target and the cord for instance; or a box.
    like : Grid, Volume or PlannedDose, optional
        Grid on which the dose is returned, by trilinear interpolation; otherwise that of the calculation, with a fine
        box its fine voxels everywhere.
    backend : str
        `"auto"`, `"cpu"`, `"cuda"` or `"cuda:1"`.
    per_beam : bool
        Also return the dose of each beam; costs one transport a beam.
    setup : Setup, optional
        Displacement of the patient from the planned position; the grid stays in him.
    change : MachineChange, optional
        What is different about the treatment head.
    settings : Settings, optional
        Accuracy settings.
    progress : callable, optional
        Called with the name of the stage and the share of the whole that is done, 0 to 1.

    Returns
    -------
    Dose

    Raises
    ------
    SpinedoseError
        With problem, reason and advice; see `spinedose.errors`.
    """
    prove_image(ct, structures)
    _prove(plan, machine, setup, change, like, settings, progress)
    settings = settings or Settings()
    clock = Clock(progress)
    warnings = _frames(plan, ct, structures)
    with clock("machine", 0.0):
        machines, notes = _machines(plan, machine)
    patient = prepare_patient(
        ct,
        patient_position=plan.patient_position,
        structures=structures,
        materials=materials,
        couch=couch,
        couch_surface_cm=couch_surface_cm,
        spacing_cm=spacing_cm,
        fine=fine,
        curve=settings.curve,
        backend=backend,
        progress=clock.part(0.02, 0.03).report,
    )
    clock.add(patient.timings_s)
    return _irradiate(
        plan, patient, machines, [*warnings, *notes], clock,
        setup=setup, change=change, like=like, per_beam=per_beam, settings=settings, memory=None,
    )  # fmt: skip


def irradiate(
    plan: Plan,
    patient: PreparedPatient,
    *,
    machine: Machine | str | Path | None = None,
    setup: Setup | None = None,
    change: MachineChange | None = None,
    like: Any = None,
    per_beam: bool = False,
    settings: Settings | None = None,
    memory: Memory | None = None,
    progress: Progress | None = None,
) -> Dose:
    """Compute the dose of a plan in a patient who is on the device already; for studies that compute many.

    Parameters
    ----------
    plan, machine, setup, change, like, per_beam, settings, progress
        As in `compute_dose`; the HU curve is the patient's.
    patient : PreparedPatient
        From `prepare_patient`.
    memory : Memory, optional
        Keeps fluences and tables for the next call. The dose is the same with and without, to the last bit.

    Returns
    -------
    Dose
        All fractions together, in the patient as the CT shows him, wherever he was set up.
    """
    expect("The patient", patient, PreparedPatient, "a PreparedPatient", "Make one of a CT with prepare_patient")
    _prove(plan, machine, setup, change, like, settings, progress)
    settings = replace(settings or Settings(), curve=patient.curve)
    clock = Clock(progress)
    warnings = _frames(plan, patient.ct, patient.structures)
    with clock("machine", 0.0):
        machines, notes = _machines(plan, machine)
    return _irradiate(
        plan, patient, machines, [*warnings, *notes], clock,
        setup=setup, change=change, like=like, per_beam=per_beam, settings=settings, memory=memory,
    )  # fmt: skip


def _irradiate(
    plan: Plan,
    patient: PreparedPatient,
    machines: Sequence[Machine],
    notes: Sequence[str],
    clock: Clock,
    *,
    setup: Setup | None,
    change: MachineChange | None,
    like: Any,
    per_beam: bool,
    settings: Settings,
    memory: Memory | None,
) -> Dose:
    """The part of both ways that computes."""
    device, setup, change = patient.device, setup or Setup(), change or MachineChange()
    warnings = [*plan.warnings, *plan.skipped, *patient.ct.warnings, *notes]
    if not patient.couch:
        warnings += missing_couch(plan, patient.structures, patient.assignments)
    warnings += patient.warnings
    placed = _set_up(plan, setup)
    _isocentres_inside(placed, patient.matter.grid)
    turn = None if setup.is_as_planned else setup.turn
    missing = (*through_ends(placed, patient.ends, turn), *patient.missing)
    warnings = [*(one.text for one in missing), *warnings]
    jobs = _jobs(placed, machines, per_beam)
    parts: dict[int, list[NDArray[np.float32]]] = {}
    total: list[NDArray[np.float32]] = []
    used: dict[str, int] = {}
    outputs: dict[str, float] = {}
    start, width = 0.05, 0.93 / len(jobs)
    for job in jobs:
        name = f"{job.machine.name}/{job.model.energy}"
        with clock("calibration", start):
            outputs[name] = reference_output(job.machine, job.model, settings, device)
        changed = change.of(job.machine)
        job = replace(job, machine=changed, model=changed.beams[job.model.energy], turn=turn)
        raw, count = deliver(
            device, patient.scene, patient.inner, job, settings, clock.part(start, width), warnings, memory
        )
        used[name] = max(count, used.get(name, 0))
        for values in raw:
            values *= np.float32(job.model.calibration.gy_per_mu / outputs[name] * plan.fractions)
        if per_beam:
            parts[job.beams[0].number] = raw
        total = [a + b for a, b in zip(total, raw, strict=True)] if total else [values.copy() for values in raw]
        start += width
    with clock("result", 0.98):
        if not all(np.all(np.isfinite(values)) for values in total):
            raise NumericalError(
                "The dose is not a number somewhere", "this must not happen", "Please report it with the plan"
            )
        volume = patient.composed(total, settings.dose_to)
        beams = {number: patient.composed(raw, settings.dose_to) for number, raw in parts.items()}
        wanted = like if like is None or isinstance(like, Grid) else like.grid
        if wanted is not None:
            warnings += _cut_off(volume, wanted)
            volume = volume.resample(wanted)
            beams = {number: dose.resample(wanted) for number, dose in beams.items()}
    clock.done()
    info = ResultInfo(
        version=__version__,
        backend=device.name,
        device=device.device,
        machines=tuple(used),
        beam_data_hash="+".join(sorted({m.data_hash for m in machines})),
        density_curve=patient.matter.curve,
        body=patient.matter.body,
        settings={
            **asdict(settings),
            "directions": used,
            "pixel_cm": settings.pixel_on(patient.matter.grid),
            **patient.settings(),
            "like": None if wanted is None else asdict(wanted),
            "per_beam": per_beam,
            **({} if setup.is_as_planned else {"setup": asdict(setup)}),
            **({} if change.is_none else {"machine_change": asdict(change)}),
        },
        calibration_gy_per_mu=outputs,
        warnings=tuple(dict.fromkeys(warnings)),
        timings_s={name: round(seconds, 4) for name, seconds in clock.seconds.items()},
        dose_quantity=DOSE_QUANTITY[settings.dose_to],
        saturated_near=patient.matter.saturated_near,
        dense_near=patient.matter.dense_near,
        missing=missing,
    )
    models = {
        beam.number: f"{model.name}/{model.beams[beam.energy].energy}"
        for model, beam in zip(machines, plan.beams, strict=True)
    }
    return Dose(volume, info, plan=plan, ct=patient.ct, beams=beams, structures=patient.structures, beam_models=models)


def _prove(
    plan: Plan,
    machine: Machine | str | Path | None,
    setup: Setup | None,
    change: MachineChange | None,
    like: Any,
    settings: Settings | None,
    progress: Progress | None,
) -> None:
    """Refuse arguments of another kind: names of files, mostly, and numbers or mappings for what has a class."""
    expect("The plan", plan, Plan, "a Plan", "Read it with read_plan")
    if machine is not None:
        expect("The machine", machine, (Machine, *PATH), "a name, a folder or a Machine", "See list_machines()")
    if setup is not None:
        expect("The setup", setup, Setup, "a Setup", "Write Setup(lateral_cm=0.1) for instance")
    if change is not None:
        expect("The change of the machine", change, MachineChange, "a MachineChange", "Write MachineChange(...)")
    prove_settings(settings)
    if progress is not None:
        expect_callable("What is to be told of progress", progress)
    if like is not None and not isinstance(like, Grid):
        expect("The grid of the dose", getattr(like, "grid", like), Grid, "a Grid or a dose", "Read one with read_dose")


def _machines(plan: Plan, machine: Machine | str | Path | None) -> tuple[list[Machine], list[str]]:
    """The machine of each beam, and what must be known about the choice."""
    if machine is not None and not isinstance(machine, Machine):
        machine = read_machine(machine)
    known = [] if machine is not None else [read_machine(name) for name in list_machines()]
    machines, notes = [], []
    for beam in plan.beams:
        chosen, said = machine_for_beam(beam, machine, among=known)
        machines.append(chosen)
        notes += [note for note in said if note not in notes]
    return machines, notes


def _set_up(plan: Plan, setup: Setup) -> Plan:
    """The plan with its isocentres where they lie in the displaced patient."""
    if setup.is_as_planned:
        return plan
    pivot = plan.beams[0].isocentre_cm

    def moved(beam: Beam) -> Beam:
        return replace(beam, isocentre_cm=setup.isocentre_cm(beam.isocentre_cm, pivot, plan.patient_position))

    return replace(plan, beams=tuple(moved(beam) for beam in plan.beams))


def _jobs(plan: Plan, machines: Sequence[Machine], per_beam: bool) -> list[Job]:
    """Gather the beams that one transport can serve."""
    found: dict[tuple[str, ...], list[tuple[Machine, Beam]]] = {}
    for machine, beam in zip(machines, plan.beams, strict=True):
        key = (machine.name, machine.data_hash, beam.energy, str(beam.number) if per_beam else "")
        found.setdefault(key, []).append((machine, beam))
    jobs = []
    for members in found.values():
        machine, first = members[0]
        beams = tuple(beam for _, beam in members)
        jobs.append(Job(machine, machine.beams[first.energy], beams, plan.patient_position))
    return jobs


def _frames(plan: Plan, ct: CtImage, structures: StructureSet | None) -> list[str]:
    """Refuse what lies in different frames of reference; warn where a file does not say, or is of somebody else."""
    names = {"plan": plan.frame_of_reference_uid, "CT": ct.frame_of_reference_uid}
    if structures is not None:
        names["structure set"] = structures.frame_of_reference_uid
    given = {name: uid for name, uid in names.items() if uid}
    if len(set(given.values())) > 1:
        raise InvalidInput(
            f"{', '.join(given)} are not in the same frame of reference",
            "the dose would be computed at the wrong place",
            "Export plan, CT and structures of one treatment plan",
        )
    missing = [name for name in names if name not in given]
    said = [f"No frame of reference in {' and '.join(missing)}: taken to be that of the CT."] if missing else []
    return [*said, *doubts(plan, ct, structures)]


def _isocentres_inside(plan: Plan, grid: Grid) -> None:
    for beam in plan.beams:
        gap = np.maximum(grid.lower_cm - beam.isocentre_cm, beam.isocentre_cm - grid.upper_cm).max()
        if gap > 30:
            raise InvalidInput(
                f"The isocentre of beam {beam.number} '{beam.name}' lies {gap:.0f} cm outside the body",
                "plan and CT do not belong together",
                "Check that both come from the same patient",
            )


def _cut_off(volume: Volume, wanted: Grid) -> list[str]:
    """Warn when the asked-for grid misses the dose maximum."""
    grid, dose = volume.grid, volume.values
    k, j, i = np.unravel_index(int(np.argmax(dose)), dose.shape)
    point = np.array([grid.axes_cm[0][i], grid.axes_cm[1][j], grid.axes_cm[2][k]])
    if np.any(point < wanted.lower_cm) or np.any(point > wanted.upper_cm):
        return [f"The dose maximum of {dose.max():.2f} Gy lies outside the grid that the dose is returned on."]
    return []
