"""A synthetic spine case: CT, structures and a two-arc VMAT plan, all from analytic shapes; no patient data.

A thorax with lungs, mediastinum, fat and skin; thoracic vertebrae with a cortical shell, discs, pedicles, laminae and
processes around the canal; the cord in it; two titanium rods with pedicle screws one level above and below the
target. The target is the whole body of the middle vertebra with its pedicles, 3 mm away from the cord: the C-shape of
spinal radiosurgery. In beam's eye view every leaf pair opens on one side of the cord; the two arcs prefer opposite
sides.

All sizes below are round figures of an average adult, chosen for the demonstration; no result depends on their truth.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spinedose._version import __version__
from spinedose.density import CtImage
from spinedose.dicom._writing import own_header
from spinedose.dicom.ct import write_ct
from spinedose.dicom.plan import write_plan
from spinedose.dicom.structures import write_structures
from spinedose.errors import InvalidInput
from spinedose.geometry import collimator_from_gantry, gantry_from_patient
from spinedose.grid import Grid, Volume
from spinedose.plan import Beam, Identity, Plan, PrescribedDose
from spinedose.structures import Structure, StructureSet

Array = NDArray[np.float64]
Shape = Callable[[Array, Array, float], Array]
"""Signed distance [cm] to a surface at (x, y) arrays [cm] and one height z [cm]; negative inside, near the surface
exact."""


PATIENT_ID = "SPINEDOSE-DEMO"
"""By this, and by the maker, files of an earlier demo are known."""

PICTURES = ("axial.png", "sagittal.png", "coronal.png", "dvh.png")
"""What `spinedose demo` draws beside the case."""


@dataclass(frozen=True, slots=True, eq=False)
class DemoCase:
    """A complete synthetic case.

    Parameters
    ----------
    ct : CtImage
        The image.
    structures : StructureSet
        Contours on the slices of the image.
    plan : Plan
        Two full arcs; patient and study identifiers are in `plan.identity`.
    prescription_gy : float
        Dose that the target should receive from the whole plan [Gy].
    """

    ct: CtImage
    structures: StructureSet
    plan: Plan
    prescription_gy: float


@dataclass(frozen=True, slots=True)
class DemoFiles:
    """Where `write_demo` put a case.

    Parameters
    ----------
    ct : Path
        Folder with the CT slices.
    structures, plan : Path
        RTSTRUCT and RTPLAN.
    """

    ct: Path
    structures: Path
    plan: Path


def demo_case() -> DemoCase:
    """Make the synthetic spine case; the same every time."""
    ct = _make_ct()
    structures = _make_structures(ct.hu.grid, ct.frame_of_reference_uid)
    plan = _make_plan(structures)
    return DemoCase(ct, structures, plan, prescription_gy=FRACTIONS * FRACTION_DOSE_GY)


def write_demo(directory: str | Path, case: DemoCase) -> DemoFiles:
    """Write a case as DICOM files: `CT/`, `RS.dcm` and `RP.dcm` in a folder, which is made when absent.

    Parameters
    ----------
    directory : path
        Folder to write to; files of an earlier demo are replaced.
    case : DemoCase
        The case.

    Returns
    -------
    DemoFiles
        Paths of what was written.

    Raises
    ------
    InvalidInput
        If other files are in the way, or it cannot be written.
    """
    folder = Path(directory)
    refuse_strangers(folder)
    folder.mkdir(parents=True, exist_ok=True)
    identity = case.plan.identity
    slices = write_ct(case.ct, folder / "CT", identity=identity)
    structures = write_structures(case.structures, folder / "RS.dcm", identity=identity, ct_files=slices)
    plan = write_plan(case.plan, folder / "RP.dcm")
    return DemoFiles(folder / "CT", structures, plan)


def refuse_strangers(directory: str | Path) -> None:
    """Refuse a folder in which a demo would overwrite what is not of an earlier one, or mix its CT with another.

    Raises
    ------
    InvalidInput
        Naming the file.
    """
    folder = Path(directory)
    in_the_way = [path for name in ("RP.dcm", "RS.dcm", "RD.dcm") if (path := folder / name).exists()]
    in_the_way += sorted(path for path in (folder / "CT").glob("*") if not path.name.startswith("."))
    if not in_the_way:  # pictures do not say whose they are, but lie beside a demo if they are of one
        in_the_way = [path for name in PICTURES if (path := folder / name).exists()]
    for path in in_the_way:
        header = own_header(path)
        if header is None or header.get("PatientID") != PATIENT_ID:
            raise InvalidInput(
                f"'{path}' is not of an earlier demo", "it would be lost or mixed up", "Choose another folder"
            )


STORED_CM = 0.15
"""Voxels of the dose file of the demo [cm]: as fine as radiosurgery of the spine is planned (AAPM TG-101, Benedict et
al., Med Phys 37:4078 (2010), asks for 2 mm or finer; not verified against the original), and not those of the
calculation, so that a check of the demo compares two grids as it does with a planning system."""


def stored_grid(computed: Grid) -> Grid:
    """The voxels of the demo's dose file, within those that the dose was computed on."""
    low, size = computed.lower_cm, computed.upper_cm - computed.lower_cm
    nx, ny, nz = (int(length / STORED_CM) for length in size)
    x, y, z = (float(edge) + STORED_CM / 2 for edge in low)
    return Grid((x, y, z), (STORED_CM, STORED_CM, STORED_CM), (nz, ny, nx))


def _uid(name: str) -> str:
    """A UID that is the same for the same object of the same version (2.25 and a UUID made from a name)."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_URL, f'spinedose/demo/{__version__}/{name}').int}"


# --- shapes -----------------------------------------------------------------------------------------------------------


def _ellipse(
    x: Array, y: Array, z: float, *, at: tuple[float, float], half: tuple[float, float], power: float = 2
) -> Array:
    """Cylinder along z whose section is an ellipse, or nearer to a rectangle for powers above 2."""
    u, v = np.abs((x - at[0]) / half[0]), np.abs((y - at[1]) / half[1])
    slope_u, slope_v = u ** (power - 1), v ** (power - 1)
    whole = np.maximum(slope_u * u + slope_v * v, 1e-12)
    size = whole ** (1 / power)
    slope = np.hypot(slope_u / half[0], slope_v / half[1]) * (size / whole)
    distance: Array = (size - 1) / np.maximum(slope, 0.5 / max(half))
    return distance


def _ball(x: Array, y: Array, z: float, *, at: tuple[float, float, float], half: tuple[float, float, float]) -> Array:
    """Ellipsoid."""
    u, v, w = (x - at[0]) / half[0], (y - at[1]) / half[1], (z - at[2]) / half[2]
    size = np.maximum(np.sqrt(u**2 + v**2 + w**2), 1e-6)
    slope = np.sqrt((u / half[0]) ** 2 + (v / half[1]) ** 2 + (w / half[2]) ** 2) / size
    return (size - 1) / slope


def _rod(
    x: Array, y: Array, z: float, *, ends: tuple[tuple[float, float, float], tuple[float, float, float]], radius: float
) -> Array:
    """Straight rod with round ends."""
    first, last = np.array(ends[0]), np.array(ends[1])
    along = last - first
    part = ((x - first[0]) * along[0] + (y - first[1]) * along[1] + (z - first[2]) * along[2]) / (along @ along)
    part = np.clip(part, 0.0, 1.0)
    u, v, w = (p - f - part * d for p, f, d in zip((x, y, z), first, along, strict=True))
    distance: Array = np.sqrt(u**2 + v**2 + w**2) - radius
    return distance


def _shrunk(x: Array, y: Array, z: float, *, shape: Shape, by: float) -> Array:
    """A shape without its outermost layer."""
    return shape(x, y, z) + by


def _slice_of(distance: Array, z: float, low: float, high: float) -> Array:
    """The part of a shape between two heights."""
    return np.maximum(distance, max(low - z, z - high))


# --- anatomy ----------------------------------------------------------------------------------------------------------

LEVEL_CM = 2.7
"""From one vertebra to the next: 2.2 cm of bone and 0.5 cm of disc."""
HALF_BODY_CM = 1.1
CORD_HALF_CM = (0.48, 0.38)
CANAL_HALF_CM = (0.88, 0.80)
ROD_RADIUS_CM = 0.275
SCREW_RADIUS_CM = 0.3
PTV_TO_CORD_CM = 0.3
PRV_MARGIN_CM = 0.2
ROD_TOP_CM = 1.55 * LEVEL_CM


def _spine_y(z: float) -> float:
    """Middle of the vertebral bodies [cm]: a gentle kyphosis."""
    return 4.4 - 0.006 * z * z


def _canal_y(z: float) -> float:
    """Middle of the canal [cm]."""
    return _spine_y(z) + 2.15


def _torso(x: Array, y: Array, z: float) -> Array:
    return _ellipse(x, y, z, at=(0.0, 0.0), half=(16.5 - 0.012 * (z - 3) ** 2 / 2, 11.5), power=2.3)


def _muscle(x: Array, y: Array, z: float) -> Array:
    """Inside of the fat layer, which is thicker in front."""
    return _ellipse(x, y, z, at=(0.0, 0.1), half=(15.4 - 0.012 * (z - 3) ** 2 / 2, 10.2), power=2.3)


def _lung(x: Array, y: Array, z: float, *, side: int) -> Array:
    """Lung of the patient's left (side 1) or right (side -1): cut out around spine, mediastinum and heart."""
    grow = 1.0 - 0.0012 * (z + 4) ** 2
    lung = _ellipse(x, y, z, at=(side * 7.9, -0.6), half=(5.7 * grow, 7.7 * grow), power=2.4)
    spine = _ellipse(x, y, z, at=(0.0, _spine_y(z) + 0.5), half=(3.1, 3.3))
    mediastinum = _ellipse(x, y, z, at=(0.3, -2.0), half=(3.4, 9.5))
    heart = _ball(x, y, z, at=(2.0, -3.6, -4.5), half=(4.6, 3.9, 5.5))
    return np.maximum(lung, -np.minimum(np.minimum(spine, mediastinum), heart))


def _rib(x: Array, y: Array, z: float) -> Array:
    """Ribs: a shell around the lungs, cut into bands that fall towards the front."""
    outer = _ellipse(x, y, z, at=(0.0, -0.3), half=(14.6, 9.3), power=2.4)
    shell = np.abs(outer + 0.35) - 0.35
    phase = (z - 0.35 * (y - 6.0) - LEVEL_CM / 2) / LEVEL_CM
    band = np.abs(phase - np.rint(phase)) * LEVEL_CM - 0.5
    gap = np.where(y > 0, 3.2, 2.5) - np.abs(x)  # they end at the spine behind and at the sternum in front
    ribs: Array = np.maximum(np.maximum(shell, band), gap)
    return ribs


def _sternum(x: Array, y: Array, z: float) -> Array:
    return _ellipse(x, y, z, at=(0.0, -9.2), half=(1.9, 0.55), power=3)


def _vertebral_body(x: Array, y: Array, z: float, *, level: int, grow: float = 0.0) -> Array:
    """Body of a vertebra; waisted, flat behind."""
    middle = level * LEVEL_CM
    waist = 1.0 - 0.09 * max(0.0, 1.0 - ((z - middle) / HALF_BODY_CM) ** 2)
    y0 = _spine_y(z)
    body = _ellipse(x, y, z, at=(0.0, y0), half=(1.65 * waist + grow, 1.45 * waist + grow), power=2.4)
    behind = y - (y0 + 1.33 + grow)
    return _slice_of(np.maximum(body, behind), z, middle - HALF_BODY_CM - grow, middle + HALF_BODY_CM + grow)


def _disc(x: Array, y: Array, z: float) -> Array:
    return _ellipse(x, y, z, at=(0.0, _spine_y(z)), half=(1.7, 1.45), power=2.4)


def _pedicles(x: Array, y: Array, z: float, *, level: int, grow: float = 0.0) -> Array:
    """The two bridges from the body to the arch."""
    middle = level * LEVEL_CM
    y0 = _spine_y(z)
    ends = ((1.25, y0 + 0.8, z), (1.32, y0 + 2.3, z))
    both = _rod(np.abs(x), y, z, ends=ends, radius=0.36 + grow)
    return _slice_of(both, z, middle - 0.35 - grow, middle + 0.85 + grow)


def _arch(x: Array, y: Array, z: float, *, level: int) -> Array:
    """Laminae, spinous and transverse processes of a vertebra."""
    middle = level * LEVEL_CM
    yc = _canal_y(z)
    ring = _ellipse(x, y, z, at=(0.0, yc), half=(1.45, 1.35))
    laminae = _slice_of(np.maximum(ring, yc - 0.3 - y), z, middle - 0.9, middle + 0.75)
    spinous = _rod(x, y, z, ends=((0.0, yc + 1.1, middle - 0.2), (0.0, yc + 3.0, middle - 1.3)), radius=0.34)
    transverse = _rod(np.abs(x), y, z, ends=((1.2, yc + 0.2, middle + 0.3), (2.9, yc + 0.9, middle + 0.5)), radius=0.42)
    return np.minimum(np.minimum(laminae, spinous), transverse)


def _canal(x: Array, y: Array, z: float) -> Array:
    return _ellipse(x, y, z, at=(0.0, _canal_y(z)), half=CANAL_HALF_CM)


def _cord(x: Array, y: Array, z: float, *, grow: float = 0.0) -> Array:
    return _ellipse(x, y, z, at=(0.0, _canal_y(z)), half=CORD_HALF_CM) - grow


def _lesion(x: Array, y: Array, z: float) -> Array:
    """The tumour: in the left of the body, towards the pedicle."""
    y0 = _spine_y(0.0)
    return _rod(x, y, z, ends=((0.3, y0 - 0.1, 0.0), (0.85, y0 + 0.6, 0.1)), radius=0.8)


def _ptv(x: Array, y: Array, z: float) -> Array:
    """Middle vertebra's body and pedicles with 2 mm, 3 mm off the cord."""
    bone = np.minimum(
        _vertebral_body(x, y, z, level=0, grow=0.2),
        np.maximum(_pedicles(x, y, z, level=0, grow=0.2), abs(z) - HALF_BODY_CM - 0.2),
    )
    return np.maximum(bone, -_cord(x, y, z, grow=PTV_TO_CORD_CM))


def _aorta(x: Array, y: Array, z: float) -> Array:
    return _ellipse(x, y, z, at=(2.3, _spine_y(z) - 1.9), half=(1.15, 1.15))


def _oesophagus(x: Array, y: Array, z: float) -> Array:
    return _ellipse(x, y, z, at=(0.5, _spine_y(z) - 2.5), half=(0.95, 0.6))


def _oesophagus_air(x: Array, y: Array, z: float) -> Array:
    return _ellipse(x, y, z, at=(0.55, _spine_y(z) - 2.5), half=(0.35, 0.15))


def _trachea(x: Array, y: Array, z: float) -> Array:
    return _slice_of(_ellipse(x, y, z, at=(-0.2, 0.0), half=(0.9, 0.8)), z, 5.5, 99.0)


def _metal(x: Array, y: Array, z: float, *, side: int) -> Array:
    """Rod and pedicle screws of one side, one level above and below the target."""
    rod_at = (1.95, _canal_y(0.0) + 1.75)
    x = side * x
    found = _rod(x, y, z, ends=((*rod_at, -ROD_TOP_CM), (*rod_at, ROD_TOP_CM)), radius=ROD_RADIUS_CM)
    for level in (-1, 1):
        height = level * LEVEL_CM + 0.25
        tip = (0.85, _spine_y(height) - 0.2, height)
        screw = _rod(x, y, z, ends=((*rod_at, height), tip), radius=SCREW_RADIUS_CM)
        head = _rod(x, y, z, ends=((*rod_at, height - 0.25), (*rod_at, height + 0.25)), radius=0.5)
        found = np.minimum(found, np.minimum(screw, head))
    return found


# --- image ------------------------------------------------------------------------------------------------------------

PIXEL_CM, SLICE_CM, COLUMNS, ROWS, SLICES = 0.16, 0.2, 256, 256, 111
TOP_OF_SCALE_HU = 3071.0
"""12 bits with an intercept of -1024."""

AIR_HU, SKIN_HU, FAT_HU, MUSCLE_HU, LUNG_HU = -1000.0, 10.0, -100.0, 50.0, -770.0
BLOOD_HU, CORD_HU, FLUID_HU, DISC_HU, LESION_HU = 45.0, 35.0, 12.0, 90.0, 70.0
TRABECULAR_HU, CORTICAL_HU = 210.0, 900.0
METAL_HU = 8000.0
"""Far above the scale: titanium saturates, and its blurred rim does too where metal fills more than a third of a
voxel."""

CORTEX_CM, SKIN_CM = 0.13, 0.2
TEXTURE_HU = 14.0
"""Standard deviation of the image noise in soft tissue."""


def _make_ct() -> CtImage:
    """Paint the anatomy slice by slice, later shapes over earlier ones, each with its share of the voxel at its rim."""
    grid = Grid(
        (-PIXEL_CM * (COLUMNS - 1) / 2, -PIXEL_CM * (ROWS - 1) / 2, -SLICE_CM * (SLICES - 1) / 2),
        (PIXEL_CM, PIXEL_CM, SLICE_CM),
        (SLICES, ROWS, COLUMNS),
    )
    x, y, heights = grid.axes_cm
    random = np.random.default_rng(20240817)
    values = np.empty(grid.shape, dtype=np.int16)
    for k, z in enumerate(heights):
        image = _paint(x, y, float(z))
        noise = random.standard_normal(image.shape)
        # Averaged over neighbours, as a reconstruction filter does; the factor keeps the standard deviation.
        noise = noise + np.roll(noise, 1, axis=0)
        noise = (noise + np.roll(noise, 1, axis=1)) / 2
        image += TEXTURE_HU * noise
        values[k] = np.rint(np.clip(image, -1024.0, TOP_OF_SCALE_HU))
    return CtImage(
        Volume(grid, values),
        patient_position="HFS",
        uid=_uid("CT series"),
        frame_of_reference_uid=_uid("frame"),
        saturated_voxels=int(np.count_nonzero(values >= TOP_OF_SCALE_HU)),
    )


def _paint(x: Array, y: Array, z: float) -> Array:
    """One slice of the image [HU], shape (ny, nx), without noise."""
    image = np.full((len(y), len(x)), AIR_HU)

    def add(shape: Shape, hu: float, box: tuple[float, float, float, float]) -> None:
        columns = slice(*np.searchsorted(x, box[:2]))
        rows = slice(*np.searchsorted(y, box[2:]))
        distance = shape(x[None, columns], y[rows, None], z)
        share = np.clip(0.5 - distance / PIXEL_CM, 0.0, 1.0)
        image[rows, columns] += share * (hu - image[rows, columns])

    body, chest, spine = (-17.0, 17.0, -12.0, 12.0), (-15.5, 15.5, -10.5, 10.5), (-4.0, 4.0, 1.5, 11.0)
    add(_torso, SKIN_HU, body)
    add(partial(_shrunk, shape=_torso, by=SKIN_CM), FAT_HU, body)
    add(_muscle, MUSCLE_HU, body)
    bones: list[Shape] = [_rib, _sternum]
    for bone in bones:
        add(bone, CORTICAL_HU, chest)
        add(partial(_shrunk, shape=bone, by=CORTEX_CM), TRABECULAR_HU, chest)
    for side in (-1, 1):
        add(partial(_lung, side=side), LUNG_HU, (min(side, side * 14.5), max(side, side * 14.5), -9.0, 8.0))
    add(_aorta, BLOOD_HU, (0.0, 5.0, -1.0, 6.0))
    add(_oesophagus, MUSCLE_HU - 10, (-2.0, 3.0, -1.0, 4.0))
    add(_oesophagus_air, AIR_HU, (-2.0, 3.0, -1.0, 4.0))
    add(_trachea, AIR_HU, (-2.0, 2.0, -2.0, 2.0))
    add(_disc, DISC_HU, spine)
    nearest = round(z / LEVEL_CM)
    bones = [
        partial(part, level=level)
        for level in (nearest - 1, nearest, nearest + 1)
        for part in (_vertebral_body, _pedicles, _arch)
    ]
    for bone in bones:
        add(bone, CORTICAL_HU, spine)
    for bone in bones:  # after all shells, so that joints have no wall inside
        add(partial(_shrunk, shape=bone, by=CORTEX_CM), TRABECULAR_HU, spine)
    add(_lesion, LESION_HU, spine)
    add(_canal, FLUID_HU, spine)
    add(_cord, CORD_HU, spine)
    for side in (-1, 1):
        add(partial(_metal, side=side), METAL_HU, spine)
    return image


# --- contours ---------------------------------------------------------------------------------------------------------


def _make_structures(grid: Grid, frame_of_reference_uid: str) -> StructureSet:
    """Contour the shapes on the slices of the image."""
    heights = grid.axes_cm[2]
    middle = _spine_y(0.0)

    def draw(
        shape: Shape, centre: Callable[[float], tuple[float, float]], reach: float, points: int = 120
    ) -> list[Array]:
        found = (_contour(shape, centre(float(z)), float(z), reach, points) for z in heights)
        return [contour for contour in found if contour is not None]

    def at_cord(z: float) -> tuple[float, float]:
        return 0.0, _canal_y(z)

    def at_front(z: float) -> tuple[float, float]:
        return 0.0, middle - 1.35  # from the front of the body rays see the whole of the C

    def at_lesion(z: float) -> tuple[float, float]:
        return 0.6, middle + 0.25

    def at_rod(side: int) -> Callable[[float], tuple[float, float]]:
        return lambda z: (side * 1.95, _canal_y(0.0) + 1.75)

    def at_lung(side: int) -> Callable[[float], tuple[float, float]]:
        return lambda z: (side * 8.6, 0.0)

    rods = [c for side in (-1, 1) for c in draw(partial(_metal, side=side), at_rod(side), 6.0, 360)]
    regions: list[tuple[str, str, list[Array], tuple[int, int, int]]] = [
        ("BODY", "EXTERNAL", draw(_torso, lambda z: (0.0, 0.0), 20.0, 240), (0, 158, 115)),
        ("GTV", "GTV", draw(_lesion, at_lesion, 3.0), (204, 121, 167)),
        ("PTV", "PTV", draw(_ptv, at_front, 6.0, 240), (213, 94, 0)),
        ("SpinalCord", "ORGAN", draw(_cord, at_cord, 2.0, 60), (240, 228, 66)),
        ("SpinalCord_PRV", "ORGAN", draw(partial(_cord, grow=PRV_MARGIN_CM), at_cord, 2.0, 60), (230, 159, 0)),
        ("Oesophagus", "ORGAN", draw(_oesophagus, lambda z: (0.5, _spine_y(z) - 2.5), 3.0, 60), (86, 180, 233)),
        ("Lung_L", "ORGAN", draw(partial(_lung, side=1), at_lung(1), 12.0), (0, 114, 178)),
        ("Lung_R", "ORGAN", draw(partial(_lung, side=-1), at_lung(-1), 12.0), (0, 114, 178)),
        ("Rods", "ORGAN", rods, (150, 150, 150)),
    ]
    structures = []
    for number, (name, kind, contours, color) in enumerate(regions, start=1):
        structure = Structure(number, name, kind, tuple(contours), color=color, contour_spacing_cm=SLICE_CM)
        if name == "Rods":
            # Titanium: 4.5 g/cm^3 and 4.5 * 0.4596 / 0.5551 electrons relative to water (Z/A of Ti and of water).
            structure = replace(structure, relative_mass_density=4.5, relative_electron_density=3.73)
        structures.append(structure)
    return StructureSet(
        tuple(structures),
        label="spinedose demo",
        uid=_uid("structures"),
        frame_of_reference_uid=frame_of_reference_uid,
    )


def _contour(shape: Shape, centre: tuple[float, float], z: float, reach: float, points: int) -> Array | None:
    """Outline of a shape in one plane, shape (points, 3), along rays from a centre inside it; None when it is not
    there.

    Exact for sections that every ray leaves once; the first way out counts.
    """
    angle = 2 * np.pi * np.arange(points) / points
    direction_x, direction_y = np.cos(angle)[:, None], np.sin(angle)[:, None]

    def measure(radius: Array) -> Array:
        distance = shape(centre[0] + radius * direction_x, centre[1] + radius * direction_y, z)
        return np.broadcast_to(distance, np.broadcast_shapes(radius.shape, direction_x.shape))

    if float(measure(np.zeros((1, 1)))[0, 0]) >= 0:
        return None
    coarse = np.linspace(0.0, reach, 50)
    first = np.argmax(measure(coarse[None, :]) >= 0, axis=1)
    assert np.all(first > 0), "the shape reaches further than the rays"
    low, high = coarse[first - 1][:, None], coarse[first][:, None]
    for _ in range(12):  # halving: to 1/4096 of the coarse step, below 0.01 mm
        middle = (low + high) / 2
        is_inside = measure(middle) < 0
        low, high = np.where(is_inside, middle, low), np.where(is_inside, high, middle)
    edge = (low + high) / 2
    return np.hstack([centre[0] + edge * direction_x, centre[1] + edge * direction_y, np.full((points, 1), z)])


# --- plan -------------------------------------------------------------------------------------------------------------

FRACTIONS, FRACTION_DOSE_GY = 2, 12.0
TOTAL_MU = 3850.0
"""Meterset of a fraction [MU]: about 80 % of the target then receive the prescribed dose, and the cord stays below 17
Gy."""

CONTROL_POINTS = 90
SAD_CM = 100.0
COLLIMATOR_DEG = (10.0, 350.0)
LEAF_WIDTHS_CM = (0.5,) * 14 + (0.25,) * 32 + (0.5,) * 14
"""HD120: leaf widths at the isocentre plane (beam_data/varian-truebeam-hd120)."""

TARGET_MARGIN_CM, CORD_MARGIN_CM, JAW_MARGIN_CM = 0.30, -0.03, 0.5
FASTEST_LEAF_CM = 1.6
"""Leaf travel allowed between control points of 4 degrees; a choice for the demo."""

SIDE_PREFERENCE_CM = 1.6
"""How much smaller the preferred side of the cord may be and still be opened."""


def _make_plan(structures: StructureSet) -> Plan:
    target = _points_of(structures["PTV"])
    cord = _points_of(structures["SpinalCord"])
    cord = cord[np.abs(cord[:, 2]) < np.abs(target[:, 2]).max() + 1.0]
    isocentre = np.round(target.mean(axis=0), 1)
    sweep = np.linspace(181.0, 539.0, CONTROL_POINTS)
    arcs = [
        _Arc(sweep, COLLIMATOR_DEG[0], SIDE_PREFERENCE_CM),
        _Arc(sweep[::-1] - 360.0, COLLIMATOR_DEG[1], -SIDE_PREFERENCE_CM),
    ]
    boundaries = np.concatenate([[0.0], np.cumsum(LEAF_WIDTHS_CM)]) - sum(LEAF_WIDTHS_CM) / 2
    openings = [_aperture(arc, target - isocentre, cord - isocentre, boundaries) for arc in arcs]
    weights = _segment_weights(arcs, openings, target, isocentre, boundaries)
    beams = []
    for number, (arc, opening, weight) in enumerate(zip(arcs, openings, weights, strict=True), start=1):
        cumulative = np.concatenate([[0.0], np.cumsum(weight)]) / weight.sum()
        cumulative[-1] = 1.0
        beams.append(
            Beam(
                number=number,
                name=f"Arc {number}",
                machine="TrueBeam",
                energy="6FFF",
                meterset_mu=round(TOTAL_MU * float(weight.sum()), 1),
                cumulative_meterset=cumulative,
                gantry_deg=arc.gantry_deg,
                collimator_deg=np.full(CONTROL_POINTS, arc.collimator_deg),
                couch_deg=np.zeros(CONTROL_POINTS),
                isocentre_cm=isocentre,
                jaw_x_cm=opening.jaw_x_cm,
                jaw_y_cm=opening.jaw_y_cm,
                leaf_boundaries_cm=boundaries,
                leaf_cm=opening.leaf_cm,
            )
        )
    identity = Identity(
        patient_name="Synthetic^Spine",
        patient_id=PATIENT_ID,
        patient_sex="O",
        study_instance_uid=_uid("study"),
        study_id="1",
    )
    return Plan(
        "spine demo",
        tuple(beams),
        patient_position="HFS",
        fractions=FRACTIONS,
        uid=_uid("plan"),
        frame_of_reference_uid=structures.frame_of_reference_uid,
        structure_set_uid=structures.uid,
        identity=identity,
        prescriptions=(PrescribedDose(FRACTIONS * FRACTION_DOSE_GY, "PTV", structures["PTV"].number),),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Arc:
    """Gantry angles (n,) of the control points, collimator angle, and the side of the cord that it prefers [cm]."""

    gantry_deg: Array
    collimator_deg: float
    preference_cm: float

    def project(self, points_cm: Array, k: int) -> Array:
        """Points (m, 3) relative to the isocentre, seen from the source on the isocentre plane at control point k:
        (m, 2)."""
        turn = collimator_from_gantry(self.collimator_deg) @ gantry_from_patient("HFS", 0.0, float(self.gantry_deg[k]))
        seen = points_cm @ turn.T
        projected: Array = seen[:, :2] * (SAD_CM / (SAD_CM - seen[:, 2:]))
        return projected


@dataclass(frozen=True, slots=True, eq=False)
class _Opening:
    """Jaws (n, 2) and leaves (n, 2, pairs) of an arc [cm]."""

    jaw_x_cm: Array
    jaw_y_cm: Array
    leaf_cm: Array


def _points_of(structure: Structure) -> Array:
    """Points all over a structure's surface and inside it (m, 3) [cm], 1 mm apart along z."""
    points = []
    for contour in structure.contours_cm:
        centre = contour.mean(axis=0)
        for share in (0.25, 0.5, 0.75, 1.0):
            for lift in (-SLICE_CM / 4, SLICE_CM / 4):
                points.append(centre + share * (contour - centre) + (0.0, 0.0, lift))
    return np.concatenate(points)


def _aperture(arc: _Arc, target: Array, cord: Array, boundaries: Array) -> _Opening:
    """Fit jaws and leaves to the target in beam's eye view, each leaf pair on one side of the cord."""
    count, pairs = len(arc.gantry_deg), len(boundaries) - 1
    jaw_x, jaw_y, leaves = np.empty((count, 2)), np.empty((count, 2)), np.empty((count, 2, pairs))
    for k in range(count):
        seen = arc.project(target, k)
        for jaw, values in ((jaw_x, seen[:, 0]), (jaw_y, seen[:, 1])):
            jaw[k] = (
                np.floor((values.min() - JAW_MARGIN_CM) * 10) / 10,
                np.ceil((values.max() + JAW_MARGIN_CM) * 10) / 10,
            )
        low, high = _extent_by_row(seen, boundaries, TARGET_MARGIN_CM)
        cord_low, cord_high = _extent_by_row(arc.project(cord, k), boundaries, CORD_MARGIN_CM)
        leaves[k] = jaw_x[k, 0] - 1.0  # closed pairs wait under the jaw
        is_open = np.isfinite(low)
        below, above = np.minimum(high, cord_low) - low, high - np.maximum(low, cord_high)
        is_shadowed = is_open & (cord_low < high) & (cord_high > low)
        # One side for all pairs that see the cord, so that neighbours do not work against each other.
        prefers_low = np.nansum(np.where(is_shadowed, below - above, 0.0)) + arc.preference_cm * is_shadowed.sum() > 0
        first = np.where(is_shadowed & ~prefers_low, np.maximum(low, cord_high), low)
        last = np.where(is_shadowed & prefers_low, np.minimum(high, cord_low), high)
        is_open &= last > first
        leaves[k, 0, is_open], leaves[k, 1, is_open] = first[is_open], last[is_open]
    return _Opening(jaw_x, jaw_y, _within_speed(leaves))


def _extent_by_row(points: Array, boundaries: Array, margin: float) -> tuple[Array, Array]:
    """Smallest and largest x of the points in front of each leaf pair, with a margin; not a number where there are
    none."""
    low, high = np.full(len(boundaries) - 1, np.inf), np.full(len(boundaries) - 1, -np.inf)
    row = np.searchsorted(boundaries, points[:, 1], side="right") - 1
    seen = (row >= 0) & (row < len(low))
    np.minimum.at(low, row[seen], points[seen, 0])
    np.maximum.at(high, row[seen], points[seen, 0])
    is_empty = ~np.isfinite(low)
    low[is_empty] = high[is_empty] = np.nan
    return low - margin, high + margin


def _within_speed(leaves: Array) -> Array:
    """Leaf positions that never open beyond those given and never move faster than allowed; same shape.

    The tightest such positions are envelopes: a leaf that must be closed further in at another control point has to
    be on its way there. Where the envelopes of a pair cross, it is closed in their middle, which moves no faster than
    they do.
    """
    count = len(leaves)
    reach = FASTEST_LEAF_CM * np.abs(np.subtract.outer(np.arange(count), np.arange(count)))[:, :, None]
    first = (leaves[None, :, 0] - reach).max(axis=1)
    last = (leaves[None, :, 1] + reach).min(axis=1)
    middle = (first + last) / 2
    return np.stack([np.minimum(first, middle), np.maximum(last, middle)], axis=1)


ATTENUATION_PER_CM = 0.05
"""Of the beam in tissue, for choosing the meterset weights only: a round figure for 6 MV."""

UNDERDOSE_IMPORTANCE = 10.0
"""How much more a lack of dose counts than an excess."""

LEAST_WEIGHT, MOST_WEIGHT = 0.3, 2.0
"""Range of a segment's meterset relative to the mean; a choice for the demo, within what dose rates allow."""


def _segment_weights(
    arcs: list[_Arc], openings: list[_Opening], target: Array, isocentre: Array, boundaries: Array
) -> list[Array]:
    """Share of the meterset for every segment of every arc, so that the primary dose to the target is even.

    Non-negative least squares by multiplicative steps, on rays through an open aperture that weaken with depth; no
    more is needed for a plan that looks like one.
    """
    sample = target[:: max(len(target) // 600, 1)]
    dose = np.concatenate(
        [_primary(arc, opening, sample, isocentre, boundaries) for arc, opening in zip(arcs, openings, strict=True)]
    ).T
    dose = dose / dose.sum(axis=1).mean()
    weight = np.full(dose.shape[1], 1.0)
    for _ in range(300):
        received = dose @ weight
        importance = np.where(received < 1.0, UNDERDOSE_IMPORTANCE, 1.0)
        weight *= (importance @ dose) / np.maximum((importance * received) @ dose, 1e-9)
        weight = np.clip(weight, LEAST_WEIGHT * weight.mean(), MOST_WEIGHT * weight.mean())
    weight /= weight.sum()
    return np.split(weight, len(arcs))


def _primary(arc: _Arc, opening: _Opening, points: Array, isocentre: Array, boundaries: Array) -> Array:
    """Primary dose of each segment at points, by the aperture in its middle: shape (segments, points)."""
    half_x, half_y = 16.5, 11.5
    dose = np.empty((len(arc.gantry_deg) - 1, len(points)))
    for k in range(len(dose)):
        seen = arc.project(points - isocentre, k)
        row = np.clip(np.searchsorted(boundaries, seen[:, 1], side="right") - 1, 0, len(boundaries) - 2)
        tips = opening.leaf_cm[k : k + 2].mean(axis=0)
        is_open = (seen[:, 0] > tips[0, row]) & (seen[:, 0] < tips[1, row])
        # Depth in an elliptical cylinder, along the central direction.
        towards_source = gantry_from_patient("HFS", 0.0, float(arc.gantry_deg[k]))[2]
        a = (towards_source[0] / half_x) ** 2 + (towards_source[1] / half_y) ** 2
        b = points[:, 0] * towards_source[0] / half_x**2 + points[:, 1] * towards_source[1] / half_y**2
        c = (points[:, 0] / half_x) ** 2 + (points[:, 1] / half_y) ** 2 - 1
        depth = (-b + np.sqrt(b * b - a * c)) / a
        dose[k] = is_open * np.exp(-ATTENUATION_PER_CM * depth)
    return dose
