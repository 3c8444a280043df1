"""One thing that is different from the plan: how the patient lies, what he is made of, what the machine does."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from spinedose.density import CtImage
from spinedose.errors import InvalidInput
from spinedose.machine_change import MachineChange
from spinedose.setup import Setup
from spinedose.structures import StructureSet

Array = NDArray[np.float64]

AXES = ("lateral_cm", "longitudinal_cm", "vertical_cm", "pitch_deg", "roll_deg", "yaw_deg")
"""The six numbers of a `Setup`, in its order."""

RIGID = 1e-4
"""How far a registration may be from a rotation; DICOM files give its elements with 5 to 16 digits."""


@dataclass(frozen=True, slots=True)
class Registration:
    """Where points of the planning CT lie in another CT: `q = R p + t`, without stretching.

    Parameters
    ----------
    rows : tuple of 4 rows of 4 floats
        Homogeneous matrix [R t; 0 0 0 1] for points (x, y, z) in DICOM LPS; t in cm.
    """

    rows: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        advice = "Give 4 rows of 4 numbers, from the planning CT to the other one"
        try:
            matrix = np.array(self.rows, dtype=float)
        except (TypeError, ValueError):
            matrix = np.empty(0)
        if matrix.shape != (4, 4) or not np.all(np.isfinite(matrix)):
            raise InvalidInput("A registration is no matrix of 4 x 4 numbers", "", advice)
        turn = matrix[:3, :3]
        is_rigid = np.allclose(turn @ turn.T, np.eye(3), atol=RIGID) and np.linalg.det(turn) > 0
        if not (is_rigid and np.allclose(matrix[3], (0, 0, 0, 1), atol=RIGID)):
            raise InvalidInput(
                "A registration stretches, shears or mirrors the patient", "only rigid ones count", advice
            )
        object.__setattr__(self, "rows", tuple(tuple(float(value) for value in row) for row in matrix))

    @property
    def turn(self) -> Array:
        """The rotation R, shape (3, 3)."""
        return np.array(self.rows)[:3, :3]

    @property
    def shift_cm(self) -> Array:
        """The translation t, shape (3,) [cm]."""
        return np.array(self.rows)[:3, 3]

    @property
    def is_turned(self) -> bool:
        """Whether there is a rotation in it."""
        return not np.allclose(self.turn, np.eye(3), atol=1e-9)

    def of(self, points_cm: Array) -> Array:
        """Points (..., 3) of the planning CT in the other CT [cm]."""
        moved: Array = np.asarray(points_cm, float) @ self.turn.T + self.shift_cm
        return moved


AS_IT_IS = Registration(((1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)))
"""Both CTs show the patient at the same place."""


@dataclass(frozen=True, slots=True)
class OtherCt:
    """Another CT of the patient, on which the plan is computed.

    Parameters
    ----------
    ct : path or CtImage
        Folder of its slices, or the image.
    structures : path, StructureSet or empty
        RTSTRUCT file of structures drawn on it; empty: the plan's structures, moved by the registration.
    registration : Registration or path
        From the planning CT to this one, or a DICOM REG file that ties their frames of reference together. The patient
        is set up by it, turns included: the beams meet the anatomy that it says is the planned one.
    """

    ct: str | Path | CtImage
    structures: str | Path | StructureSet = ""
    registration: Registration | str | Path = AS_IT_IS

    @property
    def name(self) -> str:
        """The folder, or the series UID."""
        return (self.ct.uid or "a CT in memory") if isinstance(self.ct, CtImage) else str(self.ct)

    @property
    def paths(self) -> tuple[Path, ...]:
        """Files and folders that are read for it."""
        named = (self.ct, self.structures, self.registration)
        return tuple(Path(one) for one in named if isinstance(one, str | Path) and str(one))


@dataclass(frozen=True, slots=True)
class DensityChange:
    """Another density of one structure.

    Parameters
    ----------
    structure : str
        Its name.
    amount : float
        Mass density [g/cm^3], or a factor.
    kind : str
        `"g/cm3"`: the whole structure has this density, electrons and material after the HU curve, as with an override
        by the planner; `"times"`: every voxel has its density times this, or the override that the structure has.
    """

    structure: str
    amount: float
    kind: Literal["g/cm3", "times"] = "g/cm3"

    def __post_init__(self) -> None:
        if self.kind not in ("g/cm3", "times"):
            raise InvalidInput(f"A density is changed by '{self.kind}'", "there is 'g/cm3' and 'times'")
        if not self.structure:
            raise InvalidInput("A density change names no structure")
        if not 0 < self.amount < 25:
            raise InvalidInput(
                f"The density of '{self.structure}' is set to {self.amount} {self.kind}", "0 to 25 can be"
            )


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is different from the plan; all that is not named is as planned.

    Parameters
    ----------
    name : str
        What it is called in tables; unique in a study.
    setup : Setup or tuple of Setup
        How the patient lies: the same in all fractions, or one for each fraction.
    change : MachineChange
        What is different about the treatment head.
    meterset_factor : float
        Of all beams.
    meterset_factors : mapping of int to float
        Of single beams, by their number; on top of that of all.
    fractions : int
        How many are delivered; 0: as planned.
    densities : tuple of DensityChange
        Densities of structures.
    curve : str
        HU curve, a name or a TOML file; empty: that of the study.
    hu_offset : float
        Added to all CT numbers [HU].
    ct : OtherCt, optional
        Another CT.
    group : str
        What scenarios belong together in a table: `"grid"`, `"random"`, `"list"`.
    is_sample : bool
        Whether it was drawn from a distribution. Percentiles are those of samples.
    """

    name: str
    setup: Setup | tuple[Setup, ...] = Setup()  # noqa: RUF009
    change: MachineChange = MachineChange()  # noqa: RUF009
    meterset_factor: float = 1.0
    meterset_factors: Mapping[int, float] | tuple[tuple[int, float], ...] = ()
    fractions: int = 0
    densities: tuple[DensityChange, ...] = ()
    curve: str = ""
    hu_offset: float = 0.0
    ct: OtherCt | None = None
    group: str = "list"
    is_sample: bool = False

    def __post_init__(self) -> None:
        if not self.name.strip() or "\n" in self.name:
            raise InvalidInput(f"A scenario is called {self.name!r}", "tables need its name", "Give it one")
        setups = (self.setup,) if isinstance(self.setup, Setup) else tuple(self.setup)
        if not setups:
            raise InvalidInput(f"Scenario '{self.name}' has no setup", "there is one for each fraction, or one for all")
        object.__setattr__(self, "setup", setups[0] if isinstance(self.setup, Setup) else setups)
        factors = self.meterset_factors
        pairs = sorted(factors.items()) if isinstance(factors, Mapping) else sorted(factors)
        object.__setattr__(self, "meterset_factors", tuple((int(number), float(value)) for number, value in pairs))
        object.__setattr__(self, "densities", tuple(self.densities))
        for value in (self.meterset_factor, *(value for _, value in pairs)):
            if not 0 < value <= 10:
                raise InvalidInput(f"Scenario '{self.name}' takes a meterset times {value}", "0 to 10 can be meant")
        if self.fractions < 0:
            raise InvalidInput(f"Scenario '{self.name}' has {self.fractions} fractions", "0 means as planned")
        if not abs(self.hu_offset) <= 1000:
            raise InvalidInput(f"Scenario '{self.name}' adds {self.hu_offset} HU", "up to 1000 can be meant")
        names = [one.structure for one in self.densities]
        if len(set(names)) != len(names):
            raise InvalidInput(f"Scenario '{self.name}' changes a density twice", f"it has {', '.join(names)}")

    @property
    def setups(self) -> tuple[Setup, ...]:
        """Of each fraction, or one that counts for all."""
        return (self.setup,) if isinstance(self.setup, Setup) else self.setup

    @property
    def factors_of_beams(self) -> dict[int, float]:
        """Factors of the metersets of single beams, by their number."""
        return dict(self.meterset_factors)

    @property
    def is_nominal(self) -> bool:
        """Whether all is as planned."""
        return self._without_name() == NOMINAL._without_name()

    def _without_name(self) -> tuple[Any, ...]:
        return tuple(
            getattr(self, item.name) for item in fields(self) if item.name not in ("name", "group", "is_sample")
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain types only, ready for JSON; what is as planned is left out. `from_dict` reads it."""
        table: dict[str, Any] = {"name": self.name}
        if isinstance(self.setup, tuple):
            table["setup"] = [_plain_setup(one) for one in self.setup]
        elif self.setup != Setup():
            table["setup"] = _plain_setup(self.setup)
        if not self.change.is_none:
            table["change"] = asdict(self.change)
        for name in ("meterset_factor", "fractions", "curve", "hu_offset", "group", "is_sample"):
            if getattr(self, name) != getattr(_DEFAULT, name):
                table[name] = getattr(self, name)
        if self.meterset_factors:
            table["meterset_factors"] = {str(number): value for number, value in self.factors_of_beams.items()}
        if self.densities:
            table["densities"] = [asdict(one) for one in self.densities]
        if self.ct is not None:
            if isinstance(self.ct.ct, CtImage) or isinstance(self.ct.structures, StructureSet):
                table["ct"] = {"ct": self.ct.name, "in_memory": True}
            else:
                table["ct"] = {"ct": str(self.ct.ct), "structures": str(self.ct.structures)}
            known = self.ct.registration
            table["ct"]["registration"] = (
                [list(row) for row in known.rows] if isinstance(known, Registration) else str(known)
            )
        return table

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Scenario:
        """The scenario that `as_dict` wrote."""
        found = dict(table)
        unknown = sorted(set(found) - {item.name for item in fields(cls)})
        if unknown:
            raise InvalidInput(f"A scenario has an unknown key '{unknown[0]}'", "it would have no effect")
        if "setup" in found:
            one = found["setup"]
            found["setup"] = _setup_of(one) if isinstance(one, Mapping) else tuple(_setup_of(each) for each in one)
        if "change" in found:
            found["change"] = MachineChange(**found["change"])
        found["meterset_factors"] = {int(n): v for n, v in found.get("meterset_factors", {}).items()}
        found["densities"] = tuple(DensityChange(**one) for one in found.get("densities", ()))
        if "ct" in found:
            other = dict(found["ct"])
            if other.pop("in_memory", False):
                raise InvalidInput(
                    f"Scenario '{found.get('name')}' has a CT that was only in memory",
                    "it cannot be found again",
                    "Name the folder of the CT",
                )
            known = other.pop("registration")
            if not isinstance(known, str):
                known = Registration(tuple(tuple(row) for row in known))
            found["ct"] = OtherCt(registration=known, **other)
        return cls(**found)


_DEFAULT = Scenario("default")

NOMINAL = Scenario("nominal", group="nominal")
"""All as planned."""


def _plain_setup(setup: Setup) -> dict[str, Any]:
    """Without what is zero."""
    table: dict[str, Any] = {name: getattr(setup, name) for name in AXES if getattr(setup, name)}
    return table if setup.pivot_cm is None else table | {"pivot_cm": list(setup.pivot_cm)}


def _setup_of(table: Mapping[str, Any]) -> Setup:
    found = dict(table)
    if "pivot_cm" in found:
        found["pivot_cm"] = tuple(float(value) for value in found["pivot_cm"])
    return Setup(**found)


def setup_from_turn(turn: Array, shift_cm: Array, pivot_cm: Array) -> Setup:
    """The `Setup` with this turn, shape (3, 3) in the table system, this shift (3,) and pivot (3,) [cm].

    Any rotation is Yaw Pitch Roll = Rz(yaw) Rx(pitch) Ry(roll), whose last row is (-cos p sin r, sin p, cos p cos r)
    and whose middle column is (-sin y cos p, cos y cos p, sin p).
    """
    pitch = math.degrees(math.asin(min(max(turn[2, 1], -1.0), 1.0)))
    roll = math.degrees(math.atan2(-turn[2, 0], turn[2, 2]))
    yaw = math.degrees(math.atan2(-turn[0, 1], turn[1, 1]))
    lateral, longitudinal, vertical = (float(value) for value in shift_cm)
    x, y, z = (float(value) for value in pivot_cm)
    return Setup(lateral, longitudinal, vertical, pitch, roll, yaw, (x, y, z))
