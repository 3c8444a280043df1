"""What a linac recorded while it treated: logs read through pylinac, and the plan that was delivered."""

from __future__ import annotations

from spinedose.logs.delivery import (
    BeamDelivery,
    Delivery,
    LogsByBeam,
    deliver,
    delivered_plan,
)
from spinedose.logs.machine_log import MachineLog, Samples
from spinedose.logs.reading import find_logs, read_log, read_logs
from spinedose.logs.thinning import thin

__all__ = [
    "BeamDelivery",
    "Delivery",
    "LogsByBeam",
    "MachineLog",
    "Samples",
    "deliver",
    "delivered_plan",
    "find_logs",
    "read_log",
    "read_logs",
    "thin",
]
