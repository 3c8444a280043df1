"""From CT numbers to matter: mass density and relative electron density on the calculation grid."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spinedose import _resources
from spinedose.errors import BeamDataError, InvalidInput
from spinedose.geometry import PATIENT_POSITIONS
from spinedose.grid import Grid, Volume
from spinedose.structures import Structure, StructureSet, bounds_cm, find_external, mask, skin_mask

if TYPE_CHECKING:
    from scipy import sparse

Array = NDArray[np.float64]

WATER_ELECTRONS_PER_GRAM = 0.555093
"""Z/A of water [mol/g]; from the standard atomic weights of H and O (IUPAC 2021)."""

METAL_ELECTRONS_PER_GRAM = 0.460
"""Z/A of implant metals [mol/g]: Ti 0.4596, Cr 0.4616, Co 0.4581, Fe 0.4656 (standard atomic weights, IUPAC 2021)."""

OUTSIDE_TYPES = ("SUPPORT", "FIXATION", "BOLUS")
"""Interpreted types of structures that count outside the body too (DICOM PS3.3, C.8.8.8.1)."""

SMALLEST_VOLUME_CM3 = 0.001
"""Below this volume, about that of one CT voxel, noise is not worth a warning."""

BODY_VOLUME_TOLERANCE, OVERRIDE_VOLUME_TOLERANCE = 0.02, 0.05
"""Relative differences from the contours' volume that need no warning. The half voxel that an outline through voxel
centres adds to a body (see `HALF`) is 2 x 0.05 / 15 = 0.7 % of one 30 cm wide in voxels of 1 mm."""


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
    """

    hu: Volume
    patient_position: str = "HFS"
    uid: str = ""
    frame_of_reference_uid: str = ""
    saturated_voxels: int = 0
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        values = self.hu.values
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise InvalidInput("The CT has voxels that are not a number", "they have no density", "Export the CT again")
        if self.patient_position not in PATIENT_POSITIONS:
            raise InvalidInput(
                f"The CT has patient position '{self.patient_position}'",
                f"supported are {', '.join(PATIENT_POSITIONS)}",
            )


@dataclass(frozen=True, slots=True, eq=False)
class HuCurve:
    """A piecewise linear curve from CT numbers to matter.

    Parameters
    ----------
    name : str
        Name of the curve.
    hu : ndarray, shape (n,)
        CT numbers of the points [HU], whole and rising.
    mass_density : ndarray, shape (n,)
        Mass density [g/cm^3], rising.
    electron_density : ndarray, shape (n,)
        Electron density relative to water, rising.
    provenance : str
        Where the numbers come from; not empty.
    is_generic : bool
        Whether the curve was not measured on the scanner in use; then every result carries a warning.
    doubtful_above_hu : float
        Above this CT number [HU] nothing but teeth or metal is expected.
    """

    name: str
    hu: Array
    mass_density: Array
    electron_density: Array
    provenance: str
    is_generic: bool = False
    doubtful_above_hu: float = np.inf

    def __post_init__(self) -> None:
        for field in ("hu", "mass_density", "electron_density"):
            array = np.array(getattr(self, field), dtype=np.float64)
            array.flags.writeable = False
            object.__setattr__(self, field, array)
            self._prove(array.ndim == 1 and len(array) >= 2, f"has {array.size} numbers for {field}", "two are needed")
            self._prove(bool(np.isfinite(array).all()), f"has a {field} that is not a number")
            self._prove(len(array) == len(self.hu), f"has another number of points for {field} than for hu")
            self._prove(bool((np.diff(array) > 0).all()), f"has a {field} that does not rise", "it must be one-to-one")
        self._prove(bool((self.hu == np.rint(self.hu)).all()), "has a CT number that is not whole")
        self._prove(self.mass_density[0] >= 0 and self.electron_density[0] >= 0, "has a negative density")
        matter = self.mass_density > 0
        ratio = self.electron_density[matter] / self.mass_density[matter]
        self._prove(
            bool(((ratio > 0.70) & (ratio < 1.15)).all()),
            f"has an electron density over mass density of {ratio.min():.2f} to {ratio.max():.2f}",
            "between lead and hydrogen-rich plastics it is 0.70 to 1.15",
            "Check that the two columns are not swapped",
        )
        self._prove(bool(self.provenance.strip()), "has no provenance", "a number without a source is not used")

    def _prove(self, holds: bool | np.bool_, problem: str, why: str = "", advice: str = "") -> None:
        if not holds:
            raise BeamDataError(f"Density curve '{self.name}' {problem}", why, advice)

    @property
    def last_hu(self) -> float:
        """CT number of the last point [HU]; there is no density above it."""
        return float(self.hu[-1])

    def densities(self, hu: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Mass density [g/cm^3] and relative electron density of CT numbers [HU], all of one shape.

        Below the first point that of the first point (air); above the last point that of the last point, which the
        caller must report.
        """
        mass, electron = self._tables()
        first = int(self.hu[0])
        if hu.dtype.kind in "iu":
            index = np.clip(hu, first, int(self.hu[-1])).astype(np.int32) - first
            return mass[index], electron[index]
        # Points have whole CT numbers, so a table of step 1 HU is exact, and faster than np.interp.
        place = np.clip(hu, self.hu[0], self.hu[-1]).astype(np.float32) - np.float32(first)
        index = np.minimum(place.astype(np.int32), len(mass) - 2)
        place -= index
        return (
            mass[index] + place * (mass[index + 1] - mass[index]),
            electron[index] + place * (electron[index + 1] - electron[index]),
        )

    def _tables(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        steps = np.arange(self.hu[0], self.hu[-1] + 1)
        mass = np.interp(steps, self.hu, self.mass_density).astype(np.float32)
        return mass, np.interp(steps, self.hu, self.electron_density).astype(np.float32)

    def complete(self, structure: Structure) -> tuple[float, float, str]:
        """Both densities of an override, of which the planner may have given only one.

        Parameters
        ----------
        structure : Structure
            Has a relative mass density, a relative electron density, or both.

        Returns
        -------
        mass_density : float
            [g/cm^3]
        electron_density : float
            Relative to water.
        warning : str
            How a missing density was found; empty when both were given or the curve has the answer.
        """
        mass, electron = structure.relative_mass_density, structure.relative_electron_density
        masses, electrons = (np.concatenate([[0.0], column]) for column in (self.mass_density, self.electron_density))
        metal = METAL_ELECTRONS_PER_GRAM / WATER_ELECTRONS_PER_GRAM
        if mass is not None and electron is not None:
            return mass, electron, ""
        if electron is not None:
            if electron <= electrons[-1]:
                return float(np.interp(electron, electrons, masses)), electron, ""
            mass = electron / metal
            given = f"a relative electron density of {electron:g} only; a mass density of {mass:.3g} g/cm3"
        else:
            assert mass is not None, "the caller asks only for structures with an override"
            if mass <= masses[-1]:
                return mass, float(np.interp(mass, masses, electrons)), ""
            electron = mass * metal
            given = f"a mass density of {mass:g} g/cm3 only; a relative electron density of {electron:.3g}"
        assumption = f"is assumed for it, as of an implant metal (Z/A = {METAL_ELECTRONS_PER_GRAM:g})."
        return mass, electron, f"Structure '{structure.name}' has {given} {assumption}"


def list_curves() -> tuple[str, ...]:
    """Names of the density curves that come with spinedose."""
    return tuple(sorted(path.stem for path in (_resources.folder("beam_data") / "density").glob("*.toml")))


def read_curve(name_or_file: str | Path = "generic") -> HuCurve:
    """Read a density curve.

    Parameters
    ----------
    name_or_file : str or path
        Name of a curve that comes with spinedose, or a TOML file (docs/formats/density.md).

    Returns
    -------
    HuCurve

    Raises
    ------
    BeamDataError
        If the file is missing, cannot be read or holds no proper curve.
    """
    path = Path(name_or_file)
    if path.suffix != ".toml":
        path = _resources.folder("beam_data") / "density" / f"{name_or_file}.toml"
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        curve, points = content["curve"], content["curve"]["points"]
        return HuCurve(
            name=str(curve["name"]),
            hu=np.array([float(point["hu"]) for point in points]),
            mass_density=np.array([float(point["mass_density_g_cm3"]) for point in points]),
            electron_density=np.array([float(point["relative_electron_density"]) for point in points]),
            provenance="\n".join(f"{key}: {str(text).strip()}" for key, text in content.get("provenance", {}).items()),
            is_generic=bool(curve["generic"]),
            doubtful_above_hu=float(curve["doubtful_above_hu"]),
        )
    except OSError as error:
        raise BeamDataError(
            f"Density curve '{name_or_file}' cannot be read",
            error.strerror or "no such file",
            f"Name one that spinedose has ({', '.join(list_curves())}), or a .toml file",
        ) from error
    except KeyError as error:
        raise BeamDataError(f"Density curve '{path.name}' has no {error}", "", "See docs/formats/density.md") from error
    except (TypeError, ValueError) as error:  # TOML and UTF-8 errors are ValueErrors
        if isinstance(error, BeamDataError):
            raise
        raise BeamDataError(
            f"Density curve '{path.name}' is wrong", str(error), "See docs/formats/density.md"
        ) from error


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
        low, high = _extent(self.inside.values)
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
    curve : str
        Name of the density curve.
    body : str
        How the body was found.
    saturated_cm3 : float
        Volume inside the body whose CT number lies above the curve or at the top of the scale and that no structure
        overrides [cm^3].
    overrides : tuple of (str, float)
        Structures whose density override was used, with the volume that got it [cm^3].
    warnings : tuple of str
        What the reader of a result must know.
    """

    mass: Volume
    electron: Volume
    curve: str = ""
    body: str = ""
    saturated_cm3: float = 0.0
    overrides: tuple[tuple[str, float], ...] = ()
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.mass.grid != self.electron.grid:
            raise InvalidInput("Mass and electron density stand on different grids")
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
    part, share = _share_of(external, grid)
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
    for structure in _outside_matter(structures):
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
        Density overrides, couch and bolus.

    Returns
    -------
    DensityGrid
    """
    curve = read_curve() if curve is None else curve
    source = ct.hu.grid
    slices, rows, columns = reach = tuple(_overlapping(source, grid, axis) for axis in range(3))
    into, across, along = (_overlap_matrix(source, grid, axis, reach[axis]) for axis in range(3))
    patches, warnings = _patches(ct, curve, structures)
    top = float(ct.hu.values.max()) if ct.saturated_voxels else np.inf
    mass, electron = np.zeros(grid.shape), np.zeros(grid.shape)
    saturated = doubtful = rim = 0.0
    used = [0.0] * len(patches)
    for k in range(slices.start, slices.stop):
        hu, inside = ct.hu.values[k, rows, columns], body.inside.values[k, rows, columns]
        rho, rho_e = curve.densities(hu)
        rho *= inside
        rho_e *= inside
        unknown = (inside & ((hu > curve.last_hu) | (hu >= top))).astype(np.float32)
        high = (inside & (hu > curve.doubtful_above_hu)).astype(np.float32) - unknown
        for number, patch in enumerate(patches):
            cut = patch.on_slice(k, rows, columns)
            if cut is None:
                continue
            part, share = cut
            if patch.densities is None:
                own_mass, own_electron = curve.densities(hu[part])
                share = share * ~inside[part]  # inside the body the CT's matter is there already
            else:
                own_mass, own_electron = (np.asarray(value, dtype=np.float32) for value in patch.densities)
                share = share * inside[part] if patch.is_inside_only else share
                if own_mass > curve.mass_density[-1]:
                    # Metal explains why the CT number of a voxel that it fills partly is so high: the rest is tissue.
                    is_rim = (share > 0) & ((unknown[part] == 1) | (high[part] == 1))
                    rho[part][is_rim] = rho_e[part][is_rim] = 1
                    unknown[part][is_rim] = high[part][is_rim] = 0
                    rim += float((1 - share)[is_rim].sum(dtype=np.float64))
                unknown[part] *= 1 - share
                high[part] *= 1 - share
                used[number] += float(share.sum(dtype=np.float64))
            rho[part] += share * (own_mass - rho[part])
            rho_e[part] += share * (own_electron - rho_e[part])
        saturated += float(unknown.sum(dtype=np.float64))
        doubtful += float(high.sum(dtype=np.float64))
        targets = into[:, [k - slices.start]].tocoo()
        for values, plane in ((mass, rho), (electron, rho_e)):
            averaged = (along @ (across @ plane).T).T
            for target, weight in zip(targets.row, targets.data, strict=True):
                values[target] += weight * averaged
    for patch, count in zip(patches, used, strict=True):
        drawn, got = (n * source.voxel_volume_cm3 for n in (float(patch.share.sum(dtype=np.float64)), count))
        needed = max(OVERRIDE_VOLUME_TOLERANCE * drawn, SMALLEST_VOLUME_CM3)
        if patch.densities is not None and drawn - got > needed:
            warnings.append(
                f"The density override of '{patch.structure.name}' counts in {got:.3g} of its {drawn:.3g} cm3:"
                " the rest lies outside the body or the calculation grid."
            )
    saturated_cm3, doubtful_cm3, rim_cm3 = (n * source.voxel_volume_cm3 for n in (saturated, doubtful, rim))
    if curve.is_generic:
        warnings.append(f"The density curve '{curve.name}' was not measured on the CT scanner in use.")
    if saturated_cm3 > SMALLEST_VOLUME_CM3:
        warnings.append(
            f"{saturated_cm3:.3g} cm3 of the body have CT numbers above {min(curve.last_hu, top):g} HU, where the"
            f" density is unknown, and no density override; at most {curve.mass_density[-1]:g} g/cm3 was used there."
            " Assign a material to metal parts."
        )
    if rim_cm3 > SMALLEST_VOLUME_CM3:
        warnings.append(
            f"{rim_cm3:.3g} cm3 at the rim of metal, in voxels that its structure fills partly, were taken as water"
            " instead of by their CT numbers."
        )
    if doubtful_cm3 > SMALLEST_VOLUME_CM3:
        warnings.append(
            f"{doubtful_cm3:.3g} cm3 of the body have CT numbers above {curve.doubtful_above_hu:g} HU:"
            " teeth, or metal computed as dense bone."
        )
    low, high_corner = body.box()
    lost = max((grid.lower_cm - low).max(), (high_corner - grid.upper_cm).max())
    if lost > max(grid.spacing_cm):
        warnings.append(f"The body reaches {lost:.1f} cm beyond the calculation grid; no scatter comes from there.")
    return DensityGrid(
        mass=Volume(grid, mass.astype(np.float32)),
        electron=Volume(grid, electron.astype(np.float32)),
        curve=curve.name,
        body=body.source,
        saturated_cm3=saturated_cm3,
        overrides=tuple(
            (patch.structure.name, count * source.voxel_volume_cm3)
            for patch, count in zip(patches, used, strict=True)
            if patch.densities is not None
        ),
        warnings=(*body.warnings, *warnings),
    )


Part = tuple[slice, slice, slice]


@dataclass(frozen=True, slots=True, eq=False)
class _Patch:
    """A structure that changes the matter of the CT.

    Parameters
    ----------
    structure : Structure
        The region.
    part : tuple of 3 slices
        The box of CT voxels around it.
    share : ndarray, shape of the box, float32
        Fraction of each voxel that it covers.
    densities : (float, float) or None
        Mass density [g/cm^3] and relative electron density; None keeps the CT's matter there although it lies
        outside the body.
    is_inside_only : bool
        Whether it counts inside the body only.
    """

    structure: Structure
    part: Part
    share: NDArray[np.float32]
    densities: tuple[float, float] | None
    is_inside_only: bool

    def on_slice(self, k: int, rows: slice, columns: slice) -> tuple[tuple[slice, slice], NDArray[np.float32]] | None:
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


def _has_override(structure: Structure) -> bool:
    return structure.relative_mass_density is not None or structure.relative_electron_density is not None


def _outside_matter(structures: StructureSet | None) -> list[Structure]:
    """Structures whose matter counts outside the body: couch with a density, fixation, bolus."""
    drawn = [s for s in structures.structures if s.contours_cm] if structures is not None else []
    return [s for s in drawn if s.type in OUTSIDE_TYPES and (_has_override(s) or s.type != "SUPPORT")]


def _patches(ct: CtImage, curve: HuCurve, structures: StructureSet | None) -> tuple[list[_Patch], list[str]]:
    """What structures change, in the order in which they count: later ones win."""
    if structures is None:
        return [], []
    patches, warnings = [], []
    grid = ct.hu.grid
    outside = _outside_matter(structures)
    for structure in structures.structures:
        if not structure.contours_cm:
            continue
        name = f"{structure.type} structure '{structure.name}'"
        if not _has_override(structure):
            if structure.type == "SUPPORT":
                warnings.append(f"The {name} has no density: outside the body it is computed as air.")
            elif structure.type in OUTSIDE_TYPES:
                warnings.append(f"The {name} has no density: the CT's matter is kept there.")
                patches.append(_Patch(structure, *_share_of(structure, grid), None, False))
            continue
        mass, electron, warning = curve.complete(structure)
        if warning:
            warnings.append(warning)
        patches.append(_Patch(structure, *_share_of(structure, grid), (mass, electron), structure not in outside))
        low, high = bounds_cm(structure)
        beyond = max((grid.lower_cm - low).max(), (high - grid.upper_cm).max())
        if beyond > max(grid.spacing_cm):
            warnings.append(f"The {name} reaches {beyond:.1f} cm beyond the CT; its density does not count there.")
    sizes = {patch.structure: float(patch.share.sum(dtype=np.float64)) for patch in patches}
    patches.sort(key=lambda patch: (patch.structure.type != "EXTERNAL", -sizes[patch.structure]))
    for below, above in combinations([p for p in patches if p.structure.type != "EXTERNAL"], 2):
        if below.densities != above.densities and above.densities is not None and below.densities is not None:
            common = _common_cm3(below, above, grid)
            if common > SMALLEST_VOLUME_CM3:
                warnings.append(
                    f"The density overrides of '{below.structure.name}' and '{above.structure.name}' overlap in"
                    f" {common:.3g} cm3; there the smaller one, '{above.structure.name}', counts."
                )
    return patches, warnings


def _common_cm3(one: _Patch, other: _Patch, grid: Grid) -> float:
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


def _share_of(structure: Structure, grid: Grid) -> tuple[Part, NDArray[np.float32]]:
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


def _cut_body(inside: Volume) -> tuple[str, ...]:
    """A warning if the body touches the sides of the CT."""
    values = inside.values
    sides = {"left or right": values[:, :, [0, -1]], "front or back": values[:, [0, -1], :]}
    touched = [name for name, face in sides.items() if face.any()]
    if not touched:
        return ()
    sides_text = ", ".join(touched)
    return (f"The body touches the CT's edge ({sides_text}): what the field of view cuts off is vacuum.",)


def _extent(values: NDArray[np.bool_]) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Smallest index box (low, high), both (z, y, x), that holds every true voxel; high is one past the last."""
    low, high = [], []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        found = np.flatnonzero(values.any(axis=others))
        low.append(int(found[0]))
        high.append(int(found[-1]) + 1)
    return (low[0], low[1], low[2]), (high[0], high[1], high[2])


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
