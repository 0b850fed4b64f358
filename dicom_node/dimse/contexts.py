"""What this node speaks: SOP classes and transfer syntaxes, as tables."""

from __future__ import annotations

from dicom_node.settings import Right

APPLICATION = "1.2.840.10008.3.1.1.1"
"""The DICOM Application Context (PS3.7 A.2.1)."""
VERIFICATION = "1.2.840.10008.1.1"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
IMPLICIT_LITTLE = "1.2.840.10008.1.2"

IMAGES = {
    "1.2.840.10008.5.1.4.1.1.1": "Computed Radiography Image Storage",
    "1.2.840.10008.5.1.4.1.1.1.1": "Digital X-Ray Image Storage - For Presentation",
    "1.2.840.10008.5.1.4.1.1.1.1.1": "Digital X-Ray Image Storage - For Processing",
    "1.2.840.10008.5.1.4.1.1.7": "Secondary Capture Image Storage",
}
"""SOP classes taken as SCP.

DX - For Processing is accepted although its pixels are not for reading: modalities that send both
objects of an exposure keep working, and the answer is a "not analysed" report, not a DICOM failure.
The multi-frame Secondary Capture classes hold no radiograph of the chest and are left out.
"""

REPORTS = {
    "1.2.840.10008.5.1.4.1.1.88.34": "Comprehensive 3D SR Storage",
    "1.2.840.10008.5.1.4.1.1.88.33": "Comprehensive SR Storage",
    "1.2.840.10008.5.1.4.1.1.88.22": "Enhanced SR Storage",
    "1.2.840.10008.5.1.4.1.1.88.11": "Basic Text SR Storage",
    "1.2.840.10008.5.1.4.1.1.7": "Secondary Capture Image Storage",
    "1.2.840.10008.5.1.4.1.1.11.1": "Grayscale Softcopy Presentation State Storage",
    "1.2.840.10008.5.1.4.1.1.88.59": "Key Object Selection Document Storage",
    "1.2.840.10008.5.1.4.1.1.104.1": "Encapsulated PDF Storage",
}
"""SOP classes sent as SCU."""

SECOND_OBJECTS = {
    "basic-text": "1.2.840.10008.5.1.4.1.1.88.11",
    "sc": "1.2.840.10008.5.1.4.1.1.7",
    "gsps": "1.2.840.10008.5.1.4.1.1.11.1",
    "ko": "1.2.840.10008.5.1.4.1.1.88.59",
    "pdf": "1.2.840.10008.5.1.4.1.1.104.1",
}
"""SOP classes of the objects beside the report, by their words in ``objects``."""

QUERIES = {
    "1.2.840.10008.5.1.4.1.2.1.1": "Patient Root Query/Retrieve - FIND",
    "1.2.840.10008.5.1.4.1.2.1.2": "Patient Root Query/Retrieve - MOVE",
    "1.2.840.10008.5.1.4.1.2.1.3": "Patient Root Query/Retrieve - GET",
    "1.2.840.10008.5.1.4.1.2.2.1": "Study Root Query/Retrieve - FIND",
    "1.2.840.10008.5.1.4.1.2.2.2": "Study Root Query/Retrieve - MOVE",
    "1.2.840.10008.5.1.4.1.2.2.3": "Study Root Query/Retrieve - GET",
}
"""SOP classes of the Query/Retrieve SCP, whose objects are this node's reports."""

_RIGHTS: dict[str, Right] = {
    uid: "query" if name.endswith("FIND") else "retrieve" for uid, name in QUERIES.items()
} | dict.fromkeys(IMAGES, "store")

PUSH_MODEL = "1.2.840.10008.1.20.1"
PUSH_MODEL_INSTANCE = "1.2.840.10008.1.20.1.1"
"""Storage Commitment Push Model SOP Class, and its well-known SOP Instance (PS3.4 J.3.5)."""

TRANSFER_SYNTAXES = {
    EXPLICIT_LITTLE: "Explicit VR Little Endian",
    IMPLICIT_LITTLE: "Implicit VR Little Endian",
    "1.2.840.10008.1.2.1.99": "Deflated Explicit VR Little Endian",
    "1.2.840.10008.1.2.2": "Explicit VR Big Endian",
    "1.2.840.10008.1.2.4.70": "JPEG Lossless SV1",
    "1.2.840.10008.1.2.4.57": "JPEG Lossless",
    "1.2.840.10008.1.2.4.80": "JPEG-LS Lossless",
    "1.2.840.10008.1.2.4.90": "JPEG 2000 Lossless",
    "1.2.840.10008.1.2.4.201": "HTJ2K Lossless",
    "1.2.840.10008.1.2.4.202": "HTJ2K Lossless RPCL",
    "1.2.840.10008.1.2.5": "RLE Lossless",
    "1.2.840.10008.1.2.4.50": "JPEG Baseline",
    "1.2.840.10008.1.2.4.51": "JPEG Extended",
    "1.2.840.10008.1.2.4.81": "JPEG-LS Near Lossless",
    "1.2.840.10008.1.2.4.91": "JPEG 2000",
    "1.2.840.10008.1.2.4.203": "HTJ2K",
}
"""Transfer syntaxes taken as SCP in order of preference: uncompressed, lossless, lossy."""

MAX_CONTEXTS = 128
"""Presentation contexts that one association can propose (DICOM PS3.8 9.3.2.2: odd ids to 255)."""


def right_for(sop_class_uid: str | None) -> Right | None:
    """Return the right that a caller needs to use a SOP class here; None where it needs none."""
    return _RIGHTS.get(str(sop_class_uid))
