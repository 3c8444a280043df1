"""Kernels under the sanitizers of g++: memory, undefined behaviour, races of CUDA threads. `.ci/run` runs these."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent

SANITIZERS = {
    "address,undefined": (("libasan.so", "libubsan.so"), {"ASAN_OPTIONS": "detect_leaks=0"}),
    "thread": (("libtsan.so",), {"TSAN_OPTIONS": "ignore_noninstrumented_modules=1:exitcode=66"}),
}
"""Libraries to load first, and settings."""

pytestmark = [
    pytest.mark.sanitizer,
    pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++"),
]


def run(what: str, sanitizer: str) -> subprocess.CompletedProcess[str]:
    libraries, settings = SANITIZERS[sanitizer]
    places = [
        subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in libraries
    ]
    flags = ("-g", "-O1", "-ffp-contract=off", f"-fsanitize={sanitizer}", "-fno-sanitize-recover=undefined")
    environment = {
        **os.environ,
        **settings,
        "LD_PRELOAD": " ".join(places),
        "PYTHONMALLOC": "malloc",
        "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "OPENBLAS_NUM_THREADS": "1",  # the sanitizer cannot follow the matrix library's own threads
    }
    command = [sys.executable, str(HERE / "sanitized.py"), what, *flags]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_kernels_are_clean(sanitizer: str) -> None:
    done = run("all", sanitizer)
    assert done.returncode == 0 and "ran to the end" in done.stdout, done.stderr[-4000:]


@pytest.mark.parametrize(
    ("fault", "sanitizer", "finding"),
    [
        ("past_the_end", "address,undefined", "heap-buffer-overflow"),
        ("lost_update", "thread", "data race"),
    ],
)
def test_planted_faults_are_found(fault: str, sanitizer: str, finding: str) -> None:
    done = run(fault, sanitizer)
    assert done.returncode != 0 and finding in done.stderr
