"""Where displaced patients lie: against statements of IEC 61217, and by computing them another way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from spinedose import engine
from spinedose.density import CtImage
from spinedose.errors import InvalidInput
from spinedose.geometry import gantry_from_patient, table_from_patient
from spinedose.grid import Grid, Volume
from spinedose.patient import PreparedPatient, prepare_patient
from spinedose.plan import Beam, Plan
from spinedose.result import Dose
from spinedose.settings import Settings
from spinedose.setup import Setup

ORIGIN = np.zeros(3)
QUICK = Settings(directions=160, moments=4)
MADE_UP = {"jaw_x_cm": np.tile([-1.0, 2.0], (2, 1)), "jaw_y_cm": np.tile([-2.0, 1.5], (2, 1))}


@pytest.mark.parametrize(
    ("setup", "position", "isocentre"),
    [
        # the patient goes to his left: the isocentre is then to the right of where it was
        (Setup(lateral_cm=0.3), "HFS", (-0.3, 0, 0)),
        (Setup(longitudinal_cm=0.3), "HFS", (0, 0, -0.3)),  # towards the gantry is towards his head
        (Setup(vertical_cm=0.3), "HFS", (0, 0.3, 0)),  # up is towards his front
        (Setup(lateral_cm=0.3), "FFS", (0.3, 0, 0)),
        (Setup(longitudinal_cm=0.3), "FFS", (0, 0, 0.3)),
        (Setup(vertical_cm=0.3), "HFP", (0, -0.3, 0)),
        (Setup(lateral_cm=0.3), "HFP", (0.3, 0, 0)),
    ],
)
def test_shifts_move_the_isocentre_the_other_way(
    setup: Setup, position: str, isocentre: tuple[float, float, float]
) -> None:
    np.testing.assert_allclose(setup.isocentre_cm(ORIGIN, ORIGIN, position), isocentre, atol=1e-12)


def test_turns_are_about_the_pivot() -> None:
    planned = np.array([1.0, -2.0, 3.0])
    turned = Setup(yaw_deg=90.0)
    np.testing.assert_allclose(turned.isocentre_cm(planned, planned, "HFS"), planned, atol=1e-12)
    # HFS, his left side now points to the gantry. The pivot lies 1 cm to the right of his planned isocentre, which
    # stays in the room 1 cm to the right of one who faces the gantry: that is now towards his feet
    moved = turned.isocentre_cm(planned, planned - np.array([1.0, 0, 0]), "HFS")
    np.testing.assert_allclose(moved, planned + np.array([-1.0, 0, -1.0]), atol=1e-12)
    fixed = replace(turned, pivot_cm=(0.0, -2.0, 3.0))
    np.testing.assert_allclose(fixed.isocentre_cm(planned, ORIGIN, "HFS"), moved, atol=1e-12)


@pytest.mark.parametrize("position", ["HFS", "HFP", "FFS", "FFP"])
def test_a_setup_moves_every_point_as_a_rigid_body(position: str) -> None:
    """The displaced patient's points in the room are those that turning and shifting them gives."""
    setup = Setup(0.2, -0.4, 0.1, pitch_deg=3.0, roll_deg=-2.0, yaw_deg=5.0)
    rng = np.random.default_rng(5)
    points, isocentre, pivot = rng.normal(size=(20, 3)), rng.normal(size=3), rng.normal(size=3)
    on_table = table_from_patient(position)
    moved = (points - pivot) @ on_table.T @ setup.turn.T + setup.shift_cm  # table system, from the pivot
    moved += on_table @ (pivot - isocentre)  # from where the machine's isocentre is
    seen = setup.isocentre_cm(isocentre, pivot, position)
    room = (points - seen) @ gantry_from_patient(position, 0.0, 0.0, setup.turn).T
    np.testing.assert_allclose(room, moved, atol=1e-12)


def test_order_of_turns() -> None:
    """Roll moves the table's x axis down, pitch its y axis up, yaw its x axis towards the gantry."""
    np.testing.assert_allclose(Setup(roll_deg=90).turn @ [1, 0, 0], [0, 0, -1], atol=1e-12)
    np.testing.assert_allclose(Setup(pitch_deg=90).turn @ [0, 1, 0], [0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(Setup(yaw_deg=90).turn @ [1, 0, 0], [0, 1, 0], atol=1e-12)
    np.testing.assert_allclose(Setup(roll_deg=90, yaw_deg=90).turn @ [0, 0, 1], [0, 1, 0], atol=1e-12)


@pytest.mark.parametrize(
    "wrong", [{"lateral_cm": np.nan}, {"yaw_deg": 200.0}, {"vertical_cm": -80.0}, {"pivot_cm": (0.0, np.inf, 0.0)}]
)
def test_senseless_setups_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidInput, match="setup"):
        Setup(**wrong)  # type: ignore[arg-type]


@pytest.fixture
def patient() -> PreparedPatient:
    """Water with a lung and a bone that are nowhere symmetric."""
    hu = np.zeros((24, 24, 24), np.float32)
    hu[6:16, 5:11, 3:9] = -700.0
    hu[4:20, 14:18, 12:16] = 900.0
    ct = CtImage(Volume(Grid((-5.75,) * 3, (0.5,) * 3, hu.shape), hu))
    return prepare_patient(ct, spacing_cm=0.5, backend="cpu")


@pytest.fixture
def dose(patient: PreparedPatient, monkeypatch: pytest.MonkeyPatch) -> Callable[..., np.ndarray]:
    monkeypatch.setattr(engine, "reference_output", lambda *_: 1.0)

    def run(plan: Plan, setup: Setup | None = None) -> np.ndarray:
        result: Dose = engine.irradiate(
            plan, patient, machine="varian-truebeam-m120", setup=setup, settings=QUICK
        )  # fmt: skip
        return result.values

    return run


def test_a_shift_equals_a_plan_with_another_isocentre(make_plan, make_beam, dose) -> None:
    plan = make_plan(make_beam(**MADE_UP, gantry_deg=np.full(2, 30.0), couch_deg=np.full(2, 20.0)))
    shifted = dose(plan, Setup(lateral_cm=0.3, longitudinal_cm=-0.2, vertical_cm=0.1))

    def at(beam: Beam) -> Beam:
        return replace(beam, isocentre_cm=beam.isocentre_cm - [0.3, -0.1, -0.2])

    direct = dose(replace(plan, beams=tuple(at(beam) for beam in plan.beams)))
    np.testing.assert_allclose(shifted, direct, rtol=1e-6, atol=1e-9)
    assert np.abs(shifted - dose(plan)).max() > 0.1 * direct.max()  # it does something


@pytest.mark.parametrize(
    ("setup", "turned"),
    [
        # a patient who is rolled sees the gantry turned the other way; yaw is a couch angle
        (Setup(roll_deg=6.0), {"gantry_deg": np.full(2, 50.0 - 6.0)}),
        (Setup(yaw_deg=6.0), {"gantry_deg": np.full(2, 50.0), "couch_deg": np.full(2, 6.0)}),
    ],
)
def test_turns_equal_turned_machines(make_plan, make_beam, dose, setup: Setup, turned: dict[str, np.ndarray]) -> None:
    beam = make_beam(**MADE_UP, gantry_deg=np.full(2, 50.0))
    ours = dose(make_plan(beam), setup)
    direct = dose(make_plan(replace(beam, **turned)))
    # voxels blur the light as planned, not as turned: below 0.5 % of the maximum at edges of the field
    np.testing.assert_allclose(ours, direct, atol=0.005 * direct.max())
    assert np.abs(ours - dose(make_plan(beam))).max() > 0.05 * direct.max()


def test_pitch_tips_the_patient_as_a_turned_phantom(make_plan, make_beam, dose) -> None:
    """A beam from above onto a patient who is pitched by 180 degrees about himself comes from below, feet first.

    Pitched by 180 degrees a patient HFS lies as one FFP does.
    """
    beam = make_beam(**MADE_UP, gantry_deg=np.zeros(2))
    ours = dose(make_plan(beam), Setup(pitch_deg=180.0))
    direct = dose(make_plan(beam, patient_position="FFP"))
    np.testing.assert_allclose(ours, direct, atol=2e-3 * direct.max())
