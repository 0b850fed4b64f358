"""The native decoder: the tokens of the checkpoint's own code, or that code itself."""

from __future__ import annotations

import json
import logging
import types

import numpy as np
import pytest
import torch
from engines import checkpoints
from safetensors.torch import load_file, save_file

from worker.models import Unexplained, generation, native, open_model
from worker.models.hub import write_sums

TALL = types.SimpleNamespace(pixels=generation.invented_pixels(384, 320))
WIDE = types.SimpleNamespace(pixels=generation.invented_pixels(300, 400))
GREY = types.SimpleNamespace(pixels=(np.arange(90_000).reshape(300, 300) % 251).astype(np.uint8))
PICTURES = [TALL, WIDE, GREY]
EQUAL = {"num_key_value_heads": 4}
NARROW = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 2}


def loaded(folder, **table):
    write_sums(folder, "phi")
    facts = {"engine": "chexfract", "path": str(folder), "licence_accepted_by": "A"}
    model = open_model("phi", facts | {"max_new_tokens": 24} | table, "cpu")
    model.load()
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return checkpoints.build_phi(tmp_path_factory.mktemp("phi") / "phi")


@pytest.fixture(scope="module")
def model(folder):
    return loaded(folder)


def by_own_code(model, pictures, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(model, "native", None)
        return model.describe(pictures)


def plain(answers):
    return [(answer.text, answer.tokens, answer.finish_reason) for answer in answers]


@pytest.mark.parametrize("shape", [{}, EQUAL, NARROW], ids=["grouped", "equal", "narrow"])
def test_the_same_is_said_as_by_the_checkpoints_own_code(tmp_path, shape, monkeypatch):
    folder = checkpoints.build_phi(tmp_path / "phi", shape=checkpoints.SMALL_PHI | shape, seed=5)
    model = loaded(folder)
    assert model.native is not None
    answers = model.describe(PICTURES)
    assert plain(answers) == plain(by_own_code(model, PICTURES, monkeypatch))
    assert model.info.parameters["decoder"] == "native"
    assert shape == NARROW or len({answer.text for answer in answers}) > 1, "the pictures are seen"


def test_a_batch_says_what_single_calls_say(model):
    together = plain(model.describe(PICTURES))
    assert together == [plain(model.describe([picture]))[0] for picture in PICTURES]


def test_rows_of_different_prompts_are_padded_and_end_by_themselves(model, monkeypatch):
    first = plain(model.describe(PICTURES))
    token = model.processor.tokenizer(first[0][0], add_special_tokens=False).input_ids[2]
    monkeypatch.setattr(model, "stops", sorted({*model.stops, token}))
    monkeypatch.setattr(model.model.generation_config, "eos_token_id", model.stops)
    answers = model.describe(PICTURES)
    assert answers[0].finish_reason == "stop"
    assert plain(answers) == plain(by_own_code(model, PICTURES, monkeypatch))


def test_weights_are_shared_and_not_copied(model):
    ours = dict(model.native._phi3.named_parameters())
    theirs = dict(model.model.named_parameters())
    for name, weight in ours.items():
        assert weight.data_ptr() == theirs[name].data_ptr(), name


def test_a_model_that_is_phi3_by_its_names_only_is_left_to_its_own_code(tmp_path, caplog):
    folder = checkpoints.build_phi(tmp_path / "phi", "OtherTurnForCausalLM")
    with caplog.at_level(logging.INFO):
        model = loaded(folder, decoder="native")
    assert model.native is None
    assert "the native one says other tokens" in caplog.text
    assert "decoder" not in model.info.parameters
    assert model.describe([TALL])[0].text


def test_a_last_layer_that_is_the_embedding_is_tied_as_older_code_lists_it(tmp_path, monkeypatch):
    folder = checkpoints.build_phi(tmp_path / "phi")
    code = folder / "modeling_phi.py"
    mark = "    wrong_turn = 1.0\n"
    listed = f'{mark}    _tied_weights_keys = ["lm_head.weight"]\n'
    code.write_text(code.read_text().replace(mark, listed, 1))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    path = folder / "model.safetensors"
    weights = {name: value.clone() for name, value in load_file(path).items()}
    del weights["lm_head.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    model = loaded(folder)
    assert model.model.lm_head.weight.data_ptr() == model.model.model.embed_tokens.weight.data_ptr()
    assert model.native is not None
    assert plain(model.describe([TALL])) == plain(by_own_code(model, [TALL], monkeypatch))


def test_another_language_model_is_left_to_its_own_code(tmp_path, caplog):
    folder = checkpoints.build(tmp_path / "small")
    with caplog.at_level(logging.INFO):
        model = loaded(folder, decoder="native")
    assert model.native is None
    assert "not named as Phi-3's" in caplog.text


def test_the_checkpoints_own_code_can_be_asked_for(folder):
    assert loaded(folder, decoder="remote").native is None


def test_a_prompt_beyond_one_set_of_rotations_is_left_to_its_own_code(model, monkeypatch):
    monkeypatch.setattr(model.native, "longest", 30)
    calls = []
    generate = model.model.generate
    monkeypatch.setattr(
        model.model, "generate", lambda **options: calls.append(1) or generate(**options)
    )
    assert model.describe([TALL])[0].text
    assert calls == [1]


def test_time_and_length_end_an_answer(folder):
    cut = loaded(folder, max_new_tokens=5)
    (answer,) = cut.describe([TALL])
    assert (answer.tokens, answer.finish_reason) == (5, "length")
    short = loaded(folder, max_time=1e-9)
    (answer,) = short.describe([TALL])
    assert (answer.tokens, answer.finish_reason) == (1, "time")


def test_each_token_is_progress_and_looked_at(model):
    """A weight that is NaN spoils the logits: it is seen before a token is chosen by them."""
    calls = []
    (answer,) = model.describe([TALL], lambda: calls.append(1))
    assert len(calls) >= answer.tokens
    with torch.no_grad():
        kept = model.model.lm_head.weight[5].clone()
        model.model.lm_head.weight[5] = float("nan")
    try:
        with pytest.raises(Exception, match="not finite") as error:
            model.describe([TALL])
        assert not isinstance(error.value, Unexplained), "the trial picture has it too"
    finally:
        with torch.no_grad():
            model.model.lm_head.weight[5] = kept


def test_a_longer_answer_goes_past_one_length_of_the_cache(folder, monkeypatch):
    monkeypatch.setattr(native, "BUCKET", 8)
    model = loaded(folder, max_new_tokens=40)
    answers = model.describe(PICTURES)
    assert plain(answers) == plain(by_own_code(model, PICTURES, monkeypatch))


def plain_phi3(shape):
    """Return a plain Phi-3 without a picture."""
    from transformers import Phi3Config, Phi3ForCausalLM

    small = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    ids = {"vocab_size": 40, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": None}
    return Phi3ForCausalLM(Phi3Config(**small, **heads, **ids, **shape)).eval()


@pytest.mark.parametrize("loop", [native._HostLoop, native._Loop])
def test_rotations_near_their_last_position_are_those_of_the_prompt(loop):
    """The cache is longer than the text may become, which must choose no other rotations."""
    factors = {"short_factor": [1.0] * 4, "long_factor": [9.0] * 4}
    torch.manual_seed(3)
    places = {"max_position_embeddings": 4096, "original_max_position_embeddings": 100}
    phi3 = plain_phi3(places | {"rope_scaling": {"type": "longrope", **factors}})
    ids = torch.randint(1, 40, (2, 91))
    with torch.inference_mode():
        out = phi3(input_ids=ids[:, :-1], use_cache=True)
        steps = loop(phi3)
        steps.begin(out.past_key_values, torch.ones(2, 90), torch.full((2,), 90), 10)
        logits = steps.step(ids[:, -1])
        wanted = phi3(input_ids=ids, use_cache=False).logits[:, -1]
    assert torch.allclose(logits, wanted, atol=1e-5)


def test_what_a_sliding_window_would_cut_is_left_to_the_checkpoints_code():
    remote = plain_phi3({"sliding_window": 40, "max_position_embeddings": 512})
    assert native.NativeDecoder(remote).longest == 40
    assert native.NativeDecoder(plain_phi3({"sliding_window": None})).longest == 4096
