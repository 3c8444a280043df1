"""Dose-volume histograms: how much of a structure receives at least a given dose (docs/theory/dvh.md).

The solid of a structure (`spinedose.compare.solid`) is cut into at least `LEAST_SAMPLES` cells. Every cell counts with
the volume that it shares with the solid and with the dose at a point in that share, interpolated trilinearly. Nothing
is binned: the histogram is the sorted samples themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from spinedose.compare.solid import SPECK, Convention, cut, width_cm
from spinedose.compare.trilinear import ready, value_at
from spinedose.errors import InvalidInput
from spinedose.grid import Volume, box_around, slices_of
from spinedose.structures import Structure, bounds_cm, gaps_cm, mask, volume_cm3

Array = NDArray[np.float64]

R3_X, R3_Y, R3_Z = (1.2207440846057596**-power for power in (1, 2, 3))
"""Steps of the sequence that displaces samples: powers of the root of t^4 = t + 1 (Roberts 2018)."""

LEAST_SAMPLES = 100_000
"""Cells in a structure; docs/theory/dvh.md shows how results converge with their number."""

MOST_SAMPLES = 1_000_000
"""Cells in a structure, at most: from 1000 cm^3 on they are larger than `LARGEST_CM`."""

LARGEST_CM = 0.0999
"""Largest cell, where `MOST_SAMPLES` allows it: 0.03 cm^3 hold 30 of them."""

CELLS_ACROSS = 4
"""Cells across the mean width of a structure, so that shells and slivers are seen."""

FINEST_CM = 0.005
"""Cells are never smaller than this: contours are given to 0.01-0.1 mm."""

RESOLUTION = 1e-5
"""Samples whose doses agree to this share of the maximum are taken together, so that ties make no steps."""

COVERED = 1e-3
"""Share of a structure's volume that may lie outside the dose grid before the histogram warns."""

LEAST_VOXELS = 30
"""Voxels of the dose grid that a structure should fill; one of fewer is flagged. House rule, after the rule of 30
samples in the volume of a near-maximum."""

LEAST_ACROSS = 3.0
"""Voxels of the dose grid that a structure should be wide; a narrower one is flagged. House rule: with fewer no voxel
needs to lie within it, and its doses are those of its surroundings."""


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
    too_small : str
        Why the structure is too small for the dose grid; empty when it is not. Numbers of such a structure must not be
        shown without this.
    sample_cm3 : float
        Volume of a whole sample [cm^3]; 0 when not known.
    convention : Convention
        How the contours became a solid.
    """

    name: str
    dose_gy: Array
    covered_cm3: Array
    volume_cm3: float
    warnings: tuple[str, ...] = ()
    too_small: str = ""
    sample_cm3: float = 0.0
    convention: Convention = Convention()  # noqa: RUF009

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

    def as_dict(self, points: int = 200) -> dict[str, Any]:
        """The histogram, thinned to evenly spaced doses, ready for JSON."""
        doses = np.linspace(0.0, max(self.maximum_gy, 0.0), points)
        return {
            "name": self.name,
            "volume_cm3": self.volume_cm3,
            "covered_cm3": float(self.covered_cm3[-1]),
            "minimum_gy": self.minimum_gy,
            "mean_gy": self.mean_gy,
            "maximum_gy": self.maximum_gy,
            "too_small": self.too_small,
            "warnings": list(self.warnings),
            "between_contours": self.convention.between,
            "ends": self.convention.ends,
            "dose_gy": doses.tolist(),
            "volume_at_dose_cm3": self.volume_at_dose(doses).tolist(),
        }


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """The solid of a structure, cut into `n` cells: made once, and read from any number of doses (`dvh_of`).

    Parameters
    ----------
    structure : Structure
        The region.
    points_cm : ndarray, shape (n, 3)
        The point of each cell (x, y, z) that stands for it [cm].
    volume_cm3 : ndarray, shape (n,)
        What each cell shares with the solid [cm^3].
    largest_cm3 : float
        Volume of a whole cell [cm^3].
    convention : Convention
        How the contours became a solid.
    """

    structure: Structure
    points_cm: Array
    volume_cm3: Array
    largest_cm3: float
    convention: Convention


def dvh(
    dose: Volume,
    structure: Structure,
    *,
    convention: Convention | None = None,
    least_samples: int = LEAST_SAMPLES,
) -> Dvh:
    """Compute the cumulative dose-volume histogram of a structure.

    Parameters
    ----------
    dose : Volume
        Dose [Gy].
    structure : Structure
        The region.
    convention : Convention, optional
        How contours become a solid: interpolated and tapered when not given.
    least_samples : int
        Cells that the structure is cut into, at least.

    Returns
    -------
    Dvh
        Its `warnings` say when part of the structure lies outside the dose grid or is not drawn, and `too_small` when
        the dose grid is too coarse for it.

    Raises
    ------
    InvalidInput
        If the structure has no contours or lies wholly outside the dose grid.
    """
    return dvh_of(dose, cells_of(structure, convention=convention, least_samples=least_samples))


def cells_of(
    structure: Structure, *, convention: Convention | None = None, least_samples: int = LEAST_SAMPLES
) -> Cells:
    """Cut a structure into the cells of a histogram; parameters and errors as of `dvh`."""
    convention = convention or Convention()
    slabs_cm3 = volume_cm3(structure)
    if slabs_cm3 <= 0:
        raise InvalidInput(f"Structure '{structure.name}' has no volume", "a histogram needs one")
    if least_samples < 1:
        raise InvalidInput(f"{least_samples} samples make no histogram", "at least one is needed")
    points, volumes = [np.empty((0, 3))], [np.empty(0)]
    count, largest = 0, 0.0
    for layer in cut(structure, _cell_cm(structure, slabs_cm3, least_samples), convention):
        x, y = layer.corner_cm
        found, weights = _cells_of_layer(layer.distance_cm, layer.cell_cm, x, y, layer.low_cm, layer.high_cm, count)
        points.append(found)
        volumes.append(weights)
        count += len(found)
        largest = max(largest, layer.cell_cm**2 * (layer.high_cm - layer.low_cm))
    if not count:
        raise InvalidInput(
            f"Structure '{structure.name}' has no volume between its contours",
            "it lies in single planes and its ends are left out",
            "Give it ends, flat or tapered",
        )
    return Cells(structure, np.concatenate(points), np.concatenate(volumes), largest, convention)


def dvh_of(dose: Volume, cells: Cells) -> Dvh:
    """The histogram of a structure that is cut into cells already; see `dvh`."""
    structure = cells.structure
    sampled = _doses_at(*ready(dose), cells.points_cm)
    inside = np.isfinite(sampled)
    if not inside.any():
        raise InvalidInput(f"The histogram of '{structure.name}' has no samples", "it lies outside the dose grid")
    doses, volumes = _merged(sampled[inside], cells.volume_cm3[inside])
    if cells.largest_cm3 > LARGEST_CM**3:
        doses[0] = _hottest_voxel_gy(dose, structure, float(doses[0]))
    covered, total = np.cumsum(volumes), float(cells.volume_cm3.sum())
    return Dvh(
        structure.name,
        doses,
        covered,
        total,
        _warnings(structure, 1 - covered[-1] / total),
        _too_small(dose, structure, total),
        cells.largest_cm3,
        cells.convention,
    )


def _hottest_voxel_gy(dose: Volume, structure: Structure, than_gy: float) -> float:
    """Dose of the hottest voxel in a structure [Gy], or `than_gy` if none is hotter.

    Cells of large structures may all miss the hottest spot; then a body would have a lower maximum than a target in it.
    """
    hotter = dose.values > than_gy
    if not hotter.any():
        return than_gy
    near = box_around(hotter)
    inside = mask(structure, dose.grid.box(*near)).values >= 0.5
    found = dose.part(*near).values[inside & hotter[slices_of(*near)]]
    return float(found.max(initial=than_gy))


def _cell_cm(structure: Structure, total_cm3: float, least_samples: int) -> float:
    """Side of the cells [cm]: enough of them in the volume, across it, and in the hottest 0.03 cm^3."""
    cell = min(
        LARGEST_CM,
        (total_cm3 / least_samples) ** (1 / 3),
        width_cm(structure) / CELLS_ACROSS,
    )
    return float(max(cell, FINEST_CM, (total_cm3 / MOST_SAMPLES) ** (1 / 3)))


@njit(cache=True)  # type: ignore[untyped-decorator]
def _cells_of_layer(
    distance: Array, cell: float, x0: float, y0: float, low: float, high: float, count: int
) -> tuple[Array, Array]:
    """Points (x, y, z) [cm] and volumes [cm^3] of the cells of a layer that belong to the solid.

    Of a cell that the outline crosses the middle of the inner share is taken: a cell of share f reaches (1 - f) / 2
    cells less far out. About that point the sample is displaced by a sequence that fills the cell evenly (Roberts'
    R3), so that cells of one height do not have one dose.

    Parameters
    ----------
    distance, cell, x0, y0, low, high
        The layer [cm]; see `Layer`.
    count : int
        Samples before this layer.
    """
    ny, nx = distance.shape
    points, volumes = np.empty((distance.size, 3)), np.empty(distance.size)
    n = 0
    for j in range(ny):
        for i in range(nx):
            share = min(0.5 + distance[j, i] / cell, 1.0)
            if share <= SPECK:
                continue
            turn = float(count + n + 1)
            u, v, w = (turn * R3_X) % 1.0, (turn * R3_Y) % 1.0, (turn * R3_Z) % 1.0
            x, y = i + share * (u - 0.5), j + share * (v - 0.5)
            if share < 1.0:
                gx = distance[j, min(i + 1, nx - 1)] - distance[j, max(i - 1, 0)]
                gy = distance[min(j + 1, ny - 1), i] - distance[max(j - 1, 0), i]
                length = (gx * gx + gy * gy) ** 0.5
                if length > 0.0:
                    x += 0.5 * (1.0 - share) * gx / length
                    y += 0.5 * (1.0 - share) * gy / length
            points[n, 0], points[n, 1], points[n, 2] = x0 + x * cell, y0 + y * cell, low + w * (high - low)
            volumes[n] = share * cell * cell * (high - low)
            n += 1
    return points[:n].copy(), volumes[:n].copy()


@njit(cache=True)  # type: ignore[untyped-decorator]
def _doses_at(values: NDArray[np.floating], origin: Array, spacing: Array, points: Array) -> Array:
    """Doses [Gy] at points (n, 3) [cm], NaN outside the dose grid; the dose as from `ready`."""
    doses = np.empty(len(points))
    for n in range(len(points)):
        doses[n] = value_at(values, origin, spacing, points[n, 0], points[n, 1], points[n, 2])
    return doses


def _merged(dose_gy: Array, volume: Array) -> tuple[Array, Array]:
    """Samples from the highest dose to the lowest; those of equal dose become one with their mean dose."""
    step = RESOLUTION * float(np.max(np.abs(dose_gy), initial=0.0)) or 1.0
    group = -np.rint(dose_gy / step).astype(np.int64)  # at most 2 / RESOLUTION of them: counting beats sorting
    group -= group.min(initial=0)
    is_there = np.bincount(group) > 0
    merged = np.bincount(group, volume)[is_there].astype(np.float64)
    return np.bincount(group, volume * dose_gy)[is_there] / merged, merged


def _warnings(structure: Structure, missing: float) -> tuple[str, ...]:
    """What the reader of a histogram must know about what it leaves out."""
    found = []
    if missing > COVERED:
        found.append(
            f"{100 * missing:.1f} % of structure '{structure.name}' lie outside the dose grid and are not counted"
        )
    gaps = gaps_cm(structure)
    if gaps:
        places = ", ".join(f"{10 * low:.1f} to {10 * high:.1f} mm" for low, high in gaps)
        found.append(f"structure '{structure.name}' is not drawn between z = {places}; nothing is counted there")
    return tuple(found)


def _too_small(dose: Volume, structure: Structure, total_cm3: float) -> str:
    """Why a structure is too small for the dose grid; empty when it is not."""
    voxels = total_cm3 / dose.grid.voxel_volume_cm3
    if voxels < LEAST_VOXELS:
        return f"it fills {voxels:.1f} voxels of the dose grid, fewer than {LEAST_VOXELS}"
    low, high = bounds_cm(structure)
    sizes = (2 * width_cm(structure), float(high[2] - low[2]))
    steps = (max(dose.grid.spacing_cm[:2]), dose.grid.spacing_cm[2])
    for size, step, word in zip(sizes, steps, ("wide", "long"), strict=True):
        if size < LEAST_ACROSS * step:
            count = f"{size / step:.1f} voxels of the dose grid, fewer than {LEAST_ACROSS:g}"
            return f"it is {10 * size:.1f} mm {word}: {count}"
    return ""
