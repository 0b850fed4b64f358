"""How near a run's texts are to reference texts: exact, BLEU-4 and ROUGE-L.

They measure wording and not truth: a report that names the other side differs by one word.
BLEU is that of sacrebleu; ROUGE-L is the F-measure of the longest common subsequence of words.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt

from dicom_node.base.errors import ConfigurationError
from worker.research.labels import LabelledRow
from worker.research.measures import RESAMPLES, SEED, Measure, middle_interval, wilson

NAMES = ("exact", "bleu_4", "rouge_l")
_WORD = re.compile(r"[a-z0-9]+")


def measure_texts(cases: Sequence[LabelledRow]) -> list[Measure]:
    """Return the measures of the answered cases whose labels have a ``text``; none without any.

    Raises
    ------
    ConfigurationError
        sacrebleu and rapidfuzz are not installed.
    """
    pairs = [
        (str(case.row["text"]), case.label["text"])
        for case in cases
        if case.row is not None and "text" in case.row and case.label.get("text")
    ]
    if not pairs:
        return []
    same = sum(template(text) == template(reference) for text, reference in pairs)
    shares = np.array([rouge_l(*pair) for pair in pairs])
    corpus, parts = _bleu_sums(pairs)
    random, n = np.random.default_rng(SEED), len(pairs)
    even = np.full(n, 1 / n)
    bleus, means = [], []
    for _ in range(RESAMPLES):
        # How often each text is drawn: sums of BLEU are additive, so a resample is one product.
        times = random.multinomial(n, even)
        bleus.append(corpus(times @ parts))
        means.append(times @ shares / n)
    return [
        Measure("exact", same / n, wilson(same, n), None),
        Measure("bleu_4", corpus(parts.sum(axis=0)), None, middle_interval(np.array(bleus))),
        Measure("rouge_l", float(shares.mean()), None, middle_interval(np.array(means))),
    ]


def template(text: str) -> frozenset[str]:
    """Return a text as the set of its sentences: their order, case and blanks do not matter."""
    sentences = re.split(r"[.;\n]+", text.casefold())
    return frozenset(" ".join(sentence.split()) for sentence in sentences if sentence.strip())


def rouge_l(text: str, reference: str) -> float:
    """Return ROUGE-L of one text: words in lower case, without stemming."""
    lcs = _import_module("rapidfuzz.distance.LCSseq")
    a, b = _WORD.findall(text.lower()), _WORD.findall(reference.lower())
    if not a or not b:
        return float(a == b)
    return 2 * float(lcs.similarity(a, b)) / (len(a) + len(b))


def _bleu_sums(
    pairs: Sequence[tuple[str, str]],
) -> tuple[Callable[[Any], float], npt.NDArray[np.int64]]:
    """Return what makes corpus BLEU-4 (0 to 1) of sums, and each text's part of these sums."""
    bleu = _import_module("sacrebleu.metrics.bleu").BLEU
    metric = bleu(lowercase=True, effective_order=True)
    scores = [metric.sentence_score(text, [reference]) for text, reference in pairs]
    parts = np.array([[*s.counts, *s.totals, s.sys_len, s.ref_len] for s in scores], np.int64)

    def corpus(sums: Any) -> float:
        counts, totals = [int(n) for n in sums[:4]], [int(n) for n in sums[4:8]]
        found = bleu.compute_bleu(counts, totals, int(sums[8]), int(sums[9]), smooth_method="exp")
        return float(found.score) / 100

    return corpus, parts


def is_ready() -> bool:
    """Return whether what measures texts is installed."""
    return all(find_spec(name) is not None for name in ("sacrebleu", "rapidfuzz"))


def _import_module(module: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as exc:
        raise ConfigurationError(
            f"texts need {module.partition('.')[0]}: pip install 'chexfract-node[research]'"
        ) from exc
