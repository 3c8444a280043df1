"""One routine judges curves for the validation and for the check of a beam: parts, widths and limits by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from spinedose.agreement import agreement_of, judge
from spinedose.commission import Curve
from spinedose.curve_judging import (
    Judged,
    compare_depth_dose,
    compare_profile,
    judge_curve,
    judge_output,
    projected_half_cm,
    read_criteria,
)
from spinedose.errors import InvalidInput

CRITERIA = read_criteria()
X = np.round(np.arange(-9.0, 9.01, 0.1), 6)
DEPTHS = np.round(np.arange(0.5, 30.01, 0.5), 6)


def edge(x: np.ndarray, half: float, width: float) -> np.ndarray:
    values: np.ndarray = 1 / (1 + np.exp((np.abs(x) - half) / width))
    return values * (1 + np.exp(-half / width))


def test_widths_are_those_of_the_edges() -> None:
    """A field 1 mm wider on each side, whose edges are half as steep: 2 mm, and 2 ln 4 of 0.1 cm."""
    found = compare_profile((X, edge(X, 5.5, 0.1)), (X, edge(X, 5.6, 0.2)), half_cm=5.5)
    assert found.wider_cm == pytest.approx(0.2, abs=0.005)
    assert found.wider_penumbra_cm == pytest.approx((0.277, 0.277), abs=0.02)
    verdicts = {item.quantity: item for item in judge_curve(found, CRITERIA, (10.0, 10.0))}
    assert list(verdicts) == ["in-field", "penumbra", "width", "tail"]
    assert verdicts["width"].worst == pytest.approx(2.0, abs=0.05)  # mm
    assert verdicts["penumbra"].share == pytest.approx(2.8, abs=0.2)


def test_the_penumbra_of_a_wide_cone_is_counted_from_its_shoulder() -> None:
    """Without flattening filter the dose falls to half within a field of 40 cm; its edge is as sharp all the same."""
    x = np.round(np.arange(-27.0, 27.01, 0.1), 6)
    cone = edge(x, 20.0, 0.2) * np.exp(-np.abs(x) / 18)
    found = compare_profile((x, cone), (x, cone), half_cm=20.0)
    assert math.isnan(found.width_measured_cm)  # the 50 % points are not the edges
    # 80 and 20 % of the dose at 16 cm are reached at 19.34 and 20.22 cm, by hand; of the axis' dose within the field
    assert found.penumbra_measured_cm == pytest.approx((0.88, 0.88), abs=0.02)


def test_limits_of_depth_doses_depend_on_the_field() -> None:
    values = np.exp(-0.05 * DEPTHS)
    found = compare_depth_dose((DEPTHS, values), (DEPTHS, 1.015 * values))
    limits = [judge_curve(found, CRITERIA, (side, side))[-1].criterion.limit for side in (1.0, 2.0, 30.0, 40.0)]
    assert limits == [2.0, 1.0, 1.0, 2.0]


def test_output_has_the_limit_of_its_field() -> None:
    assert [judge_output(2.0, CRITERIA, side).is_within for side in (10.0, 3.0, 2.0, 1.0)] == [False, False, True, True]


def test_a_distance_counts_only_where_the_limit_names_one() -> None:
    numbers = {"differences": np.array([9.0]), "at_cm": np.array([0.7]), "distances_mm": np.array([1.0])}
    assert Judged("build-up", CRITERIA["build_up"], **numbers).share == 0.5
    assert Judged("in-field", CRITERIA["in_field"], **numbers).share == 6.0


def test_nothing_is_not_judged() -> None:
    nothing = np.zeros(0)
    with pytest.raises(InvalidInput, match="nothing to judge"):
        Judged("tail", CRITERIA["tail"], nothing, nothing, nothing)
    with pytest.raises(InvalidInput, match="share no point"):
        compare_depth_dose((DEPTHS, DEPTHS), (DEPTHS + 50, DEPTHS))


@pytest.mark.parametrize(("kind", "half"), [("crossline", 5.5), ("inline", 11.0), ("diagonal", 5.5 * math.sqrt(2))])
def test_fields_grow_with_depth(kind: str, half: float) -> None:
    """10 x 20 cm at 110 cm; on the diagonal the shorter side ends the field."""
    assert projected_half_cm(kind, (10.0, 20.0), 100.0, 10.0) == pytest.approx(half)


def test_the_check_of_a_beam_judges_alike() -> None:
    """`agreement.judge`, for `spinedose commission --check`, adds titles and nothing else."""
    values, calculated = edge(X, 5.0, 0.1), edge(X, 5.04, 0.13) * (1 + 0.002 * np.abs(X))
    curve = Curve("crossline", (10.0, 10.0), 90.0, 10.0, X, values, np.full(len(X), 0.004), False, None, "made up")
    (agreement,) = agreement_of([(curve, calculated)])
    own = judge_curve(compare_profile((X, values), (X, calculated), half_cm=5.0), CRITERIA, (10.0, 10.0))
    told = judge(agreement, CRITERIA)
    assert [(j.value, j.limit, j.is_within, j.source) for j in told] == [
        (j.worst, j.criterion.limit, j.is_within, j.criterion.source) for j in own
    ]
    stricter = {**CRITERIA, "width": replace(CRITERIA["width"], limit=0.1)}
    assert [j.quantity for j in judge(agreement, stricter) if not j.is_within] == ["width"]
