"""DICOM in and out: the only room that knows pydicom and millimetres."""
