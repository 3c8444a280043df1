"""A setup-error study of the demo case, from DICOM to figures, and what it costs (docs/howto/setup_study.md).

python docs/howto/setup_study.py OUT [--random 50] [--spacing-mm 2.5]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from itertools import pairwise
from pathlib import Path

import spinedose as sd
from spinedose.demo import demo_case, write_demo
from spinedose.protocol import read_protocol
from spinedose.report.studies import draw_study
from spinedose.scenarios import (
    Outcome,
    SetupErrors,
    Study,
    random_setups,
    setup_grid,
    summarise,
    telling,
    write_study,
)

SEED = 1
ERRORS = SetupErrors(systematic_cm=0.05, random_cm=0.05, systematic_deg=0.5, random_deg=0.5)
"""0.5 mm and 0.5 degrees on every axis, of both kinds: made up for the example. Yours come from your own images."""


def main() -> None:
    """Run the study and write tables, pictures and `cost.json`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("out", type=Path)
    parser.add_argument("--random", type=int, default=50)
    parser.add_argument("--spacing-mm", type=float, default=2.5)
    options = parser.parse_args()

    files = write_demo(options.out / "demo", demo_case())
    plan, ct, structures = sd.read_plan(files.plan), sd.read_ct(files.ct), sd.read_structures(files.structures)

    start = time.perf_counter()
    study = Study(plan, ct, structures, spacing_cm=options.spacing_mm / 10, protocol=read_protocol("spine"))
    made_ready = time.perf_counter() - start
    scenarios = [
        *setup_grid(shifts_cm=(0.1, 0.2), turns_deg=(1.0, 2.0)),
        *random_setups(options.random, SEED, ERRORS, fractions=plan.fractions),
    ]
    outcomes, processor = [], [time.process_time()]
    for one in study.run(scenarios):
        outcomes.append(one)
        processor.append(time.process_time())
        print(f"{one.scenario.name:<22}{one.computed} dose(s) in {one.seconds:5.1f} s", flush=True)
    whole = time.perf_counter() - start

    about = {**study.metadata(), "random": {"seed": SEED, "count": options.random, "errors": repr(ERRORS)}}
    write_study(options.out, outcomes, about)
    draw_study(outcomes, options.out, prescription_gy=study.prescription_gy, title=plan.label)
    cost = _cost(outcomes, [b - a for a, b in pairwise(processor)], made_ready, whole)
    (options.out / "cost.json").write_text(json.dumps(cost, indent=2) + "\n", encoding="utf-8")
    for key, value in cost.items():
        print(f"{key:<34}{value}")
    print(f"{'structure':<16}{'metric':<13}{'planned':>8}{'worst':>8}{'5 %':>8}{'50 %':>8}{'95 %':>8}  worst is")
    for row in telling(summarise(outcomes))[:8]:
        spread = "".join(f"{value:8.2f}" for value in row.percentiles)
        print(f"{row.structure:<16}{row.metric:<13}{row.planned:8.2f}{row.worst:8.2f}{spread}  {row.worst_scenario}")


def _cost(outcomes: list[Outcome], processor_s: list[float], made_ready: float, whole: float) -> dict[str, float]:
    """Seconds and megabytes: the first scenario against the others."""
    grid = [one.seconds for one in outcomes if one.scenario.group == "grid"]
    drawn = [one for one in outcomes if one.scenario.is_sample]
    cost = {
        "cores": len(os.sched_getaffinity(0)),
        "scenarios": len(outcomes),
        "doses_computed": sum(one.computed for one in outcomes),
        "structures_made_ready_s": made_ready,
        "first_scenario_s": outcomes[0].seconds,
        "each_of_the_grid_s": sum(grid) / len(grid),
        "each_dose_of_a_random_treatment_s": sum(one.seconds for one in drawn) / max(sum(o.computed for o in drawn), 1),
        "whole_s": whole,
        "first_scenario_cpu_s": processor_s[0],
        "each_other_dose_cpu_s": sum(processor_s[1:]) / max(sum(one.computed for one in outcomes[1:]), 1),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    return {key: round(value, 2) for key, value in cost.items()}


if __name__ == "__main__":
    main()
