"""Turns: hand-outs go into a worker side by side; a suspect waits until it is empty."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class _Waiting:
    begin: Callable[[], None]
    count: int
    is_alone: bool


class Turns:
    """Says when a hand-out's jobs may be claimed.

    A claim counts an attempt, and a worker that dies spends an attempt of every job that it has
    claimed. So what an earlier worker may have died of is claimed when nothing else is in the
    worker, and nothing else is claimed until it is done: whoever dies then, dies of it.
    """

    def __init__(self) -> None:
        self._waiting: deque[_Waiting] = deque()
        self._inside = 0
        self._is_alone = False
        self._lock = threading.Lock()

    @property
    def is_emptying(self) -> bool:
        """Whether a hand-out waits for the worker to be empty."""
        return bool(self._waiting)

    def ask(
        self, begin: Callable[[], None], count: int, *, alone: bool = False, urgent: bool = False
    ) -> None:
        """Let `begin` be called, at once or in a later `leave`, for so many jobs.

        Parameters
        ----------
        begin : callable
            Begins the jobs and returns; `leave` is to be called for each that has ended.
        count : int
            How many jobs it begins.
        alone : bool
            The worker must be empty first, and stay so.
        urgent : bool
            It goes before what waits for an empty worker.
        """
        asked = _Waiting(begin, count, alone)
        with self._lock:
            if urgent:
                self._waiting.appendleft(asked)
            else:
                self._waiting.append(asked)
        self._let_in()

    def leave(self) -> None:
        """Note that a job has ended."""
        with self._lock:
            self._inside -= 1
        self._let_in()

    def close(self) -> None:
        """Let in nobody who waits: the node hands it out again."""
        with self._lock:
            self._waiting.clear()

    def _let_in(self) -> None:
        # Outside of the lock: `begin` may call `leave`, which takes it.
        while (let_in := self._next_turn()) is not None:
            let_in.begin()

    def _next_turn(self) -> _Waiting | None:
        with self._lock:
            # First come, first in: what waits behind a suspect must not overtake it, or a busy
            # worker would never be empty.
            if not self._waiting or (self._is_alone and self._inside):
                return None
            if self._waiting[0].is_alone and self._inside:
                return None
            let_in = self._waiting.popleft()
            self._is_alone = let_in.is_alone
            self._inside += let_in.count
            return let_in
