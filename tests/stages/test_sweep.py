"""Stage E along single directions: energy is kept, every voxel is met once, the radial law is the Erlang density."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
from cuda_on_host import on_device
from scipy.special import gammainc

from spinedose.backends.base import Backend, Scene
from spinedose.cones import ConeTable, RadialBasis
from spinedose.directions import Directions

CONSERVED = 1e-5
"""Relative error of the energy, from the product's requirements; float32 leaves about 1e-7."""

EXACT = 1e-5
"""Share of the released energy: `survival` takes a 64th power, which makes 4e-6 of float32's rounding, and divides by
x > 0.3."""

TI = 3.74
"""Relative electron density of titanium: 4.506 g/cm^3, Z/A 0.4596 over 0.5551."""

# one direction for every dominant axis and sign, none of them along an axis or a diagonal
LEANINGS = [tuple(sign * v for v in np.roll([1.0, 0.62, -0.37], axis)) for axis, sign in product(range(3), (1.0, -1.0))]
SPACINGS = [(0.25, 0.25, 0.25), (0.1, 0.25, 0.3), (0.4, 0.11, 0.2)]


def patchy(rng: np.random.Generator, shape: tuple[int, int, int]) -> np.ndarray:
    """Densities 0 to 8 with air gaps, vacuum and titanium."""
    density = rng.uniform(0.0, 8.0, shape)
    kind = rng.integers(0, 6, shape)
    density[kind == 0] = 0.0
    density[kind == 1] = 0.001
    density[kind == 2] = TI
    return density.astype(np.float32)


def walled(inner: np.ndarray, wall: int, density: float = 8.0) -> np.ndarray:
    """Matter in a wall that lets nothing out."""
    return np.pad(inner, wall, constant_values=density).astype(np.float32)


@pytest.mark.parametrize("vector", LEANINGS)
@pytest.mark.parametrize("spacing", SPACINGS)
def test_energy_is_kept_in_any_density(make_scene: Callable[..., Scene], carry: Callable, vector, spacing) -> None:
    rng = np.random.default_rng(5)
    shape, wall = (6, 7, 9), 5
    scene = make_scene(walled(patchy(rng, shape), wall), spacing)
    energy = rng.uniform(0.0, 2.0, shape).astype(np.float32)
    # the slowest rate is stopped by the wall: 20 mean free paths in 5 voxels of 0.1 cm and density 8
    basis = RadialBasis((7.0, 12.0, 40.0), (3, 2, 1))
    cones = ConeTable(basis, np.array([0.0, 180.0]), np.array([np.full((6, 1), 1 / 6), np.zeros((6, 1))]))
    dose = carry(scene, energy, cones, vector, (0.31, 0.77), low=(wall, wall, wall))
    assert np.all(np.isfinite(dose)) and dose.min() >= 0
    assert dose.sum(dtype=float) == pytest.approx(energy.sum(dtype=float), rel=CONSERVED)


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_a_gap_of_air_neither_keeps_nor_loses_energy(make_scene, carry, one_chain, stages: int) -> None:
    density = np.full((30, 5, 5), 1.0, np.float32)
    density[8:20] = 0.0
    solid = np.delete(density, slice(8, 20), axis=0)
    energy = np.zeros_like(solid)
    energy[2, 2, 2] = 1.0
    with_gap = np.zeros_like(density)
    with_gap[2, 2, 2] = 1.0
    cones = one_chain(2.0, stages)
    dose = carry(make_scene(density), with_gap, cones, (0, 0, 1))
    assert np.all(dose[8:20] == 0)
    np.testing.assert_array_equal(
        np.delete(dose, slice(8, 20), axis=0), carry(make_scene(solid), energy, cones, (0, 0, 1))
    )


@pytest.mark.parametrize("vector", LEANINGS)
def test_every_voxel_is_met_once(
    make_scene: Callable[..., Scene], carry: Callable, one_chain: Callable, vector
) -> None:
    """Attenuation of 1e5 a voxel keeps energy where it is released: one visit gives it back, two double it."""
    rng = np.random.default_rng(3)
    energy = rng.uniform(1.0, 2.0, (9, 11, 13)).astype(np.float32)
    scene = make_scene(np.ones(energy.shape, np.float32), (0.5, 1.0, 0.7))
    for offset in ((0.0, 0.0), (0.31, 0.77), (0.999, 0.5)):
        dose = carry(scene, energy, one_chain(2e5, 1), vector, offset)
        np.testing.assert_allclose(dose, energy, rtol=1e-4)


@pytest.mark.parametrize("vector", LEANINGS)
def test_a_ray_follows_its_direction(
    make_scene: Callable[..., Scene], carry: Callable, one_chain: Callable, vector
) -> None:
    """Energy of one voxel is found in one voxel of each slice ahead, less than a voxel off the line; none behind."""
    spacing = np.array([0.2, 0.3, 0.25])
    shape, start = (15, 17, 19), np.array([7, 8, 9])
    energy = np.zeros(shape, np.float32)
    energy[tuple(start)] = 1.0
    dose = carry(make_scene(np.ones(shape, np.float32), spacing), energy, one_chain(0.5, 1), vector, (0.4, 0.9))
    hit = np.argwhere(dose > 0)
    steps = (np.asarray(vector) / spacing)[::-1]  # (z, y, x)
    axis = int(np.argmax(np.abs(steps)))
    slices = (hit[:, axis] - start[axis]) * np.sign(steps[axis])
    assert sorted(slices) == list(range(int(slices.max()) + 1)), "one voxel a slice, from the first on"
    off = hit - start - slices[:, None] * steps / abs(steps[axis])
    assert np.abs(off).max() < 1.0 + 1e-6
    last = hit[np.argmax(slices)] + steps / abs(steps[axis])
    assert np.any(last < 1) or np.any(last > np.array(shape) - 2), "the ray ends at the edge of the grid"


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("stages", "order"), [(1, 1), (2, 1), (2, 2), (3, 1), (3, 2), (3, 3)])
def test_radial_law_is_the_erlang_density(make_scene, carry, one_chain, axis: int, sign: int, stages: int, order: int):
    """A source spread evenly over one voxel, in slabs of different density: convolved with the Erlang density."""
    rate, step = 1.7, 0.4
    slab = np.array([1.0, 1.0, 0.3, 0.0, TI, 1.0, 0.5, 1.1, 0.001, 0.9, 1.0, 1.0])
    density = np.broadcast_to(slab[:, None, None], (12, 4, 4))
    vector = np.zeros(3)
    vector[2 - axis] = sign
    density = np.moveaxis(density, 0, axis)
    energy = np.zeros((12, 4, 4), np.float32)
    at = 1 if sign > 0 else 10
    energy[at, 1, 2] = 1.0
    dose = carry(
        make_scene(np.ascontiguousarray(density), (step, step, step)),
        np.ascontiguousarray(np.moveaxis(energy, 0, axis)),
        one_chain(rate, stages, order),
        vector,
    )
    line = np.moveaxis(dose, axis, 0)[:, 1, 2]
    assert line.sum() == pytest.approx(dose.sum(), rel=1e-6), "nothing leaves the line"
    order_of = np.arange(12) if sign > 0 else np.arange(11, -1, -1)
    edge = np.concatenate([[0.0], np.cumsum(slab[order_of] * step)])
    node, weight = np.polynomial.legendre.leggauss(40)
    first = 1
    inside = edge[first] + 0.5 * (node + 1) * (edge[first + 1] - edge[first])
    reached = np.array([0.5 * weight @ gammainc(order, rate * np.maximum(e - inside, 0.0)) for e in edge])
    # within the source voxel the integrand has a kink: energy deposited there is what the others leave
    expected = np.diff(reached)
    piece = 0.5 * (node + 1) * (edge[first + 1] - edge[first])
    expected[first] = 0.5 * weight @ gammainc(order, rate * piece)
    np.testing.assert_allclose(line[order_of], expected, atol=EXACT)
    assert expected.max() > 0.03


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("density", [1e-3, 0.1, 0.29, 0.31, 1.0, 7.0, 63.0, 65.0, 150.0, 300.0, 3000.0])
def test_optical_thickness_of_a_voxel_may_be_anything(make_scene, carry, one_chain, density: float, order: int) -> None:
    """From air to a centimetre of gold, both sides of the switch between series and exponential."""
    n = 6
    energy = np.zeros((n, 1, 1), np.float32)
    energy[0] = 1.0
    dose = carry(make_scene(np.full((n, 1, 1), density, np.float32)), energy, one_chain(1.0, 3, order), (0, 0, 1))
    node, weight = np.polynomial.legendre.leggauss(400)
    start = 0.5 * (node + 1) * density
    reached = np.array([0.5 * weight @ gammainc(order, np.maximum(e * density - start, 0.0)) for e in range(1, n + 1)])
    np.testing.assert_allclose(np.cumsum(dose.ravel(), dtype=float), reached, atol=2 * EXACT)


def test_sources_may_lie_in_a_box_of_the_grid(make_scene, carry, one_chain) -> None:
    rng = np.random.default_rng(2)
    density = patchy(rng, (8, 9, 10))
    scene = make_scene(density, (0.3, 0.3, 0.3))
    low, small = (2, 1, 3), rng.uniform(0.5, 1.0, (3, 5, 4)).astype(np.float32)
    whole = np.zeros(density.shape, np.float32)
    whole[2:5, 1:6, 3:7] = small
    for vector in LEANINGS:
        cones = one_chain(0.8, 3)
        expected = carry(scene, whole, cones, vector)
        np.testing.assert_allclose(carry(scene, small, cones, vector, low=low), expected, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(
            carry(scene, small, cones, vector, low=low, as_halo=True), expected, rtol=1e-5, atol=1e-7
        )


def test_field_and_halo_add_up_where_their_boxes_differ(backend: Backend, make_scene, one_chain) -> None:
    """The field's box lies within the halo's, for rows along x as for turned ones."""
    rng = np.random.default_rng(4)
    scene = make_scene(np.ones((8, 9, 10), np.float32), (0.3, 0.3, 0.3))
    cones = one_chain(0.8, 2)
    for vector in LEANINGS:
        unit = np.asarray(vector) / np.linalg.norm(vector)
        single = Directions(unit[None], np.array([4 * np.pi]), np.ones((1, 1)), np.full((1, 2), 0.4))

        def transport(field: np.ndarray, halo: np.ndarray, single: Directions = single) -> np.ndarray:
            inner = backend.new_moments(scene, (2, 3, 1), (5, 6, 7), 0)
            outer = backend.new_moments(scene, (1, 1, 0), (7, 8, 10), 0)
            inner.values[:, :, 0], outer.values[:, :, 0] = on_device(backend, field), on_device(backend, halo)
            return backend.transport(scene, inner, outer, cones, single)

        field = rng.uniform(0, 1, (3, 3, 6)).astype(np.float32)
        halo = rng.uniform(0, 0.1, (6, 7, 10)).astype(np.float32)
        apart = transport(field, 0 * halo) + transport(0 * field, halo)
        np.testing.assert_allclose(transport(field, halo), apart, rtol=1e-5, atol=1e-7)
        whole = halo.copy()
        whole[1:4, 2:5, 1:7] += field
        np.testing.assert_allclose(transport(0 * field, whole), apart, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_tiny_energies_are_harmless(make_scene, carry, one_chain, stages: int) -> None:
    """The tail of a long thick path falls to nothing instead of subnormal numbers; the rest is not touched by that."""
    density = np.full((200, 3, 3), 1.0, np.float32)
    energy = np.zeros_like(density)
    energy[0] = 1.0
    dose = carry(make_scene(density), energy, one_chain(2.0, stages), (0, 0, 1))
    assert dose.sum(dtype=float) == pytest.approx(9.0, rel=CONSERVED)
    tail = dose[60:]
    assert np.all(dose[:20, 1, 1] > 0)
    assert np.all((tail == 0) | (tail > np.finfo(np.float32).tiny)), "no subnormal numbers"
    assert tail.max() < 1e-20


def test_same_bits_every_run(make_scene, carry, one_chain) -> None:
    rng = np.random.default_rng(8)
    scene = make_scene(patchy(rng, (10, 11, 12)), (0.3, 0.3, 0.3))
    energy = rng.uniform(0, 1, (10, 11, 12)).astype(np.float32)
    one, two = (carry(scene, energy, one_chain(1.0, 3), LEANINGS[0]) for _ in range(2))
    np.testing.assert_array_equal(one, two)
