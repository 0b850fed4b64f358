"""MAIRA-2: the findings section of a report, with boxes when grounding is asked for."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from worker.models import Description, Progress, Region
from worker.models import generation as gen
from worker.models.local import LocalModel

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from worker.models.options import Maira2 as Options


logger = logging.getLogger(__name__)

BOX = re.compile(r"<box>\s*<x(\d{1,3})><y(\d{1,3})><x(\d{1,3})><y(\d{1,3})>\s*</box>")
CELLS = 100
"""A coordinate names one of a hundred cells across or down; its middle is meant."""


def read_phrases(said: str) -> list[tuple[str, list[tuple[float, ...]] | None]]:
    """Return each phrase of a grounded answer with its whole boxes; an open end is not a fault.

    What stands outside of the marks is text as well: nothing that was said is lost.
    """
    found: list[tuple[str, list[tuple[float, ...]] | None]] = []
    for piece in said.replace("</obj>", "<obj>").split("<obj>"):
        boxes = [
            tuple((int(number) + 0.5) / CELLS for number in match.groups())
            for match in BOX.finditer(piece)
        ]
        words = piece.partition("<box>")[0].strip()
        behind = piece.rpartition("</box>")[2].strip() if "</box>" in piece else ""
        text = " ".join(part for part in (words, behind.partition("<box>")[0].strip()) if part)
        if text or boxes:
            found.append((text, boxes or None))
    return found


def build(name: str, options: Options, device: str) -> Maira2Model:
    """Return the model of ``[models.NAME]``, not yet loaded."""
    return Maira2Model(name, options, device)


class Maira2Model(LocalModel):
    """One frontal radiograph at a time, without priors and without the patient's history.

    Its processor makes the whole prompt; the table's indication, technique and comparison are
    the same for every radiograph.
    """

    def _load(self, folder: Path) -> None:
        self.model = self._whole(folder, "AutoModelForCausalLM")
        self.processor = self._processor(folder)
        self.stops = gen.stop_tokens(self.processor.tokenizer, self.model.generation_config)
        pad = self.processor.tokenizer.pad_token_id
        self.model.generation_config = gen.greedy(
            self.stops,
            self.stops[0] if pad is None else pad,
            self.options.max_new_tokens,
            self.options.max_time,
        )

    def _parameters(self) -> dict[str, str]:
        options = cast("Options", self.options)
        said = {"prompt": "report", "grounding": str(options.grounding).lower()}
        given = ("indication", "technique", "comparison")
        said |= {key: value for key in given if (value := getattr(options, key))}
        return super()._parameters() | said

    def _describe(self, inputs: Sequence[Any], progress: Progress | None) -> list[Description]:
        return [self._describe_picture(prepared, progress) for prepared in inputs]

    def _inputs(self, pixels: NDArray[np.uint8]) -> Any:
        options = cast("Options", self.options)
        made = self.processor.format_and_preprocess_reporting_input(
            current_frontal=gen.picture(pixels),
            current_lateral=None,
            prior_frontal=None,
            indication=options.indication or None,
            technique=options.technique or None,
            comparison=options.comparison or None,
            prior_report=None,
            return_tensors="pt",
            get_grounding=options.grounding,
        )
        return gen.tensors(made.items()), pixels.shape

    def _describe_picture(
        self, prepared: tuple[gen.Inputs, tuple[int, ...]], progress: Progress | None
    ) -> Description:
        started = time.monotonic()
        tensors, shape = prepared
        inputs = gen.moved(tensors, self.device, self.dtype)
        ids = self.model.generate(**inputs, **self._watching(progress))
        answer = ids[0, inputs["input_ids"].shape[1] :].tolist()
        kept, reason = gen.cut(answer, self.stops, self.options.max_new_tokens)
        said = self.processor.decode(kept, skip_special_tokens=True).lstrip()
        parts = self._read_parts(said)
        seconds = time.monotonic() - started
        if isinstance(parts, str):
            return Description(parts.strip(), len(kept), reason, seconds)
        text = " ".join(str(sentence).strip() for sentence, _ in parts)
        regions = tuple(self._read_regions(parts, shape))
        return Description(text, len(kept), reason, seconds, regions)

    def _read_parts(self, said: str) -> Any:
        """Return the phrases of an answer with their boxes, by the checkpoint's own converter.

        It asserts that each mark is closed, and an answer may be cut within a mark.
        """
        try:
            return self.processor.convert_output_to_plaintext_or_grounded_sequence(said)
        except (AssertionError, ValueError):
            logger.info("model %s: its marks are not closed; read as far as they go", self.name)
            return read_phrases(said)

    def _read_regions(self, parts: Any, shape: tuple[int, ...]) -> Iterator[Region]:
        """Yield boxes in shares of the whole picture: the model has seen a centre crop of it."""
        rows, columns = shape
        for sentence, boxes in parts:
            for box in boxes or ():
                left, top, right, bottom = self.processor.adjust_box_for_original_image_size(
                    box, width=columns, height=rows
                )
                yield gen.region(str(sentence).strip(), left, top, right, bottom)
