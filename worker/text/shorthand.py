"""Spell out the shorthand of report writers: s/p, c/w, the # of a fracture, "first six ribs"."""

import re

_CARDINALS = "one two three four five six seven eight nine ten eleven twelve"
CARDINALS = tuple(_CARDINALS.split())
_ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth"
ORDINALS = tuple(_ORDINALS.split())

# British notes write # for fracture; before a bare number it means "number", as in "rib #5".
_HASH = re.compile(
    r"""(?<![\#\w\[{<])(?<!\#\s)\#
        (?:(?P<many>'?s\b)
        |(?=\s*\d{1,2}\s?(?:st|nd|rd|th)\b|\s*(?:[ltdcr]|th)-?\d)
        |(?=(?:l|r|lt|rt|left|right|neck|of)\b|rib|clav|scap|hum|stern|vert)
        |(?!\s*\d|[\w\#\]}>)$%@!*&^]))""",
    re.VERBOSE,
)


def _spell_hash(mark: re.Match[str]) -> str:
    return " fractures " if mark["many"] else " fracture "


def _drop_counts(counted: re.Match[str]) -> str:
    """Read "fractures: 3 on the left, 2 on the right", but not the ribs of "5 left, 6 left"."""
    one, other = counted["one"], counted["other"]
    if _DENIED.search(counted.string, max(0, counted.start() - 60), counted.start()):
        return counted.group()  # "no rib fractures on the right and two on the left"
    if other and one.split()[-1][0] == other.split()[-1][0] != "s":
        return counted.group()
    return f"{counted[1]}: {'bilateral' if other else one}"


_MONTHS = "january|february|march|april|may|june|july|august|september|october|november|december"
_FIRST_OF_LIST = re.compile(  # "Fracture 1: left 5th rib"
    r"(?:(?<=; )|(?<=, )|(?<=- )|^)(?:fracture|fx|finding) ?#? ?\d{1,2} ?[:-](?= )"
)
_AT_PLACES = re.compile(
    rf"\b(at|in) (?:\d{{1,2}}|{'|'.join(CARDINALS)}) ((?:[a-z]{{1,12}} )?(?:levels|sites|places"
    r"|locations|ribs)\b)"
)
_MORE_OF = re.compile(  # "one in the right 6th rib, two in the left 7th rib"
    rf"(?:(?<=, )|(?<=and ))(?:{'|'.join(CARDINALS)}) (?=(?:in|of|on) the (?:left|right) )"
)
_NOT_THEN = re.compile(  # "left 4th rib fracture, not present on the film of 12/3"
    r"(?<=, )not (?:present|seen|visible) (?:on the (?:film|study|radiograph|ct|exam) (?:of|from)"
    r" \d[\d/.-]{0,9}"
    rf"|in (?:{_MONTHS})\b)"
)
# "finding": "rib fracture", "present": false
_FINDING_FIELD = re.compile(
    r"[\"'](?:finding|label|name|pathology|abnormality|condition|class|disease)[\"']\s?:\s?"
    r"[\"'](?P<what>[a-z ]{0,30}fractures?[a-z ]{0,20})[\"']\s?,\s?"
    r"[\"'](?:present|value|detected|positive|status|answer|prediction|result)[\"']\s?:\s?"
    r"[\"']?(?P<said>false|true|no|yes|0|1|absent|present|negative|positive|none)\b[\"']?"
)
_ANSWERED_NO = (
    re.compile(  # "fracture assessment: negative", "Fractures (n=0)", "rib fracture ... no"
        r"(\bfractures?\b|\bfxs?\b|\bbroken bones)(?: (?:finding|report|summary|description|number"
        r"|assessment"
        r"|exists|status|question|present|count))?s?\s?(?::|=|-|\.{3,20}|\(| )\s?(?:n ?= ?)?(?:no"
        r"|none|nil"
        r"|false|0(?:/\d{1,3})?|negative|absent|nothing|nope|not any|nil seen)\)?(?=[\s.;|}]{0,5}$)"
    )
)
_ANSWERED_INTACT = re.compile(  # "rib fractures: ribs intact", "fracture: no - all ribs intact"
    r"(\bfractures?) ?[:-] ?(?:(?:no|none)(?: ?-|,) ?)?(?:(?:the |all )?(?:ribs|bones"
    r"|clavicles)(?: are)? "
    r"(?:intact|normal|unremarkable)|no evidence\b[^.;,]{0,40})(?=[\s.]{0,5}$)"
)


def _name_none(answered: re.Match[str]) -> str:
    """Read the "no" of a form with one question."""
    is_one = len(_SPELT.findall(answered.string)) == 1
    return f"{answered[1]}: none" if is_one else answered.group()


_NO_WORDS = ("false", "no", "0", "absent", "negative", "none")


def _name_finding(field: re.Match[str]) -> str:
    return f"{field['what']}: {'none' if field['said'] in _NO_WORDS else 'present'}"


_NESTED_FIELD = re.compile(  # "fracture": {"present": false}, "fractures": {"rib": false}
    r"(\bfractures?[\"']\s?:\s?)\{(?:\s?[\"'][a-z_ ]{1,20}[\"']\s?:\s?[\"']?"
    r"(?:false|no|0|absent|none|null)[\"']?\s?,?){1,12}\}?"
)
_THOUGHT = "think|believe|suspect|feel"
_SAW = "see|notice|identify|find|detect|appreciate|observe|recognize"
# What denies in more words than one: "there is no evidence of the following: rib fracture".
_DENYING_PHRASES = (
    (
        re.compile(
            r"\b(no (?:evidence|signs?) of|negative for|absence of|none of|no|without)"
            r"(?:(?: any of)? the following)?(?: (?:are|is))?(?: (?:seen|present|identified))?"
            r"(?: findings)? ?: ?(?=[a-z])"
        ),
        r"\1 ",
    ),
    (
        re.compile(
            r"^(?:pertinent |relevant )?(?:negatives?(?: findings)?|not (?:identified|seen"
            r"|present|found)"
            r"|ruled out|excluded) ?: ?(?=[a-z])"
        ),
        "no ",
    ),
    (re.compile(r"\b(is|are|was|were|do|does|did|can|could|would|has|have)nt\b"), r"\1 not"),
    (
        re.compile(
            rf"\bi (?:do|did|would) ?not (?:(?:{_THOUGHT})(?: that)? (?:there|this|that|it) (?:is"
            rf"|are|was|were)"
            rf"|{_SAW}|call this)(?: an?| any)? (?=(?:[a-z]{{1,15}} ){{0,3}}(?:fract|fx))"
        ),
        "no ",
    ),
    (
        re.compile(
            r"\bno (?:indication|reason to (?:believe|suspect|think)|suggestion) that there (?:is"
            r"|are)"
            r"(?: an?| any)? "
        ),
        "no ",
    ),
    (re.compile(r"^(?:on neither side|nowhere) (?:is|are) (?:there )?(?:an? |any )?"), "no "),
    (re.compile(r"(: |; |, )i (?:do|did|can) ?not see any\b[^.;,]{0,15}$"), r"\1none"),
    (re.compile(r"(: |; |, )i (?:do|did|can) ?not see any(?=\.)"), r"\1none"),
    (re.compile(r"(\bfractures?|\bfxs?)(?: ?\.{3} ?| )(?:none|nil)(?=[\s.]{0,5}$)"), r"\1: none"),
    (
        re.compile(r"(\bfractures?|\bfxs?) (?:found|seen|count)? ?: ?(?:0|zero)(?=[\s.]{0,5}$)"),
        r"\1: none",
    ),
    (re.compile(r"\bfxs?(?= ?: ?n\b)"), "fracture"),
    (
        re.compile(r"\b(?:is_|has_)?fractured?(?=[\"']?\s{0,3}[:=]\s{0,3}(?:false|true|0|1)\b)"),
        "fracture",
    ),
    (_FINDING_FIELD, _name_finding),
    (_ANSWERED_NO, _name_none),
    (_ANSWERED_INTACT, r"\1: none"),
    (re.compile(r"\bnot even (?:one|a)\b|\bat no (?:site|level|point) (?:is|are) there\b"), "no"),
    (re.compile(r"\bno indications? of\b"), "no evidence of"),
    (
        re.compile(
            r"^(?:the following (?:findings )?(?:are|were) (?:absent|not (?:identified|seen"
            r"|present|found))"
            r"|(?:findings|pathologies) (?:not (?:present|seen|identified)|excluded)"
            r"|absent findings"
            r"|pertinent negatives include) ?:? ?(?=[a-z])|^absent ?: ?(?=[a-z])"
        ),
        "no ",
    ),
    (_NESTED_FIELD, r"\1none"),
)
_OPPOSITE = re.compile(
    r"\b(?:(?:opposite|other|contralateral) side|contralateral|opposite (?=\d|rib|clavicle))\b"
)
_SIDES = re.compile(r"\b(?:left|right|bilateral|both)\b")


def _name_opposite(named: re.Match[str]) -> str:
    """Read "the contralateral 6th rib" behind "left 5th rib" as the right 6th rib."""
    before = set(_SIDES.findall(named.string, 0, named.start()))
    other = {"left": "right", "right": "left"}.get(before.pop()) if len(before) == 1 else None
    return other or named.group()


_SAME = re.compile(r"\b(?:the )?same side\b|\bipsilateral\b")


def _name_same(named: re.Match[str]) -> str:
    """Read "ribs 2 and 3 on the same side" behind "right clavicle" as those on the right."""
    before = set(_SIDES.findall(named.string, 0, named.start()))
    side = before.pop() if len(before) == 1 else ""
    is_one = side in ("left", "right")
    return (f"the {side}" if "side" in named.group() else side) if is_one else named.group()


_DENIED = re.compile(r"\b(?:no|not|nor|without|never|negative|free)\b")
_RIB_HASH = re.compile(r"\b(ribs?) # (?=\d)")  # "rib # 3-4", unless a fracture is spelt out
_SPELT = re.compile(r"fract|\bfx")
_SEVERAL = "|".join(CARDINALS[1:])
_BREAK_IN = re.compile(  # "a break in the left clavicle", not a break in the protocol
    r"(?<!cortical )\b(?:break|cracks?)(?= (?:in|of|through) (?:the cortex of )?(?:the |an? )?"
    r"(?:left |right |lt |rt )?"
    r"(?:\w{1,12} )?(?:clavicle|collarbone|ribs?|scapula|humerus|sternum)\b)"
)
_NONE_COUNTED = re.compile(
    r"(?<![\w.-])0 (?=(?:acute |new |displaced |rib ){0,3}(?:fractures?|fxs?)\b)"
)
_SOME_COUNTED = re.compile(  # "three to four right rib fractures", not "ribs three to four"
    rf"(?<!rib )(?<!ribs )(?<!left )(?<!right )\b(?:{'|'.join(CARDINALS)}) ?(?:to|or|-) ?"
    rf"(?:{_SEVERAL})\b(?= (?:[a-z-]{{1,20}} ){{0,3}}(?:rib )?(?:fractures|fxs)\b)"
)
# What forms and JSON answers write: "fracture_present": false, "Fractures: 0", "fracture: 0.12".
_FIELD = re.compile(
    r"(?<=fracture)(s?)[_ ](?:status|count|detected|detection|present|findings?|results?|assessment"
    r"|probability|score)(?=[\"']?\s{0,3}[:=])"
)
_FIELD_START = r"((?<![a-z])fractures?[\"']?\s{0,3}[:=]\s{0,3}[\"']?)"
_NO_FIELD = re.compile(
    _FIELD_START
    + r"(?:0(?!\w|\.\d)|n(?![\w/=.]*\w)|false\b|nil\b|\[\s?\]|(?:no|none|absent|negative)(?=[\"']))"
    r"(?P<next>[\"']?\s{0,3},)?"
)
_SCORE = re.compile(
    _FIELD_START + r"(?:[01]?\.\d{1,20}|\d{1,3}\s?%)(?=[\"']?\s{0,3}(?:[},;\])]|\.?\s{0,3}$))"
)
_KEY_OF_PLACE = re.compile(  # "location": "left 6th rib", "age": "acute"
    r"[\"'](?:location|site|region|position|laterality|side|bone|level|age|acuity|status|type"
    r"|number"
    r"|rib_number)"
    r"[\"']\s?:"
)
_YES_FIELD = re.compile(  # "rib_fracture": "present", "clavicle_fracture": "absent"
    r"(?<=[_ ])(fractures?[\"']\s?:\s?[\"']?(?:present|yes|true|positive)[\"']?\s?),"
    r"(?=\s{0,3}[\"'][a-z_ ]{1,30}[_ ]fractures?[\"'])"
)
_EMPTY_FIELD = re.compile(  # "bone": null
    r"[\"'](?![a-z_ ]{0,20}fract)[a-z_ ]{1,30}[\"']\s?:\s?"
    r"(?:null\b|[\"'](?:none|null)?[\"']|\[\s?\])\s?,?"
)
_MANY = rf"(?:[1-9]\d?|{'|'.join(CARDINALS)})"
_ABOUT = r"(?:at least|about|approximately|up to|more than)"
_SIDE = r"(?:on the )?(?:left|right|lt|rt|l|r)\b(?: side\b)?"
# How many there are is no rib: "Rib fractures: 1 (left 5th)", "(2): left", "count: 2".
_COUNTS = (
    (
        re.compile(r"(\bfractures?\s{0,2}:?\s{0,2})[1-9]\d?\s{0,2}(?=\([^()\n]{0,60}\d)"),
        r"\1",
    ),
    (re.compile(r"(\bfractures?)\s{0,2}\([1-9]\d?\)\s{0,2}:"), r"\1:"),
    (
        re.compile(
            r"\bnumber of ((?:[a-z]{1,20} ){0,3}(?:fractures?|ribs|bones|vertebrae))"
            r"\s{0,2}[:=]\s{0,2}[1-9]\d?(?!\.?\d)"
        ),
        r"\1",
    ),
    # A plural and one number: "Rib fractures: 3." has three, "Rib fracture: 3" is of the third.
    (
        re.compile(
            rf"(\b(?:fractures|fxs|fractured ribs|broken ribs))\s?(?:[:=]|\(\s?n\s?=)\s?{_MANY}"
            r"(?=\s?\)?\s?(?:$|\.\s|\.$|;|(?:in )?total\b|overall\b|altogether\b))"
        ),
        r"\1",
    ),
    (re.compile(rf"(\b(?:fractures|fxs))\s?\(\s?(?:n\s?=\s?)?{_MANY}\s?\)"), r"\1"),
    (
        re.compile(
            rf"(\b(?:fractures|fxs))\s?[:=]\s?{_MANY} (?P<one>{_SIDE})"
            rf"(?:(?:,| and|;)\s?{_MANY} (?P<other>{_SIDE}))?"
            r"(?=\s?(?:$|\.\s|\.$|;|,? (?:none|nil|no|not)\b))"
        ),
        _drop_counts,
    ),
    (re.compile(r"(\bfractures?) count\s{0,2}[:=]\s{0,2}[1-9]\d?(?![.\d])"), r"\1"),
    # "Bilateral rib fractures, 3 on each side", "left rib fractures, 5 in total"
    (
        re.compile(
            rf"(\b(?:fractures|fxs)\s?[,(;:]?\s?)(?:with )?(?:{_ABOUT} )?{_MANY} "
            r"(?=(?:on|per) (?:each|either|both) sides?\b|in (?:total|number)\b)"
        ),
        r"\1",
    ),
    (  # "bilateral rib fractures (3 on the right, 2 on the left)"
        re.compile(
            rf"(\b(?:fractures|fxs))\s?(?:[,(;]|,? with)\s?(?:{_ABOUT} )?{_MANY} "
            rf"(?P<one>on the (?:left|right)\b)(?: side)?(?:,|,? and|;)\s?(?:{_ABOUT} )?{_MANY} "
            r"(?P<other>on the (?:left|right)\b)"
        ),
        _drop_counts,
    ),
    (  # "4 left rib fractures and 2 right rib fractures"
        re.compile(
            rf"(?:(?<=\bfractures and )|(?<=\bfractures, )|(?<=\bfxs and ))(?:{_ABOUT} )?{_MANY} "
            r"(?=(?:(?:left|right|lt|rt)(?:[ -]sided)? )?(?:rib )?(?:fractures|fxs)\b)"
        ),
        "several ",
    ),
    (  # "four rib fractures on the right and three on the left"
        re.compile(
            r"(\b(?:fractures|fxs)) (?P<one>on the (?:left|right)\b)(?: side)?(?:,|,? and|;)\s?"
            rf"(?:{_ABOUT} )?{_MANY} (?P<other>on the (?:left|right)\b)"
        ),
        _drop_counts,
    ),
    (  # "rib fractures: none on the right, 2 on the left"
        re.compile(
            rf"(\b(?:fractures|fxs)\s?[:=]\s?)(?:0|zero|none|no|nil) (?P<one>{_SIDE})(?:,|,? and|;)"
            rf" {_MANY} (?={_SIDE}\s?(?:[.;,]|$))"
        ),
        r"\1none \g<one>, several ",
    ),
    (  # "2 of the left ribs"
        re.compile(
            rf"(?<!\brib )(?<!\bribs )(?<!\band )(?<!, )\b(?:[1-9]\d?|{_SEVERAL}) of "
            r"(?=(?:the|these|those|his|her) (?:[a-z]{1,12} ){0,2}ribs\b)"
        ),
        "several of ",
    ),
)
# How many there are, whatever sign or word stands beside the number: ">6", "5 or more", "4+".
_SIZES = (
    (
        re.compile(r"(?<![\w.])\d{1,2}\s?[x\u00d7] (?=(?:[a-z-]{1,20} ){0,3}(?:ribs?\b|fract|fx))"),
        "several ",
    ),
    (re.compile(r"[<>\u2264\u2265]=?\s?\d{1,2}(?!\d|\s?(?:mm|cm|%))"), "several"),
    (
        re.compile(r"\b\d{1,2}(?:\+| or more)(?= (?:[a-z-]{1,20} ){0,3}(?:ribs?\b|fract|fx))"),
        "several",
    ),
    (
        re.compile(r"\b\d{1,2} of (?:the )?\d{1,2}(?= (?:[a-z-]{1,20} ){0,2}(?:fract|fx))"),
        "some of the",
    ),
)
_SLIPPED_NO = re.compile(  # "n0 fracture", "n o acute fracture", and not the N0 of a tumor
    r"(?<!\w)(?<!t\d )(?<!t\d[a-d] )n(?:0| o)"
    r"(?= (?:acute|new|old|definite|obvious|displaced|visible|evidence|bony|osseous"
    r"|rib|ribs|vertebral|compression|fract[a-z]{0,5}|fxs?)\b)"
)
_FAILS = re.compile(
    r"\bfail(?:s|ed|ing)? to (?:show|demonstrate|reveal|identify|detect|visualize|disclose|display"
    r"|depict|find)\b"
)
_NEGATIVE_STUDY = re.compile(
    r"\bnegative (?:[a-z]{1,12} ){0,3}(?:exam|examination|study|series|radiographs?|films?|views?"
    r"|x-?rays?|cxr) for\b"
)
_LINE = re.compile(  # "the 6th rib in the mid clavicular line" is not a clavicle
    r"\b(?:mid|para|anterior|posterior)?[ -]?"
    r"(?:clavicular|scapular|sternal|vertebral|axillary) line\b"
)
_QUITE_SURE = re.compile(  # "not entirely certain"
    r"\bnot (?:entirely|completely|fully|absolutely|wholly|totally|quite|altogether)"
    r" (certain|clear|sure|definite|definitive)\b"
)
_OTHERWISE_NAMED = re.compile(  # "5th rib fracture, previously reported as 6th"
    r"\b(?:previously|formerly|initially|originally|wrongly|erroneously|incorrectly) "
    r"(?:(?:reported|described|read|dictated|designated|interpreted) as"
    r"|(?:called|numbered|labell?ed)(?: as)?)(?= (?:the |left |right ){0,2}"
    rf"(?:\d|[tlc]\d|(?:{'|'.join(ORDINALS)})\b))"
)
_JUDGED = "ascertained|established|verified|proven|proved|substantiated|clarified|diagnosed|judged"
_SHORTHAND = (
    (re.compile(r"\bhaemo"), "hemo"),
    (re.compile(r"(?<=al)is(?=(?:e|ed|es|ing|ation)\b)|(?<=recogn)is(?=e)"), "iz"),
    (re.compile(r"\bcan(?:'t|not)\b"), "can not"),
    (re.compile(r"n't\b"), " not"),
    (re.compile(r"\bribs one\b"), "ribs 1"),
    (re.compile(r"\bnot a few\b"), "several"),
    (_SLIPPED_NO, "no"),
    (_FAILS, "fails to show"),
    (re.compile(r"\bfract(s?)\b(?=[.,;]| \S)"), r"fracture\1"),  # at a cut end it is no word
    (re.compile(r"\bnot (?:just|merely|solely|simply)\b"), "not only"),
    (re.compile(r"\bnot (?:fully|entirely|completely) (?=included|imaged|covered)"), "not "),
    (re.compile(r"\bpos\b"), "positive"),
    (re.compile(r"\bnoh\b"), "neck of humerus"),
    (re.compile(r"\bbut (?=(?:grossly )?intact\s?(?:[.,;]|$))"), "and "),
    (re.compile(r"(?<=\w )\(\s?-\s?\)(?=\s?(?:[,;.]|$))"), "negative"),
    (_NEGATIVE_STUDY, "negative for"),
    (_LINE, "midaxillary line"),
    (re.compile(r"\bno other ((?:[a-z]{1,20} )?(?:fractures?|fxs?)) than\b"), r"no \1 other than"),
    (re.compile(r"(?:(?<=[,;.] )|^)not one of (?:the|these|those)\b"), "none of"),
    (
        re.compile(r"\bneg(?:ative)? (?=(?:acute |new |rib ){0,2}(?:fractures?|fxs?)\b)"),
        "negative for ",
    ),
    (_QUITE_SURE, r"not \1"),
    (_OTHERWISE_NAMED, "rather than"),
    (re.compile(r"\b(?:up to|to|through|thru) and including\b"), "through"),
    (re.compile(r"\beval\b"), "evaluate"),
    *_SIZES,
    (re.compile(rf"\bnot be (?:[a-z]+ly )?(?:{_JUDGED})\b"), "not be determined"),
    (re.compile(r"\bw/o\b"), "without"),
    (re.compile(r"(?<!\w)-ve\b"), "negative"),
    (re.compile(r"(?<!\w)\+ve\b"), "positive"),
    (re.compile(r"(?<!\w)\(\s?-\s?\)"), "no "),
    (re.compile(r"\be/o\b"), "evidence of"),
    (re.compile(r"\bneg\b"), "negative"),
    (re.compile(r"\bnbi\b|\bno bi\b"), "no bony injury"),
    (re.compile(r"\bnowhere (?:to be )?(?=seen|visible|identified|evident)"), "not "),
    (re.compile(r"\bfractures?[ -]like\b"), "possible fracture"),
    (re.compile(r"(?<=[:=])(\s?)(?:nil|zero)(?=\s{0,3}(?:[.,;]|$))"), r"\1none"),
    (re.compile(r"(\bfractures?|\bfxs?)\s?-\s?(?:n|no|nil)(?=\s{0,3}(?:[.,;]|$))"), r"\1: none"),
    *_DENYING_PHRASES,
    (_OPPOSITE, _name_opposite),
    (_SAME, _name_same),
    (_NOT_THEN, "not previously present"),
    (re.compile(r"\bboth (?=(?:are |being |seen |located )?(?:on|in) the (?:left|right)\b)"), ""),
    (_FIRST_OF_LIST, "fracture: "),
    (_AT_PLACES, r"\1 several \2"),
    (_MORE_OF, "several "),
    (
        re.compile(
            r"\b(?:age|acuity|chronicity) of ((?:the )?(?:[a-z0-9]{1,15} ){0,5}fractures?) can ?not"
            r" be (?:determined|assessed|established)"
        ),
        r"\1 of indeterminate age",
    ),
    (re.compile(r"\bcompr? defs?\b"), "compression deformity"),
    (re.compile(r"\bmid-?clavicular (?=fracture|fx)"), "mid clavicular "),
    (re.compile(r"\bvcf(s?)\b"), r"vertebral compression fracture\1"),
    (re.compile(r"(?<![a-z0-9])[x\u00d7]\s?\d{1,2}\b"), ""),
    (_BREAK_IN, "fracture"),
    *_COUNTS,
    (_EMPTY_FIELD, ""),
    (_YES_FIELD, r"\1;"),
    (_FIELD, r"\1"),
    (_NO_FIELD, lambda field: f"{field[1]}none{' ;' if field['next'] else ''}"),
    (_SCORE, r"\1undetermined"),
    (_KEY_OF_PLACE, ""),
    (re.compile(r"(\bfractures?)(?: count)?(\s?[:=-]\s?)(?:zero|nil)(?=[\s.]{0,5}$)"), r"\1\2none"),
    (_NONE_COUNTED, "no "),
    (_SOME_COUNTED, "several"),
    (re.compile(r"\bw/"), "with "),
    (re.compile(r"\bs/p\b"), "status post"),
    (re.compile(r"\br/o\b"), "rule out"),
    (re.compile(r"\bc/w\b"), "consistent with"),
    (re.compile(r"\bh/o\b|\bhx\b(?: of\b)?"), "history of"),
    # No abnormality detected in bones; a patient who is in no acute distress is not meant.
    (
        re.compile(r"\b(bones?|skeleton|ribs|bony (?:thorax|cage))( ?:)? (?:(?:are|is) )?nad\b"),
        r"\1\2 normal",
    ),
    (re.compile(r"\bhwk ?(?=\d)"), "c"),  # the vertebrae of German notes
    (re.compile(r"\bbwk ?(?=\d)"), "t"),
    (re.compile(r"\blwk ?(?=\d)"), "l"),
    (re.compile(r"\by/o\b"), "year old"),
    (re.compile(r"\bb/l\b"), "bilateral"),
    (re.compile(r"\band\s*/\s*or\b"), "or"),
    (re.compile(r"&"), " and "),
    (re.compile(r"(?<![a-z])([ivx]+)-([ivx]+)(?![a-z])"), r"\1 to \2"),
    (re.compile(r"\(\s*\?+\s*\)|(?<!\?)\?{2,}+(?=.{0,200}\w)"), " possible mark "),
    (re.compile(r"\b(rib|ribs) #\s*(?=\d)"), r"\1 "),
    (re.compile(r"\b(image|case|exam|study|series|accession|mrn|page|id) #"), r"\1 number"),
    (_HASH, _spell_hash),
    (re.compile(rf"\bfirst ({_SEVERAL})(?= (?:(?:left|right|lt|rt|l|r) )?ribs\b)"), r"first to \1"),
    (re.compile(r"(?<=rib )(?:nos?|nrs?|num|numbers?)\.?\s*(?=\d{1,2}\b)|#\s*(?=\d)"), ""),
    (re.compile(rf"(?<=rib )number\s+(?=(?:{'|'.join(CARDINALS)})\b)"), ""),
    (
        re.compile(r"\bfracture[ -]free\b(?! (?:of|from|air|fluid|fragment|body)\b)"),
        "free of fracture",
    ),
    (re.compile(r"\bold(?:er)? (?=(?:man|woman|male|female|patient|person|lady|gentleman)\b)"), ""),
    (re.compile(r"\b(acute|chronic|old|new|healed)[ -](?:appearing|looking)\b"), r"\1"),
)


def spelt_out(text: str) -> str:
    """Return the lower-case `text` with the shorthand that the table of words does not hold."""
    if not _SPELT.search(text):
        text = _RIB_HASH.sub(r"\1 fracture ", text)
    for pattern, plain in _SHORTHAND:
        text = pattern.sub(plain, text)
    return text
