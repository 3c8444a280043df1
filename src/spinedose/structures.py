"""Structures: named regions drawn as planar contours, with the material that a planner assigned to them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from spinedose.errors import InvalidInput


@dataclass(frozen=True, slots=True, eq=False)
class Structure:
    """One region of interest.

    Parameters
    ----------
    number : int
        ROI number.
    name : str
        ROI name.
    type : str
        RT ROI interpreted type (EXTERNAL, PTV, ORGAN, SUPPORT, ...), empty when absent.
    contours_cm : tuple of ndarray, shape (k, 3)
        Closed planar contours, all in planes of constant z (x, y, z) [cm], DICOM LPS.
    relative_mass_density, relative_electron_density : float or None
        Override of the whole region, relative to water.
    color : tuple of 3 ints
        Display colour, 0-255.
    """

    number: int
    name: str
    type: str = ""
    contours_cm: tuple[NDArray[np.float64], ...] = ()
    relative_mass_density: float | None = None
    relative_electron_density: float | None = None
    color: tuple[int, int, int] = (255, 0, 0)

    def __post_init__(self) -> None:
        for contour in self.contours_cm:
            if contour.ndim != 2 or contour.shape[1] != 3 or len(contour) < 3:
                raise InvalidInput(f"Structure '{self.name}' has a contour of shape {contour.shape}", "a contour is (k, 3)")
            if not np.all(np.isfinite(contour)):
                raise InvalidInput(f"Structure '{self.name}' has a contour point that is not a number")
        for density in (self.relative_mass_density, self.relative_electron_density):
            if density is not None and not 0 <= density < 25:
                raise InvalidInput(f"Structure '{self.name}' overrides the density with {density}", "that is no material")


@dataclass(frozen=True, slots=True, eq=False)
class StructureSet:
    """All structures of a patient in one frame of reference."""

    structures: tuple[Structure, ...]
    label: str = ""
    uid: str = ""
    frame_of_reference_uid: str = ""
    warnings: tuple[str, ...] = field(default=())

    def __getitem__(self, name: str) -> Structure:
        """The structure of this name; exact match."""
        for structure in self.structures:
            if structure.name == name:
                return structure
        known = ", ".join(s.name for s in self.structures)
        raise InvalidInput(f"There is no structure '{name}'", f"the set has: {known}")
