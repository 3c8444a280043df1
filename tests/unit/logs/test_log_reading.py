"""Machine logs read through pylinac: scales, banks and signs, and what is refused.

The files are tiny ones written to the published formats by `made_logs`; the real ones are at the end.
"""

from __future__ import annotations

import lzma
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_logs import Axes, axes_of, leaf_beam, write_dynalog, write_trajectory

from spinedose.errors import InvalidInput, UnreadableFile
from spinedose.logs import MachineLog, Samples, find_logs, read_log, read_logs

SHARE = np.linspace(0.0, 1.0, 101)
FLOAT32 = 2e-5
"""Logs hold single precision: 3e-5 at 400 degrees, 2e-6 at 20 cm."""

DYNALOG_LEAF = 0.5 * 1.96078e-3 + 1e-9
"""Half of a dynalog's hundredth of a millimetre, at the isocentre plane [cm]."""


@pytest.mark.parametrize("version", ["2.1", "3.0"])
@pytest.mark.parametrize("scale", [1, 2, 3])
def test_a_trajectory_log_is_the_beam_that_was_written(tmp_path: Path, scale: int, version: str) -> None:
    beam = leaf_beam(couch_deg=np.full(5, 20.0))
    log = read_log(write_trajectory(tmp_path / "t.bin", beam, scale=scale, version=version))
    wanted = axes_of(beam, SHARE)
    assert log.kind == "trajectory" and log.counts_mu and log.beam_name == "arc"
    assert log.interval_s == 0.02 and log.seconds == pytest.approx(2.0)
    assert log.meterset == pytest.approx(wanted["mu"], abs=FLOAT32)
    for found in (log.recorded, log.expected):
        assert found is not None
        assert found.gantry_deg == pytest.approx(wanted["gantry"], abs=2 * FLOAT32)
        assert found.collimator_deg == pytest.approx(30.0, abs=FLOAT32)
        assert found.jaw_x_cm == pytest.approx(wanted["x"], abs=FLOAT32)
        assert found.jaw_y_cm == pytest.approx(wanted["y"], abs=FLOAT32)
        assert found.leaf_cm == pytest.approx(wanted["leaf"], abs=FLOAT32)
    assert bool(log.warnings) == (scale == 2), "only the scale that no file proves is warned about"


def test_banks_and_signs_by_hand(tmp_path: Path) -> None:
    """Pair 3 alone is open, from -1.2 to +3.4 cm, under jaws from -5 to 6 and -7 to 8 cm."""
    leaf = np.zeros((5, 2, 4))
    leaf[:, :, 2] = (-1.2, 3.4)
    beam = leaf_beam(leaf_cm=leaf, jaw_x_cm=np.tile([-5.0, 6.0], (5, 1)), jaw_y_cm=np.tile([-7.0, 8.0], (5, 1)))
    path = write_trajectory(tmp_path / "t.bin", beam)
    raw = np.frombuffer(path.read_bytes()[1024 + 560 : -2], dtype="<f4").reshape(101, -1)[0]
    # expected and recorded alternate: 16 axes before the MLC, of which the last two are its carriages
    axes = raw[1::2]
    assert axes[:6] == pytest.approx([150.0, 359.0, 7.0, 8.0, 5.0, 6.0])  # 180 less IEC 30 and 181; jaws all positive
    bank_a, bank_b = axes[17:21], axes[21:25]
    assert bank_a[2] == pytest.approx(3.4) and bank_b[2] == pytest.approx(1.2), "A is X2, and B counts against X1"
    first = read_log(path).recorded
    assert first.leaf_cm[0, :, 2] == pytest.approx([-1.2, 3.4])
    assert (first.leaf_cm[0, :, [0, 1, 3]] == 0).all()
    assert tuple(first.jaw_x_cm[0]) == (-5.0, 6.0) and tuple(first.jaw_y_cm[0]) == (-7.0, 8.0)
    assert first.gantry_deg[0] == pytest.approx(181.0) and first.collimator_deg[0] == pytest.approx(30.0)


def test_what_was_recorded_is_told_from_what_was_expected(tmp_path: Path) -> None:
    def late(axes: Axes) -> None:
        axes["leaf"] = axes["leaf"] - 0.05
        axes["gantry"] = axes["gantry"] + 0.4

    beam = leaf_beam()
    log = read_log(write_trajectory(tmp_path / "t.bin", beam, change=late))
    assert log.expected is not None
    assert log.recorded.gantry_deg - log.expected.gantry_deg == pytest.approx(0.4, abs=4 * FLOAT32)
    assert log.recorded.leaf_cm - log.expected_leaf_cm == pytest.approx(-0.05, abs=FLOAT32)


def test_an_arc_over_the_top_is_continuous(tmp_path: Path) -> None:
    beam = leaf_beam(gantry_deg=np.linspace(340.0, 380.0, 5))
    gantry = read_log(write_trajectory(tmp_path / "t.bin", beam)).recorded.gantry_deg
    assert gantry[0] == pytest.approx(340.0, abs=1e-4) and gantry[-1] == pytest.approx(380.0, abs=1e-4)


def test_version_4_names_patient_plan_and_beam(tmp_path: Path) -> None:
    about = {"Patient ID": "PAT-8151623", "Plan Name": "T7", "SOP Instance UID": "1.2.840.99.1", "MU Planned": "200",
             "MU Remaining": "0", "Energy": "6x", "BeamName": "arc 4"}  # fmt: skip
    log = read_log(write_trajectory(tmp_path / "t.bin", leaf_beam(), version="4.0", metadata=about))
    assert (log.beam_name, log.plan_uid, log.patient_id) == ("arc 4", "1.2.840.99.1", "PAT-8151623")
    assert "8151623" not in repr(log), "a patient is never shown by accident"


def test_a_dynalog_is_the_beam_that_was_written(tmp_path: Path) -> None:
    beam = leaf_beam()
    path = write_dynalog(tmp_path, beam, change=lambda axes: axes.update(leaf=axes["leaf"] + 0.03))
    wanted = axes_of(beam, SHARE)
    for name in (path, path.with_name("B" + path.name[1:])):
        log = read_log(name)
        assert log.kind == "dynalog" and not log.counts_mu and log.interval_s == 0.05
        assert (log.plan_uid, log.beam_number, log.patient_id) == ("1.2.840.99.7.1", 7, "PAT-1")
        assert log.time == "20260102030405"
        assert log.meterset == pytest.approx(SHARE, abs=0.5 / 25000)
        assert log.recorded.gantry_deg == pytest.approx(wanted["gantry"], abs=0.05 + 1e-9)
        assert log.recorded.collimator_deg == pytest.approx(30.0)
        assert log.recorded.jaw_x_cm == pytest.approx(wanted["x"], abs=0.05)  # whole millimetres
        assert log.recorded.leaf_cm == pytest.approx(wanted["leaf"] + 0.03, abs=DYNALOG_LEAF)
        assert log.expected_leaf_cm == pytest.approx(wanted["leaf"], abs=DYNALOG_LEAF)
        assert log.recorded.couch_turn_deg is None and log.expected is None
        assert any("meterset" in text and "couch" in text for text in log.warnings)


def test_logs_are_found_and_others_passed_over(tmp_path: Path) -> None:
    beam = leaf_beam()
    (tmp_path / "deep").mkdir()
    write_trajectory(tmp_path / "deep" / "z_20260101120000.bin", beam)
    write_trajectory(tmp_path / "a_20260102120000.bin", beam)
    write_dynalog(tmp_path, beam)
    (tmp_path / "other.bin").write_bytes(b"something")
    (tmp_path / "RP.dcm").write_bytes(b"\x00" * 200)
    (tmp_path / "Alice.dlg").write_text("hello", encoding="ascii")
    names = [path.name for path in find_logs(tmp_path)]
    assert names == ["z_20260101120000.bin", "A20260102030405_x.dlg", "a_20260102120000.bin"], "by time; A for both"
    assert len(read_logs(tmp_path)) == 3
    with pytest.raises(InvalidInput, match="no machine logs"):
        read_logs([])
    with pytest.raises(InvalidInput, match="no folder"):
        find_logs(tmp_path / "nowhere")


# -------------------------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ({"truncated": 1}, "cut off"),
        ({"beams": ["one", "two"]}, "holds 2 beams"),
        ({"axes": [*range(12), 41, 40, 42, 50]}, "another order"),
        ({"scale": 7}, "axis scale 7"),
    ],
)
def test_trajectory_logs_that_are_not_understood(tmp_path: Path, header: dict[str, Any], says: str) -> None:
    path = write_trajectory(tmp_path / "t.bin", leaf_beam(), header=header)
    with pytest.raises(InvalidInput, match=says):
        read_log(path)


def test_a_torn_file(tmp_path: Path) -> None:
    path = write_trajectory(tmp_path / "t.bin", leaf_beam())
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UnreadableFile, match=r"cannot be read as a machine log \(it is cut off or damaged: "):
        read_log(path)


def test_a_meterset_that_falls(tmp_path: Path) -> None:
    def back(axes: Axes) -> None:
        axes["mu"][50] -= 5.0

    with pytest.raises(InvalidInput, match="meterset that falls"):
        read_log(write_trajectory(tmp_path / "t.bin", leaf_beam(), change=back))


def test_leaves_that_cross_by_millimetres_are_misread_not_mended(tmp_path: Path) -> None:
    def swapped(axes: Axes) -> None:
        axes["leaf"] = axes["leaf"][:, ::-1]

    with pytest.raises(InvalidInput, match="overlap by"):
        read_log(write_trajectory(tmp_path / "t.bin", leaf_beam(), change=swapped))


def test_positions_must_be_numbers() -> None:
    flat = np.zeros((3, 2))
    with pytest.raises(InvalidInput, match="not a number"):
        Samples(np.array([0.0, np.nan, 0.0]), np.zeros(3), None, flat, flat, np.zeros((3, 2, 4)))


def test_a_log_without_meterset() -> None:
    flat = np.zeros((3, 2))
    samples = Samples(np.zeros(3), np.zeros(3), None, flat, flat, np.zeros((3, 2, 4)))
    with pytest.raises(InvalidInput, match="delivered no meterset"):
        MachineLog("x.bin", "trajectory", 0.02, np.zeros(3), True, samples, None, samples.leaf_cm)


def test_an_interrupted_dynalog_is_refused(tmp_path: Path) -> None:
    """pylinac would stretch it to the whole dose without a word."""
    path = write_dynalog(tmp_path, leaf_beam(), end=12000)
    with pytest.raises(InvalidInput, match=r"ends at a dose index of 12000 .*\(the beam was interrupted"):
        read_log(path)


def test_half_a_dynalog(tmp_path: Path) -> None:
    path = write_dynalog(tmp_path, leaf_beam())
    path.with_name("B" + path.name[1:]).unlink()
    with pytest.raises(InvalidInput, match="stands alone"):
        read_log(path)


def test_no_log_at_all(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(b"DICM")
    with pytest.raises(UnreadableFile, match="is no machine log"):
        read_log(tmp_path / "x.bin")
    with pytest.raises(UnreadableFile, match="cannot be opened"):
        read_log(tmp_path / "y.bin")


def test_without_pylinac(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_trajectory(tmp_path / "t.bin", leaf_beam())
    monkeypatch.setitem(sys.modules, "pylinac", None)
    with pytest.raises(InvalidInput, match=r"not installed\)\. pip install 'spinedose\[logs\]'"):
        read_log(path)


# ----------------------------------------------------------------------------------------------------------- real files


def test_a_real_log_of_version_2_1(shared: Path, tmp_path: Path) -> None:
    """What the shared material says of it: gantry 255 in Varian's scale, 83 MU; no plan."""
    packed = shared / "dicom" / "truebeam_trajectory_log" / "Tlog2.bin.xz"
    path = tmp_path / "Tlog2.bin"
    path.write_bytes(lzma.decompress(packed.read_bytes()))
    log = read_log(path)
    assert log.pairs == 60 and len(log.meterset) == 2137
    assert log.recorded.gantry_deg[0] == pytest.approx(285.0, abs=0.01)  # 180 - 255
    assert log.meterset[-1] == pytest.approx(83.0, abs=0.02) and log.expected_mu == pytest.approx(83.0)


def test_a_real_dynalog(shared: Path, tmp_path: Path) -> None:
    with tarfile.open(shared / "dicom" / "clinac_vmat_dynalog" / "dynalog.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    (path,) = find_logs(tmp_path)
    log = read_log(path)
    assert len(log.meterset) == 1681 and log.beam_number == 1
    assert log.recorded.collimator_deg == pytest.approx(45.0)
    assert log.recorded.gantry_deg[[0, -1]] == pytest.approx([180.9, 538.9])
