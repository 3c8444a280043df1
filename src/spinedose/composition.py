"""Which material each calculation voxel is made of, gathered slice by slice of the CT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spinedose.grid import Grid
from spinedose.materials import Material, bone_mix, material
from spinedose.patches import METAL_G_CM3, Part, Patch

BONE_STEPS = 8
"""Shares of cortical bone in which tissue is sorted; half a step changes attenuation at 1 MeV by less than 0.05 %."""

BONE_FROM_G_CM3 = 1.05
"""No bone in what is lighter: muscle has 1.05 g/cm3 (ICRU Report 44)."""

METALS = ("titanium", "cobalt-chrome")
"""What `metal_by_density` knows."""


def bone_share(mass: ArrayLike, electron: ArrayLike) -> NDArray[np.float32]:
    """Share of cortical bone in the mass of tissue, from its electrons per gram.

    Soft tissue (muscle) has more electrons per gram than cortical bone; in between they mix by mass.

    Parameters
    ----------
    mass, electron : array_like, same shape
        Mass density [g/cm^3] and relative electron density.

    Returns
    -------
    ndarray float32, that shape
        0 to 1; 0 below `BONE_FROM_G_CM3`.
    """
    rho, rho_e = np.asarray(mass, dtype=np.float32), np.asarray(electron, dtype=np.float32)
    soft, bone = bone_mix(0.0).electrons_per_gram, bone_mix(1.0).electrons_per_gram
    share = np.zeros(rho.shape, dtype=np.float32)
    dense = rho > BONE_FROM_G_CM3
    share[dense] = np.clip((soft - rho_e[dense] / rho[dense]) / (soft - bone), 0.0, 1.0)
    return share


class Composition:
    """Electrons of bone and of named materials on the calculation grid, until it is known which material wins.

    Parameters
    ----------
    grid : Grid
        The calculation grid.
    parts : mapping of str to tuple of 3 slices
        Named materials, and the box of calculation voxels that each may reach.
    """

    __slots__ = ("_bone", "_named", "_parts")

    def __init__(self, grid: Grid, parts: Mapping[str, Part]) -> None:
        self._bone = np.zeros(grid.shape, dtype=np.float32)
        self._parts = dict(parts)
        self._named = {
            name: np.zeros([max(cut.stop - cut.start, 0) for cut in part], dtype=np.float32)
            for name, part in parts.items()
        }

    def add(
        self,
        target: int,
        weight: float,
        bone: NDArray[np.float32],
        named: Mapping[str, NDArray[np.float32]],
    ) -> None:
        """Add a share of a CT slice to a slice of the calculation grid.

        Parameters
        ----------
        target : int
            Index of the slice.
        weight : float
            Share of its thickness that the CT slice fills.
        bone : ndarray, shape (ny, nx)
            Relative electron density of bone in it, on the calculation grid.
        named : mapping of str to ndarray, shape (ny, nx)
            That of named materials; those that have none in the slice may be left out.
        """
        self._bone[target] += weight * bone
        for name, plane in named.items():
            z, y, x = self._parts[name]
            if z.start <= target < z.stop:
                self._named[name][target - z.start] += weight * plane[y, x]

    def materials(self, electron: NDArray[np.float32]) -> tuple[NDArray[np.uint8], tuple[Material, ...]]:
        """The material of each voxel: that which holds most of its electrons; soft tissue and bone count as one, mixed.

        Parameters
        ----------
        electron : ndarray, shape (nz, ny, nx)
            Relative electron density of everything.

        Returns
        -------
        number : ndarray uint8, shape (nz, ny, nx)
            Place in the list.
        materials : tuple of Material
            Water, then the mixtures with bone from the least to the most, then named materials; only what is used.
        """
        tissue = np.array(electron, dtype=np.float32)
        for name, part in self._parts.items():
            tissue[part] -= self._named[name]
        share = np.divide(self._bone, tissue, out=np.zeros_like(tissue), where=tissue > 1e-3)
        number = np.rint(BONE_STEPS * np.clip(share, 0.0, 1.0)).astype(np.uint8)
        most = tissue
        for place, (name, part) in enumerate(self._parts.items(), start=BONE_STEPS + 1):
            wins = self._named[name] > np.maximum(most[part], 0.0)
            number[part][wins] = place
            most[part][wins] = self._named[name][wins]
        every = ["water", *(f"bone {k}" for k in range(1, BONE_STEPS + 1)), *self._parts]
        used = np.bincount(number.ravel(), minlength=len(every)) > 0
        used[0] = True
        place_of = (np.cumsum(used) - 1).astype(np.uint8)
        bones = [bone_mix(k / BONE_STEPS) for k in range(1, BONE_STEPS + 1) if used[k]]
        named = [material(name) for place, name in enumerate(self._parts, start=BONE_STEPS + 1) if used[place]]
        return place_of[number], (material("water"), *bones, *named)


def named_parts(patches: Sequence[Patch], source: Grid, target: Grid, densest_g_cm3: float) -> dict[str, Part]:
    """Named materials, and the box of calculation voxels that each may reach.

    Parameters
    ----------
    patches : sequence of Patch
        Regions with materials.
    source, target : Grid
        Grids of the CT and of the calculation.
    densest_g_cm3 : float
        Mass density at the end of the density curve; a curve that goes on into metal gives metal anywhere.
    """
    whole = slice(0, target.shape[0]), slice(0, target.shape[1]), slice(0, target.shape[2])
    if densest_g_cm3 > METAL_G_CM3:
        return dict.fromkeys([*METALS, *(patch.material for patch in patches if patch.material)], whole)
    found: dict[str, Part] = {}
    for patch in patches:
        if patch.material:
            part = _on(target, source, patch.part)
            found[patch.material] = _around(found.get(patch.material, part), part)
    return found


def _on(target: Grid, source: Grid, part: Part) -> Part:
    """The voxels of one grid that a box of voxels of another touches."""
    box = source.lower_cm, np.array(source.spacing_cm)
    low, high = (np.array([getattr(cut, end) for cut in part[::-1]]) * box[1] + box[0] for end in ("start", "stop"))
    first = np.clip(np.floor(target.indices_of(low) + 0.5), 0, target.shape).astype(int)
    last = np.clip(np.ceil(target.indices_of(high) + 0.5), 0, target.shape).astype(int)
    z, y, x = (slice(int(a), max(int(a), int(b))) for a, b in zip(first, last, strict=True))
    return z, y, x


def _around(one: Part, other: Part) -> Part:
    """The box around two boxes."""
    z, y, x = (slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(one, other, strict=True))
    return z, y, x
