"""Voxels on the page: small, and near enough to the originals."""

from __future__ import annotations

import base64
import gzip

import numpy as np
import pytest

from spinedose.grid import Grid, Volume
from spinedose.report import packing
from spinedose.structures import Structure, volume_cm3

GRID = Grid((-3.0, -2.0, -1.0), (0.2, 0.2, 0.25), (9, 21, 31))


def unpacked(packed):
    """As `assets/volumes.js` does it."""
    raw = np.frombuffer(gzip.decompress(base64.b64decode(packed.text)), dtype=np.uint8)
    if not packed.is_wide:
        levels = np.array([np.nan if level is None else level for level in packed.levels])
        return levels[raw].reshape(packed.grid.shape)
    low, high = raw.reshape(2, *packed.grid.shape).astype(np.uint16)
    codes = np.cumsum(low + 256 * high, axis=2, dtype=np.uint16)
    return packed.levels[0] * codes


def smooth(top):
    x, y, z = GRID.axes_cm
    return Volume(GRID, top * np.exp(-(x**2 + y[:, None] ** 2 + z[:, None, None] ** 2)).astype(np.float32))


def test_a_dose_is_kept_to_a_4000th_of_the_largest():
    dose = smooth(30.0)
    found = unpacked(packing.pack_dose(dose, 30.0))
    assert np.abs(found - dose.values).max() <= 0.51 * 30.0 / packing.DOSE_STEPS


def test_a_ct_is_kept_to_2_hu_in_soft_tissue():
    hu = Volume(GRID, np.random.default_rng(1).integers(-1024, 3071, GRID.shape).astype(np.int16))
    error = np.abs(unpacked(packing.pack_ct(hu)) - hu.values)
    assert error[(hu.values > -200) & (hu.values < 390)].max() <= 2
    assert error.max() <= 70


def test_gamma_keeps_its_voxels_and_its_largest_when_made_coarser(monkeypatch):
    values = np.full(GRID.shape, np.nan, dtype=np.float32)
    values[2:6, 3:18, 4:20] = np.random.default_rng(2).random((4, 15, 16))
    values[3, 7, 9] = 1.96
    fine = packing.pack_gamma(Volume(GRID, values), 2.0)
    assert np.array_equal(np.isnan(unpacked(fine)), np.isnan(values))
    monkeypatch.setattr(packing, "GAMMA_BYTES", len(fine.text) - 1)
    coarse = packing.pack_gamma(Volume(GRID, values), 2.0)
    assert coarse.grid.size < GRID.size
    assert np.nanmax(unpacked(coarse)) == pytest.approx(1.96, abs=0.01)


def test_a_volume_too_large_becomes_coarser_until_it_fits(monkeypatch):
    dose = smooth(30.0)
    whole = packing.pack_dose(dose, 30.0)
    monkeypatch.setattr(packing, "DOSE_BYTES", len(whole.text) // 3)
    found = packing.pack_dose(dose, 30.0)
    assert len(found.text) <= packing.DOSE_BYTES and found.grid.size < dose.grid.size
    there = dose.resample(found.grid)
    assert np.abs(unpacked(found) - there.values).max() < 0.02
    assert np.all(found.grid.lower_cm >= GRID.lower_cm - 1e-9) and np.all(found.grid.upper_cm <= GRID.upper_cm + 1e-9)


def test_a_structure_keeps_its_volume():
    angle = 2 * np.pi * np.arange(100) / 100
    rings = tuple(np.column_stack([np.cos(angle), np.sin(angle), np.full(100, z)]) for z in (0.0, 0.3, 0.6))
    structure = Structure(1, "ball", contours_cm=rings)
    packed = packing.pack_structure(structure)
    assert unpacked(packed).sum() * packed.grid.voxel_volume_cm3 == pytest.approx(volume_cm3(structure), rel=0.01)
    assert unpacked(packed)[0].max() == 0 and unpacked(packed)[:, 0].max() == 0
