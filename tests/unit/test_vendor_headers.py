"""Radiographs whose header is at odds with itself, as devices write them, are read as meant."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import (
    EXPLICIT,
    HTJ2K_LOSSLESS,
    JPEG_2000,
    JPEG_2000_LOSSLESS,
    JPEG_BASELINE,
    JPEG_EXTENDED,
    JPEG_LS,
    JPEG_LS_NEAR,
    RLE,
    compressed,
    drawn,
    instance,
    part10,
    rle,
)
from pydicom import Dataset
from pydicom.uid import UID

from dicom_node.base.errors import Rejected
from worker.image import vocabulary
from worker.image.decode import Decoder
from worker.image.pixels import Radiograph, gate, radiograph, read
from worker.settings import Pixels

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")

OPTIONS = Pixels(screening="off")
WHOLE = {"WindowCenter": 2048, "WindowWidth": 4096}
HTJ2K = "1.2.840.10008.1.2.4.203"
Array = Any


def shown(ds: Dataset | bytes, decoder: Decoder, **options: Any) -> Radiograph:
    content = ds if isinstance(ds, bytes) else part10(ds)
    return radiograph(read(content), decoder, OPTIONS.model_copy(update=options))


def refusal(ds: Dataset | bytes, decoder: Decoder) -> Rejected:
    with pytest.raises(Rejected) as refused:
        shown(ds, decoder)
    return refused.value


def linear(values: Array, center: float = 2048, width: float = 4096) -> Array:
    """Return what LINEAR (PS3.3 C.11.2.1.2.1) shows."""
    grey = (values - (center - 0.5)) / (width - 1) + 0.5
    return np.rint(np.clip(grey, 0, 1) * 255).astype(int)


def off(found: Radiograph, expected: Array) -> int:
    return int(np.abs(found.pixels.astype(int) - expected).max())


def table(declared: int, entries: Array, explanation: str = "") -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [entries.size % 65536, 0, declared])
    item.add_new("LUTData", "OW", np.asarray(entries, "<u2").tobytes())
    if explanation:
        item.LUTExplanation = explanation
    return item


# --- tables -----------------------------------------------------------------------------------


@pytest.mark.parametrize("used", [8, 10, 12, 15, 16])
@pytest.mark.parametrize("declared", [8, 10, 12, 15, 16, 0, 32])
def test_a_voi_lut_is_scaled_by_the_bits_that_its_entries_use(
    decoder: Decoder, declared: int, used: int
) -> None:
    entries = np.rint(np.linspace(0, (1 << used) - 1, 4096)).astype(int)
    original = drawn()
    found = shown(instance(original, VOILUTSequence=[table(declared, entries)]), decoder)
    assert off(found, np.rint(original / 4095 * 255)) <= 1
    assert bool(found.warnings) == (declared != used)
    assert all("declares" in warning for warning in found.warnings)


def test_a_table_that_stays_just_below_its_range_is_as_it_says(decoder: Decoder) -> None:
    entries = np.linspace(0, 3600, 4096).astype(int)
    found = shown(instance(drawn(), VOILUTSequence=[table(12, entries)]), decoder)
    assert found.pixels.max() == round(3600 / 4095 * 255)
    assert not found.warnings


@pytest.mark.parametrize(("declared", "used"), [(16, 10), (8, 10), (10, 10)])
def test_a_modality_lut_means_its_entries(decoder: Decoder, declared: int, used: int) -> None:
    original = drawn(bits=10)
    entries = np.arange(1024) % (1 << used)
    elements = {"WindowCenter": 512, "WindowWidth": 1024}
    ds = instance(original, 10, ModalityLUTSequence=[table(declared, entries)], **elements)
    found = shown(ds, decoder)
    assert off(found, linear(original, 512, 1024)) == 0
    assert bool(found.warnings) == (declared != used)


def test_a_retired_table_of_over_64_kilobytes_is_no_hindrance(decoder: Decoder) -> None:
    ds = instance(drawn(), **WHOLE)
    ds.add_new(0x00281200, "OW", bytes(131072))  # Gray Lookup Table Data
    ds.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2")
    assert off(shown(ds, decoder), linear(drawn())) == 0


# --- sign -------------------------------------------------------------------------------------


def j2k(pixels: Array, bits: int, lossy: bool) -> bytes:
    level = (60 if bits < 16 else 110) if lossy else 0
    options = {"codecformat": "j2k", "bitspersample": bits, "reversible": not lossy}
    return bytes(imagecodecs.jpeg2k_encode(pixels, level=level, **options))


def htj2k(pixels: Array, bits: int, lossy: bool) -> bytes:
    options = {"level": 1e-4} if lossy else {}
    return bytes(imagecodecs.htj2k_encode(pixels, reversible=not lossy, **options))


def jpeg(pixels: Array, bits: int, lossy: bool) -> bytes:
    return bytes(imagecodecs.jpeg8_encode(pixels, level=98, bitspersample=bits))


def jpegls(pixels: Array, bits: int, lossy: bool) -> bytes:
    return bytes(imagecodecs.jpegls_encode(pixels, level=2 if lossy else 0))


CODECS: dict[str, tuple[Callable[[Array, int, bool], bytes], int]] = {
    JPEG_2000: (j2k, 12),
    JPEG_2000_LOSSLESS: (j2k, 12),
    HTJ2K: (htj2k, 16),
    HTJ2K_LOSSLESS: (htj2k, 16),
    JPEG_EXTENDED: (jpeg, 12),
    JPEG_BASELINE: (jpeg, 8),
    JPEG_LS_NEAR: (jpegls, 12),
    JPEG_LS: (jpegls, 12),
}


def calm(bits: int) -> Array:
    """Return a picture whose coded bit patterns make no jump from 0 to the largest."""
    return (drawn(bits=bits).astype(int) // 4 + (1 << (bits - 1)) // 2).astype(np.int64)


@pytest.mark.parametrize("is_negative", [True, False])
@pytest.mark.parametrize("syntax", CODECS)
def test_an_unsigned_stream_behind_a_signed_header_holds_its_bit_patterns(
    decoder: Decoder, syntax: str, is_negative: bool
) -> None:
    """Devices give encoders signed pixels as if they were unsigned."""
    encode, precision = CODECS[syntax]
    bits = min(precision, 12)
    half = 1 << (bits - 1)
    values = calm(bits) // 2 - (half if is_negative else 0)
    inside = values & ((1 << precision) - 1)
    stream = encode(inside.astype("u1" if bits == 8 else "u2"), precision, syntax in LOSSY)
    head = instance(values.astype("i1" if bits == 8 else "i2"), bits)
    head.WindowCenter, head.WindowWidth = 0, 2 * half
    found = shown(compressed(head, syntax, stream), decoder)
    assert off(found, linear(values, 0, 2 * half)) <= 4


LOSSY = {JPEG_2000, HTJ2K, JPEG_EXTENDED, JPEG_BASELINE, JPEG_LS_NEAR}


@pytest.mark.parametrize("syntax", [JPEG_2000, JPEG_2000_LOSSLESS])
@pytest.mark.parametrize("precision", [12, 16])
def test_a_signed_stream_behind_an_unsigned_header_holds_its_bit_patterns(
    decoder: Decoder, syntax: str, precision: int
) -> None:
    values = calm(12)
    inside = values if precision == 16 else (values + 2048) % 4096 - 2048
    stream = j2k(inside.astype(np.int16), precision, syntax == JPEG_2000)
    found = shown(compressed(instance(drawn(), 12, **WHOLE), syntax, stream), decoder)
    assert off(found, linear(values)) <= 4


def test_what_a_lossy_stream_overshoots_below_zero_is_black(decoder: Decoder) -> None:
    values = np.zeros((300, 280), np.int16)
    values[:, 140:] = 4095
    stream = bytes(imagecodecs.jpeg2k_encode(values, level=30, codecformat="j2k", reversible=False))
    found = shown(compressed(instance(drawn(), 12, **WHOLE), JPEG_2000, stream), decoder)
    assert found.pixels[:, :130].max() < 40
    assert found.pixels[:, 150:].min() > 215


# --- windows ----------------------------------------------------------------------------------


@pytest.mark.parametrize("surround", ["black", "white", "noisy", "both"])
def test_a_window_is_judged_by_the_picture_and_not_by_its_surround(
    decoder: Decoder, surround: str
) -> None:
    rng = np.random.default_rng(0)
    pixels = drawn(600, 560) // 4 + 1500
    pixels[:360] = 4095 if surround == "white" else 0
    if surround == "noisy":
        pixels[:360] = rng.integers(0, 40, (360, 560))
    if surround == "both":
        pixels[:180] = 4095
    window = {"WindowCenter": 2000, "WindowWidth": 1200}
    found = shown(instance(pixels, **window), decoder)
    assert "voi=window-linear" in found.steps
    assert off(found, linear(pixels.astype(int), 2000, 1200)) == 0
    assert not found.warnings


@pytest.mark.parametrize("window", [(300, 400), (3500, 400), (2000, 30)])
@pytest.mark.parametrize("is_collimated", [True, False])
def test_a_window_that_hides_the_picture_gives_way(
    decoder: Decoder, window: tuple[int, int], is_collimated: bool
) -> None:
    pixels = drawn(600, 560) // 4 + 1500
    if is_collimated:
        pixels[:400] = 0
    found = shown(instance(pixels, WindowCenter=window[0], WindowWidth=window[1]), decoder)
    assert "voi=percentiles" in found.steps
    assert any("window" in warning for warning in found.warnings)


@pytest.mark.parametrize(
    "hiding",
    [
        table(16, np.full(4096, 30000)),
        table(16, np.zeros(4096)),
        table(16, np.arange(256) * 257),
    ],
    ids=["even", "empty", "short"],
)
def test_a_voi_lut_that_hides_the_picture_gives_way_to_the_window(
    decoder: Decoder, hiding: Dataset
) -> None:
    found = shown(instance(drawn(), VOILUTSequence=[hiding], **WHOLE), decoder)
    assert off(found, linear(drawn())) == 0
    assert any("VOI LUT" in warning for warning in found.warnings)


def test_a_marker_far_beyond_the_picture_does_not_blacken_it(decoder: Decoder) -> None:
    pixels = drawn() // 4 + 1000
    pixels[:18] = 65535
    found = shown(instance(pixels, 16), decoder)
    assert "voi=percentiles" in found.steps
    assert np.quantile(found.pixels[20:], (0.1, 0.9)) == pytest.approx((40, 210), abs=30)


def test_a_voi_lut_function_that_nobody_knows_is_linear_and_stands_nowhere(
    decoder: Decoder,
) -> None:
    found = shown(instance(drawn(), VOILUTFunction="DOE^JOHN", **WHOLE), decoder)
    assert off(found, linear(drawn())) == 0
    assert "voi=window-linear" in found.steps


# --- bits and bytes that the header does not tell ---------------------------------------------


@pytest.mark.parametrize("bits", [8, 10])
@pytest.mark.parametrize("sign", ["u", "i"])
def test_pixels_that_run_on_beyond_bits_stored_are_taken_whole(
    decoder: Decoder, bits: int, sign: str
) -> None:
    whole = drawn().astype(f"{sign}2")
    whole = whole - whole.dtype.type(2048) if sign == "i" else whole
    found = shown(instance(whole, bits), decoder)
    assert off(found, shown(instance(whole, 12), decoder).pixels.astype(int)) <= 1
    assert any("Bits Stored" in warning for warning in found.warnings)


def test_an_overlay_above_bits_stored_is_not_the_picture(decoder: Decoder) -> None:
    pixels = drawn()
    pixels[50:90, 50:200] |= 1 << 14
    found = shown(instance(pixels, **WHOLE), decoder)
    assert off(found, linear(drawn())) == 0
    assert not found.warnings


@pytest.mark.parametrize(
    ("content", "times"),
    [(drawn().tobytes(), 2), (np.repeat(drawn(bits=8).reshape(-1), 3).tobytes(), 3)],
    ids=["16 bits", "RGB"],
)
def test_pixels_of_more_bytes_than_the_header_says_are_refused(
    decoder: Decoder, content: bytes, times: int
) -> None:
    ds = instance(drawn(bits=8), 8)
    ds.PixelData = content
    assert refusal(ds, decoder).code == "undecodable"
    assert f"{times} times" in refusal(ds, decoder).text


@pytest.mark.parametrize("bits", [8, 12])
def test_of_two_frames_that_are_called_one_the_first_is_shown(decoder: Decoder, bits: int) -> None:
    ds = instance(drawn(bits=bits), bits)
    one = shown(ds, decoder).pixels.astype(int)
    ds.PixelData = ds.PixelData + drawn(bits=bits, seed=1).tobytes()
    assert off(shown(ds, decoder), one) == 0


def test_float_pixels_are_named(decoder: Decoder) -> None:
    ds = instance(drawn(), PixelData=None)
    ds.FloatPixelData = drawn().astype("<f4").tobytes()
    assert refusal(ds, decoder).code == "no-pixels"
    assert "Float Pixel Data" in refusal(ds, decoder).text


def test_a_window_much_too_wide_is_followed_with_a_warning(decoder: Decoder) -> None:
    found = shown(instance(drawn(), WindowCenter=32768, WindowWidth=65536), decoder)
    assert found.pixels.max() <= 16
    assert any("grey levels" in warning for warning in found.warnings)


def test_the_first_usable_of_several_windows_counts(decoder: Decoder) -> None:
    ds = instance(drawn(), WindowCenter=[60000, 2048, 9], WindowWidth=[100, 4096, 1])
    found = shown(ds, decoder)
    assert off(found, linear(drawn())) == 0
    assert found.display is not None
    assert found.display.window is not None
    assert (found.display.window.center, found.display.window.width) == (2048, 4096)


def test_a_window_is_chosen_by_its_explanation(decoder: Decoder) -> None:
    ds = instance(drawn(), WindowCenter=[2048, 1800, 2500], WindowWidth=[4096, 3000, 2000])
    ds.WindowCenterWidthExplanation = ["NORMAL", "HARDER", "Bone View"]
    for preferred, (center, width) in {
        (): (2048, 4096),
        ("bone",): (2500, 2000),
        ("SOFT", "HARDER", "BONE"): (1800, 3000),
        ("ABSENT",): (2048, 4096),
    }.items():
        found = shown(ds, decoder, window=preferred)
        assert off(found, linear(drawn().astype(int), center, width)) == 0


def test_a_voi_lut_is_chosen_by_its_explanation_too(decoder: Decoder) -> None:
    tables = [table(12, np.arange(4096), "NORMAL"), table(12, np.arange(4096)[::-1], "BONE")]
    ds = instance(drawn(), VOILUTSequence=tables, **WHOLE)
    ds.WindowCenterWidthExplanation = "WIDE"
    assert off(shown(ds, decoder, window=("BONE",)), 255 - np.rint(drawn() / 4095 * 255)) <= 1
    assert "voi=window-linear" in shown(ds, decoder, window=("WIDE",)).steps
    assert "voi=lut" in shown(ds, decoder).steps


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", EXPLICIT])
@pytest.mark.parametrize(
    ("center", "width", "read_as"),
    [
        (b"2048,0", b"4096", (2048, 4096)),
        (b"2000,5 ", b"3000,25 ", (2000.5, 3000.25)),
        (b"2048,0\\100,5 ", b"4096,0\\10", (2048, 4096)),
        (b" +2,048E3", b"4096.0\0", (2048, 4096)),
    ],
)
def test_decimal_commas_are_points(
    decoder: Decoder, syntax: str, center: bytes, width: bytes, read_as: tuple[float, float]
) -> None:
    ds = instance(drawn())
    ds.file_meta.TransferSyntaxUID = UID(syntax)
    content = part10(ds)
    at = content.find(b"\xe0\x7f\x10\x00")
    added = b""
    for tag, value in ((b"\x28\x00\x50\x10", center), (b"\x28\x00\x51\x10", width)):
        value += b" " * (len(value) % 2)
        size = struct.pack("<I", len(value))
        added += tag + (b"DS" + size[:2] if syntax == EXPLICIT else size) + value
    found = shown(content[:at] + added + content[at:], decoder)
    assert off(found, linear(drawn().astype(int), *read_as)) == 0
    assert any("comma" in warning for warning in found.warnings)


# --- polarity ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("photometric", "shape", "is_contradiction"),
    [
        ("MONOCHROME1", "IDENTITY", True),
        ("MONOCHROME2", "INVERSE", True),
        ("MONOCHROME1", "INVERSE", False),
        ("MONOCHROME2", "IDENTITY", False),
    ],
)
def test_a_contradiction_about_polarity_is_a_warning_and_the_site_chooses(
    decoder: Decoder, photometric: str, shape: str, is_contradiction: bool
) -> None:
    elements = {"PhotometricInterpretation": photometric, "PresentationLUTShape": shape, **WHOLE}
    ds = instance(drawn(), **elements)
    by_shape = shown(ds, decoder)
    by_photometric = shown(ds, decoder, polarity="photometric")
    right = linear(drawn())
    assert off(by_shape, 255 - right if shape == "INVERSE" else right) == 0
    assert off(by_photometric, 255 - right if photometric == "MONOCHROME1" else right) == 0
    for found in (by_shape, by_photometric):
        assert any("contradicts" in text for text in found.warnings) == is_contradiction
    assert by_shape.display is not None
    assert by_shape.display.is_inverted == (shape == "INVERSE")


# --- encapsulation ----------------------------------------------------------------------------


def lossless(pixels: Array | None = None) -> bytes:
    return bytes(imagecodecs.jpegls_encode(drawn() if pixels is None else pixels))


STREAMS: dict[str, Callable[[], bytes]] = {
    JPEG_LS: lossless,
    JPEG_2000_LOSSLESS: lambda: j2k(drawn(), 12, False),
    HTJ2K_LOSSLESS: lambda: htj2k(drawn(), 16, False),
    RLE: lambda: rle(drawn()),
}


def encapsulated(syntax: str, stream: bytes, **elements: Any) -> bytes:
    return part10(compressed(instance(drawn(), **WHOLE, **elements), syntax, stream))


@pytest.mark.parametrize(
    "end", [b"", bytes(8), b"\xfe\xff\xdd\xe0", b"\0", b"ABCDEFGHIJ", bytes(999)]
)
@pytest.mark.parametrize("syntax", STREAMS)
def test_pixel_data_without_a_delimiter_is_read(decoder: Decoder, syntax: str, end: bytes) -> None:
    content = encapsulated(syntax, STREAMS[syntax]())
    assert content.endswith(b"\xfe\xff\xdd\xe0\0\0\0\0")
    assert off(shown(content[:-8] + end, decoder), linear(drawn())) == 0


@pytest.mark.parametrize("more", [64, 65, 5000, 100_000])
@pytest.mark.parametrize("fill", [b"\0", b"\xff", b"x"])
@pytest.mark.parametrize("syntax", [JPEG_LS, JPEG_2000_LOSSLESS])
def test_bytes_behind_the_end_of_a_codestream_are_no_hindrance(
    decoder: Decoder, syntax: str, more: int, fill: bytes
) -> None:
    content = encapsulated(syntax, STREAMS[syntax]() + more * fill)
    assert off(shown(content, decoder), linear(drawn())) == 0


def test_another_image_behind_the_codestream_is_not_shown(decoder: Decoder) -> None:
    content = encapsulated(JPEG_LS, lossless() + lossless(drawn(seed=3)))
    assert off(shown(content, decoder), linear(drawn())) == 0


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.99])
@pytest.mark.parametrize("syntax", STREAMS)
def test_a_cut_file_is_refused_with_its_uids(decoder: Decoder, syntax: str, share: float) -> None:
    content = encapsulated(syntax, STREAMS[syntax]())
    begins = content.find(b"\xe0\x7f\x10\x00")
    cut = content[: begins + 40 + int(share * (len(content) - begins - 60))]
    found = read(cut)
    assert found.SOPInstanceUID == "2.25.7"
    refused = refusal(cut, decoder)
    assert refused.code == "undecodable"
    assert "Pixel Data" in refused.text


@pytest.mark.parametrize("missing", [2, 500, 100_000])
def test_cut_pixels_are_refused_with_their_uids(decoder: Decoder, missing: int) -> None:
    content = part10(instance(drawn(), **WHOLE))[:-missing]
    assert read(content).SOPInstanceUID == "2.25.7"
    assert "Pixel Data" in refusal(content, decoder).text


def test_a_whole_jpeg_2000_stream_without_its_end_marker_is_read(decoder: Decoder) -> None:
    content = encapsulated(JPEG_2000_LOSSLESS, STREAMS[JPEG_2000_LOSSLESS]()[:-2])
    assert off(shown(content, decoder), linear(drawn())) == 0


def test_a_codestream_without_items_or_offset_table_is_read(decoder: Decoder) -> None:
    stream = lossless()
    stream += b"\0" * (len(stream) % 2)
    content = encapsulated(JPEG_LS, stream)
    at = content.find(b"\xfe\xff\x00\xe0")
    bare = content[:at] + stream
    table_left_out = content[:at] + content[at + 12 :]
    for changed in (bare, table_left_out):
        assert off(shown(changed, decoder), linear(drawn())) == 0


def test_a_compressed_image_that_calls_itself_uncompressed_is_read(decoder: Decoder) -> None:
    ds = compressed(instance(drawn(), **WHOLE), JPEG_LS, lossless())
    content = part10(ds).replace(b"1.2.840.10008.1.2.4.80", b"1.2.840.10008.1.2.1\0\0\0")
    assert off(shown(content, decoder), linear(drawn())) == 0


@pytest.mark.parametrize("is_undefined", [True, False])
@pytest.mark.parametrize("syntax", [EXPLICIT, JPEG_LS])
def test_an_icon_that_is_cut_short_costs_nothing(
    decoder: Decoder, syntax: str, is_undefined: bool
) -> None:
    """The icon says that it is longer than its item; the image's own pixels are found behind it."""
    ds = instance(drawn(), **WHOLE)
    if syntax == JPEG_LS:
        ds = compressed(ds, JPEG_LS, lossless())
    content = part10(ds)
    at = content.find(b"\xe0\x7f\x10\x00")
    icon = b"\xe0\x7f\x10\x00OW\0\0" + struct.pack("<I", 4096) + bytes(100)
    size = struct.pack("<I", 0xFFFFFFFF if is_undefined else len(icon))
    item = b"\xfe\xff\x00\xe0" + size + icon
    if is_undefined:
        item += b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
    size = struct.pack("<I", 0xFFFFFFFF if is_undefined else len(item))
    sequence = b"\x88\x00\x00\x02SQ\0\0" + size + item
    found = shown(content[:at] + sequence + content[at:], decoder)
    assert off(found, linear(drawn())) == 0


def test_a_header_that_breaks_off_is_refused_with_its_uids(decoder: Decoder) -> None:
    content = part10(instance(drawn(), **WHOLE))
    at = content.find(b"\xe0\x7f\x10\x00")
    broken = (
        content[:at] + b"\x40\x00\x75\x02SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    )
    assert read(broken).SOPInstanceUID == "2.25.7"
    refused = refusal(broken, decoder)
    assert refused.code == "no-pixels"
    assert "(0040,0275)" in refused.text


# --- transfer syntaxes ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("syntax", "word"),
    [
        ("1.2.840.113619.5.2", "private"),
        ("1.2.826.0.1.3680043.9.9", "private"),
        ("1.2.840.10008.1.2.4.52", "retired"),
        ("1.2.840.10008.1.2.4.100", "not supported"),
        ("1.2.840.10008.1.2.4.94", "not supported"),
    ],
)
def test_a_transfer_syntax_that_nobody_must_read_is_named(
    decoder: Decoder, syntax: str, word: str
) -> None:
    ds = compressed(instance(drawn()), JPEG_LS, b"xx" * 50)
    ds.file_meta.TransferSyntaxUID = UID(syntax)
    ds.file_meta.TransferSyntaxUID.set_private_encoding(False, True) if word == "private" else None
    refused = refusal(part10(ds), decoder)
    assert refused.code in ("undecodable", "no-pixels")
    assert syntax in refused.text
    assert word in refused.text


def test_a_known_codestream_of_a_retired_transfer_syntax_is_read(decoder: Decoder) -> None:
    content = encapsulated(JPEG_LS, lossless()).replace(
        b"1.2.840.10008.1.2.4.80", b"1.2.840.10008.1.2.4.52"
    )
    assert off(shown(content, decoder), linear(drawn())) == 0


# --- frames and aspect ------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [None, "", "0", "1", "00"])
def test_no_number_of_frames_is_one_frame(decoder: Decoder, frames: str | None) -> None:
    ds = instance(drawn(), **WHOLE)
    if frames is not None:
        ds.NumberOfFrames = frames
    assert off(shown(ds, decoder), linear(drawn())) == 0


SPACINGS = {
    "PixelSpacing": [0.3, 0.2],
    "ImagerPixelSpacing": [0.2, 0.4],
    "NominalScannedPixelSpacing": [0.2, 0.3],
    "PixelAspectRatio": [1, 1],
}


@pytest.mark.parametrize("unusable", [None, [0, 0], [1, 90]])
@pytest.mark.parametrize(("absent", "size"), [(0, (450, 280)), (1, (300, 560)), (2, (300, 420))])
def test_the_aspect_is_that_of_the_most_trusted_usable_spacing(
    decoder: Decoder, absent: int, size: tuple[int, int], unusable: list[float] | None
) -> None:
    elements = dict(list(SPACINGS.items())[absent:])
    if unusable is not None:
        elements |= dict.fromkeys(list(SPACINGS)[:absent], unusable)
    assert shown(instance(drawn(), **WHOLE, **elements), decoder).pixels.shape == size


# --- words ------------------------------------------------------------------------------------


def written(keyword: str, value: str, character_set: str = "", codec: str = "utf-8") -> bytes:
    """Return a file whose code string holds any bytes."""
    ds = instance(drawn(), **{keyword: "MARKER"})
    if character_set:
        ds.SpecificCharacterSet = character_set.split("\\")
    content = value.encode(codec)
    content += b" " * (len(content) % 2)
    element = b"CS" + struct.pack("<H", len(content)) + content
    return part10(ds).replace(b"CS\x06\0MARKER", element)


def outcome(content: bytes | Dataset) -> str:
    try:
        gate(read(content) if isinstance(content, bytes) else content, OPTIONS)
    except Rejected as refused:
        return refused.code
    return "passes"


CHESTS = [
    ("ГРУДНАЯ КЛЕТКА", "ISO_IR 144", "iso8859_5"),
    ("ОГК", "ISO_IR 192", "utf-8"),
    ("рёбра", "ISO_IR 144", "iso8859_5"),
    ("θώρακας", "ISO_IR 126", "iso8859_7"),
    ("胸部", "ISO_IR 192", "utf-8"),
    ("胸部", "GB18030", "gb18030"),
    ("肋骨", "GBK", "gbk"),
    ("胸部", "\\ISO 2022 IR 87", "iso2022_jp"),
    ("흉부", "ISO_IR 192", "utf-8"),
    ("صدر", "ISO_IR 127", "iso8859_6"),
    ("חזה", "ISO_IR 138", "iso8859_8"),
    ("ทรวงอก", "ISO_IR 166", "iso8859_11"),
    ("Göğüs", "ISO_IR 148", "iso8859_9"),
    ("TÓRAX", "ISO_IR 100", "latin-1"),
    ("TÓRAX", "", "utf-8"),
    ("TÓRAX", "", "latin-1"),
    ("ŻEBRA", "ISO_IR 101", "iso8859_2"),
    ("Hrudník", "ISO_IR 101", "iso8859_2"),
    ("mellkas", "", "ascii"),
    ("Klatka piersiowa", "", "ascii"),
    ("RINTAKEHÄ", "ISO_IR 100", "latin-1"),
]
OTHERS = [
    ("КОЛЕНО", "ISO_IR 192", "utf-8"),
    ("КОЛЕНО", "ISO_IR 144", "iso8859_5"),
    ("膝", "ISO_IR 192", "utf-8"),
    ("胸椎", "ISO_IR 192", "utf-8"),
    ("头部", "GB18030", "gb18030"),
    ("무릎", "ISO_IR 192", "utf-8"),
    ("흉추", "ISO_IR 192", "utf-8"),
    ("ركبة", "ISO_IR 127", "iso8859_6"),
    ("γόνατο", "ISO_IR 126", "iso8859_7"),
    ("ГРУДНОЙ ОТДЕЛ ПОЗВОНОЧНИКА", "ISO_IR 192", "utf-8"),
    ("Brustwirbelsäule", "ISO_IR 100", "latin-1"),
    ("COLONNE THORACIQUE RACHIS", "", "ascii"),
    ("Knie", "", "ascii"),
]


@pytest.mark.parametrize(("word", "character_set", "codec"), CHESTS)
def test_a_chest_is_a_chest_in_any_script(word: str, character_set: str, codec: str) -> None:
    assert outcome(written("BodyPartExamined", word, character_set, codec)) == "passes"


@pytest.mark.parametrize(("word", "character_set", "codec"), OTHERS)
def test_another_part_is_refused_in_any_script(word: str, character_set: str, codec: str) -> None:
    assert outcome(written("BodyPartExamined", word, character_set, codec)) == "not-chest"


@pytest.mark.parametrize(
    "word",
    [
        *("UNKNOWN", "OTHER", "NULL", "UNSPECIFIED", "unknown", " ", "N/A", "NONE", "--", "?"),
        *("NOT SPECIFIED", "Unbekannt", "DESCONOCIDO", "BEDSIDE", "PORTABLE", "Bettaufnahme", "0"),
    ],
)
def test_a_body_part_that_says_nothing_is_empty(word: str) -> None:
    assert outcome(written("BodyPartExamined", word)) == "passes"
    codes = instance(drawn(), BodyPartExamined=word)
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "72696002", "SCT", "Knee"
    codes.AnatomicRegionSequence = [item]
    assert outcome(codes) == "not-chest"


VIEWS = {
    "passes": [
        *(
            "PA",
            "AP",
            " THORAX P.A.",
            "FRONT",
            "AP SITTING",
            "ap portable",
            "P/A",
            "A.P.",
            "CHEST AP",
        ),
        *("PA ERECT", "APSUPINE", "LLD", "LEFT LATERAL DECUBITUS", "FRONTAL", "Face", "frente"),
        *(
            "UNKNOWN",
            "GENERIC",
            "BEDSIDE",
            "CHEST",
            "ERECT",
            "",
            "1 VIEW",
            "正位",
            "ПРЯМАЯ",
            "AP 卧位",
            "정면",
        ),
        *(
            "Postero-anterior",
            "POSTERO_ANTERIOR",
            "AP LORDOTIC",
            "pa stehend",
            "Thorax im Liegen PA",
        ),
    ],
    "lateral-view": [
        *("LL", "RL", "LAT", "LATERAL", "left lateral", "PA/LAT", "PROFIL", "seitlich", "perfil"),
        *("侧位", "側面", "БОКОВАЯ", "측면", "Thorax lat.", "LATERAL-LEFT", "dwars", "XTABLE LAT"),
    ],
    "oblique-view": [
        *(
            "LAO",
            "RAO",
            "LPO",
            "RPO",
            "LLO",
            "RLO",
            "OBLIQUE",
            "left oblique",
            "Schräg",
            "斜位",
            "КОСАЯ",
            "AP OBL",
        ),
    ],
}


@pytest.mark.parametrize(
    ("expected", "view"), [(code, view) for code, views in VIEWS.items() for view in views]
)
def test_a_view_is_read_as_people_write_it(expected: str, view: str) -> None:
    assert outcome(written("ViewPosition", view, "ISO_IR 192")) == expected


@pytest.mark.parametrize(
    ("orientation", "expected"),
    [
        (["F", "P"], "lateral-view"),
        (["A", "F"], "lateral-view"),
        (["P", "H"], "lateral-view"),
        (["H", "A"], "lateral-view"),
        (["AF", "FP"], "lateral-view"),
        (["F", "L"], "passes"),
        (["L", "F"], "passes"),
        (["LA", "FA"], "passes"),
    ],
)
def test_a_lateral_is_known_by_both_directions(orientation: list[str], expected: str) -> None:
    assert outcome(instance(drawn(), ViewPosition="", PatientOrientation=orientation)) == expected


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=64))
def test_any_words_are_read(text: str) -> None:
    assert vocabulary.named_view(text) in ("", "frontal", "lateral", "oblique", "other")
    assert vocabulary.is_chest(text) in (True, False)
    assert vocabulary.says_nothing(text) in (True, False)
