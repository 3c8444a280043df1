"""Runs the cases of the validation on one device and gathers what they say."""

from __future__ import annotations

import datetime
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from spinedose._version import __version__
from spinedose.backends.select import select_backend
from spinedose.clock import Progress
from spinedose.curve_judging import read_criteria
from spinedose.errors import InvalidInput
from spinedose.machine import Machine, read_machine
from spinedose.validate.analytic import analytic
from spinedose.validate.case import NO_HEAD, Bench, Case
from spinedose.validate.lines import Outcome, Results, Tag
from spinedose.validate.literature import POINTS, literature
from spinedose.validate.scatter import TG71, scatter_factors
from spinedose.validate.slabs import REFERENCE, SPECTRA, monte_carlo
from spinedose.validate.tanks import Tanks
from spinedose.validate.water import AGILITIES, COMMISSIONING, LA6, SYNERGY, TRUEBEAMS, agility, truebeam

BEAMS = ("6X", "6FFF", "10X", "10FFF")

CASES: tuple[Case, ...] = (
    Case(
        "water-truebeam",
        "Depth doses, profiles and output ratios of open jaw fields in water, TrueBeam",
        (
            "Linac LA6, Royal Surrey County Hospital, 2015, taken for a TrueBeam: scans with an IBA CC13 and an IBA"
            " photon diode, SSD 100 cm (repository robmarkcole/Useful-python-for-medical-physics at 4d47d1f)",
        ),
        (LA6,),
        tuple((TRUEBEAMS[0], beam) for beam in BEAMS),
        truebeam,
        TRUEBEAMS,
    ),
    Case(
        "water-agility",
        "Scans, calibration, output factors and tissue-phantom ratios in water, Elekta Agility 6 MV",
        (
            "Linac M2619, scans of 5 x 5 and 10 x 10 cm, SSD 90 cm, output factor and calibration (pymedphys at d376237"
            " and 0985135, Apache-2.0)",
            "Elekta Synergy with Agility head, 2019, output factors and tissue-phantom ratios"
            " (e0404/photonPencilBeamKernelCalc at c2296dd, MIT); 1 to 40 cm",
        ),
        (COMMISSIONING, SYNERGY),
        ((AGILITIES[0], "6X"),),
        agility,
        AGILITIES,
    ),
    Case(
        "literature",
        "Quoted off-axis ratios, output factors of small fields, penumbra of a narrow field",
        (
            "Off-axis ratios: Varian TrueBeam representative beam data, mean of three machines, quoted points (cf."
            " Chang et al., Med Phys 39:6981, 2012)",
            "Output factors: Followill et al., J Appl Clin Med Phys 13(5):282 (2012), doi:10.1120/jacmp.v13i5.3962",
            "Penumbra: J Appl Clin Med Phys 12(3):142 (2011), doi:10.1120/jacmp.v12i3.3475, Table 2",
        ),
        (POINTS,),
        (*((TRUEBEAMS[0], beam) for beam in BEAMS), (AGILITIES[0], "6X")),
        literature,
        (*TRUEBEAMS, *AGILITIES),
    ),
    Case(
        "scatter-factors",
        "The chain of scatter factors: Sc from the fluence stage, Sc Sp from the dose, tissue-phantom ratios",
        (
            "Worked example of AAPM TG-71, 6 MV (Gibbons et al., 2014, doi:10.1118/1.4864244), as in"
            " stevend12/SolutioCpp at 22803fd",
        ),
        (TG71,),
        ((TRUEBEAMS[0], "6X"),),
        scatter_factors,
    ),
    Case(
        "analytic",
        "Energy balance, exponential attenuation, inverse square, symmetry",
        ("Exact physics; no data",),
        (),
        (NO_HEAD,),
        analytic,
    ),
    Case(
        "mc",
        "Absolute depth doses and profiles of ideal fields in slabs",
        ("EGSnrc (all tables of shared mc_reference) and ompMC (validation/monte_carlo), Mohan spectra",),
        (REFERENCE, SPECTRA),
        (NO_HEAD,),
        monte_carlo,
    ),
)
"""All cases, in the order of the page."""


def data_beside_checkout() -> Path | None:
    """The folder `shared` beside the checkout that spinedose runs from; None when there is none."""
    root = checkout()
    if root is None or not (root.parent / "shared").is_dir():
        return None
    return root.parent / "shared"


def checkout() -> Path | None:
    """The repository that spinedose runs from; None for an installed package."""
    root = Path(__file__).resolve().parents[3]
    return root if (root / "validation").is_dir() and (root / "pyproject.toml").is_file() else None


def results_file(results: Results) -> Path | None:
    """Where results are kept in the checkout; None for an installed package."""
    root = checkout()
    if root is None:
        return None
    kind = re.sub(r"[^a-z0-9]+", "-", results.device.lower().split(",")[0]).strip("-")
    return root / "validation" / "results" / f"validate-{results.backend}-{kind}-{results.version}.json"


def choose(names: Sequence[str]) -> tuple[Case, ...]:
    """Cases by their names; all without names.

    Raises
    ------
    InvalidInput
        For a name that is none.
    """
    known = {case.name: case for case in CASES}
    for name in names:
        if name not in known:
            raise InvalidInput(f"There is no case '{name}'", f"cases are {', '.join(known)}", "Choose one of them")
    return tuple(case for case in CASES if not names or case.name in names)


def validate(
    names: Sequence[str] = (),
    *,
    data: Path | None = None,
    machine: str | Path | None = None,
    beam: str | None = None,
    backend: str = "auto",
    sides_cm: Sequence[float] = (),
    progress: Progress | None = None,
) -> Results:
    """Compute cases and hold them against their limits.

    Parameters
    ----------
    names : sequence of str
        Names of cases; all without.
    data : Path, optional
        Folder of the measured data; by default the one beside the checkout. Cases whose data are absent are skipped.
    machine : str or Path, optional
        Machine to hold against the data instead of the one they belong to: a name, or a folder of your own.
    beam : str, optional
        Only this beam.
    backend : str
        `"auto"`, `"cpu"`, `"cuda"` or `"cuda:1"`.
    sides_cm : sequence of float
        Only these square fields [cm], to try things out.
    progress : callable, optional
        Called with what is being computed and the share of the whole that is done, 0 to 1.

    Returns
    -------
    Results

    Raises
    ------
    InvalidInput
        If nothing fits the names, the machine and the beam.
    """
    cases, device = choose(names), select_backend(backend)
    data = data or data_beside_checkout()
    if data is not None and not data.is_dir():
        raise InvalidInput(f"The data folder '{data}' is not there", "", "Name the folder", "data")
    wanted = [(case, *pair) for case in cases for pair in _pairs(case, machine, beam)]
    if not wanted:
        raise InvalidInput(
            f"No case has beam '{beam}'" + (f" of machine '{machine}'" if machine else ""),
            f"beams of the cases are {', '.join(sorted({b for c in cases for _, b in c.pairs if b}))}",
            "Choose one of them",
            "beam",
        )
    outcomes, share = [], 0.0

    def report(text: str) -> None:
        if progress is not None:
            progress(text, share)

    tanks = Tanks(device, report)
    criteria = read_criteria()
    # one beam after the other through all its cases, so that they share tanks and the memory is bounded
    order = sorted(range(len(wanted)), key=lambda n: (_first(wanted, n), n))
    for done, n in enumerate(order):
        case, head, energy = wanted[n]
        share = done / len(wanted)
        if done and _first(wanted, n) != _first(wanted, order[done - 1]):
            tanks.forget()
        missing = case.missing(data)
        if missing:
            outcomes.append((n, _skipped(case, head, energy, data, missing)))
            continue
        report(f"{case.name} {energy}")
        bench = Bench(data or Path(), device, tanks, criteria, tuple(sides_cm))
        outcomes.append((n, compute(case, bench, head, energy)))
    report("done")
    return Results(device.name, device.device, tuple(outcome for _, outcome in sorted(outcomes, key=lambda o: o[0])))


def compute(case: Case, bench: Bench, head: str | Machine, energy: str) -> Outcome:
    """One case for one beam."""
    start = time.perf_counter()
    machine = read_machine(head) if isinstance(head, str) and head else head or None
    assert not isinstance(machine, str)
    tag = Tag(case.name, machine.name if machine else "", energy)
    lines, curves, notes = case.run(bench, tag, machine)
    status = [f"Beam {energy}: {machine.beam(energy).provenance.get('status', 'status unknown')}."] if machine else []
    return Outcome(
        *(tag.case, tag.machine, tag.beam),
        datetime.date.today().isoformat(),
        machine.data_hash if machine else "",
        time.perf_counter() - start,
        tuple(lines),
        tuple(curves),
        (*status, *dict.fromkeys(notes)),
        "" if lines else "no field of these data was asked for",
    )


Wanted = list[tuple[Case, str, str]]


def _pairs(case: Case, machine: str | Path | None, beam: str | None) -> Iterator[tuple[str, str]]:
    if case.pairs == (NO_HEAD,):
        if machine is None and beam is None:
            yield NO_HEAD
        return
    pairs = case.pairs
    if machine is not None:
        own = read_machine(machine)
        energies = dict.fromkeys(energy for _, energy in pairs)
        pairs = tuple((str(machine), energy) for energy in energies if energy in own.beams)
    yield from (pair for pair in pairs if beam is None or pair[1] == beam)


def _first(wanted: Wanted, n: int) -> int:
    """Number of the first case of the same machine and beam."""
    return next(m for m, item in enumerate(wanted) if item[1:] == wanted[n][1:])


def _skipped(case: Case, head: str, energy: str, data: Path | None, missing: Sequence[str]) -> Outcome:
    name = read_machine(head).name if head else ""
    where = f"they belong into {data}" if data is not None else "name the folder that holds them with --data DIR"
    why = f"the data {' and '.join(missing)} are not there; {where}"
    return Outcome(case.name, name, energy, datetime.date.today().isoformat(), skipped=why)


__all__ = ["CASES", "__version__", "checkout", "choose", "compute", "data_beside_checkout", "results_file", "validate"]
