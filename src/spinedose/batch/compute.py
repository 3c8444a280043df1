"""What a study computes in earnest: outcomes of scenarios, for one patient at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from spinedose.assignments import Assignment
from spinedose.batch.cluster import backend_here
from spinedose.batch.patients import PatientFiles, look_at
from spinedose.batch.tasks import Compute
from spinedose.couches import list_couches, read_couch
from spinedose.dicom.ct import read_ct
from spinedose.dicom.plan import read_plan
from spinedose.dicom.structures import read_structures
from spinedose.errors import InvalidInput
from spinedose.fingerprint import file_digest, series_digest
from spinedose.hu_curve import list_curves, read_curve
from spinedose.machine import machine_folder
from spinedose.protocol import list_protocols, read_protocol
from spinedose.scenarios import Scenario, Study
from spinedose.scenarios.study import METRICS
from spinedose.settings import Settings

WITHOUT_INFLUENCE = ("name", "group", "is_sample")
"""What of a scenario the numbers do not depend on."""


@dataclass(frozen=True, slots=True)
class DoseWork:
    """How every patient of a study is computed.

    Parameters
    ----------
    plan : str
        Label or UID of the plan, in folders that hold several; empty for the only one.
    machine, curve, couch, protocol : str
        As in `Study`: names of what comes with spinedose, or whole paths. Empty: by the leaves; no couch; no limits.
        The curve is that of `settings`.
    settings : Settings
        Accuracy settings.
    spacing_cm : float
        Voxel size [cm].
    fine : tuple of str
        Structures around which voxels are half as large.
    materials : tuple of Assignment
        Named materials.
    backend : str
        As in `compute_dose`. A result does not depend on which device of a kind computed it.
    metrics, regions : tuple of str
        What is measured, and where; no regions: all targets, cords and organs.
    prescription_gy : float or None
        Of all fractions [Gy]; None: what each plan states.
    chosen : tuple of (str, str)
        Structures by their names in the protocol.
    bolus : str
        `"refuse"` or `"ignore"`, as in `read_plan`.
    missing_slices : str
        `"refuse"` or `"interpolate"`, as in `read_ct`.
    """

    plan: str = ""
    machine: str = ""
    couch: str = ""
    protocol: str = ""
    settings: Settings = Settings()  # noqa: RUF009
    spacing_cm: float = 0.25
    fine: tuple[str, ...] = ()
    materials: tuple[Assignment, ...] = ()
    backend: str = "auto"
    metrics: tuple[str, ...] = METRICS
    regions: tuple[str, ...] = ()
    prescription_gy: float | None = None
    chosen: tuple[tuple[str, str], ...] = ()
    bolus: Literal["refuse", "ignore"] = "refuse"
    missing_slices: Literal["refuse", "interpolate"] = "refuse"

    def __post_init__(self) -> None:
        """Refuse now what every patient would be refused for."""
        from spinedose.compare.metrics import parse_metric

        for name in self.metrics:
            parse_metric(name)
        read_curve(self.settings.curve)
        if self.machine:
            machine_folder(self.machine)
        if self.couch:
            read_couch(self.couch)
        if self.protocol:
            read_protocol(self.protocol)
        if not 0.05 <= self.spacing_cm <= 1.0:
            raise InvalidInput(f"Spacing is {self.spacing_cm} cm", "0.05 to 1 cm can be computed", "2.5 mm is usual")

    def look(self, name: str, folder: Path) -> PatientFiles:
        """Find and hash a patient's files; structures are needed, because they are what is measured."""
        found = look_at(name, folder, plan=self.plan, machine=self.machine or None, bolus=self.bolus)
        if found.structures is None:
            raise InvalidInput(f"{name} has no structures", "there is nothing to measure", "Add the RTSTRUCT file")
        return found

    def facts(self, patient: PatientFiles, scenario: Scenario) -> Mapping[str, Any]:
        """Everything that the numbers depend on, contents of files instead of their names."""
        facts = asdict(self)
        facts["settings"]["curve"] = _content(self.settings.curve, tuple(list_curves()))
        facts["couch"] = _content(self.couch, list_couches())
        facts["protocol"] = _content(self.protocol, list_protocols())
        # which plan and which machine: their contents are those of the patient
        del facts["plan"], facts["machine"]
        facts["backend"] = self.backend.partition(":")[0]
        return {"patient": patient.as_key(), "scenario": scenario_facts(scenario), "settings": facts}

    def prepare(self, patient: PatientFiles) -> Compute:
        """Read a patient; densities and fluences are made with the first scenario, and kept for the next."""
        assert patient.structures is not None, "`look` saw to it"
        structures = read_structures(patient.structures)
        study = Study(
            read_plan(patient.plan, bolus=self.bolus),
            read_ct(patient.ct, missing_slices=self.missing_slices),
            structures,
            machine=self.machine or None,
            materials=self.materials,
            couch=self.couch,
            spacing_cm=self.spacing_cm,
            fine=self.fine or None,
            backend=backend_here(self.backend),
            settings=self.settings,
            metrics=self.metrics,
            regions=self.regions,
            prescription_gy=self.prescription_gy,
            protocol=read_protocol(self.protocol) if self.protocol else None,
            chosen=dict(self.chosen),
        )

        def compute(scenario: Scenario) -> Mapping[str, Any]:
            found = study.outcome(scenario).as_dict()
            del found["scenario"]  # its name may change; what it is is in the key
            return found

        return compute


def scenario_facts(scenario: Scenario) -> dict[str, Any]:
    """What of a scenario the numbers depend on; of other CTs and of files, the contents."""
    facts = {key: value for key, value in scenario.as_dict().items() if key not in WITHOUT_INFLUENCE}
    if scenario.curve:
        facts["curve"] = _content(scenario.curve, tuple(list_curves()))
    if scenario.ct is not None:
        if facts["ct"].pop("in_memory", False):
            raise InvalidInput(
                f"Scenario '{scenario.name}' has a CT in memory", "workers could not read it", "Name its folder"
            )
        folder = Path(str(scenario.ct.ct))
        if not folder.is_dir():
            raise InvalidInput(f"Scenario '{scenario.name}' has its CT in '{folder}'", "there is no such folder")
        facts["ct"]["ct"] = _series(folder)
        structures = str(scenario.ct.structures)
        facts["ct"]["structures"] = _content(structures, ()) if structures else ""
        if isinstance(facts["ct"]["registration"], str):
            facts["ct"]["registration"] = _content(facts["ct"]["registration"], ())
    return facts


def _content(name_or_file: str, known: Sequence[str]) -> str:
    """A name that comes with spinedose as it is, since data are hashed with the program; of a file the contents."""
    if not name_or_file or name_or_file in known:
        return name_or_file
    path = Path(name_or_file)
    try:
        return _hashed((path,), _signature((path,)), False)
    except OSError as error:
        raise InvalidInput(f"'{path}' cannot be opened", str(error.strerror or error), "Check the name") from error


def _series(folder: Path) -> str:
    files = tuple(sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")))
    return _hashed(files, _signature(files), True)


def _signature(files: tuple[Path, ...]) -> tuple[tuple[int, int], ...]:
    """Size and time of change: what tells within one process whether a file must be hashed again."""
    return tuple((found.st_size, found.st_mtime_ns) for found in (path.stat() for path in files))


@lru_cache(maxsize=4096)
def _hashed(names: tuple[Path, ...], signature: tuple[tuple[int, int], ...], is_series: bool) -> str:
    """A file of several scenarios and patients is hashed once."""
    return series_digest(names) if is_series else file_digest(names[0])
