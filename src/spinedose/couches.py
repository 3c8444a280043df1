"""Couch tops: a small library, their place under the patient, and a warning where one is missing."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spinedose import _resources
from spinedose.assignments import Assignment
from spinedose.density import Body, CtImage
from spinedose.errors import BeamDataError, InvalidInput
from spinedose.grid import Grid, Volume
from spinedose.materials import material
from spinedose.patches import matter_outside
from spinedose.plan import Plan
from spinedose.structures import Structure, StructureSet

Array = NDArray[np.float64]

PRONE = ("HFP", "FFP")
"""Patient positions with the couch on the anterior side."""

WITHOUT_COUCH = "up to 4.1 % of a 6 MV beam at oblique angles through an IGRT top, Li et al. 2011, PMC5718645"
"""What a couch top takes away: H. Li et al., J. Appl. Clin. Med. Phys. 12 (2011) 23, doi 10.1120/jacmp.v12i3.3471."""

GAP_CM, MOST_GAP_CM = 15.0, 30.0
"""Gap between body and couch from which a warning is due, and from which the height is refused: boards and bags lift a
patient by some 10 cm, prone breast boards by up to 20; more is a height in another unit or of another scale (house
default)."""

AIR_HU = -1000
"""Definition of the Hounsfield unit."""


@dataclass(frozen=True, slots=True)
class CouchTop:
    """A flat couch top: a shell around a core.

    Parameters
    ----------
    name : str
        Its name.
    width_cm, thickness_cm, shell_thickness_cm : float
        Outer width and thickness, and the thickness of the shell on all sides [cm].
    shell_mass_density_g_cm3, core_mass_density_g_cm3 : float
        Mass densities [g/cm^3].
    shell_material, core_material : str
        Materials that give electrons per gram.
    provenance : str
        Where the numbers come from; not empty.
    is_generic : bool
        Whether it is no measured couch; then every result carries a warning.
    """

    name: str
    width_cm: float
    thickness_cm: float
    shell_thickness_cm: float
    shell_mass_density_g_cm3: float
    core_mass_density_g_cm3: float
    shell_material: str
    core_material: str
    provenance: str
    is_generic: bool = False

    def __post_init__(self) -> None:
        sizes = (self.width_cm, self.thickness_cm, self.shell_thickness_cm)
        densities = (self.shell_mass_density_g_cm3, self.core_mass_density_g_cm3)
        fits = 2 * self.shell_thickness_cm < min(self.width_cm, self.thickness_cm)
        if not (all(0 < size <= 100 for size in sizes) and fits):
            raise BeamDataError(f"Couch top '{self.name}' has sizes of {sizes} cm", "shell and core do not fit")
        if not all(0 < rho <= 3 for rho in densities):
            raise BeamDataError(f"Couch top '{self.name}' has densities of {densities} g/cm3", "0 to 3 make sense")
        if not self.provenance.strip():
            raise BeamDataError(f"Couch top '{self.name}' has no provenance", "a number without a source is not used")
        for name in (self.shell_material, self.core_material):
            material(name)


def list_couches() -> tuple[str, ...]:
    """Names of the couch tops that come with spinedose."""
    return tuple(sorted(path.stem for path in (_resources.folder("beam_data") / "couches").glob("*.toml")))


def read_couch(name_or_file: str | Path) -> CouchTop:
    """Read a couch top.

    Parameters
    ----------
    name_or_file : str or path
        Name of one that comes with spinedose, or a TOML file (docs/formats/materials.md).

    Returns
    -------
    CouchTop

    Raises
    ------
    BeamDataError
        If the file is missing, cannot be read or holds no proper couch top.
    """
    path = Path(name_or_file)
    if path.suffix != ".toml":
        path = _resources.folder("beam_data") / "couches" / f"{name_or_file}.toml"
    advice = "See docs/formats/materials.md"
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        return _couch_of(content["couch"], content.get("provenance", {}))
    except OSError as error:
        raise BeamDataError(
            f"Couch top '{name_or_file}' cannot be read",
            error.strerror or "no such file",
            f"Name one that spinedose has ({', '.join(list_couches())}), or a .toml file",
        ) from error
    except KeyError as error:
        raise BeamDataError(f"Couch top '{path.name}' has no {error}", "", advice) from error
    except (TypeError, ValueError) as error:  # TOML and UTF-8 errors are ValueErrors
        if isinstance(error, BeamDataError | InvalidInput):
            raise
        raise BeamDataError(f"Couch top '{path.name}' is wrong", str(error), advice) from error


def _couch_of(entry: dict[str, Any], provenance: dict[str, Any]) -> CouchTop:
    numbers = (
        "width_cm",
        "thickness_cm",
        "shell_thickness_cm",
        "shell_mass_density_g_cm3",
        "core_mass_density_g_cm3",
    )
    return CouchTop(
        name=str(entry["name"]),
        shell_material=str(entry["shell_material"]),
        core_material=str(entry["core_material"]),
        provenance="\n".join(f"{key}: {str(text).strip()}" for key, text in provenance.items()),
        is_generic=bool(entry["generic"]),
        **{key: float(entry[key]) for key in numbers},
    )


def put_on_couch(
    ct: CtImage,
    body: Body,
    structures: StructureSet | None,
    couch: CouchTop,
    *,
    patient_position: str,
    surface_cm: float | None = None,
) -> tuple[CtImage, Body, StructureSet]:
    """Put a couch top under a patient, as two SUPPORT structures along the whole CT.

    Where the couch leaves the CT, air is added to the CT. The middle of the couch is that of the body.

    Parameters
    ----------
    ct : CtImage
        The CT.
    body : Body
        From `find_body`.
    structures : StructureSet or None
        The structures.
    couch : CouchTop
        From `read_couch`.
    patient_position : str
        HFS, HFP, FFS or FFP at treatment: tells which side is down.
    surface_cm : float or None
        DICOM y of the couch's surface [cm]; None: it touches the body.

    Returns
    -------
    ct, body, structures
        All three on the larger CT, with the couch.

    Raises
    ------
    InvalidInput
        If the surface lies inside the body or above it, or too far below.
    """
    low, high = body.box()
    is_prone = patient_position in PRONE
    touch = float(low[1] if is_prone else high[1])
    surface = touch if surface_cm is None else surface_cm
    depth = surface - touch if is_prone else touch - surface
    notes = _height(surface, touch, depth, float(high[1] - low[1]), ct.hu.grid.spacing_cm[1])
    middle = float(low[0] + high[0]) / 2
    under = -couch.thickness_cm if is_prone else couch.thickness_cm
    corners = np.array([[middle - couch.width_cm / 2, min(surface, surface + under)],
                        [middle + couch.width_cm / 2, max(surface, surface + under)]])  # fmt: skip
    ct, inside = _with_room(ct, body.inside, *corners)
    notes += [
        f"The couch top '{couch.name}' was put under the body, its surface at y = {10 * surface:.0f} mm, its middle at"
        f" x = {10 * middle:.0f} mm. Compare both with the treatment."
    ]
    if couch.is_generic:
        notes.append(f"The couch top '{couch.name}' is no measured one.")
    placed = replace(body, inside=inside, warnings=(*body.warnings, *notes))
    parts = _as_structures(couch, corners, ct.hu.grid, structures)
    if structures is None:
        return ct, placed, StructureSet(parts)
    return ct, placed, replace(structures, structures=(*structures.structures, *parts))


def _height(surface: float, touch: float, depth: float, thick: float, voxel: float) -> list[str]:
    """Refuse a couch in the body, above it or far below it, and warn of one that does not carry it.

    `depth` is how deep the surface lies in the body, `thick` the thickness of the body, and `voxel` what is no
    difference [cm].
    """
    where = f"The couch's surface at y = {10 * surface:g} mm lies"
    why, advice = f"the body ends at y = {10 * touch:.0f} mm", "Give another height in mm, or none"
    if depth > thick:
        raise InvalidInput(f"{where} on the other side of the body", why, advice)
    if not depth <= voxel:
        raise InvalidInput(f"{where} {10 * depth:.0f} mm inside the body", why, advice)
    if -depth > MOST_GAP_CM:
        raise InvalidInput(f"{where} {-10 * depth:.0f} mm below the body", f"{why}; no couch carries it", advice)
    if -depth > GAP_CM:
        return [f"{where} {-10 * depth:.0f} mm below the body: a couch so far away carries nobody. Check the height."]
    return []


def missing_couch(
    plan: Plan, structures: StructureSet | None, assignments: Sequence[Assignment] = ()
) -> tuple[str, ...]:
    """A warning if beams come from below although nothing is known about the couch.

    Parameters
    ----------
    plan : Plan
        The plan.
    structures : StructureSet or None
        Its structures; a SUPPORT structure with a density is a couch.
    assignments : sequence of Assignment
        Named materials; a SUPPORT structure that has one is a couch, too.
    """
    if any(structure.type == "SUPPORT" for structure in matter_outside(structures, assignments)):
        return ()
    total = sum(beam.meterset_mu for beam in plan.beams)
    share = sum(beam.meterset_mu * share_from_below(beam.gantry_deg, beam.cumulative_meterset) for beam in plan.beams)
    if not share:
        return ()
    return (
        f"{100 * share / total:.0f} % of the monitor units come from below, and there is no couch with a density: it"
        f" would take away {WITHOUT_COUCH}.",
    )


def share_from_below(gantry_deg: Array, cumulative_meterset: Array) -> float:
    """Share of a beam's meterset from gantry angles between 90 and 270 degrees, wherever the couch is turned.

    Parameters
    ----------
    gantry_deg : ndarray, shape (n,)
        Angles of the control points [degrees], continuous.
    cumulative_meterset : ndarray, shape (n,)
        Share of the meterset on reaching them, from 0 to 1.
    """
    part = 0.0
    for start, end, meterset in zip(gantry_deg[:-1], gantry_deg[1:], np.diff(cumulative_meterset), strict=True):
        angles = start + (end - start) * (np.arange(STEPS) + 0.5) / STEPS
        part += float(meterset) * float(np.mean(np.cos(np.radians(angles)) < -TOUCH))
    return part


STEPS = 16
"""Angles looked at between two control points."""

TOUCH = 1e-6
"""Beams at exactly 90 or 270 degrees run beside the couch."""


def _with_room(ct: CtImage, inside: Volume, low_cm: Array, high_cm: Array) -> tuple[CtImage, Volume]:
    """A CT, and the body on it, widened by air until it holds a rectangle (x, y) [cm]."""
    grid = ct.hu.grid
    spacing = np.array(grid.spacing_cm[:2])
    before = np.maximum(np.ceil((grid.lower_cm[:2] - low_cm) / spacing - 1e-6), 0).astype(int)
    after = np.maximum(np.ceil((high_cm - grid.upper_cm[:2]) / spacing - 1e-6), 0).astype(int)
    if not (before.any() or after.any()):
        return ct, inside
    origin = np.array(grid.origin_cm) - [*(before * spacing), 0.0]
    nz, ny, nx = grid.shape
    shape = (nz, int(ny + before[1] + after[1]), int(nx + before[0] + after[0]))
    wide = Grid((float(origin[0]), float(origin[1]), float(origin[2])), grid.spacing_cm, shape)
    margins = ((0, 0), (before[1], after[1]), (before[0], after[0]))
    values = ct.hu.values
    lowest = np.iinfo(values.dtype).min if values.dtype.kind in "iu" else -np.inf
    hu = np.pad(values, margins, constant_values=max(AIR_HU, lowest))
    return replace(ct, hu=Volume(wide, hu)), Volume(wide, np.pad(inside.values, margins))


def _as_structures(
    couch: CouchTop, corners: Array, grid: Grid, structures: StructureSet | None
) -> tuple[Structure, Structure]:
    """Shell and core of a couch; corners (x, y) [cm] of shape (2, 2), along all of the grid.

    The shell is drawn solid; the core, being smaller, counts above it, so that voxels which they share are filled.
    """
    inner = corners + couch.shell_thickness_cm * np.array([[1.0], [-1.0]])
    heights = grid.axes_cm[2]
    taken = [structure.number for structure in structures.structures] if structures is not None else []
    first = max(taken, default=0) + 1

    def part(number: int, word: str, rectangle: Array, mass: float, of: str) -> Structure:
        return Structure(
            number,
            f"{couch.name} {word}",
            "SUPPORT",
            tuple(_rectangle(rectangle, float(z)) for z in heights),
            relative_mass_density=mass,
            relative_electron_density=mass * material(of).electrons_per_gram,
            contour_spacing_cm=grid.spacing_cm[2],
        )

    return (
        part(first, "shell", corners, couch.shell_mass_density_g_cm3, couch.shell_material),
        part(first + 1, "core", inner, couch.core_mass_density_g_cm3, couch.core_material),
    )


def _rectangle(corners: Array, z: float) -> Array:
    """A closed contour (4, 3) [cm]."""
    (x0, y0), (x1, y1) = corners
    return np.array([(x0, y0, z), (x1, y0, z), (x1, y1, z), (x0, y1, z)])
