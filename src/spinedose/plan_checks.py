"""What can be said of a plan without computing its dose: apertures, leaf travel, monitor units.

Small apertures are where output factors and leaf gaps are least certain, of the planning system and of the
recalculation alike. The numbers here say how much of a plan depends on them. Where a fact deserves attention a
threshold says so; the thresholds are house defaults, no standard.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from spinedose.errors import InvalidInput
from spinedose.machine import Machine
from spinedose.plan import Beam, Plan

Array = NDArray[np.float64]
Severity = Literal["information", "attention"]

CLOSED_CM = 0.1
"""Leaf gaps up to this count as closed [cm]: closed pairs of dynamic beams are planned with up to 0.6 mm between."""

SMALL_GAP_CM = 2.0
"""Apertures of a smaller mean leaf gap are small [cm]. Outputs of the beams that come with spinedose agree with
measurements within 1 % down to fields of 2 cm, and within 4.5 % at 1 cm (docs/validation.md)."""

TINY_GAP_CM = 1.0
"""Leaf gaps of less than this count in the small-aperture score [cm] (SAS10 of Crowe et al. 2014)."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Where a fact deserves attention; house defaults unless a source is named.

    Parameters
    ----------
    small_share_percent : float
        Share of the meterset in small apertures [%].
    leaf_travel_cm_per_deg : float
        Leaf travel per degree of gantry [cm]. Chen et al., Med Phys 38 (2011), as quoted in an ESTRO course: above
        5 mm per degree delivery is less accurate. Not verified against the original.
    leaf_jump_cm : float
        Leaf travel while no meterset is delivered [cm].
    mu_per_gy : float
        Monitor units per gray of the prescription.
    leaf_speed_cm_per_s : float
        Largest leaf speed [cm/s]: 2.5 for Varian's Millennium and HD120 leaves (not verified against the original); 3.5
        for Elekta's Agility (Bedford et al., J Appl Clin Med Phys 14(2) (2013), abstract).
    gantry_speed_deg_per_s : float
        Largest gantry speed [degrees/s]: 6 (not verified against the original).
    """

    small_share_percent: float = 50.0
    leaf_travel_cm_per_deg: float = 0.5
    leaf_jump_cm: float = 5.0
    mu_per_gy: float = 600.0
    leaf_speed_cm_per_s: float = 2.5
    gantry_speed_deg_per_s: float = 6.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not (math.isfinite(value) and value > 0):
                raise InvalidInput(f"The threshold {name} is {value}", "it must be positive")


@dataclass(frozen=True, slots=True)
class PlanFact:
    """Something that was found in a plan.

    Parameters
    ----------
    name : str
        What it is, such as `small_aperture_share`.
    value : float
        The number; NaN where the plan has none.
    unit : str
        Its unit; empty for a plain number.
    note : str
        What it means, in words.
    severity : str
        `"information"` or `"attention"`.
    beam : int
        Number of the beam; 0 for the whole plan.
    """

    name: str
    value: float
    unit: str
    note: str
    severity: Severity = "information"
    beam: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON: a missing number is null."""
        return _without_nan(asdict(self))


@dataclass(frozen=True, slots=True, eq=False)
class Apertures:
    """What the light of a beam passes, for each of the `n` intervals between its control points, at their middle.

    Islands of one aperture are not told apart. Leaves count where jaws leave them open, and pairs where they are open
    by more than `CLOSED_CM`.

    Parameters
    ----------
    share : ndarray, shape (n,)
        Share of the beam's meterset; sums to 1.
    area_cm2 : ndarray, shape (n,)
        Area at the isocentre plane [cm^2].
    gap_cm : ndarray, shape (n,)
        Mean gap of the open pairs, weighted by their width [cm]; NaN where all is closed.
    equivalent_square_cm : ndarray, shape (n,)
        2 a b / (a + b) of the mean gap a and the open height b [cm] (Sterling's rule, as if the aperture were one
        rectangle); NaN when closed.
    tiny_share : ndarray, shape (n,)
        Share of the open pairs whose gap is below `TINY_GAP_CM`; NaN when closed.
    edge_per_cm : ndarray, shape (n,)
        Length of open leaf sides over the area [1/cm] (the edge metric of Younge et al. 2012 without its weights); NaN
        when closed.
    """

    share: Array
    area_cm2: Array
    gap_cm: Array
    equivalent_square_cm: Array
    tiny_share: Array
    edge_per_cm: Array

    def mean(self, values: Array) -> float:
        """Mean of one of these over the meterset of open apertures; NaN when none is open."""
        open_ = np.isfinite(values) & (self.area_cm2 > 0) & (self.share > 0)
        return float(np.average(values[open_], weights=self.share[open_])) if open_.any() else math.nan


@dataclass(frozen=True, slots=True)
class BeamRow:
    """A line of the table of beams.

    Parameters
    ----------
    number, name, energy, machine
        As in the plan.
    meterset_mu : float
        Of one fraction [MU].
    gantry_from_deg, gantry_to_deg : float
        First and last gantry angle, from 0 to 360 [degrees].
    arc_deg : float
        Gantry travel [degrees]; 0 for a static beam.
    collimator_deg, couch_deg : float
        At the first control point [degrees].
    control_points : int
        Their number.
    mean_area_cm2, mean_gap_cm : float
        Means over the meterset [cm^2, cm]; NaN for a beam without any collimator.
    small_share_percent : float
        Share of the meterset in apertures of a mean gap below `SMALL_GAP_CM` [%].
    planned_point_dose_gy : float
        Dose of one fraction that the planning system states for its point [Gy]; NaN where it states none.
    """

    number: int
    name: str
    energy: str
    machine: str
    meterset_mu: float
    gantry_from_deg: float
    gantry_to_deg: float
    arc_deg: float
    collimator_deg: float
    couch_deg: float
    control_points: int
    mean_area_cm2: float
    mean_gap_cm: float
    small_share_percent: float
    planned_point_dose_gy: float

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON: a missing number is null."""
        return _without_nan(asdict(self))


def beam_table(plan: Plan) -> tuple[BeamRow, ...]:
    """A row for every beam, in plan order."""
    return tuple(_row(beam) for beam in plan.beams)


def _row(beam: Beam) -> BeamRow:
    found = apertures(beam)
    dose = beam.planned_point_dose_gy
    return BeamRow(
        beam.number,
        beam.name,
        beam.energy,
        beam.machine,
        beam.meterset_mu,
        float(beam.gantry_deg[0] % 360),
        float(beam.gantry_deg[-1] % 360),
        float(np.abs(np.diff(beam.gantry_deg)).sum()),
        float(beam.collimator_deg[0]),
        float(beam.couch_deg[0]),
        len(beam.gantry_deg),
        found.mean(found.area_cm2),
        found.mean(found.gap_cm),
        small_share_percent(found),
        math.nan if dose is None else dose,
    )


def apertures(beam: Beam) -> Apertures:
    """Describe the apertures of a beam."""
    share = np.diff(beam.cumulative_meterset)
    low, high, bottom, top = openings(beam)
    gap, height = np.maximum(high - low, 0.0), np.maximum(top - bottom, 0.0)
    is_open = (gap > CLOSED_CM) & (height > 0)
    gap = np.where(is_open, gap, 0.0)
    area, open_height = (gap * height).sum(axis=1), np.where(is_open, height, 0.0).sum(axis=1)
    pairs = is_open.sum(axis=1)
    # A side is open where one of two neighbouring gaps reaches and the other does not.
    low, high = np.where(is_open, low, 0.0), np.where(is_open, high, 0.0)
    low, high, gap = (np.pad(a, ((0, 0), (1, 1))) for a in (low, high, gap))
    common = np.minimum(high[:, 1:], high[:, :-1]) - np.maximum(low[:, 1:], low[:, :-1])
    sides = (gap[:, 1:] + gap[:, :-1] - 2 * np.maximum(common, 0.0)).sum(axis=1)
    tiny = ((gap[:, 1:-1] < TINY_GAP_CM) & is_open).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return Apertures(
            share,
            area,
            np.where(pairs > 0, area / open_height, np.nan),
            np.where(pairs > 0, 2 * area / (area / open_height + open_height), np.nan),
            np.where(pairs > 0, tiny / pairs, np.nan),
            np.where(pairs > 0, sides / area, np.nan),
        )


def openings(beam: Beam) -> tuple[Array, Array, Array, Array]:
    """Edges of the gap of every pair along the travel of the leaves (low, high) and across it (bottom, top), half way
    between control points, each of shape (n - 1, p) [cm]; a pair behind a jaw has its top below its bottom.

    A beam without leaves is one wide pair, opened by the jaws; a beam without any collimator is closed.
    """
    n = len(beam.cumulative_meterset) - 1
    along, across = (beam.jaw_x_cm, beam.jaw_y_cm) if beam.leaf_axis == "x" else (beam.jaw_y_cm, beam.jaw_x_cm)
    along, across = (None if jaw is None else (jaw[:-1] + jaw[1:]) / 2 for jaw in (along, across))
    if beam.leaf_cm is None or beam.leaf_boundaries_cm is None:
        if along is None or across is None:
            closed = np.zeros((n, 1))
            return closed, closed, closed, closed
        return along[:, :1], along[:, 1:], across[:, :1], across[:, 1:]
    middle = (beam.leaf_cm[:-1] + beam.leaf_cm[1:]) / 2
    low, high = middle[:, 0], middle[:, 1]
    if along is not None:
        low, high = np.clip(low, along[:, :1], along[:, 1:]), np.clip(high, along[:, :1], along[:, 1:])
    bottom, top = np.tile(beam.leaf_boundaries_cm[:-1], (n, 1)), np.tile(beam.leaf_boundaries_cm[1:], (n, 1))
    if across is not None:
        bottom, top = np.maximum(bottom, across[:, :1]), np.minimum(top, across[:, 1:])
    return low, high, bottom, top


def small_share_percent(found: Apertures, below_cm: float = SMALL_GAP_CM) -> float:
    """Share of the meterset in open apertures whose mean leaf gap is below a size [%]."""
    return float(100 * found.share[np.nan_to_num(found.gap_cm, nan=np.inf) < below_cm].sum())


def plan_facts(
    plan: Plan,
    *,
    prescription_gy: float = math.nan,
    machines: Mapping[int, Machine] | None = None,
    thresholds: Thresholds | None = None,
) -> tuple[PlanFact, ...]:
    """Look at a plan.

    Parameters
    ----------
    plan : Plan
        The plan.
    prescription_gy : float
        Dose prescribed for all fractions [Gy]; without it nothing is said of MU per gray.
    machines : mapping of int to Machine, optional
        Machines by beam number; with them leaf positions are held against the largest field.
    thresholds : Thresholds, optional
        Where a fact deserves attention.

    Returns
    -------
    tuple of PlanFact
        First those of the whole plan, then those of each beam.
    """
    limits = thresholds or Thresholds()
    found = {beam.number: apertures(beam) for beam in plan.beams}
    facts = list(_facts_of_plan(plan, found, prescription_gy, limits))
    for beam in plan.beams:
        facts += _facts_of_apertures(beam, found[beam.number], limits)
        facts += _facts_of_travel(beam, limits)
        machine = (machines or {}).get(beam.number)
        if machine is not None:
            facts += _facts_of_reach(beam, machine)
    return tuple(facts)


def _facts_of_plan(
    plan: Plan, found: Mapping[int, Apertures], prescription_gy: float, limits: Thresholds
) -> Iterable[PlanFact]:
    yield PlanFact("meterset", plan.total_mu, "MU", "all beams of one fraction")
    if prescription_gy > 0:
        ratio = plan.total_mu * plan.fractions / prescription_gy
        yield PlanFact(
            "mu_per_gray",
            ratio,
            "MU/Gy",
            "meterset per prescribed dose; more of it means more modulation and more leakage",
            _severity(ratio > limits.mu_per_gy),
        )
    share = sum(small_share_percent(found[b.number]) * b.meterset_mu for b in plan.beams) / plan.total_mu
    yield PlanFact(
        "small_aperture_share",
        share,
        "%",
        f"meterset in apertures with a mean leaf gap below {SMALL_GAP_CM:g} cm, where outputs are least certain",
        _severity(share > limits.small_share_percent),
    )
    closed = sum(float(found[b.number].share[found[b.number].area_cm2 <= 0].sum()) * b.meterset_mu for b in plan.beams)
    yield PlanFact(
        "closed_share",
        100 * closed / plan.total_mu,
        "%",
        "meterset delivered with all leaves closed: leakage only",
        _severity(closed > 0.01 * plan.total_mu),
    )


def _facts_of_apertures(beam: Beam, found: Apertures, limits: Thresholds) -> Iterable[PlanFact]:
    number = beam.number
    yield PlanFact("meterset", beam.meterset_mu, "MU", "of one fraction", beam=number)
    share = small_share_percent(found)
    yield PlanFact(
        "small_aperture_share",
        share,
        "%",
        f"meterset in apertures with a mean leaf gap below {SMALL_GAP_CM:g} cm",
        _severity(share > limits.small_share_percent),
        number,
    )
    square = np.nan_to_num(found.equivalent_square_cm, nan=np.inf)
    yield PlanFact(
        "small_square_share",
        float(100 * found.share[square < SMALL_GAP_CM].sum()),
        "%",
        f"meterset in apertures with an equivalent square below {SMALL_GAP_CM:g} cm",
        beam=number,
    )
    means = (
        ("mean_aperture_area", found.area_cm2, "cm2", "mean area, weighted by meterset"),
        ("mean_leaf_gap", found.gap_cm, "cm", "mean gap of open leaf pairs, weighted by meterset"),
        (
            "small_aperture_score",
            found.tiny_share,
            "",
            f"share of open pairs with a gap below {TINY_GAP_CM:g} cm (Crowe et al., Australas Phys Eng Sci Med 37:475 "
            "(2014); not verified against the original)",
        ),
        (
            "edge_metric",
            found.edge_per_cm,
            "1/cm",
            "open leaf sides over area (after Younge et al., Med Phys 39:7160 (2012); not verified against the "
            "original)",
        ),
    )
    for name, values, unit, note in means:
        yield PlanFact(name, found.mean(values), unit, note, beam=number)


def _facts_of_travel(beam: Beam, limits: Thresholds) -> Iterable[PlanFact]:
    if beam.leaf_cm is None:
        return
    travel = np.abs(np.diff(beam.leaf_cm, axis=0))
    moves = travel.sum(axis=0)
    moving = moves > 0
    yield PlanFact(
        "leaf_travel",
        float(moves[moving].mean()) if moving.any() else 0.0,
        "cm",
        f"way of a leaf over the beam, mean of the {int(moving.sum())} leaves that move",
        beam=beam.number,
    )
    farthest = travel.max(axis=(1, 2))
    turn = np.abs(np.diff(beam.gantry_deg))
    if beam.is_arc:
        turning = turn > 1e-6
        rate = float(np.max(farthest[turning] / turn[turning]))
        yield PlanFact(
            "leaf_travel_per_degree",
            rate,
            "cm/deg",
            "fastest leaf against the gantry",
            _severity(rate > limits.leaf_travel_cm_per_deg),
            beam.number,
        )
    still = np.diff(beam.cumulative_meterset) == 0
    jump = float(farthest[still].max()) if still.any() else 0.0
    yield PlanFact(
        "leaf_jump",
        jump,
        "cm",
        "farthest way of a leaf between two control points without meterset",
        _severity(jump > limits.leaf_jump_cm and beam.is_arc),
        beam.number,
    )
    times = np.maximum(farthest / limits.leaf_speed_cm_per_s, turn / limits.gantry_speed_deg_per_s)
    yield PlanFact(
        "least_time",
        float(times.sum()),
        "s",
        f"leaves at {limits.leaf_speed_cm_per_s:g} cm/s and gantry at {limits.gantry_speed_deg_per_s:g} degrees/s need "
        "at least this",
        beam=beam.number,
    )


def _facts_of_reach(beam: Beam, machine: Machine) -> Iterable[PlanFact]:
    if beam.leaf_cm is None:
        return
    reach, half = float(np.abs(beam.leaf_cm).max()), machine.largest_field_cm / 2
    yield PlanFact(
        "leaf_reach",
        reach,
        "cm",
        f"farthest leaf tip from the axis; the largest field of {machine.name} ends at {half:g} cm",
        _severity(reach > half + 1.0),
        beam.number,
    )


def _without_nan(table: dict[str, Any]) -> dict[str, Any]:
    """The same with null for numbers that are none."""
    return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in table.items()}


def _severity(is_remarkable: bool | np.bool_) -> Severity:
    return "attention" if is_remarkable else "information"
