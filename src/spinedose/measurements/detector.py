"""Detectors: their sensitive volume, and how it blurs a curve.

A detector reads the mean over its sensitive volume. Along a scan only the projection of the volume on the scan
direction matters as long as the dose does not change across the scan within the volume; that is what is modelled. The
shape of the projection is exact: chords of the circle, discs of the sphere, a box along the axis of the cylinder. A
chamber sees edges wider still, because its air lets secondary electrons pass; where that is known it is a Gaussian
(`Detector.blur_cm`; Looe et al., Z Med Phys 23:129 (2013), doi:10.1016/j.zemedi.2012.12.010). Other influences of the
detector's matter are not modelled.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spinedose.compare.curves import curve_of
from spinedose.errors import InvalidInput

Array = NDArray[np.float64]
Shape = Literal["cylinder", "sphere", "point"]
Kind = Literal["ion chamber", "diode", "diamond", "point"]
Axis = Literal["x", "y", "z"]


@dataclass(frozen=True, slots=True)
class Detector:
    """A detector and its sensitive volume.

    Parameters
    ----------
    name : str
        Maker and type.
    kind : str
        `ion chamber`, `diode`, `diamond` or `point`.
    shape : str
        `cylinder`, `sphere` or `point`.
    radius_cm : float
        Radius of the sensitive volume [cm]; 0 for a point.
    length_cm : float
        Length along the cylinder's axis [cm]; for a diode or diamond the thickness of its disc; 0 for others.
    axis : str
        Direction of the cylinder's axis: `x` crossline, `y` inline, `z` along the beam. A chamber lies (`y` is the
        custom), a diode or diamond stands; use `lying_along` when it was otherwise.
    source : str
        Where the dimensions come from.
    blur_cm : float
        Standard deviation of a Gaussian by which it sees an edge across the beam wider than its volume says [cm]: the
        secondary electrons that its air lets pass.
    is_sourced : bool
        Whether `source` names where its size can be read; where not, every curve measured with it is flagged.
    """

    name: str
    kind: Kind
    shape: Shape
    radius_cm: float
    length_cm: float
    axis: Axis
    source: str
    blur_cm: float = 0.0
    is_sourced: bool = True

    def __post_init__(self) -> None:
        if self.kind not in ("ion chamber", "diode", "diamond", "point"):
            raise InvalidInput(f"'{self.kind}' is no kind of detector")
        if self.axis not in ("x", "y", "z"):
            raise InvalidInput(f"'{self.axis}' is no direction of a detector", "the directions are x, y and z")
        sizes = {"cylinder": (True, True), "sphere": (True, False), "point": (False, False)}
        if self.shape not in sizes:
            raise InvalidInput(f"'{self.shape}' is no shape of a detector", f"the shapes are {', '.join(sizes)}")
        if not 0 <= self.blur_cm < 1:
            raise InvalidInput(f"The blur of '{self.name}' is {self.blur_cm} cm", "0 to 1 cm makes sense")
        for size, is_needed in zip((self.radius_cm, self.length_cm), sizes[self.shape], strict=True):
            if not (0 < size < 5 if is_needed else size == 0):
                raise InvalidInput(f"The {self.shape} '{self.name}' has radius {self.radius_cm} cm and length "
                                   f"{self.length_cm} cm", "a size is missing, too many, or not in cm")  # fmt: skip

    def lying_along(self, axis: Axis) -> Detector:
        """Give the same detector with its axis in another direction."""
        return replace(self, axis=axis)

    def half_width_cm(self, along: Axis) -> float:
        """Half of the extent of the sensitive volume in a direction [cm]."""
        return self.length_cm / 2 if self.shape == "cylinder" and along == self.axis else self.radius_cm


_TG51_AND_TRS398 = "radius: AAPM WGTG51 Report 374 (2022), Table 1; length: IAEA TRS-398 (Rev. 1, 2024), Table 4"

_LOOE = (
    "blur: standard deviation of the whole response across the chamber at 6 MV, {total} mm (Looe et al., Z Med Phys"
    " 23:129 (2013), as tabulated in the public program mwgeurts/water_tank), less that of the cavity, radius / 2"
)
"""The same table gives a CC13 2.26 mm; cavity and blur that were measured here make 2.40 mm."""

_AS_REMEMBERED = "size as remembered, no source at hand"

DETECTORS: Mapping[str, Detector] = MappingProxyType(
    {
        item.name: item
        for item in (
            Detector(
                "IBA CC13", "ion chamber", "cylinder", 0.30, 0.58, "y",
                f"{_TG51_AND_TRS398}; blur: 1.87 +- 0.02 mm in six pairs of scans with a diode, 6 MV "
                "(validation/chamber_blur.py)",
                blur_cm=0.187,
            ),
            Detector(
                "IBA CC04", "ion chamber", "cylinder", 0.20, 0.36, "y",
                "radius: chamber list of the public program stevend12/SolutioCpp (after the TG-51 addendum); length: "
                "that of mwgeurts/water_tank; they give 0.037 (round tip) to 0.045 cm3, its name says 0.04; "
                f"{_LOOE.format(total=1.49)}",
                blur_cm=0.110,
            ),
            Detector(
                "IBA CC01", "ion chamber", "cylinder", 0.10, 0.36, "y",
                "length: chamber list of the public program mwgeurts/water_tank; radius as remembered, no source at "
                f"hand (the two give 0.011 cm3, its name says 0.01); {_LOOE.format(total=0.69)}",
                blur_cm=0.048, is_sourced=False,
            ),
            Detector(
                "PTW 31010 Semiflex", "ion chamber", "cylinder", 0.275, 0.65, "y",
                f"{_TG51_AND_TRS398}; {_LOOE.format(total=2.20)}", blur_cm=0.172,
            ),
            Detector(
                "PTW 31002 Semiflex", "ion chamber", "cylinder", 0.275, 0.65, "y",
                "radius: header of MEPHYSTO files (DETECTOR_RADIUS); length and blur of its successor 31010",
                blur_cm=0.172, is_sourced=False,
            ),
            Detector(
                "PTW 31021 Semiflex 3D", "ion chamber", "cylinder", 0.24, 0.48, "y",
                "PTW data sheet of the type 31021; IAEA TRS-398 (Rev. 1, 2024), Table 4",
            ),
            Detector(
                "PTW 31016 PinPoint 3D", "ion chamber", "cylinder", 0.145, 0.29, "y",
                "radius: AAPM WGTG51 Report 374 (2022), Table 1; length: IAEA TRS-398 (Rev. 1, 2024); with a round "
                f"tip these give the stated volume of 0.016 cm3; {_LOOE.format(total=1.38)}",
                blur_cm=0.117,
            ),
            Detector(
                "PTW 60019 microDiamond", "diamond", "cylinder", 0.113, 0.0001, "z",
                "volume 0.004 mm3, thickness 1 um: Ravichandran et al., J. Appl. Clin. Med. Phys. 17(2) (2016); "
                "radius derived from them",
            ),
            Detector(
                "IBA PFD", "diode", "cylinder", 0.10, 0.051, "z",
                "diameter 2.0 mm, volume about 1.6 mm3: IBA Dosimetry, myQA Blue Phantom3 detectors, Table 4.1 "
                "(helpcenter.iba-dosimetry.com, article 22871340893212); thickness derived from them",
            ),
            Detector(
                "IBA Razor diode", "diode", "cylinder", 0.03, 0.002, "z",
                "diameter 0.6 mm, thickness 0.02 mm: SU-E-T-376, Med. Phys. 42 (2015), doi:10.1118/1.4924737",
            ),
            Detector(
                "Sun Nuclear Edge", "diode", "cylinder", 0.045, 0.003, "z",
                f"square of 0.8 x 0.8 mm, 0.03 mm thick, taken for a disc of that area: {_AS_REMEMBERED}",
                is_sourced=False,
            ),
            Detector(
                "PTW 60008 Diode P", "diode", "cylinder", 0.056, 0.0003, "z",
                f"disc of 1 mm2, 2.5 um thick: {_AS_REMEMBERED}", is_sourced=False,
            ),
            Detector("point", "point", "point", 0.0, 0.0, "z", "no extent"),
        )
    }
)  # fmt: skip
"""Detectors whose dimensions are known here. Those without a source say so (`is_sourced`), and curves that were
measured with them are flagged; others are made by the caller from the maker's data sheet."""

_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), name)
    for pattern, name in (
        (r"\bcc[ -]?13\b", "IBA CC13"),
        (r"\bcc[ -]?04\b", "IBA CC04"),
        (r"\bcc[ -]?01\b", "IBA CC01"),
        (r"31010", "PTW 31010 Semiflex"),
        (r"31002", "PTW 31002 Semiflex"),
        (r"31021|semiflex[ -]?3d", "PTW 31021 Semiflex 3D"),
        (r"31016", "PTW 31016 PinPoint 3D"),
        (r"60019|micro[ -]?diamond", "PTW 60019 microDiamond"),
        (r"\bpfd\b|\biba photon diode\b", "IBA PFD"),
        (r"\brazor diode\b|\biba razor\b", "IBA Razor diode"),
        (r"\bedge\b", "Sun Nuclear Edge"),
        (r"60008", "PTW 60008 Diode P"),
        (r"^\s*point\s*$", "point"),
    )
)

ROWS = 256
"""Points that are averaged in one go, so that a fine curve does not need a matrix of all its points."""

_DIODE = re.compile(
    r"diode|\bedge\b|semiconductor|\bpfd\b|\befd\b|\bsfd\b|60008|60012|60016|60017|60018", re.IGNORECASE
)


def find_detector(name: str) -> Detector:
    """Find a detector by the name that a file gives it, e.g. `CC 13 Field`.

    Raises
    ------
    InvalidInput
        If the name fits no known detector, or more than one.
    """
    found = [DETECTORS[known] for pattern, known in _PATTERNS if pattern.search(name)]
    if len(found) != 1:
        raise InvalidInput(
            f"The detector '{name}' is not known" if not found else f"The name '{name}' fits {len(found)} detectors",
            f"dimensions with a source are at hand for {', '.join(DETECTORS)}",
            "Give its radius, length and axis from the maker's data sheet",
        )
    return found[0]


def is_diode(name: str) -> bool:
    """Whether a detector's name says that it is a silicon diode."""
    return bool(_DIODE.search(name))


def average_over(detector: Detector, positions_cm: ArrayLike, values: ArrayLike, along: Axis) -> Array:
    """Average a calculated curve over the sensitive volume of a detector, as a scan with it would read.

    The curve is linear between its points and constant beyond its ends; its convolution with the projection of the
    sensitive volume is formed exactly, piece by piece. The weights of each result sum to 1. On evenly spaced positions
    the sum of the values is conserved as well, where the curve is flat for a detector's width at its ends.

    Parameters
    ----------
    detector : Detector
        Its shape and axis.
    positions_cm : array_like, shape (n,)
        Positions, strictly rising [cm].
    values : array_like, shape (n,)
        Calculated curve.
    along : str
        Direction of the scan: `x`, `y`, or `z` for a depth dose.

    Returns
    -------
    ndarray, shape (n,)
        The averaged curve at the same positions.
    """
    x, v = curve_of(positions_cm, values)
    if along not in ("x", "y", "z"):
        raise InvalidInput(f"'{along}' is no direction of a scan", "the directions are x, y and z")
    half, seen = detector.half_width_cm(along), v.copy()
    if half > 0:
        seen = _convolve(x, seen, half, 1.0, lambda t: _projection(detector, along, t))
    if detector.blur_cm > 0 and along != "z":
        seen = _convolve(x, seen, detector.blur_cm, FURTHEST_SIGMA, _gaussian)
    return seen


def _convolve(
    x: Array, v: Array, unit: float, reach: float, integrals: Callable[[Array], tuple[Array, Array]]
) -> Array:
    """Convolve a curve that is linear between its points, piece by piece, with a weight of a width of `reach` units."""
    # The curve as pieces, with a flat one added at each end, long enough for every position.
    wide = reach * unit
    knots = np.concatenate([[x[0] - 2 * wide], x, [x[-1] + 2 * wide]])
    height = np.concatenate([[v[0]], v, [v[-1]]])
    slope = np.diff(height) / np.diff(knots)
    result = np.empty_like(v)
    for start in range(0, len(x), ROWS):
        rows = x[start : start + ROWS, None]
        first = max(int(np.searchsorted(knots, rows[0, 0] - wide)) - 1, 0)
        last = int(np.searchsorted(knots, rows[-1, 0] + wide)) + 1
        near, low, rise = knots[first:last], height[first : last - 1], slope[first : last - 1]
        share, moment = integrals(np.clip((near - rows) / unit, -reach, reach))
        share, moment = np.diff(share, axis=1), unit * np.diff(moment, axis=1)
        result[start : start + ROWS] = np.sum((low + rise * (rows - near[:-1])) * share + rise * moment, axis=1)
    return result


FURTHEST_SIGMA = 6.0
"""Where a Gaussian ends: 2e-9 of it lies beyond."""


def _gaussian(t: Array) -> tuple[Array, Array]:
    """Integrals of a normal distribution from -FURTHEST_SIGMA to t, of its weight and of t times it; sum 1."""
    from scipy.special import ndtr

    return ndtr(t) / (1 - 2 * ndtr(-FURTHEST_SIGMA)), -np.exp(-(t**2) / 2) / math.sqrt(2 * math.pi)


def _projection(detector: Detector, along: Axis, t: Array) -> tuple[Array, Array]:
    """Integrals of the projected volume from -1 to t, in units of its half width: of the weight w, and of t w.

    Box (along the cylinder's axis)   w = 1/2
    Cylinder (across)                 w = 2/pi sqrt(1 - t^2)
    Sphere                            w = 3/4 (1 - t^2)
    """
    if detector.shape == "cylinder" and along == detector.axis:
        return (1 + t) / 2, (t**2 - 1) / 4
    root = np.sqrt(1 - t**2)
    if detector.shape == "cylinder":
        return 0.5 + (t * root + np.arcsin(t)) / math.pi, -2 / (3 * math.pi) * root**3
    return 0.5 + 0.75 * (t - t**3 / 3), 0.75 * (t**2 / 2 - t**4 / 4 - 0.25)
