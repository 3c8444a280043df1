"""What a calculation returns: the dose, and everything one must know to trust or repeat it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spinedose.density import CtImage
from spinedose.errors import InvalidInput
from spinedose.grid import Grid, Volume
from spinedose.plan import Plan

DISCLAIMER = "Not a medical device. Not for clinical use without local commissioning."


DOSE_QUANTITY = {
    "water": "dose to a water-like medium of the local electron density",
    "medium": "dose to the local medium",
}
"""What a dose may be a dose to (docs/theory/heterogeneity.md)."""


@dataclass(frozen=True, slots=True)
class ResultInfo:
    """Where a dose comes from.

    Parameters
    ----------
    version : str
        Version of spinedose.
    backend, device : str
        What computed it.
    machines : tuple of str
        Beam models used, as `machine/energy`.
    beam_data_hash : str
        SHA-256 over the machines' files.
    density_curve, body : str
        HU curve, and how the body was found.
    settings : mapping
        All settings, with defaults resolved (`directions` is the number used).
    calibration_gy_per_mu : mapping of str to float
        Engine dose per MU in each beam model's reference geometry, before calibration: the factor's other half.
    warnings : tuple of str
        What the reader must know.
    timings_s : mapping of str to float
        Wall time per stage [s].
    dose_quantity : str
        What the dose is a dose to.
    saturated_near : tuple of (str, float)
        Targets and cords near CT numbers without a density, and their distance [cm], the nearest first.
    dense_near : tuple of (str, str, float)
        `"metal"` or `"dense bone"`, the cord beside which it lies, and their distance [cm].
    """

    version: str
    backend: str
    device: str
    machines: tuple[str, ...] = ()
    beam_data_hash: str = ""
    density_curve: str = ""
    body: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    calibration_gy_per_mu: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    timings_s: Mapping[str, float] = field(default_factory=dict)
    dose_quantity: str = DOSE_QUANTITY["water"]
    saturated_near: tuple[tuple[str, float], ...] = ()
    dense_near: tuple[tuple[str, str, float], ...] = ()
    disclaimer: str = DISCLAIMER

    def as_dict(self) -> dict[str, Any]:
        """Plain types only, ready for JSON."""
        near = {
            "saturated_near": [{"structure": name, "distance_cm": cm} for name, cm in self.saturated_near],
            "dense_near": [{"matter": m, "structure": name, "distance_cm": cm} for m, name, cm in self.dense_near],
        }
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self) | near))
        return plain


@dataclass(frozen=True, slots=True, eq=False)
class Dose:
    """Absorbed dose of a whole plan, all fractions together.

    Parameters
    ----------
    volume : Volume
        Dose [Gy], float32.
    metadata : ResultInfo
        Where it comes from.
    plan : Plan or None
        What was computed; an ideal field has none.
    ct : CtImage or None
        On what.
    beams : mapping of int to Volume
        Dose of each beam [Gy] by beam number, all fractions; empty unless asked for.
    """

    volume: Volume
    metadata: ResultInfo
    plan: Plan | None = None
    ct: CtImage | None = None
    beams: Mapping[int, Volume] = field(default_factory=dict)

    @property
    def values(self) -> NDArray[np.float32]:
        """Dose [Gy], shape (nz, ny, nx), float32."""
        return self.volume.values

    @property
    def grid(self) -> Grid:
        """Where the voxels are."""
        return self.volume.grid

    @property
    def fractions(self) -> int:
        """Number of fractions that the dose is the sum of."""
        return self.plan.fractions if self.plan is not None else 1

    def sample(self, points_cm: ArrayLike) -> NDArray[np.float64]:
        """Dose [Gy] at points (x, y, z) [cm], DICOM LPS, shape (..., 3); not a number outside the grid."""
        return self.volume.sample(points_cm)

    def to_json(self) -> str:
        """The metadata as JSON text."""
        return json.dumps(self.metadata.as_dict(), indent=2)

    def save(self, path: str | Path) -> Path:
        """Write the plan's dose as DICOM RTDOSE; the file appears whole or not at all."""
        return self._write(Path(path), self.volume, None)

    def save_beams(self, folder: str | Path) -> tuple[Path, ...]:
        """Write one RTDOSE a beam into a folder, `RD_beam_<number>.dcm`; needs `per_beam=True` in the calculation."""
        if not self.beams:
            raise InvalidInput("There is no dose per beam", "it was not asked for", "Compute", argument="per_beam=True")
        return tuple(
            self._write(Path(folder) / f"RD_beam_{number}.dcm", volume, number) for number, volume in self.beams.items()
        )

    def _write(self, path: Path, volume: Volume, beam_number: int | None) -> Path:
        from spinedose.dicom.dose import write_dose

        if self.plan is None:
            raise InvalidInput("The dose belongs to no plan", "a DICOM dose refers to one", "Use its `volume`")
        write_dose(
            path,
            volume,
            plan=self.plan,
            ct=self.ct,
            beam_number=beam_number,
            summation="PLAN" if beam_number is None else "BEAM",
            software_version=self.metadata.version,
        )
        return path
