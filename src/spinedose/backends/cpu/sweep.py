"""Stage E: carry the directional sources along the ray lattice of one direction (docs/theory/transport.md).

The lattice is discrete: ray (j0, i0) of a direction with dominant axis 0 visits, in slice t, the voxel
`j = j0 + floor(slope_1 t + offset_1)`, `i = i0 + floor(slope_2 t + offset_2)`; each voxel is met by exactly one ray.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange

ROW = 2064
"""Distance between the rows of a state or source buffer [floats]: a compile-time constant, so that the compiler can prove
the rows apart and vectorise; not a power of two, so that rows do not share cache sets. Limits grid width plus lattice shift."""

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
    y = x * np.float32(1.0 / 64.0)
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
    small0 = one - x * (half - x * (np.float32(1 / 6) - x * (np.float32(1 / 24) - x * (np.float32(1 / 120) - x * np.float32(1 / 720)))))
    small1 = x * (half - x * (np.float32(1 / 3) - x * (np.float32(1 / 8) - x * (np.float32(1 / 30) - x * np.float32(1 / 144)))))
    small2 = x * x * (np.float32(1 / 6) - x * (np.float32(1 / 8) - x * (np.float32(1 / 20) - x * (np.float32(1 / 72) - x * np.float32(1 / 336)))))
    is_small = x < np.float32(0.3)
    g0 = small0 if is_small else big0
    g1 = small1 if is_small else big1
    g2 = small2 if is_small else big2
    e = one - x * g0 if is_small else p
    return e, g0, g1, g2


@njit(inline="always")
def _flushed(value):
    """Zero instead of a number so small that it would soon be subnormal, on which processors are a hundred times slower."""
    return value if abs(value) > np.float32(1e-25) else np.float32(0.0)


@njit(fastmath=_FAST, error_model="numpy")
def _advance_1(rate, rho, q, state, deposit):
    """One step of a chain of one stage for a row of rays; `q` and `state` hold one row of ROW floats a stage."""
    for i in range(rho.size):
        x = rate * rho[i]
        e, g0, _, _ = survival(x)
        w, qw = state[i], q[i]
        deposit[i] += w * (x * g0) + qw * (np.float32(1.0) - g0)
        state[i] = _flushed(e * w + qw * g0)


@njit(fastmath=_FAST, error_model="numpy")
def _advance_2(rate, rho, q, state, deposit):
    """One step of a chain of two stages; energy in row 0 has both to go, energy in row 1 the last one."""
    one = np.float32(1.0)
    for i in range(rho.size):
        x = rate * rho[i]
        e, g0, g1, _ = survival(x)
        v, w = state[i], state[ROW + i]
        qv, qw = q[i], q[ROW + i]
        deposit[i] += w * (x * g0) + v * (x * g1) + qw * (one - g0) + qv * (one - g0 - g1)
        state[i] = _flushed(e * v + qv * g0)
        state[ROW + i] = _flushed(e * (w + x * v) + qw * g0 + qv * g1)


@njit(fastmath=_FAST, error_model="numpy")
def _advance_3(rate, rho, q, state, deposit):
    """One step of a chain of three stages; energy in row 0 has all three to go, in row 2 the last one."""
    one = np.float32(1.0)
    half = np.float32(0.5)
    for i in range(rho.size):
        x = rate * rho[i]
        e, g0, g1, g2 = survival(x)
        u, v, w = state[i], state[ROW + i], state[2 * ROW + i]
        qu, qv, qw = q[i], q[ROW + i], q[2 * ROW + i]
        stays = qw * (one - g0) + qv * (one - g0 - g1) + qu * (one - g0 - g1 - g2)
        deposit[i] += w * (x * g0) + v * (x * g1) + u * (x * g2) + stays
        state[i] = _flushed(e * u + qu * g0)
        state[ROW + i] = _flushed(e * (v + x * u) + qv * g0 + qu * g1)
        state[2 * ROW + i] = _flushed(e * (w + x * (v + half * x * u)) + qw * g0 + qv * g1 + qu * g2)


@njit(parallel=True, cache=True, fastmath=_FAST, error_model="numpy")
def sweep(axis, slope, offset, backwards, step_cm, rate, stages, density, source, first, deposit):
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
    source : float32 (K, m0, m1, m2)
        Energy released into this direction and radial function; a box within the grid.
    first : int64 (3,)
        Index of the box's first voxel.
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
    k = source.shape[0]
    silent = np.zeros(k * ROW, np.float32)
    m0, m1, m2 = source.shape[1:]
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
            rho, left = density[a, b], deposit[a, b]
            a, b = a - first[0], b - first[1]
            lit = a >= 0 and a < m0 and b >= 0 and b < m1
            if lit:
                for s in range(k):
                    row = s * ROW + first[2]
                    q[row : row + m2] = source[s, a, b]
            now = q if lit else silent
            s = 0
            for c in range(rate.size):
                entering, flying = now[s * ROW :], state[s * ROW + shift :]
                x = rate[c] * step_cm
                if stages[c] == 1:
                    _advance_1(x, rho, entering, flying, left)
                elif stages[c] == 2:
                    _advance_2(x, rho, entering, flying, left)
                else:
                    _advance_3(x, rho, entering, flying, left)
                s += stages[c]
