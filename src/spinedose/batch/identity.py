"""What the numbers of a result depend on besides the patient and the scenario: this program, and its data."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from spinedose import _resources
from spinedose._version import __version__

WITHOUT_INFLUENCE = frozenset(
    {
        "cli",
        "doctor",
        "demo",
        "report",
        "validate",
        "record",
        "agreement",
        "commission",
        "measurements",
        "ideal",
        "curve_judging",
    }
)
"""Rooms whose code no dose passes through; a change in them leaves results valid. That none of the others uses them is
tested from the syntax tree."""


@cache
def program() -> dict[str, str]:
    """Version of spinedose, and SHA-256 of the code and the data that doses are computed with.

    A version alone would not tell two checkouts apart, and a results folder would mix their numbers in silence. Beam
    data are not in it: those of the machines that a plan uses count for that plan (`files_digest` of a patient).
    """
    package = Path(__file__).resolve().parents[1]
    code = [
        path
        for path in sorted(package.rglob("*.py"))
        if path.relative_to(package).parts[0].removesuffix(".py") not in WITHOUT_INFLUENCE
    ]
    kernels = _resources.folder("kernels")
    data = _resources.folder("beam_data")
    machines = {path.parent for path in data.glob("*/machine.toml")}
    others = [path for path in _files(data) if path.parent not in machines]
    return {
        "version": __version__,
        "code": tree_digest(package, code),
        "kernels": tree_digest(kernels, _files(kernels)),
        "data": tree_digest(data, others),
    }


def tree_digest(root: Path, files: list[Path]) -> str:
    """SHA-256 over names and contents of files; line ends of text count alike, as for machines (`read_machine`)."""
    whole = hashlib.sha256()
    for path in files:
        content = path.read_bytes()
        if path.suffix != ".npz":
            content = content.replace(b"\r\n", b"\n")
        whole.update(path.relative_to(root).as_posix().encode() + b"\0" + hashlib.sha256(content).digest())
    return whole.hexdigest()


def versions() -> dict[str, Any]:
    """Versions that are noted with a result, but are not in its key: what they change is rounding."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, Any] = {"python": platform.python_version()}
    for name in ("numpy", "scipy", "numba", "pydicom", "cupy-cuda12x", "cupy-cuda13x"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _files(folder: Path) -> list[Path]:
    files = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return sorted(path for path in files if path.suffix != ".md")
