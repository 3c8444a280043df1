"""Choose the backend: `auto`, `cpu`, and, once there, `cuda`."""

from __future__ import annotations

from spinedose.backends.base import Backend
from spinedose.errors import BackendUnavailable


def select_backend(name: str = "auto") -> Backend:
    """Make the backend of a name.

    Parameters
    ----------
    name : str
        `"auto"` (the fastest that can be used here) or `"cpu"`.

    Raises
    ------
    BackendUnavailable
        For an unknown or unusable backend.
    """
    if name in ("auto", "cpu"):
        from spinedose.backends.cpu.backend import CpuBackend

        return CpuBackend()
    raise BackendUnavailable(
        f"There is no backend '{name}' in this version", "it computes on the CPU only", "Use auto or cpu"
    )
