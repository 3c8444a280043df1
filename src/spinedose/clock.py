"""Wall time by part of the work, and progress within a part of the whole."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

log = logging.getLogger(__name__)

Progress = Callable[[str, float], None]
"""Called with the name of a stage and the share of the whole that is done, 0 to 1."""


@dataclass(slots=True, eq=False)
class Clock:
    """Adds up wall time by stage and reports progress within a part of the whole.

    A stage is over when `wait` returns: a device works on when it has been told what to do.
    """

    progress: Progress | None
    low: float = 0.0
    width: float = 1.0
    seconds: dict[str, float] = field(default_factory=dict)
    wait: Callable[[], None] | None = None

    def part(self, low: float, width: float) -> Clock:
        """A clock for a part of this one's work, from `low` on, `width` long, with the same sums."""
        return replace(self, low=self.low + self.width * low, width=self.width * width)

    def waiting(self, wait: Callable[[], None]) -> Clock:
        """This clock, for stages on a device that is waited for."""
        return replace(self, wait=wait)

    def add(self, seconds: Mapping[str, float]) -> None:
        """Add times that were measured elsewhere [s]."""
        for stage, spent in seconds.items():
            self.seconds[stage] = self.seconds.get(stage, 0.0) + spent

    def report(self, stage: str, share: float) -> None:
        """Report that this share of the part is done; a `Progress` itself."""
        if self.progress is not None:
            self.progress(stage, self.low + self.width * share)

    def done(self) -> None:
        """Report that all is done."""
        if self.progress is not None:
            self.progress("done", 1.0)

    @contextmanager
    def __call__(self, stage: str, done: float) -> Iterator[None]:
        """Time a stage of this name; `done` is the share of this part at its start."""
        self.report(stage, done)
        start = time.perf_counter()
        try:
            yield
            if self.wait is not None:
                self.wait()
        finally:
            spent = time.perf_counter() - start
            self.seconds[stage] = self.seconds.get(stage, 0.0) + spent
            log.debug("%s: %.3f s", stage, spent)

    def within(self, stage: str, low: float, width: float) -> Callable[[float], None] | None:
        """Progress of a stage from inside it."""
        report = self.progress
        if report is None:
            return None
        return lambda share: report(stage, self.low + self.width * (low + width * share))
