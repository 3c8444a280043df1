"""Samples become control points within a bound."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spinedose.errors import InvalidInput
from spinedose.logs import thin
from spinedose.logs.thinning import IDLE_SHARE


def _between(meterset: np.ndarray, axes: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """The kept samples, interpolated at every meterset."""
    return np.stack([np.interp(meterset, meterset[kept], column[kept]) for column in axes.T], axis=1)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(2, 300), step=st.floats(0.01, 3.0))
def test_no_sample_lies_further_off_than_the_bound(seed: int, n: int, step: float) -> None:
    rng = np.random.default_rng(seed)
    axes = np.cumsum(rng.normal(0, step, (n, 5)), axis=0)
    meterset = np.cumsum(rng.uniform(0.1, 1.0, n))
    kept = thin(meterset, axes)
    assert kept[0] == 0 and kept[-1] == n - 1 and (np.diff(kept) > 0).all()
    assert np.abs(_between(meterset, axes, kept) - axes).max() <= 1.0 + 1e-9


def test_straight_lines_need_their_corners_only() -> None:
    meterset = np.arange(101.0)
    axes = np.stack([np.abs(meterset - 40.0) * 3, 0.7 * meterset], axis=1)
    assert thin(meterset, axes).tolist() == [0, 40, 100]


def test_a_wobble_within_the_bound_vanishes_and_one_beyond_stays() -> None:
    meterset = np.arange(51.0)
    wobble = np.zeros((51, 1))
    wobble[20] = 0.99
    assert thin(meterset, wobble).tolist() == [0, 50]
    wobble[20] = 1.01
    assert 20 in thin(meterset, wobble)


def test_a_stretch_without_beam_keeps_its_ends() -> None:
    """Leaves run about while the beam is held: that is no control point, and neither is it a straight line of dose."""
    meterset = np.concatenate([np.arange(11.0), np.full(20, 10.0), np.arange(10.0, 21.0)])
    path = np.concatenate([np.zeros(11), 50 * np.sin(np.arange(20.0)), np.full(11, 30.0)])[:, None]
    kept = thin(meterset, path)
    assert kept.tolist() == [0, 10, 31, 41]


def test_drift_of_the_readout_in_a_hold_is_no_beam() -> None:
    meterset = np.concatenate([np.arange(11.0), 10 + 0.5 * IDLE_SHARE * 20 * np.arange(1, 21), np.arange(10.1, 21.0)])
    path = np.concatenate([np.zeros(11), 50 * np.sin(np.arange(20.0)), np.full(11, 30.0)])[:, None]
    assert len(thin(meterset, path)) <= 5


def test_a_falling_meterset_is_refused() -> None:
    with pytest.raises(InvalidInput, match="meterset falls"):
        thin(np.array([0.0, 2.0, 1.0]), np.zeros((3, 1)))
