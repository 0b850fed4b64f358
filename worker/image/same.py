"""Whether two files of one SOP Instance UID are the same image in another coding."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset

from dicom_node.base.errors import Rejected
from worker.image import elements
from worker.image.decode import Decoder
from worker.image.part10 import read

PERSON = (
    "PatientID",
    "IssuerOfPatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "StudyDate",
    "StudyTime",
)
"""Whose image it is, and to which study it belongs: what a report repeats."""

PICTURE = (
    "SOPClassUID",
    "Modality",
    "PresentationIntentType",
    "BodyPartExamined",
    "AnatomicRegionSequence",
    "ViewPosition",
    "ViewCodeSequence",
    "PatientOrientation",
    "ImageLaterality",
    "Laterality",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "BitsStored",
    "PixelRepresentation",
    "PixelSpacing",
    "ImagerPixelSpacing",
    "NominalScannedPixelSpacing",
    "PixelAspectRatio",
    "PixelPaddingValue",
    "PixelIntensityRelationship",
    "PixelIntensityRelationshipSign",
    "RescaleSlope",
    "RescaleIntercept",
    "ModalityLUTSequence",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "VOILUTSequence",
    "PresentationLUTShape",
    "ShutterShape",
    "ShutterLeftVerticalEdge",
    "ShutterRightVerticalEdge",
    "ShutterUpperHorizontalEdge",
    "ShutterLowerHorizontalEdge",
    "CenterOfCircularShutter",
    "RadiusOfCircularShutter",
    "VerticesOfThePolygonalShutter",
    "FieldOfViewRotation",
    "FieldOfViewHorizontalFlip",
    "QualityControlImage",
    "BurnedInAnnotation",
    "PhotometricInterpretation",
)
"""What the picture of a model depends on, and what says which image it is."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What two files have in common; ``code`` is empty where they are the same image.

    ``text`` is one sentence without a value of either.
    """

    is_same: bool
    code: str = ""
    text: str = ""


def compare_images(first: Path, second: Path, decoder: Decoder) -> Comparison:
    """Return whether `second` is the image of `first`, in whatever lossless coding.

    Raises
    ------
    OutOfResources
        No decoder could be started.
    """
    try:
        image, other = read(first), read(second)
        for code, keywords in (("other-person", PERSON), ("other-header", PICTURE)):
            if differing := [
                k for k in keywords if _comparable_value(image, k) != _comparable_value(other, k)
            ]:
                return Comparison(False, code, f"differs in {', '.join(differing)}")
        pixels = [decoder.decode(ds) for ds in (image, other)]
    except Rejected as exc:
        return Comparison(False, "unreadable", f"cannot be compared: {exc.text}")
    is_lossy = [elements.word(ds, "LossyImageCompression") == "01" for ds in (image, other)]
    if not np.array_equal(pixels[0], pixels[1]):
        what = "is a lossy copy: other pixels" if any(is_lossy) else "has other pixels"
        return Comparison(False, "lossy-copy" if any(is_lossy) else "other-pixels", what)
    if is_lossy[0] != is_lossy[1]:
        return Comparison(False, "lossy-copy", "is called a lossy copy, with equal pixels")
    return Comparison(True)


def _comparable_value(ds: Dataset, keyword: str) -> Any:
    """Return a value as it compares: text without padding, items by what is in them."""
    found = elements.values(ds, keyword)
    if any(isinstance(item, Dataset) for item in found):
        return [
            [(str(part.tag), _without_padding(part.value)) for part in item]
            for item in found
            if isinstance(item, Dataset)
        ]
    return [_without_padding(value) for value in found]


def _without_padding(value: Any) -> Any:
    if isinstance(value, int | float | bytes):
        return value
    text = str(value).strip(" \0")
    try:
        return float(text)  # 1, 1.0 and 1.00 are one number
    except ValueError:
        return text.rstrip("^= ")
