"""Fixtures that all tests share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from made_up import beam_of
from spinedose.plan import Beam, Plan

SHARED = Path(__file__).resolve().parents[1].parent / "shared"
"""Measured data and real DICOM files; beside the checkout, not part of it."""


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared material; skips the test where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("needs the shared material beside the checkout")
    return SHARED


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
