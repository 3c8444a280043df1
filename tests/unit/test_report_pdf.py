"""The record: two to four pages with text that can be selected, and without names when anonymous."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from functools import cache

import pytest
from made_check import PATIENT, PATIENT_ID, UID, made_check, without_planned_dose

from spinedose.check import Eqd2Found, MetricPair
from spinedose.errors import SpinedoseError
from spinedose.report import write_pdf

pytest.importorskip("reportlab")
pypdf = pytest.importorskip("pypdf")


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    return write_pdf(made_check(), tmp_path_factory.mktemp("record") / "report.pdf")


@cache
def text_of(path):
    text = "\n".join(page.extract_text() for page in pypdf.PdfReader(path).pages)
    return text.replace("\u00a0", " ")


def images_in(path):
    return sum(len(page["/Resources"].get("/XObject", ())) for page in pypdf.PdfReader(path).pages)


def searched(path):
    """Text, document information, and the bytes with all streams unpacked."""
    reader = pypdf.PdfReader(path)
    parts = [path.read_bytes(), text_of(path).encode(), str(reader.metadata).encode()]
    for number in range(1, len(reader.xref[0]) + 1):
        found = reader.get_object(number)
        if hasattr(found, "get_data"):
            parts.append(found.get_data())
    return b"\n".join(parts)


def test_two_to_four_pages_with_the_verdict_first(record):
    assert 2 <= len(pypdf.PdfReader(record).pages) <= 4
    text = text_of(record)
    assert text.index("Outside tolerance") < text.index("Criteria")
    assert "approved" not in text.lower() and text.count("Not a medical device") >= 2
    assert record.stat().st_size < 15_000_000


def test_numbers_and_sources_can_be_selected(record):
    text = text_of(record)
    for part in ("25.20 Gy", "\u22125.0 %", "\u2264 17 Gy", "somebody, 2020", "0.0.test", "f" * 64, "Quixote, Dulcinea",
                 "Profiles through the hottest point of SpinalCord", 'PTV <1> & "more"'):  # fmt: skip
        assert part in text, part


def test_names_that_the_font_cannot_print_are_told_by_their_numbers(record, tmp_path):
    assert "U+" not in text_of(record)
    check = made_check()
    names = {"SpinalCord": "Rückenmark \u810a\u9ad3 <b>", "Oesophagus": "\u98df\u9053"}
    drawn = tuple(replace(one, name=names.get(one.name, one.name)) for one in check.structures.structures)
    found = tuple(replace(one, name=names.get(one.name, one.name)) for one in check.found)
    renamed = replace(check, structures=replace(check.structures, structures=drawn), found=found)
    text = " ".join(text_of(write_pdf(renamed, tmp_path / "report.pdf")).split())
    assert "Rückenmark [U+810A U+9AD3] <b>" in text and "[U+98DF U+9053]" in text
    assert "The HTML report shows them as they are." in text
    assert "\u810a" not in text and "\u98df" not in text


def test_slices_are_in_it(record):
    assert images_in(record) == 6


def test_an_anonymous_record_names_nobody(record, tmp_path):
    secrets = (*PATIENT.split("^"), PATIENT_ID, UID)
    assert all(secret.encode() in searched(record) for secret in secrets)
    found = searched(write_pdf(made_check().anonymous(), tmp_path / "anonymous.pdf")).lower()
    assert not any(secret.lower().encode() in found for secret in secrets)


def test_long_tables_are_cut_to_fit_and_say_so(tmp_path):
    check = made_check()
    many = replace(
        check,
        warnings=tuple(f"warning number {n}: " + 40 * "something " for n in range(40)),
        findings=tuple(replace(check.findings[0], text=30 * "something ") for _ in range(60)),
    )
    path = write_pdf(many, tmp_path / "many.pdf")
    assert len(pypdf.PdfReader(path).pages) <= 4
    assert re.search(r"\d+ more are in the HTML report", text_of(path))


def test_a_record_without_comparison_and_structures(tmp_path):
    check = replace(without_planned_dose(), structures=None, found=(), evaluation=None)
    path = write_pdf(check, tmp_path / "alone.pdf")
    assert "Not compared" in text_of(path)
    assert images_in(path) == 3


def test_what_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "reportlab", None)
    with pytest.raises(SpinedoseError, match=r"reportlab is not installed.*spinedose\[report\]"):
        write_pdf(made_check(), tmp_path / "report.pdf")


def test_eqd2_is_in_it_for_organs_alone_too(record, tmp_path):
    assert "EQD2" in text_of(record)
    check = made_check()
    pair = MetricPair("D0.03cc[Gy]", "Gy", 44.0, 42.0)
    eqd2 = Eqd2Found(3.0, "somebody, 2021", (pair, replace(pair, name="Mean[Gy]")))
    found = tuple(replace(one, eqd2=eqd2 if one.name == "Oesophagus" else None) for one in check.found)
    text = text_of(write_pdf(replace(check, found=found), tmp_path / "organs.pdf"))
    assert "EQD2" in text and "somebody, 2021" in text
