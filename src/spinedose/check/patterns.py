"""What kind of difference there is between two doses: a factor, a shift, or another shape (docs/howto/check.md).

Gamma says how much of a dose disagrees, not in which way. Here the recalculated dose is fitted to the planned one by a
factor and a shift; what they take away tells meterset or calibration from position. The rest is the shape of the dose:
leaves, collimator, couch, energy, density. `spinedose.check.variants` looks into these.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spinedose.check.outcome import Finding, GammaFound
from spinedose.grid import Volume
from spinedose.units import MM_PER_CM

Array = NDArray[np.float64]

ABOVE = 0.2
"""Voxels with less planned dose than this share of the maximum are left out."""

MOST_POINTS = 60_000
"""Voxels that are looked at; of more, every n-th."""

WORTH = 0.01
"""Differences below this, root mean square in shares of the maximum, are not explained: they are within what two good
engines differ by."""

LOOKED_INTO = 0.003
"""Above this, in the same measure, causes are looked for: many planted errors stay within all criteria (house
default; docs/howto/check.md has the table)."""

EXPLAINS = 0.5
"""A cause is named when it takes this share of the mean square difference or more away (house default)."""

ROUNDS = 3
"""Steps of the fit; a shift of a few millimetres is found in two."""

WHOLE_NUMBER = 0.12
"""A ratio of the doses this near to the number of fractions, or its inverse, is taken for it, where the doses are alike
but for that (`ALIKE`)."""

OTHER_NUMBER = 0.05
"""A ratio this near to a whole number, or its inverse, is taken for that of two numbers of fractions: any number can be
meant here, and two engines agree better than that (house default)."""

ALIKE = 0.03
"""When not more than this is left after a factor, root mean square in shares of the maximum, doses are alike but for it
(house default). Two real plans of other engines left 0.01 and 0.03, voxels of 6 instead of 3 mm 0.024, an arc of two
that was missing 0.05."""

MOST_FRACTIONS = 60
"""No course has more: two fractions a day for six weeks."""

CGY_IN_GY = 100
"""A ratio that tells units rather than fractions."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """How two doses differ.

    Parameters
    ----------
    rms_percent : float
        Root mean square difference where the planned dose is above `ABOVE` [% of its maximum].
    factor : float
        Recalculated over planned dose, least squares.
    rms_after_factor_percent : float
        What is left after that factor.
    shift_cm : tuple of 3 floats
        By how much the recalculated dose lies away from the planned one (x, y, z) [cm].
    rms_after_shift_percent, rms_after_both_percent : float
        What is left after that shift; after a factor and a shift together.
    factor_with_shift : float
        The factor of the fit with both.
    """

    rms_percent: float
    factor: float
    rms_after_factor_percent: float
    shift_cm: tuple[float, float, float]
    rms_after_shift_percent: float
    rms_after_both_percent: float
    factor_with_shift: float

    @property
    def is_worth_a_word(self) -> bool:
        """Whether the doses differ enough to ask why."""
        return self.rms_percent > 100 * WORTH

    @property
    def is_worth_a_look(self) -> bool:
        """Whether the doses differ enough to look for causes."""
        return self.rms_percent > 100 * LOOKED_INTO

    def explained(self, rms_percent: float) -> bool:
        """Whether a cause takes enough of the difference away."""
        return rms_percent**2 <= (1 - EXPLAINS) * self.rms_percent**2


def find_pattern(planned: Volume, recalculated: Volume) -> Pattern:
    """Fit a factor and a shift of the recalculated dose to the planned one."""
    points, theirs = chosen_points(planned)
    top = float(planned.values.max())

    def rms(differences: Array) -> float:
        return float(100 * np.sqrt(np.mean(differences**2)) / top)

    ours = recalculated.sample(points, outside=0.0)
    factor = float(ours @ theirs / (theirs @ theirs))
    before, after = rms(ours - theirs), rms(ours / factor - theirs) if factor > 0 else rms(theirs)
    if before <= 100 * LOOKED_INTO:  # nothing to explain
        return Pattern(before, factor, after, (0.0, 0.0, 0.0), before, after, factor)
    alone, _, left_alone = _fit_shift(recalculated, points, theirs, with_factor=False)
    _, scale, left = _fit_shift(recalculated, points, theirs, with_factor=True)
    return Pattern(
        before,
        factor,
        after,
        (float(alone[0]), float(alone[1]), float(alone[2])),
        rms(left_alone),
        rms(left),
        scale if np.isfinite(scale) and scale > 0 else factor,
    )


def chosen_points(planned: Volume) -> tuple[Array, Array]:
    """Voxel centres (n, 3) [cm] where the planned dose is above `ABOVE` of its maximum, and their doses (n,) [Gy]."""
    values = planned.values
    index = np.argwhere(values >= ABOVE * values.max())
    index = index[:: max(1, len(index) // MOST_POINTS)]
    points = index[:, ::-1] * np.array(planned.grid.spacing_cm) + planned.grid.origin_cm
    return points, values[tuple(index.T)].astype(np.float64)


def _fit_shift(dose: Volume, points: Array, theirs: Array, *, with_factor: bool) -> tuple[Array, float, Array]:
    """Shift [cm] (and factor) with which the moved dose fits best, Gauss and Newton; what is left [Gy].

    A dose that lies shifted by d has at x + d what the planned one has at x.
    """
    shift, scale = np.zeros(3), 1.0
    step = np.array(dose.grid.spacing_cm) / 2
    best = (shift, scale, dose.sample(points, outside=0.0) - theirs)
    for _ in range(ROUNDS):
        at = points + shift
        here = dose.sample(at, outside=0.0)
        slopes = []
        for axis in range(3):
            move = np.zeros(3)
            move[axis] = step[axis]
            up, down = dose.sample(at + move, outside=0.0), dose.sample(at - move, outside=0.0)
            slopes.append((up - down) / (2 * step[axis]))
        columns = [*slopes, -theirs] if with_factor else slopes
        matrix = np.stack(columns, axis=1)
        known = theirs - here if not with_factor else -here
        solution, *_ = np.linalg.lstsq(matrix, known, rcond=None)
        shift = shift + np.clip(solution[:3], -0.5, 0.5)
        scale = float(solution[3]) if with_factor else 1.0
        moved = dose.sample(points + shift, outside=0.0)
        left = (moved / scale if with_factor and scale > 0 else moved) - theirs
        if np.mean(left**2) < np.mean(best[2] ** 2):
            best = (shift, scale, left)
    return best


def explain(
    pattern: Pattern, fractions: int, gammas: Sequence[GammaFound], *, are_voxels_coarse: bool = False
) -> Iterator[Finding]:
    """Say in words what the pattern means, and where gamma fails most.

    `are_voxels_coarse` says that the recalculated dose has coarser voxels than its gradients ask for.
    """
    wrong = _of_fractions(pattern, fractions)
    if wrong:
        yield Finding("fractions_factor", "problem", wrong)
        return
    if not pattern.is_worth_a_word:
        return
    percent = 100 * (pattern.factor - 1)
    size = float(np.linalg.norm(pattern.shift_cm))
    after_factor, after_shift = pattern.rms_after_factor_percent, pattern.rms_after_shift_percent
    if pattern.explained(min(after_factor, after_shift)):
        if after_factor <= after_shift:
            yield Finding(
                "scaled",
                "attention",
                f"The recalculated dose is {percent:+.1f} % off as a whole: a factor takes the difference from "
                f"{pattern.rms_percent:.1f} to {after_factor:.1f} % (root mean square). So differ metersets, "
                "calibrations and numbers of fractions; less exactly, energies and densities in front of the target.",
            )
        else:
            yield _shifted(pattern, size, after_shift, "")
    elif pattern.explained(pattern.rms_after_both_percent) and size > 0.05:
        more = f", and a factor of {pattern.factor_with_shift:.3f}"
        yield _shifted(pattern, size, pattern.rms_after_both_percent, more)
    else:
        machine = "leaf positions, collimator and couch angles, energies and densities"
        why = f"So differ {machine}, and doses on voxels of other sizes."
        if are_voxels_coarse:
            why = (
                f"Compute with finer voxels first: coarse ones alone make such a difference. So differ also {machine}."
            )
        yield Finding(
            "other_shape",
            "attention",
            f"The doses differ in shape ({pattern.rms_percent:.1f} % root mean square): neither a factor "
            f"({percent:+.1f} %) nor a shift ({MM_PER_CM * size:.1f} mm) explains it. {why}",
        )
    yield from _where(gammas)


def _of_fractions(pattern: Pattern, fractions: int) -> str:
    """The difference as one of numbers of fractions, in a sentence; empty when that does not explain it."""
    if pattern.rms_after_factor_percent > 100 * ALIKE or not pattern.explained(pattern.rms_after_factor_percent):
        return ""
    ratio = pattern.factor
    for wrong, words in ((1.0 / fractions, f"1/{fractions} of"), (float(fractions), f"{fractions} times")):
        if fractions > 1 and abs(ratio / wrong - 1) < WHOLE_NUMBER:
            return (
                f"The recalculated dose is {words} the planned one, which is the number of fractions: one dose may "
                "be that of a fraction, the other that of the plan."
            )
    return _of_other_number(ratio, fractions)


def _of_other_number(ratio: float, fractions: int) -> str:
    """A ratio that is a whole number, or one's inverse, as that of two numbers of fractions or of two units."""
    large = max(ratio, 1 / ratio)
    times = round(large)
    if times == 1 or abs(large / times - 1) > OTHER_NUMBER:
        return ""
    alike = f"The recalculated dose is {f'{times} times' if ratio > 1 else f'1/{times} of'} the planned one, and alike"
    if times == CGY_IN_GY:
        return f"{alike} but for that: is one of them in cGy?"
    other = fractions / times if ratio > 1 else fractions * times
    if other != int(other) or other > MOST_FRACTIONS:
        return ""
    count = f"{other:.0f} fraction{'s' * (other > 1)}"
    return f"{alike} but for that: was it planned for {count} instead of {fractions}?"


def _shifted(pattern: Pattern, size: float, after: float, more: str) -> Finding:
    x, y, z = (MM_PER_CM * value for value in pattern.shift_cm)
    return Finding(
        "shifted",
        "attention",
        f"The recalculated dose lies {MM_PER_CM * size:.1f} mm away from the planned one (x {x:+.1f}, y {y:+.1f}, "
        f"z {z:+.1f} mm){more}: that takes the difference from {pattern.rms_percent:.1f} to {after:.1f} % (root mean "
        "square). So differ isocentres, and dose grids or images that are displaced.",
    )


WORSE_THAN_ALL = 5.0
"""A structure is named when so many percent more of its voxels fail than of the whole dose."""

ENOUGH = 20
"""Voxels that a structure must have to be named."""


def _where(gammas: Sequence[GammaFound]) -> Iterator[Finding]:
    """The structure in which gamma fails most, when it stands out."""
    if not gammas:
        return
    found = min(gammas, key=lambda gamma: gamma.whole.pass_percent)
    parts = [part for part in found.structures if part.points >= ENOUGH]
    worst = min(parts, key=lambda part: part.pass_percent, default=None)
    if worst is not None and worst.pass_percent < found.whole.pass_percent - WORSE_THAN_ALL:
        text = (
            f"The doses disagree most in '{worst.structure}': {found.question.name} passes in "
            f"{worst.pass_percent:.1f} % of its voxels, in the whole dose in {found.whole.pass_percent:.1f} %."
        )
        yield Finding("worst_structure", "information", text, worst.structure)
