"""The seam: what every backend can do. Its verbs are the stages of a dose calculation; the engine knows nothing else.

========  =====================  ==========================================================================
stage     verb                   does
========  =====================  ==========================================================================
-         `load`                 takes the density to the device
A         `fluence`              segments -> fluence maps at the isocentre plane
B         `radiological_depth`   density -> water-equivalent depth on fan grids
C         `release`              fluence, depth -> energy released, as angular moments, and electron dose
D         `settle`               moments -> the few combinations of them that matter
D, E      `carry`                combinations -> directional sources -> energy deposited
-         `gamma`                two doses -> how far one is from the other
========  =====================  ==========================================================================
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spinedose.cones import ConeTable
from spinedose.directions import Directions
from spinedose.exposure import Exposure, Fans
from spinedose.fluence_model import FluenceMaps, Raster
from spinedose.grid import Grid, Volume
from spinedose.machine import BeamModel, Machine
from spinedose.materials import Material
from spinedose.segments import Segments

if TYPE_CHECKING:
    from spinedose.compare.gamma import GammaTask

ALL_WATER = np.ones(1, np.float32)
"""Path factors when every material counts as water."""

Progress = Callable[[float], None]


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """Matter on a device.

    Parameters
    ----------
    grid : Grid
        The calculation grid.
    density : Any
        Electron density relative to water, (nz, ny, nx) float32, in the backend's own array type.
    material : Any
        Number of each voxel's material, (nz, ny, nx) uint8: 0 is water.
    media : tuple of Material
        Materials from number 1 on.
    """

    grid: Grid
    density: Any
    material: Any
    media: tuple[Material, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Energy released, as moments of the angle, in a box of the grid.

    Parameters
    ----------
    low : tuple of 3 ints
        Index (z, y, x) of the box's first voxel.
    order : int
        Highest degree L.
    values : Any
        (b0, b1, S (L + 1)^2, b2) float32 in the backend's array type: plain moments, then those weighted for the other
        parts of the cone table.
    electron_dose : Any
        (nz, ny, nx) float32: dose of contaminating electrons on the whole grid.
    """

    low: tuple[int, int, int]
    order: int
    values: Any
    electron_dose: Any


class Backend(ABC):
    """A device with the stages of a dose calculation on it. Subclasses are final.

    Attributes
    ----------
    name : str
        `"cpu"` or `"cuda"`.
    device : str
        The device in words, for the result.
    number : int
        Which of several devices of this kind.
    fan_budget_bytes : int
        Memory that the engine may fill with fan grids at a time.
    most_moments_bytes : int
        Memory that the engine may fill with moments at a time: it makes them in slabs of slices, and settles each.
    """

    name: str
    device: str
    number: int = 0
    fan_budget_bytes: int
    most_moments_bytes: int

    def context(self) -> AbstractContextManager[None]:
        """Within it the device is the current one of the calling thread, for what is done with its arrays between
        verbs, and memory that does not suffice is an `OutOfMemory`."""
        return nullcontext()

    @abstractmethod
    def load(
        self,
        electron_density: Volume,
        material: NDArray[np.uint8] | None = None,
        media: tuple[Material, ...] = (),
    ) -> Scene:
        """Take matter to the device.

        Parameters
        ----------
        electron_density : Volume
            Relative to water.
        material : ndarray uint8, shape (nz, ny, nx), optional
            Number of each voxel's material; by default all is water, 0.
        media : tuple of Material
            Materials from number 1 on.
        """

    @abstractmethod
    def fluence(
        self,
        machine: Machine,
        beam_model: BeamModel,
        segments: Segments,
        raster: Raster,
        voxel_axes: NDArray[np.float64] | None,
    ) -> FluenceMaps:
        """Stage A: fluence maps of all segments (docs/theory/fluence.md).

        Parameters
        ----------
        machine, beam_model : Machine, BeamModel
            The treatment head.
        segments : Segments
            n segments of one beam.
        raster : Raster
            Pixels on the isocentre plane, collimator system.
        voxel_axes : ndarray, shape (n, 3, 2), or None
            Edges of a voxel projected on the isocentre plane [cm], over which fluence is averaged; None for points.
        """

    @abstractmethod
    def radiological_depth(self, scene: Scene, fans: Fans, path_factor: NDArray[np.float32] = ALL_WATER) -> Any:
        """Stage B: water-equivalent depth [cm], (g, nv, nu, nz) float32 (docs/theory/terma.md).

        Parameters
        ----------
        scene, fans : Scene, Fans
            Matter and rays.
        path_factor : ndarray float32, shape (m,)
            Factor on the relative electron density of each material; of shape (1,): everything is water.
        """

    @abstractmethod
    def new_moments(
        self, scene: Scene, low: tuple[int, int, int], high: tuple[int, int, int], order: int, parts: int = 2
    ) -> Moments:
        """Moments of nothing, in the index box from `low` up to but not including `high` (z, y, x); `parts` is S."""

    @abstractmethod
    def release(self, scene: Scene, exposure: Exposure, depth: Any, groups: tuple[int, int], moments: Moments) -> None:
        """Stage C: add the energy that a block of groups releases (docs/theory/terma.md).

        Parameters
        ----------
        scene, exposure, moments : Scene, Exposure, Moments
            Matter, beam, and what is added to.
        depth : array (g, nv, nu, nz)
            From `radiological_depth`, for these groups.
        groups : tuple of 2 ints
            First group, and the one after the last.
        """

    @abstractmethod
    def settle(self, field: Moments | None, halo: Moments, cones: ConeTable, directions: Directions) -> Any:
        """Stage D, first half: combine moments to the few numbers a voxel that matter (docs/theory/transport.md, 6).

        Parameters
        ----------
        field, halo : Moments or None, Moments
            Energy released by the fields, to the order of the directions, and by leakage and head scatter, to a lower
            order. The box of the field lies within that of the halo; None if it is empty. Both are used up.
        cones, directions : ConeTable, Directions
            As in `carry`.

        Returns
        -------
        Any
            For `carry`; the memory of the moments is not needed any more.
        """

    @abstractmethod
    def carry(
        self,
        scene: Scene,
        sources: list[Any],
        cones: ConeTable,
        directions: Directions,
        progress: Progress | None = None,
    ) -> Any:
        """Stages D and E: carry the released energy to where it is deposited (docs/theory/transport.md).

        Parameters
        ----------
        scene : Scene
            Matter.
        sources : list
            From `settle`: slabs that follow each other along z. Used up: the list is empty afterwards.
        cones : ConeTable
            Radial functions and their coefficients.
        directions : Directions
            Quadrature.
        progress : callable, optional
            Called with the share done.

        Returns
        -------
        array float32, shape (nz, ny, nx)
            Energy deposited a voxel volume, in the unit of the moments; in the backend's array type.
        """

    def transport(
        self,
        scene: Scene,
        field: Moments,
        halo: Moments,
        cones: ConeTable,
        directions: Directions,
        progress: Progress | None = None,
    ) -> NDArray[np.float32]:
        """Stages D and E in one go: `settle` and `carry` for moments that are in memory as a whole, to the host."""
        settled = self.settle(field, halo, cones, directions)
        return self.to_host(self.carry(scene, [settled], cones, directions, progress))

    @abstractmethod
    def finish(self) -> None:
        """Wait until the device has done all that it was told; for timing."""

    @abstractmethod
    def to_host(self, array: Any) -> NDArray[Any]:
        """An array of this backend as numpy."""

    @abstractmethod
    def gamma(self, task: GammaTask) -> NDArray[np.float32]:
        """How far one dose is from another, for `gamma_index(..., search=backend.gamma)` (docs/theory/gamma.md).

        Parameters
        ----------
        task : GammaTask
            Doses and criteria.

        Returns
        -------
        ndarray float32, shape (nz, ny, nx)
            Gamma where it is wanted, NaN elsewhere.
        """
