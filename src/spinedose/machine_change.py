"""A treatment head that is not quite the commissioned one: leaves further out, another focal spot."""

from __future__ import annotations

from dataclasses import dataclass, replace

from spinedose._arguments import expect_number
from spinedose.errors import InvalidInput
from spinedose.machine import BeamModel, Machine


@dataclass(frozen=True, slots=True)
class MachineChange:
    """What is different about a treatment head. Its calibration stays what it is: machines are kept at their output.

    Parameters
    ----------
    leaf_offset_cm : float
        How much further every leaf tip stands back, at the isocentre plane [cm]; every gap is wider by twice as much.
    spot_factor : float
        All sizes of the focal spot, times this.
    """

    leaf_offset_cm: float = 0.0
    spot_factor: float = 1.0

    def __post_init__(self) -> None:
        expect_number("The leaf offset", self.leaf_offset_cm, "cm")
        expect_number("The factor of the focal spot", self.spot_factor, "times the size")
        if not abs(self.leaf_offset_cm) <= 0.3:
            raise InvalidInput(
                f"Leaves are set back by {self.leaf_offset_cm} cm", "up to 0.3 cm either way can be meant"
            )
        if not 0.2 <= self.spot_factor <= 5:
            raise InvalidInput(f"The focal spot is taken times {self.spot_factor}", "0.2 to 5 can be meant")

    @property
    def is_none(self) -> bool:
        """Whether nothing is different."""
        return self.leaf_offset_cm == 0 and self.spot_factor == 1

    def of(self, machine: Machine) -> Machine:
        """A machine with the change; the hash of its data stays that of the files it comes from."""
        if self.is_none:
            return machine
        return replace(machine, beams={name: self._beam(beam) for name, beam in machine.beams.items()})

    def _beam(self, beam: BeamModel) -> BeamModel:
        spot = tuple(
            replace(part, sigma_x_cm=part.sigma_x_cm * self.spot_factor, sigma_y_cm=part.sigma_y_cm * self.spot_factor)
            for part in beam.spot
        )
        return replace(beam, leaf_offset_cm=beam.leaf_offset_cm + self.leaf_offset_cm, spot=spot)
