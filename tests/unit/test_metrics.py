"""Metrics by name, indices and fall-off against doses in which they are known in closed form."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from spinedose.compare.dvh import Dvh, dvh
from spinedose.compare.metrics import (
    LEAST_ISODOSE_VOXELS,
    STANDARD,
    TOO_SMALL,
    Metric,
    bed_gy,
    eqd2_dvh,
    eqd2_gy,
    fall_off,
    isodose_volume_cm3,
    measure,
    parse_metric,
    plan_quality,
    structure_metrics,
)
from spinedose.errors import InvalidInput
from spinedose.grid import Grid, Volume
from spinedose.structures import Structure

CURVE = Dvh("PTV", np.linspace(20.0, 10.0, 1001), np.linspace(0.01, 10.01, 1001), 10.01)
"""Doses from 20 to 10 Gy, evenly over 10 cm^3."""


def ball_dose(spacing=0.125, top=30.0, slope=10.0, half=4.0):
    """Dose that falls linearly from the middle: the isodose of d Gy is a sphere of radius (top - d) / slope."""
    n = int(2 * half / spacing) + 1
    grid = Grid((-half + 0.03, -half - 0.05, -half + 0.02), (spacing,) * 3, (n, n, n))
    x, y, z = grid.axes_cm
    r = np.sqrt(x[None, None] ** 2 + y[None, :, None] ** 2 + z[:, None, None] ** 2)
    return Volume(grid, np.maximum(top - slope * r, 0).astype(np.float32))


def ball(radius, spacing=0.1, name="PTV"):
    angle = 2 * np.pi * np.arange(180) / 180
    heights = spacing * (np.arange(-40, 41) + 0.3)
    radii = [(h, math.sqrt(radius**2 - h**2)) for h in heights if abs(h) < radius]
    rings = tuple(np.column_stack([r * np.cos(angle), r * np.sin(angle), np.full(180, h)]) for h, r in radii)
    return Structure(1, name, contours_cm=rings, contour_spacing_cm=spacing)


def sphere(radius):
    return 4 / 3 * np.pi * radius**3


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("D95%", "D95%[Gy]"),
        ("d95 %[%]", "D95%[%]"),
        ("D0.03cc", "D0.03cc[Gy]"),
        ("D0.035cc[Gy]", "D0.035cc[Gy]"),
        ("V14Gy[cc]", "V14Gy[cc]"),
        ("V20gy[%]", "V20Gy[%]"),
        ("V100%[%]", "V100%[%]"),
        ("mean", "Mean[Gy]"),
        ("MAX[%]", "Max[%]"),
        ("Volume", "Volume[cc]"),
    ],
)
def test_names_are_read_and_written(text, name):
    assert parse_metric(text).name == name
    assert parse_metric(name) == parse_metric(text)


@pytest.mark.parametrize(
    "text", ["", "D", "D95", "V14Gy", "V14Gy[Gy]", "V3cc[cc]", "D14Gy", "D101%", "D-1%", "Mean[cc]", "Volume[Gy]", "x"]
)
def test_names_that_are_none_are_refused(text):
    with pytest.raises(InvalidInput):
        parse_metric(text)


def test_a_metric_proves_itself():
    with pytest.raises(InvalidInput, match="asked at"):
        Metric("dose at volume", math.nan, "Gy")


# --- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Mean[Gy]", 15.0),
        ("Max[Gy]", 20.0),
        ("Min[Gy]", 10.0),
        ("D95%[Gy]", 10.5),
        ("D50%[Gy]", 15.0),
        ("D95%[%]", 52.48),
        ("D1cc[Gy]", 19.0),
        ("D0.035cc[Gy]", 19.97),
        ("V15Gy[cc]", 5.01),
        ("V15Gy[%]", 50.05),
        ("V75%[%]", 50.05),
        ("V75%[cc]", 5.01),
        ("Volume[cc]", 10.01),
    ],
)
def test_values_of_a_straight_histogram(name, value):
    found = measure(name, CURVE, prescription_gy=20.0)
    assert found.value == pytest.approx(value, abs=0.011)
    assert found.name == name and found.doubt == ""


def test_what_cannot_be_read_is_missing_or_refused():
    small = Dvh("cord", np.array([5.0, 4.0]), np.array([0.01, 0.02]), 0.02)
    found = measure("D0.03cc", small)
    assert math.isnan(found.value) and "0.020 cm3, less than 0.03" in found.doubt
    assert found.as_dict()["value"] is None
    for name in ("V100%[%]", "D95%[%]", "Mean[%]"):
        with pytest.raises(InvalidInput, match="prescri"):
            measure(name, CURVE)


def test_doubtful_numbers_say_so():
    flagged = Dvh("cord", CURVE.dose_gy, CURVE.covered_cm3, 10.01, too_small="it is 2 mm wide")
    assert "too small for the dose grid: it is 2 mm wide" in measure("Mean", flagged).doubt
    assert measure("Volume", flagged).doubt == ""
    coarse = Dvh("body", CURVE.dose_gy, CURVE.covered_cm3, 10.01, sample_cm3=0.0156)
    assert "1.9 samples" in measure("D0.03cc", coarse).doubt
    assert measure("D1cc", coarse).doubt == ""


def test_few_samples_are_doubted_where_they_matter():
    """16 samples in 0.03 cm3, as in a lung of 2.6 litres: 4 more or fewer are 0.0075 cm3."""
    covered = np.linspace(0.001, 2.0, 2000)
    for per_cm3, is_doubtful in ((10.0, False), (60.0, True)):  # 0.075 and 0.45 Gy to either side of 20 Gy
        curve = Dvh("lung", 20 - per_cm3 * (covered - 0.03), covered, 2.0, sample_cm3=0.03 / 16)
        doubt = measure("D0.03cc", curve).doubt
        assert bool(doubt) == is_doubtful
    assert "16.0 samples, fewer than 30: uncertain by 2." in doubt  # 0.45 of 20 Gy, 2.25 %


def test_a_table_of_metrics():
    table = structure_metrics(CURVE)
    assert [value.name for value in table.values] == list(STANDARD)
    assert table["D50%"].value == pytest.approx(15, abs=0.01)
    with pytest.raises(InvalidInput, match="D40"):
        table["D40%"]
    assert json.loads(json.dumps(table.as_dict(), allow_nan=False))["values"][0]["name"] == "Mean[Gy]"


# --- linear-quadratic model -------------------------------------------------------------------------------------------


def test_eqd2():
    assert eqd2_gy(50.0, 25, 2.0) == pytest.approx(50.0)  # 2 Gy fractions
    assert eqd2_gy(14.0, 1, 2.0) == pytest.approx(14 * 16 / 4)
    assert bed_gy(24.0, 3, 10.0) == pytest.approx(24 * 1.8)
    assert eqd2_gy(24.0, 3, 10.0) == pytest.approx(24 * 18 / 12)
    # HyTEC's limits for the cord are all near one EQD2 but for the number of fractions: 12.4 Gy in 1, 25.3 in 5.
    assert eqd2_gy(25.3, 5, 2.0) == pytest.approx(25.3 * 7.06 / 4)
    for fractions, ratio in ((0, 2.0), (1, 0.0)):
        with pytest.raises(InvalidInput):
            eqd2_gy(10.0, fractions, ratio)


def test_a_histogram_of_eqd2():
    curve = eqd2_dvh(CURVE, 2, 2.0)
    assert curve.maximum_gy == pytest.approx(20 * 12 / 4)
    assert curve.dose_at_volume(1.0) == pytest.approx(eqd2_gy(19.0, 2, 2.0), abs=0.05)


# --- isodoses and indices ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("radius", "tolerance"), [(0.5, 0.035), (1.0, 0.009), (2.0, 0.0025)])
def test_isodose_volumes_of_spheres(radius, tolerance):
    """A trilinear dose cuts corners: the tolerance is that of voxels of 1.25 mm, not of the counting."""
    found = isodose_volume_cm3(ball_dose(), 30 - 10 * radius)
    assert found == pytest.approx(sphere(radius), rel=tolerance)
    assert found < sphere(radius)


def sphere_dose(shape, radius, spacing, off):
    """A dose whose isodose of 20 Gy is a sphere: a cone, Gaussians that end at 80 and 50 %, an edge of 3 mm."""
    half = radius + 0.6
    count = tuple(int(2 * half / step) + 2 for step in reversed(spacing))
    grid = Grid(tuple(-half + o * step for o, step in zip(off, spacing, strict=True)), spacing, count)
    x, y, z = grid.axes_cm
    r = np.sqrt(x**2 + y[:, None] ** 2 + z[:, None, None] ** 2)
    if shape == "cone":
        values = 20 - 10 * (r - radius)
    elif shape == "edge":
        values = 40 / (1 + np.exp((r - radius) / 0.15))
    else:
        values = 20 * np.exp(math.log(1 / shape) * (1 - (r / radius) ** 2))
    return Volume(grid, np.maximum(values, 0).astype(np.float32))


@pytest.mark.parametrize("shape", ["cone", "edge", 0.8, 0.5])
@pytest.mark.parametrize("spacing", [(0.2, 0.2, 0.3), (0.25, 0.25, 0.25), (0.1, 0.1, 0.3)])
def test_volumes_of_isodoses_of_few_voxels_are_too_small_by_a_known_amount(shape, spacing):
    """What `LEAST_ISODOSE_VOXELS` stands on: some 5 % with so many voxels, and more with fewer."""
    side = math.sqrt(np.mean(np.square(spacing)))
    for count, low, high in ((150, -6.5, -3.5), (30, -21.0, -9.0), (1000, -2.0, -0.9)):
        radius = (3 * count * side**3 / (4 * math.pi)) ** (1 / 3)
        for off in ((0.0, 0.0, 0.0), (0.3, -0.2, 0.45)):
            found = isodose_volume_cm3(sphere_dose(shape, radius, spacing, off), 20.0)
            assert low < 100 * (found / sphere(radius) - 1) < high


def test_indices_from_few_voxels_are_flagged():
    """0.9 cm^3 on voxels of 2 x 2 x 3 mm: a tenth too small."""
    spacing = (0.2, 0.2, 0.3)
    radius = (3 * 0.9 / (4 * math.pi)) ** (1 / 3)
    dose = sphere_dose(0.8, radius, spacing, (0.0, 0.0, 0.0))
    found = plan_quality(dose, dvh(dose, ball(radius)), 20.0)
    assert found.prescription_isodose_cm3 / 0.9 == pytest.approx(0.9, abs=0.02)
    (few,) = (text for text in found.warnings if "isodose of the prescription" in text)
    assert few.startswith(f"{TOO_SMALL}the isodose of the prescription fills 6")
    assert f"fewer than {LEAST_ISODOSE_VOXELS}" in few
    fine = sphere_dose(0.8, radius, (0.125,) * 3, (0.0, 0.0, 0.0))
    assert not any("fills" in text for text in plan_quality(fine, dvh(fine, ball(radius)), 20.0).warnings)


def test_isodose_volume_of_a_ramp_is_exact():
    grid = Grid((0, 0, 0), (0.25, 0.2, 0.3), (10, 12, 14))
    dose = Volume(grid, np.broadcast_to(np.arange(14.0), grid.shape).copy())
    assert isodose_volume_cm3(dose, 6.5) == pytest.approx(7 * 0.25 * 12 * 0.2 * 10 * 0.3)
    assert isodose_volume_cm3(dose, 6.75) == pytest.approx((7 - 0.25) * 0.25 * 12 * 0.2 * 10 * 0.3)
    assert isodose_volume_cm3(dose, -1) == pytest.approx(grid.size * grid.voxel_volume_cm3)
    assert isodose_volume_cm3(dose, 99) == 0.0
    half = Volume(grid, np.full(grid.shape, 0.5))
    assert isodose_volume_cm3(dose, 6.5, within=half) == pytest.approx(3.5 * 0.25 * 12 * 0.2 * 10 * 0.3)


def test_isodoses_refuse_what_makes_none():
    dose = ball_dose(0.5)
    with pytest.raises(InvalidInput, match="grid"):
        isodose_volume_cm3(dose, 10, within=Volume(Grid((0, 0, 0), (1, 1, 1), (2, 2, 2)), np.ones((2, 2, 2))))
    wrong = dose.values.copy()
    wrong[0, 0, 0] = np.nan
    with pytest.raises(InvalidInput, match="not numbers"):
        isodose_volume_cm3(Volume(dose.grid, wrong), 10)
    with pytest.raises(InvalidInput, match="prescribed"):
        plan_quality(dose, CURVE, 0.0)


def test_indices_of_a_sphere_in_a_ball():
    """Target of radius 1.2, prescription isodose 1.0, half of it 2.0: TV_PIV = PIV."""
    dose = ball_dose(0.1)
    found = plan_quality(dose, dvh(dose, ball(1.2)), 20.0)
    assert found.coverage_percent == pytest.approx(100 * (1 / 1.2) ** 3, rel=0.01)
    assert found.conformity_paddick == pytest.approx((1 / 1.2) ** 3, rel=0.01)
    assert found.conformity_rtog == pytest.approx((1 / 1.2) ** 3, rel=0.01)
    assert found.gradient_index == pytest.approx(8.0, rel=0.01)
    assert found.r50 == pytest.approx((2 / 1.2) ** 3, rel=0.01)
    assert found.gradient_measure_cm == pytest.approx(1.0, abs=0.005)
    assert found.warnings == ()
    json.dumps(found.as_dict(), allow_nan=False)


def test_a_perfect_dose_has_conformity_one():
    dose = ball_dose(0.1)
    found = plan_quality(dose, dvh(dose, ball(1.0)), 20.0)
    assert found.conformity_paddick == pytest.approx(1.0, abs=0.02)
    assert found.coverage_percent == pytest.approx(100, abs=1)


def test_indices_without_a_prescription_isodose_are_missing():
    dose = ball_dose(0.25)
    found = plan_quality(dose, dvh(dose, ball(1.0)), 100.0)
    assert math.isnan(found.gradient_index) and math.isnan(found.conformity_paddick)
    assert found.as_dict()["gradient_index"] is None and found.coverage_percent == 0


def test_an_isodose_cut_by_the_grid_is_reported():
    dose = ball_dose(0.125, half=1.5)
    found = plan_quality(dose, dvh(dose, ball(0.8)), 22.0)
    assert found.warnings == ("the isodose of half the prescription is cut off by the edge of the dose grid",)


# --- fall-off ---------------------------------------------------------------------------------------------------------


def test_fall_off_of_a_ball():
    """18 to 10 Gy at 10 Gy/cm: 8 mm along the gradient; in axial planes off the middle it is longer."""
    dose = ball_dose()
    found = fall_off(dose, 18.0, 10.0, is_axial=False)
    assert found.smallest_cm == pytest.approx(0.8, abs=0.005) and found.median_cm == pytest.approx(0.8, abs=0.005)
    axial = fall_off(dose, 18.0, 10.0)
    assert axial.smallest_cm == pytest.approx(0.8, abs=0.005)
    assert axial.median_cm > found.median_cm
    assert np.linalg.norm(axial.steepest_at_cm) == pytest.approx(1.2, abs=0.02)


def test_fall_off_towards_the_cord():
    """A dose that falls twice as fast to posterior (+y): only there is the fall steep."""
    grid = Grid((-3, -3, -3), (0.125,) * 3, (49, 49, 49))
    x, y, z = grid.axes_cm
    stretched = np.where(y > 0, 2 * y, y)
    r = np.sqrt(x[None, None] ** 2 + stretched[None, :, None] ** 2 + z[:, None, None] ** 2)
    dose = Volume(grid, np.maximum(30 - 10 * r, 0))
    angle = 2 * np.pi * np.arange(40) / 40
    cords = [
        Structure(
            1,
            "c",
            contours_cm=tuple(
                np.column_stack([0.4 * np.cos(angle), at + 0.4 * np.sin(angle), np.full(40, h)])
                for h in (-0.2, 0.0, 0.2)
            ),
        )
        for at in (1.3, -2.2)
    ]
    posterior, anterior = (fall_off(dose, 18.0, 10.0, near=cord, within_cm=0.5) for cord in cords)
    assert posterior.smallest_cm == pytest.approx(0.4, abs=0.01) and posterior.median_cm < 0.5
    assert anterior.smallest_cm == pytest.approx(0.8, abs=0.02)
    assert posterior.steepest_at_cm[1] > 0 > anterior.steepest_at_cm[1]
    assert fall_off(dose, 18.0, 10.0, near=cords[1], within_cm=0.01).points >= 1  # the nearest ones


def test_fall_off_that_is_not_there_is_missing():
    dose = ball_dose(0.25)
    assert fall_off(dose, 90.0, 50.0).as_dict()["smallest_cm"] is None
    assert fall_off(ball_dose(0.125, half=1.0), 21.0, 5.0).points == 0  # the grid ends before
    with pytest.raises(InvalidInput, match="cannot fall"):
        fall_off(dose, 10.0, 18.0)
    with pytest.raises(InvalidInput, match="no contours"):
        fall_off(dose, 18.0, 10.0, near=Structure(1, "empty"))
