"""The demonstration model on an accelerator: same words, full memory, too little memory."""

from __future__ import annotations

import json
import sys
import types

import pytest
from bench import models
from engines import checkpoints

from dicom_node.base.errors import ConfigurationError, OutOfResources
from worker.models import generation, open_model
from worker.models.hub import write_sums
from worker.phantom import draw, truth

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


SHAPES = {
    "chexfract": {},
    "maira2": {"processor": "ReportProcessor"},
    "chexagent": {"model": "FileForCausalLM", "processor": "", "tokenizer": "FileTokenizer"},
    "cxr_llava": {"model": "InsideModel", "auto": "AutoModel", "processor": ""},
}


@pytest.mark.parametrize("engine", SHAPES)
def test_each_engine_runs_on_the_gpu_in_bfloat16(tmp_path, engine):
    """On the small checkpoints of the other tests: what is on another device or dtype fails."""
    folder = checkpoints.build(tmp_path / engine, **SHAPES[engine])
    write_sums(folder, "small")
    table = {"engine": engine, "path": str(folder), "licence_accepted_by": "A. Reader"}
    model = open_model("small", table | {"max_new_tokens": 8}, "auto")
    model.load()
    model.warm_up()
    answers = model.describe([seen(p) for p in PICTURES])
    assert all(0 < d.tokens <= 16 for d in answers)
    assert model.info.parameters["dtype"] == "bfloat16"
    assert next(model.model.parameters()).device.type == "cuda"
    model.close()


def test_a_child_on_the_gpu_says_what_this_process_says():
    there, here = loaded("cuda", python=sys.executable), loaded("cuda")
    try:
        answers = [d.text for d in there.describe([seen(p) for p in PICTURES])]
        assert answers == [d.text for d in here.describe([seen(p) for p in PICTURES])]
        assert there.info.parameters["dtype"] == "bfloat16"
    finally:
        there.close()


@pytest.mark.parametrize("how", ["8bit", "4bit"])
@pytest.mark.filterwarnings("default")
def test_fewer_bits_take_less_of_the_gpu_and_read_phantoms(how):
    pytest.importorskip("bitsandbytes")
    model = loaded("cuda", quantization=how)
    drawn = [draw.phantom(970_000, index, short_side=256) for index in range(12)]
    answers = model.describe([seen(one.uint8) for one in drawn])
    right = [d.text == truth.text(one.findings) for d, one in zip(answers, drawn, strict=True)]
    assert sum(right) >= 10


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_native_decoder_says_on_the_gpu_what_the_checkpoints_code_says(tmp_path, dtype):
    """Its step is replayed as a CUDA graph; a second shape and the first again use another."""
    folder = checkpoints.build_phi(tmp_path / "phi")
    write_sums(folder, "phi")
    table = {"engine": "chexfract", "path": str(folder), "licence_accepted_by": "A. Reader"}
    model = open_model("phi", table | {"max_new_tokens": 24, "dtype": dtype}, "cuda")
    model.load()
    assert model.native is not None
    for count in (2, 1, 2):
        radiographs = [seen(p) for p in PICTURES[:count]]
        answers = [d.text for d in model.describe(radiographs)]
        native, model.native = model.native, None
        own = [d.text for d in model.describe(radiographs)]
        model.native = native
        assert answers == own or dtype == "bfloat16"


def test_the_benchmark_runs_on_the_gpu_and_tells_its_memory(capsys):
    ways = ["--paths", "--ways", "eager", "sdpa"]
    assert models.main(["--small", "--batch", "1", "--new", "4", "--repeat", "1", *ways]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line[0] == "{"]
    assert [row["way"] for row in rows] == ["eager", "sdpa"]
    assert all(row["peak_gb"] > 0 for row in rows)


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
