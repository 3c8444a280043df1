"""Hashes of what a dose or a study was computed from, so that results can be told from those of other data."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

NOT_HASHED = ("identity", "unread")
"""Fields that say who a patient is, as a name in a hash can be guessed and tried, and why something was not read, on
which no number depends."""


def fingerprint(*things: Any) -> str:
    """SHA-256 of plans, images, structures and plain values; the same for the same content."""
    digest = hashlib.sha256()
    for thing in things:
        _feed(digest, thing)
    return digest.hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def series_digest(paths: Iterable[Path]) -> str:
    """SHA-256 over the digests of several files, whatever their names and order."""
    return hashlib.sha256("".join(sorted(file_digest(path) for path in paths)).encode()).hexdigest()


def _feed(digest: Any, thing: Any) -> None:
    """Every part with its kind, so that parts of different things cannot read alike."""
    if is_dataclass(thing) and not isinstance(thing, type):
        digest.update(f"<{type(thing).__name__}".encode())
        for item in fields(thing):
            if item.name not in NOT_HASHED:
                digest.update(f"|{item.name}=".encode())
                _feed(digest, getattr(thing, item.name))
    elif isinstance(thing, np.ndarray):
        digest.update(f"<array {thing.dtype.str} {thing.shape}:".encode())
        digest.update(np.ascontiguousarray(thing).tobytes())
    elif isinstance(thing, Mapping):
        digest.update(b"<map")
        for key in sorted(thing, key=str):
            digest.update(f"|{key}=".encode())
            _feed(digest, thing[key])
    elif isinstance(thing, list | tuple):
        digest.update(b"<list")
        for one in thing:
            digest.update(b"|")
            _feed(digest, one)
    else:
        digest.update(f"<{type(thing).__name__}:{thing!r}".encode())
    digest.update(b">")
