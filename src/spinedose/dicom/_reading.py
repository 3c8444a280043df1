"""Open DICOM files of any make and take values out of them, with errors that name the file, the beam and the tag.

pydicom converts a value when it is first touched, so a damaged file fails late and in many ways. Everything here
turns those failures into `SpinedoseError`: a reader that takes its values through `Item` cannot leak a traceback.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.datadict import dictionary_description, dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from spinedose._arguments import PATH, expect
from spinedose.errors import InvalidInput, UnreadableFile
from spinedose.identity import Identity

PathLike: TypeAlias = str | os.PathLike[str]

_UNDEFINED_LENGTH = 0xFFFFFFFF


def open_dicom(path: PathLike, *, stop_before_pixels: bool = False) -> Dataset:
    """Read one DICOM file, with or without preamble and file meta group.

    Parameters
    ----------
    path : path
        The file.
    stop_before_pixels : bool
        Leave the pixel data unread (the file is then not checked beyond them).

    Returns
    -------
    pydicom.Dataset
        The data set. `file_meta.TransferSyntaxUID` is always there: where the file has none it is what the encoding
        of the elements shows (Monaco writes such files, in implicit VR little endian).

    Raises
    ------
    UnreadableFile
        If the file is missing, empty, truncated or not DICOM.
    """
    expect("The file", path, PATH, "a path")
    path = Path(path)
    advice = "Export or copy the file again"
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise UnreadableFile(f"'{path}' is not a file", "one DICOM file is asked for here", "Name the file itself")
        if size == 0:
            raise UnreadableFile(f"'{path.name}' is empty", "it has 0 bytes", advice)
        with quiet_pydicom() as complaints:
            dataset = pydicom.dcmread(path, force=True, stop_before_pixels=stop_before_pixels)
    except UnreadableFile:
        raise
    except FileNotFoundError:
        raise UnreadableFile(f"There is no file '{path}'", "", "Check the name") from None
    except OSError as error:
        raise UnreadableFile(f"'{path}' cannot be opened", str(error.strerror or error), "") from error
    except Exception as error:  # pydicom fails in many ways on damaged files; each means the same to the user
        raise UnreadableFile(f"'{path.name}' is damaged or not DICOM", _in_short(error), advice) from error
    if not any(keyword in dataset for keyword in ("SOPClassUID", "Modality")):
        raise UnreadableFile(f"'{path.name}' is not DICOM", "it has neither a SOP class nor a modality", advice)
    if any("end of file" in text.lower() or "no tag to read" in text.lower() for text in complaints):
        raise UnreadableFile(f"'{path.name}' is truncated", "it ends in the middle of a sequence", advice)
    for element in dataset.values():
        if (
            isinstance(element, RawDataElement)
            and element.length != _UNDEFINED_LENGTH
            and len(element.value or b"") < element.length
        ):
            raise UnreadableFile(f"'{path.name}' is truncated", f"it ends inside element {element.tag}", advice)
    _give_transfer_syntax(dataset)
    return dataset


def expect_modality(dataset: Dataset, path: PathLike, modality: str) -> None:
    """Refuse a data set of another modality ("CT", "RTPLAN", "RTSTRUCT", "RTDOSE") than asked for.

    Raises
    ------
    UnreadableFile
        Naming what the file is and what it should be.
    """
    found = Item(dataset, f"'{Path(path).name}'").text("Modality", default="")
    if found != modality:
        kind = f"of modality {found}" if found else "without a modality"
        raise UnreadableFile(
            f"'{Path(path).name}' is {kind}",
            f"a file of modality {modality} is asked for here",
            f"Name the {modality} file",
        )


@contextmanager
def quiet_pydicom() -> Iterator[list[str]]:
    """Collect pydicom's warnings about values of odd form instead of showing them; our own checks speak to the user."""
    complaints: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield complaints
        complaints.extend(str(warning.message) for warning in caught)


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """A data set, or an item of a sequence, with the name by which errors call it.

    Parameters
    ----------
    dataset : pydicom.Dataset
        Where the values are.
    name : str
        Such as `"Beam 3 'LAO'"`.
    """

    dataset: Dataset
    name: str

    def has(self, keyword: str) -> bool:
        """Whether the element is there and not empty."""
        value = self._value(keyword)
        if value is None:
            return False
        return not (hasattr(value, "__len__") and len(value) == 0)

    def text(self, keyword: str, *, default: str | None = None) -> str:
        """Return the value as text without surrounding blanks; required unless there is a default."""
        if not self.has(keyword):
            return self._required(keyword) if default is None else default
        return _printable(str(self._value(keyword)))

    def number(self, keyword: str, *, default: float | None = None) -> float:
        """Return one finite number; required unless there is a default."""
        if not self.has(keyword):
            return self._required(keyword) if default is None else default
        try:
            number = float(self._value(keyword))
        except Exception as error:
            raise self._unusable(keyword, "it is not a number") from error
        if not np.isfinite(number):
            raise self._unusable(keyword, f"its value is {number}")
        return number

    def integer(self, keyword: str, *, default: int | None = None) -> int:
        """Return one whole number; required unless there is a default."""
        number = self.number(keyword, default=default)
        if number != int(number):
            raise self._unusable(keyword, f"{number} is not a whole number")
        return int(number)

    def numbers(self, keyword: str, *, count: int | None = None) -> NDArray[np.float64]:
        """Return all values as finite numbers, shape (count,); required."""
        values = self._decimal_strings(keyword)
        if values is None:
            if not self.has(keyword):
                self._required(keyword)
            value = self._value(keyword)
            try:
                values = np.array([float(v) for v in (value if _is_many(value) else (value,))], dtype=np.float64)
            except Exception as error:
                raise self._unusable(keyword, "it holds something that is not a number") from error
        if not np.all(np.isfinite(values)):
            raise self._unusable(keyword, "it holds a value that is not finite")
        if count is not None and len(values) != count:
            raise self._unusable(keyword, f"it has {len(values)} numbers instead of {count}")
        return values

    def texts(self, keyword: str) -> tuple[str, ...]:
        """Return all values as text; none when the element is absent."""
        if not self.has(keyword):
            return ()
        value = self._value(keyword)
        return tuple(_printable(str(v)) for v in (value if _is_many(value) else (value,)))

    def items(self, keyword: str, name: str = "") -> list[Item]:
        """Return the items of a sequence, none when it is absent; in errors each is called by our name and `name`."""
        value = self._value(keyword)
        if value is None:
            return []
        if not isinstance(value, pydicom.Sequence):
            raise self._unusable(keyword, "it is not a sequence")
        name = name or _label(keyword)
        return [Item(dataset, f"{self.name}, {name} {index + 1}") for index, dataset in enumerate(value)]

    def called(self, name: str) -> Item:
        """Return the same data set under another name."""
        return Item(self.dataset, name)

    def _value(self, keyword: str) -> Any:
        tag = tag_for_keyword(keyword)
        assert tag is not None, f"{keyword} is not a DICOM keyword"
        try:
            element = self.dataset.get(tag)
            return None if element is None else element.value
        except Exception as error:
            raise self._unusable(keyword, _in_short(error)) from error

    def _decimal_strings(self, keyword: str) -> NDArray[np.float64] | None:
        """Decimal strings straight from the bytes of the file: ten times faster than through pydicom's objects.

        None when the element is not there in that form; the caller then takes the slow way, which explains failures.
        """
        tag = tag_for_keyword(keyword)
        assert tag is not None and dictionary_VR(tag) == "DS"
        try:
            raw = self.dataset.get_item(tag)
            if isinstance(raw, RawDataElement) and raw.VR in (None, "DS") and raw.value:
                return np.array([float(text) for text in raw.value.strip(b"\0 ").split(b"\\")], dtype=np.float64)
        except Exception:
            return None
        return None

    def _required(self, keyword: str) -> Any:
        raise InvalidInput(
            f"{self.name} has no {_label(keyword)}", "it is needed to compute", "Export it again in full"
        )

    def _unusable(self, keyword: str, why: str) -> InvalidInput:
        return InvalidInput(f"{self.name} has an unusable {_label(keyword)}", why, "Export it again")


def read_identity(item: Item) -> Identity:
    """Take patient and study identifiers out of a data set; what is absent stays empty."""
    return Identity(
        patient_name=item.text("PatientName", default=""),
        patient_id=item.text("PatientID", default=""),
        patient_birth_date=item.text("PatientBirthDate", default=""),
        patient_sex=item.text("PatientSex", default=""),
        study_instance_uid=item.text("StudyInstanceUID", default=""),
        study_id=item.text("StudyID", default=""),
        study_date=item.text("StudyDate", default=""),
        study_time=item.text("StudyTime", default=""),
        accession_number=item.text("AccessionNumber", default=""),
        referring_physician=item.text("ReferringPhysicianName", default=""),
    )


def _give_transfer_syntax(dataset: Dataset) -> None:
    meta = getattr(dataset, "file_meta", None)
    if meta is not None and "TransferSyntaxUID" in meta:
        return
    is_implicit, is_little = dataset.original_encoding
    if meta is None:
        dataset.file_meta = meta = FileMetaDataset()
    if is_implicit:
        meta.TransferSyntaxUID = ImplicitVRLittleEndian
    else:
        meta.TransferSyntaxUID = ExplicitVRLittleEndian if is_little else ExplicitVRBigEndian


def _is_many(value: Any) -> bool:
    return isinstance(value, list | tuple | pydicom.multival.MultiValue | np.ndarray)


def _label(keyword: str) -> str:
    """The name of an element as the standard has it: `"Isocenter Position"`."""
    return str(dictionary_description(keyword))


def _printable(text: str) -> str:
    """Text without blanks around it and with `?` for control characters, fit for a line of a message."""
    return "".join(c if c.isprintable() else "?" for c in text.strip("\0 "))


def _in_short(error: Exception) -> str:
    text = str(error).split("\n")[0].rstrip(".")
    return text if 0 < len(text) <= 120 else type(error).__name__
