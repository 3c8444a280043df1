"""Dose-volume histograms against solids and doses whose histogram is known in closed form."""

from __future__ import annotations

import numpy as np
import pytest

from spinedose.compare.dvh import dvh
from spinedose.errors import InvalidInput
from spinedose.grid import Grid, Volume
from spinedose.structures import Structure


def box_structure(x0, x1, y0, y1, z0, z1, spacing=0.2):
    heights = np.arange(z0 + spacing / 2, z1, spacing)
    corners = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
    return Structure(1, "box", contours_cm=tuple(np.column_stack([corners, np.full(4, z)]) for z in heights))


def cylinder(radius, z0, z1, spacing=0.2, n=360):
    angle = 2 * np.pi * np.arange(n) / n
    outline = np.column_stack([radius * np.cos(angle), radius * np.sin(angle)])
    heights = np.arange(z0 + spacing / 2, z1, spacing)
    return Structure(1, "cylinder", contours_cm=tuple(np.column_stack([outline, np.full(n, z)]) for z in heights))


def ramp(slope_gy_per_cm, axis, spacing=0.25, shape=(40, 48, 48)):
    grid = Grid((-5.875, -5.875, -4.875), (spacing,) * 3, shape)
    along = grid.axes_cm[axis]
    index = [None, None, None]
    index[2 - axis] = slice(None)
    values = np.broadcast_to((10 + slope_gy_per_cm * along)[tuple(index)], grid.shape)
    return Volume(grid, np.array(values))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_box_in_a_ramp_has_a_straight_histogram(axis):
    # Dose 10 + 2 u along an axis, box 2 x 2 x 2 cm around 0: doses 8 to 12, volume above d is 8 (12 - d) / 4.
    curve = dvh(ramp(2.0, axis), box_structure(-1, 1, -1, 1, -1, 1))
    assert curve.volume_cm3 == pytest.approx(8.0)
    assert curve.covered_cm3[-1] == pytest.approx(8.0, rel=1e-5)
    assert curve.mean_gy == pytest.approx(10.0, abs=1e-4)
    assert curve.dose_at_percent(50) == pytest.approx(10.0, abs=0.05)
    # Samples are at most 8^(1/3)/10^(4/3) = 0.093 cm apart; a dose step of 0.19 Gy, so 2 % of 8 cm^3 either way.
    np.testing.assert_allclose(curve.volume_at_dose([7.9, 9.0, 11.0, 12.1]), [8.0, 6.0, 2.0, 0.0], atol=0.4)
    assert curve.maximum_gy == pytest.approx(12.0, abs=0.1)


def test_a_cylinder_in_a_ramp_along_its_axis():
    # Hottest 5 % of a 6 cm long cylinder in 10 + 3 z: the top 0.3 cm, dose 10 + 3 * 2.7.
    curve = dvh(ramp(3.0, 2), cylinder(0.45, -3, 3))
    assert curve.volume_cm3 == pytest.approx(np.pi * 0.45**2 * 6, rel=1e-4)
    assert curve.dose_at_percent(5) == pytest.approx(18.1, abs=0.05)
    assert curve.dose_at_volume(0.03) == pytest.approx(10 + 3 * (3 - 0.03 / (np.pi * 0.45**2)), abs=0.06)


def test_a_small_structure_is_sampled_finely():
    # A 3 mm rod across a ramp, in voxels of 2.5 mm: samples of 0.2 mm see at least 14 different doses.
    assert len(dvh(ramp(1.0, 0), cylinder(0.15, -1, 1)).dose_gy) >= 14


def test_a_structure_partly_outside_the_grid_is_reported():
    # The grid ends at z = 5.0; a quarter of the box is above.
    curve = dvh(ramp(1.0, 0), box_structure(-1, 1, -1, 1, 2, 6))
    assert curve.covered_cm3[-1] == pytest.approx(12.0, rel=1e-4)
    assert curve.volume_cm3 == pytest.approx(16.0)
    assert "25.0 %" in curve.warnings[0]


def test_what_has_no_histogram_is_refused():
    with pytest.raises(InvalidInput, match="no volume"):
        dvh(ramp(1.0, 0), Structure(1, "empty"))
    with pytest.raises(InvalidInput, match="outside"):
        dvh(ramp(1.0, 0), box_structure(20, 21, 0, 1, 0, 1))
    with pytest.raises(InvalidInput, match="hottest"):
        dvh(ramp(1.0, 0), box_structure(0, 1, 0, 1, 0, 1)).dose_at_volume(2.0)
