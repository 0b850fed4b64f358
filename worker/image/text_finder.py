"""Finds text that is burned into a picture, as a warning and not as a promise.

Letters are strokes: within the height of a line their edges follow one another much faster than
those of bones do. Where many rows in a row have many steep edges side by side, there is text.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

WARNING = (
    "There seems to be text in the picture, which may name the patient; look at it before it is "
    "shared."
)

_LONG_SIDE = 1024
"""Pixels to which larger pictures are reduced: letters of an annotation stay legible."""
_STEEP = 64
"""Difference of neighbours, in grey levels, from which an edge is as a printer makes it."""
_WIDE, _TALL = 64, 4
"""Block of a line of text: columns, and rows one below the other."""
_EDGES = 7
"""Steep edges that a row of a block has where letters stand in it; a side marker has up to six."""


@dataclass(frozen=True, slots=True)
class TextBox:
    """Where text seems to stand, in pixels of the picture."""

    left: int
    top: int
    right: int
    bottom: int


def find_text(pixels: npt.NDArray[np.uint8]) -> list[TextBox]:
    """Return where text seems to be burned in, one box for each line that is found.

    Parameters
    ----------
    pixels : array
        An 8-bit grey picture.
    """
    step = max(1, max(pixels.shape) // _LONG_SIDE)
    small = pixels[::step, ::step].astype(np.int16)
    if min(small.shape) < _TALL:
        return []
    edges = np.abs(np.diff(small, axis=1)) >= _STEEP
    # Prefix sums: the edges of any block of a row are one difference.
    sums = np.cumsum(np.pad(edges, ((0, 0), (1, _WIDE))), axis=1, dtype=np.int32)
    # Blocks overlap by half, so that a line of text is not cut in two.
    starts = np.arange(0, edges.shape[1], _WIDE // 2)
    dense = (sums[:, np.minimum(starts + _WIDE, sums.shape[1] - 1)] - sums[:, starts]) >= _EDGES
    boxes = []
    for column, start in enumerate(starts):
        for top, bottom in _letter_rows(dense[:, column]):
            right = min(int(start) + _WIDE, small.shape[1])
            boxes.append(TextBox(int(start), top, right, bottom))
    return [_scale_box(box, step) for box in _join_boxes(boxes)]


def _letter_rows(is_dense: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return begin and end of each run of rows that is as tall as letters are."""
    marks = np.flatnonzero(np.diff(np.pad(is_dense.astype(np.int8), 1)))
    pairs = zip(marks[::2], marks[1::2], strict=True)
    return [(int(begin), int(end)) for begin, end in pairs if end - begin >= _TALL]


def _join_boxes(boxes: list[TextBox]) -> list[TextBox]:
    lines: list[TextBox] = []
    for box in sorted(boxes, key=lambda box: (box.left, box.top)):
        for place, line in enumerate(lines):
            if box.left <= line.right and box.top < line.bottom and line.top < box.bottom:
                lines[place] = TextBox(
                    min(box.left, line.left), min(box.top, line.top),
                    max(box.right, line.right), max(box.bottom, line.bottom),
                )  # fmt: skip
                break
        else:
            lines.append(box)
    return lines


def _scale_box(box: TextBox, step: int) -> TextBox:
    return TextBox(box.left * step, box.top * step, box.right * step, box.bottom * step)
