"""A small patient for studies, and outcomes that were never computed."""

from __future__ import annotations

from typing import Any

import numpy as np

from made_up import beam_of
from spinedose.density import CtImage
from spinedose.grid import Grid, Volume
from spinedose.plan import Plan, PrescribedDose
from spinedose.scenarios import NOMINAL, Curve, LimitKept, Outcome, Scenario, Study, Value
from spinedose.settings import Settings
from spinedose.setup import Setup
from spinedose.structures import Structure, StructureSet

FRAME = "1.2.3"


def box(name: str, kind: str, low: tuple[float, ...], high: tuple[float, ...], **more: Any) -> Structure:
    """A box of contours 2.5 mm apart."""
    (x0, y0, z0), (x1, y1, z1) = low, high
    corners = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
    heights = np.arange(z0 + 0.125, z1, 0.25)
    contours = tuple(np.column_stack([corners, np.full(4, z)]) for z in heights)
    return Structure(len(name), name, kind, contours, **more)


def small_ct() -> CtImage:
    """12 cm of water with a lung and a bone that are nowhere symmetric."""
    hu = np.zeros((24, 24, 24), np.float32)
    hu[6:16, 5:11, 3:9] = -700.0
    hu[4:20, 14:18, 12:16] = 900.0
    return CtImage(Volume(Grid((-5.75,) * 3, (0.5,) * 3, hu.shape), hu), frame_of_reference_uid=FRAME)


def small_structures() -> StructureSet:
    return StructureSet(
        (
            box("BODY", "EXTERNAL", (-5.9, -5.9, -5.75), (5.9, 5.9, 5.75)),
            box("PTV", "PTV", (-1.0, -1.0, -1.0), (1.0, 1.0, 1.0)),
            box("SpinalCord", "ORGAN", (1.5, -1.0, -2.0), (2.5, 0.5, 2.0)),
        ),
        frame_of_reference_uid=FRAME,
    )


def small_plan(**changes: Any) -> Plan:
    """Two crossing fields of 3 x 3.5 cm in two fractions."""
    field = {"jaw_x_cm": np.tile([-1.5, 1.5], (2, 1)), "jaw_y_cm": np.tile([-1.5, 2.0], (2, 1))}
    beams = (beam_of(**field), beam_of(number=2, gantry_deg=np.full(2, 70.0), meterset_mu=80.0, **field))
    values = {
        "label": "small", "beams": beams, "fractions": 2, "frame_of_reference_uid": FRAME,
        "prescriptions": (PrescribedDose(2.4),),
    }  # fmt: skip
    return Plan(**(values | changes))


def small_study(**changes: Any) -> Study:
    """A study that takes tenths of seconds a scenario; `engine.reference_output` is to be patched."""
    values: dict[str, Any] = {
        "plan": small_plan(),
        "ct": small_ct(),
        "structures": small_structures(),
        "machine": "varian-truebeam-m120",
        "spacing_cm": 0.5,
        "backend": "cpu",
        "settings": Settings(directions=96, moments=3),
    }
    values |= changes
    return Study(values.pop("plan"), values.pop("ct"), values.pop("structures"), **values)


def outcome(scenario: Scenario, d95: float, cord: float, *, seconds: float = 1.0) -> Outcome:
    """What might have come of a scenario."""
    doses = 0.1 * np.arange(300)
    target = (100 / (1 + np.exp(2 * (doses - d95 - 1.5)))).astype(np.float32)
    other = np.where(doses < cord, 100 * np.exp(-4 * doses / cord), 0).astype(np.float32)
    return Outcome(
        scenario,
        (
            Value("PTV", "target", "D95%[Gy]", "Gy", d95),
            Value("PTV", "target", "D2%[Gy]", "Gy", d95 + 4),
            Value("SpinalCord", "cord", "D0.03cc[Gy]", "Gy", cord, "" if cord == cord else "it lies outside"),
        ),
        (LimitKept("SpinalCord", "D0.03cc[Gy]", "near-maximum", "at most", 12.0, cord, "made up"),),
        (Curve("PTV", "target", 0.1, target), Curve("SpinalCord", "cord", 0.1, other)),
        seconds,
        facts={"version": "0", "backend": "cpu"},
    )


def made_up_outcomes() -> list[Outcome]:
    """Planned, two shifts and five samples, in a mixed order."""
    rows = [
        outcome(Scenario("up", Setup(vertical_cm=0.1), group="grid"), 23.0, 13.0),
        outcome(Scenario("down", Setup(vertical_cm=-0.1), group="grid"), 22.5, 9.0),
        outcome(NOMINAL, 24.0, 10.0),
    ]
    samples = [Scenario(f"random {n:03d}", Setup(0.01 * n), group="random", is_sample=True) for n in range(1, 6)]
    return rows + [outcome(one, 23.0 + 0.2 * n, 10.0 + n) for n, one in enumerate(samples)]
