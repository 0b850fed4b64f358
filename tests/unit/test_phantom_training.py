"""Training makes a folder that loads, from seeds that nobody is shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from worker.phantom import draw, train
from worker.phantom.evaluate import Reader
from worker.phantom.seeds import RESERVED, TRAINING


def test_training_refuses_reserved_seeds(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="reserved"):
        train.train(tmp_path, train.TrainingOptions(seed=RESERVED[-1]))
    assert list(tmp_path.iterdir()) == []


def test_no_seed_is_both_reserved_and_for_training() -> None:
    assert set(RESERVED).isdisjoint(TRAINING)
    assert train.TrainingOptions().seed in TRAINING


def test_a_short_training_learns_and_can_be_loaded(tmp_path: Path) -> None:
    options = train.TrainingOptions(drawings=8, looks=96, batch=8, threads=1)
    seconds = train.train(tmp_path, options)
    assert 0 < seconds < 60
    weights = load_file(tmp_path / "model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float16}
    texts = Reader(tmp_path).read([draw.phantom(1, 0).uint8])
    assert len(texts) == 1


def test_the_loss_falls_on_one_batch() -> None:
    """A model that cannot learn four drawings by heart learns nothing from thousands."""
    torch.manual_seed(0)
    model = train.new_model()
    where = torch.nn.Linear(model.config.hidden_size, 18)
    drawings = train.draw_all(TRAINING[0], 4, 1)
    tokenizer = train._train_tokenizer()
    options = train.TrainingOptions(looks=4, batch=4)
    (batch,) = train.looks(drawings, tokenizer, model.config, options)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    history = []
    for _ in range(12):
        text, places = train.losses(model, where, batch)
        optimiser.zero_grad()
        torch.autograd.backward(text + places)
        optimiser.step()
        history.append(text.item())
    assert history[-1] < 0.7 * history[0]


def test_the_prompt_is_that_of_the_chat_template(tmp_path: Path) -> None:
    torch.manual_seed(0)
    train.write_settings(tmp_path)
    train.save_weights(train.new_model(), tmp_path)
    reader = Reader(tmp_path)
    assert reader.prompt == train._prompt_text()
    assert np.array_equal(
        reader.processor.tokenizer(reader.prompt).input_ids,
        train._encode_text(train._train_tokenizer(), reader.prompt),
    )
