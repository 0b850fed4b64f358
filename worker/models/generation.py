"""Greedy decoding around a model's ``generate``: padded batches, stop tokens, why it ended."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from worker.models import Region, remote_code

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from PIL.Image import Image

Inputs = dict[str, Any]
"""What a processor makes of one prompt and one picture: name -> tensor with a batch axis of 1."""

PHI_STOPS = ("<|end|>", "<|endoftext|>")
ALONG_THE_PROMPT = ("input_ids", "attention_mask", "token_type_ids", "position_ids")


def picture(pixels: NDArray[np.uint8]) -> Image:
    """Return grey values (rows, columns) as an RGB picture of three equal channels."""
    from PIL import Image as images

    return images.fromarray(pixels).convert("RGB")


def invented_pixels(rows: int = 384, columns: int = 320) -> NDArray[np.uint8]:
    """Return a picture of soft shapes, shaped roughly as a chest: for warming up only."""
    import numpy as np

    y, x = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
    body = np.exp(-((x / 0.9) ** 4) - (y / 1.1) ** 6)
    lungs = sum(np.exp(-(((x - side) / 0.3) ** 2) - (y / 0.6) ** 2) for side in (-0.45, 0.45))
    ribs = 0.08 * np.sin(y * 22 + np.abs(x) * 5)
    grey = 255 * (0.85 * body - 0.5 * lungs + ribs * body)
    pixels: NDArray[np.uint8] = np.clip(grey, 0, 255).astype(np.uint8)
    return pixels


def stop_tokens(tokenizer: Any, generation_config: Any) -> list[int]:
    """Return every id at which an answer ends: the configured ones and the chat format's own.

    Phi-3-style checkpoints name only ``<|endoftext|>`` as end of sequence although the chat ends
    a turn with ``<|end|>``: without both, an answer runs on to its longest.
    """
    found: set[int | None] = set()
    for source in (
        getattr(tokenizer, "eos_token_id", None),
        getattr(generation_config, "eos_token_id", None),
    ):
        found.update(source if isinstance(source, list | tuple) else [source])
    vocabulary = tokenizer.get_vocab()
    found.update(vocabulary.get(token) for token in PHI_STOPS)
    return sorted(i for i in found if i is not None)


class Observer:
    """Looks at every step's logits before anything is chosen by them.

    NaN makes `argmax` take token 0, and weights of zeros make all tokens equal: both give an
    answer, `!!!!` or none, that looks as if it were about the picture.

    Parameters
    ----------
    longest : int
        Steps after which generation is stopped; 0: never.
    """

    def __init__(self, longest: int = 0) -> None:
        self.longest = longest
        self.steps: list[Step] = []
        """The first row's choices, kept where `longest` bounds them."""
        self._ranges: list[tuple[torch.Tensor, torch.Tensor]] = []

    def look(self, logits: torch.Tensor) -> None:
        """Take in one step: (rows, vocabulary)."""
        # Judged at the end: asking the device for a truth value at each token would make it wait,
        # and what leads to one takes longer than a small model's layer.
        least, most = logits.aminmax(dim=-1)
        self._ranges.append((least, most))
        if self.longest:
            first = logits[0].float()
            two = first.topk(2)
            margin = float(two.values[0] - two.values[1])
            self.steps.append(Step(int(two.indices[0]), round(margin, 4)))

    @property
    def is_sound(self) -> bool:
        """Whether all logits so far were numbers, not all of them equal."""
        import torch

        if not self._ranges:
            return True
        least, most = (torch.cat(each) for each in zip(*self._ranges, strict=True))
        return bool((most.isfinite() & (most > least)).all())

    @property
    def is_enough(self) -> bool:
        """Whether generation may stop."""
        return bool(self.longest) and len(self.steps) >= self.longest


class Step(NamedTuple):
    """One choice of a greedy decoding."""

    token: int
    margin: float
    """Logit of the token, less that of the next likely token."""


def same_steps(known: Sequence[Step], found: Sequence[Step], tolerance: float) -> bool:
    """Whether two greedy decodings agree, up to choices that rounding may reverse."""
    for step, other in zip(known, found, strict=False):
        if step.token != other.token:
            return min(step.margin, other.margin) <= tolerance
    return bool(known) and bool(found)


def watching(progress: Callable[[], None] | None, observer: Observer) -> dict[str, Any]:
    """Return arguments of ``generate`` that call `progress` and `observer` at each token."""
    from transformers import (
        LogitsProcessor,
        LogitsProcessorList,
        StoppingCriteria,
        StoppingCriteriaList,
    )

    class Watcher(StoppingCriteria):
        def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
            if progress is not None:
                progress()
            # for 4.36 a truth value, for newer releases a value that joins each row's
            return observer.is_enough

    class Eye(LogitsProcessor):
        def __call__(self, input_ids: Any, scores: Any) -> Any:
            observer.look(scores)
            return scores

    return {
        "stopping_criteria": StoppingCriteriaList([Watcher()]),
        "logits_processor": LogitsProcessorList([Eye()]),
    }


def pad_left(rows: Sequence[Inputs], pad: int) -> Inputs:
    """Join single inputs to one batch, shorter prompts padded on the left.

    Parameters
    ----------
    rows : sequence of dict
        Inputs with a batch axis of 1 and the same shapes but for the prompt's length.
    pad : int
        The id of padding; its mask is 0.
    """
    import torch
    from torch.nn import functional

    longest = max(row["input_ids"].shape[1] for row in rows)
    batch: Inputs = {}
    for key in rows[0]:
        parts = [row[key] for row in rows]
        if key in ALONG_THE_PROMPT:
            fill = pad if key == "input_ids" else 0
            # On the left: a decoder continues at the right end, where every row must have its last
            # token.
            parts = [functional.pad(p, (longest - p.shape[1], 0), value=fill) for p in parts]
        batch[key] = torch.cat(parts)
    return batch


def groups(rows: Sequence[Inputs]) -> list[list[int]]:
    """Return the places of inputs that may share a batch: same keys and shapes of pictures."""
    alike: dict[Any, list[int]] = {}
    for place, row in enumerate(rows):
        # What runs along the prompt is padded to one length; pictures of other shapes cannot be
        # stacked.
        shapes = tuple(
            (key, tuple(value.shape)) for key, value in row.items() if key not in ALONG_THE_PROMPT
        )
        alike.setdefault(shapes, []).append(place)
    return list(alike.values())


def moved(inputs: Inputs, device: Any, dtype: Any) -> Inputs:
    """Return the tensors on `device`, those of floating point as `dtype`."""
    return {
        key: value.to(device, dtype) if value.is_floating_point() else value.to(device)
        for key, value in inputs.items()
    }


def tensors(made: Iterable[tuple[str, Any]]) -> Inputs:
    """Return the tensors among what a processor made, and drop what else it hands out."""
    import torch

    return {key: value for key, value in made if isinstance(value, torch.Tensor)}


def cut(ids: Sequence[int], stops: Sequence[int], longest: int) -> tuple[list[int], str]:
    """Return the ids before the first stop token, and why the answer ended there.

    Returns
    -------
    tuple
        The ids, and ``stop``, ``length`` (`longest` ids without a stop token) or ``time``.
    """
    for place, token in enumerate(ids):
        if token in stops:
            return list(ids[:place]), "stop"
    return list(ids), "length" if len(ids) >= longest else "time"


def region(label: str, left: float, top: float, right: float, bottom: float) -> Region:
    """Return a box with its corners in order and within the picture."""
    across = sorted(min(max(float(x), 0.0), 1.0) for x in (left, right))
    down = sorted(min(max(float(y), 0.0), 1.0) for y in (top, bottom))
    return Region(label, across[0], down[0], across[1], down[1])


def same_answer(first: Any, second: Any, tolerance: float) -> bool:
    """Whether two greedy runs agree up to near ties.

    Parameters
    ----------
    first, second
        What ``generate(return_dict_in_generate=True, output_scores=True)`` gave for one row.
    tolerance : float
        The largest difference of two logits that rounding may reverse.
    """
    for a, b in zip(first.scores, second.scores, strict=False):
        token, other = int(a[0].argmax()), int(b[0].argmax())
        if token != other:
            return bool(b[0, other] - b[0, token] <= tolerance)
    return len(first.scores) == len(second.scores)


def greedy(stops: list[int], pad: int, longest: int, seconds: float) -> Any:
    """Return a GenerationConfig that is all there is: nothing is taken from the checkpoint's."""
    return remote_code.library().GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=longest,
        max_time=seconds,
        eos_token_id=stops,
        pad_token_id=pad,
        use_cache=True,
    )


def tick_layers(model: Any, tick: Callable[[], None]) -> None:
    """Call `tick` at each layer of a model: reading a prompt on a CPU takes minutes."""
    import torch

    for module in model.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) > 1:
            for layer in module:
                layer.register_forward_pre_hook(lambda *_: tick())


def type_of(options_dtype: str, device: Any) -> torch.dtype:
    """Return the dtype to load in: bfloat16 on an accelerator, float32 on a CPU."""
    import torch

    if options_dtype == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    dtype: torch.dtype = getattr(torch, options_dtype)
    return dtype


def device_of(wanted: str) -> torch.device:
    """Return the device; ``auto`` takes an accelerator where there is any.

    Raises
    ------
    ConfigurationError
        The machine has no such device.
    """
    import torch

    from dicom_node.base.errors import ConfigurationError

    has = {
        "cuda": torch.cuda.is_available(),  # ROCm calls itself so too
        "xpu": hasattr(torch, "xpu") and torch.xpu.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if wanted == "auto":
        return torch.device(next(kind for kind, is_there in has.items() if is_there))
    device = torch.device(wanted)
    found = has.get(device.type, False)
    if found and device.index is not None and device.type in ("cuda", "xpu"):
        found = device.index < torch.get_device_module(device).device_count()
    if not found:
        raise ConfigurationError(f"worker.device: this machine has no {wanted}")
    return device
