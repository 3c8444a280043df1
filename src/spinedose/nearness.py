"""How near matter that is hard to compute lies to targets and to the spinal cord."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from spinedose.errors import InvalidInput
from spinedose.grid import Grid
from spinedose.structures import Structure, StructureSet, bounds_cm, mask

TARGET_TYPES = ("PTV", "CTV", "GTV")
"""Interpreted types of targets (DICOM PS3.3, C.8.8.8.1)."""

_TARGET_NAME = re.compile(r"(?<![a-z])[pcgi]tv", re.IGNORECASE)
_CORD_NAME = re.compile(
    r"(?<!re)cord|spinal|myelon|r(ü|ue)ckenmark|moelle|cauda|thecal|medulla|(vertebral|neural)[ _-]*canal"
    r"|^(prv[ _-]*)?canal",
    re.IGNORECASE,
)
_NO_CORD_NAME = re.compile(r"vocal|umbilical", re.IGNORECASE)

FAR_CM = 5.0
"""Beyond this distance nothing is reported: secondary electrons of 6 MV beams do not get as far in water."""

HALF = 0.5 - 1e-4
"""Share of a voxel from which it counts as inside; less the rounding of contours that run through voxel centres."""


def is_target(structure: Structure) -> bool:
    """Whether a structure is a target, by its type or its name."""
    return structure.type.upper() in TARGET_TYPES or bool(_TARGET_NAME.search(structure.name))


def is_cord(structure: Structure) -> bool:
    """Whether a structure is the spinal cord, the cauda or their canal, or a margin around them, by its name."""
    name = structure.name
    return bool(_CORD_NAME.search(name)) and not _NO_CORD_NAME.search(name) and not is_target(structure)


def targets_and_cords(structures: StructureSet | None) -> list[Structure]:
    """Structures to which distances are told: cords first, then targets."""
    drawn = [s for s in structures.structures if _has_volume(s)] if structures is not None else []
    return [*filter(is_cord, drawn), *filter(is_target, drawn)]


def _has_volume(structure: Structure) -> bool:
    """Whether its contours make a solid: those of a single plane of unknown thickness do not."""
    try:
        return bool(structure.contours_cm) and bool(np.all(np.isfinite(bounds_cm(structure))))
    except InvalidInput:
        return False


def distances(
    voxels: NDArray[np.intp], grid: Grid, structures: Sequence[Structure], *, limit_cm: float = FAR_CM
) -> tuple[tuple[str, float], ...]:
    """Distance of each structure from the nearest of some voxels.

    Parameters
    ----------
    voxels : ndarray, shape (n, 3)
        Indices (z, y, x) on the grid.
    grid : Grid
        The grid, that of the CT.
    structures : sequence of Structure
        The structures; a voxel belongs to one when at least half of it lies inside.
    limit_cm : float
        Structures further away are left out [cm].

    Returns
    -------
    tuple of (str, float)
        Name and distance [cm] between the nearest voxel centres, 0 where they share a voxel; the nearest first.
    """
    if not len(voxels):
        return ()
    from scipy.spatial import cKDTree

    points = _centres(voxels, grid)
    tree = cKDTree(points)
    low, high = points.min(axis=0) - limit_cm, points.max(axis=0) + limit_cm
    found = []
    for structure in structures:
        own = _voxels_of(structure, grid, low, high)
        if len(own):
            distance, _ = tree.query(own, distance_upper_bound=limit_cm)
            if np.isfinite(nearest := float(distance.min())):
                found.append((structure.name, nearest))
    return tuple(sorted(found, key=lambda pair: pair[1]))


def in_words(near: Sequence[tuple[str, float]]) -> str:
    """`4 mm from 'SpinalCord', 0 mm from 'PTV'`."""
    return ", ".join(f"{10 * distance:.0f} mm from '{name}'" for name, distance in near)


def around(structures: Sequence[Structure], grid: Grid, margin_cm: float) -> tuple[slice, slice, slice]:
    """The box of voxels (z, y, x) around structures with a margin [cm]; empty without structures."""
    if not structures:
        return slice(0, 0), slice(0, 0), slice(0, 0)
    boxes = [bounds_cm(structure) for structure in structures]
    low = grid.indices_of(np.min([box[0] for box in boxes], axis=0) - margin_cm)
    high = grid.indices_of(np.max([box[1] for box in boxes], axis=0) + margin_cm)
    first = np.clip(np.floor(low + 0.5), 0, grid.shape).astype(int)
    last = np.clip(np.ceil(high + 0.5), 0, grid.shape).astype(int)
    z, y, x = (slice(int(a), max(int(a), int(b))) for a, b in zip(first, last, strict=True))
    return z, y, x


def _centres(voxels: NDArray[np.intp], grid: Grid) -> NDArray[np.float64]:
    """Voxel centres (x, y, z) [cm]."""
    return np.asarray(voxels[:, ::-1] * np.array(grid.spacing_cm) + grid.origin_cm, dtype=np.float64)


def _voxels_of(
    structure: Structure, grid: Grid, low: NDArray[np.float64], high: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Centres (x, y, z) [cm] of a structure's voxels within a box."""
    corners = bounds_cm(structure)
    low, high = np.maximum(low, corners[0]), np.minimum(high, corners[1])
    first = np.clip(np.floor(grid.indices_of(low) + 0.5), 0, grid.shape).astype(int)
    last = np.clip(np.ceil(grid.indices_of(high) + 0.5), 0, grid.shape).astype(int)
    if (last <= first).any():
        return np.zeros((0, 3))
    share = mask(structure, grid.box(_triple(first), _triple(last))).values
    return _centres(np.argwhere(share >= HALF) + first, grid)


def _triple(numbers: NDArray[np.int_]) -> tuple[int, int, int]:
    return int(numbers[0]), int(numbers[1]), int(numbers[2])
