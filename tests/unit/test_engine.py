"""The conductor: what it refuses, warns about, returns and remembers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from importlib import resources
from itertools import pairwise
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from spinedose import calibration, engine, stages
from spinedose.assignments import Assignment
from spinedose.backends.select import select_backend
from spinedose.calibration import open_field_beam, reference_output
from spinedose.density import CtImage
from spinedose.engine import Settings, compute_dose
from spinedose.errors import BackendUnavailable, InvalidInput, NumericalError, UnknownMachine
from spinedose.grid import Grid, Volume
from spinedose.identity import Identity
from spinedose.machine import read_machine
from spinedose.machine_change import MachineChange
from spinedose.nested import FineBox
from spinedose.result import Dose
from spinedose.setup import Setup
from spinedose.structures import Structure, StructureSet

M120 = "varian-truebeam-m120"
QUICK = Settings(directions=96, moments=3)
SMALL = {"jaw_x_cm": np.tile([-2.0, 2.0], (2, 1)), "jaw_y_cm": np.tile([-2.0, 2.0], (2, 1))}


def water_ct(**changes: object) -> CtImage:
    """A 10 cm cube of water in 2 cm of air, voxels of 0.5 cm, its middle in the origin."""
    hu = np.pad(np.zeros((20, 20, 20), np.float32), 4, constant_values=-1000.0)
    return CtImage(Volume(Grid((-6.75,) * 3, (0.5,) * 3, hu.shape), hu), **changes)


@pytest.fixture
def any_output(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "reference_output", lambda *_: 1.0)


@pytest.fixture
def solve(any_output: None) -> Callable[..., Dose]:
    def run(plan: object, ct: CtImage | None = None, **options: object) -> Dose:
        return compute_dose(
            plan, ct or water_ct(), **({"machine": M120, "spacing_cm": 0.5, "settings": QUICK} | options)
        )

    return run


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"directions": 10}, "directions"),
        ({"directions": 10**6}, "directions"),
        ({"moments": -1}, "order"),
        ({"moments": 13}, "order"),
        ({"segment_step_deg": 0.0}, "segment_step_deg"),
        ({"group_step_deg": 16.0}, "group_step_deg"),
        ({"halo_step_deg": float("nan")}, "halo_step_deg"),
        ({"pixel_cm": 0.5}, "pixel_cm"),
        ({"pixel_cm": float("nan")}, "pixel_cm"),
    ],
)
def test_senseless_settings_are_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        Settings(**change)


@pytest.mark.parametrize("spacing", [0.0, -0.25, 0.01, 2.5, float("nan"), float("inf")])
def test_senseless_spacing_is_refused(solve, make_plan, spacing: float) -> None:
    with pytest.raises(InvalidInput, match="Spacing"):
        solve(make_plan(), spacing_cm=spacing)


def test_too_few_directions_for_the_moments_are_refused(solve, make_plan) -> None:
    with pytest.raises(InvalidInput, match="too few"):
        solve(make_plan(), settings=Settings(directions=64, moments=8))


def test_other_frames_of_reference_are_refused(solve, make_plan) -> None:
    plan = make_plan(frame_of_reference_uid="1.2.3")
    with pytest.raises(InvalidInput, match="frame of reference"):
        solve(plan, water_ct(frame_of_reference_uid="1.2.4"))
    with pytest.raises(InvalidInput, match="structure set"):
        solve(
            plan,
            water_ct(frame_of_reference_uid="1.2.3"),
            structures=StructureSet(label="", structures=(), frame_of_reference_uid="1.2.5"),
        )


def test_missing_frame_is_a_warning_and_equal_ones_are_none(solve, make_plan, make_beam) -> None:
    beam = make_beam(**SMALL)
    without = solve(make_plan(beam, frame_of_reference_uid="1.2.3"))
    assert any("No frame of reference in CT" in w for w in without.metadata.warnings)
    both = solve(make_plan(beam, frame_of_reference_uid="1.2.3"), water_ct(frame_of_reference_uid="1.2.3"))
    assert not any("frame of reference" in w for w in both.metadata.warnings)


def test_files_of_another_patient_or_position_are_a_warning(solve, make_plan, make_beam) -> None:
    plan = make_plan(make_beam(**SMALL), identity=Identity(patient_id="1"))
    ours = solve(plan, water_ct(identity=Identity(patient_id=" 1 ")))
    assert not any("patient" in w for w in ours.metadata.warnings)
    other = solve(plan, water_ct(identity=Identity(patient_id="2")))
    assert any("The CT is of another patient than the plan" in w for w in other.metadata.warnings)
    turned = solve(replace(plan, patient_position="HFP"))
    assert any("position HFP, the CT shows him in HFS" in w for w in turned.metadata.warnings)


def test_isocentre_far_from_the_body_is_refused(solve, make_plan, make_beam) -> None:
    with pytest.raises(InvalidInput, match=r"isocentre of beam 2 'b'.*35 cm outside"):
        solve(make_plan(make_beam(**SMALL), make_beam(number=2, name="b", isocentre_cm=[0.0, 40.4, 0.0])))


def test_a_beam_through_the_end_of_the_ct_and_a_body_too_small_are_warnings(solve, make_plan, make_beam) -> None:
    """Along z, through water that reaches the last slice; then the same with an outline 1.5 cm within it."""
    whole = water_ct().hu
    cut = CtImage(whole.part((4, 0, 0), (24, 28, 28)))
    plan = make_plan(make_beam(**SMALL, gantry_deg=np.full(2, 270.0), couch_deg=np.full(2, 90.0)))
    found = solve(plan, cut).metadata
    assert [one.code for one in found.missing] == ["beams_through_ends"]
    assert found.missing[0].text in found.warnings and "missing" not in found.as_dict()
    assert not solve(plan).metadata.missing
    side = np.array([(-3.5, -3.5), (3.5, -3.5), (3.5, 3.5), (-3.5, 3.5)])
    contours = tuple(np.column_stack([side, np.full(4, z)]) for z in whole.grid.axes_cm[2][4:24])
    tight = StructureSet((Structure(1, "BODY", "EXTERNAL", contours),))
    (said,) = solve(make_plan(make_beam(**SMALL)), structures=tight).metadata.missing
    assert said.code == "body_too_small"


def test_beam_beside_the_body_gives_almost_no_dose(solve, make_plan, make_beam) -> None:
    beside = solve(make_plan(make_beam(**SMALL, isocentre_cm=[20.0, 0.0, 0.0])))
    inside = solve(make_plan(make_beam(**SMALL)))
    assert np.all(np.isfinite(beside.values))
    assert beside.values.max() < 0.02 * inside.values.max()


def test_unknown_backend_and_machine_are_refused(solve, make_plan) -> None:
    with pytest.raises(BackendUnavailable, match="abacus"):
        solve(make_plan(), backend="abacus")
    with pytest.raises(UnknownMachine):
        solve(make_plan(), machine=None)
    with pytest.raises(UnknownMachine):
        solve(make_plan(), machine="no-such-machine")


def test_dose_is_returned_on_the_grid_asked_for(solve, make_plan, make_beam) -> None:
    plan = make_plan(make_beam(**SMALL))
    own = solve(plan, per_beam=True)
    grid = Grid((-2.1, -3.3, -1.7), (0.35, 0.4, 0.3), (9, 11, 10))
    given = solve(plan, per_beam=True, like=grid)
    assert given.grid == grid and given.beams[1].grid == grid
    np.testing.assert_allclose(given.values, own.volume.resample(grid).values, atol=1e-6 * own.values.max())
    same = solve(plan, like=Volume(grid, np.zeros(grid.shape)))
    np.testing.assert_array_equal(same.values, given.values)
    # the same grid back: nothing changes
    np.testing.assert_allclose(solve(plan, like=own.grid).values, own.values, atol=1e-6 * own.values.max())


def test_grid_that_misses_the_maximum_is_a_warning(solve, make_plan, make_beam) -> None:
    plan = make_plan(make_beam(**SMALL))
    far = solve(plan, like=Grid((2.0, 3.0, 3.0), (0.5,) * 3, (3, 3, 3)))
    assert any("dose maximum" in w for w in far.metadata.warnings)
    whole = solve(plan, like=Grid((-5.0, -6.0, -5.0), (0.5,) * 3, (22, 25, 22)))
    assert not any("dose maximum" in w for w in whole.metadata.warnings)


def test_warnings_of_plan_ct_and_stages_are_carried_once(solve, make_plan, make_beam) -> None:
    plan = make_plan(make_beam(**SMALL), warnings=("from the plan",), skipped=("Beam 9 was skipped.",))
    found = solve(plan, water_ct(warnings=("from the CT", "from the plan"))).metadata.warnings
    assert {"from the plan", "Beam 9 was skipped.", "from the CT"} <= set(found)
    assert any("EXTERNAL" in w for w in found) and len(set(found)) == len(found)


@pytest.mark.parametrize(("density", "warns"), [(14.0, False), (16.0, True)])
def test_matter_beyond_the_attenuation_table_is_a_warning(
    solve, make_plan, make_beam, density: float, warns: bool
) -> None:
    """A block of 10 cm with 14 times the electrons of water is 140 cm deep along a ray, one with 16 times 160 cm."""
    square = np.array([[-5.0, -5.0], [5.0, -5.0], [5.0, 5.0], [-5.0, 5.0]])
    contours = tuple(np.column_stack([square, np.full(4, z)]) for z in np.arange(-4.75, 5.0, 0.5))
    block = Structure(
        1, "block", contours_cm=contours, relative_mass_density=density, relative_electron_density=density
    )
    found = solve(make_plan(make_beam(**SMALL)), structures=StructureSet((block,))).metadata.warnings
    told = [text for text in found if "water-equivalent" in text]
    assert len(told) == warns
    # cobalt-chrome by its density: a little less deep than water of as many electrons, by its lower hardening
    depths = [float(re.search(r"up to (\d+) cm of water-equivalent", text)[1]) for text in told]
    assert all("but attenuation is known to 150 cm" in text for text in told)
    assert all(depth == pytest.approx(10 * density, rel=0.1) for depth in depths)


def test_result_says_where_it_comes_from(solve, make_plan, make_beam) -> None:
    plan = make_plan(make_beam(**SMALL), make_beam(**SMALL, number=2, energy="10X"))
    dose = solve(plan)
    info = dose.metadata
    assert info.backend == "cpu" and info.device
    assert info.machines == (f"{M120}/6X", f"{M120}/10X")
    assert info.beam_data_hash == read_machine(M120).data_hash
    assert info.settings["directions"] == {f"{M120}/6X": 96, f"{M120}/10X": 96}
    assert info.settings["spacing_cm"] == 0.5 and info.settings["pixel_cm"] == pytest.approx(0.1)
    assert info.calibration_gy_per_mu == {f"{M120}/6X": 1.0, f"{M120}/10X": 1.0}
    assert {"density", "fluence", "depth", "terma", "transport"} <= set(info.timings_s)
    facts = json.loads(dose.to_json())
    assert {key: facts[key] for key in info.as_dict()} == info.as_dict()
    models = [f"{M120}/6X", f"{M120}/10X"]
    assert [(beam["number"], beam["beam_model"]) for beam in facts["beams"]] == list(enumerate(models, start=1))
    assert dose.plan is plan and not dose.beams


def test_settings_hold_what_one_needs_to_compute_it_again(solve, make_plan, make_beam) -> None:
    """A fine box by names, by its corners from the settings, and the grid asked for."""
    square = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    contours = tuple(np.column_stack([square, np.full(4, z)]) for z in (-1.0, -0.5, 0.0, 0.5, 1.0))
    drawn = StructureSet((Structure(1, "PTV", "PTV", contours),), uid="1.2.3")
    plan, grid = make_plan(make_beam(**SMALL)), Grid((-2.0, -2.0, -2.0), (0.5,) * 3, (9, 9, 9))
    metal = Assignment("titanium", above_hu=2900.0, grow_cm=-0.1)
    options = {
        "structures": drawn,
        "like": grid,
        "materials": [metal],
        "couch": "igrt-generic",
        "couch_surface_cm": 6.0,
    }
    first = solve(plan, fine="ptv", **options)
    facts = first.as_dict()
    schema = json.loads(resources.files("spinedose").joinpath("dose.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(facts, schema)
    found = facts["settings"]
    fine = found["fine"]
    assert fine == {
        "lower_cm": [-2.5, -2.5, -2.75], "upper_cm": [2.5, 2.5, 2.75], "factor": 2, "spacing_cm": [0.25] * 3,
        "structures": ["ptv"],
    }  # fmt: skip
    assert found["like"] == {"origin_cm": [-2.0] * 3, "spacing_cm": [0.5] * 3, "shape": [9, 9, 9]}
    assert found["assignments"] == [{"material": "titanium", "structure": "", "above_hu": 2900.0, "grow_cm": -0.1}]
    assert found["couch_surface_cm"] == 6.0 and len(found["couch_hash"]) == len(found["curve_hash"]) == 64
    assert facts["inputs"]["structure_set_uid"] == "1.2.3" and first.structures is drawn
    box = FineBox(tuple(fine["lower_cm"]), tuple(fine["upper_cm"]), fine["factor"])
    again = solve(plan, fine=box, **options)
    np.testing.assert_array_equal(again.values, first.values)
    assert again.metadata.settings["fine"]["structures"] == []
    plain = solve(plan)
    assert plain.metadata.settings["fine"] is None and plain.metadata.settings["like"] is None
    assert plain.as_dict()["inputs"]["structures_hash"] is None
    jsonschema.validate(plain.as_dict(), schema)
    moved = solve(plan, setup=Setup(lateral_cm=0.1), change=MachineChange(leaf_offset_cm=0.01))
    jsonschema.validate(moved.as_dict(), schema)


@pytest.mark.parametrize("fine", [None, FineBox((-2.0, -2.0, -2.0), (2.0, 2.0, 2.0))])
def test_progress_rises_to_1(solve, make_plan, make_beam, fine: FineBox | None) -> None:
    seen: list[tuple[str, float]] = []
    plan = make_plan(make_beam(**SMALL), make_beam(**SMALL, number=2, energy="10X"))
    solve(plan, fine=fine, progress=lambda stage, share: seen.append((stage, share)))
    shares = [share for _, share in seen]
    assert seen[-1] == ("done", 1.0) and shares[0] >= 0
    assert all(b >= a - 1e-9 for a, b in pairwise(shares))


def test_directions_follow_the_number_of_beam_directions(solve, make_plan, make_beam, monkeypatch) -> None:
    """1600 for a beam, 1600 / sqrt(n) for n of them, 200 at least; multiples of 8."""
    monkeypatch.setattr(stages, "MOST_DIRECTIONS", 400)
    fields = [make_beam(**SMALL, number=i + 1, gantry_deg=np.full(2, 40.0 * i)) for i in range(4)]

    def used(*beams: object) -> int:
        return solve(make_plan(*beams), settings=Settings(moments=3)).metadata.settings["directions"][f"{M120}/6X"]

    assert used(fields[0]) == 400
    assert used(*fields[:2]) == 288  # 400 / sqrt 2 = 282.8
    assert used(*fields) == 200


def test_numbers_that_are_none_are_an_error(solve, make_plan, make_beam, monkeypatch) -> None:
    monkeypatch.setattr(engine, "reference_output", lambda *_: float("nan"))
    with pytest.raises(NumericalError, match="not a number"):
        solve(make_plan(make_beam(**SMALL)))


def test_calibration_scales_the_dose(solve, make_plan, make_beam, monkeypatch) -> None:
    plan = make_plan(make_beam(**SMALL))
    one = solve(plan).values
    monkeypatch.setattr(engine, "reference_output", lambda *_: 2.0)
    np.testing.assert_allclose(solve(plan).values, 0.5 * one, rtol=1e-5)


def test_reference_field_is_made_by_what_the_machine_has() -> None:
    truebeam = read_machine(M120)
    beam = open_field_beam(truebeam, truebeam.beam("6X"), (10.0, 10.0))
    half = truebeam.beam("6X").calibration.field_cm / 2
    np.testing.assert_array_equal(beam.jaw_x_cm, [[-half, half]] * 2)
    assert beam.leaf_cm is None and beam.meterset_mu == 1.0
    agility = read_machine("elekta-agility")
    beam = open_field_beam(agility, agility.beam("6X"), (10.0, 10.0))
    assert beam.jaw_x_cm is None and beam.leaf_cm is not None
    width = beam.leaf_cm[0, 1] - beam.leaf_cm[0, 0]
    opened = np.diff(beam.leaf_boundaries_cm)[width > 0].sum()
    assert width.max() == pytest.approx(10.0)
    assert opened == pytest.approx(40.0, abs=0.01)  # the jaws make the edges across the leaves
    np.testing.assert_array_equal(beam.jaw_y_cm, [[-5.0, 5.0]] * 2)


def test_reference_output_is_remembered_by_all_it_depends_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPINEDOSE_CACHE", str(tmp_path))
    machine, device = read_machine(M120), select_backend("cpu")
    calls: list[str] = []

    def compute(machine: object, model: object, settings: Settings, device: object) -> float:
        calls.append(model.energy)
        return 0.5 + len(calls)

    monkeypatch.setattr(calibration, "_compute_reference", compute)
    first = reference_output(machine, machine.beam("6X"), Settings(), device)
    assert first == 1.5 and len(list(tmp_path.glob("output-*.json"))) == 1
    # directions and the HU curve do not change what a water phantom receives
    for settings in (Settings(), Settings(directions=200), Settings(curve="other")):
        assert reference_output(machine, machine.beam("6X"), settings, device) == 1.5
    assert calls == ["6X"]
    reference_output(machine, machine.beam("10X"), Settings(), device)
    reference_output(machine, machine.beam("6X"), Settings(moments=4), device)
    reference_output(replace(machine, data_hash="another"), machine.beam("6X"), Settings(), device)
    assert len(calls) == 4
    # a machine that was not read from files has no key
    own = replace(machine, data_hash="")
    assert reference_output(own, machine.beam("6X"), Settings(), device) == 5.5
    assert reference_output(own, machine.beam("6X"), Settings(), device) == 6.5
    # nonsense in the cache counts as nothing
    for path in tmp_path.glob("output-*.json"):
        path.write_text("-1.0")
    assert reference_output(machine, machine.beam("6X"), Settings(), device) == 7.5


@pytest.mark.slow
@pytest.mark.parametrize("name", [M120, "elekta-agility"])
def test_reference_point_has_the_calibrated_dose(name: str, make_plan) -> None:
    """The calibration field as a plan on a CT of a water phantom: Gy per MU at the point, within 0.5 %."""
    machine = read_machine(name)
    model = machine.beam("6X")
    reference = model.calibration
    surface = reference.ssd_cm - machine.sad_cm  # patient y of the water, posterior of the isocentre
    half = 0.6 * reference.field_cm + 7.0
    n, h = int(2 * half / 0.25), 0.25
    deep = int((reference.depth_cm + 10.0) / h)
    hu = np.pad(np.zeros((n, deep, n), np.float32), 4, constant_values=-1000.0)
    first = -0.5 * h * (n + 7)
    ct = CtImage(Volume(Grid((first, surface - 3.5 * h, first), (h,) * 3, hu.shape), hu))
    beam = replace(open_field_beam(machine, model, (10.0, 10.0)), meterset_mu=100.0)
    dose = compute_dose(make_plan(beam), ct, machine=machine, spacing_cm=h)
    offsets = np.linspace(-0.5, 0.5, 9)
    z, y, x = np.meshgrid(offsets, surface + reference.depth_cm + offsets, offsets, indexing="ij")
    value = dose.sample(np.stack([x, y, z], axis=-1)).mean()
    assert value == pytest.approx(100.0 * reference.gy_per_mu, rel=0.005)


def test_named_materials_and_a_couch_arrive(solve, make_plan, make_beam) -> None:
    """From below, through 5 cm of couch and a slab of titanium: less dose in front of it than without."""
    from_below = make_plan(make_beam(**SMALL, gantry_deg=np.full(2, 180.0)))
    square = np.array([[-4.0, 2.0], [4.0, 2.0], [4.0, 3.0], [-4.0, 3.0]])
    contours = tuple(np.column_stack([square, np.full(4, z)]) for z in np.arange(-4.75, 5.0, 0.5))
    slab = StructureSet((Structure(1, "slab", contours_cm=contours),))
    centre = [(0.0, 0.0, 0.0)]
    free = solve(from_below, structures=slab)
    metal = solve(from_below, structures=slab, materials=(Assignment("titanium", structure="slab"),))
    couch = solve(from_below, structures=slab, couch="igrt-generic")
    assert any("100 % of the monitor units come from below" in text for text in free.metadata.warnings)
    assert not any("come from below" in text for text in couch.metadata.warnings)
    assert any("'igrt-generic' was put under the body" in text for text in couch.metadata.warnings)
    # 1 cm of titanium instead of water: 2.76 cm more water, 0.84 to 0.93 of the dose; 0.5 g/cm2 of couch: 1 to 3 %
    assert 0.84 < metal.sample(centre)[0] / free.sample(centre)[0] < 0.93
    assert 0.97 < couch.sample(centre)[0] / free.sample(centre)[0] < 0.99
    assert couch.metadata.settings["couch"] == "igrt-generic"
    assert metal.metadata.settings["materials"] == {"slab": "titanium"}
    assert couch.volume.grid.shape[2] == 106  # 53 cm of couch in voxels of 5 mm


@pytest.mark.parametrize(("side_cm", "parts"), [(5.0, 2), (34.0, 3)])
def test_only_wide_fields_carry_the_curvature_of_hardness(
    monkeypatch: pytest.MonkeyPatch, side_cm: float, parts: int
) -> None:
    """10X is softened by 1.02 at the corner of 5 x 5 cm, by 1.2 at that of 34 x 34 cm (cones.md, equation 4)."""
    seen: list[tuple[int, int]] = []
    released = stages._released

    def watch(device, scene, rays, *more, **options):  # type: ignore[no-untyped-def]
        seen.append((len(rays.cones.energy), rays.fields[0].attenuation.terma.shape[-1]))
        return released(device, scene, rays, *more, **options)

    monkeypatch.setattr(stages, "_released", watch)
    machine = read_machine("varian-truebeam-m120")
    calibration.water_tank_dose(
        machine, machine.beam("10X"), (side_cm, side_cm), depth_cm=4.0, margin_cm=1.0, spacing_cm=1.0,
        settings=Settings(directions=104, moments=2),
    )  # fmt: skip
    assert seen == [(parts, parts)]
