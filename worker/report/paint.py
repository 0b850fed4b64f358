"""A page as pixels and as PDF, from the same marks."""

from __future__ import annotations

from functools import cache
from io import BytesIO
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from reportlab import rl_config
from reportlab.lib.utils import ImageReader
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfgen.canvas import Canvas

from worker.report.page import (
    BOLD,
    FONTS,
    HEIGHT,
    IDEOGRAPHS,
    REGULAR,
    WIDTH,
    Bar,
    Mark,
    PicturePlace,
    Text,
    font_face,
    runs,
)

POINTS = 0.75
"""Points of the PDF per unit of the page."""

FINE = 4
"""Fine pixels per pixel, each way."""

_PRESS = Lock()
"""One page at a time: the fonts' parsers keep a position in their files."""

Pixels = NDArray[np.uint8]


def as_pixels(marks: list[Mark], radiograph: Pixels | None) -> Pixels:
    """Return a page as light marks on black, uint8, (`HEIGHT`, `WIDTH`).

    Parameters
    ----------
    marks : list
        From `worker.report.page.pages`.
    radiograph : ndarray of uint8 or None
        (rows, columns), 0 = black.
    """
    with _PRESS:
        image = _draw_marks(marks)
    for mark in marks:
        if isinstance(mark, PicturePlace) and radiograph is not None:
            size = (round(mark.width), round(mark.height))
            small = Image.fromarray(radiograph).resize(size, Image.Resampling.LANCZOS)
            image.paste(small, (round(mark.x), round(mark.y)))
    return np.asarray(image, dtype=np.uint8)


def _draw_marks(marks: list[Mark]) -> Image.Image:
    # Pillow's basic layout sets each letter on a whole pixel: fine pixels, then made smaller.
    fine = Image.new("L", (WIDTH * FINE, HEIGHT * FINE), 0)
    draw = ImageDraw.Draw(fine)
    for mark in marks:
        if isinstance(mark, Text):
            _draw_text(draw, mark)
        elif isinstance(mark, Bar):
            box = (mark.x, mark.y, mark.x + mark.width, mark.y + mark.height)
            left, top, right, bottom = (round(edge * FINE) for edge in box)
            draw.rectangle((left, top, right - 1, bottom - 1), fill=round(255 * mark.ink))
    return fine.resize((WIDTH, HEIGHT), Image.Resampling.BOX)


def _draw_text(draw: ImageDraw.ImageDraw, mark: Text) -> None:
    x = mark.x
    for name, part in runs(mark.words, mark.is_bold):
        font = _bitmap_font(name, mark.size * FINE)
        at = (round(x * FINE), round(mark.y * FINE))
        draw.text(at, part, fill=round(255 * mark.ink), font=font, anchor="ls")
        x += font_face(name).stringWidth(part, mark.size)


@cache
def _bitmap_font(name: str, size: float) -> ImageFont.FreeTypeFont:
    # The basic layout engine is in every build of Pillow: the same pixels everywhere.
    engine = ImageFont.Layout.BASIC
    return ImageFont.truetype(str(FONTS / f"{name}.ttf"), size, layout_engine=engine)


def as_pdf(pages: list[list[Mark]], radiograph: Pixels | None, title: str) -> bytes:
    """Return pages as dark marks on white paper: one PDF file whose text can be searched.

    The same pages always give the same bytes.
    """
    with _PRESS:
        return _printed_pages(pages, radiograph, title)


def _printed_pages(pages: list[list[Mark]], radiograph: Pixels | None, title: str) -> bytes:
    # Streams of bytes: to make printable characters of them, in Python, took nine tenths of the
    # time, for a file that is a quarter larger.
    rl_config.useA85 = 0
    for name in (REGULAR, BOLD, IDEOGRAPHS):
        pdfmetrics.registerFont(font_face(name))
    buffer = BytesIO()
    canvas = Canvas(buffer, pagesize=(WIDTH * POINTS, HEIGHT * POINTS), invariant=1)
    canvas.setTitle(title)
    for marks in pages:
        canvas.scale(POINTS, POINTS)
        for mark in marks:
            _put_mark(canvas, mark, radiograph)
        canvas.showPage()
    canvas.save()
    return buffer.getvalue()


def _put_mark(canvas: Any, mark: Mark, radiograph: Pixels | None) -> None:
    if isinstance(mark, PicturePlace):
        if radiograph is not None:
            picture = ImageReader(_scale_for_paper(radiograph, mark))
            bottom = HEIGHT - mark.y - mark.height
            canvas.drawImage(picture, mark.x, bottom, mark.width, mark.height)
        return
    canvas.setFillGray(1 - mark.ink)
    if isinstance(mark, Bar):
        canvas.rect(mark.x, HEIGHT - mark.y - mark.height, mark.width, mark.height, 0, 1)
        return
    line = canvas.beginText(mark.x, HEIGHT - mark.y)
    for name, part in runs(mark.words, mark.is_bold):
        line.setFont(name, mark.size)
        line.textOut(part)
    canvas.drawText(line)


def _scale_for_paper(radiograph: Pixels, mark: PicturePlace) -> Image.Image:
    """Return the radiograph with two pixels per unit, enough for paper."""
    size = (round(2 * mark.width), round(2 * mark.height))
    return Image.fromarray(radiograph).resize(size, Image.Resampling.LANCZOS)
