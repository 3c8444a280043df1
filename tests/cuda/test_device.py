"""Threads, processes and short memory on a real GPU; test_processes.py tests the same on the host, without one."""

from __future__ import annotations

import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest
from cuda_on_host import backend_on_device, device_is_wanted
from test_processes import compared, forked, transported

from spinedose.backends.cuda.backend import CudaBackend
from spinedose.backends.select import select_backend

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not device_is_wanted(), reason="needs a GPU")]


def in_a_worker() -> tuple[np.ndarray, np.ndarray]:
    """What a worker computes on the GPU."""
    backend = backend_on_device()
    return transported(backend), compared(backend)


def test_two_threads_on_one_gpu_give_the_same_bits() -> None:
    backend = backend_on_device()
    expected = transported(backend), compared(backend)
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda _: (transported(backend), compared(backend)), range(6)))
    for result in results:
        for found, alone in zip(result, expected, strict=True):
            np.testing.assert_array_equal(found, alone)


def test_a_spawned_worker_gives_the_same_bits() -> None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        dose, gamma = pool.submit(in_a_worker).result(timeout=240)
    backend = backend_on_device()
    np.testing.assert_array_equal(dose, transported(backend))
    np.testing.assert_array_equal(gamma, compared(backend))


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux")
def test_a_forked_child_is_refused() -> None:
    backend = backend_on_device()
    expected = transported(backend)
    assert "made by another process" in forked(lambda: transported(backend).sum())
    assert "forked from one that has used a GPU" in forked(lambda: select_backend("cuda").name)
    np.testing.assert_array_equal(transported(backend), expected)


def test_the_budget_changes_blocks_and_not_the_dose() -> None:
    import cupy

    plenty, tight = backend_on_device(), CudaBackend(cupy, cupy.RawModule, budget_bytes=50_000)
    one, two = transported(plenty), transported(tight)
    np.testing.assert_allclose(two, one, rtol=1e-5, atol=1e-6 * one.max())
