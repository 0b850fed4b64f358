"""Sentences that say nothing sure of this image: common knowledge, questions, other sources."""

import re
from collections.abc import Sequence

from worker.text.lexicon import Kind
from worker.text.phrase import Phrase, has
from worker.text.rules.rule import Hit, RuleVerdict, TextRule


def _any_of(*phrases: str) -> str:
    return f"(?:{'|'.join(phrases)})"


def _pattern(*alternatives: str) -> re.Pattern[str]:
    return re.compile("|".join(alternatives), re.IGNORECASE)


_START = r"^\W{0,3}"
_FRACTURE = r"(?:fractures?|fx)\b"
_IMAGE = _any_of("image", "picture", "x-?ray", "radiograph", "film", "scan", "file", "attachment")
_BONES = r"\b" + _any_of(
    "ribs?", "bones?", "bony", "clavicles?", "scapulae?", "spine", "skeletal", "skeleton",
    "osseous", "humerus", "sternum",
) + r"\b"  # fmt: skip
_NO = r"\b(?:no|not|without|nor|intact|normal|negative)\b"
_NEAR, _FAR = r"[^.;]{0,40}", r"[^.;]{0,80}"

# Common knowledge

_OFTEN = _any_of("commonly", "typically", "usually", "often", "frequently", "generally", "rarely")
_COMMON = _pattern(
    rf"\b{_FRACTURE}[^.,;:]{{0,40}}\s(?:are|is) (?:(?:more|most|very) )?(?:{_OFTEN}|common|rare"
    r"|frequent|unusual)\b",
    rf"\b{_FRACTURE}[^.,;:]{{0,40}}\s(?:most )?{_OFTEN} "
    r"(?:affect|involve|occur|result|present|appear|heal|happen)s?\b",
    rf"\b{_FRACTURE}[^.,;:]{{0,40}}\s(?:can|may) (?:affect|involve|occur|happen|result)\b",
    # what a fracture is, and how one is recognized
    rf"{_START}(?:an? )?(?:(?:bone|rib|clavicle) )?{_FRACTURE} (?:is|are|means?) (?:an? |any )?"
    r"(?:(?:complete|partial) )?(?:or (?:partial|incomplete|complete) )?"
    r"(?:breaks?|cracks?|discontinuity|disruptions?|injur(?:y|ies)|defined)\b",
    r"\b(?:signs?|features?|symptoms?|indicators?|hallmarks?) of (?:(?:an?|any) )?"
    r"(?:[a-z]{1,15} ){0,3}"
    rf"{_FRACTURE} (?:include|are|is|would|can|may|might)\b",
    rf"\bno {_FRACTURE} (?:means|implies|would mean)\b",
    # what a normal image shows
    rf"{_START}(?:in|on) an? (?:(?:typical|normal|healthy) ){{1,2}}[a-z -]{{0,20}}\b"
    rf"(?:{_IMAGE}|report|study|person|adult|chest|skeleton)\b",
    rf"{_START}an? (?:(?:typical|normal|healthy) ){{1,2}}[a-z -]{{0,30}}\b"
    r"(?:shows?|has|have|contains?|does|demonstrates?)\b",
    r"\b(?:findings?|report|study|image|radiograph) (?:would|should) (?:be|say|show|read|state)\b",
)

# Images that are not there, or not good enough

_GIVEN = _any_of("attached", "provided", "uploaded", "available", "visible", "readable", "given")
_NO_IMAGE = _pattern(
    rf"\bno (?:chest )?{_IMAGE}s? (?:(?:is|was|were|are|has been|have been|file) )?(?:attached"
    r"|provided|uploaded|given|supplied|included|shared|received|visible)\b(?! for comp)",
    rf"\b{_IMAGE} (?:is|was|appears|seems) (?:to be )?(?:blank|empty|missing|corrupt|corrupted"
    rf"|unreadable|black|not {_GIVEN})\b",
    r"\b(?:can ?not|can't|could not|couldn't|unable to|not able to) (?:see|view|access|open|load)"
    rf" (?:the|this|that|an|any|your) (?:chest )?{_IMAGE}",
)
_JUDGED = _any_of(
    "assessed", "evaluated", "judged", "interpreted", r"analy[sz]ed", "determined", "examined",
    "commented on",
)  # fmt: skip
_UNJUDGED = _pattern(
    rf"\bno(?:ne)?\b[^.;]{{0,60}}\b(?:can|could|may) (?:not )?be (?:[a-z]{{3,15}}ly )?{_JUDGED}\b",
    rf"{_START}(?:any |rib )?{_FRACTURE}(?:,| and| or){_FAR}\bcan ?not be (?:[a-z]{{3,15}}ly )?"
    r"(?:assessed|evaluated|judged|excluded)\b",
    r"\bnone of (?:the|these|those|its) (?:ribs|bones|clavicles|vertebrae|structures) "
    r"(?:is|are|was|were|can be) (?:visible|visuali[sz]ed|shown|imaged|included|assessable)\b",
)
_HARD = r"\b" + _any_of(
    "cut off", "clipped", "cropped", "hidden", "concealed", "overlain", "masked", "covered by",
    "off the (?:edge of the )?(?:film|image)", "outside (?:of )?the (?:film|image|field)",
    r"(?:not|n't|nt) (?:on|in) the (?:film|image|field)", "missing from the (?:film|image)",
    r"not (?:fully |all |entirely )?(?:included|imaged|shown|covered|in view|visuali[sz]ed|reliable"
    r"|readable|interpretable|assessable)", "out of view", "collimated off", "difficult",
    "challenging", "hard to (?:see|assess|evaluate|judge|say)", "impaired", "restricted",
    "not possible", "impossible", "poorly(?! (?:minerali|defin|margin|circum|aerat|expand|inflat))",
    "incomplete(?:ly)?(?! (?:aerat|expan|inflat|inspir|right|left|fissure))",
    "barely (?:seen|visible)", "can hardly be", "can ?not be made out", "cant be", "washed out",
    "(?:is|are) faint", "blurr(?:ed|y)", "unreliable", "insufficient(?:ly)?", "unsuitable",
    "only the upper", "is lost",
) + r"\b"  # fmt: skip
# Bones that say where something is: "a nodule hidden behind the clavicle"
_APART = r"\b" + _any_of(
    "over", r"overl\w+", "behind", "by", "because", "below", "above", "level", "between", "with",
    r"project\w+", "opacity", "nodule", "density", "mass", r"calcif\w+", "inspiration", "apex",
    "apices",
) + r"\b"  # fmt: skip
_BAD_VIEW = _pattern(
    rf"{_BONES}{_NEAR}{_HARD}",
    rf"{_HARD}(?:(?!{_APART})[^.;]){{0,40}}{_BONES}",
    rf"{_BONES}[^.;,]{{0,20}}\b(?:detail|visibility|visuali[sz]ation|evaluation|assessment)\b"
    r"[^.;,]{0,20}\b(?:poor|low|limited|reduced|bad)\b",
    r"\bpoor (?:bony|bone|rib|osseous) detail\b",
    rf"\b(?:the |left |right )(?:side|chest|hemithorax) (?:is )?{_HARD}(?! by the clav)",
)
_BAD = _any_of(
    "poor", "low", "limited", "bad", "suboptimal", "degraded", "reduced", "inadequate",
    "insufficient", "blurred", "blurry", "overexposed", "underexposed", "underpenetrated",
    "overpenetrated", "unsuitable", "not readable", "too dark", "too bright", "noisy",
)  # fmt: skip
_BAD_IMAGE = _pattern(
    rf"\b{_IMAGE}s?\b(?: is| was| are)?(?: of)?(?: very)? {_BAD}\b",
    rf"\b{_BAD}(?:,| and)? (?:{_BAD} )?{_IMAGE}\b",
    rf"\b(?:{_IMAGE}|technical|study|exam|diagnostic|spatial|the) (?:quality|resolution)"
    rf"(?: of the {_IMAGE})? (?:(?:is|was|does|very|too|rather) ){{0,3}}(?:{_BAD}|not allow)\b"
    r"(?! (?:inspir|lung|volume))",
    rf"^quality of the {_IMAGE} does not allow\b",
    rf"\b{_BAD}[ -](?:(?:image|film|technical|diagnostic) )?(?:quality|resolution)\b",
    rf"\bwith this {_IMAGE} quality\b",
    r"\btoo (?:low|poor|blurred|small) to (?:tell|say|judge)\b",
)
_DOUBTED = _pattern(
    r"\b(?:can|could) (?:be )?(?:seen|excluded|identified|ruled out) with (?:any )?(?:certainty"
    r"|confidence)\b",
    r"\bcan(?: ?not|'t) (?:guarantee|be (?:quite |entirely |absolutely |\d{1,3} ?% )?(?:sure"
    r"|certain))\b",
    r"\b(?:not|un)(?: |)(?:sure|certain)\b|\bi (?:guess|suppose|assume)\b",
    r"\bfracture - please confirm\b",
    r"\bdoes not (?:mean|exclude|rule out)\b|\b(?:do not|don't) agree\b|\bdisagrees?\b",
    r"\blow confidence\b|\bconfidence\W{1,3}(?:0?\.[0-7]|low|[1-7]\d ?%)|\b[1-7]\d ?% (?:sure"
    r"|certain|confiden)",
    r"\b(?:interpretation|assessment|evaluation) (?:is )?(?:difficult|impaired|hampered)\b",
    r"\((?:preliminary|\?)\)|\bpreliminary read(?:ing)?\b|\bor is there\b",
    r"\b(?:fracture|final (?:review|read|report)) pending\b|\bpending (?:final|ct)\b",
    r"\bno (?:certainty|guarantee|proof)\b|\bpremature to\b|\bpresumably (?:intact|normal|no)\b",
    rf"\bno (?:[a-z]{{1,15}} ){{0,2}}{_FRACTURE}[\"'”’]? (?:would be|is not the right)\b",
    r"\banything but\b|\b(?:intact|normal)\b[^.;]{0,15}\bin contrast to\b|\bexcepted\b",
    r"\b(?:intact|normal),? (?:but look at|question)\b",
    rf"\b(?:report|statement|{_FRACTURE})\b[^.;]{{0,20}}\b(?:should be (?:revised|changed|amended"
    r"|corrected)|is (?:amended|revised))\b",
)

# Other times, other examinations, other people

_THEN = _any_of("last", "first", "prior", "previous", "earlier", "old")
_COMPARED = _pattern(
    r"\b(?:compared|comparison|unlike|as (?:on|in)|similar|unchanged|since|relative|stable|than)\b"
)
_OTHER_SOURCE = _pattern(
    r"\b(?:not|no) [^.;]{0,60}\b(?:but|although|though) (?:(?:it )?(?:is|was|are|were)"
    r"|(?:the )?ct|clearly|well) (?:clearly |well )?"
    r"(?:seen|visible|identified|present|shown|showed|shows)\b",
    r"\b(?:known|seen|shown) (?:from|on|by|in) (?:the )?(?:ct|mri|bone scan)\b",
    r"\b(?:ct|mri|ultrasound)(?: of)?(?: the)?(?: (?:chest|spine|scan))? ?(?:which )?(?::|showed"
    r"|shows|reported"
    r"|however)",
    r"\b(?:on|see|by|to) ct\b|\(ct\b|\bct (?:is )?to follow\b",
    rf"{_NO}[^.;,]{{0,60}}\b(?:ago|at admission|on admission|last (?:week|month|year)|before the"
    r"|at the time of|in the emergency)\b",
    rf"{_START}(?:in (?:19|20)\d\d|last (?:week|month|year)|(?:\w{{1,8}} ){{1,2}}(?:days|weeks"
    rf"|months"
    r"|years) ago|initially|yesterday|(?:at|on) admission|on day \d|according to)\b",
    rf"\b(?:the )?{_THEN} (?:{_IMAGE}|study|exam|examination)s?,? (?:did|does|do|had|has|have|show"
    r"|shows|showed|was|were|which|no|there|the)\b",
    rf"\bon the {_THEN} (?:{_IMAGE}|study|exam|examination)s?\b",
    r"\bpreviously normal\b|\bprevious report of\b",
    r"\b(?:physician|resident|clinician|patient|teleradiolog\w{1,3}|report|note|doctor) (?:says"
    r"|said"
    r"|states|stated|wrote|reports|reported|read|denies|thinks|thought|saw|has no known)\b",
    rf"\bno known (?:[a-z]{{1,15}} ){{0,2}}{_FRACTURE}",
)
_SUPPOSED = _pattern(
    rf"{_START}(?:if|provided|assuming|unless|hopefully|in case|make sure)\b[^.;]{{0,60}}{_NO}",
    rf"{_START}\? ?no\b|\b(?:should|ought to) (?:be|have) (?:no|normal|intact)\b",
    r"\b(?:hope|hoping)\b|\bi expect\b|\bexpect(?:ed|ing)? (?:no|to be (?:no|normal)|that)\b",
)
_LOW = r"(?:0?\.[0-4]\d{0,9}\b|\b[0-4]?\d ?%|\b(?:very )?low\b|\bsmall\b|\bminimal\b|\bunlikely\b)"
_LOW_NUMBER = r"(?:0?\.[0-4]\d{0,9}\b|\b[0-4]?\d ?%)"
_SCORED = _pattern(
    rf"\b(?:probability|likelihood|chance|risk|score|confidence)\b[^.;]{{0,30}}{_LOW}",
    rf"\bp ?\( ?{_FRACTURE}|\bfracture[^.;,|a-z(]{{0,12}}{_LOW_NUMBER}|{_LOW} probability",
)
_UNREAL = _pattern(r"\bfalse[- ]positive\b|\bpseudo-?fractures?\b|\b(?:is|are) not real\b")
_BY_CT = _pattern(r"\bct (?:has |have )?(?:excluded|ruled out)\b|\bnot to be confused with\b")
_ASKED = _pattern(
    r"\b(?:the |a )?(?:user|question|prompt|task|instruction)s? (?:is (?:about|asking|whether|if)"
    r"|(?:asks?|asked|wants?|wanted|would like|needs?) )",
    r"\bi was asked (?:about|whether|if)\b",
)
_PRESUPPOSED = _pattern(
    r"\bno (?:[a-z]{1,15} ){0,2}fracture[ -](?:fragment |line )?(?:extension|displacement"
    r"|complications?|related|angulation|gap|progression|healing)\b",
    r"\b(?:no|not an?|not) (?:acute|fresh|new|recent) fracture,? (?:but|it is|rather|this is)"
    r" (?:it is )?(?:an? )?(?:old|healed|chronic|healing)(?: one| fracture)?(?=[\s.]*$|,|;)",
    r"\bno fracture lines? (?:involves?|extends?|reach)|\bnot a single\b[^.;]{0,20}\bwithout\b",
    r"\bnothing new\b[^.]{0,20}\bfracture|\brecent rib fractures are not\b"
    r"|\b(?:his|her|their|reported|diagnosed) (?:[a-z]{1,12} )?fractures? "
    r"(?:is|are|was|were) not (?:seen|visible|identified|visuali[sz]ed)\b",
)
_SUPERSEDED = _pattern(
    rf"{_START}(?:it was )?(?:previously|initially|originally|formerly|first) (?:reported|read"
    rf"|called"
    r"|interpreted|described|signed out) as\b",
    rf"{_START}at first (?:glance|sight|look)\b",
)
_WRONG = r"(?:is|was) (?:incorrect|wrong|false|untrue|mistaken|not (?:true|correct))\b"
_TAKEN_BACK = _pattern(
    rf"{_START}(?:the |this |that )?(?:statement|claim|sentence|answer|phrase|impression)\b"
    rf"{_FAR}\b{_WRONG}",
    rf"{_START}(?:this|that) {_WRONG}|{_START}it is (?:false|untrue|wrong|incorrect) that\b",
    rf"\bno (?:[a-z]{{1,15}} ){{0,3}}fractures?[\"'”’]?,? (?:which |that )?{_WRONG}",
)

# Forms

_BOXES = _pattern(r"[\u2610-\u2612\u2705\u2713-\u2718\u274c\u274e]", r"[\[(][ xX][\])]")
_CHOICES = _pattern(rf"\([a-d]\) ?no [^()]{{0,30}}{_FRACTURE}[^()]{{0,20}}\([a-d]\)")
_CELL = _pattern(
    rf"(?:^|\|)\s{{0,5}}(?:any |rib )?{_FRACTURE}\s?(?:present|seen)?\??\s{{0,5}}(?:\||$)"
)
_INJURED = _pattern(
    r"\b(?:fell|fall|falls|mva|mvc|rta|rtc|trauma|assault|assaulted|cpr|kicked|punched)\b"
)


def _finds(phrase: Phrase, *patterns: re.Pattern[str]) -> bool:
    return any(pattern.search(phrase.sentence.body) for pattern in patterns)


def _says_bones(phrase: Phrase) -> bool:
    return has(phrase.tokens, Kind.FRACTURE, Kind.BONE, Kind.SKELETON, Kind.LEVEL, Kind.NUMBER)


def _hit(is_found: bool, words: Sequence[int] = ()) -> Hit | None:
    return Hit(words) if is_found else None


def _find_common_knowledge(phrase: Phrase) -> Hit | None:
    """Find "rib fractures are common after falls", in which no side is named."""
    return _hit(_finds(phrase, _COMMON) and not has(phrase.tokens, Kind.SIDE))


def _find_no_image(phrase: Phrase) -> Hit | None:
    return _hit(_finds(phrase, _NO_IMAGE))


def _find_unjudged(phrase: Phrase) -> Hit | None:
    return _hit(_finds(phrase, _UNJUDGED))


def _find_asked(phrase: Phrase) -> Hit | None:
    return _hit(_finds(phrase, _ASKED))


def _find_referral(phrase: Phrase) -> Hit | None:
    """Find the "?" of "fell off a ladder, ?fracture of left ribs", which asks."""
    marks = phrase.places(lambda token: token.kind is Kind.QUERY, 0, len(phrase.tokens))
    fractures = phrase.places(lambda token: token.kind is Kind.FRACTURE, 0, len(phrase.tokens))
    is_marked = bool(marks) and bool(fractures) and marks[0] < fractures[0]
    is_open = is_marked and not has(phrase.tokens, Kind.NUMBER, Kind.LEVEL)
    return _hit(is_open and _finds(phrase, _INJURED), marks[:1])


def _find_superseded(phrase: Phrase) -> Hit | None:
    """Find a denial that somebody read before, and a statement that is called wrong."""
    is_denial = has(phrase.tokens, Kind.NEGATION, Kind.ABSENT)
    is_denial &= not has(phrase.tokens, Kind.COMMA, Kind.BREAK)
    return _hit(_finds(phrase, _TAKEN_BACK) or (is_denial and _finds(phrase, _SUPERSEDED)))


def _find_score(phrase: Phrase) -> Hit | None:
    return _hit(_says_bones(phrase) and _finds(phrase, _SCORED, _UNREAL, _BY_CT))


def _find_boxes(phrase: Phrase) -> Hit | None:
    return _hit(_says_bones(phrase) and _finds(phrase, _BOXES, _CHOICES))


def _find_table(phrase: Phrase) -> Hit | None:
    return _hit("|" in phrase.sentence.body and _finds(phrase, _CELL))


def _find_bad_view(phrase: Phrase) -> Hit | None:
    """Find bones that are hard to see, an image that is not good enough, and a reader in doubt."""
    return _hit(_finds(phrase, _BAD_VIEW, _BAD_IMAGE) or _find_doubt(phrase) is not None)


def _find_doubt(phrase: Phrase) -> Hit | None:
    is_of_other = has(phrase.tokens, Kind.NOUN) and not _says_bones(phrase)
    return _hit(not is_of_other and _finds(phrase, _DOUBTED))


def _find_other_source(phrase: Phrase) -> Hit | None:
    """Find what was seen at another time, by another examination, or reported by somebody."""
    is_denial = has(phrase.tokens, Kind.NEGATION, Kind.ABSENT, Kind.NORMAL, Kind.ABNORMALITY)
    is_of_bones = has(phrase.tokens, Kind.FRACTURE, Kind.BONE, Kind.SKELETON) or any(
        token.value == "bones" for token in phrase.tokens
    )
    is_own = is_denial and is_of_bones and not _finds(phrase, _COMPARED)
    return _hit(is_own and _finds(phrase, _OTHER_SOURCE))


def _find_supposed(phrase: Phrase) -> Hit | None:
    """Find "if there is no fracture", "there should be no fracture", "? no fracture"."""
    return _hit(_says_bones(phrase) and _finds(phrase, _SUPPOSED))


def _find_presupposed(phrase: Phrase) -> Hit | None:
    return _hit(_finds(phrase, _PRESUPPOSED))


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
        "asked-by-user", "What somebody asks is not a finding.",
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
        "low-score", "A low score, a false positive and what a CT has excluded leave it open.",
        RuleVerdict.OPEN, _find_score,
        "Fracture likelihood: low", "Fracture: likely",
    ),
    TextRule(
        "check-boxes", "What is ticked and what is not cannot be read from the words.",
        RuleVerdict.OPEN, _find_boxes,
        "\u2610 No fracture \u2612 Fracture", "No fracture",
    ),
    TextRule(
        "table-head", "The head of a table names a fracture and asserts none.",
        RuleVerdict.OPEN, _find_table,
        "Rib | Side | Fracture", "Left 5th rib | fractured",
    ),
)  # fmt: skip
VIEWS = (
    TextRule(
        "bad-view", "Where bones are hard to see, or the reader doubts, nothing is absent.",
        RuleVerdict.OPEN, _find_bad_view,
        "The lower ribs are cut off.", "The lung bases are cut off.",
    ),
    TextRule(
        "other-source", "What was seen at another time or elsewhere, or is reported, is open.",
        RuleVerdict.OPEN, _find_other_source,
        "Two weeks ago there was no fracture.", "No fracture; compared with two weeks before.",
    ),
    TextRule(
        "supposed", "What is supposed, hoped or likely is not denied.",
        RuleVerdict.OPEN, _find_supposed,
        "If there is no fracture, the patient may go home.", "There is no fracture.",
    ),
    TextRule(
        "presupposed", "A fracture whose displacement or change is denied is there.",
        RuleVerdict.OPEN, _find_presupposed,
        "No fracture displacement.", "No displaced fracture.",
    ),
)  # fmt: skip
