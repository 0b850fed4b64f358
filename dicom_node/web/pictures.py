"""Frames, pictures and thumbnails (PS3.18 10.4) of own Secondary Captures and received images.

The own pages are grey or RGB, eight bits, not compressed. Their PNG is written here; JPEG needs
Pillow, which comes with the worker, and is left out without it. Received images are drawn by
`dicom_node.web.preview`, in a process of its own.
"""

from __future__ import annotations

import io
import struct
import zlib
from importlib.util import find_spec

from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_node.dimse.contexts import IMAGES
from dicom_node.store.catalogue import Stored
from dicom_node.web import preview

JPEG = "image/jpeg"
PNG = "image/png"

THUMBNAIL = 128
"""Pixels of the longer side of a thumbnail."""

LARGEST = 1 << 26
"""Pixels of a picture that is drawn here."""

_UNCOMPRESSED = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99")
_SHOWN = ("MONOCHROME1", "MONOCHROME2", "RGB")
_COLOURS = {1: 0, 3: 2}
"""Samples per pixel -> colour type of PNG."""


class Viewer:
    """Makes pictures of what has any."""

    def __init__(self) -> None:
        self._previews = preview.Previews()

    def media_types(self, stored: Stored) -> tuple[str, ...]:
        """Return as what an object can be seen, the Standard's default first; maybe nothing."""
        if stored.sop_class_uid in IMAGES:
            return () if self._previews.why_not() else (JPEG, PNG)
        return media_types() if has_picture(stored.header) else ()

    def picture(
        self, stored: Stored, kind: str, largest: int | None = None, window: str = ""
    ) -> bytes:
        """Return an object as a picture.

        Parameters
        ----------
        kind : str
            One of its `media_types`.
        largest : int, optional
            Most pixels of the longer side.
        window : str, optional
            Center, width and function, for received images; the pages have none.

        Raises
        ------
        NotFound
            It cannot be drawn.
        Busy
            Too many pictures are being drawn.
        """
        if stored.sop_class_uid in IMAGES:
            name = "JPEG" if kind == JPEG else "PNG"
            return self._previews.picture(stored.path, window or "sent", name, largest or 0)
        return picture(dcmread(stored.path), kind, largest)


def media_types() -> tuple[str, ...]:
    """Return what a picture can be had as, the Standard's default first."""
    return (JPEG, PNG) if find_spec("PIL") else (PNG,)


def has_picture(header: Dataset) -> bool:
    """Return whether an object has a frame that can be shown here, by its header."""
    meta = getattr(header, "file_meta", Dataset())
    return (
        str(meta.get("TransferSyntaxUID", "")) in _UNCOMPRESSED
        and header.get("BitsAllocated") == 8
        and header.get("SamplesPerPixel") in _COLOURS
        and str(header.get("PhotometricInterpretation", "")) in _SHOWN
        and int(header.get("NumberOfFrames") or 1) == 1
        and 0 < int(header.get("Rows") or 0) * int(header.get("Columns") or 0) <= LARGEST
        and int(header.get("PlanarConfiguration") or 0) == 0
    )


def frame(ds: Dataset) -> bytes:
    """Return the pixels of the only frame, without padding.

    Raises
    ------
    ValueError
        There are fewer than rows and columns say.
    """
    size = int(ds.Rows) * int(ds.Columns) * int(ds.SamplesPerPixel)
    pixels = bytes(ds.get("PixelData") or b"")
    if len(pixels) < size:
        raise ValueError("the pixels end before the frame does")
    return pixels[:size]


def picture(ds: Dataset, kind: str, largest: int | None = None) -> bytes:
    """Return the frame as a picture.

    Parameters
    ----------
    kind : str
        One of `media_types`.
    largest : int, optional
        Most pixels of the longer side.
    """
    rows, columns, pixels = _scaled_frame(ds, largest)
    if str(ds.PhotometricInterpretation) == "MONOCHROME1":
        pixels = pixels.translate(bytes(range(255, -1, -1)))
    samples = int(ds.SamplesPerPixel)
    if kind == PNG:
        return _encode_png(rows, columns, samples, pixels)
    from PIL import Image

    image = Image.frombytes("L" if samples == 1 else "RGB", (columns, rows), pixels)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _scaled_frame(ds: Dataset, largest: int | None) -> tuple[int, int, bytes]:
    """Return rows, columns and pixels; every n-th of each where the frame is too large."""
    rows, columns, samples = int(ds.Rows), int(ds.Columns), int(ds.SamplesPerPixel)
    pixels = frame(ds)
    step = 1 if largest is None else -(-max(rows, columns) // max(1, largest))
    if step == 1:
        return rows, columns, pixels
    width = columns * samples
    kept = []
    for row in range(0, rows, step):
        line = pixels[row * width : (row + 1) * width]
        small = bytearray(-(-columns // step) * samples)
        for sample in range(samples):
            small[sample::samples] = line[sample :: step * samples]
        kept.append(bytes(small))
    return len(kept), -(-columns // step), b"".join(kept)


def _encode_png(rows: int, columns: int, samples: int, pixels: bytes) -> bytes:
    width = columns * samples
    # Each line begins with its filter: none.
    lines = b"".join(b"\0" + pixels[row * width : (row + 1) * width] for row in range(rows))
    head = struct.pack(">LLBBBBB", columns, rows, 8, _COLOURS[samples], 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(lines, 6)), (b"IEND", b""))
    written = b"".join(
        struct.pack(">L", len(content))
        + name
        + content
        + struct.pack(">L", zlib.crc32(name + content))
        for name, content in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + written
