"""Fit a beam model to measurements in water: which numbers the data determine, how well, and what is left over.

The model is that of docs/theory/fluence.md; nothing here is a correction for one field. `tank.py` computes the curves.
docs/theory/commissioning.md says in which order, and why.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spinedose.backends.base import Backend
from spinedose.backends.select import select_backend
from spinedose.calibration import open_field_beam
from spinedose.clock import Progress
from spinedose.compare.curves import centre_cm, maximum, value_at
from spinedose.curve_judging import projected_half_cm
from spinedose.errors import InvalidInput
from spinedose.fluence_model import FluenceMaps, fluence_raster
from spinedose.machine import BeamModel, Calibration, Machine, RadialTable, Spectrum, least_scatter_angle_deg
from spinedose.measurements import Detector, Finding, Measurements, OutputFactors, Scan, average_over, find_detector
from spinedose.segments import segment_beam
from spinedose.tank import TankModel

Array = NDArray[np.float64]


REFERENCE_FIELD_CM = 10.0
REFERENCE_DEPTH_CM = 10.0
"""Signals are compared relative to this square field at this depth."""

PIXEL_CM = 0.1
"""Pixels of the fluence maps of the fit."""

SHALLOWEST_CM = 0.5
"""Nearer to the surface a chamber reads what its wall and its size make of the dose."""

DOSE_SIGMA, POSITION_SIGMA_CM, SIGNAL_SIGMA = 0.004, 0.03, 0.003
CHAMBER_POSITION_SIGMA_CM = 0.1
"""What a good scan is worth: share of the axis dose; position; output between fields. Rule of thumb of the data sets
at hand (agreement of two TrueBeams with each other 0.6 to 0.9 %, shared water_data notes), halved for one machine. A
chamber sees an edge wider than its cavity says; unless by how much is known (`Detector.blur_cm`), its penumbras weigh
less: the focal spot would take the blame (1.2 mm with a CC13 and its cavity alone, 0.5 mm with a diode)."""

PRIOR_SHARE = 0.5
"""The literature counts as one measurement whose standard deviation is this share of the parameter's range."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A number of the beam model that can be fitted.

    Parameters
    ----------
    name : str
        Its name in results.
    start, low, high : float
        Start value - that of the literature - and bounds.
    change : callable
        `change(model, value)` gives the start model with this number changed.
    is_of_setup : bool
        Whether it belongs to the measurement and not to the beam (depth zero, jaw calibration).
    """

    name: str
    start: float
    low: float
    high: float
    change: Callable[[BeamModel, float], BeamModel]
    is_of_setup: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """A measured curve as it is compared: relative to something, thinned out, with the weight of each point.

    Parameters
    ----------
    kind : str
        `depth_dose`, `crossline`, `inline` or `diagonal` (at 45 degrees).
    field_cm : tuple of 2 floats
        Field at the isocentre plane, x and y [cm].
    ssd_cm, depth_cm : float
        Geometry; depth is NaN for depth doses [cm].
    positions_cm, values, sigma : ndarray, shape (n,)
        Points [cm], what was measured, and its standard deviation, relative to 1 on the axis or to the reference field.
    is_output : bool
        Whether values are relative to the reference field (output included) or to the curve itself.
    detector : Detector or None
        For volume averaging.
    label : str
        For reports.
    is_other : bool
        Whether its detector is another one than that of the depth doses.
    unit_field_cm : tuple of 2 floats
        Field to whose dose at `unit_depth_cm` an output is relative [cm].
    unit_depth_cm : float
        Depth at which a depth dose - that of this field, or with output that of `unit_field_cm` - is 1 [cm].
    """

    kind: str
    field_cm: tuple[float, float]
    ssd_cm: float
    depth_cm: float
    positions_cm: Array
    values: Array
    sigma: Array
    is_output: bool
    detector: Detector | None
    label: str
    is_other: bool = False
    unit_field_cm: tuple[float, float] = (REFERENCE_FIELD_CM, REFERENCE_FIELD_CM)
    unit_depth_cm: float = REFERENCE_DEPTH_CM

    @property
    def is_profile(self) -> bool:
        """Whether it runs across the beam."""
        return self.kind != "depth_dose"


@dataclass(frozen=True, slots=True)
class Fitted:
    """A parameter after the fit.

    Parameters
    ----------
    name : str
        Its name.
    value, start : float
        Fitted value and start value.
    sigma : float
        Standard deviation from the fit; NaN when it was not fitted.
    status : str
        `fitted`, `at its bound`, or `not determined` (the start value was kept).
    """

    name: str
    value: float
    start: float
    sigma: float
    status: str


@dataclass(frozen=True, slots=True, eq=False)
class Commissioning:
    """What a fit found.

    Parameters
    ----------
    model : BeamModel
        The fitted beam.
    parameters : tuple of Fitted
        Every parameter.
    correlated : tuple of (str, str, float)
        Pairs that the data can hardly tell apart, with their correlation.
    curves : tuple of (Curve, ndarray)
        Every curve of the fit with the calculated values.
    warnings : tuple of str
        What the user must know.
    """

    model: BeamModel
    parameters: tuple[Fitted, ...]
    correlated: tuple[tuple[str, str, float], ...]
    curves: tuple[tuple[Curve, Array], ...]
    warnings: tuple[str, ...] = ()

    def value(self, name: str) -> float:
        """Value of a parameter."""
        return next(p.value for p in self.parameters if p.name == name)


# ---------------------------------------------------------------------------------------------- parameters


def parameters_of(machine: Machine, model: BeamModel) -> tuple[Parameter, ...]:
    """All parameters that open fields of this machine may determine.

    Parameters
    ----------
    machine, model : Machine, BeamModel
        Where the fit starts.
    """
    spectrum, source, electrons = model.spectrum, model.extra_focal, model.electrons
    mean = spectrum.mean_energy_MeV

    def bent(now: BeamModel, power: float, cut: float) -> BeamModel:
        energy = now.spectrum.energy_MeV
        weight = now.spectrum.weight * (energy / mean) ** power * np.exp(-cut * (mean / energy - 1))
        return replace(now, spectrum=Spectrum(energy, weight / weight.sum()))

    found = [
        Parameter("spectrum_power", 0.0, -1.0, 1.0, lambda m, v: bent(m, v, 0.0)),
        Parameter("spectrum_low_cut", 0.0, -0.1, 0.5, lambda m, v: bent(m, 0.0, v)),
        Parameter(
            "electron_weight_cm2_per_g", electrons.weight_cm2_per_g, 0.0, 0.05,
            lambda m, v: replace(m, electrons=replace(m.electrons, weight_cm2_per_g=v)),
        ),
        Parameter(
            "electron_attenuation_per_cm", electrons.attenuation_per_cm, 0.3, 4.0,
            lambda m, v: replace(m, electrons=replace(m.electrons, attenuation_per_cm=v)),
        ),
        Parameter(
            "extra_focal_weight", source.weight, 0.0, 0.25,
            lambda m, v: replace(m, extra_focal=replace(m.extra_focal, weight=v)),
        ),
        Parameter(
            "extra_focal_sigma_cm", source.sigma_cm, 0.8, 5.0,
            lambda m, v: replace(m, extra_focal=replace(m.extra_focal, sigma_cm=v)),
        ),
        Parameter(
            "scatter_angle_deg", 15.0 if math.isinf(source.scatter_angle_deg) else source.scatter_angle_deg, 12.0, 60.0,
            lambda m, v: replace(m, extra_focal=replace(m.extra_focal, scatter_angle_deg=_wide_enough(machine, m, v))),
        ),
        Parameter(
            "softening_scale", 1.0, 0.0, 1.6,
            lambda m, v: replace(m, softening=RadialTable(m.softening.radius_cm, 1 + (m.softening.value - 1) * v)),
        ),
    ]  # fmt: skip
    for axis in (0, 1):
        name = ("spot_sigma_x_cm", "spot_sigma_y_cm")[axis]
        size = (model.spot[0].sigma_x_cm, model.spot[0].sigma_y_cm)[axis]
        found.append(Parameter(name, size, 0.01, 0.2, _spot_changer(axis)))
    for radius in RADIAL_NODES_CM[1:]:
        found.append(Parameter(f"radial_fluence_at_{radius:g}_cm", 1.0, 0.5, 1.3, _radial_changer(radius)))
    found.append(
        Parameter("monitor_backscatter", model.monitor_backscatter, 0.0, 0.04,
                  lambda m, v: replace(m, monitor_backscatter=v))
    )  # fmt: skip
    if machine.jaw_x is not None:
        found.append(
            Parameter("jaw_x_transmission", model.jaw_x_transmission, 0.001, 0.02,
                      lambda m, v: replace(m, jaw_x_transmission=v))
        )  # fmt: skip
    if machine.jaw_y is not None:
        found.append(
            Parameter("jaw_y_transmission", model.jaw_y_transmission, 0.001, 0.02,
                      lambda m, v: replace(m, jaw_y_transmission=v))
        )  # fmt: skip
    if machine.jaw_x is None or machine.jaw_y is None:
        found.append(
            Parameter("leaf_offset_cm", model.leaf_offset_cm, -0.15, 0.15, lambda m, v: replace(m, leaf_offset_cm=v))
        )
    found += [
        *(
            Parameter(name, 0.0, -0.15, 0.15, lambda m, v: m, is_of_setup=True)
            for name in ("jaw_x_offset_cm", "jaw_y_offset_cm", "other_jaw_x_offset_cm", "other_jaw_y_offset_cm")
        ),
        Parameter("depth_shift_cm", 0.0, -0.3, 0.3, lambda m, v: m, is_of_setup=True),
    ]
    return tuple(found)


def _wide_enough(machine: Machine, model: BeamModel, angle_deg: float) -> float:
    """The angle, but no less than the source's own size demands: `Machine` refuses less (fluence.md, equation 13a)."""
    return max(angle_deg, 1.001 * least_scatter_angle_deg(model.extra_focal, machine.sad_cm))


KINDS = ("depth_dose", "crossline", "inline", "diagonal", "radial")
"""Kinds of curves that are fitted."""

DIRECTIONS = {"crossline": (1.0, 0.0), "inline": (0.0, 1.0), "diagonal": (math.sqrt(0.5), math.sqrt(0.5))}
"""Direction (x, y) in which profiles run."""

NOTHING_TO_FIT = "There is nothing to fit"
"""The problem of data that determine no parameter at all."""

NOT_FITTED = {
    "tpr": (
        "tissue-phantom ratios are not fitted",
        "each depth is a water surface of its own; depth doses say the same",
    ),
    "in_air": (
        "profiles in air are not fitted",
        "what a chamber reads there depends on its cap; use profiles in water",
    ),
    "head": ("in-air output ratios are not fitted", "what a chamber reads depends on its cap; outputs in water say it"),
    "phantom": ("phantom scatter factors are not fitted", "they are made of other measurements"),
    "peak_scatter": ("peak scatter factors are not fitted", "they are made of other measurements"),
}
"""What is read but not fitted, and why."""

LEAST_POINTS = 5
"""A depth dose needs as many points from `SHALLOWEST_CM` on."""

RADIAL_NODES_CM = (0.0, 3.0, 6.0, 10.0, 14.0, 18.0, 22.0)
"""Radii at which the radial fluence may be changed; linear between, constant beyond."""


def _radial_changer(radius: float) -> Callable[[BeamModel, float], BeamModel]:
    """Multiply the radial fluence by a hat around a radius; the last one stays up beyond it."""
    node = RADIAL_NODES_CM.index(radius)

    def change(model: BeamModel, value: float) -> BeamModel:
        factor = np.ones(len(RADIAL_NODES_CM))
        factor[node] = value
        table = model.radial_fluence
        radii = np.union1d(table.radius_cm, RADIAL_NODES_CM)
        bent = table.at(radii) * np.interp(radii, RADIAL_NODES_CM, factor)
        return replace(model, radial_fluence=RadialTable(radii, bent))

    return change


def _spot_changer(axis: int) -> Callable[[BeamModel, float], BeamModel]:
    """Scale all components of the focal spot along one axis."""
    name = ("sigma_x_cm", "sigma_y_cm")[axis]

    def change(model: BeamModel, value: float) -> BeamModel:
        scale = value / getattr(model.spot[0], name)
        return replace(model, spot=tuple(replace(c, **{name: getattr(c, name) * scale}) for c in model.spot))

    return change


# ---------------------------------------------------------------------------------------------- curves


@dataclass(frozen=True, slots=True)
class Prepared:
    """Curves as they are compared, and what became of the others.

    Parameters
    ----------
    curves : tuple of Curve
        What can be calculated and compared.
    findings : tuple of Finding
        Every curve and output factor that is not used, or used for less than it could be, with the reason.
    """

    curves: tuple[Curve, ...]
    findings: tuple[Finding, ...]


def curves_of(
    measurements: Measurements,
    beam: str,
    *,
    detector: str = "",
    leave_out: Callable[[Scan], bool] = lambda scan: False,
) -> tuple[Curve, ...]:
    """Prepare the curves of a beam; `prepare_curves` without its findings."""
    return prepare_curves(measurements, beam, detector=detector, leave_out=leave_out).curves


def prepare_curves(
    measurements: Measurements,
    beam: str,
    *,
    detector: str = "",
    leave_out: Callable[[Scan], bool] = lambda scan: False,
) -> Prepared:
    """Prepare the curves of a beam: profiles relative to their axis, depth doses relative to the reference field.

    Depth doses with one detector and SSD are relative to the 10 x 10 cm field at 10 cm depth, or, where that was not
    measured, to the field nearest to it and the depth nearest to it that all of them hold. Output factors keep their
    own depth and the field that they are normalised to.

    Parameters
    ----------
    measurements : Measurements
        What was measured.
    beam : str
        Beam label.
    detector : str
        Part of the detector's name: sets of other detectors are not mixed in.
    leave_out : callable
        Curves for which this is true are not used.
    """
    every = measurements.select(beam=beam, detector=detector)
    sets = [item for item in measurements.output_factors if item.beam == beam]
    sets = [item for item in sets if detector.lower() in item.detector.lower()]
    scans, findings = [], list[Finding]()
    for scan in every:
        if scan.kind in KINDS:
            scans.append(scan)
        else:
            findings.append(_unused(scan.label, *NOT_FITTED["in_air" if scan.is_in_air else scan.kind]))
    if not scans and not sets:
        raise InvalidInput(
            f"There is no curve of beam '{beam}'", f"beams are {', '.join(measurements.beams) or 'none'}"
        )
    main = next((s.detector for s in scans if s.kind == "depth_dose"), scans[0].detector if scans else "")
    units = _units_of(scans, findings)
    curves: list[Curve] = []
    for scan in scans:
        if leave_out(scan):
            continue
        try:
            curve = _depth_dose(scan, units.get(_group(scan))) if scan.kind == "depth_dose" else _profile(scan)
        except InvalidInput as error:
            findings.append(_unused(scan.label, error.problem, error.why))
        else:
            curves.append(replace(curve, is_other=scan.detector != main and scan.kind != "radial"))
    findings += _doubtful_detectors(scan for scan in scans if not leave_out(scan))
    for factors in sets:
        try:
            curves += _outputs(factors, findings)
        except InvalidInput as error:
            findings.append(_unused(factors.label, error.problem, error.why))
    return Prepared(tuple(curves), tuple(findings))


def _unused(label: str, problem: str, why: str = "") -> Finding:
    return Finding("not_used", "flag", label, problem, why)


def _doubtful_detectors(scans: Iterable[Scan]) -> list[Finding]:
    """Detectors of profiles whose size is not known, or has no source: their blur would be the focal spot's."""
    found = list[Finding]()
    for name in sorted({scan.detector for scan in scans if scan.is_two_sided}):
        label = f"Profiles by {name or 'an unknown detector'}"
        try:
            known = find_detector(name)
        except InvalidInput:
            found.append(
                Finding(
                    "detector_size", "flag", label, "the size of the detector is not known",
                    "it counts as a point, so that its blur makes the focal spot wider",
                    "Name the detector as docs/formats/measurements.md does",
                )
            )  # fmt: skip
        else:
            if not known.is_sourced:
                found.append(
                    Finding(
                        "detector_size", "flag", label, f"the size of the {known.name} is not certain", known.source,
                        "Compare it with the maker's data sheet",
                    )
                )  # fmt: skip
    return found


@dataclass(frozen=True, slots=True)
class _Unit:
    """What signals of one detector and SSD are divided by."""

    signal: float
    field_cm: tuple[float, float]
    depth_cm: float


def _group(scan: Scan) -> tuple[object, ...]:
    """Signals share a scale when detector and SSD are the same."""
    return scan.detector, scan.ssd_cm


def _units_of(scans: Iterable[Scan], findings: list[Finding]) -> dict[tuple[object, ...], _Unit]:
    """For each set of signals the field and depth that all others are relative to."""
    groups: dict[tuple[object, ...], list[Scan]] = {}
    for scan in scans:
        if scan.kind == "depth_dose" and not scan.is_relative:
            groups.setdefault(_group(scan), []).append(scan)
    units: dict[tuple[object, ...], _Unit] = {}
    for key, group in groups.items():
        holds = [s for s in group if s.positions_cm[0] <= REFERENCE_DEPTH_CM <= s.positions_cm[-1]]
        fields = {s.field_cm for s in group}
        if not holds:
            if len(fields) > 1:
                why = f"none of them holds {REFERENCE_DEPTH_CM:g} cm depth, where outputs are compared"
                findings.append(_unused(_name_of(group), "their outputs are not used, only their shapes", why))
            continue
        best = min(holds, key=lambda s: (_away(s.field_cm), -s.positions_cm[-1]))
        signal = value_at(best.positions_cm, best.values, REFERENCE_DEPTH_CM)
        units[key] = _Unit(signal, best.field_cm, REFERENCE_DEPTH_CM)
        if _away(best.field_cm) > 0 and len(fields) > 1:
            size = f"{best.field_cm[0]:g} x {best.field_cm[1]:g} cm"
            findings.append(
                Finding(
                    "relative_to", "flag", _name_of(group), f"their outputs are compared relative to {size}",
                    "no depth dose of 10 x 10 cm with that detector and SSD holds 10 cm depth",
                )
            )  # fmt: skip
    return units


def _name_of(group: Sequence[Scan]) -> str:
    """Name a set of depth doses in findings."""
    first = group[0]
    return f"{first.beam} depth doses by {first.detector or 'an unknown detector'}, SSD {first.ssd_cm:g} cm"


def _away(field_cm: tuple[float, float]) -> float:
    """How far a field is from the reference field, as a ratio: 0 for the same."""
    return sum(abs(math.log(side / REFERENCE_FIELD_CM)) for side in field_cm)


def _outputs(factors: OutputFactors, findings: list[Finding]) -> list[Curve]:
    """Output factors as depth doses of one point, at their depth and relative to their field."""
    if factors.kind != "total":
        raise InvalidInput(*NOT_FITTED[factors.kind])
    for what, value in (("SSD", factors.ssd_cm), ("depth", factors.depth_cm)):
        if math.isnan(value):
            raise InvalidInput(f"its {what} is not stated", "the output depends on it")
    fields = list(zip(factors.field_x_cm.tolist(), factors.field_y_cm.tolist(), factors.values.tolist(), strict=True))
    unit, scale = factors.normalisation_field_cm, 1.0
    if math.isnan(sum(unit)):
        if len(fields) < 2:
            raise InvalidInput("it is not stated which field is 1", "a single factor without it says nothing")
        x, y, scale = min(fields, key=lambda item: _away(item[:2]))
        unit = (x, y)
        findings.append(
            Finding(
                "relative_to", "flag", factors.label, f"its factors are compared relative to {x:g} x {y:g} cm",
                "it is not stated which field is 1",
            )
        )  # fmt: skip
    curves = []
    for x, y, value in fields:
        if (x, y) != unit:
            ratio = value / scale
            curves.append(
                Curve(
                    "depth_dose", (x, y), factors.ssd_cm, math.nan, np.array([factors.depth_cm]), np.array([ratio]),
                    np.array([np.hypot(DOSE_SIGMA, SIGNAL_SIGMA) * ratio]), True, None, f"{factors.label} {x:g}x{y:g}",
                    unit_field_cm=unit, unit_depth_cm=factors.depth_cm,
                )
            )  # fmt: skip
    return curves


def _depth_dose(scan: Scan, unit: _Unit | None) -> Curve:
    keep = scan.positions_cm >= SHALLOWEST_CM
    if keep.sum() < LEAST_POINTS:
        raise InvalidInput(
            f"it has {keep.sum()} points from {SHALLOWEST_CM:g} cm on", f"{LEAST_POINTS} are needed to compare it"
        )
    x, v = scan.positions_cm[keep], scan.values[keep]
    is_output = unit is not None and not scan.is_relative
    if unit is None or scan.is_relative:
        at = min(max(REFERENCE_DEPTH_CM, float(x[0])), float(x[-1]))  # its own dose there, or as near as it goes
        unit = _Unit(value_at(x, v, at), scan.field_cm, at)
    if not unit.signal > 0:
        raise InvalidInput(f"its value at {unit.depth_cm:g} cm depth is not positive", "nothing can be relative to it")
    v = v / unit.signal
    wanted = np.concatenate([np.arange(0.5, 4.0, 0.2), np.arange(4.0, 40.0, 1.0)])
    chosen = _thin(x, wanted)
    slope = np.gradient(v, x)
    sigma = np.sqrt((DOSE_SIGMA * v) ** 2 + (slope * POSITION_SIGMA_CM) ** 2)
    if is_output:
        sigma = np.sqrt(sigma**2 + (SIGNAL_SIGMA * v) ** 2)
    return Curve(
        "depth_dose", scan.field_cm, _ssd(scan), math.nan, x[chosen], v[chosen], sigma[chosen], is_output,
        _detector(scan), scan.label, unit_field_cm=unit.field_cm, unit_depth_cm=unit.depth_cm,
    )  # fmt: skip


def _profile(scan: Scan) -> Curve:
    x, v = scan.positions_cm, scan.values
    if scan.kind != "radial":
        if not x[0] < 0 < x[-1]:
            raise InvalidInput("it does not pass the axis", "profiles are compared relative to the axis")
        with contextlib.suppress(InvalidInput):  # cut within the field, or wide without flattening filter: stays
            x = x - centre_cm(x, v)
    elif x[0] != 0:
        raise InvalidInput("it does not begin on the axis", "off-axis ratios are relative to it")
    axis = value_at(x, v, 0.0)
    if not axis > 0:
        raise InvalidInput("its value on the axis is not positive", "nothing can be relative to it")
    v = v / axis
    ssd = _ssd(scan)
    kind = "crossline" if scan.kind == "radial" else scan.kind
    half = projected_half_cm(kind, scan.field_cm, ssd, scan.depth_cm)
    edge = np.arange(-1.0, 1.01, 0.1)
    inside, tail = np.arange(0, max(half - 1.0, 0.01), max(half / 10, 0.2)), np.arange(half + 1.5, half + 8, 1.0)
    right = np.concatenate([inside, half + edge, tail])
    at = np.arange(len(x)) if scan.kind == "radial" else _thin(x, np.concatenate([-right, right]))
    slope, detector = np.gradient(v, x), _detector(scan)
    is_wide = detector is not None and detector.kind == "ion chamber" and detector.blur_cm == 0
    sigma = np.hypot(DOSE_SIGMA, slope * (CHAMBER_POSITION_SIGMA_CM if is_wide else POSITION_SIGMA_CM))
    return Curve(
        kind, scan.field_cm, ssd, scan.depth_cm, x[at], v[at], sigma[at], False, detector, scan.label
    )  # fmt: skip


def _thin(x: Array, wanted: Array) -> NDArray[np.intp]:
    """Numbers of the points nearest to wanted positions that the curve covers, each once."""
    wanted = wanted[(wanted >= x[0]) & (wanted <= x[-1])]
    return np.unique(np.abs(x[None, :] - wanted[:, None]).argmin(axis=1))


def _ssd(scan: Scan) -> float:
    return 100.0 if math.isnan(scan.ssd_cm) else scan.ssd_cm


def _detector(scan: Scan) -> Detector | None:
    try:
        return find_detector(scan.detector)
    except InvalidInput:
        return None


# ---------------------------------------------------------------------------------------------- calculation


@dataclass(slots=True, eq=False)
class Calculator:
    """Computes curves of changing models, and remembers fluence maps that did not change.

    Parameters
    ----------
    machine : Machine
        The head.
    device : Backend
        For the fluence.
    """

    machine: Machine
    device: Backend = field(default_factory=lambda: select_backend("cpu"))
    _maps: dict[str, FluenceMaps] = field(default_factory=dict)
    _tanks: dict[str, TankModel] = field(default_factory=dict)

    def curve(
        self,
        curve: Curve,
        model: BeamModel,
        setup: Mapping[str, float] | None = None,
    ) -> Array:
        """Calculated values at the points of a curve, relative as the measured ones are.

        Parameters
        ----------
        curve, model : Curve, BeamModel
            What was measured, and what to compute it with.
        setup : mapping of str to float, optional
            Set-up of the measurement: `jaw_x_offset_cm`, `jaw_y_offset_cm`, distance of each field edge from its
            nominal place, outwards, and `other_...` for curves of detectors other than that of the depth doses, which
            were scanned on another day; `depth_shift_cm`, added to the depths of the measurement.
        """
        setup = setup or {}
        prefix = "other_" if curve.is_other else ""
        offset = (setup.get(f"{prefix}jaw_x_offset_cm", 0.0), setup.get(f"{prefix}jaw_y_offset_cm", 0.0))
        depth_shift_cm = setup.get("depth_shift_cm", 0.0)
        tank = self._tank(model, curve.ssd_cm)
        maps = self.maps(model, curve.field_cm, offset)
        if not curve.is_profile:
            depth = np.maximum(curve.positions_cm + depth_shift_cm, 0.0)
            dose = tank.dose(maps, 0.0, 0.0, depth)
            whole = self.maps(model, curve.unit_field_cm, offset) if curve.is_output else maps
            return dose / float(tank.dose(whole, 0.0, 0.0, curve.unit_depth_cm + depth_shift_cm)[0])
        x = self._fine(curve)
        right, which = np.unique(np.round(np.abs(x), 6), return_inverse=True)  # open fields are symmetric
        x_share, y_share = DIRECTIONS[curve.kind]
        depth = np.full_like(right, curve.depth_cm + depth_shift_cm)
        dose = tank.dose(maps, x_share * right, y_share * right, depth)[which]
        if curve.detector is not None:
            dose = average_over(curve.detector, x, dose, "y" if curve.kind == "inline" else "x")
        return np.interp(curve.positions_cm, x, dose) / float(np.interp(0.0, x, dose))

    def maps(self, model: BeamModel, field_cm: tuple[float, float], offset_cm: tuple[float, float]) -> FluenceMaps:
        """Fluence of an open field whose edges lie further out by an offset each."""
        key = _key(model, field_cm, offset_cm)
        if key not in self._maps:
            if len(self._maps) > 60:
                self._maps.clear()
            size = (field_cm[0] + 2 * offset_cm[0], field_cm[1] + 2 * offset_cm[1])
            segments = segment_beam(open_field_beam(self.machine, model, size))
            raster = fluence_raster(segments, self.machine, model, pixel_cm=PIXEL_CM)
            self._maps[key] = self.device.fluence(self.machine, model, segments, raster, None)
        return self._maps[key]

    def _tank(self, model: BeamModel, ssd_cm: float) -> TankModel:
        parts = (model.spectrum.energy_MeV, model.spectrum.weight, model.softening.radius_cm, model.softening.value)
        key = repr((ssd_cm, model.electrons.attenuation_per_cm, *(part.tobytes() for part in parts)))
        if key not in self._tanks:
            if len(self._tanks) > 8:
                self._tanks.clear()
            self._tanks[key] = TankModel.of(model, ssd_cm=ssd_cm, sad_cm=self.machine.sad_cm)
        return self._tanks[key]

    @staticmethod
    def _fine(curve: Curve) -> Array:
        """Positions for the calculation: those of the curve, and a millimetre apart where a detector blurs edges."""
        x = curve.positions_cm
        if curve.detector is None:
            return np.union1d(x, [0.0])
        half = projected_half_cm(curve.kind, curve.field_cm, curve.ssd_cm, curve.depth_cm)
        edge = np.arange(half - 1.5, half + 1.5, 0.1)
        near = np.array([-0.4, 0.0, 0.4])
        both: Array = np.union1d(np.union1d(x, near), np.concatenate([-edge, edge]))
        return both


def _key(model: BeamModel, field_cm: tuple[float, float], offset_cm: tuple[float, float]) -> str:
    """What a fluence map depends on."""
    facts: Sequence[Any] = (
        field_cm, offset_cm, model.spot, model.extra_focal, model.jaw_x_transmission, model.jaw_y_transmission,
        model.mlc_transmission, model.leaf_offset_cm, model.electrons.weight_cm2_per_g, model.electrons.sigma_cm,
        model.monitor_backscatter, model.radial_fluence.radius_cm.tobytes(), model.radial_fluence.value.tobytes(),
    )  # fmt: skip
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def dose_per_mu_at(machine: Machine, model: BeamModel, field_cm: float, ssd_cm: float, depth_cm: float) -> float:
    """Dose per monitor unit that the beam gives at another point than that of its calibration [Gy/MU].

    Parameters
    ----------
    machine, model : Machine, BeamModel
        The beam.
    field_cm, ssd_cm, depth_cm : float
        Side of a square field, distance from source to surface, depth; NaN for that of the maximum [cm].
    """
    calculator, own = Calculator(machine), model.calibration

    def dose(side: float, ssd: float, depth: float) -> float:
        tank = TankModel.of(model, ssd_cm=ssd, sad_cm=machine.sad_cm)
        depths = np.arange(0.5, 6.0, 0.05) if math.isnan(depth) else np.array([depth])
        return float(tank.dose(calculator.maps(model, (side, side), (0.0, 0.0)), 0.0, 0.0, depths).max())

    return own.gy_per_mu * dose(field_cm, ssd_cm, depth_cm) / dose(own.field_cm, own.ssd_cm, own.depth_cm)


def calibration_at_maximum(
    machine: Machine, model: BeamModel, measurements: Measurements, *, gy_per_mu: float, field_cm: float, ssd_cm: float
) -> tuple[Calibration, str]:
    """Carry a dose per monitor unit from the depth of maximum dose, where it is customary, to the reference depth.

    There it depends neither on the build-up of the model nor on where depth zero was. The measured depth dose of that
    field and SSD carries it; where there is none, the model's.

    Parameters
    ----------
    machine, model : Machine, BeamModel
        The fitted beam.
    measurements : Measurements
        Of that beam.
    gy_per_mu : float
        Dose per monitor unit at the maximum [Gy/MU].
    field_cm, ssd_cm : float
        Side of the square field, and distance from source to surface [cm].

    Returns
    -------
    Calibration, str
        At `REFERENCE_DEPTH_CM`, and in words how it came there.
    """
    for scan in measurements.select(kind="depth_dose", beam=model.energy, field_cm=(field_cm, field_cm)):
        x, v = scan.positions_cm, scan.values
        is_whole = x[0] <= SHALLOWEST_CM and x[-1] >= REFERENCE_DEPTH_CM and 0 < int(np.argmax(v)) < len(v) - 1
        if is_whole and scan.ssd_cm == ssd_cm:
            (dmax, top), at, how = maximum(x, v), value_at(x, v, REFERENCE_DEPTH_CM), f"measured ({scan.label})"
            break
    else:
        tank, size = TankModel.of(model, ssd_cm=ssd_cm, sad_cm=machine.sad_cm), (field_cm, field_cm)
        x = np.arange(0.5, 6.0, 0.05)
        dose = tank.dose(Calculator(machine).maps(model, size, (0.0, 0.0)), 0.0, 0.0, np.append(x, REFERENCE_DEPTH_CM))
        (dmax, top), at, how = maximum(x, dose[:-1]), float(dose[-1]), "calculated by the fitted beam"
    share = at / top
    told = (
        f"{100 * gy_per_mu:.4g} cGy/MU at the depth of maximum dose ({dmax:.2f} cm), {field_cm:g} x {field_cm:g} cm, "
        f"SSD {ssd_cm:g} cm, times the depth dose at {REFERENCE_DEPTH_CM:g} cm, {100 * share:.2f} %, {how}"
    )
    return Calibration(float(f"{gy_per_mu * share:.5g}"), field_cm, ssd_cm, REFERENCE_DEPTH_CM), told


# ---------------------------------------------------------------------------------------------- fit


def fit_beam(
    machine: Machine,
    beam: str,
    curves: Iterable[Curve],
    *,
    parameters: Iterable[Parameter] | None = None,
    hold: Mapping[str, float] | None = None,
    progress: Progress | None = None,
) -> Commissioning:
    """Fit a beam of a machine to curves.

    Least squares with a soft loss, so that a bad scan does not carry the rest away; bounds; the same data give the same
    result. Parameters that the data leave open by more than a quarter of their range, or that end at a bound without
    being needed, go back to their start value, and the others are fitted again.

    Parameters
    ----------
    machine, beam : Machine, str
        The machine, with start values for the beam.
    curves : iterable of Curve
        From `curves_of`.
    parameters : iterable of Parameter, optional
        Default: `parameters_of`.
    hold : mapping of str to float, optional
        Parameters that stay at a value.
    progress : callable, optional
        Called with a text and the share done.
    """
    from scipy.optimize import least_squares

    start_model, curves = machine.beams[beam], tuple(curves)
    known = {p.name: p for p in (parameters or parameters_of(machine, start_model))}
    fixed = {name: float(value) for name, value in (hold or {}).items()}
    for name in fixed:
        if name not in known:
            raise InvalidInput(f"There is no parameter '{name}'", f"there are {', '.join(known)}")
    calculator = Calculator(machine)
    beyond = _out_of_reach(curves) - fixed.keys()
    undetermined = {name: known[name].start for name in beyond if name in known}
    for _ in range(3):
        free = [p for p in known.values() if p.name not in fixed and p.name not in undetermined]
        if not free:
            raise InvalidInput(NOTHING_TO_FIT, "the data determine no parameter")
        held = fixed | undetermined
        low, high, first = (np.array([getattr(p, name) for p in free]) for name in ("low", "high", "start"))
        width = high - low
        calls = 0

        def residuals(
            u: Array,
            free: list[Parameter] = free,
            held: dict[str, float] = held,
            first: Array = first,
            low: Array = low,
            width: Array = width,
        ) -> Array:
            nonlocal calls
            calls += 1
            if progress is not None:
                progress(f"fitting {len(free)} parameters", min(0.95, calls / (12 * (len(free) + 1))))
            x = low + width * (u - 1)
            values = held | {p.name: float(v) for p, v in zip(free, x, strict=True)}
            model, setup = apply(known.values(), start_model, values)
            misfit = [(calculator.curve(c, model, setup) - c.values) / c.sigma for c in curves]
            return np.concatenate([*misfit, (x - first) / (PRIOR_SHARE * width)])

        # on a scale from 1 to 2 a step of the differences is a share of the range, for parameters that are 0 as well
        begin = np.clip(1 + (first - low) / width, 1.01, 1.99)
        found = least_squares(
            residuals, begin, bounds=(1.0, 2.0), loss="soft_l1", f_scale=2.0, diff_step=2e-3, ftol=1e-4, xtol=1e-4,
            max_nfev=40,
        )  # fmt: skip
        covariance = np.linalg.pinv(found.jac.T @ found.jac) * np.outer(width, width)
        spread = np.sqrt(np.maximum(np.diag(covariance), 0)) * math.sqrt(max(2 * found.cost / len(found.fun), 1e-12))
        loose = {p.name: p.start for p, s, w in zip(free, spread, width, strict=True) if s > 0.25 * w}
        if not loose:
            break
        undetermined |= loose
    best = low + width * (found.x - 1)
    values = held | {p.name: float(v) for p, v in zip(free, best, strict=True)}
    model, setup = apply(known.values(), start_model, values)
    fitted = []
    for p in known.values():
        n = [f.name for f in free].index(p.name) if p in free else -1
        edge = n >= 0 and min(values[p.name] - p.low, p.high - values[p.name]) < 1e-3 * (p.high - p.low)
        status = "held" if p.name in fixed else "not determined" if n < 0 else "at its bound" if edge else "fitted"
        fitted.append(Fitted(p.name, values[p.name], p.start, float(spread[n]) if n >= 0 else math.nan, status))
    scale = np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
    correlation = covariance / np.where(scale > 0, scale, 1)
    pairs = tuple(
        (free[i].name, free[j].name, round(float(correlation[i, j]), 3))
        for i in range(len(free)) for j in range(i) if abs(correlation[i, j]) > 0.95
    )  # fmt: skip
    warnings = [f"{a} and {b} can hardly be told apart (correlation {c:+.2f})." for a, b, c in pairs]
    warnings += [f"{p.name} ended at its bound {p.value:.4g}." for p in fitted if p.status == "at its bound"]
    warnings += [
        f"{p.name} is not determined by the data; {p.value:.4g} is kept."
        for p in fitted
        if p.status == "not determined"
    ]
    done = tuple((c, calculator.curve(c, model, setup)) for c in curves)
    return Commissioning(model, tuple(fitted), pairs, done, tuple(warnings))


def _out_of_reach(curves: Iterable[Curve]) -> set[str]:
    """Parameters that no curve can say anything about: the radial fluence beyond the profiles, edges without any."""
    reach, names = 0.0, set()
    sides = {(curve.kind, curve.is_other) for curve in curves if curve.is_profile and curve.positions_cm.min() < 0}
    for curve in curves:
        if curve.is_profile:
            magnify = 100.0 / (curve.ssd_cm + curve.depth_cm)
            half = projected_half_cm(curve.kind, curve.field_cm, 100.0, 0.0)
            reach = max(reach, min(half, float(curve.positions_cm.max()) * magnify))
    names |= {f"radial_fluence_at_{radius:g}_cm" for radius in RADIAL_NODES_CM[1:] if radius > reach + 1.0}
    for axis, kind in (("x", "crossline"), ("y", "inline")):
        if (kind, False) not in sides and (kind, True) not in sides:
            names |= {f"spot_sigma_{axis}_cm", f"jaw_{axis}_transmission"}
        if (kind, False) not in sides:
            names.add(f"jaw_{axis}_offset_cm")
        if (kind, True) not in sides:
            names.add(f"other_jaw_{axis}_offset_cm")
    if ("crossline", False) not in sides and ("crossline", True) not in sides:
        names.add("leaf_offset_cm")
    if reach == 0:
        names |= {"softening_scale", "scatter_angle_deg"}
    return names


def apply(
    parameters: Iterable[Parameter], model: BeamModel, values: Mapping[str, float]
) -> tuple[BeamModel, dict[str, float]]:
    """The model with parameters changed, and the values that belong to the set-up of the measurement."""
    setup = {}
    for parameter in parameters:
        value = values.get(parameter.name, parameter.start)
        if parameter.is_of_setup:
            setup[parameter.name] = value
        else:
            model = parameter.change(model, value)
    return model, setup
