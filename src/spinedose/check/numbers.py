"""The numbers of a check: gamma, histograms, metrics, conformity and point doses of both doses side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from spinedose.check.inputs import Inputs
from spinedose.check.outcome import (
    BeamFound,
    Eqd2Found,
    Finding,
    GammaFound,
    MetricPair,
    Prescription,
    Role,
    StructureFound,
    StructureGamma,
    TargetQuality,
)
from spinedose.compare.dvh import Dvh, cells_of, dvh_of
from spinedose.compare.gamma import GammaResult, Search, gamma_index, search_on_cpu
from spinedose.compare.metrics import (
    STANDARD,
    FallOff,
    PlanQuality,
    eqd2_dvh,
    fall_off,
    measure,
    parse_metric,
    plan_quality,
)
from spinedose.criteria import Criteria, Measured
from spinedose.dicom.dose import PlannedDose
from spinedose.errors import InvalidInput
from spinedose.grid import Grid, Volume, box_around
from spinedose.machine import Machine, machine_for_beam
from spinedose.plan import Plan
from spinedose.plan_checks import beam_table
from spinedose.protocol import AlphaBeta
from spinedose.result import Dose
from spinedose.structures import Structure, StructureSet, bounds_cm, mask

NO_CONTOURS = "it has no contours"
"""Why a structure has no numbers that nobody drew."""

MEASURED_ROLES = ("target", "cord", "organ")
"""Roles of structures that have histograms and metrics."""


EQD2_METRICS = {
    "target": ("Mean[Gy]", "D95%[Gy]", "D2%[Gy]"),
    "cord": ("Max[Gy]", "D0.03cc[Gy]", "D10%[Gy]"),
    "organ": ("D0.03cc[Gy]", "Mean[Gy]"),
}
"""Of which doses EQD2 is told, by role: what a limit may be about."""

FALL_FROM, FALL_TO = 0.9, 0.5
"""Shares of the prescription between which the fall-off is measured."""


LEAST_POINTS = 20
"""A gamma of fewer voxels of the planned dose is not judged: one of them would be more than 5 % (house default)."""


def gammas_of(
    criteria: Criteria,
    planned: PlannedDose | None,
    result: Dose,
    structures: StructureSet | None,
    roles: Mapping[str, Role],
    prescribed: Prescription,
    progress: Callable[[str, float], None],
    *,
    search: Search = search_on_cpu,
) -> tuple[tuple[GammaFound, ...], tuple[Finding, ...]]:
    """All gammas that the criteria ask for, and those that cannot be computed.

    100 % is the prescription, or else the planned maximum. `search` finds the maps (`gamma_index`).
    """
    if planned is None or not planned.values_are_positive:
        return (), ()
    whole = prescribed.dose_gy if prescribed.is_known else float(planned.dose.values.max())
    drawn = [s for s in structures.structures if roles[s.name] in MEASURED_ROLES] if structures is not None else []
    masks = [_mask(s, planned.grid) for s in drawn]
    found, failed = [], []
    for number, question in enumerate(criteria.gammas):
        progress("gamma", number / len(criteria.gammas))
        asked = question.criteria(whole)
        try:
            gamma = gamma_index(
                planned.dose,
                result.volume,
                dose_percent=asked.dose_percent,
                distance_cm=asked.distance_cm,
                normalisation_gy=asked.normalisation_gy,
                is_local=asked.is_local,
                threshold_percent=asked.threshold_percent,
                search=search,
            )
        except InvalidInput as error:
            text = f"{question.name} could not be computed: {error}"
            failed.append(Finding("gamma_not_computed", "problem", text))
            continue
        parts = tuple(_gamma_in(gamma, s.name, region) for s, region in zip(drawn, masks, strict=True))
        found.append(GammaFound(question, gamma, parts))
    return tuple(found), tuple(failed)


def _mask(structure: Structure, grid: Grid) -> Volume | None:
    """The structure in the voxels around it."""
    try:
        return mask(structure, grid.box(*grid.reaching(*bounds_cm(structure)))) if structure.contours_cm else None
    except InvalidInput:  # a single plane of unknown thickness
        return None


def _gamma_in(gamma: GammaResult, name: str, region: Volume | None) -> StructureGamma:
    if region is None or not np.any(region.values >= 0.5):
        return StructureGamma(name, 0, 0, math.nan, math.nan, math.nan, "it fills no voxel of the planned dose")
    try:
        part = gamma.within(region)
    except InvalidInput:
        return StructureGamma(name, 0, 0, math.nan, math.nan, math.nan, "its dose is below the threshold")
    return StructureGamma(name, part.points, part.points_outside, part.pass_percent, part.mean, part.maximum)


def histogram(dose: Volume, structure: Structure) -> tuple[Dvh | None, str]:
    """A histogram, or why there is none."""
    return histograms([dose], structure)[0]


def histograms(doses: Sequence[Volume], structure: Structure) -> list[tuple[Dvh | None, str]]:
    """Histograms of several doses in a structure, which is cut into cells once; or why there is none."""
    if not structure.contours_cm:
        return [(None, NO_CONTOURS)] * len(doses)
    found: list[tuple[Dvh | None, str]] = []
    try:
        cells = cells_of(structure)
    except InvalidInput as error:
        return [(None, error.why or error.problem)] * len(doses)
    for dose in doses:
        try:
            found.append((dvh_of(dose, cells), ""))
        except InvalidInput as error:
            found.append((None, error.why or error.problem))
    return found


def structures_of(
    inputs: Inputs,
    roles: Mapping[str, Role],
    result: Dose,
    planned: PlannedDose | None,
    criteria: Criteria,
    prescribed: Prescription,
    alpha_betas: Sequence[AlphaBeta] = (),
) -> tuple[StructureFound, ...]:
    """Every structure with its numbers; targets, cords and organs first."""
    if inputs.structures is None:
        return ()
    order = ("target", "cord", "organ", "body", "support", "other")
    drawn = sorted(inputs.structures.structures, key=lambda s: order.index(roles[s.name]))
    ratios = {one.role: one for one in alpha_betas}
    found = (_structure(s, roles[s.name], result, planned, criteria, prescribed) for s in drawn)
    return tuple(_with_eqd2(one, ratios.get(one.role), inputs.plan.fractions) for one in found)


def _structure(
    structure: Structure,
    role: Role,
    result: Dose,
    planned: PlannedDose | None,
    criteria: Criteria,
    prescribed: Prescription,
) -> StructureFound:
    facts = (structure.name, structure.type, role, structure.color)
    if role not in MEASURED_ROLES or not structure.contours_cm:
        return StructureFound(*facts, math.nan, None, None, (), "" if structure.contours_cm else NO_CONTOURS)
    both = histograms([result.volume, *([planned.dose] if planned is not None else [])], structure)
    (ours, why_not), (theirs, why_not_theirs) = both[0], both[1] if planned is not None else (None, "")
    doubts = [f"recalculated: {why_not}" if why_not else "", f"planned: {why_not_theirs}" if why_not_theirs else ""]
    for curve, word in ((theirs, "planned"), (ours, "recalculated")):
        if curve is not None:
            doubts += [f"{word}: {curve.too_small}"] if curve.too_small else []
            doubts += [f"{word}: {text}" for text in curve.warnings]
    names = dict.fromkeys(parse_metric(name).name for name in (*STANDARD, *criteria.asked_of(role)))
    pairs = tuple(_pair(name, theirs, ours, prescribed.dose_gy) for name in names)
    volume = next((curve.volume_cm3 for curve in (ours, theirs) if curve is not None), math.nan)
    return StructureFound(*facts, volume, theirs, ours, pairs, "; ".join(dict.fromkeys(filter(None, doubts))))


def _pair(name: str, planned: Dvh | None, recalculated: Dvh | None, prescription_gy: float) -> MetricPair:
    metric = parse_metric(name)
    values, doubts = [], []
    for curve in (planned, recalculated):
        value, doubt = math.nan, ""
        if curve is not None:
            try:
                found = measure(metric, curve, prescription_gy=prescription_gy)
                value, doubt = found.value, found.doubt
            except InvalidInput as error:
                doubt = error.problem
        values.append(value)
        doubts.append(doubt)
    return MetricPair(name, metric.unit, values[0], values[1], "; ".join(dict.fromkeys(filter(None, doubts))))


def _with_eqd2(one: StructureFound, ratio: AlphaBeta | None, fractions: int) -> StructureFound:
    """The same with doses in fractions of 2 Gy, where there are histograms and an alpha/beta."""
    if ratio is None or (one.planned is None and one.recalculated is None):
        return one
    curves = [None if c is None else eqd2_dvh(c, fractions, ratio.value_gy) for c in (one.planned, one.recalculated)]
    pairs = tuple(_pair(name, curves[0], curves[1], math.nan) for name in EQD2_METRICS[one.role])
    return replace(one, eqd2=Eqd2Found(ratio.value_gy, ratio.stated_source, pairs))


def quality_of(
    inputs: Inputs, found: Sequence[StructureFound], result: Dose, planned: PlannedDose | None, prescribed: Prescription
) -> tuple[TargetQuality, ...]:
    """Conformity and gradient for every PTV, or for every target when none is called so."""
    if not prescribed.is_known or inputs.structures is None:
        return ()
    targets = [one for one in found if one.role == "target" and one.recalculated is not None]
    ptvs = [one for one in targets if one.type.upper() == "PTV"]
    own = {one.structure_number: one.dose_gy for one in inputs.plan.prescriptions if prescribed.source == "plan"}
    cords = [one.name for one in found if one.role == "cord" and one.recalculated is not None]
    cord = inputs.structures[cords[0]] if cords else None
    rows = []
    for one in ptvs or targets:
        level = own.get(inputs.structures[one.name].number, prescribed.dose_gy)
        quality: list[PlanQuality | None] = []
        falls: list[FallOff | None] = []
        for dose, curve in ((planned.dose if planned is not None else None, one.planned),
                            (result.volume, one.recalculated)):  # fmt: skip
            if dose is None or curve is None:
                quality.append(None)
                falls.append(None)
                continue
            part = dose.part(*box_around(dose.values >= 0.9 * FALL_TO * level, 2))  # loops over voxels are short
            quality.append(plan_quality(part, curve, level))
            falls.append(_fall(part, level, cord))
        rows.append(TargetQuality(one.name, quality[0], quality[1], falls[0], falls[1]))
    return tuple(rows)


def _fall(dose: Volume, level_gy: float, cord: Structure | None) -> FallOff | None:
    if float(dose.values.max()) <= FALL_FROM * level_gy:
        return None
    return fall_off(dose, FALL_FROM * level_gy, FALL_TO * level_gy, near=cord)


def beams_of(plan: Plan, result: Dose, machine: Machine | str | Path | None) -> tuple[BeamFound, ...]:
    """Every beam with its dose at the point for which the plan states one."""
    rows = []
    for row, beam in zip(beam_table(plan), plan.beams, strict=True):
        model, _ = machine_for_beam(beam, machine)
        point, value, doubt = None, math.nan, ""
        if beam.planned_point_cm is not None:
            x, y, z = (float(v) for v in beam.planned_point_cm)
            point = (x, y, z)
            volume = result.beams.get(beam.number) or (result.volume if len(plan.beams) == 1 else None)
            if volume is None:
                doubt = "the beam was not computed apart"
            else:
                value = float(volume.sample(point)) / plan.fractions
                doubt = "" if math.isfinite(value) else "the point lies outside the calculation grid"
        rows.append(BeamFound(row, point, value, f"{model.name}/{beam.energy}", doubt))
    return tuple(rows)


def measured_of(criteria: Criteria, found: Sequence[StructureFound]) -> Iterator[Measured]:
    """Numbers of structures that the criteria ask for."""
    for one in found:
        if one.role not in MEASURED_ROLES or (one.planned is None and one.recalculated is None):
            continue
        for name in criteria.asked_of(one.role):
            pair = one.metric(name)
            assert pair is not None, "criteria and metrics spell alike"
            doubt = "; ".join(dict.fromkeys(text for text in (pair.doubt, _missing_part(one)) if text))
            yield Measured(name, one.role, one.name, pair.planned, pair.recalculated, doubt)  # type: ignore[arg-type]


def _missing_part(one: StructureFound) -> str:
    """Why a number is that of a part of the structure only."""
    curves = (("planned", one.planned), ("recalculated", one.recalculated))
    texts = [f"{word}: {text}" for word, curve in curves if curve is not None for text in curve.warnings]
    return "; ".join(text for text in texts if "outside the dose grid" in text)


def measured_gammas(criteria: Criteria, gammas: Sequence[GammaFound], plan: Plan) -> Iterator[Measured]:
    """Gamma pass rates of the whole dose; those of no or few voxels are none."""
    found = {one.question: one.whole for one in gammas}
    for question in criteria.gammas:
        whole, passed, doubt = found.get(question), math.nan, "it was found in no voxel"
        if whole is not None:
            passed, doubt = whole.pass_percent, ""
            if whole.points < LEAST_POINTS:
                passed, doubt = math.nan, f"only {whole.points} voxels of the planned dose were compared"
        yield Measured(question.name, "plan", plan.label or "plan", math.nan, passed, doubt)


def measured_points(rows: Sequence[BeamFound]) -> Iterator[Measured]:
    """Doses at the points of beams, of one fraction."""
    for one in rows:
        if math.isfinite(one.row.planned_point_dose_gy):
            name = f"beam {one.row.number} '{one.row.name}'"
            planned, ours = one.row.planned_point_dose_gy, one.recalculated_point_dose_gy
            yield Measured("Dose[Gy]", "point", name, planned, ours, one.doubt)
