"""The main job as a user runs it: the demo, then its files once more through `spinedose dose`."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from importlib import resources
from pathlib import Path

import jsonschema
import numpy as np
import pytest

import spinedose as sd
from spinedose.fingerprint import fingerprint

pytestmark = pytest.mark.slow

COMMAND = [sys.executable, "-c", "from spinedose.cli import main; main()"]

BEAM_SUM_TOLERANCE = 5e-3
"""Of the dose maximum. Beams alone are transported with more directions than the plan, so the ray pattern differs."""


def _run(*arguments: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a coarse demo, and what it printed."""
    folder = tmp_path_factory.mktemp("work") / "new" / "demo"
    done = _run("demo", "--out", folder, "--spacing-mm", "5", "--no-fine")
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_the_verdict_comes_first(demo: tuple[Path, str]) -> None:
    folder, printed = demo
    lines = printed.splitlines()
    assert lines[0].startswith("Maximum dose ")
    for text in ("PTV", "SpinalCord", "Stages: ", str(folder / "RD.dcm"), "Not for clinical use"):
        assert text in printed


def test_the_target_gets_the_dose_and_the_cord_is_spared(demo: tuple[Path, str]) -> None:
    from spinedose.compare.dvh import dvh

    folder, _ = demo
    dose, structures = sd.read_dose(folder / "RD.dcm"), sd.read_structures(folder / "RS.dcm")
    target, cord = (dvh(dose.dose, structures[name]) for name in ("PTV", "SpinalCord"))
    assert target.mean_gy > 3 * cord.mean_gy
    assert cord.dose_at_volume(0.03) < 0.6 * target.mean_gy


def test_there_are_pictures(demo: tuple[Path, str]) -> None:
    folder, _ = demo
    for name in ("axial", "sagittal", "coronal", "dvh"):
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG"), name


def test_the_validator_finds_no_error(demo: tuple[Path, str]) -> None:
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy is not installed (Debian: dicom3tools)")
    folder, _ = demo
    for file in (folder / "RD.dcm", folder / "RP.dcm", folder / "RS.dcm", next(iter((folder / "CT").iterdir()))):
        done = subprocess.run(["dciodvfy", str(file)], capture_output=True, text=True, check=False)
        errors = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")]
        assert not errors, (file.name, errors)


@pytest.fixture(scope="module")
def again(demo: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same plan through `spinedose dose`, beam by beam, on the grid of the demo's dose."""
    folder, _ = demo
    out = tmp_path_factory.mktemp("again")
    options = ["--structures", folder / "RS.dcm", "--like", folder / "RD.dcm", "--spacing-mm", "5", "--per-beam"]
    done = _run("dose", folder / "RP.dcm", folder / "CT", *options, "--json", out / "r.json", "-o", out / "RD.dcm")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in out.iterdir()} == {"RD.dcm", "RD_beams", "r.json"}
    return out


def test_the_dose_is_the_same_and_the_sum_of_its_beams(demo: tuple[Path, str], again: Path) -> None:
    first, second = sd.read_dose(demo[0] / "RD.dcm"), sd.read_dose(again / "RD.dcm")
    assert second.grid.is_close_to(first.grid)
    most = float(first.dose.values.max())
    np.testing.assert_allclose(second.dose.values, first.dose.values, atol=BEAM_SUM_TOLERANCE * most)
    beams = [sd.read_dose(path) for path in sorted((again / "RD_beams").iterdir())]
    assert sorted(number for beam in beams for number in beam.beam_numbers) == [1, 2]
    total = np.sum([beam.dose.values for beam in beams], axis=0)
    np.testing.assert_allclose(total, second.dose.values, atol=1e-5 * most)  # 32-bit storage


def test_the_json_says_what_was_computed(demo: tuple[Path, str], again: Path) -> None:
    facts = json.loads((again / "r.json").read_text())
    assert facts["version"] == sd.__version__
    assert facts["backend"] == "cpu"
    assert facts["density_curve"] == "generic"
    assert len(facts["beam_data_hash"]) >= 64
    assert facts["warnings"]
    assert facts["timings_s"]
    jsonschema.validate(facts, json.loads(resources.files("spinedose").joinpath("dose.schema.json").read_text()))
    files = {part["file"]: part["sop_instance_uid"] for part in facts["output"]}
    assert list(files) == ["RD.dcm", "RD_beam_1.dcm", "RD_beam_2.dcm"]
    assert files["RD.dcm"] == sd.read_dose(again / "RD.dcm").uid
    plan, ct = sd.read_plan(demo[0] / "RP.dcm"), sd.read_ct(demo[0] / "CT")
    structures = sd.read_structures(demo[0] / "RS.dcm")
    inputs = facts["inputs"]
    assert (inputs["plan_uid"], inputs["ct_uid"], inputs["structure_set_uid"]) == (plan.uid, ct.uid, structures.uid)
    assert inputs["plan_hash"] == fingerprint(plan) and inputs["ct_hash"] == fingerprint(ct)
    written = sd.read_dose(again / "RD.dcm").dose.values
    assert facts["maximum"]["dose_gy"] == pytest.approx(float(written.max()), rel=1e-6)


def test_interrupting_leaves_nothing(demo: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = demo
    command = [*COMMAND, "dose", folder / "RP.dcm", folder / "CT", "-o", tmp_path / "RD.dcm", "--spacing-mm", "1"]
    # A shell that starts the tests in the background has them ignore Ctrl-C, and processes inherit that.
    process = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    running = pytest.importorskip("psutil").Process(process.pid)
    # Reading takes a second of the processor, the computation at 1 mm minutes.
    while sum(running.cpu_times()[:2]) < 5.0:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, complaint = process.communicate(timeout=300)
    assert process.returncode == 130
    assert complaint.splitlines()[-1] == "Interrupted; no file is half written."
    assert "Traceback" not in complaint
    assert list(tmp_path.iterdir()) == []


def test_the_demo_checks_itself(demo: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = demo
    done = _run("check", folder, "-o", tmp_path / "out", "--fine", "none", "--spacing-mm", "5")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("WITHIN: ")
    found = json.loads((tmp_path / "out" / "check.json").read_text(encoding="utf-8"))
    assert found["verdict"] == "within"
    assert found["prescription"]["source"] == "plan"
    assert [one["kind"] for one in found["inputs"]] == ["RTPLAN", "RTSTRUCT", "RTDOSE", "CT"]
