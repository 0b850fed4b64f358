"""Denials: "no fracture", "fracture is not seen", "fracture: none"."""

from collections.abc import Sequence

from worker.text.bones import is_specific
from worker.text.lexicon import Kind, Token
from worker.text.phrase import BLANK_FORM, JOINTS, NAMED, STOPS, Phrase, has, is_noun
from worker.text.rules.joined import is_known
from worker.text.rules.reach import reaches
from worker.text.rules.rule import Hit, RuleVerdict, TextRule
from worker.text.rules.unseen import THIS_EXAMINATION, denies_sight, speaks_of_past, tells_of_past


def _find_blanked_denial(phrase: Phrase) -> Hit | None:
    """Find a negation whose noun may have been blanked: "no XXXX left 5th rib fracture"."""
    if not is_specific(phrase):
        return None
    before = find_negation(phrase)
    if before is not None and phrase.tokens[before[0]].form == BLANK_FORM:
        return Hit((before[0],))
    later = phrase.places(lambda token: token.form == BLANK_FORM, phrase.at + 1)
    return Hit(later) if later and _is_denied_later(phrase) else None


def _find_double_denial(phrase: Phrase) -> Hit | None:
    """Find a denial before and one after the same fracture."""
    before, after = find_negation(phrase), _is_denied_later(phrase)
    return Hit((before[0],)) if before and before[1] and after else None


_FALSE = frozenset(
    ("nobody", "wrong", "incorrect", "untrue", "false", "hard", "difficult", "impossible",
     "premature", "unsafe", "mistaken", "misleading", "unreliable")
)  # fmt: skip

_HARDLY = frozenset(("hardly", "scarcely", "barely", "rarely", "seldom", "few"))
"""Deny nearly all: "hardly any rib is not fractured", "few of the ribs are not fractured"."""
_BETWEEN_DENIALS = frozenset({
    Kind.VERB, Kind.ARTICLE, Kind.BONE, Kind.SKELETON, Kind.SIDE, Kind.NUMBER, Kind.LEVEL,
    Kind.NEUTRAL, Kind.PREPOSITION,
})  # fmt: skip


def _find_denied_denial(phrase: Phrase) -> Hit | None:
    """Find the "not" of "it is not true that there is no fracture", "not without fracture"."""
    before = find_negation(phrase)
    if not before or not before[1]:
        return None
    earlier = phrase.places(
        lambda t: t.kind is Kind.NEGATION or t.text.split()[0] in _HARDLY, 0, before[0]
    )
    between = phrase.tokens[earlier[-1] + 1 : before[0]] if earlier else ()
    is_own = phrase.tokens[before[0]].text != "nor"
    if earlier and is_own and all(t.kind in _BETWEEN_DENIALS for t in between):
        return Hit((earlier[-1], before[0]))
    about_else = (*JOINTS, *STOPS, *NAMED, Kind.COLON, Kind.NOUN, Kind.ABNORMALITY, Kind.DEVICE,
                  Kind.PROPERTY, Kind.NORMAL, Kind.SKELETON)  # fmt: skip
    if has(phrase.tokens[: before[0]], *about_else):
        return None
    denied = phrase.places(
        lambda t: t.value == "not" or t.kind is Kind.UNSURE or t.text in _FALSE, 0, before[0]
    )
    return Hit((denied[0], before[0])) if denied else None


def _find_suspected_unseen(phrase: Phrase) -> Hit | None:
    """Find a fracture that is suspected and not seen."""
    denied = _negating_words(phrase)
    hedges = phrase.places(lambda token: token.kind is Kind.HEDGE)
    if not denied or not hedges or min(hedges) > denied[0] or not _is_denied_later(phrase):
        return None
    return Hit((hedges[0], denied[0]))


def _find_unclear_denial(phrase: Phrase) -> Hit | None:
    """Find a negation that may or may not reach as far as the fracture."""
    before = find_negation(phrase)
    return Hit((before[0],)) if before and before[1] is None else None


_ABSENCE = ("absence of", "lack of", "any absence of", "freedom from")


def _find_doubted_absence(phrase: Phrase) -> Hit | None:
    """Find the "cannot be guaranteed" that is said of an absence."""
    before = find_negation(phrase)
    if before is None or phrase.tokens[before[0]].text not in _ABSENCE:
        return None
    end = phrase.until((*JOINTS, *STOPS), phrase.at)
    doubts = phrase.places(
        lambda t: t.value == "not" or t.kind is Kind.UNSURE or t.text in _FALSE, phrase.at + 1, end
    )
    return Hit((before[0], doubts[0])) if doubts else None


def _find_other_side(phrase: Phrase) -> Hit | None:
    """Find the "unlike the left", or "and two on the left", that may have what is denied here."""
    tokens = phrase.tokens
    if (some := _some_on_other_side(phrase)) and _find_denial_before(phrase):
        return Hit(some)
    for at in phrase.places(lambda t: t.text in _UNLIKE, 0, len(tokens)):
        end = phrase.skip((Kind.ARTICLE, Kind.PREPOSITION), at + 1)
        is_denied = _find_denial_before(phrase) or _find_denial_after(phrase)
        if end < len(tokens) and tokens[end].kind is Kind.SIDE and is_denied:
            return Hit((at, end))
    return None


def _some_on_other_side(phrase: Phrase) -> Sequence[int]:
    """Return where "and two on the left" is said behind "no rib fractures on the right"."""
    tokens = phrase.tokens
    for joint in phrase.places(lambda t: t.kind in (Kind.AND, Kind.COMMA), phrase.at + 1):
        some = phrase.skip((Kind.ARTICLE, Kind.QUALIFIER, Kind.AGE), joint + 1)
        some -= tokens[some - 1].text in _SOME
        if some >= len(tokens) or not (tokens[some].form or tokens[some].text in _SOME):
            continue
        side = phrase.skip((Kind.PREPOSITION, Kind.ARTICLE, Kind.BONE, Kind.NEUTRAL), some + 1)
        is_placed = has(tokens[some + 1 : side], Kind.PREPOSITION)
        is_count = tokens[some].form != "ordinal" and not _follows_number(tokens, joint)
        if has(tokens[side + 1 : side + 2], Kind.NOUN, Kind.DEVICE, Kind.UNKNOWN):
            continue  # "no right rib fracture, 2 left nodules"
        if side < len(tokens) and tokens[side].kind is Kind.SIDE and (is_placed or is_count):
            sides = {t.value for t in tokens[:joint] if t.kind is Kind.SIDE}
            if sides and tokens[side].value not in sides:
                return range(joint, side + 1)
    return ()


def _follows_number(tokens: Sequence[Token], joint: int) -> bool:
    return has(tokens[max(0, joint - 2) : joint], Kind.NUMBER)


_SOME = ("several", "multiple", "many", "numerous", "some", "few", "single", "one")
_UNLIKE = ("unlike", "in contrast to", "in contrast with", "as opposed to")


def _find_unclear_later(phrase: Phrase) -> Hit | None:
    return Hit(_negating_words(phrase)) if _is_denied_later(phrase) is None else None


def _find_probable_denial(phrase: Phrase) -> Hit | None:
    """Find the "probably no" of a denial that is not sure of itself."""
    is_denied = _find_denial_before(phrase) or _find_denial_after(phrase)
    if not is_denied:
        return None
    back = [n for n in range(phrase.at + 1) if phrase.tokens[n].kind is Kind.NEGATION]
    before = phrase.tokens[back[-1] - 1] if back and back[-1] > 0 else None
    is_hedged = before and (before.kind is Kind.HEDGE or before.text in ("may", "might"))
    return Hit((back[-1] - 1, back[-1])) if is_hedged else None


def _find_relative_clause(phrase: Phrase) -> Hit | None:
    """Find the "fracture that is not seen", which may be there."""
    tokens = phrase.tokens
    is_relative = phrase.at + 1 < len(tokens) and tokens[phrase.at + 1].text in ("that", "which")
    return Hit((phrase.at + 1,)) if is_relative and _is_denied_later(phrase) else None


def _find_presupposed(phrase: Phrase) -> Hit | None:
    """Find the "old", "healing" or numbered fracture that a view does not show."""
    dated = [t for t in phrase.own if t.kind is Kind.AGE and t.value in ("old", "healing")]
    several = any(t.text in ("multiple", "several", "numerous") for t in phrase.own)
    is_definite = any(t.value == "definite" and t.text == "the" for t in phrase.before(4))
    is_named = has(phrase.own, Kind.NUMBER, Kind.LEVEL) or bool(dated) or several or is_definite
    failed = phrase.places(lambda token: token.text == "fails to show", 0, phrase.at)
    if failed and phrase.tokens[failed[-1] + 1].value == "definite" and _find_denial_before(phrase):
        return Hit((failed[-1],))  # "radiographs failed to show the left 5th rib fracture"
    is_unseen = any(t.value == "not" and t.kind is Kind.NEGATION for t in phrase.after())
    is_answer = has(phrase.after(1), Kind.COLON)  # "left 5th rib fracture: not seen"
    if not is_named or not is_unseen or is_answer or not _is_denied_later(phrase):
        return None
    return Hit(_negating_words(phrase))


def _find_earlier_denial(phrase: Phrase) -> Hit | None:
    """Find the "on the prior study" of a denial."""
    negated = _find_denial_before(phrase) or _find_denial_after(phrase)
    if negated is None:
        return None
    end = min(phrase.until((*JOINTS, *STOPS), phrase.at), phrase.at + 5)
    near = phrase.tokens[max(0, min(negated.words) - 2) : end]
    is_then = any(t.text in _THEN for t in near)  # "initially no fracture was seen"
    is_then |= tells_of_past(phrase.tokens[: min(negated.words)])
    return negated if is_then or speaks_of_past(phrase.tokens[phrase.at + 1 :]) else None


_THEN = ("initially", "originally", "previously", "formerly")


def _find_denial_before(phrase: Phrase) -> Hit | None:
    before = find_negation(phrase)
    return Hit((before[0],)) if before and before[1] else None


def _find_absent_before(phrase: Phrase) -> Hit | None:
    """Find the "absent" of "absent rib fracture"."""
    kinds = (Kind.AGE, Kind.QUALIFIER, Kind.SIDE, Kind.NUMBER, Kind.BONE, Kind.SEGMENT, Kind.HINT)
    low = phrase.skip_back(kinds, phrase.at)
    is_field = low == 2 and phrase.tokens[1].kind is Kind.COLON  # "absent: clavicle fracture"
    is_absent = (low == 1 or is_field) and phrase.tokens[0].text == "absent"
    return Hit((0,)) if is_absent else None


def _find_denial_after(phrase: Phrase) -> Hit | None:
    return Hit(_negating_words(phrase)) if _is_denied_later(phrase) else None


def _negating_words(phrase: Phrase) -> list[int]:
    kinds = (Kind.NEGATION, Kind.ABSENT)
    return phrase.places(lambda token: token.kind in kinds, phrase.at + 1)


def is_clearly_denied(phrase: Phrase) -> bool:
    """Tell whether what the phrase is about is clearly denied, once."""
    before, after = find_negation(phrase), _is_denied_later(phrase)
    if after is None or (before and before[1] is None):
        return False
    # Exactly one of the two: two denials make a statement, or nonsense.
    return bool(before) != after


def find_negation(phrase: Phrase) -> tuple[int, bool | None] | None:
    """Return the negation before the fracture and whether it reaches it, or None without one."""
    for at in _last_negation(phrase.tokens, phrase.at):
        verdict = reaches(phrase.tokens, at, phrase.at)
        if verdict is not False:
            return at, verdict
    return None


def _last_negation(tokens: Sequence[Token], end: int) -> list[int]:
    """Return the index of the negation before `end` that counts, in a list of none or one."""
    for at in range(end - 1, -1, -1):
        if tokens[at].kind in STOPS:
            break
        if tokens[at].kind is Kind.NEGATION and not _is_of_adjective(tokens, at):
            return [at]
    return []


def _is_of_adjective(tokens: Sequence[Token], at: int) -> bool:
    """Tell the "not" of "not displaced" and "previously not apparent" from that of "not seen"."""
    if tokens[at].value != "not" or at + 1 >= len(tokens):
        return False
    if at and tokens[at - 1].text in ("previously", "formerly", "hitherto", "initially"):
        return True
    after = tokens[at + 1]
    if after.text.startswith("positive"):
        return False  # "not positive for fracture"
    return after.kind in (Kind.QUALIFIER, Kind.AGE, Kind.NEUTRAL) and (
        after.kind is not Kind.QUALIFIER or after.value != "definite"
    )


def _is_denied_later(phrase: Phrase) -> bool | None:
    """Read "is not seen", "none" and "absent" after the fracture."""
    tokens = phrase.tokens
    # own_noun: something else than the fracture may be what is denied. is_apart: it stands behind a
    # joint, so the denial is its own.
    own_noun = is_apart = False
    for at in range(phrase.at + 1, phrase.high):
        token = tokens[at]
        if token.kind in STOPS or (token.kind in (Kind.ABSENT, Kind.NEGATION) and is_apart):
            return False
        if token.kind in JOINTS:
            is_apart, own_noun = False, own_noun and token.kind is not Kind.COMMA
        elif (is_noun(token) or token.kind is Kind.AGE) and token.kind is not Kind.FRACTURE:
            own_noun = True
            is_apart = is_specific(phrase) and any(
                t.kind in JOINTS for t in tokens[phrase.at + 1 : at]
            )
        if token.kind is Kind.ABSENT and _is_attribute(tokens, at):
            return False  # "with absent callus"
        if token.kind is Kind.ABSENT or (token.text == "no" and at == len(tokens) - 1):
            is_mixed = any(t.text == "yes" for t in tokens[phrase.at + 1 : at])
            return None if own_noun or is_mixed else _is_plain_absence(phrase, at)
        if token.kind is Kind.NEGATION and token.value == "not" and not is_known(phrase):
            is_unseen = denies_sight(tokens[at + 1 : phrase.high])
            if is_unseen is not False:
                return None if own_noun else is_unseen
        if token.kind is Kind.NEGATION and token.value == "no":
            return _is_ellipsis(tokens, at) or _goes_on_intact(tokens, at)
    return False


def _is_plain_absence(phrase: Phrase, at: int) -> bool | None:
    """Tell "fracture: none" from "none displaced", "has been excluded" from "to be excluded"."""
    tokens = phrase.tokens
    rest = tokens[at + 1 : phrase.high]
    where = (Kind.PREPOSITION, Kind.ARTICLE, Kind.SIDE)
    if tokens[at - 1].kind is Kind.COLON and rest and all(t.kind in where for t in rest):
        return True  # "fractures: none on the right"
    answers = (*where, Kind.COLON, Kind.COMMA, Kind.ABSENT)
    is_answer = tokens[at - 1].kind is Kind.COLON and has(rest[-1:], Kind.ABSENT)
    if is_answer and all(t.kind in answers for t in rest):
        return True  # "fracture (L): none, (R): none"
    if _goes_on_intact(tokens, at):
        return True
    if tokens[at].text == "none" and not all(
        t.kind in (Kind.SEEN, Kind.VERB, Kind.NEUTRAL, Kind.CARRIER, Kind.COMMA) for t in rest
    ):
        return False
    before = tokens[max(0, at - 3) : at]
    if any(t.kind is Kind.NEGATION or t.text in ("to", "if", "should", "must") for t in before):
        return None
    is_apart = any(t.kind is Kind.COMMA for t in tokens[phrase.at : at])
    return None if is_specific(phrase) and is_apart else True


def _goes_on_intact(tokens: Sequence[Token], at: int) -> bool:
    """Read "fracture: none, right clavicle intact"."""
    rest = tokens[at + 2 :]
    kinds = (
        *NAMED, Kind.SIDE, Kind.ARTICLE, Kind.VERB, Kind.AND, Kind.NORMAL, Kind.SKELETON,
        Kind.COLON,
    )  # fmt: skip
    is_answer = tokens[at - 1].kind is Kind.COLON and has(tokens[at + 1 : at + 2], Kind.COMMA)
    return is_answer and has(rest[-1:], Kind.NORMAL) and all(t.kind in kinds for t in rest)


def _is_attribute(tokens: Sequence[Token], at: int) -> bool:
    after = tokens[at + 1] if at + 1 < len(tokens) else None
    if tokens[at].text == "negative" and after is not None and tokens[at - 1].kind in JOINTS:
        # "rib fx, neg ptx"
        return after.kind is Kind.NOUN and after.text.split()[0] not in THIS_EXAMINATION
    return tokens[at].text == "absent" and after is not None and after.kind in (Kind.NOUN, Kind.AGE)


def _is_ellipsis(tokens: Sequence[Token], at: int) -> bool:
    """Read "fracture: no evidence", "fractures - none seen"."""
    rest = tokens[at + 1 :]
    kinds = (Kind.CARRIER, Kind.SEEN, Kind.COMMA, Kind.VERB)
    return (
        bool(rest)
        and all(t.kind in kinds for t in rest)
        and tokens[at - 1].kind in (Kind.COLON, Kind.COMMA)
    )


RULES = (
    TextRule(
        "blank-after-no", "It is unclear what a negation with a blank after it denies.",
        RuleVerdict.OPEN, _find_blanked_denial,
        "No XXXX left 5th rib fracture.", "No XXXX rib fracture.",
    ),
    TextRule(
        "double-denial", "Two denials of one fracture leave it open.",
        RuleVerdict.OPEN, _find_double_denial,
        "No fracture is not seen.", "No fracture is seen.",
    ),
    TextRule(
        "denied-denial", "A denial that is itself denied or doubted leaves a fracture open.",
        RuleVerdict.OPEN, _find_denied_denial,
        "It is not true that there is no fracture.", "It is true that there is no fracture.",
    ),
    TextRule(
        "doubted-absence", "An absence that cannot be relied on is none.",
        RuleVerdict.OPEN, _find_doubted_absence,
        "Absence of fracture cannot be guaranteed.", "Absence of fracture is confirmed.",
    ),
    TextRule(
        "other-side", "A denial that sets one side against the other leaves the other open.",
        RuleVerdict.OPEN, _find_other_side,
        "The right clavicle is not fractured, unlike the left.",
        "The right clavicle is not fractured, unlike on the prior.",
    ),
    TextRule(
        "unclear-reach", "It is unclear whether a negation reaches as far as the fracture.",
        RuleVerdict.OPEN, _find_unclear_denial,
        "No pneumothorax and fracture.", "No pneumothorax or fracture.",
    ),
    TextRule(
        "unclear-denial", "It is unclear what a later denial is said of.",
        RuleVerdict.OPEN, _find_unclear_later,
        "Rib fracture is not reported.", "Fracture is not seen.",
    ),
    TextRule(
        "unseen-fracture", "A fracture that is not seen may be there.",
        RuleVerdict.OPEN, _find_relative_clause,
        "There may be a rib fracture that is not seen.", "A rib fracture is not seen.",
    ),
    TextRule(
        "suspected-unseen", "A fracture that is suspected and not seen is open.",
        RuleVerdict.OPEN, _find_suspected_unseen,
        "A rib fracture is suspected, but not seen.", "A rib fracture is not seen.",
    ),
    TextRule(
        "unseen-here", "A dated, numbered or definite fracture that is not seen may be there.",
        RuleVerdict.OPEN, _find_presupposed,
        "The old left 5th rib fracture is not seen on this view.", "A rib fracture is not seen.",
    ),
    TextRule(
        "probably-no", "A hedge before a negation leaves the fracture open.",
        RuleVerdict.OPEN, _find_probable_denial,
        "Probably no fracture.", "No fracture.",
    ),
    TextRule(
        "no-fracture-before", "A fracture denied on an earlier examination may be there now.",
        RuleVerdict.ASIDE, _find_earlier_denial,
        "No fracture on the prior study.", "No fracture on the prior or the current study.",
    ),
    TextRule(
        "no-fracture", "A negation denies what follows, over a list, as far as it reaches.",
        RuleVerdict.DENIED, _find_denial_before,
        "No pneumothorax or rib fracture.", "No pneumothorax with the left rib fracture.",
    ),
    TextRule(
        "absent-fracture", "A sentence that begins with absent denies what comes next.",
        RuleVerdict.DENIED, _find_absent_before,
        "Absent rib fracture.", "Left rib fracture with absent callus.",
    ),
    TextRule(
        "not-seen", "A denial after the fracture: not seen, none, absent, ruled out.",
        RuleVerdict.DENIED, _find_denial_after,
        "Rib fracture is not seen.", "Rib fracture is not displaced.",
    ),
)  # fmt: skip
