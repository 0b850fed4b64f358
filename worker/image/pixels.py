"""Turns a DICOM Instance into the picture that a model was trained on, or says why not."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom import Dataset

from dicom_node.base.errors import Rejected
from worker.image import grey, header
from worker.image.gate import LARGEST, MOST_PIXELS, gate
from worker.image.part10 import read
from worker.image.screen import screen
from worker.image.shutter import shutter as find_shutter
from worker.settings import Pixels as Options

__all__ = ["Decodes", "Radiograph", "gate", "preprocessing", "radiograph", "read"]

VERSION = 1
"""Counts up with every change of what a picture looks like; part of a report's identity."""

_SIDEWAYS, _UP_OR_DOWN = frozenset("LR"), frozenset("HF")
_SQUARE, _LARGEST_ASPECT = 0.01, 5.0
_MOST_BITS_HALVED = 14
"""Four of these values make a sum that still fits 16 bits."""
_STRIP = 64
_LOW = 0 if sys.byteorder == "little" else 1


class Decodes(Protocol):
    """Turns Pixel Data into pixels, as `worker.image.decode.Decoder` does."""

    def lent(self, ds: Dataset) -> AbstractContextManager[npt.NDArray[np.unsignedinteger]]:
        """Lend the stored pixels as bit patterns, (rows, columns)."""


@dataclass(frozen=True, slots=True, eq=False)
class Radiograph:
    """A picture as a radiologist would see it."""

    pixels: npt.NDArray[np.uint8]
    """(rows, columns), 0 = black; the patient's right is at the viewer's left."""
    steps: str
    """What was done, for example ``voi-1: modality=none,voi=window-linear,invert=no,…``."""
    warnings: tuple[str, ...] = ()


def preprocessing(options: Options) -> str:
    """Return the name of the specification that pictures follow, for example ``voi-1``."""
    smaller = f"/{options.enough}" if options.enough else ""
    return f"{options.mode}-{VERSION}{smaller}"


def radiograph(ds: Dataset, decoder: Decodes, options: Options) -> Radiograph:
    """Return the Instance's image as a radiologist would see it.

    Parameters
    ----------
    ds : Dataset
        As `read` returns it.
    decoder : Decodes
        What turns Pixel Data into pixels.
    options : Options
        ``[pixels]`` of worker.toml.

    Returns
    -------
    Radiograph
        uint8, at the image's own resolution unless ``options.enough`` allows less.

    Raises
    ------
    Rejected
        By `gate`, by the decoder, ``no-contrast``, or ``screened-out`` where the site wants that.
    OutOfResources
        The decoder cannot start.

    References
    ----------
    DICOM PS3.3 C.11.1, C.11.2, C.11.6 (grey levels), C.7.6.11 (shutters), C.7.6.1.1.1
    (orientation), C.7.6.3.1.7 (aspect ratio).
    """
    gate(ds, options)
    with decoder.lent(ds) as lent:
        stored, halvings = _halved(ds, lent, options.enough)
        shutter = find_shutter(ds, (stored.shape[0], stored.shape[1]))
        levels = grey.table(ds, stored, shutter.visible, options.mode)
        pixels = levels.apply(stored)
    shutter.close(pixels)
    pixels, aspect = _squared(ds, pixels)
    pixels, turn = _turned(ds, pixels)
    if _is_even(pixels):
        raise Rejected("no-contrast", "All pixels of the image are of the same grey.")
    size = f"size=1/{1 << halvings}" if halvings else "size=full"
    steps = ",".join((*levels.steps, *shutter.steps, f"aspect={aspect}", f"orient={turn}", size))
    notes = (*levels.warnings, *shutter.warnings)
    if turn == "unknown":
        notes += (
            "The image does not say which side is the patient's right; it was left as it is.",
        )
    if options.screening != "off":
        doubts = tuple(text for _, text in screen(pixels))
        if doubts and options.screening == "reject":
            raise Rejected("screened-out", " ".join(doubts))
        notes += doubts
    return Radiograph(pixels, f"{preprocessing(options)}: {steps}", notes)


def _halved(
    ds: Dataset, stored: npt.NDArray[np.unsignedinteger], enough: int | None
) -> tuple[npt.NDArray[np.unsignedinteger], int]:
    """Return stored values averaged two by two while `enough` remain, and how often that was.

    Averages are taken where they mean something: unsigned values without padding, without bits
    for other purposes and without a shutter, whose edges count pixels.
    """
    bits = header.integer(ds, "BitsStored") or 16
    is_plain = (
        stored.dtype == np.uint16
        and bits <= _MOST_BITS_HALVED
        and header.integer(ds, "HighBit") in (None, bits - 1)
        and header.integer(ds, "PixelRepresentation") == 0
        and header.value(ds, "ShutterShape") is None
        and header.value(ds, "PixelPaddingValue") is None
    )
    halvings = 0
    while enough and is_plain and min(stored.shape) >= 4 * enough:
        if not halvings and int(stored.max()) >> bits:
            break
        stored = _half(stored)
        halvings += 1
    return stored, halvings


def _half(stored: npt.NDArray[np.unsignedinteger]) -> npt.NDArray[np.unsignedinteger]:
    """Return averages two by two; an odd last row or column is left out."""
    rows, columns = stored.shape[0] // 2, stored.shape[1] // 2
    halved = np.empty((rows, columns), np.uint16)

    def halve(top: int) -> None:
        strip = stored[2 * top : 2 * min(top + _STRIP, rows), : 2 * columns]
        # Two neighbours lie in one word of twice the width; adding halves of words is fast.
        words = (strip[::2] + strip[1::2]).view(np.uint32)
        words += words >> 16
        np.right_shift(words.view(np.uint16)[:, _LOW::2], 2, out=halved[top : top + _STRIP])

    # In strips that stay in the processor's cache.
    grey.in_threads(halve, range(0, rows, _STRIP))
    return halved


def _is_even(pixels: npt.NDArray[np.uint8]) -> bool:
    """Return whether all is of one grey; most images show by a few pixels that they are not."""
    few = pixels[:: max(1, pixels.shape[0] // 16), :: max(1, pixels.shape[1] // 16)]
    return bool(few.min() == few.max() and pixels.min() == pixels.max())


def _squared(ds: Dataset, pixels: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.uint8], str]:
    """Return the picture with square pixels, and the name of what was done."""
    ratio = _aspect(ds)
    if abs(ratio - 1.0) < _SQUARE:
        return pixels, "square"
    if not 1 / _LARGEST_ASPECT <= ratio <= _LARGEST_ASPECT:
        return pixels, "unusable"
    rows, columns = pixels.shape
    # Enlarge the side with the coarser pixels, so that no detail is lost.
    size = (columns, round(rows * ratio)) if ratio > 1 else (round(columns / ratio), rows)
    shrink = min(1.0, LARGEST / max(size), (MOST_PIXELS / (size[0] * size[1])) ** 0.5)
    size = (max(int(size[0] * shrink), 1), max(int(size[1] * shrink), 1))
    resized = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
    return np.array(resized), "resampled"


def _aspect(ds: Dataset) -> float:
    """Return height / width of one pixel (PS3.3 C.7.6.3.1.7); 1 when the header does not say."""
    for keyword in ("PixelAspectRatio", "PixelSpacing", "ImagerPixelSpacing"):
        found = header.numbers(ds, keyword)
        if len(found) == 2 and min(found) > 0:
            return found[0] / found[1]
    return 1.0


def _turned(ds: Dataset, pixels: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.uint8], str]:
    r"""Return the picture with rows to the patient's left and columns to the feet (L\F)."""
    row, column = ([way[:1] for way in header.words(ds, "PatientOrientation")] + ["", ""])[:2]
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
