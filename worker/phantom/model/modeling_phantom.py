"""A small picture encoder and a two-layer decoder that are called as ChexFract is.

Negative ids stand where the picture's tokens belong, a chat template makes the prompt, a
`DynamicCache` keeps keys and values: the code around a large model is exercised by this one.
"""

import torch
from torch import nn
from torch.nn import functional
from transformers.cache_utils import DynamicCache
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.modeling_utils import PreTrainedModel

from .configuration_phantom import PhantomBonesConfig


def convolution(inside, outside, stride=1, kernel=3):
    """Return convolution, normalisation and activation."""
    return nn.Sequential(
        nn.Conv2d(inside, outside, kernel, stride, kernel // 2, bias=False),
        nn.GroupNorm(8, outside),
        nn.ReLU(),
    )


class Residual(nn.Module):
    """Two convolutions around which the input is added."""

    def __init__(self, channels):
        super().__init__()
        self.a = convolution(channels, channels)
        self.b = convolution(channels, channels)

    def forward(self, x):
        return x + self.b(self.a(x))


class Block(nn.Module):
    """One pre-norm transformer layer; `index` is its place in the cache."""

    def __init__(self, config, index=0):
        super().__init__()
        width = config.hidden_size
        self.index, self.heads = index, config.num_attention_heads
        self.n1, self.n2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.o = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x, mask=None, cache=None):
        b, t, d = x.shape
        qkv = self.qkv(self.n1(x)).reshape(b, t, 3, self.heads, d // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        if cache is not None:
            k, v = cache.update(k, v, self.index)
        x = x + self.o(_attention(q, k, v, mask).transpose(1, 2).reshape(b, t, d))
        return x + self.down(functional.gelu(self.up(self.n2(x))))


class Encoder(nn.Module):
    """Picture (batch, 1, side, side) to tokens (batch, (side / 16) ** 2, width)."""

    def __init__(self, config):
        super().__init__()
        channels, width = config.channels, config.hidden_size
        self.net = nn.Sequential(
            convolution(1, 16, 2, 5),
            convolution(16, 48, 2),
            convolution(48, 48),
            convolution(48, channels, 2),
            Residual(channels),
        )
        self.proj = nn.Linear(4 * channels, width)
        self.pos = nn.Parameter(torch.zeros(1, config.num_img_tokens, width))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_vision_layers))

    def forward(self, picture):
        # Each 2 x 2 block of cells becomes one token; tokens then see each other.
        cells = functional.pixel_unshuffle(self.net(picture), 2).flatten(2).transpose(1, 2)
        x = self.proj(cells) + self.pos
        for block in self.blocks:
            x = block(x)
        return x


class PhantomBonesForCausalLM(PreTrainedModel, GenerationMixin):
    """Picture and prompt in, report out."""

    config_class = PhantomBonesConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    _supports_cache_class = True

    def __init__(self, config):
        super().__init__(config)
        width = config.hidden_size
        self.vision = Encoder(config)
        self.wte = nn.Embedding(config.vocab_size, width)
        self.wpe = nn.Embedding(config.max_position_embeddings, width)
        self.blocks = nn.ModuleList(Block(config, i) for i in range(config.num_hidden_layers))
        self.nf = nn.LayerNorm(width)
        self.lm_head = nn.Linear(width, config.vocab_size, bias=False)
        self.post_init()

    def _init_weights(self, module):
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.02)
            if getattr(module, "bias", None) is not None:
                nn.init.zeros_(module.bias)

    def get_input_embeddings(self):
        return self.wte

    def get_output_embeddings(self):
        return self.lm_head

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        pixel_values=None,
        image_sizes=None,
        position_ids=None,
        past_key_values=None,
        labels=None,
        use_cache=None,
        features=None,
        **unused,
    ):
        """Return logits, and the loss where `labels` are given; `features` skip the encoder."""
        b, t = input_ids.shape
        past = 0 if past_key_values is None else past_key_values.get_seq_length()
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache()
        if attention_mask is None:
            attention_mask = torch.ones(b, past + t, dtype=torch.long, device=input_ids.device)
        if position_ids is None:
            position_ids = (attention_mask.long().cumsum(-1) - 1).clamp_min(0)
        x = self._embed(input_ids, pixel_values, features) + self.wpe(position_ids[:, -t:])
        mask = _mask(attention_mask, t)
        for block in self.blocks:
            x = block(x, mask, past_key_values)
        logits = self.lm_head(self.nf(x))
        loss = None
        if labels is not None:
            guess = logits[:, :-1].float().flatten(0, 1)
            loss = functional.cross_entropy(guess, labels[:, 1:].flatten(), ignore_index=-100)
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=past_key_values)

    def _embed(self, input_ids, pixel_values, features):
        x = self.wte(input_ids.clamp_min(0))
        image = input_ids < 0
        if (pixel_values is None and features is None) or not bool(image.any()):
            return x
        if features is None:
            features = self.vision(pixel_values.to(x.dtype))
        flat = features.reshape(-1, features.shape[-1]).to(x.dtype)
        return x.masked_scatter(image.unsqueeze(-1), flat)

    def prepare_inputs_for_generation(
        self,
        input_ids,
        past_key_values=None,
        attention_mask=None,
        pixel_values=None,
        image_sizes=None,
        use_cache=True,
        **unused,
    ):
        """Pass only the new id, and no picture, once the prompt is in the cache."""
        past = 0 if past_key_values is None else past_key_values.get_seq_length()
        if past:
            input_ids, pixel_values, image_sizes = input_ids[:, past:], None, None
        return {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "past_key_values": past_key_values,
            "pixel_values": pixel_values,
            "image_sizes": image_sizes,
            "use_cache": use_cache,
        }


def _attention(q, k, v, mask):
    """Return what each query sees; on a CPU faster to train than the fused function."""
    weights = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    if mask is not None:
        weights = weights.masked_fill(~mask, torch.finfo(weights.dtype).min)
    return weights.softmax(-1).to(v.dtype) @ v


def _mask(attention_mask, t):
    """Return the causal and padding mask; a padded row sees itself, so that none is empty."""
    n, device = attention_mask.shape[1], attention_mask.device
    causal = torch.ones(t, n, dtype=torch.bool, device=device).tril(n - t)
    itself = torch.eye(t, n, dtype=torch.bool, device=device).roll(n - t, 1)
    return (causal[None, None] & attention_mask[:, None, None, :].bool()) | itself[None, None]
