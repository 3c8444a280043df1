"""Beams summed into moments and transported together = every beam transported alone with its own coefficients."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

VALIDATION = Path(__file__).resolve().parents[2] / "validation"

RMS_PERCENT = 0.1
"""Of the maximum dose: truncation at degree 6 and compression, in an arc (the few beams here average less than 36)."""
MEAN_PERCENT = 0.02
"""The weights make the energy of every beam direction exact to degree 6; what is left is the tail of the series."""


@pytest.fixture
def reference(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The plain reference as a module."""
    monkeypatch.syspath_prepend(str(VALIDATION))
    import per_control_point

    yield per_control_point
    for name in ("per_control_point", "water_cases"):
        sys.modules.pop(name, None)


@pytest.mark.slow
def test_transport_together_is_transport_alone(reference: Any) -> None:
    beams = reference.cord_sparing_arc(0.25, beams=6, radius_cm=1.6)
    rows = reference.compare(beams, (16, 24, 24), 0.25, (200,), 100.0)
    assert rows["200"]["rms"] < RMS_PERCENT
    assert abs(rows["200"]["mean"]) < MEAN_PERCENT
