"""Find the bones that one fracture word is about, or the device that broke instead."""

from collections.abc import Sequence

from worker.text.clauses import LISTING, NAMED
from worker.text.scope import Scope
from worker.text.sites import Site, SiteReader
from worker.text.words import Kind, Token

BLAND = frozenset({Kind.NORMAL})
_ALIEN = frozenset(
    {Kind.NOUN, Kind.DEVICE, Kind.NORMAL, Kind.PROPERTY, Kind.ABNORMALITY, Kind.REFERENCE}
)
_PLACING = frozenset(
    ("of", "in", "on", "at", "at the", "to", "through", "along", "within", "across", "into")
)
_CHEST_WORDS = """
lung lungs lobe heart cardiac cardiomediastinal mediastinum mediastinal base bases apex apices
pneumothorax effusion effusions hemothorax diaphragm hemidiaphragm pleura pleural atelectasis
consolidation contusion pneumonia silhouette aorta trachea hila hilar apical basilar
"""
CHEST = frozenset(_CHEST_WORDS.split())


def unrelated(
    tokens: Sequence[Token], low: int, high: int, alien: frozenset[Kind], at: int = -1
) -> frozenset[int]:
    """Return the indices of those parts of a clause that are about something else."""
    out: set[int] = set()
    start = low
    for end in range(low, high + 1):
        is_joint = end < high and _parts(tokens[end])
        if end < high and not is_joint:
            continue
        part = range(start, end)
        if at not in part and any(_is_alien(tokens[n], alien) for n in part):
            out.update(part)
        start = end
    return frozenset(out)


def _parts(token: Token) -> bool:
    is_aside = token.kind is Kind.PREPOSITION and token.text not in _PLACING
    return is_aside or token.kind in (*LISTING, Kind.LINK) or token.text == "without"


def _is_alien(token: Token, alien: frozenset[Kind]) -> bool:
    return token.kind in alien or token.text in CHEST


def read_sites(tokens: Sequence[Token], low: int, high: int, skip: frozenset[int]) -> list[Site]:
    """Return the bones named from `low` up to `high`, whatever is said of them."""
    return SiteReader(tokens, skip).read(low, high)


def sites(scope: Scope) -> list[Site]:
    """Return the bones that the fracture of `scope` is in."""
    tokens, low, high = scope.tokens, scope.low, scope.high
    skip = unrelated(tokens, low, high, _ALIEN, scope.at) | _referred(scope)
    reader = SiteReader(tokens, skip, scope.knows_ribs)
    sites = reader.read(low, high)
    if not sites:
        skip = unrelated(tokens, low, high, BLAND, scope.at)
        reader = SiteReader(tokens, skip, scope.knows_ribs)
        sites = reader.read(low, high)
    if not sites and _is_vertebral(scope):
        return [Site("vertebra", None, None, None, scope.at)]
    return sites


def _referred(scope: Scope) -> frozenset[int]:
    """Skip the T8 of "rib fracture at the level of T8", a place and not a bone."""
    tokens = scope.tokens
    out: set[int] = set()
    for at in range(scope.low, scope.high):
        if tokens[at].kind is Kind.REFERENCE:
            others = [n for n in range(scope.low, scope.high) if n < at or n > at + 4]
            if any(tokens[n].kind in NAMED for n in others):
                out.update(range(at, min(at + 5, scope.high)))
    return frozenset(out)


def _is_vertebral(scope: Scope) -> bool:
    near = scope.tokens[max(scope.low, scope.at - 4) : scope.high]
    return any(
        t.value == "deformity" or (t.kind is Kind.HINT and t.value == "vertebra") for t in near
    )


def implied(scope: Scope) -> Site:
    """Return the site of a fracture whose bone is not named."""
    reader = SiteReader(
        scope.tokens, unrelated(scope.tokens, scope.low, scope.high, _ALIEN, scope.at)
    )
    reader.read(scope.low, scope.high)
    return Site("other", None, reader.side or reader.late_side, None, scope.at)


def is_device(scope: Scope) -> bool:
    """Tell whether it is a wire, lead or plate that is fractured."""
    tokens, at = scope.tokens, scope.at
    ahead = (Kind.QUALIFIER, Kind.SIDE, Kind.NUMBER, Kind.SEGMENT, Kind.ARTICLE, Kind.NEUTRAL,
             Kind.PREPOSITION, Kind.BONE, Kind.AGE, Kind.HINT, Kind.NOUN, Kind.UNKNOWN)  # fmt: skip
    for token in tokens[at + 1 : scope.high]:
        if token.kind is Kind.DEVICE:
            return True
        if token.text == "status post":
            break
        if token.kind not in ahead or (
            token.kind is Kind.PREPOSITION
            and token.text not in ("of", "in", "through", "at", "within")
        ):
            break
    back = at - 1
    while back >= scope.low and tokens[back].kind in (Kind.QUALIFIER, Kind.AGE, Kind.HEDGE):
        back -= 1
    if back >= scope.low and tokens[back].kind is Kind.DEVICE:
        return True
    return _is_broken_device(scope, back) or _is_said_of_device(scope)


def names_device_for(scope: Scope) -> bool:
    """Tell the "fracture plate" that holds a bone from a fractured plate."""
    after = scope.tokens[scope.at + 1 : scope.high]
    is_noun = scope.tokens[scope.at].value == "noun"
    return is_noun and bool(after) and after[0].kind in (Kind.DEVICE, Kind.NOUN)


def _is_said_of_device(scope: Scope) -> bool:
    """Read "leads intact without fracture": the last thing named before is a device."""
    things = (Kind.DEVICE, Kind.BONE, Kind.SKELETON, Kind.LEVEL, Kind.NUMBER, Kind.COMMA, Kind.SIDE,
              Kind.FRACTURE, Kind.NOUN, Kind.HINT, Kind.UNKNOWN)  # fmt: skip
    last = next((t for t in reversed(scope.tokens[: scope.at]) if t.kind in things), None)
    is_last = not any(t.kind in NAMED for t in scope.tokens[scope.at : scope.high])
    return last is not None and last.kind is Kind.DEVICE and is_last


def _is_broken_device(scope: Scope, back: int) -> bool:
    tokens = scope.tokens
    if tokens[scope.at].value != "adjective" or back < 0 or tokens[back].kind is not Kind.VERB:
        return False
    return any(t.kind is Kind.DEVICE for t in tokens[scope.low : back])
