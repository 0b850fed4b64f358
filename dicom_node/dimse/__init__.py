"""DICOM associations: the only place that knows pynetdicom."""

from __future__ import annotations

from collections.abc import Mapping
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

    ``priority`` is (0000,0700) of the C-STORE request: 0 medium, 1 high, 2 low. ``association``
    names the association in log lines and events; ``certificate`` is what the caller showed (DER).
    ``is_web`` is for STOW-RS: an HTTP client is not a peer that a report could be sent to.
    """

    calling_ae: str
    calling_host: str
    called_ae: str
    priority: int = 0
    association: str = ""
    certificate: bytes = b""
    is_web: bool = False


@dataclass(frozen=True, slots=True)
class Question:
    """A storage commitment request (DICOM PS3.4 J.3.2).

    ``objects`` are pairs of SOP Class UID and SOP Instance UID.
    """

    transaction_uid: str
    objects: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class CommitmentAnswer:
    """What a peer commits to, and what not (PS3.4 J.3.3).

    ``failed`` has the Failure Reason (0008,1197) by SOP Instance UID. ``by`` names the peers of the
    host that answers; None where nobody looked who answers.
    """

    transaction_uid: str
    committed: frozenset[str]
    failed: Mapping[str, int]
    by: frozenset[str] | None = None
