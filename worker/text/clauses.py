"""Cut a sentence into clauses, and give each the words that it leaves out: "right ones are"."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from worker.text.answers import read_answers
from worker.text.lexicon import Kind, Token
from worker.text.phrase import BARE, JOINTS, LISTING, NAMED, STOPS, has, is_bare

_PLACE = frozenset({
    Kind.PREPOSITION, Kind.ARTICLE, Kind.SIDE, Kind.NUMBER, Kind.LEVEL, Kind.BONE, Kind.SEGMENT,
    Kind.HINT, Kind.AND, Kind.OR,
})  # fmt: skip
_COUNTED = (Kind.NUMBER, Kind.LEVEL)
_WHERE = (*NAMED, Kind.SIDE)
_BEFORE_BONE = (
    Kind.SIDE, Kind.ARTICLE, Kind.AGE, Kind.QUALIFIER, Kind.SEGMENT, Kind.NUMBER, Kind.LEVEL,
)  # fmt: skip
_SPARING = Token(Kind.NEUTRAL, "", "sparing")


def split_clauses(
    tokens: list[Token], earlier: Sequence[Token] = (), *, is_whole: bool = True
) -> Iterator[list[Token]]:
    """Cut at "but", ";" and the like; what is excepted from a denial becomes an assertion.

    Parameters
    ----------
    tokens : list of Token
        Of one sentence.
    earlier : sequence of Token
        Of the sentence before it, which "right ones are present" may speak of.
    is_whole : bool
        Whether the sentence has an end: "the clavicle is" may go on otherwise.
    """
    start = 0
    answers, rest = read_answers(tokens)
    if answers:
        yield from answers
        yield from split_clauses(rest, earlier, is_whole=is_whole) if rest else ()
        return
    tokens = _with_lists(_with_sides_apart(tokens))
    tokens = _without_other_thing(_read_all_but(tokens, is_whole=is_whole))
    tokens = _with_spared(_without_contrasts(tokens))
    tokens = _with_left_out(_with_late_denials(tokens), earlier, is_whole)
    for at, token in enumerate([*tokens, None]):
        if token is None or token.kind is Kind.BREAK:
            yield from _split_exceptions(tokens[start:at])
            start = at + 1


def _with_sides_apart(tokens: list[Token]) -> list[Token]:
    """Read the "," of "right ribs: no fracture, left ribs: 5th fractured" as a semicolon."""
    out, start = list(tokens), 0
    for at, token in enumerate(tokens):
        if (
            token.kind is Kind.COMMA
            and _heads_side(tokens[start:at])
            and _heads_side(tokens[at + 1 :])
        ):
            out[at] = Token(Kind.BREAK, "", ";")
            start = at + 1
    return out


def _heads_side(own: Sequence[Token]) -> bool:
    """Tell "left ribs: 5th fractured" from "left: 5th"."""
    end = next((n for n, t in enumerate(own) if t.kind not in (Kind.SIDE, Kind.BONE)), len(own))
    is_headed = has(own[:end], Kind.SIDE) and has(own[end : end + 1], Kind.COLON)
    return is_headed and has(own, Kind.FRACTURE)


def _with_lists(tokens: list[Token]) -> list[Token]:
    """Read the ";" of "R 7, 8; L 8, 9 rib fractures" as a comma."""
    out, start = list(tokens), 0
    for at, token in enumerate(tokens):
        if token.kind is not Kind.BREAK:
            continue
        after = tokens[at + 1 :]
        own = [*tokens[start:at], *after]
        is_list = token.text == ";" and has(after, Kind.FRACTURE) and has(after, Kind.BONE)
        is_list &= not has(tokens[start:at], Kind.FRACTURE) and has(tokens[start:at], *_COUNTED)
        if is_list and all(t.kind in _LISTED for t in own):
            out[at] = Token(Kind.COMMA, "", token.text)
        else:
            start = at + 1
    return out


_LISTED = frozenset({*BARE, Kind.FRACTURE, Kind.AGE, Kind.QUALIFIER})


# What is set against the place that is meant


def _without_contrasts(tokens: list[Token]) -> list[Token]:
    """Take "not the left" out of "the right, not the left, clavicle is fractured"."""
    out = _read_not_only(tokens)
    if not has(out, Kind.FRACTURE):
        return out
    at = len(out) - 1
    while at >= 0:
        contrast = _find_contrast(out, at)
        if contrast:
            start, end = contrast
            spared = [t for t in out[at:end] if t.kind in _COUNTED and _is_in_range(t, out[:at])]
            is_aside = start and has(out[start - 1 : start], Kind.COMMA)
            if is_aside and not spared and has(out[end : end + 1], Kind.COMMA):
                start, end = start - 1, end + 1
            out = [*out[:start], *([_SPARING, *spared] if spared else ()), *out[end:]]
            at = start
        at -= 1
    return out


def _without_other_thing(tokens: list[Token]) -> list[Token]:
    """Take "not a vessel but" out of "the line in rib 5 is not a vessel but a fracture"."""
    but = next((n for n, t in enumerate(tokens) if t.text == "but"), 0)
    start = next((n for n in range(but) if tokens[n].text == "not"), 0)
    thing, rest = tokens[start + 1 : but], tokens[but + 1 :]
    is_thing = has(tokens[start - 1 : start], Kind.VERB) and all(
        t.kind in (Kind.ARTICLE, Kind.NOUN, Kind.NEUTRAL, Kind.UNKNOWN) for t in thing
    )
    light = (Kind.ARTICLE, Kind.AGE, Kind.QUALIFIER, Kind.HEDGE, Kind.FRACTURE)
    is_named = has(tokens[:start], *NAMED) and has(rest, Kind.FRACTURE)
    if start and thing and is_thing and is_named and all(t.kind in light for t in rest):
        return [*tokens[:start], *rest]
    return tokens


def _read_all_but(tokens: list[Token], *, is_whole: bool) -> list[Token]:
    """Read "all left ribs but the 1st are fractured" as sparing the 1st."""
    if tokens[:1] and tokens[0].text == "all but" and not has(tokens, Kind.FRACTURE):
        return [Token(Kind.UNSURE, "after", "all but"), *tokens[1:]]  # "all but the 5th are intact"
    but = next((n for n, t in enumerate(tokens) if t.text == "but"), None)
    before, rest = tokens[:but], tokens[(but or 0) + 1 :]
    if not but or not has(rest, *_COUNTED, Kind.BONE):
        return tokens
    is_contrast = rest[0].kind is Kind.PREPOSITION or any(t.text == "not" for t in before)
    if not is_whole and has(before, Kind.NEGATION) and has(before, Kind.FRACTURE) and is_bare(rest):
        return [*before, Token(Kind.UNSURE, "after", "but"), *rest]  # "no fracture, but the right"
    if is_bare(rest) and has(before, Kind.NORMAL, Kind.FRACTURE) and not is_contrast:
        return [*before, Token(Kind.EXCEPT, "", "except"), *rest]  # "all are intact but the 5th"
    begins = before[0].text in ("all", "every", "each")
    if not begins or has(before, Kind.VERB, Kind.FRACTURE, Kind.NORMAL):
        return tokens
    if has(rest, Kind.FRACTURE):
        return [*before, _SPARING, *rest]
    return [*before, Token(Kind.UNSURE, "after", "but"), *rest]  # "every rib but the 5th is intact"


def _read_not_only(tokens: list[Token]) -> list[Token]:
    """Read "not only the 5th but also the 6th" as "the 5th and the 6th"."""
    only = next((n for n, t in enumerate(tokens) if t.text == "not only"), None)
    if only is None:
        return tokens
    but = next((n for n in range(only, len(tokens)) if tokens[n].text == "but"), None)
    if but is None or not all(t.kind in _PLACE for t in tokens[only + 1 : but]):
        return tokens
    rest = tokens[but + 1 + (tokens[but + 1 : but + 2] != [] and tokens[but + 1].text == "also") :]
    joint = Token(Kind.AND, "", "and")
    return [*tokens[:only], *tokens[only + 1 : but], joint, *rest]


def _find_contrast(tokens: Sequence[Token], at: int) -> tuple[int, int] | None:
    """Return from where to where the tokens go that say what is not meant."""
    is_turned = tokens[at].text == "rather than" or (
        tokens[at].text == "instead" and at + 1 < len(tokens) and tokens[at + 1].text == "of"
    )
    is_no = tokens[at].text == "no" and _is_side_alone(tokens[:at])
    if tokens[at].text != "not" and not is_turned and not is_no:
        return None
    is_led = has(tokens[at + 1 : at + 2], Kind.INVOLVE)
    end = at + 1 + is_led
    passed = _BEFORE_BONE if is_no else ()
    while end < len(tokens) and tokens[end].kind in (*_PLACE, *passed):
        end += 1
    if has(tokens[:at], Kind.NEGATION, Kind.ABSENT):
        return None
    if is_led and has(tokens[at:end], *_WHERE) and has(tokens[:at], Kind.FRACTURE):
        return at, end  # "left rib fractures not involving the right"
    turn = end + (end < len(tokens) and tokens[end].kind is Kind.COMMA)
    is_turn = turn < len(tokens) - 1 and tokens[turn].text == "but"
    if is_turn and has(tokens[at:end], *_WHERE) and tokens[turn + 1].kind in _PLACE:
        return at, turn + 1  # "not the left but the right clavicle"
    # Only what has a counterpart before it is set against it: the rest, as the rib of "the 5th and
    # not the 6th rib", is said of both.
    known = {t.kind for t in tokens[:at]} & set(_WHERE)
    end = next((n + 1 for n in range(end - 1, at, -1) if tokens[n].kind in known), at)
    joins = at > 0 and tokens[at - 1].kind in (*JOINTS, Kind.BREAK)
    direct = tokens[at - 1 : at + 2 : 2] if at else ()  # "4th not 5th"
    is_turned |= len(direct) == 2 and direct[0].kind is direct[1].kind and has(direct, *_WHERE)
    after = tokens[end] if end < len(tokens) else None
    if end == at or not (joins or is_turned) or (after and after.kind is Kind.FRACTURE):
        return None
    if after and after.kind in (Kind.VERB, Kind.SEEN) and has(tokens[:at], Kind.FRACTURE):
        return None
    return at - (joins and tokens[at - 1].kind in (Kind.AND, Kind.BREAK)), end


def _is_side_alone(before: Sequence[Token]) -> bool:
    """Tell "left but no right rib fractures" from "effusion left but no right rib fractures"."""
    if not has(before[-1:], Kind.BREAK, Kind.AND):
        return False
    end = len(before) - 1 - has(before[-2:-1], Kind.COMMA)
    start = next((n for n in range(end) if before[n].kind is not Kind.VERB), end)
    own = before[start:end]  # without "there is"
    return has(own, Kind.SIDE) and all(t.kind in _BEFORE_BONE for t in own)


# Ribs and vertebrae that are spared


_SPARED = ("spared", "unaffected", "uninvolved")


def _with_spared(tokens: list[Token]) -> list[Token]:
    """Read "ribs 3 to 6; the 4th is spared" as "ribs 3 to 6 sparing the 4th"."""
    at = len(tokens) - 1
    while at > 0:
        start = _spared_start(tokens, at)
        if start is not None:
            counted = [t for t in tokens[start:at] if t.kind in _COUNTED]
            tokens = [*tokens[:start], _SPARING, *counted, *tokens[at + 1 :]]
            at = start
        at -= 1
    return tokens


def _spared_start(tokens: Sequence[Token], at: int) -> int | None:
    """Return where the joint before the bones stands that the word at `at` calls spared."""
    is_whole = at + 1 == len(tokens) or tokens[at + 1].kind in (*JOINTS, *STOPS)
    if not is_whole or not is_spared(tokens[at]):
        return None
    start = _subject_start(tokens, at)
    joint = start - 1
    own = tokens[start:at]
    counted = [t for t in own if t.kind in _COUNTED]
    if joint < 1 or not counted or not has(tokens[joint:start], *JOINTS, *STOPS, Kind.PREPOSITION):
        return None
    before = tokens[:joint]
    is_asserted = has(before, Kind.FRACTURE) and not has(before, Kind.NEGATION, Kind.ABSENT)
    is_known = all(_is_in_range(t, before) for t in counted)
    is_new = tokens[at].text in _SPARED and not {t.value for t in counted} & {
        t.value for t in before
    }
    return joint if is_asserted and (is_known or is_new) and _has_sides_of(own, before) else None


def list_spared(tokens: Sequence[Token]) -> frozenset[str]:
    """Return the ribs and levels of a sentence that says no more than "the 4th is spared"."""
    if not tokens or not is_spared(tokens[-1]) or _subject_start(tokens, len(tokens) - 1):
        return frozenset()
    return frozenset(n for t in tokens if t.kind in _COUNTED for n in t.value.split())


def is_spared(token: Token) -> bool:
    """Tell whether a word says of a bone that it is not broken."""
    return token.kind is Kind.NORMAL or token.text in _SPARED


def _subject_start(tokens: Sequence[Token], at: int) -> int:
    start = at
    while start and tokens[start - 1].kind in (Kind.VERB, Kind.QUALIFIER):
        start -= 1
    subject = (*_WHERE, Kind.ARTICLE, Kind.AND, Kind.OR)
    while start and tokens[start - 1].kind in subject:
        start -= 1
    while start < at and tokens[start].kind in (Kind.AND, Kind.OR):
        start += 1
    return start


def _has_sides_of(own: Sequence[Token], before: Sequence[Token]) -> bool:
    sides = {t.value for t in own if t.kind is Kind.SIDE}
    known = [t.value for t in before if t.kind is Kind.SIDE]
    return not sides or not known or sides == {known[-1]}


def _is_in_range(token: Token, before: Sequence[Token]) -> bool:
    ranges = [set(t.value.split()) for t in before if t.form == "range"]
    return any(set(token.value.split()) <= members for members in ranges)


# Fractures that a clause leaves out


_SOME = frozenset(
    ("several", "multiple", "many", "numerous", "some", "two", "three", "four", "five")
)
_ONES = ("ones", "one")
_THOSE = ("those", "that")
_CONFIRMING = ("positive", "positive for", "yes")
_LIGHT_WORDS = ("only", "now", "today", "also", "seen best", *_ONES, *_CONFIRMING)
_CLOSED = (
    Kind.FRACTURE, Kind.NEGATION, Kind.ABSENT, Kind.UNSURE, Kind.NORMAL, Kind.LIMITED, Kind.ASKING,
    Kind.EXCEPT, Kind.QUERY,
)  # fmt: skip
_OTHER_THINGS = (Kind.NOUN, Kind.ABNORMALITY, Kind.DEVICE, Kind.UNKNOWN, Kind.PROPERTY)
_EXAMINATIONS = frozenset(
    ("view", "views", "film", "films", "image", "images", "radiograph", "radiographs", "exam",
     "examination", "study")
)  # fmt: skip
_SAID_OF = frozenset({
    *_WHERE, Kind.SEGMENT, Kind.ARTICLE, Kind.PREPOSITION, Kind.VERB, Kind.SEEN, Kind.INVOLVE,
    Kind.HINT, Kind.COLON, Kind.COMMA, Kind.HEDGE, Kind.AND,
})  # fmt: skip


def _with_left_out(tokens: list[Token], earlier: Sequence[Token], is_whole: bool) -> list[Token]:
    """Give "right ones are", said behind "no left rib fractures", the fractures that it means."""
    out: list[Token] = []
    joints = [n for n, token in enumerate(tokens) if _parts(tokens, n, token)]
    for start, end in pairwise([-1, *joints, len(tokens)]):
        own = tokens[start + 1 : end]
        joint = tokens[start] if start >= 0 else None
        named = _name_again(own, [*earlier, *out], joint, is_whole)
        if named and out:
            out[-1] = Token(Kind.BREAK, "", out[-1].text)
        out += named or own
        out += tokens[end : end + 1]
    return out


def _parts(tokens: Sequence[Token], at: int, token: Token) -> bool:
    """Tell the joint of two statements from that of "the 5th, 6th and 7th are"."""
    after = tokens[at + 1 : at + 2]
    if token.text == "with":  # "no acute fracture with old ones"
        near = tokens[at + 1 : at + 4]
        return any(t.text in _ONES and (t.text == "ones" or has(near, Kind.AGE)) for t in near)
    if token.kind is Kind.AND:
        return not has(after, *NAMED)
    is_list = at > 0 and tokens[at - 1].kind in _COUNTED and has(after, *_COUNTED)
    return token.kind is Kind.BREAK or (token.kind is Kind.COMMA and not is_list)


def _name_again(
    own: list[Token], said: Sequence[Token], joint: Token | None, is_whole: bool
) -> list[Token] | None:
    """Return the words of a part with the fractures that it means, or None if it means none."""
    last = next((n for n in range(len(said) - 1, -1, -1) if said[n].kind is Kind.FRACTURE), None)
    others = (t for t in said[last or 0 :] if t.text not in _EXAMINATIONS)
    if last is None or not own or has(others, *_OTHER_THINGS):
        return None
    again = _fractures_of(said, own)
    is_denied = has(said, Kind.NEGATION, Kind.ABSENT)
    if not is_denied and joint and _denies_other_side(own, said):
        return [*own[:-1], *again, Token(Kind.ABSENT, "absent", "none")]
    if has(own, *_CLOSED):
        return None
    at = _find_anaphor(own)
    if at is not None and _stands_alone(own, at, joint, is_denied):
        kept = own[at : at + 1] if own[at].text in _SOME else []
        after = own[at + 1 :]
        is_twice = has(after[:1], Kind.NEUTRAL)  # "several ones"
        return [*own[:at], *kept, *again, *after[is_twice:]]
    if not is_denied:
        return None
    is_heading = has(said[last + 1 : last + 2], Kind.COLON)
    at = _find_predicate(own, joint if is_whole else None, is_heading=is_heading)
    if at is None and is_whole:
        at = _find_bare_verb(own)
    return None if at is None else [*own[:at], *again, *own[at:]]


def _fractures_of(said: Sequence[Token], own: Sequence[Token]) -> list[Token]:
    """Return the words for the fractures that were spoken of, with their bone if it is left out."""
    bones = {t.value: t for t in said if t.kind is Kind.BONE}
    is_open = len(bones) == 1 and not has(own, Kind.BONE, Kind.LEVEL)
    return [*(bones.values() if is_open else ()), Token(Kind.FRACTURE, "noun", "fractures")]


def _find_anaphor(own: Sequence[Token]) -> int | None:
    """Find the "ones" of "left ones", the "several" of "the left show several"."""
    leads_on = (Kind.PREPOSITION, Kind.VERB, Kind.SEEN, Kind.AGE, Kind.HEDGE, Kind.QUALIFIER)
    for at, token in enumerate(own):
        after = own[at + 1] if at + 1 < len(own) else None
        if token.text == "ones":
            return at
        if token.text == "that" and (after is None or after.kind is not Kind.PREPOSITION):
            continue  # "that is a foramen"
        if token.text in (*_SOME, "one", *_THOSE) and (
            after is None or after.kind in leads_on or after.text == "ones"
        ):
            return at
    return None


def _stands_alone(own: Sequence[Token], at: int, joint: Token | None, is_denied: bool) -> bool:
    """Tell a statement on other fractures from the end of a list: "right ribs and those left"."""
    others = [t for n, t in enumerate(own) if n != at]
    is_placed = has(others, *_WHERE)
    if not is_denied:
        is_start = joint is None or joint.kind is Kind.BREAK or has(own, Kind.VERB)
        is_meant = is_start and at == 0 and is_placed and own[at].text not in _SOME
        return is_meant and not _is_something_else(own)
    is_listed = joint is not None and (joint.kind is Kind.AND or own[at].text in _THOSE)
    if is_listed and not has(own, Kind.VERB, Kind.SEEN, Kind.INVOLVE):
        return False
    return is_placed or (own[at].text == "ones" and has(others, Kind.AGE, Kind.QUALIFIER))


def _is_something_else(own: Sequence[Token]) -> bool:
    """Tell whether "that on the right is a nipple" says what else it is."""
    return any(
        own[n].kind is Kind.VERB
        and after.value == "indefinite"
        and has(own[n + 2 :], *_OTHER_THINGS)
        for n, after in enumerate(own[1:])
    )


def _denies_other_side(own: Sequence[Token], said: Sequence[Token]) -> bool:
    """Tell the "right absent" of "left rib fractures present, right absent"."""
    sides = {t.value for t in own if t.kind is Kind.SIDE}
    known = {t.value for t in said if t.kind is Kind.SIDE}
    light = (Kind.SIDE, Kind.ARTICLE, Kind.COLON, Kind.VERB)
    is_denial = own[-1].kind is Kind.ABSENT or own[-1].text == "no"
    is_light = all(t.kind in light or t.text in _ONES for t in own[:-1])
    return is_denial and is_light and len(sides) == 1 and bool(known) and not sides & known


def _find_bare_verb(own: Sequence[Token]) -> int | None:
    """Find the verb of "the clavicle is", the place of "there is in the clavicle"."""
    if not has(own, Kind.BONE):
        return None
    verb = next((n for n, t in enumerate(own) if t.kind is Kind.VERB), len(own))
    after = next((n for n in range(verb, len(own)) if own[n].kind is not Kind.VERB), len(own))
    subject, rest = own[:verb], own[after:]
    is_subject = bool(subject) and all(t.kind in _PLACE for t in subject) and not rest
    is_there = own[0].text == "there" and has(rest[:1], Kind.PREPOSITION)
    if is_there and all(t.kind in _PLACE for t in rest):
        return after
    return verb if is_subject and verb < len(own) else None


def _find_predicate(own: Sequence[Token], joint: Token | None, *, is_heading: bool) -> int | None:
    """Return where the subject is left out of "left present", "are seen on the left"."""
    if [t.kind for t in own[:2]] == [Kind.SIDE, Kind.COLON]:  # "R: none; L: 4, 5"
        named = (*NAMED, Kind.SEGMENT) if is_heading else _COUNTED
        if has(own, *named) and all(t.kind in (*named, *LISTING) for t in own[2:]):
            return 0
    is_named = has(own, *NAMED) and has(own, Kind.SIDE) and all(t.kind in _PLACE for t in own)
    if is_heading and is_named and joint and joint.kind is Kind.BREAK:
        return 0  # "fractures: none on the right; clavicle on the left"
    is_place = own[0].kind is Kind.PREPOSITION and all(t.kind in _PLACE for t in own)
    if joint and joint.text == "but" and is_place and has(own, *_WHERE):
        return 0  # "but of the clavicle"
    is_light = all(t.kind in _SAID_OF or t.text in _LIGHT_WORDS for t in own)
    if not is_light or has(own, Kind.BONE) or not has(own, *_COUNTED, Kind.SIDE):
        return None
    seen = [n for n, t in enumerate(own) if t.kind is Kind.SEEN or t.text in _CONFIRMING]
    verbs = [n for n, t in enumerate(own) if t.kind is Kind.VERB]
    is_there = bool(verbs) and (own[-1].kind is Kind.VERB or own[0].text == "there")
    if not seen and not (is_there and joint):
        return None
    if own[0].text == "there":
        return next(n for n in range(len(own)) if own[n].kind is not Kind.VERB)
    return min([*seen, *verbs])


_DENYING = frozenset({Kind.ABSENT, Kind.NEGATION, Kind.SEEN, Kind.VERB, Kind.CARRIER})


def _with_late_denials(tokens: list[Token]) -> list[Token]:
    """Keep the "but none found" and "; not seen" of a fracture with it."""
    out = list(tokens)
    starts = [n for n, token in enumerate(tokens) if token.kind is Kind.BREAK]
    for start, end in pairwise([*starts, len(tokens)]):
        own = tokens[start + 1 : end]
        denies = own and (own[0].text == "none" or (own[0].value == "not" and len(own) > 1))
        if denies and {t.kind for t in own} <= _DENYING and has(tokens[:start], Kind.FRACTURE):
            out[start] = Token(Kind.COMMA, "", tokens[start].text)
    return out


_LEAVING_OUT = (
    "except", "except for", "excepting", "excluding", "save for", "other than", "apart from",
    "aside from", "with the exception of", "with exception of",
)  # fmt: skip


def _split_exceptions(clause: list[Token]) -> Iterator[list[Token]]:
    at = next((n for n in range(len(clause)) if _begins_exception(clause, n)), None)
    if at is None:
        yield clause
        return
    comma = next((n for n in range(at, len(clause)) if clause[n].kind is Kind.COMMA), None)
    verb = next((n for n in range(at, len(clause)) if clause[n].kind is Kind.VERB), 0)
    if (
        at
        and verb
        and is_bare(clause[:at])
        and is_bare(clause[at + 1 : verb])
        and (has(clause[verb:], Kind.FRACTURE) and not has(clause[verb:], Kind.NEGATION))
    ):  # "ribs 3 to 8 except the 5th are fractured"
        spared = [t for t in clause[at + 1 : verb] if t.kind in _COUNTED]
        yield [*clause[:at], _SPARING, *spared, *clause[verb:]]
        return
    if at == 0 and comma is None:
        place = next((n for n in range(1, len(clause)) if clause[n].kind not in _PLACE), 0)
        if place > 1 and clause[place].text == "there":  # "except for rib 5 there is none"
            clause, comma = [*clause[:place], Token(Kind.COMMA, "", ","), *clause[place:]], place
    if clause[at].text in _LEAVING_OUT and _is_all_broken(clause[:at]):
        own = clause[at + 1 : comma]
        if is_bare(own):  # "ribs 2 to 5 are fractured except the 3rd"
            spared = [t for t in own if t.kind in _COUNTED]
            yield [*clause[:at], *([_SPARING, *spared] if spared else ())]
            if comma:
                yield clause[comma + 1 :]
            return
        if has(own, Kind.NORMAL, Kind.ABSENT, Kind.NEGATION):
            yield clause[:at]
            yield clause[at + 1 :]
            return
    if (
        at == 0
        and comma
        and clause[comma + 1 : comma + 2]
        and clause[comma + 1].text.startswith("which")
    ):
        # "Except for the 5th rib, which is fractured, the ribs are intact."
        end = next((n for n in range(comma + 1, len(clause)) if clause[n].kind is Kind.COMMA), None)
        if end:
            clause = [*clause[:comma], *clause[comma + 2 :]]
            comma = end - 2
    if at == 0 and comma:  # "apart from a rib fracture, no fracture"
        yield clause[1:comma]
        yield [clause[0], *clause[comma + 1 :]]
        return
    head, tail = clause[: at + 1], clause[at + 1 :]
    yield head
    named = any(t.kind in NAMED or t.text in _ONES for t in tail)
    if has(head, Kind.FRACTURE) and named and not has(tail, Kind.FRACTURE):
        tail = [*_fractures_of(head, tail), *tail]
    yield tail


def _is_all_broken(before: Sequence[Token]) -> bool:
    """Tell whether bones are called broken, and not, as in "all displaced except the 5th", more."""
    last = max((n for n, t in enumerate(before) if t.kind in (*_WHERE, Kind.FRACTURE)), default=-1)
    is_asserted = has(before, Kind.FRACTURE) and not has(before, Kind.NEGATION, Kind.ABSENT)
    return is_asserted and not has(before[last + 1 :], Kind.QUALIFIER, Kind.AGE)


def _begins_exception(clause: list[Token], at: int) -> bool:
    """Tell whether what comes next is excepted: "beside the old ones", "next to the old ones"."""
    if clause[at].kind is not Kind.REFERENCE:
        return clause[at].kind is Kind.EXCEPT
    near = clause[at + 1 : at + 4]
    return any(t.value == "old" for t in near) and has(clause[:at], Kind.FRACTURE, Kind.NEGATION)
