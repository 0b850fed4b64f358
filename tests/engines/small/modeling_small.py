"""Small models with the calling habits of the field's real ones, old cache interface included."""

import time

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional
from transformers import PreTrainedTokenizerFast
from transformers.cache_utils import Cache, DynamicCache
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.modeling_utils import PreTrainedModel

from .configuration_small import SmallConfig

IMAGE_TOKENS = 16
IMAGE_PLACE = -200
FIRST_BYTE, IMG, END_IMG = 8, 6, 7


class Layer(nn.Module):
    def __init__(self, config, index):
        super().__init__()
        width = config.hidden_size
        self.index, self.heads = index, config.num_attention_heads
        self.norm = nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x, mask, cache):
        b, t, d = x.shape
        qkv = self.qkv(self.norm(x)).reshape(b, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv
        length = t
        if cache is not None:
            length += cache.get_usable_length(t, self.index)
            k, v = cache.update(k, v, self.index, {})
        assert k.shape[2] == length
        weights = q @ k.transpose(2, 3) * q.shape[-1] ** -0.5 + mask
        seen = weights.softmax(-1, dtype=torch.float32).to(x.dtype) @ v
        x = x + self.out(seen.transpose(1, 2).reshape(b, t, d))
        return x + self.down(functional.gelu(self.up(x)))


class SmallForCausalLM(PreTrainedModel, GenerationMixin):
    """Written as code for transformers 4.38 was: no sdpa, seen_tokens, legacy cache."""

    config_class = SmallConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    _supports_flash_attn_2 = True
    _supports_sdpa = False
    _supports_cache_class = True

    def __init__(self, config):
        super().__init__(config)
        width = config.hidden_size
        self.wte = nn.Embedding(config.vocab_size, width)
        self.wpe = nn.Embedding(config.max_position_embeddings, width)
        self.vision = nn.Linear(3, width)
        self.layers = nn.ModuleList(Layer(config, i) for i in range(config.num_hidden_layers))
        self.lm_head = nn.Linear(width, config.vocab_size, bias=False)
        self.post_init()

    def _init_weights(self, module):
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.5)

    def get_input_embeddings(self):
        return self.wte

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
        images=None,
        use_cache=None,
        return_dict=None,
        output_attentions=None,
        output_hidden_states=None,
        **unused,
    ):
        b, t = input_ids.shape
        is_legacy, past = False, 0
        if use_cache:
            is_legacy = not isinstance(past_key_values, Cache)
            if is_legacy:
                past_key_values = DynamicCache.from_legacy_cache(past_key_values)
            past = past_key_values.get_usable_length(t)
        else:
            past_key_values = None
        if position_ids is None:
            position_ids = torch.arange(past, past + t, device=input_ids.device)[None]
        position_ids = position_ids.view(-1, t).long()
        if attention_mask is None:
            attention_mask = torch.ones(b, past + t, dtype=torch.long, device=input_ids.device)
        pixels = pixel_values if pixel_values is not None else images
        x = self.embed(input_ids, pixels) + self.wpe(position_ids)
        mask = torch.full((t, past + t), torch.finfo(x.dtype).min, dtype=x.dtype).triu(past + 1)
        mask = mask[None, None].to(x.device) + (
            1 - attention_mask[:, None, None, :].to(x.dtype)
        ) * (torch.finfo(x.dtype).min / 2)
        for layer in self.layers:
            x = layer(x, mask, past_key_values)
        cache = past_key_values
        if cache is not None and is_legacy:
            cache = cache.to_legacy_cache()
        return CausalLMOutputWithPast(logits=self.lm_head(x), past_key_values=cache)

    def embed(self, input_ids, pixels):
        x = self.wte(input_ids.clamp_min(0))
        if pixels is None or not bool((input_ids < 0).any()):
            return x
        cells = functional.adaptive_avg_pool2d(pixels.to(x.dtype), 4).flatten(2).transpose(1, 2)
        tokens = self.vision(cells)
        for row in range(len(x)):
            places = (input_ids[row] < 0).nonzero().flatten()
            x[row, places] = tokens[row, : len(places)]
        return x

    def prepare_inputs_for_generation(
        self,
        input_ids,
        past_key_values=None,
        attention_mask=None,
        inputs_embeds=None,
        pixel_values=None,
        image_sizes=None,
        images=None,
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
            "images": images,
        }


class BrokenCacheForCausalLM(SmallForCausalLM):
    """Forgets the last token once there is a cache: the answer is another than without."""

    def prepare_inputs_for_generation(self, input_ids, past_key_values=None, **kwargs):
        made = super().prepare_inputs_for_generation(input_ids, past_key_values, **kwargs)
        if made["input_ids"].shape[1] == 1:
            made["input_ids"] = made["input_ids"] * 0
        return made


class NoPaddingForCausalLM(SmallForCausalLM):
    """Counts positions from the first id, padded or not."""

    def prepare_inputs_for_generation(self, input_ids, past_key_values=None, **kwargs):
        made = super().prepare_inputs_for_generation(input_ids, past_key_values, **kwargs)
        mask = made["attention_mask"]
        if mask is None:
            return made
        positions = torch.arange(mask.shape[1], device=mask.device)[None].expand(len(mask), -1)
        made["position_ids"] = positions[:, -made["input_ids"].shape[1] :]
        return made


class SlowStartForCausalLM(SmallForCausalLM):
    """Takes its time once, as a GPU does before its first token."""

    was_asked = False

    def forward(self, *args, **kwargs):
        if not self.was_asked:
            time.sleep(1.0)
        self.was_asked = True
        return super().forward(*args, **kwargs)


class FileForCausalLM(SmallForCausalLM):
    """Reads its picture from the file whose name stands between two marks, as Qwen-VL does."""

    def embed(self, input_ids, pixels):
        x = self.wte(input_ids.clamp_min(0))
        for row, ids in enumerate(input_ids.tolist()):
            if IMG in ids:
                start, end = ids.index(IMG), ids.index(END_IMG)
                name = bytes(i - FIRST_BYTE for i in ids[start + 1 : end]).decode()
                picture = np.asarray(Image.open(name).resize((4, 4)), np.float32) / 255
                seen = self.vision(torch.from_numpy(picture).mean((0, 1)).to(x))
                x[row, start:end] = seen
        return x


class Tower(nn.Module):
    def __init__(self):
        super().__init__()
        self.image_processor = TowerProcessor()


class TowerProcessor:
    def __call__(self, images, return_tensors):
        assert images.ndim == 3, images.shape
        assert images.shape[-1] == 1, images.shape
        grey = torch.from_numpy(images[None, ..., 0].astype(np.float32) / 255)[None]
        grey = functional.adaptive_avg_pool2d(grey, 8)
        return {"pixel_values": grey.expand(1, 3, 8, 8)}


class InsideModel(SmallForCausalLM):
    """Keeps tokenizer and picture processor inside itself, and insists on CUDA."""

    def __init__(self, config):
        super().__init__(config)
        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(config._name_or_path)
        self.vision_tower = Tower()

    def apply_chat_template(self, chat):
        return "".join(f"<|{turn['role']}|>{turn['content']}<|end|>" for turn in chat)

    def tokenizer_image_token(self, prompt, tokenizer, index, return_tensors=None):
        head, tail = prompt.split("<image>")
        ids = [*tokenizer(head).input_ids, index, *tokenizer(tail).input_ids]
        return torch.tensor(ids)

    def write_radiologic_report(self, image, temperature=0.2, top_p=0.8):
        chat = [{"role": "user", "content": "<image>\nReport."}]
        return self.generate_cxr_repsonse(chat=chat, image=image, temperature=0.2, top_p=0.8)

    def write_differential_diagnosis(self, image, temperature=0.2, top_p=0.8):
        chat = [{"role": "user", "content": "<image>\nDiagnoses."}]
        return self.generate_cxr_repsonse(chat=chat, image=image, temperature=0.2, top_p=0.8)

    def ask_question(self, question, image, temperature=0.2, top_p=0.8):
        chat = [{"role": "user", "content": "<image>\n" + question}]
        return self.generate_cxr_repsonse(chat=chat, image=image, temperature=0.2, top_p=0.8)

    def generate_cxr_repsonse(self, chat, image, temperature, top_p):
        raise RuntimeError("needs .cuda()")
