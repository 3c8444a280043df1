"""Wall time by stage, progress within parts of the whole, and devices that work on after they were told what to do."""

from __future__ import annotations

import time

import pytest

from spinedose.clock import Clock


def test_parts_of_parts_report_their_share_of_the_whole() -> None:
    told: list[tuple[str, float]] = []
    clock = Clock(lambda stage, share: told.append((stage, share)))
    half = clock.part(0.5, 0.5)
    half.part(0.2, 0.4).report("depth", 0.5)
    clock.done()
    assert told == [("depth", pytest.approx(0.7)), ("done", 1.0)]


def test_a_stage_lasts_until_the_device_is_done() -> None:
    waits = []

    def wait() -> None:
        waits.append(1)
        time.sleep(0.02)

    clock = Clock(None)
    with clock.waiting(wait).part(0.0, 0.5)("sweep", 0.0):
        assert not waits, "it is waited for at the end"
    assert len(waits) == 1
    assert clock.seconds["sweep"] >= 0.02, "parts add to the same sums"
    with clock("host", 0.0):
        pass
    assert len(waits) == 1, "the clock itself waits for nothing"


def test_a_stage_that_fails_is_timed_and_not_waited_for() -> None:
    waits = []
    clock = Clock(None).waiting(lambda: waits.append(1))
    with pytest.raises(ZeroDivisionError), clock("sweep", 0.0):
        raise ZeroDivisionError
    assert "sweep" in clock.seconds and not waits
