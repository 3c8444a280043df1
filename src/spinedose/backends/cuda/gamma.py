"""Gamma on a GPU: what `kernels/gamma.cu` needs, and the map made of what it finds (docs/theory/gamma.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from spinedose.backends.layout import HOME, NEIGHBOUR, SEARCH, shape_struct, struct
from spinedose.errors import InvalidInput

if TYPE_CHECKING:
    from spinedose.backends.cuda.backend import CudaBackend
    from spinedose.compare.gamma import GammaTask

FINEST_ACCURACY = 1e-5
"""What bounds in single precision can tell apart; a finer search would halve cells to no end."""

THREADS = 128
"""Threads of a block."""


def gamma(backend: CudaBackend, task: GammaTask) -> NDArray[np.float32]:
    """Gamma where it is wanted, NaN elsewhere.

    Parameters
    ----------
    backend : CudaBackend
        The device.
    task : GammaTask
        Doses and criteria.

    Returns
    -------
    ndarray float32, shape (nz, ny, nx)
        The map.
    """
    from spinedose.compare.gamma import cell_ranges, neighbours

    criteria = task.criteria
    if criteria.accuracy < FINEST_ACCURACY:
        raise InvalidInput(
            f"A GPU cannot tell gamma to {criteria.accuracy:g}",
            f"in single precision {FINEST_ACCURACY:g} is the best",
            "Give a larger accuracy, or search on the CPU",
        )
    offsets, reach = neighbours(task.side, criteria.largest)
    around = np.zeros(len(reach), NEIGHBOUR)
    around["x"], around["y"], around["z"] = offsets.T
    around["reach"] = reach
    cells = tuple(n - 1 for n in task.around.shape)
    homes = [
        backend.upload(homes_along(start, ratio, n, many))
        for start, ratio, n, many in zip(task.start, task.ratio, task.grid.shape[::-1], cells[::-1], strict=True)
    ]
    voxels = np.flatnonzero(task.wanted).astype(np.int32)
    searched = backend.upload(task.searched, np.float32)
    ranges = (backend.upload(one) for one in cell_ranges(searched))
    found = backend.xp.empty(len(voxels), np.float32)
    numbers = struct(
        SEARCH, grid=shape_struct(task.grid.shape), cells=shape_struct(cells),
        points=len(voxels), neighbours=len(around), side=task.side, fixed=task.fixed_gy, share=task.share,
        largest=criteria.largest, accuracy=criteria.accuracy,
    )  # fmt: skip
    backend.launch(
        "find_gamma", (len(voxels),), (THREADS,),
        backend.upload(voxels), backend.upload(task.planned[task.wanted]), *homes, searched, *ranges,
        backend.upload(around), numbers, found,
    )  # fmt: skip
    result = np.full(task.grid.shape, np.nan, np.float32)
    result[task.wanted] = backend.to_host(found)
    return result


def homes_along(start: float, ratio: float, count: int, cells: int) -> NDArray[np.void]:
    """Cells that hold the reference voxels along an axis, and where in them, HOME (count,).

    Rounded once from double precision, so that voxels far from the origin are as exact as those near it.

    Parameters
    ----------
    start, ratio : float
        First reference voxel, and step, in voxels of the evaluated grid.
    count, cells : int
        Reference voxels, and evaluated cells.
    """
    position = start + ratio * np.arange(count)
    cell = np.clip(np.floor(position), 0, cells - 1)
    homes = np.zeros(count, HOME)
    homes["cell"] = cell
    homes["at"] = np.clip(position - cell, 0.0, 1.0)
    return homes
