"""Results of a study on disk: a file for each, named by the hash of what it was computed from, whole or not there."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FORMAT = 1
"""Version of a result file; part of its name's hash, so that another format is another result."""

FORGOTTEN_S = 3600.0
"""A file begun so long ago and not renamed since, or a mark so old, is what a killed process left [s]: a result is
written in milliseconds, and the run that asks for a mark takes it away at its end."""


def canonical(content: Any) -> bytes:
    """JSON that is the same for the same content: keys sorted, no blanks, no NaN.

    Raises
    ------
    ValueError
        If a number is not finite.
    """
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def digest(content: Any) -> str:
    """SHA-256 of the canonical JSON, as 64 hexadecimal digits."""
    return hashlib.sha256(canonical(content)).hexdigest()


@dataclass(frozen=True, slots=True)
class Results:
    """A folder of result files.

    A file is JSON with the keys `format`, `key`, `state` (`"done"` or `"failed"`), what was found, and `sha256` over
    all the rest. It is written aside, brought to the disk and renamed, so that whoever looks sees a whole file or none,
    whatever kills the writer. A file that cannot be read, has another key or fails its checksum counts as absent.

    Parameters
    ----------
    folder : Path
        Where they lie; made when the first is written.
    """

    folder: Path

    def path(self, key: str) -> Path:
        """Where the result of a key lies; in 256 folders, because file systems are slow with many files in one."""
        return self.folder / key[:2] / f"{key}.json"

    def read(self, key: str) -> dict[str, Any] | None:
        """A valid result, or None."""
        try:
            content = json.loads(self.path(key).read_bytes())
        except (OSError, ValueError):
            return None
        if not isinstance(content, dict) or content.get("key") != key or content.get("format") != FORMAT:
            return None
        checksum = content.pop("sha256", None)
        try:
            return content if checksum == digest(content) else None
        except ValueError:  # NaN, which this program does not write
            return None

    def write(self, key: str, content: Mapping[str, Any]) -> Path:
        """Write a result; it replaces what was there.

        Parameters
        ----------
        key : str
            Hash of its inputs.
        content : mapping
            What `json` can write, with `state` in it; numbers are finite.
        """
        assert content["state"] in ("done", "failed"), "a result says how it ended"
        whole = {**content, "format": FORMAT, "key": key}
        path = self.path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        # unique across computers that share the folder: two of them may write the same result, with the same content
        aside = path.with_name(f".{key}.{socket.gethostname()}.{os.getpid()}.{time.monotonic_ns()}.part")
        try:
            with aside.open("wb") as file:
                file.write(canonical({**whole, "sha256": digest(whole)}) + b"\n")
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
        return path

    @contextmanager
    def at_work(self, key: str, run: str) -> Iterator[None]:
        """Leave a mark while a result is computed; one that stays tells of a process that was killed over it.

        Parameters
        ----------
        key : str
            Hash of its inputs.
        run : str
            Name of the run that asked for it.
        """
        mark = self.path(key).with_name(f".{key}.{run}.{uuid.uuid4().hex}.mark")
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
        try:
            yield
        finally:
            mark.unlink(missing_ok=True)

    def marks(self, run: str) -> dict[Path, str]:
        """Marks that a run left, with the key of the result that was computed: its deaths, while nobody is at work."""
        return {mark: mark.name.split(".")[1] for mark in self.folder.glob(f"*/.*.{run}.*.mark")}

    def sweep(self) -> int:
        """Remove files that were begun and never renamed, and old marks; say how many. Younger ones may be in work."""
        before, swept = time.time() - FORGOTTEN_S, 0
        for path in (*self.folder.glob("*/.*.part"), *self.folder.glob("*/.*.mark")):
            try:
                if path.stat().st_mtime < before:
                    path.unlink()
                    swept += 1
            except FileNotFoundError:  # renamed meanwhile
                continue
        return swept
