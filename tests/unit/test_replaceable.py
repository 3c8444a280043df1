"""Outputs that are devices or pipes: every writer refuses them, because a file would take their place."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from spinedose._files import expect_replaceable, write_text
from spinedose.beam_file import write_beam
from spinedose.cli._shared import check_target
from spinedose.dicom.structures import write_structures
from spinedose.errors import InvalidInput
from spinedose.machine import read_machine
from spinedose.report import pictures
from spinedose.report._files import written_whole
from spinedose.scenarios import Table
from spinedose.scenarios.writing import write_csv
from spinedose.structures import StructureSet


def _write_beam(pipe: Path) -> Any:
    model = read_machine("varian-truebeam-m120").beam("6X")
    (pipe.parent / "6X.toml").symlink_to(pipe)
    return write_beam(model, pipe.parent)


WRITERS: tuple[Callable[[Path], Any], ...] = (
    lambda path: write_text(path, "text"),
    lambda path: written_whole(path, b"content"),
    lambda path: write_csv(Table(("name",), ()), path),
    lambda path: write_structures(StructureSet(()), path),
    lambda path: check_target(path, force=True, inputs=[]),
    lambda path: pictures._save(SimpleNamespace(savefig=lambda aside, **_: aside.write_text("")), path),
    _write_beam,
)


@pytest.mark.parametrize("write", WRITERS)
def test_a_pipe_stays_a_pipe(tmp_path: Path, write: Callable[[Path], Any]) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(InvalidInput, match=r"is a device or a pipe, and no file \(it would be replaced\)"):
        write(pipe)
    assert pipe.is_fifo()
    assert not list(tmp_path.glob(".*"))


def test_files_folders_and_new_names_are_no_devices(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("")
    for path in (tmp_path / "there", tmp_path, tmp_path / "new", str(tmp_path / "there")):
        expect_replaceable(path)
