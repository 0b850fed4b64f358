"""DICOM associations: the only place that knows pynetdicom."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Accepted:
    """What the association said of a data set: command set and presentation context."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str


@dataclass(frozen=True, slots=True)
class Sender:
    """Who sent an Instance, and how urgent it is.

    ``priority`` is (0000,0700) of the C-STORE request: 0 medium, 1 high, 2 low.
    """

    calling_ae: str
    calling_host: str
    called_ae: str
    priority: int = 0
