"""Scenarios from a TOML or CSV file (docs/formats/study.md); lengths there are in mm, as on the command line."""

from __future__ import annotations

import csv
import difflib
import io
import math
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spinedose._files import read_text
from spinedose.errors import InvalidInput
from spinedose.machine_change import MachineChange
from spinedose.scenarios.sampling import (
    MOST_ERROR_CM,
    MOST_ERROR_DEG,
    SetupErrors,
    random_setups,
    setup_factorial,
    setup_grid,
)
from spinedose.scenarios.scenario import AS_IT_IS, DensityChange, OtherCt, Registration, Scenario
from spinedose.setup import MOST_CM, MOST_DEG, Setup
from spinedose.units import CM_PER_MM, MM_PER_CM

SCHEMA_VERSION = 1
"""Version of the files that this spinedose reads."""

SHIFTS = ("lateral_mm", "longitudinal_mm", "vertical_mm")
TURNS = ("pitch_deg", "roll_deg", "yaw_deg")

_PLAIN = ("leaf_offset_mm", "spot_factor", "meterset_factor", "fractions", "hu_offset")
_SCENARIO = (
    "name", *SHIFTS, *TURNS, "fraction", *_PLAIN, "meterset", "density_g_cm3", "density_factor", "curve", "ct",
    "structures", "registration", "registration_mm", "sample",
)  # fmt: skip
_CSV = ("name", *SHIFTS, *TURNS, *_PLAIN, "curve", "ct", "structures", "registration", "sample")
_GRID = ("shifts_mm", "turns_deg", "axes")
_RANDOM = ("count", "seed", "systematic_mm", "random_mm", "systematic_deg", "random_deg", "mean_mm", "mean_deg")
MEANS = ("mean_mm", "mean_deg")
_FILE = ("schema_version", "grid", "factorial", "random", "scenario")


def read_scenarios(path: str | Path, *, fractions: int = 1) -> tuple[Scenario, ...]:
    """Read scenarios from a file; paths in it count from its folder.

    Parameters
    ----------
    path : path
        A `.toml` or `.csv` file.
    fractions : int
        Fractions of the plan, each of which gets its own random error.

    Raises
    ------
    InvalidInput
        If it cannot be read, or something in it is not known.
    """
    path = Path(path)
    text = read_text(path, "The file of scenarios")
    if path.suffix.lower() == ".csv":
        return _from_csv(text, path)
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(f"'{path.name}' is no TOML", str(error), "Correct the file") from None
    if content.pop("schema_version", None) != SCHEMA_VERSION:
        raise InvalidInput(
            f"'{path.name}' is of another version", f"this spinedose reads schema_version = {SCHEMA_VERSION}"
        )
    return scenarios_of(content, path.parent, where=path.name, fractions=fractions)


def scenarios_of(
    content: Mapping[str, Any], folder: Path, *, where: str = "the study", fractions: int = 1
) -> tuple[Scenario, ...]:
    """Scenarios from the tables `grid`, `factorial`, `random` and `scenario` of a file.

    Parameters
    ----------
    content : mapping
        The tables; no other keys.
    folder : Path
        From which paths count.
    where : str
        What messages call the file.
    fractions : int
        As in `read_scenarios`.
    """
    _only(content, _FILE[1:], where)
    found: list[Scenario] = []
    if "grid" in content:
        found += _grid(_table(content["grid"], f"{where} [grid]"), f"{where} [grid]")
    if "factorial" in content:
        found += _factorial(_table(content["factorial"], f"{where} [factorial]"), f"{where} [factorial]")
    if "random" in content:
        found += _random(_table(content["random"], f"{where} [random]"), f"{where} [random]", fractions)
    listed = content.get("scenario", [])
    if not isinstance(listed, list):
        raise InvalidInput(f"{where}: 'scenario' is no list of tables", "", "Write [[scenario]]")
    for number, table in enumerate(listed, 1):
        place = f"{where} [[scenario]] {number}"
        found.append(_scenario(_table(table, place), folder, place))
    if not found:
        raise InvalidInput(f"{where} has no scenarios", "it needs [grid], [factorial], [random] or [[scenario]]")
    return tuple(found)


def _grid(table: Mapping[str, Any], where: str) -> tuple[Scenario, ...]:
    _only(table, _GRID, where)
    amounts = {key: _numbers(table, key, where) for key in ("shifts_mm", "turns_deg")}
    for key, values in amounts.items():
        for value in values:
            if not _amount(key, value, where) > 0:
                raise InvalidInput(f"{where}: '{key}' is {value:g}", "each is taken both ways", "Write it without sign")
    shifts, turns = [CM_PER_MM * value for value in amounts["shifts_mm"]], amounts["turns_deg"]
    words = table.get("axes", [])
    if not isinstance(words, list):
        raise InvalidInput(f"{where}: 'axes' is no list", "it names lateral, longitudinal, vertical, pitch, roll, yaw")
    names = {axis.rsplit("_", 1)[0]: axis for axis in (*SHIFTS, *TURNS)}
    for word in words:
        if word not in names:
            raise InvalidInput(f"{where}: '{word}' is no axis", f"there are {', '.join(names)}")
    axes = [names[word].replace("_mm", "_cm") for word in words or names]
    found = setup_grid(shifts, turns, axes=axes)
    if not found:
        raise InvalidInput(f"{where} has no amounts", "it needs shifts_mm or turns_deg")
    return found


def _factorial(table: Mapping[str, Any], where: str) -> tuple[Scenario, ...]:
    _only(table, (*SHIFTS, *TURNS), where)
    values = {
        key.replace("_mm", "_cm"): [
            (CM_PER_MM if key in SHIFTS else 1.0) * _amount(key, value, where) for value in _numbers(table, key, where)
        ]
        for key in table
    }
    return setup_factorial(**values)


def _random(table: Mapping[str, Any], where: str, fractions: int) -> tuple[Scenario, ...]:
    _only(table, _RANDOM, where)
    for key in ("count", "seed"):
        if key not in table:
            raise InvalidInput(f"{where} has no '{key}'", "without it nobody can repeat the study")
    sizes: dict[str, Any] = {}
    for key in _RANDOM[2:]:
        if key in table:
            values = _numbers(table, key, where)
            scale, prove = CM_PER_MM if key.endswith("_mm") else 1.0, _amount if key in MEANS else _deviation
            each = tuple(scale * prove(key, value, where) for value in values)
            single = len(each) == 1 and key not in MEANS
            sizes[key.replace("_mm", "_cm")] = each[0] if single else each
    count, seed = (int(_number(table, key, where, whole=True)) for key in ("count", "seed"))
    return random_setups(count, seed, SetupErrors(**sizes), fractions=fractions)


def _scenario(table: Mapping[str, Any], folder: Path, where: str) -> Scenario:
    _only(table, _SCENARIO, where)
    name = table.get("name")
    if not isinstance(name, str) or not name.strip():
        raise InvalidInput(f"{where} has no name", "tables need one", 'Write name = "..."')
    if table.get("fractions") == 0:
        raise InvalidInput(
            f"{where}: 'fractions' is 0", "a treatment has one at least", "Leave the key out for as many as planned"
        )
    setup: Setup | tuple[Setup, ...] = _setup(table, where)
    if "fraction" in table:
        if any(key in table for key in (*SHIFTS, *TURNS)):
            raise InvalidInput(f"{where} has a setup of all fractions and one of each", "only one of them can count")
        listed = table["fraction"]
        if not isinstance(listed, list):
            raise InvalidInput(f"{where}: 'fraction' is no list of tables", "there is one for each fraction")
        each = [_table(one, f"{where} fraction {n}") for n, one in enumerate(listed, 1)]
        for one in each:
            _only(one, (*SHIFTS, *TURNS), f"{where} fraction")
        setup = tuple(_setup(one, where) for one in each)
    densities = [
        DensityChange(structure, _number(of, structure, where), kind)  # type: ignore[arg-type]
        for key, kind in (("density_g_cm3", "g/cm3"), ("density_factor", "times"))
        for of in [_table(table.get(key, {}), f"{where} {key}")]
        for structure in of
    ]
    metersets = _table(table.get("meterset", {}), f"{where} meterset")
    for number in metersets:
        if not str(number).isdecimal():
            raise InvalidInput(f"{where}: '{number}' is no beam number", "metersets are those of beams")
    sample = table.get("sample", False)
    if not isinstance(sample, bool):
        raise InvalidInput(f"{where}: 'sample' is {sample!r}", "it is true or false")
    return Scenario(
        name,
        setup,
        MachineChange(
            CM_PER_MM * _number(table, "leaf_offset_mm", where, 0.0), _number(table, "spot_factor", where, 1.0)
        ),
        meterset_factor=_number(table, "meterset_factor", where, 1.0),
        meterset_factors={int(number): _number(metersets, number, where) for number in metersets},
        fractions=int(_number(table, "fractions", where, 0, whole=True)),
        densities=tuple(densities),
        curve=_path_or_name(_text(table, "curve", where), folder),
        hu_offset=_number(table, "hu_offset", where, 0.0),
        ct=_other_ct(table, folder, where),
        is_sample=sample,
    )


def _setup(table: Mapping[str, Any], where: str) -> Setup:
    x, y, z = (CM_PER_MM * _amount(key, _number(table, key, where, 0.0), where) for key in SHIFTS)
    pitch, roll, yaw = (_amount(key, _number(table, key, where, 0.0), where) for key in TURNS)
    return Setup(x, y, z, pitch, roll, yaw)


def largest(name: str, *, is_deviation: bool = False) -> tuple[float, str]:
    """Largest shift, turn or standard deviation that can be meant, and its unit, by the end of a key or an option."""
    if name.endswith("mm"):
        return MM_PER_CM * (MOST_ERROR_CM if is_deviation else MOST_CM), "mm"
    return (MOST_ERROR_DEG if is_deviation else MOST_DEG), "degrees"


def _amount(key: str, value: float, where: str) -> float:
    """A shift or a turn as it is, or a refusal in the unit of the file."""
    most, unit = largest(key)
    if abs(value) > most:
        raise InvalidInput(f"{where}: '{key}' is {value:g}", f"up to {most:g} {unit} either way can be meant")
    return value


def _deviation(key: str, value: float, where: str) -> float:
    """A standard deviation as it is, or a refusal in the unit of the file."""
    most, unit = largest(key, is_deviation=True)
    if not 0 <= value <= most:
        raise InvalidInput(f"{where}: '{key}' is {value:g}", f"a standard deviation is 0 to {most:g} {unit}")
    return value


def _other_ct(table: Mapping[str, Any], folder: Path, where: str) -> OtherCt | None:
    if "ct" not in table:
        lone = next((key for key in ("structures", "registration", "registration_mm") if key in table), None)
        if lone is not None:
            raise InvalidInput(f"{where} has '{lone}' without 'ct'", "it belongs to another CT")
        return None
    structures = _text(table, "structures", where)
    registration: Registration | str = AS_IT_IS
    if "registration" in table and "registration_mm" in table:
        raise InvalidInput(f"{where} has a registration as a file and as numbers", "only one of them can count")
    if "registration" in table:
        registration = str(folder / _text(table, "registration", where))
    if "registration_mm" in table:
        values = _numbers(table, "registration_mm", where)
        if len(values) != 16:
            raise InvalidInput(f"{where}: 'registration_mm' has {len(values)} numbers", "a matrix has 16, row by row")
        matrix = np.array(values).reshape(4, 4)
        matrix[:3, 3] *= CM_PER_MM
        registration = Registration(tuple(tuple(row) for row in matrix.tolist()))
    return OtherCt(
        str(folder / _text(table, "ct", where)), str(folder / structures) if structures else "", registration
    )


def _path_or_name(text: str, folder: Path) -> str:
    """A curve is a name, or a file beside the study."""
    return str(folder / text) if text.endswith(".toml") else text


# --- CSV --------------------------------------------------------------------------------------------------------------


def _from_csv(text: str, path: Path) -> tuple[Scenario, ...]:
    """A scenario a line; empty cells are as planned."""
    rows = csv.DictReader(io.StringIO(text))
    header = [(name or "").strip() for name in rows.fieldnames or []]
    _only(dict.fromkeys(header), _CSV, path.name)
    if len(set(header)) != len(header):
        raise InvalidInput(f"'{path.name}' has a column twice", f"it has {', '.join(header)}")
    found = []
    for line, row in enumerate(rows, 2):
        where = f"{path.name} line {line}"
        if None in row or None in row.values():
            raise InvalidInput(f"{where} has {'more' if None in row else 'fewer'} cells than the header", "")
        cells = {key.strip(): value.strip() for key, value in row.items() if value.strip()}
        if cells:
            found.append(_scenario({key: _cell(key, value, where) for key, value in cells.items()}, path.parent, where))
    if not found:
        raise InvalidInput(f"'{path.name}' has no scenarios", "there is a line for each")
    return tuple(found)


def _cell(key: str, text: str, where: str) -> Any:
    if key in ("name", "curve", "ct", "structures", "registration"):
        return text
    if key == "sample":
        words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        return words.get(text.lower(), text)
    try:
        return int(text) if key == "fractions" else float(text)
    except ValueError:
        raise InvalidInput(f"{where}: '{key}' is '{text}'", "it is a number") from None


# --- values -----------------------------------------------------------------------------------------------------------


def _only(table: Iterable[str], known: Sequence[str], where: str) -> None:
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            advice = f"Write '{near[0]}', if that was meant" if near else f"There are {', '.join(known)}"
            raise InvalidInput(f"{where} has an unknown key '{key}'", "it would have no effect", advice)


def _table(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidInput(f"{where} is no table")
    return value


def _number(
    table: Mapping[str, Any], key: str, where: str, otherwise: float = math.nan, *, whole: bool = False
) -> float:
    value = table.get(key, otherwise)
    kinds = int if whole else int | float
    if isinstance(value, bool) or not isinstance(value, kinds) or not math.isfinite(value):
        raise InvalidInput(f"{where}: '{key}' is {value!r}", f"it is a {'whole ' if whole else ''}number")
    return value


def _numbers(table: Mapping[str, Any], key: str, where: str) -> list[float]:
    """A list of numbers, or a single one; empty when it is not there."""
    value = table.get(key, [])
    each = value if isinstance(value, list) else [value]
    return [float(_number({key: one}, key, where)) for one in each]


def _text(table: Mapping[str, Any], key: str, where: str) -> str:
    value = table.get(key, "")
    if not isinstance(value, str):
        raise InvalidInput(f"{where}: '{key}' is {value!r}", "it is a text in quotes")
    return value
