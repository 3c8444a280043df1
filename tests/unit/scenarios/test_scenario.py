"""Scenarios: what they refuse, that they survive JSON, and the algebra of setups and registrations."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest

from spinedose.errors import InvalidInput
from spinedose.machine_change import MachineChange
from spinedose.scenarios import NOMINAL, DensityChange, OtherCt, Registration, Scenario
from spinedose.scenarios.scenario import setup_from_turn
from spinedose.setup import Setup

from made_study import small_ct  # isort: skip

TURNED = ((0.0, -1.0, 0.0, 1.0), (1.0, 0.0, 0.0, 2.0), (0.0, 0.0, 1.0, 3.0), (0.0, 0.0, 0.0, 1.0))

FULL = Scenario(
    "all at once",
    (Setup(0.1, yaw_deg=1.0), Setup(pitch_deg=-2.0, pivot_cm=(1.0, 2.0, 3.0))),
    MachineChange(0.02, 1.1),
    meterset_factor=1.02,
    meterset_factors={2: 0.9, 1: 1.1},
    fractions=2,
    densities=(DensityChange("Lung", 0.9, "times"), DensityChange("PTV", 1.1)),
    curve="generic",
    hu_offset=-20.0,
    ct=OtherCt("CT2", "RS2.dcm", Registration(TURNED)),
    group="random",
    is_sample=True,
)


FILED = Scenario("filed", ct=OtherCt("CT2", registration="REG.dcm"))


@pytest.mark.parametrize("scenario", [NOMINAL, Scenario("nothing"), FULL, FILED], ids=lambda one: one.name)
def test_scenarios_survive_json_and_pickle(scenario: Scenario) -> None:
    assert Scenario.from_dict(json.loads(json.dumps(scenario.as_dict()))) == scenario
    assert pickle.loads(pickle.dumps(scenario)) == scenario
    assert hash(scenario) == hash(pickle.loads(pickle.dumps(scenario)))


def test_what_is_as_planned_is_left_out() -> None:
    assert Scenario("nothing").as_dict() == {"name": "nothing"}


def test_nominal_is_told_by_what_is_different_not_by_name() -> None:
    assert Scenario("anything").is_nominal
    assert not Scenario("nominal", hu_offset=1.0).is_nominal


def test_a_ct_in_memory_cannot_come_back() -> None:
    table = json.loads(json.dumps(Scenario("x", ct=OtherCt(small_ct())).as_dict()))
    with pytest.raises(InvalidInput, match="only in memory"):
        Scenario.from_dict(table)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"name": " "}, "called"),
        ({"name": "x", "setup": ()}, "no setup"),
        ({"name": "x", "meterset_factor": 0.0}, "meterset times 0"),
        ({"name": "x", "meterset_factors": {1: float("nan")}}, "meterset times nan"),
        ({"name": "x", "fractions": -1}, "-1 fractions"),
        ({"name": "x", "hu_offset": float("nan")}, "nan HU"),
        ({"name": "x", "densities": (DensityChange("A", 1.0), DensityChange("A", 1.1))}, "twice"),
    ],
)
def test_senseless_scenarios_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        Scenario(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("amount", "kind", "message"),
    [(0.0, "g/cm3", "is set to"), (30.0, "times", "is set to"), (1.0, "plus", "changed by")],
)
def test_senseless_densities_are_refused(amount: float, kind: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        DensityChange("A", amount, kind)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.diag([1.0, 1.0, -1.0, 1.0]), "mirrors"),
        (np.diag([1.02, 1.0, 1.0, 1.0]), "stretches"),
        (np.eye(3), "4 x 4"),
        (np.full((4, 4), np.nan), "4 x 4"),
    ],
)
def test_registrations_are_rigid(matrix: np.ndarray, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        Registration(tuple(map(tuple, matrix.tolist())))


def test_a_registration_takes_points_along() -> None:
    one = Registration(TURNED)
    np.testing.assert_allclose(one.of(np.array([1.0, 0.0, 0.0])), [1.0, 3.0, 3.0])
    assert one.is_turned


@pytest.mark.parametrize(
    "setup",
    [
        Setup(0.1, 0.2, 0.3, pitch_deg=10.0, roll_deg=-20.0, yaw_deg=170.0, pivot_cm=(1.0, 2.0, 3.0)),
        Setup(roll_deg=170.0, yaw_deg=-120.0, pitch_deg=-80.0, pivot_cm=(0.0, 0.0, 0.0)),
    ],
)
def test_the_angles_of_a_turn_are_found_again(setup: Setup) -> None:
    found = setup_from_turn(setup.turn, setup.shift_cm, np.array(setup.pivot_cm))
    np.testing.assert_allclose(found.turn, setup.turn, atol=1e-12)
    np.testing.assert_allclose([found.pitch_deg, found.roll_deg, found.yaw_deg],
                               [setup.pitch_deg, setup.roll_deg, setup.yaw_deg], atol=1e-9)  # fmt: skip
    assert found.pivot_cm == setup.pivot_cm
