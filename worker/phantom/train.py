"""Train the demonstration model from nothing on phantoms drawn for it (CPU).

The loss of the text alone teaches slowly. A second loss, from a layer that must say where
each fracture is and that is thrown away afterwards, makes it quick. Every picture is looked
at in a new frame: cut closer, framed by bars, stretched, darker or brighter.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional

from dicom_node.base.plurals import counted
from worker.phantom import truth
from worker.phantom.lessons import Drawing, Place, draw_all, view_drawing
from worker.phantom.model import configuration_phantom, modeling_phantom
from worker.phantom.seeds import RESERVED, TRAINING

logger = logging.getLogger(__name__)

PROMPT = "Describe bones on this chest X-ray"
ROLES = ["<|user|>", "<|assistant|>", "<|end|>", "<|system|>"]
TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>\n{{ message.content }}<|end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
VOCABULARY = 384
START, STOP, END = 0, 1, 4
"""Ids of <s>, <|endoftext|> and <|end|>."""

MEAN, DEVIATION = 0.35, 0.22
CODE = ("configuration_phantom.py", "modeling_phantom.py", "processing_phantom.py", "README.md")


@dataclass(frozen=True)
class TrainingOptions:
    """How much is drawn and looked at.

    Attributes
    ----------
    drawings : int
        Phantoms drawn.
    looks : int
        Pictures shown, each drawing several times.
    seed : int
        Of drawing, initialisation and order; must not be reserved.
    threads : int
        Processes that draw, threads that train.
    """

    drawings: int = 16_000
    looks: int = 80_000
    batch: int = 32
    peak: float = 2e-3
    place_weight: float = 0.3
    seed: int = TRAINING[0]
    threads: int = 2


def train(out: Path, options: TrainingOptions | None = None) -> float:
    """Draw phantoms, train, and write a folder that transformers can load.

    Parameters
    ----------
    out : Path
        The folder; made when absent, its model files are replaced.
    options : TrainingOptions, optional
        How much is drawn and looked at.

    Returns
    -------
    float
        Seconds taken in all.

    Raises
    ------
    ValueError
        The seed is reserved for phantoms that are shown and evaluated.
    """
    options = options or TrainingOptions()
    if options.seed in RESERVED:
        raise ValueError(f"seed {options.seed} is reserved for evaluation; use {TRAINING[0]} up")
    started = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    write_settings(out)
    drawings = draw_all(options.seed, options.drawings, options.threads)
    drawn = counted(len(drawings), "phantom")
    logger.info("%s drawn in %.0f s", drawn, time.monotonic() - started)
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    model = new_model()
    config = model.config
    tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
    fit(model, looks(drawings, tokenizer, config, options), options)
    save_weights(model, out)
    return time.monotonic() - started


def new_model() -> Any:
    """Return the model as it is before it has learned anything."""
    config: Any = configuration_phantom.PhantomBonesConfig
    model: Any = modeling_phantom.PhantomBonesForCausalLM
    return model(config(vocab_size=VOCABULARY))


@dataclass(frozen=True, slots=True)
class TrainingBatch:
    """What one step learns from."""

    pictures: torch.Tensor
    places: torch.Tensor
    ids: torch.Tensor
    labels: torch.Tensor


def looks(
    drawings: list[Drawing], tokenizer: Tokenizer, config: Any, options: TrainingOptions
) -> Iterator[TrainingBatch]:
    """Yield every batch of the training, each drawing in a new frame each time."""
    rng = np.random.default_rng([options.seed, len(drawings), 1])
    before, after = _prompt_text().split("<|image_1|>")
    prompt = (
        _encode_text(tokenizer, before)
        + [-1] * config.num_img_tokens
        + _encode_text(tokenizer, after)
    )
    answers = [[*_encode_text(tokenizer, truth.text(d.findings)), END, STOP] for d in drawings]
    order: list[int] = []
    for _ in range(max(1, options.looks // options.batch)):
        if len(order) < options.batch:
            order = rng.permutation(len(drawings)).tolist()
        chosen, order = order[: options.batch], order[options.batch :]
        views = [view_drawing(rng, drawings[i], config.image_size) for i in chosen]
        pictures = torch.from_numpy(np.stack([pixels for pixels, _ in views])[:, None])
        contrast = torch.from_numpy(rng.uniform(0.85, 1.15, (len(chosen), 1, 1, 1)))
        shift = torch.from_numpy(rng.uniform(-0.06, 0.06, (len(chosen), 1, 1, 1)))
        pictures = ((pictures / 255 - 0.5) * contrast + 0.5 + shift).clamp(0, 1).float()
        ids, labels = _padded_rows(prompt, [answers[i] for i in chosen])
        places = _finding_cells([where for _, where in views], config.image_size)
        yield TrainingBatch((pictures - MEAN) / DEVIATION, places, ids, labels)


def _padded_rows(prompt: list[int], answers: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and labels, padded on the right; only answers are learned."""
    longest = max(map(len, answers))
    ids = [prompt + answer + [STOP] * (longest - len(answer)) for answer in answers]
    labels = [
        # -100 is the label that PyTorch's cross entropy leaves out.
        [-100] * len(prompt) + answer + [-100] * (longest - len(answer))
        for answer in answers
    ]
    return torch.tensor(ids), torch.tensor(labels)


def _finding_cells(views: list[list[Place]], side: int) -> torch.Tensor:
    """Return which finding is in which token's square: (batch, tokens, findings)."""
    count = side // 16
    cells = torch.zeros(len(views), count * count, len(truth.FINDINGS))
    for row, places in enumerate(views):
        for finding, x, y in places:
            column, line = (min(count - 1, max(0, int(v / 16))) for v in (x, y))
            cells[row, line * count + column, truth.FINDINGS.index(finding)] = 1
    return cells


def fit(model: Any, batches: Iterator[TrainingBatch], options: TrainingOptions) -> None:
    """Minimise the loss of the text and of the places; the rate follows the step, not the clock."""
    where = torch.nn.Linear(model.config.hidden_size, len(truth.FINDINGS))
    torch.nn.init.constant_(where.bias, -5)
    parameters = [*model.parameters(), *where.parameters()]
    optimiser = torch.optim.AdamW(parameters, weight_decay=0.02, betas=(0.9, 0.98), fused=True)
    steps = max(1, options.looks // options.batch)
    started, history = time.monotonic(), []
    for step, batch in enumerate(_prepare_ahead(batches)):
        cosine = 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimiser.param_groups:
            # Linear warm-up over 150 steps, then a cosine to nearly zero.
            group["lr"] = options.peak * min(1, (step + 1) / 150) * cosine + 1e-5
        text, places = losses(model, where, batch)
        optimiser.zero_grad()
        torch.autograd.backward(text + options.place_weight * places)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        history.append((text.item(), places.item()))
        if (step + 1) % 100 == 0 or step + 1 == steps:
            mean = np.mean(history[-100:], 0)
            rate = (step + 1) * options.batch / (time.monotonic() - started)
            logger.info("step %d/%d text %.4f place %.4f %.0f/s", step + 1, steps, *mean, rate)


def losses(model: Any, where: Any, batch: TrainingBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the loss of the text and that of the places."""
    with torch.autocast("cpu", torch.bfloat16):
        features = model.vision(batch.pictures)
        # Fractures are in a few of some two thousand cells: without the weight "nowhere" would be
        # the best guess.
        places = functional.binary_cross_entropy_with_logits(
            where(features).float(), batch.places, pos_weight=torch.tensor(20.0), reduction="sum"
        )
        text = model(
            input_ids=batch.ids, features=features, labels=batch.labels, use_cache=False
        ).loss
    return text, places / (20 * len(batch.pictures))


def _prepare_ahead(batches: Iterator[TrainingBatch]) -> Iterator[TrainingBatch]:
    """Prepare the next batch while the last is learned from."""
    with ThreadPoolExecutor(1) as thread:
        following = thread.submit(next, batches, None)
        while (batch := following.result()) is not None:
            following = thread.submit(next, batches, None)
            yield batch


def write_settings(out: Path) -> None:
    """Write everything but the weights: code, tokenizer and configuration files.

    The configuration is written by hand: what transformers 5 saves, 4 cannot always load.
    """
    source = Path(__file__).parent / "model"
    if out.resolve() != source.resolve():
        for name in CODE:
            if (source / name).exists():
                shutil.copyfile(source / name, out / name)
    _train_tokenizer().save(str(out / "tokenizer.json"))
    for name, content in _configuration_files().items():
        (out / name).write_text(json.dumps(content, indent=1) + "\n")


def save_weights(model: Any, out: Path) -> None:
    """Write the weights as float16; they are used as float32."""
    weights = {
        name: value.detach().half().contiguous() for name, value in model.state_dict().items()
    }
    save_file(weights, str(out / "model.safetensors"), metadata={"format": "pt"})


def _configuration_files() -> dict[str, dict[str, Any]]:
    """Return the configuration files by name."""
    special = {"bos_token_id": START, "eos_token_id": STOP, "pad_token_id": STOP}
    shape = {"image_size": 160, "num_img_tokens": 100}
    return {
        "config.json": {
            "architectures": ["PhantomBonesForCausalLM"],
            "auto_map": {
                "AutoConfig": "configuration_phantom.PhantomBonesConfig",
                "AutoModelForCausalLM": "modeling_phantom.PhantomBonesForCausalLM",
            },
            "model_type": "phantom-bones",
            "vocab_size": VOCABULARY,
            **shape,
            **special,
            "dtype": "float32",
            "torch_dtype": "float32",
            "tie_word_embeddings": False,
        },
        "generation_config.json": special
        | {"eos_token_id": [END, STOP], "do_sample": False, "max_new_tokens": 64},
        "preprocessor_config.json": {
            "auto_map": {
                "AutoImageProcessor": "processing_phantom.PhantomBonesImageProcessor",
                "AutoProcessor": "processing_phantom.PhantomBonesProcessor",
            },
            "image_processor_type": "PhantomBonesImageProcessor",
            "processor_class": "PhantomBonesProcessor",
            **shape,
            "image_mean": MEAN,
            "image_std": DEVIATION,
        },
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "add_bos_token": False,
            "bos_token": "<s>",
            "eos_token": "<|endoftext|>",
            "pad_token": "<|endoftext|>",
            "padding_side": "left",
            "clean_up_tokenization_spaces": False,
            "model_max_length": 256,
            "additional_special_tokens": ROLES,
            "chat_template": TEMPLATE,
        },
    }


def _train_tokenizer() -> Tokenizer:
    """Train a byte-level BPE on every sentence, so that nothing is unknown."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    corpus = [truth.text([finding]) for finding in truth.FINDINGS] + [truth.NORMAL, PROMPT]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<s>", "<|endoftext|>", *ROLES],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(corpus * 20, trainer)
    return bpe


def _prompt_text() -> str:
    return f"<|user|>\n<|image_1|>\n{PROMPT}<|end|>\n<|assistant|>\n"


def _encode_text(tokenizer: Tokenizer, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids
