"""Squares a picture's pixels and turns it so that the patient's right is at the viewer's left."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from worker.image.gate import LARGEST, MOST_PIXELS
from worker.image.header import Header

Bytes = npt.NDArray[np.uint8]

_SIDEWAYS, _UP_OR_DOWN = frozenset("LR"), frozenset("HF")
_SQUARE, _LARGEST_ASPECT = 0.01, 5.0


def squared(head: Header, pixels: Bytes) -> tuple[Bytes, str]:
    """Return the picture with square pixels, and the name of what was done."""
    usable = [ratio for ratio in head.aspects if 1 / _LARGEST_ASPECT <= ratio <= _LARGEST_ASPECT]
    if not usable:
        return pixels, "unusable" if head.aspects else "square"
    ratio = usable[0]
    if abs(ratio - 1.0) < _SQUARE:
        return pixels, "square"
    rows, columns = pixels.shape
    # Enlarge the side with the coarser pixels, so that no detail is lost.
    size = (columns, round(rows * ratio)) if ratio > 1 else (round(columns / ratio), rows)
    shrink = min(1.0, LARGEST / max(size), (MOST_PIXELS / (size[0] * size[1])) ** 0.5)
    size = (max(int(size[0] * shrink), 1), max(int(size[1] * shrink), 1))
    resized = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
    return np.array(resized), "resampled"


def turned(head: Header, pixels: Bytes) -> tuple[Bytes, str]:
    r"""Return the picture with rows to the patient's left and columns to the feet (L\F)."""
    row, column = (*head.orientation, "", "")[:2]
    is_transposed = row in _UP_OR_DOWN and column in _SIDEWAYS
    if is_transposed:
        pixels, row, column = pixels.T, column, row
    if row not in _SIDEWAYS or column not in _UP_OR_DOWN:
        return pixels, "unknown"
    if row == "R":
        pixels = pixels[:, ::-1]
    if column == "H":
        pixels = pixels[::-1]
    done = [("transposed", is_transposed), ("mirrored", row == "R"), ("upturned", column == "H")]
    names = [name for name, is_done in done if is_done]
    return np.ascontiguousarray(pixels), "+".join(names) or "kept"
