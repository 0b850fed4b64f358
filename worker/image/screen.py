"""Looks whether a picture is an upright, positive, frontal chest at all, whatever its header says.

The picture is compared with the mean of real and drawn chests, 24 x 24 ranks of grey, as it is and
turned or inverted; then `lungs` must find both lungs in their place. Both judges must agree. A hint
for people, no measure of safety. Errors, measured by ``tests/bench/pixels_screen.py`` on images
that the mean has not seen (nine chests, each judged by a mean of the other eight; a
lateral chest, a hip, a tibia, jaws, an angiogram, a dog), each as it is and eight times changed at
random in crop, angle, gamma, bars and noise, with Wilson's 95 % interval:

==================================================  ==========  ==================
upright chests doubted                              3 of 81     3.7 % (1.3 - 10.3)
chests upside down, on a side or inverted, passed   0 of 243    0.0 % (0.0 - 1.6)
of these, doubted without the right name            27 of 243   11 % (7.7 - 15.7)
phantoms doubted                                    4 of 100    4.0 % (1.6 - 9.8)
other things passed                                 0 of 54     0.0 % (0.0 - 6.6)
other things, turned or inverted, passed            0 of 162    0.0 % (0.0 - 2.3)
mirrored chests noticed                             41 of 81    51 % (40 - 61)
upright chests called mirrored                      1 of 81     1.2 % (0.2 - 6.7)
==================================================  ==========  ==================

Of the unchanged images, none of 9 upright and 27 turned chests was wrong (up to 30 % and 12.5 %),
none of 6 other things and of those 18 turned passed, 3 of 9 mirrored chests were noticed. The mean
alone let 78 of 468 turned other things pass, and doubted 3 of 234 upright chests. Pictures of one
image resemble each other, so the true uncertainty lies between the two counts; the thresholds were
chosen with these images in view. A picture close to the mean phantom passes without lungs, which
the cascades have learned from radiographs.

The mean, ``screen.png``, is what `learn` makes of nine radiographs and sixty phantoms. Credits: NIH
Clinical Center (ChestX-ray8, Wang et al., CVPR 2017); Winther et al., COVID-19 Image Repository,
doi 10.25835/0090041, CC BY 3.0; Mikael Häggström (CC0); NEMA WG-04; GDCM sample images.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from importlib.resources import files

import numpy as np
import numpy.typing as npt
from PIL import Image

from worker.image.lungs import ENOUGH, Views, is_mirrored, lungs

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]

LIKE = 0.4
"""Correlation from which a picture is taken for a chest; see `tests/bench/pixels_screen.py`."""

NAMED = 0.5
"""Correlation from which a picture is taken for a chest that is turned or inverted; other things
come closer to those than to an upright chest."""

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

MIRRORED = "mirrored"
TURNED[MIRRORED] = "The heart seems to be at the wrong side; left and right may be confused."

DRAWN = 0.7
"""Correlation with the mean phantom from which a picture is a drawing: the cascades have learned
from radiographs and do not know these."""


def screen(pixels: Bytes) -> tuple[tuple[str, str], ...]:
    """Return what seems wrong with a picture as (code, text); nothing when all is well.

    Parameters
    ----------
    pixels : ndarray of uint8, (rows, columns)
        0 = black.
    """
    looks = _looks(pixels)
    scores = _scores(looks)
    best = max(scores, key=lambda name: scores[name])
    if best == "upright" and scores[best] >= LIKE:
        code = _second_opinion(pixels, looks)
    else:
        code = best if best != "upright" and scores[best] >= NAMED else "not-frontal-chest"
    return ((code, TURNED[code]),) if code else ()


def _second_opinion(pixels: Bytes, looks: Floats) -> str:
    """Return what the lungs say of a picture that resembles a chest, nothing when all is well."""
    pixels = _without_bars(pixels)
    views = Views(pixels)
    if min(lungs(views)) >= ENOUGH:
        return MIRRORED if is_mirrored(views) else ""
    if float((looks @ _unit_vector(_load_mean("screen_phantom.png"))).max()) >= DRAWN:
        return ""
    # In a mirrored chest the notch of the heart may hide the lung that stands at the left.
    is_chest = min(lungs(Views(pixels[:, ::-1]))) >= ENOUGH
    return MIRRORED if is_chest else "not-frontal-chest"


def likeness(pixels: Bytes) -> dict[str, float]:
    """Return how well the picture correlates with a chest: upright, turned and inverted."""
    return _scores(_looks(pixels))


def _looks(pixels: Bytes) -> Floats:
    """Return the ranks of the whole picture and of parts of it, (parts, ranks)."""
    return _pixel_ranks(_whole_and_parts(_small_look(pixels)))


def _scores(looks: Floats) -> dict[str, float]:
    chest = _mean_chest()
    best = {name: float((looks @ _unit_vector(view)).max()) for name, view in _turned_views(chest)}
    # Which side it lies on is not said: the picture is as unusable either way.
    best["rotated"] = max(best.pop("rotated-left"), best.pop("rotated-right"))
    return best


def mean(drawn: Iterable[Bytes]) -> Bytes:
    """Return the mean of pictures."""
    ranks = (
        _pixel_ranks([_averaged_box(_small_look(picture)) for picture in drawn])
        .mean(axis=0)
        .reshape(_SIDE, _SIDE)
    )
    levels: Bytes = np.rint((ranks - ranks.min()) / np.ptp(ranks) * 255).astype(np.uint8)
    return levels


def learn(pictures: Iterable[Bytes], drawn: Iterable[Bytes]) -> Bytes:
    """Return the mean chest of radiographs, and with less weight of phantoms."""
    real, phantom = (
        _pixel_ranks([_averaged_box(_small_look(picture)) for picture in group]).mean(axis=0)
        for group in (pictures, drawn)
    )
    mean = real / np.linalg.norm(real) + _PHANTOMS * phantom / np.linalg.norm(phantom)
    mean = mean.reshape(_SIDE, _SIDE)
    levels: Bytes = np.rint((mean - mean.min()) / np.ptp(mean) * 255).astype(np.uint8)
    return levels


_PHANTOMS = 0.3
"""What phantoms weigh: as little as lets them pass themselves."""


def _mean_chest() -> Floats:
    return _load_mean("screen.png")


@cache
def _load_mean(name: str) -> Floats:
    with files("worker.image").joinpath(name).open("rb") as file:
        return np.asarray(Image.open(file), np.float64)


def _turned_views(chest: Floats) -> Iterator[tuple[str, Floats]]:
    yield "upright", chest
    yield "upside-down", chest[::-1, ::-1]
    yield "rotated-left", np.rot90(chest)
    yield "rotated-right", np.rot90(chest, 3)
    yield "inverted", -chest


def _unit_vector(view: Floats) -> Floats:
    level = view.reshape(-1) - view.mean()
    unit: Floats = level / np.linalg.norm(level)
    return unit


def _small_look(pixels: Bytes) -> Bytes:
    """Return a small picture without the bars around it."""
    small = _shrink_picture(pixels)
    return small[_detail_range(small), _detail_range(small.T)]


def _shrink_picture(pixels: Bytes) -> Bytes:
    step = max(1, min(pixels.shape) // (2 * _LOOK))
    coarse = np.ascontiguousarray(pixels[::step, ::step])
    return np.asarray(Image.fromarray(coarse).resize((_LOOK, _LOOK), Image.Resampling.BOX))


def _without_bars(pixels: Bytes) -> Bytes:
    """Return the picture itself without the bars around it."""
    small = _shrink_picture(pixels)
    rows, columns = (
        slice(
            (inside.start or 0) * length // _LOOK,
            (_LOOK if inside.stop is None else inside.stop) * length // _LOOK,
        )
        for inside, length in zip(
            (_detail_range(small), _detail_range(small.T)), pixels.shape, strict=True
        )
    )
    return np.ascontiguousarray(pixels[rows, columns])


def _detail_range(lines: Bytes) -> slice:
    # Less than a quarter with detail is not a picture between bars but a very even picture.
    has_detail = np.flatnonzero(lines.std(axis=1) >= _FLAT)
    if has_detail.size < len(lines) // 4:
        return slice(None)
    return slice(int(has_detail[0]), int(has_detail[-1]) + 1)


def _whole_and_parts(small: Bytes) -> list[Bytes]:
    """Return the whole and parts of it, as chests do not fill every picture alike."""
    found = []
    for share in _CROPS:
        height, width = (max(1, round(share * side)) for side in small.shape)
        for top in {0, (small.shape[0] - height) // 2, small.shape[0] - height}:
            for left in {0, (small.shape[1] - width) // 2, small.shape[1] - width}:
                found.append(_averaged_box(small[top : top + height, left : left + width]))
    return found


def _averaged_box(picture: Bytes) -> Bytes:
    """Return 24 x 24 averages."""
    image = Image.fromarray(np.ascontiguousarray(picture))
    return np.asarray(image.resize((_SIDE, _SIDE), Image.Resampling.BOX))


def _pixel_ranks(boxes: Sequence[Bytes]) -> Floats:
    """Return, for each box, the share of darker pixels for each pixel: no window changes it."""
    # Each box gets 256 counters of its own, so one bincount serves all of them.
    levels = np.stack(boxes).reshape(len(boxes), -1) + 256 * np.arange(len(boxes))[:, None]
    counts = np.bincount(levels.reshape(-1), minlength=256 * len(boxes)).reshape(len(boxes), 256)
    # Ties share the middle of their ranks.
    ranks: Floats = (np.cumsum(counts, axis=1) - counts / 2.0).reshape(-1)[levels]
    ranks -= ranks.mean(axis=1, keepdims=True)
    ranks /= np.maximum(np.linalg.norm(ranks, axis=1, keepdims=True), 1e-9)
    return ranks
