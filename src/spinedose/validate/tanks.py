"""Doses of open fields in a water tank, each computed once, and the curves that a detector would scan in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spinedose.backends.base import Backend
from spinedose.calibration import water_tank_dose
from spinedose.grid import Volume
from spinedose.machine import BeamModel, Machine
from spinedose.measurements import Detector, average_over

Array = NDArray[np.float64]
Report = Callable[[str], None]

FINE_CM = 0.05
"""Step at which curves are drawn through the voxels, before a detector blurs them [cm]."""

BEHIND_CM = 5.0
"""Water behind the deepest point of a scan, which scatters back [cm]."""

ACROSS = 7
"""Points across a detector in each direction over which the dose is averaged."""


@dataclass(frozen=True, slots=True)
class Setup:
    """Where field edges and depth zero of a measurement were, as the fit of the beam found them.

    Parameters
    ----------
    jaw_x_offset_cm, jaw_y_offset_cm : float
        Distance of each field edge from its nominal place, outwards, at the isocentre plane [cm].
    depth_shift_cm : float
        Added to the depths of the measurement [cm].
    """

    jaw_x_offset_cm: float = 0.0
    jaw_y_offset_cm: float = 0.0
    depth_shift_cm: float = 0.0

    @classmethod
    def of(cls, model: BeamModel, *, is_other: bool = False) -> Setup:
        """Read the table `setup` of a beam's provenance; all zero where there is none.

        Parameters
        ----------
        model : BeamModel
            The beam.
        is_other : bool
            Whether the curves were scanned with another detector than the depth doses of the fit, on another day.
        """
        table = model.provenance.get("setup", {})
        if not isinstance(table, Mapping):
            return cls()
        prefix = "other_" if is_other else ""
        return cls(
            float(table.get(f"{prefix}jaw_x_offset_cm", 0.0)),
            float(table.get(f"{prefix}jaw_y_offset_cm", 0.0)),
            float(table.get("depth_shift_cm", 0.0)),
        )

    def field_cm(self, nominal_cm: tuple[float, float]) -> tuple[float, float]:
        """The field as it was [cm]."""
        return (
            round(nominal_cm[0] + 2 * self.jaw_x_offset_cm, 6),
            round(nominal_cm[1] + 2 * self.jaw_y_offset_cm, 6),
        )

    def __str__(self) -> str:
        return (
            f"field edges {10 * self.jaw_x_offset_cm:+.2f} mm (x) and {10 * self.jaw_y_offset_cm:+.2f} mm (y) outside "
            f"nominal on each side, depth zero {10 * self.depth_shift_cm:+.2f} mm"
        )


@dataclass(slots=True, eq=False)
class Tanks:
    """Computes tanks by the engine, with its default settings, and remembers them.

    Parameters
    ----------
    device : Backend
        Where to compute.
    report : callable
        Called with what is being computed.
    compute : callable
        What computes; `engine.water_tank_dose`, or a stand-in for tests.
    """

    device: Backend
    report: Report = lambda text: None
    compute: Callable[..., Volume] = water_tank_dose
    _known: dict[tuple[object, ...], Volume] = field(default_factory=dict)

    def dose(
        self,
        machine: Machine,
        beam: str,
        field_cm: tuple[float, float],
        *,
        ssd_cm: float = 100.0,
        to_depth_cm: float = 35.0,
        spacing_cm: float = 0.25,
        margin_cm: float = 7.0,
    ) -> Volume:
        """Dose of an open field down to a depth, with water behind it; see `engine.water_tank_dose`."""
        key = (machine.name, machine.data_hash, beam, field_cm, ssd_cm, spacing_cm, margin_cm)
        known = self._known.get(key)
        if known is not None and known.grid.upper_cm[1] >= to_depth_cm + BEHIND_CM - 1e-6:
            return known
        self.report(f"{machine.name} {beam} {field_cm[0]:g} x {field_cm[1]:g} cm, SSD {ssd_cm:g} cm")
        volume = self.compute(
            machine, machine.beam(beam), field_cm, ssd_cm=ssd_cm, depth_cm=to_depth_cm + BEHIND_CM,
            margin_cm=margin_cm, spacing_cm=spacing_cm, device=self.device,
        )  # fmt: skip
        self._known[key] = volume
        return volume

    def forget(self) -> None:
        """Free the memory."""
        self._known.clear()


def depth_dose(volume: Volume, depths_cm: ArrayLike, detector: Detector | None = None) -> Array:
    """Dose on the axis, averaged across the detector but not along the depth.

    Parameters
    ----------
    volume : Volume
        From `Tanks.dose`.
    depths_cm : array_like, shape (n,)
        Depths [cm].
    detector : Detector, optional
        Without it a point.
    """
    offsets, weights = _cross_section(detector)
    deep = volume.grid.axes_cm[1]
    points = np.empty((len(deep), len(weights), 3))
    points[..., 0], points[..., 1], points[..., 2] = offsets[:, 0], deep[:, None], offsets[:, 1]
    return _through(deep, volume.sample(points) @ weights, depths_cm)


def profile(
    volume: Volume,
    along: Literal["x", "y"],
    depth_cm: float,
    detector: Detector | None = None,
) -> tuple[Array, Array]:
    """Profile through the axis as the detector reads it: positions [cm], fine, and dose.

    Parameters
    ----------
    volume : Volume
        From `Tanks.dose`.
    along : str
        `x` (crossline) or `y` (inline).
    depth_cm : float
        Depth [cm].
    detector : Detector, optional
        Without it a point.
    """
    run = volume.grid.axes_cm[0 if along == "x" else 2]
    half = 0.0 if detector is None else detector.half_width_cm("y" if along == "x" else "x")
    offsets = np.zeros(1) if half == 0 else half * _middles()
    points = np.empty((len(run), len(offsets), 3))
    points[..., 1] = depth_cm
    points[..., 0 if along == "x" else 2] = run[:, None]
    points[..., 2 if along == "x" else 0] = offsets
    fine = np.linspace(run[0], run[-1], int(np.ceil((run[-1] - run[0]) / FINE_CM)) + 1)
    values = _through(run, volume.sample(points).mean(axis=1), fine)
    return fine, values if detector is None else average_over(detector, fine, values, along)


def as_voxels(x_cm: ArrayLike, values: ArrayLike, run_cm: Array) -> tuple[Array, Array]:
    """A finer curve as voxels would have it: means over each voxel, read between them as calculated curves are.

    Calculated doses are means over voxels; a measured edge has to be one, too, before their widths are compared.

    Parameters
    ----------
    x_cm, values : array_like, shape (n,)
        The curve.
    run_cm : ndarray, shape (k,)
        Centres of voxels, evenly spaced [cm]; those within the curve are used.

    Returns
    -------
    positions, values : ndarray
        Every `FINE_CM`.
    """
    x, y = np.asarray(x_cm, float), np.asarray(values, float)
    half = 0.5 * (run_cm[1] - run_cm[0])
    at = run_cm[(run_cm - half >= x[0]) & (run_cm + half <= x[-1])]
    within = half * (2 * np.arange(25) + 1 - 25) / 25
    means = np.interp(at[:, None] + within, x, y).mean(axis=1)
    return as_drawn(at, means)


def as_drawn(run_cm: Array, values: Array) -> tuple[Array, Array]:
    """Voxels along a line as a curve: positions every `FINE_CM`, and values."""
    fine = np.linspace(run_cm[0], run_cm[-1], int(np.ceil((run_cm[-1] - run_cm[0]) / FINE_CM)) + 1)
    return fine, _through(run_cm, values, fine)


def _through(x: Array, values: Array, at: ArrayLike) -> Array:
    """Read a curve between voxels: monotone cubics, which keep edges as steep as the voxels have them.

    Of an edge of 1.7 mm (sigma) and voxels of 2.5 mm they give the width of a field to 0.16 mm, the penumbra to 0.14
    mm; voxels that are means over their volume add 0.3 mm to that penumbra.
    """
    from scipy.interpolate import PchipInterpolator

    result: Array = PchipInterpolator(x, values, extrapolate=False)(np.asarray(at, dtype=np.float64))
    return result


def _middles() -> Array:
    middles: Array = (2 * np.arange(ACROSS) + 1) / ACROSS - 1
    return middles


def _cross_section(detector: Detector | None) -> tuple[Array, Array]:
    """Points (x, y) across the beam within a detector [cm], and their weights, which sum to 1."""
    if detector is None or detector.shape == "point":
        return np.zeros((1, 2)), np.ones(1)
    t = _middles()
    u, v = (grid.ravel() for grid in np.meshgrid(t, t))
    if detector.shape == "sphere":
        weight = np.sqrt(np.maximum(1 - u**2 - v**2, 0.0))
    elif detector.axis == "z":
        weight = (u**2 + v**2 <= 1).astype(float)
    else:  # lies across the beam: chords along it, a box along its axis
        weight = np.sqrt(1 - (u if detector.axis == "y" else v) ** 2)
    offsets = np.stack([u * detector.half_width_cm("x"), v * detector.half_width_cm("y")], axis=1)
    inside = weight > 0
    return offsets[inside], weight[inside] / weight[inside].sum()
