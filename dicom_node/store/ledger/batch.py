"""Group commit: what several threads want to write at one time shares one transaction."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from dicom_node.base.rims import OneOfMany

Item = TypeVar("Item")
Answer = TypeVar("Answer")


@dataclass(slots=True, eq=False)
class _Entry(Generic[Item, Answer]):
    item: Item
    answers: list[Answer] | None = None
    fault: Exception | None = None


class Batch(Generic[Item, Answer]):
    """Writes an item, and with it those of all threads that have come in the meantime.

    Whoever gets the turn writes for all who wait; they find their answer when theirs comes. One
    thread alone waits for nobody, and a hundred of them wait for two transactions at most.

    Parameters
    ----------
    write : callable
        Writes a list of items in one transaction and returns their answers.
    """

    def __init__(self, write: Callable[[list[Item]], list[Answer]]) -> None:
        self._write = write
        self._turn = threading.Lock()
        self._waiting: deque[_Entry[Item, Answer]] = deque()

    def __call__(self, item: Item) -> Answer:
        """Return the answer to `item` when it is durable, or raise what kept it from that."""
        entry = _Entry[Item, Answer](item)
        self._waiting.append(entry)
        with self._turn:
            # who had the turn before may have written it already
            if entry.answers is None and entry.fault is None:
                self._settle_entries([self._waiting.popleft() for _ in range(len(self._waiting))])
        if entry.answers is None:
            raise entry.fault or RuntimeError("an item was left over")
        return entry.answers[0]

    def _settle_entries(self, entries: list[_Entry[Item, Answer]]) -> None:
        def blame(exc: Exception) -> None:
            if len(entries) == 1:
                entries[0].fault = exc  # it is raised in the thread that it belongs to
                return
            for entry in entries:  # what one of them is at fault for is not the others' fate
                self._settle_entries([entry])

        with OneOfMany(blame):
            answers = self._write([entry.item for entry in entries])
            for entry, answer in zip(entries, answers, strict=True):
                entry.answers = [answer]
