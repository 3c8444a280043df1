"""The unchanged text of a CUDA kernel file compiled by g++ and run on the host, with the face of `cupy.RawModule`."""

from __future__ import annotations

import ctypes
import hashlib
import math
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from device_numpy import DeviceArray, DeviceNumpy, prove_current

from spinedose.backends.base import Backend
from spinedose.backends.cuda.backend import CudaBackend
from spinedose.backends.select import select_backend
from spinedose.errors import BackendUnavailable

SHIM = Path(__file__).with_name("cuda_on_host.h")

WARNINGS = ("-Wall", "-Wextra", "-Wdouble-promotion", "-Wfloat-conversion", "-Werror", "-Wno-unknown-pragmas")
"""`-Wdouble-promotion` finds literals without f."""

BUILDS = {
    "exact": ("-O2", "-ffp-contract=off"),
    "fused": ("-O2", "-march=native", "-ffp-contract=fast"),
}
"""Without fused multiply-add, as numba rounds, and with it, as nvcc does."""

MOST_THREADS, MOST_BLOCKS = 1024, (2**31 - 1, 65535, 65535)
"""Of a block, and of a grid along x, y, z: the limits of every device (CUDA C++ Programming Guide)."""

ENTRY = re.compile(r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\([^)]*\)\s*)?(\w+)\s*\(')


def kernels_in(code: str) -> list[str]:
    """Names of the kernels of a text."""
    return ENTRY.findall(code)


def folder() -> Path:
    """Where compiled kernels are kept."""
    place = Path(
        os.environ.get("SPINEDOSE_HOST_KERNELS") or Path(tempfile.gettempdir()) / f"spinedose-host-{os.getuid()}"
    )
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    return place


class HostModule:
    """Kernels of a text.

    Parameters
    ----------
    code : str
        CUDA C++.
    flags : sequence of str
        For g++: one of `BUILDS`, or those of a sanitizer.
    """

    def __init__(self, code: str, flags: Sequence[str] = BUILDS["exact"]) -> None:
        names = kernels_in(code)
        text = code + "".join(f"\nHOST_KERNEL({name})" for name in names) + "\n"
        command = ["g++", "-std=c++20", "-fPIC", "-shared", "-pthread", *WARNINGS, *flags, "-include", str(SHIM)]
        key = hashlib.sha256("\0".join([text, SHIM.read_text(), *command]).encode()).hexdigest()[:24]
        library = folder() / f"{key}.so"
        if not library.exists():
            with tempfile.TemporaryDirectory(dir=folder()) as place:
                source, fresh = Path(place) / "kernels.cpp", Path(place) / "kernels.so"
                source.write_text(text)
                done = subprocess.run(
                    [*command, "-x", "c++", str(source), "-o", str(fresh)], capture_output=True, text=True, check=False
                )
                assert done.returncode == 0, done.stderr
                fresh.replace(library)  # whole or not at all, when several processes compile
        self.library = ctypes.CDLL(str(library))

    def get_function(self, name: str) -> HostKernel:
        return HostKernel(getattr(self.library, f"host_launch_{name}"))


class HostKernel:
    """A kernel: called with grid, block and arguments."""

    def __init__(self, launch: Any) -> None:
        self._launch = launch

    def __call__(self, grid: tuple[int, ...], block: tuple[int, ...], args: Sequence[Any]) -> None:
        assert min(*grid, *block) > 0 and math.prod(block) <= MOST_THREADS, "CUDA refuses such a launch"
        assert all(n <= most for n, most in zip(grid, MOST_BLOCKS, strict=False)), "CUDA refuses such a launch"
        boxes = [_box(value) for value in args]
        pointers = (ctypes.c_void_p * len(boxes))(*(ctypes.addressof(box) for box in boxes))
        self._launch(_three(grid), _three(block), pointers)


def _three(numbers: tuple[int, ...]) -> Any:
    return (ctypes.c_uint * 3)(*(*numbers, 1, 1)[:3])


def _box(value: Any) -> Any:
    """Memory that holds an argument: the address of an array, or a number or struct itself."""
    if isinstance(value, np.ndarray) and value.ndim:
        assert isinstance(value, DeviceArray), "a kernel cannot see an array of the host"
        prove_current("a kernel", value)
        return ctypes.c_void_p(value.ctypes.data)
    assert isinstance(value, np.generic | np.ndarray), f"{type(value)} has no size that a kernel knows"
    assert not isinstance(value, np.void), "CuPy cuts a struct off that is no array: see layout.Struct"
    return ctypes.create_string_buffer(value.tobytes(), value.nbytes)


def backend_on_host(build: str, **options: Any) -> CudaBackend:
    """The CUDA backend with numpy for CuPy and g++ for the compiler; skips where there is no g++."""
    if shutil.which("g++") is None:
        pytest.skip("needs g++")

    def compile_kernels(code: str, options: tuple[str, ...]) -> HostModule:
        return HostModule(code, BUILDS[build])

    return CudaBackend(
        DeviceNumpy(), compile_kernels, **({"device": "g++ on the host", "budget_bytes": 2**26} | options)
    )


def on_device(backend: Backend, array: Any) -> Any:
    """An array in the backend's own type."""
    return backend.xp.asarray(array) if isinstance(backend, CudaBackend) else np.asarray(array)


def device_is_wanted() -> bool:
    """Whether tests run on a GPU: there is one, or SPINEDOSE_REQUIRE_CUDA=1 says that there has to be."""
    if os.environ.get("SPINEDOSE_REQUIRE_CUDA") == "1":
        return True
    try:
        select_backend("cuda")
    except BackendUnavailable:
        return False
    return True


def backend_on_device() -> CudaBackend:
    """The CUDA backend on a GPU."""
    backend = select_backend("cuda")
    assert isinstance(backend, CudaBackend)
    return backend
