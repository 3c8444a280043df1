"""`spinedose commission`: what arrives at the fit, what is written, what is said, and what is refused."""

from __future__ import annotations

import ast
import hashlib
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from spinedose import agreement, cli
from spinedose import commission as fitting
from spinedose.commission import Commissioning, Curve, Fitted, apply, parameters_of
from spinedose.errors import InvalidInput
from spinedose.machine import Machine, machine_folder, read_machine

M120 = "varian-truebeam-m120"
FITTED = {"extra_focal_weight": 0.0777, "spectrum_power": 0.05, "depth_shift_cm": 0.04}
X = np.round(np.arange(-9.0, 9.01, 0.2), 6)
DEPTHS = np.round(np.arange(0.5, 30.01, 0.5), 6)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, ["commission", *(str(argument) for argument in arguments)])


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """A folder of measurements: depth doses and profiles of two fields, output factors, and something else."""
    folder = tmp_path / "scans"
    folder.mkdir()
    deep = np.where(DEPTHS < 1.5, 100 - 20 * (1.5 - DEPTHS) ** 2, 100 * np.exp(-0.045 * (DEPTHS - 1.5)))
    lines = ["beam,field_x_cm,field_y_cm,ssd_cm,depth_cm,signal_raw,detector,scan_id,source"]
    for scan, (field, output) in enumerate(((10, 1.0), (5, 0.93)), start=1):
        lines += [
            f"6X,{field},{field},100,{x},{output * v:.4f},IBA CC13,{scan},clinic A"
            for x, v in zip(DEPTHS, deep, strict=True)
        ]
    (folder / "depth.csv").write_text("\n".join(lines))
    lines = ["beam,field_x_cm,field_y_cm,ssd_cm,depth_cm,axis,position_cm,signal_raw,detector,scan_id,source"]
    scan = 0
    for field in (10, 5):
        for depth in (5, 10):
            scan += 1
            half = field / 2 * (100 + depth) / 100
            values = 100 / (1 + np.exp((np.abs(X) - half) / 0.15))
            lines += [
                f"6X,{field},{field},100,{depth},crossline,{x},{v:.4f},IBA CC13,{scan},clinic A"
                for x, v in zip(X, values, strict=True)
            ]
    (folder / "profiles.csv").write_text("\n".join(lines))
    lines = ["beam,square_field_cm,ssd_cm,depth_cm,output_factor,detector,source"]
    lines += [f"6X,{side},100,10,{value},IBA CC13,clinic A" for side, value in ((5, 0.92), (10, 1), (20, 1.09))]
    (folder / "factors.csv").write_text("\n".join(lines))
    (folder / "notes.txt").write_text("Measured on a Sunday.")
    return folder


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Replace the fit by a stand-in that changes three numbers; what it was asked is kept."""
    kept: dict[str, Any] = {}

    def fit(machine: Machine, beam: str, curves: tuple[Curve, ...], **options: Any) -> Commissioning:
        kept.update(options, machine=machine, beam=beam, curves=curves)
        options["progress"]("fitting", 0.5)
        hold = options.get("hold") or {}
        known = options.get("parameters") or parameters_of(machine, machine.beams[beam])
        for name in hold:
            if name not in {p.name for p in known}:
                raise InvalidInput(f"There is no parameter '{name}'")
        model, _ = apply(known, machine.beams[beam], FITTED | hold)
        parameters = [
            Fitted(p.name, hold[p.name], p.start, math.nan, "held")
            if p.name in hold
            else Fitted(p.name, FITTED[p.name], p.start, 0.001, "fitted")
            if p.name in FITTED
            else Fitted(p.name, p.start, p.start, math.nan, "not determined")
            for p in known
        ]
        warnings = ("softening_scale is not determined by the data; 1 is kept.", "a and b can hardly be told apart.")
        pairs = tuple((curve, curve.values * kept.get("off", 1.002)) for curve in curves)
        return Commissioning(model, tuple(parameters), (("a", "b", 0.97),), pairs, warnings)

    monkeypatch.setattr(fitting, "fit_beam", fit)
    monkeypatch.setattr(agreement, "fit_beam", fit)
    monkeypatch.setattr(fitting.Calculator, "curve", lambda self, curve, model, setup=None: 1.004 * curve.values)
    return kept


def test_why_no_curve_can_be_used_is_told(asked: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "short.csv"
    rows = ["6X,10,100,0,50", "6X,10,100,1.5,100", "6X,10,100,10,66", "6X,10,100,20,38"]
    file.write_text("\n".join(["beam,square_field_cm,ssd_cm,depth_cm,dose_percent", *rows]))
    done = run(file, *NEEDED[:-1], tmp_path / "out")
    assert done.exit_code == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith(
        "No curve can be used (6X 10x10 depth_dose (short.csv): it has 3 points from 0.5 cm on"
    )
    assert done.stderr.endswith("Correct the measurements.\n")


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Replace the report by a stand-in."""
    kept: dict[str, Any] = {}
    from spinedose.report import curves

    def write(page: Path, pairs: Any, facts: Any, *, left_out: Any) -> tuple[Path]:
        kept.update(page=page, pairs=pairs, facts=facts, left_out=left_out)
        page.write_text("report")
        return (page,)

    monkeypatch.setattr(curves, "write_report", write)
    return kept


def test_a_fit_writes_a_machine(asked: dict[str, Any], scans: Path, tmp_path: Path) -> None:
    """With the true report."""
    pytest.importorskip("matplotlib")
    out = tmp_path / "ours"
    done = run(scans, "--machine", M120, "--beam", "6X", "-o", out, "--leave-out", "5x5")
    assert done.exit_code == 0, done.output
    first = done.stdout.splitlines()[0]
    start = read_machine(M120)
    own = [p for p in parameters_of(start, start.beams["6X"]) if not p.is_of_setup]
    assert first.startswith(f"6X of {M120}: 2 of {len(own)} numbers fitted to 4 curves; depth doses rms")
    assert sorted(path.name for path in out.iterdir()) == ["6X.toml", "6X_report", "6X_report.html", "machine.toml"]
    machine = read_machine(out)
    assert machine.beams["6X"].extra_focal.weight == pytest.approx(FITTED["extra_focal_weight"])
    assert list(machine.beams) == ["6X"] and machine.description == start.description
    assert "Left out of the fit" in (out / "6X_report.html").read_text(encoding="utf-8")


def test_what_is_said(asked: dict[str, Any], drawn: dict[str, Any], scans: Path, tmp_path: Path) -> None:
    done = run(scans, "--machine", M120, "--beam", "6X", "-o", tmp_path / "ours")
    lines = done.stdout.splitlines()
    assert lines[1] == "No curve was left out."
    assert lines[2].startswith("Not determined by these data:") and "softening_scale" in lines[2]
    assert lines[3].startswith("Worst curves: ")
    assert any(line.split()[:4] == ["extra_focal_weight", "0.0777", "+-", "0.001"] for line in lines)
    after = lines.index("Set-up of the measurement, not part of the beam:")
    assert any("depth_shift_cm" in line for line in lines[after:])
    assert lines[-1] == cli.NOT_CLINICAL
    assert "Warning: a and b can hardly be told apart." in done.stderr
    assert "softening_scale is not determined" not in done.stderr  # said above
    assert "'notes.txt' was passed over" in done.stderr
    assert "The calibration is assumed: 1 cGy/MU at dmax, 10x10, SSD 100." in done.stderr
    quiet = run(scans, "--machine", M120, "--beam", "6X", "-o", tmp_path / "ours", "--force", "--quiet")
    assert quiet.exit_code == 0 and quiet.stdout == ""
    assert "Warning: a and b" in quiet.stderr


def test_options_arrive(asked: dict[str, Any], drawn: dict[str, Any], scans: Path, tmp_path: Path) -> None:
    done = run(
        scans / "depth.csv", scans / "profiles.csv", scans / "factors.csv", "--machine", M120, "--beam", "6X",
        "-o", tmp_path / "ours", "--leave-out", "5x5", "--leave-out", "depth=5", "--hold", "spot_sigma_x_cm=0.05",
        "--detector", "cc13", "--reference", "10x10 ssd=90 depth=10 cGy_per_MU=0.812",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert asked["hold"] == {"spot_sigma_x_cm": 0.05}
    told = sorted((c.kind, c.field_cm[0], len(c.values) == 1) for c in asked["curves"])
    assert told == [
        ("crossline", 10, False), ("depth_dose", 10, False), ("depth_dose", 20, True)
    ]  # fmt: skip
    apart = sorted((c.kind, c.field_cm[0], len(c.values) == 1) for c, _ in drawn["left_out"])
    assert apart == [
        ("crossline", 5, False), ("crossline", 5, False), ("crossline", 10, False), ("depth_dose", 5, False),
        ("depth_dose", 5, True),
    ]  # fmt: skip
    beam = read_machine(tmp_path / "ours").beams["6X"]
    assert beam.calibration.gy_per_mu == pytest.approx(0.00812) and beam.calibration.ssd_cm == 90
    assert "alibration" not in done.stderr
    assert beam.spot[0].sigma_x_cm == 0.05


def test_provenance_says_where_numbers_come_from(
    asked: dict[str, Any], drawn: dict[str, Any], scans: Path, tmp_path: Path
) -> None:
    run(scans, "--machine", M120, "--beam", "6X", "-o", tmp_path / "ours", "--leave-out", "5x5",
        "--hold", "monitor_backscatter=0.01")  # fmt: skip
    found = read_machine(tmp_path / "ours").beams["6X"].provenance
    old = read_machine(M120).beams["6X"].provenance
    assert found["status"].startswith("fitted to 4 curves")
    assert found["extra_focal"].startswith("fitted: extra_focal_weight = 0.0777 +- 0.001. Not determined:")
    assert found["extra_focal"].endswith(old["extra_focal"])
    for group in ("softening", "leaf_offset", "mlc_transmission"):
        assert "not determined by these data" in found[group].split(":")[0], group
        assert found[group].endswith(old[group])
    assert found["calibration"].startswith("assumed: 1 cGy/MU, 10 x 10 cm, SSD 100 cm, depth dmax")
    assert found["data"]["not_used"] == []
    assert found["monitor_backscatter"].startswith("held: monitor_backscatter = 0.01.")
    assert found["data"]["files"] == ["depth.csv", "factors.csv", "profiles.csv"]
    digests = [hashlib.sha256((scans / name).read_bytes()).hexdigest() for name in found["data"]["files"]]
    assert found["data"]["sha256"] == digests
    assert "depth.csv, clinic A" in found["data"]["sources"]
    assert found["fit"]["left_out"] == ["5x5"] and found["fit"]["held"] == ["monitor_backscatter = 0.01"]
    assert "softening_scale" in found["fit"]["not_determined"]
    assert found["residuals_rms_percent"].keys() == {"crossline", "depth_dose"}
    assert found["setup"]["depth_shift_cm"] == 0.04
    assert found["start"]["machine"] == M120 and len(found["start"]["data_hash"]) == 64
    assert found["spinedose_version"]


def test_a_second_beam_joins_the_machine(
    asked: dict[str, Any], drawn: dict[str, Any], scans: Path, tmp_path: Path
) -> None:
    out = tmp_path / "ours"
    assert run(scans, "--machine", M120, "--beam", "6X", "-o", out).exit_code == 0
    for path in scans.glob("*.csv"):
        path.write_text(path.read_text().replace("6X,", "10X,"))
    assert run(scans, "--machine", M120, "--beam", "10X", "-o", out).exit_code == 0
    assert list(read_machine(out).beams) == ["10X", "6X"]
    # but not the beam of another machine
    done = run(scans, "--machine", "varian-truebeam-hd120", "--beam", "10X", "-o", out, "--force")
    assert done.exit_code == 2 and "holds another machine" in done.stderr


def test_a_second_fit_starts_from_the_first(
    asked: dict[str, Any], drawn: dict[str, Any], scans: Path, tmp_path: Path
) -> None:
    """Marks do not pile up."""
    run(scans, "--machine", M120, "--beam", "6X", "-o", tmp_path / "a")
    done = run(scans, "--machine", tmp_path / "a", "--beam", "6X", "-o", tmp_path / "b")
    assert done.exit_code == 0, done.output
    first, second = (read_machine(tmp_path / name).beams["6X"].provenance for name in "ab")
    assert second["leaf_offset"] == first["leaf_offset"]
    assert second["start"]["machine"] == "a"
    assert second["start"]["start"]["machine"] == M120


class TestCheck:
    def test_within(self, asked: dict[str, Any], scans: Path, tmp_path: Path) -> None:
        done = run(scans, "--machine", M120, "--beam", "6X", "--check")
        assert done.exit_code == 0, done.output
        assert done.stdout.splitlines()[0].startswith(f"6X of {M120}: within the limits in all ")
        assert {p.is_of_setup for p in asked["parameters"]} == {True}
        assert "depth_shift_cm" in done.stdout
        assert sorted(path.name for path in tmp_path.iterdir()) == ["scans"]

    def test_outside(self, asked: dict[str, Any], drawn: dict[str, Any], scans: Path, tmp_path: Path) -> None:
        asked["off"] = 1.02
        done = run(scans, "--machine", M120, "--beam", "6X", "--check", "-o", tmp_path / "check")
        assert done.exit_code == 1, done.output
        assert ": OUTSIDE the limits in " in done.stdout.splitlines()[0]
        assert "5 x 5 cm depth dose, IBA CC13: output +2.00 % (limit 1 %)" in done.stdout
        assert [path.name for path in (tmp_path / "check").iterdir()] == ["6X_check.html"]
        assert drawn["facts"].judgements and drawn["facts"].title == f"Beam 6X of {M120}, checked"

    @pytest.mark.parametrize(("factor", "code", "word"), [(1.0, 0, "within"), (1.02, 1, "OUTSIDE")])
    def test_calibration(self, asked: dict[str, Any], scans: Path, factor: float, code: int, word: str) -> None:
        now = read_machine(M120).beams["6X"].calibration
        text = f"{now.field_cm:g}x{now.field_cm:g} ssd={now.ssd_cm:g} depth={now.depth_cm:g}"
        reference = f"{text} cGy_per_MU={100 * factor * now.gy_per_mu:.6g}"
        done = run(scans, "--machine", M120, "--beam", "6X", "--check", "--reference", reference)
        assert done.exit_code == code, done.output
        assert f"{word} the limit of 1 %" in done.stdout

    def test_calibration_elsewhere_is_calculated(self, asked: dict[str, Any], scans: Path) -> None:
        """Isocentric, 10 cm deep: the inverse square of 110 to 100 cm, less 0.4 to 0.8 % of scatter from a smaller
        surface field."""
        now = read_machine(M120).beams["6X"].calibration
        assert (now.field_cm, now.ssd_cm, now.depth_cm) == (10, 100, 10)
        dose = 100 * now.gy_per_mu * 1.1**2 * 0.994
        check = ["--machine", M120, "--beam", "6X", "--check", "--reference"]
        done = run(scans, *check, f"10x10 ssd=90 depth=10 cGy_per_MU={dose:.6g}")
        assert done.exit_code == 0, done.output
        assert "another point than its own" in done.stdout and "within the limit of 1 %" in done.stdout
        assert run(scans, *check, f"10x10 ssd=90 depth=10 cGy_per_MU={0.98 * dose:.6g}").exit_code == 1


SCANS = "scans"
NEEDED = ["--machine", M120, "--beam", "6X", "-o", "out"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere", *NEEDED], "'nowhere' is not there"),
        ([SCANS + "/notes.txt", *NEEDED], "is no file of measurements"),
        (["empty", *NEEDED], "There are no files of measurements"),
        ([SCANS, "--machine", M120, "--beam", "6X"], "Name it with --output."),
        ([SCANS, "--machine", "m", "--beam", "6X", "-o", "out"], "'m' was not found"),
        ([SCANS, "--machine", M120, "--beam", "4X", "-o", "out"], "has no beam '4X'"),
        ([SCANS, "--machine", M120, "--beam", "10X", "-o", "out"], "no measurements of beam '10X' (the files hold 6X)"),
        ([SCANS, *NEEDED, "--leave-out", "7x7"], "--leave-out 7x7 fits no curve (the fields are 5x5, 10x10)"),
        ([SCANS, *NEEDED, "--leave-out", "small"], "--leave-out small cannot be understood"),
        ([SCANS, *NEEDED, "--leave-out", "1.2.3x5"], "--leave-out 1.2.3x5 cannot be understood"),
        ([SCANS, *NEEDED, "--hold", "spot"], "--hold spot cannot be understood"),
        ([SCANS, *NEEDED, "--hold", "spot=1"], "There is no parameter 'spot'"),
        ([SCANS, *NEEDED, "--reference", "10x10"], "--reference '10x10' cannot be understood"),
        ([SCANS, *NEEDED, "--reference", "10x20 ssd=100 depth=10 cGy_per_MU=1"], "it takes a square field"),
        ([SCANS, *NEEDED, "--reference", "10x10 ssd=100 depth=10 cGy_per_MU=100"], "outside 0 to 1 Gy/MU"),
        ([SCANS, *NEEDED, "--detector", "pinpoint"], "There is no curve of beam '6X'"),
        ([SCANS, *NEEDED, "--leave-out", "5x5", "--leave-out", "10x10", "--leave-out", "20x20"], "No curve is left"),
        ([SCANS, *NEEDED[:-1], "full"], "'full' is not empty"),
        ([SCANS, *NEEDED[:-1], SCANS + "/notes.txt"], "is a file (a folder is needed)"),
        ([SCANS, *NEEDED[:-1], "there"], "6X.toml' exists (it would be lost)"),
        ([SCANS, *NEEDED[:-1], "out/nowhere/there.txt/x"], ""),
        ([SCANS, *NEEDED, "--lave-out", "7x7"], "No such option: --lave-out"),
    ],
)
def test_refused_in_one_line_and_nothing_written(
    asked: dict[str, Any],
    scans: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("empty", "full", "there"):
        Path(name).mkdir()
    Path("full/old.txt").write_text("old")
    Path("there/6X.toml").write_text("old")
    before = sorted(Path().rglob("*"))
    if not words:
        Path("out").write_text("a file")
        before, words = sorted(Path().rglob("*")), "'"
    done = run(*arguments)
    assert done.exit_code == 2, done.output
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stdout == ""
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize("room", ["beam_file", "report"])
def test_a_full_disk_leaves_no_beam(
    asked: dict[str, Any],
    drawn: dict[str, Any],
    scans: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    room: str,
) -> None:
    from spinedose import beam_file
    from spinedose.report import curves

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*((beam_file, "write_beam") if room == "beam_file" else (curves, "write_report")), fail)
    done = run(scans, *NEEDED[:-1], tmp_path / "out")
    assert done.exit_code == 2
    assert done.stderr.startswith("A file cannot be used (No space left on device).")
    assert not list((tmp_path / "out").glob("*6X.toml*"))


def test_refused_curves_are_named(asked: dict[str, Any], drawn: dict[str, Any], scans: Path, tmp_path: Path) -> None:
    path = scans / "profiles.csv"
    lines = path.read_text().splitlines()
    broken = [line.replace(",crossline,", ",crossline,9") if line.endswith(",4,clinic A") else line for line in lines]
    path.write_text("\n".join(broken))
    done = run(scans, *NEEDED[:-1], tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "Warning: Refused: " in done.stderr and "scan 4" in done.stderr
    assert len([c for c in asked["curves"] if c.kind == "crossline"]) == 3
    assert len(read_machine(tmp_path / "out").beams["6X"].provenance["data"]["refused"]) == 1


def test_without_matplotlib_there_is_a_beam_all_the_same(
    asked: dict[str, Any], scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    find: Callable[..., Any] = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "matplotlib" else find(name, *more)
    )
    done = run(scans, *NEEDED[:-1], tmp_path / "out")
    assert done.exit_code == 0
    assert "matplotlib is not installed" in done.stdout
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["6X.toml", "machine.toml"]


def test_a_tiny_fit_from_end_to_end(tmp_path: Path) -> None:
    """No stand-in: the model's own depth doses with more head scatter; all numbers but two are held."""
    start = read_machine(M120)
    every = parameters_of(start, start.beams["6X"])
    model, _ = apply(every, start.beams["6X"], {"extra_focal_weight": 0.11})
    calculator, lines = fitting.Calculator(start), ["beam,square_field_cm,ssd_cm,depth_cm,signal_raw,detector,scan_id"]
    for scan, side in enumerate((4.0, 10.0, 20.0)):
        curve = Curve("depth_dose", (side, side), 100.0, math.nan, DEPTHS, DEPTHS, DEPTHS, True, None, "")
        values = calculator.curve(curve, model)
        lines += [f"6X,{side:g},100,{x},{v:.6f},IBA CC13,{scan}" for x, v in zip(DEPTHS, 100 * values, strict=True)]
    (tmp_path / "depth.csv").write_text("\n".join(lines))
    free = {"extra_focal_weight", "depth_shift_cm"}
    hold = [item for p in every if p.name not in free for item in ("--hold", f"{p.name}={p.start!r}")]
    done = run(tmp_path / "depth.csv", *NEEDED[:-1], tmp_path / "out", *hold)
    assert done.exit_code == 0, done.output
    machine = read_machine(tmp_path / "out")
    assert machine.beams["6X"].extra_focal.weight == pytest.approx(0.11, abs=0.002)
    assert machine.beams["6X"].provenance["extra_focal"].startswith("fitted: extra_focal_weight = ")
    assert (tmp_path / "out" / "machine.toml").read_bytes() == (machine_folder(M120) / "machine.toml").read_bytes()
    # and the check is content with it, but not with the beam that the fit started from
    check = ["--beam", "6X", "--check"]
    assert run(tmp_path / "depth.csv", "--machine", tmp_path / "out", *check).exit_code == 0
    drifted = run(tmp_path / "depth.csv", "--machine", M120, *check)
    assert drifted.exit_code == 1 and "4 x 4 cm depth dose, IBA CC13: output" in drifted.stdout


def test_the_help_comes_at_once() -> None:
    """Nothing heavy is loaded for it."""
    code = "import sys; from spinedose.cli import main\ntry: main()\nfinally: print(sorted(sys.modules))"
    command = [sys.executable, "-c", code, "commission", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "--leave-out" in done.stdout
    loaded = ast.literal_eval(done.stdout.splitlines()[-1])
    assert not {"numpy", "scipy", "numba", "pydicom", "matplotlib"} & set(loaded)


DMAX = 1.5
"""Depth of maximum dose of the made-up scans [cm]."""


class TestCalibration:
    """Who states it: the command line, the data, the start model; or else it is assumed, and marked so."""

    def fitted(self, scans: Path, out: Path, *options: object) -> tuple[Any, str]:
        done = run(scans, *NEEDED[:-1], out, *options)
        assert done.exit_code == 0, done.output
        return read_machine(out).beams["6X"], done.stderr

    def test_nobody(self, asked: dict[str, Any], drawn: dict[str, Any], scans: Path, tmp_path: Path) -> None:
        """1 cGy/MU at the maximum, carried to 10 cm by the measured depth dose: exp(-0.045 * 8.5) of it."""
        beam, _ = self.fitted(scans, tmp_path / "out")
        own = beam.calibration
        assert (own.field_cm, own.ssd_cm, own.depth_cm) == (10, 100, 10)
        assert own.gy_per_mu == pytest.approx(0.01 * math.exp(-0.045 * 8.5), rel=0.005)
        assert "measured (6X 10x10 depth_dose" in beam.provenance["calibration"]
        assert "no measurement" in beam.provenance["calibration"]

    def test_the_command_line_at_the_maximum(
        self, asked: dict[str, Any], drawn: dict[str, Any], scans: Path, tmp_path: Path
    ) -> None:
        beam, said = self.fitted(scans, tmp_path / "out", "--reference", "10x10, SSD 100, depth dmax, 0.98 cGy/MU")
        assert beam.calibration.gy_per_mu == pytest.approx(0.0098 * math.exp(-0.045 * 8.5), rel=0.005)
        assert beam.provenance["calibration"].startswith("stated: 0.98 cGy/MU") and "alibration" not in said

    def test_the_data(self, asked: dict[str, Any], drawn: dict[str, Any], scans: Path, tmp_path: Path) -> None:
        row = (
            "beam,square_field_cm,ssd_cm,depth_cm,dose_cGy_per_MU,source\n6X,10,90,10,0.812,clinic A\n10X,10,90,10,0.9,"
        )
        (scans / "calibration.csv").write_text(row)
        beam, said = self.fitted(scans, tmp_path / "out")
        own = beam.calibration
        assert (own.gy_per_mu, own.ssd_cm, own.depth_cm) == (pytest.approx(0.00812), 90, 10)
        assert "calibration.csv, clinic A" in beam.provenance["calibration"] and "alibration" not in said
        again, _ = self.fitted(scans, tmp_path / "b", "--reference", "10x10 ssd=100 depth=10 cGy_per_MU=0.67")
        assert again.calibration.gy_per_mu == pytest.approx(0.0067)  # the command line has the last word

    def test_two_in_the_data_are_refused(self, asked: dict[str, Any], scans: Path, tmp_path: Path) -> None:
        head = "beam,square_field_cm,ssd_cm,depth_cm,dose_cGy_per_MU\n"
        for name, dose in (("a.csv", 0.8), ("b.csv", 0.81)):
            (scans / name).write_text(f"{head}6X,10,90,10,{dose}")
        done = run(scans, *NEEDED[:-1], tmp_path / "out")
        assert done.exit_code == 2 and "two reference conditions" in done.stderr

    def test_the_start_model(self, asked: dict[str, Any], drawn: dict[str, Any], scans: Path, tmp_path: Path) -> None:
        first, _ = self.fitted(scans, tmp_path / "a", "--reference", "10x10 ssd=90 depth=10 cGy_per_MU=0.8")
        done = run(scans, "--machine", tmp_path / "a", "--beam", "6X", "-o", tmp_path / "b")
        assert done.exit_code == 0, done.output
        assert read_machine(tmp_path / "b").beams["6X"].calibration == first.calibration
        assert "is the one that the start model states" in done.stderr


def test_what_is_not_used_is_said(asked: dict[str, Any], drawn: dict[str, Any], scans: Path, tmp_path: Path) -> None:
    head = "beam,square_field_cm,ssd_cm,depth_cm,output_factor,detector"
    (scans / "more.csv").write_text(f"{head}\n6X,5,100,,0.9,CC13\n6X,10,100,,1,CC13")
    (scans / "tpr.csv").write_text(
        "\n".join(["beam,square_field_cm,depth_cm,tpr", *(f"6X,10,{d},{1 - 0.04 * (d - 10)}" for d in range(1, 20))])
    )
    done = run(scans, *NEEDED[:-1], tmp_path / "out")
    assert done.exit_code == 0, done.output
    for words in ("its depth is not stated", "tissue-phantom ratios are not fitted"):
        assert words in done.stderr and any(words in text for text in drawn["facts"].warnings)
    told = read_machine(tmp_path / "out").beams["6X"].provenance["data"]["not_used"]
    assert len(told) == 2


def test_folders_are_searched_to_their_ends(
    asked: dict[str, Any], drawn: dict[str, Any], scans: Path, tmp_path: Path
) -> None:
    """But hidden ones are not, nor what a fit wrote."""
    for name in ("deep/er", ".hidden", "ours"):
        (scans / name).mkdir(parents=True)
    (scans / "profiles.csv").rename(scans / "deep" / "er" / "profiles.csv")
    for name in (".hidden", "ours"):
        (scans / name / "depth.csv").write_text((scans / "depth.csv").read_text())
    (scans / "ours" / "machine.toml").write_text("")
    done = run(scans, *NEEDED[:-1], tmp_path / "out")
    assert done.exit_code == 0, done.output
    data = read_machine(tmp_path / "out").beams["6X"].provenance["data"]
    assert data["files"] == ["deep/er/profiles.csv", "depth.csv", "factors.csv"]


BROKEN: dict[str, tuple[Callable[[str], str], str]] = {
    "depths in mm": (lambda text: text.replace(",depth_cm,", ",depth_mm,"), "lengths in mm"),
    "SSD in mm": (lambda text: text.replace(",100,", ",1000,"), "no room is so long"),
    "no field": (lambda text: text.replace("6X,10,10", "6X,,").replace("6X,5,5", "6X,,"), "field size is not stated"),
    "two scans in one": (lambda text: text.replace(",2,clinic", ",1,clinic").replace("6X,5,5", "6X,10,10"), "pooled"),
    "no numbers": (lambda text: text.replace("IBA", "x").replace(",100,", ",100,about "), "is not a number"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_bad_data_are_refused_with_the_reason(asked: dict[str, Any], scans: Path, tmp_path: Path, case: str) -> None:
    """In one line, also where nothing is left."""
    change, words = BROKEN[case]
    only = tmp_path / "only"
    only.mkdir()
    (only / "depth.csv").write_text(change((scans / "depth.csv").read_text()))
    done = run(only, *NEEDED[:-1], tmp_path / "out")
    assert done.exit_code == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert words in done.stderr and not (tmp_path / "out").exists()
