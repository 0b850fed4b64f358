"""Tell "is not seen" from "is not seen as well", "not seen before" and "not seen in full"."""

from collections.abc import Sequence
from itertools import pairwise, takewhile

from worker.text.lexicon import Kind, Token
from worker.text.phrase import has

_ENDS = frozenset({Kind.BREAK, Kind.EXCEPT, Kind.AND, Kind.OR, Kind.COMMA})
_PLACING = frozenset({
    Kind.PREPOSITION, Kind.ARTICLE, Kind.VERB, Kind.SEEN, Kind.SKELETON, Kind.HINT, Kind.QUALIFIER,
    Kind.NUMBER, Kind.BONE, Kind.LEVEL, Kind.SIDE, Kind.SEGMENT,
})  # fmt: skip
_EXAMINATION_WORDS = """
study exam examination radiograph radiographs film films image images view views time today
projection projections current present now here chest series x ray xray cxr frontal portable ap pa
plain single radiography visualized thorax imaging
"""
THIS_EXAMINATION = frozenset(_EXAMINATION_WORDS.split())
_COMPARING = ("as", "so", "such")
_PARTLY_WORDS = """
well clearly entirely fully completely optimally easily readily adequately reliably confidently
wholly sufficiently properly perfectly sharply ideally currently
"""
_PARTLY = frozenset(_PARTLY_WORDS.split())
_PAST_WORDS = """
prior previous previously earlier before initial initially outside last older preceding former
formerly yesterday then past recent old
"""
_PAST = frozenset(_PAST_WORDS.split())


_NOW = frozenset(("current", "present", "now", "today", "this", "new"))
_AT_THAT_TIME = ("on", "in", "at", "by")
_SINCE = ("compar", "since", "from")


def speaks_of_past(after: Sequence[Token]) -> bool:
    """Tell whether what is denied was looked for on an earlier examination only.

    "No fracture on the prior study" says nothing of this one; "no new fracture since the prior
    study" and "no fracture on prior or current films" do.
    """
    near = list(takewhile(lambda token: token.kind not in (Kind.BREAK, Kind.COMMA), after))
    words = {token.text for token in near}
    if "yesterday" in words and not words & _NOW:
        return True  # "no fracture was seen yesterday, today the 9th rib is fractured"
    tail = list(takewhile(lambda token: token.kind is not Kind.BREAK, after))
    if any(token.text in _NOW for token in tail):
        return False
    passed = (Kind.PREPOSITION, Kind.ARTICLE)
    for at, token in enumerate(tail):
        if token.text in _AT_THAT_TIME:
            if at and tail[at - 1].text in ("as", "like"):
                return False  # "no fracture, as on the prior study"
            named = next((t for t in tail[at:] if t.kind not in passed), None)
            when = list(takewhile(lambda t: not t.text.startswith(_SINCE), tail[at:]))
            if any(is_year(t) for t in when):
                return True
            return named is not None and named.text.split()[0] in _PAST
    return False


def tells_of_past(before: Sequence[Token]) -> bool:
    """Tell whether "the prior study showed" or "on the previous film" leads to a denial."""
    passed = (Kind.PREPOSITION, Kind.ARTICLE, Kind.VERB, Kind.COMMA, Kind.SEEN)
    named = [token for token in before if token.kind not in passed]
    words = [word for token in named for word in token.text.split()]
    return (
        len(words) > 1
        and words[0] in _EARLIER
        and all(word in THIS_EXAMINATION - _NOW for word in words[1:])
        and (has(before, Kind.VERB) or before[0].text in _AT_THAT_TIME)
    )


_EARLIER = frozenset(("prior", "previous", "earlier", "preceding", "comparison", "outside"))


def is_year(token: Token) -> bool:
    """Tell whether a number is the year of "no fracture was seen in 2019"."""
    return len(token.text) == 4 and token.text.isdecimal() and token.text[:2] in ("19", "20")


def denies_sight(after: Sequence[Token]) -> bool | None:
    """Tell whether the words after "not" say that a fracture is not there.

    Returns
    -------
    bool | None
        True for "seen on this view"; False for "displaced", "as well seen" and "seen on the prior
        study", which presuppose the fracture; None for "clearly seen" and "seen in 2019".
    """
    passed = (Kind.VERB, Kind.QUALIFIER, Kind.NEUTRAL)
    before = list(takewhile(lambda token: token.kind in passed, after))
    if len(before) > 5 or any(t.text in _COMPARING or t.value == "displaced" for t in before):
        return False
    if len(before) == len(after):
        return bool(before) and before[-1].text == "definite"
    seen = after[len(before)]
    if seen.kind is not Kind.SEEN and seen.text not in ("suspected", "apparent"):
        return False
    tail = list(takewhile(lambda token: token.kind not in _ENDS, after[len(before) + 1 :]))
    if any(token.text.split()[0] in _PAST for token in tail):
        return False
    is_partly = any(token.text in _PARTLY for token in before)
    is_hearsay = seen.text in ("reported", "described")
    return True if _is_here(tail) and not is_partly and not is_hearsay else None


def _is_here(tail: Sequence[Token]) -> bool:
    """Tell whether "on this view" or a bone follows "not seen", not "in 2019" or "in full"."""
    if tail and tail[-1].kind is Kind.PREPOSITION:
        return False  # what the preposition had was a date
    if any(
        token.kind is Kind.SEGMENT and after.kind is Kind.NOUN for token, after in pairwise(tail)
    ):
        return False  # "on the lateral view"
    return all(
        token.text in THIS_EXAMINATION or (token.kind in _PLACING and token.value != "0")
        for token in tail
    )
