"""Composes everything between stored values and grey levels into one table.

The table has one uint8 entry per value that a stored pixel can have, so that the picture itself
is touched once (PS3.3 C.11.1 Modality LUT, C.11.2 VOI LUT, C.11.6 Presentation LUT).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydicom import Dataset

from worker.image import header

Mode = Literal["voi", "minmax", "minmax+equalize"]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Bytes = npt.NDArray[np.uint8]

LOSSY = frozenset(f"1.2.840.10008.1.2.4.{number}" for number in ("50", "51", "81", "91", "203"))
"""Transfer syntaxes whose decoded values may overshoot what was stored."""

_PERCENTILES = (0.005, 0.995)
_MOST_SATURATED = 0.5
_BLOCK = 1 << 17
_SAMPLE = 1 << 15
"""Pixels that are enough to see whether a window is usable."""


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """What each value that a pixel can have becomes, and how that came about."""

    levels: Bytes
    steps: tuple[str, ...]
    warnings: tuple[str, ...] = ()

    def apply(self, pixels: npt.NDArray[np.unsignedinteger]) -> Bytes:
        """Return the picture, (rows, columns)."""
        shown = np.empty(pixels.shape, np.uint8)
        source, target = np.ascontiguousarray(pixels).reshape(-1), shown.reshape(-1)

        def look_up(start: int) -> None:
            # Blocks that stay in the processor's cache are twice as fast as one lookup.
            block = slice(start, start + _BLOCK)
            self.levels.take(source[block], out=target[block], mode="clip")

        in_threads(look_up, range(0, source.size, _BLOCK))
        return shown


def in_threads(act: Callable[[int], None], starts: range) -> None:
    """Call `act` for each start, several at a time; numpy lets go of the interpreter meanwhile."""
    list(_threads().map(act, starts))


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(4, os.cpu_count() or 1), "grey")


def table(
    ds: Dataset,
    pixels: npt.NDArray[np.unsignedinteger],
    visible: tuple[slice, slice] | Bools,
    mode: Mode = "voi",
) -> Table:
    """Return the table that turns stored pixels into grey levels, 0 = black.

    Parameters
    ----------
    ds : Dataset
        The header.
    pixels : ndarray of uint8 or uint16, (rows, columns)
        Stored pixels as bit patterns; sign and unused bits are dealt with here.
    visible : pair of slices, or ndarray of bool, (rows, columns)
        What lies inside the shutter.
    mode : {"voi", "minmax", "minmax+equalize"}
        How values become grey levels.
    """
    stored, padded = _stored(ds, pixels.dtype.itemsize)
    first = int(stored.min())
    domain = np.arange(first, int(stored.max()) + 1)
    x, modality = _modality(ds, domain)
    counts = _Counts(pixels, visible, padded, stored - first)
    if mode == "voi":
        grey, voi, warnings = _voi(ds, x, counts)
    else:
        grey, voi, warnings = _between(x, counts.limits(x, 0.0, 1.0)), mode, ()
    is_inverted = header.word(ds, "PhotometricInterpretation") == "MONOCHROME1" or (
        header.word(ds, "PresentationLUTShape") == "INVERSE"
    )
    if is_inverted:
        grey = 1.0 - grey
    levels = np.rint(grey * 255.0).astype(np.uint8)
    if mode == "minmax+equalize":
        levels = _equalized(levels, counts.whole)
    patterns = levels[stored - first]
    patterns[padded] = 0
    steps = [f"modality={modality}", f"voi={voi}", f"invert={'yes' if is_inverted else 'no'}"]
    if padded.any():
        steps.append("padding=black")
    return Table(patterns, tuple(steps), warnings)


class _Counts:
    """How often each stored value occurs where neither padding nor a shutter is."""

    def __init__(
        self,
        pixels: npt.NDArray[np.unsignedinteger],
        visible: tuple[slice, slice] | Bools,
        padded: Bools,
        places: Ints,
    ) -> None:
        self._pixels, self._visible = pixels, visible
        self._padded, self._places = padded, places

    @property
    def sample(self) -> Ints:
        """Count some rows and columns of a large picture."""
        step = max(1, math.isqrt(self._pixels.size // _SAMPLE))
        return self._count(slice(None, None, step))

    @property
    def whole(self) -> Ints:
        """Count every pixel."""
        return self._count(slice(None))

    def limits(self, x: Floats, low: float, high: float) -> tuple[float, float]:
        """Return the values below which the shares `low` and `high` of the pixels lie."""
        counts = self.whole
        order = np.argsort(x, kind="stable")
        order = order[counts[order] > 0]
        if not order.size:
            return 0.0, 0.0
        below = np.cumsum(counts[order])
        first, last = np.searchsorted(below, [low * below[-1], high * below[-1]])
        last = min(int(last), order.size - 1)
        return float(x[order[first]]), float(x[order[last]])

    def _count(self, step: slice) -> Ints:
        if isinstance(self._visible, tuple):
            seen = self._pixels[self._visible][step, step]
        else:
            seen = self._pixels[step, step][self._visible[step, step]]
        flat = np.ascontiguousarray(seen).reshape(-1)
        counts = np.zeros(self._padded.size, np.int64)
        for start in range(0, flat.size, 2 * _BLOCK):
            counts += np.bincount(flat[start : start + 2 * _BLOCK], minlength=counts.size)
        counts[self._padded] = 0
        found = np.zeros(int(self._places.max()) + 1, np.int64)
        np.add.at(found, self._places, counts)
        return found


def _stored(ds: Dataset, itemsize: int) -> tuple[Ints, Bools]:
    """Return the stored value of each bit pattern and whether it is padding."""
    allocated = 8 * itemsize
    bits = min(header.integer(ds, "BitsStored") or allocated, allocated)
    is_signed = header.integer(ds, "PixelRepresentation") == 1
    patterns = np.arange(1 << allocated, dtype=np.int64)
    whole = _signed(patterns, allocated) if is_signed else patterns
    if header.transfer_syntax(ds) in LOSSY:
        least = -(1 << (bits - 1)) if is_signed else 0
        stored = np.clip(whole, least, least + (1 << bits) - 1)
    else:
        high_bit = header.integer(ds, "HighBit")
        shift = 0 if high_bit is None else min(max(high_bit + 1 - bits, 0), allocated - bits)
        stored = (patterns >> shift) & ((1 << bits) - 1)
        if is_signed:
            stored = _signed(stored, bits)
    return stored, _padded(ds, stored, whole, bits, is_signed)


def _signed(patterns: Ints, bits: int) -> Ints:
    return np.where(patterns >> (bits - 1), patterns - (1 << bits), patterns)


def _padded(ds: Dataset, stored: Ints, whole: Ints, bits: int, is_signed: bool) -> Bools:
    """Return which bit patterns are Pixel Padding Values (PS3.3 C.7.5.1.1.2)."""
    first = header.integer(ds, "PixelPaddingValue")
    if first is None:
        return np.zeros(stored.shape, np.bool_)
    last = header.integer(ds, "PixelPaddingRangeLimit")
    ends = [first, first if last is None else last]
    if is_signed:
        # A value written as US, or read so from an ambiguous VR, means the same bits.
        ends = [end - 65536 if end > 32767 else end for end in ends]
    low, high = min(ends), max(ends)
    least = -(1 << (bits - 1)) if is_signed else 0
    # Some writers pad with values that only fit Bits Allocated.
    where = stored if least <= low and high < least + (1 << bits) else whole
    return (where >= low) & (where <= high)


def _modality(ds: Dataset, stored: Ints) -> tuple[Floats, str]:
    for item in header.items(ds, "ModalityLUTSequence")[:1]:
        lut = _lut(ds, item, header.integer(ds, "PixelRepresentation") == 1)
        if lut is not None:
            return lut.of(stored.astype(np.float64)), "lut"
    slope = header.number(ds, "RescaleSlope")
    intercept = header.number(ds, "RescaleIntercept") or 0.0
    if slope == 0.0 or (slope in (None, 1.0) and not intercept):
        # A slope of zero would erase the picture; it is a fault of the writer.
        return stored.astype(np.float64), "none"
    with np.errstate(over="ignore", invalid="ignore"):
        rescaled = stored * np.float64(1.0 if slope is None else slope) + intercept
    if not np.isfinite(rescaled).all():
        return stored.astype(np.float64), "none"
    return rescaled, "rescale"


@dataclass(frozen=True, slots=True, eq=False)
class _Lut:
    first: int
    bits: int
    entries: Floats

    def of(self, x: Floats) -> Floats:
        index = np.rint(x - self.first).clip(0, self.entries.size - 1).astype(np.intp)
        return self.entries[index]


def _lut(ds: Dataset, item: Dataset, is_signed: bool) -> _Lut | None:
    """Return the table of one item, or None when it is not usable (PS3.3 C.11.1.1)."""
    descriptor = header.numbers(item, "LUTDescriptor")
    if len(descriptor) != 3:
        return None
    count, first, bits = (int(entry) for entry in descriptor)
    count = count % 65536 or 65536  # PS3.3 C.11.1.1: 65536 is written as 0
    if is_signed and first > 32767:
        first -= 65536
    entries = _entries(ds, item, count)
    if entries is None or not 1 <= bits <= 16:
        return None
    return _Lut(first, bits, entries)


def _entries(ds: Dataset, item: Dataset, count: int) -> Floats | None:
    # A table may say that it has millions of entries, of which only `count` matter.
    found = header.unread(item, "LUTData")
    if isinstance(found, bytes):
        found = found[: 2 * count]
        is_little_endian = header.transfer_syntax(ds) != "1.2.840.10008.1.2.2"
        if len(found) >= 2 * count:
            entries = np.frombuffer(found, "<u2" if is_little_endian else ">u2")
        else:
            # Eight bits per entry, two entries per word (PS3.3 C.11.1.1.1).
            packed = np.frombuffer(found[: len(found) // 2 * 2], np.uint8)
            entries = packed if is_little_endian else packed.reshape(-1, 2)[:, ::-1].reshape(-1)
    else:
        listed = header.numbers(item, "LUTData")
        entries = np.asarray(listed, np.float64) % 65536
        if count // 2 <= entries.size < count:
            low, high = entries % 256, entries // 256
            entries = np.column_stack([low, high]).reshape(-1)
    return entries[:count].astype(np.float64) if entries.size >= count else None


def _voi(ds: Dataset, x: Floats, counts: _Counts) -> tuple[Floats, str, tuple[str, ...]]:
    """Return grey from 0 to 1 by the first usable of VOI LUT, window and percentiles."""
    warnings: tuple[str, ...] = ()
    for item in header.items(ds, "VOILUTSequence")[:1]:
        has_modality_lut = bool(header.items(ds, "ModalityLUTSequence"))
        lut = _lut(ds, item, not has_modality_lut and bool(x.min() < 0))
        if lut is not None:
            return np.minimum(lut.of(x) / ((1 << lut.bits) - 1), 1.0), "lut", warnings
        warnings = ("The VOI LUT of the image is not usable.",)
    centers, widths = header.numbers(ds, "WindowCenter"), header.numbers(ds, "WindowWidth")
    if centers and widths:
        function = header.word(ds, "VOILUTFunction") or "LINEAR"
        grey = _windowed(x, centers[0], widths[0], function)
        if grey is not None and _saturated(grey, counts.sample) <= _MOST_SATURATED:
            return grey, f"window-{function.lower()}", warnings
        warnings += ("The window of the image is not usable; percentiles were taken instead.",)
    return _between(x, counts.limits(x, *_PERCENTILES)), "percentiles", warnings


def _windowed(x: Floats, center: float, width: float, function: str) -> Floats | None:
    """Return grey from 0 to 1 (PS3.3 C.11.2.1.2 and C.11.2.1.3), None if not usable."""
    if function == "SIGMOID":
        if width <= 0:
            return None
        return 1.0 / (1.0 + np.exp(np.clip(-4.0 * (x - center) / width, -700.0, 700.0)))
    if function != "LINEAR_EXACT":
        center, width = center - 0.5, width - 1.0
        if width == 0:
            return (x > center).astype(np.float64)
    if width <= 0:
        return None
    return np.clip((x - center) / width + 0.5, 0.0, 1.0)


def _saturated(grey: Floats, counts: Ints) -> float:
    total = counts.sum()
    at_an_end = (grey <= 0.0) | (grey >= 1.0)
    return float(counts[at_an_end].sum() / total) if total else 1.0


def _between(x: Floats, limits: tuple[float, float]) -> Floats:
    low, high = limits
    if high <= low:
        return np.zeros_like(x)
    return np.clip((x - low) / (high - low), 0.0, 1.0)


def _equalized(levels: Bytes, counts: Ints) -> Bytes:
    """Return levels spread so that each is equally frequent, as is usual for 8-bit pictures."""
    share = np.bincount(levels, weights=counts, minlength=256).cumsum()
    first = share[share > 0][0] if share[-1] else 0.0
    if share[-1] <= first:
        return levels
    spread = np.rint((share - first).clip(0) / (share[-1] - first) * 255.0).astype(np.uint8)
    equalized: Bytes = spread[levels]
    return equalized
