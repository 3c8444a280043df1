"""Read a folder of CT slices into a `CtImage` whose axes rise with the patient's, and write one as a CT series."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage

from spinedose._arguments import PATH, expect_each
from spinedose.density import CtImage
from spinedose.dicom._reading import Item, PathLike, open_dicom, quiet_pydicom, read_identity
from spinedose.dicom._writing import decimal, decimals, new_dataset, new_uid, save_aside, unique
from spinedose.errors import InvalidInput, SpinedoseError, UnreadableFile, UnsupportedPlan
from spinedose.geometry import PATIENT_POSITIONS
from spinedose.grid import Grid, Volume
from spinedose.identity import Identity, is_other_id
from spinedose.units import MM_PER_CM

POSITION_TOLERANCE_MM = 0.02
"""Slices may lie this far from an even lattice: positions written with two decimals are off by up to 0.01 mm."""

ORIENTATION_TOLERANCE = 1e-4
"""Direction cosines may differ this much from 0 or 1: over half a metre that moves a voxel by 0.05 mm."""

SPARSE = 1.5
"""Slices that lie further apart than this many of their thicknesses are warned about; smaller gaps are scanned on
purpose (house default)."""

AIR_HU = -1000.0
"""CT number of nothing, by definition of the scale; voxels of padding become this."""

LOWEST_MATTER_HU = -900.0
"""Padding values above this would stand for lung or tissue; they are left as they are, with a warning."""

CEILINGS_HU = (3071.0, 3095.0)
"""Highest CT numbers of 12-bit scales (0 to 4095) with intercept -1024 and -1000, also seen inside 16-bit files."""

_DICOM_SUFFIXES = ("", ".dcm", ".dicom", ".dic", ".ima", ".img", ".ct")


def read_ct(
    directory: PathLike | Sequence[PathLike],
    *,
    missing_slices: Literal["refuse", "interpolate"] = "refuse",
    patient_position: str | None = None,
) -> CtImage:
    """Read the CT series in a folder.

    Files of other modalities, hidden files and scout views (LOCALIZER) are passed over; subfolders are not searched.

    Parameters
    ----------
    directory : path, or sequence of paths
        Folder with the CT slices of one series, or the files themselves.
    missing_slices : {"refuse", "interpolate"}
        What to do where one slice is missing between two neighbours: refuse the series, or interpolate it linearly
        and warn. Two or more missing in a row are always refused.
    patient_position : str or None
        HFS, HFP, FFS or FFP, for a series that does not say.

    Returns
    -------
    CtImage
        Axes x, y, z rise whatever the orientation of the acquisition; `warnings` tell of saturated voxels, padding
        and interpolated slices.

    Raises
    ------
    UnreadableFile
        If a file is empty, truncated or damaged, naming it.
    InvalidInput
        If slices are missing, double or unevenly spaced, series are mixed, or geometry is absent or oblique.
    """
    if missing_slices not in ("refuse", "interpolate"):
        raise InvalidInput(f"'{missing_slices}' is no way to treat missing slices", "", 'Use "refuse" or "interpolate"')
    if patient_position is not None and patient_position not in PATIENT_POSITIONS:
        raise InvalidInput(
            f"Patient position '{patient_position}' is not known", "", f"Use one of {', '.join(PATIENT_POSITIONS)}"
        )
    with quiet_pydicom():
        slices = [_read_slice(path, item) for path, item in _ct_files(directory)]
        if not slices:
            place = f"Folder '{directory}'" if isinstance(directory, str | os.PathLike) else "The list of files"
            raise InvalidInput(
                f"{place} has no CT slices",
                "no file in it is a CT image, and folders within it are not searched",
                "Name the folder of the slices",
            )
        _prove_one_series(slices)
        slices.sort(key=lambda s: s.position_mm)
        index = _lattice(slices, missing_slices)
        stored = _Voxels.read(slices, index)
    warnings = list(stored.warnings)
    absent = sorted(set(range(index[-1] + 1)) - set(index))
    step = (slices[-1].position_mm - slices[0].position_mm) / index[-1]
    if absent:
        places = ", ".join(f"{slices[0].position_mm + step * k:.2f}" for k in absent)
        warnings.append(f"{len(absent)} CT slice(s) missing at {places} mm were interpolated between their neighbours.")
    thickness = float(np.median([one.thickness_mm for one in slices]))
    if thickness > 0 and step > SPARSE * thickness:
        warnings.append(
            f"The CT slices are {step:.3g} mm apart, but {thickness:.3g} mm thick (as where every second one is "
            "missing): the patient between them is interpolated. Make sure that the series was exported in full."
        )
    return CtImage(
        hu=_in_patient_axes(slices[0], step, stored.values),
        patient_position=_patient_position(slices[0], patient_position, warnings),
        uid=slices[0].series_uid,
        frame_of_reference_uid=slices[0].frame_of_reference_uid,
        saturated_voxels=stored.saturated,
        warnings=unique(warnings),
        identity=slices[0].identity,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Slice:
    """Geometry and scale of one slice: all but its pixels, lengths in mm.

    `axes` are the patient axes (0 x, 1 y, 2 z) along which columns, rows and slices follow each other; `signs` say
    whether columns and rows follow each other upwards (+1) or downwards (-1).
    """

    path: Path
    series_uid: str
    frame_of_reference_uid: str
    patient_position: str
    shape: tuple[int, int]
    spacing_mm: tuple[float, float]
    axes: tuple[int, int, int]
    signs: tuple[int, int]
    origin_mm: tuple[float, float, float]
    slope: float
    intercept: float
    thickness_mm: float
    identity: Identity

    @property
    def position_mm(self) -> float:
        """Coordinate along the normal of the slices [mm], rising with the patient axis."""
        return self.origin_mm[self.axes[2]]


def _ct_files(directory: PathLike | Sequence[PathLike]) -> list[tuple[Path, Item]]:
    """CT slices of a folder, or of a list, with their headers, by name."""
    if not isinstance(directory, str | os.PathLike):
        expect_each("The CT slices", directory, PATH, "paths", "Name their folder, or the files")
        return _ct_among([Path(file) for file in directory])
    folder = Path(directory)
    if not folder.is_dir():
        problem = f"'{folder}' is not a folder" if folder.exists() else f"There is no folder '{folder}'"
        raise InvalidInput(problem, "the CT is asked for as a folder of slices", "Name the folder")
    try:
        return _ct_among(sorted(folder.iterdir()))
    except OSError as error:
        raise UnreadableFile(f"Folder '{folder}' cannot be opened", str(error.strerror or error)) from error


def _ct_among(paths: Sequence[Path]) -> list[tuple[Path, Item]]:
    """CT slices among files."""
    found: list[tuple[Path, Item]] = []
    for path in paths:
        if not path.is_file() or path.name.startswith(".") or path.name.upper() == "DICOMDIR":
            continue
        try:
            item = Item(open_dicom(path, stop_before_pixels=True), f"CT slice '{path.name}'")
        except UnreadableFile:
            suffix = path.suffix.lower()
            if suffix in _DICOM_SUFFIXES or suffix[1:].isdigit():
                raise  # it may be a slice that was lost
            continue
        if item.text("Modality", default="") == "CT" and "LOCALIZER" not in item.texts("ImageType"):
            found.append((path, item))
    return found


def is_ct_slice(file: PathLike) -> bool:
    """Whether a file is a DICOM image of modality CT."""
    try:
        return Item(open_dicom(file, stop_before_pixels=True), "").text("Modality", default="") == "CT"
    except UnreadableFile:
        return False


def _read_slice(path: Path, item: Item) -> _Slice:
    is_enhanced = item.text("SOPClassUID", default="") == EnhancedCTImageStorage
    if is_enhanced or item.integer("NumberOfFrames", default=1) > 1:
        raise InvalidInput(
            f"{item.name} is an enhanced, multi-frame CT", "only one slice a file is read", "Export single slices"
        )
    if item.integer("SamplesPerPixel", default=1) != 1 or item.text("PhotometricInterpretation") != "MONOCHROME2":
        raise InvalidInput(f"{item.name} is not a MONOCHROME2 image", "its values are no CT numbers")
    if item.text("RescaleType", default="HU") not in ("HU", "US"):
        raise InvalidInput(f"{item.name} is in units of {item.text('RescaleType')}", "CT numbers in HU are needed")
    slope, intercept = item.number("RescaleSlope"), item.number("RescaleIntercept")
    if not 0 < slope <= 1000 or abs(intercept) > 1e5:
        raise InvalidInput(
            f"{item.name} has rescale slope {slope:g} and intercept {intercept:g}", "that is no HU scale"
        )
    rows, columns = item.integer("Rows"), item.integer("Columns")
    row_step, column_step = item.numbers("PixelSpacing", count=2)
    if min(rows, columns) < 1 or not (0 < row_step <= 1000 and 0 < column_step <= 1000):
        raise InvalidInput(
            f"{item.name} has {rows} x {columns} pixels of {row_step:g} mm x {column_step:g} mm", "they need a size"
        )
    origin = item.numbers("ImagePositionPatient", count=3)
    if np.abs(origin).max() > 1e5:
        raise InvalidInput(f"{item.name} lies at {origin} mm", "no scanner is that large")
    axes, signs = _orientation(item)
    return _Slice(
        path=path,
        series_uid=item.text("SeriesInstanceUID", default=""),
        frame_of_reference_uid=item.text("FrameOfReferenceUID", default=""),
        patient_position=item.text("PatientPosition", default=""),
        shape=(rows, columns),
        spacing_mm=(float(row_step), float(column_step)),
        axes=axes,
        signs=signs,
        origin_mm=(float(origin[0]), float(origin[1]), float(origin[2])),
        slope=slope,
        intercept=intercept,
        thickness_mm=_thickness_mm(item),
        identity=read_identity(item),
    )


def _thickness_mm(item: Item) -> float:
    """Thickness of a slice [mm]; 0, which many writers put there, also where there is none that can be used."""
    try:
        return max(item.number("SliceThickness", default=0.0), 0.0)
    except InvalidInput:
        return 0.0


def _orientation(item: Item) -> tuple[tuple[int, int, int], tuple[int, int]]:
    """Patient axes of columns, rows and slices, and the signs of the first two."""
    cosines = item.numbers("ImageOrientationPatient", count=6).reshape(2, 3)
    axes = np.abs(cosines).argmax(axis=1)
    signs = np.sign(cosines[[0, 1], axes])
    ideal = np.zeros((2, 3))
    ideal[[0, 1], axes] = signs
    if axes[0] == axes[1] or np.abs(cosines - ideal).max() > ORIENTATION_TOLERANCE:
        text = ", ".join(f"{c:.4g}" for c in cosines.ravel())
        raise InvalidInput(
            f"{item.name} is oblique",
            f"its image orientation is {text}",
            "Reconstruct or resample the CT parallel to the patient axes",
        )
    column_axis, row_axis = int(axes[0]), int(axes[1])
    return (column_axis, row_axis, 3 - column_axis - row_axis), (int(signs[0]), int(signs[1]))


def _prove_one_series(slices: list[_Slice]) -> None:
    """All slices must belong together; the first difference found is told with the files on both sides.

    Pixel spacings are written as decimal strings, and some writers round them anew on each slice: they may differ as
    long as no pixel moves by more than positions may.
    """
    _prove_one_patient(slices)
    for what, of in (
        ("series", lambda s: s.series_uid),
        ("frames of reference", lambda s: s.frame_of_reference_uid),
        ("patient positions", lambda s: s.patient_position),
        ("matrix sizes (rows, columns)", lambda s: s.shape),
        ("image orientations", lambda s: (s.axes, s.signs)),
    ):
        groups: dict[object, list[str]] = {}
        for one in slices:
            groups.setdefault(of(one), []).append(one.path.name)
        if len(groups) > 1:
            text = "; ".join(
                f"{value}: {len(names)} slice(s), '{names[0]}'{' ...' if len(names) > 1 else ''}"
                for value, names in list(groups.items())[:4]
            )
            raise InvalidInput(f"The folder mixes {len(groups)} {what}", text, "Leave only one series in it")
    first = slices[0]
    for one in slices:
        wide = np.abs(np.subtract(one.spacing_mm, first.spacing_mm)) * first.shape
        if wide.max() > POSITION_TOLERANCE_MM:
            raise InvalidInput(
                f"CT slice '{one.path.name}' has a pixel spacing of {_by(one.spacing_mm)} mm",
                f"that of '{first.path.name}' is {_by(first.spacing_mm)} mm",
                "Leave only one series in the folder",
            )
        for axis in first.axes[:2]:
            shift = one.origin_mm[axis] - first.origin_mm[axis]
            if abs(shift) > POSITION_TOLERANCE_MM:
                raise InvalidInput(
                    f"CT slice '{one.path.name}' is shifted by {shift:.3f} mm along {'xyz'[axis]}",
                    f"against '{first.path.name}', as with a tilted gantry",
                    "Reconstruct or resample the CT parallel to the patient axes",
                )


def _by(lengths_mm: tuple[float, float]) -> str:
    """Two lengths in words, with all their digits."""
    return f"{lengths_mm[0]:.9g} x {lengths_mm[1]:.9g}"


def _prove_one_patient(slices: list[_Slice]) -> None:
    """No slice is of another patient by its ID; one without an ID belongs to anybody. IDs are never told."""
    known = [one for one in slices if one.identity.patient_id.strip()]
    odd = [one for one in known if is_other_id(one.identity.patient_id, known[0].identity.patient_id)]
    if not odd:
        return
    most, few = known[0], odd
    if 2 * len(odd) > len(known):  # the first one is the stranger
        most = odd[0]
        few = [one for one in known if is_other_id(one.identity.patient_id, most.identity.patient_id)]
    raise InvalidInput(
        f"{len(few)} CT slice(s), '{few[0].path.name}'{' ...' if len(few) > 1 else ''}, are of another patient than"
        f" '{most.path.name}'",
        "the patient IDs differ",
        "Leave only one patient's series in the folder, or correct the IDs",
    )


def _lattice(slices: list[_Slice], missing_slices: str) -> list[int]:
    """Index of each slice (sorted by position) on an even lattice; a gap in the indices is a missing slice."""
    if len(slices) < 2:
        raise InvalidInput(
            f"The CT has a single slice, '{slices[0].path.name}'",
            "its extent along the patient is not known",
            "Export the whole series",
        )
    positions = np.array([s.position_mm for s in slices])
    steps = np.diff(positions)
    close = int(np.argmin(steps))
    if steps[close] <= POSITION_TOLERANCE_MM:
        raise InvalidInput(
            f"CT slices '{slices[close].path.name}' and '{slices[close + 1].path.name}' lie at the same position",
            f"{positions[close]:.2f} mm",
            "Leave only one of them in the folder",
        )
    usual = float(np.median(steps))
    if len(steps) == 2 and steps.max() > 1.5 * steps.min():
        usual = float(steps.min())  # of two unequal steps the median lies between them
    counts = np.maximum(np.rint(steps / usual), 1).astype(int)
    index = np.concatenate(([0], np.cumsum(counts)))
    if index[-1] > 20 * len(slices):
        raise _uneven(slices, steps, usual)
    even = positions[0] + (positions[-1] - positions[0]) * index / index[-1]
    if np.abs(positions - even).max() > POSITION_TOLERANCE_MM:
        raise _uneven(slices, steps, usual)
    gaps = np.flatnonzero(counts > 1)
    if len(gaps):
        where = "; ".join(
            f"{counts[k] - 1} between '{slices[k].path.name}' at {positions[k]:.2f} mm "
            f"and '{slices[k + 1].path.name}' at {positions[k + 1]:.2f} mm"
            for k in gaps[:4]
        )
        if missing_slices == "refuse":
            raise InvalidInput(
                f"The CT lacks {index[-1] + 1 - len(slices)} slice(s)",
                where + ("; ..." if len(gaps) > 4 else ""),
                "Export the whole series, or accept interpolation",
                argument='missing_slices="interpolate"',
            )
        if counts.max() > 2:
            raise InvalidInput("The CT lacks several slices in a row", where, "Export the whole series")
    return [int(k) for k in index]


def _uneven(slices: list[_Slice], steps: NDArray[np.float64], usual: float) -> InvalidInput:
    worst = int(np.argmax(np.abs(steps - usual)))
    return InvalidInput(
        "The CT slices are unevenly spaced",
        f"most are {usual:.3f} mm apart, but '{slices[worst].path.name}' at {slices[worst].position_mm:.3f} mm and "
        f"'{slices[worst + 1].path.name}' at {slices[worst + 1].position_mm:.3f} mm are {steps[worst]:.3f} mm apart",
        "Export or reconstruct the CT with even spacing",
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Voxels:
    """CT numbers of all slices [HU], shape (slices, rows, columns), and what was met on reading them."""

    values: NDArray[np.float32]
    saturated: int
    warnings: tuple[str, ...]

    @classmethod
    def read(cls, slices: list[_Slice], index: list[int]) -> _Voxels:
        """Read the pixels of each slice into its place on the lattice and fill single gaps linearly."""
        values = np.empty((index[-1] + 1, *slices[0].shape), dtype=np.float32)
        saturated, padded, odd_padding = 0, 0, set()
        for one, k in zip(slices, index, strict=True):
            dataset = open_dicom(one.path)
            item = Item(dataset, f"CT slice '{one.path.name}'")
            stored = _pixels(item, one)
            bits, is_signed = item.integer("BitsStored"), item.integer("PixelRepresentation") == 1
            if not 1 <= bits <= 32:
                raise InvalidInput(f"{item.name} stores {bits} bits a pixel", "1 to 32 are possible", "Export it again")
            saturated += int(np.count_nonzero(stored == (2 ** (bits - is_signed) - 1)))
            np.multiply(stored, np.float32(one.slope), out=values[k], casting="unsafe")
            values[k] += np.float32(one.intercept)
            low, high = _padding(item, is_signed)
            if low is not None and high is not None:
                if high * one.slope + one.intercept <= LOWEST_MATTER_HU:
                    is_padding = (stored >= low) & (stored <= high)
                    padded += int(np.count_nonzero(is_padding))
                    values[k][is_padding] = AIR_HU
                elif np.any((stored >= low) & (stored <= high)):
                    odd_padding.add(high * one.slope + one.intercept)
        present = set(index)
        for k in range(1, index[-1]):
            if k not in present:
                values[k] = 0.5 * (values[k - 1] + values[k + 1])

        warnings = []
        highest = float(values.max())
        if saturated == 0 and highest in CEILINGS_HU:
            saturated = int(np.count_nonzero(values == np.float32(highest)))
        if saturated:
            warnings.append(
                f"{saturated} CT voxel(s) stand at the top of the stored scale ({highest:g} HU), where the true "
                "CT number is not known; give metal its density by an override."
            )
        if padded:
            warnings.append(f"{padded} CT voxel(s) of padding outside the scanned circle were taken as air.")
        for hu in sorted(odd_padding):
            warnings.append(f"The CT's padding value stands for {hu:g} HU, which is matter; such voxels were kept.")
        return cls(values, saturated, tuple(warnings))


def _pixels(item: Item, one: _Slice) -> NDArray[Any]:
    try:
        stored: NDArray[Any] = item.dataset.pixel_array
    except Exception as error:  # damaged or compressed pixel data fail in many ways
        syntax = item.dataset.file_meta.TransferSyntaxUID
        if getattr(syntax, "is_compressed", False):
            raise InvalidInput(
                f"{item.name} cannot be decompressed", f"transfer syntax {syntax.name}", "Export it uncompressed"
            ) from error
        raise UnreadableFile(
            f"{item.name} has unreadable pixel data", str(error).split("\n")[0].rstrip("."), "Export it again"
        ) from error
    if stored.shape != one.shape:
        raise UnreadableFile(f"{item.name} has pixels of shape {stored.shape} instead of {one.shape}")
    return stored


def _padding(item: Item, is_signed: bool) -> tuple[int | None, int | None]:
    """Lowest and highest stored value that mean padding, or None twice."""
    if not item.has("PixelPaddingValue"):
        return None, None
    value = item.integer("PixelPaddingValue")
    limit = item.integer("PixelPaddingRangeLimit", default=value)
    # Some writers tag the value unsigned although the pixels are signed: 63536 means -2000.
    wrapped = sorted(v - 65536 if is_signed and v > 32767 else v for v in (value, limit))
    return wrapped[0], wrapped[1]


def _in_patient_axes(first: _Slice, step_mm: float, stored: NDArray[np.float32]) -> Volume:
    """Turn voxels (slices, rows, columns) into a volume (z, y, x) with rising axes."""
    column_axis, row_axis, slice_axis = first.axes
    spacing, origin = [0.0, 0.0, 0.0], list(first.origin_mm)
    spacing[slice_axis] = step_mm
    for axis, sign, count, size, array_axis in (
        (column_axis, first.signs[0], first.shape[1], first.spacing_mm[1], 2),
        (row_axis, first.signs[1], first.shape[0], first.spacing_mm[0], 1),
    ):
        spacing[axis] = size
        if sign < 0:
            stored = np.flip(stored, axis=array_axis)
            origin[axis] -= size * (count - 1)
    patient_axis_of = {slice_axis: 0, row_axis: 1, column_axis: 2}
    values = np.ascontiguousarray(np.transpose(stored, [patient_axis_of[axis] for axis in (2, 1, 0)]))
    grid = Grid(
        (origin[0] / MM_PER_CM, origin[1] / MM_PER_CM, origin[2] / MM_PER_CM),
        (spacing[0] / MM_PER_CM, spacing[1] / MM_PER_CM, spacing[2] / MM_PER_CM),
        (values.shape[0], values.shape[1], values.shape[2]),
    )
    return Volume(grid, values)


def _patient_position(first: _Slice, override: str | None, warnings: list[str]) -> str:
    told = first.patient_position
    if override is not None:
        if told and told != override:
            warnings.append(f"The CT says patient position {told}; it was overruled by {override}.")
        return override
    if not told:
        raise InvalidInput(
            "The CT does not say the patient position",
            "beams would come from the wrong side",
            "Give it",
            argument="patient_position",
        )
    if told not in PATIENT_POSITIONS:
        raise UnsupportedPlan(
            f"The CT has patient position '{told}'", f"only {', '.join(PATIENT_POSITIONS)} are computed"
        )
    return told


# ----------------------------------------------------------------------------------------------------------- writing


def write_ct(image: CtImage, directory: PathLike, *, identity: Identity | None = None) -> list[Path]:
    """Write an image as a series of CT slices, readable by `read_ct` and other software.

    Parameters
    ----------
    image : CtImage
        CT numbers must be whole and between -32768 and 32767 HU: they are stored as 16-bit integers, exactly.
    directory : path
        Folder for the files CT_0001.dcm ...; made when absent. It must hold no other files named CT_*.dcm.
    identity : Identity or None
        Patient and study; anonymous when None.

    Returns
    -------
    list of pathlib.Path
        The files, from low to high z.

    Raises
    ------
    InvalidInput
        If the values cannot be stored exactly, or the folder cannot be used. No incomplete series is left behind.
    """
    folder = Path(directory)
    values = image.hu.values
    if not np.all(np.isfinite(values)) or np.any(values != np.rint(values)):
        raise InvalidInput("The CT numbers are not whole", "they are stored as integers", "Round them first")
    if values.min() < -32768 or values.max() > 32767:
        raise InvalidInput("The CT numbers do not fit 16 bits", f"they run from {values.min()} to {values.max()} HU")
    names = [f"CT_{k + 1:04d}.dcm" for k in range(len(values))]
    identity = identity or Identity()
    study_uid = identity.study_instance_uid or new_uid()
    series_uid, frame_uid = image.uid or new_uid(), image.frame_of_reference_uid or new_uid()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        others = sorted({path.name for path in folder.glob("CT_*.dcm")} - set(names))
        if others:
            raise InvalidInput(
                f"Folder '{folder}' already holds '{others[0]}'", "two series would be mixed", "Choose another folder"
            )
        aside = Path(tempfile.mkdtemp(prefix=".ct-", dir=folder))
    except OSError as error:
        raise InvalidInput(f"Folder '{folder}' cannot be used", str(error.strerror or error)) from error
    x, y, z = (axis * MM_PER_CM for axis in image.hu.grid.axes_cm)
    dx, dy, dz = (step * MM_PER_CM for step in image.hu.grid.spacing_cm)
    try:
        for k, name in enumerate(names):
            dataset = new_dataset(
                CTImageStorage,
                "CT",
                identity,
                series_instance_uid=series_uid,
                series_description="CT",
                frame_of_reference_uid=frame_uid,
            )
            dataset.StudyInstanceUID = study_uid
            dataset.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
            dataset.SeriesNumber = 1
            dataset.AcquisitionNumber = 1
            dataset.InstanceNumber = k + 1
            dataset.PatientPosition = image.patient_position
            dataset.KVP = None
            dataset.Laterality = ""
            dataset.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
            dataset.ImagePositionPatient = decimals([x[0], y[0], z[k]])
            dataset.PixelSpacing = decimals([dy, dx])
            dataset.SliceThickness = decimal(dz)
            dataset.SamplesPerPixel = 1
            dataset.PhotometricInterpretation = "MONOCHROME2"
            dataset.Rows, dataset.Columns = values.shape[1:]
            dataset.BitsAllocated = dataset.BitsStored = 16
            dataset.HighBit = 15
            dataset.PixelRepresentation = 1
            dataset.RescaleSlope = "1"
            dataset.RescaleIntercept = "0"
            dataset.RescaleType = "HU"
            dataset.PixelData = values[k].astype("<i2").tobytes()
            save_aside(dataset, aside / name)
        for name in names:
            (aside / name).replace(folder / name)
    except SpinedoseError:
        raise
    except OSError as error:
        raise InvalidInput(f"The CT cannot be written to '{folder}'", str(error.strerror or error)) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return [folder / name for name in names]
