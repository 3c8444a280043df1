"""What several commands share: options, progress, places to write to, and warnings."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

from spinedose._files import expect_replaceable
from spinedose.errors import InvalidInput
from spinedose.units import CM_PER_MM

if TYPE_CHECKING:
    from spinedose.assignments import Assignment

OnMissingSlices = Literal["refuse", "interpolate"]


OnBolus = Literal["refuse", "ignore"]


def _backend(name: str) -> str:
    """The name of a backend, or the reason why it is none."""
    from spinedose.backends.select import NAMES

    if NAMES.fullmatch(name) is None:
        raise typer.BadParameter(f"'{name}' is not one of 'auto', 'cpu', 'cuda', 'cuda:1' and so on")
    return name


BackendOption = typer.Option(
    parser=_backend, metavar="NAME", help="auto, cpu, cuda or cuda:1; auto takes the fastest there is."
)


MachineOption = typer.Option(
    metavar="NAME|DIR",
    help="Machine of all beams: a name that `spinedose machines` lists, or a folder that holds a machine.toml. "
    "Without it the leaf widths in the plan decide.",
)

CurveOption = typer.Option(
    metavar="NAME|FILE.toml",
    help="Curve from CT numbers to density, best that of your scanner: a name, or a TOML file.",
)

MaterialOption = typer.Option(
    metavar='"ROD=titanium"',
    help='Material of a structure, or above a CT number: ">2500=titanium"; ">2500=titanium:grow -1" moves its '
    "surface by 1 mm inwards. May be repeated; docs/formats/materials.md lists the materials.",
)

CouchOption = typer.Option(
    metavar="NAME[:MM]",
    help="Couch top to put under the patient: a name (igrt-generic) or a TOML file; MM is the DICOM y of its "
    "surface. Without MM it touches the body.",
)

FineOption = typer.Option(
    metavar="PTV,SpinalCord",
    help="Structures around which voxels are half as large, with 1.5 cm around them; with commas.",
)

DoseToOption = typer.Option(
    metavar="water|medium",
    help="Dose to a water-like medium, or to the medium that is there: in cortical bone 6 % less.",
)

MissingSlicesOption = typer.Option(help="Refuse a CT that lacks slices, or interpolate single ones and warn.")

BeamsOption = typer.Option(metavar="1,2", help="Numbers of the beams to compute, with commas. Without it all beams.")

FractionGroupOption = typer.Option(
    metavar="N", help="Number of the fraction group to compute; needed where the plan has several."
)

BolusOption = typer.Option(
    help="Refuse a beam with a bolus, whose shape an RTPLAN does not hold, or ignore the bolus and warn."
)

PositionOption = typer.Option(
    metavar="HFS|HFP|FFS|FFP",
    help="How the patient lies, where plan or CT do not say it or say it wrongly: head or feet first, supine or prone.",
)

NO_PICTURES = "No pictures: matplotlib is not installed (pip install 'spinedose[report]')."


@contextmanager
def progress_bar(*, wanted: bool) -> Iterator[Callable[[str, float], None]]:
    """A bar with the stage and its share done (0 to 1), on stderr, gone when finished; silent where nobody watches."""
    if not (wanted and sys.stderr.isatty()):
        yield lambda stage, fraction: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = TextColumn("{task.description:<18}"), BarColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=1.0)
        yield lambda stage, fraction: bar.update(task, description=stage, completed=fraction)


def beam_numbers(text: str | None) -> tuple[int, ...] | None:
    """Beam numbers from `1,2`."""
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InvalidInput(
            f"--beams {text} cannot be understood", "it takes whole numbers", "Write them with commas: --beams 1,2"
        ) from None


def assignment(text: str) -> Assignment:
    """A material from `ROD=titanium` or `>2500=titanium:grow -1` [HU, mm]."""
    from spinedose.assignments import Assignment

    region, _, rest = text.rpartition("=")
    name, colon, growth = rest.partition(":")
    region, words = region.strip(), growth.split()
    threshold = re.fullmatch(r">\s*([0-9.]+)(\s*HU)?", region, re.IGNORECASE)
    try:
        if not region or bool(colon) != (len(words) == 2 and words[0] == "grow"):
            raise ValueError
        above_hu = float(threshold[1]) if threshold else None
        grow_mm = float(words[1]) if words else 0.0
    except ValueError:
        raise InvalidInput(
            f'--material "{text}" cannot be understood',
            "it takes a structure or a CT number, and a material",
            'Write "ROD=titanium" or ">2500=titanium:grow -1"',
        ) from None
    return Assignment(name.strip(), "" if threshold else region, above_hu, CM_PER_MM * grow_mm)


def chosen_structures(texts: list[str]) -> dict[str, str]:
    """Structures by their names in the protocol, from `SpinalCord=Cord_final`."""
    found = {}
    for text in texts:
        name, equals, structure = text.partition("=")
        if not (equals and name.strip() and structure.strip()):
            raise InvalidInput(
                f"--chosen {text} cannot be understood",
                "it takes a name of the protocol and a structure",
                'Write "SpinalCord=Cord_final"',
            )
        found[name.strip()] = structure.strip()
    return found


def couch_and_surface(text: str | None) -> tuple[str, float | None]:
    """A couch top and the height of its surface [mm] from `NAME` or `NAME:120`."""
    if text is None:
        return "", None
    name, colon, height = text.rpartition(":")
    if not colon or len(name) == 1:  # a drive letter
        return text, None
    try:
        surface_mm = float(height)
        if not (name and math.isfinite(surface_mm)):
            raise ValueError
    except ValueError:
        raise InvalidInput(
            f"--couch {text} cannot be understood", "after the colon comes a height in mm", "Write NAME or NAME:120"
        ) from None
    return name, surface_mm


def check_spacing(spacing_mm: float) -> None:
    """Refuse impossible voxels before anything is read."""
    if not 0.5 <= spacing_mm <= 10:
        raise InvalidInput(
            f"--spacing-mm {spacing_mm:g} cannot be used",
            "voxels may measure 0.5 to 10 mm",
            "2.5 is usual, 1.25 is fine",
        )


def check_target(path: Path, *, force: bool, inputs: list[Path], outputs: Sequence[Path] = ()) -> None:
    """Refuse, before the computation, a file that could not be written after it; `outputs` are the others."""
    if path.is_dir():
        raise InvalidInput(f"The output '{path}' is a folder", "a file is written", "Give it a file name")
    expect_replaceable(path)
    if any(path.resolve() == other.resolve() for other in inputs):
        raise InvalidInput(f"The output '{path}' is one of the inputs", "it would be lost", "Choose another name")
    if any(path.resolve() == other.resolve() for other in outputs):
        raise InvalidInput(
            f"The output '{path}' is named twice", "one file would take the place of the other", "Choose another name"
        )
    if path.exists() and not force:
        raise InvalidInput(
            f"The output '{path}' exists", "it would be lost", "Choose another name, or overwrite with --force"
        )
    if path.exists():
        from spinedose.dicom.ct import is_ct_slice

        if is_ct_slice(path):
            raise InvalidInput(f"The output '{path}' is a CT slice", "it would be lost", "Choose another name")
    check_folder(path.parent)


def check_target_folder(path: Path, *, force: bool, parents: bool = False) -> None:
    """Refuse, before the computation, a folder that could not be filled after it."""
    if path.is_dir():
        if any(path.iterdir()) and not force:
            raise InvalidInput(
                f"The output folder '{path}' is not empty",
                "files would be mixed up",
                "Empty it, or overwrite with --force",
            )
        return check_folder(path)
    if path.exists():
        raise InvalidInput(f"The output folder '{path}' is a file", "a folder is needed", "Choose another name")
    return check_folder(next(p for p in path.absolute().parents if p.exists()) if parents else path.parent)


def check_folder(folder: Path) -> None:
    """Refuse a folder that is none, or into which nothing can be written; what rights do not tell, a trial does."""
    import tempfile

    if not folder.exists():
        raise InvalidInput(f"The folder '{folder}' is not there", "nothing can be written into it", "Make it first")
    if not folder.is_dir():
        raise InvalidInput(f"'{folder}' is a file", "a folder is needed to write into", "Choose another place")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InvalidInput(
            f"Nothing can be written into the folder '{folder}'", error.strerror or str(error), "Choose another place"
        ) from None


def show_warnings(warnings: tuple[str, ...]) -> None:
    for text in warnings:
        typer.echo(f"Warning: {text}", err=True)
