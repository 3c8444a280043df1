"""The verdict of a check and its reasons in sentences, and what was taken for granted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from spinedose.check.inputs import Inputs
from spinedose.check.outcome import UNJUDGED, Finding, Prescription, Verdict
from spinedose.criteria import Judged, Judgement
from spinedose.machine import Machine
from spinedose.nested import FineBox
from spinedose.result import Dose

EXPLAINING = ("beams_not_in_group", "likely_cause", "scaled", "shifted", "dose_without_heterogeneity")
"""Findings that say in one sentence what makes the doses differ, or in which way; the first of them stands before the
criteria that are missed because of it."""

COARSE = "voxels_coarse"
"""The finding that our own voxels may make a difference; it stands before all that blames the plan for it."""


def verdict_of(judgement: Judgement | None, findings: Sequence[Finding]) -> tuple[Verdict, tuple[str, ...]]:
    """The verdict, and its reasons in sentences, the worst first.

    Without a planned dose (the finding `no_planned_dose`) only points of beams can have been judged: one of them
    outside is "outside", all of them within are no more than "not compared". "Within" is said of the numbers, and what
    was not judged (`UNJUDGED`) before it.
    """
    problems = [one.text for one in findings if one.severity == "problem"]
    missing = [one.text for one in findings if one.code == "no_planned_dose"]
    judged = judgement.judged if judgement is not None else ()
    failed = sorted((one for one in judged if not one.within), key=_gravity)
    if not judged:
        why = missing or ["No criterion could be judged: there is nothing to compare."]
        return "not compared", (*problems, *why)
    nearest = max(judged, key=_used)
    many = f"All {len(judged)} comparisons are within their limits; nearest to its limit is {sentence(nearest)}"
    all_within = many if len(judged) > 1 else f"The only comparison is within its limit: {sentence(nearest)}"
    if missing and not failed:
        return "not compared", (*problems, *missing, all_within)
    if problems or failed:
        kinds = {one.code: one.text for one in reversed(findings) if one.code in EXPLAINING} if failed else {}
        explained = [kinds[code] for code in EXPLAINING if code in kinds][:1]
        coarse = [one.text for one in findings if one.code == COARSE and failed]
        return "outside", (*problems, *coarse, *explained, *(sentence(one) for one in failed), *missing)
    return "within", (*(one.text for one in findings if one.code in UNJUDGED), all_within)


def _gravity(one: Judged) -> tuple[int, bool, bool, float]:
    """Sorts the worst first: by level; numbers to be trusted; limits that only one dose keeps; the rest by how far."""
    level = {"beyond action": 0, "outside": 1, "not judged": 2, "within": 3}[one.level]
    return level, bool(one.doubt), one.compare != "crosses limit", -_used(one)


def _used(one: Judged) -> float:
    """How much of a limit is used up, 1 at the limit; 0 where there is none."""
    if not (math.isfinite(one.difference) and math.isfinite(one.limit)):
        return 0.0
    if one.quantity.startswith("gamma"):  # of the part that may fail
        return (100 - one.difference) / max(100 - one.limit, 1e-9)
    return abs(one.difference) / one.limit if one.limit > 0 else math.inf


def sentence(one: Judged) -> str:
    """A criterion and what was found, such as `mean dose of the target, 'PTV': Mean[Gy] +3.1 % (limit 2 %), ...`."""
    unit = one.unit if one.unit == "%" else f" {one.unit}".rstrip()
    unit = " %" if unit == "%" else unit
    mark = {"within": "", "outside": "", "beyond action": ", beyond the action limit", "not judged": ""}[one.level]
    doubt = f" Doubtful: {one.doubt}." if one.doubt and one.level != "not judged" else ""
    structure = one.structure if one.structure.endswith("'") else f"'{one.structure}'"
    if one.level == "not judged":
        return f"{one.text}, {structure}: {one.quantity} was not judged ({one.doubt})."
    if one.quantity.startswith("gamma"):
        return f"{one.text}: {one.quantity}, passes in {one.difference:.1f} % (at least {one.limit:g} %){mark}.{doubt}"
    if one.compare == "crosses limit":
        return (
            f"{one.text}, {structure}: {one.quantity} is {_number(one.planned)} planned and "
            f"{_number(one.recalculated)} recalculated, limit {one.limit:g}{unit}.{doubt}"
        )
    return (
        f"{one.text}, {structure}: {one.quantity} {one.difference:+.1f}{unit}{one.basis} "
        f"(limit {one.stated_limit}{mark}), {_number(one.recalculated)} against {_number(one.planned)} planned.{doubt}"
    )


def _number(value: float) -> str:
    """Two decimals, and three figures of what is less than 1."""
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3g}"


def assumptions_of(
    inputs: Inputs,
    result: Dose,
    prescribed: Prescription,
    box: FineBox | None,
    why_fine: str,
    machine: Machine | str | Path | None,
) -> tuple[str, ...]:
    """What was taken for granted, in sentences."""
    facts = result.metadata
    spacing = 10 * float(facts.settings["spacing_cm"])
    voxels = f"{spacing:g} mm"
    if box is not None:
        voxels += f", {spacing / box.factor:g} mm around targets and cord ({why_fine})"
    else:
        voxels += f" everywhere ({why_fine})"
    said = [
        f"Prescription: {prescribed.text}",
        f"Dose is {facts.dose_quantity}.",
        f"Beam models: {', '.join(facts.machines)}"
        + ("." if machine is not None else ", chosen by the plan's leaf widths and energies."),
        f"Density curve: {facts.density_curve}. Body: {facts.body}.",
        f"Calculation voxels: {voxels}.",
    ]
    drawn = inputs.structures.structures if inputs.structures is not None else ()
    densities = {
        s.name: s.relative_mass_density if s.relative_electron_density is None else s.relative_electron_density
        for s in drawn
        if s.contours_cm
    }
    overridden = [f"'{name}' {density:g}" for name, density in densities.items() if density is not None]
    if overridden:
        said.append(f"Densities from the structure set, relative to water: {', '.join(overridden)}.")
    if facts.settings.get("materials"):
        said.append(f"Materials: {', '.join(f'{k} {v}' for k, v in facts.settings['materials'].items())}.")
    said.append(f"Couch: {facts.settings.get('couch') or 'none was added'}.")
    return tuple(said)
