"""How directional sources are made from moments: the matrix of stage D, and its compression; shared by all backends."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spinedose.cones import ConeTable
from spinedose.directions import Directions

Array = NDArray[np.float64]


def source_matrix(cones: ConeTable, directions: Directions, order: int) -> Array:
    """Matrix (M, K, S (order + 1)^2) that turns moments into directional sources (transport.md, equation 4)."""
    degree = np.repeat(np.arange(order + 1), 2 * np.arange(order + 1) + 1)
    legendre = cones.legendre(order)[:, :, degree]
    basis = directions.basis()[:, : len(degree)]
    return np.concatenate([basis[:, None, :] * legendre[h][None] for h in range(len(legendre))], axis=2)


def compress(matrix: Array, covariance: Array, tolerance: float) -> tuple[Array, Array]:
    """Find the few combinations of moments that matter for a plan (transport.md, equation 9).

    Beams of one plan come from few directions - an arc lies in a plane -, so their moments are far from independent.

    Parameters
    ----------
    matrix : ndarray, shape (M, K, R)
        From `source_matrix`.
    covariance : ndarray, shape (R, R)
        Sum over voxels of moment times moment.
    tolerance : float
        Relative root-mean-square error of the sources allowed.

    Returns
    -------
    combine : ndarray, shape (r, R)
        Takes moments to combinations.
    reduced : ndarray, shape (M, K, r)
        Takes combinations to sources.
    """
    flat = matrix.reshape(-1, matrix.shape[2])
    gram = flat.T @ flat
    value, vector = np.linalg.eigh(gram)
    keep = value > value[-1] * 1e-12
    root, vector = np.sqrt(value[keep]), vector[:, keep]
    half = root[:, None] * vector.T  # half.T @ half = gram
    inverse = vector / root
    power, direction = np.linalg.eigh(half @ covariance @ half.T)
    power = np.maximum(power, 0.0)
    lost = np.cumsum(power)
    rank = len(power) - int(np.searchsorted(lost, tolerance**2 * lost[-1])) if lost[-1] > 0 else 1
    chosen = direction[:, -rank:]
    reduced = (flat @ inverse @ chosen).reshape(*matrix.shape[:2], rank)
    return chosen.T @ half, reduced
