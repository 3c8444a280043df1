"""Dose limits of a protocol held against two doses: planned and recalculated value and limit side by side.

A protocol is a TOML file (docs/formats/protocol.md) in which every limit has its source. The number of fractions picks
its column. Structures are found by name; what is not certain is shown and never passed over. A line says whether a
value lies within a limit, and nothing about the plan.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from spinedose.compare.dvh import Dvh
from spinedose.compare.metrics import Metric, measure, parse_metric, without_nan
from spinedose.errors import InvalidInput
from spinedose.limit_file import list_limits, read_limits
from spinedose.structures import Structure

Sense = Literal["at most", "at least"]

NOT_VERIFIED = "not verified against the original"
"""Said with every source of which the number was not read in the original or a table of it."""

NEVER_ORGANS = ("PTV", "CTV", "GTV", "EXTERNAL", "SUPPORT", "BOLUS", "FIXATION")
"""Interpreted types of structures that are no organs, whatever their names."""


# --- what a protocol is -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Naming:
    """How a structure of a protocol is found among those of a patient.

    Names are compared without case, blanks, underscores and hyphens.

    Parameters
    ----------
    structure : str
        Its name in the protocol, after AAPM TG-263.
    names : tuple of str
        Names that mean it for certain.
    patterns : tuple of str
        Regular expressions that do, for names with numbers in them: `SpinalCord_PRV05`.
    words : tuple of str
        Parts of names that may mean it.
    not_words : tuple of str
        Parts of names that speak against it; they bear on `words` only.
    types : tuple of str
        RT ROI interpreted types that mean it for certain: PTV.
    """

    structure: str
    names: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    not_words: tuple[str, ...] = ()
    types: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not (self.names or self.patterns or self.types):
            raise InvalidInput(f"Nothing says how '{self.structure}' is found", "it needs names, patterns or types")
        for pattern in self.patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise InvalidInput(f"'{pattern}' is no pattern for '{self.structure}'", str(error)) from None

    def is_named(self, structure: Structure) -> bool:
        """Whether a structure is meant for certain."""
        kind, name = structure.type.strip().upper(), _compact(structure.name)
        if self.types:
            return kind in self.types
        if kind in NEVER_ORGANS:
            return False
        return name in map(_compact, self.names) or any(re.fullmatch(pattern, name) for pattern in self.patterns)

    def is_resembled_by(self, structure: Structure) -> bool:
        """Whether a structure may be meant."""
        name = _compact(structure.name)
        if structure.type.strip().upper() in NEVER_ORGANS or self.is_named(structure):
            return False
        return any(_compact(w) in name for w in self.words) and not any(_compact(w) in name for w in self.not_words)


@dataclass(frozen=True, slots=True)
class Limit:
    """A metric and the number that it should not pass.

    Parameters
    ----------
    metric : Metric
        What is limited.
    value : float
        The limit, in the unit of the metric.
    """

    metric: Metric
    value: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.value) and self.value > 0):
            raise InvalidInput(f"The limit of {self.metric.name} is {self.value}", "a limit is positive")


@dataclass(frozen=True, slots=True)
class Constraint:
    """Limits for one goal in one structure, by the number of fractions.

    Parameters
    ----------
    structure : str
        Name in the protocol.
    goal : str
        What it is about, in words.
    sense : str
        `"at most"` or `"at least"`.
    limits : mapping of int to Limit
        By the number of fractions.
    source : str
        Who says so.
    verified : bool
        Whether the numbers were read in the source itself.
    """

    structure: str
    goal: str
    sense: Sense
    limits: Mapping[int, Limit]
    source: str
    verified: bool

    def __post_init__(self) -> None:
        if not self.source:
            raise InvalidInput(f"A limit of '{self.structure}' has no source", "a number without one is none")
        if self.sense not in ("at most", "at least"):
            raise InvalidInput(f"A limit of '{self.structure}' reads '{self.sense}'", "at most or at least")
        if not self.limits or min(self.limits) < 1:
            raise InvalidInput(f"A limit of '{self.structure}' has no number of fractions", "it would never be used")
        object.__setattr__(self, "limits", MappingProxyType(dict(self.limits)))


ALPHA_BETA_OF = ("target", "cord", "organ")
"""Roles of structures that a protocol may give an alpha/beta for."""


@dataclass(frozen=True, slots=True)
class AlphaBeta:
    """Ratio of the linear and the quadratic coefficient of the linear-quadratic model, for structures of one role.

    Parameters
    ----------
    role : str
        `"target"`, `"cord"` or `"organ"`.
    value_gy : float
        The ratio [Gy].
    source : str
        Who says so.
    verified : bool
        Whether the number was read in the source itself.
    """

    role: str
    value_gy: float
    source: str
    verified: bool

    def __post_init__(self) -> None:
        if self.role not in ALPHA_BETA_OF:
            raise InvalidInput(f"There is an alpha/beta for '{self.role}'", f"it can be {', '.join(ALPHA_BETA_OF)}")
        if not (math.isfinite(self.value_gy) and self.value_gy > 0):
            raise InvalidInput(f"The alpha/beta of {self.role} is {self.value_gy} Gy", "it is positive")
        if not self.source:
            raise InvalidInput(f"The alpha/beta of {self.role} has no source", "a number without one is none")

    @property
    def stated_source(self) -> str:
        """The source, with a word when the number was not read there."""
        return self.source if self.verified else f"{self.source} ({NOT_VERIFIED})"


@dataclass(frozen=True, slots=True)
class Protocol:
    """Dose limits with their sources, and the names of the structures they belong to.

    Parameters
    ----------
    name : str
        In words.
    namings : tuple of Naming
        One for each structure.
    constraints : tuple of Constraint
        In the order of the file.
    remarks : tuple of str
        What must be said with every evaluation.
    alpha_betas : tuple of AlphaBeta
        For doses in fractions of 2 Gy; roles without one get none.
    """

    name: str
    namings: tuple[Naming, ...]
    constraints: tuple[Constraint, ...]
    remarks: tuple[str, ...] = ()
    alpha_betas: tuple[AlphaBeta, ...] = ()

    def __post_init__(self) -> None:
        known = [naming.structure for naming in self.namings]
        if len(set(known)) != len(known):
            raise InvalidInput(f"Protocol '{self.name}' names a structure twice", f"it has {known}")
        for constraint in self.constraints:
            if constraint.structure not in known:
                raise InvalidInput(
                    f"Protocol '{self.name}' limits '{constraint.structure}', but does not say how it is named",
                    f"it knows {', '.join(known)}",
                    f"Add [structures.{constraint.structure}]",
                )


def list_protocols() -> tuple[str, ...]:
    """Names of the protocols that come with spinedose, sorted."""
    return list_limits("protocol")


def read_protocol(name_or_file: str | Path = "spine") -> Protocol:
    """Read a protocol.

    Parameters
    ----------
    name_or_file : str or Path
        One of `list_protocols()`, or a file of that format.

    Returns
    -------
    Protocol

    Raises
    ------
    InvalidInput
        If there is none, or it is wrong.
    """
    path, content = read_limits(name_or_file, "protocol", absent="There is no protocol", present="The protocol")
    _only(content, {"name", "structures", "constraint", "remarks", "alpha_beta"}, path.name)
    namings = tuple(_naming(name, table, path.name) for name, table in _table(content, "structures", path.name).items())
    tables = content.get("constraint", [])
    if not isinstance(tables, list) or not tables or not namings:
        raise InvalidInput(f"'{path.name}' has no limits", "it needs [structures] and [[constraint]]")
    constraints = tuple(_constraint(table, path.name) for table in tables)
    ratios = tuple(
        _alpha_beta(role, table, path.name) for role, table in _table(content, "alpha_beta", path.name).items()
    )
    remarks = _texts(content, "remarks", path.name)
    return Protocol(str(content.get("name", path.stem)), namings, constraints, remarks, ratios)


def _alpha_beta(role: str, table: Any, file: str) -> AlphaBeta:
    where = f"{file} [alpha_beta.{role}]"
    keys = {"value_gy", "source", "verified"}
    _only(table, keys, where)
    missing = keys - set(table)
    if missing:
        raise InvalidInput(f"{where} has no {', '.join(sorted(missing))}", "every alpha/beta needs them")
    if not isinstance(table["verified"], bool):
        raise InvalidInput(f"{where}: 'verified' is {table['verified']!r}", "it is true or false")
    if isinstance(table["value_gy"], bool) or not isinstance(table["value_gy"], int | float):
        raise InvalidInput(f"{where}: 'value_gy' is {table['value_gy']!r}", "it is a number")
    return AlphaBeta(role, float(table["value_gy"]), str(table["source"]), table["verified"])


def _naming(name: str, table: Any, file: str) -> Naming:
    where = f"{file} [structures.{name}]"
    _only(table, {"names", "patterns", "words", "not_words", "types"}, where)
    texts = {key: _texts(table, key, where) for key in table}
    return Naming(name, **texts)


def _constraint(table: Any, file: str) -> Constraint:
    where = f"{file} [[constraint]]"
    keys = {"structure", "goal", "sense", "source", "verified", "fractions"}
    _only(table, keys, where)
    missing = keys - set(table)
    if missing:
        raise InvalidInput(f"{where} has no {', '.join(sorted(missing))}", "every limit needs them")
    if not isinstance(table["verified"], bool):
        raise InvalidInput(f"{where}: 'verified' is {table['verified']!r}", "it is true or false")
    limits = {}
    for fractions, limit in _table(table, "fractions", where).items():
        if not fractions.isdecimal():
            raise InvalidInput(f"{where}: '{fractions}' is no number of fractions")
        if not (isinstance(limit, dict) and set(limit) == {"metric", "limit"}):
            raise InvalidInput(f"{where}: the entry for {fractions} fractions is wrong", "it has a metric and a limit")
        if isinstance(limit["limit"], bool) or not isinstance(limit["limit"], int | float):
            raise InvalidInput(f"{where}: the limit for {fractions} fractions is {limit['limit']!r}, no number")
        limits[int(fractions)] = Limit(parse_metric(str(limit["metric"])), float(limit["limit"]))
    words = {key: str(table[key]) for key in ("structure", "goal", "sense", "source")}
    return Constraint(limits=limits, verified=table["verified"], **words)  # type: ignore[arg-type]


def _only(table: Any, keys: set[str], where: str) -> None:
    if not isinstance(table, dict):
        raise InvalidInput(f"{where} is no table")
    unknown = sorted(set(table) - keys)
    if unknown:
        raise InvalidInput(
            f"{where} has an unknown key '{unknown[0]}'", "it would have no effect", f"Use {sorted(keys)}"
        )


def _table(table: dict[str, Any], key: str, where: str) -> dict[str, Any]:
    found = table.get(key, {})
    if not isinstance(found, dict):
        raise InvalidInput(f"{where}: '{key}' is no table")
    return found


def _texts(table: dict[str, Any], key: str, where: str) -> tuple[str, ...]:
    found = table.get(key, [])
    if not (isinstance(found, list) and all(isinstance(text, str) and text for text in found)):
        raise InvalidInput(f"{where}: '{key}' is no list of texts")
    return tuple(found)


def _compact(name: str) -> str:
    """A name without case, blanks, underscores and hyphens."""
    return re.sub(r"[\s_\-]", "", name.lower())


# --- which structure is which -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Match:
    """The structures of a patient that a structure of the protocol stands for.

    Parameters
    ----------
    structure : str
        Name in the protocol.
    named : tuple of str
        Structures that are meant for certain.
    resembling : tuple of str
        Structures whose names only resemble it.
    """

    structure: str
    named: tuple[str, ...]
    resembling: tuple[str, ...]

    @property
    def used(self) -> tuple[str, ...]:
        """Structures to evaluate: those meant for certain, or else all that resemble it."""
        return self.named or self.resembling

    @property
    def doubt(self) -> str:
        """What is not certain, in words; empty when all is."""
        if len(self.named) > 1:
            return f"several structures are called so: {', '.join(self.named)}"
        if self.named and self.resembling:
            return f"not evaluated, though their names resemble it: {', '.join(self.resembling)}"
        if self.resembling:
            return f"taken by resemblance of names: {', '.join(self.resembling)}"
        return "" if self.named else "no structure of that name"

    @property
    def is_certain(self) -> bool:
        """Whether exactly one structure is meant, or several by their type."""
        return not self.doubt

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "structure": self.structure,
            "named": list(self.named),
            "resembling": list(self.resembling),
            "doubt": self.doubt,
        }


def match_structures(
    protocol: Protocol, structures: Iterable[Structure], *, chosen: Mapping[str, str] | None = None
) -> tuple[Match, ...]:
    """Find the structures of a protocol among those of a patient.

    Parameters
    ----------
    protocol : Protocol
        The protocol.
    structures : iterable of Structure
        Those of the patient; structures without contours do not count.
    chosen : mapping of str to str, optional
        Names that the user gave: of the protocol, and of the patient's structure.

    Returns
    -------
    tuple of Match
        One for each structure of the protocol, in its order.

    Raises
    ------
    InvalidInput
        If a chosen name is not there.
    """
    drawn = [structure for structure in structures if structure.contours_cm]
    there, known = [s.name for s in drawn], [naming.structure for naming in protocol.namings]
    chosen = chosen or {}
    for name, of_patient in chosen.items():
        if name not in known:
            raise InvalidInput(
                f"The protocol has no structure '{name}'", f"it has {', '.join(known)}", "Choose for one of these"
            )
        if of_patient not in there:
            raise InvalidInput(
                f"There is no structure '{of_patient}' with contours", f"there are {', '.join(there)}", "Choose one"
            )
    matches = []
    for naming in protocol.namings:
        if naming.structure in chosen:
            matches.append(Match(naming.structure, (chosen[naming.structure],), ()))
            continue
        named = tuple(s.name for s in drawn if naming.is_named(s))
        resembling = tuple(s.name for s in drawn if naming.is_resembled_by(s))
        taken = {s.name for s in drawn for other in protocol.namings if other is not naming and other.is_named(s)}
        matches.append(Match(naming.structure, named, tuple(name for name in resembling if name not in taken)))
    return tuple(matches)


# --- lines ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ProtocolLine:
    """One limit, and the values that two doses have.

    Parameters
    ----------
    structure : str
        Structure of the patient.
    protocol_structure : str
        What it was taken for.
    metric, unit : str
        Name and unit of what is limited.
    goal : str
        What the limit is about.
    sense : str
        `"at most"` or `"at least"`.
    limit : float
        In `unit`.
    planned, recalculated : float
        Values in the two doses; NaN where there is none.
    doubt : str
        Why name or numbers are not certain; empty when they are.
    source : str
        Where the limit comes from, and whether it was verified.
    """

    structure: str
    protocol_structure: str
    metric: str
    unit: str
    goal: str
    sense: Sense
    limit: float
    planned: float
    recalculated: float
    doubt: str
    source: str

    @property
    def planned_within(self) -> bool | None:
        """Whether the planned value keeps the limit; None when there is no value."""
        return self._keeps(self.planned)

    @property
    def within(self) -> bool | None:
        """Whether the recalculated value keeps the limit; None when there is no value."""
        return self._keeps(self.recalculated)

    @property
    def crosses(self) -> bool:
        """Whether only one of the two values keeps the limit."""
        return None not in (self.planned_within, self.within) and self.planned_within != self.within

    @property
    def remark(self) -> str:
        """The recalculated value and its limit in words."""
        if self.within is None:
            return "no value"
        return "within the limit" if self.within else "beyond the limit"

    def _keeps(self, value: float) -> bool | None:
        if math.isnan(value):
            return None
        return value <= self.limit if self.sense == "at most" else value >= self.limit

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON: a missing number is null."""
        return without_nan(asdict(self)) | {
            "planned_within": self.planned_within,
            "within": self.within,
            "crosses": self.crosses,
            "remark": self.remark,
        }


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A protocol held against one or two doses.

    Parameters
    ----------
    protocol : str
        Its name.
    fractions : int
        Number of fractions, which picked the column.
    lines : tuple of ProtocolLine
        In the order of the protocol.
    matches : tuple of Match
        Which structure was taken for which.
    not_covered : tuple of str
        Structures and goals for which the protocol has no limit at this number of fractions.
    remarks : tuple of str
        What the protocol says of itself.
    """

    protocol: str
    fractions: int
    lines: tuple[ProtocolLine, ...]
    matches: tuple[Match, ...]
    not_covered: tuple[str, ...]
    remarks: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "protocol": self.protocol,
            "fractions": self.fractions,
            "lines": [line.as_dict() for line in self.lines],
            "matches": [match.as_dict() for match in self.matches],
            "not_covered": list(self.not_covered),
            "remarks": list(self.remarks),
        }


def evaluate_protocol(
    protocol: Protocol,
    matches: Iterable[Match],
    fractions: int,
    recalculated: Mapping[str, Dvh],
    planned: Mapping[str, Dvh] | None = None,
    *,
    prescription_gy: float = math.nan,
) -> Evaluation:
    """Hold a protocol against a recalculated and a planned dose.

    Parameters
    ----------
    protocol : Protocol
        The limits.
    matches : iterable of Match
        From `match_structures`.
    fractions : int
        Number of fractions of the prescription.
    recalculated, planned : mapping of str to Dvh
        Histograms of the whole treatment by the patient's structure names; structures may be missing.
    prescription_gy : float
        Prescribed dose [Gy], for limits relative to it; without it they have no value.

    Returns
    -------
    Evaluation
        A line for each limit and each structure that it concerns.
    """
    if fractions < 1:
        raise InvalidInput(f"A plan of {fractions} fractions has no limits", "there must be at least one")
    matches = tuple(matches)
    found = {match.structure: match for match in matches}
    lines, not_covered = [], []
    for constraint in protocol.constraints:
        limit = constraint.limits.get(fractions)
        match = found.get(constraint.structure)
        if limit is None:
            if match is not None and match.used:
                not_covered.append(f"{constraint.structure}, {constraint.goal}: no limit for {fractions} fractions")
            continue
        for name in match.used if match is not None else ():
            line = _line(constraint, limit, name, match.doubt if match is not None else "")
            values = [
                _value(limit.metric, curves.get(name), prescription_gy) for curves in (planned or {}, recalculated)
            ]
            doubts = dict.fromkeys(text for text in (line.doubt, *(doubt for _, doubt in values)) if text)
            lines.append(replace(line, planned=values[0][0], recalculated=values[1][0], doubt="; ".join(doubts)))
    return Evaluation(protocol.name, fractions, tuple(lines), matches, tuple(not_covered), protocol.remarks)


def _line(constraint: Constraint, limit: Limit, name: str, doubt: str) -> ProtocolLine:
    """A line without values."""
    source = constraint.source if constraint.verified else f"{constraint.source} ({NOT_VERIFIED})"
    return ProtocolLine(
        name,
        constraint.structure,
        limit.metric.name,
        limit.metric.unit,
        constraint.goal,
        constraint.sense,
        limit.value,
        math.nan,
        math.nan,
        doubt,
        source,
    )


def _value(metric: Metric, curve: Dvh | None, prescription_gy: float) -> tuple[float, str]:
    """Value of a metric, NaN where there is none, and the doubt about it."""
    if curve is None:
        return math.nan, ""
    try:
        found = measure(metric, curve, prescription_gy=prescription_gy)
    except InvalidInput as error:
        return math.nan, error.problem
    return found.value, found.doubt
