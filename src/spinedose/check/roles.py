"""What part each structure plays in a check, and where fine voxels are worth their time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from spinedose.check.outcome import Role
from spinedose.errors import InvalidInput
from spinedose.nearness import is_cord, is_target
from spinedose.nested import FineBox
from spinedose.protocol import NEVER_ORGANS, Match
from spinedose.structures import Structure, StructureSet, bounds_cm, find_external, volume_cm3

FINE_CM = 0.125
"""Voxels around target and cord [cm]."""

FINE_FROM_GY = 5.0
"""Dose per fraction from which target and cord get fine voxels [Gy]: fractions of SBRT (AAPM TG-101 speaks of 6 to 30
Gy, not verified against the original; house default)."""

FINE_BELOW_CM3 = 30.0
"""Smaller targets get fine voxels at any dose: a sphere of 3.9 cm is 15 coarse voxels wide (house default)."""

FINE_MARGIN_CM = 1.5
"""Distance kept around them, as in `fine_box_around` [cm]."""

MOST_FINE_CM3 = 2500.0
"""Larger boxes are not made fine: 1.3 million voxels of 1.25 mm. House default, for time and memory."""

METAL_DENSITY = 3.5
"""Structures overridden with more than this are metal [relative to water]; titanium has 4.5 by mass and 3.7
by electrons, enamel 2.9 by mass."""

NO_ORGANS = frozenset({*NEVER_ORGANS, "MARKER", "REGISTRATION", "ISOCENTER", "CONTRAST_AGENT", "CONTROL"})
"""Interpreted types that are no organs (DICOM PS3.3, C.8.8.8.1)."""


def roles_of(structures: StructureSet | None, matches: Sequence[Match] = ()) -> Mapping[str, Role]:
    """Role of every structure by its name; of several of one name that of the first that has contours.

    Targets and cords are told by type and name (`spinedose.nearness`); what the protocol takes for a cord, for instance
    because the user said so, is one as well.

    Parameters
    ----------
    structures : StructureSet or None
        The structures.
    matches : sequence of Match
        What the protocol takes them for.
    """
    if structures is None:
        return {}
    cords = {name for match in matches if is_cord(Structure(0, match.structure)) for name in match.named}
    external = find_external(structures)
    return {
        name: _role(structures[name], structures[name] is external, name in cords)
        for name in dict.fromkeys(s.name for s in structures.structures)
    }


def _role(structure: Structure, is_outline: bool, is_named_cord: bool) -> Role:
    kind = structure.type.strip().upper()
    if is_outline or kind == "EXTERNAL":
        return "body"
    if kind in ("SUPPORT", "FIXATION", "BOLUS"):
        return "support"
    if is_target(structure):
        return "target"
    if is_named_cord or is_cord(structure):
        return "cord"
    density = structure.relative_mass_density or structure.relative_electron_density or 0.0
    if kind in NO_ORGANS or not structure.contours_cm or density > METAL_DENSITY:
        return "other"
    return "organ"


def fine_box(
    structures: StructureSet | None, roles: Mapping[str, Role], gy_per_fraction: float, spacing_cm: float
) -> tuple[FineBox | None, str]:
    """The box of fine voxels that `fine="auto"` stands for, and why there is one or none.

    A box is made around all targets, with the cord beside them, when a fraction has at least `FINE_FROM_GY` or the
    smallest target less than `FINE_BELOW_CM3`; not when voxels are fine already, and not above `MOST_FINE_CM3`.
    """
    factor = int(np.clip(round(spacing_cm / FINE_CM), 1, 4))
    if factor < 2:
        return None, "the calculation voxels are fine everywhere"
    drawn = [s for s in structures.structures if s.contours_cm] if structures is not None else []
    targets, cords = ([s for s in drawn if roles[s.name] == role] for role in ("target", "cord"))
    sizes = [volume for s in targets if (volume := _volume(s)) > 0]
    if not sizes:
        return None, "there is no target to put fine voxels around"
    if gy_per_fraction >= FINE_FROM_GY:
        why = f"{gy_per_fraction:.3g} Gy a fraction"
    elif min(sizes) < FINE_BELOW_CM3:
        why = f"a target of {min(sizes):.3g} cm3"
    else:
        return None, f"less than {FINE_FROM_GY:g} Gy a fraction, and no target smaller than {FINE_BELOW_CM3:g} cm3"
    boxes = [bounds_cm(s) for s in targets if _volume(s) > 0]
    low = np.min([box[0] for box in boxes], axis=0) - FINE_MARGIN_CM
    high = np.max([box[1] for box in boxes], axis=0) + FINE_MARGIN_CM
    for cord in cords:
        points = np.concatenate(cord.contours_cm)
        beside = points[(points[:, 2] >= low[2]) & (points[:, 2] <= high[2])]
        near = len(beside) and np.all(beside[:, :2].min(axis=0) < high[:2]) and np.all(beside[:, :2].max(0) > low[:2])
        if near:
            low[:2] = np.minimum(low[:2], beside[:, :2].min(axis=0) - FINE_MARGIN_CM)
            high[:2] = np.maximum(high[:2], beside[:, :2].max(axis=0) + FINE_MARGIN_CM)
    size = float(np.prod(high - low))
    if size > MOST_FINE_CM3:
        return None, f"the box around the targets would measure {size:.0f} cm3, more than {MOST_FINE_CM3:g} cm3"
    return FineBox((low[0], low[1], low[2]), (high[0], high[1], high[2]), factor), why


def _volume(structure: Structure) -> float:
    try:
        return volume_cm3(structure)
    except InvalidInput:  # a single plane of unknown thickness
        return 0.0
