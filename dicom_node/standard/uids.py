"""The UIDs of result objects: functions of what they are about, the same in node and worker."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final
from uuid import uuid5

from dicom_node.base.identity import UID_NAMESPACE

PREFIXES: Final = {
    "sr": "sr",
    "basic-text": "bt",
    "sc": "sc",
    "gsps": "pr",
    "ko": "ko",
    "pdf": "pdf",
    "rejection-note": "rn",
}
"""Kind of a result object -> first part of its UIDs; changing one gives it a second identity."""


def derived_uid(*parts: str) -> str:
    """Return the UID that these parts always give (PS3.5 B.2).

    Examples
    --------
    >>> derived_uid("sr", "1.2.3")
    '2.25.29882532731172699783361827930621272403'
    """
    return f"2.25.{uuid5(UID_NAMESPACE, chr(0x1F).join(parts)).int}"


def options_digest(parameters: Iterable[str]) -> str:
    """Return the digest of a model's Algorithm Parameters that stands in its objects' UIDs."""
    return hashlib.sha256("\x1f".join(parameters).encode()).hexdigest()


def object_uid(
    kind: str,
    sop_class_uid: str,
    source_uid: str,
    device_uid: str,
    options: str,
    generation: int,
) -> str:
    """Return the SOP Instance UID of a result object.

    Parameters
    ----------
    kind : str
        A key of `PREFIXES`.
    sop_class_uid : str
        SOP Class UID of the object: a report has one UID in each SR class.
    source_uid : str
        SOP Instance UID of the image.
    device_uid : str
        Device UID (0018,1002) of the model.
    options : str
        From `options_digest`.
    generation : int
        1, and one more for each re-run that an operator asks for.
    """
    prefix = PREFIXES[kind]
    return derived_uid(prefix, sop_class_uid, source_uid, device_uid, options, str(generation))


def object_series_uid(kind: str, study_uid: str, device_uid: str) -> str:
    """Return the Series Instance UID of a kind of object: one per Study and device."""
    return derived_uid(f"{PREFIXES[kind]}-series", study_uid, device_uid)


def rejection_note_uid(source_uid: str, generation: int, rejected: Iterable[str]) -> str:
    """Return the SOP Instance UID of the note that rejects these objects for a new report.

    Parameters
    ----------
    source_uid : str
        SOP Instance UID of the image.
    generation : int
        Of the report that replaces the objects.
    rejected : iterable of str
        SOP Instance UIDs of the objects, in any order.
    """
    return derived_uid(
        PREFIXES["rejection-note"], source_uid, str(generation), *sorted(set(rejected))
    )
