"""Planned against delivered: real plans with real machine logs, both computed on phantoms of water.

    python validation/delivered.py

The plans come without a CT, so a cylinder and a cube of water are assumed. Results go to
validation/results/delivered.json and into docs/howto/delivered.md.
"""

from __future__ import annotations

import json
import lzma
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

import spinedose as sd
from real_files import DICOM, box
from spinedose.compare.gamma import gamma_index
from spinedose.compare.metrics import without_nan
from spinedose.density import CtImage
from spinedose.grid import Volume
from spinedose.logs import deliver, find_logs, read_log
from spinedose.settings import Settings

RESULTS = Path(__file__).with_name("results") / "delivered.json"
DOCS = Path(__file__).resolve().parents[1] / "docs" / "howto" / "delivered.md"
AIR_HU = -1000
FINE = Settings(segment_step_deg=0.2)
"""The default step of 1 degree cuts the two plans at different angles, which can change half as much as the delivery;
with steps near the distance of the samples what is left is the delivery."""


def cylinder(radius: float, half_length: float, z0: float) -> CtImage:
    """Water, along z through the origin [cm]."""
    ct = box((-radius, -radius, z0 - half_length), (radius, radius, z0 + half_length))
    x, y, _ = ct.hu.grid.axes_cm
    is_air = np.hypot(x, y[:, None]) > radius
    return replace(ct, hu=Volume(ct.hu.grid, np.where(is_air[None], AIR_HU, ct.hu.values).astype(np.int16)))


CASES: dict[str, tuple[str, str, list[int], str, str]] = {
    # name: folder, logs, beams, machine, phantom in words
    "clinac_vmat_dynalog": (
        "clinac_vmat_dynalog", "dynalog.tar.xz", [1], "varian-truebeam-m120", "cylinder of water, radius 13 cm",
    ),
    "truebeam_trajectory_log": (
        "truebeam_trajectory_log", "T3MLCSpeed_a.bin.xz", [16], "varian-truebeam-hd120", "cube of water, 30 cm",
    ),
}  # fmt: skip


@contextmanager
def unpacked(folder: str, name: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as place:
        source = DICOM / folder / name
        if name.endswith(".tar.xz"):
            with tarfile.open(source) as archive:
                archive.extractall(place, filter="data")
        else:
            (Path(place) / source.stem).write_bytes(lzma.decompress(source.read_bytes()))
        yield Path(place)


def compared(planned: Volume, delivered: Volume) -> dict[str, float]:
    """Gamma, and differences in percent of the largest planned dose."""
    top = float(planned.values.max())
    off = 100 * (delivered.values.astype(float) - planned.values) / top
    found = {
        f"gamma_{p:g}_percent_{10 * d:g}_mm": gamma_index(
            planned, delivered, dose_percent=p, distance_cm=d
        ).pass_percent
        for p, d in ((1.0, 0.1), (2.0, 0.1))
    }
    for share in (0.1, 0.5):
        there = planned.values > share * top
        found |= {
            f"mean_percent_above_{100 * share:g}": float(off[there].mean()),
            f"rms_percent_above_{100 * share:g}": float(np.sqrt((off[there] ** 2).mean())),
            f"worst_percent_above_{100 * share:g}": float(np.abs(off[there]).max()),
        }
    return found


def case(name: str) -> dict[str, Any]:
    folder, logs, beams, machine, phantom = CASES[name]
    plan = sd.read_plan(DICOM / folder / "RTPLAN.dcm", beams=beams)
    z0 = float(plan.beams[0].isocentre_cm[2])
    ct = cylinder(13.0, 15.0, z0) if "cylinder" in phantom else box((-15, -15, z0 - 15), (15, 15, z0 + 15))
    with unpacked(folder, logs) as place:
        recorded = [read_log(path) for path in find_logs(place)]
    delivery = deliver(plan, recorded)
    every = deliver(plan, recorded, bound_cm=1e-6, bound_deg=1e-6)
    doses, seconds = {}, {}
    for what, one, settings in (
        ("plan", plan, FINE),
        ("delivered", delivery.plan, FINE),
        ("every sample", every.plan, FINE),
        ("plan, default", plan, Settings()),
        ("delivered, default", delivery.plan, Settings()),
    ):
        start = time.perf_counter()
        doses[what] = sd.compute_dose(one, ct, machine=machine, spacing_cm=0.25, settings=settings).volume
        seconds[what] = round(time.perf_counter() - start, 1)
    row = asdict(delivery.rows[0])
    return {
        "phantom": phantom,
        "machine": machine,
        "beam": {key: value for key, value in row.items() if key not in ("name", "sources")},
        "planned_against_delivered": compared(doses["plan"], doses["delivered"]),
        "the_same_with_default_steps": compared(doses["plan, default"], doses["delivered, default"]),
        "all_samples_against_thinned": compared(doses["every sample"], doses["delivered"]),
        "default_steps_against_fine_ones": compared(doses["plan"], doses["plan, default"]),
        "maximum_gy": float(doses["plan"].values.max()),
        "seconds": seconds,
    }


ROWS = {
    "planned_against_delivered": "planned, delivered",
    "all_samples_against_thinned": "all samples, thinned",
    "default_steps_against_fine_ones": "plan in steps of 0.2 degrees, of 1 degree",
    "the_same_with_default_steps": "planned, delivered, both in steps of 1 degree",
}


def table(content: dict[str, Any]) -> str:
    lines = [
        "| set | compared | gamma 1 %/1 mm | mean above 50 % | root mean square | worst |",
        "|---|---|---|---|---|---|",
    ]
    for name, one in content["cases"].items():
        for key, words in ROWS.items():
            held = one[key]
            numbers = [
                f"{held['gamma_1_percent_1_mm']:.2f} %",
                f"{held['mean_percent_above_50']:+.2f} %",
                f"{held['rms_percent_above_50']:.2f} %",
                f"{held['worst_percent_above_50']:.1f} %",
            ]
            lines.append(f"| `{name}` | {words} | {' | '.join(numbers)} |")
    return "\n".join(lines)


def main() -> None:
    content: dict[str, Any] = {"version": sd.__version__, "cases": {}}
    for name in CASES:
        content["cases"][name] = case(name)
        print(name, json.dumps(content["cases"][name], indent=2), flush=True)
    RESULTS.write_text(json.dumps(without_nan(content), indent=2) + "\n", encoding="utf-8")
    page = DOCS.read_text(encoding="utf-8")
    start, end = "<!-- delivered -->\n", "<!-- end delivered -->"
    head, _, rest = page.partition(start)
    DOCS.write_text(f"{head}{start}{table(content)}\n{end}{rest.partition(end)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()
