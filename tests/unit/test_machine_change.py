"""A changed treatment head: what changes, and what must not."""

from __future__ import annotations

import numpy as np
import pytest

from spinedose.errors import InvalidInput
from spinedose.machine import read_machine
from spinedose.machine_change import MachineChange


def test_only_leaves_and_spot_change() -> None:
    machine = read_machine("varian-truebeam-m120")
    changed = MachineChange(leaf_offset_cm=0.05, spot_factor=1.5).of(machine)
    for name, beam in machine.beams.items():
        other = changed.beams[name]
        assert other.leaf_offset_cm == pytest.approx(beam.leaf_offset_cm + 0.05)
        assert [s.sigma_x_cm for s in other.spot] == pytest.approx([1.5 * s.sigma_x_cm for s in beam.spot])
        assert [s.weight for s in other.spot] == [s.weight for s in beam.spot]
        assert other.spectrum is beam.spectrum and other.calibration is beam.calibration
    assert changed.data_hash == machine.data_hash  # it is recalibrated to the same output


def test_no_change_is_the_machine_itself() -> None:
    machine = read_machine("varian-truebeam-m120")
    assert MachineChange().of(machine) is machine


@pytest.mark.parametrize("wrong", [{"leaf_offset_cm": 0.5}, {"leaf_offset_cm": np.nan}, {"spot_factor": 0.0}])
def test_senseless_changes_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidInput):
        MachineChange(**wrong)
