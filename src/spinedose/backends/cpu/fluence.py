"""Stage A on the CPU: fluence maps of all segments of a beam; the equations are in docs/theory/fluence.md."""

from __future__ import annotations

import math

import numpy as np
import scipy.fft
from numba import get_num_threads, njit, prange
from numpy.typing import NDArray

from spinedose.backends.head import (
    CELL,
    EXTRA_FOCAL_STEP_CM,
    Cells,
    jaw_profile,
    leaf_bands,
    offset_in,
    refuse_coarse_pixels,
    sharp_window,
    sharpening,
    spot_filter,
)
from spinedose.fluence_model import (
    HALF,
    LOWER,
    SOLID,
    UPPER,
    FluenceMaps,
    LeafTip,
    Raster,
    backscatter_factor,
    electron_raster,
    leaf_air_cm,
    leaf_tip,
    physical_tips,
    visible_extra_focal,
)
from spinedose.machine import BeamModel, Machine
from spinedose.segments import Segments

Array = NDArray[np.float64]
Maps = NDArray[np.float32]

BATCH = 32
"""Segments computed together: their maps should stay in the cache."""


def fluence(
    machine: Machine,
    beam_model: BeamModel,
    segments: Segments,
    raster: Raster,
    voxel_axes: Array | None = None,
) -> FluenceMaps:
    """Fluence at the isocentre plane for each segment, times its meterset.

    Parameters
    ----------
    machine, beam_model : Machine, BeamModel
        The head.
    segments : Segments
        `n` segments of one beam.
    raster : Raster
        Pixels, from `fluence_raster`.
    voxel_axes : ndarray, shape (n, 3, 2), optional
        The three edges of a voxel projected on the isocentre plane, as (x, y) of the collimator system [cm]. Maps are
        averaged over this footprint. None, or zeros, for the fluence at points.

    Returns
    -------
    FluenceMaps

    Raises
    ------
    InvalidInput
        If the voxel is finer than the raster can resolve.
    """
    n = len(segments)
    axes = np.zeros((n, 3, 2)) if voxel_axes is None else np.asarray(voxel_axes, dtype=np.float64)
    assert axes.shape == (n, 3, 2)
    refuse_coarse_pixels(axes, raster)
    across = "y" if segments.leaf_axis == "x" else "x"
    leaves = _Leaves(machine, beam_model, segments, raster, across) if segments.leaf_start_cm is not None else None
    window = sharp_window(segments, machine, raster)
    radius = np.hypot(raster.xs_cm[None, :], raster.ys_cm[:, None])
    profile = beam_model.radial_fluence.at(radius).astype(np.float32)
    scale = segments.meterset_mu * backscatter_factor(machine, beam_model, segments)
    coarse = electron_raster(raster)
    photon = np.empty((n, raster.ny, raster.nx), dtype=np.float32)
    electron = np.empty((n, coarse.ny, coarse.nx), dtype=np.float32)
    cells = [Cells(points, raster.pixel_cm) for points in (raster.xs_cm, raster.ys_cm)]
    spread_x, spread_y = (
        cell.gaussian_to(points, beam_model.electrons.sigma_cm)
        for cell, points in zip(cells, (coarse.xs_cm, coarse.ys_cm), strict=True)
    )
    nodes = electron_raster(raster, EXTRA_FOCAL_STEP_CM)
    for first in range(0, n, BATCH):
        some = slice(first, min(first + BATCH, n))
        batch = segments.part(some.start, some.stop)
        maps = photon[some]
        if leaves is None:
            maps.fill(1.0)
        else:
            leaves.draw(maps, some)
            _blur(maps[window], spot_filter(machine, beam_model, batch, window, raster))
        jaws_x = jaw_profile(machine, beam_model, batch, "x", raster.xs_cm, raster.pixel_cm)
        jaws_y = jaw_profile(machine, beam_model, batch, "y", raster.ys_cm, raster.pixel_cm)
        sums = _shade(maps, jaws_x, jaws_y, profile, cells[1].count, cells[0].count)
        strength = scale[some] * beam_model.electrons.weight_cm2_per_g
        electron[some] = (spread_y @ sums @ spread_x.T) * strength[:, None, None]
        _average_over_voxels(maps[window], axes[some], raster.pixel_cm)
        scattered = beam_model.extra_focal.weight * visible_extra_focal(
            machine, beam_model, batch, nodes.xs_cm, nodes.ys_cm
        )
        _add_scattered_and_scale(
            maps, scattered, raster.pixel_cm / nodes.pixel_cm, *offset_in(nodes, raster), scale[some]
        )
    return FluenceMaps(photon=photon, raster=raster, electron=electron, electron_raster=coarse)


class _Leaves:
    """Draws the multileaf collimator, averaged over pixel and over the travel within each segment, not blurred yet."""

    def __init__(
        self, machine: Machine, beam_model: BeamModel, segments: Segments, raster: Raster, across: str
    ) -> None:
        assert segments.leaf_start_cm is not None and segments.leaf_end_cm is not None
        assert segments.leaf_boundaries_cm is not None
        self.tip: LeafTip = leaf_tip(machine, beam_model)
        self.start = physical_tips(segments.leaf_start_cm, machine, beam_model)
        self.end = physical_tips(segments.leaf_end_cm, machine, beam_model)
        self.across = across
        points = {"x": raster.xs_cm, "y": raster.ys_cm}
        self.first_edge_cm = float(points["y" if across == "x" else "x"][0]) - 0.5 * raster.pixel_cm
        self.pixel_cm = raster.pixel_cm
        edges = segments.leaf_boundaries_cm
        air = leaf_air_cm(machine, beam_model, 0.5 * (edges[2:] - edges[:-2]))
        self.bands = leaf_bands(points[across], raster.pixel_cm, edges, machine.mlc.tongue_width_cm, air)

    def draw(self, maps: Maps, some: slice) -> None:
        """Fill maps (n, ny, nx) with the transmission of the segments `some`."""
        _draw_leaves(
            maps if self.across == "y" else maps.transpose(0, 2, 1),
            self.start[some],
            self.end[some],
            *self.bands,
            self.tip.table,
            self.tip.reach_cm,
            self.tip.ray_step_cm,
            self.first_edge_cm,
            self.pixel_cm,
        )


@njit(parallel=True, cache=True)
def _draw_leaves(maps, start, end, first, last, row, weight, table, reach, ray_step, edge0, pixel):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Transmission of the leaves (n, lines across, pixels along); one thread makes whole segments.

    `first[i]:last[i]` are the entries of line i in `row` (leaf pair j; pairs + j for half of its height; 2 pairs + j
    for the crossing of pairs j and j + 1; -1 for no leaf) and `weight` (share of the line). `table`, `reach` and
    `ray_step` are those of `LeafTip`.
    """
    n, lines, pixels = maps.shape
    pairs = start.shape[2]
    low, high = pairs, -1
    for k in range(len(row)):
        if row[k] >= 0:
            j = row[k] % pairs
            low, high = min(low, j), max(high, j + 1 if row[k] >= 2 * pairs else j)
    count = max(high - low + 1, 1)
    closed = 1.0 - table[0, -1, SOLID]
    for s in prange(n):
        # What passes the whole height, half of it, and the crossing with the next pair, of the pairs on the raster.
        through = np.ones((3, count, pixels), dtype=np.float32)
        for j in range(low, high + 1):
            a0, a1, b0, b1 = start[s, 0, j], end[s, 0, j], start[s, 1, j], end[s, 1, j]
            for i in range(pixels):
                x0 = edge0 + i * pixel
                x1 = x0 + pixel
                left, right = _rays(x0 + 0.5 * pixel, ray_step, len(reach))
                whole, half = _covered(x0, x1, a0, a1, table, reach, left)
                other, other_half = _covered(-x1, -x0, -b0, -b1, table, reach, right)
                whole, half = whole + other, half + other_half
                if (a0 > b0 or a1 > b1) and max(a0, a1) > x0 and min(b0, b1) < x1:
                    twice, twice_half = _covered_twice(x0, x1, a0, a1, b0, b1, table, reach, left, right)
                    whole, half = whole - twice, half - twice_half
                through[0, j - low, i] = 1.0 - whole
                through[1, j - low, i] = 1.0 - half
        for j in range(low, high):
            alike = _move_alike(start[s], end[s], j)
            for i in range(pixels):
                t0, t1 = through[0, j - low, i], through[0, j + 1 - low, i]
                if _is_constant(t0, closed) and _is_constant(t1, closed):
                    through[2, j - low, i] = math.sqrt(t0 * t1)
                else:
                    through[2, j - low, i] = 0.5 * (t0 + t1)
                    if not alike:
                        x = edge0 + (i + 0.5) * pixel
                        left, right = _rays(x, ray_step, len(reach))
                        through[2, j - low, i] += _crossing(x, pixel, start[s], end[s], j, table, reach, left, right)
        for line in range(lines):
            for i in range(pixels):
                maps[s, line, i] = 0.0
            for k in range(first[line], last[line]):
                w = weight[k]
                if row[k] < 0:
                    for i in range(pixels):
                        maps[s, line, i] += w
                else:
                    kind, j = row[k] // pairs, row[k] % pairs
                    for i in range(pixels):
                        maps[s, line, i] += w * through[kind, j - low, i]


@njit(cache=True)
def _rays(x, ray_step, rays):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Nearest tabulated ray for bank 1, and for bank 2, which is its mirror image."""
    ray = min(max(math.floor(x / ray_step + 0.5) + rays // 2, 0), rays - 1)
    return ray, rays - 1 - ray


@njit(cache=True)
def _covered(x0, x1, a0, a1, table, reach, ray):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Coverage by a tip that moves from a0 to a1 and shades x < a, averaged over travel and the pixel x0 to x1 (9).

    By the whole height, and by half of it.
    """
    travel = a1 - a0
    if max(a0, a1) <= x0:
        return 0.0, 0.0
    if min(a0, a1) - x1 >= reach[ray]:
        return table[ray, -1, SOLID], table[ray, -1, HALF]
    if abs(travel) < 1e-3:
        a = 0.5 * (a0 + a1)
        near, near_half = _integrals(a - x1, 1, table, reach, ray)
        far, far_half = _integrals(a - x0, 1, table, reach, ray)
        return (far - near) / (x1 - x0), (far_half - near_half) / (x1 - x0)
    near, near_half = _integrals(a1 - x1, 2, table, reach, ray)
    far, far_half = _integrals(a1 - x0, 2, table, reach, ray)
    near_0, near_half_0 = _integrals(a0 - x1, 2, table, reach, ray)
    far_0, far_half_0 = _integrals(a0 - x0, 2, table, reach, ray)
    area = travel * (x1 - x0)
    return (far - near - far_0 + near_0) / area, (far_half - near_half - far_half_0 + near_half_0) / area


@njit(cache=True)
def _integrals(u, order, table, reach, ray):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """First or second running integral of the tip's coverage up to distance u behind the tip, exact between points.

    By the whole height, and by half of it.
    """
    if u <= 0.0:
        return 0.0, 0.0
    i, d, part = _place(u, table, reach, ray)
    k = min(i + 1, table.shape[1] - 1)
    at, at_half = table[ray, i, SOLID], table[ray, i, HALF]
    rise, rise_half = part * (table[ray, k, SOLID] - at), part * (table[ray, k, HALF] - at_half)
    whole, half = table[ray, i, SOLID + 1], table[ray, i, HALF + 1]
    if order == 1:
        return whole + d * (at + rise / 2), half + d * (at_half + rise_half / 2)
    first, first_half = whole, half
    whole, half = table[ray, i, SOLID + 2], table[ray, i, HALF + 2]
    return (
        whole + d * (first + d * (at / 2 + rise / 6)),
        half + d * (first_half + d * (at_half / 2 + rise_half / 6)),
    )


@njit(cache=True)
def _place(u, table, reach, ray):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Where u > 0 lies in the table: the point before it, the distance from that, and its share of the step."""
    last = table.shape[1] - 1
    if u >= reach[ray]:
        return last, u - reach[ray], 0.0
    i = min(int(last * math.sqrt(u / reach[ray])), last - 1)
    step = reach[ray] / (last * last)
    d = u - step * (i * i)
    return i, d, d / (step * (2 * i + 1))


@njit(cache=True)
def _halves(u, table, reach, ray):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Transmission of the upper and the lower half of a leaf at distance u behind its tip."""
    if u <= 0.0:
        return 1.0, 1.0
    i, _, part = _place(u, table, reach, ray)
    k = min(i + 1, table.shape[1] - 1)
    upper, lower = table[ray, i, UPPER], table[ray, i, LOWER]
    return upper + part * (table[ray, k, UPPER] - upper), lower + part * (table[ray, k, LOWER] - lower)


@njit(cache=True)
def _covered_twice(x0, x1, a0, a1, b0, b1, table, reach, left, right):  # type: ignore[no-untyped-def]  # pragma: no cover
    """What both tips of a pair shade and has been subtracted twice, where their shadows overlap (9a).

    Averaged over pixel and segment: two points of Gauss in the overlap, and a moment for each pixel of travel. By the
    whole height, and by half of it.
    """
    moments = _moments(max(abs(a1 - a0), abs(b1 - b0)), x1 - x0)
    whole, half = 0.0, 0.0
    for m in range(moments):
        t = (m + 0.5) / moments
        a, b = a0 + t * (a1 - a0), b0 + t * (b1 - b0)
        low, high = max(b, x0), min(a, x1)
        if high > low:
            for side in (-0.5, 0.5):
                x = 0.5 * (low + high) + side * (high - low) / math.sqrt(3.0)
                u1, l1 = _halves(a - x, table, reach, left)
                u2, l2 = _halves(x - b, table, reach, right)
                whole += (high - low) * (1.0 - u1 * l1) * (1.0 - u2 * l2)
                half += (high - low) * 0.5 * ((1.0 - u1) * (1.0 - u2) + (1.0 - l1) * (1.0 - l2))
    share = 1.0 / (2 * moments * (x1 - x0))
    return share * whole, share * half


@njit(cache=True)
def _moments(travel, pixel):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Moments of a segment at which products are looked at: leaf ends are softer than a pixel."""
    return max(1, math.ceil(travel / pixel))


@njit(cache=True)
def _is_constant(through, closed):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Whether a pair was wide open or wholly closed all the time and all over the pixel."""
    return through > 1.0 - 1e-6 or through < closed + 1e-6


@njit(cache=True)
def _move_alike(start, end, j):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Whether pairs j and j + 1 stand and move together: then their crossing is like solid leaf."""
    starts = start[0, j] == start[0, j + 1] and start[1, j] == start[1, j + 1]
    return starts and end[0, j] == end[0, j + 1] and end[1, j] == end[1, j + 1]


@njit(cache=True)
def _crossing(x, pixel, start, end, j, table, reach, left, right):  # type: ignore[no-untyped-def]  # pragma: no cover
    """What the crossing of pairs j (upper half) and j + 1 (lower half) passes beyond the mean of both pairs (10).

    Averaged over pixel and segment: two points in a pixel, and a moment for each pixel of travel.
    """
    travel = 0.0
    for k in (j, j + 1):
        travel = max(travel, abs(end[0, k] - start[0, k]), abs(end[1, k] - start[1, k]))
    moments = _moments(travel, pixel)
    total = 0.0
    for m in range(moments):
        t = (m + 0.5) / moments
        for side in (-0.25, 0.25):
            p = x + side * pixel
            u1, l1 = _through_pair(p, t, start, end, j, table, reach, left, right)
            u2, l2 = _through_pair(p, t, start, end, j + 1, table, reach, left, right)
            total += u1 * l2 - 0.5 * (u1 * l1 + u2 * l2)
    return total / (2 * moments)


@njit(cache=True)
def _through_pair(x, t, start, end, j, table, reach, left, right):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Transmission of the upper and the lower half of pair j on the ray x at time t (0 to 1) of the segment."""
    u1, l1 = _halves(start[0, j] + t * (end[0, j] - start[0, j]) - x, table, reach, left)
    u2, l2 = _halves(x - start[1, j] - t * (end[1, j] - start[1, j]), table, reach, right)
    return u1 * u2, l1 * l2


@njit(parallel=True, cache=True)
def _shade(maps, across_x, across_y, profile, cells_y, cells_x):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Multiply maps (n, ny, nx) by the jaws' (n, nx) and (n, ny) and by the radial fluence (ny, nx).

    Returns the sums over cells of CELL x CELL pixels, (n, cells_y, cells_x).
    """
    sums = np.zeros((maps.shape[0], cells_y, cells_x))
    for s in prange(maps.shape[0]):
        for j in range(maps.shape[1]):
            for i in range(maps.shape[2]):
                value = maps[s, j, i] * (across_x[s, i] * across_y[s, j]) * profile[j, i]
                maps[s, j, i] = value
                sums[s, j // CELL, i // CELL] += value
    return sums


@njit(parallel=True, cache=True)
def _add_scattered_and_scale(maps, nodes, step, x0, y0, scale):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Add node values (n, my, mx), bilinear between nodes, to maps (n, ny, nx) and multiply by `scale` (n,).

    Pixel (j, i) lies at node coordinates (y0 + j step, x0 + i step).
    """
    for s in prange(maps.shape[0]):
        line = np.empty(nodes.shape[2])
        for j in range(maps.shape[1]):
            y = y0 + j * step
            q = min(int(y), nodes.shape[1] - 2)
            for k in range(nodes.shape[2]):
                line[k] = nodes[s, q, k] + (y - q) * (nodes[s, q + 1, k] - nodes[s, q, k])
            for i in range(maps.shape[2]):
                x = x0 + i * step
                k = min(int(x), nodes.shape[2] - 2)
                # Sharpening leaves traces of either sign beside edges where there is no light.
                sharp = max(maps[s, j, i], np.float32(0.0))
                maps[s, j, i] = (sharp + line[k] + (x - k) * (line[k + 1] - line[k])) * scale[s]


@njit(parallel=True, cache=True)
def _multiply_by_voxel(spectra, axes, ny, nx, sharpen_x, sharpen_y, pixel):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Multiply half spectra (n, ny, nx // 2 + 1) by the transform of the voxel's projection and undo the pixels' blur.

    The projection of a parallelepiped is the convolution of its three edges, so its transform is a product of three
    sinc (15). sin(x + y) comes from the sines and cosines of the axes, so that no sine is taken in the inner loop.
    """
    half = spectra.shape[2]
    for s in prange(spectra.shape[0]):
        ax = np.empty((3, half), dtype=np.float32)
        sx = np.empty((3, half), dtype=np.float32)
        cx = np.empty((3, half), dtype=np.float32)
        for e in range(3):
            for i in range(half):
                angle = math.pi * i / (nx * pixel) * axes[s, e, 0]
                ax[e, i], sx[e, i], cx[e, i] = angle, math.sin(angle), math.cos(angle)
        for j in range(ny):
            wave = (j if 2 * j <= ny else j - ny) / (ny * pixel)
            for e in range(3):
                angle = math.pi * wave * axes[s, e, 1]
                ay, sy, cy = np.float32(angle), np.float32(math.sin(angle)), np.float32(math.cos(angle))
                for i in range(half):
                    a = ax[e, i] + ay
                    # Where the parts cancel, sin(a) would lose its digits; there the series is exact enough.
                    if abs(a) < np.float32(0.05):
                        spectra[s, j, i] *= np.float32(1.0) - a * a * np.float32(1.0 / 6.0)
                    else:
                        spectra[s, j, i] *= (sx[e, i] * cy + cx[e, i] * sy) / a
            for i in range(half):
                spectra[s, j, i] *= sharpen_x[i] * sharpen_y[j]


def _average_over_voxels(maps: Maps, axes: Array, pixel_cm: float) -> None:
    """Convolve maps (n, ny, nx) in place with the voxels' projections; take the blur of pixel and lookup out."""
    ny, nx = maps.shape[1:]
    spectra = scipy.fft.rfft2(maps, workers=get_num_threads())
    _multiply_by_voxel(
        spectra, axes, ny, nx, sharpening(scipy.fft.rfftfreq(nx)), sharpening(scipy.fft.fftfreq(ny)), pixel_cm
    )
    maps[...] = scipy.fft.irfft2(spectra, s=(ny, nx), workers=get_num_threads())


def _blur(maps: Maps, transfer: Maps) -> None:
    """Convolve maps (n, ny, nx) in place, given the half spectrum of the blur (n or 1, ny, nx // 2 + 1)."""
    spectra = scipy.fft.rfft2(maps, workers=get_num_threads())
    _multiply(spectra, transfer)
    maps[...] = scipy.fft.irfft2(spectra, s=maps.shape[1:], workers=get_num_threads())


@njit(parallel=True, cache=True)
def _multiply(spectra, transfer):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Multiply half spectra (n, ny, nx // 2 + 1) by those of a blur, (n or 1, ny, nx // 2 + 1)."""
    for s in prange(spectra.shape[0]):
        blur = transfer[s] if len(transfer) > 1 else transfer[0]
        for j in range(spectra.shape[1]):
            for i in range(spectra.shape[2]):
                spectra[s, j, i] *= blur[j, i]
