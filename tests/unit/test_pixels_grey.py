"""Stored values become the grey levels that the header asks for."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pictures import drawn, instance
from pydicom import Dataset
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

from worker.image import grey, header
from worker.settings import Pixels

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")


def levels(ds, pixels, mode="voi"):
    """Return the picture and the steps that led to it."""
    patterns = pixels.view(f"u{pixels.dtype.itemsize}")
    whole = (slice(0, pixels.shape[0]), slice(0, pixels.shape[1]))
    grey_table = grey.grey_table(header.read(ds), patterns, whole, Pixels(mode=mode))
    return grey_table.apply(patterns), grey_table


def lut(count, first, bits, entries, vr="US"):
    item = Dataset()
    item.add_new("LUTDescriptor", vr, [count % 65536, first, bits])
    item.add_new("LUTData", "US", [int(entry) for entry in entries])
    return item


def shown_by_pydicom(ds, pixels):
    """Return pydicom's grey levels, scaled to 0..255 by the range of its output."""
    # Wider than the pixels: pydicom subtracts in their type and overflows.
    x = apply_modality_lut(pixels.astype(np.int64), ds)
    wide = x.astype(np.int64) if x.dtype.kind in "iu" else x
    shown = apply_voi_lut(wide, ds).astype(np.float64)
    if "VOILUTSequence" in ds:
        low, high = 0.0, 2.0 ** ds.VOILUTSequence[0].LUTDescriptor[2] - 1
    else:
        least = -(1 << (ds.BitsStored - 1)) if ds.PixelRepresentation else 0
        ends = np.array([least, least + (1 << ds.BitsStored) - 1], np.float64)
        if "ModalityLUTSequence" in ds:
            low, high = 0.0, 2.0 ** ds.ModalityLUTSequence[0].LUTDescriptor[2] - 1
        else:
            low, high = ends * ds.get("RescaleSlope", 1) + ds.get("RescaleIntercept", 0)
    grey_levels = (shown - low) / (high - low) * 255
    if ds.PhotometricInterpretation == "MONOCHROME1":
        grey_levels = 255 - grey_levels
    return grey_levels


@st.composite
def headers(draw):
    """Return an Instance with any sensible bits, sign, rescale, window or tables."""
    bits = draw(st.integers(8, 16))
    is_signed = draw(st.booleans())
    dtype = np.dtype(f"{'i' if is_signed else 'u'}{1 if bits == 8 else 2}")
    least = -(1 << (bits - 1)) if is_signed else 0
    rng = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    pixels = rng.integers(least, least + (1 << bits), (24, 31)).astype(dtype)
    ds = instance(pixels, bits)
    ds.PhotometricInterpretation = draw(st.sampled_from(["MONOCHROME1", "MONOCHROME2"]))
    kind = draw(st.sampled_from(["none", "rescale", "lut"]))
    if kind == "rescale":
        ds.RescaleSlope = draw(st.sampled_from([1.0, 0.5, 2.0, -1.0, 0.25]))
        ds.RescaleIntercept = float(draw(st.integers(-2000, 2000)))
    if kind == "lut":
        count = draw(st.sampled_from([256, 1024, 4096]))
        first = draw(st.integers(0, 500)) if not is_signed else 0
        depth = draw(st.sampled_from([8, 16]))
        entries = np.sort(rng.integers(0, 1 << depth, count))
        ds.ModalityLUTSequence = [lut(count, first, depth, entries)]
    if kind != "rescale" and draw(st.booleans()):
        depth = draw(st.sampled_from([10, 12, 16]))
        entries = rng.integers(0, 1 << depth, 2048)
        ds.VOILUTSequence = [lut(2048, draw(st.integers(0, 300)), depth, entries)]
    else:
        x = apply_modality_lut(pixels.astype(np.int64), ds).astype(np.float64)
        ds.WindowCenter = float(np.round(np.median(x) + draw(st.integers(-5, 5))))
        ds.WindowWidth = float(np.round(np.ptp(x) * draw(st.floats(0.6, 1.5)) + 2))
        ds.VOILUTFunction = draw(st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID"]))
    return ds, pixels


@settings(max_examples=150, deadline=None)
@given(headers())
def test_grey_levels_are_pydicoms_within_one(case):
    """Wherever pydicom is right: no padding, a usable window, tables of more than eight bits."""
    ds, pixels = case
    found, grey_table = levels(ds, pixels)
    assume("voi=percentiles" not in grey_table.steps)
    assert np.abs(found - shown_by_pydicom(ds, pixels)).max() <= 1


@settings(max_examples=40, deadline=None)
@given(st.integers(8, 16), st.booleans(), st.integers(0, 1 << 30))
def test_percentiles_are_numpys_of_what_may_be_seen(bits, is_signed, seed):
    dtype = np.dtype(f"{'i' if is_signed else 'u'}{1 if bits == 8 else 2}")
    least = -(1 << (bits - 1)) if is_signed else 0
    rng = np.random.default_rng(seed)
    pixels = (rng.beta(2, 5, (60, 70)) * ((1 << bits) - 1) + least).astype(dtype)
    found, grey_table = levels(instance(pixels, bits), pixels)
    low, high = np.percentile(pixels.astype(float), [0.5, 99.5], method="inverted_cdf")
    expected = np.clip((pixels.astype(float) - low) / (high - low), 0, 1) * 255
    assert "voi=percentiles" in grey_table.steps
    assert np.abs(found - expected).max() <= 1


RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)


@pytest.mark.parametrize(
    ("photometric", "shape", "is_negative"),
    [
        ("MONOCHROME2", "IDENTITY", False),
        ("MONOCHROME1", "INVERSE", True),
        ("MONOCHROME1", None, True),
        ("MONOCHROME2", "INVERSE", True),
    ],
)
def test_a_picture_is_inverted_once_or_not_at_all(photometric, shape, is_negative):
    ds = instance(RAMP, PhotometricInterpretation=photometric, WindowCenter=2048, WindowWidth=4096)
    if shape:
        ds.PresentationLUTShape = shape
    found, grey_table = levels(ds, RAMP)
    assert (found[0, 0], found[-1, -1]) == ((255, 0) if is_negative else (0, 255))
    assert f"invert={'yes' if is_negative else 'no'}" in grey_table.steps


def test_a_linear_window_is_that_of_the_standard():
    """PS3.3 C.11.2.1.2.1, note 4: center 128, width 256 is the identity of 8 bits."""
    pixels = np.tile(np.arange(256, dtype=np.uint8), (4, 1))
    found, _ = levels(instance(pixels, 8, WindowCenter=128, WindowWidth=256), pixels)
    assert (found == pixels).all()


def test_a_window_of_width_one_is_a_threshold():
    """It saturates every pixel, so it only shows where its arithmetic is asked for alone."""
    grey_levels = grey._apply_window(np.array([99.0, 99.5, 99.6, 100.0]), 100.0, 1.0, "LINEAR")
    assert list(grey_levels) == [0, 0, 1, 1]


@pytest.mark.parametrize(
    "window",
    [
        {"WindowCenter": 2000, "WindowWidth": 0},
        {"WindowCenter": 2000, "WindowWidth": -5},
        {"WindowCenter": 2000, "WindowWidth": 0, "VOILUTFunction": "SIGMOID"},
        {"WindowCenter": 2000, "WindowWidth": 0.5},
        {"WindowCenter": 60000, "WindowWidth": 100},
        {"WindowCenter": 2000, "WindowWidth": 100},
        {"WindowCenter": "", "WindowWidth": ""},
        {"WindowCenter": 2000},
    ],
)
def test_a_window_that_shows_nothing_gives_way_to_percentiles(window):
    found, grey_table = levels(instance(RAMP, **window), RAMP)
    assert "voi=percentiles" in grey_table.steps
    assert (found.min(), found.max()) == (0, 255)
    assert bool(grey_table.warnings) == (len(window) > 1 and window["WindowCenter"] != "")


def test_only_the_first_of_several_windows_counts():
    ds = instance(RAMP, WindowCenter=[2048, 100], WindowWidth=[4096, 10])
    assert "voi=window-linear" in levels(ds, RAMP)[1].steps


def test_signed_values_are_signed():
    pixels = np.arange(-2048, 2048, dtype=np.int16).reshape(64, 64)
    found, _ = levels(instance(pixels, 12, WindowCenter=0, WindowWidth=4096), pixels)
    assert (np.diff(found.reshape(-1).astype(int)) >= 0).all()
    assert (found[0, 0], found[-1, -1]) == (0, 255)


@pytest.mark.parametrize("is_signed", [False, True])
def test_bits_above_bits_stored_are_ignored(is_signed):
    """Old images keep overlays there."""
    clean = (RAMP.astype(np.int32) - (2048 if is_signed else 0)).astype(
        np.int16 if is_signed else np.uint16
    )
    dirty = (clean.view(np.uint16) & 0x0FFF) | 0xA000
    center = 0 if is_signed else 2048
    ds = instance(clean, 12, WindowCenter=center, WindowWidth=4096)
    assert (levels(ds, clean)[0] == levels(ds, dirty)[0]).all()


def test_bits_may_be_stored_at_the_high_end():
    shifted = RAMP << 4
    ds = instance(shifted, 12, HighBit=15, WindowCenter=2048, WindowWidth=4096)
    plain = instance(RAMP, 12, WindowCenter=2048, WindowWidth=4096)
    assert (levels(ds, shifted)[0] == levels(plain, RAMP)[0]).all()


@pytest.mark.parametrize("high_bit", [12, 13, 15])
def test_a_high_bit_above_all_pixels_is_a_fault_of_the_header(high_bit):
    wrong = instance(RAMP, 12, HighBit=high_bit, WindowCenter=2048, WindowWidth=4096)
    plain = instance(RAMP, 12, WindowCenter=2048, WindowWidth=4096)
    found, grey_table = levels(wrong, RAMP)
    assert (found == levels(plain, RAMP)[0]).all()
    assert [note for note in grey_table.warnings if f"High Bit is {high_bit}" in note]


def test_lossy_values_beyond_bits_stored_saturate():
    """A 12-bit JPEG in a header of 10 bits reaches 1024, which must not become black."""
    pixels = np.tile(np.array([0, 512, 1023, 1024, 1030], np.uint16), (4, 1))
    ds = instance(pixels, 10, WindowCenter=512, WindowWidth=1024)
    ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.51"
    assert list(levels(ds, pixels)[0][0, 2:]) == [255, 255, 255]


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_and_does_not_count(photometric):
    pixels = drawn(200, 200) // 4 + 1000
    padded = pixels.copy()
    padded[:60] = 4095
    ds = instance(padded, PixelPaddingValue=4095, PhotometricInterpretation=photometric)
    unpadded = instance(pixels[60:], PhotometricInterpretation=photometric)
    found, _ = levels(ds, padded)
    assert (found[:60] == 0).all()
    assert (found[60:] == levels(unpadded, pixels[60:])[0]).all()


def test_a_padding_range_is_padding():
    ds = instance(RAMP, PixelPaddingValue=4000, PixelPaddingRangeLimit=4095)
    found, _ = levels(ds, RAMP)
    assert (found.reshape(-1)[4000:] == 0).all()
    assert found.reshape(-1)[3999] == 255


def test_signed_padding_is_found_though_written_unsigned():
    pixels = np.arange(-100, 156, dtype=np.int16).reshape(16, 16)
    pixels[0] = -2000
    ds = instance(pixels, 16)
    ds.add_new("PixelPaddingValue", "US", 65536 - 2000)
    found, _ = levels(ds, pixels)
    assert (found[0] == 0).all()
    assert found[1:].min() == 0
    assert found[1, 4] > 0


def test_padding_beyond_bits_stored_is_found():
    pixels = RAMP.copy()
    pixels[:8] = 0xFFFF
    found, _ = levels(instance(pixels, 12, PixelPaddingValue=0xFFFF), pixels)
    assert (found[:8] == 0).all()
    assert found[-1, -1] == 255


def test_a_table_of_65536_entries_is_written_as_zero():
    pixels = np.arange(65536, dtype=np.uint32).astype(np.uint16).reshape(256, 256)
    entries = np.arange(65536)[::-1]
    ds = instance(pixels, 16, VOILUTSequence=[lut(65536, 0, 16, entries)])
    found, grey_table = levels(ds, pixels)
    assert "voi=lut" in grey_table.steps
    assert (found[0, 0], found[-1, -1]) == (255, 0)


@pytest.mark.parametrize("is_big_endian", [False, True])
def test_eight_bit_tables_may_be_packed_two_per_word(is_big_endian):
    """PS3.3 C.11.1.1.1; pydicom reads two entries as one or fails."""
    pixels = np.tile(np.arange(256, dtype=np.uint8), (4, 1))
    entries = np.arange(255, -1, -1, dtype=np.uint8)
    item = lut(256, 0, 8, [0])
    del item.LUTData
    packed = entries.reshape(-1, 2)[:, ::-1].tobytes() if is_big_endian else entries.tobytes()
    item.add_new("LUTData", "OW", packed)
    ds = instance(pixels, 8, VOILUTSequence=[item])
    if is_big_endian:
        ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.2"
    assert (levels(ds, pixels)[0] == 255 - pixels).all()


def test_a_signed_table_may_start_below_zero():
    pixels = np.arange(-2048, 2048, dtype=np.int16).reshape(64, 64)
    item = lut(4096, 63488, 12, np.arange(4096))  # -2048 as US
    found, grey_table = levels(instance(pixels, 12, VOILUTSequence=[item]), pixels)
    assert "voi=lut" in grey_table.steps
    assert np.abs(found.reshape(-1) - np.arange(4096) / 4095 * 255).max() <= 1


@pytest.mark.parametrize("vr", ["US", "OW"])
def test_a_table_with_half_of_its_words_is_not_two_entries_in_each(vr):
    words = np.arange(2048, dtype="<u2") * 2
    item = lut(4096, 0, 12, words)
    del item.LUTData
    item.add_new("LUTData", vr, words.tobytes() if vr == "OW" else words.tolist())
    ds = instance(RAMP, 12, VOILUTSequence=[item], WindowCenter=2048, WindowWidth=4096)
    found, grey_table = levels(ds, RAMP)
    assert "A VOI LUT of the image is not usable." in grey_table.warnings
    plain = instance(RAMP, 12, WindowCenter=2048, WindowWidth=4096)
    assert (found == levels(plain, RAMP)[0]).all()


def test_values_outside_of_a_table_take_its_ends():
    item = lut(1024, 1000, 12, np.linspace(1000, 3000, 1024).astype(int))
    found, _ = levels(instance(RAMP, 12, VOILUTSequence=[item]), RAMP)
    assert {*found.reshape(-1)[:1001]} == {round(1000 / 4095 * 255)}
    assert {*found.reshape(-1)[2023:]} == {round(3000 / 4095 * 255)}


def test_a_broken_table_gives_way_to_the_window():
    item = lut(4096, 0, 12, [1, 2, 3])
    ds = instance(RAMP, VOILUTSequence=[item], WindowCenter=2048, WindowWidth=4096)
    _, grey_table = levels(ds, RAMP)
    assert "voi=window-linear" in grey_table.steps
    assert grey_table.warnings


def test_a_slope_of_zero_does_not_erase_the_picture():
    ds = instance(RAMP, RescaleSlope=0, RescaleIntercept=0, WindowCenter=2048, WindowWidth=4096)
    assert np.ptp(levels(ds, RAMP)[0]) == 255


def test_minmax_spreads_all_that_is_there():
    pixels = RAMP // 4 + 300
    found, grey_table = levels(instance(pixels, WindowCenter=5, WindowWidth=2), pixels, "minmax")
    assert (found.min(), found.max()) == (0, 255)
    assert "voi=minmax" in grey_table.steps


def test_equalizing_makes_levels_equally_frequent():
    rng = np.random.default_rng(3)
    pixels = (rng.beta(2, 8, (300, 300)) * 4095).astype(np.uint16)
    found, _ = levels(instance(pixels), pixels, "minmax+equalize")
    share = np.cumsum(np.bincount(found.reshape(-1), minlength=256)) / found.size
    used = np.unique(found)
    assert np.abs(share[used] - used / 255).max() < 0.03


@pytest.mark.parametrize("mode", ["voi", "minmax", "minmax+equalize"])
def test_a_picture_without_contrast_stays_black(mode):
    pixels = np.full((300, 300), 77, np.uint16)
    found, _ = levels(instance(pixels), pixels, mode)
    assert (found == found[0, 0]).all()


ODD = (
    *("WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept", "HighBit"),
    *("PixelPaddingValue", "PixelPaddingRangeLimit"),
)
VALUES = st.integers(-70000, 70000) | st.floats() | st.none() | st.just("x") | st.just([1, "y"])


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from(ODD), VALUES))
def test_no_header_makes_the_table_fail(elements):
    """Whatever a header says, some picture comes out."""
    ds = instance(RAMP)
    for keyword, value in elements.items():
        setattr(ds, keyword, None)
        ds[keyword]._value = value
    assert levels(ds, RAMP)[0].shape == RAMP.shape
