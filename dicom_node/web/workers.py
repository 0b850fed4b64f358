"""The workers that are there: what they told last of their model and device, kept in memory."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from fastapi import APIRouter

from dicom_node.base.job import Presence

PATH = "/workers"

HERE_S = 60.0
"""Silence after which a worker counts as gone; it tells every 20 s."""

FORGET_S = 3600.0
_MOST = 256


@dataclass(frozen=True, slots=True)
class Seen:
    """A worker and how long ago it told of itself, in seconds."""

    presence: Presence
    ago: float

    @property
    def is_here(self) -> bool:
        """Whether it would tell if it were gone."""
        return self.ago <= HERE_S


class Workers:
    """Remembers what workers told; after a start of the node they tell it again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._told: dict[str, tuple[Presence, float]] = {}
        self.born = time.monotonic()

    def note(self, presence: Presence) -> None:
        """Remember what a worker tells of itself."""
        now = time.monotonic()
        with self._lock:
            self._told.pop(presence.worker, None)
            self._told[presence.worker] = (presence, now)
            while len(self._told) > _MOST:
                del self._told[next(iter(self._told))]

    def models(self) -> set[str]:
        """Return the models of which a worker is there."""
        return {one.presence.card.name for one in self.seen() if one.is_here}

    def seen(self) -> list[Seen]:
        """Return the workers of the last hour, those that are here first."""
        now = time.monotonic()
        with self._lock:
            told = list(self._told.values())
        found = [Seen(one, now - at) for one, at in told if now - at <= FORGET_S]
        return sorted(found, key=lambda one: (not one.is_here, one.presence.worker))


def routes(workers: Workers) -> APIRouter:
    """Return where workers tell; `web.guard` asks for the job API's secret first."""
    router = APIRouter()

    @router.post(PATH)
    def told(presence: Presence) -> dict[str, bool]:
        """Remember a worker."""
        workers.note(presence)
        return {"seen": True}

    return router
