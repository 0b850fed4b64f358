"""Measure what the demonstration model reads, and what pixel faults do to it.

Faithful changes (bars, crops, stretching) must leave the answer right. Faults that a DICOM
pipeline can make (a wrong polarity, side, byte) must ruin it: that is what the model is for.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from transformers import AutoModelForCausalLM, AutoProcessor

from worker.phantom import draw, truth
from worker.phantom.seeds import RESERVED

logger = logging.getLogger(__name__)

FOLDER = Path(__file__).parent / "model"
"""The shipped model."""

SEED = 900_000
PROMPT = "Describe bones on this chest X-ray"
Pixels = npt.NDArray[np.uint8]
Change = Callable[[np.random.Generator, Pixels], npt.NDArray[Any]]


def _with_bars(left: float, right: float, top: float, bottom: float, grey: int = 0) -> Change:
    """Return a change that adds bars; sizes are shares of the side they lengthen."""

    def change(_: np.random.Generator, x: Pixels) -> npt.NDArray[Any]:
        rows, columns = x.shape
        down = round(top * rows), round(bottom * rows)
        across = round(left * columns), round(right * columns)
        return np.pad(x, (down, across), constant_values=grey)

    return change


def _any_bars(rng: np.random.Generator, x: Pixels) -> npt.NDArray[Any]:
    """Add bars of any width up to 40 % on any side, black, white or grey."""
    sizes = rng.uniform(0, 0.4, 4) * (rng.random(4) < 0.6)
    left, right, top, bottom = sizes.tolist()
    return _with_bars(left, right, top, bottom, int(rng.choice([0, 255, int(rng.integers(256))])))(
        rng, x
    )


def _resized_by(across: float, down: float) -> Change:
    def change(_: np.random.Generator, x: Pixels) -> npt.NDArray[Any]:
        size = (round(x.shape[1] * across), round(x.shape[0] * down))
        return np.asarray(Image.fromarray(x).resize(size, Image.Resampling.BICUBIC))

    return change


def _cropped_picture(_: np.random.Generator, x: Pixels) -> npt.NDArray[Any]:
    rows, columns = (round(0.02 * n) for n in x.shape)
    return x[rows:-rows, columns:-columns]


FAITHFUL: dict[str, Change] = {
    "letterboxed left and right": _with_bars(0.15, 0.15, 0, 0),
    "letterboxed above and below": _with_bars(0, 0, 0.15, 0.15),
    "letterboxed off centre": _with_bars(0.4, 0.05, 0, 0),
    "white bars": _with_bars(0.2, 0.2, 0, 0, 255),
    "grey bars above and below": _with_bars(0, 0, 0.3, 0.1, 90),
    "any bars, up to 40 %": _any_bars,
    "stretched to 1.2 x 1": _resized_by(1.2, 1),
    "stretched to 1 x 1.2": _resized_by(1, 1.2),
    "enlarged to double": _resized_by(2, 2),
    "reduced to half": _resized_by(0.5, 0.5),
    "2 % cut off on each side": _cropped_picture,
    "mild window (x 1.1, +8)": lambda _, x: np.clip((x - 128.0) * 1.1 + 136, 0, 255),
}
"""Changes that must not change the answer."""

FAULTS: dict[str, Change] = {
    "inverted": lambda _, x: 255 - x,
    "mirrored left to right": lambda _, x: x[:, ::-1],
    "upside down": lambda _, x: x[::-1],
    "rotated by 90 degrees": lambda _, x: np.rot90(x),
    "rotated by 180 degrees": lambda _, x: np.rot90(x, 2),
    "transposed": lambda _, x: x.T,
    "low byte of 12 bits": lambda _, x: (x.astype(int) * 16) % 256,
    "too dark (a quarter)": lambda _, x: x // 4,
    "saturated (x 2.5)": lambda _, x: np.clip(x * 2.5, 0, 255),
}
"""Faults that must ruin the answer, at least where there is a fracture."""


@dataclass(frozen=True, slots=True)
class Score:
    """How one set of pictures was read; shares from 0 to 1, NaN where there is nothing to share.

    Attributes
    ----------
    name : str
        What was done to the pictures.
    count : int
        Pictures read.
    exact : float
        The text is letter for letter the truth.
    exact_fractured : float
        The same, of pictures with a fracture.
    presence : float
        Fracture or none is right.
    precision, recall : float
        Of single findings.
    outside : float
        The text is not that of any phantom.
    """

    name: str
    count: int
    exact: float
    exact_fractured: float
    presence: float
    precision: float
    recall: float
    outside: float

    def line(self) -> str:
        """Return one row of the table."""
        parts = [f"{key} {value:.3f}" for key, value in asdict(self).items() if key in _SHARES]
        return f"{self.name:32} n {self.count:5d}  " + "  ".join(parts)


_SHARES = ("exact", "exact_fractured", "presence", "precision", "recall", "outside")


class Reader:
    """The model in a folder, called as ChexFract is.

    Parameters
    ----------
    folder : Path
        Remote code, tokenizer, configuration and weights.
    """

    def __init__(self, folder: Path = FOLDER) -> None:
        path = str(folder.resolve())
        load: dict[str, Any] = {"trust_remote_code": True, "local_files_only": True}
        weights: Any = AutoModelForCausalLM
        self.model = weights.from_pretrained(path, torch_dtype=torch.float32, **load).eval()
        processor: Any = AutoProcessor
        self.processor = processor.from_pretrained(path, **load)
        message = {"role": "user", "content": f"<|image_1|>\n{PROMPT}"}
        self.prompt = self.processor.tokenizer.apply_chat_template(
            [message], tokenize=False, add_generation_prompt=True
        )

    def read(self, pictures: Sequence[npt.NDArray[Any]], batch: int = 32) -> list[str]:
        """Return the text of each picture: 8-bit grey values, (rows, columns)."""
        texts: list[str] = []
        for start in range(0, len(pictures), batch):
            part = [
                Image.fromarray(np.ascontiguousarray(x, np.uint8))
                for x in pictures[start : start + batch]
            ]
            inputs = self.processor([self.prompt] * len(part), part, return_tensors="pt")
            with torch.inference_mode():
                ids = self.model.generate(**inputs, max_new_tokens=64, do_sample=False)
            answers = ids[:, inputs["input_ids"].shape[1] :]
            texts += self.processor.batch_decode(answers, skip_special_tokens=True)
        return [text.strip() for text in texts]


def evaluate(
    folder: Path = FOLDER, count: int = 1000, changed: int = 200, seed: int = SEED, threads: int = 2
) -> list[Score]:
    """Read freshly drawn phantoms as they are, then changed faithfully, then with faults.

    Parameters
    ----------
    folder : Path
        The model.
    count : int
        Phantoms read as they are drawn.
    changed : int
        The first so many of them are read again with every change.
    seed : int
        A reserved seed: training has never drawn from it.
    threads : int
        For torch.

    Returns
    -------
    list of Score
        Each is also logged as a line as soon as it is known.

    Raises
    ------
    ValueError
        The seed is one that training may use.
    """
    if seed not in RESERVED:
        raise ValueError(f"seed {seed} may have been used in training; use one below 1000000")
    torch.set_num_threads(threads)
    scores = []
    for found in _score_sets(Reader(folder), count, min(changed, count), seed):
        logger.info("%s", found.line())
        scores.append(found)
    return scores


def _score_sets(reader: Reader, count: int, changed: int, seed: int) -> Iterator[Score]:
    drawn = [draw.phantom(seed, index) for index in range(count)]
    pictures, truths = [p.uint8 for p in drawn], [p.findings for p in drawn]
    started = time.monotonic()
    texts = reader.read(pictures)
    logger.info("%.1f ms per picture", 1000 * (time.monotonic() - started) / count)
    yield score("as drawn", texts, truths)
    shapes: dict[str, Callable[[Pixels], bool]] = {
        "of these, square": lambda x: x.shape[0] == x.shape[1],
        "of these, portrait (35 x 43 cm)": lambda x: x.shape[0] > x.shape[1],
        "of these, landscape (43 x 35 cm)": lambda x: x.shape[0] < x.shape[1],
    }
    for name, is_so in shapes.items():
        these = [i for i, x in enumerate(pictures) if is_so(x)]
        yield score(name, [texts[i] for i in these], [truths[i] for i in these])
    for name, change in (FAITHFUL | FAULTS).items():
        rng = np.random.default_rng(seed)
        texts = reader.read([change(rng, x) for x in pictures[:changed]])
        yield score(name, texts, truths[:changed])
        if name == "mirrored left to right":
            mirrored = [
                frozenset(map(_mirrored_finding, findings)) for findings in truths[:changed]
            ]
            yield score("  against the mirrored truth", texts, mirrored)


def score(name: str, texts: Sequence[str], truths: Sequence[frozenset[truth.Finding]]) -> Score:
    """Compare texts with findings."""
    read = [_parse_text(text) for text in texts]
    pairs = list(zip(read, truths, strict=True))
    exact = [found == expected for found, expected in pairs]
    fractured = [is_right for is_right, expected in zip(exact, truths, strict=True) if expected]
    inside = [(found, expected) for found, expected in pairs if found is not None]
    hits = sum(len(found & expected) for found, expected in inside)
    return Score(
        name,
        len(texts),
        _mean_share(exact),
        _mean_share(fractured),
        _mean_share(
            [found is not None and bool(found) == bool(expected) for found, expected in pairs]
        ),
        _part_share(hits, sum(len(found) for found, _ in inside)),
        _part_share(hits, sum(map(len, truths))),
        _mean_share([found is None for found in read]),
    )


def _parse_text(text: str) -> frozenset[truth.Finding] | None:
    try:
        return truth.parse(text)
    except ValueError:
        return None


def _mirrored_finding(finding: truth.Finding) -> truth.Finding:
    return truth.Finding("left" if finding.side == "right" else "right", finding.rib)


def _mean_share(values: Sequence[bool]) -> float:
    return _part_share(sum(values), len(values))


def _part_share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
