"""Dose of an ideal field - sharp edges, one spectrum, no treatment head -, to hold the transport against Monte
Carlo."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from spinedose._arguments import expect, expect_number, shown
from spinedose._version import __version__
from spinedose.backends.select import select_backend
from spinedose.composition import BONE_STEPS, bone_share
from spinedose.cones import SpectrumLike
from spinedose.density import read_curve
from spinedose.errors import InvalidInput
from spinedose.exposure import Shots, beam_tables, make_exposure
from spinedose.fluence_model import FluenceMaps, Raster
from spinedose.grid import Volume
from spinedose.materials import Material, bone_mix
from spinedose.materials import material as named
from spinedose.patient import to_medium
from spinedose.result import DOSE_QUANTITY, Dose, ResultInfo
from spinedose.settings import Settings, prove_settings
from spinedose.stages import DEEPEST_CM, transport_exposures
from spinedose.units import GY_PER_MEV_PER_G

FAR_AWAY_CM = 1e6
"""Source distance that stands for a parallel beam: rays over 40 cm differ by less than a hundredth of a degree."""


def ideal_field_dose(
    density: Volume,
    *,
    spectrum: SpectrumLike,
    field_cm: float,
    geometry: str = "parallel",
    ssd_cm: float = 100.0,
    material: MaterialChoice = None,
    dose_to: str = "medium",
    backend: str = "auto",
    settings: Settings | None = None,
) -> Dose:
    """Dose of a square photon field that enters a block of matter through its anterior face.

    The beam travels along +y (patient LPS, as gantry 0 on a supine patient); its axis is x = 0, z = 0.

    Parameters
    ----------
    density : Volume
        Mass density [g/cm^3]; its face of smallest y is the entrance surface. Where it is 0 there is vacuum.
    spectrum : Spectrum
        Photon fluence on the axis; the same over the whole field.
    field_cm : float
        Side of the square field at the entrance surface [cm].
    geometry : str
        `"parallel"`, or `"point"`: an isotropic point source.
    ssd_cm : float
        Distance of the point source from the surface [cm].
    material : optional
        What the matter is: a name (`spinedose.materials.list_materials`) or `Material` for all of it; an array of
        names, shape (nz, ny, nx); or a mapping of names to arrays of that shape that are true where it is. Where none
        is given it is tissue by its density: water-like, and cortical bone mixed in above 1.05 g/cm^3.
    dose_to : str
        `"medium"`: energy over mass, which Monte Carlo scores. `"water"`: energy over the mass of as many electrons'
        worth of water, which `compute_dose` returns by default (docs/theory/heterogeneity.md).
    backend : str
        `"auto"`, `"cpu"`, `"cuda"` or `"cuda:1"`.
    settings : Settings, optional
        Accuracy settings.

    Returns
    -------
    Dose
        In Gy per unit photon fluence (photons/cm^2, all energies, in vacuum at the entrance surface on the axis); it
        belongs to no plan.

    Raises
    ------
    InvalidInput
        If an argument makes no sense, or a density has no tissue and no material is given.
    """
    expect("The density", density, Volume, "a Volume", "Make one: Volume(Grid(...), values)")
    for what in ("energy_MeV", "weight"):
        if not hasattr(spectrum, what):
            why = "energies and weights are asked for"
            raise InvalidInput(f"The spectrum is {shown(spectrum)}", why, "Take that of a beam model, or a Spectrum")
    expect_number("The field", field_cm, "cm", "Give the side of the square")
    expect_number("The distance of the source", ssd_cm, "cm")
    prove_settings(settings)
    if dose_to not in ("medium", "water"):
        raise InvalidInput(f"Dose to '{dose_to}' is unknown", "there are 'medium' and 'water'")
    if geometry not in ("parallel", "point"):
        raise InvalidInput(f"Geometry '{geometry}' is unknown", "there are 'parallel' and 'point'")
    if not (field_cm > 0 and ssd_cm > 0):
        raise InvalidInput(f"Field {field_cm} cm at SSD {ssd_cm} cm", "both must be positive")
    settings = settings or Settings()
    sad = FAR_AWAY_CM if geometry == "parallel" else ssd_cm
    device = select_backend(backend)
    electron, number, media = _matter(density, material)
    padded = electron.padded()
    scene = device.load(padded, np.pad(number, 1), media)
    maps = _square_field(field_cm, sad, min(density.grid.spacing_cm))
    still = np.zeros(1)
    table, cones = beam_tables(spectrum, np.array([0.0, 50.0]), np.ones(2), 1.0, media=media, depth_cm=DEEPEST_CM)
    exposure = make_exposure(
        Shots(still, still, still, np.ones(1), maps),
        grid=padded.grid,
        patient_position="HFS",
        isocentre_cm=np.array([0.0, density.grid.lower_cm[1], 0.0]),
        sad_cm=sad,
        attenuation=table,
        group_step_deg=settings.group_step_deg,
    )
    dose, used = transport_exposures(device, scene, [exposure], [], cones, settings)
    mean_MeV = float(np.sum(np.asarray(spectrum.energy_MeV) * np.asarray(spectrum.weight)))
    inside = dose[1:-1, 1:-1, 1:-1] * np.float32(mean_MeV * GY_PER_MEV_PER_G)
    if dose_to == "medium":
        inside = to_medium(inside, density.values, electron.values)
    info = ResultInfo(
        version=__version__,
        backend=device.name,
        device=device.device,
        settings={**asdict(settings), "directions": used},
        dose_quantity=DOSE_QUANTITY[dose_to],
    )
    return Dose(Volume(density.grid, np.ascontiguousarray(inside)), info)


MaterialChoice = str | Material | NDArray[np.str_] | Mapping[str, NDArray[np.bool_]] | None


def _matter(density: Volume, choice: MaterialChoice) -> tuple[Volume, NDArray[np.uint8], tuple[Material, ...]]:
    """Relative electron density, number of each voxel's material, and materials from number 1 on."""
    shape = density.grid.shape
    if isinstance(choice, Material):
        where = {choice: np.ones(shape, bool)}
    elif isinstance(choice, str):
        where = {named(choice): np.ones(shape, bool)}
    elif isinstance(choice, Mapping):
        where = {named(name): np.asarray(mask, bool) for name, mask in choice.items()}
    elif choice is None:
        where = {}
    else:
        names = np.asarray(choice)
        where = {named(str(name)): names == name for name in np.unique(names)}
    for mask in where.values():
        if mask.shape != shape:
            raise InvalidInput(f"Materials have the shape {mask.shape}", f"the density has {shape}")
    rest = ~np.any([*where.values(), np.zeros(shape, bool)], axis=0)
    electron, number = np.zeros(shape, np.float32), np.zeros(shape, np.uint8)
    media: list[Material] = []
    if rest.any():
        electron[rest], number[rest], media = _tissue(density.values[rest])
    for own, mask in where.items():
        electron[mask] = density.values[mask] * np.float32(own.electrons_per_gram)
        if own.name != "water":
            media.append(own)
            number[mask] = len(media)
    return Volume(density.grid, electron), number, tuple(media)


def _tissue(mass: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.uint8], list[Material]]:
    """Relative electron density and material of tissue by its mass density, and the materials from number 1 on."""
    curve = read_curve()
    if mass.max() > curve.mass_density[-1]:
        raise InvalidInput(
            f"A density of {mass.max():g} g/cm3 is no tissue",
            f"the densest is {curve.mass_density[-1]:g} g/cm3",
            "Name its material",
        )
    known, electrons = (np.concatenate([[0.0], column]) for column in (curve.mass_density, curve.electron_density))
    electron = np.interp(mass, known, electrons).astype(np.float32)
    step = np.rint(BONE_STEPS * bone_share(mass, electron)).astype(np.uint8)
    return electron, step, [bone_mix(k / BONE_STEPS) for k in range(1, BONE_STEPS + 1)] if step.any() else []


def _square_field(side_cm: float, sad_cm: float, voxel_cm: float) -> FluenceMaps:
    """A square of unit fluence, averaged over the voxel (a trapezoid along x and along y)."""
    half = 0.5 * side_cm
    raster = Raster.covering(
        (-half - 2 * voxel_cm, half + 2 * voxel_cm), (-half - 2 * voxel_cm, half + 2 * voxel_cm), voxel_cm / 8
    )
    edge = np.clip((half - np.abs(raster.xs_cm)) / voxel_cm + 0.5, 0.0, 1.0)
    square = (raster.xs_cm[None, :] ** 2 + raster.ys_cm[:, None] ** 2) / sad_cm**2
    photon = (edge[None, :] * edge[:, None] / (1 + square)).astype(np.float32)[None]
    coarse = Raster.covering((-half, half), (-half, half), 1.0)
    return FluenceMaps(photon, raster, np.zeros((1, coarse.ny, coarse.nx), np.float32), coarse)
