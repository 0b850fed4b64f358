"""Boxes that a model drew, as regions of the image that each hold one fracture."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from worker.text.findings import Fracture, Presence, parse

MOST: Final = 32
"""Regions that a report holds; a model that draws more is in a loop."""
LEAST: Final = 1.0
"""Pixels of a region's width and height."""

NOT_DRAWN = "{} of the model's boxes {} left out: {}."
NO_FRACTURE = "labelled as something other than one fracture"
NO_AREA = "outside the image or without area"
REPEATED = "drawn twice"
TOO_MANY = f"more than {MOST}"
UNSURE = "the model's text does not clearly describe a fracture"


@dataclass(frozen=True, slots=True)
class Box:
    """A box in image relative pixel coordinates (PS3.3 C.18.6.1.1).

    The origin is the upper left corner of the image as stored: of its first pixel, not of that
    pixel's centre. ``right`` and ``bottom`` may be as large as Columns and Rows.
    """

    label: str
    """The model's words for what is in it."""
    left: float
    top: float
    right: float
    bottom: float

    @property
    def outline(self) -> tuple[tuple[float, float], ...]:
        """Return the corners as (column, row), clockwise, the first again at the end."""
        return (
            (self.left, self.top),
            (self.right, self.top),
            (self.right, self.bottom),
            (self.left, self.bottom),
            (self.left, self.top),
        )


@dataclass(frozen=True, slots=True)
class Marked:
    """A fracture and, where the model drew a box, the region it is in."""

    fracture: Fracture
    box: Box | None = None


def in_image(box: Box, steps: str, rows: int, columns: int) -> Box:
    """Return a box of the picture as a box of the stored image.

    Parameters
    ----------
    box : Box
        In shares of the picture's width and height.
    steps : str
        What was done to make the picture (`worker.image.pixels.Radiograph.steps`); of these only
        ``orient`` moves anything: pixels made square, or averaged, keep their shares.
    rows, columns : int
        Of the stored image.
    """
    named = dict(step.partition("=")[::2] for step in steps.replace(" ", "").split(","))
    turns = named.get("orient", "").split("+")
    across, down = (box.left, box.right), (box.top, box.bottom)
    if "upturned" in turns:
        down = (1 - down[1], 1 - down[0])
    if "mirrored" in turns:
        across = (1 - across[1], 1 - across[0])
    if "transposed" in turns:
        across, down = down, across
    return Box(box.label, across[0] * columns, down[0] * rows, across[1] * columns, down[1] * rows)


def keep_sound(boxes: Iterable[Box], rows: int, columns: int) -> tuple[tuple[Box, ...], list[str]]:
    """Return the boxes that a report may show, cut at the image's edge, and notes on the others.

    No NaN, no infinity, no box without area, none twice, and none whose label is not one
    fracture ever gets into a report.
    """
    kept: dict[Box, None] = {}
    dropped: dict[str, int] = {}
    for box in boxes:
        cut = _cut_box(box, rows, columns)
        fault = NO_AREA if cut is None else _find_fault(cut, kept)
        if cut is None or fault:
            dropped[fault] = dropped.get(fault, 0) + 1
        else:
            kept[cut] = None
    return tuple(kept), [omission_note(why, count) for why, count in dropped.items()]


def omission_note(why: str, count: int) -> str:
    """Return the sentence that says how many boxes are left out, and why."""
    return NOT_DRAWN.format(count, "is" if count == 1 else "are", why)


def _cut_box(box: Box, rows: int, columns: int) -> Box | None:
    edges = (box.left, box.top, box.right, box.bottom)
    if not all(math.isfinite(edge) for edge in edges):
        return None
    left, right = (min(max(x, 0.0), float(columns)) for x in (box.left, box.right))
    top, bottom = (min(max(y, 0.0), float(rows)) for y in (box.top, box.bottom))
    # To hundredths of a pixel: what an FL value holds of any image, whatever the machine.
    cut = Box(box.label, *(round(edge, 2) for edge in (left, top, right, bottom)))
    is_area = cut.right - cut.left >= LEAST and cut.bottom - cut.top >= LEAST
    return cut if is_area else None


def _find_fault(box: Box, kept: dict[Box, None]) -> str:
    if _named_fracture(box.label) is None:
        return NO_FRACTURE
    if box in kept:
        return REPEATED
    return TOO_MANY if len(kept) >= MOST else ""


@lru_cache(maxsize=2 * MOST)
def _named_fracture(label: str) -> Fracture | None:
    """Return the one fracture that a label names, or None."""
    said = parse(label)
    is_single = said.presence is Presence.PRESENT and len(said.fractures) == 1
    return said.fractures[0] if is_single else None


def mark_fractures(fractures: Sequence[Fracture], boxes: Sequence[Box]) -> list[Marked]:
    """Return each fracture of the text, in order, with its boxes; then boxes that fit to none.

    A box belongs to the fracture of the text that is at just the place that its label names, or
    to the only fracture that its label may mean if no other box may mean it too. A fracture with
    several boxes stands once for each: a region is one place.
    """
    owners = [_find_owner(box, boxes, fractures) for box in boxes]
    found: list[Marked] = []
    for place, fracture in enumerate(fractures):
        own = [box for box, owner in zip(boxes, owners, strict=True) if owner == place]
        found += [Marked(fracture, box) for box in own] or [Marked(fracture)]
    for box, owner in zip(boxes, owners, strict=True):
        named = _named_fracture(box.label)
        if owner is None and named is not None:
            found.append(Marked(named, box))
    return found


def _find_owner(box: Box, boxes: Sequence[Box], fractures: Sequence[Fracture]) -> int | None:
    # A label that fits two fractures names neither: a region at the wrong bone is worse than none.
    same = [i for i, f in enumerate(fractures) if _is_at(box, f)]
    if same:
        return same[0] if len(same) == 1 else None
    # "Rib fracture" may be the only rib of the text; with two ribs nobody knows which.
    meant = [i for i, f in enumerate(fractures) if _may_mean(box, f)]
    if len(meant) != 1:
        return None
    rivals = [other for other in boxes if _may_mean(other, fractures[meant[0]])]
    return meant[0] if len(rivals) == 1 else None


def _is_at(box: Box, fracture: Fracture) -> bool:
    named = _named_fracture(box.label)
    place = (fracture.bone, fracture.number, fracture.side)
    return named is not None and (named.bone, named.number, named.side) == place


def _may_mean(box: Box, fracture: Fracture) -> bool:
    """Whether a box's label may mean `fracture`, of which the text may say more."""
    named = _named_fracture(box.label)
    return (
        named is not None
        and named.bone == fracture.bone
        and named.number in (None, fracture.number)
        and named.side in (None, fracture.side)
    )
