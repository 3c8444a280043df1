"""How long a gamma index of 100 x 150 x 150 voxels takes; and pymedphys, with the same criteria, where it is there."""

from __future__ import annotations

import time
import warnings
from typing import Any

import numpy as np
import pytest
from scipy.special import erf

from spinedose.compare.gamma import gamma_index
from spinedose.grid import Grid, Volume

PAIRS = {"near": ((0.1, 0.0, 0.0), 1.02), "far": ((0.2, 0.2, 0.1), 1.05)}
"""How the second dose differs from the first: moved [cm], and higher; both have noise of 0.5 % of the maximum."""


def planned(shift: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Volume:
    """Seven modulated fields of about 6 x 8 cm that cross in the middle; 60 Gy at most, 2.5 mm."""
    shape, spacing = (100, 150, 150), 0.25
    grid = Grid(tuple(-spacing * (n - 1) / 2 for n in shape[::-1]), (spacing,) * 3, shape)  # type: ignore[arg-type]
    x, y, z = (axis - by for axis, by in zip(grid.axes_cm, shift, strict=True))
    x, y, z = x[None, None, :], y[None, :, None], z[:, None, None]

    def field(t: Any, half: float) -> Any:
        sharp, soft = (0.5 * (erf((t + half) / width) - erf((t - half) / width)) for width in (0.35, 1.5))
        return 0.9 * sharp + 0.1 * soft

    dose = np.zeros(shape)
    for n in range(7):
        angle = 2 * np.pi * n / 7
        across, along = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        profile = field(across - 0.6 * np.cos(2 * n), 3 + 0.8 * np.sin(3 * n)) * (1 + 0.15 * np.sin(1.3 * across + n))
        dose += profile * field(z, 4.0) * np.exp(-0.045 * np.maximum(along + 16, 0))
    return Volume(grid, (60 * dose / dose.max()).astype(np.float32))


def pair(name: str) -> tuple[Volume, Volume]:
    """A planned dose, and the same moved, raised and with noise."""
    shift, scale = PAIRS[name]
    reference, moved = planned(), planned(shift)
    noise = np.random.default_rng(1).normal(0, 0.005 * reference.values.max(), moved.grid.shape)
    return reference, Volume(moved.grid, (scale * moved.values + noise).astype(np.float32))


def seconds_of(reference: Volume, evaluated: Volume) -> float:
    """The quickest of three runs of our own [s]."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        gamma_index(reference, evaluated)
        times.append(time.perf_counter() - start)
    return min(times)


@pytest.mark.parametrize("name", PAIRS)
def test_gamma(benchmark: Any, name: str) -> None:
    """3 %/2 mm global, threshold 10 %, cut-off 2."""
    result = benchmark.pedantic(gamma_index, pair(name), rounds=5, warmup_rounds=1, iterations=1)
    benchmark.extra_info.update(case=f"gamma-{name}", **result.as_dict())


@pytest.mark.parametrize("name", PAIRS)
def test_pymedphys(benchmark: Any, name: str) -> None:
    """The same with pymedphys, its step a tenth of the distance; `times_slower` compares it with ours in this run."""
    pymedphys = pytest.importorskip("pymedphys")
    reference, evaluated = pair(name)
    axes = reference.grid.axes_cm[::-1]

    def run(first: int = 0) -> Any:
        """Gamma of the planes from this one on."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            planes = (axes[0][first:], axes[1], axes[2])
            doses = (np.array(volume.values[first:]) for volume in (reference, evaluated))
            return pymedphys.gamma(
                planes, next(doses), planes, next(doses), 3, 0.2, 10, interp_fraction=10, max_gamma=2
            )

    run(first=80)  # compiles
    other = benchmark.pedantic(run, rounds=1, iterations=1)
    other = other[np.isfinite(other)]
    ours = gamma_index(reference, evaluated)
    seconds = seconds_of(reference, evaluated)
    benchmark.extra_info.update(
        case=f"gamma-{name}-pymedphys",
        version=pymedphys.__version__,
        pass_percent=100 * float(np.mean(other <= 1)),
        pass_percent_ours=ours.pass_percent,
        mean_excess=float(np.mean(other - ours.values)),
        seconds_ours=seconds,
        times_slower=benchmark.stats.stats.min / seconds,
    )
    assert len(other) == ours.points
    assert np.min(other - ours.values) > -2e-4  # samples cannot lie below the minimum
