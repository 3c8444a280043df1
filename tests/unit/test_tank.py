"""The fast model of a water tank against independent sums, and against the engine."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from spinedose.calibration import water_tank_dose
from spinedose.cones import terma_table, water_attenuation, water_kernels
from spinedose.engine import Settings
from spinedose.errors import InvalidInput
from spinedose.fluence_model import FluenceMaps, Raster
from spinedose.machine import ElectronContamination, RadialTable, Spectrum, read_machine
from spinedose.tank import RingTable, TankModel, lookup, ring_table

RINGS = 2e-3
"""What shells, cones and rings of finite width leave of a dose; the smallest shells are hundredths of a millimetre."""

ENGINE = 0.01
"""Difference from the engine: lattice ripple with few directions (0.5 % rms), cones fitted to 0.4 % of the energy."""


def flat(side_cm: float, pixel_cm: float = 0.1) -> FluenceMaps:
    """A square of unit fluence without penumbra, no electrons."""
    raster = Raster.covering((-0.5 * side_cm - 1, 0.5 * side_cm + 1), (-0.5 * side_cm - 1, 0.5 * side_cm + 1), pixel_cm)
    edge = np.clip((0.5 * side_cm - np.abs(raster.xs_cm)) / pixel_cm + 0.5, 0, 1).astype(np.float32)
    coarse = Raster.covering((-1.0, 1.0), (-1.0, 1.0), 0.5)
    nothing = np.zeros((1, coarse.ny, coarse.nx), np.float32)
    return FluenceMaps((edge[:, None] * edge[None, :])[None], raster, nothing, coarse)


@pytest.fixture(scope="module")
def table() -> RingTable:
    return ring_table([0.5, 2.0, 6.0])


@pytest.mark.parametrize("node", [5, 20, 60])
def test_all_rings_together_are_a_sum_over_the_volume(table: RingTable, node: int) -> None:
    """Against points strewn at random over directions and distances: kernel towards the point, along the local ray."""
    kernels, depth = water_kernels(), table.depth_cm[node]
    share, mu = kernels.mix([2.0], [1.0]), water_attenuation([2.0])[0]
    edge, theta = kernels.r_edge_cm, np.radians(kernels.theta_edge_deg)
    cosine, size = np.cos(theta), 2 * np.pi * -np.diff(np.cos(theta))
    rng, expected = np.random.default_rng(3), 0.0
    for shell in range(len(edge) - 1):
        r = rng.uniform(edge[shell], edge[shell + 1], (len(size), 1000))
        along = rng.uniform(cosine[1:, None], cosine[:-1, None], r.shape)
        above, lateral = depth - r * along, r * np.sqrt(1 - along**2)
        turned = np.arccos(along) + np.arctan2(lateral, 100.0 + above)  # the ray leans outwards
        cone = np.searchsorted(theta, np.minimum(turned, np.pi - 1e-9)) - 1
        is_seen = (above > 0) & (lateral * 100 / (100 + above) < table.node_cm[-1])
        released = np.where(is_seen, mu * np.exp(-mu * above) * (100.0 / (100.0 + above)) ** 2, 0.0)
        expected += float((size[:, None] * released * (share[:, shell] / size)[cone]).mean(axis=1).sum())
    assert table.weight[0, 1, node].sum() == pytest.approx(expected, rel=RINGS)


def test_obliquity_and_energy_act_on_the_path(table: RingTable) -> None:
    deep = int(np.argmin(np.abs(table.depth_cm - 20)))
    straight, oblique = table.weight[0, :, deep].sum(axis=1), table.weight[1, :, deep].sum(axis=1)
    mu = water_attenuation(table.energy_MeV)
    # a path 5 % longer takes exp(-0.05 mu d) of what is released at depth d: just above the point for high energies,
    # on average higher up where photons scatter
    longest = np.exp(-0.05 * mu * 20)
    assert np.all(longest < oblique / straight) and np.all(oblique / straight < longest**0.5)
    assert oblique[2] / straight[2] == pytest.approx(longest[2], rel=0.005)


def test_field_size_adds_scatter_and_small_fields_lose_electrons(table: RingTable) -> None:
    model = TankModel.of(read_machine("varian-truebeam-m120").beam("6X"))
    small, usual, large = (float(model.dose(flat(side), 0, 0, 10.0)[0]) for side in (1.0, 10.0, 30.0))
    assert small < 0.85 * usual < usual < large < 1.35 * usual
    off = model.dose(flat(10.0), [0.0, 3.0, -3.0, 5.5], 0.0, 10.0)
    assert off[1] == pytest.approx(off[2], rel=1e-5)
    assert off[3] == pytest.approx(0.5 * off[0], rel=0.05)  # the edge of 10 cm lies at 5.5 cm in 10 cm depth


def test_softening_and_electrons_show_where_they_should() -> None:
    beam = read_machine("varian-truebeam-m120").beam("6X")
    hard = replace(beam, softening=RadialTable(np.array([0.0, 40.0]), np.array([1.0, 1.0])))
    soft = replace(beam, softening=RadialTable(np.array([0.0, 3.0, 40.0]), np.array([1.0, 1.2, 1.2])))
    maps = flat(30.0)
    at = ([0.0, 11.0], 0.0, 20.0)  # 9.2 cm off the axis at the isocentre
    ratio = TankModel.of(soft).dose(maps, *at) / TankModel.of(hard).dose(maps, *at)
    table = terma_table(beam.spectrum, [1.0, 1.2])
    deep, higher = (float(np.interp(d, table.depth_cm, table.terma[0, 1] / table.terma[0, 0])) for d in (20.0, 10.0))
    # the dose comes from the energy released here and, by scatter, from what is released some centimetres higher up
    assert deep < ratio[1] < higher and deep < 0.98
    assert ratio[1] < ratio[0] < 1.1  # softer photons around scatter more to the axis, whose own are as hard as before
    raster = Raster.covering((-20.0, 20.0), (-20.0, 20.0), 0.5)
    light = replace(maps, electron=np.full((1, raster.ny, raster.nx), 0.01, np.float32), electron_raster=raster)
    with_electrons = replace(hard, electrons=ElectronContamination(0.01, 2.0, 3.0))
    more = TankModel.of(with_electrons).dose(light, 0, 0, [0.5, 3.0]) - TankModel.of(hard).dose(maps, 0, 0, [0.5, 3.0])
    np.testing.assert_allclose(more, 0.01 * np.exp([-1.0, -6.0]) * (100 / np.array([100.5, 103.0])) ** 2, rtol=1e-3)


def test_engine_agrees() -> None:
    """The engine's own stages in the same tank, coarse, on the axis and beside it."""
    machine = read_machine("varian-truebeam-m120")
    beam = replace(
        machine.beam("6X"), spectrum=Spectrum(np.array([1.0, 3.0]), np.array([0.6, 0.4])),
        electrons=ElectronContamination(0.0, 1.0, 3.0),
    )  # fmt: skip
    machine = replace(machine, beams={"6X": beam}, data_hash="")
    from spinedose.backends.select import select_backend
    from spinedose.calibration import open_field_beam
    from spinedose.fluence_model import fluence_raster
    from spinedose.segments import segment_beam

    segments = segment_beam(open_field_beam(machine, beam, (6.0, 6.0)))
    raster = fluence_raster(segments, machine, beam)
    maps = select_backend("cpu").fluence(machine, beam, segments, raster, None)
    depths = np.array([3.0, 6.0, 10.0, 14.0])
    fast = TankModel.of(beam).dose(maps, 0, 0, depths)
    volume = water_tank_dose(
        machine, beam, (6.0, 6.0), depth_cm=22.0, margin_cm=6.0, spacing_cm=0.4, settings=Settings(directions=800)
    )
    offset = np.linspace(-0.6, 0.6, 7)
    x, y = np.meshgrid(offset, offset)
    slow = [volume.sample(np.stack([x, np.full_like(x, d), y], axis=-1)).mean() for d in depths]
    np.testing.assert_allclose(fast, slow, rtol=ENGINE)


def test_lookup_is_bilinear_and_zero_outside() -> None:
    raster = Raster.covering((0.0, 1.0), (0.0, 2.0), 0.5)
    values = (raster.xs_cm[None, :] + 10 * raster.ys_cm[:, None]).astype(np.float32)
    found = lookup(values, raster, np.array([0.3, 0.9, 5.0]), np.array([1.2, 0.1, 0.0]))
    np.testing.assert_allclose(found, [12.3, 1.9, 0.0], rtol=1e-6)


def test_senseless_distance_is_refused() -> None:
    with pytest.raises(InvalidInput, match="SSD is 10"):
        ring_table([2.0], ssd_cm=10.0)
