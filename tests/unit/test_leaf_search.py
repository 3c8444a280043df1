"""Single leaves that stand out, and the rough model along the rays that they are found with."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from made_up import beam_of
from spinedose.check.beams_eye import MU_PER_CM, Cubes, gather_cubes, open_dose, tip_effects
from spinedose.check.leaves import Suspect, find_suspects
from spinedose.density import CtImage
from spinedose.grid import Grid, Volume
from spinedose.plan import Beam, Plan

WATER = CtImage(Volume(Grid((-14.75, -14.75, -14.75), (0.5, 0.5, 0.5), (60, 60, 60)), np.zeros((60, 60, 60), np.int16)))
"""30 cm of water around the isocentre: its depth is 15 cm."""


def cubes_at(points: object) -> Cubes:
    centres = np.asarray(points, float)
    n = len(centres)
    return Cubes(centres, np.ones(n), np.zeros(n), np.zeros((n, 3)), np.ones(n), 0.0)


def square(**changes: object) -> Beam:
    """A field of 4 x 4 cm2 by the jaws."""
    jaws = {"jaw_x_cm": np.tile([-2.0, 2.0], (2, 1)), "jaw_y_cm": np.tile([-2.0, 2.0], (2, 1))}
    return beam_of(**(jaws | changes))


class TestRoughModel:
    def test_a_field_ends_at_its_jaws(self) -> None:
        """At gantry 0 patient x is collimator x, and patient z collimator y; half the dose at the edge."""
        at = cubes_at([(0, 0, 0), (2, 0, 0), (-2, 0, 0), (0, 0, 2), (3, 0, 0), (0, 0, -3)])
        middle, *edges, beside, above = open_dose(square(), at, WATER, "HFS")
        assert np.array(edges) / middle == pytest.approx(0.5, abs=0.06)  # the raster of 0.05 cm against 0.2 cm of blur
        assert max(beside, above) < 1e-4 * middle

    def test_depth_and_distance_count(self) -> None:
        """Gantry 0 comes from -y: 4 cm higher are 4 cm less deep, and at 96 instead of 100 cm."""
        at = cubes_at([(0, 0, 0), (0, -4, 0)])
        isocentre, higher = open_dose(square(), at, WATER, "HFS")
        assert higher / isocentre == pytest.approx(np.exp(4 * MU_PER_CM) * (100 / 96) ** 2, rel=1e-6)

    def test_meterset_scales_and_the_collimator_turns(self) -> None:
        at = cubes_at([(0, 0, 0), (3.5, 0, 0), (0, 0, 3.5)])
        slit = square(jaw_x_cm=np.tile([-4.0, 4.0], (2, 1)), jaw_y_cm=np.tile([-1.0, 1.0], (2, 1)))
        middle, along, across = open_dose(slit, at, WATER, "HFS")
        turned = open_dose(replace(slit, collimator_deg=np.full(2, 90.0), meterset_mu=200.0), at, WATER, "HFS")
        assert along == pytest.approx(middle, rel=0.03) and across < 1e-3 * middle
        assert turned == pytest.approx(2 * np.array([middle, across, along]), rel=1e-3, abs=1e-6)

    def test_a_tip_does_what_moving_it_does(self) -> None:
        """The effect per centimetre against the difference of two fields, from 2.5 mm inside to 2.5 mm outside."""
        beam, at = arc(), cubes_at(POINTS)
        effects = tip_effects(beam, at, WATER, "HFS")
        for bank in (1, 2):
            one = Suspect(1, bank, 15, 0, TURNS - 1, 9.0, 5.0)
            out, inside = (open_dose(one.moved(beam, by), at, WATER, "HFS") for by in (0.25, -0.25))
            truth = out - inside
            rough = 0.5 * effects[bank - 1, 14].sum(axis=0)
            assert np.corrcoef(truth, rough)[0, 1] > 0.98
            assert rough.sum() == pytest.approx(truth.sum(), rel=0.05)

    def test_a_tip_under_a_jaw_does_nothing(self) -> None:
        hidden = replace(arc(), jaw_x_cm=np.tile([-0.5, 0.5], (TURNS, 1)))
        assert not tip_effects(hidden, cubes_at(ball(200)), WATER, "HFS").any()

    def test_cubes_keep_means(self) -> None:
        grid = Grid((-3.9, -3.9, -3.9), (0.2, 0.2, 0.2), (40, 40, 40))
        x = np.broadcast_to(grid.axes_cm[0], grid.shape)
        ours = Volume(grid, (10 + x).astype(np.float32))
        found = gather_cubes(Volume(grid, (11 + x).astype(np.float32)), ours)
        assert found.apart_gy == pytest.approx(1.0, abs=1e-5) and found.filled == pytest.approx(1.0)
        assert found.slope_gy_per_cm[:, 0] == pytest.approx(1.0, abs=0.55)  # halved in the outermost half voxel
        assert np.median(found.slope_gy_per_cm[:, 0]) == pytest.approx(1.0, abs=1e-4)
        assert len(found.points_cm) == 20**3 and found.planned_gy == pytest.approx(11 + found.points_cm[:, 0], abs=1e-5)


def ball(n: int, radius: float = 3.5) -> np.ndarray:
    random = np.random.default_rng(5)
    points = random.uniform(-radius, radius, (4 * n, 3))
    return points[np.linalg.norm(points, axis=1) < radius][:n]


def arc(number: int = 1) -> Beam:
    """A full arc whose 30 pairs of 5 mm wander, as in a modulated plan."""
    random = np.random.default_rng(number)
    n, pairs = TURNS, 30
    walk = np.cumsum(random.normal(0, 0.15, (n, 2, pairs)), axis=0)
    leaves = np.clip(walk, -0.9, 0.9) + np.array([-1.8, 1.8])[None, :, None]
    still = np.zeros(n)
    return beam_of(
        number=number, name=f"Arc {number}", cumulative_meterset=np.linspace(0, 1, n),
        gantry_deg=np.linspace(181, 539, n), collimator_deg=still + 30 * number, couch_deg=still,
        jaw_x_cm=np.tile([-5.0, 5.0], (n, 1)), jaw_y_cm=np.tile([-4.0, 4.0], (n, 1)),
        leaf_boundaries_cm=np.linspace(-7.5, 7.5, pairs + 1), leaf_cm=leaves,
    )  # fmt: skip


TURNS, POINTS = 24, ball(1500)
"""Control points of an arc; where the dose is looked at."""


def differing(true: tuple[Beam, ...], wrong: tuple[Beam, ...], noise: float = 0.002) -> tuple[Plan, Cubes]:
    """The plan that is checked, and both doses in a ball, the planned one with noise (of the maximum)."""
    at = cubes_at(POINTS)
    planned, ours = (sum(open_dose(beam, at, WATER, "HFS") for beam in beams) for beams in (true, wrong))
    planned = planned + np.random.default_rng(3).normal(0, noise * planned.max(), len(planned))
    slope = np.zeros((len(planned), 3))
    for axis in range(3):
        move = np.zeros(3)
        move[axis] = 0.1
        up, down = (
            sum(open_dose(beam, cubes_at(POINTS + sign * move), WATER, "HFS") for beam in wrong) for sign in (1, -1)
        )
        slope[:, axis] = (up - down) / 0.2
    return Plan("plan", wrong), replace(at, planned_gy=planned, apart_gy=planned - ours, slope_gy_per_cm=slope)


class TestSuspects:
    @pytest.mark.parametrize(("bank", "pair", "out_cm"), [(2, 15, 0.5), (1, 11, 0.5), (2, 20, -0.5)])
    def test_the_leaf_is_found(self, bank: int, pair: int, out_cm: float) -> None:
        """One leaf of 60, for 6 of 24 control points."""
        true = (arc(2),)
        wrong = (Suspect(2, bank, pair, 10, 15, 9.0, 5.0).moved(true[0], out_cm),)
        (found, *_) = find_suspects(*differing(true, wrong), WATER)
        assert (found.beam, found.bank, found.pair) == (2, bank, pair)
        assert found.score * out_cm < 0, "planned dose: the leaf stands on the other side of where it is checked"
        overlap = min(found.last, 15) - max(found.first, 10)
        assert overlap >= 4 and found.last - found.first <= 12, "most of its window, and not twice as much more"

    def test_nothing_is_suspected_where_all_leaves_differ_or_none(self) -> None:
        true = (arc(2),)
        wider = tuple(replace(b, leaf_cm=b.leaf_cm + np.array([-0.05, 0.05])[None, :, None]) for b in true)
        louder = tuple(replace(b, meterset_mu=1.03 * b.meterset_mu) for b in true)
        shifted = tuple(replace(b, isocentre_cm=np.array([0.0, 0.1, 0.0])) for b in true)
        for wrong in (true, wider, louder, shifted):
            assert find_suspects(*differing(true, wrong), WATER) == ()

    def test_plans_with_few_leaves_are_left_alone(self) -> None:
        plan = Plan("open", (square(),))
        at = replace(cubes_at(POINTS), apart_gy=np.random.default_rng(1).normal(size=len(POINTS)))
        assert find_suspects(plan, at, WATER) == ()

    def test_names_and_movements(self) -> None:
        beam = arc(3)
        one = Suspect(3, 2, 12, 4, 9, 7.0, 5.0)
        assert one.name(beam) == "leaf 12 of bank A (X2) of beam 3 'Arc 3'"
        assert replace(one, bank=1).name(beam) == "leaf 12 of bank B (X1) of beam 3 'Arc 3'"
        moved = one.moved(beam, 0.4).leaf_cm - beam.leaf_cm
        assert moved[4:10, 1, 11] == pytest.approx(0.4)
        moved[4:10, 1, 11] = 0
        assert not moved.any()
        closed = replace(one, bank=1).moved(beam, -9.0).leaf_cm  # not past the opposite leaf
        assert closed[4:10, 0, 11] == pytest.approx(beam.leaf_cm[4:10, 1, 11])
