"""Read "bones are intact" and "no osseous abnormality", which deny fractures without the word."""

from collections.abc import Sequence

from worker.text import scope as scopes
from worker.text.claims import Denial
from worker.text.places import read_sites
from worker.text.scope import Scope
from worker.text.sites import Site
from worker.text.words import Kind, Token


def normal(tokens: list[Token]) -> list[Denial]:
    """Read "bones are intact" and "no acute osseous abnormality" as denials of fracture."""
    if any(t.kind is Kind.DEVICE for t in tokens):
        return []
    extra = any(t.kind in (Kind.EXTRA, Kind.EXCEPT) and t.text != "otherwise" for t in tokens)
    out = []
    for at, token in enumerate(tokens):
        sites = None
        if token.kind is Kind.NORMAL:
            sites = _normal_bones(tokens, at)
        elif token.kind is Kind.ABNORMALITY or token.text in ("finding", "findings"):
            sites = _bones_without(tokens, at)
        if sites is not None:
            out.append(
                Denial(tuple(sites), _near_qualifiers(tokens, at), extra or _is_otherwise(tokens))
            )
    return out


def _is_otherwise(tokens: Sequence[Token]) -> bool:
    return any(t.text == "otherwise" for t in tokens)


def _near_qualifiers(tokens: Sequence[Token], at: int) -> frozenset[str]:
    near = tokens[max(0, at - 4) : at]
    return frozenset(t.value or "other" for t in near if t.kind is Kind.AGE)


def _normal_bones(tokens: list[Token], at: int) -> list[Site] | None:
    """Return the bones called normal at `at`, an empty list for all bones, None for none."""
    if any(t.kind is Kind.NEGATION and t.value == "not" for t in tokens[max(0, at - 3) : at]):
        return None
    part = tokens[at + 1 : at + 4]
    if any(t.kind is Kind.PROPERTY for t in part):
        return None
    low = at
    passed = {Kind.VERB, Kind.COLON, Kind.QUALIFIER, Kind.EXTRA, Kind.SIDE, Kind.COMMA, Kind.AND,
              Kind.NOUN, Kind.ARTICLE, Kind.PREPOSITION, Kind.SKELETON, Kind.SEEN, Kind.OR,
              Kind.BONE, Kind.NUMBER, Kind.LEVEL, Kind.HINT, Kind.SEGMENT}  # fmt: skip
    while low > 0 and _passes(tokens[low - 1], passed):
        low -= 1
    if not any(t.kind in (Kind.SKELETON, Kind.BONE, Kind.LEVEL) for t in tokens[low:at]):
        return _bones_ahead(tokens, at)
    if any(t.kind is Kind.SKELETON for t in tokens[low:at]):
        return []
    return read_sites(tokens, low, at, frozenset())


def _bones_ahead(tokens: list[Token], at: int) -> list[Site] | None:
    """Read "normal bones" and "normal heart, lungs and bones"."""
    listed = (Kind.SEEN, Kind.ARTICLE, Kind.SIDE, Kind.NOUN, Kind.COMMA, Kind.AND)
    end = at + 1
    while end < len(tokens) and tokens[end].kind in listed:
        end += 1
    if end == len(tokens) or tokens[end].kind not in (Kind.SKELETON, Kind.BONE):
        return None
    is_list = any(t.kind is Kind.NOUN for t in tokens[at + 1 : end])
    if is_list and end + 1 < len(tokens):
        return None
    return (
        [] if tokens[end].kind is Kind.SKELETON else read_sites(tokens, end, end + 4, frozenset())
    )


def _passes(token: Token, passed: set[Kind]) -> bool:
    return token.kind in passed or (token.kind is Kind.NEUTRAL and token.value != "plain")


def _bones_without(tokens: list[Token], at: int) -> list[Site] | None:
    """Return the bones without the abnormality at `at`, empty for all bones, None for none."""
    if not scopes.is_denied(Scope(tokens, at, 0, len(tokens))):
        return None
    bones = (Kind.SKELETON, Kind.BONE, Kind.LEVEL)
    adjectives = (Kind.QUALIFIER, Kind.AGE, Kind.NEUTRAL, Kind.HEDGE, Kind.SIDE, Kind.CARRIER)
    low = at
    while low > 0 and tokens[low - 1].kind in (*adjectives, *bones, Kind.AND, Kind.OR):
        low -= 1
    linking = (*adjectives, *bones, Kind.PREPOSITION, Kind.ARTICLE, Kind.VERB, Kind.SEEN,
               Kind.INVOLVE, Kind.COMMA, Kind.AND, Kind.OR, Kind.HINT)  # fmt: skip
    high = at + 1
    while high < len(tokens) and tokens[high].kind in linking:
        high += 1
    head = 0
    while head < low and tokens[head].kind in (*linking, Kind.COLON, Kind.NEGATION):
        head += 1
    low = 0 if head == low else low
    near = [t.kind for t in tokens[low:high]]
    if Kind.SKELETON in near or tokens[at].value == "bones":
        return []
    return (
        read_sites(tokens, low, high, frozenset())
        if Kind.BONE in near or Kind.LEVEL in near
        else None
    )
