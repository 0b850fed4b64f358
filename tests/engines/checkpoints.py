"""Build small checkpoints whose code and files have the quirks of the field's real ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

CODE = Path(__file__).parent / "small"
SPECIAL = ["<s>", "<|endoftext|>", "<|user|>", "<|assistant|>", "<|end|>", "<|system|>"]
MARKS = ["<img>", "</img>"]
CHAT = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
SCALES = {"wte": 0.3, "wpe": 0.3, "vision": 3.0, "qkv": 0.1, "out": 1.5, "norm.weight": 0.5}
"""So that picture and place count for more than the last token."""
TURNS = (
    "{% for m in messages %}<|{{ m['from'] }}|>{{ m['value'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def bytes_to_letters() -> list[str]:
    """Return the letter that byte-level tokenizers write for each byte."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters, more = {b: chr(b) for b in kept}, 256
    for byte in range(256):
        if byte not in letters:
            letters[byte], more = chr(more), more + 1
    return [letters[byte] for byte in range(256)]


def write_tokenizer(
    folder: Path,
    chat: str,
    kind: str = "PreTrainedTokenizerFast",
    marks: Sequence[str] = MARKS,
) -> None:
    """One token per byte and the special ones before them."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    specials = [*SPECIAL, *marks]
    vocabulary = {token: i for i, token in enumerate([*specials, *bytes_to_letters()])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in specials])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": kind,
        "bos_token": "<s>",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "chat_template": chat,
        "model_max_length": 512,
    }
    if kind != "PreTrainedTokenizerFast":
        config["auto_map"] = {"AutoTokenizer": [None, f"processing_small.{kind}"]}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def build(
    folder: Path,
    model: str = "SmallForCausalLM",
    auto: str = "AutoModelForCausalLM",
    processor: str = "SmallProcessor",
    tokenizer: str = "PreTrainedTokenizerFast",
    seed: int = 0,
    width: int = 32,
) -> Path:
    """Write a checkpoint with random weights into `folder`."""
    folder.mkdir(parents=True)
    for path in CODE.glob("*.py"):
        shutil.copyfile(path, folder / path.name)
    write_tokenizer(folder, TURNS if tokenizer == "FileTokenizer" else CHAT, tokenizer)
    if processor:
        image = {"AutoImageProcessor": "processing_small.SmallImageProcessor"}
        content = {
            "auto_map": {**image, "AutoProcessor": f"processing_small.{processor}"},
            "image_processor_type": "SmallImageProcessor",
            "processor_class": processor,
        }
        (folder / "preprocessor_config.json").write_text(json.dumps(content))
    config = {
        "architectures": [model],
        "auto_map": {
            "AutoConfig": "configuration_small.SmallConfig",
            auto: f"modeling_small.{model}",
        },
        "model_type": "small-bones",
        "hidden_size": width,
        "_attn_implementation": "flash_attention_2",
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config))
    generation = {"eos_token_id": 1, "pad_token_id": 1, "do_sample": True, "temperature": 0.7}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    write_weights(folder, seed, width=width)
    return folder


def shapes(vocabulary: int = 272, width: int = 32, layers: int = 2) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of the small model's weights."""
    found = {"wte.weight": (vocabulary, width), "wpe.weight": (512, width)}
    found |= {"vision.weight": (width, 3), "vision.bias": (width,)}
    for i in range(layers):
        for name, out, inside in (
            ("qkv", 3 * width, width),
            ("out", width, width),
            ("up", 2 * width, width),
            ("down", width, 2 * width),
        ):
            found[f"layers.{i}.{name}.weight"] = (out, inside)
            found[f"layers.{i}.{name}.bias"] = (out,)
        found |= {f"layers.{i}.norm.weight": (width,), f"layers.{i}.norm.bias": (width,)}
    return found | {"lm_head.weight": (vocabulary, width)}


def scale(name: str) -> float:
    """Return the deviation of a weight."""
    return next((value for part, value in SCALES.items() if part in name), 0.3)


def write_weights(
    folder: Path, seed: int = 0, drop: str = "", add: str = "", width: int = 32
) -> None:
    """Write random weights; without the key `drop`, with a key `add` that no code knows."""
    import torch
    from safetensors.torch import save_file

    random = torch.Generator().manual_seed(seed)
    weights = {
        name: torch.randn(shape, generator=random) * scale(name)
        for name, shape in shapes(width=width).items()
        if name != drop
    }
    if add:
        weights[add] = torch.zeros(2)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


SMALL_PHI = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def build_phi(
    folder: Path,
    model: str = "PhiShapedForCausalLM",
    shape: dict[str, int] = SMALL_PHI,
    image_tokens: int = 16,
    seed: int = 0,
    dtype: str = "float32",
) -> Path:
    """Write a checkpoint whose language model has Phi-3's key names, with random weights."""
    import torch
    from safetensors.torch import save_file

    build(folder, model)
    config = json.loads((folder / "config.json").read_text())
    extra = {"rms_norm_eps": 1e-5, "rope_theta": 10000.0, "max_position_embeddings": 4096}
    config |= shape | extra | {"original_max_position_embeddings": 4096}
    config["vocab_size"] = shape.get("vocab_size", 272)
    config["auto_map"]["AutoModelForCausalLM"] = f"modeling_phi.{model}"
    (folder / "config.json").write_text(json.dumps(config))
    processor = json.loads((folder / "preprocessor_config.json").read_text())
    processor |= {"image_tokens": image_tokens, "side": max(8, int(image_tokens**0.5))}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    kind = getattr(torch, dtype)
    random = torch.Generator().manual_seed(seed)
    weights = {
        name: (torch.ones(size) if "norm" in name else torch.randn(size, generator=random) * scale)
        .to(kind)
        .contiguous()
        for name, size, scale in phi_shapes(config)
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def phi_shapes(config: dict) -> list[tuple[str, tuple[int, ...], float]]:
    """Return names, shapes and deviations of the weights of `build_phi`."""
    width, inner, words = (
        config["hidden_size"],
        config["intermediate_size"],
        config["vocab_size"],
    )
    rows = width + 2 * width // config["num_attention_heads"] * config["num_key_value_heads"]
    plain = width**-0.5
    found = [
        ("model.embed_tokens.weight", (words, width), 1.0),
        ("model.vision_embed_tokens.img_projection.weight", (width, 3), 1.0),
        ("model.vision_embed_tokens.img_projection.bias", (width,), 1.0),
        ("model.norm.weight", (width,), 1.0),
        ("lm_head.weight", (words, width), plain * 3),
    ]
    for i in range(config["num_hidden_layers"]):
        at = f"model.layers.{i}"
        found += [
            (f"{at}.self_attn.qkv_proj.weight", (rows, width), 2 * plain),
            (f"{at}.self_attn.o_proj.weight", (width, width), plain),
            (f"{at}.mlp.gate_up_proj.weight", (2 * inner, width), plain),
            (f"{at}.mlp.down_proj.weight", (width, inner), inner**-0.5),
            (f"{at}.input_layernorm.weight", (width,), 1.0),
            (f"{at}.post_attention_layernorm.weight", (width,), 1.0),
        ]
    return found


PARTS = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{% for part in m['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def build_llava(folder: Path) -> Path:
    """Write a LLaVA of some ten thousand random weights: a kind that servers know by themselves."""
    import torch
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
    )

    torch.manual_seed(0)
    layers = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    layers["num_attention_heads"] = 2
    language = {"vocab_size": 264, "max_position_embeddings": 1024, "num_key_value_heads": 2}
    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**layers, image_size=32, patch_size=8, projection_dim=32),
        text_config=LlamaConfig(**layers, **language, **ends),
        image_token_index=len(SPECIAL),
        image_seq_length=16,
        vision_feature_layer=-1,
        tie_word_embeddings=False,
    )
    model = LlavaForConditionalGeneration(config)
    for weights in model.parameters():
        if weights.dim() > 1:
            torch.nn.init.normal_(weights, std=0.3)
    model.save_pretrained(folder)
    write_tokenizer(folder, PARTS, marks=("<image>", "</image>"))
    (folder / "chat_template.jinja").write_text(PARTS)
    processor = {
        "processor_class": "LlavaProcessor",
        "patch_size": 8,
        "vision_feature_select_strategy": "default",
        "image_token": "<image>",
        "num_additional_image_tokens": 1,
    }
    (folder / "processor_config.json").write_text(json.dumps(processor))
    picture = {
        "image_processor_type": "CLIPImageProcessor",
        "processor_class": "LlavaProcessor",
        "size": {"shortest_edge": 32},
        "crop_size": {"height": 32, "width": 32},
        "image_mean": [0.5] * 3,
        "image_std": [0.2] * 3,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(picture))
    return folder
