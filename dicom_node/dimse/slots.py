"""Who may hold how many associations: peers always find one, whoever else holds idle ones.

Callers that are not peers (with ``known_peers_only = false``) are limited by address and by AE
title, and some associations are kept for peers. Where all are taken, what has been idle for long
gives way to a peer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from threading import Lock
from typing import Generic, TypeVar

Held = TypeVar("Held", bound=Hashable)

IDLE_S = 5.0
"""Silence after which an association of a peer may give way."""
IDLE_STRANGER_S = 1.0
"""The same for a caller that is not a peer."""

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
        Ends one that gives way.
    """

    def __init__(
        self,
        is_alive: Callable[[Held], bool],
        silent_for: Callable[[Held], float],
        end: Callable[[Held, str], None],
    ) -> None:
        self._is_alive = is_alive
        self._silent_for = silent_for
        self._end = end
        self._held: dict[Held, Holder] = {}
        self._lock = Lock()

    def open(self) -> list[Held]:
        """Return the associations that are open."""
        with self._lock:
            return [one for one in self._held if self._is_alive(one)]

    def take(self, association: Held, holder: Holder, most: int, most_of_one: int) -> str:
        """Let `holder` have an association; return why not, or an empty text.

        Parameters
        ----------
        most, most_of_one : int
            Associations in all, and of one peer.
        """
        with self._lock:
            self._held = {one: of for one, of in self._held.items() if self._is_alive(one)}
            reason = self._refusal(holder, most, most_of_one)
            if not reason:
                self._held[association] = holder
        return reason

    def _refusal(self, holder: Holder, most: int, most_of_one: int) -> str:
        holders = list(self._held.values())
        if not holder.is_peer:
            strangers = [one for one in holders if not one.is_peer]
            # A quarter is for peers; of a node that takes three at a time, none can be spared.
            if len(strangers) >= most - most // 4:
                return OF_STRANGERS
            if any(
                [getattr(one, by) for one in strangers].count(getattr(holder, by)) >= most_of_one
                for by in ("address", "ae_title")
            ):
                return OF_PEER
        if holders.count(holder) >= most_of_one and not self._free(
            one for one, of in self._held.items() if of == holder
        ):
            return OF_PEER
        if len(self._held) < most:
            return ""
        return "" if holder.is_peer and self._make_room(holder) else ALL_TAKEN

    def _make_room(self, holder: Holder) -> bool:
        """End what has been idle: of a stranger, or of the peer that has the most."""
        if self._free(
            (one for one, of in self._held.items() if not of.is_peer), longer_than=IDLE_STRANGER_S
        ):
            return True
        counts = Counter(self._held.values())
        most = max((of for of in counts if of != holder), key=counts.__getitem__, default=holder)
        if counts[most] <= counts[holder] + 1:
            return False
        return self._free(one for one, of in self._held.items() if of == most)

    def _free(self, candidates: Iterable[Held], longer_than: float = IDLE_S) -> bool:
        """End the one that has been silent for the longest time; return whether there is one."""
        silent = {one: self._silent_for(one) for one in candidates}
        oldest = max(silent, key=silent.__getitem__, default=None)
        if oldest is None or silent[oldest] < longer_than:
            return False
        del self._held[oldest]
        self._end(oldest, f"idle for {silent[oldest]:.0f} s, and others wait for an association")
        return True
