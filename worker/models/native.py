"""A Phi-3 decoder of our own around a checkpoint's weights: prefill by transformers, a lean loop.

Code written for transformers 4.38 computes logits of all positions, grows its cache by copying it
at each token, and runs some sixty small kernels per layer. Where a checkpoint's language model is
Phi-3 by the names of its weights, transformers' own Phi3 (sdpa, logits of the last position) reads
the prompt that the checkpoint's code has embedded, and the loop below writes the answer into a
cache of fixed size. The weights are shared, not copied. Whether the tokens are the same is tried
before it is used.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from dicom_node.base.errors import ModelFault
from worker.models import remote_code

if TYPE_CHECKING:
    from worker.models.generation import Inputs, Observer

LAYER = re.compile(
    r"^model\.layers\.(\d+)\.(self_attn\.(qkv_proj|o_proj)|mlp\.(gate_up_proj|down_proj)|"
    r"input_layernorm|post_attention_layernorm)\.weight$"
)
WHOLE = ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight")
PER_LAYER = 6
BUCKET = 256
"""Lengths of the cache are multiples of it, so that few shapes are met."""
COPIED = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "rms_norm_eps",
    "rope_theta",
    "rope_scaling",
    "max_position_embeddings",
    "original_max_position_embeddings",
    "hidden_act",
    "sliding_window",
)


class NotPhi3(ModelFault):
    """The language model is not Phi-3; the text says by what it is seen."""


class _Embedded(Exception):
    """Carries the prompt's embeddings out of the checkpoint's code."""

    def __init__(self, hidden: Any) -> None:
        super().__init__()
        self.hidden = hidden


class NativeDecoder:
    """Greedy decoding of a loaded Phi-3 checkpoint.

    Parameters
    ----------
    remote : torch.nn.Module
        The model as the checkpoint's code built it, on its device.

    Raises
    ------
    NotPhi3
        Its language model is not Phi-3 by the names of its weights and its configuration.
    """

    def __init__(self, remote: Any) -> None:
        import torch

        weights = dict(remote.named_parameters())
        self._remote = remote
        config = _phi3_config(remote.config, weights)
        phi3 = remote_code.library().Phi3ForCausalLM
        # On the meta device only shapes are made: the weights come from the checkpoint by
        # assign=True, so that nothing is in memory twice.
        with torch.device("meta"):
            self._phi3 = phi3(config)
        wanted = {
            name: weights.get(name, weights["model.embed_tokens.weight"])
            for name in self._phi3.state_dict()
        }
        self._phi3.load_state_dict(wanted, assign=True)
        rotary = type(self._phi3.model.rotary_emb)(config=config)  # real ones: buffers, no weights
        self._phi3.model.rotary_emb = rotary.to(weights["model.norm.weight"].device)
        self._phi3.eval().requires_grad_(requires_grad=False)
        window = getattr(config, "sliding_window", None) or _positions(config)
        self.longest = min(_positions(config), int(window))
        """Positions up to which one set of rotations holds, and every token sees all before it."""
        weight = weights["model.norm.weight"]
        is_host = weight.device.type == "cpu" and weight.dtype == torch.float32
        self._loop: _Loop | _HostLoop = (_HostLoop if is_host else _Loop)(self._phi3)

    @property
    def layers(self) -> Any:
        """The layers that read the prompt."""
        return self._phi3.model.layers

    def takes(self, prompt: int, new: int) -> bool:
        """Whether a prompt and its answer are short enough."""
        return prompt + new <= self.longest

    def generate(
        self,
        batch: Inputs,
        stops: Sequence[int],
        pad: int,
        longest: int,
        seconds: float,
        observer: Observer,
        progress: Callable[[], None] | None = None,
    ) -> list[list[int]]:
        """Return the answer's ids of each row, without the prompt; rows that ended hold `pad`.

        Parameters
        ----------
        batch : dict
            Inputs of the checkpoint's code, padded on the left, on the device.
        stops : sequence of int
            Ids at which an answer ends.
        longest : int
            Most tokens of an answer.
        seconds : float
            Time after which it is cut off.
        """
        import torch

        until = time.monotonic() + seconds
        with torch.inference_mode():
            mask = batch["attention_mask"]
            logits = self._read_prompt(self._embed_prompt(batch), mask, longest)
            ends, alive = frozenset(stops), [True] * len(logits)
            answer: list[list[int]] = []
            while True:
                observer.look(logits)
                # A row that has ended goes on with whatever follows, and nothing of it is kept: the
                # batch keeps its shape until the last row ends.
                token = logits.argmax(-1)
                # tolist() is the one place per token at which the host waits for the device.
                found = token.tolist()
                answer.append([i if goes else pad for i, goes in zip(found, alive, strict=True)])
                alive = [goes and i not in ends for i, goes in zip(found, alive, strict=True)]
                if progress is not None:
                    progress()
                is_over = len(answer) >= longest or observer.is_enough
                if is_over or not any(alive) or time.monotonic() > until:
                    break
                logits = self._loop.step(token)
        return [list(row) for row in zip(*answer, strict=True)]

    def _embed_prompt(self, batch: Inputs) -> Any:
        """Return what the checkpoint's code feeds to its first layer: words and picture."""

        def stop(_: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
            raise _Embedded(arguments[0] if arguments else options["hidden_states"])

        hook = self._remote.model.layers[0].register_forward_pre_hook(stop, with_kwargs=True)
        try:
            self._remote(**batch, use_cache=False)
        except _Embedded as found:
            return found.hidden
        finally:
            hook.remove()
        raise NotPhi3("its first layer is never called")

    def _read_prompt(self, hidden: Any, mask: Any, new: int) -> Any:
        """Read the prompt; return the logits behind it, with the loop's cache filled."""
        # Rows are padded on the left, so positions count from each row's first real token.
        positions = (mask.long().cumsum(-1) - 1).clamp_min(0)
        out = self._phi3(
            inputs_embeds=hidden,
            attention_mask=mask,
            position_ids=positions,
            use_cache=True,
            logits_to_keep=1,
        )
        self._loop.begin(out.past_key_values, mask, positions[:, -1] + 1, new)
        return out.logits[:, -1]


def _phi3_config(given: Any, weights: dict[str, Any]) -> Any:
    """Return transformers' configuration of this Phi-3, or say why it is not Phi-3."""
    layers = [name for name in weights if LAYER.match(name)]
    others = [n for n in weights if n.startswith("model.layers.") and n not in layers]
    count = int(getattr(given, "num_hidden_layers", 0) or 0)
    missing = [name for name in WHOLE if name not in weights and name != "lm_head.weight"]
    # lm_head may be absent: its weights are then those of the embedding (tied).
    if missing or others or not count or len(layers) != PER_LAYER * count:
        raise NotPhi3("its weights are not named as Phi-3's")
    if getattr(given, "hidden_act", "silu") != "silu":
        raise NotPhi3(f"its activation is {given.hidden_act}")
    if (getattr(given, "partial_rotary_factor", None) or 1.0) != 1.0:
        raise NotPhi3("it turns a part of each head only")
    options = {key: value for key in COPIED if (value := getattr(given, key, None)) is not None}
    config = remote_code.library().Phi3Config(
        **options,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
        tie_word_embeddings="lm_head.weight" not in weights,
        attention_dropout=0.0,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
    )
    config._attn_implementation = "sdpa"
    return config


def _positions(config: Any) -> int:
    """Return up to how many positions one set of rotations holds; beyond, all are others."""
    given = getattr(config, "original_max_position_embeddings", 0)
    return int(given or config.max_position_embeddings)


class _Loop:
    """One token at a time for a whole batch, over a cache of fixed size.

    On CUDA the step is recorded once per shape and replayed: a step of 32 layers is some four
    hundred launches otherwise, which take longer than what they compute.
    """

    def __init__(self, phi3: Any) -> None:
        self._phi3 = phi3
        config = phi3.config
        self._heads = int(config.num_attention_heads)
        self._shared = int(config.num_key_value_heads)
        self._size = int(getattr(config, "head_dim", 0) or config.hidden_size // self._heads)
        self._eps = float(config.rms_norm_eps)
        self._layers = [
            (
                layer.input_layernorm.weight,
                layer.self_attn.qkv_proj.weight,
                layer.self_attn.o_proj.weight,
                layer.post_attention_layernorm.weight,
                layer.mlp.gate_up_proj.weight,
                layer.mlp.down_proj.weight,
            )
            for layer in phi3.model.layers
        ]
        self._graphs: dict[tuple[int, int], Any] = {}
        self._state: dict[tuple[int, int], dict[str, Any]] = {}
        self._now: dict[str, Any] = {}
        self._at = 0
        self._shape = (0, 0)

    def begin(self, cache: Any, mask: Any, positions: Any, new: int) -> None:
        """Take over the keys and values of a prompt.

        Parameters
        ----------
        mask : torch.Tensor
            (rows, prompt): 0 where a row is padded.
        positions : torch.Tensor
            (rows,): the position of each row's first new token.
        """
        import torch

        rows, prompt = mask.shape
        # Rounded up to the bucket: a new shape costs a new recording of the CUDA graph.
        length = -(-(prompt + new) // BUCKET) * BUCKET
        self._shape, self._at = (rows, length), prompt
        weight = self._layers[0][1]
        on_cuda = weight.device.type == "cuda"
        state = self._state.get(self._shape) if on_cuda else None
        if state is None:
            options = {"dtype": weight.dtype, "device": weight.device}
            size = (len(self._layers), rows, self._shared, length, self._size)
            state = {"keys": torch.zeros(size, **options), "values": torch.zeros(size, **options)}
            state["mask"] = torch.empty((rows, 1, 1, length), **options)
            state["position"] = torch.empty(rows, dtype=torch.long, device=weight.device)
            state["slot"] = torch.empty(1, dtype=torch.long, device=weight.device)
            state["token"] = torch.empty(rows, dtype=torch.long, device=weight.device)
            places = torch.arange(min(length, _positions(self._phi3.config)), device=weight.device)
            state["cos"], state["sin"] = (
                turn[0].to(weight.dtype)
                for turn in self._phi3.model.rotary_emb(weight.new_empty(1, 1, 1), places[None])
            )
            # a turn is x cos + (-x2, x1) sin: with the sign in the sine, the halves only swap
            state["sin"][:, : self._size // 2] *= -1
            if on_cuda:
                self._state = {
                    self._shape: state
                }  # of a single shape: the memory of others is given back
                self._graphs = {}
        for index, (keys, values) in enumerate(_cached_pairs(cache)):
            state["keys"][index, :, :, :prompt] = keys
            state["values"][index, :, :, :prompt] = values
        # Not -inf: a row whose mask is shut everywhere would become NaN in the softmax.
        shut = torch.finfo(weight.dtype).min
        state["mask"].fill_(shut)
        state["mask"][:, 0, 0, :prompt].masked_fill_(mask.bool(), 0)
        state["position"].copy_(positions)
        state["slot"].fill_(prompt)
        self._now = state

    def step(self, token: Any) -> Any:
        """Write one token behind each row; return the logits behind it."""
        state = self._now
        state["token"].copy_(token)
        if token.device.type == "cuda":
            logits = self._replay_step(state)
        else:
            # without a graph nothing has to have a fixed shape: only what is filled is looked at
            self._at += 1
            logits = self._compute_step(state, self._at)
        state["position"] += 1
        state["slot"] += 1
        return logits

    def _replay_step(self, state: dict[str, Any]) -> Any:
        import torch

        graph, out = self._graphs.get(self._shape, (None, None))
        if graph is None:
            spare: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call, unused-ignore]
            spare.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(spare):  # libraries allocate at their first call
                for _ in range(2):
                    self._compute_step(state, self._shape[1])
            torch.cuda.current_stream().wait_stream(spare)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                out = self._compute_step(state, self._shape[1])
            self._graphs[self._shape] = (graph, out)
        graph.replay()
        # The graph writes its next result to the same place.
        return out.clone()

    def _compute_step(self, state: dict[str, Any], seen: int) -> Any:
        import torch
        from torch.nn import functional as f

        half = self._size // 2
        slot, mask = state["slot"], state["mask"]
        # By tensors and in place throughout: a recorded graph replays addresses, not Python values.
        mask.index_fill_(3, slot, 0)
        cos = state["cos"].index_select(0, state["position"])[:, None, None]
        sin = state["sin"].index_select(0, state["position"])[:, None, None]
        x = f.embedding(state["token"], self._phi3.model.embed_tokens.weight)
        rows, _ = x.shape
        at, shared = self._heads * self._size, self._shared * self._size
        view = mask[..., :seen]
        if x.device.type == "cpu":  # as `_attend_cache` takes it there
            view = view.expand(-1, self._shared, -1, -1).reshape(-1, 1, seen)
        for index, (before, qkv, out, after, gate_up, down) in enumerate(self._layers):
            made = f.linear(self._rms_norm(x, before), qkv)
            heads = made[:, : at + shared].view(rows, -1, 1, self._size)
            heads = torch.addcmul(heads * cos, heads.roll(half, -1), sin)
            keys, values = state["keys"][index], state["values"][index]
            keys.index_copy_(2, slot, heads[:, self._heads :])
            values.index_copy_(2, slot, made[:, at + shared :].view(rows, -1, 1, self._size))
            attended = self._attend_cache(
                heads[:, : self._heads], keys[:, :, :seen], values[:, :, :seen], view
            )
            x = x + f.linear(attended.reshape(rows, at), out)
            gate, up = f.linear(self._rms_norm(x, after), gate_up).chunk(2, -1)
            x = x + f.linear(f.silu(gate) * up, down)
        x = self._rms_norm(x, self._phi3.model.norm.weight)
        return f.linear(x, self._phi3.lm_head.weight)

    def _rms_norm(self, x: Any, weight: Any) -> Any:
        from torch.nn import functional as f

        return f.rms_norm(x, weight.shape, weight, self._eps)

    def _attend_cache(self, asked: Any, keys: Any, values: Any, mask: Any) -> Any:
        """Return what one token per row sees of the cache: (rows, heads, 1, size)."""
        import torch
        from torch.nn import functional as f

        if asked.device.type != "cpu":
            return f.scaled_dot_product_attention(
                asked, keys, values, attn_mask=mask, enable_gqa=self._heads != self._shared
            )
        # For one token the fused kernel of a CPU is several times slower than two products of
        # views: heads that share keys stand side by side, so nothing is copied.
        rows, seen, groups = len(asked), keys.shape[2], self._heads // self._shared
        asked = asked.reshape(rows * self._shared, groups, self._size)
        keys = keys.view(rows * self._shared, seen, self._size).transpose(1, 2)
        weights = torch.baddbmm(mask, asked, keys, alpha=self._size**-0.5)
        weights = weights.softmax(-1, dtype=torch.float32).to(asked.dtype)
        return torch.bmm(weights, values.view(rows * self._shared, seen, self._size))


class _HostLoop:
    """One token at a time in float32 on a CPU, in as few operations as torch can do it.

    A call of torch takes some microseconds, which is longer than what it computes for a few rows
    of a small model. So what can be is made before the first step: views, rotations with the place
    of values in them, the mask, memory for what each layer writes.
    """

    def __init__(self, phi3: Any) -> None:
        import torch

        config = phi3.config
        self._phi3 = phi3
        self._heads = int(config.num_attention_heads)
        self._shared = int(config.num_key_value_heads)
        self._size = int(getattr(config, "head_dim", 0) or config.hidden_size // self._heads)
        self._groups = self._heads // self._shared
        width = int(config.hidden_size)
        # x / sqrt(mean(x^2) + eps) = sqrt(n) x / sqrt(sum(x^2) + n eps): the last column of the
        # hidden states is sqrt(n eps) for ever, so that their plain norm is that root.
        self._last_column = (width * float(config.rms_norm_eps)) ** 0.5
        root = width**0.5
        with torch.inference_mode():
            self._layers = [
                (
                    layer.input_layernorm.weight * root,
                    layer.self_attn.qkv_proj.weight.t(),
                    layer.self_attn.o_proj.weight.t(),
                    layer.post_attention_layernorm.weight * root,
                    layer.mlp.gate_up_proj.weight.t(),
                    layer.mlp.down_proj.weight.t(),
                )
                for layer in phi3.model.layers
            ]
            self._norm = phi3.model.norm.weight * root
        self._words = phi3.model.embed_tokens.weight
        self._head = phi3.lm_head.weight.t()
        self._turns: Any = None
        self._at = 0

    def begin(self, cache: Any, mask: Any, positions: Any, new: int) -> None:
        """Take over the keys and values of a prompt, as `_Loop.begin` does."""
        import torch

        rows, prompt = mask.shape
        shared, size, groups = self._shared, self._size, self._groups
        length = -(-(prompt + new) // BUCKET) * BUCKET
        plain = self._words
        self._at, self._position = prompt, positions.clone()
        self._extend_turns(length)
        # [layer, keys or values, row, head, number, position]: with positions last, one question is
        # answered a fifth faster at the real size; at the small one it makes no difference.
        kept = plain.new_empty((len(self._layers), 2, rows, shared, size, length))
        for layer, pair in zip(kept, _cached_pairs(cache), strict=True):
            for part, filled in zip(layer, pair, strict=True):
                part[..., :prompt] = filled.transpose(2, 3)
        self._places = kept
        together = kept.view(len(self._layers), 2, rows * shared, size, length)
        self._keys, self._values = together[:, 0], together[:, 1].transpose(2, 3)
        # Only what is filled is looked at, so the mask shuts the padding before prompts alone.
        shut = plain.new_zeros((rows, 1, length))
        shut[:, 0, :prompt].masked_fill_(~mask.bool(), torch.finfo(plain.dtype).min)
        self._mask = shut.repeat_interleave(shared, 0)
        width = plain.shape[1]
        self._hidden = plain.new_full((rows, width + 1), self._last_column)
        self._normed = plain.new_empty((rows, width))
        # Blocks of as many heads as keys have: questions, keys, values. Blocks come first in
        # memory, so that each is a plain matrix.
        turned = plain.new_empty((groups + 2, rows, shared, size))
        self._turned, self._written = turned.transpose(0, 1), turned[groups:]
        self._asked = turned[:groups].transpose(0, 1)
        inner = self._layers[0][4].shape[1] // 2
        self._wide = plain.new_empty((rows, 2 * inner))

    def _extend_turns(self, length: int) -> None:
        """Make the rotations of all positions: cosine and sine of each block."""
        import torch

        length = min(length, _positions(self._phi3.config))
        if self._turns is not None and len(self._turns) >= length:
            return
        places = torch.arange(length, device=self._words.device)[None]
        cos, sin = self._phi3.model.rotary_emb(self._words.new_empty(1, 1, 1), places)
        half, blocks = self._size // 2, self._groups + 2
        turns = self._words.new_zeros((length, 2, blocks, 1, self._size))
        # A turn is x cos + (-x2, x1) sin: with the sign in the sine, the halves only swap.
        sin = torch.cat([-sin[..., :half], sin[..., half:]], -1)
        turns[:, 0, :-1, 0], turns[:, 1, :-1, 0] = cos[0][:, None], sin[0][:, None]
        turns[:, 0, -1] = 1.0  # values are not turned
        self._turns = turns

    def step(self, token: Any) -> Any:
        """Write one token behind each row; return the logits behind it."""
        import torch
        from torch.nn import functional as f

        rows, seen, half = len(token), self._at + 1, self._size // 2
        turns = self._turns.index_select(0, self._position)
        cos, sin = turns[:, 0], turns[:, 1]
        slots = self._places.select(5, self._at).unbind(0)
        keys = self._keys[..., :seen].unbind(0)
        values = self._values[:, :, :seen].unbind(0)
        mask = self._mask[..., :seen]
        whole, normed = self._hidden, self._normed
        x = whole[:, :-1]
        x.copy_(f.embedding(token, self._words))
        blocks = (rows, self._groups + 2, self._shared, self._size)
        asked_shape = (rows * self._shared, self._groups, self._size)
        scale = self._size**-0.5
        gate, up = self._wide.chunk(2, -1)
        for index, (before, qkv, out, after, gate_up, down) in enumerate(self._layers):
            self._take_norm(before)
            made = torch.mm(normed, qkv).view(blocks)
            torch.mul(made, cos, out=self._turned)
            self._turned.addcmul_(made.roll(half, -1), sin)
            slots[index].copy_(self._written)
            scores = torch.baddbmm(mask, self._asked.reshape(asked_shape), keys[index], alpha=scale)
            attended = torch.bmm(scores.softmax(-1), values[index])
            x.addmm_(attended.view(rows, -1), out)
            self._take_norm(after)
            torch.mm(normed, gate_up, out=self._wide)
            x.addmm_(f.silu(gate).mul_(up), down)
        self._take_norm(self._norm)
        self._at = seen
        self._position += 1
        return torch.mm(normed, self._head)

    def _take_norm(self, weight: Any) -> None:
        """Put the hidden states, divided by their root mean square and scaled, into `_normed`."""
        import torch

        length = torch.linalg.vector_norm(self._hidden, dim=-1, keepdim=True)
        torch.div(self._hidden[:, :-1], length, out=self._normed).mul_(weight)


def _cached_pairs(cache: Any) -> list[tuple[Any, Any]]:
    """Return keys and values of each layer, as the releases of transformers keep them."""
    layers = getattr(cache, "layers", None)
    if layers is not None:
        return [(layer.keys, layer.values) for layer in layers]
    return list(zip(cache.key_cache, cache.value_cache, strict=True))
