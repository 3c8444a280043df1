"""Limits of curves and of numbers in water, and where they come from, read from `criteria.toml`."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from spinedose.errors import InvalidInput

SCHEMA_VERSION = 1
"""Version of the file that this module reads."""

KEYS = {"limit", "unit", "source", "or_mm", "wider", "wider_source"}


@dataclass(frozen=True, slots=True)
class Criterion:
    """How far a calculated number may lie from a measured one.

    Parameters
    ----------
    key : str
        Its name in the file.
    limit : float
        Largest difference, in `unit`.
    unit : str
        What 1 means.
    source : str
        Who says so.
    or_mm : float
        Distance that is good enough where the difference is not [mm]; NaN for none.
    wider : float
        What others ask for, when that is less; NaN for none.
    wider_source : str
        Who they are.
    """

    key: str
    limit: float
    unit: str
    source: str
    or_mm: float = math.nan
    wider: float = math.nan
    wider_source: str = ""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.limit) and self.limit > 0):
            raise InvalidInput(f"The limit '{self.key}' is {self.limit}", "a limit is positive")
        if not (self.unit and self.source):
            raise InvalidInput(f"The limit '{self.key}' has no unit or no source", "a number without one is none")
        if self.wider < self.limit:
            raise InvalidInput(f"The wider limit of '{self.key}' is narrower than the limit")
        if not math.isnan(self.wider) and not self.wider_source:
            raise InvalidInput(f"The wider limit of '{self.key}' has no source", "a number without one is none")


def read_criteria(path: Path | None = None) -> Mapping[str, Criterion]:
    """Read all limits.

    Parameters
    ----------
    path : Path, optional
        A file of that format; by default the one that comes with spinedose.

    Returns
    -------
    mapping of str to Criterion

    Raises
    ------
    InvalidInput
        If the file is wrong.
    """
    path = path or Path(__file__).with_name("criteria.toml")
    try:
        content: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"The limits in '{path.name}' cannot be read", str(error), "Correct the file") from None
    if content.pop("schema_version", None) != SCHEMA_VERSION:
        raise InvalidInput(f"'{path.name}' is of another version", f"this spinedose reads version {SCHEMA_VERSION}")
    found = {}
    for key, table in content.items():
        if not isinstance(table, dict) or not {"limit", "unit", "source"} <= set(table) <= KEYS:
            raise InvalidInput(f"The limit '{key}' is not complete, or has a key too many", f"keys: {sorted(KEYS)}")
        numbers = {k: float(table[k]) for k in ("limit", "or_mm", "wider") if k in table}
        texts = {k: str(table[k]) for k in ("unit", "source", "wider_source") if k in table}
        found[key] = Criterion(key, **numbers, **texts)  # type: ignore[arg-type]
    return MappingProxyType(found)
