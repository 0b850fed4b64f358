"""Times the way from a file to a 518 pixel picture, and the price of decoding behind a guard.

Run ``python tests/bench/pixels.py [repeats]``. Compared ways are interleaved; each line gives the
median and the minimum in milliseconds. What the guard costs is the median of the differences
between a guarded decoding and the bare one just before it. A copy of the 15 MB of one picture
tells how fast the machine's memory is: 0.3 ms where the goals were set.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from statistics import median
from typing import Any

import imagecodecs
import numpy as np
import pydicom
from PIL import Image
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

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
from record import Row, row, write

from worker.image import grey, header, pixels
from worker.image.decode import Decoder
from worker.image.halving import halve_stored
from worker.image.screen import screen
from worker.settings import Pixels

SIZE = (518, 518)
THREADS = min(4, os.cpu_count() or 1)


Times = dict[str, list[float]]


def timed(repeats: int, **ways: Callable[[], Any]) -> Times:
    """Return the milliseconds of each way, taken in turns."""
    taken: Times = {name: [] for name in ways}
    for way in ways.values():
        way()
    for _ in range(repeats):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            taken[name].append(1e3 * (time.perf_counter() - began))
    return taken


def naive(content: bytes) -> Image.Image:
    """Go the way of most public code: pydicom's functions, full precision, then Pillow."""
    ds = pydicom.dcmread(BytesIO(content))
    x = apply_voi_lut(apply_modality_lut(ds.pixel_array, ds), ds).astype(np.float64)
    levels = ((x - x.min()) / (x.max() - x.min()) * 255).astype(np.uint8)
    return Image.fromarray(levels).resize(SIZE, Image.Resampling.BICUBIC)


def ours(content: bytes, decoder: Decoder, enough: int | None) -> Image.Image:
    """Go the way of the worker; the resize is the processor's, with Pillow's shrink-first."""
    found = pixels.radiograph(pixels.read(content), decoder, Pixels(enough=enough))
    picture = Image.fromarray(found.pixels)
    return picture.resize(SIZE, Image.Resampling.BICUBIC, reducing_gap=2.0)


def lent(decoder: Decoder, ds: pydicom.Dataset) -> None:
    """Decode as the worker does: the table reads the pixels where the child left them."""
    with decoder.lent(ds):
        pass


ROWS: list[Row] = []
"""What was measured so far."""


def shown(title: str, found: Times, after: str = "") -> None:
    """Print one line."""
    parts = [f"{name} {median(times):.1f} ({min(times):.1f})" for name, times in found.items()]
    anchor, *_ = found
    base = median(found[anchor])
    ROWS.extend(row(f"{title}, {name}", times, "ms", anchor, base) for name, times in found.items())
    print(f"{title:16}", "   ".join(parts), after, flush=True)


def ratio(slow: Sequence[float], fast: Sequence[float]) -> str:
    """Return how many times as fast, by medians and by minima."""
    return f"{median(slow) / median(fast):.1f} ({min(slow) / min(fast):.1f})"


def main(repeats: int) -> None:
    """Print the table."""
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, "
        f"n = {repeats}; Python {platform.python_version()}, numpy {np.__version__}, pydicom "
        f"{pydicom.__version__}, imagecodecs {imagecodecs.__version__}; 3000 x 2500, 12 of 16 bits"
    )
    original = drawn(3000, 2500)
    target = np.empty_like(original)
    shown("copy of 15 MB", timed(repeats, numpy=lambda: np.copyto(target, original)))
    window = {"WindowCenter": 2048, "WindowWidth": 4096, "PresentationLUTShape": "IDENTITY"}
    with Decoder() as decoder:
        decoder.start()
        whole_way(part10(instance(original, **window)), decoder, repeats)
        for name, syntax, encode, decode in SYNTAXES:
            codestream = bytes(encode(original))
            coded = compressed(instance(original), syntax, codestream)
            found = timed(
                max(repeats // 2, 3),
                bare=lambda decode=decode, codestream=codestream: decode(codestream),
                guarded=lambda coded=coded: lent(decoder, coded),
            )
            cost = [b - a for a, b in zip(found["bare"], found["guarded"], strict=True)]
            shares = median(found["guarded"]) / median(found["bare"])
            shown(name, found, f"  {shares:.2f} times, {median(cost):+.1f} ms")


def whole_way(content: bytes, decoder: Decoder, repeats: int) -> None:
    """Print how long an uncompressed file takes, in whole and in parts."""
    found = timed(
        repeats,
        naive=lambda: naive(content),
        full=lambda: ours(content, decoder, None),
        enough=lambda: ours(content, decoder, SIZE[0]),
    )
    shown("explicit LE", found)
    for name in ("full", "enough"):
        error = np.abs(
            np.asarray(naive(content)).astype(int)
            - np.asarray(ours(content, decoder, SIZE[0] if name == "enough" else None))
        )
        times = ratio(found["naive"], found[name])
        print(f"{'':16} {name}: {times} times as fast, at most {error.max()} of 255 apart")
    ds = pixels.read(content)
    stored, _ = halve_stored(header.read(ds), decoder.decode(ds), SIZE[0])
    whole = (slice(0, stored.shape[0]), slice(0, stored.shape[1]))
    table = grey.grey_table(header.read(ds), stored, whole, Pixels())
    levels = table.apply(stored)
    picture = Image.fromarray(levels)
    parts = timed(
        repeats,
        read=lambda: pixels.read(content),
        halve=lambda: halve_stored(header.read(ds), decoder.decode(ds), SIZE[0]),
        table=lambda: grey.grey_table(header.read(ds), stored, whole, Pixels()),
        apply=lambda: table.apply(stored),
        screen=lambda: screen(levels),
        resize=lambda: picture.resize(SIZE, Image.Resampling.BICUBIC, reducing_gap=2.0),
    )
    shown("parts of enough", parts)


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
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("repeats", type=int, nargs="?", default=15)
    parser.add_argument("--json", type=Path, help="write the figures into this file")
    given = parser.parse_args()
    main(given.repeats)
    write("pixels", ROWS, given.json)
