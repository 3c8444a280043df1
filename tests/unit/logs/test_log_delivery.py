"""The delivered plan: which log is of which beam, what it changes, and fractions."""

from __future__ import annotations

import lzma
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_logs import Axes, axes_of, leaf_beam, write_dynalog, write_trajectory

from spinedose.dicom.plan import read_plan
from spinedose.errors import InvalidInput
from spinedose.logs import MachineLog, deliver, delivered_plan, find_logs, read_log
from spinedose.logs.delivery import BOUND_CM, BOUND_DEG
from spinedose.plan import Beam, Identity, Plan


def plan_of(*beams: Beam, **changes: Any) -> Plan:
    values: dict[str, Any] = {"label": "p", "beams": beams or (leaf_beam(),), "uid": "1.2.840.99.7.1"}
    return Plan(**(values | changes))


def other_beam(**changes: Any) -> Beam:
    """Another arc of the same machine."""
    return leaf_beam(
        **({"number": 8, "name": "arc 2", "gantry_deg": np.linspace(60.0, 20.0, 5), "meterset_mu": 150.0} | changes)
    )


@pytest.fixture
def write(tmp_path: Path) -> Any:
    """`write(beam, ...)`: a trajectory log, read again."""
    count = iter(range(100))

    def made(beam: Beam, stem: str = "t", **more: Any) -> MachineLog:
        return read_log(write_trajectory(tmp_path / f"{stem}{next(count)}.bin", beam, **more))

    return made


def test_a_perfect_delivery_is_the_plan(write: Any) -> None:
    beam = leaf_beam(cumulative_meterset=np.array([0.0, 0.2, 0.2, 0.7, 1.0]), couch_deg=np.full(5, 90.0))
    share = np.linspace(0.0, 1.0, 1001)
    found = deliver(plan_of(beam), [write(beam, share=share)])
    made = found.plan.beams[0]
    assert found.rows[0].meterset_ratio == pytest.approx(1.0, abs=1e-6)
    assert made.meterset_mu == pytest.approx(200.0, abs=1e-4)
    assert (made.number, made.name, made.energy, made.machine) == (7, "arc", "6X", "TrueBeam")
    # Leaves and gantry jump at 0.2, where the samples beside the jump are 0.001 apart.
    at = np.array([0.05, 0.15, 0.3, 0.5, 0.69, 0.71, 0.9])
    for name, bound in (("gantry_deg", BOUND_DEG), ("couch_deg", BOUND_DEG), ("leaf_cm", BOUND_CM)):
        ours, theirs = (
            np.stack([np.interp(at, b.cumulative_meterset, c) for c in getattr(b, name).reshape(n, -1).T])
            for b, n in ((made, len(made.gantry_deg)), (beam, 5))
        )
        assert np.abs(ours - theirs).max() <= bound + 1e-4, name
    assert len(made.gantry_deg) < 12, "straight pieces need few control points"
    assert found.rows[0].leaf_rms_cm < 1e-3 and not found.warnings


def test_differences_are_told_with_their_size(write: Any) -> None:
    def off(axes: Axes) -> None:
        axes["mu"] = 1.03 * axes["mu"]
        axes["gantry"] = axes["gantry"] + 0.4
        axes["leaf"] = axes["leaf"].copy()
        axes["leaf"][:, 1, 2] += 0.06
        axes["x"] = axes["x"] + 0.02

    beam = leaf_beam(gantry_deg=np.full(5, 100.0), leaf_cm=np.tile(leaf_beam().leaf_cm[2], (5, 1, 1)))  # type: ignore[index]
    found = deliver(plan_of(beam), [write(beam, change=off)])
    row, made = found.rows[0], found.plan.beams[0]
    assert row.meterset_ratio == pytest.approx(1.03, abs=1e-5) and row.meterset_is_recorded
    assert made.meterset_mu == pytest.approx(206.0, abs=1e-3)
    assert row.gantry_mean_deg == pytest.approx(0.4, abs=1e-4) and row.gantry_rms_deg == pytest.approx(0.4, abs=1e-4)
    assert made.gantry_deg == pytest.approx(100.4, abs=1e-4)
    assert row.leaf_worst_cm == pytest.approx(0.06, abs=1e-5)
    assert row.leaf_mean_cm == pytest.approx(0.06 / 8, abs=1e-5), "one of eight leaves that the plan opens"
    assert row.leaf_rms_cm == pytest.approx(0.06 / np.sqrt(8), abs=1e-5)
    assert row.jaw_worst_cm == pytest.approx(0.02, abs=1e-5)
    assert made.jaw_x_cm == pytest.approx(np.tile([-2.98, 4.52], (len(made.gantry_deg), 1)), abs=1e-5)


def test_parked_leaves_do_not_dilute(write: Any) -> None:
    leaf = leaf_beam().leaf_cm.copy()  # type: ignore[union-attr]
    leaf[:, :, 0] = 0.0
    beam = leaf_beam(leaf_cm=leaf)
    found = deliver(plan_of(beam), [write(beam, change=lambda axes: axes.update(leaf=axes["leaf"] + 0.05))])
    assert found.rows[0].leaf_mean_cm == pytest.approx(0.05, abs=1e-4)


def test_samples_without_beam_carry_no_meterset(write: Any) -> None:
    """Leaves that wander in a beam hold open nothing."""
    share = np.concatenate([np.linspace(0, 0.5, 50), np.full(30, 0.5), np.linspace(0.5, 1, 50)])

    def wander(axes: Axes) -> None:
        axes["leaf"] = axes["leaf"].copy()
        axes["leaf"][50:79, 1] += 5.0 * np.sin(np.arange(29.0))[:, None] ** 2
        axes["hold"][50:79] = 2

    beam = leaf_beam()
    found = deliver(plan_of(beam), [write(beam, share=share, change=wander)])
    made = found.plan.beams[0]
    assert made.leaf_cm is not None and beam.leaf_cm is not None
    middle = 0.5 * (made.leaf_cm[1:] + made.leaf_cm[:-1])
    has_beam = np.diff(made.cumulative_meterset) > 0
    assert (middle[has_beam, 1] - middle[has_beam, 0]).max() < 2.02, "no piece with meterset is wider than planned"
    assert found.rows[0].leaf_worst_cm < 1e-3


@pytest.mark.parametrize("sense", [1.0, -1.0])
@pytest.mark.parametrize("angle", [0.0, 30.0, 90.0, 330.0])
def test_the_couch_turns_as_the_plan_says(write: Any, sense: float, angle: float) -> None:
    """No file at hand proves the sense of the couch: the plan decides, and a deviation is kept."""
    beam = leaf_beam(couch_deg=np.full(5, angle))
    log = write(beam, couch_sense=sense, change=lambda axes: axes.update(couch=axes["couch"] + 0.3))
    found = deliver(plan_of(beam), [log])
    assert abs(found.rows[0].couch_worst_deg) == pytest.approx(0.3, abs=1e-4)
    assert np.abs(found.plan.beams[0].couch_deg - angle) == pytest.approx(0.3, abs=1e-4)


# ---------------------------------------------------------------------------------------------------- whose log is this


def test_beams_are_told_by_name_and_by_positions(write: Any) -> None:
    plan = plan_of(leaf_beam(), other_beam())
    found = deliver(plan, [write(other_beam(), name="?"), write(leaf_beam(), name="ARC ")])
    assert [(row.number, row.matched_by) for row in found.rows] == [(7, "name"), (8, "positions")]
    assert found.plan.beams[1].gantry_deg[[0, -1]] == pytest.approx([60.0, 20.0], abs=1e-3)


def test_beams_that_are_alike_are_not_guessed(write: Any) -> None:
    plan = plan_of(leaf_beam(), leaf_beam(number=9, name="again"))
    with pytest.raises(InvalidInput, match=r"could be of beam 7 'arc', 9 'again'.*Say of which beam .* with `logs`"):
        deliver(plan, [write(leaf_beam(), name="")])
    found = deliver(plan, {9: write(leaf_beam(), name=""), 7: write(leaf_beam(), name="")})
    assert [row.matched_by for row in found.rows] == ["user", "user"]


def test_the_meterset_tells_beams_apart(write: Any) -> None:
    plan = plan_of(leaf_beam(), leaf_beam(number=9, name="weaker", meterset_mu=100.0))
    logs = [write(leaf_beam(meterset_mu=100.0), name=""), write(leaf_beam(), name="")]
    assert [row.delivered_mu for row in deliver(plan, logs).rows] == pytest.approx([200.0, 100.0], abs=1e-3)


def test_a_log_of_another_beam_is_refused_with_the_differences(write: Any) -> None:
    log = write(leaf_beam(gantry_deg=np.linspace(0.0, 40.0, 5)), name="")
    with pytest.raises(InvalidInput, match=r"fits no beam of the plan \(differences: 7 'arc': leaves 0.0 mm"):
        deliver(plan_of(), [log])


def test_a_name_does_not_hide_another_version_of_the_plan(write: Any) -> None:
    beam = leaf_beam(gantry_deg=np.linspace(0.0, 40.0, 5))
    with pytest.raises(InvalidInput, match="names beam 7, but asks for other positions"):
        deliver(plan_of(), [write(beam)])
    found = deliver(plan_of(), {7: write(beam)})
    assert any("ask for different positions" in text for text in found.warnings)


def test_a_wrong_delivery_of_the_right_plan_is_taken(write: Any) -> None:
    """What was expected proves the log; what was recorded may be as wrong as it was."""
    log = write(leaf_beam(), change=lambda axes: axes.update(leaf=axes["leaf"] + 1.0))
    assert deliver(plan_of(), [log]).rows[0].leaf_mean_cm == pytest.approx(1.0, abs=1e-3)


def test_logs_of_another_patient(tmp_path: Path) -> None:
    log = read_log(write_dynalog(tmp_path, leaf_beam()))
    ours = plan_of(identity=Identity(patient_id="pat-1 "))
    assert deliver(ours, [log]).rows[0].matched_by == "number"
    theirs = plan_of(identity=Identity(patient_id="PAT-2"))
    for logs in ([log], {7: log}):
        with pytest.raises(InvalidInput, match="another patient") as refused:
            deliver(theirs, logs)
        assert "PAT" not in str(refused.value)


def test_a_dynalog_of_another_plan_is_told_by_its_positions(tmp_path: Path) -> None:
    log = read_log(write_dynalog(tmp_path, leaf_beam(), plan="1.2.840.99.8.8,1"))
    found = deliver(plan_of(), [log])
    assert found.rows[0].matched_by == "positions"
    assert any("does not name it" in text for text in found.warnings)


def test_every_beam_needs_a_log(write: Any) -> None:
    with pytest.raises(InvalidInput, match=r"no log of beam 8.*with `beams`"):
        deliver(plan_of(leaf_beam(), other_beam()), [write(leaf_beam())])
    with pytest.raises(InvalidInput, match="beam 5, which is not computed"):
        deliver(plan_of(), {5: write(leaf_beam())})


def test_logs_of_other_leaves(write: Any) -> None:
    wide = leaf_beam(leaf_cm=np.tile([[-1.0], [1.0]], (5, 1, 5)), leaf_boundaries_cm=np.arange(6.0))
    with pytest.raises(InvalidInput, match="5 leaf pairs"):
        deliver(plan_of(), {7: write(wide)})
    with pytest.raises(InvalidInput, match="other leaves"):
        deliver(plan_of(), [write(wide, name="")])


# ------------------------------------------------------------------------------------------------------------ fractions


def test_fractions_are_averaged_and_kept(write: Any) -> None:
    plan = plan_of(fractions=2)
    logs = [
        write(leaf_beam(), "x_20260102100000_", change=lambda axes: axes.update(mu=1.02 * axes["mu"])),
        write(leaf_beam(), "x_20260101100000_"),
    ]
    found = deliver(plan, logs)
    assert found.plan.fractions == 2 and found.plan.total_mu == pytest.approx(202.0, abs=1e-3)
    assert [beam.number for beam in found.plan.beams] == [7, 10007]
    assert [beam.meterset_mu for beam in found.plan.beams] == pytest.approx([100.0, 102.0], abs=1e-3), "by time"
    assert [part.fractions for part in found.per_fraction] == [1, 1]
    assert [part.total_mu for part in found.per_fraction] == pytest.approx([200.0, 204.0], abs=1e-3)
    assert [row.fraction for row in found.rows] == [1, 2]
    assert not found.warnings


def test_the_point_dose_of_a_beam_is_shared_out(write: Any) -> None:
    beam = leaf_beam(planned_point_dose_gy=3.0, planned_point_cm=np.zeros(3))
    found = deliver(plan_of(beam, fractions=2), [write(beam), write(beam)])
    assert sum(beam.planned_point_dose_gy or 0.0 for beam in found.plan.beams) == pytest.approx(3.0)


def test_one_fraction_for_all_is_said(write: Any) -> None:
    plan = delivered_plan(plan_of(fractions=5), [write(leaf_beam())])
    assert plan.fractions == 5
    assert any("1 fraction(s) were recorded, 5 are planned" in text for text in plan.warnings)


def test_fractions_that_do_not_add_up(write: Any) -> None:
    logs = [write(leaf_beam()), write(leaf_beam()), write(other_beam())]
    with pytest.raises(InvalidInput, match=r"different numbers of logs \(7: 2, 8: 1\)"):
        deliver(plan_of(leaf_beam(), other_beam()), logs)


def test_an_interrupted_beam_is_joined(write: Any) -> None:
    first = write(leaf_beam(), "x_20260101100000_", share=np.linspace(0.0, 0.4, 41))
    then = write(leaf_beam(), "x_20260101100500_", share=np.linspace(0.4, 1.0, 61))
    found = deliver(plan_of(), [then, first])
    assert len(found.per_fraction) == 1 and len(found.rows[0].sources) == 2
    assert found.plan.total_mu == pytest.approx(200.0, abs=1e-3) and found.rows[0].leaf_rms_cm < 1e-3
    with pytest.raises(InvalidInput, match=r"begins at 80\.0 MU \(the log of what went before is missing"):
        deliver(plan_of(), [then])


def test_a_beam_that_stopped_early_has_less_meterset(write: Any) -> None:
    found = deliver(plan_of(), [write(leaf_beam(), share=np.linspace(0.0, 0.4, 41))])
    assert found.rows[0].meterset_ratio == pytest.approx(0.4, abs=1e-5)
    assert found.plan.beams[0].gantry_deg[-1] == pytest.approx(181.0 + 16.0, abs=1e-3)


# ------------------------------------------------------------------------------------------------------------- overlaps


def test_tips_that_overlap_are_set_to_touch_and_counted(write: Any) -> None:
    leaf = leaf_beam().leaf_cm.copy()  # type: ignore[union-attr]
    leaf[:, :, 0] = 0.5
    beam = leaf_beam(leaf_cm=leaf)

    def cross(axes: Axes) -> None:
        axes["leaf"] = axes["leaf"].copy()
        axes["leaf"][10:15, 0, 0] += 0.03
        axes["leaf"][40:60, 0, 0] += 0.01  # within what a plan may have

    found = deliver(plan_of(beam), [write(beam, change=cross)])
    assert found.rows[0].overlaps == 5
    assert any("5 recorded positions of leaf pairs overlap, by up to 0.30 mm" in text for text in found.warnings)
    made = found.plan.beams[0].leaf_cm
    assert made is not None and (made[:, 1] - made[:, 0]).min() > -0.02


def test_thinning_keeps_its_bound(write: Any) -> None:
    """Wobbling leaves and gantry, interpolated between the control points at every sample."""
    rng = np.random.default_rng(3)

    def wobble(axes: Axes) -> None:
        axes["leaf"] = axes["leaf"] + rng.normal(0, 0.02, axes["leaf"].shape)
        axes["gantry"] = axes["gantry"] + rng.normal(0, 0.1, axes["gantry"].shape)

    log = write(leaf_beam(), share=np.linspace(0, 1, 400), change=wobble)
    made = delivered_plan(plan_of(), [log]).beams[0]
    share = log.meterset / log.meterset[-1]

    def between(values: Any) -> Any:
        flat = values.reshape(len(values), -1)
        return np.stack([np.interp(share, made.cumulative_meterset, column) for column in flat.T], axis=1)

    assert np.abs(between(made.leaf_cm) - log.recorded.leaf_cm.reshape(400, -1)).max() <= BOUND_CM + 1e-9
    assert np.abs(between(made.gantry_deg)[:, 0] - log.recorded.gantry_deg).max() <= BOUND_DEG + 1e-9
    loose = deliver(plan_of(), [log], bound_cm=0.1, bound_deg=1.0).plan.beams[0]
    assert len(loose.gantry_deg) < len(made.gantry_deg) / 2
    with pytest.raises(InvalidInput, match="bound_cm is 0"):
        deliver(plan_of(), [log], bound_cm=0.0)


# ----------------------------------------------------------------------------------------------------------- real files


def test_the_real_trajectory_log_is_beam_16_of_its_plan(shared: Path, tmp_path: Path) -> None:
    folder = shared / "dicom" / "truebeam_trajectory_log"
    path = tmp_path / "T3MLCSpeed_a.bin"
    path.write_bytes(lzma.decompress((folder / f"{path.name}.xz").read_bytes()))
    log = read_log(path)
    with pytest.raises(InvalidInput, match="no log of beam 9, 10"):
        deliver(read_plan(folder / "RTPLAN.dcm"), [log])
    found = deliver(read_plan(folder / "RTPLAN.dcm", beams=[16]), [log])
    row = found.rows[0]
    assert (row.number, row.matched_by, row.samples) == (16, "name", 1235)
    # Recorded against planned at the same meterset; a wrong bank or sign makes tens of millimetres.
    assert row.leaf_rms_cm < 0.005 and row.gantry_rms_deg < 0.1 and row.collimator_worst_deg < 0.01
    assert row.couch_worst_deg < 0.1 and row.jaw_worst_cm < 0.001
    assert row.meterset_ratio == pytest.approx(1.0, abs=2e-4)
    assert row.control_points < 60


def test_the_real_dynalog_is_its_plan(shared: Path, tmp_path: Path) -> None:
    folder = shared / "dicom" / "clinac_vmat_dynalog"
    with tarfile.open(folder / "dynalog.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    log = read_log(find_logs(tmp_path)[0])
    plan = read_plan(folder / "RTPLAN.dcm")
    found = deliver(plan, [log])
    row, beam = found.rows[0], plan.beams[0]
    assert (row.number, row.matched_by) == (1, "number")
    # The dose index runs ahead of the axes by a sample or two, see docs/formats/logs.md: 1.3 mm, 0.37 degrees.
    assert row.leaf_rms_cm < 0.15 and row.gantry_rms_deg < 0.4 and row.collimator_worst_deg == 0
    # At the same gantry angle, what the controller wanted is the plan to 0.07 mm: banks, signs, scale, order of pairs.
    assert beam.leaf_cm is not None
    gantry = log.recorded.gantry_deg
    flat = beam.leaf_cm.reshape(len(beam.gantry_deg), -1)
    planned = np.stack([np.interp(gantry, beam.gantry_deg, column) for column in flat.T], axis=1)
    off = log.expected_leaf_cm.reshape(len(gantry), -1) - planned
    assert np.sqrt((off**2).mean()) < 0.01
    assert axes_of(beam, np.array([0.0]))["leaf"].shape == (1, 2, 60)
