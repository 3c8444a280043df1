"""Find the folders that travel with the package: `kernels` and `beam_data`.

A wheel carries them inside the package; an editable install leaves them at the root of the repository.
"""

from __future__ import annotations

from pathlib import Path

from spinedose.errors import SpinedoseError


def folder(name: str) -> Path:
    """Return the path of a resource folder.

    Parameters
    ----------
    name : str
        `"kernels"` or `"beam_data"`.

    Returns
    -------
    pathlib.Path
        Inside the package first, in the repository root second.

    Raises
    ------
    SpinedoseError
        If neither exists.
    """
    package = Path(__file__).resolve().parent
    for candidate in (package / name, package.parents[1] / name):
        if candidate.is_dir():
            return candidate
    raise SpinedoseError(
        f"The folder '{name}' was not found",
        "it is part of spinedose and holds data that the engine needs",
        "Install spinedose again",
    )
