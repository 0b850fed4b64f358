"""Texts that stop in the middle."""

from collections.abc import Sequence

from worker.text.bones import CHEST
from worker.text.lexicon import Kind, Lexicon, Token

_OPEN_ENDED = (Kind.PREPOSITION, Kind.ARTICLE, Kind.AND, Kind.OR, Kind.NEGATION, Kind.VERB,
               Kind.UNKNOWN, Kind.COMMA, Kind.HEDGE, Kind.SIDE, Kind.UNSURE)  # fmt: skip


def is_cut_off(body: str, tokens: Sequence[Token], lexicon: Lexicon) -> bool:
    """Tell whether a text stops in mid-sentence or in mid-word."""
    if not tokens:
        return False
    word = body.split()[-1].lower()
    is_answer = tokens[-1].kind is Kind.ABSENT  # the "n" of "fracture: n", read as none
    is_whole = is_answer or (tokens[-1].text == word and word != "frac")
    if not is_whole and any(target.startswith(word) for target in lexicon.spelt):
        return True
    return tokens[-1].kind in _OPEN_ENDED and tokens[-1].text != "no"


_BEGUN = frozenset({
    Kind.BONE, Kind.LEVEL, Kind.SKELETON, Kind.FRACTURE, Kind.NEGATION, Kind.HEDGE, Kind.AGE,
    Kind.QUALIFIER, Kind.HINT, Kind.SIDE,
})  # fmt: skip
_LEADING = ("however", "there", "but", "although")


def may_begin_bones(body: str, tokens: Sequence[Token], lexicon: Lexicon) -> bool:
    """Tell whether a last sentence that is cut off may have been about a bone: "nondisplaced f".

    A signature, a date and what is said of the lungs are not.
    """
    last = tokens[-1].text if tokens else ""
    is_elsewhere = any(
        t.kind is Kind.NOUN
        or t.text in CHEST
        or (len(t.text) > 3 and any(word.startswith(t.text) for word in CHEST))
        for t in tokens
    )
    is_word = len(last) > 4 and tokens[-1].kind is Kind.UNKNOWN
    is_word &= not any(target.startswith(last) for target in lexicon.spelt)
    if is_elsewhere or is_word or body[-1:].isdigit():
        return False
    begins = any(t.text in _LEADING for t in tokens[:1])
    return begins or any(t.kind in _BEGUN for t in tokens)


_SAYING = frozenset({
    Kind.FRACTURE, Kind.NOUN, Kind.DEVICE, Kind.PROPERTY, Kind.NORMAL, Kind.ABNORMALITY,
    Kind.ABSENT, Kind.UNSURE, Kind.ASKING, Kind.SKELETON, Kind.UNKNOWN, Kind.CARRIER,
    Kind.NEGATION,
})  # fmt: skip


def says_nothing_yet(tokens: Sequence[Token]) -> bool:
    """Tell whether a sentence stops before what it would have been about: "there is an old"."""
    if any(token.kind in _SAYING for token in tokens):
        return False
    begins = bool(tokens) and tokens[0].text in ("there", "the", "a", "an")
    return begins and (len(tokens) == 1 or tokens[-1].kind is not Kind.NEUTRAL)


def ends_open(tokens: Sequence[Token]) -> bool:
    """Tell whether the last word asks for another one, whatever full stop follows it."""
    open_ended = (Kind.ARTICLE, Kind.PREPOSITION, Kind.OR, Kind.EXCEPT)
    return bool(tokens) and (tokens[-1].kind in open_ended or tokens[-1].text in ("but", "however"))
