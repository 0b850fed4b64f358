"""Clauses without a fracture word that nevertheless leave open whether there is one."""

from collections.abc import Sequence

from worker.text.bones import CHEST
from worker.text.lexicon import Kind, Token
from worker.text.phrase import NAMED, Phrase, has
from worker.text.rules.rule import Hit, Rule, Verdict


def _limited(phrase: Phrase) -> Hit | None:
    """Find a view of the bones, or of everything, that is said to be limited."""
    limits = phrase.places(lambda token: token.kind is Kind.LIMITED)
    if not limits:
        return None
    on_bones = has(phrase.tokens, *NAMED, Kind.SKELETON, Kind.FRACTURE)
    is_elsewhere = any(t.text in CHEST for t in phrase.tokens)
    return Hit(limits) if on_bones or not is_elsewhere else None


def _unsure(phrase: Phrase) -> Hit | None:
    unsure = phrase.places(lambda token: token.kind is Kind.UNSURE)
    return Hit(unsure) if unsure and is_on_bones(phrase.tokens) else None


def is_on_bones(tokens: Sequence[Token]) -> bool:
    """Tell whether a clause is about bones, or about nothing else."""
    return has(tokens, *NAMED, Kind.SKELETON, Kind.ABNORMALITY) or not has(tokens, Kind.NOUN)


def _hidden(phrase: Phrase) -> Hit | None:
    """Find a word that is in no table and has the fracture in it, as "fracturewith"."""
    hidden = phrase.places(lambda token: token.kind is Kind.UNKNOWN and "fractur" in token.text)
    return Hit(hidden) if hidden else None


VIEWS = (
    Rule(
        "limited-view", "Where the view of the bones is limited, nothing is absent.",
        Verdict.OPEN, _limited,
        "Evaluation of the ribs is limited.", "Evaluation of the lung bases is limited.",
    ),
)  # fmt: skip
RULES = (
    Rule(
        "unsure-bones", "What is not sure of bones leaves them open.", Verdict.OPEN, _unsure,
        "The ribs cannot be assessed.", "A pneumothorax cannot be excluded.",
    ),
    Rule(
        "hidden-word", "A word that has a fracture in it and is in no table leaves it open.",
        Verdict.OPEN, _hidden,
        "Fracturewith callus.", "Fracture with callus.",
    ),
)  # fmt: skip
