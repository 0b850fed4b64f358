"""Squares a picture's pixels and turns it so that the patient's right is at the viewer's left."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from dicom_node.standard import pixel_shape
from worker.image.gate import LARGEST, MOST_PIXELS
from worker.image.header import Header

Bytes = npt.NDArray[np.uint8]

_SIDEWAYS, _UP_OR_DOWN = frozenset("LR"), frozenset("HF")


def square_pixels(head: Header, pixels: Bytes) -> tuple[Bytes, str]:
    """Return the picture with square pixels, and the name of what was done."""
    ratio = pixel_shape.shape_of(head.aspects)
    if ratio is None:
        return pixels, "unusable" if head.aspects else "square"
    if ratio == 1.0:
        return pixels, "square"
    rows, columns = pixels.shape
    across, down = pixel_shape.enlarged(ratio)
    size = (round(columns * across), round(rows * down))
    # A wrong ratio must not make a picture that no machine can hold.
    shrink = min(1.0, LARGEST / max(size), (MOST_PIXELS / (size[0] * size[1])) ** 0.5)
    size = (max(int(size[0] * shrink), 1), max(int(size[1] * shrink), 1))
    resized = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
    return np.array(resized), "resampled"


def turn_upright(head: Header, pixels: Bytes) -> tuple[Bytes, str]:
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
