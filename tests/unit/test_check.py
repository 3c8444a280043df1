"""The secondary check: verdict, reasons, findings and JSON, on a made-up patient whose doses are known.

The engine is replaced by a stand-in where only the comparison is in question; the demo case goes through all of it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

import spinedose as sd
from made_up import beam_of
from spinedose import demo
from spinedose.check import Check, conduct
from spinedose.check.findings import of_matter, of_missing_dose
from spinedose.check.inputs import planned_of
from spinedose.check.patterns import explain, find_pattern
from spinedose.check.roles import fine_box, roles_of
from spinedose.check.verdict import verdict_of
from spinedose.criteria import Judged, Judgement
from spinedose.density import CtImage
from spinedose.dicom.dose import PlannedDose
from spinedose.errors import InvalidInput
from spinedose.grid import Grid, Volume
from spinedose.hu_curve import read_curve
from spinedose.missing_matter import Missing
from spinedose.plan import Identity, Plan, PrescribedDose
from spinedose.report.content import content_of
from spinedose.result import Dose, ResultInfo
from spinedose.structures import Structure, StructureSet

GRID = Grid((-5.9, -5.9, -5.9), (0.2, 0.2, 0.2), (60, 60, 60))
PRESCRIBED = 20.0
M120 = "varian-truebeam-m120"


def ball(
    number: int, name: str, kind: str, centre: tuple[float, float, float], radius: float, **more: Any
) -> Structure:
    """A sphere on planes of 2 mm."""
    angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    contours = []
    for z in np.arange(np.ceil((centre[2] - radius) / 0.2) * 0.2, centre[2] + radius, 0.2):
        r = math.sqrt(max(radius**2 - (z - centre[2]) ** 2, 0))
        if r > 0.05:
            x, y = centre[0] + r * np.cos(angle), centre[1] + r * np.sin(angle)
            contours.append(np.column_stack([x, y, np.full(60, z)]))
    return Structure(number, name, kind, tuple(contours), **more)


def structure_set(*more: Structure) -> StructureSet:
    return StructureSet(
        (
            ball(1, "BODY", "EXTERNAL", (0, 0, 0), 5.5),
            ball(2, "PTV", "PTV", (0, 0, 0), 1.5),
            ball(3, "SpinalCord", "ORGAN", (0, 2.2, 0), 0.6),
            ball(4, "Liver", "ORGAN", (2.5, 0, 0), 1.0),
            *more,
        ),
        uid="1.2.3",
        frame_of_reference_uid="1.2.9",
    )


def far_cord() -> StructureSet:
    """A cord beside the target, out of a box of 1.5 cm around the target."""
    return StructureSet((ball(1, "PTV", "PTV", (0, 0, 0), 1.5), ball(2, "SpinalCord", "", (0, 2.6, 0), 0.6)))


def bump(centre: tuple[float, float, float] = (0.0, 0.0, 0.0), scale: float = 1.0, grid: Grid = GRID) -> Volume:
    """A smooth dose: 1.1 of the prescription in the middle, about 0.9 at the target's edge."""
    x, y, z = grid.axes_cm
    r2 = (x - centre[0]) ** 2 + (y[:, None] - centre[1]) ** 2 + (z[:, None, None] - centre[2]) ** 2
    return Volume(grid, (scale * 1.1 * PRESCRIBED * np.exp(-r2 / 11)).astype(np.float32))


def ct_image(hu: float = 0.0) -> CtImage:
    return CtImage(Volume(GRID, np.full(GRID.shape, hu, np.int16)), uid="1.2.4", frame_of_reference_uid="1.2.9")


def plan_of(**changes: Any) -> Plan:
    values: dict[str, Any] = {
        "label": "T7",
        "beams": (beam_of(energy="6FFF", planned_point_dose_gy=None),),
        "fractions": 2,
        "uid": "1.2.5",
        "structure_set_uid": "1.2.3",
        "frame_of_reference_uid": "1.2.9",
        "identity": Identity(patient_name="Doe^Jane", patient_id="123456"),
        "prescriptions": (PrescribedDose(PRESCRIBED, "PTV", 2),),
    }
    return Plan(**(values | changes))


def planned_as(volume: Volume, **changes: Any) -> PlannedDose:
    return PlannedDose(volume, **({"uid": "1.2.6", "plan_uid": "1.2.5", "frame_of_reference_uid": "1.2.9"} | changes))


@pytest.fixture
def compute(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Check]:
    """`compute(planned, ours, **arguments)`: a check in which the engine finds the dose `ours`."""

    def run(
        planned: PlannedDose | None, ours: Volume | None = None, missing: tuple[Missing, ...] = (), **arguments: Any
    ) -> Check:
        def stand_in(plan: Plan, ct: CtImage, **options: Any) -> Dose:
            settings = {"spacing_cm": options["spacing_cm"], "materials": {}, "couch": ""}
            info = ResultInfo(
                "0", "cpu", "none", machines=(f"{M120}/6FFF",), settings=settings, warnings=("A warning.",),
                missing=missing,
            )  # fmt: skip
            return Dose(ours or bump(), info, plan, ct)

        monkeypatch.setattr(conduct, "compute_dose", stand_in)
        values: dict[str, Any] = {
            "plan": plan_of(), "ct": ct_image(), "structures": structure_set(), "dose": planned, "machine": M120,
            "causes": False,
        }  # fmt: skip
        return sd.check(**(values | arguments))

    return run


def schema() -> dict[str, Any]:
    text = resources.files("spinedose.check").joinpath("check.schema.json").read_text(encoding="utf-8")
    content: dict[str, Any] = json.loads(text)
    return content


def codes(found: Check) -> set[str]:
    return {one.code for one in found.findings}


class TestVerdict:
    def test_the_same_dose_is_within(self, compute: Callable[..., Check]) -> None:
        found = compute(planned_as(bump()))
        assert found.verdict == "within"
        assert found.is_within
        assert len(found.reasons) == 1
        assert all(gamma.whole.pass_percent == 100 for gamma in found.gammas)
        assert not any(one.severity == "problem" for one in found.findings)
        assert found.names.patient_name == "Doe^Jane"
        assert "approved" not in found.to_json().lower()

    def test_three_percent_more_is_outside_and_named(self, compute: Callable[..., Check]) -> None:
        found = compute(planned_as(bump()), bump(scale=1.03))
        assert found.verdict == "outside"
        assert any(reason.startswith("mean dose of the target, 'PTV': Mean[Gy] +3.0 %") for reason in found.reasons)
        assert "scaled" in codes(found)
        assert "+3.0 % off as a whole" in next(one.text for one in found.findings if one.code == "scaled")

    def test_a_shift_is_outside_and_named(self, compute: Callable[..., Check]) -> None:
        found = compute(planned_as(bump()), bump((0.0, 0.3, 0.0)))
        assert found.verdict == "outside"
        text = next(one.text for one in found.findings if one.code == "shifted")
        assert "3.0 mm away" in text and "y +3.0" in text

    def test_without_a_planned_dose_nothing_is_compared(self, compute: Callable[..., Check]) -> None:
        found = compute(None)
        assert found.verdict == "not compared"
        assert found.reasons == ("There is no planned dose: nothing was compared.",)
        assert found.judgement is None and found.gammas == ()
        assert found.of_role("target")[0].recalculated is not None
        assert found.of_role("target")[0].planned is None
        jsonschema.validate(found.as_dict(), schema())

    @pytest.mark.parametrize(("planned_gy", "verdict"), [(10.6, "not compared"), (12.0, "outside")])
    def test_points_of_beams_are_judged_without_a_planned_dose(
        self, compute: Callable[..., Check], planned_gy: float, verdict: str
    ) -> None:
        point = {"planned_point_cm": np.zeros(3), "planned_point_dose_gy": planned_gy}
        plan = plan_of(beams=(beam_of(energy="6FFF", **point),))
        found = compute(None, plan=plan)  # 11 Gy a fraction at the isocentre
        assert found.verdict == verdict
        assert found.judgement is not None and [one.name for one in found.judgement.judged] == ["point_dose"]
        missing = "There is no planned dose: only doses at points of beams were compared."
        assert missing in found.reasons
        assert ("beam 1 'field': Dose[Gy] -8" in found.reasons[0]) == (verdict == "outside")
        jsonschema.validate(found.as_dict(), schema())

    def test_certain_numbers_come_before_doubtful_ones(self) -> None:
        def judged(off: float, doubt: str, compare: Any = "percent of planned") -> Judged:
            numbers = (20.0, 20.0 + off / 5, off, 2.0, math.nan)
            return Judged("k", "mean", f"{off:g}", "Mean[Gy]", "%", *numbers, "outside", "house", compare, doubt)

        rows = (judged(50, "too small"), judged(4, ""), judged(8, ""), judged(3, "", "crosses limit"))
        _, reasons = verdict_of(Judgement("c", rows, ()), ())
        assert [reason.partition("'")[2].partition("'")[0] for reason in reasons] == ["3", "8", "4", "50"]

    def test_what_was_not_judged_is_not_within(self) -> None:
        numbers = (math.nan, math.nan, math.nan, 2.0, math.nan)
        one = Judged(
            "k", "mean", "PTV", "Mean[Gy]", "%", *numbers, "not judged", "house", "percent of planned",
            "a number is missing",
        )  # fmt: skip
        verdict, reasons = verdict_of(Judgement("c", (one,), ()), ())
        assert verdict == "outside"
        assert reasons == ("mean, 'PTV': Mean[Gy] was not judged (a number is missing).",)

    def test_the_worst_reason_comes_first(self, compute: Callable[..., Check]) -> None:
        found = compute(planned_as(bump()), bump(scale=1.2))
        assert found.judgement is not None
        assert any(one.level == "beyond action" for one in found.judgement.judged)
        assert found.reasons[0].startswith("The recalculated dose is +20.0 % off as a whole")
        assert "beyond the action limit" in found.reasons[1]

    def test_doses_in_fractions_of_2_gy(self, compute: Callable[..., Check]) -> None:
        found = compute(planned_as(bump()), bump(scale=1.01))
        for role, ratio, name in (
            ("cord", 2.0, "D0.03cc[Gy]"),
            ("target", 10.0, "D95%[Gy]"),
            ("organ", 3.0, "Mean[Gy]"),
        ):
            one = found.of_role(role)[0]  # type: ignore[arg-type]
            assert one.eqd2 is not None and one.eqd2.alpha_beta_gy == ratio and one.eqd2.source
            pair, dose = next(p for p in one.eqd2.metrics if p.name == name), one.metric(name)
            assert dose is not None
            for value, gy in ((pair.planned, dose.planned), (pair.recalculated, dose.recalculated)):
                alone = gy * (gy / 2 + ratio) / (2 + ratio)  # two fractions
                if name.startswith("D"):
                    assert value == pytest.approx(alone, rel=1e-3)  # interpolated between other samples
                else:
                    assert value > alone * 1.0001  # of a square the mean is more than that of the mean
        assert all(one.eqd2 is None for one in found.of_role("body"))

    def test_numbers_side_by_side(self, compute: Callable[..., Check]) -> None:
        found = compute(planned_as(bump()), bump(scale=1.01))
        target = found.of_role("target")[0]
        pair = target.metric("D95%[Gy]")
        assert pair is not None
        assert pair.recalculated / pair.planned == pytest.approx(1.01, abs=1e-4)
        assert pair.difference_percent == pytest.approx(1.0, abs=0.02)
        assert found.quality[0].planned is not None and found.quality[0].recalculated is not None
        assert found.evaluation is not None
        assert {line.structure for line in found.evaluation.lines} >= {"SpinalCord"}


class TestFindings:
    @pytest.mark.parametrize(
        ("changes", "code"),
        [
            ({"plan_uid": "9.9"}, "dose_of_other_plan"),
            ({"frame_of_reference_uid": "9.9"}, "dose_in_other_frame"),
            ({"summation": "BEAM", "beam_numbers": (7, 1)}, "beams_differ"),
        ],
    )
    def test_doses_that_do_not_belong_keep_the_verdict_outside(
        self, compute: Callable[..., Check], changes: dict[str, Any], code: str
    ) -> None:
        found = compute(planned_as(bump(), **changes))
        assert code in codes(found)
        assert found.verdict == "outside"
        assert found.reasons[0] == next(one.text for one in found.findings if one.code == code)

    def test_a_cut_target_is_said(self, compute: Callable[..., Check]) -> None:
        grid = Grid((-5.9, -5.9, -0.9), (0.2, 0.2, 0.2), (30, 60, 60))
        found = compute(planned_as(bump(grid=grid)))
        assert found.verdict == "outside"
        assert "'PTV' reaches 5 mm beyond the grid of the planned dose: the target is cut" in found.reasons[0]

    def test_coarse_grids_are_said_for_large_fractions_only(self, compute: Callable[..., Check]) -> None:
        grid = Grid((-5.75, -5.75, -5.75), (0.25, 0.25, 0.25), (47, 47, 47))
        assert "grid_coarse" in codes(compute(planned_as(bump(grid=grid))))
        many = plan_of(fractions=10)
        assert "grid_coarse" not in codes(compute(planned_as(bump(grid=grid)), plan=many))
        assert "grid_coarse" not in codes(compute(planned_as(bump())))

    def test_structures_empty_or_off_the_ct(self, compute: Callable[..., Check]) -> None:
        more = structure_set(Structure(8, "Old"), ball(9, "CTV", "CTV", (5.0, 0, 0), 1.5))
        found = compute(planned_as(bump()), structures=more)
        assert {"structure_empty", "structure_off_ct"} <= codes(found)
        off = next(one for one in found.findings if one.code == "structure_off_ct" and one.structure == "CTV")
        assert off.severity == "problem"
        assert found.verdict == "outside"
        old = next(one for one in found.found if one.name == "Old")
        assert old.role == "other" and old.doubt == "it has no contours"

    def test_an_empty_cord_of_the_same_name_changes_nothing(self, compute: Callable[..., Check]) -> None:
        usual = compute(planned_as(bump()))
        for more in ((Structure(9, "SpinalCord", "ORGAN"),), ()):
            drawn = structure_set(*more)
            if not more:
                drawn = replace(drawn, structures=(Structure(9, "SpinalCord", "ORGAN"), *drawn.structures))
            found = compute(planned_as(bump()), structures=drawn)
            assert found.quality[0].as_dict() == usual.quality[0].as_dict()
            assert found.reasons == usual.reasons
            assert not {"structure_empty", "structure_not_judged"} & codes(found)
            cord = found.structure("SpinalCord")
            assert cord is not None and cord.contours_cm
            parts = {part.structure: part.points for part in found.gammas[0].structures if part.points}
            assert "SpinalCord" in parts

    def test_an_empty_organ_of_the_same_name_changes_no_role(self) -> None:
        drawn = structure_set(Structure(9, "Liver", "ORGAN"))
        assert roles_of(drawn)["Liver"] == "organ"

    @pytest.mark.parametrize(
        ("lost", "severity", "verdict"),
        [
            (Structure(9, "CTV", "CTV"), "attention", "within"),
            (Structure(9, "SpinalCord_PRV"), "attention", "within"),
            (Structure(9, "CTV", "CTV", unread="they are open lines"), "problem", "outside"),
            (Structure(2, "GTV", "GTV"), "problem", "outside"),  # that the dose is prescribed to
        ],
    )
    def test_targets_and_cords_that_were_not_judged(
        self, compute: Callable[..., Check], lost: Structure, severity: str, verdict: str
    ) -> None:
        drawn = tuple(one for one in structure_set().structures if one.number != lost.number)
        more = () if lost.number != 2 else (ball(10, "PTV", "PTV", (0, 0, 0), 1.5),)
        found = compute(planned_as(bump()), structures=replace(structure_set(), structures=(*drawn, *more, lost)))
        said = next(one for one in found.findings if one.code == "structure_not_judged")
        assert (said.severity, said.structure) == (severity, lost.name)
        assert found.reasons[0] == said.text
        assert (found.verdict, found.unjudged) == (verdict, f"nothing was judged of '{lost.name}'")
        jsonschema.validate(found.as_dict(), schema())

    def test_a_prescription_to_nothing_in_particular_makes_no_problem(self, compute: Callable[..., Check]) -> None:
        drawn = structure_set(Structure(0, "CTV", "CTV"))
        plan = plan_of(prescriptions=(PrescribedDose(PRESCRIBED, "all", 0),))
        assert compute(planned_as(bump()), structures=drawn, plan=plan).verdict == "within"

    def test_without_any_target_it_says_so_first(self, compute: Callable[..., Check]) -> None:
        drawn = tuple(one for one in structure_set().structures if one.name != "PTV")
        found = compute(planned_as(bump()), structures=replace(structure_set(), structures=drawn))
        assert found.verdict == "within" and found.unjudged == "no target was judged"
        assert found.reasons[0].startswith("No structure was taken for a target")
        assert "no target was judged" in content_of(found).summary
        empty = replace(structure_set(), structures=(*drawn, Structure(8, "PTV", "PTV")))
        found = compute(planned_as(bump()), structures=empty)
        assert found.unjudged == "no target was judged and nothing was judged of 'PTV'"
        assert "No target was judged: none has contours that can be used." in found.reasons

    def test_without_structures(self, compute: Callable[..., Check]) -> None:
        found = compute(planned_as(bump()), structures=None, plan=plan_of(structure_set_uid=""))
        assert "no_structures" in codes(found)
        assert found.found == () and found.evaluation is None
        assert found.verdict == "within"
        jsonschema.validate(found.as_dict(), schema())

    @pytest.mark.parametrize(
        ("system", "stated", "code", "severity"),
        [
            ("Acuros XB 15.6", "", "dose_convention_differs", "attention"),
            ("", "medium", "dose_convention_differs", "attention"),
            ("AAA", "", "dose_convention_unknown", "information"),
        ],
    )
    def test_the_convention_of_the_planned_dose(
        self, compute: Callable[..., Check], system: str, stated: str, code: str, severity: str
    ) -> None:
        found = compute(planned_as(bump(), system=system), planned_dose_to=stated)
        assert next(one for one in found.findings if one.code == code).severity == severity
        same = compute(planned_as(bump(), system=system), planned_dose_to="medium", dose_to="medium")
        assert not {"dose_convention_differs", "dose_convention_unknown"} & codes(same)

    def test_one_fraction_against_all(self, compute: Callable[..., Check]) -> None:
        found = compute(planned_as(bump(scale=0.5)), bump())
        assert "fractions_factor" in codes(found)
        assert "2 times" in next(one.text for one in found.findings if one.code == "fractions_factor")

    def test_saturated_numbers_and_hardware_beside_the_cord(self) -> None:
        values = np.zeros(GRID.shape, np.int16)
        z, y, x = (round(float(i)) for i in GRID.indices_of((0.5, 3.5, 0.0)))
        values[z, y, x] = 3071
        ct = replace(ct_image(), hu=Volume(GRID, values), saturated_voxels=1)
        said = of_matter(plan_of(), ct, structure_set(), read_curve("generic"), (), "")
        assert {"saturated_hu", "hardware_near"} <= {one.code for one in said}
        assert "from 'SpinalCord'" in next(one.text for one in said if one.code == "saturated_hu")
        clean = of_matter(plan_of(), ct_image(), structure_set(), read_curve("generic"), (), "")
        assert {"saturated_hu", "hardware_near"}.isdisjoint({one.code for one in clean})

    def test_doses_that_do_not_meet_are_never_within(self, compute: Callable[..., Check]) -> None:
        far = Grid((30.0, 30.0, 30.0), (0.2, 0.2, 0.2), (60, 60, 60))
        found = compute(planned_as(Volume(far, bump().values)))
        assert "gamma_not_computed" in codes(found)
        assert found.verdict == "outside"
        jsonschema.validate(found.as_dict(), schema())

    def test_a_zero_dose(self, compute: Callable[..., Check]) -> None:
        found = compute(planned_as(Volume(GRID, np.zeros(GRID.shape, np.float32))))
        assert "dose_is_zero" in codes(found)
        assert found.verdict == "outside"

    def test_how_near_difficult_matter_lies_is_in_the_json(self, compute: Callable[..., Check]) -> None:
        found = compute(planned_as(bump()))
        info = replace(found.dose.metadata, saturated_near=(("PTV", 0.3),), dense_near=(("metal", "SpinalCord", 0.5),))
        content = replace(found, dose=replace(found.dose, metadata=info)).as_dict()
        assert content["calculation"]["saturated_near"] == [{"structure": "PTV", "distance_cm": 0.3}]
        dense = {"matter": "metal", "structure": "SpinalCord", "distance_cm": 0.5}
        assert content["calculation"]["dense_near"] == [dense]
        jsonschema.validate(content, schema())

    def test_in_one_line_it_has_the_verdict_and_its_reason(self, compute: Callable[..., Check]) -> None:
        found = compute(planned_as(bump()))
        assert repr(found) == f"<Check of '{found.names.plan_label}': {found.verdict}; {found.reasons[0]}>"
        assert repr(found.planned).startswith("<PlannedDose, ") and "\n" not in repr(found.planned)

    def test_another_patient_is_a_problem_and_stands_in_no_sentence(self, compute: Callable[..., Check]) -> None:
        ct = replace(ct_image(), identity=Identity("Roe^Rita", "987654"))
        found = compute(planned_as(bump()), ct=ct)
        (one,) = [one for one in found.findings if one.code == "other_patient"]
        assert one.severity == "problem" and found.verdict == "outside" and found.reasons[0] == one.text
        assert "The CT is of another patient than the plan" in one.text
        assert not any(secret in one.text for secret in ("Roe", "987654", "Doe", "123456"))
        assert found.as_dict()["names"]["others"] == [{"of": "CT", "patient_name": "Roe^Rita", "patient_id": "987654"}]
        jsonschema.validate(found.as_dict(), schema())
        nobody = found.anonymous()
        assert "987654" not in nobody.to_json() and nobody.names.others == ()
        assert nobody.ct.identity == Identity()

    def test_another_name_is_only_said(self, compute: Callable[..., Check]) -> None:
        regions = replace(structure_set(), identity=Identity("Doe^Janet", "123456"))
        found = compute(planned_as(bump(), identity=Identity("DOE^JANE^^", "123456 ")), structures=regions)
        (one,) = [one for one in found.findings if "patient" in one.code]
        assert (one.code, one.severity, found.verdict) == ("patient_names_differ", "attention", "within")
        assert "The structure set is of a patient with another name" in one.text

    def test_the_dose_of_another_patient_among_those_of_beams(self) -> None:
        plan = plan_of(beams=(beam_of(number=1), beam_of(number=2)))
        one, two = (planned_as(bump(), summation="BEAM", beam_numbers=(n,)) for n in (1, 2))
        total, _ = planned_of([one, replace(two, identity=Identity(patient_id="7"))], plan)
        assert total is not None and total.identity.patient_id == "7"

    def test_a_plan_and_a_ct_in_other_positions(self, compute: Callable[..., Check]) -> None:
        found = compute(planned_as(bump()), plan=plan_of(patient_position="HFP"))
        (one,) = [one for one in found.findings if one.code == "positions_differ"]
        assert one.severity == "problem" and found.verdict == "outside"
        assert "position HFP, the CT shows him in HFS" in one.text

    def test_coarse_voxels_are_said_before_the_plan_is_doubted(self, compute: Callable[..., Check]) -> None:
        planned, ours = planned_as(bump()), bump((0.0, 0.3, 0.0))
        coarse = compute(planned, ours, fine=None)
        (one,) = [one for one in coarse.findings if one.code == "voxels_coarse"]
        assert one.severity == "attention"
        assert "voxels of 2.5 mm at 'PTV', 'SpinalCord', coarse for 10 Gy a fraction" in one.text
        assert coarse.reasons[0] == one.text
        assert "voxels_coarse" not in codes(compute(planned, ours))
        assert "voxels_coarse" not in codes(compute(planned, ours, fine=None, spacing_cm=0.2))
        assert "at 'SpinalCord'," in next(
            f.text for f in compute(planned, ours, fine=["PTV"], structures=far_cord()).findings
            if f.code == "voxels_coarse"
        )  # fmt: skip

    def test_voxels_as_wide_as_the_cord_are_coarse_at_any_dose(self, compute: Callable[..., Check]) -> None:
        wide = StructureSet((ball(1, "PTV", "PTV", (0, 0, 0), 3.0), ball(2, "Cord", "", (0, 4.2, 0), 0.6)))
        many = plan_of(fractions=30, structure_set_uid="")
        found = compute(planned_as(bump()), structures=wide, plan=many, spacing_cm=0.5, fine=None)
        assert "voxels of 5 mm at 'Cord': near-maxima" in next(
            one.text for one in found.findings if one.code == "voxels_coarse"
        )
        assert "voxels_coarse" not in codes(compute(planned_as(bump()), structures=wide, plan=many, spacing_cm=0.25))

    def test_contours_without_slices(self, compute: Callable[..., Check]) -> None:
        grid = Grid((-5.9, -5.9, -5.8), (0.2, 0.2, 0.4), (30, 60, 60))  # contours lie on 0.2 cm
        sparse = replace(ct_image(), hu=Volume(grid, np.zeros(grid.shape, np.int16)))
        text = next(
            one.text for one in compute(planned_as(bump()), ct=sparse).findings if one.code == "contours_between_slices"
        )
        assert "contour planes have no CT slice (slices are 4 mm apart)" in text
        full = Grid((-5.9, -5.9, -5.8), (0.2, 0.2, 0.2), (59, 60, 60))
        whole = replace(ct_image(), hu=Volume(full, np.zeros(full.shape, np.int16)))
        assert "contours_between_slices" not in codes(compute(planned_as(bump()), ct=whole))

    def test_beams_left_out_are_no_fractions(self, compute: Callable[..., Check]) -> None:
        half = compute(planned_as(bump()), bump(scale=0.5), plan=plan_of(skipped=("Beam 2 was not asked for",)))
        assert "beams_left_out" in codes(half)
        assert not {"fractions_factor", "scaled", "shifted", "other_shape"} & codes(half)

    def test_doses_that_were_passed_over_are_said(self) -> None:
        notes = ("A structure set was taken.", "1 dose(s) belong to other plans and were passed over.")
        text = of_missing_dose(notes, are_points_judged=False).text
        assert text.endswith("nothing was compared. 1 dose(s) belong to other plans and were passed over.")


class TestPrescription:
    def test_given_beats_the_plan(self, compute: Callable[..., Check]) -> None:
        found = compute(planned_as(bump()), prescription_gy=18.0)
        assert (found.prescription.dose_gy, found.prescription.source) == (18.0, "argument")
        assert "the plan says 20 Gy" in found.prescription.text

    def test_estimated_with_a_word(self, compute: Callable[..., Check]) -> None:
        found = compute(planned_as(bump()), plan=plan_of(prescriptions=()))
        assert found.prescription.source == "planned dose"
        pair = found.of_role("target")[0].metric("D95%[Gy]")
        assert pair is not None and found.prescription.dose_gy == pytest.approx(pair.planned)
        assert "prescription_estimated" in codes(found)

    def test_unknown_is_not_judged(self, compute: Callable[..., Check]) -> None:
        found = compute(None, plan=plan_of(prescriptions=()))
        assert not found.prescription.is_known
        assert found.as_dict()["prescription"]["dose_gy"] is None

    def test_one_of_a_single_fraction_is_doubted(self, compute: Callable[..., Check]) -> None:
        assert "prescription_unlike_planned" in codes(compute(planned_as(bump()), prescription_gy=10.0))

    @pytest.mark.parametrize("wrong", [0.0, -1.0, math.nan])
    def test_nonsense_is_refused(self, compute: Callable[..., Check], wrong: float) -> None:
        with pytest.raises(InvalidInput, match="a prescribed dose is positive"):
            compute(None, prescription_gy=wrong)


class TestRoles:
    def test_by_type_and_name(self) -> None:
        more = (ball(5, "Couch", "SUPPORT", (0, 0, 0), 1.0), ball(6, "PRV_Cord", "", (0, 2, 0), 0.8),
                ball(7, "Rods", "", (0, 3, 0), 0.5, relative_mass_density=4.5), Structure(8, "Empty"))  # fmt: skip
        roles = roles_of(structure_set(*more))
        assert roles == {
            "BODY": "body", "PTV": "target", "SpinalCord": "cord", "Liver": "organ", "Couch": "support",
            "PRV_Cord": "cord", "Rods": "other", "Empty": "other",
        }  # fmt: skip

    def test_the_user_may_say_which_is_the_cord(self, compute: Callable[..., Check]) -> None:
        found = compute(planned_as(bump()), chosen={"SpinalCord": "Liver"})
        assert {one.name for one in found.of_role("cord")} == {"SpinalCord", "Liver"}

    def test_fine_voxels_where_they_are_worth_it(self) -> None:
        regions = structure_set()
        roles = roles_of(regions)
        box, why = fine_box(regions, roles, 10.0, 0.25)
        assert box is not None and box.factor == 2 and why == "10 Gy a fraction"
        assert box.upper_cm[1] == pytest.approx(2.8 + 1.5, abs=0.05)  # the cord is in it
        assert box.lower_cm[1] == pytest.approx(-1.5 - 1.5, abs=0.05)
        assert fine_box(regions, roles, 2.0, 0.25)[0] is not None  # a small target
        assert fine_box(regions, roles, 10.0, 0.125)[0] is None  # fine everywhere
        large = StructureSet((ball(1, "PTV", "PTV", (0, 0, 0), 3.0),))
        assert fine_box(large, roles_of(large), 2.0, 0.25)[0] is None
        huge = StructureSet((ball(1, "PTV", "PTV", (0, 0, 0), 9.0),))
        assert "more than" in fine_box(huge, roles_of(huge), 10.0, 0.25)[1]


class TestPatterns:
    def test_a_factor_and_a_shift_are_found_together(self) -> None:
        found = find_pattern(bump(), bump((0.1, -0.2, 0.05), scale=1.04))
        assert found.rms_after_both_percent < 0.1 * found.rms_percent
        assert found.factor_with_shift == pytest.approx(1.04, abs=0.003)

    def test_a_shift_of_2_mm_is_found_within_a_tenth(self) -> None:
        found = find_pattern(bump(), bump((0.0, 0.2, 0.0)))
        assert found.shift_cm == pytest.approx((0.0, 0.2, 0.0), abs=0.02)
        assert found.explained(found.rms_after_shift_percent)

    def test_small_differences_are_not_explained(self) -> None:
        assert list(explain(find_pattern(bump(), bump(scale=1.005)), 2, ())) == []

    def test_another_shape_is_called_so(self) -> None:
        x, y, z = GRID.axes_cm
        r2 = 1.5 * x**2 + y[:, None] ** 2 / 1.5 + z[:, None, None] ** 2
        flat = Volume(GRID, (1.1 * PRESCRIBED * np.exp(-r2 / 11)).astype(np.float32))
        (one,) = explain(find_pattern(bump(), flat), 2, ())
        assert one.code == "other_shape" and one.text.endswith("and doses on voxels of other sizes.")
        (one,) = explain(find_pattern(bump(), flat), 2, (), are_voxels_coarse=True)
        assert one.text.index("Compute with finer voxels first") < one.text.index("leaf positions")


class TestPlannedDoses:
    def test_beams_are_added_up_and_empty_ones_left_out(self) -> None:
        plan = plan_of(beams=(beam_of(number=1), beam_of(number=2)))
        one, two = (planned_as(bump(scale=s), summation="BEAM", beam_numbers=(n,)) for n, s in ((1, 0.5), (2, 0.25)))
        nothing = planned_as(bump(scale=0.0), summation="BEAM", beam_numbers=(1,))
        strange = planned_as(bump(), summation="BEAM", beam_numbers=(9,))
        total, notes = planned_of([one, nothing, two, strange], plan)
        assert total is not None and total.beam_numbers == (1, 2)
        np.testing.assert_allclose(total.dose.values, 0.75 * bump().values, rtol=1e-5)
        assert len(notes) == 3
        with pytest.raises(InvalidInput, match="two planned doses of beam 1"):
            planned_of([one, one], plan)
        with pytest.raises(InvalidInput, match="can be added up"):
            planned_of([one, planned_as(bump())], plan)


class TestJson:
    def test_the_schema_holds_for_real_output(self, compute: Callable[..., Check]) -> None:
        found = compute(planned_as(bump()), bump(scale=1.05))
        content = found.as_dict()
        jsonschema.validate(content, schema())
        assert content["schema_version"] == schema()["properties"]["schema_version"]["const"]
        assert json.loads(found.to_json()) == content
        text = found.to_json()
        assert "NaN" not in text and "Infinity" not in text

    def test_the_schema_is_strict(self, compute: Callable[..., Check]) -> None:
        content = compute(planned_as(bump())).as_dict()
        for spoil in ({"verdict": "approved"}, {"more": 1}, {"reasons": []}, {"schema_version": 2}):
            with pytest.raises(jsonschema.ValidationError):
                jsonschema.validate(content | spoil, schema())

    def test_arrays_are_left_out(self, compute: Callable[..., Check]) -> None:
        assert len(compute(planned_as(bump())).to_json()) < 300_000

    def test_anonymous_leaves_nobody(self, compute: Callable[..., Check]) -> None:
        found = compute(planned_as(bump(), warnings=("RTDOSE 'Doe_dose.dcm' is odd.",)), bump(scale=1.05))
        assert "Doe" in found.to_json() and "123456" in found.to_json()
        text = found.anonymous().to_json()
        for secret in ("Doe", "Jane", "123456", "1.2.5", "1.2.3", "1.2.6"):
            assert secret not in text, secret
        jsonschema.validate(json.loads(text), schema())
        assert found.anonymous().plan.identity == Identity()

    def test_labels_stay_though_they_are_the_patients_name(self, compute: Callable[..., Check]) -> None:
        plan = plan_of(identity=Identity(patient_name="Liver^Test", patient_id="7"))
        found = compute(planned_as(bump()), bump(scale=1.05), plan=plan).anonymous()
        assert any(one.name == "Liver" for one in found.found)
        assert not any("anonymous" in reason for reason in found.reasons)

    def test_nobody_is_logged(self, compute: Callable[..., Check], caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level("DEBUG"):
            compute(planned_as(bump()))
        assert "Doe" not in caplog.text and "123456" not in caplog.text


# ------------------------------------------------------------------------------------------------- the demo, end to end

COARSE = {"spacing_cm": 0.5, "fine": None, "settings": sd.Settings(directions=128), "causes": False}


def test_missing_matter_is_found(compute: Callable[..., Check]) -> None:
    """What the calculation says is missing becomes a finding of its gravity."""
    missing = (Missing("beams_through_ends", "Some.", is_grave=False), Missing("body_has_void", "Air.", is_grave=True))
    found = compute(planned_as(bump()), missing=missing)
    severities = {one.code: one.severity for one in found.findings}
    assert severities["beams_through_ends"] == "attention" and severities["body_has_void"] == "problem"
    assert found.verdict == "outside" and "Air." in found.reasons


@pytest.fixture(scope="module")
def case() -> demo.DemoCase:
    return demo.demo_case()


@pytest.fixture(scope="module")
def planned(case: demo.DemoCase) -> PlannedDose:
    """The demo's own dose on voxels of 5 mm, which stands for that of a planning system."""
    dose = sd.compute_dose(
        case.plan, case.ct, structures=case.structures, spacing_cm=0.5, settings=sd.Settings(directions=128)
    )
    return PlannedDose(dose.volume, plan_uid=case.plan.uid)


@pytest.fixture(scope="module")
def checked(case: demo.DemoCase, planned: PlannedDose) -> Iterator[Check]:
    yield sd.check(plan=case.plan, ct=case.ct, structures=case.structures, dose=planned, **COARSE)


def test_the_demo_is_within(checked: Check) -> None:
    assert checked.verdict == "within", checked.reasons
    assert checked.prescription.source == "plan"
    jsonschema.validate(checked.as_dict(), schema())
    assert {"grid_coarse", "hardware_near", "couch_missing"} <= codes(checked)


def test_a_planted_meterset_is_found_in_the_demo(case: demo.DemoCase, planned: PlannedDose) -> None:
    plan = replace(case.plan, beams=tuple(replace(b, meterset_mu=1.03 * b.meterset_mu) for b in case.plan.beams))
    found = sd.check(plan=plan, ct=case.ct, structures=case.structures, dose=planned, **COARSE)
    assert found.verdict == "outside"
    assert "+3.0 % off as a whole" in next(one.text for one in found.findings if one.code == "scaled")


def test_a_plan_alone_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"There is no plan to check .* Name it with `plan`"):
        sd.check()
    with pytest.raises(InvalidInput, match="There is no CT"):
        sd.check(plan=plan_of())
    with pytest.raises(InvalidInput, match="water or medium"):
        sd.check(plan=plan_of(), ct=ct_image(), planned_dose_to="air")


def test_files_are_hashed_and_no_folder_is_named(case: demo.DemoCase, planned: PlannedDose, tmp_path: Path) -> None:
    from spinedose.check.inputs import gather

    files = demo.write_demo(tmp_path, case)
    found = gather(None, files.plan, files.ct, files.structures, planned)
    assert [one.kind for one in found.files] == ["RTPLAN", "RTSTRUCT", "CT"]
    assert all(len(one.sha256) == 64 and "/" not in one.name for one in found.files)
    again = gather(tmp_path, None, None, None, None)
    assert [one.sha256 for one in again.files] == [one.sha256 for one in found.files]
    assert again.planned is None
