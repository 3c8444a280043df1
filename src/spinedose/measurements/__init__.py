"""Measurements in water and in air: curves, output factors and detectors, read from files, proved and looked at.

No dose is computed here. `read_measurements` reads a file of any known format, `findings` says what is doubtful in a
curve, and `average_over` blurs a calculated curve as the detector did.
"""

from spinedose.measurements.detector import DETECTORS, Detector, average_over, find_detector, is_diode
from spinedose.measurements.finding import Finding, refuse
from spinedose.measurements.quality import findings
from spinedose.measurements.reading import read_measurements
from spinedose.measurements.scan import (
    KINDS,
    UNITS,
    Measurements,
    OutputFactors,
    ReferenceCondition,
    Scan,
    output_factors_from_signals,
)

__all__ = [
    "DETECTORS",
    "KINDS",
    "UNITS",
    "Detector",
    "Finding",
    "Measurements",
    "OutputFactors",
    "ReferenceCondition",
    "Scan",
    "average_over",
    "find_detector",
    "findings",
    "is_diode",
    "output_factors_from_signals",
    "read_measurements",
    "refuse",
]
