"""Cut a text into sentences and tell findings from headings, prompts, questions and loops."""

import re
from collections import Counter
from dataclasses import dataclass

LONGEST = 10_000  # characters read of one text

_MARKUP = re.compile(
    r"</?(?:s|b|i|p|u|em|br|hr|strong|ul|ol|li|span|div|html|body|h[1-6]|font|pad|unk|bos|eos|td|tr"
    r"|table|code|pre)\s*/?>|<\|[^<>|]{0,40}\|>|[*`]{1,3}|^\s*#{2,6}\s"
    r"|^\s*#\s(?!(?:of|the|in|is|are|at|through|seen|noted|present|involving|left|right|lt|rt|l|r|both"
    r"|bilateral|b/l)\b|[rltdc]?\d)",
    re.IGNORECASE | re.MULTILINE,
)
_ECHO = re.compile(
    r"describe (?:the )?(?:bones|bony structures|fractures?)\b[^.?!\n]{0,60}[.?!:\n]?"
    r"|(?:(?:you are|act as) an?|you (?:will|should|must)|your (?:task|job|goal|role) is)\b"
    r"[^.?!\n]{0,120}(?:[.?!\n]|$)",
    re.IGNORECASE,
)
_REQUEST = (
    r"indications?|clinical (?:history|information|indications?|details|data|question|statement)"
    r"|history|reason|reason for (?:the )?(?:exam|examination|study|request|visit)|technique"
    r"|comparisons?|exam|examination|procedure|study|prompt|question|instructions?|user|human|request|query|q"
)
_RESULT = (
    r"findings?|impressions?|conclusions?|report|results?|assessment|opinion|interpretation|answers?"
    r"|assistant|response|summary|diagnosis|description|output|a"
)
_HEADING = re.compile(
    rf"(?<![\w/])(?:(?P<request>{_REQUEST})|(?P<result>{_RESULT}))\s*:(?!\w)", re.IGNORECASE
)
_SHORTENED = (
    r"(?<=\bsurg)|(?<=\bprox)|(?<=\bdist)|(?<=\bsusp)|(?<=\bprob)|(?<=\bposs)|(?<=\bcomp)"
    r"|(?<=\bpost)|(?<=\bant)|(?<=\blat)|(?<=\bclav)|(?<=\bscap)|(?<=\bhum)|(?<=\bvert)"
    r"|(?<=\bdispl)"
)
_GOES_ON = (
    r"\d|fx|frac|\#|ribs?\b|neck|hum|clav|scap|vert|compr|aspect|third|end\b|arc|shaft|head|non|displ"
    r"|of\b|[tld]\d"
)
_BOUNDARY = re.compile(
    r"""(?<!\b[lL][tT])(?<!\b[rR][tT])(?<!\b[lLrR])(?<!\bvs)(?<!\bVS)(?<!\be\.g)(?<!\bi\.e)
        (?<!\bapprox)(?<!\b[dD]r)(?<!\brib\s[nN]o)(?<!^\d)(?<!\n\d)(?<!\s\d)
        """
    rf"(?!(?i:{_SHORTENED})[.]\s+(?i:{_GOES_ON}))"
    r"""
        [.!]+["')\]]*(?=\s|$|[A-Za-z]{2})
      |(?<=[\w)\]"'\#])[?]+["')\]]*(?=\s|$)
      |(?<=\d)[.](?=\s*$)
      |(?<=\s\d)[.](?=\s+[^\d\s])
      |\n\s*\n|\n(?=\s*(?:[-\u2022\u25cf>]|\d{1,2}[.)]\s))""",
    re.VERBOSE,
)
_MARKER = re.compile(r"^\s*(?:[-\u2022\u25cf>]+\s*|\(?\d{1,2}[.)]\s+|[a-z]\)\s+)", re.IGNORECASE)
_INNER_MARKER = re.compile(
    r"(?<=[.;:,)a-z])\s+\(?\d{1,2}\)\s+|(?<=[.;:])\s+\d{1,2}\.\s+", re.IGNORECASE
)
_UNFINISHED = re.compile(
    r"(?:\b(?:of|the|a|an|no|not|and|or|with|without|in|on|is|are|to|for|involving|evidence|any"
    r"|left|right|lt|rt|l|r|there|at|by|,|-))\s*$",
    re.IGNORECASE,
)
_QUESTION = re.compile(
    r"^\W*(?:is|are|does|do|did|was|were|can|could|has|have|what|which|where|how|should)\b"
    r"[^.]*\?\W*$",
    re.IGNORECASE,
)
_ORDER = re.compile(
    r"\W*(?:please\s+)?(?:report|list|output|name|identify|describe|locate|find|give|provide|write|specify"
    r"|answer|tell|mark|count|analy[sz]e|generate|interpret|examine|review|determine|detect|explain)"
    r"\s+[\"']?(?!of\b)\w",
    re.IGNORECASE,
)
_PLACEHOLDER = re.compile(
    r"\[(?![^\]]*(?:\d|left|right|first|second|third|\w+th\b))[^\]]{0,40}\]"
    r"|\{(?![^}]*[\":])[^}]{0,40}\}|<[a-z][a-z _-]{0,30}>"
    r"|_{2,}|\bx{3,}\b|\?{3,}"
    r"|\b(?:left\s*/\s*right|right\s*/\s*left|l\s*/\s*r|yes\s*/\s*no|present\s*/\s*absent"
    r"|absent\s*/\s*present|none\s*/\s*present)\b|\b(?:insert|specify|placeholder|tbd|n/a)\b|%[sd]\b"
    r"|\((?:side|number|location|level|bone|rib number|region|s)\)|\b[nx]th\b|\bxx\b"
    r"|\$\w+|\.{3,}\s+rib",
    re.IGNORECASE,
)
# Published reports have blanks for dates, names and ages: those are no slots of a template.
_REMOVED = re.compile(
    r"""(?:\b(?:to|since|from|dated|and|until|recently|earlier|performed|dr\.?|mr\.?|mrs\.?|ms\.?)
        |\b(?:radiographs?|exam|exams|examinations?|study|studies|films?|ct|images?|x-?rays?|series
          |scans?|comparison)(?:\s+(?:of|on|from|in|at|performed|dated|performed\s+on))?[,:]?
        |(?<!fracture\s)(?<!fractures\s)\b(?:on|in|by|per))
        \s+_{2,}(?!\s*(?:ribs?|bones?|side|clavicles?|scapulas?|vertebra|segment)\b)
      |_{2,}[\s-]?(?:years?|yo|y/o|[mf]|man|woman)\b""",
    re.IGNORECASE | re.VERBOSE,
)
_FOREIGN_LETTER = re.compile(
    r"[\u0370-\u03ff\u0400-\u04ff\u0590-\u06ff\u0900-\u0dff\u0e00-\u0eff\u1100-\u11ff"
    r"\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"
)
_FOLD = "\v"  # stands for the end of a line within a sentence
_WRAP = re.compile(
    r"(?<=[^\n]{40})(?<![.!?])[ \t]*\r?\n(?=[ \t]*(?:[a-z](?!\))|\d{1,2}(?![.)\d])))"
)
_WIDE = re.compile(r"\s{4,}")
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


def sentences(text: str, *, joins: bool = True) -> list[Sentence]:
    """Return the sentences of `text`, at most `LONGEST` characters of it, in order.

    A long line and one after it that begins in lower case are taken for one sentence, unless
    `joins` is false.
    """
    text = _WIDE.sub(_narrow, text[:LONGEST])
    text = _INNER_MARKER.sub("\n\n", _blank(_MARKUP, _blank(_ECHO, text)))
    text = _WRAP.sub(_FOLD, text) if joins else text
    pieces = [piece for part in _sections(text) for piece in _split(*part)]
    return [
        _sentence(piece, is_request, at == len(pieces) - 1)
        for at, (piece, is_request) in enumerate(pieces)
    ]


def _narrow(gap: re.Match[str]) -> str:
    lines = gap.group().count("\n")
    return "\n\n" if lines > 1 else "\n" if lines else " "


def _blank(pattern: re.Pattern[str], text: str) -> str:
    return pattern.sub(" ", text)


def _sections(text: str) -> list[tuple[str, bool, bool]]:
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


def _split(part: str, is_request: bool, is_closed: bool) -> list[tuple[str, bool]]:
    out: list[tuple[str, bool]] = []
    start = 0
    for boundary in [*_BOUNDARY.finditer(part), None]:
        end = boundary.end() if boundary else len(part)
        for line in _lines(part[start:end]):
            if _WORD.search(line):
                # A request without a closing heading is taken to end with its first sentence.
                out.append((line, is_request and (is_closed or not out)))
        start = end
    return out


def _lines(piece: str) -> list[str]:
    """Part short lines, but join those that a narrow page has wrapped."""
    lines = [line for line in piece.split("\n") if line.strip()]
    joined: list[str] = []
    for line in lines:
        if joined and (len(joined[-1].split("\n")[-1]) > 62 or _UNFINISHED.search(joined[-1])):
            joined[-1] += "\n" + line
        else:
            joined.append(line)
    return joined


def _sentence(piece: str, is_request: bool, is_last: bool) -> Sentence:
    verbatim = piece.strip().replace(_FOLD, "\n")
    body = " ".join(_MARKER.sub("", verbatim).split()).rstrip("; ")
    heading = _HEADING.match(body)
    if heading:
        body = body[heading.end() :]
    return Sentence(
        verbatim=verbatim,
        body=body,
        is_request=is_request or bool(_ORDER.match(body)),
        is_question=body.rstrip("\"') ").endswith("?") or bool(_QUESTION.search(body)),
        has_placeholder=bool(_PLACEHOLDER.search(_REMOVED.sub(" ", body))),
        is_last=is_last,
        has_end=bool(re.search(r"[.!?;:\"')\]]\s*$", piece)),
    )


def has_foreign_letters(text: str) -> bool:
    """Tell whether `text` has letters of a script that English does not use."""
    return bool(_FOREIGN_LETTER.search(text))


def is_loop(text: str) -> bool:
    """Tell whether a model went round in circles: a sentence, words or a counter over and over."""
    text = text[:LONGEST].lower()
    said = [" ".join(_WORD.findall(s)) for s in re.split(r"(?<!\b[lr]t)(?<!\b[lr])[.!?\n;]+", text)]
    counts = Counter(s for s in said if len(s.split()) >= 2)
    counted = Counter(re.sub(_NUMERAL, "#", s) for s in said if len(s.split()) >= 2)
    if any(n >= 3 for n in counts.values()):
        return True
    if any(n >= 9 and "#" in s for s, n in counted.items()):
        return True
    words = _WORD.findall(text)
    return _repeats(words, 3) or _repeats([re.sub(_NUMERAL, "#", w) for w in words], 8)


_NUMERAL = (
    r"\b(?:\d+(?:st|nd|rd|th)?|first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth"
    r"|eleventh|twelfth)\b"
)


def _repeats(words: list[str], times: int) -> bool:
    """Tell whether up to eight words follow themselves `times` times, once more for one or two."""
    for period in range(1, 9):
        run = 0
        for at in range(period, len(words)):
            run = run + 1 if words[at] == words[at - period] else 0
            if run >= period * (times - (period > 2)) and (
                set(words[at - period + 1 : at + 1]) != {"#"}
            ):
                return True
    return False
