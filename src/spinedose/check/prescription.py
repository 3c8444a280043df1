"""The prescribed dose of a check: given, from the plan or estimated; and whether it fits the planned dose.

Criteria and gammas are relative to it. Where it is wrong by a factor they would be too wide, or too narrow, by the same
factor. So one that does not fit is replaced by what the planned dose says, and a finding says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from spinedose.check.inputs import Inputs
from spinedose.check.numbers import histogram
from spinedose.check.outcome import Prescription, Role

COVERAGE = 95.0
"""Where a prescription is estimated, it is the planned dose to this part of the target [%] (house default)."""

ABOVE = 0.1
"""A prescription does not fit when it is higher by more than this share than what half of every target receives, or,
without targets, than the planned maximum: criteria relative to it would be too wide by as much (house default)."""

BELOW = 0.3
"""Nor when it is lower by more than this share than what 95 % of every target receive. Whichever isodose is prescribed
to, it covers the target with about that dose, however hot its middle is (house default)."""


@dataclass(frozen=True, slots=True)
class _Target:
    """What half and what most of a target receive in the planned dose [Gy]."""

    number: int
    name: str
    half_gy: float
    covered_gy: float

    def fits(self, prescription_gy: float) -> bool:
        return (1 - BELOW) * self.covered_gy <= prescription_gy <= (1 + ABOVE) * self.half_gy


def prescription_of(inputs: Inputs, roles: Mapping[str, Role], given_gy: float | None) -> Prescription:
    """The prescribed dose: as given, as in the plan, or, without both, estimated from the planned dose.

    One that is stated, but does not fit what targets receive in the planned dose, is replaced by the estimate. It is
    held against the target that the plan prescribes it to, where that is drawn, or else against all of them, of which
    one is enough: so a boost, or targets with several doses, raise no doubt.

    Parameters
    ----------
    inputs : Inputs
        Plan, structures and planned dose.
    roles : mapping of str to Role
        Roles of the structures.
    given_gy : float or None
        What the user states for all fractions [Gy].
    """
    stated = _stated(inputs, given_gy)
    targets = tuple(_targets(inputs, roles))
    if stated is None:
        if not targets:
            text = "The plan prescribes no dose, and none was given: what is relative to it was not judged."
            return Prescription(math.nan, "unknown", text)
        best = _covered_best(targets)
        text = (
            f"The plan prescribes no dose; it was estimated from the planned dose as what {COVERAGE:g} % of "
            f"'{best.name}' receive, {best.covered_gy:.2f} Gy. State it if it is another."
        )
        return Prescription(best.covered_gy, "planned dose", text)
    if stated.source == "plan":
        meant = {one.structure_number for one in inputs.plan.prescriptions if one.dose_gy == stated.dose_gy}
        targets = tuple(one for one in targets if one.number in meant) or targets
    return _fitting(stated, targets, inputs)


def _fitting(stated: Prescription, targets: Sequence[_Target], inputs: Inputs) -> Prescription:
    """The stated prescription, or what stands for it where it does not fit the planned dose."""
    said = stated.text.removesuffix(".")
    if targets and not any(one.fits(stated.dose_gy) for one in targets):
        best = _covered_best(targets)
        text = (
            f"{said}; but half of '{best.name}' receives {best.half_gy:.2f} Gy in the planned dose. What is relative "
            f"to the prescription, gamma too, was judged relative to {best.covered_gy:.2f} Gy instead, what "
            f"{COVERAGE:g} % of '{best.name}' receive."
        )
        return Prescription(best.covered_gy, "planned dose", text, stated.dose_gy)
    planned = inputs.planned
    largest = float(planned.dose.values.max()) if planned is not None else 0.0
    if not targets and 0 < (1 + ABOVE) * largest < stated.dose_gy:
        text = (
            f"{said}; but the planned dose is at most {largest:.2f} Gy. What is relative to the prescription was not "
            "judged, and gamma is relative to that maximum."
        )
        return Prescription(math.nan, "unknown", text, stated.dose_gy)
    return stated


def _stated(inputs: Inputs, given_gy: float | None) -> Prescription | None:
    """The prescription as given, or else as in the plan."""
    stated = inputs.plan.prescriptions
    if given_gy is not None:
        text = f"{given_gy:g} Gy, as given"
        if stated and abs(stated[0].dose_gy - given_gy) > 0.005:
            text += f"; the plan says {stated[0].dose_gy:g} Gy"
        return Prescription(given_gy, "argument", f"{text}.")
    if not stated:
        return None
    highest = stated[0]
    text = f"{highest.dose_gy:g} Gy to '{highest.description or 'a target'}', from the plan"
    if len({one.dose_gy for one in stated}) > 1:
        text += f"; the highest of {', '.join(f'{one.dose_gy:g}' for one in stated)} Gy"
    return Prescription(highest.dose_gy, "plan", f"{text}.")


def _targets(inputs: Inputs, roles: Mapping[str, Role]) -> Iterator[_Target]:
    """Targets that the planned dose reaches."""
    if inputs.planned is None or inputs.structures is None:
        return
    for structure in inputs.structures.structures:
        if roles[structure.name] != "target":
            continue
        curve, _ = histogram(inputs.planned.dose, structure)
        if curve is not None and (covered := curve.dose_at_percent(COVERAGE)) > 0:
            yield _Target(structure.number, structure.name, curve.dose_at_percent(50.0), covered)


def _covered_best(targets: Sequence[_Target]) -> _Target:
    return max(targets, key=lambda one: one.covered_gy)
