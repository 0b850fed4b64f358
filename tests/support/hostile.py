"""Instances that lie, each with what may come of it; run as a program, it looks at one file."""

from __future__ import annotations

import resource
import struct
import sys
import time
import warnings
import zlib
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
from pictures import (
    HTJ2K_LOSSLESS,
    JPEG_2000_LOSSLESS,
    JPEG_BASELINE,
    JPEG_LOSSLESS,
    JPEG_LS,
    RLE,
    compressed,
    drawn,
    instance,
    rle,
)
from PIL import Image
from pydicom import Dataset
from pydicom.encaps import encapsulate

IMPLICIT, DEFLATED = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1.99"
SHAPE = (300, 280)


def file(ds: Dataset, syntax: str | None = None) -> bytes:
    """Return a Part 10 file to which a report could refer."""
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "2.25.8", "2.25.9"
    if syntax:
        ds.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    content = BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds.save_as(content, enforce_file_format=True)
    return content.getvalue()


def plain(**elements: Any) -> bytes:
    """Return an uncompressed radiograph with these elements instead of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return file(instance(drawn(*SHAPE), **elements))


def huge(**values: bytes) -> bytes:
    """Return one with lengths of 32 bits and these values, which may be huge."""
    whole = file(instance(drawn(*SHAPE)), IMPLICIT)
    elements = b""
    for keyword, value in values.items():
        tag = pydicom.datadict.tag_for_keyword(keyword) or 0
        elements += struct.pack("<HHI", tag >> 16, tag & 0xFFFF, len(value)) + value
    at = whole.find(b"\xe0\x7f\x10\x00")
    return whole[:at] + elements + whole[at:]


def table_element(entries: bytes) -> bytes:
    """Return the item of a sequence: a table that says it has one entry, and is of US therefore."""
    descriptor = struct.pack("<HHIHHH", 0x28, 0x3002, 6, 1, 0, 16)
    content = descriptor + struct.pack("<HHI", 0x28, 0x3006, len(entries)) + entries
    return b"\xfe\xff\x00\xe0" + struct.pack("<I", len(content)) + content


def coded(syntax: str, codestream: bytes, bits: int = 12, **elements: Any) -> bytes:
    """Return a compressed radiograph."""
    ds = instance(drawn(*SHAPE, bits=bits), bits, **elements)
    return file(compressed(ds, syntax, codestream))


def fragments(syntax: str, parts: Sequence[bytes], table: bytes = b"") -> bytes:
    """Return one in these fragments, with this offset table."""
    ds = compressed(instance(drawn(*SHAPE)), syntax, b"xx")
    items = [table, *parts]
    ds.PixelData = b"".join(b"\xfe\xff\x00\xe0" + struct.pack("<I", len(x)) + x for x in items)
    ds.PixelData += b"\xfe\xff\xdd\xe0\0\0\0\0"
    return file(ds)


def j2k(**options: Any) -> bytes:
    """Return a codestream."""
    return bytes(imagecodecs.jpeg2k_encode(drawn(*SHAPE), level=0, codecformat="j2k", **options))


def changed(content: bytes, at: int, layout: str, *values: int) -> bytes:
    """Return the bytes with numbers put in."""
    forged = bytearray(content)
    struct.pack_into(layout, forged, at, *values)
    return bytes(forged)


def framed(content: bytes, marker: int, layout: str, *values: int) -> bytes:
    """Return a JPEG with other numbers in its frame header, behind the precision."""
    return changed(content, content.find(bytes([0xFF, marker])) + 5, layout, *values)


def baseline() -> bytes:
    """Return a JPEG of eight bits."""
    return bytes(imagecodecs.jpeg8_encode(drawn(*SHAPE, bits=8), level=90))


def ljpeg() -> bytes:
    """Return a lossless JPEG."""
    return bytes(imagecodecs.ljpeg_encode(drawn(*SHAPE), bitspersample=12))


def jpegls() -> bytes:
    """Return a JPEG-LS codestream."""
    return bytes(imagecodecs.jpegls_encode(drawn(*SHAPE)))


def rle_table(*table: int, planes: bytes | None = None) -> bytes:
    """Return RLE with another segment table or other segments."""
    good = rle(drawn(*SHAPE))
    return struct.pack(f"<{len(table)}I", *table).ljust(64, b"\0") + (planes or good[64:])


def png() -> bytes:
    """Return the bytes of a PNG."""
    content = BytesIO()
    Image.fromarray(drawn(*SHAPE, bits=8)).save(content, "PNG")
    return content.getvalue()


def lut(count: int, entries: bytes, first: int = 0, bits: int = 16) -> Dataset:
    """Return an item of a table."""
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [count, first, bits])
    item.add_new("LUTData", "OW", entries)
    return item


def without_pixels(keyword: str, vr: str) -> bytes:
    """Return one whose pixels are floats."""
    ds = instance(drawn(*SHAPE), BitsAllocated=32 if vr == "OF" else 64)
    del ds.PixelData
    ds.add_new(keyword, vr, bytes(SHAPE[0] * SHAPE[1] * (4 if vr == "OF" else 8)))
    return file(ds)


def deflated(data_set: bytes) -> bytes:
    """Return a file whose data set is these bytes, deflated."""
    whole = file(instance(drawn(256, 256)), DEFLATED)
    head = whole[: 144 + struct.unpack("<I", whole[140:144])[0]]
    deflate = zlib.compressobj(1, zlib.DEFLATED, -15)
    return head + deflate.compress(data_set) + deflate.flush()


def data_set(pixels_length: int) -> bytes:
    """Return an explicit data set, zeros for pixels, without file meta information."""
    whole = file(instance(drawn(256, 256)))
    body = whole[144 + struct.unpack("<I", whole[140:144])[0] :]
    at = body.find(b"\xe0\x7f\x10\x00OW")
    return body[: at + 8] + struct.pack("<I", pixels_length) + bytes(pixels_length)


def odd_length() -> bytes:
    """Return one of eight bits whose Pixel Data misses the pad byte."""
    original = drawn(301, 281, bits=8)
    whole = file(instance(original, 8))
    at = whole.find(b"\xe0\x7f\x10\x00OB")
    return whole[: at + 8] + struct.pack("<I", original.size) + original.tobytes()


def doubled(keyword: str, value: bytes) -> bytes:
    """Return one in which an element of two bytes occurs twice."""
    whole = plain()
    tag = pydicom.datadict.tag_for_keyword(keyword) or 0
    element = struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, b"US", len(value)) + value
    at = whole.find(b"\xe0\x7f\x10\x00")
    return whole[:at] + element + whole[at:]


NO = {"undecodable", "codestream-mismatch", "not-dicom"}
MEBI = 1 << 20
COD = b"\xff\x52"


def decomposed(levels: int) -> bytes:
    """Return a J2K with an absurd number of decomposition levels."""
    codestream = j2k()
    return changed(codestream, codestream.find(COD) + 9, ">B", levels)


CASES: dict[str, tuple[Callable[[], bytes], set[str]]] = {
    # --- what a codestream says of itself
    "J2K without tiles": (
        lambda: coded(JPEG_2000_LOSSLESS, changed(j2k(), 24, ">II", 0, 0)),
        NO,
    ),
    "J2K of 84000 tiles": (
        lambda: coded(JPEG_2000_LOSSLESS, changed(j2k(), 24, ">II", 1, 1)),
        NO,
    ),
    "J2K of 42000 tiles": (
        lambda: coded(JPEG_2000_LOSSLESS, changed(j2k(), 24, ">II", 2, 1)),
        NO,
    ),
    "J2K with its origin behind its end": (
        lambda: coded(JPEG_2000_LOSSLESS, changed(j2k(), 16, ">II", 9999, 9999)),
        NO,
    ),
    "J2K of 16384 components": (
        lambda: coded(JPEG_2000_LOSSLESS, changed(j2k(), 40, ">H", 16384)),
        NO,
    ),
    "J2K of 38 bits": (lambda: coded(JPEG_2000_LOSSLESS, changed(j2k(), 42, ">B", 37)), NO),
    "J2K of 255 decomposition levels": (lambda: coded(JPEG_2000_LOSSLESS, decomposed(255)), NO),
    "J2K of 32 decomposition levels": (
        lambda: coded(JPEG_2000_LOSSLESS, decomposed(32)),
        {*NO, "passes"},
    ),
    "J2K cut to its header": (lambda: coded(JPEG_2000_LOSSLESS, j2k()[:60] + b"\xff\xd9"), NO),
    "HTJ2K cut to its header": (
        lambda: coded(
            HTJ2K_LOSSLESS,
            bytes(imagecodecs.htj2k_encode(drawn(*SHAPE), reversible=True))[:90] + b"\xff\xd9",
        ),
        NO,
    ),
    "JPEG of no rows": (
        lambda: coded(JPEG_BASELINE, framed(baseline(), 0xC0, ">HH", 0, 280), 8),
        NO,
    ),
    "JPEG of no component": (
        lambda: coded(JPEG_BASELINE, framed(baseline(), 0xC0, ">HHB", 300, 280, 0), 8),
        NO,
    ),
    "JPEG of no frame": (lambda: coded(JPEG_BASELINE, b"\xff\xd8\xff\xd9", 8), NO),
    "JPEG of fill bytes": (
        lambda: coded(JPEG_BASELINE, b"\xff\xd8" + b"\xff" * (16 * MEBI) + b"\xd9", 8),
        NO,
    ),
    "JPEG of empty segments": (
        lambda: coded(JPEG_BASELINE, b"\xff\xd8" + b"\xff\xe0\0\x02" * (4 * MEBI) + b"\xff\xd9", 8),
        NO,
    ),
    "JPEG of two images": (lambda: coded(JPEG_BASELINE, baseline() + baseline(), 8), {"passes"}),
    "JPEG-LS of 32 bits": (
        lambda: coded(JPEG_LS, changed(jpegls(), jpegls().find(b"\xff\xf7") + 4, ">B", 32)),
        NO,
    ),
    "JPEG Lossless of predictor 99": (
        lambda: coded(JPEG_LOSSLESS, changed(ljpeg(), ljpeg().find(b"\xff\xda") + 7, ">B", 99)),
        {*NO, "passes"},
    ),
    "RLE segments in the table": (lambda: coded(RLE, rle_table(2, 64, 20)), NO),
    "RLE of 16 segments": (lambda: coded(RLE, rle_table(16, *range(64, 79))), NO),
    "RLE that unpacks to more than it should": (
        lambda: coded(RLE, rle_table(2, 64, 64 + 2 * MEBI, planes=b"\x81\0" * (2 * MEBI))),
        {*NO, "passes"},
    ),
    # --- what Pixel Data hold
    "a PNG for a JPEG": (lambda: coded(JPEG_BASELINE, png(), 8), NO),
    "a PNG for RLE": (lambda: coded(RLE, png()), NO),
    "pixels for a codestream": (lambda: coded(JPEG_LS, drawn(*SHAPE).tobytes()), NO),
    "a codestream for pixels": (lambda: plain(PixelData=jpegls()), NO),
    "fragments without offsets": (
        lambda: fragments(JPEG_LS, [jpegls()[:1000], jpegls()[1000:]]),
        {"passes"},
    ),
    "fragments with false offsets": (
        lambda: fragments(JPEG_LS, [jpegls()], b"\xff" * 400),
        {"passes"},
    ),
    "no offset table at all": (
        lambda: file(
            compressed(
                instance(
                    drawn(*SHAPE),
                ),
                JPEG_LS,
                b"xx",
            )
        ).replace(encapsulate([b"xx"]), encapsulate([jpegls()])[8:]),
        NO,
    ),
    "200000 empty fragments": (lambda: fragments(JPEG_LS, [b""] * 200_000 + [jpegls()]), NO),
    "two frames called one": (
        lambda: fragments(JPEG_LS, [jpegls(), jpegls()], struct.pack("<II", 0, len(jpegls()) + 8)),
        {*NO, "passes"},
    ),
    "no rows": (lambda: plain(Rows=0), {"too-small"}),
    "rows twice": (lambda: doubled("Rows", b"\xff\xff"), {"too-large", "not-dicom"}),
    "rows of two values": (lambda: plain(Rows=[300, 300]), {"passes", "too-small"}),
    **{
        f"{bits} bits allocated": (lambda bits=bits: plain(BitsAllocated=bits), {"bit-depth"})
        for bits in (1, 12, 32, 64)
    },
    "16 bits allocated for 8": (
        lambda: file(instance(drawn(*SHAPE, bits=8), 8, BitsAllocated=16)),
        {"undecodable"},
    ),
    "float pixels": (lambda: without_pixels("FloatPixelData", "OF"), {"no-pixels"}),
    "double pixels": (lambda: without_pixels("DoubleFloatPixelData", "OD"), {"no-pixels"}),
    "odd length": (odd_length, {"passes"}),
    "cut in the pixels": (lambda: plain()[:-1000], NO),
    "palette colour": (lambda: plain(PhotometricInterpretation="PALETTE COLOR"), {"not-grayscale"}),
    "subsampled colour": (
        lambda: plain(PhotometricInterpretation="YBR_FULL_422", SamplesPerPixel=3),
        {"not-grayscale"},
    ),
    "colour by plane": (
        lambda: plain(PlanarConfiguration=1, SamplesPerPixel=3),
        {"not-grayscale"},
    ),
    "one sample by plane": (lambda: plain(PlanarConfiguration=1), {"passes"}),
    "a million frames": (lambda: plain(NumberOfFrames=1_000_000), {"multi-frame"}),
    "two numbers of frames": (lambda: plain(NumberOfFrames=[1, 2]), {"passes", "multi-frame"}),
    # --- tables, windows, padding
    "a table of 50 MB": (
        lambda: huge(VOILUTSequence=table_element(bytes(50 * MEBI))),
        {"not-dicom"},
    ),
    "a table of one entry": (lambda: plain(VOILUTSequence=[lut(1, b"\0\0")]), {"passes"}),
    "a table of fewer entries": (
        lambda: plain(VOILUTSequence=[lut(4096, bytes(100))]),
        {"passes"},
    ),
    "a table of more entries": (
        lambda: plain(VOILUTSequence=[lut(4096, np.arange(65000, dtype="<u2").tobytes(), bits=12)]),
        {"passes"},
    ),
    "a table without bits": (
        lambda: plain(ModalityLUTSequence=[lut(4096, bytes(8192), bits=0)]),
        {"passes"},
    ),
    "a table of zeros": (
        lambda: plain(VOILUTSequence=[lut(4096, bytes(8192))]),
        {"passes"},
    ),
    "no table in the sequence": (lambda: plain(VOILUTSequence=[Dataset()]), {"passes"}),
    "a million windows": (
        lambda: huge(WindowCenter=b"2048\\" * MEBI, WindowWidth=b"4096\\" * MEBI),
        {"not-dicom"},
    ),
    "a rescale slope of 10 MB": (lambda: huge(RescaleSlope=b"1\\" * (5 * MEBI)), {"not-dicom"}),
    "an orientation of 10 MB": (
        lambda: huge(PatientOrientation=b"L\\F\\" * (2 * MEBI)),
        {"not-dicom"},
    ),
    "a name of 20 MB": (lambda: huge(PatientName=b"A" * (20 * MEBI)), {"not-dicom"}),
    "a body part of 20 MB": (
        lambda: huge(BodyPartExamined=b"CHESTS" * (4 * MEBI)),
        {"not-dicom"},
    ),
    "a window that is not a number": (
        lambda: plain(WindowCenter="NaN", WindowWidth="NaN"),
        {"passes"},
    ),
    "a window without end": (
        lambda: plain(WindowCenter=0, WindowWidth="1e308"),
        {"passes"},
    ),
    "a window of width 0": (lambda: plain(WindowCenter=5, WindowWidth=0), {"passes"}),
    "windows of several widths": (
        lambda: plain(WindowCenter=[2048, 5, 6], WindowWidth=[4096, 0]),
        {"passes"},
    ),
    "a slope without end": (
        lambda: plain(RescaleSlope="1e308", RescaleIntercept="-1e308"),
        {"passes"},
    ),
    "padding below zero": (
        lambda: file(
            instance(
                drawn(*SHAPE).astype(np.int16) - 2048,
                PixelPaddingValue=-1000,
                PixelPaddingRangeLimit=-2048,
            )
        ),
        {"passes"},
    ),
    "padding everywhere": (
        lambda: plain(PixelPaddingValue=0, PixelPaddingRangeLimit=65535),
        {"no-contrast"},
    ),
    "a shutter of a million corners": (
        lambda: huge(ShutterShape=b"POLYGONAL ", VerticesOfThePolygonalShutter=b"1\\300\\" * MEBI),
        {"not-dicom"},
    ),
    "pixels 10000 times as high as wide": (
        lambda: plain(PixelAspectRatio=["10000", "1"]),
        {"passes"},
    ),
    # --- deflate
    "a deflated bomb of pixels": (lambda: deflated(data_set(200 * MEBI)), {"not-dicom"}),
    "a deflated file, cut": (lambda: deflated(data_set(256 * 256 * 2))[:-40], NO),
    "a deflated file of garbage": (lambda: deflated(b"") + b"garbage" * 1000, {"not-dicom"}),
    "a deflated file that deflates again": (
        lambda: deflated(deflated(data_set(20 * MEBI))),
        {"not-dicom"},
    ),
}
"""What it is -> how it is made, and the codes that it may end with."""


def main(paths: Sequence[str]) -> None:
    """Print code, milliseconds and MB of memory for each file, and look at a good one after it."""
    from reports import ORDER

    from worker.image.decode import Decoder
    from worker.models import Description, ModelInfo
    from worker.pipeline import Pipeline
    from worker.settings import Pixels

    class Talker:
        info = ModelInfo(name="t", version="t-1", prompt="p", demonstration=True)

        def describe(self, radiographs: Sequence[Any], progress: Any = None) -> list[Description]:
            return [Description("No fracture.", 3, "stop", 0.0) for _ in radiographs]

    good = coded(JPEG_LS, jpegls())
    with Decoder() as decoder:
        decoder.start()
        pipeline = Pipeline(Talker(), decoder, Pixels(screening="off"))  # type: ignore[arg-type]
        expected = pipeline.prepare(good).radiograph
        pipeline.build(pipeline.prepare(good), ORDER)
        for path in paths:
            content = Path(path).read_bytes()
            before = memory()
            began = time.perf_counter()
            case = pipeline.prepare(content)
            seconds = time.perf_counter() - began
            used = memory() - before
            pipeline.describe([case])
            pipeline.build(case, ORDER)
            del content
            again = pipeline.prepare(good).radiograph
            assert again is not None
            assert expected is not None
            assert (again.pixels == expected.pixels).all()
            code = case.reason.code if case.reason else "passes"
            print(f"{Path(path).name}\t{code}\t{1000 * seconds:.0f}\t{used}", flush=True)


def memory() -> int:
    """Return the most MB that this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


if __name__ == "__main__":
    main(sys.argv[1:])
