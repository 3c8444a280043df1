"""Treatment machines and their beams: the geometry and the numbers of the fluence model, read from `beam_data/`.

Every distance along the beam is counted from the target [cm]; every size across the beam is at the isocentre plane
unless its name or text says otherwise. The format of the files is described in `beam_data/README.md`, the model that
the numbers belong to in `docs/theory/fluence.md`.
"""

from __future__ import annotations

import hashlib
import math
import sys
import tomllib
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spinedose._arguments import PATH, expect
from spinedose._resources import folder
from spinedose.errors import BeamDataError, InvalidInput, UnknownMachine
from spinedose.plan import Beam

Array = NDArray[np.float64]
Made = TypeVar("Made")

SCHEMA_VERSION = 1
"""Version of the machine and beam files that this module reads."""

MACHINES_KEPT = 32
"""Machines that are not made again while the content of their files stays as it is."""

BOUNDARY_TOLERANCE_CM = 0.01
"""Leaf boundaries of a plan must agree with the machine's within 0.1 mm: a tenth of the narrowest leaf would show."""


@dataclass(frozen=True, slots=True, eq=False)
class Spectrum:
    """Photon fluence spectrum on the central axis, free in air.

    Parameters
    ----------
    energy_MeV : ndarray, shape (n,)
        Photon energies, rising [MeV].
    weight : ndarray, shape (n,)
        Share of the photons (number, not energy) at each energy; sums to 1.
    """

    energy_MeV: Array
    weight: Array

    def __post_init__(self) -> None:
        _freeze(self, "energy_MeV", "weight")
        _prove(self.energy_MeV.ndim == 1 and len(self.energy_MeV) >= 1, "A spectrum has no energies")
        _prove(self.weight.shape == self.energy_MeV.shape, "A spectrum has not one weight for each energy")
        _prove(
            bool(np.all(self.energy_MeV > 0) and np.all(np.diff(self.energy_MeV) > 0)), "Spectrum energies do not rise"
        )
        _prove(bool(np.all(self.weight >= 0)), "A spectrum has negative weights")
        _prove(abs(float(self.weight.sum()) - 1) < 1e-6, "Spectrum weights do not sum to 1")

    @property
    def mean_energy_MeV(self) -> float:
        """Mean photon energy, weighted by photon number [MeV]."""
        return float(self.energy_MeV @ self.weight)


@dataclass(frozen=True, slots=True, eq=False)
class RadialTable:
    """A quantity that depends on the distance from the beam axis only; linear between its points.

    Parameters
    ----------
    radius_cm : ndarray, shape (n,)
        Distance from the axis at the isocentre plane, rising from 0 [cm].
    value : ndarray, shape (n,)
        The quantity, 1 on the axis, never negative. Beyond the last radius the last value counts.
    """

    radius_cm: Array
    value: Array

    def __post_init__(self) -> None:
        _freeze(self, "radius_cm", "value")
        _prove(self.radius_cm.ndim == 1 and len(self.radius_cm) >= 2, "A radial table has fewer than two points")
        _prove(self.value.shape == self.radius_cm.shape, "A radial table has not one value for each radius")
        _prove(
            self.radius_cm[0] == 0 and bool(np.all(np.diff(self.radius_cm) > 0)),
            "A radial table does not rise from radius 0",
        )
        _prove(abs(self.value[0] - 1) < 1e-9 and bool(np.all(self.value >= 0)), "A radial table is not 1 on the axis")

    def at(self, radius_cm: Any) -> Array:
        """Values at radii of any shape [cm]."""
        values: Array = np.interp(np.asarray(radius_cm, dtype=float), self.radius_cm, self.value)
        return values


@dataclass(frozen=True, slots=True)
class SpotComponent:
    """One Gaussian of the focal spot at the target.

    Parameters
    ----------
    weight : float
        Share of the photons; the components of a beam sum to 1.
    sigma_x_cm, sigma_y_cm : float
        Standard deviations along the spot's own axes [cm].
    rotation_deg : float
        Angle of the spot's x axis against the GANTRY's x axis, counterclockwise seen from the source [degrees]. The
        spot does not turn with the collimator.
    """

    weight: float
    sigma_x_cm: float
    sigma_y_cm: float
    rotation_deg: float = 0.0

    def __post_init__(self) -> None:
        _prove(0 < self.weight <= 1, "A spot component has a weight outside 0 to 1")
        _prove(0 <= self.sigma_x_cm < 1 and 0 <= self.sigma_y_cm < 1, "A spot sigma lies outside 0 to 1 cm")
        _prove(math.isfinite(self.rotation_deg), "A spot rotation is not a number")

    def covariance_cm2(self, collimator_deg: ArrayLike = 0.0) -> Array:
        """Covariance matrices of the spot in the collimator system, shape of the angles [degrees] and (2, 2) [cm^2]."""
        angle = np.radians(self.rotation_deg - np.asarray(collimator_deg, dtype=np.float64))
        c, s = np.cos(angle), np.sin(angle)
        turn = np.stack([np.stack([c, -s], axis=-1), np.stack([s, c], axis=-1)], axis=-2)
        covariance: Array = (turn * np.array([self.sigma_x_cm, self.sigma_y_cm]) ** 2) @ np.swapaxes(turn, -1, -2)
        return covariance


@dataclass(frozen=True, slots=True)
class ExtraFocal:
    """Photons scattered in the head: a round Gaussian source below the target.

    Parameters
    ----------
    distance_cm : float
        Distance of its plane from the target [cm].
    sigma_cm : float
        Its standard deviation in that plane, as seen from the axis [cm].
    weight : float
        Energy fluence on the axis when all of it is visible, relative to the primary there.
    scatter_angle_deg : float
        Standard deviation, in each of two directions, of the angle by which its photons were scattered [degrees];
        infinite when they leave every point alike in all directions.
    """

    distance_cm: float
    sigma_cm: float
    weight: float
    scatter_angle_deg: float = math.inf

    def __post_init__(self) -> None:
        _prove(self.distance_cm > 0, "The extra-focal source does not lie below the target")
        _prove(self.sigma_cm > 0, "The extra-focal source has no width")
        _prove(0 <= self.weight < 1, "The extra-focal weight lies outside 0 to 1")
        _prove(self.scatter_angle_deg > 0, "The scatter angle of the extra-focal source is not positive")


def least_scatter_angle_deg(source: ExtraFocal, sad_cm: float) -> float:
    """Angle by which photons turn that come from one standard deviation off the axis and go along it [degrees].

    The scatter angle must exceed it: the source as seen from the axis cannot be wider than scatter lets it seem
    (docs/theory/fluence.md, equation 13a).
    """
    return math.degrees(source.sigma_cm * (1 / source.distance_cm + 1 / (sad_cm - source.distance_cm)))


@dataclass(frozen=True, slots=True)
class ElectronContamination:
    """Electrons set free in the head and in air.

    Parameters
    ----------
    weight_cm2_per_g : float
        Their dose at the surface of a large field for each unit of photon energy fluence [cm^2/g], the unit in which
        energy fluence times mu/rho is TERMA.
    attenuation_per_cm : float
        Exponential fall of their dose with depth in water [1/cm].
    sigma_cm : float
        Gaussian lateral spread at the isocentre plane [cm].
    """

    weight_cm2_per_g: float
    attenuation_per_cm: float
    sigma_cm: float

    def __post_init__(self) -> None:
        _prove(self.weight_cm2_per_g >= 0, "The electron contamination is negative")
        _prove(self.attenuation_per_cm > 0, "The attenuation of contaminating electrons is not positive")
        _prove(self.sigma_cm > 0, "The lateral spread of contaminating electrons is not positive")


@dataclass(frozen=True, slots=True)
class Calibration:
    """The statement that gives the dose its scale: so many gray per MU at a point in water.

    Parameters
    ----------
    gy_per_mu : float
        Dose to water per monitor unit at the point [Gy/MU].
    field_cm : float
        Side of the square reference field at the isocentre plane [cm].
    ssd_cm : float
        Distance from the target to the water surface [cm].
    depth_cm : float
        Depth of the point on the axis [cm].
    """

    gy_per_mu: float
    field_cm: float
    ssd_cm: float
    depth_cm: float

    def __post_init__(self) -> None:
        _prove(0 < self.gy_per_mu < 1, "The calibration lies outside 0 to 1 Gy/MU", "1 cGy/MU is usual")
        _prove(0 < self.field_cm <= 40, "The calibration field lies outside 0 to 40 cm")
        _prove(50 <= self.ssd_cm <= 200, "The calibration SSD lies outside 50 to 200 cm")
        _prove(0 < self.depth_cm < 40, "The calibration depth lies outside 0 to 40 cm")


@dataclass(frozen=True, slots=True)
class Jaw:
    """A pair of jaws that move along one axis of the collimator system.

    Parameters
    ----------
    top_cm, bottom_cm : float
        Distances of the upper and lower faces from the target [cm].
    plane_cm : float
        Distance of the plane where their edges act [cm], between the two.
    """

    top_cm: float
    bottom_cm: float
    plane_cm: float

    def __post_init__(self) -> None:
        _prove(0 < self.top_cm < self.bottom_cm, "The top of a jaw does not lie above its bottom")
        _prove(self.top_cm <= self.plane_cm <= self.bottom_cm, "The plane of a jaw lies outside the jaw")


@dataclass(frozen=True, slots=True, eq=False)
class MultileafCollimator:
    """A multileaf collimator of one layer with rounded leaf ends.

    Parameters
    ----------
    boundaries_cm : ndarray, shape (p + 1,)
        Edges of the `p` leaf pairs across their travel, at the isocentre plane, rising [cm].
    axis : str
        `"x"` or `"y"`: the axis of the collimator system along which leaves move.
    plane_cm : float
        Distance of the middle of the leaves from the target [cm].
    thickness_cm : float
        Height of the leaves along the beam [cm].
    tip_radius_cm : float
        Radius of the circle that the leaf end is drawn with, its centre in the middle plane [cm].
    tongue_width_cm : float
        Width of the strip at each leaf side where only half the height is leaf, at the isocentre plane [cm]; at most
        half of the narrowest leaf.
    """

    boundaries_cm: Array
    axis: str
    plane_cm: float
    thickness_cm: float
    tip_radius_cm: float
    tongue_width_cm: float

    def __post_init__(self) -> None:
        _freeze(self, "boundaries_cm")
        _prove(self.boundaries_cm.ndim == 1 and len(self.boundaries_cm) >= 2, "The MLC has no leaves")
        widths = np.diff(self.boundaries_cm)
        _prove(bool(np.all(widths > 0)), "The leaf boundaries of the MLC do not rise")
        _prove(self.axis in ("x", "y"), f"The MLC moves along '{self.axis}'", "must be x or y")
        _prove(0 < self.thickness_cm < 2 * self.plane_cm, "The leaf thickness does not fit the plane of the MLC")
        _prove(2 * self.tip_radius_cm >= self.thickness_cm, "The leaf tip radius is less than half the leaf thickness")
        _prove(0 <= 2 * self.tongue_width_cm <= widths.min(), "The tongue is wider than half the narrowest leaf")

    @property
    def pairs(self) -> int:
        """Number of leaf pairs."""
        return len(self.boundaries_cm) - 1

    def fits(self, boundaries_cm: Array, tolerance_cm: float = BOUNDARY_TOLERANCE_CM) -> tuple[bool, bool]:
        """Whether the inner and whether the two outermost boundaries agree with a plan's.

        Parameters
        ----------
        boundaries_cm : ndarray, shape (q + 1,)
            Leaf boundaries of a plan [cm].
        tolerance_cm : float
            Largest difference allowed [cm].

        Returns
        -------
        inner, outer : bool
            Agreement of all boundaries but the outermost, and of the outermost.
        """
        if len(boundaries_cm) != len(self.boundaries_cm):
            return False, False
        apart = np.abs(np.asarray(boundaries_cm) - self.boundaries_cm) > tolerance_cm
        return not bool(apart[1:-1].any()), not bool(apart[[0, -1]].any())


@dataclass(frozen=True, slots=True, eq=False)
class BeamModel:
    """One photon beam of a machine.

    Parameters
    ----------
    energy : str
        Nominal energy with its fluence mode: `"6X"`, `"6FFF"`, ...
    spectrum : Spectrum
        On the axis, free in air.
    radial_fluence : RadialTable
        Primary energy fluence in air against the off-axis radius, 1 on the axis.
    softening : RadialTable
        Attenuation coefficient of the primary in water against the off-axis radius, relative to the axis.
    spot : tuple of SpotComponent
        The focal spot.
    extra_focal : ExtraFocal
        Head scatter.
    jaw_x_transmission, jaw_y_transmission : float
        Energy fluence behind a closed jaw, relative to the open beam.
    mlc_transmission : float
        Mean energy fluence behind closed leaves away from their tips, leakage between leaves included.
    leaf_attenuation_per_cm : float
        Attenuation coefficient of the leaf material for this beam [1/cm]. `exp(-mu thickness)` is the transmission
        through solid leaf and must not exceed `mlc_transmission`; what is missing leaks between the leaves.
    leaf_offset_cm : float
        Distance of each physical leaf tip behind its nominal position, at the isocentre plane [cm]; positive opens.
    electrons : ElectronContamination
        Contaminating electrons.
    calibration : Calibration
        Dose per MU in the reference geometry.
    monitor_backscatter : float
        Share of the monitor's signal that the fully closed upper jaws add by backscatter; 0 for a screened monitor.
    provenance : mapping
        The file's `[provenance]`: source and status of every group of numbers.
    """

    energy: str
    spectrum: Spectrum
    radial_fluence: RadialTable
    softening: RadialTable
    spot: tuple[SpotComponent, ...]
    extra_focal: ExtraFocal
    jaw_x_transmission: float
    jaw_y_transmission: float
    mlc_transmission: float
    leaf_attenuation_per_cm: float
    leaf_offset_cm: float
    electrons: ElectronContamination
    calibration: Calibration
    monitor_backscatter: float = 0.0
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _prove(bool(self.energy), "A beam has no energy name")
        _prove(len(self.spot) > 0 and abs(sum(c.weight for c in self.spot) - 1) < 1e-6, "Spot weights do not sum to 1")
        for name in ("jaw_x_transmission", "jaw_y_transmission", "mlc_transmission"):
            _prove(0 <= getattr(self, name) < 0.2, f"{name} lies outside 0 to 0.2")
        _prove(self.leaf_attenuation_per_cm > 0, "leaf_attenuation_per_cm is not positive")
        _prove(
            abs(self.leaf_offset_cm) < 0.5, "leaf_offset_cm is beyond 5 mm", "a few tenths of a millimetre are usual"
        )
        _prove(0 <= self.monitor_backscatter < 0.1, "monitor_backscatter lies outside 0 to 0.1")
        _prove(
            bool(np.all(self.softening.value > 0)),
            "The softening table falls to 0",
            "an attenuation coefficient is positive",
        )
        object.__setattr__(self, "provenance", MappingProxyType(dict(self.provenance)))


@dataclass(frozen=True, slots=True, eq=False)
class Machine:
    """A treatment machine: where its collimators are, and its beams.

    Parameters
    ----------
    name : str
        Name of the folder in `beam_data/`.
    description : str
        In words.
    sad_cm : float
        Distance from the target to the isocentre [cm].
    largest_field_cm : float
        Side of the largest square field [cm].
    jaw_x, jaw_y : Jaw or None
        Jaws that move along x and along y; None where the machine has none.
    mlc : MultileafCollimator
        The leaves.
    beams : mapping of str to BeamModel
        By nominal energy.
    provenance : mapping
        The machine file's `[provenance]`.
    data_hash : str
        SHA-256 over the machine and beam files, hexadecimal; empty when not read from files.
    """

    name: str
    description: str
    sad_cm: float
    largest_field_cm: float
    jaw_x: Jaw | None
    jaw_y: Jaw | None
    mlc: MultileafCollimator
    beams: Mapping[str, BeamModel]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    data_hash: str = ""

    def __post_init__(self) -> None:
        _prove(bool(self.name), "A machine has no name")
        _prove(50 <= self.sad_cm <= 200, f"Machine '{self.name}': the SAD lies outside 50 to 200 cm")
        _prove(0 < self.largest_field_cm <= 60, f"Machine '{self.name}': the largest field lies outside 0 to 60 cm")
        _prove(len(self.beams) > 0, f"Machine '{self.name}' has no beams")
        for part in (self.jaw_x, self.jaw_y, self.mlc):
            if part is not None:
                _prove(part.plane_cm < self.sad_cm, f"Machine '{self.name}': a collimator lies beyond the isocentre")
        for name, beam in self.beams.items():
            where = f"Machine '{self.name}', beam '{name}'"
            _prove(name == beam.energy, f"{where}: the file says energy '{beam.energy}'")
            solid = math.exp(-beam.leaf_attenuation_per_cm * self.mlc.thickness_cm)
            _prove(
                solid <= beam.mlc_transmission * (1 + 1e-9),
                f"{where}: {solid:.4f} passes solid leaves, more than mlc_transmission = {beam.mlc_transmission}",
                "the mean over leaves and gaps cannot be less than that through solid leaves",
                "Raise leaf_attenuation_per_cm or mlc_transmission",
            )
            _prove(
                beam.mlc_transmission <= math.sqrt(solid) * (1 + 1e-9),
                f"{where}: mlc_transmission = {beam.mlc_transmission} is more than half the leaf height passes",
                "the leaves would be all gaps",
                "Lower leaf_attenuation_per_cm or mlc_transmission",
            )
            planes = [part.plane_cm for part in (self.jaw_x, self.jaw_y, self.mlc) if part is not None]
            _prove(
                beam.extra_focal.distance_cm < min(planes), f"{where}: the extra-focal source lies below a collimator"
            )
            least = least_scatter_angle_deg(beam.extra_focal, self.sad_cm)
            _prove(
                beam.extra_focal.scatter_angle_deg > least,
                f"{where}: the scatter angle is {beam.extra_focal.scatter_angle_deg:g} degrees",
                f"the edge of the extra-focal source turns photons by {least:.3g} degrees",
                "Raise scatter_angle_deg or lower sigma_cm",
            )
        object.__setattr__(self, "beams", MappingProxyType(dict(self.beams)))
        object.__setattr__(self, "provenance", MappingProxyType(dict(self.provenance)))

    def beam(self, energy: str) -> BeamModel:
        """The beam of a nominal energy such as `"6FFF"`.

        Raises
        ------
        UnknownMachine
            If the machine has no such beam.
        """
        try:
            return self.beams[energy]
        except KeyError:
            raise UnknownMachine(
                f"Machine '{self.name}' has no beam '{energy}'",
                f"there are data for {', '.join(self.beams)}",
                "Add a beam file as beam_data/README.md describes, or choose another machine",
                argument="machine",
            ) from None


def list_machines() -> tuple[str, ...]:
    """Names of the machines that come with spinedose, sorted."""
    return tuple(sorted(path.parent.name for path in folder("beam_data").glob("*/machine.toml")))


def machine_folder(name_or_file: str | Path) -> Path:
    """Find the folder of a machine's files; what it takes is what `read_machine` takes.

    Raises
    ------
    UnknownMachine
        If there is no such machine.
    """
    place = folder("beam_data") / str(name_or_file)
    if not (place / "machine.toml").is_file():
        place = Path(name_or_file)
        place = place.parent if place.name == "machine.toml" else place
    if not (place / "machine.toml").is_file():
        raise UnknownMachine(
            f"Machine '{name_or_file}' was not found",
            f"spinedose has {', '.join(list_machines())}",
            "Name one of these, or your own folder that holds a machine.toml,",
            argument="machine",
        )
    return place


def read_machine(name_or_file: str | Path) -> Machine:
    """Read a machine and all its beams.

    Parameters
    ----------
    name_or_file : str or Path
        One of `list_machines()`, or a path to a folder with `machine.toml` and one `<beam>.toml` for each beam, or to
        that `machine.toml`.

    Returns
    -------
    Machine

    Raises
    ------
    UnknownMachine
        If there is no such machine.
    BeamDataError
        If a file is wrong.
    """
    expect("The machine", name_or_file, PATH, "a name or a folder", "See list_machines()")
    place = machine_folder(name_or_file)
    paths = [place / "machine.toml", *sorted(path for path in place.glob("*.toml") if path.name != "machine.toml")]
    files = tuple((path.name, path.read_bytes()) for path in paths)
    return _with_own_provenance(_machine_of(place.resolve().name, place.name, files))


def _with_own_provenance(machine: Machine) -> Machine:
    """The same machine with a provenance of its own, the only part of it that can be changed."""
    beams = {name: replace(beam, provenance=deepcopy(dict(beam.provenance))) for name, beam in machine.beams.items()}
    return replace(machine, beams=beams, provenance=deepcopy(dict(machine.provenance)))


@lru_cache(maxsize=MACHINES_KEPT)
def _machine_of(name: str, place: str, files: tuple[tuple[str, bytes], ...]) -> Machine:
    """The machine that files describe, kept by their content: a change of a file can neither be missed nor be old.

    Parameters
    ----------
    name : str
        Of the machine.
    place : str
        Name of the folder, for what is wrong with a file.
    files : tuple of (str, bytes)
        Names and contents; `machine.toml` is the first, each of the others is a beam.
    """
    digest = hashlib.sha256()
    for file, content in files:
        # Git may check text out with other line ends; that must not change the identity of the data.
        digest.update(file.encode() + b"\0" + content.replace(b"\r\n", b"\n") + b"\0")
    machine, *tables = (_Table.read(f"{place}/{file}", content) for file, content in files)
    beams = {Path(file).stem: _beam_from(table) for (file, _), table in zip(files[1:], tables, strict=True)}
    return _machine_from(machine, name, beams, digest.hexdigest())


def machine_for_beam(
    beam: Beam, name: Machine | str | Path | None = None, *, among: Iterable[Machine] | None = None
) -> tuple[Machine, tuple[str, ...]]:
    """Choose the machine that a plan's beam belongs to, and prove that it fits.

    Parameters
    ----------
    beam : Beam
        A beam of a plan.
    name : Machine, str or Path, optional
        Machine chosen by the user (see `read_machine`); otherwise the leaf boundaries decide.
    among : iterable of Machine, optional
        Candidates; all that come with spinedose when not given. Ignored with `name`.

    Returns
    -------
    machine : Machine
    warnings : tuple of str
        What was assumed.

    Raises
    ------
    UnknownMachine
        If no machine fits, or it lacks the energy, or there are no leaves to tell and no name.
    InvalidInput
        If the beam contradicts the machine.
    """
    who = f"Beam {beam.number} '{beam.name}'"
    warnings: list[str] = []
    if name is not None:
        machine = name if isinstance(name, Machine) else read_machine(name)
    elif beam.leaf_boundaries_cm is None:
        raise UnknownMachine(
            f"{who} has no MLC to tell its machine '{beam.machine}' by",
            f"spinedose has {', '.join(list_machines())}",
            "Name the machine",
            argument="machine",
        )
    else:
        candidates = list(among) if among is not None else [read_machine(known) for known in list_machines()]
        fitting = [m for m in candidates if m.mlc.axis == beam.leaf_axis and m.mlc.fits(beam.leaf_boundaries_cm)[0]]
        if len(fitting) != 1:
            raise UnknownMachine(
                f"{who} is for machine '{beam.machine}', whose leaves ({_describe(beam.leaf_boundaries_cm)}) "
                + ("fit more than one machine" if fitting else "fit no machine"),
                f"spinedose has {', '.join(m.name for m in candidates)}",
                "Name the machine, or your own folder that holds a machine.toml,",
                argument="machine",
            )
        machine = fitting[0]
        warnings.append(f"{who}: machine '{beam.machine}' was taken for {machine.name} by its leaf boundaries.")
    machine.beam(beam.energy)
    if not beam.is_fluence_mode_stated and beam.energy.replace("X", "FFF") in machine.beams:
        warnings.append(
            "The plan does not state the fluence mode of its beams (old and some other planning systems do not): they "
            f"were computed as flattened, though {machine.name} has beams of that energy without a flattening filter, "
            "too. Make sure that they are flattened."
        )
    if beam.leaf_boundaries_cm is not None:
        inner, outer = machine.mlc.fits(beam.leaf_boundaries_cm)
        if not inner or machine.mlc.axis != beam.leaf_axis:
            raise InvalidInput(
                f"{who} has leaves along {beam.leaf_axis} ({_describe(beam.leaf_boundaries_cm)})",
                f"machine {machine.name} has them along {machine.mlc.axis} ({_describe(machine.mlc.boundaries_cm)})",
                "Choose the machine that the plan was made for",
                argument="machine",
            )
        if not outer:
            edges = beam.leaf_boundaries_cm[[0, -1]]
            warnings.append(
                f"{who}: the outermost leaves end at {edges[0]:.2f} and {edges[1]:.2f} cm in the plan, at "
                f"{machine.mlc.boundaries_cm[0]:.2f} and {machine.mlc.boundaries_cm[-1]:.2f} cm in {machine.name}; the "
                "plan's were used."
            )
        across = beam.jaw_y_cm if beam.leaf_axis == "x" else beam.jaw_x_cm
        ends = beam.leaf_boundaries_cm
        if across is not None and (across[:, 0].min() < ends[0] - 1e-6 or across[:, 1].max() > ends[-1] + 1e-6):
            warnings.append(f"{who}: jaws open beyond the outermost leaves; the beam was taken as open there.")
    for axis, jaw, position in (("x", machine.jaw_x, beam.jaw_x_cm), ("y", machine.jaw_y, beam.jaw_y_cm)):
        if jaw is not None and position is None:
            raise InvalidInput(
                f"{who} has no {axis.upper()} jaw positions",
                f"machine {machine.name} has {axis.upper()} jaws",
                "Check the plan",
            )
        if jaw is None and position is not None:
            warnings.append(
                f"{who}: {axis.upper()} jaw positions were left out, because {machine.name} has no {axis.upper()} jaws."
            )
    return machine, tuple(warnings)


def _describe(boundaries_cm: Array) -> str:
    """Leaf boundaries in words, such as '60 pairs from -20 to 20 cm'."""
    return f"{len(boundaries_cm) - 1} pairs from {boundaries_cm[0]:g} to {boundaries_cm[-1]:g} cm"


class _Table:
    """A table of a TOML file that knows its place, hands values out once and finds keys that nobody asked for."""

    def __init__(self, content: dict[str, Any], where: str) -> None:
        self.content, self.where = dict(content), where

    @classmethod
    def read(cls, where: str, content: bytes) -> _Table:
        try:
            table = cls(tomllib.loads(content.decode("utf-8")), where)
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise BeamDataError(f"{where} cannot be read", str(error), "Correct the file") from None
        version = table.take("schema_version", int)
        if version != SCHEMA_VERSION:
            raise BeamDataError(
                f"{where} has schema version {version}", f"this spinedose reads version {SCHEMA_VERSION}"
            )
        return table

    def take(self, key: str, kind: type) -> Any:
        if key not in self.content:
            raise BeamDataError(f"{self.where} has no '{key}'", "it is required", "See beam_data/README.md")
        value = self.content.pop(key)
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
            raise BeamDataError(f"{self.where}: '{key}' is not a {kind.__name__}", f"it reads {value!r}")
        if isinstance(value, float) and not math.isfinite(value):
            raise BeamDataError(f"{self.where}: '{key}' is not a finite number")
        return value

    def number(self, key: str) -> float:
        return float(self.take(key, float))

    def array(self, key: str) -> Array:
        try:
            array = np.array(self.take(key, list), dtype=float)
        except (TypeError, ValueError):
            raise BeamDataError(f"{self.where}: '{key}' is not a list of numbers") from None
        if not np.all(np.isfinite(array)):
            raise BeamDataError(f"{self.where}: '{key}' holds something that is not a finite number")
        return array

    def table(self, key: str) -> _Table:
        return _Table(self.take(key, dict), f"{self.where} [{key}]")

    def tables(self, key: str) -> list[_Table]:
        found = []
        for n, item in enumerate(self.take(key, list)):
            if not isinstance(item, dict):
                raise BeamDataError(f"{self.where}: '{key}' is not a list of tables")
            found.append(_Table(item, f"{self.where} [[{key}]] {n + 1}"))
        return found

    def has(self, key: str) -> bool:
        return key in self.content

    def finish(self) -> None:
        if self.content:
            raise BeamDataError(
                f"{self.where} has an unknown key '{next(iter(self.content))}'",
                "it would have no effect",
                "See beam_data/README.md",
            )


def _machine_from(table: _Table, name: str, beams: Mapping[str, BeamModel], data_hash: str) -> Machine:
    def jaw(key: str) -> Jaw | None:
        if not table.has(key):
            return None
        part = table.table(key)
        made = _located(part, lambda: Jaw(part.number("top_cm"), part.number("bottom_cm"), part.number("plane_cm")))
        part.finish()
        return made

    mlc = table.table("mlc")
    widths = []
    for row in mlc.tables("rows"):
        widths += [row.number("width_cm")] * row.take("count", int)
        row.finish()
    boundaries = np.concatenate([[0.0], np.cumsum(widths)]) - 0.5 * sum(widths)
    leaves = _located(
        mlc,
        lambda: MultileafCollimator(
            boundaries_cm=np.round(boundaries, 9),
            axis=mlc.take("axis", str),
            plane_cm=mlc.number("plane_cm"),
            thickness_cm=mlc.number("thickness_cm"),
            tip_radius_cm=mlc.number("tip_radius_cm"),
            tongue_width_cm=mlc.number("tongue_width_cm"),
        ),
    )
    mlc.finish()
    made = _located(
        table,
        lambda: Machine(
            name=name,
            description=table.take("description", str),
            sad_cm=table.number("sad_cm"),
            largest_field_cm=table.number("largest_field_cm"),
            jaw_x=jaw("jaw_x"),
            jaw_y=jaw("jaw_y"),
            mlc=leaves,
            beams=beams,
            provenance=table.take("provenance", dict),
            data_hash=data_hash,
        ),
    )
    table.finish()
    return made


def _beam_from(table: _Table) -> BeamModel:
    def radial(key: str, column: str) -> RadialTable:
        part = table.table(key)
        made = _located(part, lambda: RadialTable(part.array("radius_cm"), part.array(column)))
        part.finish()
        return made

    def simple(key: str, kind: Any, names: tuple[str, ...], optional: tuple[str, ...] = ()) -> Any:
        part = table.table(key)
        given = (*names, *(name for name in optional if name in part.content))
        made = _located(part, lambda: kind(**{name: part.number(name) for name in given}))
        part.finish()
        return made

    def spectrum() -> Spectrum:
        part = table.table("spectrum")
        energy, weight = part.array("energy_MeV"), part.array("weight")
        # Files carry rounded weights; what matters is their proportion. A sum far from 1 is a mistake all the same.
        if not 0.99 < weight.sum() < 1.01:
            raise BeamDataError(f"{part.where}: the weights sum to {weight.sum():.4g}", "they must sum to 1")
        part.finish()
        return _located(part, lambda: Spectrum(energy, weight / weight.sum()))

    def spot() -> tuple[SpotComponent, ...]:
        components = []
        for part in table.tables("spot"):
            components.append(_located(part, partial(_spot_component_from, part)))
            part.finish()
        return tuple(components)

    transmission, leaf = table.table("transmission"), table.table("leaf")
    made = _located(
        table,
        lambda: BeamModel(
            energy=table.take("energy", str),
            spectrum=spectrum(),
            radial_fluence=radial("radial_fluence", "relative_energy_fluence"),
            softening=radial("softening", "relative_attenuation"),
            spot=spot(),
            extra_focal=simple(
                "extra_focal", ExtraFocal, ("distance_cm", "sigma_cm", "weight"), optional=("scatter_angle_deg",)
            ),
            jaw_x_transmission=transmission.number("jaw_x"),
            jaw_y_transmission=transmission.number("jaw_y"),
            mlc_transmission=transmission.number("mlc"),
            leaf_attenuation_per_cm=leaf.number("attenuation_per_cm"),
            leaf_offset_cm=leaf.number("offset_cm"),
            electrons=simple(
                "electrons", ElectronContamination, ("weight_cm2_per_g", "attenuation_per_cm", "sigma_cm")
            ),
            calibration=simple("calibration", Calibration, ("gy_per_mu", "field_cm", "ssd_cm", "depth_cm")),
            monitor_backscatter=table.number("monitor_backscatter"),
            provenance=table.take("provenance", dict),
        ),
    )
    for part in (transmission, leaf, table):
        part.finish()
    return made


def _spot_component_from(part: _Table) -> SpotComponent:
    return SpotComponent(*(part.number(key) for key in ("weight", "sigma_x_cm", "sigma_y_cm", "rotation_deg")))


def _located(table: _Table, make: Callable[[], Made]) -> Made:
    """Make a data class and name the file in what it has to complain about."""
    try:
        return make()
    except BeamDataError as error:
        if error.problem.startswith(table.where.split(" [")[0]):
            raise
        raise BeamDataError(f"{table.where}: {error.problem}", error.why, error.advice) from None


def _freeze(instance: Any, *names: str) -> None:
    """Store array fields as read-only float64 copies."""
    for name in names:
        array = np.array(getattr(instance, name), dtype=np.float64)
        if not np.all(np.isfinite(array)):
            raise BeamDataError(f"{type(instance).__name__}.{name} holds something that is not a finite number")
        array.flags.writeable = False
        object.__setattr__(instance, name, array)


def _prove(holds: bool | np.bool_, problem: str, why: str = "", advice: str = "") -> None:
    if not holds:
        raise BeamDataError(problem, why, advice)


class _Room(ModuleType):
    """This module, callable: `spinedose.machine(...)` is a name of the face and this room at once."""

    def __call__(self, name_or_file: str | Path) -> Machine:
        """Read a machine; see `read_machine`."""
        return read_machine(name_or_file)


sys.modules[__name__].__class__ = _Room
