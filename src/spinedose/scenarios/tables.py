"""Outcomes as tables: one number a row, one scenario a row, and what is worst, usual and kept."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from spinedose.compare.metrics import parse_metric
from spinedose.errors import InvalidInput
from spinedose.scenarios.outcome import Outcome
from spinedose.scenarios.scenario import AXES, Scenario
from spinedose.units import MM_PER_CM

PERCENTILES = (5, 50, 95)
"""Of samples; linear between ordered values (numpy's default, method 7 of Hyndman and Fan 1996)."""

COLD_FROM = 50.0
"""A target's dose to at least this part of its volume [%] is one of coverage: less is worse. Below, more is worse."""

Cell = str | float | int | bool | None


@dataclass(frozen=True, slots=True)
class Table:
    """Named columns and rows; a missing number is None.

    Parameters
    ----------
    columns : tuple of str
        Names, with units.
    rows : tuple of tuples
        As many cells as there are columns.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def __post_init__(self) -> None:
        if len(set(self.columns)) != len(self.columns):
            raise InvalidInput("A table has a column twice", f"it has {', '.join(self.columns)}")
        if any(len(row) != len(self.columns) for row in self.rows):
            raise InvalidInput("A table has rows of several lengths")

    def column(self, name: str) -> tuple[Cell, ...]:
        """The cells of a column."""
        place = self.columns.index(name)
        return tuple(row[place] for row in self.rows)

    def as_dicts(self) -> list[dict[str, Cell]]:
        """The rows, ready for a data frame."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


_OF_SCENARIO = (
    "scenario", "group", "sample", "lateral_mm", "longitudinal_mm", "vertical_mm", "pitch_deg", "roll_deg", "yaw_deg",
    "leaf_offset_mm", "spot_factor", "meterset_factor", "fractions", "hu_offset", "curve", "densities", "ct",
)  # fmt: skip


def _of_scenario(scenario: Scenario) -> tuple[Cell, ...]:
    """The columns that tell scenarios apart; setups that differ between fractions have no single number."""
    setups = scenario.setups
    lies: list[Cell] = []
    for axis in AXES:
        values = {getattr(one, axis) for one in setups}
        value = values.pop() if len(values) == 1 else None
        lies.append(None if value is None else _rounded(MM_PER_CM * value if axis.endswith("_cm") else value))
    beams = "".join(f"; beam {number} x {value:g}" for number, value in scenario.factors_of_beams.items())
    return (
        scenario.name,
        scenario.group,
        scenario.is_sample,
        *lies,
        _rounded(MM_PER_CM * scenario.change.leaf_offset_cm),
        scenario.change.spot_factor,
        f"{scenario.meterset_factor:g}{beams}",
        scenario.fractions or None,
        scenario.hu_offset,
        scenario.curve,
        "; ".join(f"{d.structure} {'x ' if d.kind == 'times' else ''}{d.amount:g}" for d in scenario.densities),
        "" if scenario.ct is None else scenario.ct.name,
    )


def tidy_table(outcomes: Iterable[Outcome]) -> Table:
    """A row for each scenario, structure and metric; the planned one first."""
    found = nominal_first(outcomes)
    planned = _planned(found)
    rows = []
    for one in found:
        head = _of_scenario(one.scenario)
        for value in one.values:
            base = planned.get((value.structure, value.metric))
            number = _cell(value.value)
            change = None if base is None or number is None else _rounded(value.value - base)
            rows.append((*head, value.structure, value.role, value.metric, value.unit, number, change, value.doubt))
    return Table((*_OF_SCENARIO, "structure", "role", "metric", "unit", "value", "change", "doubt"), tuple(rows))


def wide_table(outcomes: Iterable[Outcome]) -> Table:
    """A row for each scenario, a column for each structure and metric; the planned one first."""
    found = nominal_first(outcomes)
    keys = list(dict.fromkeys((v.structure, v.metric) for one in found for v in one.values))
    rows = []
    for one in found:
        values = {(v.structure, v.metric): _cell(v.value) for v in one.values}
        rows.append((*_of_scenario(one.scenario), *(values.get(key) for key in keys)))
    return Table((*_OF_SCENARIO, *(f"{s} {m}" for s, m in keys)), tuple(rows))


def limit_table(outcomes: Iterable[Outcome]) -> Table:
    """A row for each scenario and limit of the protocol."""
    rows = tuple(
        (
            one.scenario.name,
            k.structure,
            k.metric,
            k.goal,
            k.sense,
            k.limit,
            _cell(k.value),
            k.is_kept,
            k.source,
            k.doubt,
        )
        for one in nominal_first(outcomes)
        for k in one.limits
    )
    columns = ("scenario", "structure", "metric", "goal", "sense", "limit", "value", "kept", "source", "doubt")
    return Table(columns, rows)


@dataclass(frozen=True, slots=True)
class Summary:
    """A metric of a structure over all scenarios.

    Parameters
    ----------
    structure, role, metric, unit : str
        What.
    planned : float
        Its value in the plan; NaN where that was not computed.
    worst : float
        The worst of all scenarios, the planned one among them.
    worst_scenario : str
        Which that was.
    worst_is : str
        `"lowest"` or `"highest"`: what is worse for this metric (`worse_is`).
    samples : int
        Random scenarios that have a value.
    mean, deviation : float
        Of the samples, the standard deviation with n - 1; NaN where there are too few.
    percentiles : tuple of 3 floats
        5th, 50th and 95th of the samples; NaN where there are none.
    kept, limited : int
        Scenarios that keep all limits of this metric, and those for which limits and values are known.
    """

    structure: str
    role: str
    metric: str
    unit: str
    planned: float
    worst: float
    worst_scenario: str
    worst_is: str
    samples: int
    mean: float
    deviation: float
    percentiles: tuple[float, float, float]
    kept: int
    limited: int


def worse_is(metric: str, role: str, sense: str = "") -> str:
    """`"lowest"` or `"highest"`: which value of a metric is the worst.

    A limit of the protocol decides where there is one (`at least`: the lowest). Else more is worse, but for coverage of
    a target: its minimum, its mean, the dose to half its volume or more, and volumes that receive a dose.
    """
    if sense:
        return "lowest" if sense == "at least" else "highest"
    if role != "target":
        return "highest"
    found = parse_metric(metric)
    is_coverage = found.kind in ("min", "mean", "volume at dose", "volume at percent") or (
        found.kind == "dose at percent" and found.at >= COLD_FROM
    )
    return "lowest" if is_coverage else "highest"


def summarise(outcomes: Iterable[Outcome]) -> tuple[Summary, ...]:
    """What is worst, usual and kept, for every structure and metric."""
    found = nominal_first(outcomes)
    planned = _planned(found)
    each: dict[tuple[str, str, str, str], dict[str, float]] = {}
    for one in found:
        for v in one.values:
            of = each.setdefault((v.structure, v.role, v.metric, v.unit), {})
            if math.isfinite(v.value):
                of[one.scenario.name] = v.value
    senses = {(k.structure, k.metric): k.sense for one in found for k in one.limits}
    rows = []
    for (structure, role, metric, unit), values in each.items():
        kept = [_keeps(one, structure, metric) for one in found]
        worst_is = worse_is(metric, role, senses.get((structure, metric), ""))
        pick = min if worst_is == "lowest" else max
        name = pick(values, key=values.__getitem__) if values else ""
        drawn = np.array(
            [values[one.scenario.name] for one in found if one.scenario.is_sample and one.scenario.name in values]
        )
        rows.append(
            Summary(
                structure,
                role,
                metric,
                unit,
                planned.get((structure, metric), math.nan),
                values.get(name, math.nan),
                name,
                worst_is,
                len(drawn),
                float(drawn.mean()) if len(drawn) else math.nan,
                float(drawn.std(ddof=1)) if len(drawn) > 1 else math.nan,
                tuple(np.percentile(drawn, PERCENTILES).tolist()) if len(drawn) else (math.nan,) * 3,
                sum(one is True for one in kept),
                sum(one is not None for one in kept),
            )
        )
    return tuple(rows)


def telling(rows: Sequence[Summary]) -> tuple[Summary, ...]:
    """The same summaries, those that tell most first: coverage of targets, near-maxima of cords and organs."""
    known = [one for one in rows if math.isfinite(one.planned) and math.isfinite(one.worst)]
    best = {"target": "D95%[Gy]"}
    first = [one for one in known if one.metric == best.get(one.role, "D0.03cc[Gy]")]
    return (*first, *(one for one in known if one not in first))


def summary_table(rows: Sequence[Summary]) -> Table:
    """Summaries as a table."""
    columns = (
        "structure", "role", "metric", "unit", "planned", "worst", "worst_scenario", "worst_is", "samples", "mean",
        "standard_deviation", "percentile_5", "percentile_50", "percentile_95", "limits_kept", "limits_known",
    )  # fmt: skip
    return Table(
        columns,
        tuple(
            (
                one.structure,
                one.role,
                one.metric,
                one.unit,
                _cell(one.planned),
                _cell(one.worst),
                one.worst_scenario,
                one.worst_is,
                one.samples,
                _cell(one.mean),
                _cell(one.deviation),
                *(_cell(value) for value in one.percentiles),
                one.kept,
                one.limited,
            )
            for one in rows
        ),
    )


def nominal_first(outcomes: Iterable[Outcome]) -> tuple[Outcome, ...]:
    """All outcomes, the planned one first, the others in their order."""
    return tuple(sorted(outcomes, key=lambda one: not _is_planned(one)))


def _is_planned(one: Outcome) -> bool:
    return one.scenario.group == "nominal"


def _planned(outcomes: Sequence[Outcome]) -> dict[tuple[str, str], float]:
    """Values of the planned scenario."""
    first = next((one for one in outcomes if _is_planned(one)), None)
    first = first or next((one for one in outcomes if one.scenario.is_nominal), None)
    return {} if first is None else {(v.structure, v.metric): v.value for v in first.values if math.isfinite(v.value)}


def _keeps(one: Outcome, structure: str, metric: str) -> bool | None:
    """Whether all limits of a metric are kept; None where there is none or a value is missing."""
    each = [k.is_kept for k in one.limits if (k.structure, k.metric) == (structure, metric)]
    return None if not each or None in each else all(each)


def _cell(value: float) -> float | None:
    return _rounded(value) if math.isfinite(value) else None


def _rounded(value: float) -> float:
    """Seven figures, and no minus before a zero: tables are the same on every machine that has the same numbers."""
    return float(f"{value:.7g}") + 0.0


def as_text(cell: Any) -> str:
    """A cell as CSV has it."""
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return "true" if cell else "false"
    return f"{cell:.7g}" if isinstance(cell, float) else str(cell)
