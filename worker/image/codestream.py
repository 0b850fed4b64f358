"""Reads what a codestream says of itself, before anything is decoded."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace

from dicom_node.base.errors import Rejected
from dicom_node.base.plurals import counted
from worker.image.header import Header

RLE = "1.2.840.10008.1.2.5"
ITEM = b"\xfe\xff\x00\xe0"
_SIZ, _JP2 = b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP  \r\n\x87\n"
END, _FILE_HEAD = b"\xff\xd9", 4096
_FRAME = struct.Struct(">BHHB")
"""Sample precision, lines, samples per line and components of a JPEG frame header."""
# The start of frame markers of T.81 Table B.1 without DHT (C4), JPG (C8) and DAC (CC), and that of
# JPEG-LS (T.87).
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}
_SOS, _DRI = 0xDA, 0xDD
_SOT = b"\xff\x90"
_MOST_SEGMENTS, _MOST_FRAGMENTS, _MOST_TILE_PARTS = 1_000, 30_000, 100_000
"""Far more than any radiograph has: counting them must not take long either."""


def join_frame(content: bytes) -> bytes:
    """Return the only frame of encapsulated Pixel Data (PS3.5 A.4), all its fragments.

    Delimiter, offset table and items may be missing or the last item cut: whether the frame is
    whole, the codestream itself says.

    Raises
    ------
    Rejected
        ``undecodable``: nothing is there that could be a codestream.
    """
    if _begins_codestream(content[:12]):
        return _unwrap_jp2(content)
    fragments, at = [], 0
    while at + 8 <= len(content):
        tag, length = struct.unpack("<4sI", content[at : at + 8])
        if tag != ITEM:
            # The Sequence Delimitation Item, or what a writer has put in its place.
            break
        fragments.append(content[at + 8 : at + 8 + length])
        at += 8 + length
        if len(fragments) > _MOST_FRAGMENTS:
            raise Rejected("undecodable", "Pixel Data come in too many fragments.")
    if not fragments:
        raise Rejected("undecodable", "Pixel Data is not properly encapsulated.")
    if len(fragments) > 1 and not _begins_codestream(fragments[0][:12]):
        # The first item is the offset table, empty or not.
        del fragments[0]
    return _unwrap_jp2(fragments[0] if len(fragments) == 1 else b"".join(fragments))


def _begins_codestream(start: bytes) -> bool:
    return start.startswith((b"\xff\xd8\xff", _SIZ, _JP2))


def _unwrap_jp2(found: bytes) -> bytes:
    """Return the codestream of a JP2 file: forbidden (PS3.5 A.4.4), yet archives hold some."""
    return found[max(found.find(_SIZ, 0, _FILE_HEAD), 0) :] if found.startswith(_JP2) else found


@dataclass(frozen=True, slots=True)
class Codestream:
    """What a codestream says of itself."""

    codec: str
    rows: int
    columns: int
    precision: int
    is_signed: bool = False
    components: int = 1
    size: int = 0
    """Bytes up to its end; what a writer has put behind it is not counted."""

    @property
    def dtype(self) -> str:
        """The type in which its decoder writes pixels."""
        return f"{'i' if self.is_signed else 'u'}{1 if self.precision <= 8 else 2}"


def inspect_codestream(content: bytes, syntax: str, head: Header) -> Codestream:
    """Return what the codestream's header says, without decoding.

    Raises
    ------
    Rejected
        ``undecodable``: no header is found, or the end of the codestream is missing.
        ``codestream-mismatch``: it cannot be a picture of one component.
    """
    if syntax == RLE:
        return _inspect_rle(content, head)
    start = content[:4]
    if start.startswith(b"\xff\xd8"):
        return _inspect_jpeg(content)
    if start == _SIZ:
        return _inspect_jpeg_2000(content)
    raise Rejected("undecodable", "Pixel Data holds no codestream of a known kind.")


def _find_end(content: bytes, coded_from: int) -> int:
    """Return where the codestream ends: at the first end marker behind where coded pixels begin.

    EOI of JPEG and EOC of JPEG 2000 are the same, and neither occurs among coded pixels. Some
    writers pad behind it. Without this check decoders fill a cut picture silently.
    """
    found = content.find(END, coded_from)
    if found < 0:
        raise Rejected("undecodable", "The codestream of Pixel Data ends before its end marker.")
    return found + len(END)


def _inspect_jpeg(content: bytes) -> Codestream:
    """Return the frame header (ITU-T T.81 B.2.2, T.87 C.2.2)."""
    found, restarts, scan = None, 0, 2
    for marker, segment, end in _marker_segments(content):
        scan = end
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
    found = replace(found, size=_find_end(content, scan))
    # The decoder of "ljpeg" takes restart markers for pixels.
    return replace(found, codec="ljpeg-r") if restarts and found.codec == "ljpeg" else found


def _marker_segments(content: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Yield marker, content and end of each segment up to the first scan, its header included."""
    at = 2
    for _ in range(_MOST_SEGMENTS):
        if at + 4 > len(content) or content[at] != 0xFF:
            return
        marker = content[at + 1]
        # Any marker may be preceded by fill bytes FF (T.81 B.1.1.2).
        if marker == 0xFF:
            at += 1
            continue
        end = at + 2 + int.from_bytes(content[at + 2 : at + 4])
        yield marker, content[at + 4 : end], end
        if marker == _SOS:
            return
        at = end
    raise Rejected("undecodable", "The JPEG codestream has too many segments.")


def _check_predictor(scan: bytes) -> None:
    """Refuse a scan of lossless JPEG whose predictor is none of seven (ITU-T T.81 H.1.2.1)."""
    if len(scan) < 6 or not 1 <= scan[3] <= 7:
        raise Rejected("undecodable", "The JPEG codestream has no known predictor.")


def _inspect_jpeg_2000(content: bytes) -> Codestream:
    """Return the size segment (ITU-T T.800 A.5.1); bit 14 of Rsiz marks HTJ2K (T.814 A.2)."""
    if len(content) < 45:
        raise Rejected("undecodable", "The JPEG 2000 codestream has no size segment.")
    right, bottom, left, top = struct.unpack(">4I", content[8:24])
    components, depth, across, down = struct.unpack(">HBBB", content[40:45])
    if (across, down) != (1, 1):
        raise Rejected("codestream-mismatch", "The JPEG 2000 codestream is subsampled.")
    size = _count_tiles(content, (right, bottom, left, top))
    codec = "htj2k" if content[6] & 0x40 else "jpeg2k"
    # Ssiz: the highest bit is the sign, the others are the precision less one (T.800 Table A.11).
    precision, is_signed = (depth & 0x7F) + 1, bool(depth & 0x80)
    rows, columns = bottom - top, right - left
    return Codestream(codec, rows, columns, precision, is_signed, components, size)


def _count_tiles(content: bytes, area: tuple[int, int, int, int]) -> int:
    """Return where the codestream ends; refuse it without all of its tiles, which decoders fill.

    See T.800 A.4.2 and B.3.
    """
    right, bottom, left, top = area
    across, down, first, upper = struct.unpack(">4I", content[24:40])
    # The first tile must meet the image, or decoders disagree about where it lies.
    if not (first <= left < first + across and upper <= top < upper + down):
        raise Rejected("undecodable", "The JPEG 2000 codestream has no usable tiles.")
    # Rounded up in both directions: tiles at the edge may be cut.
    expected = -(-(right - first) // across) * -(-(bottom - upper) // down)
    tiles, end = _tile_parts(content)
    if expected != len(tiles):
        raise Rejected("undecodable", "The JPEG 2000 codestream lacks some of its tiles.")
    # Without its end marker a codestream is whole all the same if its last tile-part is.
    return len(content) if end == len(content) else _find_end(content, end)


def _tile_parts(content: bytes) -> tuple[set[int], int]:
    """Return the tiles that have a part, and where the last part ends."""
    at, tiles = 2, set()
    for _ in range(_MOST_SEGMENTS):
        if content[at : at + 2] == _SOT:
            break
        at += 2 + int.from_bytes(content[at + 2 : at + 4])
    for _ in range(_MOST_TILE_PARTS):
        if content[at : at + 2] != _SOT or at + 12 > len(content):
            break
        # SOT: marker, length, tile index (2 bytes), length of the tile-part (4), number (1), count
        # (1).
        tiles.add(int.from_bytes(content[at + 4 : at + 6]))
        length = int.from_bytes(content[at + 6 : at + 10])
        if length < 14:
            # 0: this tile-part is the last and reaches to the end of the codestream.
            at += 12
            break
        at += length
    return tiles, at


def _inspect_rle(content: bytes, head: Header) -> Codestream:
    """Check the segment table (PS3.5 G.5); RLE says nothing of rows and columns."""
    if len(content) < 64:
        raise Rejected("undecodable", "The RLE segment table of Pixel Data is incomplete.")
    count, *starts = struct.unpack("<16I", content[:64])
    allocated = head.bits_allocated or 0
    if count != allocated // 8:
        raise Rejected("codestream-mismatch", "The RLE segments are not one per byte of a pixel.")
    starts = starts[:count]
    if starts != sorted(set(starts)) or starts[0] < 64 or starts[-1] >= len(content):
        raise Rejected("undecodable", "The RLE segment table points outside of Pixel Data.")
    return Codestream("rle", head.rows, head.columns, allocated, size=len(content))


def check_shape(found: Codestream, head: Header) -> None:
    """Refuse a codestream that is not the picture of which the header tells.

    Raises
    ------
    Rejected
        ``codestream-mismatch``.
    """
    allocated = head.bits_allocated or 16
    if (found.rows, found.columns, found.components) != (head.rows, head.columns, 1):
        components = counted(found.components, "component")
        raise Rejected(
            "codestream-mismatch",
            f"The codestream says {found.rows} x {found.columns} pixels of {components}, "
            f"the header {head.rows} x {head.columns} of 1.",
        )
    if not 1 <= found.precision <= allocated:
        raise Rejected(
            "codestream-mismatch",
            f"The codestream says {found.precision} bits, Bits Allocated is {allocated}.",
        )
