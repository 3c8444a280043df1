"""Hold ideal fields against Monte Carlo depth doses in slabs, absolute: Gy per unit photon fluence, nothing adjusted.

    python validation/against_monte_carlo.py [--cases water_ssd100 ...]

Needs the Monte Carlo tables (`../shared/mc_reference`, `../shared/spectra` beside the checkout; Mohan 6 MV, 10 x 10
cm2). Writes validation/results/monte_carlo.json and docs/theory/figures/monte_carlo.png.
"""

from __future__ import annotations

import argparse
import csv
import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spinedose.engine import Settings
from spinedose.grid import Grid, Volume
from spinedose.ideal import ideal_field_dose

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
Array = NDArray[np.float64]

LUNG_DENSITY, LUNG_ELECTRON_DENSITY = 0.26, 0.26 * 0.990
"""ICRU lung: g/cm^3, and electrons relative to water (Z/A 0.5497 against water's 0.5551; NIST, X-ray attenuation
tables)."""

SKIPPED_CM = 2.0
"""Depth from which on doses count: before it the Monte Carlo has no contaminating electrons and the dose builds up."""

EXIT_CM = 29.8
"""The layer behind it borders on vacuum: its dose lacks electrons scattered back, which kernels for water all around
keep."""

BOX = np.ones(5) / 5
"""Running means over 1 cm of layers of 2 mm."""


@dataclass(frozen=True, slots=True, eq=False)
class Spectrum:
    """Photon fluence per energy.

    Parameters
    ----------
    energy_MeV, weight : ndarray, shape (n,)
        Energies and their share of the fluence.
    """

    energy_MeV: Array
    weight: Array


def read_spectrum(path: Path, parts: int = 4) -> Spectrum:
    """A spectrum of bins in which energies are uniform; each bin is cut into parts."""
    with path.open(newline="") as file:
        rows = [[float(v) for v in row] for row in list(csv.reader(file))[1:]]
    low, high, weight = np.array(rows).T
    part = (np.arange(parts) + 0.5) / parts
    energy = low[:, None] + (high - low)[:, None] * part
    share = np.repeat(weight[:, None] / parts, parts, axis=1)
    return Spectrum(energy.reshape(-1), share.reshape(-1) / share.sum())


def slab(phantom: str, spacing_cm: float = 0.25, side_cm: float = 30.0) -> tuple[Volume, Array]:
    """Relative electron density of a slab phantom 30 cm deep, and mass density over electron density of each layer of
    voxels."""
    n, depth = round(side_cm / spacing_cm), round(30.0 / spacing_cm)
    middle = (np.arange(depth) + 0.5) * spacing_cm
    is_lung = (middle > 5) & (middle < 15) if phantom == "lung" else np.zeros(depth, bool)
    electron = np.where(is_lung, LUNG_ELECTRON_DENSITY, 1.0)
    mass = np.where(is_lung, LUNG_DENSITY, 1.0)
    values = np.broadcast_to(electron[None, :, None], (n, depth, n)).astype(np.float32)
    first = -(n - 1) / 2 * spacing_cm
    grid = Grid((first, spacing_cm / 2, first), (spacing_cm,) * 3, (n, depth, n))
    return Volume(grid, np.ascontiguousarray(values)), mass / electron


def compare(
    phantom: str, geometry: str, settings: Settings | None = None, *, spacing_cm: float = 0.25
) -> dict[str, object]:
    """Central axis of a 10 x 10 cm2 field, mean of the four voxels around it, against Monte Carlo; differences in
    percent."""
    folder = SHARED / "mc_reference"
    with (folder / f"pdd_6mv_{phantom}_10x10_{geometry}.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    depth, truth = (np.array([float(r[k]) for r in rows]) for k in ("depth_cm", "dose_Gy_cm2_per_photon"))
    density, ratio = slab(phantom, spacing_cm)
    spectrum = read_spectrum(SHARED / "spectra" / "mohan_6MV.csv")
    kind = "parallel" if geometry == "parallel" else "point"
    dose = ideal_field_dose(density, spectrum=spectrum, field_cm=10.0, geometry=kind, ssd_cm=100.0, settings=settings)
    n = dose.values.shape[0] // 2
    axis = dose.values[n - 1 : n + 1, :, n - 1 : n + 1].astype(float).mean(axis=(0, 2))
    # Monte Carlo scores dose to the medium: the energy over its mass, not over that of its electrons' worth of water
    axis /= ratio
    at = dose.grid.axes_cm[1]
    mine = _by_layer(depth, at, axis, (5.0, 15.0) if phantom == "lung" else ())
    return summary(phantom, depth, truth, mine)


def summary(phantom: str, depth: Array, truth: Array, mine: Array) -> dict[str, object]:
    """Figures of a comparison; the last layer before the vacuum stands apart."""
    error = 100 * (mine / truth - 1)
    running = 100 * (np.convolve(mine, BOX, "valid") / np.convolve(truth, BOX, "valid") - 1)
    beyond = (depth > SKIPPED_CM) & (depth < EXIT_CM)
    far = (depth[2:-2] > SKIPPED_CM + 0.4) & (depth[2:-2] < EXIT_CM - 0.4)
    result: dict[str, object] = {
        "mean": float(error[beyond].mean()),
        "rms": float(np.sqrt((error[beyond] ** 2).mean())),
        "worst": float(np.abs(error[beyond]).max()),
        "worst_of_1cm_means": float(np.abs(running[far]).max()),
        "rms_of_1cm_means": float(np.sqrt((running[far] ** 2).mean())),
        "exit_layer": float(error[-1]),
    }
    if phantom == "water":
        # polynomials of the log dose follow depth doses in water closely; what they leave is scatter between points
        x = depth[beyond] / 15 - 1
        smooth = {}
        for name, values in (("monte_carlo", truth[beyond]), ("spinedose", mine[beyond])):
            smooth[name] = np.polyval(np.polyfit(x, np.log(values), 6), x)
            result[f"scatter_of_{name}"] = float(100 * np.sqrt(((np.log(values) - smooth[name]) ** 2).mean()))
        result["worst_against_smooth"] = float(
            100 * np.abs(np.expm1(np.log(mine[beyond]) - smooth["monte_carlo"])).max()
        )
    else:
        for name, (a, b) in {"before_lung": (SKIPPED_CM, 5), "in_lung": (5, 15), "behind_lung": (15, EXIT_CM)}.items():
            part = error[(depth > a) & (depth < b)]
            result[name] = {"mean": float(part.mean()), "worst": float(np.abs(part).max())}
    return result | {"depth_cm": depth.tolist(), "monte_carlo": truth.tolist(), "spinedose": mine.tolist()}


def _by_layer(depth: Array, at: Array, dose: Array, faces: tuple[float, ...]) -> Array:
    """Interpolate log dose between voxel centres, not across interfaces."""
    result = np.empty(len(depth))
    edges = (0.0, *faces, 30.0)
    for low, high in pairwise(edges):
        here, there = (at > low) & (at < high), (depth > low) & (depth < high)
        x, y = at[here], np.log(dose[here])
        value = np.interp(depth[there], x, y)
        # np.interp holds the ends; go on straight instead
        for end, nearby in ((0, 1), (-1, -2)):
            out = depth[there] < x[0] if end == 0 else depth[there] > x[-1]
            slope = (y[end] - y[nearby]) / (x[end] - x[nearby])
            value[out] = y[end] + slope * (depth[there][out] - x[end])
        result[there] = np.exp(value)
    return result


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
        running = 100 * (np.convolve(mine, BOX, "valid") / np.convolve(truth, BOX, "valid") - 1)
        axes[1, column].plot(depth[2:-2], running, lw=1.2, color="C3", label="1 cm means")
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
