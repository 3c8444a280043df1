"""A check made by hand, small and without any computation, of a patient whose name can be searched for."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from spinedose.check import (
    BeamFound,
    Check,
    Eqd2Found,
    Finding,
    GammaFound,
    InputFile,
    MetricPair,
    Names,
    Prescription,
    StructureFound,
    StructureGamma,
    TargetQuality,
)
from spinedose.compare.dvh import Dvh
from spinedose.compare.gamma import GammaResult
from spinedose.compare.metrics import PlanQuality
from spinedose.criteria import GammaQuestion, Judged, Judgement
from spinedose.density import CtImage
from spinedose.dicom.dose import PlannedDose
from spinedose.grid import Grid, Volume
from spinedose.plan import Beam, Identity, Plan
from spinedose.plan_checks import beam_table, plan_facts
from spinedose.protocol import Evaluation, Match, ProtocolLine
from spinedose.result import Dose, ResultInfo
from spinedose.structures import Structure, StructureSet

PATIENT, PATIENT_ID, UID = "Quixote^Dulcinea", "PAT-8151623", "1.2.840.99999.42"
RX = 24.0
CT_GRID = Grid((-11.8, -7.8, -3.8), (0.4, 0.4, 0.4), (20, 40, 60))
DOSE_GRID = Grid((-5.0, -5.0, -3.0), (0.25, 0.25, 0.25), (25, 41, 41))


def _radius(grid: Grid, x0: float = 0.0, y0: float = 0.0) -> Any:
    x, y, z = grid.axes_cm
    return np.hypot(x - x0, y[:, None] - y0)[None] + 0 * z[:, None, None]


def _rings(radius: float, x0: float, y0: float, top: float) -> tuple[Any, ...]:
    angle = 2 * np.pi * np.arange(48) / 48
    ring = np.column_stack([x0 + radius * np.cos(angle), y0 + radius * np.sin(angle), np.zeros(48)])
    return tuple(ring + np.array([0.0, 0.0, z]) for z in np.arange(-top, top + 0.1, 0.4))


def _dose(shift_cm: float = 0.0) -> Any:
    """A blob of 26 Gy around the axis, from -1.5 to 1.5 cm."""
    across = 1 / (1 + np.exp((_radius(DOSE_GRID, shift_cm) - 2.0) / 0.15))
    along = 1 / (1 + np.exp((np.abs(DOSE_GRID.axes_cm[2]) - 1.5) / 0.15))
    return (26.0 * across * along[:, None, None]).astype(np.float32)


def _dvh(name: str, high: float, volume: float) -> Dvh:
    return Dvh(name, np.linspace(high, 0.2 * high, 200), np.linspace(volume / 200, volume, 200), volume)


def _beam() -> Beam:
    return Beam(
        number=1, name="field", machine="TrueBeam", energy="6X", meterset_mu=100.0,
        cumulative_meterset=np.array([0.0, 1.0]), gantry_deg=np.zeros(2), collimator_deg=np.zeros(2),
        couch_deg=np.zeros(2), isocentre_cm=np.zeros(3), jaw_x_cm=np.tile([-5.0, 5.0], (2, 1)),
        jaw_y_cm=np.tile([-5.0, 5.0], (2, 1)), planned_point_dose_gy=2.0,
    )  # fmt: skip


def made_check(**changes: Any) -> Check:
    """A check with everything in it; changes replace any field."""
    planned, recalculated = Volume(DOSE_GRID, _dose()), Volume(DOSE_GRID, _dose(0.1))
    structures = StructureSet(
        (
            Structure(1, "BODY", "EXTERNAL", _rings(7.0, 0.0, 0.0, 3.6)),
            Structure(2, 'PTV <1> & "more"', "PTV", _rings(1.8, 0.0, 0.0, 1.2)),
            Structure(3, "SpinalCord", "ORGAN", _rings(0.5, 0.0, 2.5, 3.2)),
            Structure(4, "Oesophagus", "ORGAN", _rings(0.8, 0.0, -2.8, 3.2)),
            Structure(5, "empty", "ORGAN"),
        ),
        uid=f"{UID}.3",
    )
    hu = np.where(_radius(CT_GRID) < 7.0, 40, -1000)
    hu = np.where(_radius(CT_GRID) < 1.5, 600, hu).astype(np.int16)
    identity = Identity(patient_name=PATIENT, patient_id=PATIENT_ID, study_instance_uid=f"{UID}.9")
    plan = Plan("made by hand", (_beam(),), fractions=2, uid=f"{UID}.1", identity=identity)
    gamma = np.where(planned.values > 2.4, np.abs(recalculated.values - planned.values) / 2, np.nan)
    question = GammaQuestion(3.0, 0.2)
    result = GammaResult(
        question.criteria(RX),
        Volume(DOSE_GRID, np.minimum(gamma, 2.0).astype(np.float32)),
        Volume(DOSE_GRID, np.zeros(DOSE_GRID.shape, dtype=bool)),
    )
    found = tuple(_found(structure, role, high) for structure, role, high in zip(
        structures.structures, ("body", "target", "cord", "organ", "organ"), (0, 26, 14, 9, 0), strict=True
    ))  # fmt: skip
    found = tuple(sorted(found, key=lambda one: ("target", "cord", "organ", "body").index(one.role)))
    parts = tuple(StructureGamma(one.name, 100, 0, 98.0, 0.4, 1.3) for one in found)
    target = found[0].name
    source = "somebody, 2020"
    judged = (
        Judged("target_mean", "mean dose of the target", target, "Mean[Gy]", "%", 25.0, 25.2, 0.8, 2.0, math.nan,
               "within", source, "percent of planned", "", 25.0),
        Judged("cord", "near-maximum of the cord", "SpinalCord", "D0.03cc[Gy]", "%", 14.0, 12.8, -5.0, 3.0, math.nan,
               "outside", "house default", "percent of prescription", "", RX),
        Judged("gamma", "gamma of the whole dose", "plan", question.name, "%", math.nan, 97.0, 97.0, 95.0, 90.0,
               "within", source, "at least"),
        Judged("crossed", "a limit: near-maximum", "SpinalCord", "D0.03cc[Gy]", "Gy", 14.0, 12.8, -1.2, 17.0,
               math.nan, "within", f"house default; limit: {source}", "crosses limit"),
    )  # fmt: skip
    line = ProtocolLine("SpinalCord", "SpinalCord", "D0.03cc[Gy]", "Gy", "near-maximum", "at most", 17.0, 14.0, 12.8,
                        "", source)  # fmt: skip
    quality = PlanQuality(target, RX, 30.0, 32.0, 90.0, 28.0, 93.3, 0.82, 1.07, 2.8, 3.0, 0.6, 0.1)
    info = ResultInfo("0.0.test", "cpu", "a device", machines=("machine/6X",), beam_data_hash="f" * 64,
                      settings={"spacing_cm": 0.25})  # fmt: skip
    values: dict[str, Any] = {
        "verdict": "outside",
        "reasons": ("near-maximum of the cord: -5.0 % of the prescription (limit 3 %)",),
        "names": Names(
            PATIENT, PATIENT_ID, plan.label, plan.uid, structures.uid, f"{UID}.2", f"{UID}.4", (f"{UID}.5",)
        ),
        "created": "2026-01-02T03:04:05+00:00",
        "dose": Dose(recalculated, info, plan, CtImage(Volume(CT_GRID, hu), uid=f"{UID}.2")),
        "planned": PlannedDose(planned, uid=f"{UID}.5", description=PATIENT, system="A planning system"),
        "structures": structures,
        "prescription": Prescription(RX, "argument", "24 Gy, as given"),
        "found": found,
        "gammas": (GammaFound(question, result, parts),),
        "quality": (TargetQuality(target, quality, replace(quality, coverage_percent=92.0)),),
        "beams": tuple(BeamFound(row, (0.0, 0.0, 0.0), 2.02, "machine/6X") for row in beam_table(plan)),
        "facts": plan_facts(plan, prescription_gy=RX),
        "evaluation": Evaluation(
            "a protocol", 2, (line,), (Match("SpinalCord", ("SpinalCord",), ()),), (), ("a remark",)
        ),
        "judgement": Judgement("house rules", judged, ("point_dose",)),
        "findings": (Finding("couch_missing", "attention", f"{PATIENT.partition('^')[0]}.dcm has no couch"),),
        "assumptions": ("the prescription was given",),
        "warnings": ("a generic density curve",),
        "inputs": (InputFile("RTPLAN", "Quixote.dcm", "a" * 64),),
        "versions": {"spinedose": "0.0.test", "numpy": "2"},
        "timings_s": {"dose": 1.5},
    }
    return Check(**(values | changes))


def without_planned_dose() -> Check:
    """The same without a planned dose."""
    check = made_check()
    found = tuple(replace(one, planned=None) for one in check.found)
    return replace(
        check, verdict="not compared", reasons=("there is no planned dose",), planned=None, judgement=None, gammas=(),
        found=found, quality=(),
    )  # fmt: skip


def _found(structure: Structure, role: Any, high: float) -> StructureFound:
    volume = 30.0 if structure.contours_cm else math.nan
    has = high > 0
    curves = [_dvh(structure.name, scale * high, volume) if has else None for scale in (1.0, 0.97)]
    pairs = (MetricPair("Mean[Gy]", "Gy", 0.6 * high, 0.58 * high),) if has else ()
    doubt = "" if structure.contours_cm else "it has no contours"
    eqd2 = Eqd2Found(2.0, "somebody, 2020", (MetricPair("D0.03cc[Gy]", "Gy", 44.0, 42.0),)) if role == "cord" else None
    return StructureFound(structure.name, structure.type, role, structure.color, volume, *curves, pairs, doubt, eqd2)
