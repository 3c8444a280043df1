"""How much wider than its cavity a CC13 sees a field edge: from pairs of scans with a chamber and with a diode.

    python validation/chamber_blur.py

The diode's profile, averaged over the chamber's cavity and blurred by a Gaussian, is made as steep (80-20 %) as the
chamber's own; no dose calculation takes part. The Gaussian stands for the secondary electrons that the chamber's air
lets pass: Looe et al., Z Med Phys 23:129 (2013), doi:10.1016/j.zemedi.2012.12.010, found that the response of nine
chambers is Gaussian, wider than the cavity, and the same at all depths. Writes validation/results/chamber_blur.json.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.optimize import brentq

from spinedose.compare.curves import centre_cm, penumbra_cm, value_at
from spinedose.measurements import DETECTORS, Measurements, average_over, read_measurements

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "water_data" / "rsch_la6_truebeam"


def main() -> None:
    """Every field and depth that both detectors scanned, where edges are steeper than the field is round."""
    chamber = read_measurements(DATA / "6X_profiles_cc13_raw.csv")
    diode: Measurements = read_measurements(DATA / "6X_profiles_photondiode_raw.csv")
    cavity = replace(DETECTORS["IBA CC13"], blur_cm=0.0)
    rows = []
    for wide in chamber.select(kind="crossline"):
        if wide.field_cm[0] > 10 or wide.depth_cm > 10:
            continue
        for sharp in diode.select(kind="crossline", field_cm=wide.field_cm, depth_cm=wide.depth_cm):
            goal = _penumbra(wide.positions_cm, wide.values)
            x = np.arange(sharp.positions_cm[0], sharp.positions_cm[-1], 0.02)
            fine = np.interp(x, sharp.positions_cm, sharp.values)

            def misfit(blur_cm: float, x: np.ndarray = x, fine: np.ndarray = fine, goal: float = goal) -> float:
                return _penumbra(x, average_over(replace(cavity, blur_cm=blur_cm), x, fine, "x")) - goal

            rows.append(
                {
                    "field_cm": wide.field_cm[0],
                    "depth_cm": wide.depth_cm,
                    "chamber_mm": round(10 * goal, 2),
                    "diode_mm": round(10 * _penumbra(x, fine), 2),
                    "cavity_only_mm": round(10 * (goal + misfit(0.0)), 2),
                    "blur_mm": round(10 * brentq(misfit, 0.0, 0.5), 2),
                }
            )
            print(rows[-1])
    blur = np.array([row["blur_mm"] for row in rows])
    print(f"blur {blur.mean():.2f} +- {blur.std(ddof=1):.2f} mm")
    result = {"pairs": rows, "blur_mm": round(float(blur.mean()), 2), "spread_mm": round(float(blur.std(ddof=1)), 2)}
    path = ROOT / "validation" / "results" / "chamber_blur.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _penumbra(x: np.ndarray, values: np.ndarray) -> float:
    """Mean of both sides, 80-20 % of the axis [cm]."""
    x = x - centre_cm(x, values)
    return float(np.mean(penumbra_cm(x, values / value_at(x, values, 0.0), axis_value=1.0)))


if __name__ == "__main__":
    main()
