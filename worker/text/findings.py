"""Read a model's text into fractures, conservatively: when in doubt, undetermined, never absent."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from worker.text.lexicon import Lexicon, english
from worker.text.result import Absence, Findings, Fracture, Place, Presence
from worker.text.rules import ENGLISH, RuleSet
from worker.text.sentences import LONGEST, Sentence, is_loop, split_sentences
from worker.text.weigh import RuleReason, TextReading

__all__ = [
    "Absence", "Explanation", "Findings", "Fracture", "Language", "Place", "Presence", "as_json",
    "explain", "explanation_as_json", "parse",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Language:
    """What a text of one language is read by."""

    code: str
    """As a model names it: ``en``."""
    lexicon: Lexicon
    rules: RuleSet = ENGLISH


@cache
def languages() -> dict[str, Language]:
    """Return the languages that are read; texts of any other are undetermined."""
    return {"en": Language("en", english(), ENGLISH)}


@dataclass(frozen=True, slots=True)
class Explanation:
    """An answer, the rules that decided it, and the words that nobody understood."""

    findings: Findings
    reasons: Sequence[RuleReason]
    not_understood: Sequence[str] = ()


def parse(text: str, language: str | Language = "en") -> Findings:
    """Return what `text` says about fractures.

    Parameters
    ----------
    text : str
        A model's answer or a report; only its first 10,000 characters are read.
    language : str or Language, optional
        Of the text; what is in a language without a lexicon is undetermined.

    Returns
    -------
    Findings
        ``present`` has at least one fracture, ``absent`` and ``undetermined`` have none.
    """
    return explain(text, language).findings


def explain(text: str, language: str | Language = "en") -> Explanation:
    """Return what `text` says about fractures, and why; the parameters are those of `parse`."""
    known = languages().get(language) if isinstance(language, str) else language
    if known is None:
        return _leave_unread("unknown-language")
    if "\ufffd" in text:
        return _leave_unread("unreadable-characters")
    if is_loop(text):
        return _leave_unread("loop")
    reading = _read_sentences(split_sentences(text), known)
    findings = reading.conclude()
    if findings.presence is Presence.ABSENT and text[LONGEST:].strip():
        return _leave_unread("rest-unread")  # a fracture may stand in what has not been read
    if findings.presence is Presence.ABSENT and "\n" in text:
        # A line end may be the end of a note or of a narrow page. "Absent" must hold in both
        # readings.
        apart = _read_sentences(split_sentences(text, joins=False), known).conclude()
        # Two notes, or one that a narrow page has wrapped?
        if any(f.bone != "other" or f.side for f in apart.fractures):
            return _leave_unread("two-notes")
    return Explanation(findings, reading.reasons, tuple(reading.not_understood))


def _leave_unread(rule: str) -> Explanation:
    return Explanation(Findings(Presence.UNDETERMINED, ()), [RuleReason(rule, "left open", "", ())])


def _read_sentences(parts: Iterable[Sentence], language: Language) -> TextReading:
    reading = TextReading(language.lexicon, language.rules)
    for sentence in parts:
        reading.read(sentence)
    return reading


def as_json(findings: Findings) -> dict[str, Any]:
    """Return `findings` as the object that ``chexfract-worker parse`` prints."""
    keys = ("bone", "number", "side", "certainty", "age")
    return {
        "presence": str(findings.presence),
        "fractures": [{key: getattr(f, key) for key in keys} for f in findings.fractures],
    }


def explanation_as_json(explanation: Explanation) -> dict[str, Any]:
    """Return an explanation as the object that ``chexfract-worker parse --why`` prints.

    It has the keys of `as_json`, and those of `Fracture`, `Absence` and `RuleReason` beside them.
    """
    findings = explanation.findings
    return {
        "presence": str(findings.presence),
        "fractures": [asdict(fracture) for fracture in findings.fractures],
        "absences": [asdict(absence) for absence in findings.absences],
        "is_limited": findings.is_limited,
        "why": [asdict(reason) for reason in explanation.reasons],
        "not_understood": list(explanation.not_understood),
    }
