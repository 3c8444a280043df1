"""Dose-volume histograms: how much of a structure receives at least a given dose.

The structure is cut into samples: the voxels of the dose grid, divided evenly until at least `LEAST_SAMPLES` of them
lie in the structure. Every sample counts with the exact volume that it shares with the structure
(`spinedose.structures.mask`) and with the dose at its centre, interpolated trilinearly. Nothing is binned: the
histogram is the sorted samples themselves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spinedose.errors import InvalidInput
from spinedose.grid import Grid, Volume
from spinedose.structures import Structure, bounds_cm, mask, volume_cm3

Array = NDArray[np.float64]

LEAST_SAMPLES = 10_000
"""Samples in a structure; with 10^4 in a cord of 3 cm^3 the D0.03cc rests on 100 of them."""

FINEST_CM = 0.02
"""Samples are never finer than this: below, contours of 0.1-1 mm accuracy carry no information."""

RESOLUTION = 1e-5
"""Samples whose doses agree to this share of the maximum are taken together, so that ties make no steps."""

COVERED = 1e-3
"""Share of a structure's volume that may lie outside the dose grid before the histogram warns."""


@dataclass(frozen=True, slots=True, eq=False)
class Dvh:
    """The cumulative dose-volume histogram of one structure.

    Parameters
    ----------
    name : str
        Name of the structure.
    dose_gy : ndarray, shape (n,)
        Doses of the samples, falling [Gy].
    covered_cm3 : ndarray, shape (n,)
        Volume that receives at least this dose, rising [cm^3]; the last is the volume inside the dose grid.
    volume_cm3 : float
        Volume of the whole structure from its contours [cm^3].
    warnings : tuple of str
        What the reader must know.
    """

    name: str
    dose_gy: Array
    covered_cm3: Array
    volume_cm3: float
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.dose_gy.shape != self.covered_cm3.shape or self.dose_gy.ndim != 1 or not len(self.dose_gy):
            raise InvalidInput(f"The histogram of '{self.name}' has no samples", "it lies outside the dose grid")
        if np.any(np.diff(self.dose_gy) > 0) or np.any(np.diff(self.covered_cm3) < 0) or self.covered_cm3[0] <= 0:
            raise InvalidInput(f"The histogram of '{self.name}' is not sorted")

    @property
    def maximum_gy(self) -> float:
        """Highest dose of a sample [Gy]."""
        return float(self.dose_gy[0])

    @property
    def minimum_gy(self) -> float:
        """Lowest dose of a sample [Gy]."""
        return float(self.dose_gy[-1])

    @property
    def mean_gy(self) -> float:
        """Volume-averaged dose [Gy]."""
        volumes = np.diff(self.covered_cm3, prepend=0.0)
        return float(np.sum(volumes * self.dose_gy) / self.covered_cm3[-1])

    def dose_at_volume(self, volume_cm3: float) -> float:
        """Dose that the hottest part of this volume [cm^3] receives at least: `D0.03cc = dose_at_volume(0.03)` [Gy].

        Raises
        ------
        InvalidInput
            If the volume is negative or larger than the structure.
        """
        if not 0 <= volume_cm3 <= self.covered_cm3[-1] * (1 + 1e-9):
            raise InvalidInput(
                f"'{self.name}' has no hottest {volume_cm3} cm^3", f"it measures {self.covered_cm3[-1]:.3f} cm^3"
            )
        # A sample stands for the middle of the volume it adds, so that the curve is not shifted by half a sample.
        middle = self.covered_cm3 - np.diff(self.covered_cm3, prepend=0.0) / 2
        return float(np.interp(volume_cm3, middle, self.dose_gy))

    def dose_at_percent(self, percent: float) -> float:
        """Dose that this part of the structure [%] receives at least: `D95% = dose_at_percent(95)` [Gy]."""
        return self.dose_at_volume(percent / 100 * float(self.covered_cm3[-1]))

    def volume_at_dose(self, dose_gy: ArrayLike) -> Array:
        """Volume that receives at least these doses [cm^3]; same shape as `dose_gy`."""
        found = np.searchsorted(-self.dose_gy, -np.asarray(dose_gy, dtype=float), side="right")
        return np.concatenate([[0.0], self.covered_cm3])[found]


def dvh(dose: Volume, structure: Structure) -> Dvh:
    """Compute the cumulative dose-volume histogram of a structure.

    Parameters
    ----------
    dose : Volume
        Dose [Gy].
    structure : Structure
        The region.

    Returns
    -------
    Dvh
        Its `warnings` say when part of the structure lies outside the dose grid.

    Raises
    ------
    InvalidInput
        If the structure has no contours or lies wholly outside the dose grid.
    """
    total = volume_cm3(structure)
    if total <= 0:
        raise InvalidInput(f"Structure '{structure.name}' has no volume", "a histogram needs one")
    fine = _sampling_grid(dose.grid, structure, total)
    share = mask(structure, fine).values
    doses, volumes = [], []
    x, y, z = fine.axes_cm
    for layer, height in enumerate(z):
        row, column = np.nonzero(share[layer])
        if not len(row):
            continue
        points = np.column_stack([x[column], y[row], np.full(len(row), height)])
        doses.append(dose.sample(points))
        volumes.append(share[layer, row, column] * fine.voxel_volume_cm3)
    values = np.concatenate(doses) if doses else np.empty(0)
    weights = np.concatenate(volumes) if volumes else np.empty(0)
    inside = np.isfinite(values)
    values, weights = values[inside], weights[inside].astype(np.float64)
    values, weights = _merged(values, weights)
    covered = np.cumsum(weights)
    warnings: tuple[str, ...] = ()
    missing = 1 - (covered[-1] / total if len(covered) else 0.0)
    if missing > COVERED:
        warnings = (
            f"{100 * missing:.1f} % of structure '{structure.name}' lie outside the dose grid and are not counted",
        )
    return Dvh(structure.name, values, covered, total, warnings)


def _merged(dose_gy: Array, volume: Array) -> tuple[Array, Array]:
    """Samples from the highest dose to the lowest; those of equal dose become one with their mean dose."""
    step = RESOLUTION * float(np.max(np.abs(dose_gy), initial=0.0)) or 1.0
    _, group = np.unique(-np.rint(dose_gy / step), return_inverse=True)
    merged = np.bincount(group, volume).astype(np.float64)
    return np.bincount(group, volume * dose_gy) / merged, merged


def _sampling_grid(grid: Grid, structure: Structure, total_cm3: float) -> Grid:
    """Voxels of the dose grid around a structure, each divided evenly into as many samples as the structure needs."""
    low, high = bounds_cm(structure)
    spacing = np.asarray(grid.spacing_cm)
    parts = int(np.ceil((LEAST_SAMPLES * grid.voxel_volume_cm3 / total_cm3) ** (1 / 3)))
    divide = np.minimum(max(parts, 1), np.maximum(np.floor(spacing / FINEST_CM), 1)).astype(int)
    # Voxels of the dose grid that the structure touches; those outside the grid yield no dose and are reported.
    first = np.maximum(np.floor((low - grid.lower_cm) / spacing), 0)
    last = np.minimum(np.ceil((high - grid.lower_cm) / spacing), grid.shape[::-1])
    count = np.maximum(last - first, 1).astype(int) * divide
    step = spacing / divide
    origin = grid.lower_cm + first * spacing + step / 2
    return Grid(tuple(origin), tuple(step), tuple(count[::-1]))
