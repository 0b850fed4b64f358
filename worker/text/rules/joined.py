"""Whether words are joined to the fracture before them, or to something that came between."""

from collections.abc import Sequence

from worker.text.lexicon import Kind, Token
from worker.text.phrase import JOINTS, NOUNS, STOPS


def has_other_subject(between: Sequence[Token]) -> bool:
    """Tell whether a joint and a noun stand between: "fracture, pneumothorax not excluded"."""
    seen_joint = False
    for token in between:
        seen_joint |= token.kind in (*JOINTS, *STOPS)
        is_noun_phrase = token.kind in NOUNS or token.value == "noun"
        if seen_joint and is_noun_phrase and token.kind is not Kind.FRACTURE:
            return True
    return False
