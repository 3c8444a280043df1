"""The secondary check from files to a verdict: read, compute, compare, judge."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Literal

from spinedose._arguments import PATH, expect, expect_number
from spinedose.assignments import Assignment
from spinedose.backends.select import select_backend
from spinedose.belonging import strangers
from spinedose.check import findings as finding
from spinedose.check.delivery import Against, LogsLike, as_planned, of_delivery, recorded_of, take_logs
from spinedose.check.inputs import (
    CtLike,
    DoseLike,
    Inputs,
    PathLike,
    PlanLike,
    StructuresLike,
    gather,
    versions,
)
from spinedose.check.numbers import (
    NO_CONTOURS,
    beams_of,
    gammas_of,
    measured_gammas,
    measured_of,
    measured_points,
    quality_of,
    structures_of,
)
from spinedose.check.outcome import (
    Check,
    Finding,
    GammaFound,
    Names,
    OtherName,
    Prescription,
    Role,
    StructureFound,
)
from spinedose.check.patterns import explain, find_pattern
from spinedose.check.prescription import prescription_of
from spinedose.check.roles import fine_box, roles_of
from spinedose.check.variants import find_causes, told
from spinedose.check.verdict import assumptions_of, verdict_of
from spinedose.clock import Clock, Progress
from spinedose.criteria import Criteria, judge, read_criteria
from spinedose.engine import compute_dose
from spinedose.errors import InvalidInput
from spinedose.hu_curve import read_curve
from spinedose.machine import Machine, machine_for_beam
from spinedose.nested import FineBox
from spinedose.patient import find_fine_box, prove_spacing
from spinedose.plan import Plan
from spinedose.plan_checks import PlanFact, plan_facts
from spinedose.protocol import Evaluation, Match, Protocol, evaluate_protocol, match_structures, read_protocol
from spinedose.result import Dose
from spinedose.settings import Settings, prove_settings
from spinedose.structures import StructureSet

log = logging.getLogger(__name__)


def check(
    folder: PathLike | None = None,
    *,
    plan: PlanLike | None = None,
    ct: CtLike | None = None,
    structures: StructuresLike | None = None,
    dose: DoseLike | None = None,
    machine: Machine | str | Path | None = None,
    curve: str = "generic",
    criteria: Criteria | PathLike = "spine",
    protocol: Protocol | PathLike = "spine",
    chosen: Mapping[str, str] | None = None,
    prescription_gy: float | None = None,
    spacing_cm: float = 0.25,
    fine: FineBox | Sequence[str] | Literal["auto"] | None = "auto",
    materials: Sequence[Assignment] = (),
    couch: PathLike = "",
    couch_surface_cm: float | None = None,
    dose_to: str = "water",
    planned_dose_to: str = "",
    backend: str = "auto",
    per_beam: bool | None = None,
    causes: bool = True,
    beams: Sequence[int] | None = None,
    fraction_group: int | None = None,
    bolus: Literal["refuse", "ignore"] = "refuse",
    patient_position: str | None = None,
    missing_slices: Literal["refuse", "interpolate"] = "refuse",
    logs: LogsLike | None = None,
    against: Against = "dose",
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> Check:
    """Compute a plan again and hold the result against the planned dose.

    Parameters
    ----------
    folder : path, optional
        Where the files are; they are found by their UIDs, in folders within it, too.
    plan, ct, structures, dose : path or object, optional
        What is not to be looked for. `plan` may also be the label or UID of one of several plans in the folder, `ct` a
        folder or its files, `dose` one RTDOSE or those of the beams. Without a planned dose nothing is compared.
    machine : Machine, str or path, optional
        Machine of all beams; otherwise the plan's leaf boundaries decide.
    curve : str
        Density curve: a name or a TOML file.
    criteria, protocol : name, path or object
        What is judged, and the dose limits of structures (docs/formats/criteria.md, protocol.md).
    chosen : mapping of str to str, optional
        Structures of the protocol whose names are not found or not clear: `{"SpinalCord": "Cord_final"}`.
    prescription_gy : float, optional
        Prescribed dose of all fractions [Gy], above the one in the plan. Without both it is estimated from the planned
        dose: what 95 % of the target receive.
    spacing_cm : float
        Voxels of the calculation [cm].
    fine : FineBox, sequence of str, "auto" or None
        Where voxels are finer: a box, around these structures, or nowhere. `"auto"`: 1.25 mm around targets and the
        cord beside them, for 5 Gy a fraction or more, or targets below 30 cm^3 (`spinedose.check.roles.fine_box`).
    materials, couch, couch_surface_cm, backend
        As in `compute_dose`.
    dose_to : str
        `"water"` or `"medium"`: what to compute dose to.
    planned_dose_to : str
        What the planned dose is a dose to, where you know it; otherwise the file is searched for a hint.
    per_beam : bool, optional
        Compute each beam apart, which point doses of beams need; otherwise done when the plan states such doses.
    causes : bool
        Where the doses differ, compute variants of the plan to see what would explain it (`spinedose.check.variants`).
    beams, fraction_group, bolus, patient_position, missing_slices
        As in `read_plan` and `read_ct`.
    logs : path, MachineLog, sequence or mapping of int to them, optional
        Machine logs: computed is what they recorded instead of what the plan says (docs/howto/delivered.md). By beam
        number where the logs do not tell.
    against : str
        What the delivered dose is compared with: `"dose"`, the planned one, or `"plan"`, our own of the plan.
    settings : Settings, optional
        Accuracy settings; `curve` and `dose_to` are taken from the arguments.
    progress : callable, optional
        Called with the name of the stage and the share of the whole that is done, 0 to 1.

    Returns
    -------
    Check
        With the verdict and everything behind it.

    Raises
    ------
    SpinedoseError
        If it cannot be computed; see `spinedose.errors`.
    """
    if folder is not None:
        expect("The folder", folder, PATH, "a path")
    if prescription_gy is not None:
        expect_number("The prescription", prescription_gy, "Gy")
    prove_spacing(spacing_cm)
    if chosen is not None:
        expect("The choice of structures", chosen, Mapping, "a mapping", "Write {'SpinalCord': 'Cord'} for instance")
    prove_settings(settings)
    clock = Clock(progress)
    asked = criteria if isinstance(criteria, Criteria) else read_criteria(str(criteria))
    limits = protocol if isinstance(protocol, Protocol) else read_protocol(str(protocol))
    if prescription_gy is not None and not (math.isfinite(prescription_gy) and prescription_gy > 0):
        raise InvalidInput(f"The prescription is {prescription_gy} Gy", "a prescribed dose is positive")
    if planned_dose_to not in ("", "water", "medium"):
        raise InvalidInput(f"The planned dose is a dose to '{planned_dose_to}'", "water or medium can be stated")
    if against not in ("dose", "plan"):
        raise InvalidInput(f"The dose is to be compared with '{against}'", "it can be the dose or the plan")
    if against == "plan" and logs is None:
        raise InvalidInput(
            "The plan was to be compared with itself", "there are no machine logs", "Give them", argument="logs"
        )
    with clock("read", 0.0):
        inputs = gather(
            folder,
            plan,
            ct,
            structures,
            dose,
            beams=beams,
            fraction_group=fraction_group,
            bolus=bolus,
            patient_position=patient_position,
            missing_slices=missing_slices,
        )
        delivery, log_files = take_logs(inputs.plan, logs) if logs is not None else (None, ())
        matches = _matches(limits, inputs.structures, chosen)
        roles = roles_of(inputs.structures, matches)
        prescribed = prescription_of(inputs, roles, prescription_gy)
        box, why_fine = _fine(fine, inputs, roles, prescribed, spacing_cm)
    settings = replace(settings or Settings(), curve=curve, dose_to=dose_to)
    apart = per_beam if per_beam is not None else any(b.planned_point_cm is not None for b in inputs.plan.beams)

    def dose_of(plan: Plan, start: float, end: float) -> Dose:
        return compute_dose(
            plan,
            inputs.ct,
            machine=machine,
            structures=inputs.structures,
            materials=materials,
            couch=str(couch),
            couch_surface_cm=couch_surface_cm,
            spacing_cm=spacing_cm,
            fine=box,
            backend=backend,
            per_beam=apart,
            settings=settings,
            progress=clock.part(start, end - start).report,
        )

    with clock("dose", 0.03):
        start = 0.03
        if against == "plan":
            start, planned_dose_to = 0.3, dose_to
            as_read = replace(inputs, planned=as_planned(dose_of(inputs.plan, 0.03, start), inputs.plan))
            prescribed = prescription_of(as_read, roles, prescription_gy)
        else:
            as_read = inputs
        if delivery is not None:
            inputs = replace(as_read, plan=delivery.plan, files=(*inputs.files, *log_files))
        result = dose_of(inputs.plan, start, 0.65)
    planned = inputs.planned
    with clock("gamma", 0.66):
        gammas, failed = gammas_of(
            asked, planned, result, inputs.structures, roles, prescribed, clock.part(0.66, 0.09).report,
            search=select_backend(backend).gamma,
        )  # fmt: skip
    with clock("histograms", 0.75):
        found = structures_of(inputs, roles, result, planned, asked, prescribed, limits.alpha_betas)
    with clock("judge", 0.83):
        quality = quality_of(inputs, found, result, planned, prescribed)
        beam_rows = beams_of(inputs.plan, result, machine)
        evaluation = _evaluation(limits, matches, inputs.plan, found, prescribed)
        said = _findings(as_read, found, roles, prescribed, settings, materials, str(couch), planned_dose_to)
        coarse = finding.of_voxels(inputs.structures, roles, spacing_cm, box, prescribed, inputs.plan.fractions)
        said += coarse
        said += finding.of_missing(result.metadata.missing)
        delivered = None
        if delivery is not None:
            delivered = recorded_of(delivery, as_read.plan, against, planned is not None)
            said += of_delivery(delivered)
        judgement, points = None, tuple(measured_points(beam_rows))
        if planned is not None:
            measured = (*measured_of(asked, found), *measured_gammas(asked, gammas, inputs.plan), *points)
            judgement = judge(asked, measured, prescription_gy=prescribed.dose_gy, evaluation=evaluation)
            said += [*failed, *_unseen(gammas)]
        else:
            judgement = judge(asked, points) if points else None
            said.append(finding.of_missing_dose(inputs.notes, are_points_judged=bool(judgement and judgement.judged)))
    is_of_other_beams = any(one.code in finding.UNCOMPUTED for one in said)
    if planned is not None and planned.values_are_positive and not is_of_other_beams:
        with clock("causes", 0.85):
            pattern = find_pattern(planned.dose, result.volume)
            said += explain(pattern, inputs.plan.fractions, gammas, are_voxels_coarse=bool(coarse))
            if causes:
                said += told(
                    find_causes(
                        inputs.plan,
                        inputs.ct,
                        inputs.structures,
                        planned.dose,
                        result.volume,
                        pattern,
                        machine=machine,
                        materials=materials,
                        spacing_cm=spacing_cm,
                        settings=settings,
                        backend=backend,
                        progress=clock.part(0.85, 0.13).report,
                    ),
                    is_within=judgement is not None and judgement.is_within,
                )
    with clock("judge", 0.98):
        sorted_findings = finding.gravest_first(said)
        verdict, reasons = verdict_of(judgement, sorted_findings)
        rows = _facts(inputs.plan, prescribed, machine)
    if progress is not None:
        progress("done", 1.0)
    log.info("check: %s, %d findings", verdict, len(sorted_findings))
    return Check(
        verdict=verdict,
        reasons=reasons,
        names=_names(inputs),
        created=datetime.now().astimezone().isoformat(timespec="seconds"),
        dose=result,
        planned=planned,
        structures=inputs.structures,
        prescription=prescribed,
        found=found,
        gammas=gammas,
        quality=quality,
        beams=beam_rows,
        facts=rows,
        evaluation=evaluation,
        judgement=judgement,
        findings=sorted_findings,
        assumptions=assumptions_of(inputs, result, prescribed, box, why_fine, machine),
        warnings=_warnings(inputs, result),
        inputs=inputs.files,
        versions=versions(),
        timings_s={name: round(seconds, 3) for name, seconds in clock.seconds.items()},
        delivered=delivered,
        criteria=asked.name,
        protocol=limits.name,
    )


def _matches(
    protocol: Protocol, structures: StructureSet | None, chosen: Mapping[str, str] | None
) -> tuple[Match, ...]:
    return match_structures(protocol, structures.structures, chosen=chosen) if structures is not None else ()


def _fine(
    fine: FineBox | Sequence[str] | Literal["auto"] | None,
    inputs: Inputs,
    roles: Mapping[str, Role],
    prescribed: Prescription,
    spacing_cm: float,
) -> tuple[FineBox | None, str]:
    if fine == "auto":
        return fine_box(inputs.structures, roles, prescribed.dose_gy / inputs.plan.fractions, spacing_cm)
    return find_fine_box(fine, inputs.structures), "as asked"


def _evaluation(
    protocol: Protocol,
    matches: Sequence[Match],
    plan: Plan,
    found: Sequence[StructureFound],
    prescribed: Prescription,
) -> Evaluation | None:
    if not found:
        return None
    ours = {one.name: one.recalculated for one in found if one.recalculated is not None}
    theirs = {one.name: one.planned for one in found if one.planned is not None}
    return evaluate_protocol(protocol, matches, plan.fractions, ours, theirs, prescription_gy=prescribed.dose_gy)


def _facts(plan: Plan, prescribed: Prescription, machine: Machine | str | Path | None) -> tuple[PlanFact, ...]:
    machines = {beam.number: machine_for_beam(beam, machine)[0] for beam in plan.beams}
    return plan_facts(plan, prescription_gy=prescribed.dose_gy, machines=machines)


MOST_UNSEEN = 0.2
"""When more than this share of the planned voxels could not be compared, the verdict cannot be "within"."""


def _unseen(gammas: Sequence[GammaFound]) -> Iterator[Finding]:
    """Voxels of the planned dose that lie outside the calculation."""
    worst = max(gammas, key=lambda one: one.whole.points_outside, default=None)
    if worst is not None and worst.whole.points_outside:
        lost, seen = worst.whole.points_outside, worst.whole.points
        text = f"{lost} voxels of the planned dose lie outside the calculation grid and were not compared, {seen} were."
        yield Finding("voxels_not_compared", "problem" if lost > MOST_UNSEEN * (lost + seen) else "attention", text)


def _findings(
    inputs: Inputs,
    found: Sequence[StructureFound],
    roles: Mapping[str, Role],
    prescribed: Prescription,
    settings: Settings,
    materials: Sequence[Assignment],
    couch: str,
    planned_dose_to: str,
) -> list[Finding]:
    plan, ct, structures, planned = inputs.plan, inputs.ct, inputs.structures, inputs.planned
    said = [Finding("files", "attention", note) for note in inputs.notes]
    said += finding.of_plan(plan, planned)
    said += finding.of_belonging(plan, ct, structures, planned)
    said += finding.of_structures(ct, structures, roles, {one.structure_number for one in plan.prescriptions} - {0})
    if planned is not None:
        said += finding.of_planned_dose(planned, plan, found, structures, prescribed, settings.dose_to, planned_dose_to)
    said += finding.of_matter(plan, ct, structures, read_curve(settings.curve), materials, couch)
    for one in found:
        has_none = one.doubt and one.recalculated is None and math.isnan(one.volume_cm3)
        if one.role in ("target", "cord") and has_none and one.doubt != NO_CONTOURS:
            text = f"'{one.name}' has no numbers: {one.doubt}."
            said.append(Finding("structure_without_numbers", "problem", text, one.name))
    is_of_part = planned is not None and planned.summation == "BEAM" and bool(finding.beams_left_out(plan))
    medians = [pair.planned for one in found if one.role == "target" and (pair := one.metric("D50%[Gy]")) is not None]
    hottest = max((m for m in medians if math.isfinite(m)), default=math.nan)
    said += finding.of_prescription(prescribed, hottest, is_of_part=is_of_part)
    return said


def _names(inputs: Inputs) -> Names:
    plan, planned = inputs.plan, inputs.planned
    return Names(
        patient_name=plan.identity.patient_name,
        patient_id=plan.identity.patient_id,
        plan_label=plan.label,
        plan_uid=plan.uid,
        structure_set_uid=inputs.structures.uid if inputs.structures is not None else "",
        ct_uid=inputs.ct.uid,
        frame_of_reference_uid=plan.frame_of_reference_uid,
        dose_uids=tuple(planned.uid.split()) if planned is not None else (),
        others=tuple(
            OtherName(one.what, one.identity.patient_name, one.identity.patient_id)
            for one in strangers(plan, inputs.ct, inputs.structures, None if planned is None else planned.identity)
        ),
    )


def _warnings(inputs: Inputs, result: Dose) -> tuple[str, ...]:
    texts = [*result.metadata.warnings]
    texts += inputs.structures.warnings if inputs.structures is not None else ()
    texts += inputs.planned.warnings if inputs.planned is not None else ()
    return tuple(dict.fromkeys(texts))
