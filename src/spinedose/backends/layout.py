"""What backends share: the matrix of stage D and its compression, ray lattices, and the structs of the CUDA kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from spinedose.cones import ConeTable, RadialBasis
from spinedose.directions import Directions
from spinedose.exposure import Fans
from spinedose.grid import Grid

Array = NDArray[np.float64]

FIELD_TOLERANCE, HALO_TOLERANCE = 1e-3, 1e-2
"""Root-mean-square error of the sources, relative to themselves, that leaving out combinations of moments may cause."""


def source_matrix(cones: ConeTable, directions: Directions, order: int) -> Array:
    """Matrix (M, K, S (order + 1)^2) that turns moments into directional sources (transport.md, equation 4)."""
    degree = np.repeat(np.arange(order + 1), 2 * np.arange(order + 1) + 1)
    legendre = cones.legendre(order)[:, :, degree]
    basis = directions.basis()[:, : len(degree)]
    return np.concatenate([basis[:, None, :] * legendre[h][None] for h in range(len(legendre))], axis=2)


def compress(matrix: Array, covariance: Array, tolerance: float) -> tuple[Array, Array]:
    """Find the few combinations of moments that matter for a plan (transport.md, equation 9).

    Beams of one plan come from few directions - an arc lies in a plane -, so their moments are far from independent.

    Parameters
    ----------
    matrix : ndarray, shape (M, K, R)
        From `source_matrix`.
    covariance : ndarray, shape (R, R)
        Sum over voxels of moment times moment.
    tolerance : float
        Relative root-mean-square error of the sources allowed.

    Returns
    -------
    combine : ndarray, shape (r, R)
        Takes moments to combinations.
    reduced : ndarray, shape (M, K, r)
        Takes combinations to sources.
    """
    flat = matrix.reshape(-1, matrix.shape[2])
    gram = flat.T @ flat
    value, vector = np.linalg.eigh(gram)
    keep = value > value[-1] * 1e-12
    root, vector = np.sqrt(value[keep]), vector[:, keep]
    half = root[:, None] * vector.T  # half.T @ half = gram
    inverse = vector / root
    power, direction = np.linalg.eigh(half @ covariance @ half.T)
    power = np.maximum(power, 0.0)
    lost = np.cumsum(power)
    rank = len(power) - int(np.searchsorted(lost, tolerance**2 * lost[-1])) if lost[-1] > 0 else 1
    chosen = direction[:, -rank:]
    reduced = (flat @ (inverse @ chosen)).reshape(*matrix.shape[:2], rank)
    return chosen.T @ half, reduced


# Structs of kernels/*.cu, field by field; they travel by value, or as arrays.

MOST_CHAINS = 4
"""Chains that the sweep has registers for."""

MOST_DEGREE = 12
"""Highest degree of the moments that the kernel has registers for."""

SHAPE = np.dtype([("n0", "i4"), ("n1", "i4"), ("n2", "i4")])
BOX = np.dtype([("low0", "i4"), ("low1", "i4"), ("low2", "i4"), *SHAPE.descr])
AFFINE = np.dtype([("at0", "f4", 3), ("per_x", "f4", 3), ("per_y", "f4", 3), ("per_z", "f4", 3)])
LEAVES = np.dtype(
    [(name, "f8") for name in ("ray_step", "edge", "pixel")]
    + [(name, "i4") for name in ("pairs", "low", "count", "pixels", "rays", "points")]
)
MAP = np.dtype(
    [(name, "i4") for name in ("ny", "nx", "is_across_y", "pairs", "low", "count")]
    + [(name, "i4") for name in ("cells_y", "cells_x", "nodes_y", "nodes_x")]
    + [(name, "f4") for name in ("step", "x0", "y0", "pixel")]
)
FAN = np.dtype([(name, "f4", 3) for name in ("first", "first_u", "first_v", "step", "step_u", "step_v")])
RAYS = np.dtype(
    [(name, "i4") for name in ("nu", "nv", "planes")] + [(name, "f4") for name in ("u", "v", "pitch", "sad", "step")]
)
PIXELS = np.dtype([("nx", "i4"), ("ny", "i4"), ("x", "f4"), ("y", "f4"), ("per_cm", "f4")])
RELEASE = np.dtype(
    [("grid", SHAPE), ("box", BOX), ("groups", "i4"), ("parts", "i4"), ("has_electrons", "i4")]
    + [(name, "f4") for name in ("sad", "u_low", "u_high", "v_low", "v_high")]
    + [("photon", PIXELS), ("electron", PIXELS), ("nu", "i4"), ("nv", "i4"), ("planes", "i4")]
    + [(name, "f4") for name in ("fan_u", "fan_v", "per_pitch", "per_step")]
    + [(name, "i4") for name in ("softs", "depths", "radii")]
    + [(name, "f4") for name in ("per_depth", "per_radius", "electron_decay")]
)
HARMONICS = np.dtype(
    [("grid", SHAPE), ("box", BOX)]
    + [(name, "i4") for name in ("order", "parts", "all_parts", "groups", "degrees")]
    + [("spacing", "f4", 3)]
)
CHAINS = np.dtype([("count", "i4"), ("size", "i4"), ("stages", "i4", MOST_CHAINS), ("rate", "f4", MOST_CHAINS)])
WAY = np.dtype(
    [(name, "f4") for name in ("slope_row", "slope_column", "offset_row", "offset_column", "step")]
    + [("axis", "i4"), ("is_backwards", "i4")]
)
HOME = np.dtype([("cell", "i4"), ("at", "f4")])
NEIGHBOUR = np.dtype([(name, "i4") for name in "xyz"] + [("reach", "f4")])
SEARCH = np.dtype(
    [("grid", SHAPE), ("cells", SHAPE), ("points", "i4"), ("neighbours", "i4"), ("side", "f4", 3)]
    + [(name, "f4") for name in ("fixed", "share", "largest", "accuracy")]
)


Struct = NDArray[np.void]
"""One struct that travels by value: an array without axes. A numpy scalar would not do: CuPy 14 copies scalars into 32
bytes, whatever their size (`CScalar`), but passes on where an array of one element lies."""


def struct(kind: np.dtype[np.void], **values: Any) -> Struct:
    """A struct that a kernel takes by value; every field has to be named."""
    assert kind.names is not None and set(values) == set(kind.names)
    one = np.zeros((), kind)
    for name, value in values.items():
        one[name] = value
    return one


def shape_struct(shape: tuple[int, ...]) -> Struct:
    """Number of voxels along each axis, the slowest first."""
    n0, n1, n2 = shape
    return struct(SHAPE, n0=n0, n1=n1, n2=n2)


def box_struct(low: tuple[int, ...], shape: tuple[int, ...]) -> Struct:
    """First voxel and number of voxels along each axis."""
    return struct(BOX, **dict(zip(BOX.names or (), (*low, *shape), strict=True)))


def voxel_to_gantry(grid: Grid, isocentre_cm: Array, rotation: Array) -> NDArray[np.void]:
    """Maps from voxel numbers to a system about the isocentre [cm], AFFINE (n,), rounded once from double precision.

    Parameters
    ----------
    grid : Grid
        Voxels.
    isocentre_cm : ndarray, shape (3,)
        Isocentre [cm].
    rotation : ndarray, shape (n, 3, 3)
        From the patient.
    """
    maps = np.zeros(len(rotation), AFFINE)
    maps["at0"] = rotation @ (np.asarray(grid.origin_cm) - isocentre_cm)
    for axis, name in enumerate(("per_x", "per_y", "per_z")):
        maps[name] = rotation[:, :, axis] * grid.spacing_cm[axis]
    return maps


def voxel_to_map(grid: Grid, isocentre_cm: Array, rotation: Array, sad_cm: float) -> NDArray[np.void]:
    """Maps from voxel numbers to collimator x, y [cm] and the share 1 - z/SAD, AFFINE (n,); as `voxel_to_gantry`."""
    maps = voxel_to_gantry(grid, isocentre_cm, rotation * np.array([1.0, 1.0, -1.0 / sad_cm])[:, None])
    maps["at0"][:, 2] += 1.0
    return maps


def fan_structs(grid: Grid, fans: Fans) -> NDArray[np.void]:
    """Rays of fans in voxel numbers, FAN (g,): linear in the ray's numbers and in the step's."""
    turn = fans.rotation / np.asarray(grid.spacing_cm)  # gantry axis to voxel numbers (x, y, z)
    start = fans.top_cm - 0.5 * fans.step_cm
    scale = (1.0 - start / fans.sad_cm)[:, None]
    step = fans.step_cm / fans.sad_cm
    structs = np.zeros(len(turn), FAN)
    beside = fans.u_cm * turn[:, 0] + fans.v_cm * turn[:, 1]
    centre = (fans.isocentre_cm - np.asarray(grid.origin_cm)) / np.asarray(grid.spacing_cm)
    structs["first"] = beside * scale + turn[:, 2] * start[:, None] + centre
    structs["first_u"], structs["first_v"] = (fans.pitch_cm * turn[:, axis] * scale for axis in (0, 1))
    structs["step"] = beside * step - fans.step_cm * turn[:, 2]
    structs["step_u"], structs["step_v"] = (fans.pitch_cm * turn[:, axis] * step for axis in (0, 1))
    return structs


def chains_struct(basis: RadialBasis) -> Struct:
    """Chains of a cone table."""
    pad = (0,) * (MOST_CHAINS - len(basis.stages))
    return struct(
        CHAINS,
        count=len(basis.stages),
        size=basis.size,
        stages=basis.stages + pad,
        rate=basis.rate_per_cm + pad,
    )


def way_structs(directions: Directions, grid: Grid, chosen: NDArray[np.intp], is_turned: bool) -> NDArray[np.void]:
    """Ray lattices of some directions, WAY (n,), in an array (z, y, x), or (z, x, y) when turned (transport.md, 4)."""
    order = [2, 0, 1] if is_turned else [2, 1, 0]
    spacing, vector = np.array(grid.spacing_cm)[order], directions.vector[chosen][:, order]
    steps = vector / spacing
    axis = np.argmax(np.abs(steps[:, :2]), axis=1)
    if is_turned:
        axis[:] = 1
    at = np.arange(len(chosen))
    forward = np.abs(steps[at, axis])
    ways = np.zeros(len(chosen), WAY)
    ways["slope_row"], ways["slope_column"] = steps[at, 1 - axis] / forward, steps[:, 2] / forward
    ways["offset_row"], ways["offset_column"] = directions.offset[chosen].T
    ways["step"] = spacing[axis] / np.abs(vector[at, axis])
    ways["axis"], ways["is_backwards"] = axis, vector[at, axis] < 0
    return ways


def recursion_factors(order: int) -> NDArray[np.float32]:
    """Factors of the recursion of harmonics for order m and step k, (L + 1, L + 1, 2): see `add_moments`."""
    m, k = np.meshgrid(np.arange(order + 1), np.maximum(np.arange(order + 1), 1), indexing="ij")
    degree = m + k
    return np.stack([(2 * degree - 1) / k, (degree + m - 1) / k], axis=-1).astype(np.float32)
