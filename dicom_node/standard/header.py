"""The few top-level elements of a data set that ledger and rules use, read without trust.

A walk over element headers that never recurses, never reads a long value and stops before the
pixels: what a hostile data set can cost is bounded before anything else looks at it.
"""

from __future__ import annotations

import io
import os
import re
import struct
import unicodedata
import zlib
from collections.abc import Iterator, Mapping
from typing import IO

from dicom_node.base.errors import NotUnderstood
from dicom_node.standard.part10 import skip_head

IMPLICIT = "1.2.840.10008.1.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
BIG_ENDIAN = "1.2.840.10008.1.2.2"

INFLATE_LIMIT = 16 * 2**20
"""Bytes of an inflated data set that are looked at: a small file may inflate without end."""

VALUE_LIMIT = 4096
"""Bytes of one element that are read: what rules and people look at is short."""

TEXT_LIMIT = 256
"""Characters of one value that are kept."""

DEPTH_LIMIT = 128
"""Open sequences and items; deeper nesting is an attack on those who read it next."""

TAGS = {
    0x00080016: "sop_class_uid",
    0x00080018: "sop_instance_uid",
    0x00080020: "study_date",
    0x00080030: "study_time",
    0x00080050: "accession_number",
    0x00080060: "modality",
    0x00080068: "presentation_intent",
    0x00080070: "manufacturer",
    0x00080090: "referring_physician",
    0x00080080: "institution",
    0x00081010: "station_name",
    0x00081030: "study_description",
    0x0008103E: "series_description",
    0x00100010: "patient_name",
    0x00100020: "patient_id",
    0x00100021: "issuer_of_patient_id",
    0x00100030: "patient_birth_date",
    0x00100040: "patient_sex",
    0x00180015: "body_part",
    0x00185101: "view",
    0x0020000D: "study_instance_uid",
    0x0020000E: "series_instance_uid",
    0x00200010: "study_id",
    0x00280300: "quality_control_image",
}
_CHARACTER_SET = 0x00080005
_ESCAPE = re.compile(r"\x1b[\x20-\x2f]{1,4}[\x30-\x7e]")
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
_LONG = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN")) | {
    b"UR",
    b"UT",
    b"UV",
}
"""Value representations with a length of 32 bits (DICOM PS3.5 7.1.2)."""


def read_header(
    file: IO[bytes], transfer_syntax_uid: str, tags: Mapping[int, str] = TAGS
) -> dict[str, str]:
    """Return the facts of a Part 10 file by the names in `tags`, as decoded, clean text.

    Raises
    ------
    NotUnderstood
        The bytes are not a data set in this transfer syntax.
    """
    skip_head(file)
    source: IO[bytes] = file
    if transfer_syntax_uid == DEFLATED:
        source = io.BytesIO(_inflate(file))
    values = dict(_values(source, transfer_syntax_uid, tags))
    character_sets = _ascii(values.get(_CHARACTER_SET, b"")).split("\\")
    facts = dict.fromkeys(tags.values(), "")
    for tag in values.keys() & tags.keys():
        name, value = tags[tag], values[tag]
        facts[name] = _ascii(value) if name.endswith("_uid") else _text(value, character_sets)
    facts["patient_name"] = facts["patient_name"].rstrip("^= ")
    return facts


def clean(text: str) -> str:
    """Return `text` without control characters and not longer than the ledger keeps."""
    if text.isascii() and text.isprintable():
        return " ".join(text[: 4 * TEXT_LIMIT].split())[:TEXT_LIMIT]
    printable = "".join(
        " " if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") else c
        for c in text[: 4 * TEXT_LIMIT]
    )
    return " ".join(printable.split())[:TEXT_LIMIT]


def _inflate(file: IO[bytes]) -> bytes:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        return inflater.decompress(file.read(INFLATE_LIMIT), INFLATE_LIMIT)
    except zlib.error as exc:
        raise NotUnderstood("the deflated data set cannot be inflated") from exc


def _values(
    file: IO[bytes], transfer_syntax_uid: str, tags: Mapping[int, str]
) -> Iterator[tuple[int, bytes]]:
    """Yield tag and value of the top-level elements that are wanted."""
    last = max(tags)
    start = file.tell()
    first = file.read(8)
    file.seek(start)
    order = ">" if transfer_syntax_uid == BIG_ENDIAN else "<"
    # some senders encode otherwise than they negotiated; the first element shows it
    implicit_levels = [not _is_vr(first[4:6])]
    formats = _Formats(order)
    while element := _next(file, formats, implicit_levels[-1]):
        tag, vr, length = element
        if tag in (_ITEM_END, _SEQUENCE_END):
            if len(implicit_levels) > 1:
                implicit_levels.pop()
        elif length == _UNDEFINED:
            if len(implicit_levels) > DEPTH_LIMIT:
                raise NotUnderstood("sequences are nested too deeply")
            # PS3.5 6.2.2: UN of undefined length holds Implicit VR items
            implicit_levels.append(implicit_levels[-1] or vr == b"UN")
        elif len(implicit_levels) == 1 and tag > last:
            return
        elif len(implicit_levels) == 1 and (tag in tags or tag == _CHARACTER_SET):
            yield tag, file.read(min(length, VALUE_LIMIT))
            file.seek(max(0, length - VALUE_LIMIT), os.SEEK_CUR)
        else:
            file.seek(length, os.SEEK_CUR)


class _Formats:
    """How the head of an element is packed in one byte order."""

    def __init__(self, order: str) -> None:
        self.implicit = struct.Struct(f"{order}HHL").unpack
        self.explicit = struct.Struct(f"{order}HH2sH").unpack
        self.long = struct.Struct(f"{order}L").unpack


def _next(file: IO[bytes], formats: _Formats, implicit: bool) -> tuple[int, bytes, int] | None:
    """Return tag, VR and length of the next element; None at the end."""
    head = file.read(8)
    if len(head) < 8:
        return None
    group, element, vr, length = formats.explicit(head)
    tag = group << 16 | element
    if implicit or group == 0xFFFE or not _is_vr(vr):
        return tag, b"", formats.implicit(head)[2]
    if vr not in _LONG:
        return tag, vr, length
    more = file.read(4)
    return (tag, vr, formats.long(more)[0]) if len(more) == 4 else None


def _is_vr(vr: bytes) -> bool:
    return vr.isalpha() and vr.isupper()


def _ascii(value: bytes) -> str:
    return value.decode("ascii", "replace").strip(" \0")


def _text(value: bytes, character_sets: list[str]) -> str:
    """Return clean text; what cannot be decoded is replaced, and is never a reason to refuse."""
    value = value.rstrip(b" \0")
    if value.isascii() and b"\x1b" not in value:
        return clean(value.decode("ascii"))
    from pydicom.charset import decode_bytes, python_encoding

    codecs = [python_encoding.get(name.strip(), "latin-1") for name in character_sets]
    try:
        if len(codecs) > 1 or b"\x1b" in value:
            # pydicom leaves the escape sequence of ISO 2022 IR 58 in the text
            return clean(_ESCAPE.sub("", decode_bytes(value, codecs, {0x5E, 0x3D})))
        return clean(value.decode(codecs[0], "replace"))
    except (LookupError, ValueError, Warning):
        return clean(value.decode("latin-1"))
