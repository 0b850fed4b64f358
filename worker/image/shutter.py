"""Finds what of an image may be seen, and hides the rest (PS3.3 C.7.6.11, Display Shutter)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from worker.image.header import Shutters

Mask = npt.NDArray[np.bool_]
Frame = tuple[slice, slice]
Shape = tuple[int, int]

UNUSABLE = "A shutter of the image is not usable and was left open."
_LEAST_VISIBLE = 0.05
"""A shutter that hides more than all but this share is a fault of its writer."""


@dataclass(frozen=True, slots=True, eq=False)
class Shutter:
    """The visible part of an image: a frame, or a mask where it is not a rectangle."""

    visible: Frame | Mask
    steps: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def close(self, pixels: npt.NDArray[np.uint8]) -> None:
        """Paint what is behind the shutter black, in place."""
        if isinstance(self.visible, tuple):
            rows, columns = self.visible
            pixels[: rows.start] = 0
            pixels[rows.stop :] = 0
            pixels[:, : columns.start] = 0
            pixels[:, columns.stop :] = 0
        else:
            pixels[~self.visible] = 0


def shutter(written: Shutters, shape: Shape) -> Shutter:
    """Return the shutter of an image of `shape` (rows, columns)."""
    whole = (slice(0, shape[0]), slice(0, shape[1]))
    shapes = list(written.shapes)
    if not shapes:
        return Shutter(whole)
    if shapes == ["RECTANGULAR"]:
        frame = _rectangle_frame(written, shape)
        if frame is None:
            return Shutter(whole, (), (UNUSABLE,))
        return Shutter(frame, ("shutter=rectangular",))
    drawn = {word: _MASKS[word](written, shape) if word in _MASKS else None for word in shapes}
    used = {word: mask for word, mask in drawn.items() if mask is not None}
    notes = (UNUSABLE,) if len(used) < len(drawn) else ()
    if not used:
        return Shutter(whole, (), notes)
    visible = np.logical_and.reduce(list(used.values()))
    if visible.mean() < _LEAST_VISIBLE:
        return Shutter(whole, (), (UNUSABLE,))
    return Shutter(visible, (f"shutter={'+'.join(used).lower()}",), notes)


def _rectangle_frame(written: Shutters, shape: Shape) -> Frame | None:
    edges = [round(edge) for edge in written.edges if edge is not None]
    if len(edges) < 4:
        return None
    # Rows and columns count from 1, and the edges themselves are visible.
    upper, left = max(edges[0] - 1, 0), max(edges[2] - 1, 0)
    lower, right = min(edges[1], shape[0]), min(edges[3], shape[1])
    if max(lower - upper, 0) * max(right - left, 0) < _LEAST_VISIBLE * shape[0] * shape[1]:
        return None
    return slice(upper, lower), slice(left, right)


def _rectangle_mask(written: Shutters, shape: Shape) -> Mask | None:
    frame = _rectangle_frame(written, shape)
    if frame is None:
        return None
    mask = np.zeros(shape, np.bool_)
    mask[frame] = True
    return mask


def _circle_mask(written: Shutters, shape: Shape) -> Mask | None:
    center, radius = written.center, written.radius
    if len(center) != 2 or radius is None or radius <= 0:
        return None
    rows = np.arange(1, shape[0] + 1, dtype=np.float64)[:, None] - center[0]
    columns = np.arange(1, shape[1] + 1, dtype=np.float64)[None, :] - center[1]
    circle: Mask = rows**2 + columns**2 <= radius**2
    return circle


def _polygon_mask(written: Shutters, shape: Shape) -> Mask | None:
    vertices = written.vertices
    if len(vertices) < 6 or len(vertices) % 2 or max(map(abs, vertices)) > 100_000:
        return None
    # Row before column in DICOM, x before y in Pillow.
    corners = [(x - 1, y - 1) for y, x in zip(vertices[::2], vertices[1::2], strict=True)]
    picture = Image.new("L", (shape[1], shape[0]))
    ImageDraw.Draw(picture).polygon(corners, fill=1, outline=1)
    return np.asarray(picture).astype(np.bool_)


_MASKS: dict[str, Callable[[Shutters, Shape], Mask | None]] = {
    "RECTANGULAR": _rectangle_mask,
    "CIRCULAR": _circle_mask,
    "POLYGONAL": _polygon_mask,
}
