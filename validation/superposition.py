"""Exact superposition of the tabulated deposition kernels in water, by FFT: what the transport is held against.

No cones, no fitted radial functions, no ray lattice: the Monte Carlo table is spread over voxels by sampling every
ring.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from spinedose.cones import DepositionTable, SpectrumLike, released_energy

Array = NDArray[np.float64]


def frame(direction: Array) -> Array:
    """Rotation (3, 3) whose columns are two normals and the direction (x, y, z)."""
    helper = np.array([1.0, 0, 0]) if abs(direction[0]) < 0.9 else np.array([0, 1.0, 0])
    first = np.cross(helper, direction)
    first /= np.linalg.norm(first)
    return np.stack([first, np.cross(direction, first), direction], axis=1)


FAR = 16
"""Distance in voxels beyond which a kernel is sampled with fewer points."""


def voxel_kernel(
    kernel: Array,
    table: DepositionTable,
    direction: Array,
    spacing_cm: float,
    reach: int,
    *,
    density: int = 8,
    seed: int = 1,
) -> Array:
    """Share of the energy released in a voxel that each voxel around it receives, shape (2 reach + 1,)*3 as (z, y, x).

    Rings are sampled with `density` points a voxel volume, an eighth of that beyond `FAR` voxels, where kernels are
    smooth and fields average over many voxels (at least 400 a ring); sources uniformly within the voxel. The reach
    must cover the whole phantom: energy that falls outside of the cube is lost.
    """
    rng = np.random.default_rng(seed)
    side = 2 * reach + 1
    out = np.zeros(side**3)
    axes = frame(np.asarray(direction, float))
    mu_edge = np.cos(np.radians(table.theta_edge_deg))
    r = table.r_edge_cm
    limit = (reach + 0.5) * spacing_cm * np.sqrt(3)
    for k in range(len(r) - 1):
        if r[k] > limit:
            break
        cells, shares = [], []
        for t in range(len(mu_edge) - 1):
            volume = 2 * np.pi * (mu_edge[t] - mu_edge[t + 1]) * (r[k + 1] ** 3 - r[k] ** 3) / 3
            points = density if r[k] < FAR * spacing_cm else density / 8
            n = int(max(400, points * volume / spacing_cm**3))
            radius = np.cbrt(r[k] ** 3 + rng.random(n) * (r[k + 1] ** 3 - r[k] ** 3))
            mu = mu_edge[t + 1] + rng.random(n) * (mu_edge[t] - mu_edge[t + 1])
            azimuth = 2 * np.pi * rng.random(n)
            flat = np.sqrt(1 - mu * mu)
            local = np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), mu], axis=1) * radius[:, None]
            point = local @ axes.T / spacing_cm + rng.random((n, 3))
            cell = np.floor(point).astype(np.int64) + reach
            inside = np.all((cell >= 0) & (cell < side), axis=1)
            cells.append((cell[inside, 2] * side + cell[inside, 1]) * side + cell[inside, 0])
            shares.append(np.full(len(cells[-1]), kernel[t, k] / n))
        out += np.bincount(np.concatenate(cells), np.concatenate(shares), minlength=side**3)
    return out.reshape(side, side, side)


def superpose(energy: Array, kernel: Array) -> Array:
    """Linear convolution of released energy (nz, ny, nx) with a voxel kernel, same shape."""
    reach = kernel.shape[0] // 2
    shape = [fft.next_fast_len(n + 2 * reach, real=True) for n in energy.shape]
    product = fft.rfftn(energy, shape, workers=-1) * fft.rfftn(kernel, shape, workers=-1)
    full = fft.irfftn(product, shape, workers=-1)
    return full[reach : reach + energy.shape[0], reach : reach + energy.shape[1], reach : reach + energy.shape[2]]


def surface_and_deep_kernels(spectrum: SpectrumLike, table: DepositionTable, depth_cm: float) -> tuple[Array, Array]:
    """The tabulated kernels at the surface and at a depth, shape (t, r) each."""
    soft = table.mix(spectrum.energy_MeV, released_energy(spectrum, 0.0))
    return soft, table.mix(spectrum.energy_MeV, released_energy(spectrum, depth_cm))
