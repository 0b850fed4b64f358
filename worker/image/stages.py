"""Shows each step from stored pixels to the picture on one sheet, for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from pydicom import Dataset

from worker.image import header
from worker.image.gate import gate
from worker.image.geometry import square_pixels, turn_upright
from worker.image.grey import GreyTable, grey_table
from worker.image.header import Header
from worker.image.pixels import Decodes
from worker.image.shutter import shutter
from worker.settings import Pixels as Options

Bytes = npt.NDArray[np.uint8]

_SIDE, _GAP, _LINE = 420, 12, 16


def stages(ds: Dataset, decoder: Decodes, options: Options) -> list[tuple[str, Bytes]]:
    """Return name and picture of each step; those of `radiograph`, at full size.

    Raises
    ------
    Rejected
        As by `radiograph`, without the screening.
    """
    head = header.read(ds)
    gate(head, options)
    with decoder.lent(head) as lent:
        stored = lent.copy()
    visible = shutter(head.shutters, (stored.shape[0], stored.shape[1]))
    levels = grey_table(head, stored, visible.visible, options)
    pixels = levels.apply(stored)
    is_inverted = levels.display.is_inverted
    found = [
        (f"stored, {int(stored.min())} to {int(stored.max())}", _spread_levels(stored)),
        (_grey_name(head, levels), 255 - pixels if is_inverted else pixels.copy()),
        (f"polarity: {'inverted' if is_inverted else 'kept'}", pixels.copy()),
    ]
    visible.close(pixels)
    found.append((", ".join(visible.steps) or "shutter=none", pixels.copy()))
    pixels, aspect = square_pixels(head, pixels)
    found.append((f"aspect={aspect}", pixels))
    pixels, turn = turn_upright(head, pixels)
    found.append((f"orient={turn}: the picture", pixels))
    return found


def _spread_levels(stored: npt.NDArray[Any]) -> Bytes:
    values = stored.astype(np.float32)
    spread = (values - values.min()) / max(float(np.ptp(values)), 1.0) * 255
    levels: Bytes = np.rint(spread).astype(np.uint8)
    return levels


def _grey_name(head: Header, levels: GreyTable) -> str:
    window = levels.display.window
    shown = f" {window.center:g}/{window.width:g}" if window else ""
    return f"{', '.join(levels.steps[:2])}{shown}; {head.stored} bits"


def draw_sheet(found: Sequence[tuple[str, Bytes]], across: int = 3) -> Bytes:
    """Return pictures with their names on one sheet, each at most 420 pixels wide and high."""
    rows = -(-len(found) // across)
    cell = (_SIDE + _GAP, _SIDE + _GAP + _LINE)
    whole = Image.new("L", (across * cell[0] + _GAP, rows * cell[1] + _GAP), 60)
    draw = ImageDraw.Draw(whole)
    for i, (name, pixels) in enumerate(found):
        left, top = _GAP + i % across * cell[0], _GAP + i // across * cell[1]
        small = Image.fromarray(np.ascontiguousarray(pixels))
        small.thumbnail((_SIDE, _SIDE), Image.Resampling.BOX)
        draw.text((left, top), name[:68], fill=255)
        whole.paste(small, (left, top + _LINE))
    return np.asarray(whole)
