"""PTW MEPHYSTO (`.mcc`): scans of tbaScan and of array software.

A file is a list of blocks from `BEGIN_SCAN` to `END_SCAN` with `KEY=value` lines (lengths in mm) and, between
`BEGIN_DATA` and `END_DATA`, points: position [mm], value, and sometimes the reference signal. `TARGET_GUN` and
`LEFT_RIGHT` are the directions of y and x of IEC 61217, seen by someone who faces the gantry; axes that run the other
way are turned.

`MEAS_UNIT` names what the electrometer was set to and says nothing about calibration (a real file has 0.024 "cGy/MU" at
the maximum). Values in `%` are read as percent, in `Gy` from a detector marked as calibrated as Gy, others as signals.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from spinedose.errors import InvalidInput
from spinedose.measurements._reading import attempt, header_number, in_order, mirrored, number
from spinedose.measurements.finding import Finding
from spinedose.measurements.scan import Scan

KINDS = {"PDD": "depth_dose", "INPLANE_PROFILE": "inline", "CROSSPLANE_PROFILE": "crossline", "TPR": "tpr"}

REVERSED_AXES = {"inline": ("INPLANE_AXIS_DIR", "GUN_TARGET"), "crossline": ("CROSSPLANE_AXIS_DIR", "RIGHT_LEFT")}

ZERO_NEEDED = {
    "WEDGE_ANGLE": "wedges are not modelled",
    "GANTRY": "the beam does not enter the water from above",
    "COLL_OFFSET_INPLANE": "only fields about the axis are compared",
    "COLL_OFFSET_CROSSPLANE": "only fields about the axis are compared",
    "SCAN_OFFAXIS_INPLANE": "only scans through the axis are compared",
    "SCAN_OFFAXIS_CROSSPLANE": "only scans through the axis are compared",
}
"""Header entries that must be 0, and why."""

KEPT = (
    "MEAS_DATE", "LINAC", "MEAS_UNIT", "CORRECTIONS", "DETECTOR", "DETECTOR_RADIUS", "SCAN_DEVICE_SETUP", "MEAS_MEDIUM",
    "INPLANE_AXIS_DIR", "CROSSPLANE_AXIS_DIR", "COLL_ANGLE", "REF_FIELD_DEPTH", "FILTER", "ISOCENTER", "SCAN_DIAGONAL",
)  # fmt: skip
"""Header entries that are handed on."""


def read(text: str, name: str, beam: str) -> Iterator[Scan | Finding]:
    """Read every scan.

    Parameters
    ----------
    text : str
        Content of the file.
    name : str
        Its name, for messages.
    beam : str
        Label of the beam; must fit the energy that the file states.

    Yields
    ------
    Scan or Finding
        A curve, or why it is refused.
    """
    for count, lines in enumerate(_blocks(text), start=1):
        yield attempt(partial(_scan, lines, name, beam, str(count)), f"{name}, scan {count}")


def _blocks(text: str) -> Iterator[list[str]]:
    block: list[str] | None = None
    for raw in text.splitlines():
        line = raw.strip()
        if line.startswith("BEGIN_SCAN") and not line.startswith("BEGIN_SCAN_DATA"):
            if block is not None:
                yield block
            block = []
        elif line.startswith("END_SCAN"):
            if block is not None:
                yield [*block, line]
            block = None
        elif block is not None:
            block.append(line)
    if block is not None:
        yield block


def _scan(lines: list[str], name: str, beam: str, scan_id: str) -> Scan:
    header, positions, values = _parts(lines)
    kind = _kind(header)
    for key, why in ZERO_NEEDED.items():
        if header_number(header, key, 0.0) != 0:
            raise InvalidInput(f"Its {key} is {header[key]}", why)
    inline, crossline = header_number(header, "FIELD_INPLANE"), header_number(header, "FIELD_CROSSPLANE")
    if header_number(header, "COLL_ANGLE", 0.0) != 0 and inline != crossline:
        raise InvalidInput(
            f"The collimator stands at {header['COLL_ANGLE']} degrees", "x and y of the field are exchanged"
        )
    if header.get("FIELD_TYPE", "RECTANGULAR") != "RECTANGULAR":
        raise InvalidInput(f"Its field is {header['FIELD_TYPE']}", "rectangular fields are read")
    if header_number(header, "ISOCENTER", 1000.0) != 1000:
        raise InvalidInput(f"Its isocentre is {header['ISOCENTER']} mm away", "100 cm is assumed throughout")
    notes: tuple[str, ...] = ()
    axis, direction = REVERSED_AXES.get(kind.removeprefix("in_air_"), ("", ""))
    if axis and header.get(axis) == direction:
        positions = mirrored(positions)
        notes = (f"the axis ran {direction} and is turned",)
    x, v, order = in_order([position / 10 for position in positions], values)
    is_profile = kind not in ("depth_dose", "tpr")
    is_in_air = kind.startswith("in_air")
    return Scan(
        kind,
        _beam(header, beam),
        crossline / 10,
        inline / 10,
        float("nan") if is_in_air else header_number(header, "SSD") / 10,
        header_number(header, "SCAN_DEPTH") / 10 if is_profile and not is_in_air else float("nan"),
        x,
        v,
        _unit(header),
        header.get("DETECTOR_NAME") or header.get("DETECTOR", ""),
        name,
        scan_id,
        {key.lower(): header[key] for key in KEPT if key in header},
        notes + order,
    )


def _parts(lines: list[str]) -> tuple[dict[str, str], list[float], list[float]]:
    """Header, positions [mm] and values of a block."""
    header: dict[str, str] = {}
    positions: list[float] = []
    values: list[float] = []
    is_data = is_closed = False
    for line in lines:
        if line.startswith("BEGIN_DATA"):
            is_data = True
        elif line.startswith("END_DATA"):
            is_data, is_closed = False, True
        elif is_data and line:
            words = line.split()
            if len(words) < 2:
                raise InvalidInput(f"The line '{line[:60]}' is no point", "position and value are expected")
            positions.append(number(words[0], "position"))
            values.append(number(words[1], "value"))
        elif not is_data:
            key, equals, value = line.partition("=")
            if equals:
                header[key.strip()] = value.strip()
    if not is_closed:
        raise InvalidInput("Its data are not closed by END_DATA", "the file is cut short", "Export it again")
    return header, positions, values


def _kind(header: dict[str, str]) -> str:
    stated = header.get("SCAN_CURVETYPE", "")
    if stated not in KINDS:
        raise InvalidInput(f"Its curve type is '{stated}'", f"read are {', '.join(KINDS)}")
    kind = KINDS[stated]
    if header.get("SCAN_DIAGONAL", "NOT_DIAGONAL") != "NOT_DIAGONAL" and kind in ("inline", "crossline"):
        kind = "diagonal"
    elif header_number(header, "SCAN_ANGLE", 0.0) != 0 and kind in ("inline", "crossline"):
        raise InvalidInput(f"It runs at {header['SCAN_ANGLE']} degrees", "profiles along x, y and diagonals are read")
    if header.get("MEAS_MEDIUM") == "AIR":
        if kind in ("depth_dose", "tpr"):
            raise InvalidInput(f"It is a {stated} in air", "along the depth only water is read")
        return f"in_air_{kind}"
    return kind


def _beam(header: dict[str, str], beam: str) -> str:
    """Label of the beam: energy, and FFF when the file says so."""
    if header.get("MODALITY", "X") != "X":
        raise InvalidInput(f"Its modality is '{header['MODALITY']}'", "only photons are computed")
    energy = header_number(header, "ENERGY")
    if energy != energy:
        return beam
    stated = f"{energy:g}" + ("FFF" if header.get("FILTER") == "FFF" else "X")
    # Files without FILTER do not tell flattened from unflattened beams.
    if beam and beam != stated and ("FILTER" in header or beam != f"{energy:g}FFF"):
        raise InvalidInput(f"It was measured with {stated}", f"the beam was said to be '{beam}'")
    return beam or stated


def _unit(header: dict[str, str]) -> str:
    unit = header.get("MEAS_UNIT", "")
    if unit == "%":
        return "percent"
    return "gy" if unit == "Gy" and header.get("DETECTOR_IS_CALIBRATED") == "1" else "signal"
