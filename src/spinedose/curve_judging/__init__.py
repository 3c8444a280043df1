"""One set of limits, each with its source, and one way to hold a calculated curve against a measured one.

`spinedose validate` and `spinedose commission --check` both judge with it, so that one curve cannot pass here and fail
there. Nothing is computed or read but numbers of curves.
"""

from spinedose.curve_judging.compared import (
    PARTS,
    Compared,
    compare_depth_dose,
    compare_profile,
    projected_half_cm,
)
from spinedose.curve_judging.criterion import Criterion, read_criteria
from spinedose.curve_judging.judged import Judged, judge_curve, judge_output, output_criterion

__all__ = [
    "PARTS",
    "Compared",
    "Criterion",
    "Judged",
    "compare_depth_dose",
    "compare_profile",
    "judge_curve",
    "judge_output",
    "output_criterion",
    "projected_half_cm",
    "read_criteria",
]
