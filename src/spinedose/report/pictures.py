"""Pictures of a dose: axial, sagittal and coronal dose wash over the CT with contours, and the dose-volume histogram.

Colours come from a palette that people with colour vision deficiency can tell apart (Okabe and Ito), in the order of
the structures, with a line style as a second mark; the dose wash uses viridis, which rises evenly in brightness.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from spinedose._files import aside
from spinedose.compare.dvh import Dvh, dvh
from spinedose.density import CtImage
from spinedose.errors import InvalidInput, SpinedoseError
from spinedose.grid import Grid, Volume
from spinedose.structures import Structure, StructureSet, bounds_cm, find_external, mask, volume_cm3

CAPTION = "Not for clinical use"

PALETTE = ("#CC79A7", "#D55E00", "#56B4E9", "#E69F00", "#009E73", "#0072B2", "#F0E442")
"""Okabe and Ito, Color Universal Design (2008), jfly.uni-koeln.de/color, without black; white is for isodose lines."""
STYLES = ("solid", "dashed", "dotted")
OUTLINE_COLOR = "#BBBBBB"
"""Of the body, which every picture shows."""

WINDOW_HU = (-200.0, 500.0)
"""Grey window: wide enough to tell spongy from cortical bone, narrow enough to tell fat from muscle."""
LEAST_SHOWN = 0.10
"""Dose below this share of the top of the scale is not coloured."""
CLOSE_UP_CM = 5.0
"""Half the side of the close-up."""
WHOLE_STEP_CM, NEAR_STEP_CM = 0.1, 0.04
"""Pixels of the whole view and of the close-up."""
RIM_COLOR = "#202020"
"""Thin dark rim of lines and letters, so that they are seen on any ground."""

_PLANES = {"axial": (0, 1, 2), "sagittal": (1, 2, 0), "coronal": (0, 2, 1)}
"""Patient axes (0 x, 1 y, 2 z) across, upright and through the picture."""
_LETTERS = (("R", "L"), ("A", "P"), ("I", "S"))
"""At the low and the high end of x, y, z in DICOM LPS."""


class DoseLike(Protocol):
    """What can be drawn: a `Volume` in Gy, or any result that has its grid and values."""

    @property
    def grid(self) -> Grid:
        """Where the voxels are."""

    @property
    def values(self) -> NDArray[Any]:
        """Dose [Gy], shape (nz, ny, nx)."""


def draw_dose(
    dose: DoseLike,
    ct: CtImage,
    structures: StructureSet | None,
    folder: str | Path,
    *,
    prescription_gy: float | None = None,
    point_cm: tuple[float, float, float] | None = None,
    title: str = "",
) -> list[Path]:
    """Draw `axial.png`, `sagittal.png`, `coronal.png` and, where there are structures, `dvh.png`.

    Parameters
    ----------
    dose : Volume or like it
        Dose [Gy].
    ct : CtImage
        The image under the dose.
    structures : StructureSet or None
        Contours to draw; those without contours are passed over.
    folder : path
        Folder for the files, made when absent; files of these names are overwritten.
    prescription_gy : float, optional
        Prescribed dose [Gy]: its isodose line and half of it are drawn, and the colour scale ends at 110 % of it.
    point_cm : tuple of 3 floats, optional
        Point (x, y, z) [cm] that the planes go through; the middle of the first PTV when not given, else the dose
        maximum.
    title : str
        Put above every picture.

    Returns
    -------
    list of pathlib.Path
        The files written.

    Raises
    ------
    SpinedoseError
        If matplotlib is not installed.
    InvalidInput
        If the point lies outside the CT, or the folder cannot be written to.
    """
    figure_class = _figure_class()
    volume = Volume(dose.grid, dose.values)
    drawn = [s for s in structures.structures if s.contours_cm] if structures else []
    point = _middle(volume, drawn) if point_cm is None else np.asarray(point_cm, dtype=float)
    if np.any(point < ct.hu.grid.lower_cm) or np.any(point > ct.hu.grid.upper_cm):
        raise InvalidInput(f"The point {tuple(point.tolist())} cm lies outside the CT", "there is nothing to draw", "")
    if prescription_gy is not None and not prescription_gy > 0:
        raise InvalidInput(f"The prescribed dose is {prescription_gy} Gy", "it must be positive")
    top = 1.1 * prescription_gy if prescription_gy else float(volume.values.max()) or 1.0
    body = find_external(structures) if structures else None
    scene = _Scene(volume, ct.hu, _pens(drawn, body), point, top, prescription_gy, title, _extent(ct.hu, body))
    folder = Path(folder)
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in _PLANES:
            written.append(_save(_draw_plane(figure_class, scene, name), folder / f"{name}.png"))
        curves = list(_curves(volume, scene.pens, body))
        if curves:
            written.append(_save(_draw_dvh(figure_class, scene, curves), folder / "dvh.png"))
    except OSError as error:
        raise InvalidInput(f"Pictures cannot be written to '{folder}'", str(error.strerror or error)) from error
    return written


@dataclass(frozen=True, slots=True)
class _Pen:
    """How a structure is drawn."""

    structure: Structure
    color: str
    style: str
    width: float


@dataclass(frozen=True, slots=True, eq=False)
class _Scene:
    """What all pictures share; `low` and `high` are the corners (x, y, z) of the whole view [cm]."""

    dose: Volume
    hu: Volume
    pens: list[_Pen]
    point: NDArray[np.float64]
    top_gy: float
    prescription_gy: float | None
    title: str
    extent: tuple[NDArray[np.float64], NDArray[np.float64]]


def _figure_class() -> Any:
    """Matplotlib's figure, without pyplot: no window, no display and no global state."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise SpinedoseError(
            "Pictures cannot be drawn", "matplotlib is not installed", "Install it: pip install 'spinedose[report]'"
        ) from None
    return Figure


def _middle(dose: Volume, drawn: list[Structure]) -> NDArray[np.float64]:
    """Middle of the first PTV, else of the hottest voxel [cm]."""
    for structure in drawn:
        if structure.type.upper() == "PTV":
            low, high = bounds_cm(structure)
            return (low + high) / 2
    hottest = np.unravel_index(int(np.argmax(dose.values)), dose.grid.shape)
    return np.asarray(dose.grid.origin_cm) + np.asarray(dose.grid.spacing_cm) * hottest[::-1]


def _pens(drawn: list[Structure], body: Structure | None) -> list[_Pen]:
    """One pen a structure: colours in turn, then the next line style; targets thicker, the body thin and grey."""
    pens = []
    for structure in drawn:
        if structure is body:
            pens.append(_Pen(structure, OUTLINE_COLOR, "solid", 0.8))
            continue
        turn, place = divmod(len(pens) - sum(p.structure is body for p in pens), len(PALETTE))
        is_target = structure.type.upper() in ("PTV", "CTV", "GTV")
        pens.append(_Pen(structure, PALETTE[place], STYLES[turn % len(STYLES)], 1.8 if is_target else 1.2))
    return pens


def _extent(hu: Volume, body: Structure | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Corners of the whole view: the CT, cut to the body with a margin of 1 cm."""
    low, high = hu.grid.lower_cm, hu.grid.upper_cm
    if body is not None:
        body_low, body_high = bounds_cm(body)
        low, high = np.maximum(low, body_low - 1.0), np.minimum(high, body_high + 1.0)
    return low, high


# --- planes -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _View:
    """A rectangle of pixels in one of the three planes: patient axes across, upright and through it."""

    axes: tuple[int, int, int]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    height: float
    step_cm: float

    @property
    def grid(self) -> Grid:
        """One layer of fine voxels; the stored axis order is that of a `Grid`, whatever the view."""
        across, upright, through = self.axes
        origin, spacing, count = np.empty(3), np.full(3, self.step_cm), np.ones(3, dtype=int)
        for axis in (across, upright):
            count[axis] = max(round((self.high[axis] - self.low[axis]) / self.step_cm), 1)
            origin[axis] = self.low[axis] + self.step_cm / 2
        origin[through] = self.height
        x, y, z = (float(v) for v in origin)
        return Grid((x, y, z), tuple(spacing), tuple(count[::-1]))

    def flat(self, values: NDArray[Any]) -> NDArray[Any]:
        """A layer (z, y, x) as a picture (upright, across)."""
        across, upright, _ = self.axes
        # Axis k of the patient is axis 2 - k of the array.
        picture = np.squeeze(np.moveaxis(values, (2 - upright, 2 - across), (1, 2)), axis=0)
        return picture

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, right, bottom, top of the pixels' faces [cm]."""
        across, upright, _ = self.axes
        grid = self.grid
        low, high = grid.lower_cm, grid.upper_cm
        return float(low[across]), float(high[across]), float(low[upright]), float(high[upright])


def _draw_plane(figure_class: Any, scene: _Scene, name: str) -> Any:
    """The whole plane and a close-up around the point, with one colour bar."""
    axes = _PLANES[name]
    across, upright, through = axes
    low, high = scene.extent
    near_low = np.maximum(scene.point - CLOSE_UP_CM, scene.hu.grid.lower_cm)
    near_high = np.minimum(scene.point + CLOSE_UP_CM, scene.hu.grid.upper_cm)
    whole = _View(axes, low, high, float(scene.point[through]), WHOLE_STEP_CM)
    near = _View(axes, near_low, near_high, float(scene.point[through]), NEAR_STEP_CM)

    ratios = [(v.high[across] - v.low[across]) / (v.high[upright] - v.low[upright]) for v in (whole, near)]
    height = 5.2
    figure = figure_class(figsize=(height * sum(ratios) + 1.3, height + 1.35), facecolor="white")
    left, right = figure.subplots(1, 2, width_ratios=ratios, gridspec_kw={"wspace": 0.03})
    figure.subplots_adjust(left=0.01, right=1 - 1.0 / figure.get_figwidth(), top=0.90, bottom=0.13)
    shown: dict[str, _Pen] = {}
    for view, panel, bar_cm in ((whole, left, 5), (near, right, 1)):
        wash = _draw_view(panel, view, scene, bar_cm, shown)
    frame = (near.low[across], near.low[upright], near.high[across], near.high[upright])
    left.plot(
        [frame[0], frame[2], frame[2], frame[0], frame[0]],
        [frame[1], frame[1], frame[3], frame[3], frame[1]],
        color="white",
        linewidth=0.6,
        alpha=0.6,
    )
    spot = right.get_position()
    bar = figure.add_axes((spot.x1 + 0.012, spot.y0, 0.014, spot.height))
    figure.colorbar(wash, cax=bar).set_label("Dose [Gy]")
    heading = f"{name.capitalize()} plane, {'xyz'[through]} = {scene.point[through]:.1f} cm"
    figure.suptitle(f"{scene.title}: {heading}" if scene.title else heading, fontsize=12, y=0.965)
    _draw_legend(figure, scene, shown)
    _sign(figure)
    return figure


def _draw_view(panel: Any, view: _View, scene: _Scene, bar_cm: float, shown: dict[str, _Pen]) -> Any:
    """CT, dose wash, isodose lines, contours, letters and scale bar; returns the wash, and adds to `shown` what it
    drew."""
    grid, box = view.grid, view.box
    hu = view.flat(scene.hu.resample(grid, outside=-1000.0).values)
    dose = view.flat(scene.dose.resample(grid, outside=0.0).values)
    image = {"origin": "lower", "extent": box, "interpolation": "bilinear"}
    panel.imshow(hu, cmap="gray", vmin=WINDOW_HU[0], vmax=WINDOW_HU[1], **image)
    # Transparent where there is little dose, and fading in rather than ending at an edge.
    floor = LEAST_SHOWN * scene.top_gy
    alpha = 0.60 * np.clip((dose - floor) / (0.5 * floor), 0.0, 1.0)
    wash = panel.imshow(dose, cmap="viridis", vmin=0.0, vmax=scene.top_gy, alpha=alpha, **image)
    x, y = (grid.axes_cm[axis] for axis in view.axes[:2])
    if scene.prescription_gy:
        for share, style in _ISODOSES:
            if dose.max() > share * scene.prescription_gy:
                level = share * scene.prescription_gy
                panel.contour(x, y, dose, [level], colors="white", linewidths=1.0, linestyles=style).set_path_effects(
                    _rim(1.0)
                )
    for pen in scene.pens:
        inside = view.flat(mask(pen.structure, grid).values)
        if inside.max() >= 0.5:
            panel.contour(
                x, y, inside, [0.5], colors=pen.color, linewidths=pen.width, linestyles=pen.style
            ).set_path_effects(_rim(pen.width))
            shown.setdefault(pen.structure.name, pen)
    _draw_letters(panel, view)
    _draw_scale(panel, box, bar_cm)
    panel.set_xlim(box[0], box[1])
    panel.set_ylim(*((box[3], box[2]) if view.axes[1] == 1 else (box[2], box[3])))  # anterior is up in axial pictures
    panel.set_xticks([])
    panel.set_yticks([])
    panel.set_facecolor("black")
    return wash


_ISODOSES = ((1.0, "solid"), (0.5, "dashed"))
"""Shares of the prescription that are drawn as lines."""


def _draw_letters(panel: Any, view: _View) -> None:
    across, upright, _ = view.axes
    left, right = _LETTERS[across]
    bottom, top = _LETTERS[upright] if upright != 1 else _LETTERS[upright][::-1]
    for u, v, letter in ((0.02, 0.5, left), (0.98, 0.5, right), (0.5, 0.03, bottom), (0.5, 0.97, top)):
        panel.text(
            u,
            v,
            letter,
            transform=panel.transAxes,
            color="white",
            fontsize=11,
            weight="bold",
            ha="center",
            va="center",
            path_effects=_rim(1.0),
        )


def _draw_scale(panel: Any, box: tuple[float, float, float, float], length_cm: float) -> None:
    width = length_cm / (box[1] - box[0])
    panel.plot(
        [0.04, 0.04 + width],
        [0.05, 0.05],
        transform=panel.transAxes,
        color="white",
        linewidth=2.5,
        path_effects=_rim(2.5),
    )
    panel.text(
        0.04 + width / 2,
        0.065,
        f"{length_cm:g} cm",
        transform=panel.transAxes,
        color="white",
        fontsize=8,
        ha="center",
        path_effects=_rim(1.0),
    )


def _draw_legend(figure: Any, scene: _Scene, shown: dict[str, _Pen]) -> None:
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], color=p.color, linestyle=p.style, linewidth=p.width + 0.6) for p in shown.values()]
    labels = list(shown)
    if scene.prescription_gy:
        for share, style in _ISODOSES:
            lines.append(Line2D([], [], color="white", linestyle=style, linewidth=1.6))
            labels.append(f"{share * scene.prescription_gy:g} Gy ({100 * share:.0f} %)")
    if lines:
        columns = min(len(lines), 7)
        legend = figure.legend(
            lines, labels, loc="lower center", bbox_to_anchor=(0.5, 0.005), ncols=columns, fontsize=8, framealpha=1.0
        )
        legend.get_frame().set_facecolor("#404040")  # lines are chosen for a dark ground
        for text in legend.get_texts():
            text.set_color("white")


# --- histogram --------------------------------------------------------------------------------------------------------


def _curves(dose: Volume, pens: list[_Pen], body: Structure | None) -> Iterator[tuple[_Pen, Dvh]]:
    """Histograms of all structures but the body that have a volume inside the dose grid."""
    for pen in pens:
        if pen.structure is body or volume_cm3(pen.structure) <= 0:
            continue
        low, high = bounds_cm(pen.structure)
        if np.all(high > dose.grid.lower_cm) and np.all(low < dose.grid.upper_cm):
            yield pen, dvh(dose, pen.structure)


def _draw_dvh(figure_class: Any, scene: _Scene, curves: list[tuple[_Pen, Dvh]]) -> Any:
    figure = figure_class(figsize=(9.6, 5.4), facecolor="white")
    panel = figure.subplots()
    figure.subplots_adjust(left=0.08, right=0.76, top=0.90, bottom=0.13)
    end = max(max(curve.maximum_gy for _, curve in curves), scene.prescription_gy or 0.0) * 1.05 or 1.0
    doses = np.linspace(0.0, end, 600)
    for pen, curve in curves:
        share = 100 * curve.volume_at_dose(doses) / curve.covered_cm3[-1]
        share[np.flatnonzero(share == 0)[1:]] = np.nan  # a curve ends where it meets the axis
        label = f"{curve.name}, {_rounded(curve.volume_cm3)} cm³"
        panel.plot(
            doses, share, color=pen.color, linestyle=pen.style, linewidth=2.0, label=label, path_effects=_rim(2.0)
        )
    if scene.prescription_gy:
        panel.axvline(scene.prescription_gy, color="#707070", linewidth=0.9, linestyle="dashed")
        panel.annotate(
            f"prescribed {scene.prescription_gy:g} Gy",
            (scene.prescription_gy, 101),
            color="#505050",
            fontsize=8,
            ha="center",
            va="bottom",
            annotation_clip=False,
        )
    panel.set_xlim(0, end)
    panel.set_ylim(0, 100)
    panel.set_xlabel("Dose [Gy]")
    panel.set_ylabel("Volume that receives at least this dose [%]")
    panel.grid(color="#DDDDDD", linewidth=0.6)
    panel.set_axisbelow(True)
    panel.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    heading = "Dose-volume histogram"
    figure.suptitle(f"{scene.title}: {heading}" if scene.title else heading, fontsize=12, y=0.985)
    _sign(figure)
    return figure


def _rounded(volume_cm3: float) -> str:
    """A volume with three figures, at most two of them decimals."""
    return f"{volume_cm3:.{max(0, min(2, 2 - int(np.floor(np.log10(volume_cm3)))))}f}"


def _rim(width: float) -> list[Any]:
    """Path effects that put a dark rim around a line of this width, or around letters."""
    from matplotlib import patheffects

    return [patheffects.Stroke(linewidth=width + 1.2, foreground=RIM_COLOR), patheffects.Normal()]


def _sign(figure: Any) -> None:
    figure.text(0.995, 0.006, CAPTION, ha="right", va="bottom", fontsize=8, color="#B00000", weight="bold")


def _save(figure: Any, path: Path) -> Path:
    """Write aside, then rename: no half-written picture."""
    with aside(path) as part:
        figure.savefig(part, dpi=130, format="png")
    return path
