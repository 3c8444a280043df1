"""How long contours take to become voxels, and histograms."""

from __future__ import annotations

from typing import Any

import numpy as np

from spinedose.compare.dvh import dvh
from spinedose.grid import Grid, Volume
from spinedose.structures import Structure, mask, volume_cm3


def _ellipse(half_cm: tuple[float, float], z: float, x: float = 0.0, points: int = 300) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    return np.column_stack([x + half_cm[0] * np.cos(angle), half_cm[1] * np.sin(angle), np.full(points, z)])


def test_mask(benchmark: Any) -> None:
    body = Structure(1, "BODY", contours_cm=tuple(_ellipse((16.5, 11.5), 0.25 * k) for k in range(100)))
    grid = Grid((-18.6, -18.6, 0.0), (0.25, 0.25, 0.25), (100, 150, 150))
    values = benchmark.pedantic(lambda: mask(body, grid).values, rounds=3, warmup_rounds=1)
    np.testing.assert_allclose(values.sum(dtype=float) * grid.voxel_volume_cm3, volume_cm3(body), rtol=1e-5)


def test_dvh(benchmark: Any) -> None:
    """A spine case: 1.5 L of lung and 30 small structures."""
    z = 0.2 * np.arange(10)
    small = [
        Structure(k, "small", contours_cm=tuple(_ellipse((0.8, 0.8), height, 0.02 * k, 100) for height in z))
        for k in range(30)
    ]
    lung = Structure(99, "lung", contours_cm=tuple(_ellipse((6.0, 6.0), height) for height in 0.2 * np.arange(66)))
    grid = Grid((-7.0, -7.0, -0.5), (0.25, 0.25, 0.25), (58, 57, 57))
    dose = Volume(grid, np.broadcast_to(10 + grid.axes_cm[0], grid.shape).copy())
    curves = benchmark.pedantic(lambda: [dvh(dose, one) for one in (*small, lung)], rounds=3, warmup_rounds=1)
    np.testing.assert_allclose(curves[-1].mean_gy, 10, atol=0.01)
