"""Fit the machines that come with spinedose to published measurements in water; the recipe behind their beam files.

    python validation/fit_machines.py [6X 6FFF 10X 10FFF agility]

TrueBeam from scans of one machine (`../shared/water_data/rsch_la6_truebeam`, see its notes for source and licence) and
quoted off-axis ratios of 40 x 40 cm fields (mean of three machines). Left out of the fit on purpose: the fields 7 x 7
and 20 x 20, profiles at 5 and 20 cm depth, all depth doses and outputs of the diode; `spinedose validate` holds the
result against them. Both TrueBeam machines get the beams: their leaves differ, their treatment heads do not.

Elekta Agility 6X from scans of 5 x 5 and 10 x 10 cm (`../shared/dicom/monaco_agility_commissioning`), profiles at 5 and
20 cm depth left out, and output factors of another linac of the type, 1 x 1 and 5 x 5 left out. The two linacs agree
where both have a field (5 x 5: 0.906 and 0.904). The calibration is that of the first linac (`Calibration.csv`, a table
of its own form that `agility_reference` reads): 0.812 cGy/MU, SSD 90 cm, 10 cm deep.

Every fit starts from the literature values in validation/start. Writes the beam files and
validation/results/fit_<beam>.json.
"""

from __future__ import annotations

import csv
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from spinedose._version import __version__
from spinedose.beam_file import write_beam
from spinedose.commission import Commissioning, fit_beam, prepare_curves
from spinedose.machine import BeamModel, Calibration, read_machine
from spinedose.measurements import Measurements, ReferenceCondition, Scan, read_measurements

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "water_data"
AGILITY = ROOT.parent / "shared" / "dicom" / "monaco_agility_commissioning"
TRUEBEAMS = ("varian-truebeam-m120", "varian-truebeam-hd120")
START = ROOT / "validation" / "start"
LEFT_OUT_FIELDS, LEFT_OUT_DEPTHS = ((7.0, 7.0), (20.0, 20.0)), (5.0, 20.0)

SAME_HEAD = (
    "spot_sigma_x_cm", "spot_sigma_y_cm", "scatter_angle_deg", "monitor_backscatter", "jaw_x_transmission",
    "jaw_y_transmission", "jaw_x_offset_cm", "jaw_y_offset_cm",
)  # fmt: skip
"""What beams without measured field edges take from the 6X of the same machine."""

CITATION = (
    "Scans of linac LA6, Royal Surrey County Hospital, 2015 (repository robmarkcole/Useful-python-for-medical-physics);"
    " off-axis ratios: Varian TrueBeam representative beam data, mean of three machines (cf. Chang et al., Med Phys"
    " 39:6981, 2012), quoted points. Not used: fields 7x7 and 20x20, profiles at 5 and 20 cm depth, depth doses and"
    " outputs of the diode."
)
AGILITY_CITATION = (
    "Scans and calibration of one Agility linac, 5x5 and 10x10 cm, SSD 90 cm (pymedphys, Apache-2.0); output factors of"
    " an Elekta Synergy with Agility head (e0404/photonPencilBeamKernelCalc, MIT). Not used: profiles at 5 and 20 cm"
    " depth, outputs of 1x1 and 5x5, tissue-phantom ratios."
)


def left_out(scan: Scan) -> bool:
    """Whether a curve is kept for validation."""
    return scan.field_cm in LEFT_OUT_FIELDS or (
        scan.kind in ("crossline", "inline") and scan.depth_cm in LEFT_OUT_DEPTHS
    )


def truebeam_data(beam: str) -> Measurements:
    """Chamber depth doses and profiles, diode profiles of small fields, quoted off-axis ratios."""
    folder = DATA / "rsch_la6_truebeam"
    data = read_measurements(folder / f"{beam}_pdd_cc13_raw.csv")
    profiles = folder / f"{beam}_profiles_cc13_raw.csv"
    if profiles.exists():
        data += read_measurements(profiles)
    quoted = read_measurements(DATA / "literature_points" / "truebeam_off_axis_ratios.csv")
    data += Measurements(quoted.select(beam=beam))
    small = folder / f"{beam}_profiles_photondiode_raw.csv"
    if small.exists():
        scans = read_measurements(small).scans
        data += Measurements(tuple(scan for scan in scans if scan.field_cm[0] in (1, 2, 3, 6)))
    return data


def fit(name: str, beam: str, data: Measurements, hold: dict[str, float]) -> Commissioning:
    """Fit one beam."""
    machine = read_machine(START / name)
    prepared = prepare_curves(data, beam, leave_out=left_out)
    curves = prepared.curves
    for finding in prepared.findings:
        print(f"  {finding}")
    started = time.perf_counter()

    def progress(text: str, share: float) -> None:
        print(f"\r{beam}: {text}, {time.perf_counter() - started:.0f} s", end="", flush=True)

    found = fit_beam(machine, beam, curves, hold=hold, progress=progress)
    print()
    for p in found.parameters:
        print(f"  {p.name:30s} {p.value:9.4f}  (start {p.start:.4f}) +- {p.sigma:.4f} {p.status}")
    for warning in found.warnings:
        print(" ", warning)
    return found


def agility_reference() -> ReferenceCondition:
    """The calibration of the scanned Agility: Gy for 100 MU, in the row of the beam and the column of the set-up."""
    with (AGILITY / "Calibration.csv").open(newline="", encoding="utf-8-sig") as file:
        table = {row["10x10 fields"]: row for row in csv.DictReader(file)}
    dose = float(table["06MV"]["d10 @ 90 SSD"])  # Gy/100 MU is cGy/MU
    return ReferenceCondition("6X", 10.0, 10.0, 90.0, 10.0, dose, "Calibration.csv, d10 @ 90 SSD (pymedphys)")


def agility_data() -> Measurements:
    """Scans and calibration of one Agility linac, output factors of another."""
    data = Measurements(references=(agility_reference(),))
    for name in ("06MV_10x10.mcc", "06MV_05x05_Open.mcc"):
        data += read_measurements(AGILITY / name)
    read = read_measurements(DATA / "elekta_synergy_agility" / "6X_output_factors.csv").output_factors[0]
    used = ~np.isin(read.field_x_cm, (1.0, 5.0))
    parts = {name: getattr(read, name)[used] for name in ("field_x_cm", "field_y_cm", "values", "uncertainty")}
    return data + Measurements(output_factors=(replace(read, **parts),))


def keep(beam: str, found: Commissioning, seconds: float) -> None:
    """Write what was found, numbers and misfits."""
    misfit = {
        f"{c.label}": {
            "rms_percent": round(100 * float(np.sqrt(np.mean((v - c.values) ** 2))), 3),
            "worst_percent": round(100 * float(np.abs(v - c.values).max()), 3),
        }
        for c, v in found.curves
    }
    result = {
        "version": __version__,
        "seconds": round(seconds),
        "parameters": {
            p.name: {"value": float(f"{p.value:.5g}"), "start": p.start, "sigma": p.sigma, "status": p.status}
            for p in found.parameters
        },
        "warnings": found.warnings,
        "misfit": misfit,
    }
    path = ROOT / "validation" / "results" / f"fit_{beam}.json"
    path.write_text(json.dumps(result, indent=1).replace("NaN", "null") + "\n", encoding="utf-8")


def provenance(old: BeamModel, found: Commissioning, source: str, citation: str) -> dict[str, object]:
    """Whence each group of numbers comes now."""
    notes = dict(old.provenance)
    is_agility = citation == AGILITY_CITATION
    held = "assumed (as for the TrueBeam, or none)" if is_agility else "as fitted to 6X of the machine"
    status = {p.name: p for p in found.parameters}

    def told(*names: str) -> str:
        parts = []
        for name in names:
            p = status[name]
            if p.status == "fitted":
                parts.append(f"{name} = {p.value:.4g} +- {p.sigma:.2g} fitted")
            elif p.status == "held":
                parts.append(f"{name} = {p.value:.4g} {held}")
            else:
                kept = ", literature value kept" if p.status == "not determined" else " of the fit"
                parts.append(f"{name} = {p.value:.4g} {p.status}{kept}")
        return "; ".join(parts) + "."

    notes["status"] = f"fitted to {source}; leaves are literature values, not determined by open fields"
    notes["date"] = time.strftime("%Y-%m-%d")
    notes["fit"] = f"{citation} spinedose {__version__}, docs/theory/commissioning.md, validation/fit_machines.py."
    notes["spectrum"] = f"{old.provenance['spectrum']} Bent by {told('spectrum_power', 'spectrum_low_cut')}"
    radial = [name for name in status if name.startswith("radial_fluence")]
    notes["radial_fluence"] = f"{old.provenance['radial_fluence']} Times factors: {told(*radial)}"
    notes["softening"] = f"{old.provenance['softening']} Scaled: {told('softening_scale')}"
    notes["spot"] = told("spot_sigma_x_cm", "spot_sigma_y_cm")
    notes["extra_focal"] = "Distance of the plane held at 12.5 cm. " + told(
        "extra_focal_weight", "extra_focal_sigma_cm", "scatter_angle_deg"
    )
    notes["jaw_transmission"] = told(*(name for name in status if name.endswith("_transmission")))
    notes["electrons"] = "Lateral spread assumed. " + told("electron_weight_cm2_per_g", "electron_attenuation_per_cm")
    notes["monitor_backscatter"] = told("monitor_backscatter")
    if "leaf_offset_cm" in status:
        notes["leaf_offset"] = told("leaf_offset_cm") + f" Start: {old.provenance['leaf_offset']}"
    notes["setup"] = {
        name: float(f"{p.value:.3g}") for name, p in status.items() if name.endswith(("offset_cm", "depth_shift_cm"))
    }
    return notes


def rebuild(old: BeamModel, found: Commissioning, source: str, citation: str, own: tuple[str, ...]) -> BeamModel:
    """The fitted beam with what is not fitted, and with its provenance."""
    model = replace(found.model, **{part: getattr(old, part) for part in own})
    return replace(model, provenance=provenance(old, found, source, citation))


def main(beams: list[str]) -> None:
    """Fit, and write."""
    known = ROOT / "validation" / "results" / "fit_6X.json"
    for beam in beams:
        hold: dict[str, float] = {}
        started = time.perf_counter()
        if beam == "agility":
            # the leaves' offset is what moves edges in x; a plate screens the monitor of an Elekta head
            hold = {"jaw_x_offset_cm": 0.0, "other_jaw_x_offset_cm": 0.0, "monitor_backscatter": 0.0}
            # profiles of 10 cm fields say too little of what is far off the axis: as for the TrueBeam
            hold |= {"softening_scale": 1.0, "scatter_angle_deg": 19.0}
            data = agility_data()
            found = fit("elekta-agility", "6X", data, hold)
            stated = data.reference("6X")
            own_calibration = Calibration(
                0.01 * stated.dose_cGy_per_MU, stated.field_x_cm, stated.ssd_cm, stated.depth_cm
            )
            old = read_machine(START / "elekta-agility").beams["6X"]
            own: tuple[str, ...] = ("mlc_transmission", "leaf_attenuation_per_cm")
            model = rebuild(old, found, "water scans of Agility linacs", AGILITY_CITATION, own)
            made = {"elekta-agility": replace(model, calibration=own_calibration)}
        else:
            if beam != "6X":
                first = json.loads(known.read_text(encoding="utf-8"))["parameters"]
                hold = {name: first[name]["value"] for name in SAME_HEAD}
            found = fit(TRUEBEAMS[0], beam, truebeam_data(beam), hold)
            own = ("mlc_transmission", "leaf_attenuation_per_cm", "leaf_offset_cm", "calibration")
            made = {}
            for name in TRUEBEAMS:
                source = "water scans of a TrueBeam" + ("" if name == TRUEBEAMS[0] else " with other leaves, same head")
                made[name] = rebuild(read_machine(START / name).beams[beam], found, source, CITATION, own)
        keep(beam, found, time.perf_counter() - started)
        for name, model in made.items():
            write_beam(model, ROOT / "beam_data" / name)


if __name__ == "__main__":
    main(sys.argv[1:] or ["6X", "6FFF", "10X", "10FFF", "agility"])
