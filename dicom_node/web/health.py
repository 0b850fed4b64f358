"""Whether the node lives, whether it can take work, and its counts for Prometheus."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from dicom_node import __version__
from dicom_node.errors import ChexFractError
from dicom_node.settings import Settings
from dicom_node.store.ledger import Ledger
from dicom_node.store.spool import Spool


def routes(settings: Settings, ledger: Ledger, spool: Spool) -> APIRouter:
    """Return the pages for machines; they hold no patient data and need no secret."""
    router = APIRouter()
    registry = CollectorRegistry()
    registry.register(Counts(ledger, spool))

    @router.get("/healthz")
    def healthz() -> dict[str, str]:
        """Answer while the process serves requests."""
        return {"status": "ok", "version": __version__}

    @router.get("/readyz")
    def readyz() -> JSONResponse:
        """Answer 200 when the ledger answers and the spool has room, else 503 and what is not."""
        checks = {"ledger": _answers(ledger.status), "spool": spool.has_room()}
        is_ready = all(checks.values())
        told = {name: "ok" if is_fine else "failed" for name, is_fine in checks.items()}
        return JSONResponse({"ready": is_ready, **told}, 200 if is_ready else 503)

    @router.get("/metrics")
    def metrics() -> Response:
        """Return the counts in Prometheus' text format."""
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return router


class Counts(Collector):
    """Reads the ledger at each scrape: nothing is counted twice, nothing is lost at a restart."""

    def __init__(self, ledger: Ledger, spool: Spool) -> None:
        self._ledger = ledger
        self._spool = spool

    def describe(self) -> Iterable[Metric]:
        """Return nothing: registering must not ask the ledger."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Yield the gauges; a ledger that does not answer leaves only ``chexfract_up`` 0."""
        up = GaugeMetricFamily("chexfract_up", "Whether the ledger answers.")
        disk = GaugeMetricFamily("chexfract_spool_free_bytes", "Free space below the spool.")
        with suppress(OSError):
            disk.add_metric([], shutil.disk_usage(self._spool.root).free)
        yield disk
        try:
            status, waiting = self._ledger.status(), self._ledger.waiting()
        except ChexFractError:
            up.add_metric([], 0)
            yield up
            return
        up.add_metric([], 1)
        yield up
        yield from _of_states(status)
        yield from _of_models(status, waiting)
        yield from _of_destinations(status)


def _of_states(status: dict[str, Any]) -> Iterable[Metric]:
    for what in ("instances", "jobs", "deliveries"):
        gauge = GaugeMetricFamily(f"chexfract_{what}", f"Number of {what}.", labels=["state"])
        for state, count in status[what].items():
            gauge.add_metric([state], count)
        yield gauge
    conflicts = GaugeMetricFamily(
        "chexfract_conflicts", "Instances that came under a known UID with other content."
    )
    conflicts.add_metric([], status["conflicts"])
    yield conflicts


def _of_models(status: dict[str, Any], waiting: dict[str, Any]) -> Iterable[Metric]:
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
        oldest.add_metric([model], max(0.0, time.time() - line.oldest) if line.oldest else 0.0)
    for model, states in status["models"].items():
        for state, count in states.items():
            jobs.add_metric([model, state], count)
    yield from (depth, oldest, jobs)


def _of_destinations(status: dict[str, Any]) -> Iterable[Metric]:
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
    for line in status["destinations"]:
        waiting.add_metric([line["name"]], line["waiting"])
        oldest.add_metric([line["name"]], line["oldest_s"])
        held.add_metric([line["name"]], line["held_until"] > time.time())
    yield from (waiting, oldest, held)


def _answers(question: Callable[[], object]) -> bool:
    try:
        question()
    except ChexFractError:
        return False
    return True
