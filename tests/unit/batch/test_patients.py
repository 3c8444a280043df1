"""Patients: folders that patterns name, each once, and the files in them."""

from __future__ import annotations

from pathlib import Path

import pytest

from spinedose.batch.patients import find_folders
from spinedose.errors import InvalidInput


@pytest.fixture
def base(tmp_path: Path) -> Path:
    for name in ("study/cohort/p1", "study/cohort/p2", "study/cohort/.trash", "study/deep/er/p3", "elsewhere/p4"):
        (tmp_path / name).mkdir(parents=True)
    return tmp_path / "study"


def _names(base: Path, *patterns: str, exclude: tuple[str, ...] = ()) -> list[str]:
    return [name for name, _ in find_folders(base, patterns, exclude)]


def test_patterns_name_folders_without_hidden_ones(base: Path) -> None:
    assert _names(base, "cohort/*") == ["cohort/p1", "cohort/p2"]
    assert _names(base, "cohort/.t*") == ["cohort/.trash"]
    assert _names(base, "**/p?") == ["cohort/p1", "cohort/p2", "deep/er/p3"]
    assert _names(base, "../elsewhere/*") == ["../elsewhere/p4"]
    whole = base.parent / "elsewhere"
    assert _names(base, f"{whole}/*") == [(whole / "p4").as_posix()]


def test_each_counts_once_by_whatever_name(base: Path) -> None:
    assert _names(base, "cohort/p1", "cohort/*", str(base / "cohort" / "p1")) == ["cohort/p1", "cohort/p2"]
    assert _names(base, "cohort/*", exclude=(str(base / "cohort" / "p1"),)) == ["cohort/p2"]


def test_a_folder_behind_a_link_is_named_as_it_was_asked_for(base: Path) -> None:
    (base / "linked").symlink_to(base.parent / "elsewhere", target_is_directory=True)
    ((name, folder),) = find_folders(base, ["linked/*"])
    assert name == "linked/p4"
    assert folder == (base.parent / "elsewhere" / "p4").resolve()


def test_nothing_is_refused(base: Path) -> None:
    with pytest.raises(InvalidInput, match="names no folder"):
        _names(base, "cohort/x*")
    with pytest.raises(InvalidInput, match="is excluded"):
        _names(base, "cohort/*", exclude=("cohort/p*",))
