"""Stages A to E for beams that share a beam model: from control points to dose, on a scene.

The dose is in the engine's own unit, 1 MU on the open axis x cm^2/g; `calibration` gives it its scale.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from spinedose.backends.base import Backend, Moments, Scene
from spinedose.clock import Clock
from spinedose.cones import ConeTable
from spinedose.directions import Directions, directions
from spinedose.errors import OutOfMemory
from spinedose.exposure import (
    Attenuation,
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
from spinedose.geometry import Matrix
from spinedose.grid import Grid
from spinedose.machine import BeamModel, Machine
from spinedose.nested import Nest
from spinedose.patient import VACUUM, Inner
from spinedose.plan import Beam
from spinedose.segments import segment_beam
from spinedose.settings import Settings

log = logging.getLogger(__name__)

MOST_DIRECTIONS, FEWEST_DIRECTIONS = 1600, 200
DEEPEST_CM = 150.0
"""Attenuation is tabulated to this depth in water. 60 cm of body, 5 of them titanium (3.73), are 74 cm deep."""

HALO_MOMENTS = 3
"""Degree of the angular moments of leakage and head scatter, which are weak and come from all sides of a field."""


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """Beams that are transported together, because they share a beam model and hence a cone table.

    Parameters
    ----------
    machine, model : Machine, BeamModel
        Treatment head and beam.
    beams : tuple of Beam
        Their isocentres are those in the patient as he lies.
    patient_position : str
        HFS, HFP, FFS or FFP.
    turn : ndarray, shape (3, 3), or None
        How the patient is turned on the table (`Setup.turn`).
    """

    machine: Machine
    model: BeamModel
    beams: tuple[Beam, ...]
    patient_position: str = "HFS"
    turn: Matrix | None = None


Kept = TypeVar("Kept")


class Memory:
    """What a calculation leaves for the next of the same plan: fluence maps and tables of beams.

    They are found by all that they depend on, so a memory can never make a dose wrong; the oldest go when it is full.
    One memory may serve several threads. It belongs to one process.

    Parameters
    ----------
    most_bytes : int
        What all fluence maps may take; when one more is kept, the least recently used go first.
    """

    __slots__ = ("_kept", "_lock", "_most_bytes")

    def __init__(self, most_bytes: int = 1 << 30) -> None:
        self._kept: dict[Hashable, tuple[Any, int]] = {}
        self._lock = Lock()
        self._most_bytes = most_bytes

    def recall(self, key: Hashable, make: Callable[[], Kept], size: Callable[[Kept], int]) -> Kept:
        """What is kept under a key, or else what `make` returns, which is kept from now on.

        `size` says how many bytes a thing takes.
        """
        with self._lock:
            if key in self._kept:
                self._kept[key] = self._kept.pop(key)  # the last is the most recently used
                known: Kept = self._kept[key][0]
                return known
        made = make()
        with self._lock:
            self._kept[key] = (made, size(made))
            while len(self._kept) > 1 and sum(taken for _, taken in self._kept.values()) > self._most_bytes:
                del self._kept[next(iter(self._kept))]
        return made

    def __len__(self) -> int:
        return len(self._kept)


def deliver(
    device: Backend,
    scene: Scene,
    inner: Inner | None,
    job: Job,
    settings: Settings,
    clock: Clock,
    warnings: list[str],
    memory: Memory | None = None,
) -> tuple[list[NDArray[np.float32]], int]:
    """Dose of a job in the engine's own unit (1 MU on the open axis x cm^2/g), and the number of directions used.

    One dose, on the scene's grid; with a box of fine voxels a second one, in the box.
    """
    clock = clock.waiting(device.finish)
    with device.context():
        whole = clock if inner is None else clock.part(0.0, 0.4)
        rays = _expose(device, scene, job, settings, whole, memory)
        count = settings.directions or _directions_for(rays.fields)
        spread = directions(count, settings.moments)
        nest = None if inner is None else inner.nest
        lit = _released(device, scene, rays, spread, settings, whole, warnings, nest=nest)
        around = _transported(device, scene, lit.sources, rays.cones, spread, whole)
        if inner is None:
            return [device.to_host(_with_electrons(around, lit.electrons, scene))], count
        dose = around + _transported(device, scene, lit.boxed, rays.cones, spread, clock.part(0.3, 0.2))
        coarse, around = device.to_host(_with_electrons(dose, lit.electrons, scene)), device.to_host(around)
        del lit, rays, dose

        closer = clock.part(0.5, 0.5)
        rays = _expose(device, inner.scene, job, settings, closer, memory, matter=scene.grid)
        lit = _released(device, inner.scene, rays, spread, settings, closer, warnings, outer=inner.outer)
        dose = _transported(device, inner.scene, lit.sources, rays.cones, spread, closer)
        closely = device.to_host(_with_electrons(dose, lit.electrons, inner.scene))
        fine = closely[1:-1, 1:-1, 1:-1] + inner.nest.fine(around)
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
    job: Job,
    settings: Settings,
    clock: Clock,
    memory: Memory | None,
    matter: Grid | None = None,
) -> _Rays:
    """Stage A, and the geometry of stages B and C; `matter` is the grid of all that beams cross, if not the scene's."""
    shots = _shots(device, scene.grid, job, settings, clock, memory)
    with clock("geometry", 0.2):
        table, cones = _tables(job.model, [field.maps.raster for _, field, _ in shots], scene, memory)
        fields: list[Exposure] = []
        halos: list[Exposure] = []
        while shots:
            isocentre_cm, *both = shots.pop(0)
            steps = (settings.group_step_deg, settings.halo_step_deg)
            for part, step, kind in zip(both, steps, (fields, halos), strict=True):
                kind.append(
                    make_exposure(
                        part,
                        grid=scene.grid,
                        patient_position=job.patient_position,
                        turn=job.turn,
                        isocentre_cm=isocentre_cm,
                        sad_cm=job.machine.sad_cm,
                        attenuation=table,
                        group_step_deg=step,
                        matter=matter,
                    )
                )
    return _Rays(fields, halos, cones)


def _shots(
    device: Backend, grid: Grid, job: Job, settings: Settings, clock: Clock, memory: Memory | None
) -> list[tuple[NDArray[np.float64], Shots, Shots]]:
    """Isocentre, field and halo of the beams around each isocentre."""
    shots = []
    around = _by_isocentre(job.beams)
    for i, beams in enumerate(around):
        part = clock.part(0.2 * i / len(around), 0.2 / len(around))
        if memory is None or not job.machine.data_hash:
            both = _fluence(device, grid, job, beams, settings, part)
        else:
            key = (
                "fluence", device.name, device.number, device.device, job.machine.name, job.machine.data_hash,
                job.model.energy, job.model.leaf_offset_cm, job.model.spot, job.patient_position, grid.spacing_cm,
                settings.pixel_on(grid), settings.segment_step_deg, settings.halo_step_deg,
                tuple(_digest(beam) for beam in beams),
            )  # fmt: skip
            make = partial(_fluence, device, grid, job, beams, settings, part)
            both = memory.recall(key, make, _bytes)
        shots.append((beams[0].isocentre_cm, *both))
    return shots


def _fluence(
    device: Backend, grid: Grid, job: Job, beams: Sequence[Beam], settings: Settings, clock: Clock
) -> tuple[Shots, Shots]:
    """Stage A for beams around one isocentre: field and halo.

    Voxels blur the light as they lie when the patient is set up as planned: a turn of him by a few degrees makes no
    difference to that, and so the fluence does not depend on it.
    """
    with clock("fluence", 0.0):
        segments = [segment_beam(beam, max_gantry_step_deg=settings.segment_step_deg) for beam in beams]
        pixel = settings.pixel_on(grid)
        raster = _union([fluence_raster(part, job.machine, job.model, pixel_cm=pixel) for part in segments])
        maps = []
        for some in segments:
            rotations = collimator_rotations(some.gantry_deg, some.collimator_deg, some.couch_deg, job.patient_position)
            maps.append(device.fluence(job.machine, job.model, some, raster, voxel_axes(rotations, grid.spacing_cm)))
    with clock("geometry", 1.0):
        pooled = pool(segments, maps)
        del maps  # hundreds of megabytes for arcs
        return split_halo(pooled, settings.halo_step_deg)


def _bytes(both: tuple[Shots, Shots]) -> int:
    """Memory that the maps of field and halo take."""
    return sum(int(m.photon.nbytes + m.electron.nbytes) for m in (shots.maps for shots in both))


def _digest(beam: Beam) -> str:
    """Hash of all that the fluence of a beam depends on."""
    digest = hashlib.sha256()
    for part in (
        np.array([beam.meterset_mu]), beam.cumulative_meterset, beam.gantry_deg, beam.collimator_deg, beam.couch_deg,
        beam.jaw_x_cm, beam.jaw_y_cm, beam.leaf_boundaries_cm, beam.leaf_cm,
    ):  # fmt: skip
        digest.update(b"none" if part is None else repr(part.shape).encode() + np.ascontiguousarray(part).tobytes())
    digest.update(beam.leaf_axis.encode())
    return digest.hexdigest()


def _tables(
    model: BeamModel, rasters: Sequence[Raster], scene: Scene, memory: Memory | None
) -> tuple[Attenuation, ConeTable]:
    """Attenuation and cones of a beam in the matter of a scene."""
    soft, softest = model.softening, _softest(model, rasters)

    def make() -> tuple[Attenuation, ConeTable]:
        return beam_tables(
            model.spectrum, soft.radius_cm, soft.value, model.electrons.attenuation_per_cm,
            media=scene.media, softest=softest, depth_cm=DEEPEST_CM,
        )  # fmt: skip

    if memory is None:
        return make()
    key = (
        "tables", model.spectrum.energy_MeV.tobytes(), model.spectrum.weight.tobytes(), soft.radius_cm.tobytes(),
        soft.value.tobytes(), model.electrons.attenuation_per_cm, softest,
        tuple(medium.name for medium in scene.media),
    )  # fmt: skip
    return memory.recall(key, make, lambda _: 0)


def transport_exposures(
    device: Backend,
    scene: Scene,
    fields: Sequence[Exposure],
    halos: Sequence[Exposure],
    cones: ConeTable,
    settings: Settings,
    clock: Clock | None = None,
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
    clock = (clock or Clock(None)).waiting(device.finish)
    with device.context():
        rays = _Rays(fields, halos, cones)
        count = settings.directions or _directions_for(fields)
        spread = directions(count, settings.moments)
        lit = _released(device, scene, rays, spread, settings, clock, [] if warnings is None else warnings)
        dose = _transported(device, scene, lit.sources, cones, spread, clock)
        return device.to_host(_with_electrons(dose, lit.electrons, scene)), count


@dataclass(frozen=True, slots=True, eq=False)
class _Lit:
    """Energy released, ready to be carried: in all voxels but those of a box of fine ones, and in those; and the dose
    of contaminating electrons, (nz, ny, nx) on the device."""

    sources: list[Any]
    boxed: list[Any]
    electrons: Any


def _released(
    device: Backend,
    scene: Scene,
    rays: _Rays,
    spread: Directions,
    settings: Settings,
    clock: Clock,
    warnings: list[str],
    *,
    outer: Scene | None = None,
    nest: Nest | None = None,
) -> _Lit:
    """Stages B and C: energy released by the fields and by their halos, in slabs whose moments fit into memory.

    A slab that does not fit all the same, and all that are left, are halved.
    """
    source = _Source(device, scene, rays, spread, settings.moments, outer, nest)
    wide, lit, deepest_cm = source.wide, _Lit([], [], np.zeros_like(scene.density)), 0.0
    low, high = wide[0][0], wide[1][0]
    slabs = cut_into_slabs(source.box, wide, *source.slice_bytes, device.most_moments_bytes)
    while slabs:
        first, end = slabs[0]
        part = clock.part(0.2 + 0.3 * (first - low) / (high - low), 0.3 * (end - first) / (high - low))
        try:
            with device.context():
                slab = source.slab(first, end, part)
        except OutOfMemory:
            if end - first == 1:
                raise
            slabs = _halved(slabs)
            log.warning(
                "GPU memory is short: going on with slabs of %d slices instead of %d", slabs[0][1] - first, end - first
            )
            continue
        lit.sources.append(slab.source)
        lit.boxed.extend(slab.boxed)
        np.add(lit.electrons, slab.electrons, out=lit.electrons)
        deepest_cm = max(deepest_cm, slab.deepest_cm)
        del slabs[0], slab
    if deepest_cm > DEEPEST_CM:
        warnings.append(
            f"A field passes up to {deepest_cm:.0f} cm of water-equivalent matter, but attenuation is known to"
            f" {DEEPEST_CM:g} cm: the dose deeper down is too high. Check the density overrides."
        )
    return lit


Box = tuple[tuple[int, int, int], tuple[int, int, int]]


@dataclass(frozen=True, slots=True, eq=False)
class _Slab:
    """What is released in some slices: settled, for the whole grid and for a box of fine voxels (or none); dose of
    electrons (nz, ny, nx) on the device; greatest water-equivalent depth [cm]."""

    source: Any
    boxed: list[Any]
    electrons: Any
    deepest_cm: float


class _Source:
    """Releases the energy of fields and halos in any slices of a scene.

    Parameters
    ----------
    device, scene, rays, spread : Backend, Scene, _Rays, Directions
        Where, in what, from which beams, and for transport along which directions.
    moments : int
        Degree of the fields' angular moments.
    outer : Scene or None
        Matter around the scene that beams cross before they come to it.
    nest : Nest or None
        Box of fine voxels whose share is kept apart.
    """

    def __init__(
        self,
        device: Backend,
        scene: Scene,
        rays: _Rays,
        spread: Directions,
        moments: int,
        outer: Scene | None,
        nest: Nest | None,
    ) -> None:
        self.device, self.scene, self.rays, self.spread = device, scene, rays, spread
        self.moments, self.few, self.parts = moments, min(HALO_MOMENTS, moments), len(rays.cones.energy)
        self.outer, self.nest = outer, nest
        self.wide = _reach(scene.grid, [*rays.fields, *rays.halos], (0, 0, 0))
        low, high = _reach(scene.grid, rays.fields, self.wide[0])
        self.box: Box = (*low[:2], self.wide[0][2]), (*high[:2], self.wide[1][2])  # rows equally long: no copy

    @property
    def slice_bytes(self) -> tuple[int, int]:
        """Memory that the moments of a slice of the field's box and of the halo's take."""
        return _slice_bytes(self.box, self.moments, self.parts), _slice_bytes(self.wide, self.few, self.parts)

    def slab(self, first: int, end: int, clock: Clock) -> _Slab:
        """What is released in the slices `first` up to but not including `end`."""
        device, scene, rays, nest = self.device, self.scene, self.rays, self.nest
        a, b = max(first, self.box[0][0]), min(end, self.box[1][0])
        field, boxed, deepest_cm = None, [], 0.0
        if a < b:
            field = device.new_moments(scene, (a, *self.box[0][1:]), (b, *self.box[1][1:]), self.moments, self.parts)
            deepest_cm = _release(device, scene, rays.fields, field, clock, (0.0, 0.6), self.outer)
        halo = device.new_moments(scene, (first, *self.wide[0][1:]), (end, *self.wide[1][1:]), self.few, self.parts)
        _release(device, scene, rays.halos, halo, clock, (0.6, 0.4), self.outer)
        electrons = halo.electron_dose if field is None else halo.electron_dose + field.electron_dose
        with clock("transport", 1.0):
            if nest is not None and _meet(nest, halo):
                own = nest.take_out(field) if field is not None and _meet(nest, field) else None
                boxed.append(device.settle(own, nest.take_out(halo), rays.cones, self.spread))
            return _Slab(device.settle(field, halo, rays.cones, self.spread), boxed, electrons, deepest_cm)


def _slice_bytes(box: Box, order: int, parts: int) -> int:
    """Memory that the moments of one slice (z) of a box take."""
    (_, y0, x0), (_, y1, x1) = box
    return 4 * parts * (order + 1) ** 2 * (y1 - y0) * (x1 - x0)


def cut_into_slabs(box: Box, wide: Box, field_bytes: int, halo_bytes: int, most_bytes: int) -> list[tuple[int, int]]:
    """Cut boxes into slabs along z whose moments fit into memory; a single slice always counts as fitting.

    Parameters
    ----------
    box, wide : Box
        Box of the field, and that of the halo around it.
    field_bytes, halo_bytes : int
        What a slice of each takes.
    most_bytes : int
        What a slab may take.

    Returns
    -------
    list of tuple of 2 ints
        First slice of each slab, and the one after its last.
    """
    slabs, taken = [[wide[0][0], wide[0][0]]], 0
    for z in range(wide[0][0], wide[1][0]):
        more = halo_bytes + (field_bytes if box[0][0] <= z < box[1][0] else 0)
        if slabs[-1][0] < z and taken + more > most_bytes:
            slabs.append([z, z])
            taken = 0
        slabs[-1][1], taken = z + 1, taken + more
    return [(first, end) for first, end in slabs]


def _halved(slabs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Every slab cut in two, but those of a single slice."""
    halves = []
    for first, end in slabs:
        middle = (first + end + 1) // 2
        halves += [(first, middle)] + ([(middle, end)] if middle < end else [])
    return halves


def _meet(nest: Nest, moments: Moments) -> bool:
    """Whether moments lie in the box of fine voxels."""
    shape = (*moments.values.shape[:2], moments.values.shape[3])
    low, high = np.maximum(nest.low, moments.low), np.minimum(nest.high, np.add(moments.low, shape))
    return bool(np.all(low < high))


def _transported(
    device: Backend, scene: Scene, sources: list[Any], cones: ConeTable, spread: Directions, clock: Clock
) -> Any:
    """Stages D and E: dose without contaminating electrons, on the device. Uses the sources up."""
    if not sources:
        return np.zeros_like(scene.density)
    with clock("transport", 0.5):
        energy = device.carry(scene, sources, cones, spread, clock.within("transport", 0.5, 0.5))
        return _per_mass(energy, scene)


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
    clock: Clock,
    share: tuple[float, float],
    outer: Scene | None,
) -> float:
    """Stages B and C, in blocks of groups that fit into memory; returns the greatest water-equivalent depth [cm].

    `share` is where this begins within the clock's part, and how long it is; `outer` is matter around the scene that
    beams cross before they come to it.
    """
    groups = max(sum(len(exposure) for exposure in exposures), 1)
    done, deepest_cm = 0, 0.0
    for exposure in exposures:
        a, block = 0, max(1, device.fan_budget_bytes // exposure.fans.bytes_per_fan)
        while a < len(exposure):
            b = min(a + block, len(exposure))
            with clock("depth", share[0] + share[1] * done / groups):
                try:
                    depth, deepest = _depths(device, scene, exposure, (a, b), outer)
                except OutOfMemory:
                    if b - a == 1:
                        raise
                    block = (b - a + 1) // 2
                    log.warning("GPU memory is short: going on with %d fans at a time instead of %d", block, b - a)
                    continue
            deepest_cm = max(deepest_cm, deepest)
            with clock("terma", share[0] + share[1] * done / groups):
                device.release(scene, exposure, depth, (a, b), moments)
            del depth  # before the next are made
            done += b - a
            a = b
    return deepest_cm


def _depths(
    device: Backend, scene: Scene, exposure: Exposure, groups: tuple[int, int], outer: Scene | None
) -> tuple[Any, float]:
    """Water-equivalent depths of some groups, (g, nv, nu, nz), and the greatest [cm]; see `_release`."""
    with device.context():
        fans, factor = exposure.fans.part(*groups), exposure.attenuation.path_factor
        depth = device.radiological_depth(scene, fans, factor)
        if outer is not None and exposure.approach is not None:
            before = device.radiological_depth(outer, exposure.approach.part(*groups), factor)
            depth += device.radiological_depth(outer, fans, factor)
            depth += before[..., -1:]
        return depth, float(depth[..., -1].max())  # it rises along each ray


def _per_mass(energy: Any, scene: Scene) -> Any:
    """Energy per voxel volume to dose: a water-like medium of electron density rho has rho g/cm^3."""
    density = scene.density
    return np.where(density > VACUUM, energy / np.maximum(density, np.float32(VACUUM)), np.float32(0.0))


def _with_electrons(dose: Any, electrons: Any, scene: Scene) -> Any:
    """Add the dose of contaminating electrons where there is matter."""
    return dose + np.where(scene.density > VACUUM, electrons, np.float32(0.0))


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
