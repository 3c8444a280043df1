"""Doubts about a measured curve: units, missing conditions, centring, symmetry, depth zero, detector.

Nothing is mended here. A finding is a note, a flag (the curve can be used, by someone who knows), or a refusal. Every
limit below is wide enough for honest data of a clinical linac and says why it is where it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from types import MappingProxyType

import numpy as np

from spinedose.compare.curves import edges_cm, maximum, symmetry_percent, value_at
from spinedose.errors import InvalidInput
from spinedose.measurements.detector import is_diode
from spinedose.measurements.finding import Finding, Severity
from spinedose.measurements.scan import LARGEST_FIELD_CM, LARGEST_SSD_CM, Scan

LONGEST_CM = 60.0
"""No water tank scans deeper, or further from the axis [cm]: 48 cm is usual. More is taken for millimetres."""

WIDTH_FACTOR = 5.0
"""A profile this many times wider or narrower than its field is in another unit: 10 would be millimetres."""

WIDTH_CM, WIDTH_SHARE = 0.3, 0.02
"""Width at half height against the projected field: 3 mm plus 2 %. Calibrated collimators keep 2 mm (IEC 60976)."""

CENTRE_CM = 0.1
"""Middle of the 50 % points against position 0 [cm]: collimators are centred to 1 mm (AAPM TG-142)."""

SYMMETRY_PERCENT = 2.0
"""Largest difference of mirrored points: clinical beams keep 2 % (IEC 60976 allows 3 %)."""

NEGATIVE_SHARE = 0.01
"""Values down to minus this share of the maximum are leakage or background; lower ones are an error."""

BUILD_UP_CM = 0.5
"""A depth dose that starts deeper than this makes no claim about build-up [cm]."""

DEEPEST_DMAX_CM = 5.0
"""No clinical photon beam has its maximum deeper [cm]: 25 MV has it at 4 cm."""

DEEP_START_CM = 4.0
"""A depth dose that starts here or deeper lies behind the maximum of every clinical photon beam [cm]."""

STEEPEST_CM = 0.5
"""Steepest rise of a depth dose against depth 0 [cm]. Curves whose zero is right show it at 2 to 4.5 mm, since a
detector leaves the water before its point of measurement does."""

DMAX_SHIFT_CM = 0.25
"""Maximum against its usual place [cm]: machines of one energy differ by 1.5 mm."""

USUAL_DMAX_CM: Mapping[str, float] = MappingProxyType(
    {"6X": 1.36, "6FFF": 1.30, "10X": 2.25, "10FFF": 2.12, "15X": 2.74}
)
"""Depth of the maximum of 10 x 10 cm2 at SSD 100 cm [cm]: Varian TrueBeam representative beam data, three machines."""

DIODE_FIELD_CM, DIODE_DEPTH_CM = 10.0, 10.0
"""Beyond this field, and from this depth on, diodes over-respond to scattered photons (IAEA TRS-483, section 4.1.2;
IBA and PTW recommend chambers there) [cm]."""


def findings(scan: Scan) -> tuple[Finding, ...]:
    """Look for what is doubtful in one curve.

    Parameters
    ----------
    scan : Scan
        The curve.

    Returns
    -------
    tuple of Finding
        Refusals first, then flags, then notes; empty when nothing was found.
    """
    found = [*_conditions(scan), *_units(scan), *_values(scan)]
    is_broken = any(finding.severity == "refuse" for finding in found)
    if not is_broken and float(np.max(scan.values)) > 0:
        if scan.kind == "depth_dose":
            found += _depth_dose(scan)
        elif scan.is_two_sided:
            found += _profile(scan)
        found += _detector(scan)
    found += [_finding(scan, "reader", "note", note) for note in scan.notes]
    order = {"refuse": 0, "flag": 1, "note": 2}
    return tuple(sorted(found, key=lambda finding: order[finding.severity]))


def _conditions(scan: Scan) -> Iterator[Finding]:
    """What the source does not state."""
    if math.isnan(sum(scan.field_cm)):
        can_do_without = scan.kind.endswith("radial")
        yield _finding(
            scan, "missing_field", "flag" if can_do_without else "refuse",
            "the field size is not stated", "the curve depends on it", "State field_x_cm and field_y_cm",
        )  # fmt: skip
    if math.isnan(scan.ssd_cm) and not scan.is_in_air and scan.kind not in ("tpr", "radial"):
        yield _finding(
            scan, "missing_ssd", "refuse", "the SSD is not stated", "divergence depends on it", "State ssd_cm"
        )
    if math.isnan(scan.depth_cm) and not scan.is_in_air and not scan.is_along_depth:
        yield _finding(scan, "missing_depth", "refuse", "the depth of the profile is not stated", "", "State depth_cm")
    marked = scan.metadata.get("column_flag") or scan.metadata.get("flag")
    if marked:
        yield _finding(scan, "source_flag", "flag", f"its source marks it '{marked}'", "it may be no measurement")
    if not scan.beam:
        yield _finding(
            scan, "missing_beam", "flag", "the beam is not stated", "the format may not hold it",
            "Give it when reading, e.g. beam='6X'",
        )  # fmt: skip


def _units(scan: Scan) -> Iterator[Finding]:
    """Millimetres that were taken for centimetres, and the other way round."""
    advice = "Give every length in cm"
    furthest = float(np.max(np.abs(scan.positions_cm)))
    if furthest > LONGEST_CM:
        yield _finding(
            scan, "units", "refuse", f"positions reach {furthest:g} cm",
            "no water tank does; they are probably millimetres", advice,
        )  # fmt: skip
    field = max(scan.field_cm)
    if field > LARGEST_FIELD_CM:
        yield _finding(
            scan, "units", "refuse", f"the field is {field:g} cm", "no linac opens so far; it is probably in mm", advice
        )
    if scan.ssd_cm > LARGEST_SSD_CM:
        yield _finding(
            scan,
            "units",
            "refuse",
            f"the SSD is {scan.ssd_cm:g} cm",
            "no room is so long; it is probably in mm",
            advice,
        )
    if scan.depth_cm > LONGEST_CM:
        yield _finding(
            scan, "units", "refuse", f"the depth is {scan.depth_cm:g} cm", "no water tank is so deep", advice
        )
    if scan.kind == "depth_dose" and 0 < scan.positions_cm[-1] < 5 and scan.values[-1] < 0.5 * np.max(scan.values):
        yield _finding(
            scan, "units", "flag", f"the dose halves within {scan.positions_cm[-1]:g} cm",
            "photons reach further; depths may be in decimetres, or the beam is of electrons", advice,
        )  # fmt: skip


def _values(scan: Scan) -> Iterator[Finding]:
    """Values below zero, and curves without any."""
    high, low = float(np.max(scan.values)), float(np.min(scan.values))
    if high <= 0:
        yield _finding(scan, "negative", "refuse", "no value is positive", "the polarity may be wrong")
    elif low < -NEGATIVE_SHARE * high:
        yield _finding(
            scan, "negative", "refuse", f"values go down to {100 * low / high:.1f} % of the maximum",
            "a dose is not negative, and background is smaller", "Subtract the background, or mend the values",
        )  # fmt: skip
    elif low < 0:
        yield _finding(
            scan, "negative", "flag", f"values go down to {100 * low / high:.2f} % of the maximum",
            "this may be background or leakage",
        )  # fmt: skip


def _depth_dose(scan: Scan) -> Iterator[Finding]:
    """A maximum that is not there, or not where it should be."""
    x, v = scan.positions_cm, scan.values
    if x[0] >= DEEP_START_CM:
        yield _finding(scan, "no_maximum", "note", f"it starts at {x[0]:g} cm, behind the maximum")
        return
    peak = int(np.argmax(v))
    if peak == len(v) - 1:
        yield _finding(
            scan, "no_maximum", "flag", "it rises to its last point", "it is no depth dose of photons, or cut short",
            "Check the direction of the depth axis",
        )  # fmt: skip
        return
    if peak == 0:
        yield _finding(
            scan, "no_maximum", "flag", f"it falls from its first point at {x[0]:g} cm",
            "the build-up is missing, or depth 0 is not the surface",
        )  # fmt: skip
        return
    dmax = maximum(x, v)[0]
    if dmax > DEEPEST_DMAX_CM:
        yield _finding(
            scan, "no_maximum", "flag", f"its maximum is at {dmax:.2f} cm", "no clinical photon beam has it so deep",
            "Check the direction of the depth axis",
        )  # fmt: skip
        return
    if x[0] > BUILD_UP_CM:
        return
    if x[0] < 0:
        steepest = _steepest_rise_cm(scan, dmax)
        if abs(steepest) > STEEPEST_CM:
            yield _finding(
                scan, "depth_zero", "flag", f"its steepest rise is at {steepest:.2f} cm",
                "it should be at the water surface, depth 0", "Check depth zero and the effective point of measurement",
            )  # fmt: skip
    usual = USUAL_DMAX_CM.get(scan.beam, math.nan)
    is_reference = all(9.5 <= side <= 10.5 for side in scan.field_cm) and 85 <= scan.ssd_cm <= 105
    if is_reference and abs(dmax - usual) > DMAX_SHIFT_CM:
        yield _finding(
            scan, "depth_zero", "flag", f"its maximum is at {dmax:.2f} cm",
            f"{usual:g} cm is usual for {scan.beam}; depth zero may be off by {10 * (dmax - usual):+.0f} mm, or the "
            "machine differs", "Check depth zero and the effective point of measurement",
        )  # fmt: skip


def _steepest_rise_cm(scan: Scan, dmax: float) -> float:
    """Middle of the 3 mm over which the depth dose rises most, before its maximum [cm]."""
    window = 0.3
    start = np.arange(scan.positions_cm[0], max(dmax - window, scan.positions_cm[0] + 0.01), 0.01)
    rise = np.interp(start + window, scan.positions_cm, scan.values)
    rise -= np.interp(start, scan.positions_cm, scan.values)
    # A rise that is equally steep over a stretch is steepest in the middle of the stretch.
    steep = start[rise >= 0.999 * rise.max()]
    return float((steep[0] + steep[-1]) / 2 + window / 2)


def _profile(scan: Scan) -> Iterator[Finding]:
    """A profile that is not where, or not as wide and symmetric as, its field says."""
    x, v = scan.positions_cm, scan.values
    try:
        left, right = edges_cm(x, v)
        symmetry = symmetry_percent(x, v)
        axis = value_at(x, v, 0.0)
    except InvalidInput as error:
        yield _finding(scan, "no_edges", "flag", "it does not show both field edges", error.problem)
        return
    width, middle = right - left, (left + right) / 2
    projected = _projected_width_cm(scan)
    if not math.isnan(projected):
        if not projected / WIDTH_FACTOR < width < projected * WIDTH_FACTOR:
            yield _finding(
                scan, "units", "refuse", f"it is {width:.3g} cm wide and its field {projected:.3g} cm",
                "positions and field size are in different units", "Give every length in cm",
            )  # fmt: skip
            return
        is_cone = "FFF" in scan.beam and projected > 15  # where the half value is not the field edge
        if abs(width - projected) > WIDTH_CM + WIDTH_SHARE * projected and not is_cone:
            yield _finding(
                scan, "width", "flag", f"it is {width:.2f} cm wide and its field {projected:.2f} cm",
                "the field size, SSD or depth may be wrong",
            )  # fmt: skip
    if abs(middle) > CENTRE_CM:
        yield _finding(
            scan, "not_centred", "flag", f"its middle is at {10 * middle:+.1f} mm",
            "the collimator or the tank is off centre", "Centre it before it is compared",
        )  # fmt: skip
    if symmetry > SYMMETRY_PERCENT:
        yield _finding(
            scan, "asymmetric", "flag", f"mirrored points differ by up to {symmetry:.1f} %", "a model beam is symmetric"
        )
    if axis < 0.5 * float(np.max(v)):
        yield _finding(scan, "not_centred", "flag", "its axis value is below half of its maximum")


def _projected_width_cm(scan: Scan) -> float:
    """Width of the field at the depth of a profile, by divergence from the source [cm]; NaN where it is not known."""
    if scan.is_in_air or scan.kind == "diagonal":
        return math.nan
    side = scan.field_x_cm if scan.kind == "crossline" else scan.field_y_cm
    return side * (scan.ssd_cm + scan.depth_cm) / 100


def _detector(scan: Scan) -> Iterator[Finding]:
    """A diode where it over-responds."""
    deepest = float(scan.positions_cm[-1]) if scan.is_along_depth else scan.depth_cm
    if is_diode(scan.detector) and max(scan.field_cm) > DIODE_FIELD_CM and deepest >= DIODE_DEPTH_CM:
        yield _finding(
            scan, "diode", "flag", f"a diode measured {max(scan.field_cm):g} cm wide down to {deepest:g} cm",
            "diodes over-respond to the scattered photons of large fields", "Use a chamber there, or weigh it less",
        )  # fmt: skip


def _finding(scan: Scan, code: str, severity: Severity, problem: str, why: str = "", advice: str = "") -> Finding:
    return Finding(code, severity, scan.label, problem, why, advice)
