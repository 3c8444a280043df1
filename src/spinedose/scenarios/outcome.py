"""What a scenario comes to: metrics, histograms and limits of structures; without the dose it takes kilobytes."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spinedose.compare.dvh import Dvh
from spinedose.errors import InvalidInput
from spinedose.result import Dose
from spinedose.scenarios.scenario import Scenario


@dataclass(frozen=True, slots=True)
class Value:
    """A metric of a structure.

    Parameters
    ----------
    structure, role : str
        Its name, and the part it plays: target, cord or organ.
    metric, unit : str
        Name after AAPM TG-263, and unit.
    value : float
        The number; NaN where there is none.
    doubt : str
        Why there is none, or why it is not to be trusted.
    """

    structure: str
    role: str
    metric: str
    unit: str
    value: float
    doubt: str = ""


@dataclass(frozen=True, slots=True)
class LimitKept:
    """A limit of the protocol, and whether the scenario keeps it.

    Parameters
    ----------
    structure, metric, goal, sense : str
        What is limited, and how; see `spinedose.protocol`.
    limit, value : float
        In the unit of the metric; a value that is not known is NaN.
    source, doubt : str
        Whence the limit is, and what is not certain.
    """

    structure: str
    metric: str
    goal: str
    sense: str
    limit: float
    value: float
    source: str
    doubt: str = ""

    @property
    def is_kept(self) -> bool | None:
        """Whether it is kept; None when that is not known."""
        if math.isnan(self.value):
            return None
        return self.value <= self.limit if self.sense == "at most" else self.value >= self.limit


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """A cumulative histogram on evenly spaced doses, so that scenarios can be held against each other.

    Parameters
    ----------
    structure, role : str
        As in `Value`.
    step_gy : float
        Distance of the doses, the first of which is 0 [Gy].
    percent : ndarray float32, shape (n,)
        Share of the volume that receives at least each dose [%]; beyond the last it is 0.
    """

    structure: str
    role: str
    step_gy: float
    percent: NDArray[np.float32]

    @classmethod
    def of(cls, found: Dvh, role: str, step_gy: float) -> Curve:
        """Read a histogram on even doses."""
        count = max(math.ceil(found.maximum_gy / step_gy), 0) + 2
        share = 100 * found.volume_at_dose(step_gy * np.arange(count)) / found.covered_cm3[-1]
        return cls(found.name, role, step_gy, share.astype(np.float32))

    def at(self, count: int) -> NDArray[np.float32]:
        """The first `count` numbers."""
        values = np.zeros(count, np.float32)
        values[: len(self.percent)] = self.percent[:count]
        return values


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """A scenario and what comes of it.

    Parameters
    ----------
    scenario : Scenario
        What was different.
    values, limits, curves : tuple
        In the order of the structures.
    seconds : float
        Wall time that it took [s].
    computed : int
        Doses that had to be computed: one for each different setup; none where a known dose was only scaled.
    warnings : tuple of str
        What the reader must know.
    facts : mapping
        What computed it: version, backend, device, machines, hash of the beam data, curve, body.
    dose : Dose or None
        The dose, where it was asked for.
    """

    scenario: Scenario
    values: tuple[Value, ...]
    limits: tuple[LimitKept, ...] = ()
    curves: tuple[Curve, ...] = ()
    seconds: float = 0.0
    computed: int = 1
    warnings: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    dose: Dose | None = None

    def value(self, structure: str, metric: str) -> float:
        """A number of a structure, by names."""
        for one in self.values:
            if one.structure == structure and one.metric == metric:
                return one.value
        raise InvalidInput(f"'{self.scenario.name}' has no {metric} of '{structure}'", "it was not asked for")

    def as_dict(self) -> dict[str, Any]:
        """Plain types only, ready for JSON; the dose is left out. `from_dict` reads it."""
        return {
            "scenario": self.scenario.as_dict(),
            "values": [_without_nan(asdict(one)) for one in self.values],
            "limits": [_without_nan(asdict(one)) for one in self.limits],
            "curves": [
                {
                    "structure": one.structure,
                    "role": one.role,
                    "step_gy": one.step_gy,
                    "percent_float32": base64.b64encode(one.percent.astype("<f4").tobytes()).decode("ascii"),
                }
                for one in self.curves
            ],
            "seconds": self.seconds,
            "computed": self.computed,
            "warnings": list(self.warnings),
            "facts": dict(self.facts),
        }

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Outcome:
        """The outcome that `as_dict` wrote."""
        try:
            curves = tuple(
                Curve(
                    one["structure"],
                    one["role"],
                    float(one["step_gy"]),
                    np.frombuffer(base64.b64decode(one["percent_float32"], validate=True), "<f4").astype(np.float32),
                )
                for one in table["curves"]
            )
            return cls(
                Scenario.from_dict(table["scenario"]),
                tuple(Value(**_with_nan(one)) for one in table["values"]),
                tuple(LimitKept(**_with_nan(one)) for one in table["limits"]),
                curves,
                float(table["seconds"]),
                int(table["computed"]),
                tuple(table["warnings"]),
                dict(table["facts"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidInput("The outcome of a scenario cannot be read", str(error), "Compute it again") from None


def _without_nan(table: dict[str, Any]) -> dict[str, Any]:
    return {key: None if isinstance(item, float) and math.isnan(item) else item for key, item in table.items()}


def _with_nan(table: Mapping[str, Any]) -> dict[str, Any]:
    return {key: math.nan if item is None else item for key, item in table.items()}
