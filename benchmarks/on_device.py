"""All that has to be done once on a GPU, in one go: benchmarks, tests, both backends, memory checks, validation.

    python benchmarks/on_device.py OUT [--minutes 5] [--data FOLDER] [--only STEP ...]

The benchmarks come first and run alone; everything else runs side by side, each step in a process of its own, which may
fail without stopping the others and writes OUT/<step>.log. It works in a checkout without an installation, as on a
borrowed machine (PYTHONPATH is set here); pytest and pydicom have to be there. `--data` is the folder of measured data
for the validation. OUT/summary.json says what ran, for how long and how it ended, and on what.
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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from processor import gpu

ROOT = Path(__file__).resolve().parents[1]
PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")
CASES = ("mc", "water-truebeam", "water-agility", "literature", "scatter-factors", "analytic")
"""Of the validation, the longest first."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do: its name, its command, and whether nothing else may run meanwhile."""

    name: str
    command: tuple[str, ...]
    alone: bool = False


def steps(out: Path, data: Path | None) -> list[Step]:
    """All steps."""
    spinedose = (sys.executable, "-m", "spinedose", "validate", "--backend", "cuda", "-q")
    where = () if data is None else ("--data", str(data))
    sanitizer = (shutil.which("compute-sanitizer") or "compute-sanitizer", "--error-exitcode", "9")
    kernels = (sys.executable, "tests/cuda/sanitized.py", "device")
    timed = (*PYTEST, "benchmarks/test_gpu.py", "--benchmark-only", "--benchmark-json", str(out / "gpu.json"))
    return [
        Step("gpu-benchmarks", timed, alone=True),
        Step("demo", (sys.executable, str(Path(__file__).resolve()), str(out), "--demo")),
        Step("parity", (*PYTEST, "-s", "-k", "device", "tests/cuda/test_parity.py")),
        Step("stages", (*PYTEST, "-k", "([cuda- or [cuda]) and not on-host", "tests/stages")),
        Step("processes", (*PYTEST, "tests/cuda/test_device.py", "tests/cuda/test_budget.py")),
        *(
            Step(f"validate-{case}", (*spinedose, *where, "--case", case, "-o", str(out / f"{case}.json")))
            for case in CASES
        ),
        Step("memcheck", (*sanitizer, "--tool", "memcheck", *kernels)),
        Step("initcheck", (*sanitizer, "--tool", "initcheck", *kernels)),
    ]  # fmt: skip


def main() -> None:
    """Run the steps within the time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--data", type=Path)
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

    def do(step: Step) -> None:
        summary["steps"][step.name] = run(step, out, end - time.monotonic())
        print(step.name, summary["steps"][step.name], flush=True)
        (out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")

    chosen = [step for step in steps(out, given.data) if not given.only or step.name in given.only]
    for step in chosen:
        if step.alone:
            do(step)
    together = [step for step in chosen if not step.alone]
    with ThreadPoolExecutor(len(together) or 1) as pool:
        list(pool.map(do, together))
    print(json.dumps(summary, indent=1))


def run(step: Step, out: Path, left_s: float) -> dict[str, Any]:
    """How a step ended, and how long it took."""
    if left_s < 5:
        return {"ended": "no time left"}
    paths = (ROOT / "src", ROOT / "tests", ROOT / "tests" / "cuda", ROOT / "benchmarks")
    path = os.pathsep.join([*map(str, paths), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "SPINEDOSE_REQUIRE_CUDA": "1", "PYTHONUNBUFFERED": "1"}
    start = time.monotonic()
    with (out / f"{step.name}.log").open("w", encoding="utf-8") as log:
        try:
            code = subprocess.run(
                step.command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, timeout=left_s,
                check=False,
            ).returncode  # fmt: skip
            ended = "well" if code == 0 else f"code {code}"
        except subprocess.TimeoutExpired:
            ended = f"stopped after {left_s:.0f} s"
        except OSError as error:
            ended = f"not started: {error.strerror}"
    return {"ended": ended, "seconds": round(time.monotonic() - start, 1)}


def machine() -> dict[str, Any]:
    """Device, driver, and versions."""
    found = {"python": platform.python_version(), "cpu_threads": os.cpu_count(), "gpu": gpu()}
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
