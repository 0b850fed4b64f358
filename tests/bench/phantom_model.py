"""Load the demonstration model with the installed transformers; print what serving relies on.

    python tests/bench/phantom_model.py [FOLDER]

Run it once under each transformers release that is to be supported: the digest of the texts
must be the same.
"""

from __future__ import annotations

import hashlib
import os
import statistics
import sys
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch
import transformers
from PIL import Image
from transformers import AutoModelForCausalLM

from worker.phantom import draw
from worker.phantom.evaluate import FOLDER, SEED, Reader

PICTURES = 24


def main() -> None:
    """Print one line per property."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    torch.set_num_threads(1)
    _, info = AutoModelForCausalLM.from_pretrained(
        str(folder.resolve()), trust_remote_code=True, output_loading_info=True
    )
    reader = Reader(folder)
    dtype = next(reader.model.parameters()).dtype
    print(f"transformers {transformers.__version__}, torch {torch.__version__}, {dtype}")
    print("keys", {key: len(value) for key, value in info.items() if value is not None})
    pictures = [draw.phantom(SEED, index).uint8 for index in range(PICTURES)]
    texts = reader.read(pictures)
    right = sum(
        text == draw.truth.text(draw.phantom_findings(SEED, index))
        for index, text in enumerate(texts)
    )
    digest = hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]
    print(f"exact {right} of {PICTURES}, digest {digest}")
    print("batch rows equal singles", texts == [reader.read([x])[0] for x in pictures])
    prompt = reader.processor(reader.prompt, Image.fromarray(pictures[0]), return_tensors="pt")
    settings = {"max_new_tokens": 64, "do_sample": False}
    with_cache = reader.model.generate(**prompt, **settings)
    without = reader.model.generate(**prompt, **settings, use_cache=False)
    print("cache equals no cache", torch.equal(with_cache, without))
    scored = reader.model.generate(
        **prompt, **settings, output_scores=True, return_dict_in_generate=True
    )
    print("scores", len(scored.scores), tuple(scored.scores[0].shape))
    seconds = []
    for picture in pictures:
        started = time.perf_counter()
        reader.read([picture])
        seconds.append(time.perf_counter() - started)
    p95 = np.percentile(seconds, 95)
    print(f"one picture, one thread: median {1e3 * statistics.median(seconds):.1f} ms, ", end="")
    print(f"p95 {1e3 * p95:.1f} ms, fastest {1e3 * min(seconds):.1f} ms")


if __name__ == "__main__":
    main()
