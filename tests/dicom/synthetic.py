"""Small RTPLAN and CT data sets built tag by tag, independent of the writers under test; lengths in mm as in files."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RTPlanStorage

BOUNDARIES = (-20, -10, 0, 10, 20)  # four leaf pairs of 10 mm


def item(**elements: Any) -> Dataset:
    dataset = Dataset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # wrong values are put in on purpose
        for keyword, value in elements.items():
            setattr(dataset, keyword, value)
    return dataset


def position(device: str, *values: float) -> Dataset:
    return item(RTBeamLimitingDeviceType=device, LeafJawPositions=[f"{v:.10g}" for v in values])


def leaves(left: float, right: float, pairs: int = 4) -> Dataset:
    """MLCX with all left tips at one place and all right tips at another."""
    return position("MLCX", *[left] * pairs, *[right] * pairs)


def devices(*names: str, boundaries: Sequence[float] = BOUNDARIES) -> list[Dataset]:
    made = []
    for name in names:
        device = item(RTBeamLimitingDeviceType=name, NumberOfLeafJawPairs=1)
        if name.startswith("MLC"):
            device.NumberOfLeafJawPairs = len(boundaries) - 1
            device.LeafPositionBoundaries = [str(b) for b in boundaries]
        made.append(device)
    return made


def first_point(*positions: Dataset, **elements: Any) -> Dataset:
    """A complete first control point; elements replace the defaults, and None takes one away."""
    values: dict[str, Any] = {
        "ControlPointIndex": 0,
        "CumulativeMetersetWeight": "0",
        "NominalBeamEnergy": "6",
        "GantryAngle": "0",
        "GantryRotationDirection": "NONE",
        "BeamLimitingDeviceAngle": "0",
        "BeamLimitingDeviceRotationDirection": "NONE",
        "PatientSupportAngle": "0",
        "PatientSupportRotationDirection": "NONE",
        "TableTopEccentricAngle": "0",
        "TableTopEccentricRotationDirection": "NONE",
        "IsocenterPosition": ["10", "20", "-30"],
        "SourceToSurfaceDistance": "900",
    }
    values.update(elements)
    point = item(**{keyword: value for keyword, value in values.items() if value is not None})
    if positions:
        point.BeamLimitingDevicePositionSequence = list(positions)
    return point


def point(index: int, weight: float, *positions: Dataset, **elements: Any) -> Dataset:
    made = item(ControlPointIndex=index, CumulativeMetersetWeight=f"{weight:.10g}", **elements)
    if positions:
        made.BeamLimitingDevicePositionSequence = list(positions)
    return made


def beam(number: int = 1, points: Sequence[Dataset] | None = None, **elements: Any) -> Dataset:
    """A beam of two control points with jaws of 100 x 80 mm and leaves at -40 and 30 mm, unless told otherwise."""
    if points is None:
        points = [
            first_point(position("ASYMX", -50, 50), position("ASYMY", -40, 40), leaves(-40, 30)),
            point(1, 1),
        ]
    values: dict[str, Any] = {
        "BeamNumber": number,
        "BeamName": f"beam {number}",
        "BeamType": "STATIC" if len(points) == 2 else "DYNAMIC",
        "RadiationType": "PHOTON",
        "TreatmentMachineName": "LINAC",
        "PrimaryDosimeterUnit": "MU",
        "SourceAxisDistance": "1000",
        "TreatmentDeliveryType": "TREATMENT",
        "NumberOfWedges": 0,
        "NumberOfCompensators": 0,
        "NumberOfBoli": 0,
        "NumberOfBlocks": 0,
        "ReferencedPatientSetupNumber": 1,
        "FinalCumulativeMetersetWeight": "1",
        "NumberOfControlPoints": len(points),
        "BeamLimitingDeviceSequence": devices("ASYMX", "ASYMY", "MLCX"),
    }
    values.update(elements)
    made = item(**{keyword: value for keyword, value in values.items() if value is not None})
    made.ControlPointSequence = list(points)
    return made


def meterset(number: int, mu: float | None = 100.0, **elements: Any) -> Dataset:
    made = item(ReferencedBeamNumber=number, **elements)
    if mu is not None:
        made.BeamMeterset = str(mu)
    return made


def plan(*beams: Dataset, references: Sequence[Dataset] | None = None, **elements: Any) -> Dataset:
    """An RTPLAN with one fraction group of 5 fractions and 100 MU a beam, HFS."""
    beams = beams or (beam(),)
    if references is None:
        references = [meterset(int(b.BeamNumber)) for b in beams]
    values: dict[str, Any] = {
        "SOPClassUID": RTPlanStorage,
        "SOPInstanceUID": "1.2.3.4",
        "Modality": "RTPLAN",
        "PatientName": "Doe^Phantom",
        "PatientID": "P1",
        "PatientBirthDate": "20000101",
        "PatientSex": "O",
        "StudyInstanceUID": "1.2.3",
        "StudyID": "S1",
        "StudyDate": "20240102",
        "StudyTime": "030405",
        "AccessionNumber": "A1",
        "ReferringPhysicianName": "",
        "FrameOfReferenceUID": "1.2.3.5",
        "RTPlanLabel": "test",
        "RTPlanGeometry": "PATIENT",
        "ReferencedStructureSetSequence": [item(ReferencedSOPInstanceUID="1.2.3.6")],
        "PatientSetupSequence": [item(PatientSetupNumber=1, PatientPosition="HFS")],
        "FractionGroupSequence": [
            item(
                FractionGroupNumber=1,
                NumberOfFractionsPlanned=5,
                NumberOfBeams=len(references),
                ReferencedBeamSequence=list(references),
            )
        ],
        "BeamSequence": list(beams),
    }
    values.update(elements)
    return item(**{keyword: value for keyword, value in values.items() if value is not None})


def save(dataset: Dataset, path: Path, *, bare: bool = False) -> Path:
    """Write a data set; `bare` without preamble and file meta group, in implicit VR, as Monaco does."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ImplicitVRLittleEndian if bare else ExplicitVRLittleEndian
    if not bare:
        dataset.file_meta = meta
        dataset.save_as(path, enforce_file_format=True)
    else:
        dataset.save_as(path, implicit_vr=True, little_endian=True, enforce_file_format=False)
    return path


def ct_slices(
    stored: np.ndarray,
    *,
    z: Sequence[float],
    orientation: Sequence[float] = (1, 0, 0, 0, 1, 0),
    corner: tuple[float, float] = (0.0, 0.0),
    **elements: Any,
) -> list[Dataset]:
    """CT slices of 16-bit stored values (slices, rows, columns), 2 mm rows, 3 mm columns, axial; offset -1024 HU."""
    made = []
    for k, pixels in enumerate(stored):
        values: dict[str, Any] = {
            "SOPClassUID": CTImageStorage,
            "SOPInstanceUID": f"1.2.4.{k + 1}",
            "Modality": "CT",
            "SeriesInstanceUID": "1.2.4",
            "FrameOfReferenceUID": "1.2.3.5",
            "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
            "PatientPosition": "HFS",
            "ImageOrientationPatient": [str(c) for c in orientation],
            "ImagePositionPatient": [str(corner[0]), str(corner[1]), str(z[k])],
            "PixelSpacing": ["2", "3"],
            "SliceThickness": "0",
            "SamplesPerPixel": 1,
            "PhotometricInterpretation": "MONOCHROME2",
            "Rows": pixels.shape[0],
            "Columns": pixels.shape[1],
            "BitsAllocated": 16,
            "BitsStored": 12,
            "HighBit": 11,
            "PixelRepresentation": 0,
            "RescaleSlope": "1",
            "RescaleIntercept": "-1024",
            "PixelData": pixels.astype("<u2").tobytes(),
        }
        values.update(elements)
        made.append(item(**{keyword: value for keyword, value in values.items() if value is not None}))
    return made


def save_series(slices: Sequence[Dataset], folder: Path, *, bare: bool = False) -> Path:
    folder.mkdir(exist_ok=True)
    for k, dataset in enumerate(slices):
        save(dataset, folder / f"slice{k:03d}.dcm", bare=bare)
    return folder
