"""Plant errors in the plan of the demo case and write down what the check says of each.

    python validation/planted_errors.py [NAME ...]

The planned dose is the engine's own, of the plan without error, at the settings of a check, handed over on a grid of
2 mm as a planning system would: so every difference is the planted one, or that of the grids. With another engine on
the other side its differences come on top, and errors as small as these differences cannot be seen. Results go to
validation/results/planted_errors.json.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import spinedose as sd
from spinedose.check.roles import fine_box, roles_of
from spinedose.demo import demo_case
from spinedose.dicom.dose import PlannedDose
from spinedose.grid import Grid, Volume
from spinedose.structures import Structure, StructureSet, bounds_cm

RESULTS = Path(__file__).with_name("results") / "planted_errors.json"
DOCS = Path(__file__).resolve().parents[1] / "docs" / "howto" / "check.md"
GRID_CM = 0.2
SPACING_CM = 0.25
COUCH_DEG = 15.0
ARTEFACT_DENSITY, WRONG_DENSITY = 1.0, 0.3


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """Plan and structures as planned, and as the check gets them."""

    error: str
    plan: sd.Plan
    structures: StructureSet
    wrong_plan: sd.Plan
    wrong_structures: StructureSet


def changed(plan: sd.Plan, change: Callable[[sd.Beam], sd.Beam]) -> sd.Plan:
    return replace(plan, beams=tuple(change(beam) for beam in plan.beams))


def one_leaf_off(beam: sd.Beam) -> sd.Beam:
    """The leaf of bank 2 in the middle of the aperture, 5 mm outwards in a fifth of the control points."""
    if beam.number != 1:
        return beam
    leaves = np.array(beam.leaf_cm)
    gap = (leaves[:, 1] - leaves[:, 0]).mean(axis=0)
    pair, n = int(np.argmax(gap)), len(leaves)
    first = int(0.4 * n)
    leaves[first : first + n // 5, 1, pair] += 0.5
    return replace(beam, leaf_cm=leaves)


def artefact(structures: StructureSet, density: float) -> StructureSet:
    """The surroundings of the rods on every slice, overridden as planners do where metal spoils the CT."""
    rods = structures["Rods"]
    low, high = bounds_cm(rods)
    low, high = low - 0.5, high + 0.5
    heights = sorted({float(contour[0, 2]) for contour in structures["BODY"].contours_cm})
    corners = [(low[0], low[1]), (high[0], low[1]), (high[0], high[1]), (low[0], high[1])]
    contours = tuple(np.array([(x, y, z) for x, y in corners]) for z in heights if low[2] <= z <= high[2])
    number = max(s.number for s in structures.structures) + 1
    region = Structure(number, "Artefact", "", contours, density, density)
    return replace(structures, structures=(*structures.structures, region))


def cases() -> dict[str, Callable[[sd.Plan, StructureSet], Case]]:
    def of(error: str, change: Callable[[sd.Beam], sd.Beam]) -> Callable[[sd.Plan, StructureSet], Case]:
        return lambda plan, structures: Case(error, plan, structures, changed(plan, change), structures)

    def couch(plan: sd.Plan, structures: StructureSet) -> Case:
        def kicked(sign: float) -> sd.Plan:
            return changed(
                plan,
                lambda b: replace(b, couch_deg=np.full_like(b.couch_deg, sign * COUCH_DEG)) if b.number == 2 else b,
            )

        return Case(
            "couch angle of 15 degrees mirrored, one of two arcs", kicked(1), structures, kicked(-1), structures
        )

    def rods(plan: sd.Plan, structures: StructureSet) -> Case:
        water = tuple(
            replace(s, relative_mass_density=1.0, relative_electron_density=1.0) if s.name == "Rods" else s
            for s in structures.structures
        )
        return Case("titanium rods taken for water", plan, structures, plan, replace(structures, structures=water))

    def wrong_override(plan: sd.Plan, structures: StructureSet) -> Case:
        return Case(
            f"density override of an artefact region, {WRONG_DENSITY} instead of {ARTEFACT_DENSITY:g}",
            plan,
            artefact(structures, ARTEFACT_DENSITY),
            plan,
            artefact(structures, WRONG_DENSITY),
        )

    shift = np.array([0.0, 0.2, 0.0])
    return {
        "none": of("none", lambda b: b),
        "meterset": of("meterset 3 % higher", lambda b: replace(b, meterset_mu=1.03 * b.meterset_mu)),
        "isocentre": of("isocentre 2 mm towards the cord", lambda b: replace(b, isocentre_cm=b.isocentre_cm + shift)),
        "leaf": of("one leaf of one arc off by 5 mm in 20 % of the control points", one_leaf_off),
        "energy": of("6X instead of 6FFF", lambda b: replace(b, energy="6X")),
        "collimator": of("collimators off by 2 degrees", lambda b: replace(b, collimator_deg=b.collimator_deg + 2)),
        "override": wrong_override,
        "rods": rods,
        "couch": couch,
    }


def planned_dose(plan: sd.Plan, ct: sd.CtImage, structures: StructureSet, prescription_gy: float) -> PlannedDose:
    """The plan's own dose at the settings of a check, on a grid of 2 mm."""
    box, _ = fine_box(structures, roles_of(structures), prescription_gy / plan.fractions, SPACING_CM)
    dose = sd.compute_dose(plan, ct, structures=structures, spacing_cm=SPACING_CM, fine=box)
    low, high = bounds_cm(structures["BODY"])
    shape = np.ceil((high - low) / GRID_CM).astype(int)[::-1]
    origin = low + GRID_CM / 2
    grid = Grid(tuple(map(float, origin)), (GRID_CM,) * 3, tuple(map(int, shape)))
    values = dose.volume.resample(grid).values
    return PlannedDose(
        Volume(grid, values), plan_uid=plan.uid, frame_of_reference_uid=plan.frame_of_reference_uid, system="spinedose"
    )


def said(case: Case, found: sd.Check, seconds: float) -> dict[str, Any]:
    """What the check said, in short."""
    hints = (
        "scaled",
        "shifted",
        "other_shape",
        "likely_cause",
        "no_cause_found",
        "worst_structure",
        "fractions_factor",
    )
    target, cord = found.of_role("target"), found.of_role("cord")

    def number(rows: Any, name: str, metric: str) -> float | None:
        pair = next((row.metric(metric) for row in rows if row.name == name), None)
        return None if pair is None else round(pair.difference_percent, 2)

    assert found.judgement is not None
    return {
        "error": case.error,
        "verdict": found.verdict,
        "criteria_missed": sum(not one.within for one in found.judgement.judged),
        "criteria": len(found.judgement.judged),
        "reasons": list(found.reasons[:6]),
        "hints": [{"code": one.code, "text": one.text} for one in found.findings if one.code in hints],
        "gamma_pass_percent": {gamma.question.name: round(gamma.whole.pass_percent, 2) for gamma in found.gammas},
        "PTV_mean_percent": number(target, "PTV", "Mean[Gy]"),
        "PTV_D95_percent": number(target, "PTV", "D95%[Gy]"),
        "cord_D0.03cc_percent": number(cord, "SpinalCord", "D0.03cc[Gy]"),
        "seconds": round(seconds, 1),
    }


def table(content: dict[str, Any]) -> str:
    """Rows for docs/howto/check.md."""
    lines = [
        "| error | verdict | criteria missed | target mean | cord D0.03cc | gamma | what it said |",
        "|---|---|---|---|---|---|---|",
    ]
    for case in content["cases"].values():
        told = [hint["text"] for hint in case["hints"] if hint["code"] in ("likely_cause", "no_cause_found")]
        told = told or [hint["text"] for hint in case["hints"]] or ["nothing"]
        gamma = next(v for k, v in case["gamma_pass_percent"].items() if "3 %/1 mm" in k)
        lines.append(
            f"| {case['error']} | {case['verdict']} | {case['criteria_missed']} of {case['criteria']} | "
            f"{case['PTV_mean_percent']:+.1f} % | {case['cord_D0.03cc_percent']:+.1f} % | {gamma:.1f} % | {told[0]} |"
        )
    return "\n".join(lines)


def write_table(content: dict[str, Any]) -> None:
    page = DOCS.read_text(encoding="utf-8")
    start, end = "<!-- planted -->\n", "<!-- end planted -->"
    head, _, rest = page.partition(start)
    DOCS.write_text(f"{head}{start}{table(content)}\n{end}{rest.partition(end)[2]}", encoding="utf-8")


def main() -> None:
    demo = demo_case()
    known = cases()
    wanted = sys.argv[1:] or list(known)
    content: dict[str, Any] = {"cases": {}}
    if RESULTS.is_file():
        content = json.loads(RESULTS.read_text(encoding="utf-8"))
    planned: dict[str, PlannedDose] = {}
    for name in wanted:
        case = known[name](demo.plan, demo.structures)
        key = "demo" if case.plan is demo.plan and case.structures is demo.structures else name
        if key not in planned:
            planned[key] = planned_dose(case.plan, demo.ct, case.structures, demo.prescription_gy)
        start = time.perf_counter()
        found = sd.check(
            plan=case.wrong_plan, ct=demo.ct, structures=case.wrong_structures, dose=planned[key], spacing_cm=SPACING_CM
        )
        content["cases"][name] = said(case, found, time.perf_counter() - start)
        content |= {"version": sd.__version__, "criteria": found.criteria, "device": found.dose.metadata.device}
        content["settings"] = {"spacing_cm": SPACING_CM, "planned_grid_cm": GRID_CM, "voxels": found.assumptions[4]}
        content["cases"] = {key: content["cases"][key] for key in known if key in content["cases"]}
        RESULTS.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        print(json.dumps(content["cases"][name], indent=2), flush=True)
    write_table(content)


if __name__ == "__main__":
    main()
