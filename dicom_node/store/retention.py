"""Removes files whose time is over; what is not delivered is never removed."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress
from itertools import islice

from dicom_node.base.errors import NotFound, NotUnderstood, Transient
from dicom_node.settings import Settings
from dicom_node.store.clock import Clock
from dicom_node.store.ledger import Ledger
from dicom_node.store.ledger.purge import Purgeable
from dicom_node.store.spool import Spool

logger = logging.getLogger(__name__)

ORPHAN_AGE_S = 86400.0
"""Age of a file that no row names, before it counts as left over by a crash."""

SETTLED_S = 600.0
"""Time that the clock has to run evenly before anything is old by it."""

_BATCH = 500

_STEPS_AT_ONCE = 200
_REST_S = 0.02
_CONDENSE_S = 60.0


class Retention:
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
        self._limits = settings.retention
        self._spool = spool
        self._ledger = ledger
        self._every_s = every_s
        self._sweep_at = 0.0
        self._suspects: set[str] = set()

    def step(self, now: float | None = None) -> float:
        """Remove what is due; return in how many seconds to look again.

        Raises
        ------
        Unreachable, OutOfResources
            The ledger or the disk gives no answer; nothing that is needed was removed.
        """
        now = time.time() if now is None else now
        self._spool.sweep(ORPHAN_AGE_S)
        removed = self.purge(now)
        self.condense(now)
        if self._suspects or time.monotonic() >= self._sweep_at:
            self._sweep_at = time.monotonic() + ORPHAN_AGE_S
            removed += self.sweep()
            self._ledger.purge.keep_statistics()
        if removed:
            logger.info("retention removed files=%d", removed)
        return self._every_s

    def run(self, stop: threading.Event) -> None:
        """Remove what is due until `stop` is set, while the clock can be believed."""
        clock, settled_at = Clock(), time.monotonic() + SETTLED_S
        while not stop.is_set():
            if clock.jump():
                settled_at = time.monotonic() + SETTLED_S
            if time.monotonic() < settled_at:
                stop.wait(min(self._every_s, settled_at - time.monotonic()))
                continue
            try:
                wait = self.step()
            except Transient as exc:
                logger.warning("retention waits: %s", exc)
                wait = 30.0
            stop.wait(wait)

    def sweep(self, older_than_s: float = ORPHAN_AGE_S) -> int:
        """Remove files that no row of the ledger names: they were never acknowledged.

        Not in the first sweep that finds them: where the clock is wrong, the row of a file that
        seems to be old may be on its way.
        """
        found: set[str] = set()
        for folder in ("images", "reports", "conflicts"):
            names = self._spool.names(folder, older_than_s)
            while batch := list(islice(names, _BATCH)):
                found |= self._ledger.purge.unnamed(batch)
        left_over = found & self._suspects
        for name in left_over:
            self._spool.remove(name)
        self._suspects = found - left_over
        return len(left_over)

    def purge(self, now: float) -> int:
        """Remove files whose time is over and return how many."""
        count = 0
        while items := self._ledger.purge.purgeable(
            now,
            self._limits.images,
            self._limits.reports,
            _BATCH,
            self._limits.ignored,
            self._limits.conflicts,
        ):
            before = count
            for item in items:
                count += self._purge(item, now)
            if count == before:
                break
        return count

    def condense(self, now: float) -> None:
        """Drop old steps a few at a time: reception never waits for it longer than a moment."""
        if not self._limits.history:
            return
        began = time.monotonic()
        while self._ledger.purge.condense(now - self._limits.history, _STEPS_AT_ONCE):
            self._ledger.purge.give_back_pages()
            time.sleep(_REST_S)
            if time.monotonic() - began > _CONDENSE_S:
                return

    def _purge(self, item: Purgeable, now: float) -> bool:
        digest = ""
        if item.what == "image":
            with suppress(NotFound, NotUnderstood):  # it may come again, and must be known then
                digest = self._spool.digest(item.file)
        limits = self._limits
        if not self._ledger.purge.forget(
            item, limits.images, limits.reports, now, digest, limits.ignored
        ):
            return False
        self._spool.remove(item.file)
        return True
