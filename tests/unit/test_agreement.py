"""Differences of curves land in the right part, and limits judge them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from spinedose import agreement as room
from spinedose.agreement import Agreement, agreement_of, check_beam, judge
from spinedose.commission import Commissioning, Curve, Fitted
from spinedose.curve_judging import Criterion, read_criteria
from spinedose.machine import read_machine

M120 = "varian-truebeam-m120"
CRITERIA = read_criteria()
X = np.round(np.arange(-9.0, 9.01, 0.1), 6)
DEPTHS = np.round(np.arange(0.5, 30.01, 0.5), 6)


def edge(x: np.ndarray, half: float, width: float) -> np.ndarray:
    values: np.ndarray = 1 / (1 + np.exp((np.abs(x) - half) / width))
    return values / (1 / (1 + np.exp(-half / width)))


def profile(values: np.ndarray, side: float = 10.0, x: np.ndarray = X) -> Curve:
    return Curve("crossline", (side, side), 90.0, 10.0, x, values, np.full(len(x), 0.004), False, None, "made up")


def depth_dose(values: np.ndarray, side: float = 10.0, x: np.ndarray = DEPTHS) -> Curve:
    return Curve("depth_dose", (side, side), 100.0, math.nan, x, values, np.full(len(x), 0.004), True, None, "made up")


def falling(x: np.ndarray) -> np.ndarray:
    """A depth dose with its maximum at 1.5 cm."""
    values: np.ndarray = np.where(x < 1.5, 1 - 0.2 * (1.5 - x) ** 2, np.exp(-0.05 * (x - 1.5)))
    return values / math.exp(-0.05 * 8.5)  # 1 at 10 cm


def of(curve: Curve, calculated: np.ndarray) -> Agreement:
    (found,) = agreement_of([(curve, calculated)])
    return found


def verdicts(found: Agreement, **changed: Criterion) -> dict[str, bool]:
    return {item.quantity: item.is_within for item in judge(found, {**CRITERIA, **changed})}


def test_a_perfect_curve_is_within_everything() -> None:
    values = edge(X, 5.0, 0.1)
    found = of(profile(values), values)
    assert verdicts(found) == {"in-field": True, "penumbra": True, "width": True, "tail": True}
    assert found.rms_percent == found.worst_percent == found.misfit == 0
    # 80 to 20 % of a logistic edge: 2 ln 4 of its width, 0.277 cm; points are 1 mm apart
    assert found.penumbra_mm == pytest.approx((2.77, 2.77), abs=0.2)


def test_a_bump_counts_where_it_is() -> None:
    values = edge(X, 5.0, 0.1)
    for at, part in ((2.0, "in-field"), (8.0, "tail")):
        off = values.copy()
        off[np.abs(X - at) < 0.35] += 0.02
        off[np.argmin(np.abs(X - at))] += 0.005
        found = of(profile(values), off)
        assert found.worst_percent == pytest.approx(2.5)
        assert found.worst_at_cm == pytest.approx(at)
        assert [name for name, is_within in verdicts(found).items() if not is_within] == [part]
        region = next(r for r in found.regions if r.name == part)
        assert region.worst_percent == pytest.approx(2.5)


def test_a_wider_penumbra_is_told_in_millimetres() -> None:
    found = of(profile(edge(X, 5.0, 0.1)), edge(X, 5.0, 0.15))
    assert found.penumbra_difference_cm == pytest.approx(0.1386, abs=0.02)  # 2 ln 4 of 0.05 cm
    wider = next(item for item in judge(found, CRITERIA) if item.quantity == "penumbra")
    assert (wider.is_within, wider.unit, wider.limit) == (False, "mm", 1.0)
    assert wider.value == pytest.approx(1.39, abs=0.2)
    assert verdicts(found, penumbra=replace(CRITERIA["penumbra"], limit=2.0))["penumbra"]


def test_small_fields_have_the_limit_of_all_others() -> None:
    """In a 1 cm field everything is steep: edges off by 0.3 mm are more than 1.5 % in the field, as on the validation
    page."""
    x = np.round(np.arange(-5.0, 5.01, 0.05), 6)
    values = 1 / (1 + np.exp((np.abs(x) - 0.5) / 0.1))
    wider = 1 / (1 + np.exp((np.abs(x) - 0.53) / 0.1))
    found = of(profile(values / values.max(), 1.0, x), wider / wider.max())
    inside = found.parts == "in-field"
    assert np.abs(found.difference_percent[inside]).max() > 1.5
    assert not verdicts(found)["in-field"] and verdicts(found)["width"] and verdicts(found)["penumbra"]


def test_depth_doses_are_compared_in_shape_and_output_apart() -> None:
    values = falling(DEPTHS)
    found = of(depth_dose(0.9 * values, 5.0), 0.9 * 1.02 * values)
    assert found.output_percent == pytest.approx(2.0)
    assert np.abs(found.difference_percent).max() < 1e-9
    assert verdicts(found) == {"build-up": True, "depth dose": True, "output": False}
    # the reference field has no output to compare
    assert math.isnan(of(depth_dose(values), 1.02 * values).output_percent)


def test_an_output_factor_elsewhere_says_where() -> None:
    at = np.array([5.0])
    curve = replace(depth_dose(np.array([1.1]), 20.0, at), unit_field_cm=(5.0, 5.0), unit_depth_cm=5.0)
    assert of(curve, np.array([1.1])).title == "20 x 20 cm output factor at 5 cm depth, relative to 5 x 5 cm"


def test_scans_of_one_field_share_maximum_and_output() -> None:
    """A deep scan is in percent of the maximum that the shallow one shows, and lends it its output."""
    shallow, deep = DEPTHS[DEPTHS <= 6], DEPTHS[DEPTHS >= 5]
    pairs = [
        (depth_dose(falling(shallow), 5.0, shallow), 1.02 * falling(shallow)),
        (depth_dose(falling(deep), 5.0, deep), 1.02 * falling(deep)),
    ]
    first, second = agreement_of(pairs)
    assert second.full == first.full == pytest.approx(falling(np.array([1.5]))[0], rel=0.01)
    assert np.abs(first.difference_percent).max() < 1e-9
    assert math.isnan(first.output_percent) and second.output_percent == pytest.approx(2.0)
    assert "from 5 cm" in second.title and "from" not in first.title


def test_build_up_may_be_near_instead() -> None:
    """A shift of 1.5 mm is more than 5 % in the build-up, and 0.75 % at the top once scaled at 10 cm."""
    x = np.round(np.arange(0.5, 12, 0.1), 6)
    shifted = falling(x - 0.15)
    found = of(depth_dose(falling(x), 10.0, x), shifted / np.interp(10, x, shifted))
    assert found.difference_percent[0] < -5
    assert verdicts(found)["build-up"]
    assert not verdicts(found, build_up=replace(CRITERIA["build_up"], or_mm=0.1))["build-up"]


def test_an_output_factor_is_a_curve_of_one_point() -> None:
    at = np.array([10.0])
    found = of(depth_dose(np.array([0.9]), 5.0, at), np.array([0.909]))
    assert found.title == "5 x 5 cm output factor"
    assert found.output_percent == pytest.approx(1.0)
    assert verdicts(found) == {"output": True}  # 1.0 % and the limit is 1 %
    assert not verdicts(found, output_from_3_cm=replace(CRITERIA["output_from_3_cm"], limit=0.5))["output"]


def test_wide_fields_without_flattening_filter_have_their_parts() -> None:
    """The dose falls to half within the field: the 50 % point is no edge there."""
    x = np.round(np.arange(-27.0, 27.01, 0.5), 6)
    cone = np.exp(-np.abs(x) / 18) * edge(x, 20.0, 0.2)
    found = of(profile(cone / cone.max(), 40.0, x), cone / cone.max())
    names = {region.name: region.n_points for region in found.regions}
    assert names["in-field"] == np.sum(np.abs(x) <= 16)
    assert names["tail"] == np.sum(np.abs(x) > 21)


def test_one_sided_profiles_are_compared() -> None:
    x = np.arange(0.0, 15.0, 1.0)
    found = of(profile(1 + 0.002 * x, 40.0, x), 1 + 0.003 * x)
    assert [region.name for region in found.regions] == ["in-field"]
    assert math.isnan(found.penumbra_difference_cm)


def test_check_finds_the_set_up_only(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = read_machine(M120)
    values = edge(X, 5.0, 0.1)
    curve = profile(values)
    asked: dict[str, Any] = {}

    def fit(machine: Any, beam: str, curves: Any, *, parameters: Any, **more: Any) -> Commissioning:
        asked.update(more, names=[p.name for p in parameters])
        setup = (Fitted("jaw_x_offset_cm", 0.01, 0.0, 0.001, "fitted"),)
        return Commissioning(machine.beams[beam], setup, (), tuple((c, 1.03 * c.values) for c in curves))

    monkeypatch.setattr(room, "fit_beam", fit)
    found = check_beam(machine, "6X", [curve], hold={"depth_shift_cm": 0.0})
    assert asked["hold"] == {"depth_shift_cm": 0.0}
    assert all(name.endswith(("jaw_x_offset_cm", "jaw_y_offset_cm", "depth_shift_cm")) for name in asked["names"])
    assert [item.quantity for item in found.outside] == ["in-field"]
    assert found.setup[0].name == "jaw_x_offset_cm"


def test_check_without_edges_needs_no_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A single output factor says nothing of set-up."""
    machine = read_machine(M120)
    factor = depth_dose(np.array([0.9]), 5.0, np.array([10.0]))
    monkeypatch.setattr(room, "fit_beam", lambda *_, **__: pytest.fail("nothing can be fitted"))
    monkeypatch.setattr(room.Calculator, "curve", lambda *_: np.array([0.95]))
    found = check_beam(machine, "6X", [factor])
    assert found.setup == ()
    assert [item.quantity for item in found.outside] == ["output"]
    assert str(found.outside[0]) == "5 x 5 cm output factor: output +5.56 % (limit 1 %)"
    assert replace(found).outside == found.outside


def test_check_goes_on_where_the_set_up_is_not_determined() -> None:
    """Depth doses from 5 cm on say nothing of depth zero: they are compared as they are. No stand-in."""
    x = np.arange(5.0, 20.0, 1.0)
    found = check_beam(read_machine(M120), "6X", [depth_dose(np.exp(-0.05 * (x - 10)), 10.0, x)])
    assert found.setup == () and [item.quantity for item in found.judgements] == ["depth dose"]
