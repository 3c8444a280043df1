"""The solid that a structure's contours stand for, cut into layers so thin that a histogram can be made of them.

The equations are in docs/theory/dvh.md. In the contour planes the outline is exact (`spinedose.structures.mask`).
Between two planes the shape is interpolated by signed distance (Raya and Udupa 1990), and the size by a parabola
through the areas of the neighbouring planes, so that spheres, cones and cylinders come out as what they are. Beyond the
first and the last plane the solid goes on for half a slice, or to a point where its area shrinks to nothing before the
next plane. Planes further apart than `GAP_FACTOR` contour spacings are not joined, as in `spinedose.structures`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numba import njit
from numpy.typing import NDArray

from spinedose.errors import InvalidInput
from spinedose.grid import Grid
from spinedose.structures import GAP_FACTOR, PLANE_TOLERANCE_CM, Structure, mask

Array = NDArray[np.float64]
Between = Literal["interpolated", "prisms"]
Ends = Literal["tapered", "flat", "none"]
Outlines = tuple[int, ...]
"""Numbers of connected outlines in one plane."""

MOST_CELLS = 40_000_000
"""Cells of all planes of one part together; beyond it they are made larger, so that memory stays below 0.5 GB."""

TREND = 0.25
"""Largest change of area in a half slice that ends flat: there the trend is followed, but not far."""

VANISHING = 0.05
"""A parabola whose least area is below this share of the last plane's counts as reaching zero: that of a cone only
touches zero, and rounding decides on which side."""

SPECK = 1e-6
"""Smaller shares of a cell are rounding."""

FAR = 1e9
"""Distance of what is nowhere [cells]."""

LARGEST_SHIFT = 0.5
"""How far the outline of a layer may be moved to give it its area, as a share of the distance of the planes. Cones and
the caps of spheres need up to 0.4, where planes are far apart."""

MARGIN = 0.15
"""Room left around an outline, as a share of its width, for layers that are larger than their planes."""


@dataclass(frozen=True, slots=True)
class Convention:
    """How contours become a solid.

    Parameters
    ----------
    between : str
        `"interpolated"` (shape and size change steadily from plane to plane) or `"prisms"` (every plane is a slab that
        reaches half way to its neighbours).
    ends : str
        Beyond the first and last plane: `"tapered"` (half a slice, or to a point where the area, followed along its
        trend, vanishes before the next plane), `"flat"` (half a slice of the last outline) or `"none"` (the solid
        ends in the plane itself).
    """

    between: Between = "interpolated"
    ends: Ends = "tapered"

    def __post_init__(self) -> None:
        if self.between not in ("interpolated", "prisms"):
            raise InvalidInput(f"'{self.between}' does not say what lies between contours", "interpolated or prisms")
        if self.ends not in ("tapered", "flat", "none"):
            raise InvalidInput(f"'{self.ends}' does not say how a structure ends", "tapered, flat or none")


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """A thin slice of the solid.

    Parameters
    ----------
    low_cm, high_cm : float
        Its faces along z [cm].
    corner_cm : tuple of 2 floats
        Centre (x, y) of the first cell [cm].
    cell_cm : float
        Side of the square cells [cm].
    distance_cm : ndarray, shape (ny, nx)
        Signed distance to the outline, positive inside [cm]. A cell belongs to the solid by the share
        `clip(1/2 + distance / cell)`.
    """

    low_cm: float
    high_cm: float
    corner_cm: tuple[float, float]
    cell_cm: float
    distance_cm: Array

    @property
    def share(self) -> Array:
        """Share of every cell that lies in the solid, 0 to 1."""
        share: Array = np.clip(0.5 + self.distance_cm / self.cell_cm, 0.0, 1.0)
        return share

    @property
    def volume_cm3(self) -> float:
        """Volume of the layer [cm^3]."""
        return float(self.share.sum()) * self.cell_cm**2 * (self.high_cm - self.low_cm)


def cut(structure: Structure, cell_cm: float, convention: Convention | None = None) -> Iterator[Layer]:
    """Cut the solid of a structure into layers no thicker than a cell.

    Parameters
    ----------
    structure : Structure
        The region.
    cell_cm : float
        Side of the cells [cm].
    convention : Convention, optional
        How contours become a solid; interpolated and tapered when not given.

    Yields
    ------
    Layer
        In no particular order; together they are the solid, without overlap.

    Raises
    ------
    InvalidInput
        If the structure lies in one plane and its contour spacing is not known.
    """
    convention = convention or Convention()
    for part in _parts(structure, cell_cm):
        spans = _prisms(part, convention) if convention.between == "prisms" else _interpolated(part, convention)
        for span in spans:
            yield from _layers(span, part)


def width_cm(structure: Structure) -> float:
    """Mean width of the outlines: twice the area over the perimeter [cm]; the radius of a disc."""
    contours = [contour[:, :2] for contour in structure.contours_cm]
    if not contours:
        return 0.0
    here = np.concatenate(contours)
    following = np.concatenate([part for contour in contours for part in (contour[1:], contour[:1])])
    starts = np.cumsum([0, *map(len, contours[:-1])])
    crossed = here[:, 0] * following[:, 1] - following[:, 0] * here[:, 1]
    area = float(np.abs(np.add.reduceat(crossed, starts)).sum()) / 2
    perimeter = float(np.hypot(*(following - here).T).sum())
    return 2 * area / perimeter if perimeter > 0 else 0.0


# --- contour planes ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """Planes that belong together: `n` of them, with the share of every cell that lies inside."""

    heights: list[float]  # rising [cm]
    gap_cm: float  # to the empty planes below and above
    corner_cm: tuple[float, float]  # centre of the first cell
    cell_cm: float
    share: NDArray[np.float32]  # (n, ny, nx)


def _parts(structure: Structure, cell_cm: float) -> Iterator[_Part]:
    heights, planes = _planes(structure)
    if not heights:
        return
    gap = structure.contour_spacing_cm or (float(np.median(np.diff(heights))) if len(heights) > 1 else 0.0)
    if gap <= 0:
        raise InvalidInput(
            f"Structure '{structure.name}' lies in one plane and its slice spacing is not known",
            "a plane has no volume",
            "Draw it on more slices",
        )
    breaks = [k + 1 for k, (low, high) in enumerate(pairwise(heights)) if high - low > GAP_FACTOR * gap]
    for first, last in pairwise([0, *breaks, len(heights)]):
        yield _part(heights[first:last], planes[first:last], gap, cell_cm)


def _planes(structure: Structure) -> tuple[list[float], list[list[Array]]]:
    """Heights of the contour planes [cm], rising, and the outlines (k, 2) in each."""
    heights: list[float] = []
    planes: list[list[Array]] = []
    for contour in sorted(structure.contours_cm, key=lambda contour: float(contour[:, 2].mean())):
        height = float(contour[:, 2].mean())
        if not heights or height - heights[-1] > PLANE_TOLERANCE_CM:
            heights.append(height)
            planes.append([])
        planes[-1].append(contour[:, :2])
    return heights, planes


def _part(heights: list[float], planes: list[list[Array]], gap: float, cell: float) -> _Part:
    """Rasterise planes: they are numbered, and a structure of slabs 1 cm thick is laid on a grid of such slabs."""
    points = np.concatenate([outline for plane in planes for outline in plane])
    middle, extent = (points.max(axis=0) + points.min(axis=0)) / 2, np.ptp(points, axis=0)
    cell = max(cell, math.sqrt(float(np.prod(extent)) * len(planes) / MOST_CELLS))
    nx, ny = (int(n) for n in np.ceil(extent / cell) + 2)
    corner = (float(middle[0] - (nx - 1) / 2 * cell), float(middle[1] - (ny - 1) / 2 * cell))
    numbered = Structure(
        0,
        "numbered",
        contours_cm=tuple(np.column_stack([o, np.full(len(o), float(k))]) for k, p in enumerate(planes) for o in p),
        contour_spacing_cm=1.0,
    )
    grid = Grid((*corner, 0.0), (cell, cell, 1.0), (len(planes), ny, nx))
    return _Part(heights, gap, corner, cell, mask(numbered, grid).values)


# --- spans: from one plane to the next, or to the end -----------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Span:
    """A stretch of the solid that starts in a plane."""

    from_cm: float  # height of the plane
    toward: int  # +1 up, -1 down
    length_cm: float
    near: NDArray[np.float32]  # shares in the plane, cropped
    far: NDArray[np.float32] | None  # shares in the plane where it ends; None when it ends without one
    corner: tuple[int, int]  # row and column of the crop
    area: tuple[float, float, float]  # a0 + a1 s + a2 s^2 at the distance s from the plane [cm^2]
    limits: tuple[float, float]  # between which the area is kept [cm^2]

    def area_at(self, distance_cm: float) -> float:
        a0, a1, a2 = self.area
        return min(max(a0 + distance_cm * (a1 + distance_cm * a2), self.limits[0]), self.limits[1])


def _prisms(part: _Part, convention: Convention) -> Iterator[_Span]:
    """Every plane reaches half way to its neighbours."""
    n = len(part.heights)
    for k in range(n):
        area = float(part.share[k].sum(dtype=np.float64)) * part.cell_cm**2
        for other, toward in ((k - 1, -1), (k + 1, 1)):
            is_end = not 0 <= other < n
            if is_end and convention.ends == "none":
                continue
            gap = part.gap_cm if is_end else abs(part.heights[other] - part.heights[k])
            yield _Span(part.heights[k], toward, gap / 2, part.share[k], None, (0, 0), (area, 0.0, 0.0), (area, area))


def _interpolated(part: _Part, convention: Convention) -> Iterator[_Span]:
    """Shapes that change from plane to plane; outlines that find no partner in the next plane end."""
    stack = _Stack.of(part)
    n = len(part.heights)
    for k in range(n):
        if k + 1 < n:
            for below, above in stack.links[k]:
                if below and above:
                    yield stack.bridge(k, below, above)
        for other, toward in ((k - 1, -1), (k + 1, 1)):
            is_end = not 0 <= other < n
            if is_end and convention.ends == "none":
                continue
            gap = part.gap_cm if is_end else abs(part.heights[other] - part.heights[k])
            for outline in stack.without_partner(k, toward):
                yield stack.cap(k, outline, toward, gap, convention.ends == "flat")


@dataclass(frozen=True, slots=True, eq=False)
class _Stack:
    """The connected outlines of every plane of a part, and which of them overlap from plane to plane."""

    part: _Part
    labels: list[NDArray[np.int32]]  # for each plane the outline of every cell, from 1; 0 outside
    areas: list[Array]  # for each plane the area of each outline [cm^2]; the first belongs to the outside
    links: list[list[tuple[Outlines, Outlines]]]  # for each gap the groups (below, above) of overlapping outlines

    @classmethod
    def of(cls, part: _Part) -> _Stack:
        from scipy import ndimage

        labels, areas = [], []
        for share in part.share:
            label, count = ndimage.label(share > SPECK, structure=np.ones((3, 3), dtype=int))
            labels.append(label)
            cells = np.bincount(label.ravel(), share.ravel(), count + 1)
            areas.append(cells.astype(np.float64) * part.cell_cm**2)
        sizes = [len(area) for area in areas]
        links = [_linked(*pair, *size) for pair, size in zip(pairwise(labels), pairwise(sizes), strict=True)]
        return cls(part, labels, areas, links)

    def without_partner(self, plane: int, toward: int) -> Outlines:
        """Outlines of a plane that nothing overlaps in the next plane up (1) or down (-1)."""
        gap = plane if toward > 0 else plane - 1
        if not 0 <= gap < len(self.links):
            return tuple(range(1, len(self.areas[plane])))
        mine, other = (0, 1) if toward > 0 else (1, 0)
        return tuple(outline for group in self.links[gap] if not group[other] for outline in group[mine])

    def partner(self, plane: int, outline: int, toward: int) -> int:
        """The one outline above (1) or below (-1) that overlaps this one and no other; 0 for none."""
        gap = plane if toward > 0 else plane - 1
        if not 0 <= gap < len(self.links):
            return 0
        mine, other = (0, 1) if toward > 0 else (1, 0)
        for group in self.links[gap]:
            if group[mine] == (outline,) and len(group[other]) == 1:
                return group[other][0]
        return 0

    def bend(self, plane: int, outline: int) -> float:
        """Second derivative of the area along z at an outline that goes on both ways; NaN where it does not."""
        below, above = self.partner(plane, outline, -1), self.partner(plane, outline, 1)
        if not (below and above):
            return math.nan
        z = self.part.heights
        down, up = z[plane] - z[plane - 1], z[plane + 1] - z[plane]
        area = self.areas[plane][outline]
        fall = (area - self.areas[plane - 1][below]) / down
        rise = (self.areas[plane + 1][above] - area) / up
        return float(2 * (rise - fall) / (up + down))

    def bridge(self, plane: int, below: Outlines, above: Outlines) -> _Span:
        """From outlines of a plane to those of the next."""
        height = self.part.heights[plane + 1] - self.part.heights[plane]
        first, last = (float(self.areas[k][list(o)].sum()) for k, o in ((plane, below), (plane + 1, above)))
        bend = 0.0
        if len(below) == len(above) == 1:
            bend = _least(self.bend(plane, below[0]), self.bend(plane + 1, above[0]))
        near, far, corner = self._crop((plane, below), (plane + 1, above))
        area = (first, (last - first) / height - bend * height / 2, bend / 2)
        limits = (min(first, last) / 2, math.inf)
        return _Span(self.part.heights[plane], 1, height, near, far, corner, area, limits)

    def cap(self, plane: int, outline: int, toward: int, gap: float, is_flat: bool) -> _Span:
        """From an outline that finds no partner to the end of the solid."""
        last = float(self.areas[plane][outline])
        slope = bend = 0.0
        previous = 0 if is_flat else self.partner(plane, outline, -toward)
        if previous:
            before = plane - toward
            step = abs(self.part.heights[plane] - self.part.heights[before])
            bend = _least(self.bend(before, previous), math.nan)
            slope = (last - float(self.areas[before][previous])) / step + bend * step / 2
        end = _vanishing(last, slope, bend, gap)
        if end < math.inf:
            length, limits = end, (0.0, last)
        else:
            length, limits = gap / 2, ((1 - TREND) * last, (1 + TREND) * last)
        near, _, corner = self._crop((plane, (outline,)))
        return _Span(self.part.heights[plane], toward, length, near, None, corner, (last, slope, bend / 2), limits)

    def _crop(self, *chosen: tuple[int, Outlines]) -> tuple[NDArray[np.float32], NDArray[np.float32], tuple[int, int]]:
        """Shares of some outlines in one or two planes, with room around them."""
        masks = [np.logical_or.reduce([self.labels[plane] == one for one in outlines]) for plane, outlines in chosen]
        rows, columns = (np.flatnonzero(np.logical_or.reduce(masks).any(axis=axis)) for axis in (1, 0))
        spans = []
        for line, size in ((rows, masks[0].shape[0]), (columns, masks[0].shape[1])):
            room = 4 + int(MARGIN * (line[-1] - line[0]))
            spans.append((int(line[0]) - room, int(line[-1]) + 1 + room, size))
        inside = tuple(slice(max(a, 0), min(b, n)) for a, b, n in spans)
        around = tuple((max(-a, 0), max(b - n, 0)) for a, b, n in spans)
        cropped = [
            np.pad(np.where(m[inside], self.part.share[plane][inside], np.float32(0)), around)
            for m, (plane, _) in zip(masks, chosen, strict=True)
        ]
        return cropped[0], cropped[-1], (spans[0][0], spans[1][0])


def _linked(
    low: NDArray[np.int32], high: NDArray[np.int32], n_low: int, n_high: int
) -> list[tuple[Outlines, Outlines]]:
    """Groups of outlines in two planes that overlap, directly or by way of others."""
    both = (low > 0) & (high > 0)
    pairs = np.flatnonzero(np.bincount(low[both] * n_high + high[both]))
    owner = list(range(n_low + n_high))  # outlines of the upper plane follow those of the lower

    def find(item: int) -> int:
        while owner[item] != item:
            item = owner[item]
        return item

    for below, above in (divmod(int(pair), n_high) for pair in pairs):
        owner[find(below)] = find(n_low + above)
    groups: dict[int, tuple[list[int], list[int]]] = {}
    for item in (*range(1, n_low), *range(n_low + 1, n_low + n_high)):
        group = groups.setdefault(find(item), ([], []))
        group[item >= n_low].append(item if item < n_low else item - n_low)
    return [(tuple(below), tuple(above)) for below, above in groups.values()]


def _least(one: float, other: float) -> float:
    """The smaller of two bends of one sign, 0 for two of opposite signs; NaN stands for not known."""
    known = [bend for bend in (one, other) if not math.isnan(bend)]
    if not known or min(known) < 0 < max(known):
        return 0.0
    return min(known, key=abs)


def _vanishing(area: float, slope: float, bend: float, gap: float) -> float:
    """Distance at which a shrinking `area + slope s + bend s^2 / 2` is gone [cm]; infinite when not before the gap."""
    if slope >= 0:
        return math.inf
    inside = slope**2 - 2 * bend * area
    if bend > 0 and inside < 0 and area - slope**2 / (2 * bend) <= VANISHING * area:
        inside = 0.0
    end = 2 * area / (math.sqrt(inside) - slope) if inside >= 0 else math.inf
    if end > gap and area + gap * (slope + bend * gap / 2) <= VANISHING * area:
        return gap
    return end if end <= gap else math.inf


# --- layers -----------------------------------------------------------------------------------------------------------


def _layers(span: _Span, part: _Part) -> Iterator[Layer]:
    """Cut a span into layers; the outline of each is the level of the distance field that encloses its area."""
    cell = part.cell_cm
    corner = (part.corner_cm[0] + span.corner[1] * cell, part.corner_cm[1] + span.corner[0] * cell)
    count = max(math.ceil(span.length_cm / cell - 1e-9), 1)
    step = span.length_cm / count
    stays = span.far is None and span.limits[0] == span.limits[1]
    near, far = _fields(span, cell, stays)
    for k in range(count):
        first, last = k * step, (k + 1) * step
        middle = (first + last) / 2
        field = near + middle / span.length_cm * (far - near)
        if not stays:
            # Simpson's rule: exact for a parabola
            area = (span.area_at(first) + 4 * span.area_at(middle) + span.area_at(last)) / 6
            field = field - _level(field, cell, area / cell**2)
        faces = sorted((span.from_cm + span.toward * first, span.from_cm + span.toward * last))
        yield Layer(faces[0], faces[1], corner, cell, field)


def _fields(span: _Span, cell: float, stays: bool) -> tuple[Array, Array]:
    """Fields whose mixture is the outline between two planes: distances, or shares where the outline moves too far.

    Mixed distances move an outline steadily. Where a part of the outline is new (a screw beside a rod) they would
    let the old part swell instead; then both outlines are there, each by its share, as prisms would have it on average.
    """
    planes = (span.near, span.near if span.far is None else span.far)
    shares = [(share.astype(np.float64) - 0.5) * cell for share in planes]
    if stays:
        return shares[0], shares[1]
    near = _signed_distance(span.near) * cell
    if span.far is None:
        return near, near
    far = _signed_distance(span.far) * cell
    shift = _level((near + far) / 2, cell, span.area_at(span.length_cm / 2) / cell**2)
    if abs(shift) > LARGEST_SHIFT * span.length_cm:
        return shares[0], shares[1]
    return near, far


@njit(cache=True)  # type: ignore[untyped-decorator]
def _level(field: Array, cell: float, wanted: float) -> float:
    """Level of a distance field above which lie `wanted` cells; Newton's rule, kept between what is too low and high.

    Parameters
    ----------
    field : float64 (ny, nx)
        Signed distances [cm].
    cell : float
        Side of a cell [cm].
    wanted : float
        Area to enclose [cells].
    """
    low, high = field.min() - cell, field.max() + cell
    level = 0.0
    for _ in range(60):
        enclosed, crossed = 0.0, 0
        for value in field.ravel():
            share = 0.5 + (value - level) / cell
            if share >= 1.0:
                enclosed += 1.0
            elif share > 0.0:
                enclosed += share
                crossed += 1
        miss = enclosed - wanted
        if abs(miss) <= 1e-9 * (1.0 + wanted):
            break
        if miss > 0.0:
            low = level
        else:
            high = level
        level = level + miss * cell / crossed if crossed > 0 else 0.5 * (low + high)
        if not low < level < high:
            level = 0.5 * (low + high)
    return level


@njit(cache=True)  # type: ignore[untyped-decorator]
def _signed_distance(share: NDArray[np.float32]) -> Array:
    """Distance of every cell from the outline of a raster of shares [cells], positive inside.

    A cell that the outline crosses is `share - 1/2` from it. From there the nearest point of the outline is handed on
    from cell to cell, in both directions of both axes (Danielsson 1980).
    """
    ny, nx = share.shape
    # vector to the nearest point of the outline, and its square; with a rim of cells that know of no outline
    vx, vy = np.full((ny + 2, nx + 2), FAR), np.full((ny + 2, nx + 2), FAR)
    squared = np.full((ny + 2, nx + 2), FAR)
    for j in range(ny):
        for i in range(nx):
            here = share[j, i]
            left, right = share[j, max(i - 1, 0)], share[j, min(i + 1, nx - 1)]
            up, down = share[max(j - 1, 0), i], share[min(j + 1, ny - 1), i]
            x = y = FAR
            if 0.0 < here < 1.0:
                gx, gy = right - left, down - up
                length = math.sqrt(gx * gx + gy * gy)
                x = (0.5 - here) * gx / length if length > 0.0 else 0.5 - here
                y = (0.5 - here) * gy / length if length > 0.0 else 0.0
            elif left != here and (left == 0.0 or left == 1.0):  # the outline runs along a side
                x, y = -0.5, 0.0
            elif right != here and (right == 0.0 or right == 1.0):
                x, y = 0.5, 0.0
            elif up != here and (up == 0.0 or up == 1.0):
                x, y = 0.0, -0.5
            elif down != here and (down == 0.0 or down == 1.0):
                x, y = 0.0, 0.5
            if x < FAR:
                vx[j + 1, i + 1], vy[j + 1, i + 1], squared[j + 1, i + 1] = x, y, x * x + y * y
    for j in range(1, ny + 1):
        for i in range(1, nx + 1):
            _hand_on(vx, vy, squared, j, i, -1, -1)
            _hand_on(vx, vy, squared, j, i, -1, 0)
            _hand_on(vx, vy, squared, j, i, -1, 1)
            _hand_on(vx, vy, squared, j, i, 0, -1)
        for i in range(nx, 0, -1):
            _hand_on(vx, vy, squared, j, i, 0, 1)
    for j in range(ny, 0, -1):
        for i in range(nx, 0, -1):
            _hand_on(vx, vy, squared, j, i, 1, 1)
            _hand_on(vx, vy, squared, j, i, 1, 0)
            _hand_on(vx, vy, squared, j, i, 1, -1)
            _hand_on(vx, vy, squared, j, i, 0, 1)
        for i in range(1, nx + 1):
            _hand_on(vx, vy, squared, j, i, 0, -1)
    distance = np.empty((ny, nx))
    for j in range(ny):
        for i in range(nx):
            here = share[j, i]
            if 0.0 < here < 1.0:
                distance[j, i] = here - 0.5
            else:
                apart = math.sqrt(squared[j + 1, i + 1])
                distance[j, i] = apart if here >= 0.5 else -apart
    return distance


@njit(cache=True, inline="always")  # type: ignore[untyped-decorator]
def _hand_on(vx: Array, vy: Array, squared: Array, j: int, i: int, dj: int, di: int) -> None:
    """Give a cell the outline point of a neighbour, if that is nearer."""
    x, y = vx[j + dj, i + di] + di, vy[j + dj, i + di] + dj
    apart = x * x + y * y
    if apart < squared[j, i]:
        vx[j, i], vy[j, i], squared[j, i] = x, y, apart
