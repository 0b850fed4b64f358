"""LLM-CXR: a codebook turns the picture into 256 words that a language model reads."""

from __future__ import annotations

import importlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from dicom_node.base.errors import ConfigurationError, ModelFault
from dicom_node.base.plurals import counted
from worker.models import Description, Progress, remote_code
from worker.models import generation as gen
from worker.models.checkpoint import Unacceptable
from worker.models.local import LocalModel
from worker.models.pickles import tensors_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from worker.models.options import LlmCxr as Options

SIDE = 256
PLACE = "<image>"
FORMAT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes "
    "the request.\n\n### Instruction:\n{instruction}\n\nInput:\n{place}\n\n### Response:\n"
)
"""The instruction format of the Dolly models, in which the language model was trained."""
END = "### End"
NO_LOSS = {"target": "taming.modules.losses.vqperceptual.DummyLoss"}
"""The training loss would fetch weights from the network."""


def build(name: str, options: Options, device: str) -> LlmCxrModel:
    """Return the model of ``[models.NAME]``, not yet loaded."""
    return LlmCxrModel(name, options, device)


class LlmCxrModel(LocalModel):
    """A causal language model and the encoder half of a VQGAN.

    The codebook's words follow the tokenizer's: word n has the id ``len(tokenizer) + n``.
    """

    codebook: Any = None
    _codebook_words = 0

    def _load(self, folder: Path) -> None:
        library = remote_code.library()
        self.codebook = self._codebook(folder)
        self.tokenizer = library.AutoTokenizer.from_pretrained(
            folder, padding_side="left", trust_remote_code=True, local_files_only=True
        )
        self.model = self._whole(folder, "AutoModelForCausalLM")
        self.stops = gen.stop_tokens(self.tokenizer, self.model.generation_config)
        end = self.tokenizer(END, add_special_tokens=False)["input_ids"]
        if len(end) == 1:
            self.stops = sorted({*self.stops, end[0]})
        if not self.stops:
            raise Unacceptable(f"models.{self.name}.path: the tokenizer has no end of answer")
        pad = self.tokenizer.pad_token_id
        self.model.generation_config = gen.greedy(
            self.stops,
            self.stops[0] if pad is None else pad,
            self.options.max_new_tokens,
            self.options.max_time,
        )

    def close(self) -> None:
        """Give the memory back, that of the codebook too."""
        self.codebook = None
        super().close()

    def _more_words(self) -> int:
        return self._codebook_words

    def _codebook(self, folder: Path) -> Any:
        options = cast("Options", self.options)
        try:
            yaml = importlib.import_module("yaml")
            vqgan = importlib.import_module("taming.models.vqgan")
        except ImportError as exc:
            raise ConfigurationError(
                f"models.{self.name}: the codebook needs taming-transformers: {exc}"
            ) from exc
        shape = yaml.safe_load((folder / options.vqgan_config).read_text(encoding="utf-8"))
        model = vqgan.VQModel(**{**shape["model"]["params"], "lossconfig": NO_LOSS})
        self._codebook_words = int(shape["model"]["params"].get("n_embed", 0))
        weights = _weights(folder / options.vqgan_weights)
        report = model.load_state_dict(weights, strict=False)
        missing = [key for key in report.missing_keys if not key.startswith("loss.")]
        if missing:
            keys = counted(len(missing), "missing key")
            raise Unacceptable(f"models.{self.name}.vqgan_weights: {keys}, first {missing[0]}")
        return model.to(self.device).eval()

    def _parameters(self) -> dict[str, str]:
        question = cast("Options", self.options).question
        return super()._parameters() | ({"question": question} if question else {})

    def _asked(self) -> dict[str, str]:
        return super()._asked() | {"question": cast("Options", self.options).question}

    def _inputs(self, pixels: NDArray[np.uint8]) -> Any:
        return square(pixels)

    def _describe(self, inputs: Sequence[Any], progress: Progress | None) -> list[Description]:
        return [self._one(picture, progress) for picture in inputs]

    def _one(self, picture: Any, progress: Progress | None) -> Description:
        words, question = self._words(picture), cast("Options", self.options).question
        report = self._ask(self.options.prompt, words, progress)
        if not question:
            return report
        answer = self._ask(question, words, progress)
        return Description(
            text="\n".join(text for text in (report.text, answer.text) if text),
            tokens=report.tokens + answer.tokens,
            finish_reason=answer.finish_reason
            if report.finish_reason == "stop"
            else report.finish_reason,
            seconds=report.seconds + answer.seconds,
        )

    def _ask(self, instruction: str, words: list[int], progress: Progress | None) -> Description:
        import torch

        started = time.monotonic()
        ids = torch.tensor([self._prompt(words, instruction)], device=self.device)
        out = self.model.generate(
            ids, attention_mask=torch.ones_like(ids), **self._watching(progress)
        )
        kept, reason = gen.cut(
            out[0, ids.shape[1] :].tolist(), self.stops, self.options.max_new_tokens
        )
        # words of the codebook are a picture's, which no tokenizer can decode; they count as said
        readable = [token for token in kept if token < len(self.tokenizer)]
        text = self.tokenizer.decode(readable, skip_special_tokens=True).strip()
        return Description(text, len(kept), reason, time.monotonic() - started)

    def _words(self, picture: Any) -> list[int]:
        """Return the 256 ids of a picture that `square` returned."""
        import torch

        with torch.no_grad():
            _, _, (_, _, indices) = self.codebook.encode(picture.to(self.device))
        return [int(index) + len(self.tokenizer) for index in indices.flatten()]

    def _prompt(self, words: list[int], instruction: str = "") -> list[int]:
        text = FORMAT.format(instruction=instruction or self.options.prompt, place=PLACE)
        ids: list[int] = self.tokenizer(text)["input_ids"]
        place: list[int] = self.tokenizer(PLACE, add_special_tokens=False)["input_ids"]
        for start in range(len(ids) - len(place) + 1):
            if ids[start : start + len(place)] == place:
                # the brackets stay, the word between them becomes the picture
                return ids[: start + 1] + words + ids[start + len(place) - 1 :]
        raise ModelFault(f"{self.name}: the tokenizer does not keep {PLACE} in one piece")


def square(pixels: NDArray[np.uint8]) -> Any:
    """Return the centre of the picture as (1, 3, 256, 256), from -1 to 1.

    The shorter side becomes 256 pixels, so that the flanks of a wide picture are cut off.
    """
    import numpy as np
    import torch
    from PIL import Image

    picture = gen.picture(pixels)
    scale = SIDE / min(picture.size)
    size = (round(picture.size[0] * scale), round(picture.size[1] * scale))
    picture = picture.resize(size, Image.Resampling.LANCZOS)
    left, top = (round((length - SIDE) / 2) for length in size)
    picture = picture.crop((left, top, left + SIDE, top + SIDE))
    array = np.asarray(picture, np.float32).transpose(2, 0, 1)[None] / 127.5 - 1
    return torch.from_numpy(array)


def _weights(path: Path) -> dict[str, Any]:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    return tensors_of(path)
