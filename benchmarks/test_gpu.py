"""Whole calculations on a GPU: wall time, stages, what the device was busy with, and the first start.

Skipped without a GPU, or with SPINEDOSE_REQUIRE_CUDA=1 a failure.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cases import elliptical_body, large_arcs, modulated_arcs
from spinedose.backends.base import Backend
from spinedose.backends.select import select_backend
from spinedose.compare.gamma import gamma_index
from spinedose.engine import irradiate
from spinedose.errors import BackendUnavailable
from spinedose.patient import prepare_patient
from test_gamma import PAIRS, pair

CASES = {
    "vmat-180": (lambda: (*elliptical_body(), modulated_arcs()), 0.25, 0),
    "vmat-256": (large_arcs, 0.125, 0),
    "vmat-256-8gb": (large_arcs, 0.125, 8 * 10**9),
}
"""CT, outline and plan of each case, its voxels [cm], and the memory that CuPy may take [bytes]; 0 for all."""

ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
"""Categories of a trace's events that keep the device busy."""

FIRST_START = """
import sys, time
start = time.perf_counter()
from cases import elliptical_body, modulated_arcs
from spinedose.engine import compute_dose
ct, structures = elliptical_body((20, 30, 30), 1.25)
compute_dose(modulated_arcs(1, 4), ct, structures=structures, spacing_cm=1.0, backend="cuda")
print(time.perf_counter() - start)
"""
"""A small plan in a new process."""


@pytest.fixture(scope="module")
def gpu() -> Backend:
    """The first GPU."""
    try:
        return select_backend("cuda")
    except BackendUnavailable as error:
        if os.environ.get("SPINEDOSE_REQUIRE_CUDA") == "1":
            raise
        pytest.skip(str(error))


@pytest.mark.parametrize("name", CASES)
def test_dose(benchmark: Any, gpu: Backend, name: str) -> None:
    """A patient who is on the device already; the calibration remembered."""
    make, spacing_cm, limit = CASES[name]
    ct, structures, plan = make()
    with limited_memory(gpu, limit):
        start = time.perf_counter()
        patient = prepare_patient(ct, structures=structures, spacing_cm=spacing_cm, backend="cuda")
        gpu.finish()
        prepared_s = time.perf_counter() - start
        run = partial(irradiate, plan, patient)
        run()
        dose = benchmark.pedantic(run, rounds=5, iterations=1)
        again = run()
        assert np.array_equal(dose.values, again.values), "the same bits, run after run"
        device_ms = device_activity(run)
        benchmark.extra_info.update(
            case=name, prepared_s=prepared_s, device_busy_ms=sum(device_ms.values()), device_ms=device_ms,
            device_memory_gb=pool_gb(gpu), voxels=dose.grid.size, calculated_voxels=patient.matter.grid.size,
            **dose.metadata.as_dict(),
        )  # fmt: skip


@pytest.mark.parametrize("name", PAIRS)
def test_gamma(benchmark: Any, gpu: Backend, name: str) -> None:
    """3 %/2 mm global, threshold 10 %, cut-off 2; the pairs of test_gamma.py, with all that is done on the host."""
    reference, evaluated = pair(name)
    run = partial(gamma_index, reference, evaluated, search=gpu.gamma)
    run()
    result = benchmark.pedantic(run, rounds=5, iterations=1)
    benchmark.extra_info.update(
        case=f"gamma-{name}", device=gpu.device, device_ms=device_activity(run), pass_percent=result.pass_percent
    )


def test_first_start(benchmark: Any, gpu: Backend) -> None:
    """A new process with nothing compiled, and the next one; both import everything."""
    with tempfile.TemporaryDirectory() as cache:
        seconds = [started(cache) for _ in range(2)]
    benchmark.extra_info.update(case="first-start", device=gpu.device, nothing_compiled_s=seconds[0])
    benchmark.pedantic(lambda: None, rounds=1)
    benchmark.extra_info.update(compiled_s=seconds[1])


def started(cache: str) -> float:
    """Seconds that a new process took, with CuPy's compiled kernels in a folder."""
    done = subprocess.run(
        [sys.executable, "-c", FIRST_START], cwd=Path(__file__).parent, env={**os.environ, "CUPY_CACHE_DIR": cache},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return float(done.stdout.split()[-1])


def device_activity(run: Callable[[], Any]) -> dict[str, float]:
    """Time that kernels, copies and fills took on the device, by name [ms]; empty where PyTorch, which records it, is
    not installed. CuPy has no profiler of its own, and PyTorch's sees the kernels of the whole process (CUPTI)."""
    try:
        import torch
        from torch.profiler import ProfilerActivity, profile
    except ImportError:
        return {}
    torch.cuda.init()
    with tempfile.TemporaryDirectory() as place:
        trace = Path(place) / "trace.json"
        with profile(activities=[ProfilerActivity.CUDA]) as seen:
            run()
            torch.cuda.synchronize()
        seen.export_chrome_trace(str(trace))
        return busy_ms(json.loads(trace.read_text(encoding="utf-8"))["traceEvents"])


def busy_ms(events: list[dict[str, Any]]) -> dict[str, float]:
    """Sum of the durations of a trace's events on the device, by name, the longest first [ms]."""
    total: dict[str, float] = defaultdict(float)
    for event in events:
        if event.get("cat") in ON_DEVICE:
            total[event["name"][:80]] += event["dur"] / 1000
    return dict(sorted(total.items(), key=lambda item: -item[1]))


@contextmanager
def limited_memory(gpu: Any, limit_bytes: int) -> Iterator[None]:
    """CuPy's pool may hold so much; it begins and ends empty."""
    pool = gpu.xp.get_default_memory_pool()
    pool.free_all_blocks()
    pool.set_limit(size=limit_bytes)
    try:
        yield
    finally:
        pool.set_limit(size=0)
        pool.free_all_blocks()


def pool_gb(gpu: Any) -> float:
    """The most memory that CuPy's pool ever held [GB]."""
    return float(gpu.xp.get_default_memory_pool().total_bytes()) / 1e9
