"""The workers that are there: their last heartbeats, kept in memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass

from fastapi import APIRouter
from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from dicom_node.base.job import WorkerHeartbeat
from dicom_node.conditions import YOUNG_S

PATH = "/workers"

HERE_S = 60.0
"""Silence after which a worker counts as gone; it tells every 20 s."""

FORGET_S = 3600.0
_MOST = 256


@dataclass(frozen=True, slots=True)
class Seen:
    """A worker and how long ago its last heartbeat came, in seconds."""

    presence: WorkerHeartbeat
    ago: float

    @property
    def is_here(self) -> bool:
        """Whether its heartbeat is young enough."""
        return self.ago <= HERE_S


class Workers:
    """Remembers the workers' heartbeats; after a start of the node they send them again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._heartbeats: dict[str, tuple[WorkerHeartbeat, float]] = {}
        self.born = time.monotonic()

    @property
    def is_grown(self) -> bool:
        """Whether every worker has had the time for a heartbeat since the node started."""
        return time.monotonic() - self.born >= YOUNG_S

    def note(self, presence: WorkerHeartbeat) -> None:
        """Remember a worker's heartbeat."""
        now = time.monotonic()
        with self._lock:
            self._heartbeats.pop(presence.worker, None)
            self._heartbeats[presence.worker] = (presence, now)
            while len(self._heartbeats) > _MOST:
                del self._heartbeats[next(iter(self._heartbeats))]

    def models(self) -> set[str]:
        """Return the models of which a worker is there."""
        return {worker.presence.card.name for worker in self.seen() if worker.is_here}

    def seen(self) -> list[Seen]:
        """Return the workers of the last hour, those that are here first."""
        now = time.monotonic()
        with self._lock:
            heartbeats = list(self._heartbeats.values())
        found = [Seen(heartbeat, now - at) for heartbeat, at in heartbeats if now - at <= FORGET_S]
        return sorted(found, key=lambda worker: (not worker.is_here, worker.presence.worker))


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
        for worker in self._workers.seen():
            counts = worker.presence.batches
            if counts is None or not worker.is_here:
                continue
            which = [worker.presence.card.name, worker.presence.worker]
            batches.add_metric(which, counts.count)
            pictures.add_metric(which, counts.pictures)
            limit.add_metric(which, counts.limit)
            for gauge, share in ((fill, counts.fill), (busy, counts.busy)):
                if share is not None:
                    gauge.add_metric(which, share)
        yield from (batches, pictures, limit, fill, busy)


def routes(workers: Workers) -> APIRouter:
    """Return where workers tell; `web.guard` asks for the job API's secret first."""
    router = APIRouter()

    @router.post(PATH)
    def heartbeat(presence: WorkerHeartbeat) -> dict[str, bool]:
        """Remember a worker."""
        workers.note(presence)
        return {"seen": True}

    return router
