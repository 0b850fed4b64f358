"""The demonstration model on an accelerator: same words, full memory, too little memory."""

from __future__ import annotations

import types

import pytest

from dicom_node.errors import ConfigurationError, OutOfResources
from worker.models import generation, open_model

torch = pytest.importorskip("torch")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
TABLE = {"engine": "chexfract", "path": "builtin:phantom"}
PICTURES = [generation.invented_pixels(384, 320), generation.invented_pixels(300, 400)]


def seen(pixels):
    return types.SimpleNamespace(pixels=pixels)


def loaded(device, **table):
    model = open_model("phantom", TABLE | table, device)
    model.load()
    return model


def test_the_gpu_says_what_the_cpu_says():
    there, here = loaded("cuda", dtype="float32"), loaded("cpu")
    radiographs = [seen(p) for p in PICTURES]
    assert [d.text for d in there.describe(radiographs)] == [
        d.text for d in here.describe(radiographs)
    ]
    assert there.info.device == "cuda"


def test_auto_takes_the_gpu_in_bfloat16():
    model = loaded("auto")
    assert model.info.device == "cuda"
    assert model.info.parameters["dtype"] == "bfloat16"
    assert model.describe([seen(PICTURES[0])])[0].text


def test_full_memory_passes_when_there_is_room_again():
    model = loaded("cuda")
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction(0.0001)
    try:
        with pytest.raises(OutOfResources, match="out of memory"):
            model.describe([seen(p) for p in PICTURES * 64])
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert model.describe([seen(PICTURES[0])])[0].text
    assert torch.cuda.mem_get_info()[0] >= free * 0.9


def test_too_little_memory_is_refused_before_anything_is_loaded():
    with pytest.raises(ConfigurationError, match=r"GB free.*quantization"):
        loaded("cuda", memory_reserve=1e9)


def test_a_gpu_that_is_not_there_is_named():
    with pytest.raises(ConfigurationError, match="no cuda:99"):
        loaded("cuda:99")
