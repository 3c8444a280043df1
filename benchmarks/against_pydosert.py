"""spinedose beside PyDoseRT on one plan, one patient and the same threads: time, memory, and how the doses differ.

    python -m venv ENV && ENV/bin/pip install pydosert
    python benchmarks/against_pydosert.py --their-python ENV/bin/python [-o benchmarks/results/pydosert.json]
    python benchmarks/against_pydosert.py --their-python ENV/bin/python --device cuda --chunk 8

PyDoseRT (MIT, https://github.com/UMU-DDI/PyDoseRT) is a pencil-beam engine written in PyTorch; it is called through its
public interface, in an environment of its own. Every contestant - spinedose, and PyDoseRT in each of `SETTINGS` - is a
process that stays; they take turns, one at a time, so that whatever else the machine does meets all of them.

What is timed is a plan to dose: for spinedose from the CT numbers on, calibration remembered; for PyDoseRT from the
densities on (those of spinedose), calibration done before. Before that each has computed a small plan. `again` is the
same plan a second time: with the same engine, which keeps its geometry, or for the same patient, with his densities.
benchmarks/README.md says what differs.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from processor import processor

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True)
class Setting:
    """One way to run PyDoseRT.

    Parameters
    ----------
    engine : str
        Its class: `DoseEngine` (one depth a plane) or `PencilDepthEngine` (one depth a pencil).
    kernel : int
        Width of the pencil kernel [voxels].
    backend : str
        How planes are convolved, `"direct"` or `"fft"`; the results are the same.
    chunk : int
        Control points that are computed together.
    map_mm : int
        Side of the fluence map [mm]; the leaf pairs beyond it are left out, and their leakage with them.
    why : str
        Where the values come from.
    """

    engine: str
    kernel: int
    backend: str
    chunk: int
    map_mm: int
    why: str


SETTINGS = {
    "example": Setting("DoseEngine", 25, "direct", 1, 400, "their examples/rtplan.ipynb (02c58d0), engine's defaults"),
    "tuned": Setting("DoseEngine", 25, "fft", 2, 400, "the same dose by the faster of their switches"),
    "fast": Setting("DoseEngine", 15, "fft", 1, 120, "smallest kernel of their tests, no leaves beyond 6 cm"),
    "fine": Setting("PencilDepthEngine", 51, "fft", 2, 400, "PencilDepthEngine as in their README"),
}
"""PyDoseRT as it comes, at its fastest and at its finest; `chunk` is the fastest on a CPU where it is not theirs."""

PRESET = "varian_10MV"
"""Their machine: all presets of 1.5.0 are 10 MV; this one has the leaves of the case (Millennium 120)."""

TPR_20_10 = 0.67
"""Beam quality that replaces the preset's: 6 MV as in their commissioning/pydosert_6MV.json (428fad6)."""

CASES = {"vmat-180": ((100, 150, 150), 0.25, 90), "small": ((50, 75, 75), 0.5, 12)}
"""Shape (nz, ny, nx), voxel [cm] and control points an arc; `small` is for trying this file out."""


# ------------------------------------------------------------------------------------------------ the contestants


class Ours:
    """spinedose, as anyone calls it."""

    def __init__(self, case: str, device: str) -> None:
        self.device = device
        self.ct, self.structures, self.plan, self.spacing_cm = made(case)

    def warm(self) -> None:
        """Compile, and remember the calibration."""
        from cases import modulated_arcs

        self._made_ready()
        self._on_ct(self._irradiated(modulated_arcs(1, 4)))

    def dose(self) -> np.ndarray:
        """Dose on the grid of the CT [Gy]; outside the calculation grid, which holds the body, it is 0."""
        self._made_ready()
        return self.again()

    def again(self) -> np.ndarray:
        """The same for a patient who is ready."""
        self.last = self._irradiated(self.plan)
        return self._on_ct(self.last)

    def _on_ct(self, dose: Any) -> np.ndarray:
        values = np.zeros(self.ct.hu.grid.shape, np.float32)
        first = self.ct.hu.grid.indices_of(dose.grid.origin_cm).round().astype(int)
        values[tuple(slice(n, n + m) for n, m in zip(first, dose.grid.shape, strict=True))] = dose.values
        return values

    def about(self) -> dict[str, Any]:
        """What it says of itself."""
        import numba

        told = self.last.metadata.as_dict()
        kept = {name: told[name] for name in ("version", "device", "machines", "settings", "timings_s")}
        versions = {"python": platform.python_version(), "numpy": np.__version__, "numba": numba.__version__}
        return {**kept, "voxels": int(np.prod(self.last.grid.shape)), "versions": versions}

    def _made_ready(self) -> None:
        from spinedose.patient import prepare_patient

        self.patient = prepare_patient(
            self.ct, structures=self.structures, spacing_cm=self.spacing_cm, backend=self.device
        )

    def _irradiated(self, plan: Any) -> Any:
        from spinedose.engine import irradiate

        return irradiate(plan, self.patient)


class Theirs:
    """PyDoseRT in one setting, on what the file of the case has."""

    def __init__(self, case_file: str, name: str, device: str, chunk: int | None) -> None:
        import torch

        warnings.filterwarnings("ignore", "In CPU autocast")  # float32 needs none; the rest is to be seen
        self.torch = torch
        self.case, self.device, self.setting = dict(np.load(case_file)), device, SETTINGS[name]
        if chunk:
            self.setting = replace(self.setting, chunk=chunk)
        self.density = torch.from_numpy(self.case["density"]).to(device)

    def warm(self) -> None:
        """Calibrate with all leaves of the machine, then compute a few control points."""
        import pydosert

        machine = {"preset": PRESET, "tpr_20_10": TPR_20_10}
        whole = pydosert.MachineConfig(**machine)
        self._engine(whole, None).calibrate(verbose=False)
        widths = np.asarray(whole.leaf_widths)
        self.pairs = np.abs(np.cumsum(widths) - widths / 2 - widths.sum() / 2) < self.setting.map_mm / 2
        machine.update(number_of_leaf_pairs=int(self.pairs.sum()), leaf_widths=widths[self.pairs].tolist())
        self.machine = pydosert.MachineConfig(**machine, mean_photon_energy_MeV=whole.mean_photon_energy_MeV)
        few = self._sequence()[: 2 * self.setting.chunk]
        self._compute(self._engine(self.machine, few), few)

    def dose(self) -> np.ndarray:
        """Dose on the grid of the CT [Gy], by an engine made for this plan."""
        self.sequence = self._sequence()
        self.engine = self._engine(self.machine, self.sequence)
        return self._compute(self.engine, self.sequence)

    def again(self) -> np.ndarray:
        """The same by the same engine."""
        return self._compute(self.engine, self.sequence)

    def about(self) -> dict[str, Any]:
        """What it is."""
        import pydosert

        versions = {"python": platform.python_version(), "numpy": np.__version__, "torch": self.torch.__version__}
        setting = {**asdict(self.setting), "preset": PRESET, "tpr_20_10": TPR_20_10}
        segments = {"segments": len(self.sequence), "voxels": self.density.numel()}
        return {"version": pydosert.__version__, "settings": setting, **segments, "versions": versions}

    def _sequence(self) -> Any:
        """Both arcs as what is delivered between their control points."""
        import pydosert

        def tensor(values: Any) -> Any:
            return self.torch.as_tensor(np.asarray(values), dtype=self.torch.float32, device=self.device)

        place = {
            "iso_center": tuple(self.case["isocentre_mm"].tolist()),
            "sid": 1000.0,
            "field_size": (self.setting.map_mm,) * 2,
        }
        arcs = [
            pydosert.BeamSequence.from_tensors(
                leaf_positions=tensor(leaf_mm[:, self.pairs]),
                mus=tensor(mu),
                jaw_positions=tensor(jaw_mm),
                gantry_angles=tensor(np.radians(gantry)),
                collimator_angles=tensor(np.radians(collimator)),
                **place,
            ).to_delivery()
            for leaf_mm, mu, jaw_mm, gantry, collimator in zip(
                *(self.case[key] for key in ("leaf_mm", "mu", "jaw_mm", "gantry_deg", "collimator_deg")), strict=True
            )
        ]
        names = ("leaf_positions", "mus", "jaw_positions", "gantry_angles", "collimator_angles")
        joined = {name: self.torch.cat([getattr(arc, name) for arc in arcs]) for name in names}
        return pydosert.BeamSequence.from_tensors(**joined, **place)

    def _engine(self, machine: Any, sequence: Any) -> Any:
        import pydosert

        return getattr(pydosert, self.setting.engine)(
            machine_config=machine,
            kernel_size=self.setting.kernel,
            dose_grid_spacing=(float(self.case["spacing_mm"]),) * 3,
            dose_grid_shape=tuple(self.density.shape),
            beam_template=sequence,
            beam_chunk_size=self.setting.chunk,
            conv_backend=self.setting.backend,
            device=self.device,
            dtype=self.torch.float32,
        )

    def _compute(self, engine: Any, sequence: Any) -> np.ndarray:
        with self.torch.no_grad():
            return np.asarray(engine.compute_dose(sequence, density_image=self.density)[0].cpu())


def serve(contestant: Ours | Theirs) -> None:
    """Do what the lines of the standard input ask for, and answer each with a line."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is no answer
    last = np.zeros(0)

    def timed(name: str) -> dict[str, float]:
        nonlocal last
        cpu, wall = processor_s(), time.perf_counter()
        last = getattr(contestant, name)()
        return {"wall_s": time.perf_counter() - wall, "cpu_s": processor_s() - cpu}

    words: dict[str, Callable[..., Any]] = {
        "warm": contestant.warm,
        "dose": lambda: timed("dose"),
        "again": lambda: timed("again"),
        "save": lambda path: np.save(path, last),
        "peak_memory_gb": lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
        "about": contestant.about,
    }
    for line in sys.stdin:
        word, *rest = json.loads(line)
        print(json.dumps(words[word](*rest)), file=answers, flush=True)


def processor_s() -> float:
    """Time that all threads of this process have spent on a processor, in it and in the kernel [s]."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


# ------------------------------------------------------------------------------------------------ the case


def made(case: str) -> tuple[Any, Any, Any, float]:
    """CT, structures, plan and voxel [cm]."""
    from cases import elliptical_body, modulated_arcs

    shape, spacing_cm, control_points = CASES[case]
    return *elliptical_body(shape, spacing_cm), modulated_arcs(2, control_points), spacing_cm


def write_case(case: str, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Write what PyDoseRT needs, in its units and order of axes; return CT numbers and the body.

    Its axes (H, D, W) are (z, y, x) of a patient lying head first on his back; places are counted from the centre of
    the first voxel [mm]. Densities are relative electron densities. It knows one pair of jaws, across the leaves.
    """
    from spinedose.density import build_density, find_body

    ct, structures, plan, spacing_cm = made(case)
    grid, body = ct.hu.grid, find_body(ct, structures)
    matter = build_density(ct, grid, body=body, structures=structures)
    beams = plan.beams
    np.savez(
        path,
        density=matter.electron.values,
        spacing_mm=10 * spacing_cm,
        isocentre_mm=10 * (beams[0].isocentre_cm - grid.origin_cm)[::-1],
        leaf_mm=np.stack([10 * np.moveaxis(beam.leaf_cm, 1, 2) for beam in beams]),
        jaw_mm=np.stack([10 * beam.jaw_y_cm for beam in beams]),
        mu=np.stack([beam.meterset_mu * np.diff(beam.cumulative_meterset, prepend=0) for beam in beams]),
        gantry_deg=np.stack([beam.gantry_deg for beam in beams]),
        collimator_deg=np.stack([beam.collimator_deg for beam in beams]),
    )
    return np.asarray(ct.hu.values), np.asarray(body.inside.values)


def difference(ours: np.ndarray, theirs: np.ndarray, hu: np.ndarray, body: np.ndarray, voxel_cm: float) -> Any:
    """Theirs minus ours where ours has more than 10 %: each in percent of its own mean at the high dose.

    High is more than 80 % of our maximum; the machines are not calibrated alike.
    """
    from scipy.ndimage import center_of_mass, distance_transform_edt

    high = ours > 0.8 * ours.max()
    ours, theirs = (100 * dose / dose[high].mean(dtype=np.float64) for dose in (ours, theirs))
    seen = body & (ours > 10)
    depth_cm = voxel_cm * distance_transform_edt(np.pad(body, 1))[1:-1, 1:-1, 1:-1]
    ends = np.zeros_like(body)
    ends[1:-1] = True  # the CT ends with the body, which is no skin
    places = {
        "all": seen,
        "high dose": high,
        "soft tissue deeper than 1 cm": seen & (np.abs(hu) < 300) & (depth_cm > 1),
        "lung": seen & (hu < -300),
        "bone": seen & (hu > 300),
        "first centimetre": seen & (depth_cm <= 1) & ends,
    }
    middle = [np.array(center_of_mass(np.where(dose > 50, 1.0, 0.0))) for dose in (ours, theirs)]
    error = theirs - ours
    return {
        "middle_of_50_percent_moved_mm": [round(10 * voxel_cm * n, 2) for n in (middle[1] - middle[0])[::-1].tolist()],
        "percent": {name: spread(error[where]) for name, where in places.items() if where.any()},
    }


def spread(error: np.ndarray) -> dict[str, float]:
    """Mean, RMS and the size that 99 % do not exceed."""
    figures = {
        "mean": error.mean(dtype=np.float64),
        "rms": np.sqrt(np.mean(error.astype(np.float64) ** 2)),
        "p99": np.quantile(np.abs(error), 0.99),
    }
    return {"voxels": error.size, **{name: round(float(value), 2) for name, value in figures.items()}}


# ------------------------------------------------------------------------------------------------ the contest


class Worker:
    """A contestant in a process of its own."""

    def __init__(self, command: Sequence[str], threads: int) -> None:
        counts = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), str(threads))
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **counts}
        )

    def ask(self, *words: Any) -> Any:
        """Let it do something, and wait for the answer."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(words) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"{' '.join(self.process.args)} ended (see above). Nothing was measured.")  # type: ignore
        return json.loads(answer)

    def end(self) -> None:
        """Let it go."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def contest(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All contestants in turns; the whole result."""
    hu, body = write_case(given.case, folder / "case.npz")
    where = ["--device", given.device, *(["--chunk", str(given.chunk)] if given.chunk else [])]
    commands = {"spinedose": [sys.executable, __file__, "--work", "ours", "--case", given.case, *where]}
    for name in given.settings:
        commands[f"pydosert {name}"] = [given.their_python, __file__, "--work", str(folder / "case.npz"), name, *where]
    workers = {name: Worker(command, given.threads) for name, command in commands.items()}
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in workers}
    found: dict[str, dict[str, Any]] = {}
    try:
        for name, worker in workers.items():
            worker.ask("warm")
            print(f"{name}: warm", file=sys.stderr, flush=True)
        for n in range(given.rounds):
            for name, worker in workers.items():
                runs[name].append(worker.ask("dose"))
                print(f"{name}, round {n + 1}: {runs[name][-1]}", file=sys.stderr, flush=True)
        doses = {}
        for name, worker in workers.items():
            worker.ask("save", str(folder / "dose.npy"))
            doses[name] = np.load(folder / "dose.npy")
            again = worker.ask("again")
            walls, processors = ([one[key] for one in runs[name]] for key in ("wall_s", "cpu_s"))
            found[name] = {
                "wall_s": {"best": min(walls), "median": statistics.median(walls), "all": walls},
                "cpu_s": {"best": min(processors), "median": statistics.median(processors), "all": processors},
                "again_s": again,
                "peak_memory_gb": worker.ask("peak_memory_gb"),
                **worker.ask("about"),
            }
    finally:
        for worker in workers.values():
            worker.end()
    voxel_cm = CASES[given.case][1]
    for name in list(found)[1:]:
        found[name]["against_ours"] = difference(doses["spinedose"], doses[name], hu, body, voxel_cm)
    load = os.getloadavg() if hasattr(os, "getloadavg") else (math.nan,)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=HERE, capture_output=True, text=True, check=False)
    machine = {
        "processor": processor(),
        "device": given.device,
        "threads": given.threads,
        "cores": os.cpu_count(),
        "load_at_end": load[0],
    }
    return {"case": given.case, "commit": commit.stdout.strip(), "machine": machine, "contestants": rounded(found)}


def rounded(value: Any) -> Any:
    """Four digits are more than any of this is worth."""
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [rounded(one) for one in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def told(result: dict[str, Any]) -> str:
    """The result as a table, times of the wall and of the processors, and what it is worth."""
    machine = result["machine"]
    lines = [
        f"{result['case']}, {machine['threads']} threads, {machine['processor']}",
        f"{'':20}{'best s':>8}{'median':>8}{'again':>8}{'CPU s':>8}{'GB':>7}   difference from ours, % (RMS, 99 %)",
    ]
    for name, one in result["contestants"].items():
        wall, cpu = one["wall_s"], one["cpu_s"]
        figures = f"{wall['best']:8.2f}{wall['median']:8.2f}{one['again_s']['wall_s']:8.2f}{cpu['best']:8.1f}"
        lines.append(f"{name:20}{figures}{one['peak_memory_gb']:7.2f}")
        if "against_ours" in one:
            places = one["against_ours"]["percent"].items()
            lines[-1] += "   " + ", ".join(f"{place} {of['rms']:.1f} {of['p99']:.1f}" for place, of in places)
    return "\n".join(lines)


def reason_to_skip(their_python: str | None) -> str | None:
    """Why there is nothing to compare with, if so."""
    if not their_python:
        return "PyDoseRT was not measured (no --their-python). Give the Python of an environment that has it."
    try:
        command = [their_python, "-c", "import pydosert"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        return f"PyDoseRT was not measured ({their_python}: {error.strerror}). Give the Python of its environment."
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return f"PyDoseRT was not measured ({their_python}: {last}). Install it there: pip install pydosert"
    return None


def main() -> None:
    """Measure, or be one of those that are measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--their-python", help="interpreter of an environment with PyDoseRT")
    parser.add_argument("--case", choices=CASES, default="vmat-180")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="for both")
    parser.add_argument(
        "--chunk", type=int, help="control points that PyDoseRT computes together, instead of its settings'"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("-o", "--output", type=Path, help="JSON of all that was measured")
    parser.add_argument("--work", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        is_ours = given.work == ["ours"]
        serve(Ours(given.case, given.device) if is_ours else Theirs(*given.work, given.device, given.chunk))
        return
    if why := reason_to_skip(given.their_python):
        print(why)
        return
    with tempfile.TemporaryDirectory() as folder:
        result = contest(given, Path(folder))
    print(told(result))
    if given.output:
        given.output.parent.mkdir(parents=True, exist_ok=True)
        given.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
