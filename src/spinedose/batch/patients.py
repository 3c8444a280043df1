"""The patients of a study: folders that patterns name, and the files in each that belong to one plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from spinedose.dicom.folder import find_case
from spinedose.dicom.plan import read_plan
from spinedose.errors import InvalidInput
from spinedose.fingerprint import file_digest, series_digest
from spinedose.machine import machine_for_beam


@dataclass(frozen=True, slots=True)
class PatientFiles:
    """What a patient's results are computed from.

    Parameters
    ----------
    name : str
        Folder, as seen from the study file; what tables call the patient. Never a name from DICOM.
    plan : Path
        RTPLAN.
    ct : tuple of Path
        Slices of the CT.
    structures : Path or None
        RTSTRUCT.
    plan_digest, ct_digest, structures_digest : str
        SHA-256 of the contents.
    beam_data : tuple of str
        SHA-256 of the files of every machine that the plan uses, sorted.
    fractions : int
        Of the plan.
    notes : tuple of str
        What was odd on looking for files.
    """

    name: str
    plan: Path
    ct: tuple[Path, ...]
    structures: Path | None
    plan_digest: str
    ct_digest: str
    structures_digest: str
    beam_data: tuple[str, ...]
    fractions: int = 1
    notes: tuple[str, ...] = ()

    def as_key(self) -> dict[str, object]:
        """What of it results depend on: contents, not names."""
        return {
            "plan": self.plan_digest,
            "ct": self.ct_digest,
            "structures": self.structures_digest,
            "beam_data": list(self.beam_data),
        }

    def is_unchanged(self) -> bool:
        """Whether the files still have the contents that were hashed."""
        return (self.plan_digest, self.ct_digest, self.structures_digest) == _digests(
            self.plan, self.ct, self.structures
        )


def find_folders(base: Path, patterns: Sequence[str], exclude: Sequence[str] = ()) -> tuple[tuple[str, Path], ...]:
    """Folders that patterns name, each once, sorted by name.

    Parameters
    ----------
    base : Path
        Folder that relative patterns start from.
    patterns, exclude : sequence of str
        Folders, with `*`, `?`, `[...]` and `**` as in shells. Hidden folders need a pattern that begins with a point.

    Returns
    -------
    tuple of (name, folder)
        The name is the path from `base` as the pattern has it, with forward slashes; of whole paths the whole. The
        folder is its true place.

    Raises
    ------
    InvalidInput
        If a pattern names no folder.
    """
    left_out = {folder for pattern in exclude for folder in _matching(base, pattern, "exclude")}
    found: dict[Path, str] = {}
    for pattern in patterns:
        for folder, name in _matching(base, pattern, "folders").items():
            if folder not in left_out:
                found.setdefault(folder, name)
    if not found:
        raise InvalidInput("There is no patient", "every folder that was found is excluded", "Look at [patients]")
    return tuple(sorted((name, folder) for folder, name in found.items()))


def _matching(base: Path, pattern: str, key: str) -> dict[Path, str]:
    """Folders by their true places, which tell whether two are the same, with the names that the pattern gives them."""
    asked = Path(pattern)
    root = Path(asked.anchor) if asked.is_absolute() else base
    wants_hidden = any(part.startswith(".") and part != ".." for part in asked.parts)
    paths = []
    for path in sorted(root.glob(str(asked.relative_to(root)) if asked.is_absolute() else pattern)):
        parts = path.relative_to(root).parts
        if wants_hidden or not any(part.startswith(".") and part != ".." for part in parts):
            paths.append(path)
    folders = [path for path in paths if path.is_dir()]
    if not folders:
        why = "it matches files only" if paths else f"patterns start from '{base}'"
        raise InvalidInput(f"[patients] {key}: '{pattern}' names no folder", why, "Correct the pattern")
    return {path.resolve(): (path if asked.is_absolute() else path.relative_to(root)).as_posix() for path in folders}


def look_at(
    name: str,
    folder: Path,
    *,
    plan: str = "",
    machine: str | None = None,
    bolus: Literal["refuse", "ignore"] = "refuse",
) -> PatientFiles:
    """Find a patient's files by their UIDs, and hash them.

    Parameters
    ----------
    name : str
        What to call the patient.
    folder : Path
        Where to look, at any depth.
    plan : str
        Label or UID of the plan, where there are several.
    machine : str, optional
        Machine of all beams; otherwise their leaves decide.
    bolus : str
        As in `read_plan`.

    Raises
    ------
    SpinedoseError
        If plan or CT are missing or not clear, or the plan cannot be computed.
    """
    case = find_case(folder, plan=plan or None, given=["dose"])
    read = read_plan(case.plan, bolus=bolus)
    machines = {machine_for_beam(beam, machine)[0].data_hash for beam in read.beams}
    digests = _digests(case.plan, case.ct, case.structures)
    return PatientFiles(
        name, case.plan, case.ct, case.structures, *digests,
        beam_data=tuple(sorted(machines)), fractions=read.fractions, notes=case.notes,
    )  # fmt: skip


def _digests(plan: Path, ct: tuple[Path, ...], structures: Path | None) -> tuple[str, str, str]:
    return file_digest(plan), series_digest(ct), file_digest(structures) if structures is not None else ""
