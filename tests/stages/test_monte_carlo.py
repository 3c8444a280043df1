"""Ideal fields in slabs against Monte Carlo: absolute dose, nothing adjusted (needs the shared tables)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spinedose.validate.slabs import SlabCase, running_means

MEAN_PERCENT = 0.3
"""Of the local dose beyond 2 cm: interaction data and the reference's own statistics are of that size."""
CENTIMETRE_PERCENT = 1.0
"""Means over 1 cm of depth; single layers of the reference scatter by 0.5 % rms about a smooth curve."""
LUNG_PERCENT = 2.0
"""The same with the faces of lung, where a collapsed cone leaves out the electrons' change of scatter."""


def percent_off(shared: Path, name: str) -> tuple[SlabCase, np.ndarray, np.ndarray]:
    case = SlabCase.read(shared / "mc_reference" / name)
    mine = case.on_axis(case.compute(shared / "spectra", spacing_cm=0.25))
    return case, 100 * (mine / case.truth - 1), running_means(case.depth_cm, case.truth, mine)[1]


@pytest.mark.slow
def test_the_axis_of_a_field_in_water_is_that_of_monte_carlo(shared: Path) -> None:
    case, percent, means = percent_off(shared, "pdd_6mv_water_10x10_ssd100.csv")
    beyond = (case.depth_cm > 2) & (case.depth_cm < 29.8)
    assert abs(percent[beyond].mean()) < MEAN_PERCENT
    assert np.abs(means).max() < CENTIMETRE_PERCENT


@pytest.mark.slow
def test_lung_is_within_two_percent_of_monte_carlo(shared: Path) -> None:
    case, percent, means = percent_off(shared, "pdd_6mv_lung_10x10_ssd100.csv")
    for layer in case.layers:
        here = (case.depth_cm > max(layer.low_cm, 2)) & (case.depth_cm < min(layer.high_cm, 29.8))
        assert abs(percent[here].mean()) < 1.0
    assert np.abs(means).max() < LUNG_PERCENT
