"""`CpuBackend`: the stages in numba and BLAS; the reference for every other backend."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, final

import numpy as np
from numpy.typing import NDArray

from spinedose.backends.base import ALL_WATER, Backend, Moments, Progress, Scene
from spinedose.backends.layout import FIELD_TOLERANCE, HALO_TOLERANCE, compress, source_matrix
from spinedose.cones import ConeTable
from spinedose.directions import Directions, harmonic_norms
from spinedose.errors import UnsupportedPlan
from spinedose.exposure import Exposure, Fans
from spinedose.fluence_model import FluenceMaps, Raster
from spinedose.grid import Grid, Volume
from spinedose.machine import BeamModel, Machine
from spinedose.materials import Material
from spinedose.segments import Segments

if TYPE_CHECKING:
    from spinedose.compare.gamma import GammaTask

BUNDLE = 8
"""Directions swept together: their sources are made by one matrix product, their states fit into the cache."""

MOST_BUNDLES = 8
"""Bundles swept at the same time at most; each has working memory and a dose of its own."""

MOMENT_FLOOR = 1e-10
"""Moments below this share of the largest energy count as none."""


@final
class CpuBackend(Backend):
    """All cores of this computer, float32."""

    name = "cpu"
    fan_budget_bytes = 128 * 2**20
    most_moments_bytes = 2**62  # all at once: what does not fit into memory, the system swaps

    def __init__(self) -> None:
        from numba import get_num_threads

        self.device = f"{platform.processor() or platform.machine()}, {get_num_threads()} threads"

    def finish(self) -> None:
        """See `Backend.finish`: here every verb returns when it is done."""

    def load(
        self,
        electron_density: Volume,
        material: NDArray[np.uint8] | None = None,
        media: tuple[Material, ...] = (),
    ) -> Scene:
        """Keep contiguous copies."""
        density = np.ascontiguousarray(electron_density.values, dtype=np.float32)
        kind = np.zeros(density.shape, np.uint8) if material is None else np.ascontiguousarray(material, np.uint8)
        return Scene(electron_density.grid, density, kind, media)

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

    def radiological_depth(
        self, scene: Scene, fans: Fans, path_factor: NDArray[np.float32] = ALL_WATER
    ) -> NDArray[np.float32]:
        """See `Backend.radiological_depth`."""
        from spinedose.backends.cpu.depth import radiological_depth

        matter = scene.density if len(path_factor) == 1 else scene.density * path_factor[scene.material]
        depth = np.empty((len(fans.rotation), fans.nv, fans.nu, fans.nz), np.float32)
        radiological_depth(
            matter,
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

    def new_moments(
        self, scene: Scene, low: tuple[int, int, int], high: tuple[int, int, int], order: int, parts: int = 2
    ) -> Moments:
        """See `Backend.new_moments`."""
        b0, b1, b2 = (b - a for a, b in zip(low, high, strict=True))
        values = np.zeros((b0, b1, parts * (order + 1) ** 2, b2), np.float32)
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
            scene.material,
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
            table.lost,
            moments.order,
            harmonic_norms(moments.order).astype(np.float32),
            moments.values,
            moments.electron_dose,
        )

    def settle(self, field: Moments | None, halo: Moments, cones: ConeTable, directions: Directions) -> Any:
        """See `Backend.settle`."""
        from threadpoolctl import threadpool_limits

        if field is None:  # a voxel of the field, of nothing
            field = replace(halo, values=np.zeros_like(halo.values[:1, :1, :, :1]))
        with threadpool_limits(limits=1, user_api="blas"):  # as in `carry`
            return _Combined.of(field, halo, cones, directions)

    def carry(
        self,
        scene: Scene,
        sources: list[Any],
        cones: ConeTable,
        directions: Directions,
        progress: Progress | None = None,
    ) -> NDArray[np.float32]:
        """See `Backend.carry`; of one slab, which `most_moments_bytes` makes sure of."""
        from numba import get_num_threads
        from threadpoolctl import threadpool_limits

        from spinedose.backends.cpu.sweep import ROW, matter_in_rows, rows_with_faces, sweep

        deposit = np.zeros(scene.density.shape, np.float32)
        rate, stages = np.array(cones.basis.rate_per_cm, np.float32), np.array(cones.basis.stages, np.int64)
        along = np.argmax(np.abs(directions.vector / scene.grid.spacing_cm), axis=1)
        side_by_side, done = min(get_num_threads(), MOST_BUNDLES), 0
        own = _for_electrons(scene, cones)
        # all loops are parallel already: matrix products that start threads of their own would only wait
        with threadpool_limits(limits=1, user_api="blas"):
            here: _Combined = sources.pop()
            assert not sources, "the CPU has all moments at once"
            for is_turned in (False, True):
                # rays that run mostly along x are swept in an array with x and y exchanged: rows stay contiguous
                if is_turned:
                    here = here.turned()
                matter, kind = (_as_swept(values, is_turned) for values in (scene.density, scene.material))
                matters = (matter, matter if own is scene.density else _as_swept(own, is_turned))
                faces = rows_with_faces(kind) if len(cones.returned) > 1 else np.zeros(kind.shape[:2], np.bool_)
                extent = matter_in_rows(matter)
                chosen = np.flatnonzero((along == 0) == is_turned)
                bundles = list(_bundles(directions, scene.grid, chosen, is_turned, side_by_side))
                most = max((bundle.rays(matter.shape) * len(bundle.chosen) for bundle in bundles), default=0)
                state = np.empty((side_by_side, most * cones.basis.size * ROW), np.float32)
                left = np.zeros((side_by_side, *matter.shape), np.float32)
                for start in range(0, len(bundles), side_by_side):
                    some = bundles[start : start + side_by_side]
                    members = np.concatenate([bundle.chosen for bundle in some])
                    field_weights, halo_weights = (
                        part[members].reshape(-1, part.shape[2]) for part in (here.field_weights, here.halo_weights)
                    )
                    slope, offset, step = (
                        np.concatenate([getattr(bundle, name) for bundle in some])
                        for name in ("slope", "offset", "step_cm")
                    )
                    sweep(
                        np.array([bundle.axis for bundle in some]),
                        np.array([bundle.backwards for bundle in some]),
                        np.cumsum([0, *(len(bundle.chosen) for bundle in some)]),
                        slope, offset, step, rate, stages, *matters, kind, faces, cones.returned, extent,
                        here.low, field_weights, here.field,
                        here.reached, halo_weights, here.halo, state, left,
                    )  # fmt: skip
                    done += len(members)
                    if progress is not None:
                        progress(done / len(along))
                whole = left.sum(axis=0)
                deposit += whole.transpose(0, 2, 1) if is_turned else whole
        return deposit

    def to_host(self, array: Any) -> NDArray[Any]:
        """See `Backend.to_host`."""
        return np.asarray(array)

    def gamma(self, task: GammaTask) -> NDArray[np.float32]:
        """See `Backend.gamma`."""
        from spinedose.compare.gamma import search_on_cpu

        return search_on_cpu(task)


def _as_swept(values: NDArray[Any], is_turned: bool) -> NDArray[Any]:
    """A grid as the sweep wants it: with x and y exchanged where rays run mostly along x."""
    return np.ascontiguousarray(values.transpose(0, 2, 1)) if is_turned else values


def _for_electrons(scene: Scene, cones: ConeTable) -> NDArray[np.float32]:
    """Density in which electrons are carried."""
    density: NDArray[np.float32] = scene.density
    return density if len(cones.density_factor) == 1 else density * cones.density_factor[scene.material]


@dataclass(frozen=True, slots=True, eq=False)
class _Combined:
    """Combinations of moments, ready for the matrix products: rows of voxels, each with all its combinations.

    Parameters
    ----------
    low : ndarray of int, shape (3,)
        First voxel of the halo's box (in the array's order of axes).
    field : ndarray float32, shape (f0, b1, r, n)
        Combinations of all moments, the field's and the halo's, in the slices that the field reaches.
    reached : ndarray of int, shape (3,)
        First of these slices within the box; the rows in them, from and to, that the field reaches.
    halo : ndarray float32, shape (b0, b1, h, n)
        Combinations of the halo's moments in all rows of the box.
    field_weights, halo_weights : ndarray float32, shapes (M, K, r), (M, K, h)
        From combinations to sources.
    """

    low: NDArray[np.int64]
    field: NDArray[np.float32]
    reached: NDArray[np.int64]
    halo: NDArray[np.float32]
    field_weights: NDArray[np.float32]
    halo_weights: NDArray[np.float32]

    @classmethod
    def of(cls, field: Moments, halo: Moments, cones: ConeTable, directions: Directions) -> _Combined:
        """Compress both sets of moments; adds those of the halo to those of the field, which then has all."""
        from spinedose.backends.cpu.sweep import add_halo, combine

        z, y, x = np.subtract(field.low, halo.low)
        f0, f1, many, length = field.values.shape
        b0, b1, few, n = halo.values.shape
        if length < n:  # as long as the halo's rows
            wide_rows = np.pad(field.values, ((0, 0), (0, 0), (0, 0), (x, n - length - x)))
            field = replace(field, low=(*field.low[:2], halo.low[2]), values=wide_rows)
        parts = len(cones.energy)
        place = np.add.outer(many // parts * np.arange(parts), np.arange(few // parts)).ravel()
        add_halo(halo.values, place, z, y, field.values)
        every, field_weights = _compressed(field, cones, directions, FIELD_TOLERANCE)
        some, halo_weights = _compressed(halo, cones, directions, HALO_TOLERANCE)
        narrow = np.empty((f0, b1, len(every), n), np.float32)
        combine(every, field.values, y, np.ascontiguousarray(every[:, place]), halo.values, z, narrow)
        wide = np.empty((b0, b1, len(some), n), np.float32)
        combine(some, halo.values, 0, some, halo.values, 0, wide)
        reached = np.array([z, y, y + f1])
        return cls(np.array(halo.low), narrow, reached, wide, field_weights, halo_weights)

    def turned(self) -> _Combined:
        """The same with x and y exchanged: rows along y, all of which the field may reach."""
        from spinedose.backends.cpu.sweep import exchange

        reached = np.array([self.reached[0], 0, self.halo.shape[3]])
        field, halo = exchange(self.field), exchange(self.halo)
        return _Combined(self.low[[0, 2, 1]], field, reached, halo, self.field_weights, self.halo_weights)


def _compressed(
    moments: Moments, cones: ConeTable, directions: Directions, tolerance: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Combinations (r, R) of moments that matter, and the weights (M, K, r) that make sources of them."""
    from spinedose.backends.cpu.sweep import gram
    from spinedose.backends.cpu.terma import flush

    values = moments.values
    flush(values, np.float32(MOMENT_FLOOR) * values[:, :, 0].max())
    b0, _, size, _ = values.shape
    partial = np.zeros((b0, size, size))
    gram(values, partial)
    combination, weights = compress(source_matrix(cones, directions, moments.order), partial.sum(axis=0), tolerance)
    return combination.astype(np.float32), weights.astype(np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class _Bundle:
    """Directions that march the same way, and their ray lattices.

    Parameters
    ----------
    chosen : ndarray of int, shape (B,)
        Their numbers.
    axis, backwards : int, bool
        Dominant axis of the array, and whether they run against it.
    slope, offset : ndarray float32, shape (B, 2)
        Lattice: see `sweep`.
    step_cm : ndarray float32, shape (B,)
        Path length in a voxel [cm].
    """

    chosen: NDArray[np.intp]
    axis: int
    backwards: bool
    slope: NDArray[np.float32]
    offset: NDArray[np.float32]
    step_cm: NDArray[np.float32]

    def rays(self, shape: tuple[int, ...]) -> int:
        """Rays of a direction, at most; refuses grids that are wider than the buffers of the sweep."""
        from spinedose.backends.cpu.sweep import ROW

        if shape[2] + np.abs(self.slope[:, 1]).max() * shape[self.axis] + 2 > ROW:
            raise UnsupportedPlan(
                "The calculation grid is too large for the CPU",
                f"{shape[2]} x {shape[self.axis]} voxels in a plane, rays may be at most {ROW} voxels wide",
                "Use a larger spacing",
            )
        return int(shape[1 - self.axis] + np.abs(self.slope[:, 0]).max() * shape[self.axis]) + 2


def _bundles(
    directions: Directions, grid: Grid, chosen: NDArray[np.intp], is_turned: bool, side_by_side: int
) -> Iterator[_Bundle]:
    """Sort directions into bundles of about `BUNDLE`, so many that every thread gets as much as the others."""
    order = [2, 0, 1] if is_turned else [2, 1, 0]  # array axes (z, y, x), or (z, x, y) when turned
    spacing = np.array(grid.spacing_cm)[order]
    vector = directions.vector[:, order]
    steps = vector / spacing
    for axis in (1,) if is_turned else (0, 1):
        is_dominant = np.ones(len(chosen), bool) if is_turned else np.argmax(np.abs(steps[chosen, :2]), axis=1) == axis
        for backwards in (False, True):
            alike = chosen[is_dominant & ((vector[chosen, axis] < 0) == backwards)]
            rounds = -(-len(alike) // (BUNDLE * side_by_side))
            for m in np.array_split(alike, min(rounds * side_by_side, len(alike)) or 1):
                if not len(m):
                    continue
                forward = np.abs(steps[m, axis])
                yield _Bundle(
                    m,
                    axis,
                    backwards,
                    (steps[m][:, [1 - axis, 2]] / forward[:, None]).astype(np.float32),
                    directions.offset[m].astype(np.float32),
                    (spacing[axis] / np.abs(vector[m, axis])).astype(np.float32),
                )


def _pixels(raster: Raster) -> NDArray[np.float64]:
    return np.array([raster.x_cm, raster.y_cm, raster.pixel_cm])
