"""Both ChexFract checkpoints, and the demonstration model, through transformers' remote code."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from dicom_node.base.errors import ModelFault
from worker.models import Description, Progress
from worker.models import generation as gen
from worker.models.checkpoint import Unacceptable
from worker.models.local import CANARY_STEPS, NEAR_TIE, LocalModel, as_fault
from worker.models.native import NativeDecoder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from worker.models.options import ChexFract as Options

logger = logging.getLogger(__name__)

CANARY_TOKENS = 4
"""A wrong cache shows from the second token on."""
CANARY_PADDING = 5
CANARY_S = 3600.0
"""Not the table's time: a slow first token would look as if the answers differed."""


def build(name: str, options: Options, device: str) -> ChexFractModel:
    """Return the model of ``[models.NAME]``, not yet loaded."""
    return ChexFractModel(name, options, device)


class ChexFractModel(LocalModel):
    """A vision-language model with the calling sequence of ChexFract's model card."""

    takes_batches = True
    native: NativeDecoder | None = None
    """The faster decoder, where its tokens are those of the checkpoint's own code."""

    def _load(self, folder: Path) -> None:
        self.model = self._whole(folder, "AutoModelForCausalLM", strict=True)
        self.processor = self._processor(folder)
        tokenizer = self.processor.tokenizer
        self.stops = gen.stop_tokens(tokenizer, self.model.generation_config)
        self.pad = self.stops[0] if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        self.model.generation_config = gen.greedy(
            self.stops, self.pad, self.options.max_new_tokens, self.options.max_time
        )
        system = cast("Options", self.options).system
        turns = [{"role": "system", "content": system}] if system else []
        self.chat = tokenizer.apply_chat_template(
            [*turns, {"role": "user", "content": self.options.prompt}],
            tokenize=False,
            add_generation_prompt=True,
        )
        self._check_cache()
        self.native = self._try_native()

    def _parameters(self) -> dict[str, str]:
        system = cast("Options", self.options).system
        decoder = {"decoder": "native"} if self.native is not None else {}
        return super()._parameters() | decoder | ({"system": system} if system else {})

    def _asked(self) -> dict[str, str]:
        return super()._asked() | {"system": cast("Options", self.options).system}

    def _describe(self, rows: Sequence[gen.Inputs], progress: Progress | None) -> list[Description]:
        """Describe pictures; those whose inputs have the same shape go together."""
        found: dict[int, Description] = {}
        alone = [[place] for place in range(len(rows))]
        for places in gen.groups(rows) if self.takes_batches else alone:
            descriptions = self._generate_batch([rows[place] for place in places], progress)
            found.update(zip(places, descriptions, strict=True))
        return [found[place] for place in range(len(rows))]

    def _inputs(self, pixels: NDArray[np.uint8]) -> gen.Inputs:
        """Call the processor for one picture: the real one takes a single prompt only."""
        made = self.processor(self.chat, gen.picture(pixels), return_tensors="pt")
        return gen.tensors(made.items())

    def _generate_batch(
        self, rows: Sequence[gen.Inputs], progress: Progress | None
    ) -> list[Description]:
        started = time.monotonic()
        batch = gen.pad_left(rows, self.pad)
        answers = self._answer_ids(
            self.native, gen.moved(batch, self.device, self.dtype), self._observer, progress
        )
        seconds = time.monotonic() - started
        tokenizer = self.processor.tokenizer
        return [self._decoded(answer, tokenizer, self.stops, seconds) for answer in answers]

    def _answer_ids(
        self,
        native: NativeDecoder | None,
        batch: gen.Inputs,
        observer: gen.Observer,
        progress: Progress | None,
    ) -> list[list[int]]:
        """Return the ids that are said of each row, by either decoder."""
        prompt, options = batch["input_ids"].shape[1], self.options
        if native is not None and native.takes(prompt, options.max_new_tokens):
            return native.generate(
                batch,
                self.stops,
                self.pad,
                options.max_new_tokens,
                self.max_time,
                observer,
                progress,
            )
        ids = self.model.generate(**batch, **gen.watching(progress, observer))
        # image positions hold negative ids, which no tokenizer can decode
        answers: list[list[int]] = ids[:, prompt:].tolist()
        return answers

    def _try_native(self) -> NativeDecoder | None:
        """Return the faster decoder if it says the same, token by token, alone and padded."""
        options = cast("Options", self.options)
        if options.decoder == "remote":
            return None
        say = logger.warning if options.decoder == "native" else logger.info
        if options.quantization != "none":
            say("model %s: decoder remote: its weights are quantized", self.name)
            return None
        try:
            # What fits most checkpoints raises anything at others, which do well without it.
            with as_fault("the native one"):
                native = NativeDecoder(self.model)
                row = self._inputs(gen.invented_pixels())
                # A longer prompt in the same batch pads the other row: a mistake in masks or
                # positions shows there and not in a single row.
                for rows in ([row], [row, _longer_prompt(row)], [_longer_prompt(row), row]):
                    if not self._decoders_agree(native, rows):
                        say("model %s: decoder remote: the native one says other tokens", self.name)
                        return None
        except ModelFault as exc:
            say("model %s: decoder remote: %s", self.name, exc)
            return None
        logger.info("model %s: decoder native: the same tokens as its own code", self.name)
        return native

    def _decoders_agree(self, native: NativeDecoder, rows: Sequence[gen.Inputs]) -> bool:
        if len(rows) > 1 and not self.takes_batches:
            return True
        batch = gen.moved(gen.pad_left(rows, self.pad), self.device, self.dtype)
        seen = [gen.Observer(CANARY_STEPS), gen.Observer(CANARY_STEPS)]
        for decoder, observer in zip((None, native), seen, strict=True):
            self._answer_ids(decoder, batch, observer, None)
        return gen.same_steps(seen[0].steps, seen[1].steps, NEAR_TIE[self._dtype_name()])

    def close(self) -> None:
        """Give the memory back, that of the faster decoder too."""
        self.native = None
        super().close()

    def _check_cache(self) -> None:
        """Refuse a model that answers otherwise with a cache than without."""
        row = self._inputs(gen.invented_pixels())
        padded = gen.pad_left([row, _longer_prompt(row)], self.pad)
        padded = {key: value[:1] for key, value in padded.items()}
        tolerance = NEAR_TIE[self._dtype_name()]
        cached, plain = (
            self._generate_few(row, use_cache=True),
            self._generate_few(row, use_cache=False),
        )
        if not gen.same_answer(cached, plain, tolerance):
            raise Unacceptable(
                f"models.{self.name}: with this release of transformers the model answers "
                f"otherwise with a key-value cache than without; install the one it was made for"
            )
        self.takes_batches = gen.same_answer(self._generate_few(padded), cached, tolerance)
        if not self.takes_batches:
            logger.warning("model %s answers otherwise when padded: one at a time", self.name)

    def _generate_few(self, row: gen.Inputs, *, use_cache: bool = True) -> Any:
        return self.model.generate(
            **gen.moved(row, self.device, self.dtype),
            max_new_tokens=CANARY_TOKENS,
            max_time=CANARY_S,
            use_cache=use_cache,
            return_dict_in_generate=True,
            output_scores=True,
        )


def _longer_prompt(row: gen.Inputs) -> gen.Inputs:
    """Return the input with a prompt that is longer by a few masked ids."""
    from torch.nn import functional

    prompt = {k: v for k, v in row.items() if k in gen.ALONG_THE_PROMPT}
    return {**row, **{k: functional.pad(v, (CANARY_PADDING, 0)) for k, v in prompt.items()}}
