"""The names that spinedose promises, and that asking for them is quick."""

from __future__ import annotations

import subprocess
import sys
import types

import pytest

import spinedose

FACE = {
    "Assignment",
    "Beam",
    "Check",
    "CtImage",
    "Dose",
    "Grid",
    "InvalidInput",
    "MachineChange",
    "Plan",
    "Settings",
    "Setup",
    "SpinedoseError",
    "Structure",
    "StructureSet",
    "UnknownMachine",
    "UnsupportedPlan",
    "Volume",
    "__version__",
    "check",
    "compute_dose",
    "irradiate",
    "list_machines",
    "machine",
    "prepare_patient",
    "read_ct",
    "read_dose",
    "read_plan",
    "read_structures",
}

HEAVY = ("numba", "scipy", "pydicom", "matplotlib", "rich", "cupy")
"""Libraries that take a good part of the half second in which `import spinedose` must be done."""


def _run(code: str) -> str:
    """What fresh Python prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_face_is_pinned() -> None:
    assert set(spinedose.__all__) == FACE
    assert len(spinedose.__all__) == len(FACE)
    assert dir(spinedose) == sorted(FACE)


@pytest.mark.parametrize("name", sorted(FACE))
def test_every_name_is_there(name: str) -> None:
    assert getattr(spinedose, name) is not None


def test_other_names_are_not() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        spinedose.nonsense  # noqa: B018
    assert not hasattr(spinedose, "_nonsense")


def test_rooms_are_functions_whichever_way_they_were_loaded() -> None:
    """The rooms `machine` and `check` have the same names as the functions, so importing them must not hide these."""
    for first in ("import spinedose", "import spinedose.machine", "from spinedose.machine import list_machines"):
        code = f"""
{first}
import spinedose
try:
    spinedose.machine("no such machine")
except spinedose.UnknownMachine:
    print("asked")
"""
        assert _run(code) == "asked", first
    for first in ("import spinedose", "import spinedose.check", "from spinedose.check import Check"):
        code = f"""
{first}
import spinedose
try:
    spinedose.check()
except spinedose.InvalidInput:
    print("asked", issubclass(spinedose.Check, object))
"""
        assert _run(code) == "asked True", first
    assert isinstance(spinedose.machine, types.ModuleType)
    assert callable(spinedose.check)
    assert callable(spinedose.machine)


def test_importing_loads_nothing_heavy() -> None:
    loaded = _run(f"import sys, spinedose; print([name for name in {HEAVY} if name in sys.modules])")
    assert loaded == "[]"
    assert _run("import sys, spinedose; print('numpy' in sys.modules)") == "False"


@pytest.mark.parametrize("arguments", [["--help"], ["dose", "--help"], ["check", "--help"], ["--version"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    code = f"""
import sys
sys.argv = ["spinedose", *{arguments}]
from spinedose.cli import main
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
print([name for name in {(*HEAVY, "numpy")} if name in sys.modules])
"""
    assert _run(code).splitlines()[-1] == "[]"


def test_errors_raised_are_errors_of_the_face() -> None:
    from spinedose import errors

    assert spinedose.SpinedoseError is errors.SpinedoseError
    assert issubclass(spinedose.InvalidInput, spinedose.SpinedoseError)


def test_the_version_is_the_installed_one() -> None:
    from importlib import metadata

    assert spinedose.__version__ == metadata.version("spinedose")
