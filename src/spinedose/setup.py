"""How a patient lies on the table against how the plan has it: a displacement and a turn, by which beams stay."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from spinedose._arguments import expect_number, points_of
from spinedose.errors import InvalidInput
from spinedose.geometry import rotation_about, table_from_patient

Array = NDArray[np.float64]

MOST_CM, MOST_DEG = 50.0, 180.0
"""Larger shifts and turns are taken for a mistake (house default)."""


@dataclass(frozen=True, slots=True)
class Setup:
    """Displacement of the patient from the planned position, in the axes of the IEC 61217 table system.

    A point `p` of the table system, counted from the pivot, moves to `Yaw Pitch Roll p + shift`. Beams stay, so the
    patient's own frame sees them displaced the other way. At couch angles other than 0 patient and table turn together,
    as a patient does who was set up wrongly on the table.

    Parameters
    ----------
    lateral_cm, longitudinal_cm, vertical_cm : float
        Shift along x (to the right of one who faces the gantry: the left of a patient HFS), y (towards the gantry) and
        z (up) [cm].
    pitch_deg, roll_deg, yaw_deg : float
        Turn about x, about y and about z, right-handed [degrees]. Roll is applied first, then pitch, then yaw: the
        order of IEC 61217's table top roll, table top pitch and table rotation.
    pivot_cm : tuple of 3 floats, optional
        Point (x, y, z) [cm], DICOM LPS, about which he turns; otherwise the isocentre of the plan's first beam.

    References
    ----------
    IEC 61217:2011, Radiotherapy equipment - Coordinates, movements and scales.
    """

    lateral_cm: float = 0.0
    longitudinal_cm: float = 0.0
    vertical_cm: float = 0.0
    pitch_deg: float = 0.0
    roll_deg: float = 0.0
    yaw_deg: float = 0.0
    pivot_cm: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        for item in fields(self)[:6]:
            value = getattr(self, item.name)
            unit = "cm" if item.name.endswith("_cm") else "degrees"
            expect_number(f"{item.name} of a setup", value, unit, "A shift has three numbers, each with its name")
            most = MOST_CM if item.name.endswith("_cm") else MOST_DEG
            if not abs(value) <= most:  # also when it is not a number
                raise InvalidInput(f"A setup has {item.name} = {value}", f"up to {most:g} either way can be meant")
        if self.pivot_cm is None:
            return
        point = points_of(self.pivot_cm)
        if not (point.shape == (3,) and np.all(np.isfinite(point))):
            raise InvalidInput(f"A setup turns about {self.pivot_cm}", "a point has three coordinates [cm]")

    @property
    def is_as_planned(self) -> bool:
        """Whether the patient lies where the plan has him."""
        return not any(getattr(self, item.name) for item in fields(self)[:6])

    @property
    def shift_cm(self) -> Array:
        """The shift (x, y, z) in the table system, shape (3,) [cm]."""
        return np.array([self.lateral_cm, self.longitudinal_cm, self.vertical_cm])

    @property
    def turn(self) -> Array:
        """The turn as a rotation matrix of the table system, shape (3, 3)."""
        turn: Array = (
            rotation_about("z", self.yaw_deg) @ rotation_about("x", self.pitch_deg) @ rotation_about("y", self.roll_deg)
        )
        return turn

    def isocentre_cm(self, planned_cm: Array, pivot_cm: Array, patient_position: str) -> Array:
        """Where the machine's isocentre lies in the displaced patient, in the patient's own axes.

        Parameters
        ----------
        planned_cm : ndarray, shape (3,)
            The isocentre of the plan (x, y, z) [cm], DICOM LPS.
        pivot_cm : ndarray, shape (3,)
            Point that counts where `self.pivot_cm` is not given [cm].
        patient_position : str
            HFS, HFP, FFS or FFP.

        Returns
        -------
        ndarray, shape (3,)
            [cm], DICOM LPS.
        """
        pivot = np.asarray(pivot_cm if self.pivot_cm is None else self.pivot_cm, float)
        to_table = table_from_patient(patient_position)
        from_pivot = to_table @ (np.asarray(planned_cm, float) - pivot) - self.shift_cm
        moved: Array = pivot + to_table.T @ self.turn.T @ from_pivot
        return moved
