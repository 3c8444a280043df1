"""A box of fine voxels within a coarse grid (docs/theory/heterogeneity.md, section 4).

Transport is linear and its rays are straight, so dose is a sum over sources: those in the box are transported on fine
voxels, and never come back once they have left it; those around it on coarse ones. What crosses the box's faces either
way is thereby handled exactly, on coarse voxels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from spinedose.backends.base import Moments
from spinedose.density import DensityGrid
from spinedose.errors import InvalidInput
from spinedose.grid import Grid, Index, Volume
from spinedose.structures import StructureSet, bounds_cm

Array = NDArray[np.float64]

BLEND_CM = 0.5
"""Width of the zone within the box, along its faces, over which the fine dose takes the place of the coarse [cm]."""


@dataclass(frozen=True, slots=True)
class FineBox:
    """Where fine voxels are wanted.

    Parameters
    ----------
    lower_cm, upper_cm : tuple of 3 floats
        Corners (x, y, z) [cm], DICOM LPS.
    factor : int
        Fine voxels along an edge of a coarse one, 2 to 4.
    """

    lower_cm: tuple[float, float, float]
    upper_cm: tuple[float, float, float]
    factor: int = 2

    def __post_init__(self) -> None:
        if not 2 <= self.factor <= 4:
            raise InvalidInput(f"A fine box divides voxels by {self.factor}", "2 to 4 make sense")
        if not (
            np.all(np.isfinite([*self.lower_cm, *self.upper_cm])) and np.all(np.less(self.lower_cm, self.upper_cm))
        ):
            raise InvalidInput(f"A fine box from {self.lower_cm} to {self.upper_cm} cm is empty")


def fine_box_around(
    structures: StructureSet, names: Sequence[str], *, margin_cm: float = 1.5, factor: int = 2
) -> FineBox:
    """Box around structures.

    Parameters
    ----------
    structures : StructureSet
        Where they are.
    names : sequence of str
        Names of the structures, as in the set; capitals do not matter.
    margin_cm : float
        Distance kept around them [cm]: electrons reach about 1.5 cm, and `BLEND_CM` of it is blended.
    factor : int
        As in `FineBox`.
    """
    if not names:
        raise InvalidInput("A fine box needs a structure to lie around")
    low, high = np.full(3, np.inf), np.full(3, -np.inf)
    by_name = {s.name.casefold(): s for s in structures.structures}
    for name in names:
        found = by_name.get(name.casefold())
        if found is None:
            known = ", ".join(sorted(s.name for s in structures.structures))
            raise InvalidInput(f"There is no structure '{name}' to compute finely", f"there are {known}")
        a, b = bounds_cm(found)
        low, high = np.minimum(low, a), np.maximum(high, b)
    low, high = low - margin_cm, high + margin_cm
    return FineBox((low[0], low[1], low[2]), (high[0], high[1], high[2]), factor)


def with_common_materials(matters: Sequence[DensityGrid]) -> list[DensityGrid]:
    """The same matters, all with one list of materials."""
    by_name = {own.name: own for matter in matters for own in matter.materials}
    place = {name: k for k, name in enumerate(by_name)}  # water stays first
    common = []
    for matter in matters:
        number = np.array([place[own.name] for own in matter.materials], np.uint8)
        renumbered = Volume(matter.grid, number[matter.material.values])
        common.append(replace(matter, material=renumbered, materials=tuple(by_name.values())))
    return common


@dataclass(frozen=True, slots=True)
class Nest:
    """A box of fine voxels on a coarse grid.

    Parameters
    ----------
    coarse : Grid
        The calculation grid.
    low, high : tuple of 3 ints
        The box in coarse voxels, (z, y, x), `high` one past the last.
    factor : int
        As in `FineBox`.
    """

    coarse: Grid
    low: Index
    high: Index
    factor: int

    @classmethod
    def of(cls, grid: Grid, box: FineBox) -> Nest:
        """The coarse voxels that a box touches."""
        first = np.clip(np.floor(grid.indices_of(box.lower_cm) + 0.5 + 1e-6), 0, grid.shape).astype(int)
        last = np.clip(np.ceil(grid.indices_of(box.upper_cm) + 0.5 - 1e-6), 0, grid.shape).astype(int)
        if np.any(last <= first):
            raise InvalidInput("The box of fine voxels lies outside the calculation grid")
        (a, b, c), (d, e, f) = (map(int, corner) for corner in (first, last))
        return cls(grid, (a, b, c), (d, e, f), box.factor)

    @property
    def grid(self) -> Grid:
        """The fine voxels."""
        return _divided(self.coarse.box(self.low, self.high), self.factor)

    @property
    def inside(self) -> tuple[slice, slice, slice]:
        """The box in arrays of the coarse grid."""
        a, b, c = (slice(*pair) for pair in zip(self.low, self.high, strict=True))
        return a, b, c

    def hollow(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """A copy with nothing in the box."""
        copy = values.copy()
        copy[self.inside] = 0
        return copy

    def take_out(self, moments: Moments) -> Moments:
        """Move the moments that lie in the box into moments of their own; none is left there in `moments`."""
        shape = np.array([*moments.values.shape[:2], moments.values.shape[3]])
        low = np.maximum(self.low, moments.low) - moments.low
        high = np.minimum(self.high, np.add(moments.low, shape)) - moments.low
        if np.any(high <= low):  # none there: one voxel of nothing
            low, high = np.zeros(3, int), np.ones(3, int)
            part = 0 * moments.values[:1, :1, :, :1]
        else:
            z, y, x = (slice(*pair) for pair in zip(low, high, strict=True))
            part = moments.values[z, y, :, x].copy()
            moments.values[z, y, :, x] = 0
        a, b, c = (int(x) for x in np.add(moments.low, low))
        return replace(moments, low=(a, b, c), values=part)

    def fine(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Monotone cubic interpolation of the coarse grid's values at the fine voxels, axis by axis.

        For the dose from around the box: it falls off behind the faces like an exponential, above which a straight line
        between two voxels lies.
        """
        from scipy.interpolate import PchipInterpolator

        target, result = self.grid, values
        for axis in range(3):
            at = np.clip(_indices(self.coarse, target, axis), 0, self.coarse.shape[axis] - 1)
            first, last = max(int(at[0]) - 2, 0), min(int(at[-1]) + 4, self.coarse.shape[axis])
            near = np.take(result, np.arange(first, last), axis=axis)
            if last - first > 1:
                near = PchipInterpolator(np.arange(first, last), near, axis=axis)(at)
            result = np.broadcast_to(near, [*near.shape[:axis], len(at), *near.shape[axis + 1 :]])
        return np.ascontiguousarray(result, np.float32)

    def composed(self, coarse: NDArray[np.float32], fine: NDArray[np.float32]) -> Volume:
        """One volume of fine voxels everywhere: the fine dose in the box, blended into the interpolated coarse dose."""
        grid = _divided(self.coarse, self.factor)
        values = _interpolated(coarse, self.coarse, grid)
        z, y, x = (slice(a * self.factor, b * self.factor) for a, b in zip(self.low, self.high, strict=True))
        ramp = np.ones(1, np.float32)
        for axis, (a, b, n) in enumerate(zip(self.low, self.high, self.coarse.shape, strict=True)):
            spacing = self.coarse.spacing_cm[2 - axis]
            at = (np.arange((b - a) * self.factor) + 0.5) * spacing / self.factor
            # no blending where the box ends with the grid
            from_low = at if a > 0 else np.full_like(at, np.inf)
            from_high = at[::-1] if b < n else np.full_like(at, np.inf)
            along = np.clip(np.minimum(from_low, from_high) / BLEND_CM, 0.0, 1.0).astype(np.float32)
            ramp = ramp[..., None] * along
        values[z, y, x] += ramp[0] * (fine - values[z, y, x])
        return Volume(grid, values)


def _divided(grid: Grid, factor: int) -> Grid:
    spacing = tuple(h / factor for h in grid.spacing_cm)
    origin = tuple(low + 0.5 * h for low, h in zip(grid.lower_cm, spacing, strict=True))
    return Grid(origin, spacing, tuple(n * factor for n in grid.shape))  # type: ignore[arg-type]


def _indices(source: Grid, target: Grid, axis: int) -> Array:
    """Where the voxels of a grid lie in another, along an axis of arrays (z, y, x), in voxels."""
    at: Array = (target.axes_cm[2 - axis] - source.origin_cm[2 - axis]) / source.spacing_cm[2 - axis]
    return at


def _interpolated(values: NDArray[np.float32], source: Grid, target: Grid) -> NDArray[np.float32]:
    """Trilinear interpolation, axis by axis; constant beyond the outermost voxel centres."""
    result = values
    for axis in range(3):
        at = np.clip(_indices(source, target, axis), 0, source.shape[axis] - 1)
        low = np.minimum(at.astype(int), max(source.shape[axis] - 2, 0))
        part = (at - low).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
        high = np.minimum(low + 1, source.shape[axis] - 1)
        below = np.take(result, low, axis=axis)
        result = below + part * (np.take(result, high, axis=axis) - below)
    return np.ascontiguousarray(result)
