"""Whether words are joined to the fracture before them, or to something that came between."""

from collections.abc import Sequence
from itertools import takewhile

from worker.text.lexicon import Kind, Token
from worker.text.phrase import JOINTS, NOUNS, STOPS, Phrase


def has_other_subject(between: Sequence[Token]) -> bool:
    """Tell whether a joint and a noun stand between: "fracture, pneumothorax not excluded"."""
    seen_joint = False
    for token in between:
        seen_joint |= token.kind in (*JOINTS, *STOPS)
        is_noun_phrase = token.kind in NOUNS or token.value == "noun"
        if seen_joint and is_noun_phrase and token.kind is not Kind.FRACTURE:
            return True
    return False


_KNOWN = ("known", "previously seen", "previously noted", "previously described", "again")
_ELSEWHERE = ("ct", "mri")


def is_known(phrase: Phrase) -> bool:
    """Tell whether a fracture was found before or elsewhere: not to see it does not deny it."""
    doubts = (Kind.NEGATION, Kind.UNSURE, Kind.ABSENT)
    after = takewhile(lambda token: token.kind not in doubts, phrase.after())
    is_elsewhere = any(token.text in _ELSEWHERE for token in after)
    return is_elsewhere or any(token.text in _KNOWN for token in phrase.own)
