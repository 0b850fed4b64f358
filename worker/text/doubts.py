"""Tell sentences that say nothing certain: foreign, garbled, cut off, limited."""

from collections.abc import Sequence
from itertools import pairwise

from worker.text.clauses import NAMED
from worker.text.places import CHEST
from worker.text.scope import Scope
from worker.text.words import TYPO_TARGETS, Kind, Token

BARE = frozenset({
    Kind.NUMBER, Kind.BONE, Kind.LEVEL, Kind.SIDE, Kind.SEGMENT, Kind.AND, Kind.COMMA,
    Kind.ARTICLE, Kind.PREPOSITION, Kind.NEUTRAL, Kind.HINT, Kind.COLON,
})  # fmt: skip
_ENGLISH_WORDS = (
    "the is are of and with there in seen at for was a an rib ribs left right has have by"
)
_SIGNS = ("irregularity", "lucency", "step off", "stepoff", "discontinuity", "disruption",
          "deformity", "defect")  # fmt: skip
_ENGLISH = frozenset(_ENGLISH_WORDS.split())


def is_bare(tokens: Sequence[Token]) -> bool:
    """Tell whether the tokens name bones and nothing else."""
    return names_site(tokens) and all(t.kind in BARE for t in tokens)


def is_label(tokens: Sequence[Token]) -> bool:
    """Tell whether the tokens name bones and nothing else, as "Bone: left 5th rib" does."""
    is_headed = len(tokens) > 1 and tokens[1].kind is Kind.COLON
    return is_bare(tokens[2:] if is_headed else tokens)


def shows_sign(tokens: Sequence[Token]) -> bool:
    """Tell whether something is seen in a bone that the next sentence may call a fracture."""
    is_negated = any(t.kind is Kind.NEGATION for t in tokens)
    return not is_negated and any(t.text in _SIGNS for t in tokens)


def hides_fracture(token: Token) -> bool:
    """Tell whether a word that is in no table has the fracture in it, as "fracturewith"."""
    return token.kind is Kind.UNKNOWN and "fractur" in token.text


def names_site(tokens: Sequence[Token]) -> bool:
    """Tell whether a rib number, a bone or a level is named."""
    return any(t.kind in NAMED for t in tokens)


def is_on_bones(tokens: Sequence[Token]) -> bool:
    """Tell whether a clause is about bones, or about nothing else."""
    bones = (*NAMED, Kind.SKELETON, Kind.ABNORMALITY)
    return any(t.kind in bones for t in tokens) or not any(t.kind is Kind.NOUN for t in tokens)


def is_limited(tokens: Sequence[Token]) -> bool:
    """Tell whether the view of the bones, or of everything, is said to be limited."""
    if not any(t.kind is Kind.LIMITED for t in tokens):
        return False
    on_bones = any(t.kind in (*NAMED, Kind.SKELETON, Kind.FRACTURE) for t in tokens)
    return on_bones or not any(t.text in CHEST for t in tokens)


def is_foreign(tokens: Sequence[Token]) -> bool:
    """Tell whether a sentence is in another language."""
    foreign = sum(t.kind is Kind.FOREIGN for t in tokens)
    english = any(t.text in _ENGLISH for t in tokens if t.kind is not Kind.NEGATION)
    return foreign > 1 or (foreign == 1 and not english)


def is_garbled(tokens: Sequence[Token]) -> bool:
    """Tell whether too many words of a sentence are no report English."""
    words = [t for t in tokens if t.kind not in (Kind.COMMA, Kind.COLON, Kind.BREAK, Kind.NUMBER)]
    unknown = sum(t.kind is Kind.UNKNOWN for t in words)
    return unknown >= 3 and unknown * 5 > len(words) * 2


def is_salad(tokens: Sequence[Token]) -> bool:
    """Tell words thrown together: no English sentence has "the of", "of is", or stutters twice."""
    copulas = ("is", "are", "was")
    if sum(one.text == two.text and one.text.isalpha() for one, two in pairwise(tokens)) > 1:
        return True
    for one, two in pairwise(tokens):
        if one.text in ("the", "a", "an") and (two.text == "of" or two.text in copulas):
            return True
        if one.text == "of" and two.text in copulas:
            return True
    return False


def is_known_before(tokens: Sequence[Token]) -> bool:
    """Tell whether a request names a fracture as a fact, not as a question."""
    asking = (Kind.ASKING, Kind.HEDGE, Kind.UNSURE, Kind.QUERY, Kind.NEGATION)
    return not any(t.kind in asking for t in tokens)


def dates_only(tokens: Sequence[Token]) -> bool:
    """Tell whether a sentence says of the fracture before only how old it is: "This is old"."""
    kinds = (Kind.ARTICLE, Kind.NEUTRAL, Kind.VERB, Kind.AGE, Kind.HEDGE, Kind.QUALIFIER)
    if tokens[0].text.startswith("callus"):  # "Callus is present"
        return all(t.kind in (Kind.AGE, Kind.VERB, Kind.SEEN, Kind.QUALIFIER) for t in tokens)
    begins = tokens[0].text in ("this", "it", "these", "they")
    return begins and all(t.kind in kinds for t in tokens)


def is_cut_off(body: str, tokens: Sequence[Token]) -> bool:
    """Tell whether a text stops in mid-sentence or in mid-word."""
    if not tokens:
        return False
    word = body.split()[-1].lower()
    is_whole = tokens[-1].text == word and word != "frac"
    if not is_whole and any(target.startswith(word) for target in TYPO_TARGETS):
        return True
    open_ended = (Kind.PREPOSITION, Kind.ARTICLE, Kind.AND, Kind.OR, Kind.NEGATION, Kind.VERB,
                  Kind.UNKNOWN, Kind.COMMA, Kind.HEDGE, Kind.SIDE, Kind.UNSURE)  # fmt: skip
    return tokens[-1].kind in open_ended and tokens[-1].text != "no"


def ends_open(tokens: Sequence[Token]) -> bool:
    """Tell whether the last word asks for another one, whatever full stop follows it."""
    return bool(tokens) and tokens[-1].kind in (Kind.ARTICLE, Kind.PREPOSITION, Kind.OR)


def points_back(scope: Scope) -> bool:
    """Tell whether the fracture is what the sentence before has shown: "this may be ..."."""
    words = (
        "this",
        "these",
        "it",
        "which",
        "findings",
        "finding",
        "appearance",
        "that",
        "appearances",
    )
    return any(t.text in words for t in scope.tokens[: scope.at])
