"""The shipped demonstration model: loads as ChexFract does, reads phantoms, fails on faults."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForCausalLM

from worker.phantom import draw, evaluate, truth
from worker.phantom.evaluate import FAITHFUL, FAULTS, FOLDER, Reader, score

SEED = 910_000
"""Reserved: training has never drawn from it."""

Pixels = evaluate.Pixels


@pytest.fixture(scope="module")
def reader() -> Reader:
    """The shipped model."""
    torch.set_num_threads(2)
    return Reader()


@pytest.fixture(scope="module")
def phantoms() -> tuple[list[Pixels], list[frozenset[truth.Finding]]]:
    """Forty fresh phantoms and what is broken in them."""
    drawn = [draw.phantom(SEED, index) for index in range(40)]
    return [phantom.uint8 for phantom in drawn], [phantom.findings for phantom in drawn]


@pytest.fixture(scope="module")
def fractured() -> tuple[list[Pixels], list[frozenset[truth.Finding]]]:
    """Sixteen fresh phantoms, each with one fracture of a different bone."""
    found = [frozenset([finding]) for finding in truth.FINDINGS[:16]]
    drawn = [draw.phantom(SEED, 100 + index, match) for index, match in enumerate(found)]
    return [phantom.uint8 for phantom in drawn], found


def test_every_weight_is_loaded() -> None:
    _, info = AutoModelForCausalLM.from_pretrained(
        str(FOLDER), trust_remote_code=True, output_loading_info=True
    )
    assert [key for key, values in info.items() if values] == []


def test_the_folder_is_small_and_says_what_both_majors_need() -> None:
    config = json.loads((FOLDER / "config.json").read_text())
    tokenizer = json.loads((FOLDER / "tokenizer_config.json").read_text())
    assert config["tie_word_embeddings"] is False
    assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert (FOLDER / "model.safetensors").stat().st_size < 4_000_000


def test_fresh_phantoms_are_read_exactly(
    reader: Reader, phantoms: tuple[list[Pixels], list[frozenset[truth.Finding]]]
) -> None:
    pictures, truths = phantoms
    assert score("as drawn", reader.read(pictures), truths).exact >= 0.95


@pytest.mark.parametrize("name", ["letterboxed off centre", "any bars, up to 40 %"])
def test_bars_do_not_change_the_answers(
    reader: Reader, phantoms: tuple[list[Pixels], list[frozenset[truth.Finding]]], name: str
) -> None:
    pictures, truths = phantoms
    rng = np.random.default_rng(1)
    changed = [FAITHFUL[name](rng, picture) for picture in pictures]
    assert score(name, reader.read(changed), truths).exact >= 0.92


def test_single_fractures_of_every_bone_are_read(
    reader: Reader, fractured: tuple[list[Pixels], list[frozenset[truth.Finding]]]
) -> None:
    pictures, truths = fractured
    assert score("one fracture", reader.read(pictures), truths).exact >= 0.9


@pytest.mark.parametrize(
    "name",
    ["inverted", "mirrored left to right", "upside down", "transposed", "low byte of 12 bits"],
)
def test_a_pixel_fault_ruins_the_answer(
    reader: Reader, fractured: tuple[list[Pixels], list[frozenset[truth.Finding]]], name: str
) -> None:
    pictures, truths = fractured
    changed = [FAULTS[name](np.random.default_rng(0), picture) for picture in pictures]
    assert score(name, reader.read(changed), truths).exact <= 0.15


def test_a_mirrored_picture_is_read_as_the_other_side(
    reader: Reader, fractured: tuple[list[Pixels], list[frozenset[truth.Finding]]]
) -> None:
    texts = reader.read([picture[:, ::-1] for picture in fractured[0]])
    sides = [next(iter(findings)).side for findings in fractured[1]]
    other = {"left": "right", "right": "left"}
    right = [other[side] in text for text, side in zip(texts, sides, strict=True)]
    assert sum(right) >= 12


def test_a_row_of_a_batch_is_the_single_answer(
    reader: Reader, phantoms: tuple[list[Pixels], list[frozenset[truth.Finding]]]
) -> None:
    pictures = phantoms[0][:6]
    assert reader.read(pictures) == [reader.read([picture])[0] for picture in pictures]


def test_padding_on_the_left_does_not_change_the_answer(
    reader: Reader, fractured: tuple[list[Pixels], list[frozenset[truth.Finding]]]
) -> None:
    """A longer prompt in the same batch pads this one; its answer must be that of a single row."""
    image = Image.fromarray(fractured[0][3])
    longer = reader.prompt.replace("Describe", "Please, describe the")
    inputs = reader.processor([reader.prompt, longer], [image, image], return_tensors="pt")
    assert inputs["attention_mask"][0, 0] == 0
    ids = reader.model.generate(**inputs, max_new_tokens=64, do_sample=False)
    answer = ids[0, inputs["input_ids"].shape[1] :]
    text = reader.processor.decode(answer, skip_special_tokens=True)
    assert text.strip() == reader.read([fractured[0][3]])[0]


def test_the_cache_does_not_change_the_answer(
    reader: Reader, fractured: tuple[list[Pixels], list[frozenset[truth.Finding]]]
) -> None:
    inputs = reader.processor(reader.prompt, Image.fromarray(fractured[0][5]), return_tensors="pt")
    ids = [
        reader.model.generate(**inputs, max_new_tokens=64, do_sample=False, use_cache=cached)
        for cached in (True, False)
    ]
    assert torch.equal(*ids)


def test_image_places_are_negative_ids(reader: Reader) -> None:
    inputs = reader.processor(reader.prompt, Image.new("L", (300, 200)), return_tensors="pt")
    assert int((inputs["input_ids"] == -1).sum()) == reader.model.config.num_img_tokens
    assert inputs["image_sizes"].tolist() == [[200, 300]]


def test_an_answer_ends_with_a_stop_token(reader: Reader) -> None:
    inputs = reader.processor(reader.prompt, Image.new("L", (300, 200)), return_tensors="pt")
    tokenizer = reader.processor.tokenizer
    ids = reader.model.generate(
        **inputs, max_new_tokens=64, eos_token_id=tokenizer.eos_token_id, do_sample=False
    )
    ends = [tokenizer.convert_tokens_to_ids("<|end|>"), tokenizer.eos_token_id]
    assert ids[0, -2:].tolist() == ends


def test_evaluation_refuses_training_seeds(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1000000"):
        evaluate.evaluate(seed=1_000_000)
