"""The conductor: plan, CT and machine in, dose out. It calls the stages in order and holds no array loop of its own."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spinedose import _cache
from spinedose._version import __version__
from spinedose.assignments import Assignment
from spinedose.backends.base import Backend, Moments, Scene
from spinedose.backends.select import select_backend
from spinedose.cones import ConeTable
from spinedose.couches import missing_couch, put_on_couch, read_couch
from spinedose.density import CtImage, DensityGrid, build_density, calculation_grid, find_body, read_curve
from spinedose.directions import directions
from spinedose.errors import InvalidInput, NumericalError
from spinedose.exposure import (
    Exposure,
    Shots,
    beam_tables,
    collimator_rotations,
    make_exposure,
    pool,
    reached_box,
    split_halo,
    voxel_axes,
)
from spinedose.fluence_model import Raster, fluence_raster
from spinedose.grid import Grid, Volume
from spinedose.machine import BeamModel, Machine, machine_for_beam
from spinedose.nested import FineBox, Nest, with_common_materials
from spinedose.plan import Beam, Plan
from spinedose.result import DOSE_QUANTITY, Dose, ResultInfo
from spinedose.segments import segment_beam
from spinedose.structures import StructureSet

log = logging.getLogger(__name__)

Progress = Callable[[str, float], None]

MOST_DIRECTIONS, FEWEST_DIRECTIONS = 1600, 200
DEEPEST_CM = 150.0
"""Attenuation is tabulated to this depth in water. 60 cm of body, 5 of them titanium (3.73), are 74 cm deep."""

HALO_MOMENTS = 3
"""Degree of the angular moments of leakage and head scatter, which are weak and come from all sides of a field."""

VACUUM = 1e-5
"""Below this relative electron density (a hundredth of air) a voxel has no dose."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What decides between accuracy and time; defaults come from docs/theory/convergence.md.

    Parameters
    ----------
    directions : int or None
        Directions M of the transport. None: 1600 for a single static beam, fewer the more beam directions a plan has,
        `1600 / sqrt(n)`, but no fewer than 200, because their errors average.
    moments : int
        Highest degree L of the angular moments.
    segment_step_deg : float
        Largest turn of gantry, collimator or couch in one fluence segment [degrees].
    group_step_deg : float
        Width of the bins of gantry angle that share radiological depth and direction of travel [degrees].
    halo_step_deg : float
        Width of the bins in which leakage and head scatter are added up and taken at one angle [degrees].
    pixel_cm : float or None
        Pixel of the fluence maps at the isocentre plane [cm]; None: 1 mm, or 0.4 voxels if that is less.
    curve : str
        HU curve: a name or a TOML file.
    dose_to : str
        `"water"`: dose to a water-like medium, the energy over the mass of as many electrons' worth of water;
        `"medium"`: dose to the local medium, the energy over its mass (docs/theory/heterogeneity.md).
    """

    directions: int | None = None
    moments: int = 6
    segment_step_deg: float = 1.0
    group_step_deg: float = 4.0
    halo_step_deg: float = 12.0
    pixel_cm: float | None = None
    curve: str = "generic"
    dose_to: str = "water"

    def __post_init__(self) -> None:
        if self.directions is not None and not 32 <= self.directions <= 20000:
            raise InvalidInput(f"{self.directions} directions were asked for", "32 to 20000 make sense")
        if not 0 <= self.moments <= 12:
            raise InvalidInput(f"Moments of order {self.moments} were asked for", "0 to 12 are possible")
        for name in ("segment_step_deg", "group_step_deg", "halo_step_deg"):
            if not 0 < getattr(self, name) <= 15:
                raise InvalidInput(f"{name} is {getattr(self, name)}", "a step lies between 0 and 15 degrees")
        if self.pixel_cm is not None and not 0.01 <= self.pixel_cm <= 0.1:
            raise InvalidInput(f"pixel_cm is {self.pixel_cm}", "pixels of 0.01 to 0.1 cm resolve leaves")
        if self.dose_to not in DOSE_QUANTITY:
            raise InvalidInput(f"Dose to '{self.dose_to}' is unknown", f"there are {', '.join(DOSE_QUANTITY)}")


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
    fine: FineBox | None = None,
    like: Any = None,
    backend: str = "auto",
    per_beam: bool = False,
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
    fine : FineBox, optional
        Box of finer voxels, around target and cord for instance (`fine_box_around`).
    like : Grid, Volume or PlannedDose, optional
        Grid on which the dose is returned, by trilinear interpolation; otherwise that of the calculation, with a fine
        box its fine voxels everywhere.
    backend : str
        `"auto"` or `"cpu"`.
    per_beam : bool
        Also return the dose of each beam; costs one transport a beam.
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
    settings = settings or Settings()
    if not (np.isfinite(spacing_cm) and 0.05 <= spacing_cm <= 1.0):
        raise InvalidInput(
            f"Spacing is {spacing_cm} cm", "0.05 to 1 cm can be computed", "2.5 mm is usual, 1.25 mm for spine"
        )
    clock = _Clock(progress)
    warnings = [*plan.warnings, *plan.skipped, *ct.warnings]
    warnings += _frames(plan, ct, structures)
    with clock("machine", 0.0):
        machines = []
        for beam in plan.beams:
            chosen, notes = machine_for_beam(beam, machine)
            machines.append(chosen)
            warnings += [note for note in notes if note not in warnings]
        device = select_backend(backend)
    with clock("density", 0.02):
        body, scan, drawn = find_body(ct, structures), ct, structures
        if couch:
            top, position = read_couch(couch), plan.patient_position
            scan, body, drawn = put_on_couch(
                ct, body, structures, top, patient_position=position, surface_cm=couch_surface_cm
            )
        else:
            warnings += missing_couch(plan, structures, materials)
        grid = calculation_grid(scan, spacing_cm=spacing_cm, body=body, structures=drawn, assignments=materials)
        curve = read_curve(settings.curve)
        matter = build_density(scan, grid, body=body, curve=curve, structures=drawn, assignments=materials)
        warnings += [w for w in (*body.warnings, *matter.warnings) if w not in warnings]
        _isocentres_inside(plan, grid)
        if fine is not None:
            nest = Nest.of(grid, fine)
            details = build_density(scan, nest.grid, body=body, curve=curve, structures=drawn, assignments=materials)
            matter, details = with_common_materials([matter, details])
        scene, inner = _load(device, matter), None
        if fine is not None:
            inner = _Inner(nest, details, _load(device, details, padded=True), _hollow(device, scene, matter, nest))

    jobs = _jobs(plan, machines, per_beam)
    parts: dict[int, list[NDArray[np.float32]]] = {}
    total: list[NDArray[np.float32]] = []
    used: dict[str, int] = {}
    outputs: dict[str, float] = {}
    start, width = 0.05, 0.93 / len(jobs)
    for job in jobs:
        with clock("calibration", start):
            unit = reference_output(job.machine, job.model, settings, device)
            outputs[f"{job.machine.name}/{job.model.energy}"] = unit
        raw, count = _deliver(
            device, scene, inner, job, plan.patient_position, settings, clock.part(start, width), warnings
        )
        used[f"{job.machine.name}/{job.model.energy}"] = max(
            count, used.get(f"{job.machine.name}/{job.model.energy}", 0)
        )
        for values in raw:
            values *= np.float32(job.model.calibration.gy_per_mu / unit * plan.fractions)
        if per_beam:
            parts[job.beams[0].number] = raw
        total = [a + b for a, b in zip(total, raw, strict=True)] if total else [values.copy() for values in raw]
        start += width
    with clock("result", 0.98):
        if not all(np.all(np.isfinite(values)) for values in total):
            raise NumericalError(
                "The dose is not a number somewhere", "this must not happen", "Please report it with the plan"
            )
        volume = _composed(total, matter, inner, settings.dose_to)
        beams = {number: _composed(raw, matter, inner, settings.dose_to) for number, raw in parts.items()}
        if like is not None:
            wanted = like if isinstance(like, Grid) else like.grid
            warnings += _cut_off(volume, wanted)
            volume = volume.resample(wanted)
            beams = {number: dose.resample(wanted) for number, dose in beams.items()}
    if progress is not None:
        progress("done", 1.0)
    info = ResultInfo(
        version=__version__,
        backend=device.name,
        device=device.device,
        machines=tuple(used),
        beam_data_hash="+".join(sorted({m.data_hash for m in machines})),
        density_curve=matter.curve,
        body=matter.body,
        settings={
            **asdict(settings),
            "directions": used,
            "spacing_cm": spacing_cm,
            "pixel_cm": _pixel(settings, grid),
            "materials": {a.region: a.made_of.name for a in materials},
            "couch": str(couch),
        },
        calibration_gy_per_mu=outputs,
        warnings=tuple(dict.fromkeys(warnings)),
        timings_s={name: round(seconds, 4) for name, seconds in clock.seconds.items()},
        dose_quantity=DOSE_QUANTITY[settings.dose_to],
    )
    return Dose(volume=volume, metadata=info, plan=plan, ct=ct, beams=beams)


@dataclass(frozen=True, slots=True, eq=False)
class _Inner:
    """A box of fine voxels: where it is, its matter, that matter on the device within a layer of vacuum, and the rest
    of the patient with a hole for it."""

    nest: Nest
    matter: DensityGrid
    scene: Scene
    outer: Scene


def _load(device: Backend, matter: DensityGrid, *, padded: bool = False) -> Scene:
    """Take matter to the device; with a layer of vacuum around it if asked for."""
    electron, number = matter.electron, matter.material.values
    if padded:
        electron, number = electron.padded(), np.pad(number, 1)
    return device.load(electron, number, matter.materials[1:])


def _hollow(device: Backend, scene: Scene, matter: DensityGrid, nest: Nest) -> Scene:
    """The same matter with vacuum in the box."""
    hollow = Volume(scene.grid, nest.hollow(matter.electron.values))
    return device.load(hollow, matter.material.values, matter.materials[1:])


def _composed(doses: Sequence[NDArray[np.float32]], matter: DensityGrid, inner: _Inner | None, dose_to: str) -> Volume:
    """Dose to what was asked for, on one grid."""
    if dose_to == "medium":
        matters = [matter] if inner is None else [matter, inner.matter]
        doses = [to_medium(d, m.mass.values, m.electron.values) for d, m in zip(doses, matters, strict=True)]
    return Volume(matter.grid, doses[0]) if inner is None else inner.nest.composed(doses[0], doses[1])


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    """Beams that are transported together: they share a beam model, hence a cone table."""

    machine: Machine
    model: BeamModel
    beams: tuple[Beam, ...]


def _jobs(plan: Plan, machines: Sequence[Machine], per_beam: bool) -> list[_Job]:
    """Gather the beams that one transport can serve."""
    found: dict[tuple[str, ...], list[tuple[Machine, Beam]]] = {}
    for machine, beam in zip(machines, plan.beams, strict=True):
        key = (machine.name, machine.data_hash, beam.energy, str(beam.number) if per_beam else "")
        found.setdefault(key, []).append((machine, beam))
    return [
        _Job(members[0][0], members[0][0].beams[members[0][1].energy], tuple(beam for _, beam in members))
        for members in found.values()
    ]


def _deliver(
    device: Backend,
    scene: Scene,
    inner: _Inner | None,
    job: _Job,
    patient_position: str,
    settings: Settings,
    clock: _Clock,
    warnings: list[str],
) -> tuple[list[NDArray[np.float32]], int]:
    """Dose of a job in the engine's own unit (1 MU on the open axis x cm^2/g), and the number of directions used.

    One dose, on the scene's grid; with a box of fine voxels a second one, in the box.
    """
    whole = clock if inner is None else clock.part(0.0, 0.5)
    rays = _expose(device, scene, job, patient_position, settings, whole)
    field, halo = _released(device, scene, rays, settings, whole, warnings)
    count = settings.directions or _directions_for(rays.fields)
    electrons = device.electron_dose(field) + device.electron_dose(halo)
    if inner is None:
        dose = _transported(device, scene, field, halo, rays.cones, settings, count, whole)
        return [_with_electrons(dose, electrons, scene)], count
    nest = inner.nest
    own = nest.take_out(field), nest.take_out(halo)
    around = _transported(device, scene, field, halo, rays.cones, settings, count, whole)
    dose = around + _transported(device, scene, *own, rays.cones, settings, count, whole)
    coarse = _with_electrons(dose, electrons, scene)
    del field, halo, own, rays

    closer = clock.part(0.5, 0.5)
    rays = _expose(device, inner.scene, job, patient_position, settings, closer, matter=scene.grid)
    field, halo = _released(device, inner.scene, rays, settings, closer, warnings, outer=inner.outer)
    electrons = device.electron_dose(field) + device.electron_dose(halo)
    dose = _transported(device, inner.scene, field, halo, rays.cones, settings, count, closer)
    fine = _with_electrons(dose, electrons, inner.scene)[1:-1, 1:-1, 1:-1] + nest.fine(around)
    return [coarse, np.where(inner.matter.electron.values > VACUUM, fine, np.float32(0.0))], count


@dataclass(frozen=True, slots=True, eq=False)
class _Rays:
    """What a job sends into matter: fields, their leakage and head scatter, and the cone table of the beam."""

    fields: Sequence[Exposure]
    halos: Sequence[Exposure]
    cones: ConeTable


def _expose(
    device: Backend,
    scene: Scene,
    job: _Job,
    patient_position: str,
    settings: Settings,
    clock: _Clock,
    matter: Grid | None = None,
) -> _Rays:
    """Stage A, and the geometry of stages B and C; `matter` is the grid of all that beams cross, if not the scene's."""
    model, grid = job.model, scene.grid
    pixel = _pixel(settings, grid)
    soft = model.softening
    shots: list[tuple[Beam, Shots, Shots]] = []
    around = _by_isocentre(job.beams)
    for i, beams in enumerate(around):
        with clock("fluence", 0.2 * i / len(around)):
            segments = [segment_beam(beam, max_gantry_step_deg=settings.segment_step_deg) for beam in beams]
            raster = _union([fluence_raster(part, job.machine, model, pixel_cm=pixel) for part in segments])
            maps = []
            for some in segments:
                rotations = collimator_rotations(some.gantry_deg, some.collimator_deg, some.couch_deg, patient_position)
                maps.append(device.fluence(job.machine, model, some, raster, voxel_axes(rotations, grid.spacing_cm)))
        with clock("geometry", 0.2 * (i + 1) / len(around)):
            pooled = pool(segments, maps)
            del maps  # hundreds of megabytes for arcs
            shots.append((beams[0], *split_halo(pooled, settings.halo_step_deg)))
            del pooled
    softest = _softest(model, [field.maps.raster for _, field, _ in shots])
    table, cones = beam_tables(
        model.spectrum, soft.radius_cm, soft.value, model.electrons.attenuation_per_cm,
        media=scene.media, softest=softest, depth_cm=DEEPEST_CM,
    )  # fmt: skip
    fields: list[Exposure] = []
    halos: list[Exposure] = []
    with clock("geometry", 0.2):
        while shots:
            beam, *both = shots.pop(0)
            steps = (settings.group_step_deg, settings.halo_step_deg)
            for part, step, kind in zip(both, steps, (fields, halos), strict=True):
                kind.append(
                    make_exposure(
                        part,
                        grid=grid,
                        patient_position=patient_position,
                        isocentre_cm=beam.isocentre_cm,
                        sad_cm=job.machine.sad_cm,
                        attenuation=table,
                        group_step_deg=step,
                        matter=matter,
                    )
                )
    return _Rays(fields, halos, cones)


def transport_exposures(
    device: Backend,
    scene: Scene,
    fields: Sequence[Exposure],
    halos: Sequence[Exposure],
    cones: ConeTable,
    settings: Settings,
    clock: _Clock | None = None,
    warnings: list[str] | None = None,
) -> tuple[NDArray[np.float32], int]:
    """Stages B to E for any exposures: dose per unit of fluence.

    Parameters
    ----------
    device, scene : Backend, Scene
        Device and the matter on it.
    fields : sequence of Exposure
        Fields of one beam model.
    halos : sequence of Exposure
        Their leakage and head scatter, for which fewer moments do; may be empty.
    cones : ConeTable
        Cone table of the beam model.
    settings : Settings
        Accuracy settings.
    clock : optional
        For progress and timing.
    warnings : list of str, optional
        What the reader of the result must know is added to it.

    Returns
    -------
    dose : ndarray float32, shape (nz, ny, nx)
        Dose to water-like medium [unit of the fluence times cm^2/g].
    count : int
        Directions used.
    """
    clock = clock or _Clock(None)
    rays = _Rays(fields, halos, cones)
    field, halo = _released(device, scene, rays, settings, clock, [] if warnings is None else warnings)
    electrons = device.electron_dose(field) + device.electron_dose(halo)
    count = settings.directions or _directions_for(fields)
    dose = _transported(device, scene, field, halo, cones, settings, count, clock)
    return _with_electrons(dose, electrons, scene), count


def _released(
    device: Backend,
    scene: Scene,
    rays: _Rays,
    settings: Settings,
    clock: _Clock,
    warnings: list[str],
    outer: Scene | None = None,
) -> tuple[Moments, Moments]:
    """Stages B and C: energy released by the fields and by their halos."""
    wide = _reach(scene.grid, [*rays.fields, *rays.halos], (0, 0, 0))
    box = _reach(scene.grid, rays.fields, wide[0])
    box = ((*box[0][:2], wide[0][2]), (*box[1][:2], wide[1][2]))  # rows equally long: no copy
    parts, few = len(rays.cones.energy), min(HALO_MOMENTS, settings.moments)
    field, halo = (
        device.new_moments(scene, *where, order, parts) for where, order in ((box, settings.moments), (wide, few))
    )
    deepest_cm = _release(device, scene, rays.fields, field, clock, 0.2, outer)
    _release(device, scene, rays.halos, halo, clock, 0.4, outer)
    if deepest_cm > DEEPEST_CM:
        warnings.append(
            f"A field passes up to {deepest_cm:.0f} cm of water-equivalent matter, but attenuation is known to"
            f" {DEEPEST_CM:g} cm: the dose deeper down is too high. Check the density overrides."
        )
    return field, halo


def _transported(
    device: Backend,
    scene: Scene,
    field: Moments,
    halo: Moments,
    cones: ConeTable,
    settings: Settings,
    count: int,
    clock: _Clock,
) -> NDArray[np.float32]:
    """Stages D and E: dose without contaminating electrons. Uses the moments up."""
    with clock("transport", 0.5):
        spread = directions(count, settings.moments)
        energy = device.transport(scene, field, halo, cones, spread, clock.within("transport", 0.5, 0.5))
        return _per_mass(energy, scene)


Box = tuple[tuple[int, int, int], tuple[int, int, int]]


def _reach(grid: Grid, exposures: Sequence[Exposure], otherwise: tuple[int, int, int]) -> Box:
    """Index box of all voxels that exposures reach; one voxel, `otherwise`, when there is none."""
    boxes = [reached_box(grid, exposure.fans, exposure.reach) for exposure in exposures]
    boxes = [(low, high) for low, high in boxes if all(a < b for a, b in zip(low, high, strict=True))]
    if not boxes:
        return otherwise, (otherwise[0] + 1, otherwise[1] + 1, otherwise[2] + 1)
    low, high = np.min([b[0] for b in boxes], axis=0), np.max([b[1] for b in boxes], axis=0)
    return (int(low[0]), int(low[1]), int(low[2])), (int(high[0]), int(high[1]), int(high[2]))


def _release(
    device: Backend,
    scene: Scene,
    exposures: Sequence[Exposure],
    moments: Moments,
    clock: _Clock,
    start: float,
    outer: Scene | None,
) -> float:
    """Stages B and C, in blocks of groups that fit into memory; returns the greatest water-equivalent depth [cm].

    `outer` is matter around the scene that beams cross before they come to it.
    """
    groups = max(sum(len(exposure) for exposure in exposures), 1)
    done, deepest_cm = 0, 0.0
    for exposure in exposures:
        block = max(1, device.fan_budget_bytes // exposure.fans.bytes_per_fan)
        for a in range(0, len(exposure), block):
            b = min(a + block, len(exposure))
            with clock("depth", start + 0.1 * done / groups):
                fans, factor = exposure.fans.part(a, b), exposure.attenuation.path_factor
                depth = device.radiological_depth(scene, fans, factor)
                if outer is not None:
                    depth += device.radiological_depth(outer, fans, factor)
                deepest_cm = max(deepest_cm, float(depth[..., -1].max()))  # it rises along each ray
            with clock("terma", start + 0.1 * done / groups):
                device.release(scene, exposure, depth, (a, b), moments)
            done += b - a
    return deepest_cm


def _per_mass(energy: NDArray[np.float32], scene: Scene) -> NDArray[np.float32]:
    """Energy per voxel volume to dose: a water-like medium of electron density rho has rho g/cm^3."""
    density = _on_host(scene.density)
    dose = np.zeros(energy.shape, np.float32)
    np.divide(energy, density, out=dose, where=density > VACUUM)
    return dose


def _with_electrons(dose: NDArray[np.float32], electrons: NDArray[np.float32], scene: Scene) -> NDArray[np.float32]:
    """Add the dose of contaminating electrons where there is matter."""
    dose += np.where(_on_host(scene.density) > VACUUM, electrons, np.float32(0.0))
    return dose


def _on_host(array: Any) -> NDArray[np.float32]:
    host: NDArray[np.float32] = array.get() if hasattr(array, "get") else np.asarray(array)
    return host


def to_medium(
    dose: NDArray[np.float32], mass: NDArray[np.float32], electron: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Dose to the medium from dose to a water-like one: the energy belongs to the mass that is there.

    Parameters
    ----------
    dose : ndarray float32
        Energy over the mass of as many electrons' worth of water.
    mass, electron : ndarray float32, same shape
        Mass density [g/cm^3] and electron density relative to water.
    """
    return dose * np.divide(electron, mass, out=np.ones_like(dose), where=mass > 0)


def _directions_for(exposures: Sequence[Exposure]) -> int:
    """Number of directions for a plan: errors of different beam directions are independent and average."""
    axes = np.concatenate([exposure.fans.rotation[:, 2, :] for exposure in exposures])
    distinct = len(np.unique(np.round(axes * 60), axis=0))  # about one degree
    wanted = MOST_DIRECTIONS / np.sqrt(distinct)
    return int(8 * np.ceil(np.clip(wanted, FEWEST_DIRECTIONS, MOST_DIRECTIONS) / 8))


def _by_isocentre(beams: Sequence[Beam]) -> list[list[Beam]]:
    """Beams that share an isocentre to 0.01 mm: their segments can share depths and directions."""
    found: dict[tuple[float, ...], list[Beam]] = {}
    for beam in beams:
        found.setdefault(tuple(np.round(beam.isocentre_cm, 3).tolist()), []).append(beam)
    return list(found.values())


def _union(rasters: Sequence[Raster]) -> Raster:
    """Smallest raster that holds all; they have the same pixels."""
    x = [edge for r in rasters for edge in (float(r.xs_cm[0]), float(r.xs_cm[-1]))]
    y = [edge for r in rasters for edge in (float(r.ys_cm[0]), float(r.ys_cm[-1]))]
    return Raster.covering((min(x), max(x)), (min(y), max(y)), rasters[0].pixel_cm)


CURVED_FROM = 1.06
"""Off-axis softening from which on the kernel's curvature in hardness counts (docs/theory/cones.md); below it leaving
it out costs 0.3 % of the dose at 5 cm depth, and less behind it."""


def _softest(model: BeamModel, rasters: Sequence[Raster]) -> float:
    """Largest softening that the fields reach, rounded up to 0.02; 1 if it does not matter."""
    corner = max(float(np.hypot(np.abs(r.xs_cm).max(), np.abs(r.ys_cm).max())) for r in rasters)
    radius = np.linspace(0.0, corner, 100)
    largest = float(model.softening.at(radius).max())
    return 1.0 if largest < CURVED_FROM else min(float(np.ceil(largest * 50) / 50), 1.3)


def _pixel(settings: Settings, grid: Grid) -> float:
    return settings.pixel_cm or min(0.1, 0.4 * min(grid.spacing_cm))


REFERENCE_SPACING_CM = 0.25
REFERENCE_DIRECTIONS = 800
"""The reference point is averaged over 500 voxels, so half the directions of a single beam do."""


def reference_output(machine: Machine, model: BeamModel, settings: Settings, device: Backend) -> float:
    """Dose per MU that the engine computes at the calibration point of a beam, in its own unit; remembered on disk.

    The reference field is computed in a water phantom by the same stages as any plan; the point's dose is the mean
    over a
    cube of 1 cm around it, because voxels of one static beam carry lattice ripple.

    Parameters
    ----------
    machine, model : Machine, BeamModel
        Beam to calibrate.
    settings : Settings
        Accuracy settings; the number of directions is always `REFERENCE_DIRECTIONS`.
    device : Backend
        Where to compute.

    Returns
    -------
    float
        [1 MU on the open axis x cm^2/g per MU]; `gy_per_mu / reference_output` is the calibration factor.
    """
    own = replace(settings, directions=REFERENCE_DIRECTIONS, curve="", dose_to="water")
    facts = [__version__, _ENGINE_REVISION, machine.data_hash, model.energy, asdict(own), device.name]
    if not machine.data_hash:  # not read from files: nothing to key it by
        return _compute_reference(machine, model, own, device)
    key = "output-" + hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
    known = _cache.recall(key)
    if isinstance(known, float) and known > 0:
        return known
    value = _compute_reference(machine, model, own, device)
    _cache.remember(key, value)
    return value


_ENGINE_REVISION = 4
"""Raised whenever the physics of the stages changes, so that remembered outputs are computed anew."""


def _compute_reference(machine: Machine, model: BeamModel, settings: Settings, device: Backend) -> float:
    reference = model.calibration
    side = reference.field_cm
    dose = water_tank_dose(
        machine, model, (side, side), ssd_cm=reference.ssd_cm, depth_cm=reference.depth_cm + 10.0,
        spacing_cm=REFERENCE_SPACING_CM, settings=settings, device=device,
    )  # fmt: skip
    offsets = np.linspace(-0.5, 0.5, 9)
    z, y, x = np.meshgrid(offsets, reference.depth_cm + offsets, offsets, indexing="ij")
    return float(dose.sample(np.stack([x, y, z], axis=-1)).mean())


def water_tank_dose(
    machine: Machine,
    model: BeamModel,
    field_cm: tuple[float, float],
    *,
    ssd_cm: float = 100.0,
    depth_cm: float = 35.0,
    margin_cm: float = 7.0,
    spacing_cm: float = 0.25,
    settings: Settings | None = None,
    device: Backend | None = None,
) -> Volume:
    """Dose of 1 MU of an open static field in a block of water, by the same stages as any plan.

    Parameters
    ----------
    machine, model : Machine, BeamModel
        Treatment head and beam.
    field_cm : tuple of 2 floats
        Sides of the field along x (crossline) and y (inline) at the isocentre plane [cm].
    ssd_cm : float
        Source to surface [cm].
    depth_cm, margin_cm : float
        Depth of the water, and its width beyond the field's edges [cm].
    spacing_cm : float
        Voxel side [cm].
    settings : Settings, optional
        Accuracy settings; by default those of a single static beam.
    device : Backend, optional
        Where to compute.

    Returns
    -------
    Volume
        Dose in the engine's unit (1 MU on the open axis x cm^2/g) at (x, y, z): crossline, **depth below the surface**,
        inline towards the gantry [cm].
    """
    h = spacing_cm
    # depths and distances from the axis are multiples of the voxel, the field is symmetric on the grid
    half = [int(np.ceil((0.5 * side * 1.2 + margin_cm) / h)) for side in field_cm]
    length = int(np.ceil(depth_cm / h))
    below = machine.sad_cm - ssd_cm  # gantry z of the surface
    grid = Grid(
        origin_cm=((0.5 - half[0]) * h, 0.5 * h - below, (0.5 - half[1]) * h),
        spacing_cm=(h, h, h),
        shape=(2 * half[1], length, 2 * half[0]),
    )
    device = device or select_backend("auto")
    scene = device.load(Volume(grid, np.ones(grid.shape, np.float32)).padded())
    job = _Job(machine, model, (open_field_beam(machine, model, field_cm),))
    (raw,), _ = _deliver(device, scene, None, job, "HFS", settings or Settings(), _Clock(None), [])
    x, y, z = grid.origin_cm
    return Volume(replace(grid, origin_cm=(x, y + below, z)), np.ascontiguousarray(raw[1:-1, 1:-1, 1:-1]))


def open_field_beam(machine: Machine, model: BeamModel, field_cm: tuple[float, float]) -> Beam:
    """A static beam of 1 MU with a rectangular field: by the jaws where there are any, by the leaves where not.

    Parameters
    ----------
    machine, model : Machine, BeamModel
        Treatment head and beam.
    field_cm : tuple of 2 floats
        Sides along x and y at the isocentre plane [cm].
    """
    still = np.zeros(2)
    jaws = {axis: np.tile([-0.5 * side, 0.5 * side], (2, 1)) for axis, side in zip("xy", field_cm, strict=True)}
    leaves = boundaries = None
    if machine.jaw_x is None or machine.jaw_y is None:
        along, across = field_cm if machine.mlc.axis == "x" else field_cm[::-1]
        boundaries = machine.mlc.boundaries_cm
        # where jaws make the edges across the leaves, all pairs are open: so are those of commissioning plans
        has_jaw = (machine.jaw_y if machine.mlc.axis == "x" else machine.jaw_x) is not None
        is_open = has_jaw | (np.abs(0.5 * (boundaries[1:] + boundaries[:-1])) < 0.5 * across)
        one = np.where(is_open, 0.5 * along, 0.0)
        leaves = np.tile(np.stack([-one, one]), (2, 1, 1))
    return Beam(
        number=1,
        name="open field",
        machine=machine.name,
        energy=model.energy,
        meterset_mu=1.0,
        cumulative_meterset=np.array([0.0, 1.0]),
        gantry_deg=still,
        collimator_deg=still,
        couch_deg=still,
        isocentre_cm=np.zeros(3),
        jaw_x_cm=None if machine.jaw_x is None else jaws["x"],
        jaw_y_cm=None if machine.jaw_y is None else jaws["y"],
        leaf_boundaries_cm=boundaries,
        leaf_cm=leaves,
        leaf_axis=machine.mlc.axis,
    )


def _frames(plan: Plan, ct: CtImage, structures: StructureSet | None) -> list[str]:
    """Refuse what lies in different frames of reference; warn where a file does not say."""
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
    if missing:
        return [f"No frame of reference in {' and '.join(missing)}: taken to be that of the CT."]
    return []


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


@dataclass(slots=True, eq=False)
class _Clock:
    """Adds up wall time by stage and reports progress within a part of the whole."""

    progress: Progress | None
    low: float = 0.0
    width: float = 1.0
    seconds: dict[str, float] = field(default_factory=dict)

    def part(self, low: float, width: float) -> _Clock:
        """A clock for a part of the work, with the same sums."""
        return _Clock(self.progress, low, width, self.seconds)

    @contextmanager
    def __call__(self, stage: str, done: float) -> Iterator[None]:
        if self.progress is not None:
            self.progress(stage, self.low + self.width * done)
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            self.seconds[stage] = self.seconds.get(stage, 0.0) + spent
            log.debug("%s: %.3f s", stage, spent)

    def within(self, stage: str, low: float, width: float) -> Callable[[float], None] | None:
        """Progress of a stage from inside it."""
        report = self.progress
        if report is None:
            return None
        return lambda share: report(stage, self.low + self.width * (low + width * share))
