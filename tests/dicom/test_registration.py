"""REG files: which way a matrix goes, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import SpatialRegistrationStorage

from spinedose.dicom._writing import decimals, item, new_dataset, save_aside
from spinedose.dicom.registration import read_registration
from spinedose.errors import InvalidInput, UnreadableFile
from spinedose.plan import Identity

PLAN, OTHER, THIRD = "1.2.1", "1.2.2", "1.2.3"
TURN = np.array([[0.0, -1.0, 0.0, 10.0], [1.0, 0.0, 0.0, -20.0], [0.0, 0.0, 1.0, 30.0], [0.0, 0.0, 0.0, 1.0]])
"""A quarter turn and a shift [mm]: (1, 0, 0) mm goes to (10, -19, 30) mm."""


def _file(folder: Path, common: str, *registered: tuple[str, list[np.ndarray], str]) -> Path:
    dataset = new_dataset(SpatialRegistrationStorage, "REG", Identity(), frame_of_reference_uid=common)
    dataset.RegistrationSequence = [
        item(
            FrameOfReferenceUID=uid,
            MatrixRegistrationSequence=[
                item(
                    MatrixSequence=[
                        item(
                            FrameOfReferenceTransformationMatrixType=kind,
                            FrameOfReferenceTransformationMatrix=decimals(matrix),
                        )
                        for matrix in matrices
                    ]
                )
            ],
        )
        for uid, matrices, kind in registered
    ]
    return save_aside(dataset, folder / "REG.dcm")


def test_a_matrix_goes_from_its_own_frame_into_that_of_the_file(tmp_path: Path) -> None:
    path = _file(tmp_path, OTHER, (PLAN, [TURN], "RIGID"), (OTHER, [np.eye(4)], "RIGID"))
    there = read_registration(path, PLAN, OTHER)
    np.testing.assert_allclose(there @ [0.1, 0.0, 0.0, 1.0], [1.0, -1.9, 3.0, 1.0], atol=1e-12)
    np.testing.assert_allclose(read_registration(path, OTHER, PLAN) @ there, np.eye(4), atol=1e-12)


def test_the_frame_of_the_file_needs_no_item(tmp_path: Path) -> None:
    path = _file(tmp_path, OTHER, (PLAN, [TURN], "RIGID"))
    np.testing.assert_allclose(read_registration(path, PLAN, OTHER)[:3, 3], [1.0, -2.0, 3.0])


def test_two_frames_meet_in_a_third(tmp_path: Path) -> None:
    shift = np.eye(4)
    shift[0, 3] = 5.0
    path = _file(tmp_path, THIRD, (PLAN, [TURN], "RIGID"), (OTHER, [shift], "RIGID"))
    # into the third frame x = 10 mm, and back by 5 mm into the other one
    np.testing.assert_allclose(read_registration(path, PLAN, OTHER)[:3, 3], [0.5, -2.0, 3.0])


@pytest.mark.parametrize(
    ("registered", "message"),
    [
        ([(THIRD, [TURN], "RIGID")], "of the plan"),
        ([(PLAN, [TURN, TURN], "RIGID")], "2 matrices"),
        ([(PLAN, [TURN], "AFFINE")], "type AFFINE"),
        ([(PLAN, [TURN], "RIGID"), (PLAN, [np.eye(4)], "RIGID")], "twice, and differently"),
    ],
)
def test_what_is_not_certain_is_refused(tmp_path: Path, registered: list[object], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        read_registration(_file(tmp_path, OTHER, *registered), PLAN, OTHER)  # type: ignore[arg-type]


def test_other_files_are_refused(tmp_path: Path) -> None:
    dataset = new_dataset(SpatialRegistrationStorage, "RTPLAN", Identity(), frame_of_reference_uid=OTHER)
    with pytest.raises(UnreadableFile, match="modality RTPLAN"):
        read_registration(save_aside(dataset, tmp_path / "RP.dcm"), PLAN, OTHER)
