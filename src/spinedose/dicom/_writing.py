"""What all DICOM objects that spinedose writes have in common: identifiers, file meta, patient, study, equipment."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid
from pydicom.valuerep import format_number_as_ds

from spinedose._files import aside
from spinedose._version import __version__
from spinedose.dicom._reading import PathLike, open_dicom, quiet_pydicom
from spinedose.errors import InvalidInput, UnreadableFile
from spinedose.identity import Identity

IMPLEMENTATION_CLASS_UID = UID("2.25.220128720243666681958199322125856241811")
"""Names this implementation in the file meta group; a random UUID, drawn once."""


MAKER = "spinedose"
"""Manufacturer that every object names."""


def new_uid() -> str:
    """A unique identifier that nothing else has (2.25 and a random UUID)."""
    return str(generate_uid(prefix=None))


def new_dataset(
    sop_class_uid: str,
    modality: str,
    identity: Identity,
    *,
    sop_instance_uid: str = "",
    series_instance_uid: str = "",
    series_description: str = "",
    frame_of_reference_uid: str = "",
) -> Dataset:
    """Begin a DICOM object: the modules patient, study, series, frame of reference, equipment and SOP common.

    Parameters
    ----------
    sop_class_uid, modality : str
        What the object is.
    identity : Identity
        Patient and study; a missing study UID is made new.
    sop_instance_uid, series_instance_uid : str
        Made new when empty.
    series_description : str
        For the people who look at the series.
    frame_of_reference_uid : str
        The module is left out when empty.

    Returns
    -------
    pydicom.Dataset
        With its `file_meta`, in explicit VR little endian. Further elements are the caller's.
    """
    with quiet_pydicom():  # identifiers are copied as they are, even where their form is not what the standard asks
        return _new_dataset(
            sop_class_uid,
            modality,
            identity,
            sop_instance_uid,
            series_instance_uid,
            series_description,
            frame_of_reference_uid,
        )


def _new_dataset(
    sop_class_uid: str,
    modality: str,
    identity: Identity,
    sop_instance_uid: str,
    series_instance_uid: str,
    series_description: str,
    frame_of_reference_uid: str,
) -> Dataset:
    now = datetime.datetime.now()
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.InstanceCreationDate = now.strftime("%Y%m%d")
    dataset.InstanceCreationTime = now.strftime("%H%M%S")
    dataset.SOPClassUID = sop_class_uid
    dataset.SOPInstanceUID = sop_instance_uid or new_uid()
    dataset.Modality = modality
    dataset.Manufacturer = MAKER
    dataset.ManufacturerModelName = "spinedose"
    dataset.DeviceSerialNumber = "1"
    dataset.SoftwareVersions = __version__

    dataset.PatientName = identity.patient_name
    dataset.PatientID = identity.patient_id
    dataset.PatientBirthDate = identity.patient_birth_date
    dataset.PatientSex = identity.patient_sex

    dataset.StudyInstanceUID = identity.study_instance_uid or new_uid()
    dataset.StudyID = identity.study_id
    dataset.StudyDate = identity.study_date
    dataset.StudyTime = identity.study_time
    dataset.AccessionNumber = identity.accession_number
    dataset.ReferringPhysicianName = identity.referring_physician

    dataset.SeriesInstanceUID = series_instance_uid or new_uid()
    dataset.SeriesNumber = None
    dataset.OperatorsName = ""
    if series_description:
        dataset.SeriesDescription = series_description
    if frame_of_reference_uid:
        dataset.FrameOfReferenceUID = frame_of_reference_uid
        dataset.PositionReferenceIndicator = ""

    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = UID(sop_class_uid)
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = IMPLEMENTATION_CLASS_UID
    meta.ImplementationVersionName = f"SPINEDOSE_{__version__}"[:16]
    dataset.file_meta = meta
    return dataset


def own_header(path: PathLike) -> Dataset | None:
    """Header of a DICOM file that spinedose wrote; None for any other file, which a caller may not take for its own."""
    try:
        header = open_dicom(path, stop_before_pixels=True)
    except UnreadableFile:
        return None
    return header if header.get("Manufacturer") == MAKER else None


def item(**elements: object) -> Dataset:
    """An item of a sequence with these elements, by keyword."""
    dataset = Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def decimal(value: float) -> str:
    """A number as DICOM decimal string: the shortest that reads back equal, or the best of at most 16 characters."""
    value = float(value)
    if not np.isfinite(value):
        raise InvalidInput(f"{value} cannot be written to DICOM", "a decimal string holds finite numbers only")
    text = str(format_number_as_ds(value))
    return text.rstrip("0").rstrip(".") if "." in text and "e" not in text else text


def decimals(values: ArrayLike) -> list[str]:
    """Numbers, flattened in C order, as DICOM decimal strings."""
    return [decimal(v) for v in np.asarray(values, dtype=float).ravel()]


def save_aside(dataset: Dataset, path: PathLike) -> Path:
    """Write a data set beside its place and rename it when complete, so that there never is a half-written file.

    Parameters
    ----------
    dataset : pydicom.Dataset
        With its `file_meta`.
    path : path
        The file; overwritten when it exists. Its folder must exist.

    Returns
    -------
    pathlib.Path
        The file written.

    Raises
    ------
    InvalidInput
        If it cannot be written, or is a device or a pipe; nothing is left behind then.
    """
    path = Path(path)
    try:
        with aside(path) as part, quiet_pydicom(), part.open("xb") as file:
            dataset.save_as(file, enforce_file_format=True)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise InvalidInput(
            f"'{path}' cannot be written", str(error.strerror or error), "Choose another place"
        ) from error
    return path


def unique(texts: Iterable[str]) -> tuple[str, ...]:
    """The texts in their order, each once."""
    return tuple(dict.fromkeys(texts))
