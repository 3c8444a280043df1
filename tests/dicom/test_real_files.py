"""Every real CT and RTPLAN of the shared material is read with the right values, or refused for the right reason.

Expected values come from the notes that travel with the files, not from our own reader. The table of outcomes for
people is `docs/howto/real_files.md`; a test holds that it names every file.
"""

from __future__ import annotations

import lzma
import tarfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spinedose.density import CtImage
from spinedose.dicom._reading import open_dicom
from spinedose.dicom.ct import read_ct
from spinedose.dicom.plan import read_plan, write_plan
from spinedose.errors import InvalidInput, SpinedoseError, UnsupportedPlan
from spinedose.plan import Plan

TABLE = Path(__file__).resolve().parents[2] / "docs" / "howto" / "real_files.md"

ONCENTRA = "oncentra_box_full/RP1.3.6.1.4.1.2452.6.2467388899.1146065960.224089749.3085483327.dcm"
WATER = "ct_phantoms/water_phantom_503slices_ct_rs.zip"


@dataclass(frozen=True)
class Computed:
    """What a plan must hold; metersets in beam order, gantry start and end of the first beam, doses in Gy."""

    path: str
    beams: int
    energies: set[str]
    mu: list[float]
    fractions: int
    gantry: tuple[float, float]
    isocentre_mm: tuple[float, float, float]
    pairs: int | None = 60
    skipped: int = 0
    doses: list[float] = field(default_factory=list)
    arguments: dict[str, Any] = field(default_factory=dict)
    mu_tolerance: float = 0.05  # the notes give metersets with one or two decimals


COMPUTED = [
    Computed(
        "clinac_vmat_dynalog/RTPLAN.dcm", 1, {"6X"}, [757.16], 1, (181, 539), (0.0195, 0.0188, 55),
        doses=[2.0642473],
    ),
    Computed(
        "eclipse_breast_ecomp/rtplan.dcm", 4, {"6X", "10X"}, [97, 87, 89, 94], 7, (327, 327), (72.53, -304.34, -9.31),
        doses=[0.89511 * 0.5, 0.77208 * 0.5, 0.87264 * 0.5, 0.69200 * 0.5],
    ),
    Computed(
        "eclipse_breast_fif_bolus/RTPLAN.dcm", 2, {"6X"}, [154.849, 142.937], 16, (313, 313), (33.9, 16.434, 20),
        doses=[1.40993, 1.19783], arguments={"bolus": "ignore"},
    ),
    Computed(
        "eclipse_plans_only/BREAST_FiF_EDW_arc_18beams.dcm", 13, {"6X", "15X"}, [39, 45], 18, (190, 190),
        (-1.613, -96.4537, 57), skipped=5,
        arguments={"beams": [12, 10, 8, 7, 5, 1, 9, 15, 11, 4, 6, 3, 2]},
    ),
    Computed(
        "eclipse_plans_only/FiF_small.dcm", 1, {"6X"}, [200], 1, (0, 0), (-0.84, 0.309, 0), doses=[2 * 0.92399512]
    ),
    Computed(
        "eclipse_plans_only/HN_VMAT_HD120_ARIA8.dcm", 2, {"6X"}, [308.3, 372.7], 30, (179.9, -179.9),
        (-5.572, -53.476, 329.592),
    ),
    Computed(
        "eclipse_plans_only/SABR_VMAT_PELL.dcm", 2, {"6X"}, [557.9, 564.9], 5, (0, 179), (30.708, 112.358, -195.5),
        skipped=4,
    ),
    Computed(
        "eclipse_plans_only/TBI4_VMAT_3iso_HFS.dcm.xz", 9, {"6X"}, [107.55, 171.13], 6, (179, -179),
        (-0.867, -26.614, 203.5),
    ),
    Computed("eclipse_qa_chamber/rtplan.dcm", 2, {"6X"}, [195.37, 194.67], 5, (0, 0), (-4.08, -251.402, 554.385)),
    Computed(
        "eclipse_thorax_imrt/RTPLAN.dcm.xz", 7, {"6X"}, [290.9, 146.8, 112.9, 153.6, 120.9, 111.1, 169.3], 23, (0, 0),
        (7.529, -234.011, -16.132), skipped=5,
    ),
    Computed(
        "monaco_agility_commissioning/06MV_squares_RTPLAN.dcm", 10, {"6X"}, [1000] * 10, 1, (0, 0), (0, -200, 0),
        pairs=80, doses=[6.548, 6.857, 7.075, 7.269, 7.661, 8.119, 8.669, 8.865, 9.259, 9.400],
    ),
    Computed(
        "monaco_agility_plans_only/DMLC_2fractiongroups.dcm", 3, {"6X"}, [185.31, 170.58, 119.69], 4, (0, 0),
        (94.1, -318.1, 0), pairs=80, skipped=3, doses=[0.033, 0.075, 0.213], arguments={"fraction_group": 2},
    ),
    Computed(
        "monaco_agility_plans_only/DMLC_9beams.dcm", 9, {"6X"}, [136.31, 110.46], 28, (160, 160), (-6, -188, 46),
        pairs=80, doses=[0.103, 0.169, 0.180, 0.127, 0.046, 0.289, 0.189, 0.152, 0.244],
    ),
    Computed("monaco_agility_plans_only/FFF_example.dcm", 1, {"6FFF"}, [301.94], 1, (0, 0), (0, 0, 0), pairs=80),
    Computed(
        "monaco_agility_plans_only/VersaHD_sliding_slit10_6X.dcm", 1, {"6X"}, [100], 1, (0, 0), (0, -100, -0.5),
        pairs=80, doses=[0.390],
    ),
    Computed(
        "monaco_agility_plans_only/VersaHD_squares_7fields.dcm", 7, {"6X"}, [100] * 7, 1, (0, 0), (0, -50, 0), pairs=80,
        doses=[0.894, 0.937, 0.971, 0.996, 1.017, 1.055, 1.052],
    ),
    Computed(
        "monaco_tiny_vmat/TinyFS_TinyVMAT.dcm", 1, {"6X"}, [598.84], 2, (180, 540), (0, 0, 0), pairs=80, doses=[2.683]
    ),
    Computed(
        ONCENTRA, 2, {"6X", "15X"}, [100, 100], 5, (0, 0), (0.29, 0.59, 0), pairs=None, skipped=1,
        arguments={"beams": [1, 2]},
    ),
    Computed(
        "pinnacle_plans_only/IMRT_ElektaMLCi_3fractiongroups.dcm", 8, {"6X"}, [54.8, 65.1, 40.4, 58.9, 74, 57.5], 13,
        (200, 200), (-1.538, 80.698, -267.999), pairs=40, skipped=18, arguments={"fraction_group": 3},
    ),
    Computed(
        "raystation_sweeping_gap/SG_RTPLAN.dcm", 4, {"6X"}, [200] * 4, 1, (0, 0), (0.482, 0.622, 0),
        doses=[0.08584792, 0.1413204, 0.2522427, 0.3627461],
    ),
    Computed(
        "raystation_synergy/SQUARES_12beams_RTPLAN.dcm", 12, {"6X"}, [100] * 12, 1, (0, 0), (0, 0.5, 0), pairs=40,
        doses=[
            0.6593952, 0.7396954, 0.7677078, 0.58864, 0.5331638, 0.5734834, 0.6289114, 0.7570526, 0.6593878, 0.2530459,
            0.0009152109, 0.0009148789,
        ],
    ),
    Computed(
        "truebeam_trajectory_log/RTPLAN.dcm", 8, {"6X", "10X", "15X", "6FFF", "10FFF"}, [100] * 7 + [120], 1, (0, 0),
        (0.049, 0.592, 0.101), pairs=None,
    ),
]  # fmt: skip

REFUSED: list[tuple[str, type[SpinedoseError], str]] = [
    ("eclipse_breast_fif_bolus/RTPLAN.dcm", UnsupportedPlan, "Beam 1 'MED BREL BH' has a bolus"),
    (
        "eclipse_plans_only/BREAST_FiF_EDW_arc_18beams.dcm",
        UnsupportedPlan,
        "Beam 13 'boost' has a wedge (DYNAMIC EDW60IN",
    ),
    ("eclipse_plans_only/DLG_HD120_6X_no_isocentre.dcm", InvalidInput, "Beam 1 'Open' has no isocentre"),
    ("monaco_agility_plans_only/DMLC_2fractiongroups.dcm", InvalidInput, "has several fraction groups"),
    (ONCENTRA, UnsupportedPlan, "Beam 3 'B3_electrons' is a beam of type ELECTRON"),
    ("pinnacle_plans_only/IMRT_ElektaMLCi_3fractiongroups.dcm", InvalidInput, "has several fraction groups"),
    ("raystation_sweeping_gap/Transmission_RTPLAN_no_MU.dcm", InvalidInput, "Beam 1 'TrA' has no meterset"),
]


def unpacked(shared: Path, path: str, folder: Path) -> Path:
    """A file ready to be read: as it is, or unpacked to a folder."""
    source = shared / "dicom" / path
    if source.suffix != ".xz":
        return source
    target = folder / source.stem
    target.write_bytes(lzma.decompress(source.read_bytes()))
    return target


@pytest.mark.parametrize("expected", COMPUTED, ids=lambda case: case.path)
def test_plans_that_are_read(shared: Path, tmp_path: Path, expected: Computed) -> None:
    plan: Plan = read_plan(unpacked(shared, expected.path, tmp_path), **expected.arguments)
    assert len(plan.beams) == expected.beams and len(plan.skipped) == expected.skipped
    assert {beam.energy for beam in plan.beams} == expected.energies
    assert plan.patient_position == "HFS" and plan.fractions == expected.fractions
    metersets = [beam.meterset_mu for beam in plan.beams][: len(expected.mu)]
    np.testing.assert_allclose(metersets, expected.mu, atol=expected.mu_tolerance)
    first = plan.beams[0]
    np.testing.assert_allclose(first.gantry_deg[[0, -1]], expected.gantry, atol=1e-6)
    np.testing.assert_allclose(10 * first.isocentre_cm, expected.isocentre_mm, atol=5e-3)
    assert (None if first.leaf_cm is None else first.leaf_cm.shape[2]) == expected.pairs
    if expected.doses:
        doses = [beam.planned_point_dose_gy for beam in plan.beams]
        np.testing.assert_allclose(np.array(doses, dtype=float), expected.doses, rtol=1e-5)
        assert all(beam.planned_point_cm is not None for beam in plan.beams)
    elif expected.path.split("/")[0] != "pinnacle_plans_only":
        assert all(beam.planned_point_dose_gy is None for beam in plan.beams)
    if sum(len(beam.gantry_deg) for beam in plan.beams) > 400:
        return  # writing the largest would take seconds and show no more
    again = read_plan(write_plan(plan, tmp_path / "again.dcm"))  # real plans survive the writer, too
    for before, after in zip(plan.beams, again.beams, strict=True):
        np.testing.assert_allclose(after.cumulative_meterset, before.cumulative_meterset, atol=1e-12)
        np.testing.assert_allclose(after.gantry_deg, before.gantry_deg, atol=1e-9)
        if before.leaf_cm is not None and after.leaf_cm is not None:
            np.testing.assert_allclose(after.leaf_cm, before.leaf_cm, atol=1e-12)


@pytest.mark.parametrize(("path", "kind", "words"), REFUSED, ids=[path for path, _, _ in REFUSED])
def test_plans_that_are_refused(
    shared: Path, tmp_path: Path, path: str, kind: type[SpinedoseError], words: str
) -> None:
    with pytest.raises(kind) as caught:
        read_plan(unpacked(shared, path, tmp_path))
    assert words in str(caught.value)


def test_details_that_are_easily_got_wrong(shared: Path, tmp_path: Path) -> None:
    """One fact a vendor, worked out from the tags."""
    dicom = shared / "dicom"
    squares = read_plan(dicom / "monaco_agility_plans_only/VersaHD_squares_7fields.dcm")
    np.testing.assert_allclose(squares.beams[0].jaw_y_cm, [[-1, 1]] * 2)  # declared ASYMY, told as Y
    assert squares.beams[0].jaw_x_cm is None
    sweeping = read_plan(dicom / "raystation_sweeping_gap/SG_RTPLAN.dcm").beams[3]
    assert sweeping.leaf_boundaries_cm is not None and sweeping.leaf_cm is not None
    assert (sweeping.leaf_boundaries_cm[0], sweeping.leaf_boundaries_cm[-1]) == (-20.4, 20.4)
    centre = sweeping.leaf_cm[:, :, 30]
    np.testing.assert_allclose(centre[:, 1] - centre[:, 0], 3.0, atol=1e-3)  # a gap of 30 mm at every control point
    log = read_plan(dicom / "truebeam_trajectory_log/RTPLAN.dcm").beams[-1]  # ASYMX with Y, counterclockwise
    assert log.jaw_y_cm is not None and log.gantry_deg[-1] == pytest.approx(32) and np.all(np.diff(log.gantry_deg) <= 0)
    pinnacle = read_plan(dicom / "pinnacle_plans_only/IMRT_ElektaMLCi_3fractiongroups.dcm", fraction_group=1)
    assert (len(pinnacle.beams), pinnacle.fractions) == (9, 26)
    thorax = read_plan(unpacked(shared, "eclipse_thorax_imrt/RTPLAN.dcm.xz", tmp_path))
    split = thorax.beams[0].jaw_x_cm
    assert split is not None and np.ptp(split) > 0  # split jaws move between control points
    tbi = read_plan(unpacked(shared, "eclipse_plans_only/TBI4_VMAT_3iso_HFS.dcm.xz", tmp_path))
    heights = sorted({round(10 * float(beam.isocentre_cm[2]), 1) for beam in tbi.beams})
    assert heights == [-476.5, -136.5, 203.5]
    assert tbi.warnings == ("The plan is marked as rejected.",)


# --------------------------------------------------------------------------------------------------------------- CT

# path, folder inside, shape (z, y, x), spacing (x, y, z) [mm], first voxel (x, y, z) [mm], lowest and highest HU
CTS = [
    pytest.param(
        "eclipse_breast_fif_bolus/CT.tar.xz", "CT", (173, 512, 512), (1.171875, 1.171875, 2), (-300, -204, -146),
        (-1000, 3071), 267, marks=pytest.mark.slow,
    ),
    (
        "eclipse_thorax_imrt/CT.tar.xz", "CT", (105, 512, 512), (1.26953125, 1.26953125, 4),
        (-324.365234375, -559.365234375, -189), (-1000, 3071), 82,
    ),
    (
        "oncentra_box_full/CT.tar.xz", "CT", (5, 171, 512), (0.585938, 0.585938, 75), (-149.707031, -49.804688, -150),
        (0, 0), 0,
    ),
    ("monaco_tiny_vmat", "", (5, 5, 5), (100, 100, 100), (-200, -200, -200), (-1024, 0), 0),
    ("ct_phantoms/qabox_ct.zip", "qabox", (283, 252, 303), (2, 2, 2), (-302, -101, -282), (-1024, 0), 0),
    (
        "ct_phantoms/topas_dicom_box.zip", "DICOM_Box", (38, 38, 38), (13.157895, 13.157895, 13.157892),
        (-243.421, -243.421, -243.421), (-1000, 0), 0,
    ),
    pytest.param(WATER, "", (503, 503, 503), (1, 1, 1), (-251, -0.5, -251), (-1000, 0), 0, marks=pytest.mark.slow),
]  # fmt: skip


def series(shared: Path, path: str, inside: str, folder: Path) -> Path:
    """Folder of a CT series, unpacked where it is packed."""
    source = shared / "dicom" / path
    if source.is_dir():
        return source
    if source.suffix == ".zip":
        with zipfile.ZipFile(source) as archive:
            archive.extractall(folder)
    else:
        with tarfile.open(source) as archive:
            archive.extractall(folder, filter="data")
    return folder / inside


@pytest.mark.parametrize(("path", "inside", "shape", "spacing", "first", "limits", "saturated"), CTS)
def test_ct_series_that_are_read(
    shared: Path,
    tmp_path: Path,
    path: str,
    inside: str,
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    first: tuple[float, float, float],
    limits: tuple[float, float],
    saturated: int,
) -> None:
    ct: CtImage = read_ct(series(shared, path, inside, tmp_path))
    assert ct.hu.grid.shape == shape and ct.patient_position == "HFS"
    np.testing.assert_allclose(10 * np.array(ct.hu.grid.spacing_cm), spacing, atol=1e-5)
    np.testing.assert_allclose(10 * np.array(ct.hu.grid.origin_cm), first, atol=1e-5)
    assert (ct.hu.values.min(), ct.hu.values.max()) == limits
    assert ct.saturated_voxels == saturated and len(ct.warnings) == (saturated > 0)


def test_ct_with_a_missing_slice(shared: Path, tmp_path: Path) -> None:
    """One slice was published as an empty file and left out: 3 mm spacing with one gap of 6 mm."""
    folder = series(shared, "raystation_sweeping_gap/CT.tar.xz", "CT", tmp_path)
    with pytest.raises(InvalidInput) as caught:
        read_ct(folder)
    assert "lacks 1 slice(s)" in str(caught.value) and "at 87.00 mm" in str(caught.value)
    ct = read_ct(folder, missing_slices="interpolate")
    assert ct.hu.grid.shape == (67, 512, 512)
    np.testing.assert_allclose(10 * np.array(ct.hu.grid.spacing_cm), (1.074, 1.074, 3), atol=1e-6)
    assert ct.warnings == ("1 CT slice(s) missing at 90.00 mm were interpolated between their neighbours.",)


def test_ct_of_a_single_slice(shared: Path, tmp_path: Path) -> None:
    unpacked(shared, "eclipse_breast_ecomp/ct.0.dcm.xz", tmp_path)
    with pytest.raises(InvalidInput, match="single slice"):
        read_ct(tmp_path)


@pytest.mark.slow
def test_water_phantom_plan(shared: Path, tmp_path: Path) -> None:
    """10 x 10 cm2 at 100 mm depth: 0.7979931 Gy for 100 MU; leaves parked at 201 mm."""
    folder = series(shared, WATER, "", tmp_path)
    (plan_file,) = folder.glob("RP*.dcm")
    (beam,) = read_plan(plan_file).beams
    assert beam.meterset_mu == pytest.approx(100) and beam.planned_point_dose_gy == pytest.approx(0.7979931)
    np.testing.assert_allclose(beam.planned_point_cm, (0, 10, 0), atol=1e-6)


# ------------------------------------------------------------------------------------------------------ completeness


def test_no_plan_is_forgotten(shared: Path, tmp_path: Path) -> None:
    tested = {case.path for case in COMPUTED} | {path for path, _, _ in REFUSED}
    found = set()
    for path in sorted((shared / "dicom").rglob("*")):
        if path.name.lower().endswith((".dcm", ".dcm.xz")):
            name = str(path.relative_to(shared / "dicom"))
            dataset = open_dicom(unpacked(shared, name, tmp_path), stop_before_pixels=True)
            if dataset.Modality == "RTPLAN":
                found.add(name)
    assert found == tested


def test_the_table_names_every_file(shared: Path) -> None:
    """Every file has a row, or its folder has one row for files of a kind (`folder/*`)."""
    text = TABLE.read_text()
    for path in sorted((shared / "dicom").rglob("*")):
        if path.is_file() and path.parent != shared / "dicom":
            name = path.relative_to(shared / "dicom")
            rows = (f"| `{name}`", f"| `{name.parent}/*{path.suffix}`", f"| `{name.parent}/*`")
            assert any(row in text for row in rows), f"{name} has no row in {TABLE.name}"
