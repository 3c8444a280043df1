"""RTDOSE: every axis-aligned arrangement read right, what is odd refused by reason, what we write is valid and
round."""

from __future__ import annotations

import itertools
import lzma
import shutil
import subprocess

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, RTDoseStorage, generate_uid

from spinedose.compare.dvh import Dvh
from spinedose.dicom.dose import PlannedDose, read_dose, write_dose
from spinedose.errors import InvalidInput, NumericalError, SpinedoseError, UnreadableFile
from spinedose.grid import Grid, Volume
from spinedose.plan import Beam, Identity, Plan

EXACT_CM = 1e-6
"""Positions survive millimetres, decimal strings and float64 to this."""


def make_dose(path, **changes):
    """An RTDOSE of 3 x 4 x 5 voxels whose stored value is its running number; `changes` by keyword, None deletes."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = RTDoseStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.SOPClassUID = RTDoseStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID
    dataset.Modality = "RTDOSE"
    dataset.FrameOfReferenceUID = "1.2.3"
    dataset.NumberOfFrames, dataset.Rows, dataset.Columns = 3, 4, 5
    dataset.ImagePositionPatient = [10, 20, 30]
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing = [2, 3]
    dataset.GridFrameOffsetVector = [0, 4, 8]
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 32, 32, 31, 0
    dataset.DoseUnits, dataset.DoseType, dataset.DoseSummationType = "GY", "PHYSICAL", "PLAN"
    dataset.DoseGridScaling = "0.5"
    dataset.PixelData = np.arange(60, dtype="<u4").tobytes()
    for keyword, value in changes.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    dataset.save_as(path, enforce_file_format=True)
    return path


def assert_voxels_stand_where_dicom_says(dose: PlannedDose, dataset, raw, every=1):
    """Stored voxels are looked up at their positions by the standard's formula (C.7.6.2.1.1, C.8.8.3.2)."""
    orientation = np.array(dataset.ImageOrientationPatient, dtype=float)
    normal = np.cross(orientation[:3], orientation[3:])
    offsets = np.array(dataset.GridFrameOffsetVector, dtype=float)
    frame, row, column = np.meshgrid(*(np.arange(0, n, every) for n in raw.shape), indexing="ij")
    position = (
        np.array(dataset.ImagePositionPatient, dtype=float)
        + column[..., None] * float(dataset.PixelSpacing[1]) * orientation[:3]
        + row[..., None] * float(dataset.PixelSpacing[0]) * orientation[3:]
        + offsets[frame][..., None] * normal
    )
    found = dose.dose.sample(position / 10)
    expected = raw[frame, row, column] * float(dataset.DoseGridScaling)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-4 * expected.max())


def all_orientations():
    for a, b in itertools.permutations(range(3), 2):
        for s, t in itertools.product((1, -1), repeat=2):
            first, second = np.zeros(3), np.zeros(3)
            first[a], second[b] = s, t
            yield [*first, *second]


@pytest.mark.parametrize("offsets", [[0, 4, 8], [0, -4, -8]], ids=["rising", "falling"])
@pytest.mark.parametrize("orientation", list(all_orientations()), ids=lambda o: "".join(f"{v:+.0f}" for v in o))
def test_any_axis_aligned_orientation(tmp_path, orientation, offsets):
    path = make_dose(tmp_path / "d.dcm", ImageOrientationPatient=orientation, GridFrameOffsetVector=offsets)
    dataset = pydicom.dcmread(path)
    raw = np.arange(60).reshape(3, 4, 5)
    assert_voxels_stand_where_dicom_says(read_dose(path), dataset, raw)


def test_a_plain_grid_by_hand(tmp_path):
    dose = read_dose(make_dose(tmp_path / "d.dcm"))
    assert dose.grid.shape == (3, 4, 5)
    assert dose.grid.origin_cm == pytest.approx((1.0, 2.0, 3.0))
    assert dose.grid.spacing_cm == pytest.approx((0.3, 0.2, 0.4))
    # Frame 1, row 2, column 3 holds 1 * 20 + 2 * 5 + 3 = 33, times 0.5 Gy.
    assert dose.dose.values[1, 2, 3] == 16.5
    assert (dose.summation, dose.frame_of_reference_uid, dose.warnings) == ("PLAN", "1.2.3", ())


@pytest.mark.parametrize("step", [4, -4])
def test_absolute_frame_offsets(tmp_path, step):
    relative = read_dose(make_dose(tmp_path / "r.dcm", GridFrameOffsetVector=[0, step, 2 * step]))
    absolute = read_dose(make_dose(tmp_path / "a.dcm", GridFrameOffsetVector=[30, 30 + step, 30 + 2 * step]))
    assert relative.grid == absolute.grid
    assert np.array_equal(relative.dose.values, absolute.dose.values)


def test_a_breath_of_tilt_is_forgiven(tmp_path):
    dose = read_dose(make_dose(tmp_path / "d.dcm", ImageOrientationPatient=[1, -1.2e-16, 0, 0, 1, 7e-10]))
    assert dose.grid.shape == (3, 4, 5)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"DoseUnits": "RELATIVE"}, "RELATIVE"),
        ({"DoseUnits": None}, "Dose Units"),
        ({"DoseType": "EFFECTIVE"}, "EFFECTIVE"),
        ({"DoseSummationType": "BRACHY"}, "BRACHY"),
        ({"GridFrameOffsetVector": [0, 4, 9]}, "unevenly"),
        ({"GridFrameOffsetVector": [0, 4, 0]}, "unevenly"),
        ({"GridFrameOffsetVector": [0, 4]}, "2 numbers instead of 3"),
        ({"GridFrameOffsetVector": [12, 16, 20]}, "begin at 12"),
        ({"GridFrameOffsetVector": None}, "Grid Frame Offset Vector"),
        ({"ImageOrientationPatient": [0.999, 0.0447, 0, -0.0447, 0.999, 0]}, "tilted"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "tilted"),
        ({"ImagePositionPatient": None}, "Image Position"),
        ({"PixelSpacing": [0, 3]}, "no extent"),
        ({"DoseGridScaling": "0"}, "scaling"),
        ({"DoseGridScaling": "-1e-5"}, "scaling"),
        ({"DoseGridScaling": "1e30"}, "maximum of 5.9e.31 Gy"),
        ({"DoseGridScaling": "1e308"}, "maximum of inf Gy"),
        ({"PixelData": b"\0" * 100}, "100 bytes"),
        ({"PixelData": None}, "no dose values"),
        ({"BitsAllocated": 8}, "8 bits"),
        ({"NumberOfFrames": 1, "GridFrameOffsetVector": [0]}, "single frame"),
        ({"PixelRepresentation": 1, "PixelData": np.full(60, -1, dtype="<i4").tobytes()}, "negative"),
        ({"Modality": "RTPLAN"}, "RTPLAN"),
    ],
)
def test_what_is_wrong_is_refused_with_its_reason(tmp_path, changes, reason):
    with pytest.raises(InvalidInput, match=reason) as caught:
        read_dose(make_dose(tmp_path / "d.dcm", **changes))
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize("content", [b"", b"no dicom at all" * 20])
def test_files_that_are_no_dose(tmp_path, content):
    path = tmp_path / "x.dcm"
    path.write_bytes(content)
    with pytest.raises(UnreadableFile):
        read_dose(path)
    with pytest.raises(UnreadableFile, match="no file"):
        read_dose(tmp_path / "absent.dcm")


def test_what_the_densities_were_is_kept(tmp_path):
    assert read_dose(make_dose(tmp_path / "d.dcm")).heterogeneity == ()
    told = make_dose(tmp_path / "t.dcm", TissueHeterogeneityCorrection=["ROI_OVERRIDE", "WATER"])
    assert read_dose(told).heterogeneity == ("ROI_OVERRIDE", "WATER")


@pytest.mark.parametrize("kind", ["FRACTION", "FRACTION_SESSION", "BEAM_SESSION"])
def test_doses_of_sessions_are_read_as_what_they_are(tmp_path, kind):
    assert read_dose(make_dose(tmp_path / "d.dcm", DoseSummationType=kind)).summation == kind


def test_a_beam_that_is_named_in_two_fraction_groups_counts_once(tmp_path):
    groups = []
    for number in (1, 2):
        beam, group = Dataset(), Dataset()
        beam.ReferencedBeamNumber, group.ReferencedFractionGroupNumber = 7, number
        group.ReferencedBeamSequence = [beam]
        groups.append(group)
    plan = Dataset()
    plan.ReferencedFractionGroupSequence = groups
    path = make_dose(tmp_path / "d.dcm", DoseSummationType="BEAM", ReferencedRTPlanSequence=[plan])
    assert read_dose(path).beam_numbers == (7,)


def test_a_truncated_file_is_refused(tmp_path):
    whole = make_dose(tmp_path / "d.dcm").read_bytes()
    for part in (0.5, 0.9, 0.99):
        cut = tmp_path / "cut.dcm"
        cut.write_bytes(whole[: int(part * len(whole))])
        with pytest.raises(SpinedoseError):
            read_dose(cut)


def test_omissions_and_emptiness_are_warned_about(tmp_path):
    path = make_dose(
        tmp_path / "d.dcm", DoseType=None, DoseSummationType=None, PixelData=np.zeros(60, dtype="<u4").tobytes()
    )
    warnings = " ".join(read_dose(path).warnings)
    assert "dose type" in warnings
    assert "summation type" in warnings
    assert "zero everywhere" in warnings


# --- real files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("position", ["HFS", "HFP", "FFS", "FFP", "HFDL", "HFDR", "FFDL", "FFDR"])
def test_real_headers_of_every_patient_position(shared, tmp_path, position):
    folder = shared / "dicom" / "dose_orientations"
    dataset = pydicom.dcmread(folder / f"RD.DICOMORIENT.Dose_{position}.dcm")
    counts = (int(dataset.NumberOfFrames), int(dataset.Rows), int(dataset.Columns))
    raw = np.random.default_rng(1).integers(0, 2**16, counts, dtype=np.uint32)
    dataset.PixelData = raw.astype("<u4").tobytes()
    dataset["PixelData"].VR = "OW"
    dataset.BitsAllocated = dataset.BitsStored = 32
    path = tmp_path / "d.dcm"
    dataset.save_as(path, enforce_file_format=True)
    dose = read_dose(path)
    assert_voxels_stand_where_dicom_says(dose, dataset, raw, every=7)

    # The coordinates published with these files belong to another cut of the same doses (other extents), so what can be
    # compared is the sense in which each axis runs, the spacing and, head first, the frame positions.
    with (folder / "expected_coords.npy").open("rb") as file:
        x, y, z = np.load(file, allow_pickle=True).item()[position]
    orientation = np.array(dataset.ImageOrientationPatient, dtype=float)
    normal = np.cross(orientation[:3], orientation[3:])
    direction = orientation[:3] + orientation[3:] + normal
    for published, sense, spacing in zip((x, y, z), direction, dose.grid.spacing_cm, strict=True):
        assert np.diff(published) == pytest.approx(sense * spacing * 10)
    if position.startswith("H"):
        assert np.sort(z) / 10 == pytest.approx(dose.grid.axes_cm[2], abs=EXACT_CM)


def test_falling_frames_and_oblong_pixels(shared, tmp_path):
    packed = shared / "dicom" / "dose_orientations" / "rtdose_non_square_pixels.dcm.xz"
    path = tmp_path / "d.dcm"
    path.write_bytes(lzma.decompress(packed.read_bytes()))
    dose = read_dose(path)
    dataset = pydicom.dcmread(path, force=True)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    raw = np.frombuffer(dataset.PixelData, "<u2").reshape(77, 65, 77)
    assert_voxels_stand_where_dicom_says(dose, dataset, raw)
    assert dose.grid.spacing_cm[:2] == pytest.approx((0.100789473684210, 0.103125))
    assert dose.grid.axes_cm[2][-1] == pytest.approx(1.85)
    assert len(dose.warnings) == 2


def test_doses_of_a_planning_system_per_beam(shared):
    maxima, zero = {}, 0
    for path in sorted((shared / "dicom" / "oncentra_box_full" / "RD").iterdir()):
        dose = read_dose(path)
        assert dose.summation == "BEAM"
        assert dose.grid.shape == (5, 22, 22)
        if dose.dose.values.max() == 0:
            zero += 1
            assert "zero everywhere" in " ".join(dose.warnings)
            continue
        maxima[dose.beam_numbers] = float(dose.dose.values.max())
        if dose.beam_numbers == (1,):
            # On the axis of beam 1, as the collection's description states it [Gy].
            stated = [5.217, 6.083, 6.250, 6.201, 6.083, 5.940, 5.798, 5.648, 5.491, 5.309]
            np.testing.assert_allclose(dose.dose.values[2, 7:17, 9], stated, atol=6e-4)
    assert zero == 1
    assert maxima == {
        (1,): pytest.approx(6.2518, abs=6e-5),
        (2,): pytest.approx(5.527, abs=6e-4),
        (3,): pytest.approx(6.042, abs=6e-4),
    }


def test_the_stated_maximum_of_a_plan_dose(shared, tmp_path):
    path = tmp_path / "d.dcm"
    path.write_bytes(lzma.decompress((shared / "dicom" / "eclipse_breast_ecomp" / "rtdose.dcm.xz").read_bytes()))
    dose = read_dose(path)
    assert dose.summation == "PLAN"
    assert dose.grid.shape == (98, 129, 194)
    assert float(dose.dose.values.max()) == pytest.approx(14.680764, abs=2e-5)
    # The dose at the specification point, interpolated in a field with a gradient.
    assert float(dose.dose.sample([9.1918, -31.9571, -0.5756])) == pytest.approx(11.3113869, rel=5e-3)


def test_the_stored_histogram_agrees_with_the_stored_dose(shared):
    dose = read_dose(shared / "dicom" / "eclipse_qa_chamber" / "rtdose.dcm")
    assert float(dose.dose.values.max()) == pytest.approx(20.16, abs=0.4)  # the DVH of the whole body says 20.163


# --- writing ----------------------------------------------------------------------------------------------------------


def make_plan(**changes):
    beam = Beam(
        number=2,
        name="G0",
        machine="TB",
        energy="6X",
        meterset_mu=100,
        cumulative_meterset=[0, 1],
        gantry_deg=[0, 0],
        collimator_deg=[0, 0],
        couch_deg=[0, 0],
        isocentre_cm=[0, 0, 0],
    )
    identity = Identity("Synthetic^Spine", "SYN", "", "O", generate_uid(), "1", "20240101", "120000")
    known = {
        "uid": generate_uid(),
        "frame_of_reference_uid": generate_uid(),
        "structure_set_uid": generate_uid(),
        "identity": identity,
    }
    return Plan("spine", (beam,), **(known | changes))


def make_volume(top_gy=24.0):
    grid = Grid((-3.15, 2.05, -7.3), (0.25, 0.2, 0.3), (6, 7, 9))
    return Volume(grid, (np.random.default_rng(5).random(grid.shape) * top_gy).astype(np.float32))


@pytest.mark.parametrize("top_gy", [24.0, 3e-7, 1e4])
def test_a_dose_survives_the_round_trip(tmp_path, top_gy):
    volume, plan = make_volume(top_gy), make_plan()
    path = write_dose(tmp_path / "RD.dcm", volume, plan=plan, description="spinedose", comment="demo")
    back = read_dose(path)
    assert back.grid.is_close_to(volume.grid, EXACT_CM)
    np.testing.assert_allclose(back.dose.values, volume.values, rtol=1.2e-7, atol=1.5e-10 * top_gy)
    assert (back.summation, back.plan_uid) == ("PLAN", plan.uid)
    assert back.frame_of_reference_uid == plan.frame_of_reference_uid
    assert back.identity == plan.identity
    dataset = pydicom.dcmread(path)
    assert dataset.PatientID == "SYN"
    assert dataset.StudyInstanceUID == plan.identity.study_instance_uid
    assert "Not for clinical use" in dataset.DoseComment
    assert dataset.BitsAllocated == 32
    assert [p.name for p in tmp_path.iterdir()] == ["RD.dcm"]


def test_the_dose_of_a_beam_names_its_beam(tmp_path):
    plan = make_plan()
    back = read_dose(write_dose(tmp_path / "b.dcm", make_volume(), plan=plan, beam_number=2, summation="BEAM"))
    assert (back.summation, back.beam_numbers) == ("BEAM", (2,))


def test_a_dose_of_zero_can_be_written(tmp_path):
    volume = Volume(make_volume().grid, np.zeros((6, 7, 9), dtype=np.float32))
    back = read_dose(write_dose(tmp_path / "z.dcm", volume, plan=make_plan()))
    assert back.dose.values.max() == 0
    assert "zero everywhere" in back.warnings[0]


def test_the_ripple_of_the_series_is_stored_as_zero(tmp_path):
    """Where next to nothing arrives a truncated series of directions may be negative by a little."""
    volume = make_volume()
    values = volume.values.copy()
    values[0, 0, 0] = -1e-6 * values.max()
    back = read_dose(write_dose(tmp_path / "r.dcm", Volume(volume.grid, values), plan=make_plan()))
    assert back.dose.values.min() == 0 and back.dose.values[0, 0, 0] == 0
    values[0, 0, 0] = -1e-4 * values.max()
    with pytest.raises(NumericalError, match="never negative"):
        write_dose(tmp_path / "s.dcm", Volume(volume.grid, values), plan=make_plan())


def test_what_cannot_be_written_is_refused_and_leaves_no_file(tmp_path):
    volume, plan, path = make_volume(), make_plan(), tmp_path / "d.dcm"
    wrong = volume.values.copy()
    wrong[0, 0, 0] = np.nan
    with pytest.raises(NumericalError, match="not numbers"):
        write_dose(path, Volume(volume.grid, wrong), plan=plan)
    wrong[0, 0, 0] = -0.1
    with pytest.raises(NumericalError, match="negative"):
        write_dose(path, Volume(volume.grid, wrong), plan=plan)
    with pytest.raises(InvalidInput, match="beam number"):
        write_dose(path, volume, plan=plan, summation="BEAM")
    with pytest.raises(InvalidInput, match="no beam 9"):
        write_dose(path, volume, plan=plan, summation="BEAM", beam_number=9)
    with pytest.raises(InvalidInput, match="UID"):
        write_dose(path, volume, plan=make_plan(uid=""))
    with pytest.raises(InvalidInput, match="cannot be written"):
        write_dose(tmp_path / "absent" / "d.dcm", volume, plan=plan)
    assert list(tmp_path.iterdir()) == []


CURVE = Dvh("PTV", np.array([24.0, 20.0, 1.0]), np.array([1.0, 4.0, 5.0]), 5.0)


def test_histograms_go_along_and_name_their_structure_set(tmp_path):
    plan = make_plan()
    path = write_dose(tmp_path / "d.dcm", make_volume(), plan=plan, dvhs={7: CURVE})
    assert read_dose(path).structure_set_uid == plan.structure_set_uid
    (stored,) = pydicom.dcmread(path).DVHSequence
    assert stored.DVHReferencedROISequence[0].ReferencedROINumber == 7
    width, volume = np.array(stored.DVHData, dtype=float).reshape(-1, 2).T
    assert len(width) == stored.DVHNumberOfBins
    assert np.unique(width) == pytest.approx([0.03])  # 24 Gy in no more than 1000 bins, rounded up to 0.01 Gy
    # Lower edges: bin 33 begins at 0.99 Gy, bin 34 at 1.02; 666 at 19.98; 667 at 20.01.
    assert volume[[0, 33, 34, 666, 667]] == pytest.approx([5, 5, 4, 4, 1])
    with pytest.raises(InvalidInput, match="structure set"):
        write_dose(path, make_volume(), plan=make_plan(structure_set_uid=""), dvhs={7: CURVE})


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="needs dciodvfy of dicom3tools")
@pytest.mark.parametrize("beam_number", [None, 2])
def test_the_standard_is_kept(tmp_path, beam_number):
    path = write_dose(
        tmp_path / "RD.dcm",
        make_volume(),
        plan=make_plan(),
        beam_number=beam_number,
        summation="PLAN" if beam_number is None else "BEAM",
        description="spinedose",
        dvhs={7: CURVE} if beam_number is None else None,
    )
    # dciodvfy 1.00~20220618 aborts on 32-bit pixel data of any maker (an assertion of its own), so it is shown a copy
    # with the upper 16 bits; the elements that differ are proven here instead.
    dataset = pydicom.dcmread(path)
    assert (dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset["PixelData"].VR) == (32, 32, 31, "OW")
    dataset.PixelData = (np.frombuffer(dataset.PixelData, "<u4") >> 16).astype("<u2").tobytes()
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    copy = tmp_path / "copy.dcm"
    dataset.save_as(copy, enforce_file_format=True)
    verdict = subprocess.run(["dciodvfy", "-new", str(copy)], capture_output=True, text=True, check=False)
    lines = (verdict.stdout + verdict.stderr).splitlines()
    assert [line for line in lines if line.startswith("Error")] == []
    assert any("RTDose" in line for line in lines), lines  # the tool knew what it looked at, and came to its end
