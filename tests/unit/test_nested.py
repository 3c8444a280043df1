"""Fine voxels in a box within a coarse grid."""

from __future__ import annotations

import numpy as np
import pytest

from spinedose import engine
from spinedose.backends.base import Moments
from spinedose.density import CtImage
from spinedose.engine import Settings, compute_dose
from spinedose.errors import InvalidInput
from spinedose.grid import Grid, Volume
from spinedose.nested import FineBox, Nest, fine_box_around
from spinedose.structures import Structure, StructureSet

GRID = Grid((0.5, 0.5, 0.5), (1.0, 1.0, 1.0), (4, 5, 6))
FEW = Settings(directions=400)

SAME = 0.005
"""Difference of dose between a box of fine voxels and a grid of them, share of the maximum: rays of the two start
elsewhere, and 400 directions ripple by as much (0.39 % rms found, 0.29 % with 1600)."""


def square(low: float, high: float, *heights: float) -> Structure:
    corner = [(low, low), (high, low), (high, high), (low, high)]
    return Structure(1, "Cord", "ORGAN", tuple(np.array([(x, y, z) for x, y in corner]) for z in heights))


def test_a_box_takes_the_coarse_voxels_that_it_touches() -> None:
    nest = Nest.of(GRID, FineBox((1.0, 1.2, 0.5), (3.0, 2.1, 1.4), 2))
    assert (nest.low, nest.high) == ((0, 1, 1), (2, 3, 3)), "faces that coincide add nothing"
    np.testing.assert_allclose(nest.grid.lower_cm, [1.0, 1.0, 0.0])
    np.testing.assert_allclose(nest.grid.upper_cm, [3.0, 3.0, 2.0])
    assert nest.grid.spacing_cm == (0.5, 0.5, 0.5)


def test_a_box_lies_around_structures() -> None:
    structures = StructureSet((square(1.0, 2.0, 0.0, 0.5, 1.0),), frame_of_reference_uid="")
    box = fine_box_around(structures, ["CORD"], margin_cm=1.0)
    np.testing.assert_allclose(box.lower_cm, [0.0, 0.0, -1.25])
    np.testing.assert_allclose(box.upper_cm, [3.0, 3.0, 2.25])
    with pytest.raises(InvalidInput, match=r"no structure 'Kord'.*there are Cord"):
        fine_box_around(structures, ["Kord"])
    with pytest.raises(InvalidInput, match="needs a structure"):
        fine_box_around(structures, [])


@pytest.mark.parametrize(
    ("box", "message"),
    [
        (lambda: FineBox((0, 0, 0), (1, 1, 1), 5), "divides voxels by 5"),
        (lambda: FineBox((0, 0, 0), (1, 0, 1)), "is empty"),
        (lambda: Nest.of(GRID, FineBox((20, 0, 0), (21, 1, 1))), "outside the calculation grid"),
    ],
)
def test_senseless_boxes_are_refused(box, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        box()


def test_moments_are_moved_not_copied() -> None:
    values = np.arange(3 * 3 * 2 * 4, dtype=np.float32).reshape(3, 3, 2, 4) + 1
    moments = Moments((1, 1, 1), 0, values.copy(), np.zeros((1, 1, 1), np.float32))
    nest = Nest(GRID, (0, 2, 2), (3, 9, 4), 2)
    own = nest.take_out(moments)
    assert own.low == (1, 2, 2) and own.values.shape == (2, 2, 2, 2)
    assert own.values.sum(dtype=float) + moments.values.sum(dtype=float) == values.sum(dtype=float)
    np.testing.assert_array_equal(own.values, values[:2, 1:, :, 1:3])
    elsewhere = Nest(GRID, (0, 0, 0), (1, 1, 1), 2).take_out(moments)
    assert elsewhere.values.shape == (1, 1, 2, 1) and not elsewhere.values.any()


def test_dose_that_falls_off_behind_the_faces_is_not_overestimated() -> None:
    """The dose from around the box, as of electrons: half of it at a face, 1/e of that 3 mm further in."""
    grid = Grid((-3.875,) * 3, (0.25,) * 3, (32, 32, 32))
    nest = Nest.of(grid, FineBox((-1.5,) * 3, (1.5,) * 3, 2))

    def around(voxels: Grid) -> np.ndarray:
        inside = 1.0
        for axis in voxels.axes_cm:
            depth = 1.5 - np.abs(axis)
            falls = np.where(depth > 0, 0.5 * np.exp(-depth / 0.3), 1 - 0.5 * np.exp(depth / 0.3))
            inside = np.multiply.outer(1 - falls, inside)
        return (1 - np.asarray(inside)).astype(np.float32)

    error = nest.fine(around(grid)) - around(nest.grid)
    assert abs(error.mean()) < 0.002 and np.abs(error).max() < 0.01, "along straight lines 0.012 and 0.027"
    step = np.where(np.arange(32) < 16, 0.0, 2.0).astype(np.float32)
    values = nest.fine(np.broadcast_to(step, grid.shape))
    assert values.min() == 0 and values.max() == 2, "no over- or undershoot beside air"


def test_a_box_as_thin_as_the_grid_is_filled() -> None:
    thin = Grid((0.5, 0.5, 0.5), (1.0, 1.0, 1.0), (1, 2, 3))
    nest = Nest.of(thin, FineBox((0, 0, 0), (3, 2, 1), 2))
    values = nest.fine(np.broadcast_to(np.array([1, 2, 3], np.float32), thin.shape))
    np.testing.assert_allclose(values, np.broadcast_to([1.0, 1.25, 1.75, 2.25, 2.75, 3.0], (2, 4, 6)), atol=0.2)


def test_a_smooth_dose_passes_through_the_faces() -> None:
    """Coarse and fine values of one linear function: composed they are that function, blended or not."""

    def linear(grid: Grid) -> np.ndarray:
        x, y, z = grid.axes_cm
        return (1 + x + 2 * y[:, None] + 3 * z[:, None, None]).astype(np.float32)

    nest = Nest.of(GRID, FineBox((1.0, 1.0, 1.0), (4.0, 4.0, 3.0), 2))
    volume = nest.composed(linear(GRID), linear(nest.grid))
    inner = (slice(1, -1),) * 3  # beyond the outermost coarse centres values are constant
    np.testing.assert_allclose(volume.values[inner], linear(volume.grid)[inner], rtol=1e-6)
    assert volume.values.shape == (8, 10, 12)


def test_a_fine_box_is_as_good_as_fine_voxels_everywhere(make_plan, make_beam, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two oblique fields on water with a slab of bone and a cavity in the box: the same dose, where it is steepest.

    The box cuts through the fields, so that energy enters and leaves it through every face.
    """
    monkeypatch.setattr(engine, "reference_output", lambda *_: 1.0)
    hu = np.pad(np.zeros((40, 40, 40), np.float32), 8, constant_values=-1000.0)
    hu[:, 20:24, 24:32] = 900.0
    hu[26:30, 28:33, 26:30] = -800.0
    ct = CtImage(Volume(Grid((-6.875,) * 3, (0.25,) * 3, hu.shape), hu))
    opening = {"jaw_x_cm": np.tile([-1.5, 1.5], (2, 1)), "jaw_y_cm": np.tile([-2.0, 2.0], (2, 1))}
    beams = (
        make_beam(**opening, number=n, name=f"beam {n}", gantry_deg=np.full(2, angle))
        for n, angle in ((1, 30.0), (2, 300.0))
    )
    plan = make_plan(*beams)
    box = FineBox((-2.5, -2.0, -2.0), (2.0, 2.5, 2.0), 2)
    nested = compute_dose(plan, ct, machine="varian-truebeam-m120", spacing_cm=0.4, fine=box, settings=FEW)
    fine = compute_dose(plan, ct, machine="varian-truebeam-m120", spacing_cm=0.2, settings=FEW)
    coarse = compute_dose(plan, ct, machine="varian-truebeam-m120", spacing_cm=0.4, settings=FEW)
    x, y, z = (np.arange(low + 0.6, high - 0.5, 0.1) for low, high in zip(box.lower_cm, box.upper_cm, strict=True))
    points = np.stack(np.meshgrid(x, y, z, indexing="ij"), axis=-1)
    error = nested.sample(points) - fine.sample(points)
    most = fine.values.max()
    assert np.sqrt((error**2).mean()) < SAME * most
    assert abs(error.mean()) < 0.2 * SAME * most
    coarse_error = coarse.sample(points) - fine.sample(points)
    assert np.sqrt((coarse_error**2).mean()) > 4 * SAME * most, "otherwise the test shows nothing"
    nest = Nest.of(coarse.grid, box)
    around = nest.composed(coarse.values, np.full(nest.grid.shape, np.nan, np.float32)).values
    outside = np.isfinite(around)
    assert 0.5 < outside.mean() < 1
    # sources in the box and around it are compressed apart, to a thousandth of their own each
    np.testing.assert_allclose(nested.values[outside], around[outside], atol=1e-3 * most)
