"""From Monte Carlo energy deposition kernels to cone tables: what each direction receives of an interaction's energy.

A deposition kernel is written with radial functions shared by all angles (docs/theory/cones.md)::

    h(r, theta) = 1/r^2 * sum_k C_k(theta) * phi_k(r),    phi_k = Erlang density of order n_k and rate lambda_k      (1)

Because the radial functions do not depend on the angle, the energy released by all control points may be summed into
angular moments before it is transported (docs/theory/transport.md).
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spinedose import _cache
from spinedose._resources import folder
from spinedose.electrons import ElectronSpread
from spinedose.errors import BeamDataError, InvalidInput

Array = NDArray[np.float64]

HARD_DEPTH_CM = 20.0
"""Depth in water whose spectrum defines hardness 1; hardness 0 is the spectrum as it enters the patient."""


class MediumLike(Protocol):
    """Matter other than water: what TERMA needs of it."""

    @property
    def electrons_per_gram(self) -> float:
        """Electrons per gram, relative to water."""

    def attenuation(self, energy_MeV: ArrayLike) -> Array:
        """Mass attenuation coefficient without coherent scattering [cm^2/g]."""


class SpectrumLike(Protocol):
    """Photon fluence per energy: what this module needs of a beam's spectrum."""

    @property
    def energy_MeV(self) -> Array:
        """Photon energies, shape (n,) [MeV]."""

    @property
    def weight(self) -> Array:
        """Share of the photon fluence at each energy, shape (n,)."""


@dataclass(frozen=True, slots=True, eq=False)
class DepositionTable:
    """Mono-energetic energy deposition kernels in water of unit density.

    Parameters
    ----------
    energy_MeV : ndarray, shape (e,)
        Photon energies [MeV], rising.
    r_edge_cm : ndarray, shape (r + 1,)
        Shell edges [cm], from 0.
    theta_edge_deg : ndarray, shape (t + 1,)
        Cone edges from 0 to 180 [degrees]; 0 is the direction of the photon.
    energy_fraction : ndarray, shape (e, t, r)
        Share of the photon's energy deposited in each ring, all azimuths; sums to less than 1 by what leaves the last
        shell.
    """

    energy_MeV: Array
    r_edge_cm: Array
    theta_edge_deg: Array
    energy_fraction: Array

    def __post_init__(self) -> None:
        shape = (len(self.energy_MeV), len(self.theta_edge_deg) - 1, len(self.r_edge_cm) - 1)
        if self.energy_fraction.shape != shape:
            raise BeamDataError(f"Deposition kernels have shape {self.energy_fraction.shape} instead of {shape}")
        for name in ("energy_MeV", "r_edge_cm", "theta_edge_deg"):
            if np.any(np.diff(getattr(self, name)) <= 0):
                raise BeamDataError(f"Deposition kernels have a {name} that does not rise")
        total = self.energy_fraction.sum(axis=(1, 2))
        if np.any(self.energy_fraction < 0) or np.any(total > 1.0005) or np.any(total < 0.9):
            raise BeamDataError("Deposition kernels do not hold the photon's energy", f"sums are {total}")

    def mix(self, energy_MeV: ArrayLike, weight: ArrayLike) -> Array:
        """Kernel of a mix of photon energies.

        Parameters
        ----------
        energy_MeV : array_like, shape (n,)
            Energies [MeV]; kernels between the tabulated ones are interpolated linearly in log energy.
        weight : array_like, shape (n,)
            Share of the released energy (TERMA) at each energy; normalised here.

        Returns
        -------
        ndarray, shape (t, r)
            Energy fraction per ring.
        """
        energy, share = np.asarray(energy_MeV, float), np.asarray(weight, float)
        if energy.max() > self.energy_MeV[-1] * 1.001:
            raise BeamDataError(
                f"The spectrum reaches {energy.max():g} MeV",
                f"kernels end at {self.energy_MeV[-1]:g} MeV",
                "Use a softer spectrum",
            )
        position = np.interp(np.log(energy), np.log(self.energy_MeV), np.arange(len(self.energy_MeV)))
        low = np.minimum(position.astype(int), len(self.energy_MeV) - 2)
        part = position - low
        share = share / share.sum()
        node = np.bincount(low, share * (1 - part), len(self.energy_MeV))
        node += np.bincount(low + 1, share * part, len(self.energy_MeV))
        mixed: Array = np.tensordot(node, self.energy_fraction, axes=1)
        return mixed


@cache
def water_kernels() -> DepositionTable:
    """The kernels shipped with spinedose: EGSnrc Monte Carlo in water, 24 energies (beam_data/deposition/README.md)."""
    with np.load(folder("beam_data") / "deposition" / "water.npz") as data:
        return DepositionTable(
            *(np.asarray(data[k], float) for k in ("energy_MeV", "r_edge_cm", "theta_edge_deg", "energy_fraction"))
        )


@cache
def _water_attenuation() -> tuple[Array, Array]:
    path: Path = folder("beam_data") / "deposition" / "water_attenuation.csv"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    energy = np.array([float(row["energy_MeV"]) for row in rows])
    return energy, np.array([float(row["mu_over_rho_nocoherent_cm2_g"]) for row in rows])


def water_attenuation(energy_MeV: ArrayLike) -> Array:
    """Mass attenuation coefficient of water without coherent scattering [cm^2/g], log-log interpolated.

    Parameters
    ----------
    energy_MeV : array_like, shape (n,)
        Photon energies [MeV], 0.01 to 20.

    Returns
    -------
    ndarray, shape (n,)
        Coefficients that belong to the shipped kernels: coherent scattering leaves the photon in the beam.
    """
    energy = np.asarray(energy_MeV, float)
    node, mu = _water_attenuation()
    if np.any(energy < node[0]) or np.any(energy > node[-1] * 1.001):
        raise BeamDataError(
            f"Photon energies {energy.min():g}-{energy.max():g} MeV leave the table", f"{node[0]}-{node[-1]} MeV"
        )
    coefficient: Array = np.exp(np.interp(np.log(energy), np.log(node), np.log(mu)))
    return coefficient


@dataclass(frozen=True, slots=True)
class RadialBasis:
    """The radial functions of equation (1): chains of exponential stages.

    A chain of `stages` n and rate lambda offers the Erlang densities of order 1 to n: energy that enters stage j has to
    pass the stages j..n before it is deposited, each exponentially distributed in radiological distance.

    Parameters
    ----------
    rate_per_cm : tuple of floats
        lambda of each chain [1/cm] at unit relative electron density, rising.
    stages : tuple of ints
        Number of stages of each chain, 1 to 3.
    """

    rate_per_cm: tuple[float, ...]
    stages: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.rate_per_cm) != len(self.stages) or not self.stages:
            raise BeamDataError("Radial basis needs one rate for each chain")
        if min(self.rate_per_cm) <= 0 or not all(1 <= n <= 3 for n in self.stages):
            raise BeamDataError("Radial basis needs positive rates and 1 to 3 stages a chain")

    @property
    def size(self) -> int:
        """Number of radial functions K."""
        return sum(self.stages)

    def cumulative(self, r_cm: ArrayLike) -> Array:
        """Share of energy deposited within a distance, shape (K, len(r)): first chain first, whole chain (order n)
        first."""
        from scipy.special import gammainc

        r = np.asarray(r_cm, float)
        return np.array(
            [
                gammainc(order, rate * r)
                for rate, n in zip(self.rate_per_cm, self.stages, strict=True)
                for order in range(n, 0, -1)
            ]
        )


@dataclass(frozen=True, slots=True, eq=False)
class ConeTable:
    """A deposition kernel in the form of equation (1), for all hardnesses of a spectrum (equation 4).

    Parameters
    ----------
    basis : RadialBasis
        The K radial functions.
    theta_edge_deg : ndarray, shape (t + 1,)
        Cone edges [degrees].
    energy : ndarray, shape (S, K, t)
        Share of the released energy in each cone and radial function, S = 2 or 3: for the entering spectrum (hardness
        0), the change on going to hardness 1, and that for the curvature between these and the softest spectrum off
        the axis. All entries of the first, and of the sum of the first two, are >= 0. With `spreading` one more.
    density_factor : ndarray float32, shape (m,)
        Factor on the relative electron density in which electrons are carried, for each material; shape (1,): all is
        water.
    returned : ndarray float32, shape (m,)
        Share of the electrons' energy that each material sends back into water; shape (1,): all is water.
    """

    basis: RadialBasis
    theta_edge_deg: Array
    energy: Array
    density_factor: NDArray[np.float32] = field(default_factory=lambda: np.ones(1, np.float32))
    returned: NDArray[np.float32] = field(default_factory=lambda: np.zeros(1, np.float32))

    def __post_init__(self) -> None:
        if len(self.energy) not in (2, 3, 4) or self.energy.shape[1:] != (
            self.basis.size,
            len(self.theta_edge_deg) - 1,
        ):
            raise BeamDataError(f"Cone table has shape {self.energy.shape}")
        soft, hard = self.energy[0], self.energy[:2].sum(axis=0)
        if soft.min() < -1e-12 or hard.min() < -1e-12:
            raise BeamDataError("Cone table has negative energies", "fits are made with coefficients >= 0")
        if not np.allclose([soft.sum(), hard.sum()], 1.0, atol=0.08):
            raise BeamDataError("Cone table does not hold the released energy", f"sums {self.energy.sum(axis=(1, 2))}")

    @property
    def photon_functions(self) -> int:
        """How many radial functions, the first ones, stand for scattered photons: the chain that reaches farthest."""
        return self.basis.stages[0]

    def spreading(self, spread: ElectronSpread) -> ConeTable:
        """With one more part: minus the energy of electrons, whose moments come with what other matter takes of them.

        Its moments of degree 0 are zero, so that no energy is lost (docs/theory/heterogeneity.md, equation 3).
        """
        electrons = -self.energy[0]
        electrons[: self.photon_functions] = 0
        return replace(
            self,
            energy=np.concatenate([self.energy, electrons[None]]),
            density_factor=spread.density_factor,
            returned=spread.returned,
        )

    def legendre(self, order: int) -> Array:
        """Legendre moments of each radial function, shape (S, K, order + 1): integral of C_k(mu) P_l(mu) over all
        directions."""
        mean = legendre_mean(np.cos(np.radians(self.theta_edge_deg)), order)
        moment: Array = np.einsum("hkt,tl->hkl", self.energy, mean)
        return moment


def legendre_mean(mu_edge: Array, order: int) -> Array:
    """Mean of the Legendre polynomials P_0..P_order over intervals of mu, shape (len(mu_edge) - 1, order + 1)."""
    from numpy.polynomial import legendre

    columns = []
    for l in range(order + 1):  # noqa: E741 - the degree l has no other name
        antiderivative = legendre.legint(np.eye(order + 1)[l])
        columns.append(np.diff(legendre.legval(mu_edge, antiderivative)) / np.diff(mu_edge))
    return np.array(columns).T


def fit_cones(kernel: Array, table: DepositionTable, basis: RadialBasis) -> Array:
    """Fit the coefficients C_k of every cone to the cumulative energy of a kernel, by non-negative least squares.

    Parameters
    ----------
    kernel : ndarray, shape (t, r)
        Energy fraction per ring, see `DepositionTable.mix`.
    table : DepositionTable
        For the edges.
    basis : RadialBasis
        Radial functions.

    Returns
    -------
    ndarray, shape (K, t)
        Energy fraction of each radial function and cone, >= 0. Each cone keeps its energy within the last shell.
    """
    from scipy.optimize import nnls

    target = np.cumsum(kernel, axis=1)
    shape = basis.cumulative(table.r_edge_cm[1:])
    weight = np.ones(target.shape[1])
    weight[-1] = 30.0  # the cone's energy is what an output factor sees: hold it
    result = np.empty((basis.size, len(target)))
    for t, row in enumerate(target):
        result[:, t], _ = nnls((shape * weight).T, row * weight)
    return result


def cumulative_error(kernel: Array, fitted: Array, table: DepositionTable, basis: RadialBasis) -> Array:
    """Fitted minus tabulated energy within each shell edge, all cones together, shape (r,) [share of released
    energy]."""
    model = fitted.sum(axis=1) @ basis.cumulative(table.r_edge_cm[1:])
    error: Array = model - np.cumsum(kernel.sum(axis=0))
    return error


def released_energy(spectrum: SpectrumLike, depth_cm: float) -> Array:
    """Energy released per unit mass of water at a depth (TERMA) by each energy of the spectrum, shape (n,).

    Returns
    -------
    ndarray, shape (n,)
        `weight * E * mu/rho * exp(-mu * depth)` [MeV cm^2/g per photon/cm^2 in the entering beam].
    """
    mu = water_attenuation(spectrum.energy_MeV)
    terma: Array = spectrum.weight * spectrum.energy_MeV * mu * np.exp(-mu * depth_cm)
    return terma


CHAINS = ((3, 2, 2), (3, 3, 1))
"""Chains tried by `fit_basis`; both have K = 7 radial functions."""


@cache
def _basis_for(energy: bytes, weight: bytes) -> RadialBasis:
    from scipy.optimize import minimize

    spectrum = _Spectrum(np.frombuffer(energy), np.frombuffer(weight))
    key = "basis-" + hashlib.sha256(energy + weight + repr((CHAINS, _FIT_REVISION)).encode()).hexdigest()[:32]
    known = _cache.recall(key)
    if isinstance(known, dict):
        return RadialBasis(tuple(known["rate_per_cm"]), tuple(known["stages"]))
    table = water_kernels()
    kernels = [table.mix(spectrum.energy_MeV, released_energy(spectrum, depth)) for depth in (0.0, HARD_DEPTH_CM)]
    mean = _mean(spectrum.energy_MeV, released_energy(spectrum, 0.0))

    def misfit(log_rate: Array, stages: tuple[int, ...]) -> float:
        """Squared error of the cumulative energy, of each cone and of all cones together."""
        basis = RadialBasis(tuple(np.exp(log_rate).tolist()), stages)
        shape = basis.cumulative(table.r_edge_cm[1:])
        total = 0.0
        for kernel in kernels:
            error = fit_cones(kernel, table, basis).T @ shape - np.cumsum(kernel, axis=1)
            total += len(error) * float((error**2).sum()) + float((error.sum(axis=0) ** 2).sum())
        return total

    # electrons reach about half a centimetre for each MeV, scattered photons some 13 cm
    start = np.log([0.075, 6.5 / mean, 22.0 / mean])
    fits = []
    for stages in CHAINS:
        found = minimize(misfit, start, args=(stages,), method="Nelder-Mead", options={"maxfev": 120, "xatol": 1e-3})
        fits.append((found.fun, tuple(float(v) for v in np.sort(np.exp(found.x))), stages))
    _, rate, stages = min(fits)
    _cache.remember(key, {"rate_per_cm": rate, "stages": stages})
    return RadialBasis(rate, stages)


_FIT_REVISION = 1


def fit_basis(spectrum: SpectrumLike) -> RadialBasis:
    """Choose the radial functions for a spectrum: exponents and chains that fit its kernels best; remembered on disk.

    Parameters
    ----------
    spectrum : SpectrumLike
        Photon fluence on the axis.

    Returns
    -------
    RadialBasis
        With K = 7 functions in three chains; errors for common spectra are in docs/theory/cones.md.
    """
    energy, weight = (np.ascontiguousarray(a, dtype=np.float64) for a in (spectrum.energy_MeV, spectrum.weight))
    return _basis_for(energy.tobytes(), weight.tobytes())


@cache
def _fit_cached(energy: bytes, weight: bytes, basis: RadialBasis, softest: float) -> ConeTable:
    spectrum = _Spectrum(np.frombuffer(energy), np.frombuffer(weight))
    table = water_kernels()

    def fitted(spectrum: SpectrumLike, depth: float) -> Array:
        return fit_cones(table.mix(spectrum.energy_MeV, released_energy(spectrum, depth)), table, basis)

    plain, hard = (fitted(spectrum, depth) for depth in (0.0, HARD_DEPTH_CM))
    parts = [plain, hard - plain]
    if softest > 1:
        rim = softened(spectrum, softest)
        parts.append(fitted(rim, 0.0) - plain - surface_hardness(spectrum, softest) * parts[1])
    return ConeTable(basis, table.theta_edge_deg, np.array(parts))


def cone_table(spectrum: SpectrumLike, basis: RadialBasis | None = None, *, softest: float = 1.0) -> ConeTable:
    """Cone table of a beam: the shipped kernels mixed by the released energy, and fitted.

    Parameters
    ----------
    spectrum : SpectrumLike
        Photon fluence on the axis.
    basis : RadialBasis, optional
        Radial functions; by default those that fit the spectrum best.
    softest : float
        Largest off-axis softening that matters. Above 1 the table has a third part, for the curvature of the kernel in
        hardness between the axis at 20 cm depth, the axis at the surface, and this spectrum at the surface.

    Returns
    -------
    ConeTable
    """
    energy, weight = (np.ascontiguousarray(a, dtype=np.float64) for a in (spectrum.energy_MeV, spectrum.weight))
    return _fit_cached(energy.tobytes(), weight.tobytes(), basis or fit_basis(spectrum), float(softest))


def softened(spectrum: SpectrumLike, softening: float) -> SpectrumLike:
    """Spectrum off the axis, as photon fluence; see `terma_layers`."""
    energy = np.asarray(spectrum.energy_MeV, float)
    share = terma_layers(spectrum, [softening])[0] / energy
    return _Spectrum(energy, share / share.sum())


def mean_released_energy(spectrum: SpectrumLike) -> float:
    """Mean energy of photons on the axis, weighted with the energy that they release 5 cm deep in water [MeV]."""
    return _mean(np.asarray(spectrum.energy_MeV, float), released_energy(spectrum, 5.0))


def surface_hardness(spectrum: SpectrumLike, softening: float) -> float:
    """Hardness at the surface where the beam is softened; 0 on the axis, negative off it."""
    energy = np.asarray(spectrum.energy_MeV, float)
    zero, one = (_mean(energy, released_energy(spectrum, depth)) for depth in (0.0, HARD_DEPTH_CM))
    return (_mean(energy, released_energy(softened(spectrum, softening), 0.0)) - zero) / (one - zero)


@dataclass(frozen=True, slots=True, eq=False)
class _Spectrum:
    energy_MeV: Array
    weight: Array


@dataclass(frozen=True, slots=True, eq=False)
class TermaTable:
    """Energy released in water behind a water-equivalent depth, and how hard the spectrum is there.

    Parameters
    ----------
    depth_cm : ndarray, shape (d,)
        Water-equivalent depths [cm], evenly spaced from 0.
    softening : ndarray, shape (s,)
        Off-axis softening: factors on the beam's attenuation over the first 10 cm, rising; (1,) when there is none.
    terma : ndarray, shape (m, s, d)
        TERMA per unit energy fluence at depth 0, in each medium, a gram of which counts as many electrons as a gram of
        water [cm^2/g]: `sum E w mu/rho exp(-mu_water d) / sum E w`. The first medium is water.
    hardness : ndarray, shape (m, s, d)
        0 for the axis spectrum at the surface of water, 1 for it at 20 cm depth, linear in the mean TERMA energy.
    path_factor : ndarray, shape (m,)
        Centimetres of water that attenuate like a medium as thick and with as many electrons per volume as a
        centimetre of water (equation 3a of docs/theory/terma.md); 1 for water.
    """

    depth_cm: Array
    softening: Array
    terma: Array
    hardness: Array
    path_factor: Array

    def __post_init__(self) -> None:
        shape = (len(self.path_factor), len(self.softening), len(self.depth_cm))
        if self.terma.shape != shape or self.hardness.shape != shape:
            raise BeamDataError("TERMA table has the wrong shape")
        if np.any(self.terma <= 0) or not np.all(np.isfinite(self.hardness)):
            raise BeamDataError("TERMA table is not positive")


def terma_layers(spectrum: SpectrumLike, softening: ArrayLike) -> Array:
    """Spectra of a beam off the axis, as `terma_table` models them.

    Parameters
    ----------
    spectrum : SpectrumLike
        Photon fluence of the beam on the axis.
    softening : array_like, shape (s,)
        Factors on the effective attenuation of the first 10 cm of water, rising; 1 = as on the axis.

    Returns
    -------
    ndarray, shape (s, n)
        Share of the energy fluence at each energy; rows sum to 1.
    """
    from scipy.optimize import brentq

    factors = np.asarray(softening, float)
    if factors.ndim != 1 or np.any(factors < 0.8) or np.any(factors > 1.3) or np.any(np.diff(factors) <= 0):
        raise InvalidInput(
            f"Softening factors {factors} are not rising numbers near 1", "they scale the beam's attenuation"
        )
    energy = np.asarray(spectrum.energy_MeV, float)
    mu = water_attenuation(energy)
    axis = np.asarray(spectrum.weight, float) * energy

    def layer(thickness: float) -> Array:
        shifted = axis * np.exp(thickness * (mu - mu.min()))
        return np.asarray(shifted / shifted.sum())

    def effective(thickness: float) -> float:
        return float(-np.log((layer(thickness) * np.exp(-10 * mu)).sum()) / 10)

    layers = []
    for factor in factors:
        goal = factor * effective(0.0)
        thickness = 0.0 if factor == 1 else brentq(lambda t, goal=goal: effective(t) - goal, -300.0, 300.0)
        layers.append(layer(thickness))
    return np.array(layers)


def terma_table(
    spectrum: SpectrumLike,
    softening: ArrayLike = (1.0,),
    *,
    media: Sequence[MediumLike] = (),
    depth_cm: float = 80.0,
    step_cm: float = 0.1,
) -> TermaTable:
    """Tabulate TERMA and hardness.

    Off the axis the spectrum is softer because it crossed less flattening filter. It is modelled as the axis spectrum
    with a
    layer of water taken away: `w(E) exp(+t mu(E))`, t so that the transmission of 10 cm of water has the asked-for
    exponent.

    Parameters
    ----------
    spectrum : SpectrumLike
        Photon fluence of the beam on the axis.
    softening : array_like, shape (s,)
        Factors on the effective attenuation of the first 10 cm of water, rising; 1 = as on the axis.
    media : sequence of MediumLike
        Media beside water.
    depth_cm, step_cm : float
        Range and step of the table [cm].

    Returns
    -------
    TermaTable
    """
    factors = np.asarray(softening, float)
    layers = terma_layers(spectrum, factors)
    energy = np.asarray(spectrum.energy_MeV, float)
    mu = water_attenuation(energy)
    depth = np.arange(0, depth_cm + step_cm / 2, step_cm)
    decay = np.exp(-np.outer(depth, mu))
    mean_0, mean_1 = (_mean(energy, released_energy(spectrum, d)) for d in (0.0, HARD_DEPTH_CM))
    scale = mean_1 - mean_0 or np.inf  # a single energy does not harden
    kinds = [mu, *(medium.attenuation(energy) / medium.electrons_per_gram for medium in media)]
    terma, hardness = np.empty((2, len(kinds), len(layers), len(depth)))
    for m, own in enumerate(kinds):
        for s, layer in enumerate(layers):
            released = decay * (layer * own)
            terma[m, s] = released.sum(axis=1)
            hardness[m, s] = (released @ energy / terma[m, s] - mean_0) / scale
    factor = np.array([1.0, *(path_factor(spectrum, own) for own in kinds[1:])])
    return TermaTable(depth, factors, terma, hardness, factor)


LAYER_DEPTH_CM, LAYER_CM = 5.0, 3.0
"""Depth in water, and thickness times relative electron density, of the layer that defines a path factor."""


def path_factor(spectrum: SpectrumLike, attenuation_per_cm: Array) -> float:
    """Water-equivalent thickness of a layer over its thickness times relative electron density.

    Parameters
    ----------
    spectrum : SpectrumLike
        Photon fluence on the axis, shape (n,).
    attenuation_per_cm : ndarray, shape (n,)
        Attenuation coefficient of the layer's matter at the density at which it has as many electrons as water [1/cm].

    Returns
    -------
    float
        So that TERMA behind `LAYER_CM` of the matter, `LAYER_DEPTH_CM` deep in water, is that behind as much water.
    """
    from scipy.optimize import brentq

    before = released_energy(spectrum, LAYER_DEPTH_CM)
    behind = float((before * np.exp(-attenuation_per_cm * LAYER_CM)).sum())
    mu = water_attenuation(spectrum.energy_MeV)
    return float(brentq(lambda c: float((before * np.exp(-mu * (c * LAYER_CM))).sum()) - behind, 0.2, 5.0))


def _mean(value: Array, weight: Array) -> float:
    return float((value * weight).sum() / weight.sum())
