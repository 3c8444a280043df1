"""`kernels` and `beam_data` are found in a wheel and in an editable install."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from spinedose import _resources
from spinedose.errors import SpinedoseError

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", ["kernels", "beam_data"])
def test_this_install_has_it(name: str) -> None:
    assert (_resources.folder(name) / "README.md").is_file()


def test_what_is_missing_is_named() -> None:
    with pytest.raises(SpinedoseError, match="'nonsense' was not found"):
        _resources.folder("nonsense")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of this checkout, made without network."""
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("hatchling is not installed (it is in the test extra)")
    if not (ROOT / "pyproject.toml").is_file():
        pytest.skip("the tests do not run from a checkout")
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(target)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (found,) = target.glob("*.whl")
    return found


def test_the_wheel_carries_all_data(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if not name.endswith("/")}
    assert "spinedose/py.typed" in packed
    assets = list((ROOT / "src" / "spinedose" / "report" / "assets").iterdir())
    assert assets and all(f"spinedose/report/assets/{path.name}" in packed for path in assets)
    for folder in ("kernels", "beam_data"):
        files = [path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
        missing = [path for path in files if f"spinedose/{path.relative_to(ROOT).as_posix()}" not in packed]
        assert files
        assert not missing


def test_code_from_the_wheel_finds_them_inside_itself(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
from spinedose import _resources
from spinedose.density import read_curve
print(_resources.folder("kernels")); print(_resources.folder("beam_data")); print(read_curve().name)
"""
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    kernels, beam_data, curve = done.stdout.split()
    assert Path(kernels).resolve() == (tmp_path / "spinedose" / "kernels").resolve()
    assert Path(beam_data).resolve() == (tmp_path / "spinedose" / "beam_data").resolve()
    assert curve == "generic"
