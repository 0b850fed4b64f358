"""The workers that are there: what they told last of their model and device, kept in memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass

from fastapi import APIRouter
from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

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


class BatchGauges(Collector):
    """Shows how full the batches of the workers' models are; of workers that are here."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers

    def describe(self) -> Iterable[Metric]:
        """Return nothing: the families depend on no state."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Yield counts and shares by worker."""
        labels = ["model", "worker"]
        batches = CounterMetricFamily(
            "chexfract_worker_batches", "Batches that the model was given.", labels=labels
        )
        pictures = CounterMetricFamily(
            "chexfract_worker_pictures", "Pictures that the model was given.", labels=labels
        )
        limit = GaugeMetricFamily(
            "chexfract_worker_batch_limit", "Pictures that a batch may have.", labels=labels
        )
        fill = GaugeMetricFamily(
            "chexfract_worker_batch_fill",
            "How full batches were for which there was enough.",
            labels=labels,
        )
        busy = GaugeMetricFamily(
            "chexfract_worker_model_busy",
            "Share of the time with work in which the model computed.",
            labels=labels,
        )
        for one in self._workers.seen():
            told = one.presence.batches
            if told is None or not one.is_here:
                continue
            which = [one.presence.card.name, one.presence.worker]
            batches.add_metric(which, told.count)
            pictures.add_metric(which, told.pictures)
            limit.add_metric(which, told.limit)
            for gauge, share in ((fill, told.fill), (busy, told.busy)):
                if share is not None:
                    gauge.add_metric(which, share)
        yield from (batches, pictures, limit, fill, busy)


def routes(workers: Workers) -> APIRouter:
    """Return where workers tell; `web.guard` asks for the job API's secret first."""
    router = APIRouter()

    @router.post(PATH)
    def told(presence: Presence) -> dict[str, bool]:
        """Remember a worker."""
        workers.note(presence)
        return {"seen": True}

    return router
