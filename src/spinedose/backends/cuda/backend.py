"""`CudaBackend`: the stages as CUDA kernels, on an NVIDIA GPU through CuPy, or compiled for the host in tests.

The kernels lie in `kernels/`, one file a stage. Array module and compiler are handed in: `(cupy, cupy.RawModule)` on a
GPU, `(numpy, ...)` where the unchanged kernels are compiled as C++, so that all of this file runs without a GPU.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, wraps
from itertools import pairwise
from threading import Lock
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, final

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from spinedose._resources import folder
from spinedose.backends.base import ALL_WATER, Backend, Moments, Progress, Scene
from spinedose.backends.layout import (
    FIELD_TOLERANCE,
    HALO_TOLERANCE,
    HARMONICS,
    MOST_CHAINS,
    MOST_DEGREE,
    PIXELS,
    RAYS,
    RELEASE,
    Struct,
    box_struct,
    chains_struct,
    compress,
    fan_structs,
    recursion_factors,
    shape_struct,
    source_matrix,
    struct,
    voxel_to_gantry,
    voxel_to_map,
    way_structs,
)
from spinedose.cones import ConeTable
from spinedose.directions import Directions, harmonic_norms
from spinedose.errors import BackendUnavailable, OutOfMemory, UnsupportedPlan
from spinedose.exposure import Exposure, Fans, on_host
from spinedose.fluence_model import FluenceMaps, Raster
from spinedose.grid import Volume
from spinedose.machine import BeamModel, Machine
from spinedose.materials import Material
from spinedose.segments import Segments

if TYPE_CHECKING:
    from spinedose.compare.gamma import GammaTask

log = logging.getLogger(__name__)

KERNELS = {
    "fluence": ("leaf_pairs", "leaf_crossings", "draw_leaves", "shade", "multiply_by_voxel", "add_scattered"),
    "depth": ("radiological_depth",),
    "terma": ("release", "add_moments", "add_moments_3", "add_moments_6"),
    "sweep": ("correlate", "make_sources", "sweep", "exchange", "add_up"),
    "gamma": ("find_gamma",),
}
"""Kernels of each file in `kernels/`."""

OPTIONS = ("--std=c++17",)

THREADS = 128
"""Threads of a block of the kernels that number voxels or rays in one row."""

SHARE_OF_FREE = 0.6
"""Part of the free device memory that blocks of directions, fans and energies may fill at most."""

UNROLLED = (3, 6)
"""Degrees of moments that have a kernel of their own, several times as fast as that for any degree."""

STRIP = 8
"""Columns that a thread of the kernel `exchange` takes."""

VOXELS, ROWS = 8, 12
"""Voxels and stages of directions that a thread of the kernel `make_sources` takes."""

MOST_DIRECTIONS = 32
"""Directions swept together at most: by then there are rays enough for any device."""

LARGE_BYTES = 1 << 20
"""Arrays from this size on come to the host through pinned memory, of which CuPy keeps what is given back."""

SIDE = 8
"""Moments that a thread of the kernel `correlate` multiplies with as many."""

CORRELATING_WARPS, CORRELATED_ROWS = 4096, 64
"""Warps enough for any device, whose sums take 34 MB however many moments there are; and rows enough for a warp."""

SHARE_OF_PRODUCTS = 1 / 64
"""Part of the whole device memory that these sums may fill."""

_ONE_AT_A_TIME = Lock()
"""Held while the matrix library has one thread: threadpoolctl before 3.8 could leave it so when two limit it."""


@lru_cache(maxsize=1)
def _threads() -> ThreadpoolController:
    """Thread pools of the process; to find them takes 10 ms where many libraries are loaded."""
    return ThreadpoolController()


P = ParamSpec("P")
R = TypeVar("R")


def kernel_source(name: str) -> str:
    """Text of a kernel file, with that of `common.cuh` in place of its #include line."""
    place = folder("kernels")
    common, own = ((place / file).read_text(encoding="utf-8") for file in ("common.cuh", f"{name}.cu"))
    head, include, rest = own.partition('#include "common.cuh"\n')
    assert include, f"{name}.cu does not include common.cuh"
    line = head.count("\n") + 2
    return f'{head}#line 1 "common.cuh"\n{common}#line {line} "{name}.cu"\n{rest}'


def _on_device(
    verb: Callable[Concatenate[CudaBackend, P], R],
) -> Callable[Concatenate[CudaBackend, P], R]:
    """Run a verb in the backend's context."""

    @wraps(verb)
    def on_device(self: CudaBackend, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with self.context():
            return verb(self, *args, **kwargs)

    return on_device


@final
class CudaBackend(Backend):
    """An NVIDIA GPU, float32; data stay on it between the stages.

    Parameters
    ----------
    xp : module
        `cupy`, or what stands for it where kernels are compiled for the host.
    compile_kernels : callable
        Takes `code` and `options`, gives an object with `get_function(name)`: `cupy.RawModule`.
    number : int
        Number of the device.
    device : str
        The device in words.
    budget_bytes : int, optional
        Memory that blocks of directions, fans and energies may fill; by default a share of what is free at the time.
    """

    name = "cuda"

    def __init__(
        self,
        xp: Any,
        compile_kernels: Callable[..., Any],
        *,
        number: int = 0,
        device: str = "",
        budget_bytes: int | None = None,
    ) -> None:
        self.xp = xp
        self.number = number
        self.device = device
        self._budget_bytes = budget_bytes
        self._process = os.getpid()
        with self.context():
            modules = {name: compile_kernels(code=kernel_source(name), options=OPTIONS) for name in KERNELS}
            self._kernel = {
                kernel: modules[name].get_function(kernel) for name, kernels in KERNELS.items() for kernel in kernels
            }

    def use(self) -> None:
        """Make the device the current one of the calling thread, for what is done with its arrays between stages."""
        self.xp.cuda.Device(self.number).use()

    @contextmanager
    def context(self) -> Iterator[None]:
        """See `Backend.context`; refused in a process that was forked from the one that made the backend."""
        if os.getpid() != self._process:
            raise BackendUnavailable(
                "This GPU's backend was made by another process",
                "a CUDA context does not survive a fork",
                "Start worker processes by 'spawn' (multiprocessing.get_context), and select the backend there",
            )
        try:
            with self.xp.cuda.Device(self.number):
                yield
        except MemoryError as error:
            raise OutOfMemory(
                "The GPU has too little memory for this calculation",
                str(error),
                "Use a larger spacing, or compute on the CPU",
                argument='backend="cpu"',
            ) from error

    @_on_device
    def finish(self) -> None:
        """See `Backend.finish`."""
        self.xp.cuda.get_current_stream().synchronize()

    @_on_device
    def load(
        self,
        electron_density: Volume,
        material: NDArray[np.uint8] | None = None,
        media: tuple[Material, ...] = (),
    ) -> Scene:
        """See `Backend.load`."""
        density = self.upload(electron_density.values, np.float32)
        kind = self.xp.zeros(density.shape, np.uint8) if material is None else self.upload(material, np.uint8)
        return Scene(electron_density.grid, density, kind, media)

    @_on_device
    def fluence(
        self,
        machine: Machine,
        beam_model: BeamModel,
        segments: Segments,
        raster: Raster,
        voxel_axes: NDArray[np.float64] | None,
    ) -> FluenceMaps:
        """See `Backend.fluence`."""
        from spinedose.backends.cuda.fluence import fluence

        return fluence(self, machine, beam_model, segments, raster, voxel_axes)

    @_on_device
    def radiological_depth(self, scene: Scene, fans: Fans, path_factor: NDArray[np.float32] = ALL_WATER) -> Any:
        """See `Backend.radiological_depth`; in memory the planes come first, (g, nz, nv, nu)."""
        matter = self._scaled(scene, path_factor)
        g = len(fans.rotation)
        depth = self.xp.empty((g, fans.nz, fans.nv, fans.nu), np.float32)
        rays = struct(
            RAYS, nu=fans.nu, nv=fans.nv, planes=fans.nz, u=fans.u_cm, v=fans.v_cm, pitch=fans.pitch_cm,
            sad=fans.sad_cm, step=fans.step_cm,
        )  # fmt: skip
        self.launch(
            "radiological_depth", (fans.nu, fans.nv, g), (32, 4, 1),
            matter, shape_struct(scene.grid.shape), self.upload(fan_structs(scene.grid, fans)), rays, depth,
        )  # fmt: skip
        return depth.transpose(0, 2, 3, 1)

    @_on_device
    def new_moments(
        self, scene: Scene, low: tuple[int, int, int], high: tuple[int, int, int], order: int, parts: int = 2
    ) -> Moments:
        """See `Backend.new_moments`; in memory the moments come first, (S (L + 1)^2, b0, b1, b2)."""
        box = tuple(b - a for a, b in zip(low, high, strict=True))
        values = self.xp.zeros((parts * (order + 1) ** 2, *box), np.float32)
        return Moments(low, order, values.transpose(1, 2, 0, 3), self.xp.zeros(scene.grid.shape, np.float32))

    @_on_device
    def release(self, scene: Scene, exposure: Exposure, depth: Any, groups: tuple[int, int], moments: Moments) -> None:
        """See `Backend.release`."""
        assert moments.order <= MOST_DEGREE
        planes = depth.transpose(0, 3, 1, 2)  # as they lie in memory
        low, high = groups
        voxels = moments.values[:, :, 0].size
        block = self.block(high - low, 4 * voxels * exposure.attenuation.terma.shape[-1])

        def work(a: int, b: int) -> None:
            self._release(scene, exposure, planes[a:b], (low + a, low + b), moments)

        self.in_blocks(high - low, block, work)

    def _release(
        self, scene: Scene, exposure: Exposure, planes: Any, groups: tuple[int, int], moments: Moments
    ) -> None:
        """Energies of a few groups, then their moments; nothing is added to before all memory is there."""
        low, high = groups
        fans, maps, table, grid = exposure.fans.part(low, high), exposure.maps, exposure.attenuation, scene.grid
        start, end = int(exposure.first[low]), int(exposure.first[high])
        electron = maps.electron[start:end]
        softs, depths, parts = table.terma.shape[1:]
        all_parts = parts + (len(table.lost) > 1)
        assert moments.values.shape[2] == all_parts * (moments.order + 1) ** 2
        assert len(table.lost) == 1 or table.lost.shape[1] > moments.order
        shape = moments.values[:, :, 0].shape
        reach = exposure.reach
        numbers = struct(
            RELEASE,
            grid=shape_struct(grid.shape), box=box_struct(moments.low, shape), groups=high - low, parts=parts,
            has_electrons=bool(electron.any()), sad=fans.sad_cm,
            u_low=reach.u_low, u_high=reach.u_high, v_low=reach.v_low, v_high=reach.v_high,
            photon=_pixels(maps.raster), electron=_pixels(maps.electron_raster),
            nu=fans.nu, nv=fans.nv, planes=fans.nz, fan_u=fans.u_cm, fan_v=fans.v_cm,
            per_pitch=1.0 / fans.pitch_cm, per_step=1.0 / fans.step_cm,
            softs=softs, depths=depths, radii=len(table.soft_row),
            per_depth=1.0 / table.depth_step_cm, per_radius=1.0 / table.radius_step_cm,
            electron_decay=table.electron_decay_per_cm,
        )  # fmt: skip
        energy = self.xp.empty((high - low, parts, *shape), np.float32)
        inputs = (
            scene.density,
            scene.material,
            self.upload(exposure.first[low : high + 1] - start, np.int32),
            self.upload(voxel_to_gantry(grid, fans.isocentre_cm, fans.rotation)),
            self.upload(voxel_to_map(grid, fans.isocentre_cm, exposure.shot_rotation[start:end], fans.sad_cm)),
            self.upload(maps.photon[start:end], np.float32),
            self.upload(electron, np.float32),
            planes,
            self.upload(fans.top_cm, np.float32),
            self.upload(table.terma, np.float32),
            self.upload(table.soft_row, np.float32),
        )
        source = np.asarray(grid.origin_cm) - fans.isocentre_cm - fans.sad_cm * fans.rotation[:, 2]
        harmonics = struct(
            HARMONICS,
            grid=shape_struct(grid.shape), box=box_struct(moments.low, shape), order=moments.order, parts=parts,
            all_parts=all_parts, groups=high - low, degrees=table.lost.shape[1], spacing=grid.spacing_cm,
        )  # fmt: skip
        waves = (
            self.upload(source, np.float32),
            self.upload(recursion_factors(moments.order)),
            self.upload(harmonic_norms(moments.order), np.float32),
            scene.material,
            self.upload(table.lost, np.float32),
        )
        voxels = int(np.prod(shape))
        self.launch("release", (voxels,), (THREADS,), *inputs, numbers, energy, moments.electron_dose)
        name, in_a_row = "add_moments", all_parts * (moments.order + 1)
        if moments.order in UNROLLED:
            name, in_a_row = f"add_moments_{moments.order}", all_parts
        self.launch(
            name, (-(-voxels // THREADS) * THREADS * in_a_row,), (THREADS,),
            energy, *waves, harmonics, moments.values.transpose(2, 0, 1, 3),
        )  # fmt: skip

    @_on_device
    def settle(self, field: Moments | None, halo: Moments, cones: ConeTable, directions: Directions) -> Any:
        """See `Backend.settle`."""
        outer, bright = self._stored(halo), None
        if field is not None:
            inner, parts = self._stored(field), len(cones.energy)
            start = np.subtract(field.low, halo.low)
            there = tuple(slice(a, a + n) for a, n in zip(start, inner.shape[1:], strict=True))
            many, few = (one.reshape(parts, -1, *one.shape[1:]) for one in (inner, outer))
            low = many[:, : few.shape[1]]
            self.xp.add(low, few[(slice(None), slice(None), *there)], out=low)  # `+=` would copy it onto itself
            bright = self._compressed(inner, field, cones, directions, FIELD_TOLERANCE)
        return _Settled(bright, self._compressed(outer, halo, cones, directions, HALO_TOLERANCE))

    @_on_device
    def carry(
        self,
        scene: Scene,
        sources: list[Any],
        cones: ConeTable,
        directions: Directions,
        progress: Progress | None = None,
    ) -> Any:
        """See `Backend.carry`."""
        if len(cones.basis.stages) > MOST_CHAINS:
            raise UnsupportedPlan("The cone table has too many chains for a GPU", f"there is room for {MOST_CHAINS}")
        slabs = _Slabs(list(sources))
        sources.clear()
        deposit = self.xp.zeros(scene.density.shape, np.float32)
        for_electrons = self._scaled(scene, cones.density_factor)
        along = np.argmax(np.abs(directions.vector / scene.grid.spacing_cm), axis=1)
        done = 0.0
        for is_turned in (False, True):
            chosen = np.flatnonzero((along == 0) == is_turned)
            if not len(chosen):
                continue
            # rays that run mostly along x are swept in an array with x and y exchanged: threads side by side then read
            # and write side by side in every slab
            matters, left = (scene.density, for_electrons, scene.material), deposit
            if is_turned:
                slabs.turn(self)
                kind = self.xp.ascontiguousarray(scene.material.transpose(0, 2, 1))
                matters = (self.exchanged(scene.density), self.exchanged(for_electrons), kind)
                left = self.xp.zeros(kind.shape, np.float32)

            def report(share: float, done: float = done, part: float = len(chosen) / len(along)) -> None:
                if progress is not None:
                    progress(done + part * share)

            ways = way_structs(directions, scene.grid, chosen, is_turned)
            self._sweep(matters, ways, chosen, cones, slabs, left, report)
            done += len(chosen) / len(along)
            if is_turned:
                deposit += self.exchanged(left)
        return deposit

    def _sweep(
        self,
        matters: tuple[Any, ...],
        ways: NDArray[np.void],
        chosen: NDArray[np.intp],
        cones: ConeTable,
        slabs: _Slabs,
        left: Any,
        report: Progress,
    ) -> None:
        """Stages D and E for the chosen directions, of one storage order, in blocks; adds to `left`."""
        chains, size = chains_struct(cones.basis), cones.basis.size
        matter = matters[0]
        n0, n1, n2 = matter.shape
        shape = shape_struct(matter.shape)
        rays = max(n0, n1) * n2
        lattice, returned = self.upload(ways), self.upload(cones.returned, np.float32)
        sends_back = np.int32(len(cones.returned) > 1)

        def work(a: int, b: int) -> None:
            deposit = self.xp.empty((b - a, *matter.shape), np.float32)
            sources = slabs.sources(self, chosen[a:b])
            self.launch(
                "sweep", (rays, b - a), (THREADS, 1),
                *matters, returned, sends_back, shape, lattice[a:b], chains,
                sources, np.uint32(slabs.stride), slabs.box, deposit,
            )  # fmt: skip
            self.launch("add_up", (matter.size,), (THREADS,), deposit, np.int32(b - a), np.int32(matter.size), left)
            report(b / len(ways))

        each = 4 * (matter.size + size * slabs.stride)
        self.in_blocks(len(ways), self.block(len(ways), each, MOST_DIRECTIONS), work)

    def exchanged(self, array: Any) -> Any:
        """A float32 array with its last two axes exchanged, and room behind it."""
        *before, rows, columns = array.shape
        slices = int(np.prod(before))
        result = self._spacious((*before, columns, rows))
        self.launch(
            "exchange", (slices * rows * -(-columns // STRIP),), (THREADS,),
            array, np.int32(slices), np.int32(rows), np.int32(columns), result,
        )  # fmt: skip
        return result

    def _stored(self, moments: Moments) -> Any:
        """Moments as `new_moments` lets them lie in memory, (S (L + 1)^2, b0, b1, b2)."""
        return self.xp.ascontiguousarray(moments.values.transpose(2, 0, 1, 3))

    def _compressed(
        self, stored: Any, moments: Moments, cones: ConeTable, directions: Directions, tolerance: float
    ) -> _Combined:
        """The few combinations of moments that matter, and what makes sources of them."""
        count, n0, n1, n2 = stored.shape
        covariance = self._covariance(stored)
        with _ONE_AT_A_TIME, _threads().limit(limits=1, user_api="blas"):  # so small that threads wait for each other
            matrix = source_matrix(cones, directions, moments.order)
            combine, weights = compress(matrix, covariance, tolerance)
        values = self._spacious((len(combine), n0, n1, n2))
        self.xp.matmul(
            self.upload(combine, np.float32), stored.reshape(count, -1), out=values.reshape(len(combine), -1)
        )
        return _Combined(moments.low, values, weights.astype(np.float32))

    def _covariance(self, stored: Any) -> NDArray[np.float64]:
        """Sums over voxels of moment times moment, (S (L + 1)^2, S (L + 1)^2)."""
        count, n0, n1, n2 = stored.shape
        side = np.arange(0, count, SIDE)
        corners = np.array([(i, j) for i in side for j in side if i <= j], np.int32)
        products = np.zeros((len(corners), SIDE, SIDE))
        most = int(SHARE_OF_PRODUCTS * self._whole_bytes()) // (4 * 32 * SIDE**2)

        def work(a: int, b: int) -> None:
            tiles = b - a
            parts = max(1, min(most // tiles, CORRELATING_WARPS // tiles, n0 * n1 // CORRELATED_ROWS))
            sums = self.xp.empty((parts * 32, tiles, SIDE, SIDE), np.float32)
            self.launch(
                "correlate", (32 * parts * tiles,), (THREADS,),
                stored, np.int32(count), shape_struct((n0, n1, n2)), self.upload(corners[a:b], np.int32),
                np.int32(tiles), np.int32(parts), sums,
            )  # fmt: skip
            products[a:b] = self.to_host(sums.sum(axis=0, dtype=np.float64))

        self.in_blocks(len(corners), max(1, min(most, len(corners))), work)
        whole = np.zeros((len(side) * SIDE,) * 2)
        for (i, j), tile in zip(corners, products, strict=True):
            whole[i : i + SIDE, j : j + SIDE] = tile
            whole[j : j + SIDE, i : i + SIDE] = tile.T
        return whole[:count, :count]

    def _spacious(self, shape: tuple[int, ...]) -> Any:
        """A float32 array with room behind it that `make_sources` may read."""
        size = int(np.prod(shape))
        whole = self.xp.empty(size + 32 * VOXELS, np.float32)
        whole[size:] = 0.0
        return whole[:size].reshape(shape)

    @_on_device
    def gamma(self, task: GammaTask) -> NDArray[np.float32]:
        """See `Backend.gamma`."""
        from spinedose.backends.cuda.gamma import gamma

        return gamma(self, task)

    def _scaled(self, scene: Scene, factor: NDArray[np.float32]) -> Any:
        """Density times a factor of each material."""
        if len(factor) == 1:
            return scene.density
        return scene.density * self.xp.take(self.upload(factor, np.float32), scene.material)

    def upload(self, array: Any, kind: Any = None) -> Any:
        """Contiguous on the device; structs go as bytes, whose layout the kernel knows."""
        if kind is None and array.dtype.names is not None:
            array = np.ascontiguousarray(array).view(np.uint8).reshape(len(array), -1)
        return self.xp.ascontiguousarray(self.xp.asarray(array, dtype=kind))

    @_on_device
    def to_host(self, array: Any) -> NDArray[Any]:
        """See `Backend.to_host`; large arrays through memory that the device can write to itself, ten times faster."""
        if array.nbytes < LARGE_BYTES or not hasattr(array, "get"):
            small: NDArray[Any] = on_host(array)
            return small
        memory = self.xp.cuda.alloc_pinned_memory(array.nbytes)
        host: NDArray[Any] = np.frombuffer(memory, array.dtype, array.size).reshape(array.shape)
        array.get(out=host)
        return host

    def launch(self, kernel: str, threads: tuple[int, ...], block: tuple[int, ...], *args: Any) -> None:
        """Start a kernel with at least so many threads."""
        assert all(a.flags.c_contiguous for a in args if getattr(a, "shape", ()))
        grid = tuple(-(-n // b) for n, b in zip(threads, block, strict=True))
        self._kernel[kernel](grid, block, args)

    def _budget(self) -> int:
        """Bytes that blocks may fill now: a half, a quarter, ... of the device's memory, so that the same is done, to
        the last bit, when a little more or less is free."""
        if self._budget_bytes is not None:
            return self._budget_bytes
        pool, runtime = self.xp.get_default_memory_pool(), self.xp.cuda.runtime
        free = runtime.memGetInfo()[0] + pool.free_bytes()
        if pool.get_limit():  # set by the caller, or by CUPY_GPU_MEMORY_LIMIT
            free = min(free, pool.get_limit() - pool.used_bytes())
        budget, most = self._whole_bytes() // 2, int(SHARE_OF_FREE * free)
        while budget > max(most, 0):
            budget //= 2
        return budget

    @property
    def fan_budget_bytes(self) -> int:  # type: ignore[override]
        """See `Backend`."""
        with self.context():
            return min(self._budget() // 4, 2**31)

    @property
    def most_moments_bytes(self) -> int:  # type: ignore[override]
        """See `Backend`; a quarter of the device, and less when others have taken the memory."""
        with self.context():
            return self._budget() // 2

    def _whole_bytes(self) -> int:
        """Memory of the device, or what may be filled of it."""
        if self._budget_bytes is not None:
            return self._budget_bytes
        limit = self.xp.get_default_memory_pool().get_limit()
        whole = int(self.xp.cuda.runtime.memGetInfo()[1])
        return min(whole, limit) if limit else whole

    def block(self, count: int, each_bytes: int, most: int | None = None) -> int:
        """How many of `count` things that need so many bytes each are done at a time: equal blocks in the budget."""
        fitting = max(1, min(self._budget() // max(each_bytes, 1), most or count))
        blocks = -(-count // fitting) or 1
        return -(-count // blocks) or 1

    def in_blocks(self, count: int, block: int, work: Callable[[int, int], None]) -> None:
        """Call `work(a, b)` for block after block; a block that does not fit into memory is halved and tried again."""
        a = 0
        while a < count:
            b = min(a + block, count)
            try:
                work(a, b)
            except MemoryError:
                if block == 1:
                    raise
                block = -(-block // 2)
                log.warning("GPU memory is short: going on with blocks of %d instead of %d", block, b - a)
            else:
                a = b
                continue
            self._forget()

    def _forget(self) -> None:
        """Give memory that is kept for later back to the device."""
        self.xp.get_default_memory_pool().free_all_blocks()


@dataclass(frozen=True, slots=True, eq=False)
class _Combined:
    """Combinations of moments in a box of the grid, and what makes directional sources of them.

    Parameters
    ----------
    low : tuple of 3 ints
        First voxel of the box, in the array's order of axes.
    values : array float32, shape (r, b0, b1, b2)
        On the device.
    weights : ndarray float32, shape (M, K, r)
        Not on the device.
    """

    low: tuple[int, ...]
    values: Any
    weights: NDArray[np.float32]

    @property
    def box(self) -> Struct:
        """The box as kernels take it."""
        return box_struct(self.low, self.values.shape[1:])

    def turned(self, backend: CudaBackend) -> _Combined:
        """The same with x and y exchanged."""
        z, y, x = self.low
        return _Combined((z, x, y), backend.exchanged(self.values), self.weights)

    def add_sources(
        self, backend: CudaBackend, chosen: NDArray[np.intp], skipped: Struct, whole: Struct, sources: Any
    ) -> None:
        """Write the sources of some directions, but for those in the box `skipped`, into those of the box `whole`."""
        rows = self.weights[chosen].reshape(-1, self.weights.shape[2]).T
        padded = np.pad(rows, ((0, 0), (0, -rows.shape[1] % ROWS)))
        voxels = int(np.prod(self.values.shape[1:]))
        warps = -(-voxels // (32 * VOXELS)) * padded.shape[1] // ROWS
        backend.launch(
            "make_sources", (32 * warps,), (THREADS,),
            self.values, backend.upload(padded), *(np.int32(n) for n in (*rows.shape, padded.shape[1])),
            self.box, skipped, whole, np.uint32(sources.shape[1]), sources,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class _Settled:
    """What `settle` makes of a slab: combinations of all moments in the field's box, and of the halo's in its own,
    which holds the field's."""

    field: _Combined | None
    halo: _Combined


class _Slabs:
    """Combinations of moments in slabs that together fill a box of the grid, or in none.

    Parameters
    ----------
    slabs : list of _Settled
        They follow each other along z.
    """

    def __init__(self, slabs: list[_Settled]) -> None:
        for before, after in pairwise(slab.halo for slab in slabs):
            assert after.low == (before.low[0] + before.values.shape[1], *before.low[1:])
            assert after.values.shape[2:] == before.values.shape[2:]
        self._slabs = slabs

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels of the box along each axis."""
        if not self._slabs:
            return 0, 0, 0
        n1, n2 = self._slabs[0].halo.values.shape[2:]
        return sum(slab.halo.values.shape[1] for slab in self._slabs), n1, n2

    @property
    def stride(self) -> int:
        """Voxels of the box and a few more: an odd multiple of 128 bytes, so that a voxel's sources are spread over
        memory and caches."""
        return (-(-int(np.prod(self.shape)) // 32) | 1) * 32

    @property
    def box(self) -> Struct:
        """The box as kernels take it."""
        return box_struct(self._slabs[0].halo.low if self._slabs else (0, 0, 0), self.shape)

    def turn(self, backend: CudaBackend) -> None:
        """Exchange x and y, slab after slab: the memory of the first serves the next."""
        for n, slab in enumerate(self._slabs):
            field = None if slab.field is None else slab.field.turned(backend)
            self._slabs[n] = _Settled(field, slab.halo.turned(backend))

    def sources(self, backend: CudaBackend, chosen: NDArray[np.intp]) -> Any:
        """Sources of some directions, (directions K, stride): the field's where there is one, which hold the halo's."""
        stages = self._slabs[0].halo.weights.shape[1] if self._slabs else 1
        none = box_struct((0,) * 3, (0,) * 3)
        sources = backend.xp.empty((stages * len(chosen), self.stride), np.float32)
        for slab in self._slabs:
            slab.halo.add_sources(backend, chosen, none if slab.field is None else slab.field.box, self.box, sources)
            if slab.field is not None:
                slab.field.add_sources(backend, chosen, none, self.box, sources)
        return sources


def _pixels(raster: Raster) -> Struct:
    p = raster.pixel_cm
    return struct(PIXELS, nx=raster.nx, ny=raster.ny, x=raster.x_cm / p, y=raster.y_cm / p, per_cm=1.0 / p)
