"""NVIDIA's run-time compiler through its C interface: it compiles for any GPU, and needs none."""

from __future__ import annotations

import ctypes
import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class CompileError(AssertionError):
    """The compiler's log."""


@dataclass(frozen=True)
class Usage:
    """What a kernel takes."""

    registers: int
    stack_bytes: int
    spilled_bytes: int
    doubles: int


def library() -> ctypes.CDLL | None:
    """The library of the wheel `nvidia-cuda-nvrtc`; None where that is not installed."""
    spec = importlib.util.find_spec("nvidia")
    for place in spec.submodule_search_locations or () if spec else ():
        for path in sorted(Path(place).rglob("libnvrtc.so.*")):
            return ctypes.CDLL(str(path))
    return None


class Program:
    """A compiled text.

    Parameters
    ----------
    code, name : str
        CUDA C++ and its name in messages.
    options : sequence of str
        For the compiler.
    """

    def __init__(self, code: str, name: str, options: Sequence[str]) -> None:
        found = library()
        assert found is not None
        self._nvrtc, self._program = found, ctypes.c_void_p()
        self._nvrtc.nvrtcCreateProgram(
            ctypes.byref(self._program), code.encode(), name.encode(), ctypes.c_int(0), None, None
        )
        arguments = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        failed = self._nvrtc.nvrtcCompileProgram(self._program, ctypes.c_int(len(options)), arguments)
        self.log = self._text("ProgramLog")
        if failed or "warning" in self.log:  # not by -Werror, which NVRTC 13.0 does not know
            raise CompileError(f"{name} {options}:\n{self.log}")

    def _text(self, kind: str) -> str:
        size = ctypes.c_size_t()
        getattr(self._nvrtc, f"nvrtcGet{kind}Size")(self._program, ctypes.byref(size))
        text: Any = ctypes.create_string_buffer(size.value)
        getattr(self._nvrtc, f"nvrtcGet{kind}")(self._program, text)
        return str(text.value.decode())

    @property
    def ptx(self) -> str:
        return self._text("PTX")


def usage(code: str, name: str, capability: str, options: Sequence[str] = ()) -> dict[str, Usage]:
    """What each kernel takes on GPUs of a compute capability such as `90`."""
    options = ("--std=c++17", *options)
    binary = Program(code, name, (f"--gpu-architecture=sm_{capability}", "--ptxas-options=-v", *options))
    ptx = Program(code, name, (f"--gpu-architecture=compute_{capability}", *options)).ptx
    doubles = {
        body.split("(")[0].strip(): len(re.findall(r"\.f64\b", body)) for body in ptx.split(".visible .entry ")[1:]
    }
    report = re.finditer(
        r"entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores.*?Used (\d+) registers",
        binary.log,
        re.S,
    )
    return {m[1]: Usage(int(m[4]), int(m[2]), int(m[3]), doubles[m[1]]) for m in report}
