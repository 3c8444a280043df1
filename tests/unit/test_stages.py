"""What a memory keeps, when it lets go, and that it never changes a dose."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from spinedose import engine, stages
from spinedose.density import CtImage
from spinedose.grid import Grid, Volume
from spinedose.machine_change import MachineChange
from spinedose.patient import PreparedPatient, prepare_patient
from spinedose.settings import Settings
from spinedose.setup import Setup
from spinedose.stages import Memory, cut_into_slabs

SMALL = {"jaw_x_cm": np.tile([-2.0, 2.0], (2, 1)), "jaw_y_cm": np.tile([-2.0, 2.0], (2, 1))}


def test_the_least_recently_used_goes_first() -> None:
    memory, made = Memory(most_bytes=100), []

    def ask(key: str) -> str:
        return memory.recall(key, lambda: made.append(key) or key, lambda _: 40)

    for key in ("a", "b", "a", "c", "a", "b"):
        assert ask(key) == key
    assert made == ["a", "b", "c", "b"]  # b had to go for c, and c for b; a was in use


def test_one_that_is_too_large_is_kept_alone() -> None:
    memory = Memory(most_bytes=10)
    memory.recall("small", lambda: 1, lambda _: 5)
    memory.recall("large", lambda: 2, lambda _: 50)
    assert len(memory) == 1 and memory.recall("large", lambda: 3, lambda _: 50) == 2


@pytest.fixture
def patient() -> PreparedPatient:
    hu = np.pad(np.zeros((20, 20, 20), np.float32), 4, constant_values=-1000.0)
    return prepare_patient(CtImage(Volume(Grid((-6.75,) * 3, (0.5,) * 3, hu.shape), hu)), spacing_cm=0.5)


def test_a_memory_saves_fluence_and_changes_nothing(make_plan, make_beam, patient, monkeypatch) -> None:
    monkeypatch.setattr(engine, "reference_output", lambda *_: 1.0)
    computed, fluence = [], stages._fluence

    def count(*arguments: object) -> object:
        computed.append(1)
        return fluence(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(stages, "_fluence", count)
    plan, memory, settings = make_plan(make_beam(**SMALL)), Memory(), Settings(directions=96, moments=3)

    def dose(plan: object, memory: Memory | None, **options: object) -> np.ndarray:
        return engine.irradiate(
            plan, patient, machine="varian-truebeam-m120", settings=settings, memory=memory, **options
        ).values

    first = dose(plan, memory)
    shifted = dose(plan, memory, setup=Setup(lateral_cm=0.5, yaw_deg=3.0))
    np.testing.assert_array_equal(dose(plan, memory), first)
    assert len(computed) == 1
    np.testing.assert_array_equal(dose(plan, None), first)
    np.testing.assert_array_equal(dose(plan, None, setup=Setup(lateral_cm=0.5, yaw_deg=3.0)), shifted)
    computed.clear()
    # whatever the light depends on makes it anew
    beam = plan.beams[0]
    for changed in (
        {"meterset_mu": 2 * beam.meterset_mu}, {"jaw_x_cm": beam.jaw_x_cm * 0.9}, {"collimator_deg": np.full(2, 30.0)},
        {"gantry_deg": np.full(2, 30.0)}, {"energy": "10X"},
    ):  # fmt: skip
        dose(make_plan(replace(beam, **changed)), memory)
    dose(plan, memory, change=MachineChange(spot_factor=1.2))
    assert len(computed) == 6


def test_slabs_cover_the_box_and_fit() -> None:
    # Slices 2 to 11 of 10 bytes each, 50 more where the field is, slices 5 to 8.
    box, wide = ((5, 3, 0), (9, 6, 9)), ((2, 0, 0), (12, 9, 9))
    assert cut_into_slabs(box, wide, 50, 10, 10**9) == [(2, 12)]
    # 30 + 60 = 90 fit into 100, and then a slice each, and the last with three of 10.
    assert cut_into_slabs(box, wide, 50, 10, 100) == [(2, 6), (6, 7), (7, 8), (8, 12)]
    assert cut_into_slabs(box, wide, 50, 10, 1) == [(z, z + 1) for z in range(2, 12)]
