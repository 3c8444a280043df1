"""Segments: the short pieces of a beam over which the gantry may be taken as standing still while leaves move on."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from spinedose.errors import InvalidInput
from spinedose.plan import Beam

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Segments:
    """`n` pieces of one beam with the meterset that each delivers.

    Angles and jaws are those at the middle of the piece (by meterset); leaves have a position at its start and its end
    and move linearly in between.

    Parameters
    ----------
    meterset_mu : ndarray, shape (n,)
        Meterset of each piece [MU], positive; sums to the beam's.
    gantry_deg, collimator_deg, couch_deg : ndarray, shape (n,)
        IEC 61217 angles at the middle [degrees].
    jaw_x_cm, jaw_y_cm : ndarray, shape (n, 2), or None
        Jaw positions at the middle, at the isocentre plane [cm].
    leaf_boundaries_cm : ndarray, shape (p + 1,), or None
        Edges of the leaf pairs across their travel [cm].
    leaf_start_cm, leaf_end_cm : ndarray, shape (n, 2, p), or None
        Nominal leaf tips of bank 1 and bank 2 at the start and at the end [cm].
    leaf_axis : str
        `"x"` or `"y"`: the axis along which leaves move.
    control_point : ndarray of int, shape (n,)
        Index of the control point that each piece begins at or lies after.
    """

    meterset_mu: Array
    gantry_deg: Array
    collimator_deg: Array
    couch_deg: Array
    jaw_x_cm: Array | None
    jaw_y_cm: Array | None
    leaf_boundaries_cm: Array | None
    leaf_start_cm: Array | None
    leaf_end_cm: Array | None
    leaf_axis: str
    control_point: NDArray[np.intp]

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, np.ndarray):
                value = np.array(value)
                value.flags.writeable = False
                object.__setattr__(self, item.name, value)
        n = len(self.meterset_mu)
        assert n > 0 and bool(np.all(self.meterset_mu > 0)), "segments deliver meterset"
        for name in ("gantry_deg", "collimator_deg", "couch_deg", "control_point"):
            assert getattr(self, name).shape == (n,), name
        for jaw in (self.jaw_x_cm, self.jaw_y_cm):
            assert jaw is None or jaw.shape == (n, 2)
        leaves = (self.leaf_boundaries_cm, self.leaf_start_cm, self.leaf_end_cm)
        assert all(part is None for part in leaves) or all(part is not None for part in leaves)
        if self.leaf_boundaries_cm is not None and self.leaf_start_cm is not None and self.leaf_end_cm is not None:
            shape = (n, 2, len(self.leaf_boundaries_cm) - 1)
            assert self.leaf_start_cm.shape == shape and self.leaf_end_cm.shape == shape
        assert self.leaf_axis in ("x", "y")

    def __len__(self) -> int:
        return len(self.meterset_mu)

    def part(self, first: int, last: int) -> Segments:
        """Segments `first` up to but not including `last`."""
        return self.at(slice(first, last))

    def at(self, index: slice | NDArray[np.intp]) -> Segments:
        """Segments of a range, or those with given numbers (in that order)."""
        chosen = {}
        for item in fields(self):
            value = getattr(self, item.name)
            whole = not isinstance(value, np.ndarray) or item.name == "leaf_boundaries_cm"
            chosen[item.name] = value if whole else value[index]
        return Segments(**chosen)


def segment_beam(beam: Beam, *, max_gantry_step_deg: float = 1.0, max_jaw_step_cm: float = 0.2) -> Segments:
    """Cut a beam into segments.

    Each interval between control points is cut into equal shares of meterset, so many that the gantry (and couch and
    collimator) turn by no more than a step and no jaw edge moves by more than one. Leaf travel needs no cut: the
    fluence stage integrates over it. Intervals without meterset vanish.

    Parameters
    ----------
    beam : Beam
        The beam.
    max_gantry_step_deg : float
        Largest turn of gantry, collimator or couch in one segment [degrees].
    max_jaw_step_cm : float
        Largest travel of a jaw in one segment, at the isocentre plane [cm].

    Returns
    -------
    Segments
        In the order of delivery.

    Raises
    ------
    InvalidInput
        If a step is not positive.
    """
    for name, step in (("max_gantry_step_deg", max_gantry_step_deg), ("max_jaw_step_cm", max_jaw_step_cm)):
        if not (math.isfinite(step) and step > 0):
            raise InvalidInput(f"{name} is {step}", "a step must be positive")
    share = np.diff(beam.cumulative_meterset)
    steps = [
        np.abs(np.diff(angle)) / max_gantry_step_deg for angle in (beam.gantry_deg, beam.collimator_deg, beam.couch_deg)
    ]
    steps += [
        np.abs(np.diff(jaw, axis=0)).max(axis=1) / max_jaw_step_cm
        for jaw in (beam.jaw_x_cm, beam.jaw_y_cm)
        if jaw is not None
    ]
    # A hair of slack keeps 2.0000000001 degrees from becoming three pieces.
    least = np.maximum(np.ceil(np.max(steps, axis=0) - 1e-6), 1).astype(int)
    pieces = np.where(share > 0, least, 0)
    control_point = np.repeat(np.arange(len(share)), pieces)
    first = np.repeat(np.cumsum(pieces) - pieces, pieces)
    start = (np.arange(len(control_point)) - first) / pieces[control_point]
    end = (np.arange(len(control_point)) - first + 1) / pieces[control_point]

    def at(values: Array, when: Array) -> Array:
        """Linear interpolation between the control points around each segment."""
        weight = when.reshape((-1,) + (1,) * (values.ndim - 1))
        return values[control_point] * (1 - weight) + values[control_point + 1] * weight

    middle = 0.5 * (start + end)
    return Segments(
        meterset_mu=beam.meterset_mu * share[control_point] / pieces[control_point],
        gantry_deg=at(beam.gantry_deg, middle),
        collimator_deg=at(beam.collimator_deg, middle),
        couch_deg=at(beam.couch_deg, middle),
        jaw_x_cm=None if beam.jaw_x_cm is None else at(beam.jaw_x_cm, middle),
        jaw_y_cm=None if beam.jaw_y_cm is None else at(beam.jaw_y_cm, middle),
        leaf_boundaries_cm=beam.leaf_boundaries_cm,
        leaf_start_cm=None if beam.leaf_cm is None else at(beam.leaf_cm, start),
        leaf_end_cm=None if beam.leaf_cm is None else at(beam.leaf_cm, end),
        leaf_axis=beam.leaf_axis,
        control_point=control_point,
    )
