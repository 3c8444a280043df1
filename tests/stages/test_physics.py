"""Invariants of the dose through `compute_dose`: what must not change when patient, couch, plan or units do."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.ndimage import uniform_filter

from spinedose import engine
from spinedose import patient as preparation
from spinedose.backends.base import Backend
from spinedose.engine import Settings, compute_dose
from spinedose.plan import Plan
from spinedose.result import Dose

M120 = "varian-truebeam-m120"
SPACING = 0.5

SINGLE = 2e-5
"""Sums in another order, float32; relative to the maximum."""

TURNED = 0.005
"""Root-mean-square of what directions and their lattice leave when beam and matter turn; relative to the maximum."""

EDGES = 0.04
"""The same, greatest value of means over 1 cm: with half the default directions, lattice rays smear the edges of a
field and of air in 5 mm voxels unevenly; 0.03 was found."""

Solve = Callable[..., np.ndarray]


@pytest.fixture(autouse=True)
def any_output(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calibration is one factor a beam model; here any number does."""
    monkeypatch.setattr(engine, "reference_output", lambda *_: 1.0)


@pytest.fixture
def solve(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Dose]:
    monkeypatch.setattr(preparation, "select_backend", lambda _: backend)

    def run(plan: Plan, ct: object, *, directions: int = 96, **options: object) -> Dose:
        return compute_dose(
            plan,
            ct,
            **({"machine": M120, "spacing_cm": SPACING, "backend": backend.name} | options),
            settings=Settings(directions=directions),
        )

    return run


def patient(n: int = 24) -> np.ndarray:
    """A cube of water of 12 cm with a lung, a bone and an air gap; nothing in it is symmetric."""
    hu = np.zeros((n, n, n), np.float32)
    hu[6:16, 5:11, 3:9] = -700.0
    hu[4:20, 14:18, 12:16] = 900.0
    hu[8:12, 3:5, 14:20] = -1000.0
    return hu


SMALL = {"jaw_x_cm": np.tile([-2.0, 3.0], (2, 1)), "jaw_y_cm": np.tile([-1.5, 2.5], (2, 1))}


def same(values: np.ndarray, expected: np.ndarray, rms: float = TURNED, largest: float = EDGES) -> None:
    error = (values - expected) / expected.max()
    assert np.sqrt(np.mean(error**2)) < rms
    assert np.abs(uniform_filter(error, 2)).max() < largest


def still(angle: float) -> np.ndarray:
    return np.full(2, angle)


def test_dose_is_linear_in_meterset_and_fractions(solve, make_plan, make_beam, make_ct) -> None:
    ct = make_ct(patient())
    one = solve(make_plan(make_beam(**SMALL)), ct).values
    assert one.max() > 0
    three = solve(make_plan(make_beam(**SMALL, meterset_mu=300.0)), ct).values
    np.testing.assert_allclose(three, 3 * one, atol=SINGLE * three.max())
    five = solve(make_plan(make_beam(**SMALL), fractions=5), ct).values
    np.testing.assert_allclose(five, 5 * one, atol=SINGLE * five.max())


def test_shifted_patient_and_isocentre_shift_the_dose(solve, make_plan, make_beam, make_ct) -> None:
    ct = make_ct(patient())
    shift = np.array([37.5, -112.0, 64.25])
    moved = make_ct(patient(), origin_cm=tuple(np.array(ct.hu.grid.origin_cm) + shift))
    turned = {**SMALL, "gantry_deg": still(35.0), "couch_deg": still(15.0), "collimator_deg": still(20.0)}
    here = solve(make_plan(make_beam(**turned, isocentre_cm=[1.0, -0.5, 0.7])), ct)
    there = solve(make_plan(make_beam(**turned, isocentre_cm=np.array([1.0, -0.5, 0.7]) + shift)), moved)
    np.testing.assert_allclose(there.grid.origin_cm, np.array(here.grid.origin_cm) + shift, atol=1e-9)
    np.testing.assert_allclose(there.values, here.values, atol=SINGLE * here.values.max())


def test_isocentre_moves_the_field(solve, make_plan, make_beam, make_ct) -> None:
    """A field shifted by whole voxels in uniform water, far from the faces: the same dose there."""
    ct = make_ct(np.zeros((32, 24, 32)))
    one = solve(make_plan(make_beam(**SMALL)), ct, directions=200).values
    two = solve(make_plan(make_beam(**SMALL, isocentre_cm=[1.0, 0.0, -1.5])), ct, directions=200).values
    middle = (slice(8, -8), slice(4, -4), slice(8, -8))
    back = np.roll(two, (3, 0, -2), axis=(0, 1, 2))
    same(back[middle], one[middle])


def test_turned_patient_and_gantry_turn_the_dose(solve, make_plan, make_beam, make_ct) -> None:
    """Gantry 0 to 90 takes the source from anterior to the patient's left: the patient turns about z the same way.

    (x, y) -> (-y, x), so that v'[z, i, n - 1 - j] = v[z, j, i].
    """
    hu = patient()
    one = solve(make_plan(make_beam(**SMALL)), make_ct(hu), directions=800).values
    side = solve(
        make_plan(make_beam(**SMALL, gantry_deg=still(90.0))), make_ct(hu.swapaxes(1, 2)[:, :, ::-1]), directions=800
    ).values
    same(side, one.swapaxes(1, 2)[:, :, ::-1])


def test_couch_half_turn_is_a_mirror(solve, make_plan, make_beam, make_ct) -> None:
    """Couch 180 with the gantry above: the table turns half about the vertical, x -> -x and z -> -z."""
    hu = patient()
    one = solve(make_plan(make_beam(**SMALL, gantry_deg=still(25.0))), make_ct(hu), directions=800).values
    two = solve(
        make_plan(make_beam(**SMALL, gantry_deg=still(25.0), couch_deg=still(180.0))),
        make_ct(hu[::-1, :, ::-1]),
        directions=800,
    ).values
    same(two, one[::-1, :, ::-1])


def test_couch_and_gantry_can_say_the_same(solve, make_plan, make_beam, make_ct) -> None:
    """Couch 180, gantry 330, collimator 180 is gantry 30: same rays, same leaves."""
    ct = make_ct(patient())
    one = solve(make_plan(make_beam(**SMALL, gantry_deg=still(30.0))), ct).values
    two = solve(
        make_plan(make_beam(**SMALL, gantry_deg=still(330.0), couch_deg=still(180.0), collimator_deg=still(180.0))), ct
    ).values
    # pixels of the halo are not symmetric to the axis
    same(two, one, 5e-4, 2e-3)


def test_patient_positions_agree(solve, make_plan, make_beam, make_ct) -> None:
    """The same matter on the couch, described in the axes of another position: turned by 180 degrees about one axis."""
    hu = patient()
    beam = make_beam(**SMALL, gantry_deg=still(40.0), couch_deg=still(10.0), collimator_deg=still(15.0))
    one = solve(make_plan(beam), make_ct(hu), directions=800).values
    for position, flips in (("HFP", (1, 2)), ("FFS", (0, 2)), ("FFP", (0, 1))):
        ct = make_ct(np.flip(hu, flips), position=position)
        two = solve(make_plan(beam, patient_position=position), ct, directions=800).values
        same(np.flip(two, flips), one)


def test_opposed_beams_are_symmetric(solve, make_plan, make_beam, make_ct) -> None:
    square = {"jaw_x_cm": np.tile([-2.5, 2.5], (2, 1)), "jaw_y_cm": np.tile([-2.5, 2.5], (2, 1))}
    plan = make_plan(*(make_beam(**square, number=1 + i, gantry_deg=still(a)) for i, a in enumerate((0.0, 180.0))))
    values = solve(plan, make_ct(np.zeros((24, 24, 24))), directions=800).values
    for axis in range(3):
        same(np.flip(values, axis), values)
    front = values[10:14, :, 10:14].mean(axis=(0, 2))
    inside = front[front > 0.5 * front.max()]
    assert inside.max() / inside.min() < 2


def test_dose_falls_behind_the_maximum_and_outside_the_field(solve, make_plan, make_beam, make_ct) -> None:
    volume = solve(make_plan(make_beam(**SMALL)), make_ct(np.zeros((24, 24, 24))))
    # anterior is -y, patient left is +x: X jaws -2 to 3, Y jaws -1.5 to 2.5 towards superior
    axis = [[0.5, y, 0.5] for y in np.arange(-4.0, 5.5, 1.0)]
    depth_dose = volume.sample(axis)
    assert np.all(np.diff(depth_dose) < 0)
    assert volume.sample([2.4, 0.0, 0.5]) > 3 * volume.sample([-2.9, 0.0, 0.5])
    assert volume.sample([0.5, 0.0, 2.0]) > 3 * volume.sample([0.5, 0.0, -2.4])
    assert volume.values.dtype == np.float32


def three_beams(make_beam) -> tuple:
    arc = {"cumulative_meterset": np.array([0.0, 1.0]), "gantry_deg": np.array([200.0, 230.0])}
    return (
        make_beam(**SMALL, number=1, name="one", gantry_deg=still(10.0), isocentre_cm=[1.0, 0.0, 0.0]),
        make_beam(**SMALL, number=4, name="two", meterset_mu=55.0, **arc),
        make_beam(**SMALL, number=7, name="three", meterset_mu=70.0, energy="10X", couch_deg=still(30.0)),
    )


def test_beams_add_up_to_the_plan(solve, make_plan, make_beam, make_ct) -> None:
    """Two isocentres, two energies, an arc: each beam alone, per beam, and all at once with what they can share."""
    ct, beams = make_ct(patient()), three_beams(make_beam)
    plan = make_plan(*beams, fractions=2)
    together = solve(plan, ct).values
    apart = solve(plan, ct, per_beam=True)
    assert sorted(apart.beams) == [1, 4, 7]
    np.testing.assert_allclose(sum(b.values for b in apart.beams.values()), apart.values, atol=SINGLE * together.max())
    # aggregated: compression and the box of sources are those of all beams together
    same(apart.values, together, 0.001, 0.005)
    for beam in beams:
        alone = solve(make_plan(beam, fractions=2), ct).values
        np.testing.assert_allclose(apart.beams[beam.number].values, alone, atol=SINGLE * alone.max())


def test_each_beam_has_its_own_isocentre_and_meterset(solve, make_plan, make_beam, make_ct) -> None:
    ct = make_ct(np.zeros((20, 20, 36)))
    left = make_beam(**SMALL, number=1, isocentre_cm=[5.0, 0.0, 0.0], meterset_mu=100.0)
    right = make_beam(**SMALL, number=2, isocentre_cm=[-5.0, 0.0, 0.0], meterset_mu=300.0)
    dose = solve(make_plan(left, right), ct)
    assert dose.sample([-4.5, 0.0, 0.5]) == pytest.approx(3 * dose.sample([5.5, 0.0, 0.5]), rel=0.05)
    assert dose.sample([0.0, 0.0, 0.5]) < 0.1 * dose.sample([5.5, 0.0, 0.5])


def test_arc_is_the_sum_of_its_pieces(solve, make_plan, make_beam, make_ct) -> None:
    """An arc of 8 degrees against its eight segments as static beams of an eighth of the meterset."""
    ct = make_ct(patient())
    arc = make_beam(**SMALL, gantry_deg=np.array([0.0, 8.0]))
    pieces = [
        make_beam(**SMALL, number=i + 1, meterset_mu=12.5, gantry_deg=still(i + 0.5), name=f"piece {i}")
        for i in range(8)
    ]
    one, two = solve(make_plan(arc), ct).values, solve(make_plan(*pieces), ct).values
    np.testing.assert_allclose(two, one, atol=SINGLE * one.max())
