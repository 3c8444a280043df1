"""Whether two files are about the same patient, however their writers pad and spell."""

from __future__ import annotations

import pytest

from spinedose.identity import Identity, is_other_id


def who(name: str = "", number: str = "") -> Identity:
    return Identity(patient_name=name, patient_id=number)


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("Doe^Jane", "1a"),
        ("DOE^JANE^^^", " 1A "),
        ("doe^jane ", "1A\0"),
        (" Doe ^ Jane", "1 A"),
        ("Doe^Jane=\u8003^\u5b50", "1A"),
        ("", ""),
    ],
)
def test_the_same_in_other_forms(name: str, number: str) -> None:
    assert who("Doe^Jane", "1A").differs_from(who(name, number)) == ""
    assert who(name, number).differs_from(who("Doe^Jane", "1A")) == ""


@pytest.mark.parametrize(
    ("one", "other", "by"),
    [
        (who("Doe^Jane", "1"), who("Doe^Jane", "2"), "id"),
        (who("Doe^Jane", "1"), who("Roe^Jane", "2"), "id"),
        (who("Doe^Jane", "1"), who("Roe^Jane", "1"), "name"),
        (who("Doe^Jane", ""), who("Roe^Jane", "1"), "name"),
        (who("Doe^Jane", "01"), who("Doe^Jane", "1"), "id"),  # padding with zeros is part of an ID
        (who("", "1"), who("Roe^Jane", ""), ""),
    ],
)
def test_what_both_state_is_compared(one: Identity, other: Identity, by: str) -> None:
    assert one.differs_from(other) == by


def test_an_empty_id_tells_nothing() -> None:
    assert not is_other_id("", "1") and not is_other_id(" ", "1") and not is_other_id("a", " A")
    assert is_other_id("a", "b")
