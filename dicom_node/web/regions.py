"""Regions of an image that a report names, read from its Structured Report (DICOM PS3.3 C.18.6)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pydicom.dataset import Dataset

_TRACKING = "112039"
"""Tracking Identifier (DCM): the words by which a measurement group is known."""
_MOST = 64


@dataclass(frozen=True, slots=True)
class OutlinedRegion:
    """A closed line around something, in pixels of the image: column and row from its corner."""

    words: str
    points: tuple[tuple[float, float], ...]


def regions_of(report: Dataset, sop_instance_uid: str) -> list[OutlinedRegion]:
    """Return the regions that a report draws on an image, each with the words of its group."""
    found = []
    for region in _regions_below(report, "", sop_instance_uid):
        found.append(region)
        if len(found) == _MOST:
            break
    return found


def _regions_below(parent: Dataset, words: str, image: str) -> Iterator[OutlinedRegion]:
    items = parent.get("ContentSequence") or ()
    for item in items:
        if _concept_code(item) == _TRACKING:
            words = str(item.get("TextValue") or "")
    for item in items:
        if item.get("ValueType") == "SCOORD" and _is_on(item, image):
            numbers = [float(number) for number in item.get("GraphicData") or ()]
            points = tuple(zip(numbers[::2], numbers[1::2], strict=False))
            if item.get("GraphicType") == "POLYLINE" and len(points) > 2:
                yield OutlinedRegion(words, points)
        yield from _regions_below(item, words, image)


def _is_on(item: Dataset, image: str) -> bool:
    """Return whether coordinates were selected from this image."""
    sources = item.get("ContentSequence") or ()
    referenced = [
        reference for source in sources for reference in source.get("ReferencedSOPSequence") or ()
    ]
    return any(
        str(reference.get("ReferencedSOPInstanceUID", "")) == image for reference in referenced
    )


def _concept_code(item: Dataset) -> str:
    names = item.get("ConceptNameCodeSequence") or ()
    return str(names[0].get("CodeValue", "")) if names else ""
