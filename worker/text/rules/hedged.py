"""Hedges: possible, probable, versus, "?" make a fracture possible."""

from worker.text.lexicon import Kind
from worker.text.phrase import JOINTS, NAMED, PREDICATES, STOPS, Phrase, has
from worker.text.rules.backward import MIMICS
from worker.text.rules.joined import has_other_subject
from worker.text.rules.rule import Hit, RuleVerdict, TextRule

_SITES = frozenset({Kind.NUMBER, Kind.BONE, Kind.LEVEL, Kind.SIDE, Kind.HINT, Kind.SEGMENT})


def find_query(phrase: Phrase) -> Hit | None:
    """Find a question mark before the fracture: "?fracture", "query fracture"."""
    for at in range(phrase.low, phrase.at):
        token = phrase.tokens[at]
        if (token.kind is Kind.QUERY or token.text in ("query", "question")) and _is_query(
            phrase, at
        ):
            return Hit((at,))
    return None


def _find_hedge(phrase: Phrase) -> Hit | None:
    for at in phrase.places(lambda token: token.kind is Kind.HEDGE):
        if _is_aside(phrase, at):
            continue
        if _begins_later_item(phrase, at):
            return Hit((at,), start=at)
        if at < phrase.at and _hedges_forward(phrase, at):
            return Hit((at,))
        if at > phrase.at and _hedges_back(phrase, at):
            return Hit((at,))
    return None


def _is_query(phrase: Phrase, at: int) -> bool:
    passed = (*_SITES, Kind.QUALIFIER, Kind.AGE, Kind.ARTICLE)
    return all(t.kind in passed for t in phrase.tokens[at + 1 : phrase.at])


def _is_aside(phrase: Phrase, at: int) -> bool:
    """Tell a hedge on age or form ("a probably old fracture") from one on the fact."""
    tokens = phrase.tokens
    after = tokens[at + 1] if at + 1 < len(tokens) else None
    if after is None or after.kind not in (Kind.AGE, Kind.QUALIFIER):
        return False
    if at > phrase.at:
        return not any(t.kind in (Kind.NUMBER, Kind.BONE) for t in tokens[at + 1 : phrase.high])
    before = [t.kind for t in tokens[max(0, at - 2) : at]]
    if before == [Kind.AGE, Kind.COMMA]:
        return True  # "age-indeterminate, likely chronic"
    has_article = at > 0 and tokens[at - 1].kind is Kind.ARTICLE
    return has_article and tokens[at].text.endswith("ly")


def _begins_later_item(phrase: Phrase, at: int) -> bool:
    tokens = phrase.tokens
    joint = at - 1
    while joint > phrase.at and tokens[joint].kind is Kind.ARTICLE:
        joint -= 1
    if joint < 0 or tokens[joint].kind not in (*JOINTS, Kind.PREPOSITION):
        return False
    named = (Kind.NUMBER, Kind.BONE, Kind.LEVEL)
    earlier = any(t.kind in named for t in tokens[phrase.low : at])
    ahead = tokens[at + 1 : phrase.at] if at < phrase.at else tokens[at + 1 : phrase.high]
    later = any(t.kind in named for t in ahead)
    return earlier and later and not any(t.kind in (Kind.NOUN, Kind.DEVICE) for t in ahead)


def _hedges_forward(phrase: Phrase, at: int) -> bool:
    noun = False
    is_cause = phrase.tokens[at].text.endswith((" from", " to"))
    if is_cause and phrase.tokens[at + 1].value == "definite":
        return False  # "pneumothorax, likely from the rib fracture"
    # "Compression fracture" has two fracture words; the first is the form of the second.
    end = phrase.at - (phrase.tokens[phrase.at - 1].kind is Kind.FRACTURE)
    for token in phrase.tokens[at + 1 : end]:
        if token.kind is Kind.FRACTURE or token.kind in STOPS:
            return False
        noun = noun or token.kind in (Kind.NOUN, Kind.DEVICE, Kind.UNKNOWN)
        if noun and token.kind in (*JOINTS, *PREDICATES, Kind.PREPOSITION, Kind.REFERENCE):
            return False
    return True


def _hedges_back(phrase: Phrase, at: int) -> bool:
    tokens = phrase.tokens
    if tokens[at].text in ("versus", "vs"):
        return True
    if tokens[at].text == "suspected" and tokens[at - 1].text in ("was", "were", "is", "are"):
        return not has_other_subject(tokens[phrase.at + 1 : at])
    between = tokens[phrase.at + 1 : at]
    if has_other_subject(between):
        return False
    others = (Kind.NOUN, Kind.ABNORMALITY, Kind.AGE, Kind.QUALIFIER, Kind.UNKNOWN, Kind.DEVICE)
    after = list(tokens[at + 1 : phrase.high])
    return not any(t.kind in others or t.text == "due to" for t in after[:4])


_MIMICS = ("artifact", "overlap", "foramen", "superimposition", "summation", "groove",
           "overlapping")  # fmt: skip


def _find_alternative(phrase: Phrase) -> Hit | None:
    tokens = phrase.tokens
    for at in range(phrase.at + 1, len(tokens)):
        near = tokens[at + 1 : at + 5]
        if tokens[at].kind is Kind.OR and any(t.text in _MIMICS for t in near):
            return Hit((at,))
    for at in phrase.places(lambda token: token.kind is Kind.OR, 1, phrase.at):
        is_next = not has(tokens[at + 1 : phrase.at], Kind.NOUN, *PREDICATES, *JOINTS)
        if is_next and tokens[at - 1].text in (*MIMICS, "canal", "channel", "vessel"):
            return Hit((at - 1, at))  # "skin fold or fracture of the left 5th rib"
    either = phrase.places(lambda token: token.text == "either")
    ors = phrase.places(lambda token: token.kind is Kind.OR)
    if either and ors and has(tokens[either[0] : ors[-1]], *NAMED):
        return Hit((either[0], ors[-1]))  # "of either the 9th or the 10th rib"
    return None


RULES = (
    TextRule(
        "query", "A question mark before a named fracture suspects it.",
        RuleVerdict.POSSIBLE, find_query,
        "?fracture of the left 5th rib.", "Fracture of the left 5th rib.",
    ),
    TextRule(
        "hedge", "A hedge on the fact makes a fracture possible; one on age or form does not.",
        RuleVerdict.POSSIBLE, _find_hedge,
        "Possible fracture of the left 5th rib.", "Left 5th rib fracture, probably old.",
    ),
    TextRule(
        "or-artifact", "A fracture or what looks like one is possible, and either of two bones.",
        RuleVerdict.POSSIBLE, _find_alternative,
        "Left 5th rib fracture or artifact.", "Left 5th rib fracture or fractures.",
    ),
)  # fmt: skip
