"""Cut a report sentence into tokens whose kinds come from the table of words."""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

from worker.text.lexicon import Kind, Lexicon, LexiconRow, Token, english
from worker.text.sentences import BLANK_WORD
from worker.text.shorthand import ORDINALS, spelt_out

# The order of the alternatives decides: dates, sizes, ages and image numbers are skipped before a
# bare number can be taken for a rib, and "T8" is a level before it is a letter and a digit.
_PIECE = re.compile(
    r"""(?P<skip>\d{1,4}[/.-]\d{1,2}[/.-]\d{2,4}
        |\d+(?:[.,]\d+)?(?:\s?(?:to|or|and|-)\s?\d+(?:[.,]\d+)?)?[\s-]?(?:mm|cm|%|percent|ml|years?|yrs?|yo|days?|weeks?|months?|hours?
            |views?|degrees?|minutes?|mg|cc)(?![a-z])(?:[\s-](?:old|ago|in\sage|of\sage)\b)?
        |(?:post(?:operative)?\s)?(?:day|week|month)\s\d+(?:\s(?:to|-)\s\d+)?\b
        |(?:image|images|series|slice|slices|grade|type|page|stage|figure|view|frame|finding|section
            |item|impression|point|note|comment|question|answer|conclusion|key)\s(?:\#\s?)?\d+\b
            (?:\s?(?:of|/)\s?\d+)?
        |(?<![a-z0-9])(?:c|p|yp)?t[0-4][a-d]?\s?n[0-3x][a-c]?(?:\s?m[01x])?\b  # of a tumor
        |(?:pod|hd)\s?\#?\s?\d+\b
        |(?:since|dated|comparison|compared\s(?:with|to)|(?:study|exam|examination|film|radiograph|ct|cxr)\s(?:of|from|on))
            \s\d{1,2}/\d{1,2}\b(?!/)
        |(?:confidence|probability|score|certainty)\W{1,3}\d+(?:\.\d+)?|(?<![\d.])0?\.\d+)
    |(?P<level>(?:(?<![a-z0-9])(?:th|[ctdl])[-\s]?|(?<=thoracic\s)t?|(?<=lumbar\s)l?)\d{1,2}
        (?!\d|\s?(?:st|nd|rd|th)\b))
    |(?P<sided>(?<![a-z0-9])r\d{1,2}(?!\d|\s?(?:st|nd|rd|th)\b))
    |(?P<ordinal>\d{1,3}\s?(?:st|nd|rd|th|ht|tn|rth)(?=ribs?\b|\b))
    |(?P<digit>\d+(?:\.\d+)?)
    |(?P<word>[^\W\d_]+)
    |(?P<mark>[,;:()/?-])""",
    re.VERBOSE,
)
_COUNT = r"(?:a|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|several|few|many)"
_SOME = rf"(?:{_COUNT}|\d{{1,3}})"
_AGED = re.compile(
    rf"\b{_SOME}(?:\s?(?:to|or|and|-)\s?{_SOME})?[\s-]?(?:days?|weeks?|months?)"
    r"[\s-](?:old|in\sage|of\sage)\b"
)
_DURATION = re.compile(
    rf"\b(?:{_COUNT}\s){{1,2}}(?:(?:to|or|and|-)\s?{_COUNT}\s)?(?:days?|weeks?|months?|years?)"
    r"(?:\s(?:old|ago|in\sage|of\sage)\b)?"
)
_MARKS = {"?": Kind.QUERY, ";": Kind.BREAK, ":": Kind.COLON, ",": Kind.COMMA}
_ORDINAL_END = re.compile(rf"(?:\d(?:st|nd|rd|th)|\b(?:{'|'.join(ORDINALS)}))\Z")
_BEYOND_RIBS = re.compile(r"zeroth|\w+teenth|\w+tieth")
_ROMAN = ("i", "ii", "iii", "iv", "v", "vi", "vii", "viii", "ix", "x", "xi", "xii")
_TO = {"to", "through", "thru", "till", "until", "-"}
_REGIONS = {"thoracic": "T", "dorsal": "T", "lumbar": "L", "cervical": "C"}
_COLUMN = tuple(f"{region}{n}" for region, top in (("C", 7), ("T", 12), ("L", 5))
                for n in range(1, top + 1))  # fmt: skip


def tokenize(sentence: str, lexicon: Lexicon | None = None) -> list[Token]:
    """Return the tokens of one sentence, numbers and levels expanded, in reading order."""
    lexicon = lexicon or english()
    tokens = list(_match_phrases(list(_cut_pieces(sentence, lexicon)), lexicon))
    # A range is merged last: its ends must be ribs or vertebrae by then, and not yet bare numbers.
    return _merge_ranges(_read_vertebrae(_rib_names(_read_answers(_without_brackets(tokens)))))


def _without_brackets(tokens: list[Token]) -> list[Token]:
    """Read "rib fracture (L): none" as "rib fracture L: none"."""
    out = list(tokens)
    for at in range(len(tokens) - 3, -1, -1):
        if [tokens[at].text, tokens[at + 2].text] == ["(", ")"] and (
            tokens[at + 1].kind is Kind.SIDE
        ):
            out[at : at + 3] = [tokens[at + 1]]
    return out


def _read_answers(tokens: list[Token]) -> list[Token]:
    """Read the "no" of "rib fracture (L): no, (R): yes" as an answer and not as a negation."""
    ends = (Kind.COMMA, Kind.BREAK)
    return [
        Token(Kind.ABSENT, "absent", "none")
        if token.text == "no"
        and at > 0
        and (tokens[at - 1].kind is Kind.COLON or _answers_bone(tokens, at))
        and (tokens[at + 1].kind in ends if at + 1 < len(tokens) else _answers_side(tokens, at))
        else token
        for at, token in enumerate(tokens)
    ]


def _answers_bone(tokens: Sequence[Token], at: int) -> bool:
    """Tell the "no" of "fracture: clavicle no, left 5th rib yes" from that of "no, yes"."""
    is_list = [t.kind for t in tokens[:2]] == [Kind.FRACTURE, Kind.COLON]
    return is_list and tokens[at - 1].kind is Kind.BONE


def _answers_side(tokens: Sequence[Token], at: int) -> bool:
    """Tell whether a word at the end answers "(R):"."""
    return at > 1 and tokens[at - 2].kind is Kind.SIDE


def _cut_pieces(sentence: str, lexicon: Lexicon) -> Iterator[tuple[str, str]]:
    # NFKC folds what looks alike: full-width letters, ligatures, superscripts.
    text = " ".join(unicodedata.normalize("NFKC", sentence).lower().split())
    text = re.sub(r"[\u2010-\u2015\u2212~]", "-", text).replace("\u2019", "'")
    text = _DURATION.sub(" ", _AGED.sub(" duration ", spelt_out(text)))
    for match in _PIECE.finditer(text):
        kind = match.lastgroup or ""
        piece = match.group()
        if kind == "word":
            yield kind, lexicon.spelling.correct(piece)
        elif kind == "mark" and piece == "-" and _is_hyphen(text, match.start()):
            continue
        elif kind != "skip":
            yield kind, piece


def _is_hyphen(text: str, at: int) -> bool:
    """Tell the hyphen of "end-plate" from the dash of "second-fifth" and "5th-L1"."""
    before, after = text[at - 1 : at], text[at + 1 : at + 2]
    is_dash = _ORDINAL_END.search(text, max(0, at - 10), at)
    return before.isalpha() and after.isalpha() and not is_dash


def _match_phrases(pieces: list[tuple[str, str]], lexicon: Lexicon) -> Iterator[Token]:
    at = 0
    while at < len(pieces):
        kind, piece = pieces[at]
        if kind != "word":
            yield from _number_or_mark(kind, piece)
            at += 1
            continue
        if piece == BLANK_WORD:
            yield Token(Kind.BLANK, "", piece)
            at += 1
            continue
        phrase = _longest_phrase(pieces, at, lexicon)
        yield (
            _phrase_token(phrase[1], phrase[2], " ".join(phrase[0]))
            if phrase
            else _single_token(piece, lexicon)
        )
        at += len(phrase[0]) if phrase else 1


def _longest_phrase(pieces: list[tuple[str, str]], at: int, lexicon: Lexicon) -> LexiconRow | None:
    """Return the longest phrase of the table that begins at `at`."""
    word = pieces[at][1]
    after = pieces[at + 1][1] if at + 1 < len(pieces) else ""
    for phrase in lexicon.index.get((word, after), ()):
        if tuple(p[1] for p in pieces[at : at + len(phrase[0])]) == phrase[0]:
            return phrase
    return next(iter(lexicon.index.get((word, ""), ())), None)


def _phrase_token(kind: Kind, value: str, text: str) -> Token:
    if kind is Kind.NUMBER:
        form, _, number = value.partition(" ")
        return Token(kind, number, text, form)
    return Token(kind, value, text)


def _single_token(piece: str, lexicon: Lexicon) -> Token:
    if piece in {"l", "r"}:
        return Token(Kind.SIDE, "left" if piece == "l" else "right", piece)
    if _BEYOND_RIBS.fullmatch(piece):
        # "Thirteenth" and the like: a number beyond the ribs, which makes the text garbled.
        return Token(Kind.NUMBER, "99", piece, "ordinal")
    if not piece.isascii():
        return Token(Kind.FOREIGN, "", piece)
    known = piece in lexicon.ordinary or piece in {"s", "t", "d", "c"}
    return Token(Kind.NEUTRAL if known else Kind.UNKNOWN, "plain" if known else "", piece)


def _number_or_mark(kind: str, piece: str) -> Iterator[Token]:
    if kind == "level":
        letter = piece[0] if piece[0].isalpha() else "t"
        # "D8" is the dorsal spine of older reports, "th8" the thoracic of German ones; both mean
        # T8.
        region = "T" if letter in "td" else letter.upper()
        yield Token(Kind.LEVEL, f"{region}{int(re.sub(r'[^0-9]', '', piece))}", piece)
    elif kind == "sided":
        yield Token(Kind.SIDE, "right", "r")
        yield Token(Kind.NUMBER, str(int(piece[1:])), piece[1:], "digit")
    elif kind == "ordinal":
        yield Token(Kind.NUMBER, str(int(re.sub(r"\D", "", piece))), piece, "ordinal")
    elif kind == "digit":
        # A year, an identifier or a decimal is not a rib: 0 makes a text garbled that takes it for
        # one.
        value = str(int(piece)) if piece.isdecimal() and len(piece) < 4 else "0"
        yield Token(Kind.NUMBER, value, piece, "digit")
    elif piece == "/":
        yield Token(Kind.AND, "", piece)
    elif piece == "-":
        yield Token(Kind.COMMA, "", piece)
    else:
        yield Token(_MARKS.get(piece, Kind.COMMA), "", piece)


def _rib_names(tokens: list[Token]) -> list[Token]:
    """Read the L of "L5-7 ribs" as left, since no rib is called L5, and "rib VI" as the sixth."""
    out: list[Token] = []
    for at, token in enumerate(tokens):
        if token.kind is Kind.LEVEL and token.value[0] == "L" and _among_ribs(tokens, at):
            out.append(Token(Kind.SIDE, "left", "l"))
            out.append(Token(Kind.NUMBER, token.value[1:], token.text, "digit"))
        elif token.text in _ROMAN and _among_ribs(tokens, at):
            out.append(Token(Kind.NUMBER, str(_ROMAN.index(token.text) + 1), token.text, "digit"))
        else:
            out.append(token)
    return out


_LISTED = (Kind.NUMBER, Kind.LEVEL, Kind.AND, Kind.COMMA, Kind.OR, Kind.SIDE, Kind.SEGMENT)


def _among_ribs(tokens: list[Token], at: int) -> bool:
    # 24 tokens hold all twelve ribs with their commas; a bound keeps the cost linear in the text.
    others = [t for t in tokens[at + 1 : at + 24] if not _is_listed(t)]
    after = others[0] if others else None
    if tokens[at].text[1:2] == " " and [t.value or t.text for t in others[:2]] == [";", "rib"]:
        return True  # "L 5, 6; R 8 rib fractures"
    if after is not None and after.kind is Kind.BONE:
        last = tokens[tokens.index(after, at + 1) - 1]
        is_own = last.kind in (Kind.NUMBER, Kind.LEVEL, Kind.SEGMENT) or last.text in _ROMAN
        return after.value == "rib" and is_own  # "L1, ribs intact" is a vertebra
    low = max(0, at - 24)
    back = next((n for n in range(at - 1, low - 1, -1) if not _is_listed(tokens[n])), None)
    if after is None and back and _ends_right_ribs(tokens[: back + 1]):
        return True
    if back and tokens[back].kind is Kind.EXCEPT:  # "no ribs except L5"
        back -= 1
    if back and tokens[back].kind is Kind.COLON:  # "rib fractures: L3, L4", "rib fractures L3, L4"
        back -= 1
    # "rib fractures, L2" is a vertebra, "rib fractures, R 3-8 and L 2-5" are ribs
    is_sided = back is not None and _pairs_sides(tokens, back + 2, at)
    if back and tokens[back].kind is Kind.FRACTURE and (tokens[back + 1].text != "," or is_sided):
        back -= 1
        back -= back > 0 and tokens[back].kind is Kind.COLON  # "ribs: fx L 6, 7"
    return back is not None and back >= 0 and tokens[back].value == "rib"


def _ends_right_ribs(before: Sequence[Token]) -> bool:
    """Tell whether "R 5-7 rib fractures" stands before "L 4-5"."""
    kinds = [t.kind for t in before[-2:]]
    if kinds != [Kind.BONE, Kind.FRACTURE] or before[-2].value != "rib":
        return False
    at = len(before) - 3
    while at > 0 and (_is_listed(before[at]) and before[at].kind is not Kind.SIDE):
        at -= 1
    is_right = at >= 0 and before[at].kind is Kind.SIDE and before[at].value == "right"
    return is_right and at < len(before) - 3


def _pairs_sides(tokens: Sequence[Token], start: int, at: int) -> bool:
    """Tell whether a side has numbers of its own beside the L at `at`: "L 2-5 and R 3-8"."""
    end = at + 1
    while end < min(at + 24, len(tokens)) and _is_listed(tokens[end]):
        end += 1
    return any(
        token.kind is Kind.SIDE and after.kind is Kind.NUMBER
        for token, after in pairwise(tokens[start:end])
    )


def _is_listed(token: Token) -> bool:
    return token.kind in _LISTED or token.text in _TO or token.text in _ROMAN


def _read_vertebrae(tokens: list[Token]) -> list[Token]:
    """Turn "eighth thoracic vertebra" and the 9 of "T8 and 9" into levels."""
    out = list(tokens)
    for at in range(len(tokens)):
        token = out[at]
        region = _REGIONS.get(token.text.split(" ")[0])
        if region and token.kind in (Kind.HINT, Kind.BONE):
            back = at - 1
            while back >= 0 and tokens[back].kind in (Kind.NUMBER, Kind.AND, Kind.COMMA):
                if tokens[back].kind is Kind.NUMBER and tokens[back].form != "cardinal":
                    out[back] = Token(Kind.LEVEL, region + tokens[back].value, tokens[back].text)
                back -= 1
            if at + 1 < len(tokens) and tokens[at + 1].form == "digit" and token.kind is Kind.BONE:
                out[at + 1] = replace(
                    tokens[at + 1], kind=Kind.LEVEL, value=region + tokens[at + 1].value
                )
        elif token.kind is Kind.NUMBER and token.form == "digit":
            out[at] = _number_or_level(out, tokens, at)
    return out


def _number_or_level(out: list[Token], tokens: list[Token], at: int) -> Token:
    before = out[at - 2] if at >= 2 and _is_joint(tokens[at - 1]) else None
    after = tokens[at + 1] if at + 1 < len(tokens) else None
    if before is None or before.kind is not Kind.LEVEL or (after and after.value == "rib"):
        return tokens[at]
    return Token(Kind.LEVEL, before.value[0] + tokens[at].value, tokens[at].text)


def _is_joint(token: Token) -> bool:
    return token.kind in (Kind.AND, Kind.COMMA, Kind.OR) or token.text in _TO


def _merge_ranges(tokens: list[Token]) -> list[Token]:
    """Merge "5th through 8th" and "T11-L1" into one token that names every member."""
    out: list[Token] = []
    at = 0
    while at < len(tokens):
        end = _range_end(tokens, at)
        if end is None:
            out.append(tokens[at])
            at += 1
            continue
        values = _range_members(tokens[at], tokens[end])
        out.append(Token(tokens[at].kind, values, tokens[at].text, "range"))
        at = end + 1
    return out


def _range_end(tokens: list[Token], at: int) -> int | None:
    kind = tokens[at].kind
    if kind not in (Kind.NUMBER, Kind.LEVEL) or tokens[at].form == "range":
        return None
    to = at + 1
    while to < len(tokens) and tokens[to].kind is Kind.BONE and to < at + 2:
        to += 1
    if to >= len(tokens) or tokens[to].text not in _TO:
        return None
    end = to + 1
    while end < len(tokens) and (
        tokens[end].kind in (Kind.ARTICLE, Kind.SIDE, Kind.SEGMENT) and end < to + 4
    ):
        end += 1
    return end if end < len(tokens) and tokens[end].kind is kind else None


def _range_members(first: Token, last: Token) -> str:
    if first.kind is Kind.LEVEL:
        if first.value not in _COLUMN or last.value not in _COLUMN:
            return "?"
        low, high = sorted((_COLUMN.index(first.value), _COLUMN.index(last.value)))
        return " ".join(_COLUMN[low : high + 1])
    low, high = sorted((int(first.value), int(last.value)))
    # There is no 99th rib: a range beyond the twelve voids the text instead of naming a wrong rib.
    return " ".join(str(n) for n in range(low, high + 1)) if low >= 1 and high <= 12 else "99"


def is_level(value: str) -> bool:
    """Tell whether `value` names a vertebra that exists, C1 to L5."""
    return value in _COLUMN
