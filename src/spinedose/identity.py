"""Whom a file is about, and whether two files are about the same patient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Identity:
    """Who and what a plan belongs to: DICOM identifiers that must be copied into derived objects. Never logged."""

    patient_name: str = ""
    patient_id: str = ""
    patient_birth_date: str = ""
    patient_sex: str = ""
    study_instance_uid: str = ""
    study_id: str = ""
    study_date: str = ""
    study_time: str = ""
    accession_number: str = ""
    referring_physician: str = ""

    def differs_from(self, other: Identity) -> Literal["", "id", "name"]:
        """By what another file is of another patient: `"id"`, or with equal or missing IDs `"name"`; empty for neither.

        Only what both files state is compared, without regard to case, to blanks around and within, and to empty parts
        at the end of a name.
        """
        if is_other_id(self.patient_id, other.patient_id):
            return "id"
        names = _name_form(self.patient_name), _name_form(other.patient_name)
        return "name" if all(names) and names[0] != names[1] else ""


def is_other_id(one: str, other: str) -> bool:
    """Whether two patient IDs are those of different patients; an empty one tells nothing."""
    forms = _id_form(one), _id_form(other)
    return all(forms) and forms[0] != forms[1]


def _id_form(text: str) -> str:
    """An ID without padding, blanks and case."""
    return "".join(text.replace("\0", " ").split()).casefold()


def _name_form(text: str) -> str:
    """A DICOM name without padding, case and empty parts at its end; of several ways to write it, the first."""
    written = next(filter(None, (group.strip("\0 ^") for group in text.split("="))), "")
    parts = (" ".join(part.replace("\0", " ").split()) for part in written.split("^"))
    return "^".join(parts).casefold()
