"""A case of the validation: what is compared with what, and what it needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from spinedose.backends.base import Backend
from spinedose.curve_judging import Criterion
from spinedose.machine import BeamModel, Machine
from spinedose.validate.in_water import Found
from spinedose.validate.lines import HELD_OUT, OTHER, Tag
from spinedose.validate.tanks import Tanks

NO_HEAD = ("", "")
"""In place of machine and beam, where no treatment head takes part."""


@dataclass(frozen=True, slots=True, eq=False)
class Bench:
    """What cases work with.

    Parameters
    ----------
    data : Path
        Folder of the measured data.
    device : Backend
        Where to compute.
    tanks : Tanks
        Doses in water, computed once for all cases.
    criteria : mapping of str to Criterion
        Limits.
    sides_cm : tuple of float
        Square fields to compute [cm]; empty for all. For trying things out.
    """

    data: Path
    device: Backend
    tanks: Tanks
    criteria: Mapping[str, Criterion]
    sides_cm: tuple[float, ...] = ()

    def wants(self, side_cm: float) -> bool:
        """Whether a field is to be computed."""
        return not self.sides_cm or side_cm in self.sides_cm


@dataclass(frozen=True, slots=True)
class Case:
    """One comparison with the world.

    Parameters
    ----------
    name : str
        What the command line calls it.
    what : str
        What is compared with what.
    sources : tuple of str
        Where the data come from, with citation.
    needs : tuple of str
        Folders of data, below the data folder.
    pairs : tuple of (str, str)
        Machines and beams that the data belong to; `NO_HEAD` where none takes part.
    run : callable
        `run(bench, tag, machine)` gives lines, curves and notes; the machine is None for `NO_HEAD`.
    same_head : tuple of str
        Further machines that the data belong to, because they have the same treatment head.
    """

    name: str
    what: str
    sources: tuple[str, ...]
    needs: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]
    run: Callable[[Bench, Tag, Machine | None], Found]
    same_head: tuple[str, ...] = field(default=())

    def missing(self, data: Path | None) -> tuple[str, ...]:
        """Folders of data that are not there."""
        return tuple(name for name in self.needs if data is None or not (data / name).exists())


def was_fitted(model: BeamModel) -> bool:
    """Whether the status of a beam says that it was fitted to measurements."""
    return "fitted" in str(model.provenance.get("status", "")) and "not fitted" not in str(model.provenance["status"])


def role_of(model: BeamModel, role: str, *, is_same_machine: bool) -> str:
    """What data were to this beam: the role they had in the fit, if it was fitted to them.

    Parameters
    ----------
    model : BeamModel
        The beam.
    role : str
        Role in the fit of the machine that the data belong to.
    is_same_machine : bool
        Whether they belong to this machine.
    """
    if not is_same_machine:
        return OTHER
    return role if was_fitted(model) else HELD_OUT
