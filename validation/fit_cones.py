"""How well cone tables reproduce the tabulated deposition kernels, for the spectra of all start machines and others.

    python validation/fit_cones.py

Prints the table that stands in docs/theory/cones.md and writes validation/results/cones.json and
docs/theory/figures/cones.png. The Mohan spectra are used where they lie beside the checkout (`../shared/spectra`).
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spinedose.cones import HARD_DEPTH_CM, SpectrumLike, cone_table, cumulative_error, released_energy, water_kernels
from spinedose.machine import list_machines, read_machine
from spinedose.validate.slabs import read_spectrum

ROOT = Path(__file__).resolve().parents[1]
SPECTRA = ROOT.parent / "shared" / "spectra"
Array = NDArray[np.float64]

DEPTHS_CM = (0.0, 10.0, HARD_DEPTH_CM, 30.0)
"""Two that are fitted, and two that follow from them by hardness."""


def spectra() -> dict[str, SpectrumLike]:
    """Beams of the start machines, each spectrum once, and Mohan's."""
    found: dict[str, SpectrumLike] = {}
    seen = set()
    for name in list_machines():
        for energy, beam in read_machine(name).beams.items():
            key = (beam.spectrum.energy_MeV.tobytes(), beam.spectrum.weight.tobytes())
            if key not in seen:
                seen.add(key)
                found[f"{name.split('-')[0]} {energy}"] = beam.spectrum
    for mv in (4, 6, 10, 15, 24):
        path = SPECTRA / f"mohan_{mv}MV.csv"
        if path.is_file():
            whole = read_spectrum(path)
            below = whole.energy_MeV <= 20.0  # where the kernels end
            kept = type(whole)(whole.energy_MeV[below], whole.weight[below] / whole.weight[below].sum())
            found[f"Mohan {mv} MV"] = kept
    return found


def errors(spectrum: SpectrumLike) -> dict[str, object]:
    """Errors of the cone table, percent of the released energy."""
    table, kernels = cone_table(spectrum), water_kernels()

    def mean(depth: float) -> float:
        share = released_energy(spectrum, depth)
        return float((share * spectrum.energy_MeV).sum() / share.sum())

    radius = kernels.r_edge_cm[1:]
    row: dict[str, object] = {
        "mean_MeV": mean(0.0),
        "rate_per_cm": table.basis.rate_per_cm,
        "stages": table.basis.stages,
    }
    for depth in DEPTHS_CM:
        hardness = (mean(depth) - mean(0.0)) / (mean(HARD_DEPTH_CM) - mean(0.0))
        kernel = kernels.mix(spectrum.energy_MeV, released_energy(spectrum, depth))
        fitted = table.energy[0] + hardness * table.energy[1]
        of_all = 100 * cumulative_error(kernel, fitted, kernels, table.basis)
        per_cone = 100 * (fitted.T @ table.basis.cumulative(radius) - np.cumsum(kernel, axis=1))
        row[f"{depth:g}"] = {
            "hardness": hardness,
            "worst": float(np.abs(of_all).max()),
            "worst_beyond_2mm": float(np.abs(of_all[radius >= 0.2]).max()),
            "worst_cone": float(np.abs(per_cone).max()),
            "energy": float(of_all[-1]),
        }
    return row


def draw(found: dict[str, SpectrumLike]) -> None:
    """Error of the cumulated energy against radius."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    kernels = water_kernels()
    figure, axes = plt.subplots(1, 2, figsize=(10.5, 3.6), sharey=True, layout="constrained")
    for axis, depth, title in zip(axes, (0.0, 10.0), ("surface (fitted)", "10 cm (by hardness)"), strict=True):
        for name, spectrum in found.items():
            table = cone_table(spectrum)
            row = errors(spectrum)[f"{depth:g}"]
            fitted = table.energy[0] + row["hardness"] * table.energy[1]  # type: ignore[index]
            kernel = kernels.mix(spectrum.energy_MeV, released_energy(spectrum, depth))
            axis.semilogx(
                kernels.r_edge_cm[1:], 100 * cumulative_error(kernel, fitted, kernels, table.basis), lw=1, label=name
            )
        axis.set_title(title)
        axis.set_xlabel("radius [cm]")
        axis.axhline(0, color="0.7", lw=0.6)
    axes[0].set_ylabel("fitted - tabulated [% of released energy]")
    figure.legend(*axes[1].get_legend_handles_labels(), loc="outside right center", fontsize=7)
    folder = ROOT / "docs" / "theory" / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "cones.png", dpi=110)
    plt.close(figure)


def main() -> None:
    """Print the table, write results and picture."""
    found = spectra()
    rows = {}
    print(
        "| spectrum | mean TERMA energy [MeV] | chains | rates [1/cm] | "
        + " | ".join(f"{d:g} cm" for d in DEPTHS_CM)
        + " | worst cone |"
    )
    print("|---|---|---|---|" + "---|" * (len(DEPTHS_CM) + 1))
    for name, spectrum in found.items():
        row = rows[name] = errors(spectrum)
        rates = ", ".join(f"{v:.3g}" for v in row["rate_per_cm"])  # type: ignore[attr-defined]
        cells = " | ".join(f"{row[f'{d:g}']['worst']:.2f}" for d in DEPTHS_CM)  # type: ignore[index]
        cone = max(row[f"{d:g}"]["worst_cone"] for d in (0.0, HARD_DEPTH_CM))  # type: ignore[index]
        stages = "+".join(str(n) for n in row["stages"])  # type: ignore[attr-defined]
        print(f"| {name} | {row['mean_MeV']:.2f} | {stages} | {rates} | {cells} | {cone:.2f} |", flush=True)
    draw(found)
    path = ROOT / "validation" / "results" / "cones.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
