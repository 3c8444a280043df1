"""Deposition kernels, their mix, cone fits, and attenuation in water."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.polynomial import legendre
from scipy.integrate import quad

from spinedose.cones import (
    ConeTable,
    DepositionTable,
    RadialBasis,
    cone_table,
    cumulative_error,
    fit_basis,
    fit_cones,
    legendre_mean,
    released_energy,
    softened,
    terma_table,
    water_attenuation,
    water_kernels,
)
from spinedose.errors import BeamDataError, InvalidInput
from spinedose.exposure import attenuation
from spinedose.machine import read_machine

FIT = 0.006
"""Documented cumulative error of a fit, share of the released energy (docs/theory/cones.md)."""

CROSS_SECTIONS = 3e-3
"""What the cross sections of the Monte Carlo code and of NIST differ by."""


@dataclass(frozen=True)
class Photons:
    energy_MeV: np.ndarray
    weight: np.ndarray


def mono(energy: float) -> Photons:
    return Photons(np.array([energy]), np.ones(1))


SIX = read_machine("varian-truebeam-m120").beam("6X").spectrum
TEN = read_machine("varian-truebeam-m120").beam("10X").spectrum


def test_shipped_kernels_hold_the_energy() -> None:
    """Released energy lies within the last shell (60 cm) but for up to 7 % of bremsstrahlung and scattered photons."""
    table = water_kernels()
    total = table.energy_fraction.sum(axis=(1, 2))
    assert len(table.energy_MeV) == 24
    assert total.min() > 0.93 and total.max() < 1.0005
    at = int(np.argmin(np.abs(table.energy_MeV - 2.0)))
    forward = table.energy_fraction[at].sum(axis=1)[table.theta_edge_deg[1:] <= 90].sum()
    assert 0.8 < forward < 1.0, "2 MeV photons throw their energy forward"


def test_wrong_kernels_cannot_be_made() -> None:
    table = water_kernels()
    facts = {name: getattr(table, name) for name in ("energy_MeV", "r_edge_cm", "theta_edge_deg", "energy_fraction")}
    for change, message in (
        ({"energy_fraction": table.energy_fraction[:, :-1]}, "shape"),
        ({"r_edge_cm": table.r_edge_cm[::-1]}, "r_edge_cm that does not rise"),
        ({"energy_fraction": table.energy_fraction * 1.1}, "energy"),
        ({"energy_fraction": table.energy_fraction * 0.5}, "energy"),
    ):
        with pytest.raises(BeamDataError, match=message):
            DepositionTable(**(facts | change))


def test_mix_of_one_tabulated_energy_is_its_kernel() -> None:
    table = water_kernels()
    for i in (0, 7, len(table.energy_MeV) - 1):
        np.testing.assert_allclose(table.mix([table.energy_MeV[i]], [3.0]), table.energy_fraction[i], atol=1e-12)


def test_mix_is_linear_in_log_energy_and_in_weight() -> None:
    table = water_kernels()
    a, b = table.energy_MeV[10:12]
    between = table.mix([a**0.75 * b**0.25], [1.0])
    np.testing.assert_allclose(between, 0.75 * table.energy_fraction[10] + 0.25 * table.energy_fraction[11], atol=1e-12)
    mixed = table.mix([table.energy_MeV[3], table.energy_MeV[12]], [2.0, 6.0])
    np.testing.assert_allclose(mixed, 0.25 * table.energy_fraction[3] + 0.75 * table.energy_fraction[12], atol=1e-12)


def test_mix_refuses_what_lies_beyond_the_table() -> None:
    with pytest.raises(BeamDataError, match="kernels end"):
        water_kernels().mix([30.0], [1.0])


@pytest.mark.parametrize(
    ("energy", "published"),
    # J. H. Hubbell and S. M. Seltzer, NISTIR 5632, liquid water [cm^2/g], doi:10.18434/T4D01F; above 1 MeV coherent
    # scattering, which they count, is less than 0.1 %
    [(1.0, 0.07072), (2.0, 0.04942), (6.0, 0.02770), (10.0, 0.02219)],
)
def test_attenuation_of_water(energy: float, published: float) -> None:
    assert water_attenuation([energy])[0] == pytest.approx(published, rel=CROSS_SECTIONS)


def test_attenuation_falls_between_its_neighbours_and_ends_with_the_table() -> None:
    value = water_attenuation([1.0, 1.1, 1.25])
    assert value[0] > value[1] > value[2]
    for outside in (0.001, 50.0):
        with pytest.raises(BeamDataError, match="leave the table"):
            water_attenuation([outside])


def test_basis_is_cumulative_erlang() -> None:
    """Order 3 of rate l: 1 - exp(-lr) (1 + lr + (lr)^2 / 2); the whole chain first, the last stage last."""
    basis = RadialBasis((0.5, 4.0), (3, 1))
    assert basis.size == 4
    r = np.array([0.0, 0.3, 2.0, 1000.0])
    x = 0.5 * r
    expected = [
        1 - np.exp(-x) * (1 + x + x**2 / 2),
        1 - np.exp(-x) * (1 + x),
        1 - np.exp(-x),
        1 - np.exp(-4 * r),
    ]
    np.testing.assert_allclose(basis.cumulative(r), expected, atol=1e-14)


@pytest.mark.parametrize(
    ("rate", "stages"), [((1.0,), (1, 2)), ((), ()), ((-1.0,), (1,)), ((1.0,), (4,)), ((1.0,), (0,))]
)
def test_wrong_basis_cannot_be_made(rate: tuple[float, ...], stages: tuple[int, ...]) -> None:
    with pytest.raises(BeamDataError, match="Radial basis"):
        RadialBasis(rate, stages)


def test_legendre_means() -> None:
    edge = np.cos(np.radians([0.0, 20.0, 90.0, 180.0]))
    mean = legendre_mean(edge, 4)
    for t in range(3):
        for degree in range(5):
            poly = np.eye(5)[degree]
            whole = quad(lambda mu, poly=poly: float(legendre.legval(mu, poly)), edge[t + 1], edge[t])[0]
            assert mean[t, degree] == pytest.approx(whole / (edge[t] - edge[t + 1]), abs=1e-10)


@pytest.mark.parametrize("spectrum", [SIX, TEN], ids=["6X", "10X"])
def test_fit_is_as_good_as_documented(spectrum) -> None:
    table, basis = water_kernels(), fit_basis(spectrum)
    cones = cone_table(spectrum)
    assert basis.size == 7
    for depth, fitted in ((0.0, cones.energy[0]), (20.0, cones.energy.sum(axis=0))):
        kernel = table.mix(spectrum.energy_MeV, released_energy(spectrum, depth))
        assert np.abs(cumulative_error(kernel, fitted, table, basis)).max() < FIT
        assert fitted.min() >= -1e-12
        # each cone keeps its energy within the last shell
        last = (fitted * basis.cumulative(table.r_edge_cm[-1:])).sum(axis=0)
        np.testing.assert_allclose(last, kernel.sum(axis=1), atol=2e-4)


def test_fit_finds_what_the_basis_can_express() -> None:
    table, basis = water_kernels(), RadialBasis((0.1, 2.0, 12.0), (3, 2, 2))
    wanted = np.random.default_rng(1).uniform(0.0, 1.0, (7, len(table.theta_edge_deg) - 1))
    wanted[2] = 0.0
    wanted /= wanted.sum()
    kernel = np.diff(wanted.T @ basis.cumulative(table.r_edge_cm), axis=1)
    np.testing.assert_allclose(fit_cones(kernel, table, basis), wanted, atol=1e-7)
    assert np.abs(cumulative_error(kernel, wanted, table, basis)).max() < 1e-12


def test_hardness_moves_energy_forward_and_outwards() -> None:
    """The beam at 20 cm is harder: its kernel is more forward than the entering one."""
    cones = cone_table(SIX)
    soft, change = cones.legendre(1)
    assert soft[:, 0].sum() == pytest.approx(1.0, abs=0.06)
    assert (soft + change)[:, 1].sum() / (soft + change)[:, 0].sum() > soft[:, 1].sum() / soft[:, 0].sum() + 0.005


def test_legendre_moments_of_a_cone_table() -> None:
    """Everything forward within 10 degrees: moments near P_l(1) = 1, backwards (-1)^l."""
    basis = RadialBasis((1.0,), (1,))
    edge = np.array([0.0, 10.0, 170.0, 180.0])
    ahead = ConeTable(basis, edge, np.array([[[1.0, 0.0, 0.0]], [[0.0, 0.0, 0.0]]]))
    behind = ConeTable(basis, edge, np.array([[[0.0, 0.0, 1.0]], [[0.0, 0.0, 0.0]]]))
    np.testing.assert_allclose(ahead.legendre(3)[0, 0], 1.0, atol=0.06)
    np.testing.assert_allclose(behind.legendre(3)[0, 0], [1.0, -1.0, 1.0, -1.0], atol=0.06)
    assert ahead.legendre(3)[0, 0, 0] == pytest.approx(1.0)


def test_wrong_cone_tables_cannot_be_made() -> None:
    basis = RadialBasis((1.0,), (1,))
    edge = np.array([0.0, 90.0, 180.0])
    good = np.array([[[0.6, 0.4]], [[0.1, -0.1]]])
    ConeTable(basis, edge, good)
    with pytest.raises(BeamDataError, match="shape"):
        ConeTable(basis, edge, good[:, :, :1])
    with pytest.raises(BeamDataError, match="negative"):
        ConeTable(basis, edge, np.array([[[1.2, -0.2]], [[0.0, 0.0]]]))
    with pytest.raises(BeamDataError, match="negative"):
        ConeTable(basis, edge, np.array([[[0.6, 0.4]], [[0.5, -0.5]]]))
    with pytest.raises(BeamDataError, match="released energy"):
        ConeTable(basis, edge, good * 0.8)


def test_monoenergetic_terma_is_an_exponential() -> None:
    mu = water_attenuation([2.0])[0]
    # hardness needs two energies: a trace of another one below float accuracy of what is compared
    table = terma_table(Photons(np.array([2.0, 2.1]), np.array([1.0, 1e-9])), depth_cm=40.0, step_cm=0.5)
    np.testing.assert_allclose(table.terma[0, 0], mu * np.exp(-mu * table.depth_cm), rtol=1e-8)
    assert table.depth_cm[0] == 0 and table.depth_cm[-1] == pytest.approx(40.0)


def test_terma_of_a_spectrum_is_the_sum_over_its_energies() -> None:
    energy, weight = np.array([0.5, 2.0, 5.0]), np.array([0.5, 0.3, 0.2])
    table = terma_table(Photons(energy, weight), depth_cm=30.0, step_cm=1.0)
    mu = water_attenuation(energy)
    fluence = energy * weight / (energy @ weight)
    expected = [(fluence * mu * np.exp(-mu * d)).sum() for d in table.depth_cm]
    np.testing.assert_allclose(table.terma[0, 0], expected, rtol=1e-12)


def test_hardness_is_0_at_the_surface_and_1_at_20_cm() -> None:
    table = terma_table(SIX, depth_cm=40.0)
    value = np.interp([0.0, 20.0], table.depth_cm, table.hardness[0, 0])
    np.testing.assert_allclose(value, [0.0, 1.0], atol=1e-9)
    assert np.all(np.diff(table.hardness[0, 0]) > 0), "water only hardens"


@pytest.mark.parametrize("spectrum", [SIX, TEN], ids=["6X", "10X"])
def test_softening_reaches_the_asked_for_attenuation(spectrum) -> None:
    factors = np.array([0.95, 1.0, 1.06, 1.12])
    table = terma_table(spectrum, factors, depth_cm=40.0)
    # from TERMA back to transmission: the fluence that TERMA takes away over 10 cm, by Simpson's rule
    n = int(np.searchsorted(table.depth_cm, 10.0 - 1e-9))
    weight = np.ones(n + 1)
    weight[1:-1:2], weight[2:-1:2] = 4.0, 2.0
    through = 1 - table.terma[0, :, : n + 1] @ weight * table.depth_cm[1] / 3
    effective = -np.log(through)
    np.testing.assert_allclose(effective / effective[1], factors, rtol=1e-6)
    surface = table.hardness[0, :, 0]
    assert surface[1] == pytest.approx(0.0, abs=1e-12) and np.all(np.diff(surface) < 0), "softer is less hard"


@pytest.mark.parametrize("factors", [[1.1, 1.0], [0.5, 1.0], [1.0, 2.0], [1.0, 1.0]])
def test_senseless_softening_is_refused(factors: list[float]) -> None:
    with pytest.raises(InvalidInput, match="Softening"):
        terma_table(SIX, factors)


def test_cone_table_is_made_once() -> None:
    assert cone_table(SIX) is cone_table(Photons(SIX.energy_MeV.copy(), SIX.weight.copy()))


@pytest.mark.parametrize("spectrum", [SIX, TEN], ids=["6X", "10X"])
@pytest.mark.parametrize(
    ("softening", "depth_cm"), [(1.0, 5.0), (1.05, 0.0), (1.1, 0.0), (1.1, 5.0), (1.2, 0.0), (1.2, 10.0)]
)
def test_kernels_follow_the_softest_spectrum(spectrum, softening: float, depth_cm: float) -> None:
    """Equation (4): the cone table, weighted as in the attenuation table, is the kernel of that very spectrum."""
    softest = 1.2
    basis = fit_basis(spectrum)
    cones = cone_table(spectrum, basis, softest=softest)
    table = attenuation(spectrum, np.array([0.0, 1.0, 40.0]), np.array([1.0, softening, softening]), 1.0,
                        softest=softest, depth_cm=20.0)  # fmt: skip
    weights = table.terma[0, -1, round(depth_cm / table.depth_step_cm)].astype(float)
    weights[0] = 1.0
    mine = np.tensordot(weights, cones.energy, axes=1)
    here = softened(spectrum, softening) if softening > 1 else spectrum
    exact = water_kernels().mix(here.energy_MeV, released_energy(here, depth_cm))
    beyond = water_kernels().r_edge_cm[1:] > 0.2
    error = cumulative_error(exact, mine, water_kernels(), basis)[beyond]
    assert np.abs(error).max() < FIT, "share of the released energy"
    if softening == softest and depth_cm == 0:
        flat = cone_table(spectrum, basis)
        straight = np.tensordot(weights[:2], flat.energy, axes=1)
        assert np.abs(cumulative_error(exact, straight, water_kernels(), basis)[beyond]).max() > 3 * FIT
