"""Bone and metal in stages B to E: their own attenuation, and electrons that scatter more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from cuda_on_host import on_device

from spinedose.backends.base import Backend, Moments, Scene
from spinedose.cones import ConeTable, RadialBasis, cone_table, water_attenuation
from spinedose.directions import directions
from spinedose.exposure import Attenuation, Shots, beam_tables, make_exposure
from spinedose.fluence_model import FluenceMaps, Raster
from spinedose.grid import Grid, Volume
from spinedose.machine import read_machine
from spinedose.materials import material

SIX = read_machine("varian-truebeam-m120").beam("6X").spectrum
TITANIUM, BONE = MEDIA = material("titanium"), material("cortical-bone")
H = 0.5

TABLES = 1e-3
"""Relative: TERMA tables are linear between depths, and depths between rays."""

BEHIND = 4e-3
"""Relative TERMA behind other matter: one path factor for all of a spectrum's photons."""

CONSERVED = 2e-5
"""Relative energy balance in single precision."""


def layered(backend: Backend, kinds: list[int], densities: list[float]) -> Scene:
    """Layers along y, voxels of H, in vacuum; each with its material (0 water, 1 titanium, 2 bone)."""
    n = len(kinds)
    grid = Grid((-0.5 * H * 7, 0.5 * H, -0.5 * H * 7), (H, H, H), (8, n, 8))

    def full(values: list[float], kind: type) -> np.ndarray:
        return np.ascontiguousarray(np.broadcast_to(np.array(values, kind)[None, :, None], grid.shape))

    padded = Volume(grid, full(densities, np.float32)).padded()
    return backend.load(padded, np.pad(full(kinds, np.uint8), 1), MEDIA)


def tables() -> tuple[Attenuation, ConeTable]:
    return beam_tables(SIX, np.array([0.0, 40.0]), np.ones(2), 3.0, media=MEDIA, depth_cm=60.0)


def release(backend: Backend, scene: Scene, table: Attenuation, cones: ConeTable, order: int = 0) -> Moments:
    """A parallel beam along y through everything."""
    raster = Raster(-3.0, -3.0, 0.25, 25, 25)
    still = np.zeros(1)
    maps = FluenceMaps(np.ones((1, 25, 25), np.float32), raster, np.zeros((1, 5, 5), np.float32),
                       Raster(-3.0, -3.0, 1.5, 5, 5))  # fmt: skip
    exposure = make_exposure(
        Shots(still, still, still, np.ones(1), maps), grid=scene.grid, patient_position="HFS",
        isocentre_cm=np.zeros(3), sad_cm=1e6, attenuation=table, group_step_deg=4.0,
    )  # fmt: skip
    moments = backend.new_moments(scene, (0, 0, 0), scene.grid.shape, order, len(cones.energy))
    depth = backend.radiological_depth(scene, exposure.fans, table.path_factor)
    backend.release(scene, exposure, depth, (0, 1), moments)
    return moments


def on_axis(host: Callable, moments: Moments) -> np.ndarray:
    """Energy released along the beam."""
    return host(moments.values)[4:6, 1:-1, 0, 4:6].astype(float).mean(axis=(0, 2)) * np.sqrt(4 * np.pi)


@pytest.mark.parametrize(("kind", "medium", "density"), [(1, TITANIUM, 3.76), (2, BONE, 1.78)])
def test_matter_releases_and_attenuates_by_its_own_coefficients(
    backend: Backend, host: Callable, kind: int, medium, density: float
) -> None:
    """5 cm of water, 1 cm of something, 5 cm of water: TERMA in it and behind it, energy by energy."""
    kinds, densities = [0] * 10 + [kind] * 2 + [0] * 10, [1.0] * 10 + [density] * 2 + [1.0] * 10
    table, cones = tables()
    mine = on_axis(host, release(backend, layered(backend, kinds, densities), table, cones))
    energy, weight = SIX.energy_MeV, SIX.energy_MeV * SIX.weight / (SIX.energy_MeV * SIX.weight).sum()
    of_water, own = water_attenuation(energy), medium.attenuation(energy) / medium.electrons_per_gram
    expected, passed = [], np.zeros_like(energy)
    for k, rho in zip(kinds, densities, strict=True):
        mu = own if k else of_water
        expected.append(rho * float((weight * mu * np.exp(-passed - 0.5 * H * rho * mu)).sum()))
        passed = passed + H * rho * mu
    error = mine / np.array(expected) - 1
    np.testing.assert_allclose(error[:10], 0, atol=TABLES)
    # a voxel at a face reads its depth from voxels half filled: H/8 of the difference in density
    np.testing.assert_allclose(error[10:12], 0, atol=BEHIND + 0.05 * H * density / 8)
    np.testing.assert_allclose(error[13:], 0, atol=BEHIND)
    plain = on_axis(host, release(backend, layered(backend, [0] * 22, densities), table, cones))
    assert abs(plain[10] / expected[10] - 1) > 5 * TABLES, "water of that density would not do"


def test_no_energy_is_lost_in_heavier_matter(backend: Backend, host: Callable) -> None:
    """Titanium in water, walls thick enough for the slowest rate: what is released is deposited, but elsewhere."""
    wall, order = 3, 4
    scene = layered(backend, [0] * 3 + [1] * 2 + [0] * 3, [1.0] * 3 + [3.7] * 2 + [1.0] * 3)
    density = np.pad(host(scene.density), wall, constant_values=8.0)
    thick = backend.load(
        Volume(Grid((0.0, 0.0, 0.0), (10.0,) * 3, density.shape), density), np.pad(host(scene.material), wall), MEDIA
    )
    table, cones = tables()
    released = host(release(backend, scene, table, cones, order).values)
    low = (wall,) * 3
    high = tuple(wall + n for n in scene.grid.shape)
    deposited = []
    for own in (cones, cone_table(SIX)):
        field, halo = (backend.new_moments(thick, low, high, degree, len(own.energy)) for degree in (order, 0))
        field.values[...] = on_device(backend, released[:, :, : field.values.shape[2]])
        deposited.append(host(backend.transport(thick, field, halo, own, directions(104, order))))
    spread, straight = deposited
    assert spread.sum(dtype=float) == pytest.approx(straight.sum(dtype=float), rel=CONSERVED)
    assert np.abs(spread - straight).max() > 1e-3 * straight.max()


def test_electrons_come_back_from_heavier_matter(backend: Backend, host: Callable, carry: Callable) -> None:
    """A ray from water into titanium: `returned` of the electrons' energy at the face stays in the voxel before it.

    Nothing comes back of scattered photons, nor where the ray leaves the metal; no energy is lost.
    """
    kinds, densities = [0] * 6 + [1] * 3 + [0] * 6, [1.0] * 6 + [3.7] * 3 + [1.0] * 6
    scene = layered(backend, kinds, densities)
    lone = RadialBasis((0.05, 0.8), (1, 2))
    energy = np.zeros((2, 3, 1))
    energy[0, :, 0] = 0.3, 0.0, 0.7  # photons, then electrons with one and two stages to go
    returned = np.array([0.0, 0.1, 0.03], np.float32)
    straight = ConeTable(lone, np.array([0.0, 180.0]), energy)
    reflecting = replace(straight, density_factor=np.ones(3, np.float32), returned=returned)
    source = np.zeros((1, 1, 1), np.float32)
    source[...] = 1.0
    along = [
        host(carry(scene, source, cones, (0.0, 1.0, 0.0), low=(4, 2, 4)))[4, 1:-1, 4].astype(float)
        for cones in (straight, reflecting)
    ]
    more = along[1] - along[0]
    assert np.flatnonzero(np.abs(more) > 1e-9).min() == 5, "nothing changes before the voxel at the face"
    passing = along[0][6:].sum() + (1 - along[0].sum())  # all that crosses the face
    rate = 0.05 * H * 1.0
    of_photons = 0.3 * (1 - np.exp(-rate)) / rate * np.exp(-rate * 4)
    assert more[5] == pytest.approx(0.1 * (passing - of_photons), rel=1e-3)
    assert np.all(more[6:] < 1e-9), "all others get less, by what came back"
    ratio = more[9:] / along[0][9:]
    assert np.all(np.diff(ratio[:3]) > 0), "the photons' share grows behind"


@pytest.mark.parametrize("rho", [1e-4, 0.1])
def test_thin_matter_holds_of_what_comes_back_as_much_as_it_can_stop(
    backend: Backend, host: Callable, carry: Callable, rho: float
) -> None:
    """A voxel that is almost empty before bone gets a dose, not an energy, like that of water there."""
    energy = np.zeros((2, 2, 1))
    energy[0, :, 0] = 0.0, 1.0  # no photons, electrons
    cones = replace(
        ConeTable(RadialBasis((0.05, 0.8), (1, 1)), np.array([0.0, 180.0]), energy),
        density_factor=np.ones(3, np.float32), returned=np.array([0.0, 0.1, 0.03], np.float32),
    )  # fmt: skip
    source = np.ones((1, 1, 1), np.float32)
    doses = []
    for density in (1.0, rho):
        scene = layered(backend, [0] * 6 + [1] * 3, [1.0] * 5 + [density] + [3.7] * 3)
        energy = host(carry(scene, source, cones, (0.0, 1.0, 0.0), low=(4, 4, 4)))[4, 1:-1, 4].astype(float)
        doses.append(energy[5] / density)
    # thin: all of the energy that reaches its face reaches its end; in water a part stopped before
    assert 1.0 < doses[1] / doses[0] < 2.0
