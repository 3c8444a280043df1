"""Charts as data: lines over axes, drawn as SVG on the page and with the same look on paper."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

INK, GRID, SOFT = "#1d2733", "#e3e7eb", "#5b6673"
"""Axes and letters, lines behind the curves, letters that matter less."""


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """A curve.

    Parameters
    ----------
    x, y : ndarray, shape (n,)
        Its points, in the units of the axes; a y that is not a number interrupts it.
    color : str
        As #rrggbb.
    dash : tuple of float
        Lengths of strokes and gaps [points]; empty for a full line.
    width : float
        Width [points].
    label : str
        What it shows.
    key : str
        Lines of one key are shown and hidden together.
    """

    x: Array
    y: Array
    color: str
    dash: tuple[float, ...] = ()
    width: float = 1.6
    label: str = ""
    key: str = ""


@dataclass(frozen=True, slots=True)
class Band:
    """A stretch of the x axis that is shaded, and what it stands for."""

    low: float
    high: float
    color: str
    label: str = ""


@dataclass(frozen=True, slots=True)
class Mark:
    """A place on the x axis, with a word at it."""

    at: float
    label: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Chart:
    """Lines over two axes.

    Parameters
    ----------
    title, x_label, y_label : str
        What it shows, and what the axes are, with units.
    x_range, y_range : tuple of 2 floats
        Ends of the axes.
    lines, bands, marks
        What is in it.
    """

    title: str
    x_label: str
    y_label: str
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    lines: tuple[Line, ...] = ()
    bands: tuple[Band, ...] = ()
    marks: tuple[Mark, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """What the page needs to read values off the lines."""
        return {
            "x_label": self.x_label,
            "y_label": self.y_label,
            "x_range": list(self.x_range),
            "y_range": list(self.y_range),
            "lines": [
                {
                    "key": line.key,
                    "label": line.label,
                    "color": line.color,
                    "dashed": bool(line.dash),
                    "x": [round(float(value), 4) for value in line.x],
                    "y": [None if math.isnan(value) else round(float(value), 3) for value in line.y],
                }
                for line in self.lines
            ],
        }


def ticks(low: float, high: float, about: int = 6) -> tuple[float, ...]:
    """Round numbers between two numbers, 1, 2 or 5 times a power of ten apart."""
    rough = (high - low) / max(about, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = min((n * power for n in (1, 2, 5, 10)), key=lambda s: abs(math.log(s / rough)))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return tuple(round(n * step, 10) for n in range(first, last + 1))


@dataclass(frozen=True, slots=True)
class Frame:
    """Where the axes of a chart lie in a picture: left, top, right and bottom, y downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def x(self, chart: Chart, value: Any) -> Any:
        """Place of a value along x."""
        low, high = chart.x_range
        return self.left + (value - low) / (high - low) * (self.right - self.left)

    def y(self, chart: Chart, value: Any) -> Any:
        """Place of a value along y."""
        low, high = chart.y_range
        return self.bottom - (value - low) / (high - low) * (self.bottom - self.top)


def pieces(line: Line) -> list[tuple[Array, Array]]:
    """A line, taken apart where it is interrupted."""
    known = np.flatnonzero(np.isfinite(line.y))
    if not len(known):
        return []
    parts = np.split(known, np.flatnonzero(np.diff(known) > 1) + 1)
    return [(line.x[part], line.y[part]) for part in parts]


def number(value: float) -> str:
    """A tick in words, with a true minus."""
    return f"{value:g}".replace("-", "\u2212")


def as_svg(chart: Chart, *, width: float, height: float, name: str) -> str:
    """Draw a chart as an SVG element of a size [pixels], with an id."""
    frame = Frame(50.0, 24.0 if chart.marks else 8.0, width - 12.0, height - 42.0)
    parts = [
        f'<svg id="{name}" class="chart" viewBox="0 0 {width:g} {height:g}"'
        f' role="img" aria-label="{escape(chart.title)}"'
        f' data-frame="{frame.left:g} {frame.top:g} {frame.right:g} {frame.bottom:g}">',
        f'<clipPath id="{name}-clip"><rect x="{frame.left}" y="{frame.top}" width="{frame.right - frame.left}"'
        f' height="{frame.bottom - frame.top}"/></clipPath>',
    ]
    for band in chart.bands:
        low, high = (float(np.clip(frame.x(chart, x), frame.left, frame.right)) for x in (band.low, band.high))
        parts.append(
            f'<rect class="band" x="{low:.1f}" y="{frame.top}" width="{high - low:.1f}"'
            f' height="{frame.bottom - frame.top}" fill="{band.color}" fill-opacity=".16"/>'
        )
    about = max(int((frame.right - frame.left) / 75), 3), max(int((frame.bottom - frame.top) / 50), 3)
    for value in ticks(*chart.x_range, about[0]):
        x = float(frame.x(chart, value))
        parts.append(f'<path class="grid" d="M{x:.1f} {frame.top}V{frame.bottom}"/>')
        parts.append(_words(x, frame.bottom + 15, number(value), "middle", "tick"))
    for value in ticks(*chart.y_range, about[1]):
        y = float(frame.y(chart, value))
        parts.append(f'<path class="grid" d="M{frame.left} {y:.1f}H{frame.right}"/>')
        parts.append(_words(frame.left - 6, y + 4, number(value), "end", "tick"))
    parts.append(f'<path class="axis" d="M{frame.left} {frame.top}V{frame.bottom}H{frame.right}"/>')
    for mark in chart.marks:
        x = float(frame.x(chart, mark.at))
        parts.append(f'<path class="mark" d="M{x:.1f} {frame.top}V{frame.bottom}"/>')
        parts.append(_words(x, frame.top - 6, mark.label, "middle", "note"))
    parts.append(f'<g clip-path="url(#{name}-clip)">')
    for line in chart.lines:
        dash = f' stroke-dasharray="{" ".join(f"{part:g}" for part in line.dash)}"' if line.dash else ""
        parts.append(
            f'<path class="line" data-key="{escape(line.key)}" d="{_path(chart, frame, line)}" stroke="{line.color}"'
            f' stroke-width="{line.width:g}"{dash}/>'
        )
    parts.append("</g>")
    middle = (frame.left + frame.right) / 2
    parts.append(_words(middle, height - 6, chart.x_label, "middle", "label"))
    upright = (frame.top + frame.bottom) / 2
    parts.append(
        f'<text class="label" text-anchor="middle" transform="translate(13 {upright:.1f}) rotate(-90)">'
        f"{escape(chart.y_label)}</text>"
    )
    parts.append("</svg>")
    return "".join(parts)


def _words(x: float, y: float, text: str, anchor: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _path(chart: Chart, frame: Frame, line: Line) -> str:
    found = []
    for xs, ys in pieces(line):
        points = zip(frame.x(chart, xs), frame.y(chart, ys), strict=True)
        found.append("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points))
    return "".join(found)


def spread(values: Sequence[float], *, least: float) -> tuple[float, float]:
    """From zero to a little over the largest of some numbers, or over a least number."""
    largest = max((value for value in values if math.isfinite(value)), default=least)
    return 0.0, 1.06 * max(largest, least)
