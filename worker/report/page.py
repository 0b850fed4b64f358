"""One page that a radiologist reads at a glance: the picture, the words, the model, the caution."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from arabic_reshaper import reshape
from reportlab.pdfbase.ttfonts import TTFont

from worker.report.reading import Reading, ReportKind
from worker.text.findings import Fracture

WIDTH, HEIGHT = 1120, 792
"""Units of the page, A4 across: pixels of the Secondary Capture, 0.75 points of the PDF."""

CAUTION = "NOT FOR PRIMARY DIAGNOSIS"
UNREVIEWED = "AI description, not reviewed by a physician"
LIMITED = "The text speaks of some bones or kinds of fracture only."
JUDGED = "AI description, judged by a reader"
CONTINUES = "(continues on the next page)"
MISSING = "\u25a1"
"""Stands for a character that no font has."""

FONTS = Path(__file__).parent / "fonts"
REGULAR, BOLD, IDEOGRAPHS = "DejaVuSans", "DejaVuSans-Bold", "DroidSansFallback"
HEADLINES = {
    ReportKind.FRACTURE: "FRACTURE DESCRIBED",
    ReportKind.NO_FRACTURE: "NO FRACTURE DESCRIBED",
    ReportKind.UNCLEAR: "TEXT NOT INTERPRETABLE",
    ReportKind.NOT_ANALYSED: "NOT ANALYSED",
}

# The corners stay empty: viewers lay their own text there, OHIF over the top left corner; and above
# the caution there is room for the player that OHIF opens at the top of every page of a series.
CAUTION_TOP, CAUTION_HEIGHT = 88, 36
TOP, BOTTOM, MARGIN = 132, 748, 48
PICTURE_WIDTH, GAP = 420, 44
FOOT = 640
LEADING = 1.35
WORD_SIZES = (28, 24, 20, 17, 15)
LISTED_FRACTURES = 10
_IDEOGRAPH = "\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef"
TOKEN = re.compile(rf"\s+|[{_IDEOGRAPH}]|[^\s{_IDEOGRAPH}]+")


@dataclass(frozen=True, slots=True)
class Text:
    """A line of text; `y` is its baseline, `ink` 1 for the strongest contrast."""

    x: float
    y: float
    words: str
    size: float
    is_bold: bool = False
    ink: float = 1.0


@dataclass(frozen=True, slots=True)
class Bar:
    """A filled rectangle."""

    x: float
    y: float
    width: float
    height: float
    ink: float = 1.0


@dataclass(frozen=True, slots=True)
class PicturePlace:
    """Where the radiograph goes."""

    x: float
    y: float
    width: float
    height: float


Mark = Text | Bar | PicturePlace


@dataclass(frozen=True, slots=True)
class Labels:
    """Short lines round the words."""

    source: str
    """Which image this is about."""
    model: str
    """Model, version and time."""
    caution: str = ""
    """Stands before the caution, for example that the model is a demonstration."""
    identity: str = ""
    """Whom it is about; empty where the viewer shows that itself."""


@cache
def font_face(name: str) -> TTFont:
    """Return one of the fonts that come with this package."""
    return TTFont(name, str(FONTS / f"{name}.ttf"))


@cache
def find_glyph(character: str, is_bold: bool) -> tuple[str, str, float]:
    """Return the font that has `character`, what to draw, and its width at size 1."""
    for name in (BOLD, REGULAR, IDEOGRAPHS) if is_bold else (REGULAR, IDEOGRAPHS):
        if ord(character) in font_face(name).face.charToGlyph:
            return name, character, font_face(name).stringWidth(character, 1)
    return REGULAR, MISSING, font_face(REGULAR).stringWidth(MISSING, 1)


def runs(words: str, is_bold: bool) -> Iterator[tuple[str, str]]:
    """Yield font names and the parts of `words` that each of them has."""
    glyphs = (find_glyph(character, is_bold) for character in words)
    for name, group in groupby(glyphs, key=itemgetter(0)):
        yield name, "".join(character for _, character, _ in group)


def width(words: str, size: float, is_bold: bool = False) -> float:
    """Return the width of one line in units of the page."""
    return size * sum(find_glyph(character, is_bold)[2] for character in words)


def wrap(words: str, room: float, size: float, is_bold: bool = False) -> list[str]:
    """Break `words` into lines no wider than `room`; ideographs may end a line anywhere."""
    lines: list[str] = []
    for paragraph in shape_arabic(words).expandtabs(4).split("\n"):
        line, used = "", 0.0
        for token in _split_tokens(paragraph, room, size, is_bold):
            needed = width(token, size, is_bold)
            if line and not token.isspace() and used + needed > room:
                lines.append(line.rstrip())
                line, used = "", 0.0
            if line or not token.isspace():
                line, used = line + token, used + needed
        lines.append(line.rstrip())
    return lines


def _split_tokens(paragraph: str, room: float, size: float, is_bold: bool) -> Iterator[str]:
    for token in TOKEN.findall(paragraph):
        if token.isspace() or width(token, size, is_bold) <= room:
            yield token
        else:
            yield from token


def headline(said: Reading) -> str:
    """Return the case, and whether a reader agrees, in capitals."""
    line = f"POSSIBLE {HEADLINES[said.case]}" if said.is_only_possible else HEADLINES[said.case]
    return line if said.judgement is None else f"{line}: READER {said.judgement.verdict.upper()}S"


def pages(said: Reading, labels: Labels, picture: tuple[int, int] | None) -> list[list[Mark]]:
    """Return the marks of each page; only a very long text has several.

    Parameters
    ----------
    said : Reading
        Case, text, codes and cautions.
    labels : Labels
        Source, model and identity.
    picture : tuple of int or None
        Rows and columns of the radiograph, None where there is none to show.
    """
    left = MARGIN
    first: list[Mark] = [*_draw_caution(labels), *_draw_foot(said, labels)]
    if picture is not None:
        first += _place_picture(picture, labels.source)
        left += PICTURE_WIDTH + GAP
    column = _Column(left, WIDTH - MARGIN - left)
    column.write(UNREVIEWED if said.judgement is None else JUDGED, 17, ink=0.7)
    column.write(headline(said), 34 if said.judgement is None else 28, is_bold=True)
    if picture is None:
        column.write(labels.source, 16, ink=0.7)
    rest = _set_body(column, said)
    return [first + column.marks, *_further_pages(rest, labels)]


class _Column:
    """Lines set one below the other."""

    def __init__(self, x: float, room: float, y: float = TOP) -> None:
        self.x, self.room, self.y = x, room, y
        self.marks: list[Mark] = []

    def write(self, words: str, size: float, is_bold: bool = False, ink: float = 1.0) -> None:
        for line in wrap(words, self.room, size, is_bold):
            self.line(line, size, is_bold, ink)

    def line(self, words: str, size: float, is_bold: bool = False, ink: float = 1.0) -> None:
        self.y += size * LEADING
        self.marks.append(Text(self.x, self.y, visual(words), size, is_bold, ink))


def _set_body(column: _Column, said: Reading) -> list[str]:
    """Set the words, the codes and the warnings; return the lines that found no room."""
    coded = coded_in_words(said)[:LISTED_FRACTURES]
    if len(said.fractures) > LISTED_FRACTURES:
        coded.append(f"and {len(said.fractures) - LISTED_FRACTURES} more")
    notes = [
        *(("Coded:", 0.7) for _ in coded[:1]),
        *((f"\u2022 {line}", 1.0) for line in coded),
        *((f"Note: {LIMITED}", 1.0) for _ in range(said.is_limited)),
        *((f"Note: {line}", 0.85) for line in said.warnings),
    ]
    note_lines = [(line, ink) for note, ink in notes for line in wrap(note, column.room, 17)]
    # Codes and warnings may take up to half of the room, the rest is for the words of the model.
    reserve = min(len(note_lines) * 17 * LEADING + 16, (FOOT - column.y) / 2)
    column.y += 10
    rest = _set_words(column, said.words, FOOT - 12 - reserve)
    column.y += 12
    for line, ink in note_lines:
        if column.y + 17 * LEADING < FOOT - 8:
            column.line(line, 17, ink=ink)
    return rest


def _set_words(column: _Column, words: str, floor: float) -> list[str]:
    """Set `words` as large as they fit above `floor`; return the lines that do not."""
    for size in WORD_SIZES:
        lines = wrap(words, column.room, size)
        if column.y + len(lines) * size * LEADING <= floor:
            break
    count = int((floor - column.y) / (size * LEADING))
    if len(lines) <= count:
        shown, rest = lines, []
    else:
        shown, rest = [*lines[: count - 1], CONTINUES], lines[count - 1 :]
    for line in shown:
        column.line(line, size)
    return rest


def _further_pages(rest: Sequence[str], labels: Labels) -> Iterator[list[Mark]]:
    """Yield further pages for the lines that the first page has no room for."""
    size = WORD_SIZES[-1]
    per_page = int((BOTTOM - TOP) / (size * LEADING))
    for start in range(0, len(rest), per_page):
        column = _Column(MARGIN, WIDTH - 2 * MARGIN)
        for line in rest[start : start + per_page]:
            column.line(line, size)
        yield [*_draw_caution(labels), *column.marks, *_name_patient(labels)]


def _name_patient(labels: Labels) -> Iterator[Mark]:
    """Yield whom a further page is about, at its foot: sheets of paper part."""
    if labels.identity:
        line = wrap(labels.identity, WIDTH - 2 * MARGIN, 13)[0]
        yield Text(MARGIN, HEIGHT - 18, visual(line), 13)


def _draw_caution(labels: Labels) -> Iterator[Mark]:
    words = f"{labels.caution} \u2013 {CAUTION}" if labels.caution else CAUTION
    across = width(words, 22, is_bold=True)
    left = (WIDTH - across) / 2
    yield Bar(left - 24, CAUTION_TOP, across + 48, CAUTION_HEIGHT)
    yield Text(left, CAUTION_TOP + 26, words, 22, is_bold=True, ink=0.0)


def _draw_foot(said: Reading, labels: Labels) -> Iterator[Mark]:
    yield Bar(MARGIN, FOOT, WIDTH - 2 * MARGIN, 1, ink=0.5)
    column = _Column(MARGIN, WIDTH - 2 * MARGIN, FOOT + 4)
    if labels.identity:
        column.write(labels.identity, 15)
    column.write(said.caution, 15)
    column.write(labels.model, 15, ink=0.7)
    yield from (mark for mark in column.marks if mark.y < HEIGHT - 8)


def _place_picture(shape: tuple[int, int], caption: str) -> Iterator[Mark]:
    rows, columns = shape
    scale = min(PICTURE_WIDTH / columns, (FOOT - 44 - TOP) / rows)
    across, down = max(columns * scale, 1.0), max(rows * scale, 1.0)
    left = MARGIN + (PICTURE_WIDTH - across) / 2
    yield PicturePlace(left, TOP, across, down)
    column = _Column(MARGIN, PICTURE_WIDTH, TOP + down + 4)
    column.line(wrap(caption, PICTURE_WIDTH, 15)[0], 15, ink=0.7)
    yield from column.marks


def coded_in_words(said: Reading) -> list[str]:
    """Return each coded fracture in plain words, with what a reader thinks of it."""
    return [
        f"{in_words(fracture)} (reader {verdict}s)" if verdict else in_words(fracture)
        for fracture, verdict in zip(said.fractures, said.verdicts, strict=True)
    ]


def in_words(fracture: Fracture) -> str:
    """Return one coded fracture in plain words, its side first."""
    side = fracture.side or ""
    is_other = fracture.bone == "other"
    bone = (fracture.part or "bone not named") if is_other else fracture.bone
    words = " ".join(part for part in (side, bone, fracture.number or "") if part)
    if fracture.bone == "vertebra" and fracture.number:
        words = f"vertebra {fracture.number}"
    part = None if is_other or fracture.part == fracture.segment else fracture.part
    details = [part, fracture.segment, fracture.age]
    details.append("possible" if fracture.certainty == "possible" else None)
    return ", ".join([words, *(detail for detail in details if detail)])


_MIRRORED = str.maketrans("()[]{}<>«»", ")(][}{><»«")
_CONTROLS = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_RIGHT_TO_LEFT = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]")


def shape_arabic(words: str) -> str:
    """Return text whose Arabic letters have the forms that they take beside their neighbours."""
    if _RIGHT_TO_LEFT.search(words) is None:
        return words
    return str(reshape(_CONTROLS.sub("", words)))


def visual(line: str) -> str:
    """Return a line as it is drawn from left to right (UAX 9, without embeddings).

    Letters of Hebrew and Arabic run from right to left; numbers and other letters among them do
    not. The first letter decides which way the line as a whole runs.
    """
    if _RIGHT_TO_LEFT.search(line) is None:
        return line
    line = shape_arabic(line)
    ways = [_letter_direction(character) for character in line]
    # UAX 9 P2: the first strong letter gives the paragraph its direction.
    first = next((way for way in ways if way), "L")
    for at, way in enumerate(ways):
        if not way:  # a blank or sign runs as its neighbours do, where they agree
            before = ways[at - 1] if at else first
            after = next((other for other in ways[at:] if other), first)
            ways[at] = before if before == after else first
    runs = [
        (way, "".join(letter for _, letter in group))
        for way, group in groupby(zip(ways, line, strict=True), key=itemgetter(0))
    ]
    drawn = [text[::-1].translate(_MIRRORED) if way == "R" else text for way, text in runs]
    return "".join(reversed(drawn) if first == "R" else drawn)


def _letter_direction(character: str) -> str:
    kind = unicodedata.bidirectional(character)
    if kind in {"R", "AL"}:
        return "R"
    return "L" if kind in {"L", "EN", "AN"} else ""
