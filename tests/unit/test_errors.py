"""Errors read PROBLEM (WHY) WHAT TO DO, and form the tree that the docstring draws."""

from __future__ import annotations

import inspect
import pickle
import re

import pytest

from spinedose import errors
from spinedose.errors import InvalidInput, SpinedoseError, SpinedoseWarning, UnreadableFile


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        (
            ("Beam 3 has a wedge", "it is not modelled", "Leave it out"),
            "Beam 3 has a wedge (it is not modelled). Leave it out.",
        ),
        (("Beam 3 has a wedge", "it is not modelled"), "Beam 3 has a wedge (it is not modelled)."),
        (("Beam 3 has a wedge", "", "Leave it out"), "Beam 3 has a wedge. Leave it out."),
        (("Beam 3 has a wedge",), "Beam 3 has a wedge."),
        (
            ("Beam 3 has a wedge", "", "Choose other beams", "beams"),
            "Beam 3 has a wedge. Choose other beams with `beams`.",
        ),
    ],
)
def test_message(parts: tuple[str, ...], text: str) -> None:
    assert str(SpinedoseError(*parts)) == text


ALL = [
    value
    for value in vars(errors).values()
    if inspect.isclass(value) and issubclass(value, (SpinedoseError, UserWarning))
]


@pytest.mark.parametrize("kind", [kind for kind in ALL if issubclass(kind, SpinedoseError)])
def test_survives_the_way_between_processes(kind: type[SpinedoseError]) -> None:
    error = pickle.loads(pickle.dumps(kind("problem", "why", "advice", "name=1")))
    assert type(error) is kind
    assert (error.problem, error.why, error.advice, error.argument) == ("problem", "why", "advice", "name=1")
    assert str(error) == "problem (why). advice with `name=1`."


def test_an_argument_can_be_spelled_in_another_way() -> None:
    error = InvalidInput("The CT lacks 1 slice(s)", "z", "Accept it", argument='missing_slices="interpolate"')
    assert error.spelled_with("--missing-slices interpolate") == (
        "The CT lacks 1 slice(s) (z). Accept it with --missing-slices interpolate."
    )
    assert InvalidInput("problem", "why", "advice").spelled_with("") == "problem (why). advice."


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    endings = "Error|Input|File|Plan|Machine|Unavailable|Memory|Warning"
    drawn = set(re.findall(rf"\b(\w*(?:{endings}))\b", errors.__doc__ or ""))
    assert {kind.__name__ for kind in ALL} <= drawn
    assert len(ALL) >= 9


def test_wrong_input_is_also_a_value_error() -> None:
    with pytest.raises(ValueError, match="problem"):
        raise UnreadableFile("problem")
    assert issubclass(UnreadableFile, InvalidInput)
    assert not issubclass(SpinedoseWarning, SpinedoseError)
