"""The command line: messages, exit codes, and that a wrong output place is refused before anything is computed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from spinedose import cli, doctor
from spinedose.errors import BackendUnavailable, UnsupportedPlan
from spinedose.grid import Grid

WARNING = "The density curve 'generic' was not measured on the CT scanner in use."


class FakeDose:
    """A result that writes small files: what the command line needs of one."""

    grid = Grid((0.0, 0.0, 0.0), (0.2, 0.2, 0.2), (2, 2, 2))
    values = np.arange(8, dtype=np.float32).reshape(2, 2, 2)
    metadata = SimpleNamespace(
        backend="cpu", device="a processor", timings_s={"terma": 1.0, "sweep": 2.5}, warnings=(WARNING,), version="0"
    )

    def save(self, path: Path) -> Path:
        path.write_text("dose")
        return path

    def save_beams(self, folder: Path) -> list[Path]:
        (folder / "beam_1.dcm").write_text("dose")
        return [folder / "beam_1.dcm"]

    def to_json(self) -> str:
        return json.dumps({"backend": "cpu"})


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Replace reading and computing by stand-ins; what they were asked is kept."""
    kept: dict[str, Any] = {}

    def read(*files: Path | None, **options: Any) -> str:
        kept.update(options, files=files)
        return "inputs"

    def compute(inputs: str, *, progress: Callable[[str, float], None], **options: Any) -> FakeDose:
        kept.update(options, inputs=inputs)
        progress("sweep", 0.5)
        return FakeDose()

    monkeypatch.setattr(cli, "_read_inputs", read)
    monkeypatch.setattr(cli, "_compute", compute)
    return kept


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def the_dose(tmp_path: Path, *more: object) -> Result:
    return run("dose", tmp_path / "RP.dcm", tmp_path, "-o", tmp_path / "RD.dcm", *more)


class TestDose:
    def test_verdict_comes_first_and_warnings_go_to_stderr(self, asked: dict[str, Any], tmp_path: Path) -> None:
        done = the_dose(tmp_path)
        assert done.exit_code == 0, done.output
        lines = done.stdout.splitlines()
        assert lines[0] == "Maximum dose 7.00 Gy at (2.0, 2.0, 2.0) mm; computed in 3.5 s on cpu (a processor)."
        assert lines[1] == f"Written: {tmp_path / 'RD.dcm'}"
        assert lines[-1] == "Not for clinical use without local commissioning."
        assert done.stderr == f"Warning: {WARNING}\n"
        assert (tmp_path / "RD.dcm").read_text() == "dose"

    def test_defaults(self, asked: dict[str, Any], tmp_path: Path) -> None:
        the_dose(tmp_path)
        assert asked == {
            "files": (tmp_path / "RP.dcm", tmp_path, None, None),
            "beams": None,
            "fraction_group": None,
            "bolus": "refuse",
            "patient_position": None,
            "missing_slices": "refuse",
            "inputs": "inputs",
            "machine": None,
            "curve": "generic",
            "spacing_mm": 2.5,
            "backend": "auto",
            "per_beam": False,
        }

    def test_every_option_arrives(self, asked: dict[str, Any], tmp_path: Path) -> None:
        options = [
            "--structures",
            "RS",
            "--machine",
            "m",
            "--curve",
            "ours.toml",
            "--spacing-mm",
            "1.25",
            "--like",
            "L",
            "--per-beam",
        ]
        options += ["--backend", "cpu", "--missing-slices", "interpolate", "--beams", "1,3", "--fraction-group", "2"]
        options += ["--bolus", "ignore", "--patient-position", "HFP", "--json", str(tmp_path / "r.json")]
        done = the_dose(tmp_path, *options)
        assert done.exit_code == 0, done.output
        assert asked == {
            "files": (tmp_path / "RP.dcm", tmp_path, Path("RS"), Path("L")),
            "beams": (1, 3),
            "fraction_group": 2,
            "bolus": "ignore",
            "patient_position": "HFP",
            "missing_slices": "interpolate",
            "inputs": "inputs",
            "machine": "m",
            "curve": "ours.toml",
            "spacing_mm": 1.25,
            "backend": "cpu",
            "per_beam": True,
        }
        assert json.loads((tmp_path / "r.json").read_text()) == {"backend": "cpu"}
        assert (tmp_path / "RD_beams" / "beam_1.dcm").is_file()

    def test_quiet_keeps_the_warnings(self, asked: dict[str, Any], tmp_path: Path) -> None:
        done = the_dose(tmp_path, "--quiet")
        assert done.stdout == ""
        assert WARNING in done.stderr

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["--spacing-mm", "0"], "--spacing-mm 0 cannot be used"),
            (["--spacing-mm", "nan"], "--spacing-mm nan cannot be used"),
            (["--beams", "one"], "--beams one cannot be understood"),
            (["--json", "RD.dcm"], "is named twice"),
            (["-o", "RP.dcm"], "is named twice"),
            (["-o", "there.dcm"], "'there.dcm' exists"),
            (["-o", "folder"], "'folder' is a folder"),
            (["-o", "nowhere/RD.dcm"], "'nowhere' is not there"),
            (["--per-beam", "-o", "full.dcm"], "'full_beams' is not empty"),
            (["--backend", "abacus"], "abacus"),
            (["--bolus", "perhaps"], "perhaps"),
        ],
    )
    def test_refused_before_anything_is_read(
        self, asked: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
    ) -> None:
        monkeypatch.chdir(tmp_path)
        for name in ("folder", "full_beams"):
            Path(name).mkdir()
        for name in ("there.dcm", "full_beams/old.dcm", "RP.dcm"):
            Path(name).write_text("old")
        done = run("dose", "RP.dcm", ".", *(["-o", "RD.dcm"] if "-o" not in arguments else []), *arguments)
        assert done.exit_code == 2, done.output
        assert words in done.stderr
        assert done.stdout == ""
        assert asked == {}
        assert Path("there.dcm").read_text() == "old"

    def test_force_overwrites(self, asked: dict[str, Any], tmp_path: Path) -> None:
        (tmp_path / "RD.dcm").write_text("old")
        assert the_dose(tmp_path).exit_code == 2
        assert the_dose(tmp_path, "--force").exit_code == 0
        assert (tmp_path / "RD.dcm").read_text() == "dose"

    @pytest.mark.parametrize(
        ("error", "code", "message"),
        [
            (
                UnsupportedPlan("Beam 3 'LAO' has a wedge", "its fluence is not modelled", "Leave the beam out"),
                2,
                "Beam 3 'LAO' has a wedge (its fluence is not modelled). Leave the beam out.\n",
            ),
            (BackendUnavailable("There is no GPU"), 2, "There is no GPU.\n"),
            (
                FileNotFoundError(2, "No such file or directory", "x.dcm"),
                2,
                "A file 'x.dcm' cannot be used (No such file",
            ),
            (OSError(28, "No space left on device"), 2, "A file cannot be used (No space left on device)."),
            (KeyboardInterrupt(), 130, "Interrupted; nothing was written.\n"),
        ],
    )
    def test_errors_are_one_line_and_leave_no_file(
        self,
        asked: dict[str, Any],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        error: BaseException,
        code: int,
        message: str,
    ) -> None:
        def fail(*_: Any, **__: Any) -> None:
            raise error

        monkeypatch.setattr(cli, "_compute", fail)
        done = the_dose(tmp_path)
        assert done.exit_code == code
        assert done.stderr.startswith(message)
        assert "Traceback" not in done.output
        assert list(tmp_path.iterdir()) == []

    def test_bugs_are_not_hidden(self, asked: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cli, "_compute", lambda *_, **__: 1 / 0)
        done = the_dose(tmp_path)
        assert done.exit_code == 1
        assert isinstance(done.exception, ZeroDivisionError)


class TestOtherCommands:
    def test_version(self) -> None:
        assert run("--version").stdout.startswith("spinedose 0.")

    def test_nothing_asked_shows_the_help(self) -> None:
        done = run()
        assert "dose" in done.output
        assert "doctor" in done.output

    def test_machines_are_listed_with_their_sources(self) -> None:
        from spinedose.machine import list_machines

        done = run("machines")
        assert done.exit_code == 0
        for name in list_machines():
            assert name in done.stdout

    def test_demo_refuses_a_file_as_folder(self, tmp_path: Path) -> None:
        (tmp_path / "demo").write_text("old")
        done = run("demo", "--out", tmp_path / "demo")
        assert done.exit_code == 2
        assert "is a file" in done.stderr

    @pytest.mark.parametrize(("is_fine", "code", "verdict"), [(True, 0, "is ready"), (False, 1, "cannot compute")])
    def test_doctor_tells_by_its_exit_code(
        self, monkeypatch: pytest.MonkeyPatch, is_fine: bool, code: int, verdict: str
    ) -> None:
        found = (doctor.Finding("numba", is_fine, "0.60"), doctor.Finding("matplotlib", None, "not installed"))
        monkeypatch.setattr(doctor, "examine", lambda: found)
        done = run("doctor")
        assert done.exit_code == code
        assert verdict in done.stdout.splitlines()[0]
        assert "matplotlib" in done.stdout

    def test_examination_finds_this_installation(self) -> None:
        findings = {finding.name: finding for finding in doctor.examine()}
        for name in ("spinedose", "numpy", "numba", "pydicom", "backend cpu", "kernels", "density curves"):
            assert findings[name].is_fine, findings[name]

    def test_examination_finds_what_is_missing(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(doctor, "NEEDED", ("numpy", "no-such-library"))
        monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
        findings = {finding.name: finding for finding in doctor.examine()}
        assert findings["no-such-library"].is_fine is False
        assert findings["dciodvfy"].is_fine is None


class TestAsAProcess:
    """The installed command, with the real readers."""

    def _run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", "from spinedose.cli import main; main()", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    @pytest.mark.parametrize("content", [None, b"", b"this is not DICOM" * 100])
    def test_bad_files_are_refused_without_a_traceback(self, tmp_path: Path, content: bytes | None) -> None:
        plan, output = tmp_path / "RP.dcm", tmp_path / "RD.dcm"
        if content is not None:
            plan.write_bytes(content)
        done = self._run("dose", plan, tmp_path, "-o", output)
        assert done.returncode == 2
        assert "RP.dcm" in done.stderr
        assert "Traceback" not in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert not output.exists()

    def test_wrong_arguments(self) -> None:
        done = self._run("dose", "only-a-plan")
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
