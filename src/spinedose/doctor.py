"""Is everything here that spinedose needs: libraries, data, devices, a place for compiled code?"""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from spinedose import _cache, _resources
from spinedose._version import __version__
from spinedose.errors import SpinedoseError

NEEDED = ("numpy", "scipy", "numba", "pydicom", "typer", "rich", "platformdirs")
"""Libraries without which spinedose does not run."""

OPTIONAL = {"matplotlib": "pictures and reports: pip install 'spinedose[report]'"}
"""Libraries that add something, and what."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Parameters
    ----------
    name : str
        What it is.
    is_fine : bool or None
        Whether it is in order; None when it is absent and need not be there.
    detail : str
        Version, place, or why it is not in order.
    """

    name: str
    is_fine: bool | None
    detail: str


def examine() -> tuple[Finding, ...]:
    """Look at everything; nothing is raised and nothing is changed.

    Returns
    -------
    tuple of Finding
        spinedose can compute when none of them has `is_fine` False.
    """
    findings = [
        Finding("spinedose", True, __version__),
        Finding("Python", True, f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
    ]
    findings += [_library(name) for name in NEEDED]
    findings += [_library(name, purpose) for name, purpose in OPTIONAL.items()]
    findings += [_cpu(), _cuda(), _compiled(), _calibrations(), _kernels(), _machines(), _curves(), _validator()]
    return tuple(findings)


def _library(name: str, purpose: str = "") -> Finding:
    """A library by its installed version; it is not imported."""
    try:
        return Finding(name, True, metadata.version(name))
    except metadata.PackageNotFoundError:
        return Finding(name, None if purpose else False, f"not installed ({purpose or 'needed'})")


def _cpu() -> Finding:
    """The CPU backend, by importing the compiler it needs."""
    try:
        import numba
    except Exception as error:  # whatever a broken binary raises is the finding
        return Finding("backend cpu", False, f"numba cannot be imported ({error})")
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Finding("backend cpu", True, f"usable; {numba.config.NUMBA_NUM_THREADS} threads on {count} processors")


def _cuda() -> Finding:
    """The CUDA backend, by compiling its kernels for the first GPU."""
    from spinedose.backends.select import select_backend

    try:
        return Finding("backend cuda", True, f"usable; {select_backend('cuda').device}")
    except SpinedoseError as error:
        return Finding("backend cuda", None, str(error))


def _compiled() -> Finding:
    """Where numba keeps compiled code, so that only the first run compiles."""
    from numba.core import config

    place = Path(config.CACHE_DIR or Path(__file__).parent / "backends" / "cpu" / "__pycache__")
    if _is_writable(place):
        return Finding("compiled code", True, f"kept in {place}")
    return Finding("compiled code", None, f"{place} cannot be written to; numba falls back to the user's cache")


def _calibrations() -> Finding:
    """Where the engine's output in the reference geometry is remembered."""
    place = _cache.cache_folder()
    if _is_writable(place):
        return Finding("calibrations", True, f"kept in {place}")
    return Finding("calibrations", None, f"{place} cannot be written to; they are computed at every run")


def _is_writable(folder: Path) -> bool:
    """Whether files can be made in a folder, which itself may still have to be made."""
    nearest = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    return nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)


def _kernels() -> Finding:
    """The folder of CUDA sources."""
    try:
        return Finding("kernels", True, str(_resources.folder("kernels")))
    except SpinedoseError as error:
        return Finding("kernels", False, str(error))


def _machines() -> Finding:
    """Every machine file, read and proven."""
    from spinedose.machine import list_machines, read_machine

    try:
        names = list_machines()
        beams = sum(len(read_machine(name).beams) for name in names)
    except SpinedoseError as error:
        return Finding("machines", False, str(error))
    if not names:
        return Finding("machines", False, "there are no beam data")
    return Finding("machines", True, f"{', '.join(names)}; {beams} beams")


def _curves() -> Finding:
    """Every density curve, read and proven."""
    from spinedose.density import list_curves, read_curve

    try:
        names = list_curves()
        for name in names:
            read_curve(name)
    except SpinedoseError as error:
        return Finding("density curves", False, str(error))
    return Finding("density curves", bool(names), ", ".join(names) or "there are none")


def _validator() -> Finding:
    """David Clunie's validator, with which the tests check written files."""
    place = shutil.which("dciodvfy")
    return Finding(
        "dciodvfy", True if place else None, place or "not installed (only tests use it; Debian: dicom3tools)"
    )
