"""Whether something grows: a line through the means of stretches, with its confidence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

STRETCHES = 10
"""Means of so many stretches: single values of one process follow one another too closely."""

T_99_9 = {3: 10.21, 4: 7.17, 5: 5.89, 6: 5.21, 7: 4.79, 8: 4.50}
"""One-sided quantiles of Student's t by degrees of freedom."""


@dataclass(frozen=True)
class Trend:
    """Growth over the whole time, as estimated, and what it is at least with 99.9 % confidence."""

    start: float
    growth: float
    at_least: float


def trend(times: Sequence[float], values: Sequence[float]) -> Trend:
    """Return how `values` grow from the first to the last of `times`.

    Raises
    ------
    ValueError
        There are too few of them.
    """
    if len(times) < STRETCHES:
        raise ValueError(f"{len(times)} values are too few for a trend")
    span = times[-1] - times[0]
    groups: list[list[tuple[float, float]]] = [[] for _ in range(STRETCHES)]
    for time, value in zip(times, values, strict=True):
        place = int((time - times[0]) / span * STRETCHES) if span else 0
        groups[min(STRETCHES - 1, place)].append((time, value))
    means = [
        (fmean(time for time, _ in group), fmean(value for _, value in group))
        for group in groups
        if group
    ]
    if len(means) < min(T_99_9) + 2 or not span:
        raise ValueError("the values lie in too few stretches of time")
    middle, height = fmean(x for x, _ in means), fmean(y for _, y in means)
    width = sum((x - middle) ** 2 for x, _ in means)
    slope = sum((x - middle) * (y - height) for x, y in means) / width
    rest = sum((y - height - slope * (x - middle)) ** 2 for x, y in means)
    freedom = len(means) - 2
    error = math.sqrt(rest / freedom / width)
    start = height - slope * (middle - times[0])
    return Trend(start, slope * span, (slope - T_99_9[freedom] * error) * span)
