"""Ideal fields in slabs against Monte Carlo depth doses, absolute: Gy per unit photon fluence, nothing adjusted."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spinedose.engine import Settings
from spinedose.grid import Grid, Volume
from spinedose.ideal import ideal_field_dose
from spinedose.machine import Machine
from spinedose.validate.case import Bench
from spinedose.validate.in_water import Found
from spinedose.validate.lines import HELD_OUT, Drawn, Line, Tag

Array = NDArray[np.float64]

REFERENCE, SPECTRA = "mc_reference", "spectra"

SLABS = (("water", "ssd100"), ("water", "parallel"), ("lung", "ssd100"))
"""Phantoms and geometries that are computed."""

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
    data: Path,
    phantom: str,
    geometry: str,
    settings: Settings | None = None,
    *,
    spacing_cm: float = 0.25,
    backend: str = "auto",
) -> dict[str, object]:
    """Central axis of a 10 x 10 cm2 field, mean of the four voxels around it, against Monte Carlo; differences in
    percent.

    Parameters
    ----------
    data : Path
        Folder that holds `mc_reference` and `spectra`.
    phantom, geometry : str
        `water` or `lung`; `ssd100` or `parallel`.
    settings : Settings, optional
        Of the engine.
    spacing_cm : float
        Voxel side [cm].
    backend : str
        Where to compute.
    """
    with (data / REFERENCE / f"pdd_6mv_{phantom}_10x10_{geometry}.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    depth, truth = (np.array([float(r[k]) for r in rows]) for k in ("depth_cm", "dose_Gy_cm2_per_photon"))
    density, ratio = slab(phantom, spacing_cm)
    spectrum = read_spectrum(data / SPECTRA / "mohan_6MV.csv")
    kind = "parallel" if geometry == "parallel" else "point"
    dose = ideal_field_dose(
        density, spectrum=spectrum, field_cm=10.0, geometry=kind, ssd_cm=100.0, settings=settings, backend=backend
    )
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
    running = running_means(depth, truth, mine)[1]
    beyond = (depth > SKIPPED_CM) & (depth < EXIT_CM)
    result: dict[str, object] = {
        "mean": float(error[beyond].mean()),
        "rms": float(np.sqrt((error[beyond] ** 2).mean())),
        "worst": float(np.abs(error[beyond]).max()),
        "worst_of_1cm_means": float(np.abs(running).max()),
        "rms_of_1cm_means": float(np.sqrt((running**2).mean())),
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


def running_means(depth_cm: Array, truth: Array, mine: Array) -> tuple[Array, Array]:
    """Depths and differences [%] of means over 1 cm, without the surface and the layer before the vacuum."""
    percent = 100 * (np.convolve(mine, BOX, "valid") / np.convolve(truth, BOX, "valid") - 1)
    middle = depth_cm[2:-2]
    keep = (middle > SKIPPED_CM + 0.4) & (middle < EXIT_CM - 0.4)
    return middle[keep], percent[keep]


def monte_carlo(bench: Bench, tag: Tag, machine: Machine | None) -> Found:
    """Slabs of water, and of lung in water."""
    lines, curves = [], []
    for phantom, geometry in SLABS:
        name = f"{phantom}, {'point source at 100 cm' if geometry == 'ssd100' else 'parallel beam'}"
        bench.tanks.report(f"Monte Carlo, {name}")
        result = compare(bench.data, phantom, geometry, backend=bench.device.name)
        depth, truth, mine = (np.array(result[k]) for k in ("depth_cm", "monte_carlo", "spinedose"))
        at, percent = running_means(depth, truth, mine)
        if phantom == "water":
            percent = percent * np.interp(at, depth, truth) / truth.max()
        parts = {"beyond 2 cm": (0.0, 30.0)}
        if phantom == "lung":
            parts = {"before the lung": (0.0, 5.0), "in the lung": (5.0, 15.0), "behind the lung": (15.0, 30.0)}
        for region, (low, high) in parts.items():
            here = (at > low) & (at < high)
            lines.append(
                Line.of(
                    tag, bench.criteria[f"monte_carlo_{phantom}"], percent[here],
                    quantity=f"absolute depth dose, {name}", region=region, role=HELD_OUT, field="10 x 10 cm",
                    at_cm=at[here], note="per photon fluence, nothing adjusted",
                )
            )  # fmt: skip
        curves.append(
            Drawn(
                f"6 MV 10 x 10 cm, {name}", "depth dose", "depth [cm]", "dose for a photon/cm2 [pGy]", depth,
                1e12 * truth, 1e12 * mine, HELD_OUT,
            )
        )  # fmt: skip
    return lines, curves, []
