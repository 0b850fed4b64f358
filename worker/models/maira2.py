"""MAIRA-2: the findings section of a report, with boxes when grounding is asked for."""

from __future__ import annotations

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


def build(name: str, options: Options, device: str) -> Maira2:
    """Return the model of ``[models.NAME]``, not yet loaded."""
    return Maira2(name, options, device)


class Maira2(LocalModel):
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
        told = ("indication", "technique", "comparison")
        said |= {key: value for key in told if (value := getattr(options, key))}
        return super()._parameters() | said

    def _describe(
        self, pictures: Sequence[NDArray[np.uint8]], progress: Progress | None
    ) -> list[Description]:
        return [self._one(pixels, progress) for pixels in pictures]

    def _one(self, pixels: NDArray[np.uint8], progress: Progress | None) -> Description:
        options = cast("Options", self.options)
        started = time.monotonic()
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
        inputs = gen.moved(gen.tensors(made.items()), self.device, self.dtype)
        ids = self.model.generate(**inputs, **self._watching(progress))
        answer = ids[0, inputs["input_ids"].shape[1] :].tolist()
        kept, reason = gen.cut(answer, self.stops, options.max_new_tokens)
        said = self.processor.decode(kept, skip_special_tokens=True).lstrip()
        parts = self.processor.convert_output_to_plaintext_or_grounded_sequence(said)
        seconds = time.monotonic() - started
        if isinstance(parts, str):
            return Description(parts.strip(), len(kept), reason, seconds)
        text = " ".join(str(sentence).strip() for sentence, _ in parts)
        regions = tuple(self._regions(parts, pixels.shape))
        return Description(text, len(kept), reason, seconds, regions)

    def _regions(self, parts: Any, shape: tuple[int, ...]) -> Iterator[Region]:
        """Yield boxes in shares of the whole picture: the model has seen a centre crop of it."""
        rows, columns = shape
        for sentence, boxes in parts:
            for box in boxes or ():
                left, top, right, bottom = self.processor.adjust_box_for_original_image_size(
                    box, width=columns, height=rows
                )
                yield gen.region(str(sentence).strip(), left, top, right, bottom)
