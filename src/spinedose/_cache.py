"""Small numbers that cost seconds to compute, kept in the user's cache folder and keyed by all that they depend on."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any


def cache_folder() -> Path:
    """Where the numbers lie; `SPINEDOSE_CACHE` overrides the platform's cache folder."""
    from platformdirs import user_cache_dir

    return Path(os.environ.get("SPINEDOSE_CACHE") or user_cache_dir("spinedose"))


def recall(key: str) -> Any:
    """What was remembered under a key, or None; a damaged file counts as nothing."""
    try:
        return json.loads((cache_folder() / f"{key}.json").read_text())
    except (OSError, ValueError):
        return None


def remember(key: str, value: Any) -> None:
    """Keep a JSON value; written aside and renamed. A folder that cannot be written to costs time, not the result."""
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=folder, suffix=".tmp")
        with os.fdopen(handle, "w") as file:
            json.dump(value, file)
        Path(name).replace(folder / f"{key}.json")
    except OSError:
        return
