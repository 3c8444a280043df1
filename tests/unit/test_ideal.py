"""Ideal fields: what the doses of benchmarks against Monte Carlo are made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from spinedose.cones import water_attenuation
from spinedose.engine import Settings
from spinedose.errors import InvalidInput
from spinedose.grid import Grid, Volume
from spinedose.ideal import ideal_field_dose
from spinedose.units import GY_PER_MEV_PER_G

FEW = Settings(directions=96)


@dataclass(frozen=True)
class Photons:
    energy_MeV: np.ndarray
    weight: np.ndarray


TWO_MEV = Photons(np.array([1.9, 2.0, 2.1]), np.array([0.25, 0.5, 0.25]))


def block(shape: tuple[int, int, int], h: float, density: float = 1.0) -> Volume:
    """Its entrance face at y = 0, its middle at x = z = 0."""
    grid = Grid((-0.5 * h * (shape[2] - 1), 0.5 * h, -0.5 * h * (shape[0] - 1)), (h, h, h), shape)
    return Volume(grid, np.full(shape, density, np.float32))


def test_wide_field_reaches_equilibrium_at_terma() -> None:
    """Behind the build-up of a wide field most scatter comes back: dose is more than the collision part of TERMA.

    2 MeV photons in water: mu_en/mu = 0.0261/0.0494 (NISTIR 5632, doi:10.18434/T4D01F), so that primary dose is 0.53
    TERMA at equilibrium, and scatter can hardly more than double it.
    """
    water = block((32, 24, 32), 1.0)
    dose = ideal_field_dose(water, spectrum=TWO_MEV, field_cm=30.0, settings=FEW)
    mu = water_attenuation([2.0])[0]
    depth = dose.grid.axes_cm[1]
    terma = 2.0 * mu * np.exp(-mu * depth) * GY_PER_MEV_PER_G
    ratio = dose.values[15:17, :, 15:17].mean(axis=(0, 2)) / terma
    at = int(np.argmin(np.abs(depth - 10.0)))
    assert 0.53 < ratio[at] < 0.53 * 2.2
    assert ratio[0] < ratio[2] < ratio[at], "build-up, then scatter"


def test_energy_of_a_small_field_in_a_large_block() -> None:
    """What is deposited is what the primary loses, less the kernel's few percent of escaping radiation."""
    h = 2.0
    water = block((30, 40, 30), h)
    dose = ideal_field_dose(water, spectrum=TWO_MEV, field_cm=8.0, settings=FEW)
    mu = water_attenuation([2.0])[0]
    released = 64.0 * 2.0 * (1 - np.exp(-mu * 80.0)) * GY_PER_MEV_PER_G
    deposited = dose.values.sum(dtype=float) * h**3
    assert 0.88 < deposited / released < 1.0


def test_point_source_spreads_and_thins_out() -> None:
    water = block((20, 30, 20), 1.0)
    parallel = ideal_field_dose(water, spectrum=TWO_MEV, field_cm=10.0, settings=FEW)
    point = ideal_field_dose(water, spectrum=TWO_MEV, field_cm=10.0, geometry="point", ssd_cm=50.0, settings=FEW)
    ratio = (point.values / parallel.values)[9:11, :, 9:11].mean(axis=(0, 2))
    depth = point.grid.axes_cm[1]
    # the inverse square of the distance, but for the scatter of a field that grows with depth
    np.testing.assert_allclose(ratio[2:14], (50 / (50 + depth[2:14])) ** 2, rtol=0.05)

    def width(volume: Volume) -> float:
        profile = volume.values[9:11, 24].mean(axis=0)
        return float((profile > 0.5 * profile[9:11].mean()).sum())

    assert width(point) > width(parallel) + 2


def test_dose_keeps_the_grid_of_the_density() -> None:
    water = block((10, 12, 14), 1.0)
    dose = ideal_field_dose(water, spectrum=TWO_MEV, field_cm=4.0, settings=Settings(directions=96))
    assert dose.grid == water.grid and dose.values.dtype == np.float32
    assert np.all(dose.values >= 0) and dose.values.max() > 0
    centre = dose.values[4:6, 3, 6:8].mean()
    assert dose.values[0, 3, 0] < 0.1 * centre


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"geometry": "cone"}, "unknown"),
        ({"field_cm": 0.0}, "positive"),
        ({"ssd_cm": -1.0, "geometry": "point"}, "positive"),
    ],
)
def test_senseless_fields_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        ideal_field_dose(block((3, 3, 3), 1.0), **({"spectrum": TWO_MEV, "field_cm": 4.0} | change))


def test_matter_is_tissue_by_its_density_or_what_one_says() -> None:
    """A bone slab in water by density, by name, by a mask or by names of voxels: all the same; titanium is not."""
    values = np.full((8, 12, 8), 1.0, np.float32)
    values[:, 4:6] = 1.92
    density = Volume(block((8, 12, 8), 1.0).grid, values)
    here = np.zeros(values.shape, bool)
    here[:, 4:6] = True
    names = np.where(here, "cortical-bone", "water")

    def solve(volume: Volume = density, **more: object) -> np.ndarray:
        return ideal_field_dose(volume, spectrum=TWO_MEV, field_cm=4.0, settings=FEW, **more).values

    named = solve(material=names)
    np.testing.assert_array_equal(solve(material={"cortical-bone": here, "water": ~here}), named)
    np.testing.assert_array_equal(solve(material={"cortical-bone": here}), named)
    np.testing.assert_allclose(solve(), named, atol=0.01 * named.max())
    all_bone = solve(Volume(density.grid, np.full(values.shape, 1.92, np.float32)), material="cortical-bone")
    assert all_bone[3, 8, 3] < named[3, 8, 3]
    with pytest.raises(InvalidInput, match=r"4.54 g/cm3 is no tissue.*Name its material"):
        solve(Volume(density.grid, np.where(here, 4.54, 1.0).astype(np.float32)))
    with pytest.raises(InvalidInput, match=r"shape \(2, 2\)"):
        solve(material={"titanium": here[0, :2, :2]})


def test_dose_to_water_is_more_than_dose_to_bone() -> None:
    """Equation (1) of heterogeneity.md: cortical bone has 0.927 of water's electrons a gram."""
    density = block((8, 12, 8), 1.0, 1.92)
    to = {
        kind: ideal_field_dose(
            density, spectrum=TWO_MEV, field_cm=4.0, settings=FEW, material="cortical-bone", dose_to=kind
        )
        for kind in ("medium", "water")
    }
    np.testing.assert_allclose(to["medium"].values, 0.9274 * to["water"].values, rtol=1e-3)
    assert to["medium"].metadata.dose_quantity == "dose to the local medium"
    with pytest.raises(InvalidInput, match="belongs to no plan"):
        to["water"].save("RD.dcm")
    with pytest.raises(InvalidInput, match="Dose to 'air' is unknown"):
        ideal_field_dose(density, spectrum=TWO_MEV, field_cm=4.0, dose_to="air")
