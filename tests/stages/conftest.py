"""Fixtures of the stage tests: the backends that can run here, and matter and energy to feed them with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from cuda_on_host import backend_on_device, backend_on_host, device_is_wanted, on_device
from numpy.typing import NDArray

from spinedose.backends.base import Backend, Moments, Scene
from spinedose.backends.select import select_backend
from spinedose.cones import ConeTable, RadialBasis
from spinedose.density import CtImage
from spinedose.directions import Directions
from spinedose.grid import Grid, Volume

BACKENDS = ("cpu", "cuda-on-host", *(("cuda",) if device_is_wanted() else ()))
"""All backends that can run here, and `cuda` where it has to; a stage test is written once and runs on each. On the
host the unchanged CUDA kernels run as C++, with fused multiply-add, as a GPU rounds."""

Y_00 = float(1 / np.sqrt(4 * np.pi))


@pytest.fixture(scope="session", params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    """A backend, to be used only through the seam."""
    if request.param == "cuda-on-host":
        return backend_on_host("fused")
    if request.param == "cuda":
        return backend_on_device()
    return select_backend(request.param)


@pytest.fixture(scope="session")
def host() -> Callable[[object], NDArray[np.float32]]:
    """`host(array)`: a device array as numpy."""

    def to_numpy(array: object) -> NDArray[np.float32]:
        return array.get() if hasattr(array, "get") else np.asarray(array)

    return to_numpy


@pytest.fixture
def make_scene(backend: Backend) -> Callable[..., Scene]:
    """`make_scene(values, spacing_cm=(1, 1, 1), origin_cm=(0, 0, 0))`: matter on the device."""

    def scene_of(
        values: NDArray[np.float32],
        spacing_cm: Sequence[float] = (1.0, 1.0, 1.0),
        origin_cm: Sequence[float] = (0.0, 0.0, 0.0),
    ) -> Scene:
        grid = Grid(tuple(origin_cm), tuple(spacing_cm), values.shape)
        return backend.load(Volume(grid, np.asarray(values, np.float32)))

    return scene_of


@pytest.fixture
def one_chain() -> Callable[..., ConeTable]:
    """`one_chain(rate, stages, order)`: every direction gets all energy, by the Erlang density of that order alone."""

    def table_of(rate_per_cm: float, stages: int, order: int | None = None) -> ConeTable:
        basis = RadialBasis((rate_per_cm,), (stages,))
        energy = np.zeros((2, stages, 1))
        energy[0, stages - (order or stages), 0] = 1.0
        return ConeTable(basis, np.array([0.0, 180.0]), energy)

    return table_of


@pytest.fixture
def carry(backend: Backend) -> Callable[..., NDArray[np.float32]]:
    """`carry(scene, energy, cones, vector, offset)`: transport energy along a single direction.

    The quadrature of one direction stands for the whole sphere, so that all energy travels that way.
    """

    def transport(
        scene: Scene,
        energy: NDArray[np.float32],
        cones: ConeTable,
        vector: Sequence[float],
        offset: Sequence[float] = (0.5, 0.5),
        *,
        low: tuple[int, int, int] = (0, 0, 0),
        as_halo: bool = False,
    ) -> NDArray[np.float32]:
        unit = np.asarray(vector, float) / np.linalg.norm(vector)
        single = Directions(unit[None], np.array([4 * np.pi]), np.ones((1, 1)), np.array([offset], float))
        high = tuple(a + n for a, n in zip(low, energy.shape, strict=True))
        nothing: Moments = backend.new_moments(scene, low, high, 0)
        something: Moments = backend.new_moments(scene, low, high, 0)
        something.values[:, :, 0, :] = on_device(backend, np.asarray(energy * Y_00, np.float32))
        field, halo = (nothing, something) if as_halo else (something, nothing)
        return backend.transport(scene, field, halo, cones, single)

    return transport


@pytest.fixture(scope="session")
def make_ct() -> Callable[..., CtImage]:
    """`make_ct(hu, origin_cm=None, spacing_cm=0.5, position="HFS")`: CT numbers with 2 cm of air around."""

    def ct_of(
        hu: NDArray[np.float32],
        origin_cm: Sequence[float] | None = None,
        spacing_cm: float = 0.5,
        position: str = "HFS",
    ) -> CtImage:
        values = np.pad(np.asarray(hu, np.float32), 4, constant_values=-1000.0)
        middle = [-0.5 * spacing_cm * (n - 1) for n in values.shape[::-1]]
        grid = Grid(tuple(origin_cm or middle), (spacing_cm,) * 3, values.shape)
        return CtImage(Volume(grid, values), position)

    return ct_of
