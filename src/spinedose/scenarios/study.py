"""The same plan many times: what does not change is computed once, and only numbers are kept."""

from __future__ import annotations

import math
import time
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spinedose._arguments import expect
from spinedose._version import __version__
from spinedose.assignments import Assignment
from spinedose.check.roles import roles_of
from spinedose.clock import Progress
from spinedose.compare.dvh import Cells, Dvh, cells_of, dvh_of
from spinedose.compare.metrics import Metric, MetricValue, measure, parse_metric
from spinedose.density import CtImage
from spinedose.engine import Memory, PreparedPatient, irradiate, prepare_patient
from spinedose.errors import InvalidInput
from spinedose.fingerprint import fingerprint
from spinedose.grid import Volume
from spinedose.hu_curve import read_curve
from spinedose.machine import Machine
from spinedose.machine_change import MachineChange
from spinedose.patient import FineLike, find_fine_box, prove_image
from spinedose.plan import Plan
from spinedose.protocol import Match, Protocol, evaluate_protocol, match_structures
from spinedose.result import Dose
from spinedose.scenarios.outcome import Curve, LimitKept, Outcome, Value
from spinedose.scenarios.scenario import NOMINAL, Scenario
from spinedose.scenarios.variants import Variant, make_variant, scaled_beams
from spinedose.settings import Settings
from spinedose.setup import Setup
from spinedose.structures import Structure, StructureSet

METRICS = ("D99%[Gy]", "D95%[Gy]", "D50%[Gy]", "D2%[Gy]", "Mean[Gy]", "Max[Gy]", "D0.03cc[Gy]")
"""Metrics of a study where none are named."""

MEASURED_ROLES = ("target", "cord", "organ")
"""Roles of structures that are measured where none are named."""

MOST_VARIANTS = 2
"""Patients of other CTs and densities that are kept ready, beside the planned one: with more, memory would grow."""

STEPS = 240
"""Steps of a histogram up to the prescription; rounded to 1, 2 or 5 times a power of ten [Gy]."""

USUAL_STEP_GY = 0.1
"""Of histograms where nothing is prescribed [Gy]."""


@dataclass(frozen=True, slots=True, eq=False)
class _Ready:
    """A patient on the device, the plan in his frame, and cells of structures that were drawn on another CT."""

    variant: Variant
    patient: PreparedPatient
    cells: Mapping[str, Cells]


@dataclass(frozen=True, slots=True, eq=False)
class _Known:
    """A dose of one fraction, from which others are scaled."""

    dose: Dose
    warnings: tuple[str, ...]


class Study:
    """A plan that is computed again and again, with one thing or another different each time.

    Made once; `run` and `outcome` compute. Memory does not grow with the number of scenarios: of each only an `Outcome`
    is left, and of doses the planned one and the last.

    Parameters
    ----------
    plan : Plan
        From `read_plan`.
    ct : CtImage
        From `read_ct`.
    structures : StructureSet
        From `read_structures`; gives body, overrides, and what is measured.
    machine, materials, couch, couch_surface_cm, spacing_cm, fine, backend, settings
        As in `compute_dose`.
    metrics : sequence of str
        Names after AAPM TG-263 (`spinedose.compare.metrics`), read from every structure.
    regions : sequence of str
        Names of the structures that are measured; empty: all targets, cords and organs.
    prescription_gy : float, optional
        Prescribed dose of all fractions [Gy]; otherwise the highest that the plan states.
    protocol : Protocol, optional
        Limits to hold every scenario against.
    chosen : mapping of str to str, optional
        Structures by their names in the protocol, where that is not clear.
    """

    def __init__(
        self,
        plan: Plan,
        ct: CtImage,
        structures: StructureSet,
        *,
        machine: Machine | str | Path | None = None,
        materials: Sequence[Assignment] = (),
        couch: str | Path = "",
        couch_surface_cm: float | None = None,
        spacing_cm: float = 0.25,
        fine: FineLike = None,
        backend: str = "auto",
        settings: Settings | None = None,
        metrics: Sequence[str] = METRICS,
        regions: Sequence[str] = (),
        prescription_gy: float | None = None,
        protocol: Protocol | None = None,
        chosen: Mapping[str, str] | None = None,
    ) -> None:
        expect("The plan", plan, Plan, "a Plan", "Read it with read_plan")
        prove_image(ct, structures)
        expect("The structure set", structures, StructureSet, "a StructureSet", "Read it with read_structures")
        self.plan, self.ct, self.structures = plan, ct, structures
        self.settings = settings or Settings()
        self.metrics = _metrics(metrics)
        self.prescription_gy = _prescription(plan, prescription_gy)
        self.protocol = protocol
        self._machine, self._materials, self._backend = machine, tuple(materials), backend
        self._couch, self._couch_surface_cm = couch, couch_surface_cm
        self._spacing_cm, self._fine = spacing_cm, find_fine_box(fine, structures)
        self._matches: tuple[Match, ...] = ()
        if protocol is not None:
            self._matches = match_structures(protocol, structures.structures, chosen=chosen)
        self.roles = roles_of(structures, self._matches)
        self.regions = _regions(structures, self.roles, regions)
        self._cells = {one.name: cells_of(one) for one in self.regions}
        self._memory = Memory()
        self._planned: _Ready | None = None
        self._others: OrderedDict[Any, _Ready] = OrderedDict()
        self._doses: OrderedDict[Any, _Known] = OrderedDict()

    @property
    def step_gy(self) -> float:
        """Distance of the doses on histograms [Gy]."""
        if not self.prescription_gy > 0:
            return USUAL_STEP_GY
        rough = self.prescription_gy / STEPS
        power = 10.0 ** math.floor(math.log10(rough))
        step = min((n * power for n in (1, 2, 5, 10)), key=lambda one: abs(math.log(one / rough)))
        return float(f"{step:.6g}")

    def run(
        self,
        scenarios: Iterable[Scenario],
        *,
        with_nominal: bool = True,
        keep_doses: bool = False,
        progress: Progress | None = None,
    ) -> Iterator[Outcome]:
        """Compute scenarios, one after the other; each outcome is there as soon as it is known.

        Parameters
        ----------
        scenarios : iterable of Scenario
            What to compute; names are unique.
        with_nominal : bool
            Compute the plan as it is first.
        keep_doses : bool
            Leave the doses in the outcomes; then memory does grow.
        progress : callable, optional
            Called with the name of the scenario and the share of the whole that is done, 0 to 1.

        Yields
        ------
        Outcome
        """
        wanted = [*([NOMINAL] if with_nominal else []), *scenarios]
        twice = [name for name, count in Counter(one.name for one in wanted).items() if count > 1]
        if twice:
            raise InvalidInput(f"Two scenarios are called '{twice[0]}'", "a table could not tell them apart")
        for one in wanted:
            self._prove(one)
        return self._each(wanted, keep_doses, progress)

    def _each(self, wanted: Sequence[Scenario], keep_doses: bool, progress: Progress | None) -> Iterator[Outcome]:
        for number, scenario in enumerate(wanted):

            def report(stage: str, done: float, number: int = number, name: str = scenario.name) -> None:
                if progress is not None:
                    progress(name, (number + done) / len(wanted))

            report("", 0.0)
            yield self.outcome(scenario, keep_dose=keep_doses, progress=report)
        if progress is not None:
            progress("done", 1.0)

    def outcome(self, scenario: Scenario, *, keep_dose: bool = False, progress: Progress | None = None) -> Outcome:
        """Compute one scenario.

        Parameters
        ----------
        scenario : Scenario
            What is different.
        keep_dose : bool
            Leave the dose in the outcome.
        progress : callable, optional
            Called with the name of the stage and the share that is done.
        """
        start = time.perf_counter()
        dose, computed, ready, warnings = self._dose(scenario, progress)
        fractions = scenario.fractions or self.plan.fractions
        found, doubts = self._histograms(dose.volume, ready)
        values = tuple(self._values(found, doubts))
        curves = tuple(Curve.of(curve, self.roles[name], self.step_gy) for name, curve in found.items())
        limits = tuple(self._limits(found, fractions))
        said = dict.fromkeys((*warnings, *(text for curve in found.values() for text in curve.warnings)))
        info = dose.metadata
        facts = {
            "version": info.version,
            "backend": info.backend,
            "device": info.device,
            "machines": list(info.machines),
            "beam_data_hash": info.beam_data_hash,
            "density_curve": info.density_curve,
            "body": info.body,
            "dose_quantity": info.dose_quantity,
        }
        seconds = time.perf_counter() - start
        kept = dose if keep_dose else None
        return Outcome(scenario, values, limits, curves, seconds, computed, tuple(said), facts, kept)

    def metadata(self) -> dict[str, Any]:
        """What tables of the study should be kept with: version, settings, and hashes of what went in."""
        return {
            "version": __version__,
            "plan_hash": fingerprint(self.plan),
            "ct_hash": fingerprint(self.ct),
            "structures_hash": fingerprint(self.structures),
            "settings": {
                **asdict(self.settings),
                "spacing_cm": self._spacing_cm,
                "fine": None if self._fine is None else asdict(self._fine),
                "materials": {one.region: one.made_of.name for one in self._materials},
                "couch": str(self._couch),
                "couch_surface_cm": self._couch_surface_cm,
                "machine": "" if self._machine is None else str(getattr(self._machine, "name", self._machine)),
            },
            "fractions": self.plan.fractions,
            "prescription_gy": self.prescription_gy if self.prescription_gy > 0 else None,
            "metrics": [metric.name for metric in self.metrics],
            "structures": {one.name: self.roles[one.name] for one in self.regions},
            "protocol": "" if self.protocol is None else self.protocol.name,
        }

    # --- dose ---------------------------------------------------------------------------------------------------------

    def _prove(self, scenario: Scenario) -> None:
        """Refuse, before anything is computed, what the plan cannot have."""
        fractions = scenario.fractions or self.plan.fractions
        count = len(scenario.setups)
        if isinstance(scenario.setup, tuple) and count != fractions:
            raise InvalidInput(
                f"Scenario '{scenario.name}' has {count} setups for {fractions} fractions",
                "each fraction has its own",
                "Give as many as there are fractions, or one for all",
            )
        scaled_beams(self.plan, tuple(scenario.factors_of_beams.items()), scenario.name)
        if scenario.curve:
            read_curve(scenario.curve)
        for path in scenario.ct.paths if scenario.ct is not None else ():
            if not path.exists():
                raise InvalidInput(
                    f"'{path}' of scenario '{scenario.name}' is not there",
                    "it could not be read later",
                    "Correct the path",
                )
        named = {one.structure for one in self._materials if one.structure}
        for change in scenario.densities:
            if change.structure in named:
                raise InvalidInput(
                    f"Scenario '{scenario.name}' changes the density of '{change.structure}', which has a material",
                    "the material would count",
                    "Leave one of the two out",
                )
            if scenario.ct is None or not scenario.ct.structures:
                self.structures[change.structure]

    def _dose(self, scenario: Scenario, progress: Progress | None) -> tuple[Dose, int, _Ready, tuple[str, ...]]:
        """The dose of all fractions, how many had to be computed, where, and what must be known."""
        self._prove(scenario)
        ready = self._ready(scenario, progress)
        fractions = scenario.fractions or self.plan.fractions
        weights = Counter(scenario.setups)
        share = fractions / len(scenario.setups)
        total: NDArray[np.float32] | None = None
        last: Dose | None = None
        computed, warnings = 0, list(ready.variant.warnings)
        for number, (setup, count) in enumerate(weights.items()):

            def report(stage: str, done: float, number: int = number) -> None:
                if progress is not None:
                    progress(stage, (number + done) / len(weights))

            known, is_new = self._fraction(scenario, ready, setup, report)
            computed += is_new
            warnings += known.warnings
            part = known.dose.values * np.float32(count * share * self._common_factor(scenario))
            total = part if total is None else np.add(total, part, out=total)
            last = known.dose
        assert total is not None and last is not None, "there is at least one setup"
        volume = Volume(last.grid, total)
        plan = replace(ready.variant.plan, fractions=fractions)
        dose = replace(last, volume=volume, plan=plan, ct=ready.variant.ct, beams={})
        return dose, computed, ready, tuple(dict.fromkeys(warnings))

    def _common_factor(self, scenario: Scenario) -> float:
        """What all metersets have in common: it needs no computation."""
        factors = scenario.factors_of_beams
        each = {factors.get(beam.number, 1.0) for beam in self.plan.beams}
        return scenario.meterset_factor * (each.pop() if len(each) == 1 else 1.0)

    def _own_factors(self, scenario: Scenario) -> tuple[tuple[int, float], ...]:
        """What metersets have not in common."""
        factors = scenario.factors_of_beams
        each = {factors.get(beam.number, 1.0) for beam in self.plan.beams}
        return () if len(each) == 1 else tuple(sorted(factors.items()))

    def _fraction(self, scenario: Scenario, ready: _Ready, setup: Setup, progress: Progress) -> tuple[_Known, bool]:
        """The dose of one fraction, remembered if it is that of the plan or the last."""
        factors = self._own_factors(scenario)
        key = (_matter_key(scenario), setup, scenario.change, factors)
        if key in self._doses:
            return self._doses[key], False
        variant = ready.variant
        dose = irradiate(
            scaled_beams(variant.plan, factors, scenario.name),
            ready.patient,
            machine=self._machine,
            setup=variant.setup(setup, self.plan),
            change=scenario.change,
            settings=self.settings,
            memory=self._memory,
            progress=progress,
        )
        known = _Known(dose, dose.metadata.warnings)
        self._doses[key] = known
        for old in [old for old in self._doses if old not in (_AS_PLANNED, key)]:
            del self._doses[old]
        return known, True

    def _ready(self, scenario: Scenario, progress: Progress | None) -> _Ready:
        """The patient of a scenario; the planned one is kept, and the last of others."""
        key = _matter_key(scenario)
        if key == _AS_PLANNED[0]:
            if self._planned is None:
                self._planned = self._prepare(scenario, progress)
            return self._planned
        if key not in self._others:
            while len(self._others) >= MOST_VARIANTS:
                self._others.popitem(last=False)
            self._others[key] = self._prepare(scenario, progress)
        self._others.move_to_end(key)
        return self._others[key]

    def _prepare(self, scenario: Scenario, progress: Progress | None) -> _Ready:
        curve = scenario.curve or self.settings.curve
        variant = make_variant(scenario, self.plan, self.ct, self.structures, curve=curve, fine=self._fine)
        surface_cm = self._couch_surface_cm
        if surface_cm is not None:  # the couch stays where the isocentre has it
            surface_cm += float(variant.moved_cm[1])
        patient = prepare_patient(
            variant.ct,
            patient_position=variant.plan.patient_position,
            structures=variant.structures,
            materials=self._materials,
            couch=self._couch,
            couch_surface_cm=surface_cm,
            spacing_cm=self._spacing_cm,
            fine=variant.fine,
            curve=curve,
            backend=self._backend,
            progress=progress,
        )
        cells: Mapping[str, Cells] = self._cells
        if variant.registration is not None and variant.is_own:
            assert variant.structures is not None
            drawn = {one.name: one for one in variant.structures.structures if one.contours_cm}
            cells = {one.name: cells_of(drawn[one.name]) for one in self.regions if one.name in drawn}
        elif variant.registration is not None:
            cells = {name: variant.moved(one) for name, one in self._cells.items()}
        return _Ready(variant, patient, cells)

    # --- numbers ------------------------------------------------------------------------------------------------------

    def _histograms(self, dose: Volume, ready: _Ready) -> tuple[dict[str, Dvh], dict[str, str]]:
        """Histograms by name, and for the other structures why there is none."""
        found, doubts = {}, {}
        for structure in self.regions:
            cells = ready.cells.get(structure.name)
            if cells is None:
                doubts[structure.name] = "it is not drawn on this CT"
                continue
            try:
                found[structure.name] = dvh_of(dose, cells)
            except InvalidInput as error:
                doubts[structure.name] = error.why or error.problem
        return found, doubts

    def _values(self, found: Mapping[str, Dvh], doubts: Mapping[str, str]) -> Iterator[Value]:
        for structure in self.regions:
            for metric in self.metrics:
                name, role = structure.name, self.roles[structure.name]
                if name not in found:
                    yield Value(name, role, metric.name, metric.unit, math.nan, doubts[name])
                    continue
                try:
                    one = measure(metric, found[name], prescription_gy=self.prescription_gy)
                except InvalidInput as error:
                    one = MetricValue(metric.name, math.nan, metric.unit, error.problem)
                yield Value(name, role, metric.name, metric.unit, one.value, one.doubt)

    def _limits(self, found: Mapping[str, Dvh], fractions: int) -> Iterator[LimitKept]:
        if self.protocol is None:
            return
        held = evaluate_protocol(self.protocol, self._matches, fractions, found, prescription_gy=self.prescription_gy)
        for line in held.lines:
            yield LimitKept(
                line.structure,
                line.metric,
                line.goal,
                line.sense,
                line.limit,
                line.recalculated,
                line.source,
                line.doubt,
            )


def _matter_key(scenario: Scenario) -> tuple[Any, ...]:
    """What decides which patient a scenario is computed in."""
    # With a registration the plan is placed by the pivot of the setups, too.
    pivot = scenario.setups[0].pivot_cm if scenario.ct is not None else None
    return scenario.ct, pivot, scenario.densities, scenario.curve, scenario.hu_offset


_AS_PLANNED = (_matter_key(NOMINAL), Setup(), MachineChange(), ())


def _metrics(names: Sequence[str]) -> tuple[Metric, ...]:
    if not names:
        raise InvalidInput("A study has no metrics", "its tables would be empty")
    return tuple({(metric := parse_metric(name)).name: metric for name in names}.values())


def _prescription(plan: Plan, given_gy: float | None) -> float:
    """As given, else the highest that the plan states; NaN when it states none [Gy]."""
    if given_gy is not None:
        if not (math.isfinite(given_gy) and given_gy > 0):
            raise InvalidInput(f"The prescription is {given_gy} Gy", "a prescribed dose is positive")
        return given_gy
    return max((one.dose_gy for one in plan.prescriptions), default=math.nan)


def _regions(structures: StructureSet, roles: Mapping[str, str], names: Sequence[str]) -> tuple[Structure, ...]:
    """The structures to measure: those named, or all that matter; targets first, then cords."""
    if names:
        chosen = tuple(structures[name] for name in dict.fromkeys(names))
        for one in chosen:
            if not one.contours_cm:
                raise InvalidInput(f"Structure '{one.name}' has no contours", "there is nothing to measure")
        return chosen
    drawn = [one for one in structures.structures if one.contours_cm and roles[one.name] in MEASURED_ROLES]
    drawn.sort(key=lambda one: MEASURED_ROLES.index(roles[one.name]))
    if not drawn:
        raise InvalidInput("There is no target, cord or organ to measure", "a study needs one", "Name structures")
    return tuple(drawn)
