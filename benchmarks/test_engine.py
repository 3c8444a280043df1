"""Whole calculations: `vmat-180` and `spine-1mm`, warm code, calibration remembered."""

from __future__ import annotations

from typing import Any

import pytest

from cases import elliptical_body, modulated_arcs
from spinedose.demo import demo_case
from spinedose.engine import compute_dose


def test_vmat_180(benchmark: Any, peak_memory_gb: Any) -> None:
    """100 x 150 x 150 voxels of 2.5 mm, two arcs of 358 degrees with 90 control points each."""
    ct, structures = elliptical_body()
    plan = modulated_arcs()
    compute_dose(modulated_arcs(1, 4), ct, structures=structures)  # compiles, and remembers the calibration
    dose = benchmark.pedantic(compute_dose, (plan, ct), {"structures": structures}, rounds=3, iterations=1)
    benchmark.extra_info.update(case="vmat-180", peak_memory_gb=peak_memory_gb(), **dose.metadata.as_dict())


@pytest.mark.parametrize("spacing_cm", [0.25, 0.125])
def test_spine(benchmark: Any, spacing_cm: float) -> None:
    """The demo case; at 1.25 mm it is `spine-1mm`."""
    case = demo_case()
    arguments = {"structures": case.structures, "spacing_cm": spacing_cm}
    dose = benchmark.pedantic(compute_dose, (case.plan, case.ct), arguments, rounds=1, warmup_rounds=1, iterations=1)
    benchmark.extra_info.update(case=f"spine-{10 * spacing_cm:g}mm", voxels=dose.grid.size, **dose.metadata.as_dict())
