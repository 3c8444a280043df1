"""Shots, groups and halos: fluence is only rearranged, and every shot is delivered once."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest

from spinedose.cones import terma_table
from spinedose.exposure import (
    Attenuation,
    Shots,
    Window,
    attenuation,
    collimator_rotations,
    corners,
    make_exposure,
    make_fans,
    pool,
    reached_box,
    split_halo,
    voxel_axes,
    window,
)
from spinedose.fluence_model import FluenceMaps, Raster
from spinedose.geometry import beam_direction, collimator_from_gantry, gantry_from_patient
from spinedose.grid import Grid
from spinedose.machine import read_machine
from spinedose.segments import segment_beam

SINGLE = 1e-5
GRID = Grid((-9.75, -9.75, -9.75), (0.5, 0.5, 0.5), (40, 40, 40))
RASTER = Raster(-6.0, -4.0, 0.1, 121, 82)
COARSE = Raster(-6.0, -4.0, 2.0, 7, 5)
SIX = read_machine("varian-truebeam-m120").beam("6X").spectrum


def a_table() -> Attenuation:
    return attenuation(SIX, np.array([0.0, 20.0]), np.array([1.0, 1.1]), 2.0, depth_cm=40.0)


def maps_of(n: int, seed: int = 1) -> FluenceMaps:
    """Open rectangles of random size on a background of 0.5 % leakage."""
    rng = np.random.default_rng(seed)
    photon = np.full((n, RASTER.ny, RASTER.nx), 0.005, np.float32)
    for image in photon:
        x, y = rng.uniform(0.5, 3.0, 2)
        image[np.ix_(np.abs(RASTER.ys_cm) < y, np.abs(RASTER.xs_cm) < x)] = rng.uniform(0.5, 1.0)
    return FluenceMaps(photon, RASTER, rng.uniform(0, 0.1, (n, 5, 7)).astype(np.float32), COARSE)


def shots_of(gantry, collimator=None, couch=None, seed: int = 1) -> Shots:
    n = len(gantry)
    zero = np.zeros(n)
    return Shots(
        np.asarray(gantry, float),
        zero if collimator is None else np.asarray(collimator, float),
        zero if couch is None else np.asarray(couch, float),
        np.random.default_rng(seed).uniform(1, 2, n),
        maps_of(n, seed),
    )


def segments_of(gantry, collimator, couch, mu) -> SimpleNamespace:
    return SimpleNamespace(
        gantry_deg=np.array(gantry, float),
        collimator_deg=np.array(collimator, float),
        couch_deg=np.array(couch, float),
        meterset_mu=np.array(mu, float),
    )


def test_pool_adds_up_what_is_delivered_at_the_same_angles() -> None:
    first, second = maps_of(3, 1), maps_of(2, 2)
    segments = [
        segments_of([10, 350, 20], [0, 0, 5], [0, 0, 0], [1, 2, 4]),
        segments_of([370, 20], [360, 6], [0, 360], [8, 16]),
    ]
    shots = pool(segments, [first, second])
    # 10 and 370 degrees with collimator 0 and 360 are one; collimator 5 and 6 are two
    assert sorted(shots.meterset_mu) == [2, 4, 9, 16]
    at = int(np.flatnonzero(shots.meterset_mu == 9)[0])
    assert shots.gantry_deg[at] == 10
    np.testing.assert_allclose(shots.maps.photon[at], first.photon[0] + second.photon[0], rtol=SINGLE)
    np.testing.assert_allclose(shots.maps.electron[at], first.electron[0] + second.electron[0], rtol=SINGLE)
    at = int(np.flatnonzero(shots.meterset_mu == 16)[0])
    assert (shots.gantry_deg[at], shots.couch_deg[at], shots.collimator_deg[at]) == (20, 0, 6)
    np.testing.assert_array_equal(shots.maps.photon[at], second.photon[1])


def test_pool_keeps_every_segment_of_an_arc(make_beam: Callable[..., object]) -> None:
    beam = make_beam(gantry_deg=np.array([340.0, 380.0]))
    segments = segment_beam(beam, max_gantry_step_deg=1.0)
    shots = pool([segments], [maps_of(len(segments))])
    assert len(shots.meterset_mu) == 40
    assert shots.meterset_mu.sum() == pytest.approx(100.0)
    assert np.all((shots.gantry_deg >= 0) & (shots.gantry_deg < 360))
    first = int(np.argmin(np.abs(shots.gantry_deg - 340.5)))
    np.testing.assert_array_equal(shots.maps.photon[first], maps_of(40).photon[0])


def test_maps_of_many_segments_at_few_angles_are_added_up() -> None:
    """More of the same angle than are handled at a time, of two beams."""
    rng = np.random.default_rng(5)
    angles = [rng.integers(0, 4, n).astype(float) for n in (150, 70)]
    maps = [maps_of(len(one), seed) for seed, one in enumerate(angles)]
    shots = pool([segments_of(one, 0 * one, 0 * one, 1 + 0 * one) for one in angles], maps)
    assert list(shots.gantry_deg) == [0, 1, 2, 3]
    for n, angle in enumerate(shots.gantry_deg):
        expected = sum(m.photon[one == angle].astype(float).sum(axis=0) for m, one in zip(maps, angles, strict=True))
        np.testing.assert_allclose(shots.maps.photon[n], expected, rtol=1e-5)
        assert shots.meterset_mu[n] == sum(np.count_nonzero(one == angle) for one in angles)


def on_plane(maps: np.ndarray, raster: Raster) -> float:
    return float(maps.sum(dtype=float)) * raster.pixel_cm**2


def test_field_and_halo_are_the_whole() -> None:
    shots = shots_of(np.arange(0.0, 40.0, 2.0))
    field, halo = split_halo(shots, 12.0)
    parts = on_plane(field.maps.photon, field.maps.raster) + on_plane(halo.maps.photon, halo.maps.raster)
    assert parts == pytest.approx(on_plane(shots.maps.photon, RASTER), rel=SINGLE)
    # the field keeps its shots, the halo adds them up: 0-10, 12-22, 24-34, 36-38
    assert len(field.gantry_deg) == 20 and len(halo.gantry_deg) == 4
    assert halo.meterset_mu.sum() == pytest.approx(shots.meterset_mu.sum())
    assert on_plane(halo.maps.electron, COARSE) == pytest.approx(on_plane(shots.maps.electron, COARSE), rel=SINGLE)
    assert not field.maps.electron.any()
    np.testing.assert_allclose(
        halo.gantry_deg[0], np.average(shots.gantry_deg[:6], weights=shots.meterset_mu[:6]), rtol=1e-12
    )


def test_field_holds_all_high_fluence_and_halo_is_low() -> None:
    shots = shots_of([0.0, 1.0, 2.0])
    field, halo = split_halo(shots, 12.0)
    raster = field.maps.raster
    column = np.rint((RASTER.xs_cm[0] - raster.x_cm) / 0.1).astype(int)
    row = np.rint((RASTER.ys_cm[0] - raster.y_cm) / 0.1).astype(int)
    full = np.zeros_like(shots.maps.photon)
    full[:, -row : raster.ny - row, -column : raster.nx - column] = field.maps.photon
    high = shots.maps.photon > 0.4
    np.testing.assert_array_equal(full[high], shots.maps.photon[high])
    assert np.all(full <= shots.maps.photon + 1e-9)
    # what is left is leakage of three shots
    assert halo.maps.photon.max() <= 3 * 0.005 + 1e-6
    # the field's ramp ends in zeros or at the raster's edge, so that interpolation to 0 outside is no step
    assert field.maps.photon[:, [0, -1]].max() < 0.005 and raster.nx < RASTER.nx


def test_halo_sums_only_equal_collimators_and_couches() -> None:
    shots = shots_of([0.0, 1.0, 2.0, 3.0], collimator=[0, 90, 0, 90], couch=[0, 0, 0, 90])
    _, halo = split_halo(shots, 12.0)
    found = sorted(zip(halo.collimator_deg, halo.couch_deg, strict=True))
    assert found == [(0.0, 0.0), (90.0, 0.0), (90.0, 90.0)]


def test_tiny_fluence_counts_as_none() -> None:
    shots = shots_of([0.0])
    photon = shots.maps.photon.copy()
    photon[0, 0] = 1e-12
    tiny = Shots(*(getattr(shots, n) for n in ("gantry_deg", "collimator_deg", "couch_deg", "meterset_mu")),
                 FluenceMaps(photon, RASTER, shots.maps.electron, COARSE))  # fmt: skip
    _, halo = split_halo(tiny, 12.0)
    assert np.all((halo.maps.photon == 0) | (halo.maps.photon > 1e-9))


@pytest.mark.parametrize("step", [1.0, 4.0, 12.0])
def test_groups_hold_every_shot_once(step: float) -> None:
    """Arcs both ways and three couch angles, shuffled."""
    rng = np.random.default_rng(5)
    gantry = np.concatenate([np.arange(0, 360, 3.0), np.arange(100, 200, 1.7)])
    couch = rng.choice([0.0, 20.0, 345.0], len(gantry))
    collimator = rng.choice([10.0, 80.0], len(gantry))
    shots = shots_of(gantry, collimator, couch)
    mixed = rng.permutation(len(gantry))
    exposure = make_exposure(
        Shots(gantry[mixed], collimator[mixed], couch[mixed], shots.meterset_mu[mixed],
              FluenceMaps(shots.maps.photon[mixed], RASTER, shots.maps.electron[mixed], COARSE)),
        grid=GRID, patient_position="HFS", isocentre_cm=np.zeros(3), sad_cm=100.0, attenuation=a_table(),
        group_step_deg=step,
    )  # fmt: skip
    assert exposure.first[0] == 0 and exposure.first[-1] == len(gantry)
    assert np.all(np.diff(exposure.first) > 0), "no group is empty"
    # each shot comes with its own map and rotation, and lies within a bin of its group
    order = [
        int(np.flatnonzero([np.array_equal(m, p) for p in shots.maps.photon])[0]) for m in exposure.maps.photon[::7]
    ]
    wanted = collimator_rotations(gantry[order], collimator[order], couch[order], "HFS")
    np.testing.assert_allclose(exposure.shot_rotation[::7], wanted, atol=1e-12)
    np.testing.assert_allclose(exposure.maps.photon.sum(axis=0), shots.maps.photon.sum(axis=0), rtol=1e-4)
    for g in range(len(exposure)):
        here = slice(exposure.first[g], exposure.first[g + 1])
        towards = exposure.shot_rotation[here, 2] @ exposure.fans.rotation[g, 2]
        assert np.degrees(np.arccos(np.clip(towards, -1, 1))).max() <= step + 1e-6


def test_groups_meet_at_the_mean_angle_of_their_meterset() -> None:
    shots = shots_of([0.0, 3.0])
    exposure = make_exposure(
        shots,
        grid=GRID,
        patient_position="HFS",
        isocentre_cm=np.zeros(3),
        sad_cm=100.0,
        attenuation=a_table(),
        group_step_deg=4.0,
    )
    mean = 3.0 * shots.meterset_mu[1] / shots.meterset_mu.sum()
    np.testing.assert_allclose(exposure.fans.rotation[0], gantry_from_patient("HFS", 0.0, mean), atol=1e-12)


def test_rotations_point_at_the_source() -> None:
    rotation = collimator_rotations(np.array([30.0]), np.array([15.0]), np.array([40.0]), "FFP")
    np.testing.assert_allclose(-rotation[0, 2], beam_direction("FFP", 40.0, 30.0), atol=1e-12)


def test_rotations_of_many_segments_are_those_of_each() -> None:
    gantry, collimator, couch = np.random.default_rng(3).uniform(-180, 360, (3, 5))
    found = collimator_rotations(gantry, collimator, couch, "HFP")
    for g, c, s, one in zip(gantry, collimator, couch, found, strict=True):
        np.testing.assert_allclose(one, collimator_from_gantry(c) @ gantry_from_patient("HFP", s, g), atol=1e-12)


def test_voxel_axes() -> None:
    """Gantry 90 on a supine patient: patient y (posterior) is collimator x, up to sign; x is along the beam."""
    rotation = collimator_rotations(np.array([90.0]), np.zeros(1), np.zeros(1), "HFS")
    edges = voxel_axes(rotation, (0.2, 0.3, 0.5))[0]
    np.testing.assert_allclose(edges[0], [0, 0], atol=1e-12)
    np.testing.assert_allclose(np.abs(edges[1]), [0.3, 0], atol=1e-12)
    np.testing.assert_allclose(np.abs(edges[2]), [0, 0.5], atol=1e-12)


def test_window_holds_a_turned_rectangle() -> None:
    corner = np.array([[x, y] for x in (-1.0, 2.0) for y in (-3.0, 4.0)])
    straight = window(corner, np.array([0.0]))
    assert (straight.u_low, straight.u_high, straight.v_low, straight.v_high) == (-1, 2, -3, 4)
    turned = window(corner, np.array([90.0]))  # collimator x becomes gantry y, collimator y minus gantry x
    np.testing.assert_allclose([turned.u_low, turned.u_high, turned.v_low, turned.v_high], [-4, 3, -1, 2], atol=1e-12)
    both = window(corner, np.array([0.0, 90.0]))
    np.testing.assert_allclose([both.u_low, both.u_high, both.v_low, both.v_high], [-4, 3, -3, 4], atol=1e-12)


def test_reached_box_holds_all_voxels_in_the_window_and_few_more() -> None:
    reach = Window(-2.0, 3.0, -1.5, 1.0)
    centre = np.array([1.0, -2.0, 0.5])
    x, y, z = GRID.axes_cm
    zz, yy, xx = np.meshgrid(z, y, x, indexing="ij")
    point = np.stack([xx, yy, zz], axis=-1) - centre
    for gantry, couch in ((0.0, 0.0), (90.0, 0.0), (37.0, 20.0), (180.0, 90.0)):
        rotation = np.array([gantry_from_patient("HFS", couch, gantry)])
        fans = make_fans(GRID, rotation, centre, 100.0, reach, 0.5, 0.5)
        here = point @ rotation[0].T
        scale = 100.0 / (100.0 - here[..., 2])
        u, v = here[..., 0] * scale, here[..., 1] * scale
        hit = (u >= reach.u_low) & (u <= reach.u_high) & (v >= reach.v_low) & (v <= reach.v_high)
        low, high = reached_box(GRID, fans, reach)
        inside = np.zeros_like(hit)
        inside[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
        assert np.all(inside[hit])
        if gantry % 90 == 0 and couch == 0:
            found = np.argwhere(hit)
            assert np.all(found.min(axis=0) - low <= 2) and np.all(high - found.max(axis=0) - 1 <= 2)
        # fans cover the window and the height of the grid, with a ray to spare for interpolation
        assert fans.u_cm <= reach.u_low and fans.u_cm + 0.5 * (fans.nu - 1) > reach.u_high
        assert fans.v_cm <= reach.v_low and fans.v_cm + 0.5 * (fans.nv - 1) > reach.v_high
        assert fans.top_cm[0] > here[..., 2].max() and fans.top_cm[0] - 0.5 * (fans.nz - 1) < here[..., 2].min()


def test_reached_box_of_many_groups_holds_the_corners_of_each() -> None:
    """Plainly: every corner of the window on the highest and on the lowest plane of every group."""
    reach, centre = Window(-2.0, 3.0, -1.5, 1.0), np.array([1.0, -2.0, 0.5])
    rotation = gantry_from_patient("HFS", np.array([0.0, 10.0, 350.0]), np.array([20.0, 100.0, 300.0]))
    fans = make_fans(GRID, rotation, centre, 100.0, reach, 0.5, 0.5)
    points = []
    for turn in rotation:
        height = (corners(GRID) - centre) @ turn[2]
        for z in (height.min(), height.max()):
            for u in (reach.u_low, reach.u_high):
                for v in (reach.v_low, reach.v_high):
                    points.append(turn.T @ [u * (1 - z / 100), v * (1 - z / 100), z] + centre)
    low, high = reached_box(GRID, fans, reach)
    first, last = (GRID.indices_of(f(points, axis=0)) for f in (np.min, np.max))
    assert low == tuple(np.clip(np.floor(first + 0.5), 0, 40).astype(int))
    assert high == tuple(np.clip(np.ceil(last + 0.5), 0, 40).astype(int))


def test_box_of_a_beam_that_misses_is_empty() -> None:
    reach = Window(-1.0, 1.0, -1.0, 1.0)
    rotation = np.array([gantry_from_patient("HFS", 0.0, 0.0)])
    fans = make_fans(GRID, rotation, np.array([50.0, 0.0, 0.0]), 100.0, reach, 0.5, 0.5)
    low, high = reached_box(GRID, fans, reach)
    assert any(a >= b for a, b in zip(low, high, strict=True))


@pytest.mark.parametrize("angles", [(0.0, 0.0), (50.0, 0.0), (200.0, 30.0)])
def test_an_approach_ends_where_the_fans_begin(angles: tuple[float, float]) -> None:
    """Planes from above all matter, at its own spacing, down to the first plane of the fans of a part of it."""
    rotation = np.array([gantry_from_patient("HFS", couch, gantry) for gantry, couch in (angles, (10.0, 0.0))])
    part = GRID.box((10, 12, 14), (20, 20, 20))
    fans = make_fans(part, rotation, np.zeros(3), 100.0, Window(-3.0, 3.0, -2.0, 2.0), 0.25, 0.25)
    approach = fans.above(GRID, 0.5)
    last = approach.top_cm - (approach.nz - 1) * approach.step_cm
    np.testing.assert_allclose(last, fans.top_cm, atol=1e-9)
    height = (corners(GRID) @ rotation[:, 2, :].T).max(axis=0)
    assert np.all(approach.top_cm > height) and np.any(approach.top_cm - 0.5 <= height + 1e-3)
    assert (approach.nu, approach.nv, approach.u_cm, approach.pitch_cm) == (fans.nu, fans.nv, fans.u_cm, fans.pitch_cm)
    assert fans.above(part, 0.5).nz <= 2  # nothing lies above


def test_attenuation_table() -> None:
    table = a_table()
    own = terma_table(SIX, [1.0], depth_cm=40.0)
    np.testing.assert_allclose(table.terma[0, 0, :, 0], own.terma[0, 0], rtol=1e-6)
    np.testing.assert_allclose(table.terma[0, 0, :, 1], own.hardness[0, 0], atol=1e-6)
    assert table.depth_step_cm == pytest.approx(0.1)
    # halfway out, at 10 cm, the softening is 1.05: the middle of seven rows
    assert table.soft_row[round(10.0 / table.radius_step_cm)] == pytest.approx(3.0, abs=1e-5)
    assert table.soft_row[-1] == pytest.approx(6.0, abs=1e-5)
    assert len(attenuation(SIX, np.array([0.0, 50.0]), np.ones(2), 1.0, depth_cm=10.0).terma[0]) == 1
