"""Single numbers of the literature: off-axis ratios, output factors of small fields, the penumbra of a narrow field."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from spinedose.compare.curves import penumbra_cm
from spinedose.machine import Machine
from spinedose.measurements import find_detector, read_measurements
from spinedose.units import MM_PER_CM
from spinedose.validate.case import Bench, role_of
from spinedose.validate.in_water import Found, dose_at, size
from spinedose.validate.lines import OTHER, USED, Drawn, Line, Tag
from spinedose.validate.tanks import Setup, profile
from spinedose.validate.water import AGILITIES, TRUEBEAMS, scatter_spacing_cm

POINTS = "water_data/literature_points"


def literature(bench: Bench, tag: Tag, machine: Machine | None) -> Found:
    """Off-axis ratios for TrueBeams, output factors for Agilities, all of it for any other machine."""
    assert machine is not None
    lines, curves, notes = list[Line](), list[Drawn](), list[str]()
    parts = []
    if machine.name not in AGILITIES:
        parts.append(_off_axis)
        if tag.beam == "6X":
            parts.append(_narrow)
    if machine.name not in TRUEBEAMS and tag.beam == "6X":
        parts.append(_small_fields)
    for part in parts:
        some, drawn, said = part(bench, tag, machine)
        lines, curves, notes = [*lines, *some], [*curves, *drawn], [*notes, *said]
    return lines, curves, notes


def _off_axis(bench: Bench, tag: Tag, machine: Machine) -> Found:
    """40 x 40 cm, mean of three TrueBeams; measured with a CC13."""
    lines, curves = [], []
    is_same, model = machine.name in TRUEBEAMS, machine.beam(tag.beam)
    role = role_of(model, USED, is_same_machine=is_same)
    detector = find_detector("CC13")
    scans = read_measurements(bench.data / POINTS / "truebeam_off_axis_ratios.csv").select(beam=tag.beam)
    for scan in scans:
        if not bench.wants(scan.field_x_cm):
            continue
        field = Setup.of(model).field_cm(scan.field_cm)  # the tank of the water scans; edges are far away
        volume = bench.tanks.dose(machine, tag.beam, field, ssd_cm=scan.ssd_cm, spacing_cm=0.4)
        x, dose = profile(volume, "x", scan.depth_cm, detector)
        dose = dose / dose[np.abs(x) <= 1.0].mean()
        right = 0.5 * (np.interp(scan.positions_cm, x, dose) + np.interp(-scan.positions_cm, x, dose))
        off = scan.positions_cm > 0
        lines.append(
            Line.of(
                tag, bench.criteria["off_axis"], 100 * (right - scan.values)[off], quantity="off-axis ratio",
                region="mean of both sides", role=role, field=size(scan.field_cm), depth=f"{scan.depth_cm:g} cm",
                at_cm=scan.positions_cm[off], note="mean of three TrueBeams, good to 0.3 %",
            )
        )  # fmt: skip
        curves.append(
            Drawn(
                f"{tag.beam} {size(scan.field_cm)} off axis at {scan.depth_cm:g} cm", "points", "off axis [cm]",
                "dose [% of the axis]", scan.positions_cm, 100 * scan.values, 100 * right, role,
            )
        )  # fmt: skip
    return lines, curves, []


def _narrow(bench: Bench, tag: Tag, machine: Machine) -> Found:
    """Width of the penumbra of a 1 x 20 cm field; machine and detector are not stated in what was read."""
    if not bench.wants(1.0):
        return [], [], []
    lines = []
    rows = _rows(bench.data / POINTS / "6mv_penumbra_1x20_field.csv")
    volume = bench.tanks.dose(machine, tag.beam, (1.0, 20.0), to_depth_cm=10.0, spacing_cm=0.125, margin_cm=3.0)
    for row in rows:
        if float(row["off_axis_position_cm"]) == 0:
            depth, measured = float(row["depth_cm"]), float(row["penumbra_80_20_cm"])
            wider = np.array(penumbra_cm(*profile(volume, "x", depth))) - measured
            spread = MM_PER_CM * float(row["penumbra_uncertainty_cm"])
            lines.append(
                Line.of(
                    tag, bench.criteria["penumbra_of_another_machine"], MM_PER_CM * wider, quantity="profile",
                    region="penumbra 80-20 % of a narrow field", role=OTHER, field="1 x 20 cm", depth=f"{depth:g} cm",
                    note=f"a point; {10 * measured:g} mm measured to {spread:g} mm; detector and SSD not stated",
                )
            )  # fmt: skip
    return lines, [], ["Penumbras of the 1 x 20 cm field beside the axis (4 to 12 cm) are not compared."]


def _small_fields(bench: Bench, tag: Tag, machine: Machine) -> Found:
    """Mean of Elekta machines (IROC Houston, then RPC), 10 x 10 = 1."""
    lines = []
    rows = _rows(bench.data / POINTS / "elekta_small_field_output_factors_rpc.csv")
    rows = [row for row in rows if row["nominal_energy_mv"] == "6" and bench.wants(float(row["field_x_cm"]))]

    def dose(side_cm: float) -> float:
        return dose_at(
            bench.tanks.dose(
                machine, tag.beam, (side_cm, side_cm), to_depth_cm=10.0, spacing_cm=scatter_spacing_cm(side_cm)
            ),
            10.0,
        )

    unit = dose(10.0) if rows else 1.0
    for row in rows:
        side, mean = float(row["field_x_cm"]), float(row["rpc_measured_output_factor_mean"])
        spread, n = 100 * float(row["rpc_measured_sd"]) / mean, row["rpc_n_machines"]
        lines.append(
            Line.of(
                tag, bench.criteria["output_of_another_machine"], 100 * (dose(side) / unit / mean - 1),
                quantity="output ratio", region="10 x 10 = 1", role=OTHER, field=size((side, side)), depth="10 cm",
                note=f"mean of {n} Elekta machines, standard deviation {spread:.1f} %; taken to be 10 cm deep",
            )
        )  # fmt: skip
    return lines, [], []


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
