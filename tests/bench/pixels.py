"""Times the way from a file to a 518 pixel picture, and the price of decoding behind a guard.

Run ``python tests/bench/pixels.py [repeats]``. Compared ways are interleaved; each line gives the
median and the minimum in milliseconds.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from statistics import median
from typing import Any

import imagecodecs
import numpy as np
import pydicom
from PIL import Image
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pictures import (
    HTJ2K_LOSSLESS,
    JPEG_2000_LOSSLESS,
    JPEG_EXTENDED,
    JPEG_LOSSLESS,
    JPEG_LS,
    RLE,
    compressed,
    drawn,
    instance,
    part10,
    rle,
)

from worker import grey, pixels
from worker.decode import Decoder
from worker.settings import Pixels

SIZE = (518, 518)
THREADS = min(4, os.cpu_count() or 1)


def timed(repeats: int, **ways: Callable[[], Any]) -> dict[str, tuple[float, float]]:
    """Return median and minimum of each way, taken in turns."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()
    for _ in range(repeats):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            taken[name].append(1e3 * (time.perf_counter() - began))
    return {name: (median(times), min(times)) for name, times in taken.items()}


def naive(content: bytes) -> Image.Image:
    """Go the way of most public code: pydicom's functions, full precision, then Pillow."""
    ds = pydicom.dcmread(BytesIO(content))
    x = apply_voi_lut(apply_modality_lut(ds.pixel_array, ds), ds).astype(np.float64)
    levels = ((x - x.min()) / (x.max() - x.min()) * 255).astype(np.uint8)
    return Image.fromarray(levels).resize(SIZE, Image.Resampling.BICUBIC)


def ours(content: bytes, decoder: Decoder) -> Image.Image:
    """Go the way of the worker; the resize is the processor's, with Pillow's shrink-first."""
    found = pixels.radiograph(pixels.read(content), decoder, Pixels(enough=SIZE[0]))
    picture = Image.fromarray(found.pixels)
    return picture.resize(SIZE, Image.Resampling.BICUBIC, reducing_gap=2.0)


def lent(decoder: Decoder, ds: pydicom.Dataset) -> None:
    """Decode as the worker does: the table reads the pixels where the child left them."""
    with decoder.lent(ds):
        pass


def shown(title: str, found: dict[str, tuple[float, float]]) -> None:
    """Print one line."""
    parts = [f"{name} {middle:.1f} ({least:.1f})" for name, (middle, least) in found.items()]
    print(f"{title:16}", "   ".join(parts))


def main(repeats: int) -> None:
    """Print the table."""
    load = os.getloadavg()[0]
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {load:.1f}, n = {repeats}")
    print(
        f"Python {platform.python_version()}, numpy {np.__version__}, pydicom "
        f"{pydicom.__version__}, imagecodecs {imagecodecs.__version__}; 3000 x 2500, 12 of 16 bits"
    )
    original = drawn(3000, 2500)
    window = {"WindowCenter": 2048, "WindowWidth": 4096, "PresentationLUTShape": "IDENTITY"}
    with Decoder() as decoder:
        decoder.start()
        content = part10(instance(original, **window))
        found = timed(repeats, naive=lambda: naive(content), ours=lambda: ours(content, decoder))
        shown("explicit LE", found)
        middle, least = (found["naive"][at] / found["ours"][at] for at in (0, 1))
        print(f"{'':16} {middle:.1f} times as fast ({least:.1f})")
        difference = np.abs(
            np.asarray(naive(content)).astype(int) - np.asarray(ours(content, decoder))
        )
        print(f"{'':16} largest difference {difference.max()} of 255")
        ds = pixels.read(content)
        whole = (slice(0, 3000), slice(0, 2500))
        stored = decoder.decode(ds)
        table = grey.table(ds, stored, whole)
        picture = Image.fromarray(table.apply(stored))
        shown(
            "its parts",
            timed(
                repeats,
                read=lambda: pixels.read(content),
                table=lambda: grey.table(ds, stored, whole),
                apply=lambda: table.apply(stored),
                resize=lambda: picture.resize(SIZE, Image.Resampling.BICUBIC, reducing_gap=2.0),
            ),
        )
        for name, syntax, encode, decode in SYNTAXES:
            codestream = bytes(encode(original))
            coded = compressed(instance(original), syntax, codestream)
            shown(
                name,
                timed(
                    max(repeats // 3, 3),
                    bare=lambda decode=decode, codestream=codestream: decode(codestream),
                    guarded=lambda coded=coded: lent(decoder, coded),
                ),
            )


SYNTAXES = (
    ("RLE", RLE, rle, lambda stream: imagecodecs.dicomrle_decode(stream, "<u2")),
    (
        "JPEG 12 bit",
        JPEG_EXTENDED,
        lambda a: imagecodecs.jpeg8_encode(a, level=95, bitspersample=12),
        imagecodecs.jpeg8_decode,
    ),
    (
        "JPEG Lossless",
        JPEG_LOSSLESS,
        lambda a: imagecodecs.ljpeg_encode(a, bitspersample=12),
        imagecodecs.ljpeg_decode,
    ),
    ("JPEG-LS", JPEG_LS, imagecodecs.jpegls_encode, imagecodecs.jpegls_decode),
    (
        "JPEG 2000",
        JPEG_2000_LOSSLESS,
        lambda a: imagecodecs.jpeg2k_encode(a, level=0, reversible=True, codecformat="j2k"),
        lambda stream: imagecodecs.jpeg2k_decode(stream, numthreads=THREADS),
    ),
    (
        "HTJ2K",
        HTJ2K_LOSSLESS,
        lambda a: imagecodecs.htj2k_encode(a, reversible=True),
        imagecodecs.htj2k_decode,
    ),
)

if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 15)
