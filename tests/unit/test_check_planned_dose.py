"""What a planned dose is the dose of, all fractions or a session, which beams; and what is said where it is open."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from test_check import PRESCRIBED, bump, codes, compute, ct_image, plan_of, planned_as  # noqa: F401

from made_up import beam_of
from spinedose.check import Check
from spinedose.check.delivery import as_planned
from spinedose.check.inputs import planned_of
from spinedose.check.patterns import explain, find_pattern
from spinedose.errors import InvalidInput
from spinedose.grid import Volume
from spinedose.plan import Plan, PrescribedDose
from spinedose.result import Dose, ResultInfo

TOP = float(bump().values.max())


def of_kind(summation: str, scale: float = 1.0, *beams: int) -> object:
    return planned_as(bump(scale=scale), summation=summation, beam_numbers=beams)


def planned(kinds: list[object], plan: Plan) -> tuple[float, str, tuple[str, ...]]:
    """Maximum in units of the bump's, why it was multiplied, and the notes."""
    total, notes = planned_of(kinds, plan)  # type: ignore[arg-type]
    assert total is not None
    return float(total.dose.values.max()) / TOP, total.multiplied, notes


# ---------------------------------------------------------------------------------------------- fractions and sessions


def test_fraction_is_the_dose_of_all_fractions() -> None:
    """PS3.3 C.8.8.3: the dose of the entire delivery of a fraction group."""
    assert planned([of_kind("FRACTION")], plan_of()) == (1.0, "", ())


def test_that_of_a_session_is_told_by_the_prescription() -> None:
    times, why, notes = planned([of_kind("FRACTION", 0.5)], plan_of())
    assert times == pytest.approx(1.0) and notes == ()
    assert "but it is one session's: its maximum is 10.97 Gy, with 20 Gy prescribed. It was multiplied by 2." in why


def point_plan(point_dose_gy: float, **changes: object) -> Plan:
    """Two beams that each give this at the middle, in each of two fractions."""
    stated = {"planned_point_dose_gy": point_dose_gy, "planned_point_cm": np.full(3, -0.1)}
    beams = tuple(beam_of(number=n, **stated) for n in (1, 2))
    return plan_of(**({"beams": beams, "prescriptions": ()} | changes))


def test_that_of_a_session_is_told_by_the_doses_of_its_beams() -> None:
    times, why, _ = planned([of_kind("FRACTION", 0.5)], point_plan(TOP / 4))
    assert times == pytest.approx(1.0) and "which is what they give in one fraction. It was multiplied by 2" in why
    assert planned([of_kind("FRACTION")], point_plan(TOP / 4)) == (1.0, "", ())


def test_where_nothing_tells_the_standard_counts_and_it_is_said() -> None:
    for plan in (
        plan_of(prescriptions=()),
        plan_of(prescriptions=(PrescribedDose(50.0, "course", 2),)),  # a total of 22 Gy, or 44 with two sessions
        point_plan(TOP / 4, skipped=("Beam 3 was not asked for",)),
        point_plan(TOP / 2, prescriptions=(PrescribedDose(PRESCRIBED, "PTV", 2),)),  # one says session, the other all
    ):
        times, why, (note,) = planned([of_kind("FRACTION")], plan)
        assert times == 1.0 and why == ""
        assert "taken as that of all 2 fractions" in note and "export the dose of the plan" in note
    assert planned([of_kind("FRACTION")], plan_of(prescriptions=(), fractions=1)) == (1.0, "", ())


def test_sessions_are_multiplied_by_the_fractions() -> None:
    times, why, notes = planned([of_kind("FRACTION_SESSION")], plan_of())
    assert times == pytest.approx(2.0) and "one session (FRACTION_SESSION); it was multiplied by 2." in why
    assert notes == ()
    times, why, _ = planned([of_kind("BEAM_SESSION", 1.0, 1)], plan_of())
    assert times == pytest.approx(2.0) and "(BEAM_SESSION)" in why
    assert planned([of_kind("FRACTION_SESSION")], plan_of(fractions=1)) == (1.0, "", ())


def test_a_session_taken_for_all_is_a_finding(compute: Callable[..., Check]) -> None:  # noqa: F811
    found = compute(of_kind("FRACTION", 0.5))
    (one,) = [one for one in found.findings if one.code == "dose_of_one_session"]
    assert one.severity == "attention" and "multiplied by 2" in one.text and found.verdict == "within"


def test_a_meterset_that_is_wrong_by_the_fractions_does_not_pass(compute: Callable[..., Check]) -> None:  # noqa: F811
    """Trap: to take a dose of all fractions for that of one because the recalculated one is twice as high."""
    found = compute(of_kind("FRACTION"), bump(scale=2.0))
    assert found.verdict == "outside" and "fractions_factor" in codes(found)


# --------------------------------------------------------------------------------------------------------------- beams


def test_doses_that_share_a_beam_are_refused() -> None:
    plan = plan_of(beams=tuple(beam_of(number=n) for n in (1, 2, 3)))
    with pytest.raises(
        InvalidInput, match=r"of beams 1, 2 and of beams 2, 3 share beam 2 \(it would be added up twice"
    ):
        planned([of_kind("BEAM", 1.0, 1, 2), of_kind("BEAM", 1.0, 2, 3)], plan)
    with pytest.raises(InvalidInput, match="others of type BEAM_SESSION"):
        planned([of_kind("BEAM", 1.0, 1), of_kind("BEAM_SESSION", 1.0, 2)], plan)


def test_what_the_planned_dose_was_made_of() -> None:
    plan = plan_of(beams=tuple(beam_of(number=n) for n in (1, 2, 3)))
    one, two, three = of_kind("BEAM", 1.0, 1), of_kind("BEAM", 0.5, 2, 3), of_kind("BEAM", 1.0)
    assert planned([one], plan)[2] == ("The planned dose is that of beam 1.",)
    assert planned([two], plan)[2] == ("The planned dose is that of beams 2, 3.",)
    _, _, (lost, made) = planned([one, two, three], plan)
    assert made == "The planned dose is the sum of 2 doses, of beams 1, 2, 3."
    assert lost == "A planned dose of beams was left out: its file does not say of which beams it is."
    assert planned_of([three], plan) == (None, (lost,))  # type: ignore[list-item]


def test_a_beam_without_meterset_is_a_problem(compute: Callable[..., Check]) -> None:  # noqa: F811
    plan = plan_of(without_meterset=("Beam 3 'Boost'",))
    found = compute(planned_as(bump()), plan=plan)
    (one,) = [one for one in found.findings if one.code == "beams_without_meterset"]
    assert one.severity == "problem" and found.verdict == "outside" and found.reasons[0] == one.text
    assert "Beam 3 'Boost' has no meterset" in one.text
    half = compute(planned_as(bump()), bump(scale=0.5), plan=plan)
    assert not {"fractions_factor", "scaled", "shifted", "other_shape"} & codes(half)


@pytest.mark.parametrize("summation", ["PLAN", ""])
def test_what_is_beside_the_fraction_group_is_named_first(compute: Callable[..., Check], summation: str) -> None:  # noqa: F811
    plan = plan_of(beside_group=("fraction group 2 with 3 beam(s)",))
    same = compute(of_kind(summation), plan=plan)
    (one,) = [one for one in same.findings if one.code == "beams_not_in_group"]
    assert one.severity == "attention" and "without fraction group 2 with 3 beam(s)" in one.text
    assert same.verdict == "within"
    half = compute(of_kind(summation), bump(scale=0.5), plan=plan)
    assert half.verdict == "outside" and half.reasons[0] == one.text
    assert not {"fractions_factor", "scaled", "shifted", "other_shape"} & codes(half)
    assert "beams_not_in_group" not in codes(compute(of_kind("FRACTION"), plan=plan))


def test_a_dose_next_to_nothing_is_a_problem(compute: Callable[..., Check]) -> None:  # noqa: F811
    found = compute(planned_as(bump(scale=1e-6)))
    (one,) = [one for one in found.findings if one.code == "dose_is_zero"]
    assert one.severity == "problem" and "at most 2.2e-05 Gy" in one.text and found.verdict == "outside"


def test_beams_left_out_of_a_fraction_group_are_a_problem(compute: Callable[..., Check]) -> None:  # noqa: F811
    plan = plan_of(skipped=("Beam 2 was not asked for",))
    assert "beams_left_out" in codes(compute(of_kind("FRACTION"), plan=plan))


def test_our_own_dose_in_the_place_of_the_planned_one_is_of_the_computed_beams() -> None:
    dose = Dose(bump(), ResultInfo("0", "cpu", "none"), plan_of(), ct_image())
    own = as_planned(dose, plan_of())
    assert (own.summation, own.beam_numbers) == ("BEAM", (1,))


# --------------------------------------------------------------------------------------- what the factor is said to be


def explained(ours: Volume, fractions: int) -> str:
    (one,) = [one for one in explain(find_pattern(bump(), ours), fractions, ()) if one.code != "worst_structure"]
    return f"{one.code}: {one.text}"


def lopsided(scale: float) -> Volume:
    """The dose of half of the beams: less on one side."""
    x = bump().grid.axes_cm[0]
    return Volume(bump().grid, (bump(scale=scale).values * (1 + 0.2 * np.tanh(x))).astype(np.float32))


def test_the_number_of_fractions_is_named_where_it_explains() -> None:
    assert "fractions_factor: The recalculated dose is 1/2 of the planned one, which" in explained(bump(scale=0.5), 2)
    assert "fractions_factor: The recalculated dose is 5 times the planned one" in explained(bump(scale=4.9), 5)
    assert "fractions_factor" not in explained(lopsided(0.5), 2)


def test_another_number_of_fractions_is_asked_for_where_it_explains() -> None:
    assert "is 2 times the planned one, and alike but for that: was it planned for 2 fractions instead of 4?" in (
        explained(bump(scale=2.0), 4)
    )
    assert "is 1/4 of the planned one" in explained(bump(scale=0.25), 1)
    assert "is 1/100 of the planned one, and alike but for that: is one of them in cGy?" in explained(
        bump(scale=0.01), 2
    )
    for ours, fractions in (
        (bump(scale=2.0), 1),
        (bump(scale=0.43), 2),
        (lopsided(2.0), 4),
        (bump(scale=1.2), 30),
        (bump(scale=0.2), 30),
    ):
        assert "fractions_factor" not in explained(ours, fractions)


# -------------------------------------------------------------------------------------------------- what the files say


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (("WATER",), "the patient was water to it. Ours"),
        (("ROI_OVERRIDE", "WATER"), "water to it, but for densities of structures. Ours"),
        (("IMAGE", "ROI_OVERRIDE"), ""),
        (("IMAGE", "WATER"), ""),
        ((), ""),
    ],
)
def test_a_dose_without_heterogeneity_correction(
    compute: Callable[..., Check],  # noqa: F811
    told: tuple[str, ...],
    words: str,
) -> None:
    found = compute(planned_as(bump(), heterogeneity=told))
    texts = [one.text for one in found.findings if one.code == "dose_without_heterogeneity"]
    assert [words in text for text in texts] == [True] * bool(words) and found.verdict == "within"


def test_heterogeneity_is_a_reason_where_nothing_else_explains(compute: Callable[..., Check]) -> None:  # noqa: F811
    x, y, z = bump().grid.axes_cm
    r2 = 1.5 * x**2 + y[:, None] ** 2 / 1.5 + z[:, None, None] ** 2
    ours = Volume(bump().grid, (1.1 * PRESCRIBED * np.exp(-r2 / 11)).astype(np.float32))
    found = compute(planned_as(bump(), heterogeneity=("WATER",)), ours)
    assert "other_shape" in codes(found) and "without heterogeneity correction" in found.reasons[0]


def test_of_beams_with_several_corrections_none_is_told() -> None:
    plan = plan_of(beams=(beam_of(number=1), beam_of(number=2)))
    doses = [planned_as(bump(), summation="BEAM", beam_numbers=(n,), heterogeneity=("WATER",)) for n in (1, 2)]
    total, _ = planned_of(doses, plan)
    assert total is not None and total.heterogeneity == ("WATER",)
    total, _ = planned_of([doses[0], replace(doses[1], heterogeneity=("IMAGE",))], plan)
    assert total is not None and total.heterogeneity == ()


def test_a_rejected_plan_and_one_that_treats_nobody(compute: Callable[..., Check]) -> None:  # noqa: F811
    rejected = compute(planned_as(bump()), plan=plan_of(approval="REJECTED", intent="VERIFICATION"))
    severities = {one.code: one.severity for one in rejected.findings}
    assert (severities["plan_rejected"], severities["plan_intent"]) == ("attention", "information")
    plain = compute(planned_as(bump()), plan=plan_of(approval="APPROVED", intent="CURATIVE"))
    assert not {"plan_rejected", "plan_intent"} & codes(plain)
