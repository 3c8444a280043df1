"""Files of other patients and positions are named, without the patient in the sentence."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from made_up import beam_of
from spinedose.belonging import doubts, of_other_name, of_other_patient, of_other_position, strangers
from spinedose.density import CtImage
from spinedose.grid import Grid, Volume
from spinedose.identity import Identity
from spinedose.plan import Plan
from spinedose.structures import StructureSet

GRID = Grid((0.0, 0.0, 0.0), (0.5, 0.5, 0.5), (2, 2, 2))
DOE, ROE, NOBODY = Identity("Doe^Jane", "D-1"), Identity("Roe^Rita", "R-2"), Identity()


def plan_of(identity: Identity, **changes: Any) -> Plan:
    return Plan("T7", (beam_of(),), identity=identity, **changes)


def ct_of(identity: Identity) -> CtImage:
    return CtImage(Volume(GRID, np.zeros(GRID.shape, np.int16)), identity=identity)


def set_of(identity: Identity) -> StructureSet:
    return StructureSet((), identity=identity)


def test_one_patient_raises_no_doubt() -> None:
    assert strangers(plan_of(DOE), ct_of(DOE), set_of(DOE), DOE) == ()
    assert strangers(plan_of(DOE), ct_of(NOBODY), None, None) == ()
    assert strangers(plan_of(NOBODY), ct_of(NOBODY), set_of(NOBODY), NOBODY) == ()
    assert doubts(plan_of(DOE), ct_of(DOE), set_of(DOE)) == []


def test_whatever_is_of_another_patient_is_named() -> None:
    found = strangers(plan_of(DOE), ct_of(ROE), set_of(ROE), DOE)
    assert [(one.what, one.by) for one in found] == [("CT", "id"), ("structure set", "id")]
    text = of_other_patient(found)
    assert text == "The CT and the structure set are of another patient than the plan: the patient IDs differ."
    assert of_other_name(found) == ""
    (one,) = strangers(plan_of(DOE), ct_of(DOE), None, ROE)
    assert of_other_patient([one]) == "The planned dose is of another patient than the plan: the patient IDs differ."
    assert doubts(plan_of(DOE), ct_of(DOE), set_of(ROE)) == [
        "The structure set is of another patient than the plan: the patient IDs differ."
    ]


def test_a_plan_of_nobody_hides_no_mixture() -> None:
    (one,) = strangers(plan_of(NOBODY), ct_of(DOE), set_of(ROE))
    assert (one.what, one.than) == ("structure set", "CT")


def test_names_alone() -> None:
    found = strangers(plan_of(DOE), ct_of(replace(DOE, patient_name="Smith^Jane")), set_of(DOE))
    assert of_other_patient(found) == ""
    assert of_other_name(found) == (
        "The CT is of a patient with another name than the plan; the patient IDs do not differ."
    )


def test_positions() -> None:
    plan = plan_of(DOE, patient_position="HFP")
    text = of_other_position(plan, ct_of(DOE))
    assert "position HFP, the CT shows him in HFS" in text
    assert doubts(plan, ct_of(DOE), None) == [text]
    assert of_other_position(plan, replace(ct_of(DOE), patient_position="HFP")) == ""
