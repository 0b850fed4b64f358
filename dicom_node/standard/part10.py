"""How the head of a Part 10 file looks: preamble, prefix and File Meta Information (PS3.10 7.1)."""

from __future__ import annotations

import struct
from collections.abc import Mapping
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
_HEAD, _HEAD_OF = struct.Struct("<HH2sH").unpack_from, struct.Struct("<HH2sH").pack
_LENGTH = struct.Struct("<L").unpack_from
_LONG = frozenset((b"OB", b"OW", b"SQ", b"UC", b"UN", b"UR", b"UT"))
"""Value representations with a length of 32 bits that may stand before the UIDs."""


def write_head(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> bytes:
    """Return the head of a file that this node writes."""
    elements = b"".join(
        (
            _meta_element(0x0001, b"OB", b"\x00\x01"),
            _meta_element(0x0002, b"UI", _pad_even(sop_class_uid, b"\0")),
            _meta_element(0x0003, b"UI", _pad_even(sop_instance_uid, b"\0")),
            _meta_element(0x0010, b"UI", _pad_even(transfer_syntax_uid, b"\0")),
            _meta_element(0x0012, b"UI", _pad_even(IMPLEMENTATION_CLASS_UID, b"\0")),
            _meta_element(0x0013, b"SH", _pad_even(IMPLEMENTATION_VERSION_NAME, b" ")),
        )
    )
    length = _meta_element(0x0000, b"UL", struct.pack("<L", len(elements)))
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


def recast(content: bytes, sop_class_uid: str, sop_instance_uid: str) -> bytes:
    """Return a file in Explicit VR Little Endian as another Instance of another SOP class.

    The two UIDs are all that differs, in the head and in the data set. Where they are those of
    the file, it is returned as it is.

    Raises
    ------
    NotUnderstood
        As `head_size`, or the file does not hold the two UIDs where they must be.
    """
    data_set = head_size(content)
    head, body = content[_UP_TO_LENGTH:data_set], content[data_set:]
    sop_class, sop_instance = _pad_even(sop_class_uid, b"\0"), _pad_even(sop_instance_uid, b"\0")
    head = _replace_values(head, {0x00020002: sop_class, 0x00020003: sop_instance})
    body = _replace_values(body, {0x00080016: sop_class, 0x00080018: sop_instance})
    length = _meta_element(0x0000, b"UL", struct.pack("<L", len(head)))
    made = b"".join((content[:META_AT], length, head, body))
    return content if made == content else made


def _replace_values(content: bytes, values: Mapping[int, bytes]) -> bytes:
    """Return elements with other values for some UIDs, all of which are there in this order."""
    parts, at, kept = [], 0, 0
    for tag, value in values.items():
        while True:
            if at + 12 > len(content):
                raise NotUnderstood("the file does not say what it is")
            group, element, vr, length = _HEAD(content, at)
            start = at + 8
            # two reserved bytes stand in place of the length, which follows in four (PS3.5 Table
            # 7.1-1)
            if vr in _LONG:
                (length,) = _LENGTH(content, start)
                start += 4
            # elements stand in order, so beyond this tag it is not there
            if (found := group << 16 | element) >= tag:
                break
            at = start + length
        if found != tag or vr != b"UI":
            raise NotUnderstood("the file does not say what it is")
        parts += [content[kept:at], _HEAD_OF(group, element, vr, len(value)), value]
        at = kept = start + length
    return b"".join((*parts, content[kept:]))


def _meta_element(element: int, vr: bytes, value: bytes) -> bytes:
    """Return one element of group 0002, Explicit VR Little Endian."""
    if vr == b"OB":
        return struct.pack("<HH2sHL", 0x0002, element, vr, 0, len(value)) + value
    return struct.pack("<HH2sH", 0x0002, element, vr, len(value)) + value


def _pad_even(text: str, pad: bytes) -> bytes:
    value = text.encode("ascii", "replace")
    return value + pad * (len(value) % 2)
