"""Regions whose matter is not that of the CT number: density overrides, named materials, couch and bolus."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from spinedose.assignments import Assignment, grown
from spinedose.errors import InvalidInput
from spinedose.grid import Grid, Volume
from spinedose.hu_curve import HuCurve
from spinedose.structures import Structure, StructureSet, bounds_cm, mask

OUTSIDE_TYPES = ("SUPPORT", "FIXATION", "BOLUS")
"""Interpreted types of structures that count outside the body too (DICOM PS3.3, C.8.8.8.1)."""

SMALLEST_VOLUME_CM3 = 0.001
"""Below this volume, about that of one CT voxel, noise is not worth a warning."""

METAL_G_CM3 = 3.0
"""Denser matter is metal: tooth enamel, the densest tissue, has 2.9 to 3.0 g/cm3 (ICRU Report 46)."""

HEAVY_METAL_G_CM3 = 6.0
"""From here on metal without a name counts as cobalt-chrome, below as titanium: about the middle of their densities."""

Part = tuple[slice, slice, slice]
Box = tuple[slice, slice]


@dataclass(frozen=True, slots=True, eq=False)
class Patch:
    """A region that changes the matter of the CT.

    Parameters
    ----------
    name : str
        The structure's name, or the threshold.
    kind : str
        `"outline"` (EXTERNAL), `"threshold"`, `"rim"` (what shrinking took off a threshold) or `"structure"`.
    part : tuple of 3 slices
        The box of CT voxels around it.
    share : ndarray, shape of the box, float32
        Fraction of each voxel that it covers.
    densities : (float, float) or None
        Mass density [g/cm^3] and relative electron density; None keeps the CT's matter there although it lies
        outside the body.
    material : str
        Name of its material; empty where it is tissue or the like, whose composition follows from the densities.
    is_inside_only : bool
        Whether it counts inside the body only.
    """

    name: str
    kind: Literal["outline", "threshold", "rim", "structure"]
    part: Part
    share: NDArray[np.float32]
    densities: tuple[float, float] | None
    material: str = ""
    is_inside_only: bool = True

    @property
    def size(self) -> float:
        """Number of CT voxels that it covers."""
        return float(self.share.sum(dtype=np.float64))

    def on_slice(self, k: int, rows: slice, columns: slice) -> tuple[Box, NDArray[np.float32]] | None:
        """Where it lies in the given rows and columns of CT slice k, and its shares there; None if it does not."""
        if not self.part[0].start <= k < self.part[0].stop:
            return None
        (top, bottom), (left, right) = (
            (max(own.start, cut.start), min(own.stop, cut.stop))
            for own, cut in zip(self.part[1:], (rows, columns), strict=True)
        )
        if top >= bottom or left >= right:
            return None
        own_rows, own_columns = self.part[1].start, self.part[2].start
        share = self.share[k - self.part[0].start]
        share = share[top - own_rows : bottom - own_rows, left - own_columns : right - own_columns]
        return (slice(top - rows.start, bottom - rows.start), slice(left - columns.start, right - columns.start)), share


def share_of(structure: Structure, grid: Grid) -> tuple[Part, NDArray[np.float32]]:
    """The box of voxels around a structure, and the fraction of each that it covers; empty if it lies elsewhere."""
    low, high = (grid.indices_of(corner) for corner in bounds_cm(structure))
    first = np.clip(np.floor(low + 0.5), 0, grid.shape).astype(int)
    last = np.clip(np.ceil(high + 0.5), 0, grid.shape).astype(int)
    part = tuple(slice(int(a), int(b)) for a, b in zip(first, last, strict=True))
    assert len(part) == 3
    if (last <= first).any():
        return part, np.zeros(tuple(np.maximum(last - first, 0)), dtype=np.float32)
    box = grid.box(tuple(first), tuple(last))
    return part, mask(structure, box).values


def extent(values: NDArray[np.bool_]) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Smallest index box (low, high), both (z, y, x), that holds every true voxel; high is one past the last."""
    low, high = [], []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        found = np.flatnonzero(values.any(axis=others))
        low.append(int(found[0]))
        high.append(int(found[-1]) + 1)
    return (low[0], low[1], low[2]), (high[0], high[1], high[2])


def has_override(structure: Structure) -> bool:
    """Whether the planner gave a structure a density."""
    return structure.relative_mass_density is not None or structure.relative_electron_density is not None


def matter_outside(structures: StructureSet | None, assignments: Sequence[Assignment] = ()) -> list[Structure]:
    """Structures whose matter counts outside the body: couch with a density, fixation, bolus."""
    drawn = [s for s in structures.structures if s.contours_cm] if structures is not None else []
    named = {assignment.structure for assignment in assignments}
    return [
        s
        for s in drawn
        if s.type in OUTSIDE_TYPES and (s.type != "SUPPORT" or has_override(s) or (s.name and s.name in named))
    ]


def find_patches(
    hu: Volume,
    inside: Volume,
    curve: HuCurve,
    structures: StructureSet | None,
    assignments: Sequence[Assignment] = (),
) -> tuple[list[Patch], list[str]]:
    """What structures and assignments change, in the order in which it counts: later patches win.

    First the outline, then thresholds as they were given, then structures with a density from the largest to the
    smallest, then structures with a named material, likewise.

    Parameters
    ----------
    hu : Volume
        CT numbers [HU].
    inside : Volume
        True inside the body, on the grid of the CT.
    curve : HuCurve
        Completes densities of which the planner gave only one.
    structures : StructureSet or None
        Structures with densities.
    assignments : sequence of Assignment
        Named materials.

    Returns
    -------
    patches : list of Patch
    warnings : list of str
        What the reader of a result must know.

    Raises
    ------
    InvalidInput
        If a material is assigned to a structure that is not there, or twice.
    """
    named = _by_structure(assignments, structures)
    thresholds, warnings = _thresholds(hu, inside, assignments)
    outlines: list[Patch] = []
    planned: list[Patch] = []
    assigned: list[Patch] = []
    outside = matter_outside(structures, assignments)
    for structure in structures.structures if structures is not None else ():
        if not structure.contours_cm:
            continue
        patch, notes = _patch_of(structure, named.get(structure.name), hu.grid, curve, structure in outside)
        warnings += notes
        if patch is None:
            continue
        goes_to = outlines if patch.kind == "outline" else assigned if structure.name in named else planned
        goes_to.append(patch)
    for group in (outlines, planned, assigned):
        group.sort(key=lambda patch: -patch.size)
    return [*outlines, *thresholds, *planned, *assigned], warnings + _overlaps([*planned, *assigned], hu.grid)


def _by_structure(assignments: Sequence[Assignment], structures: StructureSet | None) -> dict[str, Assignment]:
    """Assignments by the name of their structure; refuses those that cannot be used."""
    found: dict[str, Assignment] = {}
    for assignment in assignments:
        name = assignment.structure
        if not name:
            continue
        if structures is None:
            raise InvalidInput(
                f"'{name}' was said to be of '{assignment.material}', but there are no structures",
                "nobody knows where it is",
                "Give the structure set",
                argument="structures",
            )
        if name in found:
            raise InvalidInput(f"'{name}' was given two materials", "it can have one")
        if not structures[name].contours_cm:
            raise InvalidInput(f"'{name}' was given a material, but has no contours", "nobody knows where it is")
        found[name] = assignment
    return found


def _patch_of(
    structure: Structure, assignment: Assignment | None, grid: Grid, curve: HuCurve, is_outside: bool
) -> tuple[Patch | None, list[str]]:
    """The patch of a structure, if it changes anything, and warnings."""
    name = f"{structure.type} structure '{structure.name}'".strip()
    kind: Literal["outline", "structure"] = "outline" if structure.type == "EXTERNAL" else "structure"
    if assignment is None and not has_override(structure):
        if structure.type == "SUPPORT":
            return None, [f"The {name} has no density: outside the body it is computed as air."]
        if structure.type not in OUTSIDE_TYPES:
            return None, []
        patch = Patch(structure.name, kind, *share_of(structure, grid), None, is_inside_only=False)
        return patch, [f"The {name} has no density: the CT's matter is kept there."]
    warnings = []
    if assignment is not None:
        densities, material = assignment.densities, assignment.made_of.name
        part, share = _grown_share(structure, grid, assignment.grow_cm)
        if has_override(structure):
            warnings.append(f"The density of '{structure.name}' in the plan gives way to '{material}'.")
    else:
        mass, electron, note = curve.complete(structure)
        warnings += [note] if note else []
        densities, material = (mass, electron), metal_by_density(mass)
        part, share = share_of(structure, grid)
        if material:
            warnings.append(
                f"'{structure.name}' has the density of a metal ({mass:.3g} g/cm3) without its name: beams are"
                f" attenuated in it as in {material} of that density."
            )
    low, high = bounds_cm(structure)
    beyond = max((grid.lower_cm - low).max(), (high - grid.upper_cm).max())
    if beyond > max(grid.spacing_cm):
        warnings.append(f"The {name} reaches {beyond:.1f} cm beyond the CT; its density does not count there.")
    return Patch(structure.name, kind, part, share, densities, material, not is_outside), warnings


def metal_by_density(mass_density: float) -> str:
    """What a metal is taken for when only its mass density [g/cm^3] is known; empty for what is no metal."""
    if mass_density <= METAL_G_CM3:
        return ""
    return "titanium" if mass_density < HEAVY_METAL_G_CM3 else "cobalt-chrome"


def _grown_share(structure: Structure, grid: Grid, grow_cm: float) -> tuple[Part, NDArray[np.float32]]:
    """As `share_of`, with the surface moved; then voxels count wholly or not at all, from one half on."""
    part, share = share_of(structure, grid)
    if not grow_cm or not share.any():
        return part, share
    wide = _widened(part, grid, max(grow_cm, 0.0))
    region = np.zeros([cut.stop - cut.start for cut in wide], dtype=bool)
    region[tuple(slice(c.start - w.start, c.stop - w.start) for c, w in zip(part, wide, strict=True))] = share >= 0.5
    return wide, grown(region, grid.spacing_cm, grow_cm).astype(np.float32)


def _widened(part: Part, grid: Grid, margin_cm: float) -> Part:
    """A box of voxels with a margin on all sides, as far as the grid reaches."""
    steps = [int(np.ceil(margin_cm / step)) + 1 for step in grid.spacing_cm[::-1]]
    z, y, x = (
        slice(max(cut.start - step, 0), min(cut.stop + step, n))
        for cut, step, n in zip(part, steps, grid.shape, strict=True)
    )
    return z, y, x


def _thresholds(hu: Volume, inside: Volume, assignments: Sequence[Assignment]) -> tuple[list[Patch], list[str]]:
    """Patches of the assignments by CT number."""
    patches: list[Patch] = []
    warnings = []
    for assignment in assignments:
        if assignment.above_hu is None:
            continue
        name, region = assignment.made_of.name, f"above {assignment.above_hu:g} HU"
        found = [part for part in _above(hu, inside, assignment) if part.share.any()]
        patches += found
        metal = sum(patch.size for patch in found if patch.kind == "threshold") * hu.grid.voxel_volume_cm3
        rim = sum(patch.size for patch in found if patch.kind == "rim") * hu.grid.voxel_volume_cm3
        if not metal:
            warnings.append(f"Nothing of the body was taken as '{name}' {region}.")
            continue
        moved = f", surface moved by {10 * assignment.grow_cm:g} mm" if assignment.grow_cm else ""
        if 0 < abs(assignment.grow_cm) < min(hu.grid.spacing_cm) / 2:
            moved = f"; {10 * abs(assignment.grow_cm):g} mm are less than half a CT voxel and did not move its surface"
        left = f" {rim:.3g} cm3 that this took off became water." if rim else ""
        warnings.append(f"{metal:.3g} cm3 {region} were taken as '{name}'{moved}.{left}")
    return patches, warnings


def _above(hu: Volume, inside: Volume, assignment: Assignment) -> list[Patch]:
    """The patch of a threshold, and that of the rim which shrinking leaves as water."""
    assert assignment.above_hu is not None, "the caller asks for thresholds only"
    above = (hu.values > assignment.above_hu) & inside.values
    if not above.any():
        return []
    low, high = extent(above)
    z, y, x = (slice(a, b) for a, b in zip(low, high, strict=True))
    part = _widened((z, y, x), hu.grid, max(assignment.grow_cm, 0.0))
    region = above[part]
    moved = grown(region, hu.grid.spacing_cm, assignment.grow_cm) & inside.values[part]

    def patch(kind: Literal["threshold", "rim"], where: NDArray[np.bool_], rho: tuple[float, float], of: str) -> Patch:
        return Patch(assignment.region, kind, part, where.astype(np.float32), rho, of)

    rim = patch("rim", region & ~moved, (1.0, 1.0), "")
    return [rim, patch("threshold", moved, assignment.densities, assignment.made_of.name)]


def _overlaps(patches: Sequence[Patch], grid: Grid) -> list[str]:
    """Warnings for structures of different density that share a volume; patches in the order in which they count.

    Parts of a couch may: a core is drawn inside its shell.
    """
    warnings = []
    for below, above in combinations(patches, 2):
        if below.densities == above.densities or above.densities is None or below.densities is None:
            continue
        if not (below.is_inside_only or above.is_inside_only):
            continue
        common = _common_cm3(below, above, grid)
        if common > SMALLEST_VOLUME_CM3:
            reason = "the smaller one" if below.size >= above.size else "which has a named material"
            warnings.append(
                f"The density overrides of '{below.name}' and '{above.name}' overlap in {common:.3g} cm3; there"
                f" '{above.name}' counts, {reason}."
            )
    return warnings


def _common_cm3(one: Patch, other: Patch, grid: Grid) -> float:
    """Volume that two patches share at least [cm^3]."""
    low = [max(a.start, b.start) for a, b in zip(one.part, other.part, strict=True)]
    high = [min(a.stop, b.stop) for a, b in zip(one.part, other.part, strict=True)]
    if any(a >= b for a, b in zip(low, high, strict=True)):
        return 0.0
    first, second = (
        patch.share[tuple(slice(a - p.start, b - p.start) for a, b, p in zip(low, high, patch.part, strict=True))]
        for patch in (one, other)
    )
    return float(np.minimum(first, second).sum(dtype=np.float64)) * grid.voxel_volume_cm3
