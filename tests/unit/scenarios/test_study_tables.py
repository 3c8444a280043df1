"""Tables of a study: order, changes, what is worst, percentiles and limits."""

from __future__ import annotations

import math

import numpy as np
import pytest

from spinedose.errors import InvalidInput
from spinedose.machine_change import MachineChange
from spinedose.scenarios import (
    NOMINAL,
    DensityChange,
    Scenario,
    Table,
    limit_table,
    summarise,
    summary_table,
    telling,
    tidy_table,
    wide_table,
)
from spinedose.scenarios.tables import worse_is
from spinedose.setup import Setup

from made_study import made_up_outcomes, outcome  # isort: skip


def test_the_tidy_table_has_a_number_a_row_and_the_plan_first() -> None:
    rows = tidy_table(made_up_outcomes()).as_dicts()
    assert len(rows) == 8 * 3
    assert [row["scenario"] for row in rows[:3]] == ["nominal"] * 3
    up = {row["metric"]: row for row in rows if row["scenario"] == "up"}
    assert up["D95%[Gy]"]["value"] == 23.0 and up["D95%[Gy]"]["change"] == -1.0
    assert up["D0.03cc[Gy]"]["change"] == 3.0 and up["D0.03cc[Gy]"]["role"] == "cord"


def test_the_wide_table_has_a_scenario_a_row() -> None:
    table = wide_table(made_up_outcomes())
    assert len(table.rows) == 8
    assert table.columns[-3:] == ("PTV D95%[Gy]", "PTV D2%[Gy]", "SpinalCord D0.03cc[Gy]")
    assert table.column("PTV D95%[Gy]")[:3] == (24.0, 23.0, 22.5)


def test_what_is_different_stands_in_columns_in_mm_and_degrees() -> None:
    one = Scenario(
        "all", Setup(0.1, -0.2, 0.05, pitch_deg=1.5), MachineChange(0.03, 1.2), meterset_factors={2: 0.9},
        hu_offset=5.0, densities=(DensityChange("Lung", 0.9, "times"), DensityChange("PTV", 1.1)), fractions=3,
    )  # fmt: skip
    row = wide_table([outcome(one, 1.0, 1.0)]).as_dicts()[0]
    assert (row["lateral_mm"], row["longitudinal_mm"], row["vertical_mm"], row["pitch_deg"]) == (1.0, -2.0, 0.5, 1.5)
    assert (row["leaf_offset_mm"], row["spot_factor"], row["fractions"], row["hu_offset"]) == (0.3, 1.2, 3, 5.0)
    assert row["meterset_factor"] == "1; beam 2 x 0.9" and row["densities"] == "Lung x 0.9; PTV 1.1"
    several = Scenario("each", (Setup(0.1, 0.3), Setup(0.2, 0.3)))
    row = wide_table([outcome(several, 1.0, 1.0)]).as_dicts()[0]
    assert row["lateral_mm"] is None and row["longitudinal_mm"] == 3.0


@pytest.mark.parametrize(
    ("metric", "role", "sense", "worse"),
    [
        ("D95%[Gy]", "target", "", "lowest"),
        ("D50%[Gy]", "target", "", "lowest"),
        ("Min[Gy]", "target", "", "lowest"),
        ("Mean[Gy]", "target", "", "lowest"),
        ("V100%[%]", "target", "", "lowest"),
        ("D2%[Gy]", "target", "", "highest"),
        ("Max[Gy]", "target", "", "highest"),
        ("D0.03cc[Gy]", "target", "", "highest"),
        ("D95%[Gy]", "organ", "", "highest"),
        ("D0.03cc[Gy]", "cord", "", "highest"),
        ("V5Gy[%]", "organ", "", "highest"),
        ("V20Gy[cc]", "organ", "at least", "lowest"),  # a critical volume that must be spared
        ("D95%[Gy]", "target", "at most", "highest"),
    ],
)
def test_what_is_worse(metric: str, role: str, sense: str, worse: str) -> None:
    assert worse_is(metric, role, sense) == worse


def test_worst_cases_percentiles_and_limits() -> None:
    found = {(one.structure, one.metric): one for one in summarise(made_up_outcomes())}
    cold, cord = found["PTV", "D95%[Gy]"], found["SpinalCord", "D0.03cc[Gy]"]
    assert (cold.planned, cold.worst, cold.worst_scenario, cold.worst_is) == (24.0, 22.5, "down", "lowest")
    assert (cord.worst, cord.worst_scenario, cord.worst_is) == (14.0, "random 005", "highest")
    # percentiles are those of the five samples, 23.0 to 23.8 in steps of 0.2, and of nothing else
    assert cold.samples == 5
    np.testing.assert_allclose(cold.percentiles, [23.04, 23.4, 23.76])
    assert cold.mean == pytest.approx(23.4) and cold.deviation == pytest.approx(0.2 * math.sqrt(2.5))
    # at most 12 Gy: 13, 9, 10 and 10 to 14
    assert (cord.kept, cord.limited) == (5, 8)
    assert (cold.kept, cold.limited) == (0, 0)


def test_without_samples_there_are_no_percentiles() -> None:
    (cold, *_) = summarise([outcome(NOMINAL, 24.0, 10.0), outcome(Scenario("up"), 23.0, 11.0)])
    assert cold.samples == 0 and all(math.isnan(value) for value in (cold.mean, cold.deviation, *cold.percentiles))
    assert summary_table([cold]).column("percentile_50") == (None,)


def test_missing_numbers_are_neither_worst_nor_counted() -> None:
    missing = Scenario("missing", is_sample=True)
    rows = [outcome(NOMINAL, 24.0, 10.0), outcome(missing, 23.0, math.nan), outcome(Scenario("up"), 23.5, 11.0)]
    cord = next(one for one in summarise(rows) if one.role == "cord")
    assert cord.worst == 11.0 and cord.samples == 0
    assert (cord.kept, cord.limited) == (2, 2)
    kept = {row["scenario"]: row["kept"] for row in limit_table(rows).as_dicts()}
    assert kept == {"nominal": True, "missing": None, "up": True}
    doubts = {row["scenario"]: row["doubt"] for row in tidy_table(rows).as_dicts() if row["role"] == "cord"}
    assert doubts["missing"] == "it lies outside" and doubts["up"] == ""


def test_what_tells_most_comes_first() -> None:
    first, second, *_ = telling(summarise(made_up_outcomes()))
    assert (first.structure, first.metric) == ("PTV", "D95%[Gy]")
    assert (second.structure, second.metric) == ("SpinalCord", "D0.03cc[Gy]")


def test_tables_prove_themselves() -> None:
    with pytest.raises(InvalidInput, match="twice"):
        Table(("a", "a"), ())
    with pytest.raises(InvalidInput, match="lengths"):
        Table(("a", "b"), ((1,),))
