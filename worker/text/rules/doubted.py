"""Doubt: "cannot be excluded", "unlikely", "not well seen" leave a fracture open."""

from worker.text.bones import is_specific
from worker.text.lexicon import Kind
from worker.text.phrase import NOUNS, Phrase
from worker.text.rules.joined import has_other_subject
from worker.text.rules.rule import Hit, Rule, Verdict

_KNOWN = ("known", "ct", "again", "previously seen", "previously noted", "previously described")


def _doubted(phrase: Phrase) -> Hit | None:
    tokens = phrase.tokens
    for at in phrase.places(lambda token: token.kind is Kind.UNSURE):
        is_later = at > phrase.at
        between = tokens[phrase.at + 1 : at] if is_later else tokens[at + 1 : phrase.at]
        if " well " in tokens[at].text and _is_known(phrase):
            continue
        if is_later and tokens[at].value == "before" and _has_own_object(phrase, at):
            continue
        if not has_other_subject(between):
            return Hit((at,))
    return None


def _is_known(phrase: Phrase) -> bool:
    """Tell whether a fracture that is not well seen is one that has been found all the same."""
    words = (token.text for token in phrase.own)
    return is_specific(phrase) or any(word in _KNOWN for word in words)


def _has_own_object(phrase: Phrase, at: int) -> bool:
    return any(t.kind in NOUNS for t in phrase.tokens[at + 1 : phrase.high])


RULES = (
    Rule(
        "not-excluded", "What cannot be excluded, confirmed or seen well is left open.",
        Verdict.OPEN, _doubted,
        "A rib fracture cannot be excluded.", "A rib fracture; a pneumothorax cannot be excluded.",
    ),
)  # fmt: skip
