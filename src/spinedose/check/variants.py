"""What would explain a difference: variants of the plan, computed coarsely and held against it (docs/howto/check.md).

Each variant changes one thing: the energy, the couch or collimator angles, the leaf gap, one leaf, the meterset of a
beam, a density. What it changes of the dose is compared with what separates planned and recalculated dose. A variant
that takes most of it away is named with its amount; that is a hint at where to look, no proof. What moves edges of
fields is first tried with a rough model (`spinedose.check.beams_eye`); the engine computes what promises something.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spinedose.assignments import Assignment
from spinedose.check.beams_eye import Cubes, gather_cubes, open_dose
from spinedose.check.leaves import Suspect, find_suspects
from spinedose.check.outcome import Finding
from spinedose.check.patterns import EXPLAINS, Pattern, chosen_points
from spinedose.density import CtImage
from spinedose.engine import irradiate
from spinedose.errors import SpinedoseError
from spinedose.grid import Volume
from spinedose.machine import Machine, machine_for_beam
from spinedose.patient import PreparedPatient, prepare_patient
from spinedose.plan import Beam, Plan
from spinedose.settings import Settings
from spinedose.stages import Memory
from spinedose.structures import StructureSet
from spinedose.units import MM_PER_CM

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Effort:
    """Voxels [cm], directions and steps [degrees] of variants: only differences between them are used."""

    voxel_cm: float
    directions: int
    segment_step_deg: float = 4.0
    group_step_deg: float = 8.0


EDGES, SMOOTH = _Effort(0.3, 128), _Effort(0.4, 96)
"""Efforts for variants that move the edges of fields, and for those that do not: energies, densities. Against steps of
1 and 4 degrees the effect of a turn on the demo case keeps 99.8 % of its mean square, at a third less time; voxels of
0.4 cm keep 99.8 % of that of an energy, and 73 % of that of a turned collimator."""

PROMISING = 0.2
"""Share of the mean square difference that a variant must explain in the rough model to be computed. What the engine
gives and the rough model have some 90 % in common on the demo case, so that nothing that explains half is lost."""

WORTH_ANOTHER = 0.3
"""From this share on a variant is computed once more, with the amount that was fitted: edges of fields are sharp, so
that what 1 degree does is not, turned round and doubled, what -2 degrees do (66 % of it on the demo case)."""

CONCLUSIVE = 0.98
"""When a cause explains this share, no others are computed."""

ROUGH_CUBES = 4000
"""Cubes in which variants are tried roughly."""

LEAVES_FROM_PERCENT = 0.1
"""Leaves are looked for from this root mean square difference on [% of the planned maximum]: below, interpolation
between grids speaks (house default)."""

LEAST_LEAF_CM = 0.1
"""Leaves within this of where they should be are in order (AAPM TG-142, Med Phys 36:4197 (2009): leaf position accuracy
for IMRT, 1 mm; not verified against the original)."""

LEAF_SHARE = 0.1
"""A leaf that stands out from the others is mentioned even where it explains less than half, from this share on (house
default)."""

LEAF_STEP_CM = 0.5
"""By how much a suspected leaf is moved [cm]; the amount is fitted."""

TURN_DEG, OPEN_CM = 1.0, 0.1
"""Steps of the variants whose amount is fitted: a turn [degrees], a leaf gap [cm]."""

TURNED_DEG = 0.5
"""Angles below this are none, so that mirroring them changes nothing [degrees]."""

MOST_DENSITIES = 4
"""Structures with a density of their own that are tried, the largest effect of all being metal and couch."""

NAMED = 3
"""Causes that are named."""

NEARLY, SAME = 2.0, 0.005
"""Others are named with the best when what they leave unexplained is no more than so many times what it leaves, and a
little. With all criteria met the best is named only when no other kind comes so near."""


@dataclass(frozen=True, slots=True, eq=False)
class Cause:
    """Something that would explain a difference.

    Parameters
    ----------
    code : str
        For programs: `meterset`, `shift`, `energy`, `couch_mirrored`, `collimator`, ...
    text : str
        What the planned dose looks like: `as if all metersets were 3.0 % higher`.
    share : float
        Part of the mean square difference that it takes away, up to 1; negative where it makes it worse.
    stands_out : bool
        Whether it was found because it stands out from all of its kind, which counts apart from the share.
    """

    code: str
    text: str
    share: float
    stands_out: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class _Variant:
    """A changed plan, how its effect is told, whether its amount is free, and whether it moves edges of fields;
    the plan with another amount, where one can be made."""

    code: str
    plan: Plan
    structures: StructureSet | None
    tell: Callable[[float], str]
    is_free: bool
    moves_edges: bool = True
    at: Callable[[float], Plan] | None = None


class Coarse:
    """The engine at less effort, for differences between doses; patients and fluences are kept for the next variant.

    Parameters
    ----------
    ct, machine, materials, backend
        As they were computed.
    spacing_cm : float
        Voxels of the calculation [cm]; those of variants are not finer.
    settings : Settings
        As they were computed.
    """

    __slots__ = ("_backend", "_ct", "_machine", "_materials", "_memory", "_patients", "_settings", "_spacing_cm")

    def __init__(
        self,
        ct: CtImage,
        machine: Machine | str | Path | None,
        materials: Sequence[Assignment],
        spacing_cm: float,
        settings: Settings,
        backend: str,
    ) -> None:
        self._ct, self._machine, self._materials, self._spacing_cm = ct, machine, materials, spacing_cm
        self._settings, self._backend, self._memory = settings, backend, Memory()
        self._patients: dict[tuple[int, float], tuple[StructureSet | None, PreparedPatient]] = {}

    def dose(self, plan: Plan, structures: StructureSet | None, effort: _Effort) -> Volume:
        """Dose of a plan [Gy]."""
        voxel_cm = max(self._spacing_cm, effort.voxel_cm)
        key = (id(structures), voxel_cm)
        if key not in self._patients:
            patient = prepare_patient(
                self._ct,
                patient_position=plan.patient_position,
                structures=structures,
                materials=self._materials,
                spacing_cm=voxel_cm,
                curve=self._settings.curve,
                backend=self._backend,
            )
            self._patients[key] = structures, patient  # with the structures, so that their id stays theirs
        return irradiate(
            plan,
            self._patients[key][1],
            machine=self._machine,
            settings=replace(
                self._settings,
                directions=effort.directions,
                segment_step_deg=max(self._settings.segment_step_deg, effort.segment_step_deg),
                group_step_deg=max(self._settings.group_step_deg, effort.group_step_deg),
            ),
            memory=self._memory,
        ).volume


def find_causes(
    plan: Plan,
    ct: CtImage,
    structures: StructureSet | None,
    planned: Volume,
    recalculated: Volume,
    pattern: Pattern,
    *,
    machine: Machine | str | Path | None,
    materials: Sequence[Assignment],
    spacing_cm: float,
    settings: Settings,
    backend: str,
    progress: Callable[[str, float], None],
) -> tuple[Cause, ...]:
    """All causes that were tried, the best first; none where the doses hardly differ.

    Parameters
    ----------
    plan, ct, structures, machine, materials, settings, backend
        As they were computed.
    planned, recalculated : Volume
        Both doses [Gy].
    pattern : Pattern
        Factor and shift, which are causes, too.
    spacing_cm : float
        Voxels of the calculation [cm]; those of variants are not finer.
    progress : callable
        Called with a word and the share that is done.
    """
    if pattern.rms_percent < LEAVES_FROM_PERCENT:
        return ()
    progress("look for causes", 0.0)
    points, theirs = chosen_points(planned)
    apart = theirs - recalculated.sample(points, outside=0.0)
    coarse = Coarse(ct, machine, materials, spacing_cm, settings, backend)
    causes = list(_simple(pattern))
    if _is_conclusive(causes) and pattern.is_worth_a_look:
        return tuple(sorted(causes, key=_worst_first))
    cubes = gather_cubes(planned, recalculated)
    suspects = find_suspects(plan, cubes, ct)
    for suspect in suspects:
        causes += _one_leaf(plan, structures, suspect, coarse, points, apart)
    if not pattern.is_worth_a_look:
        return tuple(sorted(causes, key=_worst_first)) if len(causes) > 2 else ()
    variants = list(_variants(plan, structures, machine))
    rough = _rough_shares(plan, ct, cubes, [one for one in variants if one.moves_edges])
    promising = [one for one in [*_beams(plan), *variants] if rough.get(one.code, 0.0) >= PROMISING]
    promising.sort(key=lambda one: -rough[one.code])
    others = [one for one in variants if not one.moves_edges]
    count, bases = 0, dict[_Effort, Array]()
    for variant in (*promising, *others):
        if _is_conclusive(causes):
            break
        count += 1
        progress("look for causes", count / (len(promising) + len(others) + 1))
        effort = EDGES if variant.moves_edges else SMOOTH

        def at(changed: Plan, regions: StructureSet | None, effort: _Effort = effort) -> Array:
            return coarse.dose(changed, regions, effort).sample(points, outside=0.0)

        try:
            changed = at(variant.plan, variant.structures)
            if not variant.code.startswith(_OF_BEAM):
                if effort not in bases:
                    bases[effort] = at(plan, structures)
                changed = changed - bases[effort]
        except SpinedoseError:  # a variant that the machine or the engine does not allow explains nothing
            continue
        amount, share = _fitted(apart, changed) if variant.is_free else (1.0, _share(apart, changed))
        if variant.at is not None and WORTH_ANOTHER <= share < CONCLUSIVE:
            try:
                more, better = _fitted(apart, at(variant.at(amount), variant.structures) - bases[effort])
            except SpinedoseError:  # leaves would cross
                more, better = 1.0, share
            if better > share:
                amount, share = more * amount, better
        causes.append(Cause(variant.code.partition(":")[0], variant.tell(amount), share))
    return tuple(sorted(causes, key=_worst_first))


def _worst_first(cause: Cause) -> float:
    return -cause.share


def _is_conclusive(causes: Sequence[Cause]) -> bool:
    return max((cause.share for cause in causes), default=0.0) >= CONCLUSIVE


_OF_BEAM = "meterset_of_beam"


def _beams(plan: Plan) -> Iterator[_Variant]:
    """Each beam alone, for its meterset; nothing for a single beam, whose meterset is that of the plan."""
    for beam in plan.beams if len(plan.beams) > 1 else ():

        def tell(amount: float, beam: Beam = beam) -> str:
            return f"as if the meterset of beam {beam.number} '{beam.name}' were {_times(amount)}"

        yield _Variant(f"{_OF_BEAM}:{beam.number}", replace(plan, beams=(beam,)), None, tell, True)


def _rough_shares(plan: Plan, ct: CtImage, cubes: Cubes, variants: Sequence[_Variant]) -> dict[str, float]:
    """What variants explain in the rough model, by their code; of the beams' metersets only the best."""
    few = slice(None, None, 1 + len(cubes.points_cm) // ROUGH_CUBES)
    cubes = Cubes(
        cubes.points_cm[few], cubes.planned_gy[few], cubes.apart_gy[few], cubes.slope_gy_per_cm[few],
        cubes.filled[few], cubes.side_cm,
    )  # fmt: skip
    root = np.sqrt(cubes.filled)
    apart, recalculated = root * cubes.apart_gy, root * (cubes.planned_gy - cubes.apart_gy)

    def rough(beam: Beam) -> Array:
        return root * open_dose(beam, cubes, ct, plan.patient_position)

    beams = {beam.number: rough(beam) for beam in plan.beams}
    base = np.sum(list(beams.values()), axis=0)
    scale, _ = _fitted(recalculated, base)
    shares = {f"{_OF_BEAM}:{number}": _fitted(apart, dose)[1] for number, dose in beams.items()}
    best = max(shares, key=lambda code: shares[code])
    shares = {best: shares[best]}
    for variant in variants:
        changed = scale * (np.sum([rough(beam) for beam in variant.plan.beams], axis=0) - base)
        shares[variant.code] = _fitted(apart, changed)[1] if variant.is_free else _share(apart, changed)
    return shares


def _one_leaf(
    plan: Plan, structures: StructureSet | None, suspect: Suspect, coarse: Coarse, points: Array, apart: Array
) -> Iterator[Cause]:
    """The engine's word on a leaf: only its control points are computed, as they are and with the leaf moved."""
    beam = next(beam for beam in plan.beams if beam.number == suspect.beam)
    step = LEAF_STEP_CM if suspect.score > 0 else -LEAF_STEP_CM
    last = len(beam.gantry_deg) - 1
    window = max(suspect.first - 1, 0), min(suspect.last + 1, last)
    with_, without = (
        coarse.dose(replace(plan, beams=(_part(one, *window),)), structures, EDGES).sample(points, outside=0.0)
        for one in (suspect.moved(beam, step), beam)
    )
    amount, share = _fitted(apart, with_ - without)
    moved_cm = amount * step
    if amount <= 0 or abs(moved_cm) < LEAST_LEAF_CM:
        return
    whole = (suspect.first, suspect.last) == (0, last)
    when = "in all control points" if whole else f"between control points {suspect.first} and {suspect.last}"
    text = (
        f"as if {suspect.name(beam)} stood {MM_PER_CM * abs(moved_cm):.1f} mm further "
        f"{'out' if moved_cm > 0 else 'in'} {when}"
    )
    yield Cause("leaf", text, share, stands_out=True)


def _part(beam: Beam, first: int, last: int) -> Beam:
    """A beam from one control point to another, with the meterset that is delivered between them."""
    part = slice(first, last + 1)
    before, after = beam.cumulative_meterset[[first, last]]
    weights = (beam.cumulative_meterset[part] - before) / (after - before)
    weights[-1] = 1.0
    return replace(
        beam,
        meterset_mu=beam.meterset_mu * float(after - before),
        cumulative_meterset=weights,
        gantry_deg=beam.gantry_deg[part],
        collimator_deg=beam.collimator_deg[part],
        couch_deg=beam.couch_deg[part],
        leaf_cm=None if beam.leaf_cm is None else beam.leaf_cm[part],
        jaw_x_cm=None if beam.jaw_x_cm is None else beam.jaw_x_cm[part],
        jaw_y_cm=None if beam.jaw_y_cm is None else beam.jaw_y_cm[part],
    )


def told(causes: Sequence[Cause], *, is_within: bool) -> Iterator[Finding]:
    """The causes that explain most of a difference, in one finding; with all criteria met only a sure one."""
    if not causes:
        return
    leaf = next((cause for cause in causes if cause.stands_out and cause.share >= LEAF_SHARE), None)
    is_named = not is_within or _stands_out(causes)
    if leaf is not None and (leaf.share < EXPLAINS or not is_named):
        yield Finding(
            "leaf_stands_out",
            "information",
            f"One leaf stands out from all others in what separates the doses: the planned dose looks {leaf.text} "
            f"(explains {100 * leaf.share:.0f} %).",
        )
    if not is_named:
        return
    if causes[0].share < EXPLAINS:
        yield Finding(
            "no_cause_found",
            "information",
            "No single change that was tried explains most of the difference; the best, the planned dose looking "
            f"{causes[0].text}, explains {100 * max(causes[0].share, 0.0):.0f} % of it.",
        )
        return
    named = [cause for cause in causes[:NAMED] if 1 - cause.share <= _most_left(causes[0])]
    texts = [f"{cause.text} (explains {100 * cause.share:.0f} %)" for cause in named]
    more = "" if len(texts) == 1 else f", or {', or '.join(texts[1:])}"
    start = "All criteria are met, but the planned dose looks" if is_within else "The planned dose looks"
    yield Finding("likely_cause", "attention", f"{start} {texts[0]}{more}.")


def _stands_out(causes: Sequence[Cause]) -> bool:
    """Whether the best cause explains most of a difference, and no other kind would be named beside it."""
    best = causes[0]
    others = [cause.share for cause in causes if cause.code != best.code]
    return best.share >= EXPLAINS and 1 - max(others, default=0.0) > _most_left(best)


def _most_left(best: Cause) -> float:
    """What another cause may leave unexplained to be named beside the best."""
    return NEARLY * (1 - best.share) + SAME


def _fitted(apart: Array, changed: Array) -> tuple[float, float]:
    """How much of a change fits best, and the share of the difference that it explains."""
    square = float(changed @ changed)
    amount = float(apart @ changed) / square if square > 0 else 0.0
    return amount, _share(apart, amount * changed)


def _share(apart: Array, changed: Array) -> float:
    return 1.0 - float(np.mean((apart - changed) ** 2)) / max(float(np.mean(apart**2)), 1e-30)


def _times(amount: float) -> str:
    return f"{100 * abs(amount):.1f} % {'higher' if amount > 0 else 'lower'}"


def _simple(pattern: Pattern) -> Iterator[Cause]:
    """The factor and the shift of the fit."""
    whole = max(pattern.rms_percent, 1e-9) ** 2
    text = f"as if all metersets, or the calibration, were {_times(1 / pattern.factor - 1)}"
    yield Cause("meterset", text, 1 - pattern.rms_after_factor_percent**2 / whole)
    x, y, z = (-MM_PER_CM * value for value in pattern.shift_cm)
    text = f"as if the isocentre were moved by x {x:+.1f}, y {y:+.1f}, z {z:+.1f} mm"
    yield Cause("shift", text, 1 - pattern.rms_after_shift_percent**2 / whole)


def _variants(plan: Plan, structures: StructureSet | None, machine: Machine | str | Path | None) -> Iterator[_Variant]:
    """All changes that can be tried with a plan."""

    def with_beams(change: Callable[[Beam], Beam]) -> Plan:
        return replace(plan, beams=tuple(change(beam) for beam in plan.beams))

    def turned(code: str, what: str) -> _Variant:
        angle = f"{code}_deg"

        def at(amount: float) -> Plan:
            return with_beams(lambda beam: replace(beam, **{angle: getattr(beam, angle) + TURN_DEG * amount}))

        def tell(amount: float) -> str:
            return f"as if the {what} were turned by {TURN_DEG * amount:+.1f} degrees"

        return _Variant(code, at(1.0), structures, tell, True, at=at)

    yield turned("collimator", "collimators")
    yield turned("couch", "couch")
    yield turned("gantry", "gantry")
    if any(beam.leaf_cm is not None for beam in plan.beams):

        def opened(amount: float) -> Plan:
            return with_beams(lambda beam: _opened(beam, amount))

        yield _Variant(
            "leaf_gap",
            opened(1.0),
            structures,
            lambda amount: f"as if all leaf gaps were {MM_PER_CM * OPEN_CM * amount:+.2f} mm wider",
            True,
            at=opened,
        )
    if any(np.any(np.abs(_turned(beam.couch_deg)) > TURNED_DEG) for beam in plan.beams):
        mirrored = with_beams(lambda beam: replace(beam, couch_deg=-beam.couch_deg))
        yield _Variant("couch_mirrored", mirrored, structures, lambda _: "as if all couch angles were mirrored", False)
    if any(np.any(np.abs(_turned(beam.collimator_deg)) > TURNED_DEG) for beam in plan.beams):
        mirrored = with_beams(lambda beam: replace(beam, collimator_deg=-beam.collimator_deg))
        text = "as if all collimator angles were mirrored"
        yield _Variant("collimator_mirrored", mirrored, structures, lambda _: text, False)
    yield from _energies(plan, structures, machine)
    yield from _densities(plan, structures)


def _energies(plan: Plan, structures: StructureSet | None, machine: Machine | str | Path | None) -> Iterator[_Variant]:
    known = [set(machine_for_beam(beam, machine)[0].beams) for beam in plan.beams]
    for energy in sorted(set.intersection(*known)):
        if any(beam.energy != energy for beam in plan.beams):
            changed = replace(plan, beams=tuple(replace(beam, energy=energy) for beam in plan.beams))
            text = f"as if all beams were {energy}"
            yield _Variant("energy", changed, structures, lambda _, text=text: text, False, False)  # type: ignore[misc]


def _densities(plan: Plan, structures: StructureSet | None) -> Iterator[_Variant]:
    """Every structure with a density of its own, taken for water."""
    if structures is None:
        return
    own = [
        s
        for s in structures.structures
        if s.contours_cm and (s.relative_mass_density is not None or s.relative_electron_density is not None)
    ]
    for structure in own[:MOST_DENSITIES]:
        density = structure.relative_electron_density
        density = structure.relative_mass_density if density is None else density
        assert density is not None
        if abs(density - 1) < 0.02:
            continue
        water = replace(structure, relative_mass_density=1.0, relative_electron_density=1.0)
        changed = replace(structures, structures=tuple(water if s is structure else s for s in structures.structures))

        def tell(amount: float, name: str = structure.name, density: float = density) -> str:
            return f"as if '{name}' had a density of {density + amount * (1 - density):.2f} instead of {density:.2f}"

        yield _Variant("density", plan, changed, tell, True, False)


def _turned(angles_deg: Array) -> Array:
    """Angles between -90 and 90 degrees, a half turn of a collimator or a couch being none here."""
    return (angles_deg + 90) % 180 - 90


def _opened(beam: Beam, amount: float) -> Beam:
    """A beam whose leaf gaps are wider by `amount` times a step; closed pairs stay closed, and no gap closes."""
    if beam.leaf_cm is None:
        return beam
    gap = beam.leaf_cm[:, 1] - beam.leaf_cm[:, 0]
    wider = np.where(gap > 0.05, np.maximum(amount * OPEN_CM, -gap), 0.0)
    half = np.array([-0.5, 0.5])[None, :, None] * wider[:, None]
    return replace(beam, leaf_cm=beam.leaf_cm + half)
