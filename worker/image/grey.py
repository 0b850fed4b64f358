"""Composes everything between stored values and grey levels into one table.

The table has one uint8 entry per value that a stored pixel can have, so that the picture itself
is touched once (PS3.3 C.11.1 Modality LUT, C.11.2 VOI LUT, C.11.6 Presentation LUT).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from worker.image.decode import LOSSY
from worker.image.elements import fold_text
from worker.image.header import Header, Window
from worker.image.luts import Lut, luts
from worker.settings import Pixels as Options

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Bytes = npt.NDArray[np.uint8]

_PERCENTILES = (0.005, 0.995)
_MOST_SATURATED = 0.5
_BLOCK = 1 << 17
_FEW_STARTS = 4
_SAMPLE = 1 << 15
"""Pixels that are enough to see whether a window is usable."""
_PATCH = 4
"""Side of the patches, in pixels of the sample, that are distinguished by their detail."""
_DETAIL = 0.05
"""Least standard deviation of a patch of the picture proper, as a share of the liveliest's."""
_FEWEST_WRAPS = 0.002
"""Share of neighbours on both sides of a border that betrays that the border is none."""
_DARK, _BLANK = 0.25, 1 / 64
"""Shares of all grey levels: a window that leaves the picture fewer has a fault, or hides it."""


@dataclass(frozen=True, slots=True, eq=False)
class Display:
    """How stored values became grey: what the picture followed, whatever else its header says."""

    modality: Literal["none", "rescale", "lut"]
    slope: float
    intercept: float
    """Of a rescale that was applied, else 1 and 0."""
    modality_lut: Lut | None
    voi: Literal["window", "lut", "percentiles", "range"]
    window: Window | None
    """What spread the values; LINEAR_EXACT between the limits found where no window was usable."""
    voi_lut: Lut | None
    is_inverted: bool
    """Whether low values are bright."""


@dataclass(frozen=True, slots=True, eq=False)
class GreyTable:
    """What each value that a pixel can have becomes, and how that came about."""

    levels: Bytes
    steps: tuple[str, ...]
    warnings: tuple[str, ...]
    display: Display

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
    if len(starts) <= _FEW_STARTS:
        # To wake threads for a tenth of a millisecond's work takes longer than the work.
        for start in starts:
            act(start)
    else:
        list(_grey_threads().map(act, starts))


@cache
def _grey_threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(4, os.cpu_count() or 1), "grey")


def grey_table(
    head: Header,
    pixels: npt.NDArray[np.unsignedinteger],
    visible: tuple[slice, slice] | Bools,
    options: Options,
) -> GreyTable:
    """Return the table that turns stored pixels into grey levels, 0 = black.

    Parameters
    ----------
    head : Header
        What the header says.
    pixels : ndarray of uint8 or uint16, (rows, columns)
        Stored pixels as bit patterns; sign and unused bits are dealt with here.
    visible : pair of slices, or ndarray of bool, (rows, columns)
        What lies inside the shutter.
    options : Options
        ``mode`` is how values become grey levels, ``window`` and ``polarity`` choose where the
        header says several things.
    """
    head, high_doubts = _with_high_bit(head, pixels)
    head, bits_doubts = _with_used_bits(head, pixels)
    stored, padded = _stored_values(head, pixels.dtype.itemsize)
    first = int(stored.min())
    # Everything below works on the values that a pixel can have, at most 65536, and not on pixels.
    domain = np.arange(first, int(stored.max()) + 1)
    values = _apply_modality(head, domain)
    counts = _Counts(pixels, visible, padded, stored - first)
    if options.mode == "voi":
        shown = _choose_voi(head, values.x, counts, options.window)
    else:
        shown = _spread_between(values.x, counts.limits(values.x, 0.0, 1.0), "range", ())
    is_inverted, doubts = _read_polarity(head, options.polarity)
    grey = 1.0 - shown.grey if is_inverted else shown.grey
    levels = np.rint(grey * 255.0).astype(np.uint8)
    if options.mode == "minmax+equalize":
        levels = _equalized_levels(levels, counts.whole)
    # From grey per stored value to grey per bit pattern: the picture is then one lookup per pixel.
    patterns = levels[stored - first]
    # After the polarity: padding is black, whichever end of the scale black is at.
    patterns[padded] = 0
    voi = options.mode if shown.voi == "range" else shown.step
    steps = [f"modality={values.modality}", f"voi={voi}", f"invert={_yes_or_no(is_inverted)}"]
    if padded.any():
        steps.append("padding=black")
    display = Display(
        values.modality,
        values.slope,
        values.intercept,
        values.lut,
        shown.voi,
        shown.window,
        shown.lut,
        is_inverted,
    )
    return GreyTable(
        patterns,
        tuple(steps),
        (*high_doubts, *bits_doubts, *values.warnings, *shown.warnings, *doubts),
        display,
    )


def _yes_or_no(is_so: bool) -> str:
    return "yes" if is_so else "no"


def _read_polarity(head: Header, wins: str) -> tuple[bool, tuple[str, ...]]:
    """Return whether low values are bright, and what the header contradicts itself about.

    Presentation LUT Shape tells how a picture is to be shown (PS3.3 C.8.11.1.1.2 couples it with
    Photometric Interpretation), and DCMTK and dcm4che follow it; many viewers do not know it.
    """
    is_negative = head.photometric == "MONOCHROME1"
    by_shape = {"INVERSE": True, "IDENTITY": False}.get(head.presentation_shape)
    if by_shape is None or by_shape == is_negative:
        return is_negative, ()
    doubt = (
        f"Presentation LUT Shape {head.presentation_shape} contradicts Photometric Interpretation "
        f"{head.photometric}; the {'former' if wins == 'presentation' else 'latter'} was followed."
    )
    return by_shape if wins == "presentation" else is_negative, (doubt,)


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
        self._padding_patterns, self._places = padded, places

    def sample(self) -> tuple[Ints, Bools]:
        """Return some rows and columns as places of stored values, and which of them count."""
        # Whole rows and columns are left out and not single pixels: patches need neighbours.
        step = slice(None, None, max(1, math.isqrt(self._pixels.size // _SAMPLE)))
        if isinstance(self._visible, tuple):
            few = self._pixels[self._visible][step, step]
            counted = ~self._padding_patterns[few]
        else:
            few = self._pixels[step, step]
            counted = self._visible[step, step] & ~self._padding_patterns[few]
        return self._places[few], counted

    @property
    def whole(self) -> Ints:
        """Count every pixel."""
        seen = self._pixels[self._visible]
        flat = np.ascontiguousarray(seen).reshape(-1)
        counts = np.zeros(self._padding_patterns.size, np.int64)
        # bincount makes 8 bytes of each pixel: in blocks this stays in the cache.
        for start in range(0, flat.size, 2 * _BLOCK):
            counts += np.bincount(flat[start : start + 2 * _BLOCK], minlength=counts.size)
        counts[self._padding_patterns] = 0
        found = np.zeros(int(self._places.max()) + 1, np.int64)
        np.add.at(found, self._places, counts)
        return found

    def limits(self, x: Floats, low: float, high: float) -> tuple[float, float]:
        """Return the values below which the shares `low` and `high` of the pixels lie."""
        counts = self.whole
        order = np.argsort(x, kind="stable")
        order = order[counts[order] > 0]
        if not order.size:
            return 0.0, 0.0
        # By x and not by stored value: a table or a negative slope may reverse the order.
        below = np.cumsum(counts[order])
        first, last = np.searchsorted(below, [low * below[-1], high * below[-1]])
        last = min(int(last), order.size - 1)
        return float(x[order[first]]), float(x[order[last]])


def _with_high_bit(
    head: Header, pixels: npt.NDArray[np.unsignedinteger]
) -> tuple[Header, tuple[str, ...]]:
    """Return the header without a High Bit above which, and above whose values, nothing stands.

    Some writers leave 15 there beside 10 or 12 Bits Stored at the low end.
    """
    bits = head.stored
    # A pixel above Bits Stored proves that High Bit means something.
    if head.high_bit is None or head.high_bit < bits or int(pixels.max()) >> bits:
        return head, ()
    doubt = f"High Bit is {head.high_bit}, yet the pixels lie in the lowest {bits} bits."
    return replace(head, high_bit=None), (doubt,)


def _with_used_bits(
    head: Header, pixels: npt.NDArray[np.unsignedinteger]
) -> tuple[Header, tuple[str, ...]]:
    """Return the header with the bits that the pixels use, where they run on past Bits Stored.

    What stands above Bits Stored is something else (PS3.5 8.1.1), such as an overlay; but where
    neighbours that differ little lie on both sides of that border, it is the picture itself.
    """
    allocated, bits = 8 * pixels.itemsize, head.stored
    is_low = head.high_bit in (None, bits - 1) and head.transfer_syntax not in LOSSY
    used = int(pixels.max()).bit_length()
    if not is_low or used <= bits or bits >= allocated:
        return head, ()
    few = pixels[:: max(1, pixels.size // _SAMPLE // pixels.shape[1])].astype(np.int64)
    low = few & ((1 << bits) - 1)
    if head.is_signed:
        few, low = _with_sign(few, allocated), _with_sign(low, bits)
    steps, low_steps = np.abs(np.diff(few)), np.abs(np.diff(low))
    wraps = int(((low_steps >= 1 << (bits - 1)) & (steps < 1 << (bits - 1))).sum())
    breaks = int((steps >= 1 << bits).sum())
    if wraps < _FEWEST_WRAPS * steps.size or breaks > wraps / 4:
        return head, ()
    used = allocated if head.is_signed else used
    doubt = f"Bits Stored is {bits}, yet the pixels run on to {used} bits; all were taken."
    return replace(head, bits_stored=used, high_bit=None), (doubt,)


def _stored_values(head: Header, itemsize: int) -> tuple[Ints, Bools]:
    """Return the stored value of each bit pattern and whether it is padding."""
    allocated = 8 * itemsize
    bits = min(head.bits_stored or allocated, allocated)
    is_signed = bool(head.is_signed)
    patterns = np.arange(1 << allocated, dtype=np.int64)
    whole = _with_sign(patterns, allocated) if is_signed else patterns
    if head.transfer_syntax in LOSSY:
        least = -(1 << (bits - 1)) if is_signed else 0
        stored = np.clip(whole, least, least + (1 << bits) - 1)
    else:
        high_bit = bits - 1 if head.high_bit is None else head.high_bit
        # Bits Stored end at High Bit; what is above and below is something else, such as overlays
        # of older files (PS3.5 8.1.1).
        shift = min(max(high_bit + 1 - bits, 0), allocated - bits)
        stored = (patterns >> shift) & ((1 << bits) - 1)
        if is_signed:
            stored = _with_sign(stored, bits)
    return stored, _padding_patterns(head.padding, stored, whole, bits, is_signed)


def _with_sign(patterns: Ints, bits: int) -> Ints:
    return np.where(patterns >> (bits - 1), patterns - (1 << bits), patterns)


def _padding_patterns(
    padding: tuple[int, int] | None, stored: Ints, whole: Ints, bits: int, is_signed: bool
) -> Bools:
    """Return which bit patterns are Pixel Padding Values (PS3.3 C.7.5.1.1.2)."""
    if padding is None:
        return np.zeros(stored.shape, np.bool_)
    # A value written as US, or read so from an ambiguous VR, means the same bits.
    ends = [end - 65536 if is_signed and end > 32767 else end for end in padding]
    low, high = min(ends), max(ends)
    least = -(1 << (bits - 1)) if is_signed else 0
    # Some writers pad with values that only fit Bits Allocated.
    where = stored if least <= low and high < least + (1 << bits) else whole
    return (where >= low) & (where <= high)


@dataclass(frozen=True, slots=True, eq=False)
class _Values:
    """What stored values mean (PS3.3 C.11.1)."""

    x: Floats
    modality: Literal["none", "rescale", "lut"] = "none"
    slope: float = 1.0
    intercept: float = 0.0
    lut: Lut | None = None
    warnings: tuple[str, ...] = ()


def _apply_modality(head: Header, domain: Ints) -> _Values:
    x = domain.astype(np.float64)
    warnings: tuple[str, ...] = ()
    if head.modality_tables:
        lut = luts(head.modality_tables[:1], head)[0]
        if lut is not None:
            values = lut.look_up(x, bool(head.is_signed))
            return _Values(values, "lut", lut=lut, warnings=_bits_doubt(lut, "Modality LUT"))
        warnings = ("The Modality LUT of the image is not usable.",)
    slope = 1.0 if head.slope is None else head.slope
    if slope == 0.0 or (slope == 1.0 and not head.intercept):
        # A slope of zero would erase the picture; it is a fault of the writer.
        return _Values(x, warnings=warnings)
    with np.errstate(over="ignore", invalid="ignore"):
        rescaled = x * np.float64(slope) + head.intercept
    if not np.isfinite(rescaled).all():
        return _Values(x, warnings=warnings)
    return _Values(rescaled, "rescale", slope, head.intercept, warnings=warnings)


def _bits_doubt(lut: Lut, name: str) -> tuple[str, ...]:
    if not lut.is_misdeclared:
        return ()
    return (
        f"The {name} of the image uses {lut.bits} bits of the {lut.declared} that it declares; "
        "its entries were followed.",
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Shown:
    """Grey from 0 to 1 for each value, and what made it so."""

    grey: Floats
    voi: Literal["window", "lut", "percentiles", "range"]
    window: Window | None = None
    lut: Lut | None = None
    warnings: tuple[str, ...] = ()

    @property
    def step(self) -> str:
        """The name of this step."""
        is_window = self.voi == "window" and self.window is not None
        return f"window-{self.window.function.lower()}" if is_window and self.window else self.voi


def _choose_voi(head: Header, x: Floats, counts: _Counts, preferred: Sequence[str]) -> _Shown:
    """Return grey by the first usable of VOI LUTs, windows and percentiles.

    A LUT or window whose explanation has one of the `preferred` words comes before the others.
    """
    tables = luts(head.voi_tables, head)
    choices: list[Lut | Window] = [lut for lut in tables if lut is not None]
    choices += head.windows
    wanted = [fold_text(word) for word in preferred]
    places = len(wanted)
    choices.sort(
        key=lambda choice: next(
            (i for i, word in enumerate(wanted) if word in choice.explanation), places
        )
    )
    is_signed = not head.modality_tables and bool(x.min() < 0)
    warnings: tuple[str, ...] = ()
    if None in tables:
        warnings = ("A VOI LUT of the image is not usable.",)
    picture = None
    for choice in choices:
        # Made when the first choice is judged.
        picture = picture or _Proper(x, counts)
        if isinstance(choice, Lut):
            # Divided by what the entries use, not by what the descriptor says: many writers declare
            # 16 and use 12.
            grey = np.minimum(choice.look_up(x, is_signed) / ((1 << choice.bits) - 1), 1.0)
            if picture.judge(grey)[0]:
                warnings += _bits_doubt(choice, "VOI LUT")
                return _Shown(grey, "lut", lut=choice, warnings=warnings)
            warnings += ("A VOI LUT of the image hides the picture and was not followed.",)
            continue
        windowed = _apply_window(x, choice.center, choice.width, choice.function)
        if windowed is None:
            continue
        is_usable, doubts = picture.judge(windowed)
        if is_usable:
            return _Shown(windowed, "window", choice, warnings=warnings + doubts)
    if head.windows or head.has_window:
        warnings += ("The window of the image is not usable; percentiles were taken instead.",)
    limits = counts.limits(x, *_PERCENTILES)
    shown = _spread_between(x, limits, "percentiles", warnings)
    picture = picture or _Proper(x, counts)
    # A marker or a border far beyond the rest of the scale leaves the picture no grey.
    proper = picture.limits() if picture.is_dim(shown.grey) else None
    return shown if proper is None else _spread_between(x, proper, "percentiles", warnings)


class _Proper:
    """The picture proper: what is not a surround of one grey or a little noise.

    A collimator, direct exposure or a border may fill more than half of an image, and a good
    window makes them black or white. So a window is judged by what it does to the patches that
    have detail, each by how much it has.
    """

    def __init__(self, x: Floats, counts: _Counts) -> None:
        places, counted = counts.sample()
        side = _PATCH if min(places.shape) >= 2 * _PATCH else 1
        rows, columns = (length // side * side for length in places.shape)
        shape = (rows // side, side, columns // side, side)
        patches = places[:rows, :columns].reshape(shape).swapaxes(1, 2).reshape(-1, side * side)
        inside = counted[:rows, :columns].reshape(shape).swapaxes(1, 2).reshape(patches.shape)
        patches = patches[inside.all(axis=1)]
        with np.errstate(over="ignore", invalid="ignore"):
            detail = np.nan_to_num(x[patches].std(axis=1), posinf=0.0)
        if detail.any():
            # Measured against the 95th percentile: a marker or a wire would outdo every bone at the
            # maximum.
            is_proper = detail >= _DETAIL * np.percentile(detail[detail > 0], 95)
            patches, detail = patches[is_proper], detail[is_proper]
        else:
            detail = np.ones(len(patches))
        self._x, self._patches, self._detail = x, patches, detail

    def limits(self) -> tuple[float, float] | None:
        """Return the values between which nearly all of the picture proper lies."""
        with np.errstate(over="ignore", invalid="ignore"):
            # By the middle of each patch: that at the edge of a marker holds some of the marker.
            middles = np.median(self._x[self._patches], axis=1)
            first, last = (float(limit) for limit in np.quantile(middles, (0.02, 0.98)))
        return (first, last) if math.isfinite(last - first) else None

    def is_dim(self, grey: Floats) -> bool:
        """Return whether most of the picture proper has a quarter of the grey levels or fewer."""
        if not self._patches.size:
            return False
        low, high = np.quantile(grey[self._patches], (0.05, 0.95))
        return bool(high - low < _DARK)

    def judge(self, grey: Floats) -> tuple[bool, tuple[str, ...]]:
        """Return whether a window shows the picture proper, and a doubt about it."""
        if not self._patches.size:
            return False, ()
        shown = grey[self._patches]
        clipped = ((shown <= 0.0) | (shown >= 1.0)).mean(axis=1)
        low, high = np.percentile(shown, (1, 99))
        # Weighted by detail: a window may blacken a flat surround, and may not blacken ribs.
        if np.average(clipped, weights=self._detail) > _MOST_SATURATED or high - low < _BLANK:
            return False, ()
        if high - low < _DARK:
            left = round((high - low) * 256)
            return True, (f"The window of the image leaves it {left} of 256 grey levels.",)
        return True, ()


def _apply_window(x: Floats, center: float, width: float, function: str) -> Floats | None:
    """Return grey from 0 to 1 (PS3.3 C.11.2.1.2 and C.11.2.1.3), None if not usable."""
    if function == "SIGMOID":
        if width <= 0:
            return None
        # Beyond +-700 exp overflows a double; 0 and 1 are reached long before.
        return 1.0 / (1.0 + np.exp(np.clip(-4.0 * (x - center) / width, -700.0, 700.0)))
    if function != "LINEAR_EXACT":
        # LINEAR: ((x - (c - 0.5)) / (w - 1) + 0.5), whose limits are half a value inside the window
        # (PS3.3 C.11.2.1.2.1).
        center, width = center - 0.5, width - 1.0
        if width == 0:
            return (x > center).astype(np.float64)
    if width <= 0:
        return None
    return np.clip((x - center) / width + 0.5, 0.0, 1.0)


def _spread_between(
    x: Floats,
    limits: tuple[float, float],
    voi: Literal["percentiles", "range"],
    warnings: tuple[str, ...],
) -> _Shown:
    low, high = limits
    window = Window((low + high) / 2, high - low, "LINEAR_EXACT")
    if high <= low:
        return _Shown(np.zeros_like(x), voi, None, warnings=warnings)
    return _Shown(np.clip((x - low) / (high - low), 0.0, 1.0), voi, window, warnings=warnings)


def _equalized_levels(levels: Bytes, counts: Ints) -> Bytes:
    """Return levels spread so that each is equally frequent, as is usual for 8-bit pictures."""
    share = np.bincount(levels, weights=counts, minlength=256).cumsum()
    first = share[share > 0][0] if share[-1] else 0.0
    if share[-1] <= first:
        return levels
    spread = np.rint((share - first).clip(0) / (share[-1] - first) * 255.0).astype(np.uint8)
    equalized: Bytes = spread[levels]
    return equalized
