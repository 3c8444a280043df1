"""Named cases for benchmarks and studies: made of analytic shapes, the same on every machine."""

from __future__ import annotations

import numpy as np

from spinedose.density import CtImage
from spinedose.grid import Grid, Volume
from spinedose.machine import read_machine
from spinedose.plan import Beam, Plan
from spinedose.structures import Structure, StructureSet


def elliptical_body(
    shape: tuple[int, int, int] = (100, 150, 150), spacing_cm: float = 0.25
) -> tuple[CtImage, StructureSet]:
    """Elliptical cylinder of 33 x 24 cm in water, with two lung inserts and one of bone; and its outline."""
    extent = np.array(shape[::-1]) * spacing_cm
    grid = Grid(tuple(-extent / 2 + spacing_cm / 2), (spacing_cm,) * 3, shape)
    x, y, _ = grid.axes_cm
    xx, yy = x[None, :], y[:, None]
    hu = np.full((len(y), len(x)), -1000.0)
    hu[(xx / 16.5) ** 2 + (yy / 12.0) ** 2 <= 1] = 0.0
    for side in (-1, 1):
        hu[((xx - side * 8.5) / 4.5) ** 2 + ((yy + 2.0) / 6.0) ** 2 <= 1] = -740.0
    hu[(xx / 2.2) ** 2 + ((yy - 5.0) / 2.0) ** 2 <= 1] = 700.0
    values = np.broadcast_to(hu, shape).astype(np.float32)
    angle = np.linspace(0, 2 * np.pi, 240, endpoint=False)
    ring = np.stack([16.5 * np.cos(angle), 12.0 * np.sin(angle)], axis=1)
    contours = tuple(np.column_stack([ring, np.full(len(ring), z)]) for z in grid.axes_cm[2])
    body = Structure(number=1, name="BODY", type="EXTERNAL", contours_cm=contours)
    return CtImage(Volume(grid, np.ascontiguousarray(values))), StructureSet((body,))


def modulated_arcs(
    arcs: int = 2, control_points: int = 90, *, machine: str = "varian-truebeam-m120", energy: str = "6X"
) -> Plan:
    """Arcs of 358 degrees with modulated apertures of about 6 x 4 cm in jaws of 6.4 cm; 600 MU each."""
    boundaries = read_machine(machine).mlc.boundaries_cm
    middle = 0.5 * (boundaries[1:] + boundaries[:-1])
    beams = []
    for arc in range(arcs):
        rng = np.random.default_rng(20 + arc)
        n = control_points
        gantry = np.linspace(181, 539, n) if arc % 2 == 0 else np.linspace(539, 181, n)
        phase, tempo = rng.random((2, len(middle))) * 2 * np.pi, rng.uniform(0.8, 1.6, (2, len(middle)))
        t = np.arange(n)[:, None] / n * 2 * np.pi
        reach = np.sqrt(np.clip(1 - (middle / 3.0) ** 2, 0, 1)) * 2.0
        left = -reach + 0.6 * reach * np.sin(3 * tempo[0] * t + phase[0])
        right = reach + 0.6 * reach * np.sin(3 * tempo[1] * t + phase[1])
        closed = np.abs(middle) >= 3.0
        left[:, closed] = right[:, closed] = 0.0
        right = np.maximum(right, left)
        weight = np.concatenate([[0], np.cumsum(1 + 0.5 * rng.random(n - 1))])
        beams.append(
            Beam(
                number=arc + 1,
                name=f"ARC{arc + 1}",
                machine="case",
                energy=energy,
                meterset_mu=600.0,
                cumulative_meterset=weight / weight[-1],
                gantry_deg=gantry,
                collimator_deg=np.full(n, (30.0, 330.0)[arc % 2]),
                couch_deg=np.zeros(n),
                isocentre_cm=np.array([0.0, 2.0, 0.0]),
                jaw_x_cm=np.tile([-3.2, 3.2], (n, 1)),
                jaw_y_cm=np.tile([-3.2, 3.2], (n, 1)),
                leaf_boundaries_cm=boundaries,
                leaf_cm=np.stack([left, right], axis=1),
            )
        )
    return Plan("vmat-180", tuple(beams))


def large_arcs() -> tuple[CtImage, StructureSet, Plan]:
    """`vmat-256`: 256 x 256 x 256 voxels of 1.25 mm, three arcs with 178 control points each."""
    ct, structures = elliptical_body((256, 256, 256), 0.125)
    return ct, structures, modulated_arcs(3, 178)
