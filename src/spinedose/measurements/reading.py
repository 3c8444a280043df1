"""Files of measurements: finds by its content which format a file has, reads it, and refuses what cannot be used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from spinedose.errors import UnreadableFile
from spinedose.measurements import mcc, rfa300, tidy_csv, w2cad
from spinedose.measurements.finding import Finding, refuse
from spinedose.measurements.quality import findings
from spinedose.measurements.scan import Measurements, OutputFactors, ReferenceCondition, Scan

Item = Scan | OutputFactors | ReferenceCondition | Finding
Reader = Callable[[str, str, str], Iterator[Item]]

LARGEST_BYTES = 200_000_000
"""No file of curves is larger; commissioning data of a whole machine have 20 MB."""


def read_measurements(
    path: str | Path, *, beam: str = "", on_refusal: Literal["raise", "skip"] = "raise"
) -> Measurements:
    """Read the curves, output factors and calibrations of one file.

    Parameters
    ----------
    path : str or Path
        A tidy CSV, a Varian W2CAD `.asc`, a PTW `.mcc` or an IBA RFA300 / OmniPro ASCII file. The content decides which
        one it is; see `docs/formats/measurements.md`.
    beam : str
        Label of the beam, for files that do not state it; a file that states another one is refused.
    on_refusal : str
        `raise` when a curve must be refused, or `skip` that curve; its refusal stays in `findings`.

    Returns
    -------
    Measurements
        Curves in the order of the file, with their findings.

    Raises
    ------
    UnreadableFile
        If the file cannot be opened or has none of the formats.
    InvalidInput
        If a curve must be refused, or no curve is left.
    """
    path = Path(path)
    text = _text(path)
    read = _reader(text, path.name)
    scans: list[Scan] = []
    factors: list[OutputFactors] = []
    references: list[ReferenceCondition] = []
    found: list[Finding] = []
    for item in read(text, path.name, beam):
        if isinstance(item, Finding):
            found.append(item)
        elif isinstance(item, OutputFactors):
            factors.append(item)
        elif isinstance(item, ReferenceCondition):
            references.append(item)
        else:
            doubts = findings(item)
            found += doubts
            if not any(doubt.severity == "refuse" for doubt in doubts):
                scans.append(item)
    if on_refusal == "raise" or not (scans or factors or references):
        refuse(found)
    if not (scans or factors or references):
        raise UnreadableFile(
            f"'{path.name}' holds no curve, no output factors and no calibration", "it is empty, or of another kind"
        )
    return Measurements(tuple(scans), tuple(factors), tuple(references), tuple(found))


def _text(path: Path) -> str:
    """Content of a text file: UTF-8, or else Latin-1, which old scanning software writes."""
    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise UnreadableFile(
                f"'{path.name}' has more than {LARGEST_BYTES // 1_000_000} MB", "no file of curves has"
            )
        data = path.read_bytes()
    except OSError as error:
        raise UnreadableFile(f"'{path.name}' cannot be opened", str(error.strerror or error)) from error
    if b"\0" in data:
        raise UnreadableFile(f"'{path.name}' is not a text file", "it holds zero bytes", "Export it as ASCII")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _reader(text: str, name: str) -> Reader:
    """Find the reader of a text by its first lines that say something."""
    head = [line.strip() for line in text[:10_000].splitlines() if line.strip()][:20]
    if any(line.startswith("BEGIN_SCAN_DATA") for line in head):
        return mcc.read
    if any(line.startswith((":MSR", ":SYS")) for line in head):
        return rfa300.read
    if any(line.startswith(("$NUMS", "$STOM")) for line in head):
        return w2cad.read
    rows = [line for line in head if not line.startswith("#")]
    if rows and "," in rows[0]:
        return tidy_csv.read
    raise UnreadableFile(
        f"'{name}' is no file of measurements that is known here",
        "it begins neither as tidy CSV, W2CAD, PTW mcc nor RFA300 ASCII",
        "Export it in one of these formats",
    )
