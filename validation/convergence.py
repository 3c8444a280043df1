"""How dose settles with each number that trades accuracy for time; where the defaults of `Settings` come from.

    python validation/convergence.py

Every study varies one number and compares with its finest value, percent of the maximum, voxels above 5 % of it. Writes
validation/results/convergence.json and docs/theory/figures/convergence.png.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import spinedose.backends.cpu.backend as cpu
import spinedose.engine as engine
from spinedose import compute_dose
from spinedose.engine import Settings
from spinedose.grid import Grid

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

from cases import elliptical_body, modulated_arcs  # noqa: E402

Dosing = Callable[[], NDArray[np.float64]]


def difference(dose: NDArray[np.float64], best: NDArray[np.float64]) -> dict[str, float]:
    """Percent of the maximum."""
    error = 100 * (dose - best)[best > 0.05 * best.max()] / best.max()
    return {
        "mean": round(float(error.mean()), 4),
        "rms": round(float(np.sqrt((error**2).mean())), 4),
        "p99": round(float(np.quantile(np.abs(error), 0.99)), 4),
    }


class Case:
    """One arc over 60 degrees in a short piece of the elliptical body with lungs and bone."""

    def __init__(self) -> None:
        # the calibration runs the engine with the same settings, at 1600 directions: it would take most of the time
        engine.reference_output = lambda *_: 1.0
        self.ct, self.structures = elliptical_body((24, 100, 136), 0.25)
        whole = modulated_arcs(1, 16)
        beam = whole.beams[0]
        self.plan = replace(whole, beams=(replace(beam, gantry_deg=np.linspace(181.0, 241.0, 16)),))
        # around the isocentre (0, 2, 0)
        self.like = Grid((-7.875, -5.875, -1.875), (0.25, 0.25, 0.25), (16, 64, 64))

    def dose(self, settings: Settings, spacing_cm: float = 0.25) -> tuple[NDArray[np.float64], float]:
        """Values on one grid, and seconds."""
        start = time.perf_counter()
        dose = compute_dose(
            self.plan, self.ct, structures=self.structures, spacing_cm=spacing_cm, like=self.like, settings=settings
        )
        return np.asarray(dose.values, float), time.perf_counter() - start


def study(case: Case, base: Settings, name: str, values: Sequence[float], best: float) -> dict[str, dict[str, float]]:
    """Vary one setting."""
    truth, _ = case.dose(replace(base, **{name: best}))  # type: ignore[arg-type]
    rows = {}
    for value in values:
        dose, seconds = case.dose(replace(base, **{name: value}))  # type: ignore[arg-type]
        rows[f"{value:g}"] = difference(dose, truth) | {"seconds": round(seconds, 2)}
        print(name, value, "against", best, rows[f"{value:g}"], flush=True)
    return rows


def tolerances(case: Case, base: Settings) -> dict[str, dict[str, float]]:
    """Vary the tolerance of the compression of the field's moments."""
    before = cpu.FIELD_TOLERANCE
    rows = {}
    try:
        cpu.FIELD_TOLERANCE = 1e-6
        truth, _ = case.dose(base)
        for value in (1e-1, 3e-2, 1e-2, 3e-3, 1e-3):
            cpu.FIELD_TOLERANCE = value
            dose, seconds = case.dose(base)
            rows[f"{value:g}"] = difference(dose, truth) | {"seconds": round(seconds, 2)}
            print("tolerance", value, rows[f"{value:g}"], flush=True)
    finally:
        cpu.FIELD_TOLERANCE = before
    return rows


def main() -> None:
    """All studies."""
    case = Case()
    base = Settings(directions=200)
    results: dict[str, object] = {}
    path = ROOT / "validation" / "results" / "convergence.json"
    path.parent.mkdir(exist_ok=True)

    def keep(name: str, rows: object) -> None:
        results[name] = rows
        path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")

    keep("group_step_deg", study(case, base, "group_step_deg", (8, 4, 2), 1))
    keep("segment_step_deg", study(case, base, "segment_step_deg", (4, 2, 1), 0.5))
    keep("halo_step_deg", study(case, base, "halo_step_deg", (12, 6), 2))
    keep("moments", study(case, replace(base, directions=400), "moments", (2, 4, 5, 6, 8), 10))
    keep("tolerance", tolerances(case, base))
    keep("directions", study(case, base, "directions", (100, 200, 400, 800), 1600))
    rows = {}
    truth, _ = case.dose(base, 0.125)
    for spacing in (0.5, 0.25):
        dose, seconds = case.dose(base, spacing)
        rows[f"{spacing:g}"] = difference(dose, truth) | {"seconds": round(seconds, 2)}
        print("spacing", spacing, rows[f"{spacing:g}"], flush=True)
    keep("spacing_cm", rows)


if __name__ == "__main__":
    main()
