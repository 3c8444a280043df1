"""What would explain a difference: variants of the plan, computed coarsely and held against it (docs/howto/check.md).

Each variant changes one thing: the energy, the couch or collimator angles, the leaf gap, the meterset of a beam, a
density. What it changes of the dose is compared with what separates planned and recalculated dose. A variant that takes
most of it away is named with its amount; that is a hint at where to look, no proof.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spinedose.assignments import Assignment
from spinedose.check.outcome import Finding
from spinedose.check.patterns import EXPLAINS, Pattern, chosen_points
from spinedose.density import CtImage
from spinedose.engine import compute_dose
from spinedose.settings import Settings
from spinedose.errors import SpinedoseError
from spinedose.grid import Volume
from spinedose.machine import Machine, machine_for_beam
from spinedose.plan import Beam, Plan
from spinedose.result import Dose
from spinedose.structures import StructureSet
from spinedose.units import MM_PER_CM

Array = NDArray[np.float64]

COARSE_CM, FEW_DIRECTIONS = 0.3, 128
"""Voxels [cm] and directions of the variants: only differences between them are used."""

ALONE = 0.5
"""With all criteria met a cause is named only when no other kind explains more than this part of what it explains.
House default, set with the planted errors of docs/howto/check.md in view."""

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
little."""


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
    """

    code: str
    text: str
    share: float


@dataclass(frozen=True, slots=True, eq=False)
class _Variant:
    """A changed plan, how its effect is told, and whether its amount is free."""

    code: str
    plan: Plan
    structures: StructureSet | None
    tell: Callable[[float], str]
    is_free: bool


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
    """All causes that were tried, the best first.

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
    points, theirs = chosen_points(planned)
    apart = theirs - recalculated.sample(points, outside=0.0)

    def compute(changed: Plan, regions: StructureSet | None, *, per_beam: bool = False) -> Dose:
        return compute_dose(
            changed,
            ct,
            machine=machine,
            structures=regions,
            materials=materials,
            spacing_cm=max(spacing_cm, COARSE_CM),
            backend=backend,
            per_beam=per_beam,
            settings=replace(settings, directions=FEW_DIRECTIONS),
        )

    causes = list(_simple(pattern))
    variants = list(_variants(plan, structures, machine))
    progress("look for causes", 0.0)
    base = compute(plan, structures, per_beam=len(plan.beams) > 1)
    here = base.volume.sample(points, outside=0.0)
    for number, volume in base.beams.items():
        amount, share = _fitted(apart, volume.sample(points, outside=0.0))
        name = next(beam.name for beam in plan.beams if beam.number == number)
        text = f"as if the meterset of beam {number} '{name}' were {_times(amount)}"
        causes.append(Cause("meterset_of_beam", text, share))
    for count, variant in enumerate(variants):
        progress("look for causes", (count + 1) / (len(variants) + 1))
        try:
            changed = compute(variant.plan, variant.structures).volume.sample(points, outside=0.0) - here
        except SpinedoseError:  # a variant that the machine or the engine does not allow explains nothing
            continue
        amount, share = _fitted(apart, changed) if variant.is_free else (1.0, _share(apart, changed))
        causes.append(Cause(variant.code, variant.tell(amount), share))
    return tuple(sorted(causes, key=lambda cause: -cause.share))


def told(causes: Sequence[Cause], *, is_within: bool) -> Iterator[Finding]:
    """The causes that explain most of a difference, in one finding; with all criteria met only a sure one."""
    if not causes or (is_within and not _stands_out(causes)):
        return
    if causes[0].share < EXPLAINS:
        yield Finding(
            "no_cause_found",
            "information",
            "No single change that was tried explains most of the difference; the best, the planned dose looking "
            f"{causes[0].text}, explains {100 * max(causes[0].share, 0.0):.0f} % of it.",
        )
        return
    most_left = NEARLY * (1 - causes[0].share) + SAME
    named = [cause for cause in causes[:NAMED] if 1 - cause.share <= most_left]
    texts = [f"{cause.text} (explains {100 * cause.share:.0f} %)" for cause in named]
    more = "" if len(texts) == 1 else f", or {', or '.join(texts[1:])}"
    start = "All criteria are met, but the planned dose looks" if is_within else "The planned dose looks"
    yield Finding("likely_cause", "attention", f"{start} {texts[0]}{more}.")


def _stands_out(causes: Sequence[Cause]) -> bool:
    """Whether the best cause explains most of a difference, and no other kind comes near it."""
    best = causes[0]
    others = [cause.share for cause in causes if cause.code != best.code]
    return best.share >= EXPLAINS and max(others, default=0.0) <= ALONE * best.share


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
        return _Variant(
            code,
            with_beams(lambda beam: replace(beam, **{angle: getattr(beam, angle) + TURN_DEG})),
            structures,
            lambda amount: f"as if the {what} were turned by {TURN_DEG * amount:+.1f} degrees",
            True,
        )

    yield turned("collimator", "collimators")
    yield turned("couch", "couch")
    yield turned("gantry", "gantry")
    if any(beam.leaf_cm is not None for beam in plan.beams):
        yield _Variant(
            "leaf_gap",
            with_beams(_opened),
            structures,
            lambda amount: f"as if all leaf gaps were {MM_PER_CM * OPEN_CM * amount:+.2f} mm wider",
            True,
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
            yield _Variant("energy", changed, structures, lambda _, text=text: text, False)  # type: ignore[misc]


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

        yield _Variant("density", plan, changed, tell, True)


def _turned(angles_deg: Array) -> Array:
    """Angles between -90 and 90 degrees, a half turn of a collimator or a couch being none here."""
    return (angles_deg + 90) % 180 - 90


def _opened(beam: Beam) -> Beam:
    """A beam whose leaf gaps are wider; closed pairs stay closed."""
    if beam.leaf_cm is None:
        return beam
    is_open = (beam.leaf_cm[:, 1] - beam.leaf_cm[:, 0])[:, None] > 0.05
    half = np.array([-OPEN_CM / 2, OPEN_CM / 2])[None, :, None]
    return replace(beam, leaf_cm=beam.leaf_cm + np.where(is_open, half, 0.0))
