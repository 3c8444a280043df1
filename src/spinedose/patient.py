"""A patient on a device, ready to be irradiated: all that does not depend on the plan, made once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spinedose._arguments import PATH, expect, expect_callable, expect_each, expect_number, shown
from spinedose.assignments import Assignment
from spinedose.backends.base import Backend, Scene
from spinedose.backends.select import select_backend
from spinedose.clock import Clock, Progress
from spinedose.couches import put_on_couch, read_couch
from spinedose.density import CtImage, DensityGrid, build_density, calculation_grid, find_body, read_curve
from spinedose.errors import InvalidInput
from spinedose.fingerprint import fingerprint
from spinedose.geometry import PATIENT_POSITIONS
from spinedose.grid import Volume
from spinedose.missing_matter import CutEnd, Missing, cut_ends, missing_in_body
from spinedose.nested import FineBox, Nest, fine_box_around, with_common_materials
from spinedose.structures import StructureSet

FineLike = FineBox | str | Sequence[str] | None
"""Where fine voxels are wanted: a box, names of structures to lie around, or nowhere."""

VACUUM = 1e-5
"""Below this relative electron density (a hundredth of air) a voxel has no dose."""


@dataclass(frozen=True, slots=True, eq=False)
class Inner:
    """A box of fine voxels: where it is, its matter, that matter on the device within a layer of vacuum, and the rest
    of the patient with a hole for it."""

    nest: Nest
    matter: DensityGrid
    scene: Scene
    outer: Scene


@dataclass(frozen=True, slots=True, eq=False)
class PreparedPatient:
    """A patient on a device, from `prepare_patient`.

    Parameters
    ----------
    device : Backend
        Where he is.
    ct, structures : CtImage, StructureSet or None
        What he was made of.
    assignments : tuple of Assignment
        Materials that were named.
    couch : str
        Couch top under him, or nothing.
    curve : str
        HU curve.
    spacing_cm : float
        Voxel size that was asked for [cm].
    matter : DensityGrid
        Densities on the calculation grid.
    scene : Scene
        The same on the device.
    inner : Inner or None
        Box of fine voxels.
    warnings : tuple of str
        What the reader of a dose must know.
    timings_s : mapping of str to float
        Wall time it took, by stage [s].
    couch_surface_cm : float or None
        DICOM y of the couch's surface that was asked for [cm].
    fine : FineBox or None
        Box of fine voxels that was asked for.
    fine_around : tuple of str
        Structures that it was put around, where they were named.
    curve_hash, couch_hash : str
        SHA-256 over the numbers of both, which a name does not tell; empty without a couch.
    missing : tuple of Missing
        What his outline leaves out; among the warnings, too.
    ends : tuple of CutEnd
        Where he goes on beyond the CT.
    """

    device: Backend
    ct: CtImage
    structures: StructureSet | None
    assignments: tuple[Assignment, ...]
    couch: str
    curve: str
    spacing_cm: float
    matter: DensityGrid
    scene: Scene
    inner: Inner | None
    warnings: tuple[str, ...]
    timings_s: Mapping[str, float]
    couch_surface_cm: float | None = None
    fine: FineBox | None = None
    fine_around: tuple[str, ...] = ()
    curve_hash: str = ""
    couch_hash: str = ""
    missing: tuple[Missing, ...] = ()
    ends: tuple[CutEnd, ...] = ()

    def settings(self) -> dict[str, Any]:
        """With what he was prepared; what one needs to prepare him alike."""
        fine = None
        if self.fine is not None and self.inner is not None:
            spacing = self.inner.nest.grid.spacing_cm
            fine = {**asdict(self.fine), "spacing_cm": spacing, "structures": list(self.fine_around)}
        return {
            "spacing_cm": self.spacing_cm,
            "fine": fine,
            "materials": {one.region: one.made_of.name for one in self.assignments},
            "assignments": [asdict(one) for one in self.assignments],
            "couch": self.couch,
            "couch_surface_cm": self.couch_surface_cm,
            "couch_hash": self.couch_hash,
            "curve_hash": self.curve_hash,
        }

    def composed(self, doses: Sequence[NDArray[np.float32]], dose_to: str) -> Volume:
        """Dose to water or medium on one grid, from that of the scene and of the box."""
        if dose_to == "medium":
            matters = [self.matter] if self.inner is None else [self.matter, self.inner.matter]
            doses = [to_medium(d, m.mass.values, m.electron.values) for d, m in zip(doses, matters, strict=True)]
        if self.inner is None:
            return Volume(self.matter.grid, doses[0])
        return self.inner.nest.composed(doses[0], doses[1])


def prepare_patient(
    ct: CtImage,
    *,
    patient_position: str = "HFS",
    structures: StructureSet | None = None,
    materials: Sequence[Assignment] = (),
    couch: str | Path = "",
    couch_surface_cm: float | None = None,
    spacing_cm: float = 0.25,
    fine: FineLike = None,
    curve: str = "generic",
    backend: str = "auto",
    progress: Progress | None = None,
) -> PreparedPatient:
    """Take a patient's densities to a device, for any number of plans and setups (`spinedose.engine.irradiate`).

    Parameters
    ----------
    ct, structures, materials, couch, couch_surface_cm, spacing_cm, fine, backend
        As in `compute_dose`.
    patient_position : str
        HFS, HFP, FFS or FFP: where under him the couch lies.
    curve : str
        HU curve: a name or a TOML file.
    progress : callable, optional
        As in `compute_dose`.

    Returns
    -------
    PreparedPatient
    """
    prove_image(ct, structures)
    expect_each("The materials", materials, Assignment, "Assignment", "Write [Assignment('titanium', 'ROD')]")
    expect("The couch", couch, PATH, "a name or a TOML file")
    if couch_surface_cm is not None:
        expect_number("The height of the couch", couch_surface_cm, "cm")
    expect("The density curve", curve, PATH, "a name or a TOML file")
    expect("The backend", backend, str, "a name", "Use auto, cpu, cuda or cuda:1")
    if progress is not None:
        expect_callable("What is to be told of progress", progress)
    if patient_position not in PATIENT_POSITIONS:
        raise InvalidInput(
            f"The patient position is {shown(patient_position)}", f"supported are {', '.join(PATIENT_POSITIONS)}"
        )
    prove_spacing(spacing_cm)
    box = find_fine_box(fine, structures)
    names = () if fine is None or isinstance(fine, FineBox) else (fine,) if isinstance(fine, str) else tuple(fine)
    clock = Clock(progress)
    couch_top = read_couch(couch) if couch else None
    with clock("density", 0.0):
        device = select_backend(backend)
        body, scan, drawn = find_body(ct, structures), ct, structures
        table, ends = read_curve(curve), cut_ends(ct, body)
        missing = missing_in_body(ct, body, table, structures, materials)
        if couch_top is not None:
            scan, body, drawn = put_on_couch(
                ct, body, structures, couch_top, patient_position=patient_position, surface_cm=couch_surface_cm
            )
        grid = calculation_grid(scan, spacing_cm=spacing_cm, body=body, structures=drawn, assignments=materials)
        matter = build_density(scan, grid, body=body, curve=table, structures=drawn, assignments=materials)
        warnings = (*(one.text for one in missing), *body.warnings, *matter.warnings)
        if box is None:
            scene, inner = _load(device, matter), None
        else:
            nest = Nest.of(grid, box)
            details = build_density(scan, nest.grid, body=body, curve=table, structures=drawn, assignments=materials)
            matter, details = with_common_materials([matter, details])
            scene = _load(device, matter)
            inner = Inner(nest, details, _load(device, details, padded=True), _hollow(device, scene, matter, nest))
    return PreparedPatient(
        device=device,
        ct=ct,
        structures=structures,
        assignments=tuple(materials),
        couch=str(couch),
        curve=str(curve),
        spacing_cm=spacing_cm,
        matter=matter,
        scene=scene,
        inner=inner,
        warnings=tuple(dict.fromkeys(warnings)),
        timings_s=dict(clock.seconds),
        couch_surface_cm=couch_surface_cm,
        fine=box,
        fine_around=names,
        curve_hash=fingerprint(table),
        couch_hash=fingerprint(couch_top) if couch_top is not None else "",
        missing=missing,
        ends=ends,
    )


def prove_image(ct: CtImage, structures: StructureSet | None) -> None:
    """Refuse what is no CT or no structure set: a name of a file, mostly."""
    expect("The CT", ct, CtImage, "a CtImage", "Read it with read_ct")
    if structures is not None:
        expect("The structure set", structures, StructureSet, "a StructureSet", "Read it with read_structures")


def prove_spacing(spacing_cm: float) -> None:
    """Refuse voxels of a size that makes no sense."""
    expect_number("The spacing", spacing_cm, "cm", "Give one for all axes: 0.25 is usual, 0.125 for spine")
    if not (np.isfinite(spacing_cm) and 0.05 <= spacing_cm <= 1.0):
        raise InvalidInput(
            f"Spacing is {spacing_cm} cm", "0.05 to 1 cm can be computed", "2.5 mm is usual, 1.25 mm for spine"
        )


def find_fine_box(fine: FineLike, structures: StructureSet | None) -> FineBox | None:
    """The box of fine voxels that is meant.

    Parameters
    ----------
    fine : FineBox, str, sequence of str or None
        The box, or the structures that it is to lie around (`fine_box_around`).
    structures : StructureSet or None
        Where they are.
    """
    if fine is None or isinstance(fine, FineBox):
        return fine
    names = [fine] if isinstance(fine, str) else fine
    expect_each("The fine voxels", names, str, "names of structures, or a FineBox,")
    if structures is None:
        raise InvalidInput(
            f"Fine voxels around {', '.join(names)} were asked for",
            "there are no structures to look at",
            "Give them",
            argument="structures",
        )
    return fine_box_around(structures, names)


def _load(device: Backend, matter: DensityGrid, *, padded: bool = False) -> Scene:
    """Take matter to the device; with a layer of vacuum around it if asked for."""
    electron, number = matter.electron, matter.material.values
    if padded:
        electron, number = electron.padded(), np.pad(number, 1)
    return device.load(electron, number, matter.materials[1:])


def _hollow(device: Backend, scene: Scene, matter: DensityGrid, nest: Nest) -> Scene:
    """The same matter with vacuum in the box."""
    hollow = Volume(scene.grid, nest.hollow(matter.electron.values))
    return device.load(hollow, matter.material.values, matter.materials[1:])


def to_medium(
    dose: NDArray[np.float32], mass: NDArray[np.float32], electron: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Dose to the medium from dose to a water-like one: the energy belongs to the mass that is there.

    Parameters
    ----------
    dose : ndarray float32
        Energy over the mass of as many electrons' worth of water.
    mass, electron : ndarray float32, same shape
        Mass density [g/cm^3] and electron density relative to water.
    """
    return dose * np.divide(electron, mass, out=np.ones_like(dose), where=mass > 0)
