"""Models without a worker: since when, where the last one ran, and the button that starts one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from dicom_node import running
from dicom_node.settings import Settings
from dicom_node.store.ledger import Ledger, Waiting
from dicom_node.web.render import answered
from dicom_node.web.sessions import Door, Posted
from dicom_node.web.texts import say
from dicom_node.web.trail import WebTrail
from dicom_node.web.workers import Workers


@dataclass(frozen=True, slots=True)
class MissingWorker:
    """A model that rules name and no worker has."""

    model: str
    waiting: int
    """Images that wait for it."""
    oldest_s: float
    """Wait of the first of them."""
    last: str = ""
    """The last worker that was there; empty for none that is remembered."""
    ago: float = 0.0
    """Seconds since it was heard."""
    is_of_model: bool = True
    """Whether the last worker is known to be of this model: a claim does not name it."""

    @property
    def host(self) -> str:
        """The host of the last worker: its name without the number of its process."""
        name, _, process = self.last.rpartition(":")
        return name if process.isdecimal() else self.last


def missing_workers(settings: Settings, ledger: Ledger, workers: Workers) -> list[MissingWorker]:
    """Return the models of rules, and of what waits, that no worker has now."""
    now, waiting = ledger.clock.wall(), ledger.jobs.waiting()
    here = workers.models()
    wanted = {rule.model for rule in settings.rules}
    wanted |= {model for model, line in waiting.items() if line.due + line.queued}
    gone = {
        worker.presence.card.name: worker
        for worker in reversed(workers.seen())
        if not worker.is_here
    }
    claims = ledger.results.workers()
    found = []
    for model in sorted(wanted - here):
        line = waiting.get(model, Waiting())
        if line.running:
            continue  # somebody works on it without a heartbeat
        last, ago, is_of_model = "", 0.0, True
        if model in gone:
            last, ago = gone[model].presence.worker, gone[model].ago
        elif claims and not here:
            last, ago, is_of_model = claims[0].worker, now - claims[0].claimed_at, False
        oldest_s = max(0.0, now - line.oldest) if line.oldest else 0.0
        found.append(MissingWorker(model, line.due + line.queued, oldest_s, last, ago, is_of_model))
    return found


def served_facts(settings: Settings, missing: Sequence[MissingWorker]) -> dict[str, Any]:
    """Return what `serve` knows of its worker, for the page of the models."""
    folder = settings.node.data_dir
    served = running.served_worker(folder) if missing else None
    log = folder / "log" / f"{running.WORKER_NAME}.jsonl"
    trouble = running.last_trouble(log) if served and served.ended_at else ""
    return {"served": served, "trouble": trouble}


def routes(settings: Settings, door: Door, trail: WebTrail) -> APIRouter:
    """Return the act that lets `serve` start its worker."""
    router = APIRouter(prefix="/models")
    operates = Depends(door.posts("operator"))

    @router.post("/start-worker")
    def start_worker(request: Request, posted: Posted = operates) -> Response:
        """Start the worker of this host, or start it again."""
        served = running.served_worker(settings.node.data_dir)
        if served is not None and served.why_not and not served.is_run:
            raise HTTPException(
                409, say("It cannot be started from here: %(why)s.", why=served.why_not)
            )
        running.ask_worker(settings.node.data_dir)
        trail.changed(request, posted.person.name, "configured", "the worker of serve is started")
        return answered(
            request,
            say("A worker is being started; loading its model takes a moment."),
            "/models",
        )

    return router
