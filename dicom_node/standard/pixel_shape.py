"""How high a pixel is for its width (PS3.3 C.7.6.3.1.7): one answer for pictures and previews."""

from __future__ import annotations

from collections.abc import Iterable

SHAPES = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio")
"""Attributes that say it, the first usable counts: at the patient, at the detector, on film, by
ratio alone. Pixel Aspect Ratio is there only where no spacing is known."""

_SQUARE, _LARGEST = 0.01, 5.0


def shape_of(ratios: Iterable[float]) -> float | None:
    """Return height / width of a pixel, 1 where it is nearly square; None where nothing usable.

    Parameters
    ----------
    ratios : iterable of float
        What the attributes `SHAPES` say, in their order.
    """
    for ratio in ratios:
        if 1 / _LARGEST <= ratio <= _LARGEST:
            return 1.0 if abs(ratio - 1.0) < _SQUARE else ratio
    return None


def enlarged(ratio: float) -> tuple[float, float]:
    """Return by how much columns and rows are drawn larger, so that no detail is lost."""
    return (1.0, ratio) if ratio > 1 else (1 / ratio, 1.0)
