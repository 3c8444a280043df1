"""The page: whole, self-contained, without names when anonymous; and alive in a browser."""

from __future__ import annotations

import base64
import gzip
import io
import json
import re
import sys

import numpy as np
import pytest
from chromium import Browser, find_chromium
from made_check import PATIENT, PATIENT_ID, UID, made_check, without_planned_dose

from spinedose.errors import InvalidInput, SpinedoseError
from spinedose.report import write_html
from spinedose.report._files import written_whole

pytest.importorskip("jinja2")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return write_html(made_check(), tmp_path_factory.mktemp("page") / "report.html")


def test_the_verdict_comes_first_and_the_notice_is_there(page):
    text = page.read_text(encoding="utf-8")
    body = text[text.index("<body") :]
    assert body.index("Outside tolerance") < body.index("<table") and body.index("Not a medical device.") < 200
    assert "approved" not in text.lower()


def test_nothing_is_loaded_from_elsewhere(page):
    text = page.read_text(encoding="utf-8")
    assert "default-src 'none'" in text
    assert not re.search(r"""(src|href)=["'](?!#|data:)""", text)
    assert not re.search(r"@import|url\((?!#)|https?://(?!www\.w3\.org/2000/svg)", text)


def test_names_from_files_cannot_become_markup(page):
    text = page.read_text(encoding="utf-8")
    assert "PTV &lt;1&gt; &amp; " in text and "PTV <1>" not in text
    facts = json.loads(re.search(r'id="facts">(.*?)</script>', text, re.DOTALL)[1])
    assert any(line["label"] == 'PTV <1> & "more"' for line in facts["charts"]["dvh-chart"]["lines"])


def searched(page):
    """The bytes of a page, and of all that is packed in it."""
    text = page.read_text(encoding="utf-8")
    packed = re.findall(r'type="text/plain" id="[\w-]+">([^<]+)<', text)
    assert packed
    return text.encode() + b"".join(gzip.decompress(base64.b64decode(part)) for part in packed)


def test_an_anonymous_page_names_nobody(page, tmp_path):
    secrets = (*PATIENT.split("^"), PATIENT_ID, UID)
    assert all(secret.encode() in searched(page) for secret in secrets)
    found = searched(write_html(made_check().anonymous(), tmp_path / "anonymous.html")).lower()
    assert not any(secret.lower().encode() in found for secret in secrets)


def test_a_page_without_comparison_says_so(tmp_path):
    text = write_html(without_planned_dose(), tmp_path / "alone.html").read_text(encoding="utf-8")
    assert "Not compared" in text and 'data-layer="difference"' not in text and 'data-layer="planned"' not in text


def test_a_page_that_cannot_be_written_leaves_nothing(tmp_path):
    with pytest.raises(InvalidInput, match="cannot be written"):
        written_whole(tmp_path / "absent" / "report.html", b"it")
    (tmp_path / "taken.html").mkdir()
    with pytest.raises(InvalidInput, match="cannot be written"):
        written_whole(tmp_path / "taken.html", b"it")
    assert [path.name for path in tmp_path.iterdir()] == ["taken.html"]


def test_what_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(SpinedoseError, match=r"jinja2 is not installed.*spinedose\[report\]"):
        write_html(made_check(), tmp_path / "report.html")


# --- in a browser -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(page, tmp_path_factory):
    if find_chromium() is None:
        pytest.skip("needs Chromium")
    try:
        found = Browser(tmp_path_factory.mktemp("profile"))
    except TimeoutError:
        pytest.skip("Chromium does not start here")
    found.open(page)
    yield found
    assert found.errors == []
    found.close()


def pixels(browser, plane="axial"):
    """A picture as the browser has it."""
    return browser.run(f"document.querySelector('[data-plane={plane}] canvas').toDataURL()")


def colors_of(png):
    """Number of colours in a PNG."""
    from PIL import Image

    red, green, blue = np.moveaxis(np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(np.int64), -1, 0)
    return len(np.unique(red * 65536 + green * 256 + blue))


def click(browser, selector):
    browser.run(f"document.querySelector({json.dumps(selector)}).click()")
    browser.settle()


def middle(browser, selector):
    browser.run(f"document.querySelector({json.dumps(selector)}).scrollIntoView({{block: 'center'}})")
    box = browser.run(
        f"(b => [b.left + b.width / 2, b.top + b.height / 2, b.width])"
        f"(document.querySelector({json.dumps(selector)}).getBoundingClientRect())"
    )
    return box[0], box[1]


def test_the_page_opens_without_errors_and_asks_for_nothing(browser):
    assert browser.errors == []
    assert [url for url in browser.requests if not url.startswith(("file:", "data:", "blob:"))] == []
    for plane in ("axial", "sagittal", "coronal"):
        assert colors_of(base64.b64decode(pixels(browser, plane).partition(",")[2])) > 100


def test_every_layer_looks_different(browser):
    seen = []
    for layer in ("ct", "planned", "recalculated", "difference", "gamma"):
        click(browser, f"[data-layer={layer}]")
        seen.append(pixels(browser))
    assert len(set(seen)) == 5


def test_a_click_hides_and_shows_a_structure(browser):
    box = '.structures [data-structure="s0"]'
    before = pixels(browser)
    click(browser, box)
    assert pixels(browser) != before
    lines = "[...document.querySelectorAll('#dvh-chart .line[data-key=s0]')]"
    assert browser.run(f"{lines}.length === 2 && {lines}.every(line => getComputedStyle(line).display === 'none')")
    click(browser, box)
    assert pixels(browser) == before
    assert browser.run(f"{lines}.every(line => getComputedStyle(line).display !== 'none')")


def test_the_wheel_changes_the_slice(browser):
    height = "document.querySelector('[data-plane=axial] [data-height]').textContent"
    before, picture = browser.run(height), pixels(browser)
    x, y = middle(browser, "[data-plane=axial] canvas")
    browser.mouse("mouseWheel", x, y, deltaX=0, deltaY=-100)
    for _ in range(20):
        browser.settle()
        if browser.run(height) != before:
            break
    assert browser.run(height) == "z = 4.0 mm" != before
    assert pixels(browser) != picture


def test_a_click_moves_the_crosshair_and_its_values_are_told(browser):
    click(browser, "[data-place='0']")
    x, y = middle(browser, "[data-plane=axial] canvas")
    read = "['point', 'ct', 'planned', 'recalculated'].map(n => document.querySelector(`[data-read=${n}]`).textContent)"
    browser.mouse("mousePressed", x, y, button="left", clickCount=1)
    browser.mouse("mouseReleased", x, y, button="left", clickCount=1)
    browser.settle()
    point, ct, planned, recalculated = browser.run(read)
    assert np.allclose([float(part.replace("\u2212", "-")) for part in point[:-3].split(",")], 0, atol=2.5)
    assert ct == "592 HU" or abs(float(ct.split()[0]) - 600) < 15
    assert float(planned.split()[0]) == pytest.approx(26.0, abs=0.1)
    assert float(recalculated.split()[0]) == pytest.approx(26.0, abs=0.1)


def test_the_grey_window_and_the_size_can_be_changed(browser):
    before = pixels(browser)
    click(browser, "[data-window=bone]")
    wide = pixels(browser)
    click(browser, "[data-zoom=in]")
    assert len({before, wide, pixels(browser)}) == 3


def test_a_histogram_can_be_read(browser):
    x, y = middle(browser, "#dvh-chart")
    browser.mouse("mouseMoved", x, y)
    browser.settle()
    told = browser.run("document.querySelector('#dvh .tip').textContent")
    assert "Gy" in told and 'PTV <1> & "more": planned' in told and "recalculated" in told


@pytest.mark.parametrize("width", [1366, 420])
def test_the_page_fits_its_window_and_is_not_blank(browser, width, tmp_path):
    browser.resize(width, 900)
    browser.run("window.scrollTo(0, 0)")
    browser.settle()
    assert browser.run("document.scrollingElement.scrollWidth") <= width
    assert colors_of(browser.screenshot(tmp_path / "it.png").read_bytes()) > 50
    browser.resize(1366, 900)


def test_on_paper_the_pictures_are_there(browser, tmp_path):
    assert browser.print_pdf(tmp_path / "it.pdf").read_bytes().count(b"/Subtype /Image") >= 3
