"""What decides between accuracy and time."""

from __future__ import annotations

from dataclasses import dataclass

from spinedose._arguments import PATH, expect, expect_number
from spinedose.errors import InvalidInput
from spinedose.grid import Grid
from spinedose.result import DOSE_QUANTITY


@dataclass(frozen=True, slots=True)
class Settings:
    """What decides between accuracy and time; defaults come from docs/theory/convergence.md.

    Parameters
    ----------
    directions : int or None
        Directions M of the transport. None: 1600 for a single static beam, fewer the more beam directions a plan has,
        `1600 / sqrt(n)`, but no fewer than 200, because their errors average.
    moments : int
        Highest degree L of the angular moments.
    segment_step_deg : float
        Largest turn of gantry, collimator or couch in one fluence segment [degrees].
    group_step_deg : float
        Width of the bins of gantry angle that share radiological depth and direction of travel [degrees].
    halo_step_deg : float
        Width of the bins in which leakage and head scatter are added up and taken at one angle [degrees].
    pixel_cm : float or None
        Pixel of the fluence maps at the isocentre plane [cm]; None: 1 mm, or 0.4 voxels if that is less.
    curve : str
        HU curve: a name or a TOML file.
    dose_to : str
        `"water"`: dose to a water-like medium, the energy over the mass of as many electrons' worth of water;
        `"medium"`: dose to the local medium, the energy over its mass (docs/theory/heterogeneity.md).
    """

    directions: int | None = None
    moments: int = 6
    segment_step_deg: float = 1.0
    group_step_deg: float = 4.0
    halo_step_deg: float = 12.0
    pixel_cm: float | None = None
    curve: str = "generic"
    dose_to: str = "water"

    def __post_init__(self) -> None:
        for name in ("curve", "dose_to"):
            expect(f"The setting {name}", getattr(self, name), PATH, "a name")
        for name in ("segment_step_deg", "group_step_deg", "halo_step_deg"):
            expect_number(f"The setting {name}", getattr(self, name), "degrees")
        if self.pixel_cm is not None:
            expect_number("The setting pixel_cm", self.pixel_cm, "cm")
        counts = {"moments": self.moments} | ({} if self.directions is None else {"directions": self.directions})
        for name, count in counts.items():
            expect_number(f"The setting {name}", count, "whole steps")
            if count % 1 != 0:
                raise InvalidInput(f"The setting {name} is {count}", "they are counted", "Give a whole number")
        if self.directions is not None and not 32 <= self.directions <= 20000:
            raise InvalidInput(f"{self.directions} directions were asked for", "32 to 20000 make sense")
        if not 0 <= self.moments <= 12:
            raise InvalidInput(f"Moments of order {self.moments} were asked for", "0 to 12 are possible")
        for name in ("segment_step_deg", "group_step_deg", "halo_step_deg"):
            if not 0 < getattr(self, name) <= 15:
                raise InvalidInput(f"{name} is {getattr(self, name)}", "a step lies between 0 and 15 degrees")
        if self.pixel_cm is not None and not 0.01 <= self.pixel_cm <= 0.1:
            raise InvalidInput(f"pixel_cm is {self.pixel_cm}", "pixels of 0.01 to 0.1 cm resolve leaves")
        if self.dose_to not in DOSE_QUANTITY:
            raise InvalidInput(f"Dose to '{self.dose_to}' is unknown", f"there are {', '.join(DOSE_QUANTITY)}")

    def pixel_on(self, grid: Grid) -> float:
        """Pixel of the fluence maps for a calculation grid [cm]."""
        return self.pixel_cm or min(0.1, 0.4 * min(grid.spacing_cm))


def prove_settings(settings: Settings | None) -> None:
    """Refuse what are no settings: a mapping, mostly."""
    if settings is not None:
        expect(
            "The choice of settings", settings, Settings, "a Settings", "Write Settings(directions=400) for instance"
        )
