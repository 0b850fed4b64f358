"""Checkpoints shaped as the real ones: nested encoders, surplus keys, old pickles, cut answers."""

from __future__ import annotations

import json
import pickle
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from engines import checkpoints

from dicom_node.base.errors import ModelFault
from worker.models import chexagent, generation, maira2, open_model, pickles
from worker.models.checkpoint import Unacceptable
from worker.models.hub import write_sums
from worker.models.satellites import satellite_folder

NAME = "StanfordAIMI/XraySigLIP__vit-l-16-siglip-384__webli"
PICTURE = types.SimpleNamespace(pixels=generation.invented_pixels())
IMPORT = "from transformers import PreTrainedTokenizerFast\n"
HEAD = "        self.lm_head = nn.Linear(width, config.vocab_size, bias=False)\n"
NESTED = (
    "        self.tower = AutoModel.from_pretrained(config.visual['vision_model_name_or_path'])\n"
)


def opened(folder, engine="chexfract", **table):
    facts = {"engine": engine, "path": str(folder), "licence_accepted_by": "A"}
    return open_model("small", facts | {"max_new_tokens": 12} | table, "cpu")


def encoder(folder, seed=0):
    from transformers import CLIPVisionConfig, CLIPVisionModel

    torch.manual_seed(seed)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    size |= {"num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    model = CLIPVisionModel(CLIPVisionConfig(**size))
    model.save_pretrained(folder)
    return model


def nested(folder, vision, *, weights=None):
    """Write a checkpoint whose code loads its encoder by name in its own ``__init__``."""
    checkpoints.build(folder, "FileForCausalLM", processor="", tokenizer="FileTokenizer")
    path = folder / "modeling_small.py"
    code = path.read_text()
    assert IMPORT in code
    assert HEAD in code
    code = code.replace(IMPORT, "from transformers import AutoModel, PreTrainedTokenizerFast\n", 1)
    path.write_text(code.replace(HEAD, HEAD + NESTED, 1))
    config = json.loads((folder / "config.json").read_text())
    config["visual"] = {"vision_model_name_or_path": vision}
    (folder / "config.json").write_text(json.dumps(config))
    if weights is not None:
        from safetensors.torch import load_file, save_file

        kept = load_file(folder / "model.safetensors")
        kept |= {f"tower.{name}": value.clone() for name, value in weights.items()}
        save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def loaded(folder, engine="chexagent", **table):
    write_sums(folder, "small")
    model = opened(folder, engine, **({"boxes": False} if engine == "chexagent" else {}) | table)
    model.load()
    return model


def same(module, weights):
    found = module.state_dict()
    return all(torch.equal(found[name], value) for name, value in weights.items())


@pytest.mark.parametrize("python", ["", sys.executable], ids=["here", "child"])
def test_an_encoder_named_on_a_hub_is_taken_from_the_models_folder(tmp_path, python):
    folder = nested(tmp_path / "small", NAME)
    tower = encoder(satellite_folder(folder, NAME))
    model = loaded(folder, python=python)
    try:
        assert model.describe([PICTURE])[0].text
        if not python:
            assert same(model.model.tower, tower.state_dict())
    finally:
        model.close()


def test_weights_of_the_whole_model_win_over_those_of_its_satellite(tmp_path):
    tuned = encoder(tmp_path / "tuned", seed=1).state_dict()
    folder = nested(tmp_path / "small", str(tmp_path / "plain"), weights=tuned)
    encoder(tmp_path / "plain", seed=2)
    model = loaded(folder)
    assert same(model.model.tower, tuned)


def test_an_encoder_that_is_not_there_names_its_key_and_what_to_do(tmp_path):
    folder = nested(tmp_path / "small", NAME)
    with pytest.raises(Unacceptable) as error:
        loaded(folder)
    for part in (
        "config.json: visual.vision_model_name_or_path",
        NAME,
        "model fetch",
        "satellites",
    ):
        assert part in str(error.value)
    assert "internet" not in str(error.value)


def test_a_model_loads_twice_in_one_process(tmp_path):
    folder = nested(tmp_path / "small", NAME)
    encoder(satellite_folder(folder, NAME))
    first = loaded(folder)
    said = first.describe([PICTURE])[0].text
    first.close()
    first.load()
    assert first.describe([PICTURE])[0].text == said
    second = loaded(folder)
    assert second.describe([PICTURE])[0].text == said


@pytest.mark.parametrize(
    "key",
    ["img_processor.vision_model.embeddings.position_ids", "layers.0.rotary_emb.inv_freq",
     "position_ids", "layers.1.attn.masked_bias"],
)  # fmt: skip
def test_keys_that_hold_no_weights_are_tolerated_by_name(tmp_path, key):
    folder = checkpoints.build(tmp_path / "small")
    checkpoints.write_weights(folder, add=key)
    assert loaded(folder, "chexfract").describe([PICTURE])[0].text


@pytest.mark.parametrize("key", ["layers.2.up.weight", "my_position_ids_table", "inv_freq.weight"])
def test_other_surplus_keys_are_refused(tmp_path, key):
    folder = checkpoints.build(tmp_path / "small")
    checkpoints.write_weights(folder, add=key)
    with pytest.raises(Unacceptable, match="1 unexpected key:"):
        loaded(folder, "chexfract")


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    folder = checkpoints.build(tmp_path / "small")
    checkpoints.write_tokenizer(
        folder, checkpoints.CHAT, marks=[*checkpoints.MARKS, *(f"<w{n}>" for n in range(40))]
    )
    with pytest.raises(Unacceptable, match="tokenizer is another model's"):
        loaded(folder, "chexfract")


# --- pickles


def lightning(path, callbacks):
    content = {"epoch": 2, "pytorch-lightning_version": "1.0.8", "callbacks": callbacks}
    torch.save(content | {"state_dict": {"encoder.weight": torch.arange(6.0).view(2, 3)}}, path)


@pytest.fixture
def callback():
    package = "pytorch_lightning.callbacks.model_checkpoint"
    names = ("pytorch_lightning", "pytorch_lightning.callbacks", package)
    kind = type("ModelCheckpoint", (), {"__module__": package})
    for name in names:
        sys.modules[name] = types.ModuleType(name)
    sys.modules[package].ModelCheckpoint = kind
    yield kind
    for name in names:
        sys.modules.pop(name, None)


def test_a_checkpoint_keyed_by_classes_gives_its_tensors(tmp_path, callback):
    path = tmp_path / "vqgan.ckpt"
    lightning(path, {callback: {"best": torch.tensor(1.0), "callback": callback()}})
    for name in [name for name in sys.modules if name.startswith("pytorch_lightning")]:
        del sys.modules[name]
    (weight,) = pickles.tensors_of(path).values()
    assert weight.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert not any(name.startswith("pytorch_lightning") for name in sys.modules)


class Attack:
    """What a file may name instead of a class: anything that Python can call."""

    def __init__(self, act, *arguments):
        self.act, self.arguments = act, arguments

    def __reduce__(self):
        return self.act, self.arguments


@pytest.mark.parametrize("kind", ["touch", "import", "eval"])
def test_nothing_that_a_file_names_is_run(tmp_path, kind):
    mark, path = tmp_path / "ran", tmp_path / "vqgan.ckpt"
    acts = {
        "touch": Attack(Path.touch, mark),
        "import": Attack(__import__, "antigravity"),
        "eval": Attack(eval, f"open({str(mark)!r}, 'w')"),
    }
    lightning(path, {"x": acts[kind]})
    assert list(pickles.tensors_of(path)) == ["encoder.weight"]
    assert not mark.exists()
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize("content", [b"", b"no pickle", pickle.dumps({"a": 1}), b"PK\x03\x04"])
def test_a_file_that_is_no_checkpoint_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "vqgan.ckpt"
    path.write_bytes(content)
    with pytest.raises(Unacceptable, match=r"vqgan\.ckpt"):
        pickles.tensors_of(path)


# --- answers


REF = "<|ref|>rib fracture<|/ref|><|box|>({0},20),(30,40)<|/box|>"


@pytest.mark.parametrize("count", range(1, 12))
def test_boxes_of_equal_words_are_said_once_and_drawn_each(count):
    answer = "".join(REF.format(n) for n in range(count))
    assert chexagent.without_boxes(answer) == "rib fracture"
    assert len(list(chexagent.regions(answer))) == count


def test_boxes_of_different_words_keep_them_all():
    answer = REF.format(1) + "<|ref|>left clavicle fracture<|/ref|><|box|>(1,2),(3,4)<|/box|> end"
    assert chexagent.without_boxes(answer) == "rib fracture left clavicle fracture end"


FIRST = "<obj>Fracture of the left 5th rib.<box><x10><y20><x30><y40></box></obj>"
BOX = (0.105, 0.205, 0.305, 0.405)


@pytest.mark.parametrize(
    ("answer", "texts", "boxes"),
    [
        (FIRST, ["Fracture of the left 5th rib."], [[BOX]]),
        (FIRST + "<obj>Fracture of the right 4th rib.<box><x10><y2",
         ["Fracture of the left 5th rib.", "Fracture of the right 4th rib."], [[BOX], None]),
        (FIRST + "<obj>There is no",
         ["Fracture of the left 5th rib.", "There is no"], [[BOX], None]),
        (FIRST + " <obj>No pneumothorax.</obj>",
         ["Fracture of the left 5th rib.", "No pneumothorax."], [[BOX], None]),
        (FIRST.replace("</box>", "</box><box><x1><y2><x3><y4></box><box><x5>"),
         ["Fracture of the left 5th rib."], [[BOX, (0.015, 0.025, 0.035, 0.045)]]),
        ("plain words <obj>a</obj> more", ["plain words", "a", "more"], [None, None, None]),
        ("<obj></obj>", [], []),
    ],
)  # fmt: skip
def test_a_grounded_answer_keeps_its_text_and_whole_boxes_wherever_it_is_cut(answer, texts, boxes):
    found = maira2.read_phrases(answer)
    assert [text for text, _ in found] == texts
    for got, wanted in zip([where for _, where in found], boxes, strict=True):
        assert (got is None) == (wanted is None)
        for one, other in zip(got or [], wanted or [], strict=True):
            assert one == pytest.approx(other)


def test_a_grounded_answer_is_read_in_linear_time():
    import time

    for piece in ("<obj>", "<box>", "<box><x1>", "</box>", "<obj><box><x1><y2><x3><y4>"):
        started = time.perf_counter()
        maira2.read_phrases(piece * 20_000)
        assert time.perf_counter() - started < 2


def test_the_longest_answer_of_maira2_is_its_authors(tmp_path):
    folder = checkpoints.build(tmp_path / "small", processor="ReportProcessor")
    table = {"engine": "maira2", "path": str(folder), "licence_accepted_by": "A"}
    assert open_model("m", table).options.max_new_tokens == 300
    assert open_model("m", table | {"grounding": True}).options.max_new_tokens == 450
    longer = {"grounding": True, "max_new_tokens": 9}
    assert open_model("m", table | longer).options.max_new_tokens == 9


def test_a_system_role_comes_before_the_prompt(tmp_path):
    folder = checkpoints.build(tmp_path / "small")
    model = loaded(folder, "chexfract", system="You read bones.")
    assert model.chat.startswith("<|system|>\nYou read bones.<|end|>\n<|user|>\n<|image_1|>")
    assert model.info.parameters["system"] == "You read bones."


def test_both_questions_to_chexagent_are_one_batch_and_answered_as_alone(tmp_path):
    """Two pictures with two questions each are one call of four rows."""
    folder = checkpoints.build(
        tmp_path / "small", "FileForCausalLM", processor="", tokenizer="FileTokenizer"
    )
    model = loaded(folder, boxes=True)
    assert model.takes_batches
    calls = []
    generate = model.model.generate

    def counted(ids, **options):
        calls.append(len(ids))
        return generate(ids, **options)

    model.model.generate = counted
    other = types.SimpleNamespace(pixels=np.full((300, 400), 90, np.uint8))
    together = model.describe([PICTURE, other])
    assert calls == [4]
    model.takes_batches = False
    assert [d.text for d in model.describe([PICTURE, other])] == [d.text for d in together]
    assert calls == [4, 1, 1, 1, 1]


def test_a_fine_tuned_checkpoint_of_the_same_shape_loads_by_its_path(tmp_path):
    """As CheXagent after DPO or CheX-Phi3.5V: other weights, another name, the same code."""
    for engine, kind in (
        ("chexfract", {}),
        ("chexagent", {"model": "FileForCausalLM", "processor": "", "tokenizer": "FileTokenizer"}),
    ):
        folder = checkpoints.build(tmp_path / f"{engine}-after-dpo", seed=3, **kind)
        config = json.loads((folder / "config.json").read_text())
        config["_name_or_path"] = "./checkpoints/after-dpo"
        (folder / "config.json").write_text(json.dumps(config))
        assert loaded(folder, engine).describe([PICTURE])[0].tokens
    with pytest.raises(ModelFault):
        opened(folder, "chexagent").describe([PICTURE])
