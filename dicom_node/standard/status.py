"""What a DIMSE status means: one table for all who read or answer one (DICOM PS3.7 Annex C)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class StatusKind(StrEnum):
    """What follows from a status."""

    SUCCESS = "success"
    WARNING = "warning"
    """It was done, with a remark."""
    PENDING = "pending"
    CANCEL = "cancel"
    DUPLICATE = "duplicate"
    """An object with this UID is there already; whether it is ours, the caller has to know."""
    REFUSED = "refused"
    """It was not done; the same request may succeed later, or when somebody permits it."""
    FAILED = "failed"
    """It was not done; something is wrong with the request or the object."""


@dataclass(frozen=True, slots=True)
class DimseStatus:
    """One status, its kind and its meaning in words."""

    code: int
    kind: StatusKind
    text: str

    def __str__(self) -> str:
        return f"0x{self.code:04X} {self.text}"


SUCCESS = 0x0000
DUPLICATE_INSTANCE = 0x0111
DUPLICATE_TRANSACTION = 0x0131
OUT_OF_RESOURCES = 0xA700
OTHER_SOP_CLASS = 0xA900
CANNOT_UNDERSTAND = 0xC000
NOT_SUPPORTED = 0x0122
NOT_AUTHORISED = 0x0124

_W, _R, _F = StatusKind.WARNING, StatusKind.REFUSED, StatusKind.FAILED

TABLE: dict[int, tuple[StatusKind, str]] = {
    0x0000: (StatusKind.SUCCESS, "success"),
    0x0001: (_W, "optional attributes not supported"),
    0x0105: (_F, "no such attribute"),
    0x0106: (_F, "invalid attribute value"),
    0x0107: (_W, "attribute list error"),
    0x0110: (_F, "processing failure"),
    0x0111: (StatusKind.DUPLICATE, "duplicate SOP Instance"),
    0x0112: (_F, "no such object instance"),
    0x0113: (_F, "no such event type"),
    0x0114: (_F, "no such argument"),
    0x0115: (_F, "invalid argument value"),
    0x0116: (_W, "attribute value out of range"),
    0x0117: (_F, "invalid object instance"),
    0x0118: (_F, "no such SOP class"),
    0x0119: (_F, "class and instance conflict"),
    0x0120: (_F, "missing attribute"),
    0x0121: (_F, "missing attribute value"),
    0x0122: (_R, "SOP class not supported"),
    0x0123: (_F, "no such action type"),
    0x0124: (_R, "not authorised"),
    0x0131: (_F, "duplicate transaction UID"),
    0x0210: (_F, "duplicate invocation"),
    0x0211: (_F, "unrecognised operation"),
    0x0212: (_F, "mistyped argument"),
    0x0213: (_R, "resource limitation"),
    0xB000: (_W, "coercion of data elements"),
    0xB006: (_W, "elements discarded"),
    0xB007: (_W, "data set does not match SOP class"),
    0xA701: (_R, "out of resources: cannot count matches"),
    0xA702: (_R, "out of resources: cannot perform sub-operations"),
    0xA801: (_R, "move destination unknown"),
    0xFE00: (StatusKind.CANCEL, "cancelled"),
    0xFF00: (StatusKind.PENDING, "pending"),
    0xFF01: (StatusKind.PENDING, "pending, optional keys not supported"),
}
"""Statuses with a meaning of their own: PS3.7 Annex C, PS3.4 Tables B.2-1, C.4-1 to C.4-3 and
J.3.2-2, and the Failure Reasons (0008,1197) of PS3.3 C.14.1.1, which are the same numbers."""

_FAMILIES = (
    (0xFF00, 0xA700, _R, "out of resources"),
    (0xFF00, 0xA900, _F, "data set does not match SOP class"),
    (0xF000, 0xA000, _F, "failure"),
    (0xF000, 0xB000, _W, "warning"),
    (0xF000, 0xC000, _F, "cannot understand"),
)
"""Mask, value, kind and words of the ranges that stacks fill as they like: PS3.4 Table B.2-1."""

STORED = ("0000", "0001", "0107", "0116", "Bxxx")
"""The statuses of a C-STORE after which the peer has the object, as a statement writes them."""

FAILURE_REASONS = (0x0110, 0x0112, 0x0119, 0x0122, 0x0131, 0x0213)
"""Failure Reasons (0008,1197) of Storage Commitment (PS3.3 C.14.1.1)."""


def read_status(code: int) -> DimseStatus:
    """Return what a status means; an unknown status is a failure (PS3.7 C.1)."""
    if code in TABLE:
        return DimseStatus(code, *TABLE[code])
    for mask, value, kind, text in _FAMILIES:
        if code & mask == value:
            return DimseStatus(code, kind, text)
    return DimseStatus(code, StatusKind.FAILED, "failure")


def is_stored(code: int, *, was_sent_before: bool = False) -> bool:
    """Return whether the peer has the object after answering a C-STORE with this status.

    Parameters
    ----------
    was_sent_before : bool
        Whether the same object went to this peer before and its answer is not known, or was
        success. Then "duplicate SOP Instance" means that it is there.
    """
    kind = read_status(code).kind
    if kind is StatusKind.DUPLICATE:
        return was_sent_before
    return kind in (StatusKind.SUCCESS, StatusKind.WARNING)


def meaning(code: int) -> str:
    """Return a status as text, such as ``0xA700 out of resources``."""
    return str(read_status(code))


def fault(code: int) -> str:
    """Return the status of a C-STORE as text; empty where the peer has the object."""
    return "" if is_stored(code) else meaning(code)
