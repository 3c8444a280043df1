"""`CpuBackend`: the stages in numba and BLAS; the reference for every other backend."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from spinedose.backends.base import Backend, Moments, Progress, Scene
from spinedose.backends.layout import compress, source_matrix
from spinedose.cones import ConeTable
from spinedose.directions import Directions, harmonic_norms
from spinedose.errors import UnsupportedPlan
from spinedose.exposure import Exposure, Fans
from spinedose.fluence_model import FluenceMaps, Raster
from spinedose.grid import Volume
from spinedose.machine import BeamModel, Machine
from spinedose.segments import Segments

DIRECTION_BLOCK_BYTES = 160 * 2**20
"""Memory for the directional sources of a few directions at a time; combinations are read once a block."""

MOMENT_FLOOR = 1e-10
"""Moments below this share of the largest energy count as none."""

FIELD_TOLERANCE, HALO_TOLERANCE = 1e-3, 1e-2
"""Root-mean-square error of the sources, relative to themselves, that leaving out combinations of moments may cause."""


@final
class CpuBackend(Backend):
    """All cores of this computer, float32."""

    name = "cpu"
    fan_budget_bytes = 128 * 2**20

    def __init__(self) -> None:
        from numba import get_num_threads

        self.device = f"{platform.processor() or platform.machine()}, {get_num_threads()} threads"

    def load(self, electron_density: Volume) -> Scene:
        """Keep a contiguous float32 copy."""
        return Scene(electron_density.grid, np.ascontiguousarray(electron_density.values, dtype=np.float32))

    def fluence(
        self,
        machine: Machine,
        beam_model: BeamModel,
        segments: Segments,
        raster: Raster,
        voxel_axes: NDArray[np.float64] | None,
    ) -> FluenceMaps:
        """See `Backend.fluence`."""
        from spinedose.backends.cpu.fluence import fluence

        return fluence(machine, beam_model, segments, raster, voxel_axes)

    def radiological_depth(self, scene: Scene, fans: Fans) -> NDArray[np.float32]:
        """See `Backend.radiological_depth`."""
        from spinedose.backends.cpu.depth import radiological_depth

        depth = np.empty((len(fans.rotation), fans.nv, fans.nu, fans.nz), np.float32)
        radiological_depth(
            scene.density,
            np.array(scene.grid.origin_cm),
            np.array(scene.grid.spacing_cm),
            fans.rotation,
            fans.isocentre_cm,
            fans.sad_cm,
            fans.u_cm,
            fans.v_cm,
            fans.pitch_cm,
            fans.top_cm,
            fans.step_cm,
            depth,
        )
        return depth

    def new_moments(self, scene: Scene, low: tuple[int, int, int], high: tuple[int, int, int], order: int) -> Moments:
        """See `Backend.new_moments`."""
        b0, b1, b2 = (b - a for a, b in zip(low, high, strict=True))
        values = np.zeros((b0, b1, 2 * (order + 1) ** 2, b2), np.float32)
        return Moments(low, order, values, np.zeros(scene.grid.shape, np.float32))

    def release(self, scene: Scene, exposure: Exposure, depth: Any, groups: tuple[int, int], moments: Moments) -> None:
        """See `Backend.release`."""
        from spinedose.backends.cpu.terma import accumulate

        low, high = groups
        fans = exposure.fans.part(low, high)
        maps, reach, table = exposure.maps, exposure.reach, exposure.attenuation
        start, end = int(exposure.first[low]), int(exposure.first[high])
        electron = maps.electron[start:end]
        accumulate(
            scene.density,
            np.array(scene.grid.origin_cm),
            np.array(scene.grid.spacing_cm),
            np.array(moments.low),
            fans.isocentre_cm,
            fans.sad_cm,
            np.array([reach.u_low, reach.u_high, reach.v_low, reach.v_high]),
            fans.rotation,
            exposure.first[low : high + 1] - start,
            exposure.shot_rotation[start:end],
            bool(electron.any()),
            maps.photon[start:end],
            _pixels(maps.raster),
            electron,
            _pixels(maps.electron_raster),
            depth,
            np.array([fans.u_cm, fans.v_cm, fans.pitch_cm, fans.step_cm]),
            fans.top_cm,
            table.terma,
            np.float32(table.depth_step_cm),
            table.soft_row,
            np.float32(table.radius_step_cm),
            np.float32(table.electron_decay_per_cm),
            moments.order,
            harmonic_norms(moments.order).astype(np.float32),
            moments.values,
            moments.electron_dose,
        )

    def transport(
        self,
        scene: Scene,
        field: Moments,
        halo: Moments,
        cones: ConeTable,
        directions: Directions,
        progress: Progress | None = None,
    ) -> NDArray[np.float32]:
        """See `Backend.transport`."""
        from threadpoolctl import threadpool_limits

        # all loops over rows are parallel already: matrix products that start threads of their own would only wait
        with threadpool_limits(limits=1, user_api="blas"):
            return self._transport(scene, field, halo, cones, directions, progress)

    def _transport(
        self,
        scene: Scene,
        field: Moments,
        halo: Moments,
        cones: ConeTable,
        directions: Directions,
        progress: Progress | None,
    ) -> NDArray[np.float32]:
        from spinedose.backends.cpu.sweep import make_sources

        straight = _Combined.of(field, halo, cones, directions)
        deposit = np.zeros(scene.density.shape, np.float32)
        along = np.argmax(np.abs(directions.vector / scene.grid.spacing_cm), axis=1)
        done = 0
        for is_turned in (False, True):
            # rays that run mostly along x are swept in an array with x and y exchanged, so that rows stay contiguous
            chosen = np.flatnonzero((along == 0) == is_turned)
            here = straight.turned() if is_turned else straight
            matter = np.ascontiguousarray(scene.density.transpose(0, 2, 1)) if is_turned else scene.density
            left = np.zeros(matter.shape, np.float32)
            rows, _, length = here.halo.shape
            size = cones.basis.size
            count = max(1, min(DIRECTION_BLOCK_BYTES // (4 * rows * size * length), 16))
            sources = np.empty((rows, count * size, length), np.float32)
            for start in range(0, len(chosen), count):
                some = chosen[start : start + count]
                if len(some) < count:
                    sources = np.empty((rows, len(some) * size, length), np.float32)
                make_sources(
                    here.field_weights[some].reshape(len(some) * size, -1),
                    here.field,
                    here.field_low,
                    here.halo_weights[some].reshape(len(some) * size, -1),
                    here.halo,
                    here.box,
                    sources,
                )
                for block, m in enumerate(some):
                    _sweep(directions, int(m), scene, cones, is_turned, matter, sources, block, here, left)
                done += len(some)
                if progress is not None:
                    progress(done / len(along))
            deposit += left.transpose(0, 2, 1) if is_turned else left
        return deposit

    def electron_dose(self, moments: Moments) -> NDArray[np.float32]:
        """See `Backend.electron_dose`."""
        dose: NDArray[np.float32] = moments.electron_dose
        return dose


@dataclass(frozen=True, slots=True, eq=False)
class _Combined:
    """Combinations of moments, ready for the matrix products: rows of voxels, each with all its combinations.

    Parameters
    ----------
    low : ndarray of int, shape (3,)
        First voxel of the halo's box (in the array's order of axes).
    box : ndarray of int, shape (2,)
        Rows of that box.
    field : ndarray float32, shape (f0, f1, r, n)
        Combinations in the rows that the field reaches: the field's, then the halo's.
    field_low : ndarray of int, shape (2,)
        First of these rows within the box.
    halo : ndarray float32, shape (b0 b1, h, n)
        The halo's in all rows of the box.
    field_weights, halo_weights : ndarray float32, shapes (M, K, r), (M, K, h)
        From combinations to sources.
    """

    low: NDArray[np.int64]
    box: NDArray[np.int64]
    field: NDArray[np.float32]
    field_low: NDArray[np.int64]
    halo: NDArray[np.float32]
    field_weights: NDArray[np.float32]
    halo_weights: NDArray[np.float32]

    @classmethod
    def of(cls, field: Moments, halo: Moments, cones: ConeTable, directions: Directions) -> _Combined:
        """Compress both sets of moments."""
        wide, halo_weights = _combinations(halo, cones, directions, HALO_TOLERANCE)
        narrow, field_weights = _combinations(field, cones, directions, FIELD_TOLERANCE)
        b0, b1, _, n = wide.shape
        low = np.subtract(field.low, halo.low)
        f0, f1, rank, length = narrow.shape
        both = np.zeros((f0, f1, rank + wide.shape[2], n), np.float32)
        both[:, :, :rank, low[2] : low[2] + length] = narrow
        both[:, :, rank:] = wide[low[0] : low[0] + f0, low[1] : low[1] + f1]
        return cls(
            np.array(halo.low, np.int64),
            np.array([b0, b1]),
            both,
            low[:2].astype(np.int64),
            wide.reshape(b0 * b1, -1, n),
            np.concatenate([field_weights, halo_weights], axis=2),
            halo_weights,
        )

    def turned(self) -> _Combined:
        """The same with x and y exchanged: rows along y."""
        b0, b1 = (int(b) for b in self.box)
        n = self.halo.shape[2]
        halo = np.ascontiguousarray(self.halo.reshape(b0, b1, -1, n).transpose(0, 3, 2, 1))
        # a turned row crosses both rows with and without field: all rows of the slices with field are made from it
        f0, f1, rank, _ = self.field.shape
        whole = np.zeros((f0, n, rank, b1), np.float32)
        whole[:, :, :, self.field_low[1] : self.field_low[1] + f1] = self.field.transpose(0, 3, 2, 1)
        h = halo.shape[2]
        whole[:, :, rank - h :] = halo[self.field_low[0] : self.field_low[0] + f0]
        return _Combined(
            self.low[[0, 2, 1]],
            np.array([b0, n]),
            whole,
            np.array([self.field_low[0], 0]),
            halo.reshape(b0 * n, h, b1),
            self.field_weights,
            self.halo_weights,
        )


def _combinations(
    moments: Moments, cones: ConeTable, directions: Directions, tolerance: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Combinations of moments in rows (b0, b1, r, n), and the weights (M, K, r) that make sources of them."""
    from spinedose.backends.cpu.sweep import combine, gram
    from spinedose.backends.cpu.terma import flush

    values = moments.values
    flush(values, np.float32(MOMENT_FLOOR) * values[:, :, 0].max())
    b0, b1, size, n = values.shape
    partial = np.zeros((b0, size, size))
    gram(values, partial)
    combination, weights = compress(source_matrix(cones, directions, moments.order), partial.sum(axis=0), tolerance)
    combined = np.empty((b0, b1, len(combination), n), np.float32)
    combine(combination.astype(np.float32), values, combined)
    return combined, weights.astype(np.float32)


def _sweep(
    directions: Directions,
    m: int,
    scene: Scene,
    cones: ConeTable,
    is_turned: bool,
    density: NDArray[np.float32],
    sources: NDArray[np.float32],
    block: int,
    here: _Combined,
    deposit: NDArray[np.float32],
) -> None:
    """Lay out the ray lattice of a direction and sweep it."""
    from spinedose.backends.cpu.sweep import ROW, sweep

    # array axes (z, y, x), or (z, x, y) when turned
    order = (2, 0, 1) if is_turned else (2, 1, 0)
    vector = directions.vector[m][list(order)]
    spacing = np.array(scene.grid.spacing_cm)[list(order)]
    steps = vector / spacing
    axis = 1 if is_turned else int(np.argmax(np.abs(steps[:2])))
    other = 1 - axis
    slope = np.array([steps[other], steps[2]]) / abs(steps[axis])
    if density.shape[2] + abs(slope[1]) * density.shape[axis] + 2 > ROW:
        raise UnsupportedPlan(
            f"The calculation grid of {scene.grid.shape} voxels is too large for the CPU",
            f"rays may be at most {ROW} voxels wide",
            "Use a larger spacing",
        )
    sweep(
        axis,
        slope.astype(np.float32),
        directions.offset[m].astype(np.float32),
        bool(vector[axis] < 0),
        np.float32(spacing[axis] / abs(vector[axis])),
        np.array(cones.basis.rate_per_cm, np.float32),
        np.array(cones.basis.stages, np.int64),
        density,
        sources,
        block,
        here.low,
        here.box,
        deposit,
    )


def _pixels(raster: Raster) -> NDArray[np.float64]:
    return np.array([raster.x_cm, raster.y_cm, raster.pixel_cm])
