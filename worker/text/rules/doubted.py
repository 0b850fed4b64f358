"""Doubt: "cannot be excluded", "unlikely", "not well seen" leave a fracture open."""

from worker.text.bones import is_specific
from worker.text.lexicon import Kind
from worker.text.phrase import NOUNS, Phrase
from worker.text.rules.joined import has_other_subject, is_known
from worker.text.rules.rule import Hit, RuleVerdict, TextRule

_SIGHT = (" well ", "clearly", "seen", "visualized", "identified", "demonstrated", "appreciated")


def _doubted(phrase: Phrase) -> Hit | None:
    tokens = phrase.tokens
    for at in phrase.places(lambda token: token.kind is Kind.UNSURE):
        is_later = at > phrase.at
        between = tokens[phrase.at + 1 : at] if is_later else tokens[at + 1 : phrase.at]
        if _is_there_unseen(phrase, at):
            continue
        if is_later and tokens[at].value == "before" and _has_own_object(phrase, at):
            continue
        if not has_other_subject(between):
            return Hit((at,))
    return None


def _is_there_unseen(phrase: Phrase, at: int) -> bool:
    """Tell whether only the sight of a fracture is doubted that is there all the same."""
    doubt = phrase.tokens[at].text
    if " well " in doubt or doubt.startswith("would be better"):
        return is_specific(phrase) or is_known(phrase)
    return is_known(phrase) and any(word in doubt for word in _SIGHT)


def _has_own_object(phrase: Phrase, at: int) -> bool:
    return any(t.kind in NOUNS for t in phrase.tokens[at + 1 : phrase.high])


RULES = (
    TextRule(
        "not-excluded", "What cannot be excluded, confirmed or seen well is left open.",
        RuleVerdict.OPEN, _doubted,
        "A rib fracture cannot be excluded.", "A rib fracture; a pneumothorax cannot be excluded.",
    ),
)  # fmt: skip
