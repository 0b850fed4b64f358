"""CXR-LLaVA v2: a report, differential diagnoses or the answer to a question."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from worker.models import Description, Progress
from worker.models import generation as gen
from worker.models.local import LocalModel

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from worker.models.options import CxrLlava as Options

IMAGE_PLACE = -200
"""The id at which the checkpoint's code puts the picture."""
LARGEST = 2048
"""Longest side handed to its processor, which makes 512 of it."""


def build(name: str, options: Options, device: str) -> CxrLlavaModel:
    """Return the model of ``[models.NAME]``, not yet loaded."""
    return CxrLlavaModel(name, options, device)


class CxrLlavaModel(LocalModel):
    """A model whose tokenizer and picture processor live inside it.

    Its own ``generate_cxr_repsonse`` puts ids on CUDA whatever the device, samples, and gives up
    after 15 s without a token. Its public methods, which know the sentences it was trained on, are
    kept; that one step is replaced by greedy decoding on our device.
    """

    def _load(self, folder: Path) -> None:
        self.model = self._whole(folder, "AutoModel")
        self.tokenizer = self.model.tokenizer
        self.stops = gen.stop_tokens(self.tokenizer, self.model.generation_config)
        pad = self.tokenizer.pad_token_id
        self.decoding = gen.greedy(
            self.stops,
            self.stops[0] if pad is None else pad,
            self.options.max_new_tokens,
            self.options.max_time,
        )

    def _parameters(self) -> dict[str, str]:
        task = cast("Options", self.options).task
        parameters = super()._parameters() | {"task": task}
        if task != "question":
            parameters["prompt"] = task
        return parameters

    def _asked(self) -> dict[str, str]:
        return super()._asked() | {"task": cast("Options", self.options).task}

    def _inputs(self, pixels: NDArray[np.uint8]) -> Any:
        """Return the ids and the picture as its own code makes them; only it knows the chat."""
        import numpy as np

        options = cast("Options", self.options)
        asked: list[tuple[Any, Any]] = []

        def take(chat: Any, image: Any, **_: Any) -> str:
            asked.append((chat, image))
            return ""

        # an instance's attribute stands before the class's method, whose name is spelt so
        self.model.generate_cxr_repsonse = take
        image = gen.picture(pixels).convert("L")
        image.thumbnail((LARGEST, LARGEST))
        if options.task == "report":
            self.model.write_radiologic_report(image)
        elif options.task == "differential":
            self.model.write_differential_diagnosis(image)
        else:
            self.model.ask_question(question=options.prompt, image=image)
        chat, image = asked[-1]
        grey = np.asarray(image)[..., None]
        made = self.model.vision_tower.image_processor(grey, return_tensors="pt")
        ids = self.model.tokenizer_image_token(
            self.model.apply_chat_template(chat), self.tokenizer, IMAGE_PLACE, return_tensors="pt"
        )
        return ids.unsqueeze(0), made["pixel_values"]

    def _describe(self, inputs: Sequence[Any], progress: Progress | None) -> list[Description]:
        return [self._one(made, progress) for made in inputs]

    def _one(self, made: tuple[Any, Any], progress: Progress | None) -> Description:
        started = time.monotonic()
        ids, picture = made
        out = self.model.generate(
            inputs=ids.to(self.device),
            images=picture.to(self.device),
            generation_config=self.decoding,
            **self._watching(progress),
        )
        answer = out[0, ids.shape[1] :].tolist()
        return self._decoded(answer, self.tokenizer, self.stops, time.monotonic() - started)
