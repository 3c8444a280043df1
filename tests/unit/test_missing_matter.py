"""Matter that is missing is told of, and sound data raise no alarm."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from made_up import ROUND_CURVE as CURVE
from spinedose.assignments import Assignment
from spinedose.density import Body, CtImage, find_body
from spinedose.grid import Grid, Volume
from spinedose.missing_matter import MOST_BEYOND_CM, cut_ends, missing_in_body, through_ends
from spinedose.plan import Beam, Plan
from spinedose.setup import Setup
from spinedose.structures import Structure, StructureSet

RADIUS, LENGTH = 10.0, 24.0
STEP = 0.4
GRID = Grid((-15.8, -15.8, -11.8), (STEP, STEP, STEP), (60, 80, 80))


def cylinder(radius: float = RADIUS, centre: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    """Voxels within a circle, on all slices."""
    x, y, z = GRID.axes_cm
    disk = np.hypot(*np.meshgrid(x - centre[0], y - centre[1])) < radius
    return np.broadcast_to(disk, (len(z), *disk.shape)).copy()


def scan(matter: np.ndarray | None = None, noise: float = 10.0) -> CtImage:
    """Water with noise in air with noise; a cylinder along z that goes on beyond both ends of the CT."""
    hu = np.where(cylinder() if matter is None else matter, 0.0, -1000.0)
    hu += np.random.default_rng(1).normal(0, noise, hu.shape)
    return CtImage(Volume(GRID, np.rint(hu).astype(np.int16)))


def changed(image: CtImage, where: np.ndarray, hu: float) -> CtImage:
    """A CT with other CT numbers somewhere, without noise."""
    where = np.broadcast_to(where, GRID.shape)
    return CtImage(Volume(GRID, np.where(where, np.int16(hu), image.hu.values)))


def circle(number: int, name: str, radius: float, kind: str, density: float | None = None) -> Structure:
    """A round structure on all slices."""
    angle = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    contours = tuple(
        np.column_stack([radius * np.cos(angle), radius * np.sin(angle), np.full(90, z)]) for z in GRID.axes_cm[2]
    )
    return Structure(number, name, kind, contours, relative_mass_density=density)


def outlined(radius: float = RADIUS, *more: Structure) -> StructureSet:
    return StructureSet((circle(1, "BODY", radius, "EXTERNAL"), *more))


def beam(couch: float = 0.0, gantry: tuple[float, float] = (270.0, 270.0), z: float = 0.0) -> Beam:
    """A field of 4 x 4 cm2 to the middle of the cylinder."""
    return Beam(
        number=7, name="B", machine="M", energy="6X", meterset_mu=100.0, cumulative_meterset=np.array([0.0, 1.0]),
        gantry_deg=np.array(gantry), collimator_deg=np.zeros(2), couch_deg=np.full(2, couch),
        isocentre_cm=np.array([0.0, 0.0, z]), jaw_x_cm=np.full((2, 2), [-2.0, 2.0]),
        jaw_y_cm=np.full((2, 2), [-2.0, 2.0]),
    )  # fmt: skip


def plan_of(*beams: Beam) -> Plan:
    return Plan(label="P", beams=beams, patient_position="HFS", fractions=1)


class TestEnds:
    def test_a_beam_along_the_body_comes_through_the_end(self) -> None:
        """Gantry 270 and couch 90: along z."""
        image = scan()
        ends = cut_ends(image, find_body(image, outlined()))
        assert [(end.side, end.z_cm, end.reach_cm) for end in ends] == [
            (-1, pytest.approx(-12.0), MOST_BEYOND_CM),
            (1, pytest.approx(12.0), MOST_BEYOND_CM),
        ]
        (said,) = through_ends(plan_of(beam(90.0), replace(beam(), number=8, meterset_mu=300.0)), ends)
        assert said.code == "beams_through_ends" and said.is_grave
        assert said.text.startswith(
            "About 25 % of the monitor units (beam 7) enter the body through the first or last slice"
        )

    def test_the_length_that_is_missing(self) -> None:
        """At 45 degrees a ray that enters the end on the axis leaves the extended cylinder after 10 cm x sqrt(2)."""
        image = scan()
        upper = cut_ends(image, find_body(image, outlined()))[1]
        ray = np.array([[10.0, 0.0, 22.0]]), np.array([[-2.0, 0.0, 10.0]])
        assert upper.lost_cm(*ray) == pytest.approx(RADIUS * np.sqrt(2), abs=0.7)
        assert upper.lost_cm(ray[1], ray[0]) == 0  # it leaves there
        assert upper.lost_cm(np.array([[50.0, 0.0, 22.0]]), np.array([[0.0, 0.0, 0.0]])) == 0  # crosses it in the air

    @pytest.mark.parametrize("couch", [0.0, 5.0, 15.0, 30.0])
    def test_beams_that_come_through_the_side_need_no_word(self, couch: float) -> None:
        image = scan()
        ends = cut_ends(image, find_body(image, outlined()))
        assert not through_ends(plan_of(beam(couch), replace(beam(couch, (180.0, 540.0)), number=8)), ends)

    @pytest.mark.parametrize("z", [-11.5, 11.5])
    def test_a_field_that_ends_at_the_last_slice_does_not_come_through_it(self, z: float) -> None:
        image = scan()
        assert not through_ends(plan_of(beam(z=z)), cut_ends(image, find_body(image, outlined())))

    def test_a_turn_of_the_patient_counts(self) -> None:
        image = scan()
        ends = cut_ends(image, find_body(image, outlined()))
        assert through_ends(plan_of(beam(0.0)), ends, Setup(yaw_deg=90.0).turn)

    def test_a_body_that_ends_in_air_is_not_cut(self) -> None:
        """The top of a head, seen from above."""
        matter = cylinder()
        matter[50:] = False
        image = scan(matter)
        ends = cut_ends(image, Body(Volume(GRID, matter), "structure 'BODY'"))
        assert [end.side for end in ends] == [-1]

    def test_an_outline_that_stops_in_tissue_cuts(self) -> None:
        image = scan()
        drawn = cylinder()
        drawn[50:] = False
        ends = cut_ends(image, Body(Volume(GRID, drawn), "structure 'BODY'"))
        assert [round(end.z_cm, 6) for end in ends] == [-12.0, 8.0]

    def test_a_taper_tells_how_far_the_body_goes_on(self) -> None:
        """A skull that is cut 0.4 cm below its top."""
        x, y, z = GRID.axes_cm
        sphere = x**2 + y[:, None] ** 2 + (z[:, None, None] - 2.4) ** 2 < 100
        sphere[:35] = False
        image = scan(sphere)
        upper = cut_ends(image, Body(Volume(GRID, sphere), "structure 'BODY'"))[-1]
        assert upper.side == 1 and upper.reach_cm < 0.8
        assert not through_ends(plan_of(beam(90.0), replace(beam(), number=8, meterset_mu=400.0)), [upper])
        (said,) = through_ends(plan_of(beam(90.0)), [upper])  # nothing else, and half a centimetre is missing
        assert not said.is_grave


class TestOutline:
    def _codes(self, image: CtImage, structures: StructureSet | None, *more: Assignment) -> list[str]:
        found = missing_in_body(image, find_body(image, structures), CURVE, structures, more)
        assert all(one.is_grave and one.text.endswith(".") for one in found)
        return [one.code for one in found]

    def test_a_sound_body(self) -> None:
        assert not self._codes(scan(), outlined())
        assert not self._codes(scan(), None)
        assert not self._codes(scan(), outlined(RADIUS - 0.3))
        assert not self._codes(scan(), outlined(RADIUS + 1.5))

    def test_an_outline_within_the_patient(self) -> None:
        assert self._codes(scan(), outlined(RADIUS - 1.0)) == ["body_too_small"]
        (said,) = missing_in_body(scan(), find_body(scan(), outlined(9.0)), CURVE, outlined(9.0))
        assert said.text.startswith("On 100 % of the outline") and "mm typically" in said.text

    def test_an_outline_that_is_too_small_on_one_side(self) -> None:
        """Drawn off centre, it touches the skin on the right; two thirds of it lie deeper than 5 mm."""
        body = Body(Volume(GRID, cylinder(RADIUS - 1.2, (-1.0, 0.0))), "structure 'BODY'")
        (said,) = missing_in_body(scan(), body, CURVE)
        assert said.code == "body_too_small"
        assert 50 < float(said.text.split()[1]) < 80

    def test_a_couch_under_the_patient_is_none(self) -> None:
        """A solid top, 30 cm wide and 5 cm thick, that a third of a flat body lies on."""
        y = GRID.axes_cm[1]
        matter = cylinder()
        matter[:, y > 6.0] = False
        body = Volume(GRID, matter)
        couch = np.zeros_like(matter)
        couch[:, (y > 6.0) & (y < 11.0)] = True
        assert not missing_in_body(scan(matter | couch), Body(body, "structure 'BODY'"), CURVE)

    def test_a_mask_around_a_head_is_none(self) -> None:
        """3 mm are less than a voxel here."""
        x, y, _ = GRID.axes_cm
        image = scan()
        around = np.abs(np.hypot(*np.meshgrid(x, y)) - RADIUS) < 0.15
        assert not self._codes(changed(image, around & ~cylinder(), -200), outlined())

    def test_a_bolus_all_around_is_none(self) -> None:
        bolus = circle(2, "Helmet", RADIUS, "BOLUS")
        assert not self._codes(scan(), outlined(RADIUS - 1.0, bolus))

    def test_a_block_without_air_has_no_skin(self) -> None:
        """Water everywhere, out of which the outline cuts the body."""
        assert not self._codes(scan(np.ones(GRID.shape, dtype=bool)), outlined())

    def test_a_narrow_field_of_view(self) -> None:
        x, y, _ = GRID.axes_cm
        image = changed(scan(), np.hypot(*np.meshgrid(x, 0.7 * y)) > 7.0, -1024)
        assert self._codes(image, outlined()) == ["body_has_void"]
        repaired = outlined(RADIUS, circle(2, "Flanks", RADIUS, "", density=1.0))
        assert not self._codes(image, repaired)
        bare = outlined(RADIUS, circle(2, "Flanks", RADIUS, ""))
        assert not self._codes(image, bare, Assignment("muscle", "Flanks"))

    def test_air_with_noise_in_an_outline_around_the_fixation_is_none(self) -> None:
        assert not self._codes(scan(), outlined(RADIUS + 1.8))

    def test_lungs_and_bowel_gas_are_none(self) -> None:
        image = scan()
        for centre, hu in (((-4.0, 0.0), -850), ((4.0, 0.0), -1000)):
            image = changed(image, cylinder(3.5, centre), hu)
        assert not self._codes(image, outlined())

    def test_a_ct_of_air(self) -> None:
        assert self._codes(scan(np.zeros(GRID.shape, dtype=bool), noise=0.0), outlined()) == ["body_has_void"]
        assert self._codes(scan(np.zeros(GRID.shape, dtype=bool)), outlined()) == ["body_has_void"]

    @pytest.mark.parametrize(("hu", "word"), [(-880, "lighter"), (1000, "denser")])
    def test_densities_that_no_patient_has(self, hu: int, word: str) -> None:
        image = changed(scan(), cylinder(), hu)
        (said,) = missing_in_body(image, find_body(image, outlined()), CURVE, outlined())
        assert said.code == "body_density" and word in said.text
        water = StructureSet((replace(outlined().structures[0], relative_mass_density=1.0),))
        assert not self._codes(image, water)
