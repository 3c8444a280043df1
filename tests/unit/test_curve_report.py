"""The report holds every curve, says what it must, and needs nothing from elsewhere."""

from __future__ import annotations

import base64
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from spinedose.agreement import Judgement
from spinedose.commission import Curve, Fitted
from spinedose.errors import InvalidInput, SpinedoseError
from spinedose.report import curves as room
from spinedose.report.curves import NOTICE, Facts, write_report

pytest.importorskip("matplotlib")

X = np.round(np.arange(-9.0, 9.01, 0.5), 6)
DEPTHS = np.round(np.arange(1.0, 30.01, 1.0), 6)
Pair = tuple[Curve, np.ndarray]

FACTS = Facts(
    title="6X of <a machine> & more",
    verdict=("3 of 4 numbers fitted.", "No curve was left out."),
    rows={"data": "a.csv (SHA-256 0123)"},
    parameters=(
        Fitted("spectrum_power", 0.1236, 0.0, 0.02, "fitted"),
        Fitted("softening_scale", 1.0, 1.0, math.nan, "not determined"),
        Fitted("spot_sigma_x_cm", 0.2, 0.07, 0.001, "at its bound"),
    ),
    correlated=(("spectrum_power", "spectrum_low_cut", -0.98),),
    warnings=("spot_sigma_x_cm ended at its bound 0.2.",),
)


def profile(side: float, depth: float, off: float = 0.0) -> Pair:
    values = 1 / (1 + np.exp((np.abs(X) - side / 2) / 0.3))
    values = values / values.max()
    curve = Curve("crossline", (side, side), 100.0, depth, X, values, np.full(len(X), 0.004), False, None, "p")
    return curve, values + off * (np.abs(X) > 0.1)


def depth_dose(side: float, output: float = 1.0) -> Pair:
    values = np.exp(-0.05 * (DEPTHS - 10)) * (1 - np.exp(-2 * DEPTHS))
    curve = Curve("depth_dose", (side, side), 100.0, math.nan, DEPTHS, values, 0.004 * values, True, None, "d")
    return curve, output * values


class _Page(HTMLParser):
    """What a page would load, and the tags that were left open."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "link", "iframe", "object")
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page_and_pictures(tmp_path: Path) -> None:
    pairs = [depth_dose(10), depth_dose(5, 1.013), profile(10, 5), profile(10, 10, 0.012), profile(4, 10)]
    page, *pictures = write_report(tmp_path / "6X_report.html", pairs, FACTS, left_out=[profile(7, 5)])
    names = ["worst", "depth_doses", "output", "profiles_4x4", "profiles_10x10", "left_out"]
    assert [path.stem for path in pictures] == names
    assert all(path.parent == tmp_path / "6X_report" and path.read_bytes()[:4] == b"\x89PNG" for path in pictures)
    assert sorted(tmp_path.rglob("*")) == sorted([page, tmp_path / "6X_report", *pictures])
    text = page.read_text(encoding="utf-8")
    reader = _Page()
    reader.feed(text)
    assert reader.open == []
    assert len(reader.loads) == len(pictures)
    assert all(item.startswith("data:image/png;base64,") for item in reader.loads)
    assert base64.b64decode(reader.loads[0].split(",")[1]) == pictures[0].read_bytes()
    assert not re.search(r"https?://|url\(|@import", re.sub(r"base64,[^\"]*", "", text))
    assert text.count(NOTICE) == 2 and "Not a medical device." in text
    assert "6X of &lt;a machine&gt; &amp; more" in text and "<a machine>" not in text
    for words in ("0.1236", "not determined", "at its bound", "-0.980", "ended at its bound", "a.csv (SHA-256 0123)"):
        assert words in text, words
    assert "+1.30" in text  # the output of the 5 x 5 field


def test_the_worst_curve_comes_first(tmp_path: Path) -> None:
    pairs = [profile(10, depth, off) for depth, off in ((5, 0.001), (10, 0.03), (15, 0.002), (20, 0.01), (25, 0.0))]
    text = write_report(tmp_path / "r.html", pairs, FACTS)[0].read_text(encoding="utf-8")
    order = [int(depth) for depth in re.findall(r"crossline at (\d+) cm</td>", text)]
    assert order == [10, 20, 15, 5, 25]
    headings = re.findall(r"<h2>([^<]+)</h2>", text)
    assert headings[0] == "The worst three curves"


def test_judgements_stand_before_the_curves(tmp_path: Path) -> None:
    judged = (
        Judgement("10 x 10 cm crossline", "in-field", 0.4, 1.5, "%", True, "at 1.0 cm"),
        Judgement("5 x 5 cm crossline", "penumbra", 1.4, 1.0, "mm", False),
    )
    facts = Facts("6X, checked", judgements=judged)
    text = write_report(tmp_path / "r.html", [profile(10, 5)], facts)[0].read_text(encoding="utf-8")
    assert text.index("outside") < text.index("1 within their limits") < text.index("Profiles 10x10")
    assert "+1.40 mm" in text
    reader = _Page()
    reader.feed(text)
    assert reader.open == []


def test_many_curves_make_more_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MOST_ROWS", 1)
    _, *pictures = write_report(tmp_path / "r.html", [profile(10, depth) for depth in (5, 10, 15, 20)], FACTS)
    assert [path.stem for path in pictures] == ["worst", "profiles_10x10", "profiles_10x10_2"]


def test_pictures_of_an_earlier_report_go(tmp_path: Path) -> None:
    """Those that it made; what somebody else put there stays."""
    first = write_report(tmp_path / "r.html", [profile(10, 5), profile(20, 5)], FACTS)
    (tmp_path / "r" / "mine.png").write_bytes(b"mine")
    second = write_report(tmp_path / "r.html", [profile(10, 5)], FACTS)
    assert {path.name for path in first} - {path.name for path in second} == {"profiles_20x20.png"}
    assert {path.name for path in (tmp_path / "r").iterdir()} == {path.name for path in second[1:]} | {"mine.png"}


def test_output_factors_alone(tmp_path: Path) -> None:
    at = np.array([10.0])
    pairs = [
        (Curve("depth_dose", (s, s), 90.0, math.nan, at, np.array([v]), np.array([0.005]), True, None, ""), at * v / 10)
        for s, v in ((4.0, 0.9), (20.0, 1.1))
    ]
    page, *pictures = write_report(tmp_path / "r.html", pairs, FACTS)
    assert [path.stem for path in pictures] == ["output"]
    assert "4 x 4 cm output factor" in page.read_text(encoding="utf-8")


def test_wild_differences_do_not_break_the_scale(tmp_path: Path) -> None:
    curve, values = profile(10, 5)
    write_report(tmp_path / "r.html", [(curve, values + 0.5)], FACTS)


def test_nothing_to_report_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no curve"):
        write_report(tmp_path / "r.html", [], FACTS)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_takes_no_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r").write_text("a file where the pictures go")
    with pytest.raises(InvalidInput, match=r"cannot be written"):
        write_report(tmp_path / "r.html", [profile(10, 5)], FACTS)
    assert [path.name for path in tmp_path.iterdir()] == ["r"]


def test_without_matplotlib_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(SpinedoseError, match="matplotlib is not installed"):
        write_report(tmp_path / "r.html", [profile(10, 5)], FACTS)
