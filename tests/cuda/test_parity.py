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
from spinedose.compare.gamma import GammaTask, gamma_index
from spinedose.density import CtImage
from spinedose.engine import Settings, compute_dose
from spinedose.fluence_model import FluenceMaps
from spinedose.grid import Grid, Volume
from spinedose.nested import FineBox
from spinedose.plan import Plan

P999_PERCENT, RMS_PERCENT = 0.1, 0.02
"""Of the maximum, from the product's requirements."""

STAGE_PERCENT = {"fluence": 0.002, "depth": 0.001, "moments": 0.002, "electrons": 0.002, "transport": 0.01}
"""Greatest difference of a stage on the same inputs, of its maximum. Transport: which combinations matter is decided by
sums in another order, and what is left out of them may differ."""

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


def test_moments_in_slabs_give_the_dose_of_the_cpu(solve: Solve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slabs of the whole patient, those of them that hold a part of the fine box, and slabs of the box."""
    settled, settle = [], CudaBackend.settle

    def watch(self: CudaBackend, *args: Any) -> Any:
        settled.append(1)
        return settle(self, *args)

    monkeypatch.setattr(CudaBackend, "settle", watch)
    box = FineBox((-2.0, -1.0, -1.5), (1.0, 2.0, 1.5))
    error = percent(solve(backend_on_host("fused", budget_bytes=2**22), box), solve(select_backend("cpu"), box))
    print(f"{len(settled)} slabs: p99.9 {np.quantile(error, 0.999):.5f} rms {np.sqrt(np.mean(error**2)):.5f}")
    assert len(settled) > 6
    assert np.quantile(error, 0.999) < P999_PERCENT
    assert np.sqrt(np.mean(error**2)) < RMS_PERCENT


class Both(Backend):
    """Runs each stage on two backends with the inputs of the first, and notes how far they are apart."""

    name, device = "both", "both"

    def __init__(self, first: Backend, second: CudaBackend) -> None:
        self.first, self.second = first, second
        self.fan_budget_bytes, self.most_moments_bytes = first.fan_budget_bytes, first.most_moments_bytes
        self.worst: dict[str, float] = {}
        self._moments: list[tuple[Moments, Moments]] = []

    def _note(self, stage: str, values: Any, expected: np.ndarray) -> None:
        if np.abs(expected).max() > 0:
            worst = float(percent(self.second.to_host(values), expected).max())
            self.worst[stage] = max(worst, self.worst.get(stage, 0.0))

    def finish(self) -> None:
        self.first.finish()
        self.second.finish()

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

    def settle(self, field: Moments | None, halo: Moments, *args: Any) -> tuple[Any, Any]:
        assert field is not None
        there = []
        for here in (field, halo):
            there.append(self._other(here))
            self._note("electrons", there[-1].electron_dose, here.electron_dose)
            size = here.values.shape[2]
            for n in range(size):  # each moment by itself
                self._note("moments", there[-1].values[:, :, n], here.values[:, :, n])
            there[-1].values[...] = self.second.xp.asarray(here.values)
        return self.first.settle(field, halo, *args), self.second.settle(there[0], there[1], *args)

    def carry(self, scene: Scene, sources: list[Any], *args: Any) -> np.ndarray:
        values = self.second.carry(self._there, [pair[1] for pair in sources], *args)
        expected = self.first.carry(scene, [pair[0] for pair in sources], *args)
        self._note("transport", values, expected)
        return expected

    def to_host(self, array: Any) -> np.ndarray:
        return self.first.to_host(array)

    def gamma(self, task: GammaTask) -> np.ndarray:
        return self.first.gamma(task)  # no stage of a dose calculation


@pytest.fixture
def both(cuda: CudaBackend) -> Iterator[Both]:
    yield Both(select_backend("cpu"), cuda)


def test_every_stage_is_that_of_the_cpu(both: Both, solve: Solve) -> None:
    solve(both)
    print({stage: round(worst, 6) for stage, worst in both.worst.items()})
    assert set(both.worst) == set(STAGE_PERCENT)
    for stage, worst in both.worst.items():
        assert worst < STAGE_PERCENT[stage], stage


GAMMA_ROUNDING = 2e-5
"""Doses less that of the voxel are some criteria in size, in single precision: 1e-7 of 100 criteria."""


def treated(seed: int, shift_cm: float, scale: float, grid: Grid) -> Volume:
    """A dose with steep edges, moved, scaled and with noise of 0.3 Gy."""
    x, y, z = (axis - shift_cm for axis in grid.axes_cm)
    slab = 60 * scale / (1 + np.exp((np.abs(x)[None, None, :] - 1.5) / 0.1))
    dose = slab / (1 + np.exp((np.abs(y)[None, :, None] - 1.2) / 0.15)) * np.exp(-0.05 * z[:, None, None] ** 2)
    noise = np.random.default_rng(seed).normal(0, 0.3, grid.shape)
    return Volume(grid, np.maximum(dose + noise, 0).astype(np.float32))


@pytest.mark.parametrize("accuracy", [1e-2, 1e-4])
@pytest.mark.parametrize("is_local", [False, True])
def test_gamma_is_that_of_the_cpu(cuda: CudaBackend, is_local: bool, accuracy: float) -> None:
    planned = treated(1, 0.0, 1.0, Grid((-2.6, -2.2, -1.7), (0.25, 0.2, 0.3), (12, 22, 21)))
    given = treated(2, 0.1, 1.02, Grid((-2.9, -2.6, -1.9), (0.22, 0.25, 0.25), (15, 21, 26)))
    options: dict[str, Any] = {"is_local": is_local, "accuracy": accuracy, "normalisation_gy": 60.0}
    expected = gamma_index(planned, given, **options, search=select_backend("cpu").gamma)
    found = gamma_index(planned, given, **options, search=cuda.gamma)
    difference = np.abs(found.values - expected.values)
    print(f"max {difference.max():.2e} p99 {np.quantile(difference, 0.99):.2e}, pass {found.pass_percent:.3f} %")
    # both lie above the minimum by the accuracy at most, and only rounding decides which part of a cell is dropped
    assert difference.max() <= accuracy + GAMMA_ROUNDING
    assert np.quantile(difference, 0.95) < GAMMA_ROUNDING
    assert 80 < expected.pass_percent < 99.9
    near_one = np.count_nonzero(np.abs(expected.values - 1) <= accuracy + GAMMA_ROUNDING)
    assert abs(found.pass_percent - expected.pass_percent) <= 100 * near_one / expected.points
    again = gamma_index(planned, given, **options, search=cuda.gamma)
    np.testing.assert_array_equal(found.gamma.values, again.gamma.values)
