"""Curves, output factors and detectors prove themselves; doubts are found; averaging keeps what it must."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from spinedose.compare.curves import field_width_cm, penumbra_cm
from spinedose.errors import InvalidInput
from spinedose.measurements import (
    DETECTORS,
    Detector,
    Finding,
    Measurements,
    OutputFactors,
    ReferenceCondition,
    Scan,
    average_over,
    find_detector,
    findings,
    is_diode,
    output_factors_from_signals,
    refuse,
)

Array = NDArray[np.float64]
NAN = math.nan


def depth_dose(**changes: Any) -> Scan:
    """A 6X depth dose of 10 x 10 cm2 at SSD 100 with its maximum at 1.4 cm."""
    x = np.linspace(0, 30, 301)
    rise = 2.8  # d/dx = 0 at 1.4 cm: 0.5 (r + m) e^{-1.4 r} = m with m = 0.014
    m = 0.5 * rise * math.exp(-1.4 * rise) / (1 - 0.5 * math.exp(-1.4 * rise))
    values: dict[str, Any] = {
        "kind": "depth_dose",
        "beam": "6X",
        "field_x_cm": 10.0,
        "field_y_cm": 10.0,
        "ssd_cm": 100.0,
        "depth_cm": NAN,
        "positions_cm": x,
        "values": 100 * np.exp(-m * x) * (1 - 0.5 * np.exp(-rise * x)),
        "unit": "percent",
    }
    return Scan(**(values | changes))


def profile(centre: float = 0.0, tilt: float = 0.0, **changes: Any) -> Scan:
    """A 6X crossline profile of 10 x 10 cm2 at 10 cm depth: 11 cm wide."""
    x = np.linspace(-10, 10, 201)
    values: dict[str, Any] = {
        "kind": "crossline",
        "beam": "6X",
        "field_x_cm": 10.0,
        "field_y_cm": 10.0,
        "ssd_cm": 100.0,
        "depth_cm": 10.0,
        "positions_cm": x,
        "values": 100 * np.clip(6 - np.abs(x - centre), 0.02, 1) * (1 + tilt * x),
        "unit": "percent",
    }
    return Scan(**(values | changes))


def codes(scan: Scan, severity: str = "") -> list[str]:
    return [finding.code for finding in findings(scan) if not severity or finding.severity == severity]


# --- curves


def test_a_good_curve_has_no_findings() -> None:
    assert findings(depth_dose()) == ()
    assert findings(profile()) == ()


def test_a_scan_owns_its_numbers() -> None:
    x = np.array([0.0, 1.0, 2.0])
    scan = depth_dose(positions_cm=x, values=[1, 2, 1])
    x[0] = 5
    assert scan.positions_cm.tolist() == [0, 1, 2]
    assert scan.values.dtype == np.float64
    with pytest.raises(ValueError, match="read-only"):
        scan.values[0] = 3
    with pytest.raises(TypeError):
        scan.metadata["a"] = "b"  # type: ignore[index]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"kind": "isodose"}, "no kind of curve"),
        ({"unit": "rad"}, "no unit"),
        ({"positions_cm": [0, 1, 1], "values": [1, 1, 1]}, "do not rise"),
        ({"positions_cm": [0, 2, 1], "values": [1, 1, 1]}, "do not rise"),
        ({"positions_cm": [0, 1], "values": [1, NAN]}, "NaN"),
        ({"positions_cm": [0, math.inf], "values": [1, 1]}, "NaN or infinity"),
        ({"positions_cm": [0], "values": [1]}, "1 points"),
        ({"positions_cm": [0, 1], "values": [1, 2, 3]}, "one value for each"),
        ({"positions_cm": [[0, 1]], "values": [[1, 2]]}, "one axis"),
        ({"positions_cm": [0, 1e9], "values": [1, 2]}, "nothing in a clinic"),
        ({"field_x_cm": 0.0}, "field size in x"),
        ({"field_y_cm": -4.0}, "field size in y"),
        ({"ssd_cm": math.inf}, "SSD"),
        ({"depth_cm": 5.0}, "has a depth"),
    ],
)
def test_a_wrong_curve_cannot_be_made(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidInput, match=problem):
        depth_dose(**changes)


def test_a_profile_above_the_water_cannot_be_made() -> None:
    with pytest.raises(InvalidInput, match="above the water"):
        profile(depth_cm=-1.0)


def test_the_label_says_what_it_is() -> None:
    label = profile(source="a.csv", scan_id="3").label
    assert label == "6X 10x10 crossline at 10 cm (a.csv, scan 3)"


# --- findings


@pytest.mark.parametrize(
    ("scan", "code", "severity"),
    [
        (lambda: depth_dose(positions_cm=10 * depth_dose().positions_cm), "units", "refuse"),
        (lambda: depth_dose(field_x_cm=100.0, field_y_cm=100.0), "units", "refuse"),
        (lambda: depth_dose(ssd_cm=1000.0), "units", "refuse"),
        (lambda: profile(depth_cm=100.0), "units", "refuse"),
        (lambda: profile(positions_cm=10 * profile().positions_cm), "units", "refuse"),
        (lambda: profile(positions_cm=profile().positions_cm / 10), "units", "refuse"),
        (lambda: depth_dose(field_x_cm=NAN), "missing_field", "refuse"),
        (lambda: depth_dose(ssd_cm=NAN), "missing_ssd", "refuse"),
        (lambda: profile(depth_cm=NAN), "missing_depth", "refuse"),
        (lambda: depth_dose(beam=""), "missing_beam", "flag"),
        (lambda: depth_dose(values=depth_dose().values - 60), "negative", "refuse"),
        (lambda: depth_dose(values=-depth_dose().values), "negative", "refuse"),
        (lambda: profile(values=profile().values - 2.2), "negative", "flag"),
        (lambda: depth_dose(values=depth_dose().values[::-1]), "no_maximum", "flag"),
        (lambda: depth_dose(values=100 * np.exp(-depth_dose().positions_cm / 20)), "no_maximum", "flag"),
        (lambda: depth_dose(positions_cm=depth_dose().positions_cm + 5), "no_maximum", "note"),
        (lambda: depth_dose(positions_cm=depth_dose().positions_cm + 0.4), "depth_zero", "flag"),
        (lambda: profile(centre=0.2), "not_centred", "flag"),
        (lambda: profile(tilt=0.005), "asymmetric", "flag"),
        (lambda: profile(field_x_cm=9.0), "width", "flag"),
        (lambda: profile(positions_cm=np.linspace(0, 20, 201)), "no_edges", "flag"),
        (lambda: depth_dose(field_y_cm=20.0, detector="IBA photon diode"), "diode", "flag"),
        (lambda: profile(field_y_cm=20.0, detector="Edge Detector"), "diode", "flag"),
        (lambda: depth_dose(metadata={"column_flag": "interpolated"}), "source_flag", "flag"),
        (lambda: depth_dose(notes=("points were reversed",)), "reader", "note"),
    ],
)
def test_what_is_wrong_is_found(scan: Callable[[], Scan], code: str, severity: str) -> None:
    found = {(finding.code, finding.severity) for finding in findings(scan())}
    assert found == {(code, severity)}


def test_a_steep_rise_far_from_the_surface_is_found() -> None:
    x = np.linspace(-1, 30, 311)
    shifted = np.interp(x - 0.8, depth_dose().positions_cm, depth_dose().values, left=10)
    assert "depth_zero" in codes(depth_dose(positions_cm=x, values=shifted, beam="other"), "flag")
    right = np.interp(x, depth_dose().positions_cm, depth_dose().values, left=10)
    assert codes(depth_dose(positions_cm=x, values=right)) == []


@pytest.mark.parametrize(
    "scan",
    [
        lambda: depth_dose(detector="IBA photon diode"),  # 10 x 10: not beyond 10 cm
        lambda: depth_dose(field_x_cm=20.0, field_y_cm=20.0, detector="IBA CC13"),
        lambda: profile(field_y_cm=20.0, depth_cm=5.0, field_x_cm=10.5, detector="diode"),  # shallow
        lambda: profile(kind="in_air_crossline", depth_cm=NAN, ssd_cm=NAN),
        lambda: depth_dose(values=depth_dose().values / 100, unit="ratio", kind="tpr", ssd_cm=NAN),
        lambda: profile(kind="diagonal", centre=0.0),
    ],
)
def test_what_is_right_is_not_doubted(scan: Callable[[], Scan]) -> None:
    assert findings(scan()) == ()


def test_radial_curves_may_lack_the_field() -> None:
    scan = profile(kind="radial", field_x_cm=NAN, positions_cm=np.linspace(0, 18, 201))
    assert [(finding.code, finding.severity) for finding in findings(scan)] == [("missing_field", "flag")]


def test_refusals_are_raised_together() -> None:
    refuse(findings(profile(centre=0.2)))  # a flag is no refusal
    with pytest.raises(InvalidInput, match=r"6X 10x10 depth_dose: the SSD is 1000 cm \(no room is so long.*\)\. Give"):
        refuse(findings(depth_dose(ssd_cm=1000.0)))
    bad = [Finding("units", "refuse", f"curve {i}", "wrong", "why") for i in range(8)]
    with pytest.raises(InvalidInput, match=r"8 curves are refused \(curve 0: wrong, because why; .*; and 3 more\)"):
        refuse(bad)


# --- output factors and the container


def factors(**changes: Any) -> OutputFactors:
    values: dict[str, Any] = {
        "kind": "total",
        "beam": "6X",
        "field_x_cm": [5.0, 10.0, 20.0],
        "field_y_cm": [5.0, 10.0, 20.0],
        "values": [0.9, 1.0, 1.1],
        "ssd_cm": 90.0,
        "depth_cm": 10.0,
        "normalisation_field_cm": (10.0, 10.0),
        "uncertainty": [NAN] * 3,
    }
    return OutputFactors(**(values | changes))


def test_output_factors_are_looked_up() -> None:
    assert factors().of(20, 20) == 1.1
    with pytest.raises(InvalidInput, match="7 x 7 cm was not measured"):
        factors().of(7, 7)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"kind": "other"}, "no kind"),
        ({"values": [0.9, 1.0]}, "one value for each field"),
        ({"values": [0.9, 1.0, -1.0]}, "not positive"),
        ({"values": [0.9, 1.0, NAN]}, "NaN"),
        ({"field_x_cm": [50.0, 100.0, 200.0]}, "millimetres"),
        ({"field_x_cm": [10.0, 10.0, 20.0], "field_y_cm": [10.0, 10.0, 20.0]}, "twice"),
        ({"uncertainty": [-0.1, 0.1, 0.1]}, "uncertainty"),
        ({"depth_cm": -1.0}, "depth"),
    ],
)
def test_wrong_output_factors_cannot_be_made(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidInput, match=problem):
        factors(**changes)


def test_output_factors_from_signals() -> None:
    small = depth_dose(field_x_cm=5.0, field_y_cm=5.0, values=0.8 * depth_dose().values, unit="signal")
    deep = depth_dose(positions_cm=depth_dose().positions_cm + 20, unit="signal")  # does not hold 10 cm
    found = output_factors_from_signals([deep, depth_dose(unit="signal"), small], depth_cm=10.0)
    assert found.of(5, 5) == pytest.approx(0.8)
    assert found.of(10, 10) == 1
    with pytest.raises(InvalidInput, match="give no output factors"):
        output_factors_from_signals([depth_dose()], depth_cm=10.0)
    with pytest.raises(InvalidInput, match="do not belong"):
        output_factors_from_signals([depth_dose(unit="signal"), depth_dose(unit="signal", beam="10X")], depth_cm=10.0)
    with pytest.raises(InvalidInput, match="No curve of the field"):
        output_factors_from_signals([small], depth_cm=10.0)


def test_the_reference_condition_proves_itself() -> None:
    reference = ReferenceCondition("6X", 10, 10, 90, 10, 0.8)
    assert reference.detector_distance_cm == 100
    with pytest.raises(InvalidInput, match="incomplete"):
        ReferenceCondition("6X", 10, 10, 90, 10, 0)
    with pytest.raises(InvalidInput, match="millimetres"):
        ReferenceCondition("6X", 100, 100, 900, 100, 0.8)


def test_a_set_answers_questions() -> None:
    reference = ReferenceCondition("6X", 10, 10, 100, 1.4, 1.0)
    wide = profile(field_x_cm=20.0, detector="IBA CC13")
    both = Measurements((depth_dose(), wide), (factors(),), (reference,)) + Measurements((profile(beam="10X"),))
    assert both.beams == ("10X", "6X")
    assert both.fields_cm("6X") == ((10, 10), (20, 10))
    assert both.select(kind="crossline", beam="6X") == (wide,)
    assert both.select(field_cm=(20, NAN), detector="cc13") == (wide,)
    assert len(both.select(depth_cm=10.0)) == 2
    assert both.factors(beam="6X")[0].of(5, 5) == 0.9
    assert both.reference("6X") is reference
    with pytest.raises(InvalidInput, match="calibration of beam '10X'"):
        both.reference("10X")
    with pytest.raises(InvalidInput, match="two reference conditions"):
        both + Measurements(references=(reference,))


# --- detectors


def test_every_detector_has_a_source() -> None:
    assert all(len(detector.source) > 8 for detector in DETECTORS.values())


@pytest.mark.parametrize(
    ("name", "volume_cm3"),
    [
        ("IBA CC13", 0.13),
        ("PTW 31010 Semiflex", 0.125),
        ("PTW 31021 Semiflex 3D", 0.07),
        ("PTW 31016 PinPoint 3D", 0.016),
    ],
)
def test_chambers_hold_their_stated_volume(name: str, volume_cm3: float) -> None:
    # A cylinder is more than the stated volume, which has a round tip and an electrode: up to a third more.
    chamber = DETECTORS[name]
    cylinder = math.pi * chamber.radius_cm**2 * chamber.length_cm
    assert volume_cm3 < cylinder < 1.34 * volume_cm3


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("CC 13 Field", "IBA CC13"),
        ("iba cc13", "IBA CC13"),
        ("PTW Semiflex 3D Field", "PTW 31021 Semiflex 3D"),
        ("TN31010", "PTW 31010 Semiflex"),
        ("microDiamond", "PTW 60019 microDiamond"),
        ("IBA photon diode", "IBA PFD"),
    ],
)
def test_detectors_are_found_by_what_files_call_them(written: str, name: str) -> None:
    assert find_detector(written).name == name


@pytest.mark.parametrize("name", ["", "CC08", "CC130", "ion chamber", "CC13 and microDiamond"])
def test_unknown_detectors_are_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match="data sheet"):
        find_detector(name)


def test_diodes_are_told_by_name() -> None:
    assert is_diode("photon diode (header: fotonowa)") and is_diode("Edge Detector") and is_diode("PTW 60008 Diode P")
    assert not is_diode("IBA CC13") and not is_diode("PTW 60019 microDiamond") and not is_diode("")


@pytest.mark.parametrize(
    "changes",
    [
        {"radius_cm": 0.0},
        {"length_cm": 0.0},
        {"radius_cm": 30.0},
        {"shape": "sphere"},
        {"shape": "cube"},
        {"kind": "film"},
        {"axis": "w"},
    ],
)
def test_wrong_detectors_cannot_be_made(changes: dict[str, Any]) -> None:
    values: dict[str, Any] = {
        "name": "test",
        "kind": "ion chamber",
        "shape": "cylinder",
        "radius_cm": 0.3,
        "length_cm": 0.6,
        "axis": "y",
        "source": "test",
    }
    with pytest.raises(InvalidInput):
        Detector(**(values | changes))


CHAMBER = Detector("chamber", "ion chamber", "cylinder", 0.3, 0.6, "y", "test")
BALL = Detector("ball", "ion chamber", "sphere", 0.3, 0.0, "z", "test")

# Detector, direction, second moment of its projection [cm^2], distance of the 80 and 20 % points of its cumulative
# weight [cm]: r^2/4 and 2 r t with (t sqrt(1 - t^2) + asin t) / pi = 0.3 (t = 0.4919); L^2/12 and 0.6 L; r^2/5 and
# 2 r t with 3/4 (t - t^3/3) = 0.3 (t = 0.42568).
SHAPES = pytest.mark.parametrize(
    ("detector", "along", "moment", "blur"),
    [
        (CHAMBER, "x", 0.3**2 / 4, 2 * 0.3 * 0.4919),
        (CHAMBER, "z", 0.3**2 / 4, 2 * 0.3 * 0.4919),
        (CHAMBER, "y", 0.6**2 / 12, 0.6 * 0.6),
        (BALL, "x", 0.3**2 / 5, 2 * 0.3 * 0.42568),
    ],
)


@SHAPES
def test_a_step_becomes_the_shape_of_the_detector(detector: Detector, along: Any, moment: float, blur: float) -> None:
    x = np.linspace(-3, 3, 6001)
    field = np.where(np.abs(x) < 2, 1.0, 0.0)
    blurred = average_over(detector, x, field, along)
    assert penumbra_cm(x, blurred) == pytest.approx((blur, blur), abs=1e-3)
    assert field_width_cm(x, blurred) == pytest.approx(field_width_cm(x, field), abs=1e-6)
    assert blurred.sum() == pytest.approx(field.sum(), rel=1e-12)
    assert blurred.min() >= 0 and blurred.max() <= 1 + 1e-12


@SHAPES
def test_a_parabola_rises_by_the_second_moment(detector: Detector, along: Any, moment: float, blur: float) -> None:
    x = np.linspace(-3, 3, 6001)
    middle = np.abs(x) < 2
    assert (average_over(detector, x, x**2, along) - x**2)[middle] == pytest.approx(moment, abs=1e-6)


@SHAPES
def test_a_line_stays_a_line_on_any_positions(detector: Detector, along: Any, moment: float, blur: float) -> None:
    x = np.sort(np.random.default_rng(2).uniform(-5, 5, 60))
    middle = (x > x[0] + 0.3) & (x < x[-1] - 0.3)
    assert average_over(detector, x, 3 - 2 * x, along)[middle] == pytest.approx((3 - 2 * x)[middle])
    assert average_over(detector, x, np.ones(60), along) == pytest.approx(1)


def test_averaging_does_not_depend_on_how_finely_a_curve_is_sampled() -> None:
    coarse = np.linspace(-3, 3, 13)  # 5 mm, wider than the detector
    fine = np.linspace(-3, 3, 1201)
    v = np.clip(2.25 - np.abs(coarse), 0, 1)
    averaged = average_over(CHAMBER, fine, np.interp(fine, coarse, v), "x")
    assert average_over(CHAMBER, coarse, v, "x") == pytest.approx(averaged[::100], abs=1e-12)


def test_a_point_reads_the_curve_itself() -> None:
    assert average_over(DETECTORS["point"], [0, 1, 2], [1.0, 5.0, 2.0], "x").tolist() == [1, 5, 2]


def test_a_turned_detector_blurs_the_other_way() -> None:
    x = np.linspace(-3, 3, 601)
    v = np.where(np.abs(x) < 2, 1.0, 0.0)
    assert average_over(CHAMBER.lying_along("x"), x, v, "x").tolist() == average_over(CHAMBER, x, v, "y").tolist()
    with pytest.raises(InvalidInput, match="no direction"):
        average_over(CHAMBER, x, v, "w")  # type: ignore[arg-type]


def test_a_chamber_sees_an_edge_wider_than_its_cavity() -> None:
    """A step through a Gaussian is an error function; a depth dose is left alone; the sum is kept."""
    blurred = Detector("one", "ion chamber", "cylinder", 0.01, 0.01, "y", "test", blur_cm=0.2)
    x = np.arange(-3.0, 3.001, 0.02)
    step = np.clip(0.5 - x / 0.02, 0.0, 1.0)
    seen = average_over(blurred, x, step, "x")
    expected = [0.5 * math.erfc(at / (0.2 * math.sqrt(2))) for at in x]
    np.testing.assert_allclose(seen, expected, atol=1e-3)
    assert seen.sum() == pytest.approx(step.sum(), rel=1e-9)
    assert average_over(blurred, x, step, "z")[len(x) // 2 + 3] < 0.01
    with pytest.raises(InvalidInput, match="blur"):
        Detector("one", "ion chamber", "cylinder", 0.3, 0.5, "y", "test", blur_cm=-0.1)
    assert DETECTORS["IBA CC13"].blur_cm == pytest.approx(0.187)
