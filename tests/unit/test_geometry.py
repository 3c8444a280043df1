"""The frames of IEC 61217, by where things point."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spinedose.errors import UnsupportedPlan
from spinedose.geometry import (
    PATIENT_POSITIONS,
    beam_direction,
    collimator_from_gantry,
    fixed_from_table,
    gantry_from_fixed,
    gantry_from_patient,
    rotation_about,
    table_from_patient,
)

LEFT, POSTERIOR, SUPERIOR = np.eye(3)
EXACT = 1e-12

angles = st.floats(-720, 720)


def test_supine_head_first_lies_as_told() -> None:
    """Facing the gantry, head towards it, on the back: left hand on the right of the viewer."""
    turn = table_from_patient("HFS")
    np.testing.assert_allclose(turn @ LEFT, [1, 0, 0])
    np.testing.assert_allclose(turn @ SUPERIOR, [0, 1, 0])
    np.testing.assert_allclose(turn @ -POSTERIOR, [0, 0, 1])


@pytest.mark.parametrize(
    ("position", "left", "superior", "anterior"),
    [
        ("HFS", (1, 0, 0), (0, 1, 0), (0, 0, 1)),
        ("HFP", (-1, 0, 0), (0, 1, 0), (0, 0, -1)),
        ("FFS", (-1, 0, 0), (0, -1, 0), (0, 0, 1)),
        ("FFP", (1, 0, 0), (0, -1, 0), (0, 0, -1)),
    ],
)
def test_each_position(position: str, left: tuple, superior: tuple, anterior: tuple) -> None:
    turn = table_from_patient(position)
    np.testing.assert_allclose([turn @ LEFT, turn @ SUPERIOR, turn @ -POSTERIOR], [left, superior, anterior])


def test_other_positions_are_refused() -> None:
    with pytest.raises(UnsupportedPlan, match="'HFDL'"):
        table_from_patient("HFDL")


# Head first supine: gantry 0 shines from above (towards posterior), 90 from the viewer's right, the patient's left.
@pytest.mark.parametrize(
    ("position", "couch", "gantry", "direction"),
    [
        ("HFS", 0, 0, POSTERIOR),
        ("HFS", 0, 90, -LEFT),
        ("HFS", 0, 180, -POSTERIOR),
        ("HFS", 0, 270, LEFT),
        ("HFP", 0, 0, -POSTERIOR),
        ("HFP", 0, 90, LEFT),
        ("FFS", 0, 90, LEFT),
        ("FFP", 0, 90, -LEFT),
        # Couch 90: counterclockwise from above, so the head swings from the gantry to the viewer's left. Light from the
        # right now comes from the feet.
        ("HFS", 90, 90, SUPERIOR),
        ("HFS", 270, 90, -SUPERIOR),
        ("HFS", 90, 0, POSTERIOR),
    ],
)
def test_where_the_beam_goes(position: str, couch: float, gantry: float, direction: np.ndarray) -> None:
    np.testing.assert_allclose(beam_direction(position, couch, gantry), direction, atol=EXACT)


def test_the_source_stands_above_at_gantry_zero() -> None:
    """At gantry angle g the source is at (sin g, 0, cos g) of the fixed system: right of the viewer for 90 degrees."""
    for angle in (0, 30, 90, 200):
        source = gantry_from_fixed(angle).T @ [0, 0, 1]
        np.testing.assert_allclose(source, [np.sin(np.radians(angle)), 0, np.cos(np.radians(angle))], atol=EXACT)


def test_the_collimator_turns_counterclockwise_seen_from_the_source() -> None:
    """Seen from the source, looking down -z with x to the right and y up, +x of the collimator at 90 degrees is +y."""
    np.testing.assert_allclose(collimator_from_gantry(90).T @ [1, 0, 0], [0, 1, 0], atol=EXACT)


def test_the_couch_turns_counterclockwise_seen_from_above() -> None:
    np.testing.assert_allclose(fixed_from_table(90) @ [0, 1, 0], [-1, 0, 0], atol=EXACT)


@settings(deadline=None)
@given(st.sampled_from(PATIENT_POSITIONS), angles, angles)
def test_always_a_rotation(position: str, couch: float, gantry: float) -> None:
    turn = gantry_from_patient(position, couch, gantry)
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-9)
    assert np.linalg.det(turn) == pytest.approx(1.0)


@settings(deadline=None)
@given(angles)
def test_a_full_turn_changes_nothing(angle: float) -> None:
    for turn in (gantry_from_fixed, fixed_from_table, collimator_from_gantry):
        np.testing.assert_allclose(turn(angle), turn(angle + 360), atol=1e-9)


def test_quarter_turns_are_exact() -> None:
    for angle in (-90, 0, 90, 180, 270, 360, 450):
        assert set(np.unique(gantry_from_fixed(angle))) <= {-1.0, 0.0, 1.0}


@pytest.mark.parametrize("axis", ["x", "y", "z"])
def test_arrays_of_angles_give_the_rotation_of_each(axis: str) -> None:
    """Against the matrices as they are written on paper; quarter turns among them."""
    angle = np.array([[-720.0, -90.0, -30.0], [0.0, 90.0, 123.4], [180.0, 270.0, 400.0]])
    found = rotation_about(axis, angle)
    assert found.shape == (3, 3, 3, 3)
    for k in np.ndindex(3, 3):
        c, s = np.cos(np.radians(angle[k])), np.sin(np.radians(angle[k]))
        paper = {
            "x": [[1, 0, 0], [0, c, -s], [0, s, c]],
            "y": [[c, 0, s], [0, 1, 0], [-s, 0, c]],
            "z": [[c, -s, 0], [s, c, 0], [0, 0, 1]],
        }
        np.testing.assert_allclose(found[k], paper[axis], atol=EXACT)
        np.testing.assert_array_equal(found[k], rotation_about(axis, float(angle[k])))
        if angle[k] % 90 == 0:
            assert set(np.unique(found[k])) <= {-1.0, 0.0, 1.0}


def test_arrays_of_couch_and_gantry_angles_go_together() -> None:
    couch, gantry, turn = np.array([0.0, 20.0]), np.array([90.0, 37.0]), fixed_from_table(3.0)
    found = gantry_from_patient("FFP", couch, gantry, turn)
    for k in range(2):
        alone = gantry_from_patient("FFP", float(couch[k]), float(gantry[k]), turn)
        np.testing.assert_allclose(found[k], alone, atol=EXACT)
