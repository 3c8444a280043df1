"""What must come out whatever the machine: energy, inverse square, exponential attenuation, symmetry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spinedose.backends.base import Backend, Scene
from spinedose.cones import SpectrumLike, cone_table, water_attenuation
from spinedose.directions import directions, harmonics
from spinedose.exposure import Exposure, Shots, attenuation, make_exposure
from spinedose.fluence_model import FluenceMaps, Raster
from spinedose.grid import Grid, Volume
from spinedose.ideal import FAR_AWAY_CM
from spinedose.machine import Machine
from spinedose.settings import Settings
from spinedose.stages import DEEPEST_CM, transport_exposures
from spinedose.validate.case import Bench
from spinedose.validate.in_water import Found
from spinedose.validate.lines import HELD_OUT, Line, Tag

Array = NDArray[np.float64]

ENERGIES_MEV = (1.99, 2.01)
"""Energies of the photons of all these beams, half of them each [MeV]: hardness needs two."""


@dataclass(frozen=True, slots=True, eq=False)
class Photons:
    """Photons of few energies.

    Parameters
    ----------
    energy_MeV, weight : ndarray, shape (n,)
        Energies [MeV] and their shares, which sum to 1.
    """

    energy_MeV: Array
    weight: Array


def analytic(bench: Bench, tag: Tag, machine: Machine | None) -> Found:
    """All of them; seconds."""
    bench.tanks.report("analytic")
    device, criteria = bench.device, bench.criteria
    lines = [
        Line.of(
            tag, criteria["energy"], energy_balance(device), quantity="energy deposited / released - 1",
            region="random matter of density 0 to 8 in a thick wall", role=HELD_OUT,
        )
    ]  # fmt: skip
    depth, percent = attenuated(device)
    lines.append(
        Line.of(
            tag, criteria["geometry"], percent, quantity="exponential attenuation",
            region="narrow parallel beam of 2 MeV in water, energy released", role=HELD_OUT, at_cm=depth,
        )
    )  # fmt: skip
    depth, percent = inverse_square(device)
    lines.append(
        Line.of(
            tag, criteria["geometry"], percent, quantity="inverse square",
            region="point source at 100 cm, density 0.0001, energy released", role=HELD_OUT, at_cm=depth,
        )
    )  # fmt: skip
    lines.append(
        Line.of(
            tag, criteria["symmetry"], opposed(device), quantity="symmetry", field="10 x 10 cm",
            region="two opposed beams in a cube of water, 1 cm means in the field", role=HELD_OUT,
        )
    )  # fmt: skip
    return lines, [], []


def energy_balance(device: Backend) -> float:
    """Deviation of the deposited energy from the released energy, where none can leave [%]."""
    rng = np.random.default_rng(1)
    inner = rng.choice([0.0, 0.001, 0.3, 1.0, 1.7, 3.74, 8.0], (5, 6, 7)).astype(np.float32)
    wall, spacing, hardness = 4, 10.0, 0.3
    values = np.pad(inner, wall, constant_values=8.0)
    scene = device.load(Volume(Grid((0.0, 0.0, 0.0), (spacing,) * 3, values.shape), values))
    cones = cone_table(_photons())
    low = (wall,) * 3
    high = tuple(wall + n for n in inner.shape)
    energy = rng.uniform(0, 1, inner.shape)
    moments = []
    for order in (6, 3):
        lit = device.new_moments(scene, low, high, order)
        wave = harmonics(np.array([0.6, -0.7, 0.3]) / np.linalg.norm([0.6, -0.7, 0.3]), order)
        wave = np.concatenate([wave, hardness * wave])
        lit.values[...] = device_array(lit.values, energy[:, :, None, :] * wave[None, None, :, None])
        moments.append(lit)
    dose = device.transport(scene, moments[0], moments[1], cones, directions(104, 6))
    share = float(cones.energy[0].sum() + hardness * cones.energy[1].sum())
    return 100 * float(dose.sum(dtype=float) / (2 * energy.sum() * share) - 1)


def device_array(like: Any, values: Array) -> Any:
    """Values as float32 in the array type of the device."""
    return np.asarray(values, np.float32, like=like)


def attenuated(device: Backend) -> tuple[Array, Array]:
    """Energy released on the axis of a narrow beam in water against the exponential: depths [cm], difference [%]."""
    block = _block(1.0, (12, 60, 12), 0.5)
    scene = device.load(block.padded())
    terma = _released(device, scene, _square(block, 2.0, FAR_AWAY_CM, (0.0,)))
    depth = block.grid.axes_cm[1] - block.grid.lower_cm[1]
    return depth, 100 * (terma / _law(depth) - 1)


def inverse_square(device: Backend) -> tuple[Array, Array]:
    """Energy released on the axis of a diverging beam in next to nothing: depths [cm], difference [%]."""
    density = 1e-4
    block = _block(density, (16, 60, 16), 0.5)
    scene = device.load(block.padded())
    terma = _released(device, scene, _square(block, 4.0, 100.0, (0.0,)))
    depth = block.grid.axes_cm[1] - block.grid.lower_cm[1]
    expected = density * _law(density * depth) * (100 / (100 + depth)) ** 2
    return depth, 100 * (terma / expected - 1)


def opposed(device: Backend) -> Array:
    """Difference of mirrored doses of two opposed beams, means over cubes of 1 cm in the field [% of the maximum].

    Single voxels at the sharp edges differ by up to 2.7 %: rays of a fixed direction miss some of them.
    """
    block = _block(1.0, (40, 40, 40), 0.5)
    scene = device.load(block.padded())
    exposure = _square(block, 10.0, FAR_AWAY_CM, (0.0, 180.0))
    dose, _ = transport_exposures(device, scene, [exposure], [], cone_table(_photons()), Settings())
    inside = dose[1:-1, 1:-1, 1:-1].astype(float)
    percent = 100 * (inside - inside[:, ::-1, :]) / inside.max()
    cubes: Array = percent.reshape(20, 2, 20, 2, 20, 2).mean(axis=(1, 3, 5))
    return cubes[6:14, :10, 6:14].ravel()


def _photons() -> SpectrumLike:
    return Photons(np.array(ENERGIES_MEV), np.full(2, 0.5))


def _law(depth_cm: Array) -> Array:
    """Energy released a mass of water for each unit of energy fluence at the surface [cm^2/g]."""
    energy = np.array(ENERGIES_MEV)
    mu, share = water_attenuation(energy), energy / energy.sum()
    law: Array = np.exp(-np.outer(depth_cm, mu)) @ (mu * share)
    return law


def _block(density: float, shape: tuple[int, int, int], spacing_cm: float) -> Volume:
    """A block (z, y, x) around the origin."""
    origin = tuple(-(n - 1) / 2 * spacing_cm for n in shape[::-1])
    values = np.full(shape, density, np.float32)
    return Volume(Grid(origin, (spacing_cm,) * 3, shape), values)  # type: ignore[arg-type]


def _square(block: Volume, side_cm: float, sad_cm: float, gantry_deg: tuple[float, ...]) -> Exposure:
    """Square beams of unit fluence with sharp edges; a diverging one has its isocentre at the surface."""
    n, half = len(gantry_deg), side_cm / 2
    raster = Raster.covering((-half - 1, half + 1), (-half - 1, half + 1), 0.05)
    edge = np.clip((half - np.abs(raster.xs_cm)) / 0.05 + 0.5, 0.0, 1.0)
    square = (edge[None, :] * edge[:, None]).astype(np.float32)
    coarse = Raster.covering((-1.0, 1.0), (-1.0, 1.0), 1.0)
    nothing = np.zeros((n, coarse.ny, coarse.nx), np.float32)
    maps = FluenceMaps(np.repeat(square[None], n, axis=0), raster, nothing, coarse)
    still = np.zeros(n)
    surface = block.grid.lower_cm[1] if n == 1 else 0.0
    return make_exposure(
        Shots(np.array(gantry_deg), still, still, np.ones(n), maps),
        grid=block.padded().grid,
        patient_position="HFS",
        isocentre_cm=np.array([0.0, surface, 0.0]),
        sad_cm=sad_cm,
        attenuation=attenuation(_photons(), np.array([0.0, 50.0]), np.ones(2), 1.0, depth_cm=DEEPEST_CM),
        group_step_deg=1.0,
    )


def _released(device: Backend, scene: Scene, exposure: Exposure) -> Array:
    """Energy released a volume on the axis, against depth: mean of the four voxels around it."""
    moments = device.new_moments(scene, (0, 0, 0), scene.grid.shape, 0)
    depth = device.radiological_depth(scene, exposure.fans)
    device.release(scene, exposure, depth, (0, len(exposure)), moments)
    values = moments.values[:, :, 0, :]
    terma = device.to_host(values).astype(float) * np.sqrt(4 * np.pi)
    k, i = scene.grid.shape[0] // 2, scene.grid.shape[2] // 2
    axis: Array = terma[k - 1 : k + 1, 1:-1, i - 1 : i + 1].mean(axis=(0, 2))
    return axis
