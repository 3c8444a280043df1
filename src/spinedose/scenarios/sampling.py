"""Sets of scenarios: single axes, full grids, and random setup errors with a seed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from spinedose.errors import InvalidInput
from spinedose.scenarios.scenario import AXES, Scenario
from spinedose.setup import Setup
from spinedose.units import MM_PER_CM

SIX = tuple(AXES)

MOST_ERROR_CM, MOST_ERROR_DEG = 5.0, 30.0
"""Larger standard deviations of setup errors are taken for a mistake (house default) [cm, degrees]."""


def setup_grid(
    shifts_cm: Sequence[float] = (0.1, 0.2),
    turns_deg: Sequence[float] = (1.0, 2.0),
    *,
    axes: Sequence[str] = SIX,
    pivot_cm: tuple[float, float, float] | None = None,
) -> tuple[Scenario, ...]:
    """One axis at a time, each amount both ways: six axes, two amounts and two signs are 24 scenarios.

    Parameters
    ----------
    shifts_cm : sequence of float
        Amounts of the shifts, positive [cm].
    turns_deg : sequence of float
        Amounts of the turns, positive [degrees].
    axes : sequence of str
        Fields of `Setup` to vary.
    pivot_cm : tuple of 3 floats, optional
        As in `Setup`.
    """
    found = []
    for axis in _known(axes):
        amounts = shifts_cm if axis.endswith("_cm") else turns_deg
        for amount in sorted({float(value) for value in amounts}):
            if not (math.isfinite(amount) and amount > 0):
                raise InvalidInput(
                    f"A grid of setups has the amount {amount}", "each is taken both ways", "Name it > 0"
                )
            for sign in (-1, 1):
                setup = Setup(**{axis: sign * amount}, pivot_cm=pivot_cm)
                found.append(Scenario(in_words(setup), setup, group="grid"))
    return tuple(found)


def setup_factorial(
    pivot_cm: tuple[float, float, float] | None = None, /, **values: Sequence[float]
) -> tuple[Scenario, ...]:
    """All combinations of values on some axes: `setup_factorial(lateral_cm=(-0.2, 0, 0.2), roll_deg=(-1, 0, 1))`.

    Parameters
    ----------
    pivot_cm : tuple of 3 floats, optional
        As in `Setup`.
    **values : sequence of float
        Values by field of `Setup` [cm, degrees].
    """
    axes = _known(tuple(values))
    if not axes:
        raise InvalidInput("A factorial grid has no axis", "there is nothing to combine")
    found = []
    for amounts in itertools.product(*(sorted({float(value) for value in values[axis]}) for axis in axes)):
        setup = Setup(**dict(zip(axes, amounts, strict=True)), pivot_cm=pivot_cm)
        found.append(Scenario(in_words(setup), setup, group="factorial"))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class SetupErrors:
    """How large setup errors are: standard deviations of a normal distribution on each axis.

    A systematic error is drawn once for a whole treatment, a random one anew for each fraction; they add. That is the
    model of van Herk et al. (Sigma and sigma), with turns beside the shifts. The six axes are independent, and their
    numbers add as numbers, which for turns of some degrees is exact to a hundredth of a degree.

    Parameters
    ----------
    systematic_cm, random_cm : float or 3 floats
        Standard deviations of shifts: one for all, or lateral, longitudinal and vertical [cm].
    systematic_deg, random_deg : float or 3 floats
        Standard deviations of turns: one for all, or pitch, roll and yaw [degrees].
    mean_cm, mean_deg : 3 floats
        Mean of the systematic error: what a whole department does wrong.

    References
    ----------
    van Herk, Remeijer, Rasch, Lebesque, Int J Radiat Oncol Biol Phys 47:1121 (2000), doi:10.1016/S0360-3016(00)00518-6.
    """

    systematic_cm: float | tuple[float, float, float] = 0.0
    random_cm: float | tuple[float, float, float] = 0.0
    systematic_deg: float | tuple[float, float, float] = 0.0
    random_deg: float | tuple[float, float, float] = 0.0
    mean_cm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    mean_deg: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        for name in ("systematic_cm", "random_cm", "systematic_deg", "random_deg"):
            for value in _three(getattr(self, name), name):
                if not 0 <= value <= (MOST_ERROR_CM if name.endswith("_cm") else MOST_ERROR_DEG):
                    raise InvalidInput(f"A setup error has {name} = {value}", "no such standard deviation can be meant")
        for name in ("mean_cm", "mean_deg"):
            if not np.all(np.isfinite(_three(getattr(self, name), name))):
                raise InvalidInput(f"A setup error has {name} = {getattr(self, name)}", "it needs three numbers")

    @property
    def systematic(self) -> tuple[float, ...]:
        """Standard deviations on the six axes [cm, degrees]."""
        return (*_three(self.systematic_cm, "systematic_cm"), *_three(self.systematic_deg, "systematic_deg"))

    @property
    def random(self) -> tuple[float, ...]:
        """Standard deviations on the six axes [cm, degrees]."""
        return (*_three(self.random_cm, "random_cm"), *_three(self.random_deg, "random_deg"))


def random_setups(
    count: int,
    seed: int,
    errors: SetupErrors,
    *,
    fractions: int = 1,
    pivot_cm: tuple[float, float, float] | None = None,
) -> tuple[Scenario, ...]:
    """Treatments with random setup errors; the same for the same seed, and the first n of more are the same n.

    Parameters
    ----------
    count : int
        How many treatments.
    seed : int
        Of numpy's `PCG64` generator.
    errors : SetupErrors
        How large errors are.
    fractions : int
        Fractions of each treatment: each has its own random error, and their doses add up in the patient.
    pivot_cm : tuple of 3 floats, optional
        As in `Setup`.
    """
    if count < 1 or fractions < 1:
        raise InvalidInput(f"{count} treatments of {fractions} fractions were asked for", "there is at least one")
    if seed < 0:
        raise InvalidInput(f"The seed is {seed}", "it is a whole number from 0")
    if not any((*errors.systematic, *errors.random)):
        raise InvalidInput("Random setups were asked for, but no error has a size", "all would be the same")
    means = np.array([*errors.mean_cm, *errors.mean_deg])
    found = []
    for number in range(1, count + 1):
        # A generator for each treatment: number 7 is the same whoever computes it, and however many there are.
        generator = np.random.Generator(np.random.PCG64([seed, number]))
        whole = means + np.array(errors.systematic) * generator.standard_normal(6)
        # Drawn for every fraction even when there are none, so that the systematic part does not hang on it.
        each = np.array(errors.random) * generator.standard_normal((fractions, 6))
        setups = tuple(
            Setup(**{axis: float(v) for axis, v in zip(AXES, whole + one, strict=True)}, pivot_cm=pivot_cm)
            for one in each
        )
        same = setups[0] if not any(errors.random) or fractions == 1 else setups
        found.append(Scenario(f"random {number:03d}", same, group="random", is_sample=True))
    return tuple(found)


def in_words(setup: Setup) -> str:
    """A setup as a name: `lateral +1 mm, yaw -2 deg`; lengths in mm as on the command line."""
    return ", ".join(_words(setup)) or "as planned"


def _words(setup: Setup) -> Iterator[str]:
    for axis in AXES:
        value = getattr(setup, axis)
        if value and axis.endswith("_cm"):
            yield f"{axis[:-3]} {MM_PER_CM * value:+.4g} mm"
        elif value:
            yield f"{axis[:-4]} {value:+.4g} deg"


def _known(axes: Sequence[str]) -> tuple[str, ...]:
    for axis in axes:
        if axis not in AXES:
            raise InvalidInput(f"'{axis}' is no axis of a setup", f"there are {', '.join(AXES)}")
    return tuple(axis for axis in AXES if axis in axes)


def _three(value: float | Sequence[float], name: str) -> tuple[float, float, float]:
    if isinstance(value, int | float):
        return (float(value),) * 3
    numbers = tuple(float(each) for each in value)
    if len(numbers) != 3:
        raise InvalidInput(
            f"A setup error has {len(numbers)} numbers for {name}", "there is one for all axes, or three"
        )
    return numbers
