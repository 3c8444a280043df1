"""The command line: messages, exit codes, and that a wrong output place is refused before anything is computed."""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

import spinedose
from spinedose import cli, doctor, errors
from spinedose.assignments import Assignment
from spinedose.batch import open_client
from spinedose.check import check as conduct
from spinedose.density import CtImage
from spinedose.dicom.ct import write_ct
from spinedose.dicom.plan import write_plan
from spinedose.errors import BackendUnavailable, InvalidInput, UnsupportedPlan
from spinedose.grid import Grid, Volume
from spinedose.plan import Plan

WARNING = "The density curve 'generic' was not measured on the CT scanner in use."


class FakeDose:
    """A result that writes small files: what the command line needs of one."""

    grid = Grid((0.0, 0.0, 0.0), (0.2, 0.2, 0.2), (2, 2, 2))
    values = np.arange(8, dtype=np.float32).reshape(2, 2, 2)
    metadata = SimpleNamespace(
        backend="cpu", device="a processor", timings_s={"terma": 1.0, "sweep": 2.5}, warnings=(WARNING,), version="0"
    )

    def save(self, path: Path, *, overwrite: bool) -> Path:
        assert overwrite or not path.exists()
        path.write_text("dose")
        return path

    def save_beams(self, folder: Path, *, overwrite: bool) -> list[Path]:
        (folder / "beam_1.dcm").write_text("dose")
        return [folder / "beam_1.dcm"]

    def to_json(self, files: list[Path]) -> str:
        return json.dumps({"backend": "cpu", "output": [path.name for path in files]})


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

    monkeypatch.setattr(cli.compute, "_read_inputs", read)
    monkeypatch.setattr(cli.compute, "_compute", compute)
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
            "materials": (),
            "couch": "",
            "couch_surface_mm": None,
            "spacing_mm": 2.5,
            "fine": (),
            "dose_to": "water",
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
        options += ["--material", "ROD=left=titanium", "--material", "> 2500 HU=CoCr:grow -1"]
        options += ["--couch", "igrt-generic:-12.5", "--fine", "PTV, SpinalCord", "--dose-to", "medium"]
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
            "materials": (
                Assignment("titanium", "ROD=left"),
                Assignment("CoCr", above_hu=2500.0, grow_cm=-0.1),
            ),
            "couch": "igrt-generic",
            "couch_surface_mm": -12.5,
            "spacing_mm": 1.25,
            "fine": ("PTV", "SpinalCord"),
            "dose_to": "medium",
            "backend": "cpu",
            "per_beam": True,
        }
        assert json.loads((tmp_path / "r.json").read_text()) == {
            "backend": "cpu",
            "output": ["RD.dcm", "beam_1.dcm"],
        }
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
            (["--material", "titanium"], '--material "titanium" cannot be understood'),
            (["--material", "=titanium"], '--material "=titanium" cannot be understood'),
            (["--material", "ROD=titanium:1"], '--material "ROD=titanium:1" cannot be understood'),
            (["--material", "ROD=titanium:grow wide"], 'grow wide" cannot be understood'),
            (["--material", "ROD=unobtainium"], "There is no material 'unobtainium' (there are water, "),
            (["--material", ">0=titanium"], "above 0 HU (that would be most of the patient)"),
            (["--material", ">2500=titanium:grow 30"], "asked to grow by 30 mm"),
            (["--couch", "igrt-generic:high"], "--couch igrt-generic:high cannot be understood"),
            (["--couch", ":5"], "--couch :5 cannot be understood"),
            (["--json", "RD.dcm"], "is named twice"),
            (["-o", "RP.dcm"], "'RP.dcm' is one of the inputs (it would be lost)"),
            (["--json", "RP.dcm"], "'RP.dcm' is one of the inputs (it would be lost)"),
            (["-o", "folder/pipe", "--force"], "'folder/pipe' is a device or a pipe"),
            (["--json", "folder/pipe", "--force"], "'folder/pipe' is a device or a pipe"),
            (["-o", "there.dcm"], "'there.dcm' exists"),
            (["-o", "folder"], "'folder' is a folder"),
            (["-o", "nowhere/RD.dcm"], "'nowhere' is not there"),
            (["-o", "there.dcm/RD.dcm"], "'there.dcm' is a file"),
            (["--per-beam", "-o", "full.dcm"], "'full_beams' is not empty"),
            (
                ["--backend", "abacus"],
                "'--backend' ('abacus' is not one of 'auto', 'cpu', 'cuda', 'cuda:1' and so on). See '",
            ),
            (["--bolus", "perhaps"], "'--bolus' ('perhaps' is not one of 'refuse', 'ignore'). See '"),
            (["--spacing-mm", "wide"], "Invalid value for '--spacing-mm' ("),
            (["--sapcing-mm", "2"], "No such option: --sapcing-mm"),
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
        os.mkfifo("folder/pipe")
        done = run("dose", "RP.dcm", ".", *(["-o", "RD.dcm"] if "-o" not in arguments else []), *arguments)
        assert done.exit_code == 2, done.output
        assert words in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert done.stdout == ""
        assert asked == {}
        assert Path("there.dcm").read_text() == "old"
        assert sorted(str(path) for path in Path().rglob("*")) == [
            "RP.dcm", "folder", "folder/pipe", "full_beams", "full_beams/old.dcm", "there.dcm"
        ]  # fmt: skip

    @pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs a folder into which nobody can write")
    def test_a_folder_that_takes_no_files_is_refused(self, asked: dict[str, Any], tmp_path: Path) -> None:
        """Its rights would let root write."""
        done = run("dose", "RP.dcm", tmp_path, "-o", "/proc/RD.dcm")
        assert done.exit_code == 2
        assert re.fullmatch(
            r"Nothing can be written into the folder '/proc' \(.+\)\. Choose another place\.\n", done.stderr
        )
        assert asked == {}

    @pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
    def test_a_write_protected_folder_is_refused(self, asked: dict[str, Any], tmp_path: Path) -> None:
        (tmp_path / "locked").mkdir(mode=0o500)
        done = run("dose", "RP.dcm", tmp_path, "-o", tmp_path / "locked" / "RD.dcm")
        assert done.exit_code == 2
        assert "(Permission denied). Choose another place." in done.stderr
        assert asked == {}

    def test_a_ct_slice_is_not_overwritten_even_by_force(self, asked: dict[str, Any], tmp_path: Path) -> None:
        from pydicom.dataset import Dataset
        from pydicom.uid import CTImageStorage

        dataset = Dataset()
        dataset.SOPClassUID, dataset.Modality = CTImageStorage, "CT"
        slice_ = tmp_path / "CT_0001.dcm"
        dataset.save_as(slice_, implicit_vr=False, little_endian=True)
        before = slice_.read_bytes()
        done = run("dose", "RP.dcm", tmp_path, "-o", slice_, "--force")
        assert done.exit_code == 2
        assert "is a CT slice (it would be lost). Choose another name." in done.stderr
        assert slice_.read_bytes() == before
        assert asked == {}

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
                InvalidInput("The CT lacks 1 slice(s)", "at z", "Accept it", argument='missing_slices="interpolate"'),
                2,
                "The CT lacks 1 slice(s) (at z). Accept it with --missing-slices interpolate.\n",
            ),
            (
                InvalidInput("There are two groups", "", "Choose one", argument="fraction_group"),
                2,
                "There are two groups. Choose one with --fraction-group.\n",
            ),
            (
                InvalidInput("There is no dose per beam", "", "Compute", argument="per_beam=True"),
                2,
                "There is no dose per beam. Compute with --per-beam.\n",
            ),
            (
                FileNotFoundError(2, "No such file or directory", "x.dcm"),
                2,
                "A file 'x.dcm' cannot be used (No such file",
            ),
            (OSError(28, "No space left on device"), 2, "A file cannot be used (No space left on device)."),
            (KeyboardInterrupt(), 130, "Interrupted; no file is half written.\n"),
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

        monkeypatch.setattr(cli.compute, "_compute", fail)
        done = the_dose(tmp_path)
        assert done.exit_code == code
        assert done.stderr.startswith(message)
        assert "Traceback" not in done.output
        assert list(tmp_path.iterdir()) == []

    def test_bugs_are_not_hidden(self, asked: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cli.compute, "_compute", lambda *_, **__: 1 / 0)
        done = the_dose(tmp_path)
        assert done.exit_code == cli.FAILED
        assert "Traceback" in done.stderr and "failed unexpectedly (ZeroDivisionError: " in done.stderr


def _message_calls() -> list[tuple[str, ast.Call]]:
    """Every place below the command line where an error's message is made."""
    kinds = {name for name, value in vars(errors).items() if inspect.isclass(value)} | {"refuse", "_prove"}
    folder = Path(spinedose.__file__).parent
    return [
        (f"{path.relative_to(folder)}:{node.lineno}", node)
        for path in sorted(folder.rglob("*.py"))
        if path.relative_to(folder).parts[0] != "cli"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and (getattr(node.func, "id", "") or getattr(node.func, "attr", "")) in kinds
    ]


class TestArgumentsInMessages:
    """A message from below names the thing in words and the argument apart, which options spell differently."""

    PYTHON = frozenset(
        name
        for function in (spinedose.read_plan, spinedose.read_ct, spinedose.compute_dose, conduct, open_client)
        for name in inspect.signature(function).parameters
    ) | {"material"}  # of ideal_field_dose

    def test_every_argument_named_is_one_in_python_and_an_option(self) -> None:
        options = "".join(run(command, "--help").stdout for command in ("dose", "check", "batch"))
        named = [
            (place, str(ast.literal_eval(word.value)))
            for place, call in _message_calls()
            for word in call.keywords
            if word.arg == "argument"
        ]
        assert len(named) >= 10
        for place, argument in named:
            assert argument.partition("=")[0] in self.PYTHON, place
            assert re.search(rf"{cli.as_option(argument).split()[0]}\b", options), place

    def test_the_values_named_are_values_of_the_options(self, asked: dict[str, Any], tmp_path: Path) -> None:
        options = {
            cli.as_option(str(ast.literal_eval(word.value)))
            for _, call in _message_calls()
            for word in call.keywords
            if word.arg == "argument" and "=" in str(ast.literal_eval(word.value))
        }
        assert {"--missing-slices interpolate", "--bolus ignore"} <= options
        done = the_dose(tmp_path, *(part for option in options for part in option.split()))
        assert done.exit_code == 0, done.output

    def test_no_message_spells_an_argument_itself(self) -> None:
        names = "|".join(sorted(self.PYTHON))
        compound = "|".join(sorted(name for name in self.PYTHON if "_" in name))
        spelled = re.compile(rf"--[a-z]|\b({names})=|\b({compound})\b")
        for place, call in _message_calls():
            texts = [*call.args, *(word.value for word in call.keywords if word.arg != "argument")]
            for text in texts:
                for part in ast.walk(text):
                    if isinstance(part, ast.Constant) and isinstance(part.value, str):
                        assert not spelled.search(part.value), f"{place}: {part.value}"


class TestOtherCommands:
    def test_version(self) -> None:
        assert run("--version").stdout.startswith("spinedose 0.")

    def test_nothing_asked_shows_the_help(self) -> None:
        done = run()
        assert "dose" in done.output
        assert "doctor" in done.output
        assert done.exit_code == 2

    def test_a_misspelt_command_is_told_in_one_line(self) -> None:
        done = run("does")
        assert done.exit_code == 2
        assert re.fullmatch(r"No such command 'does'\. Did you mean 'dose'\? See '\w+ --help'\.\n", done.stderr)

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

    def test_demo_leaves_files_of_others_alone(self, tmp_path: Path) -> None:
        (tmp_path / "RP.dcm").write_text("someone's plan")
        done = run("demo", "--out", tmp_path)
        assert done.exit_code == 2
        why = "is not of an earlier demo (it would be lost or mixed up)"
        assert done.stderr == f"'{tmp_path / 'RP.dcm'}' {why}. Choose another folder.\n"
        assert [path.name for path in tmp_path.iterdir()] == ["RP.dcm"]

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
        assert re.fullmatch(r"Missing argument 'CTDIR'\. See '.* dose --help'\.\n", done.stderr)

    def test_an_empty_ct_folder_and_a_plan_as_ct(self, tmp_path: Path, make_plan: Callable[..., Plan]) -> None:
        plan = write_plan(make_plan(), tmp_path / "RP.dcm")
        (tmp_path / "CT").mkdir()
        for ct, message in (
            (tmp_path / "CT", "has no CT slices ("),
            (plan, "is not a folder (the CT is asked for as a folder of slices). Name the folder."),
        ):
            done = self._run("dose", plan, ct, "-o", tmp_path / "RD.dcm")
            assert done.returncode == 2
            assert message in done.stderr
            assert len(done.stderr.splitlines()) == 1
        assert sorted(path.name for path in tmp_path.iterdir()) == ["CT", "RP.dcm"]

    def test_a_ct_slice_as_plan(self, tmp_path: Path) -> None:
        air = CtImage(Volume(FakeDose.grid, np.full(FakeDose.grid.shape, -1000, np.int16)))
        folder, first = tmp_path / "CT", write_ct(air, tmp_path / "CT")[0]
        done = self._run("dose", first, folder, "-o", tmp_path / "RD.dcm")
        assert done.returncode == 2
        assert done.stderr.endswith(
            "is of modality CT (a file of modality RTPLAN is asked for here). Name the RTPLAN file.\n"
        )
        assert not (tmp_path / "RD.dcm").exists()

    def test_the_help_comes_at_once(self) -> None:
        """Nothing heavy is loaded for it."""
        code = "import sys; from spinedose.cli import main\ntry: main()\nfinally: print(sorted(sys.modules))"
        done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=True)
        loaded = ast.literal_eval(done.stdout.splitlines()[-1])
        assert not {"numpy", "scipy", "numba", "pydicom", "matplotlib"} & set(loaded)
