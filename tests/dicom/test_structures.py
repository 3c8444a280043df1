"""RTSTRUCT: what real planning systems write is read right, what is odd is warned about, what we write is valid."""

from __future__ import annotations

import lzma
import shutil
import subprocess

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid

from spinedose.compare.dvh import dvh
from spinedose.density import CtImage
from spinedose.dicom.ct import write_ct
from spinedose.dicom.dose import read_dose
from spinedose.dicom.structures import read_structures, write_structures
from spinedose.errors import InvalidInput, SpinedoseError, UnreadableFile
from spinedose.grid import Grid, Volume
from spinedose.plan import Identity
from spinedose.structures import Structure, StructureSet, find_external, volume_cm3

SQUARE = [0, 0, 5, 10, 0, 5, 10, 10, 5, 0, 10, 5]
"""A square of 1 x 1 cm at z = 0.5 cm, as contour data [mm]."""


def at(height_mm):
    return [height_mm if k % 3 == 2 else v for k, v in enumerate(SQUARE)]


def region(number, name, *contours, kind="ORGAN", frame="1.2.3", types=None, properties=(), color=(1, 2, 3)):
    roi, drawn, observed = Dataset(), Dataset(), Dataset()
    roi.ROINumber, roi.ROIName, roi.ReferencedFrameOfReferenceUID = number, name, frame
    roi.ROIGenerationAlgorithm = ""
    drawn.ReferencedROINumber = number
    if color is not None:
        drawn.ROIDisplayColor = list(color)
    if contours:
        drawn.ContourSequence = []
        for k, data in enumerate(contours):
            contour = Dataset()
            contour.ContourGeometricType = types[k] if types else "CLOSED_PLANAR"
            contour.NumberOfContourPoints = len(data) // 3
            contour.ContourData = data
            drawn.ContourSequence.append(contour)
    observed.ObservationNumber = observed.ReferencedROINumber = number
    observed.RTROIInterpretedType, observed.ROIInterpreter = kind, ""
    if properties:
        observed.ROIPhysicalPropertiesSequence = []
        for what, value in properties:
            prop = Dataset()
            prop.ROIPhysicalProperty, prop.ROIPhysicalPropertyValue = what, value
            observed.ROIPhysicalPropertiesSequence.append(prop)
    return roi, drawn, observed


def make_set(path, *regions):
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = RTStructureSetStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
    dataset.Modality, dataset.StructureSetLabel = "RTSTRUCT", "label"
    dataset.StructureSetROISequence = [r[0] for r in regions]
    dataset.ROIContourSequence = [r[1] for r in regions]
    dataset.RTROIObservationsSequence = [r[2] for r in regions]
    dataset.save_as(path, enforce_file_format=True)
    return path


def test_a_plain_set_by_hand(tmp_path):
    path = make_set(tmp_path / "s.dcm", region(4, "Cord", at(5), at(8), at(11), kind="ORGAN", color=(9, 8, 7)))
    found = read_structures(path)
    (cord,) = found.structures
    assert (cord.number, cord.name, cord.type, cord.color) == (4, "Cord", "ORGAN", (9, 8, 7))
    np.testing.assert_allclose(cord.contours_cm[0], [(0, 0, 0.5), (1, 0, 0.5), (1, 1, 0.5), (0, 1, 0.5)])
    assert volume_cm3(cord) == pytest.approx(0.9)
    assert (found.label, found.frame_of_reference_uid, found.warnings) == ("label", "1.2.3", ())


def test_points_and_open_lines_are_skipped_and_empty_regions_kept(tmp_path):
    types = ["POINT", "OPEN_PLANAR", "OPEN_NONPLANAR"]
    found = read_structures(
        make_set(
            tmp_path / "s.dcm",
            region(1, "mixed", [1, 2, 3], SQUARE, [0, 0, 0, 5, 5, 5, 9, 9, 9], types=types),
            region(2, "empty"),
            region(3, "xor", SQUARE, types=["CLOSEDPLANAR_XOR"]),
        )
    )
    assert [len(s.contours_cm) for s in found.structures] == [0, 0, 1]
    assert [s.unread for s in found.structures] == ["they are open lines", "", ""]
    assert found.warnings == ()


def test_contours_outside_axial_planes_cost_the_structure_its_contours(tmp_path):
    tilted = [0, 0, 5, 10, 0, 5, 10, 10, 9]
    found = read_structures(
        make_set(tmp_path / "s.dcm", region(1, "oblique", SQUARE, tilted), region(2, "fine", SQUARE))
    )
    assert [len(s.contours_cm) for s in found.structures] == [0, 1]
    assert "'oblique'" in found.warnings[0]
    assert [s.unread for s in found.structures] == ["one of them lies outside axial planes", ""]


def test_a_region_of_another_frame_is_left_out(tmp_path):
    found = read_structures(
        make_set(
            tmp_path / "s.dcm", region(1, "a", SQUARE), region(2, "b", SQUARE), region(3, "mr", SQUARE, frame="9.9")
        )
    )
    assert found.frame_of_reference_uid == "1.2.3"
    assert [len(s.contours_cm) for s in found.structures] == [1, 1, 0]
    assert "'mr'" in found.warnings[0]


def test_density_overrides(tmp_path):
    found = read_structures(
        make_set(
            tmp_path / "s.dcm",
            region(1, "rods", SQUARE, properties=[("REL_MASS_DENSITY", "4.5"), ("REL_ELEC_DENSITY", "3.74")]),
            region(2, "couch", SQUARE, properties=[("REL_ELEC_DENSITY", "0.08"), ("ELEM_FRACTION", "0")]),
            region(3, "other", SQUARE, properties=[("EFFECTIVE_Z", "7.4")]),
        )
    )
    rods, couch, other = found.structures
    assert (rods.relative_mass_density, rods.relative_electron_density) == (4.5, 3.74)
    assert (couch.relative_mass_density, couch.relative_electron_density) == (None, 0.08)
    assert (other.relative_mass_density, other.relative_electron_density) == (None, None)
    assert len(found.warnings) == 1
    assert "'couch'" in found.warnings[0]


def test_the_spacing_of_a_single_plane_is_that_of_the_set(tmp_path):
    found = read_structures(
        make_set(
            tmp_path / "s.dcm",
            region(1, "body", at(0), at(3), at(6), at(9)),
            region(2, "flat", at(3)),
            region(3, "sparse", at(0), at(9), at(18)),
        )
    )
    body, flat, sparse = found.structures
    assert body.contour_spacing_cm == pytest.approx(0.3)
    assert volume_cm3(flat) == pytest.approx(0.3)
    assert sparse.contour_spacing_cm == pytest.approx(0.9)
    assert "'sparse'" in found.warnings[0]


def test_contours_without_area_and_equal_names_are_warned_about(tmp_path):
    found = read_structures(
        make_set(tmp_path / "s.dcm", region(1, "twin", SQUARE, [0, 0, 5, 1, 1, 5]), region(2, "twin", SQUARE))
    )
    assert len(found.structures[0].contours_cm) == 1
    assert "three points" in found.warnings[0]
    assert "2 structures are called 'twin'" in found.warnings[1]


@pytest.mark.parametrize(
    ("regions", "reason"),
    [
        ([region(1, "a", SQUARE), region(1, "b", SQUARE)], "twice"),
        ([region(1, "a", [0, 0, 5, 1, 1])], "5 coordinates"),
        ([region(1, "heavy", SQUARE, properties=[("REL_MASS_DENSITY", "99")])], "'heavy'"),
        (
            [region(1, "two", SQUARE, properties=[("REL_MASS_DENSITY", "1"), ("REL_MASS_DENSITY", "2")])],
            "two values",
        ),
    ],
)
def test_contradictions_are_refused(tmp_path, regions, reason):
    with pytest.raises(InvalidInput, match=reason):
        read_structures(make_set(tmp_path / "s.dcm", *regions))


def test_a_coordinate_that_is_no_number_is_refused(tmp_path):
    path = make_set(tmp_path / "s.dcm", region(1, "a", [0, 0, 5, 1234.25, 0, 5, 10, 10, 5]))
    path.write_bytes(path.read_bytes().replace(b"1234.25", b"12x4.25"))
    with pytest.raises(InvalidInput, match="Structure 'a'"):
        read_structures(path)


def test_files_that_are_no_structure_set(tmp_path):
    empty = tmp_path / "empty.dcm"
    empty.write_bytes(b"")
    whole = make_set(tmp_path / "s.dcm", region(1, "a", *[at(z) for z in range(50)]))
    cut = tmp_path / "cut.dcm"
    for path in (empty, tmp_path / "absent.dcm"):
        with pytest.raises(UnreadableFile):
            read_structures(path)
    for part in (0.2, 0.5, 0.8):
        cut.write_bytes(whole.read_bytes()[: int(part * whole.stat().st_size)])
        with pytest.raises(SpinedoseError):
            read_structures(cut)
    dataset = pydicom.dcmread(whole)
    dataset.Modality = "RTPLAN"
    dataset.save_as(cut, enforce_file_format=True)
    with pytest.raises(UnreadableFile, match="RTPLAN"):
        read_structures(cut)


# --- real files -------------------------------------------------------------------------------------------------------


@pytest.fixture
def unpack(shared, tmp_path):
    def unpack(name):
        packed = shared / "dicom" / name
        path = tmp_path / packed.name.removesuffix(".xz")
        path.write_bytes(lzma.decompress(packed.read_bytes()) if packed.suffix == ".xz" else packed.read_bytes())
        return path

    return unpack


def test_couch_with_overrides_point_and_odd_types(unpack):
    found = read_structures(unpack("raystation_sweeping_gap/RTSTRUCT.dcm.xz"))
    couch = found["Couch Top"]
    assert (couch.type, couch.relative_mass_density) == ("SUPPORT", 0.93)
    assert couch.relative_electron_density == pytest.approx(0.8364661)
    assert found["CTref"].contours_cm == ()
    assert found["MeasurementPoint"].type == "NONE"
    assert find_external(found) is found["External"]


def test_every_real_set_is_read(shared, unpack):
    for name, body in [
        ("monaco_tiny_vmat/TinyFS_StrctrSets.dcm", "patient"),
        ("eclipse_thorax_imrt/RTSTRUCT.dcm.xz", None),
        ("eclipse_breast_ecomp/rtss.dcm.xz", "BODY"),
        ("eclipse_qa_chamber/rtstruct.dcm.xz", "BODY"),
    ]:
        external = find_external(read_structures(unpack(name)))
        assert (external.name if external else None) == body
    (box,) = (shared / "dicom" / "oncentra_box_full").glob("RS*.dcm")
    # External is a rectangle of 50 x 50 mm on 5 planes, 75 mm apart.
    assert volume_cm3(read_structures(box)["External"]) == pytest.approx(5 * 7.5 * 25, rel=0.01)


def test_volumes_and_mean_doses_agree_with_the_planning_system(unpack):
    """Stored histograms of an Eclipse plan: percent of 14 Gy, volumes without the end caps that we give a structure."""
    found = read_structures(unpack("eclipse_breast_ecomp/rtss.dcm.xz"))
    path = unpack("eclipse_breast_ecomp/rtdose.dcm.xz")
    dose = read_dose(path).dose
    names = {s.number: s.name for s in found.structures}
    compared = 0
    for stored in pydicom.dcmread(path).DVHSequence:
        name = names[stored.DVHReferencedROISequence[0].ReferencedROINumber]
        if name not in ("Breast", "Heart", "Lt Lung", "Tumor Bed", "Tumor Bed Block"):
            continue  # BODY is cut differently there, and the others are slivers of 0.5 cm^3
        curve = dvh(dose, found[name])
        stored_volume = float(stored.DVHData[1])
        end_caps = 1 / len({contour[0, 2] for contour in found[name].contours_cm})
        assert curve.volume_cm3 == pytest.approx(stored_volume, rel=0.01 + end_caps / 2), name
        assert curve.mean_gy == pytest.approx(float(stored.DVHMeanDose) / 100 * 14, rel=0.01), name
        compared += 1
    assert compared == 5


# --- writing ----------------------------------------------------------------------------------------------------------


def make_structures():
    angle = 2 * np.pi * np.arange(90) / 90
    rings = tuple(
        np.column_stack([3 * np.cos(angle) + 0.12345, 2 * np.sin(angle), np.full(90, z)]) for z in (-0.2, 0.0, 0.2)
    )
    return StructureSet(
        (
            Structure(1, "BODY", "EXTERNAL", rings, color=(0, 200, 0)),
            Structure(2, "Rods", "ORGAN", rings[:1], 4.5, 3.74),
            Structure(7, "later", "PTV"),
        ),
        label="demo",
        uid=generate_uid(),
        frame_of_reference_uid=generate_uid(),
    )


def make_ct(folder, frame, identity):
    grid = Grid((-5, -5, -0.2), (0.5, 0.5, 0.2), (3, 21, 21))
    image = CtImage(Volume(grid, np.zeros(grid.shape, dtype=np.int16)), frame_of_reference_uid=frame)
    return write_ct(image, folder, identity=identity)


IDENTITY = Identity("Synthetic^Spine", "SYN", "", "O", generate_uid(), "1", "20240101", "120000")


def test_structures_survive_the_round_trip(tmp_path):
    written = make_structures()
    slices = make_ct(tmp_path / "CT", written.frame_of_reference_uid, IDENTITY)
    path = write_structures(written, tmp_path / "RS.dcm", identity=IDENTITY, ct_files=slices)
    found = read_structures(path)
    assert (found.label, found.uid, found.frame_of_reference_uid) == (
        written.label,
        written.uid,
        written.frame_of_reference_uid,
    )
    assert found.identity == IDENTITY
    for one, other in zip(written.structures, found.structures, strict=True):
        for field in ("number", "name", "type", "relative_mass_density", "relative_electron_density", "color"):
            assert getattr(one, field) == getattr(other, field)
        for a, b in zip(one.contours_cm, other.contours_cm, strict=True):
            np.testing.assert_allclose(a, b, atol=0.6e-4)  # stored to 0.001 mm
    dataset = pydicom.dcmread(path)
    (frame,) = dataset.ReferencedFrameOfReferenceSequence
    images = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0].ContourImageSequence
    assert [i.ReferencedSOPInstanceUID for i in images] == [pydicom.dcmread(s).SOPInstanceUID for s in slices]
    drawn_on = dataset.ROIContourSequence[1].ContourSequence[0].ContourImageSequence[0].ReferencedSOPInstanceUID
    assert drawn_on == pydicom.dcmread(slices[0]).SOPInstanceUID
    assert dataset.PatientID == "SYN"


def test_a_failed_write_leaves_nothing(tmp_path):
    with pytest.raises(InvalidInput, match="cannot be written"):
        write_structures(make_structures(), tmp_path / "absent" / "RS.dcm")
    assert list(tmp_path.iterdir()) == []


def test_slices_of_two_series_are_refused(tmp_path):
    slices = make_ct(tmp_path / "a", "1.2.3", IDENTITY) + make_ct(tmp_path / "b", "1.2.3", IDENTITY)
    with pytest.raises(InvalidInput, match="2 series"):
        write_structures(make_structures(), tmp_path / "RS.dcm", ct_files=slices)


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="needs dciodvfy of dicom3tools")
def test_the_standard_is_kept(tmp_path):
    written = make_structures()
    slices = make_ct(tmp_path / "CT", written.frame_of_reference_uid, IDENTITY)
    path = write_structures(written, tmp_path / "RS.dcm", identity=IDENTITY, ct_files=slices)
    verdict = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, text=True, check=False)
    lines = (verdict.stdout + verdict.stderr).splitlines()
    assert [line for line in lines if line.startswith("Error")] == []
    assert any("RTStructureSet" in line for line in lines), lines  # the tool knew what it looked at
