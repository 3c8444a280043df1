"""What of the program counts for a result."""

from __future__ import annotations

import ast
from pathlib import Path

from spinedose.batch.identity import WITHOUT_INFLUENCE, program, tree_digest

SOURCE = Path(__file__).resolve().parents[3] / "src" / "spinedose"


def _rooms_used_by(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "spinedose":
            parts = (node.module or "").split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
    return found


def _files(room: str) -> list[Path]:
    file = SOURCE / f"{room}.py"
    return [file] if file.is_file() else sorted((SOURCE / room).rglob("*.py"))


def test_code_that_does_not_count_is_used_by_no_dose() -> None:
    """From the syntax tree: all that a result passes through, by all imports, inside functions too."""
    seen: set[str] = set()
    waiting = {"batch"}
    while waiting:
        room = waiting.pop()
        seen.add(room)
        for file in _files(room):
            waiting |= _rooms_used_by(file) - seen
    assert {"scenarios", "engine", "backends", "density"} <= seen
    assert not seen & WITHOUT_INFLUENCE


def test_names_and_contents_count_and_line_ends_do_not(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_bytes(b"one\ntwo\n")
    before = tree_digest(tmp_path, [file])
    file.write_bytes(b"one\r\ntwo\r\n")
    assert tree_digest(tmp_path, [file]) == before
    file.write_bytes(b"one\nthree\n")
    assert tree_digest(tmp_path, [file]) != before
    other = file.rename(tmp_path / "b.py")
    assert tree_digest(tmp_path, [other]) != before


def test_program_code_kernels_and_data_are_told_apart() -> None:
    found = program()
    assert set(found) == {"version", "code", "kernels", "data"}
    assert len({found["code"], found["kernels"], found["data"]}) == 3
