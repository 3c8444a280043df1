"""Stage C: energy released in every voxel by every segment, summed into angular moments (docs/theory/terma.md)."""

from __future__ import annotations

import numpy as np
from numba import njit, prange


@njit(inline="always")
def bilinear(maps, s, x, y):
    """Interpolate map `s` at pixel indices (x, y); 0 outside the outermost pixel centres."""
    ny, nx = maps.shape[1:]
    if x < 0 or y < 0 or x >= nx - 1 or y >= ny - 1:
        return np.float32(0.0)
    i, j = int(x), int(y)
    fx, fy = x - np.float32(i), y - np.float32(j)
    low = maps[s, j, i] + fx * (maps[s, j, i + 1] - maps[s, j, i])
    high = maps[s, j + 1, i] + fx * (maps[s, j + 1, i + 1] - maps[s, j + 1, i])
    return low + fy * (high - low)


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


@njit(parallel=True, cache=True, error_model="numpy", fastmath={"contract", "nsz"})
def accumulate(
    density, origin, spacing, first, isocentre, sad, reach,
    group_rotation, group_first, segment_rotation, segment_base,
    photon, photon_raster, electron, electron_raster,
    depth, fan, top, terma, table_step, soft_row, soft_step, electron_decay,
    direction, direction_first, direction_bin, moments, electron_dose,
):  # fmt: skip
    """Add what a block of groups releases.

    Parameters
    ----------
    density : float32 (nz, ny, nx)
        Electron density relative to water.
    origin, spacing : float64 (3,)
        Of the grid (x, y, z) [cm].
    first : int64 (3,)
        Index (z, y, x) of the first voxel of the box that `moments` covers.
    isocentre, sad : float64 (3,), float
        Isocentre (x, y, z) and source distance [cm].
    reach : float64 (4,)
        u_low, u_high, v_low, v_high on the isocentre plane, gantry system [cm].
    group_rotation, group_first : float64 (g, 3, 3), int64 (g + 1,)
        Patient to gantry; segments of each group.
    segment_rotation, segment_base : float64 (n, 3, 3), int
        Patient to collimator; number of the first segment of the block in `photon`.
    photon, photon_raster, electron, electron_raster : float32 (n, my, mx), float64 (3,)
        Fluence maps, with first pixel x, y and pixel size [cm].
    depth, fan, top : float32 (g, nv, nu, planes), float64 (4,), float64 (g,)
        Fan depths [cm]; first u, first v, pitch and plane step [cm]; gantry z of the first plane [cm].
    terma, table_step : float32 (s, d, 2), float
        TERMA per fluence [cm^2/g] and hardness against depth, for each softening; step in depth [cm].
    soft_row, soft_step : float32 (r,), float
        Row of `terma` (fractional) against off-axis radius; step in radius [cm].
    electron_decay : float
        Attenuation of contaminating electrons [1/cm].
    direction, direction_first, direction_bin : float32 (g, bv, bu, R), float64 (2,), float
        Harmonics of the beam direction on cells of the isocentre plane.
    moments : float32 (b0, b1, b2, 2 R), added to
        Moments of the energy released a voxel volume (per gram of water): plain, then weighted with hardness.
    electron_dose : float32 (nz, ny, nx), added to
        Dose of contaminating electrons, in the same unit per mass.
    """
    b0, b1, b2, width = moments.shape
    size = width // 2
    groups = group_rotation.shape[0]
    planes = depth.shape[3]
    fan_u, fan_v, pitch, step = fan
    rows_r = soft_row.size
    rows_s, rows_d = terma.shape[:2]
    for row in prange(b0 * b1):
        kz, jy = row // b1, row % b1
        pz = origin[2] + (first[0] + kz) * spacing[2] - isocentre[2]
        py = origin[1] + (first[1] + jy) * spacing[1] - isocentre[1]
        px = origin[0] + first[2] * spacing[0] - isocentre[0]
        for g in range(groups):
            r = group_rotation[g]
            # gantry coordinates along the row: linear in the voxel number t
            gx, hx = r[0, 0] * px + r[0, 1] * py + r[0, 2] * pz, r[0, 0] * spacing[0]
            gy, hy = r[1, 0] * px + r[1, 1] * py + r[1, 2] * pz, r[1, 0] * spacing[0]
            gz, hz = r[2, 0] * px + r[2, 1] * py + r[2, 2] * pz, r[2, 0] * spacing[0]
            fz, kf = (sad - gz) / sad, -hz / sad
            low, high = 0.0, b2 - 1.0
            low, high = crossing(gx - reach[0] * fz, hx - reach[0] * kf, low, high)
            low, high = crossing(reach[1] * fz - gx, reach[1] * kf - hx, low, high)
            low, high = crossing(gy - reach[2] * fz, hy - reach[2] * kf, low, high)
            low, high = crossing(reach[3] * fz - gy, reach[3] * kf - hy, low, high)
            if low > high:
                continue
            for t in range(int(np.ceil(low)), int(np.floor(high)) + 1):
                rho = density[first[0] + kz, first[1] + jy, first[2] + t]
                if rho <= 0:
                    continue
                z = gz + t * hz
                magnify = sad / (sad - z)
                u, v = (gx + t * hx) * magnify, (gy + t * hy) * magnify
                x = px + t * spacing[0]
                psi = np.float32(0.0)
                for s in range(group_first[g], group_first[g + 1]):
                    q = segment_rotation[s]
                    scale = sad / (sad - (q[2, 0] * x + q[2, 1] * py + q[2, 2] * pz))
                    cx = (q[0, 0] * x + q[0, 1] * py + q[0, 2] * pz) * scale
                    cy = (q[1, 0] * x + q[1, 1] * py + q[1, 2] * pz) * scale
                    psi += bilinear(
                        photon,
                        s - segment_base,
                        np.float32((cx - photon_raster[0]) / photon_raster[2]),
                        np.float32((cy - photon_raster[1]) / photon_raster[2]),
                    )
                # radiological depth of the voxel
                a, b = np.float32((u - fan_u) / pitch), np.float32((v - fan_v) / pitch)
                c = np.float32((top[g] - z) / step)
                i, j, k = int(a), int(b), min(int(c), planes - 2)
                a, b, c = a - np.float32(i), b - np.float32(j), c - np.float32(k)
                one = np.float32(1.0)
                near = (depth[g, j, i, k] * (one - a) + depth[g, j, i + 1, k] * a) * (one - b) + (
                    depth[g, j + 1, i, k] * (one - a) + depth[g, j + 1, i + 1, k] * a
                ) * b
                far = (depth[g, j, i, k + 1] * (one - a) + depth[g, j, i + 1, k + 1] * a) * (one - b) + (
                    depth[g, j + 1, i, k + 1] * (one - a) + depth[g, j + 1, i + 1, k + 1] * a
                ) * b
                path = near + c * (far - near)
                square = np.float32(magnify * magnify)
                if electron_decay * path < 7.0:
                    for s in range(group_first[g], group_first[g + 1]):
                        q = segment_rotation[s]
                        scale = sad / (sad - (q[2, 0] * x + q[2, 1] * py + q[2, 2] * pz))
                        cx = (q[0, 0] * x + q[0, 1] * py + q[0, 2] * pz) * scale
                        cy = (q[1, 0] * x + q[1, 1] * py + q[1, 2] * pz) * scale
                        electron_dose[first[0] + kz, first[1] + jy, first[2] + t] += (
                            square
                            * np.exp(-electron_decay * path)
                            * bilinear(
                                electron,
                                s - segment_base,
                                np.float32((cx - electron_raster[0]) / electron_raster[2]),
                                np.float32((cy - electron_raster[1]) / electron_raster[2]),
                            )
                        )
                if psi == 0:
                    continue
                radius = min(np.float32(np.sqrt(u * u + v * v) / soft_step), np.float32(rows_r - 1.001))
                m = int(radius)
                soft = soft_row[m] + (radius - np.float32(m)) * (soft_row[m + 1] - soft_row[m])
                ms = min(int(soft), max(rows_s - 2, 0))
                fs = soft - np.float32(ms)
                ns = min(ms + 1, rows_s - 1)
                node = min(np.float32(path / table_step), np.float32(rows_d - 1.001))
                md = int(node)
                fd = node - np.float32(md)
                here = terma[ms, md, 0] * (one - fs) + terma[ns, md, 0] * fs
                there = terma[ms, md + 1, 0] * (one - fs) + terma[ns, md + 1, 0] * fs
                energy = psi * square * rho * (here + fd * (there - here))
                here = terma[ms, md, 1] * (one - fs) + terma[ns, md, 1] * fs
                there = terma[ms, md + 1, 1] * (one - fs) + terma[ns, md + 1, 1] * fs
                hard = energy * (here + fd * (there - here))
                iu = min(max(int((u - direction_first[0]) / direction_bin + 0.5), 0), direction.shape[2] - 1)
                iv = min(max(int((v - direction_first[1]) / direction_bin + 0.5), 0), direction.shape[1] - 1)
                harmonic = direction[g, iv, iu]
                goal = moments[kz, jy, t]
                for n in range(size):
                    goal[n] += energy * harmonic[n]
                for n in range(size):
                    goal[size + n] += hard * harmonic[n]
