"""Stage B: radiological depth on the diverging fan grid of each group (docs/theory/terma.md, equation 2)."""

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange


@njit(inline="always")
def sample(volume, x, y, z):
    """Trilinear interpolation at voxel indices (x, y, z); 0 outside the outermost voxel centres."""
    nz, ny, nx = volume.shape
    if x < 0 or y < 0 or z < 0 or x > nx - 1 or y > ny - 1 or z > nz - 1:
        return np.float32(0.0)
    i, j, k = min(int(x), max(nx - 2, 0)), min(int(y), max(ny - 2, 0)), min(int(z), max(nz - 2, 0))
    right, below, behind = min(i + 1, nx - 1), min(j + 1, ny - 1), min(k + 1, nz - 1)  # one voxel thick: itself
    fx, fy, fz = x - np.float32(i), y - np.float32(j), z - np.float32(k)
    one = np.float32(1.0)
    a = volume[k, j, i] * (one - fx) + volume[k, j, right] * fx
    b = volume[k, below, i] * (one - fx) + volume[k, below, right] * fx
    c = volume[behind, j, i] * (one - fx) + volume[behind, j, right] * fx
    d = volume[behind, below, i] * (one - fx) + volume[behind, below, right] * fx
    return (a * (one - fy) + b * fy) * (one - fz) + (c * (one - fy) + d * fy) * fz


@njit(parallel=True, cache=True, error_model="numpy", fastmath={"contract", "nsz"})
def radiological_depth(density, origin, spacing, rotation, isocentre, sad, u_first, v_first, pitch, top, step, depth):
    """Cumulate water-equivalent density along every ray of every fan, by the midpoint rule.

    Parameters
    ----------
    density : float32 (nz, ny, nx)
        Electron density relative to water, times the path factor of each voxel's material.
    origin, spacing : float64 (3,)
        Centre of voxel (0, 0, 0) and voxel size (x, y, z) [cm].
    rotation : float64 (g, 3, 3)
        Patient to gantry.
    isocentre : float64 (3,)
        Isocentre (x, y, z) [cm].
    sad, u_first, v_first, pitch, step : float
        Source distance, first ray, distance of rays on the isocentre plane, distance of planes [cm].
    top : float64 (g,)
        Gantry z of the first plane [cm].
    depth : float32 (g, nv, nu, nz), output
        Water-equivalent depth at each plane [cm]; 0 at the first.
    """
    groups, nv, nu, planes = depth.shape
    for task in prange(groups * nv):
        g, iv = task // nv, task % nv
        r = rotation[g]
        v = v_first + iv * pitch
        for iu in range(nu):
            u = u_first + iu * pitch
            # point at gantry height z: (u, v, 0)(1 - z/SAD) + (0, 0, z); linear in z, so its voxel index is too
            px = r[0, 0] * u + r[1, 0] * v
            py = r[0, 1] * u + r[1, 1] * v
            pz = r[0, 2] * u + r[1, 2] * v
            start = top[g] - 0.5 * step
            scale = 1.0 - start / sad
            x = (px * scale + r[2, 0] * start + isocentre[0] - origin[0]) / spacing[0]
            y = (py * scale + r[2, 1] * start + isocentre[1] - origin[1]) / spacing[1]
            z = (pz * scale + r[2, 2] * start + isocentre[2] - origin[2]) / spacing[2]
            dx = (px / sad - r[2, 0]) * step / spacing[0]
            dy = (py / sad - r[2, 1]) * step / spacing[1]
            dz = (pz / sad - r[2, 2]) * step / spacing[2]
            length = np.float32(step * math.sqrt(1.0 + (u * u + v * v) / (sad * sad)))
            total = np.float32(0.0)
            depth[g, iv, iu, 0] = total
            for k in range(1, planes):
                n = k - 1
                total += length * sample(
                    density, np.float32(x + n * dx), np.float32(y + n * dy), np.float32(z + n * dz)
                )
                depth[g, iv, iu, k] = total
