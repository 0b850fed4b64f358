"""Encodes a drawn radiograph in each transfer syntax that can be made here, for self-tests."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID

Pixels = npt.NDArray[Any]

_ROOT = "1.2.840.10008.1.2"
BIG_ENDIAN = f"{_ROOT}.2"
_UNCOMPRESSED = (f"{_ROOT}.1", _ROOT, f"{_ROOT}.1.99", BIG_ENDIAN)
_RLE = f"{_ROOT}.5"
_LOSSY = {
    f"{_ROOT}.4.50": "ISO_10918_1",
    f"{_ROOT}.4.51": "ISO_10918_1",
    f"{_ROOT}.4.81": "ISO_14495_1",
    f"{_ROOT}.4.91": "ISO_15444_1",
    f"{_ROOT}.4.203": "ISO_15444_15",
}
"""Transfer syntax -> Lossy Image Compression Method (0028,2114)."""

EIGHT_BITS = f"{_ROOT}.4.50"
"""JPEG Baseline holds 8 bits: the picture's window is applied to them."""


def _known_encoders() -> dict[str, Callable[[Pixels], bytes]]:
    import imagecodecs as codecs

    def encode_jpeg(**options: Any) -> Callable[[Pixels], bytes]:
        return lambda pixels: bytes(codecs.jpeg8_encode(pixels, **options))

    def encode_jpeg2k(**options: Any) -> Callable[[Pixels], bytes]:
        return lambda pixels: bytes(codecs.jpeg2k_encode(pixels, codecformat="j2k", **options))

    def encode_htj2k(**options: Any) -> Callable[[Pixels], bytes]:
        return lambda pixels: bytes(codecs.htj2k_encode(pixels, **options))

    return {
        f"{_ROOT}.4.70": encode_jpeg(lossless=True, predictor=1, bitspersample=12),
        f"{_ROOT}.4.57": encode_jpeg(lossless=True, predictor=6, bitspersample=12),
        f"{_ROOT}.4.80": lambda pixels: bytes(codecs.jpegls_encode(pixels)),
        f"{_ROOT}.4.90": encode_jpeg2k(reversible=True, bitspersample=12),
        f"{_ROOT}.4.201": encode_htj2k(reversible=True),
        f"{_ROOT}.4.202": encode_htj2k(reversible=True, tlm=True),
        _RLE: _encode_rle,
        f"{_ROOT}.4.50": encode_jpeg(level=95),
        f"{_ROOT}.4.51": encode_jpeg(level=95, bitspersample=12),
        f"{_ROOT}.4.81": lambda pixels: bytes(codecs.jpegls_encode(pixels, level=3)),
        f"{_ROOT}.4.91": encode_jpeg2k(level=70, reversible=False, bitspersample=12),
        f"{_ROOT}.4.203": encode_htj2k(level=5e-5, reversible=False),
    }


def _encode_rle(pixels: Pixels) -> bytes:
    from pydicom.pixels.encoders.base import RLELosslessEncoder

    rows, columns = pixels.shape
    return RLELosslessEncoder.encode(
        pixels,
        encoding_plugin="pydicom",
        rows=rows,
        columns=columns,
        samples_per_pixel=1,
        photometric_interpretation="MONOCHROME2",
        pixel_representation=0,
        bits_allocated=8 * pixels.itemsize,
        bits_stored=8 * pixels.itemsize,
        number_of_frames=1,
    )


def known_syntaxes() -> tuple[str, ...]:
    """Return the transfer syntaxes that can be made: uncompressed, lossless, lossy."""
    return (*_UNCOMPRESSED, *_known_encoders())


def encode_as(ds: Dataset, syntax: str) -> Dataset:
    """Return a copy of a drawn radiograph in another transfer syntax.

    Parameters
    ----------
    ds : Dataset
        Monochrome, one frame, 12 bits stored in 16, Explicit VR Little Endian, in memory.
    syntax : str
        One of `known_syntaxes`.
    """
    made = copy.deepcopy(ds)
    made.file_meta.TransferSyntaxUID = UID(syntax)
    pixels: Pixels = np.frombuffer(ds.PixelData, "<u2").reshape(ds.Rows, ds.Columns)
    if syntax == BIG_ENDIAN:
        made.PixelData = pixels.astype(">u2").tobytes()
    if syntax in _UNCOMPRESSED:
        made["PixelData"].VR = "OW"
        return made
    if syntax == EIGHT_BITS:
        pixels = _eight_bits(made, pixels)
    codestream = _known_encoders()[syntax](pixels)
    made.PixelData = encapsulate([codestream])
    made["PixelData"].VR = "OB"
    made["PixelData"].is_undefined_length = True
    if syntax in _LOSSY:
        made.LossyImageCompression = "01"
        made.LossyImageCompressionRatio = f"{pixels.nbytes / len(codestream):.3f}"
        made.LossyImageCompressionMethod = _LOSSY[syntax]
    return made


def _eight_bits(ds: Dataset, pixels: Pixels) -> Pixels:
    """Apply the window (PS3.3 C.11.2.1.2.1) and store what is left of it in 8 bits."""
    center, width = float(ds.WindowCenter), float(ds.WindowWidth)
    grey = (pixels - (center - 0.5)) / (width - 1) + 0.5
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8, 8, 7
    ds.WindowCenter, ds.WindowWidth = "128", "256"
    stored: Pixels = np.rint(grey.clip(0, 1) * 255).astype(np.uint8)
    return stored
