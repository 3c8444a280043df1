"""Reads STUDY.toml: which patients, which scenarios, what is measured, and where results go (docs/formats/batch.md)."""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from spinedose._files import read_text
from spinedose.assignments import Assignment
from spinedose.batch.compute import DoseWork
from spinedose.batch.patients import PatientFiles, find_folders
from spinedose.batch.run import SCENARIOS_A_TASK, Asked
from spinedose.errors import InvalidInput
from spinedose.scenarios import NOMINAL, Scenario, read_scenarios, scenarios_of
from spinedose.settings import Settings
from spinedose.units import CM_PER_MM

SCHEMA_VERSION = 1
"""Version of the files that this module reads."""

SEE = "See docs/formats/batch.md"

SCENARIO_TABLES = ("scenario", "grid", "factorial", "random")
"""Tables that `spinedose.scenarios` reads; docs/formats/study.md."""


@dataclass(frozen=True, slots=True)
class StudyFile:
    """What a study file says.

    Parameters
    ----------
    path : Path
        The file.
    name : str
        What the study is called.
    asked : Asked
        Patients, work, scenarios and output.
    backend : str
        What workers of this computer compute on; see `visible_devices`.
    scenarios_a_task : int
        Most scenarios that a worker is given at once.
    with_parquet : bool
        Whether tables are written as Parquet, too.
    """

    path: Path
    name: str
    asked: Asked
    backend: str = "auto"
    scenarios_a_task: int = SCENARIOS_A_TASK
    with_parquet: bool = False


def read_study_file(path: str | Path) -> StudyFile:
    """Read and prove a study file, and find the patients' folders.

    Parameters
    ----------
    path : path
        A TOML file. Relative paths in it start from its folder.

    Returns
    -------
    StudyFile

    Raises
    ------
    InvalidInput
        If it cannot be read, has a key that nobody knows, or says something that cannot be.
    """
    path = Path(path)
    if not path.exists():
        raise InvalidInput(f"There is no study file '{path}'", "", "Check the path")
    text = read_text(path, "The study file")
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(f"The study file '{path.name}' cannot be read", str(error), "Correct the file") from None
    base = path.absolute().parent
    table = _Table(content, path.name)
    version = table.take("schema_version", int)
    if version != SCHEMA_VERSION:
        raise InvalidInput(f"'{path.name}' is of version {version}", f"this spinedose reads version {SCHEMA_VERSION}")
    name = table.take("name", str, path.stem)
    output = base / table.take("output", str, f"{path.stem}_results")
    with_parquet = table.take("parquet", bool, False)
    patients = table.table("patients")
    folders = find_folders(base, patients.texts("folders", needed=True), patients.texts("exclude"))
    plan = patients.take("plan", str, "")
    reading = {
        "bolus": patients.one_of("bolus", ("refuse", "ignore")),
        "missing_slices": patients.one_of("missing_slices", ("refuse", "interpolate")),
    }
    patients.finish()
    if any(folder.is_relative_to(output.resolve()) for _, folder in folders):
        raise InvalidInput(f"'{path.name}': a patient lies in the output folder", "results are no patients", SEE)
    settings = table.table("settings", needed=False)
    scenarios_a_task = settings.take("scenarios_a_task", int, SCENARIOS_A_TASK)
    if scenarios_a_task < 1:
        raise InvalidInput(f"{settings.where}: 'scenarios_a_task' is {scenarios_a_task}", "there is at least one", SEE)
    measured = table.table("measured", needed=False)
    work = _work(settings, measured, {"plan": plan, **reading}, base)
    settings.finish()
    measured.finish()
    rest = set(table.content) - {*SCENARIO_TABLES, "scenarios"}
    for key in sorted(rest):
        table.refuse(key, (*SCENARIO_TABLES, "scenarios"))
    scenarios = _scenarios(table, base, dict(folders), path.name)
    return StudyFile(path, name, Asked(folders, work, scenarios, output), work.backend, scenarios_a_task, with_parquet)


def _work(settings: _Table, measured: _Table, reading: Mapping[str, Any], base: Path) -> DoseWork:
    own: dict[str, Any] = {}
    for item in fields(Settings):
        if item.name not in ("curve", "pixel_cm") and settings.has(item.name):
            own[item.name] = settings.take(item.name, type(item.default) if item.default is not None else int)
    if settings.has("pixel_mm"):
        own["pixel_cm"] = CM_PER_MM * settings.take("pixel_mm", float)
    own["curve"] = settings.name_or_file("curve", base) or "generic"
    prescription = measured.take("prescription_gy", float, math.nan)
    metrics = measured.texts("metrics")
    given: dict[str, Any] = {"metrics": metrics} if metrics else {}
    return DoseWork(
        machine=settings.name_or_file("machine", base),
        couch=settings.name_or_file("couch", base),
        protocol=measured.name_or_file("protocol", base),
        settings=Settings(**own),
        spacing_cm=round(CM_PER_MM * settings.take("spacing_mm", float, 2.5), 9),
        fine=settings.texts("fine"),
        materials=tuple(_material(one) for one in settings.tables("material")),
        backend=_backend(settings),
        regions=measured.texts("structures"),
        prescription_gy=None if math.isnan(prescription) else prescription,
        chosen=tuple(sorted(measured.pairs("chosen"))),
        **reading,
        **given,
    )


def _backend(table: _Table) -> str:
    from spinedose.backends.select import NAMES

    name: str = table.take("backend", str, "auto")
    if NAMES.fullmatch(name) is None:
        raise InvalidInput(f"{table.where}: there is no backend '{name}'", "", "Use auto, cpu, cuda or cuda:1")
    return name


def _material(table: _Table) -> Assignment:
    made = Assignment(
        table.take("name", str),
        table.take("structure", str, ""),
        table.take("above_hu", float) if table.has("above_hu") else None,
        CM_PER_MM * table.take("grow_mm", float, 0.0),
    )
    table.finish()
    return made


def _scenarios(
    table: _Table, base: Path, folders: Mapping[str, Path], file: str
) -> Callable[[PatientFiles], Sequence[Scenario]]:
    """Scenarios of each patient: those of the file, the planned one first.

    A CT that a scenario names is looked for in the patient's own folder; curves and lists lie beside the file.
    """
    if table.has("scenarios"):
        listed = base / table.take("scenarios", str)
        clash = [key for key in SCENARIO_TABLES if key in table.content]
        if clash:
            raise InvalidInput(f"'{file}' has scenarios in another file and [{clash[0]}]", "one would be lost", SEE)
        read = partial(read_scenarios, listed)
        _named_apart([NOMINAL, *read(fractions=1)], file)
        return lambda patient: (NOMINAL, *read(fractions=patient.fractions))
    content = {key: table.content.pop(key) for key in SCENARIO_TABLES if key in table.content}
    for one in content.get("scenario", []):
        if isinstance(one, dict) and str(one.get("curve", "")).endswith(".toml"):
            one["curve"] = str(base / one["curve"])

    def of(folder: Path, fractions: int) -> tuple[Scenario, ...]:
        return (NOMINAL, *scenarios_of(content, folder, where=file, fractions=fractions)) if content else (NOMINAL,)

    _named_apart(of(base, 1), file)
    return lambda patient: of(folders[patient.name], patient.fractions)


def _named_apart(scenarios: Sequence[Scenario], file: str) -> None:
    names = [one.name for one in scenarios]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InvalidInput(f"'{file}' has two scenarios called '{twice}'", "tables could not tell them apart")


class _Table:
    """A table of a study file that knows its place, hands every value out once, and tells which key was misspelt."""

    def __init__(self, content: Mapping[str, Any], where: str) -> None:
        self.content, self.where = dict(content), where
        self.asked: set[str] = set()

    def has(self, key: str) -> bool:
        """Whether there is a value; the key is known from now on."""
        self.asked.add(key)
        return key in self.content

    def take(self, key: str, kind: type, default: Any = None) -> Any:
        """A value of a kind; without a default it must be there."""
        if not self.has(key):
            if default is not None:
                return default
            raise InvalidInput(f"{self.where} has no '{key}'", self._misspelt(key) or "it is required", SEE)
        value = self.content.pop(key)
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
            raise InvalidInput(f"{self.where}: '{key}' is {value!r}", f"it is a {WORDS[kind]}", SEE)
        if isinstance(value, float) and not math.isfinite(value):
            raise InvalidInput(f"{self.where}: '{key}' is {value}", "it is a finite number", SEE)
        return value

    def one_of(self, key: str, known: Sequence[str]) -> str:
        """One of these words; the first where nothing is said."""
        value: str = self.take(key, str, known[0])
        if value not in known:
            raise InvalidInput(f"{self.where}: '{key}' is '{value}'", f"it is one of {', '.join(known)}", SEE)
        return value

    def texts(self, key: str, *, needed: bool = False) -> tuple[str, ...]:
        """A list of texts, or a single one."""
        if not self.has(key) and not needed:
            return ()
        if isinstance(self.content.get(key), str):
            return (self.take(key, str),)
        found = self.take(key, list)
        if not all(isinstance(one, str) and one for one in found) or (needed and not found):
            raise InvalidInput(f"{self.where}: '{key}' is {found!r}", "it is a list of texts", SEE)
        return tuple(dict.fromkeys(found))

    def pairs(self, key: str) -> tuple[tuple[str, str], ...]:
        """A table of texts."""
        found = self.take(key, dict, {})
        if not all(isinstance(value, str) for value in found.values()):
            raise InvalidInput(f"{self.where}: '{key}' is {found!r}", "its values are texts", SEE)
        return tuple(found.items())

    def name_or_file(self, key: str, base: Path) -> str:
        """A name as it is, and the whole path where there is such a file or folder."""
        value: str = self.take(key, str, "")
        return str(base / value) if value and (base / value).exists() else value

    def table(self, key: str, *, needed: bool = True) -> _Table:
        """A table in it."""
        return _Table(self.take(key, dict, None if needed else {}), f"{self.where} [{key}]")

    def tables(self, key: str) -> list[_Table]:
        """A list of tables in it."""
        found = self.take(key, list, [])
        if not all(isinstance(one, dict) for one in found):
            raise InvalidInput(f"{self.where}: '{key}' is not a list of tables", "", SEE)
        return [_Table(one, f"{self.where} [[{key}]] {number}") for number, one in enumerate(found, start=1)]

    def finish(self) -> None:
        """Refuse what nobody asked for."""
        for key in self.content:
            self.refuse(key)

    def refuse(self, key: str, others: Sequence[str] = ()) -> NoReturn:
        """Say that a key is not known, and which one may have been meant."""
        near = difflib.get_close_matches(key, sorted(self.asked | set(others)), n=1, cutoff=0.6)
        advice = f"Write '{near[0]}', if that was meant" if near else SEE
        raise InvalidInput(f"{self.where} has an unknown key '{key}'", "it would have no effect", advice)

    def _misspelt(self, key: str) -> str:
        near = difflib.get_close_matches(key, sorted(set(self.content) - self.asked), n=1, cutoff=0.6)
        return f"it has '{near[0]}'" if near else ""


WORDS = {int: "whole number", float: "number", str: "text", bool: "true or false", list: "list", dict: "table"}
"""Kinds of values, in words."""
