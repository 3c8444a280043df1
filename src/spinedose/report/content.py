"""What a report of a check says, in words and numbers ready to print; the page and the PDF are made of the same.

Nothing is judged here. A verdict reads "within tolerance", "outside tolerance" or "not compared", and no more.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from spinedose.compare.metrics import TOO_SMALL
from spinedose.errors import InvalidInput
from spinedose.grid import Grid, Volume
from spinedose.report.charts import Band, Chart, Line, Mark, spread
from spinedose.structures import Structure, bounds_cm, find_external, mask

if TYPE_CHECKING:
    from spinedose.check import BeamFound, Check, MetricPair, StructureFound, TargetQuality
    from spinedose.compare.dvh import Dvh
    from spinedose.criteria import Judged

Array = NDArray[np.float64]
Point = tuple[float, float, float]

VERDICTS = {"within": "Within tolerance", "outside": "Outside tolerance", "not compared": "Not compared"}
TONES = {"within": "within", "outside": "outside", "not compared": "none"}
DASH = "\u2013"
"""Stands for a number that does not exist."""

PALETTE = ("#D55E00", "#3A9BD9", "#C2649A", "#E0A100", "#009E73", "#7A77C9", "#9A6A2F")
"""After Okabe and Ito, Color Universal Design (2008), jfly.uni-koeln.de/color; darker where a line on white needs it,
and violet and brown for yellow and dark blue, of which each vanishes on one of the two grounds."""
BODY_COLOR = "#9AA3AD"

ISODOSES = ((1.0, "#FFFFFF"), (0.8, "#FFD166"), (0.5, "#8FE0C0"), (0.2, "#B9C2F0"))
"""Shares of the reference dose that are drawn as lines, and their colours on a dark ground."""

COLOR_MAPS = {
    "dose": (
        "#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725",
    ),
    "difference": ("#0b3c8c", "#2f78c4", "#8cbfe6", "#f4f4f2", "#f6c28b", "#e0761c", "#8a3b00"),
    "gamma": (
        "#d7e3ee", "#b9cfe3", "#93b5d3", "#6b97bf", "#4b7ba9", "#f4a340", "#e8712b", "#cf3f3c", "#a01f5b", "#5e1266",
    ),
}  # fmt: skip
"""Colours at even steps: viridis from zero to the largest dose; blue to orange around no difference; blue-grey up to
gamma 1 and orange to purple from there to 2. All are told apart with any colour vision."""

DVH_POINTS = 300
HOTTEST_PERCENT = 0.05
"""The dose axis ends a little beyond what this part of every structure receives."""
PROFILE_CM, PROFILE_STEP_CM = 6.0, 0.05
"""Half the length of a profile, and between its points."""

PLANNED_DASH = (5.0, 3.0)

FEW = 8
"""Up to so many structures are all shown at first."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: its title, and how it is set (`"name"`, `"text"` or `""` for numbers)."""

    title: str
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Cell:
    """A field of a table.

    Parameters
    ----------
    text : str
        What it says.
    tone : str
        `"within"`, `"outside"`, `"soft"` or nothing.
    note : str
        In small print below.
    bar : float or None
        Place of a dot between two limits [%], of which they lie at 16.67 and 83.33; then `text` is only spoken.
    is_far : bool
        Whether the dot lies beyond a limit.
    """

    text: str
    tone: str = ""
    note: str = ""
    bar: float | None = None
    is_far: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table; its tone is `"outside"`, or `"more"` when it goes on with what the row above is about."""

    cells: tuple[Cell, ...]
    tone: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """A table with a title, an explanation, the sources that its rows number, and remarks below it."""

    anchor: str
    title: str
    lead: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    sources: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reason:
    """Why the verdict is what it is."""

    text: str
    tone: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Pen:
    """A structure in pictures and charts.

    Parameters
    ----------
    key : str
        Short name that lines and boxes share.
    structure : Structure
        What is drawn.
    color : str
        As #rrggbb.
    width : float
        Of its outline [pixels].
    is_shown : bool
        Whether it is seen at first.
    found : StructureFound or None
        Its numbers.
    """

    key: str
    structure: Structure
    color: str
    width: float
    is_shown: bool
    found: StructureFound | None


@dataclass(frozen=True, slots=True)
class Place:
    """A point worth looking at [cm], and what it is."""

    label: str
    point_cm: Point


@dataclass(frozen=True, slots=True, eq=False)
class Content:
    """Everything a report shows, except the voxels.

    Parameters
    ----------
    verdict, tone, summary : str
        The verdict, its colour, and a sentence.
    reasons : tuple of Reason
        Why.
    title : str
        Plan.
    identity, versions : tuple of (str, str)
        Who and what it is about; what computed it.
    doses : tuple of str
        Doses that there are.
    reference : str
        What percent of a dose are of, in words.
    reference_gy, top_gy : float
        That dose, and the end of colour scales [Gy].
    pens, places
        What is drawn in the images, and where to look.
    dvh : Chart or None
        Histograms.
    about_dvh, about_profiles : str
        What to know about them.
    profiles_title : str
        Through what they run.
    profiles : tuple of Chart
        Doses along the three axes.
    profile_pens : tuple of Pen
        Structures that are shaded in them.
    criteria : Table or None
        What was judged.
    tables : tuple of Table
        The others.
    assumptions, warnings : tuple of str
        What the reader must know.
    version, notice : str
        Of spinedose; what the report is not.
    """

    verdict: str
    tone: str
    summary: str
    reasons: tuple[Reason, ...]
    title: str
    identity: tuple[tuple[str, str], ...]
    versions: tuple[tuple[str, str], ...]
    doses: tuple[str, ...]
    reference: str
    reference_gy: float
    top_gy: float
    pens: tuple[Pen, ...]
    places: tuple[Place, ...]
    dvh: Chart | None
    about_dvh: str
    profiles_title: str
    about_profiles: str
    profiles: tuple[Chart, ...]
    profile_pens: tuple[Pen, ...]
    criteria: Table | None
    tables: tuple[Table, ...]
    assumptions: tuple[str, ...]
    warnings: tuple[str, ...]
    version: str
    notice: str

    def table(self, anchor: str) -> Table | None:
        """The table of this anchor, if it is there."""
        return next((table for table in self.tables if table.anchor == anchor), None)


def content_of(check: Check) -> Content:
    """Put a check into words."""
    planned = None if check.planned is None else check.planned.dose
    volumes = {"planned": planned, "recalculated": check.dose.volume}
    doses = {name: volume for name, volume in volumes.items() if volume is not None}
    largest = max(_hottest_gy(volume) for volume in doses.values())
    is_prescribed = check.prescription.is_known
    reference_gy = check.prescription.dose_gy if is_prescribed else largest or 1.0
    pens = _pens(check)
    places = _places(check)
    about = _profile_point(places)
    banded = tuple(pen for pen in pens if pen.structure in (_cord(check), _target(check)))
    tables: tuple[Table | None, ...] = (
        _findings(check),
        _limits(check),
        _metrics(check),
        _eqd2(check),
        _gammas(check),
        _quality(check),
        _beams(check),
        _facts(check),
    )
    return Content(
        verdict=VERDICTS[check.verdict],
        tone=TONES[check.verdict],
        summary=_summary(check),
        reasons=tuple(Reason(_sentence(text)) for text in check.reasons),
        title=check.names.plan_label or "Plan without a label",
        identity=_identity(check),
        versions=_versions(check),
        doses=tuple(doses),
        reference="the prescription" if is_prescribed else "the dose to the hottest cm\u00b3",
        reference_gy=reference_gy,
        top_gy=_top_gy(check, largest),
        pens=pens,
        places=places,
        dvh=_histograms(pens, reference_gy if is_prescribed else math.nan),
        about_dvh=_about_dvh(check),
        profiles_title=f"Profiles through {about.label}" if about else "",
        about_profiles=_about_profiles(about, len(doses)) if about else "",
        profiles=_profiles(about, doses, banded) if about else (),
        profile_pens=banded,
        criteria=_criteria(check),
        tables=tuple(table if planned is not None else _alone(table) for table in tables if table is not None),
        assumptions=tuple(map(_sentence, check.assumptions)),
        warnings=tuple(map(_sentence, check.warnings)),
        version=check.dose.metadata.version,
        notice=check.disclaimer,
    )


def _hottest_gy(volume: Volume) -> float:
    """Dose that the hottest cm^3 receive at least: single voxels, at the rim of the body for instance, set no scale."""
    values = volume.values.ravel()
    count = min(max(round(1.0 / volume.grid.voxel_volume_cm3), 1), values.size)
    high = values[values >= 0.5 * values.max()]
    values = high if high.size >= count else values  # few need to be sorted
    return float(np.partition(values, values.size - count)[values.size - count])


def _top_gy(check: Check, largest_gy: float) -> float:
    """End of the colour scales: over the prescription and the hottest point of a target, not of hot spots elsewhere.

    Without a target it is the largest dose, or the prescription where that is more.
    """
    if not check.prescription.is_known:
        return largest_gy or 1.0
    curves = [curve for found in check.of_role("target") for curve in (found.planned, found.recalculated)]
    hottest = [curve.maximum_gy for curve in curves if curve is not None] or [largest_gy]
    return max(1.1 * check.prescription.dose_gy, *hottest)


# --- words ------------------------------------------------------------------------------------------------------------


def _sentence(text: str) -> str:
    """A sentence with a capital, a full stop, true minus signs, and numbers beside their units."""
    text = re.sub(r"(?<![\w.\-])-(?=\d)", "\u2212", text.strip())
    text = re.sub(r"(?<=\d) (?=(?:%|Gy|mm|cm|MU|HU)(?!\w))", "\u00a0", text)
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?", ":")) else f"{text}."


def figure(value: float, digits: int = 2, unit: str = "", *, signed: bool = False) -> str:
    """A number in words, with a true minus; a dash where there is none."""
    if not math.isfinite(value):
        return DASH
    value = round(value, digits) + 0.0  # no minus zero
    text = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    return text.replace("-", "\u2212") + (f"\u00a0{unit}" if unit else "")


def volume_of(volume_cm3: float) -> str:
    """A volume with three figures, at most two of them decimals; nothing where there is none."""
    if not volume_cm3 > 0:
        return ""
    return figure(volume_cm3, 0 if volume_cm3 >= 100 else 1 if volume_cm3 >= 10 else 2, "cm\u00b3")


_gy = partial(figure, digits=2, unit="Gy")
_percent = partial(figure, digits=1, unit="%", signed=True)


def _units(unit: str) -> str:
    return {"cc": "cm\u00b3", "cm2": "cm\u00b2"}.get(unit, unit)


def _quantity(name: str) -> str:
    """`D0.03cc[Gy]` as `D0.03cc`."""
    return name.partition("[")[0]


def _digits(unit: str) -> int:
    return {"%": 1, "MU": 1, "MU/Gy": 0, "s": 0}.get(unit, 2)


def person(name: str) -> str:
    """A DICOM name as people read it: `Family, Given`."""
    alphabetic = name.partition("=")[0] or name
    family, *rest = (part.strip() for part in alphabetic.split("^"))
    given = " ".join(part for part in rest if part)
    return ", ".join(part for part in (family, given) if part)


def _millimetres(grid: Grid) -> str:
    dx, dy, dz = (f"{10 * step:.3g}" for step in grid.spacing_cm)
    return f"{dx} \u00d7 {dy} \u00d7 {dz} mm"


def _summary(check: Check) -> str:
    alone = "There is no planned dose to hold the recalculated dose against. The recalculated dose is shown alone."
    if check.judgement is None:
        return alone
    judged = check.judgement.judged
    met = sum(item.within for item in judged)
    missing = sum(item.level == "not judged" for item in judged)
    problems = sum(finding.severity == "problem" for finding in check.findings)
    parts = [f"{met} of {len(judged)} numbers that were held against the criteria are within their limits"]
    if missing:
        parts.append(f"{missing} could not be judged")
    if problems:
        parts.append(f"{problems} problem{'s' if problems > 1 else ''} found")
    if check.unjudged:
        parts.append(check.unjudged)
    if check.planned is None:
        return f"{alone} Doses at points of beams, as the plan states them: {', '.join(parts)}."
    return f"Planned and recalculated dose: {', '.join(parts)} ({check.judgement.criteria})."


def _identity(check: Check) -> tuple[tuple[str, str], ...]:
    names, plan = check.names, check.plan
    energies = dict.fromkeys(f"{beam.machine}, {beam.energy}" for beam in plan.beams)
    planned = check.planned
    rows = (
        ("Patient", person(names.patient_name)),
        ("Patient ID", names.patient_id),
        ("Prescription", check.prescription.text),
        ("Fractions", str(plan.fractions)),
        ("Beams", f"{len(plan.beams)}, {figure(plan.total_mu, 1, 'MU')} a fraction"),
        ("Machine", "; ".join(energies)),
        ("Beam model", ", ".join(check.dose.metadata.machines)),
        ("Planned by", planned.system if planned is not None else ""),
        ("Planned dose", f"voxels of {_millimetres(planned.dose.grid)}" if planned is not None else "none"),
        ("Recalculated", _voxels(check)),
        ("Checked", check.created.replace("T", " ").replace("+00:00", " UTC")),
        *((f"Patient of the {one.of}", person(one.patient_name)) for one in names.others),
        *((f"Patient ID of the {one.of}", one.patient_id) for one in names.others),
    )
    return tuple((name, text) for name, text in rows if text)


def _voxels(check: Check) -> str:
    """Voxels of the calculation: in a box around targets and cords they may be finer than elsewhere."""
    settings, voxels = check.dose.metadata.settings, f"voxels of {_millimetres(check.dose.grid)}"
    if not settings.get("fine"):
        return voxels
    return f"{voxels} in a box (see assumptions), of {10 * settings['spacing_cm']:g} mm elsewhere"


def _versions(check: Check) -> tuple[tuple[str, str], ...]:
    info, names = check.dose.metadata, check.names
    settings = "; ".join(f"{name} {_setting(value)}" for name, value in info.settings.items() if value not in ("", {}))
    rows = [
        ("spinedose", info.version),
        ("Computed by", f"{info.backend}, {info.device}"),
        ("Libraries", ", ".join(f"{k} {v}" for k, v in check.versions.items() if k.lower() != "spinedose")),
        ("Beam models", ", ".join(info.machines)),
        ("Beam data", info.beam_data_hash),
        ("Dose is", info.dose_quantity),
        ("Density curve", info.density_curve),
        ("Body", info.body),
        ("Settings", settings),
        ("Criteria", check.criteria),
        ("Protocol", check.protocol),
        ("Plan UID", names.plan_uid),
        ("Structures UID", names.structure_set_uid),
        ("CT UID", names.ct_uid),
        ("Dose UID", ", ".join(names.dose_uids)),
    ]
    rows += [(item.kind, f"{item.name} {item.sha256}".strip()) for item in check.inputs]
    timings = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in check.timings_s.items() if seconds >= 0.05)
    rows.append(("Time taken", timings))
    return tuple((name, text) for name, text in rows if text)


def _setting(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_setting(item)}" for key, item in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)


# --- tables -----------------------------------------------------------------------------------------------------------


class _Sources:
    """Numbers for sources, in the order in which rows name them."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def number(self, text: str) -> str:
        """Number of a source; the same text has the same number."""
        if not text:
            return ""
        if text not in self.texts:
            self.texts.append(text)
        return str(self.texts.index(text) + 1)


_SENSES = {"at least": "\u2265", "at most": "\u2264"}
"""Signs of limits on the recalculated number alone."""

_LEVELS = {
    "within": ("within", "within"),
    "outside": ("outside", "outside"),
    "beyond action": ("outside, beyond action limit", "outside"),
    "not judged": ("not judged", "soft"),
}


def _criteria(check: Check) -> Table | None:
    if check.judgement is None:
        return None
    sources, rows, crossing = _Sources(), [], []
    for judged in check.judgement.judged:
        if judged.compare == "crosses limit":
            crossing.append(judged)
        else:
            rows.append(_criterion_row(judged, sources))
    rows += [_criterion_row(judged, sources) for judged in crossing if not judged.within]
    kept = [judged for judged in crossing if judged.within]
    if kept:
        source = kept[0].source.partition("; limit:")[0]
        told = "1 limit" if len(kept) == 1 else f"{len(kept)} limits"
        told += " of the protocol: kept by both doses, or by neither"
        cells = (Cell(told), *[Cell("")] * 5, Cell("within", "within"), Cell(sources.number(source), "soft"))
        rows.append(Row(cells))
    lead = f"Criteria: {check.judgement.criteria}."
    if check.judgement.without_numbers and check.planned is not None:
        lead += " Nothing was measured for: " + ", ".join(
            key.replace("_", " ") for key in check.judgement.without_numbers
        )
        lead += "."
    titles = ("Criterion", "Planned", "Recalculated", "Difference", "Limit", "", "Result", "Source")
    columns = (Column(titles[0], "name"), *map(Column, titles[1:6]), Column(titles[6], "text"), Column(titles[7]))
    return Table("criteria", "Criteria", lead, columns, tuple(rows), tuple(sources.texts))


def _criterion_row(judged: Judged, sources: _Sources) -> Row:
    is_crossing = judged.compare == "crosses limit"
    is_gamma = judged.quantity.startswith("gamma")
    own_unit = "%" if is_gamma else judged.quantity.partition("[")[2].rstrip("]") or judged.unit
    values = [figure(value, _digits(own_unit), _units(own_unit)) for value in (judged.planned, judged.recalculated)]
    text, tone = _LEVELS[judged.level]
    bar, is_far = None, judged.level in ("outside", "beyond action")
    if is_crossing:
        difference, limit = _gy(judged.difference, signed=True), f"{judged.limit:g} {_units(judged.unit)}"
        text = "one keeps it" if is_far else text
    elif judged.compare in _SENSES:
        difference, limit = DASH, f"{_SENSES[judged.compare]} {judged.limit:g} {_units(judged.unit)}"
    else:
        difference = figure(judged.difference, _digits(judged.unit), _units(judged.unit), signed=True)
        limit = f"\u00b1 {judged.stated_limit}"
        if judged.limit > 0 and math.isfinite(judged.difference):
            bar = float(np.clip(50 + 100 / 3 * judged.difference / judged.limit, 3, 97))
    where = "" if is_gamma else f"{judged.structure}, {_quantity(judged.quantity)}"
    note = "; ".join(part for part in (judged.quantity if is_gamma else where, judged.doubt) if part)
    strip = Cell(f"{difference} of {limit}", bar=bar, is_far=is_far) if bar is not None else Cell("")
    cells = (
        Cell(judged.text[:1].upper() + judged.text[1:], note=note),
        Cell(values[0]),
        Cell(values[1]),
        Cell(difference, tone if tone == "outside" else ""),
        Cell(limit),
        strip,
        Cell(text, tone),
        Cell(sources.number(judged.source), "soft"),
    )
    return Row(cells, "outside" if tone == "outside" else "")


def _limits(check: Check) -> Table | None:
    evaluation = check.evaluation
    if evaluation is None or not (evaluation.lines or evaluation.not_covered):
        return None
    sources, rows = _Sources(), []
    for line in evaluation.lines:
        unit = _units(line.unit)
        sign = "\u2264" if line.sense == "at most" else "\u2265"
        taken = f"as {line.protocol_structure}" if line.protocol_structure != line.structure else ""
        pair = [
            Cell(figure(value, _digits(line.unit), unit), "outside" if within is False else "")
            for value, within in ((line.planned, line.planned_within), (line.recalculated, line.within))
        ]
        remark = "only one keeps it" if line.crosses else line.remark
        cells = (
            Cell(line.structure, note=taken),
            Cell(_quantity(line.metric), note="; ".join(part for part in (line.goal, line.doubt) if part)),
            Cell(f"{sign} {line.limit:g} {unit}"),
            *pair,
            Cell(figure(line.recalculated - line.planned, _digits(line.unit), unit, signed=True)),
            Cell(remark, "within" if line.within else "soft" if line.within is None else "outside"),
            Cell(sources.number(line.source), "soft"),
        )
        rows.append(Row(cells, "outside" if line.crosses else ""))
    lead = (
        f"Protocol: {evaluation.protocol}, {evaluation.fractions} fraction{'s' if evaluation.fractions > 1 else ''}. "
        "A value beyond a limit is a matter of the plan; it bears on this check only where one dose keeps the limit "
        "and the other does not."
    )
    remarks = [_sentence(text) for text in (*evaluation.remarks, *evaluation.not_covered)]
    columns = (
        Column("Structure", "name"), Column("Metric", "text"), Column("Limit"), Column("Planned"),
        Column("Recalculated"), Column("Difference"), Column("Remark", "text"), Column("Source"),
    )  # fmt: skip
    return Table(
        "limits", "Dose limits of the protocol", lead, columns, tuple(rows), tuple(sources.texts), tuple(remarks)
    )  # fmt: skip


_OF_TWO_DOSES = ("Planned", "Difference", "of planned")
"""Columns that only a planned dose fills."""


def _alone(table: Table) -> Table:
    """A table without the columns that nothing stands in when there is no planned dose."""
    kept = [place for place, column in enumerate(table.columns) if column.title not in _OF_TWO_DOSES]
    if table.anchor == "beams":  # doses at points are in the plan
        return table
    rows = tuple(replace(row, cells=tuple(row.cells[place] for place in kept)) for row in table.rows)
    return replace(table, columns=tuple(table.columns[place] for place in kept), rows=rows)


def _eqd2(check: Check) -> Table | None:
    """Doses in fractions of 2 Gy, with the alpha/beta that they hold for."""
    sources, rows = _Sources(), []
    measured = check.of_role("target", "cord", "organ")
    for found in sorted(measured, key=lambda found: (_ORDER[found.role], found.type.upper() != "PTV")):
        if found.eqd2 is None:
            continue
        ratio, source = f"{found.eqd2.alpha_beta_gy:g}\u00a0Gy", sources.number(found.eqd2.source)
        for place, pair in enumerate(found.eqd2.metrics):
            cells = (
                Cell("" if place else found.name),
                Cell(_quantity(pair.name), note=_new_doubt(pair, found)),
                Cell("" if place else ratio),
                Cell(_gy(pair.planned)),
                Cell(_gy(pair.recalculated)),
                Cell(_gy(pair.difference, signed=True)),
                Cell("" if place else source, "soft"),
            )
            rows.append(Row(cells, "more" if place else ""))
    if not rows:
        return None
    columns = (
        Column("Structure", "name"), Column("Metric", "text"), Column("\u03b1/\u03b2"), Column("Planned"),
        Column("Recalculated"), Column("Difference"), Column("Source"),
    )  # fmt: skip
    fractions = check.plan.fractions
    lead = (
        f"Doses in fractions of 2 Gy with the same effect as {fractions} fraction{'s' if fractions > 1 else ''} by the "
        "linear-quadratic model, which is doubted above about 10 Gy a fraction. Every sample of a structure is "
        "converted; a mean is that of the converted doses."
    )
    return Table("eqd2", "EQD2", lead, columns, tuple(rows), tuple(sources.texts))


def _new_doubt(pair: MetricPair, found: StructureFound) -> str:
    """What is doubtful about a metric, less what is said of the whole structure."""
    parts = pair.doubt.split("; ") if pair.doubt else []
    return "; ".join(part for part in parts if part.removeprefix(TOO_SMALL) not in found.doubt)


def _metrics(check: Check) -> Table | None:
    rows = []
    measured = check.of_role("target", "cord", "organ")
    for found in sorted(measured, key=lambda found: (_ORDER[found.role], found.type.upper() != "PTV")):
        if not found.metrics and found.doubt:
            rows.append(Row((Cell(found.name, note=_sentence(found.doubt)), *[Cell(DASH, "soft")] * 5)))
        for place, pair in enumerate(found.metrics):
            unit, digits = _units(pair.unit), _digits(pair.unit)
            volume = volume_of(found.volume_cm3) if not place else ""
            note = "; ".join(part for part in (volume, found.doubt if not place else "") if part)
            cells = (
                Cell(found.name if not place else "", note=note),
                Cell(_quantity(pair.name), note=_new_doubt(pair, found)),
                Cell(figure(pair.planned, digits, unit)),
                Cell(figure(pair.recalculated, digits, unit)),
                Cell(figure(pair.difference, digits, unit, signed=True)),
                Cell(_percent(pair.difference_percent)),
            )
            rows.append(Row(cells, "more" if place else ""))
    if not rows:
        return None
    columns = (
        Column("Structure", "name"), Column("Metric", "text"), Column("Planned"), Column("Recalculated"),
        Column("Difference"), Column("of planned"),
    )  # fmt: skip
    lead = "Of the whole treatment, from the solid that the contours stand for."
    return Table("metrics", "Dose metrics", lead, columns, tuple(rows))


def _gammas(check: Check) -> Table | None:
    if not check.gammas:
        return None
    first = check.gammas[0]
    asked = [Column(_short(found.question.name)) for found in check.gammas]
    whole = [Cell(figure(g.whole.pass_percent, 1, "%"), note=_counted(g.whole.points)) for g in check.gammas]
    outside = [g.whole.points_outside for g in check.gammas]
    rows = [Row((Cell("Whole dose", note=f"largest gamma {first.whole.maximum:.2f}"), *whole))]
    for place, part in enumerate(first.structures):
        parts = [found.structures[place] for found in check.gammas]
        if all(item.points == 0 for item in parts):
            continue
        cells = [
            Cell(figure(item.pass_percent, 1, "%"), "" if item.points else "soft",
                 _counted(item.points) if item.points else "") for item in parts
        ]  # fmt: skip
        rows.append(Row((Cell(part.structure), *cells)))
    lead = (
        "Share of voxels with a gamma up to 1. The planned dose is the reference, on its own voxels; the recalculated "
        "dose is searched without resampling."
    )
    if any(outside):
        lead += f" {max(outside)} voxels above the threshold lie outside the recalculated dose and were not evaluated."
    return Table("gamma", "Gamma", lead, (Column("Region", "name"), *asked), tuple(rows))


def _short(name: str) -> str:
    """`gamma 3 %/2 mm global, above 10 %` without its first word."""
    return name.removeprefix("gamma ")


def _counted(points: int) -> str:
    return f"{points:,} voxels".replace(",", "\u202f")


def _quality(check: Check) -> Table | None:
    rows = []
    for found in check.quality:
        sides = found.planned, found.recalculated
        falls = found.planned_fall_off, found.recalculated_fall_off
        if sides == (None, None):
            continue
        items: list[tuple[str, list[float], int, str]] = [
            (label, [getattr(side, name) if side is not None else math.nan for side in sides], digits, unit)
            for label, name, digits, unit in (
                ("Coverage by the prescription", "coverage_percent", 1, "%"),
                ("Conformity index, Paddick", "conformity_paddick", 2, ""),
                ("Gradient index", "gradient_index", 2, ""),
                ("R50", "r50", 2, ""),
                ("Homogeneity, ICRU 83", "homogeneity", 2, ""),
            )
        ]
        for label, values, digits, unit in items:
            name = found.target if label == items[0][0] else ""
            note = _isodose_doubts(found) if label == items[1][0] else ""
            rows.append(_pair_row(name, label, values, digits, unit, note))
        if falls != (None, None):
            for label, name in (("steepest", "smallest_cm"), ("median", "median_cm")):
                ways = [10 * getattr(fall, name) if fall is not None else math.nan for fall in falls]
                rows.append(_pair_row("", f"Fall-off from 90 to 50 %, {label}", ways, 1, "mm"))
    if not rows:
        return None
    columns = (
        Column("Target", "name"), Column("", "text"), Column("Planned"), Column("Recalculated"), Column("Difference"),
    )  # fmt: skip
    lead = "Indices depend on the voxels of each dose; small differences between grids are no differences of dose."
    return Table("quality", "Conformity and gradient", lead, columns, tuple(rows))


def _isodose_doubts(found: TargetQuality) -> str:
    """Why conformity and gradient are not to be trusted: isodoses of few voxels, or cut off."""
    said = [
        f"{word}: {text}"
        for word, side in (("planned", found.planned), ("recalculated", found.recalculated))
        if side is not None
        for text in side.warnings
        if "isodose" in text
    ]
    return _sentence("; ".join(said)) if said else ""


def _pair_row(name: str, label: str, values: Sequence[float], digits: int, unit: str, note: str = "") -> Row:
    planned, recalculated = values
    return Row(
        (
            Cell(name),
            Cell(label, note=note),
            Cell(figure(planned, digits, unit)),
            Cell(figure(recalculated, digits, unit)),
            Cell(figure(recalculated - planned, digits, unit, signed=True)),
        ),
        "" if name else "more",
    )


def _beams(check: Check) -> Table | None:
    if not check.beams:
        return None
    has_points = any(math.isfinite(found.row.planned_point_dose_gy) for found in check.beams)
    rows = [_beam_row(found, has_points) for found in check.beams]
    columns = [
        Column("Beam", "name"), Column("Energy", "text"), Column("Meterset"), Column("Gantry"), Column("Collimator"),
        Column("Couch"), Column("Control points"), Column("Mean gap"), Column("Small apertures"),
    ]  # fmt: skip
    if has_points:
        columns += [Column("Point, planned"), Column("Recalculated"), Column("Difference")]
    lead = (
        "Meterset and point doses of one fraction. Small apertures: share of the meterset with a mean gap below 2 cm."
    )
    if not has_points:
        lead += " The plan states no dose of a beam at a point."
    return Table("beams", "Beams", lead, tuple(columns), tuple(rows))


def _beam_row(found: BeamFound, has_points: bool) -> Row:
    row = found.row
    gantry = figure(row.gantry_from_deg, 0) + "\u00b0"
    if row.arc_deg > 0:
        gantry += f" \u2192 {figure(row.gantry_to_deg, 0)}\u00b0"
    cells = [
        Cell(f"{row.number} {row.name}", note="; ".join(filter(None, (row.machine, found.machine, found.doubt)))),
        Cell(row.energy),
        Cell(figure(row.meterset_mu, 1, "MU")),
        Cell(gantry),
        Cell(figure(row.collimator_deg, 0) + "\u00b0"),
        Cell(figure(row.couch_deg, 0) + "\u00b0"),
        Cell(str(row.control_points)),
        Cell(figure(10 * row.mean_gap_cm, 0, "mm")),
        Cell(figure(row.small_share_percent, 0, "%")),
    ]
    if has_points:
        cells += [
            Cell(figure(row.planned_point_dose_gy, 3, "Gy")),
            Cell(figure(found.recalculated_point_dose_gy, 3, "Gy")),
            Cell(_percent(found.difference_percent)),
        ]
    return Row(tuple(cells))


def _facts(check: Check) -> Table | None:
    if not check.facts:
        return None
    beams = [found.row.number for found in check.beams]
    found = {(fact.name, fact.beam): fact for fact in check.facts}
    rows = []
    for name in dict.fromkeys(fact.name for fact in check.facts):
        facts = [found.get((name, beam)) for beam in (0, *beams)]
        there = [fact for fact in facts if fact is not None]
        cells = [
            Cell(figure(fact.value, _digits(fact.unit), _units(fact.unit)),
                 "outside" if fact.severity == "attention" else "") if fact is not None else Cell("")
            for fact in facts
        ]  # fmt: skip
        words = name.replace("_", " ").replace("mu per gray", "MU per gray")
        rows.append(Row((Cell(words[:1].upper() + words[1:], note=there[0].note), *cells)))
    columns = (Column("", "name"), Column("Plan"), *(Column(f"Beam {beam}") for beam in beams))
    lead = (
        "What the plan says without a dose. Numbers that deserve attention are marked; they do not bear on the verdict."
    )
    return Table("plan", "Plan facts", lead, columns, tuple(rows))


def _findings(check: Check) -> Table | None:
    if not check.findings:
        return None
    words = {"problem": ("problem", "outside"), "attention": ("attention", ""), "information": ("information", "soft")}
    rows = tuple(
        Row((Cell(words[finding.severity][0], words[finding.severity][1]), Cell(_sentence(finding.text))))
        for finding in check.findings
    )
    columns = (Column("Kind", "name"), Column("Finding", "text"))
    return Table("findings", "Findings", "About the files, the doses and their difference.", columns, rows)


# --- structures and places --------------------------------------------------------------------------------------------

_ORDER = {"target": 0, "cord": 1, "organ": 2, "other": 3, "support": 4, "body": 5}


def _pens(check: Check) -> tuple[Pen, ...]:
    """One pen a structure that has an extent: targets, cords, organs, the rest, the body."""
    drawn = check.structures.structures if check.structures is not None else ()
    by_name = {found.name: found for found in check.found}
    body = find_external(check.structures) if check.structures is not None else None

    def role(structure: Structure) -> str:
        if structure is body:
            return "body"
        return by_name[structure.name].role if structure.name in by_name else "other"

    drawn = tuple(sorted(filter(_has_extent, drawn), key=lambda structure: _ORDER[role(structure)]))
    limited = {line.structure for line in check.evaluation.lines} if check.evaluation is not None else set()
    few = sum(role(structure) in ("target", "cord", "organ") for structure in drawn) <= FEW
    pens: list[Pen] = []
    for place, structure in enumerate(drawn):
        kind = role(structure)
        is_shown = kind in ("target", "cord", "body") or structure.name in limited or (few and kind == "organ")
        color = BODY_COLOR if kind == "body" else _color(len(pens))
        width = {"target": 2.0, "body": 1.0}.get(kind, 1.5)
        pens.append(Pen(f"s{place}", structure, color, width, is_shown, by_name.get(structure.name)))
    return tuple(pens)


def _color(place: int) -> str:
    """Colours in turn; from the second turn on lighter, then darker."""
    turn, place = divmod(place, len(PALETTE))
    red, green, blue = (int(PALETTE[place][k : k + 2], 16) for k in (1, 3, 5))
    share = (0.0, 0.4, -0.3)[turn % 3]
    mixed = [round(c + share * ((255 if share > 0 else 0) - c) * (1 if share > 0 else -1)) for c in (red, green, blue)]
    return "#" + "".join(f"{channel:02X}" for channel in mixed)


def _has_extent(structure: Structure) -> bool:
    """Whether it can be drawn: contours, in more than one plane or with a known spacing."""
    if not structure.contours_cm:
        return False
    try:
        low, high = bounds_cm(structure)
    except InvalidInput:
        return False
    return bool(np.all(high > low))


def _places(check: Check) -> tuple[Place, ...]:
    places = []
    target, cord = _target(check), _cord(check)
    if target is not None:
        low, high = bounds_cm(target)
        places.append(Place(target.name, _point((low + high) / 2)))
    reference = check.dose.volume if check.planned is None else check.planned.dose
    hottest = _hottest(cord, reference) if cord is not None else None
    if cord is not None and hottest is not None:
        places.append(Place(f"Hottest point of {cord.name}", hottest))
    if check.gammas:
        gamma = check.gammas[0].whole.gamma
        places.append(Place("Largest gamma", _voxel(gamma.grid, int(np.nanargmax(gamma.values)))))
    isocentres = dict.fromkeys(_point(beam.isocentre_cm) for beam in check.plan.beams)
    places += [Place("Isocentre", point) for point in list(isocentres)[:1]]
    ct = check.ct.hu.grid
    inside = [p for p in places if np.all(p.point_cm >= ct.lower_cm) and np.all(p.point_cm <= ct.upper_cm)]
    return tuple(inside) or (Place("Dose maximum", _voxel(reference.grid, int(np.argmax(reference.values)))),)


def _target(check: Check) -> Structure | None:
    """The target to look at: of those of type PTV, else of all, the one that receives most."""

    def place(target: StructureFound) -> tuple[bool, float]:
        curve = target.recalculated or target.planned
        return target.type.upper() != "PTV", -curve.mean_gy if curve is not None else 0.0

    found = sorted(check.of_role("target"), key=place)
    return _first_drawn(check, found)


def _cord(check: Check) -> Structure | None:
    """The cord to look at: the smallest, which is the one without a margin."""
    return _first_drawn(check, sorted(check.of_role("cord"), key=lambda cord: cord.volume_cm3))


def _first_drawn(check: Check, found: Iterable[StructureFound]) -> Structure | None:
    drawn = (check.structure(one.name) for one in found)
    return next((structure for structure in drawn if structure is not None and _has_extent(structure)), None)


def _hottest(structure: Structure, dose: Volume) -> Point | None:
    """Voxel of the highest dose of which at least half lies inside, else of any that touches it [cm]."""
    inside = mask(structure, dose.grid).values
    for least in (0.5, 1e-3):
        if (chosen := inside >= least).any():
            return _voxel(dose.grid, int(np.argmax(np.where(chosen, dose.values, -1.0))))
    return None


def _voxel(grid: Grid, index: int) -> Point:
    place = np.unravel_index(index, grid.shape)
    return _point(np.asarray(grid.origin_cm) + np.asarray(grid.spacing_cm) * place[::-1])


def _point(values: Array) -> Point:
    x, y, z = (float(value) for value in values)
    return x, y, z


# --- charts -----------------------------------------------------------------------------------------------------------


def _histograms(pens: Sequence[Pen], prescription_gy: float) -> Chart | None:
    curves = [(pen, pen.found) for pen in pens if pen.found is not None]
    pairs = [
        (pen, curve, dash)
        for pen, found in curves
        for curve, dash in ((found.planned, PLANNED_DASH), (found.recalculated, ()))
        if curve is not None
    ]
    if not pairs:
        return None
    ends = [curve.dose_at_percent(HOTTEST_PERCENT) for _, curve, _ in pairs]
    end = spread([*ends, prescription_gy], least=0.1)[1]
    lines = tuple(_histogram(pen, curve, dash, end) for pen, curve, dash in pairs)
    marks = (Mark(prescription_gy, f"prescribed {prescription_gy:g} Gy"),) if prescription_gy > 0 else ()
    return Chart("Dose-volume histograms", "dose [Gy]", "volume [%]", (0.0, end), (0.0, 101.0), lines, marks=marks)


def _histogram(pen: Pen, curve: Dvh, dash: tuple[float, ...], end: float) -> Line:
    doses = np.linspace(0.0, end, DVH_POINTS)
    percent = 100 * curve.volume_at_dose(doses) / curve.covered_cm3[-1]
    percent[np.flatnonzero(percent == 0)[1:]] = np.nan  # a curve ends where it meets the axis
    return Line(doses, percent, pen.color, dash, 1.7, pen.structure.name, pen.key)


def _about_dvh(check: Check) -> str:
    kinds = "Full lines: recalculated; dashed: planned. " if check.planned is not None else ""
    return kinds + "Doses of the whole treatment."


def _profile_point(places: Sequence[Place]) -> Place | None:
    """The point for profiles: of the cord, else of the target."""
    for place in places:
        if place.label.startswith("Hottest point"):
            return Place(f"the hottest point of {place.label.removeprefix('Hottest point of ')}", place.point_cm)
    return places[0] if places else None


def _about_profiles(about: Place, doses: int) -> str:
    x, y, z = (figure(10 * value, 1) for value in about.point_cm)
    more = " Interpolated between the voxels of the dose."
    if doses > 1:
        more = " Full lines: recalculated; dashed: planned. Both doses are interpolated on their own voxels."
    return f"At x = {x}, y = {y}, z = {z} mm (DICOM).{more}"


_DIRECTIONS = (("Right to left", "x"), ("Anterior to posterior", "y"), ("Inferior to superior", "z"))


def _profiles(about: Place, doses: Mapping[str, Volume], banded: Sequence[Pen]) -> tuple[Chart, ...]:
    """Doses along the three axes through a point, with the stretches inside some structures."""
    charts = []
    looks = {"planned": ("#5B6673", PLANNED_DASH), "recalculated": ("#0B5F73", ())}
    for axis, (title, letter) in enumerate(_DIRECTIONS):
        low, high = _reach(about.point_cm[axis], axis, doses.values())
        along = np.arange(low, high + 1e-9, PROFILE_STEP_CM)
        points = np.tile(np.asarray(about.point_cm), (len(along), 1))
        points[:, axis] = along
        lines = tuple(
            Line(10 * along, volume.sample(points), *looks[name], 1.7, name) for name, volume in doses.items()
        )
        end = spread([float(np.nanmax(line.y)) for line in lines if np.isfinite(line.y).any()], least=0.1)
        bands = tuple(
            Band(10 * a, 10 * b, pen.color, pen.structure.name)
            for pen in banded
            for a, b in _stretches(pen.structure, about.point_cm, axis, along)
        )
        charts.append(Chart(title, f"{letter} [mm]", "dose [Gy]", (10 * low, 10 * high), end, lines, bands))
    return tuple(charts)


def _reach(at: float, axis: int, volumes: Iterable[Volume]) -> tuple[float, float]:
    """From where to where a profile runs: some way to both sides, within every dose [cm]."""
    low, high = at - PROFILE_CM, at + PROFILE_CM
    for volume in volumes:
        low, high = max(low, volume.grid.lower_cm[axis]), min(high, volume.grid.upper_cm[axis])
    return (float(low), float(high)) if high - low > 1.0 else (at - 0.5, at + 0.5)


def _stretches(structure: Structure, point: Point, axis: int, along: Array) -> list[tuple[float, float]]:
    """Where a line through a point along an axis lies inside a structure: from and to [cm]."""
    origin, shape, spacing = list(point), [1, 1, 1], [0.01, 0.01, 0.01]
    origin[axis], shape[2 - axis], spacing[axis] = float(along[0]), len(along), PROFILE_STEP_CM
    inside = mask(structure, Grid(tuple(origin), tuple(spacing), tuple(shape))).values.ravel() >= 0.5  # type: ignore[arg-type]
    edges = np.flatnonzero(np.diff(np.concatenate([[False], inside, [False]]).astype(int)))
    half = PROFILE_STEP_CM / 2
    return [(float(along[a]) - half, float(along[b - 1]) + half) for a, b in zip(edges[::2], edges[1::2], strict=True)]
