"""The plan that was delivered: the beams of a plan with the axes and the meterset that machine logs recorded.

What a log does not know comes from the plan: isocentre, energy, leaf boundaries, patient. What the plan says is used to
prove that a log is read rightly and belongs to its beam.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from spinedose.errors import InvalidInput
from spinedose.identity import is_other_id
from spinedose.logs.machine_log import MachineLog, Samples
from spinedose.logs.thinning import thin
from spinedose.plan import LEAF_OVERLAP_TOLERANCE_CM, Beam, Plan
from spinedose.units import MM_PER_CM

Array = NDArray[np.float64]
LogsByBeam: TypeAlias = Mapping[int, MachineLog | Sequence[MachineLog]]

BOUND_CM = 0.01
"""Leaves and jaws of the samples that are left out lie this near to straight lines between control points [cm]."""

BOUND_DEG = 0.1
"""The same for gantry, collimator and couch [degrees]."""

LEAF_RMS_CM, JAW_CM, ANGLE_DEG, METERSET_SHARE = 0.2, 0.3, 1.0, 0.02
"""A log agrees with a beam when what the machine wanted lies within these of the plan: leaves (root mean square), jaws,
angles (root mean square of the gantry), meterset. They tell beams apart and are no tolerance of delivery (house
default; the two real pairs of plan and log at hand differ by 0.5 mm and 0.4 degrees at most)."""

OPEN_CM = 0.1
"""Leaf pairs that the plan opens further than this somewhere are compared; the others are parked [cm]."""

LASTING = 1e-3
"""The worst difference is one that lasts for this share of the meterset, so that a single sample is none."""

JOIN_MU = 0.5
"""A log that begins this near to where another of the same beam ended goes on with it [MU]."""

NUMBER_STEP = 10000
"""Beams of several fractions in one plan are numbered beam + this x (fraction - 1)."""


@dataclass(frozen=True, slots=True)
class BeamDelivery:
    """How one beam of one fraction was delivered, held against its plan.

    Differences are recorded less planned at the same share of the meterset, weighted with it; the planned leaves are
    those that the plan opens.

    Parameters
    ----------
    number : int
        Number of the beam in the plan.
    name : str
        Its name.
    fraction : int
        Which of the recorded fractions, from 1.
    sources : tuple of str
        Names of the log files.
    matched_by : str
        How log and beam were brought together: `"user"`, `"number"`, `"name"` or `"positions"`.
    planned_mu, delivered_mu : float
        Meterset [MU]. Dynalogs say shares only; then both are equal for a beam that ran to its end.
    meterset_is_recorded : bool
        Whether `delivered_mu` was recorded in monitor units.
    leaf_mean_cm, leaf_rms_cm : float
        Mean and root mean square of the absolute leaf differences [cm]; NaN without leaves.
    leaf_worst_cm : float
        Largest absolute difference of any leaf that lasts for 0.1 % of the meterset [cm].
    gantry_mean_deg, gantry_rms_deg, gantry_worst_deg : float
        Of the gantry; the mean keeps its sign [degrees].
    collimator_worst_deg, couch_worst_deg : float
        [degrees]; couch NaN where it is not recorded.
    jaw_worst_cm : float
        [cm]
    samples, control_points : int
        Recorded, and those left after thinning.
    overlaps : int
        Recorded positions of leaf pairs that overlapped by more than the plan's tolerance and were set to contact.
    seconds : float
        Length of the log [s].
    """

    number: int
    name: str
    fraction: int
    sources: tuple[str, ...]
    matched_by: str
    planned_mu: float
    delivered_mu: float
    meterset_is_recorded: bool
    leaf_mean_cm: float
    leaf_rms_cm: float
    leaf_worst_cm: float
    gantry_mean_deg: float
    gantry_rms_deg: float
    gantry_worst_deg: float
    collimator_worst_deg: float
    couch_worst_deg: float
    jaw_worst_cm: float
    samples: int
    control_points: int
    overlaps: int
    seconds: float

    @property
    def meterset_ratio(self) -> float:
        """Delivered over planned meterset."""
        return self.delivered_mu / self.planned_mu

    def as_dict(self) -> dict[str, Any]:
        """Plain types, missing numbers as NaN."""
        return asdict(self) | {"meterset_ratio": self.meterset_ratio}


@dataclass(frozen=True, slots=True, eq=False)
class Delivery:
    """What was delivered.

    Parameters
    ----------
    plan : Plan
        The mean of the recorded fractions, with the fractions of the plan: its dose stands beside the planned one. With
        n recorded fractions every beam is there n times, with 1/n of its meterset.
    per_fraction : tuple of Plan
        Every recorded fraction alone, with one fraction.
    rows : tuple of BeamDelivery
        Every beam of every fraction.
    warnings : tuple of str
        What the reader of a result must know; `plan.warnings` has them, too.
    """

    plan: Plan
    per_fraction: tuple[Plan, ...]
    rows: tuple[BeamDelivery, ...]
    warnings: tuple[str, ...]


def delivered_plan(plan: Plan, logs: Sequence[MachineLog] | LogsByBeam) -> Plan:
    """The plan of the mean recorded fraction: `deliver(plan, logs).plan`."""
    return deliver(plan, logs).plan


def deliver(
    plan: Plan,
    logs: Sequence[MachineLog] | LogsByBeam,
    *,
    bound_cm: float = BOUND_CM,
    bound_deg: float = BOUND_DEG,
) -> Delivery:
    """Put what logs recorded into the place of the beams of a plan.

    Parameters
    ----------
    plan : Plan
        The plan, with the beams that there are logs for.
    logs : sequence of MachineLog, or mapping of int to them
        Logs of all its beams, of one or several fractions; by beam number where the logs do not tell, or to overrule
        them. The fractions of a beam are taken in the order of their times; without times, in the order given.
    bound_cm, bound_deg : float
        How near to straight lines between control points the samples that are left out must lie: leaves and jaws [cm],
        gantry, collimator and couch [degrees].

    Returns
    -------
    Delivery
        The delivered plan, every fraction of it, and how the beams differ from the plan.

    Raises
    ------
    InvalidInput
        If a log belongs to no beam or to several, or a beam has no log, or beams have different numbers of logs.
    """
    for name, bound in (("bound_cm", bound_cm), ("bound_deg", bound_deg)):
        if not (np.isfinite(bound) and bound > 0):
            raise InvalidInput(f"{name} is {bound}", "samples are held against it", "Give a positive number")
    assigned = _assigned(plan, logs)
    warnings: list[str] = []
    deliveries: dict[int, list[tuple[MachineLog, tuple[str, ...], str]]] = {}
    for beam in plan.beams:
        deliveries[beam.number] = _joined(beam, assigned.get(beam.number, []))
    missing = [beam for beam in plan.beams if not deliveries[beam.number]]
    if missing:
        raise InvalidInput(
            f"There is no log of beam {_listed([beam.number for beam in missing])}",
            "the dose of the plan needs what all of its beams delivered",
            "Add the logs, or choose the beams that have one",
            argument="beams",
        )
    counts = {number: len(found) for number, found in deliveries.items()}
    if len(set(counts.values())) > 1:
        raise InvalidInput(
            f"The beams have different numbers of logs ({', '.join(f'{k}: {n}' for k, n in counts.items())})",
            "which belong to one fraction is not clear",
            "Give as many for each",
        )
    recorded = next(iter(counts.values()))
    rows: list[BeamDelivery] = []
    per_fraction: list[Plan] = []
    for k in range(recorded):
        beams = []
        for beam in plan.beams:
            one, sources, how = deliveries[beam.number][k]
            made, row, said = _delivered_beam(beam, one, sources, how, k + 1, (bound_cm, bound_deg))
            beams.append(made)
            rows.append(row)
            warnings += said
        per_fraction.append(replace(plan, beams=tuple(beams), fractions=1, prescriptions=()))
    if recorded != plan.fractions:
        warnings.append(
            f"{recorded} fraction(s) were recorded, {plan.fractions} are planned: "
            f"{'the mean of the recorded ones' if recorded > 1 else 'the recorded one'} stands for all."
        )
    warnings = list(dict.fromkeys(warnings))
    mean = tuple(_share_of(beam, k, recorded) for k, part in enumerate(per_fraction) for beam in part.beams)
    whole = replace(plan, beams=mean, warnings=(*plan.warnings, *warnings))
    return Delivery(whole, tuple(per_fraction), tuple(rows), tuple(warnings))


# ------------------------------------------------------------------------------------------ which log is of which beam


@dataclass(frozen=True, slots=True)
class _Agreement:
    """How far what a machine wanted lies from a planned beam."""

    leaf_rms_cm: float
    jaw_cm: float
    gantry_deg: float
    collimator_deg: float
    couch_deg: float
    meterset_share: float

    @property
    def positions_agree(self) -> bool:
        """Whether all but the meterset agrees."""
        angles = (self.gantry_deg, self.collimator_deg, self.couch_deg)
        return (
            not self.leaf_rms_cm > LEAF_RMS_CM
            and self.jaw_cm <= JAW_CM
            and all(not angle > ANGLE_DEG for angle in angles)
        )

    @property
    def is_good(self) -> bool:
        """Whether everything agrees."""
        return self.positions_agree and not abs(self.meterset_share) > METERSET_SHARE

    @property
    def may_be_a_part(self) -> bool:
        """The same of a beam that was interrupted, so that less meterset is wanted than planned."""
        return self.positions_agree and not self.meterset_share > METERSET_SHARE

    def in_words(self) -> str:
        leaves = f"leaves {MM_PER_CM * self.leaf_rms_cm:.1f} mm, " if np.isfinite(self.leaf_rms_cm) else ""
        couch = f", couch {self.couch_deg:.1f}" if np.isfinite(self.couch_deg) else ""
        mu = f", meterset {100 * self.meterset_share:+.1f} %" if np.isfinite(self.meterset_share) else ""
        return (
            f"{leaves}jaws {MM_PER_CM * self.jaw_cm:.1f} mm, gantry {self.gantry_deg:.1f}, collimator "
            f"{self.collimator_deg:.1f}{couch} degrees{mu}"
        )


def _assigned(plan: Plan, logs: Sequence[MachineLog] | LogsByBeam) -> dict[int, list[tuple[MachineLog, str]]]:
    """Logs of each beam, with how they were told."""
    beams = {beam.number: beam for beam in plan.beams}
    found: dict[int, list[tuple[MachineLog, str]]] = {}
    if isinstance(logs, Mapping):
        for number, given in logs.items():
            if number not in beams:
                raise InvalidInput(
                    f"Logs were given for beam {number}, which is not computed", f"the beams are {_listed(list(beams))}"
                )
            for one in [given] if isinstance(given, MachineLog) else given:
                _prove_patient(plan, one)
                if beams[number].leaf_cm is not None and beams[number].leaf_cm.shape[2] != one.pairs:  # type: ignore[union-attr]
                    raise InvalidInput(
                        f"Log '{one.name}' has {one.pairs} leaf pairs, its beam {number} has another number",
                        "it is of another machine",
                    )
                found.setdefault(number, []).append((one, "user"))
        return found
    for one in logs:
        number, how = _beam_of(plan, one)
        found.setdefault(number, []).append((one, how))
    return found


def _beam_of(plan: Plan, one: MachineLog) -> tuple[int, str]:
    """Number of the beam that a log is of."""
    _prove_patient(plan, one)
    agreement = {beam.number: _agreement(beam, one) for beam in plan.beams}
    named = [beam for beam in plan.beams if one.beam_name and beam.name.strip().casefold() == one.beam_name.casefold()]
    number = 0
    how = "positions"
    if one.beam_number in agreement and (not plan.uid or not one.plan_uid or plan.uid == one.plan_uid):
        number, how = one.beam_number, "number"
    elif len(named) == 1:
        number, how = named[0].number, "name"
    if number:
        held = agreement[number]
        if held is None or not held.may_be_a_part:
            differs = held.in_words() if held is not None else "another number of leaf pairs"
            raise InvalidInput(
                f"Log '{one.name}' names beam {number}, but asks for other positions ({differs})",
                "another version of the plan was loaded, or the log's scale is another than is known here",
                f"If it is of this beam all the same, say so ({{{number}: log}} in Python, {number}=FILE in a shell)",
                argument="logs",
            )
        return number, how
    good = [k for k, held in agreement.items() if held is not None and held.is_good]
    if len(good) == 1:
        return good[0], how
    names = {beam.number: beam.name for beam in plan.beams}
    if good:
        listed = ", ".join(f"{k} '{names[k]}'" for k in good)
        problem, why = f"Log '{one.name}' could be of beam {listed}", "their positions and metersets are alike"
    else:
        listed = "; ".join(
            f"{k} '{names[k]}': {held.in_words() if held is not None else 'other leaves'}"
            for k, held in agreement.items()
        )
        problem, why = f"Log '{one.name}' fits no beam of the plan", f"differences: {listed}"
    advice = "Say of which beam it is ({NUMBER: log} in Python, NUMBER=FILE in a shell)"
    raise InvalidInput(problem, why, advice, argument="logs")


def _prove_patient(plan: Plan, one: MachineLog) -> None:
    if is_other_id(one.patient_id, plan.identity.patient_id):
        raise InvalidInput(f"Log '{one.name}' is of another patient than the plan", "by the patient's number in both")


def _agreement(beam: Beam, one: MachineLog) -> _Agreement | None:
    """How far what the machine wanted is from the plan; None where the leaves cannot be compared."""
    if beam.leaf_cm is not None and beam.leaf_cm.shape[2] != one.pairs:
        return None
    wanted = one.expected or replace(one.recorded, leaf_cm=one.expected_leaf_cm)
    where = _Where(beam, one)
    if not where.weight.sum() > 0:
        return None
    leaf = where.leaf_differences(wanted)
    couch = where.couch(wanted)
    gantry = where.gantry(wanted)
    return _Agreement(
        leaf_rms_cm=np.nan if leaf is None else float(np.sqrt(where.mean(leaf**2))),
        jaw_cm=where.worst(where.jaw_differences(wanted)),
        gantry_deg=float(np.sqrt(where.mean((gantry - where.at(beam.gantry_deg)) ** 2))),
        collimator_deg=where.worst(_turned(wanted.collimator_deg - where.at(beam.collimator_deg))),
        couch_deg=np.nan if couch is None else where.worst(couch - where.at(beam.couch_deg)),
        meterset_share=one.expected_mu / beam.meterset_mu - 1 if np.isfinite(one.expected_mu) else np.nan,
    )


class _Where:
    """The planned positions of a beam at the samples of a log, and their weights."""

    __slots__ = ("beam", "share", "weight")

    def __init__(self, beam: Beam, one: MachineLog) -> None:
        self.beam = beam
        self.share = np.clip(one.meterset / (beam.meterset_mu if one.counts_mu else 1.0), 0.0, 1.0)
        step = np.diff(one.meterset)
        # Half of the meterset of the intervals before and after: the trapezium rule.
        self.weight = 0.5 * (np.r_[0.0, step] + np.r_[step, 0.0])

    def at(self, planned: Array) -> Array:
        """Planned values at the samples, shape (n, ...)."""
        known = self.beam.cumulative_meterset
        flat = planned.reshape(len(known), -1)
        there = np.stack([np.interp(self.share, known, column) for column in flat.T], axis=1)
        return there.reshape((len(self.share), *planned.shape[1:]))

    def mean(self, values: Array) -> float:
        """Mean by meterset, over all leaves where there are several."""
        flat = values.reshape(len(values), -1).mean(axis=1)
        return float(np.average(flat, weights=self.weight))

    def worst(self, values: Array) -> float:
        """Largest absolute value that lasts for `LASTING` of the meterset; 0 of nothing."""
        flat = np.abs(values.reshape(len(values), -1))
        if not flat.shape[1]:
            return 0.0
        largest = flat.max(axis=1)
        order = np.argsort(-largest)
        lasting = np.cumsum(self.weight[order]) > LASTING * self.weight.sum()
        return float(largest[order][int(np.argmax(lasting))])

    def leaf_differences(self, samples: Samples) -> Array | None:
        """Recorded less planned of the leaves that open, shape (n, 2, q) [cm]; None without leaves."""
        leaf = self.beam.leaf_cm
        if leaf is None:
            return None
        opens = (leaf[:, 1] - leaf[:, 0]).max(axis=0) > OPEN_CM
        chosen = opens if opens.any() else np.ones_like(opens)
        return samples.leaf_cm[:, :, chosen] - self.at(leaf[:, :, chosen])

    def jaw_differences(self, samples: Samples) -> Array:
        """The same of the jaws that the plan has, shape (n, 0, 2 or 4) [cm]."""
        pairs = ((samples.jaw_x_cm, self.beam.jaw_x_cm), (samples.jaw_y_cm, self.beam.jaw_y_cm))
        parts = [there - self.at(planned) for there, planned in pairs if planned is not None]
        return np.concatenate(parts, axis=1) if parts else np.empty((len(self.share), 0))

    def gantry(self, samples: Samples) -> Array:
        """The gantry, by whole turns nearest to the plan [degrees]."""
        return samples.gantry_deg + _whole_turns(samples.gantry_deg, self.at(self.beam.gantry_deg))

    def couch(self, samples: Samples) -> Array | None:
        """The couch in that sense of turn that is nearer to the plan [degrees]; None where it is not recorded."""
        if samples.couch_turn_deg is None:
            return None
        planned = self.at(self.beam.couch_deg)
        senses = [sign * samples.couch_turn_deg for sign in (1.0, -1.0)]
        turned = [sense + _whole_turns(sense, planned) for sense in senses]
        return min(turned, key=lambda angles: abs(self.mean(angles - planned)))


def _whole_turns(angles: Array, planned: Array) -> float:
    return 360.0 * float(np.round(np.median(planned - angles) / 360.0))


def _turned(difference: Array) -> Array:
    """An angle between -180 and 180 degrees."""
    return np.asarray((difference + 180.0) % 360.0 - 180.0)


# -------------------------------------------------------------------------------------------------- fractions and beams


def _joined(beam: Beam, found: list[tuple[MachineLog, str]]) -> list[tuple[MachineLog, tuple[str, ...], str]]:
    """Deliveries of one beam, in order; a beam that was interrupted has several logs that go on from one another."""
    if all(one.time for one, _ in found):
        found = sorted(found, key=lambda pair: pair[0].time)
    made: list[tuple[MachineLog, tuple[str, ...], str]] = []
    for one, how in found:
        begins = one.meterset[0]
        if not one.counts_mu or begins <= JOIN_MU:
            made.append((one, (one.name,), how))
            continue
        before, sources, told = made[-1] if made else (None, (), how)
        if before is None or abs(before.meterset[-1] - begins) > JOIN_MU:
            raise InvalidInput(
                f"Log '{one.name}' of beam {beam.number} begins at {begins:.1f} MU",
                "the log of what went before is missing, or does not end there",
                "Add it",
            )
        made[-1] = (_followed_by(before, one), (*sources, one.name), told)
    return made


def _followed_by(first: MachineLog, then: MachineLog) -> MachineLog:
    expected = None
    if first.expected is not None and then.expected is not None:
        expected = first.expected.followed_by(then.expected)
    return replace(
        first,
        meterset=np.maximum.accumulate(np.concatenate([first.meterset, then.meterset])),
        recorded=first.recorded.followed_by(then.recorded),
        expected=expected,
        expected_leaf_cm=np.concatenate([first.expected_leaf_cm, then.expected_leaf_cm]),
        warnings=(*first.warnings, *then.warnings),
    )


def _delivered_beam(
    beam: Beam, one: MachineLog, sources: tuple[str, ...], how: str, fraction: int, bounds: tuple[float, float]
) -> tuple[Beam, BeamDelivery, list[str]]:
    """The beam as recorded, how it differs from the plan, and what must be said."""
    said = list(one.warnings)
    where, recorded = _Where(beam, one), one.recorded
    gantry = where.gantry(recorded)
    collimator = recorded.collimator_deg + _whole_turns(recorded.collimator_deg, where.at(beam.collimator_deg))
    couch = where.couch(recorded)
    if couch is not None and abs(where.mean(couch - where.at(beam.couch_deg))) > ANGLE_DEG:
        said.append(
            f"Beam {beam.number}: the recorded couch angle differs from the plan's in either sense of turn; the nearer "
            "one was taken."
        )
    held = _agreement(beam, one)
    if how == "user" and (held is None or not held.may_be_a_part):
        differs = held.in_words() if held is not None else "the leaves cannot be compared"
        said.append(f"Beam {beam.number} and the log given for it ask for different positions: {differs}.")
    if one.plan_uid and how != "number":
        said.append(f"The log of beam {beam.number} does not name it; it was told by {how}.")
    leaf, overlaps, deepest = _without_overlap(recorded.leaf_cm)
    if overlaps and beam.leaf_cm is not None:
        said.append(
            f"Beam {beam.number}, fraction {fraction}: {overlaps} recorded positions of leaf pairs overlap, by up to "
            f"{MM_PER_CM * deepest:.2f} mm; those tips were set to touch."
        )
    jaws = [None if planned is None else np.sort(there, axis=1) for there, planned in (
        (recorded.jaw_x_cm, beam.jaw_x_cm), (recorded.jaw_y_cm, beam.jaw_y_cm))]  # fmt: skip
    angles = [gantry, collimator, where.at(beam.couch_deg) if couch is None else couch]
    bound_cm, bound_deg = bounds
    bounded = [angle[:, None] / bound_deg for angle in angles]
    bounded += [jaw / bound_cm for jaw in jaws if jaw is not None]
    bounded += [leaf.reshape(len(leaf), -1) / bound_cm] if beam.leaf_cm is not None else []
    kept = thin(one.meterset, np.concatenate(bounded, axis=1))
    total = one.meterset[-1] - one.meterset[0]
    cumulative = (one.meterset[kept] - one.meterset[0]) / total
    delivered_mu = float(total if one.counts_mu else total * beam.meterset_mu)
    made = replace(
        beam,
        meterset_mu=delivered_mu,
        cumulative_meterset=cumulative,
        gantry_deg=gantry[kept],
        collimator_deg=collimator[kept],
        couch_deg=angles[2][kept],
        jaw_x_cm=None if jaws[0] is None else jaws[0][kept],
        jaw_y_cm=None if jaws[1] is None else jaws[1][kept],
        leaf_cm=None if beam.leaf_cm is None else leaf[kept],
    )
    off = where.leaf_differences(recorded)
    turned = gantry - where.at(beam.gantry_deg)
    row = BeamDelivery(
        number=beam.number,
        name=beam.name,
        fraction=fraction,
        sources=sources,
        matched_by=how,
        planned_mu=beam.meterset_mu,
        delivered_mu=delivered_mu,
        meterset_is_recorded=one.counts_mu,
        leaf_mean_cm=np.nan if off is None else where.mean(np.abs(off)),
        leaf_rms_cm=np.nan if off is None else float(np.sqrt(where.mean(off**2))),
        leaf_worst_cm=np.nan if off is None else where.worst(off),
        gantry_mean_deg=where.mean(turned),
        gantry_rms_deg=float(np.sqrt(where.mean(turned**2))),
        gantry_worst_deg=where.worst(turned),
        collimator_worst_deg=where.worst(collimator - where.at(beam.collimator_deg)),
        couch_worst_deg=np.nan if couch is None else where.worst(couch - where.at(beam.couch_deg)),
        jaw_worst_cm=where.worst(where.jaw_differences(recorded)),
        samples=len(one.meterset),
        control_points=len(kept),
        overlaps=overlaps if beam.leaf_cm is not None else 0,
        seconds=one.seconds,
    )
    return made, row, said


def _without_overlap(leaf_cm: Array) -> tuple[Array, int, float]:
    """Leaves with tips that overlap by more than a plan may set to touch; how many, and the deepest overlap [cm]."""
    overlap = leaf_cm[:, 0] - leaf_cm[:, 1]
    crossed = overlap >= LEAF_OVERLAP_TOLERANCE_CM
    if not crossed.any():
        return leaf_cm, 0, 0.0
    middle = leaf_cm.mean(axis=1)
    mended = np.where(crossed[:, None], middle[:, None], leaf_cm)
    return mended, int(crossed.sum()), float(overlap.max())


def _share_of(beam: Beam, fraction: int, recorded: int) -> Beam:
    """A beam of one of several recorded fractions in the plan of their mean."""
    if recorded == 1:
        return beam
    point = beam.planned_point_dose_gy
    return replace(
        beam,
        number=beam.number + NUMBER_STEP * fraction,
        name=f"{beam.name} (fraction {fraction + 1})",
        meterset_mu=beam.meterset_mu / recorded,
        planned_point_dose_gy=None if point is None else point / recorded,
    )


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
