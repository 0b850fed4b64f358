"""Reads a Part 10 file that nobody vouches for, without its pixels being touched."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydicom import Dataset, FileDataset
from pydicom.charset import convert_encodings
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileMetaDataset
from pydicom.filereader import read_dataset, read_partial, read_preamble
from pydicom.tag import BaseTag
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicom_node.base.errors import Rejected
from dicom_node.base.rims import foreign_code
from dicom_node.standard.header import defined_character_sets
from dicom_node.standard.unreadable import UNREADABLE
from worker.image import elements

MOST_BYTES = 160 << 20
"""The largest legal picture and a large header."""

_MOST_READS = 30_000
"""Elements, items and fragments; a radiograph has some hundreds."""

_PIXEL_DATA, _ICON, _UNDEFINED = 0x7FE00010, 0x00880200, 0xFFFFFFFF
_COPIED = 1 << 20
"""Bytes of Pixel Data below which a copy costs nothing."""

_LONGEST = 1 << 16
"""Bytes of several texts or numbers; millions of them would take minutes to understand."""
_LARGEST_TABLE = 1 << 17
"""Bytes of 65536 entries (PS3.3 C.11.1.1)."""
_LONG = frozenset({"OB", "OW", "OF", "OD", "OL", "OV", "SQ", "UN", "OB or OW", "ST", "LT", "UT"})
"""VRs of one value however long, which is not taken apart (PS3.5 Table 6.2-1), and of items."""

_DEFLATED = "1.2.840.10008.1.2.1.99"


class _Endless(ValueError):
    """The header has more elements, or more values, than anybody reads."""


class _File(io.BytesIO):
    """A file in memory that ends the reading of endless headers and stops before the pixels."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.content = content
        self.pixels: tuple[str | None, int, int] | None = None
        """Value representation, length and place of Pixel Data, once they are reached."""
        self.last_at, self.last_tag = 0, 0
        """Where the last element begins that was looked at."""
        self.stops_at = -1
        """Where the reading is to end although the header goes on."""
        self._reads = 0

    def read(self, size: int | None = -1, /) -> Any:
        self._reads += 1
        # pydicom reads each element by itself, so calls are a measure of elements: a file of a
        # million empty ones would take minutes.
        if self._reads > _MOST_READS:
            raise _Endless("too many elements")
        return super().read(size)

    def note_place(self, tag: BaseTag, vr: str | None, length: int) -> bool:
        """Note where the reading is; return whether it ends here."""
        if tag == _PIXEL_DATA:
            self.pixels = (vr, length, self.tell())
            return True
        if tag >> 16 != 2:
            self.last_at, self.last_tag = self.tell(), int(tag)
        if _LONGEST < length != _UNDEFINED and not _may_be_long(tag, vr):
            raise _Endless("a value is too long")
        return self.tell() == self.stops_at

    def reread(self, stops_at: int) -> _File:
        """Return the same file, to be read up to `stops_at`."""
        fresh = _File(self.content)
        fresh.stops_at = stops_at
        return fresh


def read(content: bytes | Path) -> Dataset:
    """Return the data set of a Part 10 file.

    Parameters
    ----------
    content : bytes or Path
        The file or where it lies. A data set without file meta information is read too.

    Returns
    -------
    Dataset
        With ``file_meta`` and its Transfer Syntax UID.

    Raises
    ------
    Rejected
        ``not-dicom``: it cannot be read, or is larger than any radiograph.
    """
    if isinstance(content, Path):
        if content.stat().st_size > MOST_BYTES:
            raise Rejected("not-dicom", f"The file is larger than {MOST_BYTES >> 20} MiB.")
        content = content.read_bytes()
    if len(content) > MOST_BYTES:
        raise Rejected("not-dicom", f"The file is larger than {MOST_BYTES >> 20} MiB.")

    def reject_unreadable(exc: BaseException) -> Rejected:
        what = f"The bytes cannot be read as DICOM ({type(exc).__name__})."
        return Rejected("not-dicom", what)

    with foreign_code(reject_unreadable):  # pydicom raises anything
        ds = _parse_file(content)
        _define_character_sets(ds)
        _check_tables(ds)
        has_class = bool(elements.word(ds, "SOPClassUID"))
    if not has_class:
        raise Rejected("not-dicom", "The bytes hold no DICOM Instance: no SOP Class UID.")
    return ds


def _define_character_sets(ds: Dataset) -> None:
    """Let texts be read as the node reads them, whatever the object calls its character set."""
    # as they stand there: pydicom does not know a term that has a blank before or behind it
    declared = [str(name) for name in elements.values(ds, "SpecificCharacterSet")]
    defined = defined_character_sets(declared)
    if declared and declared != defined:
        ds.SpecificCharacterSet = defined
        implicit_vr, is_little_endian = ds.original_encoding
        ds.set_original_encoding(implicit_vr, is_little_endian, convert_encodings(defined))


def _check_tables(ds: Dataset) -> None:
    for keyword in ("ModalityLUTSequence", "VOILUTSequence"):
        for item in elements.items(ds, keyword):
            found = elements.unread(item, "LUTData")
            if isinstance(found, bytes) and len(found) > _LARGEST_TABLE:
                raise ValueError("a table is too long")


def _parse_file(content: bytes) -> Dataset:
    source = _File(content)
    preamble = read_preamble(source, force=True)
    start = source.tell()
    meta = read_dataset(source, False, True, stop_when=_is_beyond_meta)
    if not elements.word(meta, "TransferSyntaxUID"):
        # pydicom would try this too, and inflate without a bound.
        # Implicit VR meta information is against PS3.10 7.1, and some old files have it.
        source.seek(start)
        meta = read_dataset(source, True, True, stop_when=_is_beyond_meta)
    if elements.word(meta, "TransferSyntaxUID") == _DEFLATED:
        source = _File(_inflate_bounded(memoryview(content)[source.tell() :]))

        def parse(file: _File) -> Dataset:
            ds = read_dataset(file, False, True, stop_when=file.note_place)
            whole = FileDataset(file, ds, preamble, FileMetaDataset(meta), False, True)
            whole.set_original_encoding(False, True, ds._character_set)
            return whole
    else:

        def parse(file: _File) -> Dataset:
            file.seek(0)
            return read_partial(file, file.note_place, force=True)

    ds, source = _up_to_a_fault(parse, source)
    _take_pixels(ds, source)
    if not elements.transfer_syntax(ds):
        implicit_vr, is_little_endian = ds.original_encoding
        little_endian = ImplicitVRLittleEndian if implicit_vr else ExplicitVRLittleEndian
        ds.file_meta.TransferSyntaxUID = little_endian if is_little_endian else ExplicitVRBigEndian
    return ds


def _up_to_a_fault(parse: Callable[[_File], Dataset], source: _File) -> tuple[Dataset, _File]:
    """Return the data set; of a broken file, what stands before its fault."""
    try:
        ds = parse(source)
        # Where a file ends within an element, pydicom warns and gives up all that it has read.
        if source.pixels is not None or "SOPClassUID" in ds or not source.last_at:
            return ds, source
    except (RecursionError, _Endless):
        raise
    except UNREADABLE:
        if not source.last_at:
            raise
    shorter = source.reread(source.last_at)
    ds = parse(shorter)
    # An attribute of Python, no element: `header.read` asks for it.
    ds.broken_at = f"({source.last_tag >> 16:04X},{source.last_tag & 0xFFFF:04X})"
    return ds, shorter


def _take_pixels(ds: Dataset, source: _File) -> None:
    """Put Pixel Data into the data set, as much as the file holds and without a copy.

    pydicom wants the delimiter of encapsulated Pixel Data (PS3.5 A.4) and gives up the whole file
    where it is missing, as in files of some devices and archives.
    """
    implicit_vr, is_little_endian = ds.original_encoding
    if source.pixels is None and (ds.get_item(_ICON) or ds.__dict__.get("broken_at")):
        _find_pixels(ds, source)
    if source.pixels is None:
        return
    vr, length, start = source.pixels
    end = len(source.content) if length == _UNDEFINED else start + length
    value: Any = memoryview(source.content)[start:end]
    if len(value) < _COPIED or length == _UNDEFINED:
        value = bytes(value)
    tag = BaseTag(_PIXEL_DATA)
    ds[tag] = RawDataElement(
        tag, vr, length, value, start, bool(implicit_vr), bool(is_little_endian)
    )


def _find_pixels(ds: Dataset, source: _File) -> None:
    """Look for Pixel Data behind an icon that is cut short, by what their length must be."""
    implicit_vr, is_little_endian = ds.original_encoding
    sizes = [elements.integer(ds, name) or 0 for name in ("Rows", "Columns", "BitsAllocated")]
    wanted = sizes[0] * sizes[1] * (sizes[2] // 8)
    if not (wanted and is_little_endian):
        return
    heads = [(b"", None)] if implicit_vr else [(b"OW\0\0", "OW"), (b"OB\0\0", "OB")]
    for vr_bytes, vr in heads:
        for length in (wanted, wanted + wanted % 2, _UNDEFINED):
            head = b"\xe0\x7f\x10\x00" + vr_bytes + length.to_bytes(4, "little")
            # The last such place: an icon before it may have Pixel Data of the same length.
            at = source.content.rfind(head, source.last_at) + len(head)
            fits = length == _UNDEFINED or at + length <= len(source.content)
            if at >= len(head) and fits:
                source.pixels = (vr, length, at)
                return


def _may_be_long(tag: BaseTag, vr: str | None) -> bool:
    # Implicit and unknown VR are what the dictionary says, once somebody asks for the value; a
    # table of the dictionary's "US or OW" is taken as words.
    is_known = dictionary_has_tag(tag)
    meant = dictionary_VR(tag) if vr in (None, "UN") and is_known else vr or "UN"
    return meant in _LONG or meant.endswith("OW")


def _is_beyond_meta(tag: BaseTag, vr: str | None, length: int) -> bool:
    return tag >> 16 != 2


def _inflate_bounded(deflated: memoryview) -> bytes:
    """Return the data set, but first see how large it gets, without keeping it."""
    inflate, size, rest = zlib.decompressobj(-zlib.MAX_WBITS), 0, bytes(deflated)
    while rest and not inflate.eof:
        size += len(inflate.decompress(rest, 1 << 20))
        rest = inflate.unconsumed_tail
        if size > MOST_BYTES:
            raise Rejected("not-dicom", f"The data set inflates to over {MOST_BYTES >> 20} MiB.")
    # Raw deflate without a zlib head (PS3.5 A.5).
    return zlib.decompressobj(-zlib.MAX_WBITS).decompress(deflated)
