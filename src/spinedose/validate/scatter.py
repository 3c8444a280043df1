"""The worked example of AAPM TG-71: head scatter, phantom scatter and tissue-phantom ratios, each by its own stage."""

from __future__ import annotations

import numpy as np

from spinedose.calibration import open_field_beam
from spinedose.exposure import on_host
from spinedose.fluence_model import fluence_raster
from spinedose.machine import Machine
from spinedose.measurements import read_measurements
from spinedose.segments import segment_beam
from spinedose.tank import lookup
from spinedose.validate.case import Bench
from spinedose.validate.in_water import Found, dose_at, size
from spinedose.validate.lines import OTHER, Drawn, Line, Tag
from spinedose.validate.water import scatter_spacing_cm, tpr_lines

TG71 = "water_data/tg71_6mv_example"

TPR_FIELDS_CM = (4.0, 10.0, 20.0, 40.0)
"""Fields whose tissue-phantom ratios are compared [cm]: each depth needs its own calculation."""

DEPTH_CM = 10.0
"""Depth at which the example's factors are 1 for 10 x 10 cm."""


def in_air(bench: Bench, machine: Machine, beam: str, side_cm: float) -> float:
    """Energy fluence on the axis of a square field, by the fluence stage, for 1 MU."""
    model = machine.beam(beam)
    segments = segment_beam(open_field_beam(machine, model, (side_cm, side_cm)))
    raster = fluence_raster(segments, machine, model)
    maps = bench.device.fluence(machine, model, segments, raster, None)
    return float(lookup(on_host(maps.photon[0]), maps.raster, np.zeros(1), np.zeros(1))[0])


def scatter_factors(bench: Bench, tag: Tag, machine: Machine | None) -> Found:
    """Sc from the fluence, Sc Sp from the dose, Sp from both; tissue-phantom ratios."""
    assert machine is not None
    data = read_measurements(bench.data / TG71 / "6X_scatter_factors.csv")
    head, phantom = data.factors(beam=tag.beam, kind="head")[0], data.factors(beam=tag.beam, kind="phantom")[0]
    sides = np.array([side for side in head.field_x_cm if bench.wants(side) or side == 10.0])
    known = {
        "Sc, in air": np.array([head.of(s, s) for s in sides]),
        "Sp, phantom": np.array([phantom.of(s, s) for s in sides]),
    }
    known["Sc Sp, in water"] = known["Sc, in air"] * known["Sp, phantom"]

    def dose(side: float) -> float:
        volume = bench.tanks.dose(
            machine, tag.beam, (side, side), ssd_cm=machine.sad_cm - DEPTH_CM, to_depth_cm=DEPTH_CM,
            spacing_cm=scatter_spacing_cm(side),
        )  # fmt: skip
        return dose_at(volume, DEPTH_CM)

    reference = int(np.argmax(sides == 10.0))
    air = np.array([in_air(bench, machine, tag.beam, s) for s in sides])
    water = np.array([dose(s) for s in sides])
    air, water = air / air[reference], water / water[reference]
    mine = {"Sc, in air": air, "Sp, phantom": water / air, "Sc Sp, in water": water}
    lines, curves = [], []
    others = sides != 10.0
    note = "another machine, not stated; the example's numbers are rounded to three digits"
    for name, values in known.items():
        if np.any(others):
            lines.append(
                Line.of(
                    tag, bench.criteria["another_machine"], (100 * (mine[name] / values - 1))[others],
                    quantity="scatter factor", region=name, role=OTHER, field="4 x 4 to 40 x 40 cm", depth="10 cm",
                    at_cm=sides[others], note=note,
                )
            )  # fmt: skip
        curves.append(
            Drawn(
                f"{tag.beam} {name}",
                "points",
                "side of the field [cm]",
                "10 x 10 = 1",
                sides,
                values,
                mine[name],
                OTHER,
            )
        )
    for scan in read_measurements(bench.data / TG71 / "6X_tpr.csv").scans:
        if scan.field_x_cm in TPR_FIELDS_CM and bench.wants(scan.field_x_cm):
            some, drawn, _ = tpr_lines(bench, tag, machine, scan, OTHER, "another_machine")
            lines, curves = [*lines, *some], [*curves, *drawn]
    return lines, curves, [f"{size((10.0, 10.0))} at 10 cm depth is 1; {note}."]
