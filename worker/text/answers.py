"""Read a list of sides under a heading: "Rib fractures: none on the right, 5th on the left"."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from worker.text.lexicon import Kind, Token
from worker.text.phrase import JOINTS, has

_HEAD = frozenset({Kind.BONE, Kind.AGE, Kind.QUALIFIER, Kind.HINT, Kind.FRACTURE})
_LIGHT = frozenset({Kind.SIDE, Kind.PREPOSITION, Kind.ARTICLE, Kind.COLON, Kind.VERB, Kind.SEEN})
_SAID = frozenset({
    Kind.NUMBER, Kind.LEVEL, Kind.SEGMENT, Kind.AGE, Kind.QUALIFIER, Kind.HEDGE, Kind.BONE,
})  # fmt: skip
_SIDE_WORDS = ("side", "sided")
_YES = ("yes", "positive", "one")
_NONE = Token(Kind.ABSENT, "absent", "none")
_SEVERAL = Token(Kind.QUALIFIER, "other", "several")


@dataclass(slots=True)
class _Item:
    """One part of the list, as "none on the right"."""

    tokens: list[Token]
    is_aside: bool = False  # it begins with a bracket
    before: list[Token] = field(default_factory=list)  # the "5th, 6th" of "5th, 6th, 7th left"
    more: list[Token] = field(default_factory=list)  # the "6th" of "left 5th, 6th"

    @property
    def sides(self) -> list[Token]:
        return [t for t in self.tokens if t.kind is Kind.SIDE]

    @property
    def is_denial(self) -> bool:
        """Whether it says no more than "none on the right"."""
        return self.is_part_denial and not any(
            t.kind in (Kind.AGE, Kind.QUALIFIER, Kind.NUMBER) and not _denies(t)
            for t in self.tokens
        )

    @property
    def is_part_denial(self) -> bool:
        """Whether it says no more than "none displaced on the right"."""
        light = (*_LIGHT, Kind.BONE, Kind.AND, Kind.OR, Kind.AGE, Kind.QUALIFIER, Kind.NUMBER)
        denying = [n for n, t in enumerate(self.tokens) if _denies(t)]
        if len(denying) != 1 or has(self.tokens[: denying[0]], Kind.NUMBER):
            return False  # "left 5th, none displaced"
        return all(_denies(t) or t.kind in light or t.text in _SIDE_WORDS for t in self.tokens)

    @property
    def is_assertion(self) -> bool:
        """Whether it says no more than "5th on the left"."""
        answers = [t for t in self.tokens if t.kind in (*_SAID, Kind.SEEN) or t.text in _YES]
        known = (*_LIGHT, *_SAID)
        return bool(answers) and all(
            (t.kind in known or t.text in (*_SIDE_WORDS, *_YES)) and not _denies(t)
            for t in self.tokens
        )

    @property
    def begins_with_side(self) -> bool:
        answer = next(
            (n for n, t in enumerate(self.tokens) if t.kind in _SAID or _denies(t)),
            len(self.tokens),
        )
        return has(self.tokens[:answer], Kind.SIDE)


def read_answers(tokens: Sequence[Token]) -> tuple[list[list[Token]], list[Token]]:
    """Return the clauses that a list of sides stands for, and what stands behind the list.

    There are none unless a side is denied, plainly, and another is spoken of. What cannot be read
    of that leaves the answer open, since a wrong side does more harm than none.
    """
    start = _end_of_head(tokens)
    if start is None:
        return [], []
    body, rest = _cut_rest(tokens[start:])
    items = _cut_items(body)
    is_denied = any(item.sides and item.is_part_denial for item in items)
    is_single = len(items) == 1 and len(items[0].sides) == 1
    if is_single or not is_denied or has(body, Kind.FRACTURE, Kind.EXCEPT, Kind.QUERY):
        return [], []
    head = _plain_head(tokens, start)
    unclear = [*head, Token(Kind.UNSURE, "after", "unclear")]
    if _is_denied_list(items):
        return [unclear], rest
    counts = any(t.text == "0" for t in body)
    items, is_read = _with_sideless(items)
    clauses: list[list[Token]] = []
    for item in items:
        if item.is_denial:
            clauses += _deny(item, head)
        elif len(item.sides) < 2 and (item.is_assertion or _is_place(item.tokens)):
            clauses.append(_assert(item, head, counts=counts))
        elif has(item.tokens, Kind.NORMAL, Kind.LIMITED, Kind.UNSURE):
            clauses.append(item.tokens)  # "left clavicle intact"
        else:
            clauses.append([*head, Token(Kind.COLON, "", ":"), *item.tokens])
    if not is_read:
        clauses.append(unclear)
    return clauses, rest


def _is_denied_list(items: Sequence[_Item]) -> bool:
    """Tell "none in the right ribs, left ribs or clavicle", whose denial may hold for all."""
    return any(
        item.is_part_denial
        and not item.begins_with_side
        and any(
            has(after.tokens, kind) and any(t.kind is kind and not _denies(t) for t in item.tokens)
            for kind in (Kind.BONE, Kind.NUMBER)
        )
        for item, after in pairwise(items)
    )


def _end_of_head(tokens: Sequence[Token]) -> int | None:
    """Return where the list begins behind "Rib fractures:" or "Fractured ribs -"."""
    end = next((n for n, t in enumerate(tokens) if t.kind not in _HEAD), len(tokens))
    if sum(t.kind is Kind.FRACTURE for t in tokens[:end]) != 1 or end == len(tokens):
        return None
    if tokens[end].kind in (Kind.COLON, Kind.COMMA):
        return end + 1
    return end if tokens[end].kind is Kind.ABSENT else None


def _plain_head(tokens: Sequence[Token], start: int) -> list[Token]:
    """Return the words of the heading as one noun phrase."""
    own = [t for t in tokens[:start] if t.kind in _HEAD]
    fracture = next(t for t in own if t.kind is Kind.FRACTURE)
    if fracture.value == "adjective":  # "fractured ribs"
        fracture = Token(Kind.FRACTURE, "noun", "fractures")
    return [*(t for t in own if t.kind is not Kind.FRACTURE), fracture]


def _cut_rest(body: Sequence[Token]) -> tuple[Sequence[Token], list[Token]]:
    """Cut off what comes behind a semicolon and has fractures of its own."""
    breaks = [n for n, t in enumerate(body) if t.kind is Kind.BREAK]
    for at, end in pairwise([*breaks, len(body)]):
        if has(body[at:end], Kind.FRACTURE):
            return body[:at], list(body[at + 1 :])
    return body, []


def _cut_items(body: Sequence[Token]) -> list[_Item]:
    items, own, is_aside = [], list[Token](), False
    for at, token in enumerate(body):
        is_joint = token.kind in (Kind.COMMA, Kind.AND, Kind.BREAK)
        if token.text == "-" and is_joint and _points(own, body[at + 1 : at + 2]):
            continue
        if not is_joint or (token.text in ("and", "/") and _is_place(own)):
            own.append(token)
            continue
        if own:
            items.append(_Item(own, is_aside))
            own = []
        is_aside = token.text == "("
    return [*items, *([_Item(own, is_aside)] if own else ())]


def _is_place(own: Sequence[Token]) -> bool:
    """Return whether only the "right" of "right and left none" has come so far."""
    light = (Kind.SIDE, Kind.PREPOSITION, Kind.ARTICLE)
    return has(own, Kind.SIDE) and all(t.kind in light for t in own)


def _points(own: Sequence[Token], after: Sequence[Token]) -> bool:
    """Tell the dash of "right - none" and "none - right" from that between two sides."""
    is_answered = any(t.kind in _SAID or _denies(t) for t in own)
    return bool(own) and has(own, Kind.SIDE) is not is_answered and (
        has(after, Kind.SIDE) is is_answered
    )  # fmt: skip


def _with_sideless(items: Sequence[_Item]) -> tuple[list[_Item], bool]:
    """Give "5th" and "6th on the left" one side; tell whether all of it is read."""
    out: list[_Item] = []
    waiting: list[_Item] = []
    is_read = True
    for item, after in zip(items, [*items[1:], None], strict=True):
        is_named = has(item.tokens, Kind.NUMBER, Kind.LEVEL, Kind.BONE, Kind.SEGMENT)
        is_whole = bool(item.sides) and (item.is_denial or item.is_assertion or (
            is_named and not item.is_part_denial
        ))  # fmt: skip
        is_bone = not item.sides and has(item.tokens, Kind.BONE, Kind.LEVEL)
        if is_whole:
            is_read &= _settle(waiting, out, item)
            waiting = []
            out.append(item)
        elif not item.sides and item.is_assertion:
            waiting.append(item)
        elif (is_bone and item.is_denial) or (not waiting and _is_answer_alone(item, after)):
            out.append(item)
        else:
            is_read = False
    is_read &= _settle(waiting, out, None)
    return out, is_read


def _is_answer_alone(item: _Item, after: _Item | None) -> bool:
    """Tell the "left" of "left, none right", which asserts it, from that of "left, right none"."""
    is_denial = after is not None and bool(after.sides) and after.is_part_denial
    is_apart = after is not None and not after.begins_with_side
    return _is_place(item.tokens) and is_denial and is_apart


def _settle(waiting: Sequence[_Item], before: list[_Item], after: _Item | None) -> bool:
    """Add what has no side to the side it stands with; return False if that is unclear."""
    last = before[-1] if before else None
    leads = bool(after and after.is_assertion and not after.begins_with_side)
    for item in waiting:
        is_named = any(t.kind is Kind.LEVEL or _is_other_bone(t) for t in item.tokens)
        follows = bool(last and last.sides and last.is_assertion and (
            last.begins_with_side or item.is_aside
        ))  # fmt: skip
        if follows is leads:
            if follows or not is_named or (last and last.is_denial and not last.begins_with_side):
                return False
            before.append(item)
        elif after and leads:
            after.before += [*item.tokens, Token(Kind.COMMA, "", ",")]
        elif last:
            last.more += [Token(Kind.COMMA, "", ","), *item.tokens]
    return True


def _is_other_bone(token: Token) -> bool:
    return token.kind is Kind.BONE and token.value != "rib"


def _denies(token: Token) -> bool:
    is_no = token.kind is Kind.NEGATION and token.value == "no"
    return token.kind is Kind.ABSENT or is_no or (token.kind is Kind.NUMBER and token.text == "0")


def _deny(item: _Item, head: Sequence[Token]) -> Iterator[list[Token]]:
    bones = [t for t in item.tokens if t.kind is Kind.BONE]
    for side in [[side] for side in item.sides] or [[]]:
        yield [*side, *bones, *_named(head, bones), _NONE]


def _assert(item: _Item, head: Sequence[Token], *, counts: bool) -> list[Token]:
    own = [*item.before, *item.tokens, *item.more]
    said = [t for t in own if t.kind in (*_SAID, *JOINTS)]
    numbers = [t for t in said if t.kind is Kind.NUMBER]
    is_bare = bool(numbers) and not has(said, Kind.BONE)
    exact = [t for t in numbers if t.form in ("ordinal", "range")]
    if is_bare and not exact and _is_count(own, numbers, counts=counts):
        said = [_SEVERAL, *(t for t in said if t.kind is not Kind.NUMBER)]
    elif is_bare and exact:
        said = [t for t in said if t not in numbers or t in exact]
    named = list(_named(head, own))
    if is_bare and numbers == [t for t in said if t.kind not in JOINTS] and not exact:
        return [*item.sides, *named[:-1], *_without_joints(said), named[-1]]  # "left rib 5"
    return [*item.sides, *_without_joints(said), *named]


def _is_count(own: Sequence[Token], numbers: Sequence[Token], *, counts: bool) -> bool:
    """Tell "3 on the left", and "left 3", from "left: 3", which answers with a rib."""
    if counts or any(t.form == "cardinal" for t in numbers):
        return True
    is_answer = any(t.kind is Kind.COLON for t in own)
    return len(numbers) == 1 and not is_answer


def _without_joints(said: Sequence[Token]) -> list[Token]:
    """Drop joints at the ends."""
    kept = [n for n, t in enumerate(said) if t.kind not in JOINTS]
    return list(said[kept[0] : kept[-1] + 1]) if kept else []


def _named(head: Sequence[Token], own: Sequence[Token]) -> Iterator[Token]:
    """Return the words of the heading, without its bone if there is another."""
    bones = [t for t in own if t.kind is Kind.BONE]
    yield from (t for t in head if t.kind is not Kind.BONE or not bones)
