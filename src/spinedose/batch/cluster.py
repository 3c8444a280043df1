"""Workers to compute with, by Dask: processes of this computer, or a scheduler that runs already."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from spinedose.errors import BackendUnavailable, InvalidInput

if TYPE_CHECKING:
    from distributed import Client

DEATHS_OF_A_TASK = 3
"""So many workers may die of a task (`allowed_failures`: Dask's default), and of a scenario."""

CONFIG = {
    # A process that was forked while numba's threads or a CUDA context exist is broken (numba's documentation, "The
    # Threading Layers"; CUDA C Programming Guide: a context does not survive a fork). Spawned ones start from nothing.
    "distributed.worker.multiprocessing-method": "spawn",
    # Dask's own data are a few kilobytes here. A worker that paused because a patient fills its memory would do so for
    # ever.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    # Above this share of its memory a worker is ended before the system runs out, and its task given to a new one.
    "distributed.worker.memory.terminate": 0.95,
    # A stage may hold Python's lock for minutes; such a worker is not dead. Death of a process is noticed at once.
    "distributed.scheduler.worker-ttl": None,
    "distributed.admin.tick.limit": "1h",
}
"""What of Dask's configuration is changed for workers on this computer."""


PATIENCE = "30s"
"""How long a scheduler may take to answer."""

ONE_GPU = "SPINEDOSE_ONE_GPU"
"""Set in workers that see one GPU only, as device 0, whatever number it has outside."""

SETUP = "spinedose.batch.worker_setup"
"""Module that every worker loads first."""

SILENT = logging.CRITICAL
"""From which level on Dask may write to the terminal: what it says of workers that end reads like an error of ours."""


def core_count() -> int:
    """Cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def worker_options(workers: int, *, cores: int, devices: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Options of each worker process (`distributed.Nanny`).

    Every process has one Python thread for tasks; the cores are shared out among the processes for numba's threads.
    With devices, worker `i` sees the i-th only, as device 0, and so does the process that takes its place.

    Parameters
    ----------
    workers : int
        How many.
    cores : int
        Cores to share out.
    devices : sequence of str
        GPUs by number or UUID, as in `CUDA_VISIBLE_DEVICES`; none for the CPU.

    Raises
    ------
    InvalidInput
        If there are no workers, or more than devices.
    """
    if workers < 1:
        raise InvalidInput(f"{workers} workers were asked for", "at least one is needed", "Choose", argument="workers")
    if devices and workers > len(devices):
        raise InvalidInput(
            f"{workers} workers were asked for",
            f"there are {len(devices)} GPUs, and each worker has one for itself",
            "Choose fewer",
            argument="workers",
        )
    threads = max(1, cores // workers)
    options = []
    for number in range(workers):
        env = {"NUMBA_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
        if devices:
            env |= {"CUDA_VISIBLE_DEVICES": devices[number], ONE_GPU: "1"}
        own = {"memory_limit": _memory_limit(workers), "silence_logs": SILENT, "preload": [SETUP]}
        options.append({"name": number, "nthreads": 1, "env": env, **own})
    return options


def backend_here(name: str) -> str:
    """Name of a study's backend in this process: a worker that sees one GPU only has it as the first."""
    return "cuda" if name.startswith("cuda:") and os.environ.get(ONE_GPU) else name


def _memory_limit(workers: int) -> int:
    """Each worker's share of the memory that this process may use [bytes]."""
    from distributed.system import MEMORY_LIMIT

    return int(MEMORY_LIMIT) // workers


def visible_devices(backend: str) -> tuple[str, ...]:
    """GPUs that workers of this computer can be given.

    Parameters
    ----------
    backend : str
        `"cpu"`: none. `"auto"` and `"cuda"`: all that there are. `"cuda:1"`: this one.
    """
    from spinedose.backends.select import NAMES, count_devices

    known = NAMES.fullmatch(backend)
    if backend == "cpu" or known is None:
        return ()
    count = count_devices()
    listed = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    names = tuple(listed[:count]) if listed else tuple(map(str, range(count)))
    if backend == "auto":
        return names
    number = int(known[1]) if known[1] else None
    if not names or (number is not None and number >= len(names)):
        raise BackendUnavailable(
            f"There is no GPU for '{backend}'", f"{len(names)} were found", "Choose another", argument="backend"
        )
    return names if number is None else (names[number],)


@contextmanager
def open_client(
    *, workers: int | None = None, scheduler: str = "", devices: Sequence[str] = (), cores: int | None = None
) -> Iterator[Client]:
    """Open a connection to workers; those of this computer end with it.

    Parameters
    ----------
    workers : int, optional
        Processes on this computer; by default one for each device, or else for each core.
    scheduler : str
        Address of a scheduler that runs, `tcp://host:8786`; then nothing is started.
    devices : sequence of str
        GPUs for workers on this computer; see `worker_options`.
    cores : int, optional
        Cores to use on this computer; by default all that this process may use.

    Raises
    ------
    InvalidInput
        If Dask is not installed, or the scheduler does not answer.
    """
    try:
        import dask
        from distributed import Client, Nanny, Scheduler, SpecCluster
    except ImportError:
        raise InvalidInput(
            "Dask is not installed", "it runs the workers of a study", "Install it: pip install 'spinedose[batch]'"
        ) from None
    if scheduler:
        if workers is not None:
            raise InvalidInput(
                "Workers and a scheduler were given", "a scheduler has workers of its own", "Leave one out"
            )
        try:
            client = Client(scheduler, timeout=PATIENCE, set_as_default=False)
        except (OSError, ValueError) as error:
            raise InvalidInput(
                f"The scheduler {scheduler} does not answer", str(error).splitlines()[0].rstrip("."), "Start it"
            ) from None
        with client:
            yield client
        return
    cores = cores or core_count()
    count = (len(devices) or cores) if workers is None else workers
    options = worker_options(count, cores=cores, devices=devices)
    own: dict[str, Any] = {
        "dashboard": False,
        "dashboard_address": "127.0.0.1:0",
        "host": "127.0.0.1",
        "port": 0,
        "allowed_failures": DEATHS_OF_A_TASK,
    }
    with (
        dask.config.set(CONFIG),
        SpecCluster(
            workers={one["name"]: {"cls": Nanny, "options": one} for one in options},
            scheduler={"cls": Scheduler, "options": own},
            silence_logs=SILENT,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client
