"""Numbers read from curves: analytic curves whose numbers are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from spinedose.compare.curves import (
    centre_cm,
    compare_curves,
    depth_of_maximum_cm,
    distance_to_agreement_cm,
    edges_cm,
    field_width_cm,
    flatness_percent,
    gamma_1d,
    maximum,
    normalise_at,
    normalise_to_maximum,
    penumbra_cm,
    percent_depth_dose,
    symmetry_percent,
    tpr_20_10,
    tpr_20_10_from_depth_dose,
    value_at,
)
from spinedose.errors import InvalidInput

Array = NDArray[np.float64]


def trapezium(x: Array, centre: float = 0.0) -> Array:
    """1 within 4 cm of the centre, falling evenly to 0 at 6 cm: 80, 50 and 20 % at 4.4, 5 and 5.6 cm."""
    return np.clip((6 - np.abs(x - centre)) / 2, 0, 1)


X = np.linspace(-8, 8, 161)  # every kink of the trapezium is a point
DEPTH = np.linspace(0, 30, 301)
FALLING = np.exp(-0.05 * DEPTH)
BUILT_UP = FALLING * (1 - 0.5 * np.exp(-3 * DEPTH))


def test_value_between_points_is_linear() -> None:
    assert value_at([0, 1, 3], [10, 20, 40], 2.0) == 30


def test_value_outside_is_refused() -> None:
    with pytest.raises(InvalidInput, match="no value at 4 cm"):
        value_at([0, 1, 3], [10, 20, 40], 4.0)


@pytest.mark.parametrize(
    ("x", "v"),
    [
        ([0.0], [1.0]),
        ([0.0, 1.0], [1.0]),
        ([0.0, 0.0], [1.0, 2.0]),
        ([1.0, 0.0], [1.0, 2.0]),
        ([0.0, 1.0], [1.0, math.nan]),
        ([0.0, math.inf], [1.0, 1.0]),
        ([[0.0, 1.0]], [[0.0, 1.0]]),
    ],
)
def test_what_is_no_curve_is_refused(x: list[float], v: list[float]) -> None:
    with pytest.raises(InvalidInput):
        value_at(x, v, 0.0)


def test_maximum_between_points() -> None:
    # v = 100 - 10 (x - 1.53)^2: few points within 1 % make a parabola, many a cubic; both hold it exactly.
    for step in (0.2, 0.02):
        x = np.arange(0, 4, step)
        assert maximum(x, 100 - 10 * (x - 1.53) ** 2) == pytest.approx((1.53, 100))


def test_maximum_of_a_skew_curve() -> None:
    # (1 - e^{-3x}/2) e^{-x/20} is greatest where (3/2 + 1/40) e^{-3x} = 1/20: x = ln(30.5) / 3.
    assert depth_of_maximum_cm(DEPTH, BUILT_UP) == pytest.approx(math.log(30.5) / 3, abs=0.02)


def test_maximum_at_an_end_is_that_point() -> None:
    assert maximum([0, 1, 2], [3, 2, 1]) == (0, 3)
    assert maximum([0, 1, 2], [1, 2, 3]) == (2, 3)


def test_maximum_hardly_moves_with_noise() -> None:
    noise = np.random.default_rng(1).normal(0, 0.001, len(DEPTH))
    assert depth_of_maximum_cm(DEPTH, BUILT_UP + noise) == pytest.approx(math.log(30.5) / 3, abs=0.1)


def test_normalisation() -> None:
    assert normalise_at([0, 1, 2], [2.0, 4.0, 8.0], 1.0).tolist() == [0.5, 1, 2]
    assert normalise_to_maximum([0, 1, 2], [2.0, 4.0, 2.0])[1] == pytest.approx(1)
    with pytest.raises(InvalidInput, match="means nothing"):
        normalise_at([0, 1], [0.0, 1.0], 0.0)


def test_depth_dose_numbers() -> None:
    assert percent_depth_dose(DEPTH, FALLING, 10.0) == pytest.approx(100 * math.exp(-0.5))
    assert tpr_20_10(DEPTH, FALLING) == pytest.approx(math.exp(-0.5))
    # TRS-398: a ratio of depth doses of 0.5 is TPR 1.2661/2 - 0.0595
    assert tpr_20_10_from_depth_dose([0, 10, 20], [1.0, 1.0, 0.5]) == pytest.approx(0.57355)


def test_profile_numbers() -> None:
    v = trapezium(X)
    assert edges_cm(X, v) == pytest.approx((-5, 5))
    assert field_width_cm(X, v) == pytest.approx(10)
    assert penumbra_cm(X, v) == pytest.approx((1.2, 1.2))
    assert flatness_percent(X, v) == pytest.approx(0)
    assert symmetry_percent(X, v) == pytest.approx(0)


def test_an_off_centre_profile_is_not_asymmetric() -> None:
    v = trapezium(X, centre=0.25)
    assert centre_cm(X, v) == pytest.approx(0.25)
    assert field_width_cm(X, v) == pytest.approx(10)
    # Mirrored points fall between the points of the scan, on straight pieces.
    assert symmetry_percent(X, v) == pytest.approx(0, abs=1e-9)


def test_flatness_and_symmetry_of_a_tilt() -> None:
    # 1 + x/100 within 4 cm and edges that are symmetric: at +-4 cm 1.04 and 0.96.
    v = np.where(np.abs(X) <= 4, 1 + X / 100, trapezium(X))
    assert flatness_percent(X, v) == pytest.approx(4)
    assert symmetry_percent(X, v) == pytest.approx(8)


def test_horns_are_not_edges() -> None:
    v = trapezium(X) * (1 + 0.5 * (np.abs(X) / 4))  # the axis is lowest; the horns reach 1.5
    left, right = edges_cm(X, v, share=0.8)
    assert left == pytest.approx(-right)
    assert 5 < right < 5.6


def test_the_cone_of_an_unflattened_beam_is_not_an_edge() -> None:
    v = trapezium(X) * (1 - np.abs(X) / 10)  # 80 % of the axis is reached at 2 cm, inside the field
    assert edges_cm(X, v, share=0.8)[1] == pytest.approx(2.0)
    assert edges_cm(X, v)[1] < 5
    # Renormalised to what the axis would be without the cone, the edges are those of the trapezium.
    assert edges_cm(X, trapezium(X), axis_value=1.0)[1] == pytest.approx(5)


@pytest.mark.parametrize(
    ("x", "v", "problem"),
    [
        ([1.0, 2.0, 3.0], [1.0, 0.5, 0.1], "no value at 0"),
        ([-1.0, 0.0, 1.0], [1.0, 1.0, 1.0], "does not fall to 50"),
        ([-1.0, 0.0, 1.0], [0.1, 0.0, 0.1], "means nothing|is 0"),
    ],
)
def test_profiles_without_edges_are_refused(x: list[float], v: list[float], problem: str) -> None:
    with pytest.raises(InvalidInput, match=problem):
        field_width_cm(x, v)


def test_a_profile_that_ends_above_20_percent_has_no_penumbra() -> None:
    inside = np.abs(X) <= 5.3
    assert field_width_cm(X[inside], trapezium(X)[inside]) == pytest.approx(10)
    with pytest.raises(InvalidInput, match="does not fall low enough"):
        penumbra_cm(X[inside], trapezium(X)[inside])


def test_gamma_of_a_dose_difference() -> None:
    flat = np.ones(5)
    x = np.arange(5.0)
    assert gamma_1d((x, flat), (x, 1.02 * flat), dose_percent=1, distance_cm=0.1) == pytest.approx(2)


def test_gamma_of_a_shifted_slope() -> None:
    # Slope 0.5 per cm, shifted by 0.1 cm, 2 % / 2 mm: in units of the criteria the gap is 2.5 and the slope 5, so the
    # nearest point is 2.5 / sqrt(1 + 5^2) away.
    x = np.linspace(-1, 1, 21)
    coarse = np.array([-2.0, 2.0])
    found = gamma_1d(
        (x, 1 + 0.5 * x), (coarse, 1 + 0.5 * (coarse - 0.1)), dose_percent=2, distance_cm=0.2, normalisation=1
    )
    assert found == pytest.approx(2.5 / math.sqrt(26))


def test_gamma_does_not_depend_on_sampling() -> None:
    fine = np.linspace(0, 30, 3001)
    shifted = DEPTH[5:-5] + 0.03
    reference = (shifted, np.interp(shifted, DEPTH, BUILT_UP))
    once = gamma_1d(reference, (DEPTH, BUILT_UP), dose_percent=1, distance_cm=0.1)
    twice = gamma_1d(reference, (fine, np.interp(fine, DEPTH, BUILT_UP)), dose_percent=1, distance_cm=0.1)
    assert once == pytest.approx(0, abs=1e-6)
    assert twice == pytest.approx(0, abs=1e-6)


def test_gamma_criteria_are_proved() -> None:
    with pytest.raises(InvalidInput):
        gamma_1d(([0, 1], [1, 1]), ([0, 1], [1, 1]), dose_percent=0, distance_cm=0.1)


def test_distance_to_agreement() -> None:
    x = np.array([0.0, 1.0, 2.0])
    found = distance_to_agreement_cm((x, np.array([0.0, 0.5, 9.0])), (x, x))
    assert found[:2] == pytest.approx([0, 0.5])
    assert math.isnan(found[2])  # the curve never reaches 9
    assert distance_to_agreement_cm((x, np.full(3, 1.0)), (x + 0.5, np.full(3, 1.0))) == pytest.approx([0.5, 0, 0])


def test_comparison_of_depth_doses() -> None:
    x = np.linspace(-0.5, 30, 306)
    measured = np.interp(x, DEPTH, BUILT_UP)
    top = depth_of_maximum_cm(x, measured)
    calculated = measured * np.where(x < top, 1.03, 1.01)
    result = compare_curves((x, measured), (x, calculated), kind="depth_dose")
    beyond, build_up = result.region("beyond"), result.region("build-up")
    assert result.reference_value == pytest.approx(BUILT_UP.max(), rel=1e-3)
    assert beyond.mean_local_percent == pytest.approx(1)
    assert build_up.worst_local_percent == pytest.approx(3)
    assert beyond.worst_percent == pytest.approx(1, abs=0.01)
    assert beyond.worst_at_cm == pytest.approx(top, abs=0.1)
    assert result.n_outside == np.count_nonzero(x < 0)
    assert beyond.n_points + build_up.n_points + result.n_outside == len(x)


def test_comparison_of_profiles() -> None:
    def profile(x: Array) -> Array:
        return np.clip(5.5 - np.abs(x), 0, 1) + 0.01  # flat within 4.5 cm, 50 % at 5.0 cm, slope 1 per cm

    result = compare_curves((X, profile(X)), (X, profile(X - 0.1)), kind="profile")
    assert result.reference_value == pytest.approx(1.01)
    assert [region.name for region in result.regions] == ["in-field", "penumbra", "tail"]
    assert result.region("in-field").worst_percent == pytest.approx(0, abs=1e-9)
    assert abs(result.region("penumbra").worst_percent) == pytest.approx(10 / 1.01)
    assert result.region("tail").worst_percent == pytest.approx(0, abs=1e-9)
    steep = np.abs(np.abs(X) - 5) < 0.35
    assert distance_to_agreement_cm((X[steep], profile(X[steep])), (X, profile(X - 0.1))) == pytest.approx(0.1)


def test_comparison_scales_only_when_asked() -> None:
    twice = compare_curves((X, trapezium(X)), (X, 2 * trapezium(X)), kind="profile")
    assert twice.region("in-field").mean_percent == pytest.approx(100)
    scaled = compare_curves((X, trapezium(X)), (X, 2 * trapezium(X)), kind="profile", normalise_at_cm=0.0)
    assert scaled.region("in-field").mean_percent == pytest.approx(0)


def test_points_outside_the_calculation_are_counted() -> None:
    inner = np.abs(X) <= 6
    result = compare_curves((X, trapezium(X)), (X[inner], trapezium(X)[inner]), kind="profile")
    assert result.n_outside == np.count_nonzero(~inner)
    with pytest.raises(InvalidInput, match="no points in 'tail'"):
        result.region("tail")


def test_comparisons_without_sense_are_refused() -> None:
    with pytest.raises(InvalidInput, match="share no point"):
        compare_curves((DEPTH, BUILT_UP), (DEPTH + 100, BUILT_UP), kind="depth_dose")
    with pytest.raises(InvalidInput, match="cannot be compared"):
        compare_curves((DEPTH, BUILT_UP), (DEPTH, BUILT_UP), kind="isodose")  # type: ignore[arg-type]


def test_a_region_of_one_point() -> None:
    # The parabola through 1, 2, 0.5 has its top at 0.9 cm, so that only depth 0 lies in the build-up.
    result = compare_curves(([0, 1, 2], [1, 2, 0.5]), ([0, 1, 2], [1.1, 2, 0.5]), kind="depth_dose")
    assert result.region("build-up").n_points == 1
    # 1 is reached again between 1 and 2 cm, after two thirds.
    assert result.region("build-up").worst_distance_cm == pytest.approx(5 / 3)
