"""Open fields in a water tank: a fast model of the axis and of profiles, for fitting; the engine has the last word.

The tank is the one place where superposition needs no transport grid: water is the same everywhere, so the dose at a
point is a sum over rings of the fluence map around its ray, with weights that depend on depth and ring alone
(docs/theory/commissioning.md). The weights come from the same Monte Carlo kernels as the engine's cones and are made
once for each set of energies; then a curve costs milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spinedose.cones import terma_layers, water_attenuation, water_kernels
from spinedose.errors import InvalidInput
from spinedose.fluence_model import FluenceMaps, Raster
from spinedose.machine import BeamModel

Array = NDArray[np.float64]

OBLIQUITY = (1.0, 1.05)
"""Path length per depth at which weights are tabulated: linear between; 1.05 is 32 cm off axis at 100 cm."""

BATCH = 16
"""Rays worked on together."""

ANGLES = 32
"""Points on each ring at which the fluence is looked up."""

SUBDIVISION = 4
"""Points along the radius and the angle of each shell and cone of the deposition kernels."""


def ring_nodes_cm() -> Array:
    """Radii of the rings on the isocentre plane [cm]: dense where electrons deposit, wide where photons scatter."""
    parts = [
        np.arange(0, 0.2, 0.02), np.arange(0.2, 1.0, 0.05), np.arange(1.0, 5.0, 0.125), np.arange(5.0, 15.0, 0.4),
        np.arange(15.0, 46.0, 1.25),
    ]  # fmt: skip
    return np.concatenate(parts)


def depth_nodes_cm() -> Array:
    """Depths at which the weights are tabulated [cm]."""
    parts = [
        np.arange(0.05, 0.6, 0.05), np.arange(0.6, 4.0, 0.1), np.arange(4.0, 10.0, 0.5), np.arange(10.0, 36.1, 1.0),
    ]  # fmt: skip
    return np.concatenate(parts)


@dataclass(frozen=True, slots=True, eq=False)
class RingTable:
    """What each ring of fluence around a ray adds to the dose on it, in water behind a flat surface.

    Parameters
    ----------
    energy_MeV : ndarray, shape (e,)
        Photon energies [MeV].
    depth_cm : ndarray, shape (d,)
        Depths of the points [cm].
    node_cm : ndarray, shape (r,)
        Radii of the rings on the isocentre plane [cm]; fluence is linear between them.
    ssd_cm, sad_cm : float
        Source to surface, source to isocentre plane [cm].
    weight : ndarray float32, shape (2, e, d, r)
        Dose for unit energy fluence on the ring (isocentre plane) [cm^2/g], for both `OBLIQUITY`.
    """

    energy_MeV: Array
    depth_cm: Array
    node_cm: Array
    ssd_cm: float
    sad_cm: float
    weight: NDArray[np.float32]

    def __post_init__(self) -> None:
        assert self.weight.shape == (2, len(self.energy_MeV), len(self.depth_cm), len(self.node_cm))
        assert bool(np.all(self.weight >= 0))


def ring_table(energy_MeV: ArrayLike, *, ssd_cm: float = 100.0, sad_cm: float = 100.0) -> RingTable:
    """Make or remember the weights for a set of energies.

    For every shell and cone of a deposition kernel the source point is found that reaches the point of interest through
    it - the direction of travel being that of the local ray - and the energy that the kernel holds there goes to the
    ring which that source point lies on. So the kernel's energy is kept exactly, whatever the shells.

    Parameters
    ----------
    energy_MeV : array_like, shape (e,)
        Photon energies [MeV].
    ssd_cm, sad_cm : float
        Source to surface, source to isocentre plane [cm].
    """
    if not 50 <= ssd_cm <= 300:
        raise InvalidInput(f"SSD is {ssd_cm} cm", "50 to 300 cm can be computed")
    energy = np.ascontiguousarray(energy_MeV, dtype=np.float64)
    return _ring_table(energy.tobytes(), float(ssd_cm), float(sad_cm))


@lru_cache(maxsize=8)
def _ring_table(energy_bytes: bytes, ssd_cm: float, sad_cm: float) -> RingTable:
    energy = np.frombuffer(energy_bytes)
    kernels = water_kernels()
    share = np.array([kernels.mix([e], [1.0]) for e in energy])  # (e, t, r)
    mu = water_attenuation(energy)
    nodes, depths = ring_nodes_cm(), depth_nodes_cm()
    middle = (np.arange(SUBDIVISION) + 0.5) / SUBDIVISION
    radii = (kernels.r_edge_cm[:-1, None] + middle * np.diff(kernels.r_edge_cm)[:, None]).ravel()
    # equal steps of the cosine: energy within a cone is spread evenly over its solid angle
    cosine = np.cos(np.radians(kernels.theta_edge_deg))
    angles = np.arccos((cosine[:-1, None] + middle * np.diff(cosine)[:, None]).ravel())
    shells, cones = len(kernels.r_edge_cm) - 1, len(kernels.theta_edge_deg) - 1
    theta, r = (np.asarray(grid) for grid in np.meshgrid(angles, radii, indexing="ij"))
    weight = np.zeros((2, len(energy), len(depths), len(nodes)), np.float32)
    for d, depth in enumerate(depths):
        # the local ray leans outwards by alpha: the vector to the point lies theta - alpha off the axis
        tilt = np.zeros_like(theta)
        for _ in range(4):
            axis_angle = theta - tilt
            above = depth - r * np.cos(axis_angle)  # depth of the source point
            tilt = np.arctan2(r * np.abs(np.sin(axis_angle)), np.maximum(ssd_cm + above, 1.0))
        lateral = np.abs(r * np.sin(axis_angle))
        inside = above > 0
        # solid angle seen from the point against that of the cone: sin and derivative of theta - alpha
        safe = np.maximum(np.sin(theta), 1e-9)
        stretch = np.gradient(axis_angle, axis=0) / np.gradient(theta, axis=0)
        squeeze = np.abs(np.sin(axis_angle) / safe * stretch)
        magnify = sad_cm / (ssd_cm + above)
        u = lateral * magnify
        place = np.interp(u, nodes, np.arange(len(nodes)))
        keep = inside & (u <= nodes[-1])
        low = np.minimum(place.astype(int), len(nodes) - 2)
        part = place - low
        cell = np.arange(cones * SUBDIVISION)[:, None] // SUBDIVISION * shells
        cell = (cell + np.arange(shells * SUBDIVISION)[None, :] // SUBDIVISION)[keep]
        low, part, deep = low[keep], part[keep], above[keep]
        common = (magnify**2 * squeeze)[keep] / SUBDIVISION**2
        for o, obliquity in enumerate(OBLIQUITY):
            for e in range(len(energy)):
                released = common * share[e].ravel()[cell] * (mu[e] * np.exp(-mu[e] * obliquity * deep))
                weight[o, e, d] = np.bincount(low, released * (1 - part), len(nodes))
                weight[o, e, d] += np.bincount(low + 1, released * part, len(nodes))
    return RingTable(energy, depths, nodes, ssd_cm, sad_cm, weight)


@dataclass(frozen=True, slots=True, eq=False)
class TankModel:
    """Weights of the rings for one beam: its spectrum, with off-axis softening.

    Parameters
    ----------
    table : RingTable
        Weights for single energies.
    factors : ndarray, shape (s,)
        Softening factors at which `weight` is tabulated; between them it is interpolated.
    weight : ndarray, shape (s, 2, d, r)
        Dose for unit energy fluence on a ring [cm^2/g].
    model : BeamModel
        The beam.
    """

    table: RingTable
    factors: Array
    weight: Array
    model: BeamModel

    @classmethod
    def of(cls, model: BeamModel, *, ssd_cm: float = 100.0, sad_cm: float = 100.0) -> TankModel:
        """Mix the energies of a beam."""
        table = ring_table(model.spectrum.energy_MeV, ssd_cm=ssd_cm, sad_cm=sad_cm)
        low, high = float(model.softening.value.min()), float(model.softening.value.max())
        factors = np.unique(np.append(np.linspace(low, high, 3 if high - low > 1e-6 else 1), 1.0))
        layers = terma_layers(model.spectrum, factors)  # (s, e), energy fluence
        return cls(table, factors, np.einsum("se,oedr->sodr", layers, table.weight), model)

    def dose(self, maps: FluenceMaps, x_cm: ArrayLike, y_cm: ArrayLike, depth_cm: ArrayLike) -> Array:
        """Dose at points in the tank.

        Parameters
        ----------
        maps : FluenceMaps
            One map: fluence at points, not averaged over voxels.
        x_cm, y_cm, depth_cm : array_like, shape (n,)
            Crossline and inline distance from the axis, and depth below the surface, of each point [cm].

        Returns
        -------
        ndarray, shape (n,)
            In the unit of the fluence times cm^2/g, as the engine's.
        """
        x, y, depth = (np.atleast_1d(np.asarray(v, float)) for v in np.broadcast_arrays(x_cm, y_cm, depth_cm))
        to_isocentre = self.table.sad_cm / (self.table.ssd_cm + depth)
        where = np.round(np.stack([x, y], axis=1) * to_isocentre[:, None], 6)
        rays, ray = np.unique(where, axis=0, return_inverse=True)
        ray = ray.reshape(-1)
        place = np.interp(depth, self.table.depth_cm, np.arange(len(self.table.depth_cm)))
        low = np.minimum(place.astype(int), len(self.table.depth_cm) - 2)
        part = place - low
        result = np.zeros(len(x))
        for first in range(0, len(rays), BATCH):
            light = self._light(maps, rays[first : first + BATCH])  # (n, s, 2, r)
            here = np.flatnonzero((ray >= first) & (ray < first + BATCH))
            for level in np.unique(low[here]):
                some = here[low[here] == level]
                ends = (self.weight[:, :, level + k] for k in (0, 1))
                a, b = (np.einsum("nsor,sor->n", light[ray[some] - first], end) for end in ends)
                result[some] = a * (1 - part[some]) + b * part[some]
        return result + self._electrons(maps, x * to_isocentre, y * to_isocentre, depth, to_isocentre)

    def _light(self, maps: FluenceMaps, rays: Array) -> Array:
        """Mean fluence on each ring around rays (n, 2), shared out among softenings and obliquities, (n, s, 2, r)."""
        angle = 2 * np.pi * (np.arange(ANGLES) + 0.5) / ANGLES
        ring = self.table.node_cm[:, None]
        x = rays[:, 0, None, None] + ring * np.cos(angle)
        y = rays[:, 1, None, None] + ring * np.sin(angle)
        fluence = lookup(maps.photon[0], maps.raster, x, y)
        square = x * x + y * y
        oblique = np.minimum((np.sqrt(1 + square / self.table.sad_cm**2) - 1) / (OBLIQUITY[1] - 1), 1.0)
        light = np.empty((len(rays), len(self.factors), 2, len(ring)))
        if len(self.factors) == 1:
            shares = [fluence]
        else:
            soft = np.interp(self.model.softening.at(np.sqrt(square)), self.factors, np.arange(len(self.factors)))
            shares = [fluence * np.maximum(1 - np.abs(soft - s), 0.0) for s in range(len(self.factors))]
        for s, share in enumerate(shares):
            aside = (share * oblique).mean(axis=2)
            light[:, s, 0], light[:, s, 1] = share.mean(axis=2) - aside, aside
        return light

    def _electrons(self, maps: FluenceMaps, u: Array, v: Array, depth: Array, magnify: Array) -> Array:
        """Dose of contaminating electrons."""
        path = depth * np.sqrt(1 + (u * u + v * v) / self.table.sad_cm**2)
        surface = lookup(maps.electron[0], maps.electron_raster, u, v)
        dose: Array = surface * magnify**2 * np.exp(-self.model.electrons.attenuation_per_cm * path)
        return dose


def lookup(values: NDArray[np.float32], raster: Raster, x_cm: Array, y_cm: Array) -> Array:
    """Bilinear lookup in a map, 0 outside; shapes of the points are kept."""
    i, j = (x_cm - raster.x_cm) / raster.pixel_cm, (y_cm - raster.y_cm) / raster.pixel_cm
    inside = (i >= 0) & (j >= 0) & (i < raster.nx - 1) & (j < raster.ny - 1)
    i, j = np.where(inside, i, 0.0), np.where(inside, j, 0.0)
    m, n = i.astype(int), j.astype(int)
    fx, fy = i - m, j - n
    near = values[n, m] * (1 - fx) + values[n, m + 1] * fx
    far = values[n + 1, m] * (1 - fx) + values[n + 1, m + 1] * fx
    found: Array = np.where(inside, near * (1 - fy) + far * fy, 0.0)
    return found
