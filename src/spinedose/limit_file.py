"""Reads files of limits, criteria or protocols: one that comes with spinedose by its name, or one of the user's."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from spinedose.errors import InvalidInput

LIMITS = Path(__file__).with_name("limits")
"""A folder for each kind of file."""

SCHEMA_VERSION = 1
"""Version of the files that this spinedose reads."""


def list_limits(kind: str) -> tuple[str, ...]:
    """Names of the files of a kind (`criteria`, `protocol`) that come with spinedose, sorted."""
    return tuple(sorted(path.stem for path in (LIMITS / kind).glob("*.toml")))


def read_limits(name_or_file: str | Path, kind: str, *, absent: str, present: str) -> tuple[Path, dict[str, Any]]:
    """Read a file of limits.

    Parameters
    ----------
    name_or_file : str or Path
        One of `list_limits(kind)`, or a file.
    kind : str
        As in `list_limits`.
    absent, present : str
        How a message begins when there is no such file (`There are no criteria`), and when there is one that cannot be
        read (`The criteria in`).

    Returns
    -------
    path : Path
        The file.
    content : dict
        Its tables, without the version.

    Raises
    ------
    InvalidInput
        If there is none, it cannot be read, or it is of another version.
    """
    known = list_limits(kind)
    path = LIMITS / kind / f"{name_or_file}.toml" if str(name_or_file) in known else Path(name_or_file)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InvalidInput(
            f"{absent} '{path}'", f"spinedose has {', '.join(known)}", "Name one of these, or a file of your own"
        ) from None
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{present} '{path.name}' cannot be read", str(error), "Correct the file") from None
    if content.pop("schema_version", None) != SCHEMA_VERSION:
        raise InvalidInput(f"'{path.name}' is of another version", f"this spinedose reads version {SCHEMA_VERSION}")
    return path, content
