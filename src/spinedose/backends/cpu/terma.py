"""Stage C: energy released in every voxel by every segment, summed into angular moments (docs/theory/terma.md)."""

from __future__ import annotations

import numpy as np
from numba import njit, prange

TILE = 8
"""Rows of voxels worked on together: neighbours read the same part of a fan, and their moments fit into the cache."""


@njit(inline="always")
def crossing(constant, slope, low, high):
    """Keep the part of [low, high] where constant + slope * t >= 0."""
    if slope > 1e-12:
        low = max(low, -constant / slope)
    elif slope < -1e-12:
        high = min(high, -constant / slope)
    elif constant < 0:
        high = low - 1.0
    return low, high


@njit(inline="always")
def along_fan(depth, g, a, b, c):
    """Radiological depth of fan `g` at fractional ray (a along u, b along v) and plane c.

    Whole indices instead of slices here and below: a slice costs two atomic operations.
    """
    i, j, k = int(a), int(b), min(int(c), depth.shape[3] - 2)
    a, b, c = a - np.float32(i), b - np.float32(j), c - np.float32(k)
    p, q = depth[g, j, i, k], depth[g, j, i + 1, k]
    r, s = depth[g, j + 1, i, k], depth[g, j + 1, i + 1, k]
    p, r = p + a * (q - p), r + a * (s - r)
    near = p + b * (r - p)
    p, q = depth[g, j, i, k + 1], depth[g, j, i + 1, k + 1]
    r, s = depth[g, j + 1, i, k + 1], depth[g, j + 1, i + 1, k + 1]
    p, r = p + a * (q - p), r + a * (s - r)
    return near + c * (p + b * (r - p) - near)


@njit(inline="always")
def add_row(maps, s, raster, rotation, x, step, y, z, sad, from_t, to_t, total):
    """Add the fluence of shot `s` along a row of voxels, from voxel `from_t` up to `to_t`; x is that of voxel 0.

    Returns the part of the row that the map covers: first voxel, and the one after the last.
    """
    one = np.float32(1.0)
    ax = np.float32(rotation[s, 0, 0] * x + rotation[s, 0, 1] * y + rotation[s, 0, 2] * z)
    ay = np.float32(rotation[s, 1, 0] * x + rotation[s, 1, 1] * y + rotation[s, 1, 2] * z)
    az = np.float32(1.0 - (rotation[s, 2, 0] * x + rotation[s, 2, 1] * y + rotation[s, 2, 2] * z) / sad)
    bx = np.float32(rotation[s, 0, 0] * step)
    by = np.float32(rotation[s, 1, 0] * step)
    bz = np.float32(-rotation[s, 2, 0] * step / sad)
    ny, nx = maps.shape[1:]
    x_low, y_low, pixel = raster[0], raster[1], raster[2]
    x_high, y_high = x_low + (nx - 1) * pixel, y_low + (ny - 1) * pixel
    low, high = float(from_t), to_t - 1.0
    low, high = crossing(ax - x_low * az, bx - x_low * bz, low, high)
    low, high = crossing(x_high * az - ax, x_high * bz - bx, low, high)
    low, high = crossing(ay - y_low * az, by - y_low * bz, low, high)
    low, high = crossing(y_high * az - ay, y_high * bz - by, low, high)
    if low > high:
        return to_t, from_t
    first, last = int(np.ceil(low)), int(np.floor(high)) + 1
    u, v, scale = np.float32(x_low / pixel), np.float32(y_low / pixel), np.float32(1.0 / pixel)
    for t in range(first, last):
        n = np.float32(t)
        shrink = scale / (az + n * bz)
        cx, cy = (ax + n * bx) * shrink - u, (ay + n * by) * shrink - v
        if cx >= 0 and cy >= 0 and cx < nx - 1 and cy < ny - 1:  # rounding may leave a hair's breadth
            i, j = int(cx), int(cy)
            fx, fy = cx - np.float32(i), cy - np.float32(j)
            near = maps[s, j, i] * (one - fx) + fx * maps[s, j, i + 1]
            far = maps[s, j + 1, i] * (one - fx) + fx * maps[s, j + 1, i + 1]
            total[t] += near + fy * (far - near)
    return first, last


@njit(error_model="numpy", fastmath={"contract", "nsz"})
def add_moments(moments, row, length, begin, count, order, energy, plain, loss, x, y, z, norm, scratch):
    """Add energy times the harmonics of its direction to the moments of a row of voxels (equation 5).

    Parameters
    ----------
    moments : float32, flat
        (rows, S R, length).
    row, length, begin, count : int
        Row, its length, and the part of it: voxels `begin` up to `begin + count`.
    order : int
        Degree L; R = (L + 1)^2.
    energy : float32 (S, any)
        Energy, and energy times the weights of the cone table's other parts, of `count` voxels; the last part with
        `loss`, if it is not `plain`.
    plain : int
        Number of parts to add without `loss`.
    loss : float32 (L + 1, any)
        Factor on the last part, for each degree and voxel; (0, any): there is nothing in it.
    x, y, z : float32 (count,)
        Direction of travel, patient axes.
    norm : float32 (R,)
        Factors that make the harmonics orthonormal.
    scratch : float32 (4, length)
        Working memory.
    """
    size = (order + 1) ** 2
    cosine, sine, below, current = scratch[0], scratch[1], scratch[2], scratch[3]
    for i in range(count):
        cosine[i] = np.float32(1.0)
        sine[i] = np.float32(0.0)
    diagonal = np.float32(1.0)
    for m in range(order + 1):
        if m > 0:
            diagonal *= np.float32(1 - 2 * m)
            for i in range(count):
                c = x[i] * cosine[i] - y[i] * sine[i]
                sine[i] = x[i] * sine[i] + y[i] * cosine[i]
                cosine[i] = c
        for i in range(count):
            below[i] = np.float32(0.0)
            current[i] = diagonal
        for degree in range(m, order + 1):
            if degree > m:
                p, q = np.float32((2 * degree - 1) / (degree - m)), np.float32((degree + m - 1) / (degree - m))
                for i in range(count):
                    above = p * z[i] * current[i] - q * below[i]
                    below[i] = current[i]
                    current[i] = above
            centre = degree * degree + degree
            for sign in range(2 if m > 0 else 1):
                n = centre - m if sign else centre + m
                factor = norm[n]
                wave = sine if sign else cosine
                for part in range(plain):
                    share = energy[part]
                    first = np.uint64(((row * energy.shape[0] + part) * size + n) * length + begin)
                    for i in range(count):
                        moments[first + np.uint64(i)] += share[i] * (factor * current[i] * wave[i])
                if loss.shape[0] > 0 and degree > 0:
                    share, lost = energy[plain], loss[degree]
                    first = np.uint64(((row * energy.shape[0] + plain) * size + n) * length + begin)
                    for i in range(count):
                        moments[first + np.uint64(i)] += share[i] * lost[i] * (factor * current[i] * wave[i])


@njit(parallel=True, cache=True, error_model="numpy", fastmath={"contract", "nsz"})
def accumulate(
    density, material, origin, spacing, first, isocentre, sad, reach,
    group_rotation, group_first, shot_rotation, has_electrons,
    photon, photon_raster, electron, electron_raster,
    depth, fan, top, terma, table_step, soft_row, soft_step, electron_decay, lost,
    order, norm, moments, electron_dose,
):  # fmt: skip
    """Add what a block of groups releases.

    Parameters
    ----------
    density, material : float32 (nz, ny, nx), uint8 (nz, ny, nx)
        Electron density relative to water, and number of the material.
    origin, spacing : float64 (3,)
        Of the grid (x, y, z) [cm].
    first : int64 (3,)
        Index (z, y, x) of the first voxel of the box that `moments` covers.
    isocentre, sad : float64 (3,), float
        Isocentre (x, y, z) and source distance [cm].
    reach : float64 (4,)
        u_low, u_high, v_low, v_high on the isocentre plane, gantry system [cm].
    group_rotation, group_first : float64 (g, 3, 3), int64 (g + 1,)
        Patient to gantry; shots of each group.
    shot_rotation, has_electrons : float64 (n, 3, 3), bool
        Patient to collimator; whether to add the dose of electrons.
    photon, photon_raster, electron, electron_raster : float32 (n, my, mx), float64 (3,)
        Fluence maps, with first pixel x, y and pixel size [cm].
    depth, fan, top : float32 (g, nv, nu, planes), float64 (4,), float64 (g,)
        Fan depths [cm]; first u, first v, pitch and plane step [cm]; gantry z of the first plane [cm].
    terma, table_step : float32 (m, s, d, S), float
        TERMA per fluence [cm^2/g] and weights of the cone table's other parts, for each material, softening and depth;
        step in depth [cm].
    soft_row, soft_step : float32 (r,), float
        Row of `terma` (fractional) against off-axis radius; step in radius [cm].
    electron_decay : float
        Attenuation of contaminating electrons [1/cm].
    lost : float32 (m, any)
        Share of the moments of electrons, degree by degree, that each material takes away; m = 1: all is water.
    order, norm : int, float32 (R,)
        Degree of the moments; factors of the harmonics.
    moments : float32 (b0, b1, S R, b2), added to
        Moments of the energy released a voxel volume (per gram of water): plain, then weighted.
    electron_dose : float32 (nz, ny, nx), added to
        Dose of contaminating electrons, in the same unit per mass.
    """
    b0, b1, _, b2 = moments.shape
    flat = moments.reshape(-1)
    fan_u, fan_v = np.float32(fan[0]), np.float32(fan[1])
    per_pitch, per_step, source = np.float32(1.0 / fan[2]), np.float32(1.0 / fan[3]), np.float32(sad)
    per_table, per_soft = np.float32(1.0 / table_step), np.float32(1.0 / soft_step)
    rows_r = soft_row.size
    rows_s, rows_d, parts = terma.shape[1:]
    last_soft, last_node = np.float32(rows_r - 1.001), np.float32(rows_d - 1.001)
    tiles = (b1 + TILE - 1) // TILE
    for task in prange(b0 * tiles):
        kz = task // tiles
        first_row = (task % tiles) * TILE
        rows = min(TILE, b1 - first_row)
        pz = origin[2] + (first[0] + kz) * spacing[2] - isocentre[2]
        px = origin[0] + first[2] * spacing[0] - isocentre[0]
        az, ax = first[0] + kz, first[2]
        fluence = np.zeros(b2, np.float32)
        contaminant = np.zeros(b2, np.float32)
        spreads = lost.shape[0] > 1
        released = np.empty((parts + 1 if spreads else parts, b2), np.float32)
        loss = np.zeros((order + 1 if spreads else 0, b2), np.float32)
        toward = np.empty((3, b2), np.float32)
        scratch = np.empty((4, b2), np.float32)
        for g in range(group_rotation.shape[0]):
            sx, sy, sz = sad * group_rotation[g, 2, 0], sad * group_rotation[g, 2, 1], sad * group_rotation[g, 2, 2]
            for j in range(rows):
                ay = first[1] + first_row + j
                py = origin[1] + ay * spacing[1] - isocentre[1]
                # gantry coordinates along the row: linear in the voxel number t
                gx = group_rotation[g, 0, 0] * px + group_rotation[g, 0, 1] * py + group_rotation[g, 0, 2] * pz
                gy = group_rotation[g, 1, 0] * px + group_rotation[g, 1, 1] * py + group_rotation[g, 1, 2] * pz
                gz = group_rotation[g, 2, 0] * px + group_rotation[g, 2, 1] * py + group_rotation[g, 2, 2] * pz
                hx, hy, hz = (
                    group_rotation[g, 0, 0] * spacing[0],
                    group_rotation[g, 1, 0] * spacing[0],
                    group_rotation[g, 2, 0] * spacing[0],
                )
                fz, kf = (sad - gz) / sad, -hz / sad
                low, high = 0.0, b2 - 1.0
                low, high = crossing(gx - reach[0] * fz, hx - reach[0] * kf, low, high)
                low, high = crossing(reach[1] * fz - gx, reach[1] * kf - hx, low, high)
                low, high = crossing(gy - reach[2] * fz, hy - reach[2] * kf, low, high)
                low, high = crossing(reach[3] * fz - gy, reach[3] * kf - hy, low, high)
                if low > high:
                    continue
                from_t, to_t = int(np.ceil(low)), int(np.floor(high)) + 1
                begin, end = to_t, from_t
                for s in range(group_first[g], group_first[g + 1]):
                    a, b = add_row(
                        photon, s, photon_raster, shot_rotation, px, spacing[0], py, pz, sad, from_t, to_t, fluence
                    )
                    begin, end = min(begin, a), max(end, b)
                    if has_electrons:
                        a, b = add_row(
                            electron, s, electron_raster, shot_rotation, px, spacing[0], py, pz, sad, from_t, to_t,
                            contaminant,
                        )  # fmt: skip
                        begin, end = min(begin, a), max(end, b)
                from_t, to_t = begin, end
                is_other = False
                # single precision from here on: positions within 50 cm are good to a tenth of a micrometre
                ox, oy, oz = np.float32(gx), np.float32(gy), np.float32(gz)
                dx, dy, dz = np.float32(hx), np.float32(hy), np.float32(hz)
                for t in range(from_t, to_t):
                    psi, electrons = fluence[t], contaminant[t]
                    fluence[t] = contaminant[t] = np.float32(0.0)
                    i = t - from_t
                    for part in range(released.shape[0]):
                        released[part, i] = np.float32(0.0)
                    rho = density[az, ay, ax + t]
                    if rho <= 0 or (psi == 0 and electrons == 0):
                        continue
                    n = np.float32(t)
                    z = oz + n * dz
                    magnify = source / (source - z)
                    u, v = (ox + n * dx) * magnify, (oy + n * dy) * magnify
                    path = along_fan(
                        depth, g, (u - fan_u) * per_pitch, (v - fan_v) * per_pitch, (np.float32(top[g]) - z) * per_step
                    )
                    square = magnify * magnify
                    if electrons != 0 and electron_decay * path < 7.0:
                        electron_dose[az, ay, ax + t] += square * electrons * np.exp(-electron_decay * path)
                    if psi == 0:
                        continue
                    radius = min(np.sqrt(u * u + v * v) * per_soft, last_soft)
                    m = int(radius)
                    soft = soft_row[m] + (radius - np.float32(m)) * (soft_row[m + 1] - soft_row[m])
                    ms = min(int(soft), max(rows_s - 2, 0))
                    fs = soft - np.float32(ms)
                    ns = min(ms + 1, rows_s - 1)
                    node = min(path * per_table, last_node)
                    md = int(node)
                    fd = node - np.float32(md)
                    kind = material[az, ay, ax + t]
                    energy = psi * square * rho
                    for part in range(parts):
                        here = terma[kind, ms, md, part]
                        here += fs * (terma[kind, ns, md, part] - here)
                        there = terma[kind, ms, md + 1, part]
                        there += fs * (terma[kind, ns, md + 1, part] - there)
                        if part == 0:
                            energy *= here + fd * (there - here)
                            released[0, i] = energy
                        else:
                            released[part, i] = energy * (here + fd * (there - here))
                    if spreads and kind > 0:
                        released[parts, i] = energy
                        for degree in range(order + 1):
                            loss[degree, i] = lost[kind, degree]
                        is_other = True
                x, y, z = np.float32(px - sx), np.float32(py - sy), np.float32(pz - sz)
                flat_square, width = y * y + z * z, np.float32(spacing[0])
                for i in range(to_t - from_t):
                    along = x + np.float32(from_t + i) * width
                    length = np.float32(1.0) / np.sqrt(along * along + flat_square)
                    toward[0, i], toward[1, i], toward[2, i] = along * length, y * length, z * length
                add_moments(
                    flat, kz * b1 + first_row + j, b2, from_t, to_t - from_t, order, released, parts,
                    loss if is_other else loss[:0],
                    toward[0], toward[1], toward[2], norm, scratch,
                )  # fmt: skip


@njit(parallel=True, cache=True)
def flush(moments, floor):
    """Set moments smaller than `floor` to zero: their products would be subnormal, and slow the matrix products."""
    flat = moments.reshape(-1, moments.shape[3])
    for row in prange(flat.shape[0]):
        for i in range(flat.shape[1]):
            if abs(flat[row, i]) < floor:
                flat[row, i] = np.float32(0.0)
