"""The command line: `spinedose dose`, `check`, `replan`, `commission`, `validate` and others; verdicts first.

Exit codes: 0 done; 1 `check` found a plan outside its criteria, `doctor` something missing, `commission --check` a
drift, `validate` a number beyond its limit, `batch` a scenario without a result; 2 wrong input or arguments, with a
message that reads PROBLEM (WHY) WHAT TO DO; 70 spinedose failed unexpectedly, a bug; 130 interrupted. An output file is
either complete or not there.
"""

from __future__ import annotations

from spinedose.cli import compute, check, replan, commission, validate, batch, about  # isort: skip (as in the help)
from spinedose.cli._app import FAILED, INTERRUPTED, NOT_CLINICAL, app, as_option, main

__all__ = [
    "FAILED",
    "INTERRUPTED",
    "NOT_CLINICAL",
    "about",
    "app",
    "as_option",
    "batch",
    "check",
    "commission",
    "compute",
    "main",
    "replan",
    "validate",
]
