"""numpy that is as strict as CuPy: arrays of devices and of the host do not mix, and only `get()` leads back."""

from __future__ import annotations

import threading
import weakref
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

UPLOADS = ("asarray", "array", "ascontiguousarray")
"""Functions that take arrays of the host."""


@dataclass
class Meter:
    """Memory of a made-up device: what arrays take now, the most they ever took, and how much there is."""

    limit_bytes: int
    live_bytes: int = 0
    most_bytes: int = 0

    def take(self, owner: np.ndarray) -> None:
        """Count an array until it is gone; out of memory when it does not fit."""
        if self.live_bytes + owner.nbytes > self.limit_bytes:
            raise MemoryError(f"{owner.nbytes} bytes, {self.limit_bytes - self.live_bytes} are free")
        self.live_bytes += owner.nbytes
        self.most_bytes = max(self.most_bytes, self.live_bytes)
        weakref.finalize(owner, self._give_back, owner.nbytes)

    def _give_back(self, size: int) -> None:
        self.live_bytes -= size

    @property
    def info(self) -> tuple[int, int]:
        """What is free, and how much there is."""
        return self.limit_bytes - self.live_bytes, self.limit_bytes


class Device:
    """One of several devices; the current one of a thread is that in whose context it is, or the one last used."""

    _of_thread = threading.local()

    def __init__(self, number: int) -> None:
        self.number = number

    @classmethod
    def current(cls) -> int:
        """Number of the calling thread's current device."""
        return getattr(cls._of_thread, "number", 0)

    def use(self) -> None:
        """Make it the current one."""
        Device._of_thread.number = self.number

    def __enter__(self) -> None:
        self._before = Device.current()
        self.use()

    def __exit__(self, *_: object) -> None:
        Device(self._before).use()


def _memory_info() -> tuple[int, int]:
    return (2**33, 2**33) if DeviceArray.meter is None else DeviceArray.meter.info


CUDA = SimpleNamespace(
    Device=Device,
    alloc_pinned_memory=bytearray,
    get_current_stream=lambda: SimpleNamespace(synchronize=lambda: None),
    runtime=SimpleNamespace(memGetInfo=_memory_info),
)
"""What a backend asks of `cupy.cuda`."""

POOL = SimpleNamespace(free_bytes=lambda: 0, used_bytes=lambda: 0, get_limit=lambda: 0, free_all_blocks=lambda: None)
"""What a backend asks of CuPy's memory pool."""


class DeviceArray(np.ndarray):
    """An array that says it lies on a device; where there is a meter, it counts, and so do steps by their names."""

    meter: ClassVar[Meter | None] = None
    steps: ClassVar[Counter[str]] = Counter()

    number: int
    """Of the device on which it lies."""

    def __array_finalize__(self, source: Any) -> None:
        is_view = isinstance(source, DeviceArray) and not self.flags.owndata
        self.number = source.number if is_view else Device.current()
        if self.meter is not None and self.flags.owndata:
            self.meter.take(self)

    def get(self, out: np.ndarray | None = None) -> np.ndarray:
        """A copy on the host."""
        if out is None:
            return np.array(self, subok=False)
        assert out.flags.c_contiguous and (out.shape, out.dtype) == (self.shape, self.dtype)
        out[...] = _plain(self)
        return out

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = (), **options: Any) -> Any:
        DeviceArray.steps[ufunc.__name__] += 1
        _refuse_other_arrays(ufunc.__name__, inputs, out)
        if out:
            options["out"] = tuple(_plain(one) for one in out)
        result = getattr(ufunc, method)(*(_plain(one) for one in inputs), **options)
        return _on_device(result)

    def __array_function__(self, function: Any, types: Any, args: Any, options: Any) -> Any:
        DeviceArray.steps[function.__name__] += 1
        if function.__name__ not in UPLOADS:
            _refuse_other_arrays(function.__name__, args, tuple(options.values()))
        return _on_device(function(*_plain(args), **{name: _plain(value) for name, value in options.items()}))

    def __setitem__(self, key: Any, value: Any) -> None:
        DeviceArray.steps["assignment"] += 1
        _refuse_other_arrays("assignment", (self, value))
        super().__setitem__(key, value)


class DeviceNumpy:
    """The functions of numpy, for arrays of the device."""

    def __getattr__(self, name: str) -> Any:
        if name in ("cuda", "get_default_memory_pool"):
            return CUDA if name == "cuda" else lambda: POOL
        found = getattr(np, name)
        if isinstance(found, type) or not callable(found):
            return DeviceFft() if name == "fft" else found

        def function(*args: Any, **options: Any) -> Any:
            DeviceArray.steps[name] += 1
            if name not in UPLOADS:
                _refuse_other_arrays(name, args, tuple(options.values()))
            return _on_device(found(*args, **options))

        return function


class DeviceFft:
    """Fourier transforms, for arrays of the device."""

    def __getattr__(self, name: str) -> Any:
        def function(array: Any, *args: Any, **options: Any) -> Any:
            DeviceArray.steps[name] += 1
            _refuse_other_arrays(name, (array,))
            if name.startswith("r") and array.flags.c_contiguous and array.ctypes.data % (2 * array.itemsize):
                raise ValueError(f"{name}: cuFFT wants real input where a complex number could begin")
            return _on_device(getattr(np.fft, name)(_plain(array), *args, **options))

        return function


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_plain(one) for one in value)
    return value.view(np.ndarray) if isinstance(value, DeviceArray) else value


def _on_device(value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.ndim:
        if DeviceArray.meter is not None and value.flags.owndata and not isinstance(value, DeviceArray):
            DeviceArray.meter.take(value)
        return value.view(DeviceArray)
    return value


def _refuse_other_arrays(function: str, *arguments: Any) -> None:
    for value in _flat(arguments):
        if isinstance(value, DeviceArray):
            prove_current(function, value)
        elif isinstance(value, np.ndarray) and value.ndim:
            raise TypeError(f"{function}: an array of the host where CuPy wants one of the device")


def prove_current(function: str, array: DeviceArray) -> None:
    """Refuse an array that lies on another device than the current one, as CuPy does without peer access."""
    if array.number != Device.current():
        raise ValueError(f"{function}: an array of device {array.number}, the current one is {Device.current()}")


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        for one in value:
            yield from _flat(one)
    else:
        yield value
