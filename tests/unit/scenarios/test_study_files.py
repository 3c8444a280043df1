"""Files of a study: the same numbers again, whole or not there."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from spinedose.errors import InvalidInput, SpinedoseError
from spinedose.scenarios import Scenario, tidy_table, wide_table, write_study, writing

from made_study import made_up_outcomes  # isort: skip


def test_csv_holds_the_table(tmp_path: Path) -> None:
    found = made_up_outcomes()
    written = write_study(tmp_path / "out", found, {"seed": 3})
    assert [path.name for path in written] == ["values.csv", "scenarios.csv", "summary.csv", "limits.csv", "study.json"]
    with (tmp_path / "out" / "values.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for text, row in zip(rows, tidy_table(found).as_dicts(), strict=True):
        assert text["scenario"] == row["scenario"]
        assert float(text["value"]) == row["value"]
        assert text["sample"] == ("true" if row["sample"] else "false")


def test_json_says_where_tables_come_from(tmp_path: Path) -> None:
    write_study(tmp_path, made_up_outcomes(), {"seed": 3, "prescription_gy": float("nan")})
    table = json.loads((tmp_path / "study.json").read_text(encoding="utf-8"))
    assert table["seed"] == 3 and table["prescription_gy"] is None
    assert table["facts"]["backend"] == "cpu"
    assert next(Scenario.from_dict(one).name for one in table["scenarios"]) == "nominal"
    assert len(table["seconds"]) == len(table["scenarios"]) == 8


def test_the_same_outcomes_give_the_same_bytes_however_long_they_took(tmp_path: Path) -> None:
    from dataclasses import replace

    for name, factor in (("one", 1.0), ("two", 7.0)):
        outcomes = [replace(one, seconds=factor * one.seconds) for one in made_up_outcomes()]
        write_study(tmp_path / name, outcomes, {})
    for table in ("values.csv", "scenarios.csv", "summary.csv", "limits.csv"):
        assert (tmp_path / "one" / table).read_bytes() == (tmp_path / "two" / table).read_bytes()


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = wide_table(made_up_outcomes())
    path = writing.write_csv(table, tmp_path / "t.csv")
    before = path.read_bytes()

    def half(self: Path, content: bytes) -> None:
        with self.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(OSError, match="No space"):
        writing.write_csv(table, path)
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["t.csv"]
    with pytest.raises(InvalidInput, match="No space"):
        write_study(tmp_path, made_up_outcomes(), {})


def test_parquet_holds_the_table(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    found = made_up_outcomes()
    write_study(tmp_path, found, {}, formats=("parquet",))
    rows = parquet.read_table(tmp_path / "values.parquet").to_pylist()
    assert rows == tidy_table(found).as_dicts()
    summary = parquet.read_table(tmp_path / "summary.parquet")
    assert str(summary.schema.field("worst").type) == "double"
    assert str(parquet.read_table(tmp_path / "values.parquet").schema.field("fractions").type) == "double"


def test_formats_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidInput, match="xlsx"):
        write_study(tmp_path, made_up_outcomes(), {}, formats=("xlsx",))
    import sys

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(SpinedoseError, match=r"spinedose\[study\]"):
        write_study(tmp_path, made_up_outcomes(), {}, formats=("csv", "parquet"))
    assert not list(tmp_path.iterdir())  # nothing is written when not all can be
