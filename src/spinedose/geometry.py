"""The coordinate systems of IEC 61217 and how to go from one to the next.

==========  ===============================================================================================
system      axes (right-handed), origin at the isocentre
==========  ===============================================================================================
patient     DICOM LPS: x to the patient's left, y to posterior, z to superior
table (s)   turns with the couch; equals the fixed system at couch 0
fixed (f)   x to the right of a viewer who faces the gantry, y towards the gantry, z up
gantry (g)  turned by the gantry angle about +y of f; the source sits at (0, 0, +SAD)
collimator  (b) turned by the collimator angle about +z of g; X leaves and jaws move along x, Y jaws along y
==========  ===============================================================================================

References
----------
IEC 61217:2011, Radiotherapy equipment - Coordinates, movements and scales.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spinedose.errors import UnsupportedPlan

Matrix = NDArray[np.float64]

_TABLE_FROM_PATIENT = {
    "HFS": np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]], dtype=float),
    "HFP": np.array([[-1, 0, 0], [0, 0, 1], [0, 1, 0]], dtype=float),
    "FFS": np.array([[-1, 0, 0], [0, 0, -1], [0, -1, 0]], dtype=float),
    "FFP": np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]], dtype=float),
}
PATIENT_POSITIONS = tuple(_TABLE_FROM_PATIENT)


def table_from_patient(patient_position: str) -> Matrix:
    """Rotation (3, 3) that takes patient (LPS) vectors into the table system.

    HFS (head first supine): table x = patient left, y = superior, z = anterior. HFP turns that by 180 degrees about the
    table's y axis, FFS by 180 degrees about its z axis, FFP about its x axis.
    """
    try:
        return _TABLE_FROM_PATIENT[patient_position].copy()
    except KeyError:
        raise UnsupportedPlan(
            f"Patient position '{patient_position}' is not supported",
            f"only {', '.join(PATIENT_POSITIONS)} are tested",
            "Check PatientPosition in plan and CT",
        ) from None


def fixed_from_table(couch_deg: float) -> Matrix:
    """Rotation (3, 3), table to fixed: by the couch angle about +z (counterclockwise seen from above)."""
    return rotation_about("z", couch_deg)


def gantry_from_fixed(gantry_deg: float) -> Matrix:
    """Rotation (3, 3), fixed to gantry: by minus the gantry angle about +y (the gantry turns clockwise, facing it)."""
    return rotation_about("y", -gantry_deg)


def collimator_from_gantry(collimator_deg: float) -> Matrix:
    """Rotation (3, 3), gantry to collimator: by minus the collimator angle about +z (counterclockwise, source view)."""
    return rotation_about("z", -collimator_deg)


def gantry_from_patient(
    patient_position: str, couch_deg: float, gantry_deg: float, turn: Matrix | None = None
) -> Matrix:
    """Rotation (3, 3), patient to gantry system; with the isocentre subtracted, `g = R @ (p - isocentre)`.

    `turn`, shape (3, 3), is how the patient is turned on the table, in the table system (`Setup.turn`); None: not at
    all.
    """
    on_table = table_from_patient(patient_position)
    if turn is not None:
        on_table = turn @ on_table
    return gantry_from_fixed(gantry_deg) @ fixed_from_table(couch_deg) @ on_table


def beam_direction(patient_position: str, couch_deg: float, gantry_deg: float) -> NDArray[np.float64]:
    """Unit vector (3,) in patient axes along which the central ray travels (from the source to the isocentre)."""
    direction: NDArray[np.float64] = -gantry_from_patient(patient_position, couch_deg, gantry_deg)[2]
    return direction


def rotation_about(axis: str, angle_deg: float) -> Matrix:
    """Right-handed rotation (3, 3) of vectors about the axis x, y or z; exact for multiples of 90 degrees."""
    quarter, rest = divmod(angle_deg, 90.0)
    if rest == 0.0:
        c, s = ((1, 0), (0, 1), (-1, 0), (0, -1))[int(quarter) % 4]
    else:
        c, s = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
    if axis == "x":
        return np.array([[1, 0, 0], [0, c, -s], [0, s, c]], dtype=float)
    if axis == "y":
        return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]], dtype=float)
    assert axis == "z", axis
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]], dtype=float)
