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

A function of angles takes one of them or arrays of any shape; it returns a matrix (3, 3) for each, shape (..., 3, 3).

References
----------
IEC 61217:2011, Radiotherapy equipment - Coordinates, movements and scales.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

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


def fixed_from_table(couch_deg: ArrayLike) -> Matrix:
    """Rotations, table to fixed: by the couch angle about +z (counterclockwise seen from above)."""
    return rotation_about("z", couch_deg)


def gantry_from_fixed(gantry_deg: ArrayLike) -> Matrix:
    """Rotations, fixed to gantry: by minus the gantry angle about +y (the gantry turns clockwise, facing it)."""
    return rotation_about("y", -np.asarray(gantry_deg, dtype=np.float64))


def collimator_from_gantry(collimator_deg: ArrayLike) -> Matrix:
    """Rotations, gantry to collimator: by minus the collimator angle about +z (counterclockwise, source view)."""
    return rotation_about("z", -np.asarray(collimator_deg, dtype=np.float64))


def gantry_from_patient(
    patient_position: str, couch_deg: ArrayLike, gantry_deg: ArrayLike, turn: Matrix | None = None
) -> Matrix:
    """Rotations, patient to gantry system; with the isocentre subtracted, `g = R @ (p - isocentre)`.

    `turn`, shape (3, 3), is how the patient is turned on the table, in the table system (`Setup.turn`); None: not at
    all.
    """
    on_table = table_from_patient(patient_position)
    if turn is not None:
        on_table = turn @ on_table
    rotation: Matrix = gantry_from_fixed(gantry_deg) @ fixed_from_table(couch_deg) @ on_table
    return rotation


def beam_direction(patient_position: str, couch_deg: float, gantry_deg: float) -> NDArray[np.float64]:
    """Unit vector (3,) in patient axes along which the central ray travels (from the source to the isocentre)."""
    direction: NDArray[np.float64] = -gantry_from_patient(patient_position, couch_deg, gantry_deg)[2]
    return direction


_FIRST_AND_SECOND = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}
"""The other two axes, in the order in which a right-handed rotation takes one into the next."""


def rotation_about(axis: str, angle_deg: ArrayLike) -> Matrix:
    """Right-handed rotations of vectors about the axis x, y or z; exact for multiples of 90 degrees.

    Parameters
    ----------
    axis : str
        The axis.
    angle_deg : array_like
        Angles of any shape [degrees].

    Returns
    -------
    ndarray, shape of the angles and (3, 3)
    """
    angle = np.asarray(angle_deg, dtype=np.float64)
    quarter, rest = np.divmod(angle, 90.0)
    quarter = quarter % 4
    c = np.where(rest == 0, np.where(quarter % 2 == 1, 0.0, 1.0 - quarter), np.cos(np.radians(angle)))
    s = np.where(rest == 0, np.where(quarter % 2 == 1, 2.0 - quarter, 0.0), np.sin(np.radians(angle)))
    first, second = _FIRST_AND_SECOND[axis]
    rotation = np.broadcast_to(np.eye(3), (*angle.shape, 3, 3)).copy()
    rotation[..., first, first] = rotation[..., second, second] = c
    rotation[..., second, first], rotation[..., first, second] = s, -s
    return rotation
