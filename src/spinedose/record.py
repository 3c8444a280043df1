"""What a commissioning leaves behind besides numbers: which data it saw, and whence every group of numbers comes.

The groups are those of a beam file's `[provenance]` (beam_data/README.md). A group that the data determined says so
with its values and their standard deviations; one that they did not keeps the text it had, marked as such.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from spinedose._version import __version__
from spinedose.agreement import agreement_of
from spinedose.commission import Commissioning, Fitted
from spinedose.errors import InvalidInput, UnreadableFile
from spinedose.machine import Machine
from spinedose.measurements import Finding, Measurements, read_measurements

GROUPS: Mapping[str, tuple[str, ...]] = {
    "spectrum": ("spectrum_",),
    "radial_fluence": ("radial_fluence_",),
    "softening": ("softening_",),
    "spot": ("spot_",),
    "extra_focal": ("extra_focal_", "scatter_angle_"),
    "jaw_transmission": ("jaw_x_transmission", "jaw_y_transmission"),
    "mlc_transmission": ("mlc_transmission",),
    "leaf_attenuation": ("leaf_attenuation",),
    "leaf_offset": ("leaf_offset",),
    "electrons": ("electron_",),
    "monitor_backscatter": ("monitor_backscatter",),
}
"""Groups of a beam file, and how the names of their parameters begin."""

SETUP_ENDS = ("jaw_x_offset_cm", "jaw_y_offset_cm", "depth_shift_cm")
"""How names of parameters end that belong to the set-up of the measurement."""

KEPT = "literature value, not determined by these data"
KEPT_FROM_START = "value of the start model, not determined by these data"
"""Marks of groups that stay as they were."""


@dataclass(frozen=True, slots=True, eq=False)
class Data:
    """Measurements of one beam, and the files they were read from.

    Parameters
    ----------
    measurements : Measurements
        Curves and output factors of the beam; of the findings those about it.
    files : mapping of str to str
        SHA-256 of every file, hexadecimal, by its name, with the folder where it lies in one.
    passed_over : mapping of str to str
        Files of a folder that were not used, with the reason.
    """

    measurements: Measurements
    files: Mapping[str, str]
    passed_over: Mapping[str, str] = field(default_factory=dict)

    @property
    def sources(self) -> tuple[str, ...]:
        """What the files say about where their curves come from."""
        texts = {scan.source for scan in self.measurements.scans} | {f.source for f in self.measurements.output_factors}
        return tuple(sorted(texts - {""}))


def read_data(paths: Iterable[str | Path], beam: str) -> Data:
    """Read what was measured for one beam.

    Parameters
    ----------
    paths : iterable of str or Path
        Files in any format of `measurements`, or folders of them, which are searched with the folders inside them; not
        hidden ones, and none that holds a `machine.toml`: what a fit wrote is no measurement.
    beam : str
        Label of the beam, such as `6X`. Curves that state no beam are taken for this one.

    Returns
    -------
    Data
        A curve that must be refused is left out, and its refusal stays in the findings.

    Raises
    ------
    UnreadableFile
        If a file that was named is none of measurements.
    InvalidInput
        If nothing is there, or nothing of this beam.
    """
    every, files, passed_over = Measurements(), dict[str, str](), dict[str, str]()
    for name, path, is_named in _files(paths):
        try:
            read = read_measurements(path, on_refusal="skip")
        except InvalidInput as error:
            if is_named:
                raise
            first = error.why.split("; ")[0]
            passed_over[name] = f"{error.problem} ({first})" if first else error.problem
            continue
        every += read
        files[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    own = Measurements(
        tuple(scan if scan.beam else replace(scan, beam=beam) for scan in every.scans if scan.beam in ("", beam)),
        tuple(
            item if item.beam else replace(item, beam=beam) for item in every.output_factors if item.beam in ("", beam)
        ),
        tuple(item for item in every.references if item.beam == beam),
        tuple(finding for finding in every.findings if _is_about(finding, beam, every.beams)),
    )
    if not (own.scans or own.output_factors):
        stated = ", ".join(name for name in every.beams if name)
        why = _why_nothing(passed_over, own.findings)
        if stated or not why:
            raise InvalidInput(
                f"There are no measurements of beam '{beam}'",
                f"the files hold {stated or 'none'}",
                "Name the beam as the files do" if stated else "",
            )
        raise InvalidInput("None of the measurements can be used", why, "Mend them")
    return Data(own, files, passed_over)


def provenance_of(
    machine: Machine,
    beam: str,
    found: Commissioning,
    data: Data,
    *,
    left_out: Sequence[str] = (),
    detector: str = "",
    calibration: str = "",
    not_used: Sequence[str] = (),
) -> dict[str, Any]:
    """The `[provenance]` of a fitted beam.

    Parameters
    ----------
    machine, beam : Machine, str
        Where the fit started.
    found : Commissioning
        What it found.
    data : Data
        What it saw.
    left_out : sequence of str
        What was kept out of the fit, in words.
    detector : str
        Part of the detector's name that curves had to have.
    calibration : str
        Where the calibration comes from, when it is not that of the start model; begins with `stated:` or `assumed:`.
    not_used : sequence of str
        What was read and not fitted, with the reasons.

    Returns
    -------
    dict
        Texts, numbers, lists and tables, fit for `beam_file.beam_toml`.
    """
    old = dict(machine.beam(beam).provenance)
    groups = {name: old.pop(name, "no source stated") for name in (*GROUPS, "calibration")}
    determined = [p for p in found.parameters if _is_fitted(p)]
    own: dict[str, Any] = {
        "status": f"fitted to {len(found.curves)} curves in water with spinedose {__version__}; numbers that they do "
        "not determine are marked so",
        "date": time.strftime("%Y-%m-%d"),
        "spinedose_version": __version__,
    }
    is_literature = str(old.get("status", "")).startswith("literature")
    for name, text in groups.items():
        mark = KEPT if is_literature and name != "calibration" else KEPT_FROM_START
        own[name] = _group_text(text, [p for p in found.parameters if _is_of(p, name)], mark)
    if calibration:
        own["calibration"] = calibration
    agreements = agreement_of(found.curves)
    kinds = sorted({item.curve.kind for item in agreements})
    own["fit"] = {
        "parameters_fitted": len(determined),
        "held": [f"{p.name} = {p.value:.6g}" for p in found.parameters if p.status == "held"],
        "not_determined": [p.name for p in found.parameters if p.status == "not determined" and not is_of_setup(p)],
        "at_their_bounds": [p.name for p in found.parameters if p.status == "at its bound"],
        "left_out": list(left_out),
        "detector": detector or "any",
        "warnings": list(warnings_of(found)),
    }
    own["residuals_rms_percent"] = {
        kind: _rounded(
            math.sqrt(
                float(np.mean(np.concatenate([a.difference_percent for a in agreements if a.curve.kind == kind]) ** 2))
            )
        )
        for kind in kinds
    }
    own["setup"] = {
        "meaning": "where field edges and depth zero of the measurement were; not part of the beam",
        **{p.name: _rounded(p.value) for p in found.parameters if is_of_setup(p) and p.status != "not determined"},
    }
    own["data"] = {
        "files": list(data.files),
        "sha256": list(data.files.values()),
        "sources": list(data.sources),
        "not_used": list(not_used),
        "refused": [str(finding) for finding in data.measurements.findings if finding.severity == "refuse"],
    }
    own["start"] = {"machine": machine.name, "data_hash": machine.data_hash, **old}
    return own


def warnings_of(found: Commissioning) -> tuple[str, ...]:
    """Warnings of a fit without those about numbers that the data do not determine: there is a list of these."""
    names = {p.name for p in found.parameters if p.status == "not determined"}
    return tuple(text for text in found.warnings if text.split(" ", 1)[0] not in names)


def is_of_setup(parameter: Fitted) -> bool:
    """Whether a parameter belongs to the set-up of the measurement and not to the beam."""
    return parameter.name.endswith(SETUP_ENDS)


def _files(paths: Iterable[str | Path]) -> list[tuple[str, Path, bool]]:
    """Files, each once: its name within the folder that was named, its path, and whether it was named itself."""
    found: dict[Path, tuple[str, Path, bool]] = {}
    for path in map(Path, paths):
        if not path.exists():
            raise UnreadableFile(f"'{path}' is not there", "nothing can be read from it", "Check the path")
        for item in _inside(path) if path.is_dir() else [path]:
            name = item.relative_to(path).as_posix() if path.is_dir() else item.name
            found.setdefault(item.resolve(), (name, item, not path.is_dir()))
    if not found:
        raise InvalidInput("There are no files of measurements", "the folder is empty", "Name files or another folder")
    return list(found.values())


def _why_nothing(passed_over: Mapping[str, str], findings: Iterable[Finding]) -> str:
    """Why files and curves are not used: the first two of each, and how many more."""
    refused = [f"{item.curve}: {item.problem}" for item in findings if item.severity == "refuse"]
    parts = []
    for reasons in ([f"'{name}': {why}" for name, why in passed_over.items()], refused):
        more = f", and {len(reasons) - 2} more" if len(reasons) > 2 else ""
        parts += ["; ".join(reasons[:2]) + more] if reasons else []
    return "; ".join(parts)


def _inside(folder: Path) -> list[Path]:
    """Files in a folder and the folders inside it; nothing hidden, and not what a fit wrote."""
    found: list[Path] = []
    for item in sorted(folder.iterdir()):
        if item.name.startswith("."):
            continue
        if item.is_file():
            found.append(item)
        elif item.is_dir() and not item.is_symlink() and not (item / "machine.toml").exists():
            found += _inside(item)
    return found


def _is_about(finding: Finding, beam: str, beams: Sequence[str]) -> bool:
    """Whether a finding may be about a beam: labels of curves begin with their beam where it is known."""
    first = finding.curve.split(" ", 1)[0]
    return first == beam or first not in beams


def _is_of(parameter: Fitted, group: str) -> bool:
    return not is_of_setup(parameter) and parameter.name.startswith(GROUPS.get(group, ("\0",)))


def _is_fitted(parameter: Fitted) -> bool:
    return math.isfinite(parameter.sigma) and not is_of_setup(parameter)


def _group_text(old: Any, parameters: Sequence[Fitted], mark: str) -> str:
    """What a group's provenance says after the fit; the mark is for one that was not fitted."""
    text = str(old)
    for earlier in (KEPT, KEPT_FROM_START):
        if text.startswith(f"{earlier}: "):
            text, mark = text.removeprefix(f"{earlier}: "), earlier
    told = [_told(p) for p in parameters if p.status != "not determined"]
    if any(math.isfinite(p.sigma) for p in parameters):
        kept = [p.name for p in parameters if p.status == "not determined"]
        end = f" Not determined: {', '.join(kept)}." if kept else ""
        return f"fitted: {'; '.join(told)}.{end} Start: {text}"
    return f"held: {'; '.join(told).replace(' (held)', '')}. Start: {text}" if told else f"{mark}: {text}"


def _told(parameter: Fitted) -> str:
    value = f"{parameter.name} = {parameter.value:.4g}"
    if parameter.status == "held":
        return f"{value} (held)"
    at = " (at its bound)" if parameter.status == "at its bound" else ""
    return f"{value} +- {parameter.sigma:.2g}{at}"


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")
