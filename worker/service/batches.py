"""The batch former: many threads bring what is ready, one takes it to the model in batches."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from dicom_node.base.rims import OneOfMany

logger = logging.getLogger(__name__)

LINGER_S = 0.01
"""Wait for the neighbours of what is ready, while some are on their way; see `BatchFormer`."""
LONGEST_LINGER_S = 0.25
LAST = 16
"""Batches whose sizes are kept."""

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class BatchFigures:
    """What the model was given since the start."""

    batches: int = 0
    pictures: int = 0
    busy_s: float = 0.0
    """Seconds in which the model had work."""
    idle_s: float = 0.0
    """Seconds in which it had none although some was in the house."""
    pressed: int = 0
    """Batches at whose time a whole one was in the house."""
    pressed_fill: float = 0.0
    """The sum of how full each of these was."""
    last: tuple[int, ...] = ()
    """Pictures of each of the last batches."""

    @property
    def mean(self) -> float:
        """Pictures per batch."""
        return self.pictures / self.batches if self.batches else 0.0

    @property
    def busy(self) -> float:
        """Share of the time with work in the house in which the model computed."""
        spent = self.busy_s + self.idle_s
        return self.busy_s / spent if spent else 0.0

    @property
    def fill(self) -> float | None:
        """How full batches were on average for which there was enough; None: there never was."""
        return self.pressed_fill / self.pressed if self.pressed else None


@dataclass(slots=True)
class _Ready(Generic[Item]):
    item: Item
    is_alone: bool


class BatchFormer(Generic[Item]):
    """Gives one model thread what is ready, up to a batch at a time.

    Parameters
    ----------
    describe : callable
        Lets the model work on a batch; called in one thread only. What it raises is logged: it is
        to answer for its items itself.
    limit : callable
        Returns how many items a batch may have now.
    on_room : callable, optional
        Called when the model has taken a batch: there is room for more to get ready.
    linger_s : float
        How long a batch that is not full waits for what is on its way; a model that takes long
        gets a tenth of its own time, since a batch that was not full costs it a whole call.
    """

    def __init__(
        self,
        describe: Callable[[Sequence[Item]], None],
        limit: Callable[[], int],
        on_room: Callable[[], None] = lambda: None,
        linger_s: float = LINGER_S,
    ) -> None:
        self._describe = describe
        self._limit = limit
        self._on_room = on_room
        self.linger_s = linger_s
        self._usual_s = 10 * LONGEST_LINGER_S  # not known yet: a call for one picture costs most
        self._changed = threading.Condition()
        self._urgent: list[_Ready[Item]] = []
        self._usual: list[_Ready[Item]] = []
        self._coming = 0
        self._share = 0.0
        """How full the batch is that the model has, where it could be; 0 where it could not."""
        self._was_in_house = False
        self._figures = BatchFigures()
        self._is_open = True
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    @property
    def ahead(self) -> int:
        """Items that are expected or ready and not yet at the model."""
        with self._changed:
            return self._coming + len(self._urgent) + len(self._usual)

    @property
    def figures(self) -> BatchFigures:
        """What the model was given since the start."""
        return self._figures

    def expect(self, count: int = 1) -> None:
        """Note that so many items will be brought by `put`, or given up by `miss`."""
        with self._changed:
            self._coming += count

    def put(self, item: Item, *, urgent: bool = False, alone: bool = False) -> None:
        """Bring an expected item.

        Parameters
        ----------
        urgent : bool
            It goes before all that is not.
        alone : bool
            It shares a batch with none: it may be what killed an earlier worker.
        """
        with self._changed:
            self._coming -= 1
            (self._urgent if urgent else self._usual).append(_Ready(item, alone))
            self._changed.notify()

    def miss(self) -> None:
        """Note that an expected item will not come."""
        with self._changed:
            self._coming -= 1
            self._changed.notify()

    def close(self) -> None:
        """Take no more to the model, once that is done which is ready."""
        with self._changed:
            self._is_open = False
            self._changed.notify()
        self._thread.join(5)

    def _run(self) -> None:
        while True:
            waited = time.perf_counter()
            taken = self._take_batch()
            if not taken:
                return
            began = time.perf_counter()
            # The next batch must find the thread alive.
            with OneOfMany(lambda exc: logger.error("a batch failed", exc_info=exc)):
                self._on_room()
                self._describe(taken)
            self._note_batch(len(taken), began, waited)

    def _note_batch(self, count: int, began: float, waited: float) -> None:
        with self._changed:
            old = self._figures
            spent = time.perf_counter() - began
            self._usual_s = spent if not old.batches else 0.7 * self._usual_s + 0.3 * spent
            # An empty house is nobody's idleness: only what followed another batch closely counts.
            idle = began - waited if self._was_in_house else 0.0
            self._was_in_house = bool(self._coming or self._urgent or self._usual)
            self._figures = BatchFigures(
                batches=old.batches + 1,
                pictures=old.pictures + count,
                busy_s=old.busy_s + spent,
                idle_s=old.idle_s + idle,
                pressed=old.pressed + bool(self._share),
                pressed_fill=old.pressed_fill + self._share,
                last=(*old.last, count)[-LAST:],
            )

    def _take_batch(self) -> list[Item]:
        """Wait for what is ready; return a batch of it, or nothing at the end."""
        with self._changed:
            while not (self._urgent or self._usual):
                if not self._is_open:
                    return []
                self._changed.wait()
            limit = max(1, self._limit())
            # A tenth of a call at most: a whole call for one picture costs more than the wait for a
            # second.
            linger = max(self.linger_s, min(self._usual_s / 10, LONGEST_LINGER_S))
            until = time.monotonic() + linger
            while (
                self._is_open
                and self._coming
                and len(self._urgent) + len(self._usual) < limit
                and (left := until - time.monotonic()) > 0
            ):
                self._changed.wait(left)
            # Counted before the batch is taken: full is measured only where a whole batch could
            # have been formed.
            in_house = self._coming + len(self._urgent) + len(self._usual)
            taken = self._fill_batch(limit)
            self._share = len(taken) / limit if in_house >= limit else 0.0
            return taken

    def _fill_batch(self, limit: int) -> list[Item]:
        """Take up to `limit` from the queues, in order; what is to be alone, by itself."""
        first = (self._urgent or self._usual)[0]
        if first.is_alone:
            return [(self._urgent or self._usual).pop(0).item]
        taken: list[Item] = []
        for line in (self._urgent, self._usual):
            # What is alone stays where it is, so its turn comes; others may pass it.
            kept = []
            for ready in line:
                if ready.is_alone or len(taken) == limit:
                    kept.append(ready)
                else:
                    taken.append(ready.item)
            line[:] = kept
        return taken
