"""Sets of scenarios: how many, which, and that a seed means the same errors everywhere."""

from __future__ import annotations

import numpy as np
import pytest

from spinedose.errors import InvalidInput
from spinedose.scenarios import SetupErrors, random_setups, setup_factorial, setup_grid
from spinedose.scenarios.scenario import AXES
from spinedose.setup import Setup


def _numbers(setup: Setup) -> list[float]:
    return [getattr(setup, axis) for axis in AXES]


def test_the_usual_grid_has_24_scenarios() -> None:
    found = setup_grid((0.1, 0.2), (1.0, 2.0))
    assert len(found) == 24 and len({one.name for one in found}) == 24
    for one in found:
        assert sum(value != 0 for value in _numbers(one.setups[0])) == 1
    total = np.sum([_numbers(one.setups[0]) for one in found], axis=0)
    np.testing.assert_allclose(total, 0.0, atol=1e-12)  # each amount both ways
    assert "lateral -1 mm" in {one.name for one in found}
    assert next(one for one in found if one.name == "lateral -1 mm").setups[0].lateral_cm == -0.1


def test_a_grid_of_some_axes() -> None:
    found = setup_grid((0.1,), (), axes=("vertical_cm", "yaw_deg"))
    assert [one.setups[0].vertical_cm for one in found] == [-0.1, 0.1]
    with pytest.raises(InvalidInput, match="'up' is no axis"):
        setup_grid(axes=("up",))
    with pytest.raises(InvalidInput, match="amount"):
        setup_grid((-0.1,), ())


def test_a_factorial_grid_has_all_combinations() -> None:
    found = setup_factorial(lateral_cm=(-0.1, 0, 0.1), roll_deg=(-1, 1))
    assert {(one.setups[0].lateral_cm, one.setups[0].roll_deg) for one in found} == {
        (x, r) for x in (-0.1, 0.0, 0.1) for r in (-1.0, 1.0)
    }
    assert len({one.name for one in found}) == 6


ERRORS = SetupErrors((0.1, 0.2, 0.3), 0.05, (1.0, 0.5, 0.25), 0.2)


def test_the_same_seed_gives_the_same_errors_and_more_are_more_of_the_same() -> None:
    few, many = random_setups(3, 7, ERRORS, fractions=2), random_setups(10, 7, ERRORS, fractions=2)
    assert few == many[:3]
    assert few != random_setups(3, 8, ERRORS, fractions=2)
    # pinned: studies must be repeatable with another version of spinedose
    np.testing.assert_allclose(
        _numbers(random_setups(1, 1, SetupErrors(0.1, 0.1, 1.0, 1.0), fractions=2)[0].setups[0])[:2],
        [-0.03140805819913001, 0.15920676743366688],
        rtol=1e-12,
    )


def test_systematic_errors_do_not_hang_on_random_ones() -> None:
    alone = random_setups(5, 3, SetupErrors(0.1, systematic_deg=1.0))
    both = random_setups(5, 3, SetupErrors(0.1, 0.0, 1.0, 0.0), fractions=3)
    assert [one.setups[0] for one in alone] == [one.setups[0] for one in both]
    assert all(isinstance(one.setup, Setup) for one in both)  # nothing differs between fractions


def test_errors_have_the_sizes_that_were_asked_for() -> None:
    """Standard deviations of 2000 treatments of 5 fractions are within 4 of their own standard errors."""
    found = random_setups(2000, 11, ERRORS, fractions=5)
    each = np.array([[_numbers(setup) for setup in one.setups] for one in found])
    within = each.std(axis=1, ddof=1)
    sigma = np.sqrt((within**2).mean(axis=0))
    np.testing.assert_allclose(sigma, ERRORS.random, rtol=4 / np.sqrt(2 * 2000 * 4))
    systematic = np.sqrt(each.mean(axis=1).var(axis=0, ddof=1) - np.array(ERRORS.random) ** 2 / 5)
    np.testing.assert_allclose(systematic, ERRORS.systematic, rtol=1.1 * 4 / np.sqrt(2 * 2000))
    assert np.abs(np.corrcoef(each[:, 0].T) - np.eye(6)).max() < 4 / np.sqrt(2000)


def test_a_mean_error_shifts_all() -> None:
    plain = random_setups(4, 1, SetupErrors(0.1))
    moved = random_setups(4, 1, SetupErrors(0.1, mean_cm=(0.0, 0.5, 0.0)))
    for one, other in zip(plain, moved, strict=True):
        assert other.setups[0].longitudinal_cm == pytest.approx(one.setups[0].longitudinal_cm + 0.5)
        assert other.setups[0].lateral_cm == one.setups[0].lateral_cm


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 1, ERRORS), "0 treatments"),
        ((1, -1, ERRORS), "seed"),
        ((1, 1, SetupErrors()), "no error has a size"),
    ],
)
def test_senseless_samples_are_refused(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        random_setups(*arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{"random_cm": -0.1}, {"systematic_deg": (1.0, 2.0)}, {"mean_cm": (0, np.nan, 0)}])
def test_senseless_sizes_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidInput, match="setup error"):
        SetupErrors(**wrong)  # type: ignore[arg-type]
