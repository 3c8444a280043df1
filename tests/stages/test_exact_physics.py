"""The exact physics of `spinedose validate --case analytic`, on every backend."""

from __future__ import annotations

import numpy as np

from spinedose.backends.base import Backend
from spinedose.validate.analytic import attenuated, energy_balance, inverse_square


def test_energy_is_kept(backend: Backend) -> None:
    assert abs(energy_balance(backend)) < 1e-3


def test_attenuation_and_inverse_square(backend: Backend) -> None:
    for check in (attenuated, inverse_square):
        depth_cm, percent = check(backend)
        assert len(depth_cm) > 3
        assert np.abs(percent).max() < 0.02
