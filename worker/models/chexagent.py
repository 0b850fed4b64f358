"""CheXagent-2: the answer to a prompt, then rib fractures with boxes around them."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from worker.models import Description, Progress, Region, remote_code
from worker.models import generation as gen
from worker.models.local import LocalModel

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from worker.models.options import CheXagent as Options

SYSTEM = "You are a helpful assistant."
NUMBER = r"(\d+(?:\.\d+)?)"
BOX = re.compile(rf"\(\s*{NUMBER}\s*,\s*{NUMBER}\s*\)\s*,\s*\(\s*{NUMBER}\s*,\s*{NUMBER}\s*\)")
MARK = re.compile(r"<\|?/?(?:ref|box|object|quad)\|?>")
BETWEEN = ("", "and", "at", "and at")
"""What stands between two boxes of the same thing."""
WHOLE = 100.0
"""Boxes are given in hundredths of the picture's width and height."""


def build(name: str, options: Options, device: str) -> CheXagent:
    """Return the model of ``[models.NAME]``, not yet loaded."""
    return CheXagent(name, options, device)


class CheXagent(LocalModel):
    """A model without a processor: its tokenizer takes pictures by the names of their files."""

    def _load(self, folder: Path) -> None:
        self.tokenizer = remote_code.library().AutoTokenizer.from_pretrained(
            folder, trust_remote_code=True, local_files_only=True
        )
        self.model = self._whole(folder, "AutoModelForCausalLM")
        self.stops = gen.stop_tokens(self.tokenizer, self.model.generation_config)
        pad = self.tokenizer.pad_token_id
        self.model.generation_config = gen.greedy(
            self.stops,
            self.stops[0] if pad is None else pad,
            self.options.max_new_tokens,
            self.options.max_time,
        )

    def _parameters(self) -> dict[str, str]:
        options = cast("Options", self.options)
        asked = {"boxes_prompt": options.boxes_prompt} if options.boxes else {}
        return super()._parameters() | {"boxes": str(options.boxes).lower()} | asked

    def _describe(
        self, pictures: Sequence[NDArray[np.uint8]], progress: Progress | None
    ) -> list[Description]:
        return [self._one(pixels, progress) for pixels in pictures]

    def _one(self, pixels: NDArray[np.uint8], progress: Progress | None) -> Description:
        options = cast("Options", self.options)
        with tempfile.TemporaryDirectory(prefix="chexfract-") as folder:
            path = Path(folder) / "radiograph.png"
            gen.picture(pixels).save(path)
            told = self._ask(path, options.prompt, progress)
            if not options.boxes:
                return told
            where = self._ask(path, options.boxes_prompt, progress)
        reason = where.finish_reason if told.finish_reason == "stop" else told.finish_reason
        return Description(
            text="\n".join(text for text in (plain(told.text), plain(where.text)) if text),
            tokens=told.tokens + where.tokens,
            finish_reason=reason,
            seconds=told.seconds + where.seconds,
            regions=tuple(regions(where.text)),
        )

    def _ask(self, path: Path, prompt: str, progress: Progress | None) -> Description:
        started = time.monotonic()
        query = self.tokenizer.from_list_format([{"image": str(path)}, {"text": prompt}])
        turns = [{"from": "system", "value": SYSTEM}, {"from": "human", "value": query}]
        made = self.tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, return_tensors="pt"
        )
        # newer releases return the mask too
        ids = made["input_ids"] if hasattr(made, "keys") else made
        ids = ids.to(self.device)
        out = self.model.generate(
            ids, attention_mask=ids.new_ones(ids.shape), **self._watching(progress)
        )
        seconds = time.monotonic() - started
        kept, reason = gen.cut(
            out[0, ids.shape[1] :].tolist(), self.stops, self.options.max_new_tokens
        )
        # the marks of boxes may be special tokens, so they are decoded and taken out here
        text = self.tokenizer.decode(kept).strip()
        return Description(text, len(kept), reason, seconds)


def regions(text: str) -> Iterator[Region]:
    """Yield the boxes of an answer, each with the words just before it or before the last one."""
    end = 0
    label = "rib fracture"
    for match in BOX.finditer(text):
        words = plain(text[end : match.start()]).strip(" ,.;:")
        label, end = label if words in BETWEEN else words, match.end()
        left, top, right, bottom = (float(number) / WHOLE for number in match.groups())
        yield gen.region(label, left, top, right, bottom)


def plain(text: str) -> str:
    """Return the words of an answer without its boxes and marks."""
    return " ".join(MARK.sub(" ", BOX.sub(" ", text)).split())
