"""Fixtures that all tests share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spinedose.plan import Beam, Plan

SHARED = Path(__file__).resolve().parents[1].parent / "shared"
"""Measured data and real DICOM files; beside the checkout, not part of it."""


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared material; skips the test where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("needs the shared material beside the checkout")
    return SHARED


def beam_of(**changes: Any) -> Beam:
    """A static 10 x 10 cm2 field of 100 MU at gantry 0 with the isocentre in the origin; changes replace any field."""
    n = len(changes.get("cumulative_meterset", (0.0, 1.0)))
    values: dict[str, Any] = {
        "number": 1,
        "name": "field",
        "machine": "TrueBeam",
        "energy": "6X",
        "meterset_mu": 100.0,
        "cumulative_meterset": np.array([0.0, 1.0]),
        "gantry_deg": np.zeros(n),
        "collimator_deg": np.zeros(n),
        "couch_deg": np.zeros(n),
        "isocentre_cm": np.zeros(3),
        "jaw_x_cm": np.tile([-5.0, 5.0], (n, 1)),
        "jaw_y_cm": np.tile([-5.0, 5.0], (n, 1)),
    }
    return Beam(**(values | changes))


@pytest.fixture(scope="session")
def make_beam() -> Callable[..., Beam]:
    """`make_beam(**changes)`: see `beam_of`."""
    return beam_of


@pytest.fixture(scope="session")
def make_plan() -> Callable[..., Plan]:
    """`make_plan(*beams, **changes)`: a plan of these beams, or of one static field."""

    def plan_of(*beams: Beam, **changes: Any) -> Plan:
        return Plan(**({"label": "test", "beams": beams or (beam_of(),)} | changes))

    return plan_of
