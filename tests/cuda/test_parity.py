"""CPU and CUDA kernels agree: every stage on the same inputs, and the dose of a small plan; the same bits every run.

docs/theory/gpu.md has the numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from cuda_on_host import backend_on_device, backend_on_host, device_is_wanted

from spinedose import engine
from spinedose import patient as preparation
from spinedose.assignments import Assignment
from spinedose.backends.base import Backend, Moments, Scene
from spinedose.backends.cuda.backend import CudaBackend
from spinedose.backends.select import select_backend
from spinedose.density import CtImage
from spinedose.engine import Settings, compute_dose
from spinedose.fluence_model import FluenceMaps
from spinedose.grid import Grid, Volume
from spinedose.nested import FineBox
from spinedose.plan import Plan

P999_PERCENT, RMS_PERCENT = 0.1, 0.02
"""Of the maximum, from the product's requirements."""

STAGE_PERCENT = {"fluence": 0.002, "depth": 0.001, "moments": 0.002, "electrons": 0.002, "transport": 0.1}
"""Greatest difference of a stage on the same inputs, of its maximum. Transport: compression looks at all rows of voxels
instead of every other one, and so keeps combinations that differ by what both leave out."""

Solve = Callable[..., np.ndarray]
"""`solve(backend)`, or with a `fine` box: the dose."""


def percent(values: np.ndarray, expected: np.ndarray) -> np.ndarray:
    difference: np.ndarray = 100 * np.abs(values - expected) / np.abs(expected).max()
    return difference


@pytest.fixture(scope="module", params=["exact", "fused", *(["device"] if device_is_wanted() else [])])
def cuda(request: pytest.FixtureRequest) -> CudaBackend:
    return backend_on_device() if request.param == "device" else backend_on_host(request.param)


@pytest.fixture(scope="module")
def ct() -> CtImage:
    """A cube of water of 10 cm with a lung, a bone, a rod of metal and an air gap, in 2 cm of air."""
    hu = np.zeros((20, 20, 20), np.float32)
    hu[6:14, 5:11, 3:9] = -700.0
    hu[4:18, 14:18, 12:16] = 900.0
    hu[4:16, 9:10, 12:13] = 3000.0
    hu[8:12, 3:5, 12:18] = -1000.0
    values = np.pad(hu, 4, constant_values=-1000.0)
    return CtImage(Volume(Grid((-6.75,) * 3, (0.5,) * 3, values.shape), values), "HFS")


@pytest.fixture(scope="module")
def plan(make_beam: Callable[..., Any]) -> Plan:
    """An arc of 60 degrees, a static beam, and one with the couch turned; leaves that move."""
    jaws = {"jaw_x_cm": np.tile([-2.0, 3.0], (2, 1)), "jaw_y_cm": np.tile([-1.5, 2.5], (2, 1))}
    boundaries = np.concatenate([np.arange(-20, -10), np.arange(-10, 10, 0.5), np.arange(10, 21)]).astype(float)
    tips = np.linspace(-1.8, 0.5, 60)
    leaves = np.array([[tips, tips + 1.5], [tips + 0.8, tips + 2.6]])
    arc = make_beam(
        **jaws, number=2, gantry_deg=np.array([200.0, 260.0]), collimator_deg=np.full(2, 20.0),
        leaf_boundaries_cm=boundaries, leaf_cm=leaves, leaf_axis="x",
    )  # fmt: skip
    return Plan(
        label="parity",
        beams=(
            make_beam(**jaws, gantry_deg=np.full(2, 40.0)),
            arc,
            make_beam(**jaws, number=3, gantry_deg=np.full(2, 90.0), couch_deg=np.full(2, 20.0)),
        ),
    )


@pytest.fixture
def solve(monkeypatch: pytest.MonkeyPatch, plan: Plan, ct: CtImage) -> Solve:
    monkeypatch.setattr(engine, "reference_output", lambda *_: 1.0)

    def run(backend: Backend, fine: FineBox | None = None) -> np.ndarray:
        monkeypatch.setattr(preparation, "select_backend", lambda _: backend)
        dose = compute_dose(
            plan, ct, machine="varian-truebeam-m120", spacing_cm=0.5, settings=Settings(directions=120),
            materials=[Assignment("titanium", above_hu=2500.0)], fine=fine,
        )  # fmt: skip
        return dose.values

    return run


def test_the_dose_of_a_plan_is_that_of_the_cpu(cuda: CudaBackend, solve: Solve) -> None:
    dose = solve(cuda)
    error = percent(dose, solve(select_backend("cpu")))
    print(f"p99.9 {np.quantile(error, 0.999):.5f} rms {np.sqrt(np.mean(error**2)):.5f} max {error.max():.5f}")
    assert np.quantile(error, 0.999) < P999_PERCENT
    assert np.sqrt(np.mean(error**2)) < RMS_PERCENT
    np.testing.assert_array_equal(solve(cuda), dose)


def test_a_box_of_fine_voxels_is_that_of_the_cpu(cuda: CudaBackend, solve: Solve) -> None:
    box = FineBox((-2.0, -1.0, -1.5), (1.0, 2.0, 1.5))
    error = percent(solve(cuda, box), solve(select_backend("cpu"), box))
    assert np.quantile(error, 0.999) < P999_PERCENT
    assert np.sqrt(np.mean(error**2)) < RMS_PERCENT


class Both(Backend):
    """Runs each stage on two backends with the inputs of the first, and notes how far they are apart."""

    name, device = "both", "both"

    def __init__(self, first: Backend, second: CudaBackend) -> None:
        self.first, self.second = first, second
        self.fan_budget_bytes = first.fan_budget_bytes
        self.worst: dict[str, float] = {}
        self._moments: list[tuple[Moments, Moments]] = []

    def _note(self, stage: str, values: Any, expected: np.ndarray) -> None:
        if np.abs(expected).max() > 0:
            worst = float(percent(self.second.to_host(values), expected).max())
            self.worst[stage] = max(worst, self.worst.get(stage, 0.0))

    def load(self, *args: Any) -> Scene:
        self._there = self.second.load(*args)
        return self.first.load(*args)

    def fluence(self, *args: Any) -> FluenceMaps:
        expected, maps = self.first.fluence(*args), self.second.fluence(*args)
        self._note("fluence", maps.photon, expected.photon)
        self._note("fluence", maps.electron, expected.electron)
        return expected

    def radiological_depth(self, scene: Scene, *args: Any) -> np.ndarray:
        expected = self.first.radiological_depth(scene, *args)
        self._depth = self.second.radiological_depth(self._there, *args)
        self._note("depth", self._depth, expected)
        self._depth[...] = self.second.xp.asarray(expected)
        return expected

    def new_moments(self, scene: Scene, *args: Any) -> Moments:
        pair = self.first.new_moments(scene, *args), self.second.new_moments(self._there, *args)
        self._moments.append(pair)
        return pair[0]

    def _other(self, moments: Moments) -> Moments:
        return next(there for here, there in self._moments if here is moments)

    def release(self, scene: Scene, exposure: Any, depth: Any, groups: Any, moments: Moments) -> None:
        self.first.release(scene, exposure, depth, groups, moments)
        self.second.release(self._there, exposure, self._depth, groups, self._other(moments))

    def transport(self, scene: Scene, *args: Any) -> np.ndarray:
        there = []
        for here in args[:2]:
            there.append(self._other(here))
            size = here.values.shape[2]
            for n in range(size):  # each moment by itself
                self._note("moments", there[-1].values[:, :, n], here.values[:, :, n])
            there[-1].values[...] = self.second.xp.asarray(here.values)
        values = self.second.transport(self._there, *there, *args[2:])
        expected = self.first.transport(scene, *args)
        self._note("transport", values, expected)
        return expected

    def electron_dose(self, moments: Moments) -> np.ndarray:
        expected = self.first.electron_dose(moments)
        self._note("electrons", self.second.electron_dose(self._other(moments)), expected)
        return expected


@pytest.fixture
def both(cuda: CudaBackend) -> Iterator[Both]:
    yield Both(select_backend("cpu"), cuda)


def test_every_stage_is_that_of_the_cpu(both: Both, solve: Solve) -> None:
    solve(both)
    print({stage: round(worst, 6) for stage, worst in both.worst.items()})
    assert set(both.worst) == set(STAGE_PERCENT)
    for stage, worst in both.worst.items():
        assert worst < STAGE_PERCENT[stage], stage
