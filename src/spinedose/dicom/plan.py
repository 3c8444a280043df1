"""Read an RTPLAN of any vendor into a `Plan`, and write a `Plan` as RTPLAN.

What the engine cannot compute is refused by name with its beam, and nothing is guessed: a wrong meterset, a jaw left
out or an angle turned the other way would give a dose that looks right.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import RTIonPlanStorage, RTPlanStorage, RTStructureSetStorage

from spinedose._arguments import listed
from spinedose.dicom._reading import Item, PathLike, expect_modality, open_dicom, quiet_pydicom, read_identity
from spinedose.dicom._writing import decimal, decimals, item, new_dataset, save_aside, unique
from spinedose.errors import InvalidInput, SpinedoseError, UnsupportedPlan
from spinedose.geometry import PATIENT_POSITIONS
from spinedose.plan import LEAF_OVERLAP_TOLERANCE_CM, Beam, Plan, PrescribedDose
from spinedose.units import MM_PER_CM

Array = NDArray[np.float64]

ANGLE_ROUNDING_DEG = 0.05
"""Angles are written with one decimal at least, so a difference up to this is rounding and no movement."""

TILT_TOLERANCE_DEG = 1e-3
"""Pitch, roll and eccentric angles below this are zero: 1e-10 is seen; 1e-3 degrees move a point at 20 cm by 4 um."""

ISOCENTRE_TOLERANCE_CM = 1e-3
"""Isocentres of one beam further apart than this are different points; rounding to 0.01 mm stays below."""

STEP_BACK_DEG = 1.0
"""A step against the stated direction up to this is the control system's or the export's, and is taken as such. Control
points of arcs lie 2 degrees and more apart, and machines hold the gantry to 0.5 to 1 degree."""

NEAR_TURN_DEG = 355.0
"""No segment of a beam with several turns the gantry further: that would be a step back against its direction."""

LARGEST_TURN_DEG = 370.0
"""More than any C-arm gantry can turn from stop to stop (Elekta: from -185 to +185 degrees, the widest)."""

TABLE_TOLERANCE_MM = 0.1
"""Positions of the table top that differ by less are rounded; tables are read and set to 0.1 mm at best."""

LARGEST_POSITION_CM = 40.0
"""Twice the half width of the largest field of any linear accelerator (40 cm x 40 cm); leaves park at 20 cm."""

LARGEST_COORDINATE_CM = 1000.0
"""No isocentre lies ten metres away from the origin of a CT."""

LARGEST_METERSET_MU = 1e5
"""Fifty times what a long stereotactic beam needs; beyond it the number is damaged."""

STANDARD_SAD_MM = 1000.0
"""Source to axis distance of the C-arm accelerators that spinedose computes."""

_PHOTON_TREATMENT = ("TREATMENT", "CONTINUATION", "")
_NO_TREATMENT = {
    "SETUP": "a setup beam",
    "OPEN_PORTFILM": "an open port film",
    "TRMT_PORTFILM": "a treatment port film",
}
_ROLE_OF_DEVICE = {
    "X": "jaw_x",
    "ASYMX": "jaw_x",
    "Y": "jaw_y",
    "ASYMY": "jaw_y",
    "MLCX": "leaf_x",
    "MLCY": "leaf_y",
}
_FLUENCE_MAPS = ("OPTIMAL", "TOTAL_ACTUAL")  # CompensatorType of Eclipse's fluence maps: no metal stands in the beam
_HARMLESS_ACCESSORIES = ("GRATICULE", "IMAGE_DETECTOR", "RETICLE")


def read_plan(
    file: PathLike,
    *,
    fraction_group: int | None = None,
    beams: Sequence[int] | None = None,
    bolus: Literal["refuse", "ignore"] = "refuse",
    patient_position: str | None = None,
) -> Plan:
    """Read an RTPLAN file.

    Parameters
    ----------
    file : path
        The RTPLAN file.
    fraction_group : int or None
        Number of the fraction group to compute; needed only when the plan has several.
    beams : sequence of int or None
        Numbers of the beams to compute; None for all that deliver dose. Beams left out are not checked, so this is how
        the photon beams of a mixed plan are computed.
    bolus : {"refuse", "ignore"}
        What to do with a beam that has a bolus, whose shape an RTPLAN does not hold: refuse it, or compute it without
        and warn.
    patient_position : str or None
        HFS, HFP, FFS or FFP, for a plan that does not say; a plan that says otherwise is overruled with a warning.

    Returns
    -------
    Plan
        With `skipped` saying which beams deliver no dose and why, and `warnings`.

    Raises
    ------
    UnreadableFile
        If the file is missing, empty, truncated, not DICOM or not an RTPLAN.
    InvalidInput
        If the plan is incomplete or contradicts itself, or an argument does not fit it.
    UnsupportedPlan
        If a beam holds something that spinedose does not compute: wedge, block, metal compensator, bolus, applicator,
        stacked MLC, particles, a tilted table.
    """
    if beams is not None:
        beams = _listed_beams(beams)
    if bolus not in ("refuse", "ignore"):
        raise InvalidInput(f"'{bolus}' is no way to treat a bolus", "", 'Use "refuse" or "ignore"')
    if patient_position is not None and patient_position not in PATIENT_POSITIONS:
        raise InvalidInput(
            f"Patient position '{patient_position}' is not known", "", f"Use one of {', '.join(PATIENT_POSITIONS)}"
        )
    dataset = open_dicom(file)
    with quiet_pydicom():
        expect_modality(dataset, file, "RTPLAN")
        try:
            return _read(Item(dataset, f"Plan '{Path(file).name}'"), fraction_group, beams, bolus, patient_position)
        except RecursionError as error:
            raise InvalidInput(f"Plan '{Path(file).name}' is damaged", "its sequences never end") from error


def _listed_beams(beams: Sequence[int]) -> list[int]:
    """Numbers of beams as a list; True and False, which Python takes for 1 and 0, are none."""
    advice = "Write [1, 2] for instance"
    numbers = listed("The beams", beams, int, "numbers", advice)
    if any(isinstance(number, bool) for number in numbers):
        raise InvalidInput("The beams are given as True or False", "a sequence of numbers is asked for", advice)
    if not numbers:
        raise InvalidInput("No beam was chosen", "the list of beams is empty", f"{advice}, or None for all beams")
    return numbers


# ---------------------------------------------------------------------------------------------------------- the plan


@dataclass(frozen=True, slots=True)
class _Group:
    """A fraction group: the meterset and planned dose of its beams, by beam number; `others` are the plan's other
    groups, by number, with the beams that have a meterset there."""

    number: int
    fractions: int
    beams: dict[int, Item]
    states_beam_dose: bool
    prescriptions: dict[int, float]
    others: dict[int, list[int]]


def _read(
    plan: Item, fraction_group: int | None, wanted: Sequence[int] | None, bolus: str, patient_position: str | None
) -> Plan:
    if plan.text("SOPClassUID", default="") == RTIonPlanStorage or plan.has("IonBeamSequence"):
        raise UnsupportedPlan(f"{plan.name} is an ion plan", "only photons are computed")
    if plan.has("ApplicationSetupSequence") and not plan.has("BeamSequence"):
        raise UnsupportedPlan(f"{plan.name} is a brachytherapy plan", "only external photon beams are computed")
    by_number = _beams_by_number(plan)
    group = _choose_group(plan, fraction_group, by_number)
    points = _dose_points(plan)

    chosen: list[Item] = []
    skipped: list[str] = []
    warnings: list[str] = []
    considered = [n for n in by_number if wanted is None or n in wanted]
    for number, beam in by_number.items():
        reason = _why_no_dose(beam, number, group, warnings)
        if wanted is not None and number not in wanted:
            reason = reason or "was not asked for"
        elif reason and wanted is not None:
            raise InvalidInput(f"{beam.name} cannot be computed", f"it {reason}", "Leave it out")
        if reason:
            skipped.append(f"{beam.name} {reason}")
        else:
            chosen.append(beam)
    missing = [str(n) for n in wanted or () if n not in by_number]
    if missing:
        known = ", ".join(map(str, by_number))
        raise InvalidInput(
            f"{plan.name} has no beam {', '.join(missing)}", f"it has beams {known}", "Choose among them"
        )
    if not chosen:
        raise InvalidInput(
            f"{plan.name} has no beam that delivers dose",
            "; ".join(skipped[:5]) + ("; ..." if len(skipped) > 5 else ""),
            "Export the plan after its dose has been computed",
        )

    computed = [_read_beam(beam, group, points, bolus, warnings) for beam in chosen]
    if plan.text("ApprovalStatus", default="") == "REJECTED":
        warnings.append("The plan is marked as rejected.")
    return Plan(
        label=plan.text("RTPlanLabel", default=""),
        beams=tuple(computed),
        patient_position=_patient_position(plan, chosen, patient_position, warnings),
        fractions=group.fractions,
        uid=plan.text("SOPInstanceUID", default=""),
        frame_of_reference_uid=plan.text("FrameOfReferenceUID", default=""),
        structure_set_uid=_structure_set_uid(plan),
        identity=read_identity(plan),
        skipped=tuple(skipped),
        warnings=unique(warnings),
        prescriptions=_prescriptions(plan, group),
        approval=plan.text("ApprovalStatus", default=""),
        intent=plan.text("PlanIntent", default=""),
        without_meterset=_without_meterset(by_number, considered, group),
        beside_group=_beside_group(by_number, considered, group),
    )


def _beams_by_number(plan: Item) -> dict[int, Item]:
    beams: dict[int, Item] = {}
    for beam in plan.items("BeamSequence", "beam"):
        number = beam.integer("BeamNumber")
        name = beam.called(f"Beam {number}").text("BeamName", default="")
        if number in beams:
            raise InvalidInput(f"{plan.name} has two beams with number {number}", "their metersets would be mixed up")
        beams[number] = beam.called(f"Beam {number} '{name}'" if name else f"Beam {number}")
    if not beams:
        raise InvalidInput(
            f"{plan.name} has no beams", "its beam sequence is absent or empty", "Export it again in full"
        )
    return beams


def _choose_group(plan: Item, wanted: int | None, beams: dict[int, Item]) -> _Group:
    groups = {
        group.integer("FractionGroupNumber"): group for group in plan.items("FractionGroupSequence", "fraction group")
    }
    if not groups:
        raise InvalidInput(f"{plan.name} has no fraction group", "it holds the meterset of each beam")
    known = ", ".join(
        f"{number} ({len(group.items('ReferencedBeamSequence'))} beams)" for number, group in groups.items()
    )
    if wanted is None and len(groups) > 1:
        raise InvalidInput(
            f"{plan.name} has several fraction groups",
            f"groups {known} have metersets and fractions of their own",
            "Choose one",
            argument="fraction_group",
        )
    if wanted is not None and wanted not in groups:
        raise InvalidInput(f"{plan.name} has no fraction group {wanted}", f"it has {known}", "Choose among them")
    number = next(iter(groups)) if wanted is None else wanted
    group = groups[number].called(f"Fraction group {number}")
    references: dict[int, Item] = {}
    for reference in group.items("ReferencedBeamSequence", "beam reference"):
        beam = reference.integer("ReferencedBeamNumber")
        if beam in references:
            raise InvalidInput(f"{group.name} refers to beam {beam} twice", "which meterset counts is not clear")
        if beam not in beams:
            raise InvalidInput(f"{group.name} refers to beam {beam}", "the plan has no such beam")
        references[beam] = reference.called(f"Beam {beam} in fraction group {number}")
    fractions = group.integer("NumberOfFractionsPlanned")
    if not 1 <= fractions <= 1000:
        raise InvalidInput(f"{group.name} has {fractions} fractions", "that is no treatment")
    is_shared = group.text("BeamDoseMeaning", default="") == "FRACTION_LEVEL"
    prescriptions = {
        reference.integer("ReferencedDoseReferenceNumber"): reference.number("TargetPrescriptionDose", default=0.0)
        for reference in group.items("ReferencedDoseReferenceSequence", "dose reference")
    }
    others = {n: _with_meterset(one) for n, one in groups.items() if n != number}
    return _Group(number, fractions, references, not is_shared, prescriptions, others)


def _with_meterset(group: Item) -> list[int]:
    """Numbers of the beams that have a meterset in a fraction group."""
    references = group.items("ReferencedBeamSequence", "beam reference")
    return [one.integer("ReferencedBeamNumber", default=0) for one in references if one.has("BeamMeterset")]


def _why_no_dose(beam: Item, number: int, group: _Group, warnings: list[str]) -> str:
    """Say why a beam delivers no dose, as the rest of a sentence that begins with the beam; empty when it does."""
    if number not in group.beams:
        return f"is not in fraction group {group.number}"
    meterset = group.beams[number]
    kind = beam.text("TreatmentDeliveryType", default="")
    if kind in _NO_TREATMENT:
        mu = meterset.number("BeamMeterset", default=0.0)
        if mu > 0:
            warnings.append(f"{beam.name} is {_NO_TREATMENT[kind]} with {mu:g} MU; its dose is left out.")
        return f"is {_NO_TREATMENT[kind]}"
    if not meterset.has("BeamMeterset"):
        return "has no meterset"
    return "has a meterset of 0 MU" if meterset.number("BeamMeterset") == 0 else ""


def _without_meterset(beams: dict[int, Item], considered: list[int], group: _Group) -> tuple[str, ...]:
    """Treatment beams of the fraction group that have no meterset, by name: their dose was not planned, or was lost.

    Not those that old versions of Eclipse write for setup fields: of type TREATMENT, but static and without leaves.
    """
    without = [n for n in considered if n in group.beams and not group.beams[n].has("BeamMeterset")]
    return tuple(beams[n].name for n in without if _looks_like_treatment(beams[n]))


def _beside_group(beams: dict[int, Item], considered: list[int], group: _Group) -> tuple[str, ...]:
    """What of the plan is not in the fraction group that is computed: other groups that deliver, beams in no group."""
    others = {number: told for number, told in group.others.items() if told}
    grouped = {*group.beams, *(n for told in group.others.values() for n in told)}
    stray = [beams[n] for n in considered if n not in grouped]
    return (
        *(f"fraction group {number} with {len(told)} beam(s)" for number, told in others.items()),
        *(f"{beam.name} in no fraction group" for beam in stray if _looks_like_treatment(beam)),
    )


def _looks_like_treatment(beam: Item) -> bool:
    """Whether a beam is one of treatment by its type and has leaves or moves, as no setup field does."""
    devices = beam.items("BeamLimitingDeviceSequence", "beam limiting device")
    has_leaves = any(one.text("RTBeamLimitingDeviceType", default="").startswith("MLC") for one in devices)
    is_treatment = beam.text("TreatmentDeliveryType", default="") in _PHOTON_TREATMENT
    return is_treatment and (has_leaves or beam.text("BeamType", default="") == "DYNAMIC")


def _patient_position(plan: Item, beams: list[Item], override: str | None, warnings: list[str]) -> str:
    setups: dict[int | None, str] = {}
    for setup in plan.items("PatientSetupSequence", "patient setup"):
        number = setup.integer("PatientSetupNumber") if setup.has("PatientSetupNumber") else None
        setups[number] = setup.text("PatientPosition", default="")
    found: dict[str, str] = {}
    for beam in beams:
        number = beam.integer("ReferencedPatientSetupNumber") if beam.has("ReferencedPatientSetupNumber") else None
        positions = [setups[number]] if number in setups else list(setups.values())
        found.update((position, beam.name) for position in positions if position)
    if override is not None:
        if found and set(found) != {override}:
            warnings.append(f"The plan says patient position {', '.join(found)}; it was overruled by {override}.")
        return override
    if not found:
        raise InvalidInput(
            f"{plan.name} does not say the patient position",
            "beams would come from the wrong side",
            "Give it",
            argument="patient_position",
        )
    if len(found) > 1:
        which = ", ".join(f"{position} ({name})" for position, name in found.items())
        raise UnsupportedPlan(
            f"{plan.name} has beams in several patient positions",
            which,
            "Compute those of one position at a time",
            argument="beams",
        )
    position = next(iter(found))
    if position not in PATIENT_POSITIONS:
        raise UnsupportedPlan(
            f"{plan.name} has patient position '{position}'", f"only {', '.join(PATIENT_POSITIONS)} are computed"
        )
    return position


def _structure_set_uid(plan: Item) -> str:
    references = plan.items("ReferencedStructureSetSequence")
    return references[0].text("ReferencedSOPInstanceUID", default="") if references else ""


def _dose_points(plan: Item) -> dict[int, Array]:
    """Coordinates [cm] of the plan's dose references that have any, by number."""
    points: dict[int, Array] = {}
    for reference in plan.items("DoseReferenceSequence", "dose reference"):
        try:
            if reference.has("DoseReferencePointCoordinates"):
                number = reference.integer("DoseReferenceNumber")
                points[number] = reference.numbers("DoseReferencePointCoordinates", count=3) / MM_PER_CM
        except InvalidInput:
            continue  # a damaged point costs a comparison, not the computation
    return points


def _prescriptions(plan: Item, group: _Group) -> tuple[PrescribedDose, ...]:
    """Doses prescribed to targets [Gy], the highest first: those of the fraction group where it names any."""
    found = []
    for reference in plan.items("DoseReferenceSequence", "dose reference"):
        try:
            number = reference.integer("DoseReferenceNumber", default=0)
            is_target = reference.text("DoseReferenceType", default="") == "TARGET"
            if not is_target or (group.prescriptions and number not in group.prescriptions):
                continue
            dose = group.prescriptions.get(number, 0.0) or reference.number("TargetPrescriptionDose", default=0.0)
            if dose > 0:
                name = reference.text("DoseReferenceDescription", default="")
                found.append(PrescribedDose(dose, name, reference.integer("ReferencedROINumber", default=0)))
        except InvalidInput:
            continue  # a damaged prescription must be given by hand; the computation does not need it
    return tuple(sorted(found, key=lambda one: -one.dose_gy))


# ---------------------------------------------------------------------------------------------------------- one beam


def _read_beam(beam: Item, group: _Group, points: dict[int, Array], bolus: str, warnings: list[str]) -> Beam:
    number = beam.integer("BeamNumber")
    control_points = [
        point.called(f"{beam.name}, control point {k}") for k, point in enumerate(beam.items("ControlPointSequence"))
    ]
    _refuse_what_is_not_computed(beam, control_points, bolus, warnings)
    _check_control_points(beam, control_points)
    meterset = group.beams[number].number("BeamMeterset")
    if not 0 < meterset <= LARGEST_METERSET_MU:
        raise InvalidInput(
            f"{beam.name} has a meterset of {meterset:g} MU",
            "a treatment beam delivers more than none",
            "Correct it, or choose other beams",
            argument="beams",
        )
    weights = _cumulative_meterset(beam, control_points, warnings)
    _refuse_a_moving_table(beam, control_points, weights)
    gantry, collimator, couch = (
        _angles(beam, control_points, weights, axis, warnings) for axis in (_GANTRY, _COLLIMATOR, _COUCH)
    )
    devices = _devices(beam, control_points)
    dose, point = _planned_dose(beam, control_points[-1], group, group.beams[number], points, warnings)
    result = Beam(
        number=number,
        name=beam.text("BeamName", default=""),
        machine=beam.text("TreatmentMachineName", default=""),
        energy=_energy(beam, control_points),
        meterset_mu=meterset,
        cumulative_meterset=weights,
        gantry_deg=gantry,
        collimator_deg=collimator,
        couch_deg=couch,
        isocentre_cm=_isocentre(beam, control_points),
        planned_point_dose_gy=dose,
        planned_point_cm=point,
        is_fluence_mode_stated=any(
            mode.has("FluenceMode") or mode.has("FluenceModeID") for mode in beam.items("PrimaryFluenceModeSequence")
        ),
        **devices,
    )
    if beam.text("BeamType", default="") == "STATIC" and _moves_while_radiating(result):
        warnings.append(
            f"{beam.name} is marked STATIC, but moves while it radiates; the movement was computed, linear in MU."
        )
    return result


def _refuse_what_is_not_computed(beam: Item, control_points: list[Item], bolus: str, warnings: list[str]) -> None:
    def refuse(
        problem: str, why: str, advice: str = "Replan without it, or choose other beams", argument: str = "beams"
    ) -> UnsupportedPlan:
        return UnsupportedPlan(f"{beam.name} {problem}", why, advice, argument)

    radiation = beam.text("RadiationType", default="")
    if radiation != "PHOTON":
        if not radiation:
            raise InvalidInput(f"{beam.name} does not say its type of radiation", "only photons are computed")
        raise refuse(f"is a beam of type {radiation}", "only photons are computed", "Choose other beams")
    kind = beam.text("TreatmentDeliveryType", default="")
    if kind not in _PHOTON_TREATMENT:
        raise refuse(f"has treatment delivery type {kind}", "what it delivers is not known", "Choose other beams")
    unit = beam.text("PrimaryDosimeterUnit", default="MU")
    if unit != "MU":
        raise refuse(f"is measured in {unit}", "only monitor units are computed", "Choose other beams")
    sad = beam.number("SourceAxisDistance", default=STANDARD_SAD_MM)
    if abs(sad - STANDARD_SAD_MM) > 0.5:
        raise refuse(f"has a source to axis distance of {sad:g} mm", "only 1000 mm is computed", "Choose other beams")

    wedges = beam.items("WedgeSequence", "wedge")
    if (wedges or beam.integer("NumberOfWedges", default=0)) and not _wedges_stay_out(control_points):
        kinds = ", ".join(
            " ".join((w.text("WedgeType", default=""), w.text("WedgeID", default=""))).strip() for w in wedges
        )
        raise refuse("has a wedge", f"{kinds or 'not described further'}: its fluence is not modelled")
    if beam.has("BlockSequence") or beam.integer("NumberOfBlocks", default=0):
        raise refuse("has a block", "only jaws and MLC are modelled")
    compensators = beam.items("CompensatorSequence", "compensator")
    is_metal = any(c.text("CompensatorType", default="") not in _FLUENCE_MAPS for c in compensators)
    if is_metal or (beam.integer("NumberOfCompensators", default=0) and not compensators):
        raise refuse("has a compensator", "the absorber in the beam is not modelled")
    if beam.has("ReferencedBolusSequence") or beam.integer("NumberOfBoli", default=0):
        if bolus == "refuse":
            raise refuse(
                "has a bolus",
                "an RTPLAN does not hold its shape",
                "Choose other beams, or compute without the bolus",
                argument='bolus="ignore"',
            )
        warnings.append(f"{beam.name} has a bolus, which was left out of the computation.")
    if beam.has("ApplicatorSequence"):
        name = beam.items("ApplicatorSequence")[0].text("ApplicatorID", default="")
        raise refuse(f"has an applicator '{name}'", "only jaws and MLC are modelled")
    for accessory in beam.items("GeneralAccessorySequence", "accessory"):
        name = accessory.text("GeneralAccessoryType", default="")
        if name not in _HARMLESS_ACCESSORIES:
            raise refuse(f"has an accessory of type '{name}'", "what it does to the beam is not known")
    for device in beam.items("BeamLimitingDeviceSequence", "beam limiting device"):
        name = device.text("RTBeamLimitingDeviceType")
        if re.fullmatch(r"MLC[XY]\d+", name):
            raise refuse(
                f"has stacked MLC layers ({name})", "only one layer of leaves is modelled", "Choose other beams"
            )
        if name not in _ROLE_OF_DEVICE:
            raise refuse(f"has a beam limiting device '{name}'", f"only {', '.join(_ROLE_OF_DEVICE)} are modelled")
    for point in control_points:
        for keyword, what in (
            ("TableTopPitchAngle", "pitches the table"),
            ("TableTopRollAngle", "rolls the table"),
            ("TableTopEccentricAngle", "turns the table top about its own axis"),
            ("GantryPitchAngle", "pitches the gantry"),
        ):
            angle = point.number(keyword, default=0.0)
            if abs(_signed(np.asarray(angle))) > TILT_TOLERANCE_DEG:
                raise refuse(f"{what} by {angle:g} degrees", "only gantry, collimator and couch angles are computed")


def _wedges_stay_out(control_points: list[Item]) -> bool:
    """Whether the plan says of its wedges that they are out of the beam, from the first control point on."""
    positions = [
        wedge.text("WedgePosition", default="")
        for point in control_points
        for wedge in point.items("WedgePositionSequence", "wedge position")
    ]
    is_told_first = bool(control_points) and control_points[0].has("WedgePositionSequence")
    return is_told_first and all(position == "OUT" for position in positions)


def _check_control_points(beam: Item, control_points: list[Item]) -> None:
    told = beam.integer("NumberOfControlPoints", default=len(control_points))
    if told != len(control_points):
        raise InvalidInput(
            f"{beam.name} has {len(control_points)} control points instead of {told}",
            "NumberOfControlPoints says so",
            "Export it again in full",
        )
    if len(control_points) < 2:
        raise InvalidInput(f"{beam.name} has {len(control_points)} control points", "a beam needs a start and an end")
    indices = [point.integer("ControlPointIndex", default=k) for k, point in enumerate(control_points)]
    if indices != list(range(indices[0], indices[0] + len(indices))):
        raise InvalidInput(f"{beam.name} has control points out of order", "their indices do not count up by one")


def _cumulative_meterset(beam: Item, control_points: list[Item], warnings: list[str]) -> Array:
    """Share of the meterset on reaching each control point, shape (n,), from 0 to 1."""
    weights = np.array([point.number("CumulativeMetersetWeight") for point in control_points])
    if weights[0] != 0 or np.any(np.diff(weights) < 0) or weights[-1] <= 0:
        raise InvalidInput(
            f"{beam.name} has cumulative meterset weights that do not rise from 0",
            "the meterset of each segment would be wrong",
            "Export the plan again",
        )
    if not beam.has("FinalCumulativeMetersetWeight"):
        warnings.append(f"{beam.name} has no final cumulative meterset weight; the last control point's was taken.")
    final = beam.number("FinalCumulativeMetersetWeight", default=float(weights[-1]))
    if abs(weights[-1] - final) > 1e-4 * abs(final):  # weights are written with five decimals or more
        raise InvalidInput(
            f"{beam.name} ends at cumulative meterset weight {weights[-1]:g} instead of {final:g}",
            "part of the beam is missing, or its final weight is wrong",
            "Export the plan again",
        )
    return np.asarray(weights / weights[-1])


@dataclass(frozen=True, slots=True)
class _Axis:
    """An axis of rotation: what it is called, its DICOM keywords, and the direction in which its angle grows."""

    name: str
    keyword: str
    direction_keyword: str
    rising: str


_GANTRY = _Axis("gantry", "GantryAngle", "GantryRotationDirection", "CW")  # seen facing the gantry
_COLLIMATOR = _Axis(
    "collimator", "BeamLimitingDeviceAngle", "BeamLimitingDeviceRotationDirection", "CC"
)  # seen from the source
_COUCH = _Axis("couch", "PatientSupportAngle", "PatientSupportRotationDirection", "CC")  # seen from above


def _angles(beam: Item, control_points: list[Item], weights: Array, axis: _Axis, warnings: list[str]) -> Array:
    """Angle at every control point [degrees], shape (n,), continuous along the declared direction of rotation.

    A rotation direction holds for the segment that begins at its control point, and until another one is given.

    References
    ----------
    DICOM PS3.3 C.8.8.14 (rotation directions), IEC 61217 (senses of the angles).
    """
    angles, directions = _told_angles(control_points, axis)
    radiates = np.diff(weights) > 0
    steps = np.array([_step(beam, axis, angles, directions[k], k, bool(radiates[k])) for k in range(len(angles) - 1)])
    if len(angles) == 2 and axis is _GANTRY and steps[0] == 0 and beam.text("BeamType", default="") != "STATIC":
        steps[0] = _full_turn(beam, control_points[1], directions[0])
    is_arc = radiates & (np.count_nonzero(radiates) == 1)  # the one segment of a beam may turn it nearly fully
    if len(angles) > 2:
        steps = _stepped_back(beam, axis, steps, is_arc, warnings)
    _refuse_wide_steps(beam, axis, steps, directions, radiates & ~is_arc)
    continuous = angles[0] % 360.0 + np.concatenate(([0.0], np.cumsum(steps)))
    continuous += _signed(angles - continuous)  # takes away the rounding of the sum
    if np.ptp(continuous) > LARGEST_TURN_DEG:
        raise InvalidInput(
            f"{beam.name} turns the {axis.name} by {np.ptp(continuous):.1f} degrees",
            "no machine can; direction and angles contradict each other",
            "Export the plan again",
        )
    return np.asarray(continuous)


def _told_angles(control_points: list[Item], axis: _Axis) -> tuple[Array, list[str]]:
    """Angle [degrees] and direction of rotation at every control point; what is not told stays as it was."""
    angles = np.empty(len(control_points))
    directions: list[str] = []
    angle, direction = control_points[0].number(axis.keyword), ""
    for k, point in enumerate(control_points):
        angle = point.number(axis.keyword, default=angle)
        direction = point.text(axis.direction_keyword, default=direction)
        if direction not in ("CW", "CC", "NONE", ""):
            raise InvalidInput(
                f"{point.name} has the {axis.name} rotation direction '{direction}'", "it is CW, CC or NONE"
            )
        if abs(angle) > 360:
            raise InvalidInput(f"{point.name} has a {axis.name} angle of {angle:g} degrees", "it lies beyond one turn")
        angles[k] = angle
        directions.append(direction)
    return angles, directions


def _step(beam: Item, axis: _Axis, angles: Array, direction: str, k: int, radiates: bool) -> float:
    """Rotation from control point `k` to the next [degrees], along the direction where one is told."""
    turn = float((angles[k + 1] - angles[k]) % 360.0)
    if direction not in ("CW", "CC"):
        shorter = float(_signed(np.asarray(turn)))
        if abs(shorter) > ANGLE_ROUNDING_DEG and radiates:
            raise InvalidInput(
                f"{beam.name} turns the {axis.name} at control point {k} without saying in which direction",
                f"from {angles[k]:g} to {angles[k + 1]:g} degrees",
                "Export the plan again",
            )
        return shorter
    return turn if direction == axis.rising or turn == 0 else turn - 360.0


def _full_turn(beam: Item, last: Item, direction: str) -> float:
    """Rotation of the gantry from a control point to the second and last one at the same angle [degrees].

    A full turn when that angle is told again, none without a direction. Not told it means that the gantry stays, which
    a direction contradicts.
    """
    if direction not in ("CW", "CC"):
        return 0.0
    if not last.has("GantryAngle"):
        raise InvalidInput(
            f"{beam.name} turns the gantry ({direction}), but does not say to which angle",
            "its second control point has no gantry angle, which means that it stays",
            "Export the plan again",
        )
    return 360.0 if direction == _GANTRY.rising else -360.0


def _stepped_back(beam: Item, axis: _Axis, steps: Array, is_arc: NDArray[np.bool_], warnings: list[str]) -> Array:
    """Steps [degrees] of a beam of several segments, with small ones against the direction taken for what they are.

    Read along the direction, a step back of 0.1 degrees would be a turn of 359.9.
    """
    back = 360.0 - np.abs(steps)
    is_back = (back < ANGLE_ROUNDING_DEG) | ((back <= STEP_BACK_DEG) & ~is_arc)
    worst = float(back[is_back].max(initial=0.0))
    if worst > ANGLE_ROUNDING_DEG:
        warnings.append(
            f"{beam.name} turns the {axis.name} back by up to {worst:.2g} degrees against the direction that it tells; "
            "these steps were computed as the angles tell them."
        )
    return np.where(is_back, _signed(steps), steps)


def _refuse_wide_steps(
    beam: Item, axis: _Axis, steps: Array, directions: list[str], is_of_many: NDArray[np.bool_]
) -> None:
    """Refuse steps that only a wrong direction explains; `is_of_many` are the radiating segments of several."""
    widest = np.where(is_of_many, NEAR_TURN_DEG, 360.0) if axis is _GANTRY else np.full(len(steps), 180.0)
    wide = np.flatnonzero(np.abs(steps) > widest)
    if len(wide):
        k = int(wide[0])
        raise InvalidInput(
            f"{beam.name} turns the {axis.name} by {abs(steps[k]):g} degrees at control point {k}",
            f"direction {directions[k]} contradicts the angles",
            "Export the plan again",
        )


def _signed(angles: Array) -> Array:
    """Angles brought between -180 and 180 degrees by whole turns."""
    return np.asarray((angles + 180.0) % 360.0 - 180.0)


def _devices(beam: Item, control_points: list[Item]) -> dict[str, Any]:
    """Jaws and leaves at every control point [cm], as keyword arguments of `Beam`.

    Control points tell only what changes. A jaw is known by its axis: ASYMX and X are the same pair of jaws, and the
    name in the control points may differ from the declared one.
    """
    boundaries: dict[str, Array] = {}
    pairs: dict[str, int] = {}
    for device in beam.items("BeamLimitingDeviceSequence", "beam limiting device"):
        name = device.text("RTBeamLimitingDeviceType")
        role, device = _ROLE_OF_DEVICE[name], device.called(f"{beam.name}, device {name}")
        if role in pairs:
            raise InvalidInput(f"{beam.name} declares two devices for one axis", f"the second is {name}")
        pairs[role] = device.integer("NumberOfLeafJawPairs", default=1)
        if role.startswith("leaf"):
            boundaries[role] = device.numbers("LeafPositionBoundaries", count=pairs[role] + 1) / MM_PER_CM
    if "leaf_x" in pairs and "leaf_y" in pairs:
        raise UnsupportedPlan(f"{beam.name} has an MLC along x and another along y", "only one MLC is modelled")

    positions: dict[str, list[Array]] = {}
    for k, point in enumerate(control_points):
        told: dict[str, Array] = {}
        for device in point.items("BeamLimitingDevicePositionSequence", "device position"):
            name = device.text("RTBeamLimitingDeviceType")
            device = device.called(f"{point.name}, device {name}")
            role = _ROLE_OF_DEVICE.get(name, "")
            if not role:
                raise UnsupportedPlan(f"{device.name} is not known", f"only {', '.join(_ROLE_OF_DEVICE)} are modelled")
            if role in told:
                raise InvalidInput(f"{point.name} has two positions for one axis", f"the second is for {name}")
            if role.startswith("leaf") and role not in boundaries:
                raise InvalidInput(f"{device.name} was not declared", "its leaf widths are not known")
            count = pairs[role] if role.startswith("leaf") else 1
            told[role] = device.numbers("LeafJawPositions", count=2 * count).reshape(2, count) / MM_PER_CM
            if np.abs(told[role]).max() > LARGEST_POSITION_CM:
                raise InvalidInput(
                    f"{device.name} stands at {10 * told[role].flat[np.abs(told[role]).argmax()]:g} mm",
                    "no machine has such a travel",
                )
        for role, position in told.items():
            if k > 0 and role not in positions:
                raise InvalidInput(f"{beam.name} tells the position of {role} only from control point {k} on")
            positions.setdefault(role, []).append(position)
        for role in positions.keys() - told.keys():
            positions[role].append(positions[role][-1])
    for role in pairs:
        if role not in positions:
            raise InvalidInput(f"{beam.name} has no position for its {role.replace('_', ' ')}", "it was declared")
    is_bounded = ("jaw_x" in positions or "leaf_x" in positions) and ("jaw_y" in positions or boundaries)
    if not (is_bounded or ("leaf_y" in positions and "jaw_x" in positions)):
        raise InvalidInput(f"{beam.name} has no jaws or leaves on one side", "its field would have no end")

    result: dict[str, Any] = {}
    for role, values in positions.items():
        closed = _close_small_overlaps(np.stack(values))  # (n, 2, pairs)
        if role.startswith("leaf"):
            result |= {"leaf_cm": closed, "leaf_boundaries_cm": boundaries[role], "leaf_axis": role[-1]}
        else:
            result[f"{role}_cm"] = closed[:, :, 0]
    return result


def _close_small_overlaps(positions: Array) -> Array:
    """Close pairs that cross by no more than `LEAF_OVERLAP_TOLERANCE_CM` in their middle; shape (n, 2, p)."""
    overlap = positions[:, 0] - positions[:, 1]
    is_small = (overlap > 0) & (overlap < LEAF_OVERLAP_TOLERANCE_CM)
    middle = 0.5 * (positions[:, 0] + positions[:, 1])
    return np.where(is_small[:, None], middle[:, None], positions)


def _isocentre(beam: Item, control_points: list[Item]) -> Array:
    """Isocentre [cm], shape (3,); the same at every control point."""
    if not control_points[0].has("IsocenterPosition"):
        raise InvalidInput(
            f"{beam.name} has no isocentre",
            "where the beam meets the patient is not known",
            "Export the plan for a patient, not for a machine",
        )
    isocentre = control_points[0].numbers("IsocenterPosition", count=3) / MM_PER_CM
    if np.abs(isocentre).max() > LARGEST_COORDINATE_CM:
        raise InvalidInput(f"{beam.name} has its isocentre at {10 * isocentre} mm", "that is beyond any CT")
    for point in control_points[1:]:
        if point.has("IsocenterPosition"):
            moved = point.numbers("IsocenterPosition", count=3) / MM_PER_CM - isocentre
            if np.abs(moved).max() > ISOCENTRE_TOLERANCE_CM:
                raise UnsupportedPlan(
                    f"{point.name} has another isocentre",
                    "the table moves during the beam",
                    "Choose other beams",
                    argument="beams",
                )
    return np.asarray(isocentre)


def _refuse_a_moving_table(beam: Item, control_points: list[Item], weights: Array) -> None:
    """Refuse a table top that is elsewhere at other times while the beam is on: its isocentre moves in the patient.

    A position holds until it is told again; before it is told first, nothing is known of it.
    """
    radiates = np.diff(weights) > 0
    is_on = np.append(radiates, False) | np.append(False, radiates)
    for way in ("Vertical", "Longitudinal", "Lateral"):
        position = np.nan
        positions = np.array(
            [position := point.number(f"TableTop{way}Position", default=position) for point in control_points]
        )
        told = positions[is_on & np.isfinite(positions)]
        if len(told) and np.ptp(told) > TABLE_TOLERANCE_MM:
            raise UnsupportedPlan(
                f"{beam.name} moves the table by {np.ptp(told):g} mm ({way.lower()}) while it radiates",
                "its isocentre would move in the patient",
                "Choose other beams",
                argument="beams",
            )


def _energy(beam: Item, control_points: list[Item]) -> str:
    """Energy label such as "6X", "10FFF"; a beam that does not state its fluence mode is taken to be flattened."""
    energies = {point.number("NominalBeamEnergy") for point in control_points if point.has("NominalBeamEnergy")}
    if not control_points[0].has("NominalBeamEnergy"):
        raise InvalidInput(f"{beam.name} has no nominal beam energy", "the beam model is chosen by it")
    if len(energies) > 1:
        raise UnsupportedPlan(f"{beam.name} changes its energy", f"from {min(energies):g} to {max(energies):g} MV")
    energy = energies.pop()
    if not 0 < energy < 100:
        raise InvalidInput(f"{beam.name} has a nominal energy of {energy:g} MV", "no accelerator has")
    is_flattened = True
    for mode in beam.items("PrimaryFluenceModeSequence", "fluence mode"):
        name, identifier = mode.text("FluenceMode", default=""), mode.text("FluenceModeID", default="")
        is_unflattened = "FFF" in identifier.upper()
        if identifier and not is_unflattened and name == "NON_STANDARD":
            raise UnsupportedPlan(
                f"{beam.name} has fluence mode '{identifier}'", "only flattened and FFF beams are modelled"
            )
        is_flattened = is_flattened and not (is_unflattened or name == "NON_STANDARD")
    return f"{energy:g}{'X' if is_flattened else 'FFF'}"


def _planned_dose(
    beam: Item, last: Item, group: _Group, reference: Item, points: dict[int, Array], warnings: list[str]
) -> tuple[float | None, Array | None]:
    """Dose of the beam at a point in one fraction as planned [Gy] and the point [cm], or None twice.

    BeamDose with its specification point where both are given. Eclipse gives BeamDose for the prescription and, at the
    last control point, each dose reference's share of it: of the references with coordinates the highest dose counts,
    because that point lies best in the beam.
    """
    if not group.states_beam_dose:
        return None, None
    try:
        dose = reference.number("BeamDose", default=0.0)
        if dose <= 0:
            return None, None  # zero is what planning systems write before or without a computed dose
        if reference.has("BeamDoseSpecificationPoint"):
            return dose, reference.numbers("BeamDoseSpecificationPoint", count=3) / MM_PER_CM
        best: tuple[float | None, Array | None] = (None, None)
        for share in last.items("ReferencedDoseReferenceSequence", "dose reference"):
            number = share.integer("ReferencedDoseReferenceNumber", default=-1)
            value = dose * share.number("CumulativeDoseReferenceCoefficient", default=0.0)
            if number in points and value > (best[0] or 0.0):
                best = (value, points[number])
        return best
    except InvalidInput as error:
        warnings.append(f"The planned dose of {beam.name} was not read: {error}")
        return None, None


def _moves_while_radiating(beam: Beam) -> bool:
    """Whether leaves, jaws or gantry move by more than rounding in a segment with meterset."""
    is_on = np.diff(beam.cumulative_meterset) > 0
    for array, tolerance in (
        (beam.leaf_cm, LEAF_OVERLAP_TOLERANCE_CM),
        (beam.jaw_x_cm, LEAF_OVERLAP_TOLERANCE_CM),
        (beam.jaw_y_cm, LEAF_OVERLAP_TOLERANCE_CM),
        (beam.gantry_deg, ANGLE_ROUNDING_DEG),
    ):
        if array is not None and np.any(np.abs(np.diff(array, axis=0))[is_on] > tolerance):
            return True
    return False


# ----------------------------------------------------------------------------------------------------------- writing


def write_plan(plan: Plan, path: PathLike) -> Path:
    """Write a plan as RTPLAN, readable by `read_plan` and other software.

    Lengths, angles and metersets come back equal to at least 12 digits, which is what a decimal string of 16 characters
    holds; gantry angles come back with the first one between 0 and 360 degrees.

    Parameters
    ----------
    plan : Plan
        The plan; its `skipped` beams and `warnings` are not written.
    path : path
        The file; overwritten when it exists, and written aside first.

    Returns
    -------
    pathlib.Path
        The file written.

    Raises
    ------
    InvalidInput
        If the plan cannot be told in DICOM, or the file cannot be written.
    """
    try:
        return save_aside(_plan_dataset(plan), path)
    except SpinedoseError:
        raise
    except (ValueError, TypeError) as error:
        raise InvalidInput(f"Plan '{plan.label}' cannot be written as DICOM", str(error)) from error


def _plan_dataset(plan: Plan) -> Dataset:
    dataset = new_dataset(
        RTPlanStorage,
        "RTPLAN",
        plan.identity,
        sop_instance_uid=plan.uid,
        series_description="plan",
        frame_of_reference_uid=plan.frame_of_reference_uid,
    )
    dataset.RTPlanLabel = plan.label
    dataset.RTPlanDate = dataset.RTPlanTime = ""
    dataset.RTPlanGeometry = "PATIENT" if plan.structure_set_uid else "TREATMENT_DEVICE"
    if plan.structure_set_uid:
        dataset.ReferencedStructureSetSequence = [
            item(ReferencedSOPClassUID=RTStructureSetStorage, ReferencedSOPInstanceUID=plan.structure_set_uid)
        ]
    if plan.prescriptions:
        dataset.DoseReferenceSequence = [
            _dose_reference(number, one) for number, one in enumerate(plan.prescriptions, 1)
        ]
    dataset.PatientSetupSequence = [item(PatientSetupNumber=1, PatientPosition=plan.patient_position)]
    dataset.FractionGroupSequence = [
        item(
            FractionGroupNumber=1,
            NumberOfFractionsPlanned=plan.fractions,
            NumberOfBeams=len(plan.beams),
            NumberOfBrachyApplicationSetups=0,
            ReferencedBeamSequence=[_beam_reference(beam) for beam in plan.beams],
        )
    ]
    dataset.BeamSequence = [_beam_item(beam) for beam in plan.beams]
    dataset.ApprovalStatus = "UNAPPROVED"
    return dataset


def _dose_reference(number: int, prescribed: PrescribedDose) -> Dataset:
    reference = item(
        DoseReferenceNumber=number,
        DoseReferenceStructureType="VOLUME" if prescribed.structure_number else "SITE",
        DoseReferenceDescription=prescribed.description,
        DoseReferenceType="TARGET",
        TargetPrescriptionDose=decimal(prescribed.dose_gy),
    )
    if prescribed.structure_number:
        reference.ReferencedROINumber = prescribed.structure_number
    return reference


def _beam_reference(beam: Beam) -> Dataset:
    reference = item(ReferencedBeamNumber=beam.number, BeamMeterset=decimal(beam.meterset_mu))
    if beam.planned_point_dose_gy is not None and beam.planned_point_cm is not None:
        reference.BeamDose = decimal(beam.planned_point_dose_gy)
        reference.BeamDoseSpecificationPoint = decimals(beam.planned_point_cm * MM_PER_CM)
    return reference


def _beam_item(beam: Beam) -> Dataset:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(X|FFF)", beam.energy)
    if not match:
        raise InvalidInput(f"Beam {beam.number} '{beam.name}' has energy '{beam.energy}'", 'it reads like "6X", "6FFF"')
    positions = _device_positions(beam)
    result = item(
        BeamNumber=beam.number,
        BeamName=beam.name,
        BeamType="DYNAMIC" if _moves_while_radiating(beam) else "STATIC",
        RadiationType="PHOTON",
        PrimaryFluenceModeSequence=[
            item(FluenceMode="STANDARD") if match[2] == "X" else item(FluenceMode="NON_STANDARD", FluenceModeID="FFF")
        ],
        TreatmentMachineName=beam.machine,
        PrimaryDosimeterUnit="MU",
        SourceAxisDistance=decimal(STANDARD_SAD_MM),
        TreatmentDeliveryType="TREATMENT",
        NumberOfWedges=0,
        NumberOfCompensators=0,
        NumberOfBoli=0,
        NumberOfBlocks=0,
        ReferencedPatientSetupNumber=1,
        FinalCumulativeMetersetWeight="1",
        NumberOfControlPoints=len(beam.cumulative_meterset),
    )
    result.BeamLimitingDeviceSequence = []
    for name, values in positions.items():
        device = item(RTBeamLimitingDeviceType=name, NumberOfLeafJawPairs=values.shape[1] // 2)
        if name.startswith("MLC") and beam.leaf_boundaries_cm is not None:
            device.LeafPositionBoundaries = decimals(beam.leaf_boundaries_cm * MM_PER_CM)
        result.BeamLimitingDeviceSequence.append(device)
    result.ControlPointSequence = [
        _control_point(beam, k, positions, match[1]) for k in range(len(beam.cumulative_meterset))
    ]
    return result


def _device_positions(beam: Beam) -> dict[str, Array]:
    """Positions of each device [mm], shape (n, 2 x pairs), by its DICOM name."""
    positions: dict[str, Array] = {}
    if beam.jaw_x_cm is not None:
        positions["ASYMX"] = beam.jaw_x_cm * MM_PER_CM
    if beam.jaw_y_cm is not None:
        positions["ASYMY"] = beam.jaw_y_cm * MM_PER_CM
    if beam.leaf_cm is not None:
        positions[f"MLC{beam.leaf_axis.upper()}"] = beam.leaf_cm.reshape(len(beam.leaf_cm), -1) * MM_PER_CM
    return positions


def _control_point(beam: Beam, k: int, positions: dict[str, Array], energy: str) -> Dataset:
    """Control point `k`: everything at the first, only what changes later; a device that moves is told in full."""
    point = item(ControlPointIndex=k)
    if k == 0:
        point.NominalBeamEnergy = energy
    changed = [name for name, values in positions.items() if k == 0 or not np.array_equal(values[k], values[k - 1])]
    if changed:
        point.BeamLimitingDevicePositionSequence = [
            item(RTBeamLimitingDeviceType=name, LeafJawPositions=decimals(positions[name][k])) for name in changed
        ]
    for angles, keyword, direction_keyword, rising in (
        (beam.gantry_deg, "GantryAngle", "GantryRotationDirection", "CW"),
        (beam.collimator_deg, "BeamLimitingDeviceAngle", "BeamLimitingDeviceRotationDirection", "CC"),
        (beam.couch_deg, "PatientSupportAngle", "PatientSupportRotationDirection", "CC"),
    ):
        if k > 0 and np.ptp(angles) == 0:
            continue
        step = angles[k + 1] - angles[k] if k + 1 < len(angles) else 0.0
        if abs(step) >= 360 and len(angles) > 2:
            raise InvalidInput(
                f"Beam {beam.number} '{beam.name}' turns fully between control points {k} and {k + 1}",
                "DICOM cannot tell that from standing still",
                "Add a control point between them",
            )
        falling = "CC" if rising == "CW" else "CW"
        setattr(point, keyword, decimal(angles[k] % 360.0))
        setattr(point, direction_keyword, "NONE" if step == 0 else rising if step > 0 else falling)
    if k == 0:
        point.TableTopEccentricAngle = "0"
        point.TableTopEccentricRotationDirection = "NONE"
        point.TableTopVerticalPosition = point.TableTopLongitudinalPosition = point.TableTopLateralPosition = None
        point.TableTopPitchAngle = point.TableTopRollAngle = 0.0
        point.TableTopPitchRotationDirection = point.TableTopRollRotationDirection = "NONE"
        point.IsocenterPosition = decimals(beam.isocentre_cm * MM_PER_CM)
    point.CumulativeMetersetWeight = decimal(beam.cumulative_meterset[k])
    return point
