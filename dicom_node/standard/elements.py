"""A walk over the elements of a Part 10 file that trusts no byte of it.

It never recurses, reads each byte once, and refuses what two readers could read in two ways: tags
out of order or twice, a group length that points elsewhere, bytes that are left over. The file must
be in Explicit VR Little Endian, as workers write it. DICOM PS3.5 7, PS3.10 7.1.
"""

from __future__ import annotations

import struct
from collections.abc import Container, Iterator
from typing import NamedTuple

from dicom_node.base.errors import NotUnderstood
from dicom_node.standard.part10 import META_AT, PREFIX, PREFIX_AT

EXPLICIT = "1.2.840.10008.1.2.1"

MAX_ELEMENTS = 100_000
"""Elements of one object: a report of some hundred findings has a tenth of it."""
MAX_DEPTH = 32
"""Open sequences and items: a report's content tree has eight."""

_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_OPEN = 1 << 62
"""In place of the end of what a delimiter ends: beyond all bytes."""

_SHORT, _LONG, _SEQUENCE = range(3)
_KINDS = {
    **dict.fromkeys(
        b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split(), _SHORT
    ),
    **dict.fromkeys(b"OB OD OF OL OV OW SV UC UN UR UT UV".split(), _LONG),
    b"SQ": _SEQUENCE,
}
"""How the length of an element is written, by its VR (PS3.5 7.1.2)."""

_HEAD = struct.Struct("<HH2sH").unpack_from
_TAG_AND_LENGTH = struct.Struct("<HHL").unpack_from
_LENGTH = struct.Struct("<L").unpack_from


class Element(NamedTuple):
    """One element that is not a sequence."""

    path: tuple[int, ...]
    """Tags of the sequences that it stands in, from the outside."""
    tag: int
    vr: bytes
    value: memoryview


def walk(content: bytes, wanted: Container[int] | None = None) -> Iterator[Element]:
    """Yield every element of a Part 10 file that has a value of its own, File Meta first.

    Parameters
    ----------
    wanted : container of int, optional
        Only elements with these tags are yielded; the others are checked all the same.

    Raises
    ------
    NotUnderstood
        The bytes are not such a file, or are more than `MAX_ELEMENTS` or `MAX_DEPTH` allow.
    """
    if content[:META_AT] != bytes(PREFIX_AT) + PREFIX:
        raise NotUnderstood("not a Part 10 file with an empty preamble")
    view = memoryview(content)
    size, at, left = len(content), 132, MAX_ELEMENTS
    data_set = _data_set_at(content)
    # The level that the walk is inside of: a data set, which is the whole or an item, or a
    # sequence. Its values are plain variables, and those of the levels around it lie on a stack:
    # each result has some hundred elements, and this took most of what its comparison takes.
    around: list[tuple[tuple[int, ...], int, int, bool, int]] = []
    path: tuple[int, ...] = ()  # tags of the sequences around, and its own where it is one
    end = size  # where it ends; _OPEN where a delimiter ends it
    limit = size  # where all that stands in it has to end
    is_item, last = True, -1  # the tag of the element before
    while True:
        while at >= end:
            if at > end:
                raise NotUnderstood("an element reaches beyond its sequence")
            if not around:
                return
            path, end, limit, is_item, last = around.pop()
        left -= 1
        if left < 0:
            raise NotUnderstood(f"more than {MAX_ELEMENTS} elements")
        if at + 8 > size:
            raise NotUnderstood("it ends within an element")
        if is_item:
            group, number, vr, length = _HEAD(content, at)
            tag = group << 16 | number
            if tag == _ITEM_END:
                if end != _OPEN:
                    raise NotUnderstood("an item ends twice")
                path, end, limit, is_item, last = around.pop()
                at += 8
                continue
            if tag <= last:
                raise NotUnderstood("its elements are not in order")
            if not around and last >> 16 <= 2 < group and at != data_set:
                raise NotUnderstood("the length of its File Meta Information is wrong")
            last = tag
            at += 8
            kind = _KINDS.get(vr)
            if kind is None:
                raise NotUnderstood("it is not in Explicit VR Little Endian")
            if kind != _SHORT:
                if at + 4 > size:
                    raise NotUnderstood("it ends within an element")
                (length,) = _LENGTH(content, at)
                at += 4
            if kind != _SEQUENCE:
                if length == _UNDEFINED:
                    raise NotUnderstood("an element has no length")
                stop = at + length
                if stop > limit:
                    raise NotUnderstood("an element reaches beyond its end")
                if wanted is None or tag in wanted:
                    yield Element(path, tag, vr, view[at:stop])
                at = stop
                continue
            inner = (*path, tag)
        else:
            group, number, length = _TAG_AND_LENGTH(content, at)
            tag = group << 16 | number
            at += 8
            if tag == _SEQUENCE_END and end == _OPEN:
                path, end, limit, is_item, last = around.pop()
                continue
            if tag != _ITEM:
                raise NotUnderstood("a sequence holds what is not an item")
            inner = path
        # a sequence in an item, or an item in a sequence
        stop = _OPEN if length == _UNDEFINED else at + length
        if stop != _OPEN and stop > limit:
            raise NotUnderstood("an element reaches beyond its end")
        if len(around) + 1 >= MAX_DEPTH:
            raise NotUnderstood("sequences are nested too deeply")
        around.append((path, end, limit, is_item, last))
        path, end, limit = inner, stop, size if stop == _OPEN else stop
        is_item, last = not is_item, -1


def text_of(element: Element) -> str:
    """Return the value of an element of text in UTF-8; what is not is replaced."""
    return bytes(element.value).decode("utf-8", "replace").strip(" \0")


def _data_set_at(content: bytes) -> int:
    """Return where the File Meta Information says that it ends (PS3.10 7.1)."""
    if len(content) < 144 or content[132:140] != b"\x02\x00\x00\x00UL\x04\x00":
        raise NotUnderstood("it has no File Meta Information")
    return 144 + int(_LENGTH(content, 140)[0])
