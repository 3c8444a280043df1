"""The plain reference of the transport: every control point alone, with coefficients averaged over direction cells.

    python validation/per_control_point.py

No angular moments, no compression, no angular bins, double precision, the recursion as it stands in
docs/theory/transport.md: what the engine's sum over control points before transport is compared with. Writes
validation/results/per_control_point.json.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numba import njit, prange
from numpy.polynomial import legendre
from numpy.typing import NDArray

from spinedose.backends.base import Backend, Scene
from spinedose.backends.select import select_backend
from spinedose.cones import ConeTable
from spinedose.directions import Directions, directions
from spinedose.engine import Settings
from spinedose.exposure import Exposure
from spinedose.stages import transport_exposures
from water_cases import Beams, both_kernels, cord_sparing_arc, inside, plain_attenuation, six_mv, water_block

ROOT = Path(__file__).resolve().parents[1]
Array = NDArray[np.float64]

HIGH_ORDER = 40
"""Degree of the Legendre series that stands for the untruncated coefficients; the cell filter makes its tail small."""

COSINES = 1001


def cell_averaged(cones: ConeTable, spread: Directions) -> Array:
    """Coefficients of every direction against the cosine to the beam, for both hardnesses, shape (M, 2, K, COSINES)."""
    degree = np.arange(HIGH_ORDER + 1)
    edge = 1 - spread.weight / (2 * np.pi)
    p = legendre.legvander(edge, HIGH_ORDER + 1)
    shape = np.ones((len(edge), HIGH_ORDER + 1))
    shape[:, 1:] = (p[:, degree[1:] - 1] - p[:, degree[1:] + 1]) / ((2 * degree[1:] + 1) * (1 - edge)[:, None])
    series = cones.legendre(HIGH_ORDER) * (2 * degree + 1) / (4 * np.pi)
    weighted = spread.weight[:, None, None, None] * shape[:, None, None, :] * series
    value: Array = weighted @ legendre.legvander(np.linspace(-1, 1, COSINES), HIGH_ORDER).T
    return value


@njit(parallel=True, cache=True)
def add_sources(terma, hard, origin, spacing, source, vector, table, out):
    """Released energy into one direction, for a beam from a point source: out (nz, ny, nx, K)."""
    nz, ny, nx = terma.shape
    count = table.shape[2]
    for k in prange(nz):
        for j in range(ny):
            for i in range(nx):
                if terma[k, j, i] == 0:
                    out[k, j, i] = 0
                    continue
                x = origin[0] + i * spacing[0] - source[0]
                y = origin[1] + j * spacing[1] - source[1]
                z = origin[2] + k * spacing[2] - source[2]
                cosine = (x * vector[0] + y * vector[1] + z * vector[2]) / math.sqrt(x * x + y * y + z * z)
                at = (cosine + 1) * 0.5 * (count - 1)
                n = min(max(int(at), 0), count - 2)
                f = at - n
                for s in range(table.shape[1]):
                    soft = table[0, s, n] * (1 - f) + table[0, s, n + 1] * f
                    change = table[1, s, n] * (1 - f) + table[1, s, n + 1] * f
                    out[k, j, i, s] = terma[k, j, i] * soft + hard[k, j, i] * change


@njit(parallel=True, cache=True)
def march(density, sources, axis, slope, offset, backwards, step, rate, stages, deposit):
    """One direction along one of the three axes, ray by ray; arrays are (n0, n1, n2) whatever the axis."""
    n = density.shape
    a1, a2 = (1 if axis == 0 else 0), (1 if axis == 2 else 2)
    nt = n[axis]
    end1, end2 = math.floor(slope[0] * (nt - 1) + offset[0]), math.floor(slope[1] * (nt - 1) + offset[1])
    low1, high1, low2, high2 = min(0, end1), max(0, end1), min(0, end2), max(0, end2)
    for ray1 in prange(n[a1] + high1 - low1):
        state = np.zeros(sources.shape[3])
        for ray2 in range(n[a2] + high2 - low2):
            state[:] = 0
            for t in range(nt):
                j = ray1 - high1 + math.floor(slope[0] * t + offset[0])
                i = ray2 - high2 + math.floor(slope[1] * t + offset[1])
                if j < 0 or j >= n[a1] or i < 0 or i >= n[a2]:
                    continue
                s = nt - 1 - t if backwards else t
                c0 = s if axis == 0 else j
                c1 = s if axis == 1 else (j if axis == 0 else i)
                c2 = s if axis == 2 else i
                k = 0
                for c in range(len(rate)):
                    x = rate[c] * step * density[c0, c1, c2]
                    e = math.exp(-x)
                    g0 = -math.expm1(-x) / x if x > 1e-12 else 1.0
                    g1 = g0 - e if x > 1e-3 else x * (0.5 - x / 3)
                    g2 = g1 - 0.5 * x * e if x > 1e-3 else x * x / 6
                    before = 0.0
                    for a in range(stages[c]):
                        before += state[k + a] + sources[c0, c1, c2, k + a]
                    # last stage first: what comes from the stages before it is still as it was
                    for a in range(stages[c] - 1, -1, -1):
                        new = state[k + a] * e + sources[c0, c1, c2, k + a] * g0
                        if a >= 1:
                            new += state[k + a - 1] * x * e + sources[c0, c1, c2, k + a - 1] * g1
                        if a >= 2:
                            new += state[k + a - 2] * 0.5 * x * x * e + sources[c0, c1, c2, k + a - 2] * g2
                        state[k + a] = new
                    after = 0.0
                    for a in range(stages[c]):
                        after += state[k + a]
                    deposit[c0, c1, c2] += before - after
                    k += stages[c]


def transport_alone(
    device: Backend, scene: Scene, exposure: Exposure, cones: ConeTable, spread: Directions, tables: Array
) -> Array:
    """Dose of one control point (z, y, x); the exposure has one group."""
    assert len(exposure) == 1
    moments = device.new_moments(scene, (0, 0, 0), scene.grid.shape, 0)
    device.release(scene, exposure, device.radiological_depth(scene, exposure.fans), (0, 1), moments)
    terma, hard = (moments.values[:, :, n, :].astype(float) * np.sqrt(4 * np.pi) for n in (0, 1))
    density = np.asarray(scene.density, float)
    source = exposure.fans.sad_cm * exposure.fans.rotation[0, 2] + exposure.fans.isocentre_cm
    deposit = np.zeros(density.shape)
    sources = np.empty((*density.shape, cones.basis.size))
    spacing = np.array(scene.grid.spacing_cm)
    for m in range(len(spread.weight)):
        add_sources(terma, hard, np.array(scene.grid.origin_cm), spacing, source, spread.vector[m], tables[m], sources)
        steps = spread.vector[m] / spacing
        axis = 2 - int(np.argmax(np.abs(steps)))  # of the array (z, y, x)
        slope, offset = _lattice(steps, axis, spread.offset[m])
        march(
            density, sources, axis, slope, offset, bool(steps[2 - axis] < 0), float(1 / abs(steps[2 - axis])),
            np.array(cones.basis.rate_per_cm), np.array(cones.basis.stages), deposit,
        )  # fmt: skip
    dose = np.zeros(density.shape)
    np.divide(deposit, density, out=dose, where=density > 0)
    return dose


def _lattice(steps: Array, axis: int, offset: Array) -> tuple[Array, Array]:
    """Slopes along the other two array axes, and their offsets in the engine's order."""
    along_z, along_y, along_x = steps[2], steps[1], steps[0]
    main = abs(steps[2 - axis])
    # the engine sweeps along x in an array (z, x, y)
    others = {0: (along_y, along_x), 1: (along_z, along_x), 2: (along_z, along_y)}[axis]
    return np.array(others) / main, np.asarray(offset, float)


def compare(
    beams: Beams, shape: tuple[int, int, int], spacing_cm: float, counts: Sequence[int], sad_cm: float
) -> dict[str, dict[str, float]]:
    """Engine minus plain reference, percent of the maximum, for several numbers of directions."""
    spectrum = six_mv()
    cones = both_kernels(spectrum)
    device = select_backend("cpu")
    block = water_block(shape, spacing_cm)
    scene = device.load(block)
    exposures = beams.exposures(block.grid, plain_attenuation(spectrum), sad_cm=sad_cm)
    rows = {}
    for count in counts:
        spread = directions(count, Settings().moments)
        tables = cell_averaged(cones, spread)
        alone = sum(inside(transport_alone(device, scene, exposure, cones, spread, tables)) for exposure in exposures)
        raw, _ = transport_exposures(device, scene, exposures, [], cones, Settings(directions=count))
        error = 100 * (inside(raw) - alone) / alone.max()
        high = error[alone > 0.05 * alone.max()]
        rows[str(count)] = {
            "mean": float(high.mean()),
            "rms": float(np.sqrt((high**2).mean())),
            "p99": float(np.quantile(np.abs(high), 0.99)),
            "worst": float(np.abs(high).max()),
            "rms_all_voxels": float(np.sqrt((error**2).mean())),
        }
        print(f"M={count}: " + ", ".join(f"{k} {v:.4f}" for k, v in rows[str(count)].items()), flush=True)
    return rows


def main() -> None:
    """The arc of 36 diverging beams, with 400 directions and with the engine's choice for it."""
    h = 0.25
    shape = (32, 48, 48)
    rows = compare(cord_sparing_arc(h), shape, h, (272, 400), 100.0)
    path = ROOT / "validation" / "results" / "per_control_point.json"
    path.parent.mkdir(exist_ok=True)
    result = {
        "case": "arc of 36 point-source beams, SAD 100 cm",
        "shape": shape,
        "spacing_cm": h,
        "high_order": HIGH_ORDER,
        "percent_of_maximum": rows,
    }
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
