"""Independent collapsed-cone photon dose from a DICOM plan and CT."""
__all__: list[str] = []
