"""The figures of a comparison with labels, and how sure they are."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

RESAMPLES = 2000
SEED = 20261129
"""Of every bootstrap: the same run and labels give the same intervals."""

Interval = tuple[float, float]
Array = npt.NDArray[np.float64]

PROPORTIONS: Mapping[str, tuple[str, str]] = {
    "accuracy": ("tp tn", "tp tn fp fn"),
    "precision": ("tp", "tp fp"),
    "recall": ("tp", "tp fn"),
    "specificity": ("tn", "tn fp"),
}
"""Measures that are hits of a number of cases: cells counted as hits, and all that count."""

MEASURES = (*PROPORTIONS, "f1", "mcc", "roc_auc", "ppv", "npv")


@dataclass(frozen=True, slots=True)
class Counts:
    """A confusion matrix; `undetermined` and `without_text` are beside it, never inside."""

    tp: int = 0
    fn: int = 0
    fp: int = 0
    tn: int = 0
    undetermined: int = 0
    without_text: int = 0

    @property
    def positives(self) -> int:
        """Answered cases with a fracture."""
        return self.tp + self.fn

    @property
    def negatives(self) -> int:
        """Answered cases without a fracture."""
        return self.tn + self.fp

    @property
    def answered(self) -> int:
        """Cases inside the matrix."""
        return self.positives + self.negatives


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure with its 95 % intervals; None where the cases do not give it."""

    name: str
    value: float | None
    wilson: Interval | None
    """For a proportion of cases; for others where a bootstrap has no spread to draw from."""
    bootstrap: Interval | None
    """Stratified: fractured and other cases are drawn again by themselves."""

    @property
    def interval(self) -> Interval | None:
        """The interval to print: Wilson's where there is one, else that of the bootstrap."""
        return self.wilson or self.bootstrap


def measure_counts(counts: Counts, prevalence: float | None = None) -> list[Measure]:
    """Return every measure of a confusion matrix.

    Parameters
    ----------
    counts : Counts
    prevalence : float, optional
        Share of fractured cases for which PPV and NPV hold; that of the labels when left out.
    """
    values = _measure_values((counts.tp, counts.fn, counts.fp, counts.tn), prevalence)
    spread = _draw_again(counts, prevalence)
    bounds = _bounds_without_spread(counts, prevalence)
    return [
        Measure(
            name,
            _finite_number(values[name]),
            _wilson_of(counts, name) or bounds.get(name),
            middle_interval(spread[name]),
        )
        for name in MEASURES
    ]


def wilson(hits: int, n: int, z: float = 1.96) -> Interval | None:
    """Return the Wilson score interval of `hits` of `n`."""
    if not n:
        return None
    # Wilson (1927): it holds for few cases and near 0 and 1, where p +- 1.96 s leaves the range.
    p, q = hits / n, z * z / n
    middle = (p + q / 2) / (1 + q)
    half = z * math.sqrt(p * (1 - p) / n + q / (4 * n)) / (1 + q)
    return max(0.0, middle - half), min(1.0, middle + half)


def mcnemar(only_a: int, only_b: int) -> float:
    """Return the two-sided p of McNemar's test, exact up to 1,000 cases that differ.

    Parameters
    ----------
    only_a, only_b : int
        Cases that only one of two runs has right.
    """
    n, least = only_a + only_b, min(only_a, only_b)
    if n == 0:
        return 1.0
    if n <= 1000:
        # The cases that differ are a fair coin when both runs are equally good.
        tail = sum(math.comb(n, k) for k in range(least + 1))
        return float(min(1.0, 2 * tail / 2**n))
    # Chi square of one degree with the correction of continuity; its tail is erfc(sqrt(x / 2)).
    statistic = (abs(only_a - only_b) - 1) ** 2 / n
    return math.erfc(math.sqrt(statistic / 2))


def kappa(pairs: Sequence[tuple[str, str]]) -> float | None:
    """Return Cohen's kappa of two raters; None where chance alone explains all."""
    n = len(pairs)
    if not n:
        return None
    words = {word for pair in pairs for word in pair}
    same = sum(a == b for a, b in pairs) / n
    chance = sum(
        (sum(a == word for a, _ in pairs) / n) * (sum(b == word for _, b in pairs) / n)
        for word in words
    )
    return None if chance == 1 else (same - chance) / (1 - chance)


@dataclass(frozen=True, slots=True)
class Difference:
    """How much one run is better than another, by one measure."""

    name: str
    value: float | None
    interval: Interval | None


def differences(cells_a: Sequence[str], cells_b: Sequence[str]) -> Iterator[Difference]:
    """Yield A minus B of each measure, with the paired bootstrap's 95 % interval.

    Parameters
    ----------
    cells_a, cells_b : sequence of str
        ``tp``, ``fn``, ``fp`` or ``tn`` of the same cases in the same order.
    """
    names = ("tp", "fn", "fp", "tn")
    place = {name: number for number, name in enumerate(names)}
    a = np.array([place[cell] for cell in cells_a])
    b = np.array([place[cell] for cell in cells_b])
    is_positive = a < 2
    drawn = np.random.default_rng(SEED)
    counts: list[tuple[npt.NDArray[Any], npt.NDArray[Any]]] = []
    picks = [np.flatnonzero(is_positive), np.flatnonzero(~is_positive)]
    for _ in range(RESAMPLES):
        # The same cases for both runs, fractured and others apart: the pairing is what makes the
        # interval narrow.
        chosen = np.concatenate(
            [drawn.choice(stratum, len(stratum)) for stratum in picks if len(stratum)]
        )
        counts.append((np.bincount(a[chosen], minlength=4), np.bincount(b[chosen], minlength=4)))
    of_a = _measure_values(np.array([first for first, _ in counts]).T, None)
    of_b = _measure_values(np.array([second for _, second in counts]).T, None)
    now_a = _measure_values(np.bincount(a, minlength=4), None)
    now_b = _measure_values(np.bincount(b, minlength=4), None)
    for name in MEASURES[:7]:
        value = _finite_number(now_a[name] - now_b[name])
        yield Difference(name, value, middle_interval(of_a[name] - of_b[name]))


def _draw_again(counts: Counts, prevalence: float | None) -> dict[str, Array]:
    """Draw fractured and other cases again, each by themselves: hits are then binomial."""
    drawn = np.random.default_rng(SEED)
    tp = drawn.binomial(counts.positives, _hit_share(counts.tp, counts.positives), RESAMPLES)
    tn = drawn.binomial(counts.negatives, _hit_share(counts.tn, counts.negatives), RESAMPLES)
    return _measure_values((tp, counts.positives - tp, counts.negatives - tn, tn), prevalence)


def _bounds_without_spread(counts: Counts, prevalence: float | None) -> dict[str, Interval]:
    """Return intervals where all or none of the fractured, or of the other, cases are right.

    Cases that are drawn again are all right then, too: PPV and NPV of four right cases would be
    1.000 without any doubt. The measures grow with recall and specificity, so both lower bounds by
    Wilson give their lower bound, and both upper ones the upper.
    """
    recall = wilson(counts.tp, counts.positives)
    specificity = wilson(counts.tn, counts.negatives)
    has_spread = all((counts.tp, counts.fn, counts.tn, counts.fp))
    if has_spread or recall is None or specificity is None:
        return {}
    found = []
    for hit, quiet in zip(recall, specificity, strict=True):
        tp, tn = hit * counts.positives, quiet * counts.negatives
        cells = (tp, counts.positives - tp, counts.negatives - tn, tn)
        found.append(_measure_values(cells, prevalence))
    lows, highs = found
    return {
        name: (float(lows[name]), float(highs[name]))
        for name in MEASURES
        if np.isfinite(lows[name]) and np.isfinite(highs[name])
    }


def _measure_values(cells: npt.ArrayLike, prevalence: float | None) -> dict[str, Array]:
    """Return each measure, for numbers or for whole resamples at once; NaN where undefined."""
    tp, fn, fp, tn = np.asarray(cells, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        recall, specificity = tp / (tp + fn), tn / (tn + fp)
        share = (tp + fn) / (tp + fn + fp + tn) if prevalence is None else np.float64(prevalence)
        # PPV and NPV by Bayes, so that they can be given for another prevalence than that of the
        # labels.
        hits, misses = recall * share, (1 - recall) * share
        alarms, quiet = (1 - specificity) * (1 - share), specificity * (1 - share)
        # In floating point: the product of four counts overflows an integer of 64 bits.
        spread = np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
        return {
            "accuracy": (tp + tn) / (tp + fn + fp + tn),
            "precision": tp / (tp + fp),
            "recall": recall,
            "specificity": specificity,
            "f1": 2 * tp / (2 * tp + fp + fn),
            "mcc": (tp * tn - fp * fn) / spread,
            "roc_auc": (recall + specificity) / 2,
            "ppv": hits / (hits + alarms),
            "npv": quiet / (quiet + misses),
        }


def _wilson_of(counts: Counts, name: str) -> Interval | None:
    if name not in PROPORTIONS:
        return None
    hits, whole = (
        sum(getattr(counts, cell) for cell in cells.split()) for cells in PROPORTIONS[name]
    )
    return wilson(hits, whole)


def middle_interval(values: Array) -> Interval | None:
    """Return the middle 95 % of resampled values; None where none is finite."""
    found = values[np.isfinite(values)]
    if not len(found):
        return None
    low, high = np.percentile(found, (2.5, 97.5))
    return float(low), float(high)


def _finite_number(value: Array) -> float | None:
    return float(value) if np.isfinite(value) else None


def _hit_share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
