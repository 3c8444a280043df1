"""Segments: meterset, angles and leaves of the pieces of a beam, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from spinedose.errors import InvalidInput
from spinedose.plan import Beam
from spinedose.segments import Segments, segment_beam


def beam(**changed: object) -> Beam:
    """Three control points: 30 % of 200 MU while the gantry turns from 350 to 353.5, then 70 % to 355.5 degrees."""
    leaf = np.zeros((3, 2, 2))
    leaf[:, 0] = np.array([-4.0, -2.0, 2.0])[:, None]
    leaf[:, 1] = np.array([-2.0, 0.0, 4.0])[:, None]
    fields: dict[str, object] = {
        "number": 1,
        "name": "arc",
        "machine": "m",
        "energy": "6X",
        "meterset_mu": 200.0,
        "cumulative_meterset": [0.0, 0.3, 1.0],
        "gantry_deg": [350.0, 353.5, 355.5],
        "collimator_deg": [10.0, 10.0, 10.0],
        "couch_deg": np.zeros(3),
        "isocentre_cm": np.zeros(3),
        "jaw_x_cm": np.array([[-5.0, 5.0]] * 3),
        "jaw_y_cm": np.array([[-5.0, 5.0]] * 3),
        "leaf_boundaries_cm": [-1.0, 0.0, 1.0],
        "leaf_cm": leaf,
    }
    return Beam(**(fields | changed))  # type: ignore[arg-type]


def test_arc_is_cut_into_equal_shares_no_longer_than_a_degree() -> None:
    segments = segment_beam(beam())
    assert len(segments) == 4 + 2
    np.testing.assert_allclose(segments.meterset_mu, [15, 15, 15, 15, 70, 70])
    np.testing.assert_allclose(segments.gantry_deg, [350.4375, 351.3125, 352.1875, 353.0625, 354.0, 355.0])
    np.testing.assert_array_equal(segments.control_point, [0, 0, 0, 0, 1, 1])
    assert segments.leaf_start_cm is not None and segments.leaf_end_cm is not None
    np.testing.assert_allclose(segments.leaf_start_cm[:, 0, 0], [-4, -3.5, -3, -2.5, -2, 0])
    np.testing.assert_allclose(segments.leaf_end_cm[:, 1, 1], [-1.5, -1, -0.5, 0, 2, 4])


@pytest.mark.parametrize("step", [0.3, 1.0, 7.0])
def test_meterset_is_kept_at_any_step(step: float) -> None:
    segments = segment_beam(beam(), max_gantry_step_deg=step)
    assert segments.meterset_mu.sum() == pytest.approx(200.0, rel=1e-12)


def test_leaf_travel_alone_makes_no_cuts() -> None:
    segments = segment_beam(beam(gantry_deg=np.zeros(3)))
    np.testing.assert_allclose(segments.meterset_mu, [60, 140])
    assert segments.leaf_start_cm is not None
    np.testing.assert_allclose(segments.leaf_start_cm[:, 0, 0], [-4, -2])


def test_moving_jaws_make_cuts() -> None:
    jaw = np.array([[-5.0, 5.0], [-5.0, 5.0], [-4.4, 5.0]])
    segments = segment_beam(beam(gantry_deg=np.zeros(3), jaw_y_cm=jaw))
    assert len(segments) == 1 + 3  # 0.6 cm in steps of 0.2 cm
    assert segments.jaw_y_cm is not None
    np.testing.assert_allclose(segments.jaw_y_cm[:, 0], [-5, -4.9, -4.7, -4.5])


@pytest.mark.parametrize("name", ["collimator_deg", "couch_deg"])
def test_turning_collimator_and_couch_make_cuts(name: str) -> None:
    assert len(segment_beam(beam(gantry_deg=np.zeros(3), **{name: [0.0, 3.0, 3.0]}))) == 3 + 1


def test_intervals_without_meterset_vanish() -> None:
    segments = segment_beam(beam(cumulative_meterset=[0.0, 0.0, 1.0]))
    np.testing.assert_allclose(segments.meterset_mu, [100, 100])
    np.testing.assert_array_equal(segments.control_point, [1, 1])
    np.testing.assert_allclose(segments.gantry_deg, [354.0, 355.0])


def test_rounding_in_angles_makes_no_extra_cut() -> None:
    assert len(segment_beam(beam(gantry_deg=[0.0, 2.0000000001, 4.0]))) == 4


@pytest.mark.parametrize("step", [0.0, -1.0, float("nan")])
def test_steps_must_be_positive(step: float) -> None:
    with pytest.raises(InvalidInput, match="max_gantry_step_deg"):
        segment_beam(beam(), max_gantry_step_deg=step)


def test_part_keeps_what_belongs_together() -> None:
    whole = segment_beam(beam())
    part = whole.part(2, 5)
    assert isinstance(part, Segments) and len(part) == 3
    np.testing.assert_array_equal(part.meterset_mu, whole.meterset_mu[2:5])
    assert part.leaf_boundaries_cm is whole.leaf_boundaries_cm or np.array_equal(
        np.asarray(part.leaf_boundaries_cm), np.asarray(whole.leaf_boundaries_cm)
    )
    assert part.leaf_end_cm is not None and part.leaf_end_cm.shape == (3, 2, 2)


def test_segments_can_be_taken_by_number() -> None:
    segments = segment_beam(beam())
    some = segments.at(np.array([4, 1]))
    np.testing.assert_array_equal(some.meterset_mu, segments.meterset_mu[[4, 1]])
    assert some.leaf_start_cm is not None and segments.leaf_start_cm is not None
    np.testing.assert_array_equal(some.leaf_start_cm, segments.leaf_start_cm[[4, 1]])
    np.testing.assert_array_equal(some.leaf_boundaries_cm, segments.leaf_boundaries_cm)
