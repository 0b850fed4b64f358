"""Association requests as peers write them, brought into the form that pynetdicom reads.

DICOM PS3.8 9.3.2: an acceptor tests bit 0 of the protocol version and no other, ignores and skips
items that it does not know (9.3.1), and compares AE titles without their padding. Products pad
titles with NUL, or leave what was in their buffer behind one.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from dicom_node.base.plurals import counted

A_ASSOCIATE_RQ = 0x01

_FIXED = 74
"""Bytes of the PDU before its items: head, version, two AE titles, reserved."""
_CONTEXT, _USER = 0x20, 0x50
_TOP = frozenset((0x10, _CONTEXT, _USER))
_ABSTRACT, _TRANSFER = 0x30, 0x40
_IN_CONTEXT = frozenset((_ABSTRACT, _TRANSFER))
_MAXIMUM_LENGTH = 0x51
_IN_USER = frozenset(range(0x51, 0x5A))
_UNLIMITED = struct.pack(">BxHL", _MAXIMUM_LENGTH, 4, 0)


class MalformedRequest(Exception):
    """The bytes are not an A-ASSOCIATE-RQ; the message says why."""


@dataclass(frozen=True, slots=True)
class Titles:
    """The AE titles of a request: as they are compared, and what is wrong with them."""

    called: str
    calling: str
    fault: str = ""


def normalise(
    pdu: bytes, can_be_read: Callable[[int, bytes], bool] = lambda kind, item: True
) -> tuple[bytes, Titles]:
    """Return an A-ASSOCIATE-RQ that says the same in the plainest form, and its titles.

    Parameters
    ----------
    pdu : bytes
        The whole PDU.
    can_be_read : callable
        Whether an item of the User Information, given by kind and bytes, is well formed. What is
        not is left out: all of them but the maximum length are optional (PS3.7 Annex D.3).

    Raises
    ------
    MalformedRequest
        It ends within an item, or before its items.
    """
    if len(pdu) < _FIXED:
        raise MalformedRequest(
            f"it has {counted(len(pdu), 'byte')}, less than an association request"
        )
    called, calling = _read_title(pdu[10:26]), _read_title(pdu[26:42])
    version = struct.unpack(">H", pdu[6:8])[0]
    items = bytearray()
    for kind, item in _read_items(pdu[_FIXED:]):
        if kind == _CONTEXT:
            # the context's ID and three reserved bytes come before its items
            found = [(k, sub_item) for k, sub_item in _read_items(item[8:]) if k in _IN_CONTEXT]
            _check_context(item[4:5], found)
            item = _write_item(kind, item[4:8] + b"".join(sub_item for _, sub_item in found))
        elif kind == _USER:
            item = _write_item(kind, _user_information(item[4:], can_be_read))
        if kind in _TOP:
            items += item
    # no User Information says no maximum length, which is unlimited, as 0 is (PS3.8 D.1)
    if not any(kind == _USER for kind, _ in _read_items(bytes(items))):
        items += _write_item(_USER, _UNLIMITED)
    # PS3.8 Table 9-11: only bit 0 is tested; pynetdicom compares the whole field
    head = struct.pack(">H2x", 1 if version & 1 else version)
    body = head + _title_field(called) + _title_field(calling) + pdu[42:_FIXED] + items
    fault = _title_fault("called", pdu[10:26], called) or _title_fault(
        "calling", pdu[26:42], calling
    )
    return struct.pack(">BxL", A_ASSOCIATE_RQ, len(body)) + body, Titles(called, calling, fault)


def _check_context(number: bytes, found: list[tuple[int, bytes]]) -> None:
    """Raise for a context that nobody can answer (PS3.8 9.3.2.2: an odd ID, both syntaxes)."""
    if not number or not number[0] & 1:
        raise MalformedRequest("a presentation context has no odd ID")
    if not any(k == _ABSTRACT and len(sub_item) > 4 for k, sub_item in found):
        raise MalformedRequest("a presentation context has no abstract syntax")
    if not any(k == _TRANSFER and len(sub_item) > 4 for k, sub_item in found):
        raise MalformedRequest("a presentation context has no transfer syntax")


def _user_information(body: bytes, can_be_read: Callable[[int, bytes], bool]) -> bytes:
    """Return the User Information without what is unknown or malformed."""
    kept = [
        (k, sub_item)
        for k, sub_item in _read_items(body)
        if k in _IN_USER and can_be_read(k, sub_item)
    ]
    whole = b"".join(sub_item for _, sub_item in kept)
    return whole if any(k == _MAXIMUM_LENGTH for k, _ in kept) else _UNLIMITED + whole


def _read_items(body: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield kind and bytes of each item (PS3.8 9.3.2: type, reserved, length, value)."""
    at = 0
    while at < len(body):
        if len(body) - at < 4:
            raise MalformedRequest("it ends within the head of an item")
        kind, length = struct.unpack(">BxH", body[at : at + 4])
        end = at + 4 + length
        if end > len(body):
            raise MalformedRequest(f"its item of type {kind:02X}H is longer than the request")
        yield kind, body[at:end]
        at = end


def _write_item(kind: int, body: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(body)) + body


def _read_title(field: bytes) -> str:
    """Return a title up to a NUL, without blanks around it; what is not ASCII is escaped."""
    # latin-1 has a character for every byte, so that a refusal can show what stood there
    return field.partition(b"\0")[0].strip(b" ").decode("latin-1")


def _title_field(title: str) -> bytes:
    """Return the 16 bytes of a title; pynetdicom reads none that is blank or not printable."""
    plain = "".join(c if " " <= c <= "~" and c != "\\" else "?" for c in title)
    return (plain or "?").ljust(16).encode("ascii")


def _title_fault(which: str, field: bytes, title: str) -> str:
    if not title:
        return f"its {which} AE title is blank"
    if _title_field(title).decode().strip() != title:
        return f"its {which} AE title is not an AE title: {ascii(title)[1:-1]}"
    return ""
