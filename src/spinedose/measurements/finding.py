"""One thing that was found in a measured curve: a note, a doubt, or the reason why it is refused."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from spinedose.errors import InvalidInput

Severity = Literal["note", "flag", "refuse"]

MOST_NAMED = 5
"""Refusals that one error message names; the number of the others follows."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found in one curve.

    Parameters
    ----------
    code : str
        Short name of the kind of finding, e.g. `units`.
    severity : str
        `note` (what the reader did), `flag` (a doubt; the curve can be used) or `refuse` (it cannot).
    curve : str
        Label of the curve.
    problem, why, advice : str
        As in `SpinedoseError`: no full stops.
    """

    code: str
    severity: Severity
    curve: str
    problem: str
    why: str = ""
    advice: str = ""

    def __str__(self) -> str:
        """PROBLEM (WHY). WHAT TO DO., with the curve in front."""
        return f"{self.curve}: {InvalidInput(self.problem, self.why, self.advice)}"


def refusal(curve: str, error: InvalidInput, code: str = "unreadable") -> Finding:
    """Turn the error that one curve raised into a finding, so that the other curves of a file can be read."""
    return Finding(code, "refuse", curve, error.problem, error.why, error.advice)


def refuse(found: Iterable[Finding]) -> None:
    """Raise one error that names every curve that must be refused; do nothing when there is none.

    Parameters
    ----------
    found : iterable of Finding
        Findings of any severity.

    Raises
    ------
    InvalidInput
        If one of them is a refusal.
    """
    bad = [finding for finding in found if finding.severity == "refuse"]
    if not bad:
        return
    if len(bad) == 1:
        raise InvalidInput(f"{bad[0].curve}: {bad[0].problem}", bad[0].why, bad[0].advice)
    named = "; ".join(f"{f.curve}: {f.problem}" + (f", because {f.why}" if f.why else "") for f in bad[:MOST_NAMED])
    more = f"; and {len(bad) - MOST_NAMED} more" if len(bad) > MOST_NAMED else ""
    raise InvalidInput(f"{len(bad)} curves are refused", named + more, bad[0].advice or "Mend the file")
