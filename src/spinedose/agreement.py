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

from spinedose.clock import Progress
from spinedose.commission import (
    NOTHING_TO_FIT,
    REFERENCE_DEPTH_CM,
    REFERENCE_FIELD_CM,
    Calculator,
    Curve,
    Fitted,
    fit_beam,
    parameters_of,
)
from spinedose.compare.curves import Region, maximum, value_at
from spinedose.curve_judging import (
    PARTS,
    Compared,
    Criterion,
    Judged,
    compare_depth_dose,
    compare_profile,
    judge_curve,
    judge_output,
    projected_half_cm,
    read_criteria,
)
from spinedose.errors import InvalidInput
from spinedose.machine import Machine
from spinedose.units import MM_PER_CM

Array = NDArray[np.float64]

LATE_CM = 3.0
"""A depth dose that starts deeper than this is a part of one [cm], and its title says so."""

QUANTITIES = {"beyond": "depth dose"}
"""What judgements call quantities of `curve_judging`, where the name alone would say too little."""


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
    output_percent : float
        Difference of the output relative to the reference field [%]; NaN for profiles and relative curves.
    compared : Compared or None
        What is judged; None for an output factor.
    """

    curve: Curve
    calculated: Array
    full: float
    difference_percent: Array
    distance_cm: Array
    parts: NDArray[np.str_]
    regions: tuple[Region, ...]
    output_percent: float
    compared: Compared | None

    @property
    def penumbra_mm(self) -> tuple[float, float]:
        """Width from 80 to 20 %, mean of both sides, measured and calculated [mm]; NaN for depth doses."""
        if self.compared is None:
            return math.nan, math.nan
        both = self.compared.penumbra_measured_cm, self.compared.penumbra_calculated_cm
        return MM_PER_CM * sum(both[0]) / 2, MM_PER_CM * sum(both[1]) / 2

    @property
    def penumbra_difference_cm(self) -> float:
        """Difference of these widths on the worse side [cm]; NaN where there is no penumbra."""
        return math.nan if self.compared is None else max(self.compared.wider_penumbra_cm, key=abs)

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
        `depth dose`, `build-up`, `in-field`, `penumbra`, `width`, `tail` or `output`.
    value, limit : float
        Difference with its sign, and its limit, in `unit`.
    unit : str
        `%` or `mm`.
    is_within : bool
        Whether it keeps the limit (or an alternative one).
    where : str
        Where on the curve; may be empty.
    source : str
        Who asks for the limit.
    share : float
        The difference as a share of the limit, or of a distance that is allowed instead; NaN: of the limit.
    """

    what: str
    quantity: str
    value: float
    limit: float
    unit: str
    is_within: bool
    where: str = ""
    source: str = ""
    share: float = math.nan

    @property
    def badness(self) -> float:
        """Share of the limit, by which judgements are sorted."""
        return abs(self.value) / self.limit if math.isnan(self.share) else self.share

    @classmethod
    def of(cls, what: str, judged: Judged) -> Judgement:
        """Put the worst of what was held against a limit into one number."""
        unit = "mm" if judged.criterion.unit.startswith("mm") else "%"
        where = "" if math.isnan(judged.worst_at_cm) else f"at {judged.worst_at_cm:.1f} cm"
        return cls(
            what, QUANTITIES.get(judged.quantity, judged.quantity), judged.worst, judged.criterion.limit, unit,
            judged.is_within, where, judged.criterion.source, judged.share,
        )  # fmt: skip

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
        return tuple(sorted(bad, key=lambda item: -item.badness))


def title_of(curve: Curve) -> str:
    """A curve's field, direction, depth and detector in a few words."""
    size = _size(curve.field_cm)
    if is_output_factor(curve):
        at = "" if curve.unit_depth_cm == REFERENCE_DEPTH_CM else f" at {curve.unit_depth_cm:g} cm depth"
        square = (REFERENCE_FIELD_CM, REFERENCE_FIELD_CM)
        to = "" if curve.unit_field_cm == square else f", relative to {_size(curve.unit_field_cm)} cm"
        return f"{size} cm output factor{at}{to}"
    at = "" if not curve.is_profile else f" at {curve.depth_cm:g} cm"
    by = f", {curve.detector.name}" if curve.detector is not None else ""
    if not curve.is_profile and curve.positions_cm[0] > LATE_CM:
        at = f" from {curve.positions_cm[0]:g} cm"
    ssd = "" if curve.ssd_cm == 100.0 else f", SSD {curve.ssd_cm:g} cm"
    return f"{size} cm {curve.kind.replace('_', ' ')}{at}{ssd}{by}"


def _size(field_cm: tuple[float, float]) -> str:
    return " x ".join(f"{side:g}" for side in field_cm)


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
    criteria: Mapping[str, Criterion] | None = None,
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
    criteria : mapping of str to Criterion, optional
        Default: those of `spinedose validate`.
    progress : callable, optional
        Called with a text and the share done.
    """
    curves, criteria, model = tuple(curves), criteria or read_criteria(), machine.beam(beam)
    setup_only = tuple(p for p in parameters_of(machine, model) if p.is_of_setup)
    calculator, setup = Calculator(machine), tuple[Fitted, ...]()
    shows_setup = (curve.positions_cm[0] < 0 if curve.is_profile else not is_output_factor(curve) for curve in curves)
    pairs = None
    if any(shows_setup):
        try:
            found = fit_beam(machine, beam, curves, parameters=setup_only, hold=hold, progress=progress)
            setup, pairs = found.parameters, found.curves
        except InvalidInput as error:
            if error.problem != NOTHING_TO_FIT:
                raise
    if pairs is None:  # nothing that would show depth zero or a field edge: nominal ones count
        pairs = tuple((curve, calculator.curve(curve, model)) for curve in curves)
    agreements = agreement_of(pairs)
    judgements = tuple(item for agreement in agreements for item in judge(agreement, criteria))
    return BeamCheck(agreements, judgements, setup)


def judge(agreement: Agreement, criteria: Mapping[str, Criterion]) -> tuple[Judgement, ...]:
    """Hold the parts of one curve, and its output, against limits; `spinedose validate` uses the same routine."""
    what, curve = agreement.title, agreement.curve
    found = () if agreement.compared is None else judge_curve(agreement.compared, criteria, curve.field_cm)
    if not math.isnan(agreement.output_percent):
        found += (judge_output(agreement.output_percent, criteria, min(curve.field_cm)),)
    return tuple(Judgement.of(what, item) for item in found)


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
        curve, calculated, float(curve.values[0]), percent, nothing, np.array(["output"]), (), float(percent[0]), None
    )  # fmt: skip


def _ratio(curve: Curve, calculated: Array, otherwise: float) -> float:
    """Calculated over measured dose at the depth where the curve is 1 in its unit, where it holds that."""
    x, at = curve.positions_cm, curve.unit_depth_cm
    if not x[0] <= at <= x[-1]:
        return otherwise
    return value_at(x, calculated, at) / value_at(x, curve.values, at)


def _of_depth_dose(curve: Curve, calculated: Array, fields: Mapping[object, _Field]) -> Agreement:
    x, measured = curve.positions_cm, curve.values
    whole = fields.get(_group(curve), _Field()) if curve.is_output else _Field()
    full, own = max(maximum(x, measured)[1], whole.top), _ratio(curve, calculated, math.nan)
    shape = calculated / (whole.ratio if math.isnan(own) else own)
    output = 100 * (own - 1) if curve.is_output and curve.field_cm != curve.unit_field_cm else math.nan
    return _of_compared(curve, calculated, compare_depth_dose((x, measured), (x, shape), full=full), output)


def _of_profile(curve: Curve, calculated: Array) -> Agreement:
    x = curve.positions_cm
    half = projected_half_cm(curve.kind, curve.field_cm, curve.ssd_cm, curve.depth_cm)
    compared = compare_profile((x, curve.values), (x, calculated), half_cm=half)
    return _of_compared(curve, calculated, compared, math.nan)


def _of_compared(curve: Curve, calculated: Array, compared: Compared, output: float) -> Agreement:
    return Agreement(
        curve, calculated, compared.full, compared.difference_percent, compared.distance_cm, compared.parts,
        _regions(compared), output, compared,
    )  # fmt: skip


def _regions(compared: Compared) -> tuple[Region, ...]:
    """What the points of each part say together."""
    found = []
    for name in PARTS:
        part = compared.parts == name
        if not np.any(part):
            continue
        d, v, full = compared.difference_percent[part], compared.measured[part], compared.full
        worst = int(np.argmax(np.abs(d)))
        local = d[v > 0] * full / v[v > 0]
        found.append(
            Region(
                name, int(part.sum()), float(d.mean()), float(np.sqrt(np.mean(d**2))), float(d[worst]),
                float(compared.positions_cm[part][worst]),
                float(local.mean()) if len(local) else math.nan,
                float(local[np.argmax(np.abs(local))]) if len(local) else math.nan,
                float(np.max(compared.distance_cm[part])),
            )
        )  # fmt: skip
    return tuple(found)
