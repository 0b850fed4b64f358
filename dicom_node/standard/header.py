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
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import IO

from dicom_node.base.errors import NotUnderstood
from dicom_node.standard.part10 import skip_head

IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
BIG_ENDIAN = "1.2.840.10008.1.2.2"

INFLATE_LIMIT = 16 * 2**20
"""Bytes of an inflated data set that are looked at: a small file may inflate without end."""

INFLATE_MOST = 160 * 2**20
"""Bytes of an inflated data set that are counted: more than a worker reads."""

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
CUT_OFF = "the data set is cut off"

MAX_ELEMENTS = 500_000
"""Elements that are looked at; a header of thousands of items has some ten thousand."""

MAX_KEYS, MAX_KEY_VALUES, MAX_ESCAPES = 4_096, 20_000, 1_000
"""Elements, values and escape sequences of one query; a list of 10,000 UIDs is one that is sent."""

MAX_FRAGMENTS = 10_000
"""Fragments of compressed pixels whose length is checked; one image has one, or a few dozen."""

DecodeText = Callable[[bytes, list[str]], str]
"""Makes text of a value and of what Specific Character Set says."""

_CHARACTER_SET = 0x00080005
_PIXELS = frozenset((0x7FE00008, 0x7FE00009, 0x7FE00010))
"""Float, Double Float and plain Pixel Data."""
_REGISTERED = re.compile(r"ISO[ _-]{0,4}(2022)?[ _-]{0,4}IR[ _-]{0,4}([0-9]{1,4})")
"""A number of the ISO registry, however it is written; ``2022`` says that escapes may follow."""

_ESCAPE = re.compile(r"\x1b[\x20-\x2f]{1,4}[\x30-\x7e]")
_PIECE = 1 << 16
_CONTENT = 0x0040A730
"""Content Sequence: most of a report."""
_ITEM_TAG = b"\xfe\xff\x00\xe0"
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
_LONG = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN")) | {
    b"UR",
    b"UT",
    b"UV",
}
"""Value representations with a length of 32 bits (DICOM PS3.5 7.1.2)."""


def read_header(
    file: IO[bytes],
    transfer_syntax_uid: str,
    tags: Mapping[int, str] = TAGS,
    *,
    is_new: bool = False,
    decode: DecodeText | None = None,
) -> dict[str, str]:
    """Return the facts of a Part 10 file by the names in `tags`, as decoded, clean text.

    Of a new file it is checked, too, that its pixels are as long as they say, and that nothing that
    is wanted stands twice with different values. One without pixels is taken: its report says so.

    Parameters
    ----------
    decode : callable, optional
        Makes text of a value, as `text_for_reports` does.

    Raises
    ------
    NotUnderstood
        The bytes are not a data set in this transfer syntax, or a new file is cut off.
    """
    skip_head(file)
    source: IO[bytes] = file
    is_cut = False
    rest = 0
    if transfer_syntax_uid == DEFLATED:
        content, is_cut, rest = _inflate_head(file, INFLATE_MOST if is_new else INFLATE_LIMIT)
        source = io.BytesIO(content)
    values: dict[int, bytes] = {}
    for tag, value in _wanted_values(
        source,
        transfer_syntax_uid,
        tags,
        is_new=is_new,
        most=MAX_ELEMENTS,
        rest=rest,
    ):
        if is_new and values.get(tag, value) != value:
            # Readers differ in which of the two they believe: of a study, or of a patient.
            raise NotUnderstood(f"{tags.get(tag, 'the character set')} stands twice")
        values[tag] = value
    if is_new and is_cut:
        raise NotUnderstood(CUT_OFF)
    character_sets = _ascii_text(values.get(_CHARACTER_SET, b"")).split("\\")
    decode = decode or _decode_text
    facts = dict.fromkeys(tags.values(), "")
    for tag in values.keys() & tags.keys():
        name, value = tags[tag], values[tag]
        facts[name] = _ascii_text(value) if name.endswith("_uid") else decode(value, character_sets)
    if "patient_name" in facts:
        facts["patient_name"] = facts["patient_name"].rstrip("^= ")
    return facts


def check_query(content: bytes, transfer_syntax_uid: str) -> None:
    """Raise `NotUnderstood` for an identifier that is not whole, or that asks for too much.

    It has a MiB at most, in which some 40,000 elements, 90,000 values or 200,000 escape sequences
    have room: each such query would keep the node's processor busy for seconds.
    """
    check_whole(content, transfer_syntax_uid, MAX_KEYS)
    for what, mark, most in (
        ("items", _ITEM_TAG, MAX_KEYS),
        ("values", b"\\", MAX_KEY_VALUES),
        ("escape sequences", b"\x1b", MAX_ESCAPES),
    ):
        if content.count(mark) > most:
            raise NotUnderstood(f"more than {most} {what}")


def check_whole(
    content: bytes, transfer_syntax_uid: str, most_elements: int = MAX_ELEMENTS
) -> None:
    """Raise `NotUnderstood` for a data set that ends within an element or a sequence.

    pydicom leaves out what is cut off, and says nothing: a query would lose keys.
    """
    rest = 0
    if transfer_syntax_uid == DEFLATED:
        content, is_cut, rest = _inflate_head(io.BytesIO(content), INFLATE_MOST)
        if is_cut:
            raise NotUnderstood(CUT_OFF)
    for _ in _wanted_values(
        io.BytesIO(content), transfer_syntax_uid, {}, is_new=True, most=most_elements, rest=rest
    ):
        pass


def check_file(file: IO[bytes], transfer_syntax_uid: str) -> None:
    """Raise `NotUnderstood` for a Part 10 file that is cut off, or without an object.

    A disk that fails, or was full, may leave the beginning of a file, and archives take it.
    """
    skip_head(file)
    if transfer_syntax_uid == DEFLATED:
        check_whole(file.read(), transfer_syntax_uid)
        return
    tags = {0x00080018: "sop_instance_uid"}
    values = _wanted_values(file, transfer_syntax_uid, tags, is_new=True)
    # _wanted_values gives what the character set says, too
    if 0x00080018 not in [tag for tag, _ in values]:
        raise NotUnderstood(CUT_OFF)


def clean(text: str) -> str:
    """Return `text` without control characters and not longer than the ledger keeps."""
    if text.isascii() and text.isprintable():
        return " ".join(text[: 4 * TEXT_LIMIT].split())[:TEXT_LIMIT]
    printable = "".join(
        " " if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") else c
        for c in text[: 4 * TEXT_LIMIT]
    )
    return " ".join(printable.split())[:TEXT_LIMIT]


def _inflate_head(file: IO[bytes], most: int) -> tuple[bytes, bool, int]:
    """Return the beginning of a deflated data set, whether it is cut off, and what follows.

    Behind `INFLATE_LIMIT` bytes are counted and not kept, and behind `most` nobody inflates them:
    what may be there then counts as being there.
    """
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    content, size, is_cut = bytearray(), 0, False
    try:
        # in small pieces: what is left of one is copied each time
        while not (inflater.eof or is_cut) and size < most:
            deflated = inflater.unconsumed_tail or file.read(_PIECE)
            piece = inflater.decompress(deflated, 16 * _PIECE)
            is_cut = not (deflated or piece)
            size += len(piece)
            if len(content) < INFLATE_LIMIT:
                content += piece
    except zlib.error as exc:
        raise NotUnderstood("the deflated data set cannot be inflated") from exc
    rest = size - len(content) if inflater.eof or is_cut else _UNDEFINED
    return bytes(content), is_cut, rest


def _wanted_values(
    file: IO[bytes],
    transfer_syntax_uid: str,
    tags: Mapping[int, str],
    *,
    is_new: bool,
    most: int = MAX_ELEMENTS,
    rest: int = 0,
) -> Iterator[tuple[int, bytes]]:
    """Yield tag and value of the top-level elements that are wanted.

    A new file is looked at up to the end of its pixels, any other up to their beginning, since
    elements may stand out of order (against PS3.5 7.1). `rest` bytes more may follow what `file`
    has.
    """
    start = file.tell()
    end = file.seek(0, os.SEEK_END) + rest if is_new else 0
    file.seek(start)
    first = file.read(8)
    file.seek(start)
    order = ">" if transfer_syntax_uid == BIG_ENDIAN else "<"
    # some senders encode otherwise than they negotiated; the first element shows it
    implicit_levels = [not _is_vr(first[4:6])]
    formats = _Formats(order)
    at = start
    for _ in range(most):
        element = _next_element(file, formats, implicit_levels[-1])
        if element is None:
            if is_new and not rest and (at < end or len(implicit_levels) > 1):
                raise NotUnderstood(CUT_OFF)
            return
        tag, vr, length, size = element
        at += size
        is_top = len(implicit_levels) == 1
        if is_new and is_top and tag in (_ITEM, _ITEM_END):
            # pydicom takes the one for an element, and the other for the end of the data set
            raise NotUnderstood("an item stands outside of a sequence")
        if tag in (_ITEM_END, _SEQUENCE_END):
            # a delimiter that closes nothing is passed over: the level never falls below the top
            if len(implicit_levels) > 1:
                implicit_levels.pop()
            continue
        if is_top and tag == _CONTENT and not is_new:
            return
        if is_top and tag in _PIXELS:
            if is_new:
                _check_pixels(file, formats, at, length, end)
            return
        if length == _UNDEFINED:
            if is_new and is_top and tag in tags:
                # pydicom would take it for the value, and this walk one that stands beside it
                raise NotUnderstood(f"{tags[tag]} is a sequence")
            if len(implicit_levels) > DEPTH_LIMIT:
                raise NotUnderstood("sequences are nested too deeply")
            # PS3.5 6.2.2: UN of undefined length holds Implicit VR items
            implicit_levels.append(implicit_levels[-1] or vr == b"UN")
            continue
        if is_new and length > end - at:
            raise NotUnderstood(CUT_OFF)
        if is_top and (tag in tags or tag == _CHARACTER_SET):
            yield tag, file.read(min(length, VALUE_LIMIT))
            # a value that never ends costs `VALUE_LIMIT` of memory
            file.seek(max(0, length - VALUE_LIMIT), os.SEEK_CUR)
        else:
            file.seek(length, os.SEEK_CUR)
        at += length
    raise NotUnderstood(f"more than {most} elements")


def _check_pixels(file: IO[bytes], formats: _Formats, at: int, length: int, end: int) -> None:
    """Raise where Pixel Data, or one of its fragments, reaches beyond the end of the file.

    Whole archives are without the delimiter, or have NULs in its place: their pixels are there.
    Others count the byte that pads an odd length and do not write it.
    """
    end += 1
    if length != _UNDEFINED:
        if length > end - at:
            raise NotUnderstood(CUT_OFF)
        return
    for _ in range(MAX_FRAGMENTS):
        item = _next_element(file, formats, implicit=True)
        if item is None:
            file.seek(at)
            if file.read(4).startswith(_ITEM_TAG):
                raise NotUnderstood(CUT_OFF)
            return
        if item[0] != _ITEM:
            return
        # fragments have a length of their own (PS3.5 A.4): none of them is undefined
        at += 8 + item[2]
        if at > end:
            raise NotUnderstood(CUT_OFF)
        file.seek(at)


class _Formats:
    """How the head of an element is packed in one byte order."""

    def __init__(self, order: str) -> None:
        self.implicit = struct.Struct(f"{order}HHL").unpack
        self.explicit = struct.Struct(f"{order}HH2sH").unpack
        self.long = struct.Struct(f"{order}L").unpack


def _next_element(
    file: IO[bytes], formats: _Formats, implicit: bool
) -> tuple[int, bytes, int, int] | None:
    """Return tag, VR and length of the next element, and of its head; None at the end."""
    head = file.read(8)
    if len(head) < 8:
        return None
    # both forms begin alike (PS3.5 7.1.2 and 7.1.3): tag first, whatever follows
    group, element, vr, length = formats.explicit(head)
    tag = group << 16 | element
    if implicit or group == 0xFFFE or not _is_vr(vr):
        return tag, b"", formats.implicit(head)[2], 8
    if vr not in _LONG:
        return tag, vr, length, 8
    more = file.read(4)
    return (tag, vr, formats.long(more)[0], 12) if len(more) == 4 else None


def _is_vr(vr: bytes) -> bool:
    return vr.isalpha() and vr.isupper()


def _ascii_text(value: bytes) -> str:
    return value.decode("ascii", "replace").strip(" \0")


def defined_character_sets(declared: Iterable[str]) -> list[str]:
    """Return the Defined Terms (PS3.3 C.12.1.1.2) that an object means by its Character Set.

    Misspelled ones are corrected, and what is none of them is Latin-1, which decodes whatever
    comes: pydicom would take any codec of Python, ``punycode`` or ``utf-16``. Those that go without
    code extensions, as UTF-8 does, stand alone.
    """
    from pydicom.charset import STAND_ALONE_ENCODINGS, python_encoding

    found = []
    for name in declared:
        term = name.strip(" \0").upper()
        if registered := _REGISTERED.fullmatch(term):
            term = f"{'ISO 2022 IR' if registered[1] else 'ISO_IR'} {registered[2]}"
        elif term.replace("-", "").replace("_", "") == "UTF8":
            term = "ISO_IR 192"
        found.append(term if term in python_encoding else "ISO_IR 100")
    if found and found[0] in STAND_ALONE_ENCODINGS:
        return found[:1]
    return [*found[:1], *(term for term in found[1:] if term not in STAND_ALONE_ENCODINGS)] or [""]


def text_for_reports(value: bytes, character_sets: list[str]) -> str:
    """Return the text of an LO or SH element as an object that is made from it takes it.

    pydicom's way, which `worker.report` goes: it differs from what rules and people see in what
    breaks the rules of ISO 2022, and keeps control characters.
    """
    from pydicom.charset import convert_encodings, decode_bytes
    from pydicom.valuerep import TEXT_VR_DELIMS

    codecs = convert_encodings(defined_character_sets(character_sets))
    parts = decode_bytes(value, codecs, TEXT_VR_DELIMS).split("\\")
    return without_escapes("\\".join(part.rstrip("\0 ") for part in parts))


def without_escapes(text: str) -> str:
    """Return decoded text without what pydicom leaves of escape sequences: UTF-8 has none."""
    return _ESCAPE.sub("", text).replace("\x1b", "") if "\x1b" in text else text


def _decode_text(value: bytes, character_sets: list[str]) -> str:
    """Return clean text; what cannot be decoded is replaced, and is never a reason to refuse."""
    value = value.rstrip(b" \0")
    if value.isascii() and b"\x1b" not in value:
        return clean(value.decode("ascii"))
    from pydicom.charset import decode_bytes, python_encoding

    # a wrong letter is better than a refused image
    codecs = [python_encoding[name] for name in defined_character_sets(character_sets)]
    try:
        if len(codecs) > 1 or b"\x1b" in value:
            # pydicom leaves the escape sequence of ISO 2022 IR 58 in the text
            return clean(without_escapes(decode_bytes(value, codecs, {0x5E, 0x3D})))
        return clean(value.decode(codecs[0], "replace"))
    except (LookupError, ValueError, Warning):
        return clean(value.decode("latin-1"))
