"""What time it is: the wall clock, which people and NTP set, and the monotonic clock."""

from __future__ import annotations

import time
from datetime import UTC, datetime

TOLERANCE_S = 1.0
"""Less than this does not matter: clocks are slewed, and processes of several hosts differ."""


class Clock:
    """The wall clock and the monotonic clock; a test injects its own.

    It is given where the ledger is opened, and everybody who works with that ledger asks it.
    """

    def wall(self) -> float:
        """Return seconds since the epoch, as the host believes."""
        return time.time()

    def utc(self) -> datetime:
        """Return the moment that `wall` tells as a date."""
        return datetime.fromtimestamp(self.wall(), UTC)

    def monotonic(self) -> float:
        """Return seconds that only grow, from an arbitrary start."""
        return time.monotonic()

    def jumps(self) -> Jumps:
        """Return what tells from now on when the wall clock is set."""
        return Jumps(self)


HOST_CLOCK = Clock()
"""The clock of this machine, for what works without a ledger."""


class Jumps:
    """Tells by how much the wall clock is set; whoever asks has one of its own."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._difference = clock.wall() - clock.monotonic()

    def since_last(self) -> float:
        """Return by how many seconds the wall clock was set since the last call, else 0."""
        difference = self._clock.wall() - self._clock.monotonic()
        by = difference - self._difference
        self._difference = difference
        return by if abs(by) > TOLERANCE_S else 0.0
