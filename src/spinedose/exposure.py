"""From segments to exposures: the beam geometry that depth and TERMA stages need, with nothing left to decide.

Segments whose gantry angles lie close together form a group. Fluence is looked up for every segment; radiological depth,
attenuation and beam direction once a group, at its middle angle (docs/theory/terma.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spinedose.cones import SpectrumLike, terma_table
from spinedose.directions import harmonics
from spinedose.fluence_model import FluenceMaps
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


@dataclass(frozen=True, slots=True, eq=False)
class Attenuation:
    """How a beam is attenuated in water, as the TERMA stage looks it up.

    Parameters
    ----------
    terma : ndarray float32, shape (s, d, 2)
        TERMA per unit energy fluence [cm^2/g] and hardness, against softening and depth.
    depth_step_cm : float
        Step of the table in depth [cm].
    soft_row : ndarray float32, shape (r,)
        Row of `terma` (fractional) at each off-axis radius.
    radius_step_cm : float
        Step of `soft_row` [cm].
    electron_decay_per_cm : float
        Attenuation of contaminating electrons [1/cm].
    """

    terma: NDArray[np.float32]
    depth_step_cm: float
    soft_row: NDArray[np.float32]
    radius_step_cm: float
    electron_decay_per_cm: float


def attenuation(
    spectrum: SpectrumLike, softening_radius_cm: Array, softening: Array, electron_decay_per_cm: float, *, depth_cm: float = 80.0
) -> Attenuation:
    """Tabulate attenuation, hardening and off-axis softening of a beam.

    Parameters
    ----------
    spectrum : SpectrumLike
        On the axis.
    softening_radius_cm, softening : ndarray, shape (n,)
        Attenuation relative to the axis against off-axis radius on the isocentre plane [cm].
    electron_decay_per_cm : float
        Attenuation of contaminating electrons [1/cm].
    depth_cm : float
        Greatest water-equivalent depth [cm]; beyond it the last value counts, which is refused by the engine.
    """
    low, high = float(softening.min()), float(softening.max())
    levels = np.unique(np.append(np.linspace(low, high, 1 if high - low < 1e-6 else 7), 1.0))
    table = terma_table(spectrum, levels, depth_cm=depth_cm)
    step = 0.25
    radius = np.arange(0.0, max(float(softening_radius_cm[-1]), 30.0) + 2 * step, step)
    row = np.interp(np.interp(radius, softening_radius_cm, softening), levels, np.arange(len(levels)))
    both = np.stack([table.terma, table.hardness], axis=-1)
    return Attenuation(
        np.ascontiguousarray(both, dtype=np.float32), float(table.depth_cm[1]), row.astype(np.float32), step, electron_decay_per_cm
    )


@dataclass(frozen=True, slots=True, eq=False)
class Exposure:
    """Everything that the depth and TERMA stages need of one beam.

    Parameters
    ----------
    fans : Fans
        One a group.
    reach : Window
        Part of the isocentre plane outside of which the fluence is zero.
    first : ndarray of int, shape (g + 1,)
        Segments of each group.
    segment_rotation : ndarray, shape (n, 3, 3)
        Patient to collimator system of each segment.
    maps : FluenceMaps
        Fluence of each segment.
    directions : DirectionTable
        Harmonics of beam directions.
    attenuation : Attenuation
        Of the beam.
    """

    fans: Fans
    reach: Window
    first: NDArray[np.int64]
    segment_rotation: Array
    maps: FluenceMaps
    directions: DirectionTable
    attenuation: Attenuation

    def __len__(self) -> int:
        return len(self.fans.rotation)


def make_exposure(
    maps: FluenceMaps,
    segments: Segments,
    *,
    grid: Grid,
    patient_position: str,
    isocentre_cm: Array,
    sad_cm: float,
    attenuation: Attenuation,
    order: int,
    group_step_deg: float,
) -> Exposure:
    """Put together the exposure of a beam; fans get rays and planes at the spacing of the voxels."""
    raster = maps.raster
    x, y = raster.xs_cm[[0, -1]], raster.ys_cm[[0, -1]]
    corner = np.array([[x[i], y[j]] for i in (0, 1) for j in (0, 1)])
    reach = window(corner, segments.collimator_deg)
    groups = group_segments(segments, patient_position, group_step_deg)
    spacing = min(grid.spacing_cm)
    fans = make_fans(grid, groups, isocentre_cm, sad_cm, reach, pitch_cm=spacing, step_cm=spacing)
    return Exposure(
        fans,
        reach,
        groups.first,
        collimator_rotations(segments, patient_position),
        maps,
        direction_table(fans, reach, order),
        attenuation,
    )
