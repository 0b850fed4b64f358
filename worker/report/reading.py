"""What a result says: its case, the model's text made storable, and the words around it."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum

from dicom_node.base.job import Judgement, Reason, ReportOrder, finding_names
from worker.report.boxes import Box
from worker.text.findings import Absence, Findings, Fracture, Place, Presence

LONGEST_TEXT = 10_000
"""Bytes of UTF-8 that a report holds of one model text; what is longer is a loop."""

DISCLAIMER = (
    "AI generated, not reviewed by a physician. "
    "For research use only; not a medical device; not for primary diagnosis."
)
JUDGED = (
    "AI generated. A reader has judged it, which does not make it a verified report. "
    "For research use only; not a medical device; not for primary diagnosis."
)
ABSENCE = "The absence of an AI finding does not exclude a fracture."
REPLACES = "This is report number {} of this image; it replaces the one before."
UNCLEAR = "Model output could not be interpreted automatically; text is verbatim."
CUT = f"The model's text was longer than {LONGEST_TEXT} bytes and was cut."
DEMONSTRATION = "DEMONSTRATION MODEL: reads drawings only; its text means nothing about a patient."
AGES = frozenset(("acute", "healing", "old"))
CODED_QUALIFIERS = AGES | {"definite"}
"""What an absence may be limited to and still be coded; "no displaced fracture" has no code."""
WHOLE_BONES = {"acromion": "scapula", "coracoid": "scapula", "glenoid": "scapula"}
"""Parts of bones that have names of their own -> the bone."""
NO_TEXT = Reason(code="no-text", text="The model gave no text.")


class ReportKind(StrEnum):
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
    """Software, model and weights in at most 64 characters; another version is another device."""
    parameters: tuple[str, ...] = ()
    """Algorithm Parameters (111002, DCM), for example ``decode=greedy``."""
    language: str = "en"
    demonstration: bool = False
    licence: str = ""
    device: str = ""
    """Its Device UID and the digest of its options, where they are known and not to be derived."""
    options: str | None = None


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

    case: ReportKind
    text: str
    """The model's words; empty only where the Instance was not analysed."""
    caution: str
    """Disclaimer and what else a reader must know."""
    warnings: tuple[str, ...] = ()
    fractures: tuple[Fracture, ...] = field(default=())
    absences: tuple[Absence, ...] = ()
    """What a negative text calls absent, where it calls no more than that absent."""
    beside: tuple[Absence, ...] = ()
    """What a positive text calls absent elsewhere than where it sees fractures."""
    reason: Reason | None = None
    judgement: Judgement | None = None
    """What a reader thinks of it."""

    @property
    def is_only_possible(self) -> bool:
        """Whether the text suspects fractures and is sure of none."""
        left = self.undisputed
        return bool(left) and all(f.certainty == "possible" for f in left)

    @property
    def verdicts(self) -> tuple[str, ...]:
        """What a reader thinks of each fracture: ``agree``, ``disagree``, or nothing."""
        if self.judgement is None:
            return ("",) * len(self.fractures)
        said = {judged.finding.casefold(): judged.verdict for judged in self.judgement.findings}
        return tuple(said.get(name.casefold(), "") for name in finding_names(self.fractures))

    @property
    def undisputed(self) -> tuple[Fracture, ...]:
        """The fractures that no reader has denied."""
        return tuple(
            fracture
            for fracture, verdict in zip(self.fractures, self.verdicts, strict=True)
            if verdict != "disagree"
        )

    @property
    def is_disputed(self) -> bool:
        """Whether a reader disagrees, and has confirmed no fracture by itself."""
        if self.judgement is None:
            return False
        if "agree" in self.verdicts:
            return False
        return self.judgement.verdict == "disagree" or bool(self.fractures and not self.undisputed)

    @property
    def is_limited(self) -> bool:
        """Whether absence is said of some bones, sides or kinds of fracture only."""
        return bool(self.absences)

    @property
    def words(self) -> str:
        """What there is to read: a reader's words, then the model's or why there are none."""
        own = self.reason.text if self.reason else self.text
        if self.judgement is None:
            return own
        return "\n".join([*self.judgement_lines, *self.reader_lines, f"The AI's text: {own}"])

    @property
    def reader_lines(self) -> tuple[str, ...]:
        """What the reader who judged it has written: the right text, and a comment."""
        comment = storable(self.judgement.comment)[0] if self.judgement is not None else ""
        written = {"The reader's text": self.corrected_text, "The reader's comment": comment}
        return tuple(f"{name}: {text}" for name, text in written.items() if text)

    @property
    def corrected_text(self) -> str:
        """What the report should have said, in the words of the reader who judged it."""
        return storable(self.judgement.corrected_text)[0] if self.judgement is not None else ""

    @property
    def judgement_lines(self) -> tuple[str, ...]:
        """Who thinks what of the report, line by line; none where nobody has judged it."""
        return tuple(line for raw in self._judgement_lines() if (line := storable(raw)[0]))

    def _judgement_lines(self) -> Iterator[str]:
        judged = self.judgement
        if judged is None:
            return
        who = f"Reader {judged.reader}" if judged.reader.strip() else "A reader"
        yield f"{who} {judged.verdict}s with this description by AI."
        for finding in judged.findings:
            yield f"On {finding.finding}: {finding.verdict}s."

    @property
    def comment(self) -> str:
        """The caution, after the reason where there is one."""
        return f"Not analysed: {self.reason.text} {self.caution}" if self.reason else self.caution


def read(outcome: Outcome, algorithm: Algorithm, order: ReportOrder | None = None) -> Reading:
    """Return what a report says; from the second generation on it replaces an earlier report.

    A text that holds replacement characters, is cut or has no findings is never called negative.
    """
    text, is_whole = storable(outcome.text or "")
    reason = outcome.reason or (None if text else NO_TEXT)
    if reason is not None:
        reason = Reason(code=reason.code, text=storable(reason.text)[0] or reason.code)
    case = _report_kind(outcome.findings, text, is_whole, reason)
    is_positive = case is ReportKind.FRACTURE and outcome.findings is not None
    warnings = [*outcome.warnings, *([] if is_whole else [CUT])]
    if order is not None and order.generation > 1:
        warnings.append(REPLACES.format(order.generation))
    judgement = order.judgement if order is not None else None
    found = outcome.findings
    is_limited = case is ReportKind.NO_FRACTURE and found is not None and found.is_limited
    return Reading(
        case=case,
        text="" if reason else text,
        caution=_write_caution(case, algorithm, is_judged=judgement is not None),
        warnings=tuple(line for warning in warnings if (line := storable(warning)[0])),
        fractures=tuple(outcome.findings.fractures) if is_positive and outcome.findings else (),
        absences=outcome.findings.absences if is_limited and outcome.findings else (),
        beside=_absences_beside(outcome.findings) if is_positive and outcome.findings else (),
        reason=reason,
        judgement=judgement,
    )


def _absences_beside(findings: Findings) -> tuple[Absence, ...]:
    """Return what a positive text denies of places that are apart from each of its fractures.

    "Left rib fracture. No right rib fracture." has one. What may be about the place of a fracture,
    as "no displaced fracture" may, is left to the text.
    """
    found = []
    for absence in findings.absences:
        every = absence.places or (Place("", side=absence.side),)
        places = tuple(
            place
            for place in every
            if all(_is_apart(place, absence.qualifiers, f) for f in findings.fractures)
        )
        if places and absence.is_limited and set(absence.qualifiers) <= CODED_QUALIFIERS:
            found.append(replace(absence, places=places if absence.places else ()))
    return tuple(found)


def _is_apart(place: Place, qualifiers: tuple[str, ...], fracture: Fracture) -> bool:
    """Whether what is said to be absent at a place cannot be this fracture, or part of it."""
    ages = set(qualifiers) & AGES
    if ages and fracture.age in AGES - ages:
        return True
    if {place.side, fracture.side} == {"left", "right"}:
        return True
    bones = [WHOLE_BONES.get(bone, bone) for bone in (place.bone, fracture.bone)]
    if not place.bone or "other" in bones:
        return False
    if bones[0] != bones[1]:
        return True
    return bool(place.number and fracture.number and place.number != fracture.number)


def storable(raw: str) -> tuple[str, bool]:
    """Return `raw` as a Text Value (0040,A160) can hold it, and whether it is whole.

    Characters are composed (NFC), line ends become LF, a TAB becomes a space (no UT value may
    hold one, PS3.5 6.2), other control characters go, lone surrogates become U+FFFD, and what
    exceeds `LONGEST_TEXT` is cut.
    """
    # Through UTF-16, which joins pairs of surrogates to one character and replaces lone ones.
    joined = raw.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    lines = joined.replace("\r\n", "\n").replace("\r", "\n").replace("\t", " ")
    printable = "".join(c for c in lines if c == "\n" or unicodedata.category(c) != "Cc")
    composed = unicodedata.normalize("NFC", printable).rstrip()
    encoded = composed.encode()
    # The cut may fall within a character, whose bytes are then ignored.
    cut = encoded[:LONGEST_TEXT].decode(errors="ignore").rstrip()
    return (cut if cut.strip() else ""), len(encoded) <= LONGEST_TEXT


def _report_kind(
    findings: Findings | None, text: str, is_whole: bool, reason: Reason | None
) -> ReportKind:
    if reason is not None:
        return ReportKind.NOT_ANALYSED
    if findings is None or not is_whole or "\ufffd" in text:
        return ReportKind.UNCLEAR
    return {
        Presence.PRESENT: ReportKind.FRACTURE,
        Presence.ABSENT: ReportKind.NO_FRACTURE,
    }.get(findings.presence, ReportKind.UNCLEAR)


def _write_caution(case: ReportKind, algorithm: Algorithm, is_judged: bool) -> str:
    sentences = [DEMONSTRATION] if algorithm.demonstration else []
    if case is ReportKind.UNCLEAR:
        sentences.append(UNCLEAR)
    sentences.append(JUDGED if is_judged else DISCLAIMER)
    if case is ReportKind.NO_FRACTURE:
        sentences.append(ABSENCE)
    if algorithm.licence:
        sentences.append(f"Model licence: {algorithm.licence}.")
    return " ".join(sentences)
