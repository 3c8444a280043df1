"""Memory is planned: a plan whose moments do not fit into a device is computed in slabs, within what there is."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from cuda_on_host import BUILDS, HostModule, backend_on_host
from device_numpy import DeviceArray, DeviceNumpy, Meter

from spinedose import engine
from spinedose import patient as preparation
from spinedose.assignments import Assignment
from spinedose.backends.base import Moments, Scene
from spinedose.backends.cuda.backend import CudaBackend
from spinedose.density import CtImage
from spinedose.engine import Settings, compute_dose
from spinedose.errors import OutOfMemory
from spinedose.exposure import Fans
from spinedose.grid import Grid, Volume
from spinedose.plan import Plan

SIDE = 32
"""Voxels along the side of the case."""

FULL_BYTES = 8 * 10**9
"""In this much a plan on 256 x 256 x 256 voxels, with metal, has to fit."""

SCALED_BYTES = FULL_BYTES * SIDE**3 // 256**3
"""The same for this case: all that is large goes with the number of voxels."""

P999_PERCENT, RMS_PERCENT = 0.1, 0.02
"""Of the maximum: what slabs may change, from the product's requirements for backends. They combine moments slab by
slab, and each leaves out what matters least in itself."""


@pytest.fixture
def meter(monkeypatch: pytest.MonkeyPatch) -> Iterator[Meter]:
    meter = Meter(SCALED_BYTES)
    monkeypatch.setattr(DeviceArray, "meter", meter)
    yield meter


def metered_backend() -> CudaBackend:
    """A backend that asks its device how much memory there is."""
    return CudaBackend(DeviceNumpy(), lambda code, options: HostModule(code, BUILDS["exact"]))


@pytest.fixture
def solve(monkeypatch: pytest.MonkeyPatch, make_beam: Callable[..., Any]) -> Callable[[CudaBackend], np.ndarray]:
    """Dose of two wide fields in a body that fills the grid, with a rod of titanium: all four parts of the moments."""
    hu = np.full((SIDE,) * 3, 20.0, np.float32)
    hu[8:24, 15:17, 15:17] = 3000.0
    spacing = 1.0
    ct = CtImage(Volume(Grid((-0.5 * spacing * (SIDE - 1),) * 3, (spacing,) * 3, hu.shape), hu), "HFS")
    jaws = {"jaw_x_cm": np.tile([-16.0, 16.0], (2, 1)), "jaw_y_cm": np.tile([-5.0, 5.0], (2, 1))}
    beams = [make_beam(**jaws, number=n, energy="10X", gantry_deg=np.full(2, g)) for n, g in ((1, 0.0), (2, 80.0))]
    monkeypatch.setattr(engine, "reference_output", lambda *_: 1.0)

    def run(backend: CudaBackend) -> np.ndarray:
        monkeypatch.setattr(preparation, "select_backend", lambda _: backend)
        dose = compute_dose(
            Plan(label="memory", beams=tuple(beams)), ct, machine="varian-truebeam-m120", spacing_cm=spacing,
            settings=Settings(directions=80), materials=[Assignment("titanium", above_hu=2500.0)],
        )  # fmt: skip
        return dose.values

    return run


def test_a_case_as_256_cubed_with_metal_fits_into_8_gb(
    solve: Callable[[CudaBackend], np.ndarray],
    meter: Meter,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, new_moments = [], CudaBackend.new_moments

    def watch(self: CudaBackend, scene: Scene, low: Any, high: Any, order: int, parts: int) -> Moments:
        moments = new_moments(self, scene, low, high, order, parts)
        made.append((parts, int(moments.values.nbytes)))
        return moments

    slabs, settle = [], CudaBackend.settle

    def count(self: CudaBackend, field: Moments | None, *args: Any) -> Any:
        slabs.append(field is not None)
        return settle(self, field, *args)

    monkeypatch.setattr(CudaBackend, "new_moments", watch)
    monkeypatch.setattr(CudaBackend, "settle", count)
    with caplog.at_level(logging.WARNING):
        dose = solve(metered_backend())
    print(f"at most {meter.most_bytes / SCALED_BYTES * FULL_BYTES / 1e9:.2f} GB")
    assert meter.most_bytes <= SCALED_BYTES
    assert "memory is short" not in caplog.text, "it was planned, not tried"
    assert {parts for parts, _ in made} == {4}, "the most that there are"
    assert sum(size for _, size in made) > SCALED_BYTES, "without slabs it would not fit"
    assert len(slabs) > 3 and not all(slabs), "in some slabs there is no field"
    meter.limit_bytes = 2**40
    expected = solve(backend_on_host("exact", budget_bytes=2**34))
    error = 100 * np.abs(dose - expected) / expected.max()
    print(f"p99.9 {np.quantile(error, 0.999):.4f} rms {np.sqrt(np.mean(error**2)):.5f}")
    assert np.quantile(error, 0.999) < P999_PERCENT and np.sqrt(np.mean(error**2)) < RMS_PERCENT


def test_slabs_that_do_not_fit_are_halved(
    solve: Callable[[CudaBackend], np.ndarray],
    meter: Meter,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As when others take the memory after slabs were planned: first all moments at once are asked for."""
    monkeypatch.setattr(CudaBackend, "most_moments_bytes", 2**40)
    with caplog.at_level(logging.WARNING):
        dose = solve(metered_backend())
    steps = [record.args for record in caplog.records if "slabs" in record.msg]
    assert steps and all(2 * new - old in (0, 1) for new, old in steps), "each time half as many slices"
    assert meter.most_bytes <= SCALED_BYTES
    meter.limit_bytes = 2**40
    expected = solve(backend_on_host("exact", budget_bytes=2**34))
    error = 100 * np.abs(dose - expected) / expected.max()
    assert np.quantile(error, 0.999) < P999_PERCENT and np.sqrt(np.mean(error**2)) < RMS_PERCENT


@pytest.mark.parametrize("part", [4, 6, 8, 12, 20, 50])
def test_what_needs_more_than_there_is_says_so(
    solve: Callable[[CudaBackend], np.ndarray], meter: Meter, part: int
) -> None:
    """Wherever the memory ends: in a verb, or between two."""
    meter.limit_bytes = SCALED_BYTES // part
    with pytest.raises(OutOfMemory, match="too little memory"):
        solve(metered_backend())


def test_fans_that_do_not_fit_are_made_in_smaller_blocks(
    solve: Callable[[CudaBackend], np.ndarray],
    meter: Meter,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As when others take the memory between plan and need: no fan has room beside another."""
    meter.limit_bytes = 2**40
    expected = solve(backend_on_host("exact", budget_bytes=2**34))
    made, radiological_depth = [], CudaBackend.radiological_depth

    def crowded(self: CudaBackend, scene: Scene, fans: Fans, *args: Any) -> Any:
        if len(fans.rotation) > 1:
            raise OutOfMemory("The GPU has too little memory")
        made.append(1)
        return radiological_depth(self, scene, fans, *args)

    monkeypatch.setattr(CudaBackend, "radiological_depth", crowded)
    with caplog.at_level(logging.WARNING):
        dose = solve(backend_on_host("exact", budget_bytes=2**34))
    assert "fans at a time" in caplog.text and len(made) > 2
    np.testing.assert_allclose(dose, expected, rtol=1e-5, atol=1e-6 * expected.max())


def test_the_meter_counts(meter: Meter) -> None:
    xp = DeviceNumpy()
    one = xp.zeros((10, 10), np.float32)
    other = one[2:5].copy() + 1
    part = other.T
    assert meter.live_bytes == 400 + 120
    del one, other
    assert meter.live_bytes == 120, "a view keeps its array"
    del part
    assert meter.live_bytes == 0 and meter.most_bytes >= 520
    with pytest.raises(MemoryError):
        xp.empty(SCALED_BYTES + 1, np.uint8)
