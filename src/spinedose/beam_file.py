"""Write a beam model as the `<beam>.toml` that `machine.read_machine` reads; the format is that of beam_data/README.md.

Numbers keep what a fit can tell and no more: single numbers have six digits, tables as many decimals as they need, at
most seven. Weights of a spectrum or spot are rounded so that they still sum to 1.
"""

from __future__ import annotations

import datetime
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spinedose._files import aside
from spinedose.errors import BeamDataError, InvalidInput
from spinedose.machine import SCHEMA_VERSION, BeamModel

Array = NDArray[np.float64]

WIDTH = 110
"""Columns after which a list goes on in the next line."""

DIGITS = 6
"""Digits of a single number."""

DECIMALS = 7
"""Most decimals of a table."""


def beam_toml(model: BeamModel) -> str:
    """The text of `<beam>.toml`.

    Parameters
    ----------
    model : BeamModel
        The beam. Its provenance may hold texts, numbers, dates, lists and nested tables.

    Returns
    -------
    str
        What `read_machine` reads back: single numbers to six digits, tables to seven decimals.

    Raises
    ------
    BeamDataError
        If the provenance holds something that a TOML file cannot.
    """
    source, electrons, calibration = model.extra_focal, model.electrons, model.calibration
    lines = [
        f"# Beam {model.energy}. Format: beam_data/README.md; status and sources: [provenance].",
        f"schema_version = {SCHEMA_VERSION}",
        f"energy = {_text(model.energy)}",
        f"monitor_backscatter = {_number(model.monitor_backscatter)}",
        "",
        "[spectrum] # photon fluence on the axis, share of photons a bin",
        *_array("energy_MeV", model.spectrum.energy_MeV),
        *_array("weight", _shares(model.spectrum.weight)),
        "",
        "[radial_fluence] # primary, in air",
        *_array("radius_cm", model.radial_fluence.radius_cm),
        *_array("relative_energy_fluence", model.radial_fluence.value),
        "",
        "[softening] # attenuation coefficient in water, relative to the axis",
        *_array("radius_cm", model.softening.radius_cm),
        *_array("relative_attenuation", model.softening.value),
        "",
    ]
    spot_weights = _shares(np.array([component.weight for component in model.spot]))
    for n, component in enumerate(model.spot):
        note = "" if n else " # Gaussian components at the target; rotation against the gantry's x axis"
        lines += [
            f"[[spot]]{note}",
            f"weight = {_number(spot_weights[n], DECIMALS)}",
            f"sigma_x_cm = {_number(component.sigma_x_cm)}",
            f"sigma_y_cm = {_number(component.sigma_y_cm)}",
            f"rotation_deg = {_number(component.rotation_deg)}",
            "",
        ]
    lines += [
        "[extra_focal]",
        f"distance_cm = {_number(source.distance_cm)} # from the target",
        f"sigma_cm = {_number(source.sigma_cm)} # in its plane",
        f"weight = {_number(source.weight)} # relative to the primary on the axis, all of it visible",
    ]
    if math.isfinite(source.scatter_angle_deg):
        lines.append(f"scatter_angle_deg = {_number(source.scatter_angle_deg)} # standard deviation in each direction")
    lines += [
        "",
        "[transmission] # energy fluence behind closed jaws and leaves",
        f"jaw_x = {_number(model.jaw_x_transmission)}",
        f"jaw_y = {_number(model.jaw_y_transmission)}",
        f"mlc = {_number(model.mlc_transmission)}",
        "",
        "[leaf]",
        f"attenuation_per_cm = {_number(model.leaf_attenuation_per_cm)}",
        f"offset_cm = {_number(model.leaf_offset_cm)} # physical tip behind the nominal position, each tip",
        "",
        "[electrons]",
        f"weight_cm2_per_g = {_number(electrons.weight_cm2_per_g)}",
        f"attenuation_per_cm = {_number(electrons.attenuation_per_cm)}",
        f"sigma_cm = {_number(electrons.sigma_cm)}",
        "",
        "[calibration]",
        f"gy_per_mu = {_number(calibration.gy_per_mu)}",
        f"field_cm = {_number(calibration.field_cm)}",
        f"ssd_cm = {_number(calibration.ssd_cm)}",
        f"depth_cm = {_number(calibration.depth_cm)}",
        "",
        *_table("provenance", model.provenance),
    ]
    return "\n".join(lines).rstrip("\n") + "\n"


def write_beam(model: BeamModel, folder: str | Path) -> Path:
    """Write `<energy>.toml` into a machine's folder: aside first, then renamed, so that it is complete or not there.

    Parameters
    ----------
    model : BeamModel
        The beam.
    folder : str or Path
        A folder that is there; a file of this beam in it is overwritten.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    InvalidInput
        If the energy is no file name, or what has this name is a device or a pipe.
    """
    if not re.fullmatch(r"[\w.+-]+", model.energy) or model.energy in (".", "..", "machine"):
        raise InvalidInput(f"The energy '{model.energy}' is no file name", "the beam's file is named after it")
    path = Path(folder) / f"{model.energy}.toml"
    with aside(path) as part:
        part.write_text(beam_toml(model), encoding="utf-8", newline="\n")
    return path


def _number(value: float, digits: int = DIGITS) -> str:
    """A number with few digits that TOML takes for a float."""
    text = f"{float(value):.{digits}g}"
    return text if any(mark in text for mark in ".en") else f"{text}.0"


def _array(key: str, values: Array) -> list[str]:
    """A list of numbers, all with as many decimals as the longest needs."""
    decimals = next((n for n in range(1, DECIMALS) if np.all(np.abs(np.round(values, n) - values) < 1e-10)), DECIMALS)
    return _broken(key, [f"{value:.{decimals}f}" for value in values], share=8)


def _broken(key: str, items: Sequence[str], share: int) -> list[str]:
    """`key = [ ... ]`: in one line where it fits, else `share` items a line, or fewer when they are long."""
    whole = f"{key} = [{', '.join(items)}]"
    if len(whole) <= WIDTH:
        return [whole]
    lines, row = [f"{key} = ["], ""
    for n, item in enumerate(items):
        if row and (n % share == 0 or len(row) + len(item) > WIDTH - 4):
            lines.append(f"  {row.rstrip()}")
            row = ""
        row += f"{item}, "
    return [*lines, f"  {row.rstrip()}", "]"]


def _shares(weights: Array) -> Array:
    """Weights with few decimals that still sum to 1: the largest remainders are rounded up."""
    unit = 10.0**DECIMALS
    scaled = weights / weights.sum() * unit
    counts = np.floor(scaled + 1e-3)  # what was rounded before stays as it is
    missing = round(unit - counts.sum())
    order = np.argsort(-(scaled - counts), kind="stable")
    counts[order[: max(missing, 0)]] += 1
    return np.asarray(counts / unit)


def _table(name: str, content: Mapping[str, Any]) -> list[str]:
    """A table, its own entries first and its nested tables after them."""
    nested = {key: value for key, value in content.items() if isinstance(value, Mapping)}
    lines = [f"[{name}]"]
    for key, value in content.items():
        if key not in nested:
            lines += _entry(_key(key), value, f"[{name}] {key}")
    for key, value in nested.items():
        lines += ["", *_table(f"{name}.{_key(key)}", value)]
    return lines


def _entry(key: str, value: Any, where: str) -> list[str]:
    if isinstance(value, (list, tuple, np.ndarray)):
        return _broken(key, [_value(item, where) for item in value], share=1 if _has_texts(value) else 8)
    return [f"{key} = {_value(value, where)}"]


def _has_texts(values: Iterable[Any]) -> bool:
    return any(isinstance(value, (str, Mapping)) for value in values)


def _value(value: Any, where: str) -> str:
    """One value in a line."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, (list, tuple, np.ndarray)):
        return f"[{', '.join(_value(item, where) for item in value)}]"
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{_key(key)} = {_value(item, where)}' for key, item in value.items())} }}"
    raise BeamDataError(f"{where} holds a {type(value).__name__}", "a TOML file cannot hold that", "Make it a text")


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _text(key)


def _text(text: str) -> str:
    """A TOML string: the escapes are those of JSON, and DEL; what is no character (file names may hold such) is `?`."""
    whole = text.encode("utf-8", "replace").decode("utf-8")
    return json.dumps(whole, ensure_ascii=False).replace("\x7f", "\\u007f")
