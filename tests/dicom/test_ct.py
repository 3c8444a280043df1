"""The CT reader on small series whose voxels are worked out by hand, and the writer's round trip."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest

from spinedose.density import CtImage
from spinedose.dicom.ct import read_ct, write_ct
from spinedose.errors import InvalidInput, SpinedoseError, UnreadableFile, UnsupportedPlan
from spinedose.grid import Grid, Volume
from spinedose.plan import Identity

from . import synthetic as syn

ROUNDING_CM = 1e-9  # coordinates pass through decimal text and a division by ten

STORED = np.arange(24).reshape(3, 2, 4) * 10 + 1000  # three slices of two rows and four columns


def series(folder: Path, **elements: object) -> Path:
    return syn.save_series(syn.ct_slices(STORED, z=(5, 7.5, 10), corner=(-6, 20), **elements), folder / "ct")


def refusal(folder: Path, kind: type[SpinedoseError] = InvalidInput, **arguments: object) -> str:
    with pytest.raises(kind) as caught:
        read_ct(folder, **arguments)  # type: ignore[arg-type]
    return str(caught.value)


def change(folder: Path, index: int, **elements: object) -> None:
    """Rewrite one slice of a saved series with other elements; None takes one away."""
    path = folder / f"slice{index:03d}.dcm"
    dataset = pydicom.dcmread(path)
    for keyword, value in elements.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    dataset.save_as(path)


# ----------------------------------------------------------------------------------------------------- what is read


@pytest.mark.parametrize("bare", [False, True])
def test_reads_hu_and_grid(tmp_path: Path, bare: bool) -> None:
    """Rows 2 mm, columns 3 mm, SliceThickness 0, 2 x 4 matrix, intercept -1024, with and without file meta group."""
    slices = syn.ct_slices(STORED, z=(5, 7.5, 10), corner=(-6, 20))
    ct = read_ct(syn.save_series(slices, tmp_path / "ct", bare=bare))
    np.testing.assert_array_equal(ct.hu.values, STORED - 1024)
    assert ct.hu.values.dtype == np.float32
    assert ct.hu.grid.is_close_to(Grid((-0.6, 2.0, 0.5), (0.3, 0.2, 0.25), (3, 2, 4)), ROUNDING_CM)
    assert (ct.patient_position, ct.uid, ct.frame_of_reference_uid) == ("HFS", "1.2.4", "1.2.3.5")
    assert ct.saturated_voxels == 0 and ct.warnings == ()


def test_slices_are_sorted_by_position_not_by_name(tmp_path: Path) -> None:
    slices = syn.ct_slices(STORED, z=(10, 5, 7.5))
    ct = read_ct(syn.save_series(slices, tmp_path / "ct"))
    np.testing.assert_array_equal(ct.hu.values, STORED[[1, 2, 0]] - 1024)
    assert ct.hu.grid.origin_cm[2] == pytest.approx(0.5, abs=ROUNDING_CM)


@pytest.mark.parametrize(("slope", "intercept"), [(1, 0), (1, -1000), (1, -1024), (2, -1024), (0.5, 3.25)])
def test_rescale(tmp_path: Path, slope: float, intercept: float) -> None:
    ct = read_ct(series(tmp_path, RescaleSlope=str(slope), RescaleIntercept=str(intercept)))
    np.testing.assert_array_equal(ct.hu.values, STORED * slope + intercept)


def test_each_slice_has_its_own_rescale(tmp_path: Path) -> None:
    folder = series(tmp_path)
    change(folder, 1, RescaleIntercept="-1000")
    np.testing.assert_array_equal(read_ct(folder).hu.values[:, 0, 0], [-24, 80, 136])


def test_signed_pixels(tmp_path: Path) -> None:
    stored = np.array([[[-1000, 0]], [[40, 3000]]])
    slices = syn.ct_slices(
        stored.astype("<i2").view("<u2"),
        z=(0, 1),
        PixelRepresentation=1,
        BitsStored=16,
        HighBit=15,
        RescaleIntercept="0",
    )
    np.testing.assert_array_equal(read_ct(syn.save_series(slices, tmp_path / "ct")).hu.values, stored)


# Position of the first voxel for each orientation, so that the same box of patient space is covered: columns along
# x over 4 x 3 mm, rows along y over 2 x 2 mm.
@pytest.mark.parametrize(
    ("orientation", "corner", "flips"),
    [
        ((1, 0, 0, 0, 1, 0), (0, 0), ()),
        ((-1, 0, 0, 0, 1, 0), (9, 0), (2,)),
        ((1, 0, 0, 0, -1, 0), (0, 2), (1,)),
        ((-1, 0, 0, 0, -1, 0), (9, 2), (1, 2)),
        ((1, 1e-16, -1.2e-16, 0, 1, 0), (0, 0), ()),
    ],
)
@pytest.mark.parametrize("position", ["HFS", "HFP", "FFS", "FFP"])
def test_axes_rise_in_every_orientation(
    tmp_path: Path, orientation: tuple[float, ...], corner: tuple[float, float], flips: tuple[int, ...], position: str
) -> None:
    """Each voxel keeps its patient coordinates: column c lies at corner + 3 mm x c along the direction of the row."""
    slices = syn.ct_slices(STORED, z=(5, 7.5, 10), orientation=orientation, corner=corner, PatientPosition=position)
    ct = read_ct(syn.save_series(slices, tmp_path / "ct"))
    assert ct.patient_position == position
    assert ct.hu.grid.is_close_to(Grid((0, 0, 0.5), (0.3, 0.2, 0.25), (3, 2, 4)), ROUNDING_CM)
    np.testing.assert_array_equal(ct.hu.values, np.flip(STORED, flips) - 1024 if flips else STORED - 1024)


def test_in_plane_axes_can_be_exchanged(tmp_path: Path) -> None:
    """Columns along y, rows along x: a slice of 2 rows and 4 columns covers 2 voxels of 2 mm in x, 4 of 3 mm in y."""
    slices = syn.ct_slices(STORED, z=(5, 7.5, 10), orientation=(0, 1, 0, 1, 0, 0))
    ct = read_ct(syn.save_series(slices, tmp_path / "ct"))
    assert ct.hu.grid.is_close_to(Grid((0, 0, 0.5), (0.2, 0.3, 0.25), (3, 4, 2)), ROUNDING_CM)
    np.testing.assert_array_equal(ct.hu.values, STORED.transpose(0, 2, 1) - 1024)


def test_sagittal_slices(tmp_path: Path) -> None:
    """Columns along y, rows towards -z, slices along x."""
    slices = syn.ct_slices(STORED, z=(2, 2, 2), orientation=(0, 1, 0, 0, 0, -1))
    for k, one in enumerate(slices):
        one.ImagePositionPatient = [str(10 + k), "0", "2"]
    ct = read_ct(syn.save_series(slices, tmp_path / "ct"))
    assert ct.hu.grid.is_close_to(Grid((1.0, 0, 0), (0.1, 0.3, 0.2), (2, 4, 3)), ROUNDING_CM)
    np.testing.assert_array_equal(ct.hu.values, np.flip(STORED, 1).transpose(1, 2, 0) - 1024)


def test_rounded_positions_are_even(tmp_path: Path) -> None:
    """Slices 1.333... mm apart, written with two decimals, are off by up to 0.005 mm."""
    z = [round(k * 4 / 3, 2) for k in range(7)]
    ct = read_ct(syn.save_series(syn.ct_slices(np.full((7, 2, 2), 1024), z=z), tmp_path / "ct"))
    assert ct.hu.grid.spacing_cm[2] == pytest.approx(0.4 / 3, abs=1e-4)


def test_other_files_are_passed_over(tmp_path: Path) -> None:
    folder = series(tmp_path)
    syn.save(syn.plan(), folder / "plan.dcm")
    (folder / ".hidden.dcm").write_bytes(b"nothing")
    (folder / "notes.txt").write_text("not a slice")
    (folder / "deeper").mkdir()
    scout = syn.ct_slices(STORED[:1], z=(99,), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], SeriesInstanceUID="9.9")
    syn.save(scout[0], folder / "scout.dcm")
    assert read_ct(folder).hu.grid.shape == (3, 2, 4)


# --------------------------------------------------------------------------------------------- saturation and padding


@pytest.mark.parametrize(
    ("intercept", "top", "hu"),
    [("-1024", 4095, 3071), ("-1000", 4095, 3095), ("-1000", 4071, 3071)],
)
def test_saturated_voxels_are_counted(tmp_path: Path, intercept: str, top: int, hu: float) -> None:
    """12-bit scales end at 4095; a scale that ends at 3071 HU inside a wider file is seen too."""
    stored = STORED.copy()
    stored[1, 0, :3] = top
    slices = syn.ct_slices(stored, z=(0, 1, 2), RescaleIntercept=intercept)
    ct = read_ct(syn.save_series(slices, tmp_path / "ct"))
    assert ct.saturated_voxels == 3
    assert ct.warnings[0].startswith(f"3 CT voxel(s) stand at the top of the stored scale ({hu:g} HU)")


def test_a_bright_voxel_below_the_top_is_not_saturated(tmp_path: Path) -> None:
    stored = STORED.copy()
    stored[0, 0, 0] = 4000
    ct = read_ct(syn.save_series(syn.ct_slices(stored, z=(0, 1, 2)), tmp_path / "ct"))
    assert ct.saturated_voxels == 0 and ct.warnings == ()


def test_padding_becomes_air(tmp_path: Path) -> None:
    stored = np.full((2, 2, 2), 1064)
    stored[:, 0, 0] = 0
    stored[1, 0, 1] = 5
    slices = syn.ct_slices(stored, z=(0, 1), PixelPaddingValue=0, PixelPaddingRangeLimit=10)
    ct = read_ct(syn.save_series(slices, tmp_path / "ct"))
    np.testing.assert_array_equal(ct.hu.values, [[[-1000, 40], [40, 40]], [[-1000, -1000], [40, 40]]])
    assert ct.warnings == ("3 CT voxel(s) of padding outside the scanned circle were taken as air.",)


def test_padding_that_is_matter_is_kept(tmp_path: Path) -> None:
    """A padding value of 0 with intercept 0 would turn water into air."""
    stored = np.array([[[0, 40]], [[0, 50]]])
    slices = syn.ct_slices(stored, z=(0, 1), PixelPaddingValue=0, RescaleIntercept="0")
    ct = read_ct(syn.save_series(slices, tmp_path / "ct"))
    np.testing.assert_array_equal(ct.hu.values, stored)
    assert "stands for 0 HU, which is matter" in ct.warnings[0]


# --------------------------------------------------------------------------------------- missing, double, mixed, odd


def test_a_missing_slice_is_named_or_interpolated(tmp_path: Path) -> None:
    stored = np.array([1000, 1010, 1030, 1040]).reshape(4, 1, 1) * np.ones((1, 2, 2), dtype=int)
    folder = syn.save_series(syn.ct_slices(stored, z=(0, 3, 9, 12)), tmp_path / "ct")
    text = refusal(folder)
    assert "lacks 1 slice(s)" in text and "'slice001.dcm' at 3.00 mm" in text and "'slice002.dcm' at 9.00 mm" in text
    ct = read_ct(folder, missing_slices="interpolate")
    np.testing.assert_array_equal(ct.hu.values[:, 0, 0], [-24, -14, -4, 6, 16])
    assert ct.hu.grid.spacing_cm[2] == pytest.approx(0.3, abs=ROUNDING_CM)
    assert ct.warnings == ("1 CT slice(s) missing at 6.00 mm were interpolated between their neighbours.",)


def test_two_slices_missing_in_a_row_are_refused(tmp_path: Path) -> None:
    folder = syn.save_series(syn.ct_slices(np.full((4, 2, 2), 1024), z=(0, 3, 12, 15)), tmp_path / "ct")
    assert "several slices in a row" in refusal(folder, missing_slices="interpolate")


def test_three_slices_with_one_missing(tmp_path: Path) -> None:
    folder = syn.save_series(syn.ct_slices(np.full((3, 2, 2), 1024), z=(0, 3, 9)), tmp_path / "ct")
    assert "lacks 1 slice(s)" in refusal(folder)


@pytest.mark.parametrize(
    ("thickness", "is_said"), [("1.25", True), ("1.5", True), ("2", False), ("2.5", False), ("0", False), ("", False)]
)
def test_slices_further_apart_than_they_are_thick(tmp_path: Path, thickness: str, is_said: bool) -> None:
    """Every second slice of a series may be missing without a gap in the spacing, which is 2.5 mm here."""
    warnings = read_ct(series(tmp_path, SliceThickness=thickness)).warnings
    assert any(f"2.5 mm apart, but {thickness} mm thick" in text for text in warnings) == is_said
    assert len(warnings) == is_said


def test_a_series_without_thickness(tmp_path: Path) -> None:
    slices = syn.ct_slices(STORED, z=(5, 7.5, 10))
    for one in slices:
        del one.SliceThickness
    assert read_ct(syn.save_series(slices, tmp_path / "ct")).warnings == ()


def test_whose_it_is(tmp_path: Path) -> None:
    ct = read_ct(series(tmp_path, PatientName="Doe^Jane", PatientID="12 "))
    assert (ct.identity.patient_name, ct.identity.patient_id) == ("Doe^Jane", "12")


def test_double_slices_are_named(tmp_path: Path) -> None:
    folder = syn.save_series(syn.ct_slices(STORED, z=(0, 3, 3)), tmp_path / "ct")
    assert "'slice001.dcm' and 'slice002.dcm' lie at the same position (3.00 mm)" in refusal(folder)


def test_uneven_slices_are_named(tmp_path: Path) -> None:
    folder = syn.save_series(syn.ct_slices(np.full((5, 2, 2), 1024), z=(0, 3, 6, 10, 13)), tmp_path / "ct")
    text = refusal(folder)
    assert "unevenly spaced" in text and "'slice002.dcm' at 6.000 mm and 'slice003.dcm' at 10.000 mm" in text


def test_a_single_slice_is_refused(tmp_path: Path) -> None:
    folder = syn.save_series(syn.ct_slices(STORED[:1], z=(0,)), tmp_path / "ct")
    assert "single slice, 'slice000.dcm'" in refusal(folder)


@pytest.mark.parametrize(
    ("elements", "words"),
    [
        ({"SeriesInstanceUID": "9.9"}, "mixes 2 series"),
        ({"FrameOfReferenceUID": "9.9"}, "mixes 2 frames of reference"),
        ({"PatientPosition": "HFP"}, "mixes 2 patient positions"),
        ({"ImageOrientationPatient": ["-1", "0", "0", "0", "1", "0"]}, "mixes 2 image orientations"),
        ({"Rows": 4, "Columns": 2}, "mixes 2 matrix sizes"),
    ],
)
def test_mixed_series_are_refused_by_name(tmp_path: Path, elements: dict[str, object], words: str) -> None:
    folder = series(tmp_path)
    change(folder, 1, **elements)
    text = refusal(folder)
    assert words in text and "'slice001.dcm'" in text and "'slice000.dcm' ..." in text


@pytest.mark.parametrize("spacing", [["2", "2"], ["2.000000", "1.51"]])
def test_other_pixels_are_refused_by_name(tmp_path: Path, spacing: list[str]) -> None:
    folder = series(tmp_path)
    change(folder, 1, PixelSpacing=spacing)
    text = refusal(folder)
    assert "'slice001.dcm' has a pixel spacing of " in text and "'slice000.dcm'" in text


def test_spacings_that_are_rounded_anew_on_each_slice_are_one(tmp_path: Path) -> None:
    """Over four columns a pixel moves by 4e-7 mm."""
    expected = read_ct(series(tmp_path)).hu.grid
    spacing = [float(10 * h) for h in expected.spacing_cm[1::-1]]
    change(tmp_path / "ct", 1, PixelSpacing=[f"{one * (1 + 1e-7):.12g}" for one in spacing])
    assert read_ct(tmp_path / "ct").hu.grid == expected


@pytest.mark.parametrize(("whose", "odd"), [({1: "B"}, "slice001"), ({1: "B", 2: "B"}, "slice000")])
def test_a_slice_of_another_patient_is_refused(tmp_path: Path, whose: dict[int, str], odd: str) -> None:
    folder = series(tmp_path)
    for index in range(3):
        change(folder, index, PatientID=whose.get(index, "A"))
    text = refusal(folder)
    assert text.startswith(f"1 CT slice(s), '{odd}.dcm', are of another patient than") and "patient IDs differ" in text
    change(folder, 1, PatientID=" a ")
    change(folder, 2, PatientID="")
    assert read_ct(folder).hu.grid.shape[0] == 3  # padding, case and missing IDs tell nothing


def test_a_tilted_gantry_is_refused(tmp_path: Path) -> None:
    folder = series(tmp_path)
    change(folder, 2, ImagePositionPatient=["-6", "21", "10"])
    assert "'slice002.dcm' is shifted by 1.000 mm along y" in refusal(folder)


@pytest.mark.parametrize(
    ("elements", "words"),
    [
        ({"ImageOrientationPatient": ["0.9986", "0.0523", "0", "-0.0523", "0.9986", "0"]}, "is oblique"),
        ({"ImageOrientationPatient": ["1", "0", "0", "1", "0", "0"]}, "is oblique"),
        ({"ImageOrientationPatient": ["0"] * 6}, "is oblique"),
        ({"ImageOrientationPatient": None}, "has no Image Orientation (Patient)"),
        ({"ImagePositionPatient": None}, "has no Image Position (Patient)"),
        ({"ImagePositionPatient": ["nan", "0", "0"]}, "not finite"),
        ({"PixelSpacing": None}, "has no Pixel Spacing"),
        ({"PixelSpacing": ["0", "1"]}, "they need a size"),
        ({"RescaleSlope": None}, "has no Rescale Slope"),
        ({"RescaleSlope": "0"}, "that is no HU scale"),
        ({"RescaleType": "MGML"}, "is in units of MGML"),
        ({"NumberOfFrames": "3"}, "multi-frame"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2.1"}, "multi-frame"),
        ({"PhotometricInterpretation": "RGB"}, "not a MONOCHROME2 image"),
        ({"BitsStored": 0}, "unreadable pixel data|stores 0 bits"),
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_wrong_slices_are_refused_by_name(tmp_path: Path, elements: dict[str, object], words: str) -> None:
    folder = series(tmp_path)
    change(folder, 1, **elements)
    text = refusal(folder)
    assert any(word in text for word in words.split("|")) and "'slice001.dcm'" in text


def test_patient_position(tmp_path: Path) -> None:
    folder = series(tmp_path, PatientPosition=None)
    assert "patient_position" in refusal(folder)
    assert read_ct(folder, patient_position="FFS").patient_position == "FFS"
    for k in range(3):
        change(folder, k, PatientPosition="HFDR")
    assert "HFDR" in refusal(folder, UnsupportedPlan)
    ct = read_ct(folder, patient_position="HFS")
    assert "overruled" in ct.warnings[0]


def test_damaged_files_are_refused_by_name(tmp_path: Path) -> None:
    folder = series(tmp_path)
    victim = folder / "slice001.dcm"
    whole = victim.read_bytes()
    for content, words in (
        (b"", "'slice001.dcm' is empty"),
        (b"hello" * 100, "'slice001.dcm'"),
        (whole[:-8], "'slice001.dcm'"),
        (whole[:300], "'slice001.dcm'"),
    ):
        victim.write_bytes(content)
        with pytest.raises(SpinedoseError) as caught:
            read_ct(folder)
        assert words in str(caught.value)
    (folder / "IM00017").write_bytes(b"no suffix and not DICOM")
    victim.write_bytes(whole)
    assert "'IM00017'" in refusal(folder, UnreadableFile)


def test_folders_without_ct(tmp_path: Path) -> None:
    assert "has no CT slices" in refusal(tmp_path)
    assert "There is no folder" in refusal(tmp_path / "absent")
    (tmp_path / "file").write_text("")
    assert "is not a folder" in refusal(tmp_path / "file")
    assert "'guess' is no way to treat missing slices" in refusal(tmp_path, missing_slices="guess")


# ---------------------------------------------------------------------------------------------------------- writing


def image(values: np.ndarray | None = None) -> CtImage:
    if values is None:
        values = np.random.default_rng(5).integers(-1024, 12000, (4, 3, 5)).astype(np.float32)
    return CtImage(
        hu=Volume(Grid((-12.35, 4.8, -100.125), (0.125, 0.09765625, 0.3), values.shape), values),
        patient_position="HFP",
        uid="1.2.3.9",
        frame_of_reference_uid="1.2.3.8",
    )


def test_round_trip_is_exact(tmp_path: Path) -> None:
    before = image()
    files = write_ct(before, tmp_path / "new" / "ct", identity=Identity(patient_name="Doe^J", study_instance_uid="1.9"))
    assert [f.name for f in files] == ["CT_0001.dcm", "CT_0002.dcm", "CT_0003.dcm", "CT_0004.dcm"]
    after = read_ct(tmp_path / "new" / "ct")
    np.testing.assert_array_equal(after.hu.values, before.hu.values)
    assert after.hu.grid.is_close_to(before.hu.grid, ROUNDING_CM)
    assert (after.patient_position, after.uid, after.frame_of_reference_uid) == ("HFP", "1.2.3.9", "1.2.3.8")
    assert after.warnings == ()
    write_ct(before, tmp_path / "new" / "ct")  # the same series again replaces its files
    assert len(list((tmp_path / "new" / "ct").iterdir())) == 4


def test_writing_refuses_what_it_cannot_store(tmp_path: Path) -> None:
    for values, words in ((np.full((2, 2, 2), 0.5), "not whole"), (np.full((2, 2, 2), 40000.0), "do not fit 16 bits")):
        with pytest.raises(InvalidInput, match=words):
            write_ct(image(values), tmp_path / "ct")
    assert not (tmp_path / "ct").exists()
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "CT_0099.dcm").write_bytes(b"x")
    with pytest.raises(InvalidInput, match="already holds"):
        write_ct(image(), folder)
    assert [path.name for path in folder.iterdir()] == ["CT_0099.dcm"]


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="needs dciodvfy of dicom3tools")
def test_dciodvfy_finds_no_error(tmp_path: Path) -> None:
    path = write_ct(image(), tmp_path / "ct", identity=Identity(patient_name="Doe^J", patient_id="1"))[0]
    result = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
    text = result.stdout + result.stderr
    assert "CTImage" in text and "Error" not in text, text
