"""Previews find their contrast in the image itself, inside its collimation."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from pictures import (
    HTJ2K_LOSSLESS,
    JPEG_2000_LOSSLESS,
    JPEG_BASELINE,
    JPEG_EXTENDED,
    JPEG_LOSSLESS,
    JPEG_LS,
    compressed,
    drawn,
    instance,
    part10,
)
from PIL import Image
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID

from dicom_node.web import contrast, decoding, preview

Array = Any


def shown(content: bytes, window: str) -> Array:
    return np.asarray(Image.open(io.BytesIO(preview.draw(io.BytesIO(content), window))))


@pytest.mark.parametrize("surround", [0, 4095])
@pytest.mark.parametrize("window", ["bone", "lung", "local"])
def test_a_collimator_takes_no_contrast(window: str, surround: int) -> None:
    whole = drawn(480, 480) // 4 + 1500
    collimated = np.full((960, 960), surround, np.uint16)
    collimated[240:720, 240:720] = whole
    alone = shown(part10(instance(whole)), window).astype(int)
    inside = shown(part10(instance(collimated)), window).astype(int)[260:700, 260:700]
    assert np.abs(inside - alone[20:460, 20:460]).mean() < 40
    assert np.ptp(inside) > 150


def test_the_bone_view_shows_the_ribs_over_the_lungs(shared_data: Path) -> None:
    """In a lung of a real CR, greys differ more than as sent, and less than half is black."""
    content = (shared_data / "chest" / "cr_chest_pa_mono1_10bit_fuji_small.dcm").read_bytes()
    sent, bone = (shown(content, window)[100:300, 270:380] for window in ("sent", "bone"))
    assert bone.std() > 1.5 * sent.std()
    assert (bone == 0).mean() < 0.5
    assert (bone == 255).mean() < 0.2


def test_local_contrast_spreads_each_part() -> None:
    dim = np.tile(np.linspace(0.4, 0.45, 400, dtype=np.float32), (400, 1))
    dim[:, 200:] += 0.3
    spread = contrast.local(dim)
    assert spread.shape == dim.shape
    assert np.ptp(spread[:, :190]) > 1.2 * np.ptp(dim[:, :190])
    assert spread.min() >= 0
    assert spread.max() <= 1


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_all_values_come_as_sixteen_bits(photometric: str) -> None:
    original = drawn()
    window = {"WindowCenter": 2048, "WindowWidth": 4096}
    ds = instance(original, PhotometricInterpretation=photometric, **window)
    image = Image.open(io.BytesIO(preview.draw(io.BytesIO(part10(ds)), preview.DATA)))
    values = np.asarray(image).astype(float)
    assert image.mode == "I;16"
    low, high = (float(image.text[name]) for name in ("low", "high"))  # type: ignore[attr-defined]
    assert np.abs(low + values / 65535 * (high - low) - original).max() < 1
    assert (low < high) == (photometric == "MONOCHROME2")
    assert image.text["width"] == "4096"  # type: ignore[attr-defined]


@pytest.mark.parametrize("shape", [(16, 16), (300, 20), (97, 1031)])
@pytest.mark.parametrize("name", ["bone", "lung", "whole", "local"])
def test_any_size_and_a_flat_picture_are_drawn(name: str, shape: tuple[int, int]) -> None:
    for picture in (np.zeros(shape, np.float32), np.eye(*shape, dtype=np.float32)):
        found = contrast.preset(picture, name)
        assert found.shape == shape
        assert np.isfinite(found).all()


@pytest.mark.parametrize(
    ("header", "size"),
    [
        ({"PixelSpacing": [0.2, 0.2]}, (300, 200)),
        ({"PixelSpacing": [0.4, 0.2]}, (300, 400)),
        ({"ImagerPixelSpacing": [0.1, 0.2]}, (600, 200)),
        ({"NominalScannedPixelSpacing": [0.1, 0.2]}, (600, 200)),
        ({"PixelAspectRatio": [2, 1]}, (300, 400)),
        ({"PixelSpacing": [0.2, 0.2], "PixelAspectRatio": [2, 1]}, (300, 200)),
        ({"PixelAspectRatio": [0, 1]}, (300, 200)),
        ({"PixelSpacing": [90, 1]}, (300, 200)),
    ],
)
def test_pixels_are_drawn_square(header: dict[str, Any], size: tuple[int, int]) -> None:
    """A file's rows and columns stay as they are for the viewer, which enlarges them itself."""
    content = part10(instance(drawn(200, 300), **header))
    assert shown(content, "sent").shape == (size[1], size[0])
    image = Image.open(io.BytesIO(preview.draw(io.BytesIO(content), preview.FULL)))
    assert image.size == (300, 200)
    across, down = (float(image.text[name]) for name in ("across", "down"))  # type: ignore[attr-defined]
    assert (300 * across, 200 * down) == size


@pytest.mark.parametrize(
    ("function", "at_center", "at_end"),
    [("LINEAR", 0.5, 1.0), ("LINEAR_EXACT", 0.5, 1.0), ("SIGMOID", 0.5, 0.8808), ("OTHER", 0.5, 1)],
)
def test_a_window_is_the_curve_that_the_file_names(
    function: str, at_center: float, at_end: float
) -> None:
    """PS3.3 C.11.2.1.2, C.11.2.1.3: at the window's end a sigmoid is at 1 / (1 + exp(-2))."""
    values = np.full((64, 64), 1000, np.uint16)
    values[:32], values[32:] = 1000, 1200
    window = {"WindowCenter": 1000, "WindowWidth": 400, "VOILUTFunction": function}
    content = part10(instance(values, **window))
    seen = shown(content, "sent") / 255
    assert seen[0, 0] == pytest.approx(at_center, abs=0.003)
    assert seen[-1, 0] == pytest.approx(at_end, abs=0.003)
    image = Image.open(io.BytesIO(preview.draw(io.BytesIO(content), preview.DATA)))
    kind = preview.FUNCTIONS[int(image.text["function"])]  # type: ignore[attr-defined]
    assert kind == ("linear" if function == "OTHER" else function.lower().replace("_", "-"))


def test_decimal_commas_are_read_as_points_and_a_window_of_nothing_is_left_out() -> None:
    original = drawn()
    content = part10(instance(original, WindowCenter="1111.5", WindowWidth="2222.5"))
    with_commas = content.replace(b"1111.5", b"1111,5").replace(b"2222.5", b"2222,5")
    assert with_commas != content
    assert (shown(with_commas, "sent") == shown(content, "sent")).all()
    without = shown(part10(instance(original)), "sent")
    for wrong in ("0", "-5"):
        seen = shown(part10(instance(original, WindowCenter="5", WindowWidth=wrong)), "sent")
        assert (seen == without).all()


SYNTAXES = {
    "jpeg-baseline": (JPEG_BASELINE, 8, lambda a: imagecodecs.jpeg8_encode(a, level=95)),
    "jpeg-extended": (
        JPEG_EXTENDED, 12, lambda a: imagecodecs.jpeg8_encode(a, level=95, bitspersample=12),
    ),
    "jpeg-lossless": (JPEG_LOSSLESS, 12, lambda a: imagecodecs.ljpeg_encode(a, bitspersample=12)),
    "jpeg-ls": (JPEG_LS, 12, imagecodecs.jpegls_encode),
    "jpeg-2000": (
        JPEG_2000_LOSSLESS, 12,
        lambda a: imagecodecs.jpeg2k_encode(a, level=0, reversible=True, codecformat="j2k"),
    ),
    "htj2k": (HTJ2K_LOSSLESS, 12, lambda a: imagecodecs.htj2k_encode(a, reversible=True)),
}  # fmt: skip


@pytest.mark.parametrize("kind", SYNTAXES)
def test_pages_draw_each_transfer_syntax_that_a_worker_reads(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where no decoder is installed but that of the worker's own packages."""
    syntax, bits, encode = SYNTAXES[kind]
    original = drawn(256, 256, bits=bits)
    content = part10(compressed(instance(original, bits), syntax, bytes(encode(original))))
    plain = shown(part10(instance(original, bits)), "whole").astype(int)
    decoding.add_decoders(syntax)
    alone = {decoding.NAME: decoding.decode_frame}
    monkeypatch.setattr(get_decoder(UID(syntax)), "_available", alone)
    assert np.abs(shown(content, "whole").astype(int) - plain).max() <= 12
