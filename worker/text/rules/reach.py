"""Tell how far a negation reaches: over a list, but not past what it is said of."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from worker.text.bones import CHEST
from worker.text.lexicon import Kind, Token
from worker.text.phrase import JOINTS, PREDICATES, STOPS, has, is_noun

_BEGINNING = frozenset({
    Kind.SIDE, Kind.NUMBER, Kind.LEVEL, Kind.BONE, Kind.ARTICLE, Kind.AGE, Kind.QUALIFIER,
    Kind.HINT, Kind.FRACTURE,
})  # fmt: skip


def reaches(tokens: Sequence[Token], negation: int, end: int) -> bool | None:
    """Tell whether the negation reaches over the words up to `end`; None when it is unclear."""
    # A comma or dash straight after the negation closes it: what comes next stands on its own.
    if negation + 1 < end and tokens[negation + 1].text in (",", "-"):
        return False if negation else None  # "pneumothorax: no, left 5th rib fracture: yes"
    if _ends_before(tokens, negation, end):
        return None
    if (property_verdict := denies_property(tokens, negation, end)) is not True:
        return property_verdict
    if (record_verdict := _passes_record(tokens, negation, end)) is not True:
        return record_verdict
    walk = _Walk(tokens, end)
    for at in range(negation + 1, end):
        if walk.stops(at):
            return False
        if not walk.is_governed and at > negation + 1 and _runs_on(tokens, at):
            return None
        walk.take(at)
    # "No displacement of the fracture" denies the displacement and presupposes the fracture.
    if walk.has_noun and walk.is_governed:
        is_topic = tokens[walk.governed_at].text in _TOPICS
        return None if is_topic and _is_unspecific(tokens, walk.governed_at, end) else False
    if walk.is_of_other:
        return None
    if end > negation + 1 and _runs_on(tokens, end):
        return None
    if walk.joint is not None:
        return _carries_on(tokens, negation, walk.joint, end)
    joints = [n for n in range(negation + 1, end) if tokens[n].kind in JOINTS]
    is_over = len(joints) == 1 and tokens[joints[0] - 1].text in _ENDS
    return None if is_over and tokens[joints[0]].kind is Kind.COMMA else True


def _ends_before(tokens: Sequence[Token], negation: int, end: int) -> bool:
    """Tell the "not" of "rib fracture not seen, clavicle fracture present", said of the first."""
    if tokens[negation].value != "not" or not has(tokens[:negation], Kind.FRACTURE):
        return False
    seen = next((n for n in range(negation + 1, end) if tokens[n].kind is Kind.SEEN), end)
    is_joined = seen + 1 < end and tokens[seen + 1].kind in (Kind.COMMA, Kind.AND)
    return is_joined and has(tokens[end + 1 : end + 3], Kind.SEEN, Kind.NEUTRAL, *_ADJECTIVES)


_ADJECTIVES = (Kind.VERB, Kind.AGE, Kind.QUALIFIER, Kind.COLON, Kind.COMMA)


_ENDS = ("findings", "finding", "prior")
"""Words that stand alone before a comma: "no new findings, rib fractures"."""


_EVERY = ("every", "each", "all")
_MADE_OUT = frozenset(
    (
        "detectable",
        "identifiable",
        "appreciable",
        "demonstrable",
        "radiographic",
        "radiographically",
    )
)
_NOUN_PHRASE = frozenset({
    Kind.SIDE, Kind.NUMBER, Kind.LEVEL, Kind.BONE, Kind.ARTICLE, Kind.AGE, Kind.QUALIFIER,
    Kind.HINT, Kind.SEGMENT, Kind.COMMA, Kind.AND, Kind.PREPOSITION, Kind.EXTRA, Kind.HEDGE,
})  # fmt: skip


def denies_property(tokens: Sequence[Token], negation: int, end: int) -> bool | None:
    """Tell what is denied of fractures that are there: "none of the fractures is displaced".

    Returns
    -------
    bool | None
        True where the fracture itself may be denied, False where a form or an age of it is, and
        None where either may be meant: "no fracture is displaced".
    """
    between = tokens[negation + 1 : end]
    if tokens[end].value != "noun" or any(t.kind not in _NOUN_PHRASE for t in between[1:]):
        return True
    is_pair = tokens[negation].text == "neither"
    is_part = tokens[negation].text == "none of" or (between and between[0].text in ("one", "any"))
    is_of_those = is_part and any(t.kind is Kind.ARTICLE and t.value == "definite" for t in between)
    is_part = is_pair or is_of_those or (bool(between) and between[0].text in _EVERY)
    if _has_property(tokens, end):
        return False if is_part else None
    return None if is_part and not is_pair else True


def _has_property(tokens: Sequence[Token], fracture: int) -> bool:
    """Tell whether a predicate names a form or an age of a fracture, and not that it is seen."""
    verb = fracture + 1
    while verb < len(tokens) and tokens[verb].kind in _NOUN_PHRASE - {Kind.COMMA, Kind.AND}:
        verb += 1
    at = verb
    while at < len(tokens) and tokens[at].kind is Kind.VERB:
        at += 1
    form = list(takewhile(lambda t: t.kind in (Kind.QUALIFIER, Kind.AGE), tokens[at:]))
    named = [t for t in form if t.value != "definite" and t.text not in _MADE_OUT]
    is_seen = at + len(form) < len(tokens) and tokens[at + len(form)].kind is Kind.SEEN
    return at > verb and bool(named) and not is_seen


_RECORDS = frozenset(
    ("prior", "priors", "previous", "comparison", "comparisons", "history", "trauma")
)


def _passes_record(tokens: Sequence[Token], negation: int, end: int) -> bool | None:
    """Tell whether it is not a film for comparison or a history that is denied.

    "No prior for comparison, multiple rib fractures" goes on with what is there (False); whether
    "no history of trauma or fracture" does is unclear (None).
    """
    joint = next((n for n in range(negation + 1, end) if tokens[n].kind in JOINTS), end)
    own = tokens[negation + 1 : joint]
    if joint == end:
        return None if any(t.text.endswith("history of") for t in own) else True
    named = [
        n
        for n, t in enumerate(own)
        # "No prior, old or recent fracture": an adjective stands last, a noun need not.
        if (t.kind is Kind.NEUTRAL or n + 1 < len(own)) and _RECORDS & set(t.text.split())
    ]
    if not named or any(t.kind in (Kind.BONE, Kind.LEVEL, Kind.SKELETON) for t in own):
        return True
    listed = tokens[joint : end + 3]
    return None if any(t.kind in (Kind.OR, Kind.AND) for t in listed) else False


_TOPICS = ("for", "on", "about", "regarding the", "concerning", "to")


def _is_unspecific(tokens: Sequence[Token], low: int, end: int) -> bool:
    """Tell whether fractures as such are spoken of: "no information on fractures"."""
    named = (Kind.SIDE, Kind.NUMBER, Kind.LEVEL, Kind.AGE)
    own = (*tokens[low:end], *tokens[end + 1 : end + 4])
    return not any(t.kind in named or t.value == "definite" for t in own)


@dataclass(slots=True)
class _Walk:
    """What has been passed on the way from a negation to a fracture."""

    tokens: Sequence[Token]
    end: int
    has_noun: bool = False  # something is denied already
    is_governed: bool = False  # and what follows says of what: "no displacement of"
    governed_at: int = 0  # and by which word
    has_place: bool = False  # and that is named
    is_of_other: bool = False  # "no pneumothorax to suggest a fracture" denies the first alone
    joint: int | None = None  # where the list goes on to a next noun

    def stops(self, at: int) -> bool:
        """Tell whether a verb or a colon ends what the negation is said of."""
        token = self.tokens[at]
        before = self.tokens[max(0, at - 2) : at]
        is_there = token.text == "there" and not any(t.text == "nor" for t in before)
        if token.kind is Kind.COLON or (token.kind is Kind.VERB and is_there):
            return True
        is_answer = token.text == "positive" and before[-1].kind in JOINTS
        is_turn = token.text == "positive for" and before[-1].kind is not Kind.NEGATION
        if is_turn or is_answer:
            return True  # "negative for pneumothorax, positive for fracture"
        is_predicate = token.kind in PREDICATES and self.has_noun
        return is_predicate and not _leads_to_link(self.tokens, at, self.end)

    def take(self, at: int) -> None:
        """Go past the token at `at`."""
        tokens, kind = self.tokens, self.tokens[at].kind
        if kind in (Kind.LINK, Kind.HEDGE):
            self.is_of_other = self.has_noun and self._is_of_chest(at)
            self.has_noun = self.is_governed = False
        elif kind is Kind.CARRIER:
            self.has_noun = self.has_noun and self.is_governed
        elif self.has_noun and _governs_rest(tokens, at):
            self.is_governed, self.governed_at = True, at
        elif is_noun(tokens[at]) or _is_healing_itself(tokens, at):
            self.has_noun = True
            self.has_place |= self.is_governed
        elif kind in (Kind.BONE, Kind.SKELETON):
            self.has_place |= self.is_governed and _is_bare_after_joint(tokens, at, self.end)
        elif kind in JOINTS and self.has_noun and (not self.is_governed or self.has_place):
            self.has_noun = self.is_governed = self.has_place = False
            self.joint = at

    def _is_of_chest(self, at: int) -> bool:
        passed = (*PREDICATES, Kind.ARTICLE)
        while at and self.tokens[at - 1].kind in passed:
            at -= 1
        return self.tokens[at - 1].text in CHEST


def _governs_rest(tokens: Sequence[Token], at: int) -> bool:
    is_about = tokens[at].text in ("about", "concerning")
    is_led = tokens[at].kind in (Kind.PREPOSITION, Kind.REFERENCE) or is_about
    return is_led or _is_participle(tokens, at)


def _is_participle(tokens: Sequence[Token], at: int) -> bool:
    """Tell the "complicating" of "no pneumothorax complicating the fracture"."""
    is_open = tokens[at].kind is Kind.UNKNOWN or tokens[at].value == "plain"
    return is_open and tokens[at].text.endswith("ing") and is_noun(tokens[at - 1])


def _runs_on(tokens: Sequence[Token], at: int) -> bool:
    """Tell whether a note ends before `at`: "no pneumothorax left 5th rib fracture"."""
    before = tokens[at - 1]
    wholes = (Kind.NOUN, Kind.ABNORMALITY)
    if before.kind is Kind.UNKNOWN and tokens[at - 2].kind not in wholes:
        return tokens[at].kind is Kind.ARTICLE
    is_whole = before.kind in (*wholes, Kind.UNKNOWN) or before.text == "findings"
    return is_whole and tokens[at].kind in _BEGINNING


def _is_healing_itself(tokens: Sequence[Token], at: int) -> bool:
    """Tell the noun of "no healing of the fracture" from the adjective of "no healing fracture"."""
    after = tokens[at + 1]
    if tokens[at].text in ("nonunion", "malunion"):
        return after.kind is Kind.PREPOSITION
    is_object = after.kind in (Kind.PREPOSITION, Kind.COMMA, Kind.AND) or after.kind in PREDICATES
    return tokens[at].value == "healing" and (is_object or "callus" in tokens[at].text)


def _leads_to_link(tokens: Sequence[Token], at: int, end: int) -> bool:
    """Pass "no abnormality is seen to suggest fracture"."""
    return any(t.kind in (Kind.LINK, Kind.HEDGE) for t in tokens[at:end]) and not any(
        t.kind in JOINTS for t in tokens[at:end]
    )


def _is_bare_after_joint(tokens: Sequence[Token], at: int, end: int) -> bool:
    """Tell "... of the ribs or fracture" from "... of the rib or clavicle fracture"."""
    rest = tokens[at + 1 : end]
    return bool(rest) and rest[0].kind in JOINTS and not any(t.kind is Kind.BONE for t in rest)


def _carries_on(tokens: Sequence[Token], negation: int, joint: int, end: int) -> bool | None:
    """Tell whether a negated list that has begun before `joint` goes on to the fracture."""
    if tokens[joint].kind is Kind.OR or tokens[joint - 1].kind is Kind.OR:
        return True
    own = tokens[joint + 1 : end]
    if any(t.kind is Kind.OR for t in own):
        return True
    rest = list(_tokens_until(tokens[end + 1 :], (*PREDICATES, *STOPS)))
    if any(t.kind is Kind.OR for t in rest):
        return True
    is_specific = any(
        t.kind in (Kind.SIDE, Kind.NUMBER, Kind.ARTICLE, Kind.AGE, Kind.LEVEL)
        for t in (*own, *rest)
    )
    if is_specific:
        return False
    has_predicate = len(rest) < len(tokens) - end - 1
    is_over = not _is_list(tokens, negation, joint)
    return None if has_predicate or is_over or tokens[joint].kind is Kind.AND else True


def _is_list(tokens: Sequence[Token], negation: int, joint: int) -> bool:
    """Tell a list of three by commas from "no pneumonia, rib fractures", "no A or B, fractures".

    Behind these a note may go on with what is there.
    """
    earlier = [t.kind for t in tokens[negation + 1 : joint] if t.kind in JOINTS]
    is_twice = tokens[joint - 1].kind is Kind.COMMA  # "no pneumonia -- rib fractures"
    return len(earlier) > is_twice and Kind.OR not in earlier


def _tokens_until(tokens: Sequence[Token], kinds: tuple[Kind, ...]) -> Sequence[Token]:
    end = next((at for at, token in enumerate(tokens) if token.kind in kinds), len(tokens))
    return tokens[:end]
