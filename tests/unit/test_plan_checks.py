"""Facts of plans whose apertures are known by hand."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest

from spinedose.demo import demo_case
from spinedose.errors import InvalidInput
from spinedose.plan import Beam, Plan
from spinedose.plan_checks import Thresholds, apertures, beam_table, plan_facts, small_share_percent


def beam(gaps, *, weights=None, gantry=None, jaw_x=(-10, 10), jaw_y=(-2, 2), width=1.0, number=1, mu=100.0, axis="x"):
    """Four pairs of leaves of 1 cm around the axis; `gaps` has (low, high) of each pair by control point."""
    leaves = np.array(gaps, dtype=float)
    if leaves.ndim == 2:  # all pairs alike
        leaves = np.repeat(leaves[:, None, :], 4, axis=1)
    n = len(leaves)
    jaws = {"jaw_x_cm": jaw_x, "jaw_y_cm": jaw_y}
    return Beam(
        number,
        "b",
        "m",
        "6X",
        mu,
        np.linspace(0, 1, n) if weights is None else np.array(weights),
        np.zeros(n) if gantry is None else np.array(gantry, dtype=float),
        np.zeros(n),
        np.zeros(n),
        np.zeros(3),
        leaf_boundaries_cm=width * np.arange(-2.0, 3.0),
        leaf_cm=np.swapaxes(leaves, 1, 2),
        leaf_axis=axis,
        **{key: None if jaw is None else np.tile(jaw, (n, 1)) for key, jaw in jaws.items()},
    )


def fact(facts, name, of=1):
    (found,) = [f for f in facts if f.name == name and f.beam == of]
    return found


def test_a_square():
    found = apertures(beam([(-2, 2), (-2, 2)]))
    assert found.area_cm2 == pytest.approx([16.0])
    assert found.gap_cm == pytest.approx([4.0])
    assert found.equivalent_square_cm == pytest.approx([4.0])
    assert found.edge_per_cm == pytest.approx([2 * 4 / 16])  # the two outer sides
    assert found.tiny_share == pytest.approx([0.0])


def test_leaves_that_move_count_at_the_middle():
    assert apertures(beam([(-1, 1), (-3, 3)])).gap_cm == pytest.approx([4.0])


@pytest.mark.parametrize(
    ("jaws", "area"), [({"jaw_x": (-1, 10)}, 4 * 3), ({"jaw_y": (-0.5, 2)}, 2.5 * 4), ({"jaw_y": (-9, 9)}, 16)]
)
def test_jaws_hide_leaves(jaws, area):
    assert apertures(beam([(-2, 2), (-2, 2)], **jaws)).area_cm2 == pytest.approx([area])


def test_leaves_along_y():
    turned = beam([(-2, 2), (-2, 2)], axis="y", jaw_x=(-1, 1), jaw_y=(-1.5, 10))
    assert apertures(turned).area_cm2 == pytest.approx([2 * 3.5])


def test_irregular_apertures():
    gaps = [(-2, 0), (-0.5, 0.5 - 1e-9), (-2, 2), (3, 3.05)]  # closed by the last pair
    found = apertures(beam([gaps, gaps]))
    assert found.area_cm2 == pytest.approx([7.0])
    assert found.gap_cm == pytest.approx([7 / 3])
    assert found.tiny_share == pytest.approx([1 / 3])
    # sides: 2 below, (2 + 1 - 2 * 0.5), (1 + 4 - 2 * 1), 4 above
    assert found.edge_per_cm == pytest.approx([(2 + 2 + 3 + 4) / 7])


def test_closed_beams_have_no_gap():
    found = apertures(beam([(1, 1), (1, 1.05)]))
    assert found.area_cm2 == pytest.approx([0.0]) and math.isnan(found.gap_cm[0])
    assert small_share_percent(found) == 0.0 and math.isnan(found.mean(found.gap_cm))


def test_share_of_small_apertures_is_by_meterset():
    """A quarter of the meterset at 1 cm, the rest at 4 cm."""
    b = beam([(-0.5, 0.5), (-0.5, 0.5), (-2, 2), (-2, 2)], weights=[0, 0.25, 0.25, 1])
    assert small_share_percent(apertures(b)) == pytest.approx(25)
    facts = plan_facts(Plan("p", (b,)))
    assert fact(facts, "small_aperture_share").value == pytest.approx(25)
    assert fact(facts, "small_aperture_share").severity == "information"
    strict = plan_facts(Plan("p", (b,)), thresholds=Thresholds(small_share_percent=20))
    assert fact(strict, "small_aperture_share").severity == "attention"
    assert fact(facts, "mean_leaf_gap").value == pytest.approx(0.25 * 1 + 0.75 * 4)
    assert fact(facts, "mean_aperture_area").value == pytest.approx(0.25 * 4 + 0.75 * 16)


def test_shares_of_the_plan_are_weighted_by_beams():
    small, large = beam([(-0.5, 0.5)] * 2, mu=300.0), beam([(-2, 2)] * 2, number=2)
    facts = plan_facts(Plan("p", (small, large), fractions=2), prescription_gy=10.0)
    assert fact(facts, "small_aperture_share", 0).value == pytest.approx(75)
    assert fact(facts, "small_aperture_share", 0).severity == "attention"
    assert fact(facts, "meterset", 0).value == 400
    assert fact(facts, "mu_per_gray", 0).value == pytest.approx(80)
    assert [f for f in plan_facts(Plan("p", (small,))) if f.name == "mu_per_gray"] == []


def test_meterset_behind_closed_leaves_deserves_attention():
    b = beam([(-2, 2), (-2, 2), (0, 0), (0, 0)], weights=[0, 0.9, 0.9, 1])
    closed = fact(plan_facts(Plan("p", (b,))), "closed_share", 0)
    assert closed.value == pytest.approx(10) and closed.severity == "attention"


def test_leaf_travel_of_an_arc():
    """Both banks move 1 cm in 1 degree, then stay for 9 degrees."""
    b = beam([(-1, 1), (0, 2), (0, 2)], gantry=[0, 1, 10])
    facts = plan_facts(Plan("p", (b,)))
    assert fact(facts, "leaf_travel").value == pytest.approx(1.0)
    fastest = fact(facts, "leaf_travel_per_degree")
    assert fastest.value == pytest.approx(1.0) and fastest.severity == "attention"
    assert fact(facts, "least_time").value == pytest.approx(1 / 2.5 + 9 / 6)
    assert fact(facts, "leaf_jump").value == 0.0


def test_a_jump_without_meterset_in_an_arc_deserves_attention():
    gaps, weights = [(-1, 1), (-1, 1), (5, 7), (5, 7)], [0, 0.5, 0.5, 1]
    static = plan_facts(Plan("p", (beam(gaps, weights=weights),)))
    assert fact(static, "leaf_jump").value == pytest.approx(6) and fact(static, "leaf_jump").severity == "information"
    arc = plan_facts(Plan("p", (beam(gaps, weights=weights, gantry=[0, 10, 10, 20]),)))
    assert fact(arc, "leaf_jump").severity == "attention"


def test_leaves_beyond_the_largest_field():
    machine = SimpleNamespace(name="m", largest_field_cm=8.0)
    for gaps, severity in ((-2, "information"), (-6, "attention")):
        facts = plan_facts(Plan("p", (beam([(gaps, 2)] * 2),)), machines={1: machine})
        assert fact(facts, "leaf_reach").severity == severity


def test_beams_without_leaves_or_jaws():
    plain = {"cumulative_meterset": [0, 1], "gantry_deg": [0, 0], "collimator_deg": [0, 0], "couch_deg": [0, 0]}
    open_ = Beam(
        1, "b", "m", "6X", 100.0, isocentre_cm=np.zeros(3), jaw_x_cm=[[-1, 1]] * 2, jaw_y_cm=[[-2, 2]] * 2, **plain
    )
    assert apertures(open_).area_cm2 == pytest.approx([8.0]) and apertures(open_).gap_cm == pytest.approx([2.0])
    assert apertures(open_).equivalent_square_cm == pytest.approx([2 * 2 * 4 / 6])
    bare = Beam(2, "b", "m", "6X", 100.0, isocentre_cm=np.zeros(3), **plain)
    assert math.isnan(beam_table(Plan("p", (bare,)))[0].mean_gap_cm)
    assert not [f for f in plan_facts(Plan("p", (open_, bare))) if f.name == "leaf_travel"]


def test_the_table_of_beams():
    rows = beam_table(demo_case().plan)
    assert [row.number for row in rows] == [1, 2]
    assert rows[0].gantry_from_deg == pytest.approx(181) and rows[0].gantry_to_deg == pytest.approx(179)
    assert rows[0].arc_deg == pytest.approx(358) and rows[0].energy == "6FFF"
    assert 0 < rows[0].mean_gap_cm < 10 and 0 < rows[0].small_share_percent < 100
    table = json.loads(json.dumps([row.as_dict() for row in rows], allow_nan=False))
    assert table[0]["planned_point_dose_gy"] is None


def test_facts_are_json():
    facts = plan_facts(demo_case().plan, prescription_gy=24.0)
    json.dumps([f.as_dict() for f in facts], allow_nan=False)
    assert {f.severity for f in facts} <= {"information", "attention"} and all(f.note for f in facts)
    closed = plan_facts(Plan("p", (beam([(0, 0), (0, 0)]),)))
    assert fact(closed, "mean_leaf_gap").as_dict()["value"] is None


def test_thresholds_prove_themselves():
    with pytest.raises(InvalidInput, match="mu_per_gy"):
        Thresholds(mu_per_gy=0)
