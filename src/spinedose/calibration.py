"""What the engine makes of a machine's reference field: the scale of all doses."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace

import numpy as np

from spinedose import _cache
from spinedose._version import __version__
from spinedose.backends.base import Backend
from spinedose.backends.select import select_backend
from spinedose.clock import Clock
from spinedose.grid import Grid, Volume
from spinedose.machine import BeamModel, Machine
from spinedose.plan import Beam
from spinedose.settings import Settings
from spinedose.stages import Job, deliver

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
    plain = Settings()  # steps between angles are nothing to a static field
    own = replace(
        settings,
        directions=REFERENCE_DIRECTIONS,
        segment_step_deg=plain.segment_step_deg,
        group_step_deg=plain.group_step_deg,
        halo_step_deg=plain.halo_step_deg,
        curve="",
        dose_to="water",
    )
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


_ENGINE_REVISION = 5
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
    job = Job(machine, model, (open_field_beam(machine, model, field_cm),))
    (raw,), _ = deliver(device, scene, None, job, settings or Settings(), Clock(None), [])
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
