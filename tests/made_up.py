"""Beams that tests make up."""

from __future__ import annotations

from typing import Any

import numpy as np

from spinedose.plan import Beam


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
