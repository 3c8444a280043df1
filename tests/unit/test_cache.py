"""What is remembered on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from spinedose import _cache


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "deep" / "cache"
    monkeypatch.setenv("SPINEDOSE_CACHE", str(path))
    return path


def test_remembered_values_come_back(folder: Path) -> None:
    assert _cache.recall("a") is None
    _cache.remember("a", {"rate": [1.5, 0.1]})
    _cache.remember("b", 3.25)
    assert _cache.recall("a") == {"rate": [1.5, 0.1]}
    assert _cache.recall("b") == 3.25
    assert sorted(p.name for p in folder.iterdir()) == ["a.json", "b.json"], "nothing is left beside the values"


def test_a_newer_value_replaces_the_older(folder: Path) -> None:
    _cache.remember("a", 1.0)
    _cache.remember("a", 2.0)
    assert _cache.recall("a") == 2.0


def test_a_damaged_file_counts_as_nothing(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "a.json").write_text('{"rate": [1.')
    (folder / "b.json").write_bytes(b"\xff\xfe\x00")
    assert _cache.recall("a") is None
    assert _cache.recall("b") is None


def test_a_folder_that_cannot_be_made_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SPINEDOSE_CACHE", str(tmp_path / "file"))
    _cache.remember("a", 1.0)
    assert _cache.recall("a") is None


def test_default_folder_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPINEDOSE_CACHE", raising=False)
    assert _cache.cache_folder().name == "spinedose"
    monkeypatch.setenv("SPINEDOSE_CACHE", "")
    assert _cache.cache_folder().name == "spinedose"
