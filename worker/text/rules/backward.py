"""Words that speak of the sentence before: "this is old", "these involve the 5th rib"."""

from collections.abc import Sequence

from worker.text.lexicon import Kind, Token
from worker.text.phrase import BARE, NAMED, Phrase, has, is_bare

MIMICS = frozenset(
    ("artifact", "artefact", "artifacts", "fold", "folds", "vessel", "vessels", "groove", "overlap",
     "superimposition", "superimposed", "summation", "foramen", "variant", "cartilage",
     "marking", "markings", "shadow", "shadows", "bedding", "clothing", "artifactual",
     "artefactual", "artefacts", "overlapping")
)  # fmt: skip
"""What is taken for a fracture and is none."""
_SIGNS = ("irregularity", "irregular", "lucency", "step off", "stepoff", "discontinuity",
          "disruption", "deformity", "defect")  # fmt: skip
_POINTING = ("this", "these", "it", "which", "findings", "finding", "appearance", "that",
             "appearances")  # fmt: skip


def is_label(tokens: Sequence[Token]) -> bool:
    """Tell whether the tokens name bones and nothing else, as "Bone: left 5th rib" does."""
    is_headed = len(tokens) > 1 and tokens[1].kind is Kind.COLON
    return is_bare(tokens[2:] if is_headed else tokens)


def shows_sign(tokens: Sequence[Token]) -> bool:
    """Tell whether something is seen in a bone that the next sentence may call a fracture."""
    return not has(tokens, Kind.NEGATION) and any(t.text in _SIGNS for t in tokens)


def points_back(phrase: Phrase) -> bool:
    """Tell whether the fracture is what the sentence before has shown: "this may be ..."."""
    return any(t.text in _POINTING for t in phrase.before())


def dates_only(tokens: Sequence[Token]) -> bool:
    """Tell whether a sentence says of the fracture before only how old it is: "This is old"."""
    kinds = (Kind.ARTICLE, Kind.NEUTRAL, Kind.VERB, Kind.AGE, Kind.HEDGE, Kind.QUALIFIER)
    if tokens[0].text.startswith("callus"):  # "Callus is present"
        return all(t.kind in (Kind.AGE, Kind.VERB, Kind.SEEN, Kind.QUALIFIER) for t in tokens)
    if tokens[0].text == "there":  # "There is now surrounding callus"
        is_callus = any(t.value == "healing" for t in tokens)
        return is_callus and all(t.kind in kinds or t.text == "surrounding" for t in tokens)
    begins = tokens[0].text in ("this", "it", "these", "they", "which", "both", "all")
    is_bare = has(tokens, Kind.AGE) and tokens[0].kind in (Kind.AGE, Kind.HEDGE)  # "Likely old"
    return (begins or is_bare) and all(
        t.kind in kinds or (at == 0 and t.text == "both") for at, t in enumerate(tokens)
    )


def dates_bones(tokens: Sequence[Token]) -> bool:
    """Tell whether a part says of bones only how old they are: "the 5th and 6th ribs are old"."""
    verb = next((n for n, token in enumerate(tokens) if token.kind is Kind.VERB), None)
    subject = (Kind.ARTICLE, Kind.NUMBER, Kind.LEVEL, Kind.AND, Kind.COMMA, Kind.BONE, Kind.SIDE)
    predicate = (Kind.VERB, Kind.AGE, Kind.QUALIFIER)
    return (
        verb is not None
        and sum(token.kind is Kind.AGE for token in tokens) == 1
        and all(token.kind in subject for token in tokens[:verb])
        and all(token.kind in predicate for token in tokens[verb:])
    )


_MAYBE = ("may ", "might ", "could ", "can ", "possib", "maybe", "perhaps", "potential", "question")


def explains_away(tokens: Sequence[Token]) -> bool | None:
    """Tell whether a sentence calls the fracture before an artifact: "this is an artifact".

    Returns
    -------
    bool | None
        True where it does, None where it only doubts: "this may be artifact", "this is
        questionable"; False where it speaks of something else.
    """
    begins = has(tokens[:1], Kind.BREAK) or tokens[0].text in ("however", ",")
    own = tokens[1 + (tokens[1:2] != [] and tokens[1].kind is Kind.COMMA) :] if begins else tokens
    others = (*NAMED, Kind.AGE, Kind.QUALIFIER, Kind.NEGATION, Kind.FRACTURE, Kind.DEVICE,
              Kind.SKELETON, Kind.NORMAL)  # fmt: skip
    if not own or own[0].text not in ("this", "it", "these", "that") or has(own, *others):
        return False
    is_mimic = any(t.text in MIMICS for t in own)
    if any(t.kind is Kind.NOUN and t.text not in MIMICS for t in own):
        return False
    hedges = [t for t in own if t.kind in (Kind.HEDGE, Kind.UNSURE)]
    if hedges and (not is_mimic or any(t.text.startswith(_MAYBE) for t in hedges)):
        return None
    return is_mimic


def names_more(tokens: Sequence[Token], *, is_numbered: bool) -> bool:
    """Tell whether a sentence without the word fracture goes on naming fractured bones."""
    if not has(tokens, *NAMED):
        return False
    if is_bare(tokens) and not is_numbered:
        return True
    begins = tokens[0].text in ("these", "this", "they", "it", "involving", "the", "affected")
    closed = BARE | {Kind.INVOLVE, Kind.VERB, Kind.QUALIFIER, Kind.SEEN}
    return begins and has(tokens, Kind.INVOLVE) and {t.kind for t in tokens} <= closed


_MORE = ("also", "another", "additional", "further", "similar", "too", "one", "ones")
_LIGHT = (*_MORE, "now")


def adds_one(tokens: Sequence[Token]) -> bool:
    """Tell whether a sentence adds numbered bones to those before: "a second one at the left 9th".

    Behind a fracture that is named, "also the 7th", "new left 6th" and "on the left, 7 and 8" do.
    """
    kinds = BARE | {Kind.INVOLVE, Kind.VERB, Kind.SEEN, Kind.QUALIFIER, Kind.AGE, Kind.EXTRA,
                    Kind.CARRIER, Kind.HEDGE}  # fmt: skip
    is_light = all(t.text in _LIGHT if t.kind is Kind.NEUTRAL else t.kind in kinds for t in tokens)
    if not is_light or not has(tokens, Kind.NUMBER, Kind.LEVEL):
        return False
    is_aged = has(tokens[:1], Kind.AGE) and has(tokens, Kind.SIDE)
    begins = [t.kind for t in tokens[:2]] == [Kind.SIDE, Kind.COLON] or (
        tokens[0].text == "on" and has(tokens[1:3], Kind.SIDE)
    )
    is_more = any(t.text in _MORE for t in tokens) or has(tokens[-1:], Kind.INVOLVE)
    return is_aged or begins or is_more


def is_anaphor(phrase: Phrase) -> bool:
    """Tell whether "the fracture" may be one that has been described already."""
    before = phrase.tokens[max(phrase.low, phrase.at - 4) : phrase.at]
    return any(t.value == "definite" and t.kind is Kind.ARTICLE for t in before)


def answers_yes(tokens: Sequence[Token]) -> bool:
    """Tell whether a sentence answers a question: "Yes", "Yes, the right 6th rib"."""
    begins = bool(tokens) and tokens[0].text == "yes"
    return begins and all(t.kind in BARE for t in tokens[1:])


def is_no(tokens: Sequence[Token]) -> bool:
    """Tell whether a sentence is no more than "No." or "None seen.", as an answer is."""
    begins = bool(tokens) and tokens[0].text in ("no", "none", "negative", "absent")
    return begins and all(t.kind in (Kind.SEEN, Kind.VERB) for t in tokens[1:])


def asks_to_exclude(tokens: Sequence[Token]) -> bool:
    """Tell whether a question asks if a fracture is ruled out."""
    return any(t.kind is Kind.ASKING and t.text.startswith(("exclu", "rule")) for t in tokens)


_PAINS = ("pain", "pains", "tenderness", "tender")


def asks_of_pain(phrase: Phrase) -> bool:
    """Tell whether a fracture is asked about where something hurts: "left rib pain, ?fracture"."""
    pains = phrase.places(lambda token: token.text in _PAINS, phrase.low, phrase.at)
    return bool(pains) and not has(phrase.tokens[pains[-1] : phrase.high], *NAMED, Kind.SIDE)


def takes_for_granted(tokens: Sequence[Token]) -> bool:
    """Tell whether a question is on a fracture that is there: "has the rib fracture healed?"."""
    for at, token in enumerate(tokens):
        if token.kind is Kind.FRACTURE and token.value == "noun":
            before = next((t for t in reversed(tokens[:at]) if t.kind not in _DESCRIBING), None)
            if before is not None and before.value == "definite":
                return True
    return False


_DESCRIBING = (*NAMED, Kind.SIDE, Kind.AGE, Kind.QUALIFIER, Kind.SEGMENT, Kind.HINT, Kind.AND,
               Kind.COMMA, Kind.FRACTURE)  # fmt: skip
