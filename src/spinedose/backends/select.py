"""Choose the backend: `auto`, `cpu`, `cuda`, or one of several GPUs by number, `cuda:1`."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import sys
from functools import lru_cache
from typing import TYPE_CHECKING

from spinedose.backends.base import Backend
from spinedose.errors import BackendUnavailable

if TYPE_CHECKING:
    from spinedose.backends.cuda.backend import CudaBackend

log = logging.getLogger(__name__)

NAMES = re.compile(r"auto|cpu|cuda(?::(\d+))?")
"""All names of backends."""

OLDEST = 75
"""Compute capability, times ten, from which on the kernels are compiled in the tests."""


def select_backend(name: str = "auto") -> Backend:
    """Make the backend of a name.

    Parameters
    ----------
    name : str
        `"auto"` (a GPU where one can be used, otherwise the CPU), `"cpu"`, `"cuda"` (the first GPU), or `"cuda:1"`, and
        so on. A GPU becomes the current one of the calling thread.

    Raises
    ------
    BackendUnavailable
        For an unknown or unusable backend; in a process that was forked when its parent had computed already.
    """
    known = NAMES.fullmatch(name)
    if known is None:
        raise BackendUnavailable(
            f"There is no backend '{name}'",
            "it computes on the CPU, or on NVIDIA GPUs by their number",
            "Use auto, cpu, cuda or cuda:1",
        )
    if name == "cpu":
        return _cpu()
    if name == "auto":
        try:
            return _used(0)
        except BackendUnavailable as error:
            log.log(logging.WARNING if "gpu" in _lost_by_fork else logging.INFO, "computing on the CPU: %s", error)
            return _cpu()
    return _used(int(known[1] or 0))


def count_devices() -> int:
    """Number of GPUs that CuPy sees; 0 without CuPy or driver. No CUDA context is made."""
    if importlib.util.find_spec("cupy") is None:
        return 0
    try:
        import cupy

        return int(cupy.cuda.runtime.getDeviceCount())
    except Exception as error:  # no driver, or one that does not fit; `select_backend` says which
        log.info("no GPU can be counted: %s", error)
        return 0


_lost_by_fork: set[str] = set()
"""What this process was forked with and cannot use; filled in the child."""


def _after_fork() -> None:
    """In a child: note what its parent used, if that does not survive a fork.

    A CUDA context does not (CUDA C++ Programming Guide), and GNU OpenMP ends a child that uses its threads (numba's
    documentation, "The Threading Layers"); with TBB and numba's own threads, and outside Linux, children can compute.
    """
    if _cuda.cache_info().currsize:
        _lost_by_fork.add("gpu")
    if "numba" in sys.modules and sys.platform == "linux":
        try:
            if sys.modules["numba"].threading_layer() == "omp":
                _lost_by_fork.add("cpu")
        except ValueError:  # no threads yet
            return


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_after_fork)


def _refuse_after_fork(what: str, problem: str, why: str) -> None:
    if what in _lost_by_fork:
        advice = "Start worker processes by 'spawn' (multiprocessing.get_context), or compute in the workers only"
        raise BackendUnavailable(problem, why, advice)


def _cpu() -> Backend:
    _refuse_after_fork(
        "cpu",
        "Nothing can be computed in this process",
        "it was forked from one that has computed, and numba's threads do not survive that",
    )
    from spinedose.backends.cpu.backend import CpuBackend

    return CpuBackend()


def _used(number: int) -> Backend:
    _refuse_after_fork(
        "gpu",
        "No GPU can be used in this process",
        "it was forked from one that has used a GPU, which a child cannot share",
    )
    gpu = _cuda(number, os.getpid())
    gpu.use()
    return gpu


@lru_cache(maxsize=16)
def _cuda(number: int, process: int) -> CudaBackend:
    """The backend of a GPU, one a process: a forked process cannot use its parent's and asks anew."""
    from spinedose.backends.cuda.backend import CudaBackend

    if importlib.util.find_spec("cupy") is None:
        raise BackendUnavailable(
            "No GPU can be used", "CuPy is not installed", "Install it: pip install 'spinedose[cuda12]' (or cuda13)"
        )
    try:
        import cupy

        count = cupy.cuda.runtime.getDeviceCount()
        if number >= count:
            raise BackendUnavailable(
                f"There is no GPU {number}",
                f"{count} were found",
                "Use a smaller number, or cpu" if count else "Check the driver and CUDA_VISIBLE_DEVICES, or use cpu",
            )
        facts = cupy.cuda.runtime.getDeviceProperties(number)
        capability = 10 * facts["major"] + facts["minor"]
        device = f"{facts['name'].decode()}, {facts['totalGlobalMem'] / 2**30:.0f} GiB, {_driver(cupy)}"
        if capability < OLDEST:
            raise BackendUnavailable(
                f"The GPU {device} is too old",
                f"its compute capability is {capability / 10}, {OLDEST / 10} is needed",
                "Use cpu",
            )
        return CudaBackend(cupy, cupy.RawModule, number=number, device=device)
    except BackendUnavailable:
        raise
    except Exception as error:  # CuPy, driver and compiler have many; each is a reason to say, and none is a bug here
        advice = "Check the driver, and that CuPy fits it; worker processes have to be spawned, not forked. Or use cpu"
        raise BackendUnavailable(
            f"GPU {number} cannot be used", f"{type(error).__name__}: {error}".replace("\n", " ").rstrip("."), advice
        ) from error


def _driver(cupy: object) -> str:
    """Version of CUDA that the driver offers."""
    version = cupy.cuda.runtime.driverGetVersion()  # type: ignore[attr-defined]
    return f"CUDA {version // 1000}.{version % 1000 // 10}"
