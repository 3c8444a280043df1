"""Stage E: carry the directional sources along the ray lattice of one direction (docs/theory/transport.md).

The lattice is discrete: ray (j0, i0) of a direction with dominant axis 0 visits, in slice t, the voxel
`j = j0 + floor(slope_1 t + offset_1)`, `i = i0 + floor(slope_2 t + offset_2)`; each voxel is met by exactly one ray.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange

ROW = 2064
"""Distance between the rows of a state or source buffer [floats]: a compile-time constant, so that the compiler can
prove
the rows apart and vectorise; not a power of two, so that rows do not share cache sets. Limits grid width plus lattice
shift."""

_1, _2 = np.uint64(ROW), np.uint64(2 * ROW)

_FAST = {"contract", "nsz", "nnan", "ninf", "arcp"}
"""No reassociation: the order of sums is the documented one."""


@njit(inline="always")
def survival(x):
    """What survives a step of radiological length x (equations 5-7): e, and g_n = (1/x) int_0^x t^n/n! exp(-t) dt.

    Series below 0.3, where differences would cancel; above, exp(-x) as the 64th power of a cubic, which vectorises.
    Both branches are straight-line arithmetic, so that the compiler turns the choice into a select.
    """
    one = np.float32(1.0)
    half = np.float32(0.5)
    # beyond 64 nothing survives; the cubic itself would run away above 100, in a voxel of metal a centimetre wide
    y = min(x * np.float32(1.0 / 64.0), one)
    p = one - y * (one - y * (half - y * np.float32(1.0 / 6.0)))
    p = p * p
    p = p * p
    p = p * p
    p = p * p
    p = p * p
    p = p * p
    safe = max(x, np.float32(0.05))
    big0 = (one - p) / safe
    big1 = big0 - p
    big2 = big1 - half * x * p
    small0 = one - x * (
        half - x * (np.float32(1 / 6) - x * (np.float32(1 / 24) - x * (np.float32(1 / 120) - x * np.float32(1 / 720))))
    )
    small1 = x * (
        half - x * (np.float32(1 / 3) - x * (np.float32(1 / 8) - x * (np.float32(1 / 30) - x * np.float32(1 / 144))))
    )
    small2 = (
        x
        * x
        * (
            np.float32(1 / 6)
            - x * (np.float32(1 / 8) - x * (np.float32(1 / 20) - x * (np.float32(1 / 72) - x * np.float32(1 / 336))))
        )
    )
    is_small = x < np.float32(0.3)
    g0 = small0 if is_small else big0
    g1 = small1 if is_small else big1
    g2 = small2 if is_small else big2
    e = one - x * g0 if is_small else p
    return e, g0, g1, g2


@njit(inline="always")
def _flushed(value):
    """Zero instead of a number so small that it would soon be subnormal, on which processors are a hundred times
    slower."""
    return value if abs(value) > np.float32(1e-25) else np.float32(0.0)


@njit(fastmath=_FAST, error_model="numpy")
def _advance_1(rate, n, density, here, q, state, at, deposit):
    """One step of a chain of one stage for a row of n voxels.

    Buffers are flat and offsets (`here` in the grid, `at` in `state`) unsigned: a slice would cost two atomic
    operations, a
    signed index a wrap-around test that keeps the loop from being vectorised. `q` and `state` hold one row of ROW
    floats a
    stage.
    """
    for k in range(n):
        i = np.uint64(k)
        x = rate * density[here + i]
        e, g0, _, _ = survival(x)
        w, qw = state[at + i], q[i]
        deposit[here + i] += w * (x * g0) + qw * (np.float32(1.0) - g0)
        state[at + i] = _flushed(e * w + qw * g0)


@njit(fastmath=_FAST, error_model="numpy")
def _advance_2(rate, n, density, here, q, state, at, deposit):
    """One step of a chain of two stages; energy in row 0 has both to go, energy in row 1 the last one."""
    one = np.float32(1.0)
    for k in range(n):
        i = np.uint64(k)
        x = rate * density[here + i]
        e, g0, g1, _ = survival(x)
        v, w = state[at + i], state[at + _1 + i]
        qv, qw = q[i], q[_1 + i]
        deposit[here + i] += w * (x * g0) + v * (x * g1) + qw * (one - g0) + qv * (one - g0 - g1)
        state[at + i] = _flushed(e * v + qv * g0)
        state[at + _1 + i] = _flushed(e * (w + x * v) + qw * g0 + qv * g1)


@njit(fastmath=_FAST, error_model="numpy")
def _advance_3(rate, n, density, here, q, state, at, deposit):
    """One step of a chain of three stages; energy in row 0 has all three to go, in row 2 the last one."""
    one = np.float32(1.0)
    half = np.float32(0.5)
    for k in range(n):
        i = np.uint64(k)
        x = rate * density[here + i]
        e, g0, g1, g2 = survival(x)
        u, v, w = state[at + i], state[at + _1 + i], state[at + _2 + i]
        qu, qv, qw = q[i], q[_1 + i], q[_2 + i]
        stays = qw * (one - g0) + qv * (one - g0 - g1) + qu * (one - g0 - g1 - g2)
        deposit[here + i] += w * (x * g0) + v * (x * g1) + u * (x * g2) + stays
        state[at + i] = _flushed(e * u + qu * g0)
        state[at + _1 + i] = _flushed(e * (v + x * u) + qv * g0 + qu * g1)
        state[at + _2 + i] = _flushed(e * (w + x * (v + half * x * u)) + qw * g0 + qv * g1 + qu * g2)


@njit(parallel=True, cache=True)
def gram(moments, partial):
    """Sum over the voxels of each slice of moment times moment: float32 (b0, b1, R, n) to float64 (b0, R, R)."""
    b0, b1, size, _ = moments.shape
    for z in prange(b0):
        product = np.empty((size, size), np.float32)
        for y in range(b1):
            np.dot(moments[z, y], moments[z, y].T, product)
            partial[z] += product


@njit(parallel=True, cache=True)
def combine(weights, moments, combined):
    """Combinations of the moments of every row: float32 (r, R) times (b0, b1, R, n) to (b0, b1, r, n)."""
    b0, b1 = moments.shape[:2]
    for row in prange(b0 * b1):
        np.dot(weights, moments[row // b1, row % b1], combined[row // b1, row % b1])


@njit(parallel=True, cache=True)
def make_sources(weights_field, field, field_low, weights_halo, halo, box, sources):
    """Stage D: directional sources of a block of directions, a small matrix product for each row of voxels.

    Rows that the field reaches are made from `field`, whose combinations include the halo's; all others from `halo`.

    Parameters
    ----------
    weights_field, weights_halo : float32 (B K, r), float32 (B K, h)
        From combinations of moments to sources.
    field, field_low : float32 (f0, f1, r, n), int64 (2,)
        Combinations in rows that the field reaches, and the first of these rows within the box.
    halo : float32 (b0 b1, h, n)
        Combinations in every row of the box.
    box : int64 (2,)
        Rows b0, b1.
    sources : float32 (b0 b1, B K, n), output
        Energy released into each direction and radial function.
    """
    for row in prange(box[0] * box[1]):
        a, b = row // box[1] - field_low[0], row % box[1] - field_low[1]
        if 0 <= a < field.shape[0] and 0 <= b < field.shape[1]:
            np.dot(weights_field, field[a, b], sources[row])
        else:
            np.dot(weights_halo, halo[row], sources[row])


@njit(fastmath=_FAST, error_model="numpy")
def _fetch(sources, k, block, first, box, a, b, q):
    """Copy the sources of voxel row (a, b) into `q`, one row of ROW floats a stage; False when the row misses the
    box."""
    a, b = a - first[0], b - first[1]
    if a < 0 or a >= box[0] or b < 0 or b >= box[1]:
        return False
    n = sources.shape[2]
    flat = sources.reshape(-1)
    start = ((a * box[1] + b) * sources.shape[1] + block * k) * n
    for s in range(k):
        here, there = np.uint64(start + s * n), np.uint64(s * ROW + first[2])
        for i in range(n):
            q[there + np.uint64(i)] = flat[here + np.uint64(i)]
    return True


@njit(parallel=True, cache=True, fastmath=_FAST, error_model="numpy")
def sweep(axis, slope, offset, backwards, step_cm, rate, stages, density, sources, block, first, box, deposit):
    """Transport one direction through the whole grid and add the energy left in each voxel.

    Parameters
    ----------
    axis : int
        Dominant axis, 0 or 1; axis 2 (contiguous) is swept in an array with axes 1 and 2 exchanged.
    slope, offset : float32 (2,)
        Lattice along the other two axes in rising order, per slice, in marching order.
    backwards : bool
        March from the last slice to the first.
    step_cm : float
        Path length in a voxel [cm].
    rate : float32 (c,)
        lambda of each chain [1/cm].
    stages : int64 (c,)
        Stages of each chain, 1 to 3.
    density : float32 (n0, n1, n2)
        Electron density relative to water.
    sources, block : float32 (b0 b1, B K, m2), int
        Energy released into each direction of a block and radial function, and this direction's number in the block.
    first, box : int64 (3,), int64 (2,)
        First voxel of the box that `sources` covers, and its rows b0, b1.
    deposit : float32 (n0, n1, n2)
        Energy deposited; added to. Every voxel belongs to one ray, hence to one thread: no races, same bits every run.
    """
    n0, n1, n2 = density.shape
    if axis == 0:
        nt, nj = n0, n1
    else:
        nt, nj = n1, n0
    end_1 = math.floor(slope[0] * (nt - 1) + offset[0])
    end_2 = math.floor(slope[1] * (nt - 1) + offset[1])
    low_1, high_1 = min(0, end_1), max(0, end_1)
    low_2, high_2 = min(0, end_2), max(0, end_2)
    width = n2 + high_2 - low_2
    k = 0
    for c in range(stages.size):
        k += stages[c]
    dark = np.zeros(k * ROW, np.float32)
    matter, left = density.reshape(-1), deposit.reshape(-1)
    for ray in prange(nj + high_1 - low_1):
        j0 = ray - high_1
        state = np.empty(k * ROW, np.float32)
        q = np.empty(k * ROW, np.float32)
        for s in range(k):
            state[s * ROW : s * ROW + width] = 0
            q[s * ROW : s * ROW + n2] = 0
        for t in range(nt):
            j = j0 + math.floor(slope[0] * t + offset[0])
            if j < 0 or j >= nj:
                continue
            slab = nt - 1 - t if backwards else t
            a, b = (slab, j) if axis == 0 else (j, slab)
            shift = high_2 - math.floor(slope[1] * t + offset[1])
            here = np.uint64((a * n1 + b) * n2)
            released = q if _fetch(sources, k, block, first, box, a, b, q) else dark
            s = 0
            for c in range(rate.size):
                x, at = rate[c] * step_cm, np.uint64(s * ROW + shift)
                entering = released[s * ROW :]
                if stages[c] == 1:
                    _advance_1(x, n2, matter, here, entering, state, at, left)
                elif stages[c] == 2:
                    _advance_2(x, n2, matter, here, entering, state, at, left)
                else:
                    _advance_3(x, n2, matter, here, entering, state, at, left)
                s += stages[c]
