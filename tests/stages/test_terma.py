"""Stage C: energy released and its angular moments, against analytic values and a plain reference in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from scipy.ndimage import map_coordinates
from scipy.special import erf

from spinedose.backends.base import Backend, Moments, Scene
from spinedose.cones import terma_table, water_attenuation
from spinedose.directions import harmonics
from spinedose.exposure import Attenuation, Exposure, Shots, attenuation, make_exposure, split_halo
from spinedose.fluence_model import FluenceMaps, Raster
from spinedose.machine import read_machine

H = 0.5
SAD = 100.0
SINGLE = 2e-5
"""Float32 through a few dozen operations, relative to the largest value."""

FACE_CM = H / 8
"""Error of the midpoint rule on the ramp that interpolation makes of a face: in the outermost voxel, 0 behind it."""

SURFACE = 0.05 * FACE_CM
"""The same as a share of TERMA, at an attenuation of 0.05 /cm."""

TABLES = 2e-4
"""Relative: the TERMA table is linear between depths 1 mm apart, and so are depths between rays."""

SIX = read_machine("varian-truebeam-m120").beam("6X").spectrum


@dataclass(frozen=True)
class Photons:
    energy_MeV: np.ndarray
    weight: np.ndarray


MONO = Photons(np.array([2.0, 2.001]), np.array([1.0, 1e-9]))
"""2 MeV; hardness wants a second energy."""


def flat(spectrum: object) -> Attenuation:
    return attenuation(spectrum, np.array([0.0, 40.0]), np.ones(2), 3.0, depth_cm=60.0)


def shots_of(photon: np.ndarray, raster: Raster, gantry, collimator=None, couch=None, electron=None) -> Shots:
    n = len(gantry)
    coarse = Raster(
        raster.x_cm,
        raster.y_cm,
        raster.pixel_cm * (raster.nx - 1) / 4,
        5,
        int(4 * (raster.ny - 1) / (raster.nx - 1)) + 1,
    )
    if electron is None:
        electron = np.zeros((n, coarse.ny, coarse.nx), np.float32)
    zero = np.zeros(n)
    return Shots(
        np.asarray(gantry, float),
        zero if collimator is None else np.asarray(collimator, float),
        zero if couch is None else np.asarray(couch, float),
        np.arange(1.0, n + 1.0),
        FluenceMaps(photon.astype(np.float32), raster, electron.astype(np.float32), coarse),
    )


def water(make_scene: Callable[..., Scene], shape=(24, 30, 24), density: object = 1.0) -> Scene:
    """A block with vacuum around; its middle in the origin."""
    values = np.zeros([n + 2 for n in shape], np.float32)
    values[1:-1, 1:-1, 1:-1] = density
    first = [-0.5 * H * (n + 1) for n in shape[::-1]]
    return make_scene(values, (H, H, H), first)


def release(backend: Backend, scene: Scene, exposure: Exposure, order: int, *, low=(0, 0, 0), high=None) -> Moments:
    moments = backend.new_moments(scene, low, high or scene.grid.shape, order)
    count = len(exposure)
    middle = count // 2
    for a, b in ((0, middle), (middle, count)):
        if b > a:
            backend.release(
                scene, exposure, backend.radiological_depth(scene, exposure.fans.part(a, b)), (a, b), moments
            )
    return moments


def expose(scene: Scene, shots: Shots, table: Attenuation, *, isocentre=(0.0, 0.0, 0.0), step=4.0, sad=SAD) -> Exposure:
    return make_exposure(
        shots,
        grid=scene.grid,
        patient_position="HFS",
        isocentre_cm=np.array(isocentre),
        sad_cm=sad,
        attenuation=table,
        group_step_deg=step,
    )


def centres(scene: Scene) -> np.ndarray:
    x, y, z = scene.grid.axes_cm
    z, y, x = np.meshgrid(z, y, x, indexing="ij")
    return np.stack([x, y, z], axis=-1)


WIDE = Raster(-8.0, -8.0, 0.25, 65, 65)


def test_inverse_square_and_attenuation(backend: Backend, make_scene: Callable[..., Scene], host: Callable) -> None:
    """Unit fluence of 2 MeV from above: (SAD / distance)^2 mu exp(-mu d), with the slant depth d of a diverging ray."""
    scene = water(make_scene)
    exposure = expose(scene, shots_of(np.ones((1, 65, 65)), WIDE, [0.0]), flat(MONO))
    moments = release(backend, scene, exposure, 0)
    energy = host(moments.values)[:, :, 0, :] * np.sqrt(4 * np.pi)
    point = centres(scene)
    distance = SAD + point[..., 1]
    inside = host(scene.density) > 0
    # away from faces that rays run along: fans interpolate between a ray inside and one outside
    lit = inside & (np.abs(point[..., ::2]).max(axis=-1) < 5.0)
    slant = (point[..., 1] + 7.5) * np.sqrt(1 + (point[..., 0] ** 2 + point[..., 2] ** 2) / distance**2)
    mu = water_attenuation([2.0])[0]
    # planes of unit fluence: one unit passes a square of the isocentre plane, so it thins with the square of the height
    expected = (SAD / distance) ** 2 * mu * np.exp(-mu * slant)
    np.testing.assert_allclose(energy[lit], expected[lit], rtol=SURFACE)
    deep = lit & (point[..., 1] > -7.0)
    np.testing.assert_allclose(energy[deep], expected[deep], rtol=TABLES)
    assert np.all(energy[~inside] == 0)
    dark = np.abs(point[..., ::2]).max(axis=-1) > 8.0 * distance / SAD + 1e-6
    assert np.all(energy[dark] == 0)


def test_energy_released_grows_with_density(backend: Backend, make_scene, host) -> None:
    """TERMA a volume is proportional to the electron density of the voxel, behind the same depth."""
    shape = (24, 30, 24)
    density = np.ones(shape, np.float32)
    density[:, 10, 12] = 3.0
    shots = shots_of(np.ones((1, 65, 65)), WIDE, [0.0])
    energies = []
    for matter in (np.float32(1.0), density):
        scene = water(make_scene, shape, matter)
        energies.append(host(release(backend, scene, expose(scene, shots, flat(MONO), sad=1e6), 0).values)[:, :, 0])
    row = (slice(5, -5), 11, 13)
    mu = water_attenuation([2.0])[0]
    # the heavy voxel's own upper half is in the way: half a voxel of 2 more, shared with the one above
    extra = np.log(3 * energies[0][row] / energies[1][row]) / mu
    assert np.all((extra > 0.3 * H) & (extra < 1.0 * H))
    np.testing.assert_allclose(energies[0][5:-5, :10, 13], energies[1][5:-5, :10, 13], rtol=SINGLE)


def test_hardness_moments(backend: Backend, make_scene, host) -> None:
    """The second set of moments is the first times the hardness behind that depth."""
    scene = water(make_scene)
    exposure = expose(scene, shots_of(np.ones((1, 65, 65)), WIDE, [0.0]), flat(SIX), sad=1e6)
    values = host(release(backend, scene, exposure, 2).values)
    plain, hard = values[:, :, :9], values[:, :, 9:]
    depth = centres(scene)[..., 1] + 7.5
    table = terma_table(SIX, depth_cm=60.0)
    expected = np.interp(depth, table.depth_cm, table.hardness[0, 0])
    lit = (plain[:, :, 0] > 0) & (np.abs(centres(scene)[..., ::2]).max(axis=-1) < 5.0)
    ratio = hard[:, :, 0][lit] / plain[:, :, 0][lit]
    # the top of the curve is the steepest: 0.06 a centimetre
    np.testing.assert_allclose(ratio, expected[lit], atol=0.07 * FACE_CM)
    np.testing.assert_allclose(ratio[depth[lit] > H], expected[lit][depth[lit] > H], atol=5 * TABLES)
    assert expected[lit].max() > 0.7
    for n in range(9):
        np.testing.assert_allclose(hard[:, :, n][lit], plain[:, :, n][lit] * ratio, atol=SINGLE * plain.max())


def test_softening_off_axis(backend: Backend, make_scene, host) -> None:
    """Off the axis the attenuation of the first 10 cm is larger by the table's factor; linear in radius here."""
    radius, soften = np.array([0.0, 10.0]), np.array([1.0, 1.1])
    table = attenuation(SIX, radius, soften, 3.0, depth_cm=60.0)
    scene = water(make_scene)
    shots = shots_of(np.ones((1, 65, 65)), WIDE, [0.0])
    with_softening = host(release(backend, scene, expose(scene, shots, table, sad=1e6), 0).values)[:, :, 0]
    point = centres(scene)
    for x in (0.25, 3.25, 6.25):
        j = int(np.argmin(np.abs(scene.grid.axes_cm[0] - x)))
        column = with_softening[13, :, j]
        at = point[13, :, j]
        factor = 1 + 0.01 * np.hypot(x, at[0, 2])
        own = terma_table(SIX, [1.0, factor] if factor > 1 else [1.0], depth_cm=60.0)
        expected = np.interp(at[:, 1] + 7.5, own.depth_cm, own.terma[0, -1])
        inside = column > 0
        np.testing.assert_allclose(column[inside] * np.sqrt(4 * np.pi), expected[inside], rtol=SURFACE)
        np.testing.assert_allclose(column[inside][1:] * np.sqrt(4 * np.pi), expected[inside][1:], rtol=5 * TABLES)


def test_moments_are_the_harmonics_of_the_direction_of_travel(backend: Backend, make_scene, host) -> None:
    scene = water(make_scene)
    source = SAD * np.array([np.sin(np.radians(70.0)), -np.cos(np.radians(70.0)), 0.0])  # gantry 70, supine
    exposure = expose(scene, shots_of(np.ones((1, 65, 65)), WIDE, [70.0]), flat(MONO))
    values = host(release(backend, scene, exposure, 6).values)[:, :, :49]
    along = centres(scene) - source
    along /= np.linalg.norm(along, axis=-1)[..., None]
    expected = harmonics(along, 6)
    energy = values[:, :, 0] * np.sqrt(4 * np.pi)
    lit = energy > 0
    for n in range(49):
        np.testing.assert_allclose(values[:, :, n][lit], (energy * expected[..., n])[lit], atol=SINGLE * energy.max())


def plain_reference(backend: Backend, host: Callable, scene: Scene, exposure: Exposure, order: int):
    """What stage C should do, voxel by voxel and shot by shot, in float64; no windows, no rows."""
    point = centres(scene) - exposure.fans.isocentre_cm
    density = host(scene.density).astype(float)
    moments = np.zeros((2, (order + 1) ** 2, *density.shape))
    electrons = np.zeros(density.shape)
    maps, table, fans = exposure.maps, exposure.attenuation, exposure.fans
    depth = host(backend.radiological_depth(scene, fans)).astype(float)

    def look_up(image: np.ndarray, raster: Raster, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        a, b = (x - raster.x_cm) / raster.pixel_cm, (y - raster.y_cm) / raster.pixel_cm
        inside = (a >= 0) & (b >= 0) & (a < raster.nx - 1) & (b < raster.ny - 1)
        return map_coordinates(image.astype(float), [b, a], order=1, mode="nearest") * inside

    for g in range(len(exposure)):
        here = point @ fans.rotation[g].T
        scale = fans.sad_cm / (fans.sad_cm - here[..., 2])
        u, v = here[..., 0] * scale, here[..., 1] * scale
        path = map_coordinates(
            depth[g],
            [
                (v - fans.v_cm) / fans.pitch_cm,
                (u - fans.u_cm) / fans.pitch_cm,
                (fans.top_cm[g] - here[..., 2]) / fans.step_cm,
            ],
            order=1,
            mode="nearest",
        )
        fluence, contaminant = np.zeros(density.shape), np.zeros(density.shape)
        for s in range(exposure.first[g], exposure.first[g + 1]):
            own = point @ exposure.shot_rotation[s].T
            shrink = fans.sad_cm / (fans.sad_cm - own[..., 2])
            x, y = own[..., 0] * shrink, own[..., 1] * shrink
            fluence += look_up(maps.photon[s], maps.raster, x, y)
            contaminant += look_up(maps.electron[s], maps.electron_raster, x, y)
        soft = np.interp(np.hypot(u, v) / table.radius_step_cm, np.arange(len(table.soft_row)), table.soft_row)
        terma, hard = (
            map_coordinates(
                table.terma[0, ..., i].astype(float), [soft, path / table.depth_step_cm], order=1, mode="nearest"
            )
            for i in (0, 1)
        )
        energy = fluence * scale**2 * density * terma
        away = point - fans.sad_cm * fans.rotation[g, 2]
        wave = np.moveaxis(harmonics(away / np.linalg.norm(away, axis=-1)[..., None], order), -1, 0)
        moments += np.stack([energy * wave, energy * hard * wave])
        electrons += (density > 0) * contaminant * scale**2 * np.exp(-table.electron_decay_per_cm * path)
    return moments, electrons


@pytest.mark.parametrize("order", [0, 1, 3, 5, 6])
def test_against_a_plain_reference(backend: Backend, make_scene, host, order: int) -> None:
    """Random matter and maps, several groups, couch and collimator turned, off-centre isocentre, uneven voxels."""
    rng = np.random.default_rng(11)
    values = rng.uniform(0.0, 2.0, (13, 15, 17)).astype(np.float32)
    values[rng.uniform(size=values.shape) < 0.2] = 0.0
    scene = make_scene(values, (0.5, 0.4, 0.6), (-3.0, -2.0, 5.0))
    raster = Raster(-3.0, -2.0, 0.2, 26, 23)
    n = 5
    photon = np.pad(rng.uniform(0, 1, (n, 19, 22)), [(0, 0), (2, 2), (2, 2)])
    coarse = Raster(raster.x_cm, raster.y_cm, raster.pixel_cm * 25 / 4, 5, int(4 * 22 / 25) + 1)
    electron = np.zeros((n, coarse.ny, coarse.nx))
    electron[:, 1:-1, 1:-1] = rng.uniform(0, 0.1, (n, coarse.ny - 2, 3))
    # the groups hold one shot each: reach and depth then belong to the shot's own angle
    shots = shots_of(
        photon, raster, [10.0, 95.0, 200.0, 300.0, 300.0], [0, 30, 350, 91, 10], [0, 0, 60, 300, 300], electron
    )
    table = attenuation(SIX, np.array([0.0, 3.0, 20.0]), np.array([1.0, 1.05, 1.1]), 2.0, depth_cm=60.0)
    exposure = expose(scene, shots, table, isocentre=(0.8, 0.7, 8.0))
    assert len(exposure) == 4
    moments = release(backend, scene, exposure, order)
    expected, electrons = plain_reference(backend, host, scene, exposure, order)
    size = (order + 1) ** 2
    actual = host(moments.values)
    # one voxel centre in a few thousand lies within float32 rounding of a pixel row where the map ends at zero: no jump
    for h in (0, 1):
        for k in range(size):
            np.testing.assert_allclose(
                actual[:, :, h * size + k],
                expected[h, k],
                atol=5 * SINGLE * np.abs(expected[h]).max(),
                err_msg=f"{h} {k}",
            )
    assert np.abs(expected[0, 0]).max() > 0 and np.mean(expected[0, 0] > 0) > 0.2
    dose = host(moments.electron_dose)
    # deeper than seven decay lengths, 0.1 % of the surface, electrons are left out
    np.testing.assert_allclose(dose, electrons, atol=1.2e-3 * electrons.max())
    assert np.mean(electrons > 0.01 * electrons.max()) > 0.02


def test_a_box_of_moments_is_part_of_the_whole(backend: Backend, make_scene, host) -> None:
    scene = water(make_scene)
    exposure = expose(scene, shots_of(np.ones((2, 65, 65)), WIDE, [20.0, 120.0]), flat(SIX))
    whole = host(release(backend, scene, exposure, 3).values)
    low, high = (3, 5, 7), (20, 19, 24)
    part = host(release(backend, scene, exposure, 3, low=low, high=high).values)
    inside = whole[3:20, 5:19, :, 7:24]
    np.testing.assert_allclose(part, inside, atol=SINGLE * whole.max())


def test_shots_of_a_group_add_up(backend: Backend, make_scene, host) -> None:
    scene = water(make_scene)
    rng = np.random.default_rng(3)
    photon = rng.uniform(0, 1, (3, 65, 65))
    table = flat(SIX)
    together = release(backend, scene, expose(scene, shots_of(photon, WIDE, [40.0] * 3, [0, 0, 0]), table), 2)
    added = release(backend, scene, expose(scene, shots_of(photon.sum(axis=0)[None], WIDE, [40.0], [0]), table), 2)
    a, b = host(together.values), host(added.values)
    np.testing.assert_allclose(a, b, atol=SINGLE * b.max())


def test_a_group_of_several_angles_loses_no_fluence(backend: Backend, make_scene, host) -> None:
    """Shots up to 2 degrees off their group's mean angle, a penumbra of 3 mm, voxels up to 7.5 cm from the isocentre.

    The group's window is that of its mean angle; what a shot loses beyond it is the end of the ramp of `split_halo`.
    """
    scene = water(make_scene)
    raster = Raster(-6.0, -6.0, 0.1, 121, 121)
    edge = 0.5 * (erf((raster.xs_cm + 2.0) / 0.42) - erf((raster.xs_cm - 2.0) / 0.42))
    shots = shots_of(np.tile(edge * edge[:, None], (2, 1, 1)), raster, [0.1, 3.9])
    field, halo = split_halo(shots, 12.0)
    for part in (field, halo):
        exposure = expose(scene, part, flat(MONO), step=12.0)
        assert len(exposure) == 1
        actual = host(release(backend, scene, exposure, 0).values)[:, :, 0]
        expected, _ = plain_reference(backend, host, scene, exposure, 0)
        lost = expected[0, 0].sum() - actual.sum(dtype=float)
        if part is field:
            whole = expected[0, 0].sum()
        assert abs(lost) < 1e-3 * whole
