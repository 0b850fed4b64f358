"""CheXagent-2: the answer to a prompt, then rib fractures with boxes around them."""

from __future__ import annotations

import io
import logging
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from worker.models import Description, Progress, Region, remote_code
from worker.models import generation as gen
from worker.models.local import LocalModel

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from worker.models.options import CheXagent as Options

logger = logging.getLogger(__name__)

SYSTEM = "You are a helpful assistant."
NUMBER = r"(\d+(?:\.\d+)?)"
BOX = re.compile(rf"\(\s*{NUMBER}\s*,\s*{NUMBER}\s*\)\s*,\s*\(\s*{NUMBER}\s*,\s*{NUMBER}\s*\)")
MARK = re.compile(r"<\|?/?(?:ref|box|object|quad)\|?>")
BETWEEN = ("", "and", "at", "and at")
"""What stands between two boxes of the same thing."""
CANARY_TOKENS = 8
WHOLE = 100.0
"""Boxes are given in hundredths of the picture's width and height."""


def build(name: str, options: Options, device: str) -> CheXagentModel:
    """Return the model of ``[models.NAME]``, not yet loaded."""
    return CheXagentModel(name, options, device)


class CheXagentModel(LocalModel):
    """A model without a processor: its tokenizer takes pictures by the names of their files."""

    takes_batches = True

    def _load(self, folder: Path) -> None:
        self.tokenizer = remote_code.library().AutoTokenizer.from_pretrained(
            folder, trust_remote_code=True, local_files_only=True
        )
        self.model = self._whole(folder, "AutoModelForCausalLM")
        self.stops = gen.stop_tokens(self.tokenizer, self.model.generation_config)
        pad = self.tokenizer.pad_token_id
        self.pad = self.stops[0] if pad is None else pad
        self.model.generation_config = gen.greedy(
            self.stops, self.pad, self.options.max_new_tokens, self.options.max_time
        )
        self.takes_batches = self._is_same_in_batches()

    def _is_same_in_batches(self) -> bool:
        """Whether two questions are answered together as each alone: padding is not its habit."""
        options = cast("Options", self.options)
        self._observer = gen.Observer(CANARY_TOKENS)
        self.takes_batches = True
        with tempfile.TemporaryDirectory(prefix="chexfract-") as folder:
            path = Path(folder) / "trial.png"
            path.write_bytes(self._inputs(gen.invented_pixels()))
            both = [(path, options.prompt), (path, f"{options.prompt} {options.boxes_prompt}")]
            together = self._ask_questions(both, None)
            alone = []
            for question in both:
                self._observer = gen.Observer(CANARY_TOKENS)
                alone += self._ask_questions([question], None)
        self._observer = gen.Observer()
        is_same = [answer.text for answer in together] == [answer.text for answer in alone]
        if not is_same:
            logger.warning("model %s answers otherwise when padded: one at a time", self.name)
        return is_same

    def _parameters(self) -> dict[str, str]:
        options = cast("Options", self.options)
        asked = {"boxes_prompt": options.boxes_prompt} if options.boxes else {}
        return super()._parameters() | {"boxes": str(options.boxes).lower()} | asked

    def _inputs(self, pixels: NDArray[np.uint8]) -> bytes:
        """Return the picture as a PNG: the code wants a file, which exists while it is read."""
        buffer = io.BytesIO()
        gen.picture(pixels).save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()

    def _describe(self, inputs: Sequence[Any], progress: Progress | None) -> list[Description]:
        options = cast("Options", self.options)
        prompts = [options.prompt, *([options.boxes_prompt] if options.boxes else [])]
        with tempfile.TemporaryDirectory(prefix="chexfract-") as folder:
            paths = [Path(folder) / f"{place}.png" for place in range(len(inputs))]
            for path, content in zip(paths, inputs, strict=True):
                path.write_bytes(content)
            answers = self._ask_questions(
                [(path, prompt) for path in paths for prompt in prompts], progress
            )
        if not options.boxes:
            return answers
        return [_join_answers(*answers[at : at + 2]) for at in range(0, len(answers), 2)]

    def _ask_questions(
        self, questions: Sequence[tuple[Path, str]], progress: Progress | None
    ) -> list[Description]:
        """Ask all questions as one batch, or one by one where padding changes answers."""
        if not self.takes_batches and len(questions) > 1:
            return [
                answer
                for question in questions
                for answer in self._ask_questions([question], progress)
            ]
        started = time.monotonic()
        batch = gen.pad_left([self._encode_question(*question) for question in questions], self.pad)
        batch = {key: value.to(self.device) for key, value in batch.items()}
        length = batch["input_ids"].shape[1]
        out = self.model.generate(batch.pop("input_ids"), **batch, **self._watching(progress))
        seconds = time.monotonic() - started
        return [self._read_answer(answer, seconds) for answer in out[:, length:].tolist()]

    def _encode_question(self, path: Path, prompt: str) -> gen.Inputs:
        query = self.tokenizer.from_list_format([{"image": str(path)}, {"text": prompt}])
        turns = [{"from": "system", "value": SYSTEM}, {"from": "human", "value": query}]
        made = self.tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, return_tensors="pt"
        )
        # newer releases return the mask too
        ids = made["input_ids"] if hasattr(made, "keys") else made
        return {"input_ids": ids, "attention_mask": ids.new_ones(ids.shape)}

    def _read_answer(self, answer: list[int], seconds: float) -> Description:
        kept, reason = gen.cut(answer, self.stops, self.options.max_new_tokens)
        # the marks of boxes may be special tokens, so they are decoded and taken out later
        text = self.tokenizer.decode(kept).strip()
        return Description(text, len(kept), reason, seconds)


def _join_answers(findings: Description, where: Description) -> Description:
    """Return the answers to both questions as one answer."""
    reason = where.finish_reason if findings.finish_reason == "stop" else findings.finish_reason
    return Description(
        text="\n".join(
            text for text in (without_boxes(findings.text), without_boxes(where.text)) if text
        ),
        tokens=findings.tokens + where.tokens,
        finish_reason=reason,
        seconds=max(findings.seconds, where.seconds),
        regions=tuple(regions(where.text)),
    )


def regions(text: str) -> Iterator[Region]:
    """Yield the boxes of an answer, each with the words just before it or before the last box."""
    end = 0
    label = "rib fracture"
    for match in BOX.finditer(text):
        words = without_boxes(text[end : match.start()]).strip(" ,.;:")
        label, end = label if words in BETWEEN else words, match.end()
        left, top, right, bottom = (float(number) / WHOLE for number in match.groups())
        yield gen.region(label, left, top, right, bottom)


def without_boxes(text: str) -> str:
    """Return the words of an answer without its boxes and marks.

    A grounded answer has a phrase per box, and five fractures have five times the same phrase: that
    is not a loop, and it is said once.
    """
    words, said = [], set()
    end = 0
    for match in BOX.finditer(text):
        phrase = _answer_words(text[end : match.start()])
        end = match.end()
        key = phrase.strip(" ,.;:").casefold()
        if key not in said or not key:
            words.append(phrase)
        said.add(key)
    words.append(_answer_words(text[end:]))
    return " ".join(" ".join(words).split())


def _answer_words(text: str) -> str:
    return " ".join(MARK.sub(" ", text).split())
