"""Linear layers of the language model in 8 or 4 bits, by bitsandbytes; the encoder stays whole."""

from __future__ import annotations

import importlib
import logging
from typing import Any

from dicom_node.base.errors import ConfigurationError

NOT_LANGUAGE = ("vision", "img", "image", "encoder", "projector", "lm_head")
"""Parts of a module's path that keep it out: picture encoders, their projection, the last layer."""


def quantize(model: Any, how: str) -> Any:
    """Replace the language model's linear layers; their weights shrink on their way to the device.

    Parameters
    ----------
    model : torch.nn.Module
        Loaded on the CPU.
    how : str
        ``8bit`` (LLM.int8) or ``4bit`` (NF4, computed in the model's dtype).

    Raises
    ------
    ConfigurationError
        bitsandbytes is not installed.
    """
    import torch

    try:
        bitsandbytes = importlib.import_module("bitsandbytes")
    except ImportError as exc:
        raise ConfigurationError(
            "quantization: needs the package bitsandbytes (the extra `quantization`); install it "
            "or set it to none"
        ) from exc
    # it would warn of its casts, which are meant, at each layer of each token
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    names = [
        name
        for name, module in model.named_modules()
        if type(module) is torch.nn.Linear and not is_outside(name)
    ]
    for name in names:
        parent, _, last = name.rpartition(".")
        owner = model.get_submodule(parent)
        setattr(owner, last, _quantized_layer(bitsandbytes.nn, getattr(owner, last), how))
    return model


def is_outside(name: str) -> bool:
    """Whether a module or weight of this name keeps all of its bits."""
    return any(part in name.lower() for part in NOT_LANGUAGE)


def _quantized_layer(layers: Any, linear: Any, how: str) -> Any:
    has_bias = linear.bias is not None
    shape = (linear.in_features, linear.out_features)
    if how == "8bit":
        small = layers.Linear8bitLt(*shape, bias=has_bias, has_fp16_weights=False)
        small.weight = layers.Int8Params(
            linear.weight.data, requires_grad=False, has_fp16_weights=False
        )
    else:
        small = layers.Linear4bit(
            *shape, bias=has_bias, compute_dtype=linear.weight.dtype, quant_type="nf4"
        )
        small.weight = layers.Params4bit(linear.weight.data, requires_grad=False, quant_type="nf4")
    if has_bias:
        small.bias = linear.bias
    return small
