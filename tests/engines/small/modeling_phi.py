"""A small language model with Phi-3's key names, written as code for transformers 4.38 was."""

import torch
from torch import nn
from torch.nn import functional
from transformers.cache_utils import Cache, DynamicCache
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.modeling_utils import PreTrainedModel

from .configuration_small import SmallConfig


class RootNorm(nn.Module):
    def __init__(self, width, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x):
        wide = x.to(torch.float32)
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(x.dtype)


def turned(x):
    half = x.shape[-1] // 2
    return torch.cat((-x[..., half:], x[..., :half]), dim=-1)


class Attention(nn.Module):
    def __init__(self, config, index):
        super().__init__()
        self.index, self.heads = index, config.num_attention_heads
        self.groups = self.heads // config.num_key_value_heads
        self.size = config.hidden_size // self.heads
        self.theta = config.rope_theta
        rows = self.size * (self.heads + 2 * config.num_key_value_heads)
        self.qkv_proj = nn.Linear(config.hidden_size, rows, bias=False)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(self, x, mask, positions, cache):
        b, t, d = x.shape
        at = self.heads * self.size
        shared = at // self.groups
        q, k, v = self.qkv_proj(x).split([at, shared, shared], dim=-1)
        q, k, v = (one.view(b, t, -1, self.size).transpose(1, 2) for one in (q, k, v))
        steps = torch.arange(0, self.size, 2, device=x.device).float() / self.size
        angles = positions[..., None].float() * (self.theta**-steps)
        angles = torch.cat((angles, angles), dim=-1)[:, None]
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        q, k = q * cos + turned(q) * sin, k * cos + turned(k) * sin
        if cache is not None:
            length = t + cache.get_usable_length(t, self.index)
            k, v = cache.update(k, v, self.index, {"sin": sin, "cos": cos})
            assert k.shape[2] == length
        if self.groups > 1:
            k, v = k.repeat_interleave(self.groups, 1), v.repeat_interleave(self.groups, 1)
        weights = q @ k.transpose(2, 3) / self.size**0.5 + mask
        seen = weights.softmax(-1, dtype=torch.float32).to(x.dtype) @ v
        return self.o_proj(seen.transpose(1, 2).reshape(b, t, d))


class Feed(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.gate_up_proj = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x):
        gate, up = self.gate_up_proj(x).chunk(2, dim=-1)
        return self.down_proj(up * functional.silu(gate))


class Layer(nn.Module):
    def __init__(self, config, index):
        super().__init__()
        self.self_attn, self.mlp = Attention(config, index), Feed(config)
        self.input_layernorm = RootNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RootNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x, mask, positions, cache):
        x = x + self.self_attn(self.input_layernorm(x), mask, positions, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class Pictures(nn.Module):
    """The encoder: the picture's cells, projected."""

    def __init__(self, config):
        super().__init__()
        self.img_projection = nn.Linear(3, config.hidden_size)


class Decoder(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.vision_embed_tokens = Pictures(config)
        self.layers = nn.ModuleList(Layer(config, i) for i in range(config.num_hidden_layers))
        self.norm = RootNorm(config.hidden_size, config.rms_norm_eps)


class PhiShapedForCausalLM(PreTrainedModel, GenerationMixin):
    """Eager attention, a cache that grows, logits of every position in float32."""

    config_class = SmallConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    _supports_sdpa = False
    _supports_cache_class = True
    wrong_turn = 1.0

    def __init__(self, config):
        super().__init__(config)
        self.model = Decoder(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def _init_weights(self, module):
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.5)

    def get_input_embeddings(self):
        return self.model.embed_tokens

    def get_output_embeddings(self):
        return self.lm_head

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        pixel_values=None,
        image_sizes=None,
        use_cache=None,
        **unused,
    ):
        b, t = input_ids.shape
        past = 0
        if use_cache:
            if not isinstance(past_key_values, Cache):
                past_key_values = DynamicCache.from_legacy_cache(past_key_values)
            past = past_key_values.get_usable_length(t)
        else:
            past_key_values = None
        if position_ids is None:
            position_ids = torch.arange(past, past + t, device=input_ids.device)[None]
        position_ids = position_ids.view(-1, t).long()
        if attention_mask is None:
            attention_mask = torch.ones(b, past + t, dtype=torch.long, device=input_ids.device)
        x = self.embed(input_ids, pixel_values)
        mask = torch.full((t, past + t), torch.finfo(x.dtype).min, dtype=x.dtype).triu(past + 1)
        mask = mask[None, None].to(x.device) + (
            1 - attention_mask[:, None, None, :].to(x.dtype)
        ) * (torch.finfo(x.dtype).min / 2)
        for layer in self.model.layers:
            x = layer(x, mask, position_ids * self.wrong_turn, past_key_values)
        logits = self.lm_head(self.model.norm(x)).float()
        return CausalLMOutputWithPast(logits=logits, past_key_values=past_key_values)

    def embed(self, input_ids, pixels):
        x = self.model.embed_tokens(input_ids.clamp_min(0))
        if pixels is None or not bool((input_ids < 0).any()):
            return x
        places = (input_ids < 0).nonzero()
        side = int((input_ids[0] < 0).sum() ** 0.5)
        cells = functional.adaptive_avg_pool2d(pixels.float(), side).flatten(2).transpose(1, 2)
        tokens = self.model.vision_embed_tokens.img_projection(cells.to(x.dtype))
        for row in range(len(x)):
            here = places[places[:, 0] == row][:, 1]
            x[row, here[: tokens.shape[1]]] = tokens[row, : len(here)]
        return x

    def prepare_inputs_for_generation(
        self,
        input_ids,
        past_key_values=None,
        attention_mask=None,
        inputs_embeds=None,
        pixel_values=None,
        image_sizes=None,
        **kwargs,
    ):
        if past_key_values is not None:
            if isinstance(past_key_values, Cache):
                past_length = past_key_values.seen_tokens
                assert past_key_values.get_max_length() is None
            else:
                past_length = past_key_values[0][0].shape[2]
            input_ids = input_ids[:, past_length:]
        position_ids = kwargs.get("position_ids")
        if attention_mask is not None and position_ids is None:
            position_ids = (attention_mask.long().cumsum(-1) - 1).clamp_min(0)
            position_ids = position_ids[:, -input_ids.shape[1] :]
        return {
            "input_ids": input_ids,
            "position_ids": position_ids,
            "past_key_values": past_key_values,
            "use_cache": kwargs.get("use_cache"),
            "attention_mask": attention_mask,
            "pixel_values": pixel_values,
            "image_sizes": image_sizes,
        }


class OtherTurnForCausalLM(PhiShapedForCausalLM):
    """Phi-3 by its key names, and yet not: its positions count otherwise."""

    wrong_turn = 3.0
