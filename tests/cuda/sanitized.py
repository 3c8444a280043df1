"""Runs every kernel once on a tiny case, compiled with the flags of the command line; or a kernel with a planted fault.

    python sanitized.py all -fsanitize=address,undefined
    python sanitized.py past_the_end -fsanitize=address,undefined
    python sanitized.py lost_update -fsanitize=thread
    compute-sanitizer python sanitized.py device

A sanitizer's library has to be loaded before Python's: tests/cuda/test_sanitizers.py does that. With `device` the
kernels run on the first GPU, for NVIDIA's own tool.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from cuda_on_host import HostModule, backend_on_device
from device_numpy import DeviceArray, DeviceNumpy

from made_up import beam_of
from spinedose.backends.cuda.backend import KERNELS, UNROLLED, CudaBackend
from spinedose.compare.gamma import gamma_index
from spinedose.cones import ConeTable, RadialBasis
from spinedose.directions import directions
from spinedose.exposure import Attenuation, Shots, make_exposure
from spinedose.fluence_model import FluenceMaps, Raster
from spinedose.grid import Grid, Volume
from spinedose.machine import read_machine
from spinedose.segments import segment_beam

FAULTS = """
extern "C" __global__ void past_the_end(const float* x, int n, float* y) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i <= n) y[i] = x[i];
}
extern "C" __global__ void lost_update(const float* x, int n, float* y) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[0] += x[i];
}
"""


def run_fault(name: str, flags: Sequence[str]) -> None:
    """Run one of the kernels above."""
    x, y = np.ones(1000, np.float32).view(DeviceArray), np.zeros(1000, np.float32).view(DeviceArray)
    HostModule(FAULTS, flags).get_function(name)((4,), (256,), (x, np.int32(1000), y))


def on_host(flags: Sequence[str]) -> CudaBackend:
    """The kernels compiled for the host, with memory for a few directions."""
    return CudaBackend(DeviceNumpy(), lambda code, options: HostModule(code, flags), budget_bytes=400_000)


def unpooled_device() -> CudaBackend:
    """The first GPU, every array in memory of its own: in CuPy's pool a small step past an end hits nobody."""
    import cupy

    cupy.cuda.set_allocator(None)
    return backend_on_device()


def run_all(backend: CudaBackend) -> None:
    """Run all stages: odd sizes, two materials, electrons, rays of all leanings, moving leaves."""
    launched, launch = set(), backend.launch

    def watch(kernel: str, *args: Any) -> None:
        launched.add(kernel)
        launch(kernel, *args)

    backend.launch = watch  # type: ignore[method-assign]
    machine = read_machine("varian-truebeam-m120")
    edges = machine.mlc.boundaries_cm
    tips = np.linspace(-0.6, 0.4, len(edges) - 1)
    leaves = np.array([[tips, tips + 0.5], [tips + 0.3, tips + 1.1]])
    jaws = np.tile([-1.0, 1.0], (2, 1))
    beam = beam_of(
        leaf_boundaries_cm=edges, leaf_cm=leaves, leaf_axis="x", jaw_x_cm=jaws, jaw_y_cm=jaws,
        gantry_deg=np.array([0.0, 2.0]), collimator_deg=np.full(2, 20.0),
    )  # fmt: skip
    segments, axes = segment_beam(beam), np.tile([[[0.2, 0.0], [0.0, 0.2], [0.1, 0.0]]], (2, 1, 1))
    maps = backend.fluence(machine, machine.beams["6X"], segments, Raster(-1.9, -1.75, 0.1, 37, 35), axes)
    assert np.isfinite(float(maps.photon.sum())) and maps.photon.max() > 0
    rng = np.random.default_rng(1)
    density = np.pad(rng.uniform(0, 2, (5, 6, 7)), 1).astype(np.float32)
    grid = Grid((-2.0, -1.5, -1.75), (0.5, 0.4, 0.6), density.shape)
    scene = backend.load(Volume(grid, density), (density > 1).astype(np.uint8))
    raster, coarse = Raster(-1.5, -1.5, 0.2, 16, 16), Raster(-1.5, -1.5, 0.6, 6, 6)
    n = 3
    maps = FluenceMaps(
        rng.uniform(0, 1, (n, 16, 16)).astype(np.float32),
        raster,
        rng.uniform(0, 1, (n, 6, 6)).astype(np.float32),
        coarse,
    )
    shots = Shots(np.array([10.0, 11.0, 130.0]), np.array([0.0, 30.0, 60.0]), np.zeros(n), np.ones(n), maps)
    table = Attenuation(
        rng.uniform(0.1, 1, (2, 3, 40, 3)).astype(np.float32), 0.5, np.linspace(0, 2, 30).astype(np.float32), 0.25, 2.0,
        np.ones(2, np.float32), np.array([[0.0] * 7, np.linspace(0.0, 0.6, 7)], np.float32),
    )  # fmt: skip
    exposure = make_exposure(
        shots, grid=grid, patient_position="HFS", isocentre_cm=np.zeros(3), sad_cm=100.0, attenuation=table,
        group_step_deg=4.0,
    )  # fmt: skip
    low, high = (1, 0, 1), (6, 8, 8)
    field, halo = (backend.new_moments(scene, low, high, order, 4) for order in (4, 2))
    depth = backend.radiological_depth(scene, exposure.fans, table.path_factor)
    for moments in (field, halo):
        backend.release(scene, exposure, depth, (0, len(exposure)), moments)
    assert field.values.get().any() and field.electron_dose.get().any()
    for order in UNROLLED:
        backend.release(scene, exposure, depth, (0, len(exposure)), backend.new_moments(scene, low, high, order, 4))
    energy = np.zeros((4, 7, 1))
    energy[0] = 1 / 7
    heavier = np.array([0, 0.3], np.float32)
    basis = RadialBasis((0.1, 2.0, 30.0), (3, 3, 1))
    cones = ConeTable(basis, np.array([0.0, 180.0]), energy, density_factor=1 + heavier, returned=heavier)
    dose = backend.transport(scene, field, halo, cones, directions(60, 4))
    assert np.all(np.isfinite(dose)) and dose.max() > 0
    one = Volume(Grid((0.1, 0.0, 0.2), (0.3, 0.25, 0.2), (4, 5, 6)), rng.uniform(40, 60, (4, 5, 6)).astype(np.float32))
    other = Volume(Grid((0, 0, 0), (0.2, 0.3, 0.25), (5, 6, 7)), rng.uniform(40, 60, (5, 6, 7)).astype(np.float32))
    assert 0 < gamma_index(one, other, distance_cm=0.3, search=backend.gamma).mean < 2
    assert launched == {kernel for kernels in KERNELS.values() for kernel in kernels}


if __name__ == "__main__":
    what, *options = sys.argv[1:]
    if what in ("all", "device"):
        run_all(on_host(options) if what == "all" else unpooled_device())
    else:
        run_fault(what, options)
    print("ran to the end")
