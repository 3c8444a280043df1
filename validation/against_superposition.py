"""Hold the transport against exact superposition of the tabulated kernel in water: static fields and an arc.

    python validation/against_superposition.py [--quick]

Writes validation/results/superposition.json and docs/theory/figures/superposition.png.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spinedose.backends.select import select_backend
from spinedose.cones import water_kernels
from spinedose.engine import Settings
from spinedose.stages import transport_exposures
from superposition import superpose, voxel_kernel
from water_cases import (
    Beams,
    cord_sparing_arc,
    inside,
    one_kernel,
    plain_attenuation,
    released,
    six_mv,
    square,
    water_block,
)

ROOT = Path(__file__).resolve().parents[1]
Array = NDArray[np.float64]

LOWEST = 0.05
"""Share of the maximum above which voxels count."""


def exact_dose(
    beams: Beams, terma: Sequence[NDArray[np.float32]], kernel: Array, spacing_cm: float, *, seed: int = 1
) -> Array:
    """Exact superposition; beams a quarter turn apart share a kernel, turned with the grid."""
    reach = max(terma[0].shape) - 1
    total = np.zeros(terma[0].shape)
    first: dict[float, tuple[Array, Array]] = {}
    for gantry, direction, energy in zip(beams.gantry_deg, beams.directions(), terma, strict=True):
        if energy.shape[1] == energy.shape[2]:
            base = round(float(gantry) % 90.0, 6)
        else:
            base = round(float(gantry), 6)
        if base not in first:
            first[base] = direction, voxel_kernel(kernel, water_kernels(), direction, spacing_cm, reach, seed=seed)
        vector, table = first[base]
        turns = 0
        while not np.allclose(vector, direction, atol=1e-9):
            vector = np.array([vector[1], -vector[0], vector[2]])  # what np.rot90 does in the plane (y, x)
            turns += 1
            assert turns < 4
        # turn the energy back, so that one transformed kernel would do for all
        turned = np.rot90(energy.astype(float), -turns, axes=(1, 2))
        total += np.rot90(superpose(turned, table), turns, axes=(1, 2))
    return total


def figures(dose: Array, exact: Array, *, lowest: float = LOWEST) -> dict[str, float]:
    """Differences in percent of the maximum, over voxels above `lowest` of it."""
    top = exact.max()
    all_of_it = 100 * (dose - exact) / top
    error = all_of_it[exact > lowest * top]
    return {
        "mean": float(error.mean()),
        "rms": float(np.sqrt((error**2).mean())),
        "p99": float(np.quantile(np.abs(error), 0.99)),
        "worst": float(np.abs(error).max()),
        "rms_all_voxels": float(np.sqrt((all_of_it**2).mean())),
        "p99_all_voxels": float(np.quantile(np.abs(all_of_it), 0.99)),
    }


def in_field_mean(dose: Array, exact: Array, side_cm: float, spacing_cm: float) -> float:
    """Mean difference, percent of the local dose, 3 mm and more inside a static field and 1.5 cm and more from its
    ends."""
    nz, ny, nx = exact.shape
    half = side_cm / 2 - 0.3
    x, z = ((np.arange(n) - (n - 1) / 2) * spacing_cm for n in (nx, nz))
    end = round(1.5 / spacing_cm)
    field = np.zeros(exact.shape, bool)
    field[:, end : ny - end] = (np.abs(z) < half)[:, None, None] & (np.abs(x) < half)[None, None, :]
    return float(100 * (dose[field] / exact[field] - 1).mean())


def study(
    beams: Beams,
    shape: tuple[int, int, int],
    spacing_cm: float,
    counts: Sequence[int | None],
    *,
    side_cm: float | None = None,
) -> tuple[dict[str, dict[str, float]], Array, Array]:
    """Exact dose once, transport for several numbers of directions; None is the engine's own choice, which comes
    last."""
    spectrum = six_mv()
    kernel, cones = one_kernel(spectrum)
    device = select_backend("cpu")
    block = water_block(shape, spacing_cm)
    scene = device.load(block)
    exposures = beams.exposures(block.grid, plain_attenuation(spectrum))
    terma = [inside(released(device, scene, exposure)) for exposure in exposures]
    exact = exact_dose(beams, terma, kernel, spacing_cm)
    result, dose = {}, exact
    for count in counts:
        start = time.perf_counter()
        raw, used = transport_exposures(device, scene, exposures, [], cones, replace(Settings(), directions=count))
        seconds = time.perf_counter() - start
        dose = inside(raw).astype(float)
        row = figures(dose, exact)
        if side_cm is not None:
            row["in_field_mean"] = in_field_mean(dose, exact, side_cm, spacing_cm)
        row["seconds"] = round(seconds, 2)
        result[f"{used}"] = row
        print(f"  M={used}: " + ", ".join(f"{k} {v:.3f}" for k, v in row.items()), flush=True)
    return result, dose, exact


def run(quick: bool) -> dict[str, object]:
    """All cases."""
    h = 0.25
    still = (64, 96, 64) if not quick else (40, 48, 40)
    turning = (48, 64, 64) if not quick else (40, 48, 48)
    counts: tuple[int | None, ...] = (200, 400, 800, None) if not quick else (400, None)
    cases: dict[str, object] = {}
    pictures = {}
    for name, beams, shape, side in (
        ("static 3x3", square(3.0, h), still, 3.0),
        ("static 10x10", square(10.0, h), still, 10.0),
        ("static 3x3 at 27 degrees", square(3.0, h, 27.0), still, None),
        ("arc of 36 beams", cord_sparing_arc(h), turning, None),
    ):
        if quick and "27" in name:
            continue
        print(name, flush=True)
        rows, dose, exact = study(beams, shape, h, counts, side_cm=side)
        cases[name] = {"shape": shape, "spacing_cm": h, "percent_of_maximum": rows}
        pictures[name] = dose, exact
    draw(pictures, h)
    return cases


def draw(pictures: dict[str, tuple[Array, Array]], spacing_cm: float) -> None:
    """Doses and differences in the plane of the beams."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    chosen = {name: pair for name, pair in pictures.items() if "27" not in name}
    figure, axes = plt.subplots(2, len(chosen), figsize=(3.6 * len(chosen), 7.2), layout="constrained")
    for column, (name, (dose, exact)) in enumerate(chosen.items()):
        k = exact.shape[0] // 2
        extent = [
            s * n / 2 * spacing_cm
            for n, s in zip((exact.shape[2],) * 2 + (exact.shape[1],) * 2, (-1, 1, 1, -1), strict=True)
        ]
        top = exact.max()
        upper = axes[0, column].imshow(100 * dose[k] / top, extent=extent, cmap="viridis", vmin=0, vmax=100)
        lower = axes[1, column].imshow(100 * (dose[k] - exact[k]) / top, extent=extent, cmap="RdBu_r", vmin=-2, vmax=2)
        axes[0, column].set_title(name)
        axes[1, column].set_xlabel("x [cm]")
    for row in range(2):
        axes[row, 0].set_ylabel("y [cm]")
    figure.colorbar(upper, ax=axes[0], label="dose, % of maximum")
    figure.colorbar(lower, ax=axes[1], label="transport - exact, % of maximum")
    folder = ROOT / "docs" / "theory" / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "superposition.png", dpi=110)
    plt.close(figure)


def main() -> None:
    """Run and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="smaller phantoms, fewer numbers of directions; nothing is written"
    )
    quick = parser.parse_args().quick
    cases = run(quick)
    if not quick:
        path = ROOT / "validation" / "results" / "superposition.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(cases, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
