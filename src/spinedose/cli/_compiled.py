"""Compiled code that all workers of a study have in common, made before they compute.

numba keeps what it compiles on disk. The process that compiled the sweep runs it rounded a little differently from all
that load it later (2e-7 of the maximum dose; with numba 0.68, why was not found out). So that no result of a study
hangs on who computed it, another process compiles, and every worker loads the same from the disk.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Callable

from spinedose._cache import recall, remember

CODE = "from spinedose.cli._compiled import compute_once; compute_once()"


def compile_first(tell: Callable[[str], None]) -> None:
    """Have another process compile what doses are computed with, unless that was done already.

    `tell` is called with a sentence before it is done. When that process fails the study goes on, and says itself what
    is wrong.
    """
    from spinedose.batch.identity import program, versions
    from spinedose.batch.results import digest

    place = {"numba_cache": os.environ.get("NUMBA_CACHE_DIR", ""), "host": platform.node(), "of": platform.processor()}
    key = f"compiled-{digest({'program': program(), 'versions': versions(), **place})}"
    if recall(key):
        return
    tell("Compiling, once on this computer; it takes a minute or two.")
    done = subprocess.run(
        [sys.executable, "-c", CODE], stdin=subprocess.DEVNULL, capture_output=True, check=False,
    )  # fmt: skip
    if done.returncode == 0:
        remember(key, True)


def compute_once() -> None:
    """A small scenario that takes all ways a dose can take: fine voxels, metal, histograms."""
    from spinedose.assignments import Assignment
    from spinedose.demo import demo_case
    from spinedose.scenarios.scenario import Scenario
    from spinedose.scenarios.study import Study
    from spinedose.setup import Setup

    case = demo_case()
    study = Study(
        case.plan, case.ct, case.structures, spacing_cm=1.0, fine=("SpinalCord",), backend="cpu",
        materials=(Assignment("titanium", above_hu=2500.0),),
    )  # fmt: skip
    study.outcome(Scenario("as planned"))
    study.outcome(Scenario("turned", Setup(pitch_deg=1.0)))
