"""A window over the tokens of a sentence, and how a clause parts into windows, one a fracture."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from worker.text.lexicon import Kind, Lexicon, Token, english
from worker.text.sentences import Sentence

NOUNS = frozenset({Kind.NOUN, Kind.UNKNOWN, Kind.ABNORMALITY, Kind.DEVICE, Kind.FRACTURE,
                   Kind.PROPERTY, Kind.NORMAL, Kind.BREAK_SIGN})  # fmt: skip
JOINTS = frozenset({Kind.AND, Kind.OR, Kind.COMMA})
STOPS = frozenset({Kind.BREAK, Kind.EXCEPT})
PREDICATES = frozenset({Kind.VERB, Kind.SEEN, Kind.INVOLVE})
LISTING = (Kind.AND, Kind.COMMA, Kind.OR)
NAMED = (Kind.NUMBER, Kind.BONE, Kind.LEVEL)
BARE = frozenset({
    Kind.NUMBER, Kind.BONE, Kind.LEVEL, Kind.SIDE, Kind.SEGMENT, Kind.AND, Kind.COMMA,
    Kind.ARTICLE, Kind.PREPOSITION, Kind.NEUTRAL, Kind.HINT, Kind.COLON,
})  # fmt: skip

_EMPTY = Sentence("", "")

BLANK_FORM = "blank"
"""Form of a negation with a blank word between it and the fracture, or after it."""
Test = Callable[[Token], bool]


@dataclass(frozen=True, slots=True)
class Phrase:
    """A window over tokens: `at` is the word it is about, `low` to `high` what that may own."""

    tokens: Sequence[Token]
    at: int = 0
    low: int = 0
    high: int = 0
    knows_ribs: bool = False  # ribs have been named before: "the 5th" is a rib
    sentence: Sentence = _EMPTY
    lexicon: Lexicon | None = None

    @property
    def word(self) -> Token:
        """The token that the phrase is about."""
        return self.tokens[self.at]

    @property
    def own(self) -> Sequence[Token]:
        """The tokens that the word may own."""
        return self.tokens[self.low : self.high]

    @property
    def words(self) -> Lexicon:
        """The lexicon that the tokens come from."""
        return self.lexicon or english()

    def before(self, count: int | None = None) -> Sequence[Token]:
        """Return the tokens before the word, the last `count` of them, whoever owns them."""
        return self.tokens[max(0, self.at - count) if count else 0 : self.at]

    def after(self, count: int | None = None) -> Sequence[Token]:
        """Return the owned tokens after the word, the first `count` of them."""
        end = min(self.high, self.at + 1 + count) if count else self.high
        return self.tokens[self.at + 1 : end]

    def about(self, at: int) -> "Phrase":
        """Return the same window about another word."""
        return replace(self, at=at)

    def places(self, test: Test, low: int | None = None, high: int | None = None) -> list[int]:
        """Return where tokens pass the test, in the window unless `low` or `high` is given."""
        low = self.low if low is None else low
        high = self.high if high is None else high
        return [at for at in range(low, high) if test(self.tokens[at])]

    def skip(self, kinds: Iterable[Kind], at: int) -> int:
        """Return the first place from `at` on whose kind is none of `kinds`."""
        kinds = frozenset(kinds)
        while at < len(self.tokens) and self.tokens[at].kind in kinds:
            at += 1
        return at

    def skip_back(self, kinds: Iterable[Kind], at: int) -> int:
        """Return the lowest place so that all from there up to `at` are of these kinds."""
        kinds = frozenset(kinds)
        while at > 0 and self.tokens[at - 1].kind in kinds:
            at -= 1
        return at

    def until(self, kinds: Iterable[Kind], at: int) -> int:
        """Return the first place from `at` on whose kind is one of `kinds`, or the end."""
        kinds = frozenset(kinds)
        while at < len(self.tokens) and self.tokens[at].kind not in kinds:
            at += 1
        return at

    def has(self, *kinds: Kind) -> bool:
        """Tell whether the window has a token of one of these kinds."""
        return has(self.own, *kinds)


def has(tokens: Iterable[Token], *kinds: Kind) -> bool:
    """Tell whether one of the tokens is of one of these kinds."""
    return any(token.kind in kinds for token in tokens)


def whole_phrase(
    tokens: Sequence[Token], sentence: Sentence, lexicon: Lexicon | None = None
) -> Phrase:
    """Return the phrase that is all of a sentence or clause."""
    return Phrase(tokens, 0, 0, len(tokens), sentence=sentence, lexicon=lexicon)


def read_past_blanks(everything: Sequence[Token], tokens: Sequence[Token]) -> list[Token]:
    """Return `tokens`, read without blanks; a negation keeps that a blank came after it.

    Parameters
    ----------
    everything : sequence of Token
        Of the same sentence with its blanks.
    tokens : sequence of Token
        Of the sentence without them: "compression XXXX deformity" is one phrase.
    """
    blanked: list[bool] = []  # for each negation
    for at, token in enumerate(everything):
        if token.kind is Kind.NEGATION:
            rest = everything[at + 1 :]
            end = next((n for n, t in enumerate(rest) if t.kind is Kind.FRACTURE), len(rest))
            blanked.append(has(rest[:end], Kind.BLANK))
    negations = iter(blanked)
    return [
        replace(t, form=BLANK_FORM) if t.kind is Kind.NEGATION and next(negations, True) else t
        for t in tokens
    ]


def is_bare(tokens: Sequence[Token]) -> bool:
    """Tell whether the tokens name bones and nothing else."""
    return has(tokens, *NAMED) and all(t.kind in BARE for t in tokens)


def is_noun(token: Token) -> bool:
    """Tell whether a negation may be said of the token."""
    return token.kind in NOUNS or (token.kind is Kind.NEUTRAL and token.value != "")


_NOUN_PHRASE = frozenset({
    Kind.SIDE, Kind.NUMBER, Kind.BONE, Kind.LEVEL, Kind.HINT, Kind.SEGMENT, Kind.QUALIFIER,
    Kind.AGE, Kind.HEDGE, Kind.ARTICLE, Kind.EXTRA, Kind.AND, Kind.COMMA, Kind.OR, Kind.NEGATION,
})  # fmt: skip


_YES = ("yes", "present", "positive", "true", "seen")


def find_fractures(tokens: Sequence[Token]) -> list[int]:
    """Return where the fractures of a clause stand, each once.

    The deformity of "compression deformity consistent with fracture" is that fracture, and the
    compression of "vertebral compression fracture" is its form.
    """
    # Each word is first taken for a fracture of its own; a deformity that explains the next one is
    # dropped.
    found = [at for at, token in enumerate(tokens) if token.kind is Kind.FRACTURE]
    for at, after in list(pairwise(found)):
        if tokens[at + 1].kind is Kind.COLON:  # "fractures: no acute fracture"
            if tokens[at + 2].text not in _YES:  # "rib fracture: yes, clavicle fracture: no"
                found.remove(at)
            continue
        is_linked = any(t.kind is Kind.LINK for t in tokens[max(at, after - 4) : after])
        if tokens[at].value == "deformity" and (is_linked or after == at + 1):
            found.remove(at)
    return found


def share_tokens(tokens: Sequence[Token], found: list[int]) -> list[tuple[int, int]]:
    """Share the tokens of a clause out between its fractures."""
    starts = [0]
    for before, at in pairwise(found):
        starts.append(_fracture_start(tokens, before, at))
    return list(zip(starts, [*starts[1:], len(tokens)], strict=True))


def _fracture_start(tokens: Sequence[Token], before: int, at: int) -> int:
    """Return where the noun phrase of the fracture at `at` begins."""
    start = at
    # "5th rib fracture left, 6th rib fracture right": the bone stands before, its side behind
    is_compound = has(tokens[at - 1 : at], Kind.BONE) and has(tokens[at + 1 : at + 2], Kind.SIDE)
    if _looks_ahead(tokens, at) and not is_compound:
        while start - 1 > before and not _closes_sites(tokens, start - 1):
            start -= 1
        return start
    start = _phrase_start(tokens, before, at)
    if not any(t.kind in NAMED for t in tokens[start:at]):
        # A predicate may stand before its fracture: "the 5th rib is fractured" owns what is before
        # the verb.
        verb = start
        while verb - 1 > before and tokens[verb - 1].kind is Kind.VERB:
            verb -= 1
        start = _phrase_start(tokens, before, verb) if verb < start else start
        # "and the 6th rib on the right is fractured"
        if has(tokens[start:verb], Kind.SIDE) and tokens[start - 1].text in ("on", "in"):
            start = _phrase_start(tokens, before, start - 1) if start - 1 > before else start
    if tokens[start].kind is Kind.NEGATION:
        return start
    behind = [t.kind for t in tokens[before + 1 : before + 3]]
    if has(tokens[before - 1 : before], Kind.BONE) and behind in _SIDE_BEHIND:
        start = max(start, before + 3)  # "rib fracture left, 3rd rib fracture right"
    if behind[:1] == [Kind.VERB]:
        said = before + 2
        while said < at and tokens[said].kind is Kind.AGE:
            said += 1
        if said > before + 2 and tokens[said].kind in LISTING:
            start = max(start, said + 1)  # "the T12 fracture is old, the L1 fracture is new"
    # What stands between two fractures belongs to the first as long as it goes on listing its
    # numbers.
    listed = _after_numbers(tokens, before + 1, at)
    if listed > before + 1 and tokens[listed].kind in LISTING:
        return listed + 1  # "rib fractures 2-4 and left 7th rib fracture"
    comma = next((n for n in range(at, start, -1) if tokens[n].kind is Kind.COMMA), start)
    if comma > start and not any(t.kind in NAMED for t in tokens[comma:at]):
        return comma + 1
    if _looks_ahead(tokens, before):
        heads = [n for n in range(before + 1, at) if tokens[n].kind in (Kind.BONE, Kind.LEVEL)]
        if len(heads) > 1:
            start = max(start, _after_numbers(tokens, heads[-2] + 1, at))
    start = _after_late_side(tokens, start, at)
    while start < at and tokens[start].kind in LISTING:
        start += 1
    # "..., does not exclude an occult fracture": the doubt is of what it stands before.
    is_doubt = tokens[start - 1].kind is Kind.UNSURE and tokens[start - 1].value == "before"
    return start - (is_doubt and start - 1 > before)


_SIDE_BEHIND = ([Kind.SIDE, Kind.COMMA], [Kind.SIDE, Kind.AND])


def _closes_sites(tokens: Sequence[Token], at: int) -> bool:
    if tokens[at].kind is Kind.SIDE:
        return any(t.text in ("on", "in", "to") for t in tokens[max(0, at - 2) : at])
    return tokens[at].kind in (*NAMED, *LISTING) or tokens[at].text == "with"


def _after_numbers(tokens: Sequence[Token], start: int, at: int) -> int:
    """Leave the "5 and 6" of "ribs 5 and 6 and sternal fracture" to the ribs."""
    end = start
    while end < at and tokens[end].kind in (Kind.NUMBER, Kind.LEVEL):
        is_listed = end + 2 < at and tokens[end + 1].kind in LISTING
        end += 2 if is_listed and tokens[end + 2].kind in (Kind.NUMBER, Kind.LEVEL) else 1
    return end


def _after_late_side(tokens: Sequence[Token], start: int, at: int) -> int:
    """Leave the "on the left" of "ribs on the left and right rib fracture" to what it follows."""
    end = start
    while end < at and tokens[end].kind in (Kind.ARTICLE, Kind.SIDE):
        end += 1
    is_late = start > 0 and tokens[start - 1].kind is Kind.PREPOSITION
    has_side = any(t.kind is Kind.SIDE for t in tokens[start:end])
    return end if is_late and has_side and end < at and tokens[end].kind in LISTING else start


def _phrase_start(tokens: Sequence[Token], before: int, at: int) -> int:
    start = at
    while start - 1 > before and tokens[start - 1].kind in _NOUN_PHRASE:
        start -= 1
        if tokens[start].kind is Kind.NEGATION:
            break
    return start


def _looks_ahead(tokens: Sequence[Token], at: int) -> bool:
    """Tell "fracture of the ..." from "... fracture"."""
    for token in tokens[at + 1 : at + 4]:
        if token.kind in (*NAMED, Kind.SIDE, Kind.COLON, Kind.INVOLVE):
            return True
        if token.kind is Kind.PREPOSITION:
            return token.text not in ("with", "from", "due to", "by", "on")
        if token.kind not in (Kind.VERB, Kind.SEEN, Kind.SEGMENT):
            return False
    return False
