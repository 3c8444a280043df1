"""Trilinear interpolation of a volume inside compiled loops; the same numbers as `Volume.sample`."""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from spinedose.grid import Volume

Array = NDArray[np.float64]


def ready(volume: Volume) -> tuple[NDArray[np.floating], Array, Array]:
    """A volume as compiled code takes it.

    Parameters
    ----------
    volume : Volume
        Any values.

    Returns
    -------
    values : ndarray, shape (nz, ny, nx)
        float32 or float64, in C order.
    origin_cm, spacing_cm : ndarray, shape (3,)
        Of the grid, (x, y, z) [cm].
    """
    values = volume.values if volume.values.dtype in (np.float32, np.float64) else volume.values.astype(np.float32)
    return np.ascontiguousarray(values), np.array(volume.grid.origin_cm), np.array(volume.grid.spacing_cm)


@njit(cache=True)  # type: ignore[untyped-decorator]
def value_at(values: NDArray[np.floating], origin: Array, spacing: Array, x: float, y: float, z: float) -> float:
    """Value at a point [cm]; NaN beyond the faces of the grid, and the nearest voxel within half a voxel of a face."""
    nz, ny, nx = values.shape
    i, j, k = (x - origin[0]) / spacing[0], (y - origin[1]) / spacing[1], (z - origin[2]) / spacing[2]
    edge = 0.5 + 1e-9
    if not (-edge <= i <= nx - 1 + edge and -edge <= j <= ny - 1 + edge and -edge <= k <= nz - 1 + edge):
        return math.nan
    i, j, k = min(max(i, 0.0), nx - 1.0), min(max(j, 0.0), ny - 1.0), min(max(k, 0.0), nz - 1.0)
    i0, j0, k0 = int(i), int(j), int(k)
    i1, j1, k1 = min(i0 + 1, nx - 1), min(j0 + 1, ny - 1), min(k0 + 1, nz - 1)
    u, v, w = i - i0, j - j0, k - k0
    low = (1 - v) * ((1 - u) * values[k0, j0, i0] + u * values[k0, j0, i1]) + v * (
        (1 - u) * values[k0, j1, i0] + u * values[k0, j1, i1]
    )
    high = (1 - v) * ((1 - u) * values[k1, j0, i0] + u * values[k1, j0, i1]) + v * (
        (1 - u) * values[k1, j1, i0] + u * values[k1, j1, i1]
    )
    return float((1 - w) * low + w * high)
