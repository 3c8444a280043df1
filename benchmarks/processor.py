"""What processor and GPU are called, for every result."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path


def processor() -> str:
    """The processor's own name where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def gpu() -> dict[str, str] | None:
    """Name, driver, memory and highest clocks of the first GPU, from NVIDIA's own tool; None where there is none."""
    query = "name,driver_version,memory.total,clocks.max.sm,clocks.max.memory"
    try:
        command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]
        first = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return None
    return dict(zip(query.split(","), (part.strip() for part in first.split(",")), strict=True))
