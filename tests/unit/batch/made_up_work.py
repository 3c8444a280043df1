"""A study whose work costs nothing: what it finds is a number made of the scenario's; it notes what it computed."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spinedose.batch.patients import PatientFiles
from spinedose.batch.run import Asked
from spinedose.errors import InvalidInput
from spinedose.fingerprint import file_digest


@dataclass(frozen=True)
class MadeUpScenario:
    name: str
    amount: float
    does: str = ""


@dataclass(frozen=True)
class MadeUpWork:
    """Reads `plan.txt` of a patient; computes its number times the scenario's."""

    notes: Path
    factor: float = 1.0

    def look(self, name: str, folder: Path) -> PatientFiles:
        file = folder / "plan.txt"
        if not file.is_file():
            raise InvalidInput(f"There is no plan in '{folder.name}'")
        if file.read_text() == "dies when looked at":
            time.sleep(0.2)
            os.kill(os.getpid(), 9)
        return PatientFiles(name, file, (), None, file_digest(file), _EMPTY_SERIES, "", ("beam",))

    def facts(self, patient: PatientFiles, scenario: Any) -> Mapping[str, Any]:
        return {**patient.as_key(), "amount": scenario.amount, "does": scenario.does, "factor": self.factor}

    def prepare(self, patient: PatientFiles) -> Any:
        self._note(f"prepared {patient.name}")
        text = patient.plan.read_text()
        if text == "dies":
            os.kill(os.getpid(), 9)
        number = float(text)

        def compute(scenario: MadeUpScenario) -> Mapping[str, Any]:
            if scenario.does == "refuses":
                raise InvalidInput(f"{scenario.name} is wrong", "it was made so")
            if scenario.does == "breaks" and not (self.notes / "mended").exists():
                raise OSError("the disk is full")
            if scenario.does == "dies" and not (self.notes / "mended").exists():
                time.sleep(0.2)  # until what comes after it stands in line
                os.kill(os.getpid(), 9)
            if scenario.does == "dies once":
                marker = self.notes / f"died {patient.name}"
                if not marker.exists():
                    marker.touch()
                    os.kill(os.getpid(), 9)
            if scenario.does == "takes long":
                time.sleep(0.2)
            self._note(f"computed {patient.name} {scenario.name}")
            return {"product": number * scenario.amount * self.factor}

        return compute

    def _note(self, text: str) -> None:
        with (self.notes / "notes.txt").open("a") as file:
            file.write(text + "\n")


def noted(folder: Path, verb: str) -> list[str]:
    """What was prepared or computed, in any order."""
    file = folder / "notes.txt"
    lines = file.read_text().splitlines() if file.exists() else []
    return sorted(line.removeprefix(f"{verb} ") for line in lines if line.startswith(verb))


def made_up(folder: Path, *scenarios: MadeUpScenario, patients: int = 2, factor: float = 1.0) -> Asked:
    """Patients `a`, `b`, ... with the numbers 1, 2, ..."""
    folders = []
    for number, name in enumerate("abcdefgh"[:patients], start=1):
        (folder / name).mkdir(exist_ok=True)
        file = folder / name / "plan.txt"
        if not file.exists():
            file.write_text(str(number))
        folders.append((name, folder / name))
    return Asked(tuple(folders), MadeUpWork(folder, factor), lambda patient: scenarios, folder / "out")


def _series() -> str:
    from spinedose.fingerprint import series_digest

    return series_digest(())


_EMPTY_SERIES = _series()
