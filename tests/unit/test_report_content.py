"""What a report says: every number with its limit and source, in words that never overstate."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pytest
from made_check import PATIENT, RX, made_check, without_planned_dose

from spinedose.check import OtherName
from spinedose.criteria import Judgement
from spinedose.report.charts import Chart, Line, as_svg, pieces, ticks
from spinedose.report.content import content_of, figure, person, volume_of
from spinedose.structures import Structure


@pytest.fixture(scope="module")
def content():
    return content_of(made_check())


def words(table):
    return [[cell.text for cell in row.cells] for row in table.rows]


def test_the_verdict_is_one_of_three_and_never_more(content):
    assert content.verdict == "Outside tolerance"
    within = content_of(made_check(verdict="within", reasons=("all criteria are met",)))
    assert within.verdict == "Within tolerance"
    assert content_of(without_planned_dose()).verdict == "Not compared"
    assert "approved" not in repr(content).lower()


def test_criteria_have_numbers_limits_and_sources(content):
    mean, cord, gamma, limits = words(content.criteria)
    assert mean[:5] == ["Mean dose of the target", "25.00\u00a0Gy", "25.20\u00a0Gy", "+0.8\u00a0%", "\u00b1 2 %"]
    assert cord[3] == "\u22125.0\u00a0%" and cord[6] == "outside"
    assert gamma[1:5] == ["\u2013", "97.0\u00a0%", "\u2013", "\u2265 95 %"]
    assert limits[0] == "1 limit of the protocol: kept by both doses, or by neither"
    assert [row[-1] for row in (mean, cord, gamma)] == ["1", "2", "1"]
    assert content.criteria.sources == ("somebody, 2020", "house default")
    assert "point dose" in content.criteria.lead


def test_a_dot_beyond_the_limit_lies_beyond_it(content):
    mean, cord = (row.cells[5] for row in content.criteria.rows[:2])
    assert mean.bar == pytest.approx(50 + 100 / 3 * 0.4) and not mean.is_far
    assert cord.bar < 16.7 and cord.is_far


def test_limits_stand_beside_both_values(content):
    (row,) = words(content.table("limits"))
    assert row[2:5] == ["\u2264 17 Gy", "14.00\u00a0Gy", "12.80\u00a0Gy"]
    assert content.table("limits").remarks == ("A remark.",)


def test_structures_without_numbers_say_why(content):
    empty = next(row for row in content.table("metrics").rows if row.cells[0].text == "empty")
    assert empty.cells[0].note == "It has no contours."


def test_voxels_are_fine_in_a_box_only():
    check = made_check()

    def said(settings):
        info = replace(check.dose.metadata, settings={**check.dose.metadata.settings, **settings})
        return dict(content_of(replace(check, dose=replace(check.dose, metadata=info))).identity)["Recalculated"]

    everywhere = said({"fine": None, "spacing_cm": 0.25})
    assert everywhere.startswith("voxels of ") and "elsewhere" not in everywhere
    in_a_box = said({"fine": {"factor": 2}, "spacing_cm": 0.5})
    assert in_a_box == f"{everywhere} in a box (see assumptions), of 5 mm elsewhere"


def test_patients_of_other_files_stand_beside_the_plans():
    check = made_check()
    other = OtherName("CT", "Roe^Rita", "987654")
    rows = dict(content_of(replace(check, names=replace(check.names, others=(other,)))).identity)
    assert rows["Patient of the CT"] == person("Roe^Rita") and rows["Patient ID of the CT"] == "987654"
    assert not any("of the CT" in name for name in dict(content_of(check).identity))


def test_limits_in_percent_say_of_what():
    check = made_check()
    judged = replace(
        check.judgement.judged[0],
        compare="percent of prescription",
        unit="%",
        limit=3.0,
        relative_to=RX,
        difference=1.0,
    )
    table = content_of(replace(check, judgement=replace(check.judgement, judged=(judged,)))).criteria
    assert any(cell.text == "\u00b1 3 % of 24 Gy" for cell in table.rows[0].cells)


def test_profiles_run_through_the_hottest_point_of_the_cord(content):
    assert content.profiles_title == "Profiles through the hottest point of SpinalCord"
    point = content.places[1].point_cm
    assert math.hypot(point[0], point[1] - 2.5) < 0.5 and point[1] < 2.5
    assert [pen.structure.name for pen in content.profile_pens] == ['PTV <1> & "more"', "SpinalCord"]
    across = content.profiles[0]
    assert across.bands and all(line.y.max() > 0 for line in across.lines)


def test_percent_are_of_the_prescription_or_say_of_what(content):
    assert content.reference_gy == RX and content.reference == "the prescription"
    check = made_check()
    unknown = replace(check, prescription=replace(check.prescription, dose_gy=math.nan, source="unknown"))
    found = content_of(unknown)
    assert found.reference == "the dose to the hottest cm\u00b3" and found.reference_gy == pytest.approx(26.0, abs=0.5)


def test_without_a_planned_dose_there_is_no_comparison():
    found = content_of(without_planned_dose())
    assert found.criteria is None and found.doses == ("recalculated",)
    assert found.table("gamma") is None and found.table("metrics") is not None
    for anchor in ("metrics", "limits", "eqd2"):
        table = found.table(anchor)
        titles = [column.title for column in table.columns]
        assert "Recalculated" in titles and not {"Planned", "Difference", "of planned"} & set(titles), anchor
        assert all(len(row.cells) == len(titles) for row in table.rows)


def test_points_alone_are_said_to_be_alone():
    check = without_planned_dose()
    row = replace(made_check().judgement.judged[0], name="point_dose", text="dose at the point of a beam")
    found = content_of(replace(check, judgement=Judgement("house", (row,), ("gamma",))))
    assert found.criteria is not None and "Nothing was measured" not in found.criteria.lead
    assert "shown alone. Doses at points of beams, as the plan states them: 1 of 1" in found.summary


def test_eqd2_stands_with_its_alpha_beta_and_source(content):
    table = content.table("eqd2")
    assert [cell.text for cell in table.rows[0].cells] == [
        "SpinalCord", "D0.03cc", "2\u00a0Gy", "44.00\u00a0Gy", "42.00\u00a0Gy", "\u22122.00\u00a0Gy", "1",
    ]  # fmt: skip
    assert table.sources == ("somebody, 2020",)


def test_the_target_that_receives_most_is_looked_at(content):
    check = made_check()
    spot = Structure(9, "Borders", "PTV", check.structures.structures[2].contours_cm)
    cold = replace(check.found[0], name="Borders", recalculated=check.found[1].recalculated)
    structures = replace(check.structures, structures=(spot, *check.structures.structures))
    found = content_of(replace(check, structures=structures, found=(cold, *check.found)))
    assert found.places[0].label == content.places[0].label


def test_without_structures_there_is_still_a_place_to_look():
    check = made_check(structures=None, found=(), evaluation=None, gammas=(), quality=())
    found = content_of(check)
    assert found.pens == () and found.dvh is None and found.places


def test_indices_from_isodoses_of_few_voxels_are_marked():
    check = made_check()
    (one,) = check.quality
    few = "too small for the dose grid: the isodose of the prescription fills 75 voxels"
    doubtful = replace(one, planned=replace(one.planned, warnings=("other", few)))
    table = next(t for t in content_of(replace(check, quality=(doubtful,))).tables if t.anchor == "quality")
    notes = [cell.note for row in table.rows for cell in row.cells if cell.note]
    assert notes == [f"Planned: {few}."]
    assert next(row for row in table.rows if row.cells[1].note).cells[1].text.startswith("Conformity index")


def test_colours_end_at_the_target_or_without_one_at_the_dose():
    """1 Gy prescribed where 26 are given: a scale that ends at 1.1 Gy would show one colour."""
    check = made_check()
    low = replace(check, prescription=replace(check.prescription, dose_gy=1.0))
    assert content_of(low).top_gy > 20
    no_targets = tuple(found for found in low.found if found.role != "target")
    assert content_of(replace(low, found=no_targets)).top_gy == pytest.approx(26.0, abs=0.5)


def test_numbers_and_names_in_words():
    assert figure(-0.001, 2, "Gy", signed=True) == "+0.00\u00a0Gy"
    assert figure(math.nan) == "\u2013"
    assert volume_of(0.123) == "0.12\u00a0cm\u00b3" and volume_of(1234.0) == "1234\u00a0cm\u00b3"
    assert volume_of(math.nan) == ""
    assert person(PATIENT) == "Quixote, Dulcinea"
    assert person("Yamada^Tarou=\u5c71\u7530^\u592a\u90ce") == "Yamada, Tarou"


@pytest.mark.parametrize("low, high", [(0.0, 1.0), (-37.0, 55.0), (0.0, 26.4), (3.0, 3.05)])
def test_ticks_are_few_round_and_inside(low, high):
    found = ticks(low, high, 6)
    assert 3 <= len(found) <= 13 and low - 1e-9 <= found[0] and found[-1] <= high + 1e-9
    steps = np.diff(found)
    assert np.allclose(steps, steps[0]) and re.match(r"[125]", f"{steps[0]:e}")


def test_a_line_is_interrupted_where_it_has_no_value():
    line = Line(np.arange(5.0), np.array([1.0, 2.0, math.nan, 3.0, 4.0]), "#000000")
    assert [list(x) for x, _ in pieces(line)] == [[0.0, 1.0], [3.0, 4.0]]
    svg = as_svg(Chart("a < b", "x", "y", (0, 4), (0, 5), (line,)), width=300, height=200, name="it")
    assert svg.count("M") >= 2 and "a &lt; b" in svg
