"""Differences of dose seen along the rays of a beam: what apertures and single leaf tips do, fast and roughly.

A field is taken for its open area, blurred, weakened with depth and with the square of the distance; nothing scatters.
That is good enough to see *where* a dose changes when a leaf, a collimator or a gantry moves, and costs tenths of a
second. What is found with it is computed by the engine before anything is said (`spinedose.check.variants`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spinedose.check.patterns import ABOVE
from spinedose.density import CtImage
from spinedose.errors import InvalidInput
from spinedose.geometry import collimator_from_gantry, gantry_from_patient
from spinedose.grid import Volume
from spinedose.plan import Beam

Array = NDArray[np.float64]
Sparse = NDArray[np.float32]
Indices = NDArray[np.intp]

CUBE_CM, MOST_CUBES = 0.4, 15_000
"""Differences are averaged over cubes of this side [cm], larger ones where there would be more than so many."""

MU_PER_CM = 0.0494
"""Attenuation of the rays [1/cm]: that of water at 2 MeV, near the mean energy of 6 MV (NIST XCOM: 0.04942 cm2/g)."""

BLUR_CM = 0.2
"""Standard deviation of a field's edge [cm]: with it the pencil of a moved leaf has the shape of the computed one (94 %
of its mean square on the demo case, 6FFF; 86 % with 0.3 cm across the leaf)."""

SAD_CM = 100.0
"""Distance of the source where nothing else is known; the few millimetres of other machines do not matter here."""

TURN_DEG = 3.0
"""Control points that differ by less in all angles share their rays [degrees]."""

BLOCKS = 20
"""Pieces of a beam, equal in control points: windows of movement begin and end at their borders."""

RASTER_CM, HALF_CM = 0.05, 22.0
"""Step and half width of tabulated edges along the leaves [cm]."""


@dataclass(frozen=True, slots=True, eq=False)
class Cubes:
    """Both doses, averaged over small cubes of the planned grid where its dose is above `ABOVE` of the maximum.

    Parameters
    ----------
    points_cm : ndarray, shape (n, 3)
        Mean position of the voxels in each cube [cm].
    planned_gy, apart_gy : ndarray, shape (n,)
        Planned dose, and planned minus recalculated dose [Gy].
    slope_gy_per_cm : ndarray, shape (n, 3)
        Gradient of the recalculated dose.
    filled : ndarray, shape (n,)
        Share of the cube's voxels that count, up to 1.
    side_cm : float
        Mean side of the cubes [cm].
    """

    points_cm: Array
    planned_gy: Array
    apart_gy: Array
    slope_gy_per_cm: Array
    filled: Array
    side_cm: float

    def __post_init__(self) -> None:
        n = len(self.points_cm)
        if n == 0 or self.points_cm.shape != (n, 3) or self.slope_gy_per_cm.shape != (n, 3):
            raise InvalidInput("There is no dose to look at", "no voxel is above a fifth of the maximum")


def gather_cubes(planned: Volume, recalculated: Volume) -> Cubes:
    """Average both doses over cubes.

    Parameters
    ----------
    planned, recalculated : Volume
        Doses [Gy].
    """
    values = planned.values
    index = np.argwhere(values >= ABOVE * values.max())
    spacing = np.array(planned.grid.spacing_cm)[::-1]
    size = np.maximum(1, np.rint(CUBE_CM / spacing)).astype(np.intp)
    while True:
        cube = index // size
        key, inverse, count = np.unique(
            np.ravel_multi_index(tuple(cube.T), tuple(cube.max(axis=0) + 1)), return_inverse=True, return_counts=True
        )
        if len(key) <= MOST_CUBES:
            break
        size = size + (size * spacing <= (size * spacing).min() + 1e-9)
    points = index[:, ::-1] * np.array(planned.grid.spacing_cm) + planned.grid.origin_cm
    theirs = values[tuple(index.T)].astype(np.float64)
    apart = theirs - recalculated.sample(points, outside=0.0)

    def mean(of: Array) -> Array:
        return np.asarray(np.bincount(inverse, of) / count)

    centres = np.stack([mean(points[:, axis]) for axis in range(3)], axis=1)
    slopes = []
    for axis in range(3):
        move = np.zeros(3)
        move[axis] = CUBE_CM / 4
        up, down = (recalculated.sample(centres + sign * move, outside=0.0) for sign in (1, -1))
        slopes.append((up - down) / (CUBE_CM / 2))
    side_cm = float((size * spacing).mean())
    return Cubes(centres, mean(theirs), mean(apart), np.stack(slopes, axis=1), count / np.prod(size), side_cm)


@dataclass(frozen=True, slots=True, eq=False)
class _View:
    """Cubes as seen along the rays of some intervals between control points that have nearly the same angles.

    Parameters
    ----------
    intervals : ndarray, shape (m,)
        Intervals between control points.
    meterset : ndarray, shape (m,)
        Their meterset [MU].
    block : int
        Piece of the beam that they belong to.
    at : ndarray of int, shape (n,)
        Place of each cube along the leaves, in steps of the raster.
    parts : tuple of (pair, cube, weight)
        Which leaf pairs irradiate which cubes, and how much of an open field reaches them there.
    """

    intervals: Indices
    meterset: Array
    block: int
    at: Indices
    parts: tuple[tuple[Indices, Indices, Sparse], ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Edges:
    """Collimator edges in the middle of each interval: tips (m, 2, p) within the jaws, sides of pairs (m, p) [cm]."""

    tips: Array
    is_shaded: NDArray[np.bool_]
    low: Array
    high: Array
    boundaries: Array


def _edges(beam: Beam) -> _Edges:
    def middle(values: Array) -> Array:
        return np.asarray((values[1:] + values[:-1]) / 2)

    along, across = (beam.jaw_x_cm, beam.jaw_y_cm) if beam.leaf_axis == "x" else (beam.jaw_y_cm, beam.jaw_x_cm)
    n = len(beam.gantry_deg) - 1
    if beam.leaf_cm is not None and beam.leaf_boundaries_cm is not None:
        tips, boundaries = middle(beam.leaf_cm), beam.leaf_boundaries_cm
    else:  # one wide pair
        edge = HALF_CM - 2
        tips = np.tile(np.array([[-edge], [edge]]), (n, 1, 1))
        boundaries = np.array([-edge, edge])
    shaded = np.zeros(tips.shape, np.bool_)
    low, high = (np.tile(part, (n, 1)) for part in (boundaries[:-1], boundaries[1:]))
    if along is not None:
        jaw = middle(along)
        clipped = np.clip(tips, jaw[:, :1, None], jaw[:, 1:, None])
        shaded |= clipped != tips
        tips = clipped
    if across is not None:
        jaw = middle(across)
        low, high = np.clip(low, jaw[:, :1], jaw[:, 1:]), np.clip(high, jaw[:, :1], jaw[:, 1:])
        shaded |= (high - low < 0.02)[:, None, :]
    return _Edges(tips, shaded, low, high, boundaries)


def blocks_of(beam: Beam) -> tuple[Indices, Indices]:
    """Intervals between control points that deliver meterset (m,), and the piece of the beam that each is in (m,)."""
    used = np.flatnonzero(np.diff(beam.cumulative_meterset) > 0)
    pieces = min(BLOCKS, len(used))
    return used, (np.arange(len(used)) * pieces) // max(len(used), 1)


def _views(beam: Beam, edges: _Edges, cubes: Cubes, ct: CtImage, patient_position: str) -> Iterator[_View]:
    from scipy.special import ndtr

    used, block = blocks_of(beam)
    share = np.diff(beam.cumulative_meterset) * beam.meterset_mu
    angles = np.stack([beam.gantry_deg, beam.collimator_deg, beam.couch_deg], axis=1)
    angles = (angles[1:] + angles[:-1]) / 2
    relative = cubes.points_cm - beam.isocentre_cm
    sigma = float(np.hypot(BLUR_CM, cubes.side_cm / np.sqrt(12)))
    pairs = len(edges.boundaries) - 1
    reach = int(np.ceil(1.5 * sigma / np.diff(edges.boundaries).min()))
    first = 0
    while first < len(used):
        last = first
        while (
            last + 1 < len(used)
            and block[last + 1] == block[first]
            and np.abs(angles[used[last + 1]] - angles[used[first]]).max() <= TURN_DEG
        ):
            last += 1
        which = used[first : last + 1]
        meterset = share[which]
        gantry, collimator, couch = np.average(angles[which], axis=0, weights=meterset)
        turn = collimator_from_gantry(float(collimator)) @ gantry_from_patient(
            patient_position, float(couch), float(gantry)
        )
        seen = relative @ turn.T
        larger = SAD_CM / (SAD_CM - seen[:, 2])
        x, y = seen[:, 0] * larger, seen[:, 1] * larger
        if beam.leaf_axis == "y":
            x, y = y, x
        deep = _depth_cm(ct, beam.isocentre_cm, turn[2]) - seen[:, 2]
        strength = larger**2 * np.exp(-MU_PER_CM * deep)
        low, high = (np.average(side[which], axis=0, weights=meterset) for side in (edges.low, edges.high))
        own = np.searchsorted(edges.boundaries, y) - 1
        parts = []
        for step in range(-reach, reach + 1):
            pair = own + step
            cube = np.flatnonzero((pair >= 0) & (pair < pairs))
            pair, where = pair[cube], y[cube]
            weight = strength[cube] * (ndtr((high[pair] - where) / sigma) - ndtr((low[pair] - where) / sigma))
            parts.append((pair, cube, weight.astype(np.float32)))
        at = np.clip(np.rint((x + HALF_CM) / RASTER_CM), 0, round(2 * HALF_CM / RASTER_CM)).astype(np.intp)
        yield _View(which, meterset, int(block[first]), at, tuple(parts))
        first = last + 1


def _depth_cm(ct: CtImage, isocentre_cm: Array, towards: Array) -> float:
    """Water-equivalent depth of the isocentre along the central ray [cm], CT numbers taken for densities."""
    step = 0.25
    points = isocentre_cm + np.arange(0.0, 60.0, step)[:, None] * towards
    density = np.clip(1 + ct.hu.sample(points, outside=-1000.0) / 1000, 0.0, 2.0)
    return float(density.sum() * step)


def open_dose(beam: Beam, cubes: Cubes, ct: CtImage, patient_position: str) -> Array:
    """Rough dose of a beam in the cubes (n,), in a unit of its own.

    Parameters
    ----------
    beam : Beam
        The beam.
    cubes : Cubes
        Where.
    ct : CtImage
        For the depth of the isocentre.
    patient_position : str
        HFS, HFP, FFS or FFP.
    """
    from scipy.special import ndtr

    edges = _edges(beam)
    raster = np.arange(-HALF_CM, HALF_CM + RASTER_CM / 2, RASTER_CM)
    sigma = float(np.hypot(BLUR_CM, cubes.side_cm / np.sqrt(12)))
    step = ndtr(np.arange(-4 * sigma, 4 * sigma + RASTER_CM / 2, RASTER_CM) / sigma)
    half = len(step) // 2
    dose = np.zeros(len(cubes.points_cm))
    for view in _views(beam, edges, cubes, ct, patient_position):
        shape = (len(edges.boundaries) - 1, len(raster) + 1)
        change = np.zeros(shape)
        rows = np.arange(shape[0])
        for interval, meterset in zip(view.intervals, view.meterset, strict=True):
            low, high = edges.tips[interval]
            for tip, sign in ((low, 1.0), (np.maximum(low, high), -1.0)):
                place = np.clip(np.rint((tip + HALF_CM) / RASTER_CM), 0, shape[1] - 1).astype(np.intp)
                change[rows, place] += sign * meterset
        pulse = np.diff(step, prepend=0.0)
        blurred = np.zeros((shape[0], len(raster)))
        for row in np.flatnonzero(change.any(axis=1)):  # closed pairs cancel
            blurred[row] = np.convolve(np.cumsum(change[row]), pulse)[half : half + len(raster)]
        for pair, cube, weight in view.parts:
            dose[cube] += weight * blurred[pair, view.at[cube]]
    return dose


def tip_effects(beam: Beam, cubes: Cubes, ct: CtImage, patient_position: str) -> Sparse:
    """What every leaf tip does to the dose in the cubes when it moves out: (2, pairs, blocks, n), float32.

    Per centimetre, in the unit of `open_dose`, for a bank, a pair and a piece of the beam. Tips under jaws do nothing.

    Parameters
    ----------
    beam : Beam
        A beam with leaves.
    cubes, ct, patient_position
        As in `open_dose`.
    """
    edges = _edges(beam)
    pairs, (_, block) = len(edges.boundaries) - 1, blocks_of(beam)
    # a movement of half a centimetre is as wide as this, and a cube blurs, too
    sigma = float(np.sqrt(BLUR_CM**2 + cubes.side_cm**2 / 12 + 0.5**2 / 12))
    half = int(np.ceil(3 * sigma / RASTER_CM))
    width = round(2 * HALF_CM / RASTER_CM) + 1
    offsets = np.arange(-half, half + 1)
    effects = np.zeros((2, pairs, int(block.max(initial=0)) + 1, len(cubes.points_cm)), np.float32)
    for view in _views(beam, edges, cubes, ct, patient_position):
        table = np.zeros((2, pairs, width), np.float32)
        for interval, meterset in zip(view.intervals, view.meterset, strict=True):
            for bank, pair in np.argwhere(~edges.is_shaded[interval]):
                tip = edges.tips[interval, bank, pair] + HALF_CM
                centre = round(tip / RASTER_CM)
                if half <= centre < width - half:
                    away = (centre + offsets) * RASTER_CM - tip
                    here = slice(centre - half, centre + half + 1)
                    table[bank, pair, here] += meterset * np.exp(-0.5 * (away / sigma) ** 2)
        table /= np.float32(sigma * np.sqrt(2 * np.pi))
        for pair, cube, weight in view.parts:
            for bank in (0, 1):
                effects[bank, pair, view.block, cube] += weight * table[bank, pair, view.at[cube]]
    return effects
