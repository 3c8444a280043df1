"""Protocols: the file that comes along, names, the column of the fraction number, and broken files."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from spinedose.compare.dvh import Dvh
from spinedose.errors import InvalidInput
from spinedose.protocol import (
    NOT_VERIFIED,
    Constraint,
    Limit,
    Match,
    Naming,
    Protocol,
    evaluate_protocol,
    list_protocols,
    match_structures,
    parse_metric,
    read_protocol,
)
from spinedose.structures import Structure

TRIANGLE = (np.array([(0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (1.0, 1.0, 0.0)]),)


def structure(name, kind="ORGAN", contours=TRIANGLE):
    return Structure(1, name, kind, contours_cm=contours)


def curve(name="SpinalCord", top=20.0):
    """Doses from `top` to 0 Gy, evenly over 10 cm^3."""
    return Dvh(name, np.linspace(top, 0.0, 2001), np.linspace(0.005, 10.005, 2001), 10.005)


def limits_of(protocol, name, fractions):
    """Limits of a structure in the column of a fraction number, by metric and goal."""
    return [
        (c.limits[fractions].metric.name, c.limits[fractions].value)
        for c in protocol.constraints
        if c.structure == name and fractions in c.limits
    ]


# --- the protocol that comes along ------------------------------------------------------------------------------------


def test_the_spine_protocol_has_the_published_numbers():
    protocol = read_protocol("spine")
    cord = {
        n: dict.fromkeys([value for name, value in limits_of(protocol, "SpinalCord", n) if name == "Max[Gy]"])
        for n in range(1, 6)
    }
    # HyTEC, Sahgal et al. (2021), abstract
    assert [list(cord[n]) for n in range(1, 6)] == [[14.0, 12.4], [17.0], [20.3], [23.0], [25.3]]
    # PMC11846292, Table 1
    assert limits_of(protocol, "SpinalCord_PRV", 1) == [("D0.03cc[Gy]", 14.0), ("D0.35cc[Gy]", 10.0)]
    assert limits_of(protocol, "SpinalCord_PRV", 2)[:2] == [("D0.03cc[Gy]", 19.0), ("D0.3cc[Gy]", 13.5)]
    assert limits_of(protocol, "CaudaEquina", 1) == [("D0.03cc[Gy]", 16.0), ("D0.35cc[Gy]", 12.0)]
    assert limits_of(protocol, "CaudaEquina", 2) == [("D0.03cc[Gy]", 22.0), ("D0.35cc[Gy]", 16.5)]
    assert limits_of(protocol, "Esophagus", 1) == [("D0.03cc[Gy]", 20.0), ("D2.5cc[Gy]", 14.0), ("D3.8cc[Gy]", 12.0)]
    assert limits_of(protocol, "Esophagus", 2) == [("D0.03cc[Gy]", 27.5), ("D2.5cc[Gy]", 19.0), ("D3.8cc[Gy]", 16.5)]


def test_every_limit_has_a_source_and_nothing_judges_the_plan():
    for name in list_protocols():
        protocol = read_protocol(name)
        assert all(len(constraint.source) > 8 for constraint in protocol.constraints)
        matches = match_structures(protocol, [structure(n.names[0]) for n in protocol.namings if n.names])
        names = [match.named[0] for match in matches if match.named]
        found = evaluate_protocol(protocol, matches, 2, {name: curve(name) for name in names}, prescription_gy=20.0)
        assert not re.search("approv|accept|safe|passed", json.dumps([line.as_dict() for line in found.lines]))


def test_what_was_not_read_in_the_original_says_so():
    protocol = read_protocol()
    matches = (Match("SpinalCord_PRV", ("PRV",), ()),)
    lines = evaluate_protocol(protocol, matches, 2, {"PRV": curve("PRV")}).lines
    assert [NOT_VERIFIED in line.source for line in lines] == [False, False, True]


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("SpinalCord", "SpinalCord"),
        ("spinal cord", "SpinalCord"),
        ("SPINAL-CORD", "SpinalCord"),
        ("Cord", "SpinalCord"),
        ("Rückenmark", "SpinalCord"),
        ("SpinalCord_PRV05", "SpinalCord_PRV"),
        ("Cord+2mm", "SpinalCord_PRV"),
        ("PRV cord 1.5 mm", "SpinalCord_PRV"),
        ("CaudaEquina", "CaudaEquina"),
        ("cauda", "CaudaEquina"),
        ("Oesophagus", "Esophagus"),
    ],
)
def test_names_that_are_certain(name, wanted):
    for match in match_structures(read_protocol(), [structure(name), structure("Liver")]):
        assert match.named == ((name,) if match.structure == wanted else ())
        assert match.is_certain == (match.structure == wanted)


@pytest.mark.parametrize(
    ("name", "wanted"), [("Cord_opt", "SpinalCord"), ("zCord T8", "SpinalCord"), ("Esophagus_old", "Esophagus")]
)
def test_names_that_only_resemble_are_shown_and_evaluated(name, wanted):
    matches = {m.structure: m for m in match_structures(read_protocol(), [structure(name)])}
    assert matches[wanted].named == () and matches[wanted].used == (name,)
    assert "by resemblance" in matches[wanted].doubt
    lines = evaluate_protocol(read_protocol(), matches.values(), 1, {name: curve(name)}).lines
    assert lines and all("by resemblance" in line.doubt and line.protocol_structure == wanted for line in lines)


@pytest.mark.parametrize(
    ("name", "kind"), [("Vocal cords", "ORGAN"), ("PTV cord", "PTV"), ("Cord ring", "CONTROL"), ("Cord", "SUPPORT")]
)
def test_names_that_mean_something_else(name, kind):
    (cord,) = [m for m in match_structures(read_protocol(), [structure(name, kind)]) if m.structure == "SpinalCord"]
    assert cord.used == () and cord.doubt == "no structure of that name"


def test_several_of_one_name_are_all_evaluated_and_named():
    there = [structure("Cord"), structure("SpinalCord"), structure("cord_opt"), structure("Myelon", contours=())]
    match = match_structures(read_protocol(), there)[0]
    assert match.named == ("Cord", "SpinalCord") and match.resembling == ("cord_opt",)
    assert "several structures" in match.doubt
    found = evaluate_protocol(read_protocol(), [match], 2, {"Cord": curve(), "SpinalCord": curve()})
    assert [line.structure for line in found.lines] == ["Cord", "SpinalCord"]
    certain = match_structures(read_protocol(), there[1:3])[0]
    assert certain.used == ("SpinalCord",) and "not evaluated" in certain.doubt


def test_targets_are_found_by_type_and_names_can_be_chosen():
    there = [structure("T8", "PTV"), structure("GTV", "GTV"), structure("Cord_opt"), structure("Cord")]
    matches = {m.structure: m for m in match_structures(read_protocol(), there, chosen={"SpinalCord": "Cord_opt"})}
    assert matches["Target"].named == ("T8",)
    assert matches["SpinalCord"] == Match("SpinalCord", ("Cord_opt",), ())
    for chosen in ({"SpinalCord": "nothing"}, {"Brain": "Cord"}):
        with pytest.raises(InvalidInput, match=r"There is no structure 'nothing'|The protocol has no structure"):
            match_structures(read_protocol(), there, chosen=chosen)


# --- evaluation -------------------------------------------------------------------------------------------------------


def test_fractions_pick_the_column_and_values_stand_side_by_side():
    protocol = read_protocol()
    matches = match_structures(protocol, [structure("SpinalCord")])
    # planned 16 Gy, recalculated 18 Gy at most, limit 17 Gy in two fractions
    found = evaluate_protocol(protocol, matches, 2, {"SpinalCord": curve(top=18)}, {"SpinalCord": curve(top=16)})
    (line,) = found.lines
    assert (line.metric, line.limit, line.planned, line.recalculated) == ("Max[Gy]", 17.0, 16.0, 18.0)
    assert (line.planned_within, line.within, line.crosses) == (True, False, True)
    assert line.remark == "beyond the limit"
    assert len(found.not_covered) == 3 and "no limit for 2 fractions" in found.not_covered[0]
    five = evaluate_protocol(protocol, matches, 5, {"SpinalCord": curve(top=18)})
    assert [(line.metric, line.limit) for line in five.lines] == [("Max[Gy]", 25.3), ("D0.03cc[Gy]", 30.0)]
    assert five.lines[0].planned_within is None and five.lines[0].remark == "within the limit"
    assert not five.lines[0].crosses
    eight = evaluate_protocol(protocol, matches, 8, {"SpinalCord": curve()})
    assert eight.lines == () and len(eight.not_covered) == 4
    assert any("earlier radiotherapy" in remark for remark in eight.remarks)


def test_limits_of_targets_are_at_least():
    protocol, matches = read_protocol(), (Match("Target", ("PTV",), ()),)
    (line,) = evaluate_protocol(protocol, matches, 1, {"PTV": curve("PTV")}, prescription_gy=1.0).lines
    assert line.sense == "at least" and line.recalculated == pytest.approx(95, abs=0.1) and line.within
    (line,) = evaluate_protocol(protocol, matches, 1, {"PTV": curve("PTV")}, prescription_gy=16.0).lines
    assert line.within is False
    (line,) = evaluate_protocol(protocol, matches, 1, {"PTV": curve("PTV")}).lines
    assert line.within is None and "prescribed" in line.doubt and line.remark == "no value"


def test_missing_and_doubtful_numbers_say_so():
    tiny = Dvh("SpinalCord", np.array([5.0, 4.0]), np.array([0.01, 0.02]), 0.02, too_small="it is narrow")
    matches = (Match("SpinalCord", ("SpinalCord",), ()),)
    found = evaluate_protocol(read_protocol(), matches, 1, {"SpinalCord": tiny})
    by_metric = {line.metric: line for line in found.lines}
    assert "too small for the dose grid" in by_metric["Max[Gy]"].doubt
    assert by_metric["D0.03cc[Gy]"].within is None and "0.020 cm3" in by_metric["D0.03cc[Gy]"].doubt
    table = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert table["lines"][0]["planned"] is None and table["fractions"] == 1
    with pytest.raises(InvalidInput, match="fractions"):
        evaluate_protocol(read_protocol(), matches, 0, {})


# --- files of one's own -----------------------------------------------------------------------------------------------

OWN = """
schema_version = 1
name = "ours"
[structures.Heart]
names = ["Heart"]
[[constraint]]
structure = "Heart"
goal = "mean"
sense = "at most"
source = "department, 2024"
verified = true
[constraint.fractions]
3 = { metric = "Mean[Gy]", limit = 4 }
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "ours.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_protocol_of_ones_own(tmp_path):
    protocol = read_protocol(write(tmp_path, OWN))
    assert protocol.name == "ours" and protocol.constraints[0].limits[3] == Limit(parse_metric("Mean"), 4.0)
    assert read_protocol(str(write(tmp_path, OWN))) == protocol


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("schema_version = 1", "schema_version = 2", "another version"),
        ("schema_version = 1", "", "another version"),
        ('name = "ours"', 'name = "ours', "cannot be read"),
        ('name = "ours"', "colour = 1", "unknown key 'colour'"),
        ('names = ["Heart"]', "", "how 'Heart' is found"),
        ('names = ["Heart"]', "names = 'Heart'", "no list of texts"),
        ('names = ["Heart"]', 'patterns = ["("]', "no pattern"),
        ('structure = "Heart"', 'structure = "Lung"', "does not say how it is named"),
        ('source = "department, 2024"', "", "has no source"),
        ('source = "department, 2024"', 'source = ""', "no source"),
        ("verified = true", "verified = 'yes'", "true or false"),
        ("verified = true", "verified = true\nextra = 1", "unknown key 'extra'"),
        ('sense = "at most"', 'sense = "below"', "at most or at least"),
        ("3 = {", "three = {", "no number of fractions"),
        ("3 = {", "0 = {", "no number of fractions"),
        ("limit = 4", "limit = -4", "a limit is positive"),
        ("limit = 4", "limit = 'four'", "no number"),
        ("limit = 4", "limit = nan", "a limit is positive"),
        (", limit = 4", "", "a metric and a limit"),
        ('"Mean[Gy]"', '"Medium"', "no dose metric"),
    ],
)
def test_wrong_protocols_are_refused(tmp_path, old, new, match):
    assert old in OWN
    with pytest.raises(InvalidInput, match=match):
        read_protocol(write(tmp_path, OWN.replace(old, new)))


def test_alpha_betas_have_sources(tmp_path):
    ratios = {one.role: one.value_gy for one in read_protocol("spine").alpha_betas}
    assert ratios == {"cord": 2.0, "target": 10.0, "organ": 3.0}
    table = '[alpha_beta.cord]\nvalue_gy = 2\nsource = "ours"\nverified = false\n'
    (one,) = read_protocol(write(tmp_path, OWN + table)).alpha_betas
    assert (one.role, one.value_gy) == ("cord", 2.0) and NOT_VERIFIED in one.stated_source
    for old, new, match in (
        ('source = "ours"', 'source = ""', "no source"), ("value_gy = 2", "value_gy = 0", "is positive"),
        ("value_gy = 2", "value_gy = true", "is a number"), ("verified = false", "", "has no verified"),
        ("verified = false", "verified = 1", "true or false"), (".cord", ".body", "can be target, cord, organ"),
        ("value_gy", "value", "unknown key"),
    ):  # fmt: skip
        with pytest.raises(InvalidInput, match=match):
            read_protocol(write(tmp_path, OWN + table.replace(old, new)))


def test_absent_and_empty_protocols_are_refused(tmp_path):
    with pytest.raises(InvalidInput, match=r"no protocol.*spinedose has spine"):
        read_protocol("nowhere")
    with pytest.raises(InvalidInput, match="no limits"):
        read_protocol(write(tmp_path, "schema_version = 1"))
    (tmp_path / "ours.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_protocol(tmp_path / "ours.toml")
    with pytest.raises(InvalidInput, match="twice"):
        Protocol("x", (Naming("a", ("a",)), Naming("a", ("a",))), ())
    with pytest.raises(InvalidInput, match="number of fractions"):
        Constraint("a", "b", "at most", {}, "c", True)
