"""The validation: lines and limits, roles of data, absent data, a made-up tank, JSON, and the page."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from spinedose.backends.select import select_backend
from spinedose.cli import app
from spinedose.curve_judging import output_criterion
from spinedose.errors import InvalidInput
from spinedose.grid import Grid, Volume
from spinedose.machine import read_machine
from spinedose.measurements import DETECTORS, Scan
from spinedose.validate import CASES, Criterion, Drawn, Line, Outcome, Results, pooled, read_criteria, validate
from spinedose.validate.case import Bench, role_of, was_fitted
from spinedose.validate.in_water import depth_dose_lines, profile_lines
from spinedose.validate.lines import HELD_OUT, OTHER, USED, Tag
from spinedose.validate.tanks import Setup, Tanks, as_voxels, depth_dose, profile
from spinedose.validate.water import disagreement, truebeam_role

TAG = Tag("water-truebeam", "varian-truebeam-m120", "6X")
LIMIT = Criterion("some", 2.0, "%", "a source", or_mm=2.0, wider=3.0, wider_source="others")
CRITERIA = read_criteria()

READ_MM = 0.2
"""What voxels of 2.5 mm leave open of the width of a field whose edges are 1.7 mm (sigma) soft."""


def line(*differences: float, **more: Any) -> Line:
    return Line.of(TAG, LIMIT, differences, **({"quantity": "dose", "region": "beyond", "role": HELD_OUT} | more))


# ---------------------------------------------------------------------------------------------- lines and limits


def test_a_line_says_mean_worst_and_whether_it_passes() -> None:
    good, bad = line(0.5, -1.5, 1.0, at_cm=[1.0, 2.0, 3.0]), line(2.5, field="4 x 4 cm")
    assert (good.n_points, good.mean, good.worst, good.where) == (3, 0.0, -1.5, "2 cm")
    assert good.passed and good.share == 0.75
    assert not bad.passed and bad.share == 1.25 and bad.note == "within 3 of others"
    assert line(3.5).note == "beyond 3 of others"


def test_a_distance_may_be_good_enough_instead() -> None:
    assert line(9.0, distances_mm=[1.0]).share == 0.5
    assert not line(9.0, distances_mm=[math.nan]).passed
    assert line(9.0, 1.0, distances_mm=[1.0, 9.0]).worst == 9.0  # both 0.5: the first


@pytest.mark.parametrize(
    "change", [{"role": "guessed"}, {"n_points": 0}, {"worst": math.nan}, {"source": ""}, {"passed": False}]
)
def test_an_impossible_line_cannot_be_made(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        replace(line(1.0), **change)


def test_every_limit_has_a_source() -> None:
    assert len(CRITERIA) > 10
    assert all(limit.source for limit in CRITERIA.values())
    assert [output_criterion(CRITERIA, side).limit for side in (1, 2, 3, 40)] == [3.0, 2.0, 1.0, 1.0]
    assert (CRITERIA["build_up"].limit, CRITERIA["build_up"].or_mm) == (5.0, 2.0)


@pytest.mark.parametrize("text", ["", "schema_version = 1\n[a]\nlimit = 1.0\nunit = '%'", "schema_version = 1\na = 3"])
def test_limits_without_a_source_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "criteria.toml"
    path.write_text(text)
    with pytest.raises(InvalidInput):
        read_criteria(path)


def test_the_weakest_are_of_different_quantities() -> None:
    lines = (line(5.0), line(4.0), line(3.0, region="tail"), line(0.1, region="edge"), line(1.0, quantity="output"))
    results = Results("cpu", "test", (Outcome(*TAG_KEY, "2026-01-01", lines=lines),))
    assert [weak.worst for weak in results.weakest(3)] == [5.0, 3.0, 1.0]
    assert [bad.worst for bad in results.failed] == [5.0, 4.0, 3.0]
    first = pooled(lines)[0]
    assert (len(first.lines), first.n_passed, first.mean, first.worst.worst) == (2, 0, 4.5, 5.0)


TAG_KEY = (TAG.case, TAG.machine, TAG.beam)

# ---------------------------------------------------------------------------------------------- roles


def scan(kind: str, side: float, depth: float = math.nan, detector: str = "IBA CC13") -> Scan:
    x = np.array([-1.0, 0.0, 1.0]) if kind == "crossline" else np.array([1.0, 2.0])
    return Scan(kind, "6X", side, side, 100.0, depth, x, np.ones(len(x)), "signal", detector)


def test_roles_follow_the_fit() -> None:
    assert truebeam_role(scan("depth_dose", 10)) == USED
    assert truebeam_role(scan("depth_dose", 7)) == HELD_OUT
    assert truebeam_role(scan("crossline", 10, 10.0)) == USED
    assert truebeam_role(scan("crossline", 10, 5.0)) == HELD_OUT
    assert truebeam_role(scan("crossline", 20, 10.0)) == HELD_OUT
    assert truebeam_role(scan("crossline", 2, 10.0, "IBA photon diode")) == USED
    assert truebeam_role(scan("crossline", 2, 20.0, "IBA photon diode")) == HELD_OUT
    assert truebeam_role(scan("depth_dose", 2, detector="IBA photon diode")) == HELD_OUT


def test_a_beam_that_was_not_fitted_has_used_nothing() -> None:
    model = read_machine("varian-truebeam-m120").beam("6X")
    fitted = replace(model, provenance={"status": "fitted to water scans; leaves are literature values"})
    start = replace(model, provenance={"status": "literature start values, not fitted to this beam"})
    assert was_fitted(fitted) and not was_fitted(start)
    assert role_of(fitted, USED, is_same_machine=True) == USED
    assert role_of(start, USED, is_same_machine=True) == HELD_OUT
    assert role_of(fitted, USED, is_same_machine=False) == OTHER


# ---------------------------------------------------------------------------------------------- a made-up tank


def made_up(*_: Any, field_cm: tuple[float, float] = (6.0, 6.0), **__: Any) -> Volume:
    """A depth dose that rises to 1.5 cm and falls by 4.5 % a cm, times a square field with soft edges."""
    h = 0.25
    x = (np.arange(96) - 47.5) * h
    depth = (np.arange(160) + 0.5) * h
    axis = np.exp(-0.045 * depth) * (1 - 0.6 * np.exp(-3 * depth))
    grow = (100 + depth) / 100
    within = h * (np.arange(11) - 5) / 11  # values are means over voxels
    across = [_edge(x[:, None] + within, side, grow[:, None, None]).mean(axis=2) for side in field_cm]
    values = across[1].T[:, :, None] * (axis[:, None] * across[0])[None]
    grid = Grid((x[0], depth[0], x[0]), (h, h, h), values.shape)
    return Volume(grid, values.astype(np.float32))


def _edge(x: np.ndarray, side: float, grow: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp((np.abs(x) - side / 2 * grow) / 0.1))


def measured(kind: str, depth: float = math.nan, detector: str = "") -> Scan:
    """What a point would read in the made-up tank, from its formula."""
    if kind == "depth_dose":
        x = np.arange(0.0, 30.1, 0.1)
        v = np.exp(-0.045 * x) * (1 - 0.6 * np.exp(-3 * x))
    else:
        x = np.arange(-8.0, 8.05, 0.1)
        v = 80 * _edge(x, 6.0, np.array((100 + depth) / 100))
        x = x + 0.03  # off centre
    return Scan(kind, "6X", 6.0, 6.0, 100.0, depth, x, v, "signal", detector)


def test_a_tank_agrees_with_itself() -> None:
    lines, curves, notes = depth_dose_lines(TAG, measured("depth_dose"), made_up(), Setup(), None, HELD_OUT, CRITERIA)
    assert [item.region for item in lines] == ["build-up", "beyond the maximum"]
    assert all(abs(item.worst) < 0.15 for item in lines[1:]) and lines[0].share < 0.3 and not notes
    lines, curves, notes = profile_lines(TAG, measured("crossline", 10.0), made_up(), Setup(), None, HELD_OUT, CRITERIA)
    found = {item.region: item for item in lines}
    assert set(found) == {"in the field", "tail", "penumbra 80-20 %", "width at 50 %"}
    assert all(item.passed for item in lines) and found["penumbra 80-20 %"].n_points == 2
    assert abs(found["width at 50 %"].worst) < READ_MM
    assert abs(found["penumbra 80-20 %"].worst) < READ_MM
    assert curves[0].kind == "profile" and curves[0].measured.max() == pytest.approx(100, abs=0.1)


def test_errors_of_known_size_show() -> None:
    """Depth zero off by 5 mm, and a field 1.5 mm wider on each side."""
    lines, _, _ = depth_dose_lines(
        TAG, measured("depth_dose"), made_up(), Setup(depth_shift_cm=0.5), None, HELD_OUT, CRITERIA
    )
    assert not lines[0].passed  # build-up: steep
    wide = made_up(field_cm=(6.3, 6.0))
    lines, _, _ = profile_lines(TAG, measured("crossline", 10.0), wide, Setup(), None, HELD_OUT, CRITERIA)
    found = {item.region: item for item in lines}
    assert found["width at 50 %"].worst == pytest.approx(3.3, abs=READ_MM)
    assert not found["width at 50 %"].passed


def test_a_chamber_widens_the_penumbra_and_keeps_the_axis() -> None:
    volume = made_up()
    x, sharp = profile(volume, "x", 10.0)
    _, blurred = profile(volume, "x", 10.0, DETECTORS["IBA CC13"])
    slope = [np.abs(np.gradient(v, x)).max() for v in (sharp, blurred)]
    assert slope[1] < 0.8 * slope[0]
    axis = [depth_dose(volume, [10.0], d)[0] for d in (None, DETECTORS["IBA CC13"], DETECTORS["IBA PFD"])]
    np.testing.assert_allclose(axis, axis[0], rtol=1e-3)


def test_tanks_are_computed_once_with_the_real_field() -> None:
    calls = []

    def compute(machine: Any, model: Any, field_cm: tuple[float, float], **options: Any) -> Volume:
        calls.append((field_cm, options["depth_cm"]))
        return made_up()

    tanks = Tanks(select_backend("cpu"), compute=compute)
    machine = read_machine("varian-truebeam-m120")
    setup = Setup(jaw_x_offset_cm=-0.03, jaw_y_offset_cm=-0.07)
    for _ in range(2):
        tanks.dose(machine, "6X", setup.field_cm((6.0, 6.0)), to_depth_cm=30.0)
    assert calls == [((5.94, 5.86), 35.0)]
    tanks.dose(machine, "6X", (5.94, 5.86), to_depth_cm=30.0, ssd_cm=90.0)
    tanks.forget()
    tanks.dose(machine, "6X", (5.94, 5.86), to_depth_cm=30.0)
    assert len(calls) == 3


def test_the_setup_comes_from_the_provenance() -> None:
    model = read_machine("varian-truebeam-m120").beam("6X")
    table = {"jaw_x_offset_cm": -0.03, "other_jaw_x_offset_cm": -0.06, "depth_shift_cm": 0.05}
    known = replace(model, provenance={"setup": table})
    assert Setup.of(known) == Setup(-0.03, 0.0, 0.05)
    assert Setup.of(known, is_other=True) == Setup(-0.06, 0.0, 0.05)
    assert Setup.of(replace(model, provenance={})) == Setup()
    assert "-0.30 mm (x)" in str(Setup.of(known))


def test_disagreement_of_detectors_is_said() -> None:
    def depth_dose_scan(side: float, factor: float) -> Scan:
        x = np.arange(0.0, 35.0, 0.1)
        return Scan("depth_dose", "6X", side, side, 100.0, math.nan, x, factor * np.exp(-0.05 * x), "signal")

    sets = {
        "cc13": {4.0: depth_dose_scan(4.0, 0.9), 10.0: depth_dose_scan(10.0, 1.0)},
        "photondiode": {4.0: depth_dose_scan(4.0, 0.909), 10.0: depth_dose_scan(10.0, 1.0)},
    }
    (said,) = disagreement(sets)
    assert "4 cm +1.00 %" in said
    assert disagreement({"cc13": sets["cc13"]}) == []


# ---------------------------------------------------------------------------------------------- running


def test_absent_data_are_skipped_and_named(tmp_path: Path) -> None:
    results = validate(["water-truebeam", "mc"], data=tmp_path, beam="6X")
    (only,) = results.outcomes  # `mc` has no beam
    assert "rsch_la6_truebeam" in only.skipped and str(tmp_path) in only.skipped
    assert not results.lines and results.skipped == results.outcomes


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no case 'nonsense'"):
        validate(["nonsense"])
    with pytest.raises(InvalidInput, match="No case has beam '15X'"):
        validate(["water-truebeam"], beam="15X")
    with pytest.raises(InvalidInput, match="is not there"):
        validate(["analytic"], data=tmp_path / "nowhere")


def test_names_and_needs_of_cases() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
    for case in CASES:
        assert case.what and case.sources and case.missing(None) == case.needs


def test_exact_physics_holds(tmp_path: Path) -> None:
    results = validate(["analytic"], data=tmp_path)
    assert [item.passed for item in results.lines] == [True] * 4


def test_a_case_with_a_made_up_tank(shared: Path) -> None:
    """All of the water case but the engine: it compares, scales and labels; that the made-up dose fails is right."""
    machine = read_machine("varian-truebeam-m120")
    device = select_backend("cpu")

    def compute(machine: Any, model: Any, field_cm: tuple[float, float], **options: Any) -> Volume:
        return made_up(field_cm=field_cm)

    bench = Bench(shared, device, Tanks(device, compute=compute), CRITERIA, (4.0, 7.0))
    lines, curves, notes = CASES[0].run(bench, TAG, machine)
    assert {item.field for item in lines} == {"4 x 4 cm", "7 x 7 cm"}
    assert {item.quantity for item in lines} == {"depth dose", "output ratio", "profile"}
    assert len(curves) >= 12 and any("among themselves" in note for note in notes)
    by_role = {item.role for item in lines if item.field == "7 x 7 cm"}
    assert by_role == {HELD_OUT}


# ---------------------------------------------------------------------------------------------- JSON, page, command


def small_results() -> Results:
    x = np.linspace(-8, 8, 321)
    curve = Drawn("6X 4 x 4 cm crossline at 5 cm, IBA CC13", "profile", "off axis [cm]", "dose [% of the axis]", x,
                  100 * _edge(x, 4.0, np.array(1.0)), 100 * _edge(x, 4.1, np.array(1.0)), HELD_OUT)  # fmt: skip
    deep = replace(curve, title="6X 4 x 4 cm", kind="depth dose", x=x + 8.5, role=USED)
    lines = (
        line(2.5, quantity="profile", region="tail", field="4 x 4 cm", depth="5 cm"),
        line(0.5, quantity="output ratio", region="at 10 cm", field="4 x 4 cm", note="IBA CC13"),
        line(1e-5, quantity="depth dose", role=USED, field="4 x 4 cm"),
    )
    done = Outcome(*TAG_KEY, "2026-01-02", "0123456789abcdef", 1.5, lines, (curve, deep), ("a note",))
    return Results("cpu", "some cpu, 2 threads", (done, Outcome("mc", "", "", "2026-01-02", skipped="no data")))


def test_results_go_through_json() -> None:
    results = small_results()
    again = Results.from_json(results.to_json())
    assert again.lines == results.lines and again.version == results.version
    assert again.outcomes[0].notes == ("a note",) and again.outcomes[1].skipped == "no data"
    kept, drawn = again.outcomes[0].curves[0], results.outcomes[0].curves[0]
    assert len(kept.x) <= 90
    np.testing.assert_allclose(np.interp(drawn.x, kept.x, kept.measured), drawn.measured, atol=3.0)
    with pytest.raises(InvalidInput):
        Results.from_json("{}")


def test_newer_outcomes_replace_older_ones() -> None:
    old = small_results()
    new = Results("cpu", "x", (Outcome("mc", "", "", "2026-02-02"), Outcome("mc", "a", "b", "2026-02-02")))
    merged = old.updated(new)
    assert [(item.case, item.date[5:7]) for item in merged.outcomes] == [
        ("water-truebeam", "01"), ("mc", "02"), ("mc", "02")
    ]  # fmt: skip


@pytest.fixture
def page_module(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "validation"))
    import page

    yield page
    sys.modules.pop("page", None)


def test_the_page_says_the_worst_first_and_hides_nothing(page_module: Any, tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    file.write_text(small_results().to_json(), encoding="utf-8")
    results = page_module.read([file])
    pictures = page_module.draw(results, tmp_path / "docs" / "figures")
    text = page_module.page(results, pictures, tmp_path / "docs")
    assert text.index("2 of 3 lines") < text.index("three weakest") < text.index("## water-truebeam")
    assert "**FAIL** 1 of 1" in text and "**+2.50 %**" in text and "within 3 of others" in text
    assert "earlier beam data" in text and "**Skipped**: no data" in text and "disagree among themselves" in text
    names = [path for paths in pictures.values() for path in paths]
    assert len(names) == 3 and all(path.stat().st_size > 5000 for path in names)
    assert all(f"(figures/{path.name})" in text for path in names)


def test_the_command_gives_the_verdict_and_its_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import spinedose.validate

    monkeypatch.setattr(spinedose.validate, "validate", lambda *a, **k: small_results())
    target = tmp_path / "out.json"
    done = CliRunner().invoke(app, ["validate", "-o", str(target)])
    assert done.exit_code == 1
    assert done.output.startswith("2 of 3 lines are within their limits.")
    assert "FAIL" in done.output and "was skipped: no data" in done.output
    assert Results.from_json(target.read_text()).lines
    assert CliRunner().invoke(app, ["validate", "-o", str(target)]).exit_code == 2  # it exists
    nothing = replace(small_results(), outcomes=small_results().outcomes[1:])
    monkeypatch.setattr(spinedose.validate, "validate", lambda *a, **k: nothing)
    assert CliRunner().invoke(app, ["validate", "--quiet", "-o", str(tmp_path / "b.json")]).exit_code == 2


def test_a_measured_edge_becomes_means_over_voxels() -> None:
    """A step a quarter of a voxel before the middle of one: that voxel is three quarters full, its neighbours full."""
    x = np.linspace(-2.0, 2.0, 4001)
    run = np.arange(-8, 9) * 0.25
    fine, means = as_voxels(x, (x > -0.0625).astype(float), run)
    np.testing.assert_allclose(np.interp([-0.25, 0.0, 0.25], fine, means), [0.0, 0.75, 1.0], atol=0.02)
    assert fine[0] == pytest.approx(-1.75) and fine[-1] == pytest.approx(1.75), "only voxels that the curve covers"
