"""Dose of an ideal field - sharp edges, one spectrum, no treatment head -, to hold the transport against Monte
Carlo."""

from __future__ import annotations

import numpy as np

from spinedose.backends.select import select_backend
from spinedose.cones import SpectrumLike, cone_table
from spinedose.engine import DEEPEST_CM, Settings, transport_exposures
from spinedose.errors import InvalidInput
from spinedose.exposure import Shots, attenuation, make_exposure
from spinedose.fluence_model import FluenceMaps, Raster
from spinedose.grid import Volume
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
    backend: str = "auto",
    settings: Settings | None = None,
) -> Volume:
    """Dose of a square photon field that enters a block of matter through its anterior face.

    The beam travels along +y (patient LPS, as gantry 0 on a supine patient); its axis is x = 0, z = 0.

    Parameters
    ----------
    density : Volume
        Electron density relative to water; its face of smallest y is the entrance surface.
    spectrum : Spectrum
        Photon fluence on the axis; the same over the whole field.
    field_cm : float
        Side of the square field at the entrance surface [cm].
    geometry : str
        `"parallel"`, or `"point"`: an isotropic point source.
    ssd_cm : float
        Distance of the point source from the surface [cm].
    backend : str
        `"auto"` or `"cpu"`.
    settings : Settings, optional
        Accuracy settings.

    Returns
    -------
    Volume
        Dose to water-like medium in Gy per unit photon fluence (photons/cm^2, all energies, in vacuum at the entrance
        surface
        on the axis).
    """
    if geometry not in ("parallel", "point"):
        raise InvalidInput(f"Geometry '{geometry}' is unknown", "there are 'parallel' and 'point'")
    if not (field_cm > 0 and ssd_cm > 0):
        raise InvalidInput(f"Field {field_cm} cm at SSD {ssd_cm} cm", "both must be positive")
    settings = settings or Settings()
    sad = FAR_AWAY_CM if geometry == "parallel" else ssd_cm
    device = select_backend(backend)
    padded = density.padded()
    maps = _square_field(field_cm, sad, min(density.grid.spacing_cm))
    still = np.zeros(1)
    table = attenuation(spectrum, np.array([0.0, 50.0]), np.ones(2), 1.0, depth_cm=DEEPEST_CM)
    exposure = make_exposure(
        Shots(still, still, still, np.ones(1), maps),
        grid=padded.grid,
        patient_position="HFS",
        isocentre_cm=np.array([0.0, density.grid.lower_cm[1], 0.0]),
        sad_cm=sad,
        attenuation=table,
        group_step_deg=settings.group_step_deg,
    )
    dose, _ = transport_exposures(device, device.load(padded), [exposure], [], cone_table(spectrum), settings)
    mean_MeV = float(np.sum(np.asarray(spectrum.energy_MeV) * np.asarray(spectrum.weight)))
    inside = dose[1:-1, 1:-1, 1:-1] * np.float32(mean_MeV * GY_PER_MEV_PER_G)
    return Volume(density.grid, np.ascontiguousarray(inside))


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
