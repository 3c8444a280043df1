"""A plan is a few large steps on the device, not thousands of small ones: a GPU takes some 10 µs to be told of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cuda_on_host import backend_on_host
from device_numpy import DeviceArray

from spinedose import engine
from spinedose import patient as preparation
from spinedose.backends.cuda.backend import CudaBackend
from spinedose.density import CtImage
from spinedose.engine import compute_dose
from spinedose.grid import Grid, Volume
from spinedose.plan import Plan
from spinedose.settings import Settings

MOST_STEPS = 400
"""Array operations and kernels of an arc; some 320 are counted here, however many segments there are."""

MORE_PER_SEGMENT = 0.1
"""What a segment more may cost: maps are handled 64 at a time."""


@pytest.fixture
def count_steps(monkeypatch: pytest.MonkeyPatch, make_beam: Callable[..., Any]) -> Callable[[int], tuple[int, int]]:
    """A function that computes an arc of so many degrees, to and fro, and counts segments and steps."""
    monkeypatch.setattr(engine, "reference_output", lambda *_: 1.0)
    gpu = backend_on_host("exact", budget_bytes=2**34)
    monkeypatch.setattr(preparation, "select_backend", lambda _: gpu)
    hu = np.zeros((12, 12, 12), np.float32)
    ct = CtImage(Volume(Grid((-5.5,) * 3, (1.0,) * 3, hu.shape), hu), "HFS")
    launch, segments, launches = CudaBackend.launch, [0], [0]

    def watch(self: CudaBackend, kernel: str, threads: tuple[int, ...], *args: Any) -> None:
        launches[0] += 1
        if kernel == "add_scattered":
            segments[0] += threads[2]
        launch(self, kernel, threads, *args)

    monkeypatch.setattr(CudaBackend, "launch", watch)

    def run(degrees: int) -> tuple[int, int]:
        there = make_beam(gantry_deg=np.array([200.0, 200.0 + degrees]), number=1)
        back = make_beam(gantry_deg=np.array([200.0 + degrees, 200.0]), number=2)
        DeviceArray.steps.clear()
        segments[0] = launches[0] = 0
        compute_dose(
            Plan(label="arcs", beams=(there, back)), ct, machine="varian-truebeam-m120", spacing_cm=1.0,
            settings=Settings(directions=80),
        )  # fmt: skip
        return segments[0], launches[0] + DeviceArray.steps.total()

    return run


def test_steps_do_not_grow_with_segments(count_steps: Callable[[int], tuple[int, int]]) -> None:
    few, steps = count_steps(40)
    many, more = count_steps(120)
    print(f"{few} segments in {steps} steps, {many} in {more}")
    assert many - few >= 150
    assert more < MOST_STEPS
    assert more - steps < MORE_PER_SEGMENT * (many - few)
