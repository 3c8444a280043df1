"""A study: every scenario against another way to the same dose, and what is remembered."""

from __future__ import annotations

import resource
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spinedose import engine
from spinedose.compare.dvh import dvh
from spinedose.density import CtImage
from spinedose.engine import compute_dose
from spinedose.errors import BeamDataError, InvalidInput
from spinedose.grid import Grid, Volume
from spinedose.hu_curve import read_curve
from spinedose.machine_change import MachineChange
from spinedose.plan import Plan
from spinedose.protocol import read_protocol
from spinedose.scenarios import (
    NOMINAL,
    DensityChange,
    OtherCt,
    Outcome,
    Registration,
    Scenario,
    SetupErrors,
    Study,
    random_setups,
    setup_grid,
)
from spinedose.scenarios import study as study_room
from spinedose.settings import Settings
from spinedose.setup import Setup
from spinedose.structures import StructureSet

from made_study import small_ct, small_plan, small_structures, small_study  # isort: skip


@pytest.fixture(autouse=True)
def any_output(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calibration costs seconds; here all doses have the same scale, of about 1 Gy a fraction."""
    monkeypatch.setattr(engine, "reference_output", lambda *_: 0.025)


def _dose(study: Study, scenario: Scenario) -> Volume:
    found = study.outcome(scenario, keep_dose=True)
    assert found.dose is not None
    return found.dose.volume


def _direct(study: Study, **changes: object) -> Volume:
    """By `compute_dose`."""
    values: dict[str, object] = {"plan": study.plan, "ct": study.ct, "structures": study.structures} | changes
    return compute_dose(
        values.pop("plan"), values.pop("ct"), machine="varian-truebeam-m120", spacing_cm=0.5, backend="cpu",
        settings=study.settings, **values,
    ).volume  # fmt: skip


def _same(one: Volume, other: Volume, rtol: float = 1e-5) -> None:
    assert one.grid == other.grid
    np.testing.assert_allclose(one.values, other.values, rtol=rtol, atol=rtol * float(other.values.max()))


def _at(plan: Plan, shift: tuple[float, float, float]) -> Plan:
    return replace(plan, beams=tuple(replace(b, isocentre_cm=b.isocentre_cm + shift) for b in plan.beams))


# --- dose -------------------------------------------------------------------------------------------------------------


def test_the_planned_dose_is_that_of_compute_dose() -> None:
    study = small_study()
    _same(_dose(study, NOMINAL), _direct(study))


@pytest.mark.parametrize(
    ("setup", "isocentre"),
    [
        (Setup(lateral_cm=0.4), (-0.4, 0.0, 0.0)),
        (Setup(longitudinal_cm=0.4), (0.0, 0.0, -0.4)),
        (Setup(vertical_cm=0.4), (0.0, 0.4, 0.0)),
    ],
)
def test_a_shift_equals_the_plan_with_its_isocentre_moved(setup: Setup, isocentre: tuple[float, float, float]) -> None:
    study = small_study()
    moved = _dose(study, Scenario("shifted", setup))
    _same(moved, _direct(study, plan=_at(study.plan, isocentre)))


def test_the_dose_goes_the_other_way_in_the_patient() -> None:
    """A patient who is moved to his left is hit further to his right; by as much as he was moved, in water."""
    ct = CtImage(Volume(small_ct().hu.grid, np.zeros((24, 24, 24), np.float32)), frame_of_reference_uid="1.2.3")
    plan = small_plan(beams=small_plan().beams[:1])
    study = small_study(ct=ct, plan=plan)

    def middle(volume: Volume) -> np.ndarray:
        """Centre of dose across the one beam, which comes from above: x and z [cm]."""
        x, _, z = volume.grid.axes_cm
        weight = np.where(volume.values > 0.5 * volume.values.max(), volume.values, 0.0)
        return np.array([(weight.sum((0, 1)) * x).sum(), (weight.sum((1, 2)) * z).sum()]) / weight.sum()

    before = middle(_dose(study, NOMINAL))
    after = middle(_dose(study, Scenario("moved", Setup(lateral_cm=0.5, longitudinal_cm=-1.0))))
    # whole voxels of 0.5 cm, in a patient who is the same there: the ends of the beam only differ
    np.testing.assert_allclose(after - before, [-0.5, 1.0], atol=0.03)


def test_roll_is_a_gantry_angle_and_yaw_a_couch_angle() -> None:
    study = small_study()
    beams = study.plan.beams
    rolled = replace(study.plan, beams=tuple(replace(b, gantry_deg=b.gantry_deg - 5.0) for b in beams))
    yawed = replace(study.plan, beams=tuple(replace(b, couch_deg=b.couch_deg + 5.0) for b in beams))
    for setup, plan in ((Setup(roll_deg=5.0), rolled), (Setup(yaw_deg=5.0), yawed)):
        ours, direct = _dose(study, Scenario("turned", setup)), _direct(study, plan=plan)
        # edges of the field are blurred over voxels as planned, not as turned: 0.5 % of the maximum
        np.testing.assert_allclose(ours.values, direct.values, atol=0.005 * float(direct.values.max()))
        assert np.abs(ours.values - _dose(study, NOMINAL).values).max() > 0.02 * direct.values.max()


def test_what_only_scales_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    study = small_study()
    planned = study.outcome(NOMINAL, keep_dose=True)
    assert planned.computed == 1 and planned.dose is not None

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a known dose was computed again")

    monkeypatch.setattr(study_room, "irradiate", never)
    for scenario, factor in (
        (Scenario("more", meterset_factor=1.03), 1.03),
        (Scenario("all beams alike", meterset_factors={1: 0.9, 2: 0.9}), 0.9),
        (Scenario("three", fractions=3), 1.5),
        (Scenario("both", meterset_factor=0.5, fractions=4), 1.0),
    ):
        found = study.outcome(scenario, keep_dose=True)
        assert found.computed == 0 and found.dose is not None
        np.testing.assert_allclose(found.dose.values, factor * planned.dose.values, rtol=1e-6)
        assert found.dose.fractions == (scenario.fractions or 2)


def test_a_single_beam_with_another_meterset() -> None:
    study = small_study()
    first, second = study.plan.beams
    plan = replace(study.plan, beams=(first, replace(second, meterset_mu=1.2 * second.meterset_mu)))
    _same(_dose(study, Scenario("beam", meterset_factors={2: 1.2})), _direct(study, plan=plan))
    with pytest.raises(InvalidInput, match="beam 7"):
        study.outcome(Scenario("beam", meterset_factors={7: 1.2}))


def test_fractions_with_setups_of_their_own_add_up_in_the_patient() -> None:
    study = small_study()
    one, two = Setup(lateral_cm=0.5, yaw_deg=2.0), Setup(vertical_cm=-0.3)
    both = study.outcome(Scenario("both", (one, two)), keep_dose=True)
    assert both.computed == 2 and both.dose is not None
    apart = [_dose(study, Scenario("each", setup)).values for setup in (one, two)]
    np.testing.assert_allclose(both.dose.values, (apart[0] + apart[1]) / 2, rtol=1e-5, atol=1e-9)
    with pytest.raises(InvalidInput, match="2 setups for 3 fractions"):
        study.outcome(Scenario("wrong", (one, two), fractions=3))


def test_the_machine_can_change() -> None:
    plan = small_plan()
    leaves = np.zeros((2, 2, 60))  # closed but for a field of 4 x 4 cm
    leaves[:, 0, 26:34], leaves[:, 1, 26:34] = -2.0, 2.0
    edges = np.concatenate([np.arange(-20.0, -10), np.arange(-10.0, 10, 0.5), np.arange(10.0, 21)])
    wide = {"jaw_x_cm": np.tile([-5.0, 5.0], (2, 1)), "jaw_y_cm": np.tile([-5.0, 5.0], (2, 1))}
    beam = replace(plan.beams[0], leaf_boundaries_cm=edges, leaf_cm=leaves, **wide)
    study = small_study(plan=replace(plan, beams=(beam,)), machine="varian-truebeam-m120")
    planned = study.outcome(NOMINAL)
    wider = study.outcome(Scenario("wider", change=MachineChange(leaf_offset_cm=0.1)))
    blurred = study.outcome(Scenario("blurred", change=MachineChange(spot_factor=3.0)))
    metric = "D0.03cc[Gy]"
    # 1 mm more light on either side: the cord, 1.5 to 2.5 cm from the axis, sees more
    assert wider.value("SpinalCord", metric) > 1.002 * planned.value("SpinalCord", metric)
    assert blurred.value("SpinalCord", metric) != pytest.approx(planned.value("SpinalCord", metric), rel=1e-3)


# --- matter -----------------------------------------------------------------------------------------------------------


def test_ct_numbers_can_be_shifted() -> None:
    study = small_study()
    ct = small_ct()
    other = replace(ct, hu=Volume(ct.hu.grid, ct.hu.values + np.float32(30)))
    _same(_dose(study, Scenario("calcium", hu_offset=30.0)), _direct(study, ct=other))


def test_a_structure_can_have_another_density() -> None:
    study = small_study()
    whole = small_structures()
    dense = StructureSet(
        tuple(replace(s, relative_mass_density=2.0) if s.name == "PTV" else s for s in whole.structures),
        frame_of_reference_uid=whole.frame_of_reference_uid,
    )
    given = _dose(study, Scenario("dense", densities=(DensityChange("PTV", 2.0),)))
    _same(given, _direct(study, structures=dense))
    # a factor on top of an override is a factor of the override
    denser = small_study(structures=dense)
    _same(_dose(denser, Scenario("half", densities=(DensityChange("PTV", 0.5, "times"),))), _at_density(study, 1.0))


def _at_density(study: Study, rho: float) -> Volume:
    return _dose(study, Scenario("given", densities=(DensityChange("PTV", rho),)))


def test_a_factor_is_one_of_mass_density_along_the_curve() -> None:
    study = small_study()
    curve = read_curve("generic")
    factor = 1.2
    wanted = factor * float(np.interp(0.0, curve.hu, curve.mass_density))
    hu = float(np.interp(wanted, curve.mass_density, curve.hu))
    ct = small_ct()
    values = ct.hu.values.copy()
    x = ct.hu.grid.axes_cm[0]
    inside = np.flatnonzero(np.abs(x) < 1.0)  # the PTV is made of whole voxels
    values[np.ix_(inside, inside, inside)] = np.where(
        values[np.ix_(inside, inside, inside)] == 0, hu, values[np.ix_(inside, inside, inside)]
    )
    bone = ct.hu.values[np.ix_(inside, inside, inside)] == 900.0
    denser = float(np.interp(factor * np.interp(900.0, curve.hu, curve.mass_density), curve.mass_density, curve.hu))
    values[np.ix_(inside, inside, inside)] = np.where(bone, denser, values[np.ix_(inside, inside, inside)])
    ours = _dose(study, Scenario("times", densities=(DensityChange("PTV", factor, "times"),)))
    _same(ours, _direct(study, ct=replace(ct, hu=Volume(ct.hu.grid, values))), rtol=1e-4)
    with pytest.raises(InvalidInput, match="curve"):
        study.outcome(Scenario("too much", densities=(DensityChange("PTV", 20.0, "times"),)))


def test_another_ct_at_the_same_place() -> None:
    study = small_study()
    ct = small_ct()
    thin = replace(ct, hu=Volume(ct.hu.grid, np.where(ct.hu.values == 0, -100, ct.hu.values).astype(np.float32)))
    found = study.outcome(Scenario("second CT", ct=OtherCt(thin)), keep_dose=True)
    assert found.dose is not None
    _same(found.dose.volume, _direct(study, ct=thin))
    assert any("moved by the registration" in text for text in found.warnings)


def test_another_frame_of_reference_needs_a_registration() -> None:
    study = small_study()
    ct = replace(small_ct(), frame_of_reference_uid="9.9")
    with pytest.raises(InvalidInput, match="another frame of reference"):
        study.outcome(Scenario("second CT", ct=OtherCt(ct)))


SHIFT = (3.0, -7.0, 20.0)


@pytest.mark.parametrize(
    ("setup", "more"),
    [
        (Setup(), {}),
        (Setup(0.3, -0.2, 0.1, yaw_deg=3.0), {}),
        (Setup(), {"couch": "igrt-generic", "couch_surface_cm": 5.95}),
    ],
    ids=["planned", "displaced", "on a couch"],
)
def test_a_ct_that_is_only_elsewhere_gives_the_same(setup: Setup, more: dict[str, object]) -> None:
    """The same patient with other coordinates, in another frame of reference."""
    study = small_study(**more)
    grid = small_ct().hu.grid
    there = Grid(tuple(np.add(grid.origin_cm, SHIFT)), grid.spacing_cm, grid.shape)
    ct = CtImage(Volume(there, small_ct().hu.values), frame_of_reference_uid="9.9")
    rows = (*((*np.eye(3)[k], SHIFT[k]) for k in range(3)), (0.0, 0.0, 0.0, 1.0))
    here = study.outcome(Scenario("here", setup), keep_dose=True)
    moved = study.outcome(Scenario("there", setup, ct=OtherCt(ct, registration=Registration(rows))), keep_dose=True)
    assert here.dose is not None and moved.dose is not None
    np.testing.assert_allclose(moved.dose.grid.origin_cm, np.add(here.dose.grid.origin_cm, SHIFT), atol=1e-9)
    np.testing.assert_allclose(moved.dose.values, here.dose.values, rtol=2e-4, atol=1e-4 * here.dose.values.max())
    for one, other in zip(here.values, moved.values, strict=True):
        assert other.value == pytest.approx(one.value, rel=2e-3)


@pytest.mark.parametrize("setup", [Setup(), Setup(0.4, pitch_deg=4.0, roll_deg=3.0)], ids=["planned", "displaced"])
def test_a_ct_that_is_turned_gives_the_same_dose_in_the_patient(setup: Setup) -> None:
    """The same patient lying across the scanner: axes change, what he gets does not.

    A quarter turn about z, so that voxels fall onto voxels. The directions of the transport do not turn with him: what
    is left is 0.7 % rms of the maximum with 96, 0.4 % with 400 and 0.2 % with 1600 of them: the root of their number.
    """
    study = small_study(settings=Settings(directions=400, moments=4))
    ct = small_ct()
    # (x, y) of a point p becomes (-y, x): in the array (z, y, x) the new y axis is the old x axis, the new x the old -y
    turned = np.ascontiguousarray(np.swapaxes(ct.hu.values, 1, 2)[:, :, ::-1])
    other = CtImage(Volume(ct.hu.grid, turned), frame_of_reference_uid="9.9")
    rows = ((0.0, -1.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0), (0.0, 0.0, 0.0, 1.0))
    scenario = Scenario("across", setup, ct=OtherCt(other, registration=Registration(rows)))
    here, found = study.outcome(Scenario("here", setup), keep_dose=True), study.outcome(scenario, keep_dose=True)
    assert here.dose is not None and found.dose is not None
    points = np.random.default_rng(2).uniform(-4.0, 4.0, (400, 3))
    there = Registration(rows).of(points)
    top = float(here.dose.values.max())
    apart = found.dose.sample(there) - here.dose.sample(points)
    assert np.sqrt(np.mean(apart**2)) < 0.006 * top
    unturned = found.dose.sample(points)
    assert np.abs(unturned - here.dose.sample(points)).max() > 0.3 * top  # the test can fail
    for one, moved in zip(here.values, found.values, strict=True):
        if one.metric in ("Mean[Gy]", "D50%[Gy]"):
            assert moved.value == pytest.approx(one.value, abs=0.01 * top)
    assert any("body is found by threshold" in text for text in found.warnings)


def test_a_registration_can_be_a_file(tmp_path: Path) -> None:
    from pydicom.uid import SpatialRegistrationStorage

    from spinedose.dicom._writing import decimals, item, new_dataset, save_aside
    from spinedose.plan import Identity

    matrix = np.eye(4)
    matrix[:3, 3] = 10 * np.array(SHIFT)
    dataset = new_dataset(SpatialRegistrationStorage, "REG", Identity(), frame_of_reference_uid="9.9")
    numbers = item(
        FrameOfReferenceTransformationMatrixType="RIGID", FrameOfReferenceTransformationMatrix=decimals(matrix)
    )
    registered = item(FrameOfReferenceUID="1.2.3", MatrixRegistrationSequence=[item(MatrixSequence=[numbers])])
    dataset.RegistrationSequence = [registered]
    path = save_aside(dataset, tmp_path / "REG.dcm")

    grid = small_ct().hu.grid
    there = Grid(tuple(np.add(grid.origin_cm, SHIFT)), grid.spacing_cm, grid.shape)
    ct = CtImage(Volume(there, small_ct().hu.values), frame_of_reference_uid="9.9")
    study = small_study()
    moved = study.outcome(Scenario("there", ct=OtherCt(ct, registration=path)))
    assert moved.value("PTV", "D95%[Gy]") == pytest.approx(study.outcome(NOMINAL).value("PTV", "D95%[Gy]"), rel=2e-3)


def test_structures_of_the_other_ct_count_where_they_are_given() -> None:
    study = small_study()
    own = small_structures()
    lacking = replace(own, structures=tuple(s for s in own.structures if s.name != "SpinalCord"))
    found = study.outcome(Scenario("second CT", ct=OtherCt(small_ct(), lacking)))
    values = {(v.structure, v.metric): v for v in found.values}
    assert values["SpinalCord", "Mean[Gy]"].doubt == "it is not drawn on this CT"
    assert np.isnan(values["SpinalCord", "Mean[Gy]"].value)
    planned = study.outcome(NOMINAL)
    assert values["PTV", "Mean[Gy]"].value == pytest.approx(planned.value("PTV", "Mean[Gy]"), rel=1e-5)


# --- numbers ----------------------------------------------------------------------------------------------------------


def test_metrics_and_curves_are_those_of_the_dose() -> None:
    study = small_study(metrics=("D95%", "V1Gy[%]", "Max"), regions=("PTV",))
    found = study.outcome(NOMINAL, keep_dose=True)
    assert found.dose is not None
    curve = dvh(found.dose.volume, study.structures["PTV"])
    assert [v.metric for v in found.values] == ["D95%[Gy]", "V1Gy[%]", "Max[Gy]"]
    assert found.value("PTV", "D95%[Gy]") == curve.dose_at_percent(95)
    assert found.value("PTV", "Max[Gy]") == curve.maximum_gy
    (drawn,) = found.curves
    at = round(1.0 / drawn.step_gy)
    assert drawn.percent[at] == pytest.approx(found.value("PTV", "V1Gy[%]"), abs=1e-3)
    assert drawn.percent[0] == 100 and drawn.percent[-1] == 0


def test_the_protocol_is_held_against_every_scenario() -> None:
    study = small_study(protocol=read_protocol("spine"))
    found = list(study.run([Scenario("much more", meterset_factor=10.0)]))
    assert "SpinalCord" in {k.structure for k in found[0].limits}
    cord = [[k for k in one.limits if k.structure == "SpinalCord"] for one in found]
    for less, more in zip(*cord, strict=True):
        assert more.value == pytest.approx(10 * less.value, rel=1e-3)
        assert more.source and more.limit == less.limit


def test_outcomes_survive_json() -> None:
    import json

    found = small_study(protocol=read_protocol("spine")).outcome(Scenario("x", Setup(0.1)))
    again = Outcome.from_dict(json.loads(json.dumps(found.as_dict(), allow_nan=False)))
    assert again.scenario == found.scenario and again.values == found.values
    assert [k.value for k in again.limits] == [k.value for k in found.limits]
    for one, other in zip(found.curves, again.curves, strict=True):
        np.testing.assert_array_equal(one.percent, other.percent)
    with pytest.raises(InvalidInput, match="cannot be read"):
        Outcome.from_dict({"scenario": {"name": "x"}})


def test_run_tells_the_planned_one_first_and_how_far_it_is() -> None:
    told: list[tuple[str, float]] = []
    study = small_study()
    names = [one.scenario.name for one in study.run(setup_grid((0.2,), (), axes=("lateral_cm",)),
                                                   progress=lambda name, done: told.append((name, done)))]  # fmt: skip
    assert names == ["nominal", "lateral -2 mm", "lateral +2 mm"]
    assert told[-1] == ("done", 1.0)
    shares = [done for _, done in told]
    assert min(np.diff(shares)) > -1e-12 and {name for name, _ in told} == {*names, "done"}


def test_what_cannot_be_computed_is_refused_before_anything_is() -> None:
    study = small_study()
    with pytest.raises(InvalidInput, match="called 'twice'"):
        study.run([Scenario("twice", Setup(0.1)), Scenario("twice", Setup(0.2))])
    with pytest.raises(InvalidInput, match="no structure 'Liver'"):
        study.run([Scenario("liver", densities=(DensityChange("Liver", 1.0),))])
    with pytest.raises(InvalidInput, match="'nowhere' of scenario 'late' is not there"):
        study.run([Scenario("late", ct=OtherCt("nowhere"))])
    with pytest.raises(BeamDataError, match="'no curve' cannot be read"):
        study.run([Scenario("late", curve="no curve")])


def test_hashes_tell_data_apart_and_not_patients() -> None:
    one = small_study().metadata()
    assert small_study().metadata() == one
    other = small_study(plan=replace(small_plan(), fractions=3)).metadata()
    assert other["plan_hash"] != one["plan_hash"] and other["ct_hash"] == one["ct_hash"]
    renamed = replace(small_plan(), identity=replace(small_plan().identity, patient_name="Somebody^Else"))
    assert small_study(plan=renamed).metadata()["plan_hash"] == one["plan_hash"]


def test_no_more_doses_and_patients_are_kept_than_needed() -> None:
    study = small_study()
    many = [
        NOMINAL,
        *random_setups(4, 1, SetupErrors(0.1, 0.1), fractions=2),
        *(Scenario(f"hu {k}", hu_offset=float(k)) for k in range(1, 6)),
    ]
    for one in many:
        study.outcome(one)
    assert len(study._doses) <= 2
    assert len(study._others) <= study_room.MOST_VARIANTS


@pytest.mark.slow
def test_memory_stays_flat_over_200_scenarios() -> None:
    """After the first 20 the peak grows by less than one dose of 0.05 MB a scenario would make."""
    study = small_study()
    scenarios = random_setups(200, 5, SetupErrors(0.1, 0.1, 1.0, 1.0), fractions=2)
    early = 0
    outcomes = []
    for number, one in enumerate(study.run(scenarios)):
        outcomes.append(one)
        if number == 20:
            early = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    grown_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - early) / 1024
    assert len(outcomes) == 201
    assert grown_mb < 10


def test_a_study_needs_something_to_measure(make_beam: Callable[..., object]) -> None:
    nothing = replace(small_structures(), structures=small_structures().structures[:1])
    with pytest.raises(InvalidInput, match="to measure"):
        small_study(structures=nothing)
    with pytest.raises(InvalidInput, match="no structure 'Liver'"):
        small_study(regions=("Liver",))
    with pytest.raises(InvalidInput, match="no dose metric"):
        small_study(metrics=("D95",))
