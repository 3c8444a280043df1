"""Plant errors in plans and write down what the check says of each.

    python validation/planted_errors.py [NAME ...]            # the demo case: NAME of an error
    python validation/planted_errors.py --elsewhere [PLACE ...]  # other plans, and the other side computed differently
    python validation/planted_errors.py --tables              # only the tables

**The demo case.** The planned dose is the engine's own, of the plan without error, at the settings of a check, handed
over on a grid of 2 mm as a planning system would: so every difference is the planted one, or that of the grids.

**Elsewhere.** The same errors in other plans, and a planned dose that is made differently (`OTHERWISE`): voxels,
directions and steps, leaf tips, focal spot, a density curve with denser bone and thinner lung, and outputs of beams
that differ. With a foreign engine on the other side larger differences come on top, and errors as small as these cannot
be seen.

Results go to validation/results/planted_errors.json, tables to docs/howto/check.md.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import spinedose as sd
from real_files import DICOM, unpacked
from spinedose._resources import folder
from spinedose.check.roles import fine_box, roles_of
from spinedose.demo import demo_case
from spinedose.dicom.dose import PlannedDose
from spinedose.engine import irradiate
from spinedose.grid import Grid, Volume
from spinedose.machine import machine_for_beam
from spinedose.machine_change import MachineChange
from spinedose.patient import prepare_patient
from spinedose.settings import Settings
from spinedose.structures import Structure, StructureSet, bounds_cm

RESULTS = Path(__file__).with_name("results") / "planted_errors.json"
DOCS = Path(__file__).resolve().parents[1] / "docs" / "howto" / "check.md"
GRID_CM = 0.2
SPACING_CM = 0.25
COUCH_DEG = 15.0
ARTEFACT_DENSITY, WRONG_DENSITY = 1.0, 0.3


TOLD = ("likely_cause", "leaf_stands_out", "no_cause_found")
"""Findings that say something about causes."""


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
        *TOLD,
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
        told = [hint["text"] for hint in case["hints"] if hint["code"] in TOLD]
        told = told or [hint["text"] for hint in case["hints"]] or ["nothing"]
        gamma = next(v for k, v in case["gamma_pass_percent"].items() if "3 %/1 mm" in k)
        lines.append(
            f"| {case['error']} | {case['verdict']} | {case['criteria_missed']} of {case['criteria']} | "
            f"{case['PTV_mean_percent']:+.1f} % | {case['cord_D0.03cc_percent']:+.1f} % | {gamma:.1f} % | {told[0]} |"
        )
    return "\n".join(lines)


def write_table(content: dict[str, Any]) -> None:
    page = DOCS.read_text(encoding="utf-8")
    for name, rows in (("planted", table(content)), ("elsewhere", elsewhere_table(content))):
        start, end = f"<!-- {name} -->\n", f"<!-- end {name} -->"
        head, _, rest = page.partition(start)
        page = f"{head}{start}{rows}\n{end}{rest.partition(end)[2]}"
    DOCS.write_text(page, encoding="utf-8")


# ----------------------------------------------------------------------------------------------------------- elsewhere

OTHERWISE = Settings(directions=304, moments=5, group_step_deg=3.0)
HEAD = MachineChange(leaf_offset_cm=0.01, spot_factor=1.1)
OUTPUTS = (1.005, 0.995)
"""How the planned doses of other plans are made; outputs in turn, beam by beam."""

BONE, LUNG = 1.03, 0.97
"""Densities above 100 HU, and between -900 and -150 HU, times this on the planned side."""


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """A plan with its patient or phantom.

    Parameters
    ----------
    plan, ct, structures
        What is computed.
    prescription_gy : float
        For the check [Gy].
    spacing_cm, planned_cm : float
        Voxels of the check, and of the planned side [cm].
    errors : tuple of str
        What is planted.
    was_in_view : bool
        Whether rules of the search were set with its results in view.
    """

    plan: sd.Plan
    ct: sd.CtImage
    structures: StructureSet
    prescription_gy: float
    spacing_cm: float
    planned_cm: float
    errors: tuple[str, ...]
    was_in_view: bool


def phantom(
    plan: sd.Plan, half_cm: tuple[float, float, float], spacing_cm: float = 0.3
) -> tuple[sd.CtImage, StructureSet]:
    """An elliptical cylinder of water around the isocentre, which lies a third of the half width off its axis."""
    spacing_cm = 0.3
    centre = plan.beams[0].isocentre_cm + np.array([half_cm[0] / 3, half_cm[1] / 4, 0.0])
    low = centre - np.array(half_cm) - 1.5
    shape = np.ceil((2 * np.array(half_cm) + 3) / spacing_cm).astype(int)[::-1]
    grid = Grid(tuple(map(float, low)), (spacing_cm,) * 3, tuple(map(int, shape)))
    x, y, z = grid.axes_cm
    inside = (((x - centre[0]) / half_cm[0]) ** 2 + ((y[:, None] - centre[1]) / half_cm[1]) ** 2 <= 1) & (
        np.abs(z - centre[2])[:, None, None] <= half_cm[2]
    )
    angle = np.linspace(0, 2 * np.pi, 120, endpoint=False)
    ring = np.stack([centre[0] + half_cm[0] * np.cos(angle), centre[1] + half_cm[1] * np.sin(angle)], axis=1)
    rings = tuple(np.column_stack([ring, np.full(120, h)]) for h in z[np.abs(z - centre[2]) <= half_cm[2]])
    ct = sd.CtImage(Volume(grid, np.where(inside, 0, -1000).astype(np.int16)), frame_of_reference_uid=UID)
    return ct, StructureSet((Structure(1, "BODY", "EXTERNAL", rings),), frame_of_reference_uid=UID)


UID = "2.25.1"


def in_phantom(plan: sd.Plan, dose_gy: float, half_cm: tuple[float, float, float], *, was_in_view: bool) -> Place:
    plan = replace(plan, frame_of_reference_uid=UID)
    return Place(plan, *phantom(plan, half_cm), dose_gy, 0.3, 0.25, tuple(ERRORS), was_in_view)


def demo_otherwise() -> Place:
    demo = demo_case()
    return Place(demo.plan, demo.ct, demo.structures, demo.prescription_gy, 0.25, 0.2, tuple(ERRORS), True)


def one_arc() -> Place:
    plan = sd.read_plan(DICOM / "clinac_vmat_dynalog/RTPLAN.dcm")
    return in_phantom(plan, 2.0, (15.0, 10.0, 10.0), was_in_view=True)


def two_half_arcs() -> Place:
    plan = sd.read_plan(DICOM / "eclipse_plans_only/SABR_VMAT_PELL.dcm")
    return in_phantom(plan, 20.0, (16.0, 11.0, 10.0), was_in_view=False)


def wide_arc() -> Place:
    plan = sd.read_plan(DICOM / "monaco_tiny_vmat/TinyFS_TinyVMAT.dcm")
    return in_phantom(plan, 5.0, (12.0, 10.0, 10.0), was_in_view=False)


def sliding_windows() -> Place:
    with unpacked("eclipse_thorax_imrt/RTPLAN.dcm.xz") as file:
        plan = sd.read_plan(file)
    with unpacked("eclipse_thorax_imrt/CT.tar.xz") as files:
        ct = sd.read_ct(files)
    with unpacked("eclipse_thorax_imrt/RTSTRUCT.dcm.xz") as file:
        structures = sd.read_structures(file)
    chosen = ("none", "meterset", "beam", "isocentre", "leaf", "collimator")
    return Place(plan, ct, structures, 41.4, 0.5, 0.4, chosen, False)


def field_in_field() -> Place:
    plan = sd.read_plan(DICOM / "eclipse_breast_fif_bolus/RTPLAN.dcm", bolus="ignore")
    with unpacked("eclipse_breast_fif_bolus/CT.tar.xz") as files:
        ct = sd.read_ct(files)
    chosen = ("none", "meterset", "beam", "isocentre", "leaf", "energy", "collimator")
    return Place(plan, ct, StructureSet(()), 22.5, 0.5, 0.4, chosen, False)


PLACES: dict[str, Callable[[], Place]] = {
    "demo, two arcs": demo_otherwise,
    "clinac_vmat_dynalog": one_arc,
    "SABR_VMAT_PELL": two_half_arcs,
    "monaco_tiny_vmat": wide_arc,
    "eclipse_thorax_imrt": sliding_windows,
    "eclipse_breast_fif_bolus": field_in_field,
}


METERSET, SHIFT = "all metersets|off as a whole", "isocentre were moved|lies .* mm away"
"""What right answers hold: of the causes, or of the fits of a factor and a shift."""


def middle_leaf(beam: sd.Beam) -> tuple[sd.Beam, str]:
    """A leaf of bank 2 amid the apertures 5 mm outwards in a fifth of the control points, and what it is called."""
    leaves = np.array(beam.leaf_cm)
    share = np.diff(beam.cumulative_meterset, append=0.0)
    n = len(leaves)
    first, last = (int(0.4 * n), int(0.4 * n) + max(n // 5, 2)) if n > 2 else (0, n)
    gap = np.average(leaves[first:last, 1] - leaves[first:last, 0], axis=0, weights=share[first:last] + 1e-9)
    boundaries = np.asarray(beam.leaf_boundaries_cm)
    across = beam.jaw_y_cm if beam.leaf_axis == "x" else beam.jaw_x_cm
    along = beam.jaw_x_cm if beam.leaf_axis == "x" else beam.jaw_y_cm
    centre = (boundaries[1:] + boundaries[:-1]) / 2
    if across is not None:
        gap = np.where((centre > across[first, 0]) & (centre < across[first, 1]), gap, 0.0)
    if along is not None:
        gap = np.where(leaves[first:last, 1].max(axis=0) < along[first, 1] - 0.5, gap, 0.0)
    is_open = np.flatnonzero(gap > 0.5 * gap.max())
    pair = int(is_open[len(is_open) // 2])
    leaves[first:last, 1, pair] += 0.5
    return replace(beam, leaf_cm=leaves), f"leaf {pair + 1} of bank A"


def _of_leaf(place: Place) -> tuple[sd.Plan, sd.Plan, str]:
    beam, name = middle_leaf(place.plan.beams[0])
    return place.plan, replace(place.plan, beams=(beam, *place.plan.beams[1:])), name


def _of_beam(place: Place) -> tuple[sd.Plan, sd.Plan, str]:
    first, *rest = place.plan.beams
    wrong = replace(place.plan, beams=(replace(first, meterset_mu=1.05 * first.meterset_mu), *rest))
    return place.plan, wrong, f"meterset of beam {first.number} " if rest else METERSET


def _of_energy(place: Place) -> tuple[sd.Plan, sd.Plan, str] | None:
    energies = {beam.energy for beam in place.plan.beams}
    wrong = "6X" if energies != {"6X"} else "6FFF"
    if len(energies) > 1 or wrong not in machine_for_beam(place.plan.beams[0])[0].beams:
        return None
    plan = changed(place.plan, lambda b: replace(b, energy=wrong))
    return place.plan, plan, f"all beams were {next(iter(energies))}"


def _of_couch(place: Place) -> tuple[sd.Plan, sd.Plan, str]:
    def kicked(sign: float) -> sd.Plan:
        last = place.plan.beams[-1]
        beam = replace(last, couch_deg=np.full_like(last.couch_deg, sign * COUCH_DEG))
        return replace(place.plan, beams=(*place.plan.beams[:-1], beam))

    return kicked(1), kicked(-1), "all couch angles were mirrored"


def _all(change: Callable[[sd.Beam], sd.Beam], name: str) -> Callable[[Place], tuple[sd.Plan, sd.Plan, str]]:
    return lambda place: (place.plan, changed(place.plan, change), name)


ERRORS: dict[str, tuple[str, Callable[[Place], tuple[sd.Plan, sd.Plan, str] | None]]] = {
    "none": ("none", _all(lambda b: b, "")),
    "meterset": ("meterset 3 % higher", _all(lambda b: replace(b, meterset_mu=1.03 * b.meterset_mu), METERSET)),
    "beam": ("meterset of the first beam 5 % higher", _of_beam),
    "isocentre": (
        "isocentre 2 mm to posterior",
        _all(lambda b: replace(b, isocentre_cm=b.isocentre_cm + np.array([0.0, 0.2, 0.0])), SHIFT),
    ),
    "leaf": ("one leaf of the first beam off by 5 mm in 20 % of the control points", _of_leaf),
    "energy": ("another energy", _of_energy),
    "collimator": (
        "collimators off by 2 degrees",
        _all(lambda b: replace(b, collimator_deg=b.collimator_deg + 2), "collimators were turned"),
    ),
    "couch": ("couch angle of 15 degrees mirrored, last beam", _of_couch),
}
"""What is planted: how it is called; the plan as planned, as checked, and what a right answer must hold."""


def made_otherwise(place: Place, plan: sd.Plan) -> PlannedDose:
    """The planned dose of another engine, as far as ours can stand in for one."""
    text = (folder("beam_data") / "density" / "generic.toml").read_text(encoding="utf-8")

    def other(found: re.Match[str]) -> str:
        hu = int(found[1])
        factor = BONE if hu >= 100 else LUNG if -900 < hu < -150 else 1.0
        return (
            f"hu = {hu}, mass_density_g_cm3 = {factor * float(found[2]):.5f}, "
            f"relative_electron_density = {factor * float(found[3]):.5f}"
        )

    row = r"hu = +(-?\d+), mass_density_g_cm3 = ([\d.]+), +relative_electron_density = ([\d.]+)"
    with tempfile.TemporaryDirectory() as kept:
        curve = Path(kept) / "other.toml"
        curve.write_text(re.sub(row, other, text), encoding="utf-8")
        patient = prepare_patient(
            place.ct,
            patient_position=plan.patient_position,
            structures=place.structures if place.structures.structures else None,
            spacing_cm=place.planned_cm,
            curve=str(curve),
        )
    beams = tuple(replace(b, meterset_mu=OUTPUTS[i % 2] * b.meterset_mu) for i, b in enumerate(plan.beams))
    dose = irradiate(replace(plan, beams=beams), patient, change=HEAD, settings=OTHERWISE).volume
    # voxels of the planned side lie elsewhere; only where there is dose, to keep grids small
    where = np.argwhere(dose.values > 0.05 * dose.values.max())
    spacing = np.array(dose.grid.spacing_cm)
    low = dose.grid.lower_cm + where.min(axis=0)[::-1] * spacing + 0.07
    high = dose.grid.lower_cm + (where.max(axis=0)[::-1] + 1) * spacing
    shape = np.maximum(1, np.floor((high - low) / place.planned_cm)).astype(int)[::-1]
    grid = Grid(tuple(map(float, low + place.planned_cm / 2)), (place.planned_cm,) * 3, tuple(map(int, shape)))
    return PlannedDose(
        dose.resample(grid), plan_uid=plan.uid, frame_of_reference_uid=plan.frame_of_reference_uid, system="spinedose"
    )


def elsewhere(wanted: list[str], content: dict[str, Any]) -> None:
    """Plant errors in other plans."""
    known: dict[str, Any] = content.setdefault("elsewhere", {})
    for name in wanted or list(PLACES):
        place, rows = PLACES[name](), {}
        planned: dict[int, PlannedDose] = {}
        for error in place.errors:
            title, make = ERRORS[error]
            plans = make(place)
            if plans is None:
                continue
            right, wrong, answer = plans
            if id(right) not in planned:
                planned[id(right)] = made_otherwise(place, right)
            start, cpu = time.perf_counter(), time.process_time()
            found = sd.check(
                plan=wrong,
                ct=place.ct,
                structures=place.structures if place.structures.structures else None,
                dose=planned[id(right)],
                prescription_gy=place.prescription_gy,
                spacing_cm=place.spacing_cm,
            )
            hints = [one for one in found.findings if one.code in (*TOLD, "scaled", "shifted")]
            said = [one.text for one in hints if one.code != "no_cause_found"]
            rows[error] = {
                "error": title,
                "verdict": found.verdict,
                "gamma_pass_percent": {g.question.name: round(g.whole.pass_percent, 2) for g in found.gammas},
                "said": [one.text for one in hints],
                "answer": answer,
                "result": _graded(said, answer),
                "seconds": round(time.perf_counter() - start, 1),
                "cpu_seconds": round(time.process_time() - cpu, 1),
                "causes_seconds": round(found.timings_s.get("causes", 0.0), 1),
            }
            known[name] = {"was_in_view": place.was_in_view, "cases": rows}
            content["elsewhere"] = {key: known[key] for key in PLACES if key in known}
            RESULTS.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
            print(name, json.dumps(rows[error], indent=2), flush=True)


def _graded(said: list[str], answer: str) -> str:
    """Whether the first cause that was named is the planted one."""
    if not said:
        return "right: nothing said" if not answer else "missed"
    if answer and any(re.search(answer, text.partition(" (explains")[0]) for text in said):
        return "right"
    return "named among others" if answer and any(re.search(answer, text) for text in said) else "wrong"


def elsewhere_table(content: dict[str, Any]) -> str:
    """Rows for docs/howto/check.md."""
    lines = ["| plan | error | verdict | | what it said |", "|---|---|---|---|---|"]
    for name, place in content.get("elsewhere", {}).items():
        for case in place["cases"].values():
            told = " ".join(case["said"]) or "nothing"
            lines.append(f"| `{name}` | {case['error']} | {case['verdict']} | {case['result']} | {told} |")
    return "\n".join(lines)


def main() -> None:
    arguments = sys.argv[1:]
    content: dict[str, Any] = {"cases": {}}
    if RESULTS.is_file():
        content = json.loads(RESULTS.read_text(encoding="utf-8"))
    if arguments[:1] == ["--elsewhere"]:
        elsewhere(arguments[1:], content)
    elif arguments != ["--tables"]:
        on_demo(arguments, content)
    write_table(content)


def on_demo(names: list[str], content: dict[str, Any]) -> None:
    """Plant errors in the demo case, with the same engine on both sides."""
    demo = demo_case()
    known = cases()
    wanted = names or list(known)
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


if __name__ == "__main__":
    main()
