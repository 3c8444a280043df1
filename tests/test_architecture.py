"""The house is built as docs/architecture.md says: read from the syntax tree, imports inside functions included."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "spinedose"

# From the roof to the ground: a room imports from rooms below it only. Names of one line share a room and may know each
# other. A package (`dicom`, `backends`, ...) is one room with all its modules. docs/architecture.md draws the same.
ROOMS = (
    ("__main__",),
    ("cli",),
    ("doctor",),
    ("demo",),
    ("report",),
    ("validate",),
    ("record",),
    ("agreement",),
    ("batch",),
    ("scenarios",),
    ("check",),
    ("ideal",),
    ("commission",),
    ("engine",),
    ("calibration",),
    ("stages",),
    ("patient",),
    ("settings",),
    ("nested",),
    ("result",),
    ("dicom",),
    ("backends",),
    ("measurements",),
    ("curve_judging",),
    ("criteria",),
    ("protocol",),
    ("limit_file",),
    ("compare",),
    ("exposure",),
    ("tank",),
    ("fluence_model",),
    ("segments",),
    ("cones",),
    ("directions",),
    ("electrons",),
    ("belonging",),
    ("couches",),
    ("missing_matter",),
    ("density",),
    ("composition",),
    ("nearness",),
    ("patches",),
    ("hu_curve",),
    ("assignments",),
    ("plan_checks",),
    ("beam_file",),
    ("machine_change",),
    ("machine",),
    ("logs",),
    ("plan",),
    ("structures",),
    ("setup",),
    ("geometry",),
    ("grid",),
    ("identity",),
    ("materials",),
    ("_resources", "_cache"),
    ("_arguments", "_files"),
    ("fingerprint",),
    ("clock",),
    ("units", "errors", "_version"),
)
RANK = {name: rank for rank, names in enumerate(ROOMS) for name in names}

STRANGERS = {("dicom", "backends"), ("backends", "dicom")}
"""Rooms that never see each other, although one stands below the other."""

# Who may import a library, and where.
ONLY_IN = {
    "pydicom": re.compile(r"dicom/.*"),
    "numba": re.compile(r"backends/cpu/.*|compare/.*|doctor\.py"),
    "cupy": re.compile(r"backends/(cuda/.*|select\.py)"),
    "pylinac": re.compile(r"logs/reading\.py"),
    "pyarrow": re.compile(r"scenarios/writing\.py"),
    "matplotlib": re.compile(r"report/.*"),
    "contourpy": re.compile(r"report/.*"),
    "jinja2": re.compile(r"report/.*"),
    "reportlab": re.compile(r"report/.*"),
    "typer": re.compile(r"cli/.*"),
    "rich": re.compile(r"cli/.*"),
    "dask": re.compile(r"batch/.*"),
    "distributed": re.compile(r"batch/.*"),
}
NEVER_AT_IMPORT = {
    "dask": re.compile(r".*"),
    "distributed": re.compile(r".*"),
    "pyarrow": re.compile(r".*"),
    "pylinac": re.compile(r".*"),
    "cupy": re.compile(r".*"),
    "matplotlib": re.compile(r".*"),
    "contourpy": re.compile(r".*"),
    "jinja2": re.compile(r".*"),
    "reportlab": re.compile(r".*"),
    "scipy": re.compile(r"(?!backends/cpu/).*"),
    "rich": re.compile(r".*"),
    "numba": re.compile(r"(?!backends/cpu/|compare/).*"),
}
"""Heavy libraries, and the files in which they may be imported inside functions only."""

FILES = sorted(SOURCE.rglob("*.py"))


@cache
def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def _room(module: str) -> str:
    """`spinedose.dicom.ct` is in `dicom`; the package itself is its face."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def _module(file: Path) -> str:
    parts = file.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(file: Path) -> Iterator[tuple[str, int]]:
    """Full names of imported modules, with the line."""
    for node in ast.walk(_tree(file)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: imports here are absolute"
            if node.module == "spinedose":  # from spinedose import _resources
                for alias in node.names:
                    yield f"spinedose.{alias.name}", node.lineno
            else:
                yield node.module or "", node.lineno


def _imports_on_loading(file: Path) -> set[str]:
    """Top-level packages that loading the module loads too: outside functions and `if TYPE_CHECKING`."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                continue
            if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
                continue
            if isinstance(child, ast.Import):
                found.update(alias.name.split(".")[0] for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                found.add((child.module or "").split(".")[0])
            visit(child)

    visit(_tree(file))
    return found


def _name(file: Path) -> str:
    return file.relative_to(SOURCE).as_posix()


each_file = pytest.mark.parametrize("file", FILES, ids=_name)


def test_the_house_is_not_empty() -> None:
    assert len(FILES) > 10


@each_file
def test_the_room_is_on_the_list(file: Path) -> None:
    room = _room(_module(file))
    assert room in RANK or room == "", f"put the new room '{room}' into ROOMS here and into docs/architecture.md"


@each_file
def test_imports_run_downwards(file: Path) -> None:
    room = _room(_module(file))
    if not room:
        return  # the face loads every room when asked
    for module, line in _imports(file):
        if not module.startswith("spinedose"):
            continue
        other = _room(module)
        assert other, f"{_name(file)}:{line} imports the face"
        assert other in RANK, f"{_name(file)}:{line} imports the unknown room '{other}'"
        assert (room, other) not in STRANGERS, f"{_name(file)}:{line}: '{room}' and '{other}' never see each other"
        assert other == room or RANK[other] >= RANK[room], f"{_name(file)}:{line}: '{room}' imports '{other}' above it"


@each_file
def test_libraries_stay_in_their_rooms(file: Path) -> None:
    for module, line in _imports(file):
        library = module.split(".")[0]
        if library in ONLY_IN:
            assert ONLY_IN[library].fullmatch(_name(file)), f"{_name(file)}:{line} imports {library}"


@each_file
def test_heavy_libraries_are_loaded_late(file: Path) -> None:
    for library in _imports_on_loading(file) & NEVER_AT_IMPORT.keys():
        assert not NEVER_AT_IMPORT[library].fullmatch(_name(file)), f"{_name(file)} imports {library} when loaded"


@each_file
def test_a_module_opens_with_a_sentence(file: Path) -> None:
    text = ast.get_docstring(_tree(file)) or ""
    first = text.strip().split("\n\n")[0]
    assert re.search(r"[.?:]$", first.strip()), f"{_name(file)} does not open with a sentence: {first!r}"


@each_file
def test_only_the_command_line_prints(file: Path) -> None:
    if _name(file).startswith("cli/"):
        return
    for node in ast.walk(_tree(file)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print", f"{_name(file)}:{node.lineno} prints"


@each_file
def test_errors_are_not_swallowed(file: Path) -> None:
    for node in ast.walk(_tree(file)):
        if isinstance(node, ast.ExceptHandler):
            where = f"{_name(file)}:{node.lineno}"
            assert node.type is not None, f"{where}: bare except"
            is_broad = isinstance(node.type, ast.Name) and node.type.id in ("Exception", "BaseException")
            does_nothing = all(isinstance(line, ast.Pass | ast.Continue) for line in node.body)
            assert not (is_broad and does_nothing), f"{where}: swallows every error"


@each_file
def test_only_errors_of_the_tree_are_raised(file: Path) -> None:
    """`raise Exception` and the like tell a user nothing."""
    for node in ast.walk(_tree(file)):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name):
            assert node.exc.func.id not in ("Exception", "RuntimeError"), f"{_name(file)}:{node.lineno}"


@each_file
def test_no_paths_of_one_computer(file: Path) -> None:
    path = re.compile(r"(/(home|root|work|Users|mnt|opt|tmp|usr|var|data)/)|([A-Za-z]:\\)")
    for node in ast.walk(_tree(file)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            assert not path.search(node.value), f"{_name(file)}:{node.lineno} has an absolute path"


@each_file
def test_no_global_switches(file: Path) -> None:
    for node in ast.walk(_tree(file)):
        assert not isinstance(node, ast.Global), f"{_name(file)}:{node.lineno} changes a global"


def test_the_picture_in_the_docs_names_every_room() -> None:
    text = (SOURCE.parents[1] / "docs" / "architecture.md").read_text(encoding="utf-8")
    there = {_room(_module(file)) for file in FILES} - {""}
    missing = sorted(room for room in there if f"`{room}`" not in text and f"`{room}.py`" not in text)
    assert not missing, f"docs/architecture.md does not name {missing}"
