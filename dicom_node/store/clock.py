"""Notices when the wall clock is set: by people, by NTP, or after the machine was suspended."""

from __future__ import annotations

import time

TOLERANCE_S = 1.0
"""Less than this is no matter: clocks are slewed, and processes of several hosts differ."""


class Clock:
    """The wall clock, compared with the one that nobody can set."""

    def __init__(self) -> None:
        self._difference = _difference()

    def jump(self) -> float:
        """Return by how many seconds the clock was set since the last call, else 0."""
        difference = _difference()
        by = difference - self._difference
        self._difference = difference
        return by if abs(by) > TOLERANCE_S else 0.0


def _difference() -> float:
    return time.time() - time.monotonic()
