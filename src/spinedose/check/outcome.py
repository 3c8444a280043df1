"""What a secondary check found: everything that a report, a quality system or a physicist needs, and its JSON.

A `Check` is made by `spinedose.check`. It holds both doses and all maps for whoever draws them; `as_dict` leaves arrays
out and is the published form (docs/formats/check.md, check.schema.json).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from spinedose.compare.dvh import Dvh
from spinedose.compare.gamma import GammaResult
from spinedose.compare.metrics import FallOff, PlanQuality, without_nan
from spinedose.criteria import GammaQuestion, Judgement
from spinedose.logs import BeamDelivery
from spinedose.plan import Identity, Plan
from spinedose.plan_checks import BeamRow, PlanFact
from spinedose.protocol import Evaluation
from spinedose.result import DISCLAIMER, Dose
from spinedose.structures import Structure, StructureSet

if TYPE_CHECKING:
    from spinedose.density import CtImage
    from spinedose.dicom.dose import PlannedDose

SCHEMA_VERSION = 1
"""Version of the JSON; it changes when a reader of the old form would be misled or would fail."""

NO_TARGET = ("no_target", "no_structures")
"""Findings that say that no target was judged."""

UNJUDGED = (*NO_TARGET, "structure_not_judged")
"""Findings that say that less was judged than the plan is about; "within" is not said without them."""

NAMES_SHOWN = 3
"""Names of structures in the line with the verdict."""

Verdict = Literal["within", "outside", "not compared"]
Severity = Literal["information", "attention", "problem"]
Role = Literal["target", "cord", "organ", "body", "support", "other"]

ANONYMOUS = "anonymous"
"""Stands for what `Check.anonymous` took out."""

SHORTEST_WORD = 4
"""Shorter parts of a patient's name are taken out between quotation marks only, where files are named."""


@dataclass(frozen=True, slots=True)
class OtherName:
    """The patient of a file that is not the plan's, or is called otherwise.

    Parameters
    ----------
    of : str
        `"plan"`, `"CT"`, `"structure set"` or `"planned dose"`.
    patient_name, patient_id : str
        As in that file.
    """

    of: str
    patient_name: str
    patient_id: str


@dataclass(frozen=True, slots=True)
class Names:
    """Whom and what a check is about: patient and objects. The only place of a `Check` with patient identifiers, beside
    the plan that its dose carries; never logged.

    Parameters
    ----------
    patient_name, patient_id : str
        As in the plan; empty when absent or anonymous.
    plan_label : str
        Label of the plan.
    plan_uid, structure_set_uid, ct_uid, frame_of_reference_uid : str
        Of plan, structure set, CT series and plan; empty when absent or anonymous.
    dose_uids : tuple of str
        Of the planned dose, or of the beams' doses that it is the sum of.
    others : tuple of OtherName
        Patients of files that do not agree with the others on whose they are.
    """

    patient_name: str = ""
    patient_id: str = ""
    plan_label: str = ""
    plan_uid: str = ""
    structure_set_uid: str = ""
    ct_uid: str = ""
    frame_of_reference_uid: str = ""
    dose_uids: tuple[str, ...] = ()
    others: tuple[OtherName, ...] = ()


@dataclass(frozen=True, slots=True)
class Prescription:
    """The prescribed dose that everything is relative to, and how it became known.

    Parameters
    ----------
    dose_gy : float
        For all fractions [Gy]; NaN when not known.
    source : str
        `"plan"`, `"argument"`, `"planned dose"` (an estimate) or `"unknown"`.
    text : str
        The same in words, ready to print.
    unfitting_gy : float
        What plan or user state, where it does not fit the planned dose and `dose_gy` stands for it [Gy]; NaN elsewhere.
    """

    dose_gy: float
    source: Literal["plan", "argument", "planned dose", "unknown"]
    text: str
    unfitting_gy: float = math.nan

    @property
    def is_known(self) -> bool:
        """Whether there is a number."""
        return self.dose_gy > 0


@dataclass(frozen=True, slots=True)
class InputFile:
    """What was read.

    Parameters
    ----------
    kind : str
        `"RTPLAN"`, `"CT"`, `"RTSTRUCT"`, `"RTDOSE"` or `"LOG"` (of a dynalog the A file).
    name : str
        Name of the file, without its folder; of a CT series the number of its slices. Empty when anonymous.
    sha256 : str
        Of the content; of a CT series over the sorted digests of its slices.
    """

    kind: Literal["RTPLAN", "CT", "RTSTRUCT", "RTDOSE", "LOG"]
    name: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about the inputs, or about the difference of the doses, that the reader must know.

    Parameters
    ----------
    code : str
        What it is, for programs: `grid_cuts_target`, `scaled`, `shifted`, ... (docs/formats/check.md lists them).
    severity : str
        `"problem"` keeps the verdict from being "within"; `"attention"` and `"information"` do not bear on it.
    text : str
        One or two sentences.
    structure : str
        Structure that it is about; empty for none.
    beam : int
        Number of the beam that it is about; 0 for none.
    """

    code: str
    severity: Severity
    text: str
    structure: str = ""
    beam: int = 0


@dataclass(frozen=True, slots=True)
class StructureGamma:
    """Gamma within one structure.

    Parameters
    ----------
    structure : str
        Its name.
    points : int
        Evaluated voxels of the planned dose in it; 0 where none was, and then the numbers are NaN.
    points_outside : int
        Voxels above the threshold that lie outside the recalculated dose.
    pass_percent, mean, maximum : float
        Share of the voxels with gamma up to 1 [%], mean and largest gamma.
    doubt : str
        Why there is no number; empty when there is one.
    """

    structure: str
    points: int
    points_outside: int
    pass_percent: float
    mean: float
    maximum: float
    doubt: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class GammaFound:
    """One gamma comparison: of the whole dose, with its map, and of every structure.

    The reference is the planned dose on its own voxels, never resampled; the recalculated dose is searched on its own.

    Parameters
    ----------
    question : GammaQuestion
        What was asked; `question.name` puts it in words.
    whole : GammaResult
        Numbers of the whole dose; `whole.gamma` is the map on the grid of the planned dose, NaN where not evaluated.
    structures : tuple of StructureGamma
        In the order of `Check.structures`.
    """

    question: GammaQuestion
    whole: GammaResult
    structures: tuple[StructureGamma, ...]


@dataclass(frozen=True, slots=True, eq=False)
class MetricPair:
    """A dose metric of one structure in both doses.

    Parameters
    ----------
    name, unit : str
        As in `spinedose.compare.metrics`: `D95%[Gy]`, `Gy`.
    planned, recalculated : float
        The numbers; NaN where there is none.
    doubt : str
        Why a number is missing or must not be trusted; empty when there is no doubt.
    """

    name: str
    unit: str
    planned: float
    recalculated: float
    doubt: str = ""

    @property
    def difference(self) -> float:
        """Recalculated less planned, in the unit; NaN where a number is missing."""
        return self.recalculated - self.planned

    @property
    def difference_percent(self) -> float:
        """The same in percent of the planned number; NaN where that is 0 or missing."""
        return 100 * self.difference / self.planned if self.planned > 0 else math.nan

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON: a missing number is null."""
        more = {"difference": self.difference, "difference_percent": self.difference_percent}
        return without_nan(asdict(self) | more)


@dataclass(frozen=True, slots=True, eq=False)
class Eqd2Found:
    """Doses of one structure in fractions of 2 Gy with the same effect, by the linear-quadratic model.

    Every sample of a histogram is converted, with the fractions of the plan; a mean is that of the converted samples.
    The model is doubted above about 10 Gy a fraction.

    Parameters
    ----------
    alpha_beta_gy : float
        Ratio of the linear and the quadratic coefficient [Gy].
    source : str
        Whence it is, and whether it was verified.
    metrics : tuple of MetricPair
        As those of dose, in Gy of EQD2.
    """

    alpha_beta_gy: float
    source: str
    metrics: tuple[MetricPair, ...]

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        metrics = [pair.as_dict() for pair in self.metrics]
        return {"alpha_beta_gy": self.alpha_beta_gy, "source": self.source, "metrics": metrics}


@dataclass(frozen=True, slots=True, eq=False)
class StructureFound:
    """One structure: what it is, its histograms and its numbers.

    Parameters
    ----------
    name, type : str
        As drawn.
    role : str
        `"target"`, `"cord"` (cord, cauda, canal, and margins around them), `"organ"`, `"body"`, `"support"` or
        `"other"`. Only the first three have histograms and metrics.
    color : tuple of 3 ints
        Display colour, 0-255.
    volume_cm3 : float
        [cm^3]; NaN for an empty structure.
    planned, recalculated : Dvh or None
        Histograms; None without a planned dose, for other roles, and where a structure has none (`doubt` says why).
    metrics : tuple of MetricPair
        Mean, near-maximum and so on; planned numbers are NaN without a planned dose.
    doubt : str
        Why its numbers are missing or must not be trusted (empty, outside a dose grid, too small for it).
    eqd2 : Eqd2Found or None
        Doses in fractions of 2 Gy; None where there is no histogram, or the protocol has no alpha/beta for the role.
    """

    name: str
    type: str
    role: Role
    color: tuple[int, int, int]
    volume_cm3: float
    planned: Dvh | None
    recalculated: Dvh | None
    metrics: tuple[MetricPair, ...]
    doubt: str = ""
    eqd2: Eqd2Found | None = None

    def metric(self, name: str) -> MetricPair | None:
        """The pair of this name (`"D95%[Gy]"`), None when it was not measured."""
        return next((pair for pair in self.metrics if pair.name == name), None)

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON, histograms thinned to 200 doses."""
        return without_nan(
            {
                "name": self.name,
                "type": self.type,
                "role": self.role,
                "volume_cm3": self.volume_cm3,
                "doubt": self.doubt,
                "metrics": [pair.as_dict() for pair in self.metrics],
                "eqd2": None if self.eqd2 is None else self.eqd2.as_dict(),
                "dvh_planned": None if self.planned is None else self.planned.as_dict(),
                "dvh_recalculated": None if self.recalculated is None else self.recalculated.as_dict(),
            }
        )


@dataclass(frozen=True, slots=True)
class BeamFound:
    """One beam: its line in the table, and its dose at the point for which the plan states one.

    Parameters
    ----------
    row : BeamRow
        Meterset, angles, apertures; `row.planned_point_dose_gy` is the planned dose of one fraction, NaN for none.
    point_cm : tuple of 3 floats or None
        The point (x, y, z) [cm], DICOM LPS.
    recalculated_point_dose_gy : float
        Dose of this beam in one fraction there [Gy]; NaN without a point, or when beams were not computed apart.
    machine : str
        Beam model that was used, `machine/energy`.
    doubt : str
        Why the number is missing or must not be trusted.
    """

    row: BeamRow
    point_cm: tuple[float, float, float] | None
    recalculated_point_dose_gy: float
    machine: str
    doubt: str = ""

    @property
    def difference_percent(self) -> float:
        """Recalculated less planned dose at the point [% of planned]; NaN where one is missing."""
        planned = self.row.planned_point_dose_gy
        return 100 * (self.recalculated_point_dose_gy - planned) / planned if planned > 0 else math.nan

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return without_nan(
            self.row.as_dict()
            | {
                "point_cm": self.point_cm,
                "recalculated_point_dose_gy": self.recalculated_point_dose_gy,
                "difference_percent": self.difference_percent,
                "beam_model": self.machine,
                "doubt": self.doubt,
            }
        )


@dataclass(frozen=True, slots=True, eq=False)
class TargetQuality:
    """How both doses follow one target.

    Parameters
    ----------
    target : str
        Its name.
    planned, recalculated : PlanQuality or None
        Conformity and gradient; None without a planned dose or a prescription.
    planned_fall_off, recalculated_fall_off : FallOff or None
        From 90 to 50 % of the prescription, in axial planes, near the cord when there is one.
    """

    target: str
    planned: PlanQuality | None
    recalculated: PlanQuality | None
    planned_fall_off: FallOff | None = None
    recalculated_fall_off: FallOff | None = None

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        parts = ("planned", "recalculated", "planned_fall_off", "recalculated_fall_off")
        found = {name: getattr(self, name) for name in parts}
        return {"target": self.target} | {k: None if v is None else v.as_dict() for k, v in found.items()}


@dataclass(frozen=True, slots=True, eq=False)
class Delivered:
    """What machine logs recorded, where a check is of the delivered plan.

    Parameters
    ----------
    compared_with : str
        `"planned dose"`, `"the plan, recalculated"` or `"nothing"`.
    recorded_fractions, planned_fractions : int
        Fractions with logs, whose mean stands for all, and those of the plan.
    beams : tuple of BeamDelivery
        Every beam of every recorded fraction: how its axes and meterset differ from the plan.
    per_fraction : tuple of Plan
        Every recorded fraction as a plan of one fraction; not in the JSON.
    """

    compared_with: Literal["planned dose", "the plan, recalculated", "nothing"]
    recorded_fractions: int
    planned_fractions: int
    beams: tuple[BeamDelivery, ...]
    per_fraction: tuple[Plan, ...]

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return without_nan(
            {
                "compared_with": self.compared_with,
                "recorded_fractions": self.recorded_fractions,
                "planned_fractions": self.planned_fractions,
                "beams": [row.as_dict() for row in self.beams],
            }
        )


@dataclass(frozen=True, slots=True, eq=False)
class Check:
    """A recalculated dose held against the planned one.

    Parameters
    ----------
    verdict : str
        `"within"`: all criteria were judged and are met, and no finding is a problem; `"outside"`: not so;
        `"not compared"`: nothing could be judged, or there is no planned dose and all points of beams that the plan
        states doses for are within their limits.
    reasons : tuple of str
        Why, in sentences, the worst first; never empty.
    names : Names
        Patient and objects.
    created : str
        Time of the check, ISO 8601 with its zone.
    dose : Dose
        The recalculated dose of all fractions, on the calculation grid (with a fine box: on its voxels everywhere).
        `dose.plan`, `dose.ct` and `dose.metadata` (version, device, settings, warnings, timings) hang on it.
    planned : PlannedDose or None
        The planned dose of all fractions on its own voxels; None when there is none.
    structures : StructureSet or None
        As drawn, with all contours.
    prescription : Prescription
        What it is relative to.
    found : tuple of StructureFound
        Every structure: targets, cords, organs, then the rest.
    gammas : tuple of GammaFound
        One for each that the criteria ask for; empty without a planned dose.
    quality : tuple of TargetQuality
        One a target; empty without a prescription.
    beams : tuple of BeamFound
        In plan order.
    facts : tuple of PlanFact
        What the plan says without a dose (apertures, leaf travel, meterset).
    evaluation : Evaluation or None
        Limits of the protocol side by side; None without structures.
    judgement : Judgement or None
        Criteria held against the numbers; without a planned dose those of points of beams only, and None where the
        plan states none.
    findings : tuple of Finding
        About inputs, planned dose and the kind of difference, the gravest first.
    assumptions : tuple of str
        What was taken for granted, in sentences.
    warnings : tuple of str
        Of the readers and of the calculation, in sentences.
    inputs : tuple of InputFile
        Files and their hashes; empty for objects that were handed over.
    versions : mapping of str to str
        Of spinedose, Python and the libraries.
    timings_s : mapping of str to float
        Wall time of the parts of the check [s]; those of the calculation are in `dose.metadata`.
    criteria, protocol : str
        Names of both.
    delivered : Delivered or None
        What machine logs recorded, when the check is of the delivered plan.
    disclaimer : str
        To be printed on every report.
    """

    verdict: Verdict
    reasons: tuple[str, ...]
    names: Names
    created: str
    dose: Dose
    planned: PlannedDose | None
    structures: StructureSet | None
    prescription: Prescription
    found: tuple[StructureFound, ...]
    gammas: tuple[GammaFound, ...]
    quality: tuple[TargetQuality, ...]
    beams: tuple[BeamFound, ...]
    facts: tuple[PlanFact, ...]
    evaluation: Evaluation | None
    judgement: Judgement | None
    findings: tuple[Finding, ...]
    assumptions: tuple[str, ...]
    warnings: tuple[str, ...]
    inputs: tuple[InputFile, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    timings_s: Mapping[str, float] = field(default_factory=dict)
    criteria: str = ""
    protocol: str = ""
    schema_version: int = SCHEMA_VERSION
    disclaimer: str = DISCLAIMER
    delivered: Delivered | None = None

    def __repr__(self) -> str:
        return f"<Check of '{self.names.plan_label}': {self.verdict}; {self.reasons[0]}>"

    def __post_init__(self) -> None:
        assert self.verdict in ("within", "outside", "not compared") and self.reasons
        assert self.planned is None or self.judgement is not None, "a planned dose is judged"

    @property
    def unjudged(self) -> str:
        """Targets and cords of which nothing was judged, to end a sentence with; empty where there are none."""
        said = ["no target was judged"] if any(one.code in NO_TARGET for one in self.findings) else []
        names = [f"'{one.structure}'" for one in self.findings if one.code == "structure_not_judged"]
        shown = ", ".join(names[:NAMES_SHOWN]) + (f" and {len(names) - NAMES_SHOWN} more" * (len(names) > NAMES_SHOWN))
        return " and ".join([*said, f"nothing was judged of {shown}"] if names else said)

    @property
    def plan(self) -> Plan:
        """The plan that was computed."""
        assert self.dose.plan is not None
        return self.dose.plan

    @property
    def ct(self) -> CtImage:
        """The CT that it was computed on."""
        assert self.dose.ct is not None
        return self.dose.ct

    @property
    def is_within(self) -> bool:
        """Whether the verdict is "within"."""
        return self.verdict == "within"

    def structure(self, name: str) -> Structure | None:
        """The structure of this name, of several the first that has contours; None when there is none."""
        names = [one.name for one in self.structures.structures] if self.structures is not None else []
        return self.structures[name] if self.structures is not None and name in names else None

    def of_role(self, *roles: Role) -> tuple[StructureFound, ...]:
        """Structures of these roles: `check.of_role("target", "cord")`."""
        return tuple(found for found in self.found if found.role in roles)

    def anonymous(self) -> Check:
        """The same without patient identifiers, UIDs and file names; labels of plan and structures stay."""
        return _anonymous(self)

    def as_dict(self) -> dict[str, Any]:
        """The published form, plain types only; arrays are left out and a missing number is null."""
        grids = {"recalculated": self.dose.grid, "planned": None if self.planned is None else self.planned.grid}
        content: dict[str, Any] = {
            "schema_version": self.schema_version,
            "verdict": self.verdict,
            "reasons": self.reasons,
            "disclaimer": self.disclaimer,
            "created": self.created,
            "names": asdict(self.names),
            "fractions": self.plan.fractions,
            "prescription": asdict(self.prescription),
            "criteria": self.criteria,
            "protocol": self.protocol,
            "judgement": None if self.judgement is None else self.judgement.as_dict(),
            "evaluation": None if self.evaluation is None else self.evaluation.as_dict(),
            "gammas": [_gamma_dict(found) for found in self.gammas],
            "structures": [found.as_dict() for found in self.found],
            "quality": [found.as_dict() for found in self.quality],
            "beams": [found.as_dict() for found in self.beams],
            "facts": [fact.as_dict() for fact in self.facts],
            "delivered": None if self.delivered is None else self.delivered.as_dict(),
            "findings": [asdict(finding) for finding in self.findings],
            "assumptions": self.assumptions,
            "warnings": self.warnings,
            "maximum_gy": {
                "recalculated": float(self.dose.values.max()),
                "planned": None if self.planned is None else float(self.planned.dose.values.max()),
            },
            "grids": {name: None if grid is None else asdict(grid) for name, grid in grids.items()},
            "calculation": self.dose.metadata.as_dict(),
            "inputs": [asdict(item) for item in self.inputs],
            "versions": dict(self.versions),
            "timings_s": dict(self.timings_s),
        }
        plain: dict[str, Any] = json.loads(json.dumps(without_nan(content)))
        return plain

    def to_json(self) -> str:
        """`as_dict` as text."""
        return json.dumps(self.as_dict(), indent=2, ensure_ascii=False)


def _gamma_dict(found: GammaFound) -> dict[str, Any]:
    return {
        "name": found.question.name,
        **found.whole.as_dict(),
        "structures": [without_nan(asdict(part)) for part in found.structures],
    }


def _anonymous(check: Check) -> Check:
    """Leave out who it is, in every place that has it."""
    names = Names(plan_label=check.names.plan_label)
    nobody = Identity()
    plan = replace(check.plan, identity=nobody, uid="", structure_set_uid="", frame_of_reference_uid="")
    warnings = _cleared(check, check.ct.warnings)
    ct = replace(check.ct, uid="", frame_of_reference_uid="", warnings=warnings, identity=nobody)
    plan = replace(plan, warnings=_cleared(check, plan.warnings), skipped=_cleared(check, plan.skipped))
    metadata = replace(check.dose.metadata, warnings=_cleared(check, check.dose.metadata.warnings))
    planned, structures = check.planned, check.structures
    if planned is not None:
        blank = dict.fromkeys(("uid", "plan_uid", "structure_set_uid", "frame_of_reference_uid"), "")
        warnings = _cleared(check, planned.warnings)
        planned = replace(planned, warnings=warnings, description="", system="", identity=nobody, **blank)  # type: ignore[arg-type]
    if structures is not None:
        warnings = _cleared(check, structures.warnings)
        structures = replace(structures, uid="", frame_of_reference_uid="", warnings=warnings, identity=nobody)
    return replace(
        check,
        names=names,
        reasons=_cleared(check, check.reasons),
        dose=replace(check.dose, plan=plan, ct=ct, metadata=metadata, structures=structures),
        planned=planned,
        structures=structures,
        findings=tuple(replace(f, text=_cleared(check, (f.text,))[0]) for f in check.findings),
        assumptions=_cleared(check, check.assumptions),
        warnings=_cleared(check, check.warnings),
        inputs=tuple(replace(item, name="") for item in check.inputs),
        delivered=None if check.delivered is None else _anonymous_delivery(check.delivered),
    )


def _anonymous_delivery(delivered: Delivered) -> Delivered:
    """Without names of log files, which often hold the patient's, and without whose plan it is."""
    blank = {"identity": Identity(), "uid": "", "structure_set_uid": "", "frame_of_reference_uid": ""}
    return replace(
        delivered,
        beams=tuple(replace(row, sources=()) for row in delivered.beams),
        per_fraction=tuple(replace(plan, warnings=(), skipped=(), **blank) for plan in delivered.per_fraction),  # type: ignore[arg-type]
    )


def _cleared(check: Check, texts: tuple[str, ...]) -> tuple[str, ...]:
    """Sentences without file names, UIDs and words of the patient's name.

    Identifiers are written into no sentence; but files may be named after the patient, and readers name files.
    """
    names = check.names
    uids = (names.plan_uid, names.structure_set_uid, names.ct_uid, names.frame_of_reference_uid, *names.dose_uids)
    kept = " ".join((names.plan_label, *(found.name for found in check.found))).casefold()
    people = [(names.patient_name, names.patient_id), *((o.patient_name, o.patient_id) for o in names.others)]
    words = [
        word
        for word in dict.fromkeys(re.split(r"[^\w]+", " ".join(f"{name} {number}" for name, number in people)))
        if len(word) > 1 and word.casefold() not in kept  # labels stay, and so does what they say
    ]
    whole = [*(item.name for item in check.inputs if item.kind != "CT"), *filter(None, uids)]

    def cleared(text: str) -> str:
        for secret in sorted(whole, key=len, reverse=True):
            text = text.replace(secret, ANONYMOUS)
        for word in words:
            bounded = rf"(?<![^\W_]){re.escape(word)}(?![^\W_])"
            if len(word) >= SHORTEST_WORD:
                text = re.sub(bounded, ANONYMOUS, text, flags=re.IGNORECASE)
            else:
                parts = re.split(r"('[^']*')", text)
                parts[1::2] = [re.sub(bounded, ANONYMOUS, part, flags=re.IGNORECASE) for part in parts[1::2]]
                text = "".join(parts)
        return text

    return tuple(map(cleared, texts))
