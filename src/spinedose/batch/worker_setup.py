"""What a worker process of this computer does first: Dask loads this module in it (`preload`)."""

from __future__ import annotations

import signal
from typing import Any


def dask_setup(worker: Any) -> None:
    """Leave Ctrl-C to the parent: a terminal sends it to both, and the parent ends its workers in order."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
