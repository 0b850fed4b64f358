"""What a result says: its case, the model's text made storable, and the words around it."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field
from enum import StrEnum

from dicom_node.base.job import Reason
from worker.report.boxes import Box
from worker.text.findings import Absence, Findings, Fracture, Presence

LONGEST_TEXT = 10_000
"""Bytes of UTF-8 that a report holds of one model text; what is longer is a loop."""

DISCLAIMER = (
    "AI generated, not reviewed by a physician. "
    "For research use only; not a medical device; not for primary diagnosis."
)
ABSENCE = "The absence of an AI finding does not exclude a fracture."
REPLACES = "This report replaces an earlier one of this image (number {} of its reports)."
UNCLEAR = "Model output could not be interpreted automatically; text is verbatim."
CUT = f"The model's text was longer than {LONGEST_TEXT} bytes and was cut."
DEMONSTRATION = "DEMONSTRATION MODEL: reads drawings only; its text means nothing about a patient."
NO_TEXT = Reason(code="no-text", text="The model gave no text.")


class Case(StrEnum):
    """The four kinds of report."""

    FRACTURE = "fracture described"
    NO_FRACTURE = "no fracture described"
    UNCLEAR = "text not interpretable"
    NOT_ANALYSED = "not analysed"


@dataclass(frozen=True, slots=True)
class Algorithm:
    """The model as its reports name it."""

    name: str
    """Name of the model, for example ``phantom``."""
    version: str
    """Software, model and weights in at most 64 characters; another one is another device."""
    parameters: tuple[str, ...] = ()
    """Algorithm Parameters (111002, DCM), for example ``decode=greedy``."""
    language: str = "en"
    demonstration: bool = False
    licence: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one Instance: a text with its findings, or a reason for none."""

    text: str | None = None
    findings: Findings | None = None
    reason: Reason | None = None
    warnings: tuple[str, ...] = ()
    boxes: tuple[Box, ...] = ()
    """Where the model sees fractures, in pixels of the source; empty unless a report shows them."""


@dataclass(frozen=True, slots=True)
class Reading:
    """An outcome in the words of its report."""

    case: Case
    text: str
    """The model's words; empty only where the Instance was not analysed."""
    caution: str
    """Disclaimer and what else a reader must know."""
    warnings: tuple[str, ...] = ()
    fractures: tuple[Fracture, ...] = field(default=())
    absences: tuple[Absence, ...] = ()
    """What a negative text calls absent, where it calls no more than that absent."""
    reason: Reason | None = None

    @property
    def is_only_possible(self) -> bool:
        """Whether the text suspects fractures and is sure of none."""
        return bool(self.fractures) and all(f.certainty == "possible" for f in self.fractures)

    @property
    def is_limited(self) -> bool:
        """Whether absence is said of some bones, sides or kinds of fracture only."""
        return bool(self.absences)

    @property
    def words(self) -> str:
        """What there is to read: the model's text, or the reason why there is none."""
        return self.reason.text if self.reason else self.text

    @property
    def comment(self) -> str:
        """The caution, after the reason where there is one."""
        return f"Not analysed: {self.reason.text} {self.caution}" if self.reason else self.caution


def read(outcome: Outcome, algorithm: Algorithm, generation: int = 1) -> Reading:
    """Return what a report says of `outcome`; from the second `generation` on it replaces another.

    A text that holds replacement characters, is cut or has no findings is never called negative.
    """
    text, is_whole = storable(outcome.text or "")
    reason = outcome.reason or (None if text else NO_TEXT)
    if reason is not None:
        reason = Reason(code=reason.code, text=storable(reason.text)[0] or reason.code)
    case = _case(outcome.findings, text, is_whole, reason)
    is_positive = case is Case.FRACTURE and outcome.findings is not None
    warnings = [*outcome.warnings, *([] if is_whole else [CUT])]
    if generation > 1:
        warnings.append(REPLACES.format(generation))
    found = outcome.findings
    is_limited = case is Case.NO_FRACTURE and found is not None and found.is_limited
    return Reading(
        case=case,
        text="" if reason else text,
        caution=_caution(case, algorithm),
        warnings=tuple(line for warning in warnings if (line := storable(warning)[0])),
        fractures=tuple(outcome.findings.fractures) if is_positive and outcome.findings else (),
        absences=outcome.findings.absences if is_limited and outcome.findings else (),
        reason=reason,
    )


def storable(raw: str) -> tuple[str, bool]:
    """Return `raw` as a Text Value (0040,A160) can hold it, and whether it is whole.

    Characters are composed (NFC), line ends become LF, a TAB becomes a space (no UT value may
    hold one, PS3.5 6.2), other control characters go, lone surrogates become U+FFFD, and what
    exceeds `LONGEST_TEXT` is cut.
    """
    joined = raw.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    lines = joined.replace("\r\n", "\n").replace("\r", "\n").replace("\t", " ")
    printable = "".join(c for c in lines if c == "\n" or unicodedata.category(c) != "Cc")
    composed = unicodedata.normalize("NFC", printable).rstrip()
    encoded = composed.encode()
    cut = encoded[:LONGEST_TEXT].decode(errors="ignore").rstrip()
    return (cut if cut.strip() else ""), len(encoded) <= LONGEST_TEXT


def _case(findings: Findings | None, text: str, is_whole: bool, reason: Reason | None) -> Case:
    if reason is not None:
        return Case.NOT_ANALYSED
    if findings is None or not is_whole or "\ufffd" in text:
        return Case.UNCLEAR
    return {
        Presence.PRESENT: Case.FRACTURE,
        Presence.ABSENT: Case.NO_FRACTURE,
    }.get(findings.presence, Case.UNCLEAR)


def _caution(case: Case, algorithm: Algorithm) -> str:
    sentences = [DEMONSTRATION] if algorithm.demonstration else []
    if case is Case.UNCLEAR:
        sentences.append(UNCLEAR)
    sentences.append(DISCLAIMER)
    if case is Case.NO_FRACTURE:
        sentences.append(ABSENCE)
    if algorithm.licence:
        sentences.append(f"Model licence: {algorithm.licence}.")
    return " ".join(sentences)
