"""Pictures of a study: drawn where there is something to draw, with the right numbers in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spinedose.errors import InvalidInput
from spinedose.report.studies import _stack, draw_axes, draw_bands, draw_plane, draw_study
from spinedose.scenarios import NOMINAL, random_setups, setup_factorial, setup_grid
from spinedose.scenarios.sampling import SetupErrors

from made_study import made_up_outcomes, outcome  # isort: skip

PNG = b"\x89PNG"


def test_a_study_is_drawn(tmp_path: Path) -> None:
    scenarios = [NOMINAL, *setup_grid((0.1,), (1.0,)), *random_setups(25, 1, SetupErrors(0.1))]
    found = [outcome(one, 24.0 - 0.1 * n, 10.0 + 0.1 * n) for n, one in enumerate(scenarios)]
    written = draw_study(found, tmp_path / "new", prescription_gy=24.0, title="Made up")
    assert [path.name for path in written] == ["bands.png", "axes.png"]
    assert all(path.read_bytes().startswith(PNG) for path in written)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["axes.png", "bands.png"]


def test_a_grid_of_two_axes_is_a_map(tmp_path: Path) -> None:
    scenarios = setup_factorial(lateral_cm=(-0.1, 0, 0.1), roll_deg=(-1, 1))
    found = [outcome(one, 24.0, 10.0) for one in scenarios]
    assert draw_plane(found, "PTV", "D95%[Gy]", tmp_path / "p.png") == tmp_path / "p.png"
    assert draw_plane(made_up_outcomes(), "PTV", "D95%[Gy]", tmp_path / "q.png") is None
    one_axis = [outcome(one, 24.0, 10.0) for one in setup_factorial(lateral_cm=(-0.1, 0, 0.1))]
    assert draw_plane(one_axis, "PTV", "D95%[Gy]", tmp_path / "q.png") is None


def test_axes_need_the_plan_and_single_axes(tmp_path: Path) -> None:
    metrics = [("PTV", "D95%[Gy]")]
    assert draw_axes(made_up_outcomes(), metrics, tmp_path / "a.png") is not None
    samples = [one for one in made_up_outcomes() if one.scenario.is_sample or one.scenario.is_nominal]
    assert draw_axes(samples, metrics, tmp_path / "a.png") is None
    single = [outcome(one, 24.0, 10.0) for one in setup_grid((0.1,), ())]
    assert draw_axes(single, metrics, tmp_path / "a.png") is None
    assert draw_axes([outcome(NOMINAL, 24.0, 10.0), *single], metrics, tmp_path / "a.png") is not None


def test_bands_hold_the_samples_and_the_envelope_all() -> None:
    planned, samples, every, step = _stack(made_up_outcomes(), "SpinalCord")
    assert planned is not None and len(samples) == 5 and len(every) == 8 and step == 0.1
    # the cord's maximum is 10 Gy as planned, 10 to 14 in the samples, 9 and 13 in the grid
    ends = [step * np.flatnonzero(row)[-1] for row in every]
    assert sorted(np.round(ends)) == [9, 10, 10, 11, 12, 13, 13, 14]
    assert step * np.flatnonzero(planned)[-1] == pytest.approx(9.9)
    with pytest.raises(InvalidInput, match="no histogram of 'Liver'"):
        _stack(made_up_outcomes(), "Liver")


def test_bands_of_chosen_structures(tmp_path: Path) -> None:
    assert draw_bands(made_up_outcomes(), tmp_path / "b.png", structures=("PTV",)).exists()
    with pytest.raises(InvalidInput, match="cannot be written"):
        draw_bands(made_up_outcomes(), tmp_path / "missing" / "b.png")
