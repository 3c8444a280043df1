"""The report of a commissioning or a check: every measured curve with the calculated one, differences and numbers.

Writes pictures (PNG) and one HTML page that holds them, so that the page can be sent around and kept; it loads nothing
from elsewhere and has no scripts. The worst curves come first.
"""

from __future__ import annotations

import base64
import html
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spinedose._files import aside, expect_replaceable
from spinedose._version import __version__
from spinedose.agreement import Agreement, Judgement, agreement_of, is_output_factor
from spinedose.commission import Curve, Fitted
from spinedose.errors import InvalidInput
from spinedose.report.pictures import _figure_class, _save, _sign

Array = NDArray[np.float64]

NOTICE = "Not a medical device. Not for clinical use without local commissioning."

WORST = 3
"""Curves that come first."""

COLUMNS, MOST_ROWS = 3, 4
"""Curves side by side and above each other in one picture; more make a further picture."""

CELL_INCHES = (4.6, 3.9)
INK, LINE, EDGE, BANDS = "#222222", "#0072B2", "#999999", ("#B9D9A8", "#E3F0DB")
"""Measured points, calculated line, points of the penumbra in the difference, bands of 1 and 2 %."""

LEAST_SCALE, MOST_SCALE = 3.0, 10.0
"""The scale of a difference reaches this far at least and at most [%]; points beyond it are drawn as arrows at its
end."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the report says besides curves.

    Parameters
    ----------
    title : str
        Heading.
    verdict : sequence of str
        The most important lines, first on the page.
    rows : mapping of str to str
        Facts in two columns: machine, data, version.
    parameters : sequence of Fitted
        As in `Commissioning`.
    correlated : sequence of (str, str, float)
        As in `Commissioning`.
    warnings : sequence of str
        What the reader must know.
    judgements : sequence of Judgement
        Numbers with their limits, when a model was checked.
    """

    title: str
    verdict: Sequence[str] = ()
    rows: Mapping[str, str] | None = None
    parameters: Sequence[Fitted] = ()
    correlated: Sequence[tuple[str, str, float]] = ()
    warnings: Sequence[str] = ()
    judgements: Sequence[Judgement] = ()


@dataclass(frozen=True, slots=True)
class _Picture:
    """A picture that was written."""

    path: Path
    heading: str
    text: str


def write_report(
    page: str | Path,
    curves: Iterable[tuple[Curve, Array]],
    facts: Facts,
    *,
    left_out: Iterable[tuple[Curve, Array]] = (),
) -> tuple[Path, ...]:
    """Write the page and its pictures.

    Parameters
    ----------
    page : str or Path
        The HTML file, in a folder that is there. Pictures go into a folder of the same name beside it, without `.html`.
    curves : iterable of (Curve, ndarray)
        Such as `Commissioning.curves`.
    facts : Facts
        What else to say.
    left_out : iterable of (Curve, ndarray)
        Curves that were kept out of the fit, shown apart.

    Returns
    -------
    tuple of Path
        The page, then the pictures.

    Raises
    ------
    SpinedoseError
        If matplotlib is not installed.
    InvalidInput
        If there is no curve, or the files cannot be written.
    """
    page = Path(page)
    expect_replaceable(page)
    found, apart = agreement_of(curves), agreement_of(left_out)
    if not (found or apart):
        raise InvalidInput("There is no curve to report", "nothing was measured or calculated")
    figure_class, folder = _figure_class(), page.with_suffix("")
    try:
        folder.mkdir(exist_ok=True)
        pictures = [_draw(figure_class, folder, *sheet, facts.title) for sheet in _sheets(found, apart)]
        _remove_old(folder, {picture.path.name for picture in pictures})
        text = _page(facts, found, apart, pictures)
        with aside(page) as part:
            part.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise InvalidInput(f"The report '{page}' cannot be written", str(error.strerror or error)) from error
    return (page, *(picture.path for picture in pictures))


def _remove_old(folder: Path, kept: Set[str]) -> None:
    """Remove pictures that an earlier report left in its folder: they show curves that this one does not have."""
    for path in folder.glob("*.png"):
        if path.name not in kept and _OWN.fullmatch(path.stem):
            path.unlink()


def worst_first(agreements: Iterable[Agreement]) -> tuple[Agreement, ...]:
    """Curves by their misfit in standard deviations, the worst first."""
    return tuple(sorted(agreements, key=lambda item: -item.misfit))


# ---------------------------------------------------------------------------------------------- pictures

_OWN = re.compile(r"worst|(left_out_)?output|(depth_doses|left_out|profiles_[\d.]+x[\d.]+)(_\d+)?")
"""Names of pictures that a report makes; others in its folder belong to somebody else."""

_Sheet = tuple[str, str, str, Sequence[Agreement]]
"""File name, heading, explanation, curves."""

_ABOUT_DEPTH = (
    "Scaled to the measurement at 10 cm depth where the field was measured there: what is left is the shape. "
    "Difference in % of the dose maximum."
)
_ABOUT_PROFILES = "Relative to the axis. Difference in % of the axis; grey: penumbra, where a small shift counts much."


def _sheets(found: Sequence[Agreement], apart: Sequence[Agreement]) -> Iterator[_Sheet]:
    """What is drawn, in the order of the page."""
    curves = [item for item in found if not is_output_factor(item.curve)]
    if len(curves) > WORST:
        worst = worst_first(curves)[:WORST]
        yield (
            "worst",
            "The worst three curves",
            "Of depth doses and profiles, by misfit in standard deviations of the points.",
            worst,
        )
    yield from _split("depth_doses", "Depth doses", _ABOUT_DEPTH, [c for c in curves if not c.curve.is_profile])
    with_output = [item for item in found if not math.isnan(item.output_percent)]
    if with_output:
        about = (
            "Relative to 10 x 10 cm, or to the field that the tables name, against the side of the square of equal "
            "area-to-perimeter ratio."
        )
        yield "output", "Output", about, with_output
    fields = sorted({c.curve.field_cm for c in curves if c.curve.is_profile})
    for field in fields:
        size = "x".join(f"{side:g}" for side in field)
        chosen = [c for c in curves if c.curve.is_profile and c.curve.field_cm == field]
        yield from _split(f"profiles_{size}", f"Profiles {size} cm", _ABOUT_PROFILES, chosen)
    drawn = [item for item in apart if not is_output_factor(item.curve)]
    yield from _split("left_out", "Left out of the fit", "Curves that the fit did not see.", drawn)
    with_output = [item for item in apart if not math.isnan(item.output_percent)]
    if with_output:
        yield "left_out_output", "Output, left out of the fit", "Fields that the fit did not see.", with_output


def _split(name: str, heading: str, text: str, chosen: Sequence[Agreement]) -> Iterator[_Sheet]:
    """Sheets of at most so many curves."""
    most = COLUMNS * MOST_ROWS
    for n, start in enumerate(range(0, len(chosen), most), start=1):
        more = f"_{n}" if n > 1 else ""
        yield f"{name}{more}", f"{heading} ({n})" if n > 1 else heading, text, chosen[start : start + most]


def _draw(
    figure_class: Any, folder: Path, name: str, heading: str, text: str, chosen: Sequence[Agreement], title: str
) -> _Picture:
    """One picture: a cell for each curve."""
    is_output = name.endswith("output")
    cells = 1 if is_output else len(chosen)
    columns = min(COLUMNS, cells)
    rows = math.ceil(cells / columns)
    size = (max(columns * CELL_INCHES[0], 7.0), rows * CELL_INCHES[1] + 1.1)
    figure = figure_class(figsize=size, facecolor="white")
    head, foot = (0.6 if is_output else 1.05) / size[1], 0.12 / size[1]
    outer = figure.add_gridspec(
        rows, columns, left=0.62 / size[0], right=1 - 0.15 / size[0], bottom=foot + 0.48 / size[1],
        top=1 - head - 0.1 / size[1], wspace=0.22, hspace=0.34,
    )  # fmt: skip
    for n in range(cells):
        inner = outer[n // columns, n % columns].subgridspec(2, 1, height_ratios=(2.1, 1), hspace=0.06)
        above, below = figure.add_subplot(inner[0]), figure.add_subplot(inner[1])
        if is_output:
            _draw_output(above, below, chosen)
        else:
            _draw_curve(above, below, chosen[n])
        for panel in (above, below):
            panel.grid(color="#E4E4E4", linewidth=0.6)
            panel.set_axisbelow(True)
            panel.tick_params(labelsize=8)
        above.tick_params(labelbottom=False)
        above.set_xlim(below.get_xlim())
        figure.align_ylabels((above, below))
    handles = _legend_handles(is_output)
    figure.legend(
        handles=handles, loc="upper center", ncols=len(handles), fontsize=8.5, frameon=False,
        bbox_to_anchor=(0.5, 1 - 0.32 / size[1]),
    )  # fmt: skip
    figure.suptitle(f"{title}: {heading}", fontsize=12, y=1 - 0.12 / size[1], va="top")
    _sign(figure)
    return _Picture(_save(figure, folder / f"{name}.png"), heading, text)


def _legend_handles(is_output: bool) -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    dots: dict[str, Any] = {"marker": "o", "linestyle": "none", "markersize": 4}
    handles: list[Any] = [
        Line2D([], [], color=INK, label="measured", **dots),
        Line2D([], [], color=LINE, label="calculated", **({**dots, "marker": "x"} if is_output else {})),
    ]
    handles += [Patch(facecolor=band, label=f"± {n} %") for n, band in enumerate(BANDS, start=1)]
    return handles


def _draw_curve(above: Any, below: Any, item: Agreement) -> None:
    """Measured and calculated, and below it what is between them."""
    curve = item.curve
    x, unit = curve.positions_cm, 100 / item.full
    above.plot(x, unit * curve.values, "o", color=INK, markersize=2.6, zorder=3)
    # a scaled curve is drawn as it is compared
    above.plot(x, unit * curve.values + item.difference_percent, color=LINE, linewidth=1.3, zorder=2)
    low, high = float(unit * curve.values.min()), float(unit * curve.values.max())
    above.set_ylim(0 if low < 60 else 10 * math.floor(0.09 * low), 1.06 * high)
    above.set_title(f"{item.title}\n{telling(item)}", fontsize=8.5, loc="left", linespacing=1.25)
    above.set_ylabel("dose [% of axis]" if curve.is_profile else "dose [% of max.]", fontsize=8.5)
    is_edge = item.parts == "penumbra"
    _draw_difference(below, x[~is_edge], item.difference_percent[~is_edge], LINE, item.difference_percent)
    if is_edge.any():
        _draw_difference(below, x[is_edge], item.difference_percent[is_edge], EDGE, item.difference_percent)
    span = 0.02 * (x[-1] - x[0])
    below.set_xlim(x[0] - span, x[-1] + span)
    below.set_xlabel("off-axis distance [cm]" if curve.is_profile else "depth [cm]", fontsize=8.5)


def telling(item: Agreement) -> str:
    """The numbers of a curve that matter, in a line."""
    worst = {region.name: region.worst_percent for region in item.regions}
    parts = [f"{name} {worst[name]:+.1f} %" for name in worst if name != "penumbra"]
    if math.isfinite(item.penumbra_difference_cm):
        parts.append("80–20 {:.1f} mm, calc. {:.1f}".format(*item.penumbra_mm))
    if math.isfinite(item.output_percent):
        parts.append(f"output {item.output_percent:+.1f} %")
    return f"{'worst ' if worst else ''}{', '.join(parts)}"


def _draw_difference(panel: Any, x: Array, percent: Array, color: str, every: Array) -> None:
    """Differences over bands; those beyond the scale become arrows at its end."""
    scale = float(np.clip(math.ceil(1.1 * np.abs(every).max()), LEAST_SCALE, MOST_SCALE))
    if not panel.lines:
        panel.axhspan(-2, 2, color=BANDS[1], linewidth=0, zorder=0)
        panel.axhspan(-1, 1, color=BANDS[0], linewidth=0, zorder=0)
        panel.axhline(0, color="#777777", linewidth=0.6, zorder=1)
        panel.set_ylim(-scale, scale)
        panel.set_ylabel("calc. − meas. [%]", fontsize=8.5)
    is_in = np.abs(percent) <= scale
    panel.plot(x[is_in], percent[is_in], "o", color=color, markersize=2.4, zorder=3)
    for sign, marker in ((1, "^"), (-1, "v")):
        far = ~is_in & (np.sign(percent) == sign)
        panel.plot(x[far], np.full(int(far.sum()), 0.94 * sign * scale), marker, color=color, markersize=4, zorder=3)


def _draw_output(above: Any, below: Any, chosen: Sequence[Agreement]) -> None:
    """Outputs against the equivalent square."""
    side = np.array([_equivalent_square_cm(item.curve.field_cm) for item in chosen])
    percent = np.array([item.output_percent for item in chosen])
    measured = np.array([_output(item) for item in chosen])
    above.plot(side, measured, "o", color=INK, markersize=4, zorder=3)
    above.plot(side, measured * (1 + percent / 100), "x", color=LINE, markersize=6, zorder=4)
    above.set_ylabel("output relative to 10 x 10 cm", fontsize=8.5)
    _draw_difference(below, side, percent, LINE, percent)
    span = 0.05 * max(float(np.ptp(side)), 2.0)
    below.set_xlim(float(side.min()) - span, float(side.max()) + span)
    below.set_xlabel("side of the equivalent square [cm]", fontsize=8.5)


def _output(item: Agreement) -> float:
    """Measured output relative to the reference field, at the depth where it was told from."""
    from spinedose.commission import REFERENCE_DEPTH_CM

    return float(np.interp(REFERENCE_DEPTH_CM, item.curve.positions_cm, item.curve.values))


def _equivalent_square_cm(field_cm: tuple[float, float]) -> float:
    return 2 * field_cm[0] * field_cm[1] / (field_cm[0] + field_cm[1])


# ---------------------------------------------------------------------------------------------- page

_STYLE = """
body { font: 15px/1.45 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; color: #1c1c1c; margin: 0 auto;
  padding: 1.2em 1.5em 3em; max-width: 1240px; }
h1 { font-size: 1.6em; margin: .4em 0 .3em; } h2 { font-size: 1.2em; margin: 2em 0 .4em; }
.notice { background: #b00000; color: #fff; padding: .45em .8em; border-radius: 4px; font-weight: 600; }
.verdict { font-size: 1.05em; margin: .8em 0; padding: .6em .9em; background: #f2f5f8; border-left: 4px solid #0072b2; }
.verdict p { margin: .15em 0; } .verdict p:first-child { font-weight: 600; }
table { border-collapse: collapse; margin: .5em 0; font-size: .9em; } .wide { overflow-x: auto; }
th, td { padding: .2em .7em; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
th { border-bottom: 2px solid #999; } td.t, th.t { text-align: left; } td.l { text-align: left; white-space: normal; }
td.bad { color: #b00000; font-weight: 600; } tr.kept td { color: #777; }
summary { cursor: pointer; color: #0072b2; margin: .4em 0; }
img { max-width: 100%; height: auto; display: block; margin: .4em 0 1.2em; }
.small { color: #555; font-size: .88em; max-width: 60em; } ul { margin: .3em 0; padding-left: 1.3em; }
@media print { body { max-width: none; } h2 { break-after: avoid; } img { break-inside: avoid; } }
"""


def _page(facts: Facts, found: Sequence[Agreement], apart: Sequence[Agreement], pictures: Sequence[_Picture]) -> str:
    """The HTML text."""
    shown = {picture.path.stem: picture for picture in pictures}
    parts = [
        "<!DOCTYPE html>", '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{_safe(facts.title)}</title><style>{_STYLE}</style></head><body>",
        f'<p class="notice">{NOTICE}</p>', f"<h1>{_safe(facts.title)}</h1>",
    ]  # fmt: skip
    if facts.verdict:
        parts.append(f'<div class="verdict">{"".join(f"<p>{_safe(line)}</p>" for line in facts.verdict)}</div>')
    if facts.judgements:
        parts += _judgement_table(facts.judgements)
    if "worst" in shown:
        parts += _shown(shown.pop("worst"))
    if facts.warnings:
        parts.append("<h2>Warnings</h2><ul>" + "".join(f"<li>{_safe(text)}</li>" for text in facts.warnings) + "</ul>")
    parts += _parameter_table(facts.parameters)
    parts += _correlations(facts.correlated)
    parts += _curve_table("Curves, the worst first", found)
    parts += _curve_table("Left out of the fit, the worst first", apart)
    for picture in shown.values():
        parts += _shown(picture)
    if facts.rows:
        rows = "".join(
            f'<tr><td class="t">{_safe(key)}</td><td class="l">{_safe(value)}</td></tr>'
            for key, value in facts.rows.items()
        )
        parts.append(f"<h2>Where this comes from</h2><table>{rows}</table>")
    parts.append(f'<p class="small">spinedose {__version__}. {NOTICE}</p></body></html>')
    return "\n".join(parts) + "\n"


def _shown(picture: _Picture) -> list[str]:
    data = base64.b64encode(picture.path.read_bytes()).decode("ascii")
    return [
        f'<h2>{_safe(picture.heading)}</h2><p class="small">{_safe(picture.text)}</p>',
        f'<img alt="{_safe(picture.heading)}: measured and calculated" src="data:image/png;base64,{data}">',
    ]


def _parameter_table(parameters: Sequence[Fitted]) -> list[str]:
    if not parameters:
        return []
    rows = []
    for p in sorted(parameters, key=lambda p: not math.isfinite(p.sigma)):
        kept = "" if math.isfinite(p.sigma) else ' class="kept"'
        bad = ' class="t bad"' if p.status == "at its bound" else ' class="t"'
        cells = (
            f'<td class="t">{_safe(p.name)}</td><td>{p.value:.4g}</td><td>{_sigma(p.sigma)}</td><td>{p.start:.4g}</td>'
        )
        rows.append(f"<tr{kept}>{cells}<td{bad}>{_safe(p.status)}</td></tr>")
    head = (
        '<tr><th class="t">parameter</th><th>value</th><th>± 1 sigma</th><th>start</th><th class="t">status</th></tr>'
    )
    text = (
        "Units are in the names. Sigma comes from the scatter of the points about the fit; errors that all scans share "
        "are not in it. Offsets of jaws and the depth shift belong to the measurement, not to the beam."
    )
    return ["<h2>Parameters</h2>", f'<p class="small">{text}</p>', f"<table>{head}{''.join(rows)}</table>"]


def _sigma(value: float) -> str:
    return f"{value:.2g}" if math.isfinite(value) else "–"


def _correlations(correlated: Sequence[tuple[str, str, float]]) -> list[str]:
    if not correlated:
        return []
    rows = "".join(
        f'<tr><td class="t">{_safe(a)}</td><td class="t">{_safe(b)}</td><td>{c:+.3f}</td></tr>'
        for a, b, c in sorted(correlated, key=lambda pair: -abs(pair[2]))
    )
    text = "These pairs can hardly be told apart: the sum of their effects is known, each alone is not."
    head = '<tr><th class="t">parameter</th><th class="t">and</th><th>correlation</th></tr>'
    return [f'<h2>Correlations</h2><p class="small">{text}</p><table>{head}{rows}</table>']


def _judgement_table(judgements: Sequence[Judgement]) -> list[str]:
    """What is outside its limit, the worst first; the rest is there to be unfolded."""
    ordered = sorted(judgements, key=lambda j: -j.badness)
    outside, within = ([j for j in ordered if j.is_within is wanted] for wanted in (False, True))
    parts = ["<h2>Against the limits</h2>"]
    if outside:
        parts.append(_rows_of_judgements(outside))
    if within:
        parts.append(f"<details><summary>{len(within)} within their limits</summary>")
        parts.append(f"{_rows_of_judgements(within)}</details>")
    sources = {f"{j.quantity} {j.limit:g} {j.unit}": j.source for j in judgements if j.source}
    told = "; ".join(f"{what}: {source}" for what, source in sorted(sources.items()))
    return [*parts, f'<p class="small">Limits. {_safe(told)}.</p>'] if told else parts


def _rows_of_judgements(judgements: Sequence[Judgement]) -> str:
    rows = []
    for item in judgements:
        verdict = '<td class="t">within</td>' if item.is_within else '<td class="t bad">outside</td>'
        texts = [f'<td class="t">{_safe(text)}</td>' for text in (item.what, item.quantity, item.where)]
        numbers = f"<td>{item.value:+.2f} {item.unit}</td><td>{item.limit:g} {item.unit}</td>"
        rows.append(f"<tr>{verdict}{texts[0]}{texts[1]}{numbers}{texts[2]}</tr>")
    head = (
        '<tr><th class="t">verdict</th><th class="t">curve</th><th class="t">quantity</th><th>difference</th>'
        '<th>limit</th><th class="t">where</th></tr>'
    )
    return f'<div class="wide"><table>{head}{"".join(rows)}</table></div>'


def _curve_table(heading: str, found: Sequence[Agreement]) -> list[str]:
    """Residuals of every curve."""
    if not found:
        return []
    rows = []
    for item in worst_first(found):
        parts = {region.name: region for region in item.regions}
        measured, calculated = item.penumbra_mm
        widths = f"{measured:.1f} / {calculated:.1f}" if math.isfinite(measured + calculated) else ""
        cells = [
            f"{len(item.curve.values)}", f"{item.misfit:.1f}", f"{item.mean_percent:+.2f}", f"{item.rms_percent:.2f}",
            *(f"{parts[name].worst_percent:+.2f}" if name in parts else ""
              for name in ("build-up", "beyond", "in-field", "penumbra", "tail")),
            widths, "" if math.isnan(item.output_percent) else f"{item.output_percent:+.2f}",
        ]  # fmt: skip
        rows.append(f'<tr><td class="t">{_safe(item.title)}</td>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>')
    head = (
        '<tr><th class="t" rowspan="2">curve</th><th rowspan="2">points</th><th rowspan="2">misfit</th><th rowspan="2">'
        'mean</th><th rowspan="2">rms</th><th colspan="5">worst in</th><th rowspan="2">80–20 mm</th>'
        '<th rowspan="2">output</th></tr><tr><th>build-up</th><th>beyond</th><th>in-field</th><th>penumbra</th>'
        "<th>tail</th></tr>"
    )
    text = (
        "Calculated minus measured, in % of the axis (profiles) or of the dose maximum (depth doses). Misfit: root "
        "mean square in standard deviations of the points; about 1 is as good as the data. 80–20: penumbra measured / "
        "calculated, mean of both sides; in fields of 5 cm and more relative to the dose at 80 % of the half width."
    )
    return [
        f'<h2>{_safe(heading)}</h2><p class="small">{text}</p>',
        f'<div class="wide"><table>{head}{"".join(rows)}</table></div>',
    ]


def _safe(text: str) -> str:
    return html.escape(text)
