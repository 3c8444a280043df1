"""What was measured: one curve, a set of output factors, the reference condition, and the set of them all.

Field sizes are at the isocentre plane: x is crossline (X jaws, leaf travel), y inline (towards the gantry). What a
source does not state is NaN or an empty text, never a guess; `findings` says what is missed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spinedose.compare.curves import value_at
from spinedose.errors import InvalidInput
from spinedose.measurements.finding import Finding

Array = NDArray[np.float64]

KINDS: Mapping[str, str] = MappingProxyType(
    {
        "depth_dose": "dose along the beam axis in water, at a fixed SSD",
        "tpr": "tissue-phantom ratio: the detector stays at a fixed distance, the water rises",
        "crossline": "profile along x in water",
        "inline": "profile along y in water",
        "diagonal": "profile along a diagonal of the field in water",
        "radial": "off-axis ratio in water against the distance from the axis, mean of all sides",
        "in_air_crossline": "profile along x in air",
        "in_air_inline": "profile along y in air",
        "in_air_diagonal": "profile along a diagonal in air",
        "in_air_radial": "fluence or in-air ratio against the distance from the axis at the isocentre plane",
    }
)
"""Kinds of curves."""

UNITS = ("percent", "ratio", "signal", "gy")
"""Units of values: percent and ratio are relative to something; a signal is what the electrometer gave."""

FACTORS: Mapping[str, str] = MappingProxyType(
    {
        "total": "dose in water per MU, relative to the reference field (Scp)",
        "head": "in-air output ratio (Sc)",
        "phantom": "phantom scatter factor (Sp)",
        "peak_scatter": "normalised peak scatter factor (NPSF)",
    }
)
"""Kinds of output factors."""

FURTHEST = 1e4
"""No position is further away than this, whatever its unit; larger numbers are damage."""

LARGEST = 1e30
"""No value is larger than this; larger numbers are damage."""

SAME_FIELD_CM = 0.005
"""Field sizes and depths that agree within this are the same [cm]."""


@dataclass(frozen=True, slots=True, eq=False)
class Scan:
    """One measured curve.

    Parameters
    ----------
    kind : str
        One of `KINDS`.
    beam : str
        Energy label, e.g. `6X`, `10FFF`; empty when not stated.
    field_x_cm, field_y_cm : float
        Field size at the isocentre plane, crossline and inline [cm]; NaN when not stated.
    ssd_cm : float
        Distance from the source to the water surface [cm]; NaN when not stated, and in air.
    depth_cm : float
        Depth of a profile [cm]; NaN for curves along the depth, and in air.
    positions_cm : ndarray, shape (n,)
        Depths, or distances from the beam axis at that depth, strictly rising [cm].
    values : ndarray, shape (n,)
        What was measured there.
    unit : str
        One of `UNITS`.
    detector : str
        Name or description as the source gives it; empty when not stated.
    source : str
        File, citation or key.
    scan_id : str
        Name of the curve inside its file.
    metadata : mapping of str to str
        What else the source says.
    notes : tuple of str
        What the reader changed (order of the points, direction of an axis).
    """

    kind: str
    beam: str
    field_x_cm: float
    field_y_cm: float
    ssd_cm: float
    depth_cm: float
    positions_cm: Array
    values: Array
    unit: str
    detector: str = ""
    source: str = ""
    scan_id: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InvalidInput(f"'{self.kind}' is no kind of curve", f"the kinds are {', '.join(KINDS)}")
        if self.unit not in UNITS:
            raise InvalidInput(f"'{self.unit}' is no unit of values", f"the units are {', '.join(UNITS)}")
        for name in ("positions_cm", "values"):
            object.__setattr__(self, name, _frozen(getattr(self, name), name))
        object.__setattr__(self, "metadata", MappingProxyType(dict(self.metadata)))
        if self.positions_cm.shape != self.values.shape:
            raise InvalidInput("A curve has not one value for each position")
        if len(self.values) < 2:
            raise InvalidInput(f"A curve has {len(self.values)} points", "two are least", "Give the whole curve")
        if np.any(np.abs(self.positions_cm) > FURTHEST) or np.any(np.abs(self.values) > LARGEST):
            raise InvalidInput("A curve holds numbers that nothing in a clinic reaches", "the file may be damaged")
        if np.any(np.diff(self.positions_cm) <= 0):
            raise InvalidInput("The positions of a curve do not rise strictly", "", "Sort them, one curve at a time")
        _prove_size("field size in x", self.field_x_cm)
        _prove_size("field size in y", self.field_y_cm)
        _prove_size("SSD", self.ssd_cm)
        if math.isinf(self.depth_cm) or self.depth_cm < 0:
            raise InvalidInput(f"The depth of a profile is {self.depth_cm:g} cm", "it lies above the water")
        if not math.isnan(self.depth_cm) and (self.is_along_depth or self.is_in_air):
            raise InvalidInput(f"A curve of kind '{self.kind}' has a depth", "its depth varies, or it has none")

    @property
    def is_along_depth(self) -> bool:
        """Whether the positions are depths."""
        return self.kind in ("depth_dose", "tpr")

    @property
    def is_in_air(self) -> bool:
        """Whether it was measured, or stated, in air."""
        return self.kind.startswith("in_air")

    @property
    def is_two_sided(self) -> bool:
        """Whether it is a profile that may be expected to hold both field edges."""
        return not self.is_along_depth and not self.kind.endswith("radial")

    @property
    def is_relative(self) -> bool:
        """Whether the values are relative (percent, ratio) and say nothing of the output between curves."""
        return self.unit in ("percent", "ratio")

    @property
    def field_cm(self) -> tuple[float, float]:
        """Field size (x, y) [cm]."""
        return self.field_x_cm, self.field_y_cm

    @property
    def label(self) -> str:
        """Beam, field, kind, depth and origin in a few words, for messages."""
        stated = not (math.isnan(self.field_x_cm) or math.isnan(self.field_y_cm))
        size = f"{self.field_x_cm:g}x{self.field_y_cm:g}" if stated else "unknown field"
        at = "" if math.isnan(self.depth_cm) else f" at {self.depth_cm:g} cm"
        origin = ", ".join(part for part in (self.source, f"scan {self.scan_id}" if self.scan_id else "") if part)
        return f"{self.beam or 'unknown beam'} {size} {self.kind}{at}" + (f" ({origin})" if origin else "")


@dataclass(frozen=True, slots=True, eq=False)
class OutputFactors:
    """Output against the field size, relative to one field.

    Parameters
    ----------
    kind : str
        One of `FACTORS`.
    beam : str
        Energy label.
    field_x_cm, field_y_cm : ndarray, shape (n,)
        Field sizes at the isocentre plane [cm].
    values : ndarray, shape (n,)
        Factors, positive.
    ssd_cm, depth_cm : float
        Geometry [cm]; NaN when not stated, and in air.
    normalisation_field_cm : tuple of float
        Field (x, y) whose factor is 1 [cm]; NaN when not stated.
    uncertainty : ndarray, shape (n,)
        Standard deviation of each factor; NaN where not stated.
    detector, source : str
        As in `Scan`.
    metadata : mapping of str to str
        What else the source says.
    """

    kind: str
    beam: str
    field_x_cm: Array
    field_y_cm: Array
    values: Array
    ssd_cm: float
    depth_cm: float
    normalisation_field_cm: tuple[float, float]
    uncertainty: Array
    detector: str = ""
    source: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in FACTORS:
            raise InvalidInput(f"'{self.kind}' is no kind of output factor", f"the kinds are {', '.join(FACTORS)}")
        for name in ("field_x_cm", "field_y_cm", "values"):
            object.__setattr__(self, name, _frozen(getattr(self, name), name))
        spread = np.array(self.uncertainty, dtype=np.float64)
        spread.setflags(write=False)
        object.__setattr__(self, "uncertainty", spread)
        object.__setattr__(self, "metadata", MappingProxyType(dict(self.metadata)))
        shape = self.values.shape
        if not len(self.values) or {self.field_x_cm.shape, self.field_y_cm.shape, spread.shape} != {shape}:
            raise InvalidInput("Output factors have not one value for each field")
        if np.any(self.values <= 0) or np.any(self.values > 1e3):
            raise InvalidInput("An output factor is not positive, or absurdly large", "", "Check the column")
        if np.any(spread < 0) or np.any(np.isinf(spread)):
            raise InvalidInput("The uncertainty of an output factor is negative or infinite")
        sizes = np.concatenate([self.field_x_cm, self.field_y_cm])
        if np.any(sizes <= 0) or np.any(sizes > LARGEST_FIELD_CM):
            raise InvalidInput(
                "A field size of the output factors is not between 0 and 60 cm",
                "they may be in millimetres",
                "Give field sizes in cm",
            )
        pairs = set(zip(np.round(self.field_x_cm, 3), np.round(self.field_y_cm, 3), strict=True))
        if len(pairs) != len(self.values):
            raise InvalidInput(
                f"The {self.beam} output factors hold a field twice",
                "two sets may be pooled",
                "Keep one value for each field, or tell the sets apart by detector, ssd_cm, depth_cm or source",
            )
        _prove_size("SSD", self.ssd_cm)
        if math.isinf(self.depth_cm) or self.depth_cm < 0:
            raise InvalidInput(f"The depth of output factors is {self.depth_cm:g} cm")

    @property
    def label(self) -> str:
        """Beam, kind and origin in a few words, for messages."""
        return f"{self.beam or 'unknown beam'} {self.kind} output factors" + (
            f" ({self.source})" if self.source else ""
        )

    def of(self, field_x_cm: float, field_y_cm: float) -> float:
        """Give the factor of a measured field; nothing is interpolated.

        Raises
        ------
        InvalidInput
            If that field was not measured.
        """
        near = _is_near(self.field_x_cm, field_x_cm) & _is_near(self.field_y_cm, field_y_cm)
        if not np.any(near):
            raise InvalidInput(f"{self.label}: the field {field_x_cm:g} x {field_y_cm:g} cm was not measured")
        return float(self.values[np.argmax(near)])


@dataclass(frozen=True, slots=True)
class ReferenceCondition:
    """Where the machine gives how many cGy for a monitor unit.

    Parameters
    ----------
    beam : str
        Energy label.
    field_x_cm, field_y_cm : float
        Field size at the isocentre plane [cm].
    ssd_cm : float
        Distance from the source to the water [cm]; isocentric: distance of the detector minus depth.
    depth_cm : float
        Depth of the point [cm].
    dose_cGy_per_MU : float
        Dose to water there [cGy/MU].
    source : str
        File, citation or key.
    """

    beam: str
    field_x_cm: float
    field_y_cm: float
    ssd_cm: float
    depth_cm: float
    dose_cGy_per_MU: float
    source: str = ""

    def __post_init__(self) -> None:
        numbers = (self.field_x_cm, self.field_y_cm, self.ssd_cm, self.depth_cm, self.dose_cGy_per_MU)
        if not self.beam or not all(math.isfinite(number) and number > 0 for number in numbers):
            raise InvalidInput(
                f"The reference condition of beam '{self.beam}' is incomplete", "all of it must be stated"
            )
        if max(self.field_x_cm, self.field_y_cm) > LARGEST_FIELD_CM or self.ssd_cm > LARGEST_SSD_CM:
            raise InvalidInput("A reference condition is too large", "it may be in millimetres", "Give lengths in cm")

    @property
    def detector_distance_cm(self) -> float:
        """Distance from the source to the point (SAD of an isocentric set-up) [cm]."""
        return self.ssd_cm + self.depth_cm


LARGEST_FIELD_CM = 60.0
"""No collimator of a clinical linac opens further at the isocentre plane [cm]; more is taken for millimetres."""

LARGEST_SSD_CM = 500.0
"""Total body set-ups reach 400 cm; more is taken for millimetres."""


@dataclass(frozen=True, slots=True, eq=False)
class Measurements:
    """A set of measurements.

    Parameters
    ----------
    scans : tuple of Scan
        Curves.
    output_factors : tuple of OutputFactors
        Sets of output factors.
    references : tuple of ReferenceCondition
        Calibration of each beam; at most one a beam.
    findings : tuple of Finding
        What was found in the curves when they were read, refused ones included.
    """

    scans: tuple[Scan, ...] = ()
    output_factors: tuple[OutputFactors, ...] = ()
    references: tuple[ReferenceCondition, ...] = ()
    findings: tuple[Finding, ...] = ()

    def __post_init__(self) -> None:
        beams = [reference.beam for reference in self.references]
        if len(set(beams)) != len(beams):
            raise InvalidInput("A beam has two reference conditions", "its output would be ambiguous", "Keep one")

    def __add__(self, other: Measurements) -> Measurements:
        """Join two sets."""
        return Measurements(
            self.scans + other.scans,
            self.output_factors + other.output_factors,
            self.references + other.references,
            self.findings + other.findings,
        )

    @property
    def beams(self) -> tuple[str, ...]:
        """Labels of the beams, sorted."""
        beams = {scan.beam for scan in self.scans} | {factors.beam for factors in self.output_factors}
        return tuple(sorted(beams | {reference.beam for reference in self.references}))

    def fields_cm(self, beam: str) -> tuple[tuple[float, float], ...]:
        """Fields (x, y) in which curves of this beam were measured, sorted [cm]."""
        fields = {scan.field_cm for scan in self.scans if scan.beam == beam and not math.isnan(sum(scan.field_cm))}
        return tuple(sorted(fields))

    def select(
        self,
        *,
        kind: str = "",
        beam: str = "",
        field_cm: tuple[float, float] = (math.nan, math.nan),
        depth_cm: float = math.nan,
        detector: str = "",
    ) -> tuple[Scan, ...]:
        """Give the curves that fit; what is not given does not matter.

        Parameters
        ----------
        kind, beam : str
            Exact.
        field_cm : tuple of float
            Field size (x, y) [cm].
        depth_cm : float
            Depth of the profile [cm].
        detector : str
            Part of the detector's name, in any case.
        """
        return tuple(
            scan
            for scan in self.scans
            if (not kind or scan.kind == kind)
            and (not beam or scan.beam == beam)
            and (math.isnan(field_cm[0]) or bool(_is_near(scan.field_x_cm, field_cm[0])))
            and (math.isnan(field_cm[1]) or bool(_is_near(scan.field_y_cm, field_cm[1])))
            and (math.isnan(depth_cm) or bool(_is_near(scan.depth_cm, depth_cm)))
            and detector.lower() in scan.detector.lower()
        )

    def factors(self, *, beam: str, kind: str = "total") -> tuple[OutputFactors, ...]:
        """Sets of output factors of a beam."""
        return tuple(item for item in self.output_factors if item.beam == beam and item.kind == kind)

    def reference(self, beam: str) -> ReferenceCondition:
        """Give the calibration of a beam.

        Raises
        ------
        InvalidInput
            If it is not stated.
        """
        for reference in self.references:
            if reference.beam == beam:
                return reference
        raise InvalidInput(
            f"The calibration of beam '{beam}' is not stated",
            "curves alone do not say how many cGy a monitor unit gives",
            "State the reference condition: field, SSD, depth and cGy/MU",
        )


def output_factors_from_signals(
    scans: Iterable[Scan], *, depth_cm: float, normalisation_field_cm: tuple[float, float] = (10.0, 10.0)
) -> OutputFactors:
    """Take output factors from depth doses that were recorded with one detector and one reference signal.

    Parameters
    ----------
    scans : iterable of Scan
        Depth doses of one beam, SSD and detector, in `signal` or `gy`. Of curves of one field the first that
        holds the depth counts.
    depth_cm : float
        Depth at which the signals are compared [cm].
    normalisation_field_cm : tuple of float
        Field (x, y) that is 1 [cm].

    Returns
    -------
    OutputFactors
        Of kind `total`, sorted by field.

    Raises
    ------
    InvalidInput
        If the curves do not belong together, are relative, or lack the normalisation field.
    """
    curves = list(scans)
    together = {(scan.beam, scan.ssd_cm, scan.detector, scan.unit, scan.kind) for scan in curves}
    if len(together) != 1:
        raise InvalidInput(
            "The curves do not belong to one beam, SSD, detector and unit", f"there are {len(together)} kinds"
        )
    beam, ssd, detector, unit, kind = together.pop()
    if unit not in ("signal", "gy") or kind != "depth_dose":
        raise InvalidInput(f"Curves of kind '{kind}' in '{unit}' give no output factors", "signals of depth doses do")
    found: dict[tuple[float, float], float] = {}
    for scan in curves:
        if math.isnan(sum(scan.field_cm)):
            raise InvalidInput(f"{scan.label}: the field size is not stated")
        if scan.positions_cm[0] <= depth_cm <= scan.positions_cm[-1]:
            found.setdefault(scan.field_cm, value_at(scan.positions_cm, scan.values, depth_cm))
    reference = found.get(normalisation_field_cm, 0.0)
    if reference <= 0:
        raise InvalidInput(f"No curve of the field {normalisation_field_cm} cm holds the depth {depth_cm:g} cm")
    fields = sorted(found)
    return OutputFactors(
        "total",
        beam,
        np.array([x for x, _ in fields]),
        np.array([y for _, y in fields]),
        np.array([found[size] / reference for size in fields]),
        ssd,
        depth_cm,
        normalisation_field_cm,
        np.full(len(fields), math.nan),
        detector,
        curves[0].source,
        {"derived_from": "signals of depth doses"},
    )


def _frozen(values: Any, name: str) -> Array:
    """Own, finite float64 copy that nobody can change."""
    array = np.array(values, dtype=np.float64)
    if array.ndim != 1:
        raise InvalidInput(f"'{name}' has shape {array.shape}", "one axis is needed")
    if not np.all(np.isfinite(array)):
        raise InvalidInput(f"'{name}' holds NaN or infinity", "", "Leave those points out")
    array.setflags(write=False)
    return array


def _prove_size(what: str, size_cm: float) -> None:
    if math.isinf(size_cm) or size_cm <= 0:
        raise InvalidInput(f"The {what} is {size_cm:g} cm", "it must be positive, or NaN when it is not stated")


def _is_near(a: Any, b: float) -> NDArray[np.bool_]:
    near: NDArray[np.bool_] = np.abs(np.asarray(a, dtype=np.float64) - b) <= SAME_FIELD_CM
    return near
