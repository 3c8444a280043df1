"""What every benchmark result must say about itself: version, processor, threads, memory."""

from __future__ import annotations

import os
import platform
import resource
from contextlib import suppress
from importlib import metadata
from typing import Any

import pytest

from processor import gpu, processor
from spinedose._version import __version__


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """Keep what explains a time, and leave out the name of the computer."""
    machine_info.clear()
    machine_info.update(
        processor=processor(),
        threads=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        python=platform.python_version(),
        spinedose=__version__,
        numba=metadata.version("numba"),
        numpy=metadata.version("numpy"),
    )
    if found := gpu():
        machine_info.update(gpu=found)
        with suppress(ImportError):
            import cupy

            machine_info.update(cupy=cupy.__version__)


def pytest_benchmark_update_commit_info(config: pytest.Config, commit_info: dict[str, Any]) -> None:
    """The commit alone; branch names and times of the working copy say nothing."""
    for key in set(commit_info) - {"id", "dirty"}:
        del commit_info[key]


@pytest.fixture
def peak_memory_gb() -> Any:
    """A function that returns the largest memory this process ever held [GB]; for a true figure run the case alone."""
    return lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
