"""How electrons spread in matter that scatters them more than water does (docs/theory/heterogeneity.md, section 3).

Deposition kernels are those of water. In bone and metal electrons lose their direction sooner and get less far, for as
many electrons on their way. `beam_data/materials/electrons.csv` has both, relative to water, from a Monte Carlo of
single electrons in unbounded matter (`validation/electron_scatter.py`).
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from spinedose._resources import folder
from spinedose.errors import BeamDataError
from spinedose.materials import Material, material

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class ElectronSpread:
    """What other matter than water does to the electrons' part of a deposition kernel.

    Parameters
    ----------
    lost : ndarray float32, shape (m, L + 1)
        Share of each Legendre moment that is lost, for each material; 0 for water and for degree 0.
    density_factor : ndarray float32, shape (m,)
        Factor on the relative electron density in which electrons are carried; 1 for water.
    returned : ndarray float32, shape (m,)
        Share of the energy of electrons that come from water into each material which ends in the water again, more
        than if it were water.
    """

    lost: NDArray[np.float32]
    density_factor: NDArray[np.float32]
    returned: NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.lost.ndim != 2 or not self.density_factor.shape == self.returned.shape == (len(self.lost),):
            raise BeamDataError("The spread of electrons has the wrong shape")
        if (
            np.any(self.lost[:, 0] != 0)
            or np.any(self.lost[0] != 0)
            or self.density_factor[0] != 1
            or self.returned[0] != 0
        ):
            raise BeamDataError("The spread of electrons in water is not that of water, or energy is lost")
        if np.any(self.lost > 1) or np.any(self.density_factor <= 0) or np.any(np.abs(self.returned) > 0.5):
            raise BeamDataError("The spread of electrons makes no sense")


@cache
def _table() -> tuple[Array, Array, Array]:
    """Photon energies (e,), scattering numbers (n,), and (e, n, 2 + L): share returned, distance, Legendre moments."""
    path = folder("beam_data") / "materials" / "electrons.csv"
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    energy = sorted({float(row["photon_energy_MeV"]) for row in rows})
    number = sorted({float(row["mean_number_plus_1"]) for row in rows})
    values = np.full((len(energy), len(number), len(rows[0]) - 3), np.nan)
    for row in rows:
        place = energy.index(float(row["photon_energy_MeV"])), number.index(float(row["mean_number_plus_1"]))
        values[place] = [float(row[name]) for name in list(row)[3:]]
    if np.isnan(values).any():
        raise BeamDataError("The table of electrons has gaps", str(path))
    return np.array(energy), np.array(number), values


HIGHEST_ORDER = 12
"""Legendre moments in the table."""


def electron_spread(media: Sequence[Material], energy_MeV: float, order: int = HIGHEST_ORDER) -> ElectronSpread:
    """Spread of electrons in water, then in each of some media.

    Parameters
    ----------
    media : sequence of Material
        Beside water; their `scattering_number` decides, between the media of the table linearly in its logarithm. The
        table reaches from PEEK to cobalt-chrome, and so do all materials of spinedose.
    energy_MeV : float
        Energy of the photons that set the electrons moving, mean over the energy released [MeV]. Between 0.5 and 8 MeV
        linear in its logarithm; beyond, the nearer end counts (no megavoltage beam lies there).
    order : int
        Highest degree L, at most 12.
    """
    energies, numbers, values = _table()
    at = np.interp(np.log(energy_MeV), np.log(energies), np.arange(len(energies)))
    low = min(int(at), len(energies) - 2)
    here = values[low] + (at - low) * (values[low + 1] - values[low])
    own = [np.log(medium.scattering_number) for medium in media]
    found = np.array([np.interp(own, np.log(numbers), column) for column in here.T]).T.reshape(len(own), -1)
    lost, factor = np.zeros((len(own) + 1, order + 1), np.float32), np.ones(len(own) + 1, np.float32)
    lost[1:, 1:] = 1 - found[:, 2 : order + 2]
    factor[1:] = 1 / found[:, 1]
    of_water = np.interp(np.log(material("water").scattering_number), np.log(numbers), here[:, 0])
    returned = np.concatenate([[0.0], found[:, 0] - of_water]).astype(np.float32)
    return ElectronSpread(lost, factor, returned)
