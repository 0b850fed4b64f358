"""Reads a Part 10 file that nobody vouches for, without its pixels being touched."""

from __future__ import annotations

import io
import warnings
import zlib
from pathlib import Path
from typing import Any

from pydicom import Dataset, FileDataset
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataset import FileMetaDataset
from pydicom.filereader import read_dataset, read_partial, read_preamble
from pydicom.tag import BaseTag
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicom_node.base.errors import Rejected
from worker.image import header

# pydicom quotes odd values in its warnings, and values are patient data.
warnings.filterwarnings("ignore", category=UserWarning, module="pydicom")

MOST_BYTES = 160 << 20
"""The largest legal picture and a large header."""

_MOST_READS = 30_000
"""Elements, items and fragments; a radiograph has some hundreds."""

_PIXEL_DATA, _UNDEFINED = 0x7FE00010, 0xFFFFFFFF
_COPIED = 1 << 20
"""Bytes of Pixel Data below which a copy costs nothing."""

_LONGEST = 1 << 16
"""Bytes of several texts or numbers; millions of them would take minutes to understand."""
_LARGEST_TABLE = 1 << 17
"""Bytes of 65536 entries (PS3.3 C.11.1.1)."""
_LONG = frozenset({"OB", "OW", "OF", "OD", "OL", "OV", "SQ", "UN", "OB or OW", "ST", "LT", "UT"})
"""VRs of one value however long, which is not taken apart (PS3.5 Table 6.2-1), and of items."""

_DEFLATED = "1.2.840.10008.1.2.1.99"


class _File(io.BytesIO):
    """A file in memory that ends the reading of endless headers, and does not copy pixels."""

    _reads, _is_at_pixels = 0, False

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self._content = memoryview(content)

    def read(self, size: int | None = -1, /) -> Any:
        self._reads += 1
        if self._reads > _MOST_READS:
            raise ValueError("too many elements")
        if size is None or size < _COPIED or not self._is_at_pixels:
            return super().read(size)
        start = self.tell()
        return self._content[start : self.seek(min(start + size, len(self._content)))]

    def mark(self, tag: BaseTag, vr: str | None, length: int) -> bool:
        """Note whether the next value is that of Pixel Data; the reading never stops here."""
        self._is_at_pixels = tag == _PIXEL_DATA and length != _UNDEFINED
        if _LONGEST < length != _UNDEFINED and not _may_be_long(tag, vr):
            raise ValueError("a value is too long")
        return False


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
    try:
        ds = _parsed(content)
        _check_tables(ds)
        has_class = bool(header.word(ds, "SOPClassUID"))
    except Rejected:
        raise
    except Exception as exc:
        name = type(exc).__name__
        raise Rejected("not-dicom", f"The bytes cannot be read as DICOM ({name}).") from exc
    if not has_class:
        raise Rejected("not-dicom", "The bytes hold no DICOM Instance: no SOP Class UID.")
    return ds


def _check_tables(ds: Dataset) -> None:
    for keyword in ("ModalityLUTSequence", "VOILUTSequence"):
        for item in header.items(ds, keyword):
            found = header.unread(item, "LUTData")
            if isinstance(found, bytes) and len(found) > _LARGEST_TABLE:
                raise ValueError("a table is too long")


def _parsed(content: bytes) -> Dataset:
    source = _File(content)
    preamble = read_preamble(source, force=True)
    start = source.tell()
    meta = read_dataset(source, False, True, stop_when=_is_beyond_meta)
    if not header.word(meta, "TransferSyntaxUID"):
        # pydicom would try this too, and inflate without a bound.
        source.seek(start)
        meta = read_dataset(source, True, True, stop_when=_is_beyond_meta)
    if header.word(meta, "TransferSyntaxUID") == _DEFLATED:
        found = _File(_inflated(memoryview(content)[source.tell() :]))
        ds = read_dataset(found, False, True, stop_when=found.mark)
        whole = FileDataset(found, ds, preamble, FileMetaDataset(meta), False, True)
        whole.set_original_encoding(False, True, ds._character_set)
        return whole
    source.seek(0)
    ds = read_partial(source, source.mark, force=True)
    if not header.transfer_syntax(ds):
        implicit_vr, is_little_endian = ds.original_encoding
        little_endian = ImplicitVRLittleEndian if implicit_vr else ExplicitVRLittleEndian
        ds.file_meta.TransferSyntaxUID = little_endian if is_little_endian else ExplicitVRBigEndian
    return ds


def _may_be_long(tag: BaseTag, vr: str | None) -> bool:
    # Implicit and unknown VR are what the dictionary says, once somebody asks for the value.
    is_known = dictionary_has_tag(tag)
    return (dictionary_VR(tag) if vr in (None, "UN") and is_known else vr or "UN") in _LONG


def _is_beyond_meta(tag: BaseTag, vr: str | None, length: int) -> bool:
    return tag >> 16 != 2


def _inflated(deflated: memoryview) -> bytes:
    """Return the data set, but first see how large it gets, without keeping it."""
    inflate, size, rest = zlib.decompressobj(-zlib.MAX_WBITS), 0, bytes(deflated)
    while rest and not inflate.eof:
        size += len(inflate.decompress(rest, 1 << 20))
        rest = inflate.unconsumed_tail
        if size > MOST_BYTES:
            raise Rejected("not-dicom", f"The data set inflates to over {MOST_BYTES >> 20} MiB.")
    return zlib.decompressobj(-zlib.MAX_WBITS).decompress(deflated)
