"""What is broken in a phantom, as findings and as the report's sentences."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

NORMAL = "No fractures are seen."
SIDES = ("left", "right")
RIBS = range(2, 10)
"""Ribs that may be broken. Ten pairs are drawn."""

_SENTENCE = re.compile(r"Fracture of the (left|right) (?:clavicle|([1-9])(?:st|nd|rd|th) rib)\.")
_COUNTS = (0.35, 0.35, 0.2, 0.1)
"""Probabilities of 0, 1, 2 and 3 fractures in one phantom."""


class Finding(NamedTuple):
    """One broken bone; a clavicle has rib number 0."""

    side: str
    rib: int

    def __str__(self) -> str:
        """Name the bone, as the `findings` column of truth.csv does."""
        return f"{self.side} rib {self.rib}" if self.rib else f"{self.side} clavicle"


FINDINGS = tuple(Finding(side, 0) for side in SIDES) + tuple(
    Finding(side, rib) for side in SIDES for rib in RIBS
)
"""Every finding that can be drawn, in the order of the report."""

_ORDER = {finding: place for place, finding in enumerate(FINDINGS)}


def text(findings: Iterable[Finding]) -> str:
    """Write the report: clavicles first, then ribs, left before right.

    Raises
    ------
    ValueError
        A finding is not one of `FINDINGS`.
    """
    chosen = set(findings)
    if unknown := chosen - set(FINDINGS):
        raise ValueError(f"no phantom has a fracture of the {min(map(str, unknown))}")
    return " ".join(map(_finding_sentence, in_order(chosen))) or NORMAL


def parse(report: str) -> frozenset[Finding]:
    """Read a report back into findings.

    Raises
    ------
    ValueError
        The report is not, letter for letter, as `text` writes it.
    """
    found = frozenset(Finding(side, int(rib or 0)) for side, rib in _SENTENCE.findall(report))
    if not found <= set(FINDINGS) or text(found) != report:
        raise ValueError("not the report of a phantom")
    return found


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """Sort findings as the report names them."""
    return sorted(findings, key=_ORDER.__getitem__)


def named(name: str) -> Finding:
    """Return the finding that `str` gives this name, such as "left rib 5".

    Raises
    ------
    ValueError
        No finding has this name.
    """
    for finding in FINDINGS:
        if str(finding) == name:
            return finding
    raise ValueError(f"{name!r} is none of: {', '.join(map(str, FINDINGS))}")


def chosen_by(rng: np.random.Generator, counts: tuple[float, ...] = _COUNTS) -> frozenset[Finding]:
    """Choose which bones are broken; `counts` are the probabilities of 0, 1, 2, … of them."""
    number = int(rng.choice(len(counts), p=counts))
    weights = np.array([0.11 if finding.rib == 0 else 0.78 / 16 for finding in FINDINGS])
    places = rng.choice(len(FINDINGS), size=number, replace=False, p=weights)
    return frozenset(FINDINGS[place] for place in places)


def _finding_sentence(finding: Finding) -> str:
    if not finding.rib:
        return f"Fracture of the {finding.side} clavicle."
    ordinal = {1: "1st", 2: "2nd", 3: "3rd"}.get(finding.rib, f"{finding.rib}th")
    return f"Fracture of the {finding.side} {ordinal} rib."
