"""From CT numbers to matter: mass density, relative electron density and material on the calculation grid."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spinedose._arguments import expect
from spinedose.assignments import Assignment
from spinedose.composition import METALS, Composition, bone_share, named_parts
from spinedose.errors import InvalidInput
from spinedose.geometry import PATIENT_POSITIONS
from spinedose.grid import Grid, Volume
from spinedose.hu_curve import HuCurve, list_curves, read_curve
from spinedose.identity import Identity
from spinedose.materials import Material, material
from spinedose.nearness import FAR_CM, around, distances, in_words, is_cord, targets_and_cords
from spinedose.patches import (
    HEAVY_METAL_G_CM3,
    METAL_G_CM3,
    SMALLEST_VOLUME_CM3,
    Box,
    Part,
    Patch,
    extent,
    find_patches,
    matter_outside,
    share_of,
)
from spinedose.structures import Structure, StructureSet, bounds_cm, find_external, skin_mask

if TYPE_CHECKING:
    from scipy import sparse

Array = NDArray[np.float64]

__all__ = [
    "Body",
    "CtImage",
    "DensityGrid",
    "HuCurve",
    "build_density",
    "calculation_grid",
    "find_body",
    "list_curves",
    "read_curve",
]

BODY_VOLUME_TOLERANCE, OVERRIDE_VOLUME_TOLERANCE = 0.02, 0.05
"""Relative differences from the contours' volume that need no warning. The half voxel that an outline through voxel
centres adds to a body (see `HALF`) is 2 x 0.05 / 15 = 0.7 % of one 30 cm wide in voxels of 1 mm."""

DENSE_BONE_G_CM3 = 1.6
"""Denser bone is mostly cortical (1.92 g/cm3, ICRU Report 44)."""

DENSE_NEAR_CM = 0.5
"""Dense matter nearer to the cord than this is warned about; most secondary electrons of 6 MV beams stop within it."""

ERROR_BESIDE_DENSE_MATTER = "up to 4 % within 3 mm of titanium, 3 % of bone; docs/theory/heterogeneity.md"
"""How large the error is beside dense matter, in words for a warning."""


@dataclass(frozen=True, slots=True, eq=False)
class CtImage:
    """A CT image in patient axes.

    Parameters
    ----------
    hu : Volume
        CT numbers [HU], axes sorted so that x, y and z rise.
    patient_position : str
        HFS, HFP, FFS or FFP, as scanned.
    uid, frame_of_reference_uid : str
        Series instance UID and frame of reference; empty when absent.
    saturated_voxels : int
        Voxels at the top of the stored scale, where the true CT number is unknown; they have the highest CT number.
    warnings : tuple of str
        What the reader of a result must know.
    identity : Identity
        Patient and study.
    """

    hu: Volume
    patient_position: str = "HFS"
    uid: str = ""
    frame_of_reference_uid: str = ""
    saturated_voxels: int = 0
    warnings: tuple[str, ...] = ()
    identity: Identity = field(default_factory=Identity, repr=False)

    def __repr__(self) -> str:
        return f"<CtImage {self.patient_position}: {self.hu.grid.in_words}>"

    def __post_init__(self) -> None:
        expect("What a CT holds", self.hu, Volume, "a Volume", "Make one of a Grid and an array")
        values = self.hu.values
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise InvalidInput("The CT has voxels that are not a number", "they have no density", "Export the CT again")
        if self.patient_position not in PATIENT_POSITIONS:
            raise InvalidInput(
                f"The CT has patient position '{self.patient_position}'",
                f"supported are {', '.join(PATIENT_POSITIONS)}",
            )


@dataclass(frozen=True, slots=True, eq=False)
class Body:
    """Which CT voxels are the patient.

    Parameters
    ----------
    inside : Volume
        True where at least half of a CT voxel lies inside, on the grid of the CT.
    source : str
        How it was found: `"structure 'BODY'"` or `"skin by threshold"`.
    warnings : tuple of str
        What the reader of a result must know.
    """

    inside: Volume
    source: str
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.inside.values.dtype != np.bool_:
            raise InvalidInput("A body needs yes or no for every voxel", f"it has {self.inside.values.dtype}")
        if not self.inside.values.any():
            raise InvalidInput(
                f"The body is empty ({self.source})",
                "there is nothing to compute in",
                "Check that the structure set and the CT belong together",
            )

    def box(self) -> tuple[Array, Array]:
        """Lower and upper corner (x, y, z) [cm] of the voxels inside, faces included."""
        low, high = extent(self.inside.values)
        box = self.inside.grid.box(low, high)
        return box.lower_cm, box.upper_cm


@dataclass(frozen=True, slots=True, eq=False)
class DensityGrid:
    """Matter on the calculation grid.

    Parameters
    ----------
    mass : Volume
        Mass density [g/cm^3], float32, 0 outside the body.
    electron : Volume
        Electron density relative to water, float32, on the same grid.
    material : Volume
        Place of each voxel's material in `materials`, uint8, on the same grid.
    materials : tuple of Material
        Water first: it stands for all soft tissue, lung and air. Then mixtures with bone, then named materials.
    curve : str
        Name of the density curve.
    body : str
        How the body was found.
    saturated_cm3 : float
        Volume inside the body whose CT number lies above the curve or at the top of the scale and that no structure
        overrides [cm^3].
    saturated_near : tuple of (str, float)
        Targets and cords near these voxels, and their distance [cm], the nearest first.
    dense_near : tuple of (str, str, float)
        `"metal"` or `"dense bone"`, the cord beside which it lies, and their distance [cm].
    overrides : tuple of (str, float)
        Structures and thresholds whose density was used instead of the CT's, with the volume that got it [cm^3].
    warnings : tuple of str
        What the reader of a result must know.
    """

    mass: Volume
    electron: Volume
    material: Volume
    materials: tuple[Material, ...]
    curve: str = ""
    body: str = ""
    saturated_cm3: float = 0.0
    saturated_near: tuple[tuple[str, float], ...] = ()
    dense_near: tuple[tuple[str, str, float], ...] = ()
    overrides: tuple[tuple[str, float], ...] = ()
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.mass.grid == self.electron.grid == self.material.grid:
            raise InvalidInput("Mass and electron density and materials stand on different grids")
        if self.material.values.dtype != np.uint8 or not self.material.values.max() < len(self.materials):
            raise InvalidInput("A voxel has a material that is not on the list", f"it has {len(self.materials)}")
        for volume in (self.mass, self.electron):
            if not (np.isfinite(volume.values).all() and volume.values.min() >= 0):
                raise InvalidInput("A density is negative or not a number", "there is no such matter")

    @property
    def grid(self) -> Grid:
        """The calculation grid."""
        return self.mass.grid

    @property
    def total_mass_g(self) -> float:
        """Mass of everything on the grid [g]."""
        return float(self.mass.values.sum(dtype=np.float64) * self.grid.voxel_volume_cm3)


def find_body(ct: CtImage, structures: StructureSet | None = None) -> Body:
    """Find the patient: the EXTERNAL structure, or the skin by threshold with a warning.

    Parameters
    ----------
    ct : CtImage
        The CT.
    structures : StructureSet or None
        Its structures.

    Returns
    -------
    Body
    """
    grid = ct.hu.grid
    external = find_external(structures) if structures is not None else None
    if external is None:
        inside = Volume(grid, np.asarray(skin_mask(ct.hu).values) >= 0.5)
        warning = "No EXTERNAL structure: the body was found as the skin by threshold. Check its outline."
        return Body(inside, "skin by threshold", (warning, *_cut_body(inside)))
    values = np.zeros(grid.shape, dtype=bool)
    part, share = share_of(external, grid)
    values[part] = share >= HALF
    inside = Volume(grid, values)
    warnings = list(_cut_body(inside))
    drawn, found = (float(n) * grid.voxel_volume_cm3 for n in (share.sum(dtype=np.float64), values.sum()))
    if found and abs(found - drawn) > BODY_VOLUME_TOLERANCE * drawn:
        warnings.append(
            f"The body '{external.name}' measures {found:.4g} cm3 in voxels of the CT, but {drawn:.4g} cm3 by its"
            " contours: the CT is too coarse for its outline."
        )
    low, high = bounds_cm(external)
    over = max(grid.lower_cm[2] - low[2], high[2] - grid.upper_cm[2])
    if over > grid.spacing_cm[2]:
        warnings.append(
            f"The body '{external.name}' reaches {over:.1f} cm beyond the CT along z: there is vacuum,"
            " and scatter is missing."
        )
    return Body(inside, f"structure '{external.name}'", tuple(warnings))


HALF = 0.5 - 1e-4
"""Share of a voxel from which it counts as inside; less the rounding of contours that run through voxel centres."""


def calculation_grid(
    ct: CtImage,
    *,
    spacing_cm: float,
    body: Body,
    structures: StructureSet | None = None,
    assignments: Sequence[Assignment] = (),
    margin_cm: float = 0.3,
) -> Grid:
    """Smallest grid of cubic voxels that holds the body and everything with an assigned density around it.

    Parameters
    ----------
    ct : CtImage
        The CT; voxel faces are counted from its lower corner, so that voxels of a whole multiple of its size coincide.
    spacing_cm : float
        Voxel size [cm].
    body : Body
        From `find_body`.
    structures : StructureSet or None
        Couch, fixation and bolus among them are covered too.
    assignments : sequence of Assignment
        Named materials; a couch that has one is covered.
    margin_cm : float
        Air around it [cm]; never beyond the CT.

    Returns
    -------
    Grid
    """
    if not (np.isfinite(spacing_cm) and 0 < spacing_cm <= 2.0):
        raise InvalidInput(
            f"A voxel size of {10 * spacing_cm:g} mm cannot be used",
            "it must lie between 0 and 20 mm",
            "2.5 mm is usual",
        )
    low, high = body.box()
    for structure in matter_outside(structures, assignments):
        corners = bounds_cm(structure)
        low, high = np.minimum(low, corners[0]), np.maximum(high, corners[1])
    start, end = ct.hu.grid.lower_cm, ct.hu.grid.upper_cm
    low, high = np.maximum(low - margin_cm, start), np.minimum(high + margin_cm, end)
    tiny = 1e-6  # voxels that a rounding error would add
    first = np.floor((low - start) / spacing_cm + tiny)
    count = np.maximum(np.ceil((high - start) / spacing_cm - tiny) - first, 1)
    origin = start + (first + 0.5) * spacing_cm
    return Grid(
        (float(origin[0]), float(origin[1]), float(origin[2])),
        (spacing_cm, spacing_cm, spacing_cm),
        (int(count[2]), int(count[1]), int(count[0])),
    )


def build_density(
    ct: CtImage,
    grid: Grid,
    *,
    body: Body,
    curve: HuCurve | None = None,
    structures: StructureSet | None = None,
    assignments: Sequence[Assignment] = (),
) -> DensityGrid:
    """Turn a CT into matter on the calculation grid; mass and electrons are conserved.

    CT numbers become densities on the CT's own grid, where overrides and the outline of the body are applied; then the
    exact overlap of the voxels is averaged. See docs/formats/density.md.

    Parameters
    ----------
    ct : CtImage
        The CT.
    grid : Grid
        The calculation grid.
    body : Body
        From `find_body`.
    curve : HuCurve or None
        The curve of the scanner; None takes the generic one, with a warning.
    structures : StructureSet or None
        Density overrides, couch and bolus; targets and cords, to which distances are told.
    assignments : sequence of Assignment
        Named materials by structure or CT number; they count above the plan's overrides.

    Returns
    -------
    DensityGrid

    Raises
    ------
    InvalidInput
        If a material is assigned to a structure that is not there, or twice.
    """
    curve = read_curve() if curve is None else curve
    source = ct.hu.grid
    slices, rows, columns = reach = tuple(_overlapping(source, grid, axis) for axis in range(3))
    into, across, along = (_overlap_matrix(source, grid, axis, reach[axis]) for axis in range(3))
    patches, warnings = find_patches(ct.hu, body.inside, curve, structures, assignments)
    top = float(ct.hu.values.max()) if ct.saturated_voxels else np.inf
    mass, electron = np.zeros(grid.shape), np.zeros(grid.shape)
    parts = named_parts(patches, source, grid, float(curve.mass_density[-1]))
    composition = Composition(grid, parts)
    bone_of_hu = _bone_of_hu(curve)
    near = targets_and_cords(structures)
    tally = _Tally(around([s for s in near if is_cord(s)], source, DENSE_NEAR_CM), len(patches))
    for k in range(slices.start, slices.stop):
        layer = _slice_of(ct, body, curve, bone_of_hu, top, k, rows, columns, parts)
        for number, patch in enumerate(patches):
            cut = patch.on_slice(k, rows, columns)
            if cut is not None:
                tally.covered[number] += layer.cover(patch, *cut, curve)
        tally.add(layer, k, rows.start, columns.start)
        bone = (along @ (across @ layer.bone).T).T
        named = {name: (along @ (across @ plane).T).T for name, plane in layer.named.items() if plane.any()}
        rho, rho_e = ((along @ (across @ plane).T).T for plane in (layer.mass, layer.electron))
        targets = into[:, [k - slices.start]].tocoo()
        for target, weight in zip(targets.row, targets.data, strict=True):
            mass[target] += weight * rho
            electron[target] += weight * rho_e
            composition.add(int(target), float(weight), bone, named)
    volumes = [n * source.voxel_volume_cm3 for n in tally.covered]
    warnings += _lost_overrides(patches, volumes, source)
    if curve.is_generic:
        warnings.append(f"The density curve '{curve.name}' was not measured on the CT scanner in use.")
    saturated_near = distances(tally.voxels("unknown"), source, near)
    warnings += _doubts(tally, curve, top, source, saturated_near, near)
    cords = [s for s in near if is_cord(s)]
    dense_near = tuple(
        (kind, name, distance)
        for kind, spot in (("metal", "metal"), ("dense bone", "dense"))
        for name, distance in distances(tally.voxels(spot), source, cords, limit_cm=DENSE_NEAR_CM)
    )
    warnings += _dense_beside_cords(dense_near)
    low, high_corner = body.box()
    lost = max((grid.lower_cm - low).max(), (high_corner - grid.upper_cm).max())
    if lost > max(grid.spacing_cm):
        warnings.append(f"The body reaches {lost:.1f} cm beyond the calculation grid; no scatter comes from there.")
    electrons = electron.astype(np.float32)
    number_of, materials = composition.materials(electrons)
    return DensityGrid(
        mass=Volume(grid, mass.astype(np.float32)),
        electron=Volume(grid, electrons),
        material=Volume(grid, number_of),
        materials=materials,
        curve=curve.name,
        body=body.source,
        saturated_cm3=tally.unknown * source.voxel_volume_cm3,
        saturated_near=saturated_near,
        dense_near=dense_near,
        overrides=tuple(
            (patch.name, volume)
            for patch, volume in zip(patches, volumes, strict=True)
            if patch.densities is not None and patch.kind != "rim"
        ),
        warnings=(*body.warnings, *warnings),
    )


@dataclass(slots=True, eq=False)
class _Slice:
    """Matter of the part of a CT slice that the calculation grid covers; all planes have that shape.

    Parameters
    ----------
    hu, inside : ndarray
        CT numbers [HU]; whether a voxel belongs to the body.
    mass, electron : ndarray float32
        Mass density [g/cm^3] and relative electron density.
    bone : ndarray float32
        Relative electron density of bone in it.
    named : dict of str to ndarray float32
        That of named materials.
    unknown, high : ndarray float32
        Share of a voxel whose density is unknown, or doubtful, by its CT number.
    rim : float
        Voxels at the rim of metal that were taken as water.
    """

    hu: NDArray[Any]
    inside: NDArray[np.bool_]
    mass: NDArray[np.float32]
    electron: NDArray[np.float32]
    bone: NDArray[np.float32]
    named: dict[str, NDArray[np.float32]]
    unknown: NDArray[np.float32]
    high: NDArray[np.float32]
    rim: float = 0.0

    def cover(self, patch: Patch, box: Box, share: NDArray[np.float32], curve: HuCurve) -> float:
        """Lay a patch over it; returns the number of voxels that got its density."""
        mass: Any
        electron: Any
        count = 0.0
        if patch.densities is None:
            mass, electron = curve.densities(self.hu[box])
            share = share * ~self.inside[box]  # inside the body the CT's matter is there already
        else:
            mass, electron = (np.float32(value) for value in patch.densities)
            share = share * self.inside[box] if patch.is_inside_only else share
            if mass > curve.mass_density[-1]:
                self._clear_rim(box, share)
            self.unknown[box] *= 1 - share
            self.high[box] *= 1 - share
            count = float(share.sum(dtype=np.float64))
        bone = 0.0 if patch.material else electron * bone_share(mass, electron)
        self.mass[box] += share * (mass - self.mass[box])
        self.electron[box] += share * (electron - self.electron[box])
        self.bone[box] += share * (bone - self.bone[box])
        for name, plane in self.named.items():
            own = electron if name == patch.material else 0.0
            plane[box] += share * (own - plane[box])
        return count

    def _clear_rim(self, box: Box, share: NDArray[np.float32]) -> None:
        """Metal explains why the CT number of a voxel that it fills partly is so high: the rest is tissue."""
        is_rim = (share > 0) & ((self.unknown[box] == 1) | (self.high[box] == 1))
        self.mass[box][is_rim] = self.electron[box][is_rim] = 1
        for plane in (self.bone, self.unknown, self.high, *self.named.values()):
            plane[box][is_rim] = 0
        self.rim += float((1 - share)[is_rim].sum(dtype=np.float64))


def _slice_of(
    ct: CtImage,
    body: Body,
    curve: HuCurve,
    bone_of_hu: NDArray[np.float32],
    top: float,
    k: int,
    rows: slice,
    columns: slice,
    names: Iterable[str],
) -> _Slice:
    """CT slice k by its CT numbers alone; `bone_of_hu` is from `_bone_of_hu`."""
    hu, inside = ct.hu.values[k, rows, columns], body.inside.values[k, rows, columns]
    rho, rho_e = curve.densities(hu)
    rho *= inside
    rho_e *= inside
    unknown = (inside & ((hu > curve.last_hu) | (hu >= top))).astype(np.float32)
    high = (inside & (hu > curve.doubtful_above_hu)).astype(np.float32) - unknown
    bone = bone_of_hu[np.clip(np.rint(hu), curve.hu[0], curve.hu[-1]).astype(np.int32) - int(curve.hu[0])] * inside
    named = {name: np.zeros(hu.shape, dtype=np.float32) for name in names}
    if curve.mass_density[-1] > METAL_G_CM3:
        for light, heavy, metal in (
            (METAL_G_CM3, HEAVY_METAL_G_CM3, METALS[0]),
            (HEAVY_METAL_G_CM3, np.inf, METALS[1]),
        ):
            is_metal = (rho > light) & (rho <= heavy)
            named[metal][is_metal] = rho_e[is_metal]
            bone[is_metal] = 0
    return _Slice(hu, inside, rho, rho_e, bone, named, unknown, high)


def _bone_of_hu(curve: HuCurve) -> NDArray[np.float32]:
    """Relative electron density of bone in matter of every whole CT number of a curve, shape (n,)."""
    mass, electron = curve.densities(np.arange(curve.hu[0], curve.hu[-1] + 1).astype(np.int32))
    return bone_share(mass, electron) * electron


class _Tally:
    """What is counted, and where it was seen, over all CT slices.

    Parameters
    ----------
    part : tuple of 3 slices
        The box of CT voxels in which dense bone is of interest.
    patches : int
        How many patches there are.
    """

    __slots__ = ("_part", "_seen", "covered", "high", "rim", "unknown")

    def __init__(self, part: Part, patches: int) -> None:
        self._part = part
        self._seen: dict[str, list[NDArray[np.intp]]] = {"unknown": [], "metal": [], "dense": []}
        self.covered = [0.0] * patches
        self.unknown = self.high = self.rim = 0.0

    def add(self, layer: _Slice, k: int, row: int, column: int) -> None:
        """Count a finished slice k, whose planes begin at a row and a column of the CT."""
        self.unknown += float(layer.unknown.sum(dtype=np.float64))
        self.high += float(layer.high.sum(dtype=np.float64))
        self.rim += layer.rim
        metals = [plane for name, plane in layer.named.items() if material(name).mass_density_g_cm3 > METAL_G_CM3]
        metal = np.sum(metals, axis=0) > 0.5 * layer.electron if metals else np.zeros(layer.hu.shape, dtype=bool)
        dense = np.zeros_like(metal)
        if self._part[0].start <= k < self._part[0].stop:
            y, x = (
                slice(max(c.start - o, 0), max(c.stop - o, 0))
                for c, o in zip(self._part[1:], (row, column), strict=True)
            )
            dense[y, x] = (layer.mass[y, x] > DENSE_BONE_G_CM3) & layer.inside[y, x] & ~metal[y, x]
        for name, plane in (("unknown", layer.unknown >= 0.5), ("metal", metal), ("dense", dense)):
            if plane.any():
                found = np.argwhere(plane)
                self._seen[name].append(np.insert(found + np.array([row, column]), 0, k, axis=1))

    def voxels(self, name: str) -> NDArray[np.intp]:
        """Indices (z, y, x) on the CT of `"unknown"`, `"metal"` or `"dense"` voxels, shape (n, 3)."""
        return np.concatenate([np.zeros((0, 3), dtype=np.intp), *self._seen[name]])


def _lost_overrides(patches: Sequence[Patch], volumes: Sequence[float], source: Grid) -> list[str]:
    """Warnings for structures whose density counts in a part of them only."""
    warnings = []
    for patch, got in zip(patches, volumes, strict=True):
        drawn = patch.size * source.voxel_volume_cm3
        needed = max(OVERRIDE_VOLUME_TOLERANCE * drawn, SMALLEST_VOLUME_CM3)
        if patch.densities is not None and drawn - got > needed:
            warnings.append(
                f"The density override of '{patch.name}' counts in {got:.3g} of its {drawn:.3g} cm3:"
                " the rest lies outside the body or the calculation grid."
            )
    return warnings


def _doubts(
    tally: _Tally,
    curve: HuCurve,
    top: float,
    source: Grid,
    near: Sequence[tuple[str, float]],
    structures: Sequence[Structure],
) -> list[str]:
    """Warnings about CT numbers from which no density follows."""
    warnings = []
    saturated, high, rim = (n * source.voxel_volume_cm3 for n in (tally.unknown, tally.high, tally.rim))
    if saturated > SMALLEST_VOLUME_CM3:
        where = f" Nearest: {in_words(near)}." if near else ""
        if structures and not near:
            where = f" It is more than {10 * FAR_CM:g} mm from all targets and cords."
        warnings.append(
            f"{saturated:.3g} cm3 of the body have CT numbers above {min(curve.last_hu, top):g} HU, where the"
            f" density is unknown, and no density override; at most {curve.mass_density[-1]:g} g/cm3 was used there."
            f"{where} Assign a material to metal parts."
        )
    if rim > SMALLEST_VOLUME_CM3:
        warnings.append(
            f"{rim:.3g} cm3 at the rim of metal, in voxels that its structure fills partly, were taken as water"
            " instead of by their CT numbers."
        )
    if high > SMALLEST_VOLUME_CM3:
        warnings.append(
            f"{high:.3g} cm3 of the body have CT numbers above {curve.doubtful_above_hu:g} HU:"
            " teeth, or metal computed as dense bone."
        )
    return warnings


def _dense_beside_cords(near: Sequence[tuple[str, str, float]]) -> list[str]:
    """One warning for metal and one for dense bone beside the cord."""
    warnings = []
    for kind in dict.fromkeys(kind for kind, _, _ in near):
        where = in_words([(name, distance) for other, name, distance in near if other == kind])
        warnings.append(
            f"{kind.capitalize()} lies {where}: beside dense matter the error of the collapsed cone is largest"
            f" ({ERROR_BESIDE_DENSE_MATTER})."
        )
    return warnings


def _cut_body(inside: Volume) -> tuple[str, ...]:
    """A warning if the body touches the sides of the CT."""
    values = inside.values
    sides = {"left or right": values[:, :, [0, -1]], "front or back": values[:, [0, -1], :]}
    touched = [name for name, face in sides.items() if face.any()]
    if not touched:
        return ()
    sides_text = ", ".join(touched)
    return (f"The body touches the CT's edge ({sides_text}): what the field of view cuts off is vacuum.",)


def _faces(grid: Grid, axis: int) -> Array:
    """Voxel faces along array axis 0 (z), 1 (y) or 2 (x) [cm]."""
    start, step = grid.lower_cm[2 - axis], grid.spacing_cm[2 - axis]
    return np.asarray(start + step * np.arange(grid.shape[axis] + 1), dtype=np.float64)


def _overlapping(source: Grid, target: Grid, axis: int) -> slice:
    """Voxels of the source, along one array axis, that lie at least partly in the target."""
    faces, wanted = _faces(source, axis), _faces(target, axis)
    first = int(np.searchsorted(faces, wanted[0], side="right")) - 1
    last = int(np.searchsorted(faces, wanted[-1], side="left"))
    first, last = max(first, 0), min(last, source.shape[axis])
    return slice(first, max(first, last))


def _overlap_matrix(source: Grid, target: Grid, axis: int, reach: slice) -> sparse.csr_array:
    """Matrix (target voxels, source voxels in reach) that averages along one array axis by exact overlap."""
    from scipy import sparse

    wanted = _faces(target, axis)
    faces = _faces(source, axis)[reach.start : reach.stop + 1]
    if reach.stop <= reach.start:
        return sparse.csr_array((target.shape[axis], 0))
    cuts = np.union1d(faces, wanted)
    middles = (cuts[1:] + cuts[:-1]) / 2
    row = np.searchsorted(wanted, middles) - 1
    column = np.searchsorted(faces, middles) - 1
    both = (row >= 0) & (row < target.shape[axis]) & (column >= 0) & (column < reach.stop - reach.start)
    weight = np.diff(cuts)[both] / target.spacing_cm[2 - axis]
    return sparse.csr_array((weight, (row[both], column[both])), shape=(target.shape[axis], reach.stop - reach.start))
