"""Stage A against rays through drawn leaves: a small version of validation/leaves.py; see docs/theory/leaves.md."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spinedose.backends.base import Backend
from spinedose.exposure import on_host
from spinedose.fluence_model import FluenceMaps, Raster
from spinedose.machine import Machine, read_machine
from spinedose.segments import segment_beam

VALIDATION = Path(__file__).resolve().parents[2] / "validation"

LOCAL, OPEN = 0.10, 0.02
"""What leaf tips and sides are held to: of the local leakage, and of the open field."""

AIR_GAP_CM = {"varian-truebeam-m120": 0.0330, "varian-truebeam-hd120": 0.0137, "elekta-agility": 0.0384}
"""Air between drawn leaves that lets `mlc_transmission` through closed leaves; proved below."""

PIXEL_CM = 0.05
RAYS = 2048

Stage = Callable[..., FluenceMaps]


@pytest.fixture
def fluence(backend: Backend) -> Stage:
    """The fluence stage of a backend."""

    def stage(machine: Any, beam_model: Any, segments: Any, raster: Any, voxel_axes: Any = None) -> FluenceMaps:
        maps = backend.fluence(machine, beam_model, segments, raster, voxel_axes)
        return replace(maps, photon=on_host(maps.photon), electron=on_host(maps.electron))

    return stage


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The ray trace, as a module."""
    monkeypatch.syspath_prepend(str(VALIDATION))
    import leaves

    yield leaves
    sys.modules.pop("leaves", None)


@pytest.fixture(params=sorted(AIR_GAP_CM))
def machine(request: pytest.FixtureRequest) -> Machine:
    return read_machine(Path(__file__).resolve().parents[2] / "validation" / "start" / request.param)


def maps_of(stage: Stage, drawn: Any, machine: Machine, leaf_cm: np.ndarray, raster: Raster) -> np.ndarray:
    model = drawn.primary_only(machine.beam("6X"))
    return stage(machine, model, segment_beam(drawn.beam_of(machine, leaf_cm)), raster).photon[0].astype(float)


def closed_tips(stage: Stage, drawn: Any, machine: Machine, at_cm: float) -> tuple[np.ndarray, np.ndarray]:
    """Modelled fluence and traced fluence over 5 mm around the tips of closed pairs, averaged over whole leaves."""
    model, leaves = drawn.primary_only(machine.beam("6X")), drawn.all_at(machine, at_cm, at_cm)
    raster = Raster.covering((at_cm - 2, at_cm + 2), (-1.5, 1.5), PIXEL_CM)
    rows, near = np.abs(raster.ys_cm + 0.5 * PIXEL_CM) < 0.5, np.abs(raster.xs_cm - at_cm) < 0.25 + 1e-9
    x, gap = raster.xs_cm[near], AIR_GAP_CM[machine.name]
    traced = drawn.trace(machine, model, leaves, x, 0.0, (PIXEL_CM, 4 * drawn.pitch_cm(machine)), gap, rays=RAYS)[0]
    return maps_of(stage, drawn, machine, leaves, raster)[rows].mean(axis=0)[near], traced


def open_every_other(stage: Stage, drawn: Any, machine: Machine, of_model: Machine) -> tuple[np.ndarray, np.ndarray]:
    """Modelled and traced fluence across 2 cm of odd and of even open leaves, (2, lines)."""
    model, chosen = drawn.primary_only(machine.beam("6X")), drawn.aside(machine)
    raster = Raster.covering((-1.0, 1.0), (-2.0, 2.0), PIXEL_CM)
    rows = np.abs(raster.ys_cm + 0.5 * PIXEL_CM) < 1.0
    box, gap = (PIXEL_CM, PIXEL_CM), AIR_GAP_CM[machine.name]
    mine, traced = [], []
    for name in ("odd", "even"):
        leaves = drawn.only_open(machine, chosen[name])
        mine.append(maps_of(stage, drawn, of_model, leaves, raster)[rows, raster.nx // 2])
        traced.append(drawn.trace(machine, model, leaves, 0.0, raster.ys_cm[rows], box, gap, rays=RAYS)[:, 0])
    return np.array(mine), np.array(traced)


def test_single_rays_of_the_trace(drawn: Any) -> None:
    """By hand, from a point: solid leaf, air gap, exposed strip, open, and a chord 1 mm behind the tip."""
    machine = read_machine("varian-truebeam-m120")
    model = drawn.primary_only(machine.beam("6X"))
    model = replace(model, spot=(replace(model.spot[0], sigma_x_cm=0.0, sigma_y_cm=0.0),), leaf_offset_cm=0.0)
    mu, t, b = 0.75, 6.65, 0.5  # boundary between two leaves at 0.5 cm, strip 0.4375 to 0.5625 cm

    def ray(leaves: np.ndarray, x: float, y: float) -> float:
        value = drawn.trace(machine, model, leaves, x, y, (0.0, 0.0), 0.03, rays=1)[0, 0]
        return float(value ** (1 / math.sqrt(1 + (x**2 + y**2) / 100**2)))  # the ray is longer than the leaf is high

    closed = drawn.all_at(machine, 15.0, 15.0)
    below = closed.copy()
    below[0, machine.mlc.boundaries_cm[:-1] > b - 0.01] = -15.0  # leaves beyond 0.5 cm are open
    tip = drawn.all_at(machine, 0.0, 15.0)
    for leaves, x, y, expected in (
        (closed, 0.0, 0.25, math.exp(-mu * t)),
        (closed, 0.0, b, math.exp(-mu * t)),
        (closed, 0.0, b + 0.0625, math.exp(-mu * t / 2)),
        (closed, 0.0, b - 0.0625, math.exp(-mu * t / 2)),
        (below, 0.0, b, math.exp(-mu * t / 2)),
        (below, 0.0, b - 0.09, math.exp(-mu * t)),
        (below, 0.0, b + 0.09, 1.0),
        (tip, 0.1, 0.25, 1.0),
    ):
        assert ray(leaves, x, y) == pytest.approx(expected, rel=1e-9)
    # the ray at -1 mm is 0.5086 mm behind the tip in the leaf's plane; its slope of 0.001 changes that by 1e-6
    chord = 2 * math.sqrt(0.05086 * (16 - 0.05086))
    assert ray(tip, -0.1, 0.25) == pytest.approx(math.exp(-mu * chord), rel=1e-3)


def test_drawn_leaves_let_the_mean_transmission_through(drawn: Any, machine: Machine) -> None:
    model = drawn.primary_only(machine.beam("6X"))
    box = (0.1, 2 * drawn.pitch_cm(machine))
    covered = drawn.all_at(machine, -18.0, -18.0)
    mean = drawn.trace(machine, model, covered, 0.0, 0.0, box, AIR_GAP_CM[machine.name], rays=20000)[0, 0]
    assert mean == pytest.approx(model.mlc_transmission, rel=0.01)


def test_closed_tips_on_the_axis(fluence: Stage, drawn: Any, machine: Machine) -> None:
    mine, traced = closed_tips(fluence, drawn, machine, 0.0)
    assert mine.sum() == pytest.approx(traced.sum(), rel=LOCAL)
    assert mine.max() == pytest.approx(traced.max(), rel=LOCAL)
    rounder = replace(machine, mlc=replace(machine.mlc, tip_radius_cm=2 * machine.mlc.tip_radius_cm))
    assert abs(closed_tips(fluence, drawn, rounder, 0.0)[0].sum() / traced.sum() - 1) > 1.5 * LOCAL


@pytest.mark.parametrize("at_cm", [4.0, 8.0, 14.0])
def test_closed_tips_off_the_axis(fluence: Stage, drawn: Any, machine: Machine, at_cm: float) -> None:
    mine, traced = closed_tips(fluence, drawn, machine, at_cm)
    assert mine.sum() == pytest.approx(traced.sum(), rel=LOCAL)


def test_alternating_leaves(fluence: Stage, drawn: Any, machine: Machine) -> None:
    mine, traced = open_every_other(fluence, drawn, machine, machine)
    assert np.abs((mine - traced).mean(axis=1)).max() < OPEN
    smooth = replace(machine, mlc=replace(machine.mlc, tongue_width_cm=0.0))
    mine, _ = open_every_other(fluence, drawn, machine, smooth)
    assert np.abs((mine - traced).mean(axis=1)).min() > 1.5 * OPEN


def test_complementary_leaves(fluence: Stage, drawn: Any, machine: Machine) -> None:
    mine, traced = open_every_other(fluence, drawn, machine, machine)
    assert abs((mine - traced).sum(axis=0).mean()) < OPEN


def test_a_chamber_would_measure_the_leaf_gap(drawn: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Head scatter included: sweeping gaps extrapolated to zero give the leaf gap (7) that the offset was made for.

    1.77 mm of it times 1 - T (leakage is subtracted where the gap is not), within 0.01 mm.
    """
    import leaf_gap
    from spinedose.fluence_model import dosimetric_leaf_gap_cm

    monkeypatch.setattr(leaf_gap, "GAPS_CM", np.array([0.4, 1.0, 2.0]))
    machine = read_machine("varian-truebeam-m120")
    model = machine.beams["6X"]
    assert model.extra_focal.weight > 0.05
    expected = 10 * dosimetric_leaf_gap_cm(machine, model) * (1 - model.mlc_transmission)
    assert leaf_gap.measured_gap_mm(machine, model) == pytest.approx(expected, abs=0.01)
    sys.modules.pop("leaf_gap", None)
