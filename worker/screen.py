"""Looks whether a picture is an upright, positive, frontal chest at all, whatever its header says.

The picture is compared with the mean of real and drawn chests, 24 x 24 ranks of grey, as it is and
turned or inverted. Measured on pictures that the mean has not seen, changed at random in crop,
angle, gamma, bars and noise (``tests/bench/pixels_screen.py``): 3 of 234 upright chests doubted,
11 of 702 turned or inverted ones not named rightly, none of 156 pictures of other things passed.
These are nine radiographs, one lateral view and five other images: a hint for people, no measure
of safety. A mirrored chest is not noticed.

The mean, ``screen.png``, is what `learn` makes of nine radiographs and sixty phantoms. Credits: NIH
Clinical Center (ChestX-ray8, Wang et al., CVPR 2017); Winther et al., COVID-19 Image Repository,
doi 10.25835/0090041, CC BY 3.0; Mikael Häggström (CC0); NEMA WG-04; GDCM sample images.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from importlib.resources import files

import numpy as np
import numpy.typing as npt
from PIL import Image

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]

LIKE = 0.4
"""Correlation from which a picture is taken for a chest; see `tests/bench/pixels_screen.py`."""

_SIDE, _LOOK = 24, 128
_CROPS = (1.0, 0.88, 0.76)
_FLAT = 4.0
"""Standard deviation of a row or column of a border."""

TURNED = {
    "upside-down": "The picture seems to be upside down.",
    "rotated": "The picture seems to lie on its side.",
    "inverted": "The picture seems to be a negative.",
    "not-frontal-chest": "The picture does not look like a frontal chest radiograph.",
}
"""Code -> what a report says."""


def screen(pixels: Bytes) -> tuple[tuple[str, str], ...]:
    """Return what seems wrong with a picture as (code, text); nothing when all is well.

    Parameters
    ----------
    pixels : ndarray of uint8, (rows, columns)
        0 = black.
    """
    scores = likeness(pixels)
    best = max(scores, key=lambda name: scores[name])
    if best == "upright" and scores[best] >= LIKE:
        return ()
    code = best if scores[best] >= LIKE else "not-frontal-chest"
    return ((code, TURNED[code]),)


def likeness(pixels: Bytes) -> dict[str, float]:
    """Return how well the picture correlates with a chest: upright, turned and inverted."""
    looks = np.stack([_ranks(crop) for crop in _crops(_look(pixels))]).reshape(-1, _SIDE**2)
    chest = _chest()
    best = {name: float((looks @ _flat(view)).max()) for name, view in _views(chest)}
    best["rotated"] = max(best.pop("rotated-left"), best.pop("rotated-right"))
    return best


def learn(pictures: Iterable[Bytes], drawn: Iterable[Bytes]) -> Bytes:
    """Return the mean chest of radiographs, and with less weight of phantoms."""
    real, phantom = (
        np.mean([_ranks(_look(picture)) for picture in group], axis=0)
        for group in (pictures, drawn)
    )
    mean = real / np.linalg.norm(real) + _PHANTOMS * phantom / np.linalg.norm(phantom)
    levels: Bytes = np.rint((mean - mean.min()) / np.ptp(mean) * 255).astype(np.uint8)
    return levels


_PHANTOMS = 0.3
"""What phantoms weigh: as little as lets them pass themselves."""


@cache
def _chest() -> Floats:
    with files("worker").joinpath("screen.png").open("rb") as file:
        return np.asarray(Image.open(file), np.float64)


def _views(chest: Floats) -> Iterator[tuple[str, Floats]]:
    yield "upright", chest
    yield "upside-down", chest[::-1, ::-1]
    yield "rotated-left", np.rot90(chest)
    yield "rotated-right", np.rot90(chest, 3)
    yield "inverted", -chest


def _flat(view: Floats) -> Floats:
    level = view.reshape(-1) - view.mean()
    unit: Floats = level / np.linalg.norm(level)
    return unit


def _look(pixels: Bytes) -> Bytes:
    """Return a small picture without the bars around it."""
    step = max(1, min(pixels.shape) // (2 * _LOOK))
    coarse = np.ascontiguousarray(pixels[::step, ::step])
    small = np.asarray(Image.fromarray(coarse).resize((_LOOK, _LOOK), Image.Resampling.BOX))
    rows, columns = _inside(small), _inside(small.T)
    return small[rows, columns]


def _inside(lines: Bytes) -> slice:
    has_detail = np.flatnonzero(lines.std(axis=1) >= _FLAT)
    if has_detail.size < len(lines) // 4:
        return slice(None)
    return slice(int(has_detail[0]), int(has_detail[-1]) + 1)


def _crops(small: Bytes) -> Iterator[Bytes]:
    """Yield the whole and parts of it, as chests do not fill every picture alike."""
    for share in _CROPS:
        height, width = (max(1, round(share * side)) for side in small.shape)
        for top in {0, (small.shape[0] - height) // 2, small.shape[0] - height}:
            for left in {0, (small.shape[1] - width) // 2, small.shape[1] - width}:
                yield small[top : top + height, left : left + width]


def _ranks(picture: Bytes) -> Floats:
    """Return the share of darker pixels for each of 24 x 24, which no window changes."""
    box = Image.fromarray(np.ascontiguousarray(picture)).resize(
        (_SIDE, _SIDE), Image.Resampling.BOX
    )
    levels = np.asarray(box)
    counts = np.bincount(levels.reshape(-1), minlength=256)
    ranks: Floats = (np.cumsum(counts) - counts / 2.0)[levels]
    ranks -= ranks.mean()
    ranks /= max(float(np.linalg.norm(ranks)), 1e-9)
    return ranks
