"""The engine on real weights: the demonstration model, loaded as ChexFract is."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest

from dicom_node.base.errors import ConfigurationError, ModelFault, OutOfResources
from worker.models import BrokenAccelerator, open_model
from worker.models import generation as gen
from worker.phantom import draw, truth

BUILTIN = Path(importlib.util.find_spec("worker.phantom").origin).parent / "model"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The demonstration model's files as a folder of their own."""
    target = tmp_path_factory.mktemp("model") / "phantom"
    shutil.copytree(BUILTIN, target, copy_function=shutil.copyfile)
    (target / "DEMONSTRATION").touch()
    return target


@pytest.fixture(scope="module")
def model(folder):
    model = open_model("phantom", {"engine": "chexfract", "path": str(folder)}, "cpu")
    model.load()
    yield model
    model.close()


def seen(pixels):
    return types.SimpleNamespace(pixels=pixels)


DRAWN = [draw.phantom(970_000, index, short_side=256) for index in range(12)]
"""Of no set that the model was trained on."""
PICTURES = [*[drawn.uint8 for drawn in DRAWN if drawn.findings][:3], gen.invented_pixels(300, 400)]


def test_a_batch_says_what_single_calls_say(model):
    together = model.describe([seen(p) for p in PICTURES])
    alone = [model.describe([seen(p)])[0] for p in PICTURES]
    assert [(d.text, d.finish_reason) for d in alone] == [
        (d.text, d.finish_reason) for d in together
    ]
    assert all(d.text for d in together)


def test_an_answer_leaves_out_prompt_and_stop_token(model):
    (answer,) = model.describe([seen(PICTURES[0])])
    assert "Describe bones" not in answer.text
    assert "<|" not in answer.text
    assert answer.finish_reason == "stop"
    assert answer.tokens > 0
    assert answer.seconds > 0


def test_progress_is_reported_for_each_token(model):
    calls = []
    (answer,) = model.describe([seen(PICTURES[0])], lambda: calls.append(1))
    assert len(calls) >= answer.tokens


@pytest.mark.parametrize(
    ("key", "value", "reason"), [("max_new_tokens", 2, "length"), ("max_time", 1e-6, "time")]
)
def test_an_answer_cut_off_says_why(folder, key, value, reason):
    table = {"engine": "chexfract", "path": str(folder), key: value}
    model = open_model("phantom", table, "cpu")
    model.load()
    (answer,) = model.describe([seen(PICTURES[0])])
    assert reason == answer.finish_reason
    assert answer.tokens <= 2


def test_the_version_names_the_weights_before_they_are_loaded(folder):
    model = open_model("phantom", {"engine": "chexfract", "path": str(folder)}, "cpu")
    digest = subprocess.run(
        ["sha256sum", folder / "model.safetensors"], capture_output=True, text=True, check=True
    ).stdout
    assert model.info.version == f"phantom-{digest[:8]}"
    assert model.info.parameters["weights"] == digest[:16]
    assert model.info.demonstration


@pytest.mark.parametrize(
    "said",
    [
        "CUDA out of memory. Tried to allocate 20.00 MiB",
        "CUDA error: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    ],
)
def test_full_memory_is_transient(model, monkeypatch, said):
    def full(**_):
        raise RuntimeError(said)

    monkeypatch.setattr(model.model, "generate", full)
    with pytest.raises(OutOfResources, match="out of memory") as caught:
        model.describe([seen(PICTURES[0])])
    assert not isinstance(caught.value, BrokenAccelerator)


def test_a_lost_accelerator_blames_no_picture(model, monkeypatch):
    def lost(**_):
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(model.model, "generate", lost)
    with pytest.raises(BrokenAccelerator, match="lost to this process"):
        model.describe([seen(PICTURES[0])])


def test_what_fails_in_the_models_own_code_is_the_pictures_fault(model, monkeypatch):
    """The trial picture is still answered, so the model itself is sound."""
    generate = type(model.model).generate

    def act(self, *arguments, **options):
        monkeypatch.undo()  # the trial picture, which is asked next, is answered
        raise IndexError("index 9 is out of range")

    monkeypatch.setattr(type(model.model), "generate", act)
    with pytest.raises(ModelFault, match="index 9"):
        model.describe([seen(PICTURES[0])])
    assert type(model.model).generate is generate


def test_a_model_starts_in_a_read_only_home_without_network(folder, tmp_path):
    home = tmp_path / "home"
    home.mkdir(mode=0o500)
    code = (
        "import socket, sys\n"
        "def refuse(*a, **k): sys.exit('network used')\n"
        "socket.socket.connect = refuse\n"
        "from worker.models import BrokenAccelerator, open_model\n"
        f"m = open_model('p', {{'engine': 'chexfract', 'path': {str(folder)!r}}}, 'cpu')\n"
        "m.load(); m.warm_up(); m.close()\n"
    )
    env = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "XDG_"))}
    done = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env={**env, "HOME": str(home), "PYTHONPATH": str(Path(__file__).parents[2])},
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in done:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert list(home.iterdir()) == []


def test_a_device_that_is_not_there_is_named(folder):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has one")
    model = open_model("phantom", {"engine": "chexfract", "path": str(folder)}, "cuda")
    with pytest.raises(ConfigurationError, match="no cuda"):
        model.load()


def test_phantoms_are_read_through_the_engine_as_they_were_drawn(model):
    answers = model.describe([seen(drawn.uint8) for drawn in DRAWN])
    right = [d.text == truth.text(p.findings) for d, p in zip(answers, DRAWN, strict=True)]
    assert sum(right) >= len(DRAWN) - 1


@pytest.mark.parametrize("how", ["8bit", "4bit"])
@pytest.mark.filterwarnings("default")
def test_phantoms_are_read_in_fewer_bits_as_well(folder, how):
    pytest.importorskip("bitsandbytes")
    table = {"engine": "chexfract", "path": str(folder), "quantization": how}
    model = open_model("phantom", table, "cpu")
    model.load()
    answers = model.describe([seen(drawn.uint8) for drawn in DRAWN])
    right = [d.text == truth.text(p.findings) for d, p in zip(answers, DRAWN, strict=True)]
    assert sum(right) >= len(DRAWN) - 2
    assert model.info.parameters["quantization"] == how
    model.close()
