"""What fluence stages need of the treatment head before there are pixels; shared by all backends.

Equations are in docs/theory/fluence.md. Blur by the spot, jaws, shares of leaves in lines of pixels, cells, and the
window in which anything is sharp.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spinedose.errors import InvalidInput
from spinedose.fluence_model import Raster, projected_blur_cm
from spinedose.machine import BeamModel, Jaw, Machine
from spinedose.segments import Segments

Array = NDArray[np.float64]
Maps = NDArray[np.float32]

WINDOW_MARGIN_CM = 1.2
"""Blur by spot and voxel is applied up to here beyond the jaws; further out nothing is sharp."""

EXTRA_FOCAL_STEP_CM = 1.0
"""Grid on which the extra-focal source is evaluated; its shadow edges are 5 cm wide, so linear interpolation does."""

CELL = 5
"""Pixels along the side of a cell in which the aperture is summed for the electrons, whose spread is centimetres."""


def sharpening(wave_number: Array) -> Maps:
    """Take out pixel average and half of the lookup's blur: minus a twelfth of the second difference (16); per pixel.

    Three points wide, so that it cannot ring. Against exact voxel averages on ragged apertures this leaves less than no
    sharpening and less than taking out all of the lookup's blur, which would be too much for lookups at pixel centres.
    """
    return (1 + (1 - np.cos(2 * np.pi * wave_number)) / 6).astype(np.float32)


def spot_filter(
    machine: Machine, beam_model: BeamModel, segments: Segments, window: tuple[Any, slice, slice], raster: Raster
) -> Maps:
    """Half spectra of the focal spot's shadow through the MLC plane, (n or 1, ny, nx // 2 + 1); equation (8)."""
    ny, nx = (part.stop - part.start for part in window[1:])
    kx = np.asarray(2 * np.pi * np.fft.rfftfreq(nx, raster.pixel_cm)[None, :], np.float64)
    ky = np.asarray(2 * np.pi * np.fft.fftfreq(ny, raster.pixel_cm)[:, None], np.float64)
    shift = projected_blur_cm(machine.sad_cm, machine.mlc.plane_cm)
    angles, which = np.unique(np.round(segments.collimator_deg, 6), return_inverse=True)
    filters = np.zeros((len(angles), ny, nx // 2 + 1))
    for k, angle in enumerate(angles):
        for part in beam_model.spot:
            c = part.covariance_cm2(float(angle)) * shift**2
            filters[k] += part.weight * _sampled_gaussian(c, kx, ky, 2 * np.pi / raster.pixel_cm)
    found: Maps = filters.astype(np.float32)
    return found if len(angles) == 1 else found[which]


def _sampled_gaussian(covariance_cm2: Array, kx: Array, ky: Array, period: float) -> Array:
    """Transform of a Gaussian sampled at pixel centres: the sum of its images; wave numbers and period in [1/cm].

    Unlike the transform cut off at the period's half it belongs to weights that are positive and do not ring.
    """
    (xx, xy), (_, yy) = covariance_cm2
    total = np.zeros(np.broadcast_shapes(kx.shape, ky.shape))
    for m in (-1, 0, 1):
        for n in (-1, 0, 1):
            p, q = kx + m * period, ky + n * period
            total += np.exp(-0.5 * (xx * p * p + 2 * xy * p * q + yy * q * q))
    sampled: Array = total / total[0, 0]
    return sampled


def jaw_profile(
    machine: Machine, beam_model: BeamModel, segments: Segments, axis: str, points_cm: Array, pixel_cm: float
) -> Maps:
    """Transmission (n, points) of one pair of jaws, averaged over pixels and blurred by the spot; equation (8)."""
    jaw: Jaw | None = machine.jaw_x if axis == "x" else machine.jaw_y
    position = segments.jaw_x_cm if axis == "x" else segments.jaw_y_cm
    if jaw is None or position is None:
        return np.ones((len(segments), len(points_cm)), dtype=np.float32)
    closed = beam_model.jaw_x_transmission if axis == "x" else beam_model.jaw_y_transmission
    k = 0 if axis == "x" else 1
    shift = projected_blur_cm(machine.sad_cm, jaw.plane_cm)
    edges = np.concatenate([points_cm - 0.5 * pixel_cm, points_cm[-1:] + 0.5 * pixel_cm])
    # Jaws and collimator stand still in many segments.
    cases = np.column_stack([position, segments.collimator_deg])
    distinct, which = np.unique(cases, axis=0, return_inverse=True)
    open_ = np.zeros((len(distinct), len(points_cm)))
    for part in beam_model.spot:
        sigma = shift * np.sqrt(part.covariance_cm2(distinct[:, 2])[:, k, k])
        for side, sign in ((0, 1.0), (1, -1.0)):
            running = _integral_of_edge(edges[None, :] - distinct[:, side, None], sigma[:, None])
            open_ += part.weight * sign * np.diff(running, axis=1) / pixel_cm
    return (closed + (1 - closed) * open_).astype(np.float32)[which.reshape(-1)]


FAR = 9.0
"""Standard deviations from an edge beyond which a Gaussian edge is as good as sharp: it differs by less than 1e-18."""


def _integral_of_edge(x_cm: Array, sigma_cm: Array) -> Array:
    """Running integral of a Gaussian edge: of ndtr(x / sigma), from -infinity to x, shapes (n, m) and (n, 1) [cm]."""
    from scipy.special import ndtr

    sigma = np.maximum(sigma_cm, 1e-9)
    t = x_cm / sigma
    near = np.abs(t) < FAR
    result: Array = np.maximum(x_cm, 0.0)
    blurred = np.exp(-0.5 * t[near] ** 2) / math.sqrt(2 * math.pi)
    result[near] = x_cm[near] * ndtr(t[near]) + np.broadcast_to(sigma, x_cm.shape)[near] * blurred
    return result


def leaf_bands(
    points_cm: Array, pixel_cm: float, boundaries_cm: Array, tongue_cm: float, air_cm: Array
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32], Maps]:
    """Share of each leaf pair, of its halves, and of each crossing, in each line of pixels across the leaves.

    Parameters
    ----------
    points_cm : ndarray, shape (lines,)
        Centres of the lines [cm].
    pixel_cm : float
        Their width [cm].
    boundaries_cm : ndarray, shape (pairs + 1,)
        Leaf boundaries [cm].
    tongue_cm : float
        Width of the tongue [cm].
    air_cm : ndarray, shape (pairs - 1,)
        Width of the air between neighbours [cm].

    Returns
    -------
    first, last : ndarray, shape (lines,)
        Range of entries of each line.
    row : ndarray, shape (entries,)
        Leaf pair j; pairs + j where only half of its height is leaf; 2 pairs + j for the crossing of the upper half of
        pair j and the lower half of pair j + 1; -1 where there is no leaf.
    weight : ndarray, shape (entries,)
        Share of the line; the shares of a line sum to 1.
    """
    pairs = len(boundaries_cm) - 1
    edges, rows = [-np.inf, float(boundaries_cm[0])], [-1]
    for j in range(pairs):
        rows.append(j)
        if j < pairs - 1:
            edge, air = float(boundaries_cm[j + 1]), float(air_cm[j])
            outer, inner = 0.5 * (tongue_cm + air), 0.5 * abs(tongue_cm - air)
            edges += [edge - outer, edge - inner, edge + inner, edge + outer]
            # Air that is wider than the tongue is open between the two halves.
            rows += [pairs + j, 2 * pairs + j if tongue_cm >= air else -1, pairs + j + 1]
    edges += [float(boundaries_cm[-1]), np.inf]
    rows.append(-1)
    low = np.maximum(points_cm[:, None] - 0.5 * pixel_cm, np.array(edges[:-1])[None, :])
    high = np.minimum(points_cm[:, None] + 0.5 * pixel_cm, np.array(edges[1:])[None, :])
    share = np.maximum(high - low, 0.0) / pixel_cm
    line, entry = np.nonzero(share > 1e-9)
    count = np.bincount(line, minlength=len(points_cm))
    last = np.cumsum(count)
    return (
        (last - count).astype(np.int32),
        last.astype(np.int32),
        np.array(rows, dtype=np.int32)[entry],
        share[line, entry].astype(np.float32),
    )


def sharp_window(segments: Segments, machine: Machine, raster: Raster) -> tuple[slice, slice, slice]:
    """Part of the maps that holds all sharp edges, with sides of lengths that transform fast."""
    parts = []
    for points, jaw, position in (
        (raster.ys_cm, machine.jaw_y, segments.jaw_y_cm),
        (raster.xs_cm, machine.jaw_x, segments.jaw_x_cm),
    ):
        first, last = 0, len(points)
        if jaw is not None and position is not None:
            first = max(0, int(np.searchsorted(points, position[:, 0].min() - WINDOW_MARGIN_CM)))
            last = min(last, int(np.searchsorted(points, position[:, 1].max() + WINDOW_MARGIN_CM)) + 1)
        length = last - first
        fast = _fast_length(length)
        if fast > len(points):
            first, length = 0, len(points)
        else:
            first = max(0, min(first, len(points) - fast))
            length = fast
        parts.append(slice(first, first + length))
    return slice(None), parts[0], parts[1]


def _fast_length(least: int) -> int:
    """Smallest even length at least `least` that a real Fourier transform likes."""
    import scipy.fft

    length = scipy.fft.next_fast_len(least, real=True)
    while length % 2:
        length = scipy.fft.next_fast_len(length + 1, real=True)
    return int(length)


class Cells:
    """Pixels of one axis put together to cells of CELL pixels, the last of which may be only partly filled."""

    def __init__(self, points_cm: Array, pixel_cm: float) -> None:
        self.count = -(-len(points_cm) // CELL)
        self.centres_cm = points_cm[0] + pixel_cm * (CELL * np.arange(self.count) + 0.5 * (CELL - 1))
        self.pixel_cm = pixel_cm

    def gaussian_to(self, targets_cm: Array, sigma_cm: float) -> Array:
        """Matrix (targets, cells) that blurs sums over cells."""
        t = (targets_cm[:, None] - self.centres_cm[None, :]) / sigma_cm
        matrix: Array = np.exp(-0.5 * t**2) * (self.pixel_cm / (sigma_cm * math.sqrt(2 * math.pi)))
        return matrix


def offset_in(nodes: Raster, raster: Raster) -> tuple[float, float]:
    """First pixel (x, y) of a raster in node coordinates."""
    return (raster.x_cm - nodes.x_cm) / nodes.pixel_cm, (raster.y_cm - nodes.y_cm) / nodes.pixel_cm


def refuse_coarse_pixels(axes: Array, raster: Raster) -> None:
    """Refuse voxels that are smaller than two pixels: the map could not carry their average."""
    longest = np.linalg.norm(axes, axis=2).max(axis=1)
    small = (longest > 0) & (longest < 2 * raster.pixel_cm * (1 - 1e-6))
    if np.any(small):
        raise InvalidInput(
            f"Fluence pixels of {10 * raster.pixel_cm:.2g} mm are too coarse",
            f"a voxel projects to {10 * float(longest[small].min()):.2g} mm",
            "Use pixels of at most 0.4 voxel",
        )
