"""Turns a DICOM Instance into the picture that a model was trained on, or says why not."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from pydicom import Dataset

from dicom_node.base.errors import Rejected
from worker.image import header
from worker.image.gate import gate
from worker.image.geometry import square_pixels, turn_upright
from worker.image.grey import Display, grey_table
from worker.image.halving import halve_stored
from worker.image.header import Header
from worker.image.part10 import read
from worker.image.screen import MIRRORED, screen
from worker.image.shutter import shutter as find_shutter
from worker.settings import Pixels as Options

__all__ = ["Decodes", "Radiograph", "gate", "preprocessing_name", "radiograph", "read"]

VERSION = 2
"""Counts up with every change of what a picture looks like; part of a report's identity."""


class Decodes(Protocol):
    """Turns Pixel Data into pixels, as `worker.image.decode.Decoder` does."""

    def lent(self, source: Header) -> AbstractContextManager[npt.NDArray[np.unsignedinteger]]:
        """Lend the stored pixels as bit patterns, (rows, columns)."""


@dataclass(frozen=True, slots=True, eq=False)
class Radiograph:
    """A picture as a radiologist would see it."""

    pixels: npt.NDArray[np.uint8]
    """(rows, columns), 0 = black; the patient's right is at the viewer's left."""
    steps: str
    """What was done, for example ``voi-2: modality=none,voi=window-linear,invert=no,…``."""
    warnings: tuple[str, ...] = ()
    display: Display | None = None
    """What the grey levels follow; None of a picture that no header stands behind."""


def preprocessing_name(options: Options) -> str:
    """Return the name of the specification that pictures follow, for example ``voi-2``."""
    smaller = f"/{options.enough}" if options.enough else ""
    preferred = f";window={'|'.join(options.window)}" if options.window else ""
    wins = f";polarity={options.polarity}" if options.polarity != "presentation" else ""
    return f"{options.mode}-{VERSION}{smaller}{preferred}{wins}"


def radiograph(ds: Dataset, decoder: Decodes, options: Options) -> Radiograph:
    """Return the Instance's image as a radiologist would see it.

    Parameters
    ----------
    ds : Dataset
        As `read` returns it.
    decoder : Decodes
        What turns Pixel Data into pixels.
    options : Options
        ``[pixels]`` of worker.toml.

    Returns
    -------
    Radiograph
        uint8, at the image's own resolution unless ``options.enough`` allows less.

    Raises
    ------
    Rejected
        By `gate`, by the decoder, ``no-contrast``, or ``screened-out`` where the site wants that.
    OutOfResources
        The decoder cannot start.

    References
    ----------
    DICOM PS3.3 C.11.1, C.11.2, C.11.6 (grey levels), C.7.6.11 (shutters), C.7.6.1.1.1
    (orientation), C.7.6.3.1.7 (aspect ratio).
    """
    head = header.read(ds)
    gate(head, options)
    with decoder.lent(head) as lent:
        stored, halvings = halve_stored(head, lent, options.enough)
        shutter = find_shutter(head.shutters, (stored.shape[0], stored.shape[1]))
        levels = grey_table(head, stored, shutter.visible, options)
        pixels = levels.apply(stored)
    shutter.close(pixels)
    pixels, aspect = square_pixels(head, pixels)
    pixels, turn = turn_upright(head, pixels)
    if _is_even(pixels):
        raise Rejected("no-contrast", "All pixels of the image are of the same grey.")
    size = f"size=1/{1 << halvings}" if halvings else "size=full"
    steps = ",".join((*levels.steps, *shutter.steps, f"aspect={aspect}", f"orient={turn}", size))
    notes = (*head.warnings, *levels.warnings, *shutter.warnings)
    if turn == "unknown":
        notes += (
            "The image does not say which side is the patient's right; it was left as it is.",
        )
    notes += screen_picture(pixels, options)
    return Radiograph(pixels, f"{preprocessing_name(options)}: {steps}", notes, levels.display)


def screen_picture(pixels: npt.NDArray[np.uint8], options: Options) -> tuple[str, ...]:
    """Return the doubts about a picture, or refuse it where the site wants that."""
    if options.screening == "off":
        return ()
    found = screen(pixels)
    doubts = tuple(text for _, text in found)
    if options.screening == "reject" and any(code != MIRRORED for code, _ in found):
        raise Rejected("screened-out", " ".join(doubts))
    return doubts


def _is_even(pixels: npt.NDArray[np.uint8]) -> bool:
    """Return whether all is of one grey; most images show by a few pixels that they are not."""
    few = pixels[:: max(1, pixels.shape[0] // 16), :: max(1, pixels.shape[1] // 16)]
    return bool(few.min() == few.max() and pixels.min() == pixels.max())
