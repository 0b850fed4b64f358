"""Fills the ledger's rows of older versions in the background, while the node works."""

from __future__ import annotations

import logging
from functools import lru_cache
from pathlib import Path

from dicom_node.base.errors import ChexFractError
from dicom_node.standard.header import read_header
from dicom_node.store.ledger import Ledger
from dicom_node.store.spool import Spool

logger = logging.getLogger(__name__)

LOOK_S = 60.0
"""Seconds between two looks when nothing is left to fill."""

LOG_EVERY_S = 10.0
"""Seconds between two lines about pieces of one kind: there may be thousands."""

EXPLICIT = "1.2.840.10008.1.2.1"
"""The transfer syntax in which reports are kept."""


class Filler:
    """Gives old rows their numbers, words and what else they are found by."""

    def __init__(self, ledger: Ledger, spool: Spool) -> None:
        self._ledger = ledger
        self._spool = spool
        self._shown = -1
        self._last_kind = ""
        self._logged_at = 0.0

    def step(self) -> float:
        """Fill some rows; return in how many seconds there may be more.

        Raises
        ------
        Unreachable, OutOfResources
            The ledger gives no answer; the next step goes on.
        """
        if piece := self._ledger.upgrading.step():
            kind, now = piece.split()[0], self._ledger.clock.monotonic()
            if kind != self._last_kind or now - self._logged_at > LOG_EVERY_S:
                logger.info("ledger: %s", piece)
                self._last_kind, self._logged_at = kind, now
            return 0.0
        rows = self._ledger.filling.next_rows()
        if not rows:
            return LOOK_S
        facts = {}
        for row in rows:
            if row.report and (found := _read_facts(self._spool.root / row.report)) is not None:
                facts[row.sop_instance_uid] = found
        self._ledger.filling.fill(rows, facts)
        done, total = self._ledger.filling.progress()
        share = 100 * done // total if total else 100
        if share // 10 != self._shown // 10:
            self._shown = share
            logger.info("ledger: rows of an older version filled: %d of %d", done, total)
        return 0.0


@lru_cache(maxsize=64)
def _read_facts(path: Path) -> dict[str, str] | None:
    """Return what stands in a report's head; None where it cannot be read."""
    try:
        with path.open("rb") as file:
            return read_header(file, EXPLICIT)
    except (OSError, ChexFractError):
        return None
