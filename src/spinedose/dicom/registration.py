"""REG files: the rigid matrix that takes points of one frame of reference into another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spinedose.dicom._reading import Item, PathLike, expect_modality, open_dicom
from spinedose.errors import InvalidInput
from spinedose.units import CM_PER_MM

Array = NDArray[np.float64]


def read_registration(path: PathLike, source_uid: str, target_uid: str) -> Array:
    """Read a spatial registration (DICOM PS3.3, A.39 and C.20.2).

    Every item of the file takes points of its own frame of reference into that of the registration; what takes them
    from one item's frame into another's follows from both.

    Parameters
    ----------
    path : path
        The file.
    source_uid, target_uid : str
        Frames of reference from which and into which points are wanted.

    Returns
    -------
    ndarray, shape (4, 4)
        Homogeneous matrix for points (x, y, z) in cm, DICOM LPS.

    Raises
    ------
    UnreadableFile
        If the file is no readable registration.
    InvalidInput
        If it does not tie the two frames together, or by more than one matrix.
    """
    dataset = open_dicom(path)
    expect_modality(dataset, path, "REG")
    file = Item(dataset, f"REG '{Path(path).name}'")
    common = file.text("FrameOfReferenceUID", default="")
    found: dict[str, Array] = {}
    for one in file.items("RegistrationSequence", "registration"):
        uid = one.text("FrameOfReferenceUID", default="")
        if uid not in (source_uid, target_uid):
            continue
        matrix = _matrix(one)
        if uid in found and not np.allclose(found[uid], matrix):
            raise InvalidInput(
                f"{file.name} registers a frame of reference twice, and differently", "either could be meant"
            )
        found[uid] = matrix
    if common in (source_uid, target_uid):
        found.setdefault(common, np.eye(4))
    for uid, what in ((source_uid, "plan"), (target_uid, "other CT")):
        if not uid or uid not in found:
            raise InvalidInput(
                f"{file.name} does not register the frame of reference of the {what}",
                f"it has {', '.join(sorted(found)) or 'none of the two'}",
                "Name the registration of these two images",
            )
    return np.asarray(np.linalg.solve(found[target_uid], found[source_uid]), dtype=np.float64)


def _matrix(item: Item) -> Array:
    """The matrix of an item, in cm; an item without one stands in the common frame already."""
    matrices = [
        one
        for registration in item.items("MatrixRegistrationSequence", "matrix registration")
        for one in registration.items("MatrixSequence", "matrix")
    ]
    if not matrices:
        return np.eye(4)
    if len(matrices) > 1:
        raise InvalidInput(
            f"{item.name} has {len(matrices)} matrices", "their order is not agreed upon", "Export it as one matrix"
        )
    (one,) = matrices
    kind = one.text("FrameOfReferenceTransformationMatrixType", default="RIGID")
    if kind != "RIGID":
        raise InvalidInput(f"{one.name} is of type {kind}", "only rigid registrations can be used")
    matrix = one.numbers("FrameOfReferenceTransformationMatrix", count=16).reshape(4, 4).copy()
    matrix[:3, 3] *= CM_PER_MM
    return matrix
