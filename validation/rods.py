"""What titanium beside the cord does to the demo case, with its material, without, and with a wrong one.

    python validation/rods.py

Computes the demo's plan with voxels of 1.25 mm around target and cord and 2.5 mm elsewhere. Writes
validation/results/rods.json; docs/theory/heterogeneity.md, section 6, shows the numbers.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from spinedose.assignments import Assignment
from spinedose.demo import demo_case
from spinedose.engine import compute_dose
from spinedose.nested import fine_box_around
from spinedose.structures import StructureSet, mask

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("GTV", "PTV", "SpinalCord", "SpinalCord_PRV")


def without_densities(structures: StructureSet) -> StructureSet:
    """The same structures, none of which says what it is made of."""
    plain = tuple(replace(s, relative_mass_density=None, relative_electron_density=None) for s in structures.structures)
    return replace(structures, structures=plain)


def main() -> None:
    """Compute, print and write."""
    case = demo_case()
    plain = without_densities(case.structures)
    box = fine_box_around(case.structures, ("PTV", "Rods"), margin_cm=1.0)
    variants = {
        "titanium": (Assignment("titanium", "Rods"),),
        "none (the CT's numbers, saturated)": (),
        "cobalt-chrome": (Assignment("cobalt-chrome", "Rods"),),
        "water": (Assignment("water", "Rods"),),
    }
    results: dict[str, dict[str, dict[str, float]]] = {}
    for name, materials in variants.items():
        dose = compute_dose(case.plan, case.ct, structures=plain, materials=materials, fine=box)
        results[name] = {}
        for structure in case.structures.structures:
            if structure.name in NAMES:
                inside = dose.values[mask(structure, dose.grid).values > 0.5].astype(float)
                hottest = max(1, round(0.03 / dose.grid.voxel_volume_cm3))
                results[name][structure.name] = {
                    "mean_gy": float(inside.mean()),
                    "hottest_0.03_cm3_gy": float(np.sort(inside)[-hottest]),
                    "d95_gy": float(np.quantile(inside, 0.05)),
                }
        print(name, {k: {a: round(b, 3) for a, b in v.items()} for k, v in results[name].items()}, flush=True)
        print(*dose.metadata.warnings, sep="\n")
    path = ROOT / "validation" / "results" / "rods.json"
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
