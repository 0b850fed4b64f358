"""How the head of a Part 10 file looks: preamble, prefix and File Meta Information (PS3.10 7.1)."""

from __future__ import annotations

import struct
from typing import IO

from dicom_node.base.errors import NotUnderstood
from dicom_node.base.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

PREFIX = b"DICM"
PREFIX_AT = 128
"""Bytes of the preamble, which comes before the prefix."""
META_AT = PREFIX_AT + len(PREFIX)
"""Where File Meta Information begins: with its own length, an element of 12 bytes."""
_LENGTH_HEAD = b"\x02\x00\x00\x00UL\x04\x00"
_UP_TO_LENGTH = META_AT + 12


def write_head(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> bytes:
    """Return the head of a file that this node writes."""
    elements = b"".join(
        (
            _element(0x0001, b"OB", b"\x00\x01"),
            _element(0x0002, b"UI", _padded(sop_class_uid, b"\0")),
            _element(0x0003, b"UI", _padded(sop_instance_uid, b"\0")),
            _element(0x0010, b"UI", _padded(transfer_syntax_uid, b"\0")),
            _element(0x0012, b"UI", _padded(IMPLEMENTATION_CLASS_UID, b"\0")),
            _element(0x0013, b"SH", _padded(IMPLEMENTATION_VERSION_NAME, b" ")),
        )
    )
    length = _element(0x0000, b"UL", struct.pack("<L", len(elements)))
    # an empty preamble: what a sender puts there may make the file pass for a program
    return bytes(PREFIX_AT) + PREFIX + length + elements


def is_part10(content: bytes) -> bool:
    """Return whether `content` begins as a Part 10 file."""
    return content[PREFIX_AT:META_AT] == PREFIX


def has_length(content: bytes) -> bool:
    """Return whether `content` begins as a Part 10 file that says how long its head is."""
    return is_part10(content) and content[META_AT : META_AT + 8] == _LENGTH_HEAD


def head_size(content: bytes) -> int:
    """Return where the data set begins in a file whose first 144 bytes or more are `content`.

    Raises
    ------
    NotUnderstood
        This is not a Part 10 file, or its head does not say how long it is.
    """
    if len(content) < _UP_TO_LENGTH or not is_part10(content):
        raise NotUnderstood("the file has no File Meta Information")
    (length,) = struct.unpack("<L", content[_UP_TO_LENGTH - 4 : _UP_TO_LENGTH])
    return _UP_TO_LENGTH + int(length)


def skip_head(file: IO[bytes]) -> None:
    """Place `file` at its data set.

    Raises
    ------
    NotUnderstood
        As `head_size`.
    """
    file.seek(0)
    file.seek(head_size(file.read(_UP_TO_LENGTH)))


def _element(element: int, vr: bytes, value: bytes) -> bytes:
    """Return one element of group 0002, Explicit VR Little Endian."""
    if vr == b"OB":
        return struct.pack("<HH2sHL", 0x0002, element, vr, 0, len(value)) + value
    return struct.pack("<HH2sH", 0x0002, element, vr, len(value)) + value


def _padded(text: str, pad: bytes) -> bytes:
    value = text.encode("ascii", "replace")
    return value + pad * (len(value) % 2)
