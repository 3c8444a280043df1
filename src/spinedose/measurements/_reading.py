"""What the readers share: numbers, the order of points, and curves that are refused one at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from spinedose.errors import InvalidInput
from spinedose.measurements.finding import Finding, refusal

Array = NDArray[np.float64]
Made = TypeVar("Made")

JITTER_CM = 0.05
"""A scanner may step back by this much between two points [cm]; a longer way back is another scan."""

MOST_JITTER = 0.05
"""Share of the steps that may go back."""


def number(text: str, what: str) -> float:
    """Read a finite number; a decimal comma is understood.

    Raises
    ------
    InvalidInput
        If it is none.
    """
    try:
        value = float(text.strip().replace(",", ".") if "." not in text else text)
    except ValueError:
        raise InvalidInput(f"The {what} '{_short(text)}' is not a number") from None
    if not math.isfinite(value):
        raise InvalidInput(f"The {what} is '{_short(text)}'", "NaN and infinity are no measurement", "Leave it out")
    return value


def header_number(header: Mapping[str, str], key: str, missing: float = math.nan) -> float:
    """Read the first number of a header entry; `missing` when the entry is absent or empty."""
    words = header.get(key, "").split()
    return number(words[0], key) if words else missing


def in_order(positions_cm: list[float], values: list[float]) -> tuple[Array, Array, tuple[str, ...]]:
    """Bring the points of one curve into rising order, where it is clear which order that is.

    Points that fall throughout are reversed. Small steps back of the scanner are sorted. Points measured twice with the
    same value are kept once. Each is said in the notes.

    Raises
    ------
    InvalidInput
        If positions go back further (two scans under one name, or shuffled rows), or a position has two values.
    """
    x, v = np.array(positions_cm, dtype=np.float64), np.array(values, dtype=np.float64)
    if len(x) < 2:
        raise InvalidInput(f"The curve has {len(x)} points", "two are least")
    notes: list[str] = []
    if x[-1] < x[0]:
        x, v = x[::-1], v[::-1]
        notes.append("points were given from the far end and are reversed")
    step = np.diff(x)
    back = step < 0
    if np.any(back):
        if np.min(step) < -JITTER_CM or np.mean(back) > MOST_JITTER:
            first = int(np.argmax(back))
            raise InvalidInput(
                f"The positions go back after {x[first]:g} cm, {np.count_nonzero(back)} times in {len(x)} points",
                "two scans are pooled under one name, or the rows are not sorted",
                "Give each scan its own scan_id, and its rows in the order of the positions",
            )
        order = np.argsort(x, kind="stable")
        x, v = x[order], v[order]
        notes.append(f"{np.count_nonzero(back)} small steps back of the scanner were sorted")
    same = np.diff(x) == 0
    if np.any(same):
        differs = same & (np.diff(v) != 0)
        if np.any(differs):
            raise InvalidInput(
                f"The position {x[int(np.argmax(differs))]:g} cm has two values",
                "two scans may be pooled under one name",
                "Keep one value for each position",
            )
        keep = np.concatenate([[True], ~same])
        x, v = x[keep], v[keep]
        notes.append(f"{np.count_nonzero(same)} points given twice are kept once")
    return x, v, tuple(notes)


def mirrored(positions_cm: list[float]) -> list[float]:
    """Positions on an axis that points the other way."""
    return [-position for position in positions_cm]


def attempt(make: Callable[[], Made], label: str) -> Made | Finding:
    """Make one curve, or say why it is refused."""
    try:
        return make()
    except InvalidInput as error:
        return refusal(label, error)


def _short(text: str) -> str:
    return text.strip()[:40]
