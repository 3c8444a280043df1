"""Contours become exact voxel shares: against areas and volumes known in closed form."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spinedose.errors import InvalidInput
from spinedose.grid import Grid, Volume
from spinedose.structures import (
    Structure,
    StructureSet,
    bounds_cm,
    find_external,
    gaps_cm,
    mask,
    skin_mask,
    volume_cm3,
)

EXACT = 1e-6
"""Shares are float32 in the mask; sums of them are good to this, relative."""

GRID = Grid((-2.45, -1.95, -1.0), (0.1, 0.1, 0.25), (9, 40, 50))


def plane(points, z):
    points = np.asarray(points, dtype=float)
    return np.column_stack([points, np.full(len(points), z)])


def circle(radius, z, n=720, centre=(0.0, 0.0)):
    angle = 2 * np.pi * np.arange(n) / n
    return plane(np.column_stack([centre[0] + radius * np.cos(angle), centre[1] + radius * np.sin(angle)]), z)


def box(x0, x1, y0, y1, z):
    return plane([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], z)


def in_plane(*contours):
    return Structure(1, "s", contours_cm=tuple(contours), contour_spacing_cm=0.25)


def area_in(structure, grid=GRID, layer=4):
    return float(mask(structure, grid).values[layer].sum(dtype=float)) * grid.spacing_cm[0] * grid.spacing_cm[1]


def test_a_pixel_cut_by_a_box_has_its_exact_share():
    # Voxel (ix 25, iy 20) spans x 0..0.1 and y 0..0.1; the box covers 0.03 x 0.08 of it.
    values = mask(in_plane(box(0.07, 0.3, -0.2, 0.08, 0.0)), GRID).values[4]
    assert values[20, 25] == pytest.approx(0.3 * 0.8, rel=EXACT)
    assert values[19, 26] == 1.0
    assert values[20, 24] == 0.0


def test_a_pixel_cut_by_a_triangle_has_its_exact_share():
    # The line x + y = 0.1 halves the voxel; above it nothing is inside.
    values = mask(in_plane(plane([(0, 0), (0.1, 0), (0, 0.1)], 0.0)), GRID).values[4]
    assert values[20, 25] == pytest.approx(0.5, rel=EXACT)
    assert values.sum() == pytest.approx(0.5, rel=EXACT)


def test_a_circle_has_its_area():
    exact = np.pi * 1.5**2
    assert area_in(in_plane(circle(1.5, 0.0))) == pytest.approx(exact, rel=1e-3)
    # The mask agrees with the polygon itself far better than the polygon with the circle.
    polygon = 720 / 2 * 1.5**2 * np.sin(2 * np.pi / 720)
    assert area_in(in_plane(circle(1.5, 0.0))) == pytest.approx(polygon, rel=EXACT)


def test_the_direction_of_drawing_does_not_matter():
    forward = circle(1.3, 0.0, n=37)
    assert np.array_equal(mask(in_plane(forward), GRID).values, mask(in_plane(forward[::-1]), GRID).values)


def test_a_contour_in_a_contour_is_a_hole_and_a_third_an_island():
    ring = in_plane(circle(1.5, 0.0), circle(1.0, 0.0)[::-1], circle(0.4, 0.0))
    assert area_in(ring) == pytest.approx(np.pi * (1.5**2 - 1 + 0.4**2), rel=1e-4)
    values = mask(ring, GRID).values[4]
    assert values[20, 25] == 1.0
    assert values[20, 25 + 7] == 0.0


def test_overlapping_contours_combine_by_exclusive_or():
    # Two unit squares sharing a 0.5 x 1 strip: 2 - 2 * 0.5.
    crossed = in_plane(box(-1, 0, 0, 1, 0.0), box(-0.5, 0.5, 0, 1, 0.0))
    assert area_in(crossed) == pytest.approx(1.0, rel=EXACT)
    # Oblique: a square and the same square turned by 45 degrees; the octagon in common has area 8 (sqrt 2 - 1) h^2.
    diamond = plane([(np.sqrt(2), 0), (0, np.sqrt(2)), (-np.sqrt(2), 0), (0, -np.sqrt(2))], 0.0)
    common = 8 * (np.sqrt(2) - 1)
    assert area_in(in_plane(box(-1, 1, -1, 1, 0.0), diamond)) == pytest.approx(4 + 4 - 2 * common, rel=EXACT)


def test_a_contour_that_crosses_itself_fills_both_lobes():
    bow_tie = plane([(-1, -1), (1, 1), (1, -1), (-1, 1)], 0.0)
    assert area_in(in_plane(bow_tie)) == pytest.approx(2.0, rel=EXACT)


def test_a_keyhole_contour_is_a_ring():
    # Out along the outer circle, in by a bridge, back along the inner circle, out by the same bridge.
    outer, inner = circle(1.5, 0.0, 360), circle(0.8, 0.0, 360)[::-1]
    keyhole = np.concatenate([outer, outer[:1], inner[-1:], inner, outer[:1]])
    ring = in_plane(circle(1.5, 0.0, 360), circle(0.8, 0.0, 360))
    np.testing.assert_allclose(mask(in_plane(keyhole), GRID).values, mask(ring, GRID).values, atol=1e-6)


def test_a_structure_larger_than_the_grid_is_cropped():
    values = mask(in_plane(circle(9.0, 0.0)), GRID).values[4]
    assert values.min() == 1.0
    assert mask(in_plane(circle(0.5, 0.0, centre=(20.0, 0.0))), GRID).values.max() == 0.0
    # Half over the left face at x = -2.5.
    assert area_in(in_plane(box(-3.0, -2.2, -1, 1, 0.0))) == pytest.approx(0.3 * 2, rel=EXACT)


@pytest.mark.parametrize(
    ("low", "high"),
    [((0, 0, 0), (9, 3, 50)), ((2, 17, 0), (5, 18, 50)), ((0, 0, 26), (9, 40, 27)), ((4, 12, 31), (7, 25, 38))],
)
def test_a_part_of_the_grid_has_the_same_shares(low, high):
    structure = in_plane(circle(1.7, 0.0), circle(0.9, 0.0, centre=(0.3, 0.2)), box(-1.2, 0.4, -2.5, 0.9, 0.0))
    whole = mask(structure, GRID).values
    part = mask(structure, GRID.box(low, high)).values
    cut = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    np.testing.assert_allclose(part, whole[cut], atol=1e-6)


@pytest.mark.parametrize("pixels", [1, 3 * GRID.shape[1] * GRID.shape[2]])
def test_planes_filled_together_do_not_disturb_each_other(monkeypatch, pixels):
    # They differ in size and place; some reach beyond the grid, one is a ring, one crosses itself.
    heights = GRID.axes_cm[2]
    contours = [circle(0.3 + 0.5 * k, z, centre=(0.4 * k - 1.0, 1.5 - 0.5 * k)) for k, z in enumerate(heights)]
    contours += [circle(0.2, heights[3]), plane([(-1, -1), (1, 1), (1, -1), (-1, 1)], heights[5])]
    structure = Structure(1, "stack", contours_cm=tuple(contours))
    together = mask(structure, GRID).values
    monkeypatch.setattr("spinedose.structures.PIXELS_AT_ONCE", pixels)
    np.testing.assert_allclose(mask(structure, GRID).values, together, atol=1e-7)
    assert 0.0 < together.mean() < 1.0


def test_slabs_reach_half_a_spacing_beyond_the_ends():
    cylinder = Structure(1, "c", contours_cm=tuple(circle(1.0, z) for z in (-0.6, -0.3, 0.0, 0.3)))
    low, high = bounds_cm(cylinder)
    assert (low[2], high[2]) == pytest.approx((-0.75, 0.45))
    assert volume_cm3(cylinder) == pytest.approx(np.pi * 1.2, rel=1e-4)
    along_z = mask(cylinder, GRID).values[:, 20, 25]
    # Voxel faces at -1.125 + 0.25 k: the lower end covers 0.125 of the voxel from -0.875 to -0.625, the upper 0.075
    # of 0.375 to 0.625.
    np.testing.assert_allclose(along_z, [0, 0.5, 1, 1, 1, 1, 0.3, 0, 0], atol=1e-6)


@pytest.mark.parametrize("dz", [0.05, 0.2, 0.3, 0.7])
def test_volume_is_kept_on_any_slice_spacing(dz):
    structure = Structure(1, "cone", contours_cm=tuple(circle(0.5 + z, z) for z in np.arange(0, 1, 0.2)))
    grid = Grid((-2.0, -2.0, -0.9), (0.11, 0.13, dz), (int(2.8 / dz), 34, 40))
    whole = mask(structure, grid).values.sum(dtype=float) * grid.voxel_volume_cm3
    assert whole == pytest.approx(volume_cm3(structure), rel=EXACT)


def test_gaps_between_parts_stay_empty():
    heights = (-0.9, -0.7, -0.5, 0.3, 0.5)
    parts = Structure(1, "two", contours_cm=tuple(box(-1, 1, -1, 1, z) for z in heights))
    assert gaps_cm(parts) == (pytest.approx((-0.4, 0.2)),)
    assert volume_cm3(parts) == pytest.approx(4 * (0.6 + 0.4), rel=EXACT)
    assert mask(parts, GRID).values[4, 20, 25] == pytest.approx(0.0)


def test_unequal_spacing_is_shared_half_way():
    # Planes 0.2 and 0.28 apart (median 0.2): still one part, faces at the middles.
    uneven = Structure(1, "u", contours_cm=tuple(box(-1, 1, -1, 1, z) for z in (0.0, 0.2, 0.48, 0.68)))
    assert gaps_cm(uneven) == ()
    assert volume_cm3(uneven) == pytest.approx(4 * 0.88, rel=EXACT)


def test_one_plane_needs_a_spacing():
    with pytest.raises(InvalidInput, match="one plane"):
        mask(Structure(1, "flat", contours_cm=(circle(1, 0.0),)), GRID)
    assert volume_cm3(in_plane(box(0, 1, 0, 1, 0.0))) == pytest.approx(0.25)


def test_an_empty_structure_has_an_empty_mask():
    empty = Structure(3, "empty")
    assert mask(empty, GRID).values.max() == 0
    assert volume_cm3(empty) == 0.0


def test_tilted_contours_are_refused_by_name():
    with pytest.raises(InvalidInput, match=r"'tilted'.*axial"):
        Structure(1, "tilted", contours_cm=(np.array([[0, 0, 0], [1, 0, 0.5], [0, 1, 1.0]]),))


@settings(max_examples=60, deadline=None)
@given(
    points=st.lists(st.tuples(st.integers(-24, 24), st.integers(-19, 19)), min_size=3, max_size=12),
)
def test_any_polygon_is_filled_by_even_and_odd(points):
    """Sampled far from all edges, the share is 0 or 1 as the crossing count of a ray says; areas agree with the
    mask."""
    polygon = np.array(points) / 10.0
    structure = in_plane(plane(polygon, 0.0))
    values = mask(structure, GRID).values[4].astype(float)
    assert values.sum() * 0.01 * 0.25 == pytest.approx(volume_cm3(structure), abs=2e-5)
    fine = 21
    step = (np.arange(fine) + 0.4871) / fine * 0.1
    x = (GRID.lower_cm[0] + 0.1 * np.arange(50)[:, None] + step).ravel()
    y = (GRID.lower_cm[1] + 0.1 * np.arange(40)[:, None] + step).ravel()
    inside = np.zeros((len(y), len(x)), dtype=int)
    for (xa, ya), (xb, yb) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if ya != yb:
            rows = (y >= min(ya, yb)) & (y < max(ya, yb))
            inside[rows] += x[None, :] > (xa + (y[rows] - ya) / (yb - ya) * (xb - xa))[:, None]
    sampled = (inside % 2).reshape(40, fine, 50, fine).mean(axis=(1, 3))
    # An edge through a pixel is sampled to about one sub-sample a row; up to 12 edges meet in a pixel.
    np.testing.assert_allclose(values, sampled, atol=12 / fine / 2)
    np.testing.assert_allclose(values.mean(), sampled.mean(), atol=2e-3)


def test_a_body_keeps_its_volume_in_a_mask():
    angle = 2 * np.pi * np.arange(300) / 300
    outline = np.column_stack([16.5 * np.cos(angle), 11.5 * np.sin(angle)])
    body = Structure(1, "BODY", contours_cm=tuple(plane(outline, 0.25 * k) for k in range(100)))
    grid = Grid((-18.6, -18.6, 0.0), (0.25, 0.25, 0.25), (100, 150, 150))
    values = mask(body, grid).values
    assert values.sum(dtype=float) * grid.voxel_volume_cm3 == pytest.approx(volume_cm3(body), rel=1e-5)


def test_the_external_is_found_by_type_then_by_name():
    small, large = circle(0.5, 0.0), circle(2.0, 0.0)
    cord = Structure(1, "Cord", "ORGAN", (small,))
    typed = Structure(2, "Contour 7", "EXTERNAL", (large,))
    bolus = Structure(3, "Arm", "EXTERNAL", (small,))
    named = Structure(4, "Body Outline", "", (large,))
    assert find_external(StructureSet((cord, bolus, typed, named))) is typed
    assert find_external(StructureSet((cord, named))) is named
    assert find_external(StructureSet((cord, Structure(5, "BODY", "EXTERNAL")))) is None
    assert find_external(StructureSet((cord, Structure(6, "BODY-PTV", "", (large,))))) is None


def test_skin_by_threshold_fills_lungs_and_drops_the_table():
    grid = Grid((-10, -10, 0), (0.2, 0.2, 0.5), (4, 100, 100))
    x, y, _ = grid.axes_cm
    xx, yy = np.meshgrid(x, y)
    image = np.full(xx.shape, -1000.0)
    body = (xx / 7) ** 2 + (yy / 5) ** 2 <= 1
    image[body] = 30
    image[((xx - 3) / 2) ** 2 + (yy / 3) ** 2 <= 1] = -800
    image[(np.abs(yy - 7.5) < 0.3) & (np.abs(xx) < 9)] = 0  # a table top apart
    image[(np.abs(xx) < 0.3) & (yy > 4.9) & (yy < 7.5)] = 0  # joined to the body by a thin web
    found = skin_mask(Volume(grid, np.stack([image] * 4))).values[0]
    assert np.count_nonzero(found) == pytest.approx(np.count_nonzero(body), rel=0.01)
    assert found[yy > 6.5].max() == 0


def test_skin_needs_a_patient():
    with pytest.raises(InvalidInput, match="No voxel"):
        skin_mask(Volume(GRID, np.full(GRID.shape, -1000.0)))
