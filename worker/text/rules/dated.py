"""Ages: acute, old, healing, said of this fracture and of nothing else."""

from collections.abc import Sequence
from itertools import takewhile

from worker.text.lexicon import Kind, Token
from worker.text.phrase import JOINTS, NOUNS, PREDICATES, STOPS, Phrase
from worker.text.rules.joined import has_other_subject
from worker.text.rules.reach import denies_property
from worker.text.rules.rule import Hit, RuleVerdict, TextRule
from worker.text.rules.unseen import speaks_of_past

_LATE_ONLY = ("prior", "previous", "past")
_OF_THE_PATIENT = ("status post", "history of", "prior history of", "past history of",
                   "known history of", "post orif")  # fmt: skip


def _find_unclear_age(phrase: Phrase) -> Hit | None:
    unclear = phrase.places(lambda token: token.kind is Kind.AGE and not token.value)
    return Hit(unclear[:1], ages=[(unclear[0], "")]) if unclear else None


def _find_ages(phrase: Phrase) -> Hit | None:
    found = _list_ages(phrase)
    return Hit([at for at, _ in found], ages=found) if found else None


def _list_ages(phrase: Phrase) -> list[tuple[int, str]]:
    tokens = phrase.tokens
    return [
        (at, tokens[at].value)
        for at in phrase.places(lambda token: token.kind is Kind.AGE and bool(token.value))
        if _is_of_fracture(phrase, at)
    ]


def _is_negated(phrase: Phrase, at: int) -> bool:
    """Tell whether an age is denied: "not old", "none of which appear acute", "without acute"."""
    passed = (Kind.QUALIFIER, Kind.VERB, Kind.NEUTRAL, Kind.ARTICLE, Kind.PREPOSITION, Kind.SEEN,
              Kind.HEDGE)  # fmt: skip
    low = phrase.skip_back(passed if at > phrase.at else (Kind.QUALIFIER,), at)
    if low == 0:
        return False
    before = phrase.tokens[low - 1]
    is_denial = before.kind is Kind.NEGATION or before.text == "none"
    if at < phrase.at:  # "no callus at the fracture"; "no old fracture" is not asked for its age
        return is_denial
    if (low > phrase.at and is_denial) or before.value == "not":
        return True
    earlier = phrase.places(lambda token: token.kind is Kind.NEGATION, phrase.low, phrase.at)
    return bool(earlier) and denies_property(phrase.tokens, earlier[-1], phrase.at) is False


def _is_of_fracture(phrase: Phrase, at: int) -> bool:
    tokens = phrase.tokens
    if _is_negated(phrase, at) or _was_then(phrase, at):
        return False
    if at > phrase.at:
        return tokens[at].text not in _LATE_ONLY and _dates_back(phrase, at)
    if tokens[at].text in _LATE_ONLY and at and tokens[at + 1].kind is Kind.COLON:
        return False  # "new from prior: right 5th rib fracture"
    # An adjective, or "vertebral compression": "old parry fracture".
    end = phrase.at - (tokens[phrase.at - 1].kind in (Kind.UNKNOWN, Kind.FRACTURE))
    for token in tokens[at + 1 : end]:
        if token.kind is Kind.COLON and _is_heading(tokens, token):
            continue  # "Old: right 6th rib fracture", "New from prior: ..."
        is_history = tokens[at].text in _OF_THE_PATIENT
        if is_history and token.text == "with":
            return False  # "status post bypass with a rib fracture"
        is_callus = tokens[at].text.startswith("callus")  # "callus is noted about the fracture"
        if is_callus and (token.kind in PREDICATES or token.text == "bridging"):
            continue
        closing = (*PREDICATES, *STOPS, Kind.COLON, Kind.ABSENT, Kind.NEGATION)
        if token.kind in closing:
            return False
        if token.kind in (*NOUNS, Kind.SKELETON) and not is_history:
            return False
        if token.kind is Kind.COMMA and (is_history or tokens[at].text in _LATE_ONLY):
            return False
    return True


def _was_then(phrase: Phrase, at: int) -> bool:
    """Tell an age of an earlier day: "previously acute", "which was new on the prior study"."""
    low = phrase.skip_back((Kind.SEEN, Kind.VERB), at)
    before = phrase.tokens[low - 1].text if low else ""
    near = takewhile(lambda token: token.kind not in JOINTS, phrase.tokens[at + 1 : at + 5])
    later = list(near)
    is_led = bool(later) and later[0].kind is Kind.PREPOSITION and speaks_of_past(later)
    return is_led or before in ("previously", "formerly", "initially", "originally")


def _is_heading(tokens: Sequence[Token], colon: Token) -> bool:
    """Tell whether nothing but an age, and since when, stands before the colon."""
    before = takewhile(lambda token: token is not colon, tokens)
    passed = (Kind.AGE, Kind.PREPOSITION, Kind.ARTICLE, Kind.NEUTRAL)
    return all(token.kind in passed for token in before)


def _dates_back(phrase: Phrase, at: int) -> bool:
    tokens = phrase.tokens
    if tokens[at].value == "healing" and any(
        t.kind is Kind.NEGATION for t in tokens[max(phrase.at, at - 4) : at]
    ):
        return False
    if has_other_subject(tokens[phrase.at + 1 : at]):
        return False
    for token in tokens[at + 1 : phrase.high]:
        if token.text in ("completely", "fully", "entirely", "age"):
            continue
        if token.kind not in (Kind.SEGMENT, Kind.SIDE, Kind.QUALIFIER, Kind.AGE, Kind.HEDGE):
            is_other = token.kind in (Kind.NOUN, Kind.UNKNOWN, Kind.DEVICE, Kind.PROPERTY)
            return not (is_other or token.value == "plain") or (tokens[at].value == "healing")
    return True


RULES = (
    TextRule(
        "age-unknown", "An age that is called unknown is none.",
        RuleVerdict.DATED, _find_unclear_age,
        "Age-indeterminate left 5th rib fracture.", "Old left 5th rib fracture.",
    ),
    TextRule(
        "age", "An adjective or a later word of age dates its own fracture only.",
        RuleVerdict.DATED, _find_ages,
        "Old left 5th rib fracture.", "Left 5th rib fracture without acute pneumothorax.",
    ),
)  # fmt: skip
