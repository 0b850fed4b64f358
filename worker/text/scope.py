"""Decide what the words around a fracture do to it: deny, doubt, hedge or date it."""

from collections.abc import Sequence
from dataclasses import dataclass

from worker.text.reach import JOINTS, NOUNS, PREDICATES, STOPS, is_noun, reaches
from worker.text.unseen import denies_sight
from worker.text.words import Kind, Token

_SITES = frozenset({Kind.NUMBER, Kind.BONE, Kind.LEVEL, Kind.SIDE, Kind.HINT, Kind.SEGMENT})
_LATE_ONLY = ("prior", "previous", "past")
_OF_THE_PATIENT = ("status post", "history of", "prior history of", "past history of",
                   "known history of", "post orif")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Scope:
    """One fracture word of a clause: `at` is its index, `low` to `high` the tokens it may own."""

    tokens: Sequence[Token]
    at: int
    low: int
    high: int
    knows_ribs: bool = False  # ribs have been named before: "the 5th" is one


def is_denied(scope: Scope) -> bool | None:
    """Tell whether the clause says that this fracture is not there; None when it is unclear."""
    before = [reaches(scope.tokens, at, scope.at) for at in _negations(scope.tokens, scope.at)]
    reaching = [verdict for verdict in before if verdict is not False]
    after = _is_denied_later(scope)
    if None in reaching or after is None or (reaching and after):
        return None
    return bool(reaching) or after


def _negations(tokens: Sequence[Token], end: int) -> list[int]:
    """Return the index of the negation before `end` that counts, in a list of none or one."""
    for at in range(end - 1, -1, -1):
        if tokens[at].kind in STOPS:
            break
        if tokens[at].kind is Kind.NEGATION and not _is_of_adjective(tokens, at):
            return [at]
    return []


def _is_of_adjective(tokens: Sequence[Token], at: int) -> bool:
    """Tell the "not" of "not displaced" from that of "not seen"."""
    if tokens[at].value != "not" or at + 1 >= len(tokens):
        return False
    after = tokens[at + 1]
    return after.kind in (Kind.QUALIFIER, Kind.AGE, Kind.NEUTRAL) and (
        after.kind is not Kind.QUALIFIER or after.value != "definite"
    )


def _is_denied_later(scope: Scope) -> bool | None:
    """Read "is not seen", "none" and "absent" after the fracture."""
    tokens = scope.tokens
    own_noun = is_apart = False
    for at in range(scope.at + 1, scope.high):
        token = tokens[at]
        if token.kind in STOPS or (token.kind in (Kind.ABSENT, Kind.NEGATION) and is_apart):
            return False
        if token.kind in JOINTS:
            is_apart, own_noun = False, own_noun and token.kind is not Kind.COMMA
        elif (is_noun(token) or token.kind is Kind.AGE) and token.kind is not Kind.FRACTURE:
            own_noun = True
            is_apart = _is_specific(scope) and any(
                t.kind in JOINTS for t in tokens[scope.at + 1 : at]
            )
        if token.kind is Kind.ABSENT and _is_attribute(tokens, at):
            return False  # "with absent callus"
        if token.kind is Kind.ABSENT or (token.text == "no" and at == len(tokens) - 1):
            return None if own_noun else _is_plain_absence(scope, at)
        if token.kind is Kind.NEGATION and token.value == "not":
            is_unseen = denies_sight(tokens[at + 1 : scope.high])
            if is_unseen is not False:
                return None if own_noun else is_unseen
        if token.kind is Kind.NEGATION and token.value == "no":
            return _is_ellipsis(tokens, at)
    return False


def _is_plain_absence(scope: Scope, at: int) -> bool | None:
    """Tell "fracture: none" from "none displaced", "has been excluded" from "to be excluded"."""
    tokens = scope.tokens
    rest = tokens[at + 1 : scope.high]
    if tokens[at].text == "none" and not all(
        t.kind in (Kind.SEEN, Kind.VERB, Kind.NEUTRAL, Kind.CARRIER, Kind.COMMA) for t in rest
    ):
        return False
    before = tokens[max(0, at - 3) : at]
    if any(t.kind is Kind.NEGATION or t.text in ("to", "if", "should", "must") for t in before):
        return None
    is_apart = any(t.kind is Kind.COMMA for t in tokens[scope.at : at])
    return None if _is_specific(scope) and is_apart else True


def _is_specific(scope: Scope) -> bool:
    """Tell whether a side, number or level is named, as reports do with what they found."""
    named = (Kind.NUMBER, Kind.SIDE, Kind.LEVEL)
    return any(t.kind in named for t in scope.tokens[scope.low : scope.high])


def _is_attribute(tokens: Sequence[Token], at: int) -> bool:
    after = tokens[at + 1] if at + 1 < len(tokens) else None
    return tokens[at].text == "absent" and after is not None and after.kind in (Kind.NOUN, Kind.AGE)


def _is_ellipsis(tokens: Sequence[Token], at: int) -> bool:
    """Read "fracture: no evidence", "fractures - none seen"."""
    rest = tokens[at + 1 :]
    kinds = (Kind.CARRIER, Kind.SEEN, Kind.COMMA, Kind.VERB)
    return (
        bool(rest)
        and all(t.kind in kinds for t in rest)
        and tokens[at - 1].kind in (Kind.COLON, Kind.COMMA)
    )


def is_doubted(scope: Scope) -> bool:
    """Tell whether the clause leaves this fracture open, as in "cannot be excluded"."""
    tokens = scope.tokens
    for at in range(scope.low, scope.high):
        if tokens[at].kind is not Kind.UNSURE:
            continue
        between = tokens[scope.at + 1 : at] if at > scope.at else tokens[at + 1 : scope.at]
        if " well " in tokens[at].text and _is_specific(scope):
            continue
        if at > scope.at and tokens[at].value == "before" and _has_own_object(scope, at):
            continue
        if not _has_other_subject(between):
            return True
    return False


def _has_own_object(scope: Scope, at: int) -> bool:
    return any(t.kind in NOUNS for t in scope.tokens[at + 1 : scope.high])


def _has_other_subject(between: Sequence[Token]) -> bool:
    """Tell whether a joint and a noun stand between: "fracture, pneumothorax not excluded"."""
    seen_joint = False
    for token in between:
        seen_joint |= token.kind in (*JOINTS, *STOPS)
        is_noun_phrase = token.kind in NOUNS or token.value == "noun"
        if seen_joint and is_noun_phrase and token.kind is not Kind.FRACTURE:
            return True
    return False


def is_sought(scope: Scope) -> bool:
    """Tell whether the fracture is only looked for: "evaluate for", "if ... is suspected"."""
    tokens = scope.tokens
    for at in range(scope.at - 1, -1, -1):
        token = tokens[at]
        if token.kind is Kind.ASKING and token.value == "if":
            return True
        if token.kind is Kind.LIMITED and tokens[at + 1].text in ("for", "to"):
            return True  # "radiographs are not sensitive for fractures"
        if token.kind is Kind.ASKING:
            path = tokens[at + 1 : scope.at]
            return not any(
                t.kind is Kind.VERB and t.text not in ("be", "been", "to", "can", "may", "should")
                for t in path
            )
    return False


def is_queried(scope: Scope) -> bool:
    """Tell whether a question mark stands before the fracture: "?fracture", "query fracture"."""
    return any(
        (scope.tokens[at].kind is Kind.QUERY or scope.tokens[at].text == "query")
        and _is_query(scope, at)
        for at in range(scope.low, scope.at)
    )


def is_hedged(scope: Scope) -> tuple[bool, int | None]:
    """Tell whether the fracture is only possible.

    Returns
    -------
    tuple[bool, int | None]
        Whether a hedge applies; and the index from which on its bones are hedged where only the
        later ones of a list are ("5th and possibly 6th ribs"), else None.
    """
    tokens = scope.tokens
    if is_queried(scope):
        return True, None
    for at in range(scope.low, scope.high):
        if tokens[at].kind is not Kind.HEDGE or _is_aside(scope, at):
            continue
        if _begins_later_item(scope, at):
            return True, at
        if at < scope.at and _hedges_forward(scope, at):
            return True, None
        if at > scope.at and _hedges_back(scope, at):
            return True, None
    return _is_alternative(scope), None


def _is_query(scope: Scope, at: int) -> bool:
    passed = (*_SITES, Kind.QUALIFIER, Kind.AGE, Kind.ARTICLE)
    return all(t.kind in passed for t in scope.tokens[at + 1 : scope.at])


def _is_aside(scope: Scope, at: int) -> bool:
    """Tell a hedge on age or form ("a probably old fracture") from one on the fact."""
    tokens = scope.tokens
    after = tokens[at + 1] if at + 1 < len(tokens) else None
    if after is None or after.kind not in (Kind.AGE, Kind.QUALIFIER):
        return False
    if at > scope.at:
        return not any(t.kind in (Kind.NUMBER, Kind.BONE) for t in tokens[at + 1 : scope.high])
    has_article = at > 0 and tokens[at - 1].kind is Kind.ARTICLE
    return has_article and tokens[at].text.endswith("ly")


def _begins_later_item(scope: Scope, at: int) -> bool:
    tokens = scope.tokens
    joint = at - 1
    while joint > scope.at and tokens[joint].kind is Kind.ARTICLE:
        joint -= 1
    if joint < 0 or tokens[joint].kind not in (*JOINTS, Kind.PREPOSITION):
        return False
    named = (Kind.NUMBER, Kind.BONE, Kind.LEVEL)
    earlier = any(t.kind in named for t in tokens[scope.low : at])
    ahead = tokens[at + 1 : scope.at] if at < scope.at else tokens[at + 1 : scope.high]
    later = any(t.kind in named for t in ahead)
    return earlier and later and not any(t.kind in (Kind.NOUN, Kind.DEVICE) for t in ahead)


def _hedges_forward(scope: Scope, at: int) -> bool:
    noun = False
    is_cause = scope.tokens[at].text.endswith((" from", " to"))
    if is_cause and scope.tokens[at + 1].value == "definite":
        return False  # "pneumothorax, likely from the rib fracture"
    for token in scope.tokens[at + 1 : scope.at]:
        if token.kind is Kind.FRACTURE or token.kind in STOPS:
            return False
        noun = noun or token.kind in (Kind.NOUN, Kind.DEVICE, Kind.UNKNOWN)
        if noun and token.kind in (*JOINTS, *PREDICATES, Kind.PREPOSITION, Kind.REFERENCE):
            return False
    return True


def _hedges_back(scope: Scope, at: int) -> bool:
    tokens = scope.tokens
    if tokens[at].text in ("versus", "vs"):
        return True
    between = tokens[scope.at + 1 : at]
    if _has_other_subject(between):
        return False
    others = (Kind.NOUN, Kind.ABNORMALITY, Kind.AGE, Kind.QUALIFIER, Kind.UNKNOWN, Kind.DEVICE)
    after = list(tokens[at + 1 : scope.high])
    return not any(t.kind in others or t.text == "due to" for t in after[:4])


def _is_alternative(scope: Scope) -> bool:
    """Read "fracture or artifact"."""
    mimics = (
        "artifact",
        "overlap",
        "foramen",
        "superimposition",
        "summation",
        "groove",
        "overlapping",
    )
    tokens = scope.tokens
    return any(
        token.kind is Kind.OR and any(t.text in mimics for t in tokens[at + 1 : at + 5])
        for at, token in enumerate(tokens)
        if at > scope.at
    )


def ages(scope: Scope) -> list[tuple[int, str]]:
    """Return the index and value of the ages that are said of this fracture."""
    tokens = scope.tokens
    found: list[tuple[int, str]] = []
    for at in range(scope.low, scope.high):
        token = tokens[at]
        if token.kind is Kind.AGE and not token.value:
            return [(at, "")]
        if token.kind is Kind.AGE and _is_of_fracture(scope, at):
            found.append((at, token.value))
    return found


def _is_of_fracture(scope: Scope, at: int) -> bool:
    tokens = scope.tokens
    before = [t for t in tokens[max(0, at - 3) : at] if t.kind is not Kind.QUALIFIER]
    if before and before[-1].value == "not":
        return False
    if at > scope.at:
        return tokens[at].text not in _LATE_ONLY and _dates_back(scope, at)
    end = scope.at - (
        tokens[scope.at - 1].kind is Kind.UNKNOWN
    )  # an adjective: "old parry fracture"
    for token in tokens[at + 1 : end]:
        is_history = tokens[at].text in _OF_THE_PATIENT
        if is_history and token.text == "with":
            return False  # "status post bypass with a rib fracture"
        if token.kind in PREDICATES or token.kind in STOPS or token.kind is Kind.COLON:
            return False
        if token.kind in (*NOUNS, Kind.SKELETON) and not is_history:
            return False
        if token.kind is Kind.COMMA and (is_history or tokens[at].text in _LATE_ONLY):
            return False
    return True


def _dates_back(scope: Scope, at: int) -> bool:
    tokens = scope.tokens
    if tokens[at].value == "healing" and any(
        t.kind is Kind.NEGATION for t in tokens[max(scope.at, at - 4) : at]
    ):
        return False
    if _has_other_subject(tokens[scope.at + 1 : at]):
        return False
    for token in tokens[at + 1 : scope.high]:
        if token.text in ("completely", "fully", "entirely"):
            continue
        if token.kind not in (Kind.SEGMENT, Kind.SIDE, Kind.QUALIFIER, Kind.AGE, Kind.HEDGE):
            is_other = token.kind in (Kind.NOUN, Kind.UNKNOWN, Kind.DEVICE, Kind.PROPERTY)
            return not (is_other or token.value == "plain") or (tokens[at].value == "healing")
    return True
