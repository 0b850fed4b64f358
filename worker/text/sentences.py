"""Cut a text into sentences and tell findings from headings, prompts, questions and loops."""

import re
from collections import Counter
from dataclasses import dataclass

from worker.text.lines import FOLD, unwrap

LONGEST = 10_000  # characters read of one text
LONGEST_SENTENCE = 600  # characters; what runs on for longer is not a report sentence

_MARKUP = re.compile(
    r"</?(?:s|b|i|p|u|em|br|hr|strong|ul|ol|li|span|div|html|body|h[1-6]|font|pad|unk|bos|eos|td|tr"
    r"|table|code|pre|answer|think|thinking|reasoning|report|findings?|impression|conclusion|result"
    r"|response|output|final|summary|text|assistant|user|system|image|img)\s*/?>"
    r"|<\|[^<>|]{0,40}\|>|\[/?INST\]|\\(?:boxed|text(?:bf|it)?)\{|[*`]{1,3}|^[ \t]*#{2,6}\s"
    r"|^[ \t]*#\s(?!(?:of|the|in|is|are|at|through|seen|noted|present|involving|left|right|lt|rt"
    r"|l|r|both|bilateral|b/l|surgical|neck|noh|nof|shaft|prox|proximal|dist|distal|wedge)\b"
    r"|[rltdc]?\d)",
    re.IGNORECASE | re.MULTILINE,
)
# Boxes of grounded answers: "<|box|>(12,30),(40,60)<|/box|>", "<box><x10><y20><x30><y40></box>".
_BOX = re.compile(
    r"\(\s?\d{1,4}(?:\.\d{1,4})?\s?,\s?\d{1,4}(?:\.\d{1,4})?\s?\)(?:\s?,\s?(?=\())?"
    r"|\[\s?[01]\.\d{1,4}(?:\s?,\s?[01]\.\d{1,4}){3}\s?\]|<[xy]\d{1,4}>|</?(?:obj|box)>"
)
_GROUNDED = re.compile(r"<\|/ref\|>|</obj>")
# The words of one box after another: "left rib fracture left rib fracture".
_SAME_BOXES = re.compile(
    r"(?P<start>^|[.;:\n])(?P<gap>\s{0,4})"
    r"(?P<words>(?!(?:no|not|without|neither|nor)\b)(?:[a-z0-9-]{1,20}\s){1,6}fractures?)"
    r"(?:[\s,;]{1,20}(?P=words)\b)+(?=[\s.,;]{0,20}(?:\n|$|[A-Z]))",
    re.IGNORECASE,
)
_MOST_BOXES = 25  # of one name; a model that names more has lost its way
_BONE_WORD = re.compile(r"\b(?:rib|clavic|scapul|humer|stern|vertebra|spine)", re.IGNORECASE)
# "Fractures:" on one line and "None" on the next; "left 5th rib fracture" on a line is no heading.
_NONE_BELOW = re.compile(
    r"^(?P<of>[^\n]{0,60}\bfractures?(?=[ \t]{0,3}:)|[*_#\s]{0,5}(?:(?:rib|bone|any|acute)\s){0,3}"
    r"fractures?)[ \t]{0,3}:?[*_ \t]{0,5}\n\s{0,20}(?:[-*\u2022+][ \t]{0,3})?"
    r"(?=(?:none|no|nil|absent|negative|not)\b(?:[ \t](?:seen|identified|detected|noted|present"
    r"|found|evident|visible|visualized)){0,2}[.\s]{0,5}(?:$|\n))",
    re.IGNORECASE | re.MULTILINE,
)
_STARRED = re.compile(r"\[\*\*[^\]\n]{0,60}\*\*\]")
_BLANK = re.compile(r"(?<![a-z0-9])_{2,}|\b[xX]{3,}\b", re.IGNORECASE)
BLANK_WORD = "xxxx"
"""Stands for whatever de-identification has blanked."""
_ECHO = re.compile(
    r"describe (?:the )?(?:bones|bony structures|fractures?)\b[^.?!\n\[\]]{0,60}[.?!:\n]?"
    r"|(?:(?:you are|act as) an?|you (?:will|should|must)|your (?:task|job|goal|role) is)\b"
    r"[^.?!\n]{0,120}(?:[.?!\n]|$)",
    re.IGNORECASE,
)
_REQUEST = (
    r"indications?|clin(?:ical)? (?:history|hx|info|information|indications?|details?|data|question"
    r"|statement)"
    r"|history|hx|reason|reason for (?:the )?(?:exam|examination|study|request|visit)|technique"
    r"|(?:prior|previous|outside) (?:reports?|study|exam|examination|findings?|imaging|films?)"
    r"|(?:ed|er|wet|overnight|outside|old|prior|previous|last|earlier) (?:reads?|reading|cxr|films?"
    r"|x-?rays?|radiographs?|hospital|ct|interpretation)|cxr (?:19|20)\d\d|old report"
    r"|(?:hip|head|brain|abdominal|pelvic|knee) (?:ct|radiographs?|x-?rays?|mri)"
    r"|comparisons?|exam|examination|procedure|study|prompt|question|instructions?|examples?|user"
    r"|human|request|query|q"
    r"|(?:example|sample|expected|desired|required|template) (?:outputs?|answers?|reports?"
    r"|responses?|findings|impressions?|results?)"
)
_RESULT = (
    r"findings?|impressions?|conclusions?|report|results?|assessment|opinion|interpretation"
    r"|answers?"
    r"|assistant|response|summary|diagnosis|description|output|a"
)
# A line that says what part of the chest it is about ends a request.
_SECTION = (
    r"(?:(?:bones?|bony structures|osseous structures|skeleton|soft tissues|lungs?|pleura|heart"
    r"|mediastinum|chest wall|ribs|lines|tubes|diaphragm|hila)(?: and |, |/)?){1,3}"
)
_HEADING = re.compile(
    rf"(?<![\w/])(?:(?P<request>{_REQUEST})|(?P<result>{_RESULT}))\s*:(?!\w)"
    rf"|(?<=\n)(?P<section>{_SECTION})\s?:(?!\w)",
    re.IGNORECASE,
)
# A full stop behind a shortened word ("prox. humerus") ends a sentence only where no word that goes
# with it follows. Look-behinds must have a fixed width in Python, hence one each.
_SHORTENED = (
    r"(?<=\bsurg)|(?<=\bprox)|(?<=\bdist)|(?<=\bsusp)|(?<=\bprob)|(?<=\bposs)|(?<=\bcomp)"
    r"|(?<=\bpost)|(?<=\bant)|(?<=\blat)|(?<=\bclav)|(?<=\bscap)|(?<=\bhum)|(?<=\bvert)"
    r"|(?<=\bdispl)|(?<=\bfract)|(?<=\bfrac)"
)
_GOES_ON = (
    r"\d|fx|frac|\#|ribs?\b|neck|hum|clav|scap|vert|compr|aspect|third|end\b|arc|shaft|head|non"
    r"|displ"
    r"|of\b|[tld]\d"
)
# "The 6. and the 7. rib" of German notes, whose full stop ends no sentence
_NUMBERED_ON = (
    r"ribs?\b|(?:and|or|to|through|AND|OR|TO|THROUGH)\s{1,3}(?:(?:the|THE)\s{1,3})?\d{1,2}[.][\s,]"
)
_BOUNDARY = re.compile(
    r"""(?<!\b[lL][tT])(?<!\b[rR][tT])(?<!\b[lLrR])(?<!\bvs)(?<!\bVS)(?<!\be\.g)(?<!\bi\.e)
        (?<!\bapprox)(?<!\b[dD]r)(?<!\brib\s[nN]o)(?<!\brib\s[nN]os)(?<!\bRIB\sNO)(?<!\bRIB\sNOS)(?<!^\d)(?<!\n\d)(?<!\s\d)
        (?<!^[a-kA-K])(?<!\n[a-kA-K])(?<!\n[iI]{2})(?<!\n[iI]{3})(?<!\n[iI][vV])(?<!\n[vV])(?<!\n[vV][iI])
        (?!(?<=\b[nN]o)[.][a-z])(?!(?<=\d)[.]\s{1,3}"""
    rf"(?:{_NUMBERED_ON})"
    r""")
        (?!(?:(?<=[.]\sAND\s\d\d)|(?<=[.]\sAND\sTHE\s\d\d)|(?<=[.]\sTO\s\d\d))[.]\s{1,3}RIBS?\b)
        """
    rf"(?!(?i:{_SHORTENED})[.]\s+(?i:{_GOES_ON}))"
    r"""
        [.!]{1,16}["')\]]{0,8}(?=\s|$|[A-Za-z]{2})
      |(?<=[\w)\]"'\#])[?]+["')\]]*(?=\s|$)
      |(?<=\d)[.](?=\s*$)
      |(?<=\s\d)(?<![.]\sAND\s\d)(?<![.]\sAND\sTHE\s\d)(?<![.]\sTO\s\d)[.](?=\s+[^\d\s])(?!\s{1,3}"""
    rf"(?:{_NUMBERED_ON})"
    r""")
      |\n\s*\n|\n(?=\s*(?:[-\u2022\u25cf>]|\d{1,2}[.)]\s|(?i:[a-k]|i{1,3}|iv|vi?)[.]\s))""",
    re.VERBOSE,
)
_MARKER = re.compile(
    r"^\s*(?:[-\u2022\u25cf>]+\s*"
    r"|\(?\d{1,2}[.)]\s+(?!(?i:(?:and|or|to|through)\s(?:the\s)?\d{1,2}[.]\s))|[a-zA-Z]\)\s+"
    r"|(?i:[a-k]|i{1,3}|iv|vi?)\.\s+(?!\d))"
)
_INNER_MARKER = re.compile(
    r"(?<=[.;:,)a-z])\s+\(?\d{1,2}\)\s+|(?<=[.;:])\s+\d{1,2}\.\s+", re.IGNORECASE
)
_FIRST_ITEM = re.compile(r"\s*(?:[a-z]+:\s*)?1[.)]\s", re.IGNORECASE)
_QUESTION = re.compile(
    r"^\W*(?:is|are|does|do|did|was|were|can|could|has|have|what|which|where|how|should)\b"
    r"[^.]*\?\W*$",
    re.IGNORECASE,
)
_UNSURE_MARK = re.compile(r"\w\s?\(\s?\?\s?\)\W{0,3}$")
_ORDER = re.compile(
    r"\W*(?:please\s+)?(?:for\s(?:each|every|any)\s(?:[a-z]+\s){1,3})?(?:report|list|output|name"
    r"|identify|describe|locate|find|give|provide|write|specify"
    r"|answer|tell|mark|count|analy[sz]e|generate|interpret|examine|review|determine|detect"
    r"|explain)"
    r"\s+[\"']?(?!of\b)\w",
    re.IGNORECASE,
)
_PLACEHOLDER = re.compile(
    r"\[(?![^\]]{0,40}(?:\d|left|right|first|second|third|\w+th\b))[^\]]{1,40}\]"
    r"|\{(?![^}]{0,40}[\":])[^}]{0,40}\}|<[a-z][a-z _-]{0,30}>"
    r"|\?{3,}"
    r"|\b(?:left\s*/\s*right|right\s*/\s*left|l\s*/\s*r|yes\s*/\s*no|y\s*/\s*n|present\s*/\s*absent"
    r"|absent\s*/\s*present|none\s*/\s*present)\b|\b(?:insert|specify|placeholder|tbd|n/a)\b"
    r"|%[sd]\b"
    r"|\((?:side|number|location|level|bone|rib number|region|s)\)|\b[nx]th\b|\bxx\b"
    r"|\$\w|\.{3}\s+rib|\btrue\s?(?:or|/|\|)\s?false\b"
    r"|[\"'][a-z]{1,20}(?:\s?\|\s?[a-z.]{1,20}){1,12}",
    re.IGNORECASE,
)
_FOREIGN_LETTER = re.compile(
    r"[\u0370-\u03ff\u0400-\u04ff\u0590-\u06ff\u0900-\u0dff\u0e00-\u0eff\u1100-\u11ff"
    r"\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"
)
_WIDE = re.compile(r"\s{2,}")
_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence as it stands in the text, and what of it is to be read."""

    verbatim: str
    body: str
    is_request: bool = False  # an indication, a comparison, a prompt: not a finding
    is_question: bool = False
    has_placeholder: bool = False
    is_last: bool = False
    has_end: bool = True


def split_sentences(text: str, *, joins: bool = True) -> list[Sentence]:
    """Return the sentences of `text`, at most `LONGEST` characters of it, in order.

    A line that may or may not go on in the next line does, unless `joins` is false.
    """
    text = without_markup(text)
    text = _WIDE.sub(_narrow_gap, text if joins else text.replace(FOLD, "\n"))
    text = _INNER_MARKER.sub(
        _part_at_marker, _blank_matches(_MARKUP, _blank_matches(_ECHO, _part_items(text)))
    )
    pieces = [piece for part in _headed_parts(text) for piece in _split_part(*part)]
    return [
        _read_sentence(piece, is_request, at == len(pieces) - 1)
        for at, (piece, is_request) in enumerate(pieces)
    ]


def without_markup(text: str) -> str:
    """Return the words of `text` without boxes and markup, at most `LONGEST` characters."""
    text = _WIDE.sub(_narrow_gap, unwrap(text[:LONGEST]))
    text = _DENIED_ITEMS.sub(_join_items, text)
    text = _STARRED.sub(f" {BLANK_WORD} ", text).replace("[/INST]", "\n")
    text = _NONE_BELOW.sub(r"\g<of>: ", text)
    text = _BOX.sub(" ", _GROUNDED.sub(" ; ", text))
    return _SAME_BOXES.sub(_keep_first_box, _MARKUP.sub(" ", text))


# "No evidence of:" above a list of what is not there
_DENIED_ITEMS = re.compile(
    r"(?P<no>\b(?:no (?:evidence|signs?) of(?: the following)?|negative for|absence of|shows? no"
    r"|none of the following(?: (?:is|are) (?:seen|present|identified))?|without|not (?:seen"
    r"|identified"
    r"|present)|(?:pertinent )?negatives|negative findings|absent(?: findings)?|there (?:is"
    r"|are) no(?: vis"
    r"ible)?|does not show(?: any)?(?: of the following)?|do not see any of the following))"
    r"[ *_]{0,5}:?[ *_]{0,5}\n"
    r"(?P<items>(?:\s{0,5}(?:[-*\u2022+]|\d{1,2}[.)])[ \t]{1,3}[^\n:]{1,60}(?:\n|$)){1,20})",
    re.IGNORECASE,
)
_LEADING_NO = ("no ", "negative for", "absence", "shows no", "show no", "without")
_ITEM_MARK = re.compile(r"^\s{0,5}(?:[-*\u2022+]|\d{1,2}[.)])\s{0,5}")


def _join_items(denied: re.Match[str]) -> str:
    items = [
        _ITEM_MARK.sub("", line).strip(" \t.;,")
        for line in denied["items"].split("\n")
        if line.strip()
    ]
    begin = denied["no"]
    if not begin.lower().startswith(_LEADING_NO):
        begin = "No"
    return f"{begin} {' or '.join(items)}.\n"


def _keep_first_box(same: re.Match[str]) -> str:
    is_some = same.group().lower().count("fracture") <= _MOST_BOXES
    is_of_bone = is_some and _BONE_WORD.search(same["words"])
    return same["start"] + same["gap"] + same["words"] if is_of_bone else same.group()


def _part_items(text: str) -> str:
    """Part "1. Rib fracture 2. Clavicle fracture", which counts on from one."""
    if not _FIRST_ITEM.match(text):
        return text
    start, number, parts = 0, 2, []
    while item := re.compile(rf"(?<=[\w)])\s{number}[.)]\s+(?=[A-Z])").search(text, start):
        parts.append(text[start : item.start()])
        start, number = item.end(), number + 1
    return "\n\n".join([*parts, text[start:]])


def _part_at_marker(marker: re.Match[str]) -> str:
    """Part at the "2)" of a list, and not at the "9)" of "(5 through 9)"."""
    before = marker.string[max(0, marker.start() - 80) : marker.start()]
    is_open = before.rfind("(") > before.rfind(")") and "(" not in marker.group()
    return marker.group() if is_open and ")" in marker.group() else "\n\n"


def _narrow_gap(gap: re.Match[str]) -> str:
    lines = gap.group().count("\n")
    return "\n\n" if lines > 1 else "\n" if lines else " "


def _blank_matches(pattern: re.Pattern[str], text: str) -> str:
    return pattern.sub(" ", text)


def _headed_parts(text: str) -> list[tuple[str, bool, bool]]:
    """Return (text, is a request, ends at a heading) for each headed part."""
    headings = list(_HEADING.finditer(text))
    starts = [0, *(h.start() for h in headings), len(text)]
    parts = []
    for at, heading in enumerate([None, *headings]):
        part = text[starts[at] : starts[at + 1]]
        is_request = bool(heading and heading["request"])
        is_closed = any(h["result"] for h in headings[at:])
        parts.append((part, is_request, is_closed))
    return parts


def _split_part(part: str, is_request: bool, is_closed: bool) -> list[tuple[str, bool]]:
    out: list[tuple[str, bool]] = []
    start = 0
    for boundary in [*_BOUNDARY.finditer(part), None]:
        end = boundary.end() if boundary else len(part)
        for line in part[start:end].split("\n"):
            if _WORD.search(line):
                # A request without a closing heading is taken to end with its first sentence.
                out.append((line, is_request and (is_closed or not out)))
        start = end
    return out


def _read_sentence(piece: str, is_request: bool, is_last: bool) -> Sentence:
    verbatim = piece.strip().replace(FOLD, "\n")
    body = _BLANK.sub(f" {BLANK_WORD} ", _MARKER.sub("", verbatim))
    body = " ".join(body.split()).rstrip("; ")
    if len(body) > LONGEST_SENTENCE:
        return Sentence(verbatim, body, is_request, is_last=is_last)
    heading = _HEADING.match(body)
    if heading:
        body = body[heading.end() :].strip()
    return Sentence(
        verbatim=verbatim,
        body=body,
        is_request=is_request or bool(_ORDER.match(body)),
        is_question=_asks(body),
        has_placeholder=bool(_PLACEHOLDER.search(body)),
        is_last=is_last,
        has_end=bool(re.search(r"[.!?;:\"')\]]\s*$", piece)),
    )


def _asks(body: str) -> bool:
    """Tell a question from a fracture that is marked as unsure: "left 5th rib fracture (?)"."""
    if _UNSURE_MARK.search(body):
        return False
    return body.rstrip("\"') ").endswith("?") or bool(_QUESTION.search(body))


def has_foreign_letters(text: str) -> bool:
    """Tell whether `text` has letters of a script that English does not use."""
    return bool(_FOREIGN_LETTER.search(text))


def is_loop(text: str) -> bool:
    """Tell whether a model went round in circles: a sentence, words or a counter over and over."""
    text = without_markup(text).lower()
    # A model in a loop names invented fractures until its tokens run out: nothing of such a text
    # may be believed, so it is looked for before any sentence is read.
    said = [" ".join(_WORD.findall(s)) for s in re.split(r"(?<!\b[lr]t)(?<!\b[lr])[.!?\n;]+", text)]
    counts = Counter(s for s in said if len(s.split()) >= 2)
    counted = Counter(re.sub(_NUMERAL, "#", s) for s in said if len(s.split()) >= 2)
    if any(n >= 3 for n in counts.values()):
        return True
    if any(n >= 9 and "#" in s for s, n in counted.items()):
        return True
    words = _WORD.findall(text)
    return _repeats_words(words, 3) or _repeats_words([re.sub(_NUMERAL, "#", w) for w in words], 8)


_NUMERAL = (
    r"\b(?:\d+(?:st|nd|rd|th)?|first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth"
    r"|eleventh|twelfth)\b"
)


def _repeats_words(words: list[str], times: int) -> bool:
    """Tell whether up to eight words follow themselves `times` times, once more for one or two."""
    for period in range(1, 9):
        run = 0
        for at in range(period, len(words)):
            run = run + 1 if words[at] == words[at - period] else 0
            # A run of numerals alone is a list of ribs.
            if run >= period * (times - (period > 2)) and (
                set(words[at - period + 1 : at + 1]) != {"#"}
            ):
                return True
    return False
