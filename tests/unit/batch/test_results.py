"""Result files: whole or not there, and damaged ones count as absent."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from spinedose.batch.results import FORGOTTEN_S, Results, canonical, digest

KEY = "ab" + "0" * 62
CONTENT = {"state": "done", "found": {"value": 1.0 / 3.0, "name": "Rückenmark"}}


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return Results(tmp_path / "results")


def test_what_is_written_is_read(results: Results) -> None:
    assert results.read(KEY) is None
    path = results.write(KEY, CONTENT)
    found = results.read(KEY)
    assert found is not None
    assert found["found"] == CONTENT["found"]  # to the last bit
    assert [item.name for item in path.parent.iterdir()] == [f"{KEY}.json"]


@pytest.mark.parametrize("length", [0, 1, 40, -2])
def test_a_file_cut_short_counts_as_absent(results: Results, length: int) -> None:
    path = results.write(KEY, CONTENT)
    path.write_bytes(path.read_bytes()[:length])
    assert results.read(KEY) is None
    results.write(KEY, CONTENT)
    assert results.read(KEY) is not None


def test_a_changed_digit_counts_as_damage(results: Results) -> None:
    path = results.write(KEY, CONTENT)
    path.write_bytes(path.read_bytes().replace(b"0.33", b"0.34"))
    json.loads(path.read_bytes())  # still good JSON
    assert results.read(KEY) is None


def test_a_file_under_another_name_is_not_that_result(results: Results) -> None:
    other = KEY[:-1] + "1"
    results.write(KEY, CONTENT).rename(results.path(other))
    assert results.read(other) is None


@pytest.mark.parametrize("content", [b"[]", b"null", b'{"key": 1}', b"\xff\xfe", b'{"a": NaN}'])
def test_other_content_counts_as_absent(results: Results, content: bytes) -> None:
    results.write(KEY, CONTENT).write_bytes(content)
    assert results.read(KEY) is None


def test_a_failed_write_leaves_the_old_result_and_no_rest(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    path = results.write(KEY, CONTENT)
    before = path.read_bytes()

    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        results.write(KEY, {**CONTENT, "found": {}})
    assert path.read_bytes() == before
    assert len(list(path.parent.iterdir())) == 1


@pytest.mark.parametrize("kind", ["part", "mark"])
def test_sweeping_takes_old_rests_only(results: Results, kind: str) -> None:
    path = results.write(KEY, CONTENT)
    old, young = path.with_name(f".x.{kind}"), path.with_name(f".y.{kind}")
    for rest in (old, young):
        rest.write_text("{")
    long_ago = time.time() - FORGOTTEN_S - 60
    os.utime(old, (long_ago, long_ago))
    assert results.sweep() == 1
    assert {item.name for item in path.parent.iterdir()} == {path.name, young.name}


def test_a_mark_stays_only_where_a_process_was_killed(results: Results) -> None:
    with results.at_work(KEY, "this"):
        assert list(results.marks("this").values()) == [KEY]
        assert results.marks("that") == {}
        assert results.sweep() == 0
    assert results.marks("this") == {}
    with pytest.raises(OSError, match="disk"), results.at_work(KEY, "this"):
        raise OSError("the disk is full")
    assert results.marks("this") == {}


def test_the_digest_does_not_hang_on_order() -> None:
    assert digest({"a": 1, "b": [1.5]}) == digest({"b": [1.5], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})
    with pytest.raises(ValueError, match="JSON"):
        canonical({"a": float("nan")})
