"""Looks for a right and a left lung by two Haar cascades, as a judge who has not seen our chests.

The cascades are those of lungs-finder 1.0.0 by Maksym Kholiavchenko (Apache License 2.0), as they
were: ``right_lung_haar.xml`` and ``left_lung_haar.xml``. They are evaluated here by NumPy, to the
same windows as OpenCV 4.14 within one in fifteen; OpenCV itself would weigh 60 MB, and version 5
no longer reads cascades.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import NamedTuple
from xml.etree import ElementTree as ET

import numpy as np
import numpy.typing as npt
from PIL import Image

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]

LOOK = 160
"""Pixels of the longer side that is looked at."""
ENOUGH = 4
"""Windows of each lung from which a chest is found: real chests have 21 and more of both, other
things at most one of one of them."""
_CLEAR = 8
"""Windows that the mirror image of a mirrored chest has more, beside twice as many."""
_SCALES = tuple(1.2**i for i in (2, 3, 1, 0, 4, 5))
"""Reductions of the picture, the usual ones first."""
_FEW = 2
"""Scales at which the sides are compared: the others cost six times as much and show little."""
_STEP = 2
_LEAST_CONTRAST = 10.0
_EPSILON = 1e-5


class Lungs(NamedTuple):
    """How many windows look like the lung that belongs to that side of the picture."""

    right: int
    """Of the patient's right lung, in the left half of the picture."""
    left: int


@dataclass(frozen=True, slots=True, eq=False)
class _Feature:
    rectangles: tuple[tuple[int, int, int, int, float], ...]
    """Left, top, width, height and weight; of an upright feature."""
    rows: npt.NDArray[np.intp]
    columns: npt.NDArray[np.intp]
    weights: Floats
    """Pixels of a feature that is turned by 45 degrees, with what they weigh."""


@dataclass(frozen=True, slots=True, eq=False)
class _Cascade:
    width: int
    height: int
    features: tuple[_Feature, ...]
    stages: tuple[tuple[float, tuple[tuple[int, float, float, float], ...]], ...]
    """Threshold, and per stump: feature, threshold, leaves below and above it."""


def lungs(pixels: Bytes, enough: int | None = ENOUGH) -> Lungs:
    """Return how many windows of a picture look like lungs in their place.

    Parameters
    ----------
    pixels : ndarray of uint8, (rows, columns)
        0 = black.
    enough : int, optional
        Windows of each lung at which the search may end, and fewer than which of the right lung
        make the left one not worth a search; None counts all.
    """
    views = _views(pixels)
    right = _count("right", views, enough)
    if enough is not None and right < enough:
        return Lungs(right, 0)
    return Lungs(right, _count("left", views, enough))


def is_mirrored(pixels: Bytes) -> bool:
    """Return whether the heart is clearly at the wrong side.

    The left lung has the heart's notch: its cascade finds more in a chest than in its mirror image.
    """
    views = _views(pixels)[:_FEW]
    upright = _count("left", views, None)
    mirrored = _count("left", [np.ascontiguousarray(view[:, ::-1]) for view in views], None)
    return mirrored >= 2 * upright + _CLEAR


def _views(pixels: Bytes) -> list[Bytes]:
    step = max(1, max(pixels.shape) // (4 * LOOK))
    image = Image.fromarray(np.ascontiguousarray(pixels[::step, ::step]))
    views = []
    for scale in _SCALES:
        factor = LOOK / scale / max(image.size)
        size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
        views.append(np.asarray(image.resize(size, Image.Resampling.BOX)))
    return views


def _count(side: str, views: list[Bytes], enough: int | None) -> int:
    cascade, found = _cascade(side), 0
    for view in views:
        centers = (_hits(view, cascade) + cascade.width / 2) / view.shape[1]
        found += int((centers < 0.5 if side == "right" else centers > 0.5).sum())
        if enough is not None and found >= enough:
            break
    return found


def _hits(view: Bytes, cascade: _Cascade) -> Floats:
    """Return the left edges of the windows that pass every stage."""
    height, width = view.shape
    if height < cascade.height or width < cascade.width:
        return np.zeros(0)
    grey = view.astype(np.float64)
    sums, squares = _integral(grey), _integral(grey**2)
    rows, columns = (
        grid.reshape(-1)
        for grid in np.mgrid[
            0 : height - cascade.height + 1 : _STEP, 0 : width - cascade.width + 1 : _STEP
        ]
    )
    inner = (1, 1, cascade.width - 2, cascade.height - 2)
    area = inner[2] * inner[3]
    spread = area * _sum(squares, rows, columns, inner) - _sum(sums, rows, columns, inner) ** 2
    # What OpenCV calls the norm: area times the standard deviation.
    norm = np.sqrt(np.maximum(spread, 0.0))
    alive = norm > area * _LEAST_CONTRAST
    rows, columns, norm = rows[alive], columns[alive], norm[alive]
    for threshold, stumps in cascade.stages:
        score = np.zeros(rows.size)
        for place, limit, below, above in stumps:
            value = _value(cascade.features[place], grey, sums, rows, columns) / norm
            score += np.where(value < limit, below, above)
        passed = score >= threshold - _EPSILON
        rows, columns, norm = rows[passed], columns[passed], norm[passed]
        if not rows.size:
            break
    edges: Floats = columns.astype(np.float64)
    return edges


def _integral(values: Floats) -> Floats:
    whole = np.zeros((values.shape[0] + 1, values.shape[1] + 1))
    whole[1:, 1:] = values.cumsum(axis=0).cumsum(axis=1)
    return whole


def _sum(
    whole: Floats,
    rows: npt.NDArray[np.intp],
    columns: npt.NDArray[np.intp],
    rectangle: tuple[int, int, int, int],
) -> Floats:
    left, top, width, height = rectangle
    rows, columns = rows + top, columns + left
    below, right = rows + height, columns + width
    total: Floats = (
        whole[below, right] - whole[rows, right] - whole[below, columns] + whole[rows, columns]
    )
    return total


def _value(
    feature: _Feature,
    grey: Floats,
    sums: Floats,
    rows: npt.NDArray[np.intp],
    columns: npt.NDArray[np.intp],
) -> Floats:
    if feature.weights.size:
        patches = grey[rows[:, None] + feature.rows, columns[:, None] + feature.columns]
        turned: Floats = patches @ feature.weights
        return turned
    total = np.zeros(rows.size)
    for left, top, width, height, weight in feature.rectangles:
        total += weight * _sum(sums, rows, columns, (left, top, width, height))
    return total


@cache
def _cascade(side: str) -> _Cascade:
    with files(__name__).joinpath(f"{side}_lung_haar.xml").open("rb") as file:
        root = ET.parse(file).getroot().find("cascade")  # noqa: S314 - our own file
    if root is None:
        raise ValueError(f"{side}_lung_haar.xml has no cascade")
    width, height = int(_text(root, "width")), int(_text(root, "height"))
    features = tuple(_feature(item, width, height) for item in root.findall("features/_"))
    stages = tuple(
        (
            float(_text(stage, "stageThreshold")),
            tuple(_stump(stump) for stump in stage.findall("weakClassifiers/_")),
        )
        for stage in root.findall("stages/_")
    )
    return _Cascade(width, height, features, stages)


def _text(element: ET.Element, name: str) -> str:
    return (element.findtext(name) or "").strip()


def _stump(element: ET.Element) -> tuple[int, float, float, float]:
    _, _, place, limit = _text(element, "internalNodes").split()
    below, above = _text(element, "leafValues").split()
    return int(place), float(limit), float(below), float(above)


def _feature(element: ET.Element, width: int, height: int) -> _Feature:
    rectangles: list[tuple[int, int, int, int, float]] = []
    for written in element.findall("rects/_"):
        *place, share = (written.text or "").split()
        left, top, across, down = (int(number) for number in place)
        rectangles.append((left, top, across, down, float(share)))
    mask: Floats = np.zeros((height, width))
    if _text(element, "tilted") == "1":
        for left, top, across, down, weight in rectangles:
            mask = mask + weight * _turned(left, top, across, down, (height, width))
    rows, columns = np.nonzero(mask)
    return _Feature(tuple(rectangles), rows, columns, mask[rows, columns])


def _turned(left: int, top: int, across: int, down: int, shape: tuple[int, int]) -> Floats:
    """Return the pixels of a rectangle turned by 45 degrees, whose upper corner is given."""
    rows, columns = np.mgrid[0 : shape[0], 0 : shape[1]]

    def above(x: int, y: int) -> Floats:
        """Return the pixels of OpenCV's tilted integral at a point."""
        is_inside: Floats = ((rows < y) & (np.abs(columns - x + 1) <= y - rows - 1)).astype(float)
        return is_inside

    corner = above(left + across - down, top + across + down)
    return (
        above(left, top)
        - above(left - down, top + down)
        - above(left + across, top + across)
        + corner
    )
