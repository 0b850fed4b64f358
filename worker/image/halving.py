"""Averages stored values two by two where the model needs no more, which is faster."""

from __future__ import annotations

import sys

import numpy as np
import numpy.typing as npt

from worker.image.grey import in_threads
from worker.image.header import Header

Stored = npt.NDArray[np.unsignedinteger]

_MOST_BITS = 14
"""Four of these values make a sum that still fits 16 bits."""
_STRIP = 64
_LOW = 0 if sys.byteorder == "little" else 1


def halve_stored(head: Header, stored: Stored, enough: int | None) -> tuple[Stored, int]:
    """Return stored values averaged two by two while `enough` remain, and how often that was.

    Averages are taken where they mean something: unsigned values without padding, without bits
    for other purposes and without a shutter, whose edges count pixels.
    """
    is_plain = (
        stored.dtype == np.uint16
        and head.stored <= _MOST_BITS
        and head.high_bit in (None, head.stored - 1)
        and head.is_signed is False
        and not head.shutters.shapes
        and head.padding is None
    )
    halvings = 0
    while enough and is_plain and min(stored.shape) >= 4 * enough:
        # Bits above Bits Stored would be averaged into the picture; after a first halving there are
        # none.
        if not halvings and int(stored.max()) >> head.stored:
            break
        stored = _average_pairs(stored)
        halvings += 1
    return stored, halvings


def _average_pairs(stored: Stored) -> Stored:
    """Return averages two by two; an odd last row or column is left out."""
    rows, columns = stored.shape[0] // 2, stored.shape[1] // 2
    averages = np.empty((rows, columns), np.uint16)

    def halve_strip(top: int) -> None:
        strip = stored[2 * top : 2 * min(top + _STRIP, rows), : 2 * columns]
        # Two neighbours lie in one word of twice the width; adding halves of words is fast.
        words = (strip[::2] + strip[1::2]).view(np.uint32)
        # Upper half to the lower: with 14 bits the sum of four is at most 65532, so no carry leaves
        # its half.
        words += words >> 16
        np.right_shift(words.view(np.uint16)[:, _LOW::2], 2, out=averages[top : top + _STRIP])

    # In strips that stay in the processor's cache.
    in_threads(halve_strip, range(0, rows, _STRIP))
    return averages
