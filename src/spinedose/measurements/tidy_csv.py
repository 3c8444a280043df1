"""Tidy CSV: one row a point, one column a quantity, the unit in the column's name.

Rows belong to one curve when they agree in everything that names a curve: beam, field, SSD, depth of a profile, axis,
detector, scan_id, source and the like. `docs/formats/measurements.md` lists the columns.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np

from spinedose.errors import InvalidInput, UnreadableFile
from spinedose.measurements._reading import attempt, in_order, number
from spinedose.measurements.finding import Finding
from spinedose.measurements.scan import OutputFactors, ReferenceCondition, Scan

Row = Mapping[str, str]

NAMING = (
    "beam", "nominal_energy_mv", "manufacturer", "machine", "field_x_cm", "field_y_cm", "square_field_cm",
    "square_field_at_detector_cm", "ssd_cm", "axis", "medium", "detector", "scan_id", "scan_part", "scan_date",
    "derived_from", "column_flag", "source",
)  # fmt: skip
"""Columns that tell curves apart."""

CURVE_VALUES = {
    "dose_percent": "percent",
    "dose_gy": "gy",
    "signal_raw": "signal",
    "tpr": "ratio",
    "off_axis_ratio": "ratio",
    "open_field_oar": "ratio",
    "relative_primary_fluence": "ratio",
}
"""Columns of values and their units. Of several the first one counts."""

NORMALISED = re.compile(r"(pdd_percent|tpr)_norm_(\d+(?:\.\d+)?)cm")
"""Values that are 100 % or 1 at the named depth."""

FACTOR_VALUES = {
    "output_factor": ("total", ""),
    "rpc_measured_output_factor_mean": ("total", "rpc_measured_sd"),
    "sc_in_air_output_ratio": ("head", ""),
    "sp_phantom_scatter_factor": ("phantom", ""),
    "normalised_peak_scatter_factor": ("peak_scatter", ""),
}
"""Columns of output factors: their kind, and the column of their standard deviation."""

CALIBRATION = "dose_cGy_per_MU"
"""Column of calibrations: each row states the dose per monitor unit of one beam at one point."""

RADIAL = {
    "off_axis_at_depth_cm": "radial",
    "off_axis_distance_cm": "radial",
    "radius_at_isocentre_cm": "in_air_radial",
}
"""Columns of distances from the axis, and the kind of curve they make."""

SCALED_SIGNAL = re.compile(r"signal_relative_to_(\w+)")
"""The same curve a second time, on a scale that all fields share."""


def read(text: str, name: str, beam: str) -> Iterator[Scan | OutputFactors | ReferenceCondition | Finding]:
    """Read every curve, set of output factors or calibration.

    Parameters
    ----------
    text : str
        Content of the file.
    name : str
        Its name, for messages.
    beam : str
        Label of the beam, for a file without the column `beam`.

    Yields
    ------
    Scan, OutputFactors, ReferenceCondition or Finding
        A curve, a set of factors, a calibration, or why one is refused or doubtful.

    Raises
    ------
    UnreadableFile
        If it is no table, or holds nothing that is known here.
    """
    rows = _rows(text, name)
    columns = list(rows[0])
    factors = [column for column in columns if column in FACTOR_VALUES]
    if factors:
        for column in factors:
            yield from _sets_of_factors(rows, column, name, beam)
        return
    if CALIBRATION in columns:
        for count, row in enumerate(rows, start=1):
            yield attempt(partial(_reference, row, name, beam), f"{name}, calibration {count}")
        return
    value = _value_column(columns, name)
    position = _position_column(columns, name)
    groups = _grouped(rows, (*NAMING, *(() if position == "depth_cm" else ("depth_cm",))))
    shared: dict[str, int] = {}
    for count, group in enumerate(groups, start=1):
        scan_id = group[0].get("scan_id", "")
        shared[scan_id] = shared.get(scan_id, 0) + 1
        label = f"{name}, scan {scan_id}" if scan_id else f"{name}, curve {count}"
        yield attempt(partial(_scan, group, position, value, name, beam), label)
    for scan_id, times in shared.items():
        if scan_id and times > 1:
            yield Finding(
                "pooled", "flag", f"{name}, scan {scan_id}", f"the scan_id names {times} curves",
                "field, depth, beam or detector differ within it", "Give each scan its own scan_id",
            )  # fmt: skip


def _rows(text: str, name: str) -> list[Row]:
    """Read a table as one mapping a row."""
    try:
        table = [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if any(map(str.strip, row))]
    except csv.Error as error:
        raise UnreadableFile(f"'{name}' is no CSV table", str(error)) from error
    table = [row for row in table if not row[0].lstrip().startswith("#")]
    if len(table) < 2:
        raise UnreadableFile(f"'{name}' has no rows", "a header and points are needed")
    columns = [column.strip() for column in table[0]]
    if len(set(columns)) != len(columns):
        raise UnreadableFile(f"'{name}' has a column twice", "it is not clear which one counts")
    in_mm = [column for column in columns if column.endswith("_mm")]
    if in_mm:
        raise UnreadableFile(
            f"'{name}' has lengths in mm", f"columns {', '.join(in_mm)[:80]}", "Convert them to cm and name them so"
        )
    for line, row in enumerate(table[1:], start=2):
        if len(row) != len(columns):
            raise UnreadableFile(
                f"'{name}' has {len(row)} cells in row {line}", f"its header has {len(columns)}", "Mend that row"
            )
    return [dict(zip(columns, map(str.strip, row), strict=True)) for row in table[1:]]


def _value_column(columns: Sequence[str], name: str) -> str:
    for column in (*CURVE_VALUES, *columns):
        if column in columns and (column in CURVE_VALUES or NORMALISED.fullmatch(column)):
            return column
    raise UnreadableFile(
        f"'{name}' has no column of values that is known here",
        f"its columns are {', '.join(columns)[:200]}",
        f"Name the values {', '.join(CURVE_VALUES)}, {', '.join(FACTOR_VALUES)} or {CALIBRATION}",
    )


def _position_column(columns: Sequence[str], name: str) -> str:
    for column in ("position_cm", *RADIAL, "depth_cm"):
        if column in columns:
            return column
    raise UnreadableFile(
        f"'{name}' has no column of positions that is known here",
        f"its columns are {', '.join(columns)[:200]}",
        f"Name the positions position_cm, depth_cm, {', '.join(RADIAL)}",
    )


def _grouped(rows: Sequence[Row], by: Sequence[str]) -> list[list[Row]]:
    """Rows that agree in these columns, in the order of their first row."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(column, "") for column in by), []).append(row)
    return list(groups.values())


def _scan(rows: Sequence[Row], position: str, value: str, name: str, beam: str) -> Scan:
    first = rows[0]
    x = [number(row[position], position) for row in rows]
    v = [number(row[value], value) for row in rows]
    positions, values, notes = in_order(x, v)
    kind = _kind(first, position, value)
    is_in_air = kind.startswith("in_air")
    normalised = NORMALISED.fullmatch(value)
    unit = CURVE_VALUES.get(value) or ("percent" if value.startswith("pdd") else "ratio")
    metadata = {column: text for column, text in _constant(rows).items() if text and column not in _KNOWN}
    metadata["quantity"] = value
    if normalised:
        metadata["normalised_at_cm"] = normalised[2]
    if position in RADIAL:
        metadata["position"] = position
    if "square_field_at_detector_cm" in first:
        metadata["field_defined_at"] = "detector"
    metadata |= _scaled_signal(rows, v)
    along_depth = kind in ("depth_dose", "tpr")
    field_x, field_y = _field_cm(first)
    return Scan(
        kind,
        _beam(first, beam),
        field_x,
        field_y,
        math.nan if is_in_air else _optional(first, "ssd_cm"),
        math.nan if along_depth or is_in_air else _optional(first, "depth_cm"),
        positions,
        values,
        unit,
        first.get("detector", ""),
        ", ".join(part for part in (name, first.get("source", "")) if part),
        first.get("scan_id", ""),
        metadata,
        notes,
    )


_KNOWN = {"beam", "field_x_cm", "field_y_cm", "square_field_cm", "ssd_cm", "depth_cm", "detector", "scan_id", "source"}
"""Columns that have a place of their own in a curve."""


def _kind(row: Row, position: str, value: str) -> str:
    in_air = "in_air_" if row.get("medium", "").lower() == "air" else ""
    if position in RADIAL:
        return in_air + RADIAL[position] if RADIAL[position] == "radial" else RADIAL[position]
    if position == "depth_cm":
        if in_air:
            raise InvalidInput("It is a curve along the depth in air", "only water has a depth")
        return "tpr" if value.startswith("tpr") else "depth_dose"
    axis = row.get("axis", "")
    if axis not in ("crossline", "inline", "diagonal"):
        raise InvalidInput(f"Its axis is '{axis}'", "crossline, inline and diagonal are read", "State the column axis")
    return in_air + axis


def _beam(row: Row, beam: str) -> str:
    stated = row.get("beam", "")
    if not stated and row.get("nominal_energy_mv"):
        stated = f"{number(row['nominal_energy_mv'], 'nominal_energy_mv'):g}X"
    if stated and beam and stated != beam:
        raise InvalidInput(f"It was measured with {stated}", f"the beam was said to be '{beam}'")
    return stated or beam


def _field_cm(row: Row) -> tuple[float, float]:
    """Field size (x, y) [cm]; NaN where it is not stated."""
    for column in ("square_field_cm", "square_field_at_detector_cm"):
        if row.get(column):
            side = number(row[column], column)
            return side, side
    return _optional(row, "field_x_cm"), _optional(row, "field_y_cm")


def _optional(row: Row, column: str) -> float:
    return number(row[column], column) if row.get(column) else math.nan


def _constant(rows: Sequence[Row]) -> dict[str, str]:
    """Entries that are the same in every row."""
    return {column: text for column, text in rows[0].items() if all(row[column] == text for row in rows)}


def _scaled_signal(rows: Sequence[Row], values: Sequence[float]) -> dict[str, str]:
    """What a second column of the same curve, on a scale that all fields share, says: its ratio to the values."""
    for column in rows[0]:
        match = SCALED_SIGNAL.fullmatch(column)
        if match:
            signals = np.array([number(row[column], column) for row in rows])
            total = float(np.sum(values))
            if total > 0:
                return {"signal_relative_to": match[1], "signal_per_value": f"{float(np.sum(signals)) / total:.6g}"}
    return {}


def _sets_of_factors(rows: Sequence[Row], column: str, name: str, beam: str) -> Iterator[OutputFactors | Finding]:
    by = ("beam", "nominal_energy_mv", "manufacturer", "machine", "detector", "ssd_cm", "depth_cm", "source")
    for group in _grouped([row for row in rows if row[column]], by):
        label = f"{name}, {column} of {group[0].get('beam') or group[0].get('nominal_energy_mv') or beam}"
        yield attempt(partial(_factors, group, column, name, beam), label)
        for row in group:
            if row.get("flag"):
                size = row.get("square_field_cm") or f"{row.get('field_x_cm')}x{row.get('field_y_cm')}"
                yield Finding("source_flag", "flag", label, f"its source doubts the value of {size} cm", row["flag"])


def _factors(rows: Sequence[Row], column: str, name: str, beam: str) -> OutputFactors:
    first = rows[0]
    kind, spread = FACTOR_VALUES[column]
    spread = spread or f"{column}_sd"
    fields = [_field_cm(row) for row in rows]
    if any(math.isnan(x + y) for x, y in fields):
        raise InvalidInput("The field size of an output factor is not stated", "", "State field_x_cm and field_y_cm")
    values = [number(row[column], column) for row in rows]
    unity = [field for field, value in zip(fields, values, strict=True) if value == 1]
    depth = _optional(first, "normalisation_depth_cm") if kind == "phantom" else _optional(first, "depth_cm")
    metadata = {key: text for key, text in _constant(rows).items() if text and key not in _KNOWN}
    return OutputFactors(
        kind,
        _beam(first, beam),
        np.array([x for x, _ in fields]),
        np.array([y for _, y in fields]),
        np.array(values),
        _optional(first, "ssd_cm"),
        math.nan if kind == "head" else depth,
        unity[0] if len(unity) == 1 else (math.nan, math.nan),
        np.array([_optional(row, spread) for row in rows]),
        first.get("detector", ""),
        ", ".join(part for part in (name, first.get("source", "")) if part),
        metadata,
    )


def _reference(row: Row, name: str, beam: str) -> ReferenceCondition:
    """A calibration from one row: all of it must be stated."""
    label = _beam(row, beam)
    if not label:
        raise InvalidInput("It does not say which beam it is of", "", "State the column beam")
    x, y = _field_cm(row)
    columns = {"ssd_cm": _optional(row, "ssd_cm"), "depth_cm": _optional(row, "depth_cm")}
    missing = [column for column, value in columns.items() if math.isnan(value)]
    missing += ["field_x_cm and field_y_cm"] if math.isnan(x + y) else []
    if missing:
        raise InvalidInput(
            f"It does not state {', '.join(missing)}", "a dose per MU holds for one point only", "State all of it"
        )
    source = ", ".join(part for part in (name, row.get("source", "")) if part)
    return ReferenceCondition(
        label, x, y, columns["ssd_cm"], columns["depth_cm"], number(row[CALIBRATION], CALIBRATION), source
    )
