"""Pictures of a study: histograms as bands over all scenarios, and how a metric follows setup errors as a heat map."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spinedose.errors import InvalidInput
from spinedose.report.pictures import PALETTE, _figure_class, _save, _sign
from spinedose.scenarios.outcome import Outcome
from spinedose.scenarios.scenario import AXES, Scenario
from spinedose.scenarios.tables import nominal_first, summarise, telling
from spinedose.units import MM_PER_CM

Array = NDArray[np.float64]

BAND = (5, 95)
"""Percentiles between which a band lies."""

LEAST_OF_BAND = 20
"""Samples from which on 5 and 95 % are told from the extremes; with fewer the band is that of all."""

MOST_CURVES = 6
"""Structures in one picture of bands; more make it unreadable."""

_SHORT = {axis: axis.rsplit("_", 1)[0] for axis in AXES}


def draw_bands(
    outcomes: Iterable[Outcome],
    path: str | Path,
    *,
    structures: Sequence[str] = (),
    prescription_gy: float = math.nan,
    title: str = "",
) -> Path:
    """Draw histograms of all scenarios: the planned line, the band of the samples, and the envelope of all.

    Parameters
    ----------
    outcomes : iterable of Outcome
        The scenarios.
    path : path
        PNG file.
    structures : sequence of str
        Which; otherwise the first targets, cords and organs.
    prescription_gy : float
        Drawn as a line where it is known [Gy].
    title : str
        Put above.

    Returns
    -------
    Path
    """
    found = nominal_first(outcomes)
    names = list(structures) or _first(found)
    if not names:
        raise InvalidInput("There are no histograms to draw", "no scenario has one")
    figure = _figure_class()(figsize=(9.6, 5.8), facecolor="white")
    panel = figure.subplots()
    figure.subplots_adjust(left=0.08, right=0.76, top=0.90, bottom=0.12)
    end = prescription_gy * 1.05 if prescription_gy > 0 else 1.0
    for place, name in enumerate(names):
        color = PALETTE[place % len(PALETTE)]
        planned, samples, every, step = _stack(found, name)
        doses = step * np.arange(every.shape[1])
        reach = doses[np.flatnonzero(every.max(axis=0) > 0)]
        end = max(end, float(reach[-1]) if len(reach) else 0.0)
        low, high = every.min(axis=0), every.max(axis=0)
        panel.fill_between(doses, low, high, color=color, alpha=0.16, linewidth=0)
        for edge in (low, high):
            panel.plot(doses, edge, color=color, linewidth=0.7, alpha=0.8, linestyle=(0, (3, 2)))
        if len(samples) >= LEAST_OF_BAND:
            panel.fill_between(doses, *np.percentile(samples, BAND, axis=0), color=color, alpha=0.38, linewidth=0)
        line = planned.copy() if planned is not None else np.median(every, axis=0)
        line[np.flatnonzero(line == 0)[1:]] = np.nan  # a curve ends where it meets the axis
        panel.plot(doses, line, color=color, linewidth=2.0, label=name)
    drawn = sum(one.scenario.is_sample for one in found)
    _key(panel, len(found), drawn, any(one.scenario.is_nominal for one in found))
    if prescription_gy > 0:
        panel.axvline(prescription_gy, color="#707070", linewidth=0.9, linestyle="dashed")
        panel.annotate(
            f"prescribed {prescription_gy:g} Gy", (prescription_gy, 101), color="#505050", fontsize=8, ha="center",
            va="bottom", annotation_clip=False,
        )  # fmt: skip
    panel.set_xlim(0, end)
    panel.set_ylim(0, 100)
    panel.set_xlabel("Dose [Gy]")
    panel.set_ylabel("Volume that receives at least this dose [%]")
    panel.grid(color="#DDDDDD", linewidth=0.6)
    panel.set_axisbelow(True)
    heading = "Histograms of all scenarios"
    figure.suptitle(f"{title}: {heading}" if title else heading, fontsize=12, y=0.985)
    _sign(figure)
    return _written(figure, Path(path))


def _key(panel: Any, count: int, samples: int, has_planned: bool) -> None:
    """The legend: structures, and what line, band and envelope are."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles, labels = panel.get_legend_handles_labels()
    grey = "#606060"
    handles += [Line2D([], [], color=grey, linewidth=2.0)]
    labels += ["planned" if has_planned else "median"]
    if samples >= LEAST_OF_BAND:
        handles.append(Patch(color=grey, alpha=0.5, linewidth=0))
        labels.append(f"{BAND[0]} to {BAND[1]} % of {samples} samples")
    handles.append(Patch(facecolor=grey, alpha=0.2, linewidth=0))
    labels.append(f"envelope of {count} scenarios")
    panel.legend(handles, labels, fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)


def _first(outcomes: Sequence[Outcome]) -> list[str]:
    """Structures that matter most, by role; at most so many as can be told apart."""
    roles = {curve.structure: curve.role for one in outcomes for curve in one.curves}
    order = {"target": 0, "cord": 1}
    return sorted(roles, key=lambda name: order.get(roles[name], 2))[:MOST_CURVES]


def _stack(outcomes: Sequence[Outcome], name: str) -> tuple[Array | None, Array, Array, float]:
    """Histograms of a structure: planned, of samples (m, n), of all (k, n); and the step of the doses [Gy]."""
    curves = [(one, curve) for one in outcomes for curve in one.curves if curve.structure == name]
    if not curves:
        raise InvalidInput(f"There is no histogram of '{name}'", "no scenario has one")
    steps = {curve.step_gy for _, curve in curves}
    if len(steps) > 1:
        raise InvalidInput("Histograms of different studies cannot be drawn together", f"they have steps of {steps} Gy")
    count = max(len(curve.percent) for _, curve in curves)
    every = np.array([curve.at(count) for _, curve in curves], dtype=float)
    samples = np.array([one.scenario.is_sample for one, _ in curves])
    planned = [row for row, (one, _) in zip(every, curves, strict=True) if one.scenario.is_nominal]
    return (planned[0] if planned else None), every[samples], every, steps.pop()


# --- heat maps --------------------------------------------------------------------------------------------------------


def draw_axes(
    outcomes: Iterable[Outcome], metrics: Sequence[tuple[str, str]], path: str | Path, *, title: str = ""
) -> Path | None:
    """Draw how metrics change along the six axes, one axis at a time: a row for each axis, a column for each amount.

    Parameters
    ----------
    outcomes : iterable of Outcome
        Scenarios; those that leave the plan on one axis only are shown, against the planned one.
    metrics : sequence of (structure, metric)
        A panel each.
    path : path
        PNG file.
    title : str
        Put above.

    Returns
    -------
    Path or None
        None where there is nothing to draw: no planned scenario, or none on a single axis.
    """
    found = nominal_first(outcomes)
    planned = next((one for one in found if one.scenario.is_nominal), None)
    single = [(axis, amount, one) for one in found if (place := _single_axis(one.scenario)) for axis, amount in [place]]
    if planned is None or not single or not metrics:
        return None
    shifts = sorted({amount for axis, amount, _ in single if axis.endswith("_cm")})
    turns = sorted({amount for axis, amount, _ in single if axis.endswith("_deg")})
    blocks = [
        (axes, amounts, unit, scale)
        for axes, amounts, unit, scale in (
            (AXES[:3], shifts, "mm", MM_PER_CM),
            (AXES[3:], turns, "deg", 1.0),
        )
        if amounts
    ]
    columns = min(len(metrics), 3)
    rows = math.ceil(len(metrics) / columns)
    most = max(len(amounts) for _, amounts, _, _ in blocks)
    size = (1.9 + columns * (1.5 + 0.62 * most), 1.0 + rows * (0.7 + 1.75 * len(blocks)))
    figure = _figure_class()(figsize=size, facecolor="white", layout="constrained")
    figure.get_layout_engine().set(rect=(0.0, 0.03, 1.0, 0.93), hspace=0.08)
    parts = figure.subfigures(rows, columns, squeeze=False)
    for number, (structure, metric) in enumerate(metrics):
        part = parts[number // columns][number % columns]
        base = planned.value(structure, metric)
        values = {(axis, amount): one.value(structure, metric) - base for axis, amount, one in single}
        largest = max((abs(v) for v in values.values() if math.isfinite(v)), default=0.0) or 1.0
        unit = metric[metric.index("[") + 1 : -1]
        part.suptitle(f"{structure} {metric.split('[')[0]}: {base:.4g} {unit} planned; change [{unit}]", fontsize=9)
        for panel, (axes, amounts, of, scale) in zip(np.atleast_1d(part.subplots(len(blocks), 1)), blocks, strict=True):
            table = np.array([[values.get((axis, amount), math.nan) for amount in amounts] for axis in axes])
            _cells(panel, table, largest)
            panel.set_xticks(range(len(amounts)), [f"{scale * amount:+g}" for amount in amounts], fontsize=8)
            panel.set_yticks(range(len(axes)), [_SHORT[axis] for axis in axes], fontsize=8)
            panel.set_xlabel(of, fontsize=8)
    figure.suptitle(f"{title}: one axis at a time" if title else "One axis at a time", fontsize=12)
    _sign(figure)
    return _written(figure, Path(path))


def draw_plane(
    outcomes: Iterable[Outcome], structure: str, metric: str, path: str | Path, *, title: str = ""
) -> Path | None:
    """Draw a metric over a grid of two axes, the first two that vary; None where scenarios make no such grid.

    Parameters
    ----------
    outcomes : iterable of Outcome
        Scenarios of `setup_factorial`.
    structure, metric : str
        What to draw.
    path : path
        PNG file.
    title : str
        Put above.
    """
    found = [one for one in outcomes if one.scenario.group == "factorial" and len(one.scenario.setups) == 1]
    varying = [axis for axis in AXES if len({getattr(one.scenario.setups[0], axis) for one in found}) > 1]
    if len(varying) != 2:
        return None
    across, upright = varying
    xs, ys = (sorted({float(getattr(one.scenario.setups[0], axis)) for one in found}) for axis in varying)
    values = np.full((len(ys), len(xs)), math.nan)
    for one in found:
        setup = one.scenario.setups[0]
        values[ys.index(getattr(setup, upright)), xs.index(getattr(setup, across))] = one.value(structure, metric)
    figure = _figure_class()(
        figsize=(2.6 + 0.8 * len(xs), 1.9 + 0.6 * len(ys)), facecolor="white", layout="constrained"
    )
    figure.get_layout_engine().set(rect=(0.0, 0.04, 1.0, 0.96))
    panel = figure.subplots()
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    image = panel.imshow(
        values, origin="lower", cmap="viridis", vmin=low, vmax=high if high > low else low + 1, aspect="auto"
    )
    for (row, column), value in np.ndenumerate(values):
        if math.isfinite(value):
            is_dark = value < (low + high) / 2
            color = "white" if is_dark else "black"
            panel.text(column, row, f"{value:.4g}", ha="center", va="center", fontsize=8, color=color)
    for axis, amounts, setter, label in (
        (across, xs, panel.set_xticks, panel.set_xlabel),
        (upright, ys, panel.set_yticks, panel.set_ylabel),
    ):
        scale, unit = (MM_PER_CM, "mm") if axis.endswith("_cm") else (1.0, "deg")
        setter(range(len(amounts)), [f"{scale * amount:+g}" if amount else "0" for amount in amounts], fontsize=8)
        label(f"{_SHORT[axis]} [{unit}]")
    figure.colorbar(image, ax=panel).set_label(metric)
    heading = f"{structure} {metric}"
    panel.set_title(f"{title}: {heading}" if title else heading, fontsize=11)
    _sign(figure)
    return _written(figure, Path(path))


def draw_study(
    outcomes: Iterable[Outcome],
    folder: str | Path,
    *,
    prescription_gy: float = math.nan,
    title: str = "",
    most_metrics: int = 6,
) -> tuple[Path, ...]:
    """Draw all that a study has something for: `bands.png`, `axes.png` and a `plane_*.png` for each metric.

    Parameters
    ----------
    outcomes, prescription_gy, title
        As in `draw_bands`.
    folder : path
        Made when absent.
    most_metrics : int
        Metrics with a heat map, of those that tell most (`spinedose.scenarios.tables.telling`).
    """
    found, folder = nominal_first(outcomes), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    if any(one.curves for one in found):
        written.append(draw_bands(found, folder / "bands.png", prescription_gy=prescription_gy, title=title))
    metrics = [(one.structure, one.metric) for one in telling(summarise(found))[:most_metrics]]
    axes = draw_axes(found, metrics, folder / "axes.png", title=title)
    written += [axes] if axes is not None else []
    for structure, metric in metrics:
        name = re.sub(r"[^A-Za-z0-9.]+", "_", f"{structure}_{metric}").strip("_")
        plane = draw_plane(found, structure, metric, folder / f"plane_{name}.png", title=title)
        written += [plane] if plane is not None else []
    return tuple(written)


def _single_axis(scenario: Scenario) -> tuple[str, float] | None:
    """The axis on which a scenario leaves the plan, and by how much; None where it is another kind."""
    if isinstance(scenario.setup, tuple) or scenario.is_sample:
        return None
    moved = [axis for axis in AXES if getattr(scenario.setup, axis)]
    if len(moved) != 1 or scenario != Scenario(scenario.name, scenario.setup, group=scenario.group):
        return None
    return moved[0], float(getattr(scenario.setup, moved[0]))


def _cells(panel: Any, table: Array, largest: float) -> None:
    """A small table in colours, blue for less and red for more, with its numbers."""
    panel.imshow(table, cmap="RdBu_r", vmin=-largest, vmax=largest, aspect="auto")
    for (row, column), value in np.ndenumerate(table):
        if math.isfinite(value):
            color = "white" if abs(value) > 0.65 * largest else "black"
            panel.text(column, row, f"{value:+.2f}", ha="center", va="center", fontsize=8, color=color)
    panel.tick_params(length=0)


def _written(figure: Any, path: Path) -> Path:
    try:
        return _save(figure, path)
    except OSError as error:
        raise InvalidInput(f"The picture '{path}' cannot be written", str(error.strerror or error)) from error
