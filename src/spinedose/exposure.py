"""From segments to exposures: the beam geometry that depth and TERMA stages need, with nothing left to decide.

Fluence is looked up for every segment; radiological depth, attenuation and direction of travel once for all segments
of all
beams whose gantry angles fall into the same bin (docs/theory/terma.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spinedose.cones import (
    ConeTable,
    MediumLike,
    SpectrumLike,
    cone_table,
    mean_released_energy,
    surface_hardness,
    terma_table,
)
from spinedose.electrons import electron_spread
from spinedose.fluence_model import FluenceMaps, Raster
from spinedose.geometry import collimator_from_gantry, gantry_from_patient
from spinedose.grid import Grid
from spinedose.materials import Material
from spinedose.segments import Segments

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Shots:
    """Fluence maps with the angles at which they are delivered: all segments of the beams that share an isocentre.

    Parameters
    ----------
    gantry_deg, collimator_deg, couch_deg : ndarray, shape (n,)
        IEC 61217 angles [degrees].
    meterset_mu : ndarray, shape (n,)
        Weight of each shot, for mean angles [MU].
    maps : FluenceMaps
        Photon and electron fluence of each shot.
    """

    gantry_deg: Array
    collimator_deg: Array
    couch_deg: Array
    meterset_mu: Array
    maps: FluenceMaps

    def __post_init__(self) -> None:
        n = len(self.maps.photon)
        for name in ("gantry_deg", "collimator_deg", "couch_deg", "meterset_mu"):
            assert getattr(self, name).shape == (n,), name


def on_host(array: Any) -> Any:
    """An array of any backend as numpy."""
    return array.get() if hasattr(array, "get") else np.asarray(array)


def _beside(maps: Any, array: NDArray[Any]) -> Any:
    """An array of the host where the maps are, so that both can be combined."""
    return np.asarray(array, like=maps)


def pool(segments: Sequence[Segments], maps: Sequence[FluenceMaps]) -> Shots:
    """All segments of some beams together; maps of segments at the same angles are added up.

    Parameters
    ----------
    segments, maps : sequences
        Of each beam; all maps on the same rasters.
    """
    gantry, collimator, couch, weight = (
        np.concatenate([getattr(s, name) for s in segments])
        for name in ("gantry_deg", "collimator_deg", "couch_deg", "meterset_mu")
    )
    gantry, couch = gantry % 360.0, (couch + 180.0) % 360.0 - 180.0
    angles = np.round(np.stack([couch, gantry, collimator % 360.0], axis=1), 4)
    _, first, same = np.unique(angles, axis=0, return_index=True, return_inverse=True)
    same, count = same.reshape(-1), len(first)
    photon = _summed([m.photon for m in maps], same, count)
    electron = _summed([m.electron for m in maps], same, count)
    return Shots(
        gantry[first],
        collimator[first],
        couch[first],
        np.bincount(same, weight, count).astype(float),
        FluenceMaps(photon, maps[0].raster, electron, maps[0].electron_raster),
    )


MAPS_AT_ONCE = 64
"""Maps handled in one step: few enough to take little memory, enough that a GPU does not wait for the next step."""


def _summed(parts: Sequence[Any], same: NDArray[np.intp], count: int) -> Any:
    """Sum of the maps that have the same number.

    Parameters
    ----------
    parts : sequence of arrays (n_i, ny, nx)
        Maps, in one or several arrays of any backend.
    same : ndarray, shape (sum of n_i,)
        Number of each map; all from 0 to `count` - 1 occur.
    count : int
        How many numbers there are.

    Returns
    -------
    array (count, ny, nx)
    """
    total = np.empty_like(parts[0], shape=(count, *parts[0].shape[1:]))
    times, start = _times_before(same), 0
    for part in parts:
        numbers, before = (one[start : start + len(part)] for one in (same, times))
        for now in range(int(before.max(initial=-1)) + 1):
            chosen = np.flatnonzero(before == now)
            for a in range(0, len(chosen), MAPS_AT_ONCE):
                some = chosen[a : a + MAPS_AT_ONCE]  # each number once, so that none is lost
                if now == 0:
                    total[numbers[some]] = part[some]
                else:
                    total[numbers[some]] += part[some]
        start += len(part)
    return total


def _times_before(numbers: NDArray[np.intp]) -> NDArray[np.intp]:
    """How often each number has come before."""
    order = np.argsort(numbers, kind="stable")
    times = np.empty_like(order)
    times[order] = np.arange(len(order)) - np.searchsorted(numbers[order], numbers[order])
    return times


def _bins(shots: Shots, step_deg: float) -> NDArray[np.intp]:
    """Number of the angular bin of each shot; bins are ordered by couch, then by gantry."""
    key = np.stack([np.round(shots.couch_deg / step_deg), np.floor(shots.gantry_deg / step_deg + 1e-6)], axis=1)
    number: NDArray[np.intp] = np.unique(key, axis=0, return_inverse=True)[1].reshape(-1)
    return number


HALO_LEVEL = 0.02
"""Below this share of its maximum the summed fluence is halo: leakage and head scatter, smooth and weak."""

FLUENCE_FLOOR = 1e-7
"""Fluence below this share of the highest counts as none."""

HALO_RAMP_CM = 0.6
HALO_BINNING = 3


def split_halo(shots: Shots, step_deg: float) -> tuple[Shots, Shots]:
    """Split shots into the field and its halo (terma.md, section 4).

    The field is a rectangle that holds all that exceeds `HALO_LEVEL`, with a linear ramp around it; the halo is the
    rest, on
    coarser pixels, its maps added up over angular bins of `step_deg`. Both together are the whole. Electrons go with
    the halo.

    Parameters
    ----------
    shots : Shots
        From `pool`; used up: its maps are cleaned in place.
    step_deg : float
        Gantry and couch angle over which the halo may be taken at its mean angle [degrees].

    Returns
    -------
    field, halo : Shots
    """
    maps, raster = shots.maps, shots.maps.raster
    # tails of the error function underflow to subnormal numbers further down, on which processors crawl
    floor = FLUENCE_FLOOR * float(maps.photon.max())
    for a in range(0, len(maps.photon), MAPS_AT_ONCE):  # in place: all maps together take hundreds of megabytes
        some = maps.photon[a : a + MAPS_AT_ONCE]
        some[np.abs(some) < floor] = 0
    total = maps.photon.sum(axis=0)
    above = on_host(total > HALO_LEVEL * total.max())
    share = [_ramp(above.any(axis=0), raster.pixel_cm), _ramp(above.any(axis=1), raster.pixel_cm)]
    columns, rows = (np.flatnonzero(part > 0) for part in share)
    cut = (slice(None), slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    weight = _beside(maps.photon, (share[1][:, None] * share[0][None, :]).astype(np.float32))
    inner = maps.photon[cut] * weight[cut[1:]]
    inner_raster = Raster(
        raster.x_cm + columns[0] * raster.pixel_cm,
        raster.y_cm + rows[0] * raster.pixel_cm,
        raster.pixel_cm,
        len(columns),
        len(rows),
    )
    nothing = np.zeros_like(maps.electron)
    field = Shots(
        shots.gantry_deg,
        shots.collimator_deg,
        shots.couch_deg,
        shots.meterset_mu,
        FluenceMaps(inner, inner_raster, nothing, maps.electron_raster),
    )
    # shots of a bin whose collimators agree are added up
    key = np.stack([_bins(shots, step_deg), np.round(shots.collimator_deg)], axis=1)
    same = np.unique(key, axis=0, return_inverse=True)[1].reshape(-1)
    count = int(same.max()) + 1
    mu = np.bincount(same, shots.meterset_mu, count).astype(float)

    def mean(angle: Array) -> Array:
        sums: Array = np.bincount(same, shots.meterset_mu * angle, count) / mu
        return sums

    coarse, coarse_raster = _coarser(_summed([maps.photon], same, count) * (1 - weight), raster)
    electron = _summed([maps.electron], same, count)
    halo = Shots(
        mean(shots.gantry_deg),
        mean(shots.collimator_deg),
        mean(shots.couch_deg),
        mu,
        FluenceMaps(coarse, coarse_raster, electron, maps.electron_raster),
    )
    return field, halo


def _ramp(inside: NDArray[np.bool_], pixel_cm: float) -> Array:
    """1 over the extent of `inside`, falling linearly to 0 outside."""
    at = np.flatnonzero(inside)
    index = np.arange(len(inside))
    distance = np.maximum(np.maximum(at[0] - index, index - at[-1]), 0) * pixel_cm
    share: Array = np.clip(1.0 - distance / HALO_RAMP_CM, 0.0, 1.0)
    return share


def _coarser(photon: NDArray[np.float32], raster: Raster) -> tuple[NDArray[np.float32], Raster]:
    """Mean over squares of pixels; the last ones are filled up with zeros."""
    n = HALO_BINNING
    pad = [(0, 0), (0, -photon.shape[1] % n), (0, -photon.shape[2] % n)]
    full = np.pad(photon, pad)
    shape = (len(full), full.shape[1] // n, n, full.shape[2] // n, n)
    mean = full.reshape(shape).mean(axis=(2, 4), dtype=np.float32)
    shift = 0.5 * (n - 1) * raster.pixel_cm
    # one pixel of zeros around, so that interpolation reaches the edge
    mean = np.pad(mean, [(0, 0), (1, 1), (1, 1)])
    pixel = n * raster.pixel_cm
    return mean, Raster(raster.x_cm + shift - pixel, raster.y_cm + shift - pixel, pixel, mean.shape[2], mean.shape[1])


def collimator_rotations(
    gantry_deg: Array, collimator_deg: Array, couch_deg: Array, patient_position: str, turn: Array | None = None
) -> Array:
    """Rotations from patient to collimator system at n sets of angles, shape (n, 3, 3); `turn` as in geometry."""
    rotations: Array = collimator_from_gantry(collimator_deg) @ gantry_from_patient(
        patient_position, couch_deg, gantry_deg, turn
    )
    return rotations


def voxel_axes(rotations: Array, spacing_cm: tuple[float, float, float]) -> Array:
    """Edges of a voxel projected along the beam axis: shape (n, 3, 2) = segment, edge (x, y, z), collimator (x, y)
    [cm]."""
    edges: Array = np.swapaxes(rotations[:, :2, :] * np.asarray(spacing_cm), 1, 2)
    return edges


@dataclass(frozen=True, slots=True)
class Window:
    """The part of the isocentre plane, in the gantry system, that a beam reaches: u_low..u_high, v_low..v_high [cm]."""

    u_low: float
    u_high: float
    v_low: float
    v_high: float

    def within(self, other: Window) -> Window:
        """The part that lies in another window; without extent when there is none."""
        u_low, v_low = max(self.u_low, other.u_low), max(self.v_low, other.v_low)
        u_high, v_high = min(self.u_high, other.u_high), min(self.v_high, other.v_high)
        return Window(u_low, max(u_low, u_high), v_low, max(v_low, v_high))


def _shadow(grid: Grid, rotation: Array, isocentre_cm: Array, sad_cm: float) -> Window:
    """What a grid covers of the isocentre plane, seen from any of the sources."""
    u, v, z = np.moveaxis((corners(grid) - isocentre_cm) @ rotation.transpose(0, 2, 1), -1, 0)
    scale = sad_cm / (sad_cm - z)
    return Window(*(float(f(w * scale)) for w in (u, v) for f in (np.min, np.max)))


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
        Gantry z of the first plane, above the grid that doses are computed on [cm].
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

    def above(self, matter: Grid, step_cm: float) -> Fans:
        """The same rays from the top of a larger grid down to the first plane of these fans, which is their last."""
        height = ((corners(matter) - self.isocentre_cm) @ self.rotation[:, 2, :].T).max(axis=0)
        steps = max(int(np.ceil((height + 1e-3 - self.top_cm).max() / step_cm)), 0)
        return replace(self, top_cm=self.top_cm + steps * step_cm, step_cm=step_cm, nz=steps + 1)

    @property
    def bytes_per_fan(self) -> int:
        """Memory of one fan as float32."""
        return 4 * self.nu * self.nv * self.nz


def corners(grid: Grid) -> Array:
    """The eight outer corners of a grid, shape (8, 3) as (x, y, z) [cm]."""
    low, high = grid.lower_cm, grid.upper_cm
    return np.array([[(low, high)[i >> a & 1][a] for a in range(3)] for i in range(8)])


def make_fans(
    grid: Grid, rotation: Array, isocentre_cm: Array, sad_cm: float, reach: Window, pitch_cm: float, step_cm: float
) -> Fans:
    """Fans over the part of the grid that a beam reaches."""
    height = (corners(grid) - isocentre_cm) @ rotation[:, 2, :].T
    top, bottom = height.max(axis=0) + 1e-3, height.min(axis=0)
    nz = int(np.ceil((top - bottom).max() / step_cm)) + 2
    nu = int(np.ceil((reach.u_high - reach.u_low) / pitch_cm)) + 2
    nv = int(np.ceil((reach.v_high - reach.v_low) / pitch_cm)) + 2
    return Fans(
        rotation, np.asarray(isocentre_cm, float), sad_cm, reach.u_low - 0.25 * pitch_cm,
        reach.v_low - 0.25 * pitch_cm, pitch_cm, nu, nv, top, step_cm, nz,
    )  # fmt: skip


def reached_box(grid: Grid, fans: Fans, reach: Window) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Smallest index box (low, high), (z, y, x), of the voxels that any group can reach; empty if none."""
    height = (corners(grid) - fans.isocentre_cm) @ fans.rotation[:, 2, :].T
    z = np.stack([height.max(axis=0), height.min(axis=0)], axis=1)[:, :, None]
    scale = np.maximum(fans.sad_cm - z, 0.0) / fans.sad_cm
    sides = np.array([[u, v] for u in (reach.u_low, reach.u_high) for v in (reach.v_low, reach.v_high)])
    there = np.empty((len(z), 2, 4, 3))  # group, highest and lowest plane, corner of the window, gantry (x, y, z)
    there[..., :2], there[..., 2] = sides * scale[..., None], z
    points = there.reshape(len(z), 8, 3) @ fans.rotation + fans.isocentre_cm
    low, high = points.min(axis=(0, 1)), points.max(axis=(0, 1))
    first = np.clip(np.floor(grid.indices_of(low) + 0.5), 0, grid.shape).astype(int)
    last = np.clip(np.ceil(grid.indices_of(high) + 0.5), 0, grid.shape).astype(int)
    last = np.maximum(last, first)
    return tuple(map(int, first)), tuple(map(int, last))  # type: ignore[return-value]


@dataclass(frozen=True, slots=True, eq=False)
class Attenuation:
    """How a beam is attenuated in water, as the TERMA stage looks it up.

    Parameters
    ----------
    terma : ndarray float32, shape (m, s, d, S)
        TERMA per unit energy fluence [cm^2/g], and the weights of the cone table's other parts (docs/theory/cones.md,
        equation 4), against material, softening and depth.
    depth_step_cm : float
        Step of the table in depth [cm].
    soft_row : ndarray float32, shape (r,)
        Row of `terma` (fractional) at each off-axis radius.
    radius_step_cm : float
        Step of `soft_row` [cm].
    electron_decay_per_cm : float
        Attenuation of contaminating electrons [1/cm].
    path_factor : ndarray float32, shape (m,)
        Water-equivalent path of each material over its path times relative electron density.
    lost : ndarray float32, shape (m, L + 1)
        Share of the Legendre moments of electrons that each material takes away; shape (1, 1) when all is water.
    """

    terma: NDArray[np.float32]
    depth_step_cm: float
    soft_row: NDArray[np.float32]
    radius_step_cm: float
    electron_decay_per_cm: float
    path_factor: NDArray[np.float32]
    lost: NDArray[np.float32]


def beam_tables(
    spectrum: SpectrumLike,
    softening_radius_cm: Array,
    softening: Array,
    electron_decay_per_cm: float,
    *,
    media: Sequence[Material] = (),
    softest: float = 1.0,
    depth_cm: float = 80.0,
) -> tuple[Attenuation, ConeTable]:
    """Tables of a beam in water and other media, which belong together; arguments as in `attenuation`."""
    table = attenuation(
        spectrum, softening_radius_cm, softening, electron_decay_per_cm,
        media=media, softest=softest, depth_cm=depth_cm,
    )  # fmt: skip
    cones = cone_table(spectrum, softest=softest)
    if not media:
        return table, cones
    spread = electron_spread(media, mean_released_energy(spectrum))
    return replace(table, lost=spread.lost), cones.spreading(spread)


def attenuation(
    spectrum: SpectrumLike,
    softening_radius_cm: Array,
    softening: Array,
    electron_decay_per_cm: float,
    *,
    media: Sequence[MediumLike] = (),
    softest: float = 1.0,
    depth_cm: float = 80.0,
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
    media : sequence of MediumLike
        Materials beside water, in the order of their numbers, from 1.
    softest : float
        As in `cone_table`: above 1 the kernel's curvature in hardness counts.
    depth_cm : float
        Greatest water-equivalent depth [cm]; beyond it the last value counts.
    """
    low, high = float(softening.min()), float(softening.max())
    levels = np.unique(np.append(np.linspace(low, high, 1 if high - low < 1e-6 else 7), 1.0))
    table = terma_table(spectrum, levels, media=media, depth_cm=depth_cm)
    step = 0.25
    radius = np.arange(0.0, max(float(softening_radius_cm[-1]), 30.0) + 2 * step, step)
    row = np.interp(np.interp(radius, softening_radius_cm, softening), levels, np.arange(len(levels)))
    parts = [table.terma, table.hardness]
    if softest > 1:
        rim = surface_hardness(spectrum, softest)
        parts.append(table.hardness * (table.hardness - 1) / (rim * (rim - 1)))
    return Attenuation(
        np.ascontiguousarray(np.stack(parts, axis=-1), dtype=np.float32),
        float(table.depth_cm[1]),
        row.astype(np.float32),
        step,
        electron_decay_per_cm,
        table.path_factor.astype(np.float32),
        np.zeros((1, 1), np.float32),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Exposure:
    """Everything that the depth and TERMA stages need of shots around one isocentre.

    Shots are gathered in groups that share radiological depth and direction of travel.

    Parameters
    ----------
    fans : Fans
        One a group.
    reach : Window
        Part of the isocentre plane outside of which the fluence is zero.
    first : ndarray of int, shape (g + 1,)
        Shots of each group.
    shot_rotation : ndarray, shape (n, 3, 3)
        Patient to collimator system of each shot.
    maps : FluenceMaps
        Fluence of each shot.
    attenuation : Attenuation
        Of the beam.
    approach : Fans or None
        Where the grid is a part of a larger one: the rays from the top of all matter to the first planes of `fans`.
    """

    fans: Fans
    reach: Window
    first: NDArray[np.int64]
    shot_rotation: Array
    maps: FluenceMaps
    attenuation: Attenuation
    approach: Fans | None = None

    def __len__(self) -> int:
        return len(self.fans.rotation)


def make_exposure(
    shots: Shots,
    *,
    grid: Grid,
    patient_position: str,
    isocentre_cm: Array,
    sad_cm: float,
    attenuation: Attenuation,
    group_step_deg: float,
    turn: Array | None = None,
    matter: Grid | None = None,
) -> Exposure:
    """Put together an exposure; fans get rays and planes at the spacing of the voxels.

    Parameters
    ----------
    shots : Shots
        Around one isocentre.
    grid : Grid
        Calculation grid.
    patient_position : str
        HFS, HFP, FFS or FFP.
    isocentre_cm : ndarray, shape (3,)
        Isocentre (x, y, z) [cm].
    sad_cm : float
        Source to isocentre [cm].
    attenuation : Attenuation
        Of the beam.
    group_step_deg : float
        Width of the angular bins of groups [degrees].
    turn : ndarray, shape (3, 3), optional
        How the patient is turned on the table, in the table system (`Setup.turn`).
    matter : Grid, optional
        Grid of all matter that the beams cross, if the calculation grid is but a part of it.
    """
    number = _bins(shots, group_step_deg)
    sorting = np.argsort(number, kind="stable")
    number = number[sorting]
    maps = shots.maps
    if np.any(np.diff(sorting) != 1):
        order = _beside(maps.photon, sorting)
        maps = FluenceMaps(maps.photon[order], maps.raster, maps.electron[order], maps.electron_raster)
    shots = Shots(
        shots.gantry_deg[sorting],
        shots.collimator_deg[sorting],
        shots.couch_deg[sorting],
        shots.meterset_mu[sorting],
        maps,
    )
    groups = int(number[-1]) + 1
    first = np.searchsorted(number, np.arange(groups + 1))
    mu = np.bincount(number, shots.meterset_mu, groups)
    gantry, couch = (
        np.bincount(number, shots.meterset_mu * angle, groups) / mu for angle in (shots.gantry_deg, shots.couch_deg)
    )
    raster = maps.raster
    corner = np.array([[x, y] for x in raster.xs_cm[[0, -1]] for y in raster.ys_cm[[0, -1]]])
    reach = window(corner, shots.collimator_deg)
    rotation = gantry_from_patient(patient_position, couch, gantry, turn)
    spacing = min(grid.spacing_cm)
    if matter is not None:
        reach = _shadow(grid, rotation, isocentre_cm, sad_cm).within(reach)
    fans = make_fans(grid, rotation, isocentre_cm, sad_cm, reach, pitch_cm=spacing, step_cm=spacing)
    return Exposure(
        fans=fans,
        reach=reach,
        first=first.astype(np.int64),
        shot_rotation=collimator_rotations(
            shots.gantry_deg, shots.collimator_deg, shots.couch_deg, patient_position, turn
        ),
        maps=maps,
        attenuation=attenuation,
        approach=None if matter is None else fans.above(matter, min(matter.spacing_cm)),
    )
