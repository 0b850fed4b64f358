"""A walk over the elements of a Part 10 file that trusts no byte of it.

It never recurses, reads each byte once, and refuses what two readers could read in two ways: tags
out of order or twice, a group length that points elsewhere, bytes that are left over. The file must
be in Explicit VR Little Endian, as workers write it. DICOM PS3.5 7, PS3.10 7.1.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
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
_LONG = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_SHORT = frozenset(b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split())
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


class _Level:
    """A data set or a sequence that the walk is inside of."""

    __slots__ = ("end", "is_item", "last", "path")

    def __init__(self, path: tuple[int, ...], end: int | None, is_item: bool) -> None:
        self.path = path
        """Tags of the sequences around it, and its own where it is one."""
        self.end = end
        """Where it ends; None where a delimiter ends it."""
        self.is_item = is_item
        self.last = -1
        """Tag of the element before."""


def walk(content: bytes) -> Iterator[Element]:
    """Yield every element of a Part 10 file that has a value of its own, File Meta first.

    Raises
    ------
    NotUnderstood
        The bytes are not such a file, or are more than `MAX_ELEMENTS` or `MAX_DEPTH` allow.
    """
    if content[:META_AT] != bytes(PREFIX_AT) + PREFIX:
        raise NotUnderstood("not a Part 10 file with an empty preamble")
    view = memoryview(content)
    size, at, count = len(content), 132, 0
    data_set = _data_set_at(content)
    levels = [_Level((), size, is_item=True)]
    while True:
        level = levels[-1]
        while level.end is not None and at >= level.end:
            if at > level.end:
                raise NotUnderstood("an element reaches beyond its sequence")
            levels.pop()
            if not levels:
                return
            level = levels[-1]
        count += 1
        if count > MAX_ELEMENTS:
            raise NotUnderstood(f"more than {MAX_ELEMENTS} elements")
        if at + 8 > size:
            raise NotUnderstood("it ends within an element")
        if not level.is_item:
            at = _enter_item(content, at, levels)
            continue
        group, number, vr, length = _HEAD(content, at)
        tag = group << 16 | number
        if tag == _ITEM_END:
            if level.end is not None or len(levels) == 1:
                raise NotUnderstood("an item ends twice")
            levels.pop()
            at += 8
            continue
        if tag <= level.last:
            raise NotUnderstood("its elements are not in order")
        if len(levels) == 1 and level.last >> 16 <= 2 < group and at != data_set:
            raise NotUnderstood("the length of its File Meta Information is wrong")
        level.last = tag
        at += 8
        if vr in _LONG:
            if at + 4 > size:
                raise NotUnderstood("it ends within an element")
            (length,) = _LENGTH(content, at)
            at += 4
        elif vr not in _SHORT:
            raise NotUnderstood("it is not in Explicit VR Little Endian")
        if vr == b"SQ":
            end = None if length == _UNDEFINED else at + length
            _check_end(end, level, size)
            _open_level(levels, _Level((*level.path, tag), end, is_item=False))
            continue
        if length == _UNDEFINED:
            raise NotUnderstood("an element has no length")
        _check_end(at + length, level, size)
        yield Element(level.path, tag, vr, view[at : at + length])
        at += length


def text_of(element: Element) -> str:
    """Return the value of an element of text in UTF-8; what is not is replaced."""
    return bytes(element.value).decode("utf-8", "replace").strip(" \0")


def _enter_item(content: bytes, at: int, levels: list[_Level]) -> int:
    """Enter the next item of a sequence, or leave the sequence."""
    group, number, length = _TAG_AND_LENGTH(content, at)
    tag, level = group << 16 | number, levels[-1]
    at += 8
    if tag == _SEQUENCE_END and level.end is None:
        levels.pop()
        return at
    if tag != _ITEM:
        raise NotUnderstood("a sequence holds what is not an item")
    end = None if length == _UNDEFINED else at + length
    _check_end(end, level, len(content))
    _open_level(levels, _Level(level.path, end, is_item=True))
    return at


def _check_end(end: int | None, level: _Level, size: int) -> None:
    if end is not None and end > (size if level.end is None else level.end):
        raise NotUnderstood("an element reaches beyond its end")


def _open_level(levels: list[_Level], level: _Level) -> None:
    if len(levels) >= MAX_DEPTH:
        raise NotUnderstood("sequences are nested too deeply")
    levels.append(level)


def _data_set_at(content: bytes) -> int:
    """Return where the File Meta Information says that it ends (PS3.10 7.1)."""
    if len(content) < 144 or content[132:140] != b"\x02\x00\x00\x00UL\x04\x00":
        raise NotUnderstood("it has no File Meta Information")
    return 144 + int(_LENGTH(content, 140)[0])
