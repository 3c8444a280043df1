"""The report on paper: the record of a check on two to four A4 pages, with text that can be selected.

It says what the page of `spinedose.report.html` says, in the same words, and shows the slices that matter: through the
target and through the hottest point of the cord. Lines are drawn as lines, voxels as pictures.
"""

from __future__ import annotations

import io
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import groupby, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray

from spinedose.errors import SpinedoseError
from spinedose.grid import Volume
from spinedose.report._files import written_whole
from spinedose.report.charts import GRID, INK, SOFT, Chart, Frame, number, pieces, ticks
from spinedose.report.content import COLOR_MAPS, DASH, ISODOSES, Cell, Content, Pen, Place, Row, Table, content_of
from spinedose.report.pictures import _PLANES, _View
from spinedose.structures import mask

if TYPE_CHECKING:
    from spinedose.check import Check

Array = NDArray[np.float64]

MM = 72 / 25.4
"""Points, the unit of PDF, in a millimetre of paper."""
MARGIN_MM, WIDTH_MM = 15.0, 180.0
"""Of an A4 page: beside the text, and of the text."""

TONES = {"within": ("#0B5F73", "#E8F2F4"), "outside": ("#A63A00", "#FDF0E7"), "none": ("#4C5560", "#EEF0F2")}
"""Letters and ground for each tone."""

HALF_VIEW_CM = (7.5, 6.4)
"""Half the width and the height of a slice [cm]."""
PIXEL_CM = 0.04
"""Of a slice: 160 for an inch of paper."""
FINEST = 0.2
"""Details of a line that can be seen [points]."""
WINDOW_HU = (-160.0, 500.0)
"""Grey window: wide enough to tell spongy from cortical bone."""
DIFFERENCE_PERCENT = 5.0
"""End of the scale of differences [% of the reference dose]."""
LEAST_SHOWN = 0.10
"""Doses below this share of the scale are not coloured."""

MOST_PAGES = 4
ROOMS = (1.0, 0.7, 0.45, 0.25, 0.1)
"""Shares of the rows below that are tried until the pages are few enough; the page has the rest, and the paper says
so."""
SPARED_BELOW = {"plan": 0.4, "gamma": 0.4, "quality": 0.2}
"""Tables that are left to the page when there is less room: criteria and findings say what matters of them."""
MOST_ROWS = {
    "findings": 14, "limits": 24, "metrics": 24, "eqd2": 12, "gamma": 10, "quality": 14, "beams": 12, "plan": 14,
}  # fmt: skip
LEAST_ROWS = {"findings": 8, "quality": 7, "limits": 6, "metrics": 6, "eqd2": 4}
MOST_SENTENCES, MOST_REASONS = 16, 8
"""Rows of tables by their anchors, at most and at least, sentences of a list, and reasons beside the verdict."""
DVH_MM, LOW_DVH_MM = 66.0, 44.0
"""Height of histograms, and where less than half of the room is left."""
PAPER_METRICS = {
    "target": ("Mean", "D95%", "D2%"),
    "cord": ("D0.03cc", "D10%", "Mean"),
    "organ": ("D0.03cc", "Mean"),
}
"""Dose metrics on paper, by the role of the structure; where room is scarce the first of them."""
UNPRINTED = (
    "Some names have signs that this record cannot print: their Unicode numbers stand for them, as in [U+810A]. The "
    "HTML report shows them as they are."
)
"""Said where letters are missing; a font with all of them would be larger than spinedose."""
PAPER_EQD2 = {"target": "D95%", "cord": "D0.03cc"}
"""EQD2 on paper."""


def write_pdf(check: Check, path: str | Path) -> Path:
    """Write the record of a check.

    Parameters
    ----------
    check : Check
        What was found; `check.anonymous()` for a record without patient identifiers.
    path : str or Path
        The file, in a folder that is there; it appears whole or not at all.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    SpinedoseError
        If reportlab or matplotlib is not installed.
    InvalidInput
        If the file cannot be written.
    """
    for name in ("contourpy", "matplotlib", "reportlab"):
        if find_spec(name) is None:
            raise SpinedoseError(
                "The report cannot be written",
                f"{name} is not installed",
                "Install it: pip install 'spinedose[report]'",
            )
    paper = _Paper(check)
    with _streams_of_bytes():
        # The last is taken in any case; with less room there are never more pages.
        place = bisect_left(ROOMS[:-1], True, key=lambda room: paper.pages(room, is_draft=True)[1] <= MOST_PAGES)
        return written_whole(Path(path), paper.pages(ROOMS[place])[0])


@contextmanager
def _streams_of_bytes() -> Iterator[None]:
    """Contents of the file as bytes: spelled in 85 letters they would be a quarter longer and take half a second."""
    from reportlab import rl_config

    before, rl_config.useA85 = rl_config.useA85, 0
    try:
        yield
    finally:
        rl_config.useA85 = before


# --- letters ----------------------------------------------------------------------------------------------------------


def _letters() -> tuple[str, str]:
    """Names of the plain and the bold font: DejaVu Sans, which comes with matplotlib and has the signs needed."""
    from reportlab.pdfbase import pdfmetrics
    from reportlab.pdfbase.ttfonts import TTFont

    found = find_spec("matplotlib")  # its import would take longer than the file
    assert found is not None and found.origin is not None
    folder = Path(found.origin).parent / "mpl-data" / "fonts" / "ttf"
    names = "DejaVuSans", "DejaVuSans-Bold"
    for name in names:
        if name not in pdfmetrics.getRegisteredFontNames():
            pdfmetrics.registerFont(TTFont(name, str(folder / f"{name}.ttf")))
    pdfmetrics.registerFontFamily(names[0], normal=names[0], bold=names[1], italic=names[0], boldItalic=names[1])
    return names


def _signs(fonts: Sequence[str]) -> frozenset[str]:
    """Signs that all of these fonts have, and blanks."""
    from reportlab.pdfbase import pdfmetrics

    known = set.intersection(*(set(pdfmetrics.getFont(name).face.charToGlyph) for name in fonts))
    return frozenset(chr(code) for code in known) | frozenset("\n\t ")


def _drawing_class(paper: _Paper) -> Any:
    """A flowable that draws itself with a function of (canvas, width, height); made here, for its base loads late."""
    from reportlab.platypus import Flowable

    class Drawing(Flowable):  # type: ignore[misc]
        def __init__(self, width: float, height: float, draw: Callable[[Any, float, float], None]) -> None:
            super().__init__()
            self.width, self.height, self._draw = width, height, draw

        def wrap(self, *_: float) -> tuple[float, float]:
            return self.width, self.height

        def draw(self) -> None:
            if not paper.is_draft:
                self._draw(self.canv, self.width, self.height)

    return Drawing


def _table_class(paper: _Paper) -> Any:
    """A table that takes its room and stays blank in a draft; made here, for its base loads late."""
    from reportlab.platypus import LongTable

    class Layout(LongTable):  # type: ignore[misc]
        def draw(self) -> None:
            if not paper.is_draft:
                super().draw()

    return Layout


class _Paper:
    """A document in the making: styles, and one method for each thing on it."""

    def __init__(self, check: Check) -> None:
        from reportlab.lib.styles import ParagraphStyle

        self.check, self.content, self.room, self.is_draft = check, content_of(check), 1.0, False
        self.slices = [_Slice(check, self.content, plane, place) for plane, place in _views(self.content.places)]
        self.plain, self.bold = _letters()
        self.signs, self.is_all_printed = _signs((self.plain, self.bold)), True
        self.drawing, self.layout = _drawing_class(self), _table_class(self)

        def style(name: str, size: float, leading: float, color: str = INK, **more: Any) -> Any:
            return ParagraphStyle(
                name, fontName=more.pop("fontName", self.plain), fontSize=size, leading=leading, textColor=color, **more
            )

        tone = TONES[self.content.tone][0]
        self.styles = {
            "over": style("over", 7, 9, SOFT, fontName=self.bold),
            "verdict": style("verdict", 19, 23, tone, fontName=self.bold),
            "h2": style("h2", 10.5, 13, fontName=self.bold, spaceBefore=9, spaceAfter=3, keepWithNext=1),
            "title": style("title", 10.5, 13, fontName=self.bold, spaceBefore=9, spaceAfter=3),
            "text": style("text", 8.2, 11),
            "soft": style("soft", 7, 9.2, SOFT, spaceAfter=3),
            "lead": style("lead", 7, 9.2, SOFT, spaceAfter=3, keepWithNext=1),
            "small": style("small", 6.4, 8.4),
            "note": style("note", 6.4, 8.4, SOFT),
            "bullet": style("bullet", 7.6, 10, leftIndent=9, bulletIndent=1),
            "reason": style("reason", 8.2, 11, leftIndent=10, bulletIndent=1),
            "cell": style("cell", 7, 8.8),
            "name": style("name", 7, 8.8, fontName=self.bold),
            "right": style("right", 7, 8.8, alignment=2),
            "head": style("head", 6.4, 8, SOFT, fontName=self.bold),
            "head_right": style("head_right", 6.4, 8, SOFT, fontName=self.bold, alignment=2),
            "caption": style("caption", 6.6, 8.4, SOFT, alignment=1),
        }

    def pages(self, room: float, *, is_draft: bool = False) -> tuple[bytes, int]:
        """The whole document with this share of the rows of long tables, and the number of its pages.

        A draft leaves pictures and tables blank: drawing takes most of the time.
        """
        from reportlab.platypus import BaseDocTemplate, PageTemplate
        from reportlab.platypus import Frame as Room

        content, buffer = self.content, io.BytesIO()
        document = BaseDocTemplate(
            buffer, pagesize=(210 * MM, 297 * MM), title=f"{content.verdict}: {content.title}",
            author=f"spinedose {content.version}", subject=content.notice, creator="spinedose",
        )  # fmt: skip
        space = Room(MARGIN_MM * MM, 15 * MM, WIDTH_MM * MM, 265 * MM, 0, 0, 0, 0)
        document.addPageTemplates(PageTemplate(frames=[space]))
        self.room, self.is_draft = room, is_draft
        document.build(list(self.story()), canvasmaker=_numbered(self))
        return buffer.getvalue(), document.page

    def story(self) -> Iterator[Any]:
        """Everything in order."""
        yield from self.head()
        if self.content.criteria is not None:
            yield from self.table(self.content.criteria)
        yield from self.tables("findings")
        yield from self.images()
        yield from self.charts()
        yield from self.tables("limits", "metrics", "eqd2", "gamma", "quality", "beams", "plan")
        yield from self.sentences("What was assumed", self.content.assumptions)
        unprinted = () if self.is_all_printed else (UNPRINTED,)
        yield from self.sentences("Warnings", (*unprinted, *self.content.warnings))
        yield from self.versions()

    def printable(self, text: str) -> str:
        """The same with codes in brackets for signs that the font lacks, Chinese ones for instance: `[U+810A U+9AD3]`.

        They would come out as boxes, which are the same for all names.
        """
        if self.signs.issuperset(text):
            return text
        self.is_all_printed = False
        return "".join(
            "".join(group) if is_known else f"[{' '.join(f'U+{ord(sign):04X}' for sign in group)}]"
            for is_known, group in groupby(text, key=self.signs.__contains__)
        )

    def marked_up(self, text: str) -> str:
        """Plain text, ready for a paragraph."""
        return escape(self.printable(text))

    def text(self, text: str, style: str, **more: Any) -> Any:
        """A paragraph of plain text."""
        from reportlab.platypus import Paragraph

        return Paragraph(self.marked_up(text), self.styles[style], **more)

    def head(self) -> Iterator[Any]:
        """Verdict and reasons beside what it is about."""
        from reportlab.platypus import Spacer

        content = self.content
        tone, ground = TONES[content.tone]
        verdict = [
            self.text("INDEPENDENT DOSE CHECK", "over"),
            self.text(content.verdict, "verdict"),
            self.text(content.summary, "text"),
            Spacer(1, 3),
            *(self.text(reason.text, "reason", bulletText="\u2022") for reason in content.reasons[:MOST_REASONS]),
        ]
        more = len(content.reasons) - MOST_REASONS
        if more > 0:
            verdict.append(self.text(f"{more} more in the HTML report.", "soft"))
        facts = [[self.text(name, "soft"), self.text(value, "cell")] for name, value in content.identity]
        about = self.layout(facts, colWidths=[22 * MM, 49 * MM], style=[
            ("VALIGN", (0, 0), (-1, -1), "TOP"), ("TOPPADDING", (0, 0), (-1, -1), 1.2),
            ("BOTTOMPADDING", (0, 0), (-1, -1), 0), ("LEFTPADDING", (0, 0), (-1, -1), 0),
            ("LINEABOVE", (0, 0), (-1, -1), 0.4, GRID), ("RIGHTPADDING", (0, 0), (-1, -1), 2),
        ])  # fmt: skip
        yield self.layout(
            [[verdict, [self.text(content.title, "name"), Spacer(1, 3), about]]],
            colWidths=[104 * MM, 76 * MM],
            style=[
                ("VALIGN", (0, 0), (-1, -1), "TOP"), ("BACKGROUND", (0, 0), (0, 0), ground),
                ("LINEBEFORE", (0, 0), (0, 0), 4, tone, 0), ("LEFTPADDING", (0, 0), (0, 0), 12),
                ("TOPPADDING", (0, 0), (-1, -1), 7), ("BOTTOMPADDING", (0, 0), (0, 0), 9),
                ("LEFTPADDING", (1, 0), (1, 0), 5 * MM), ("RIGHTPADDING", (1, 0), (1, 0), 0),
            ],
        )  # fmt: skip

    # --- tables -------------------------------------------------------------------------------------------------------

    def shortened(self, table: Table) -> Table:
        """A table that fits on paper."""
        rows = table.rows
        if table.anchor == "plan":  # of the whole plan, and what deserves attention
            rows = tuple(r for r in rows if r.cells[1].text or any(cell.tone for cell in r.cells))
        if table.anchor == "metrics":
            rows = self.on_paper(rows)
        if table.anchor == "eqd2":
            rows = self.eqd2_on_paper(rows) or rows
        most = max(round(self.room * MOST_ROWS.get(table.anchor, 30)), LEAST_ROWS.get(table.anchor, 3))
        less = len(table.rows) - min(len(rows), most)
        left_out = (f"{less} more {'row is' if less == 1 else 'rows are'} in the HTML report.",) if less else ()
        remarks = (" ".join((*left_out, *table.remarks)),) if left_out or table.remarks else ()
        sources = table.sources
        if table.anchor == "eqd2":  # those of organs come last
            sources = sources[: max((int(row.cells[-1].text or 0) for row in rows[:most]), default=0)]
        return Table(table.anchor, table.title, table.lead, table.columns, rows[:most], sources, remarks)

    def on_paper(self, rows: Sequence[Row]) -> tuple[Row, ...]:
        """The rows of dose metrics that paper has room for: few of each structure, targets and cords first."""
        roles = {found.name: found.role for found in self.check.found}
        first: list[Row] = []
        rest: list[Row] = []
        name, is_new = Cell(""), False
        for row in rows:
            if row.tone != "more":
                name, is_new = row.cells[0], True
            role = roles.get(name.text, "other")
            metrics = PAPER_METRICS.get(role, ())
            if row.cells[1].text not in (*metrics[: max(1, round(self.room * len(metrics)))], DASH):
                continue
            chosen = first if role in ("target", "cord") else rest
            chosen.append(Row((name, *row.cells[1:])) if is_new else row)
            is_new = False
        return (*first, *rest)

    def eqd2_on_paper(self, rows: Sequence[Row]) -> tuple[Row, ...]:
        """One row for each target and cord."""
        roles = {found.name: found.role for found in self.check.found}
        kept = []
        first = rows[0]
        for row in rows:
            first = first if row.tone == "more" else row
            if row.cells[1].text == PAPER_EQD2.get(roles.get(first.cells[0].text, "other")):
                kept.append(Row((first.cells[0], row.cells[1], first.cells[2], *row.cells[3:-1], first.cells[-1])))
        return tuple(kept)

    def tables(self, *anchors: str) -> Iterator[Any]:
        """Those of some tables that there are, as long as fits on paper."""
        left_out = []
        for table in filter(None, map(self.content.table, anchors)):
            if self.room < SPARED_BELOW.get(table.anchor, 0.0):
                left_out.append(table.title)
            else:
                yield from self.table(self.shortened(table))
        if left_out:
            yield self.text(f"In the HTML report only: {', '.join(left_out)}.", "soft")

    def table(self, table: Table) -> Iterator[Any]:
        """A table with its title; its head comes again on a further page."""
        from reportlab.platypus import CondPageBreak

        is_right = [column.kind == "" for column in table.columns]
        head = [
            self.text(column.title, "head_right" if right else "head")
            for column, right in zip(table.columns, is_right, strict=True)
        ]
        body = [
            [self.cell(cell, column.kind) for cell, column in zip(row.cells, table.columns, strict=True)]
            for row in table.rows
        ]
        style: list[tuple[Any, ...]] = [
            ("VALIGN", (0, 0), (-1, -1), "TOP"), ("LEFTPADDING", (0, 0), (-1, -1), 2.5),
            ("RIGHTPADDING", (0, 0), (-1, -1), 2.5), ("TOPPADDING", (0, 0), (-1, -1), 1.8),
            ("BOTTOMPADDING", (0, 0), (-1, -1), 1.8), ("LINEBELOW", (0, 0), (-1, 0), 0.8, "#AAB3BD"),
            ("LINEBELOW", (0, -1), (-1, -1), 0.4, GRID),
        ]  # fmt: skip
        for place, row in enumerate(table.rows, start=1):
            if row.tone != "more" and place > 1:
                style.append(("LINEABOVE", (0, place), (-1, place), 0.4, GRID))
            if row.tone == "outside":
                style.append(("BACKGROUND", (0, place), (-1, place), TONES["outside"][1]))
        for first, last in _groups(table):
            style.append(("SPAN", (0, first), (0, last)))
        yield CondPageBreak(38 * MM)  # room for the title and some rows
        yield self.text(table.title, "title")
        if table.lead:
            yield self.text(table.lead, "soft")
        if table.rows:
            yield self.layout([head, *body], colWidths=_widths(table), repeatRows=1, style=style)
        notes = [f"{place}  {source}" for place, source in enumerate(table.sources, start=1)]
        for text in (*notes, *table.remarks):
            yield self.text(text, "note")

    def cell(self, cell: Cell, kind: str) -> Any:
        """A field: words, with small print below, or a dot between two limits."""
        from reportlab.platypus import Paragraph

        if cell.bar is not None:
            place, is_far = cell.bar, cell.is_far
            return self.drawing(22 * MM, 8, lambda canvas, w, h: _draw_bar(canvas, w, h, place, is_far))
        color = TONES[cell.tone][0] if cell.tone in TONES else SOFT if cell.tone == "soft" else INK
        words = f'<font color="{color}">{self.marked_up(cell.text)}</font>'
        if cell.tone == "outside":
            words = f"<b>{words}</b>"
        if cell.note:
            note = f'<font name="{self.plain}" size="5.8" color="{SOFT}">{self.marked_up(cell.note)}</font>'
            words = f"{note}&nbsp;&nbsp;{words}" if kind == "" else f"{words}<br/>{note}" if cell.text else note
        return Paragraph(words, self.styles["name" if kind == "name" else "cell" if kind == "text" else "right"])

    def sentences(self, title: str, texts: Sequence[str]) -> Iterator[Any]:
        """A list of sentences."""
        yield self.text(title, "h2")
        if not texts:
            yield self.text("None.", "text")
        most = max(round(self.room * MOST_SENTENCES), 2)
        for text in texts[:most]:
            yield self.text(text, "bullet", bulletText="\u2022")
        if len(texts) > most:
            yield self.text(f"{len(texts) - most} more are in the HTML report.", "soft")

    def versions(self) -> Iterator[Any]:
        """What computed it, in one paragraph."""
        from reportlab.platypus import Paragraph

        yield self.text("Versions and hashes", "h2")
        words = (f"<b>{self.marked_up(name)}</b>\u00a0{self.marked_up(value)}" for name, value in self.content.versions)
        yield Paragraph(" \u00b7 ".join(words), self.styles["small"])

    # --- pictures -----------------------------------------------------------------------------------------------------

    def images(self) -> Iterator[Any]:
        """Slices through the target and the cord: dose, and what is between both doses."""
        from reportlab.platypus import KeepTogether

        content = self.content
        has_both = len(content.doses) == 2
        levels = ", ".join(f"{100 * share:.0f}" for share, _ in ISODOSES)
        about = (
            f"Colours: recalculated dose from {100 * LEAST_SHOWN:.0f} to 100 % of {content.top_gy:.1f} Gy. Lines at "
            f"{levels} % of {content.reference}, recalculated{' full, planned dashed' if has_both else ''}."
        )
        captions = [self.text(one.caption, "caption") for one in self.slices]
        yield KeepTogether(
            [
                self.text("Slices", "h2"),
                self.text(about, "lead"),
                self.row([self.slice(one.draw_dose) for one in self.slices], captions),
            ]
        )
        if has_both:
            about = (
                f"The same slices: recalculated less planned, from \u2212{DIFFERENCE_PERCENT:g} % (blue) to "
                f"+{DIFFERENCE_PERCENT:g} % (orange) of {content.reference}."
            )
            row = self.row([self.slice(one.draw_difference) for one in self.slices])
            yield KeepTogether([self.text(about, "lead"), row])

    def slice(self, draw: Callable[[Any, float, float], None]) -> Any:
        """One of three slices side by side."""
        width = (WIDTH_MM - 4) / 3 * MM
        return self.drawing(width, width * HALF_VIEW_CM[1] / HALF_VIEW_CM[0], draw)

    def row(self, *rows: list[Any]) -> Any:
        """Slices side by side, and captions below."""
        width = (WIDTH_MM - 4) / 3 * MM
        return self.layout(
            list(rows),
            colWidths=[width + 2 * MM, width + 2 * MM, width],
            style=[
                ("LEFTPADDING", (0, 0), (-1, -1), 0),
                ("RIGHTPADDING", (0, 0), (1, -1), 2 * MM),
                ("RIGHTPADDING", (2, 0), (2, -1), 0),
                ("TOPPADDING", (0, 0), (-1, -1), 1),
                ("BOTTOMPADDING", (0, 0), (-1, -1), 1),
            ],
        )

    def charts(self) -> Iterator[Any]:
        """Histograms and profiles."""
        from reportlab.platypus import KeepTogether

        content = self.content
        if content.dvh is not None:
            shown = {pen.key: pen for pen in content.pens if pen.is_shown}
            chart = _only(content.dvh, set(shown))
            legend = [pen for key, pen in shown.items() if any(line.key == key for line in chart.lines)]
            height = (DVH_MM if self.room > 0.5 else LOW_DVH_MM) * MM
            drawing = self.drawing(
                WIDTH_MM * MM, height, lambda canvas, w, h: _draw_chart(canvas, chart, w, h, self.plain)
            )
            rest = [drawing, self.legend(legend)] if legend else [drawing]
            yield KeepTogether([self.text(chart.title, "h2"), self.text(content.about_dvh, "soft"), *rest])
        if content.profiles:
            width = WIDTH_MM / 3 * MM
            cells = [
                self.drawing(width, 40 * MM, lambda c, w, h, one=chart: _draw_chart(c, one, w, h, self.plain))
                for chart in content.profiles
            ]
            heads = [self.text(chart.title, "caption") for chart in content.profiles]
            row = self.layout([heads, cells], colWidths=[width] * 3, style=[
                ("LEFTPADDING", (0, 0), (-1, -1), 0), ("RIGHTPADDING", (0, 0), (-1, -1), 0),
                ("TOPPADDING", (0, 0), (-1, -1), 0), ("BOTTOMPADDING", (0, 0), (-1, -1), 0),
            ])  # fmt: skip
            shaded = [self.legend(content.profile_pens, "Shaded: ")] if content.profile_pens else []
            about = self.text(content.about_profiles, "soft")
            yield KeepTogether([self.text(content.profiles_title, "h2"), about, row, *shaded])

    def legend(self, pens: Sequence[Pen], lead: str = "") -> Any:
        """Names of structures with their colours."""
        from reportlab.platypus import Paragraph

        words = " &nbsp; ".join(
            f'<font color="{pen.color}" name="{self.bold}">\u2501\u2501</font>&nbsp;'
            + self.marked_up(pen.structure.name).replace(" ", "&nbsp;")
            for pen in pens
        )
        return Paragraph(lead + words, self.styles["cell"])


# --- on every page ----------------------------------------------------------------------------------------------------


def _numbered(paper: _Paper) -> Any:
    """A canvas that knows how many pages there are, and puts head and foot on each."""
    from reportlab.pdfgen.canvas import Canvas

    class Numbered(Canvas):  # type: ignore[misc]
        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, **more)
            self._kept: list[dict[str, Any]] = []

        def showPage(self) -> None:
            self._kept.append(dict(self.__dict__))
            self._startPage()

        def save(self) -> None:
            for page, state in enumerate(self._kept, start=1):
                self.__dict__.update(state)
                _frame(self, paper, page, len(self._kept))
                super().showPage()
            super().save()

    return Numbered


def _frame(canvas: Any, paper: _Paper, page: int, pages: int) -> None:
    content = paper.content
    left, right, top = MARGIN_MM * MM, (MARGIN_MM + WIDTH_MM) * MM, 285 * MM
    canvas.setFont(paper.plain, 6.8)
    canvas.setFillColor(SOFT)
    canvas.drawString(left, top, f"spinedose {content.version}")
    canvas.drawCentredString(105 * MM, top, paper.printable(content.title[:60]))
    canvas.drawRightString(right, top, f"{content.verdict} \u00b7 page {page} of {pages}")
    canvas.setStrokeColor(GRID)
    canvas.setLineWidth(0.6)
    canvas.line(left, top - 4, right, top - 4)
    canvas.line(left, 13 * MM, right, 13 * MM)
    canvas.setFont(paper.bold, 6.8)
    canvas.setFillColor("#7A4A00")
    canvas.drawString(left, 9 * MM, content.notice)


# --- drawing ----------------------------------------------------------------------------------------------------------


def _draw_bar(canvas: Any, width: float, height: float, place: float, is_far: bool) -> None:
    """A dot between two limits."""
    middle = height / 2 - 1
    canvas.setStrokeColor("#C4CCD4")
    canvas.setLineWidth(0.5)
    canvas.line(0, middle, width, middle)
    canvas.setFillColor("#DBE8EC")
    canvas.rect(width / 6, middle - 2.6, width * 2 / 3, 5.2, stroke=0, fill=1)
    canvas.setStrokeColor(TONES["within"][0])
    canvas.setLineWidth(0.8)
    for share in (1 / 6, 5 / 6):
        canvas.line(share * width, middle - 2.6, share * width, middle + 2.6)
    x = place / 100 * width
    canvas.setFillColor(TONES["outside" if is_far else "within"][0])
    if is_far:
        path = canvas.beginPath()
        path.moveTo(x - 3, middle)
        for dx, dy in ((0, 3), (3, 0), (0, -3)):
            path.lineTo(x + dx, middle + dy)
        path.close()
        canvas.drawPath(path, stroke=0, fill=1)
    else:
        canvas.circle(x, middle, 2.3, stroke=0, fill=1)


def _only(chart: Chart, keys: set[str]) -> Chart:
    lines = tuple(line for line in chart.lines if line.key in keys)
    return Chart(
        chart.title, chart.x_label, chart.y_label, chart.x_range, chart.y_range, lines, chart.bands, chart.marks
    )


def _draw_chart(canvas: Any, chart: Chart, width: float, height: float, font: str) -> None:
    """The chart as on the page, with y upwards as PDF has it."""
    frame = Frame(26, 12 if chart.marks else 4, width - 6, height - 22)

    def up(y: Any) -> Any:
        return height - y

    canvas.setFont(font, 6)
    for band in chart.bands:
        low, high = (float(np.clip(frame.x(chart, x), frame.left, frame.right)) for x in (band.low, band.high))
        canvas.setFillColor(band.color, alpha=0.16)
        canvas.rect(low, up(frame.bottom), high - low, frame.bottom - frame.top, stroke=0, fill=1)
        canvas.setFillColor(INK, alpha=1)
    canvas.setLineWidth(0.4)
    canvas.setStrokeColor(GRID)
    canvas.setFillColor(SOFT)
    for value in ticks(*chart.x_range, max(int((frame.right - frame.left) / 40), 3)):
        x = float(frame.x(chart, value))
        canvas.line(x, up(frame.top), x, up(frame.bottom))
        canvas.drawCentredString(x, up(frame.bottom + 7), number(value))
    for value in ticks(*chart.y_range, max(int((frame.bottom - frame.top) / 28), 3)):
        y = float(frame.y(chart, value))
        canvas.line(frame.left, up(y), frame.right, up(y))
        canvas.drawRightString(frame.left - 3, up(y + 2), number(value))
    for mark in chart.marks:
        x = float(frame.x(chart, mark.at))
        canvas.setDash(1, 2)
        canvas.setStrokeColor(SOFT)
        canvas.line(x, up(frame.top), x, up(frame.bottom))
        canvas.setDash()
        canvas.drawCentredString(x, up(frame.top - 3), mark.label)
    canvas.setStrokeColor("#8A949F")
    canvas.lines([
        (frame.left, up(frame.top), frame.left, up(frame.bottom)),
        (frame.left, up(frame.bottom), frame.right, up(frame.bottom)),
    ])  # fmt: skip
    canvas.setFillColor(INK)
    canvas.drawCentredString((frame.left + frame.right) / 2, up(frame.bottom + 16), chart.x_label)
    canvas.saveState()
    canvas.translate(6, up((frame.top + frame.bottom) / 2))
    canvas.rotate(90)
    canvas.drawCentredString(0, 0, chart.y_label)
    canvas.restoreState()
    canvas.saveState()
    clip = canvas.beginPath()
    clip.rect(frame.left, up(frame.bottom), frame.right - frame.left, frame.bottom - frame.top)
    canvas.clipPath(clip, stroke=0)
    canvas.setLineJoin(1)
    for line in chart.lines:
        canvas.setStrokeColor(line.color)
        canvas.setLineWidth(0.65 * line.width)
        canvas.setDash([0.55 * part for part in line.dash] if line.dash else [])
        for xs, ys in pieces(line):
            _stroke(canvas, np.column_stack([frame.x(chart, xs), up(frame.y(chart, ys))]))
    canvas.restoreState()


def _stroke(canvas: Any, points: Array) -> None:
    """A line through points; of those nearer to each other than paper shows, one stands for all."""
    is_far = np.any(np.diff(np.round(points / FINEST), axis=0) != 0, axis=1)
    points = points[np.concatenate([[True], is_far])]
    path = canvas.beginPath()
    path.moveTo(*points[0])
    for point in points[1:]:
        path.lineTo(*point)
    canvas.drawPath(path, stroke=1, fill=0)


def _contours(x: Array, y: Array, values: Array, level: float) -> list[Array]:
    """Lines of one value over columns and rows."""
    from contourpy import contour_generator

    lines: Any = contour_generator(x, y, values).lines(level)
    return list(lines)


def _views(places: Sequence[Place]) -> list[tuple[str, Place]]:
    """Axial and sagittal through the target, and the same through the cord: three slices that differ."""
    first = places[0]
    cord = next((place for place in places if place.label.startswith("Hottest point")), None)
    if cord is None:
        return [("axial", first), ("sagittal", first), ("coronal", first)]
    return [("axial", first), ("axial", cord), ("sagittal", cord)]


class _Slice:
    """A slice of the patient, on which a dose or a difference is drawn over the CT."""

    def __init__(self, check: Check, content: Content, plane: str, place: Place) -> None:
        axes = _PLANES[plane]
        point = np.asarray(place.point_cm)
        half = np.zeros(3)
        half[axes[0]], half[axes[1]] = HALF_VIEW_CM
        self.content, self.axes, self.is_down = content, axes, axes[1] == 1
        self.view = _View(axes, point - half, point + half, float(point[axes[2]]), PIXEL_CM)
        height = f"{'xyz'[axes[2]]} = {10 * point[axes[2]]:.1f} mm".replace("-", "\u2212")
        label = place.label[:1].lower() + place.label[1:] if place.label.startswith("Hottest") else place.label
        self.caption = f"{plane.capitalize()}, {height}: {label}"
        self.hu = self.flat(check.ct.hu, -1000.0)
        self.recalculated = self.flat(check.dose.volume, 0.0)
        self.planned = self.flat(check.planned.dose, 0.0) if check.planned is not None else None
        shown = [pen for pen in content.pens if pen.is_shown]
        self.covers = [(pen, self.upright(mask(pen.structure, self.view.grid).values)) for pen in shown]

    def upright(self, layer: NDArray[Any]) -> Array:
        """A layer as a picture, rows from its bottom to its top."""
        flat = self.view.flat(layer)
        return np.asarray(flat[::-1] if self.is_down else flat, dtype=float)

    def flat(self, volume: Volume, outside: float) -> Array:
        """The slice of a volume."""
        return self.upright(volume.resample(self.view.grid, outside=outside).values)

    def draw_dose(self, canvas: Any, width: float, height: float) -> None:
        """Recalculated dose and isodose lines of both, into a box."""
        place = np.clip(self.recalculated / self.content.top_gy, 0, 1)
        alpha = 0.6 * np.clip((place - LEAST_SHOWN) / 0.06, 0, 1)
        canvas.saveState()
        x, y = self.ground(canvas, width, height, "dose", place, alpha)
        for dose, dash in ((self.planned, [2.2, 1.6]), (self.recalculated, [])):
            if dose is None:
                continue
            for share, color in ISODOSES:
                for line in _contours(x, y, dose, share * self.content.reference_gy):
                    self.line(canvas, line, color, 0.7, dash)
        self.finish(canvas, width, height, x, y)

    def draw_difference(self, canvas: Any, width: float, height: float) -> None:
        """Recalculated less planned dose, into a box."""
        assert self.planned is not None
        percent = 100 * (self.recalculated - self.planned) / self.content.reference_gy
        place = np.clip(percent / DIFFERENCE_PERCENT / 2 + 0.5, 0, 1)
        alpha = 0.85 * np.clip(np.abs(place - 0.5) * 5, 0, 1)
        canvas.saveState()
        self.finish(canvas, width, height, *self.ground(canvas, width, height, "difference", place, alpha))

    def ground(
        self, canvas: Any, width: float, height: float, colors: str, place: Array, alpha: Array
    ) -> tuple[Array, Array]:
        """Grey CT with colours over it; where columns and rows are [points]."""
        from PIL import Image
        from reportlab.lib.utils import ImageReader

        grey = np.clip((self.hu - WINDOW_HU[0]) / (WINDOW_HU[1] - WINDOW_HU[0]), 0, 1)[..., None] * 255
        stops = np.array([[int(c[k : k + 2], 16) for k in (1, 3, 5)] for c in COLOR_MAPS[colors]], dtype=float)
        at = np.linspace(0, 1, len(stops))
        color = np.stack([np.interp(place, at, stops[:, c]) for c in range(3)], axis=-1)
        mixed = np.rint(grey + alpha[..., None] * (color - grey)).astype(np.uint8)
        clip = canvas.beginPath()
        clip.rect(0, 0, width, height)
        canvas.clipPath(clip, stroke=0)
        canvas.drawImage(ImageReader(Image.fromarray(mixed[::-1])), 0, 0, width, height)
        rows, columns = self.hu.shape
        return (np.arange(columns) + 0.5) * width / columns, (np.arange(rows) + 0.5) * height / rows

    def finish(self, canvas: Any, width: float, height: float, x: Array, y: Array) -> None:
        """Structures, letters and scale."""
        for pen, cover in self.covers:
            if cover.max() >= 0.5:
                for line in _contours(x, y, cover, 0.5):
                    self.line(canvas, line, pen.color, 0.45 * pen.width, [])
        self.letters(canvas, width, height)
        canvas.restoreState()

    @staticmethod
    def line(canvas: Any, points: Array, color: str, width: float, dash: list[float]) -> None:
        """A line with a dark rim."""
        for pen, size in (("#141414", width + 0.6), (color, width)):
            canvas.setStrokeColor(pen)
            canvas.setLineWidth(size)
            canvas.setDash(dash)
            _stroke(canvas, points)
        canvas.setDash([])

    def letters(self, canvas: Any, width: float, height: float) -> None:
        """Sides of the patient and a scale of 5 cm."""
        ends = (("R", "L"), ("A", "P"), ("I", "S"))
        left, right = ends[self.axes[0]]
        bottom, top = ends[self.axes[1]][::-1] if self.is_down else ends[self.axes[1]]
        canvas.setFillColor("#FFFFFF")
        canvas.setFont("DejaVuSans-Bold", 6.5)
        middle = (height - 5) / 2
        for x, y, letter in ((5, middle, left), (width - 5, middle, right), (width / 2, 3, bottom),
                             (width / 2, height - 8, top)):  # fmt: skip
            canvas.drawCentredString(x, y, letter)
        length = 5.0 / (2 * HALF_VIEW_CM[0]) * width
        canvas.rect(5, 5, length, 1, stroke=0, fill=1)
        canvas.setFont("DejaVuSans", 5.5)
        canvas.drawString(5, 8, "50 mm")


LONGEST_GROUP = 4
"""Rows that share their first field: a page never ends between them."""


def _groups(table: Table) -> Iterator[tuple[int, int]]:
    """First and last of rows that go on with one another, the head being row 0."""
    starts = [place for place, row in enumerate(table.rows, start=1) if row.tone != "more"]
    for first, following in pairwise([*starts, len(table.rows) + 1]):
        if 1 < following - first <= LONGEST_GROUP:
            yield first, following - 1


_SHARES = {
    ("criteria", 8): (32, 10, 14, 11, 10, 14, 13, 8), ("findings", 2): (13, 87),
    ("limits", 8): (19, 32, 10, 11, 14, 11, 15, 8), ("limits", 6): (24, 50, 12, 14, 16, 8),
    ("metrics", 6): (24, 28, 14, 14, 14, 12), ("metrics", 3): (40, 44, 22),
    ("eqd2", 7): (26, 20, 9, 14, 14, 14, 9), ("eqd2", 5): (40, 28, 10, 18, 10),
    ("quality", 5): (22, 36, 14, 14, 14), ("quality", 3): (30, 50, 20),
    ("beams", 9): (26, 8, 12, 17, 11, 8, 9, 9, 11), ("beams", 12): (24, 10, 12, 13, 13, 9, 10, 8, 12, 12, 15, 13),
}  # fmt: skip
"""Widths of the columns, by table and number of columns."""


def _widths(table: Table) -> list[float]:
    """Widths of the columns; names and texts wide, numbers narrow."""
    wide = {"name": 2.6, "text": 1.6}
    usual = tuple(wide.get(column.kind, 1.0) for column in table.columns)
    shares: Sequence[float] = _SHARES.get((table.anchor, len(table.columns)), usual)
    return [WIDTH_MM * MM * share / sum(shares) for share in shares]
