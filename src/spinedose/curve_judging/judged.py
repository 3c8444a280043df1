"""A part of a curve held against its limit: the one routine that says whether a calculated curve is good enough."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spinedose.curve_judging.compared import Compared, as_array
from spinedose.curve_judging.criterion import Criterion
from spinedose.errors import InvalidInput
from spinedose.units import MM_PER_CM

Array = NDArray[np.float64]
Criteria = Mapping[str, Criterion]

USUAL_FIELDS_CM = (2.0, 30.0)
"""Fields for which the project's target of depth doses holds [cm]; others have the wider limit."""


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """Differences of one quantity, and their limit.

    Parameters
    ----------
    quantity : str
        `build-up`, `beyond`, `in-field`, `penumbra`, `width`, `tail` or `output`.
    criterion : Criterion
        The limit.
    differences : ndarray, shape (n,)
        Calculated minus measured, in the unit of the limit.
    at_cm : ndarray, shape (n,)
        Where they are [cm]; NaN where that means nothing.
    distances_mm : ndarray, shape (n,)
        Distance to agreement of each [mm], which counts where the limit names a distance; NaN for none.
    """

    quantity: str
    criterion: Criterion
    differences: Array
    at_cm: Array
    distances_mm: Array

    def __post_init__(self) -> None:
        shapes = {self.differences.shape, self.at_cm.shape, self.distances_mm.shape}
        if len(shapes) != 1 or not len(self.differences) or not np.all(np.isfinite(self.differences)):
            raise InvalidInput(f"There is nothing to judge as '{self.quantity}'", "a difference is missing")

    @property
    def shares(self) -> Array:
        """Each difference as a share of the limit; where a distance may be kept instead, the smaller share."""
        shares = np.abs(self.differences) / self.criterion.limit
        if not math.isnan(self.criterion.or_mm):
            shares = np.fmin(shares, np.abs(self.distances_mm) / self.criterion.or_mm)
        return shares

    @property
    def share(self) -> float:
        """The largest share: at most 1 is within the limit."""
        return round(float(np.max(self.shares)), 9)

    @property
    def is_within(self) -> bool:
        """Whether the limit is kept."""
        return self.share <= 1

    @property
    def worst(self) -> float:
        """The difference with the largest share, with its sign, in the unit of the limit."""
        return float(self.differences[int(np.argmax(self.shares))])

    @property
    def worst_at_cm(self) -> float:
        """Where it is [cm]."""
        return float(self.at_cm[int(np.argmax(self.shares))])


def judge_curve(compared: Compared, criteria: Criteria, field_cm: tuple[float, float]) -> tuple[Judged, ...]:
    """Hold every part of a curve against its limit.

    Parameters
    ----------
    compared : Compared
        From `compare_depth_dose` or `compare_profile`.
    criteria : mapping of str to Criterion
        From `read_criteria`.
    field_cm : tuple of 2 floats
        The field, x and y [cm]: limits of depth doses are wider in the smallest and the largest.

    Returns
    -------
    tuple of Judged
        In the order build-up, beyond; in-field, penumbra, width, tail; without what the curve does not show.
    """
    smallest, largest = USUAL_FIELDS_CM
    is_usual = min(field_cm) >= smallest and max(field_cm) <= largest
    limits = {
        "build-up": "build_up",
        "beyond": "depth_dose_beyond" if is_usual else "depth_dose_beyond_other_fields",
        "in-field": "in_field",
        "penumbra": "penumbra",
        "width": "width",
        "tail": "tail",
    }
    found = []
    for quantity, key in limits.items():
        if quantity == "penumbra":
            numbers = MM_PER_CM * np.array(compared.wider_penumbra_cm)
        elif quantity == "width":
            numbers = MM_PER_CM * as_array(compared.wider_cm)
        else:
            chosen = compared.parts == quantity
            if np.any(chosen):
                found.append(
                    Judged(
                        quantity, criteria[key], compared.difference_percent[chosen], compared.positions_cm[chosen],
                        MM_PER_CM * compared.distance_cm[chosen],
                    )
                )  # fmt: skip
            continue
        if np.all(np.isfinite(numbers)):
            nowhere = np.full(len(numbers), math.nan)
            found.append(Judged(quantity, criteria[key], numbers, nowhere, nowhere))
    return tuple(found)


def judge_output(difference_percent: float, criteria: Criteria, side_cm: float) -> Judged:
    """Hold an output ratio against its limit.

    Parameters
    ----------
    difference_percent : float
        Calculated against measured [%].
    criteria : mapping of str to Criterion
        From `read_criteria`.
    side_cm : float
        Shorter side of the field [cm].
    """
    nowhere = np.full(1, math.nan)
    return Judged("output", output_criterion(criteria, side_cm), as_array(difference_percent), nowhere, nowhere)


def output_criterion(criteria: Criteria, side_cm: float) -> Criterion:
    """Limit for the output of a field whose shorter side is so long [cm]."""
    return criteria["output_from_3_cm" if side_cm >= 3 else "output_2_cm" if side_cm >= 2 else "output_1_cm"]
