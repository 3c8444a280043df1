"""Causes of a difference: which are tried, what is said of them, and what of the engine is spared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import spinedose as sd
from made_up import beam_of
from spinedose.check import variants
from spinedose.check.beams_eye import Cubes, open_dose
from spinedose.check.patterns import find_pattern
from spinedose.density import CtImage
from spinedose.grid import Grid, Volume
from spinedose.machine import read_machine
from spinedose.plan import Beam, Plan
from spinedose.structures import StructureSet

WATER = CtImage(Volume(Grid((-9.75, -9.75, -9.75), (0.5, 0.5, 0.5), (40, 40, 40)), np.zeros((40, 40, 40), np.int16)))
GRID = Grid((-3.6, -3.6, -3.6), (0.4, 0.4, 0.4), (19, 19, 19))
TURNS = 10

ENERGIES = {"6X": (1.0, 0.0), "10X": (1.1, 0.02), "6FFF": (1.0, -0.02), "10FFF": (1.1, 0.01)}
"""How strong and how much deeper going energies are to the stand-in."""


def dose_of(plan: Plan) -> Volume:
    """A stand-in for the engine: the rough model on voxels of 4 mm; another energy is deeper going, and stronger."""
    x, y, z = GRID.axes_cm
    points = np.stack(np.broadcast_arrays(x, y[:, None], z[:, None, None]), axis=-1).reshape(-1, 3)
    n = len(points)
    at = Cubes(points, np.ones(n), np.zeros(n), np.zeros((n, 3)), np.ones(n), 0.0)
    dose = np.zeros(n)
    for beam in plan.beams:
        strength, deeper = ENERGIES[beam.energy]
        dose += strength * np.exp(deeper * points[:, 1]) * open_dose(beam, at, WATER, plan.patient_position)
    return Volume(GRID, dose.reshape(GRID.shape).astype(np.float32))


def arc(**changes: Any) -> Beam:
    """A third of an arc with leaves of the Millennium 120 that leave a slanting gap."""
    boundaries = read_machine("varian-truebeam-m120").mlc.boundaries_cm
    height = (boundaries[1:] + boundaries[:-1]) / 2
    side = np.stack([-1.5 + 0.3 * height, 2.0 + 0.3 * height])
    wander = 0.3 * np.sin(np.arange(TURNS)[:, None, None] + height[None, None, :] * np.array([1.0, 2.0])[None, :, None])
    still = np.zeros(TURNS)
    beam = beam_of(
        cumulative_meterset=np.linspace(0, 1, TURNS), gantry_deg=np.linspace(0, 120, TURNS), collimator_deg=still + 10,
        couch_deg=still, jaw_x_cm=np.tile([-6.0, 6.0], (TURNS, 1)), jaw_y_cm=np.tile([-2.5, 2.5], (TURNS, 1)),
        leaf_boundaries_cm=boundaries, leaf_cm=side + wander,
    )  # fmt: skip
    return replace(beam, **changes)


def second(**changes: Any) -> Beam:
    return arc(**({"number": 2, "name": "second", "gantry_deg": np.linspace(200, 320, TURNS)} | changes))


class Engine:
    """Stands in for `variants.Coarse`, and counts."""

    def __init__(self) -> None:
        self.plans: list[Plan] = []

    def dose(self, plan: Plan, structures: StructureSet | None, effort: Any) -> Volume:
        self.plans.append(plan)
        return dose_of(plan)


Find = Callable[..., tuple[variants.Cause, ...]]


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    one = Engine()
    monkeypatch.setattr(variants, "Coarse", lambda *_: one)
    return one


def causes(true: tuple[Beam, ...], wrong: tuple[Beam, ...]) -> tuple[variants.Cause, ...]:
    planned, ours = dose_of(Plan("plan", true)), dose_of(Plan("plan", wrong))
    return variants.find_causes(
        Plan("plan", wrong), WATER, None, planned, ours, find_pattern(planned, ours), machine=None, materials=(),
        spacing_cm=0.25, settings=sd.Settings(), backend="cpu", progress=lambda *_: None,
    )  # fmt: skip


class TestFindCauses:
    @pytest.mark.parametrize(
        ("true", "wrong", "code", "text"),
        [
            ((arc(),), (arc(collimator_deg=np.full(TURNS, 12.0)),), "collimator", "turned by -1.9 degrees"),
            ((arc(),), (arc(energy="10X"),), "energy", "all beams were 6X"),
            (
                (arc(couch_deg=np.full(TURNS, 15.0)),),
                (arc(couch_deg=np.full(TURNS, -15.0)),),
                "couch_mirrored",
                "all couch angles were mirrored",
            ),
            (
                (arc(), second()),
                (arc(), second(meterset_mu=110.0)),
                "meterset_of_beam",
                "meterset of beam 2 'second' were 9.1 % lower",
            ),
        ],
    )
    def test_the_cause_is_named(
        self, engine: Engine, true: tuple[Beam, ...], wrong: tuple[Beam, ...], code: str, text: str
    ) -> None:
        best, *_ = found = causes(true, wrong)
        assert best.code == code and text in best.text and best.share > 0.9
        (said,) = variants.told(found, is_within=False)
        assert said.code == "likely_cause" and said.text.startswith(f"The planned dose looks {best.text}")

    def test_a_factor_needs_no_engine(self, engine: Engine) -> None:
        best, *_ = causes((arc(),), (arc(meterset_mu=103.0),))
        assert best.code == "meterset" and "2.9 % lower" in best.text and best.share == pytest.approx(1.0, abs=1e-6)
        assert not engine.plans

    def test_turns_that_promise_nothing_are_not_computed(self, engine: Engine) -> None:
        causes((arc(),), (arc(collimator_deg=np.full(TURNS, 12.0)),))
        beams = [plan.beams[0] for plan in engine.plans]
        assert any(beam.collimator_deg[0] == pytest.approx(13.0) for beam in beams)
        assert all(beam.couch_deg[0] == 0 for beam in beams)

    def test_one_leaf_is_named_and_only_its_control_points_are_computed(self, engine: Engine) -> None:
        leaves = np.array(arc().leaf_cm)
        leaves[4:7, 1, 30] += 0.5
        best, *_ = found = causes((arc(),), (arc(leaf_cm=leaves),))
        assert best.code == "leaf" and best.share > 0.8
        assert "leaf 31 of bank A (X2) of beam 1 'field' stood" in best.text and "mm further in between" in best.text
        assert all(len(plan.beams[0].gantry_deg) < TURNS for plan in engine.plans[:2])
        (said,) = variants.told(found, is_within=True)
        assert said.code == "likely_cause" and said.text.startswith("All criteria are met, but the planned dose looks")

    def test_nothing_is_tried_where_the_doses_agree(self, engine: Engine) -> None:
        assert causes((arc(),), (arc(meterset_mu=100.05),)) == () and not engine.plans

    def test_a_part_of_a_beam_delivers_its_share(self) -> None:
        """Parts add up to the whole."""
        parts = [dose_of(Plan("part", (variants._part(arc(), a, b),))).values for a, b in ((0, 4), (4, TURNS - 1))]
        assert sum(parts) == pytest.approx(dose_of(Plan("whole", (arc(),))).values, rel=1e-3)


class TestTold:
    def test_no_cause_is_said_as_well(self) -> None:
        found = (variants.Cause("couch", "as if the couch were turned by +1.0 degrees", 0.2),)
        (one,) = variants.told(found, is_within=False)
        assert one.code == "no_cause_found" and "20 %" in one.text
        assert list(variants.told(found, is_within=True)) == []

    def test_a_cause_that_stands_out_is_named_although_all_is_within(self) -> None:
        best, other = (variants.Cause(code, f"as if the {code} were turned", share) for code, share in
                       (("collimator", 0.6), ("couch", 0.1)))  # fmt: skip
        (one,) = variants.told((best, other), is_within=True)
        assert one.code == "likely_cause" and one.text.startswith("All criteria are met, but")
        near = replace(other, share=0.4)
        assert list(variants.told((best, near), is_within=True)) == []

    def test_a_leaf_that_stands_out_is_mentioned_beside_other_causes(self) -> None:
        leaf = variants.Cause("leaf", "as if leaf 3 of bank A stood 5 mm further in", 0.2, stands_out=True)
        best = variants.Cause("meterset", "as if all metersets were 1.0 % lower", 0.7)
        mentioned, cause = variants.told((best, leaf), is_within=False)
        assert mentioned.code == "leaf_stands_out" and "leaf 3 of bank A" in mentioned.text
        assert mentioned.severity == "information" and cause.code == "likely_cause"
        little = replace(leaf, share=0.05)
        assert [one.code for one in variants.told((best, little), is_within=False)] == ["likely_cause"]
