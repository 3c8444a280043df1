"""Tables of a study over patients, made from its result files alone, so that they do not tell how it was computed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from spinedose._files import write_text
from spinedose.batch.identity import program
from spinedose.batch.results import Results
from spinedose.batch.run import Line, Standing
from spinedose.batch.study_file import StudyFile
from spinedose.result import DISCLAIMER
from spinedose.scenarios import Outcome, Table, limit_table, summarise, summary_table, tidy_table, wide_table
from spinedose.scenarios.writing import write_csv, write_parquet

NAMES = ("values", "scenarios", "summary", "limits", "missing")
"""Tables that are written: a number a row; a scenario a row; worst case and population of each patient; limits; and
scenarios without a result."""

TIMES = ("seconds",)
"""Columns that are left out: they would differ from one run to the next."""


def write_tables(study: StudyFile, standing: Standing) -> tuple[Path, ...]:
    """Write all tables, and `study.json` with what they are made from; each file appears whole.

    Parameters
    ----------
    study : StudyFile
        The study.
    standing : Standing
        How it stands: what has a result goes into the tables.

    Returns
    -------
    tuple of Path
        The files.
    """
    folder = study.asked.output
    folder.mkdir(parents=True, exist_ok=True)
    tables = make_tables(study.asked.results, standing)
    written = []
    for name, table in tables.items():
        written.append(write_csv(table, folder / f"{name}.csv"))
        if study.with_parquet and table.rows:
            written.append(write_parquet(table, folder / f"{name}.parquet"))
    text = json.dumps(_about(study, standing), indent=2, ensure_ascii=False, allow_nan=False)
    return (*written, write_text(folder / "study.json", text))


def make_tables(results: Results, standing: Standing) -> dict[str, Table]:
    """All tables by name; patients by name, scenarios in the order of the study, the planned one first.

    Parameters
    ----------
    results : Results
        Where the files are.
    standing : Standing
        Which there are.
    """
    parts: dict[str, list[Table]] = {"values": [], "scenarios": [], "summary": [], "limits": []}
    for name, lines in groupby(standing.lines, key=lambda line: line.patient.name):
        found = list(_outcomes(results, lines))
        if not found:
            continue
        parts["values"].append(_of_patient(name, tidy_table(found)))
        parts["scenarios"].append(_of_patient(name, wide_table(found)))
        parts["summary"].append(_of_patient(name, summary_table(summarise(found))))
        parts["limits"].append(_of_patient(name, limit_table(found)))
    tables = {name: _joined(each) for name, each in parts.items()}
    return tables | {"missing": _missing(standing)}


def _outcomes(results: Results, lines: Any) -> Iterator[Outcome]:
    for line in lines:
        content = results.read(line.key) if line.state == "done" else None
        if content is not None:
            yield Outcome.from_dict({**content["found"], "scenario": line.scenario.as_dict()})


def _of_patient(name: str, table: Table) -> Table:
    """With the patient in the first column, and without times."""
    places = [place for place, column in enumerate(table.columns) if column not in TIMES]
    columns = tuple(table.columns[place] for place in places)
    return Table(("patient", *columns), tuple((name, *(row[place] for place in places)) for row in table.rows))


def _joined(tables: Sequence[Table]) -> Table:
    """One table of several; what a patient has no column for stays empty."""
    columns = tuple(dict.fromkeys(column for table in tables for column in table.columns)) or ("patient",)
    rows: list[tuple[Any, ...]] = []
    for table in tables:
        for row in table.rows:
            cells = dict(zip(table.columns, row, strict=True))
            rows.append(tuple(cells.get(column) for column in columns))
    return Table(columns, tuple(rows))


def _missing(standing: Standing) -> Table:
    """What has no result. Why something could not be computed today is told to the user, not to the table."""
    rows: list[tuple[str, str, str, str]] = [(name, "", "patient", reason) for name, reason in standing.lost]
    rows += [_row(line) for line in standing.lines if line.state != "done"]
    return Table(("patient", "scenario", "state", "reason"), tuple(rows))


def _row(line: Line) -> tuple[str, str, str, str]:
    return line.patient.name, line.scenario.name, line.state, line.reason if line.state == "failed" else ""


def _about(study: StudyFile, standing: Standing) -> dict[str, Any]:
    """What the tables were made from: contents by their hashes, results by their keys."""
    patients = {
        name: {
            **(lines := list(each))[0].patient.as_key(),
            "notes": list(lines[0].patient.notes),
            "results": {line.scenario.name: line.key for line in lines if line.key},
        }
        for name, each in groupby(standing.lines, key=lambda line: line.patient.name)
    }
    return {
        "schema_version": 1,
        "study": study.name,
        "program": program(),
        "disclaimer": DISCLAIMER,
        "scenarios": {state: standing.count(state) for state in ("done", "failed", "absent")},
        "patients": patients,
        "patients_without_results": [name for name, _ in standing.lost],
    }
