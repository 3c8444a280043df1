"""Measurements in water of the machines that come with spinedose: a TrueBeam, and two linacs with Agility head."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from spinedose.curve_judging import output_criterion
from spinedose.errors import InvalidInput
from spinedose.grid import Volume
from spinedose.machine import Machine
from spinedose.measurements import Detector, Scan, find_detector, read_measurements
from spinedose.units import CM_PER_MM
from spinedose.validate.case import Bench, role_of
from spinedose.validate.in_water import (
    Found,
    at_reference_depth,
    depth_dose_lines,
    dose_at,
    profile_lines,
    size,
)
from spinedose.validate.lines import HELD_OUT, USED, Drawn, Line, Tag
from spinedose.validate.tanks import Setup

TRUEBEAMS = ("varian-truebeam-m120", "varian-truebeam-hd120")
"""Machines with the treatment head of the scanned TrueBeam; their leaves differ, and open fields do not show them."""

AGILITIES = ("elekta-agility",)

LA6 = "water_data/rsch_la6_truebeam"
SYNERGY = "water_data/elekta_synergy_agility"
COMMISSIONING = "dicom/monaco_agility_commissioning"

DIODE_NOTE = (
    "Diode readings are not corrected for the detector's response. Size to be expected: several per cent too high in 1"
    " cm fields (notes on the data); a PTW SRS diode read up to 6.5 % high at 0.5 cm against film"
    " (acemap.info/paper/295009610, abstract; factors of TRS-483 confirmed there). None is applied: the notes say"
    " 'IBA photon diode', and a table with its factors was not at hand to read; Casar et al., Med Phys 46:944 (2019),"
    " PMC7379629, measured six other diodes on a TrueBeam and a Versa HD."
)

DIODE_FIELDS_CM = (1.0, 2.0, 3.0, 5.0)
"""Depth doses and outputs of the diode that are compared [cm]; larger fields have the chamber."""

DIODE_PROFILES_CM = (1.0, 2.0, 3.0, 5.0, 6.0, 10.0)
"""Profiles of the diode that are compared [cm]."""

SMALLEST_CM = 0.1
"""Voxels for 1 x 1 cm fields [cm]: a voxel should not be wider than the detector. Larger ones lose output."""

TPR_DEPTHS_CM = (3.0, 5.0, 20.0, 30.0)
"""Depths at which tissue-phantom ratios are compared [cm]: each needs its own calculation."""


def truebeam(bench: Bench, tag: Tag, machine: Machine | None) -> Found:
    """Depth doses, output ratios and profiles of LA6, by chamber and diode."""
    assert machine is not None
    model, folder = machine.beam(tag.beam), bench.data / LA6
    lines, curves, notes = list[Line](), list[Drawn](), list[str]()
    depth_doses: dict[str, dict[float, Scan]] = {}
    for name, is_diode in (("cc13", False), ("photondiode", True)):
        file = folder / f"derived_{tag.beam}_pdd_{name}_joined.csv"
        if not file.exists():
            continue
        found = {scan.field_x_cm: _as_signal(scan) for scan in read_measurements(file).scans}
        depth_doses[name] = found
        profiles = folder / f"{tag.beam}_profiles_{name}_raw.csv"
        scans = [s for s in read_measurements(profiles).scans if s.is_two_sided] if profiles.exists() else []
        scans = [s for s in scans if not is_diode or s.field_x_cm in DIODE_PROFILES_CM]
        setup = _setup(machine, tag.beam, is_diode)
        notes.append(f"Set-up of the {'diode' if is_diode else 'chamber'} scans, from the beam's provenance: {setup}.")
        if is_diode:
            notes.append(DIODE_NOTE)
        detector = next(iter(found.values())).detector
        volume_of = _Fields(bench, machine, tag.beam, setup, {s.field_cm for s in scans})
        known = find_detector(detector)
        reference = at_reference_depth(found[10.0], volume_of((10.0, 10.0)), setup, known)
        for side, scan in found.items():
            if not bench.wants(side) or (is_diode and side not in DIODE_FIELDS_CM):
                continue
            volume, role = (
                volume_of(scan.field_cm),
                role_of(model, truebeam_role(scan), is_same_machine=_is_truebeam(machine)),
            )
            add(depth_dose_lines(tag, scan, volume, setup, known, role, bench.criteria), lines, curves, notes)
            if side != 10.0:
                measured, calculated = (
                    mine / of
                    for mine, of in zip(at_reference_depth(scan, volume, setup, known), reference, strict=True)
                )
                lines.append(
                    Line.of(
                        tag, output_criterion(bench.criteria, side), 100 * (calculated / measured - 1),
                        quantity="output ratio", region="at 10 cm, 10 x 10 = 1", role=role, field=size(scan.field_cm),
                        depth="10 cm", note=detector,
                    )
                )  # fmt: skip
                if side <= 1:
                    usual = at_reference_depth(scan, volume_of.of(scan.field_cm, 0.2), setup, known)[1]
                    notes.append(
                        f"{size(scan.field_cm)} was computed with voxels of {10 * SMALLEST_CM:g} mm; voxels of 2 mm"
                        f" change its output by {100 * (usual / reference[1] / calculated - 1):+.1f} %."
                    )
        for scan in scans:
            if bench.wants(scan.field_x_cm):
                role = role_of(model, truebeam_role(scan), is_same_machine=_is_truebeam(machine))
                part = profile_lines(tag, scan, volume_of(scan.field_cm), setup, known, role, bench.criteria)
                add(part, lines, curves, notes)
    notes += disagreement(depth_doses)
    return lines, curves, notes


def _setup(machine: Machine, beam: str, is_diode: bool) -> Setup:
    """Set-up of the scans; where the diode did not show edges, they are those that it showed in the 6X beam."""
    own = Setup.of(machine.beam(beam), is_other=is_diode)
    if is_diode and "6X" in machine.beams and not (own.jaw_x_offset_cm or own.jaw_y_offset_cm):
        first = Setup.of(machine.beam("6X"), is_other=True)
        return replace(first, depth_shift_cm=own.depth_shift_cm)
    return own


def truebeam_role(scan: Scan) -> str:
    """What a scan of LA6 was to the fit (validation/fit_machines.py)."""
    side, is_profile = scan.field_x_cm, not scan.is_along_depth
    if is_profile and scan.depth_cm in (5.0, 20.0):
        return HELD_OUT
    if "diode" in scan.detector.lower():
        return USED if is_profile and side in (1.0, 2.0, 3.0, 6.0) else HELD_OUT
    return HELD_OUT if side in (7.0, 20.0) else USED


def disagreement(depth_doses: dict[str, dict[float, Scan]]) -> list[str]:
    """By how much chamber and diode disagree where both measured one field."""
    if len(depth_doses) < 2:
        return []
    chamber, diode = depth_doses["cc13"], depth_doses["photondiode"]
    shape, output = {}, {}
    for side in sorted(set(chamber) & set(diode)):
        depths = np.arange(2.0, 30.1, 0.5)
        pair = [np.interp(depths, s.positions_cm, s.values) / s.values.max() for s in (chamber[side], diode[side])]
        shape[side] = 100 * float(np.abs(pair[1] - pair[0]).max())
        ratios = [_at_10_cm(scans[side]) / _at_10_cm(scans[10.0]) for scans in (chamber, diode)]
        output[side] = 100 * float(ratios[1] / ratios[0] - 1)
    worst = max(shape, key=lambda side: shape[side])
    said = ", ".join(f"{side:g} cm {value:+.2f} %" for side, value in output.items() if side != 10.0)
    return [
        "The data among themselves: depth doses of chamber and diode, 2 to 30 cm deep, differ by up to"
        f" {shape[worst]:.2f} % of the maximum ({worst:g} cm field); outputs, diode against chamber: {said}."
    ]


def _at_10_cm(scan: Scan) -> float:
    return float(np.interp(10.0, scan.positions_cm, scan.values))


def agility(bench: Bench, tag: Tag, machine: Machine | None) -> Found:
    """Scans and calibration of one Agility, output factors and tissue-phantom ratios of another."""
    assert machine is not None
    model = machine.beam(tag.beam)
    lines, curves, notes = list[Line](), list[Drawn](), list[str]()
    is_same = machine.name in AGILITIES
    folder = bench.data / COMMISSIONING
    main, other = Setup.of(model), Setup.of(model, is_other=True)
    notes.append(f"Set-up of depth doses, from the beam's provenance: {main}; of the profiles: {other}.")
    notes.append("The diode of the profiles (PTW 60008) counts as a disc of 1 mm2: as remembered, without a source.")
    for name in ("06MV_05x05_Open.mcc", "06MV_10x10.mcc"):
        for scan in read_measurements(folder / name).scans:
            if not bench.wants(scan.field_x_cm):
                continue
            setup = main if scan.is_along_depth else other
            volume = bench.tanks.dose(
                machine, tag.beam, setup.field_cm(scan.field_cm), ssd_cm=scan.ssd_cm, to_depth_cm=35.0
            )
            role = role_of(
                model,
                USED if scan.is_along_depth or scan.depth_cm in (1.5, 10.0) else HELD_OUT,
                is_same_machine=is_same,
            )
            make = depth_dose_lines if scan.is_along_depth else profile_lines
            add(make(tag, scan, volume, setup, _detector(scan), role, bench.criteria), lines, curves, notes)
    lines += _agility_outputs(bench, tag, machine, main, is_same)
    lines += _agility_calibration(bench, tag, machine, main, is_same)
    for scan in read_measurements(bench.data / SYNERGY / "6X_tpr.csv").scans:
        if bench.wants(scan.field_x_cm):
            part = tpr_lines(bench, tag, machine, scan, role_of(model, HELD_OUT, is_same_machine=is_same))
            add(part, lines, curves, notes)
    notes.append(
        "The data among themselves: 5 x 5 cm output at 10 cm depth, SSD 90 cm, is 0.906 on one linac and 0.904 on the"
        " other. The notes on the water data give 0.2 to 0.3 % between two TrueBeam-class sets for 4 to 30 cm fields."
    )
    return lines, curves, notes


def _agility_outputs(bench: Bench, tag: Tag, machine: Machine, setup: Setup, is_same: bool) -> list[Line]:
    model = machine.beam(tag.beam)
    factors = read_measurements(bench.data / SYNERGY / "6X_output_factors.csv").output_factors[0]
    pairs = [(float(s), float(v), "Synergy", HELD_OUT if s in (1.0, 5.0) else USED)
             for s, v in zip(factors.field_x_cm, factors.values, strict=True)]  # fmt: skip
    pairs.append(
        (5.0, _table(bench.data / COMMISSIONING / "OutputFactors.csv")["06MV"]["05x05 Open"], "M2619", HELD_OUT)
    )
    unit = dose_at(_at_ssd_90(bench, tag, machine, setup, 10.0), factors.depth_cm)
    lines = []
    for side, measured, which, role in pairs:
        if side == 10.0 or not bench.wants(side):
            continue
        calculated = dose_at(_at_ssd_90(bench, tag, machine, setup, side), factors.depth_cm) / unit
        lines.append(
            Line.of(
                tag, output_criterion(bench.criteria, side), 100 * (calculated / measured - 1), quantity="output ratio",
                region="SSD 90 cm, 10 x 10 = 1", role=role_of(model, role, is_same_machine=is_same),
                field=size((side, side)), depth="10 cm", note=f"linac {which}",
            )
        )  # fmt: skip
    return lines


def _agility_calibration(bench: Bench, tag: Tag, machine: Machine, setup: Setup, is_same: bool) -> list[Line]:
    """Dose per MU at SSD 100 cm from that at SSD 90 cm, which the beam file states."""
    model = machine.beam(tag.beam)
    stated = _table(bench.data / COMMISSIONING / "Calibration.csv")["06MV"]
    reference = model.calibration
    if not bench.wants(reference.field_cm) or reference.field_cm != 10.0:
        return []
    field = setup.field_cm((10.0, 10.0))
    unit = dose_at(
        bench.tanks.dose(machine, tag.beam, field, ssd_cm=reference.ssd_cm, to_depth_cm=35.0), reference.depth_cm
    )
    far = bench.tanks.dose(machine, tag.beam, field, ssd_cm=100.0, to_depth_cm=20.0)
    fall = [dose_at(far, d) for d in np.arange(1.0, 3.0, 0.1)]
    lines = []
    for key, dose, depth in (("dmax @ 100 SSD", max(fall), "maximum"), ("d10 @ 100 SSD", dose_at(far, 10.0), "10 cm")):
        measured = stated[key]  # Gy for 100 MU
        calculated = 100 * reference.gy_per_mu * dose / unit
        lines.append(
            Line.of(
                tag, bench.criteria["calibration"], 100 * (calculated / measured - 1), quantity="dose per MU",
                region="SSD 100 cm", role=role_of(model, HELD_OUT, is_same_machine=is_same), field=size((10.0, 10.0)),
                depth=depth, note="linac M2619; its dose at SSD 90 cm, 10 cm deep, is the calibration of the beam",
            )
        )  # fmt: skip
    return lines


def tpr_lines(bench: Bench, tag: Tag, machine: Machine, scan: Scan, role: str, criterion: str = "tpr") -> Found:
    """Tissue-phantom ratios at a few depths, relative to 10 cm depth; the detector stays at the isocentre."""
    field = scan.field_cm
    spacing = scatter_spacing_cm(max(field))

    def dose(depth_cm: float) -> float:
        volume = bench.tanks.dose(
            machine, tag.beam, field, ssd_cm=machine.sad_cm - depth_cm, to_depth_cm=depth_cm, spacing_cm=spacing
        )
        return dose_at(volume, depth_cm)

    depths = [d for d in TPR_DEPTHS_CM if d <= scan.positions_cm[-1]]
    unit = dose(10.0)
    measured = np.interp(depths, scan.positions_cm, scan.values) / np.interp(10.0, scan.positions_cm, scan.values)
    calculated = np.array([dose(d) for d in depths]) / unit
    percent = 100 * (calculated - measured)
    if bench.criteria[criterion].unit == "%":
        percent = percent / measured
    line = Line.of(
        tag, bench.criteria[criterion], percent, quantity="tissue-phantom ratio", region="relative to 10 cm", role=role,
        field=size(field), depth=", ".join(f"{d:g}" for d in depths) + " cm", at_cm=depths,
    )  # fmt: skip
    drawn = Drawn(
        f"{tag.beam} {size(field)} TPR", "points", "depth [cm]", "TPR, 1 at 10 cm", np.array(depths), measured,
        calculated, role,
    )  # fmt: skip
    return [line], [drawn], []


def scatter_spacing_cm(side_cm: float) -> float:
    """Voxels for a number on the axis: nothing is steep there in a wide field [cm]."""
    return 0.2 if side_cm <= 3 else 0.25 if side_cm <= 10 else 0.4 if side_cm < 25 else 0.5


class _Fields:
    """Tanks of one beam and set-up, with voxels as fine as its curves need."""

    def __init__(
        self, bench: Bench, machine: Machine, beam: str, setup: Setup, with_profiles: Iterable[tuple[float, float]]
    ) -> None:
        self.bench, self.machine, self.beam, self.setup = bench, machine, beam, setup
        self.with_profiles = set(with_profiles)

    def __call__(self, field_cm: tuple[float, float]) -> Volume:
        """Dose of a field."""
        is_wide = max(field_cm) >= 30 and field_cm not in self.with_profiles
        spacing = 0.4 if is_wide else 0.25 if max(field_cm) > 3 else 0.2 if max(field_cm) > 1 else SMALLEST_CM
        return self.of(field_cm, spacing)

    def of(self, field_cm: tuple[float, float], spacing_cm: float) -> Volume:
        """Dose of a field with voxels of a size [cm]."""
        margin = 7.0 if spacing_cm > SMALLEST_CM else 4.0
        return self.bench.tanks.dose(
            self.machine, self.beam, self.setup.field_cm(field_cm), spacing_cm=spacing_cm, margin_cm=margin
        )


def _at_ssd_90(bench: Bench, tag: Tag, machine: Machine, setup: Setup, side_cm: float) -> Volume:
    deep = 35.0 if side_cm in (5.0, 10.0) else 10.0  # those have scans: one tank does for both
    spacing, margin = (SMALLEST_CM, 4.0) if side_cm <= 1 else (scatter_spacing_cm(side_cm), 7.0)
    return bench.tanks.dose(
        machine, tag.beam, setup.field_cm((side_cm, side_cm)), ssd_cm=90.0, to_depth_cm=deep, spacing_cm=spacing,
        margin_cm=margin,
    )  # fmt: skip


def _as_signal(scan: Scan) -> Scan:
    """A depth dose in percent as a signal that keeps the output between fields."""
    return replace(scan, values=scan.values * float(scan.metadata["signal_per_value"]), unit="signal")


def _detector(scan: Scan) -> Detector | None:
    """The detector by its name, or else a sphere of the radius that the file states; None when that is 0."""
    try:
        return find_detector(scan.detector)
    except InvalidInput:
        radius = CM_PER_MM * float(scan.metadata.get("detector_radius", "0") or 0)
        if not radius:
            return None
        return Detector(scan.detector, "ion chamber", "sphere", radius, 0.0, "y", "radius stated in the file")


def _is_truebeam(machine: Machine) -> bool:
    return machine.name in TRUEBEAMS


def _table(path: Path) -> dict[str, dict[str, float]]:
    """A small table with names in its first column and its first line; empty cells are left out."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.reader(file))
    head = rows[0][1:]
    return {
        row[0]: {key: float(cell) for key, cell in zip(head, row[1:], strict=True) if cell.strip()} for row in rows[1:]
    }


def add(part: Found, lines: list[Line], curves: list[Drawn], notes: list[str]) -> None:
    """Add what one curve says."""
    lines += part[0]
    curves += part[1]
    notes += part[2]
