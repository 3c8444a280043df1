"""Density curves: from CT numbers to mass density and relative electron density, as TOML files."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spinedose import _resources
from spinedose.errors import BeamDataError
from spinedose.structures import Structure

Array = NDArray[np.float64]

WATER_ELECTRONS_PER_GRAM = 0.555093
"""Z/A of water [mol/g]; from the standard atomic weights of H and O (IUPAC 2021)."""

METAL_ELECTRONS_PER_GRAM = 0.460
"""Z/A of implant metals [mol/g]: Ti 0.4596, Cr 0.4616, Co 0.4581, Fe 0.4656 (standard atomic weights, IUPAC 2021)."""


@dataclass(frozen=True, slots=True, eq=False)
class HuCurve:
    """A piecewise linear curve from CT numbers to matter.

    Parameters
    ----------
    name : str
        Name of the curve.
    hu : ndarray, shape (n,)
        CT numbers of the points [HU], whole and rising.
    mass_density : ndarray, shape (n,)
        Mass density [g/cm^3], rising.
    electron_density : ndarray, shape (n,)
        Electron density relative to water, rising.
    provenance : str
        Where the numbers come from; not empty.
    is_generic : bool
        Whether the curve was not measured on the scanner in use; then every result carries a warning.
    doubtful_above_hu : float
        Above this CT number [HU] nothing but teeth or metal is expected.
    """

    name: str
    hu: Array
    mass_density: Array
    electron_density: Array
    provenance: str
    is_generic: bool = False
    doubtful_above_hu: float = np.inf

    def __post_init__(self) -> None:
        for field in ("hu", "mass_density", "electron_density"):
            array = np.array(getattr(self, field), dtype=np.float64)
            array.flags.writeable = False
            object.__setattr__(self, field, array)
            self._prove(array.ndim == 1 and len(array) >= 2, f"has {array.size} numbers for {field}", "two are needed")
            self._prove(bool(np.isfinite(array).all()), f"has a {field} that is not a number")
            self._prove(len(array) == len(self.hu), f"has another number of points for {field} than for hu")
            self._prove(bool((np.diff(array) > 0).all()), f"has a {field} that does not rise", "it must be one-to-one")
        self._prove(bool((self.hu == np.rint(self.hu)).all()), "has a CT number that is not whole")
        self._prove(self.mass_density[0] >= 0 and self.electron_density[0] >= 0, "has a negative density")
        matter = self.mass_density > 0
        ratio = self.electron_density[matter] / self.mass_density[matter]
        self._prove(
            bool(((ratio > 0.70) & (ratio < 1.15)).all()),
            f"has an electron density over mass density of {ratio.min():.2f} to {ratio.max():.2f}",
            "between lead and hydrogen-rich plastics it is 0.70 to 1.15",
            "Check that the two columns are not swapped",
        )
        self._prove(bool(self.provenance.strip()), "has no provenance", "a number without a source is not used")

    def _prove(self, holds: bool | np.bool_, problem: str, why: str = "", advice: str = "") -> None:
        if not holds:
            raise BeamDataError(f"Density curve '{self.name}' {problem}", why, advice)

    @property
    def last_hu(self) -> float:
        """CT number of the last point [HU]; there is no density above it."""
        return float(self.hu[-1])

    def densities(self, hu: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Mass density [g/cm^3] and relative electron density of CT numbers [HU], all of one shape.

        Below the first point that of the first point (air); above the last point that of the last point, which the
        caller must report.
        """
        mass, electron = self._tables()
        first = int(self.hu[0])
        if hu.dtype.kind in "iu":
            index = np.clip(hu, first, int(self.hu[-1])).astype(np.int32) - first
            return mass[index], electron[index]
        # Points have whole CT numbers, so a table of step 1 HU is exact, and faster than np.interp.
        place = np.clip(hu, self.hu[0], self.hu[-1]).astype(np.float32) - np.float32(first)
        index = np.minimum(place.astype(np.int32), len(mass) - 2)
        place -= index
        return (
            mass[index] + place * (mass[index + 1] - mass[index]),
            electron[index] + place * (electron[index + 1] - electron[index]),
        )

    def _tables(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        steps = np.arange(self.hu[0], self.hu[-1] + 1)
        mass = np.interp(steps, self.hu, self.mass_density).astype(np.float32)
        return mass, np.interp(steps, self.hu, self.electron_density).astype(np.float32)

    def complete(self, structure: Structure) -> tuple[float, float, str]:
        """Both densities of an override, of which the planner may have given only one.

        Parameters
        ----------
        structure : Structure
            Has a relative mass density, a relative electron density, or both.

        Returns
        -------
        mass_density : float
            [g/cm^3]
        electron_density : float
            Relative to water.
        warning : str
            How a missing density was found; empty when both were given or the curve has the answer.
        """
        mass, electron = structure.relative_mass_density, structure.relative_electron_density
        masses, electrons = (np.concatenate([[0.0], column]) for column in (self.mass_density, self.electron_density))
        metal = METAL_ELECTRONS_PER_GRAM / WATER_ELECTRONS_PER_GRAM
        if mass is not None and electron is not None:
            return mass, electron, ""
        if electron is not None:
            if electron <= electrons[-1]:
                return float(np.interp(electron, electrons, masses)), electron, ""
            mass = electron / metal
            given = f"a relative electron density of {electron:g} only; a mass density of {mass:.3g} g/cm3"
        else:
            assert mass is not None, "the caller asks only for structures with an override"
            if mass <= masses[-1]:
                return mass, float(np.interp(mass, masses, electrons)), ""
            electron = mass * metal
            given = f"a mass density of {mass:g} g/cm3 only; a relative electron density of {electron:.3g}"
        assumption = f"is assumed for it, as of an implant metal (Z/A = {METAL_ELECTRONS_PER_GRAM:g})."
        return mass, electron, f"Structure '{structure.name}' has {given} {assumption}"


def list_curves() -> tuple[str, ...]:
    """Names of the density curves that come with spinedose."""
    return tuple(sorted(path.stem for path in (_resources.folder("beam_data") / "density").glob("*.toml")))


def read_curve(name_or_file: str | Path = "generic") -> HuCurve:
    """Read a density curve.

    Parameters
    ----------
    name_or_file : str or path
        Name of a curve that comes with spinedose, or a TOML file (docs/formats/density.md).

    Returns
    -------
    HuCurve

    Raises
    ------
    BeamDataError
        If the file is missing, cannot be read or holds no proper curve.
    """
    path = Path(name_or_file)
    if path.suffix != ".toml":
        path = _resources.folder("beam_data") / "density" / f"{name_or_file}.toml"
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        curve, points = content["curve"], content["curve"]["points"]
        return HuCurve(
            name=str(curve["name"]),
            hu=np.array([float(point["hu"]) for point in points]),
            mass_density=np.array([float(point["mass_density_g_cm3"]) for point in points]),
            electron_density=np.array([float(point["relative_electron_density"]) for point in points]),
            provenance="\n".join(f"{key}: {str(text).strip()}" for key, text in content.get("provenance", {}).items()),
            is_generic=bool(curve["generic"]),
            doubtful_above_hu=float(curve["doubtful_above_hu"]),
        )
    except OSError as error:
        raise BeamDataError(
            f"Density curve '{name_or_file}' cannot be read",
            error.strerror or "no such file",
            f"Name one that spinedose has ({', '.join(list_curves())}), or a .toml file",
        ) from error
    except KeyError as error:
        raise BeamDataError(f"Density curve '{path.name}' has no {error}", "", "See docs/formats/density.md") from error
    except (TypeError, ValueError) as error:  # TOML and UTF-8 errors are ValueErrors
        if isinstance(error, BeamDataError):
            raise
        raise BeamDataError(
            f"Density curve '{path.name}' is wrong", str(error), "See docs/formats/density.md"
        ) from error
