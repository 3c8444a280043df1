"""A prescription is held against the planned dose before anything is judged by it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jsonschema
import numpy as np
import pytest
from test_check import GRID, PRESCRIBED, ball, bump, codes, compute, plan_of, planned_as, schema, structure_set  # noqa: F401

from spinedose.check import Check
from spinedose.check.inputs import Inputs
from spinedose.check.prescription import prescription_of
from spinedose.check.roles import roles_of
from spinedose.density import CtImage
from spinedose.grid import Volume
from spinedose.plan import PrescribedDose
from spinedose.structures import StructureSet

RADIUS = (
    sum(axis**2 for axis in np.meshgrid(*GRID.axes_cm, indexing="ij")) ** 0.5
)  # a sphere looks alike from all sides


def inputs_of(values: np.ndarray, structures: StructureSet | None, *prescribed: PrescribedDose) -> Inputs:
    ct = CtImage(Volume(GRID, np.zeros(GRID.shape, np.int16)))
    planned = planned_as(Volume(GRID, values.astype(np.float32)))
    return Inputs(plan_of(prescriptions=prescribed), ct, structures, planned)


def found_for(values: np.ndarray, *prescribed: PrescribedDose, structures: StructureSet | None = None) -> Any:
    drawn = structures or structure_set()
    return prescription_of(inputs_of(values, drawn, *prescribed), roles_of(drawn), None)


def around(peak_gy: float, edge_gy: float, radius_cm: float = 1.5) -> np.ndarray:
    """A dose that falls from a peak in the middle to a dose at the target's edge."""
    return peak_gy * (edge_gy / peak_gy) ** ((RADIUS / radius_cm) ** 2)


# ----------------------------------------------------------------------------------------------- ordinary ones are kept


@pytest.mark.parametrize("isodose", [0.95, 0.8, 0.6, 0.5, 0.4])
def test_whichever_isodose_is_prescribed_to(isodose: float) -> None:
    kept = found_for(around(20.0 / isodose, 19.5), PrescribedDose(20.0, "PTV", 2))
    assert kept.source == "plan" and math.isnan(kept.unfitting_gy)


def test_a_boost_within_the_target() -> None:
    boost = structure_set(ball(8, "GTV", "GTV", (0, 0, 0), 0.7))
    values = np.where(RADIUS < 0.8, 28.0, 20.5)
    kept = found_for(values, PrescribedDose(28.0, "GTV", 8), PrescribedDose(20.0, "PTV", 2), structures=boost)
    assert kept.dose_gy == 28.0 and kept.source == "plan"
    unnamed = found_for(values, PrescribedDose(20.0, "PTV"), structures=boost)
    assert unnamed.dose_gy == 20.0 and unnamed.source == "plan"


def test_a_target_that_spares_the_cord() -> None:
    values = np.where(np.add.outer(np.zeros(GRID.shape[0]), GRID.axes_cm[1])[:, :, None] > 0.6, 12.0, 21.0)
    kept = found_for(np.broadcast_to(values, GRID.shape), PrescribedDose(20.0, "PTV", 2))
    assert kept.source == "plan"


# --------------------------------------------------------------------------------------------------- wrong ones are not


@pytest.mark.parametrize("wrong", [60.0, 2400.0, 25.0, 10.0])
def test_a_wrong_one_is_replaced_by_what_the_target_receives(wrong: float) -> None:
    values = around(22.0, 19.5)
    found = found_for(values, PrescribedDose(wrong, "PTV", 2))
    assert (found.source, found.unfitting_gy) == ("planned dose", wrong)
    assert found.dose_gy == pytest.approx(19.6, abs=0.2)
    assert f"{wrong:g} Gy to 'PTV', from the plan; but half of 'PTV' receives 20." in found.text


def test_without_targets_the_planned_maximum_tells() -> None:
    drawn = StructureSet((ball(1, "BODY", "EXTERNAL", (0, 0, 0), 5.5),))
    found = found_for(around(22.0, 19.5), PrescribedDose(60.0, "PTV"), structures=drawn)
    assert found.source == "unknown" and not found.is_known and found.unfitting_gy == 60.0
    assert found_for(around(22.0, 19.5), PrescribedDose(20.0, "PTV"), structures=drawn).source == "plan"


def test_a_wrong_prescription_makes_nothing_within(compute: Callable[..., Check]) -> None:  # noqa: F811
    """A shift that is outside with the right prescription stays outside with a wrong one, and the wrong one is said."""
    planned, ours = planned_as(bump()), bump((0.0, 0.3, 0.0))
    right = compute(planned, ours)
    cord = [one for one in right.judgement.judged if one.name == "cord_near_maximum"]  # type: ignore[union-attr]
    assert right.verdict == "outside" and not cord[0].within
    wrong = compute(planned, ours, plan=plan_of(prescriptions=(PrescribedDose(3 * PRESCRIBED, "PTV", 2),)))
    assert wrong.verdict == "outside"
    (one,) = [one for one in wrong.findings if one.code == "prescription_unlike_planned"]
    assert one.severity == "problem" and "was judged relative to" in one.text
    assert one.text == wrong.reasons[0]
    found = [one for one in wrong.judgement.judged if one.name == "cord_near_maximum"]  # type: ignore[union-attr]
    assert not found[0].within and abs(found[0].difference) >= abs(cord[0].difference)
    assert found[0].relative_to == wrong.prescription.dose_gy < PRESCRIBED
    assert wrong.gammas[0].whole.criteria.normalisation_gy == wrong.prescription.dose_gy
    content = wrong.as_dict()
    jsonschema.validate(content, schema())
    assert content["prescription"]["unfitting_gy"] == 3 * PRESCRIBED
    assert right.as_dict()["prescription"]["unfitting_gy"] is None


def test_that_of_equal_doses_is_outside_too(compute: Callable[..., Check]) -> None:  # noqa: F811
    found = compute(planned_as(bump()), prescription_gy=60.0)
    assert found.verdict == "outside"
    assert found.judgement is not None and found.judgement.is_within  # only the finding keeps it from being within


def test_one_that_is_low_for_a_hot_target_is_asked_about_and_kept(compute: Callable[..., Check]) -> None:  # noqa: F811
    found = compute(planned_as(bump()), prescription_gy=14.5)  # half of the target receives 20 Gy
    (one,) = [one for one in found.findings if one.code == "prescription_unlike_planned"]
    assert one.severity == "attention" and "low for the planned dose" in one.text
    assert (found.verdict, found.prescription.dose_gy) == ("within", 14.5)


def test_doses_of_some_beams_need_not_add_up(compute: Callable[..., Check]) -> None:  # noqa: F811
    plan = plan_of(skipped=("Beam 2 was not asked for",))
    half = planned_as(bump(scale=0.5), summation="BEAM", beam_numbers=(1,))
    found = compute(half, bump(scale=0.5), plan=plan)
    (one,) = [one for one in found.findings if one.code == "prescription_unlike_planned"]
    assert one.severity == "attention" and found.verdict == "within"


# ----------------------------------------------------------------------------------------------------------- few voxels


def test_a_gamma_of_few_voxels_is_not_judged(compute: Callable[..., Check]) -> None:  # noqa: F811
    values = np.full(GRID.shape, 0.5, np.float32)
    values[30:32, 30:32, 30:32] = 20.0
    spot = Volume(GRID, values)
    found = compute(planned_as(spot), spot, structures=None, plan=plan_of(structure_set_uid=""))
    assert found.judgement is not None
    gammas = [one for one in found.judgement.judged if one.quantity.startswith("gamma")]
    assert {one.level for one in gammas} == {"not judged"}
    assert gammas[0].doubt == "only 8 voxels of the planned dose were compared"
    assert found.verdict == "outside" and any("only 8 voxels" in reason for reason in found.reasons)
    jsonschema.validate(found.as_dict(), schema())


def test_a_gamma_of_no_voxel_is_among_the_criteria(compute: Callable[..., Check]) -> None:  # noqa: F811
    low = planned_as(bump(scale=0.05))
    found = compute(low, bump(scale=0.05), structures=None, prescription_gy=21.0, plan=plan_of(structure_set_uid=""))
    assert found.judgement is not None
    levels = {one.quantity: one.level for one in found.judgement.judged}
    assert len(levels) == 3 and all(name.startswith("gamma") for name in levels)
    assert found.verdict == "outside"


def test_metrics_of_a_replaced_prescription_are_relative_to_what_stands_for_it() -> None:
    values = around(22.0, 19.5)
    given = prescription_of(inputs_of(values, structure_set(), PrescribedDose(20.0)), roles_of(structure_set()), 60.0)
    assert given.text.startswith("60 Gy, as given; the plan says 20 Gy; but half of 'PTV' receives")
    assert replace(given, unfitting_gy=0.0).is_known
