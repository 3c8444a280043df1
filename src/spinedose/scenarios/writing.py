"""Tables of a study as files: CSV, Parquet and JSON, each whole or not there."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from spinedose._files import aside, write_text
from spinedose._version import __version__
from spinedose.compare.metrics import without_nan
from spinedose.errors import InvalidInput, SpinedoseError
from spinedose.result import DISCLAIMER
from spinedose.scenarios.outcome import Outcome
from spinedose.scenarios.tables import (
    PERCENTILES,
    Cell,
    Table,
    as_text,
    limit_table,
    nominal_first,
    summarise,
    summary_table,
    tidy_table,
    wide_table,
)

NAMES = ("values", "scenarios", "summary", "limits")
"""Tables that are written: a number a row, a scenario a row, worst case and population, limits."""

FORMATS = ("csv", "parquet")


def write_study(
    folder: str | Path,
    outcomes: Iterable[Outcome],
    metadata: Mapping[str, Any],
    *,
    formats: Iterable[str] = ("csv",),
) -> tuple[Path, ...]:
    """Write the tables of a study and `study.json`, which says where they come from.

    Parameters
    ----------
    folder : path
        Made when absent; files of these names are overwritten.
    outcomes : iterable of Outcome
        All scenarios.
    metadata : mapping
        From `Study.metadata`, with whatever else should be kept, the seed for instance.
    formats : iterable of str
        `"csv"`, `"parquet"` or both.

    Returns
    -------
    tuple of Path
        The files; `study.json` is the last that is written.

    Raises
    ------
    SpinedoseError
        If Parquet is asked for and pyarrow is not installed.
    """
    wanted = tuple(dict.fromkeys(formats))
    for name in wanted:
        if name not in FORMATS:
            raise InvalidInput(f"Tables cannot be written as '{name}'", f"there are {' and '.join(FORMATS)}")
    if "parquet" in wanted:
        _pyarrow()
    found, folder = nominal_first(outcomes), Path(folder)
    if not found:
        raise InvalidInput("A study has no outcomes", "there is nothing to write")
    summary = summary_table(summarise(found))
    tables = dict(zip(NAMES, (tidy_table(found), wide_table(found), summary, limit_table(found)), strict=True))
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, table in tables.items():
            if name == "limits" and not table.rows:
                continue
            if "csv" in wanted:
                written.append(write_csv(table, folder / f"{name}.csv"))
            if "parquet" in wanted:
                written.append(write_parquet(table, folder / f"{name}.parquet"))
        text = json.dumps(_about(found, metadata), indent=2, ensure_ascii=False, allow_nan=False)
        written.append(write_text(folder / "study.json", text))
    except OSError as error:
        raise InvalidInput(f"Tables cannot be written into '{folder}'", error.strerror or str(error)) from error
    return tuple(written)


def _about(outcomes: tuple[Outcome, ...], metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What must be known about the tables."""
    table: dict[str, Any] = {
        "schema_version": 1,
        "written_by": f"spinedose {__version__}",
        "disclaimer": DISCLAIMER,
        **without_nan(dict(metadata)),
        "facts": without_nan(dict(outcomes[0].facts)),
        "percentiles": list(PERCENTILES),
        "scenarios": [one.scenario.as_dict() for one in outcomes],
        "seconds": [round(one.seconds, 3) for one in outcomes],
        "doses_computed": [one.computed for one in outcomes],
        "warnings": _warnings(outcomes),
    }
    return table


def _warnings(outcomes: tuple[Outcome, ...]) -> dict[str, list[str]]:
    """Those of the first outcome, and of every other what it has beside them."""
    known = set(outcomes[0].warnings)
    more = {one.scenario.name: [w for w in one.warnings if w not in known] for one in outcomes[1:]}
    return {
        outcomes[0].scenario.name: list(outcomes[0].warnings),
        **{name: said for name, said in more.items() if said},
    }


def write_csv(table: Table, path: str | Path) -> Path:
    """Write a table as CSV (RFC 4180, UTF-8); an empty cell is a missing number."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(table.columns)
    writer.writerows([as_text(cell) for cell in row] for row in table.rows)
    path = Path(path)
    with aside(path) as part:
        part.write_bytes(text.getvalue().encode())
    return path


def write_parquet(table: Table, path: str | Path) -> Path:
    """Write a table as Parquet; a missing number is null.

    Raises
    ------
    SpinedoseError
        If pyarrow is not installed.
    """
    pyarrow, parquet = _pyarrow()
    made = pyarrow.table({name: _array(pyarrow, table.column(name)) for name in table.columns})
    path = Path(path)
    with aside(path) as part:
        parquet.write_table(made, part)
    return path


def _array(pyarrow: Any, cells: Sequence[Cell]) -> Any:
    """A column; whole numbers among fractions are fractions, and so is a column without any number."""
    known = [cell for cell in cells if cell is not None]
    if not known or any(isinstance(cell, float) for cell in known):
        return pyarrow.array(list(cells), pyarrow.float64())
    return pyarrow.array(list(cells))


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise SpinedoseError(
            "Parquet files cannot be written", "pyarrow is not installed", "Install it: pip install 'spinedose[study]'"
        ) from None
    return pyarrow, parquet
