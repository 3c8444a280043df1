"""Find the files of one treatment plan in a folder: plan, CT series, structure set and planned doses, by their UIDs.

Names of files and folders mean nothing. What belongs together is told by references: plan to structure set, structure
set to CT series, dose to plan. Where a reference is missing, the frame of reference decides, and a note says so.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pydicom
from pydicom.datadict import tag_for_keyword

from spinedose.dicom._reading import Item, PathLike, quiet_pydicom
from spinedose.errors import InvalidInput, SpinedoseError, UnreadableFile

DICOM_SUFFIXES = ("", ".dcm", ".dicom", ".dic", ".ima", ".img", ".ct")
"""Suffixes of files that may be DICOM without saying so at their beginning."""

COMPARABLE = ("PLAN", "FRACTION", "BEAM", "FRACTION_SESSION", "BEAM_SESSION", "")
"""Summation types of doses that can be compared, the best first; a missing one is taken to be that of the plan."""

_KEYWORDS = (
    "SOPClassUID", "SOPInstanceUID", "Modality", "SeriesInstanceUID", "FrameOfReferenceUID", "ImageType",
    "SeriesDescription", "RTPlanLabel", "RTPlanName", "ReferencedStructureSetSequence", "ReferencedRTPlanSequence",
    "ReferencedFrameOfReferenceSequence", "StructureSetROISequence", "DoseSummationType", "DoseType", "DoseUnits",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class CaseFiles:
    """The files of one plan.

    Parameters
    ----------
    plan : Path
        RTPLAN.
    ct : tuple of Path
        Slices of one CT series, by name.
    structures : Path or None
        RTSTRUCT; None when there is none.
    doses : tuple of Path
        RTDOSE of the whole plan, or those of its beams; empty when there is none.
    notes : tuple of str
        What was passed over, or taken without a reference that says so; sentences.
    unread : tuple of str
        Those of the notes that tell of files that could not be read (`telling`).
    """

    plan: Path
    ct: tuple[Path, ...]
    structures: Path | None
    doses: tuple[Path, ...]
    notes: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()


MOST_TOLD = 3
"""Files that could not be read, named in a refusal; the others are counted."""


@contextmanager
def telling(unread: Sequence[str]) -> Iterator[None]:
    """Add to a refusal what could not be read: a slice that is missing is often one of the files passed over."""
    try:
        yield
    except SpinedoseError as error:
        if not unread:
            raise
        told = [note.rstrip(".") for note in unread[:MOST_TOLD]]
        told += [f"{len(unread) - MOST_TOLD} more files could not be read"] if len(unread) > MOST_TOLD else []
        why = "; ".join(filter(None, (error.why, *told)))
        raise type(error)(error.problem, why, error.advice, error.argument) from error


Kind = Literal["ct", "structures", "dose"]


def find_case(folder: PathLike, *, plan: PathLike | None = None, given: Collection[Kind] = ()) -> CaseFiles:
    """Find the files of a plan in a folder and the folders in it.

    Parameters
    ----------
    folder : path
        Where to look. Hidden files and folders are passed over.
    plan : str or path, optional
        The file, or label or SOP Instance UID of the plan, where there are several.
    given : collection of str
        What need not be looked for, `"ct"`, `"structures"` or `"dose"`; it stays empty.

    Returns
    -------
    CaseFiles
        Without doses when none belongs to the plan, and without structures when there are none.

    Raises
    ------
    InvalidInput
        If there is no plan or no CT, or if it is not clear which; what there is is listed.
    """
    root = Path(folder)
    if not root.is_dir():
        problem = f"'{root}' is not a folder" if root.exists() else f"There is no folder '{root}'"
        raise InvalidInput(problem, "the files of a plan are looked for in a folder", "Name the folder")
    notes: list[str] = []
    heads = list(_heads(root, notes))
    unread = tuple(dict.fromkeys(notes))
    with telling(unread):
        chosen = _plan(heads, plan, root)
        structures = None if "structures" in given else _structures(heads, chosen, notes)
        ct = () if "ct" in given else _ct(heads, chosen, structures, notes)
        doses = () if "dose" in given else _doses(heads, chosen, notes)
    path = structures.path if structures is not None else None
    return CaseFiles(chosen.path, ct, path, doses, tuple(dict.fromkeys(notes)), unread)


# ---------------------------------------------------------------------------------------------------------- headers


@dataclass(frozen=True, slots=True)
class _Head:
    """What of a file tells where it belongs; empty texts where it does not say. `why_not` says why a dose cannot be
    compared."""

    path: Path
    modality: str
    uid: str
    series_uid: str
    frame_uid: str
    label: str
    refers_to: tuple[str, ...] = ()
    series_referred: tuple[str, ...] = ()
    summation: str = ""
    why_not: str = ""

    @property
    def shown(self) -> str:
        """For a list: `'T7 SBRT' (RP.dcm)`."""
        return f"'{self.label}' ({self.path.name})" if self.label else self.path.name


def _heads(root: Path, notes: list[str]) -> Iterator[_Head]:
    """Headers of all files that may be of interest, each object once."""
    seen: set[str] = set()
    for path in sorted(root.rglob("*")):
        if any(part.startswith(".") for part in path.relative_to(root).parts) or not path.is_file():
            continue
        try:
            head = _head(path)
        except InvalidInput as error:
            notes.append(f"'{path.name}' was passed over: {error.problem}.")
            continue
        if head is None or (head.uid and head.uid in seen):
            continue
        seen.add(head.uid)
        yield head


def _head(path: Path) -> _Head | None:
    """The header of a DICOM file of a kind that matters here, None for others."""
    suffix = path.suffix.lower()
    may_be = suffix in DICOM_SUFFIXES or suffix[1:].isdigit()
    try:
        with path.open("rb") as file:
            start = file.read(132)
        is_marked = start[128:] == b"DICM"
        if not is_marked and not may_be:
            return None
        if not start:
            raise UnreadableFile(f"'{path.name}' is empty")
        tags = [tag_for_keyword(word) for word in _KEYWORDS]
        with quiet_pydicom():
            dataset = pydicom.dcmread(path, force=True, stop_before_pixels=True, specific_tags=tags)
            return _of(path, Item(dataset, f"'{path.name}'"))
    except InvalidInput:
        raise
    except OSError as error:
        raise UnreadableFile(f"'{path.name}' cannot be opened", str(error.strerror or error)) from error
    except Exception as error:  # pydicom fails in many ways on what is no DICOM
        if may_be and suffix:
            raise UnreadableFile(f"'{path.name}' is damaged or not DICOM") from error
        return None


def _of(path: Path, item: Item) -> _Head | None:
    modality = item.text("Modality", default="")
    if modality not in ("CT", "RTPLAN", "RTSTRUCT", "RTDOSE"):
        return None
    if modality == "CT" and "LOCALIZER" in item.texts("ImageType"):
        return None
    frame, label = item.text("FrameOfReferenceUID", default=""), item.text("SeriesDescription", default="")
    refers: tuple[str, ...] = ()
    series: tuple[str, ...] = ()
    if modality == "RTPLAN":
        label = item.text("RTPlanLabel", default="") or item.text("RTPlanName", default="")
        refers = _uids(item.items("ReferencedStructureSetSequence"))
    elif modality == "RTDOSE":
        refers = _uids(item.items("ReferencedRTPlanSequence"))
    elif modality == "RTSTRUCT":
        frames = item.items("ReferencedFrameOfReferenceSequence")
        studies = [study for f in frames for study in f.items("RTReferencedStudySequence")]
        images = [one for study in studies for one in study.items("RTReferencedSeriesSequence")]
        series = tuple(filter(None, (one.text("SeriesInstanceUID", default="") for one in images)))
        named = [roi.text("ReferencedFrameOfReferenceUID", default="") for roi in item.items("StructureSetROISequence")]
        named += [one.text("FrameOfReferenceUID", default="") for one in frames] + [frame]
        frame = next(filter(None, named), "")
    return _Head(
        path=path,
        modality=modality,
        uid=item.text("SOPInstanceUID", default=""),
        series_uid=item.text("SeriesInstanceUID", default=""),
        frame_uid=frame,
        label=label,
        refers_to=refers,
        series_referred=series,
        summation=item.text("DoseSummationType", default="").upper(),
        why_not=_why_not(item) if modality == "RTDOSE" else "",
    )


def _why_not(dose: Item) -> str:
    """Why a dose cannot be compared; empty when it can."""
    units, kind = dose.text("DoseUnits", default="GY").upper(), dose.text("DoseType", default="PHYSICAL").upper()
    if units != "GY":
        return f"is in units of {units}, and only doses in GY can be compared"
    return "" if kind == "PHYSICAL" else f"holds a dose of type {kind}, and only physical dose can be compared"


def _uids(references: Iterable[Item]) -> tuple[str, ...]:
    found = (reference.text("ReferencedSOPInstanceUID", default="") for reference in references)
    return tuple(filter(None, found))


# ---------------------------------------------------------------------------------------------------------- choices


def _plan(heads: list[_Head], wanted: PathLike | None, root: Path) -> _Head:
    if wanted is not None and Path(wanted).is_file():
        head = _head(Path(wanted))
        if head is None or head.modality != "RTPLAN":
            raise UnreadableFile(f"'{Path(wanted).name}' is no RTPLAN", "", "Name the file of the plan")
        return head
    plans = [head for head in heads if head.modality == "RTPLAN"]
    shown = ", ".join(head.shown for head in plans)
    if not plans:
        raise InvalidInput(
            f"Folder '{root}' has no RTPLAN",
            "there is no plan to check",
            "Name another folder, or the file",
            argument="plan",
        )
    if wanted is not None:
        text = str(wanted).strip()
        fits = [h for h in plans if text in (h.uid, h.path.name)]
        fits = fits or [h for h in plans if h.label.casefold() == text.casefold()]
        if not fits:
            raise InvalidInput(f"There is no plan '{wanted}'", f"there are {shown}", "Name one of them")
        plans = fits
    if len(plans) > 1:
        raise InvalidInput(f"There are {len(plans)} plans", shown, "Choose one by label, UID or file", argument="plan")
    return plans[0]


def _structures(heads: list[_Head], plan: _Head, notes: list[str]) -> _Head | None:
    sets = [head for head in heads if head.modality == "RTSTRUCT"]
    named = [head for head in sets if head.uid in plan.refers_to]
    if named:
        return named[0]
    alike = [h for h in sets if not plan.frame_uid or not h.frame_uid or h.frame_uid == plan.frame_uid]
    if len(alike) > 1:
        shown = ", ".join(head.shown for head in alike)
        raise InvalidInput(
            f"There are {len(alike)} structure sets, and the plan names none of them",
            shown,
            "Choose one",
            argument="structures",
        )
    if len(sets) > len(alike):
        notes.append(
            f"{len(sets) - len(alike)} structure set(s) of another frame of reference than the plan's were passed over."
        )
    if not alike:
        return None
    why = "the plan refers to another one" if plan.refers_to else "the plan does not refer to any"
    notes.append(f"The structure set '{alike[0].path.name}' was taken, although {why}: the only one that may belong.")
    return alike[0]


def _ct(heads: list[_Head], plan: _Head, structures: _Head | None, notes: list[str]) -> tuple[Path, ...]:
    series: dict[str, list[_Head]] = {}
    for head in heads:
        if head.modality == "CT":
            series.setdefault(head.series_uid, []).append(head)
    if not series:
        raise InvalidInput("There is no CT", "no file is a CT slice", "Name its folder", argument="ct")
    found = [uid for uid in series if structures is not None and uid in structures.series_referred]
    if not found:
        frame = plan.frame_uid or (structures.frame_uid if structures is not None else "")
        found = [uid for uid, slices in series.items() if frame and slices[0].frame_uid == frame]
    if not found and len(series) == 1:
        found = list(series)
        notes.append("Nothing tells that the CT belongs to the plan; it is the only one.")
    if len(found) != 1:
        shown = "; ".join(f"{len(slices)} slices '{slices[0].path.name}' ..." for slices in series.values())
        which = "several of them fit" if found else "none of them fits"
        raise InvalidInput(
            f"There are {len(series)} CT series, and {which} the plan", shown, "Choose one", argument="ct"
        )
    return tuple(head.path for head in series[found[0]])


def _doses(heads: list[_Head], plan: _Head, notes: list[str]) -> tuple[Path, ...]:
    doses = [head for head in heads if head.modality == "RTDOSE"]
    for head in doses:
        if head.why_not and (not head.refers_to or plan.uid in head.refers_to):
            notes.append(f"The dose '{head.path.name}' was passed over: it {head.why_not}.")
    doses = [head for head in doses if not head.why_not]
    own = [head for head in doses if plan.uid and plan.uid in head.refers_to]
    strange = [head for head in doses if head.refers_to and head not in own]
    if not own:
        lost = [head for head in doses if not head.refers_to]
        if len(lost) == 1:
            notes.append(f"The dose '{lost[0].path.name}' does not say to which plan it belongs; it is the only one.")
            own = lost
        elif lost:
            notes.append(f"{len(lost)} doses do not say to which plan they belong; none was taken.")
    if strange:
        notes.append(f"{len(strange)} dose(s) belong to other plans and were passed over.")
    for kind in COMPARABLE:
        fits = [head for head in own if head.summation == kind]
        if len(fits) > 1 and not kind.startswith("BEAM"):
            raise InvalidInput(
                f"There are {len(fits)} doses of the plan",
                ", ".join(head.path.name for head in fits),
                "Choose one",
                argument="dose",
            )
        if fits:
            return tuple(head.path for head in fits)
    if own:
        kinds = ", ".join(dict.fromkeys(head.summation for head in own))
        notes.append(f"The doses of the plan are sums of type {kinds}, which cannot be compared.")
    return ()
