"""The tiles above the worklist: how queue, workers, peers and disk do."""

from __future__ import annotations

import math
import shutil
import threading
from collections.abc import Sequence
from typing import Any

from dicom_node.conditions import is_down
from dicom_node.settings import Settings
from dicom_node.store.ledger import DestinationState, Ledger
from dicom_node.store.spool import Spool
from dicom_node.web.workers import Seen, Workers

FRESH_S = 2.0
"""Age from which the figures are asked for again."""
_HOUR = 3600.0


class Board:
    """The tiles above the list; asked once however many people look.

    Parameters
    ----------
    settings : Settings
    ledger : Ledger
    spool : Spool
    workers : Workers
    """

    def __init__(self, settings: Settings, ledger: Ledger, spool: Spool, workers: Workers) -> None:
        self._settings = settings
        self._ledger = ledger
        self._spool = spool
        self._workers = workers
        self._lock = threading.Lock()
        self._answer: dict[str, Any] = {}
        self._at = -math.inf

    def tiles(self) -> dict[str, Any]:
        """Return the figures, at most two seconds old."""
        with self._lock:
            if self._ledger.clock.monotonic() - self._at > FRESH_S:
                self._answer = self._read_counts()
                self._at = self._ledger.clock.monotonic()
            return self._answer

    def _read_counts(self) -> dict[str, Any]:
        now = self._ledger.clock.wall()
        status, waiting = self._ledger.history.status(), self._ledger.jobs.waiting()
        pulse = self._ledger.results.pulse(now - _HOUR)
        due = [line.oldest for line in waiting.values() if line.oldest]
        return {
            "waiting": sum(line.due + line.queued for line in waiting.values()),
            "running": sum(line.running for line in waiting.values()),
            "oldest": max(0.0, now - min(due)) if due else 0.0,
            "workers": _busy_workers(pulse.workers, self._workers.seen()),
            "ended": pulse.ended,
            "median": quantile(pulse.seconds, 0.5),
            "p95": quantile(pulse.seconds, 0.95),
            "peers": peer_states(self._settings, status.destinations),
            "free": shutil.disk_usage(self._spool.root).free,
            "min_free": self._spool.min_free,
            "has_room": self._spool.has_room(),
            "conflicts": status.conflicts,
        }


def peer_states(settings: Settings, lines: Sequence[DestinationState]) -> list[dict[str, Any]]:
    """Return each peer and each destination with how its deliveries do."""
    known = {line.name: line for line in lines}
    rows = []
    for name in sorted({*settings.peers, *known}):
        line = known.get(name, DestinationState(name))
        rows.append(
            {
                "name": name,
                "peer": settings.peers.get(name),
                "is_down": is_down(line),
                "waiting": line.waiting,
                "oldest_s": line.oldest_s,
                "reason": line.reason,
            }
        )
    return rows


def _busy_workers(claimed: Sequence[str], seen: Sequence[Seen]) -> dict[str, Any]:
    """Return who is there with what device, and who took work without a heartbeat.

    A worker that went is missed only as long as no other of its model is there.
    """
    heard = {worker.presence.worker for worker in seen}
    here = [worker.presence for worker in seen if worker.is_here]
    models = {presence.card.name for presence in here}
    gone = [worker.presence for worker in seen if not worker.is_here]
    return {
        "here": here,
        "gone": [presence.worker for presence in gone if presence.card.name not in models],
        "silent": [name for name in claimed if name not in heard],
    }


def quantile(ascending: Sequence[float], share: float) -> float | None:
    """Return the smallest value that this share of all does not exceed."""
    if not ascending:
        return None
    return ascending[max(0, math.ceil(share * len(ascending)) - 1)]
