"""All that has to be done once on a GPU, in one go: tests, benchmarks, both backends, memory checks, validation.

    python benchmarks/on_device.py OUT [--minutes 8] [--only STEP ...]

Each step runs in a process of its own, writes OUT/<step>.log, and may fail without stopping the next; what is left of
the time goes to the validation, which comes last. It works in a checkout without an installation, as on a borrowed
machine (PYTHONPATH is set here); pytest and pydicom have to be there. OUT/summary.json says what ran, for how long and
how it ended, and on what.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")
WATCHED = "tests/cuda/test_parity.py::test_every_stage_is_that_of_the_cpu[device]"
"""Every kernel but gamma, on a small plan."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do: its name, command, and the most it may take [s]."""

    name: str
    command: tuple[str, ...]
    most_s: float


def steps(out: Path) -> list[Step]:
    """All steps, the most important first."""
    here = (sys.executable, str(Path(__file__).resolve()))
    spinedose = (sys.executable, "-m", "spinedose")
    sanitizer = shutil.which("compute-sanitizer") or "compute-sanitizer"
    return [
        Step("parity", (*PYTEST, "-s", "-x", "-k", "device", "tests/cuda/test_parity.py"), 90),
        Step("demo", (*here, str(out), "--demo"), 90),
        Step(
            "gpu-benchmarks",
            (*PYTEST, "benchmarks/test_gpu.py", "--benchmark-only", "--benchmark-json", str(out / "gpu.json")),
            150,
        ),
        Step(
            "tests",
            (*PYTEST, "-k", "(cuda or device) and not host and not exact and not fused", "tests/stages", "tests/cuda"),
            180,
        ),
        Step("memcheck", (sanitizer, "--tool", "memcheck", "--error-exitcode", "9", *PYTEST, WATCHED), 90),
        Step("racecheck", (sanitizer, "--tool", "racecheck", "--error-exitcode", "9", *PYTEST, WATCHED), 60),
        Step("validate", (*spinedose, "validate", "--backend", "cuda", "-q", "-o", str(out / "validate.json")), 600),
    ]


def main() -> None:
    """Run the steps within the time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--only", nargs="+", default=[])
    parser.add_argument("--demo", action="store_true", help="only compare both backends on the demo case")
    given = parser.parse_args()
    out = given.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    if given.demo:
        (out / "demo.json").write_text(json.dumps(demo_on_both(), indent=1) + "\n", encoding="utf-8")
        return
    end = time.monotonic() + 60 * given.minutes
    summary: dict[str, Any] = {"machine": machine(), "steps": {}}
    for step in steps(out):
        if given.only and step.name not in given.only:
            continue
        summary["steps"][step.name] = run(step, out, end - time.monotonic())
        (out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
        print(step.name, summary["steps"][step.name], flush=True)
    print(json.dumps(summary, indent=1))


def run(step: Step, out: Path, left_s: float) -> dict[str, Any]:
    """How a step ended, and how long it took."""
    limit_s = min(step.most_s, left_s)
    if limit_s < 5:
        return {"ended": "no time left"}
    paths = (ROOT / "src", ROOT / "tests", ROOT / "tests" / "cuda", ROOT / "benchmarks")
    path = os.pathsep.join([*map(str, paths), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "SPINEDOSE_REQUIRE_CUDA": "1", "PYTHONUNBUFFERED": "1"}
    start = time.monotonic()
    with (out / f"{step.name}.log").open("w", encoding="utf-8") as log:
        try:
            code = subprocess.run(
                step.command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, timeout=limit_s,
                check=False,
            ).returncode  # fmt: skip
            ended = "well" if code == 0 else f"code {code}"
        except subprocess.TimeoutExpired:
            ended = f"stopped after {limit_s:.0f} s"
        except OSError as error:
            ended = f"not started: {error.strerror}"
    return {"ended": ended, "seconds": round(time.monotonic() - start, 1)}


def machine() -> dict[str, Any]:
    """Device, driver, and versions."""
    query = "name,driver_version,memory.total,clocks.max.sm,clocks.max.memory"
    found: dict[str, Any] = {"python": platform.python_version(), "cpu_threads": os.cpu_count()}
    try:
        command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        found["gpu"] = dict(zip(query.split(","), (part.strip() for part in lines[0].split(",")), strict=True))
    except (OSError, subprocess.CalledProcessError) as error:
        found["gpu"] = str(error)
    for name in ("cupy", "numpy", "numba", "scipy"):
        found[name] = _version(name)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    return {**found, "commit": commit.strip()}


def _version(name: str) -> str:
    try:
        return str(__import__(name).__version__)
    except ImportError as error:
        return f"absent: {error}"


def demo_on_both() -> dict[str, Any]:
    """How far the doses of the demo case are apart, percent of the maximum; and whether a GPU's bits stay the same."""
    import numpy as np

    from spinedose.demo import demo_case
    from spinedose.engine import compute_dose

    case, doses = demo_case(), []
    for backend in ("cpu", "cuda", "cuda"):
        start = time.perf_counter()
        dose = compute_dose(case.plan, case.ct, structures=case.structures, backend=backend)
        doses.append((dose.values, dose.metadata.device, round(time.perf_counter() - start, 2)))
    (cpu, *_), (gpu, *_), (again, *_) = doses
    error = 100 * np.abs(gpu - cpu) / cpu.max()
    return {
        "devices": [one[1] for one in doses],
        "seconds": [one[2] for one in doses],
        "p999_percent": float(np.quantile(error, 0.999)),
        "rms_percent": float(np.sqrt(np.mean(error**2))),
        "largest_percent": float(error.max()),
        "same_bits_again": bool(np.array_equal(gpu, again)),
    }


if __name__ == "__main__":
    main()
