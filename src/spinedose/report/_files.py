"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from spinedose._files import expect_replaceable
from spinedose.errors import InvalidInput


def written_whole(path: Path, content: bytes) -> Path:
    """Write aside, then rename.

    Raises
    ------
    InvalidInput
        If the file cannot be written; then nothing is left of it.
    """
    expect_replaceable(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        aside.write_bytes(content)
        aside.replace(path)
    except OSError as error:
        raise InvalidInput(f"The report '{path}' cannot be written", str(error.strerror or error)) from error
    finally:
        aside.unlink(missing_ok=True)
    return path
