"""From CT numbers to matter: mass density and relative electron density on the calculation grid."""

from __future__ import annotations

from dataclasses import dataclass

from spinedose.grid import Volume


@dataclass(frozen=True, slots=True, eq=False)
class CtImage:
    """A CT image in patient axes.

    Parameters
    ----------
    hu : Volume
        CT numbers [HU], axes sorted so that x, y and z rise.
    patient_position : str
        HFS, HFP, FFS or FFP, as scanned.
    uid, frame_of_reference_uid : str
        Series instance UID and frame of reference; empty when absent.
    saturated_voxels : int
        Voxels at the top of the stored scale, where the true CT number is unknown.
    warnings : tuple of str
        What the reader of a result must know.
    """

    hu: Volume
    patient_position: str = "HFS"
    uid: str = ""
    frame_of_reference_uid: str = ""
    saturated_voxels: int = 0
    warnings: tuple[str, ...] = ()
