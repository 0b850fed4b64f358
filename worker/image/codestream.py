"""Reads what a codestream says of itself, before anything is decoded."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace

from pydicom import Dataset

from dicom_node.base.errors import Rejected
from worker.image import header

RLE = "1.2.840.10008.1.2.5"
_ITEM, _DELIMITER = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
_SIZ, _JP2 = b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP  \r\n\x87\n"
_TRAILER, _FILE_HEAD = 64, 4096
_FRAME = struct.Struct(">BHHB")
"""Sample precision, lines, samples per line and components of a JPEG frame header."""
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}
_SOS, _DRI = 0xDA, 0xDD
_SOT = b"\xff\x90"
_MOST_SEGMENTS, _MOST_FRAGMENTS, _MOST_TILE_PARTS = 1_000, 30_000, 100_000
"""Far more than any radiograph has: counting them must not take long either."""


def frame(content: bytes) -> memoryview:
    """Return the only frame of encapsulated Pixel Data (PS3.5 A.4), all its fragments."""
    fragments, at, whole = [], 0, memoryview(content)
    while at + 8 <= len(content):
        tag, length = struct.unpack("<4sI", whole[at : at + 8])
        if tag == _DELIMITER:
            break
        if tag != _ITEM or at + 8 + length > len(content):
            raise Rejected("undecodable", "Pixel Data is not properly encapsulated.")
        fragments.append(whole[at + 8 : at + 8 + length])
        at += 8 + length
        if len(fragments) > _MOST_FRAGMENTS:
            raise Rejected("undecodable", "Pixel Data come in too many fragments.")
    # The first item is the offset table, empty or not.
    found = fragments[1] if len(fragments) == 2 else memoryview(b"".join(fragments[1:]))
    if bytes(found[:12]) == _JP2:
        # A JP2 file instead of its codestream: forbidden (PS3.5 A.4.4), yet archives hold some.
        return found[max(bytes(found[:_FILE_HEAD]).find(_SIZ), 0) :]
    return found


@dataclass(frozen=True, slots=True)
class Codestream:
    """What a codestream says of itself."""

    codec: str
    rows: int
    columns: int
    precision: int
    is_signed: bool = False
    components: int = 1

    @property
    def dtype(self) -> str:
        """The type in which its decoder writes pixels."""
        return f"{'i' if self.is_signed else 'u'}{1 if self.precision <= 8 else 2}"


def inspect(content: memoryview, syntax: str, ds: Dataset) -> Codestream:
    """Return what the codestream's header says, without decoding.

    Raises
    ------
    Rejected
        ``undecodable``: no header is found, or the end of the codestream is missing.
        ``codestream-mismatch``: it cannot be a picture of one component.
    """
    if syntax == RLE:
        return _inspect_rle(content, ds)
    start = bytes(content[:4])
    if start.startswith(b"\xff\xd8"):
        found = _inspect_jpeg(content)
    elif start == _SIZ:
        found = _inspect_jpeg_2000(content)
    else:
        raise Rejected("undecodable", "Pixel Data holds no codestream of a known kind.")
    # EOI of JPEG and EOC of JPEG 2000 are the same, and neither occurs among coded pixels; some
    # writers pad behind it. Without this check decoders fill a cut picture silently.
    if b"\xff\xd9" not in bytes(content[-_TRAILER:]):
        raise Rejected("undecodable", "The codestream ends before its end marker.")
    return found


def _inspect_jpeg(content: memoryview) -> Codestream:
    """Return the frame header (ITU-T T.81 B.2.2, T.87 C.2.2)."""
    found, restarts = None, 0
    for marker, segment in _segments(content):
        if marker == _SOS and found is not None and found.codec == "ljpeg":
            _check_predictor(segment)
        if marker == _DRI:
            restarts = int.from_bytes(segment[:2])
        if marker in _SOF:
            if found is not None:
                raise Rejected("undecodable", "The JPEG codestream has two frame headers.")
            if len(segment) < _FRAME.size:
                raise Rejected("undecodable", "The JPEG frame header is incomplete.")
            precision, rows, columns, components = _FRAME.unpack(segment[: _FRAME.size])
            codec = {0xF7: "jpegls", 0xC3: "ljpeg"}.get(marker, "jpeg")
            found = Codestream(codec, rows, columns, precision, components=components)
    if found is None:
        raise Rejected("undecodable", "The JPEG codestream has no frame header.")
    # The decoder of "ljpeg" takes restart markers for pixels.
    return replace(found, codec="ljpeg-r") if restarts and found.codec == "ljpeg" else found


def _segments(content: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield marker and content of each segment up to the first scan, its header included."""
    at = 2
    for _ in range(_MOST_SEGMENTS):
        if at + 4 > len(content) or content[at] != 0xFF:
            return
        marker = content[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        end = at + 2 + int.from_bytes(content[at + 2 : at + 4])
        yield marker, content[at + 4 : end]
        if marker == _SOS:
            return
        at = end
    raise Rejected("undecodable", "The JPEG codestream has too many segments.")


def _check_predictor(scan: memoryview) -> None:
    """Refuse a scan of lossless JPEG whose predictor is none of seven (ITU-T T.81 H.1.2.1)."""
    if len(scan) < 6 or not 1 <= scan[3] <= 7:
        raise Rejected("undecodable", "The JPEG codestream has no known predictor.")


def _inspect_jpeg_2000(content: memoryview) -> Codestream:
    """Return the size segment (ITU-T T.800 A.5.1); bit 14 of Rsiz marks HTJ2K (T.814 A.2)."""
    if len(content) < 45:
        raise Rejected("undecodable", "The JPEG 2000 codestream has no size segment.")
    right, bottom, left, top = struct.unpack(">4I", content[8:24])
    components, depth, across, down = struct.unpack(">HBBB", content[40:45])
    if (across, down) != (1, 1):
        raise Rejected("codestream-mismatch", "The JPEG 2000 codestream is subsampled.")
    _count_tiles(content, (right, bottom, left, top))
    codec = "htj2k" if content[6] & 0x40 else "jpeg2k"
    precision, is_signed = (depth & 0x7F) + 1, bool(depth & 0x80)
    return Codestream(codec, bottom - top, right - left, precision, is_signed, components)


def _count_tiles(content: memoryview, area: tuple[int, int, int, int]) -> None:
    """Refuse a codestream without all of its tiles (T.800 A.4.2, B.3), which decoders fill."""
    right, bottom, left, top = area
    across, down, first, upper = struct.unpack(">4I", content[24:40])
    # The first tile must meet the image, or decoders disagree about where it lies.
    if not (first <= left < first + across and upper <= top < upper + down):
        raise Rejected("undecodable", "The JPEG 2000 codestream has no usable tiles.")
    expected = -(-(right - first) // across) * -(-(bottom - upper) // down)
    if expected != len(set(_tile_parts(content))):
        raise Rejected("undecodable", "The JPEG 2000 codestream lacks some of its tiles.")


def _tile_parts(content: memoryview) -> Iterator[int]:
    """Yield the tile of each tile-part."""
    at = 2
    for _ in range(_MOST_SEGMENTS):
        if content[at : at + 2] == _SOT:
            break
        at += 2 + int.from_bytes(content[at + 2 : at + 4])
    for _ in range(_MOST_TILE_PARTS):
        if content[at : at + 2] != _SOT or at + 12 > len(content):
            return
        yield int.from_bytes(content[at + 4 : at + 6])
        length = int.from_bytes(content[at + 6 : at + 10])
        if length < 14:
            # 0: this tile-part is the last and reaches to the end of the codestream.
            return
        at += length


def _inspect_rle(content: memoryview, ds: Dataset) -> Codestream:
    """Check the segment table (PS3.5 G.5); RLE says nothing of rows and columns."""
    if len(content) < 64:
        raise Rejected("undecodable", "The RLE segment table is incomplete.")
    count, *starts = struct.unpack("<16I", content[:64])
    allocated = header.integer(ds, "BitsAllocated") or 0
    if count != allocated // 8:
        raise Rejected("codestream-mismatch", "The RLE segments are not one per byte of a pixel.")
    starts = starts[:count]
    if starts != sorted(set(starts)) or starts[0] < 64 or starts[-1] >= len(content):
        raise Rejected("undecodable", "The RLE segment table points outside of Pixel Data.")
    rows, columns = header.integer(ds, "Rows") or 0, header.integer(ds, "Columns") or 0
    return Codestream("rle", rows, columns, allocated)


def compare(found: Codestream, ds: Dataset) -> None:
    """Refuse a codestream that is not the picture of which the header tells.

    Raises
    ------
    Rejected
        ``codestream-mismatch``.
    """
    rows, columns = header.integer(ds, "Rows"), header.integer(ds, "Columns")
    allocated = header.integer(ds, "BitsAllocated") or 16
    if (found.rows, found.columns, found.components) != (rows, columns, 1):
        raise Rejected(
            "codestream-mismatch",
            f"The codestream says {found.rows} x {found.columns} pixels of {found.components} "
            f"component(s), the header {rows} x {columns} of 1.",
        )
    if not 1 <= found.precision <= allocated:
        raise Rejected(
            "codestream-mismatch",
            f"The codestream says {found.precision} bits, Bits Allocated is {allocated}.",
        )
