"""Fixtures that all tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[1].parent / "shared"
"""Measured data and real DICOM files; beside the checkout, not part of it."""


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared material; skips the test where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("needs the shared material beside the checkout")
    return SHARED
