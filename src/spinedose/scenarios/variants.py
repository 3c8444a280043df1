"""Patient and plan of a scenario: another CT, other densities, the plan where that CT has the patient."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spinedose.compare.dvh import Cells
from spinedose.density import CtImage
from spinedose.errors import InvalidInput
from spinedose.geometry import table_from_patient
from spinedose.grid import Volume
from spinedose.hu_curve import HuCurve, read_curve
from spinedose.nested import FineBox
from spinedose.patches import has_override
from spinedose.plan import Beam, Plan
from spinedose.scenarios.scenario import DensityChange, OtherCt, Registration, Scenario, setup_from_turn
from spinedose.setup import Setup
from spinedose.structures import Structure, StructureSet, mask

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Variant:
    """What a dose is computed on.

    Parameters
    ----------
    plan : Plan
        In the frame of the CT; its isocentres where the CT has them, its turns not.
    ct : CtImage
        The image, CT numbers changed where the scenario does so.
    structures : StructureSet or None
        Body and overrides.
    is_own : bool
        Whether structures were drawn on this CT; otherwise histograms are those of the plan's structures, moved.
    registration : Registration or None
        From the planning CT; None where it is the planning CT itself.
    fine : FineBox or None
        Fine voxels.
    moved_cm : ndarray, shape (3,)
        By how much the isocentre lies elsewhere than in the planning CT [cm].
    warnings : tuple of str
        What the reader must know.
    """

    plan: Plan
    ct: CtImage
    structures: StructureSet | None
    is_own: bool
    registration: Registration | None
    fine: FineBox | None
    moved_cm: Array
    warnings: tuple[str, ...]

    def setup(self, planned: Setup, plan: Plan) -> Setup:
        """A setup of the plan, in the frame of this CT.

        The planned anatomy p lies at q = R p + t here. With T from patient to table axes, a beam that sees
        `turn T (p - pivot)` sees `(turn T R^T T^T) T (q - pivot')`: the same setup with another turn and pivot, for a
        plan whose isocentres are moved, but not turned, with the pivot.
        """
        if self.registration is None:
            return planned
        pivot = _pivot(planned, plan)
        to_table = table_from_patient(plan.patient_position)
        turn = planned.turn @ to_table @ self.registration.turn.T @ to_table.T
        return setup_from_turn(turn, planned.shift_cm, self.registration.of(pivot))

    def moved(self, cells: Cells) -> Cells:
        """Cells of a planned structure where this CT has them."""
        if self.registration is None:
            return cells
        return replace(cells, points_cm=self.registration.of(cells.points_cm))


def _pivot(setup: Setup, plan: Plan) -> Array:
    return np.asarray(plan.beams[0].isocentre_cm if setup.pivot_cm is None else setup.pivot_cm, float)


def make_variant(
    scenario: Scenario,
    plan: Plan,
    ct: CtImage,
    structures: StructureSet | None,
    *,
    curve: str,
    fine: FineBox | None,
) -> Variant:
    """What the dose of a scenario is computed on.

    Parameters
    ----------
    scenario : Scenario
        What is different.
    plan, ct, structures
        As planned.
    curve : str
        HU curve of the study.
    fine : FineBox or None
        In the planning CT.
    """
    is_own, registration, warnings = True, None, []
    moved_cm = np.zeros(3)
    if scenario.ct is not None:
        ct = _read(scenario.ct)
        registration = _registration(scenario, plan, ct)
        if not np.allclose(registration.rows, np.eye(4)) and any(one.pivot_cm is not None for one in scenario.setups):
            _one_pivot(scenario)
        structures, is_own, said = _structures_on(scenario.ct, registration, structures, ct)
        warnings += said
        pivot = _pivot(scenario.setups[0], plan)
        moved_cm = registration.of(pivot) - pivot
        plan = _placed(plan, moved_cm, registration, ct.frame_of_reference_uid)
        fine = _placed_box(fine, registration)
    if scenario.hu_offset:
        ct = _with_hu(ct, ct.hu.values.astype(np.float32) + np.float32(scenario.hu_offset))
    if scenario.densities:
        ct, structures = _with_densities(scenario, ct, structures, read_curve(scenario.curve or curve))
    return Variant(plan, ct, structures, is_own, registration, fine, moved_cm, tuple(warnings))


# --- another CT -------------------------------------------------------------------------------------------------------


def _read(other: OtherCt) -> CtImage:
    if isinstance(other.ct, CtImage):
        return other.ct
    from spinedose.dicom.ct import read_ct

    return read_ct(other.ct)


def _registration(scenario: Scenario, plan: Plan, ct: CtImage) -> Registration:
    """From the planning CT; a CT of another frame of reference without a registration is refused."""
    assert scenario.ct is not None
    known, uids = scenario.ct.registration, (plan.frame_of_reference_uid, ct.frame_of_reference_uid)
    if not isinstance(known, Registration):
        from spinedose.dicom.registration import read_registration

        return Registration(tuple(tuple(row) for row in read_registration(known, *uids).tolist()))
    if len({uid for uid in uids if uid}) > 1 and np.allclose(known.rows, np.eye(4)):
        raise InvalidInput(
            f"The CT of scenario '{scenario.name}' has another frame of reference than the plan",
            "nothing says where the patient lies in it",
            "Give a registration",
        )
    return known


def _one_pivot(scenario: Scenario) -> None:
    if len({one.pivot_cm for one in scenario.setups}) > 1:
        raise InvalidInput(
            f"The setups of scenario '{scenario.name}' turn about several points",
            "with a registration there can be one",
            "Give all the same pivot",
        )


def _structures_on(
    other: OtherCt, registration: Registration, planned: StructureSet | None, ct: CtImage
) -> tuple[StructureSet | None, bool, list[str]]:
    """Structures for body and overrides, whether they were drawn on this CT, and what must be said."""
    if other.structures:
        if isinstance(other.structures, StructureSet):
            return other.structures, True, []
        from spinedose.dicom.structures import read_structures

        return read_structures(Path(other.structures)), True, []
    if planned is None:
        return None, False, []
    said = ["Structures are those of the planning CT, moved by the registration; the patient may have changed."]
    if not registration.is_turned:
        shift = registration.shift_cm
        moved = tuple(
            replace(one, contours_cm=tuple(points + shift for points in one.contours_cm)) for one in planned.structures
        )
        uid = ct.frame_of_reference_uid
        return replace(planned, structures=moved, frame_of_reference_uid=uid), False, said
    lost = [one.name for one in planned.structures if has_override(one)]
    said.append("The registration turns the patient, so the body is found by threshold on the other CT.")
    if lost:
        said.append(f"Densities that the planner gave to {', '.join(lost)} are left out, for the same reason.")
    return None, False, said


def _placed(plan: Plan, shift_cm: Array, registration: Registration, frame_uid: str) -> Plan:
    """The plan, moved as its pivot is; turns are those of `Variant.setup`."""

    def moved(beam: Beam) -> Beam:
        point = beam.planned_point_cm
        return replace(
            beam,
            isocentre_cm=beam.isocentre_cm + shift_cm,
            planned_point_cm=None if point is None else registration.of(point),
        )

    return replace(plan, beams=tuple(moved(beam) for beam in plan.beams), frame_of_reference_uid=frame_uid)


def _placed_box(fine: FineBox | None, registration: Registration) -> FineBox | None:
    """The box around the moved box."""
    if fine is None:
        return None
    ends = np.array([fine.lower_cm, fine.upper_cm])
    corners = registration.of(np.array([(ends[i, 0], ends[j, 1], ends[k, 2]) for i, j, k in np.ndindex(2, 2, 2)]))
    low, high = (tuple(float(value) for value in side) for side in (corners.min(axis=0), corners.max(axis=0)))
    return FineBox(low, high, fine.factor)  # type: ignore[arg-type]


# --- densities --------------------------------------------------------------------------------------------------------


def _with_hu(ct: CtImage, values: NDArray[np.float32]) -> CtImage:
    return replace(ct, hu=Volume(ct.hu.grid, values))


def _with_densities(
    scenario: Scenario, ct: CtImage, structures: StructureSet | None, curve: HuCurve
) -> tuple[CtImage, StructureSet | None]:
    """Overrides are changed in the structures; a factor where there is none is one of CT numbers, by the curve."""
    if structures is None:
        raise InvalidInput(
            f"Scenario '{scenario.name}' changes the density of structures",
            "there are none, or they cannot be moved into a turned CT",
            "Give structures",
        )
    by_name = {one.name: one for one in structures.structures}
    values: NDArray[np.float32] | None = None
    for change in scenario.densities:
        old = structures[change.structure]
        if not old.contours_cm:
            raise InvalidInput(f"Structure '{old.name}' has no contours", "it has no density to change")
        if change.kind == "g/cm3":
            # The house takes a relative mass density for g/cm3 (`HuCurve.complete`).
            by_name[old.name] = replace(old, relative_mass_density=change.amount, relative_electron_density=None)
        elif has_override(old):
            by_name[old.name] = replace(
                old,
                relative_mass_density=_times(old.relative_mass_density, change.amount),
                relative_electron_density=_times(old.relative_electron_density, change.amount),
            )
        else:
            values = ct.hu.values.astype(np.float32) if values is None else values
            _scale(values, ct, old, change, curve)
    changed = replace(structures, structures=tuple(by_name[one.name] for one in structures.structures))
    return (ct if values is None else _with_hu(ct, values)), changed


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _scale(
    values: NDArray[np.float32], ct: CtImage, structure: Structure, change: DensityChange, curve: HuCurve
) -> None:
    """CT numbers that have so many times the mass density, by the share of each voxel that lies in the structure."""
    for k, plane in _planes(structure, ct):
        rows, columns = np.nonzero(plane > 0)
        hu = values[k, rows, columns].astype(np.float64)
        rho = np.interp(hu, curve.hu, curve.mass_density)
        wanted = rho * (1 + (change.amount - 1) * plane[rows, columns])
        if wanted.max() > curve.mass_density[-1]:
            raise InvalidInput(
                f"'{structure.name}' would have {wanted.max():.2f} g/cm3",
                f"the HU curve '{curve.name}' ends at {curve.mass_density[-1]:.2f} g/cm3",
                "Choose a smaller factor, or give the structure a density",
            )
        # Below the first point of the curve all is air.
        values[k, rows, columns] = np.interp(wanted, curve.mass_density, curve.hu)


def _planes(structure: Structure, ct: CtImage) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Shares of the voxels of each slice of a CT, slice by slice: a CT has a hundred million of them."""
    grid = ct.hu.grid
    low = min(float(points[:, 2].min()) for points in structure.contours_cm)
    high = max(float(points[:, 2].max()) for points in structure.contours_cm)
    margin = 2 * (structure.contour_spacing_cm or grid.spacing_cm[2]) + grid.spacing_cm[2]
    _, ny, nx = grid.shape
    for k, z in enumerate(grid.axes_cm[2]):
        if low - margin <= z <= high + margin:
            plane = mask(structure, grid.box((k, 0, 0), (k + 1, ny, nx))).values[0]
            if plane.any():
                yield k, plane


def scaled_beams(plan: Plan, factors: Sequence[tuple[int, float]], scenario: str) -> Plan:
    """The plan of one fraction, with the meterset of some beams times a factor."""
    known = {beam.number for beam in plan.beams}
    for number, _ in factors:
        if number not in known:
            raise InvalidInput(
                f"Scenario '{scenario}' changes the meterset of beam {number}",
                f"the plan has beams {', '.join(str(one) for one in sorted(known))}",
            )
    by_number = dict(factors)
    beams = tuple(replace(b, meterset_mu=b.meterset_mu * by_number.get(b.number, 1.0)) for b in plan.beams)
    return replace(plan, beams=beams, fractions=1)
