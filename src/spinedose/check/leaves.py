"""Which single leaf stands out, when two doses differ: the search behind "as if leaf 34 stood 5 mm further in".

The difference of the doses is looked at along the rays of every beam (`spinedose.check.beams_eye`). For each leaf and
each window of control points it is asked how much of the difference a movement of that leaf alone would take away; what
factors, shifts and movements of all leaves together explain is taken out before. A leaf in error stands out from all
others; differences between two engines, grids or densities spread over many (docs/howto/check.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from spinedose.check.beams_eye import Cubes, blocks_of, tip_effects
from spinedose.density import CtImage
from spinedose.errors import InvalidInput
from spinedose.plan import Beam, Plan

Array = NDArray[np.float64]

FALSE_ALARMS = 0.01
"""Chance that any leaf of a plan without error is suspected, if scores were normally distributed: the threshold is that
of a test at this level, divided by the number of leaves and windows that are looked at (Bonferroni)."""

FAINT = 0.02
"""Windows in which a leaf does less than this part of what the most effective one does (mean square) are left out."""

LEAST_COMPARED = 20
"""So many leaves must be there to compare with; the spread of fewer says little."""

LEAST_SHARE = 0.03
"""Part of the mean square difference that a suspect must take away in the rough model: a third of what is worth a word,
because what factors, shifts and all leaves together explain, too, does not count for a single leaf here."""

SUSPECTS = 2
"""Leaves that are computed by the engine."""

MOST_BYTES = 600_000_000
"""What the effects of all tips of a beam may take [bytes]; plans that need more are not searched."""


@dataclass(frozen=True, slots=True)
class Suspect:
    """A leaf that stands out.

    Parameters
    ----------
    beam : int
        Number of the beam.
    bank, pair : int
        Bank 1 or 2 and pair, from 1, in the order of the DICOM file.
    first, last : int
        Control points, from 0, between which the movement fits best.
    score : float
        Robust standard deviations by which it stands out; positive: the planned dose looks as if it stood further out.
    threshold : float
        What its score had to exceed.
    """

    beam: int
    bank: int
    pair: int
    first: int
    last: int
    score: float
    threshold: float

    def __post_init__(self) -> None:
        if self.bank not in (1, 2) or self.pair < 1 or not 0 <= self.first < self.last:
            raise InvalidInput(f"There is no leaf {self.pair} in bank {self.bank} from {self.first} to {self.last}")

    def name(self, beam: Beam) -> str:
        """`leaf 34 of bank A (X2) of beam 1 'Arc 1'`: pairs from 1 as in DICOM, whose second bank is A with Varian."""
        axis = beam.leaf_axis.upper()
        return f"leaf {self.pair} of bank {'BA'[self.bank - 1]} ({axis}{self.bank}) of beam {self.beam} '{beam.name}'"

    def moved(self, beam: Beam, outwards_cm: float) -> Beam:
        """The beam with this leaf moved in its window, but not past the opposite one.

        Parameters
        ----------
        beam : Beam
            The beam that it belongs to.
        outwards_cm : float
            How far, away from the opposite leaf [cm].
        """
        assert beam.leaf_cm is not None and beam.number == self.beam
        leaves = np.array(beam.leaf_cm)
        window = slice(self.first, self.last + 1)
        own, other = leaves[window, self.bank - 1, self.pair - 1], leaves[window, 2 - self.bank, self.pair - 1]
        sign = 1.0 if self.bank == 2 else -1.0
        farthest = np.maximum(outwards_cm, -np.abs(own - other))
        leaves[window, self.bank - 1, self.pair - 1] = own + sign * farthest
        return replace(beam, leaf_cm=leaves)


def find_suspects(plan: Plan, cubes: Cubes, ct: CtImage) -> tuple[Suspect, ...]:
    """The leaves that stand out from all others, the most conspicuous first; of neighbours and opposites only the best.

    Parameters
    ----------
    plan : Plan
        As it was computed.
    cubes : Cubes
        Both doses.
    ct : CtImage
        For depths.
    """
    beams = [beam for beam in plan.beams if beam.leaf_cm is not None and _bytes(beam, cubes) <= MOST_BYTES]
    if not beams:
        return ()
    root = np.sqrt(cubes.filled)
    common = [cubes.planned_gy, *cubes.slope_gy_per_cm.T]
    kept: list[NDArray[np.float32]] = []
    is_small = sum(_bytes(beam, cubes) for beam in beams) <= MOST_BYTES
    for beam in beams:
        effects = tip_effects(beam, cubes, ct, plan.patient_position)
        common += _of_all_leaves(beam, effects)
        kept += [effects] if is_small else []
    matrix = np.stack(common, axis=1) * root[:, None]
    size = np.linalg.norm(matrix, axis=0)
    shared, _ = np.linalg.qr(matrix[:, size > 0] / size[size > 0])
    apart = cubes.apart_gy * root
    left = apart - shared @ (shared.T @ apart)
    tables = []
    for number, beam in enumerate(beams):
        effects = kept[number] if is_small else tip_effects(beam, cubes, ct, plan.patient_position)
        effects *= root.astype(np.float32)
        tables.append(_windows(number, effects, left, shared))
        kept[number : number + 1] = [effects[:0]] if is_small else []
    return tuple(_standing_out(np.concatenate(tables), beams, float(apart @ apart)))


def _bytes(beam: Beam, cubes: Cubes) -> int:
    assert beam.leaf_cm is not None
    pieces = int(blocks_of(beam)[1].max(initial=0)) + 1
    return int(8 * beam.leaf_cm.shape[2] * pieces * len(cubes.points_cm))


def _of_all_leaves(beam: Beam, effects: NDArray[np.float32]) -> list[Array]:
    """What all leaves do together: gaps wider, both banks to one side, both banks turned."""
    assert beam.leaf_boundaries_cm is not None
    height = (beam.leaf_boundaries_cm[1:] + beam.leaf_boundaries_cm[:-1]) / 2
    whole = effects.sum(axis=2, dtype=np.float64)
    aside = whole[1] - whole[0]
    return [whole.sum(axis=(0, 1)), aside.sum(axis=0), height @ aside]


_BEAM, _BANK, _PAIR, _FIRST, _LAST, _LENGTH, _ALONG, _SIZE = range(8)
"""Columns of the table of windows: the last two are the difference times the effect, and the effect squared."""


def _windows(number: int, effects: NDArray[np.float32], left: Array, shared: Array) -> Array:
    """A row for every leaf of a beam and every window of its pieces; see the columns above."""
    along = (effects @ left.astype(np.float32)).astype(np.float64)
    hidden = effects @ shared.astype(np.float32)
    square = (effects @ effects.swapaxes(2, 3) - hidden @ hidden.swapaxes(2, 3)).astype(np.float64)
    pieces = effects.shape[2]
    sums = np.zeros((*along.shape[:2], pieces + 1))
    sums[:, :, 1:] = np.cumsum(along, axis=2)
    squares = np.zeros((*along.shape[:2], pieces + 1, pieces + 1))
    squares[:, :, 1:, 1:] = np.cumsum(np.cumsum(square, axis=2), axis=3)
    bank, pair = (values.ravel() for values in np.indices(along.shape[:2]))
    rows = []
    for first in range(pieces):
        for last in range(first + 1, pieces + 1):
            product = sums[:, :, last] - sums[:, :, first]
            size = (
                squares[:, :, last, last]
                - squares[:, :, first, last]
                - squares[:, :, last, first]
                + squares[:, :, first, first]
            )
            rows.append(
                np.stack(
                    [
                        np.full(len(bank), number), bank, pair, np.full(len(bank), first), np.full(len(bank), last),
                        np.full(len(bank), round(100 * (last - first) / pieces)), product.ravel(), size.ravel(),
                    ],
                    axis=1,
                )
            )  # fmt: skip
    return np.concatenate(rows)


def _standing_out(table: Array, beams: Sequence[Beam], square: float) -> Iterator[Suspect]:
    """Leaves whose best window is beyond the threshold, and takes enough of the square of the difference away."""
    scores, fits = np.zeros(len(table)), np.zeros(len(table))
    looked_at = 0
    for length in np.unique(table[:, _LENGTH]):
        alike = np.flatnonzero(table[:, _LENGTH] == length)
        size = table[alike, _SIZE]
        rows = alike[size > FAINT * size.max(initial=0.0)]
        if len(np.unique(table[rows][:, [_BEAM, _BANK, _PAIR]], axis=0)) < LEAST_COMPARED:
            continue
        fit = table[rows, _ALONG] / np.sqrt(table[rows, _SIZE])
        middle = np.median(fit)
        spread = 1.4826 * np.median(np.abs(fit - middle))
        if spread <= 0:
            continue
        scores[rows], fits[rows] = (fit - middle) / spread, fit
        looked_at += len(rows)
    if not looked_at:
        return
    threshold = NormalDist().inv_cdf(1 - FALSE_ALARMS / 2 / looked_at)
    found: list[Suspect] = []
    leaf = table[:, _BEAM] * 10_000 + table[:, _PAIR] * 10 + table[:, _BANK]
    for row in np.argsort(-np.abs(scores)):
        if abs(scores[row]) <= threshold or len(found) == SUSPECTS:
            break
        number, bank, pair = (int(table[row, column]) for column in (_BEAM, _BANK, _PAIR))
        if any(one.beam == beams[number].number and abs(one.pair - 1 - pair) <= 1 for one in found):
            continue
        # of this leaf the window that takes most of the difference away
        own = np.flatnonzero((leaf == leaf[row]) & (np.abs(scores) > threshold))
        best = own[np.argmax(np.abs(fits[own]))]
        if fits[best] ** 2 < LEAST_SHARE * square:
            continue
        used, block = blocks_of(beams[number])
        inside = used[(block >= table[best, _FIRST]) & (block < table[best, _LAST])]
        found.append(
            Suspect(
                beams[number].number, bank + 1, pair + 1, int(inside[0]), int(inside[-1]) + 1,
                float(scores[best]), threshold,
            )
        )  # fmt: skip
    yield from found
