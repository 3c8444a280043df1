"""Write docs/validation.md and its pictures from the results of `spinedose validate`.

    python validation/page.py [RESULTS.json ...] [--docs DIR]

Without files those of the CPU in validation/results are taken. Of several, later ones replace earlier ones case by case
and beam by beam, so that cases may be computed one at a time. How far those of GPUs are from them stands on the page.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from spinedose.machine import list_machines, read_machine
from spinedose.validate import CASES, Drawn, Line, Outcome, Results, pooled
from spinedose.validate.lines import HELD_OUT, USED

ROOT = Path(__file__).resolve().parents[1]

AMONG_THEMSELVES = """\
Measured data disagree among themselves, and no engine can do better than that. Two TrueBeams compared with the maker's
representative data agreed within 0.6 % (dose at 10 cm) and 0.9 % (at 20 cm) for depth doses and 0.8 % for output
factors (AAPM 2013, SU-E-T-33). The two independent TrueBeam-class sets at hand (LA6 and the maker's) agree within 0.2 %
at 10, 20 and 30 cm depth (10 x 10 cm), within 0.3 % in output from 4 to 30 cm and 0.6 % at 40 cm. Scans of LA6 sit up
to 0.3 mm off centre; its diode sees fields 0.6 to 1.2 mm narrower than nominal, its chamber 0.3 to 0.8 mm at 4 to 7 cm.
What the sets of each case say about each other stands with the case."""

HEAD = """\
# Validation

<!-- Written by validation/page.py from the results of `spinedose validate`. Do not edit. -->

"""

HOW = """\
Differences are calculated minus measured. Everything is computed by the engine with its default settings (`spinedose
validate`), voxels of 2 to 2.5 mm (1 mm for 1 x 1 cm, 4 to 5 mm where only the axis of a wide field counts), blurred as
the detector blurs. A calculated dose is the mean over a voxel, which widens a penumbra by 0.2 to 0.5 mm; measured
profiles are turned into such means before they are compared. Depth doses meet at 10 cm depth, so that their shape is
compared, and outputs apart from it. Where field edges and depth zero of a
measurement really were is part of the measurement: the fit found it, and each case says what. **Held out** data were
not used in any fit; data **used in the fit** are shown because a fit may fail; those of an **other machine** can only
show that nothing is grossly wrong. Limits and their sources are in
[criteria.toml](../src/spinedose/curve_judging/criteria.toml)."""


def read(paths: Sequence[Path]) -> Results:
    """All results together."""
    found = None
    for path in paths:
        some = Results.from_json(path.read_text(encoding="utf-8"))
        found = some if found is None else found.updated(some)
    if found is None:
        raise SystemExit("There are no results; run `spinedose validate` first.")
    return found


def page(results: Results, pictures: dict[str, list[Path]], docs: Path, others: Sequence[Results] = ()) -> str:
    """The text of the page; `others` are results of other devices."""
    lines, failed = results.lines, results.failed
    held = [line for line in lines if line.role == HELD_OUT]
    days = sorted({outcome.date for outcome in results.outcomes})
    parts = [HEAD]
    parts.append(
        f"**{len(lines) - len(failed)} of {len(lines)} lines are within their limits**, of those on held-out data"
        f" {sum(line.passed for line in held)} of {len(held)}. spinedose {results.version}, {results.backend}"
        f" ({results.device}), {days[0] if days else ''}{f' to {days[-1]}' if len(days) > 1 else ''}.\n"
    )
    parts.extend(_beside(results, other) for other in others)
    parts.append("## The three weakest numbers\n")
    rows = [
        (
            f"{place}", _place(line), _with_region(line), _signed(line.worst, line), _limit(line), line.role,
            _result(line.passed), line.note,
        )
        for place, line in enumerate(results.weakest(3), 1)
    ]  # fmt: skip
    parts.append(_table(("", "where", "what", "worst", "limit", "data", "", "note"), rows))
    parts.append(HOW + "\n")
    parts.append(AMONG_THEMSELVES + "\n")
    order = [case.name for case in CASES]
    for name in [*order, *sorted({o.case for o in results.outcomes} - set(order))]:
        outcomes = [outcome for outcome in results.outcomes if outcome.case == name]
        if outcomes:
            parts.append(_case(name, outcomes, pictures.get(name, []), docs))
    return "\n".join(parts)


def _beside(results: Results, other: Results) -> str:
    """How far the same lines of another device are from these."""
    own = _by_name(results.lines)
    pairs = [(line, own[name]) for name, line in _by_name(other.lines).items() if name in own]
    worst = max((abs(a.worst - b.worst) for a, b in pairs), default=0.0)
    differing = sum(a.passed != b.passed for a, b in pairs)
    return (
        f"{len(pairs)} of these lines were computed on {other.backend} ({other.device}), too: their worst values differ"
        f" by {worst:.4f} at most (% or mm), and {differing or 'none'} of them passes or fails otherwise.\n"
    )


def _by_name(lines: Iterable[Line]) -> dict[tuple[object, ...], Line]:
    """Lines by all that says which they are; those of the same name, of several scans, by number."""
    found: dict[tuple[object, ...], Line] = {}
    count: Counter[tuple[object, ...]] = Counter()
    for line in lines:
        name = (line.case, line.machine, line.beam, line.quantity, line.field, line.depth, line.region, line.note)
        found[*name, count[name]] = line
        count[name] += 1
    return found


def _case(name: str, outcomes: Sequence[Outcome], pictures: Sequence[Path], docs: Path) -> str:
    known = {case.name: case for case in CASES}
    parts = [f"## {name}\n"]
    if name in known:
        parts.append(f"{known[name].what}. Data: {'; '.join(known[name].sources)}.\n")
    for outcome in outcomes:
        title = " ".join(part for part in (outcome.machine, outcome.beam) if part)
        if title:
            data = f" (data {outcome.data_hash[:12]})" if outcome.data_hash else ""
            parts.append(f"### {title}{data}\n")
        if outcome.machine in list_machines() and outcome.data_hash != read_machine(outcome.machine).data_hash:
            parts.append("**Computed with earlier beam data; run it again.**\n")
        if outcome.skipped:
            parts.append(f"**Skipped**: {outcome.skipped}.\n")
            continue
        rows = []
        for pool in pooled(outcome.lines):
            worst = pool.worst
            rows.append(
                (
                    _with_region(worst), worst.role, _fields(pool.lines), f"{pool.n_points}",
                    _signed(pool.mean, worst), f"{_signed(worst.worst, worst)}{_at(worst)}", _limit(worst),
                    "pass" if pool.passed else f"**FAIL** {len(pool.lines) - pool.n_passed} of {len(pool.lines)}",
                )
            )  # fmt: skip
        parts.append(_table(("quantity", "data", "fields", "n", "mean", "worst", "limit", "result"), rows))
        failed = sorted((line for line in outcome.lines if not line.passed), key=lambda line: -line.share)
        if failed:
            parts.append("Every line beyond its limit, the worst first:\n")
            rows = [
                (
                    f"**{_with_region(line)}**", f"**{line.field}{f', {line.depth}' if line.depth else ''}**",
                    line.role, f"{line.n_points}", _signed(line.mean, line), f"**{_signed(line.worst, line)}**",
                    _limit(line), line.note,
                )
                for line in failed
            ]  # fmt: skip
            parts.append(_table(("quantity", "where", "data", "n", "mean", "worst", "limit", "note"), rows))
        parts += [f"* {note}" for note in outcome.notes]
        if outcome.notes:
            parts.append("")
    for picture in pictures:
        parts.append(f"![{picture.stem.replace('_', ' ')}]({picture.relative_to(docs).as_posix()})\n")
    return "\n".join(parts)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines += [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def _with_region(line: Line) -> str:
    return f"{line.quantity}, {line.region}" if line.region else line.quantity


def _place(line: Line) -> str:
    parts = (line.case, line.machine, line.beam, line.field, line.depth)
    return ", ".join(part for part in parts if part)


def _at(line: Line) -> str:
    parts = [
        part for part in (line.field, line.depth and f"depth {line.depth}", line.where and f"at {line.where}") if part
    ]
    return f" ({', '.join(parts)})" if parts else ""


def _unit(line: Line) -> str:
    return line.unit.split(" ")[0].rstrip(",")


def _signed(value: float, line: Line) -> str:
    return f"{value:+.2f} {_unit(line)}" if line.limit >= 0.05 else f"{value:+.1e} {_unit(line)}"


def _limit(line: Line) -> str:
    return f"{line.limit:g} {line.unit}"


def _result(passed: bool) -> str:
    return "pass" if passed else "**FAIL**"


def _fields(lines: Sequence[Line]) -> str:
    """`1, 2, 3 cm` of square fields; others as they are."""
    names = list(dict.fromkeys(line.field for line in lines if line.field))
    squares = [match[1] for name in names if (match := re.fullmatch(r"([\d.]+) x \1 cm", name))]
    if len(squares) != len(names):
        return "; ".join(names)
    return f"{', '.join(sorted(squares, key=float))} cm" if squares else ""


# ---------------------------------------------------------------------------------------------- pictures

Columns = list[tuple[str, list[Drawn]]]


def draw(results: Results, folder: Path) -> dict[str, list[Path]]:
    """All pictures, at most ten; by case."""
    folder.mkdir(parents=True, exist_ok=True)
    by_case: dict[str, list[Outcome]] = {}
    for outcome in results.outcomes:
        by_case.setdefault(outcome.case, []).append(outcome)
    found: dict[str, list[Path]] = {}

    def add(case: str, name: str, columns: Columns, limit: float, reach: float) -> None:
        columns = [(title, curves) for title, curves in columns if curves]
        if columns:
            path = folder / f"{name}.png"
            draw_columns(path, columns, limit, reach)
            found.setdefault(case, []).append(path)

    for case in ("water-truebeam", "water-agility"):
        outcomes, short = by_case.get(case, []), case.removeprefix("water-")
        depth_doses = [(f"{o.beam} depth doses", _of_kind(o, "depth dose")) for o in outcomes]
        for outcome in outcomes:
            profiles = _of_kind(outcome, "profile")
            if case == "water-agility":
                depth_doses += [(f"{outcome.beam} profiles, {size} cm", _of_size(profiles, size)) for size in (5, 10)]
                continue
            for kind, sizes in (("CC13", (4, 7, 10, 20, 30)), ("diode", (1, 2, 3, 5, 6, 10))):
                chosen = [curve for curve in profiles if kind in curve.title and "crossline" in curve.title]
                columns = [(f"{outcome.beam} {kind}, {size} x {size} cm", _of_size(chosen, size)) for size in sizes]
                add(case, f"{short}_{outcome.beam}_profiles_{kind}", columns, 1.5, 5.0)
        add(case, f"{short}_depth_doses", depth_doses, 1.0, 3.0)
        ratios = _of_kind_all(outcomes, "points")
        add(case, f"{short}_tissue_phantom_ratios", [("tissue-phantom ratios", ratios)], 1.0, 3.0)
        path = folder / f"{short}_outputs.png"
        if draw_outputs(path, [line for o in outcomes for line in o.lines if line.quantity == "output ratio"]):
            found.setdefault(case, []).append(path)
    literature = [(f"{o.beam} off-axis ratios", _of_kind(o, "points")) for o in by_case.get("literature", [])]
    add("literature", "off_axis_ratios", literature, 1.5, 4.0)
    for outcome in by_case.get("scatter-factors", []):
        curves = _of_kind(outcome, "points")
        columns = [
            ("TG-71 scatter factors", [c for c in curves if "TPR" not in c.title]),
            ("TG-71 tissue-phantom ratios", [c for c in curves if "TPR" in c.title]),
        ]
        add("scatter-factors", "scatter_factors", columns, 5.0, 8.0)
    for outcome in by_case.get("mc", []):
        phantoms = dict.fromkeys(curve.title.split(", ")[1] for curve in outcome.curves)
        columns = [(name, [c for c in outcome.curves if f", {name}, " in c.title]) for name in phantoms]
        add("mc", "monte_carlo", columns, 1.0, 6.0)
    return found


def _of_kind(outcome: Outcome, kind: str) -> list[Drawn]:
    return [curve for curve in outcome.curves if curve.kind == kind]


def _of_kind_all(outcomes: Iterable[Outcome], kind: str) -> list[Drawn]:
    return [curve for outcome in outcomes for curve in _of_kind(outcome, kind)]


def _of_size(curves: Iterable[Drawn], side: int) -> list[Drawn]:
    return [curve for curve in curves if f" {side} x {side} cm" in curve.title]


def draw_columns(path: Path, columns: Columns, limit: float, reach: float) -> None:
    """Measured points and calculated lines above, differences below; one column a group of curves."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        2, len(columns), figsize=(max(4.2 * len(columns), 6), 6.6), sharex="col", layout="constrained", squeeze=False,
        height_ratios=(3, 2),
    )  # fmt: skip
    for number, (title, curves) in enumerate(columns):
        above, below = axes[0, number], axes[1, number]
        for n, curve in enumerate(curves):
            color, is_used = f"C{n % 10}", curve.role == USED
            size = 5 if curve.kind == "points" else 2.2
            above.plot(curve.x, curve.measured, "o", ms=size, color=color, alpha=0.55, mew=0)
            label = _short(curve.title, title) + (" (fit)" if is_used else "")
            above.plot(curve.x, curve.calculated, lw=1.0, color=color, label=label)
            difference = curve.calculated - curve.measured
            if "[%" not in curve.y_label:
                difference = 100 * (curve.calculated / curve.measured - 1)
            mark = "o" if len(curve.x) < 20 else ""
            below.plot(curve.x, difference, marker=mark, ms=3, lw=1.0, color=color, ls="--" if is_used else "-")
        above.set_title(title, fontsize=10)
        above.set_ylabel(curves[0].y_label)
        if len(curves) > 1:
            above.legend(fontsize=6.5, loc="best" if curves[0].kind == "points" else "upper right", framealpha=0.7)
            low, high = above.get_xlim()
            above.set_xlim(low, high + (0.25 * (high - low) if low < 0 else 0))  # room beside a profile
        below.axhspan(-limit, limit, color="0.5", alpha=0.15, lw=0)
        below.axhline(0, color="0.5", lw=0.6)
        below.set_ylim(-reach, reach)
        below.set_xlabel(curves[0].x_label)
        below.set_ylabel("difference [%]")
    figure.savefig(path, dpi=90)
    plt.close(figure)


def _short(title: str, column: str) -> str:
    """What tells a curve from others of its column: `crossline at 5 cm` of a profile, `4 x 4 cm` of a depth dose."""
    match = re.search(r"(crossline|inline|off axis) at [\d.]+ cm", title)
    return match[0] if match else title.removeprefix(f"{column.split(' ')[0]} ").removeprefix("6X ")


def draw_outputs(path: Path, lines: Sequence[Line]) -> bool:
    """Differences of output ratios against the field size, with their limits."""
    if not lines:
        return False
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7.5, 4), layout="constrained")
    groups: dict[str, list[Line]] = {}
    for line in lines:
        detector = line.note.split(";")[0]
        groups.setdefault(f"{line.beam} {detector}", []).append(line)
    for n, (label, some) in enumerate(groups.items()):
        side = [float(line.field.split(" ")[0]) for line in some]
        for is_used in (True, False):
            chosen = [k for k, line in enumerate(some) if (line.role == USED) is is_used]
            axis.plot(
                [side[k] for k in chosen], [some[k].worst for k in chosen], "o", ms=6, color=f"C{n}",
                mfc="none" if is_used else f"C{n}", label=f"{label}{' (fit)' if is_used else ''}" if chosen else None,
            )  # fmt: skip
    limits = sorted({(float(line.field.split(" ")[0]), line.limit) for line in lines})
    for sign, label in ((1, "limits"), (-1, "_")):
        axis.plot([s for s, _ in limits], [sign * v for _, v in limits], "_", ms=16, color="0.4", label=label)
    axis.axhline(0, color="0.5", lw=0.6)
    axis.set_xscale("log")
    ticks = np.unique([s for s, _ in limits])
    axis.set_xticks(ticks, [f"{t:g}" for t in ticks])
    axis.minorticks_off()
    axis.set_xlabel("side of the field [cm]")
    axis.set_ylabel("output ratio, calculated - measured [%]")
    axis.legend(fontsize=7, ncols=2)
    figure.savefig(path, dpi=100)
    plt.close(figure)
    return True


def main() -> None:
    """Read, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="*", type=Path)
    parser.add_argument("--docs", type=Path, default=ROOT / "docs")
    arguments = parser.parse_args()
    kept = ROOT / "validation" / "results"
    results = read(arguments.results or sorted(kept.glob("validate-cpu-*.json")))
    others = [read([path]) for path in sorted(kept.glob("validate-cuda-*.json"))]
    pictures = draw(results, arguments.docs / "figures" / "validation")
    target = arguments.docs / "validation.md"
    target.write_text(page(results, pictures, arguments.docs, others), encoding="utf-8")
    print(f"Written: {target}, {sum(map(len, pictures.values()))} pictures")


if __name__ == "__main__":
    main()
