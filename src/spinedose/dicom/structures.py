"""RTSTRUCT in and out: regions of interest as closed contours in axial planes, with colours and density overrides."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag
from pydicom.uid import CTImageStorage, RTStructureSetStorage

from spinedose.dicom._reading import Item, PathLike, expect_modality, open_dicom, read_identity
from spinedose.dicom._writing import decimal, item, new_dataset, new_uid, save_aside
from spinedose.errors import InvalidInput
from spinedose.identity import Identity
from spinedose.structures import GAP_FACTOR, PLANE_TOLERANCE_CM, Structure, StructureSet
from spinedose.units import CM_PER_MM, MM_PER_CM

CLOSED_TYPES = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
"""Contour types that bound an area (PS3.3 C.8.8.6.3); points and open lines are skipped."""

DENSITY_PROPERTIES = {"REL_MASS_DENSITY": "relative_mass_density", "REL_ELEC_DENSITY": "relative_electron_density"}
"""ROI physical properties (PS3.3 C.8.8.8) that change the dose here, and the fields they fill."""

Array = NDArray[np.float64]


def read_structures(path: PathLike) -> StructureSet:
    """Read an RTSTRUCT file.

    Points and open contours are skipped; a structure that has nothing else stays in the set, without contours. A
    structure with contours outside axial planes loses them and is warned about.

    Parameters
    ----------
    path : path
        The file.

    Returns
    -------
    StructureSet
        With density overrides, interpreted types and colours. Every structure of one or two planes is given the contour
        spacing that prevails in the set.

    Raises
    ------
    UnreadableFile
        If the file is not a readable RTSTRUCT.
    InvalidInput
        If it contradicts itself.
    """
    dataset = open_dicom(path)
    expect_modality(dataset, path, "RTSTRUCT")
    file = Item(dataset, f"RTSTRUCT '{Path(path).name}'")
    warnings: list[str] = []
    regions = file.items("StructureSetROISequence", "ROI")
    frame = _frame_of_reference(file, regions)
    drawn = {c.integer("ReferencedROINumber"): c for c in file.items("ROIContourSequence", "ROI contour")}
    observed: dict[int, list[Item]] = defaultdict(list)
    for observation in file.items("RTROIObservationsSequence", "observation"):
        observed[observation.integer("ReferencedROINumber")].append(observation)

    contours: dict[int, tuple[Array, ...]] = {}
    unread: dict[int, str] = {}
    names: dict[int, str] = {}
    for region in regions:
        number = region.integer("ROINumber")
        if number in contours:
            raise InvalidInput(f"{file.name} has ROI number {number} twice", "its contours could be of either", "")
        names[number] = name = region.text("ROIName", default="") or f"ROI {number}"
        own_frame = region.text("ReferencedFrameOfReferenceUID", default="")
        if frame and own_frame and own_frame != frame:
            warnings.append(f"Structure '{name}' was drawn in another frame of reference and is left out")
            contours[number], unread[number] = (), "they lie in another frame of reference"
        elif number in drawn:
            contours[number], unread[number] = _read_contours(drawn[number], name, warnings)
        else:
            contours[number] = ()
    for name, count in Counter(names.values()).items():
        if count > 1:
            warnings.append(
                f"{count} structures are called '{name}'; by name only the first that has contours is found"
            )

    spacing = _prevailing_spacing(contours.values())
    structures = []
    for number, name in names.items():
        kind, overrides = _read_observations(observed[number], name, warnings)
        structures.append(
            Structure(
                number,
                name,
                kind,
                contours[number],
                overrides.get("relative_mass_density"),
                overrides.get("relative_electron_density"),
                _read_color(drawn.get(number)),
                _own_spacing(contours[number], spacing, name, warnings),
                unread.get(number, ""),
            )
        )
    return StructureSet(
        tuple(structures),
        label=file.text("StructureSetLabel", default=""),
        uid=file.text("SOPInstanceUID", default=""),
        frame_of_reference_uid=frame,
        warnings=tuple(warnings),
        identity=read_identity(file),
    )


def _frame_of_reference(file: Item, regions: list[Item]) -> str:
    """The frame of reference that most structures name; the set's own when they name none."""
    named = Counter(
        uid for uid in (region.text("ReferencedFrameOfReferenceUID", default="") for region in regions) if uid
    )
    if named:
        return named.most_common(1)[0][0]
    frames = file.items("ReferencedFrameOfReferenceSequence", "frame of reference")
    if frames:
        return frames[0].text("FrameOfReferenceUID", default="")
    return file.text("FrameOfReferenceUID", default="")


def _read_contours(region: Item, name: str, warnings: list[str]) -> tuple[tuple[Array, ...], str]:
    """Closed contours of a region [cm], none when any of them leaves its axial plane; and why there are none of use."""
    contours = []
    too_short = is_open = 0
    for contour in region.called(f"Structure '{name}'").items("ContourSequence", "contour"):
        kind = contour.text("ContourGeometricType", default="CLOSED_PLANAR").upper()
        if kind not in CLOSED_TYPES:
            is_open += kind != "POINT"
            continue
        values = contour.numbers("ContourData")
        if len(values) % 3:
            raise InvalidInput(
                f"{contour.name} has {len(values)} coordinates", "points have three each", "Export the structures again"
            )
        points = values.reshape(-1, 3) * CM_PER_MM
        if len(points) < 3:
            too_short += 1
            continue
        if np.ptp(points[:, 2]) > PLANE_TOLERANCE_CM:
            warnings.append(
                f"Structure '{name}' is left out: it has a contour outside axial planes "
                f"(z from {points[:, 2].min():.2f} to {points[:, 2].max():.2f} cm)"
            )
            return (), "one of them lies outside axial planes"
        points[:, 2] = points[:, 2].mean()
        points.flags.writeable = False
        contours.append(points)
    if too_short:
        warnings.append(
            f"Structure '{name}': {too_short} contours of fewer than three points bound no area and are skipped"
        )
    if contours or not (is_open or too_short):
        return tuple(contours), ""
    return (), "they are open lines" if is_open else "they have fewer than three points each"


def _read_observations(observations: list[Item], name: str, warnings: list[str]) -> tuple[str, dict[str, float]]:
    """Interpreted type of a structure and its density overrides."""
    kind = ""
    overrides: dict[str, float] = {}
    for observation in observations:
        own = observation.called(f"Structure '{name}'")
        kind = kind or own.text("RTROIInterpretedType", default="").upper()
        for prop in own.items("ROIPhysicalPropertiesSequence", "physical property"):
            what = prop.text("ROIPhysicalProperty", default="").upper()
            if what == "ELEM_FRACTION":
                text = f"Structure '{name}' states its elements; they are not used, its density is"
                if text not in warnings:
                    warnings.append(text)
            if what not in DENSITY_PROPERTIES:
                continue
            key, value = DENSITY_PROPERTIES[what], prop.number("ROIPhysicalPropertyValue")
            if overrides.setdefault(key, value) != value:
                raise InvalidInput(
                    f"Structure '{name}' has two values of {what}: {overrides[key]} and {value}",
                    "only one can be right",
                    "Assign one material to it",
                )
    return kind, overrides


def _read_color(region: Item | None) -> tuple[int, int, int]:
    """Display colour; red, the default of `Structure`, where there is none that can be used: no dose depends on it."""
    try:
        values = [min(max(int(float(v)), 0), 255) for v in region.texts("ROIDisplayColor")] if region else []
    except (InvalidInput, ValueError):
        values = []
    return (values[0], values[1], values[2]) if len(values) == 3 else (255, 0, 0)


def _plane_distances(contours: Iterable[Array]) -> Array:
    """Distances of neighbouring contour planes of one structure [cm]."""
    heights = np.unique([contour[0, 2] for contour in contours])
    distances: Array = np.diff(heights)
    return distances[distances > PLANE_TOLERANCE_CM]


def _prevailing_spacing(regions: Iterable[tuple[Array, ...]]) -> float | None:
    """The most frequent distance of contour planes in a set [cm]; None when no structure has two planes."""
    counts = Counter(round(float(d), 3) for contours in regions for d in _plane_distances(contours))
    return counts.most_common(1)[0][0] if counts else None


def _own_spacing(contours: tuple[Array, ...], prevailing: float | None, name: str, warnings: list[str]) -> float | None:
    """Contour spacing of one structure [cm]: its own from three planes on, else that of the set."""
    distances = _plane_distances(contours)
    if prevailing is None or not contours or len(distances) < 2:
        return prevailing
    own = float(np.median(distances))
    if own > GAP_FACTOR * prevailing:
        warnings.append(
            f"Structure '{name}' is drawn every {own:.2f} cm only, others every {prevailing:.2f} cm; "
            "each of its contours counts for that thickness"
        )
    return own


# --- writing ----------------------------------------------------------------------------------------------------------


def write_structures(
    structure_set: StructureSet,
    path: PathLike,
    *,
    identity: Identity | None = None,
    ct_files: Iterable[PathLike] = (),
) -> Path:
    """Write a structure set as RTSTRUCT.

    Parameters
    ----------
    structure_set : StructureSet
        The structures; coordinates are stored to a thousandth of a millimetre.
    path : path
        The file; overwritten when it exists, and written aside first.
    identity : Identity, optional
        Patient and study; anonymous when not given.
    ct_files : iterable of path
        The CT slices on which the structures were drawn, to be referred to. Other software often asks for them.

    Returns
    -------
    pathlib.Path
        The file written.

    Raises
    ------
    InvalidInput
        If the CT files do not belong to one series, or the file cannot be written.
    """
    identity = identity or Identity()
    slices = [_read_slice(file) for file in ct_files]
    frame = structure_set.frame_of_reference_uid or (slices[0].frame_of_reference if slices else "") or new_uid()
    dataset = new_dataset(
        RTStructureSetStorage,
        "RTSTRUCT",
        identity,
        sop_instance_uid=structure_set.uid,
        series_description="structures",
        frame_of_reference_uid=frame,
    )
    dataset.StructureSetLabel = structure_set.label or "structures"
    dataset.StructureSetDate, dataset.StructureSetTime = dataset.InstanceCreationDate, dataset.InstanceCreationTime
    reference = item(FrameOfReferenceUID=frame)
    if slices:
        reference.RTReferencedStudySequence = [_study_of(slices)]
    dataset.ReferencedFrameOfReferenceSequence = [reference]
    dataset.StructureSetROISequence = [
        item(ROINumber=s.number, ReferencedFrameOfReferenceUID=frame, ROIName=s.name, ROIGenerationAlgorithm="")
        for s in structure_set.structures
    ]
    heights = np.array([s.height_cm for s in slices])
    dataset.ROIContourSequence = [_contour_item(s, slices, heights) for s in structure_set.structures]
    dataset.RTROIObservationsSequence = [_observation_item(s) for s in structure_set.structures]
    dataset.ApprovalStatus = "UNAPPROVED"
    return save_aside(dataset, path)


@dataclass(frozen=True, slots=True)
class _Slice:
    """What a structure set says about a CT slice."""

    uid: str
    series: str
    study: str
    frame_of_reference: str
    height_cm: float


def _read_slice(path: PathLike) -> _Slice:
    dataset = open_dicom(path, stop_before_pixels=True)
    expect_modality(dataset, path, "CT")
    file = Item(dataset, f"CT slice '{Path(path).name}'")
    return _Slice(
        file.text("SOPInstanceUID"),
        file.text("SeriesInstanceUID"),
        file.text("StudyInstanceUID"),
        file.text("FrameOfReferenceUID", default=""),
        float(file.numbers("ImagePositionPatient", count=3)[2]) * CM_PER_MM,
    )


def _study_of(slices: list[_Slice]) -> Dataset:
    """The referenced study, with its one series and all its slices."""
    series = {s.series for s in slices}
    if len(series) > 1:
        raise InvalidInput(f"The CT slices belong to {len(series)} series", "structures are drawn on one", "")
    images = [_image_reference(s) for s in slices]
    return item(
        ReferencedSOPClassUID="1.2.840.10008.3.1.2.3.1",  # Detached Study Management, as all RTSTRUCT writers put here
        ReferencedSOPInstanceUID=slices[0].study,
        RTReferencedSeriesSequence=[item(SeriesInstanceUID=slices[0].series, ContourImageSequence=images)],
    )


def _image_reference(image: _Slice) -> Dataset:
    return item(ReferencedSOPClassUID=CTImageStorage, ReferencedSOPInstanceUID=image.uid)


def _contour_item(structure: Structure, slices: list[_Slice], heights: Array) -> Dataset:
    result = item(ROIDisplayColor=list(structure.color), ReferencedROINumber=structure.number)
    contours = []
    for points in structure.contours_cm:
        contour = item(ContourGeometricType="CLOSED_PLANAR", NumberOfContourPoints=len(points))
        nearest = int(np.argmin(np.abs(heights - points[0, 2]))) if slices else 0
        if slices and abs(heights[nearest] - points[0, 2]) <= PLANE_TOLERANCE_CM:
            contour.ContourImageSequence = [_image_reference(slices[nearest])]
        contour[_CONTOUR_DATA] = _contour_data(points)
        contours.append(contour)
    if contours:  # a structure without contours has no such sequence; an empty one is not allowed
        result.ContourSequence = contours
    return result


_CONTOUR_DATA = 0x30060050


def _contour_data(points_cm: Array) -> RawDataElement:
    """Coordinates [mm] to three decimals, as the bytes of the file: pydicom checks each of some 100 000 numbers
    apart."""
    values = np.round(points_cm * MM_PER_CM, 3).ravel() + 0.0  # no -0.0
    text = "\\".join(map(repr, values.tolist())).encode("ascii")
    text += b" " * (len(text) % 2)
    return RawDataElement(BaseTag(_CONTOUR_DATA), "DS", len(text), text, 0, False, True)


def _observation_item(structure: Structure) -> Dataset:
    result = item(
        ObservationNumber=structure.number,
        ReferencedROINumber=structure.number,
        RTROIInterpretedType=structure.type,
        ROIInterpreter="",
    )
    properties = [
        item(ROIPhysicalProperty=name, ROIPhysicalPropertyValue=decimal(value))
        for name, field in DENSITY_PROPERTIES.items()
        if (value := getattr(structure, field)) is not None
    ]
    if properties:
        result.ROIPhysicalPropertiesSequence = properties
    return result
