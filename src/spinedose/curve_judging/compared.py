"""A measured curve and the calculated one, split into the parts that are judged apart, such as build-up and tail."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spinedose.compare.curves import (
    IN_FIELD,
    TAIL_MARGIN_CM,
    Curve,
    curve_of,
    distance_to_agreement_cm,
    edges_cm,
    maximum,
    penumbra_cm,
    value_at,
)
from spinedose.errors import InvalidInput

Array = NDArray[np.float64]
Sides = tuple[float, float]

PARTS = ("build-up", "beyond", "in-field", "penumbra", "tail")
"""Parts of curves, those of `compare.curves.compare_curves`."""

EDGE_CM = 0.5
"""The 50 % points of a profile lie this near to the projected field edge [cm], or they are none: in a wide field
without flattening filter the dose falls to half within the field."""

SHOULDER_FIELD_CM = 5.0
"""In fields from this size the penumbra is counted relative to the dose at 80 % of the half width, so that it means the
same with and without flattening filter; in smaller ones relative to the axis."""

NOTHING = (math.nan, math.nan)


@dataclass(frozen=True, slots=True, eq=False)
class Compared:
    """A measured curve with the calculated one at its points; differences are calculated minus measured.

    Parameters
    ----------
    positions_cm, measured, calculated : ndarray, shape (n,)
        Points [cm] and values, in one unit.
    full : float
        What 100 % is, in the unit of the values: the axis of a profile, the maximum of a depth dose.
    difference_percent : ndarray, shape (n,)
        Difference at each point [% of `full`].
    distance_cm : ndarray, shape (n,)
        Distance to agreement of each point [cm]; NaN where the calculated curve never has the measured value.
    parts : ndarray of str, shape (n,)
        The part each point belongs to, one of `PARTS`.
    penumbra_measured_cm, penumbra_calculated_cm : tuple of 2 floats
        Widths from 80 to 20 %, left and right [cm]; NaN for depth doses and where there is none.
    width_measured_cm, width_calculated_cm : float
        Width between the 50 % points [cm]; NaN likewise.
    """

    positions_cm: Array
    measured: Array
    calculated: Array
    full: float
    difference_percent: Array
    distance_cm: Array
    parts: NDArray[np.str_]
    penumbra_measured_cm: Sides = NOTHING
    penumbra_calculated_cm: Sides = NOTHING
    width_measured_cm: float = math.nan
    width_calculated_cm: float = math.nan

    @property
    def wider_penumbra_cm(self) -> Sides:
        """Calculated minus measured width of the penumbra, left and right [cm]."""
        left, right = (q - p for p, q in zip(self.penumbra_measured_cm, self.penumbra_calculated_cm, strict=True))
        return left, right

    @property
    def wider_cm(self) -> float:
        """Calculated minus measured width of the field [cm]."""
        return self.width_calculated_cm - self.width_measured_cm


def compare_depth_dose(measured: Curve, calculated: Curve, *, full: float = math.nan) -> Compared:
    """Hold a calculated depth dose against a measured one; both must be scaled to each other already.

    Parameters
    ----------
    measured, calculated : tuple of array_like
        Depths [cm] and values; the calculated ones may be finer.
    full : float
        What 100 % is; without it the maximum of the measured curve.
    """
    x, v, p, q = _common(measured, calculated)
    dmax, top = maximum(x, v)
    full = top if math.isnan(full) else full
    at = np.interp(x, p, q)
    parts = np.where(x < dmax, "build-up", "beyond")
    return Compared(x, v, at, full, 100 * (at - v) / full, distance_to_agreement_cm((x, v), (p, q)), parts)


def compare_profile(
    measured: Curve,
    calculated: Curve,
    *,
    half_cm: float,
    penumbra_of: Curve | None = None,
    measured_width_cm: float = math.nan,
) -> Compared:
    """Hold a calculated profile against a measured one; both must be centred and 1 (or alike) on the axis.

    A profile is split about its own 50 % points where these are the field edges; one that is cut, one-sided, or of a
    wide field without flattening filter about the projected edge.

    Parameters
    ----------
    measured, calculated : tuple of array_like
        Positions [cm] and values; the calculated ones may be finer.
    half_cm : float
        Half of the field's width at that depth, by projection [cm]; see `projected_half_cm`.
    penumbra_of : tuple of array_like, optional
        The measured curve on finer positions, for the width of its penumbra.
    measured_width_cm : float
        Width between the 50 % points, where it is known better than these points have it [cm].
    """
    x, v, p, q = _common(measured, calculated)
    at, full = np.interp(x, p, q), value_at(x, v, 0.0)
    half, middle = half_cm, 0.0
    edges = _edges(x, v, half_cm)
    if not math.isnan(edges[0]):
        half, middle = 0.5 * (edges[1] - edges[0]), 0.5 * (edges[0] + edges[1])
    off = np.abs(x - middle)
    parts = np.where(off <= IN_FIELD * half, "in-field", np.where(off <= half + TAIL_MARGIN_CM, "penumbra", "tail"))
    fine = (x, v) if penumbra_of is None else curve_of(*penumbra_of)
    mine = _edges(p, q, half_cm)
    width = edges[1] - edges[0] if math.isnan(measured_width_cm) else measured_width_cm
    return Compared(
        x, v, at, full, 100 * (at - v) / full, distance_to_agreement_cm((x, v), (p, q)), parts,
        _penumbra(*fine, half_cm), _penumbra(p, q, half_cm), width, mine[1] - mine[0],
    )  # fmt: skip


def projected_half_cm(kind: str, field_cm: tuple[float, float], ssd_cm: float, depth_cm: float) -> float:
    """Half of a field's width at a depth, by divergence, along the direction of a profile [cm].

    Parameters
    ----------
    kind : str
        `crossline`, `inline` or `diagonal` (at 45 degrees); others count as crossline.
    field_cm : tuple of 2 floats
        Field at the isocentre plane, x and y [cm].
    ssd_cm, depth_cm : float
        Distance from source to surface, and depth [cm]; the isocentre plane is 100 cm from the source.
    """
    side = {"inline": field_cm[1], "diagonal": math.sqrt(2) * min(field_cm)}.get(kind, field_cm[0])
    return 0.5 * side * (ssd_cm + depth_cm) / 100.0


def _common(measured: Curve, calculated: Curve) -> tuple[Array, Array, Array, Array]:
    """Both curves, the measured one cut to where there are calculated values."""
    x, v = curve_of(*measured)
    p, q = curve_of(*calculated)
    is_common = (x >= p[0] - 1e-9) & (x <= p[-1] + 1e-9)
    if np.count_nonzero(is_common) < 2:
        raise InvalidInput(
            "The two curves share no point",
            f"measured from {x[0]:g} to {x[-1]:g} cm, calculated from {p[0]:g} to {p[-1]:g} cm",
        )
    return x[is_common], v[is_common], p, q


def _edges(x: Array, v: Array, half_cm: float) -> Sides:
    """The 50 % points [cm]; NaN where they are not the edges of the field, or there are none."""
    try:
        edges = edges_cm(x, v)
    except InvalidInput:  # one-sided, or cut within the field
        return NOTHING
    return edges if max(abs(abs(edge) - half_cm) for edge in edges) <= EDGE_CM else NOTHING


def _penumbra(x: Array, v: Array, half_cm: float) -> Sides:
    """Widths from 80 to 20 % on both sides [cm]; NaN where there are none."""
    try:
        shoulder = math.nan
        if 2 * half_cm >= SHOULDER_FIELD_CM:
            shoulder = 0.5 * sum(value_at(x, v, side * IN_FIELD * half_cm) for side in (-1, 1))
        edges = edges_cm(x, v, axis_value=shoulder)
        if max(abs(abs(edge) - half_cm) for edge in edges) > EDGE_CM:
            return NOTHING
        return penumbra_cm(x, v, axis_value=shoulder)
    except InvalidInput:  # one-sided, or it does not fall to 20 %
        return NOTHING


def as_array(values: ArrayLike) -> Array:
    """Values as float64."""
    return np.atleast_1d(np.asarray(values, dtype=np.float64))
