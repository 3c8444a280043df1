"""A `Grid` says where voxels are; a `Volume` is a grid with one value a voxel.

All grids stand parallel to the patient axes (DICOM LPS: x to the patient's left, y to posterior, z to superior).
Arrays are ordered `(z, y, x)`; points and spacings are given as `(x, y, z)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spinedose.errors import InvalidInput


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

    def box(self, low: tuple[int, int, int], high: tuple[int, int, int]) -> Grid:
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

    def __post_init__(self) -> None:
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
        index = self.grid.indices_of(points_cm)
        shape = np.asarray(self.grid.shape)
        inside = np.all((index >= -0.5 - 1e-9) & (index <= shape - 0.5 + 1e-9), axis=-1)
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

    def padded(self) -> Volume:
        """The volume with a layer of zeros on every side, so that interpolation at its faces meets them."""
        low = tuple(o - d for o, d in zip(self.grid.origin_cm, self.grid.spacing_cm, strict=True))
        grid = Grid(low, self.grid.spacing_cm, tuple(n + 2 for n in self.grid.shape))  # type: ignore[arg-type]
        return Volume(grid, np.pad(self.values, 1))

    def resample(self, grid: Grid, *, outside: float = 0.0) -> Volume:
        """Trilinear interpolation at the voxel centres of another grid, as float32."""
        x, y, z = grid.axes_cm
        values = np.empty(grid.shape, dtype=np.float32)
        plane = np.empty((len(y), len(x), 3))
        plane[..., 0], plane[..., 1] = x[None, :], y[:, None]
        for k, height in enumerate(z):
            plane[..., 2] = height
            values[k] = self.sample(plane, outside=outside)
        return Volume(grid, values)


def _triple(values: Any, kind: type, name: str) -> tuple[Any, ...]:
    if len(values) != 3:
        raise InvalidInput(f"{name} has {len(values)} numbers instead of 3")
    return tuple(kind(v) for v in values)
