"""What a validation says: lines of numbers with their limits, curves to draw, and the record of a whole run.

A line is one quantity of one beam held against one limit; an outcome is all that one case says of one beam; results are
the outcomes of one version on one device, as JSON.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spinedose._version import __version__
from spinedose.curve_judging import Criterion, Judged
from spinedose.errors import InvalidInput

Array = NDArray[np.float64]

HELD_OUT, USED, OTHER = "held out", "used in the fit", "other machine"
ROLES = (HELD_OUT, USED, OTHER)
"""What data were to the fit of the beam. Where nothing was fitted, everything is held out."""

SCHEMA_VERSION = 1
"""Version of the JSON."""

MOST_POINTS = 90
"""Points of a curve that are kept for drawing."""


@dataclass(frozen=True, slots=True)
class Tag:
    """Case, machine and beam that lines belong to.

    Parameters
    ----------
    case, machine, beam : str
        Their names.
    """

    case: str
    machine: str = ""
    beam: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """One quantity held against a limit; differences are calculated minus measured.

    Parameters
    ----------
    case, machine, beam : str
        What was computed; machine and beam may be empty.
    quantity : str
        `depth dose`, `profile`, `output ratio`, ...
    field, depth : str
        Field and depth in words; may be empty.
    region : str
        Part of the curve, or what is compared of it.
    n_points : int
        Numbers compared.
    mean, worst : float
        Mean difference, and the largest with its sign, in `unit`.
    unit : str
        What 1 means.
    limit : float
        Largest difference allowed.
    source : str
        Where the limit comes from.
    role : str
        One of `ROLES`.
    share : float
        The largest difference as a share of the limit: at most 1 passes. Where a distance is good enough instead, the
        smaller of the two shares.
    passed : bool
        Whether the limit is kept.
    where : str
        Where the worst is.
    note : str
        What the reader must know.
    """

    case: str
    machine: str
    beam: str
    quantity: str
    field: str
    depth: str
    region: str
    n_points: int
    mean: float
    worst: float
    unit: str
    limit: float
    source: str
    role: str
    share: float
    passed: bool
    where: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise InvalidInput(f"'{self.role}' is no role of data", f"the roles are {', '.join(ROLES)}")
        if self.n_points < 1 or not all(map(math.isfinite, (self.mean, self.worst, self.limit, self.share))):
            raise InvalidInput(f"The line '{self.title}' compares nothing", "a number in it is missing")
        if not self.source or self.limit <= 0:
            raise InvalidInput(f"The line '{self.title}' has no limit, or a limit without a source")
        if self.passed != (self.share <= 1):
            raise InvalidInput(f"The line '{self.title}' contradicts itself", "it passes when its share is at most 1")

    @property
    def title(self) -> str:
        """Everything that tells it from other lines, in a few words."""
        parts = (self.machine, self.beam, self.quantity, self.field, self.depth, self.region)
        return ", ".join(part for part in parts if part)

    @classmethod
    def of(
        cls,
        tag: Tag,
        criterion: Criterion,
        differences: ArrayLike,
        *,
        quantity: str,
        region: str,
        role: str,
        field: str = "",
        depth: str = "",
        at_cm: ArrayLike | None = None,
        distances_mm: ArrayLike | None = None,
        note: str = "",
    ) -> Line:
        """Make a line of differences.

        Parameters
        ----------
        tag : Tag
            Case, machine and beam.
        criterion : Criterion
            The limit.
        differences : array_like, shape (n,)
            Calculated minus measured, in the unit of the limit.
        quantity, region, role, field, depth, note : str
            As in `Line`.
        at_cm : array_like, shape (n,), optional
            Where they are [cm].
        distances_mm : array_like, shape (n,), optional
            Distance to agreement of each [mm], for limits that a distance may keep instead; NaN for none.
        """
        difference = np.atleast_1d(np.asarray(differences, dtype=np.float64))
        places, distances = (
            np.full(len(difference), math.nan) if v is None else np.atleast_1d(np.asarray(v, dtype=np.float64))
            for v in (at_cm, distances_mm)
        )
        judged = Judged(region, criterion, difference, places, distances)
        return cls.of_judged(
            tag, judged, quantity=quantity, region=region, role=role, field=field, depth=depth, note=note
        )

    @classmethod
    def of_judged(
        cls,
        tag: Tag,
        judged: Judged,
        *,
        quantity: str,
        region: str,
        role: str,
        field: str = "",
        depth: str = "",
        note: str = "",
    ) -> Line:
        """Make a line of what was held against its limit; the texts are as in `Line`."""
        where = "" if math.isnan(judged.worst_at_cm) else f"{judged.worst_at_cm:.4g} cm"
        numbers = len(judged.differences), float(judged.differences.mean()), judged.worst, judged.share
        return cls._made(tag, judged.criterion, numbers, (quantity, field, depth, region), role, where, note)

    @classmethod
    def _made(
        cls,
        tag: Tag,
        criterion: Criterion,
        numbers: tuple[int, float, float, float],
        names: tuple[str, str, str, str],
        role: str,
        where: str,
        note: str,
    ) -> Line:
        n, mean, worst, share = numbers
        if share > 1 and not math.isnan(criterion.wider):
            wider = "within" if abs(worst) <= criterion.wider else "beyond"
            wider = f"{wider} {criterion.wider:g} of {criterion.wider_source}"
            note = f"{note}; {wider}" if note else wider
        return cls(
            tag.case, tag.machine, tag.beam, *names, n, mean, worst, criterion.unit, criterion.limit,
            criterion.source, role, share, share <= 1, where, note,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """A measured curve with the calculated one, to be drawn.

    Parameters
    ----------
    title : str
        What it is.
    kind : str
        `depth dose`, `profile` or `points`.
    x_label, y_label : str
        With units.
    x, measured, calculated : ndarray, shape (n,)
        Points.
    role : str
        One of `ROLES`.
    """

    title: str
    kind: str
    x_label: str
    y_label: str
    x: Array
    measured: Array
    calculated: Array
    role: str

    def __post_init__(self) -> None:
        assert len(self.x) == len(self.measured) == len(self.calculated) > 0

    def thinned(self) -> Drawn:
        """The same with no more points than a drawing shows, rounded; edges keep theirs."""
        n = len(self.x)
        keep = np.arange(n)
        if n > MOST_POINTS:
            # as many points for the run of the curve as for its rise and fall
            v = self.measured / np.abs(self.measured).max()
            way = np.concatenate([[0.0], np.cumsum(np.hypot(np.diff(self.x) / np.ptp(self.x), np.diff(v)))])
            keep = np.unique(np.searchsorted(way, np.linspace(0, way[-1], MOST_POINTS)).clip(0, n - 1))
        x, measured, calculated = (np.round(part[keep], 4) for part in (self.x, self.measured, self.calculated))
        return replace(self, x=x, measured=measured, calculated=calculated)


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What one case says of one beam.

    Parameters
    ----------
    case, machine, beam : str
        What was computed; machine and beam are empty where no treatment head takes part.
    date : str
        Day of the calculation, ISO.
    data_hash : str
        SHA-256 of the machine's files; empty without machine.
    seconds : float
        Wall time [s].
    lines : tuple of Line
        Numbers.
    curves : tuple of Drawn
        Curves behind them.
    notes : tuple of str
        Set-up, disagreement of the data, what was left out.
    skipped : str
        Why nothing was compared; empty when something was.
    """

    case: str
    machine: str
    beam: str
    date: str
    data_hash: str = ""
    seconds: float = 0.0
    lines: tuple[Line, ...] = ()
    curves: tuple[Drawn, ...] = ()
    notes: tuple[str, ...] = ()
    skipped: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        """What tells it from other outcomes."""
        return self.case, self.machine, self.beam


@dataclass(frozen=True, slots=True, eq=False)
class Results:
    """Outcomes of one version on one device.

    Parameters
    ----------
    backend, device : str
        What computed.
    outcomes : tuple of Outcome
        At most one for each case, machine and beam.
    version : str
        Of spinedose.
    """

    backend: str
    device: str
    outcomes: tuple[Outcome, ...]
    version: str = __version__

    def __post_init__(self) -> None:
        keys = [outcome.key for outcome in self.outcomes]
        if len(set(keys)) != len(keys):
            raise InvalidInput("Results hold a case twice for one beam")

    @property
    def lines(self) -> tuple[Line, ...]:
        """All lines."""
        return tuple(line for outcome in self.outcomes for line in outcome.lines)

    @property
    def failed(self) -> tuple[Line, ...]:
        """Lines beyond their limit, the worst first."""
        return tuple(sorted((line for line in self.lines if not line.passed), key=lambda line: -line.share))

    @property
    def skipped(self) -> tuple[Outcome, ...]:
        """Cases that could not be computed."""
        return tuple(outcome for outcome in self.outcomes if outcome.skipped)

    def weakest(self, count: int = 3) -> tuple[Line, ...]:
        """The lines that come nearest to their limits or lie furthest beyond; one for each quantity of a beam."""
        found: dict[tuple[str, ...], Line] = {}
        for line in sorted(self.lines, key=lambda line: -line.share):
            found.setdefault((line.case, line.machine, line.beam, line.quantity, line.region), line)
        return tuple(found.values())[:count]

    def updated(self, newer: Results) -> Results:
        """These results with those of another run put in their place, case by case and beam by beam."""
        merged = {outcome.key: outcome for outcome in (*self.outcomes, *newer.outcomes)}
        return replace(newer, outcomes=tuple(merged.values()))

    def to_json(self) -> str:
        """As JSON text."""
        content = {
            "schema_version": SCHEMA_VERSION,
            "version": self.version,
            "backend": self.backend,
            "device": self.device,
            "outcomes": [_plain_outcome(outcome) for outcome in self.outcomes],
        }
        text = json.dumps(content, allow_nan=False, separators=(",", ":"))
        # a line of text for each line and curve, so that differences between versions can be read
        for mark in ('{"case":', '{"title":', '"lines":', '"curves":', '"notes":'):
            text = text.replace(mark, "\n" + mark)
        return text

    @classmethod
    def from_json(cls, text: str) -> Results:
        """Read what `to_json` wrote.

        Raises
        ------
        InvalidInput
            If it is none.
        """
        try:
            content = json.loads(text)
            if content["schema_version"] != SCHEMA_VERSION:
                raise InvalidInput(
                    f"The results are of version {content['schema_version']}", f"this is version {SCHEMA_VERSION}"
                )
            outcomes = tuple(_outcome_of(item) for item in content["outcomes"])
            return cls(content["backend"], content["device"], outcomes, content["version"])
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise InvalidInput("This is no result of `spinedose validate`", str(error)) from None


@dataclass(frozen=True, slots=True)
class Pool:
    """Lines of one quantity, all fields and depths together.

    Parameters
    ----------
    lines : tuple of Line
        At least one; they share case, machine, beam, quantity, region, role and limit.
    """

    lines: tuple[Line, ...]

    @property
    def worst(self) -> Line:
        """The line that lies furthest out."""
        return max(self.lines, key=lambda line: line.share)

    @property
    def n_points(self) -> int:
        """Numbers compared."""
        return sum(line.n_points for line in self.lines)

    @property
    def mean(self) -> float:
        """Mean difference of all points."""
        return sum(line.mean * line.n_points for line in self.lines) / self.n_points

    @property
    def n_passed(self) -> int:
        """Lines within their limit."""
        return sum(line.passed for line in self.lines)

    @property
    def passed(self) -> bool:
        """Whether all are."""
        return self.n_passed == len(self.lines)


def pooled(lines: Iterable[Line]) -> tuple[Pool, ...]:
    """Pool lines of one quantity, in the order in which each first appears."""
    found: dict[tuple[object, ...], list[Line]] = {}
    for line in lines:
        key = (line.case, line.machine, line.beam, line.quantity, line.region, line.role, line.limit, line.unit)
        found.setdefault(key, []).append(line)
    return tuple(Pool(tuple(group)) for group in found.values())


def _plain_outcome(outcome: Outcome) -> dict[str, Any]:
    plain: dict[str, Any] = {item.name: getattr(outcome, item.name) for item in fields(outcome)}
    plain["seconds"] = round(outcome.seconds, 1)
    plain["lines"] = [_rounded(asdict(line)) for line in outcome.lines]
    plain["curves"] = [
        {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in _fields(curve.thinned()).items()}
        for curve in outcome.curves
    ]
    return plain


def _fields(curve: Drawn) -> dict[str, Any]:
    return {item.name: getattr(curve, item.name) for item in fields(curve)}


def _rounded(line: dict[str, Any]) -> dict[str, Any]:
    """Numbers with five digits: more would be noise. The verdict stays as it was."""
    short = {k: float(f"{v:.5g}") if isinstance(v, float) else v for k, v in line.items()}
    if (short["share"] <= 1) != line["passed"]:
        short["share"] = line["share"]
    return short


def _outcome_of(content: Mapping[str, Any]) -> Outcome:
    rest = {k: v for k, v in content.items() if k not in ("lines", "curves", "notes")}
    curves = (Drawn(**_with_arrays(item)) for item in content["curves"])
    lines = tuple(Line(**item) for item in content["lines"])
    return Outcome(**rest, lines=lines, curves=tuple(curves), notes=tuple(content["notes"]))


def _with_arrays(content: Mapping[str, Any]) -> dict[str, Any]:
    return {k: np.array(v, dtype=np.float64) if isinstance(v, list) else v for k, v in content.items()}
