"""Numbers read from dose curves (depth doses, profiles, tissue-phantom ratios), and two curves held side by side.

A curve is a pair of arrays: positions [cm], strictly rising, and values, of which the unit is the caller's. Between its
points a curve is linear. Nothing is extrapolated: a number that lies outside the curve is refused.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spinedose.errors import InvalidInput

Array = NDArray[np.float64]
Curve = tuple[ArrayLike, ArrayLike]
"""Positions [cm] and values of one curve."""

TOP = 0.99
"""Points above this share of the maximum take part in the fit that finds its depth. A cubic over 99 % follows measured
depth doses of 6 to 10 MV to 0.2 mm; a parabola would be 0.5 mm too deep, since they fall slower than they rise."""

LEAST_FOR_CUBIC = 6
"""Points that a cubic needs; fewer make a parabola."""

IN_FIELD = 0.8
"""Share of the field width that counts as the inside of a field (IEC 60976; AAPM MPPG 5.b speaks of the high dose
region). Flatness, symmetry and the in-field comparison use it."""

TAIL_MARGIN_CM = 1.0
"""The tail of a profile begins this far outside the 50 % edge [cm]; between it and the inside lies the penumbra."""

PDD_TO_TPR = (1.2661, -0.0595)
"""Slope and offset of TPR(20,10) against the ratio of the depth doses at 20 and 10 cm, for 10 x 10 cm2 at SSD 100 cm.
IAEA TRS-398, section 6.3.1 (Followill et al., Med. Phys. 25, 1202 (1998))."""


def curve_of(positions_cm: ArrayLike, values: ArrayLike) -> tuple[Array, Array]:
    """Check that two arrays make a curve and return them as float64.

    Parameters
    ----------
    positions_cm : array_like, shape (n,)
        Positions, strictly rising [cm].
    values : array_like, shape (n,)
        Values at them.

    Returns
    -------
    tuple of ndarray
        The same numbers.

    Raises
    ------
    InvalidInput
        If there are fewer than two points, the shapes differ, a number is not finite, or positions do not rise.
    """
    x, v = np.asarray(positions_cm, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or x.shape != v.shape or len(x) < 2:
        raise InvalidInput(
            "This is no curve", f"positions have shape {x.shape}, values {v.shape}; two points are least"
        )
    if not (np.all(np.isfinite(x)) and np.all(np.isfinite(v))):
        raise InvalidInput("A curve holds values that are not numbers")
    if np.any(np.diff(x) <= 0):
        raise InvalidInput("The positions of a curve do not rise strictly")
    return x, v


def value_at(positions_cm: ArrayLike, values: ArrayLike, position_cm: float) -> float:
    """Value of the curve at a position [cm], linear between its points.

    Raises
    ------
    InvalidInput
        If the position lies outside the curve.
    """
    x, v = curve_of(positions_cm, values)
    if not x[0] <= position_cm <= x[-1]:
        raise InvalidInput(f"The curve has no value at {position_cm:g} cm", f"it runs from {x[0]:g} to {x[-1]:g} cm")
    return float(np.interp(position_cm, x, v))


def maximum(positions_cm: ArrayLike, values: ArrayLike) -> tuple[float, float]:
    """Find the place and height of the maximum of a depth dose.

    A cubic (a parabola, when there are few) is fitted to the neighbours of the highest point that reach `TOP` of it, so
    that noise and the spacing of the points hardly matter. Where it has no maximum (the curve still rises at an end),
    the highest point itself counts.

    Returns
    -------
    tuple of float
        Position [cm] and value.
    """
    x, v = curve_of(positions_cm, values)
    peak = int(np.argmax(v))
    if v[peak] <= 0 or peak in (0, len(x) - 1):
        return float(x[peak]), float(v[peak])
    is_high = v >= TOP * v[peak]
    first, last = peak, peak
    while first > 0 and is_high[first - 1]:
        first -= 1
    while last < len(x) - 1 and is_high[last + 1]:
        last += 1
    first, last = min(first, peak - 1), max(last, peak + 1)
    u = x[first : last + 1] - x[peak]
    scale = float(np.max(np.abs(u)))
    degree = 3 if len(u) >= LEAST_FOR_CUBIC else 2
    basis = np.vander(u / scale, degree + 1)
    fitted, *_ = np.linalg.lstsq(basis, v[first : last + 1] / v[peak], rcond=None)
    tops = np.roots(np.polyder(fitted))
    tops = tops[np.isreal(tops)].real
    tops = tops[(np.polyval(np.polyder(fitted, 2), tops) < 0) & (tops >= u[0] / scale) & (tops <= u[-1] / scale)]
    if not len(tops):
        return float(x[peak]), float(v[peak])
    return float(x[peak] + tops[0] * scale), float(np.polyval(fitted, tops[0]) * v[peak])


def depth_of_maximum_cm(positions_cm: ArrayLike, values: ArrayLike) -> float:
    """Depth of the dose maximum [cm]; see `maximum`."""
    return maximum(positions_cm, values)[0]


def normalise_to_maximum(positions_cm: ArrayLike, values: ArrayLike) -> Array:
    """Values as shares of the fitted maximum (1 there).

    Raises
    ------
    InvalidInput
        If the maximum is not positive.
    """
    return _divided(values, maximum(positions_cm, values)[1], "maximum")


def normalise_at(positions_cm: ArrayLike, values: ArrayLike, position_cm: float) -> Array:
    """Values as shares of the value at a position [cm] (1 there).

    Raises
    ------
    InvalidInput
        If the position lies outside the curve, or the value there is not positive.
    """
    return _divided(values, value_at(positions_cm, values, position_cm), f"value at {position_cm:g} cm")


def percent_depth_dose(positions_cm: ArrayLike, values: ArrayLike, depth_cm: float) -> float:
    """Dose at a depth [cm] in percent of the maximum: `percent_depth_dose(x, v, 10)` is PDD10."""
    return 100 * value_at(positions_cm, normalise_to_maximum(positions_cm, values), depth_cm)


def tpr_20_10(positions_cm: ArrayLike, values: ArrayLike) -> float:
    """Ratio of the values at 20 and 10 cm depth: of a tissue-phantom ratio TPR(20,10), of a depth dose PDD(20,10)."""
    return value_at(positions_cm, values, 20.0) / _positive(value_at(positions_cm, values, 10.0), "value at 10 cm")


def tpr_20_10_from_depth_dose(positions_cm: ArrayLike, values: ArrayLike) -> float:
    """TPR(20,10) estimated from a depth dose of 10 x 10 cm2 at SSD 100 cm; see `PDD_TO_TPR`."""
    slope, offset = PDD_TO_TPR
    return slope * tpr_20_10(positions_cm, values) + offset


def edges_cm(
    positions_cm: ArrayLike, values: ArrayLike, *, share: float = 0.5, axis_value: float = math.nan
) -> tuple[float, float]:
    """Positions left and right of the axis where a profile first falls through a share of its axis value.

    Parameters
    ----------
    positions_cm, values : array_like, shape (n,)
        The profile.
    share : float
        Share of the axis value, e.g. 0.5.
    axis_value : float
        What counts as the axis value; without it the value at position 0. An unflattened beam may need one
        (renormalised to its inflection point; Poenisch et al., Med. Phys. 33, 1738 (2006)).

    Returns
    -------
    tuple of float
        Left and right position [cm].

    Raises
    ------
    InvalidInput
        If the profile does not hold the axis, or does not fall that low on a side.
    """
    x, v = curve_of(positions_cm, values)
    level = share * _axis_value(x, v, axis_value)
    half = _axis_value(x, v, axis_value) / 2
    left = -_fall(-x[::-1], v[::-1], half, level)
    right = _fall(x, v, half, level)
    return left, right


def field_width_cm(positions_cm: ArrayLike, values: ArrayLike, *, axis_value: float = math.nan) -> float:
    """Distance between the 50 % points of a profile (FWHM) [cm]; see `edges_cm`."""
    left, right = edges_cm(positions_cm, values, axis_value=axis_value)
    return right - left


def centre_cm(positions_cm: ArrayLike, values: ArrayLike, *, axis_value: float = math.nan) -> float:
    """Middle between the 50 % points of a profile [cm]; see `edges_cm`."""
    left, right = edges_cm(positions_cm, values, axis_value=axis_value)
    return (left + right) / 2


def penumbra_cm(positions_cm: ArrayLike, values: ArrayLike, *, axis_value: float = math.nan) -> tuple[float, float]:
    """Distance between the 80 and 20 % points on the left and on the right [cm]; see `edges_cm`."""
    high = edges_cm(positions_cm, values, share=0.8, axis_value=axis_value)
    low = edges_cm(positions_cm, values, share=0.2, axis_value=axis_value)
    return high[0] - low[0], low[1] - high[1]


def flatness_percent(positions_cm: ArrayLike, values: ArrayLike) -> float:
    """(max - min) / (max + min) inside 80 % of the field width [%]."""
    x, v = curve_of(positions_cm, values)
    _, inner = _inner(x, v)
    high, low = float(inner.max()), float(inner.min())
    return 100 * (high - low) / (high + low)


def symmetry_percent(positions_cm: ArrayLike, values: ArrayLike) -> float:
    """Largest difference of two points mirrored at the field centre, inside 80 % of the width [% of the centre value].

    The centre is the middle of the 50 % points, so that a profile measured off centre is not called asymmetric.
    """
    x, v = curve_of(positions_cm, values)
    points, inner = _inner(x, v)
    middle = centre_cm(x, v)
    mirrored = np.interp(2 * middle - points, x, v)
    return 100 * float(np.max(np.abs(inner - mirrored))) / value_at(x, v, middle)


def gamma_1d(
    reference: Curve,
    evaluated: Curve,
    *,
    dose_percent: float,
    distance_cm: float,
    normalisation: float = math.nan,
) -> Array:
    """Gamma index of every reference point against the evaluated curve.

    The evaluated curve is the continuous broken line through its points, so the distance is exact and does not depend
    on how finely it was sampled (Low et al., Med. Phys. 25, 656 (1998); Ju et al., Med. Phys. 35, 879 (2008)).

    Parameters
    ----------
    reference, evaluated : tuple of array_like
        Positions [cm] and values; both in one unit.
    dose_percent : float
        Dose criterion [% of `normalisation`].
    distance_cm : float
        Distance criterion [cm].
    normalisation : float
        Value that is 100 %; without it the highest reference value (global gamma).

    Returns
    -------
    ndarray, shape (n,)
        Gamma at each reference point; at most 1 passes.

    Raises
    ------
    InvalidInput
        If a criterion or the normalisation is not positive.
    """
    x, v = curve_of(*reference)
    p, q = curve_of(*evaluated)
    if not (dose_percent > 0 and distance_cm > 0):
        raise InvalidInput("The criteria of gamma are not positive")
    full = _positive(float(np.max(v)) if math.isnan(normalisation) else normalisation, "normalisation of gamma")
    u, w = p / distance_cm, q / (full * dose_percent / 100)
    a, b = x / distance_cm, v / (full * dose_percent / 100)
    step_u, step_w = np.diff(u), np.diff(w)
    # Foot of the perpendicular on each piece of the broken line, kept on the piece.
    along = (a[:, None] - u[:-1]) * step_u + (b[:, None] - w[:-1]) * step_w
    along = np.clip(along / (step_u**2 + step_w**2), 0.0, 1.0)
    gap_u = a[:, None] - u[:-1] - along * step_u
    gap_w = b[:, None] - w[:-1] - along * step_w
    gamma: Array = np.sqrt(np.min(gap_u**2 + gap_w**2, axis=1))
    return gamma


def distance_to_agreement_cm(reference: Curve, evaluated: Curve) -> Array:
    """Distance from each reference point to the nearest place where the evaluated curve has its value [cm].

    Returns
    -------
    ndarray, shape (n,)
        Distances [cm]; NaN where the evaluated curve never has the value.
    """
    x, v = curve_of(*reference)
    p, q = curve_of(*evaluated)
    low, high = np.minimum(q[:-1], q[1:]), np.maximum(q[:-1], q[1:])
    rise = q[1:] - q[:-1]
    is_flat = rise == 0
    share = (v[:, None] - q[:-1]) / np.where(is_flat, 1.0, rise)
    place = p[:-1] + share * np.diff(p)
    # A flat piece has its value everywhere: the nearest place is the point itself, kept on the piece.
    place = np.where(is_flat, np.clip(x[:, None], p[:-1], p[1:]), place)
    has = (v[:, None] >= low) & (v[:, None] <= high)
    distance = np.where(has, np.abs(place - x[:, None]), np.inf).min(axis=1)
    return np.where(np.isfinite(distance), distance, np.nan)


@dataclass(frozen=True, slots=True)
class Region:
    """How two curves differ in one part of them; differences are calculated minus measured.

    Parameters
    ----------
    name : str
        `build-up`, `beyond`, `in-field`, `penumbra` or `tail`.
    n_points : int
        Measured points in it.
    mean_percent, rms_percent, worst_percent : float
        Mean, root mean square and largest (with its sign) difference [% of the reference value].
    worst_at_cm : float
        Where the largest difference is [cm].
    mean_local_percent, worst_local_percent : float
        Mean and largest difference [% of the measured value itself]; points measured as 0 or less do not count.
    worst_distance_cm : float
        Largest distance to agreement [cm]; NaN when a point has none.
    """

    name: str
    n_points: int
    mean_percent: float
    rms_percent: float
    worst_percent: float
    worst_at_cm: float
    mean_local_percent: float
    worst_local_percent: float
    worst_distance_cm: float


@dataclass(frozen=True, slots=True)
class CurveComparison:
    """Two curves held against each other, part by part.

    Parameters
    ----------
    kind : str
        `depth_dose` or `profile`.
    reference_value : float
        What 100 % is: the measured maximum of a depth dose, the measured axis value of a profile.
    regions : tuple of Region
        Parts that hold points.
    n_outside : int
        Measured points that were not compared: outside the calculated curve, or above the water.
    """

    kind: str
    reference_value: float
    regions: tuple[Region, ...]
    n_outside: int

    def region(self, name: str) -> Region:
        """Find a part by name.

        Raises
        ------
        InvalidInput
            If no measured point lies in it.
        """
        for region in self.regions:
            if region.name == name:
                return region
        raise InvalidInput(f"The comparison has no points in '{name}'", f"it has {[r.name for r in self.regions]}")


def compare_curves(
    measured: Curve,
    calculated: Curve,
    *,
    kind: Literal["depth_dose", "profile"],
    normalise_at_cm: float = math.nan,
) -> CurveComparison:
    """Hold a calculated curve against a measured one, at the measured points.

    A depth dose is split at the measured maximum into build-up (from depth 0) and beyond. A profile is split into
    in-field (inside 80 % of the measured width, about the measured centre), penumbra (to 1 cm outside the 50 % edge)
    and tail.

    Parameters
    ----------
    measured, calculated : tuple of array_like
        Positions [cm] and values, both in one unit.
    kind : str
        `depth_dose` or `profile`.
    normalise_at_cm : float
        Position [cm] at which the calculated curve is scaled to the measured one; without it nothing is scaled.

    Returns
    -------
    CurveComparison
        Differences by part.

    Raises
    ------
    InvalidInput
        If a profile has no 50 % points, the curves share no point, or the kind is unknown.
    """
    x, v = curve_of(*measured)
    p, q = curve_of(*calculated)
    if not math.isnan(normalise_at_cm):
        q = q * value_at(x, v, normalise_at_cm) / _positive(value_at(p, q, normalise_at_cm), "calculated value")
    if kind == "depth_dose":
        dmax, full = maximum(x, v)
        parts = {"build-up": (x >= 0) & (x < dmax), "beyond": x >= dmax}
    elif kind == "profile":
        full = value_at(x, v, 0.0)
        left, right = edges_cm(x, v)
        off = np.abs(x - (left + right) / 2)
        half = (right - left) / 2
        is_in, is_tail = off <= IN_FIELD * half, off > half + TAIL_MARGIN_CM
        parts = {"in-field": is_in, "penumbra": ~is_in & ~is_tail, "tail": is_tail}
    else:
        raise InvalidInput(f"Curves of kind '{kind}' cannot be compared", "the kinds are depth_dose and profile")
    full = _positive(full, "reference value of the measured curve")
    is_common = (x >= p[0]) & (x <= p[-1])
    regions = tuple(
        _region(name, (x[part & is_common], v[part & is_common]), (p, q), full)
        for name, part in parts.items()
        if np.any(part & is_common)
    )
    if not regions:
        raise InvalidInput(
            "The two curves share no point",
            f"measured from {x[0]:g} to {x[-1]:g} cm, calculated from {p[0]:g} to {p[-1]:g} cm",
        )
    return CurveComparison(kind, full, regions, len(x) - sum(region.n_points for region in regions))


def _region(name: str, measured: tuple[Array, Array], calculated: tuple[Array, Array], full: float) -> Region:
    """Differences at these measured points."""
    x, v = measured
    p, q = calculated
    difference = np.interp(x, p, q) - v
    worst = int(np.argmax(np.abs(difference)))
    local = 100 * difference[v > 0] / v[v > 0]
    distance = _distance_at_points(x, v, p, q)
    return Region(
        name,
        len(x),
        100 * float(np.mean(difference)) / full,
        100 * float(np.sqrt(np.mean(difference**2))) / full,
        100 * float(difference[worst]) / full,
        float(x[worst]),
        float(np.mean(local)) if len(local) else math.nan,
        float(local[np.argmax(np.abs(local))]) if len(local) else math.nan,
        float(np.max(distance)),
    )


def _distance_at_points(x: Array, v: Array, p: Array, q: Array) -> Array:
    """Distance to agreement; a region may hold a single point, which is no curve."""
    if len(x) >= 2:
        return distance_to_agreement_cm((x, v), (p, q))
    twice = (np.array([x[0], x[0] + 1.0]), np.array([v[0], v[0]]))
    return distance_to_agreement_cm(twice, (p, q))[:1]


def _inner(x: Array, v: Array) -> tuple[Array, Array]:
    """Points inside 80 % of the field width about its centre, with the two ends of that range."""
    left, right = edges_cm(x, v)
    middle, half = (left + right) / 2, IN_FIELD * (right - left) / 2
    within = x[np.abs(x - middle) < half]
    points = np.concatenate([[middle - half], within, [middle + half]])
    return points, np.interp(points, x, v)


def _axis_value(x: Array, v: Array, stated: float) -> float:
    if not math.isnan(stated):
        return _positive(stated, "axis value")
    return _positive(value_at(x, v, 0.0), "value on the axis")


def _fall(x: Array, v: Array, half: float, level: float) -> float:
    """Position right of the axis where a profile falls through a level, next to its 50 % point.

    The 50 % point is the first one outwards. A higher level is looked for inwards from there and a lower one outwards,
    so that the horns and the cone of an unflattened beam are not taken for an edge.
    """
    outside = np.flatnonzero((x > 0) & (v < half))
    if not len(outside):
        raise InvalidInput(
            "The profile does not fall to 50 % of its axis value on a side", "it has no field edge there"
        )
    edge = int(outside[0])
    if level > half:
        above = np.flatnonzero(v[:edge] >= level)
        if not len(above):
            raise InvalidInput("The profile does not reach the level on a side", f"{level:g} of an axis value")
        i = int(above[-1])
    else:
        below = np.flatnonzero(v[edge:] < level) if level < half else np.array([0])
        if not len(below):
            raise InvalidInput("The profile does not fall low enough on a side", f"it stays above {level:g}")
        i = edge + int(below[0]) - 1
    if i < 0 or not v[i] >= level > v[i + 1]:
        raise InvalidInput("The profile has no clean field edge on a side", "it is below the level next to its axis")
    return float(x[i] + (v[i] - level) / (v[i] - v[i + 1]) * (x[i + 1] - x[i]))


def _divided(values: ArrayLike, by: float, what: str) -> Array:
    shares: Array = np.asarray(values, dtype=np.float64) / _positive(by, what)
    return shares


def _positive(value: float, what: str) -> float:
    if not (math.isfinite(value) and value > 0):
        raise InvalidInput(f"The {what} is {value:g}", "a share of it means nothing")
    return value
