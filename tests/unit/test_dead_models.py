"""Weights that hold NaN or zeros, and a model that answers otherwise than when it was accepted."""

from __future__ import annotations

import json
import types

import pytest
import torch
from engines import checkpoints
from safetensors.torch import load_file, save_file

from dicom_node.base.errors import ModelFault
from worker.models import BrokenAccelerator, Unexplained, canary, generation, open_model
from worker.models.canary import Canary
from worker.models.checkpoint import Unacceptable
from worker.models.generation import Step, same_steps
from worker.models.hub import write_sums

PICTURE = types.SimpleNamespace(pixels=generation.invented_pixels())
OTHER = types.SimpleNamespace(pixels=generation.invented_pixels(300, 400))


def opened(folder, engine="chexfract", **table):
    facts = {"engine": engine, "path": str(folder), "licence_accepted_by": "A"}
    return open_model("small", facts | {"max_new_tokens": 12} | table, "cpu")


def changed(folder, act):
    weights = {n: v.clone() for n, v in load_file(folder / "model.safetensors").items()}
    save_file(act(weights), folder / "model.safetensors", metadata={"format": "pt"})
    write_sums(folder, "small")


def nan(name):
    return lambda kept: kept | {name: torch.full_like(kept[name], float("nan"))}


def one_nan(kept):
    kept["layers.0.up.bias"][3] = float("nan")
    return kept


def overflow(kept):
    """Numbers that float32 holds and whose products it does not."""
    return kept | {"lm_head.weight": kept["lm_head.weight"] * 1e38}


def zeros(kept):
    return {name: torch.zeros_like(value) for name, value in kept.items()}


SHAPES = {
    "chexfract": {},
    "maira2": {"processor": "ReportProcessor"},
    "chexagent": {"model": "FileForCausalLM", "processor": "", "tokenizer": "FileTokenizer"},
    "cxr_llava": {"model": "InsideModel", "auto": "AutoModel", "processor": ""},
}


@pytest.mark.parametrize(
    "act",
    [nan("lm_head.weight"), nan("layers.1.norm.weight"), nan("vision.weight"), one_nan, overflow,
     zeros],
    ids=["head", "norm", "encoder", "one-number", "overflow", "zeros"],
)  # fmt: skip
def test_damaged_weights_are_refused_at_the_start(tmp_path, act):
    folder = checkpoints.build(tmp_path / "small")
    changed(folder, act)
    with pytest.raises(Unacceptable, match="not finite"):
        opened(folder).load()


@pytest.mark.parametrize("engine", SHAPES)
def test_every_engine_is_looked_at(tmp_path, engine):
    folder = checkpoints.build(tmp_path / "small", **SHAPES[engine])
    changed(folder, nan("lm_head.weight"))
    with pytest.raises(Unacceptable, match="not finite"):
        opened(folder, engine).load()


@pytest.fixture
def model(tmp_path):
    folder = checkpoints.build(tmp_path / "small")
    write_sums(folder, "small")
    model = opened(folder)
    model.load()
    yield model
    model.close()


def test_nan_at_a_picture_ends_the_job_as_the_workers_trouble(model, monkeypatch):
    """Not as an answer, and not as a report about the picture."""
    embed = type(model.model).embed

    def poisoned(self, ids, pixels):
        x = embed(self, ids, pixels)
        wide = (ids < 0).sum() == 8  # the prompt of the wide picture
        return x * float("nan") if wide else x

    monkeypatch.setattr(type(model.model), "embed", poisoned)
    assert model.describe([PICTURE])[0].text
    with pytest.raises(Unexplained, match="not finite"):
        model.describe([OTHER])
    assert model.describe([PICTURE])[0].text, "the model itself is well"


def test_a_model_that_died_at_work_ends_the_worker(model):
    with torch.no_grad():
        model.model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(BrokenAccelerator, match="trial picture"):
        model.describe([PICTURE])


def test_a_fault_that_the_trial_picture_has_too_blames_no_picture(model, monkeypatch):
    def fails(**_):
        raise RuntimeError("a kernel is not there")

    monkeypatch.setattr(model.model, "generate", fails)
    with pytest.raises(BrokenAccelerator):
        model.describe([PICTURE])


def test_a_fault_at_one_picture_only_is_that_pictures(model, monkeypatch):
    """The trial picture is still answered, so the model is alive."""
    embed = type(model.model).embed

    def poisoned(self, ids, pixels):
        if (ids < 0).sum() == 8:
            raise RuntimeError("no ribs")
        return embed(self, ids, pixels)

    monkeypatch.setattr(type(model.model), "embed", poisoned)
    with pytest.raises(ModelFault, match="no ribs"):
        model.describe([OTHER])


def test_the_known_answer_of_the_folder_is_asked_for_at_the_start(tmp_path):
    """Weights that were replaced, with a new list of sums, answer otherwise."""
    folder = checkpoints.build(tmp_path / "small")
    write_sums(folder, "small")
    model = opened(folder)
    model.load()
    model.trial().write(folder)
    sums = (folder / "SHA256SUMS").read_text()
    opened(folder).load()
    assert canary.CANARY not in sums, "it changes no answer, so it is not part of a version"
    checkpoints.write_weights(folder, seed=1)
    write_sums(folder, "small")
    with pytest.raises(Unacceptable, match="otherwise than when the folder was accepted"):
        opened(folder).load()
    opened(folder, prompt="<|image_1|>\nAnother question").load()  # its answer is not known


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"version": 1}', "[" * 100_000, "\xff"])
def test_a_damaged_canary_is_none(tmp_path, content):
    (tmp_path / canary.CANARY).write_text(content, encoding="latin-1")
    assert canary.read(tmp_path) is None


def test_a_canary_is_read_as_it_was_written(tmp_path):
    known = Canary("No fracture.", (Step(3, 1.5), Step(4, 0.25)), asked={"prompt": "p"})
    known.write(tmp_path)
    assert canary.read(tmp_path) == known
    assert json.loads((tmp_path / canary.CANARY).read_text())["text"] == "No fracture."


@pytest.mark.parametrize(
    ("known", "found", "same"),
    [
        ([(1, 9.0), (2, 9.0)], [(1, 9.0), (2, 9.0)], True),
        ([(1, 9.0), (2, 9.0)], [(1, 9.0), (3, 9.0)], False),
        ([(1, 9.0), (2, 0.1)], [(1, 9.0), (3, 9.0)], True),  # a near tie, reversed by rounding
        ([(1, 9.0), (2, 9.0)], [(1, 9.0)], True),  # cut short: no choice differs
        ([], [(1, 9.0)], False),
        ([(1, 9.0)], [], False),
    ],
)
def test_answers_agree_up_to_what_rounding_may_reverse(known, found, same):
    steps = [[Step(*step) for step in one] for one in (known, found)]
    assert same_steps(*steps, 0.5) is same
