"""Validation: the engine and its beams held against measurements, literature, exact physics and Monte Carlo.

`validate` computes, `Results` is what it finds; limits are those of `curve_judging`, each with its source.
"""

from spinedose.curve_judging import Criterion, read_criteria
from spinedose.validate.lines import Drawn, Line, Outcome, Pool, Results, pooled
from spinedose.validate.run import CASES, data_beside_checkout, results_file, validate

__all__ = [
    "CASES",
    "Criterion",
    "Drawn",
    "Line",
    "Outcome",
    "Pool",
    "Results",
    "data_beside_checkout",
    "pooled",
    "read_criteria",
    "results_file",
    "validate",
]
