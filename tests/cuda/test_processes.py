"""Threads and worker processes: several backends at once, spawned workers, and forked ones, which are refused."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
import pytest
from cuda_on_host import backend_on_host

from spinedose.backends import select
from spinedose.backends.base import Backend
from spinedose.backends.cuda.backend import CudaBackend
from spinedose.backends.select import select_backend
from spinedose.compare.gamma import gamma_index
from spinedose.cones import ConeTable, RadialBasis
from spinedose.directions import directions
from spinedose.errors import BackendUnavailable
from spinedose.grid import Grid, Volume

CONES = ConeTable(RadialBasis((1.0,), (2,)), np.array([0.0, 180.0]), np.array([[[0.5], [0.5]], [[0.0], [0.0]]]))

needs_fork = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux")


def transported(backend: Backend) -> np.ndarray:
    """Dose of some energy in random matter."""
    density = np.random.default_rng(1).uniform(0, 2, (6, 7, 8)).astype(np.float32)
    scene = backend.load(Volume(Grid((0, 0, 0), (0.5, 0.5, 0.5), density.shape), density))
    field, halo = (backend.new_moments(scene, (1, 1, 1), (5, 6, 7), order) for order in (2, 1))
    field.values[:, :, 0], halo.values[:, :, 0] = 1.0, 0.1
    return backend.transport(scene, field, halo, CONES, directions(64, 2))


def compared(backend: Backend) -> np.ndarray:
    """Gamma of two random doses."""
    rng = np.random.default_rng(2)
    one, other = (
        Volume(Grid((0, 0, 0), (0.25, 0.25, 0.25), (5, 6, 7)), rng.uniform(50, 54, (5, 6, 7)).astype(np.float32))
        for _ in range(2)
    )
    return gamma_index(one, other, search=backend.gamma).gamma.values


def in_a_worker(build: str) -> tuple[np.ndarray, np.ndarray]:
    """What a worker computes with a backend of its own."""
    backend = backend_on_host(build)
    return transported(backend), compared(backend)


def test_two_backends_in_two_threads_give_the_same_bits() -> None:
    backends = [backend_on_host("exact") for _ in range(2)]
    expected = transported(backends[0]), compared(backends[0])
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda n: (transported(backends[n % 2]), compared(backends[n % 2])), range(6)))
    for result in results:
        for found, alone in zip(result, expected, strict=True):
            np.testing.assert_array_equal(found, alone)


def test_a_spawned_worker_computes() -> None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        dose, gamma = pool.submit(in_a_worker, "exact").result(timeout=120)
    backend = backend_on_host("exact")
    np.testing.assert_array_equal(dose, transported(backend))
    np.testing.assert_array_equal(gamma, compared(backend))


def forked(work: Callable[[], Any]) -> str:
    """What a forked child says: the text of the refusal, or what `work` returns."""
    ours, theirs = multiprocessing.Pipe(duplex=False)

    def child() -> None:
        try:
            theirs.send(str(work()))
        except BackendUnavailable as error:
            theirs.send(str(error))

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    assert ours.poll(60), "the child said nothing"
    told = str(ours.recv())
    process.join(60)
    assert process.exitcode == 0
    return told


@needs_fork
def test_a_gpu_of_the_parent_is_refused_in_a_forked_child() -> None:
    backend = backend_on_host("exact")
    told = forked(lambda: transported(backend).sum())
    assert "made by another process (a CUDA context does not survive a fork)" in told and "spawn" in told
    assert np.isfinite(transported(backend).sum()), "the parent goes on"


@needs_fork
def test_selecting_a_gpu_in_a_forked_child_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def made(number: int, process: int) -> CudaBackend:
        return backend_on_host("exact")

    monkeypatch.setattr(select, "_cuda", select.lru_cache(made))
    assert select_backend("cuda").name == "cuda"
    told = forked(lambda: select_backend("cuda").name)
    assert "forked from one that has used a GPU" in told and "spawn" in told
    assert forked(lambda: select_backend("auto").name) != "cuda"
    assert select_backend("cuda").name == "cuda", "the parent goes on"


@needs_fork
def test_a_forked_child_without_a_gpu_in_its_parent_may_use_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def made(number: int, process: int) -> CudaBackend:
        return backend_on_host("exact")

    monkeypatch.setattr(select, "_cuda", select.lru_cache(made))
    assert forked(lambda: f"{select_backend('cuda').name} {select_backend('cuda').name}") == "cuda cuda"


@needs_fork
def test_a_forked_child_computes_on_the_cpu_or_says_why_not() -> None:
    # GNU OpenMP would end the child with a signal; TBB and numba's own threads survive.
    expected = transported(select_backend("cpu"))
    told = forked(lambda: np.array_equal(transported(select_backend("cpu")), expected))
    if numba.threading_layer() == "omp":
        assert "numba's threads do not survive" in told and "spawn" in told
    else:
        assert told == "True"
