"""The report as one page: verdict, pictures to walk through, charts and tables, in a file that loads nothing.

The page is `assets/report.html.jinja` with its style and its scripts put inside; voxels travel in it as text
(`spinedose.report.packing`). A content security policy forbids it to load anything.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spinedose.errors import InvalidInput, SpinedoseError
from spinedose.grid import box_around
from spinedose.report import packing
from spinedose.report._files import written_whole
from spinedose.report.charts import as_svg
from spinedose.report.content import COLOR_MAPS, ISODOSES, Content, Pen, _short, content_of, volume_of
from spinedose.structures import bounds_cm, find_external

if TYPE_CHECKING:
    from spinedose.check import Check

Array = NDArray[np.float64]

ASSETS = Path(__file__).with_name("assets")
SCRIPTS = ("volumes.js", "viewer.js", "charts.js", "page.js")

MOST_BYTES = 15_000_000
"""A page is never larger."""

MARGIN_CM = 1.0
"""Of the images around body and doses."""

LEAST_SHARE = 0.02
"""Doses below this share of the reference are cut off where they lie at the rim of a dose."""

GAMMA_MAPS = 3
"""Gamma maps that travel with the page, at most."""

SECTIONS = (
    ("criteria", "Criteria"), ("findings", "Findings"), ("images", "Images"), ("dvh", "DVH"),
    ("profiles", "Profiles"), ("limits", "Limits"),
    ("metrics", "Metrics"), ("eqd2", "EQD2"), ("gamma", "Gamma"), ("quality", "Conformity"),
    ("beams", "Beams"), ("plan", "Plan"),
    ("assumed", "Assumptions"), ("versions", "Versions"),
)  # fmt: skip


def write_html(check: Check, path: str | Path) -> Path:
    """Write the page of a check.

    Parameters
    ----------
    check : Check
        What was found; `check.anonymous()` for a page without patient identifiers.
    path : str or Path
        The file, in a folder that is there; it appears whole or not at all.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    SpinedoseError
        If jinja2 is not installed.
    InvalidInput
        If the file cannot be written.
    """
    return written_whole(Path(path), _page(check).encode("utf-8"))


def _page(check: Check) -> str:
    """The page as text."""
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
        from markupsafe import Markup
    except ImportError:
        raise SpinedoseError(
            "The report cannot be written", "jinja2 is not installed", "Install it: pip install 'spinedose[report]'"
        ) from None
    content = content_of(check)
    volumes, names = _volumes(check, content)
    structures, not_drawn = _structures(content.pens)
    charts = {f"profile{place}": chart for place, chart in enumerate(content.profiles)}
    if content.dvh is not None:
        charts["dvh-chart"] = content.dvh
    payload = {
        "point": list(content.places[0].point_cm),
        "places": [list(place.point_cm) for place in content.places],
        "reference_gy": content.reference_gy,
        "top_gy": content.top_gy,
        "isodoses": [{"gy": isodose["gy"], "color": isodose["color"]} for isodose in _isodoses(content)],
        "maps": {name: list(stops) for name, stops in COLOR_MAPS.items()},
        "layers": ["recalculated", *(name for name in volumes if name not in ("ct", "recalculated"))],
        "volumes": {name: {"id": f"volume-{name}", **volume.as_dict()} for name, volume in volumes.items()},
        "structures": [
            {
                "key": pen.key, "color": pen.color, "width": pen.width, "dash": [], "isShown": pen.is_shown,
                "volume": {"id": f"structure-{pen.key}", **packed.as_dict()} if packed is not None else None,
            }
            for pen, packed in structures
        ],
        "charts": {name: chart.as_dict() for name, chart in charts.items()},
    }  # fmt: skip
    texts = [(f"volume-{name}", volume.text) for name, volume in volumes.items()]
    texts += [(f"structure-{pen.key}", packed.text) for pen, packed in structures if packed is not None]
    environment = Environment(loader=FileSystemLoader(ASSETS), autoescape=True, undefined=StrictUndefined)
    there = {"criteria": content.criteria, "dvh": content.dvh, "profiles": content.profiles}
    anchors = {
        "images",
        "assumed",
        "versions",
        *(k for k, v in there.items() if v),
        *(t.anchor for t in content.tables),
    }
    page = environment.get_template("report.html.jinja").render(
        content=content,
        style=Markup(_asset("report.css")),
        script=Markup('"use strict";\n' + "\n".join(map(_asset, SCRIPTS))),
        payload=Markup(_json(payload)),
        texts=[(name, Markup(text)) for name, text in texts],
        sections=[(anchor, name) for anchor, name in SECTIONS if anchor in anchors],
        layers=_layers(content, bool(names)),
        gammas=names,
        places=content.places,
        isodoses=_isodoses(content),
        structures=[_as_listed(pen) for pen, _ in structures],
        dvh=Markup(as_svg(content.dvh, width=1260, height=430, name="dvh-chart")) if content.dvh is not None else "",
        profiles=[
            {"title": chart.title, "svg": Markup(as_svg(chart, width=410, height=270, name=f"profile{place}"))}
            for place, chart in enumerate(content.profiles)
        ],
        shown_as=_shown_as(volumes, not_drawn),
    )
    assert len(page) <= MOST_BYTES, f"the page has {len(page)} bytes"
    return page


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def _json(payload: Mapping[str, Any]) -> str:
    """JSON that cannot end the element it stands in."""
    return json.dumps(payload, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _isodoses(content: Content) -> list[dict[str, Any]]:
    found = []
    for share, color in ISODOSES:
        dose = share * content.reference_gy
        found.append({"gy": dose, "color": color, "label": f"{100 * share:.0f} % {dose:.3g} Gy"})
    return found


def _layers(content: Content, has_gamma: bool) -> list[tuple[str, str]]:
    layers = [("ct", "CT"), *((name, name.capitalize()) for name in content.doses)]
    if len(content.doses) == 2:
        layers.append(("difference", "Difference"))
    if has_gamma:
        layers.append(("gamma", "Gamma"))
    return layers


def _as_listed(pen: Pen) -> dict[str, Any]:
    found = pen.found
    has_curve = found is not None and (found.planned is not None or found.recalculated is not None)
    volume = volume_of(found.volume_cm3) if found is not None else ""
    return {
        "key": pen.key,
        "name": pen.structure.name,
        "color": pen.color,
        "style": "solid",
        "shown": pen.is_shown,
        "title": ", ".join(part for part in (pen.structure.type, volume) if part),
        "volume": volume,
        "has_curve": has_curve,
    }


# --- voxels -----------------------------------------------------------------------------------------------------------


def _volumes(check: Check, content: Content) -> tuple[dict[str, packing.Packed], list[tuple[str, str]]]:
    """What the viewer shows, and names of gamma maps with their criteria."""
    doses = {"recalculated": check.dose.volume}
    if check.planned is not None:
        doses["planned"] = check.planned.dose
    largest = max(float(volume.values.max()) for volume in doses.values()) or 1.0
    packed = {}
    low, high = _extent(check, doses.values())
    packed["ct"] = packing.pack_ct(check.ct.hu.near(low, high))
    for name, volume in doses.items():
        is_worth_seeing = volume.values >= LEAST_SHARE * content.reference_gy
        packed[name] = packing.pack_dose(volume.part(*box_around(is_worth_seeing, 1)), largest)
    names = []
    for place, found in enumerate(check.gammas[:GAMMA_MAPS]):
        gamma = found.whole.gamma
        packed[f"gamma{place}"] = packing.pack_gamma(gamma.part(*box_around(np.isfinite(gamma.values), 1)), 2.0)
        names.append((f"gamma{place}", _short(found.question.name)))
    return packed, names


def _extent(check: Check, doses: Any) -> tuple[Array, Array]:
    """Corners (x, y, z) of what is worth seeing: the body across, the doses along z, within the CT [cm]."""
    grids = [volume.grid for volume in doses]
    low = np.min([grid.lower_cm for grid in grids], axis=0) - MARGIN_CM
    high = np.max([grid.upper_cm for grid in grids], axis=0) + MARGIN_CM
    body = find_external(check.structures) if check.structures is not None else None
    if body is not None:
        try:
            body_low, body_high = bounds_cm(body)
        except InvalidInput:  # in a single plane: it has no extent
            body_low, body_high = low, high
        low[:2], high[:2] = body_low[:2] - MARGIN_CM, body_high[:2] + MARGIN_CM
    ct = check.ct.hu.grid
    return np.maximum(low, ct.lower_cm), np.minimum(high, ct.upper_cm)


def _structures(pens: tuple[Pen, ...]) -> tuple[list[tuple[Pen, packing.Packed | None]], list[str]]:
    """Structures with their outlines while there is room, the smallest first; and names of those without."""
    found: dict[str, packing.Packed] = {}
    used, left_out = 0, []
    for pen in sorted(pens, key=lambda pen: (not pen.is_shown, _area(pen))):
        packed = packing.pack_structure(pen.structure)
        if used + len(packed.text) > packing.STRUCTURE_BYTES:
            left_out.append(pen.structure.name)
            continue
        used += len(packed.text)
        found[pen.key] = packed
    return [(pen, found.get(pen.key)) for pen in pens], left_out


def _area(pen: Pen) -> float:
    low, high = bounds_cm(pen.structure)
    return float(np.prod((high - low)[:2]))


def _shown_as(volumes: Mapping[str, packing.Packed], not_drawn: list[str]) -> str:
    """How coarse the copies on the page are."""
    sizes = []
    for name in ("ct", "planned", "recalculated"):
        if name in volumes:
            dx, dy, dz = (f"{10 * step:.3g}" for step in volumes[name].grid.spacing_cm)
            sizes.append(f"{'CT' if name == 'ct' else name} {dx} \u00d7 {dy} \u00d7 {dz} mm")
    text = f"Voxels on this page: {', '.join(sizes)}; tables and charts are from the originals."
    return text + (f" Not drawn for want of room: {', '.join(not_drawn)}." if not_drawn else "")
