"""Hold fields in water and lung slabs against exact superposition of the water kernels, scaled by density.

    python validation/slab_superposition.py

What collapsed cones approximate: a source's energy goes along straight rays to where the *tabulated* kernel puts it, at
radiological instead of geometrical distances. In slabs this needs no grid and no cones: by reciprocity the dose on the
axis of a square parallel field is the energy that a pencil beam leaves within the square. So the difference from Monte
Carlo splits into what scaling the kernel costs, which no such engine can avoid, and what cones, fits and voxels add.
Writes validation/results/slab_superposition.json and the table of docs/theory/heterogeneity.md.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spinedose.cones import DepositionTable, water_kernels
from spinedose.materials import material
from spinedose.validate.slabs import OWN, SlabCase, cases, read_spectrum

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
RESULTS = Path(__file__).with_name("results") / "slab_superposition.json"
DOCS = ROOT / "docs" / "theory" / "heterogeneity.md"

Array = NDArray[np.float64]

STEP_CM = 0.05
"""Thickness of the layers in which energy is released and deposited."""

PER_CONE, PER_SHELL = 4, 3
"""Rays in each cone, and points in each shell, of the tabulated kernel."""

GRAY = 1.602176634e-10
"""Gy for 1 MeV/g."""

SHOWN = ("lung_2x2_parallel", "lung_4x4_parallel", "lung_10x10_parallel", "water_2x2_parallel", "water_4x4_parallel")
"""Cases computed, by the names of their files; of lung 10 x 10 cm at 6 MV there is the open reference only."""

BANDS_CM = ((3, 4.8), (5, 5.4), (5.4, 6), (6, 8), (8, 10), (10, 14), (14, 15), (15, 15.6), (15.6, 18), (18, 29))


def axis_dose(case: SlabCase, table: DepositionTable) -> Array:
    """Dose at the layers of the Monte Carlo [Gy for a photon/cm^2]."""
    z = (np.arange(round(case.layers[-1].high_cm / STEP_CM)) + 0.5) * STEP_CM
    place = np.searchsorted([layer.high_cm for layer in case.layers], z)
    made_of = [material(layer.medium) for layer in case.layers]
    density = np.array([layer.density_g_cm3 for layer in case.layers])[place]
    electrons = density * np.array([one.electrons_per_gram for one in made_of])[place]
    released = _released(case, [one.attenuation for one in made_of], place, density, table.energy_MeV)
    edge = np.arange(len(z) + 1) * STEP_CM
    depth = np.concatenate([[0.0], np.cumsum(electrons * STEP_CM)])  # radiological
    cosine, share = _rays(table)
    r_edge = table.r_edge_cm
    radius = (r_edge[:-1, None] + np.diff(r_edge)[:, None] * (np.arange(PER_SHELL) + 0.5) / PER_SHELL).ravel()
    deposited = np.zeros(len(z))
    for k, weights in enumerate(released):
        energy = np.tensordot(weights, table.energy_fraction, 1)  # (cones, shells)
        energy = np.repeat(np.repeat(energy, PER_CONE, 0) * share[:, None], PER_SHELL, 1) / PER_SHELL
        there = np.interp(
            np.interp(z[k], edge, depth) + radius * cosine[:, None], depth, edge, left=-1.0, right=edge[-1] + 1.0
        )
        aside = np.abs((there - z[k]) / cosine[:, None]) * np.sqrt(1 - cosine[:, None] ** 2)
        inside = (there > 0) & (there < edge[-1])
        kept = (energy * _share_in_square(aside, case.side_cm))[inside]
        np.add.at(deposited, (there[inside] / STEP_CM).astype(int), kept)
    dose = GRAY * deposited / (STEP_CM * density)
    half = 0.5 * (case.depth_cm[1] - case.depth_cm[0])
    return np.array([dose[(z > at - half) & (z < at + half)].mean() for at in case.depth_cm])


def _released(case: SlabCase, attenuations: list[Any], place: Array, density: Array, energies: Array) -> Array:
    """Energy released in each layer at each energy of the kernels [MeV/cm^2 for a photon/cm^2], (nz, energies)."""
    spectrum = read_spectrum(SHARED / "spectra" / f"mohan_{case.energy}MV.csv")
    mu = np.array([f(spectrum.energy_MeV) for f in attenuations])[place] * density[:, None]
    before = np.cumsum(mu * STEP_CM, axis=0) - 0.5 * mu * STEP_CM
    all_of_it = spectrum.weight * spectrum.energy_MeV * mu * np.exp(-before) * STEP_CM
    at = np.interp(np.log(spectrum.energy_MeV), np.log(energies), np.arange(len(energies)))
    first = np.minimum(at.astype(int), len(energies) - 2)
    spread = np.zeros((len(at), len(energies)))
    spread[np.arange(len(at)), first] = 1 - (at - first)
    spread[np.arange(len(at)), first + 1] = at - first
    result: Array = all_of_it @ spread
    return result


def _rays(table: DepositionTable) -> tuple[Array, Array]:
    """Cosines of rays in each cone, and the share of the cone's energy that each carries."""
    edge = np.cos(np.radians(table.theta_edge_deg))
    cosine = edge[:-1, None] + np.diff(edge)[:, None] * (np.arange(PER_CONE) + 0.5) / PER_CONE  # equal solid angles
    return cosine.ravel(), np.full(cosine.size, 1 / PER_CONE)


def _share_in_square(radius: Array, side: float) -> Array:
    """Share of a circle about the axis that lies in a square."""
    half = np.clip(0.5 * side / np.maximum(radius, 1e-9), 0.0, 1.0)
    return np.clip(1 - 4 * np.arccos(half) / np.pi, 0.0, 1.0)


def main() -> None:
    """Compute, print and write."""
    table, results = water_kernels(), {}
    for case in sorted(cases(OWN, SHARED / "mc_reference"), key=lambda one: (float(one.energy), one.side_cm)):
        if not case.path.stem.endswith(SHOWN):
            continue
        exact, ours = axis_dose(case, table), case.on_axis(case.compute(SHARED / "spectra"))
        rows = []
        for low, high in BANDS_CM:
            band = (case.depth_cm > low) & (case.depth_cm < high)
            pairs = ((exact, case.truth), (ours, case.truth), (ours, exact))
            rows.append([low, high, *(float(np.mean(100 * (a[band] / b[band] - 1))) for a, b in pairs)])
        results[case.title] = rows
        print(case.title)
        for low, high, of_exact, of_ours, apart in rows:
            print(f"  {low:4g}-{high:4g} cm: superposition {of_exact:+.2f}, ours {of_ours:+.2f}; apart {apart:+.2f} %")
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    text = DOCS.read_text(encoding="utf-8")
    marks = "<!-- slab_superposition: begin -->", "<!-- slab_superposition: end -->"
    pattern = re.compile(f"{re.escape(marks[0])}.*{re.escape(marks[1])}", re.DOTALL)
    DOCS.write_text(pattern.sub(lambda _: "\n".join([marks[0], *_rows(results), marks[1]]), text), encoding="utf-8")


def _rows(results: dict[str, list[list[float]]]) -> list[str]:
    """The table of the docs: superposition / ours, against Monte Carlo."""
    titles = [title for title in results if "lung" in title]
    lines = ["| depth [cm] | " + " | ".join(title.split(", lung")[0] for title in titles) + " |"]
    lines.append("|---" * (len(titles) + 1) + "|")
    for n, (low, high) in enumerate(BANDS_CM):
        cells = [f"{results[title][n][2]:+.1f} / {results[title][n][3]:+.1f}" for title in titles]
        lines.append(f"| {low:g} to {high:g} | " + " | ".join(cells) + " |")
    return lines


if __name__ == "__main__":
    main()
