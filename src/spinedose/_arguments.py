"""Whether what a caller passed is of the kind that is asked for: a wrong kind is told in one line, with advice."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spinedose.errors import InvalidInput

PATH = (str, os.PathLike)
"""Kinds of names of files."""

LONGEST = 60
"""Longer texts are cut where a message shows them."""


def expect(what: str, value: object, kinds: type | tuple[type, ...], wanted: str, advice: str = "") -> None:
    """Refuse a value of another kind.

    Parameters
    ----------
    what : str
        What the message calls it: `"The plan"`.
    value : object
        What was passed.
    kinds : type or tuple of types
        What it may be.
    wanted : str
        The same in words: `"a Plan"`.
    advice : str
        What to do: `"Read it with read_plan"`.
    """
    if not isinstance(value, kinds):
        raise InvalidInput(f"{what} is {shown(value)}", f"{wanted} is asked for", advice)


def expect_each(what: str, values: object, kind: type | tuple[type, ...], wanted: str, advice: str = "") -> None:
    """Refuse what is no sequence of such things; a text or a mapping counts as none."""
    is_sequence = isinstance(values, Iterable) and not isinstance(values, str | dict)
    wrong = [one for one in values if not isinstance(one, kind)] if is_sequence else [values]  # type: ignore[attr-defined]
    if wrong:
        raise InvalidInput(f"{what} are given as {shown(wrong[0])}", f"a sequence of {wanted} is asked for", advice)


def listed(what: str, values: Any, kind: type | tuple[type, ...], wanted: str, advice: str = "") -> list[Any]:
    """A sequence of such things as a list, read once; anything else is refused as by `expect_each`."""
    found = list(values) if isinstance(values, Iterator) else values
    expect_each(what, found, kind, wanted, advice)
    return list(found)


def expect_number(what: str, value: object, unit: str, advice: str = "") -> None:
    """Refuse what is no single number; whether it makes sense is for the caller to say."""
    is_number = isinstance(value, int | float | np.number) and not isinstance(value, bool | np.bool_)
    if not is_number:
        raise InvalidInput(f"{what} is {shown(value)}", f"a number is asked for, in {unit}", advice)


def expect_callable(what: str, value: object) -> None:
    """Refuse what cannot be called."""
    if not isinstance(value, Callable):  # type: ignore[arg-type]
        raise InvalidInput(f"{what} is {shown(value)}", "a function is asked for")


def points_of(values: Any) -> NDArray[np.float64]:
    """Points as an array of shape (..., 3); refuse what is none."""
    advice = "Give three coordinates (x, y, z) in cm for each point"
    try:
        points = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise InvalidInput(f"The points are {shown(values)}", "some are no numbers, or too few", advice) from None
    if points.ndim < 1 or points.shape[-1] != 3:
        count = points.shape[-1] if points.ndim else "no"
        raise InvalidInput(f"The points have {count} coordinates each", "a point of a volume has three", advice)
    return points


def shown(value: object) -> str:
    """A value as a message shows it: itself where it is short, its kind where it is not."""
    if value is None or isinstance(value, int | float | np.number):
        return str(value)
    if isinstance(value, PATH):
        text = os.fspath(value)
        text = text if isinstance(text, str) else os.fsdecode(text)
        return f"'{text}'" if len(text) <= LONGEST else f"'{text[: LONGEST - 1]}…'"
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}"
    name = value.__name__ if isinstance(value, type) else type(value).__name__
    article = "an" if name[:1].lower() in "aeiou" else "a"
    return f"the class {name}" if isinstance(value, type) else f"{article} {name}"
