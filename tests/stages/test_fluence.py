"""Stage A against hand-worked apertures: the same bodies for every backend."""

from __future__ import annotations

import io
import lzma
import math
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import uniform_filter
from scipy.special import ndtr

from spinedose.backends.base import Backend
from spinedose.backends.head import jaw_profile
from spinedose.errors import BeamDataError, InvalidInput
from spinedose.exposure import on_host
from spinedose.fluence_model import (
    HALF,
    LOWER,
    SOLID,
    UPPER,
    FluenceMaps,
    Raster,
    dosimetric_leaf_gap_cm,
    fluence_raster,
    leaf_air_cm,
    leaf_tip,
    leakage_width_cm,
    physical_tips,
    visible_extra_focal,
)
from spinedose.machine import (
    BeamModel,
    Calibration,
    ElectronContamination,
    ExtraFocal,
    Jaw,
    Machine,
    MultileafCollimator,
    RadialTable,
    Spectrum,
    SpotComponent,
    machine_for_beam,
    read_machine,
)
from spinedose.plan import Beam
from spinedose.segments import Segments, segment_beam

SINGLE = 2e-5
"""Float32 maps through two Fourier transforms: a few rounding errors of 6e-8 times the size of the sums."""

PIXEL_SHARE = 2e-3
"""Of the open fluence: what 1 mm pixels and tabulated tips leave of positions and widths, see the convergence test."""

Stage = Callable[..., FluenceMaps]


@pytest.fixture
def fluence(backend: Backend) -> Stage:
    """The fluence stage of a backend."""

    def stage(machine: Any, beam_model: Any, segments: Any, raster: Any, voxel_axes: Any = None) -> FluenceMaps:
        maps = backend.fluence(machine, beam_model, segments, raster, voxel_axes)
        return replace(maps, photon=on_host(maps.photon), electron=on_host(maps.electron))

    return stage


def ideal_beam(**changed: object) -> BeamModel:
    """A flat beam from a point, with black collimators and nothing else."""
    flat = RadialTable(np.array([0.0, 40.0]), np.array([1.0, 1.0]))
    fields: dict[str, object] = {
        "energy": "6X",
        "spectrum": Spectrum(np.array([2.0]), np.array([1.0])),
        "radial_fluence": flat,
        "softening": flat,
        "spot": (SpotComponent(1.0, 0.0, 0.0),),
        "extra_focal": ExtraFocal(12.5, 2.0, 0.0),
        "jaw_x_transmission": 0.0,
        "jaw_y_transmission": 0.0,
        "mlc_transmission": 0.0,
        "leaf_attenuation_per_cm": 500.0,
        "leaf_offset_cm": 0.0,
        "electrons": ElectronContamination(0.01, 1.0, 3.0),
        "calibration": Calibration(0.01, 10.0, 100.0, 1.5),
    }
    return BeamModel(**(fields | changed))  # type: ignore[arg-type]


def head(beam_model: BeamModel, *, axis: str = "x", tongue_cm: float = 0.0, **changed: object) -> Machine:
    """A machine with 40 leaf pairs of 5 mm from -10 to 10 cm."""
    mlc = MultileafCollimator(np.arange(-10, 10.1, 0.5), axis, 50.0, 6.5, 8.0, tongue_cm)
    fields: dict[str, object] = {
        "name": "test",
        "description": "",
        "sad_cm": 100.0,
        "largest_field_cm": 40.0,
        "jaw_x": Jaw(36.0, 44.0, 40.0),
        "jaw_y": Jaw(28.0, 36.0, 32.0),
        "mlc": mlc,
        "beams": {"6X": beam_model},
    }
    return Machine(**(fields | changed))  # type: ignore[arg-type]


def segment(
    start: tuple[float, float] | np.ndarray,
    end: tuple[float, float] | np.ndarray | None = None,
    *,
    jaw_x: tuple[float, float] = (-9.0, 9.0),
    jaw_y: tuple[float, float] = (-9.0, 9.0),
    mu: float = 1.0,
    collimator_deg: float = 0.0,
    axis: str = "x",
) -> Segments:
    """One segment; `start` and `end` are the tips of all pairs, or an array (2, 40)."""
    leaf = [np.asarray(v, dtype=float) for v in (start, start if end is None else end)]
    leaf = [v[:, None] * np.ones((1, 40)) if v.ndim == 1 else v for v in leaf]
    return Segments(
        meterset_mu=np.array([mu]),
        gantry_deg=np.zeros(1),
        collimator_deg=np.array([collimator_deg]),
        couch_deg=np.zeros(1),
        jaw_x_cm=np.array([jaw_x]),
        jaw_y_cm=np.array([jaw_y]),
        leaf_boundaries_cm=np.arange(-10, 10.1, 0.5),
        leaf_start_cm=leaf[0][None],
        leaf_end_cm=leaf[1][None],
        leaf_axis=axis,
        control_point=np.zeros(1, dtype=np.intp),
    )


def run(stage: Stage, machine: Machine, segments: Segments, pixel_cm: float = 0.1, **kwargs: object) -> FluenceMaps:
    beam_model = machine.beam("6X")
    raster = fluence_raster(segments, machine, beam_model, pixel_cm=pixel_cm)
    return stage(machine, beam_model, segments, raster, **kwargs)


def lookup(maps: FluenceMaps, x_cm: object, y_cm: object, k: int = 0) -> np.ndarray:
    """Bilinear lookup, as the next stage does it."""
    r = maps.raster
    u, v = (np.asarray(x_cm) - r.x_cm) / r.pixel_cm, (np.asarray(y_cm) - r.y_cm) / r.pixel_cm
    u, v = np.broadcast_arrays(u, v)
    i, j = np.floor(u).astype(int), np.floor(v).astype(int)
    a, b = u - i, v - j
    m = maps.photon[k].astype(float)
    return (1 - b) * ((1 - a) * m[j, i] + a * m[j, i + 1]) + b * ((1 - a) * m[j + 1, i] + a * m[j + 1, i + 1])


def at(maps: FluenceMaps, x_cm: float, y_cm: float) -> float:
    """Bilinear lookup at one point."""
    return float(lookup(maps, x_cm, y_cm))


def leaf_mean(maps: FluenceMaps, x_cm: float, y_cm: float = 0.0, width_cm: float = 0.5) -> float:
    """Mean across whole leaves from y on: leakage between leaves and solid leaf by their shares."""
    pixel = maps.raster.pixel_cm
    lines = y_cm + pixel * np.arange(round(width_cm / pixel))
    return float(lookup(maps, x_cm, lines).mean())


def along(maps: FluenceMaps, axis: str, other_cm: float) -> tuple[np.ndarray, np.ndarray]:
    """Pixel centres along x or y [cm], and the map there."""
    r = maps.raster
    points = (r.xs_cm if axis == "x" else r.ys_cm)[1:-1]
    return points, lookup(maps, points, other_cm) if axis == "x" else lookup(maps, other_cm, points)


def crossings(maps: FluenceMaps, axis: str, other_cm: float = 0.05, level: float = 0.5) -> list[float]:
    """Where the map passes a level along x or y [cm], linear between pixels."""
    points, values = along(maps, axis, other_cm)
    k = np.flatnonzero((values[1:] >= level) != (values[:-1] >= level))
    part = (level - values[k]) / (values[k + 1] - values[k])
    return list(points[k] + part * (points[k + 1] - points[k]))


SHARP_SPOT = (SpotComponent(1.0, 0.05, 0.05),)
"""0.5 mm."""

EDGE_CM = 0.003
"""Edges are found by linear interpolation between pixels of 0.5 mm over a blur of 0.5 mm or more."""


# --- where the edges are ---------------------------------------------------------------------------------------------


def test_leaf_edges_lie_where_the_plan_has_them(fluence: Stage) -> None:
    maps = run(fluence, head(ideal_beam(spot=SHARP_SPOT)), segment((-5.0, 4.0), jaw_y=(-3.0, 6.0)), 0.05)
    np.testing.assert_allclose(crossings(maps, "x"), [-5.0, 4.0], atol=EDGE_CM)
    np.testing.assert_allclose(crossings(maps, "y"), [-3.0, 6.0], atol=EDGE_CM)
    assert at(maps, 0.0, 0.0) == pytest.approx(1.0, abs=SINGLE)


def test_leaf_offset_opens_both_tips(fluence: Stage) -> None:
    maps = run(fluence, head(ideal_beam(spot=SHARP_SPOT, leaf_offset_cm=0.08)), segment((-5.0, 4.0)), 0.05)
    np.testing.assert_allclose(crossings(maps, "x"), [-5.08, 4.08], atol=EDGE_CM)


def test_jaws_of_x_and_y_are_not_exchanged(fluence: Stage) -> None:
    maps = run(fluence, head(ideal_beam(spot=SHARP_SPOT)), segment((-9.0, 9.0), jaw_x=(-2.0, 3.0), jaw_y=(-6.0, -1.0)))
    np.testing.assert_allclose(crossings(maps, "x", -3.0), [-2.0, 3.0], atol=EDGE_CM)
    np.testing.assert_allclose(crossings(maps, "y", 1.0), [-6.0, -1.0], atol=EDGE_CM)


def test_each_leaf_pair_shapes_its_own_row(fluence: Stage) -> None:
    """Pair 25 (y from 2.5 to 3.0 cm) open from 1 to 4 cm, all others closed far away."""
    leaf = np.full((2, 40), -8.0)
    leaf[:, 25] = 1.0, 4.0
    maps = run(fluence, head(ideal_beam(spot=SHARP_SPOT)), segment(leaf), 0.05)
    np.testing.assert_allclose(crossings(maps, "y", 2.0), [2.5, 3.0], atol=EDGE_CM)
    np.testing.assert_allclose(crossings(maps, "x", 2.75), [1.0, 4.0], atol=EDGE_CM)
    assert at(maps, 2.0, -2.75) == pytest.approx(0.0, abs=SINGLE)


def test_bank_one_is_on_the_negative_side(fluence: Stage) -> None:
    maps = run(fluence, head(ideal_beam()), segment((3.0, 9.0)))
    assert at(maps, 6.0, 0.0) == pytest.approx(1.0, abs=SINGLE)
    assert at(maps, 0.0, 0.0) == pytest.approx(0.0, abs=SINGLE)


def test_leaves_along_y_give_the_transposed_map(fluence: Stage) -> None:
    rng = np.random.default_rng(5)
    leaf = np.sort(rng.uniform(-4, 4, (2, 40)), axis=0)
    moved = np.sort(rng.uniform(-4, 4, (2, 40)), axis=0)
    beam_model = ideal_beam(
        spot=(SpotComponent(1.0, 0.08, 0.05),), mlc_transmission=0.02, leaf_attenuation_per_cm=0.7,
        extra_focal=ExtraFocal(12.5, 2.0, 0.07),
    )  # fmt: skip
    jaw = Jaw(30.0, 36.0, 33.0)
    machines = [head(beam_model, axis=axis, tongue_cm=0.1, jaw_x=jaw, jaw_y=jaw) for axis in ("x", "y")]
    raster = Raster(-7.0, -7.0, 0.1, 141, 141)
    beam_y = replace(beam_model, spot=(SpotComponent(1.0, 0.05, 0.08),))
    along_x = fluence(machines[0], beam_model, segment(leaf, moved, jaw_x=(-3.0, 5.0), jaw_y=(-4.0, 2.0)), raster)
    along_y = fluence(machines[1], beam_y, segment(leaf, moved, jaw_x=(-4.0, 2.0), jaw_y=(-3.0, 5.0), axis="y"), raster)
    np.testing.assert_allclose(along_y.photon[0], along_x.photon[0].T, atol=SINGLE)


# --- motion within a segment ------------------------------------------------------------------------------------------


def test_a_sliding_slit_gives_its_width_over_its_travel(fluence: Stage) -> None:
    """A slit 0.6 cm wide runs from -3 to 5 cm (its left tip): plateau 0.6 / 8 of the meterset, ramps of 0.6 cm."""
    maps = run(fluence, head(ideal_beam()), segment((-3.0, -2.4), (5.0, 5.6), mu=50.0))
    for x in (-2.0, 0.0, 1.23, 4.7):
        assert at(maps, x, 0.0) == pytest.approx(50 * 0.6 / 8.0, rel=1e-4)
    assert at(maps, -2.7, 0.0) == pytest.approx(50 * 0.3 / 8.0, rel=1e-2)
    assert at(maps, -3.3, 0.0) == pytest.approx(0.0, abs=50 * SINGLE)
    assert at(maps, 5.9, 0.0) == pytest.approx(0.0, abs=50 * SINGLE)


def test_a_sweeping_gap_sees_the_dosimetric_leaf_gap(fluence: Stage) -> None:
    """With real tips the plateau is (gap + dosimetric gap) / travel above the leaves' transmission, as a mean."""
    machine = read_machine("varian-truebeam-m120")
    beam_model = replace(machine.beam("6X"), extra_focal=ExtraFocal(12.5, 2.0, 0.0), monitor_backscatter=0.0)
    gap, travel, t = 0.5, 10.0, beam_model.mlc_transmission
    n = 60
    leaf = np.tile(np.array([-5.25, -4.75])[None, :, None], (2, 1, n))
    leaf[1] += travel
    beam = Beam(
        1, "s", "m", "6X", 100.0, np.array([0, 1.0]), np.zeros(2), np.zeros(2), np.zeros(2), np.zeros(3),
        np.array([[-6.0, 6.0]] * 2), np.array([[-5.0, 5.0]] * 2), machine.mlc.boundaries_cm, leaf,
    )  # fmt: skip
    segments = segment_beam(beam)
    maps = fluence(machine, beam_model, segments, fluence_raster(segments, machine, beam_model))
    expected = 100 * (t + (1 - t) * (gap + dosimetric_leaf_gap_cm(machine, beam_model)) / travel)
    # Tips and gap spread over 3 cm; the formula holds where they pass completely, at the centre.
    assert leaf_mean(maps, 0.0) == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize(("tongue_cm", "tolerance"), [(0.0, 1e-3), (0.1, 3e-3)])
def test_time_average_equals_many_static_segments(fluence: Stage, tongue_cm: float, tolerance: float) -> None:
    """Tips that move either way, stand and close, against 200 steps in time, per voxel of 2.5 mm.

    The strips at leaf sides are integrated numerically, one moment a pixel of travel, hence 0.3 %.
    """
    rng = np.random.default_rng(11)
    start = np.sort(rng.uniform(-2.5, 2.5, (2, 40)), axis=0)
    end = np.sort(rng.uniform(-2.5, 2.5, (2, 40)), axis=0)
    end[:, 20] = start[:, 20]
    end[:, 21] = end[:, 21].mean()
    beam_model = ideal_beam(spot=SHARP_SPOT, mlc_transmission=0.015, leaf_attenuation_per_cm=0.75)
    machine = head(beam_model, tongue_cm=tongue_cm)
    raster = Raster(-3.5, -1.5, 0.1, 71, 31)
    axes = np.array([[[0.25, 0.0], [0.0, 0.25], [0.0, 0.0]]])
    whole = fluence(machine, beam_model, segment(start, end), raster, axes).photon[0]
    steps = 200
    total = np.zeros_like(whole, dtype=float)
    for t in (np.arange(steps) + 0.5) / steps:
        total += fluence(machine, beam_model, segment((1 - t) * start + t * end), raster, axes).photon[0] / steps
    assert np.abs(whole - total).max() < tolerance


def test_time_average_of_shadows_that_overlap(fluence: Stage) -> None:
    """Pairs that stay closed and move from 7 to 7.4 cm, shadows overlapping by 0.5 mm; their neighbours close there."""
    beam_model = ideal_beam(mlc_transmission=0.015, leaf_attenuation_per_cm=0.75, leaf_offset_cm=-0.025)
    machine = head(beam_model, tongue_cm=0.1)
    raster = Raster(5.0, -1.0, 0.1, 41, 21)
    axes = np.array([[[0.25, 0.0], [0.0, 0.25], [0.0, 0.0]]])
    start, end = np.full((2, 40), 7.0), np.full((2, 40), 7.4)
    start[:, ::2] = [[6.8], [7.3]]
    whole = fluence(machine, beam_model, segment(start, end), raster, axes).photon[0]
    steps = 200
    total = np.zeros_like(whole, dtype=float)
    for t in (np.arange(steps) + 0.5) / steps:
        total += fluence(machine, beam_model, segment((1 - t) * start + t * end), raster, axes).photon[0] / steps
    assert np.abs(whole - total).max() < 3e-3
    assert whole.sum() == pytest.approx(total.sum(), rel=1e-3)


# --- leaf ends and sides ----------------------------------------------------------------------------------------------


def ray_trace(machine: Machine, beam_model: BeamModel, tips_cm: tuple[float, float], x_cm: np.ndarray) -> np.ndarray:
    """Transmission of rays from a point source through two drawn leaves, marched in 20 000 steps of height.

    Each tip is a circle that touches the ray from the source to its nominal position.
    """
    mlc = machine.mlc
    z = mlc.plane_cm + mlc.thickness_cm * ((np.arange(20000) + 0.5) / 20000 - 0.5)
    bulge = np.sqrt(mlc.tip_radius_cm**2 - (z - mlc.plane_cm) ** 2)
    path = np.zeros(len(x_cm))
    for tip, side in zip(tips_cm, (-1, 1), strict=True):
        slope = tip / machine.sad_cm
        centre = slope * mlc.plane_cm + side * mlc.tip_radius_cm * math.sqrt(1 + slope**2)
        edge = centre - side * bulge
        for k, x in enumerate(x_cm):
            ray = x / machine.sad_cm * z
            inside = ray <= edge if side < 0 else ray >= edge
            path[k] += inside.mean() * mlc.thickness_cm * math.sqrt(1 + (x / machine.sad_cm) ** 2)
    return np.exp(-beam_model.leaf_attenuation_per_cm * path)


@pytest.mark.parametrize("off_axis_cm", [0.0, 8.0, -8.0])
def test_closed_leaves_leak_like_a_ray_trace(fluence: Stage, off_axis_cm: float) -> None:
    """Abutting rounded tips; the model leaves out that rays off the axis are longer than high, 0.3 % of 8 cm off."""
    mu = 0.75
    beam_model = ideal_beam(leaf_attenuation_per_cm=mu, mlc_transmission=math.exp(-mu * 6.5))
    machine = head(beam_model)
    maps = run(fluence, machine, segment((off_axis_cm, off_axis_cm), jaw_x=(-9.9, 9.9)))
    x = off_axis_cm + np.arange(-1.5, 1.5, 0.005) + 0.0025
    traced = ray_trace(machine, beam_model, (off_axis_cm, off_axis_cm), x)
    leak = traced - beam_model.mlc_transmission
    row = lookup(maps, x, 0.05) - beam_model.mlc_transmission
    assert leak.sum() * 0.005 > 0.1  # more than a millimetre of open beam leaks
    assert row.sum() == pytest.approx(leak.sum(), rel=0.01)
    # Averaged over the 1 mm of a pixel the shape agrees as well.
    mine, true = (v[: len(v) // 20 * 20].reshape(-1, 20).mean(axis=1) for v in (row, leak))
    assert np.abs(mine - true).max() < 0.02 * true.max()


def test_leaf_tip_table_against_numerical_integrals() -> None:
    machine = read_machine("varian-truebeam-m120")
    tip = leaf_tip(machine, machine.beam("6X"))
    axis = len(tip.reach_cm) // 2
    d = tip.distance_cm(axis)
    # Radius 8 cm, half thickness 3.325 cm: the arc is 8 - sqrt(64 - 11.0556) cm deep, seen at 50.86 cm from the source;
    # the circle is drawn so as to touch the ray to the tip, 8 (sqrt(1 + (d / 100)^2) - 1) cm further away.
    deep = 8 * math.sqrt(1 + (d[-1] / 100) ** 2) - math.sqrt(64 - 3.325**2)
    assert d[-1] == pytest.approx(deep / 0.5086, rel=1e-12)
    for column, closed in ((SOLID, math.exp(-0.75 * 6.65)), (HALF, math.exp(-0.75 * 3.325))):
        covered, running, twice = tip.table[axis, :, column : column + 3].T
        assert covered[-1] == pytest.approx(1 - closed, abs=1e-12)
        fine = np.linspace(0, d[-1], 200_001)
        coverage = np.interp(fine, d, covered)
        step = fine[1]
        first = np.concatenate([[0], np.cumsum(0.5 * (coverage[1:] + coverage[:-1]) * step)])
        second = np.concatenate([[0], np.cumsum(0.5 * (first[1:] + first[:-1]) * step)])
        np.testing.assert_allclose(running, np.interp(d, fine, first), atol=1e-6)
        np.testing.assert_allclose(twice, np.interp(d, fine, second), atol=1e-6)


@pytest.mark.parametrize("ray_cm", [-14.0, -3.0, 0.0, 8.0, 20.0])
def test_leaf_tip_table_against_marched_rays(ray_cm: float) -> None:
    """Heights in metal above and below the middle plane, marched in steps of 1/20000 of the leaf's height."""
    machine = read_machine("elekta-agility")
    mlc, mu = machine.mlc, machine.beam("6X").leaf_attenuation_per_cm
    tip = leaf_tip(machine, machine.beam("6X"))
    ray = len(tip.reach_cm) // 2 + round(ray_cm / tip.ray_step_cm)
    height = mlc.thickness_cm * ((np.arange(20000) + 0.5) / 20000 - 0.5)
    for k in (3, 40, 90, 160, 230, 254):
        slope = (ray_cm + tip.distance_cm(ray)[k]) / machine.sad_cm
        centre = slope * mlc.plane_cm - mlc.tip_radius_cm * math.sqrt(1 + slope**2)
        edge = centre + np.sqrt(mlc.tip_radius_cm**2 - height**2)
        inside = ray_cm / machine.sad_cm * (mlc.plane_cm + height) <= edge
        for column, half in ((UPPER, height < 0), (LOWER, height > 0)):
            metal = inside[half].mean() * 0.5 * mlc.thickness_cm
            assert tip.table[ray, k, column] == pytest.approx(math.exp(-mu * metal), rel=1e-3)
    assert (
        tip.table[ray, -2, SOLID] > tip.table[ray, -1, SOLID] - 1e-3
    )  # the reach is where the leaf begins to be solid


def test_shadows_overlap_until_metal_touches() -> None:
    """By hand at 14 cm: 2 x 8 (sqrt(1 + 0.14^2) - 1) / 0.5 cm, leaves at 50 cm; on the axis tips that touch."""
    beam_model = ideal_beam(leaf_offset_cm=-0.02)
    machine = head(beam_model)
    leaf = np.array([[[0.0, 14.0, -14.0, 14.4, -1.0], [0.0, 14.0, -14.0, 13.6, 1.0]]])
    tips = physical_tips(leaf, machine, beam_model)[0]
    touching = 2 * 8 * (math.sqrt(1.0196) - 1) / 0.5
    assert touching == pytest.approx(0.312, abs=1e-3)
    np.testing.assert_allclose(tips[0] - tips[1], [0.0, 0.04, 0.04, touching, -1.96], atol=1e-12)
    np.testing.assert_allclose(tips.mean(axis=0), [0.0, 14.0, -14.0, 14.0, 0.0], atol=1e-12)
    # The circles themselves: their centres are two radii apart.
    slope = tips[:, 3] / 100
    centres = slope * 50 + 8 * np.sqrt(1 + slope**2) * np.array([-1, 1])
    assert centres[1] - centres[0] == pytest.approx(16.0, abs=1e-3)


@pytest.mark.parametrize("tongue_cm", [0.0, 0.02, 0.1])
def test_closed_leaves_pass_the_mean_transmission(fluence: Stage, tongue_cm: float) -> None:
    """Whatever the tongue, near the axis and far off it."""
    beam_model = ideal_beam(spot=SHARP_SPOT, mlc_transmission=0.02, leaf_attenuation_per_cm=0.75)
    machine = head(beam_model, tongue_cm=tongue_cm)
    raster = Raster.covering((-9.0, 9.0), (-2.0, 2.0), 0.02)
    photon = fluence(machine, beam_model, segment((8.5, 8.5)), raster).photon[0]
    rows = np.abs(raster.ys_cm + 0.01) < 1.0
    assert rows.sum() == 100
    for x in (-8.0, -4.0, 0.0, 4.0):
        k = int(np.argmin(np.abs(raster.xs_cm - x)))
        assert photon[rows, k].mean() == pytest.approx(0.02, rel=1e-3)


def test_air_between_closed_leaves_passes_half_the_height(fluence: Stage) -> None:
    """Twice at a leaf side, half a tongue to either side of the edge, over the width of the air."""
    beam_model = ideal_beam(mlc_transmission=0.02, leaf_attenuation_per_cm=0.75)
    machine = head(beam_model, tongue_cm=0.1)
    half = math.exp(-0.75 * 3.25)
    air = float(leaf_air_cm(machine, beam_model, 0.5))
    assert air == pytest.approx(0.25 * (0.02 - half**2) / (half - half**2), rel=1e-12)
    raster = Raster.covering((-1.0, 1.0), (-1.0, 1.0), 0.01)
    photon = fluence(machine, beam_model, segment((8.5, 8.5)), raster).photon[0, :, 100].astype(float)
    assert np.interp(0.0, raster.ys_cm, photon) == pytest.approx(half**2, rel=1e-3)
    for edge in (-0.05, 0.05, 0.45):
        assert np.interp(edge, raster.ys_cm, photon) == pytest.approx(half, rel=1e-3)
        beside = np.abs(raster.ys_cm - edge) < 0.5 * air + 0.02
        assert 0.01 * (photon[beside] - half**2).sum() == pytest.approx(air * (half - half**2), rel=1e-3)


def test_exposed_leaf_sides_show_their_tongue(fluence: Stage) -> None:
    """Pairs above y = 0 open, below closed: 1, sqrt(T) in the strip of 2 mm about the edge, T."""
    leaf = np.full((2, 40), -8.0)
    leaf[0, 20:], leaf[1, 20:] = -6.0, 6.0
    mu = 0.7
    t = math.exp(-mu * 6.5)
    beam_model = ideal_beam(leaf_attenuation_per_cm=mu, mlc_transmission=t)
    maps = run(fluence, head(beam_model, tongue_cm=0.2), segment(leaf), pixel_cm=0.02)
    for y, expected in ((0.14, 1.0), (0.05, math.sqrt(t)), (-0.05, math.sqrt(t)), (-0.14, t)):
        assert at(maps, 0.01, y) == pytest.approx(expected, abs=0.03)
    rows = np.abs(maps.raster.ys_cm) < 0.2 - 1e-9
    column = maps.photon[0][rows, maps.raster.nx // 2].sum() * 0.02
    # 19 whole pixels from -0.19 to 0.19 cm.
    assert column == pytest.approx(0.09 + 0.2 * math.sqrt(t) + 0.09 * t, abs=2e-3)


def test_exposed_sides_of_rounded_ends_against_the_product_of_two_halves(fluence: Stage) -> None:
    """In a strip of 3 mm each ray passes the upper half of one and the lower half of the other; 1000 moments."""
    mu = 0.75
    beam_model = ideal_beam(leaf_attenuation_per_cm=mu, mlc_transmission=math.exp(-mu * 6.5))
    machine, wide = head(beam_model), np.arange(-20.0, 20.1)
    machine = replace(machine, mlc=replace(machine.mlc, boundaries_cm=wide, tongue_width_cm=0.3))
    start, end = np.full((2, 40), 0.0), np.full((2, 40), 0.0)
    start[:, :20], end[:, :20] = [[-1.53], [0.42]], [[-1.33], [0.61]]
    start[:, 20:], end[:, 20:] = [[-1.31], [1.27]], [[-1.46], [1.27]]
    raster = Raster(-3.0, -1.0, 0.1, 61, 21)
    segments = replace(segment(start, end), leaf_boundaries_cm=wide)
    got = fluence(machine, beam_model, segments, raster).photon[0, 10]
    tip = leaf_tip(machine, beam_model)
    axis = len(tip.reach_cm) // 2
    expected = np.zeros(61)
    for i, middle in enumerate(raster.xs_cm):
        x = middle + (np.arange(20) - 9.5) * 0.005
        rays = [axis + side * round(middle / tip.ray_step_cm) for side in (1, -1)]
        for t in (np.arange(1000) + 0.5) / 1000:
            tips = (1 - t) * start + t * end
            light = np.ones(20)
            for j, column in ((19, UPPER), (20, LOWER)):
                for ray, u in zip(rays, (tips[0, j] - x, x - tips[1, j]), strict=True):
                    light *= np.interp(u, tip.distance_cm(ray), tip.table[ray, :, column])
            expected[i] += light.mean() / 1000
    # Sharpening along the row, as the maps have it.
    expected[1:-1] -= np.diff(expected, 2) / 12
    np.testing.assert_allclose(got, expected, atol=0.015)
    assert got.sum() == pytest.approx(expected.sum(), rel=1e-3)


def test_neighbours_that_move_together_show_no_tongue(fluence: Stage) -> None:
    mu = 0.75
    beam_model = ideal_beam(leaf_attenuation_per_cm=mu, mlc_transmission=math.exp(-mu * 6.5))
    with_tongue = run(fluence, head(beam_model, tongue_cm=0.1), segment((-4.0, -2.0), (1.0, 3.0))).photon
    without = run(fluence, head(beam_model), segment((-4.0, -2.0), (1.0, 3.0))).photon
    np.testing.assert_allclose(with_tongue, without, atol=SINGLE)


def test_neighbours_that_take_turns_underdose_the_strip(fluence: Stage) -> None:
    """Two neighbours each open for one half of the meterset: the strip gets 2 x 1/2 sqrt(T), not 1/2 + T/2."""
    mu = 0.6
    t = math.exp(-mu * 6.5)
    beam_model = ideal_beam(leaf_attenuation_per_cm=mu, mlc_transmission=t)
    machine = head(beam_model, tongue_cm=0.2)
    raster = Raster(-1.0, -1.0, 0.02, 101, 101)
    total = np.zeros((101, 101))
    for half in (0, 1):
        leaf = np.full((2, 40), -8.0)
        rows = slice(20, 40) if half == 0 else slice(0, 20)
        leaf[0, rows], leaf[1, rows] = -6.0, 6.0
        total += fluence(machine, beam_model, segment(leaf, mu=0.5), raster).photon[0]
    assert total[50, 50] == pytest.approx(math.sqrt(t), abs=0.01)
    assert total[80, 50] == pytest.approx(0.5 + 0.5 * t, abs=1e-3)


# --- transmission, area, scale ----------------------------------------------------------------------------------------


def test_transmission_is_the_product_of_what_is_in_the_way(fluence: Stage) -> None:
    beam_model = ideal_beam(
        jaw_x_transmission=0.01, jaw_y_transmission=0.02, mlc_transmission=0.03, leaf_attenuation_per_cm=0.6
    )
    maps = run(fluence, head(beam_model), segment((-2.0, 2.0), jaw_x=(-4.0, 4.0), jaw_y=(-4.0, 4.0)))
    assert at(maps, 0.0, 0.0) == pytest.approx(1.0, abs=SINGLE)
    assert leaf_mean(maps, -3.7) == pytest.approx(0.03, rel=1e-3)
    assert leaf_mean(maps, -5.0) == pytest.approx(0.03 * 0.01, rel=1e-2)
    assert at(maps, 0.0, 5.0) == pytest.approx(0.02, rel=1e-3)
    assert leaf_mean(maps, -5.0, 5.0) == pytest.approx(0.03 * 0.01 * 0.02, rel=1e-2)


def test_sum_over_pixels_is_the_open_area(fluence: Stage) -> None:
    """(4 + 0.3) x 5.7 cm at 7 MU: pixels, spot, footprint and sharpening all keep the integral."""
    beam_model = ideal_beam(spot=(SpotComponent(0.6, 0.05, 0.1, 30.0), SpotComponent(0.4, 0.12, 0.1)))
    axes = np.array([[[0.2, 0.05], [-0.05, 0.2], [0.1, 0.1]]])
    segments = segment((-2.0, 2.3), jaw_y=(-3.0, 2.7), mu=7.0)
    maps = run(fluence, head(beam_model), segments, voxel_axes=axes)
    assert maps.photon.sum() * 0.01 == pytest.approx(7 * 4.3 * 5.7, rel=PIXEL_SHARE)


def test_linear_in_meterset_and_independent_of_the_batch(fluence: Stage) -> None:
    machine = read_machine("varian-truebeam-hd120")
    beam_model = machine.beam("6FFF")
    leaf = np.tile(np.array([-1.0, 1.0])[None, :, None], (3, 1, 60))
    leaf[1:] += 0.3
    beam = Beam(
        1, "arc", "m", "6FFF", 80.0, np.array([0, 0.4, 1.0]), np.array([0, 30.0, 60.0]), np.full(3, 15.0), np.zeros(3),
        np.zeros(3), np.array([[-3.0, 3.0]] * 3), np.array([[-3.0, 3.0]] * 3), machine.mlc.boundaries_cm, leaf,
    )  # fmt: skip
    once, twice = segment_beam(beam), segment_beam(replace(beam, meterset_mu=160.0))
    raster = fluence_raster(once, machine, beam_model)
    axes = np.tile(np.array([[0.25, 0.0], [0.0, 0.25], [0.0, 0.0]]), (60, 1, 1))
    first = fluence(machine, beam_model, once, raster, axes)
    second = fluence(machine, beam_model, twice, raster, axes)
    np.testing.assert_allclose(second.photon, 2 * first.photon, rtol=1e-6)
    np.testing.assert_allclose(second.electron, 2 * first.electron, rtol=1e-6)
    part = fluence(machine, beam_model, once.part(37, 45), raster, axes[37:45])
    np.testing.assert_array_equal(part.photon, first.photon[37:45])
    again = fluence(machine, beam_model, once, raster, axes)
    np.testing.assert_array_equal(again.photon, first.photon)


def test_radial_fluence_shapes_the_open_field(fluence: Stage) -> None:
    table = RadialTable(np.array([0.0, 5.0, 20.0]), np.array([1.0, 0.8, 0.5]))
    maps = run(fluence, head(ideal_beam(radial_fluence=table)), segment((-8.0, 8.0)))
    assert at(maps, 3.0, 4.0) == pytest.approx(0.8, abs=1e-3)
    assert at(maps, -1.5, 2.0) == pytest.approx(0.9, abs=1e-3)


# --- focal spot -------------------------------------------------------------------------------------------------------


def variance_of_edge(maps: FluenceMaps, axis: str, edge_cm: float, other_cm: float) -> float:
    """Second moment of the slope of an edge about its position [cm^2]."""
    points, values = along(maps, axis, other_cm)
    near = np.abs(points - edge_cm) < 1.0
    slope, middle = np.abs(np.diff(values[near])), 0.5 * (points[near][1:] + points[near][:-1])
    mean = (slope @ middle) / slope.sum()
    return float((slope @ (middle - mean) ** 2) / slope.sum())


PIXEL = 0.05
AWAY = 0.5 * (1 - 1 / math.sqrt(3)) * PIXEL
"""An edge that leaves a share f of its pixel open adds f (1 - f) h^2; here that is its mean over all f, h^2 / 6, what
sharpening takes out."""


def test_each_plane_blurs_by_its_own_magnification(fluence: Stage) -> None:
    """Sigma 1 mm in x, 0.6 mm in y, times (100 - z) / z: MLC at 50 cm 1.0, X jaw at 40 cm 1.5, Y jaw at 32 cm 2.125."""
    beam_model = ideal_beam(spot=(SpotComponent(1.0, 0.1, 0.06),))
    left = -3.0 - 0.5 * PIXEL + AWAY
    segments = segment((left, 9.0), jaw_x=(-9.0, 3.0), jaw_y=(-4.0, 4.0))
    maps = run(fluence, head(beam_model), segments, pixel_cm=PIXEL)
    for edge, axis, sigma in ((left, "x", 0.1 * 1.0), (3.0, "x", 0.1 * 1.5), (4.0, "y", 0.06 * 2.125)):
        assert variance_of_edge(maps, axis, edge, 0.0) == pytest.approx(sigma**2, rel=0.01)


def test_spot_stays_in_the_gantry_while_the_collimator_turns(fluence: Stage) -> None:
    beam_model = ideal_beam(spot=(SpotComponent(1.0, 0.15, 0.05),))
    left = -3.0 - 0.5 * PIXEL + AWAY
    for collimator_deg, sigma in ((0.0, 0.15), (90.0, 0.05), (180.0, 0.15)):
        segments = segment((left, 9.0), collimator_deg=collimator_deg)
        maps = run(fluence, head(beam_model), segments, pixel_cm=PIXEL)
        assert variance_of_edge(maps, "x", left, 0.0) == pytest.approx(sigma**2, rel=0.02)


# --- voxel footprint --------------------------------------------------------------------------------------------------


def test_footprint_adds_its_variance(fluence: Stage) -> None:
    """Edges (0.3, 0), (0, 0.25), (0.2, -0.1): (0.09 + 0.04) / 12 along x, (0.0625 + 0.01) / 12 along y."""
    beam_model = ideal_beam(spot=(SpotComponent(1.0, 0.1, 0.1),))
    axes = np.array([[[0.3, 0.0], [0.0, 0.25], [0.2, -0.1]]])
    segments = segment((-3.0, 9.0), jaw_y=(-9.0, 4.0))
    point = run(fluence, head(beam_model), segments, pixel_cm=PIXEL)
    voxel = run(fluence, head(beam_model), segments, pixel_cm=PIXEL, voxel_axes=axes)
    for axis, edge, added in (("x", -3.0, 0.13 / 12), ("y", 4.0, 0.0725 / 12)):
        grown = variance_of_edge(voxel, axis, edge, 0.0) - variance_of_edge(point, axis, edge, 0.0)
        assert grown == pytest.approx(added, rel=0.01)


def ragged(tongue_cm: float = 0.1, transmission: float = 0.015) -> tuple[Machine, Segments, np.ndarray]:
    """Random apertures with real tips and tongues, seen by a real spot; and random places."""
    rng = np.random.default_rng(3)
    leaf = np.sort(rng.uniform(-1.8, 1.8, (2, 40)), axis=0)
    spot = (SpotComponent(1.0, 0.07, 0.07),)
    beam_model = ideal_beam(spot=spot, mlc_transmission=transmission, leaf_attenuation_per_cm=0.75)
    segments = segment(leaf, jaw_x=(-1.5, 1.5), jaw_y=(-1.5, 1.5))
    return head(beam_model, tongue_cm=tongue_cm), segments, rng.uniform(-1.8, 1.8, (3000, 2))


SQUARE_VOXEL = np.array([[[0.25, 0.0], [0.0, 0.25], [0.0, 0.0]]])


def test_a_fine_map_gives_the_voxel_average(fluence: Stage) -> None:
    """The footprint of a 2.5 mm voxel against the mean of 20 x 20 points of the map without footprint."""
    machine, segments, places = ragged()
    point = run(fluence, machine, segments, pixel_cm=0.0125)
    voxel = run(fluence, machine, segments, pixel_cm=0.0125, voxel_axes=SQUARE_VOXEL)
    x, y = places[:500].T
    offsets = (np.arange(20) - 9.5) * 0.0125
    mean = np.mean([lookup(point, x + a, y + b) for a in offsets for b in offsets], axis=0)
    np.testing.assert_allclose(lookup(voxel, x, y), mean, atol=1e-3)


@pytest.mark.parametrize(("tongue_cm", "worst"), [(0.1, 0.03), (0.15, 0.05)])
def test_convergence_with_pixel_size(fluence: Stage, tongue_cm: float, worst: float) -> None:
    """Lookups of voxel averages against pixels of 0.125 mm.

    A straight edge gives the average a kink of slope 1 / (2.5 h) at pixels h of 0.4 voxel; linear interpolation misses
    it by up to 0.05, the spot softens that. Single lookups may be off by 3 % where leaf sides (tongue of 1 mm, no air)
    lie between pixels, by 5 % where they lie within, at edges only, their mean by nothing; at half the pixel it is a
    quarter to a half.
    """
    machine, segments, places = ragged(tongue_cm, math.exp(-0.75 * 6.5))
    x, y = places.T
    value = {h: lookup(run(fluence, machine, segments, h, voxel_axes=SQUARE_VOXEL), x, y) for h in (0.1, 0.05, 0.0125)}
    error = {h: value[h] - value[0.0125] for h in (0.1, 0.05)}
    assert np.abs(error[0.1]).max() < worst and error[0.1].std() < 0.006
    assert np.abs(error[0.05]).max() < 0.015 and error[0.05].std() < 0.5 * error[0.1].std()
    assert abs(error[0.1].mean()) < 1e-3


def test_pixels_too_coarse_for_the_voxel_are_refused(fluence: Stage) -> None:
    axes = np.array([[[0.1, 0.0], [0.0, 0.1], [0.0, 0.0]]])
    with pytest.raises(InvalidInput, match="too coarse"):
        run(fluence, head(ideal_beam()), segment((-1.0, 1.0)), voxel_axes=axes)


# --- head scatter, electrons, raster ----------------------------------------------------------------------------------


def test_extra_focal_source_is_seen_whole_in_a_large_field_and_less_in_a_small_one(fluence: Stage) -> None:
    beam_model = ideal_beam(extra_focal=ExtraFocal(12.5, 1.5, 0.08))
    machine = head(beam_model)
    large = run(fluence, machine, segment((-9.9, 9.9), jaw_x=(-15.0, 15.0), jaw_y=(-15.0, 15.0)))
    # Leaves reach to 10 cm only along y; beyond them the beam is open, so all of the source is seen through 20 x 30 cm.
    half = 9.9 * 0.5 / (1 - 37.5 / 87.5)  # leaf tip seen from the axis, in the plane of the source [cm]
    expected = 1 + 0.08 * math.erf(half / (1.5 * math.sqrt(2)))
    assert at(large, 0.0, 0.0) == pytest.approx(expected, abs=1e-4)
    by_jaws, by_leaves = (
        run(fluence, machine, s)
        for s in (
            segment((-9.9, 9.9), jaw_x=(-2.0, 2.0), jaw_y=(-2.0, 2.0)),
            segment((-2.0, 2.0), jaw_x=(-9.0, 9.0), jaw_y=(-9.0, 9.0)),
        )
    )
    # X jaw at 40, Y jaw at 32 cm: half openings 2 cm x z / 100 / (1 - (z - 12.5) / 87.5) in the source's plane.
    sides = [2.0 * z / 100 / (1 - (z - 12.5) / 87.5) / (1.5 * math.sqrt(2)) for z in (40.0, 32.0)]
    assert at(by_jaws, 0.0, 0.0) == pytest.approx(1 + 0.08 * math.erf(sides[0]) * math.erf(sides[1]), abs=1e-4)
    assert 1 < at(by_jaws, 0.0, 0.0) < at(by_leaves, 0.0, 0.0) < expected


@pytest.mark.parametrize("point_cm", [(0.0, 0.0), (6.0, -3.0), (15.0, 0.0), (-12.0, 14.0)])
def test_photons_that_turn_little_see_the_source_from_aside(point_cm: tuple[float, float]) -> None:
    """Equation (13a) against the sum over a source that scatters by a Gaussian angle, through the same jaws."""
    source = ExtraFocal(12.5, 1.6, 0.08, scatter_angle_deg=14.0)
    machine = head(ideal_beam(extra_focal=source))
    leaves = segment((-10.0, 10.0), jaw_x=(-7.0, 5.0), jaw_y=(-4.0, 8.0))
    one = replace(leaves, leaf_start_cm=None, leaf_end_cm=None, leaf_boundaries_cm=None)
    seen = visible_extra_focal(machine, machine.beam("6X"), one, *(np.array([v]) for v in point_cm))[0, 0, 0]
    alpha, angle = 1 / 87.5, math.radians(14.0)
    beta = alpha + 1 / 12.5
    own = 1 / (1 / 1.6**2 - (beta / angle) ** 2)  # square of the source's own width: it seems narrower from the axis
    s = np.linspace(-15, 15, 60001)

    def light(x: float, low: float, high: float) -> float:
        spread = np.exp(-(s**2) / (2 * own) - (alpha * x - beta * s) ** 2 / (2 * angle**2))
        return float(spread[(s >= low) & (s <= high)].sum())

    expected = 1.0
    for x, z, jaw in zip(point_cm, (40.0, 32.0), ((-7.0, 5.0), (-4.0, 8.0)), strict=True):
        # from x at 100 cm past an edge at z to the plane of the source
        low, high = (x + (edge * z / 100 - x) * 87.5 / (100 - z) for edge in jaw)
        expected *= light(x, low, high) / light(0.0, -15, 15)
    assert seen == pytest.approx(expected, rel=2e-3, abs=1e-5)


def test_source_that_is_wider_than_its_scatter_allows_is_refused() -> None:
    with pytest.raises(BeamDataError, match="scatter angle is 10 degrees"):
        head(ideal_beam(extra_focal=ExtraFocal(12.5, 2.5, 0.08, scatter_angle_deg=10.0)))


def test_extra_focal_source_is_averaged_over_leaf_travel() -> None:
    machine = read_machine("varian-truebeam-m120")
    beam_model = machine.beam("6X")
    n = 60
    leaf = np.tile(np.array([-6.0, -4.0])[None, :, None], (2, 1, n))
    leaf[1] += 10.0
    beam = Beam(
        1, "s", "m", "6X", 100.0, np.array([0, 1.0]), np.zeros(2), np.zeros(2), np.zeros(2), np.zeros(3),
        np.array([[-7.0, 7.0]] * 2), np.array([[-5.0, 5.0]] * 2), machine.mlc.boundaries_cm, leaf,
    )  # fmt: skip
    points = np.arange(-8.0, 8.1, 2.0)
    whole = visible_extra_focal(machine, beam_model, segment_beam(beam), points, points)[0]
    weights = np.linspace(0, 1, 101)
    static = [
        visible_extra_focal(
            machine, beam_model, segment_beam(replace(beam, leaf_cm=np.stack([at] * 2))), points, points
        )[0]
        for at in (leaf[0] * (1 - w) + leaf[1] * w for w in 0.5 * (weights[1:] + weights[:-1]))
    ]
    np.testing.assert_allclose(whole, np.mean(static, axis=0), atol=2e-3)


def seen_by_one(machine: Machine, one: Segments, times: int, x_cm: np.ndarray, y_cm: np.ndarray) -> np.ndarray:
    """Equations (11) to (13) as they stand, for one segment: pair by pair, travel in as many steps as told."""
    model = machine.beam("6X")
    source, points = model.extra_focal, {"x": x_cm, "y": y_cm}
    angle, alpha = math.radians(source.scatter_angle_deg), 1 / (machine.sad_cm - source.distance_cm)
    beta = alpha + 1 / source.distance_cm
    shift = alpha * beta * (source.sigma_cm / angle) ** 2
    fall = 0.5 * (alpha / angle) ** 2 * (1 - (beta * source.sigma_cm / angle) ** 2)

    def projected(edge_cm: float, plane_cm: float, axis: str) -> np.ndarray:
        a = (plane_cm - source.distance_cm) / (machine.sad_cm - source.distance_cm)
        return (edge_cm * plane_cm / machine.sad_cm - a * points[axis]) / (1 - a) - shift * points[axis]

    def between(low_cm: np.ndarray, high_cm: np.ndarray) -> np.ndarray:
        return np.maximum(ndtr(high_cm / source.sigma_cm) - ndtr(low_cm / source.sigma_cm), 0.0)

    limits = {}
    for axis, jaw, at_cm in (("x", machine.jaw_x, one.jaw_x_cm), ("y", machine.jaw_y, one.jaw_y_cm)):
        wide = at_cm[0] if jaw is not None and at_cm is not None else (-math.inf, math.inf)
        limits[axis] = [projected(edge, jaw.plane_cm if jaw is not None else 50.0, axis) for edge in wide]
    by_jaws = {axis: between(*limits[axis]) for axis in limits}
    light = np.exp(-fall * y_cm**2)[:, None] * np.exp(-fall * x_cm**2)
    seen = np.outer(by_jaws["y"], by_jaws["x"])
    if one.leaf_boundaries_cm is None or one.leaf_start_cm is None or one.leaf_end_cm is None:
        return seen * light
    along, across = one.leaf_axis, "y" if one.leaf_axis == "x" else "x"
    start, end = (physical_tips(leaf, machine, model)[0] for leaf in (one.leaf_start_cm, one.leaf_end_cm))
    edges, strip = [-math.inf, *one.leaf_boundaries_cm, math.inf], leakage_width_cm(machine, model)
    plane, open_ = machine.mlc.plane_cm, np.zeros((len(points[across]), len(points[along])))
    for pair in range(-1, len(edges) - 2):
        side = [projected(edges[pair + 1 + k], plane, across) for k in (0, 1)]
        row = between(np.maximum(side[0], limits[across][0]), np.minimum(side[1], limits[across][1]))
        if pair in (-1, len(edges) - 3):
            open_ += np.outer(row, by_jaws[along])
            continue
        for k in range(times):
            tips = start[:, pair] + (end[:, pair] - start[:, pair]) * (k + 0.5) / times
            low, high = (projected(tips[b] + (-strip, strip)[b], plane, along) for b in (0, 1))
            column = between(np.maximum(low, limits[along][0]), np.minimum(high, limits[along][1]))
            open_ += np.outer(row, column) / times
    open_ = open_ if along == "x" else open_.T
    return (open_ + model.mlc_transmission * (seen - open_)) * light


def moving_leaves(case: str) -> tuple[Machine, Segments, int]:
    """A head, four segments whose leaves partly stand still, and the steps that the longest travel takes."""
    rng = np.random.default_rng(5)
    axis = "y" if case == "leaves along y" else "x"
    jaws = {"jaw_x": None} if case == "one pair of jaws" else {}
    source = ExtraFocal(12.5, 1.6, 0.08, scatter_angle_deg=14.0)
    machine = head(read_machine("varian-truebeam-m120").beam("6X"), axis=axis, tongue_cm=0.04, **jaws)
    machine = replace(machine, beams={"6X": replace(machine.beam("6X"), extra_focal=source)})
    start = np.stack([rng.uniform(-4, 0, (4, 40)), rng.uniform(0, 4, (4, 40))], axis=1)
    end = start + (1.9 if case == "long travel" else 0.3) * rng.uniform(-1, 1, start.shape)
    start[:, :, :12] = end[:, :, :12] = 0.0  # parked and closed
    jaw = np.tile([-3.0, 4.0], (4, 1))
    moved = jaw + rng.uniform(-1, 1, jaw.shape)
    wide = np.tile([-15.0, 12.0], (4, 1))  # open beyond the outermost leaves
    segments = Segments(
        np.ones(4), np.zeros(4), np.zeros(4), np.zeros(4),
        None if jaws else moved if case == "moving jaws" else jaw,
        wide if case == "beyond the leaves" else moved if case == "moving jaws" else jaw,
        machine.mlc.boundaries_cm, start, end, axis, np.arange(4),
    )  # fmt: skip
    return machine, segments, 4 if case == "long travel" else 1


@pytest.mark.parametrize(
    "case",
    ["short travel", "long travel", "moving jaws", "leaves along y", "one pair of jaws", "beyond the leaves"],
)
def test_extra_focal_source_is_seen_alike_from_all_segments_at_once(case: str) -> None:
    machine, segments, times = moving_leaves(case)
    x, y = np.arange(-9.0, 9.1, 2.0), np.arange(-12.0, 12.1, 3.0)
    seen = visible_extra_focal(machine, machine.beam("6X"), segments, x, y)
    wanted = [seen_by_one(machine, segments.part(k, k + 1), times, x, y) for k in range(4)]
    np.testing.assert_allclose(seen, wanted, rtol=1e-9, atol=1e-14)


def test_extra_focal_source_is_seen_without_leaves_as_jaws_leave_it() -> None:
    machine, segments, _ = moving_leaves("short travel")
    bare = replace(segments, leaf_boundaries_cm=None, leaf_start_cm=None, leaf_end_cm=None)
    x, y = np.arange(-9.0, 9.1, 2.0), np.arange(-12.0, 12.1, 3.0)
    seen = visible_extra_focal(machine, machine.beam("6X"), bare, x, y)
    assert seen.shape == (4, len(y), len(x))
    np.testing.assert_allclose(seen, [seen_by_one(machine, bare.part(0, 1), 1, x, y)] * 4, rtol=1e-9, atol=1e-14)


def test_raster_is_that_of_its_segments_one_by_one() -> None:
    """Travel is averaged over in as many steps as a segment needs, whatever the others need."""
    machine, segments, _ = moving_leaves("long travel")
    still = replace(segments, leaf_end_cm=segments.leaf_start_cm)
    mixed = replace(segments, leaf_end_cm=np.concatenate([still.leaf_start_cm[:2], segments.leaf_end_cm[2:]]))
    whole = fluence_raster(mixed, machine, machine.beam("6X"))
    parts = [fluence_raster(mixed.part(k, k + 1), machine, machine.beam("6X")) for k in range(4)]
    assert whole.xs_cm[0] == pytest.approx(min(part.xs_cm[0] for part in parts))
    assert whole.xs_cm[-1] == pytest.approx(max(part.xs_cm[-1] for part in parts))
    assert whole.ys_cm[0] == pytest.approx(min(part.ys_cm[0] for part in parts))
    assert whole.ys_cm[-1] == pytest.approx(max(part.ys_cm[-1] for part in parts))


@pytest.mark.parametrize("is_moving", [False, True])
def test_jaws_blur_segment_by_segment(is_moving: bool) -> None:
    """Equation (8): the mean over a pixel of the Gaussian edges, summed on a fine grid."""
    spot = (SpotComponent(0.7, 0.05, 0.12, 20.0), SpotComponent(0.3, 0.2, 0.1))
    machine = head(ideal_beam(spot=spot, jaw_x_transmission=0.004))
    segments = moving_leaves("moving jaws" if is_moving else "short travel")[1]
    segments = replace(segments, collimator_deg=np.array([0.0, 40.0, 40.0, 90.0]) if is_moving else np.full(4, 30.0))
    assert segments.jaw_x_cm is not None
    points, fine = np.arange(-8.0, 8.05, 0.1), (np.arange(200) + 0.5) / 2000 - 0.05
    wanted = np.zeros((4, len(points)))
    for k, (jaw, angle) in enumerate(zip(segments.jaw_x_cm, segments.collimator_deg, strict=True)):
        for part in spot:
            sigma = 60 / 40 * math.sqrt(part.covariance_cm2(float(angle))[0, 0])  # jaws at 40 cm
            at = points[:, None] + fine
            wanted[k] += part.weight * (ndtr((at - jaw[0]) / sigma) - ndtr((at - jaw[1]) / sigma)).mean(axis=1)
    found = jaw_profile(machine, machine.beam("6X"), segments, "x", points, 0.1)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, 0.004 + 0.996 * wanted, atol=1e-6)


def test_electrons_of_a_large_field_have_their_weight(fluence: Stage) -> None:
    beam_model = ideal_beam(electrons=ElectronContamination(0.02, 1.0, 2.0))
    maps = run(fluence, head(beam_model), segment((-9.0, 9.0), mu=3.0))
    r = maps.electron_raster
    i, j = int(np.argmin(np.abs(r.xs_cm))), int(np.argmin(np.abs(r.ys_cm)))
    assert maps.electron[0, j, i] == pytest.approx(3 * 0.02, rel=1e-3)
    k = int(np.argmin(np.abs(r.xs_cm - 9.0)))
    assert maps.electron[0, j, k] == pytest.approx(1.5 * 0.02, rel=0.02)


def test_electrons_of_a_small_field_are_an_error_function(fluence: Stage) -> None:
    """4 x 2 cm at sigma 2 cm: erf(2 / (2 sqrt 2)) erf(1 / (2 sqrt 2)) on the axis."""
    beam_model = ideal_beam(electrons=ElectronContamination(0.02, 1.0, 2.0))
    maps = run(fluence, head(beam_model), segment((-2.0, 2.0), jaw_y=(-1.0, 1.0)))
    r = maps.electron_raster
    i, j = int(np.argmin(np.abs(r.xs_cm))), int(np.argmin(np.abs(r.ys_cm)))
    expected = 0.02 * math.erf(1 / math.sqrt(2)) * math.erf(0.5 / math.sqrt(2))
    assert maps.electron[0, j, i] == pytest.approx(expected, rel=5e-3)


def test_what_the_raster_leaves_out_is_negligible(fluence: Stage) -> None:
    """A modulated field of a real machine on its raster and on one of 40 x 40 cm."""
    machine = read_machine("varian-truebeam-m120")
    beam_model = machine.beam("6X")
    leaf = np.zeros((2, 2, 60))
    leaf[:, 0], leaf[:, 1] = -0.025, 0.025
    leaf[:, 0, 24:36], leaf[:, 1, 24:36] = -2.0, 1.5
    beam = Beam(
        1, "s", "m", "6X", 1.0, np.array([0, 1.0]), np.zeros(2), np.zeros(2), np.zeros(2), np.zeros(3),
        np.array([[-3.2, 3.2]] * 2), np.array([[-3.2, 3.2]] * 2), machine.mlc.boundaries_cm, leaf,
    )  # fmt: skip
    segments = segment_beam(beam)
    raster = fluence_raster(segments, machine, beam_model)
    # Per voxel: behind the jaws, abutting leaf ends draw a line of 0.4 % that is a millimetre wide.
    everything = fluence(machine, beam_model, segments, Raster(-20.0, -20.0, 0.1, 401, 401)).photon[0]
    everything = uniform_filter(everything, 3)
    inside = np.zeros((401, 401), dtype=bool)
    i, j = round((raster.x_cm + 20) / 0.1), round((raster.y_cm + 20) / 0.1)
    inside[j : j + raster.ny, i : i + raster.nx] = True
    assert raster.nx < 180 and raster.ny < 180
    # Head scatter and leakage may leave 0.2 % each.
    assert everything[~inside].max() < 0.004
    assert np.mean(everything[~inside] > 0.002) < 0.01


def test_raster_of_an_open_field_reaches_to_the_largest_field(fluence: Stage) -> None:
    """With leaves out of the way, the jaws' own transmission of 0.4 % counts everywhere."""
    machine = read_machine("varian-truebeam-m120")
    model = replace(
        machine.beam("6X"), jaw_x_transmission=0.004, jaw_y_transmission=0.004, monitor_backscatter=0.0,
        extra_focal=ExtraFocal(12.5, 2.05, 0.067),
    )  # fmt: skip
    beam = Beam(
        1, "s", "m", "6X", 1.0, np.array([0, 1.0]), np.zeros(2), np.zeros(2), np.zeros(2), np.zeros(3),
        np.array([[-5.0, 5.0]] * 2), np.array([[-5.0, 5.0]] * 2),
    )  # fmt: skip
    raster = fluence_raster(segment_beam(beam), machine, model)
    assert raster.xs_cm[0] <= -20 and raster.xs_cm[-1] >= 20
    maps = fluence(machine, model, segment_beam(beam), raster)
    seen = visible_extra_focal(machine, model, segment_beam(beam), np.array([15.0]), np.array([0.0]))
    expected = 0.004 * model.radial_fluence.at(15.0) + 0.067 * float(seen[0, 0, 0])
    assert at(maps, 15.0, 0.0) == pytest.approx(expected, rel=1e-3)


def test_monitor_backscatter_lowers_the_output_of_closed_upper_jaws(fluence: Stage) -> None:
    """Upper jaws (Y) open 10 of 40 cm: 1 / (1 + 0.02 x 0.75)."""
    plain = run(fluence, head(ideal_beam()), segment((-3.0, 3.0), jaw_y=(-5.0, 5.0)))
    scattered = run(fluence, head(ideal_beam(monitor_backscatter=0.02)), segment((-3.0, 3.0), jaw_y=(-5.0, 5.0)))
    assert at(scattered, 0.0, 0.0) / at(plain, 0.0, 0.0) == pytest.approx(1 / 1.015, rel=1e-5)


def test_fluence_of_a_planning_system_is_reproduced(fluence: Stage, shared: Path) -> None:
    """Sliding-window beams whose plan carries the planning system's total actual fluence, 2.5 mm pixels.

    Its scale is relative to the beam with the largest meterset and its head scatter is not ours, so the shape is
    compared: correlation, against 0.89 at most for maps mirrored in x, y or both.
    """
    pydicom = pytest.importorskip("pydicom")
    from spinedose.dicom.plan import read_plan

    packed = shared / "dicom" / "eclipse_thorax_imrt" / "RTPLAN.dcm.xz"
    if not packed.is_file():
        pytest.skip("needs the plan beside the checkout")
    content = lzma.decompress(packed.read_bytes())
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "plan.dcm"
        file.write_bytes(content)
        plan = read_plan(file)
    beam = plan.beams[0]
    machine, _ = machine_for_beam(beam)
    assert machine.name == "varian-truebeam-hd120"
    segments = segment_beam(beam)
    maps = fluence(machine, machine.beam("6X"), segments, fluence_raster(segments, machine, machine.beam("6X")))
    total = FluenceMaps(maps.photon.sum(axis=0, keepdims=True), maps.raster, maps.electron[:1], maps.electron_raster)
    found = next(b for b in pydicom.dcmread(io.BytesIO(content)).BeamSequence if b.BeamNumber == beam.number)
    actual = found.CompensatorSequence[1]
    values = np.array(actual.CompensatorTransmissionData, dtype=float)
    values = values.reshape(actual.CompensatorRows, actual.CompensatorColumns)
    x0, y0 = (float(v) / 10 for v in actual.CompensatorPosition)
    # Within the maps and 12 x 9 cm, which holds the aperture.
    y, x = np.meshgrid(y0 - 0.25 * np.arange(len(values)), x0 + 0.25 * np.arange(values.shape[1]), indexing="ij")
    inside = (np.abs(x + 4) < 6) & (np.abs(y) < 6)
    mine, theirs = lookup(total, x[inside], y[inside]), values[inside]
    assert np.corrcoef(mine, theirs)[0, 1] > 0.995
    assert np.corrcoef(lookup(total, x[inside], -y[inside]), theirs)[0, 1] < 0.9
