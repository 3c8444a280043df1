"""Criteria of the secondary check: how far a recalculated number may lie from the planned one, and who says so.

Criteria are a TOML file (docs/formats/criteria.md). They name what is compared, so that whoever computes can ask them
what to measure; `judge` then holds the measured numbers against them. Nothing is computed here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from spinedose.compare.metrics import parse_metric, without_nan
from spinedose.errors import InvalidInput
from spinedose.limit_file import list_limits, read_limits
from spinedose.protocol import NOT_VERIFIED, Evaluation, ProtocolLine

if TYPE_CHECKING:
    from spinedose.compare.gamma import GammaCriteria

Role = Literal["target", "cord", "organ", "plan", "point", "protocol"]
Compare = Literal["percent of planned", "percent of prescription", "difference", "at least", "at most", "crosses limit"]
Level = Literal["within", "outside", "beyond action", "not judged"]

ROLES = ("target", "cord", "organ", "plan", "point", "protocol")
COMPARES = ("percent of planned", "percent of prescription", "difference", "at least", "at most", "crosses limit")
NEEDED = {"key", "text", "role", "quantity", "compare", "source", "verified"}
KEYS = NEEDED | {"limit", "action", "action_source", "gamma", "least_percent"}


@dataclass(frozen=True, slots=True)
class GammaQuestion:
    """Which gamma a criterion is about; the reference is the planned dose.

    Parameters
    ----------
    dose_percent : float
        Dose criterion [% of the normalisation, or local].
    distance_cm : float
        Distance criterion [cm].
    is_local : bool
        Whether the dose criterion is relative to the dose in each voxel.
    threshold_percent : float
        Voxels with less planned dose are left out [% of the normalisation]; 50 means inside the 50 % isodose.
    """

    dose_percent: float
    distance_cm: float
    is_local: bool = False
    threshold_percent: float = 10.0

    def __post_init__(self) -> None:
        self.criteria(1.0)  # proves the numbers

    @property
    def name(self) -> str:
        """In words, such as `gamma 3 %/2 mm global, above 10 %`."""
        kind = "local" if self.is_local else "global"
        return f"gamma {self.dose_percent:g} %/{10 * self.distance_cm:g} mm {kind}, above {self.threshold_percent:g} %"

    def criteria(self, normalisation_gy: float) -> GammaCriteria:
        """What `spinedose.compare.gamma` needs, for a dose that stands for 100 % [Gy]."""
        from spinedose.compare.gamma import GammaCriteria

        return GammaCriteria(
            self.dose_percent,
            self.distance_cm,
            normalisation_gy,
            is_local=self.is_local,
            threshold_percent=self.threshold_percent,
        )


@dataclass(frozen=True, slots=True)
class Criterion:
    """What is compared, and how far apart it may be.

    Parameters
    ----------
    key : str
        Its name in the file.
    text : str
        What it is about, in words.
    role : str
        Of which structures: `"target"`, `"cord"`, `"organ"`; or `"plan"` (the whole dose), `"point"` (a point of a
        beam), `"protocol"` (limits of structures).
    quantity : str
        Name of a metric (`spinedose.compare.metrics`) of structures, `"gamma"`, `"Dose[Gy]"` of points, `"limits"`.
    compare : str
        `"percent of planned"`, `"percent of prescription"` or `"difference"` (recalculated less planned, either way);
        `"at least"` or `"at most"` (the recalculated number alone); `"crosses limit"` (a limit that only one of both
        keeps).
    limit : float
        Largest difference, or least or largest number; NaN for `"crosses limit"`.
    source : str
        Who says so.
    verified : bool
        Whether the number was read in the source itself.
    action : float
        A wider limit, beyond which more than a look is due; NaN for none.
    action_source : str
        Who says that.
    gamma : GammaQuestion, optional
        Which gamma.
    least_percent : float
        For `"percent of planned"`: planned numbers below this share of the prescription [%] are taken for it when the
        difference is put into percent, so that scatter far from the beams is not judged by its own smallness; 0 for
        never.
    """

    key: str
    text: str
    role: Role
    quantity: str
    compare: Compare
    limit: float
    source: str
    verified: bool
    action: float = math.nan
    action_source: str = ""
    gamma: GammaQuestion | None = None
    least_percent: float = 0.0

    def __post_init__(self) -> None:
        self._prove(bool(self.key and self.text and self.source), "has no key, no text or no source")
        self._prove(self.role in ROLES, f"has the role '{self.role}'", f"it can be {', '.join(ROLES)}")
        self._prove(self.compare in COMPARES, f"compares '{self.compare}'", f"it can be {', '.join(COMPARES)}")
        self._prove((self.quantity == "gamma") == (self.gamma is not None), "does not say which gamma it is about")
        self._prove(self.gamma is None or self.role == "plan", "asks for gamma outside the role 'plan'")
        is_crossing = self.compare == "crosses limit"
        self._prove(is_crossing == (self.role == "protocol"), "compares limits outside the role 'protocol'")
        self._prove(is_crossing == (self.quantity == "limits"), "does not fit its quantity")
        if is_crossing:
            self._prove(math.isnan(self.limit) and math.isnan(self.action), "has a limit of its own")
            return
        self._prove(math.isfinite(self.limit) and self.limit >= 0, f"has the limit {self.limit}")
        self._prove(0 <= self.least_percent <= 100, f"has the least share {self.least_percent} % of the prescription")
        is_relative = self.compare == "percent of planned"
        self._prove(
            is_relative or not self.least_percent, "has a least share without being relative to a planned number"
        )
        if not math.isnan(self.action):
            is_wider = self.action < self.limit if self.compare == "at least" else self.action > self.limit
            self._prove(is_wider, "has an action limit that is narrower than the limit")
            self._prove(bool(self.action_source), "has an action limit without a source")
        if self.role in ("target", "cord", "organ"):
            self._prove(
                parse_metric(self.quantity).name == self.quantity, f"asks for '{self.quantity}'", "spell it out"
            )

    def _prove(self, holds: bool, problem: str, why: str = "") -> None:
        if not holds:
            raise InvalidInput(f"Criterion '{self.key}' {problem}", why)

    @property
    def asked(self) -> str:
        """Name of what must be measured, as `Measured.quantity` has it."""
        return self.gamma.name if self.gamma is not None else self.quantity

    @property
    def unit(self) -> str:
        """Unit of the limit."""
        if self.compare in ("percent of planned", "percent of prescription") or self.gamma is not None:
            return "%"
        return self.quantity.partition("[")[2].rstrip("]")

    @property
    def stated_source(self) -> str:
        """The source, with a word when the number was not read there."""
        return self.source if self.verified else f"{self.source} ({NOT_VERIFIED})"


@dataclass(frozen=True, slots=True)
class Criteria:
    """All criteria of a check.

    Parameters
    ----------
    name : str
        In words.
    criteria : tuple of Criterion
        In the order of the file.
    """

    name: str
    criteria: tuple[Criterion, ...]

    def __post_init__(self) -> None:
        keys = [criterion.key for criterion in self.criteria]
        if not keys:
            raise InvalidInput(f"Criteria '{self.name}' are empty", "nothing would be judged")
        if len(set(keys)) != len(keys):
            raise InvalidInput(f"Criteria '{self.name}' use a key twice", f"they have {keys}")

    def asked_of(self, role: str) -> tuple[str, ...]:
        """Names of what must be measured of structures, or of what else has a role."""
        return tuple(dict.fromkeys(c.asked for c in self.criteria if c.role == role))

    @property
    def gammas(self) -> tuple[GammaQuestion, ...]:
        """Gammas that must be computed."""
        return tuple(dict.fromkeys(c.gamma for c in self.criteria if c.gamma is not None))


def list_criteria() -> tuple[str, ...]:
    """Names of the criteria that come with spinedose, sorted."""
    return list_limits("criteria")


def read_criteria(name_or_file: str | Path = "spine") -> Criteria:
    """Read criteria.

    Parameters
    ----------
    name_or_file : str or Path
        One of `list_criteria()`, or a file of that format.

    Returns
    -------
    Criteria

    Raises
    ------
    InvalidInput
        If there are none, or they are wrong.
    """
    path, content = read_limits(name_or_file, "criteria", absent="There are no criteria", present="The criteria in")
    unknown = sorted(set(content) - {"name", "criterion"})
    tables = content.get("criterion", [])
    if unknown or not isinstance(tables, list):
        raise InvalidInput(
            f"'{path.name}' has an unknown key {unknown or 'criterion'}", "it holds [[criterion]] tables"
        )
    return Criteria(str(content.get("name", path.stem)), tuple(_criterion(table, path.name) for table in tables))


def _criterion(table: Any, file: str) -> Criterion:
    if not isinstance(table, dict) or not NEEDED <= set(table) <= KEYS:
        keys = set(table) if isinstance(table, dict) else set()
        wrong = sorted(NEEDED - keys) or sorted(keys - KEYS)
        raise InvalidInput(f"A criterion in '{file}' is not complete, or has a key too many", f"look at {wrong}")
    if not isinstance(table["verified"], bool):
        raise InvalidInput(f"'{file}': 'verified' is {table['verified']!r}", "it is true or false")
    optional = ("limit", "action", "least_percent")
    numbers = {"limit": math.nan} | {k: _number(table[k], k, file) for k in optional if k in table}
    texts = {k: str(table[k]) for k in (NEEDED | {"action_source"}) - {"verified"} if k in table}
    gamma = _gamma(table["gamma"], file) if "gamma" in table else None
    return Criterion(**texts, **numbers, verified=table["verified"], gamma=gamma)  # type: ignore[arg-type]


def _gamma(table: Any, file: str) -> GammaQuestion:
    keys = {"dose_percent", "distance_cm", "is_local", "threshold_percent"}
    if not isinstance(table, dict) or not {"dose_percent", "distance_cm"} <= set(table) <= keys:
        raise InvalidInput(f"A gamma in '{file}' is wrong", f"its keys are {sorted(keys)}")
    numbers = {key: _number(value, key, file) for key, value in table.items() if key != "is_local"}
    return GammaQuestion(**numbers, is_local=table.get("is_local", False) is True)


def _number(value: Any, key: str, file: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InvalidInput(f"'{file}': '{key}' is {value!r}", "it is a number")
    return float(value)


# --- judging ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Measured:
    """A number of both doses.

    Parameters
    ----------
    quantity : str
        As `Criterion.asked` has it.
    role : str
        What `of` is.
    of : str
        Structure, point or plan that it belongs to.
    planned, recalculated : float
        The numbers, in the unit of the quantity; gamma pass rates [%] stand in `recalculated`. NaN where there is none.
    doubt : str
        Why they must not be trusted; empty when they may.
    """

    quantity: str
    role: Role
    of: str
    planned: float
    recalculated: float
    doubt: str = ""


@dataclass(frozen=True, slots=True)
class Judged:
    """A criterion held against a number.

    Parameters
    ----------
    name : str
        Key of the criterion.
    text : str
        What it is about.
    structure : str
        Structure, point or plan.
    quantity, unit : str
        What was compared, and the unit of difference and limit.
    planned, recalculated : float
        The numbers; NaN where there is none.
    difference : float
        What was held against the limit; NaN where there is none.
    limit, action : float
        The limits; NaN for none.
    level : str
        `"within"`, `"outside"`, `"beyond action"`, or `"not judged"` where a number is missing.
    source : str
        Where the limit comes from, and whether it was verified.
    compare : str
        How it was compared, as in `Criterion`.
    doubt : str
        Why the numbers must not be trusted; empty when they may.
    relative_to : float
        What a difference in percent is relative to, in the unit of the numbers; NaN for none.
    """

    name: str
    text: str
    structure: str
    quantity: str
    unit: str
    planned: float
    recalculated: float
    difference: float
    limit: float
    action: float
    level: Level
    source: str
    compare: Compare
    doubt: str = ""
    relative_to: float = math.nan

    @property
    def is_relative_to_prescription(self) -> bool:
        """Whether percent are those of the prescription, or of a share of it that is larger than the planned number."""
        if self.compare == "percent of prescription":
            return math.isfinite(self.relative_to)
        return self.compare == "percent of planned" and self.relative_to > self.planned

    @property
    def stated_limit(self) -> str:
        """The limit with its unit, and with what percent are of where that is no planned number: `3 % of 24 Gy`."""
        return f"{self.limit:g}{f' {self.unit}'.rstrip()}{self.basis}"

    @property
    def basis(self) -> str:
        """What percent are of where that is no planned number, to be put behind them: ` of 24 Gy`, or nothing."""
        return f" of {self.relative_to:.4g} Gy" if self.is_relative_to_prescription else ""

    @property
    def within(self) -> bool:
        """Whether the criterion is met; what was not judged is not."""
        return self.level == "within"

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON: a missing number is null."""
        return without_nan(asdict(self)) | {"within": self.within}


@dataclass(frozen=True, slots=True)
class Judgement:
    """All criteria held against what was measured.

    Parameters
    ----------
    criteria : str
        Their name.
    judged : tuple of Judged
        In the order of the criteria.
    without_numbers : tuple of str
        Keys of criteria for which nothing was measured.
    """

    criteria: str
    judged: tuple[Judged, ...]
    without_numbers: tuple[str, ...]

    @property
    def is_within(self) -> bool:
        """Whether something was judged and all of it is within its limits."""
        return bool(self.judged) and all(judged.within for judged in self.judged)

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "criteria": self.criteria,
            "is_within": self.is_within,
            "judged": [judged.as_dict() for judged in self.judged],
            "without_numbers": list(self.without_numbers),
        }


def judge(
    criteria: Criteria,
    measured: Iterable[Measured],
    *,
    prescription_gy: float = math.nan,
    evaluation: Evaluation | None = None,
) -> Judgement:
    """Hold measured numbers against criteria.

    Parameters
    ----------
    criteria : Criteria
        The criteria.
    measured : iterable of Measured
        The numbers; those that no criterion asks for are left out.
    prescription_gy : float
        Prescribed dose [Gy]; without it what is relative to it is not judged.
    evaluation : Evaluation, optional
        Limits of a protocol held against both doses, for criteria about crossed limits.

    Returns
    -------
    Judgement
    """
    measured = tuple(measured)
    judged: list[Judged] = []
    without = []
    for criterion in criteria.criteria:
        if criterion.compare == "crosses limit":
            found = [_crossing(criterion, line) for line in evaluation.lines] if evaluation is not None else []
        else:
            found = [
                _judged(criterion, number, prescription_gy)
                for number in measured
                if number.role == criterion.role and number.quantity == criterion.asked
            ]
        judged += found
        if not found:
            without.append(criterion.key)
    return Judgement(criteria.name, tuple(judged), tuple(without))


def _judged(criterion: Criterion, number: Measured, prescription_gy: float) -> Judged:
    whole = _whole(criterion, number, prescription_gy)
    difference = _difference(criterion, number, whole)
    doubt = number.doubt
    if math.isnan(difference):
        doubt = doubt or "a number is missing"
    return Judged(
        criterion.key,
        criterion.text,
        number.of,
        number.quantity,
        criterion.unit,
        number.planned,
        number.recalculated,
        difference,
        criterion.limit,
        criterion.action,
        _level(criterion, difference),
        criterion.stated_source,
        criterion.compare,
        doubt,
        whole,
    )


def _whole(criterion: Criterion, number: Measured, prescription_gy: float) -> float:
    """What a difference in percent is relative to; NaN where it is not."""
    if criterion.compare == "percent of prescription":
        return prescription_gy
    if criterion.compare != "percent of planned":
        return math.nan
    least = criterion.least_percent / 100 * prescription_gy if prescription_gy > 0 else 0.0
    return max(number.planned, least) if math.isfinite(number.planned) else math.nan


def _difference(criterion: Criterion, number: Measured, whole: float) -> float:
    """The number that is held against the limit; NaN when it cannot be formed."""
    if criterion.compare in ("at least", "at most"):
        return number.recalculated
    apart = number.recalculated - number.planned
    if criterion.compare == "difference":
        return apart
    return 100 * apart / whole if whole > 0 else math.nan


def _level(criterion: Criterion, difference: float) -> Level:
    if math.isnan(difference):
        return "not judged"

    def keeps(limit: float) -> bool:
        if criterion.compare == "at least":
            return difference >= limit
        return (difference if criterion.compare == "at most" else abs(difference)) <= limit

    if keeps(criterion.limit):
        return "within"
    return "outside" if math.isnan(criterion.action) or keeps(criterion.action) else "beyond action"


def _crossing(criterion: Criterion, line: ProtocolLine) -> Judged:
    """A limit of the protocol as a criterion: it is met unless only one of both doses keeps it."""
    is_known = line.planned_within is not None and line.within is not None
    return Judged(
        criterion.key,
        f"{criterion.text}: {line.goal}",
        line.structure,
        line.metric,
        line.unit,
        line.planned,
        line.recalculated,
        line.recalculated - line.planned,
        line.limit,
        math.nan,
        ("outside" if line.crosses else "within") if is_known else "not judged",
        f"{criterion.stated_source}; limit: {line.source}",
        criterion.compare,
        line.doubt or ("" if is_known else "a number is missing"),
    )
