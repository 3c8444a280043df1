"""From segments to exposures: the beam geometry that depth and TERMA stages need, with nothing left to decide.

Segments whose gantry angles lie close together form a group. Fluence is looked up for every segment; radiological depth,
attenuation and beam direction once a group, at its middle angle (docs/theory/terma.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spinedose.directions import harmonics
from spinedose.geometry import collimator_from_gantry, gantry_from_patient
from spinedose.grid import Grid
from spinedose.segments import Segments

Array = NDArray[np.float64]

DIRECTION_BIN_CM = 1.0
"""Beam directions are tabulated on cells of this size on the isocentre plane: at most 0.4 degrees from the true one."""


@dataclass(frozen=True, slots=True, eq=False)
class Groups:
    """Segments of one beam in `g` groups, each with one middle angle.

    Parameters
    ----------
    first : ndarray of int, shape (g + 1,)
        Group i holds the segments first[i] up to but not including first[i + 1].
    gantry_from_patient : ndarray, shape (g, 3, 3)
        Rotation at the meterset-weighted middle of each group.
    """

    first: NDArray[np.int64]
    gantry_from_patient: Array

    def __len__(self) -> int:
        return len(self.gantry_from_patient)


def group_segments(segments: Segments, patient_position: str, step_deg: float) -> Groups:
    """Group neighbouring segments whose gantry and couch angles differ by no more than a step.

    Parameters
    ----------
    segments : Segments
        In order of delivery.
    patient_position : str
        HFS, HFP, FFS or FFP.
    step_deg : float
        Largest spread of angles within a group [degrees].
    """
    first = [0]
    for i in range(1, len(segments)):
        start = first[-1]
        turn = max(
            abs(angle[i] - angle[start]) for angle in (segments.gantry_deg, segments.couch_deg)
        )
        if turn >= step_deg - 1e-6:
            first.append(i)
    first.append(len(segments))
    rotations = []
    for a, b in zip(first[:-1], first[1:], strict=True):
        share = segments.meterset_mu[a:b] / segments.meterset_mu[a:b].sum()
        couch, gantry = float(segments.couch_deg[a:b] @ share), float(segments.gantry_deg[a:b] @ share)
        rotations.append(gantry_from_patient(patient_position, couch, gantry))
    return Groups(np.array(first, np.int64), np.array(rotations))


def collimator_rotations(segments: Segments, patient_position: str) -> Array:
    """Rotation from patient to collimator system of each segment, shape (n, 3, 3)."""
    return np.array(
        [
            collimator_from_gantry(c) @ gantry_from_patient(patient_position, s, g)
            for c, s, g in zip(segments.collimator_deg, segments.couch_deg, segments.gantry_deg, strict=True)
        ]
    )


def voxel_axes(rotations: Array, spacing_cm: tuple[float, float, float]) -> Array:
    """Edges of a voxel projected along the beam axis: shape (n, 3, 2) = segment, edge (x, y, z), collimator (x, y) [cm]."""
    edges: Array = np.swapaxes(rotations[:, :2, :] * np.asarray(spacing_cm), 1, 2)
    return edges


@dataclass(frozen=True, slots=True)
class Window:
    """The part of the isocentre plane, in the gantry system, that a beam reaches: u_low..u_high, v_low..v_high [cm]."""

    u_low: float
    u_high: float
    v_low: float
    v_high: float


def window(corners_cm: Array, collimator_deg: Array) -> Window:
    """Smallest window that holds a rectangle of the collimator system at every collimator angle.

    Parameters
    ----------
    corners_cm : ndarray, shape (4, 2)
        Corners of the rectangle [cm].
    collimator_deg : ndarray, shape (n,)
        Collimator angles [degrees].
    """
    angle = np.radians(np.unique(np.round(collimator_deg, 3)))
    c, s = np.cos(angle)[:, None], np.sin(angle)[:, None]
    u = c * corners_cm[:, 0] - s * corners_cm[:, 1]
    v = s * corners_cm[:, 0] + c * corners_cm[:, 1]
    return Window(float(u.min()), float(u.max()), float(v.min()), float(v.max()))


@dataclass(frozen=True, slots=True, eq=False)
class Fans:
    """Diverging grids of rays, one a group: `u, v` on the isocentre plane (gantry system), planes of constant gantry z.

    Parameters
    ----------
    rotation : ndarray, shape (g, 3, 3)
        Patient to gantry.
    isocentre_cm : ndarray, shape (3,)
        In patient axes [cm].
    sad_cm : float
        Source to isocentre [cm].
    u_cm, v_cm : float
        First ray [cm].
    pitch_cm : float
        Distance of rays on the isocentre plane [cm].
    nu, nv : int
        Rays along u and v.
    top_cm : ndarray, shape (g,)
        Gantry z of the first plane, above all matter [cm].
    step_cm : float
        Distance of planes [cm].
    nz : int
        Number of planes.
    """

    rotation: Array
    isocentre_cm: Array
    sad_cm: float
    u_cm: float
    v_cm: float
    pitch_cm: float
    nu: int
    nv: int
    top_cm: Array
    step_cm: float
    nz: int

    def part(self, a: int, b: int) -> Fans:
        """The fans of the groups a up to but not including b."""
        return Fans(
            self.rotation[a:b], self.isocentre_cm, self.sad_cm, self.u_cm, self.v_cm, self.pitch_cm,
            self.nu, self.nv, self.top_cm[a:b], self.step_cm, self.nz,
        )  # fmt: skip

    @property
    def bytes_per_fan(self) -> int:
        """Memory of one fan as float32."""
        return 4 * self.nu * self.nv * self.nz


def corners(grid: Grid) -> Array:
    """The eight outer corners of a grid, shape (8, 3) as (x, y, z) [cm]."""
    low, high = grid.lower_cm, grid.upper_cm
    return np.array([[(low, high)[i >> a & 1][a] for a in range(3)] for i in range(8)])


def make_fans(grid: Grid, groups: Groups, isocentre_cm: Array, sad_cm: float, reach: Window, pitch_cm: float, step_cm: float) -> Fans:
    """Fans over the part of the grid that a beam reaches."""
    height = (corners(grid) - isocentre_cm) @ groups.gantry_from_patient[:, 2, :].T
    top, bottom = height.max(axis=0) + 1e-3, height.min(axis=0)
    nz = int(np.ceil((top - bottom).max() / step_cm)) + 2
    nu = int(np.ceil((reach.u_high - reach.u_low) / pitch_cm)) + 2
    nv = int(np.ceil((reach.v_high - reach.v_low) / pitch_cm)) + 2
    return Fans(
        groups.gantry_from_patient, np.asarray(isocentre_cm, float), sad_cm, reach.u_low - 0.25 * pitch_cm,
        reach.v_low - 0.25 * pitch_cm, pitch_cm, nu, nv, top, step_cm, nz,
    )  # fmt: skip


def reached_box(grid: Grid, fans: Fans, reach: Window) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Smallest index box (low, high), (z, y, x), of the voxels that any group can reach; empty if none."""
    low, high = np.full(3, np.inf), np.full(3, -np.inf)
    height = (corners(grid) - fans.isocentre_cm) @ fans.rotation[:, 2, :].T
    for g in range(len(fans.rotation)):
        for z in (height[:, g].max(), height[:, g].min()):
            scale = max(fans.sad_cm - z, 0.0) / fans.sad_cm
            for u in (reach.u_low, reach.u_high):
                for v in (reach.v_low, reach.v_high):
                    point = fans.rotation[g].T @ np.array([u * scale, v * scale, z]) + fans.isocentre_cm
                    low, high = np.minimum(low, point), np.maximum(high, point)
    first = np.clip(np.floor(grid.indices_of(low) + 0.5), 0, grid.shape).astype(int)
    last = np.clip(np.ceil(grid.indices_of(high) + 0.5), 0, grid.shape).astype(int)
    last = np.maximum(last, first)
    return tuple(map(int, first)), tuple(map(int, last))  # type: ignore[return-value]


@dataclass(frozen=True, slots=True, eq=False)
class DirectionTable:
    """Harmonics of the beam direction on cells of the isocentre plane, for each group.

    Parameters
    ----------
    u_cm, v_cm : float
        Centre of the first cell [cm].
    bin_cm : float
        Size of a cell [cm].
    values : ndarray float32, shape (g, nv, nu, (L + 1)^2)
        Y_lm of the direction of travel, in patient axes.
    """

    u_cm: float
    v_cm: float
    bin_cm: float
    values: NDArray[np.float32]


def direction_table(fans: Fans, reach: Window, order: int, bin_cm: float = DIRECTION_BIN_CM) -> DirectionTable:
    """Tabulate the harmonics of the directions d(u, v) = (u, v, -SAD)/|...| turned into patient axes."""
    nu = max(int(np.ceil((reach.u_high - reach.u_low) / bin_cm)), 1)
    nv = max(int(np.ceil((reach.v_high - reach.v_low) / bin_cm)), 1)
    u, v = reach.u_low + (np.arange(nu) + 0.5) * bin_cm, reach.v_low + (np.arange(nv) + 0.5) * bin_cm
    ray = np.stack(np.broadcast_arrays(u[None, :], v[:, None], np.array(-fans.sad_cm)), axis=-1)
    ray /= np.linalg.norm(ray, axis=-1, keepdims=True)
    in_patient = np.einsum("gij,vui->gvuj", fans.rotation, ray)
    return DirectionTable(float(u[0]), float(v[0]), bin_cm, harmonics(in_patient, order).astype(np.float32))
