"""Looks for a right and a left lung by two Haar cascades, as a judge who has not seen our chests.

The cascades are those of lungs-finder 1.0.0 by Maksym Kholiavchenko (Apache License 2.0), as they
were: ``right_lung_haar.xml`` and ``left_lung_haar.xml``. They are evaluated here by NumPy, to the
same windows as OpenCV 4.14 within one in fifteen; OpenCV itself would weigh 60 MB, and version 5
no longer reads cascades.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from itertools import islice
from typing import NamedTuple
from xml.etree import ElementTree as ET

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import as_strided
from PIL import Image

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]

LOOK = 160
"""Pixels of the longer side that is looked at."""
ENOUGH = 4
"""Windows of each lung from which a chest is found: real chests have 21 and more of both, other
things at most one window of one lung."""
_CLEAR = 8
"""Windows that the mirror image of a mirrored chest has more, beside twice as many."""
_SCALES = tuple(1.2**i for i in (2, 3, 1, 0, 4, 5))
"""Reductions of the picture, the usual ones first."""
_FEW = 2
"""Scales at which the sides are compared: the others cost six times as much and show little."""
_STEP = 2
_LEAST_CONTRAST = 10.0
_MANY = 1 << 16
_EPSILON = 1e-5


class Lungs(NamedTuple):
    """How many windows look like the lung that belongs to that side of the picture."""

    right: int
    """Of the patient's right lung, in the left half of the picture."""
    left: int


@dataclass(frozen=True, slots=True, eq=False)
class _Feature:
    rectangles: tuple[tuple[int, int, int, int, float], ...]
    """Left, top, width, height and weight."""
    is_turned: bool
    """Whether they are turned by 45 degrees."""


@dataclass(frozen=True, slots=True, eq=False)
class _Points:
    """Where an image is looked up for the features of a stage, and what each place weighs there."""

    rows: npt.NDArray[np.intp]
    columns: npt.NDArray[np.intp]
    weights: Floats
    """(places, features)."""

    def values(self, image: Floats, windows: npt.NDArray[np.intp]) -> Floats:
        """Return the features' values, (windows, features); windows as places in a flat image."""
        places = self.rows * image.shape[1] + self.columns
        values: Floats = image.reshape(-1)[windows[:, None] + places] @ self.weights
        return values


@dataclass(frozen=True, slots=True, eq=False)
class _Stage:
    """Stumps that a window passes together, in one product: windows are few, and calls cost."""

    threshold: float
    limits: Floats
    below: Floats
    above: Floats
    upright: _Points
    """In the integral of the picture."""
    turned: _Points
    """In its integral turned by 45 degrees."""
    turned_pixels: _Points
    """The same in the picture itself: many places, and no integral is needed for them."""


@dataclass(frozen=True, slots=True, eq=False)
class _Cascade:
    width: int
    height: int
    stages: tuple[_Stage, ...]


class Views:
    """A picture at several sizes, each made when it is first looked at.

    Parameters
    ----------
    pixels : ndarray of uint8, (rows, columns)
        0 = black.
    """

    def __init__(self, pixels: Bytes) -> None:
        # Every nth pixel is enough: the picture is reduced to some 160 pixels all the same.
        step = max(1, max(pixels.shape) // (4 * LOOK))
        self._image = Image.fromarray(np.ascontiguousarray(pixels[::step, ::step]))
        self._made: list[_View] = []

    def __iter__(self) -> Iterator[_View]:
        """Yield it at each size, the usual ones first."""
        for place, scale in enumerate(_SCALES):
            if place == len(self._made):
                factor = LOOK / scale / max(self._image.size)
                width, height = (max(1, round(factor * side)) for side in self._image.size)
                small = self._image.resize((width, height), Image.Resampling.BOX)
                self._made.append(_View(np.asarray(small)))
            yield self._made[place]


def lungs(views: Views, enough: int | None = ENOUGH) -> Lungs:
    """Return how many windows of a picture look like lungs in their place.

    Parameters
    ----------
    views : Views
        The picture.
    enough : int, optional
        Windows of each lung at which the search may end, and fewer than which of the right lung
        make the left lung not worth a search; None counts all.
    """
    # The right lung first: it has no heart in it, and what is not a chest hardly ever passes.
    right = _count_windows("right", views, enough)
    if enough is not None and right < enough:
        return Lungs(right, 0)
    return Lungs(right, _count_windows("left", views, enough))


def is_mirrored(views: Views) -> bool:
    """Return whether the heart is clearly at the wrong side.

    The left lung has the heart's notch: its cascade finds more in a chest than in its mirror image.
    """
    few = list(islice(views, _FEW))
    upright = _count_windows("left", few, None)
    mirrored = _count_windows("left", (view.mirrored() for view in few), None)
    return mirrored >= 2 * upright + _CLEAR


class _View:
    """A picture at one size, with what every window of it is asked for."""

    def __init__(self, grey: Bytes) -> None:
        self.grey: Floats = grey.astype(np.float64)
        self.sums = _integral_image(self.grey)
        self._squares = _integral_image(self.grey * self.grey)
        self._found: dict[str, int] = {}

    @cached_property
    def turned_sums(self) -> Floats:
        """Its integral turned by 45 degrees."""
        return _turned_integral(self.grey)

    def mirrored(self) -> _View:
        """Return its mirror image."""
        return _View(self.grey[:, ::-1].astype(np.uint8))

    def count(self, side: str) -> int:
        """Return how many windows look like the lung of that side, in its half."""
        if side not in self._found:
            cascade = _read_cascade(side)
            centers = (self._passing_windows(cascade) + cascade.width / 2) / self.grey.shape[1]
            is_there = centers < 0.5 if side == "right" else centers > 0.5
            self._found[side] = int(is_there.sum())
        return self._found[side]

    def _passing_windows(self, cascade: _Cascade) -> Floats:
        """Return the left edges of the windows that pass every stage."""
        (height, width), sums = self.grey.shape, self.sums
        down, across = height - cascade.height + 1, width - cascade.width + 1
        if down <= 0 or across <= 0:
            return np.zeros(0)
        # OpenCV leaves a border of one pixel out of the window when it measures contrast.
        inner = (1, 1, cascade.width - 2, cascade.height - 2)
        area = inner[2] * inner[3]
        grid = (down, across, inner)
        spread = area * _window_sums(self._squares, *grid) - _window_sums(sums, *grid) ** 2
        # What OpenCV calls the norm: area times the standard deviation.
        norm = np.sqrt(np.maximum(spread, 0.0))
        rows, columns = np.nonzero(norm > area * _LEAST_CONTRAST)
        norm = norm[rows, columns]
        # The grid was looked at in steps of two; from here on these are pixels.
        rows, columns = rows * _STEP, columns * _STEP
        for stage in cascade.stages:
            value = stage.upright.values(sums, rows * sums.shape[1] + columns)
            if stage.turned.rows.size:
                value += self._turned_values(stage, rows, columns)
            # Features are compared per unit of contrast, so that exposure and window make no
            # difference.
            value /= norm[:, None]
            score = np.where(value < stage.limits, stage.below, stage.above).sum(axis=1)
            passed = score >= stage.threshold - _EPSILON
            rows, columns, norm = rows[passed], columns[passed], norm[passed]
            if not rows.size:
                break
        edges: Floats = columns.astype(np.float64)
        return edges

    def _turned_values(
        self, stage: _Stage, rows: npt.NDArray[np.intp], columns: npt.NDArray[np.intp]
    ) -> Floats:
        """Return the values of a stage's turned features; sums of whole numbers, so both are equal.

        The turned integral takes as long as `_MANY` looks at single pixels. Most pictures that are
        not of a chest have so few windows left that they need none.
        """
        looks = rows.size * stage.turned_pixels.rows.size
        if looks < _MANY and "turned_sums" not in self.__dict__:
            return stage.turned_pixels.values(self.grey, rows * self.grey.shape[1] + columns)
        return stage.turned.values(self.turned_sums, rows * self.turned_sums.shape[1] + columns)


def _count_windows(side: str, views: Iterable[_View], enough: int | None) -> int:
    found = 0
    for view in views:
        found += view.count(side)
        if enough is not None and found >= enough:
            break
    return found


def _integral_image(values: Floats) -> Floats:
    whole = np.zeros((values.shape[0] + 1, values.shape[1] + 1))
    # A row and a column of zeros in front: the sum of any rectangle is four looks, without a
    # special case at the edge.
    inner = whole[1:, 1:]
    np.cumsum(values, axis=0, out=inner)
    np.cumsum(inner, axis=1, out=inner)
    return whole


def _turned_integral(values: Floats) -> Floats:
    """Return what lies above each point between the two diagonals that meet in it.

    Four such sums make that of any rectangle turned by 45 degrees (Lienhart and Maydt 2002), as
    OpenCV has them.
    """
    height, width = values.shape
    # A point stands at the right of its pixel, and the first has none.
    pixels = np.zeros((height, width + 1))
    pixels[:, 1:] = values
    # One row further down, what is new lies on the two diagonals that end in the point's pixel.
    new = _diagonal_sums(pixels) + _diagonal_sums(pixels[:, ::-1])[:, ::-1] - pixels
    whole = np.zeros((height + 1, width + 1))
    np.cumsum(new, axis=0, out=whole[1:])
    return whole


def _diagonal_sums(pixels: Floats) -> Floats:
    """Return for each pixel the sum of those above it to the left, itself among them."""
    height, width = pixels.shape
    skewed = np.zeros((height, width + height))
    # Each row a pixel further to the left: what was a diagonal is then a column.
    step, across = skewed.strides
    inside = as_strided(skewed[:, height - 1 :], pixels.shape, (step - across, across))
    inside[...] = pixels
    np.cumsum(skewed, axis=0, out=skewed)
    return inside


def _window_sums(
    whole: Floats, down: int, across: int, rectangle: tuple[int, int, int, int]
) -> Floats:
    """Return the sum in a rectangle of each window of a grid, from an integral."""
    left, top, width, height = rectangle
    upper, lower = (whole[row : row + down : _STEP] for row in (top, top + height))
    near, far = (slice(column, column + across, _STEP) for column in (left, left + width))
    total: Floats = lower[:, far] - upper[:, far] - lower[:, near] + upper[:, near]
    return total


@cache
def _read_cascade(side: str) -> _Cascade:
    with files(__name__).joinpath(f"{side}_lung_haar.xml").open("rb") as file:
        root = ET.parse(file).getroot().find("cascade")  # noqa: S314 - our own file
    if root is None:
        raise ValueError(f"{side}_lung_haar.xml has no cascade")
    width, height = int(_element_text(root, "width")), int(_element_text(root, "height"))
    shape = (height, width)
    features = tuple(_read_feature(item) for item in root.findall("features/_"))
    stages = tuple(_read_stage(stage, features, shape) for stage in root.findall("stages/_"))
    return _Cascade(width, height, stages)


def _read_stage(
    element: ET.Element, features: tuple[_Feature, ...], shape: tuple[int, int]
) -> _Stage:
    stumps = [_read_stump(stump) for stump in element.findall("weakClassifiers/_")]
    chosen = [features[place] for place, *_ in stumps]
    limits, below, above = (
        np.array(leaf) for leaf in zip(*(rest for _, *rest in stumps), strict=True)
    )
    upright = [{} if feature.is_turned else _corner_weights(feature) for feature in chosen]
    turned = [_turned_weights(feature) if feature.is_turned else {} for feature in chosen]
    turned_pixels = [
        _turned_pixels(feature, shape) if feature.is_turned else {} for feature in chosen
    ]
    threshold = float(_element_text(element, "stageThreshold"))
    return _Stage(
        threshold,
        limits,
        below,
        above,
        _integral_points(upright),
        _integral_points(turned),
        _integral_points(turned_pixels),
    )


def _corner_weights(feature: _Feature) -> dict[tuple[int, int], float]:
    """Return what each corner in the integral weighs; corners that meet are a single place."""
    found: dict[tuple[int, int], float] = {}
    for left, top, width, height, weight in feature.rectangles:
        for row, column, sign in (
            (top, left, 1),
            (top, left + width, -1),
            (top + height, left, -1),
            (top + height, left + width, 1),
        ):
            # Rectangles of a feature share corners; each place is then looked up once.
            found[row, column] = found.get((row, column), 0.0) + sign * weight
    return found


def _turned_weights(feature: _Feature) -> dict[tuple[int, int], float]:
    """Return what each corner in the turned integral weighs."""
    found: dict[tuple[int, int], float] = {}
    for left, top, across, down, weight in feature.rectangles:
        # Down from its upper corner: by `across` to the right, by `down` to the left.
        for row, column, sign in (
            (top, left, 1),
            (top + down, left - down, -1),
            (top + across, left + across, -1),
            (top + across + down, left + across - down, 1),
        ):
            found[row, column] = found.get((row, column), 0.0) + sign * weight
    return found


def _turned_pixels(feature: _Feature, shape: tuple[int, int]) -> dict[tuple[int, int], float]:
    """Return what each pixel of a window weighs."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    mask: Floats = np.zeros(shape)
    for (y, x), weight in _turned_weights(feature).items():
        is_above = (rows < y) & (np.abs(columns - x + 1) <= y - rows - 1)
        mask += weight * is_above
    found = zip(*np.nonzero(mask), strict=True)
    return {(int(row), int(column)): float(mask[row, column]) for row, column in found}


def _integral_points(features: list[dict[tuple[int, int], float]]) -> _Points:
    places = sorted({place for feature in features for place in feature})
    weights = np.array([[corners.get(place, 0.0) for corners in features] for place in places])
    rows = np.array([row for row, _ in places], np.intp)
    columns = np.array([column for _, column in places], np.intp)
    return _Points(rows, columns, weights.reshape(len(places), len(features)))


def _element_text(element: ET.Element, name: str) -> str:
    return (element.findtext(name) or "").strip()


def _read_stump(element: ET.Element) -> tuple[int, float, float, float]:
    _, _, place, limit = _element_text(element, "internalNodes").split()
    below, above = _element_text(element, "leafValues").split()
    return int(place), float(limit), float(below), float(above)


def _read_feature(element: ET.Element) -> _Feature:
    rectangles: list[tuple[int, int, int, int, float]] = []
    for written in element.findall("rects/_"):
        *place, share = (written.text or "").split()
        left, top, across, down = (int(number) for number in place)
        rectangles.append((left, top, across, down, float(share)))
    return _Feature(tuple(rectangles), _element_text(element, "tilted") == "1")
