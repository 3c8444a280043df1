"""A check of what was delivered: machine logs take the place of the plan's beams, and the differences are told."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from spinedose._arguments import PATH, listed
from spinedose.check.inputs import hashed
from spinedose.check.outcome import Delivered, Finding, InputFile
from spinedose.dicom.dose import PlannedDose
from spinedose.errors import InvalidInput
from spinedose.logs import BeamDelivery, Delivery, MachineLog, deliver, find_logs, read_log
from spinedose.plan import Plan
from spinedose.result import Dose
from spinedose.units import MM_PER_CM

PathLike: TypeAlias = str | os.PathLike[str]
LogLike: TypeAlias = PathLike | MachineLog
LogsLike: TypeAlias = LogLike | Sequence[LogLike] | Mapping[int, LogLike | Sequence[LogLike]]

Against: TypeAlias = Literal["dose", "plan"]

METERSET_OFF = 0.01
"""A beam whose meterset differs by more than this share asks for attention (house default)."""

LEAVES_OFF_CM = 0.2
"""So do leaves that differ by more than this, root mean square [cm] (house default)."""

GANTRY_OFF_DEG = 1.0
"""And a gantry [degrees], root mean square (house default)."""


def take_logs(plan: Plan, logs: LogsLike) -> tuple[Delivery, tuple[InputFile, ...]]:
    """What machine logs recorded of a plan, and the files that were read.

    Parameters
    ----------
    plan : Plan
        The plan, with the beams that there are logs for.
    logs
        A folder, files, or logs that were read; a mapping from beam numbers to them where the logs do not tell.
    """
    files: list[InputFile] = []

    def read(given: LogLike | Sequence[LogLike]) -> list[MachineLog]:
        found: list[MachineLog] = []
        kinds = (*PATH, MachineLog)
        each = [given] if isinstance(given, kinds) else given
        for one in listed("Machine logs", each, kinds, "paths or logs", "Name their folder or files"):
            if isinstance(one, MachineLog):
                found.append(one)
                continue
            if not str(one):
                raise InvalidInput("Machine logs are given as ''", "a path is asked for", "Name their folder or files")
            paths = find_logs(one)
            if not paths:
                raise InvalidInput(
                    f"There are no machine logs in '{Path(one).name}'",
                    "neither trajectory logs nor dynalogs were found",
                    "Name their folder or files",
                    argument="logs",
                )
            for path in paths:
                found.append(read_log(path))
                files.append(hashed("LOG", path))
        return found

    known: Any = {k: read(v) for k, v in logs.items()} if isinstance(logs, Mapping) else read(logs)
    return deliver(plan, known), tuple(files)


def as_planned(dose: Dose, plan: Plan) -> PlannedDose:
    """Our own dose of the plan in the place of the planned dose."""
    return PlannedDose(
        dose.volume,
        summation="BEAM",
        beam_numbers=tuple(beam.number for beam in plan.beams),
        plan_uid=plan.uid,
        structure_set_uid=plan.structure_set_uid,
        frame_of_reference_uid=plan.frame_of_reference_uid,
        description="the plan, recalculated",
        system=f"spinedose {dose.metadata.version}",
        identity=plan.identity,
    )


def recorded_of(delivery: Delivery, plan: Plan, against: Against, has_planned: bool) -> Delivered:
    """What the check keeps of it."""
    compared: Literal["planned dose", "the plan, recalculated", "nothing"] = "nothing"
    if against == "plan":
        compared = "the plan, recalculated"
    elif has_planned:
        compared = "planned dose"
    return Delivered(compared, len(delivery.per_fraction), plan.fractions, delivery.rows, delivery.per_fraction)


def of_delivery(delivered: Delivered) -> Iterator[Finding]:
    """One finding a beam: how it was delivered, over all recorded fractions."""
    against = {
        "planned dose": "The dose of what was delivered was held against the planned dose; differences between the two"
        " dose engines are in it",
        "the plan, recalculated": "The dose of what was delivered was held against that of the plan, both computed here"
        " in the same way",
        "nothing": "The dose is that of what was delivered",
    }[delivered.compared_with]
    yield Finding(
        "delivered",
        "information",
        f"{against}: {delivered.recorded_fractions} recorded of {delivered.planned_fractions} planned fraction(s).",
    )
    for number in dict.fromkeys(row.number for row in delivered.beams):
        rows = [row for row in delivered.beams if row.number == number]
        is_off = any(
            abs(row.meterset_ratio - 1) > METERSET_OFF
            or row.leaf_rms_cm > LEAVES_OFF_CM
            or row.gantry_rms_deg > GANTRY_OFF_DEG
            for row in rows
        )
        yield Finding("delivered", "attention" if is_off else "information", _in_words(rows), beam=number)


def _in_words(rows: Sequence[BeamDelivery]) -> str:
    def rms(name: str) -> float:
        return float(np.sqrt(np.mean([getattr(row, name) ** 2 for row in rows])))

    def worst(name: str) -> float:
        return float(max(getattr(row, name) for row in rows))

    first = rows[0]
    parts = []
    if np.isfinite(first.leaf_rms_cm):
        mean = float(np.mean([row.leaf_mean_cm for row in rows]))
        parts.append(
            f"leaves {MM_PER_CM * mean:.2f} mm (mean), {MM_PER_CM * rms('leaf_rms_cm'):.2f} mm (root mean square), "
            f"{MM_PER_CM * worst('leaf_worst_cm'):.1f} mm (worst)"
        )
    parts.append(f"gantry {rms('gantry_rms_deg'):.2f} degrees (root mean square)")
    ratios = [row.meterset_ratio for row in rows]
    if not first.meterset_is_recorded:
        parts.append("meterset as planned (the log does not count it)")
    elif len(rows) == 1:
        parts.append(f"meterset {ratios[0]:.4f} of the plan's")
    else:
        parts.append(f"meterset {min(ratios):.4f} to {max(ratios):.4f} of the plan's")
    fractions = f", {len(rows)} fractions" if len(rows) > 1 else ""
    return f"Beam {first.number} '{first.name}' as delivered{fractions}: {'; '.join(parts)}."
