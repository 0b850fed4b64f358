"""A clock that stands still until a test moves it."""

from __future__ import annotations

from dicom_node.store.clock import Clock


class FakeClock(Clock):
    """Time that passes, and is set, by hand."""

    def __init__(self, wall: float = 1_800_000_000.0) -> None:
        self._wall = wall
        self._monotonic = 1000.0

    def wall(self) -> float:
        """Return the time that people and NTP see."""
        return self._wall

    def monotonic(self) -> float:
        """Return the time that nobody sets."""
        return self._monotonic

    def pass_by(self, seconds: float) -> None:
        """Let time pass."""
        self._wall += seconds
        self._monotonic += seconds

    def set_by(self, seconds: float) -> None:
        """Set the wall clock ahead, or back."""
        self._wall += seconds
