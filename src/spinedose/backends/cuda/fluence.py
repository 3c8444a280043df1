"""Stage A on a GPU: fluence maps of all segments of a beam (docs/theory/fluence.md).

Tables of the head - leaf tip, spot, jaws, extra-focal nodes - are made on the host; everything with pixels is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spinedose.backends.head import (
    EXTRA_FOCAL_STEP_CM,
    Cells,
    jaw_profile,
    leaf_bands,
    offset_in,
    refuse_coarse_pixels,
    sharp_window,
    sharpening,
    spot_filter,
)
from spinedose.backends.layout import LEAVES, MAP, Struct, struct
from spinedose.fluence_model import (
    FluenceMaps,
    Raster,
    backscatter_factor,
    electron_raster,
    leaf_air_cm,
    leaf_tip,
    physical_tips,
    visible_extra_focal,
)
from spinedose.machine import BeamModel, Machine
from spinedose.segments import Segments

if TYPE_CHECKING:
    from spinedose.backends.cuda.backend import CudaBackend

ROW = (128, 1, 1)
"""Threads of a block along a row of pixels."""

MAPS_AT_ONCE = 8
"""Memory of a segment, in maps: the map, its spectra and what the transform needs."""


def fluence(
    gpu: CudaBackend,
    machine: Machine,
    beam_model: BeamModel,
    segments: Segments,
    raster: Raster,
    voxel_axes: NDArray[np.float64] | None,
) -> FluenceMaps:
    """See `Backend.fluence`; the maps stay on the device."""
    n = len(segments)
    axes = np.zeros((n, 3, 2)) if voxel_axes is None else np.asarray(voxel_axes, dtype=np.float64)
    refuse_coarse_pixels(axes, raster)
    head = _Head.of(gpu, machine, beam_model, segments, raster)
    photon = gpu.xp.empty((n, raster.ny, raster.nx), np.float32)
    electron = gpu.xp.empty((n, head.coarse.ny, head.coarse.nx), np.float32)

    def work(a: int, b: int) -> None:
        some = slice(a, b)
        photon[some], electron[some] = _maps(gpu, head, segments.part(a, b), axes[some], head.scale[some], some)

    gpu.in_blocks(n, gpu.block(n, MAPS_AT_ONCE * photon[0].nbytes), work)
    return FluenceMaps(photon, raster, electron, head.coarse)


@dataclass(frozen=True, slots=True, eq=False)
class _Head:
    """What all segments of a beam share; arrays on the device unless said otherwise.

    Parameters
    ----------
    machine, beam_model, raster : Machine, BeamModel, Raster
        The head and the pixels.
    coarse, nodes : Raster
        Pixels of the electrons, and nodes of the extra-focal fluence.
    window : tuple of 3 slices
        Part of the maps with sharp edges.
    scale : ndarray, shape (n,)
        Meterset times backscatter, on the host.
    profile : array, shape (ny, nx)
        Radial fluence.
    spread : tuple of 2 arrays
        Blur of cells to electron pixels, along y (targets, cells) and along x (cells, targets).
    cells : tuple of 2 ints
        Number of cells along y and x.
    leaves : _Leaves or None
        Absent when the beam has no leaves.
    """

    machine: Machine
    beam_model: BeamModel
    raster: Raster
    coarse: Raster
    nodes: Raster
    window: tuple[slice, slice, slice]
    scale: NDArray[np.float64]
    profile: Any
    spread: tuple[Any, Any]
    cells: tuple[int, int]
    leaves: _Leaves | None

    @classmethod
    def of(cls, gpu: CudaBackend, machine: Machine, beam_model: BeamModel, segments: Segments, raster: Raster) -> _Head:
        """Make the tables of a beam."""
        radius = np.hypot(raster.xs_cm[None, :], raster.ys_cm[:, None])
        coarse, sigma = electron_raster(raster), beam_model.electrons.sigma_cm
        along_y, along_x = (Cells(points, raster.pixel_cm) for points in (raster.ys_cm, raster.xs_cm))
        return cls(
            machine,
            beam_model,
            raster,
            coarse,
            electron_raster(raster, EXTRA_FOCAL_STEP_CM),
            sharp_window(segments, machine, raster),
            segments.meterset_mu * backscatter_factor(machine, beam_model, segments),
            gpu.upload(beam_model.radial_fluence.at(radius), np.float32),
            (
                gpu.upload(along_y.gaussian_to(coarse.ys_cm, sigma), np.float32),
                gpu.upload(along_x.gaussian_to(coarse.xs_cm, sigma).T, np.float32),
            ),
            (along_y.count, along_x.count),
            None if segments.leaf_start_cm is None else _Leaves.of(gpu, machine, beam_model, segments, raster),
        )

    def map_struct(self, ny: int, nx: int) -> Struct:
        """Sizes, for the kernels: of whole maps or of a part of them."""
        leaves, nodes = self.leaves, self.nodes
        x0, y0 = offset_in(nodes, self.raster)
        return struct(
            MAP,
            ny=ny, nx=nx, cells_y=self.cells[0], cells_x=self.cells[1], nodes_y=nodes.ny, nodes_x=nodes.nx,
            is_across_y=bool(leaves and leaves.is_across_y), pairs=leaves.pairs if leaves else 1,
            low=leaves.low if leaves else 0, count=leaves.count if leaves else 1,
            step=self.raster.pixel_cm / nodes.pixel_cm, x0=x0, y0=y0, pixel=self.raster.pixel_cm,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class _Leaves:
    """The multileaf collimator of a beam; arrays on the device.

    Parameters
    ----------
    is_across_y : bool
        Whether leaves lie side by side along y.
    pairs, low, count : int
        Leaf pairs, the first one on the raster, and how many of them are.
    tips : tuple of 2 ndarrays, shape (n, 2, pairs)
        Physical tips at the beginning and the end of each segment [cm], on the host.
    bands : tuple of 4 arrays
        Entries of each line across the leaves: first, last, row, weight.
    table, reach : array
        Of `LeafTip`, double precision.
    struct : Struct
        Numbers for the kernels.
    """

    is_across_y: bool
    pairs: int
    low: int
    count: int
    tips: tuple[NDArray[np.float64], NDArray[np.float64]]
    bands: tuple[Any, ...]
    table: Any
    reach: Any
    struct: Struct

    @classmethod
    def of(
        cls, gpu: CudaBackend, machine: Machine, beam_model: BeamModel, segments: Segments, raster: Raster
    ) -> _Leaves:
        """Make the tables of the leaves of a beam."""
        assert segments.leaf_start_cm is not None and segments.leaf_end_cm is not None
        edges = segments.leaf_boundaries_cm
        assert edges is not None
        is_across_y = segments.leaf_axis == "x"
        across, along = (raster.ys_cm, raster.xs_cm) if is_across_y else (raster.xs_cm, raster.ys_cm)
        air = leaf_air_cm(machine, beam_model, 0.5 * (edges[2:] - edges[:-2]))
        bands = leaf_bands(across, raster.pixel_cm, edges, machine.mlc.tongue_width_cm, air)
        pairs, row = len(edges) - 1, bands[2]
        there = row[row >= 0]
        low = int((there % pairs).min()) if len(there) else 0
        high = int((there % pairs + (there >= 2 * pairs)).max()) if len(there) else 0
        tip = leaf_tip(machine, beam_model)
        rays, points, _ = tip.table.shape
        numbers = struct(
            LEAVES,
            ray_step=tip.ray_step_cm, edge=along[0] - 0.5 * raster.pixel_cm, pixel=raster.pixel_cm,
            pairs=pairs, low=low, count=high - low + 1, pixels=len(along), rays=rays, points=points,
        )  # fmt: skip
        tips = (segments.leaf_start_cm, segments.leaf_end_cm)
        start, end = (physical_tips(leaf, machine, beam_model) for leaf in tips)
        return cls(
            is_across_y,
            pairs,
            low,
            high - low + 1,
            (start, end),
            tuple(gpu.upload(part) for part in bands),
            gpu.upload(tip.table, np.float64),
            gpu.upload(tip.reach_cm, np.float64),
            numbers,
        )

    def draw(self, gpu: CudaBackend, numbers: Struct, some: slice, maps: Any) -> None:
        """Fill maps with the transmission of the segments `some`, averaged over pixels and travel, not blurred."""
        n, pixels = len(maps), int(self.struct["pixels"])
        through = gpu.xp.empty((n, 3, self.count, pixels), np.float32)
        start, end = (gpu.upload(tips[some], np.float64) for tips in self.tips)
        for kernel in ("leaf_pairs", "leaf_crossings"):
            gpu.launch(
                kernel, (pixels, self.count, n), ROW, start, end, self.table, self.reach, self.struct, through
            )  # fmt: skip
        gpu.launch("draw_leaves", (maps.shape[2], maps.shape[1], n), ROW, *self.bands, through, numbers, maps)


def _maps(
    gpu: CudaBackend,
    head: _Head,
    batch: Segments,
    axes: NDArray[np.float64],
    scale: NDArray[np.float64],
    some: slice,
) -> tuple[Any, Any]:
    """Photon and electron maps of some segments, on the device."""
    machine, model, raster, xp = head.machine, head.beam_model, head.raster, gpu.xp
    n, size = len(batch), (raster.nx, raster.ny)
    numbers = head.map_struct(raster.ny, raster.nx)
    jaws = [
        gpu.upload(jaw_profile(machine, model, batch, axis, points, raster.pixel_cm), np.float32)
        for axis, points in (("x", raster.xs_cm), ("y", raster.ys_cm))
    ]
    maps = xp.ones((n, raster.ny, raster.nx), np.float32)
    if head.leaves is not None:
        head.leaves.draw(gpu, numbers, some, maps)
        spot = gpu.upload(spot_filter(machine, model, batch, head.window, raster), np.float32)
        _transformed(gpu, maps, head.window, lambda spectra: spectra.__imul__(spot))
    sums = xp.empty((n, *head.cells), np.float32)
    gpu.launch("shade", (head.cells[1], head.cells[0], n), (32, 4, 1), *jaws, head.profile, numbers, maps, sums)
    strength = gpu.upload(scale * model.electrons.weight_cm2_per_g, np.float32)
    contaminant = xp.matmul(xp.matmul(head.spread[0], sums), head.spread[1]) * strength[:, None, None]
    _average_over_voxels(gpu, head, axes, maps)
    nodes = model.extra_focal.weight * visible_extra_focal(machine, model, batch, head.nodes.xs_cm, head.nodes.ys_cm)
    gpu.launch(
        "add_scattered", (*size, n), ROW,
        gpu.upload(nodes, np.float32), gpu.upload(scale, np.float32), numbers, maps,
    )  # fmt: skip
    return maps, contaminant


def _average_over_voxels(gpu: CudaBackend, head: _Head, axes: NDArray[np.float64], maps: Any) -> None:
    """Convolve the window of maps with the voxels' projections; take the blur of pixel and lookup out."""
    ny, nx = (part.stop - part.start for part in head.window[1:])
    waves = np.arange(nx // 2 + 1) / nx, np.arange(ny) / ny  # the cosine knows no sign and no whole turn
    sharpen = [gpu.upload(sharpening(wave), np.float32) for wave in waves]
    edges, numbers = gpu.upload(axes, np.float32), head.map_struct(ny, nx)

    def multiply(spectra: Any) -> None:
        gpu.launch("multiply_by_voxel", (nx // 2 + 1, ny, len(maps)), ROW, edges, *sharpen, numbers, spectra)

    _transformed(gpu, maps, head.window, multiply)


def _transformed(gpu: CudaBackend, maps: Any, window: tuple[slice, slice, slice], change: Any) -> None:
    """Change the half spectra of a window of maps, in place.

    They are made of a copy: cuFFT takes real input only where a complex number could begin, every 8 bytes, and a window
    of whole rows of one map, which is contiguous and would go to it as it is, may begin between.
    """
    inside = maps[window]
    spectra = gpu.xp.ascontiguousarray(gpu.xp.fft.rfft2(inside.copy()), dtype=np.complex64)
    change(spectra)
    inside[...] = gpu.xp.fft.irfft2(spectra, s=inside.shape[1:])
