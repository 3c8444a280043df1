"""Independent collapsed-cone photon dose from a DICOM plan and CT.

The names below are all that is promised to stay. They are loaded when first used, so that `import spinedose` is quick::

    import spinedose as sd

    plan, ct = sd.read_plan("RP.dcm"), sd.read_ct("CT/")
    dose = sd.compute_dose(plan, ct, structures=sd.read_structures("RS.dcm"))
    dose.save("RD.dcm")

Not a medical device: not for clinical use without local commissioning.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from spinedose._version import __version__

if TYPE_CHECKING:
    from spinedose.assignments import Assignment
    from spinedose.check import Check, check
    from spinedose.density import CtImage
    from spinedose.dicom.ct import read_ct
    from spinedose.dicom.dose import read_dose
    from spinedose.dicom.plan import read_plan
    from spinedose.dicom.structures import read_structures
    from spinedose.engine import compute_dose, irradiate
    from spinedose.errors import InvalidInput, SpinedoseError, UnknownMachine, UnsupportedPlan
    from spinedose.grid import Grid, Volume
    from spinedose.machine import list_machines
    from spinedose.machine import read_machine as machine
    from spinedose.machine_change import MachineChange
    from spinedose.patient import prepare_patient
    from spinedose.plan import Beam, Plan
    from spinedose.result import Dose
    from spinedose.settings import Settings
    from spinedose.setup import Setup
    from spinedose.structures import Structure, StructureSet

__all__ = [
    "Assignment",
    "Beam",
    "Check",
    "CtImage",
    "Dose",
    "Grid",
    "InvalidInput",
    "MachineChange",
    "Plan",
    "Settings",
    "Setup",
    "SpinedoseError",
    "Structure",
    "StructureSet",
    "UnknownMachine",
    "UnsupportedPlan",
    "Volume",
    "__version__",
    "check",
    "compute_dose",
    "irradiate",
    "list_machines",
    "machine",
    "prepare_patient",
    "read_ct",
    "read_dose",
    "read_plan",
    "read_structures",
]

_HOMES = {
    "Assignment": "spinedose.assignments",
    "Beam": "spinedose.plan",
    "Check": "spinedose.check",
    "CtImage": "spinedose.density",
    "Dose": "spinedose.result",
    "Grid": "spinedose.grid",
    "InvalidInput": "spinedose.errors",
    "MachineChange": "spinedose.machine_change",
    "Plan": "spinedose.plan",
    "Settings": "spinedose.settings",
    "Setup": "spinedose.setup",
    "SpinedoseError": "spinedose.errors",
    "Structure": "spinedose.structures",
    "StructureSet": "spinedose.structures",
    "UnknownMachine": "spinedose.errors",
    "UnsupportedPlan": "spinedose.errors",
    "Volume": "spinedose.grid",
    "check": "spinedose.check",
    "compute_dose": "spinedose.engine",
    "irradiate": "spinedose.engine",
    "list_machines": "spinedose.machine",
    "machine": "spinedose.machine",
    "prepare_patient": "spinedose.patient",
    "read_ct": "spinedose.dicom.ct",
    "read_dose": "spinedose.dicom.dose",
    "read_plan": "spinedose.dicom.plan",
    "read_structures": "spinedose.dicom.structures",
}


def __getattr__(name: str) -> Any:
    """Load a name of the face from its room."""
    if name not in _HOMES:
        raise AttributeError(f"module 'spinedose' has no attribute '{name}'")
    home = import_module(_HOMES[name])
    # These two are rooms and, being callable, the functions too: importing the room binds the name to it.
    value = home if name in ("machine", "check") else getattr(home, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The face, for completion."""
    return sorted(__all__)
