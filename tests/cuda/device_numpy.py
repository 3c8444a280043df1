"""numpy that is as strict as CuPy: arrays of the device and of the host do not mix, and only `get()` leads back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

UPLOADS = ("asarray", "array", "ascontiguousarray")
"""Functions that take arrays of the host."""


class DeviceArray(np.ndarray):
    """An array that says it lies on a device."""

    def get(self) -> np.ndarray:
        """A copy on the host."""
        return np.array(self, subok=False)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = (), **options: Any) -> Any:
        _refuse_host_arrays(ufunc.__name__, inputs, out)
        if out:
            options["out"] = tuple(_plain(one) for one in out)
        result = getattr(ufunc, method)(*(_plain(one) for one in inputs), **options)
        return _on_device(result)

    def __array_function__(self, function: Any, types: Any, args: Any, options: Any) -> Any:
        if function.__name__ not in UPLOADS:
            _refuse_host_arrays(function.__name__, args, tuple(options.values()))
        return _on_device(function(*_plain(args), **{name: _plain(value) for name, value in options.items()}))

    def __setitem__(self, key: Any, value: Any) -> None:
        _refuse_host_arrays("assignment", (value,))
        super().__setitem__(key, value)


class DeviceNumpy:
    """The functions of numpy, for arrays of the device."""

    def __getattr__(self, name: str) -> Any:
        found = getattr(np, name)
        if isinstance(found, type) or not callable(found):
            return DeviceFft() if name == "fft" else found

        def function(*args: Any, **options: Any) -> Any:
            if name not in UPLOADS:
                _refuse_host_arrays(name, args, tuple(options.values()))
            return _on_device(found(*args, **options))

        return function


class DeviceFft:
    """Fourier transforms, for arrays of the device."""

    def __getattr__(self, name: str) -> Any:
        def function(array: Any, *args: Any, **options: Any) -> Any:
            _refuse_host_arrays(name, (array,))
            return _on_device(getattr(np.fft, name)(_plain(array), *args, **options))

        return function


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_plain(one) for one in value)
    return value.view(np.ndarray) if isinstance(value, DeviceArray) else value


def _on_device(value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.ndim:
        return value.view(DeviceArray)
    return value


def _refuse_host_arrays(function: str, *arguments: Any) -> None:
    for value in _flat(arguments):
        if isinstance(value, np.ndarray) and not isinstance(value, DeviceArray) and value.ndim:
            raise TypeError(f"{function}: an array of the host where CuPy wants one of the device")


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        for one in value:
            yield from _flat(one)
    else:
        yield value
