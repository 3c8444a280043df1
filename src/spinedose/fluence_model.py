"""The model of the treatment head: what the fluence stage of every backend computes, without its loops over pixels.

The equations are in `docs/theory/fluence.md`; the numbers (1), (2) ... below refer to it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spinedose.machine import BeamModel, ExtraFocal, Jaw, Machine
from spinedose.segments import Segments

Array = NDArray[np.float64]
Maps = NDArray[np.float32]

TIP_POINTS = 256
"""Points of the tabulated leaf tip; its running integrals are then good to 1e-5 cm."""

RAY_STEP_CM = 0.25
"""Distance between the rays that the leaf tip is tabulated for; a ray takes the nearest."""

SOLID, HALF, UPPER, LOWER = 0, 3, 6, 7
"""Columns of the tabulated leaf tip, see `LeafTip`."""

LARGEST_MARGIN_CM = 12.0
"""Extra-focal fluence further than this beyond the jaws is left out."""

SEGMENTS_LOOKED_AT = 24
"""Segments of a beam that the size of its raster is judged by."""


@dataclass(frozen=True, slots=True)
class Raster:
    """Square pixels on the isocentre plane, parallel to the axes of the collimator system.

    Parameters
    ----------
    x_cm, y_cm : float
        Centre of the first pixel [cm].
    pixel_cm : float
        Side of a pixel [cm].
    nx, ny : int
        Number of pixels along x and y.
    """

    x_cm: float
    y_cm: float
    pixel_cm: float
    nx: int
    ny: int

    def __post_init__(self) -> None:
        assert self.pixel_cm > 0 and self.nx > 0 and self.ny > 0

    @property
    def xs_cm(self) -> Array:
        """Pixel centres along x (nx,) [cm]."""
        return self.x_cm + self.pixel_cm * np.arange(self.nx, dtype=np.float64)

    @property
    def ys_cm(self) -> Array:
        """Pixel centres along y (ny,) [cm]."""
        return self.y_cm + self.pixel_cm * np.arange(self.ny, dtype=np.float64)

    @classmethod
    def covering(cls, x_cm: tuple[float, float], y_cm: tuple[float, float], pixel_cm: float) -> Raster:
        """The raster whose pixel centres are whole multiples of the pixel and cover two intervals [cm]."""
        low = [math.floor(v[0] / pixel_cm + 1e-6) for v in (x_cm, y_cm)]
        high = [math.ceil(v[1] / pixel_cm - 1e-6) for v in (x_cm, y_cm)]
        return cls(low[0] * pixel_cm, low[1] * pixel_cm, pixel_cm, high[0] - low[0] + 1, high[1] - low[1] + 1)


@dataclass(frozen=True, slots=True, eq=False)
class FluenceMaps:
    """What leaves the treatment head in each of `n` segments, on the isocentre plane in the collimator system.

    One unit of `photon` is the primary energy fluence that 1 MU makes on the axis of a fully open field; a large field
    has 1 + w there, w being the weight of the extra-focal source (1). Outside the rasters the fluence counts as zero.

    Parameters
    ----------
    photon : ndarray float32, shape (n, ny, nx)
        Photon energy fluence times meterset [unit above times MU], averaged over the voxel's footprint. Made for
        bilinear interpolation between pixel centres: the blur of pixel and interpolation is taken out beforehand.
    raster : Raster
        Pixels of `photon`.
    electron : ndarray float32, shape (n, my, mx)
        Contaminating electrons: their dose at the surface on the ray through the pixel, in the unit of `photon` times
        cm^2/g (the unit in which energy fluence times mu/rho is TERMA).
    electron_raster : Raster
        Pixels of `electron`, coarser, over the same area.
    """

    photon: Maps
    raster: Raster
    electron: Maps
    electron_raster: Raster

    def __post_init__(self) -> None:
        for maps, raster in ((self.photon, self.raster), (self.electron, self.electron_raster)):
            assert maps.ndim == 3 and maps.shape[1:] == (raster.ny, raster.nx) and maps.dtype == np.float32
        assert len(self.photon) == len(self.electron)


@dataclass(frozen=True, slots=True, eq=False)
class LeafTip:
    """What rays pass near a rounded leaf end, against their distance behind the tip; equations (3) to (5).

    The leaf shades x below its tip (bank 1). A ray at x under a leaf of bank 2 passes what one at -x passes here.

    Parameters
    ----------
    ray_step_cm : float
        Rays are tabulated at this distance from each other on the isocentre plane, from one side of the axis to the
        other [cm].
    reach_cm : ndarray, shape (r,)
        For each ray: the distance behind the tip, on the isocentre plane, from which on the whole height shields [cm].
    table : ndarray, shape (r, k, 8)
        For each ray, at distances that are the reach times the squares of 0, 1/(k-1), ... 1 (the chord grows with the
        root of the distance, so points lie densest at the tip): the columns `SOLID` to `SOLID + 2` hold 1 minus the
        transmission of the whole height, and its first and second running integral [cm, cm^2]; the columns from `HALF`
        on the same for the mean of the upper and the lower half alone; `UPPER` and `LOWER` the transmissions of these
        halves. Linear between points; nothing in front of the tip; behind the last point the last value counts.
    """

    ray_step_cm: float
    reach_cm: Array
    table: Array

    def __post_init__(self) -> None:
        rays, points, columns = self.table.shape
        assert rays % 2 == 1 and rays == len(self.reach_cm) and points >= 2 and columns == 8
        assert bool(np.all(self.reach_cm > 0)) and self.ray_step_cm > 0
        for column in (SOLID, HALF):
            assert bool(np.all(self.table[:, 0, column : column + 3] == 0))
            assert bool(np.all(np.diff(self.table[:, :, column], axis=1) >= -1e-12))

    def distance_cm(self, ray: int) -> Array:
        """Distances behind the tip of the points of a ray, on the isocentre plane, shape (k,) [cm]."""
        points = self.table.shape[1]
        distances: Array = self.reach_cm[ray] * (np.arange(points) / (points - 1)) ** 2
        return distances


def leaf_tip(machine: Machine, beam_model: BeamModel) -> LeafTip:
    """Tabulate the leaf end: height of the ray in metal, then transmissions, then their running integrals; (3) to (5).

    Remembered for leaves of the same shape and attenuation.

    Parameters
    ----------
    machine : Machine
        Gives the shape of the leaf.
    beam_model : BeamModel
        Gives its attenuation.

    Returns
    -------
    LeafTip
    """
    mlc = machine.mlc
    half_field = 0.5 * machine.largest_field_cm + 5.0
    return _leaf_tip(
        machine.sad_cm,
        mlc.plane_cm,
        mlc.thickness_cm,
        mlc.tip_radius_cm,
        beam_model.leaf_attenuation_per_cm,
        half_field,
    )


@lru_cache(maxsize=8)
def _leaf_tip(
    sad_cm: float, plane_cm: float, thickness_cm: float, radius_cm: float, mu: float, half_field_cm: float
) -> LeafTip:
    beside = math.ceil(half_field_cm / RAY_STEP_CM)
    ray = RAY_STEP_CM * np.arange(-beside, beside + 1)[:, None]
    half = 0.5 * thickness_cm
    bulge = math.sqrt(radius_cm**2 - half**2)  # of the arc at the faces of the leaf, counted from its centre
    slope = ray / sad_cm
    reach = np.zeros_like(ray)
    for _ in range(30):  # the circle depends a little on where its tip is
        centre = radius_cm * np.sqrt(1 + ((ray + reach) / sad_cm) ** 2)
        reach = np.maximum((centre - bulge + np.abs(slope) * half) * (sad_cm / plane_cm), 1e-6)
    distance = reach * np.linspace(0.0, 1.0, TIP_POINTS) ** 2
    # Horizontal distance of the ray from the centre of the circle, in the middle plane, and the heights where it
    # enters and leaves the circle, counted from that plane and downwards.
    aside = radius_cm * np.sqrt(1 + ((ray + distance) / sad_cm) ** 2) - distance * (plane_cm / sad_cm)
    root = np.sqrt(np.maximum((1 + slope**2) * radius_cm**2 - aside**2, 0.0))
    first, last = ((-slope * aside + sign * root) / (1 + slope**2) for sign in (-1, 1))
    first = np.where(aside - slope * half <= bulge, -half, np.maximum(first, -half))
    last = np.where(aside + slope * half <= bulge, half, np.minimum(last, half))
    upper = np.exp(-mu * np.maximum(np.minimum(last, 0.0) - first, 0.0))
    lower = np.exp(-mu * np.maximum(last - np.maximum(first, 0.0), 0.0))
    for transmission in (upper, lower):
        transmission[:, 0], transmission[:, -1] = 1.0, math.exp(-mu * half)
    table = np.empty((*distance.shape, 8))
    step = np.diff(distance, axis=1)
    for column, coverage in ((SOLID, 1 - upper * lower), (HALF, 1 - 0.5 * (upper + lower))):
        left, right = coverage[:, :-1], coverage[:, 1:]
        first_integral = _running(0.5 * (left + right) * step)
        # Exact for coverage that is linear between the points, like the first integral.
        second_integral = _running(first_integral[:, :-1] * step + (2 * left + right) * step**2 / 6)
        table[:, :, column : column + 3] = np.stack([coverage, first_integral, second_integral], axis=2)
    table[:, :, UPPER], table[:, :, LOWER] = upper, lower
    table.flags.writeable = False
    return LeafTip(RAY_STEP_CM, reach[:, 0], table)


def _running(parts: Array) -> Array:
    """Running sums along the second axis, from 0: shape (r, k - 1) to (r, k)."""
    sums: Array = np.concatenate([np.zeros((len(parts), 1)), np.cumsum(parts, axis=1)], axis=1)
    return sums


def leaf_air_cm(machine: Machine, beam_model: BeamModel, width_cm: ArrayLike) -> Array:
    """Air between neighbouring leaves, so that the mean transmission comes out right (4).

    Parameters
    ----------
    machine, beam_model : Machine, BeamModel
        Height, tongue, attenuation and mean transmission of the leaves.
    width_cm : array_like
        Widths of leaves, any shape, at the isocentre plane [cm].

    Returns
    -------
    ndarray
        Width of the air, at the isocentre plane [cm].
    """
    width, tongue = np.asarray(width_cm, dtype=np.float64), machine.mlc.tongue_width_cm
    half = math.exp(-0.5 * beam_model.leaf_attenuation_per_cm * machine.mlc.thickness_cm)
    missing = max(beam_model.mlc_transmission - half**2, 0.0)
    crooked = 0.5 * width * missing / (half - half**2) if missing > 0 else 0.0 * width
    # Air that is wider than the tongue lets light straight through.
    straight = (width * missing + tongue * (1 - half) ** 2) / (1 - half**2)
    air: Array = np.where(crooked <= tongue, crooked, straight)
    return air


def dosimetric_leaf_gap_cm(machine: Machine, beam_model: BeamModel) -> float:
    """Width by which a sliding gap acts wider than its nominal width (7), on the axis, at the isocentre plane [cm]."""
    return 2 * (beam_model.leaf_offset_cm + leakage_width_cm(machine, beam_model))


def leakage_width_cm(machine: Machine, beam_model: BeamModel) -> float:
    """Width of an open strip that would pass what the rounding of one tip passes (6), isocentre plane [cm]."""
    tip = leaf_tip(machine, beam_model)
    axis = len(tip.reach_cm) // 2
    middle = machine.mlc.pairs // 2
    width = float(machine.mlc.boundaries_cm[middle + 1] - machine.mlc.boundaries_cm[middle])
    air, tongue = float(leaf_air_cm(machine, beam_model, width)), machine.mlc.tongue_width_cm
    # Like neighbours: the crossing of tongue and groove shields like solid leaf.
    beside = 2 * min(air, tongue)
    solid = width - beside - max(air - tongue, 0.0)
    coverage, integral = (
        solid * tip.table[axis, -1, SOLID + k] + beside * tip.table[axis, -1, HALF + k] for k in (0, 1)
    )
    return float(tip.reach_cm[axis] - integral / coverage)


def physical_tips(leaf_cm: Array, machine: Machine, beam_model: BeamModel) -> Array:
    """Nominal leaf positions to physical tips (2).

    Parameters
    ----------
    leaf_cm : ndarray, shape (n, 2, p)
        Nominal positions of bank 1 and 2 [cm].
    machine, beam_model : Machine, BeamModel
        Give the shape of the leaves and their offset.

    Returns
    -------
    ndarray, shape (n, 2, p)
        Physical tips [cm]. Their shadows overlap no further than to where the metal touches (2a).
    """
    mlc = machine.mlc
    tips = np.array(leaf_cm, dtype=np.float64)
    tips[:, 0] -= beam_model.leaf_offset_cm
    tips[:, 1] += beam_model.leaf_offset_cm
    middle = 0.5 * (tips[:, 0] + tips[:, 1])
    cosine = np.sqrt(1 + (middle / machine.sad_cm) ** 2)
    touching = mlc.tip_radius_cm * (cosine - 1) * (machine.sad_cm / mlc.plane_cm)
    tips[:, 0] = np.minimum(tips[:, 0], middle + touching)
    tips[:, 1] = np.maximum(tips[:, 1], middle - touching)
    return tips


def projected_blur_cm(sad_cm: float, plane_cm: float) -> float:
    """How far a shift of the source by 1 cm moves the shadow of a plane on the isocentre plane (8) [cm]."""
    return (sad_cm - plane_cm) / plane_cm


def backscatter_factor(machine: Machine, beam_model: BeamModel, segments: Segments) -> Array:
    """Output change, shape (n,), by backscatter from the upper jaws into the monitor (14); 1 with these jaws open."""
    jaws = [(jaw.plane_cm, position) for jaw, position in _jaws(machine, segments).values() if position is not None]
    if not jaws or beam_model.monitor_backscatter == 0:
        return np.ones(len(segments))
    _, position = min(jaws, key=lambda item: item[0])
    covered = 1 - np.clip((position[:, 1] - position[:, 0]) / machine.largest_field_cm, 0, 1)
    return 1 / (1 + beam_model.monitor_backscatter * covered)


def visible_extra_focal(machine: Machine, beam_model: BeamModel, segments: Segments, x_cm: Array, y_cm: Array) -> Array:
    """Share of the extra-focal source that points of the isocentre plane see, equations (11) to (13).

    Parameters
    ----------
    machine, beam_model : Machine, BeamModel
        The head.
    segments : Segments
        `n` segments; the travel of leaves within a segment is averaged over.
    x_cm, y_cm : ndarray, shapes (mx,), (my,)
        Grid of points [cm].

    Returns
    -------
    ndarray, shape (n, my, mx)
        Between 0 and 1.
    """
    source = beam_model.extra_focal
    points = {"x": x_cm, "y": y_cm}
    limits = {axis: _below_jaws(machine, source, segments, axis, points[axis]) for axis in points}
    by_jaws = {axis: np.maximum(high - low, 0.0) for axis, (low, high) in limits.items()}
    _, fall = _seen_from_aside(machine, source)
    light: Array = np.exp(-fall * y_cm**2)[:, None] * np.exp(-fall * x_cm**2)[None, :]
    seen: Array = by_jaws["y"][:, :, None] * by_jaws["x"][:, None, :]
    if segments.leaf_boundaries_cm is not None:
        open_ = _open_between_leaves(machine, beam_model, segments, points, limits)
        seen = open_ + beam_model.mlc_transmission * (seen - open_)
    return np.multiply(seen, light, out=np.empty((len(segments), len(y_cm), len(x_cm))))


def _open_between_leaves(
    machine: Machine,
    beam_model: BeamModel,
    segments: Segments,
    points_cm: dict[str, Array],
    limits: dict[str, tuple[Array, Array]],
) -> Array:
    """Share of the extra-focal source that is seen through jaws and between leaves, shape (n, my, mx); equation (12).

    Parameters
    ----------
    machine, beam_model, segments : Machine, BeamModel, Segments
        As in `visible_extra_focal`; the segments have leaves.
    points_cm : dict of str to ndarray, shapes (mx,), (my,)
        Points along `"x"` and `"y"` [cm].
    limits : dict of str to tuple of 2 ndarrays
        Along each axis what `_below_jaws` gives.
    """
    assert segments.leaf_boundaries_cm is not None
    source, plane_cm = beam_model.extra_focal, machine.mlc.plane_cm
    along, across = ("x", "y") if segments.leaf_axis == "x" else ("y", "x")
    edges = np.concatenate([[-np.inf], segments.leaf_boundaries_cm, [np.inf]])
    side = _below(machine, source, plane_cm, edges, points_cm[across])
    low, high = limits[across]
    # Of most pairs nothing is seen, because they lie under the jaws.
    seen = np.flatnonzero(np.any((side[1:] > low.min(axis=0)) & (side[:-1] < high.max(axis=0)), axis=1))
    rows = _share_within(side[seen], side[seen + 1], low, high)
    leaves = (seen > 0) & (seen < len(edges) - 2)
    open_ = np.matmul(
        np.swapaxes(rows[:, leaves], 1, 2),
        _between_tips(machine, beam_model, segments, seen[leaves] - 1, points_cm[along], limits[along]),
    )
    # Beyond the outermost leaves there is no leaf.
    beyond = rows[:, ~leaves].sum(axis=1)
    low, high = limits[along]
    open_ += beyond[:, :, None] * np.maximum(high - low, 0.0)[:, None, :]
    return open_ if along == "x" else np.swapaxes(open_, 1, 2)


def _between_tips(
    machine: Machine,
    beam_model: BeamModel,
    segments: Segments,
    pairs: NDArray[np.intp],
    points_cm: Array,
    limits: tuple[Array, Array],
) -> Array:
    """Share of the extra-focal source between the tips of some leaf pairs and between the jaws, averaged over travel.

    Parameters
    ----------
    machine, beam_model, segments : Machine, BeamModel, Segments
        As in `visible_extra_focal`; the segments have leaves.
    pairs : ndarray of int, shape (q,)
        Leaf pairs that are asked for.
    points_cm : ndarray, shape (m,)
        Points along the leaves [cm].
    limits : tuple of 2 ndarrays, shape (n, m) or (1, m)
        What `_below_jaws` gives.

    Returns
    -------
    ndarray, shape (n, q, m)
    """
    start, end = _tip_edges(machine, beam_model, segments)
    times = int(_steps_of_travel(start, end).max())
    start, end = start[:, :, pairs], end[:, :, pairs]
    total = np.zeros((len(segments), len(pairs), len(points_cm)))
    for k in range(times):
        tips = start + (end - start) * ((k + 0.5) / times)
        tip = _below(machine, beam_model.extra_focal, machine.mlc.plane_cm, tips, points_cm)
        total += _share_within(tip[:, 0], tip[:, 1], *limits)
    total /= times
    return total


def _tip_edges(machine: Machine, beam_model: BeamModel, segments: Segments) -> tuple[Array, Array]:
    """Edges that tips set for head scatter, at the start and at the end of segments, shape (n, 2, p) each [cm]."""
    assert segments.leaf_start_cm is not None and segments.leaf_end_cm is not None
    # Head scatter passes through rounded ends as the primary does: edges stand back by the strip that they pass (6).
    rounding = leakage_width_cm(machine, beam_model) * np.array([-1.0, 1.0])[:, None]
    start, end = (physical_tips(leaf, machine, beam_model) for leaf in (segments.leaf_start_cm, segments.leaf_end_cm))
    return start + rounding, end + rounding


def _steps_of_travel(start_cm: Array, end_cm: Array) -> NDArray[np.int64]:
    """Steps in which the travel of leaves is averaged over in each segment, shape (n,); edges (n, 2, p) [cm]."""
    travel = np.abs(end_cm - start_cm).max(axis=(1, 2))
    # The source is centimetres wide, so half a centimetre of travel may be taken at its middle.
    steps: NDArray[np.int64] = np.clip(np.ceil(travel / 0.5), 1, 24).astype(np.int64)
    return steps


def fluence_raster(
    segments: Segments,
    machine: Machine,
    beam_model: BeamModel,
    *,
    pixel_cm: float = 0.1,
    margin_cm: float = 2.0,
    negligible: float = 0.002,
) -> Raster:
    """The smallest raster outside of which nothing matters.

    Parameters
    ----------
    segments : Segments
        Segments of one beam.
    machine, beam_model : Machine, BeamModel
        The head.
    pixel_cm : float
        Side of a pixel [cm]; at most 0.4 of the voxel.
    margin_cm : float
        Least distance kept beyond the jaws [cm], for penumbra and voxel size.
    negligible : float
        Fluence, relative to the open beam, that may be left out at each point: leakage through jaws and leaves and the
        tails of the extra-focal source.

    Returns
    -------
    Raster
        One for all segments.
    """
    full = 0.5 * machine.largest_field_cm + margin_cm
    leaves, edges = segments.leaf_start_cm, segments.leaf_boundaries_cm
    jaws = _jaws(machine, segments)
    reach: dict[str, tuple[float, float]] = {}
    for axis in ("x", "y"):
        _, position = jaws.get(axis, (None, None))
        reach[axis] = (-full, full) if position is None else (float(position[:, 0].min()), float(position[:, 1].max()))
    transmission = {"x": beam_model.jaw_x_transmission, "y": beam_model.jaw_y_transmission}
    scattered = _where_extra_focal_matters(machine, beam_model, segments, reach, negligible)
    wide: dict[str, list[float]] = {}
    for axis in ("x", "y"):
        wide[axis] = []
        for side, sign in ((0, -1), (1, 1)):
            leak = transmission[axis]
            if leaves is not None and edges is not None and _is_shaded(segments, reach, axis, sign, margin_cm):
                leak *= beam_model.mlc_transmission
            limit = max(sign * reach[axis][side] + margin_cm, sign * scattered[axis][side])
            if axis not in jaws:
                limit = full
            elif leak > negligible:
                limit = max(limit, full)
            wide[axis].append(sign * limit)
    return Raster.covering((wide["x"][0], wide["x"][1]), (wide["y"][0], wide["y"][1]), pixel_cm)


def electron_raster(raster: Raster, pixel_cm: float = 0.5) -> Raster:
    """A coarser raster over the same area, for the broad electron maps."""
    return Raster.covering(
        (float(raster.xs_cm[0]), float(raster.xs_cm[-1])), (float(raster.ys_cm[0]), float(raster.ys_cm[-1])), pixel_cm
    )


def _jaws(machine: Machine, segments: Segments) -> dict[str, tuple[Jaw, Array]]:
    """Jaws that the machine has and the segments place, by axis."""
    found = {}
    for axis, jaw, position in (("x", machine.jaw_x, segments.jaw_x_cm), ("y", machine.jaw_y, segments.jaw_y_cm)):
        if jaw is not None and position is not None:
            found[axis] = (jaw, position)
    return found


def _on_source(machine: Machine, source: ExtraFocal, plane_cm: float, edge_cm: Array, point_cm: Array) -> Array:
    """Project edges from points of the isocentre plane onto the plane of the source (11).

    Counted from the middle of the source as the point sees it (13a), shape (edges, points) [cm].
    """
    a = (plane_cm - source.distance_cm) / (machine.sad_cm - source.distance_cm)
    shift, _ = _seen_from_aside(machine, source)
    return np.subtract.outer(edge_cm * (plane_cm / machine.sad_cm / (1 - a)), (a / (1 - a) + shift) * point_cm)


def _seen_from_aside(machine: Machine, source: ExtraFocal) -> tuple[float, float]:
    """How the source looks from off the axis (13a): shift of its middle [1], and fall-off of its light [1/cm^2]."""
    angle = math.radians(source.scatter_angle_deg)
    if math.isinf(angle):
        return 0.0, 0.0
    alpha = 1 / (machine.sad_cm - source.distance_cm)
    beta = alpha + 1 / source.distance_cm
    narrowing = (beta * source.sigma_cm / angle) ** 2
    return alpha * beta * (source.sigma_cm / angle) ** 2, 0.5 * (alpha / angle) ** 2 * (1 - narrowing)


def _below(machine: Machine, source: ExtraFocal, plane_cm: float, edge_cm: Array, point_cm: Array) -> Array:
    """Share of the extra-focal source below edges in a plane, seen from points of the isocentre plane.

    Parameters
    ----------
    machine, source : Machine, ExtraFocal
        The head.
    plane_cm : float
        Distance of the plane from the target [cm].
    edge_cm : ndarray, any shape
        Edges, at the isocentre plane [cm].
    point_cm : ndarray, shape (m,)
        Points [cm].

    Returns
    -------
    ndarray, shape of the edges and (m,)
    """
    from scipy.special import ndtr

    # Jaws that stand still and parked leaves come again and again.
    distinct, which = np.unique(edge_cm, return_inverse=True)
    sigmas = _on_source(machine, source, plane_cm, distinct, point_cm)
    sigmas /= source.sigma_cm
    share: Array = ndtr(sigmas, out=sigmas)[which.reshape(edge_cm.shape)]
    return share


def _below_jaws(
    machine: Machine, source: ExtraFocal, segments: Segments, axis: str, point_cm: Array
) -> tuple[Array, Array]:
    """Share of the extra-focal source below the lower and the upper edge of a pair of jaws.

    Shape (n, m) each, seen from `m` points; (1, m) when all `n` segments have them at the same place.
    """
    jaw, position = _jaws(machine, segments).get(axis, (None, None))
    if jaw is None or position is None:
        return np.zeros((1, len(point_cm))), np.ones((1, len(point_cm)))
    if np.all(position == position[0]):
        position = position[:1]
    below = _below(machine, source, jaw.plane_cm, position, point_cm)
    return below[:, 0], below[:, 1]


def _share_within(low: Array, high: Array, least: Array, most: Array) -> Array:
    """Share of a source between two edges as far as it lies between two more; 0 where they cross.

    Parameters
    ----------
    low, high : ndarray, shape (n, q, m) or (q, m)
        Share below the edges of `q` openings.
    least, most : ndarray, shape (n, m) or (1, m)
        Share below the edges that bound all openings.

    Returns
    -------
    ndarray, shape (n, q, m)
    """
    share: Array = np.minimum(high, most[:, None, :])
    share -= np.maximum(low, least[:, None, :])
    return np.maximum(share, 0.0, out=share)


def _where_extra_focal_matters(
    machine: Machine,
    beam_model: BeamModel,
    segments: Segments,
    reach: dict[str, tuple[float, float]],
    negligible: float,
) -> dict[str, tuple[float, float]]:
    """Interval along each axis outside of which all that is seen of the extra-focal source is negligible [cm]."""
    # Neighbouring segments look alike, and the source is broad: a few stand for all.
    chosen = np.unique(np.linspace(0, len(segments) - 1, min(len(segments), SEGMENTS_LOOKED_AT)).astype(int))
    points = {axis: np.arange(lo - LARGEST_MARGIN_CM, hi + LARGEST_MARGIN_CM + 0.5) for axis, (lo, hi) in reach.items()}
    found = np.zeros((len(points["y"]), len(points["x"])), dtype=bool)
    for some in _alike(machine, beam_model, segments.at(chosen)):
        seen = visible_extra_focal(machine, beam_model, some, points["x"], points["y"])
        found |= np.any(beam_model.extra_focal.weight * seen > negligible, axis=0)
    wanted = {}
    for axis, across in (("x", 0), ("y", 1)):
        inside = points[axis][found.any(axis=across)]
        wanted[axis] = (float(inside[0]) - 1.0, float(inside[-1]) + 1.0) if len(inside) else reach[axis]
    return wanted


def _alike(machine: Machine, beam_model: BeamModel, segments: Segments) -> list[Segments]:
    """Segments sorted by the steps in which their travel is averaged over, which are those of the longest travel."""
    if segments.leaf_boundaries_cm is None:
        return [segments]
    steps = _steps_of_travel(*_tip_edges(machine, beam_model, segments))
    return [segments.at(np.flatnonzero(steps == count)) for count in np.unique(steps)]


def _is_shaded(
    segments: Segments, reach: dict[str, tuple[float, float]], axis: str, sign: int, margin_cm: float
) -> bool:
    """Whether leaves shade all that lies more than a margin beyond the jaw on one side."""
    assert segments.leaf_start_cm is not None and segments.leaf_end_cm is not None
    assert segments.leaf_boundaries_cm is not None
    low, high = segments.leaf_boundaries_cm[:-1], segments.leaf_boundaries_cm[1:]
    edge = reach[axis][0 if sign < 0 else 1] + sign * margin_cm
    if axis != segments.leaf_axis:
        beyond = low >= edge if sign > 0 else high <= edge
        gaps = [
            leaf[:, 1][:, beyond] - leaf[:, 0][:, beyond] for leaf in (segments.leaf_start_cm, segments.leaf_end_cm)
        ]
        # Pairs parked under a jaw keep a gap of about half a millimetre.
        return bool(beyond.any()) and max(float(gap.max()) for gap in gaps) < 0.2
    across = reach["y" if axis == "x" else "x"]
    inside = (high > across[0]) & (low < across[1])
    if across[0] < segments.leaf_boundaries_cm[0] - 1e-6 or across[1] > segments.leaf_boundaries_cm[-1] + 1e-6:
        return False
    bank = 0 if sign < 0 else 1
    tips = [leaf[:, bank][:, inside] for leaf in (segments.leaf_start_cm, segments.leaf_end_cm)]
    return all(bool(np.all(tip <= edge)) if sign > 0 else bool(np.all(tip >= edge)) for tip in tips)
