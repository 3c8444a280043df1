"""How well calculated curves agree with measured ones, curve by curve and part by part, and whether within limits.

`agreement_of` only looks; `check_beam` holds a beam model against new measurements, after the set-up of the
measurement (where depth zero and the field edges really were) has been found from them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spinedose.commission import (
    REFERENCE_DEPTH_CM,
    REFERENCE_FIELD_CM,
    Calculator,
    Curve,
    Fitted,
    Progress,
    fit_beam,
    parameters_of,
)
from spinedose.compare.curves import (
    IN_FIELD,
    TAIL_MARGIN_CM,
    Region,
    distance_to_agreement_cm,
    edges_cm,
    maximum,
    penumbra_cm,
    value_at,
)
from spinedose.errors import InvalidInput
from spinedose.machine import Machine

Array = NDArray[np.float64]

EDGE_CM = 0.5
"""The 50 % points of a profile lie this near to the projected field edge [cm], or they are none: in a wide field
without flattening filter the dose falls to half within the field."""

LATE_CM = 3.0
"""A depth dose that starts deeper than this is a part of one [cm], and its title says so."""

PARTS = ("build-up", "beyond", "in-field", "penumbra", "tail")
"""Parts of curves, those of `compare.curves.compare_curves`."""

SHOULDER_FIELD_CM = 5.0
"""In fields from this size the penumbra is counted relative to the dose at 80 % of the half width, so that it means the
same with and without flattening filter; in smaller ones relative to the axis."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How far a calculated curve may lie from the measured one.

    The defaults are the targets of this project for a commissioned beam (docs/howto/commissioning.md). They are
    stricter than what AAPM MPPG 5.b asks of a planning system (2 % in the field, 3 mm, 3 % of the maximum outside).

    Parameters
    ----------
    depth_dose_percent : float
        Depth dose from the maximum on [% of the maximum].
    build_up_percent, build_up_cm : float
        Depth dose before the maximum: either is enough [% of the maximum; cm].
    in_field_percent, in_field_cm : float
        Profile inside 80 % of the field width [% of the axis]; the distance [cm] is an alternative for small fields.
    penumbra_cm : float
        Width from 80 to 20 % on the worse side, calculated against measured [cm].
    tail_percent : float
        Profile from 1 cm outside the field edge on [% of the axis].
    output_percent : float
        Output relative to the reference field, for fields from 3 cm; twice this from 2 cm, thrice below, where readings
        depend on the detector [%].
    """

    depth_dose_percent: float = 1.0
    build_up_percent: float = 5.0
    build_up_cm: float = 0.2
    in_field_percent: float = 1.5
    in_field_cm: float = 0.1
    penumbra_cm: float = 0.1
    tail_percent: float = 2.0
    output_percent: float = 1.0

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if not getattr(self, name) > 0:
                raise InvalidInput(f"The limit {name} is {getattr(self, name)}", "a limit is positive")

    def output_percent_of(self, side_cm: float) -> float:
        """Limit of the output of a field whose shorter side is this long [%]."""
        return self.output_percent * (1.0 if side_cm >= 3 else 2.0 if side_cm >= 2 else 3.0)


@dataclass(frozen=True, slots=True, eq=False)
class Agreement:
    """A measured curve and the calculated one, and how they differ; differences are calculated minus measured.

    Parameters
    ----------
    curve : Curve
        What was measured.
    calculated : ndarray, shape (n,)
        Calculated values at its points.
    full : float
        What 100 % is, in the unit of the curve: the axis dose of a profile, the dose maximum of a depth dose (of its
        field, where the curve itself starts deeper).
    difference_percent : ndarray, shape (n,)
        Difference at each point [% of `full`]. A depth dose of a field that was measured at the reference depth is
        scaled there: what is left is its shape, and the rest is `output_percent`.
    distance_cm : ndarray, shape (n,)
        Distance to agreement of each point [cm]; NaN where the calculated curve never has the measured value.
    parts : ndarray of str, shape (n,)
        The part each point belongs to, one of `PARTS`, or `output` of an output factor.
    regions : tuple of Region
        Parts of the curve as `compare_curves` makes them; a profile whose own 50 % points are not its field edges (cut,
        one-sided, or a wide field without flattening filter) is split about the projected edge.
    penumbra_mm : tuple of 2 floats
        Width from 80 to 20 %, mean of both sides, measured and calculated [mm]; NaN for depth doses.
    penumbra_difference_cm : float
        Difference of these widths on the worse side [cm]; NaN for depth doses and where there is no penumbra.
    output_percent : float
        Difference of the output relative to the reference field [%]; NaN for profiles and relative curves.
    """

    curve: Curve
    calculated: Array
    full: float
    difference_percent: Array
    distance_cm: Array
    parts: NDArray[np.str_]
    regions: tuple[Region, ...]
    penumbra_mm: tuple[float, float]
    penumbra_difference_cm: float
    output_percent: float

    @property
    def title(self) -> str:
        """Field, direction, depth and detector in a few words."""
        return title_of(self.curve)

    @property
    def mean_percent(self) -> float:
        """Mean difference [%]."""
        return float(np.mean(self.difference_percent))

    @property
    def rms_percent(self) -> float:
        """Root mean square of the difference [%]."""
        return float(np.sqrt(np.mean(self.difference_percent**2)))

    @property
    def worst_percent(self) -> float:
        """Largest difference, with its sign [%]."""
        return float(self.difference_percent[np.argmax(np.abs(self.difference_percent))])

    @property
    def worst_at_cm(self) -> float:
        """Where it is [cm]."""
        return float(self.curve.positions_cm[np.argmax(np.abs(self.difference_percent))])

    @property
    def misfit(self) -> float:
        """Root mean square of the difference in standard deviations of the points: the measure of bad."""
        return float(np.sqrt(np.mean(((self.calculated - self.curve.values) / self.curve.sigma) ** 2)))


@dataclass(frozen=True, slots=True)
class Judgement:
    """One number held against its limit.

    Parameters
    ----------
    what : str
        The curve, or the set of output factors.
    quantity : str
        `depth dose`, `build-up`, `in-field`, `penumbra`, `tail`, `output` or `calibration`.
    value, limit : float
        Difference with its sign, and its limit, in `unit`.
    unit : str
        `%` or `mm`.
    is_within : bool
        Whether it keeps the limit (or an alternative one).
    where : str
        Where on the curve; may be empty.
    """

    what: str
    quantity: str
    value: float
    limit: float
    unit: str
    is_within: bool
    where: str = ""

    def __str__(self) -> str:
        place = f" {self.where}" if self.where else ""
        return f"{self.what}: {self.quantity} {self.value:+.2f} {self.unit}{place} (limit {self.limit:g} {self.unit})"


@dataclass(frozen=True, slots=True, eq=False)
class BeamCheck:
    """A beam model held against new measurements.

    Parameters
    ----------
    agreements : tuple of Agreement
        Every curve.
    judgements : tuple of Judgement
        Every number with its limit.
    setup : tuple of Fitted
        Set-up of the measurement as found from it: depth zero, field edges.
    """

    agreements: tuple[Agreement, ...]
    judgements: tuple[Judgement, ...]
    setup: tuple[Fitted, ...]

    @property
    def outside(self) -> tuple[Judgement, ...]:
        """What is outside its limit, the worst first."""
        bad = [item for item in self.judgements if not item.is_within]
        return tuple(sorted(bad, key=lambda item: -abs(item.value) / item.limit))


def title_of(curve: Curve) -> str:
    """A curve's field, direction, depth and detector in a few words."""
    size = " x ".join(f"{side:g}" for side in curve.field_cm)
    if is_output_factor(curve):
        return f"{size} cm output factor"
    at = "" if not curve.is_profile else f" at {curve.depth_cm:g} cm"
    by = f", {curve.detector.name}" if curve.detector is not None else ""
    if not curve.is_profile and curve.positions_cm[0] > LATE_CM:
        at = f" from {curve.positions_cm[0]:g} cm"
    ssd = "" if curve.ssd_cm == 100.0 else f", SSD {curve.ssd_cm:g} cm"
    return f"{size} cm {curve.kind.replace('_', ' ')}{at}{ssd}{by}"


def is_output_factor(curve: Curve) -> bool:
    """Whether it is a single point: the output of a field relative to the reference field."""
    return not curve.is_profile and len(curve.values) == 1


def agreement_of(pairs: Iterable[tuple[Curve, Array]]) -> tuple[Agreement, ...]:
    """Compare every curve with its calculated values.

    Parameters
    ----------
    pairs : iterable of (Curve, ndarray)
        Such as `Commissioning.curves`.

    Returns
    -------
    tuple of Agreement
        In the same order.
    """
    pairs = [(curve, np.asarray(calculated, dtype=float)) for curve, calculated in pairs]
    fields: dict[object, _Field] = {}
    for curve, calculated in pairs:
        if not curve.is_profile and curve.is_output and not is_output_factor(curve):
            now = fields.get(_group(curve), _Field())
            top = maximum(curve.positions_cm, curve.values)[1]
            fields[_group(curve)] = _Field(max(top, now.top), _ratio(curve, calculated, now.ratio))
    return tuple(
        _of_profile(curve, calculated)
        if curve.is_profile
        else _of_output_factor(curve, calculated)
        if is_output_factor(curve)
        else _of_depth_dose(curve, calculated, fields)
        for curve, calculated in pairs
    )


def check_beam(
    machine: Machine,
    beam: str,
    curves: Iterable[Curve],
    *,
    hold: Mapping[str, float] | None = None,
    limits: Limits | None = None,
    progress: Progress | None = None,
) -> BeamCheck:
    """Hold a beam model against new measurements.

    Parameters
    ----------
    machine, beam : Machine, str
        The model.
    curves : iterable of Curve
        From `commission.curves_of`.
    hold : mapping of str to float, optional
        Set-up parameters that are known and not to be found.
    limits : Limits, optional
        Default: `Limits()`.
    progress : callable, optional
        Called with a text and the share done.
    """
    curves, limits, model = tuple(curves), limits or Limits(), machine.beam(beam)
    setup_only = tuple(p for p in parameters_of(machine, model) if p.is_of_setup)
    calculator, setup = Calculator(machine), tuple[Fitted, ...]()
    shows_setup = (curve.positions_cm[0] < 0 if curve.is_profile else not is_output_factor(curve) for curve in curves)
    if any(shows_setup):
        found = fit_beam(machine, beam, curves, parameters=setup_only, hold=hold, progress=progress)
        setup, pairs = found.parameters, found.curves
    else:  # nothing that would show depth zero or a field edge
        pairs = tuple((curve, calculator.curve(curve, model)) for curve in curves)
    agreements = agreement_of(pairs)
    judgements = tuple(item for agreement in agreements for item in judge(agreement, limits))
    return BeamCheck(agreements, judgements, setup)


def judge(agreement: Agreement, limits: Limits) -> tuple[Judgement, ...]:
    """Hold the parts of one curve against limits; a point that is near enough does not count where distance is one."""
    what, found = agreement.title, []
    for part, quantity, limit, near in (
        ("build-up", "build-up", limits.build_up_percent, limits.build_up_cm),
        ("beyond", "depth dose", limits.depth_dose_percent, 0.0),
        ("in-field", "in-field", limits.in_field_percent, limits.in_field_cm),
        ("tail", "tail", limits.tail_percent, 0.0),
    ):
        chosen = agreement.parts == part
        if np.any(chosen):
            x, percent = agreement.curve.positions_cm[chosen], agreement.difference_percent[chosen]
            is_near = agreement.distance_cm[chosen] <= near if near else np.zeros(len(x), dtype=bool)
            counts = np.where(is_near & (np.abs(percent) > limit), 0.0, np.abs(percent))
            worst = int(np.argmax(counts))
            where = f"at {x[worst]:.1f} cm"
            found.append(
                Judgement(what, quantity, float(percent[worst]), limit, "%", bool(counts[worst] <= limit), where)
            )
    wider = agreement.penumbra_difference_cm
    if not math.isnan(wider):
        is_within = abs(wider) <= limits.penumbra_cm
        found.append(Judgement(what, "penumbra", 10 * wider, 10 * limits.penumbra_cm, "mm", is_within))
    if not math.isnan(agreement.output_percent):
        limit = limits.output_percent_of(min(agreement.curve.field_cm))
        is_within = abs(agreement.output_percent) <= limit
        found.append(Judgement(what, "output", agreement.output_percent, limit, "%", is_within))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class _Field:
    """What the depth doses of one field, detector and SSD say together: maximum, and calculated over measured dose at
    the reference depth."""

    top: float = 0.0
    ratio: float = 1.0


def _group(curve: Curve) -> tuple[object, ...]:
    """Depth doses that share a maximum: parts of one field, measured with one detector."""
    return curve.field_cm, curve.ssd_cm, curve.detector


def _of_output_factor(curve: Curve, calculated: Array) -> Agreement:
    percent = 100 * (calculated / curve.values - 1)
    nothing = np.full(1, math.nan)
    return Agreement(
        curve, calculated, float(curve.values[0]), percent, nothing, np.array(["output"]), (),
        (math.nan, math.nan), math.nan, float(percent[0]),
    )  # fmt: skip


def _ratio(curve: Curve, calculated: Array, otherwise: float) -> float:
    """Calculated over measured dose at the reference depth, where the curve holds it."""
    x = curve.positions_cm
    if not x[0] <= REFERENCE_DEPTH_CM <= x[-1]:
        return otherwise
    return value_at(x, calculated, REFERENCE_DEPTH_CM) / value_at(x, curve.values, REFERENCE_DEPTH_CM)


def _of_depth_dose(curve: Curve, calculated: Array, fields: Mapping[object, _Field]) -> Agreement:
    x, measured = curve.positions_cm, curve.values
    dmax, top = maximum(x, measured)
    whole = fields.get(_group(curve), _Field()) if curve.is_output else _Field()
    full, own = max(top, whole.top), _ratio(curve, calculated, math.nan)
    shape = calculated / (whole.ratio if math.isnan(own) else own)
    is_reference = curve.field_cm == (REFERENCE_FIELD_CM, REFERENCE_FIELD_CM)
    output = 100 * (own - 1) if curve.is_output and not is_reference else math.nan
    parts = np.where(x < dmax, "build-up", "beyond")
    distance, regions = _regions(x, measured, shape, full, parts)
    nothing = (math.nan, math.nan)
    difference = 100 * (shape - measured) / full
    return Agreement(curve, calculated, full, difference, distance, parts, regions, nothing, math.nan, output)


def _of_profile(curve: Curve, calculated: Array) -> Agreement:
    x, measured = curve.positions_cm, curve.values
    full, half, middle = value_at(x, measured, 0.0), _half_width_cm(curve), 0.0
    projected = half
    try:
        edges = edges_cm(x, measured)
        if max(abs(abs(edge) - projected) for edge in edges) <= EDGE_CM:
            half, middle = 0.5 * (edges[1] - edges[0]), 0.5 * (edges[0] + edges[1])
    except InvalidInput:  # one-sided, or cut within the field: the projected edge counts
        pass
    off = np.abs(x - middle)
    parts = np.where(off <= IN_FIELD * half, "in-field", np.where(off <= half + TAIL_MARGIN_CM, "penumbra", "tail"))
    distance, regions = _regions(x, measured, calculated, full, parts)
    widths = [_penumbra(curve, values, projected) for values in (measured, calculated)]
    apart = widths[1] - widths[0]
    worse = float(apart[np.argmax(np.abs(apart))]) if np.all(np.isfinite(apart)) else math.nan
    means = 10 * float(widths[0].mean()), 10 * float(widths[1].mean())
    difference = 100 * (calculated - measured) / full
    return Agreement(curve, calculated, full, difference, distance, parts, regions, means, worse, math.nan)


def _half_width_cm(curve: Curve) -> float:
    """Half the field's side at the depth of a profile [cm]."""
    side = curve.field_cm[1 if curve.kind == "inline" else 0]
    return 0.5 * side * (curve.ssd_cm + curve.depth_cm) / 100.0


def _penumbra(curve: Curve, values: Array, half: float) -> Array:
    """Widths from 80 to 20 % on both sides [cm]; NaN where there are none."""
    x = curve.positions_cm
    try:
        shoulder = math.nan
        if 2 * half >= SHOULDER_FIELD_CM:
            shoulder = 0.5 * sum(value_at(x, values, side * IN_FIELD * half) for side in (-1, 1))
        edges = edges_cm(x, values, axis_value=shoulder)
        if max(abs(abs(edge) - half) for edge in edges) > EDGE_CM:
            return np.full(2, math.nan)
        return np.array(penumbra_cm(x, values, axis_value=shoulder))
    except InvalidInput:  # one-sided, or it does not fall to 20 %
        return np.full(2, math.nan)


def _regions(
    x: Array, measured: Array, calculated: Array, full: float, parts: NDArray[np.str_]
) -> tuple[Array, tuple[Region, ...]]:
    """Distance to agreement of every point [cm], and what the points of each part say together."""
    distance = distance_to_agreement_cm((x, measured), (x, calculated))
    percent, found = 100 * (calculated - measured) / full, []
    for name in PARTS:
        part = parts == name
        if not np.any(part):
            continue
        d, v = percent[part], measured[part]
        worst = int(np.argmax(np.abs(d)))
        local = d[v > 0] * full / v[v > 0]
        found.append(
            Region(
                name, int(part.sum()), float(d.mean()), float(np.sqrt(np.mean(d**2))), float(d[worst]),
                float(x[part][worst]),
                float(local.mean()) if len(local) else math.nan,
                float(local[np.argmax(np.abs(local))]) if len(local) else math.nan,
                float(np.max(distance[part])),
            )
        )  # fmt: skip
    return distance, tuple(found)
