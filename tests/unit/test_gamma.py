"""Gamma against closed forms, against brute force, against itself in mirrors, and against pymedphys."""

from __future__ import annotations

import json
import warnings

import numba
import numpy as np
import pytest

from spinedose.compare.gamma import GammaCriteria, gamma_index
from spinedose.errors import InvalidInput
from spinedose.grid import Grid, Volume

ACCURACY = 1e-4
"""The default; gamma lies above the exact minimum by this at most."""

ROUNDING = 2e-5
"""Doses are float32: 1e-7 of 60 Gy against a criterion of 1.8 Gy."""


def close(value):
    return pytest.approx(value, abs=ACCURACY + ROUNDING)


def grid_of(shape=(12, 14, 16), spacing=(0.25, 0.25, 0.25), origin=(0.0, 0.0, 0.0)):
    return Grid(origin, spacing, shape)


def volume_of(function, grid=None):
    """A dose from a function of x, y, z [cm]."""
    grid = grid or grid_of()
    x, y, z = grid.axes_cm
    values = function(x[None, None, :], y[None, :, None], z[:, None, None])
    return Volume(grid, np.array(np.broadcast_to(values, grid.shape), dtype=np.float32))


def noisy(seed=1, shape=(6, 7, 8), spacing=(0.25, 0.2, 0.3), noise=2.0):
    """A curved dose with noise, in which the search meets several minima."""
    grid = grid_of(shape, spacing)
    smooth = volume_of(lambda x, y, z: 40 + 10 * np.sin(3 * x + 2 * y) * np.cos(2.5 * z), grid)
    rng = np.random.default_rng(seed)
    return Volume(grid, (smooth.values + rng.normal(0, noise, shape)).astype(np.float32))


def fields(shift=(0.0, 0.0, 0.0), shape=(24, 36, 36), spacing=0.25):
    """Five crossing fields with soft edges, 60 Gy at most: what a planned dose looks like."""
    middle = [-spacing * (n - 1) / 2 for n in shape[::-1]]
    grid = Grid(tuple(middle), (spacing,) * 3, shape)

    def dose(x, y, z):
        x, y, z = x - shift[0], y - shift[1], z - shift[2]
        total = 0.0
        for angle in 2 * np.pi * np.arange(5) / 5:
            across, along = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
            total = total + np.exp(-0.05 * along) / (1 + np.exp((np.abs(across) - 1.2) / 0.15))
        return 11.5 * total / (1 + np.exp((np.abs(z) - 1.6) / 0.15))

    return volume_of(dose, grid)


# Closed forms


def test_a_dose_against_itself_is_zero():
    result = gamma_index(fields(), fields())
    assert result.maximum < 1e-12  # the last voxel of a row is reached by a sum of differences
    assert result.pass_percent == 100
    assert (result.points_outside, result.points_cut_off) == (0, 0)


@pytest.mark.parametrize(("evaluated_gy", "expected"), [(60.9, 0.5), (58.2, 1.0), (62.7, 1.5), (70.0, 2.0)])
def test_a_constant_difference_counts_in_units_of_the_criterion(evaluated_gy, expected):
    # 3 % of 60 Gy are 1.8 Gy, and no other point is nearer in dose; 10 Gy are beyond the search cut-off of 2.
    result = gamma_index(volume_of(lambda x, y, z: 60), volume_of(lambda x, y, z: evaluated_gy))
    assert result.values == close(expected)
    assert result.points == 12 * 14 * 16
    assert result.points_cut_off == (result.points if expected == 2.0 else 0)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_two_parallel_ramps(axis):
    # Slope 6 Gy/cm, 1.5 Gy apart, 1.8 Gy / 0.2 cm: 1.5 / sqrt(1.8^2 + (6 x 0.2)^2) = 1.5 / 2.163 = 0.6934.
    def ramp(offset):
        return volume_of(lambda *p: 40 + offset + 6 * p[axis])

    result = gamma_index(ramp(0), ramp(1.5), normalisation_gy=60)
    assert result.gamma.values[3:-3, 3:-3, 3:-3] == close(0.69338)


def test_a_ramp_in_three_dimensions():
    # Gradient (3, -4, 12) Gy/cm of 13 Gy/cm: 2 / sqrt(1.8^2 + (13 x 0.2)^2) = 2 / 3.1623 = 0.63246.
    def ramp(offset):
        return volume_of(lambda x, y, z: 40 + offset + 3 * x - 4 * y + 12 * z)

    result = gamma_index(ramp(0), ramp(-2), normalisation_gy=60)
    assert result.gamma.values[3:-3, 3:-3, 3:-3] == close(0.63246)


@pytest.mark.parametrize("slope_gy_per_cm", [50.0, 400.0])
def test_a_shifted_steep_gradient_shows_the_shift(slope_gy_per_cm):
    # Shifted by 0.15 cm along its oblique gradient: 0.15 / sqrt((1.8 / slope)^2 + 0.2^2), towards 0.15 / 0.2.
    direction = np.array([2.0, 3.0, 6.0]) / 7

    def edge(shift):
        return volume_of(
            lambda x, y, z: 900 + slope_gy_per_cm * (direction[0] * x + direction[1] * y + direction[2] * z - shift)
        )

    result = gamma_index(edge(0), edge(0.15), normalisation_gy=60)
    expected = 0.15 / np.hypot(1.8 / slope_gy_per_cm, 0.2)
    # float32 knows 3000 Gy to 2e-4 Gy only
    assert result.gamma.values[3:-3, 3:-3, 3:-3] == pytest.approx(expected, abs=ACCURACY + 2e-4)
    assert expected == pytest.approx(0.75, rel=0.02)


def test_a_saddle_is_not_mistaken_for_a_minimum():
    # One cell with D = X Y on (-1, 1)^2, seen from its middle at 0.8 Gy with 1 Gy / 1 cm. The gradient in the middle is
    # zero (gamma 0.8 there). On X = Y, with w = X^2: w / 2 + (w - 0.8)^2 is least at w = 0.55: sqrt(0.3375) = 0.58095.
    values = np.array([[[1, -1], [-1, 1]]] * 2, dtype=np.float32)
    evaluated = Volume(Grid((0, 0, 0), (1, 1, 1), (2, 2, 2)), values)
    reference = Volume(Grid((0.5, 0.5, 0.5), (1, 1, 1), (1, 1, 1)), np.full((1, 1, 1), 0.8))
    result = gamma_index(reference, evaluated, dose_percent=100, distance_cm=1, normalisation_gy=1)
    assert result.values == close([0.58095])


def gaussian(centre_x, spacing):
    """60 Gy, sigma 2 cm, on the axis and around it."""
    shape = (round(2 / spacing) + 1, round(2 / spacing) + 1, round(8 / spacing) + 1)
    grid = Grid((-4.0, -1.0, -1.0), (spacing,) * 3, shape)
    return volume_of(lambda x, y, z: 60 * np.exp(-((x - centre_x) ** 2 + y**2 + z**2) / 8), grid)


def test_a_shifted_gaussian_converges_with_the_grid():
    # On the axis the exact gamma follows from a fine search in the distances along and from the axis.
    x = np.arange(-3, 3.1, 0.5)
    along, across = np.meshgrid(np.linspace(-0.4, 0.4, 1601), np.linspace(0, 0.4, 401), indexing="ij")
    exact = [
        np.sqrt(
            np.min(
                (along**2 + across**2) / 0.04
                + ((60 * np.exp(-((p + along - 0.2) ** 2 + across**2) / 8) - 60 * np.exp(-(p**2) / 8)) / 1.8) ** 2
            )
        )
        for p in x
    ]
    for spacing in (0.25, 0.125, 0.0625):
        result = gamma_index(gaussian(0, spacing), gaussian(0.2, spacing), normalisation_gy=60, accuracy=1e-5)
        middle = round(1 / spacing)
        found = result.gamma.values[middle, middle, np.rint((x + 4) / spacing).astype(int)]
        # Between voxels a trilinear dose is off by D'' h^2 / 8 along each axis, with D'' = 60 / 2^2 Gy/cm^2 at most.
        assert np.abs(found - exact).max() < 3 * 15 * spacing**2 / 8 / 1.8


# Symmetries, and where there is none


def test_mirrored_doses_may_be_exchanged():
    # With B the mirror image of A, exchanging them mirrors gamma; a Gaussian off the centre and its image.
    one, other = gaussian(-0.1, 0.25), gaussian(0.1, 0.25)
    forth = gamma_index(one, other, normalisation_gy=60).gamma.values
    back = gamma_index(other, one, normalisation_gy=60).gamma.values
    np.testing.assert_allclose(forth, back[:, :, ::-1], atol=ACCURACY + ROUNDING)


def test_gamma_is_not_symmetric():
    # A hot voxel in the evaluated dose finds the flat dose beside it; a hot voxel in the reference finds nothing.
    flat = volume_of(lambda x, y, z: 60, grid_of((9, 9, 9), (0.1, 0.1, 0.1)))
    hot = flat.values.copy()
    hot[4, 4, 4] = 70
    spike = Volume(flat.grid, hot)
    assert gamma_index(flat, spike, normalisation_gy=60).maximum < 0.5
    assert gamma_index(spike, flat, normalisation_gy=60).maximum == 2


def test_noise_in_the_evaluated_dose_lowers_gamma():
    rng = np.random.default_rng(2)
    flat = volume_of(lambda x, y, z: 60, grid_of((20, 20, 20), (0.1, 0.1, 0.1)))
    low = Volume(flat.grid, (flat.values - 1.2 + rng.normal(0, 0.6, flat.grid.shape)).astype(np.float32))
    assert gamma_index(flat, low, normalisation_gy=60).mean < 0.55  # without noise 1.2 / 1.8 = 0.67
    assert gamma_index(low, flat, normalisation_gy=60).mean == pytest.approx(0.67, abs=0.02)


def test_axes_and_directions_are_equal():
    one, other = noisy(1), noisy(2)
    expected = gamma_index(one, other).gamma.values
    grid = Grid((0, 0, 0), one.grid.spacing_cm[::-1], one.grid.shape[::-1])
    turned = gamma_index(*(Volume(grid, v.values.transpose(2, 1, 0)[:, ::-1, :]) for v in (one, other))).gamma.values[
        :, ::-1, :
    ]
    np.testing.assert_allclose(turned.transpose(2, 1, 0), expected, atol=ACCURACY)


def test_dose_and_length_have_no_preferred_unit():
    one, other = noisy(1), noisy(2)
    expected = gamma_index(one, other).gamma.values
    grid = Grid((1, 2, 3), tuple(10 * d for d in one.grid.spacing_cm), one.grid.shape)
    scaled = gamma_index(Volume(grid, one.values * 5), Volume(grid, other.values * 5), distance_cm=2.0)
    np.testing.assert_allclose(scaled.gamma.values, expected, atol=ACCURACY + ROUNDING)


# The minimum is the minimum


def brute_force(reference, evaluated, index, step_cm, dose_gy, distance_cm, radius_cm=0.45):
    """Gamma of one voxel by trying every point of a fine lattice."""
    x, y, z = (axis[i] for axis, i in zip(reference.grid.axes_cm, index[::-1], strict=True))
    ticks = step_cm * np.arange(-round(radius_cm / step_cm), round(radius_cm / step_cm) + 1)
    points = np.stack(np.meshgrid(x + ticks, y + ticks, z + ticks, indexing="ij"), axis=-1)
    low = np.array([axis[0] for axis in evaluated.grid.axes_cm]) - 1e-9
    high = np.array([axis[-1] for axis in evaluated.grid.axes_cm]) + 1e-9
    points = points[np.all((points >= low) & (points <= high), axis=-1)]
    distance = ((points - (x, y, z)) ** 2).sum(axis=-1) / distance_cm**2
    difference = (evaluated.sample(points) - reference.values[index]) / dose_gy
    return float(np.sqrt(np.min(distance + difference**2)))


@pytest.mark.parametrize("is_local", [False, True])
def test_it_finds_what_brute_force_finds(is_local):
    reference, evaluated = noisy(1), noisy(2, shape=(5, 6, 7), spacing=(0.3, 0.27, 0.31), noise=4.0)
    result = gamma_index(reference, evaluated, normalisation_gy=50, is_local=is_local)
    rng = np.random.default_rng(7)
    voxels = np.argwhere(np.isfinite(result.gamma.values))
    step = 0.01
    for index in map(tuple, voxels[rng.choice(len(voxels), 12, replace=False)]):
        criterion = 0.03 * (reference.values[index] if is_local else 50)
        found = result.gamma.values[index]
        tried = min(brute_force(reference, evaluated, index, step, criterion, 0.2), 2.0)
        assert found <= tried + ACCURACY + ROUNDING  # the lattice cannot find less than the minimum
        # a lattice point lies within half a step of the minimum along each axis; doses here rise 40 Gy/cm
        slack = 0.5 * step * np.sqrt(3) * np.hypot(1 / 0.2, 40 / criterion)
        assert tried - found < slack


def test_brute_force_converges_to_it():
    reference, evaluated = noisy(1), noisy(2)
    result = gamma_index(reference, evaluated)
    criterion = 0.03 * float(reference.values.max())
    voxels = [(2, 3, 4), (3, 3, 3), (1, 4, 6), (4, 2, 2)]
    excess = [
        np.mean(
            [brute_force(reference, evaluated, v, step, criterion, 0.2, 0.3) - result.gamma.values[v] for v in voxels]
        )
        for step in (0.04, 0.02, 0.005)
    ]
    assert excess[0] > excess[1] > excess[2] > -ACCURACY
    assert excess[2] < 0.02


@pytest.mark.parametrize("accuracy", [0.1, 0.01, 1e-3, 1e-4])
def test_the_accuracy_is_kept(accuracy):
    reference, evaluated = noisy(3, noise=5.0), noisy(4, noise=5.0)
    exact = gamma_index(reference, evaluated, accuracy=1e-6).values
    excess = gamma_index(reference, evaluated, accuracy=accuracy).values - exact
    assert excess.min() >= -2e-6
    assert excess.max() <= accuracy


def test_the_number_of_threads_changes_nothing():
    first = gamma_index(noisy(1), noisy(2)).gamma.values
    threads = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        second = gamma_index(noisy(1), noisy(2)).gamma.values
    finally:
        numba.set_num_threads(threads)
    np.testing.assert_array_equal(first, second)


# Local, threshold, cut-off


def test_local_and_global_criteria():
    # 18 Gy and 0.36 Gy more: of 3 % of 60 Gy that is 0.2; of 3 % of 18 Gy it is 0.6667.
    one, other = volume_of(lambda x, y, z: 18), volume_of(lambda x, y, z: 18.36)
    assert gamma_index(one, other, normalisation_gy=60).values == close(0.2)
    assert gamma_index(one, other, normalisation_gy=60, is_local=True).values == close(0.66667)


def test_the_threshold_is_a_share_of_the_normalisation_and_included():
    # Columns of 0, 1, ..., 20 Gy; 10 % of 20 Gy keeps 2 Gy and more, 10 % of 50 Gy 5 Gy and more.
    steps = volume_of(lambda x, y, z: x, grid_of((3, 4, 21), (1.0, 1.0, 1.0)))
    for normalisation, is_local, kept in ((None, False, 19), (50.0, False, 16), (50.0, True, 16)):
        result = gamma_index(steps, steps, normalisation_gy=normalisation, is_local=is_local)
        assert result.points == kept * 12
        assert np.all(np.isnan(result.gamma.values[:, :, : 21 - kept]))
        assert np.all(result.gamma.values[:, :, 21 - kept :] == 0)
    assert gamma_index(steps, steps, threshold_percent=0).points == 21 * 12


def test_only_the_reference_meets_the_threshold():
    # 30 Gy where 1 Gy was planned is not seen; with the doses exchanged it is.
    planned = volume_of(lambda x, y, z: np.where(x < 1.9, 60.0, 1.0))
    given = volume_of(lambda x, y, z: np.where(x < 1.9, 60.0, np.where(x < 2.9, 1.0, 30.0)))
    assert gamma_index(planned, given).pass_percent == 100
    assert gamma_index(given, planned).pass_percent < 100


def test_a_larger_cut_off_changes_only_what_was_cut_off():
    one, other = noisy(1, noise=5.0), noisy(2, noise=0.1)
    near, far = gamma_index(one, other, largest=1.2), gamma_index(one, other, largest=4.0)
    assert 0 < near.points_cut_off < near.points
    np.testing.assert_allclose(near.values, np.minimum(far.values, 1.2), atol=2 * ACCURACY)
    assert near.pass_percent == far.pass_percent


# Grids


def test_grids_may_differ_in_everything():
    # The same linear dose on two grids: no difference at all, wherever both are.
    def dose(x, y, z):
        return 30 + 2 * x - 3 * y + 4 * z

    reference = volume_of(dose, grid_of((11, 12, 13), (0.21, 0.17, 0.3), (0.05, 0.0, 0.02)))
    evaluated = volume_of(dose, grid_of((7, 21, 19), (0.33, 0.125, 0.5), (-0.4, -0.3, -0.2)))
    result = gamma_index(reference, evaluated, threshold_percent=0)
    assert result.maximum < ROUNDING
    moved = gamma_index(reference, volume_of(lambda *p: dose(*p) + 1.0, evaluated.grid), normalisation_gy=60)
    # gradient sqrt(29) Gy/cm: 1 / sqrt(1.8^2 + 29 x 0.04) = 0.47673
    assert moved.gamma.values[4:-4, 4:-4, 4:-4] == close(0.47673)


def test_what_lies_outside_is_counted_and_neither_passes_nor_fails():
    # The evaluated grid starts 1 voxel and a half later along x: 2 of 16 planes are outside, and no zeros are made up.
    reference = volume_of(lambda x, y, z: 60)
    evaluated = volume_of(lambda x, y, z: 60, grid_of(origin=(0.375, 0.0, 0.0)))
    result = gamma_index(reference, evaluated)
    assert result.points_outside == 2 * 12 * 14
    assert result.points == 14 * 12 * 14
    assert result.maximum == 0
    assert np.all(result.outside.values[:, :, :2]) and not np.any(result.outside.values[:, :, 2:])
    assert np.all(np.isnan(result.gamma.values[:, :, :2]))


def test_rounded_positions_do_not_cost_the_edge():
    reference = volume_of(lambda x, y, z: 60)
    evaluated = volume_of(lambda x, y, z: 60, grid_of(origin=(5e-5, -5e-5, 5e-5)))
    assert gamma_index(reference, evaluated).points_outside == 0


def test_the_search_ends_at_the_edge_of_the_evaluated_dose():
    # In the first plane of two parallel ramps the nearest point lies outside; the best there is on the edge itself, at
    # the full difference of 1.5 Gy: 0.83333 instead of 0.69338.
    one, other = (volume_of(lambda x, y, z, offset=offset: 40 + offset + 6 * x) for offset in (0, 1.5))
    result = gamma_index(one, other, normalisation_gy=60)
    assert result.gamma.values[6, 6, 0] == close(0.83333)
    assert result.gamma.values[6, 6, 1] == close(0.69338)


def test_a_plane_can_be_the_reference():
    film = volume_of(lambda x, y, z: 40 + 6 * x, grid_of((1, 14, 16), origin=(0, 0, 1.3)))
    result = gamma_index(film, volume_of(lambda x, y, z: 41.5 + 6 * x), normalisation_gy=60)
    assert result.gamma.values[0, 4:-4, 4:-4] == close(0.69338)


# The result


def test_regions():
    # Half of the voxels differ by 1.5 criteria, the other half by none; far from the step.
    reference = volume_of(lambda x, y, z: 60)
    evaluated = volume_of(lambda x, y, z: np.where(x < 1.9, 60.0, 62.7))
    left = Volume(reference.grid, np.broadcast_to(np.arange(16) < 6, reference.grid.shape))
    right = Volume(reference.grid, np.broadcast_to(np.where(np.arange(16) > 10, 0.5, 0.49), reference.grid.shape))
    result = gamma_index(reference, evaluated)
    assert (result.within(left).pass_percent, result.within(left).points) == (100, 6 * 12 * 14)
    assert (result.within(right).pass_percent, result.within(right).points) == (0, 5 * 12 * 14)
    assert result.within(right).mean == close(1.5)
    np.testing.assert_array_equal(gamma_index(reference, evaluated, mask=left).values, result.within(left).values)
    assert gamma_index(reference, evaluated, mask=left).points == 6 * 12 * 14


def test_points_outside_belong_to_regions_too():
    reference = volume_of(lambda x, y, z: 60)
    result = gamma_index(reference, volume_of(lambda x, y, z: 60, grid_of(origin=(0.375, 0.0, 0.0))))
    region = Volume(reference.grid, np.broadcast_to((np.arange(16) > 0) & (np.arange(16) < 5), reference.grid.shape))
    assert result.within(region).points_outside == 12 * 14
    assert result.within(region).points == 3 * 12 * 14


def test_the_result_says_what_was_asked():
    result = gamma_index(fields(), fields((0.1, 0, 0)), dose_percent=2, distance_cm=0.1, largest=1.5, is_local=True)
    assert result.criteria == GammaCriteria(2.0, 0.1, float(fields().values.max()), True, 10.0, 1.5, 1e-4)
    told = json.loads(json.dumps(result.as_dict()))
    assert told["criteria"]["largest"] == 1.5
    assert told["points"] == result.points
    assert told["percentiles"]["95"] == pytest.approx(np.percentile(result.values, 95))
    assert result.percentile(100) == result.maximum
    assert not result.gamma.values.flags.writeable


# Refusals


def test_what_cannot_be_compared_is_refused():
    dose = volume_of(lambda x, y, z: 60)
    broken = dose.values.copy()
    broken[3, 3, 3] = np.nan
    nan = Volume(dose.grid, broken)
    with pytest.raises(InvalidInput, match="reference dose has 1 voxels that are not finite"):
        gamma_index(nan, dose)
    with pytest.raises(InvalidInput, match="evaluated dose has 1 voxels that are not finite"):
        gamma_index(dose, nan)
    with pytest.raises(InvalidInput, match="do not overlap"):
        gamma_index(dose, volume_of(lambda x, y, z: 60, grid_of(origin=(50, 0, 0))))
    with pytest.raises(InvalidInput, match="nothing can be interpolated"):
        gamma_index(dose, volume_of(lambda x, y, z: 60, grid_of((1, 14, 16))))
    with pytest.raises(InvalidInput, match=r"normalisation of gamma is 0\.0 Gy"):
        gamma_index(volume_of(lambda x, y, z: 0), dose)
    with pytest.raises(InvalidInput, match="reaches the threshold of 600 Gy"):
        gamma_index(dose, dose, normalisation_gy=6000)


@pytest.mark.parametrize(
    ("criterion", "message"),
    [
        ({"dose_percent": 0}, "dose criterion of gamma is 0"),
        ({"dose_percent": np.nan}, "dose criterion of gamma is nan"),
        ({"distance_cm": -0.2}, "distance criterion"),
        ({"normalisation_gy": 0}, "normalisation"),
        ({"threshold_percent": -1}, "cannot be negative"),
        ({"threshold_percent": 0, "is_local": True}, "needs a dose threshold"),
        ({"largest": 1}, "cut-off"),
        ({"accuracy": 0}, "accuracy"),
    ],
)
def test_criteria_without_a_meaning_are_refused(criterion, message):
    dose = volume_of(lambda x, y, z: 60)
    with pytest.raises(InvalidInput, match=message):
        gamma_index(dose, dose, **criterion)


def test_masks_without_a_voxel_are_refused():
    dose = volume_of(lambda x, y, z: np.where(x < 2, 60.0, 1.0))
    empty = Volume(dose.grid, np.zeros(dose.grid.shape, dtype=bool))
    cold = Volume(dose.grid, np.broadcast_to(np.arange(16) > 12, dose.grid.shape))
    elsewhere = volume_of(lambda x, y, z: True, grid_of(origin=(1, 0, 0)))
    with pytest.raises(InvalidInput, match="mask is empty"):
        gamma_index(dose, dose, mask=empty)
    with pytest.raises(InvalidInput, match="another grid"):
        gamma_index(dose, dose, mask=elsewhere)
    with pytest.raises(InvalidInput, match="reaches the threshold"):
        gamma_index(dose, dose, mask=cold)
    with pytest.raises(InvalidInput, match="not evaluated anywhere in the mask"):
        gamma_index(dose, dose).within(cold)


# Another implementation


def disturbed(shift, scale):
    """The planned dose elsewhere, higher or lower, and with noise of 0.5 %."""
    moved = fields(shift)
    noise = np.random.default_rng(5).normal(0, 0.3, moved.grid.shape)
    return Volume(moved.grid, (scale * moved.values + noise).astype(np.float32))


def pymedphys_gamma(reference, evaluated, step_share, **options):
    """The map of pymedphys, which samples the evaluated dose on shells of distance_cm / step_share."""
    pymedphys = pytest.importorskip("pymedphys")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pymedphys.gamma(
            reference.grid.axes_cm[::-1],
            np.array(reference.values),
            evaluated.grid.axes_cm[::-1],
            np.array(evaluated.values),
            3,
            0.2,
            lower_percent_dose_cutoff=10,
            interp_fraction=step_share,
            max_gamma=2,
            **options,
        )


@pytest.mark.parametrize("is_local", [False, True])
def test_pymedphys_passes_as_many(is_local):
    reference, evaluated = fields(), disturbed((0.1, 0, 0), 1.02)
    result = gamma_index(reference, evaluated, is_local=is_local)
    other = pymedphys_gamma(reference, evaluated, 10, local_gamma=is_local)
    np.testing.assert_array_equal(np.isfinite(other), np.isfinite(result.gamma.values))
    other = other[np.isfinite(other)]
    assert np.min(other - result.values) > -ACCURACY - ROUNDING  # its samples cannot lie below the minimum
    assert 100 * np.mean(other <= 1) == pytest.approx(result.pass_percent, abs=0.2)


def test_pymedphys_converges_to_it():
    # Where many voxels lie near 1, its step of a tenth passes fewer; with smaller steps it comes down to ours.
    planned, evaluated = fields(), disturbed((0.15, 0.1, 0.05), 1.05)
    grid = Grid(planned.grid.origin_cm, (0.75, 0.75, 0.75), (8, 12, 12))
    reference = Volume(grid, planned.values[::3, ::3, ::3])
    result = gamma_index(reference, evaluated)
    excess, passed = [], []
    for step_share in (10, 20, 40):
        other = pymedphys_gamma(reference, evaluated, step_share)
        other = other[np.isfinite(other)]
        assert np.min(other - result.values) > -ACCURACY - ROUNDING
        excess.append(np.mean(other - result.values))
        passed.append(100 * np.mean(other <= 1))
    assert excess[0] > 2 * excess[1] > 4 * excess[2]
    assert passed[0] <= passed[1] <= passed[2] <= result.pass_percent
    assert passed[2] == pytest.approx(result.pass_percent, abs=0.2)
