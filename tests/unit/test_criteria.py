"""Criteria: the file that comes along, judging, and broken files."""

from __future__ import annotations

import json
import math

import pytest

from spinedose.criteria import (
    Criteria,
    Criterion,
    GammaQuestion,
    Measured,
    judge,
    list_criteria,
    read_criteria,
)
from spinedose.errors import InvalidInput
from spinedose.protocol import NOT_VERIFIED, Evaluation, ProtocolLine

HOUSE = read_criteria("spine")
GAMMA = "gamma 3 %/2 mm global, above 10 %"


def one(**changes):
    base = {
        "key": "k",
        "text": "t",
        "role": "target",
        "quantity": "Mean[Gy]",
        "compare": "percent of planned",
        "limit": 2.0,
        "source": "s",
        "verified": True,
    }
    return Criterion(**(base | changes))


def judged(criterion, planned, recalculated, **options):
    measured = [Measured(criterion.asked, criterion.role, "PTV", planned, recalculated)]
    (found,) = judge(Criteria("c", (criterion,)), measured, **options).judged
    return found


# --- the criteria that come along -------------------------------------------------------------------------------------


def test_the_house_criteria_have_their_numbers():
    limits = {c.key: (c.limit, c.compare) for c in HOUSE.criteria}
    assert limits["target_mean"] == (2.0, "percent of planned")
    assert limits["target_d95"] == (3.0, "percent of planned")
    assert limits["cord_near_maximum"] == (3.0, "percent of prescription")
    assert limits["gamma_3_2"] == (95.0, "at least")
    assert limits["gamma_2_2"][0] == limits["gamma_3_1_high_dose"][0] == 90.0
    assert HOUSE.asked_of("cord") == ("D0.03cc[Gy]", "D10%[Gy]")
    assert HOUSE.asked_of("plan")[0] == GAMMA
    assert [(g.dose_percent, g.distance_cm, g.threshold_percent) for g in HOUSE.gammas] == [
        (3.0, 0.2, 10.0),
        (2.0, 0.2, 10.0),
        (3.0, 0.1, 50.0),
    ]


def test_every_criterion_has_a_source_and_unverified_ones_say_so():
    for name in list_criteria():
        for criterion in read_criteria(name).criteria:
            assert len(criterion.source) > 8
            assert (NOT_VERIFIED in criterion.stated_source) != criterion.verified
    assert [c.key for c in HOUSE.criteria if not c.verified] == ["point_dose"]


def test_a_gamma_question_is_what_gamma_computes():
    criteria = HOUSE.gammas[0].criteria(20.0)
    assert (criteria.dose_percent, criteria.distance_cm, criteria.normalisation_gy) == (3.0, 0.2, 20.0)
    assert not criteria.is_local and criteria.threshold_percent == 10.0
    assert GammaQuestion(2, 0.1, is_local=True, threshold_percent=20).name == "gamma 2 %/1 mm local, above 20 %"


# --- judging ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recalculated", "difference", "within"), [(20.4, 2, True), (19.6, -2, True), (20.5, 2.5, False)]
)
def test_percent_of_planned(recalculated, difference, within):
    found = judged(one(limit=2.0001), 20.0, recalculated)
    assert found.difference == pytest.approx(difference) and found.within == within and found.unit == "%"


def test_far_below_the_prescription_percent_are_of_a_share_of_it():
    criterion = one(least_percent=50.0)
    scatter = judged(criterion, 0.08, 0.02, prescription_gy=14.0)
    assert scatter.difference == pytest.approx(-100 * 0.06 / 7.0) and scatter.within
    assert scatter.relative_to == 7.0 and scatter.is_relative_to_prescription
    missed = judged(criterion, 0.08, 0.5, prescription_gy=14.0)
    assert missed.difference == pytest.approx(6.0) and not missed.within
    treated = judged(criterion, 14.0, 14.28, prescription_gy=14.0)
    assert treated.difference == pytest.approx(2.0) and not treated.is_relative_to_prescription
    assert judged(criterion, 0.08, 0.02).difference == pytest.approx(-75.0)  # no prescription to be relative to
    assert scatter.stated_limit == "2 % of 7 Gy" and treated.stated_limit == "2 %" and treated.basis == ""
    assert treated.compare == "percent of planned" and treated.as_dict()["relative_to"] == 14.0


def test_percent_of_prescription_is_relative_to_it():
    criterion = one(role="cord", quantity="D0.03cc[Gy]", compare="percent of prescription", limit=3.0)
    found = judged(criterion, 10.0, 10.5, prescription_gy=20.0)
    assert found.difference == pytest.approx(2.5) and found.level == "within"
    assert found.is_relative_to_prescription and found.relative_to == 20.0
    assert found.stated_limit == "3 % of 20 Gy" and found.basis == " of 20 Gy"
    assert judged(criterion, 10.0, 10.5, prescription_gy=21.5894).stated_limit == "3 % of 21.59 Gy"
    assert judged(criterion, 10.0, 10.7, prescription_gy=20.0).level == "outside"
    without = judged(criterion, 10.0, 10.1)
    assert without.level == "not judged" and not without.within and without.doubt == "a number is missing"
    assert not without.is_relative_to_prescription and without.stated_limit == "3 %"


def test_differences_in_their_own_unit():
    criterion = one(quantity="V100%[%]", compare="difference", limit=1.0)
    assert judged(criterion, 95.0, 94.2).within and not judged(criterion, 95.0, 93.8).within
    assert criterion.unit == "%" and one(compare="difference").unit == "Gy"


@pytest.mark.parametrize(
    ("passed", "level"), [(95.0, "within"), (94.9, "outside"), (90.0, "outside"), (89.9, "beyond action")]
)
def test_gamma_has_a_limit_and_an_action_limit(passed, level):
    measured = [Measured(GAMMA, "plan", "whole dose", math.nan, passed)]
    result = judge(HOUSE, measured)
    (found,) = result.judged
    assert (found.name, found.level, found.difference) == ("gamma_3_2", level, passed)
    assert "gamma_2_2" in result.without_numbers and "target_mean" in result.without_numbers
    assert result.is_within == (level == "within")


def test_at_most_and_wider_action():
    criterion = one(role="plan", quantity="Max[Gy]", compare="at most", limit=30.0, action=33.0, action_source="s")
    assert [judged(criterion, math.nan, v).level for v in (30.0, 31.0, 34.0)] == ["within", "outside", "beyond action"]
    both_ways = one(action=4.0, action_source="s")
    assert [judged(both_ways, 100, v).level for v in (98.0, 97.0, 95.0)] == ["within", "outside", "beyond action"]


def test_what_nobody_asks_for_is_left_out_and_nothing_judged_is_not_within():
    result = judge(HOUSE, [Measured("D2%[Gy]", "target", "PTV", 20, 20), Measured("Mean[Gy]", "organ", "x", 1, 2)])
    assert result.judged == () and not result.is_within


def test_a_missing_number_is_not_judged_and_doubts_are_kept():
    found = judged(one(), 20.0, math.nan)
    assert found.level == "not judged" and found.doubt
    measured = [Measured("Mean[Gy]", "target", "PTV", 20.0, 20.1, "too small for the dose grid")]
    (found,) = judge(Criteria("c", (one(),)), measured).judged
    assert found.within and found.doubt == "too small for the dose grid"
    assert judged(one(), 0.0, 0.1).level == "not judged"  # no per cent of nothing


def test_limits_crossed():
    def line(planned, recalculated):
        return ProtocolLine("Cord", "SpinalCord", "Max[Gy]", "Gy", "g", "at most", 14.0, planned, recalculated, "", "s")

    lines = tuple(line(*values) for values in ((13, 13.5), (13, 14.5), (15, 14.5), (15, 13.9), (math.nan, 13.0)))
    result = judge(HOUSE, [], evaluation=Evaluation("p", 1, lines, (), (), ()))
    assert [j.level for j in result.judged] == ["within", "outside", "within", "outside", "not judged"]
    assert result.judged[1].limit == 14.0 and result.judged[1].structure == "Cord"


def test_a_judgement_is_json():
    result = judge(
        HOUSE, [Measured("Mean[Gy]", "target", "PTV", 20.0, 20.1), Measured(GAMMA, "plan", "d", math.nan, 99.0)]
    )
    table = json.loads(json.dumps(result.as_dict(), allow_nan=False))
    assert table["is_within"] and table["judged"][1]["planned"] is None and table["judged"][0]["within"]


# --- broken criteria --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"source": ""}, "no source"),
        ({"role": "planet"}, "role"),
        ({"compare": "guess"}, "compares"),
        ({"limit": -1.0}, "limit"),
        ({"limit": math.nan}, "limit"),
        ({"least_percent": 101.0}, "least share"),
        ({"least_percent": 50.0, "compare": "difference"}, "without being relative"),
        ({"action": 1.0, "action_source": "s"}, "narrower"),
        ({"action": 4.0}, "without a source"),
        ({"quantity": "gamma"}, "which gamma"),
        ({"quantity": "Mean"}, "spell it out"),
        ({"quantity": "Medium[Gy]"}, "no dose metric"),
        ({"compare": "crosses limit"}, "outside the role"),
        ({"gamma": GammaQuestion(3, 0.2)}, "which gamma"),
        ({"gamma": GammaQuestion(3, 0.2), "quantity": "gamma"}, "outside the role 'plan'"),
        ({"role": "protocol", "compare": "crosses limit", "quantity": "limits"}, "limit of its own"),
    ],
)
def test_wrong_criteria_cannot_be_made(changes, match):
    with pytest.raises(InvalidInput, match=match):
        one(**changes)


def test_sets_of_criteria_prove_themselves():
    with pytest.raises(InvalidInput, match="empty"):
        Criteria("c", ())
    with pytest.raises(InvalidInput, match="twice"):
        Criteria("c", (one(), one()))
    with pytest.raises(InvalidInput, match="gamma"):
        GammaQuestion(0, 0.2)


OWN = """
schema_version = 1
name = "ours"
[[criterion]]
key = "mean"
text = "mean of the target"
role = "target"
quantity = "Mean[Gy]"
compare = "percent of planned"
limit = 1
source = "department, 2024"
verified = true
[[criterion]]
key = "gamma"
text = "gamma"
role = "plan"
quantity = "gamma"
compare = "at least"
limit = 95
gamma = { dose_percent = 2, distance_cm = 0.1, is_local = true }
source = "department, 2024"
verified = true
"""


def test_criteria_of_ones_own(tmp_path):
    path = tmp_path / "ours.toml"
    path.write_text(OWN, encoding="utf-8")
    criteria = read_criteria(path)
    assert criteria.name == "ours" and criteria.criteria[0].limit == 1.0
    assert criteria.gammas == (GammaQuestion(2, 0.1, is_local=True),)


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("schema_version = 1", "schema_version = 9", "another version"),
        ('name = "ours"', 'name = "ours', "cannot be read"),
        ('name = "ours"', "colour = 1", "unknown key"),
        ("limit = 1\n", "", "has the limit nan"),
        ("limit = 1\n", "limit = 'one'\n", "it is a number"),
        ("limit = 1\n", "limit = inf\n", "it is a number"),
        ("limit = 1\n", "limit = true\n", "it is a number"),
        ("verified = true", "verified = 1", "true or false"),
        ('role = "target"\n', "", "not complete"),
        ('role = "target"\n', 'role = "target"\nextra = 1\n', "a key too many"),
        ("distance_cm = 0.1", "distance_mm = 1", "gamma"),
        ('key = "gamma"', 'key = "mean"', "twice"),
    ],
)
def test_wrong_files_are_refused(tmp_path, old, new, match):
    assert old in OWN
    path = tmp_path / "ours.toml"
    path.write_text(OWN.replace(old, new), encoding="utf-8")
    with pytest.raises(InvalidInput, match=match):
        read_criteria(path)


def test_absent_criteria_are_refused(tmp_path):
    with pytest.raises(InvalidInput, match=r"no criteria.*spinedose has spine"):
        read_criteria("nowhere")
    (tmp_path / "x.toml").write_text("schema_version = 1\ncriterion = 3", encoding="utf-8")
    with pytest.raises(InvalidInput, match="unknown key"):
        read_criteria(tmp_path / "x.toml")
