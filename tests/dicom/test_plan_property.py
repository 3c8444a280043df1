"""Whatever is thrown at the readers, they answer with a proven object or with a `SpinedoseError`, fast and quietly."""

from __future__ import annotations

import copy
import io
import struct
import warnings
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset

from spinedose.density import CtImage
from spinedose.dicom.ct import read_ct
from spinedose.dicom.plan import read_plan, write_plan
from spinedose.errors import SpinedoseError
from spinedose.plan import Beam, Plan

from . import synthetic as syn

QUICKLY = timedelta(seconds=60)  # a small file takes milliseconds; more means a hang, even on a busy machine

GARBAGE = (
    b"",
    b" ",
    b"nan",
    b"inf",
    b"-1e308",
    b"1e400",
    b"1e-300",
    b"0",
    b"-1",
    b"2.5",
    b"abc",
    b"1\\2\\3",
    b"\\\\\\",
    b"9" * 60,
    b"99999999999999999999",
    b"\xff\xfe\x00\x01",
    b"\xfe\xff\x00\xe0\xff\xff\xff\xff",
    b"NONE",
    b"CW",
    b"MLCX",
)


def rich_plan() -> Dataset:
    """An arc with every kind of sequence, a step-and-shoot field and a setup field."""
    positions = (syn.position("ASYMX", -50, 50), syn.position("ASYMY", -40, 40))
    arc = [syn.first_point(*positions, syn.leaves(-40, 30), GantryAngle="181", GantryRotationDirection="CW")]
    arc += [
        syn.point(k, k / 4, syn.leaves(-40 + 3 * k, 30 + 2 * k), GantryAngle=f"{(181 + 60 * k) % 360}")
        for k in range(1, 5)
    ]
    arc[-1].ReferencedDoseReferenceSequence = [
        syn.item(ReferencedDoseReferenceNumber=1, CumulativeDoseReferenceCoefficient="0.9")
    ]
    steps = [
        syn.first_point(*positions, syn.leaves(-40, 30)),
        syn.point(1, 0.5, syn.leaves(-40, 30)),
        syn.point(2, 0.5, syn.leaves(-10, 30)),
        syn.point(3, 1, syn.leaves(-10, 30)),
    ]
    return syn.plan(
        syn.beam(1, arc, PrimaryFluenceModeSequence=[syn.item(FluenceMode="NON_STANDARD", FluenceModeID="FFF")]),
        syn.beam(2, steps, BeamType="STATIC"),
        syn.beam(3, TreatmentDeliveryType="SETUP"),
        references=[syn.meterset(1, 200, BeamDose="2"), syn.meterset(2, 50), syn.meterset(3, None)],
        DoseReferenceSequence=[syn.item(DoseReferenceNumber=1, DoseReferencePointCoordinates=["1", "2", "3"])],
        ApprovalStatus="UNAPPROVED",
    )


Element = tuple[int, "bytes | list[Tree]"]
Tree = list[Element]
"""A data set as its elements: tag, and the bytes of the value or the items of the sequence."""


def encoded(dataset: Dataset) -> bytes:
    """Bytes of a data set in implicit VR, without preamble."""
    buffer = io.BytesIO()
    dataset.save_as(buffer, implicit_vr=True, little_endian=True, enforce_file_format=False)
    return buffer.getvalue()


def tree_of(dataset: Dataset) -> Tree:
    """Take a data set apart, so that any bytes can be put in any place."""
    tree: Tree = []
    for tag in sorted(dataset.keys()):
        raw = dataset.get_item(tag)
        if dictionary_VR(tag) == "SQ":
            tree.append((int(tag), [tree_of(item) for item in dataset[tag].value]))
        else:
            tree.append((int(tag), bytes(raw.value or b"")))
    return tree


def bytes_of(tree: Tree) -> bytes:
    """Put a data set together again, in implicit VR with defined lengths."""
    parts = []
    for tag, content in tree:
        if isinstance(content, list):
            items = (bytes_of(item) for item in content)
            content = b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item for item in items)
        parts.append(struct.pack("<HHI", tag >> 16, tag & 0xFFFF, len(content)) + content)
    return b"".join(parts)


def places_in(tree: Tree) -> Iterator[tuple[Tree, int]]:
    """Every element at every depth: the tree that holds it and its index there."""
    for index, (_, content) in enumerate(tree):
        yield tree, index
        if isinstance(content, list):
            for item in content:
                yield from places_in(item)


def taken_apart(dataset: Dataset) -> Tree:
    return tree_of(pydicom.dcmread(io.BytesIO(encoded(dataset)), force=True))


PLAN = taken_apart(rich_plan())
SLICES = [taken_apart(one) for one in syn.ct_slices(np.full((3, 4, 4), 1024), z=(0, 3, 6))]

choices = st.integers(min_value=0, max_value=10**6)
mutations = st.one_of(
    st.tuples(st.just("delete"), choices, st.just(b"")),
    st.tuples(st.just("replace"), choices, st.sampled_from(GARBAGE)),
    st.tuples(st.just("replace"), choices, st.binary(max_size=24)),
    st.tuples(st.just("reverse"), choices, st.just(b"")),
    st.tuples(st.just("repeat"), choices, st.just(b"")),
    st.tuples(st.just("drop"), choices, st.just(b"")),
)


def mutate(tree: Tree, kind: str, choice: int, value: bytes) -> None:
    is_about_items = kind in ("reverse", "repeat", "drop")
    places = [(holder, k) for holder, k in places_in(tree) if not is_about_items or isinstance(holder[k][1], list)]
    if not places:
        return
    holder, k = places[choice % len(places)]
    tag, content = holder[k]
    if kind == "delete":
        del holder[k]
    elif kind == "replace":
        holder[k] = (tag, value)
    elif isinstance(content, list):
        changed = {"reverse": content[::-1], "repeat": [*content, *content[-1:]], "drop": content[:-1]}[kind]
        holder[k] = (tag, changed)


def prove_plan_reader_answers(content: bytes, folder: Path) -> None:
    """Read; the answer is a plan whose numbers are finite and that can be written and read again, or a plain error."""
    path = folder / "plan.dcm"
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing of pydicom's may reach the user
        try:
            plan = read_plan(path)
        except SpinedoseError as error:
            assert str(error).endswith(".") and "\n" not in str(error)
            return
    assert isinstance(plan, Plan) and plan.beams
    for beam in plan.beams:
        assert isinstance(beam, Beam) and beam.meterset_mu > 0
    write_plan(plan, folder / "again.dcm")
    assert len(read_plan(folder / "again.dcm").beams) == len(plan.beams)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mutants")


def test_the_plan_that_is_mutated_is_good(folder: Path) -> None:
    (folder / "good.dcm").write_bytes(bytes_of(PLAN))
    plan = read_plan(folder / "good.dcm")
    assert [beam.number for beam in plan.beams] == [1, 2] and plan.beams[0].planned_point_dose_gy == 1.8


@settings(max_examples=150, deadline=QUICKLY, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(st.lists(mutations, min_size=1, max_size=3))
def test_mutated_plans(folder: Path, changes: list[tuple[str, int, bytes]]) -> None:
    tree = copy.deepcopy(PLAN)
    for kind, choice, value in changes:
        mutate(tree, kind, choice, value)
    prove_plan_reader_answers(bytes_of(tree), folder)


@settings(max_examples=100, deadline=QUICKLY, derandomize=True)
@given(cut=st.floats(0, 1), flips=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=4))
def test_damaged_plan_files(folder: Path, cut: float, flips: list[tuple[float, int]]) -> None:
    content = bytearray(bytes_of(PLAN))
    for place, value in flips:
        content[int(place * (len(content) - 1))] = value
    prove_plan_reader_answers(bytes(content[: int(cut * len(content))]), folder)
    prove_plan_reader_answers(bytes(content), folder)


def test_every_truncation_of_a_beam_sequence_is_refused(folder: Path) -> None:
    """A plan that ends early is never computed from the beams that are left."""
    content = bytes_of(PLAN)
    start = content.index(b"beam 1")
    for end in range(start, len(content) - 40, 97):
        (folder / "cut.dcm").write_bytes(content[:end])
        with pytest.raises(SpinedoseError):
            read_plan(folder / "cut.dcm")


@settings(max_examples=30, deadline=QUICKLY, derandomize=True)
@given(st.lists(mutations, min_size=1, max_size=2), st.integers(0, 2), st.floats(0.3, 1))
def test_mutated_ct(folder: Path, changes: list[tuple[str, int, bytes]], victim: int, cut: float) -> None:
    series = folder / "ct"
    series.mkdir(exist_ok=True)
    trees = copy.deepcopy(SLICES)
    for kind, choice, value in changes:
        mutate(trees[victim], kind, choice, value)
    for k, tree in enumerate(trees):
        content = bytes_of(tree)
        (series / f"{k}.dcm").write_bytes(content[: int(cut * len(content))] if k == victim else content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            image = read_ct(series)
        except SpinedoseError as error:
            assert str(error).endswith(".")
            return
    assert isinstance(image, CtImage) and np.all(np.isfinite(image.hu.values))
