"""Linear layers of the language model in 8 or 4 bits; the picture encoder stays whole.

By bitsandbytes (``8bit``, ``4bit``) or torchao (``int8``, ``fp8``).
"""

from __future__ import annotations

import importlib
import logging
import warnings
from typing import Any

from dicom_node.base.errors import ConfigurationError

BY_TORCHAO = {"int8": "Int8WeightOnlyConfig", "fp8": "Float8WeightOnlyConfig"}
"""Word of the table -> torchao's configuration."""
EXTRAS = {"bitsandbytes": "quantization", "torchao": "torchao"}
"""Package -> the extra of this project that brings it."""
NOT_LANGUAGE = ("vision", "img", "image", "encoder", "projector", "lm_head")
"""Parts of a module's path that keep it out: picture encoders, their projection, the last layer."""


def quantize(model: Any, how: str) -> Any:
    """Replace the language model's linear layers; their weights shrink on their way to the device.

    Parameters
    ----------
    model : torch.nn.Module
        Loaded on the CPU.
    how : str
        ``8bit`` (LLM.int8) or ``4bit`` (NF4, computed in the model's dtype) by bitsandbytes;
        ``int8`` or ``fp8`` (weights alone, computed in the model's dtype) by torchao.

    Raises
    ------
    ConfigurationError
        Its package is not installed.
    """
    import torch

    def is_meant(module: Any, name: str) -> bool:
        return type(module) is torch.nn.Linear and not is_outside(name)

    if how in BY_TORCHAO:
        small = _package("torchao.quantization", how)
        small.quantize_(model, getattr(small, BY_TORCHAO[how])(), filter_fn=is_meant)
        return model
    bitsandbytes = _package("bitsandbytes", how)
    # it would warn of its casts, which are meant, at each layer of each token
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    names = [name for name, module in model.named_modules() if is_meant(module, name)]
    for name in names:
        parent, _, last = name.rpartition(".")
        owner = model.get_submodule(parent)
        setattr(owner, last, _quantized_layer(bitsandbytes.nn, getattr(owner, last), how))
    return model


def _package(name: str, how: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torchao tells of kernels for other devices
            return importlib.import_module(name)
    except ImportError as exc:
        package = name.partition(".")[0]
        raise ConfigurationError(
            f'quantization = "{how}" needs the package {package} (the extra `{EXTRAS[package]}`); '
            f'install it or write "none"'
        ) from exc


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
