"""Materials: what tissue, implants and couches are made of, and how strongly they attenuate photons.

Photons interact almost as if electrons were free, so that a gram of anything differs from a gram of water by its
electrons first. What is left, photoelectric absorption and pair production, grows with the atomic number. Media with a
table of their own (`beam_data/materials/attenuation.csv`) use it; all others follow from water and titanium by the rule
in `_derived_attenuation`. docs/formats/materials.md has the reasons and the errors.
"""

from __future__ import annotations

import csv
import re
import tomllib
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spinedose._resources import folder
from spinedose.errors import BeamDataError, InvalidInput

Array = NDArray[np.float64]

ELECTRON_REST_ENERGY_MEV = 0.510999
"""CODATA 2018."""

SECONDARY_ELECTRON_MEV = 1.0
"""Energy at which stopping powers are compared: secondary electrons of 6 MV beams have about 1 MeV on average."""


@dataclass(frozen=True, slots=True, eq=False)
class Material:
    """What something is made of, whatever its density.

    Parameters
    ----------
    name : str
        Its name.
    mass_density_g_cm3 : float
        Nominal mass density [g/cm^3].
    electrons_per_gram : float
        Electrons per gram relative to water.
    energy_MeV : ndarray, shape (n,)
        Photon energies of the table [MeV], rising.
    mu_over_rho_cm2_g : ndarray, shape (n,)
        Mass attenuation coefficients without coherent scattering [cm^2/g]: the convention of the deposition kernels.
    stopping_power_ratio : float
        Mass collision stopping power relative to water for electrons of `SECONDARY_ELECTRON_MEV`.
    scattering_number : float
        Mean of Z + 1 over the electrons: elastic scattering per electron goes with it.
    provenance : str
        Where the numbers come from; not empty.
    """

    name: str
    mass_density_g_cm3: float
    electrons_per_gram: float
    energy_MeV: Array
    mu_over_rho_cm2_g: Array
    stopping_power_ratio: float
    scattering_number: float
    provenance: str

    def __post_init__(self) -> None:
        for field in ("energy_MeV", "mu_over_rho_cm2_g"):
            array = np.array(getattr(self, field), dtype=np.float64)
            array.flags.writeable = False
            object.__setattr__(self, field, array)
            self._prove(array.ndim == 1 and len(array) >= 2, f"has {array.size} numbers for {field}, two are needed")
            self._prove(bool((np.isfinite(array) & (array > 0)).all()), f"has a {field} that is not positive")
        self._prove(len(self.energy_MeV) == len(self.mu_over_rho_cm2_g), "has tables of different length")
        self._prove(bool((np.diff(self.energy_MeV) > 0).all()), "has energies that do not rise")
        self._prove(0 < self.mass_density_g_cm3 < 25, f"has a density of {self.mass_density_g_cm3:g} g/cm3")
        # hydrogen-rich plastics to lead
        self._prove(
            0.7 < self.electrons_per_gram < 1.15, f"has {self.electrons_per_gram:g} of water's electrons a gram"
        )
        self._prove(
            0.4 < self.stopping_power_ratio < 1.3, f"has a stopping power ratio of {self.stopping_power_ratio:g}"
        )
        self._prove(bool(self.provenance.strip()), "has no provenance")

    def _prove(self, holds: bool, problem: str) -> None:
        if not holds:
            raise BeamDataError(f"Material '{self.name}' {problem}", "", "See docs/formats/materials.md")

    def attenuation(self, energy_MeV: ArrayLike) -> Array:
        """Mass attenuation coefficient without coherent scattering, log-log interpolated.

        Parameters
        ----------
        energy_MeV : array_like
            Photon energies [MeV], within the table.

        Returns
        -------
        ndarray, shape of energy_MeV
            [cm^2/g].
        """
        energy = np.asarray(energy_MeV, dtype=np.float64)
        low, high = float(self.energy_MeV[0]), float(self.energy_MeV[-1])
        if not np.all((energy >= low) & (energy <= high * (1 + 1e-9))):
            raise BeamDataError(
                f"Photon energies {energy.min():g} to {energy.max():g} MeV leave the table of '{self.name}'",
                f"it holds {low:g} to {high:g} MeV",
            )
        logarithm = np.interp(np.log(energy), np.log(self.energy_MeV), np.log(self.mu_over_rho_cm2_g))
        return np.asarray(np.exp(logarithm), dtype=np.float64)


def list_materials() -> tuple[str, ...]:
    """Names of the materials that come with spinedose."""
    return tuple(_file()["materials"])


def material(name: str) -> Material:
    """A named material; capitals, blanks and underscores do not matter.

    Parameters
    ----------
    name : str
        One of `list_materials`, or another usual name of it such as `"CoCr"`.

    Returns
    -------
    Material

    Raises
    ------
    InvalidInput
        If there is no such material.
    """
    wanted = re.sub(r"[\s_]+", "-", name.strip().lower())
    for own, entry in _file()["materials"].items():
        if wanted == own or wanted in entry.get("aliases", ()):
            return _make(own)
    raise InvalidInput(f"There is no material '{name}'", f"there are {', '.join(list_materials())}")


@cache
def bone_mix(fraction: float) -> Material:
    """Cortical bone and soft tissue (muscle) mixed by mass.

    Parameters
    ----------
    fraction : float
        Share of cortical bone in the mass, 0 to 1.

    Returns
    -------
    Material
    """
    if not 0 <= fraction <= 1:
        raise InvalidInput(f"A bone share of {fraction:g} was asked for", "it lies between 0 and 1")
    soft, bone = material("muscle"), material("cortical-bone")
    assert np.array_equal(soft.energy_MeV, bone.energy_MeV), "both come from one table"

    def mixed(of_soft: Any, of_bone: Any) -> Any:
        return (1 - fraction) * of_soft + fraction * of_bone

    return Material(
        name=f"bone-{100 * fraction:g}%",
        mass_density_g_cm3=1 / mixed(1 / soft.mass_density_g_cm3, 1 / bone.mass_density_g_cm3),
        electrons_per_gram=mixed(soft.electrons_per_gram, bone.electrons_per_gram),
        energy_MeV=soft.energy_MeV,
        mu_over_rho_cm2_g=mixed(soft.mu_over_rho_cm2_g, bone.mu_over_rho_cm2_g),
        stopping_power_ratio=mixed(soft.stopping_power_ratio, bone.stopping_power_ratio),
        scattering_number=mixed(*(m.electrons_per_gram * m.scattering_number for m in (soft, bone)))
        / mixed(soft.electrons_per_gram, bone.electrons_per_gram),
        provenance=f"{fraction:g} of 'cortical-bone' and {1 - fraction:g} of 'muscle' by mass",
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Recipe:
    """Elements of a material.

    Parameters
    ----------
    number : ndarray, shape (n,)
        Atomic numbers.
    moles : ndarray, shape (n,)
        Atoms of each in a gram [mol/g].
    mass_density_g_cm3 : float
        Nominal mass density [g/cm^3].
    excitation_eV : float
        Mean excitation energy [eV].
    """

    number: Array
    moles: Array
    mass_density_g_cm3: float
    excitation_eV: float

    @property
    def electrons(self) -> float:
        """Electrons in a gram [mol/g]."""
        return float(np.sum(self.number * self.moles))

    def mean(self, of_element: Array) -> float:
        """Mean of a quantity over the electrons."""
        return float(np.sum(self.number * self.moles * of_element) / self.electrons)


@cache
def _file() -> dict[str, Any]:
    path = folder("beam_data") / "materials" / "materials.toml"
    return tomllib.loads(path.read_text(encoding="utf-8"))


@cache
def _tables() -> dict[str, tuple[Array, Array]]:
    """Energies [MeV] and attenuation [cm^2/g] of the media that have their own."""
    path = folder("beam_data") / "materials" / "attenuation.csv"
    found: dict[str, list[tuple[float, float]]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            pair = float(row["energy_MeV"]), float(row["mu_over_rho_nocoherent_cm2_g"])
            found.setdefault(row["material"], []).append(pair)
    return {name: (columns[:, 0], columns[:, 1]) for name, rows in found.items() for columns in [np.array(rows)]}


@cache
def _recipe(name: str) -> _Recipe:
    entry, elements = _file()["materials"][name], _file()["elements"]
    shares = entry["mass_share_percent"]
    used = [elements[symbol] for symbol in shares]
    number = np.array([float(element["number"]) for element in used])
    mass = np.array([float(share) for share in shares.values()])
    moles = mass / mass.sum() / [element["weight"] for element in used]
    is_compound = bool({"H", "O"} & set(shares))
    energies = [_excitation_eV(element, is_compound) for element in used]
    # Bragg's rule
    bragg = np.exp(np.sum(number * moles * np.log(energies)) / np.sum(number * moles))
    return _Recipe(number, moles, float(entry["mass_density_g_cm3"]), float(entry.get("excitation_eV", bragg)))


def _excitation_eV(element: dict[str, Any], is_compound: bool) -> float:
    """Mean excitation energy of an element [eV], larger in solid and liquid compounds: ICRU Report 37, table 5.1."""
    pure = float(element["excitation_eV"])
    if not is_compound:
        return pure
    return float(element.get("excitation_in_compound_eV", 1.13 * pure))


@cache
def _make(name: str) -> Material:
    recipe, water = _recipe(name), _recipe("water")
    source = str(_file()["materials"][name]["source"])
    if name in _tables():
        energy, mu = _tables()[name]
        origin = "attenuation: Monte Carlo cross sections"
    else:
        energy, mu = _derived_attenuation(recipe)
        origin = "attenuation: from water and titanium by composition"
    return Material(
        name=name,
        mass_density_g_cm3=recipe.mass_density_g_cm3,
        electrons_per_gram=recipe.electrons / water.electrons,
        energy_MeV=energy,
        mu_over_rho_cm2_g=mu,
        stopping_power_ratio=_collision_stopping_power(recipe) / _collision_stopping_power(water),
        scattering_number=recipe.mean(recipe.number) + 1,
        provenance=f"{source}; {origin}",
    )


LOWEST_DERIVED_MEV = 0.05
"""Below this the K edges of molybdenum (0.020 MeV) and barium (0.037 MeV) break the rule."""

HEAVY = 30
"""Above this atomic number photoelectric absorption rises with a smaller power."""


def _photoelectric_weight(number: Array, energy_MeV: float) -> Array:
    """Photoelectric absorption per electron relative to titanium, with the bond of electrons in the Compton effect.

    The exponents are fitted: up to zinc to the table of cortical bone (0.05 to 0.4 MeV), beyond it to the ratio of
    barium to titanium in XCOM (0.1 to 1 MeV). docs/formats/materials.md has the residuals.
    """
    decades = np.log10(energy_MeV / 0.1)
    exponent = np.where(number <= HEAVY, 3.61 + 1.26 * decades, 3.24 + 1.05 * decades)
    return np.asarray((number / 22) ** exponent, dtype=np.float64)


def _derived_attenuation(recipe: _Recipe) -> tuple[Array, Array]:
    """Attenuation of a material from that of water and titanium.

    Per electron, attenuation is that of free electrons, the same for all, a photoelectric part and a pair part. The
    last two follow from the difference of titanium and water: all of it is photoelectric below the threshold of pair
    production, and falls as 1/E^2 above; the rest is pairs. The photoelectric part goes with `_photoelectric_weight`,
    the pair part with the atomic number (Z^2 an atom).

    Returns
    -------
    energy_MeV, mu_over_rho_cm2_g : ndarray, shape (n,)
    """
    water, titanium = _recipe("water"), _recipe("titanium")
    energy, of_water = _tables()["water"]
    keep = energy >= LOWEST_DERIVED_MEV
    energy, of_water = energy[keep], of_water[keep] / water.electrons
    difference = _tables()["titanium"][1][keep] / titanium.electrons - of_water
    has_pairs = energy > 2 * ELECTRON_REST_ENERGY_MEV
    last = int(np.flatnonzero(~has_pairs)[-1])
    photo = np.where(has_pairs, difference[last] * (energy[last] / energy) ** 2, difference)
    pairs = difference - photo

    def share(weights: list[float]) -> float:
        own, least, most = weights
        return (own - least) / (most - least)

    recipes = (recipe, water, titanium)
    photo_share = np.array([share([r.mean(_photoelectric_weight(r.number, e)) for r in recipes]) for e in energy])
    pair_share = share([r.mean(r.number) for r in recipes])
    return energy, recipe.electrons * (of_water + photo_share * photo + pair_share * pairs)


def _collision_stopping_power(recipe: _Recipe, energy_MeV: float = SECONDARY_ELECTRON_MEV) -> float:
    """Mass collision stopping power for electrons [MeV cm^2/g].

    References
    ----------
    M. J. Berger, S. M. Seltzer, ICRU Report 37 (1984), equations 2.5 to 2.8 (Moller scattering); density effect:
    R. M. Sternheimer, R. F. Peierls, Phys. Rev. B 3 (1971) 3681, doi 10.1103/PhysRevB.3.3681.
    """
    tau = energy_MeV / ELECTRON_REST_ENERGY_MEV
    beta2 = tau * (tau + 2) / (tau + 1) ** 2
    excitation = recipe.excitation_eV * 1e-6 / ELECTRON_REST_ENERGY_MEV
    moller = (1 - beta2) * (1 + tau**2 / 8 - (2 * tau + 1) * np.log(2))
    bracket = np.log(tau**2 * (tau + 2) / (2 * excitation**2)) + moller - _density_effect(recipe, tau)
    return float(0.153536 * recipe.electrons / beta2 * bracket)


def _density_effect(recipe: _Recipe, tau: float) -> float:
    """Density effect correction of a stopping power; tau is the kinetic energy in rest energies."""
    plasma_eV = 28.816 * np.sqrt(recipe.mass_density_g_cm3 * recipe.electrons)
    c = 2 * np.log(recipe.excitation_eV / plasma_eV) + 1
    x = 0.5 * np.log10(tau * (tau + 2))
    is_gas = recipe.mass_density_g_cm3 < 0.01
    if is_gas:  # air: C = 10.6
        x0, x1 = 1.8, 4.0
    elif recipe.excitation_eV < 100:
        x0, x1 = (0.2 if c < 3.681 else 0.326 * c - 1.0), 2.0
    else:
        x0, x1 = (0.2 if c < 5.215 else 0.326 * c - 1.5), 3.0
    if x <= x0:
        return 0.0
    linear = 2 * np.log(10) * x - c
    if x >= x1:
        return float(linear)
    return float(linear + (c - 2 * np.log(10) * x0) * ((x1 - x) / (x1 - x0)) ** 3)
