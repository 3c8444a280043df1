"""Harmonics and the quadrature of the sphere."""

from __future__ import annotations

from math import factorial

import numpy as np
import pytest
from numpy.polynomial import legendre
from scipy.special import lpmv

from spinedose.directions import Directions, directions, harmonic_norms, harmonics
from spinedose.errors import InvalidInput, NumericalError

ORDER = 8
ROUNDING = 1e-12


def some_vectors(count: int, seed: int) -> np.ndarray:
    vector = np.random.default_rng(seed).normal(size=(count, 3))
    return vector / np.linalg.norm(vector, axis=1)[:, None]


def test_addition_theorem() -> None:
    u, d = some_vectors(50, 1), some_vectors(50, 2)
    product = harmonics(u, ORDER) * harmonics(d, ORDER)
    cosine = (u * d).sum(axis=1)
    for degree in range(ORDER + 1):
        part = product[:, degree**2 : (degree + 1) ** 2].sum(axis=1)
        expected = (2 * degree + 1) / (4 * np.pi) * legendre.legval(cosine, np.eye(ORDER + 1)[degree])
        np.testing.assert_allclose(part, expected, atol=ROUNDING * 10)


def test_harmonics_are_orthonormal() -> None:
    """Gauss in z times evenly spaced azimuths integrates products up to degree 2 ORDER exactly."""
    z, weight = legendre.leggauss(ORDER + 1)
    azimuth = 2 * np.pi * np.arange(2 * ORDER + 1) / (2 * ORDER + 1)
    flat = np.sqrt(1 - z**2)[:, None]
    point = np.stack(np.broadcast_arrays(flat * np.cos(azimuth), flat * np.sin(azimuth), z[:, None]), axis=-1)
    value = harmonics(point, ORDER).reshape(-1, (ORDER + 1) ** 2)
    solid = np.repeat(weight * 2 * np.pi / len(azimuth), len(azimuth))
    np.testing.assert_allclose((value * solid[:, None]).T @ value, np.eye((ORDER + 1) ** 2), atol=ROUNDING)


def test_first_harmonics_are_the_axes() -> None:
    """Y_1m = sqrt(3/4pi) (y, z, x), up to the sign that the recursion gives odd m."""
    value = harmonics(np.eye(3), 1)
    np.testing.assert_allclose(value[:, 0], np.sqrt(1 / (4 * np.pi)))
    scale = np.sqrt(3 / (4 * np.pi))
    np.testing.assert_allclose(np.abs(value[:, 1:]), scale * np.eye(3)[:, [1, 2, 0]], atol=ROUNDING)
    assert value[2, 2] > 0


def test_norms_are_the_textbook_ones_and_fit_the_legendre_functions() -> None:
    norm = harmonic_norms(ORDER)
    theta, azimuth = 0.7, 2.1
    here = harmonics([np.sin(theta) * np.cos(azimuth), np.sin(theta) * np.sin(azimuth), np.cos(theta)], ORDER)
    for degree in range(ORDER + 1):
        for m in range(degree + 1):
            textbook = np.sqrt((2 * degree + 1) / (4 * np.pi) * factorial(degree - m) / factorial(degree + m))
            textbook *= 1 if m == 0 else np.sqrt(2)
            for sign in (1, -1):
                at = degree * degree + degree + sign * m
                assert norm[at] == pytest.approx(textbook, rel=ROUNDING)
                wave = np.cos(m * azimuth) if sign > 0 else np.sin(m * azimuth)
                if m or sign > 0:
                    assert here[at] == pytest.approx(textbook * lpmv(m, degree, np.cos(theta)) * wave, abs=1e-10)


@pytest.mark.parametrize(("count", "order"), [(32, 2), (96, 6), (200, 6), (400, 3), (1600, 6), (500, 12)])
def test_weights_are_a_quadrature(count: int, order: int) -> None:
    sphere = directions(count, order)
    assert len(sphere.weight) == count and sphere.order == order
    assert sphere.weight.min() > 0
    assert sphere.weight.sum() == pytest.approx(4 * np.pi, rel=ROUNDING)
    np.testing.assert_allclose(np.linalg.norm(sphere.vector, axis=1), 1, atol=ROUNDING)
    total = sphere.basis().sum(axis=0)
    assert total[0] == pytest.approx(np.sqrt(4 * np.pi), rel=ROUNDING)
    assert np.abs(total[1:]).max() < 1e-10, "cell-averaged harmonics integrate to zero"


def test_energy_handed_out_does_not_depend_on_the_beam() -> None:
    """Any angular distribution of degree 6 hands out the same energy, whatever way the beam travels."""
    sphere = directions(200, 6)
    share = np.exp(-np.arange(7) * 0.15)  # strongly forward, as fast electrons
    degree = np.repeat(np.arange(7), 2 * np.arange(7) + 1)
    beams = harmonics(some_vectors(300, 3), 6)
    given = (sphere.basis() @ (share[degree] * beams).T).sum(axis=0)
    assert np.ptp(given) / given.mean() < 1e-6
    assert given.mean() == pytest.approx(1.0, rel=1e-9)


def test_uncorrected_areas_would_not_do() -> None:
    """The correction matters: with equal weights the same spread is a hundred times over the limit."""
    sphere = directions(200, 6)
    degree = np.repeat(np.arange(7), 2 * np.arange(7) + 1)
    equal = sphere.filter[:, degree] * harmonics(sphere.vector, 6) * 4 * np.pi / 200
    beams = harmonics(some_vectors(300, 3), 6)
    given = (equal @ (np.exp(-degree * 0.15) * beams).T).sum(axis=0)
    assert np.ptp(given) / given.mean() > 1e-4


def test_filter_is_the_mean_over_a_cap() -> None:
    sphere = directions(100, 6)
    edge = 1 - 4 * np.pi / 100 / (2 * np.pi)  # about: cells are of about equal size
    node, weight = legendre.leggauss(30)
    mu = 0.5 * (1 + edge) + 0.5 * (1 - edge) * node
    for degree in range(7):
        mean = 0.5 * weight @ legendre.legval(mu, np.eye(7)[degree])
        np.testing.assert_allclose(sphere.filter[:, degree].mean(), mean, rtol=0.01)
    assert np.all(sphere.filter[:, 0] == 1)


def test_directions_are_even_and_off_the_axes() -> None:
    sphere = directions(400, 6)
    cosine = sphere.vector @ sphere.vector.T - 2 * np.eye(400)
    nearest = np.degrees(np.arccos(cosine.max(axis=1)))
    even = np.degrees(np.sqrt(4 * np.pi / 400))
    assert nearest.min() > 0.8 * even and nearest.max() < 1.1 * even
    assert np.abs(sphere.vector).max() < 1 - 1e-6
    assert sphere.offset.min() >= 0 and sphere.offset.max() < 1
    # offsets fill the unit square evenly: each sixteenth of it has its share
    count = np.histogram2d(*sphere.offset.T, bins=4, range=[[0, 1], [0, 1]])[0]
    assert count.min() >= 20 and count.max() <= 30


def test_weights_follow_the_cells() -> None:
    """Near the seam of the lattice cells differ in size, elsewhere hardly: corrections are small."""
    sphere = directions(800, 6)
    mean = 4 * np.pi / 800
    assert 0.8 * mean < sphere.weight.min() and sphere.weight.max() < 1.25 * mean


def test_too_few_directions_are_refused() -> None:
    with pytest.raises(InvalidInput, match="too few"):
        directions(20, 0)
    with pytest.raises(InvalidInput, match="too few"):
        directions(64, 6)


def test_wrong_quadratures_cannot_be_made() -> None:
    good = directions(32, 2)
    with pytest.raises(InvalidInput, match="unit vectors"):
        Directions(good.vector * 1.1, good.weight, good.filter, good.offset)
    with pytest.raises(NumericalError, match="weights"):
        Directions(good.vector, good.weight * 1.01, good.filter, good.offset)
    swapped = good.weight.copy()
    swapped[:2] += [-1.0, 1.0]
    with pytest.raises(NumericalError, match="weights"):
        Directions(good.vector, swapped, good.filter, good.offset)
