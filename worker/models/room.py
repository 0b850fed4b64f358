"""How much memory a model takes: its weights, and what each picture adds while it is described."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from math import prod
from pathlib import Path

from worker.models.checkpoint import WEIGHTS, Checkpoint
from worker.models.quantization import is_outside

SIZES = {"float32": 4, "float16": 2, "bfloat16": 2}
"""Bytes of a number of the dtypes in which models are loaded."""
FLOATING = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""Bytes of a number in a safetensors file that takes the dtype of the model."""
OTHER = {"I64": 8, "U64": 8, "I32": 4, "U32": 4, "I16": 2, "U16": 2}
LOOKED_UP = ("embed", "wte", "wpe")
"""Parts of the names of tables that are not linear layers: they stay whole."""
SHARES = {"8bit": 1.0, "4bit": 0.5 + 4 / 64, "int8": 1.0, "fp8": 1.0}
"""Bytes of a number in fewer bits; NF4 keeps a scale of 4 bytes for 64 numbers."""
TEXT_PARTS = ("text_config", "llm_config", "language_config")
PROMPT_TOKENS = 1500
"""Image tokens and words of a prompt, where nothing says how many: 37 x 37 patches and some."""
LONGEST_HEADER = 1 << 27


def needed(files: Checkpoint, dtype: str, quantization: str = "none") -> int:
    """Return the bytes that the weights take as `dtype`, the language model in fewer bits.

    Files other than safetensors do not say what they hold: their size counts.
    """
    paths = [path for path in files.files() if path.suffix in WEIGHTS]
    if any(path.suffix == ".safetensors" for path in paths):
        # the same weights once more, which are not loaded
        paths = [path for path in paths if not path.name.startswith("pytorch_model")]
    return int(sum(_file_bytes(path, dtype, quantization) for path in paths))


def per_picture(files: Checkpoint, dtype: str, new_tokens: int) -> int:
    """Return the bytes that one picture of a batch takes beside the weights; 0: not known.

    The cache of keys and values, logits of every position in float32 and the largest activations,
    attention scores among them, as eager code makes them.
    """
    try:
        content = json.loads((files.folder / "config.json").read_text(encoding="utf-8"))
        shape = next(
            (content[key] for key in TEXT_PARTS if isinstance(content.get(key), dict)), content
        )
        layers, width = int(shape["num_hidden_layers"]), int(shape["hidden_size"])
        heads = int(shape["num_attention_heads"])
        shared = int(shape.get("num_key_value_heads") or heads)
        head = int(shape.get("head_dim") or width // heads)
        inner = int(shape.get("intermediate_size") or 4 * width)
        words = int(shape.get("vocab_size") or 0)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError,
            RecursionError):  # fmt: skip
        return 0  # whoever loads it says what is wrong with it
    if min(layers, width, heads, shared, head, inner) <= 0 or words < 0:
        return 0
    size = SIZES.get(dtype, 4)
    longest = int(shape.get("max_position_embeddings") or 0) or PROMPT_TOKENS + new_tokens
    prompt = min(PROMPT_TOKENS, longest)
    # Keys and values of each layer, for each position of prompt and answer.
    cache = 2 * layers * shared * head * size * min(prompt + new_tokens, longest)
    logits = prompt * words * (4 + size)
    # The widest moment of a layer: gate, up and their product, the hidden states around them, and
    # scores of all heads before and after the softmax.
    activations = prompt * (3 * inner + 8 * width) * size + 2 * heads * prompt**2 * 4
    return cache + logits + activations


def _file_bytes(path: Path, dtype: str, quantization: str) -> float:
    if path.suffix != ".safetensors":
        return path.stat().st_size
    try:
        return sum(
            _tensor_bytes(name, kind, shape, dtype, quantization)
            for name, kind, shape in _read_tensor_heads(path)
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, struct.error):
        return path.stat().st_size  # whoever loads it says what is wrong with it


def _tensor_bytes(name: str, kind: str, shape: list[int], dtype: str, quantization: str) -> float:
    count = prod(shape)
    if kind not in FLOATING:
        return count * OTHER.get(kind, 1)
    is_linear = len(shape) == 2 and name.endswith(".weight")
    is_table = any(part in name.lower() for part in LOOKED_UP)
    if quantization in SHARES and is_linear and not is_table and not is_outside(name):
        return count * SHARES[quantization]
    return count * SIZES.get(dtype, FLOATING[kind])


def _read_tensor_heads(path: Path) -> Iterator[tuple[str, str, list[int]]]:
    """Yield name, dtype and shape of each tensor from the head of a safetensors file."""
    with path.open("rb") as file:
        # A safetensors file begins with 8 bytes of length and a JSON head of that length.
        (length,) = struct.unpack("<Q", file.read(8))
        head = json.loads(file.read(min(length, LONGEST_HEADER)))
    for name, tensor in head.items():
        if name != "__metadata__":
            yield name, tensor["dtype"], tensor["shape"]
