"""The SR classes that one report can be sent as, and the report itself in another of them."""

from __future__ import annotations

from copy import copy
from io import BytesIO
from typing import Final

from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import UID

from dicom_node.standard.uids import derived_uid

SR_CLASSES: Final = {
    "comprehensive3d": "1.2.840.10008.5.1.4.1.1.88.34",
    "comprehensive": "1.2.840.10008.5.1.4.1.1.88.33",
    "enhanced": "1.2.840.10008.5.1.4.1.1.88.22",
}
"""Words of ``sop_classes`` in node.toml, the richest first.

The reports hold nothing that only one of these has (PS3.3 A.35.2, A.35.3, A.35.13).
"""


def is_exchangeable(sop_class_uid: str) -> bool:
    """Return whether an object of this class may be sent as another of `SR_CLASSES`."""
    return sop_class_uid in SR_CLASSES.values()


def recast_uid(sop_class_uid: str, sop_instance_uid: str) -> str:
    """Return the SOP Instance UID of a report in another class: always the same one."""
    return derived_uid("sr-as", sop_class_uid, sop_instance_uid)


def recast(report: Dataset, sop_class_uid: str) -> Dataset:
    """Return a report as an Instance of another SR class; the given one stays as it is.

    SOP Class UID and SOP Instance UID are all that differs.
    """
    other = copy(report)
    other.SOPClassUID = UID(sop_class_uid)
    other.SOPInstanceUID = UID(recast_uid(sop_class_uid, str(report.SOPInstanceUID)))
    if isinstance(report, FileDataset):
        other.file_meta = copy(report.file_meta)
        other.file_meta.MediaStorageSOPClassUID = other.SOPClassUID
        other.file_meta.MediaStorageSOPInstanceUID = other.SOPInstanceUID
    return other


def recast_file(content: bytes, sop_class_uid: str) -> bytes:
    """Return a Part 10 file of a report as one of another SR class."""
    buffer = BytesIO()
    dcmwrite(buffer, recast(dcmread(BytesIO(content)), sop_class_uid), enforce_file_format=True)
    return buffer.getvalue()
