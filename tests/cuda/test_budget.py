"""Every kernel compiles for every GPU without a warning, within its budget of registers; no GPU is needed."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import nvrtc
import pytest

from spinedose.backends.cuda.backend import KERNELS, kernel_source

BUDGET = tomllib.loads(Path(__file__).with_name("budget.toml").read_text(encoding="utf-8"))

pytestmark = [
    pytest.mark.nvrtc,
    pytest.mark.skipif(
        nvrtc.library() is None and os.environ.get("SPINEDOSE_REQUIRE_NVRTC") != "1",
        reason="needs NVRTC: pip install 'spinedose[cuda-test]'",
    ),
]


@pytest.mark.parametrize("capability", BUDGET["capabilities"])
@pytest.mark.parametrize("file", KERNELS)
def test_kernels_stay_within_their_budget(file: str, capability: str) -> None:
    found = nvrtc.usage(kernel_source(file), f"{file}.cu", capability)
    assert set(found) == set(KERNELS[file])
    for kernel, usage in found.items():
        assert usage.registers <= BUDGET["registers"][kernel], kernel
        assert (usage.stack_bytes, usage.spilled_bytes) == (0, 0), kernel
        assert (usage.doubles > 0) == (kernel in BUDGET["doubles"]), kernel


def test_the_budget_names_the_kernels_that_there_are() -> None:
    assert set(BUDGET["registers"]) == {kernel for kernels in KERNELS.values() for kernel in kernels}


def test_a_double_is_seen() -> None:
    code = 'extern "C" __global__ void half(float* x) { x[threadIdx.x] = 0.1 * x[threadIdx.x]; }\n'
    assert nvrtc.usage(code, "half.cu", "90")["half"].doubles > 0


def test_a_warning_is_an_error() -> None:
    code = 'extern "C" __global__ void idle(float* x) { int unused; x[0] = 1.0f; }\n'
    with pytest.raises(nvrtc.CompileError, match="never referenced"):
        nvrtc.usage(code, "idle.cu", "90")


def test_a_mistake_is_named_with_its_line() -> None:
    with pytest.raises(nvrtc.CompileError, match=r"wrong\.cu\(2\): error"):
        nvrtc.usage('extern "C" __global__ void wrong(float* x) {\n    x[0] = y; }\n', "wrong.cu", "90")
