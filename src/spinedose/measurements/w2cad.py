"""Varian W2CAD (`.asc`): the exchange format of Eclipse for measured beam data.

A file is a list of blocks from `$STOM` to `$ENOM`. A block has a header (`%FLSZ 100*100`, lengths in mm) and points
`<x y z dose>` in mm and percent. x and y are those of IEC 61217 (crossline and inline), z is the depth. The energy is
not part of the format. Described in Varian's Eclipse Algorithms Reference Guide, appendix on the w2CAD format.
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

DETECTORS = {"CHA": "ion chamber", "DIO": "diode", "DIA": "diamond"}

OPEN_TYPES = {"OPD": "depth", "OPP": "profile", "DPR": "profile"}
"""Open depth dose, open profile, diagonal profile. The others are wedges, blocks and electrons."""

NAMED_AXIS = {"X": "crossline", "Y": "inline", "Z": "depth_dose", "D": "diagonal"}


def read(text: str, name: str, beam: str) -> Iterator[Scan | Finding]:
    """Read every block.

    Parameters
    ----------
    text : str
        Content of the file.
    name : str
        Its name, for messages.
    beam : str
        Label of the beam; the format does not hold it.

    Yields
    ------
    Scan or Finding
        A curve, or why it is refused.
    """
    for count, lines in enumerate(_blocks(text), start=1):
        yield attempt(partial(_scan, lines, name, beam, str(count)), f"{name}, scan {count}")


def _blocks(text: str) -> Iterator[list[str]]:
    """Lines of each measurement; one that is not closed counts as well and fails at its number of points."""
    block: list[str] | None = None
    for raw in text.splitlines():
        line = raw.strip()
        if line.startswith("$STOM"):
            if block is not None:
                yield block
            block = []
        elif line.startswith(("$ENOM", "$ENOF")):
            if block is not None:
                yield block
            block = None
        elif block is not None:
            block.append(line)
    if block is not None:
        yield block


def _scan(lines: list[str], name: str, beam: str, scan_id: str) -> Scan:
    header: dict[str, str] = {}
    points: list[list[float]] = []
    for line in lines:
        if line.startswith("%"):
            key, _, value = line[1:].partition(" ")
            header[key.upper()] = value.strip()
        elif line.startswith("<"):
            words = line.strip("<> ").split()
            if len(words) != 4 or not line.endswith(">"):
                raise InvalidInput(f"The line '{line[:60]}' is no point", "x, y, z and dose are expected")
            points.append([number(word, "coordinate") for word in words])
        elif line.startswith("#"):
            key, colon, value = line.lstrip("# ").partition(":")
            if colon and value.strip():
                header.setdefault(f"#{key.strip().lower()}", value.strip())
    if header.get("BMTY", "PHO").upper()[:3] != "PHO":
        raise InvalidInput(f"It is a beam of type '{header['BMTY']}'", "only photons are computed")
    kind = header.get("TYPE", "").upper()
    if kind not in OPEN_TYPES:
        raise InvalidInput(f"Its type is '{kind}'", f"only the open ones are read: {', '.join(OPEN_TYPES)}")
    stated = header_number(header, "PNTS")
    if stated == stated and int(stated) != len(points):
        raise InvalidInput(
            f"It says {stated:g} points and has {len(points)}", "it is cut short, or damaged", "Export it again"
        )
    size = re.fullmatch(r"\s*([\d.]+)\s*[*xX]\s*([\d.]+)\s*", header.get("FLSZ", ""))
    if not size:
        raise InvalidInput(f"Its field size is '{header.get('FLSZ', '')}'", "x*y in mm is expected", "State %FLSZ")
    track = along_of([[c / 10 for c in point[:3]] for point in points])
    named = NAMED_AXIS.get(header.get("AXIS", "").upper(), track.kind)
    if kind_of(track, OPEN_TYPES[kind]) != named:
        raise InvalidInput(f"Its points run along '{track.kind}'", f"its header says %TYPE {kind}, axis '{named}'")
    positions, values, notes = in_order(track.positions_cm, [point[3] for point in points])
    depth = one_value(track.depth_cm, header_number(header, "DPTH") / 10, "depth of the profile [cm]")
    return Scan(
        track.kind,
        beam,
        number(size[1], "field size") / 10,
        number(size[2], "field size") / 10,
        header_number(header, "SSD") / 10,
        depth,
        positions,
        values,
        "percent",
        header.get("#detector") or DETECTORS.get(header.get("DETY", "").upper(), header.get("DETY", "")),
        name,
        scan_id,
        {key.lstrip("#").lower(): value for key, value in header.items()},
        notes,
    )
