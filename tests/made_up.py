"""Beams and a density curve that tests make up."""

from __future__ import annotations

from typing import Any

import numpy as np

from spinedose.hu_curve import HuCurve
from spinedose.plan import Beam

ROUND_CURVE = HuCurve(
    name="round",
    hu=np.array([-1000.0, 0.0, 2000.0]),
    mass_density=np.array([0.001, 1.0, 3.0]),
    electron_density=np.array([0.001, 1.0, 2.7]),
    provenance="made up for this test",
)
"""Round numbers: 0 at -1000, 1 g/cm3 at 0, 3 g/cm3 at 2000; electrons 0.9 of that above water."""


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
