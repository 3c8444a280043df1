"""Hold ideal fields against Monte Carlo depth doses in slabs, absolute: Gy per unit photon fluence, nothing adjusted.

    python validation/against_monte_carlo.py [--cases water_ssd100 ...]

Needs the Monte Carlo tables (`../shared/mc_reference`, `../shared/spectra` beside the checkout; Mohan 6 MV, 10 x 10
cm2). Writes validation/results/monte_carlo.json and docs/theory/figures/monte_carlo.png.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from spinedose.engine import Settings
from spinedose.validate import slabs
from spinedose.validate.slabs import running_means

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"


def compare(
    phantom: str, geometry: str, settings: Settings | None = None, *, spacing_cm: float = 0.25
) -> dict[str, object]:
    """As `spinedose validate --case mc` compares, with the tables beside the checkout."""
    return slabs.compare(SHARED, phantom, geometry, settings, spacing_cm=spacing_cm)


def draw(results: dict[str, dict[str, object]]) -> None:
    """Depth doses and differences."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        2, len(results), figsize=(4 * len(results), 6), sharex=True, layout="constrained", squeeze=False
    )
    for column, (name, r) in enumerate(results.items()):
        depth, truth, mine = (np.array(r[k]) for k in ("depth_cm", "monte_carlo", "spinedose"))
        axes[0, column].plot(depth, truth * 1e12, ".", ms=4, label="Monte Carlo")
        axes[0, column].plot(depth, mine * 1e12, lw=1, label="spinedose")
        axes[0, column].set_title(name)
        axes[0, column].legend()
        axes[1, column].plot(depth, 100 * (mine / truth - 1), ".", ms=4, color="0.6", label="single layers of 2 mm")
        axes[1, column].plot(*running_means(depth, truth, mine), lw=1.2, color="C3", label="1 cm means")
        axes[1, column].axhspan(-1, 1, color="C2", alpha=0.12)
        axes[1, column].set_ylim(-4, 4)
        axes[1, column].set_xlabel("depth [cm]")
        axes[1, column].legend()
    axes[0, 0].set_ylabel("dose per fluence [pGy cm²]")
    axes[1, 0].set_ylabel("difference [%]")
    folder = ROOT / "docs" / "theory" / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "monte_carlo.png", dpi=110)
    plt.close(figure)


def main() -> None:
    """Run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="*", default=["water_ssd100", "water_parallel", "lung_ssd100"])
    results = {}
    for case in parser.parse_args().cases:
        phantom, geometry = case.split("_")
        results[case] = compare(phantom, geometry)
        print(case, {k: v for k, v in results[case].items() if not isinstance(v, list)}, flush=True)
    draw(results)
    path = ROOT / "validation" / "results" / "monte_carlo.json"
    path.parent.mkdir(exist_ok=True)
    short = {
        case: {k: [float(f"{x:.5g}") for x in v] if isinstance(v, list) else v for k, v in r.items()}
        for case, r in results.items()
    }
    path.write_text(json.dumps(short, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
