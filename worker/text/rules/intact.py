"""Bones that are called normal: "bones are intact", "no osseous abnormality"."""

from collections.abc import Sequence

from worker.text.bones import Site, read_sites
from worker.text.lexicon import Kind, Token
from worker.text.phrase import BLANK_FORM, JOINTS, STOPS, Phrase
from worker.text.rules.denied import is_clearly_denied
from worker.text.rules.rule import Hit, RuleVerdict, TextRule
from worker.text.rules.unseen import is_year, speaks_of_past, tells_of_past


def _find_normal_bones(phrase: Phrase) -> Hit | None:
    if phrase.word.kind is not Kind.NORMAL and not _is_negative(phrase):
        return None
    sites = _normal_bones(phrase.tokens, phrase.at)
    if sites is None:
        return None
    end = _end_of_side(phrase.tokens, phrase.at)
    side = phrase.tokens[end - 1].value if end > phrase.at and not sites else None
    return Hit((phrase.at,), sites, side)


_TURNING = ("only", "nor", "neither", "anything but")
_SUPPOSING = ("if", "provided", "assuming", "unless", "whether", "ensure", "check", "confirm")


def _find_turned(phrase: Phrase) -> Hit | None:
    """Find the "no" of "no rib is intact", the "if" of "if bones are normal", and the past."""
    is_finding = phrase.word.kind in (Kind.NORMAL, Kind.ABNORMALITY) or _is_negative(phrase)
    if not is_finding:
        return None
    tokens, at = phrase.tokens, phrase.at
    is_of_bones = any(t.kind in (Kind.BONE, Kind.SKELETON) for t in tokens)
    is_normal = phrase.word.kind is Kind.NORMAL and is_of_bones
    if is_normal and (
        tokens[0].text in _SUPPOSING or any(t.kind is Kind.ASKING for t in tokens[:at])
    ):
        return Hit((0,))
    if speaks_of_past(tokens[at + 1 :]) or tells_of_past(tokens[:at]) or _is_dated(tokens[:at]):
        return Hit((at,))
    if phrase.word.kind is not Kind.NORMAL or _normal_bones(tokens, at) is None:
        return _find_not_normal(phrase)
    after = tokens[at + 1 : at + 3]
    is_answered = [t.kind for t in after[:1]] in ([Kind.COLON], [Kind.COMMA]) and any(
        t.text in ("no", "false", "negative", "n") for t in after[1:]
    )
    if is_answered and at + 3 >= len(tokens):
        return Hit((at, at + 2))  # "ribs intact: no"
    if any(t.kind is Kind.QUERY for t in after):
        return Hit((at,))
    low = at
    apart = (Kind.COMMA, Kind.NOUN, Kind.ABNORMALITY, Kind.DEVICE, Kind.FRACTURE, *STOPS)
    while low > 0 and tokens[low - 1].kind not in apart:
        low -= 1
    for n in range(low, at):
        is_denial = tokens[n].kind is Kind.NEGATION and not _is_joined(tokens, n)
        if is_denial or tokens[n].text in _TURNING:
            return Hit((n, at))
    return None


def _is_joined(tokens: Sequence[Token], at: int) -> bool:
    """Tell the "no" of "no pneumothorax and bones are intact", said of what is not in the way."""
    return any(t.kind is Kind.NOUN for t in tokens[at + 1 : at + 4])


def _find_not_normal(phrase: Phrase) -> Hit | None:
    """Find bones that are said not to be intact: "the left ribs are not normal"."""
    tokens, at = phrase.tokens, phrase.at
    near = tokens[max(0, at - 3) : at]
    is_not = phrase.word.kind is Kind.NORMAL and any(t.value == "not" for t in near)
    is_of_bones = any(t.kind in (Kind.BONE, Kind.SKELETON, Kind.LEVEL) for t in tokens[:at])
    is_other = any(t.kind in (Kind.NOUN, Kind.DEVICE) for t in tokens)
    return Hit((at,)) if is_not and is_of_bones and not is_other else None


def _is_dated(before: Sequence[Token]) -> bool:
    return any(is_year(token) for token in before)


def _is_negative(phrase: Phrase) -> bool:
    """Tell the result of "bones: negative" from that of "bones negative for ..."."""
    return phrase.word.text == "negative" and phrase.at == len(phrase.tokens) - 1


def _find_no_abnormality(phrase: Phrase) -> Hit | None:
    is_change = phrase.word.text in _CHANGES and _is_acute(phrase)
    is_finding = phrase.word.kind is Kind.ABNORMALITY or phrase.word.text in _FINDINGS
    if not is_finding and not is_change:
        return None
    sites = _bones_without(phrase)
    return None if sites is None else Hit((phrase.at,), sites)


def _find_bony_blank(phrase: Phrase) -> Hit | None:
    """Find the "no acute bony XXXX" whose noun has been blanked."""
    is_end = phrase.at == len(phrase.tokens) - 1
    if not is_end or phrase.word.text not in ("bony", "osseous", "skeletal"):
        return None
    blanked = phrase.places(lambda token: token.form == BLANK_FORM)
    return Hit((*blanked, phrase.at)) if blanked and is_clearly_denied(phrase) else None


_FINDINGS = ("finding", "findings")
_CHANGES = ("change", "changes")


def _is_acute(phrase: Phrase) -> bool:
    """Tell the "acute change" of bones from a degenerative one."""
    return any(t.value == "acute" or t.text == "traumatic" for t in phrase.before(3))


def _is_nor(tokens: Sequence[Token], at: int) -> bool:
    return at >= 0 and tokens[at].text in ("nor", "neither")


def _normal_bones(tokens: Sequence[Token], at: int) -> list[Site] | None:
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
    while low > 0 and (_is_passed(tokens[low - 1], passed) or _is_coordinated(tokens, low - 1)):
        low -= 1
    if not any(t.kind in (Kind.SKELETON, Kind.BONE, Kind.LEVEL) for t in tokens[low:at]):
        return _bones_ahead(tokens, at)
    # No sites means all bones.
    if any(t.kind is Kind.SKELETON for t in tokens[low:at]):
        return []
    return read_sites(tokens, low, _end_of_side(tokens, at), frozenset())


def _end_of_side(tokens: Sequence[Token], at: int) -> int:
    """Return where the "on the right" of "the ribs are intact on the right" ends, or `at`."""
    end = at + 1
    while end < len(tokens) and tokens[end].kind in (Kind.PREPOSITION, Kind.ARTICLE):
        end += 1
    is_side = at + 1 < end < len(tokens) and tokens[end].kind is Kind.SIDE
    is_whole = end + 1 >= len(tokens) or tokens[end + 1].kind in (*JOINTS, *STOPS)
    return end + 1 if is_side and is_whole else at


def _is_coordinated(tokens: Sequence[Token], at: int) -> bool:
    """Tell whether an unknown word stands beside "and": "the bones and zygapophyses are normal"."""
    near = (*tokens[max(0, at - 1) : at], *tokens[at + 1 : at + 2])
    is_open = tokens[at].kind is Kind.UNKNOWN or tokens[at].value == "plain"
    return is_open and any(t.kind is Kind.AND for t in near)


def _bones_ahead(tokens: Sequence[Token], at: int) -> list[Site] | None:
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
        []
        if tokens[end].kind is Kind.SKELETON
        else read_sites(tokens, end if is_list else at + 1, end + 4, frozenset())
    )


def _is_passed(token: Token, passed: set[Kind]) -> bool:
    return token.kind in passed or (token.kind is Kind.NEUTRAL and token.value != "plain")


def _bones_without(phrase: Phrase) -> list[Site] | None:
    """Return the bones without the abnormality, empty for all bones, None for none."""
    tokens, at = phrase.tokens, phrase.at
    if not is_clearly_denied(phrase):
        return None
    bones = (Kind.SKELETON, Kind.BONE, Kind.LEVEL)
    adjectives = (Kind.QUALIFIER, Kind.AGE, Kind.NEUTRAL, Kind.HEDGE, Kind.SIDE, Kind.CARRIER)
    low = at
    while low > 0 and (
        tokens[low - 1].kind in (*adjectives, *bones, Kind.AND, Kind.OR)
        or ((low > 1 and tokens[low - 2].kind in (Kind.AND, Kind.OR)) or _is_nor(tokens, low - 2))
    ):
        low -= 1
    linking = (*adjectives, *bones, Kind.PREPOSITION, Kind.ARTICLE, Kind.VERB, Kind.SEEN,
               Kind.INVOLVE, Kind.COMMA, Kind.AND, Kind.OR, Kind.HINT)  # fmt: skip
    high = at + 1
    while high < len(tokens) and tokens[high].kind in linking:
        high += 1
    head = 0
    while head < low and (
        tokens[head].kind in (*linking, Kind.COLON, Kind.NEGATION)
        or (head > 0 and tokens[head - 1].kind is Kind.AND)
    ):
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


RULES = (
    TextRule(
        "not-intact", "Bones that are not intact, or were, or are if something holds, are open.",
        RuleVerdict.OPEN, _find_turned,
        "None of the left ribs are intact.", "No pneumothorax, bones are intact.",
    ),
    TextRule(
        "bones-intact", "Bones that are called normal, intact or unremarkable have no fracture.",
        RuleVerdict.DENIED, _find_normal_bones,
        "The bones are intact.", "The lungs are clear.",
    ),
    TextRule(
        "no-bony-blank", "Bones without what has been blanked have no fracture.",
        RuleVerdict.DENIED, _find_bony_blank,
        "No acute bony XXXX.", "No acute XXXX.",
    ),
    TextRule(
        "no-abnormality", "Bones without an abnormality have no fracture.",
        RuleVerdict.DENIED, _find_no_abnormality,
        "No acute osseous abnormality.", "No acute abnormality of the lungs.",
    ),
)  # fmt: skip
