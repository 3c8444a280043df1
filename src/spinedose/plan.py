"""A treatment plan as the engine sees it: beams made of control points, in cm, degrees and MU; no DICOM here."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from spinedose._arguments import expect_each
from spinedose.errors import InvalidInput
from spinedose.geometry import PATIENT_POSITIONS
from spinedose.identity import Identity

__all__ = ["LEAF_OVERLAP_TOLERANCE_CM", "Beam", "Identity", "Plan", "PrescribedDose"]

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Beam:
    """One treatment beam: `n` control points, between which everything moves linearly with the meterset.

    Parameters
    ----------
    number : int
        Beam number of the plan.
    name : str
        Beam name.
    machine : str
        Name of the treatment machine as the plan has it.
    energy : str
        Nominal energy with its fluence mode: `"6X"`, `"6FFF"`, `"10X"`, `"10FFF"`, ...
    meterset_mu : float
        Meterset of the whole beam for one fraction [MU], positive.
    cumulative_meterset : ndarray, shape (n,)
        Share of the meterset delivered on reaching each control point; from 0 to 1, never falling.
    gantry_deg, collimator_deg, couch_deg : ndarray, shape (n,)
        IEC 61217 angles [degrees], continuous: an arc from 181 clockwise to 179 runs from 181 to 539.
    isocentre_cm : ndarray, shape (3,)
        Isocentre (x, y, z) [cm], DICOM LPS.
    jaw_x_cm, jaw_y_cm : ndarray, shape (n, 2), or None
        Jaw positions (X1, X2), (Y1, Y2) projected to the isocentre plane [cm]; None when the machine has no such jaw.
    leaf_boundaries_cm : ndarray, shape (p + 1,), or None
        Edges of the leaf pairs across their travel, at the isocentre plane [cm], rising; None for a beam without MLC.
    leaf_cm : ndarray, shape (n, 2, p), or None
        Leaf tips of bank 1 (negative side) and bank 2 of each pair, at the isocentre plane [cm].
    leaf_axis : str
        `"x"` (MLCX: leaves move along collimator x) or `"y"` (MLCY).
    planned_point_dose_gy : float or None
        Dose of the beam in one fraction at its specification point, as the planning system states it [Gy].
    planned_point_cm : ndarray, shape (3,), or None
        That point [cm], DICOM LPS.
    is_fluence_mode_stated : bool
        Whether the plan says if the beam is flattened; where it does not, `energy` takes it to be.
    """

    number: int
    name: str
    machine: str
    energy: str
    meterset_mu: float
    cumulative_meterset: Array
    gantry_deg: Array
    collimator_deg: Array
    couch_deg: Array
    isocentre_cm: Array
    jaw_x_cm: Array | None = None
    jaw_y_cm: Array | None = None
    leaf_boundaries_cm: Array | None = None
    leaf_cm: Array | None = None
    leaf_axis: str = "x"
    planned_point_dose_gy: float | None = None
    planned_point_cm: Array | None = None
    is_fluence_mode_stated: bool = True

    def __post_init__(self) -> None:
        for name in _ARRAYS:
            value = getattr(self, name)
            if value is not None:
                array = np.array(value, dtype=np.float64)
                array.flags.writeable = False
                object.__setattr__(self, name, array)
        n = len(self.cumulative_meterset)
        self._prove(n >= 2, "has fewer than two control points", "a beam needs a start and an end")
        self._prove(np.isfinite(self.meterset_mu) and self.meterset_mu > 0, f"has a meterset of {self.meterset_mu} MU")
        for name in _ARRAYS:
            value = getattr(self, name)
            self._prove(value is None or bool(np.all(np.isfinite(value))), f"has a {name} that is not a number")
        weight = self.cumulative_meterset
        self._prove(
            weight[0] == 0 and abs(weight[-1] - 1) < 1e-9 and bool(np.all(np.diff(weight) >= 0)),
            "has cumulative meterset weights that do not rise from 0 to 1",
            "the meterset of each segment would be wrong",
        )
        for name in ("gantry_deg", "collimator_deg", "couch_deg"):
            self._prove(getattr(self, name).shape == (n,), f"has {name} for another number of control points")
        self._prove(self.isocentre_cm.shape == (3,), "has no isocentre of three numbers")
        for name in ("jaw_x_cm", "jaw_y_cm"):
            jaw = getattr(self, name)
            if jaw is not None:
                self._prove(jaw.shape == (n, 2), f"has {name} for another number of control points")
                self._prove(bool(np.all(jaw[:, 0] <= jaw[:, 1])), f"has crossed jaws ({name})", "no light passes them")
        self._prove(
            (self.leaf_cm is None) == (self.leaf_boundaries_cm is None), "has leaves without boundaries or vice versa"
        )
        self._prove(self.leaf_axis in ("x", "y"), f"has leaf axis '{self.leaf_axis}'")
        if self.leaf_cm is not None and self.leaf_boundaries_cm is not None:
            pairs = len(self.leaf_boundaries_cm) - 1
            self._prove(bool(np.all(np.diff(self.leaf_boundaries_cm) > 0)), "has leaf boundaries that do not rise")
            self._prove(self.leaf_cm.shape == (n, 2, pairs), f"has leaf positions of shape {self.leaf_cm.shape}")
            gap = self.leaf_cm[:, 1] - self.leaf_cm[:, 0]
            worst = np.unravel_index(int(np.argmin(gap)), gap.shape)
            self._prove(
                gap[worst] > -LEAF_OVERLAP_TOLERANCE_CM,
                f"has crossed leaves: pair {worst[1] + 1} at control point {worst[0]} "
                f"overlaps by {-10 * gap[worst]:.2f} mm",
                "no machine can do that",
                "Export the plan again, or correct the leaf positions",
            )

    def __repr__(self) -> str:
        turns = f"gantry {self.gantry_deg[0]:g}" + (f" to {self.gantry_deg[-1]:g}" if self.is_arc else "")
        count = len(self.cumulative_meterset)
        return (
            f"<Beam {self.number} '{self.name}': {self.machine} {self.energy}, {self.meterset_mu:.6g} MU, "
            f"{turns} degrees, {count} control points>"
        )

    def _prove(self, holds: bool | np.bool_, problem: str, why: str = "", advice: str = "") -> None:
        if not holds:
            raise InvalidInput(f"Beam {self.number} '{self.name}' {problem}", why, advice)

    @property
    def is_arc(self) -> bool:
        """Whether the gantry moves during the beam."""
        return bool(np.ptp(self.gantry_deg) > 1e-3)


LEAF_OVERLAP_TOLERANCE_CM = 0.02
"""Tips of a closed pair may be rounded past each other; more than 0.2 mm is an error (no real file at hand has any)."""

_ARRAYS = (
    "cumulative_meterset",
    "gantry_deg",
    "collimator_deg",
    "couch_deg",
    "isocentre_cm",
    "jaw_x_cm",
    "jaw_y_cm",
    "leaf_boundaries_cm",
    "leaf_cm",
    "planned_point_cm",
)


@dataclass(frozen=True, slots=True)
class PrescribedDose:
    """A dose that a plan prescribes to a target.

    Parameters
    ----------
    dose_gy : float
        For all fractions [Gy], positive.
    description : str
        What the plan calls it.
    structure_number : int
        ROI number of the target; 0 when the plan does not say.
    """

    dose_gy: float
    description: str = ""
    structure_number: int = 0

    def __post_init__(self) -> None:
        if not (np.isfinite(self.dose_gy) and self.dose_gy > 0):
            raise InvalidInput(f"A dose of {self.dose_gy} Gy is prescribed", "a prescription is positive")


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """A treatment plan.

    Parameters
    ----------
    label : str
        Plan label.
    beams : tuple of Beam
        Beams that deliver dose, in plan order.
    patient_position : str
        HFS, HFP, FFS or FFP.
    fractions : int
        Number of fractions planned in the plan's fraction group.
    uid, frame_of_reference_uid, structure_set_uid : str
        SOP Instance UID of the plan, its frame of reference, the structure set it refers to; empty when absent.
    identity : Identity
        Patient and study identifiers.
    skipped : tuple of str
        Beams left out, one sentence each with the reason (setup fields, port films).
    warnings : tuple of str
        What the reader of a result must know.
    prescriptions : tuple of PrescribedDose
        Doses that the plan prescribes to targets.
    approval, intent : str
        Whether the plan is approved (APPROVED, UNAPPROVED, REJECTED), and what it is for (CURATIVE, VERIFICATION, ...),
        as the file has them; empty when it does not say.
    without_meterset : tuple of str
        Treatment beams of the fraction group that have no meterset, so that they are not computed; without those that
        the user left out.
    beside_group : tuple of str
        What the plan holds beside the fraction group that is computed: other groups, and treatment beams in no group.
    """

    label: str
    beams: tuple[Beam, ...]
    patient_position: str = "HFS"
    fractions: int = 1
    uid: str = ""
    frame_of_reference_uid: str = ""
    structure_set_uid: str = ""
    identity: Identity = field(default_factory=Identity)
    skipped: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    prescriptions: tuple[PrescribedDose, ...] = ()
    approval: str = ""
    intent: str = ""
    without_meterset: tuple[str, ...] = ()
    beside_group: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        expect_each("The beams of a plan", self.beams, Beam, "Beam", "Put them into a tuple")
        if not self.beams:
            raise InvalidInput(f"Plan '{self.label}' has no beam that delivers dose", "there is nothing to compute")
        if self.fractions < 1:
            raise InvalidInput(f"Plan '{self.label}' has {self.fractions} fractions", "there must be at least one")
        if self.patient_position not in PATIENT_POSITIONS:
            raise InvalidInput(
                f"Plan '{self.label}' has patient position '{self.patient_position}'",
                f"supported are {', '.join(PATIENT_POSITIONS)}",
            )
        numbers = [beam.number for beam in self.beams]
        if len(set(numbers)) != len(numbers):
            raise InvalidInput(f"Plan '{self.label}' uses a beam number twice", f"numbers are {numbers}")

    def __repr__(self) -> str:
        energies = ", ".join(dict.fromkeys(beam.energy for beam in self.beams))
        return (
            f"<Plan '{self.label}': {len(self.beams)} beam(s) of {energies}, {self.total_mu:.6g} MU, "
            f"{self.fractions} fraction(s), {self.patient_position}>"
        )

    @property
    def total_mu(self) -> float:
        """Sum of all beams' metersets for one fraction [MU]."""
        return float(sum(beam.meterset_mu for beam in self.beams))
