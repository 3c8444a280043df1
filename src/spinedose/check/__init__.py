"""The secondary check: a plan computed again and held against the planned dose; `spinedose.check(...)` makes one."""

from __future__ import annotations

import sys
from types import ModuleType

from spinedose.check.outcome import (  # isort: skip  # `conduct` needs it loaded first
    SCHEMA_VERSION,
    BeamFound,
    Check,
    Delivered,
    Eqd2Found,
    Finding,
    GammaFound,
    InputFile,
    MetricPair,
    Names,
    OtherName,
    Prescription,
    StructureFound,
    StructureGamma,
    TargetQuality,
)

from spinedose.check.conduct import check  # isort: skip

__all__ = [
    "SCHEMA_VERSION",
    "BeamFound",
    "Check",
    "Delivered",
    "Eqd2Found",
    "Finding",
    "GammaFound",
    "InputFile",
    "MetricPair",
    "Names",
    "OtherName",
    "Prescription",
    "StructureFound",
    "StructureGamma",
    "TargetQuality",
    "check",
]


class _Room(ModuleType):
    """This package, callable: `spinedose.check(...)` is a name of the face and this room at once."""

    __call__ = staticmethod(check)


sys.modules[__name__].__class__ = _Room
