"""Files that a user names: text that is read, places that may be written to, and files that are whole or not there."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from spinedose.errors import InvalidInput


def expect_replaceable(path: str | os.PathLike[str]) -> None:
    """Refuse an output that is a device or a pipe: a file that is written aside and renamed would take its place."""
    place = Path(path)
    if place.exists() and not (place.is_file() or place.is_dir()):
        raise InvalidInput(
            f"The output '{place}' is a device or a pipe, and no file", "it would be replaced", "Name a file"
        )


@contextmanager
def aside(path: Path) -> Iterator[Path]:
    """A place beside a file to write it to; at the end it is renamed, so that the file is complete or not there.

    Parameters
    ----------
    path : Path
        The file; replaced when it exists. Its folder must exist.

    Raises
    ------
    InvalidInput
        If it is a device or a pipe.
    """
    expect_replaceable(path)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        yield part
        part.replace(path)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> Path:
    """Write a text and the end of its last line, in UTF-8, whole or not at all; see `aside`."""
    with aside(path) as part:
        part.write_text(text + "\n", encoding="utf-8")
    return path


def read_text(path: Path, what: str) -> str:
    """Text of a file in UTF-8; a mark at its beginning is left out.

    Parameters
    ----------
    path : Path
        The file.
    what : str
        What the message calls it: `"The study file"`.

    Raises
    ------
    InvalidInput
        If it is a folder, cannot be read, or is no text.
    """
    if path.is_dir():
        raise InvalidInput(f"{what} '{path.name or path}' is a folder", "a file is asked for", "Name a file")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InvalidInput(
            f"{what} '{path.name}' cannot be read", error.strerror or str(error), "Check the path"
        ) from None
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise InvalidInput(f"{what} '{path.name}' is no text file", "it holds bytes that no text has", "Name another")
    return text
