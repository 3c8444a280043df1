"""The synthetic case: its anatomy is where its contours are, its plan spares the cord, its files are read back."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pydicom
import pytest

from spinedose import demo
from spinedose.demo import demo_case, stored_grid, write_demo
from spinedose.dicom.ct import read_ct
from spinedose.dicom.plan import read_plan
from spinedose.dicom.structures import read_structures
from spinedose.errors import InvalidInput
from spinedose.geometry import beam_direction
from spinedose.grid import Grid, Volume
from spinedose.machine import machine_for_beam
from spinedose.structures import bounds_cm, find_external, mask, volume_cm3


@pytest.fixture(scope="module")
def case():
    return demo_case()


@pytest.fixture(scope="module")
def files(case, tmp_path_factory):
    return write_demo(tmp_path_factory.mktemp("demo") / "new", case)


def hu_inside(case, name, share=0.999):
    """CT numbers of the voxels wholly inside a structure."""
    return case.ct.hu.values[mask(case.structures[name], case.ct.hu.grid).values >= share]


def test_the_image_has_the_size_of_a_thorax(case):
    assert case.ct.hu.values.shape == (111, 256, 256)
    body = find_external(case.structures)
    assert body is case.structures["BODY"]
    low, high = bounds_cm(body)
    assert (high - low)[:2] == pytest.approx((33, 23), abs=0.2)
    outside = case.ct.hu.values[mask(body, case.ct.hu.grid).values == 0]
    assert abs(float(outside.mean()) + 1000) < 10


@pytest.mark.parametrize(
    ("name", "hu", "tolerance"),
    [
        ("SpinalCord", demo.CORD_HU, 3),  # noise of 14 HU over hundreds of voxels
        ("Lung_L", demo.LUNG_HU, 5),
        ("Lung_R", demo.LUNG_HU, 5),
        ("GTV", demo.LESION_HU, 5),
        ("Rods", demo.TOP_OF_SCALE_HU, 0),
    ],
)
def test_what_is_contoured_has_its_ct_number(case, name, hu, tolerance):
    assert abs(float(np.median(hu_inside(case, name))) - hu) <= tolerance


def test_metal_saturates_a_12_bit_scale(case):
    assert case.ct.hu.values.max() == 3071
    assert case.ct.saturated_voxels == np.count_nonzero(case.ct.hu.values == 3071) > 500
    rods = case.structures["Rods"]
    # Titanium has 4.5 g/cm^3 and 2.083 (Z/A 0.4596) over water's (0.5551) electrons: 3.73.
    assert rods.relative_mass_density == 4.5
    assert rods.relative_electron_density == pytest.approx(4.5 * 0.4596 / 0.5551, abs=0.005)


@pytest.mark.parametrize(
    ("name", "shape", "box"),
    [
        ("PTV", demo._ptv, (-3, 3, 1.5, 9, -2, 2)),
        ("GTV", demo._lesion, (-3, 3, 1.5, 9, -2, 2)),
        ("Lung_L", lambda x, y, z: demo._lung(x, y, z, side=1), (0, 16, -10, 10, -3, 3)),
    ],
)
def test_contours_enclose_the_shapes_that_were_painted(case, name, shape, box):
    step = 0.05
    counts = [round((box[k + 1] - box[k]) / step) for k in (2, 0)]
    painted = contoured = 0.0
    for height in np.arange(box[4], box[5] + 0.1, 0.2):
        grid = Grid((box[0] + step / 2, box[2] + step / 2, height), (step, step, 0.2), (1, *counts))
        x, y, _ = grid.axes_cm
        painted += np.count_nonzero(shape(x[None, :], y[:, None], float(height)) < 0)
        contoured += float(mask(case.structures[name], grid).values.sum())
    assert contoured == pytest.approx(painted, rel=0.02)


def test_the_target_wraps_the_cord_at_a_distance(case):
    ptv, cord = case.structures["PTV"], case.structures["SpinalCord"]
    of_cord = {round(c[0, 2], 3): c for c in cord.contours_cm}
    for contour in ptv.contours_cm:
        around = of_cord[round(contour[0, 2], 3)]
        distance = np.linalg.norm(contour[:, None, :2] - around[None, :, :2], axis=2)
        assert distance.min() > demo.PTV_TO_CORD_CM - 0.03  # both outlines are polygons
        assert distance.min() < 0.6
    middle = next(c for c in ptv.contours_cm if abs(c[0, 2] - 0.2) < 0.01)
    cord_y = of_cord[0.2][:, 1].mean()
    beside = middle[np.abs(middle[:, 1] - cord_y) < 0.3]
    assert beside[:, 0].min() < -0.7
    assert beside[:, 0].max() > 0.7
    assert 20 < volume_cm3(ptv) < 40


def test_all_structures_are_closed_solids(case):
    names = [s.name for s in case.structures.structures]
    assert names == ["BODY", "GTV", "PTV", "SpinalCord", "SpinalCord_PRV", "Oesophagus", "Lung_L", "Lung_R", "Rods"]
    for structure in case.structures.structures:
        assert volume_cm3(structure) > 1


def test_the_plan_has_two_full_arcs_for_a_known_machine(case):
    first, second = case.plan.beams
    assert (first.gantry_deg[0], first.gantry_deg[-1]) == (181, 539)
    assert (second.gantry_deg[0], second.gantry_deg[-1]) == (179, -179)
    assert len(first.gantry_deg) == len(second.gantry_deg) == 90
    assert case.plan.total_mu == pytest.approx(demo.TOTAL_MU, abs=0.2)
    assert case.prescription_gy == 24
    for beam in case.plan.beams:
        machine, _ = machine_for_beam(beam)
        assert machine.name == "varian-truebeam-hd120"
        assert machine.beam(beam.energy).energy == "6FFF"


def test_the_machine_could_deliver_it(case):
    for beam in case.plan.beams:
        assert np.abs(np.diff(beam.leaf_cm, axis=0)).max() <= demo.FASTEST_LEAF_CM + 1e-9
        assert (beam.leaf_cm[:, 1] - beam.leaf_cm[:, 0]).min() >= -1e-9
        assert np.diff(beam.cumulative_meterset).min() > 0
        # The jaws frame every opening.
        is_open = beam.leaf_cm[:, 1] - beam.leaf_cm[:, 0] > 0.1
        edge = np.where(is_open, beam.leaf_cm[:, 0], np.inf).min(axis=1)
        assert np.all(edge >= beam.jaw_x_cm[:, 0] + demo.JAW_MARGIN_CM - demo.TARGET_MARGIN_CM - 0.1 - 1e-9)


def test_projection_by_hand():
    # Gantry 0, head first supine: the source is 100 cm in front (towards -y). A point 10 cm in front of the isocentre,
    # 1 cm to the left and 2 cm up (superior) is magnified by 100 / 90; beam x is left, beam y superior.
    arc = demo._Arc(np.array([0.0, 90.0]), 0.0, 0.0)
    np.testing.assert_allclose(arc.project(np.array([[1.0, -10.0, 2.0]]), 0), [[1 / 0.9, 2 / 0.9]])
    # Gantry 90: the source is on the left, a point 10 cm left is magnified, posterior is at beam x +... the patient's
    # back is down, and the x axis of the gantry, which pointed left at 0, points down at 90.
    np.testing.assert_allclose(arc.project(np.array([[10.0, 1.0, 0.0]]), 1), [[1 / 0.9, 0.0]], atol=1e-12)


def test_the_cord_is_shielded_and_the_target_is_not(case):
    """Rays from the source to points, with the directions of the geometry module rather than the demo's projection."""
    outlines = [c for c in case.structures["SpinalCord"].contours_cm if abs(c[0, 2]) < 1.2]
    cord = np.concatenate([(c + c.mean(axis=0)) / 2 for c in outlines])  # half-way out
    lesion = np.array([c.mean(axis=0) for c in case.structures["GTV"].contours_cm])
    seen = {"cord": 0, "lesion": 0}
    count = 0
    for beam in case.plan.beams:
        turn = np.radians(beam.collimator_deg[0])
        for k, gantry in enumerate(beam.gantry_deg):
            down = beam_direction("HFS", 0.0, float(gantry))
            source = beam.isocentre_cm - 100 * down
            across = np.array([down[1], -down[0], 0.0])  # beam x: the patient's left at gantry 0, posterior at 90
            for name, points in (("cord", cord), ("lesion", lesion)):
                ray = points - source
                ray = ray * (100 / (ray @ down))[:, None]
                x, y = (ray + source - beam.isocentre_cm) @ across, (ray + source - beam.isocentre_cm)[:, 2]
                u, v = np.cos(turn) * x + np.sin(turn) * y, -np.sin(turn) * x + np.cos(turn) * y
                pair = np.searchsorted(beam.leaf_boundaries_cm, v) - 1
                is_open = (u > beam.leaf_cm[k, 0, pair]) & (u < beam.leaf_cm[k, 1, pair])
                seen[name] += is_open.mean()
            count += 1
    assert seen["cord"] / count == 0
    assert seen["lesion"] / count > 0.5


def test_the_same_case_every_time(case):
    again = demo._make_plan(case.structures)
    for one, other in zip(case.plan.beams, again.beams, strict=True):
        assert np.array_equal(one.leaf_cm, other.leaf_cm)
        assert np.array_equal(one.cumulative_meterset, other.cumulative_meterset)
    assert again.uid == case.plan.uid


def test_the_files_hold_the_case(case, files):
    ct = read_ct(files.ct)
    assert ct.hu.grid.is_close_to(case.ct.hu.grid)
    assert np.array_equal(ct.hu.values, case.ct.hu.values)
    assert ct.saturated_voxels == case.ct.saturated_voxels
    structures = read_structures(files.structures)
    assert structures.warnings == ()
    for one, other in zip(case.structures.structures, structures.structures, strict=True):
        assert (one.name, one.type, one.relative_electron_density) == (
            other.name,
            other.type,
            other.relative_electron_density,
        )
        assert volume_cm3(one) == pytest.approx(volume_cm3(other), rel=1e-4)
    plan = read_plan(files.plan)
    assert plan.frame_of_reference_uid == ct.frame_of_reference_uid == structures.frame_of_reference_uid
    assert plan.structure_set_uid == structures.uid
    assert plan.fractions == 2
    for one, other in zip(case.plan.beams, plan.beams, strict=True):
        assert (one.energy, one.machine, one.meterset_mu) == (other.energy, other.machine, other.meterset_mu)
        np.testing.assert_allclose(np.diff(one.gantry_deg), np.diff(other.gantry_deg), atol=1e-9)
        np.testing.assert_allclose(one.leaf_cm, other.leaf_cm, atol=1e-9)
        np.testing.assert_allclose(one.cumulative_meterset, other.cumulative_meterset, atol=1e-9)


def test_an_earlier_demo_is_overwritten(case, tmp_path):
    grid = case.ct.hu.grid.box((50, 0, 0), (53, 256, 256))
    small = replace(case, ct=replace(case.ct, hu=Volume(grid, case.ct.hu.values[50:53])))
    first, second = write_demo(tmp_path, small), write_demo(tmp_path, small)
    assert first == second
    assert sorted(path.name for path in tmp_path.iterdir()) == ["CT", "RP.dcm", "RS.dcm"]
    assert len(list(second.ct.iterdir())) == 3


@pytest.mark.parametrize("name", ["RP.dcm", "RD.dcm", "CT/slice.dcm", "axial.png"])
def test_files_of_others_are_not_overwritten(case, tmp_path, name):
    (tmp_path / "CT").mkdir()
    (tmp_path / name).write_text("someone's")
    with pytest.raises(InvalidInput, match=rf"{name}' is not of an earlier demo \(it would be lost or mixed up\)"):
        write_demo(tmp_path, case)
    assert (tmp_path / name).read_text() == "someone's"
    assert not (tmp_path / "RS.dcm").exists()


def test_what_is_no_demo_of_ours_is_known_by_its_patient(case, files, tmp_path):
    header = pydicom.dcmread(files.plan)
    demo.refuse_strangers(files.plan.parent)
    header.PatientID = "another"
    header.save_as(tmp_path / "RP.dcm")
    with pytest.raises(InvalidInput, match="earlier demo"):
        demo.refuse_strangers(tmp_path)


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="needs dciodvfy of dicom3tools")
def test_the_files_keep_the_standard(files):
    for path, kind in (
        (files.plan, "RTPlan"),
        (files.structures, "RTStructureSet"),
        (sorted(files.ct.iterdir())[50], "CTImage"),
    ):
        verdict = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, text=True, check=False)
        lines = (verdict.stdout + verdict.stderr).splitlines()
        assert [line for line in lines if line.startswith("Error")] == []
        assert any(kind in line for line in lines), lines


def test_the_dose_file_has_voxels_for_radiosurgery_within_the_computed_ones():
    computed = Grid((-16.9, -11.9, -11.0), (0.125, 0.125, 0.125), (178, 192, 272))
    stored = stored_grid(computed)
    assert max(stored.spacing_cm) <= 0.2 and stored.spacing_cm != computed.spacing_cm
    assert (stored.lower_cm >= computed.lower_cm - 1e-9).all() and (stored.upper_cm <= computed.upper_cm + 1e-9).all()
    assert (stored.upper_cm > computed.upper_cm - 0.15).all()
