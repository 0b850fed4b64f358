"""Builds radiograph Instances of any pixels and header for tests."""

from __future__ import annotations

import io
import struct
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID

EXPLICIT = "1.2.840.10008.1.2.1"
RLE = "1.2.840.10008.1.2.5"
JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
JPEG_LOSSLESS = "1.2.840.10008.1.2.4.70"
JPEG_LS = "1.2.840.10008.1.2.4.80"
JPEG_LS_NEAR = "1.2.840.10008.1.2.4.81"
JPEG_2000_LOSSLESS = "1.2.840.10008.1.2.4.90"
JPEG_2000 = "1.2.840.10008.1.2.4.91"
HTJ2K_LOSSLESS = "1.2.840.10008.1.2.4.201"

Array = npt.NDArray[Any]


def drawn(rows: int = 300, columns: int = 280, bits: int = 12, seed: int = 0) -> Array:
    """Return a smooth unsigned picture with some noise that uses all of `bits`."""
    rng = np.random.default_rng(seed)
    down, across = np.mgrid[0:rows, 0:columns]
    waves = (
        np.sin(down / 37.0) + np.cos(across / 23.0) + 0.02 * rng.standard_normal((rows, columns))
    )
    scaled = (waves - waves.min()) / (waves.max() - waves.min()) * ((1 << bits) - 1)
    return scaled.astype(np.uint8 if bits <= 8 else np.uint16)


def instance(pixels: Array, bits: int = 12, **elements: Any) -> Dataset:
    """Return a Computed Radiography Instance of uncompressed pixels; None removes an element."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = UID(EXPLICIT)
    ds.SOPClassUID, ds.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1", "2.25.7"
    ds.Modality, ds.BodyPartExamined, ds.ViewPosition = "CR", "CHEST", "PA"
    ds.PatientOrientation = ["L", "F"]
    ds.Rows, ds.Columns = pixels.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8 * pixels.dtype.itemsize, bits, bits - 1
    ds.PixelRepresentation = 1 if pixels.dtype.kind == "i" else 0
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.PixelData = pixels.tobytes()
    ds["PixelData"].VR = "OW" if pixels.dtype.itemsize == 2 else "OB"
    for keyword, value in elements.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    return ds


def compressed(ds: Dataset, syntax: str, codestream: bytes) -> Dataset:
    """Return `ds` with `codestream` as its only frame."""
    ds.file_meta.TransferSyntaxUID = UID(syntax)
    ds.PixelData = encapsulate([codestream])
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    return ds


def part10(ds: Dataset) -> bytes:
    """Return the Instance as a file."""
    file = io.BytesIO()
    ds.save_as(file, enforce_file_format=True)
    return file.getvalue()


def rle(pixels: Array) -> bytes:
    """Return one RLE frame (PS3.5 Annex G), most significant bytes first."""
    planes = pixels.view(np.uint8).reshape(*pixels.shape, pixels.dtype.itemsize)
    segments = []
    for byte in reversed(range(pixels.dtype.itemsize)):
        rows = [bytes(imagecodecs.packbits_encode(row.tobytes())) for row in planes[:, :, byte]]
        segment = b"".join(rows)
        segments.append(segment + b"\0" * (len(segment) % 2))
    starts = np.zeros(16, "<u4")
    starts[0] = len(segments)
    starts[1 : 1 + len(segments)] = 64 + np.cumsum([0, *map(len, segments)])[:-1]
    return starts.tobytes() + b"".join(segments)


def restarting(pixels: Array, lines: int) -> bytes:
    """Return JPEG Lossless (ITU-T T.81 Annex H) that starts again after so many `lines`.

    Predictor 1 and one table of codes of five bits, one for each length of a difference.
    """
    rows, columns = pixels.shape
    values = pixels.astype(np.int64)
    left = np.empty_like(values)
    left[:, 1:] = values[:, :-1]
    left[1:, 0] = values[:-1, 0]
    left[::lines, 0] = 1 << 15
    differences = (values - left + 32768) % 65536 - 32768
    intervals = []
    for top in range(0, rows, lines):
        coded = []
        for difference in differences[top : top + lines].reshape(-1).tolist():
            size = abs(difference).bit_length()
            bits = difference if difference > 0 else difference + (1 << size) - 1
            coded.append(f"{size:05b}" + (f"{bits:0{size}b}" if 0 < size < 16 else ""))
        text = "".join(coded)
        text += "1" * (-len(text) % 8)
        interval = int(text, 2).to_bytes(len(text) // 8)
        intervals.append(interval.replace(b"\xff", b"\xff\0"))
    scan = intervals[0]
    for number, interval in enumerate(intervals[1:]):
        scan += bytes([0xFF, 0xD0 + number % 8]) + interval
    head = b"\xff\xd8\xff\xc3" + struct.pack(">HBHHB3B", 11, 16, rows, columns, 1, 1, 0x11, 0)
    counts = bytes(17 if length == 5 else 0 for length in range(1, 17))
    head += b"\xff\xc4" + struct.pack(">HB", 19 + 17, 0) + counts + bytes(range(17))
    head += b"\xff\xdd" + struct.pack(">HH", 4, columns * lines)
    head += b"\xff\xda" + struct.pack(">HB5B", 8, 1, 1, 0, 1, 0, 0)
    return head + scan + b"\xff\xd9"
