"""What time it is: the wall clock that people and NTP set, and the one that nobody can set."""

from __future__ import annotations

import time

TOLERANCE_S = 1.0
"""Less than this is no matter: clocks are slewed, and processes of several hosts differ."""


class Clock:
    """The wall clock, compared with the one that nobody can set; a test injects its own.

    `jump` remembers its last call, so each loop that asks for jumps has a clock of its own.
    """

    def __init__(self) -> None:
        self._difference = self.wall() - self.monotonic()

    def wall(self) -> float:
        """Return seconds since the epoch, as the host believes."""
        return time.time()

    def monotonic(self) -> float:
        """Return seconds that only grow, from an arbitrary start."""
        return time.monotonic()

    def moment(self, at: float | None) -> float:
        """Return `at`, or now where it is left out, in seconds since the epoch."""
        return self.wall() if at is None else at

    def jump(self) -> float:
        """Return by how many seconds the wall clock was set since the last call, else 0."""
        difference = self.wall() - self.monotonic()
        by = difference - self._difference
        self._difference = difference
        return by if abs(by) > TOLERANCE_S else 0.0
