"""Whether a planned dose is that of all fractions or of a single session, and the dose of all fractions from it.

By the standard PLAN, FRACTION and BEAM are doses of the entire delivery, FRACTION_SESSION and BEAM_SESSION those of one
session. Some systems write one session's dose as FRACTION all the same. What the plan says of itself tells: its
prescription, and the doses that its beams give at a point. The recalculated dose is not asked: a plan whose metersets
are wrong by the number of fractions must not find a planned dose that was multiplied to fit.

References
----------
DICOM PS3.3 C.8.8.3 (Dose Summation Type).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np

from spinedose.check.findings import beams_left_out
from spinedose.dicom.dose import PlannedDose
from spinedose.grid import Volume
from spinedose.plan import Plan

SAME = 0.1
"""Doses that differ by less than this share are one and the same to a planning system: prescriptions are rounded, and
points read between voxels (house default)."""

HOTTEST = 1.7
"""Highest dose of a target in prescriptions, with one to the 60 % isodose; what would be above is not decided on."""

POINT_CM = 0.1
"""Points of beams nearer than this are one point [cm]."""

_OF_SESSION = {"FRACTION_SESSION": "FRACTION", "BEAM_SESSION": "BEAM"}

_Meant = Literal["session", "all", ""]


def of_all_fractions(dose: PlannedDose, plan: Plan) -> tuple[PlannedDose, tuple[str, ...]]:
    """The dose of all fractions, and what is open about it.

    `multiplied` of the dose says where it was that of one session.

    Parameters
    ----------
    dose : PlannedDose
        As stored, or the sum of those of beams.
    plan : Plan
        The plan that it belongs to.
    """
    count = plan.fractions
    if dose.summation in _OF_SESSION:
        text = f"The planned dose is that of one session ({dose.summation}); it was multiplied by {count}."
        whole = replace(dose, summation=_OF_SESSION[dose.summation])
        return (whole if count == 1 else _multiplied(whole, count, text)), ()
    if dose.summation != "FRACTION" or count == 1 or not dose.values_are_positive:
        return dose, ()
    clues = [clue for clue in (_by_prescription(dose, plan), _by_points(dose, plan)) if clue[0]]
    meant = {clue[0] for clue in clues}
    if meant == {"session"}:
        text = (
            f"The planned dose is of type FRACTION, by DICOM that of all {count} fractions, but it is one session's: "
            f"{' and '.join(clue[1] for clue in clues)}. It was multiplied by {count}. Export the dose of the plan "
            "(PLAN) to be sure."
        )
        return _multiplied(dose, count, text), ()
    if meant == {"all"}:
        return dose, ()
    return dose, (
        f"The planned dose is of type FRACTION and was taken as that of all {count} fractions, as DICOM defines it; "
        f"the plan does not tell whether it is that of one session. If the doses differ by a factor of {count}, export "
        "the dose of the plan (PLAN).",
    )


def _by_prescription(dose: PlannedDose, plan: Plan) -> tuple[_Meant, str]:
    """What the plan's prescription says, which the maximum of all fractions does not stay below."""
    if not plan.prescriptions:
        return "", ""
    prescribed, highest = plan.prescriptions[0].dose_gy, float(dose.dose.values.max())
    if highest >= (1 - SAME) * prescribed:
        return "all", ""
    if (1 - SAME) * prescribed <= plan.fractions * highest <= HOTTEST * prescribed:
        return "session", f"its maximum is {highest:.4g} Gy, with {prescribed:g} Gy prescribed"
    return "", ""


def _by_points(dose: PlannedDose, plan: Plan) -> tuple[_Meant, str]:
    """What the doses of the beams in one fraction say, where the plan states all of them at one point."""
    points = [beam.planned_point_cm for beam in plan.beams if beam.planned_point_cm is not None]
    if beams_left_out(plan) or len(points) < len(plan.beams) or np.ptp(points, axis=0).max() > POINT_CM:
        return "", ""
    in_one = sum(beam.planned_point_dose_gy or 0.0 for beam in plan.beams)
    there = float(dose.dose.sample(np.array(points[:1]), outside=0.0)[0])
    if abs(there - in_one) < SAME * in_one:
        return "session", f"at the point of its beams it has {there:.4g} Gy, which is what they give in one fraction"
    return ("all" if abs(there - plan.fractions * in_one) < SAME * plan.fractions * in_one else ""), ""


def _multiplied(dose: PlannedDose, count: int, why: str) -> PlannedDose:
    values = (dose.dose.values * np.float32(count)).astype(np.float32)
    return replace(dose, dose=Volume(dose.grid, values), multiplied=why)
