"""Conformance of the RTPLAN reader: synthetic plans for what readers get wrong, each with values worked out by hand."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset

from spinedose.dicom.plan import read_plan, write_plan
from spinedose.errors import InvalidInput, SpinedoseError, UnreadableFile, UnsupportedPlan
from spinedose.plan import Beam, Identity, Plan

from . import synthetic as syn

EXACT = 1e-12  # what a decimal string of 16 characters can lose, relative


def read(dataset: Dataset, folder: Path, **arguments: object) -> Plan:
    return read_plan(syn.save(dataset, folder / "plan.dcm"), **arguments)  # type: ignore[arg-type]


def one_beam(dataset: Dataset, folder: Path, **arguments: object) -> Beam:
    (beam,) = read(dataset, folder, **arguments).beams
    return beam


def refusal(dataset: Dataset, folder: Path, kind: type[SpinedoseError], **arguments: object) -> str:
    with pytest.raises(kind) as caught:
        read(dataset, folder, **arguments)
    return str(caught.value)


# ----------------------------------------------------------------------------------------------------- what is read


def test_reads_a_static_field_in_cm(tmp_path: Path) -> None:
    plan = read(syn.plan(), tmp_path)
    (beam,) = plan.beams
    assert (beam.number, beam.name, beam.machine, beam.energy, beam.meterset_mu) == (1, "beam 1", "LINAC", "6X", 100)
    np.testing.assert_array_equal(beam.cumulative_meterset, [0, 1])
    np.testing.assert_array_equal(beam.isocentre_cm, [1, 2, -3])
    np.testing.assert_array_equal(beam.jaw_x_cm, [[-5, 5], [-5, 5]])
    np.testing.assert_array_equal(beam.jaw_y_cm, [[-4, 4], [-4, 4]])
    np.testing.assert_array_equal(beam.leaf_boundaries_cm, [-2, -1, 0, 1, 2])
    np.testing.assert_array_equal(beam.leaf_cm, np.tile([[-4.0] * 4, [3.0] * 4], (2, 1, 1)))
    assert beam.leaf_axis == "x" and not beam.is_arc
    assert (plan.label, plan.patient_position, plan.fractions) == ("test", "HFS", 5)
    assert (plan.uid, plan.frame_of_reference_uid, plan.structure_set_uid) == ("1.2.3.4", "1.2.3.5", "1.2.3.6")
    assert plan.skipped == () and plan.warnings == ()


def test_reads_the_identity(tmp_path: Path) -> None:
    assert read(syn.plan(), tmp_path).identity == Identity(
        patient_name="Doe^Phantom",
        patient_id="P1",
        patient_birth_date="20000101",
        patient_sex="O",
        study_instance_uid="1.2.3",
        study_id="S1",
        study_date="20240102",
        study_time="030405",
        accession_number="A1",
    )


def test_reads_a_file_without_preamble_and_meta(tmp_path: Path) -> None:
    plan = read_plan(syn.save(syn.plan(), tmp_path / "bare.dcm", bare=True))
    np.testing.assert_array_equal(plan.beams[0].isocentre_cm, [1, 2, -3])


def test_each_beam_has_its_own_meterset_and_isocentre(tmp_path: Path) -> None:
    """Trap: the first beam's meterset or isocentre used for all; the fraction group lists beams in another order."""
    second = syn.beam(
        2,
        [
            syn.first_point(
                syn.position("ASYMX", -10, 10),
                syn.position("ASYMY", -10, 10),
                syn.leaves(-9, 9),
                IsocenterPosition=["-5", "0", "310"],
            ),
            syn.point(1, 1),
        ],
    )
    plan = read(
        syn.plan(syn.beam(7), second, references=[syn.meterset(2, 33.5), syn.meterset(7, 210.25)]),
        tmp_path,
    )
    assert [beam.number for beam in plan.beams] == [7, 2]
    assert [beam.meterset_mu for beam in plan.beams] == [210.25, 33.5]
    np.testing.assert_array_equal(plan.beams[0].isocentre_cm, [1, 2, -3])
    np.testing.assert_array_equal(plan.beams[1].isocentre_cm, [-0.5, 0, 31])
    assert plan.total_mu == 243.75


def test_everything_is_inherited_across_control_points(tmp_path: Path) -> None:
    """Trap: jaws given only at the first control point; here leaves at 0 and 2, jaw Y again at 3, gantry at 0 and 1."""
    points = [
        syn.first_point(
            syn.position("ASYMX", -50, 40),
            syn.position("ASYMY", -40, 30),
            syn.leaves(-40, 30),
            GantryAngle="10",
            GantryRotationDirection="CW",
            BeamLimitingDeviceAngle="30",
            PatientSupportAngle="350",
        ),
        syn.point(1, 0.25, GantryAngle="14", GantryRotationDirection="NONE"),
        syn.point(2, 0.5, syn.leaves(-20, 10)),
        syn.point(3, 1, syn.position("ASYMY", -20, 20)),
    ]
    beam = one_beam(syn.plan(syn.beam(points=points)), tmp_path)
    np.testing.assert_array_equal(beam.jaw_x_cm, [[-5, 4]] * 4)
    np.testing.assert_array_equal(beam.jaw_y_cm, [[-4, 3]] * 3 + [[-2, 2]])
    np.testing.assert_array_equal(beam.leaf_cm[:, 0, 0], [-4, -4, -2, -2])
    np.testing.assert_array_equal(beam.leaf_cm[:, 1, 3], [3, 3, 1, 1])
    np.testing.assert_array_equal(beam.gantry_deg, [10, 14, 14, 14])
    np.testing.assert_array_equal(beam.collimator_deg, [30] * 4)
    np.testing.assert_array_equal(beam.couch_deg, [350] * 4)


@pytest.mark.parametrize("declared", [("ASYMX", "ASYMY"), ("X", "Y"), ("ASYMX", "Y"), ("X", "ASYMY")])
@pytest.mark.parametrize("told", [("ASYMX", "ASYMY"), ("X", "Y"), ("X", "ASYMY")])
@pytest.mark.parametrize("y_first", [False, True])
def test_jaws_are_known_by_axis(
    tmp_path: Path, declared: tuple[str, str], told: tuple[str, str], y_first: bool
) -> None:
    """Trap: ASYMX and ASYMY ignored, X read as Y, the first device taken for X, ASYMY declared but Y told."""
    positions = [syn.position(told[0], -11, 22), syn.position(told[1], -33, 44)]
    points = [syn.first_point(*(positions[::-1] if y_first else positions)), syn.point(1, 1)]
    beam = one_beam(
        syn.plan(syn.beam(points=points, BeamLimitingDeviceSequence=syn.devices(*declared))),
        tmp_path,
    )
    np.testing.assert_allclose(beam.jaw_x_cm, [[-1.1, 2.2]] * 2, rtol=EXACT)
    np.testing.assert_allclose(beam.jaw_y_cm, [[-3.3, 4.4]] * 2, rtol=EXACT)
    assert beam.leaf_cm is None


def test_a_machine_without_x_jaw(tmp_path: Path) -> None:
    points = [syn.first_point(syn.position("ASYMY", -40, 40), syn.leaves(-40, 30)), syn.point(1, 1)]
    beam = one_beam(
        syn.plan(syn.beam(points=points, BeamLimitingDeviceSequence=syn.devices("ASYMY", "MLCX"))), tmp_path
    )
    assert beam.jaw_x_cm is None
    np.testing.assert_array_equal(beam.jaw_y_cm, [[-4, 4]] * 2)


def test_leaves_along_y_and_banks_in_order(tmp_path: Path) -> None:
    points = [
        syn.first_point(
            syn.position("X", -50, 50), syn.position("Y", -40, 40), syn.position("MLCY", -1, -2, -3, 4, 5, 6)
        ),
        syn.point(1, 1),
    ]
    declared = syn.devices("X", "Y", "MLCY", boundaries=(-30, -10, 10, 30))
    beam = one_beam(syn.plan(syn.beam(points=points, BeamLimitingDeviceSequence=declared)), tmp_path)
    assert beam.leaf_axis == "y"
    np.testing.assert_allclose(beam.leaf_cm[0], [[-0.1, -0.2, -0.3], [0.4, 0.5, 0.6]], rtol=EXACT)
    np.testing.assert_array_equal(beam.leaf_boundaries_cm, [-3, -1, 1, 3])


def test_couch_angle_and_missing_ssd(tmp_path: Path) -> None:
    """Traps: couch angle ignored; a plan without SourceToSurfaceDistance."""
    points = [
        syn.first_point(
            syn.position("ASYMX", -50, 50),
            syn.position("ASYMY", -40, 40),
            syn.leaves(-40, 30),
            PatientSupportAngle="270",
            SourceToSurfaceDistance=None,
        ),
        syn.point(1, 1),
    ]
    np.testing.assert_array_equal(one_beam(syn.plan(syn.beam(points=points)), tmp_path).couch_deg, [270, 270])


@pytest.mark.parametrize("final", [1, 100, 47.3])
def test_cumulative_weights_are_shares_of_the_final_weight(tmp_path: Path, final: float) -> None:
    """Trap: final cumulative weight other than 1."""
    points = [
        syn.first_point(syn.position("ASYMX", -50, 50), syn.position("ASYMY", -40, 40), syn.leaves(-40, 30)),
        syn.point(1, 0.25 * final, syn.leaves(-30, 30)),
        syn.point(2, 0.25 * final, syn.leaves(-10, 10)),
        syn.point(3, final, syn.leaves(0, 10)),
    ]
    beam = one_beam(syn.plan(syn.beam(points=points, FinalCumulativeMetersetWeight=str(final))), tmp_path)
    np.testing.assert_allclose(beam.cumulative_meterset, [0, 0.25, 0.25, 1], rtol=EXACT)
    assert beam.meterset_mu == 100


def test_a_final_weight_that_contradicts_is_refused(tmp_path: Path) -> None:
    text = refusal(syn.plan(syn.beam(FinalCumulativeMetersetWeight="100")), tmp_path, InvalidInput)
    assert "Beam 1 'beam 1' ends at cumulative meterset weight 1 instead of 100" in text


@pytest.mark.parametrize("position", ["HFS", "HFP", "FFS", "FFP"])
def test_patient_position(tmp_path: Path, position: str) -> None:
    """Trap: identity orientation assumed."""
    setups = [
        syn.item(PatientSetupNumber=4, PatientPosition="HFDR"),
        syn.item(PatientSetupNumber=1, PatientPosition=position),
    ]
    assert read(syn.plan(PatientSetupSequence=setups), tmp_path).patient_position == position


def test_patient_position_is_never_guessed(tmp_path: Path) -> None:
    dataset = syn.plan(PatientSetupSequence=None)
    assert "patient_position" in refusal(dataset, tmp_path, InvalidInput)
    assert read(dataset, tmp_path, patient_position="FFP").patient_position == "FFP"
    overruled = read(syn.plan(), tmp_path, patient_position="HFP")
    assert overruled.patient_position == "HFP" and "overruled" in overruled.warnings[0]
    decubitus = syn.plan(PatientSetupSequence=[syn.item(PatientSetupNumber=1, PatientPosition="HFDL")])
    assert "HFDL" in refusal(decubitus, tmp_path, UnsupportedPlan)


# ----------------------------------------------------------------------------------------------------------- angles


def arc(angles: list[float], directions: list[str], *, keyword: str = "Gantry", dynamic: bool = True) -> Dataset:
    angle = {"Gantry": "GantryAngle", "Collimator": "BeamLimitingDeviceAngle", "Couch": "PatientSupportAngle"}[keyword]
    direction = angle.replace("Angle", "RotationDirection")
    n = len(angles)
    told = [{angle: str(a), direction: d} if d else {angle: str(a)} for a, d in zip(angles, directions, strict=True)]
    points = [
        syn.first_point(syn.position("ASYMX", -50, 50), syn.position("ASYMY", -40, 40), syn.leaves(-40, 30), **told[0])
    ]
    points += [syn.point(k, k / (n - 1), **told[k]) for k in range(1, n)]
    return syn.plan(syn.beam(points=points, BeamType="DYNAMIC" if dynamic else "STATIC"))


@pytest.mark.parametrize(
    ("angles", "directions", "expected"),
    [
        ([181, 270, 0, 90, 179], ["CW", "CW", "CW", "CW", "NONE"], [181, 270, 360, 450, 539]),
        ([179, 90, 0, 270, 181], ["CC", "", "", "", "NONE"], [179, 90, 0, -90, -179]),
        ([170, 190], ["CW", "NONE"], [170, 190]),
        ([170, 190], ["CC", "NONE"], [170, -170]),
        ([350, 10], ["CW", "NONE"], [350, 370]),
        ([180, 300, 60, 180], ["CW", "CW", "CW", "NONE"], [180, 300, 420, 540]),
        ([180, 60, 300, 180], ["CC", "CC", "CC", "NONE"], [180, 60, -60, -180]),
        ([180, 180], ["CW", "NONE"], [180, 540]),
        ([0, 0], ["CC", "NONE"], [0, -360]),
        ([180.1, 179.9], ["CW", "NONE"], [180.1, 539.9]),
        ([10, 50, 20], ["CW", "CC", "NONE"], [10, 50, 20]),
        ([40, 40, 60], ["CW", "CW", "NONE"], [40, 40, 60]),
        ([40.0, 39.98, 60], ["CW", "CW", "NONE"], [40, 39.98, 60]),
        ([-179, -90, 0], ["CW", "CW", "NONE"], [181, 270, 360]),
        ([100, 99.9, 100], ["CW", "CW", "NONE"], [100, 99.9, 100]),
        ([100, 99.9, 99.9], ["CW", "CW", "NONE"], [100, 99.9, 99.9]),
        ([100, 101, 98, 96], ["CC", "CC", "CC", "NONE"], [100, 101, 98, 96]),
        ([0, 350, 0], ["CW", "CW", "NONE"], [0, 350, 360]),
    ],
)
def test_gantry_angles_follow_the_direction(
    tmp_path: Path, angles: list[float], directions: list[str], expected: list[float]
) -> None:
    """Arcs through 180 and 0, full turns that end where they start, turning back, standing still, rounding."""
    beam = one_beam(arc(angles, directions), tmp_path)
    np.testing.assert_allclose(beam.gantry_deg, expected, atol=1e-9)


def test_a_static_beam_does_not_turn_fully(tmp_path: Path) -> None:
    assert not one_beam(arc([180, 180], ["CW", "NONE"], dynamic=False), tmp_path).is_arc
    assert not one_beam(without_second_angle(arc([180, 180], ["CW", "NONE"], dynamic=False)), tmp_path).is_arc
    assert not one_beam(without_second_angle(arc([180, 180], ["NONE", "NONE"])), tmp_path).is_arc


def without_second_angle(dataset: Dataset) -> Dataset:
    del dataset.BeamSequence[0].ControlPointSequence[1].GantryAngle
    return dataset


def test_a_direction_to_no_angle_is_refused(tmp_path: Path) -> None:
    """Trap: an arc of two control points whose second angle got lost, computed as a static field."""
    text = refusal(without_second_angle(arc([180, 180], ["CC", "NONE"])), tmp_path, InvalidInput)
    assert "turns the gantry (CC), but does not say to which angle" in text


def test_a_step_back_is_a_warning(tmp_path: Path) -> None:
    (warning,) = read(arc([100, 99.6, 110, 109.9, 120], ["CW"] * 4 + ["NONE"]), tmp_path).warnings
    assert warning.startswith("Beam 1 'beam 1' turns the gantry back by up to 0.4 degrees against the direction")
    assert read(arc([100, 99.98, 110], ["CW", "CW", "NONE"]), tmp_path).warnings == ()
    back = read(arc([20, 20.5, 10], ["CW", "CW", "NONE"], keyword="Collimator"), tmp_path)
    assert "turns the collimator back" in back.warnings[0]


def test_a_beam_that_radiates_in_one_segment_may_turn_nearly_fully_in_it(tmp_path: Path) -> None:
    dataset = arc([180.1, 179.9, 179.9], ["CW", "NONE", "NONE"])
    dataset.BeamSequence[0].ControlPointSequence[1].CumulativeMetersetWeight = "1"
    np.testing.assert_allclose(one_beam(dataset, tmp_path).gantry_deg, [180.1, 539.9, 539.9])


@pytest.mark.parametrize("keyword", ["Collimator", "Couch"])
def test_collimator_and_couch_rise_counterclockwise(tmp_path: Path, keyword: str) -> None:
    """The collimator angle rises counterclockwise seen from the source, the couch angle seen from above (IEC 61217)."""
    beam = one_beam(arc([350, 10, 20], ["CC", "CC", "NONE"], keyword=keyword), tmp_path)
    np.testing.assert_allclose(beam.collimator_deg if keyword == "Collimator" else beam.couch_deg, [350, 370, 380])
    beam = one_beam(arc([10, 350], ["CW", "NONE"], keyword=keyword), tmp_path)
    np.testing.assert_allclose(beam.collimator_deg if keyword == "Collimator" else beam.couch_deg, [10, -10])
    text = refusal(arc([10, 20], ["CW", "NONE"], keyword=keyword), tmp_path, InvalidInput)
    assert "CW contradicts the angles" in text and keyword.lower() in text


@pytest.mark.parametrize(
    ("angles", "directions", "words"),
    [
        ([10, 20], ["NONE", "NONE"], "without saying in which direction"),
        ([10, 20], ["", ""], "without saying in which direction"),
        ([10, 40, 30, 60], ["CW", "CW", "CW", "NONE"], "no machine can"),
        ([10, 8, 10], ["CW", "CW", "NONE"], "by 358 degrees at control point 0 (direction CW contradicts"),
        ([10, 20], ["CCW", "NONE"], "rotation direction 'CCW'"),
        ([10, 720], ["CW", "NONE"], "beyond one turn"),
    ],
)
def test_contradicting_rotations_are_refused(
    tmp_path: Path, angles: list[float], directions: list[str], words: str
) -> None:
    dataset = arc(angles, directions)
    if directions == ["", ""]:
        del dataset.BeamSequence[0].ControlPointSequence[0].GantryRotationDirection
    assert words in refusal(dataset, tmp_path, InvalidInput)


# ------------------------------------------------------------------------------------------------------ beams left out


def test_beams_without_dose_are_skipped_with_the_reason(tmp_path: Path) -> None:
    setup = syn.beam(2, TreatmentDeliveryType="SETUP", RadiationType="")
    film = syn.beam(3, TreatmentDeliveryType="TRMT_PORTFILM", FinalCumulativeMetersetWeight="100")
    field = syn.beam(4)
    stray = syn.beam(5)
    references = [syn.meterset(1, 50), syn.meterset(2, None), syn.meterset(3, 2), syn.meterset(4, None)]
    plan = read(syn.plan(syn.beam(1), setup, film, field, stray, references=references), tmp_path)
    assert [beam.number for beam in plan.beams] == [1]
    assert plan.skipped == (
        "Beam 2 'beam 2' is a setup beam",
        "Beam 3 'beam 3' is a treatment port film",
        "Beam 4 'beam 4' has no meterset",
        "Beam 5 'beam 5' is not in fraction group 1",
    )
    assert plan.warnings == ("Beam 3 'beam 3' is a treatment port film with 2 MU; its dose is left out.",)


def test_treatment_beams_without_meterset_are_told_from_setup_fields(tmp_path: Path) -> None:
    """Eclipse wrote setup fields as static treatment beams without leaves and meterset (eclipse_thorax_imrt)."""
    setup = syn.beam(2, BeamName="CBCT", BeamLimitingDeviceSequence=syn.devices("X", "Y"))
    lost = syn.beam(3, BeamName="Boost")
    moving = syn.beam(4, BeamType="DYNAMIC", BeamLimitingDeviceSequence=syn.devices("X", "Y"))
    references = [syn.meterset(1, 50), *(syn.meterset(n, None) for n in (2, 3, 4))]
    dataset = syn.plan(syn.beam(1), setup, lost, moving, references=references)
    assert read(dataset, tmp_path).without_meterset == ("Beam 3 'Boost'", "Beam 4 'beam 4'")
    assert read(dataset, tmp_path, beams=[1]).without_meterset == ()
    assert "Beam 3 'Boost' cannot be computed (it has no meterset)" in refusal(
        dataset, tmp_path, InvalidInput, beams=[1, 3]
    )


def test_a_beam_of_no_meterset_adds_nothing(tmp_path: Path) -> None:
    dataset = syn.plan(syn.beam(1), syn.beam(2), references=[syn.meterset(1, 50), syn.meterset(2, 0)])
    for beams in (None, [1]):
        plan = read(dataset, tmp_path, beams=beams)
        assert [beam.number for beam in plan.beams] == [1] and plan.without_meterset == ()
        assert plan.skipped == ("Beam 2 'beam 2' has a meterset of 0 MU",)


def test_what_is_beside_the_fraction_group_is_named(tmp_path: Path) -> None:
    groups = [
        syn.item(FractionGroupNumber=1, NumberOfFractionsPlanned=25, ReferencedBeamSequence=[syn.meterset(1, 80)]),
        syn.item(FractionGroupNumber=2, NumberOfFractionsPlanned=8, ReferencedBeamSequence=[syn.meterset(2, 60)]),
        syn.item(FractionGroupNumber=3, NumberOfFractionsPlanned=8, ReferencedBeamSequence=[syn.meterset(2, None)]),
    ]
    setup = syn.beam(4, BeamLimitingDeviceSequence=syn.devices("X", "Y"))
    dataset = syn.plan(syn.beam(1), syn.beam(2), syn.beam(3), setup, FractionGroupSequence=groups)
    plan = read(dataset, tmp_path, fraction_group=1)
    assert plan.beside_group == ("fraction group 2 with 1 beam(s)", "Beam 3 'beam 3' in no fraction group")
    assert read(dataset, tmp_path, fraction_group=1, beams=[1]).beside_group == ("fraction group 2 with 1 beam(s)",)


def test_state_and_purpose_are_read(tmp_path: Path) -> None:
    plan = read(syn.plan(ApprovalStatus="REJECTED", PlanIntent="MACHINE_QA"), tmp_path)
    assert (plan.approval, plan.intent) == ("REJECTED", "MACHINE_QA")


def moving_table(
    *positions: float | None, way: str = "Longitudinal", weights: tuple[float, ...] = (0, 0.5, 1)
) -> Dataset:
    keyword = f"TableTop{way}Position"
    devices = (syn.position("ASYMX", -50, 50), syn.position("ASYMY", -40, 40), syn.leaves(-40, 30))
    told = [{} if p is None else {keyword: f"{p:g}"} for p in positions]
    points = [syn.first_point(*devices, **told[0])]
    points += [syn.point(k, weights[k], **told[k]) for k in range(1, len(positions))]
    return syn.plan(syn.beam(points=points))


@pytest.mark.parametrize("way", ["Vertical", "Longitudinal", "Lateral"])
def test_a_table_that_moves_while_it_radiates_is_refused(tmp_path: Path, way: str) -> None:
    """Trap: the isocentre stays the same in the file, but moves in the patient with the table top."""
    text = refusal(moving_table(0, None, 200, way=way), tmp_path, UnsupportedPlan)
    assert f"Beam 1 'beam 1' moves the table by 200 mm ({way.lower()}) while it radiates" in text and "beams" in text


@pytest.mark.parametrize(
    "dataset",
    [
        moving_table(None, 100, 100),
        moving_table(100, 100.05, None),
        moving_table(0, 200, 200, weights=(0, 0, 1)),
        moving_table(None, None, None),
    ],
)
def test_a_table_that_stands_still_is_computed(tmp_path: Path, dataset: Dataset) -> None:
    dataset.BeamSequence[0].ControlPointSequence[0].TableTopVerticalPosition = None
    one_beam(dataset, tmp_path)


def test_a_plan_without_any_meterset_is_refused(tmp_path: Path) -> None:
    text = refusal(syn.plan(references=[syn.meterset(1, None)]), tmp_path, InvalidInput)
    assert "no beam that delivers dose (Beam 1 'beam 1' has no meterset)" in text


@pytest.mark.parametrize("mu", [0, -5, 1e9])
def test_an_impossible_meterset_is_refused(tmp_path: Path, mu: float) -> None:
    assert "Beam 1 'beam 1' has a meterset of" in refusal(
        syn.plan(references=[syn.meterset(1, mu)]), tmp_path, InvalidInput
    )


def test_a_choice_of_beams(tmp_path: Path) -> None:
    electrons = syn.beam(3, RadiationType="ELECTRON")
    dataset = syn.plan(syn.beam(1), syn.beam(2), electrons)
    assert "Beam 3 'beam 3' is a beam of type ELECTRON" in refusal(dataset, tmp_path, UnsupportedPlan)
    plan = read(dataset, tmp_path, beams=[1, 2])
    assert [beam.number for beam in plan.beams] == [1, 2]
    assert plan.skipped == ("Beam 3 'beam 3' was not asked for",)
    assert "no beam 9 (it has beams 1, 2, 3)" in refusal(dataset, tmp_path, InvalidInput, beams=[1, 9])
    dataset = syn.plan(syn.beam(1), syn.beam(2, TreatmentDeliveryType="SETUP"))
    assert "Beam 2 'beam 2' cannot be computed (it is a setup beam)" in refusal(
        dataset, tmp_path, InvalidInput, beams=[1, 2]
    )


def test_several_fraction_groups_need_a_choice(tmp_path: Path) -> None:
    groups = [
        syn.item(FractionGroupNumber=1, NumberOfFractionsPlanned=25, ReferencedBeamSequence=[syn.meterset(1, 80)]),
        syn.item(
            FractionGroupNumber=3,
            NumberOfFractionsPlanned=8,
            ReferencedBeamSequence=[syn.meterset(1, 60), syn.meterset(2, 70)],
        ),
    ]
    dataset = syn.plan(syn.beam(1), syn.beam(2), FractionGroupSequence=groups)
    assert "groups 1 (1 beams), 3 (2 beams)" in refusal(dataset, tmp_path, InvalidInput)
    first = read(dataset, tmp_path, fraction_group=1)
    assert (first.fractions, [b.meterset_mu for b in first.beams]) == (25, [80])
    second = read(dataset, tmp_path, fraction_group=3)
    assert (second.fractions, [b.meterset_mu for b in second.beams]) == (8, [60, 70])
    assert "no fraction group 2" in refusal(dataset, tmp_path, InvalidInput, fraction_group=2)


# -------------------------------------------------------------------------------------------------- energy and dose


@pytest.mark.parametrize(
    ("energy", "modes", "label"),
    [
        ("6", [("STANDARD", None)], "6X"),
        ("6.00", [], "6X"),
        ("10", [("NON_STANDARD", None)], "10FFF"),
        ("10", [("NON_STANDARD", "FFF")], "10FFF"),
        ("2.5", [("", "FFF")], "2.5FFF"),
    ],
)
def test_energy_and_fluence_mode(tmp_path: Path, energy: str, modes: list[tuple[str, str | None]], label: str) -> None:
    sequence = []
    for mode, identifier in modes:
        sequence.append(syn.item(FluenceMode=mode))
        if identifier:
            sequence[-1].FluenceModeID = identifier
    beam = syn.beam(PrimaryFluenceModeSequence=sequence)
    beam.ControlPointSequence[0].NominalBeamEnergy = energy
    read = one_beam(syn.plan(beam), tmp_path)
    assert read.energy == label and read.is_fluence_mode_stated == bool(modes)


def test_an_unknown_fluence_mode_is_refused(tmp_path: Path) -> None:
    modes = [syn.item(FluenceMode="NON_STANDARD", FluenceModeID="SRS")]
    assert "fluence mode 'SRS'" in refusal(
        syn.plan(syn.beam(PrimaryFluenceModeSequence=modes)), tmp_path, UnsupportedPlan
    )


def test_beam_dose_at_its_specification_point(tmp_path: Path) -> None:
    reference = syn.meterset(1, 100, BeamDose="1.25", BeamDoseSpecificationPoint=["1", "2", "30"])
    beam = one_beam(syn.plan(references=[reference]), tmp_path)
    assert beam.planned_point_dose_gy == 1.25
    np.testing.assert_allclose(beam.planned_point_cm, [0.1, 0.2, 3.0], rtol=EXACT)


def eclipse_dose(coefficients: list[float], **meterset: object) -> Dataset:
    beam = syn.beam()
    for k, point in enumerate(beam.ControlPointSequence):
        point.ReferencedDoseReferenceSequence = [
            syn.item(ReferencedDoseReferenceNumber=n, CumulativeDoseReferenceCoefficient=str(k * c))
            for n, c in enumerate(coefficients, start=1)
        ]
    points = [
        syn.item(DoseReferenceNumber=1, DoseReferenceStructureType="SITE"),
        syn.item(DoseReferenceNumber=2, DoseReferencePointCoordinates=["5", "0", "0"]),
        syn.item(DoseReferenceNumber=3, DoseReferencePointCoordinates=["0", "70", "0"]),
    ]
    return syn.plan(beam, references=[syn.meterset(1, 100, **meterset)], DoseReferenceSequence=points)


def test_eclipse_dose_is_a_share_at_a_reference_point(tmp_path: Path) -> None:
    """BeamDose 2 Gy x coefficient; number 1 has no coordinates, and of 2 and 3 the higher dose counts: 2 x 0.9."""
    beam = one_beam(eclipse_dose([1.0, 0.9, 0.1], BeamDose="2"), tmp_path)
    assert beam.planned_point_dose_gy == pytest.approx(1.8, rel=EXACT)
    np.testing.assert_array_equal(beam.planned_point_cm, [0.5, 0, 0])
    beam = one_beam(eclipse_dose([1.0, 0.1, 0.9], BeamDose="2"), tmp_path)
    assert beam.planned_point_dose_gy == pytest.approx(1.8, rel=EXACT)
    np.testing.assert_array_equal(beam.planned_point_cm, [0, 7, 0])


def test_no_planned_dose_without_point_or_of_zero(tmp_path: Path) -> None:
    for dataset in (eclipse_dose([1.0], BeamDose="2"), eclipse_dose([1.0, 0.9, 0.1], BeamDose="0")):
        beam = one_beam(dataset, tmp_path)
        assert beam.planned_point_dose_gy is None and beam.planned_point_cm is None


def test_a_damaged_planned_dose_is_a_warning(tmp_path: Path) -> None:
    plan = read(eclipse_dose([1.0, float("nan"), 0.1], BeamDose="2"), tmp_path)
    assert plan.beams[0].planned_point_dose_gy is None
    assert "planned dose of Beam 1 'beam 1' was not read" in plan.warnings[0]


# ------------------------------------------------------------------------------------------------- what is refused


def wedge(position: str) -> Dataset:
    beam = syn.beam(NumberOfWedges=1, WedgeSequence=[syn.item(WedgeNumber=1, WedgeType="MOTORIZED", WedgeID="W60")])
    beam.ControlPointSequence[0].WedgePositionSequence = [syn.item(ReferencedWedgeNumber=1, WedgePosition=position)]
    return beam


def table(keyword: str) -> Dataset:
    beam = syn.beam()
    setattr(beam.ControlPointSequence[0], keyword, 0.5)
    return beam


def moving_isocentre() -> Dataset:
    beam = syn.beam()
    beam.ControlPointSequence[1].IsocenterPosition = ["10", "20", "-29"]
    return beam


@pytest.mark.parametrize(
    ("beam", "words"),
    [
        (wedge("IN"), "has a wedge (MOTORIZED W60"),
        (syn.beam(NumberOfWedges=1), "has a wedge"),
        (syn.beam(NumberOfBlocks=1), "has a block"),
        (syn.beam(BlockSequence=[syn.item(BlockNumber=1)]), "has a block"),
        (syn.beam(CompensatorSequence=[syn.item(CompensatorType="STANDARD")]), "has a compensator"),
        (syn.beam(NumberOfCompensators=1), "has a compensator"),
        (syn.beam(NumberOfBoli=1), "has a bolus"),
        (syn.beam(ReferencedBolusSequence=[syn.item(ReferencedROINumber=29)]), "has a bolus"),
        (syn.beam(ApplicatorSequence=[syn.item(ApplicatorID="CONE 10")]), "has an applicator 'CONE 10'"),
        (syn.beam(GeneralAccessorySequence=[syn.item(GeneralAccessoryType="TRAY")]), "accessory of type 'TRAY'"),
        (syn.beam(RadiationType="ELECTRON"), "is a beam of type ELECTRON"),
        (syn.beam(RadiationType="PROTON"), "is a beam of type PROTON"),
        (syn.beam(BeamLimitingDeviceSequence=syn.devices("X", "Y", "MLCX1", "MLCX2")), "stacked MLC layers (MLCX1)"),
        (syn.beam(BeamLimitingDeviceSequence=syn.devices("X", "Y", "IRIS")), "beam limiting device 'IRIS'"),
        (syn.beam(SourceAxisDistance="800"), "source to axis distance of 800 mm"),
        (syn.beam(PrimaryDosimeterUnit="MINUTE"), "is measured in MINUTE"),
        (syn.beam(TreatmentDeliveryType="IRRADIATION"), "treatment delivery type IRRADIATION"),
        (table("TableTopPitchAngle"), "pitches the table by 0.5 degrees"),
        (table("TableTopRollAngle"), "rolls the table by 0.5 degrees"),
        (table("TableTopEccentricAngle"), "turns the table top about its own axis by 0.5 degrees"),
        (table("GantryPitchAngle"), "pitches the gantry"),
        (moving_isocentre(), "control point 1 has another isocentre"),
    ],
)
def test_what_is_not_computed_is_refused_by_name(tmp_path: Path, beam: Dataset, words: str) -> None:
    beam.BeamNumber, beam.BeamName = 2, "LAO"
    text = refusal(syn.plan(syn.beam(1), beam), tmp_path, UnsupportedPlan)
    assert text.startswith("Beam 2 'LAO'") and words in text


def test_what_only_looks_like_a_modifier_is_computed(tmp_path: Path) -> None:
    """A wedge that stays out, Eclipse's fluence maps, a tilt of 1e-10 degrees, a reticle."""
    maps = [syn.item(CompensatorType="OPTIMAL"), syn.item(CompensatorType="TOTAL_ACTUAL")]
    tilted = table("TableTopPitchAngle")
    tilted.ControlPointSequence[0].TableTopPitchAngle = 359.9999999
    tilted.ControlPointSequence[0].TableTopEccentricAngle = "1e-10"
    for beam in (
        wedge("OUT"),
        syn.beam(NumberOfCompensators=2, CompensatorSequence=maps),
        tilted,
        syn.beam(GeneralAccessorySequence=[syn.item(GeneralAccessoryType="RETICLE")]),
    ):
        assert len(read(syn.plan(beam), tmp_path).beams) == 1


def test_bolus_can_be_ignored_with_a_warning(tmp_path: Path) -> None:
    plan = read(syn.plan(syn.beam(NumberOfBoli=1)), tmp_path, bolus="ignore")
    assert plan.warnings == ("Beam 1 'beam 1' has a bolus, which was left out of the computation.",)


def test_ion_plans_are_refused(tmp_path: Path) -> None:
    dataset = syn.plan(BeamSequence=None, IonBeamSequence=[syn.item(BeamNumber=1)])
    assert "ion plan" in refusal(dataset, tmp_path, UnsupportedPlan)


# --------------------------------------------------------------------------------------------------- what is wrong


def with_leaves(*positions: Dataset) -> Dataset:
    first = syn.first_point(syn.position("ASYMX", -50, 50), syn.position("ASYMY", -40, 40), *positions)
    return syn.plan(syn.beam(points=[first, syn.point(1, 1)]))


def test_small_overlaps_are_closed_in_their_middle_and_large_ones_refused(tmp_path: Path) -> None:
    beam = one_beam(with_leaves(syn.position("MLCX", -10, 1.07, -10, -10, 10, 0.93, 10, 10)), tmp_path)
    np.testing.assert_allclose(beam.leaf_cm[:, :, 1], 0.1, rtol=EXACT)
    text = refusal(with_leaves(syn.position("MLCX", -10, -10, 7, -10, 10, 10, 6, 10)), tmp_path, InvalidInput)
    assert "Beam 1 'beam 1' has crossed leaves: pair 3 at control point 0 overlaps by 1.00 mm" in text


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        (with_leaves(syn.position("MLCX", *[-10] * 4, *[950] * 4)), "stands at 950 mm"),
        (with_leaves(syn.position("MLCX", *[-10] * 3, *[10] * 3)), "6 numbers instead of 8"),
        (with_leaves(syn.leaves(-10, float("nan"))), "not finite"),
        (with_leaves(), "has no position for its leaf x"),
        (with_leaves(syn.leaves(-1, 1), syn.position("X", -1, 1)), "two positions for one axis"),
        (syn.plan(syn.beam(BeamLimitingDeviceSequence=syn.devices("ASYMX", "ASYMY"))), "was not declared"),
        (
            syn.plan(syn.beam(BeamLimitingDeviceSequence=syn.devices("X", "Y", "MLCX", boundaries=(0, 2, 1, 3, 4)))),
            "leaf boundaries that do not rise",
        ),
        (syn.plan(syn.beam(NumberOfControlPoints=9)), "has 2 control points instead of 9"),
        (syn.plan(syn.beam(1), syn.beam(1)), "two beams with number 1"),
        (syn.plan(references=[syn.meterset(1), syn.meterset(8)]), "refers to beam 8"),
        (syn.plan(references=[syn.meterset(1), syn.meterset(1)]), "refers to beam 1 twice"),
        (syn.plan(FractionGroupSequence=None), "has no fraction group"),
        (syn.plan(BeamSequence=None), "has no beams"),
        (syn.plan(syn.beam(RadiationType="")), "does not say its type of radiation"),
    ],
)
def test_wrong_plans_are_refused(tmp_path: Path, dataset: Dataset, words: str) -> None:
    assert words in refusal(dataset, tmp_path, InvalidInput)


@pytest.mark.parametrize(
    ("keyword", "words"),
    [
        ("GantryAngle", "control point 0 has no Gantry Angle"),
        ("BeamLimitingDeviceAngle", "control point 0 has no Beam Limiting Device Angle"),
        ("PatientSupportAngle", "control point 0 has no Patient Support Angle"),
        ("IsocenterPosition", "has no isocentre"),
        ("NominalBeamEnergy", "has no nominal beam energy"),
        ("CumulativeMetersetWeight", "control point 0 has no Cumulative Meterset Weight"),
        ("BeamLimitingDevicePositionSequence", "only from control point 1 on|has no position for|no jaws or leaves"),
    ],
)
def test_missing_tags_are_refused_by_name(tmp_path: Path, keyword: str, words: str) -> None:
    dataset = syn.plan()
    del dataset.BeamSequence[0].ControlPointSequence[0][keyword]
    text = refusal(dataset, tmp_path, InvalidInput)
    assert any(word in text for word in words.split("|")) and "Beam 1 'beam 1'" in text


def test_shuffled_control_points_are_refused(tmp_path: Path) -> None:
    dataset = arc([10, 20, 30, 40], ["CW", "CW", "CW", "NONE"])
    points = dataset.BeamSequence[0].ControlPointSequence
    points[1], points[2] = points[2], points[1]
    assert "control points out of order" in refusal(dataset, tmp_path, InvalidInput)
    for k, point in enumerate(points):
        point.ControlPointIndex = k
    assert "do not rise" in refusal(dataset, tmp_path, InvalidInput)


def test_files_that_are_no_plan(tmp_path: Path) -> None:
    good = syn.save(syn.plan(), tmp_path / "plan.dcm")
    whole = good.read_bytes()
    cases = {
        "missing.dcm": (None, "There is no file"),
        "empty.dcm": (b"", "'empty.dcm' is empty"),
        "text.dcm": (b"PLAN: not DICOM at all\n" * 20, "'text.dcm' is"),
        "cut.dcm": (whole[: len(whole) // 2], "'cut.dcm' is truncated"),
    }
    for name, (content, words) in cases.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(UnreadableFile, match=words):
            read_plan(tmp_path / name)
    with pytest.raises(UnreadableFile, match="is not a file"):
        read_plan(tmp_path)
    with pytest.raises(UnreadableFile, match="of modality RTDOSE"):
        read(syn.plan(Modality="RTDOSE"), tmp_path)


def test_wrong_arguments(tmp_path: Path) -> None:
    assert "'maybe' is no way to treat a bolus" in refusal(syn.plan(), tmp_path, InvalidInput, bolus="maybe")
    assert "HFDR" in refusal(syn.plan(), tmp_path, InvalidInput, patient_position="HFDR")
    assert "No beam was chosen (the list of beams is empty)" in refusal(syn.plan(), tmp_path, InvalidInput, beams=[])
    assert "True or False" in refusal(syn.plan(), tmp_path, InvalidInput, beams=[True])


def test_a_moving_static_beam_is_a_warning(tmp_path: Path) -> None:
    points = [
        syn.first_point(syn.position("ASYMX", -50, 50), syn.position("ASYMY", -40, 40), syn.leaves(-40, 30)),
        syn.point(1, 1, syn.leaves(-20, 30)),
    ]
    (warning,) = read(syn.plan(syn.beam(points=points)), tmp_path).warnings
    assert warning.startswith("Beam 1 'beam 1' is marked STATIC, but moves while it radiates")


# ---------------------------------------------------------------------------------------------------------- writing


def made_plan() -> Plan:
    """A VMAT beam with everything moving and a static FFF beam of another isocentre."""
    n, pairs = 5, 3
    rise = np.linspace(0, 1, n)
    vmat = Beam(
        number=3,
        name="arc",
        machine="TrueBeam",
        energy="10X",
        meterset_mu=512.375,
        cumulative_meterset=np.array([0, 0.2, 0.2, 0.71, 1]),
        gantry_deg=181 + 358 * rise,
        collimator_deg=355 + 10 * rise,
        couch_deg=10 - 20 * rise,
        isocentre_cm=np.array([1.23, -20.45, 30.125]),
        jaw_x_cm=np.stack([-4 - rise, 4 + rise], axis=1),
        jaw_y_cm=np.tile([-7.77, 8.1], (n, 1)),
        leaf_boundaries_cm=np.array([-1.4, -0.4, 0.1, 0.6]),
        leaf_cm=np.stack([np.add.outer(rise, [-3.3, -2.1, -1.7]), np.add.outer(rise, [0.1, 0.2, 0.3])], axis=1),
        planned_point_dose_gy=1.871,
        planned_point_cm=np.array([0.5, 0.25, -0.1]),
    )
    assert vmat.leaf_cm.shape == (n, 2, pairs)
    static = dataclasses.replace(
        vmat,
        number=1,
        name="static",
        energy="6FFF",
        meterset_mu=100.0,
        cumulative_meterset=np.array([0.0, 1.0]),
        gantry_deg=np.array([350.0, 350.0]),
        collimator_deg=np.zeros(2),
        couch_deg=np.full(2, 90.0),
        isocentre_cm=np.array([0.0, 0.0, -12.5]),
        jaw_x_cm=None,
        jaw_y_cm=np.tile([-5.0, 5.0], (2, 1)),
        leaf_cm=np.tile(vmat.leaf_cm[:1], (2, 1, 1)),
        leaf_axis="x",
        planned_point_dose_gy=None,
        planned_point_cm=None,
    )
    return Plan(
        label="round trip",
        beams=(vmat, static),
        patient_position="FFP",
        fractions=7,
        uid="1.2.3.4.5",
        frame_of_reference_uid="1.2.3",
        structure_set_uid="1.2.9",
        identity=Identity(patient_name="Müller^Anna", patient_id="7", study_instance_uid="1.2.8"),
    )


def test_round_trip(tmp_path: Path) -> None:
    plan = made_plan()
    again = read_plan(write_plan(plan, tmp_path / "RP.dcm"))
    for name in ("label", "patient_position", "fractions", "uid", "frame_of_reference_uid", "structure_set_uid"):
        assert getattr(again, name) == getattr(plan, name), name
    assert again.identity == plan.identity
    assert again.warnings == () and again.skipped == ()
    for old, new in zip(plan.beams, again.beams, strict=True):
        for field in dataclasses.fields(Beam):
            before, after = getattr(old, field.name), getattr(new, field.name)
            if isinstance(before, np.ndarray):
                np.testing.assert_allclose(after, before, rtol=EXACT, atol=EXACT, err_msg=field.name)
            else:
                assert after == before, field.name


def test_writing_twice_gives_the_same_numbers(tmp_path: Path) -> None:
    """What was read from a file is written exactly."""
    once = read_plan(write_plan(made_plan(), tmp_path / "1.dcm"))
    twice = read_plan(write_plan(once, tmp_path / "2.dcm"))
    for old, new in zip(once.beams, twice.beams, strict=True):
        np.testing.assert_array_equal(new.leaf_cm, old.leaf_cm)
        np.testing.assert_array_equal(new.isocentre_cm, old.isocentre_cm)
        np.testing.assert_array_equal(new.cumulative_meterset, old.cumulative_meterset)


def test_no_half_written_plan(tmp_path: Path) -> None:
    plan = made_plan()
    bad = dataclasses.replace(plan, beams=(dataclasses.replace(plan.beams[0], energy="six"),))
    with pytest.raises(InvalidInput, match="has energy 'six'"):
        write_plan(bad, tmp_path / "RP.dcm")
    with pytest.raises(InvalidInput, match="cannot be written"):
        write_plan(plan, tmp_path / "absent" / "RP.dcm")
    (tmp_path / "taken.dcm").mkdir()
    with pytest.raises(InvalidInput, match="cannot be written"):
        write_plan(plan, tmp_path / "taken.dcm")
    assert [path.name for path in tmp_path.iterdir()] == ["taken.dcm"]


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="needs dciodvfy of dicom3tools")
def test_dciodvfy_finds_no_error(tmp_path: Path) -> None:
    path = write_plan(made_plan(), tmp_path / "RP.dcm")
    result = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
    text = result.stdout + result.stderr
    assert "RTPlan" in text and "Error" not in text, text
