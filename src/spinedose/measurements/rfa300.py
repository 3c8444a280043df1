"""IBA RFA300 / OmniPro ASCII measurement dump (BDS format).

A file is a list of blocks of `%KEY value` lines (lengths in mm, `%BUP` and `%PRD` in 0.1 mm) and points `= x y z dose`.
The file's X is the scanner's: it runs inline (gun to target) and its Y crossline; Z is the depth. So y of IEC 61217 is
-X and x is Y, and the two numbers of `%FSZ` are inline and crossline. Three independent public converters agree on the
axes, two of four programs on `%FSZ`; one reader takes X for crossline. A note in the curve says so where it matters.
Described in IBA's technical note 997-103_TN006 (OmniPro-Accept, RFA300 ASCII).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial

from spinedose.errors import InvalidInput
from spinedose.measurements._reading import attempt, header_number, in_order, number
from spinedose.measurements.finding import Finding
from spinedose.measurements.geometry import along_of, kind_of, one_value
from spinedose.measurements.scan import Scan

DETECTORS = {"ION": "ion chamber", "SEM": "diode"}
GROUPS = {"DPT": "depth", "PRO": "profile", "DIA": "profile"}
UNITS = {"RAT": "percent", "ABS": "signal", "INT": "signal", "FLM": "signal"}


def read(text: str, name: str, beam: str) -> Iterator[Scan | Finding]:
    """Read every measurement.

    Parameters
    ----------
    text : str
        Content of the file.
    name : str
        Its name, for messages.
    beam : str
        Label of the beam: needed for FFF, which the format does not tell from flattened beams.

    Yields
    ------
    Scan or Finding
        A curve, or why it is refused.
    """
    for count, lines in enumerate(_blocks(text), start=1):
        yield attempt(partial(_scan, lines, name, beam, str(count)), f"{name}, scan {count}")


def _blocks(text: str) -> Iterator[list[str]]:
    """Lines of each measurement: from its first `%` line to `:EOM`."""
    block: list[str] = []
    for raw in text.splitlines():
        line = raw.strip()
        if line.startswith((":EOM", ":EOF")) or (line.startswith("%VNR") and block):
            if block:
                yield block
            block = []
        if line.startswith(("%", "=", "!")):
            block.append(line)
    if block:
        yield block


def _scan(lines: list[str], name: str, beam: str, scan_id: str) -> Scan:
    header: dict[str, str] = {}
    points: list[list[float]] = []
    for line in lines:
        if line.startswith("="):
            words = line[1:].split()
            if len(words) != 4:
                raise InvalidInput(f"The line '{line[:60]}' is no point", "x, y, z and dose are expected")
            points.append([number(word, "coordinate") for word in words])
        elif line.startswith("%"):
            key, _, value = line[1:].replace("\t", " ").partition(" ")
            header[key.upper()] = value.partition("#")[0].strip()
        else:
            header["comment"] = f"{header.get('comment', '')} {line.lstrip('!· ')}".strip()
    if header.get("TYP", "SCN") != "SCN" or header.get("SCN", "") not in GROUPS:
        raise InvalidInput(
            f"It is of type '{header.get('TYP', '')} {header.get('SCN', '')}'", "depth doses and profiles are read"
        )
    stated = header_number(header, "PTS")
    if stated == stated and int(stated) != len(points):
        raise InvalidInput(
            f"It says {stated:g} points and has {len(points)}", "it is cut short, or damaged", "Export it again"
        )
    if header_number(header, "WEG", 0.0) != 0:
        raise InvalidInput(f"It has a wedge of {header['WEG']} degrees", "wedges are not modelled")
    inline, crossline = _field(header)
    if header_number(header, "CPO", 0.0) not in (0.0, 360.0) and inline != crossline:
        raise InvalidInput(f"The collimator stands at {header['CPO']} degrees", "x and y of the field are exchanged")
    track = along_of([[y / 10, -x / 10, z / 10] for x, y, z, _ in points])
    if not kind_of(track, GROUPS[header["SCN"]]):
        raise InvalidInput(f"Its points make a {track.kind}", f"its header says %SCN {header['SCN']}")
    positions, values, notes = in_order(track.positions_cm, [point[3] for point in points])
    depth = one_value(track.depth_cm, _profile_depth_cm(header), "depth of the profile [cm]")
    if track.kind == "inline":
        notes = (*notes, "y is minus the X of the file, which runs from gun to target")
    if inline != crossline:
        notes = (*notes, f"%FSZ {header['FSZ']} is read as inline, crossline")
    return Scan(
        track.kind,
        _beam(header, beam),
        crossline,
        inline,
        header_number(header, "SSD") / 10,
        depth,
        positions,
        values,
        UNITS.get(header.get("MOD", ""), "signal"),
        DETECTORS.get(header.get("FLD", ""), ""),
        name,
        scan_id,
        {key.lower(): value for key, value in header.items()},
        notes,
    )


def _field(header: dict[str, str]) -> tuple[float, float]:
    """Field size (inline, crossline) [cm]."""
    words = header.get("FSZ", "").split()
    if len(words) != 2:
        raise InvalidInput(
            f"Its field size is '{header.get('FSZ', '')}'", "two numbers in mm are expected", "State %FSZ"
        )
    return number(words[0], "field size") / 10, number(words[1], "field size") / 10


def _profile_depth_cm(header: dict[str, str]) -> float:
    """Depth of a profile as its header says [cm]; 0 stands for none."""
    depth = header_number(header, "PRD") / 100
    return depth if depth > 0 else float("nan")


def _beam(header: dict[str, str], beam: str) -> str:
    """Label of the beam; refused when the caller's contradicts the file's."""
    words = header.get("BMT", "").split()
    if not words:
        return beam
    if words[0] != "PHO":
        raise InvalidInput(f"It is a beam of type '{words[0]}'", "only photons are computed")
    stated = f"{number(words[1], 'energy'):g}" if len(words) > 1 else ""
    if not stated:
        return beam
    if beam and not re.fullmatch(rf"{re.escape(stated)}\D.*", beam):
        raise InvalidInput(f"It was measured with {stated} MV", f"the beam was said to be '{beam}'")
    return beam or f"{stated}X"
