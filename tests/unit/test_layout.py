"""The matrix that makes sources of moments, and its compression."""

from __future__ import annotations

import numpy as np
import pytest

from spinedose.backends.layout import compress, source_matrix
from spinedose.cones import ConeTable, RadialBasis, cone_table
from spinedose.directions import directions, harmonics
from spinedose.machine import read_machine

CONES = cone_table(read_machine("varian-truebeam-m120").beam("6X").spectrum)


def beams(count: int, seed: int, *, plane: bool = False) -> np.ndarray:
    vector = np.random.default_rng(seed).normal(size=(count, 3))
    if plane:
        vector[:, 2] = 0.0
    return vector / np.linalg.norm(vector, axis=1)[:, None]


def test_sources_hand_out_the_energy_of_the_cone_table() -> None:
    sphere = directions(200, 6)
    matrix = source_matrix(CONES, sphere, 6)
    assert matrix.shape == (200, 7, 98)
    for u in beams(20, 1):
        wave = harmonics(u, 6)
        for hardness in (0.0, 0.7):
            sources = matrix @ np.concatenate([wave, hardness * wave])
            expected = (CONES.energy[0] + hardness * CONES.energy[1]).sum(axis=1)
            np.testing.assert_allclose(sources.sum(axis=0), expected, atol=1e-9)


def test_sources_follow_the_beam() -> None:
    """A kernel of P_0 + P_1: the source along a direction is w (1 + 3 c cos) / 4 pi, within the cell's filter."""
    edge = np.degrees(np.arccos(np.linspace(1, -1, 401)))
    mu = np.linspace(1, -1, 401)
    middle = 0.5 * (mu[1:] + mu[:-1])
    share = (1 + middle) / 2 / 200.0  # integral over mu from -1 to 1 is 1, first moment 1/3
    cones = ConeTable(RadialBasis((1.0,), (1,)), edge, np.array([share, 0 * share])[:, None, :])
    sphere = directions(300, 2)
    u = beams(1, 3)[0]
    sources = source_matrix(cones, sphere, 2)[:, 0] @ np.concatenate([harmonics(u, 2), np.zeros(9)])
    expected = sphere.weight / (4 * np.pi) * (1 + sphere.vector @ u)
    np.testing.assert_allclose(sources, expected, atol=0.02 * expected.max())


def test_lower_orders_take_the_first_moments() -> None:
    sphere = directions(200, 6)
    whole, low = source_matrix(CONES, sphere, 6), source_matrix(CONES, sphere, 3)
    np.testing.assert_allclose(low[:, :, :16], whole[:, :, :16])
    np.testing.assert_allclose(low[:, :, 16:], whole[:, :, 49:65])


def moments_of(u: np.ndarray, seed: int) -> np.ndarray:
    """Moments of voxels lit by some beams, hardness between 0 and 1; shape (voxels, 98)."""
    rng = np.random.default_rng(seed)
    wave = harmonics(u, 6)
    energy = rng.uniform(0, 1, (500, len(u)))
    return np.concatenate([energy @ wave, (energy * rng.uniform(0, 1, energy.shape)) @ wave], axis=1)


@pytest.mark.parametrize("tolerance", [1e-3, 1e-2])
@pytest.mark.parametrize("plane", [True, False])
def test_compression_keeps_the_sources(tolerance: float, plane: bool) -> None:
    moments = moments_of(beams(40, 5, plane=plane), 6)
    matrix = source_matrix(CONES, directions(200, 6), 6)
    combine, reduced = compress(matrix, moments.T @ moments, tolerance)
    exact = np.einsum("mkr,vr->vmk", matrix, moments)
    approximate = np.einsum("mkr,vr->vmk", reduced, moments @ combine.T)
    error = np.sqrt(((approximate - exact) ** 2).sum() / (exact**2).sum())
    assert error < tolerance * 1.001
    rank = len(combine)
    assert reduced.shape == (200, 7, rank) and combine.shape == (rank, 98)
    # and not one combination more than that takes: without the weakest, the error is over the limit
    weakest = np.argmin(
        [np.square(reduced[:, :, i]).sum() * np.square(moments @ combine[i]).sum() for i in range(rank)]
    )
    rest = np.delete(np.arange(rank), weakest)
    fewer = np.einsum("mkr,vr->vmk", reduced[:, :, rest], moments @ combine[rest].T)
    assert np.sqrt(((fewer - exact) ** 2).sum() / (exact**2).sum()) > tolerance


def test_one_beam_takes_few_combinations() -> None:
    matrix = source_matrix(CONES, directions(200, 6), 6)
    one = moments_of(beams(1, 5), 6)
    combine, _ = compress(matrix, one.T @ one, 1e-3)
    assert len(combine) == 2, "energy and hardness of a single direction"
    arc = moments_of(beams(100, 5, plane=True), 6)
    assert len(compress(matrix, arc.T @ arc, 1e-3)[0]) < 98


def test_nothing_compresses_to_one_combination() -> None:
    matrix = source_matrix(CONES, directions(200, 6), 6)
    combine, reduced = compress(matrix, np.zeros((98, 98)), 1e-3)
    assert combine.shape == (1, 98) and reduced.shape == (200, 7, 1)
    assert np.all(np.isfinite(combine)) and np.all(np.isfinite(reduced))
