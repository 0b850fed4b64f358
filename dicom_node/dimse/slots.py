"""Who may hold how many associations: peers always find one, whoever else holds idle ones.

Callers that are not peers (with ``known_peers_only = false``) are limited by address and by AE
title, and some associations are kept for peers. Where all are taken, what has been idle for long
gives way to a peer.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from threading import Lock
from typing import Generic, TypeVar

from dicom_node.dimse.slot_table import HeldRow, SlotTable

Held = TypeVar("Held", bound=Hashable)

IDLE_S = 5.0
"""Silence after which an association of a peer may give way."""
IDLE_STRANGER_S = 1.0
"""The same for a caller that is not a peer."""
YIELD_S, MOST_YIELDS = 0.0005, 8
"""Time that a listener waits before it takes a connection, for each association that it holds."""

ALL_TAKEN = "too many associations"
OF_PEER = "too many associations of this peer"
OF_STRANGERS = "too many associations of callers that are not peers"


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds an association."""

    ae_title: str
    address: str
    is_peer: bool


class Slots(Generic[Held]):
    """The associations that are open.

    Parameters
    ----------
    is_alive : callable
        Whether an association is still open.
    silent_for : callable
        Seconds for which nothing has come on it and nothing is done for it.
    end : callable
        Ends an association that gives way.
    table : SlotTable, optional
        Associations of further listeners on the same port, which count, too.
    """

    def __init__(
        self,
        is_alive: Callable[[Held], bool],
        silent_for: Callable[[Held], float],
        end: Callable[[Held, str], None],
        table: SlotTable | None = None,
    ) -> None:
        self._is_alive = is_alive
        self._silent_for = silent_for
        self._end = end
        self._table = table
        self._held: dict[Held, Holder] = {}
        self._numbers: dict[Held, int] = {}
        """How the table calls an association of this listener."""
        self._next = count()
        self._lock = Lock()

    def open(self) -> list[Held]:
        """Return the associations that are open."""
        with self._lock:
            return [slot for slot in self._held if self._is_alive(slot)]

    def pause(self) -> float:
        """Return how long to leave a connection to other listeners: those with less to do.

        All of them see it at one moment, and without this the one that wakes first may take four
        of four: two processes then receive no faster than one.
        """
        return 0.0 if self._table is None else YIELD_S * min(len(self._held), MOST_YIELDS)

    def take(self, association: Held, holder: Holder, most: int, most_of_one: int) -> str:
        """Let `holder` have an association; return why not, or an empty text.

        Parameters
        ----------
        most, most_of_one : int
            Associations in all, and of one peer.
        """
        # always in this order: the lock of this process, then that of the file
        with self._lock, self._shared_slots() as others:
            self._forget_closed()
            everywhere = self._held | others
            reason = self._refusal_reason(everywhere, holder, most, most_of_one)
            if not reason:
                self._held[association] = holder
                self._numbers[association] = next(self._next)
                self._publish_rows()
        return reason

    def release(self, association: Held) -> None:
        """Count an association no longer, whose connection is closed."""
        with self._lock:
            if self._held.pop(association, None) is not None and self._table is not None:
                with self._table.locked():
                    self._publish_rows()
            self._numbers.pop(association, None)

    def exchange(self) -> None:
        """Tell the other listeners what is held and how idle it is; end what they ask for.

        To be called a few times a second: what another listener knows of idleness is as old.
        """
        if self._table is None:
            return
        with self._lock, self._table.locked():
            self._forget_closed()
            called = {number: slot for slot, number in self._numbers.items()}
            for number, reason in self._table.asked():
                slot = called.get(number)
                # Asked for on a look a moment old: what has begun to work since then stays.
                if slot is not None and self._silent_for(slot) >= IDLE_STRANGER_S:
                    self._held.pop(slot, None)
                    self._numbers.pop(slot, None)
                    self._end(slot, reason)
            self._publish_rows()

    @contextmanager
    def _shared_slots(self) -> Iterator[dict[HeldRow, Holder]]:
        """Yield what other listeners hold, while none of them changes it."""
        if self._table is None:
            yield {}
            return
        with self._table.locked():
            yield {
                row: Holder(row.ae_title, row.address, row.is_peer) for row in self._table.others()
            }

    def _publish_rows(self) -> None:
        if self._table is None:
            return
        now = time.monotonic()
        rows = []
        for slot, holder in self._held.items():
            silent = self._silent_for(slot)
            since = now - silent if silent else None
            rows.append(
                (self._numbers[slot], holder.ae_title, holder.address, holder.is_peer, since)
            )
        self._table.publish(rows)

    def _forget_closed(self) -> None:
        self._held = {slot: holder for slot, holder in self._held.items() if self._is_alive(slot)}
        self._numbers = {
            slot: number for slot, number in self._numbers.items() if slot in self._held
        }

    def _refusal_reason(
        self,
        everywhere: dict[Held | HeldRow, Holder],
        holder: Holder,
        most: int,
        most_of_one: int,
    ) -> str:
        holders = list(everywhere.values())
        if not holder.is_peer:
            strangers = [other for other in holders if not other.is_peer]
            # A quarter is for peers; of a node that takes three at a time, none can be spared.
            if len(strangers) >= most - most // 4:
                return OF_STRANGERS
            # by either: a stranger may call by many titles, or by one from many addresses
            if any(
                [getattr(other, by) for other in strangers].count(getattr(holder, by))
                >= most_of_one
                for by in ("address", "ae_title")
            ):
                return OF_PEER
        if holders.count(holder) >= most_of_one:
            # Its own idle association goes first: a modality that was cut off comes back.
            if not self._free_silent(slot for slot, other in everywhere.items() if other == holder):
                return OF_PEER
            # one place has just been freed
            return "" if len(holders) - 1 < most else ALL_TAKEN
        if len(holders) < most:
            return ""
        return "" if holder.is_peer and self._make_room(everywhere, holder) else ALL_TAKEN

    def _make_room(self, everywhere: dict[Held | HeldRow, Holder], holder: Holder) -> bool:
        """End what has been idle: of a stranger, or of the peer that has the most."""
        if self._free_silent(
            (slot for slot, other in everywhere.items() if not other.is_peer),
            longer_than=IDLE_STRANGER_S,
        ):
            return True
        counts = Counter(everywhere.values())
        most = max(
            (other for other in counts if other != holder), key=counts.__getitem__, default=holder
        )
        if counts[most] <= counts[holder] + 1:
            return False  # two equals would take the last place from each other for ever
        return self._free_silent(slot for slot, other in everywhere.items() if other == most)

    def _free_silent(
        self, candidates: Iterable[Held | HeldRow], longer_than: float = IDLE_S
    ) -> bool:
        """End the candidate that has been silent for the longest time; return whether any was."""
        silent = {
            slot: slot.silent_for if isinstance(slot, HeldRow) else self._silent_for(slot)
            for slot in candidates
        }
        oldest = max(silent, key=silent.__getitem__, default=None)
        if oldest is None or silent[oldest] < longer_than:
            return False
        reason = f"idle for {silent[oldest]:.0f} s, and others wait for an association"
        if isinstance(oldest, HeldRow):
            if self._table is not None:
                self._table.ask(oldest, reason)
        else:
            self._held.pop(oldest)
            self._numbers.pop(oldest, None)
            self._end(oldest, reason)
        return True
