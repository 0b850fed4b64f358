"""Contrast for people who look for bones: from the image's own values inside its collimation.

Radiographs have no absolute scale, so each preset is a share of the range that this image has.
Only the process that draws a preview imports this: it needs NumPy.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_PATCHES = 48
_DETAIL = 0.04
_LEAST_FIELD = 0.1
_TILES, _LEVELS, _CLIP = 8, 256, 2.5

SHARES = {"bone": (4.0, 88.0), "lung": (0.5, 65.0), "whole": (0.0, 100.0)}
"""Percentiles of the grey values, dark to bright, between which a preset spreads its contrast."""

_BONE_DETAIL, _BONE_BLUR = 0.8, 24
"""How much finer structures are raised over their surroundings, and how many parts make those."""


def preset(bright: Floats, name: str) -> Floats:
    """Return grey from 0 to 1 by a preset, or by local contrast.

    Parameters
    ----------
    bright : ndarray of float32, (rows, columns)
        Values of which high ones are shown bright.
    name : str
        A key of `SHARES`, or "local".
    """
    inside = bright[field(bright)] if name != "whole" else bright
    if name == "local":
        low, high = np.percentile(inside, (0.5, 99.5))
        return local(between(bright, float(low), float(high)))
    low, high = np.percentile(inside, SHARES[name])
    if name != "bone":
        return between(bright, float(low), float(high))
    # The ribs over the lungs differ from these by little: raise them over their surroundings.
    shown = between(bright, float(low), float(high))
    raised = shown + _BONE_DETAIL * (shown - _blur_image(shown))
    return np.asarray(np.clip(raised, 0, 1), np.float32)


def field(bright: Floats) -> tuple[slice, slice]:
    """Return the part that a collimator leaves: rows and columns that have detail."""
    height, width = (max(1, length // _PATCHES) for length in bright.shape)
    rows, columns = bright.shape[0] // height, bright.shape[1] // width
    patches = bright[: rows * height, : columns * width].reshape(rows, height, columns, width)
    detail = patches.std(axis=(1, 3))
    lively = detail >= _DETAIL * max(float(np.percentile(detail, 95)), 1e-9)
    found = []
    for axis, size, length in ((1, height, bright.shape[0]), (0, width, bright.shape[1])):
        lines = np.flatnonzero(lively.mean(axis=axis) >= 1 / 8)
        first, last = (int(lines[0]), int(lines[-1]) + 1) if lines.size else (0, length)
        found.append(slice(first * size, min(last * size, length)))
    share = np.prod([part.stop - part.start for part in found]) / bright.size
    return (found[0], found[1]) if share >= _LEAST_FIELD else (slice(None), slice(None))


def between(values: Floats, low: float, high: float) -> Floats:
    """Return values from `low` to `high` as 0 to 1."""
    return np.asarray(np.clip((values - low) / max(high - low, 1e-6), 0, 1), np.float32)


def local(grey: Floats) -> Floats:
    """Return grey with contrast spread in each part of the picture, as CLAHE does.

    K. Zuiderveld, Contrast limited adaptive histogram equalization, Graphics Gems IV, 1994.
    """
    levels = np.minimum((grey * _LEVELS).astype(np.intp), _LEVELS - 1)
    rows, columns = grey.shape
    tops = np.linspace(0, rows, _TILES + 1).astype(int)
    lefts = np.linspace(0, columns, _TILES + 1).astype(int)
    maps = np.empty((_TILES, _TILES, _LEVELS), np.float32)
    for i in range(_TILES):
        for j in range(_TILES):
            tile = levels[tops[i] : tops[i + 1], lefts[j] : lefts[j + 1]].reshape(-1)
            counts = np.bincount(tile, minlength=_LEVELS).astype(np.float64)
            limit = _CLIP * max(tile.size, 1) / _LEVELS
            surplus = np.maximum(counts - limit, 0).sum()
            share = np.minimum(counts, limit) + surplus / _LEVELS
            maps[i, j] = np.cumsum(share) / max(share.sum(), 1e-9)
    down, first, second = _tile_weights(rows)
    across, left, right = _tile_weights(columns)
    shown = (1 - down)[:, None] * (1 - across) * maps[first[:, None], left, levels]
    shown += (1 - down)[:, None] * across * maps[first[:, None], right, levels]
    shown += down[:, None] * (1 - across) * maps[second[:, None], left, levels]
    shown += down[:, None] * across * maps[second[:, None], right, levels]
    return np.asarray(shown, np.float32)


def _tile_weights(length: int) -> tuple[Floats, NDArray[np.intp], NDArray[np.intp]]:
    """Return for each line how near it is to the second of two tiles, and which these are."""
    place = (np.arange(length) + 0.5) * _TILES / length - 0.5
    first = np.floor(place)
    share = np.asarray(place - first, np.float32)
    tiles = [np.clip(tile, 0, _TILES - 1).astype(np.intp) for tile in (first, first + 1)]
    return share, tiles[0], tiles[1]


def _blur_image(grey: Floats) -> Floats:
    from PIL import Image

    image = Image.fromarray(grey)
    small = image.resize((_BONE_BLUR, _BONE_BLUR), Image.Resampling.BOX)
    return np.asarray(small.resize(image.size, Image.Resampling.BICUBIC), np.float32)
