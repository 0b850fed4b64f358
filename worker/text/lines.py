"""Tell the end of a line that a narrow page has wrapped from the end of a note."""

import re
from collections.abc import Sequence

FOLD = "\v"
"""Stands for the end of a line that may or may not be the end of a note."""

_BLANK_LINES = re.compile(r"(\n[ \t]*\n\s*)")
_ENDED = re.compile(r"[.!?][\"')\]]{0,3}$")
_ITEM = re.compile(
    r"(?:[-*\u2022\u25cf>]|\(?\d{1,2}[.)]\s|[a-z]\)\s|(?i:[a-k]|i{1,3}|iv|vi?)\.\s"
    r"|[A-Z][A-Za-z ]{2,30}(?: ?#?\d{1,2})?:\s?|\d{1,2}(?:st|nd|rd|th) ribs?:\s?)"
)
_FIELD = re.compile(r"[\"']?[a-z][a-z _]{1,30}[\"']?:\s", re.IGNORECASE)
_ANSWERED = re.compile(  # "fracture: no", after which "pneumothorax: yes" is a line of its own
    r"[\"']?[a-z][a-z _]{1,30}[\"']?:\s?[\"']?(?:no|none|nil|absent|false|negative|normal|clear|n)"
    r"[\"']?,?",
    re.IGNORECASE,
)
# The "6." of "the 6. and the 7. rib" ends no sentence, and its "7." begins no item.
_NUMBERED = re.compile(r"\b\d{1,2}\.$")
_NUMBERED_PAIR = re.compile(
    r"\d\.,?\s(?:and|to|through)\s(?:the\s)?\d{1,2}\.$|\bthe\s\d{1,2}\.$", re.IGNORECASE
)
_LEADS_ON = re.compile(r"(?:\d\.,|\b(?:the|and|to|through))$", re.IGNORECASE)
_JOINED_ON = re.compile(r"(?:and|to|through|AND|TO|THROUGH)\s(?:(?:the|THE)\s)?(?:\d{1,2}\.|$)")
_COUNTED_ON = re.compile(r"\d{1,2}\.(?:,|\s?$|\s(?:and|to|ribs?)\b)", re.IGNORECASE)
_LAST_WORDS = """
of the a an no not and or nor with without in on is are to for by at involving evidence any left
right lt rt l r there was were be been being has have had can cannot may might could would should
does do did appear appears appearing burst wedge ruled rule made post no. which that who whose
than as from into through due likely probably possibly none also again acute subacute chronic old
new healed healing displaced nondisplaced definite obvious visible visualized visualised
discernible osseous bony bone skeletal rib clavicle clavicular scapular sternal humeral vertebral
possible probable suspicious questionable compression other additional further thoracic lumbar
cervical multiple several few many some minimally mildly moderately severely both bilateral upper
lower mid lateral medial anterior posterior distal proximal soft pleural significant focal large
small mild moderate severe first second third fourth fifth sixth seventh eighth ninth tenth
eleventh twelfth between this these those its their consistent compatible suggestive representing
represent neither either unchanged stable remote prior previous known apart aside except body
level levels age about approximately traumatic pathologic acutely newly definitely clearly very
more less most if whether because since after before during under over along across near toward
towards within indeterminate grossly query often frequently negative positive history nearly
otherwise intact-appearing following believe think notice call see outside
"""
_LAST = frozenset(_LAST_WORDS.split())
_FIRST_WORDS = """
is are was were be been being has have had can cannot could may might should will would seen
identified noted visualized visualised present evident detected demonstrated appreciated excluded
of in on at from by to through along involving and or nor but which that than except apart aside
also ribs rib fracture-free not since within into due because where whose for only until versus vs
about
"""
_FIRST = frozenset(_FIRST_WORDS.split())
_NUMBER_END = re.compile(r"\b(?:\d{1,2}(?:st|nd|rd|th)?|[TLC]\d{1,2})$", re.IGNORECASE)
_LONG_LINE = 62  # characters after which a line without an end is taken to go on
_SURE_BREAKS = 3  # so many breaks do not fit a width by chance


def unwrap(text: str) -> str:
    """Return `text` with lines joined that a page of any width has wrapped.

    A page of a width breaks a line where the next word would not have fitted. Lines that do not
    end so are notes of their own; where that is unclear, `FOLD` stands for the end of the line.
    """
    if "\n" not in text and "\r" not in text:
        return text
    text = text.replace(FOLD, " ").replace("\r\n", "\n").replace("\r", "\n")
    parts = _BLANK_LINES.split(text)
    return "".join(part if at % 2 else _unwrap_block(part) for at, part in enumerate(parts))


def _unwrap_block(block: str) -> str:
    lines = [line.strip() for line in block.split("\n")]
    if len(lines) == 1:
        return block
    width = max(map(len, lines))
    full = [_is_full(lines, at, width) for at in range(len(lines) - 1)]
    # A page that wraps breaks every line for want of room; one line that had room is a note.
    is_page = all(full)
    is_sure = is_page and len(full) >= _SURE_BREAKS
    out = [lines[0]]
    for at, is_full in enumerate(full):
        out += [
            _choose_joint(lines[at], lines[at + 1], is_full and is_page, is_sure),
            lines[at + 1],
        ]
    return "".join(out)


def _is_full(lines: Sequence[str], at: int, width: int) -> bool:
    """Tell whether the first word of the next line would not have fitted into this line."""
    word = lines[at + 1].split(" ", 1)[0]
    return len(lines[at]) + 1 + len(word) > width


def _choose_joint(line: str, after: str, is_wrapped: bool, is_sure: bool) -> str:
    """Return what stands between two lines: a space, a line feed, or a fold."""
    if not line or not after:
        return "\n"
    if _goes_on_counting(line, after):
        return " "
    if (
        _ENDED.search(line)
        or _ITEM.match(after)
        or (_ANSWERED.fullmatch(line) and _FIELD.match(after))
    ):
        return "\n"
    if _goes_on(line, after):
        return " "
    is_new = after[0].isupper() and not after.split(" ", 1)[0].strip(".,;:").isupper()
    if is_wrapped and (not is_new or (line.isupper() and after.isupper())):
        return " " if is_sure else FOLD
    return FOLD if len(line) > _LONG_LINE else "\n"


def _goes_on_counting(line: str, after: str) -> bool:
    """Tell whether two lines share the numbers of "the 6. and the 7. rib"."""
    if _LEADS_ON.search(line):
        return bool(_COUNTED_ON.match(after))
    is_pair = _NUMBERED_PAIR.search(line) and after.lower().startswith("rib")
    return bool(is_pair or (_NUMBERED.search(line) and _JOINED_ON.match(after)))


def _goes_on(line: str, after: str) -> bool:
    """Tell whether the last word of a line, or the first of the next, asks for the other."""
    last = line.rsplit(" ", 1)[-1].lower()
    is_open = last in _LAST or last[-1] in ",-/(&:;" or bool(_NUMBER_END.search(line))
    first = after.split(" ", 1)[0]
    is_compound = last == "rib" and first.lower().startswith("fractur")
    is_led = first.lower().rstrip(".,;") in _FIRST and (first.islower() or line.isupper())
    return is_open or is_led or is_compound or after.startswith("(")
