"""Removes files whose time is over; what is not delivered is never removed."""

from __future__ import annotations

import logging
import time
from array import array
from bisect import bisect_left
from collections.abc import Callable
from contextlib import suppress
from itertools import islice

from dicom_node.base.errors import NotFound, NotUnderstood
from dicom_node.settings import Settings
from dicom_node.store import uses
from dicom_node.store.ledger import Ledger
from dicom_node.store.ledger.purge import Purgeable
from dicom_node.store.spool import Spool

logger = logging.getLogger(__name__)

ORPHAN_AGE_S = 86400.0
"""Age of a file that no row names, before it counts as left over by a crash."""

SETTLED_S = 600.0
"""Time that the clock has to run evenly before anything is old by it."""

TURN = "retention"

_BATCH = 500

_FEWEST_STEPS, _STEPS_AT_ONCE, _MOST_STEPS = 20, 200, 500
"""Events that are looked at in one transaction: least, first, most."""
_PIECE_S = 0.01
"""Time that such a piece may take; the next one is made smaller, or larger, by it."""
_REST_S = 0.02
_CONDENSE_S = 60.0


class RetentionSweep:
    """Removes image files, report files and what a crash left over; rows stay.

    Parameters
    ----------
    settings : Settings
        ``[retention]`` says how long files stay after the last delivery.
    every_s : float
        Seconds between two rounds.
    """

    def __init__(
        self, settings: Settings, spool: Spool, ledger: Ledger, every_s: float = 300.0
    ) -> None:
        self._settings = settings
        self._limits = settings.retention
        self._spool = spool
        self._ledger = ledger
        self._every_s = every_s
        self._sweep_at = 0.0
        self.clock = ledger.clock
        self._jumps = self.clock.jumps()
        self._settled_at = self.clock.monotonic() + SETTLED_S
        self._suspects: set[str] = set()
        self._steps = _STEPS_AT_ONCE

    def take(self, new: Settings) -> None:
        """Go by other times from the next round on."""
        self._limits = new.retention

    def step(self) -> float:
        """Remove what is due, once the clock can be believed; return when to look again.

        Raises
        ------
        Unreachable, OutOfResources
            The ledger or the disk gives no answer; nothing that is needed was removed.
        """
        now = self.clock.monotonic()
        if self._jumps.since_last():
            self._settled_at = now + SETTLED_S
        if now < self._settled_at:
            return min(self._every_s, self._settled_at - now)
        if self._ledger.turns.take(TURN):  # one of several nodes on one ledger is enough
            try:
                self.remove()
            finally:
                self._ledger.turns.give_back(TURN)
        return self._every_s

    def remove(self) -> None:
        """Remove what is due by the clock of now."""
        self._spool.sweep(ORPHAN_AGE_S)
        removed = self.purge()
        self.condense()
        self.pack()
        if self._suspects or self.clock.monotonic() >= self._sweep_at:
            self._sweep_at = self.clock.monotonic() + ORPHAN_AGE_S
            removed += self.sweep()
            self._ledger.purge.keep_statistics()
        if removed:
            logger.info("retention removed files=%d", removed)

    def sweep(self, older_than_s: float = ORPHAN_AGE_S) -> int:
        """Remove files that no row of the ledger names: they were never acknowledged.

        Not while their writer lives, whose row may be on its way, and not in the first sweep that
        finds them: where the clock is wrong and the disk has no locks, age and writer say little.
        """
        named = array("q", sorted(hash(file) for file in self._ledger.purge.named_files()))
        found = {
            name
            for folder in ("images", "reports", "conflicts")
            for name in self._spool.names(folder, older_than_s)
            if not _is_among(hash(name), named)
        }
        count = 0
        # first the writers, then the rows: a writer that is gone adds no row any more
        suspects = (n for n in found & self._suspects if not self._spool.has_writer(n))
        while batch := list(islice(suspects, _BATCH)):
            for name in self._ledger.purge.unnamed(batch):
                self._spool.remove(name)
                count += 1
        self._suspects = found - self._suspects
        return count

    def purge(self) -> int:
        """Remove files whose time is over and return how many."""
        count = 0
        while items := self._ledger.purge.purgeable(
            self._limits.images,
            self._limits.reports,
            _BATCH,
            self._limits.ignored,
            self._limits.conflicts,
        ):
            before = count
            for item in items:
                count += self._purge_item(item)
            if count == before:
                break
        return count

    def condense(self) -> None:
        """Condense old steps a few at a time: reception never waits for it longer than a moment."""
        if not self._limits.history:
            return
        before = self.clock.wall() - self._limits.history
        last = uses.reached(self._settings, self._ledger)
        self._do_in_pieces(lambda count: self._ledger.purge.condense(before, count, last))

    def pack(self) -> None:
        """Pack the events of Instances that are over, once they are condensed, if they are."""
        last = uses.noted(self._settings, self._ledger)
        if self._limits.history:
            condensed = self._ledger.purge.condensed()
            last = condensed if last is None else min(last, condensed)
        self._do_in_pieces(lambda count: self._ledger.past.pack(count, last))

    def _do_in_pieces(self, act: Callable[[int], int]) -> None:
        """Let `act` look at so many events again and again, until none is left or time is up."""
        began = self.clock.monotonic()
        while True:
            at = self.clock.monotonic()
            if not act(self._steps):
                return
            took = self.clock.monotonic() - at
            # by half at a busy moment, back by a tenth
            steps = self._steps // 2 if took > _PIECE_S else self._steps + self._steps // 10
            self._steps = min(max(steps, _FEWEST_STEPS), _MOST_STEPS)
            self._ledger.purge.give_back_pages()
            time.sleep(_REST_S)
            if self.clock.monotonic() - began > _CONDENSE_S:
                return

    def _purge_item(self, item: Purgeable) -> bool:
        digest = ""
        if item.what == "image":
            with suppress(NotFound, NotUnderstood):  # it may come again, and must be known then
                digest = self._spool.digest(item.file)
        limits = self._limits
        if not self._ledger.purge.forget(
            item, limits.images, limits.reports, digest, limits.ignored
        ):
            return False
        self._spool.remove(item.file)
        return True


def _is_among(number: int, ordered: array[int]) -> bool:
    place = bisect_left(ordered, number)
    return place < len(ordered) and ordered[place] == number
