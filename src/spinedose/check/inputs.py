"""What a check starts from: objects or files, found by their UIDs, read, and hashed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from spinedose.check.outcome import InputFile
from spinedose.check.sessions import of_all_fractions
from spinedose.density import CtImage
from spinedose.dicom.ct import read_ct
from spinedose.dicom.dose import PlannedDose, read_dose
from spinedose.dicom.folder import Kind, find_case, telling
from spinedose.dicom.plan import read_plan
from spinedose.dicom.structures import read_structures
from spinedose.errors import InvalidInput
from spinedose.fingerprint import file_digest, series_digest
from spinedose.grid import Volume
from spinedose.plan import Plan
from spinedose.structures import StructureSet

if TYPE_CHECKING:
    from collections.abc import Mapping

PathLike: TypeAlias = str | os.PathLike[str]
PlanLike: TypeAlias = Plan | PathLike
CtLike: TypeAlias = CtImage | PathLike | Sequence[PathLike]
StructuresLike: TypeAlias = StructureSet | PathLike
DoseLike: TypeAlias = PlannedDose | PathLike | Sequence[PathLike]


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """Everything that was read.

    Parameters
    ----------
    plan : Plan
        The plan.
    ct : CtImage
        The CT.
    structures : StructureSet or None
        The structures, where there are any.
    planned : PlannedDose or None
        The planned dose of all fractions; None where there is none.
    files : tuple of InputFile
        What was read from disk.
    notes : tuple of str
        What was found odd on looking for files.
    """

    plan: Plan
    ct: CtImage
    structures: StructureSet | None
    planned: PlannedDose | None
    files: tuple[InputFile, ...] = ()
    notes: tuple[str, ...] = ()


def gather(
    folder: PathLike | None,
    plan: PlanLike | None,
    ct: CtLike | None,
    structures: StructuresLike | None,
    dose: DoseLike | None,
    *,
    beams: Sequence[int] | None = None,
    fraction_group: int | None = None,
    bolus: Literal["refuse", "ignore"] = "refuse",
    patient_position: str | None = None,
    missing_slices: Literal["refuse", "interpolate"] = "refuse",
) -> Inputs:
    """Find what was not given, and read it.

    Parameters
    ----------
    folder : path or None
        Where to look for what is not given.
    plan, ct, structures, dose
        As objects or files; of the plan also its label or UID, to be looked for in the folder.
    beams, fraction_group, bolus, patient_position, missing_slices
        See `read_plan` and `read_ct`.
    """
    notes: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    if folder is not None and not (isinstance(plan, Plan) and ct is not None):
        given: list[Kind] = []
        given += ["ct"] if ct is not None else []
        given += ["structures"] if structures is not None else []
        given += ["dose"] if dose is not None else []
        if isinstance(plan, Plan):
            raise InvalidInput(
                "A folder was given with a plan that was read already",
                "files are found by the references in the plan's file",
                "Give the plan's label or file, or all objects",
            )
        case = find_case(folder, plan=plan, given=given)
        plan, notes, unread = case.plan, case.notes, case.unread
        ct = case.ct if ct is None else ct
        structures = case.structures if structures is None else structures
        dose = case.doses or None if dose is None else dose
    if plan is None:
        raise InvalidInput("There is no plan to check", "neither folder nor plan was given", "Name it", argument="plan")
    if ct is None:
        raise InvalidInput("There is no CT", "a dose cannot be computed without", "Name it", argument="ct")
    files: list[InputFile] = []
    if not isinstance(plan, Plan):
        files.append(hashed("RTPLAN", Path(plan)))
        plan = read_plan(
            plan, beams=beams, fraction_group=fraction_group, bolus=bolus, patient_position=patient_position
        )
    if structures is not None and not isinstance(structures, StructureSet):
        files.append(hashed("RTSTRUCT", Path(structures)))
        structures = read_structures(structures)
    if dose is not None and not isinstance(dose, PlannedDose):
        paths = [Path(dose)] if isinstance(dose, str | os.PathLike) else [Path(path) for path in dose]
        files += [hashed("RTDOSE", path) for path in paths]
        dose, more = planned_of([read_dose(path) for path in paths], plan)
        notes += more
    elif dose is not None:
        dose, more = planned_of([dose], plan)
        notes += more
    if not isinstance(ct, CtImage):
        with telling(unread):
            image = read_ct(ct, missing_slices=missing_slices, patient_position=patient_position)
        files.append(_hashed_series(ct))
        ct = image
    return Inputs(plan, ct, structures, dose, tuple(files), notes)


def planned_of(doses: Sequence[PlannedDose], plan: Plan) -> tuple[PlannedDose | None, tuple[str, ...]]:
    """The planned dose of all fractions from what was exported, and what was done to it.

    A dose of the plan or of its fraction group stands for itself, that of one session is multiplied
    (`spinedose.check.sessions`), those of beams are added up on their common voxels.
    """
    if len(doses) == 1 and not doses[0].summation.startswith("BEAM"):
        return of_all_fractions(doses[0], plan)
    kinds = {dose.summation for dose in doses}
    strange = sorted(kind or "unknown" for kind in kinds if not kind.startswith("BEAM"))
    if strange:
        raise InvalidInput(
            f"There are {len(doses)} planned doses, some of type {', '.join(strange)}",
            "only doses of single beams can be added up",
            "Give one dose of the plan, or those of its beams",
        )
    if len(kinds) > 1:
        raise InvalidInput(
            "Some planned doses are of type BEAM, others of type BEAM_SESSION",
            "those of all fractions and of one session cannot be added up",
            "Give those of one type",
        )
    parts, notes = _doses_of_beams(doses, {beam.number for beam in plan.beams})
    if not parts:
        return None, notes
    total, more = of_all_fractions(_sum_of(parts, plan), plan)
    return total, (*notes, _in_words(total, len(parts)), *more)


def _doses_of_beams(
    doses: Sequence[PlannedDose], wanted: AbstractSet[int]
) -> tuple[list[PlannedDose], tuple[str, ...]]:
    """Doses of beams that are computed, and what is said of the others."""
    used: list[PlannedDose] = []
    notes: list[str] = []
    for dose in doses:
        if not dose.beam_numbers:
            notes.append("A planned dose of beams was left out: its file does not say of which beams it is.")
        elif not dose.values_are_positive:
            notes.append(f"A planned dose of beam {_listed(dose.beam_numbers)} is zero everywhere; it was left out.")
        elif not wanted & set(dose.beam_numbers):
            notes.append(f"The planned dose of beam {_listed(dose.beam_numbers)} was left out: it is not computed.")
        else:
            _refuse_twice(dose, used)
            used.append(dose)
    return used, tuple(notes)


def _refuse_twice(dose: PlannedDose, others: Sequence[PlannedDose]) -> None:
    """Refuse a dose of beams that another one has, too: a beam would count twice."""
    for other in others:
        shared = sorted(set(dose.beam_numbers) & set(other.beam_numbers))
        if set(dose.beam_numbers) == set(other.beam_numbers):
            raise InvalidInput(
                f"There are two planned doses of beam {_listed(shared)}",
                "which one counts is not clear",
                "Leave one out",
            )
        if shared:
            raise InvalidInput(
                f"The planned doses of beams {_listed(other.beam_numbers)} and of beams {_listed(dose.beam_numbers)} "
                f"share beam {_listed(shared)}",
                "it would be added up twice",
                "Give doses of single beams, or one of the plan",
            )


def _sum_of(parts: Sequence[PlannedDose], plan: Plan) -> PlannedDose:
    """The sum of doses of beams."""
    first = parts[0]
    if not all(part.grid.is_close_to(first.grid) for part in parts):
        raise InvalidInput(
            "The planned doses of the beams are on different grids",
            "they cannot be added up without interpolation",
            "Export the dose of the plan",
        )
    total = np.zeros(first.grid.shape)
    for part in parts:
        total += part.dose.values
    corrections = {part.heterogeneity for part in parts}
    return replace(
        first,
        dose=Volume(first.grid, total.astype(np.float32)),
        beam_numbers=tuple(sorted({number for part in parts for number in part.beam_numbers})),
        uid=" ".join(part.uid for part in parts),
        warnings=tuple(dict.fromkeys(warning for part in parts for warning in part.warnings)),
        identity=next((p.identity for p in parts if p.identity.differs_from(plan.identity)), first.identity),
        heterogeneity=first.heterogeneity if len(corrections) == 1 else (),
    )


def _in_words(total: PlannedDose, count: int) -> str:
    """What the planned dose was made of."""
    whose = f"beam{'s' if len(total.beam_numbers) > 1 else ''} {_listed(total.beam_numbers)}"
    return f"The planned dose is {'that' if count == 1 else f'the sum of {count} doses,'} of {whose}."


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def hashed(kind: Literal["RTPLAN", "RTSTRUCT", "RTDOSE", "LOG"], path: Path) -> InputFile:
    """A file with the digest of its content."""
    with _opening():
        return InputFile(kind, path.name, file_digest(path))


def _hashed_series(source: PathLike | Sequence[PathLike]) -> InputFile:
    """One digest for a series; of a folder all its files count."""
    if isinstance(source, str | os.PathLike):
        paths = sorted(path for path in Path(source).iterdir() if path.is_file() and not path.name.startswith("."))
    else:
        paths = [Path(path) for path in source]
    with _opening():
        return InputFile("CT", f"{len(paths)} files", series_digest(paths))


@contextmanager
def _opening() -> Iterator[None]:
    """Say in a line which file cannot be opened."""
    try:
        yield
    except OSError as error:
        name = Path(error.filename).name if error.filename else "A file"
        raise InvalidInput(f"'{name}' cannot be opened", str(error.strerror or error), "Check the name") from error


def versions() -> Mapping[str, str]:
    """Versions of spinedose, Python and the libraries that a result depends on."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    from spinedose._version import __version__

    found = {"spinedose": __version__, "python": platform.python_version()}
    for name in ("numpy", "scipy", "numba", "pydicom"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found
