"""Which part of a patient is made of which material: by structure, or by CT number with growth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spinedose._arguments import expect, expect_number
from spinedose.errors import InvalidInput
from spinedose.materials import Material, material

MOST_GROWTH_CM = 1.0
"""Blooming of metal in a CT is a few millimetres; more is a slip of units."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """A named material at its nominal density in a structure, or wherever the CT number is above a threshold.

    Parameters
    ----------
    material : str
        Name of the material (`spinedose.materials.list_materials`).
    structure : str
        Name of the structure; empty where a threshold decides.
    above_hu : float or None
        Threshold [HU]: voxels inside the body with a higher CT number are taken. None where a structure decides.
    grow_cm : float
        The region's surface is moved outwards by this much [cm], in whole CT voxels; negative shrinks it. Metal looks
        larger in a CT than it is, so thresholds are often shrunk; what that takes off becomes water.
    """

    material: str
    structure: str = ""
    above_hu: float | None = None
    grow_cm: float = 0.0

    def __post_init__(self) -> None:
        expect("The material", self.material, str, "a name", "list_materials() tells which there are")
        expect("The structure of a material", self.structure, str, "a name")
        expect_number("The growth of a region", self.grow_cm, "cm")
        if self.above_hu is not None:
            expect_number("The CT number of a material", self.above_hu, "HU")
        made_of = material(self.material)
        if bool(self.structure) == (self.above_hu is not None):
            raise InvalidInput(
                f"The material '{self.material}' needs a structure or a CT number above which it counts",
                "both were given" if self.structure else "neither was given",
                "Give one of them",
            )
        if self.above_hu is not None and not (np.isfinite(self.above_hu) and self.above_hu > 0):
            raise InvalidInput(
                f"'{made_of.name}' was asked for above {self.above_hu:g} HU",
                "that would be most of the patient",
                "Metal is above 2000 HU",
            )
        if not abs(self.grow_cm) <= MOST_GROWTH_CM:
            raise InvalidInput(
                f"The region of '{made_of.name}' was asked to grow by {10 * self.grow_cm:g} mm",
                f"at most {10 * MOST_GROWTH_CM:g} mm make sense",
            )

    @property
    def made_of(self) -> Material:
        """The material."""
        return material(self.material)

    @property
    def region(self) -> str:
        """The region in words: the structure's name, or `"> 2500 HU"`."""
        return self.structure or f"> {self.above_hu:g} HU"

    @property
    def densities(self) -> tuple[float, float]:
        """Nominal mass density [g/cm^3] and relative electron density."""
        mass = self.made_of.mass_density_g_cm3
        return mass, mass * self.made_of.electrons_per_gram


def grown(region: NDArray[np.bool_], spacing_cm: tuple[float, float, float], grow_cm: float) -> NDArray[np.bool_]:
    """A region with its surface moved.

    Parameters
    ----------
    region : ndarray of bool, shape (nz, ny, nx)
        The voxels; none of them at the rim of the array if it is to grow.
    spacing_cm : tuple of 3 floats
        Voxel size (dx, dy, dz) [cm].
    grow_cm : float
        Outwards [cm]; negative shrinks.

    Returns
    -------
    ndarray of bool, shape (nz, ny, nx)
        Voxels whose centres lie inside the moved surface. The surface runs half a voxel, by the shortest side, outside
        the outermost centres.
    """
    from scipy.ndimage import distance_transform_edt

    if not grow_cm or not region.any():
        return region
    half = min(spacing_cm) / 2
    tiny = 1e-6
    if grow_cm > 0:
        return np.asarray(distance_transform_edt(~region, sampling=spacing_cm[::-1]) <= grow_cm + half + tiny)
    return np.asarray(distance_transform_edt(np.pad(region, 1), sampling=spacing_cm[::-1]) > half - grow_cm - tiny)[
        1:-1, 1:-1, 1:-1
    ]
