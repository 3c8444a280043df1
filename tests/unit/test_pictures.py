"""Pictures: written whole, of the right plane and orientation, and refused with a reason."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from spinedose.density import CtImage
from spinedose.errors import InvalidInput, SpinedoseError
from spinedose.grid import Grid, Volume
from spinedose.report.pictures import _View, draw_dose
from spinedose.structures import Structure, StructureSet

GRID = Grid((-7.75, -5.75, -3.75), (0.5, 0.5, 0.5), (16, 24, 32))


def ball(radius):
    x, y, z = GRID.axes_cm
    return np.sqrt(x[None, None, :] ** 2 + y[None, :, None] ** 2 + z[:, None, None] ** 2) < radius


@pytest.fixture
def ct():
    return CtImage(Volume(GRID, np.where(ball(5), 40, -1000).astype(np.int16)))


@pytest.fixture
def dose():
    return Volume(GRID, np.where(ball(2), 24.0, 1.0).astype(np.float32))


@pytest.fixture
def structures():
    angle = 2 * np.pi * np.arange(60) / 60
    rings = tuple(
        np.column_stack([1.5 * np.cos(angle), 1.5 * np.sin(angle), np.full(60, z)]) for z in (-1.0, -0.5, 0.0, 0.5, 1.0)
    )
    return StructureSet((Structure(1, "PTV", "PTV", rings), Structure(2, "empty")))


def is_png(path):
    return path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_four_pictures_are_written(tmp_path, dose, ct, structures):
    pytest.importorskip("matplotlib")
    written = draw_dose(dose, ct, structures, tmp_path / "new", prescription_gy=24.0)
    assert [path.name for path in written] == ["axial.png", "sagittal.png", "coronal.png", "dvh.png"]
    assert all(is_png(path) for path in written)
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == sorted(p.name for p in written)


def test_without_structures_there_is_no_histogram(tmp_path, dose, ct):
    pytest.importorskip("matplotlib")
    written = draw_dose(dose, ct, None, tmp_path)
    assert [path.name for path in written] == ["axial.png", "sagittal.png", "coronal.png"]


@pytest.mark.parametrize(
    ("axes", "expected"),
    [((0, 1, 2), [0.6, 0.2]), ((1, 2, 0), [0.2, -0.4]), ((0, 2, 1), [0.6, -0.4])],
    ids=["axial", "sagittal", "coronal"],
)
def test_a_bright_spot_appears_where_it_is(axes, expected):
    # A spot at (0.6, 0.2, -0.4) cm, seen in the plane through it: the picture's two coordinates are the patient's.
    spot = np.array([0.6, 0.2, -0.4])
    low, high = np.array([-2.0, -1.5, -1.0]), np.array([2.0, 1.5, 1.0])
    view = _View(axes, low, high, float(spot[axes[2]]), 0.1)
    x, y, z = view.grid.axes_cm
    distance = np.sqrt(
        (x[None, None, :] - spot[0]) ** 2 + (y[None, :, None] - spot[1]) ** 2 + (z[:, None, None] - spot[2]) ** 2
    )
    picture = view.flat(np.exp(-(distance**2)))
    row, column = np.unravel_index(np.argmax(picture), picture.shape)
    left, right, bottom, top = view.box
    found = [
        left + (column + 0.5) * (right - left) / picture.shape[1],
        bottom + (row + 0.5) * (top - bottom) / picture.shape[0],
    ]
    assert found == pytest.approx(expected, abs=0.051)


def test_what_cannot_be_drawn_is_refused(tmp_path, dose, ct, structures):
    pytest.importorskip("matplotlib")
    with pytest.raises(InvalidInput, match="outside the CT"):
        draw_dose(dose, ct, structures, tmp_path, point_cm=(99.0, 0.0, 0.0))
    with pytest.raises(InvalidInput, match="prescribed"):
        draw_dose(dose, ct, structures, tmp_path, prescription_gy=-1.0)
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(InvalidInput, match="cannot be written"):
        draw_dose(dose, ct, structures, blocked)


def test_without_matplotlib_the_extra_is_named(tmp_path, dose, ct, structures, monkeypatch):
    for name in [m for m in sys.modules if m.startswith("matplotlib")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SpinedoseError, match=r"spinedose\[report\]"):
        draw_dose(dose, ct, structures, tmp_path)
