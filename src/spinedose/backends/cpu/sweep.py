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
def add_halo(halo, place, z, y, field):
    """Add the moments (b0, b1, h, n) of the halo to those (f0, f1, R, n) of the field, from row (z, y) of the halo on.

    `place`, int64 (h,), says which of the field's moments each of the halo's is.
    """
    f0, f1, _, n = field.shape
    for task in prange(f0 * f1):
        a, b = task // f1, task % f1
        for k in range(place.size):
            for i in range(n):
                field[a, b, place[k], i] += halo[z + a, y + b, k, i]


@njit(parallel=True, cache=True)
def gram(moments, partial):
    """Sum over voxels of moment times moment, (b0, b1, R, n) to float64 (b0, R, R).

    Every other row of each slice does: rows alternate from slice to slice, and neighbours are alike.
    """
    b0, b1, size, _ = moments.shape
    for z in prange(b0):
        product = np.empty((size, size), np.float32)
        for y in range(z % 2 if b1 > 1 else 0, b1, 2):
            np.dot(moments[z, y], moments[z, y].T, product)
            partial[z] += product


@njit(parallel=True, cache=True)
def combine(weights_field, field, y_low, weights_halo, halo, z_low, combined):
    """Combinations of the moments of every row, (f0, b1, r, n).

    Parameters
    ----------
    weights_field, field : float32 (r, R), float32 (f0, f1, R, n)
        From moments to combinations, and the moments of the rows `y_low` up to `y_low + f1` of each slice.
    weights_halo, halo : float32 (r, h), float32 (b0, b1, h, n)
        The same for all other rows; the first slice of `combined` is slice `z_low` of the halo.
    """
    slices, rows = combined.shape[:2]
    for task in prange(slices * rows):
        a, b = task // rows, task % rows
        if y_low <= b < y_low + field.shape[1]:
            np.dot(weights_field, field[a, b - y_low], combined[a, b])
        else:
            np.dot(weights_halo, halo[a + z_low, b], combined[a, b])


@njit(parallel=True, cache=True)
def exchange(values):
    """Exchange rows and columns of every slice: (b0, b1, r, n) to (b0, n, r, b1)."""
    b0, b1, rank, n = values.shape
    turned = np.empty((b0, n, rank, b1), np.float32)
    blocks = (n + 15) // 16
    for task in prange(b0 * blocks):
        a, first = task // blocks, task % blocks * 16
        for r in range(rank):
            for b in range(b1):
                for i in range(first, min(first + 16, n)):  # a cache line of each row
                    turned[a, i, r, b] = values[a, b, r, i]
    return turned


@njit(parallel=True, cache=True)
def matter_in_rows(density):
    """First voxel with matter and the one after the last, of every row: int32 (n0, n1, 2); both 0 in an empty row."""
    n0, n1, n2 = density.shape
    extent = np.zeros((n0, n1, 2), np.int32)
    for a in prange(n0):
        for b in range(n1):
            first, last = n2, 0
            for i in range(n2):
                if density[a, b, i] > 0:
                    first, last = min(first, i), i + 1
            if last > 0:
                extent[a, b, 0], extent[a, b, 1] = first, last
    return extent


@njit(parallel=True, cache=True)
def rows_with_faces(kind):
    """Rows in which there is other matter than water: bool (n0, n1)."""
    found = np.zeros(kind.shape[:2], np.bool_)
    for a in prange(kind.shape[0]):
        for b in range(kind.shape[1]):
            for i in range(kind.shape[2]):
                if kind[a, b, i] > 0:
                    found[a, b] = True
                    break
    return found


@njit(fastmath=_FAST, error_model="numpy")
def _send_back(kind, returned, density, here, there, low, high, first, last, state, at, deposit):
    """Electrons that come into matter which scatters them more: some of their energy stays in the voxel before it.

    Of a voxel less dense than water only as much as it can stop: nearly empty ones would get an enormous dose.

    Row of voxels `here`, and `there` on the same rays one step before (both flat, of voxel 0); electrons have the rows
    `first` up to `last` of `state`, whose voxel 0 is at `at` in row 0 (docs/theory/heterogeneity.md, equation 4).
    """
    for i in range(low, high):
        own = returned[kind[here + np.uint64(i)]]
        if own == 0:
            continue
        before = np.int64(there) + i
        share = (own - returned[kind[before]]) * min(density[before], np.float32(1.0))
        if share <= 0:
            continue
        back = np.float32(0.0)
        for s in range(first, last):
            place = at + np.uint64(s * ROW + i)
            part = share * state[place]
            state[place] -= part
            back += part
        deposit[before] += back


@njit(fastmath=_FAST, error_model="numpy")
def _fetch(sources, first_source, k, start, low, high, q):
    """Copy the sources of voxels `low` up to `high` into `q`, a row of ROW floats for each of `k` stages.

    `sources` float32 (B K, n) begin with voxel `start`, none are elsewhere; those of the direction begin with row
    `first_source`.
    """
    n = sources.shape[1]
    flat = sources.reshape(-1)
    from_i = min(max(low, start), high)
    to_i = max(min(high, start + n), from_i)
    for s in range(k):
        here, there = np.uint64((first_source + s) * n + from_i - start), np.uint64(s * ROW + from_i)
        for i in range(to_i - from_i):
            q[there + np.uint64(i)] = flat[here + np.uint64(i)]
        q[s * ROW + low : s * ROW + from_i] = 0
        q[s * ROW + to_i : s * ROW + high] = 0


@njit(fastmath=_FAST, error_model="numpy")
def _make_sources(a, b, first, weights_field, field, reached, weights_halo, halo, sources):
    """Stage D for a row of voxels (a, b); False where nothing is released. Arguments as in `sweep`."""
    a, b = a - first[0], b - first[1]
    if a < 0 or a >= halo.shape[0] or b < 0 or b >= halo.shape[1]:
        return False
    if 0 <= a - reached[0] < field.shape[0] and reached[1] <= b < reached[2]:
        np.dot(weights_field, field[a - reached[0], b], sources)
    else:
        np.dot(weights_halo, halo[a, b], sources)
    return True


@njit(parallel=True, cache=True, fastmath=_FAST, error_model="numpy")
def sweep(
    axis, backwards, begin, slope, offset, step_cm, rate, stages, density, electron_density, kind, faces, returned,
    extent, first, weights_field, field, reached, weights_halo, halo, state, deposit,
):  # fmt: skip
    """Make the sources of S bundles of directions and carry them through the grid, slice after slice (stages D and E).

    One thread takes one bundle from end to end, with a dose of its own: threads never wait for each other, so that a
    busy computer costs no more than its share, and the same bits come out every run.

    Parameters
    ----------
    axis, backwards : int64 (S,), bool (S,)
        Dominant axis of each bundle, 0 or 1, and whether it marches from the last slice to the first; axis 2
        (contiguous) is swept in an array with axes 1 and 2 exchanged.
    begin : int64 (S + 1,)
        First direction of each bundle, and the number n of all.
    slope, offset : float32 (n, 2)
        Lattice along the other two axes in rising order, per slice, in marching order.
    step_cm : float32 (n,)
        Path length in a voxel [cm].
    rate : float32 (c,)
        lambda of each chain [1/cm].
    stages : int64 (c,)
        Stages of each chain, 1 to 3; K together.
    density, electron_density : float32 (n0, n1, n2)
        Electron density relative to water, in which the first chain (scattered photons) is carried, and that times the
        factor of each material for electrons, in which all others are.
    kind : uint8 (n0, n1, n2)
        Number of each voxel's material.
    faces : bool (n0, n1)
        Rows that hold other matter than water, from `rows_with_faces`; none: nothing is sent back.
    returned : float32 (m,)
        Share of the energy of electrons coming from water that each material sends back.
    extent : int32 (n0, n1, 2)
        From `matter_in_rows`: in voxels without matter nothing is released and nothing changes, so they are left out.
    first : int64 (3,)
        First voxel of the box in which energy is released.
    weights_field, weights_halo : float32 (n K, r), float32 (n K, h)
        From combinations of moments to sources.
    field, reached : float32 (f0, b1, r, m), int64 (3,)
        Combinations of all moments in the slices from `reached[0]` of the box on; taken in their rows `reached[1]` up
        to `reached[2]`.
    halo : float32 (b0, b1, h, m)
        Combinations of the halo's moments, taken in all other rows of the box.
    state : float32 (S, any)
        Working memory for what is on its way: ROW floats for each stage, ray and direction of a bundle.
    deposit : float32 (S, n0, n1, n2)
        Energy deposited by each bundle; added to.
    """
    k = weights_halo.shape[0] // step_cm.size
    for s in prange(axis.size):
        a, b = begin[s], begin[s + 1]
        _sweep_bundle(
            axis[s], backwards[s], slope[a:b], offset[a:b], step_cm[a:b], rate, stages, density, electron_density,
            kind, faces, returned, extent, first, weights_field[a * k : b * k], field, reached,
            weights_halo[a * k : b * k], halo, state[s], deposit[s],
        )  # fmt: skip


@njit(fastmath=_FAST, error_model="numpy")
def _sweep_bundle(
    axis, backwards, slope, offset, step_cm, rate, stages, density, electron_density, kind, faces, returned, extent,
    first, weights_field, field, reached, weights_halo, halo, state, deposit,
):  # fmt: skip
    """Sweep the directions of one bundle; arguments as in `sweep`.

    Sources are made for a row of voxels when the rays of the bundle arrive there, and used at once: they stay in the
    cache.
    """
    n0, n1, n2 = density.shape
    if axis == 0:
        nt, nj = n0, n1
    else:
        nt, nj = n1, n0
    count, k = step_cm.size, weights_halo.shape[0] // step_cm.size
    end = np.floor(slope * np.float32(nt - 1) + offset)
    high_1, rays, high_2 = np.empty(count, np.int64), 0, np.empty(count, np.int64)
    for m in range(count):
        high_1[m], high_2[m] = max(0, int(end[m, 0])), max(0, int(end[m, 1]))
        rays = max(rays, nj + high_1[m] - min(0, int(end[m, 0])))
    width = n2 + int(np.abs(slope[:, 1]).max() * nt) + 2
    for row in range(count * rays * k):
        state[row * ROW : row * ROW + width] = 0
    of_photons, of_electrons, left = density.reshape(-1), electron_density.reshape(-1), deposit.reshape(-1)
    kinds = kind.reshape(-1)
    dark, bright = np.zeros(k * ROW, np.float32), np.empty(k * ROW, np.float32)
    sources = np.empty((count * k, halo.shape[3]), np.float32)
    for t in range(nt):
        slab = nt - 1 - t if backwards else t
        for j in range(nj):
            a, b = (slab, j) if axis == 0 else (j, slab)
            low, high = np.int64(extent[a, b, 0]), np.int64(extent[a, b, 1])
            if low == high:
                continue
            is_bright = _make_sources(a, b, first, weights_field, field, reached, weights_halo, halo, sources)
            q = bright if is_bright else dark
            here = np.uint64((a * n1 + b) * n2 + low)
            for m in range(count):
                ray = j - math.floor(slope[m, 0] * t + offset[m, 0]) + high_1[m]
                shift = high_2[m] - math.floor(slope[m, 1] * t + offset[m, 1])
                if is_bright:
                    _fetch(sources, m * k, k, first[2], low, high, q)
                if t > 0 and faces[a, b]:
                    dj = math.floor(slope[m, 0] * t + offset[m, 0]) - math.floor(slope[m, 0] * (t - 1) + offset[m, 0])
                    di = math.floor(slope[m, 1] * t + offset[m, 1]) - math.floor(slope[m, 1] * (t - 1) + offset[m, 1])
                    last_slab, last_j = slab + 1 if backwards else slab - 1, j - dj
                    if 0 <= last_j < nj:
                        c, d = (last_slab, last_j) if axis == 0 else (last_j, last_slab)
                        _send_back(
                            kinds, returned, of_photons, np.uint64((a * n1 + b) * n2), (c * n1 + d) * n2 - di,
                            max(low, di), min(high, n2 + di), stages[0], k, state,
                            np.uint64((m * rays + ray) * k * ROW + shift), left,
                        )  # fmt: skip
                s = 0
                for c in range(rate.size):
                    x = rate[c] * step_cm[m]
                    at = np.uint64(((m * rays + ray) * k + s) * ROW + shift + low)
                    entering = q[s * ROW + low :]
                    matter = of_photons if c == 0 else of_electrons
                    if stages[c] == 1:
                        _advance_1(x, high - low, matter, here, entering, state, at, left)
                    elif stages[c] == 2:
                        _advance_2(x, high - low, matter, here, entering, state, at, left)
                    else:
                        _advance_3(x, high - low, matter, here, entering, state, at, left)
                    s += stages[c]
