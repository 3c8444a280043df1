"""Structures: named regions drawn as planar contours, the voxels they cover, and the material a planner gave them.

How contours become a solid. Every contour plane stands for a slab that reaches half way to its neighbours, and half the
contour spacing beyond the first and the last plane. Neighbours further apart than 1.5 contour spacings are separate
parts, and the gap between them stays empty (`gaps_cm` lists such gaps, so that a caller can warn). Inside a slab the
outline does not change. Contours of one plane combine by even and odd: a point is inside when it lies in an odd
number of them, so holes, rings, islands and keyhole contours need no care. Slabs and outlines are intersected with
the voxels exactly, by area in the plane and by length along z; nothing is sampled.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from spinedose.errors import InvalidInput
from spinedose.grid import Grid, Volume
from spinedose.identity import Identity

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Structure:
    """One region of interest.

    Parameters
    ----------
    number : int
        ROI number.
    name : str
        ROI name.
    type : str
        RT ROI interpreted type (EXTERNAL, PTV, ORGAN, SUPPORT, ...), empty when absent.
    contours_cm : tuple of ndarray, shape (k, 3)
        Closed planar contours, all in planes of constant z (x, y, z) [cm], DICOM LPS.
    relative_mass_density, relative_electron_density : float or None
        Override of the whole region, relative to water.
    color : tuple of 3 ints
        Display colour, 0-255.
    contour_spacing_cm : float or None
        Distance of the planes on which contours were drawn [cm]; None: the median distance of the structure's own
        planes.
    unread : str
        Why the contours that its file holds are of no use, where it has none for that; empty otherwise.
    """

    number: int
    name: str
    type: str = ""
    contours_cm: tuple[NDArray[np.float64], ...] = ()
    relative_mass_density: float | None = None
    relative_electron_density: float | None = None
    color: tuple[int, int, int] = (255, 0, 0)
    contour_spacing_cm: float | None = None
    unread: str = ""

    def __repr__(self) -> str:
        kind = f", {self.type}" if self.type else ""
        return f"<Structure {self.number} '{self.name}'{kind}: {len(self.contours_cm)} contour(s)>"

    def __post_init__(self) -> None:
        for contour in self.contours_cm:
            if contour.ndim != 2 or contour.shape[1] != 3 or len(contour) < 3:
                raise InvalidInput(
                    f"Structure '{self.name}' has a contour of shape {contour.shape}", "a contour is (k, 3)"
                )
            if not np.all(np.isfinite(contour)):
                raise InvalidInput(f"Structure '{self.name}' has a contour point that is not a number")
            if np.ptp(contour[:, 2]) > PLANE_TOLERANCE_CM:
                raise InvalidInput(
                    f"Structure '{self.name}' has a contour whose z runs from {contour[:, 2].min():.3f} to "
                    f"{contour[:, 2].max():.3f} cm",
                    "only contours in axial planes can be filled",
                    "Draw the structure on axial slices",
                )
        for density in (self.relative_mass_density, self.relative_electron_density):
            if density is not None and not 0 <= density < 25:
                raise InvalidInput(
                    f"Structure '{self.name}' overrides the density with {density}", "that is no material"
                )
        spacing = self.contour_spacing_cm
        if spacing is not None and not (np.isfinite(spacing) and spacing > 0):
            raise InvalidInput(
                f"Structure '{self.name}' has a contour spacing of {spacing} cm", "slices need a thickness"
            )


NAMES_SHOWN = 8
"""Names of structures in a line about a set."""


@dataclass(frozen=True, slots=True, eq=False)
class StructureSet:
    """All structures of a patient in one frame of reference."""

    structures: tuple[Structure, ...]
    label: str = ""
    uid: str = ""
    frame_of_reference_uid: str = ""
    warnings: tuple[str, ...] = field(default=())
    identity: Identity = field(default_factory=Identity, repr=False)

    def __repr__(self) -> str:
        names = [one.name for one in self.structures]
        shown = ", ".join(names[:NAMES_SHOWN]) + (", ..." if len(names) > NAMES_SHOWN else "")
        return f"<StructureSet '{self.label}': {len(names)} structure(s)" + (f": {shown}>" if names else ">")

    def __getitem__(self, name: str) -> Structure:
        """The structure of this name, exactly; of several the first that has contours."""
        named = [structure for structure in self.structures if structure.name == name]
        if named:
            return next((structure for structure in named if structure.contours_cm), named[0])
        known = ", ".join(s.name for s in self.structures)
        raise InvalidInput(f"There is no structure '{name}'", f"the set has: {known}")


PLANE_TOLERANCE_CM = 0.005
"""Contours closer than this along z lie in one plane; planning systems round coordinates to 0.01-0.1 mm."""

GAP_FACTOR = 1.5
"""Planes further apart than this many contour spacings are not joined."""


PIXELS_AT_ONCE = 500_000
"""Pixels of the planes that are filled together: many small planes take as long as one, and memory stays small."""


def mask(structure: Structure, grid: Grid) -> Volume:
    """Share of every voxel that lies inside a structure.

    Parameters
    ----------
    structure : Structure
        The region; without contours the mask is zero everywhere.
    grid : Grid
        Where the shares are wanted.

    Returns
    -------
    Volume
        Volume fractions from 0 to 1, float32; exact for the solid that the contours stand for (see the head of this
        module).

    Raises
    ------
    InvalidInput
        If the structure lies in one plane only and its contour spacing is not known.
    """
    values = np.zeros(grid.shape, dtype=np.float32)
    dz = grid.spacing_cm[2]
    bottom = grid.lower_cm[2]
    reaching: list[tuple[int, Array, list[Array]]] = []
    for low, high, polygons in _slabs(structure):
        first = max(int(np.floor((low - bottom) / dz)), 0)
        last = min(int(np.ceil((high - bottom) / dz)), grid.shape[0])
        faces = bottom + dz * np.arange(first, last + 1)
        share = np.clip(np.minimum(high, faces[1:]) - np.maximum(low, faces[:-1]), 0.0, None) / dz
        if np.any(share > 0):
            reaching.append((first, share, polygons))
    many = max(PIXELS_AT_ONCE // (grid.shape[1] * grid.shape[2]), 1)
    for start in range(0, len(reaching), many):
        group = reaching[start : start + many]
        areas, (row, column) = _coverage([polygons for _, _, polygons in group], grid)
        rows, columns = slice(row, row + areas.shape[1]), slice(column, column + areas.shape[2])
        for area, (first, share, _) in zip(areas, group, strict=True):
            for layer, part in enumerate(share, start=first):
                if part > 0:
                    values[layer, rows, columns] += (part * area).astype(np.float32)
    return Volume(grid, np.minimum(values, 1.0, out=values))


def volume_cm3(structure: Structure) -> float:
    """Volume of a structure [cm^3], from the contours alone: exact plane areas times slab thicknesses."""
    return sum((high - low) * _area(polygons) for low, high, polygons in _slabs(structure))


def bounds_cm(structure: Structure) -> tuple[Array, Array]:
    """Corners (x, y, z) of the box around a structure [cm], its end slabs included.

    Raises
    ------
    InvalidInput
        If the structure has no contours.
    """
    slabs = _slabs(structure)
    if not slabs:
        raise InvalidInput(f"Structure '{structure.name}' has no contours", "there is nothing to measure")
    points = np.concatenate([p for _, _, polygons in slabs for p in polygons])
    (x0, y0), (x1, y1) = points.min(axis=0), points.max(axis=0)
    return np.array([x0, y0, slabs[0][0]]), np.array([x1, y1, slabs[-1][1]])


def gaps_cm(structure: Structure) -> tuple[tuple[float, float], ...]:
    """Empty stretches of z (from, to) [cm] between parts of a structure; a forgotten slice shows up here."""
    slabs = _slabs(structure)
    return tuple((below[1], above[0]) for below, above in pairwise(slabs) if above[0] - below[1] > PLANE_TOLERANCE_CM)


def find_external(structure_set: StructureSet) -> Structure | None:
    """The patient's outline: the structure of type EXTERNAL, else one with a usual name such as BODY.

    Structures without contours do not count. Of several candidates the one of largest volume is taken, so that a
    bolus or an arm drawn apart does not stand for the body.

    Returns
    -------
    Structure or None
        None when no structure looks like an outline; `skin_mask` is the fallback.
    """
    drawn = [s for s in structure_set.structures if s.contours_cm]
    candidates = [s for s in drawn if s.type.strip().upper() == "EXTERNAL"]
    if not candidates:
        candidates = [s for s in drawn if _OUTLINE_NAME.fullmatch(re.sub(r"[^a-z]", "", s.name.lower()))]
    return max(candidates, key=_size, default=None)


_OUTLINE_NAME = re.compile(r"(body|external|skin|outline|patient)(contour|outline|surface)?")


def _size(structure: Structure) -> float:
    """Sum of the areas of all contours [cm^2]: enough to rank outlines, and defined for a single plane as well."""
    return sum(_area([contour[:, :2]]) for contour in structure.contours_cm)


SKIN_THRESHOLD_HU = -350.0
"""Between air and fat (about -100 HU), below fat blurred by a partial volume of air; lung is filled in afterwards."""

HOLLOW_HU = -900.0
"""Enclosed regions above this on average are lung; below it they are air or the foam core of a couch."""

TABLE_OPENING_CM = 0.6
"""Sheets thinner than twice this are cut from the body: couch shells of carbon fibre, masks, blankets."""


def skin_mask(hu: Volume) -> Volume:
    """The patient by threshold, for want of a drawn outline; the caller must warn.

    Voxels above -350 HU with the lungs that they enclose; thin sheets cut off (a morphological opening in each slice,
    as far as that removes a couch top); the largest connected part; what lies within 6 mm of it put back; every slice
    filled. The opening rounds corners off, and those further from the rest stay off: a square edge loses about 0.15 cm2
    of its slice. Skin is rounder than that.

    Parameters
    ----------
    hu : Volume
        CT numbers [HU].

    Returns
    -------
    Volume
        1 in the patient and 0 elsewhere, float32.

    Raises
    ------
    InvalidInput
        If no voxel is denser than the threshold.
    """
    from scipy import ndimage

    if not np.any(hu.values > SKIN_THRESHOLD_HU):
        raise InvalidInput(
            f"No voxel of the CT is above {SKIN_THRESHOLD_HU:.0f} HU",
            "no patient can be found in it",
            "Check the rescaling",
        )
    pixel = (hu.grid.spacing_cm[1], hu.grid.spacing_cm[0])
    solid = np.stack([_with_lungs(image) for image in hu.values])
    core = np.stack([_is_far_from(~image, pixel, TABLE_OPENING_CM) for image in solid])
    if not core.any():  # everything is thin: a phantom of a few voxels
        core = solid
    parts, count = ndimage.label(core)
    if count > 1:
        sizes = np.bincount(parts.ravel())
        sizes[0] = 0
        core = parts == int(np.argmax(sizes))
    body = np.empty(hu.grid.shape, dtype=np.float32)
    for layer, (image, part) in enumerate(zip(solid, core, strict=True)):
        opened = part | (image & ~_is_far_from(part, pixel, TABLE_OPENING_CM))
        body[layer] = ndimage.binary_fill_holes(opened)
    return Volume(hu.grid, body)


def _with_lungs(image: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Pixels of one slice above the skin threshold, and those of enclosed regions that are not empty."""
    from scipy import ndimage

    dense: NDArray[np.bool_] = image > SKIN_THRESHOLD_HU
    holes, count = ndimage.label(ndimage.binary_fill_holes(dense) & ~dense)
    if count:
        mean = ndimage.mean(image, holes, np.arange(count + 1))
        is_lung = np.asarray(mean) > HOLLOW_HU
        is_lung[0] = False
        dense = dense | is_lung[holes]
    return dense


def _is_far_from(part: NDArray[np.bool_], pixel: tuple[float, float], distance_cm: float) -> NDArray[np.bool_]:
    """Pixels further than a distance from every pixel of a part; beyond the rim of the picture there is nothing."""
    from scipy import ndimage

    if not part.any():
        return np.ones(part.shape, dtype=bool)
    return np.asarray(ndimage.distance_transform_edt(~part, sampling=pixel) > distance_cm)


Slab = tuple[float, float, list[Array]]
"""Lower face, upper face [cm], and the polygons (k, 2) of the plane [cm]."""


@lru_cache(maxsize=64)  # a check asks for those of each structure some twenty times
def _slabs(structure: Structure) -> tuple[Slab, ...]:
    """The solid that the contours stand for, from the lowest slab to the highest."""
    placed = [(float(contour[:, 2].mean()), contour) for contour in structure.contours_cm]
    heights: list[float] = []
    planes: list[list[Array]] = []
    for height, contour in sorted(placed, key=itemgetter(0)):
        if not heights or height - heights[-1] > PLANE_TOLERANCE_CM:
            heights.append(height)
            planes.append([])
        planes[-1].append(contour[:, :2])
    spacing = structure.contour_spacing_cm
    if spacing is None and len(heights) > 1:
        spacing = float(np.median(np.diff(heights)))
    if spacing is None:
        if not heights:
            return ()
        raise InvalidInput(
            f"Structure '{structure.name}' lies in one plane and its slice spacing is not known",
            "a plane has no volume",
            "Draw it on more slices",
        )
    slabs = []
    for k, (height, polygons) in enumerate(zip(heights, planes, strict=True)):
        below = height - heights[k - 1] if k > 0 else spacing
        above = heights[k + 1] - height if k + 1 < len(heights) else spacing
        below, above = (gap if gap <= GAP_FACTOR * spacing else spacing for gap in (below, above))
        slabs.append((height - below / 2, height + above / 2, polygons))
    return tuple(slabs)


@dataclass(frozen=True, slots=True, eq=False)
class _Pieces:
    """Straight boundary pieces of a plane figure, from (x0, y0) up to (x1, y1); sign +1 left of the inside, -1
    right."""

    x0: Array
    y0: Array
    x1: Array
    y1: Array
    sign: Array


def _boundary(polygons: list[Array], rows: Array | None = None) -> _Pieces:
    """Cut polygons into the boundary of the figure that they bound by even and odd.

    The plane is cut into bands at every vertex, at every given row face and wherever edges cross. Within a band edges
    run from bottom to top and never cross, so that sorting them by x tells which of them open and which close the
    figure.

    Parameters
    ----------
    polygons : list of ndarray, shape (k, 2)
        Closed polygons (x, y); the last point joins the first.
    rows : ndarray, optional
        More y at which to cut, rising; what lies below the first and above the last is left out.
    """
    start = np.concatenate(polygons)
    end = np.concatenate([np.roll(p, -1, axis=0) for p in polygons])
    keep = start[:, 1] != end[:, 1]  # level edges bound no area in a band
    start, end = start[keep], end[keep]
    is_down = start[:, 1] > end[:, 1]
    low, high = np.where(is_down[:, None], end, start), np.where(is_down[:, None], start, end)
    cuts = np.unique(np.concatenate([low[:, 1], high[:, 1]]))
    if rows is not None:
        cuts = np.union1d(cuts[(cuts > rows[0]) & (cuts < rows[-1])], rows)
    for _ in range(_MOST_CROSSING_ROUNDS):
        edge, band = _bands(low[:, 1], high[:, 1], cuts)
        y0, y1 = cuts[band], cuts[band + 1]
        slope = ((high[:, 0] - low[:, 0]) / (high[:, 1] - low[:, 1]))[edge]
        x0, x1 = (low[edge, 0] + slope * (y - low[edge, 1]) for y in (y0, y1))
        order = np.lexsort((x0 + x1, band))
        x0, x1, y0, y1, band = x0[order], x1[order], y0[order], y1[order], band[order]
        # Neighbours that swap sides within a band cross there.
        same = band[1:] == band[:-1]
        before, after = np.diff(x0), np.diff(x1)
        crosses = same & (np.minimum(before, after) < -_CROSSING_TOLERANCE) & (np.maximum(before, after) > 0)
        if not crosses.any():
            break
        part = before[crosses] / (before[crosses] - after[crosses])
        more = np.union1d(cuts, y0[1:][crosses] + part * (y1 - y0)[1:][crosses])
        if len(more) == len(cuts):
            break
        cuts = more
    rank = np.arange(len(band)) - np.searchsorted(band, band)
    return _Pieces(x0, y0, x1, y1, np.where(rank % 2 == 0, 1.0, -1.0))


_MOST_CROSSING_ROUNDS = 8
"""Each round resolves the crossings of neighbours; more than two are needed only where many edges meet in one band."""

_CROSSING_TOLERANCE = 1e-7
"""Smaller swaps [cm or pixels] are rounding; they could change areas by less than their square."""


def _bands(low: Array, high: Array, cuts: Array) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """For every edge and every band that it passes: number of the edge, number of the band."""
    last_cut = max(len(cuts) - 1, 0)
    first, last = (np.minimum(np.searchsorted(cuts, y), last_cut) for y in (low, high))
    count = last - first
    edge = np.repeat(np.arange(len(low)), count)
    within = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count)
    return edge, first[edge] + within


def _area(polygons: list[Array]) -> float:
    """Area of a plane figure [cm^2]."""
    p = _boundary(polygons)
    return float(-np.sum(p.sign * (p.y1 - p.y0) * (p.x0 + p.x1)) / 2)


_ROUNDING = 1e-9
"""Shares nearer to 0 or 1 than this are rounding of the running sum (about 1e-13)."""


def _coverage(planes: list[list[Array]], grid: Grid) -> tuple[Array, tuple[int, int]]:
    """Share of every pixel that plane figures cover, each in a plane of its own.

    The planes are laid above one another, as one tall picture. A boundary piece covers all that lies to its right;
    pieces that open the figure count positive, those that close it negative. In the pixels that a piece passes through
    the area to its right is the integral of a linear function.

    Returns
    -------
    area : ndarray, shape (planes, rows, columns)
        Shares 0 to 1 in the part of the grid around the figures; may be empty.
    corner : tuple of 2 ints
        Row and column of that part in the grid.
    """
    spacing, corner = np.asarray(grid.spacing_cm[:2]), grid.lower_cm[:2]
    placed = [[(polygon - corner) / spacing for polygon in polygons] for polygons in planes]  # in pixels of the grid
    upright = np.concatenate([polygon[:, 1] for polygons in placed for polygon in polygons])
    lowest, highest = int(np.floor(upright.min())), int(np.ceil(upright.max()))
    top, bottom, apart = max(lowest, 0), min(highest, grid.shape[1]), highest - lowest
    height = bottom - top
    nothing = np.zeros((len(planes), 0, 0)), (0, 0)
    if height <= 0:
        return nothing
    starts = apart * np.arange(len(planes)) - lowest  # rows of the tall picture where the grid's first one is
    above = [
        np.column_stack([polygon[:, 0], polygon[:, 1] + start])
        for polygons, start in zip(placed, starts, strict=True)
        for polygon in polygons
    ]
    p = _boundary(above, (starts[:, None] + np.arange(top, bottom + 1.0)).ravel())
    middle = ((p.y0 + p.y1) / 2).astype(np.intp)
    plane = middle // apart
    row = middle - starts[plane] - top
    # Pieces right of the grid cover none of it; pieces left of it cover all that its left face does.
    inside = (row >= 0) & (row < height)
    seen = inside & (np.minimum(p.x0, p.x1) < grid.shape[2])
    x0, x1, y0, y1, sign = p.x0[seen], p.x1[seen], p.y0[seen], p.y1[seen], p.sign[seen]
    row = (plane * height + row)[seen]
    is_left = np.maximum(x0, x1) <= 0
    x0, x1 = np.where(is_left, 0.0, x0), np.where(is_left, 0.0, x1)
    if not len(x0):
        return nothing
    low, high = np.minimum(x0, x1), np.maximum(x0, x1)
    start = int(np.floor(low.min()))
    low, high = low - start, high - start
    last = int(np.ceil(high.max())) if np.all(seen == inside) else max(int(np.ceil(high.max())), grid.shape[2] - start)
    shape = (len(planes) * height, last + 2)
    step_up = y1 - y0
    first = np.floor(low).astype(np.intp)
    count = np.maximum(np.ceil(high).astype(np.intp) - first, 1)
    piece = np.repeat(np.arange(len(row)), count)
    step = np.arange(len(piece)) - np.repeat(np.cumsum(count) - count, count)
    column = first[piece] + step
    # Area to the right of the piece and to the left of the pixel's right face; from pixel to pixel its rise is the
    # cover.
    reach = np.clip(column + 1 - low[piece], 0.0, (high - low)[piece])
    width = np.where(high > low, high - low, 1.0)[piece]
    beyond = np.maximum(column + 1 - high[piece], 0.0)
    total = step_up[piece] * (reach**2 / (2 * width) + beyond)
    before = np.where(step == 0, 0.0, np.roll(total, 1))
    cover = total - before
    is_last = step == count[piece] - 1
    flat = row[piece] * shape[1] + column
    sign = sign[piece]
    # Stored as differences along the row: a running sum fills everything to the right.
    size = shape[0] * shape[1]
    rise = np.bincount(flat, sign * cover, size)
    inner = ~is_last
    rise += np.bincount(flat[inner] + 1, -(sign * cover)[inner], size)
    rise += np.bincount(flat[is_last] + 1, (sign * (step_up[piece] - cover))[is_last], size)
    area: Array = np.cumsum(rise.reshape(shape), axis=1, dtype=np.float64)
    area[area < _ROUNDING] = 0.0
    area[area > 1 - _ROUNDING] = 1.0
    side, end = max(start, 0), min(start + shape[1], grid.shape[2])
    return area.reshape(len(planes), height, shape[1])[:, :, side - start : max(end, side) - start], (top, side)
