"""The gamma index: how far a dose is from another, in dose and in space at once (docs/theory/gamma.md).

For every voxel of the reference dose the nearest point of the evaluated dose is found, where a distance of
`distance_cm` counts as much as a difference of `dose_percent`. The evaluated dose is trilinear between its voxels, and
its minimum is not sampled but bounded: cells, and parts of cells, are dropped only when no point in them can be nearer
than the best one known. The result exceeds the true minimum by `accuracy` at most, so there is no step to converge.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from spinedose.errors import InvalidInput
from spinedose.grid import Grid, Volume, box_around, slices_of

EDGE_CM = 1e-4
"""Reference voxels this far outside the evaluated grid still count as on its edge, as in `Grid.is_close_to` [cm]."""

HALF = 0.5
"""A voxel belongs to a mask when at least this share of it does."""

_TASKS = 64
"""Bundles of rows that are handed to the threads; many more than threads, and interleaved, so that all are busy."""

_TRIES = 4
"""Steps downhill in a box before it is halved; in a box where the problem is convex two are enough."""

_DEPTH = 64
"""Boxes that may wait on the stack: each halving adds one, and 60 halvings divide a cell by 10^6 along each axis."""


@dataclass(frozen=True, slots=True)
class GammaCriteria:
    """What a gamma index means; nobody can read one without.

    Parameters
    ----------
    dose_percent : float
        Dose criterion [% of the normalisation, or of the reference dose in the voxel when local].
    distance_cm : float
        Distance criterion, or distance to agreement [cm].
    normalisation_gy : float
        Dose that stands for 100 % [Gy].
    is_local : bool
        Whether the dose criterion is relative to the dose in each voxel.
    threshold_percent : float
        Voxels whose reference dose is lower are not evaluated [% of the normalisation, local or not].
    largest : float
        Search cut-off: larger values are given as this one; above 1.
    accuracy : float
        How much larger than the exact minimum a value may be.
    """

    dose_percent: float
    distance_cm: float
    normalisation_gy: float
    is_local: bool = False
    threshold_percent: float = 10.0
    largest: float = 2.0
    accuracy: float = 1e-4

    def __post_init__(self) -> None:
        for name, value, unit in (
            ("dose criterion", self.dose_percent, " %"),
            ("distance criterion", self.distance_cm, " cm"),
            ("normalisation", self.normalisation_gy, " Gy"),
        ):
            if not (np.isfinite(value) and value > 0):
                raise InvalidInput(
                    f"The {name} of gamma is {value}{unit}", "gamma divides by it", "Give a positive number"
                )
        if not 0 <= self.threshold_percent < np.inf:
            raise InvalidInput(f"The threshold of gamma is {self.threshold_percent} %", "it cannot be negative")
        if self.is_local and self.threshold_percent == 0:
            raise InvalidInput(
                "A local gamma needs a dose threshold",
                "where the reference dose is 0, so is its criterion",
                "Give a threshold above 0 %",
            )
        if not (np.isfinite(self.largest) and self.largest > 1):
            raise InvalidInput(
                f"The search cut-off of gamma is {self.largest}",
                "up to 1 it cannot tell a passed voxel from a failed one",
                "Give a number above 1",
            )
        if not 0 < self.accuracy <= 0.1:
            raise InvalidInput(f"The accuracy of gamma is {self.accuracy}", "it must lie above 0 and not above 0.1")


@dataclass(frozen=True, slots=True, eq=False)
class GammaResult:
    """Gamma in every evaluated voxel, and what was not evaluated.

    Parameters
    ----------
    criteria : GammaCriteria
        What was asked.
    gamma : Volume
        Gamma on the grid of the reference, float32, at most `criteria.largest`; NaN where it was not evaluated.
    outside : Volume
        True for voxels that should have been evaluated but lie outside the evaluated dose.
    """

    criteria: GammaCriteria
    gamma: Volume
    outside: Volume

    def __post_init__(self) -> None:
        if not np.any(np.isfinite(self.gamma.values)):
            raise InvalidInput("Gamma was not evaluated in a single voxel", "there is nothing to judge")

    @property
    def values(self) -> NDArray[np.float32]:
        """Gamma of the evaluated voxels, in the order of the grid; shape (points,)."""
        found: NDArray[np.float32] = self.gamma.values[~np.isnan(self.gamma.values)]
        return found

    @property
    def points(self) -> int:
        """Number of evaluated voxels."""
        return int(np.count_nonzero(~np.isnan(self.gamma.values)))

    @property
    def points_outside(self) -> int:
        """Number of voxels above the threshold that lie outside the evaluated dose; they neither pass nor fail."""
        return int(np.count_nonzero(self.outside.values))

    @property
    def points_cut_off(self) -> int:
        """Number of voxels whose gamma was not found below `criteria.largest`."""
        return int(np.count_nonzero(self.values >= np.float32(self.criteria.largest)))

    @property
    def pass_percent(self) -> float:
        """Share of the evaluated voxels with a gamma of 1 or less [%]."""
        values = self.values
        return 100.0 * int(np.count_nonzero(values <= 1)) / len(values)

    @property
    def mean(self) -> float:
        """Mean gamma; a lower limit when voxels were cut off."""
        return float(self.values.mean(dtype=np.float64))

    @property
    def maximum(self) -> float:
        """Largest gamma."""
        return float(self.values.max())

    def percentile(self, percent: float) -> float:
        """Gamma that this part of the evaluated voxels [%] does not exceed."""
        return float(np.percentile(self.values, percent))

    def within(self, mask: Volume) -> GammaResult:
        """The same gamma, seen in a region only: `result.within(structures.mask(cord, grid)).pass_percent`.

        Parameters
        ----------
        mask : Volume
            On the grid of the reference, or on a box of it: booleans, or shares from 0 to 1, of which half is enough.

        Returns
        -------
        GammaResult
            On the grid of the mask.

        Raises
        ------
        InvalidInput
            If the mask is on another grid or empty, or holds no evaluated voxel.
        """
        half = np.multiply(mask.grid.spacing_cm, 0.5)
        low, high = mask.grid.lower_cm + half, mask.grid.upper_cm - half
        seen, outside = self.gamma.near(low, high), self.outside.near(low, high)
        selected = _selected(mask, seen.grid)
        gamma = np.where(selected, seen.values, np.float32(np.nan))
        if np.all(np.isnan(gamma)):
            raise InvalidInput(
                "Gamma was not evaluated anywhere in the mask",
                f"its {np.count_nonzero(selected)} voxels lie below the dose threshold or outside the evaluated dose",
                "Lower the threshold, or leave the structure out",
            )
        return replace(self, gamma=Volume(seen.grid, gamma), outside=Volume(seen.grid, outside.values & selected))

    def as_dict(self) -> dict[str, Any]:
        """Criteria and numbers, without the map, ready for JSON."""
        return {
            "criteria": asdict(self.criteria),
            "points": self.points,
            "points_outside": self.points_outside,
            "points_cut_off": self.points_cut_off,
            "pass_percent": self.pass_percent,
            "mean": self.mean,
            "maximum": self.maximum,
            "percentiles": {str(percent): self.percentile(percent) for percent in (50, 90, 95, 99)},
        }


@dataclass(frozen=True, slots=True, eq=False)
class GammaTask:
    """Two doses and where gamma is wanted: what a device needs in order to search.

    Parameters
    ----------
    grid : Grid
        The reference's.
    planned : ndarray float32, shape (nz, ny, nx)
        Reference dose [Gy].
    wanted : ndarray of bool, shape (nz, ny, nx)
        Where gamma is evaluated: within the evaluated grid only.
    around : Grid
        The evaluated dose's.
    searched : ndarray float32
        Evaluated dose [Gy].
    criteria : GammaCriteria
        What gamma means.
    """

    grid: Grid
    planned: NDArray[np.float32]
    wanted: NDArray[np.bool_]
    around: Grid
    searched: NDArray[np.float32]
    criteria: GammaCriteria

    def __post_init__(self) -> None:
        assert self.planned.shape == self.wanted.shape == self.grid.shape
        assert self.searched.shape == self.around.shape and min(self.around.shape) >= 2

    @property
    def side(self) -> NDArray[np.float64]:
        """Edges (x, y, z) of a cell of the evaluated grid [distance criterion]; shape (3,)."""
        edges: NDArray[np.float64] = np.asarray(self.around.spacing_cm) / self.criteria.distance_cm
        return edges

    @property
    def start(self) -> NDArray[np.float64]:
        """Reference voxel (0, 0, 0) in voxels (x, y, z) of the evaluated grid; shape (3,)."""
        at: NDArray[np.float64] = np.subtract(self.grid.origin_cm, self.around.origin_cm) / self.around.spacing_cm
        return at

    @property
    def ratio(self) -> NDArray[np.float64]:
        """Step (x, y, z) of the reference in voxels of the evaluated grid; shape (3,)."""
        steps: NDArray[np.float64] = np.divide(self.grid.spacing_cm, self.around.spacing_cm)
        return steps

    @property
    def fixed_gy(self) -> float:
        """Part of the dose criterion that is the same everywhere [Gy]."""
        return 0.0 if self.criteria.is_local else self.criteria.dose_percent / 100 * self.criteria.normalisation_gy

    @property
    def share(self) -> float:
        """Part of the dose criterion that is in proportion to the reference dose [1]."""
        return self.criteria.dose_percent / 100 if self.criteria.is_local else 0.0


Search = Callable[[GammaTask], NDArray[np.float32]]
"""Finds the map, (nz, ny, nx) float32: gamma where it is wanted, NaN elsewhere."""


def search_on_cpu(task: GammaTask) -> NDArray[np.float32]:
    """Gamma on all cores of this computer.

    Parameters
    ----------
    task : GammaTask
        Doses and criteria.

    Returns
    -------
    ndarray float32, shape (nz, ny, nx)
        Gamma where it is wanted, NaN elsewhere.
    """
    criteria = task.criteria
    offsets, reach = neighbours(task.side, criteria.largest)
    lowest, highest = cell_ranges(task.searched)
    gamma = np.full(task.grid.shape, np.nan, dtype=np.float32)
    _search(
        task.planned,
        task.wanted,
        task.searched,
        lowest,
        highest,
        task.start,
        task.ratio,
        task.side,
        task.fixed_gy,
        task.share,
        offsets,
        reach,
        criteria.largest,
        criteria.accuracy,
        gamma,
    )
    return gamma


def gamma_index(
    reference: Volume,
    evaluated: Volume,
    *,
    dose_percent: float = 3.0,
    distance_cm: float = 0.2,
    normalisation_gy: float | None = None,
    is_local: bool = False,
    threshold_percent: float = 10.0,
    largest: float = 2.0,
    accuracy: float = 1e-4,
    mask: Volume | None = None,
    search: Search = search_on_cpu,
) -> GammaResult:
    """Compare two doses with the gamma index in three dimensions.

    Parameters
    ----------
    reference : Volume
        Dose in whose voxels gamma is evaluated, for a check the planned one [Gy]; it is never resampled.
    evaluated : Volume
        Dose that is searched, trilinear between its voxel centres [Gy]; any grid of at least 2 x 2 x 2 voxels.
    dose_percent, distance_cm, is_local, threshold_percent, largest, accuracy
        See `GammaCriteria`.
    normalisation_gy : float, optional
        Dose that stands for 100 %, such as the prescription [Gy]; the maximum of the reference if not given.
    mask : Volume, optional
        On the grid of the reference, booleans or shares: gamma is evaluated where at least half a voxel belongs to it.
    search : callable
        What finds the map: by default all cores of this computer; on a GPU the `gamma` of its backend.

    Returns
    -------
    GammaResult
        The map and its summary.

    Raises
    ------
    InvalidInput
        If a dose is not finite, a criterion not positive, the mask empty, or no voxel is left to evaluate.

    References
    ----------
    Low, Harms, Mutic, Purdy, Med Phys 25:656 (1998), doi:10.1118/1.598248. All equations: docs/theory/gamma.md.
    """
    _check_finite(reference, "reference")
    _check_finite(evaluated, "evaluated")
    planned = reference.values.astype(np.float32, copy=False)
    if min(evaluated.grid.shape) < 2:
        raise InvalidInput(
            f"The evaluated dose has {evaluated.grid.shape} voxels",
            "between fewer than two along an axis nothing can be interpolated",
            "Give a volume, or exchange the two doses",
        )
    criteria = GammaCriteria(
        dose_percent=float(dose_percent),
        distance_cm=float(distance_cm),
        normalisation_gy=float(planned.max() if normalisation_gy is None else normalisation_gy),
        is_local=is_local,
        threshold_percent=float(threshold_percent),
        largest=float(largest),
        accuracy=float(accuracy),
    )
    wanted = _selected(mask, reference.grid) if mask is not None else np.ones(planned.shape, dtype=bool)
    threshold_gy = criteria.threshold_percent / 100 * criteria.normalisation_gy
    wanted &= planned >= threshold_gy
    if not wanted.any():
        raise InvalidInput(
            f"No voxel of the reference dose reaches the threshold of {threshold_gy:.4g} Gy",
            f"{criteria.threshold_percent:g} % of {criteria.normalisation_gy:.4g} Gy",
            "Check the normalisation, the unit of the dose and the mask, or lower the threshold",
        )
    inside = _is_inside(reference.grid, evaluated.grid)
    outside = wanted & ~inside
    wanted &= inside
    if not wanted.any():
        raise InvalidInput(
            "The doses do not overlap",
            f"all {np.count_nonzero(outside)} voxels above the threshold lie outside the evaluated grid",
            "Check that both share a frame of reference",
        )
    box = box_around(wanted)
    found = search(_task(reference.part(*box), wanted[slices_of(*box)], evaluated, criteria))
    gamma = np.full(reference.grid.shape, np.nan, dtype=np.float32)
    gamma[slices_of(*box)] = found
    return GammaResult(criteria, Volume(reference.grid, gamma), Volume(reference.grid, outside))


def _task(reference: Volume, wanted: NDArray[np.bool_], evaluated: Volume, criteria: GammaCriteria) -> GammaTask:
    """What is to be searched: of the evaluated dose the voxels within reach of the reference."""
    reach = criteria.largest * criteria.distance_cm + np.asarray(evaluated.grid.spacing_cm)
    first, last = reference.grid.lower_cm, reference.grid.upper_cm
    around = evaluated.near(first - reach, last + reach)
    planned, searched = (np.array(one.values, dtype=np.float32, order="C") for one in (reference, around))
    return GammaTask(reference.grid, planned, np.ascontiguousarray(wanted), around.grid, searched, criteria)


def _check_finite(dose: Volume, name: str) -> None:
    """Refuse what is not finite."""
    bad = dose.grid.size - int(np.count_nonzero(np.isfinite(dose.values)))
    if bad:
        raise InvalidInput(
            f"The {name} dose has {bad} voxels that are not finite numbers",
            "no distance to them can be told",
            "Replace them, or crop the grid",
        )


def _selected(mask: Volume, grid: Grid) -> NDArray[np.bool_]:
    """Voxels that belong to a mask; refuses another grid and an empty mask."""
    if not mask.grid.is_close_to(grid):
        raise InvalidInput(
            f"The mask has another grid {mask.grid.shape} than the reference dose {grid.shape}",
            "its voxels do not belong to the same places",
            "Rasterise the structure on the grid of the reference",
        )
    selected: NDArray[np.bool_] = mask.values >= HALF
    if not selected.any():
        raise InvalidInput("The mask is empty", "no voxel lies at least half in it", "Check the structure")
    return selected


def _is_inside(grid: Grid, other: Grid) -> NDArray[np.bool_]:
    """Which voxel centres lie between the voxel centres of the other grid; shape grid.shape."""
    x, y, z = (
        (axis >= around[0] - EDGE_CM) & (axis <= around[-1] + EDGE_CM)
        for axis, around in zip(grid.axes_cm, other.axes_cm, strict=True)
    )
    inside: NDArray[np.bool_] = z[:, None, None] & y[None, :, None] & x[None, None, :]
    return inside


def neighbours(side: NDArray[np.float64], largest: float) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Cells around a point of the home cell's lower octant, sorted by the least distance that they may have from it.

    Parameters
    ----------
    side : ndarray, shape (3,)
        Edges (x, y, z) of a cell [distance criterion].
    largest : float
        Radius of the search [distance criterion].

    Returns
    -------
    offsets : ndarray, shape (n, 3)
        Steps (x, y, z) from the home cell; those for the other octants are their mirror images.
    reach : ndarray, shape (n,)
        Least distance from any point of the octant, rising [distance criterion].
    """
    axes = [np.arange(-n, n + 1) for n in np.ceil(largest / side).astype(int) + 1]
    offsets = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    reach = np.linalg.norm(np.maximum(0.0, np.maximum(offsets - 0.5, -1.0 - offsets)) * side, axis=1)
    to_middle = np.linalg.norm((offsets + 0.25) * side, axis=1)  # from the middle of the octant
    order = np.lexsort((to_middle, reach))
    order = order[reach[order] < largest]
    return np.ascontiguousarray(offsets[order]), np.ascontiguousarray(reach[order])


def cell_ranges(dose: Any) -> tuple[Any, Any]:
    """Smallest and largest dose in each cell between eight voxel centres, shapes (nz - 1, ny - 1, nx - 1); on the
    device of the dose."""
    lowest = highest = dose
    for axis in range(3):
        first: list[slice] = [slice(None)] * 3
        second = list(first)
        first[axis], second[axis] = slice(None, -1), slice(1, None)
        lowest = np.minimum(lowest[tuple(first)], lowest[tuple(second)])
        highest = np.maximum(highest[tuple(first)], highest[tuple(second)])
    return lowest, highest


# What follows is compiled. Lengths are in units of the distance criterion, doses relative to the reference dose of the
# voxel and in units of its dose criterion, so that gamma is a length: gamma^2 = min |e|^2 + D(e)^2.


@njit(parallel=True, cache=True, error_model="numpy", fastmath={"contract", "nsz"})
def _search(
    planned,
    wanted,
    searched,
    lowest,
    highest,
    start,
    ratio,
    side,
    fixed,
    share,
    offsets,
    reach,
    largest,
    accuracy,
    gamma,
):
    """Fill the gamma map.

    Parameters
    ----------
    planned, wanted : float32 and bool (nz, ny, nx)
        Reference dose [Gy], and where gamma is evaluated.
    searched, lowest, highest : float32
        Evaluated dose [Gy], and its range in every cell [Gy].
    start, ratio, side : float64 (3,)
        Reference voxel (0, 0, 0) and step (x, y, z) in voxels of the evaluated grid; edges of an evaluated cell.
    fixed, share : float
        The dose criterion is fixed [Gy] + share * reference dose.
    offsets, reach : int64 (n, 3), float64 (n,)
        From `neighbours`.
    largest, accuracy : float
        See `GammaCriteria`.
    gamma : float32 (nz, ny, nx), output
        Written where wanted.
    """
    nz, ny, nx = planned.shape
    cells_z, cells_y, cells_x = lowest.shape
    sx, sy, sz = side[0], side[1], side[2]
    for task in prange(_TASKS):
        stack = np.empty((_DEPTH, 6))
        for row in range(task, nz * ny, _TASKS):
            k, j = row // ny, row % ny
            home_z, rz = _home(start[2] + k * ratio[2], cells_z)
            home_y, ry = _home(start[1] + j * ratio[1], cells_y)
            for i in range(nx):
                if not wanted[k, j, i]:
                    continue
                home_x, rx = _home(start[0] + i * ratio[0], cells_x)
                dose = float(planned[k, j, i])
                scale = 1.0 / (fixed + share * dose)
                here = _dose(_polynomial(searched, home_z, home_y, home_x, dose, scale), rx, ry, rz)
                best = min(abs(here), largest)
                # the list is made for the lower octant of the home cell: mirror it for the others
                mx, my, mz = 1 if rx <= 0.5 else -1, 1 if ry <= 0.5 else -1, 1 if rz <= 0.5 else -1
                for n in range(len(reach)):
                    needed = best - accuracy
                    if reach[n] >= needed:
                        break
                    ox, oy, oz = mx * offsets[n, 0], my * offsets[n, 1], mz * offsets[n, 2]
                    x, y, z = home_x + ox, home_y + oy, home_z + oz
                    if x < 0 or y < 0 or z < 0 or x >= cells_x or y >= cells_y or z >= cells_z:
                        continue
                    ex = sx * max(ox - rx, rx - ox - 1.0, 0.0)
                    ey = sy * max(oy - ry, ry - oy - 1.0, 0.0)
                    ez = sz * max(oz - rz, rz - oz - 1.0, 0.0)
                    gap = scale * max(lowest[z, y, x] - dose, dose - highest[z, y, x], 0.0)
                    if ex * ex + ey * ey + ez * ez + gap * gap >= needed * needed:
                        continue
                    cell = _polynomial(searched, z, y, x, dose, scale)
                    best = _search_cell(cell, (sx, sy, sz), (rx - ox, ry - oy, rz - oz), best, accuracy, stack)
                gamma[k, j, i] = best


@njit(cache=True, error_model="numpy", fastmath={"contract", "nsz"})
def _search_cell(cell, side, point, best, accuracy, stack):
    """Gamma of a voxel after one more cell.

    Parameters
    ----------
    cell : 8 floats
        From `_polynomial`.
    side : 3 floats
        Edges (x, y, z) of the cell.
    point : 3 floats
        Reference voxel (x, y, z) in the cell's own coordinates, which run from 0 to 1 inside it.
    best : float
        Gamma so far.
    accuracy : float
        Parts of the cell that cannot lower it by more are dropped.
    stack : float64 (_DEPTH, 6)
        Work space: boxes yet to be searched, as lower and upper edges along x, y and z, seen from the voxel.

    Returns
    -------
    float
        `best`, or the smaller gamma found.
    """
    sx, sy, sz = side
    rx, ry, rz = point
    _, _, _, _, cxy, cxz, cyz, cxyz = cell
    x0, x1 = -sx * rx, sx * (1.0 - rx)
    y0, y1 = -sy * ry, sy * (1.0 - ry)
    z0, z1 = -sz * rz, sz * (1.0 - rz)
    ex, ey, ez = min(max(0.0, x0), x1), min(max(0.0, y0), y1), min(max(0.0, z0), z1)
    waiting = 0
    while True:
        # largest mixed derivatives of the dose in the box; they are linear, so they are largest at its ends
        hxy = max(abs(cxy + cxyz * (rz + z0 / sz)), abs(cxy + cxyz * (rz + z1 / sz))) / (sx * sy)
        hxz = max(abs(cxz + cxyz * (ry + y0 / sy)), abs(cxz + cxyz * (ry + y1 / sy))) / (sx * sz)
        hyz = max(abs(cyz + cxyz * (rx + x0 / sx)), abs(cyz + cxyz * (rx + x1 / sx))) / (sy * sz)
        is_done = False
        last = -np.inf
        for _ in range(_TRIES):
            x, y, z = rx + ex / sx, ry + ey / sy, rz + ez / sz
            dose = _dose(cell, x, y, z)
            kx, ky, kz = _slopes(cell, side, x, y, z)
            squared = ex * ex + ey * ey + ez * ez + dose * dose
            if squared < best * best:
                best = math.sqrt(squared)
            needed = best - accuracy
            level = dose - kx * ex - ky * ey - kz * ez
            weight, nx, ny, nz = _nearest_on_ramp(level, kx, ky, kz, x0, x1, y0, y1, z0, z1)
            # equation (9): no point of the box is nearer than this
            bound = ex * ex + ey * ey + ez * ez + weight * (2.0 * dose - weight)
            bend = abs(weight)
            bound += _least(2.0 * (ex + weight * kx), 1.0 - bend * (hxy + hxz), x0 - ex, x1 - ex)
            bound += _least(2.0 * (ey + weight * ky), 1.0 - bend * (hxy + hyz), y0 - ey, y1 - ey)
            bound += _least(2.0 * (ez + weight * kz), 1.0 - bend * (hxz + hyz), z0 - ez, z1 - ez)
            if needed <= 0.0 or bound >= needed * needed:
                is_done = True
                break
            if bound <= last:
                break
            last = bound
            ex, ey, ez = nx, ny, nz
        if not is_done and waiting < _DEPTH:
            # halve the box along its longest edge: one half waits, the other is next
            stack[waiting, 0], stack[waiting, 1] = x0, x1
            stack[waiting, 2], stack[waiting, 3] = y0, y1
            stack[waiting, 4], stack[waiting, 5] = z0, z1
            if x1 - x0 >= y1 - y0 and x1 - x0 >= z1 - z0:
                x1 = stack[waiting, 0] = 0.5 * (x0 + x1)
            elif y1 - y0 >= z1 - z0:
                y1 = stack[waiting, 2] = 0.5 * (y0 + y1)
            else:
                z1 = stack[waiting, 4] = 0.5 * (z0 + z1)
            waiting += 1
        elif waiting > 0:
            waiting -= 1
            x0, x1 = stack[waiting, 0], stack[waiting, 1]
            y0, y1 = stack[waiting, 2], stack[waiting, 3]
            z0, z1 = stack[waiting, 4], stack[waiting, 5]
        else:
            return best
        ex, ey, ez = 0.5 * (x0 + x1), 0.5 * (y0 + y1), 0.5 * (z0 + z1)


@njit(cache=True, error_model="numpy", fastmath={"contract", "nsz"})
def _nearest_on_ramp(level, kx, ky, kz, x0, x1, y0, y1, z0, z1):
    """The point e of a box with the least |e|^2 + (level + k e)^2, and the dose `level + k e` there.

    With the dose w there, e = -w k, clipped to the box; w - level - k e(w) rises everywhere, and its root is found by
    Newton's rule, kept between what is known to be too low and too high (equation 10).
    """
    low, high = -np.inf, np.inf
    weight = level / (1.0 + kx * kx + ky * ky + kz * kz)
    ex = ey = ez = 0.0
    for _ in range(20):
        ex = min(max(-weight * kx, x0), x1)
        ey = min(max(-weight * ky, y0), y1)
        ez = min(max(-weight * kz, z0), z1)
        miss = weight - level - kx * ex - ky * ey - kz * ez
        if abs(miss) <= 1e-6 * (1.0 + abs(level)):  # any weight gives a true bound, so this is only about speed
            break
        if miss > 0.0:
            high = weight
        else:
            low = weight
        rise = 1.0
        if x0 < ex < x1:
            rise += kx * kx
        if y0 < ey < y1:
            rise += ky * ky
        if z0 < ez < z1:
            rise += kz * kz
        weight -= miss / rise
        if not low < weight < high:
            weight = 0.5 * (low + high)
    return weight, ex, ey, ez


@njit(cache=True, error_model="numpy", fastmath={"contract", "nsz"})
def _least(slope, curvature, low, high):
    """Smallest slope t + curvature t^2 for t from low to high."""
    if curvature > 0.0:
        t = min(max(-0.5 * slope / curvature, low), high)
        return t * (slope + curvature * t)
    return min(low * (slope + curvature * low), high * (slope + curvature * high))


@njit(cache=True, error_model="numpy", fastmath={"contract", "nsz"})
def _home(position, cells):
    """Cell that holds a position on one axis, and where in it, from 0 to 1."""
    cell = min(max(math.floor(position), 0), cells - 1)
    return cell, min(max(position - cell, 0.0), 1.0)


@njit(cache=True, error_model="numpy", fastmath={"contract", "nsz"})
def _polynomial(searched, k, j, i, dose, scale):
    """The dose in a cell, less the reference dose, as coefficients of 1, x, y, z, xy, xz, yz and xyz (equation 7)."""
    v000, v001 = searched[k, j, i] - dose, searched[k, j, i + 1] - dose
    v010, v011 = searched[k, j + 1, i] - dose, searched[k, j + 1, i + 1] - dose
    v100, v101 = searched[k + 1, j, i] - dose, searched[k + 1, j, i + 1] - dose
    v110, v111 = searched[k + 1, j + 1, i] - dose, searched[k + 1, j + 1, i + 1] - dose
    return (
        scale * v000,
        scale * (v001 - v000),
        scale * (v010 - v000),
        scale * (v100 - v000),
        scale * (v011 - v010 - v001 + v000),
        scale * (v101 - v100 - v001 + v000),
        scale * (v110 - v100 - v010 + v000),
        scale * (v111 - v110 - v101 + v100 - v011 + v010 + v001 - v000),
    )


@njit(cache=True, error_model="numpy", fastmath={"contract", "nsz"})
def _dose(cell, x, y, z):
    """Dose at a point of a cell."""
    c, cx, cy, cz, cxy, cxz, cyz, cxyz = cell
    return c + x * (cx + y * (cxy + z * cxyz) + z * cxz) + y * (cy + z * cyz) + z * cz


@njit(cache=True, error_model="numpy", fastmath={"contract", "nsz"})
def _slopes(cell, side, x, y, z):
    """Derivatives of the dose along (x, y, z), per distance criterion."""
    _, cx, cy, cz, cxy, cxz, cyz, cxyz = cell
    sx, sy, sz = side
    return (
        (cx + y * (cxy + z * cxyz) + z * cxz) / sx,
        (cy + x * (cxy + z * cxyz) + z * cyz) / sy,
        (cz + x * (cxz + y * cxyz) + y * cyz) / sz,
    )
