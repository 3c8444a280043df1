"""Reads Varian machine logs through pylinac and turns their scales into IEC 61217, cm and degrees.

pylinac takes the bytes apart; what its numbers mean is decided here, and docs/formats/logs.md has the table of
conversions with the files that they were verified on.
"""

from __future__ import annotations

import logging
import os
import re
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from spinedose.errors import InvalidInput, SpinedoseError, UnreadableFile
from spinedose.logs.machine_log import MachineLog, Samples

log = logging.getLogger(__name__)

PathLike: TypeAlias = str | os.PathLike[str]
Array = NDArray[np.float64]

DYNALOG_INTERVAL_S = 0.05
"""Dynalogs are sampled every 50 ms (Varian, Dynalog File Viewer Reference Guide, as pylinac's documentation has it)."""

DOSE_INDEX = 25000
"""What a dynalog's dose index runs to (same source)."""

LEAVES_AT_ISOCENTRE = 1.96078
"""Isocentre plane over leaf plane, by which pylinac multiplies dynalog positions; it cites Varian's MLC maintenance
guide. The shared test data say 1.96: 0.04 % less, 0.08 mm at 20 cm."""

AXES = {
    14: (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 40, 41, 42, 50),
    16: (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 40, 41, 42, 50),
}
"""Axis numbers of versions 2 and 3 in the order that pylinac takes them in, without looking: collimator, gantry, Y1,
Y2, X1, X2, four to six of the couch, MU, beam hold, control point, MLC (as found in the real files)."""

MACHINE_SCALES = (1, 3)
"""Axis scales in which a rotation is 180 degrees less the IEC angle; 3 differs in the couch's translations only."""

IEC_SCALE = 2
"""Varian's "modified IEC 61217": gantry and collimator as in IEC 61217 (no file at hand)."""

_TIME = re.compile(r"(?<!\d)(20\d{12}|20\d{6}[_-]?\d{6})(?!\d)")
_UID = re.compile(r"[0-9]+(\.[0-9]+){3,}")


def read_log(path: PathLike) -> MachineLog:
    """Read a machine log.

    Parameters
    ----------
    path : path
        A trajectory log (`.bin`, TrueBeam), or either file of a dynalog (`A*.dlg`, `B*.dlg`, Clinac), whose other file
        must lie beside it.

    Returns
    -------
    MachineLog
        With beam, plan and patient as far as the log names them.

    Raises
    ------
    UnreadableFile
        If it is no log, or a damaged one.
    InvalidInput
        If it is a log whose content is not understood: several beams in one, unknown axes, dose told by the gantry.
    """
    file = Path(path)
    kind = _kind_of(file)
    if not kind:
        raise UnreadableFile(
            f"'{file.name}' is no machine log", "trajectory logs begin with VOSTL, dynalogs are A*.dlg and B*.dlg"
        )
    pylinac = _pylinac()
    try:
        found = _trajectory(pylinac, file) if kind == "trajectory" else _dynalog(pylinac, file)
    except SpinedoseError:
        raise
    except OSError as error:
        raise UnreadableFile(f"'{file.name}' cannot be read", error.strerror or str(error), "Check the file") from error
    except (ValueError, IndexError, KeyError, AttributeError, TypeError, struct.error) as error:
        log.debug("pylinac says: %s", error)
        raise UnreadableFile(
            f"'{file.name}' cannot be read as a machine log",
            "it is cut off or damaged: less is there than its beginning announces, or something else",
            "Copy it from the machine again",
        ) from error
    log.info("read a %s log of %d samples", found.kind, len(found.meterset))
    return found


def find_logs(folder: PathLike) -> tuple[Path, ...]:
    """Machine logs in a folder and those within it, sorted by time and name; of a dynalog the A file.

    Files of other kinds are passed over.
    """
    place = Path(folder)
    if place.is_file():
        return (place,)
    if not place.is_dir():
        raise InvalidInput(f"There is no folder '{place.name}'", "machine logs were to be looked for in it")
    found = [p for p in place.rglob("*") if p.is_file() and not p.name.startswith(".") and _kind_of(p)]
    kept = [p for p in found if not (p.name[:1] in "Bb" and p.suffix.lower() == ".dlg" and _other(p) in found)]
    return tuple(sorted(kept, key=lambda p: (_time_of(p.name), p.name)))


def read_logs(source: PathLike | Iterable[PathLike]) -> tuple[MachineLog, ...]:
    """Read all logs of a folder, or those named.

    Raises
    ------
    InvalidInput
        If there is none.
    """
    paths = find_logs(source) if isinstance(source, str | os.PathLike) else tuple(Path(p) for p in source)
    if not paths:
        raise InvalidInput("There are no machine logs", "neither trajectory logs nor dynalogs were found", "Name them")
    return tuple(read_log(path) for path in paths)


def _pylinac() -> Any:
    """pylinac's log reader, which takes a second or two to load."""
    try:
        from pylinac import log_analyzer
    except ImportError as error:
        raise InvalidInput(
            "Machine logs cannot be read",
            "pylinac, which reads them, is not installed",
            "pip install 'spinedose[logs]'",
        ) from error
    return log_analyzer


def _kind_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            start = file.read(5)
    except OSError as error:
        raise UnreadableFile(f"'{path.name}' cannot be opened", str(error.strerror or error)) from error
    if start == b"VOSTL":
        return "trajectory"
    named = path.suffix.lower() == ".dlg" and path.name[:1] in "ABab"
    return "dynalog" if named and re.match(rb"[A-Z]\r?\n", start) else ""


def _other(path: Path) -> Path:
    """The other file of a dynalog."""
    turned = {"A": "B", "B": "A", "a": "b", "b": "a"}
    return path.with_name(turned[path.name[0]] + path.name[1:])


def _time_of(name: str) -> str:
    found = _TIME.search(name)
    return re.sub(r"\D", "", found.group()) if found else ""


def _from_180(degrees: Array) -> Array:
    """IEC angle of one in Varian's own scale, continuous."""
    return _continuous(180.0 - degrees)


def _continuous(degrees: Array) -> Array:
    unwrapped = np.unwrap(degrees, period=360.0)
    return np.asarray(unwrapped - 360.0 * np.floor(unwrapped[0] / 360.0))


def _banks(a: Array, b: Array) -> Array:
    """Leaves (n, 2, p) from those that the log calls A, the X2 bank, and B, which counts against X1."""
    return np.stack([-b, a], axis=1)


def _leaves(mlc: Any, what: str) -> Array:
    half = mlc.num_leaves // 2
    a, b = ([getattr(mlc.leaf_axes[k + 1 + bank * half], what) for k in range(half)] for bank in (0, 1))
    return _banks(np.asarray(a, dtype=float).T, np.asarray(b, dtype=float).T)


# ----------------------------------------------------------------------------------------------------- trajectory logs


def _trajectory(pylinac: Any, path: Path) -> MachineLog:
    raw = pylinac.TrajectoryLog(str(path), exclude_beam_off=False)
    header, axes = raw.header, raw.axis_data
    name = f"Log '{path.name}'"
    enumerated = tuple(int(k) for k in np.atleast_1d(header.axis_enum))
    if enumerated != AXES.get(len(enumerated)):
        raise InvalidInput(
            f"{name} records axes {', '.join(map(str, enumerated))}",
            f"pylinac reads version {header.version} in another order, so that positions would be exchanged",
        )
    if header.is_truncated:
        raise InvalidInput(f"{name} was cut off by the machine", "the end of the delivery is missing")
    if int(header.num_subbeams) > 1:
        raise InvalidInput(
            f"{name} holds {int(header.num_subbeams)} beams",
            "how the meterset runs on from beam to beam could be proven on no file",
            "Use logs of single beams",
        )
    scale = int(header.axis_scale)
    if scale not in (*MACHINE_SCALES, IEC_SCALE):
        raise InvalidInput(f"{name} has the axis scale {scale}", "machine scale (1, 3) and IEC 61217 (2) are known")
    warnings = []
    if scale == IEC_SCALE:
        warnings.append(
            "A log is in Varian's modified IEC 61217 scale, which no file at hand could prove; its positions were held "
            "against those of the plan."
        )
    if header.version not in (2.1, 3.0, 4.0):
        warnings.append(f"A trajectory log has version {header.version:g}; pylinac knows 2.1, 3.0 and 4.0.")
    mu = np.asarray(axes.mu.actual, dtype=float)
    if np.any(np.diff(mu) < -_MU_NOISE):
        raise InvalidInput(f"{name} has a meterset that falls", "what was delivered when would be a guess")
    about = getattr(header, "metadata", None)
    beams = [str(one.beam_name).strip() for one in raw.subbeams.subbeams]
    return MachineLog(
        name=path.name,
        kind="trajectory",
        interval_s=header.sampling_interval / 1000.0,
        meterset=np.maximum.accumulate(np.maximum(mu, 0.0)),
        counts_mu=True,
        recorded=_samples(axes, "actual", scale),
        expected=_samples(axes, "expected", scale),
        expected_leaf_cm=_leaves(axes.mlc, "expected"),
        expected_mu=float(np.max(axes.mu.expected)),
        beam_name=str(about.beam_name).strip() if about is not None else (beams[0] if beams else ""),
        plan_uid=str(about.sop_instance_uid).strip() if about is not None else "",
        patient_id=str(about.patient_id).strip() if about is not None else "",
        time=_time_of(path.name),
        warnings=tuple(warnings),
    )


_MU_NOISE = 1e-3
"""A meterset may be recorded this much lower than before [MU]; it is held (the real files never fall)."""


def _samples(axes: Any, what: str, scale: int) -> Samples:
    def of(axis: Any) -> Array:
        return np.asarray(getattr(axis, what), dtype=float)

    gantry, collimator, couch = of(axes.gantry), of(axes.collimator), of(axes.couch.rotn)
    jaws = axes.jaws
    if scale in MACHINE_SCALES:
        gantry, collimator, turn = _from_180(gantry), _from_180(collimator), _continuous(180.0 - couch)
    else:
        gantry, collimator, turn = _continuous(gantry), _continuous(collimator), _continuous(couch)
    return Samples(
        gantry_deg=gantry,
        collimator_deg=collimator,
        couch_turn_deg=turn,
        jaw_x_cm=np.stack([-of(jaws.x1), of(jaws.x2)], axis=1),
        jaw_y_cm=np.stack([-of(jaws.y1), of(jaws.y2)], axis=1),
        leaf_cm=_leaves(axes.mlc, what),
    )


# ------------------------------------------------------------------------------------------------------------- dynalogs


def _dynalog(pylinac: Any, path: Path) -> MachineLog:
    first = path if path.name[0] in "Aa" else _other(path)
    if not _other(path).is_file():
        raise InvalidInput(
            f"Dynalog '{path.name}' stands alone", f"the other bank is in '{_other(path).name}'", "Put it beside it"
        )
    name = f"Dynalog '{first.name}'"
    last = _last_index(first)
    if last != DOSE_INDEX:
        # pylinac takes the first column for gantry angles then and makes a meterset of gantry travel, in silence.
        raise InvalidInput(
            f"{name} ends at a dose index of {last:g} instead of {DOSE_INDEX}",
            "the beam was interrupted, or this machine writes gantry angles there and no dose",
        )
    raw = pylinac.Dynalog(str(first), exclude_beam_off=False)
    axes, header = raw.axis_data, raw.header
    jaws = axes.jaws
    share = np.asarray(axes.mu.actual, dtype=float) / DOSE_INDEX
    if np.any(np.diff(share) < 0):
        raise InvalidInput(f"{name} has a dose index that falls", "what was delivered when would be a guess")
    recorded = Samples(
        # Clinacs write gantry and collimator in Varian's own scale, whatever the header's scale flag says: the real
        # file has the flag 1, which stands for IEC, and its angles are 180 less those of its plan.
        gantry_deg=_from_180(np.asarray(axes.gantry.actual, dtype=float)),
        collimator_deg=_from_180(np.asarray(axes.collimator.actual, dtype=float)),
        couch_turn_deg=None,
        jaw_x_cm=np.stack([-jaws.x1.actual, jaws.x2.actual], axis=1),
        jaw_y_cm=np.stack([-jaws.y1.actual, jaws.y2.actual], axis=1),
        leaf_cm=_leaves(axes.mlc, "actual"),
    )
    plan_uid, number = _plan_and_beam(header.plan_filename)
    patient = [str(text).strip() for text in header.patient_name]
    return MachineLog(
        name=first.name,
        kind="dynalog",
        interval_s=DYNALOG_INTERVAL_S,
        meterset=share,
        counts_mu=False,
        recorded=recorded,
        expected=None,
        expected_leaf_cm=_leaves(axes.mlc, "expected"),
        beam_number=number,
        plan_uid=plan_uid,
        patient_id=patient[-1] if len(patient) == 3 else "",
        time=_time_of(first.name),
        warnings=(
            "A dynalog says shares of the meterset, not monitor units: the meterset of its beam is the plan's. It does "
            "not record the couch: its angle is the plan's.",
        ),
    )


def _last_index(path: Path) -> float:
    """First number of the last line of a dynalog."""
    with path.open("rb") as file:
        lines = file.read().split()
    return float(lines[-1].split(b",")[0]) if lines else np.nan


def _plan_and_beam(texts: Iterable[str]) -> tuple[str, int]:
    """Plan UID and beam number, where the plan's line of a dynalog has them."""
    parts = [str(text).strip() for text in texts]
    if len(parts) == 2 and _UID.fullmatch(parts[0]) and parts[1].isdigit():
        return parts[0], int(parts[1])
    return "", 0
