"""Whether the node lives, whether it can take work, and its counts for Prometheus."""

from __future__ import annotations

import shutil
import threading
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from itertools import accumulate

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector
from starlette.exceptions import HTTPException

from dicom_node import __version__
from dicom_node.base.addresses import is_loopback
from dicom_node.base.errors import ChexFractError
from dicom_node.conditions import Conditions
from dicom_node.store.ledger import Ledger, Waiting
from dicom_node.store.ledger.views import Totals
from dicom_node.store.spool import Spool

BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""Upper bounds of the buckets of durations, in seconds."""


def routes(
    ledger: Ledger,
    spool: Spool,
    counts: LedgerCounts | None = None,
    metrics_for: str = "all",
    conditions: Conditions | None = None,
    models: Callable[[], Collection[str]] = tuple,
    collectors: Iterable[Collector] = (),
) -> APIRouter:
    """Return the pages for machines; they hold no patient data and need no secret.

    Parameters
    ----------
    metrics_for : str
        Who sees the counts: ``all``, or callers on this machine (``loopback``) that no proxy
        stands before.
    conditions : Conditions, optional
        What is wrong, for both.
    models : callable
        Returns the models of which a worker is there.
    collectors : iterable of Collector
        Yield further counts.
    """
    router = APIRouter()
    registry = CollectorRegistry()
    if conditions is not None:
        registry.register(ConditionGauge(conditions))
    registry.register(counts or LedgerCounts(ledger, spool))
    for collector in collectors:
        registry.register(collector)

    @router.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Answer while the process serves requests; no thread is needed, so none is waited for."""
        return {"status": "ok", "version": __version__}

    @router.get("/readyz")
    def readyz() -> JSONResponse:
        """Answer 200 when the ledger answers and the spool has room, else 503 and what is not.

        What else is wrong is named by its kind: it keeps no image from being received.
        """
        checks = {"ledger": _has_answer(ledger.history.answers), "spool": spool.has_room()}
        is_ready = all(checks.values())
        results = {name: "ok" if is_fine else "failed" for name, is_fine in checks.items()}
        wrong = sorted({condition.key for condition in conditions.now()}) if conditions else []
        answer = {"ready": is_ready, **results, "conditions": wrong, "models": sorted(models())}
        return JSONResponse(answer, 200 if is_ready else 503)

    @router.get("/metrics")
    def metrics(request: Request) -> Response:
        """Return the counts in Prometheus' text format."""
        address = request.client.host if request.client else ""
        is_here = is_loopback(address) and "x-forwarded-for" not in request.headers
        if metrics_for == "loopback" and not is_here:
            raise HTTPException(403, 'web.metrics = "loopback": asked from this machine only')
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return router


class LedgerCounts(Collector):
    """Reads the ledger at each scrape: nothing is counted twice, nothing is lost at a restart."""

    def __init__(self, ledger: Ledger, spool: Spool) -> None:
        self._ledger = ledger
        self._spool = spool
        self._stages = Stages()

    def describe(self) -> Iterable[Metric]:
        """Return nothing: registering must not ask the ledger."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Yield the gauges; a ledger that does not answer leaves only ``chexfract_up`` 0."""
        up = GaugeMetricFamily("chexfract_up", "Whether the ledger answers.")
        yield from self._disk_metrics()
        try:
            status, waiting = self._ledger.history.status(), self._ledger.jobs.waiting()
            workers = len(self._ledger.results.pulse(status.at - 3600).workers)
            self._stages.read(self._ledger)
        except ChexFractError:
            up.add_metric([], 0)
            yield up
            return
        up.add_metric([], 1)
        yield up
        yield from _state_metrics(status)
        yield from _model_metrics(status, waiting)
        yield from _destination_metrics(status)
        yield from self._stages.collect()
        seen = GaugeMetricFamily("chexfract_workers", "Workers that took work in the last hour.")
        seen.add_metric([], workers)
        yield seen

    def _disk_metrics(self) -> Iterable[Metric]:
        free = GaugeMetricFamily("chexfract_spool_free_bytes", "Free space below the spool.")
        total = GaugeMetricFamily("chexfract_spool_total_bytes", "Size of the spool's disk.")
        room = GaugeMetricFamily("chexfract_spool_has_room", "Whether images are taken.")
        with suppress(OSError):
            usage = shutil.disk_usage(self._spool.root)
            free.add_metric([], usage.free)
            total.add_metric([], usage.total)
            room.add_metric([], self._spool.has_room())
        yield from (free, total, room)


class ConditionGauge(Collector):
    """Shows what is wrong, as the pages and `doctor` say it."""

    def __init__(self, conditions: Conditions) -> None:
        self._conditions = conditions

    def describe(self) -> Iterable[Metric]:
        """Return nothing: registering must not ask the ledger."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Yield a gauge of 1 for each condition."""
        gauge = GaugeMetricFamily(
            "chexfract_condition",
            "What is wrong now; level stop: images are not taken, described or delivered.",
            labels=["condition", "name", "level"],
        )
        names = {
            (condition.key, condition.name, condition.level) for condition in self._conditions.now()
        }
        for labels in sorted(names):
            gauge.add_metric(labels, 1)
        yield gauge


class Stages:
    """Durations by stage since this process started, each event of the ledger counted once.

    On PostgreSQL an event that is committed after one with a higher number may be missed.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: int | None = None
        self._counts: dict[str, list[int]] = {}
        self._sums: dict[str, float] = {}

    def read(self, ledger: Ledger) -> None:
        """Add what has happened since the last call; the first call only marks the place."""
        with self._lock:
            newest = ledger.history.newest_event()
            if self._last is not None and newest > self._last:
                for stage, ms in ledger.history.stage_times(self._last, newest):
                    self._add_seconds(stage, ms / 1000)
            self._last = newest

    def collect(self) -> Iterable[Metric]:
        """Yield the histogram."""
        family = HistogramMetricFamily(
            "chexfract_stage_seconds", "Time that stages took.", labels=["stage"]
        )
        with self._lock:
            for stage, counts in sorted(self._counts.items()):
                bounds = [*(str(bound) for bound in BOUNDS), "+Inf"]
                buckets = list(zip(bounds, accumulate(counts), strict=True))
                family.add_metric([stage], buckets, self._sums[stage])
        yield family

    def _add_seconds(self, stage: str, seconds: float) -> None:
        counts = self._counts.setdefault(stage, [0] * (len(BOUNDS) + 1))
        counts[bisect_left(BOUNDS, seconds)] += 1
        self._sums[stage] = self._sums.get(stage, 0.0) + seconds


def _state_metrics(status: Totals) -> Iterable[Metric]:
    for what, by_state in (
        ("instances", status.instances),
        ("jobs", status.jobs),
        ("deliveries", status.deliveries),
    ):
        gauge = GaugeMetricFamily(f"chexfract_{what}", f"Number of {what}.", labels=["state"])
        for state, count in by_state.items():
            gauge.add_metric([state], count)
        yield gauge
    conflicts = GaugeMetricFamily(
        "chexfract_conflicts", "Instances that came under a known UID with other content."
    )
    conflicts.add_metric([], status.conflicts)
    yield conflicts


def _model_metrics(status: Totals, waiting: Mapping[str, Waiting]) -> Iterable[Metric]:
    depth = GaugeMetricFamily(
        "chexfract_queue_depth", "Open jobs: due, queued, running.", labels=["model", "state"]
    )
    oldest = GaugeMetricFamily(
        "chexfract_queue_oldest_seconds", "Wait of the oldest job that is due.", labels=["model"]
    )
    jobs = GaugeMetricFamily("chexfract_model_jobs", "Number of jobs.", labels=["model", "state"])
    for model, line in waiting.items():
        for state in ("due", "queued", "running"):
            depth.add_metric([model, state], getattr(line, state))
        oldest.add_metric([model], max(0.0, status.at - line.oldest) if line.oldest else 0.0)
    for model, states in status.models.items():
        for state, count in states.items():
            jobs.add_metric([model, state], count)
    yield from (depth, oldest, jobs)


def _destination_metrics(status: Totals) -> Iterable[Metric]:
    waiting = GaugeMetricFamily(
        "chexfract_destination_waiting", "Deliveries that wait.", labels=["destination"]
    )
    oldest = GaugeMetricFamily(
        "chexfract_destination_oldest_seconds",
        "Wait of the oldest delivery.",
        labels=["destination"],
    )
    held = GaugeMetricFamily(
        "chexfract_destination_held", "Whether the breaker is open.", labels=["destination"]
    )
    uncommitted = GaugeMetricFamily(
        "chexfract_destination_uncommitted",
        "Deliveries whose storage commitment is awaited.",
        labels=["destination"],
    )
    for line in status.destinations:
        uncommitted.add_metric([line.name], line.uncommitted)
        waiting.add_metric([line.name], line.waiting)
        oldest.add_metric([line.name], line.oldest_s)
        held.add_metric([line.name], line.held_until > status.at)
    yield from (waiting, oldest, held, uncommitted)


def _has_answer(question: Callable[[], object]) -> bool:
    try:
        question()
    except ChexFractError:
        return False
    return True
