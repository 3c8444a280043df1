"""Whether plan, CT, structures and dose are of one patient, lying in one position; sentences where they are not.

References tell which files were made from each other (`spinedose.check.findings`), not whose they are: an anonymised or
restored copy may have kept either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from spinedose.density import CtImage
from spinedose.identity import Identity
from spinedose.plan import Plan
from spinedose.structures import StructureSet


@dataclass(frozen=True, slots=True)
class Stranger:
    """A file that is of another patient than the plan, or writes the name in another way.

    Parameters
    ----------
    what : str
        `"CT"`, `"structure set"` or `"planned dose"`.
    by : str
        `"id"` where the patient IDs differ, `"name"` where only the names do.
    than : str
        What it was held against: the plan, or the first other file that says whose it is.
    identity : Identity
        Whose it is.
    """

    what: str
    by: Literal["id", "name"]
    than: str
    identity: Identity = field(repr=False)


def strangers(
    plan: Plan, ct: CtImage, structures: StructureSet | None, planned: Identity | None = None
) -> tuple[Stranger, ...]:
    """Files of another patient; what does not say whose it is belongs to anybody.

    Parameters
    ----------
    plan, ct, structures
        As read.
    planned : Identity, optional
        That of the planned dose.
    """
    whose = {"plan": plan.identity, "CT": ct.identity}
    whose |= {"structure set": structures.identity} if structures is not None else {}
    whose |= {"planned dose": planned} if planned is not None else {}
    return _apart(whose)


def _apart(whose: Mapping[str, Identity]) -> tuple[Stranger, ...]:
    """Everybody is held against the first one with an ID, and against the first one with a name."""
    found: dict[str, Stranger] = {}
    for than in (
        next((what for what, one in whose.items() if one.patient_id.strip()), ""),
        next((what for what, one in whose.items() if one.patient_name.strip()), ""),
    ):
        for what, identity in whose.items():
            by = identity.differs_from(whose[than]) if than else ""
            if by:
                found.setdefault(what, Stranger(what, by, than, identity))
    return tuple(found[what] for what in whose if what in found)


def of_other_patient(found: Sequence[Stranger]) -> str:
    """What is of another patient by its ID, in a sentence without the patient; empty for nothing."""
    return _told(found, "id", "of another patient than the {than}: the patient IDs differ.")


def of_other_name(found: Sequence[Stranger]) -> str:
    """What has another patient's name, but no other ID, in a sentence without the name; empty for nothing."""
    return _told(found, "name", "of a patient with another name than the {than}; the patient IDs do not differ.")


def _told(found: Sequence[Stranger], by: str, what: str) -> str:
    names = [f"the {one.what}" for one in found if one.by == by]
    if not names:
        return ""
    than = next(one.than for one in found if one.by == by)
    subject = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    return f"{subject[0].upper()}{subject[1:]} {'is' if len(names) == 1 else 'are'} {what.format(than=than)}"


def of_other_position(plan: Plan, ct: CtImage) -> str:
    """That the plan treats the patient in another position than the CT shows him, in words; empty where it does not.

    Coordinates are fixed to the patient (DICOM LPS), so only the plan's position bears on the beams: it turns them. A
    plan may treat in another position than that of the CT on purpose; but then he lies differently, too.
    """
    if plan.patient_position == ct.patient_position:
        return ""
    return (
        f"The plan treats the patient in position {plan.patient_position}, the CT shows him in {ct.patient_position}: "
        f"beams were computed for {plan.patient_position}. Where that is wrong they come from other sides; where it is "
        "right, he does not lie as on the CT."
    )


def doubts(plan: Plan, ct: CtImage, structures: StructureSet | None) -> list[str]:
    """All of it, as warnings of a calculation."""
    found = strangers(plan, ct, structures)
    return [text for text in (of_other_patient(found), of_other_name(found), of_other_position(plan, ct)) if text]
