"""RTDOSE in and out: a dose grid that stands parallel to the patient axes, in Gy.

DICOM stores frames along the normal of the image plane, and the plane may be turned: a feet-first grid runs towards
-z, a prone one has its rows from posterior to anterior. `read_dose` takes any of the 48 axis-aligned arrangements and
hands over one with rising x, y and z. What is written is always in rising axes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian, RTDoseStorage, RTPlanStorage, RTStructureSetStorage

from spinedose.compare.dvh import Dvh
from spinedose.density import CtImage
from spinedose.dicom._reading import Item, PathLike, expect_modality, open_dicom, read_identity
from spinedose.dicom._writing import decimal, decimals, item, new_dataset, new_uid, own_header, save_aside
from spinedose.errors import InvalidInput, NumericalError, UnreadableFile
from spinedose.grid import Grid, Volume
from spinedose.identity import Identity
from spinedose.plan import Plan
from spinedose.units import CM_PER_MM, MM_PER_CM

SUMMATIONS = ("PLAN", "BEAM", "FRACTION", "FRACTION_SESSION", "BEAM_SESSION")
"""Dose summation types that are read and compared; brachytherapy, control points and several plans are not."""

WRITTEN = ("PLAN", "BEAM", "FRACTION")
"""Dose summation types that are written: doses of all fractions."""

HIGHEST_DOSE_GY = 1e4
"""Above this a dose is damaged: a course of radiotherapy has 0.1 kGy, and cGy taken for Gy are still below."""

AXIS_TOLERANCE = 1e-4
"""A direction cosine nearer than this to 0 or 1 is taken as such (1e-4 turns a 50 cm grid by 0.05 mm)."""

SPACING_TOLERANCE_MM = 0.05
"""Frames may lie this far from an even spacing; planning systems round offsets to 0.01 mm."""

NOT_CLINICAL = "Not for clinical use"


@dataclass(frozen=True, slots=True, eq=False)
class PlannedDose:
    """A dose grid as a planning system stored it.

    Parameters
    ----------
    dose : Volume
        Dose [Gy], float32, in rising axes.
    summation : str
        PLAN (the whole plan), FRACTION (a fraction group) or BEAM (one or more beams), all of the entire delivery,
        which is all fractions; FRACTION_SESSION or BEAM_SESSION of a single one (PS3.3 C.8.8.3). Empty when the file
        does not say.
    beam_numbers : tuple of int
        Beams that the dose belongs to, for summations BEAM and BEAM_SESSION; none when the file does not say.
    uid, plan_uid, structure_set_uid, frame_of_reference_uid : str
        SOP Instance UIDs of the dose, its plan and its structure set, and its frame of reference; empty when absent.
    description : str
        Series description and dose comment.
    system : str
        What computed it, as far as the file says: manufacturer, model and software versions.
    warnings : tuple of str
        What the reader of a comparison must know.
    identity : Identity
        Patient and study.
    heterogeneity : tuple of str
        What the densities were in the planning system: IMAGE, ROI_OVERRIDE, WATER (Tissue Heterogeneity Correction);
        empty when the file does not say.
    multiplied : str
        A sentence that says by what the stored dose was multiplied to be that of all fractions, and why; empty when it
        was not.
    """

    dose: Volume
    summation: str = "PLAN"
    beam_numbers: tuple[int, ...] = ()
    uid: str = ""
    plan_uid: str = ""
    structure_set_uid: str = ""
    frame_of_reference_uid: str = ""
    description: str = ""
    warnings: tuple[str, ...] = ()
    system: str = ""
    identity: Identity = field(default_factory=Identity, repr=False)
    heterogeneity: tuple[str, ...] = ()
    multiplied: str = ""

    def __repr__(self) -> str:
        maximum = float(self.dose.values.max())
        return f"<PlannedDose, {self.summation or 'of what is not said'}: {self.dose.grid.in_words}, {maximum:.4g} Gy>"

    @property
    def values_are_positive(self) -> bool:
        """Whether there is any dose in it."""
        return bool(np.any(self.dose.values > 0))

    @property
    def grid(self) -> Grid:
        """Where the voxels of the dose are."""
        return self.dose.grid


def read_dose(path: PathLike) -> PlannedDose:
    """Read an RTDOSE file.

    Parameters
    ----------
    path : path
        The file.

    Returns
    -------
    PlannedDose
        With warnings where the file leaves out what the standard requires, or where all doses are zero.

    Raises
    ------
    UnreadableFile
        If the file is not a readable RTDOSE.
    InvalidInput
        If it is not a physical dose in Gy, has oblique or unevenly spaced frames, doses beyond reason, or contradicts
        itself.
    """
    dataset = open_dicom(path)
    expect_modality(dataset, path, "RTDOSE")
    name = Path(path).name
    file = Item(dataset, f"RTDOSE '{name}'")
    warnings: list[str] = []
    units = file.text("DoseUnits").upper()
    if units != "GY":
        raise InvalidInput(f"{file.name} is in units of {units}", "only doses in GY can be compared", "Export it in Gy")
    kind = file.text("DoseType", default="").upper()
    if not kind:
        warnings.append(f"{file.name} does not state its dose type; taken as PHYSICAL")
    elif kind != "PHYSICAL":
        raise InvalidInput(
            f"{file.name} holds a dose of type {kind}", "only physical dose can be compared", "Export the physical dose"
        )
    summation = file.text("DoseSummationType", default="").upper()
    if not summation:
        warnings.append(f"{file.name} does not state its summation type (plan, fraction or beam)")
    elif summation not in SUMMATIONS:
        raise InvalidInput(
            f"{file.name} is a sum of type {summation}",
            f"only {', '.join(SUMMATIONS)} are understood",
            "Export the dose of the plan or of its beams",
        )
    grid, order, flips = _read_geometry(file)
    raw = _read_pixels(file)
    scaling = file.number("DoseGridScaling")
    if scaling <= 0:
        raise InvalidInput(f"{file.name} has a dose grid scaling of {scaling}", "doses would vanish", "Export it again")
    highest = float(raw.max()) * scaling
    if not highest <= HIGHEST_DOSE_GY:
        raise InvalidInput(
            f"{file.name} has a maximum of {highest:.3g} Gy",
            f"no treatment has more than {HIGHEST_DOSE_GY:g} Gy; its dose grid scaling is {scaling:g}",
            "Export it again",
        )
    values = np.transpose(raw, order)[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]
    dose = Volume(grid, np.ascontiguousarray(values * scaling, dtype=np.float32))
    if not raw.any():
        warnings.append(f"{file.name} is zero everywhere")
    if raw.dtype.kind == "i" and raw.min() < 0:
        raise InvalidInput(f"{file.name} holds negative doses", "a physical dose is never negative", "Export it again")
    plans = file.items("ReferencedRTPlanSequence", "referenced plan")
    groups = [g for p in plans for g in p.items("ReferencedFractionGroupSequence", "fraction group")]
    beams = [b.integer("ReferencedBeamNumber") for g in groups for b in g.items("ReferencedBeamSequence", "beam")]
    sets = file.items("ReferencedStructureSetSequence", "referenced structure set")
    return PlannedDose(
        dose,
        summation=summation,
        beam_numbers=tuple(dict.fromkeys(beams)),
        uid=file.text("SOPInstanceUID", default=""),
        plan_uid=plans[0].text("ReferencedSOPInstanceUID", default="") if plans else "",
        structure_set_uid=sets[0].text("ReferencedSOPInstanceUID", default="") if sets else "",
        frame_of_reference_uid=file.text("FrameOfReferenceUID", default=""),
        description=_in_one_line(file, "SeriesDescription", "DoseComment"),
        warnings=tuple(warnings),
        system=_in_one_line(file, "Manufacturer", "ManufacturerModelName", "SoftwareVersions"),
        identity=read_identity(file),
        heterogeneity=tuple(text.upper() for text in file.texts("TissueHeterogeneityCorrection")),
    )


def _in_one_line(file: Item, *keywords: str) -> str:
    """What a file says of some things; empty when it says nothing."""
    return "; ".join(dict.fromkeys(" ".join(texts) for word in keywords if (texts := file.texts(word))))


def _read_geometry(file: Item) -> tuple[Grid, tuple[int, int, int], tuple[bool, bool, bool]]:
    """Grid in rising axes, and how the stored array (frame, row, column) gets there.

    Returns
    -------
    grid : Grid
        Shape (nz, ny, nx).
    order : tuple of 3 ints
        Stored axis that becomes z, y and x.
    flips : tuple of 3 bools
        Whether z, y and x then have to be reversed.
    """
    orientation = file.numbers("ImageOrientationPatient", count=6)
    along_columns, along_rows = orientation[:3], orientation[3:]
    # The stored axes run: frames along the normal, rows along the second, columns along the first direction.
    directions = np.array([np.cross(along_columns, along_rows), along_rows, along_columns])
    axes = np.argmax(np.abs(directions), axis=1)
    signs = np.sign(directions[np.arange(3), axes])
    nearest = np.zeros((3, 3))
    nearest[np.arange(3), axes] = signs
    if sorted(axes) != [0, 1, 2] or np.abs(directions - nearest).max() > AXIS_TOLERANCE:
        raise InvalidInput(
            f"{file.name} is tilted against the patient axes",
            f"its orientation is {', '.join(f'{v:.6g}' for v in orientation)}",
            "Export it on an untilted grid",
        )
    corner = file.numbers("ImagePositionPatient", count=3)
    counts = (file.integer("NumberOfFrames", default=1), file.integer("Rows"), file.integer("Columns"))
    row_spacing, column_spacing = file.numbers("PixelSpacing", count=2)
    if min(counts) < 1 or min(row_spacing, column_spacing) <= 0:
        raise InvalidInput(f"{file.name} has no extent", f"{counts} frames, rows and columns", "Export it again")
    first, frame_spacing = _read_frames(file, counts[0], corner, nearest[0])
    steps = np.array([frame_spacing, row_spacing, column_spacing])
    starts = corner[axes] + signs * np.array([first, 0.0, 0.0])
    ends = starts + signs * steps * (np.array(counts) - 1)
    z, y, x = (int(np.flatnonzero(axes == axis)[0]) for axis in (2, 1, 0))
    low, size = np.minimum(starts, ends) * CM_PER_MM, np.abs(steps) * CM_PER_MM
    grid = Grid((low[x], low[y], low[z]), (size[x], size[y], size[z]), (counts[z], counts[y], counts[x]))
    return grid, (z, y, x), (ends[z] < starts[z], ends[y] < starts[y], ends[x] < starts[x])


def _read_frames(
    file: Item, count: int, corner: NDArray[np.float64], normal: NDArray[np.float64]
) -> tuple[float, float]:
    """Offset of the first frame along the normal and step to the next [mm]; the step is negative for falling
    offsets."""
    if count < 2:
        raise InvalidInput(f"{file.name} has a single frame", "a plane is no volume", "Export the dose of the volume")
    offsets = file.numbers("GridFrameOffsetVector", count=count)
    if abs(offsets[0]) > SPACING_TOLERANCE_MM:
        # Absolute heights are allowed in axial images (C.8.8.3.2); they must begin at the position of the first frame.
        is_axial = abs(normal[2]) == 1
        if not is_axial or abs(offsets[0] - corner[2]) > SPACING_TOLERANCE_MM:
            raise InvalidInput(
                f"{file.name} has frame offsets that begin at {offsets[0]} mm",
                f"they must begin at 0 or at the position of the first frame, z = {corner[2]} mm",
                "Export it again",
            )
        offsets = (offsets - corner[2]) * normal[2]
    step = float(offsets[-1] - offsets[0]) / (count - 1)
    even = offsets[0] + step * np.arange(count)
    if step == 0 or np.abs(offsets - even).max() > SPACING_TOLERANCE_MM:
        gaps = np.diff(offsets)
        raise InvalidInput(
            f"{file.name} has unevenly spaced frames",
            f"steps range from {gaps.min():g} to {gaps.max():g} mm",
            "Export it on an even grid",
        )
    return float(offsets[0]), step


def _read_pixels(file: Item) -> NDArray[np.integer]:
    """Stored values, shape (frames, rows, columns)."""
    bits = file.integer("BitsAllocated")
    if bits not in (16, 32):
        raise InvalidInput(f"{file.name} has {bits} bits a voxel", "RTDOSE has 16 or 32", "Export it again")
    if not file.has("PixelData"):
        raise InvalidInput(f"{file.name} has no dose values", "its pixel data are missing", "Export it in full")
    shape = (file.integer("NumberOfFrames", default=1), file.integer("Rows"), file.integer("Columns"))
    kind = "i" if file.integer("PixelRepresentation", default=0) == 1 else "u"
    syntax = file.dataset.file_meta.TransferSyntaxUID
    if syntax.is_compressed and not syntax.is_deflated:
        try:
            return np.asarray(file.dataset.pixel_array).reshape(shape)
        except Exception as error:
            raise UnreadableFile(
                f"{file.name} is compressed as '{syntax.name}'", "it cannot be unpacked here", "Export it uncompressed"
            ) from error
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    data = file.dataset.PixelData
    needed = int(np.prod(shape)) * bits // 8
    if len(data) not in (needed, needed + 1):  # padded to an even length
        raise UnreadableFile(
            f"{file.name} has {len(data)} bytes of dose values", f"its {shape} voxels need {needed}", "Export it again"
        )
    return np.frombuffer(data, dtype=f"{order}{kind}{bits // 8}", count=int(np.prod(shape))).reshape(shape)


def write_dose(
    path: PathLike,
    volume_gy: Volume,
    *,
    plan: Plan,
    ct: CtImage | None = None,
    structure_set_uid: str = "",
    beam_number: int | None = None,
    summation: str = "PLAN",
    description: str = "",
    software_version: str = "",
    comment: str = "",
    series_uid: str | None = None,
    fraction_group: int = 1,
    dvhs: Mapping[int, Dvh] | None = None,
) -> Path:
    """Write a dose as RTDOSE, 32 bit; aside first, then renamed, so that no half-written file can be left.

    Parameters
    ----------
    path : path
        The file; overwritten when it exists.
    volume_gy : Volume
        Dose [Gy], nowhere negative.
    plan : Plan
        The plan that the dose belongs to: referenced, and source of patient and study identifiers.
    ct : CtImage, optional
        Gives the frame of reference when the plan has none.
    structure_set_uid : str
        Structure set that the histograms refer to; the plan's when empty. Without histograms no structure set is named:
        in an RTDOSE the reference is part of the RT DVH module (PS3.3 C.8.8.4), and readers reach the structure set
        through the plan.
    beam_number : int, optional
        The beam, for summation BEAM.
    summation : str
        PLAN, FRACTION (the fraction group) or BEAM; each of all fractions.
    description : str
        Series description.
    software_version : str
        Version to state; that of spinedose when empty.
    comment : str
        Added to the dose comment after "Not for clinical use".
    series_uid : str, optional
        Series to put the file in; new when not given.
    fraction_group : int
        Fraction group of the plan, for summation BEAM and FRACTION.
    dvhs : mapping of int to Dvh, optional
        Cumulative histograms to store along, by ROI number.

    Returns
    -------
    pathlib.Path
        The file written.

    Raises
    ------
    NumericalError
        If a dose is negative or not a number.
    InvalidInput
        If the references are incomplete or the file cannot be written.
    """
    if summation not in WRITTEN:
        raise InvalidInput(f"'{summation}' is no dose summation", f"known are {', '.join(WRITTEN)}")
    if (summation == "BEAM") != (beam_number is not None):
        raise InvalidInput("A beam number belongs to a dose of summation BEAM, and only there", f"got {beam_number}")
    if beam_number is not None and beam_number not in [beam.number for beam in plan.beams]:
        raise InvalidInput(f"Plan '{plan.label}' has no beam {beam_number}", "the dose could not be assigned")
    if not plan.uid:
        raise InvalidInput(f"Plan '{plan.label}' has no SOP Instance UID", "an RTDOSE must name its plan")
    grid = volume_gy.grid
    if grid.shape[0] < 2:
        raise InvalidInput("A dose of a single slice cannot be written", "its thickness could not be stored")
    raw, scaling = _quantise(volume_gy)

    dataset = new_dataset(
        RTDoseStorage,
        "RTDOSE",
        plan.identity,
        series_instance_uid=series_uid or "",
        series_description=_fit(description),
        frame_of_reference_uid=plan.frame_of_reference_uid or (ct.frame_of_reference_uid if ct else "") or new_uid(),
    )
    if software_version:
        dataset.SoftwareVersions = _fit(software_version)
    dataset.InstanceNumber = 1 if beam_number is None else beam_number
    dataset.ContentDate, dataset.ContentTime = dataset.InstanceCreationDate, dataset.InstanceCreationTime
    dataset.PatientOrientation = ["L", "P"]
    dataset.PixelSpacing = decimals([grid.spacing_cm[1] * MM_PER_CM, grid.spacing_cm[0] * MM_PER_CM])
    dataset.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
    dataset.ImagePositionPatient = decimals(np.asarray(grid.origin_cm) * MM_PER_CM)
    dataset.SliceThickness = decimal(grid.spacing_cm[2] * MM_PER_CM)

    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.NumberOfFrames, dataset.Rows, dataset.Columns = grid.shape
    dataset.FrameIncrementPointer = 0x3004000C  # GridFrameOffsetVector
    dataset.BitsAllocated = dataset.BitsStored = 32
    dataset.HighBit = 31
    dataset.PixelRepresentation = 0
    dataset.PixelData = raw.tobytes()

    dataset.DoseUnits = "GY"
    dataset.DoseType = "PHYSICAL"
    dataset.DoseComment = _fit(f"{NOT_CLINICAL}; {comment}" if comment else NOT_CLINICAL)
    dataset.DoseSummationType = summation
    # Rounded to a nanometre, so that multiples of the spacing do not show how floating point adds.
    dataset.GridFrameOffsetVector = decimals(np.round(np.arange(grid.shape[0]) * grid.spacing_cm[2] * MM_PER_CM, 6))
    dataset.DoseGridScaling = scaling
    dataset.TissueHeterogeneityCorrection = "IMAGE"

    reference = item(ReferencedSOPClassUID=RTPlanStorage, ReferencedSOPInstanceUID=plan.uid)
    if summation != "PLAN":
        group = item(ReferencedFractionGroupNumber=fraction_group)
        if beam_number is not None:
            group.ReferencedBeamSequence = [item(ReferencedBeamNumber=beam_number)]
        reference.ReferencedFractionGroupSequence = [group]
    dataset.ReferencedRTPlanSequence = [reference]
    if dvhs:
        set_uid = structure_set_uid or plan.structure_set_uid
        if not set_uid:
            raise InvalidInput("The structure set of the histograms is not known", "an RTDOSE must name it", "Name it")
        dataset.ReferencedStructureSetSequence = [
            item(ReferencedSOPClassUID=RTStructureSetStorage, ReferencedSOPInstanceUID=set_uid)
        ]
        dataset.DVHSequence = [_dvh_item(number, curve) for number, curve in dvhs.items()]
    return save_aside(dataset, path)


@dataclass(frozen=True, slots=True)
class OwnDose:
    """A file that `write_dose` wrote.

    Parameters
    ----------
    sop_instance_uid, plan_uid : str
        Of the dose, and of the plan that it refers to.
    beam_number : int or None
        The beam; None for the dose of the plan or of a fraction group.
    """

    sop_instance_uid: str
    plan_uid: str
    beam_number: int | None


def own_dose(path: PathLike) -> OwnDose | None:
    """What a file is that `write_dose` wrote; None for any other file."""
    header = own_header(path)
    if header is None or header.get("Modality") != "RTDOSE":
        return None
    (plan,) = header.ReferencedRTPlanSequence
    groups = plan.get("ReferencedFractionGroupSequence", ())
    beams = [beam.ReferencedBeamNumber for group in groups for beam in group.get("ReferencedBeamSequence", ())]
    uid, plan_uid = str(header.SOPInstanceUID), str(plan.ReferencedSOPInstanceUID)
    return OwnDose(uid, plan_uid, int(beams[0]) if beams else None)


def _quantise(volume_gy: Volume) -> tuple[NDArray[np.uint32], str]:
    """Doses as whole multiples of a scaling [Gy], given as the decimal string that will be stored.

    The scaling puts the maximum one step below the top of 32 bits, so that its own rounding to 16 characters cannot
    clip; half a step is then 1.2e-10 of the maximum, far below what a float32 dose resolves. What is negative by no
    more than `SERIES_RIPPLE` is stored as zero.
    """
    values = np.asarray(volume_gy.values, dtype=np.float64)
    if not np.all(np.isfinite(values)):
        raise NumericalError(
            "The dose holds values that are not numbers", "they cannot be stored", "Please report this"
        )
    top = float(values.max())
    scaling = decimal(top / (2**32 - 2)) if top > 0 else "1"
    steps = np.rint(values / float(scaling))
    if values.min() < -SERIES_RIPPLE * max(top, 0.0):
        raise NumericalError(
            f"The dose falls to {values.min():.3g} Gy", "a physical dose is never negative", "Please report this"
        )
    assert steps.max() <= 2**32 - 1
    return np.maximum(steps, 0).astype("<u4"), scaling


SERIES_RIPPLE = 1e-5
"""How far a dose may be negative, as a share of its maximum: the truncated series of directions may be so by a little
where next to nothing arrives (docs/theory/transport.md); 3e-7 was seen in matter a metre away from the patient."""


MOST_DVH_BINS = 1000
"""Pairs of numbers in a stored histogram; explicit VR gives a decimal string element at most 64 KiB."""


def _dvh_item(number: int, curve: Dvh) -> Dataset:
    """A histogram as DICOM has it: pairs of bin width [Gy] and volume that receives at least the bin's lower dose
    [cm^3]."""
    width = max(0.01, float(np.ceil(curve.maximum_gy / MOST_DVH_BINS * 100)) / 100)
    edges = width * np.arange(int(curve.maximum_gy / width) + 1)
    volumes = np.round(curve.volume_at_dose(edges), 6)
    data = np.column_stack([np.full(len(edges), width), volumes])
    return item(
        DVHReferencedROISequence=[item(DVHROIContributionType="INCLUDED", ReferencedROINumber=number)],
        DVHType="CUMULATIVE",
        DoseUnits="GY",
        DoseType="PHYSICAL",
        DVHDoseScaling="1",
        DVHVolumeUnits="CM3",
        DVHNumberOfBins=len(edges),
        DVHData=decimals(np.round(data, 6)),
        DVHMinimumDose=decimal(curve.minimum_gy),
        DVHMaximumDose=decimal(curve.maximum_gy),
        DVHMeanDose=decimal(curve.mean_gy),
    )


def _fit(text: str) -> str:
    """Text cut to the 64 characters that a DICOM long string holds."""
    return text if len(text) <= 64 else text[:63] + "…"
