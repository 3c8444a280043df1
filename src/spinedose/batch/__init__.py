"""Studies over many patients and scenarios, computed by Dask's workers: what has a result is never computed again."""

from __future__ import annotations

from spinedose.batch.cluster import open_client, visible_devices
from spinedose.batch.run import Asked, Event, Line, Standing, run, status
from spinedose.batch.study_file import StudyFile, read_study_file
from spinedose.batch.tables import make_tables, write_tables

__all__ = [
    "Asked",
    "Event",
    "Line",
    "Standing",
    "StudyFile",
    "make_tables",
    "open_client",
    "read_study_file",
    "run",
    "status",
    "visible_devices",
    "write_tables",
]
