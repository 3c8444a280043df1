"""Along which line a scan ran, judged by its points and not by what its header calls it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from spinedose.errors import InvalidInput

STILL_CM = 0.3
"""A coordinate that varies less than this stood still [cm]: scanners wander by a millimetre, along the depth too."""

STRAIGHT_SHARE = 0.02
"""A coordinate that varies less than this share of the longest one stood still as well."""

ON_AXIS_CM = 0.5
"""A scan that passes the beam axis further away than this is off axis [cm]."""

SAME_DEPTH_CM = 0.1
"""Header and points may differ by this much [cm]."""


@dataclass(frozen=True, slots=True)
class Track:
    """The line of a scan.

    Parameters
    ----------
    kind : str
        `depth_dose`, `crossline`, `inline` or `diagonal`.
    positions_cm : list of float
        Positions along it [cm]; on a diagonal the distance from the axis, with the sign of x.
    depth_cm : float
        Depth of a profile [cm]; NaN along the depth.
    """

    kind: str
    positions_cm: list[float]
    depth_cm: float


def along_of(points_cm: Sequence[Sequence[float]]) -> Track:
    """Find the line on which points (x crossline, y inline, z depth) lie [cm].

    Raises
    ------
    InvalidInput
        If they stand still, run obliquely through the depth, or pass off the axis.
    """
    if len(points_cm) < 2:
        raise InvalidInput(f"It has {len(points_cm)} points", "two are least")
    x, y, z = ([point[i] for point in points_cm] for i in range(3))
    spans = [max(values) - min(values) for values in (x, y, z)]
    still = max(STILL_CM, STRAIGHT_SHARE * max(spans))
    if max(spans) <= STILL_CM:
        still = 0.0
    moves = tuple(span > still for span in spans)
    middle = [(max(values) + min(values)) / 2 for values in (x, y, z)]
    lines = {
        (False, False, True): ("depth_dose", z, (0, 1)),
        (True, False, False): ("crossline", x, (1,)),
        (False, True, False): ("inline", y, (0,)),
        (True, True, False): ("diagonal", [math.copysign(math.hypot(a, b), a) for a, b in zip(x, y, strict=True)], ()),
    }
    if moves not in lines:
        raise InvalidInput(
            f"It runs {spans[0]:g} cm in x, {spans[1]:g} in y and {spans[2]:g} in depth",
            "that is no depth dose and no profile",
        )
    kind, positions, across = lines[moves]
    off = max((abs(middle[i]) for i in across), default=0.0)
    if kind == "diagonal":
        off = _distance_from_axis(x, y, still)
    if off > ON_AXIS_CM:
        raise InvalidInput(f"It passes the beam axis {off:g} cm away", "only scans through the axis are compared")
    return Track(kind, positions, math.nan if kind == "depth_dose" else round(middle[2], 4))


def _distance_from_axis(x: Sequence[float], y: Sequence[float], still: float) -> float:
    """Distance at which the line through the first and the last point passes the axis [cm].

    Raises
    ------
    InvalidInput
        If the points do not lie on it.
    """
    length = math.hypot(x[-1] - x[0], y[-1] - y[0])
    if length <= still:
        raise InvalidInput("Its points are not on one line", "it ends where it began")
    across = (-(y[-1] - y[0]) / length, (x[-1] - x[0]) / length)
    away = [across[0] * (a - x[0]) + across[1] * (b - y[0]) for a, b in zip(x, y, strict=True)]
    if max(map(abs, away)) > still:
        raise InvalidInput("Its points are not on one line", f"one is {max(map(abs, away)):g} cm beside it")
    return abs(across[0] * x[0] + across[1] * y[0])


def kind_of(track: Track, group: str) -> str:
    """Give the kind of a track that its header calls `depth` or `profile`; empty where they contradict each other."""
    return track.kind if (track.kind == "depth_dose") == (group == "depth") else ""


def one_value(found: float, stated: float, what: str) -> float:
    """Give the value that points and header agree on; NaN in one of them says nothing.

    Raises
    ------
    InvalidInput
        If they contradict each other.
    """
    if math.isnan(found) or math.isnan(stated):
        return found
    if abs(found - stated) > SAME_DEPTH_CM:
        raise InvalidInput(
            f"The {what} is {stated:g} in its header and {found:g} in its points", "one of them is wrong"
        )
    return found
