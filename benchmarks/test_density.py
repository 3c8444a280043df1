"""How long CT numbers take to become matter."""

from __future__ import annotations

from typing import Any

import numpy as np

from spinedose.density import CtImage, build_density, calculation_grid, find_body
from spinedose.grid import Grid, Volume
from spinedose.structures import Structure, StructureSet


def test_density(benchmark: Any) -> None:
    shape, spacing = (200, 512, 512), (0.1, 0.1, 0.2)
    grid = Grid((0.0, 0.0, 0.0), spacing, shape)
    x, y, z = grid.axes_cm
    angle = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    outline = np.column_stack([x.mean() + 18 * np.cos(angle), y.mean() + 12 * np.sin(angle)])
    contours = tuple(np.column_stack([outline, np.full(len(angle), height)]) for height in z)
    structures = StructureSet((Structure(1, "Body", "EXTERNAL", contours),))
    hu = np.random.default_rng(1).normal(30, 100, shape).astype(np.int16)
    ct = CtImage(Volume(grid, hu))

    def run() -> float:
        body = find_body(ct, structures)
        target = calculation_grid(ct, spacing_cm=0.25, body=body, structures=structures)
        return build_density(ct, target, body=body, structures=structures).total_mass_g

    mass = benchmark.pedantic(run, rounds=3, warmup_rounds=1)
    assert 0.95 < mass / (np.pi * 18 * 12 * 40) < 1.10  # tissue of about 1.04 g/cm3
