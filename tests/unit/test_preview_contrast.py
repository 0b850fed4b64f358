"""Previews find their contrast in the image itself, inside its collimation."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import drawn, instance, part10
from PIL import Image

from dicom_node.web import contrast, preview

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
