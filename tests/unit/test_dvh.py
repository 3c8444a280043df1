"""Dose-volume histograms against solids and doses whose histogram is known in closed form."""

from __future__ import annotations

import json

import numpy as np
import pytest

from spinedose.compare.dvh import LEAST_VOXELS, Dvh, dvh
from spinedose.compare.solid import Convention, cut, width_cm
from spinedose.errors import InvalidInput
from spinedose.grid import Grid, Volume
from spinedose.structures import Structure

PRISMS = Convention("prisms", "flat")

GOOD = 0.5
"""Per cent within which analytic solids in linear doses must come out: of the volume, and of the highest dose."""

RADIUS, HEIGHT = 1.2, 2.4
"""Of the analytic solids [cm]; as in Nelms et al., Med Phys 42:4435 (2015)."""

MIDDLE, SLOPE, TOP = 16.0, 10.0, 28.0
"""Dose in the middle of a solid [Gy], its slope [Gy/cm] and the highest dose in it [Gy]."""


def box_structure(x0, x1, y0, y1, z0, z1, spacing=0.2):
    heights = np.arange(z0 + spacing / 2, z1, spacing)
    corners = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
    return Structure(1, "box", contours_cm=tuple(np.column_stack([corners, np.full(4, z)]) for z in heights))


def disc(radius, z, x=0.0, y=0.0, n=360):
    """A polygon with the area of a disc."""
    angle = 2 * np.pi * np.arange(n) / n
    radius = radius * np.sqrt(2 * np.pi / n / np.sin(2 * np.pi / n))
    return np.column_stack([x + radius * np.cos(angle), y + radius * np.sin(angle), np.full(n, z)])


def cylinder(radius, z0, z1, spacing=0.2):
    heights = np.arange(z0 + spacing / 2, z1, spacing)
    return Structure(1, "cylinder", contours_cm=tuple(disc(radius, z) for z in heights))


def solid(shape, slices, phase=0.0, radius=RADIUS, height=HEIGHT):
    """A sphere, cylinder or cone around 0, drawn on planes so far apart [cm]; the cone stands on its tip."""
    if shape == "sphere":
        z = (np.arange(-60, 61) + phase) * slices
        z = z[np.abs(z) < radius * (1 - 1e-4)]
        outlines = [disc(np.sqrt(radius**2 - h**2), h) for h in z]
    elif shape == "cylinder":
        outlines = [disc(radius, h) for h in -height / 2 + slices * (np.arange(round(height / slices)) + 0.5)]
    else:
        z = height / 2 - slices * (np.arange(round(height / slices) + 1) + 0.5)
        outlines = [disc(radius * (h / height + 0.5), h) for h in z if h > -height / 2 + 1e-3]
    return Structure(1, shape, contours_cm=tuple(outlines), contour_spacing_cm=slices)


def segment(radius, u):
    """Area of a disc beyond a chord at the distance u from its middle."""
    u = np.clip(u / radius, -1, 1)
    return radius**2 * (np.arccos(u) - u * np.sqrt(1 - u**2))


def volume_beyond(shape, axis, u):
    """Volume of an analytic solid whose coordinate along an axis exceeds u."""
    if shape == "sphere":
        u = np.clip(u, -RADIUS, RADIUS)
        return np.pi * (RADIUS - u) ** 2 * (2 * RADIUS + u) / 3
    if shape == "cylinder":
        along = np.pi * RADIUS**2 * np.clip(HEIGHT / 2 - u, 0, HEIGHT)
        return along if axis == 2 else HEIGHT * segment(RADIUS, u)
    if axis == 2:
        return np.pi * RADIUS**2 * HEIGHT / 3 * (1 - np.clip(u / HEIGHT + 0.5, 0, 1) ** 3)
    parts = (np.arange(2000) + 0.5) / 2000
    return HEIGHT * np.mean([segment(RADIUS * part, u) for part in parts], axis=0)


def linear_dose(direction=(0, 0, SLOPE), middle=MIDDLE, spacing=0.25):
    n = int(6 / spacing) + 1
    grid = Grid((-2.9, -2.85, -3.0), (spacing,) * 3, (n, n, n))
    x, y, z = grid.axes_cm
    values = (
        middle + direction[0] * x[None, None, :] + direction[1] * y[None, :, None] + direction[2] * z[:, None, None]
    )
    return Volume(grid, values)


def ramp(slope_gy_per_cm, axis, spacing=0.25, shape=(40, 48, 48)):
    grid = Grid((-5.875, -5.875, -4.875), (spacing,) * 3, shape)
    along = grid.axes_cm[axis]
    index = [None, None, None]
    index[2 - axis] = slice(None)
    values = np.broadcast_to((10 + slope_gy_per_cm * along)[tuple(index)], grid.shape)
    return Volume(grid, np.array(values))


def volume(structure, cell=0.02, convention=None):
    return sum(layer.volume_cm3 for layer in cut(structure, cell, convention))


# --- analytic solids --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slices", [0.1, 0.2, 0.3])
@pytest.mark.parametrize("axis", [0, 2])
@pytest.mark.parametrize("shape", ["sphere", "cylinder", "cone"])
def test_analytic_solids_in_linear_doses(shape, axis, slices):
    dose = linear_dose(SLOPE * np.eye(3)[axis])
    u = np.linspace(-1.3, 1.3, 10_001)
    beyond = volume_beyond(shape, axis, u)
    total = beyond[0]
    for phase in (0.0, 0.25, 0.5) if shape == "sphere" else (0.0,):
        curve = dvh(dose, solid(shape, slices, phase))
        assert 100 * curve.volume_cm3 / total == pytest.approx(100, abs=GOOD)
        mean = MIDDLE + SLOPE * np.trapezoid(-u * np.gradient(beyond, u), u) / total
        assert 100 * curve.mean_gy / TOP == pytest.approx(100 * mean / TOP, abs=GOOD)
        for part in (0.99, 0.95, 0.5, 0.1, 0.05, 0.01, 0.03 / total, 0.035 / total):
            true = MIDDLE + SLOPE * np.interp(-part * total, -beyond, u)
            assert 100 * curve.dose_at_volume(part * total) / TOP == pytest.approx(100 * true / TOP, abs=GOOD)
        for place in (-0.9, -0.5, 0.0, 0.5, 0.9):
            found = float(curve.volume_at_dose(MIDDLE + SLOPE * place))
            assert 100 * found / total == pytest.approx(100 * np.interp(place, u, beyond) / total, abs=GOOD)


def test_prisms_alone_would_not_do():
    """What shape interpolation is for: at 3 mm slices prisms miss the volume of a sphere by more than 1 %."""
    worst = max(abs(volume(solid("sphere", 0.3, phase), convention=PRISMS) / 7.2382 - 1) for phase in (0.0, 0.25, 0.5))
    assert worst > 0.01


@pytest.mark.parametrize("phase", [0.0, 0.1, 0.2, 0.3, 0.4, 0.45])
def test_a_sphere_of_3_mm_on_slices_of_1_mm(phase):
    true = 4 / 3 * np.pi * 0.15**3
    assert volume(solid("sphere", 0.1, phase, radius=0.15), 0.005) == pytest.approx(true, rel=0.05)


def test_two_equal_planes_say_nothing_of_a_sphere():
    """Its middle half way between planes, a 3 mm sphere meets only two: it comes out as a cylinder, 11 % too small."""
    found = volume(solid("sphere", 0.1, 0.5, radius=0.15), 0.005)
    assert found == pytest.approx(2 * np.pi * (0.15**2 - 0.05**2) * 0.1, rel=1e-3)


def test_more_samples_converge():
    dose, structure = linear_dose((SLOPE, 0, 0)), solid("sphere", 0.2, 0.25)
    true = MIDDLE + SLOPE * np.interp(
        -0.03, -volume_beyond("sphere", 0, np.linspace(-1.2, 1.2, 9999)), np.linspace(-1.2, 1.2, 9999)
    )
    errors = [abs(dvh(dose, structure, least_samples=n).dose_at_volume(0.03) - true) for n in (10**3, 10**5, 10**6)]
    assert errors[2] < errors[0] and errors[1] < 0.001 * TOP and errors[2] < 0.0005 * TOP


def test_an_oblique_cylinder_keeps_its_volume_and_middle():
    heights = np.arange(-5, 6) * 0.2
    structure = Structure(1, "oblique", contours_cm=tuple(disc(0.5, z, x=z) for z in heights))
    curve = dvh(linear_dose((SLOPE, 0, -SLOPE)), structure)
    # Along x - z the dose is the same on all planes: a cylinder across its axis.
    assert curve.volume_cm3 == pytest.approx(np.pi * 0.25 * 2.2, rel=1e-4)
    assert curve.mean_gy == pytest.approx(MIDDLE, abs=0.02)
    assert curve.maximum_gy == pytest.approx(MIDDLE + 0.5 * SLOPE, abs=0.15 * SLOPE)  # end caps stay upright: + 0.1


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_box_in_a_ramp_has_a_straight_histogram(axis):
    # Dose 10 + 2 u along an axis, box 2 x 2 x 2 cm around 0: doses 8 to 12, volume above d is 8 (12 - d) / 4.
    curve = dvh(ramp(2.0, axis), box_structure(-1, 1, -1, 1, -1, 1))
    assert curve.volume_cm3 == pytest.approx(8.0)
    assert curve.covered_cm3[-1] == pytest.approx(8.0, rel=1e-5)
    assert curve.mean_gy == pytest.approx(10.0, abs=1e-3)
    assert curve.dose_at_percent(50) == pytest.approx(10.0, abs=0.005)
    np.testing.assert_allclose(curve.volume_at_dose([7.9, 9.0, 11.0, 12.1]), [8.0, 6.0, 2.0, 0.0], atol=8 * GOOD / 100)
    assert 11.99 < curve.maximum_gy <= 12.0 + 1e-4 and 8.0 - 1e-4 <= curve.minimum_gy < 8.01


def test_a_cylinder_in_a_ramp_along_its_axis():
    # Hottest 5 % of a 6 cm long cylinder in 10 + 3 z: the top 0.3 cm, dose 10 + 3 * 2.7.
    curve = dvh(ramp(3.0, 2), cylinder(0.45, -3, 3))
    assert curve.volume_cm3 == pytest.approx(np.pi * 0.45**2 * 6, rel=1e-4)
    assert curve.dose_at_percent(5) == pytest.approx(18.1, abs=0.01)
    assert curve.dose_at_volume(0.03) == pytest.approx(10 + 3 * (3 - 0.03 / (np.pi * 0.45**2)), abs=0.01)


def test_a_small_structure_is_sampled_finely():
    # A 3 mm rod across a ramp, in voxels of 2.5 mm: samples of 0.05 mm.
    curve = dvh(ramp(1.0, 0), cylinder(0.15, -1, 1))
    assert curve.maximum_gy == pytest.approx(10.15, abs=0.01)
    assert curve.dose_at_percent(50) == pytest.approx(10.0, abs=0.001)


def test_a_large_structure_has_the_maximum_of_its_hottest_voxel():
    """A single hot voxel in 8 L, and a hotter one outside of it."""
    grid = Grid((-14.75, -14.75, -14.75), (0.5, 0.5, 0.5), (60, 60, 60))
    values = np.ones(grid.shape, np.float32)
    values[30, 31, 28], values[58, 58, 58] = 20.0, 30.0
    curve = dvh(Volume(grid, values), box_structure(-10, 10, -10, 10, -10, 10, 0.5))
    assert curve.sample_cm3 > 0.001
    assert curve.maximum_gy == 20.0


def test_no_sample_lies_outside_its_structure():
    for convention in (Convention(), PRISMS):
        curve = dvh(linear_dose((SLOPE, SLOPE / 2, 0)), cylinder(0.5, -1, 1), convention=convention)
        true = MIDDLE + 0.5 * SLOPE * np.sqrt(1.25)
        assert true - 0.02 * SLOPE < curve.maximum_gy < true + 0.005 * SLOPE


# --- parts, branches and holes ----------------------------------------------------------------------------------------

PLANES = 0.2 * np.arange(10)


def structure_of(*outlines):
    return Structure(1, "x", contours_cm=tuple(outlines), contour_spacing_cm=0.2)


@pytest.mark.parametrize("convention", [Convention(), PRISMS])
def test_a_part_that_ends_earlier_ends_half_a_slice_beyond(convention):
    long, short = [disc(1, z, x=-3) for z in PLANES], [disc(1, z, x=3) for z in PLANES[:5]]
    assert volume(structure_of(*long, *short), 0.05, convention) == pytest.approx(np.pi * (2.0 + 1.0), rel=1e-4)


def test_the_fork_of_a_y_stays_within_both_outlines():
    stem, arms = [disc(1.5, z) for z in PLANES[:5]], [disc(0.7, z, x=x) for z in PLANES[5:] for x in (-0.8, 0.8)]
    found = volume(structure_of(*stem, *arms), 0.03)
    assert found == pytest.approx(np.pi * (1.5**2 + 2 * 0.7**2) * 1.0, rel=1e-3)


def test_a_new_part_beside_an_old_one_does_not_make_the_old_one_swell():
    """A screw that begins beside a rod: half way to it both outlines are there by half, and nothing else."""
    rod = [disc(0.3, z) for z in PLANES]
    bar = np.array([(0, -0.3), (4, -0.3), (4, 0.3), (0, 0.3)])
    screw = [np.column_stack([bar, np.full(4, z)]) for z in PLANES[4:6]]
    for layer in cut(structure_of(*[r for k, r in enumerate(rod) if k not in (4, 5)], *screw), 0.05):
        y = layer.corner_cm[1] + layer.cell_cm * np.arange(layer.share.shape[0])
        assert np.all(layer.share[np.abs(y) > 0.36] < 1e-6)


def test_holes_rings_and_keyholes():
    ring = np.pi * (1.5**2 - 0.8**2) * 2.0
    outer, inner = [disc(1.5, z) for z in PLANES], [disc(0.8, z) for z in PLANES]
    keyholes = [np.concatenate([o, o[:1], i[::-1], i[-1:]]) for o, i in zip(outer, inner, strict=True)]
    assert volume(structure_of(*outer, *inner), 0.05) == pytest.approx(ring, rel=1e-4)
    assert volume(structure_of(*keyholes), 0.05) == pytest.approx(ring, rel=1e-3)


def test_a_thin_shell_is_seen():
    shell = structure_of(*[disc(2.00, z) for z in PLANES], *[disc(1.95, z) for z in PLANES])
    true = np.pi * (2.0**2 - 1.95**2) * 2.0
    curve = dvh(linear_dose((SLOPE, 0, 0)), shell)
    assert curve.volume_cm3 == pytest.approx(true, rel=1e-3)
    assert curve.mean_gy == pytest.approx(MIDDLE, abs=0.02)


def test_a_gap_between_parts_stays_empty_and_is_reported():
    structure = structure_of(*[disc(1, z) for z in (0, 0.2, 0.4, 1.2, 1.4, 1.6)])
    curve = dvh(linear_dose(), structure)
    assert curve.volume_cm3 == pytest.approx(np.pi * 6 * 0.2, rel=1e-4)
    assert "not drawn between z = 5.0 to 11.0 mm" in curve.warnings[0]


@pytest.mark.parametrize(("ends", "slices"), [("tapered", 10), ("flat", 10), ("none", 9)])
@pytest.mark.parametrize("between", ["interpolated", "prisms"])
def test_ends_of_a_cylinder(between, ends, slices):
    structure = structure_of(*[disc(1, z) for z in PLANES])
    assert volume(structure, 0.05, Convention(between, ends)) == pytest.approx(np.pi * 0.2 * slices, rel=1e-4)


def test_a_cone_ends_in_its_tip_or_flat():
    """Planes 0.1 to 2.1 cm from the tip: tapered, the tip is there; flat, half a slice of the last disc."""
    planes = 0.1 + 0.2 * np.arange(11)
    cone = structure_of(*[disc(z / 2, z) for z in planes])
    whole = np.pi * 2.2**3 / 12
    assert volume(cone, 0.01) == pytest.approx(whole, rel=1e-3)
    tip, slab = np.pi * 0.1**3 / 12, np.pi * 0.05**2 * 0.1
    base, flat_base = np.pi * (2.2**3 - 2.1**3) / 12, np.pi * 1.05**2 * 0.1
    assert volume(cone, 0.01, Convention("interpolated", "flat")) == pytest.approx(
        whole - tip + slab - base + flat_base, rel=1e-3
    )


# --- what must not matter ---------------------------------------------------------------------------------------------


def test_order_of_contours_and_points_does_not_matter():
    structure = solid("sphere", 0.2, 0.3)
    turned = Structure(
        1,
        "sphere",
        contours_cm=tuple(np.roll(c[::-1], 7, axis=0) for c in structure.contours_cm[::-1]),
        contour_spacing_cm=0.2,
    )
    one, other = (dvh(linear_dose(), s) for s in (structure, turned))
    np.testing.assert_allclose(
        one.volume_at_dose(np.arange(5, 28)), other.volume_at_dose(np.arange(5, 28)), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("shift", [(0.013, -0.021, 0.0371), (0.1234, 0.0987, -0.111)])
def test_moving_structure_and_dose_together_does_not_matter(shift):
    structure = solid("cone", 0.2)
    moved = Structure(1, "cone", contours_cm=tuple(c + shift for c in structure.contours_cm), contour_spacing_cm=0.2)
    dose = linear_dose((3.0, -2.0, SLOPE))
    away = Volume(Grid(tuple(np.add(dose.grid.origin_cm, shift)), dose.grid.spacing_cm, dose.grid.shape), dose.values)
    one, other = dvh(dose, structure), dvh(away, moved)
    for percent in (1, 5, 50, 95, 99):
        assert one.dose_at_percent(percent) == pytest.approx(other.dose_at_percent(percent), abs=0.002 * TOP)


def test_mirroring_structure_and_dose_does_not_matter():
    structure = Structure(1, "skew", contours_cm=tuple(disc(0.6 + 0.1 * z, z, x=0.3 * z, y=0.2) for z in PLANES - 1))
    mirrored = Structure(1, "skew", contours_cm=tuple(c * (-1, 1, 1) for c in structure.contours_cm))
    one, other = dvh(linear_dose((7, 0, 2)), structure), dvh(linear_dose((-7, 0, 2)), mirrored)
    for percent in (1, 50, 99):
        assert one.dose_at_percent(percent) == pytest.approx(other.dose_at_percent(percent), abs=0.001 * TOP)


def test_the_dose_scales_the_histogram():
    structure, dose = solid("sphere", 0.2), linear_dose((4, 0, SLOPE))
    double = Volume(dose.grid, 2 * dose.values)
    one, other = dvh(dose, structure), dvh(double, structure)
    assert other.mean_gy == pytest.approx(2 * one.mean_gy)
    assert other.dose_at_volume(0.03) == pytest.approx(2 * one.dose_at_volume(0.03))


def test_float32_doses_give_the_same():
    dose = linear_dose()
    single = Volume(dose.grid, dose.values.astype(np.float32))
    whole = Volume(dose.grid, np.full(dose.grid.shape, 3))
    structure = solid("cylinder", 0.2)
    assert dvh(single, structure).mean_gy == pytest.approx(dvh(dose, structure).mean_gy, rel=1e-6)
    assert dvh(whole, structure).mean_gy == pytest.approx(3.0)


# --- flags, refusals, numbers out -------------------------------------------------------------------------------------


def test_a_structure_partly_outside_the_grid_is_reported():
    # The grid ends at z = 5.0; a quarter of the box is above.
    curve = dvh(ramp(1.0, 0), box_structure(-1, 1, -1, 1, 2, 6))
    assert curve.covered_cm3[-1] == pytest.approx(12.0, rel=1e-4)
    assert curve.volume_cm3 == pytest.approx(16.0)
    assert "25.0 %" in curve.warnings[0]


def test_a_cord_too_small_for_the_grid_is_flagged():
    cord = cylinder(0.4, -2, 2)
    assert dvh(ramp(1.0, 0), cord).too_small == ""
    assert "mm wide: 2.7 voxels" in dvh(ramp(1.0, 0, spacing=0.3), cord).too_small
    assert "mm long: 2.0 voxels" in dvh(ramp(1.0, 0, spacing=0.2), box_structure(-1, 1, -1, 1, -0.2, 0.2)).too_small
    assert f"fewer than {LEAST_VOXELS}" in dvh(ramp(1.0, 0), cylinder(0.2, -1, 1)).too_small


def test_what_has_no_histogram_is_refused():
    with pytest.raises(InvalidInput, match="no volume"):
        dvh(ramp(1.0, 0), Structure(1, "empty"))
    with pytest.raises(InvalidInput, match="outside"):
        dvh(ramp(1.0, 0), box_structure(20, 21, 0, 1, 0, 1))
    with pytest.raises(InvalidInput, match="hottest"):
        dvh(ramp(1.0, 0), box_structure(0, 1, 0, 1, 0, 1)).dose_at_volume(2.0)
    with pytest.raises(InvalidInput, match="one plane"):
        dvh(ramp(1.0, 0), Structure(1, "plane", contours_cm=(disc(1, 0),)))
    with pytest.raises(InvalidInput, match="ends are left out"):
        dvh(ramp(1.0, 0), structure_of(disc(1, 0)), convention=Convention(ends="none"))
    with pytest.raises(InvalidInput, match="samples"):
        dvh(ramp(1.0, 0), cylinder(1, -1, 1), least_samples=0)
    with pytest.raises(InvalidInput, match="round"):
        Convention(ends="round")
    with pytest.raises(InvalidInput, match="guess"):
        Convention(between="guess")
    with pytest.raises(InvalidInput, match="not sorted"):
        Dvh("x", np.array([1.0, 2.0]), np.array([1.0, 2.0]), 2.0)


def test_a_single_plane_of_known_thickness_is_a_slab():
    assert dvh(linear_dose(), structure_of(disc(1, 0.05))).volume_cm3 == pytest.approx(np.pi * 0.2, rel=1e-4)


def test_planes_without_area_do_no_harm():
    speck = np.array([(0, 0, 0.6), (0.5, 0, 0.6), (1.0, 0, 0.6)])
    structure = structure_of(*[disc(1, z) for z in (0, 0.2, 0.4)], speck)
    assert volume(structure, 0.05) == pytest.approx(np.pi * 0.6, rel=0.01)


def test_width():
    assert width_cm(cylinder(0.4, -1, 1)) == pytest.approx(0.4, rel=1e-3)
    assert width_cm(Structure(1, "none")) == 0.0


def test_a_histogram_is_json():
    curve = dvh(linear_dose(), solid("sphere", 0.2))
    table = json.loads(json.dumps(curve.as_dict(points=50), allow_nan=False))
    assert table["volume_cm3"] == curve.volume_cm3 and len(table["dose_gy"]) == 50
    assert (table["between_contours"], table["ends"]) == ("interpolated", "tapered")
    assert table["volume_at_dose_cm3"][0] == pytest.approx(float(curve.covered_cm3[-1]))
