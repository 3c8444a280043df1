"""Files that appear whole or not at all."""

from __future__ import annotations

from pathlib import Path

from spinedose._files import aside
from spinedose.errors import InvalidInput


def written_whole(path: Path, content: bytes) -> Path:
    """Write aside, then rename.

    Raises
    ------
    InvalidInput
        If the file cannot be written; then nothing is left of it.
    """
    try:
        with aside(path) as part:
            part.write_bytes(content)
    except OSError as error:
        raise InvalidInput(f"The report '{path}' cannot be written", str(error.strerror or error)) from error
    return path
