"""Check every complete set of real files once, as `spinedose check` does, and write down what it says.

    python validation/check_real_files.py [--reports DIR] [NAME ...]

The files lie beside the checkout in `shared/dicom`. Sets without a CT get a body of water, as in `real_files.py`, which
says what is assumed. Results go to validation/results/checks.json; reports, where asked for, to DIR.
"""

from __future__ import annotations

import json
import lzma
import shutil
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any

import spinedose as sd
from real_files import DICOM, ONCENTRA, STATIC, box, filled, unpacked
from spinedose.errors import SpinedoseError

RESULTS = Path(__file__).with_name("results") / "checks.json"
DOCS = Path(__file__).resolve().parents[1] / "docs" / "howto" / "check.md"


@contextmanager
def folder_of(name: str, *files: str) -> Iterator[Path]:
    """The files of a set in one folder, unpacked, as a planning system exports them."""
    with tempfile.TemporaryDirectory() as place:
        target = Path(place)
        for file in files:
            source = DICOM / name / file
            if source.is_dir():
                shutil.copytree(source, target / source.name)
            elif file.endswith(".tar.xz"):
                with tarfile.open(source) as archive:
                    archive.extractall(target, filter="data")
            elif file.endswith(".xz"):
                (target / source.stem).write_bytes(lzma.decompress(source.read_bytes()))
            else:
                shutil.copy(source, target)
        yield target


def oncentra() -> sd.Check:
    """Doses of single beams, one of them empty, one of electrons; a box of 9 cm."""
    with folder_of("oncentra_box_full", "CT.tar.xz", "RD", Path(ONCENTRA).name, ONCENTRA_SET) as folder:
        return sd.check(folder, beams=[1], machine="varian-truebeam-m120", settings=STATIC)


ONCENTRA_SET = "RS1.3.6.1.4.1.2452.6.727319383.1116259385.3336283576.3074434425.dcm"


def oncentra_5_cm() -> sd.Check:
    """The same in the box of 5 cm that the plan's SSDs imply."""
    doses = [sd.read_dose(path) for path in sorted((DICOM / "oncentra_box_full/RD").glob("*.dcm"))]
    (planned,) = (dose for dose in doses if dose.beam_numbers == (1,))
    plan = sd.read_plan(DICOM / ONCENTRA, beams=[1])
    ct = box((-2.0, -2.0, -18.75), (3.0, 3.0, 18.75))
    return sd.check(plan=plan, ct=ct, dose=planned, machine="varian-truebeam-m120", settings=STATIC)


def breast_ecomp() -> sd.Check:
    with unpacked("eclipse_breast_ecomp/rtss.dcm.xz") as file:
        structures = sd.read_structures(file)
    with unpacked("eclipse_breast_ecomp/rtdose.dcm.xz") as file:
        planned = sd.read_dose(file)
    lung = tuple(
        replace(s, relative_electron_density=0.26) if s.name == "Lt Lung" else s for s in structures.structures
    )
    structures = replace(structures, structures=lung)
    ct = filled(structures, 0.5, (-23.2, -42.2, -12.3), (24.8, -10.6, 16.9))
    plan = sd.read_plan(DICOM / "eclipse_breast_ecomp/rtplan.dcm")
    return sd.check(plan=plan, ct=ct, structures=structures, dose=planned, spacing_cm=0.5)


def qa_chamber() -> sd.Check:
    with unpacked("eclipse_qa_chamber/rtstruct.dcm.xz") as file:
        structures = sd.read_structures(file)
    ct = filled(structures, 0.2, (-2.6, -27.4, 46.8), (1.8, -23.0, 60.8))
    plan, dose = (DICOM / "eclipse_qa_chamber" / name for name in ("rtplan.dcm", "rtdose.dcm"))
    return sd.check(plan=plan, ct=ct, structures=structures, dose=dose, spacing_cm=0.2, settings=STATIC)


def sweeping_gap() -> sd.Check:
    with folder_of("raystation_sweeping_gap", "CT.tar.xz", "RTSTRUCT.dcm.xz", "SG_RTPLAN.dcm") as folder:
        return sd.check(folder, missing_slices="interpolate", spacing_cm=0.5, settings=STATIC)


def breast_fif() -> sd.Check:
    with folder_of("eclipse_breast_fif_bolus", "CT.tar.xz", "RTPLAN.dcm") as folder:
        return sd.check(folder, bolus="ignore", spacing_cm=0.5, settings=STATIC)


def thorax_imrt() -> sd.Check:
    with folder_of("eclipse_thorax_imrt", "CT.tar.xz", "RTSTRUCT.dcm.xz", "RTPLAN.dcm.xz") as folder:
        return sd.check(folder, spacing_cm=0.5)


def tiny_vmat() -> sd.Check:
    """Voxels of 10 cm show no patient: as a cube of water."""
    plan = DICOM / "monaco_tiny_vmat/TinyFS_TinyVMAT.dcm"
    return sd.check(plan=plan, ct=box((-10, -10, -15), (10, 10, 15)), spacing_cm=0.5)


CASES: dict[str, Callable[[], sd.Check]] = {
    "oncentra_box_full": oncentra,
    "oncentra_box_full, 5 cm": oncentra_5_cm,
    "eclipse_breast_ecomp": breast_ecomp,
    "eclipse_qa_chamber": qa_chamber,
    "raystation_sweeping_gap": sweeping_gap,
    "eclipse_breast_fif_bolus": breast_fif,
    "eclipse_thorax_imrt": thorax_imrt,
    "monaco_tiny_vmat": tiny_vmat,
}


def said(found: sd.Check, seconds: float) -> dict[str, Any]:
    """What the check said, in short; nothing of the patient."""
    beams = {b.row.number: round(b.difference_percent, 2) for b in found.beams if isfinite(b.difference_percent)}
    return {
        "verdict": found.verdict,
        "reasons": list(found.reasons[:8]),
        "prescription": found.prescription.text,
        "gamma_pass_percent": {gamma.question.name: round(gamma.whole.pass_percent, 2) for gamma in found.gammas},
        "beam_point_percent": beams,
        "targets_mean_percent": {
            one.name: round(pair.difference_percent, 2)
            for one in found.of_role("target")
            if (pair := one.metric("Mean[Gy]")) is not None and isfinite(pair.difference_percent)
        },
        "findings": [{"code": one.code, "severity": one.severity, "text": one.text} for one in found.findings],
        "json_bytes": len(found.to_json()),
        "seconds": round(seconds, 1),
    }


def table(content: dict[str, Any]) -> str:
    """Rows for docs/howto/check.md."""
    lines = [
        "| set | verdict | gamma 3 %/2 mm | target means | points of beams | first reason |",
        "|---|---|---|---|---|---|",
    ]

    def spread(values: dict[str, float]) -> str:
        return f"{min(values.values()):+.1f} to {max(values.values()):+.1f} %" if values else ""

    for name, case in content["cases"].items():
        gamma = next((f"{v:.1f} %" for k, v in case.get("gamma_pass_percent", {}).items() if "3 %/2 mm" in k), "")
        means, points = spread(case.get("targets_mean_percent", {})), spread(case.get("beam_point_percent", {}))
        lines.append(f"| `{name}` | {case['verdict']} | {gamma} | {means} | {points} | {case['reasons'][0]} |")
    return "\n".join(lines)


def write_table(content: dict[str, Any]) -> None:
    page = DOCS.read_text(encoding="utf-8")
    start, end = "<!-- real -->\n", "<!-- end real -->"
    head, _, rest = page.partition(start)
    DOCS.write_text(f"{head}{start}{table(content)}\n{end}{rest.partition(end)[2]}", encoding="utf-8")


def main() -> None:
    arguments, reports = sys.argv[1:], None
    if arguments[:1] == ["--reports"]:
        reports, arguments = Path(arguments[1]), arguments[2:]
    content: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {"cases": {}}
    for name in arguments or list(CASES):
        start = time.perf_counter()
        try:
            found = CASES[name]().anonymous()
        except SpinedoseError as error:
            content["cases"][name] = {"verdict": "refused", "reasons": [str(error)]}
        else:
            content["cases"][name] = said(found, time.perf_counter() - start)
            content |= {"version": sd.__version__, "criteria": found.criteria, "device": found.dose.metadata.device}
            if reports is not None:
                from spinedose.report import write_html, write_pdf

                place = reports / name.replace(", ", "_").replace(" ", "_")
                place.mkdir(parents=True, exist_ok=True)
                (place / "check.json").write_text(found.to_json(), encoding="utf-8")
                write_html(found, place / "report.html")
                write_pdf(found, place / "report.pdf")
        content["cases"] = {key: content["cases"][key] for key in CASES if key in content["cases"]}
        RESULTS.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        print(name, json.dumps(content["cases"][name], indent=2), flush=True)
    write_table(content)


if __name__ == "__main__":
    main()
