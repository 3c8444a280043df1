"""Volumes made small enough to travel inside a page: cut to what is seen, coded in few bits, compressed, as text.

Every volume starts from its own grid. When it does not fit its share of the page, it is laid on coarser voxels until it
does; the page says how coarse. Nothing that is compared or judged is read from these copies. `assets/volumes.js`
unpacks them.
"""

from __future__ import annotations

import base64
import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spinedose.grid import Grid, Volume
from spinedose.structures import Structure, bounds_cm, mask

Array = NDArray[np.float64]

CT_BYTES, DOSE_BYTES, GAMMA_BYTES, STRUCTURE_BYTES = 4_500_000, 2_400_000, 1_000_000, 1_400_000
"""Largest size on the page, as text: the CT, each of two doses, each of three gamma maps, all structures together.
Less than 14 MB in all."""

ZIP_LEVEL = 4
"""Effort of compression: 6, as usual, makes pages 5 % smaller in three times as long."""

MOST_VOXELS = 10_000_000
"""Larger volumes would not fit, and are not tried."""

COARSER = 1.26
"""Each step makes voxels this much wider, so that three steps double them along every axis."""

DOSE_STEPS = 4095
"""Steps from zero to the largest dose: 12 bits, 0.025 % of it."""

GAMMA_STEPS, NOT_EVALUATED = 250, 255
"""Steps from zero to the search cut-off of gamma, and the code of voxels without a gamma."""

COVER_STEPS = 30
"""Steps from outside to inside a structure; even, so that one half is a step."""

LEAST_PIXEL_CM, MOST_PIXEL_CM = 0.05, 0.2
PIXELS_ACROSS = 120
"""Pixels in which a structure is kept: so many across it, between these sizes [cm]."""


@dataclass(frozen=True, slots=True)
class Packed:
    """A volume as text.

    Parameters
    ----------
    grid : Grid
        Its voxels.
    is_wide : bool
        Whether codes have 16 bits, as differences along x, low bytes first, high bytes after them; else 8 bits.
    levels : tuple of float
        Value of each code, for 8 bits; for 16 bits one number, the value of a step.
    text : str
        The codes (z, y, x), gzipped, in base64.
    """

    grid: Grid
    is_wide: bool
    levels: tuple[float | None, ...]
    text: str

    def as_dict(self) -> dict[str, Any]:
        """Everything but the text, ready for JSON."""
        return {
            "origin": [round(value, 5) for value in self.grid.origin_cm],
            "spacing": [round(value, 6) for value in self.grid.spacing_cm],
            "shape": list(self.grid.shape),
            "wide": self.is_wide,
            "levels": list(self.levels),
        }


def pack_ct(hu: Volume) -> Packed:
    """A CT in 8 bits: 4 HU a step in soft tissue, coarser in lung, bone and metal."""
    levels = _hu_levels(float(hu.values.max()))
    edges = (levels[1:] + levels[:-1]) / 2
    for volume in _ever_coarser(hu):
        codes = np.searchsorted(edges, volume.values).astype(np.uint8)
        text = _text(codes)
        if len(text) <= CT_BYTES:
            break
    return Packed(volume.grid, False, tuple(map(float, levels)), text)


def _hu_levels(top_hu: float) -> Array:
    """CT numbers of the 256 codes [HU]."""
    lung, soft, bone = np.arange(-1024, -200, 16), np.arange(-200, 400, 4), np.geomspace(400, max(top_hu, 1500), 54)
    return np.concatenate([lung, soft, np.rint(bone)])


def pack_dose(dose: Volume, largest_gy: float) -> Packed:
    """A dose in 12 bits of a largest dose [Gy]."""
    step = largest_gy / DOSE_STEPS
    for volume in _ever_coarser(dose):
        codes = np.rint(np.clip(volume.values / step, 0, DOSE_STEPS)).astype(np.uint16)
        change = np.diff(codes, axis=2, prepend=np.uint16(0))  # wraps around, and is meant to
        text = _text(np.stack([change & 255, change >> 8]).astype(np.uint8))
        if len(text) <= DOSE_BYTES:
            break
    return Packed(volume.grid, True, (step,), text)


def pack_gamma(gamma: Volume, largest: float) -> Packed:
    """A gamma map in 8 bits; the largest of the voxels that become one stands for them."""
    volume, factor = gamma, 1
    while True:
        is_known = np.isfinite(volume.values)
        codes = np.where(is_known, np.rint(np.nan_to_num(volume.values) / largest * GAMMA_STEPS), NOT_EVALUATED)
        text = _text(codes.astype(np.uint8))
        if len(text) <= GAMMA_BYTES:
            break
        factor += 1
        volume = _largest_of_blocks(gamma, factor)
    levels = (*(largest * step / GAMMA_STEPS for step in range(GAMMA_STEPS + 1)), *[None] * (255 - GAMMA_STEPS))
    return Packed(volume.grid, False, levels, text)


def pack_structure(structure: Structure) -> Packed:
    """A structure as the share of every voxel that it covers; on the planes of its contours."""
    low, high = bounds_cm(structure)
    heights = np.unique(np.round([contour[:, 2].mean() for contour in structure.contours_cm], 3))
    steps = np.diff(heights)
    dz = structure.contour_spacing_cm or (float(np.median(steps)) if len(steps) else float(high[2] - low[2]))
    pixel = float(np.clip(np.max(high[:2] - low[:2]) / PIXELS_ACROSS, LEAST_PIXEL_CM, MOST_PIXEL_CM))
    # One voxel more on every side, so that outlines close.
    count = [int(np.ceil((high[axis] - low[axis]) / pixel)) + 2 for axis in (0, 1)]
    layers = round((heights[-1] - heights[0]) / dz) + 3
    grid = Grid(
        (float(low[0]) - pixel / 2, float(low[1]) - pixel / 2, float(heights[0]) - dz),
        (pixel, pixel, dz),
        (layers, count[1], count[0]),
    )
    codes = np.rint(COVER_STEPS * mask(structure, grid).values).astype(np.uint8)
    return Packed(grid, False, tuple(code / COVER_STEPS for code in range(256)), _text(codes))


def _ever_coarser(volume: Volume) -> Iterator[Volume]:
    """The volume, then the same on wider and wider voxels, without an end."""
    if volume.grid.size <= MOST_VOXELS:
        yield volume
    spacing = np.asarray(volume.grid.spacing_cm)
    wish = float(spacing.min())
    while True:
        wish *= COARSER
        wider = np.maximum(spacing, wish)
        if np.allclose(wider, spacing):
            continue
        low, high = volume.grid.lower_cm, volume.grid.upper_cm
        count = np.maximum(np.floor((high - low) / wider + 1e-6), 1).astype(int)
        if np.prod(count) > MOST_VOXELS:
            continue
        first = (low + high) / 2 - wider * (count - 1) / 2
        yield _on(volume, Grid(tuple(first), tuple(wider), tuple(count[::-1])))


def _on(volume: Volume, grid: Grid) -> Volume:
    """Trilinear interpolation at the voxels of a grid within the volume's, one axis after the other."""
    values = volume.values.astype(np.float32)
    places = zip(volume.grid.axes_cm[::-1], grid.axes_cm[::-1], strict=True)
    for axis, (there, wanted) in enumerate(places):
        place = np.interp(wanted, there, np.arange(len(there)))
        low = np.minimum(place.astype(np.intp), max(len(there) - 2, 0))
        part = np.moveaxis(np.expand_dims((place - low).astype(np.float32), (1, 2)), 0, axis)
        below = np.take(values, low, axis)
        values = below + part * (np.take(values, np.minimum(low + 1, len(there) - 1), axis) - below)
    return Volume(grid, values)


def _largest_of_blocks(volume: Volume, factor: int) -> Volume:
    """Cubes of voxels as one, with the largest value in them; those that do not fill a cube count as well."""
    pad = [(0, -n % factor) for n in volume.grid.shape]
    values = np.pad(volume.values, pad, constant_values=np.nan)
    nz, ny, nx = (n // factor for n in values.shape)
    blocks = values.reshape(nz, factor, ny, factor, nx, factor)
    largest = np.fmax.reduce(np.fmax.reduce(np.fmax.reduce(blocks, axis=5), axis=3), axis=1)
    spacing = np.asarray(volume.grid.spacing_cm)
    origin = np.asarray(volume.grid.origin_cm) + spacing * (factor - 1) / 2
    return Volume(Grid(tuple(origin), tuple(factor * spacing), (nz, ny, nx)), largest)


def _text(codes: NDArray[np.uint8]) -> str:
    return base64.b64encode(gzip.compress(codes.tobytes(), ZIP_LEVEL, mtime=0)).decode("ascii")
