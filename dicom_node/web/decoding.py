"""The decoders that come with the worker, for pydicom: what a worker reads, the pages can draw.

pydicom's own reach JPEG Lossless, 12-bit JPEG and HTJ2K only by packages that a node does not have.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from pydicom import uid
from pydicom.pixels.decoders.base import get_decoder

if TYPE_CHECKING:
    from pydicom.pixels.decoders.base import DecodeRunner

_CODECS = {
    uid.JPEGBaseline8Bit: "jpeg8",
    uid.JPEGExtended12Bit: "jpeg8",
    uid.JPEGLossless: "ljpeg",
    uid.JPEGLosslessSV1: "ljpeg",
    uid.JPEGLSLossless: "jpegls",
    uid.JPEGLSNearLossless: "jpegls",
    uid.JPEG2000Lossless: "jpeg2k",
    uid.JPEG2000: "jpeg2k",
    uid.HTJ2KLossless: "htj2k",
    uid.HTJ2KLosslessRPCL: "htj2k",
    uid.HTJ2K: "htj2k",
}
NAME = "imagecodecs"

DECODER_DEPENDENCIES = dict.fromkeys(_CODECS, ("numpy", NAME))
"""pydicom asks for it by this name."""


def is_available(syntax: str) -> bool:
    """Return whether a transfer syntax can be decoded here; pydicom asks by this name."""
    return syntax in _CODECS and find_spec(NAME) is not None


def add_decoders(syntax: str) -> None:
    """Let pydicom take our decoder of a transfer syntax where none of its own does it."""
    if not is_available(syntax):
        return
    decoder = get_decoder(uid.UID(syntax))
    if NAME not in decoder.available_plugins:
        decoder.add_plugin(NAME, (__name__, "decode_frame"))


def decode_frame(codestream: bytes, runner: DecodeRunner) -> bytes:
    """Return the pixels of a frame, colours of a pixel together."""
    import imagecodecs

    decode = getattr(imagecodecs, f"{_CODECS[uid.UID(runner.transfer_syntax)]}_decode")
    pixels = decode(codestream)
    runner.set_option("bits_allocated", 8 * pixels.itemsize)
    if pixels.ndim == 3:
        # its decoders of colours give red, green and blue, whatever the codestream holds
        runner.set_option("planar_configuration", 0)
        runner.set_option("photometric_interpretation", "RGB")
    return bytes(pixels.tobytes())
