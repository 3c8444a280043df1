"""The launch code: structs, memory in blocks, choice of the device; with kernels compiled for the host."""

from __future__ import annotations

import logging
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import numpy as np
import pytest
from cuda_on_host import BUILDS, HostModule, backend_on_host, kernels_in
from device_numpy import POOL, DeviceNumpy

from spinedose._resources import folder
from spinedose.backends import layout, select
from spinedose.backends.base import Moments, Scene
from spinedose.backends.cuda import backend as cuda_backend
from spinedose.backends.cuda.backend import KERNELS, CudaBackend, _Combined, _Settled, _Slabs, kernel_source
from spinedose.backends.select import select_backend
from spinedose.cones import ConeTable, RadialBasis
from spinedose.directions import directions
from spinedose.errors import BackendUnavailable, UnsupportedPlan
from spinedose.grid import Grid, Volume

STRUCTS = {
    "fluence": {"Leaves": layout.LEAVES, "Map": layout.MAP},
    "depth": {"Shape": layout.SHAPE, "Fan": layout.FAN, "Rays": layout.RAYS},
    "terma": {
        "Box": layout.BOX,
        "Affine": layout.AFFINE,
        "Pixels": layout.PIXELS,
        "Release": layout.RELEASE,
        "Harmonics": layout.HARMONICS,
    },
    "sweep": {"Chains": layout.CHAINS, "Way": layout.WAY},
    "gamma": {"Home": layout.HOME, "Neighbour": layout.NEIGHBOUR, "Search": layout.SEARCH},
}


@pytest.mark.parametrize("file", STRUCTS)
def test_structs_have_the_layout_of_their_numpy_twins(file: str) -> None:
    asked = [(f"{name}_{field}", name, field) for name, kind in STRUCTS[file].items() for field in kind.names]
    text = kernel_source(file) + "".join(
        f'\nextern "C" int {label}() {{ return int(offsetof({name}, {field})); }}' for label, name, field in asked
    )
    text += "".join(f'\nextern "C" int sizeof_{name}() {{ return int(sizeof({name})); }}' for name in STRUCTS[file])
    library = HostModule(text, BUILDS["exact"]).library
    for label, name, field in asked:
        assert getattr(library, label)() == STRUCTS[file][name].fields[field][1], label
    for name, kind in STRUCTS[file].items():
        assert getattr(library, f"sizeof_{name}")() == kind.itemsize, name


def test_every_kernel_is_loaded_and_says_what_it_is() -> None:
    for file, kernels in KERNELS.items():
        text = (folder("kernels") / f"{file}.cu").read_text(encoding="utf-8")
        assert set(kernels_in(text)) == set(kernels)
        for kernel in kernels:
            head = text[: text.index(f" {kernel}(\n")].rsplit("\n\n", 1)[1]
            assert "//   launch: " in head, f"{kernel} does not say how it is launched"
            assert re.search(r"\bowns\b", head), f"{kernel} does not say who owns the outputs"
    assert {path.stem for path in folder("kernels").glob("*.cu")} == set(KERNELS)


def test_errors_point_into_the_kernel_file() -> None:
    text = kernel_source("sweep").splitlines()
    own = (folder("kernels") / "sweep.cu").read_text(encoding="utf-8").splitlines()
    start = text.index(next(line for line in text if line.endswith('"sweep.cu"')))
    number = int(text[start].split()[1])
    assert text[start + 1 :] == own[number - 1 :]


def test_numbers_of_the_kernels_are_those_of_the_launches() -> None:
    text = "".join(kernel_source(file) for file in KERNELS)
    defined = {name: int(value) for name, value in re.findall(r"^#define (\w+) (\d+)$", text, re.M)}
    shared = ("MOST_CHAINS", "MOST_DEGREE", "SIDE", "VOXELS", "ROWS", "STRIP")
    assert {name: defined[name] for name in shared} == {name: getattr(cuda_backend, name) for name in shared}


class Scarce:
    """numpy with little memory: arrays of more than so many bytes are refused."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes, self.refused, self.freed, self.numpy = most_bytes, 0, 0, DeviceNumpy()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.numpy, name)

    def empty(self, shape: tuple[int, ...], kind: Any) -> np.ndarray:
        if np.prod(shape) * np.dtype(kind).itemsize > self.most_bytes:
            self.refused += 1
            raise MemoryError("out of memory")
        return self.numpy.empty(shape, kind)

    def get_default_memory_pool(self) -> Scarce:
        return self

    def free_all_blocks(self) -> None:
        self.freed += 1


def scarce_backend(most_bytes: int) -> tuple[CudaBackend, Scarce]:
    xp = Scarce(most_bytes)
    return CudaBackend(xp, lambda code, options: HostModule(code, BUILDS["exact"]), budget_bytes=2**30), xp


CONES = ConeTable(RadialBasis((1.0,), (2,)), np.array([0.0, 180.0]), np.array([[[0.5], [0.5]], [[0.0], [0.0]]]))


def lit(backend: CudaBackend) -> tuple[Scene, Moments, Moments]:
    density = np.random.default_rng(1).uniform(0, 2, (6, 7, 8)).astype(np.float32)
    scene = backend.load(Volume(Grid((0, 0, 0), (0.5, 0.5, 0.5), density.shape), density))
    field, halo = (backend.new_moments(scene, (1, 1, 1), (5, 6, 7), order) for order in (2, 1))
    field.values[:, :, 0], halo.values[:, :, 0] = 1.0, 0.1
    return scene, field, halo


def test_blocks_that_do_not_fit_are_halved(caplog: pytest.LogCaptureFixture) -> None:
    plenty = backend_on_host("exact")
    expected = plenty.transport(*lit(plenty), CONES, directions(64, 2))
    short, xp = scarce_backend(7 * 4 * 6 * 7 * 8)  # room for seven directions
    with caplog.at_level(logging.WARNING):
        dose = short.transport(*lit(short), CONES, directions(64, 2))
    np.testing.assert_allclose(dose, expected, rtol=1e-6, atol=1e-6 * expected.max())
    assert xp.refused == xp.freed > 0
    assert "GPU memory is short" in caplog.text


def test_too_little_memory_for_one_direction_is_said() -> None:
    short, _ = scarce_backend(100)
    with pytest.raises(BackendUnavailable, match="too little memory"):
        short.transport(*lit(short), CONES, directions(64, 2))


@pytest.mark.parametrize("budget_bytes", [1, 50_000, 2**30])
def test_the_budget_changes_blocks_and_not_the_dose(budget_bytes: int) -> None:
    plenty, tight = backend_on_host("exact"), backend_on_host("exact", budget_bytes=budget_bytes)
    one, two = (backend.transport(*lit(backend), CONES, directions(64, 2)) for backend in (plenty, tight))
    np.testing.assert_allclose(two, one, rtol=1e-5, atol=1e-6 * one.max())


def test_slabs_are_carried_as_the_whole() -> None:
    """Halo in slices 1 to 5 of 6, the field in 2 and 3 of them; what enters from other slabs is carried on."""
    backend = backend_on_host("exact")
    rng = np.random.default_rng(4)
    density = rng.uniform(0, 2, (6, 7, 8)).astype(np.float32)
    scene = backend.load(Volume(Grid((0, 0, 0), (0.5, 0.5, 0.5), density.shape), density))
    bright, dim = (rng.uniform(0, 1, shape).astype(np.float32) for shape in ((2, 4, 6), (5, 5, 7)))

    def made(low: int, high: int, order: int, energy: np.ndarray, first: int) -> Moments:
        (y0, x0), (n1, n2) = ((1, 1) if order == 2 else (1, 0)), energy.shape[1:]
        moments = backend.new_moments(scene, (low, y0, x0), (high, y0 + n1, x0 + n2), order)
        moments.values[:, :, 0] = backend.xp.asarray(energy[low - first : high - first])
        return moments

    def carried(halos: list[tuple[int, int]]) -> np.ndarray:
        sources = []
        for low, high in halos:
            a, b = max(low, 2), min(high, 4)
            field = made(a, b, 2, bright, 2) if a < b else None
            sources.append(backend.settle(field, made(low, high, 1, dim, 1), CONES, directions(64, 2)))
        dose = backend.to_host(backend.carry(scene, sources, CONES, directions(64, 2)))
        assert not sources, "used up"
        return dose

    whole = carried([(1, 6)])
    for cuts in ([(1, 3), (3, 6)], [(1, 2), (2, 4), (4, 6)], [(z, z + 1) for z in range(1, 6)]):
        np.testing.assert_allclose(carried(cuts), whole, rtol=1e-4, atol=1e-5 * whole.max())


def test_slabs_that_do_not_follow_each_other_are_a_mistake() -> None:
    backend = backend_on_host("exact")
    scene, _, halo = lit(backend)
    one = backend.settle(None, halo, CONES, directions(64, 2))
    with pytest.raises(AssertionError):
        backend.carry(scene, [one, one], CONES, directions(64, 2))


def test_energy_of_the_halo_alone_is_carried() -> None:
    backend = backend_on_host("exact")
    scene, field, halo = lit(backend)
    field.values[...] = 0
    sphere = directions(64, 2)
    both = backend.transport(scene, field, halo, CONES, sphere)
    scene, _, halo = lit(backend)
    alone = backend.to_host(backend.carry(scene, [backend.settle(None, halo, CONES, sphere)], CONES, sphere))
    np.testing.assert_allclose(alone, both, rtol=1e-5, atol=1e-6 * both.max())


def test_moments_may_take_half_of_a_budget_and_a_quarter_of_a_device(
    fake_cupy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert backend_on_host("exact", budget_bytes=1000).most_moments_bytes == 500
    backend = select_backend("cuda")  # 1 of 8 GiB is free: half of the largest part below 60 % of that
    assert backend.most_moments_bytes == 2**28
    for free_gib in (6.7, 7.0, 8.0):
        info = (int(free_gib * 2**30), 2**33)
        FakeRuntime.memGetInfo = staticmethod(lambda info=info: info)  # type: ignore[attr-defined]
        assert backend.most_moments_bytes == 2**31
        assert backend.fan_budget_bytes == 2**30
    monkeypatch.setattr(POOL, "get_limit", lambda: 2**30)  # as by CUPY_GPU_MEMORY_LIMIT
    assert backend.most_moments_bytes == 2**28
    monkeypatch.setattr(POOL, "used_bytes", lambda: 2**29)
    assert backend.most_moments_bytes == 2**27


def test_threads_do_not_disturb_each_other() -> None:
    backend = backend_on_host("exact")
    expected = backend.transport(*lit(backend), CONES, directions(64, 2))
    with ThreadPoolExecutor(2) as pool:
        doses = pool.map(lambda _: backend.transport(*lit(backend), CONES, directions(64, 2)), range(4))
    for dose in doses:
        np.testing.assert_array_equal(dose, expected)


def test_more_chains_than_registers_are_refused() -> None:
    backend = backend_on_host("exact")
    basis = RadialBasis((1.0, 2.0, 3.0, 4.0, 5.0), (1,) * 5)
    cones = ConeTable(basis, np.array([0.0, 180.0]), np.stack([np.full((5, 1), 0.2), np.zeros((5, 1))]))
    with pytest.raises(UnsupportedPlan, match="too many chains"):
        backend.transport(*lit(backend), cones, directions(64, 2))


def test_arguments_without_a_size_are_refused_by_the_host_module() -> None:
    code = 'extern "C" __global__ void nothing(int n) { (void)n; }\n'
    kernel = HostModule(code).get_function("nothing")
    kernel((1,), (1,), (np.int32(3),))
    with pytest.raises(AssertionError, match="no size"):
        kernel((1,), (1,), (3,))


def test_structs_as_scalars_are_refused_by_the_host_module() -> None:
    """CuPy would copy them into too little memory."""
    kernel = HostModule('extern "C" __global__ void nothing(int n) { (void)n; }\n').get_function("nothing")
    one = np.zeros((), [("n", np.int32)])
    kernel((1,), (1,), (one,))
    with pytest.raises(AssertionError, match="cuts a struct off"):
        kernel((1,), (1,), (one[()],))


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:-1", "cuda:x", "CPU", ""])
def test_unknown_names_are_refused(name: str) -> None:
    with pytest.raises(BackendUnavailable, match="There is no backend"):
        select_backend(name)


def test_auto_says_why_it_takes_the_cpu(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def none(*_: object) -> None:
        raise BackendUnavailable("No GPU can be used", "CuPy is not installed", "Install it")

    monkeypatch.setattr(select, "_cuda", none)
    with caplog.at_level(logging.INFO):
        assert select_backend("auto").name == "cpu"
    assert "CuPy is not installed" in caplog.text
    with pytest.raises(BackendUnavailable, match="CuPy is not installed"):
        select_backend("cuda")


class FakeRuntime:
    """Two devices: a new one, and one that is too old."""

    @staticmethod
    def getDeviceCount() -> int:
        return 2

    @staticmethod
    def driverGetVersion() -> int:
        return 12080

    @staticmethod
    def getDeviceProperties(number: int) -> dict[str, Any]:
        return {"name": b"Some GPU", "totalGlobalMem": 8 * 2**30, "major": 9 if number == 0 else 6, "minor": 0}


@pytest.fixture
def fake_cupy(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module `cupy` that knows two devices and computes with numpy and g++."""
    import sys
    import types

    module = types.ModuleType("cupy")
    module.__spec__ = object()  # type: ignore[assignment]
    module.cuda = types.SimpleNamespace(runtime=FakeRuntime, Device=_Current)  # type: ignore[attr-defined]
    FakeRuntime.memGetInfo = staticmethod(lambda: (2**30, 2**33))  # type: ignore[attr-defined]
    module.get_default_memory_pool = lambda: POOL  # type: ignore[attr-defined]
    module.RawModule = lambda code, options: HostModule(code, BUILDS["exact"])  # type: ignore[attr-defined]
    module.__getattr__ = lambda name: getattr(DeviceNumpy(), name)  # type: ignore[method-assign]
    monkeypatch.setitem(sys.modules, "cupy", module)
    select._cuda.cache_clear()
    yield module
    select._cuda.cache_clear()


class _Current:
    """Notes which device is the current one."""

    stack: ClassVar[list[int]] = []
    used: ClassVar[int | None] = None

    def __init__(self, number: int) -> None:
        self.number = number

    def use(self) -> None:
        _Current.used = self.number

    def __enter__(self) -> None:
        self.stack.append(self.number)

    def __exit__(self, *_: object) -> None:
        self.stack.pop()


def test_a_usable_gpu_is_taken_and_described(fake_cupy: Any) -> None:
    backend = select_backend("auto")
    assert isinstance(backend, CudaBackend)
    assert backend.device == "Some GPU, 8 GiB, CUDA 12.8"
    assert select_backend("cuda") is backend is select_backend("cuda:0"), "kernels are loaded once a process"
    assert backend.fan_budget_bytes == 2**27
    with backend.context():
        assert _Current.stack == [0]
    assert _Current.stack == [] and _Current.used == 0


def test_old_and_absent_gpus_are_refused(fake_cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendUnavailable, match="too old"):
        select_backend("cuda:1")
    with pytest.raises(BackendUnavailable, match="There is no GPU 5"):
        select_backend("cuda:5")


def test_a_broken_driver_is_a_reason(fake_cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> int:
        raise OSError("driver version is insufficient")

    monkeypatch.setattr(FakeRuntime, "getDeviceCount", staticmethod(broken))
    with pytest.raises(BackendUnavailable, match="driver version is insufficient"):
        select_backend("cuda")
    assert select_backend("auto").name == "cpu"


def test_rows_and_columns_are_exchanged() -> None:
    backend = backend_on_host("exact")
    array = np.random.default_rng(3).normal(size=(3, 5, 13)).astype(np.float32)
    found = backend.exchanged(backend.upload(array))
    np.testing.assert_array_equal(found.get(), array.transpose(0, 2, 1))


@pytest.mark.parametrize("shape", [(10, 1, 1, 3), (7, 4, 5, 37), (18, 30, 9, 33)])
def test_moments_are_correlated_on_a_chessboard_of_rows(shape: tuple[int, ...]) -> None:
    backend = backend_on_host("exact")
    moments = np.random.default_rng(3).normal(size=shape).astype(np.float32)
    seen = np.add.outer(np.arange(shape[1]), np.arange(shape[2])) % 2 == 0
    rows = moments[:, seen].reshape(len(moments), -1).astype(float)
    found = backend._covariance(backend.upload(moments))
    np.testing.assert_allclose(found, rows @ rows.T, rtol=1e-5, atol=1e-4 * np.abs(rows @ rows.T).max())


@pytest.mark.parametrize("inside", [((1, 2, 0), (2, 3, 41)), ((1, 2, 3), (2, 3, 30)), ((0, 0, 0), (4, 6, 41)), None])
def test_sources_of_the_field_take_the_place_of_those_of_the_halo(inside: tuple[Any, Any] | None) -> None:
    """Two slabs; 5 directions of 3 stages, no multiple of what a warp takes; the field in the second slab."""
    backend, rng = backend_on_host("exact"), np.random.default_rng(3)

    def combined(low: tuple[int, int, int], shape: tuple[int, int, int], count: int) -> _Combined:
        values = backend._spacious((count, *shape))
        values[...] = backend.upload(rng.normal(size=(count, *shape)).astype(np.float32))
        return _Combined(low, values, rng.normal(size=(5, 3, count)).astype(np.float32))

    def product(some: _Combined) -> np.ndarray:
        return np.einsum("mkr,rabc->mkabc", some.weights, some.values.get())

    halos = [combined((2, 1, 0), (3, 6, 41), 4), combined((5, 1, 0), (4, 6, 41), 2)]
    field = None if inside is None else combined((5 + inside[0][0], 1 + inside[0][1], inside[0][2]), inside[1], 7)
    slabs = _Slabs([_Settled(None, halos[0]), _Settled(field, halos[1])])
    expected = np.concatenate([product(halo) for halo in halos], axis=2)
    if field is not None and inside is not None:
        (z, y, x), (n0, n1, n2) = inside
        expected[:, :, 3 + z : 3 + z + n0, y : y + n1, x : x + n2] = product(field)
    found = slabs.sources(backend, np.array([4, 0, 2])).get()[:, : 7 * 6 * 41]
    np.testing.assert_allclose(found.reshape(3, 3, 7, 6, 41), expected[[4, 0, 2]], atol=1e-5)
