"""Doubt: "cannot be excluded", "unlikely", "not well seen" leave a fracture open."""

from worker.text.bones import is_specific
from worker.text.lexicon import Kind
from worker.text.phrase import JOINTS, NOUNS, STOPS, Phrase
from worker.text.rules.backward import MIMICS
from worker.text.rules.joined import has_other_subject, is_known
from worker.text.rules.rule import Hit, RuleVerdict, TextRule

_PARTLY = ("incompletely", "not fully", "not optimally", "not adequately")
_SIGHT = (" well ", "clearly", "seen", "visualized", "identified", "demonstrated", "appreciated")


def _find_doubt(phrase: Phrase) -> Hit | None:
    tokens = phrase.tokens
    for at in phrase.places(lambda token: token.kind is Kind.UNSURE):
        is_later = at > phrase.at
        between = tokens[phrase.at + 1 : at] if is_later else tokens[at + 1 : phrase.at]
        if _is_there_unseen(phrase, at):
            continue
        if is_later and tokens[at].value == "before" and _has_own_object(phrase, at):
            continue
        governed = [t.value or t.text for t in tokens[at + 2 : at + 4]]
        if tokens[at].text.endswith(" any") and governed == ["of", "definite"]:
            continue  # "hardly any displacement of the fracture"
        if not has_other_subject(between):
            return Hit((at,))
    return None


def _is_there_unseen(phrase: Phrase, at: int) -> bool:
    """Tell whether only the sight of a fracture is doubted that is there all the same."""
    doubt = phrase.tokens[at].text
    if " well " in doubt or doubt.startswith(("would be better", "would need", "would require")):
        return is_specific(phrase) or is_known(phrase)
    if doubt.startswith(_PARTLY) and doubt.endswith(("evaluated", "assessed")):
        return is_specific(phrase)  # a fracture that is incompletely imaged
    return is_known(phrase) and any(word in doubt for word in _SIGHT)


def _has_own_object(phrase: Phrase, at: int) -> bool:
    return any(t.kind in NOUNS for t in phrase.tokens[at + 1 : phrase.high])


_EQUALS = ("due to", "represents", "represent", "reflects", "reflect", "is", "are", "was",
           "related to", "secondary to", "caused by")  # fmt: skip


def _find_mimic(phrase: Phrase) -> Hit | None:
    """Find the "apparent fracture" that a predicate calls a fold, a vessel or an artifact."""
    tokens = phrase.tokens
    for at in range(phrase.at + 1, phrase.high):
        if tokens[at].kind in (*STOPS, *JOINTS):
            return None
        if tokens[at].text in MIMICS:
            is_said = any(t.text in _EQUALS for t in tokens[phrase.at + 1 : at])
            return Hit((at,)) if is_said else None
    return None


RULES = (
    TextRule(
        "explained", "What a predicate calls an artifact, a fold or a vessel is no fracture.",
        RuleVerdict.OPEN, _find_mimic,
        "Apparent fracture of the left 5th rib is due to a skin fold.",
        "Fracture of the left 5th rib beside a skin fold.",
    ),
    TextRule(
        "not-excluded", "What cannot be excluded, confirmed or seen well is left open.",
        RuleVerdict.OPEN, _find_doubt,
        "A rib fracture cannot be excluded.", "A rib fracture; a pneumothorax cannot be excluded.",
    ),
)  # fmt: skip
