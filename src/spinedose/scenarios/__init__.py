"""Studies: the same plan computed many times, with patient, CT or machine a little different each time."""

from __future__ import annotations

from spinedose.scenarios.outcome import Curve, LimitKept, Outcome, Value
from spinedose.scenarios.reading import read_scenarios, scenarios_of
from spinedose.scenarios.sampling import SetupErrors, random_setups, setup_factorial, setup_grid
from spinedose.scenarios.scenario import NOMINAL, DensityChange, OtherCt, Registration, Scenario
from spinedose.scenarios.study import Study
from spinedose.scenarios.tables import (
    Summary,
    Table,
    limit_table,
    summarise,
    summary_table,
    telling,
    tidy_table,
    wide_table,
)
from spinedose.scenarios.writing import write_study

__all__ = [
    "NOMINAL",
    "Curve",
    "DensityChange",
    "LimitKept",
    "OtherCt",
    "Outcome",
    "Registration",
    "Scenario",
    "SetupErrors",
    "Study",
    "Summary",
    "Table",
    "Value",
    "limit_table",
    "random_setups",
    "read_scenarios",
    "scenarios_of",
    "setup_factorial",
    "setup_grid",
    "summarise",
    "summary_table",
    "telling",
    "tidy_table",
    "wide_table",
    "write_study",
]
