"""Sentences that are not read: foreign, garbled, unfilled, without end, or not findings."""

from collections.abc import Sequence
from itertools import pairwise

from worker.text.lexicon import Kind, Lexicon, Token
from worker.text.phrase import NAMED, Phrase, has
from worker.text.rules.rule import Hit, RuleVerdict, TextRule
from worker.text.sentences import LONGEST_SENTENCE, has_foreign_letters

_WORDLESS = (Kind.COMMA, Kind.COLON, Kind.BREAK, Kind.NUMBER)
_COPULAS = ("is", "are", "was")


def names_fracture(tokens: Sequence[Token]) -> bool:
    """Tell whether the word fracture, or one that means it, is among the tokens."""
    return has(tokens, Kind.FRACTURE)


def _find_overlength(phrase: Phrase) -> Hit | None:
    return Hit() if len(phrase.sentence.body) > LONGEST_SENTENCE else None


def _find_foreign_words(phrase: Phrase) -> Hit | None:
    is_opaque = has_foreign_letters(phrase.sentence.body)
    return Hit() if is_opaque or is_foreign(phrase.tokens, phrase.words) else None


def is_foreign(tokens: Sequence[Token], lexicon: Lexicon) -> bool:
    """Tell whether a sentence is in another language."""
    foreign = sum(t.kind is Kind.FOREIGN for t in tokens)
    is_own = any(t.text in lexicon.function for t in tokens if t.kind is not Kind.NEGATION)
    return foreign > 1 or (foreign == 1 and not is_own)


def _is_finding(phrase: Phrase) -> bool:
    return not phrase.sentence.is_request and not phrase.sentence.is_question


def _find_template(phrase: Phrase) -> Hit | None:
    is_on_bones = has(phrase.tokens, Kind.FRACTURE, *NAMED)
    is_unfilled = _is_finding(phrase) and phrase.sentence.has_placeholder
    is_empty = [t.kind for t in phrase.tokens] == [Kind.FRACTURE, Kind.COLON]
    is_empty &= phrase.sentence.is_last
    return Hit() if is_empty or (is_unfilled and is_on_bones) else None


def _find_garbled_words(phrase: Phrase) -> Hit | None:
    if not _is_finding(phrase) or not names_fracture(phrase.tokens):
        return None
    words = [t for t in phrase.tokens if t.kind not in _WORDLESS]
    unknown = phrase.places(lambda token: token.kind is Kind.UNKNOWN)
    # Three unknown words and two in five: a typing error or a rare term is not garbage.
    return Hit(unknown) if len(unknown) >= 3 and len(unknown) * 5 > len(words) * 2 else None


def _find_word_salad(phrase: Phrase) -> Hit | None:
    """Find words thrown together: no sentence has "the of", "of is", or stutters twice."""
    if not _is_finding(phrase) or not names_fracture(phrase.tokens):
        return None
    pairs = list(pairwise(t for t in phrase.tokens if t.kind is not Kind.BLANK))
    if sum(token.text == after.text and token.text.isalpha() for token, after in pairs) > 1:
        return Hit()
    for at, (token, after) in enumerate(pairs):
        if token.text in ("the", "a", "an") and (after.text == "of" or after.text in _COPULAS):
            return Hit((at, at + 1))
        if token.text == "of" and after.text in _COPULAS:
            return Hit((at, at + 1))
    return None


_EMPTY_WORDS = (Kind.ARTICLE, Kind.PREPOSITION, Kind.AND, Kind.OR, Kind.COMMA, Kind.COLON,
                Kind.VERB, Kind.NEUTRAL, Kind.BLANK)  # fmt: skip


def _find_mostly_blank(phrase: Phrase) -> Hit | None:
    """Find as many blanks as words that say something."""
    blanks = phrase.places(lambda token: token.kind is Kind.BLANK)
    words = [t for t in phrase.tokens if t.kind not in _EMPTY_WORDS]
    is_on_bones = has(phrase.tokens, Kind.FRACTURE, Kind.SKELETON, *NAMED)
    return Hit(blanks) if is_on_bones and blanks and len(blanks) >= len(words) else None


def _find_blank_evidence(phrase: Phrase) -> Hit | None:
    """Find the "XXXX evidence of fracture" that may have been "no evidence"."""
    tokens = phrase.tokens
    for at in phrase.places(lambda token: token.kind is Kind.BLANK):
        near = tokens[at + 1 : at + 4]
        is_open = has(near[:1], Kind.CARRIER) or any(t.text == "any" for t in near)
        if is_open and not has(tokens[:at], Kind.NEGATION):
            return Hit((at, at + 1))
    return None


def _find_glued_negation(phrase: Phrase) -> Hit | None:
    """Find a negation that has run into the word after it: "nofracture", "noacute"."""
    spelling = phrase.words.spelling
    glued = [at for at in range(phrase.at) if spelling.is_glued(phrase.tokens[at].text)]
    return Hit(glued) if glued else None


def _find_misspelt_no(phrase: Phrase) -> Hit | None:
    """Find the "mo" that may be the "no" of "mo acute fracture"."""
    opening = (Kind.AGE, Kind.QUALIFIER, Kind.BONE, Kind.CARRIER, Kind.SKELETON, Kind.PREPOSITION)
    first = phrase.tokens[0]
    is_near = first.kind is Kind.UNKNOWN and _resembles_no(first.text)
    is_led = phrase.at and all(t.kind in opening for t in phrase.tokens[1 : phrase.at])
    return Hit((0,)) if is_near and is_led else None


def _resembles_no(word: str) -> bool:
    if len(word) == 2:
        return word[0] == "n" or word[1] == "o"
    return len(word) == 3 and ("no" in word or (word[0], word[2]) == ("n", "o"))


def _find_known_fracture(phrase: Phrase) -> Hit | None:
    """Find a request that names a fracture as a fact and not as a question."""
    asking = (Kind.ASKING, Kind.HEDGE, Kind.UNSURE, Kind.QUERY, Kind.NEGATION)
    is_known = names_fracture(phrase.tokens) and not has(phrase.tokens, *asking)
    return Hit() if phrase.sentence.is_request and is_known else None


def _find_request(phrase: Phrase) -> Hit | None:
    return Hit() if phrase.sentence.is_request else None


def _find_question(phrase: Phrase) -> Hit | None:
    return Hit() if phrase.sentence.is_question else None


RULES = (
    TextRule(
        "too-long", "What runs on for more than 600 characters is not read.",
        RuleVerdict.OPEN, _find_overlength,
        "Ribs " + ", ".join(f"{n} {n + 1}" for n in range(100)), "The lungs are clear.",
    ),
    TextRule(
        "foreign", "A sentence in another language is not read.",
        RuleVerdict.OPEN, _find_foreign_words,
        "Pas de fracture visible.", "No fracture is visible.",
    ),
    TextRule(
        "template", "A template that has not been filled in is not read.",
        RuleVerdict.OPEN, _find_template,
        "Fracture of the {SIDE} rib.", "Fracture of the left rib.",
    ),
    TextRule(
        "mostly-blank", "A sentence with as many blanks as words is not read.",
        RuleVerdict.OPEN, _find_mostly_blank,
        "XXXX fracture of the XXXX.", "Stable XXXX fracture of T9.",
    ),
    TextRule(
        "blank-evidence", "Evidence after a blank may have been no evidence.",
        RuleVerdict.OPEN, _find_blank_evidence,
        "XXXX evidence of rib fracture.", "No XXXX evidence of rib fracture.",
    ),
    TextRule(
        "garbled", "A sentence with too many words that nobody knows is not read.",
        RuleVerdict.OPEN, _find_garbled_words,
        "Fracture blorp zindle qwex.", "Fracture of the left rib.",
    ),
    TextRule(
        "salad", "Words thrown together are not read.", RuleVerdict.OPEN, _find_word_salad,
        "Fracture the of is rib left.", "Fracture of the left rib.",
    ),
    TextRule(
        "known-history", "A fracture that the request knows of leaves the text open.",
        RuleVerdict.OPEN, _find_known_fracture,
        "History: left 5th rib fracture.", "History: evaluate for fracture.",
    ),
    TextRule(
        "request", "An indication, a prompt or a comparison is no finding.",
        RuleVerdict.ASIDE, _find_request,
        "Indication: rule out fracture.", "Impression: rib fracture.",
    ),
    TextRule(
        "question", "A question asks, and the text is open until it is answered.",
        RuleVerdict.ASIDE, _find_question,
        "Is there a rib fracture?", "There is a rib fracture.",
    ),
)  # fmt: skip
MENTIONS = (
    TextRule(
        "glued-negation", "A negation that has run into the next word leaves a fracture open.",
        RuleVerdict.OPEN, _find_glued_negation,
        "Noacute fracture of the left rib.", "No acute fracture of the left rib.",
    ),
    TextRule(
        "misspelt-no", "A first word that may be a misspelt no leaves a fracture open.",
        RuleVerdict.OPEN, _find_misspelt_no,
        "Mo acute fracture.", "Acute fracture.",
    ),
)  # fmt: skip
