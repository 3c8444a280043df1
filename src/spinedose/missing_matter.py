"""Matter that a calculation lacks: beyond the ends of the CT, outside the body's outline, or as a void within it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from spinedose.assignments import Assignment
from spinedose.density import HALF, Body, CtImage
from spinedose.geometry import Matrix, collimator_from_gantry, gantry_from_patient
from spinedose.grid import Grid
from spinedose.hu_curve import HuCurve
from spinedose.patches import OUTSIDE_TYPES, extent, has_override, share_of
from spinedose.plan import Beam, Plan
from spinedose.plan_checks import openings
from spinedose.structures import SKIN_THRESHOLD_HU, Structure, StructureSet

Array = NDArray[np.float64]
Slices = tuple[slice, slice, slice]

PER_CM = 0.04
"""Dose that a centimetre of tissue takes away: 3.5 % for large and 4.5 % for small fields of 6 MV, a third less with
10 MV (tissue-maximum ratios between 10 and 20 cm, as in BJR supplement 25). It weighs warnings, never a dose."""

NOTABLE_LOSS, GRAVE_LOSS = 0.005, 0.02
"""Shares of the plan's dose, missing for want of matter at the ends of the CT, from which a warning is due and from
which it is a problem: 2 % is what a check allows the mean dose of a target to differ by, and a quarter of it shows."""

SLOPE_CM = 1.0
"""Length at the end of a body over which its taper is taken [cm]: several slices, and short against a skull."""

MOST_BEYOND_CM = 30.0
"""A body is never taken to go on further than this beyond its end [cm]: the head, or the legs, of an adult."""

STEP_CM = 0.5
"""Distance of the points at which a ray is looked at beyond an end [cm]; less than 2 % of the dose each."""

SAD_CM = 100.0
"""Distance of the source from the isocentre [cm]: where rays cross the end of a CT, 10 % of it do not matter."""

SLICES_SEEN = 24
"""Slices of the body whose outline is looked at, spread evenly: shares of an outline need no more."""

RIM_CM, OFTEN = 0.5, 0.4
"""The outline is too small where matter reaches further than this beyond it [cm], on more than this share of it.
Thermoplastic masks are 2 to 3 mm thick, a contour by threshold lies 1 to 2 mm within the skin, and 5 mm are 2 % of the
dose. A patient on a solid couch top touches it with a third of his outline at most (flat back of 30 cm, circumference
of 90 cm or more); on foam and carbon it is next to nothing: 0.1 % of the outline in a real thorax with its couch."""

SEEN_CM = 2.0
"""How far beyond the outline is looked [cm]."""

LEAST_AIR_OUTSIDE = 0.02
"""With less air than this around the body (share of voxels), the CT is a block of matter out of which the outline cuts
the body on purpose: it has no skin (house default)."""

VOID_HU = -900.0
"""Emphysema stays above it on average, and lung stands at -850 HU and above; below there is air, or nothing at all."""

DEEP_CM, VOID_SHARE = 1.0, 0.01
"""A void that reaches the outline is warned about when more than this share of the body is blank (has no noise) and
lies deeper than this in it [cm]. Skin folds and contours drawn loosely are less deep; a real thorax whose outline holds
the fixation with the air in it comes to 0.07 %, a field of view that cuts 2 cm off both flanks to 4 %."""

MOST_AIR = 1 / 3
"""More air than this share of a body, open to its outline, is never on purpose; 14 % is the most seen, in an outline
that holds the fixation (house default)."""

LIGHTEST, HEAVIEST = 0.2, 1.5
"""Densities between which half of a patient, or of a phantom, lies [g/cm3]: inflated lung and cork have 0.2 to 0.26,
Teflon and bone more than 1.5."""


@dataclass(frozen=True, slots=True)
class Missing:
    """Something that is missing, or seems to be.

    Parameters
    ----------
    code : str
        For programs (docs/formats/check.md).
    text : str
        What, how much, what it means and what to do.
    is_grave : bool
        Whether no dose should be trusted before it is mended.
    """

    code: str
    text: str
    is_grave: bool


# ------------------------------------------------------------------------------------------------------ ends of the CT


@dataclass(frozen=True, slots=True, eq=False)
class CutEnd:
    """An end of the body along z behind which the patient goes on.

    Parameters
    ----------
    grid : Grid
        Of the CT.
    inside : ndarray of bool, shape (y, x)
        Outline of the body on its last slice.
    z_cm : float
        Height of the face where it ends [cm].
    side : int
        +1 for the end at the largest z, -1 for that at the smallest.
    reach_cm : float
        How far the body goes on, by its taper [cm].
    """

    grid: Grid
    inside: NDArray[np.bool_]
    z_cm: float
    side: int
    reach_cm: float

    def lost_cm(self, source_cm: Array, points_cm: Array) -> Array:
        """Matter that rays would have crossed before they come in through this end [cm].

        Beyond it the body is taken to go on with its last outline.

        Parameters
        ----------
        source_cm, points_cm : ndarray, shape (n, 3)
            Where each ray starts and where it goes to, (x, y, z) [cm].

        Returns
        -------
        ndarray, shape (n,)
        """
        lost = np.zeros(len(points_cm))
        above, below = self.side * (source_cm[:, 2] - self.z_cm), self.side * (points_cm[:, 2] - self.z_cm)
        rays = np.flatnonzero((above > 0) & (below < 0))
        if not len(rays):
            return lost
        back = source_cm[rays] - points_cm[rays]
        entry = points_cm[rays] + back * (-below[rays] / (above[rays] - below[rays]))[:, None]
        back /= np.linalg.norm(back, axis=1)[:, None]
        along = STEP_CM * (np.arange(int(MOST_BEYOND_CM / STEP_CM)) + 0.5)
        seen = entry[:, None, :2] + along[:, None] * back[:, None, :2]
        is_matter = self._holds(seen) & (along * np.abs(back[:, 2:]) < self.reach_cm)
        lost[rays] = STEP_CM * is_matter.sum(axis=1)
        return lost

    def _holds(self, points_cm: Array) -> NDArray[np.bool_]:
        """Whether points (x, y), shape (..., 2), lie in the outline."""
        start, step = np.array(self.grid.origin_cm[:2]), np.array(self.grid.spacing_cm[:2])
        index = np.rint((points_cm - start) / step).astype(np.intp)
        last = np.array(self.inside.shape)[::-1] - 1
        index = np.clip(index, 0, last)
        is_near = np.all(np.abs(points_cm - start - index * step) <= step, axis=-1)
        return np.asarray(self.inside[index[..., 1], index[..., 0]] & is_near)


def cut_ends(ct: CtImage, body: Body) -> tuple[CutEnd, ...]:
    """The ends of a body behind which the patient goes on: at those of the CT, or where the outline stops in tissue.

    Parameters
    ----------
    ct : CtImage
        The CT.
    body : Body
        From `find_body`.
    """
    grid, inside = ct.hu.grid, body.inside.values
    first, last = extent(inside)[0][0], extent(inside)[1][0] - 1
    ends = []
    for k, side in ((first, -1), (last, 1)):
        outline = inside[k]
        if 0 <= k + side < grid.shape[0] and np.mean(ct.hu.values[k + side][outline] > SKIN_THRESHOLD_HU) < 0.5:
            continue  # air follows: the top of a head, or of a phantom
        back = min(max(round(SLOPE_CM / grid.spacing_cm[2]), 1), last - first)
        reach = MOST_BEYOND_CM
        if back:
            fall = (float(inside[k - side * back].sum()) - float(outline.sum())) / (back * grid.spacing_cm[2])
            reach = min(float(outline.sum()) / max(fall, 1e-6), reach)
        z_cm = float(grid.axes_cm[2][k]) + side * grid.spacing_cm[2] / 2
        ends.append(CutEnd(grid, outline.copy(), z_cm, side, reach))
    return tuple(ends)


def through_ends(plan: Plan, ends: Sequence[CutEnd], turn: Matrix | None = None) -> tuple[Missing, ...]:
    """What is missing in the way of beams that come in through an end of the body.

    One ray is followed through the middle of every open leaf pair, half way between control points; it counts with the
    pair's opening and with the meterset.

    Parameters
    ----------
    plan : Plan
        Its isocentres are those in the patient as he lies.
    ends : sequence of CutEnd
        From `cut_ends`.
    turn : ndarray, shape (3, 3), or None
        How the patient is turned on the table (`Setup.turn`).
    """
    if not ends:
        return ()
    total = sum(beam.meterset_mu for beam in plan.beams)
    share = loss = 0.0
    numbers = []
    for beam in plan.beams:
        weight, source_cm, points_cm = _rays(beam, plan.patient_position, turn)
        lost_cm = np.sum([end.lost_cm(source_cm, points_cm) for end in ends], axis=0)
        of_plan = weight * beam.meterset_mu / total
        through = float(of_plan[lost_cm > 0].sum())
        if through > 0:
            numbers.append(str(beam.number))
        share += through
        loss += float((of_plan * -np.expm1(-PER_CM * lost_cm)).sum())
    if loss < NOTABLE_LOSS:
        return ()
    beams = f"beam{'s' if len(numbers) > 1 else ''} {', '.join(numbers)}"
    text = (
        f"About {_percent(share)} % of the monitor units ({beams}) enter the body through the first or last slice of"
        " the CT or of its outline: the tissue beyond it is missing in their way, and their dose is too high by about"
        f" {100 * PER_CM:.0f} % for each centimetre of it. Use a CT, and an outline, that reach further along z."
    )
    return (Missing("beams_through_ends", text, loss >= GRAVE_LOSS),)


def _percent(share: float) -> int:
    """A share in percent, no finer than an estimate is: setups that hardly differ are told of in the same words."""
    return round(100 * share) if share < 0.1 else 5 * round(20 * share)


def _rays(beam: Beam, patient_position: str, turn: Matrix | None) -> tuple[Array, Array, Array]:
    """Weights (n,), sources and points in the isocentre plane (n, 3) [cm] of a beam's rays; weights add up to the share
    of the meterset that is delivered with an opening."""
    low, high, bottom, top = openings(beam)
    area = np.maximum(high - low, 0.0) * np.maximum(top - bottom, 0.0)
    whole = area.sum(axis=1, keepdims=True)
    share = np.diff(beam.cumulative_meterset)[:, None]
    weight = share * np.divide(area, whole, out=np.zeros_like(area), where=whole > 0)
    along, across = (low + high) / 2, (bottom + top) / 2
    x, y = (along, across) if beam.leaf_axis == "x" else (across, along)
    part, pair = np.nonzero(weight)
    gantry, collimator, couch = (
        (angles[:-1] + angles[1:]) / 2 for angles in (beam.gantry_deg, beam.collimator_deg, beam.couch_deg)
    )
    to_gantry = gantry_from_patient(patient_position, couch, gantry, turn)
    to_collimator = collimator_from_gantry(collimator) @ to_gantry
    flat = np.stack([x[part, pair], y[part, pair], np.zeros(len(part))], axis=-1)
    points_cm = beam.isocentre_cm + np.einsum("nij,ni->nj", to_collimator[part], flat)
    return weight[part, pair], beam.isocentre_cm + SAD_CM * to_gantry[part, 2], points_cm


# --------------------------------------------------------------------------------------------------- outline of a body


def missing_in_body(
    ct: CtImage,
    body: Body,
    curve: HuCurve,
    structures: StructureSet | None = None,
    assignments: Sequence[Assignment] = (),
) -> tuple[Missing, ...]:
    """What the outline of a body leaves out, and what is void or implausible in it.

    Where a structure overrides the density, what the CT shows does not matter.

    Parameters
    ----------
    ct : CtImage
        The CT.
    body : Body
        From `find_body`.
    curve : HuCurve
        Turns CT numbers into densities.
    structures : StructureSet or None
        With density overrides, couch, fixation and bolus.
    assignments : sequence of Assignment
        Named materials.
    """
    drawn = [s for s in structures.structures if s.contours_cm] if structures is not None else []
    named = {one.structure for one in assignments}
    replaced = [s for s in drawn if has_override(s) or (s.name and s.name in named)]
    look = _Look(ct, body, tuple(replaced), tuple(s for s in drawn if s.type in OUTSIDE_TYPES))
    found = [look.outside(), look.void() or look.density(curve)]
    return tuple(one for one in found if one is not None)


@dataclass(frozen=True, eq=False)
class _Look:
    """A body on some slices of its CT, with some air around it."""

    ct: CtImage
    body: Body
    replaced: tuple[Structure, ...]
    outside_structures: tuple[Structure, ...]

    @cached_property
    def part(self) -> Slices:
        """The box of CT voxels that is looked at."""
        low, high = extent(self.body.inside.values)
        room = [0, *(int(np.ceil(SEEN_CM / h)) for h in self.ct.hu.grid.spacing_cm[1::-1])]
        ends = zip(low, high, room, self.ct.hu.grid.shape, strict=True)
        z, y, x = (slice(max(a - r, 0), min(b + r, n)) for a, b, r, n in ends)
        return z, y, x

    @cached_property
    def slices(self) -> NDArray[np.intp]:
        """Numbers of the slices of the box that are looked at."""
        count = self.part[0].stop - self.part[0].start
        return np.unique(np.linspace(0, count - 1, min(SLICES_SEEN, count)).astype(np.intp))

    @cached_property
    def inside(self) -> NDArray[np.bool_]:
        """The body on them."""
        return self.body.inside.values[self.part][self.slices]

    @cached_property
    def hu(self) -> NDArray[np.floating]:
        """CT numbers on them [HU]."""
        return self.ct.hu.values[self.part][self.slices]

    @cached_property
    def counted(self) -> NDArray[np.bool_]:
        """The body less what structures override."""
        return self.inside & ~self._of(self.replaced)

    def _of(self, structures: Sequence[Structure]) -> NDArray[np.bool_]:
        """Voxels that structures cover."""
        z, y, x = self.part
        box = self.ct.hu.grid.box((z.start, y.start, x.start), (z.stop, y.stop, x.stop))
        covered = np.zeros(box.shape, dtype=bool)
        for structure in structures:
            part, share = share_of(structure, box)
            covered[part] |= share >= HALF
        return np.asarray(covered[self.slices])

    def _distances(self, matter: NDArray[np.bool_]) -> Array:
        """How deep voxels of a slice lie in matter [cm], from its edge."""
        from scipy import ndimage

        pixel = self.ct.hu.grid.spacing_cm[1::-1]
        depth = ndimage.distance_transform_edt(np.pad(matter, 1), sampling=pixel)[1:-1, 1:-1]
        return np.asarray(depth - max(pixel) / 2)

    def outside(self) -> Missing | None:
        """Matter that goes on beyond the outline; a skin found by threshold has none."""
        if not self.body.source.startswith("structure") or max(self.ct.hu.grid.spacing_cm[:2]) > RIM_CM:
            return None
        matter = self.hu > SKIN_THRESHOLD_HU
        if np.mean(~matter[~self.inside]) < LEAST_AIR_OUTSIDE:
            return None
        beyond = self._beyond(matter)
        if np.mean(beyond > RIM_CM) <= OFTEN:
            return None
        beyond = self._beyond(matter & ~self._of(self.outside_structures))
        share = float(np.mean(beyond > RIM_CM))
        if share <= OFTEN:
            return None
        size = min(float(np.median(beyond[beyond > RIM_CM])), SEEN_CM)
        text = (
            f"On {100 * share:.0f} % of the outline of the body ({self.body.source}) the CT shows matter that goes on"
            f" for more than {10 * RIM_CM:.0f} mm outside it, {'at least ' if size > SEEN_CM - RIM_CM else ''}"
            f"{10 * size:.0f} mm typically: the outline is smaller than the patient. What lies outside counts as air,"
            f" and the dose behind it is too high by about {100 * PER_CM:.0f} % a centimetre. Draw the outline on the"
            " skin."
        )
        return Missing("body_too_small", text, is_grave=True)

    def _beyond(self, matter: NDArray[np.bool_]) -> Array:
        """How far matter goes on beyond each voxel of the outline [cm].

        The centre of a voxel at the outline lies half a pixel within it, on average.
        """
        from scipy import ndimage

        inset = max(self.ct.hu.grid.spacing_cm[:2]) / 2
        found = []
        for inside, solid in zip(self.inside, matter, strict=True):
            rim = inside & ~ndimage.binary_erosion(inside)
            found.append(self._distances(inside | solid)[rim] - inset)
        return np.concatenate(found)

    def void(self) -> Missing | None:
        """Air that reaches the outline: too blank and deep, or too much of it."""
        air = self.inside & (self.hu < VOID_HU)
        if np.count_nonzero(air) <= VOID_SHARE * np.count_nonzero(self.inside):
            return None
        air &= self.counted
        size = np.count_nonzero(self.counted)
        blank = sum(np.count_nonzero(self._blank(hu, one, inside)) for hu, one, inside in self._layers(air))
        is_open = sum(np.count_nonzero(_at_outline(one, inside)) for _, one, inside in self._layers(air))
        if blank <= VOID_SHARE * size and is_open <= MOST_AIR * size:
            return None
        volume = is_open / np.count_nonzero(self.inside) * self.body_cm3
        text = (
            f"{volume:.0f} of the {self.body_cm3:.0f} cm3 inside the outline of the body ({self.body.source}) are air:"
            " the field of view cuts the patient, or CT and contours do not belong together. The dose in and behind the"
            " air is wrong. Give what is missing a density, by a structure, or use another CT."
        )
        return Missing("body_has_void", text, is_grave=True)

    def _layers(self, air: NDArray[np.bool_]) -> zip[tuple[NDArray[np.floating], NDArray[np.bool_], NDArray[np.bool_]]]:
        """CT numbers, air and body, slice by slice."""
        return zip(self.hu, air, self.inside, strict=True)

    def _blank(self, hu: NDArray[np.floating], air: NDArray[np.bool_], inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Air of a slice that has no noise, lies deep and is open to the outline."""
        from scipy import ndimage

        is_even = ndimage.maximum_filter(hu, 3) == ndimage.minimum_filter(hu, 3)
        return np.asarray(_at_outline(air & is_even, inside) & (self._distances(inside) > DEEP_CM))

    @property
    def body_cm3(self) -> float:
        """Volume of the whole body [cm^3]."""
        return float(np.count_nonzero(self.body.inside.values)) * self.ct.hu.grid.voxel_volume_cm3

    def density(self, curve: HuCurve) -> Missing | None:
        """A body most of which is no tissue."""

        def median_of(part: NDArray[np.bool_]) -> float:
            return float(curve.densities(np.array([np.median(self.hu[part])]))[0][0])

        median = median_of(self.inside)
        if LIGHTEST <= median <= HEAVIEST or 2 * np.count_nonzero(self.counted) < np.count_nonzero(self.inside):
            return None
        median = median_of(self.counted)
        if LIGHTEST <= median <= HEAVIEST:
            return None
        text = (
            f"Half of the body ({self.body.source}) is {'lighter' if median < LIGHTEST else 'denser'} than"
            f" {median:.2g} g/cm3, which no patient is: the CT numbers are wrong, or CT and contours do not belong"
            " together. Check the CT's rescaling and its frame of reference."
        )
        return Missing("body_density", text, is_grave=True)


def _at_outline(air: NDArray[np.bool_], inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Those connected parts of the air of a slice that reach the outline; airways and bowel gas do not."""
    from scipy import ndimage

    if not air.any():
        return air
    rim = inside & ~ndimage.binary_erosion(inside, iterations=2)  # two: an even voxel has even neighbours
    parts, count = ndimage.label(air)
    touches = np.zeros(count + 1, dtype=bool)
    touches[parts[rim]] = True
    touches[0] = False
    return np.asarray(touches[parts])
