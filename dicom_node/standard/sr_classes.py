"""The SR classes that one report can be sent as, and its UID in another of them."""

from __future__ import annotations

from typing import Final

from dicom_node.standard.uids import derived_uid

SR_CLASSES: Final = {
    "comprehensive3d": "1.2.840.10008.5.1.4.1.1.88.34",
    "comprehensive": "1.2.840.10008.5.1.4.1.1.88.33",
    "enhanced": "1.2.840.10008.5.1.4.1.1.88.22",
}
"""Words of ``sop_classes`` in node.toml, the richest first.

The reports hold nothing that only one of these has (PS3.3 A.35.2, A.35.3, A.35.13), so one is made
and kept, and `standard.part10.recast` makes any other of it.
"""


def is_exchangeable(sop_class_uid: str) -> bool:
    """Return whether an object of this class may be sent as another of `SR_CLASSES`."""
    return sop_class_uid in SR_CLASSES.values()


def recast_uid(sop_class_uid: str, sop_instance_uid: str) -> str:
    """Return a report's UID in another class where `uids.object_uid` has no parts to derive it of.

    Workers of 0.1.0 do not say with which options they made a UID.
    """
    return derived_uid("sr-as", sop_class_uid, sop_instance_uid)
