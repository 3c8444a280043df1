"""`CpuBackend`: the stages in numba and BLAS; the reference for every other backend."""

from __future__ import annotations

import platform
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from spinedose.backends.base import Backend, Moments, Progress, Scene
from spinedose.backends.layout import compress, source_matrix
from spinedose.cones import ConeTable
from spinedose.directions import Directions
from spinedose.errors import UnsupportedPlan
from spinedose.exposure import Exposure, Fans
from spinedose.fluence_model import FluenceMaps, Raster
from spinedose.grid import Volume
from spinedose.machine import BeamModel, Machine
from spinedose.segments import Segments

DIRECTION_BLOCK_BYTES = 64 * 2**20
"""Memory for the directional sources of a few directions at a time: more would leave the cache."""


@final
class CpuBackend(Backend):
    """All cores of this computer, float32."""

    name = "cpu"
    fan_budget_bytes = 192 * 2**20

    def __init__(self) -> None:
        from numba import get_num_threads

        self.device = f"{platform.processor() or platform.machine()}, {get_num_threads()} threads"

    def load(self, electron_density: Volume) -> Scene:
        """Keep a contiguous float32 copy."""
        return Scene(electron_density.grid, np.ascontiguousarray(electron_density.values, dtype=np.float32))

    def fluence(
        self, machine: Machine, beam_model: BeamModel, segments: Segments, raster: Raster, voxel_axes: NDArray[np.float64] | None
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
        shape = tuple(b - a for a, b in zip(low, high, strict=True))
        return Moments(low, np.zeros((*shape, 2 * (order + 1) ** 2), np.float32), np.zeros(scene.grid.shape, np.float32))

    def release(self, scene: Scene, exposure: Exposure, depth: Any, first_group: int, moments: Moments) -> None:
        """See `Backend.release`."""
        from spinedose.backends.cpu.terma import accumulate

        last = first_group + len(depth)
        fans = exposure.fans.part(first_group, last)
        maps, reach, table = exposure.maps, exposure.reach, exposure.attenuation
        base = int(exposure.first[first_group])
        end = int(exposure.first[last])
        accumulate(
            scene.density,
            np.array(scene.grid.origin_cm),
            np.array(scene.grid.spacing_cm),
            np.array(moments.low),
            fans.isocentre_cm,
            fans.sad_cm,
            np.array([reach.u_low, reach.u_high, reach.v_low, reach.v_high]),
            fans.rotation,
            exposure.first[first_group : last + 1] - base,
            exposure.segment_rotation[base:end],
            0,
            maps.photon[base:end],
            _pixels(maps.raster),
            maps.electron[base:end],
            _pixels(maps.electron_raster),
            depth,
            np.array([fans.u_cm, fans.v_cm, fans.pitch_cm, fans.step_cm]),
            fans.top_cm,
            table.terma,
            np.float32(table.depth_step_cm),
            table.soft_row,
            np.float32(table.radius_step_cm),
            np.float32(table.electron_decay_per_cm),
            exposure.directions.values[first_group:last],
            np.array([exposure.directions.u_cm, exposure.directions.v_cm]),
            exposure.directions.bin_cm,
            moments.values,
            moments.electron_dose,
        )

    def transport(
        self, scene: Scene, moments: Moments, cones: ConeTable, directions: Directions, progress: Progress | None = None
    ) -> NDArray[np.float32]:
        """See `Backend.transport`."""
        box = moments.values.shape[:3]
        flat = moments.values.reshape(-1, moments.values.shape[3])
        matrix = source_matrix(cones, directions)
        combine, reduced = compress(matrix, _covariance(flat))
        rank = len(combine)
        combined = np.empty((rank, *box), np.float32)
        narrow = combine.astype(np.float32)
        for z in range(box[0]):  # slice by slice, to keep the temporary small
            combined[:, z] = (narrow @ moments.values[z].reshape(-1, narrow.shape[1]).T).reshape(rank, *box[1:])
        density = scene.density
        deposit = np.zeros(density.shape, np.float32)
        along = np.argmax(np.abs(directions.vector / scene.grid.spacing_cm), axis=1)
        done = 0
        turned_combined: NDArray[np.float32] | None = None
        for is_turned in (False, True):
            # rays that run mostly along x are swept in an array with x and y exchanged, so that rows stay contiguous
            chosen = np.flatnonzero((along == 0) == is_turned)
            if is_turned:
                turned_combined = np.ascontiguousarray(combined.transpose(0, 1, 3, 2))
                del combined
                here, matter = turned_combined, np.ascontiguousarray(density.transpose(0, 2, 1))
                left = np.zeros(matter.shape, np.float32)
            else:
                here, matter, left = combined, density, deposit
            for some in _blocks(chosen, reduced.shape[1] * here[0].nbytes):
                weights = reduced[some].astype(np.float32).reshape(-1, rank)
                source = (weights @ here.reshape(rank, -1)).reshape(len(some), reduced.shape[1], *here.shape[1:])
                for m, one in zip(some, source, strict=True):
                    _sweep(directions, int(m), scene, cones, is_turned, matter, one, moments.low, left)
                done += len(some)
                if progress is not None:
                    progress(done / len(along))
            if is_turned:
                deposit += left.transpose(0, 2, 1)
        return deposit

    def electron_dose(self, moments: Moments) -> NDArray[np.float32]:
        """See `Backend.electron_dose`."""
        dose: NDArray[np.float32] = moments.electron_dose
        return dose


def _sweep(
    directions: Directions,
    m: int,
    scene: Scene,
    cones: ConeTable,
    is_turned: bool,
    density: NDArray[np.float32],
    source: NDArray[np.float32],
    low: tuple[int, int, int],
    deposit: NDArray[np.float32],
) -> None:
    """Lay out the ray lattice of a direction and sweep it."""
    from spinedose.backends.cpu.sweep import ROW, sweep

    # array axes (z, y, x), or (z, x, y) when turned
    order = (2, 0, 1) if is_turned else (2, 1, 0)
    vector = directions.vector[m][list(order)]
    spacing = np.array(scene.grid.spacing_cm)[list(order)]
    first = np.array([low[0], low[2], low[1]] if is_turned else low, np.int64)
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
        source,
        first,
        deposit,
    )


def _blocks(chosen: NDArray[np.intp], bytes_per_direction: int) -> list[NDArray[np.intp]]:
    """Directions in blocks whose sources fit in the cache."""
    count = max(1, DIRECTION_BLOCK_BYTES // max(bytes_per_direction, 1))
    return [chosen[i : i + count] for i in range(0, len(chosen), count)]


def _covariance(flat: NDArray[np.float32]) -> NDArray[np.float64]:
    """Sum over voxels of moment times moment, in float64 over blocks."""
    total = np.zeros((flat.shape[1],) * 2)
    for start in range(0, len(flat), 65536):
        block = flat[start : start + 65536]
        total += block.T @ block
    return total


def _pixels(raster: Raster) -> NDArray[np.float64]:
    return np.array([raster.x_cm, raster.y_cm, raster.pixel_cm])
