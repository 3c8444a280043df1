"""The fixed directions of the transport, their weights, and the spherical harmonics that describe beam directions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spinedose.errors import InvalidInput, NumericalError

Array = NDArray[np.float64]


def harmonics(direction: ArrayLike, order: int) -> Array:
    """Real orthonormal spherical harmonics Y_lm of unit vectors.

    Parameters
    ----------
    direction : array_like, shape (..., 3)
        Unit vectors (x, y, z).
    order : int
        Highest degree L.

    Returns
    -------
    ndarray, shape (..., (L + 1)^2)
        Ordered by degree l, then m = -l..l. Sum over m of Y_lm(u) Y_lm(d) = (2l + 1)/(4 pi) P_l(u.d).
    """
    u = np.asarray(direction, float)
    x, y, z = u[..., 0], u[..., 1], u[..., 2]
    result = np.empty((*u.shape[:-1], (order + 1) ** 2))
    norm = harmonic_norms(order)
    # cosine and sine of the azimuth times sin(theta)^m, by recursion; no division, hence no trouble at the poles
    c, s = np.ones_like(x), np.zeros_like(x)
    diagonal = np.ones_like(x)
    for m in range(order + 1):
        if m > 0:
            c, s = x * c - y * s, x * s + y * c
            diagonal = diagonal * -(2 * m - 1)
        below, current = np.zeros_like(x), diagonal
        for degree in range(m, order + 1):
            if degree > m:
                below, current = current, ((2 * degree - 1) * z * current - (degree + m - 1) * below) / (degree - m)
            centre = degree * degree + degree
            result[..., centre + m] = norm[centre + m] * current * c
            if m > 0:
                result[..., centre - m] = norm[centre - m] * current * s
    return result


def harmonic_norms(order: int) -> Array:
    """Factors, shape ((L + 1)^2,), that make the harmonics of `harmonics` orthonormal; for backends with a
    recursion."""
    result = np.empty((order + 1) ** 2)
    for degree in range(order + 1):
        for m in range(degree + 1):
            ratio = 1.0
            for k in range(degree - m + 1, degree + m + 1):
                ratio /= k
            norm = np.sqrt((2 * degree + 1) / (4 * np.pi) * ratio * (1 if m == 0 else 2))
            result[[degree * degree + degree + m, degree * degree + degree - m]] = norm
    return result


@dataclass(frozen=True, slots=True, eq=False)
class Directions:
    """A quadrature of the sphere: M directions, each standing for the cell around it.

    Parameters
    ----------
    vector : ndarray, shape (M, 3)
        Unit vectors (x, y, z) in patient axes.
    weight : ndarray, shape (M,)
        Solid angles [sr], positive, with sum 4 pi.
    filter : ndarray, shape (M, L + 1)
        Mean of P_l over a cap as large as the cell, divided by its value in the middle: 1 for l = 0.
    offset : ndarray, shape (M, 2)
        Sub-voxel offsets of the ray lattice in [0, 1), a fixed low-discrepancy sequence.
    """

    vector: Array
    weight: Array
    filter: Array
    offset: Array

    def __post_init__(self) -> None:
        if self.vector.shape != (len(self.weight), 3) or not np.allclose(np.linalg.norm(self.vector, axis=1), 1):
            raise InvalidInput("Directions are not unit vectors")
        if self.weight.min() <= 0 or abs(self.weight.sum() - 4 * np.pi) > 1e-9:
            raise NumericalError(f"Direction weights are wrong: smallest {self.weight.min()}, sum {self.weight.sum()}")

    @property
    def order(self) -> int:
        """Highest degree L of the harmonics that the weights integrate exactly."""
        return int(self.filter.shape[1]) - 1

    def basis(self) -> Array:
        """Weighted, cell-averaged harmonics `w f_l Y_lm`, shape (M, (L + 1)^2)."""
        degree = np.repeat(np.arange(self.order + 1), 2 * np.arange(self.order + 1) + 1)
        value: Array = self.weight[:, None] * self.filter[:, degree] * harmonics(self.vector, self.order)
        return value


@lru_cache(maxsize=16)
def directions(count: int, order: int = 6) -> Directions:
    """Directions spread evenly over the sphere (Fibonacci lattice), turned away from the voxel axes.

    The solid angle of each Voronoi cell is corrected by the smallest change (least norm) that makes the sum over
    directions of
    every cell-averaged harmonic up to L vanish: then the energy handed out does not depend on the beam's direction.

    Parameters
    ----------
    count : int
        Number of directions M, 32 or more.
    order : int
        Highest degree L of the angular moments.

    References
    ----------
    PHYSICS: docs/theory/transport.md, equation 8. Lattice: A. Gonzalez, Math. Geosci. 42, 49-64 (2010),
    doi:10.1007/s11004-009-9257-x.
    """
    if count < 32 or count < 1.5 * (order + 1) ** 2:
        raise InvalidInput(
            f"{count} directions are too few for moments of order {order}", "weights would not be positive"
        )
    i = np.arange(count)
    z = 1 - (2 * i + 1) / count
    azimuth = i * np.pi * (3 - np.sqrt(5))
    flat = np.sqrt(1 - z * z)
    vector = np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), z], axis=1) @ _TILT.T
    return _weighted(vector, order)


def _weighted(vector: Array, order: int) -> Directions:
    from scipy.spatial import SphericalVoronoi

    area = SphericalVoronoi(vector).calculate_areas()
    weight = area * 4 * np.pi / area.sum()
    degree = np.repeat(np.arange(order + 1), 2 * np.arange(order + 1) + 1)
    shape = _cap_filter(weight, order)
    rows = (shape[:, degree] * harmonics(vector, order)).T
    goal = np.zeros(len(rows))
    goal[0] = np.sqrt(4 * np.pi)  # Y_00 summed over the sphere
    # scaled by the area, so that small cells are changed little
    change = np.linalg.lstsq(rows * weight, goal - rows @ weight, rcond=None)[0]
    weight = weight * (1 + change)
    weight *= 4 * np.pi / weight.sum()
    # R2 sequence: M. Roberts, "The unreasonable effectiveness of quasirandom sequences" (2018)
    plastic = 1.32471795724474602596
    offset = (0.5 + np.outer(np.arange(len(vector)), [1 / plastic, 1 / plastic**2])) % 1.0
    return Directions(vector, weight, shape, offset)


def _cap_filter(solid_angle: Array, order: int) -> Array:
    """f_l = [P_{l-1}(c) - P_{l+1}(c)] / [(2l + 1)(1 - c)] of caps with the given solid angles, shape (M, L + 1)."""
    from numpy.polynomial import legendre

    edge = 1 - solid_angle / (2 * np.pi)
    p = legendre.legvander(edge, order + 1)
    result = np.ones((len(edge), order + 1))
    for degree in range(1, order + 1):
        result[:, degree] = (p[:, degree - 1] - p[:, degree + 1]) / ((2 * degree + 1) * (1 - edge))
    return result


def _rotation_by(angles_rad: tuple[float, float, float]) -> Array:
    a, b, c = angles_rad
    rz, ry, rx = (np.eye(3) for _ in range(3))
    rz[:2, :2] = [[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]
    ry[::2, ::2] = [[np.cos(b), np.sin(b)], [-np.sin(b), np.cos(b)]]
    rx[1:, 1:] = [[np.cos(c), -np.sin(c)], [np.sin(c), np.cos(c)]]
    product: Array = rz @ ry @ rx
    return product


_TILT = _rotation_by((0.7137, 0.4019, 0.9241))
"""Any fixed rotation will do that keeps the lattice's axis of symmetry away from patient axes and coplanar beams."""
