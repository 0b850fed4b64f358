"""Sentences that say nothing of this image: common knowledge, questions, an image not there."""

import re

from worker.text.lexicon import Kind
from worker.text.phrase import Phrase, has
from worker.text.rules.rule import Hit, RuleVerdict, TextRule

_FRACTURE = r"(?:fractures?|fx)\b"
_MANY_TIMES = r"(?:commonly|typically|usually|often|frequently|generally|rarely)"
_COMMON = re.compile(
    rf"\b{_FRACTURE}[^.,;:]{{0,40}}\s(?:"
    rf"(?:are|is) (?:(?:more|most|very) )?(?:{_MANY_TIMES}|common|rare|frequent|unusual)\b"
    rf"|(?:most )?{_MANY_TIMES} (?:affect|involve|occur|result|present|appear|heal|happen)s?\b"
    r"|(?:can|may) (?:affect|involve|occur|happen|result)\b)",
    re.IGNORECASE,
)
_MEANING = re.compile(
    rf"^\W{{0,3}}(?:an? )?(?:(?:bone|rib|clavicle) )?{_FRACTURE} (?:is|are|means?) (?:an? |any )?"
    r"(?:(?:complete|partial) )?(?:or (?:partial|incomplete|complete) )?"
    r"(?:breaks?|cracks?|discontinuity|disruptions?|injur(?:y|ies)|defined)\b"
    rf"|\b(?:signs?|features?|symptoms?|indicators?|hallmarks?) of (?:an? |any )?(?:[a-z]{{1,15}} )"
    rf"{{0,3}}{_FRACTURE} (?:include|are|is|would|can|may|might)\b"
    rf"|\bno {_FRACTURE} (?:means|implies|would mean)\b",
    re.IGNORECASE,
)
_IMAGE = r"(?:image|picture|x-?ray|radiograph|film|scan|file|attachment)"
_NORMALLY = re.compile(
    rf"^\W{{0,3}}(?:(?:in|on) an? (?:(?:typical|normal|healthy) ){{1,2}}[a-z -]{{0,20}}\b"
    rf"(?:{_IMAGE}|report|study|person|adult|chest|skeleton)\b"
    rf"|an? (?:(?:typical|normal|healthy) ){{1,2}}[a-z -]{{0,30}}\b"
    r"(?:shows?|has|have|contains?|does|demonstrates?)\b)"
    r"|\b(?:findings?|report|study|image|radiograph) (?:would|should) (?:be|say|show|read|state)\b",
    re.IGNORECASE,
)
_NO_IMAGE = re.compile(
    rf"\bno (?:chest )?{_IMAGE}s? (?:(?:is|was|were|are|has been|have been|file) )?(?:attached"
    r"|provided|uploaded|given|supplied|included|shared|received|visible)\b(?! for comp)"
    rf"|\b{_IMAGE} (?:is|was|appears|seems) (?:to be )?(?:blank|empty|missing|corrupt|corrupted"
    r"|unreadable|black|not (?:attached|provided|uploaded|available|visible|readable))\b"
    rf"|\b(?:can ?not|can't|could not|couldn't|unable to|not able to) (?:see|view|access|open|load)"
    rf" (?:the|this|that|an|any|your) (?:chest )?{_IMAGE}",
    re.IGNORECASE,
)
_UNJUDGED = re.compile(
    r"\bno(?:ne)?\b[^.;]{0,60}\b(?:can|could|may) (?:not )?be (?:[a-z]{3,15}ly )?(?:assessed"
    r"|evaluated|judged|interpreted|analy[sz]ed|determined|examined|commented on)\b"
    rf"|^\W{{0,3}}(?:any |rib )?{_FRACTURE}(?:,| and| or)[^.;]{{0,80}}\bcan ?not be "
    r"(?:[a-z]{3,15}ly )?(?:assessed|evaluated|judged|excluded)\b"
    r"|\bnone of (?:the|these|those|its) (?:ribs|bones|clavicles|vertebrae|structures) "
    r"(?:is|are|was|were|can be) (?:visible|visuali[sz]ed|shown|imaged|included|assessable)\b",
    re.IGNORECASE,
)
_ASKED = re.compile(
    r"\b(?:the |a )?(?:user|question|prompt|task|instruction)s? (?:is (?:about|asking|whether|if)"
    r"|(?:asks?|asked|wants?|wanted|would like|needs?) )",
    re.IGNORECASE,
)
_CELL = re.compile(
    rf"(?:^|\|)\s{{0,5}}(?:any |rib )?{_FRACTURE}\s?(?:present|seen)?\??\s{{0,5}}(?:\||$)",
    re.IGNORECASE,
)
_INJURED = re.compile(
    r"\b(?:fell|fall|falls|mva|mvc|rta|rtc|trauma|assault|assaulted|cpr|kicked|punched)\b",
    re.IGNORECASE,
)


def _find_common_knowledge(phrase: Phrase) -> Hit | None:
    """Find "rib fractures are common after falls", in which no side is named."""
    body = phrase.sentence.body
    is_common = _COMMON.search(body) or _MEANING.search(body) or _NORMALLY.search(body)
    return Hit() if is_common and not has(phrase.tokens, Kind.SIDE) else None


def _find_no_image(phrase: Phrase) -> Hit | None:
    return Hit() if _NO_IMAGE.search(phrase.sentence.body) else None


def _find_unjudged(phrase: Phrase) -> Hit | None:
    return Hit() if _UNJUDGED.search(phrase.sentence.body) else None


def _find_asked(phrase: Phrase) -> Hit | None:
    return Hit() if _ASKED.search(phrase.sentence.body) else None


_SUPERSEDED = re.compile(
    r"^\W{0,3}(?:(?:it was )?(?:previously|initially|originally|formerly|first) (?:reported|read"
    r"|called|interpreted|described|signed out) as\b|at first (?:glance|sight|look)\b)",
    re.IGNORECASE,
)
_TAKEN_BACK = re.compile(
    r"^\W{0,3}(?:the |this |that )?(?:statement|claim|sentence|answer|phrase|impression)\b"
    r"[^.;]{0,80}\b(?:is|was) (?:incorrect|wrong|false|untrue|mistaken|not (?:true|correct))\b",
    re.IGNORECASE,
)


def _find_superseded(phrase: Phrase) -> Hit | None:
    """Find a denial that somebody read before, and a statement that is called wrong."""
    body = phrase.sentence.body
    if _TAKEN_BACK.search(body):
        return Hit()
    is_denial = has(phrase.tokens, Kind.NEGATION, Kind.ABSENT)
    is_denial &= not has(phrase.tokens, Kind.COMMA, Kind.BREAK)
    return Hit() if is_denial and _SUPERSEDED.search(body) else None


def _find_table(phrase: Phrase) -> Hit | None:
    body = phrase.sentence.body
    return Hit() if "|" in body and _CELL.search(body) else None


def _find_referral(phrase: Phrase) -> Hit | None:
    """Find the "?" of "fell off a ladder, ?fracture of left ribs", which asks."""
    marks = phrase.places(lambda token: token.kind is Kind.QUERY, 0, len(phrase.tokens))
    fractures = phrase.places(lambda token: token.kind is Kind.FRACTURE, 0, len(phrase.tokens))
    is_marked = bool(marks) and bool(fractures) and marks[0] < fractures[0]
    is_open = is_marked and not has(phrase.tokens, Kind.NUMBER, Kind.LEVEL)
    return Hit(marks[:1]) if is_open and _INJURED.search(phrase.sentence.body) else None


RULES = (
    TextRule(
        "no-image", "Where no image was there, nothing is absent.",
        RuleVerdict.OPEN, _find_no_image,
        "There is no image attached, so no fracture can be seen.",
        "No prior image is available; no fracture is seen.",
    ),
    TextRule(
        "unjudged", "None of what could not be judged is absent.",
        RuleVerdict.OPEN, _find_unjudged,
        "No fracture can be assessed on this view.", "No fracture can be seen on this view.",
    ),
    TextRule(
        "common-knowledge", "What holds of fractures in general is not said of this image.",
        RuleVerdict.OPEN, _find_common_knowledge,
        "Rib fractures are common after falls.", "Rib fractures are seen after a fall.",
    ),
    TextRule(
        "asked-by-user", "What somebody asks is no finding.",
        RuleVerdict.ASIDE, _find_asked,
        "The user asks about a clavicle fracture.", "A clavicle fracture is seen.",
    ),
    TextRule(
        "referral", "A question mark beside an injury is the question of who sent the patient.",
        RuleVerdict.ASIDE, _find_referral,
        "Fell off a ladder, ?fracture of the left ribs.", "?fracture of the left 5th rib.",
    ),
    TextRule(
        "superseded", "A first reading without fracture, and what is called wrong, count no more.",
        RuleVerdict.ASIDE, _find_superseded,
        "Initially read as no fracture.", "Initially read as a rib fracture.",
    ),
    TextRule(
        "table-head", "The head of a table names a fracture and asserts none.",
        RuleVerdict.OPEN, _find_table,
        "Rib | Side | Fracture", "Left 5th rib | fractured",
    ),
)  # fmt: skip
