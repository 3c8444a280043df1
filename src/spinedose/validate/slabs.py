"""Ideal fields in slabs against Monte Carlo, absolute: Gy per unit photon fluence, nothing adjusted.

Whatever lies in the folder is computed: `pdd_<beam>_<phantom>_<field>_<geometry>.csv` says by its layers what the
phantom is made of, `profile_...` of the same name has profiles across it.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spinedose.compare.curves import penumbra_cm
from spinedose.curve_judging import Criterion
from spinedose.errors import InvalidInput
from spinedose.grid import Grid, Volume
from spinedose.ideal import ideal_field_dose
from spinedose.machine import Machine
from spinedose.materials import material
from spinedose.result import Dose
from spinedose.settings import Settings
from spinedose.units import MM_PER_CM
from spinedose.validate.case import Bench
from spinedose.validate.in_water import Found
from spinedose.validate.lines import HELD_OUT, Drawn, Line, Tag
from spinedose.validate.tanks import as_drawn, as_voxels

Array = NDArray[np.float64]

REFERENCE, SPECTRA = "mc_reference", "spectra"

OWN = Path(__file__).resolve().parents[3] / "validation" / "monte_carlo"
"""More cases, in a checkout; see their README."""

NAMED = re.compile(r"pdd_(?P<energy>\d+)mv_(?P<phantom>\w+)_(?P<side>\d+)x(?P=side)_(?P<geometry>parallel|ssd100)\.csv")

MATERIALS = {"bone": "cortical-bone-icrp"}
"""Media of the files that spinedose calls otherwise."""

SKIPPED_CM = 2.0
"""Depth from which on doses count: before it the Monte Carlo has no contaminating electrons and the dose builds up."""

EXIT_CM = 29.8
"""The layer behind it borders on vacuum: its dose lacks electrons scattered back, which kernels for water all around
keep."""

NEAR_FACE_CM = {"water": 0.3, "lung": 1.0, "bone": 0.3}
"""Distance from the faces of a medium from which on its limit counts [cm]; nearer, a line for interfaces does."""

BEHIND_METAL_CM = 0.5
"""The same for water beside titanium [cm]."""

WIDE_CM, NARROW_CM = 30.0, 20.0
"""Width of the phantom for fields of 6 cm and more, and for smaller ones [cm]."""

SPACING_CM = 0.2
"""Voxels are as thick as the layers of the Monte Carlo [cm]."""

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


@dataclass(frozen=True, slots=True)
class Layer:
    """A slab.

    Parameters
    ----------
    medium : str
        As in the file.
    density_g_cm3 : float
        Mass density [g/cm^3].
    low_cm, high_cm : float
        Depths of its faces [cm].
    """

    medium: str
    density_g_cm3: float
    low_cm: float
    high_cm: float


@dataclass(frozen=True, slots=True, eq=False)
class SlabCase:
    """A field on a phantom, as the Monte Carlo has it.

    Parameters
    ----------
    path : Path
        Its depth dose.
    energy : str
        Nominal energy of the spectrum [MV].
    phantom, geometry : str
        Names; the geometry is `parallel` or `ssd100`.
    side_cm : float
        Side of the square field [cm].
    depth_cm, truth, uncertainty : ndarray, shape (n,)
        Middle of each layer of the Monte Carlo [cm], dose for a photon/cm2 [Gy], relative standard uncertainty.
    layers : tuple of Layer
        What the phantom is made of.
    """

    path: Path
    energy: str
    phantom: str
    geometry: str
    side_cm: float
    depth_cm: Array
    truth: Array
    uncertainty: Array
    layers: tuple[Layer, ...]

    @classmethod
    def read(cls, path: Path) -> SlabCase:
        """Read a depth dose."""
        name = NAMED.fullmatch(path.name)
        if name is None:
            raise InvalidInput(f"{path.name} is no depth dose in slabs", "", "See shared/mc_reference/README.md")
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        depth, density, truth, uncertainty = (
            np.array([float(row[key]) for row in rows])
            for key in ("depth_cm", "density_g_cm3", "dose_Gy_cm2_per_photon", "rel_uncertainty")
        )
        media = [row["medium"] for row in rows]
        half = 0.5 * (depth[1] - depth[0])
        starts = [0, *(k for k in range(1, len(rows)) if media[k] != media[k - 1]), len(rows)]
        layers = tuple(
            Layer(media[a], float(density[a]), round(depth[a] - half, 6), round(depth[b - 1] + half, 6))
            for a, b in pairwise(starts)
        )
        return cls(
            path, name["energy"], name["phantom"], name["geometry"], float(name["side"]), depth, truth, uncertainty,
            layers,
        )  # fmt: skip

    @property
    def title(self) -> str:
        """The case in words."""
        source = "point source at 100 cm" if self.geometry == "ssd100" else "parallel beam"
        return f"{self.energy} MV {self.side_cm:g} x {self.side_cm:g} cm, {self.phantom}, {source}"

    def phantom_of(self, spacing_cm: float) -> tuple[Volume, dict[str, NDArray[np.bool_]]]:
        """Mass density, and where each material is."""
        width = WIDE_CM if self.side_cm >= 6 else NARROW_CM
        n, deep = 2 * round(width / 2 / spacing_cm), round(self.layers[-1].high_cm / spacing_cm)
        middle = (np.arange(deep) + 0.5) * spacing_cm
        first = -(n - 1) / 2 * spacing_cm
        grid = Grid((first, spacing_cm / 2, first), (spacing_cm,) * 3, (n, deep, n))
        density, where = np.empty(deep, np.float32), dict[str, NDArray[np.bool_]]()
        for layer in self.layers:
            inside = (middle > layer.low_cm) & (middle < layer.high_cm)
            density[inside] = layer.density_g_cm3
            name = MATERIALS.get(layer.medium, layer.medium)
            where[name] = where.get(name, np.zeros(deep, bool)) | inside

        def full(values: NDArray[np.generic]) -> NDArray[np.generic]:
            return np.ascontiguousarray(np.broadcast_to(values[None, :, None], grid.shape))

        return Volume(grid, full(density)), {material(k).name: full(v) for k, v in where.items()}  # type: ignore[misc]

    def compute(
        self, spectra: Path, settings: Settings | None = None, *, spacing_cm: float = SPACING_CM, backend: str = "auto"
    ) -> Dose:
        """The same by the engine."""
        density, where = self.phantom_of(spacing_cm)
        return ideal_field_dose(
            density, spectrum=read_spectrum(spectra / f"mohan_{self.energy}MV.csv"), field_cm=self.side_cm,
            geometry="parallel" if self.geometry == "parallel" else "point", ssd_cm=100.0, material=where,
            settings=settings, backend=backend,
        )  # fmt: skip

    def on_axis(self, dose: Dose) -> Array:
        """Mean of the four voxels around the axis, at the layers of the Monte Carlo."""
        n = dose.values.shape[0] // 2
        axis = dose.values[n - 1 : n + 1, :, n - 1 : n + 1].astype(float).mean(axis=(0, 2))
        result = np.empty(len(self.depth_cm))
        for layer in self.layers:
            here, there = ((at > layer.low_cm) & (at < layer.high_cm) for at in (dose.grid.axes_cm[1], self.depth_cm))
            result[there] = np.interp(self.depth_cm[there], dose.grid.axes_cm[1][here], axis[here])
        return result

    def medium_at(self) -> NDArray[np.str_]:
        """What each layer of the Monte Carlo is made of."""
        place = np.searchsorted([layer.high_cm for layer in self.layers], self.depth_cm)
        return np.array([layer.medium for layer in self.layers])[place]

    def from_face(self) -> Array:
        """Distance of each layer's middle from the nearest interface [cm]; the surface and the far end are none."""
        faces = np.array([layer.high_cm for layer in self.layers[:-1]])
        if not len(faces):
            return np.full(len(self.depth_cm), np.inf)
        distance: Array = np.abs(self.depth_cm[:, None] - faces).min(axis=1)
        return distance


def cases(*folders: Path) -> list[SlabCase]:
    """All depth doses of some folders; of two with one name the first."""
    found: dict[str, Path] = {}
    for folder in folders:
        for path in sorted(folder.glob("pdd_*.csv")):
            if NAMED.fullmatch(path.name):
                found.setdefault(path.name, path)
    return [SlabCase.read(path) for path in found.values()]


def _criterion(case: SlabCase, layer: Layer, bench: Bench) -> Criterion:
    """What is asked of a layer."""
    names = [other.medium for other in case.layers]
    before = names[: case.layers.index(layer)]
    if layer.medium == "lung":
        return bench.criteria["monte_carlo_lung_small" if case.side_cm < 3 else "monte_carlo_lung"]
    if "titanium" in before:
        return bench.criteria["monte_carlo_behind_metal"]
    if layer.medium == "bone" or "bone" in before:
        return bench.criteria["monte_carlo_bone"]
    return bench.criteria["monte_carlo_water"]


def _counts(case: SlabCase, layer: Layer) -> NDArray[np.bool_]:
    """Layers of the Monte Carlo that lie in a slab, deep enough and far enough from its faces."""
    near = NEAR_FACE_CM.get(layer.medium, 0.3)
    media = {other.medium for other in case.layers}
    if layer.medium == "water" and "titanium" in media:
        near = BEHIND_METAL_CM
    elif layer.medium == "water" and "lung" in media:
        near = NEAR_FACE_CM["lung"]
    inside = (case.depth_cm > layer.low_cm) & (case.depth_cm < layer.high_cm) & (case.from_face() > near)
    return inside & (case.depth_cm > SKIPPED_CM) & (case.depth_cm < EXIT_CM)


def monte_carlo(bench: Bench, tag: Tag, machine: Machine | None) -> Found:
    """Depth doses, and profiles where there are some, of every case of the folder."""
    lines, curves = list[Line](), list[Drawn]()
    for case in cases(bench.data / REFERENCE, OWN):
        bench.tanks.report(f"Monte Carlo, {case.title}")
        dose = case.compute(bench.data / SPECTRA, backend=bench.device.name)
        mine = case.on_axis(dose)
        percent = 100 * (mine / case.truth - 1)
        facts = {"role": HELD_OUT, "field": f"{case.side_cm:g} x {case.side_cm:g} cm"}
        about = f"absolute depth dose, {case.energy} MV, {case.phantom}, {case.geometry}"
        for layer in case.layers:
            keep = _counts(case, layer)
            if layer.medium == "titanium" or not np.any(keep):
                continue
            scatter = 100 * case.uncertainty[keep].mean()
            lines.append(
                Line.of(
                    tag, _criterion(case, layer, bench), percent[keep], quantity=about,
                    region=f"{layer.medium}, {layer.low_cm:g} to {layer.high_cm:g} cm", at_cm=case.depth_cm[keep],
                    note=f"layers of 2 mm, Monte Carlo {scatter:.1f} % (1 sigma)", **facts,
                )
            )  # fmt: skip
        beside = (case.from_face() < 0.3) | (case.medium_at() == "titanium")
        if np.any(beside):
            lines.append(
                Line.of(
                    tag, bench.criteria["monte_carlo_interface"], percent[beside], quantity=about,
                    region="within 3 mm of interfaces, and in metal", at_cm=case.depth_cm[beside], **facts,
                )
            )  # fmt: skip
        if len(case.layers) == 1:
            at, smooth = running_means(case.depth_cm, case.truth, mine)
            lines.append(
                Line.of(
                    tag, bench.criteria["monte_carlo_means"], smooth, quantity=about, region="means over 1 cm",
                    at_cm=at, **facts,
                )
            )  # fmt: skip
        curves.append(
            Drawn(
                case.title, "depth dose", "depth [cm]", "dose for a photon/cm2 [pGy]", case.depth_cm,
                1e12 * case.truth, 1e12 * mine, HELD_OUT,
            )
        )  # fmt: skip
        lines += _profiles(bench, tag, case, dose)
    return lines, curves, []


def _profiles(bench: Bench, tag: Tag, case: SlabCase, dose: Dose) -> list[Line]:
    """Widths of penumbras across the beam."""
    path = case.path.with_name(case.path.name.replace("pdd_", "profile_"))
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        rows = np.array([[float(v) for v in row[:3]] for row in list(csv.reader(file))[1:]])
    lines = []
    for depth in np.unique(rows[:, 0]):
        x, truth = rows[rows[:, 0] == depth, 1:].T
        across = _across(dose, float(depth))
        at = dose.grid.axes_cm[0]
        whole, both = np.concatenate([-x[:0:-1], x]), np.concatenate([truth[:0:-1], truth])
        sharp, mine = as_voxels(whole, both, at), as_drawn(at, across)
        wider = [MM_PER_CM * (a - b) for a, b in zip(penumbra_cm(*mine), penumbra_cm(*sharp), strict=True)]
        medium = next(layer.medium for layer in case.layers if layer.low_cm <= depth <= layer.high_cm)
        lines.append(
            Line.of(
                tag, bench.criteria["penumbra"], np.array(wider),
                quantity=f"profile, {case.energy} MV, {case.phantom}, {case.geometry}",
                region=f"penumbra 80-20 % in {medium}, means over voxels", role=HELD_OUT,
                field=f"{case.side_cm:g} x {case.side_cm:g} cm", depth=f"{depth:g} cm",
            )
        )  # fmt: skip
    return lines


def _across(dose: Dose, depth_cm: float) -> Array:
    """Profile along x through the axis, mean over the 5 mm of depth that the Monte Carlo scores."""
    n = dose.values.shape[0] // 2
    deep = np.abs(dose.grid.axes_cm[1] - depth_cm) < 0.25
    profile: Array = dose.values[n - 1 : n + 1, deep, :].astype(float).mean(axis=(0, 1))
    return profile


def running_means(depth_cm: Array, truth: Array, mine: Array) -> tuple[Array, Array]:
    """Depths and differences [%] of means over 1 cm, without the surface and the layer before the vacuum."""
    percent = 100 * (np.convolve(mine, BOX, "valid") / np.convolve(truth, BOX, "valid") - 1)
    middle = depth_cm[2:-2]
    keep = (middle > SKIPPED_CM + 0.4) & (middle < EXIT_CM - 0.4)
    return middle[keep], percent[keep]


def summary(case: SlabCase, mine: Array) -> dict[str, object]:
    """Figures of a comparison [%]; the last layer before the vacuum stands apart."""
    percent = 100 * (mine / case.truth - 1)
    smooth = running_means(case.depth_cm, case.truth, mine)[1]
    beyond = (case.depth_cm > SKIPPED_CM) & (case.depth_cm < EXIT_CM)
    result: dict[str, object] = {
        "mean": float(percent[beyond].mean()),
        "rms": float(np.sqrt((percent[beyond] ** 2).mean())),
        "worst": float(np.abs(percent[beyond]).max()),
        "worst_of_1cm_means": float(np.abs(smooth).max()),
        "exit_layer": float(percent[-1]),
        "monte_carlo_sigma": float(100 * case.uncertainty[beyond].mean()),
    }
    for layer in case.layers:
        keep = _counts(case, layer)
        if np.any(keep):
            result[f"{layer.medium} {layer.low_cm:g}-{layer.high_cm:g}"] = {
                "mean": float(percent[keep].mean()),
                "worst": float(np.abs(percent[keep]).max()),
            }
    for layer in case.layers[:-1]:
        face = layer.high_cm
        near = {
            f"{1e1 * (d - face):+.0f} mm": float(p)
            for d, p in zip(case.depth_cm, percent, strict=True)
            if abs(d - face) < 0.6
        }
        result[f"face at {face:g} cm"] = near
    drawn = {"depth_cm": case.depth_cm.tolist(), "monte_carlo": case.truth.tolist(), "spinedose": mine.tolist()}
    return result | drawn
