"""Two GPUs of one model in one process: every array stays on its own, whatever is the current one of a thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from cuda_on_host import BUILDS, HostModule
from device_numpy import Device, DeviceNumpy

from spinedose import engine
from spinedose import patient as preparation
from spinedose.backends.cuda.backend import CudaBackend
from spinedose.density import CtImage
from spinedose.engine import Memory, irradiate, prepare_patient
from spinedose.grid import Grid, Volume
from spinedose.nested import FineBox
from spinedose.patient import PreparedPatient
from spinedose.plan import Plan
from spinedose.settings import Settings

Solve = Callable[..., np.ndarray]


@pytest.fixture(scope="module")
def gpus() -> list[CudaBackend]:
    return [
        CudaBackend(
            DeviceNumpy(), lambda code, options: HostModule(code, BUILDS["exact"]), number=number,
            device="Some GPU, 8 GiB, CUDA 13.0",
        )
        for number in (0, 1)
    ]  # fmt: skip


@pytest.fixture
def patients(gpus: list[CudaBackend], monkeypatch: pytest.MonkeyPatch) -> Iterator[list[PreparedPatient]]:
    """The same patient on both."""

    def select(name: str) -> CudaBackend:
        found = gpus[int(name.removeprefix("cuda:"))]
        found.use()
        return found

    monkeypatch.setattr(preparation, "select_backend", select)
    monkeypatch.setattr(engine, "reference_output", lambda *_: 1.0)
    ct = CtImage(Volume(Grid((-5.5,) * 3, (1.0,) * 3, (12, 12, 12)), np.zeros((12, 12, 12), np.float32)), "HFS")
    box = FineBox((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0))
    yield [prepare_patient(ct, spacing_cm=1.0, fine=box, backend=f"cuda:{number}") for number in (0, 1)]
    Device(0).use()


@pytest.fixture
def solve(make_plan: Callable[..., Plan], make_beam: Callable[..., Any]) -> Solve:
    plan = make_plan(make_beam(gantry_deg=np.array([0.0, 20.0])))

    def run(patient: PreparedPatient, memory: Memory | None = None) -> np.ndarray:
        settings = Settings(directions=80)
        dose = irradiate(plan, patient, machine="varian-truebeam-m120", settings=settings, memory=memory)
        return dose.values

    return run


def test_patients_on_two_devices_take_turns(patients: list[PreparedPatient], solve: Solve) -> None:
    memory = Memory()
    doses = [solve(patients[number], memory) for number in (0, 1, 1, 0)]
    assert doses[0].max() > 0
    for dose in doses[1:]:
        np.testing.assert_array_equal(dose, doses[0])


def test_the_current_device_of_a_thread_is_left_as_it_was(patients: list[PreparedPatient], solve: Solve) -> None:
    Device(0).use()
    solve(patients[1])
    assert Device.current() == 0


def test_threads_compute_on_a_device_each(patients: list[PreparedPatient], solve: Solve) -> None:
    expected, memory = solve(patients[0]), Memory()
    with ThreadPoolExecutor(2) as pool:
        for dose in pool.map(lambda number: solve(patients[number], memory), (0, 1, 1, 0)):
            np.testing.assert_array_equal(dose, expected)


def test_an_array_of_another_device_is_refused() -> None:
    xp = DeviceNumpy()
    with Device(1):
        there = xp.ones(3)
    with pytest.raises(ValueError, match="an array of device 1, the current one is 0"):
        xp.sum(there)
    with pytest.raises(ValueError, match="an array of device 1"):
        there[0] = 2.0
    with Device(1):
        assert (there[1:] + 1).sum() == 4.0
