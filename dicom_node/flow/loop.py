"""A loop: it watches for changes, works, rests, and backs off from troubles; whoever drives it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol

from dicom_node.base.errors import ChexFractError, Transient
from dicom_node.base.plurals import counted
from dicom_node.store.clock import Clock

logger = logging.getLogger(__name__)

POLL_S = 0.02
"""Seconds between two looks at whether the ledger has changed, for who cannot wait for a ring."""

REST_S = 0.02
"""Least rest after work, where nothing else is said."""

TROUBLE_S = 1.0
"""Wait after a trouble that passes by itself."""

LASTING_S = 15.0
"""Wait after a trouble that somebody has to end."""

FAULT_S = (1.0, 60.0)
"""First and longest wait after a fault that nobody foresaw, doubling."""

LONGEST_REST_S = 1.0
"""No rest after work is longer."""

Step = Callable[[], float | None]
"""Does what is due; returns in how many seconds there may be more, unless something changes.

None ends the loop.
"""


class ChangeWatch(Protocol):
    """A cheap way to learn that something has changed; as `store.ledger.database.Watch`."""

    def changed(self) -> bool:
        """Return whether something has changed since the last question; True at first."""

    def wait(self, seconds: float) -> None:
        """Return when there may be a change, at the latest after so many seconds."""

    def close(self) -> None:
        """Give back what it holds."""


class Loop:
    """Work that is done again and again, as soon as something has changed or time has come.

    A thread drives it by `run`; a simulation calls `turn` under a clock of its own.

    Parameters
    ----------
    name : str
        For log lines and threads.
    step : callable
        The work, see `Step`; raises `Transient` when it has to wait.
    clock : Clock
        Only its monotonic side is asked: setting the host's clock delays no turn.
    watch : ChangeWatch, optional
        Tells that there may be work before its time.
    rest_s : float
        Least rest after work: changes that come together are one turn's work.
    rests : bool
        It rests as long as it worked: under load it may not take the processor from others.
    on_end : callable, optional
        Called when the loop is over.
    """

    def __init__(
        self,
        name: str,
        step: Step,
        clock: Clock,
        watch: ChangeWatch | None = None,
        *,
        rest_s: float = REST_S,
        rests: bool = True,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self._step = step
        self._clock = clock
        self._watch = watch
        self._rest_s = rest_s
        self._looks = False
        """Whether the last turn found nothing to do."""
        self._rests = rests
        self._on_end = on_end
        self.due_at = clock.monotonic()
        """When there may be work by time alone."""
        self.turned_at = clock.monotonic()
        """When it last turned, by the monotonic clock; a step that hangs leaves it behind."""
        self.faults = 0
        """Unforeseen faults in a row."""
        self._trouble = ""

    def turn(self) -> float | None:
        """Work if there may be some; return in how many seconds to turn again, None at the end."""
        began = self.turned_at = self._clock.monotonic()
        has_changed = self._watch is not None and self._watch.changed()
        if not has_changed and began < self.due_at:
            left = self.due_at - began
            self._looks = True
            return left if self._watch is None else min(POLL_S, left)
        self._looks = False
        try:
            wait = self._step()
        except ChexFractError as exc:
            # one line for each trouble, not one for each try
            if str(exc) != self._trouble:
                self._trouble = str(exc)
                logger.warning("%s waits: %s", self.name, exc)
            pause = TROUBLE_S if isinstance(exc, Transient) else LASTING_S
            return self._wait_time(pause, pause)
        except Exception:  # the rim of every loop: what one step met must not end the work of all
            self.faults += 1
            pause = min(FAULT_S[0] * 2.0 ** (self.faults - 1), FAULT_S[1])
            faults = counted(self.faults, "time")
            logger.exception("%s failed %s; again in %.0f s", self.name, faults, pause)
            return self._wait_time(pause, pause)
        self.faults, self._trouble = 0, ""
        if wait is None:
            return None
        took = self._clock.monotonic() - began
        # as long as the work took: a loop leaves the ledger to others half of the time
        rest = max(self._rest_s, min(LONGEST_REST_S, took)) if self._rests else 0.0
        return self._wait_time(wait, rest)

    def run(self, stop: threading.Event) -> None:
        """Turn until `stop` is set or the work is over."""
        try:
            while not stop.is_set() and (wait := self.turn()) is not None:
                if self._looks and self._watch is not None:
                    self._watch.wait(self.due_at - self._clock.monotonic())
                else:
                    stop.wait(wait)
        finally:
            self.close()

    def close(self) -> None:
        """Give back what the loop holds."""
        if self._watch is not None:
            self._watch.close()
        self._on_end()

    def _wait_time(self, due_in: float, rest: float) -> float:
        """Note when there is more by time alone; return how long nothing is looked at."""
        self.due_at = self._clock.monotonic() + due_in
        # with a watch a change is seen after the rest; without it the time is all there is
        return rest if self._watch is not None else max(rest, due_in)


class Crew(Protocol):
    """Whoever drives loops that come and go."""

    def is_ending(self) -> bool:
        """Return whether all loops shall end."""

    def has(self, name: str) -> bool:
        """Return whether the loop of this name is not over."""

    def add(self, loop: Loop) -> None:
        """Drive a loop until it is over."""


class Threads:
    """Drives each loop by a thread of its own.

    Parameters
    ----------
    stop : threading.Event
        Ends all of them.
    """

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._threads: dict[str, threading.Thread] = {}

    def is_ending(self) -> bool:
        """Return whether all loops shall end."""
        return self._stop.is_set()

    def has(self, name: str) -> bool:
        """Return whether the thread of this name lives."""
        return name in self._threads and self._threads[name].is_alive()

    def add(self, loop: Loop) -> None:
        """Start a thread for a loop."""
        thread = threading.Thread(target=loop.run, args=(self._stop,), name=loop.name, daemon=True)
        self._threads[loop.name] = thread
        thread.start()

    def dead(self) -> list[str]:
        """Return the names of threads that have ended."""
        return [name for name, thread in self._threads.items() if not thread.is_alive()]

    def join(self, timeout_s: float) -> None:
        """Wait for all threads, up to so many seconds in all."""
        until = time.monotonic() + timeout_s
        for thread in list(self._threads.values()):
            thread.join(timeout=max(0.0, until - time.monotonic()))
