"""Hold ideal fields against Monte Carlo depth doses in slabs, absolute: Gy per unit photon fluence, nothing adjusted.

    python validation/against_monte_carlo.py [--folder ../shared/mc_reference] [--only lung] [--draw]

Needs the Monte Carlo tables and spectra (`../shared/mc_reference`, `../shared/spectra` beside the checkout). Every
table of the folder, and of validation/monte_carlo, is computed. With `--draw` it writes
validation/results/monte_carlo.json and docs/theory/figures/monte_carlo.png.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from spinedose.validate.slabs import OWN, cases, running_means, summary

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"


DRAWN = ("water_10x10_ssd100", "lung_10x10_ssd100", "lung_2x2", "bone_4x4", "spine_4x4", "titanium_4x4")
"""Parts of the names of the tables that are drawn."""


def draw(results: dict[str, dict[str, object]]) -> None:
    """Depth doses and differences."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        2, len(results), figsize=(3.6 * len(results), 6), sharex=True, layout="constrained", squeeze=False
    )
    for column, (name, r) in enumerate(results.items()):
        depth, truth, mine = (np.array(r[k]) for k in ("depth_cm", "monte_carlo", "spinedose"))
        axes[0, column].plot(depth, truth * 1e12, ".", ms=4, label="Monte Carlo")
        axes[0, column].plot(depth, mine * 1e12, lw=1, label="spinedose")
        axes[0, column].set_title(name, fontsize=9)
        axes[0, column].legend()
        axes[1, column].plot(depth, 100 * (mine / truth - 1), ".", ms=4, color="0.6", label="single layers of 2 mm")
        axes[1, column].plot(*running_means(depth, truth, mine), lw=1.2, color="C3", label="1 cm means")
        axes[1, column].axhspan(-1, 1, color="C2", alpha=0.12)
        axes[1, column].set_ylim(-6, 6)
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
    parser.add_argument("--folder", type=Path, default=SHARED / "mc_reference")
    parser.add_argument("--only", default="", help="part of the names of the tables to compute")
    parser.add_argument("--draw", action="store_true")
    asked = parser.parse_args()
    results, drawn = {}, []
    for case in cases(asked.folder, OWN):
        if asked.only not in case.path.name:
            continue
        if any(part in case.path.name for part in DRAWN):
            drawn.append(case.title)
        results[case.title] = summary(case, case.on_axis(case.compute(SHARED / "spectra")))
        for key, value in results[case.title].items():
            if not isinstance(value, list):
                print(case.title, key, _short(value), flush=True)
    if asked.draw:
        draw({title: results[title] for title in drawn})
        path = ROOT / "validation" / "results" / "monte_carlo.json"
        path.write_text(json.dumps({k: _short(v) for k, v in results.items()}, indent=1) + "\n", encoding="utf-8")


def _short(value: object) -> object:
    """Numbers with five digits."""
    if isinstance(value, dict):
        return {key: _short(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_short(part) for part in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main()
