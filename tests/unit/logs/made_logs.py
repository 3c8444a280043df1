"""Writes tiny machine logs in the published formats, for tests only: no machine made them.

The layout is that of VOSTL 2.1 to 4.0 and of dynalogs version B as pylinac reads them and as the real files have it;
the conversions to the machine's scale are written out here again, so that reader and writer can contradict each other.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spinedose.plan import Beam

Array = NDArray[np.float64]
Axes = dict[str, Array]
Change = Callable[[Axes], None]


def leaf_beam(**changes: Any) -> Beam:
    """An arc of 4 pairs of 1 cm with a window that slides, all numbers different in sign and size."""
    n = 5
    along = np.linspace(0.0, 1.0, n)
    tips = np.empty((n, 2, 4))
    tips[:, 0] = -2.0 + 3.0 * along[:, None] + np.array([0.0, 0.1, 0.2, 0.3])
    tips[:, 1] = tips[:, 0] + np.array([1.0, 1.5, 2.0, 0.6])
    values: dict[str, Any] = {
        "number": 7,
        "name": "arc",
        "machine": "TrueBeam",
        "energy": "6X",
        "meterset_mu": 200.0,
        "cumulative_meterset": along,
        "gantry_deg": 181.0 + 40.0 * along,
        "collimator_deg": np.full(n, 30.0),
        "couch_deg": np.full(n, 0.0),
        "isocentre_cm": np.zeros(3),
        "jaw_x_cm": np.tile([-3.0, 4.5], (n, 1)),
        "jaw_y_cm": np.tile([-1.5, 2.0], (n, 1)),
        "leaf_boundaries_cm": np.array([-2.0, -1.0, 0.0, 1.0, 2.0]),
        "leaf_cm": tips,
    }
    return Beam(**(values | changes))


def axes_of(beam: Beam, share: Array) -> Axes:
    """Axes of a beam at shares of its meterset, as the plan has them."""

    def at(values: Array) -> Array:
        flat = values.reshape(len(values), -1)
        there = np.stack([np.interp(share, beam.cumulative_meterset, column) for column in flat.T], axis=1)
        return there.reshape((len(share), *values.shape[1:]))

    assert beam.leaf_cm is not None and beam.jaw_x_cm is not None and beam.jaw_y_cm is not None
    return {
        "mu": beam.meterset_mu * share,
        "gantry": at(beam.gantry_deg),
        "collimator": at(beam.collimator_deg),
        "couch": at(beam.couch_deg),
        "x": at(beam.jaw_x_cm),
        "y": at(beam.jaw_y_cm),
        "leaf": at(beam.leaf_cm),
        "hold": np.zeros(len(share)),
    }


def write_trajectory(
    path: Path,
    beam: Beam,
    *,
    share: Array | None = None,
    change: Change | None = None,
    name: str | None = None,
    scale: int = 1,
    couch_sense: float = -1.0,
    version: str = "3.0",
    header: Mapping[str, Any] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """A trajectory log of a beam; `change` alters what was recorded."""
    header = dict(header or {})
    share = np.linspace(0.0, 1.0, 101) if share is None else share
    wanted, recorded = axes_of(beam, share), axes_of(beam, share)
    if change is not None:
        change(recorded)
    n, pairs = len(share), wanted["leaf"].shape[2]
    numbers = [*range(10), *(() if version == "2.1" else (10, 11)), 40, 41, 42, 50]
    numbers = header.get("axes", numbers)
    samples = [1] * (len(numbers) - 1) + [2 * pairs + 2]

    def native(axes: Axes) -> Array:
        turned = scale != 2
        gantry, collimator = (((180.0 - axes[k]) if turned else axes[k]) % 360.0 for k in ("gantry", "collimator"))
        couch = ((180.0 if turned else 0.0) + couch_sense * axes["couch"]) % 360.0
        columns = [collimator, gantry, -axes["y"][:, 0], axes["y"][:, 1], -axes["x"][:, 0], axes["x"][:, 1]]
        columns += [np.full(n, 100.0)] * 3 + [couch] + [np.zeros(n)] * (len(numbers) - 14)
        columns += [axes["mu"], axes["hold"], 4 * share, np.zeros(n), np.zeros(n)]
        columns += [*axes["leaf"][:, 1].T, *-axes["leaf"][:, 0].T]
        return np.stack(columns, axis=1)

    both = np.stack([native(wanted), native(recorded)], axis=2).reshape(n, -1)
    beams = header.get("beams", [beam.name if name is None else name])
    start = struct.pack("16s16s", b"VOSTL", version.encode())
    start += struct.pack(f"<3i{2 * len(numbers)}i", 1024, 20, len(numbers), *numbers, *samples)
    start += struct.pack("<5i", header.get("scale", scale), len(beams), header.get("truncated", 0), n, 3)
    if metadata is not None:
        lines = "".join(f"{key}:\t{value}\r\n" for key, value in metadata.items())
        start += lines.encode().ljust(745, b"\x00")
    start = start.ljust(1024, b"\x00")
    size = 32 if version == "2.1" else 512
    for k, one in enumerate(beams):
        start += struct.pack("<iffi", 0, beam.meterset_mu, 10.0, k) + one.encode().ljust(size + 32, b"\x00")
    path.write_bytes(start + both.astype("<f4").tobytes() + b"\x00\x00")
    return path


def write_dynalog(
    folder: Path,
    beam: Beam,
    *,
    share: Array | None = None,
    change: Change | None = None,
    plan: str = "1.2.840.99.7.1,7",
    patient: str = "Quixote,Dulcinea,PAT-1",
    name: str = "20260102030405_x.dlg",
    end: int = 25000,
) -> Path:
    """Both files of a dynalog of a beam; returns the A file."""
    share = np.linspace(0.0, 1.0, 101) if share is None else share
    wanted, recorded = axes_of(beam, share), axes_of(beam, share)
    if change is not None:
        change(recorded)
    pairs = wanted["leaf"].shape[2]

    def whole(values: Array) -> NDArray[np.int64]:
        return np.rint(values).astype(np.int64)

    at_leaves = 1000.0 / 1.96078
    for letter, bank, sign in (("A", 1, 1.0), ("B", 0, -1.0)):
        lines = ["B", patient, plan, "   254", str(pairs), " 1"]
        for k in range(len(share)):
            g, c = ((180.0 - recorded[name][k]) % 360.0 for name in ("gantry", "collimator"))
            (x1, x2), (y1, y2) = recorded["x"][k], recorded["y"][k]
            row = [round(end * share[k]), 0, 0, 1, 0, 0, *whole(np.array([10 * g, 10 * c, -10 * y1, 10 * y2]))]
            row += [*whole(np.array([-10 * x1, 10 * x2])), 3072, 3072]
            for p in range(pairs):
                tips = [sign * at_leaves * axes["leaf"][k, bank, p] for axes in (wanted, recorded)]
                row += [*whole(np.array(tips)), 0, 0]
            lines.append(",".join(map(str, row)))
        (folder / (letter + name)).write_text("\n".join(lines) + "\n", encoding="ascii")
    return folder / f"A{name}"
