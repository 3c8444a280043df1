"""`spinedose.check` and its command line with machine logs: the delivered dose, what is told, and the JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from made_logs import Axes, leaf_beam, write_trajectory
from typer.testing import CliRunner

import spinedose as sd
from spinedose.check import Check
from spinedose.cli import main  # noqa: F401  # registers the commands
from spinedose.cli._app import app
from spinedose.cli.check import _logs
from spinedose.density import CtImage
from spinedose.errors import InvalidInput
from spinedose.grid import Grid, Volume
from spinedose.plan import Identity, Plan
from spinedose.settings import Settings

FAST = Settings(directions=200)
NAME = "Quixote_PAT-8151623"


def water() -> CtImage:
    """12 cm of water around the isocentre."""
    grid = Grid((-7.75, -7.75, -7.75), (0.5, 0.5, 0.5), (32, 32, 32))
    hu = np.full(grid.shape, -1000, np.int16)
    hu[4:-4, 4:-4, 4:-4] = 0
    return CtImage(Volume(grid, hu))


def plan_of(**changes: Any) -> Plan:
    """A static field of the M120, opened by its middle leaves."""
    leaf = np.zeros((5, 2, 60))
    leaf[:, 0, 20:40], leaf[:, 1, 20:40] = -2.0, 2.0
    outer = np.r_[np.arange(-20.0, -10.0), np.arange(-10.0, 10.0, 0.5), np.arange(10.0, 21.0)]
    beam = leaf_beam(
        leaf_cm=leaf, leaf_boundaries_cm=outer, gantry_deg=np.zeros(5), jaw_x_cm=np.tile([-3.0, 3.0], (5, 1)),
        jaw_y_cm=np.tile([-4.0, 4.0], (5, 1)),
    )  # fmt: skip
    identity = Identity(patient_id="PAT-8151623", patient_name="Quixote^Dulcinea")
    return Plan(**({"label": "made", "beams": (beam,), "fractions": 2, "identity": identity} | changes))


def more(factor: float) -> Callable[[Axes], None]:
    return lambda axes: axes.update(mu=factor * axes["mu"])


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> Check:
    """Two fractions with 2 and 4 % more meterset, held against the plan."""
    place = tmp_path_factory.mktemp("logs")
    beam = plan_of().beams[0]
    for day, factor in ((1, 1.02), (2, 1.04)):
        write_trajectory(place / f"{NAME}_2026010{day}120000.bin", beam, change=more(factor))
    return sd.check(
        plan=plan_of(), ct=water(), logs=place, against="plan", spacing_cm=0.5, settings=FAST, causes=False, fine=None
    )


def test_the_mean_of_the_fractions_is_compared_with_the_plan(checked: Check) -> None:
    assert checked.planned is not None
    inside = checked.planned.dose.values > 0.5 * checked.planned.dose.values.max()
    ratio = checked.dose.values[inside] / checked.planned.dose.values[inside]
    # Two calculations that differ by the meterset only: single precision.
    assert ratio == pytest.approx(1.03, abs=2e-4)
    assert checked.plan.fractions == 2 and checked.plan.total_mu == pytest.approx(206.0, abs=1e-2)


def test_it_says_what_was_compared_and_how_it_was_delivered(checked: Check) -> None:
    texts = [finding.text for finding in checked.findings if finding.code == "delivered"]
    assert any("held against that of the plan" in text and "2 recorded of 2 planned" in text for text in texts)
    assert any("2 fractions: leaves 0.00 mm" in text and "meterset 1.0200 to 1.0400" in text for text in texts)
    severity = {finding.severity for finding in checked.findings if finding.code == "delivered" and finding.beam == 7}
    assert severity == {"attention"}, "3 % of meterset too much"
    codes = {finding.code for finding in checked.findings}
    assert not codes & {
        "beams_differ", "beams_left_out", "no_planned_dose", "dose_of_other_plan", "dose_convention_unknown",
    }  # fmt: skip


def test_the_json_has_every_fraction(checked: Check) -> None:
    content = checked.as_dict()
    text = resources.files("spinedose.check").joinpath("check.schema.json").read_text(encoding="utf-8")
    jsonschema.validate(content, json.loads(text))
    found = content["delivered"]
    assert found["compared_with"] == "the plan, recalculated"
    assert [row["fraction"] for row in found["beams"]] == [1, 2]
    assert [row["meterset_ratio"] for row in found["beams"]] == pytest.approx([1.02, 1.04], abs=1e-5)
    assert [item["kind"] for item in content["inputs"]] == ["LOG", "LOG"]
    assert NAME in content["inputs"][0]["name"]
    assert [plan.total_mu for plan in checked.delivered.per_fraction] == pytest.approx([204.0, 208.0], abs=1e-2)  # type: ignore[union-attr]


def test_logs_named_after_a_patient_are_not_in_an_anonymous_check(checked: Check) -> None:
    hidden = checked.anonymous()
    assert "8151623" not in hidden.to_json() and "Quixote" not in hidden.to_json()
    assert hidden.delivered is not None
    assert all(plan.identity == Identity() for plan in hidden.delivered.per_fraction)


def test_without_logs_nothing_changes() -> None:
    with pytest.raises(InvalidInput, match=r"compared with itself .*with `logs`"):
        sd.check(plan=plan_of(), ct=water(), against="plan")
    with pytest.raises(InvalidInput, match="compared with 'x'"):
        sd.check(plan=plan_of(), ct=water(), against="x")  # type: ignore[arg-type]


def test_a_log_that_fits_nothing_is_refused_before_anything_is_computed(tmp_path: Path) -> None:
    write_trajectory(tmp_path / "a.bin", leaf_beam(name="?"))
    with pytest.raises(InvalidInput, match="fits no beam"):
        sd.check(plan=plan_of(), ct=water(), logs=tmp_path)
    with pytest.raises(InvalidInput, match=r"no machine logs in 'empty'.*with `logs`"):
        (tmp_path / "empty").mkdir()
        sd.check(plan=plan_of(), ct=water(), logs=tmp_path / "empty")
    for wrong in ({1: 3}, 3, [3], {1: [None]}):
        with pytest.raises(InvalidInput, match="Machine logs are given as "):
            sd.check(plan=plan_of(), ct=water(), logs=wrong)
    with pytest.raises(InvalidInput, match="Machine logs are given as ''"):
        sd.check(plan=plan_of(), ct=water(), logs="")


def test_the_command_line_reads_beam_numbers() -> None:
    assert _logs([]) is None
    assert _logs(["LOGS"]) == [Path("LOGS")]
    assert _logs(["7=a.bin", "7=b.bin", "8=c=1.bin"]) == {7: [Path("a.bin"), Path("b.bin")], 8: [Path("c=1.bin")]}
    with pytest.raises(InvalidInput, match=r"--logs b\.bin names no beam"):
        _logs(["7=a.bin", "b.bin"])


def test_the_command_line_hands_them_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: dict[str, Any] = {}

    def stand_in(folder: Path | None, **arguments: Any) -> Any:
        seen.update(arguments)
        raise InvalidInput("Enough was seen")

    monkeypatch.setattr("spinedose.cli.check._conduct", stand_in)
    command = ["check", str(tmp_path), "--logs", "7=a.bin", "--against", "plan", "-o", str(tmp_path / "out")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 2 and "Enough was seen" in done.output
    assert seen["logs"] == {7: [Path("a.bin")]} and seen["against"] == "plan"
