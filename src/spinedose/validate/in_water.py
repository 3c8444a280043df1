"""Measured curves held against calculated ones: depth doses, profiles and output ratios become lines and drawings.

Both curves of a pair are scaled where the measurement says most: depth doses by their mean from 9.5 to 10.5 cm - what
remains is the shape, the rest is output -, profiles by their mean around the axis. Profiles are centred first, and the
measured one is turned into means over voxels, as calculated doses are.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from spinedose.compare.curves import centre_cm, field_width_cm, maximum
from spinedose.curve_judging import (
    Criterion,
    compare_depth_dose,
    compare_profile,
    judge_curve,
    projected_half_cm,
)
from spinedose.errors import InvalidInput
from spinedose.grid import Volume
from spinedose.measurements import Detector, Scan
from spinedose.validate.lines import Drawn, Line, Tag
from spinedose.validate.tanks import FINE_CM, Setup, as_voxels, depth_dose, profile

Array = NDArray[np.float64]
Found = tuple[list[Line], list[Drawn], list[str]]
"""Lines, curves and notes."""

SHALLOWEST_CM = 0.5
"""Nearer to the surface a chamber reads what its wall and its size make of the dose (notes on the LA6 data)."""

REFERENCE_DEPTH_CM, WINDOW_CM = 10.0, 0.5
"""Depth doses meet over this window around the reference depth [cm]: single voxels of a static beam carry the ripple of
the lattice of rays, and single readings their noise."""

AXIS_SHARE = 0.1
"""Profiles are 100 % on average over this share of the field width around the axis."""


WORDS = {
    "build-up": "build-up",
    "beyond": "beyond the maximum",
    "in-field": "in the field",
    "penumbra": "penumbra 80-20 %",
    "width": "width at 50 %",
    "tail": "tail",
}
"""What lines call the quantities of `judge_curve`."""


def size(field_cm: tuple[float, float]) -> str:
    """`10 x 10 cm`."""
    return f"{field_cm[0]:g} x {field_cm[1]:g} cm"


def depth_dose_lines(
    tag: Tag,
    scan: Scan,
    volume: Volume,
    setup: Setup,
    detector: Detector | None,
    role: str,
    criteria: Mapping[str, Criterion],
) -> Found:
    """Build-up and the part beyond the maximum, in percent of the measured maximum."""
    keep = scan.positions_cm >= SHALLOWEST_CM
    x, measured = scan.positions_cm[keep], scan.values[keep]
    fine = np.linspace(x[0], x[-1], int(np.ceil((x[-1] - x[0]) / FINE_CM)) + 1)
    calculated = depth_dose(volume, fine + setup.depth_shift_cm, detector)
    window = np.abs(x - REFERENCE_DEPTH_CM) <= WINDOW_CM
    if not np.any(window):
        raise InvalidInput(f"{scan.label} does not reach {REFERENCE_DEPTH_CM:g} cm")
    calculated *= measured[window].mean() / np.interp(x[window], fine, calculated).mean()
    top = maximum(x, measured)[1]
    name = size(scan.field_cm)
    facts = {"quantity": "depth dose", "role": role, "field": name, "note": _by(scan)}
    compared = compare_depth_dose((x, measured), (fine, calculated))
    judged = judge_curve(compared, criteria, scan.field_cm)
    lines = [Line.of_judged(tag, item, region=WORDS[item.quantity], **facts) for item in judged]
    drawn = Drawn(
        f"{tag.beam} {name}", "depth dose", "depth [cm]", "dose [% of the maximum]", x, 100 * measured / top,
        100 * np.interp(x, fine, calculated) / top, role,
    )  # fmt: skip
    return lines, [drawn], []


def profile_lines(
    tag: Tag,
    scan: Scan,
    volume: Volume,
    setup: Setup,
    detector: Detector | None,
    role: str,
    criteria: Mapping[str, Criterion],
) -> Found:
    """In-field, penumbra, width and tail of a crossline or inline profile."""
    x = scan.positions_cm - centre_cm(scan.positions_cm, scan.values)
    width = field_width_cm(scan.positions_cm, scan.values)
    near = AXIS_SHARE * width
    run = volume.grid.axes_cm[2 if scan.kind == "inline" else 0]
    fine, means = as_voxels(x, scan.values / scan.values[np.abs(x) <= near].mean(), run)
    x = x[(x >= fine[0]) & (x <= fine[-1])]
    measured = np.interp(x, fine, means)
    p, q = profile(volume, "y" if scan.kind == "inline" else "x", scan.depth_cm + setup.depth_shift_cm, detector)
    q = q / np.interp(x[np.abs(x) <= near], p, q).mean()
    half = projected_half_cm(scan.kind, scan.field_cm, scan.ssd_cm, scan.depth_cm)
    compared = compare_profile((x, measured), (p, q), half_cm=half, penumbra_of=(fine, means), measured_width_cm=width)
    judged = judge_curve(compared, criteria, scan.field_cm)
    name, at, by = size(scan.field_cm), f"{scan.depth_cm:g} cm", f"{scan.kind}{_by(scan, ', ')}"
    facts = {"quantity": "profile", "role": role, "field": name, "depth": at, "note": by}
    lines = [Line.of_judged(tag, item, region=WORDS[item.quantity], **facts) for item in judged]
    missing = {"penumbra", "width"} - {item.quantity for item in judged}
    notes = [f"{scan.label}: it shows no {' and no '.join(sorted(missing))}"] if missing else []
    common = (x >= p[0]) & (x <= p[-1])
    drawn = Drawn(
        f"{tag.beam} {name} {scan.kind} at {at}{_by(scan, ', ')}", "profile", "off axis [cm]", "dose [% of the axis]",
        x[common], 100 * measured[common], 100 * np.interp(x[common], p, q), role,
    )  # fmt: skip
    return lines, [drawn], notes


def at_reference_depth(scan: Scan, volume: Volume, setup: Setup, detector: Detector | None) -> tuple[float, float]:
    """Measured and calculated dose at the reference depth, means over the window, for output ratios."""
    window = np.abs(scan.positions_cm - REFERENCE_DEPTH_CM) <= WINDOW_CM
    calculated = depth_dose(volume, scan.positions_cm[window] + setup.depth_shift_cm, detector)
    return float(scan.values[window].mean()), float(calculated.mean())


def dose_at(volume: Volume, depth_cm: float, detector: Detector | None = None) -> float:
    """Calculated dose on the axis, mean over the window around a depth."""
    depths = depth_cm + np.linspace(-WINDOW_CM, WINDOW_CM, 11)
    return float(depth_dose(volume, depths, detector).mean())


def _by(scan: Scan, before: str = "") -> str:
    return f"{before}{scan.detector}" if scan.detector else ""
