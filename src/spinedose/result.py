"""What a calculation returns: the dose, and everything one must know to trust or repeat it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spinedose._arguments import PATH, expect, listed
from spinedose._files import expect_replaceable
from spinedose.compare.metrics import without_nan
from spinedose.density import CtImage
from spinedose.errors import InvalidInput
from spinedose.fingerprint import file_digest, fingerprint
from spinedose.grid import Grid, Volume
from spinedose.missing_matter import Missing
from spinedose.plan import Beam, Plan
from spinedose.structures import StructureSet

SCHEMA_VERSION = 1
"""Version of the JSON of a dose (docs/formats/dose.md); it changes when a reader of the old form would be misled or
would fail."""

DISCLAIMER = "Not a medical device. Not for clinical use without local commissioning."


DOSE_QUANTITY = {
    "water": "dose to a water-like medium of the local electron density",
    "medium": "dose to the local medium",
}
"""What a dose may be a dose to (docs/theory/heterogeneity.md)."""

IN_SHORT = {
    DOSE_QUANTITY["water"]: "dose to water-like medium",
    DOSE_QUANTITY["medium"]: "dose to medium",
}
"""The same in few words, for the comment and the series description of an RTDOSE (64 characters each)."""


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
    missing : tuple of Missing
        Matter that the calculation lacks, with codes; its texts are among the warnings, and it is not written to JSON.
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
    missing: tuple[Missing, ...] = ()
    disclaimer: str = DISCLAIMER

    def as_dict(self) -> dict[str, Any]:
        """Plain types only, ready for JSON."""
        near = {
            "saturated_near": [{"structure": name, "distance_cm": cm} for name, cm in self.saturated_near],
            "dense_near": [{"matter": m, "structure": name, "distance_cm": cm} for m, name, cm in self.dense_near],
        }
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self) | near))
        del plain["missing"]
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
    structures : StructureSet or None
        With what body outline and density overrides.
    beam_models : mapping of int to str
        What stands for the linac, `machine/energy`, by beam number.
    """

    volume: Volume
    metadata: ResultInfo
    plan: Plan | None = None
    ct: CtImage | None = None
    beams: Mapping[int, Volume] = field(default_factory=dict)
    structures: StructureSet | None = None
    beam_models: Mapping[int, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        of = f" of '{self.plan.label}'" if self.plan is not None else ""
        maximum, _ = self.maximum
        return f"<Dose{of}, {self.fractions} fraction(s): {self.grid.in_words}, maximum {maximum:.4g} Gy>"

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

    @property
    def maximum(self) -> tuple[float, tuple[float, float, float]]:
        """The highest dose [Gy], and the centre (x, y, z) of its voxel [cm], DICOM LPS."""
        z, y, x = np.unravel_index(int(np.argmax(self.values)), self.values.shape)
        xs, ys, zs = self.grid.axes_cm
        return float(self.values[z, y, x]), (float(xs[x]), float(ys[y]), float(zs[z]))

    def sample(self, points_cm: ArrayLike) -> NDArray[np.float64]:
        """Dose [Gy] at points (x, y, z) [cm], DICOM LPS, shape (..., 3); not a number outside the grid."""
        return self.volume.sample(points_cm)

    def as_dict(self, files: Iterable[str | Path] = ()) -> dict[str, Any]:
        """What was computed, from what and how; plain types only (docs/formats/dose.md, dose.schema.json).

        Parameters
        ----------
        files : iterable of path
            Where the dose was saved: their UIDs and hashes go along.

        Returns
        -------
        dict
            No dose but its maximum, and no name of a patient. Hashing the CT takes a second or so.
        """
        saved = listed("The files that the dose was saved as", files, PATH, "paths", "Name them in a list")
        maximum_gy, point_cm = self.maximum
        content = {
            "schema_version": SCHEMA_VERSION,
            **self.metadata.as_dict(),
            "inputs": self._inputs(),
            "fractions": self.fractions,
            "beams": [self._beam(beam) for beam in self.plan.beams] if self.plan is not None else [],
            "grid": asdict(self.grid),
            "maximum": {"dose_gy": maximum_gy, "point_cm": point_cm},
            "output": [_saved(Path(file)) for file in saved],
        }
        plain: dict[str, Any] = json.loads(json.dumps(without_nan(content)))
        return plain

    def to_json(self, files: Iterable[str | Path] = ()) -> str:
        """`as_dict` as text."""
        return json.dumps(self.as_dict(files), indent=2, ensure_ascii=False)

    def _inputs(self) -> dict[str, Any]:
        """What it was computed from: UIDs as the files have them, and hashes of contents as in `study.json`."""
        plan, ct, drawn = self.plan, self.ct, self.structures
        return {
            "plan_label": plan.label if plan is not None else "",
            "patient_position": plan.patient_position if plan is not None else "",
            "plan_uid": plan.uid if plan is not None else "",
            "ct_uid": ct.uid if ct is not None else "",
            "structure_set_uid": drawn.uid if drawn is not None else "",
            "frame_of_reference_uid": (plan.frame_of_reference_uid if plan is not None else "")
            or (ct.frame_of_reference_uid if ct is not None else ""),
            "plan_hash": None if plan is None else fingerprint(plan),
            "ct_hash": None if ct is None else fingerprint(ct),
            "structures_hash": None if drawn is None else fingerprint(drawn),
        }

    def _beam(self, beam: Beam) -> dict[str, Any]:
        return {
            "number": beam.number,
            "name": beam.name,
            "machine": beam.machine,
            "energy": beam.energy,
            "beam_model": self.beam_models.get(beam.number, ""),
            "meterset_mu": beam.meterset_mu,
        }

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the plan's dose as DICOM RTDOSE; the file appears whole or not at all.

        Parameters
        ----------
        path : path
            The file. A dose that spinedose wrote of the same plan is replaced.
        overwrite : bool
            Replace any other file, too; otherwise that is refused.

        Returns
        -------
        Path
            The file.

        Raises
        ------
        InvalidInput
            If another file is there, or it cannot be written.
        """
        return self._write(path, self.volume, None, overwrite)

    def save_beams(self, folder: str | Path, *, overwrite: bool = False) -> tuple[Path, ...]:
        """Write one RTDOSE a beam into a folder, `RD_beam_<number>.dcm`; needs `per_beam=True` in the calculation.

        The folder is made if it is not there. `overwrite` is as in `save`.
        """
        expect("The folder for the beams", folder, PATH, "a path")
        if not self.beams:
            raise InvalidInput("There is no dose per beam", "it was not asked for", "Compute", argument="per_beam=True")
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidInput(f"The folder '{folder}' cannot be used", str(error.strerror or error)) from error
        return tuple(
            self._write(folder / f"RD_beam_{number}.dcm", volume, number, overwrite)
            for number, volume in self.beams.items()
        )

    def _write(self, path: str | Path, volume: Volume, beam_number: int | None, overwrite: bool) -> Path:
        from spinedose.dicom.dose import own_dose, write_dose

        expect("The file for the dose", path, PATH, "a path")
        path = Path(path)
        expect_replaceable(path)
        if self.plan is None:
            raise InvalidInput("The dose belongs to no plan", "a DICOM dose refers to one", "Use its `volume`")
        if path.exists() and not overwrite:
            own = own_dose(path)
            if own is None or own.plan_uid != self.plan.uid or own.beam_number != beam_number:
                what = "is no dose of spinedose" if own is None else "is the dose of another plan or beam"
                advice = "Choose another name, or allow to overwrite"
                raise InvalidInput(f"'{path}' is there, and {what}", "it would be lost", advice)
        quantity = IN_SHORT.get(self.metadata.dose_quantity, "")
        beam = "" if beam_number is None else f"beam {beam_number}"
        return write_dose(
            path,
            volume,
            plan=self.plan,
            ct=self.ct,
            beam_number=beam_number,
            summation="PLAN" if beam_number is None else "BEAM",
            description=", ".join(text for text in ("spinedose", quantity, beam) if text),
            comment=quantity,
            software_version=self.metadata.version,
        )


def _saved(path: Path) -> dict[str, Any]:
    """A file that the dose was saved as."""
    from spinedose.dicom.dose import own_dose

    own = own_dose(path)
    if own is None:
        raise InvalidInput(f"'{path}' is no dose that spinedose wrote", "it cannot be named as saved", "Save it first")
    return {"file": path.name, **asdict(own), "sha256": file_digest(path)}
