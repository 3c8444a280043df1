"""A `Grid` says where voxels are; a `Volume` is a grid with one value a voxel.

All grids stand parallel to the patient axes (DICOM LPS: x to the patient's left, y to posterior, z to superior).
Arrays are ordered `(z, y, x)`; points and spacings are given as `(x, y, z)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spinedose._arguments import expect, points_of, shown
from spinedose.errors import InvalidInput

Index = tuple[int, int, int]
"""A voxel (z, y, x)."""

EDGE = 1e-9
"""Points so far beyond a face are on it [voxels]."""


@dataclass(frozen=True, slots=True)
class Grid:
    """A regular lattice of voxels, parallel to the patient axes.

    Parameters
    ----------
    origin_cm : tuple of 3 floats
        Centre (x, y, z) of the voxel with index (0, 0, 0) [cm], DICOM LPS.
    spacing_cm : tuple of 3 floats
        Voxel size (dx, dy, dz) [cm], all positive.
    shape : tuple of 3 ints
        Number of voxels (nz, ny, nx).
    """

    origin_cm: tuple[float, float, float]
    spacing_cm: tuple[float, float, float]
    shape: tuple[int, int, int]

    def __post_init__(self) -> None:
        object.__setattr__(self, "origin_cm", _triple(self.origin_cm, float, "origin_cm"))
        object.__setattr__(self, "spacing_cm", _triple(self.spacing_cm, float, "spacing_cm"))
        object.__setattr__(self, "shape", _triple(self.shape, int, "shape"))
        if not np.all(np.isfinite(self.origin_cm)):
            raise InvalidInput(f"Grid origin {self.origin_cm} is not finite", "voxels would lie nowhere")
        if not (np.all(np.isfinite(self.spacing_cm)) and min(self.spacing_cm) > 0):
            raise InvalidInput(f"Grid spacing {self.spacing_cm} cm is not positive", "voxels need a size")
        if min(self.shape) < 1:
            raise InvalidInput(f"Grid shape {self.shape} is empty", "there is no voxel to compute")

    @property
    def size(self) -> int:
        """Number of voxels."""
        return int(np.prod(self.shape))

    @property
    def in_words(self) -> str:
        """Such as `"100 x 80 x 60 voxels of 0.25 x 0.25 x 0.3 cm"`, both along x, y and z."""
        counts = " x ".join(str(count) for count in self.shape[::-1])
        return f"{counts} voxels of {' x '.join(f'{step:.4g}' for step in self.spacing_cm)} cm"

    @property
    def voxel_volume_cm3(self) -> float:
        """Volume of one voxel [cm^3]."""
        return float(np.prod(self.spacing_cm))

    @property
    def axes_cm(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Voxel-centre coordinates along x (nx,), y (ny,) and z (nz,) [cm]."""
        x, y, z = (
            np.asarray(o + d * np.arange(n), dtype=np.float64)
            for o, d, n in zip(self.origin_cm, self.spacing_cm, self.shape[::-1], strict=True)
        )
        return x, y, z

    @property
    def lower_cm(self) -> NDArray[np.float64]:
        """Corner with the smallest coordinates (x, y, z), voxel faces included [cm]."""
        return np.asarray(self.origin_cm) - 0.5 * np.asarray(self.spacing_cm)

    @property
    def upper_cm(self) -> NDArray[np.float64]:
        """Corner with the largest coordinates (x, y, z), voxel faces included [cm]."""
        upper: NDArray[np.float64] = self.lower_cm + np.multiply(self.spacing_cm, self.shape[::-1])
        return upper

    def indices_of(self, points_cm: ArrayLike) -> NDArray[np.float64]:
        """Fractional voxel indices (z, y, x) of points (x, y, z) [cm]; both of shape (..., 3)."""
        points = np.asarray(points_cm, dtype=float)
        index: NDArray[np.float64] = ((points - self.origin_cm) / self.spacing_cm)[..., ::-1]
        return index

    def reaching(self, low_cm: ArrayLike, high_cm: ArrayLike) -> tuple[Index, Index]:
        """Which voxels reach into a box with these corners (x, y, z) [cm], as `box` takes them; at least one."""
        first = np.floor(self.indices_of(low_cm) + 0.5).astype(int)
        last = np.ceil(self.indices_of(high_cm) + 0.5).astype(int)
        first = np.clip(first, 0, np.subtract(self.shape, 1))
        last = np.clip(last, first + 1, self.shape)
        return _triple(first, int, "first"), _triple(last, int, "last")

    def box(self, low: Index, high: Index) -> Grid:
        """Part of the grid from index `low` up to but not including `high`, both (z, y, x)."""
        origin = tuple(o + d * i for o, d, i in zip(self.origin_cm, self.spacing_cm, low[::-1], strict=True))
        shape = tuple(h - i for i, h in zip(low, high, strict=True))
        return Grid(origin, self.spacing_cm, shape)  # type: ignore[arg-type]

    def is_close_to(self, other: Grid, tolerance_cm: float = 1e-4) -> bool:
        """Whether both grids have the same voxels, up to a tolerance on every voxel centre [cm]."""
        if self.shape != other.shape:
            return False
        first = np.abs(np.subtract(self.origin_cm, other.origin_cm))
        last = np.abs(np.subtract(self.upper_cm, other.upper_cm))
        return bool(max(first.max(), last.max()) <= tolerance_cm)


@dataclass(frozen=True, slots=True, eq=False)
class Volume:
    """One value a voxel on a grid.

    Parameters
    ----------
    grid : Grid
        Where the voxels are.
    values : ndarray, shape grid.shape = (nz, ny, nx)
        The values; stored without a copy and made read-only.
    """

    grid: Grid
    values: NDArray[Any]

    def __repr__(self) -> str:
        low, high = float(self.values.min()), float(self.values.max())
        return f"<Volume of {self.grid.in_words}, {self.values.dtype}, {low:.4g} to {high:.4g}>"

    def __post_init__(self) -> None:
        expect("The grid of a volume", self.grid, Grid, "a Grid")
        expect("What a volume holds", self.values, np.ndarray, "an array (z, y, x)", "Make one with numpy.asarray")
        if self.values.shape != self.grid.shape:
            raise InvalidInput(f"Values of shape {self.values.shape} do not fit a grid of shape {self.grid.shape}")
        view = self.values.view()
        view.flags.writeable = False
        object.__setattr__(self, "values", view)

    def sample(self, points_cm: ArrayLike, *, outside: float = np.nan) -> NDArray[np.float64]:
        """Trilinear interpolation at points.

        Parameters
        ----------
        points_cm : array_like, shape (..., 3)
            Points (x, y, z) [cm], DICOM LPS.
        outside : float
            Value for points beyond the faces of the grid. Within half a voxel of a face the nearest voxel centre
            counts.

        Returns
        -------
        ndarray, shape (...)
            Values in the unit of the volume.
        """
        index = self.grid.indices_of(points_of(points_cm))
        shape = np.asarray(self.grid.shape)
        inside = np.all((index >= -0.5 - EDGE) & (index <= shape - 0.5 + EDGE), axis=-1)
        index = np.clip(np.where(np.isfinite(index), index, 0.0), 0, shape - 1)
        low = np.minimum(index.astype(np.intp), np.maximum(shape - 2, 0))
        part = index - low
        high = np.minimum(low + 1, shape - 1)
        result = np.zeros(index.shape[:-1])
        for corner in range(8):
            weight = np.ones(index.shape[:-1])
            pick = []
            for axis in range(3):
                is_high = corner >> axis & 1
                pick.append((high if is_high else low)[..., axis])
                weight = weight * (part[..., axis] if is_high else 1 - part[..., axis])
            result += weight * self.values[tuple(pick)]
        return np.where(inside, result, outside)

    def part(self, low: Index, high: Index) -> Volume:
        """The voxels from index `low` up to but not including `high`, both (z, y, x); a view."""
        return Volume(self.grid.box(low, high), self.values[slices_of(low, high)])

    def near(self, low_cm: ArrayLike, high_cm: ArrayLike) -> Volume:
        """The voxels that reach into a box with these corners (x, y, z) [cm], at least one; a view."""
        return self.part(*self.grid.reaching(low_cm, high_cm))

    def padded(self) -> Volume:
        """The volume with a layer of zeros on every side, so that interpolation at its faces meets them."""
        low = tuple(o - d for o, d in zip(self.grid.origin_cm, self.grid.spacing_cm, strict=True))
        grid = Grid(low, self.grid.spacing_cm, tuple(n + 2 for n in self.grid.shape))  # type: ignore[arg-type]
        return Volume(grid, np.pad(self.values, 1))

    def resample(self, grid: Grid, *, outside: float = 0.0) -> Volume:
        """Trilinear interpolation at the voxel centres of another grid, as float32."""
        expect("The grid to interpolate to", grid, Grid, "a Grid")
        room = np.asarray(self.grid.spacing_cm)
        source = self.near(grid.lower_cm - room, grid.upper_cm + room)
        places = [_neighbours(source.grid, axis, at) for axis, at in enumerate(grid.axes_cm)]
        (x0, x1, x), (y0, y1, y), (z0, z1, z) = places
        values = np.empty(grid.shape, dtype=np.float32)
        for k, (low, high, part) in enumerate(zip(z0, z1, z, strict=True)):
            plane = (1 - part) * source.values[low] + part * source.values[high]
            plane = (1 - y[:, None]) * plane[y0] + y[:, None] * plane[y1]
            values[k] = (1 - x) * plane[:, x0] + x * plane[:, x1]
        for axis, at in enumerate(grid.axes_cm):
            edge = EDGE * room[axis]
            is_inside = (at >= self.grid.lower_cm[axis] - edge) & (at <= self.grid.upper_cm[axis] + edge)
            np.moveaxis(values, 2 - axis, 0)[~is_inside] = outside
        return Volume(grid, values)


def _neighbours(
    grid: Grid, axis: int, at: NDArray[np.float64]
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """Voxels below and above coordinates [cm] on an axis (0 x, 1 y, 2 z), and how far from the lower one, 0 to 1."""
    last = grid.shape[2 - axis] - 1
    index = np.clip((at - grid.origin_cm[axis]) / grid.spacing_cm[axis], 0, last)
    low = np.minimum(index.astype(np.intp), max(last - 1, 0))
    return low, np.minimum(low + 1, last), index - low


def slices_of(low: Index, high: Index) -> tuple[slice, slice, slice]:
    """The box from index `low` up to but not including `high` in arrays (z, y, x)."""
    z, y, x = (slice(*ends) for ends in zip(low, high, strict=True))
    return z, y, x


def box_around(is_wanted: NDArray[np.bool_], room: int = 0) -> tuple[Index, Index]:
    """Which voxels are wanted, with some more on every side, as `Grid.box` takes them; all where none is wanted."""
    if not is_wanted.any():
        return (0, 0, 0), _triple(is_wanted.shape, int, "shape")
    low, high = [], []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        places = np.flatnonzero(is_wanted.any(axis=others))
        low.append(max(int(places[0]) - room, 0))
        high.append(min(int(places[-1]) + 1 + room, is_wanted.shape[axis]))
    return _triple(low, int, "low"), _triple(high, int, "high")


def _triple(values: Any, kind: type, name: str) -> tuple[Any, ...]:
    if not hasattr(values, "__len__") or isinstance(values, str):
        raise InvalidInput(f"{name} is {shown(values)}", "three numbers are asked for")
    if len(values) != 3:
        raise InvalidInput(f"{name} has {len(values)} numbers instead of 3")
    return tuple(kind(v) for v in values)
