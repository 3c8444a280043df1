"""Parallel beams in blocks of water - static squares and an arc of 36 beams that spares a cord -, with energy
released as the engine releases it: the cases that transport is compared on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spinedose.backends.base import Backend, Scene
from spinedose.cones import ConeTable, SpectrumLike, cone_table, fit_basis, fit_cones, released_energy, water_kernels
from spinedose.exposure import Attenuation, Exposure, Shots, attenuation, make_exposure
from spinedose.fluence_model import FluenceMaps, Raster
from spinedose.geometry import gantry_from_patient
from spinedose.grid import Grid, Volume
from spinedose.ideal import FAR_AWAY_CM
from spinedose.machine import read_machine
from spinedose.stages import DEEPEST_CM

Array = NDArray[np.float64]
Maps = NDArray[np.float32]

CORD_CM = np.array([0.0, 1.2, 0.0])
CORD_RADIUS_CM, TARGET_RADIUS_CM, TARGET_LENGTH_CM = 0.5, 2.5, 5.0
KERNEL_DEPTH_CM = 10.0
"""Depth whose spectrum makes the one kernel that stands for all depths where hardening is not the question."""


def six_mv() -> SpectrumLike:
    """The spectrum that most studies use: 6X of the start machine."""
    return read_machine("varian-truebeam-m120").beams["6X"].spectrum


def one_kernel(spectrum: SpectrumLike) -> tuple[Array, ConeTable]:
    """A tabulated kernel (t, r), and the cone table fitted to it alone (no change with hardness)."""
    table = water_kernels()
    kernel = table.mix(spectrum.energy_MeV, released_energy(spectrum, KERNEL_DEPTH_CM))
    basis = fit_basis(spectrum)
    fitted = fit_cones(kernel, table, basis)
    return kernel, ConeTable(basis, table.theta_edge_deg, np.array([fitted, np.zeros_like(fitted)]))


def both_kernels(spectrum: SpectrumLike) -> ConeTable:
    """The engine's own cone table, hardness and all."""
    return cone_table(spectrum)


def water_block(shape: tuple[int, int, int], spacing_cm: float) -> Volume:
    """Water (z, y, x) around the origin with one layer of vacuum on every side."""
    full = tuple(n + 2 for n in shape)
    origin = tuple(-(n - 1) / 2 * spacing_cm for n in full[::-1])
    values = np.zeros(full, np.float32)
    values[1:-1, 1:-1, 1:-1] = 1
    return Volume(Grid(origin, (spacing_cm,) * 3, full), values)  # type: ignore[arg-type]


def inside(values: NDArray[np.floating]) -> NDArray[np.floating]:
    """Without the layer of vacuum."""
    return values[1:-1, 1:-1, 1:-1]


@dataclass(frozen=True, slots=True, eq=False)
class Beams:
    """Beams around the origin.

    Parameters
    ----------
    gantry_deg : ndarray, shape (n,)
        Gantry angles; the couch stands at 0.
    fluence : ndarray float32, shape (n, ny, nx)
        One map a beam, gantry system.
    raster : Raster
        Its pixels.
    """

    gantry_deg: Array
    fluence: Maps
    raster: Raster

    def __len__(self) -> int:
        return len(self.gantry_deg)

    def directions(self) -> Array:
        """Direction of travel of each beam's axis (n, 3), patient axes (x, y, z)."""
        return np.array([-gantry_from_patient("HFS", 0.0, g)[2] for g in self.gantry_deg])

    def exposure(
        self, which: slice, grid: Grid, table: Attenuation, *, sad_cm: float = FAR_AWAY_CM, group_step_deg: float = 1.0
    ) -> Exposure:
        """Some of the beams as the engine wants them."""
        gantry = self.gantry_deg[which]
        n = len(gantry)
        coarse = Raster.covering((-1.0, 1.0), (-1.0, 1.0), 1.0)
        nothing = np.zeros((n, coarse.ny, coarse.nx), np.float32)
        maps = FluenceMaps(self.fluence[which], self.raster, nothing, coarse)
        return make_exposure(
            Shots(gantry, np.zeros(n), np.zeros(n), np.ones(n), maps),
            grid=grid,
            patient_position="HFS",
            isocentre_cm=np.zeros(3),
            sad_cm=sad_cm,
            attenuation=table,
            group_step_deg=group_step_deg,
        )

    def exposures(
        self, grid: Grid, table: Attenuation, *, sad_cm: float = FAR_AWAY_CM, group_step_deg: float = 1.0
    ) -> list[Exposure]:
        """One exposure a beam."""
        return [
            self.exposure(slice(i, i + 1), grid, table, sad_cm=sad_cm, group_step_deg=group_step_deg)
            for i in range(len(self))
        ]


def plain_attenuation(spectrum: SpectrumLike) -> Attenuation:
    """No off-axis softening, no electrons."""
    return attenuation(spectrum, np.array([0.0, 50.0]), np.ones(2), 1.0, depth_cm=DEEPEST_CM)


def square(side_cm: float, voxel_cm: float, gantry_deg: float = 0.0) -> Beams:
    """A sharp square, averaged over the voxels' footprint."""
    raster = _raster(side_cm / 2, side_cm / 2, voxel_cm)
    along = _averaged(lambda u: np.abs(u) < side_cm / 2, raster.xs_cm, voxel_cm, gantry_deg)
    across = _averaged(lambda v: np.abs(v) < side_cm / 2, raster.ys_cm, voxel_cm, 0.0)
    return Beams(np.array([gantry_deg]), (across[:, None] * along[None]).astype(np.float32)[None], raster)


def cord_sparing_arc(voxel_cm: float, *, beams: int = 36, radius_cm: float = TARGET_RADIUS_CM) -> Beams:
    """Beams evenly spaced around a target that a cord lies in; each is blocked over the cord."""
    gantry = np.arange(beams) * 360.0 / beams
    raster = _raster(radius_cm, TARGET_LENGTH_CM / 2, voxel_cm)
    across = _averaged(lambda v: np.abs(v) < TARGET_LENGTH_CM / 2, raster.ys_cm, voxel_cm, 0.0)
    maps = []
    for g in gantry:
        cord = float(gantry_from_patient("HFS", 0.0, g)[0] @ CORD_CM)

        def is_open(u: Array, cord: float = cord) -> NDArray[np.bool_]:
            return (np.abs(u) < radius_cm) & (np.abs(u - cord) > CORD_RADIUS_CM)

        maps.append(across[:, None] * _averaged(is_open, raster.xs_cm, voxel_cm, g)[None])
    return Beams(gantry, np.array(maps, np.float32), raster)


def _raster(half_x_cm: float, half_y_cm: float, voxel_cm: float) -> Raster:
    edge = 2 * voxel_cm
    return Raster.covering((-half_x_cm - edge, half_x_cm + edge), (-half_y_cm - edge, half_y_cm + edge), voxel_cm / 8)


def _averaged(is_open, at_cm: Array, voxel_cm: float, gantry_deg: float) -> Array:  # type: ignore[no-untyped-def]
    """Mean of an open-or-closed pattern over the shadow of a voxel that is turned against it."""
    sides = voxel_cm * np.abs([np.cos(np.radians(gantry_deg)), np.sin(np.radians(gantry_deg))])
    n = 24
    offset = (np.arange(n) + 0.5) / n - 0.5
    shift = (offset[:, None] * sides[0] + offset[None] * sides[1]).reshape(-1)
    result: Array = is_open(at_cm[:, None] + shift[None]).mean(axis=1)
    return result


def released(device: Backend, scene: Scene, exposure: Exposure) -> NDArray[np.float32]:
    """Energy released in every voxel (z, y, x), as stages B and C make it."""
    moments = device.new_moments(scene, (0, 0, 0), scene.grid.shape, 0)
    depth = device.radiological_depth(scene, exposure.fans)
    device.release(scene, exposure, depth, (0, len(exposure)), moments)
    terma: NDArray[np.float32] = moments.values[:, :, 0, :] * np.float32(np.sqrt(4 * np.pi))
    return terma
