"""What must be said about the inputs of a check: what does not belong together, is missing, or limits what it sees.

Nothing here computes dose. Every finding is one sentence or two, with a code for programs (docs/formats/check.md).
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import numpy as np

from spinedose.assignments import Assignment
from spinedose.belonging import of_other_name, of_other_patient, of_other_position, strangers
from spinedose.check.outcome import Finding, Prescription, Role, Severity, StructureFound
from spinedose.check.roles import FINE_CM, FINE_FROM_GY, METAL_DENSITY, fine_box
from spinedose.compare.dvh import LEAST_ACROSS
from spinedose.couches import missing_couch
from spinedose.density import CtImage
from spinedose.dicom.dose import PlannedDose
from spinedose.errors import InvalidInput
from spinedose.grid import Grid
from spinedose.hu_curve import HuCurve
from spinedose.missing_matter import Missing
from spinedose.nearness import FAR_CM, around, distances, in_words, targets_and_cords
from spinedose.nested import FineBox
from spinedose.plan import Plan
from spinedose.structures import Structure, StructureSet, bounds_cm
from spinedose.units import MM_PER_CM

NEXT_TO_NOTHING_GY = 1e-3
"""A planned dose that is nowhere higher is damaged: a single monitor unit gives ten times as much."""

COARSE_CM = 0.2
"""Dose grids of SBRT should not be coarser [cm]: AAPM TG-101 (Benedict et al., Med Phys 37:4078 (2010)) recommends 2 mm
or finer. Not verified against the original."""

EDGE_CM = 0.02
"""A structure may reach this far beyond a grid without a word: rounding of contours and of positions [cm]."""

METAL_HU = 2500.0
"""Above this CT number there is no bone, but metal: dense cortical bone has up to 2000 HU (house default)."""

OFF_SLICE_CM = 0.05
"""Contours are drawn on slices, but for rounding; planning systems round to 0.1 mm (house default) [cm]."""

MOST_BETWEEN = 1 / 3
"""When more than this share of contour planes has no slice it is said: it is half with every second slice missing
(house default)."""

RIM_SHARE = 0.5
"""A planned dose that is higher than this share of the prescription at the rim of its grid is cut off."""

HOTTER = 0.3
"""A prescription is asked about when half of a target receives more by this share (house default; with prescriptions to
isodoses below 60 %, as in radiosurgery, that is so on purpose)."""

_TO_MEDIUM = re.compile(r"acuros|\baxb\b|monte[ _-]?carlo|xvmc|dose[ _-]?to[ _-]?medium", re.IGNORECASE)
_TO_WATER = re.compile(r"dose[ _-]?to[ _-]?water", re.IGNORECASE)
_ORDER = {"problem": 0, "attention": 1, "information": 2}


def gravest_first(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Sorted by severity; equal ones stay in their order."""
    return tuple(sorted(findings, key=lambda finding: _ORDER[finding.severity]))


def of_belonging(
    plan: Plan, ct: CtImage, structures: StructureSet | None, planned: PlannedDose | None
) -> list[Finding]:
    """What does not belong together, by the references in the files."""
    found = []
    if (
        structures is not None
        and plan.structure_set_uid
        and structures.uid
        and plan.structure_set_uid != structures.uid
    ):
        found.append(
            Finding(
                "structure_set_of_other_plan",
                "attention",
                "The plan refers to another structure set than the one used: its contours may be others than those that"
                " were planned with.",
            )
        )
    found += _of_patients(plan, ct, structures, planned)
    if planned is None:
        return found
    if planned.plan_uid and plan.uid and planned.plan_uid != plan.uid:
        found.append(
            Finding(
                "dose_of_other_plan",
                "problem",
                "The planned dose belongs to another plan by its reference. Compare the dose of this plan.",
            )
        )
    elif not planned.plan_uid:
        found.append(
            Finding("dose_without_plan", "attention", "The planned dose does not say to which plan it belongs.")
        )
    frame = plan.frame_of_reference_uid or ct.frame_of_reference_uid
    if planned.frame_of_reference_uid and frame and planned.frame_of_reference_uid != frame:
        found.append(
            Finding(
                "dose_in_other_frame",
                "problem",
                "The planned dose lies in another frame of reference than plan and CT: it was compared as if both were "
                "one, which need not be so.",
            )
        )
    named = (planned.structure_set_uid, structures.uid) if structures is not None else ("", "")
    if all(named) and named[0] != named[1]:
        text = "The planned dose refers to another structure set than the one used."
        found.append(Finding("dose_of_other_structures", "attention", text))
    left_out = beams_left_out(plan)
    if left_out and planned.summation != "BEAM":
        found.append(
            Finding(
                "beams_left_out",
                "problem",
                f"{len(left_out)} beam(s) of the plan were left out, but the planned dose is that of the whole plan.",
            )
        )
    if planned.summation == "BEAM":
        numbers = {beam.number for beam in plan.beams}
        if set(planned.beam_numbers) != numbers:
            found.append(
                Finding(
                    "beams_differ",
                    "problem",
                    f"The planned dose is that of beam(s) {_numbers(planned.beam_numbers)}, computed were "
                    f"{_numbers(numbers)}.",
                )
            )
    highest = float(planned.dose.values.max())
    if highest <= 0:
        found.append(Finding("dose_is_zero", "problem", "The planned dose is zero everywhere."))
    elif highest < NEXT_TO_NOTHING_GY:
        text = f"The planned dose is next to nothing, at most {highest:.2g} Gy. Export it again."
        found.append(Finding("dose_is_zero", "problem", text))
    return found


UNCOMPUTED = ("beams_left_out", "beams_differ", "beams_without_meterset", "beams_not_in_group")
"""Findings that say that the planned dose may be that of other beams than were computed: then no kind of difference is
looked for."""

NO_TREATMENT_INTENTS = ("VERIFICATION", "MACHINE_QA", "RESEARCH", "SERVICE")
"""Intents of plans that treat nobody (PS3.3 C.8.8.9)."""


def of_plan(plan: Plan, planned: PlannedDose | None) -> Iterator[Finding]:
    """What a check must say of a plan: its state, its purpose, and beams that it leaves open."""
    if plan.approval == "REJECTED":
        yield Finding("plan_rejected", "attention", "The plan is marked as rejected. Is it the one to be checked?")
    if plan.intent in NO_TREATMENT_INTENTS:
        text = f"The plan is no treatment by its intent, {plan.intent}."
        yield Finding("plan_intent", "information", text)
    if plan.without_meterset:
        names = ", ".join(plan.without_meterset)
        text = (
            f"{names} {'have' if len(plan.without_meterset) > 1 else 'has'} no meterset, and only the other beams were "
            "computed: the plan is incomplete. Export it after its dose has been computed, or choose the other beams."
        )
        yield Finding("beams_without_meterset", "problem", text)
    if plan.beside_group and planned is not None and planned.summation in ("PLAN", ""):
        text = (
            "The planned dose is that of the whole plan, but one fraction group alone was computed, without "
            f"{', '.join(plan.beside_group)}. Where the doses differ, compare the dose of the fraction group."
        )
        yield Finding("beams_not_in_group", "attention", text)


def beams_left_out(plan: Plan) -> tuple[str, ...]:
    """Beams with dose that the user left out, one sentence each."""
    return tuple(text for text in plan.skipped if "was not asked for" in text)


def _of_patients(
    plan: Plan, ct: CtImage, structures: StructureSet | None, planned: PlannedDose | None
) -> Iterator[Finding]:
    """Files of several patients, and of one patient in several positions."""
    found = strangers(plan, ct, structures, None if planned is None else planned.identity)
    if text := of_other_patient(found):
        yield Finding("other_patient", "problem", f"{text} Both IDs stand in the JSON, unless it is anonymous.")
    if text := of_other_name(found):
        yield Finding(
            "patient_names_differ", "attention", f"{text} Both names stand in the JSON, unless it is anonymous."
        )
    if text := of_other_position(plan, ct):
        yield Finding(
            "positions_differ", "problem", f"{text} Correct the plan, or state the position of both (patient_position)."
        )


def of_missing_dose(notes: Sequence[str], *, are_points_judged: bool) -> Finding:
    """What is compared without a planned dose, and what was said of doses on looking for one."""
    what = "only doses at points of beams were compared" if are_points_judged else "nothing was compared"
    why = [note for note in notes if "dose" in note.casefold()]
    return Finding("no_planned_dose", "attention", " ".join((f"There is no planned dose: {what}.", *why)))


def of_structures(
    ct: CtImage, structures: StructureSet | None, roles: Mapping[str, Role], prescribed_to: Collection[int] = ()
) -> list[Finding]:
    """Structures that are missing, empty, or off the CT; `prescribed_to` are the ROI numbers of targets in the plan."""
    if structures is None:
        text = "There is no structure set: no target, cord or organ was compared, and the body was found by threshold."
        return [Finding("no_structures", "attention", text)]
    found = []
    blank = [s for s in structures.structures if not structures[s.name].contours_cm]
    found += [_of_blank(s, roles[s.name], prescribed_to) for s in blank if roles[s.name] in ("target", "cord")]
    empty = [s.name for s in blank if roles[s.name] not in ("target", "cord")]
    if empty:
        names = ", ".join(f"'{name}'" for name in empty)
        word = "Structure" if len(empty) == 1 else f"{len(empty)} structures"
        found.append(
            Finding("structure_empty", "attention", f"{word} without contours: {names}. Nothing is said of them.")
        )
    for role, word in (("target", "target"), ("cord", "cord")):
        if not any(roles[s.name] == role and s.contours_cm for s in structures.structures):
            text = f"No structure was taken for a {word}, by type or name: criteria for it were not judged."
            if any(roles[s.name] == role for s in blank):
                text = f"No {word} was judged: none has contours that can be used."
            found.append(Finding(f"no_{role}", "attention", text))
    for structure in structures.structures:
        if not structure.contours_cm:
            continue
        beyond = _beyond(structure, ct.hu.grid)
        role = roles[structure.name]
        if beyond > max(ct.hu.grid.spacing_cm) and role != "support":
            severity: Severity = "problem" if role in ("target", "cord") else "attention"
            text = f"'{structure.name}' reaches {MM_PER_CM * beyond:.0f} mm beyond the CT: nothing was computed there."
            found.append(Finding("structure_off_ct", severity, text, structure.name))
    found += _of_planes(ct, structures)
    return found


def _of_blank(structure: Structure, role: Role, prescribed_to: Collection[int]) -> Finding:
    """A target or a cord without contours: a problem where it was drawn or prescribed to, a remnant elsewhere.

    Structure sets that are made from templates hold targets that nobody drew. One whose contours were lost on the way
    is another matter: nobody should read "within" of a plan whose target or cord was not looked at.
    """
    text = f"Nothing was judged of the {role} '{structure.name}': "
    if structure.unread:
        text += f"its contours cannot be used ({structure.unread}). Draw it with closed contours in axial planes."
        return Finding("structure_not_judged", "problem", text, structure.name)
    if structure.number in prescribed_to:
        text += "it has no contours, and the plan prescribes a dose to it. Export the structure set again."
        return Finding("structure_not_judged", "problem", text, structure.name)
    return Finding("structure_not_judged", "attention", f"{text}it has no contours.", structure.name)


def _of_planes(ct: CtImage, structures: StructureSet) -> Iterator[Finding]:
    """Contour planes within the CT on which it has no slice."""
    slices = ct.hu.grid.axes_cm[2]
    planes = np.unique([round(float(c[0, 2]), 3) for s in structures.structures for c in s.contours_cm])
    planes = planes[(planes >= slices[0]) & (planes <= slices[-1])]
    if not len(planes):
        return
    nearest = np.clip(np.rint((planes - slices[0]) / ct.hu.grid.spacing_cm[2]).astype(int), 0, len(slices) - 1)
    between = int(np.count_nonzero(np.abs(planes - slices[nearest]) > OFF_SLICE_CM))
    if between > MOST_BETWEEN * len(planes):
        yield Finding(
            "contours_between_slices",
            "attention",
            f"{between} of {len(planes)} contour planes have no CT slice (slices are "
            f"{MM_PER_CM * ct.hu.grid.spacing_cm[2]:.3g} mm apart): slices are missing, or the structures were drawn "
            "on another CT.",
        )


def _beyond(structure: Structure, grid: Grid) -> float:
    """How far a structure reaches out of a grid's voxel faces [cm]."""
    try:
        low, high = bounds_cm(structure)
    except InvalidInput:  # a single plane of unknown thickness
        points = np.concatenate(structure.contours_cm)
        low, high = points.min(axis=0), points.max(axis=0)
    return float(max((grid.lower_cm - low).max(), (high - grid.upper_cm).max()))


def of_voxels(
    structures: StructureSet | None,
    roles: Mapping[str, Role],
    spacing_cm: float,
    box: FineBox | None,
    prescription: Prescription,
    fractions: int,
) -> list[Finding]:
    """Calculation voxels that are coarse for targets and cords: then differences may be ours."""
    drawn = [s for s in structures.structures if s.contours_cm] if structures is not None else []
    near = [s for s in drawn if roles[s.name] in ("target", "cord")]
    per_fraction = prescription.dose_gy / fractions
    wanted, why = fine_box(structures, roles, per_fraction, max(spacing_cm, 2 * FINE_CM))
    is_steep = wanted is not None or per_fraction >= FINE_FROM_GY
    said = []
    for structure in near:
        size = spacing_cm / box.factor if box is not None and _lies_in(structure, box) else spacing_cm
        is_beside = roles[structure.name] == "target" or (wanted is not None and _lies_in(structure, wanted))
        if (is_steep and is_beside and size > COARSE_CM + 1e-6) or size > _width_cm(structure) / LEAST_ACROSS:
            said.append((size, structure.name))
    if not said:
        return []
    sizes = " and ".join(f"{MM_PER_CM * size:.3g}" for size in sorted({size for size, _ in said}))
    names = ", ".join(f"'{name}'" for _, name in said)
    because = f", coarse for {why if wanted is not None else f'{per_fraction:.3g} Gy a fraction'}" if is_steep else ""
    text = (
        f"The recalculated dose has voxels of {sizes} mm at {names}{because}: near-maxima and steep gradients differ "
        "by that alone. Compute with finer voxels before the plan is doubted."
    )
    return [Finding("voxels_coarse", "attention", text)]


def _lies_in(structure: Structure, box: FineBox) -> bool:
    """Whether a box holds the part of a structure that lies at its height; a cord may be longer."""
    points = np.concatenate(structure.contours_cm)
    low, high = np.array(box.lower_cm), np.array(box.upper_cm)
    beside = points[(points[:, 2] >= low[2]) & (points[:, 2] <= high[2]), :2]
    return bool(len(beside) and np.all(beside >= low[:2]) and np.all(beside <= high[:2]))


def _width_cm(structure: Structure) -> float:
    """Median over its contours of the smaller side [cm]."""
    return float(np.median([np.ptp(contour[:, :2], axis=0).min() for contour in structure.contours_cm]))


def of_planned_dose(
    planned: PlannedDose, plan: Plan, found: Sequence[StructureFound], structures: StructureSet | None,
    prescription: Prescription, dose_to: str, planned_dose_to: str,
) -> list[Finding]:  # fmt: skip
    """What the planned dose's grid, convention and summation leave open."""
    said = [Finding("dose_of_one_session", "attention", planned.multiplied)] if planned.multiplied else []
    grid = planned.grid
    coarsest = max(grid.spacing_cm)
    per_fraction = prescription.dose_gy / plan.fractions
    if per_fraction >= FINE_FROM_GY and coarsest > COARSE_CM + 1e-6:
        said.append(
            Finding(
                "grid_coarse",
                "attention",
                f"The planned dose has voxels of {' x '.join(f'{MM_PER_CM * h:.3g}' for h in grid.spacing_cm)} mm, "
                f"coarser than {MM_PER_CM * COARSE_CM:g} mm, with {per_fraction:.3g} Gy a fraction: near-maxima and "
                "steep gradients of both doses differ by that alone.",
            )
        )
    for one in found:
        structure = structures[one.name] if structures is not None else None
        if one.role not in ("target", "cord") or structure is None or not structure.contours_cm:
            continue
        beyond = _beyond(structure, grid)
        if beyond <= EDGE_CM:
            continue
        lost = f"'{one.name}' reaches {MM_PER_CM * beyond:.0f} mm beyond the grid of the planned dose"
        if one.role == "target":
            text = f"{lost}: the target is cut, and its planned numbers are those of the rest."
            said.append(Finding("grid_cuts_target", "problem", text, one.name))
        else:
            text = f"{lost}: its planned numbers are those of the rest."
            said.append(Finding("grid_cuts_cord", "attention", text, one.name))
    values = planned.dose.values
    faces = (values[0], values[-1], values[:, 0], values[:, -1], values[:, :, 0], values[:, :, -1])
    rim = max(float(face.max()) for face in faces)
    whole = prescription.dose_gy if prescription.is_known else float(values.max())
    if whole > 0 and rim > RIM_SHARE * whole:
        text = f"The planned dose still has {rim:.2f} Gy at the rim of its grid: the rest of it was not compared."
        said.append(Finding("grid_cuts_dose", "attention", text))
    said += _of_convention(planned, dose_to, planned_dose_to)
    if "WATER" in planned.heterogeneity and "IMAGE" not in planned.heterogeneity:
        but = ", but for densities of structures" if "ROI_OVERRIDE" in planned.heterogeneity else ""
        text = (
            "The planning system computed without heterogeneity correction: the patient was water to it"
            f"{but}. Ours is computed with the densities of the CT, so the doses differ where it is not water."
        )
        said.append(Finding("dose_without_heterogeneity", "attention", text))
    return said


def _of_convention(planned: PlannedDose, dose_to: str, planned_dose_to: str) -> Iterator[Finding]:
    """Dose to water or to medium: the planned dose's convention against ours."""
    text = f"{planned.system} {planned.description}"
    to_water, to_medium = _TO_WATER.search(text), _TO_MEDIUM.search(text)
    marks = to_water or to_medium  # a Monte Carlo may say that it reports dose to water
    theirs = planned_dose_to or ("water" if to_water else "medium" if to_medium else "")
    apart = "In cortical bone dose to medium is about 6 % lower, in lung and tissue within 1 %"
    if not theirs:
        yield Finding(
            "dose_convention_unknown",
            "information",
            f"The planned dose does not say what it is a dose to; ours is dose to {dose_to}. {apart}. Acuros XB and "
            "Monte Carlo usually report dose to medium.",
        )
    elif theirs != dose_to:
        how = "as stated" if planned_dose_to else f"as '{marks.group() if marks else ''}' in the file suggests"
        yield Finding(
            "dose_convention_differs",
            "attention",
            f"The planned dose is dose to {theirs}, {how}, and ours dose to {dose_to}. {apart}: compute dose to "
            f"{theirs}.",
        )


def of_matter(
    plan: Plan,
    ct: CtImage,
    structures: StructureSet | None,
    curve: HuCurve,
    materials: Sequence[Assignment],
    couch: str,
) -> list[Finding]:
    """Saturated CT numbers and hardware near target and cord, and a couch that is missing."""
    said = []
    near = targets_and_cords(structures)
    hu = ct.hu
    if near:
        part = around(near, hu.grid, FAR_CM)
        start = np.array([one.start for one in part])
        block = hu.values[part]
        top = float(hu.values.max())
        is_cut = ct.saturated_voxels > 0
        spots = np.argwhere(block >= top) if is_cut else np.zeros((0, 3), np.intp)
        where = distances(spots + start, hu.grid, near)
        if where:
            text = f"CT numbers at the top of the scale ({top:.0f} HU) lie {in_words(where)}: their density is unknown."
            handled = _hardware(structures, materials)
            text += f" Materials were assigned to {handled}." if handled else " Assign a material to metal parts."
            said.append(Finding("saturated_hu", "information" if handled else "attention", text))
        limit = min(METAL_HU, curve.last_hu)
        where = distances(np.argwhere(block > limit) + start, hu.grid, near)
        if where:
            text = (
                f"CT numbers above {limit:.0f} HU, metal or its artefacts, lie {in_words(where)}: both doses are least "
                "certain there."
            )
            said.append(Finding("hardware_near", "attention", text))
    if not couch:
        said += [Finding("couch_missing", "attention", text) for text in missing_couch(plan, structures, materials)]
    return said


def of_missing(missing: Iterable[Missing]) -> list[Finding]:
    """Matter that the calculation lacks."""
    return [Finding(one.code, "problem" if one.is_grave else "attention", one.text) for one in missing]


def _hardware(structures: StructureSet | None, materials: Sequence[Assignment]) -> str:
    """Names of what is metal by assignment or override."""
    names = [f"'{a.region}'" for a in materials]
    for structure in structures.structures if structures is not None else ():
        density = structure.relative_mass_density or structure.relative_electron_density or 0.0
        if density > METAL_DENSITY and structure.contours_cm:
            names.append(f"'{structure.name}'")
    return ", ".join(dict.fromkeys(names))


def of_prescription(prescription: Prescription, planned_median_gy: float, *, is_of_part: bool) -> list[Finding]:
    """A prescription that was estimated, is unknown, or does not fit the planned dose.

    `planned_median_gy` is what half of the hottest target receives: a prescription that fits may still be low for it,
    which makes no criterion wider. `is_of_part` says that the planned dose is that of some beams only, which need not
    add up to a prescription.
    """
    if math.isfinite(prescription.unfitting_gy):
        text = (
            f"The prescription does not fit the planned dose: {prescription.text} Is it the dose of one fraction, or "
            "of another target? State the right one."
        )
        return [Finding("prescription_unlike_planned", "attention" if is_of_part else "problem", text)]
    if prescription.source == "planned dose":
        return [Finding("prescription_estimated", "attention", prescription.text)]
    if not prescription.is_known:
        return [Finding("prescription_unknown", "attention", prescription.text)]
    if planned_median_gy > (1 + HOTTER) * prescription.dose_gy:
        text = (
            f"The prescription of {prescription.dose_gy:g} Gy is low for the planned dose: half of a target receives "
            f"{planned_median_gy:.2f} Gy. Is it the dose of one fraction, or of another target?"
        )
        return [Finding("prescription_unlike_planned", "attention", text)]
    return []


def _numbers(numbers: Iterable[int]) -> str:
    return ", ".join(str(number) for number in sorted(numbers)) or "none"
