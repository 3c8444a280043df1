"""A machine log in the units of this house: axes sampled while a beam was delivered, as commanded and as recorded."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from spinedose.errors import InvalidInput
from spinedose.units import MM_PER_CM

Array = NDArray[np.float64]

MOST_OVERLAP_CM = 0.2
"""Recorded tips that overlap by more than 2 mm are no measurement but a file read wrongly: banks or signs exchanged
(house default; the three real logs at hand overlap by 0.01 mm at most)."""


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Axes at `n` moments; angles IEC 61217, lengths at the isocentre plane.

    Parameters
    ----------
    gantry_deg, collimator_deg : ndarray, shape (n,)
        Angles [degrees], continuous.
    couch_turn_deg : ndarray, shape (n,), or None
        Turn of the couch from its neutral position [degrees]. In which sense it counts is left to who knows the plan
        (`spinedose.logs.deliver`), because no file at hand proves it. None when the log does not record the couch.
    jaw_x_cm, jaw_y_cm : ndarray, shape (n, 2)
        (X1, X2) and (Y1, Y2) [cm].
    leaf_cm : ndarray, shape (n, 2, p)
        Leaf tips of bank 1 (negative side) and bank 2 [cm], pairs in the order of the plan.
    """

    gantry_deg: Array
    collimator_deg: Array
    couch_turn_deg: Array | None
    jaw_x_cm: Array
    jaw_y_cm: Array
    leaf_cm: Array

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if value is not None:
                array = np.array(value, dtype=np.float64)
                array.flags.writeable = False
                object.__setattr__(self, item.name, array)
                if not bool(np.all(np.isfinite(array))):
                    raise InvalidInput(f"A log has a {item.name} that is not a number", "a position would be unknown")
        n = len(self.gantry_deg)
        for name, tail in (("gantry_deg", ()), ("collimator_deg", ()), ("jaw_x_cm", (2,)), ("jaw_y_cm", (2,))):
            assert getattr(self, name).shape == (n, *tail), name
        assert self.couch_turn_deg is None or self.couch_turn_deg.shape == (n,)
        assert self.leaf_cm.ndim == 3 and self.leaf_cm.shape[:2] == (n, 2)
        gap = self.leaf_cm[:, 1] - self.leaf_cm[:, 0]
        if gap.size and gap.min() < -MOST_OVERLAP_CM:
            raise InvalidInput(
                f"A log has leaves that overlap by {-MM_PER_CM * gap.min():.1f} mm",
                "no machine can do that: the file is damaged, or its scale is another than is known here",
                "Check the file",
            )

    def __len__(self) -> int:
        return len(self.gantry_deg)

    def followed_by(self, other: Samples) -> Samples:
        """These moments and then those."""
        joined: dict[str, Any] = {}
        for item in fields(self):
            first, second = getattr(self, item.name), getattr(other, item.name)
            joined[item.name] = None if first is None or second is None else np.concatenate([first, second])
        return Samples(**joined)


@dataclass(frozen=True, slots=True, eq=False)
class MachineLog:
    """The log of one beam, or of a part of it.

    Parameters
    ----------
    name : str
        Name of the file without its folder; logs are often named after patients, so it is shown nowhere by itself.
    kind : str
        `"trajectory"` (TrueBeam) or `"dynalog"` (Clinac).
    interval_s : float
        Time between samples [s].
    meterset : ndarray, shape (n,)
        What had been delivered at each sample, never falling: [MU] when `counts_mu`, else as a share of the beam's
        meterset, 0 to 1.
    counts_mu : bool
        Whether the log says monitor units. Dynalogs say shares only.
    recorded : Samples
        Where the axes were.
    expected : Samples or None
        Where the control system wanted them; None when the log does not say it for all axes (dynalogs).
    expected_leaf_cm : ndarray, shape (n, 2, p)
        Where it wanted the leaves, which both kinds say [cm].
    expected_mu : float
        Monitor units that the control system wanted by the end; NaN when the log does not say it.
    beam_number : int
        Number of the beam as the log has it; 0 when it does not say.
    beam_name, plan_uid, patient_id : str
        As the log has them; empty when it does not say. The patient is never shown.
    time : str
        When, from the name of the file, as digits that sort; empty when the name does not say.
    warnings : tuple of str
        What the reader of a result must know.
    """

    name: str = field(repr=False)
    kind: Literal["trajectory", "dynalog"]
    interval_s: float
    meterset: Array = field(repr=False)
    counts_mu: bool
    recorded: Samples = field(repr=False)
    expected: Samples | None = field(repr=False)
    expected_leaf_cm: Array = field(repr=False)
    expected_mu: float = np.nan
    beam_number: int = 0
    beam_name: str = ""
    plan_uid: str = ""
    patient_id: str = field(default="", repr=False)
    time: str = ""
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("meterset", "expected_leaf_cm"):
            array = np.array(getattr(self, name), dtype=np.float64)
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        n = len(self.meterset)
        self._prove(n >= 2, "has fewer than two samples", "nothing was delivered")
        self._prove(len(self.recorded) == n and self.expected_leaf_cm.shape == self.recorded.leaf_cm.shape, "is torn")
        self._prove(self.expected is None or len(self.expected) == n, "is torn")
        finite = bool(np.all(np.isfinite(self.meterset)))
        self._prove(finite and bool(np.all(np.diff(self.meterset) >= 0)), "has a meterset that falls")
        has_beam = self.meterset[0] >= 0 and self.meterset[-1] > self.meterset[0]
        self._prove(has_beam, "delivered no meterset", "it may be of an image", "Leave it out")
        self._prove(self.counts_mu or self.meterset[-1] <= 1, "has more than the whole meterset")

    def _prove(self, holds: bool | np.bool_, problem: str, why: str = "", advice: str = "") -> None:
        if not holds:
            raise InvalidInput(f"Log '{self.name}' {problem}", why, advice)

    @property
    def pairs(self) -> int:
        """Number of leaf pairs."""
        return int(self.recorded.leaf_cm.shape[2])

    @property
    def seconds(self) -> float:
        """From the first to the last sample [s]."""
        return self.interval_s * (len(self.meterset) - 1)
