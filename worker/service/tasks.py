"""The Celery task of a worker: claim, pipeline, post; the only file of the worker with Celery."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from celery import signals
from pydantic import ValidationError

from dicom_node.base.errors import ChexFractError, NotFound, OutOfResources, Stale, Transient
from dicom_node.base.job import TASK, Claim, Handout, Presence, Ticket, queue
from dicom_node.base.logs import Sparse
from dicom_node.flow import broker
from worker.models import BrokenAccelerator, Unexplained
from worker.pipeline import Case, Pipeline
from worker.service import heartbeat
from worker.service.node import Node
from worker.service.nodes import Nodes, shown
from worker.settings import Settings

logger = logging.getLogger(__name__)
dropped = Sparse(logger)
"""Of messages from the broker, which anybody may have written."""

STUCK = 70
"""Exit status of a worker that ended itself: EX_SOFTWARE."""

ANNOUNCE_S = 20.0
"""Time between two words that this worker is there."""

LAST_WORDS_S = 1.0
"""Time that jobs in work get to be posted when the worker is asked to end."""


class Pulse:
    """Renews the leases of jobs in work for as long as work moves on, and ends a stuck worker.

    A heartbeat that beats while the model hangs would keep a lost job for ever, so each beat
    asks whether anything has moved since the last one.

    Parameters
    ----------
    stuck_after : float
        Seconds without movement after which `give_up` is called.
    give_up : callable
        Ends the process; an argument for tests.
    """

    def __init__(self, stuck_after: float, give_up: Callable[[], None] | None = None) -> None:
        self._stuck_after = stuck_after
        self._give_up = give_up or _exit_hard
        self._jobs: dict[str, tuple[Node, Ticket, float]] = {}
        self._renewed: dict[str, float] = {}
        self._moved = time.monotonic()
        self._lock = threading.Lock()
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)

    def start(self) -> None:
        """Start to beat."""
        self._thread.start()

    def stop(self) -> None:
        """Stop to beat."""
        self._ends.set()

    def moved(self) -> None:
        """Note that work has moved on."""
        self._moved = time.monotonic()

    def hold(self, node: Node, ticket: Ticket, lease_s: float) -> None:
        """Keep the lease of a claimed job."""
        with self._lock:
            self._jobs[ticket.job] = (node, ticket, lease_s)
            self._renewed[ticket.job] = time.monotonic()
        self.moved()

    @property
    def count(self) -> int:
        """Jobs in work."""
        return len(self._jobs)

    def drop(self, ticket: Ticket) -> None:
        """Let a job's lease be: it is done or given back."""
        with self._lock:
            self._jobs.pop(ticket.job, None)
            self._renewed.pop(ticket.job, None)

    def give_back(self) -> None:
        """Give every job in work back: this process ends, and none may wait for its lease."""
        with self._lock:
            held = list(self._jobs.values())
        for node, ticket, _ in held:
            with suppress(ChexFractError):
                node.release(ticket, "the worker was stopped", counts=False)

    def _run(self) -> None:
        while not self._ends.wait(0.25):
            if not self._jobs:
                self.moved()
                continue
            if time.monotonic() - self._moved > self._stuck_after:
                logger.critical("no progress for %.0f s: this worker ends", self._stuck_after)
                self._give_up()
                return
            self._renew()

    def _renew(self) -> None:
        with self._lock:
            held = list(self._jobs.values())
        now = time.monotonic()
        for node, ticket, lease_s in held:
            since = self._renewed.get(ticket.job, now)
            if now - since < lease_s / 3 or self._moved <= since:
                continue
            self._renewed[ticket.job] = now
            # A lost lease shows itself when the result is posted; until then nothing is to be done.
            with suppress(ChexFractError):
                node.renew(ticket)


class Desk:
    """What a worker does with a hand-out.

    Parameters
    ----------
    pipeline : Pipeline
        The loaded model and what stands around it.
    settings : Settings
        worker.toml.
    secret : str
        The secret of the nodes' job API, where a node has none of its own.
    pulse : Pulse
        Keeps the leases.
    """

    def __init__(self, pipeline: Pipeline, settings: Settings, secret: str, pulse: Pulse) -> None:
        self._pipeline = pipeline
        self._settings = settings
        self._pulse = pulse
        self._model = threading.Lock()
        self._nodes = Nodes(settings.worker, secret)
        self._done = 0
        self._name = f"{settings.worker.name}:{os.getpid()}"

    def close(self) -> None:
        """Close the connections to the nodes."""
        self._nodes.close()

    def nodes(self) -> list[Node]:
        """Return the nodes that this worker was told of."""
        return self._nodes.all()

    def presence(self) -> Presence:
        """Return what this worker tells of itself."""
        info = self._pipeline.info
        return Presence(
            worker=self._name[:128],
            card=heartbeat.card(info),
            device=heartbeat.device(info.device),
            busy=self._pulse.count,
            done=self._done,
        )

    def work(self, handout: Handout) -> None:
        """Do every job of a hand-out whose ticket is still good."""
        node = self._nodes.find(handout.node)
        if node is None:
            dropped.error(
                "dropped a hand-out of %s, which is not in worker.nodes", shown(handout.node)
            )
            return
        for start in range(0, len(handout.tickets), self._settings.worker.batch):
            self._batch(node, handout.tickets[start : start + self._settings.worker.batch])

    def _batch(self, node: Node, tickets: Sequence[Ticket]) -> None:
        jobs: list[tuple[Ticket, Claim, Case]] = []
        try:
            for ticket in tickets:
                with self._giving_back(node, ticket):
                    jobs += self._fetch(node, ticket)
            with self._giving_back(node, *(ticket for ticket, _, _ in jobs)):
                with self._model:
                    self._pulse.moved()
                    self._pipeline.describe([case for _, _, case in jobs], self._pulse.moved)
                    self._pulse.moved()
                for ticket, claim, case in jobs:
                    if not isinstance(case.trouble, BrokenAccelerator):
                        with self._giving_back(node, ticket):
                            self._post(node, ticket, claim, case)
                self._end_if_broken(node, jobs)
        finally:
            for ticket in tickets:
                self._pulse.drop(ticket)

    def _fetch(self, node: Node, ticket: Ticket) -> list[tuple[Ticket, Claim, Case]]:
        try:
            claim = node.claim(ticket, self._name)
        except Stale:
            return []  # handed out again meanwhile: someone else has it
        self._pulse.hold(node, ticket, claim.lease_s)
        started = time.perf_counter()
        content = node.instance(ticket, self._pulse.moved)
        fetched = (time.perf_counter() - started) * 1000
        case = self._pipeline.prepare(content)
        case.stages_ms = {"fetch": round(fetched, 1), **case.stages_ms}
        self._pulse.moved()
        return [(ticket, claim, case)]

    def _end_if_broken(self, node: Node, jobs: Sequence[tuple[Ticket, Claim, Case]]) -> None:
        """End this process when the accelerator is lost to it, after all others were posted."""
        lost = [(t, c.trouble) for t, _, c in jobs if isinstance(c.trouble, BrokenAccelerator)]
        if lost:
            with self._giving_back(node, *(ticket for ticket, _ in lost)):
                raise lost[0][1]

    def _post(self, node: Node, ticket: Ticket, claim: Claim, case: Case) -> None:
        if case.trouble is not None:
            raise case.trouble
        conclusion = self._pipeline.build(case, claim.order, ticket.token)
        self._pulse.moved()
        contents = [document.content for document in conclusion.documents]
        node.post(ticket, conclusion.result, contents)
        self._done += 1
        logger.info(
            "job %s %s in %s ms",
            ticket.job[:12],
            conclusion.result.outcome,
            round(sum(case.stages_ms.values())),
            extra={"job": ticket.job, "stages_ms": dict(case.stages_ms)},
        )

    @contextmanager
    def _giving_back(self, node: Node, *tickets: Ticket) -> Iterator[None]:
        """Give the jobs back, with the reason, when a block fails: none may wait for its lease."""
        try:
            yield
        except Stale as exc:
            logger.warning("result dropped: %s", exc)
        except BrokenAccelerator as exc:
            # Nothing but a new process brings a lost device back. It counts: were a picture to
            # blame, it would end one process after another.
            logger.critical("the accelerator is lost: %s", exc)
            self._release(node, tickets, str(exc), counts=True)
            _exit_hard()
        except (OutOfResources, MemoryError) as exc:
            self._release(node, tickets, f"out of memory: {exc}", counts=True, delay_s=10.0)
        except Unexplained as exc:
            self._release(node, tickets, str(exc), counts=True, delay_s=10.0)
        except Transient as exc:
            self._release(node, tickets, str(exc), counts=False, delay_s=1.0)
        except ChexFractError as exc:
            self._release(node, tickets, str(exc), counts=True)
        except Exception as exc:  # the rim of a job: any fault must reach the ledger
            logger.exception("job failed")
            self._release(node, tickets, f"{type(exc).__name__} in the worker", counts=True)

    def _release(
        self,
        node: Node,
        tickets: Sequence[Ticket],
        reason: str,
        *,
        counts: bool,
        delay_s: float = 0.0,
    ) -> None:
        logger.warning("%d job(s) given back: %s", len(tickets), reason)
        for ticket in tickets:
            # A node that is away takes the job back itself when the lease ends.
            with suppress(ChexFractError):
                node.release(ticket, reason, counts=counts, delay_s=delay_s)


def announce(desk: Desk, wait: Callable[[float], object] = time.sleep) -> None:
    """Tell each node again and again that this worker is there; only pages depend on it."""
    while True:
        is_known = True
        for node in desk.nodes():
            try:
                node.announce(desk.presence())
            except ChexFractError as exc:
                logger.debug("not announced: %s", exc)
                is_known = isinstance(exc, NotFound)
            except Exception:  # the rim of a thread: what only pages show must not end quietly
                logger.exception("not announced")
        wait(ANNOUNCE_S if is_known else ANNOUNCE_S / 10)


def register(app: Any, desk: Desk) -> None:
    """Register the one task of the worker at `app`."""

    @app.task(name=TASK, ignore_result=True)  # type: ignore[untyped-decorator, unused-ignore]
    def describe(handout: dict[str, Any]) -> None:
        try:
            message = Handout.model_validate(handout)
        except ValidationError:
            dropped.error("dropped a message that is not a hand-out")
            return
        desk.work(message)


def run(settings: Settings, pipeline: Pipeline, secret: str) -> None:
    """Take hand-outs until the process is asked to end.

    Raises
    ------
    Unreachable
        The broker gives no answer at the start; later it is waited for.
    """
    broker.ping(settings.worker.broker)
    app = broker.app(settings.worker.broker)
    pulse = Pulse(settings.worker.stuck_after)
    desk = Desk(pipeline, settings, secret, pulse)
    register(app, desk)
    pulse.start()
    threading.Thread(target=announce, args=(desk,), name="announce", daemon=True).start()

    def end(**_: object) -> None:
        threading.Thread(target=_end, args=(pulse,), name="end", daemon=True).start()

    signals.worker_shutting_down.connect(end, weak=False)
    model = settings.worker.model
    logger.info("ready: %s on queue %s", pipeline.algorithm.version, queue(model))
    # One process: CUDA does not survive a fork, and two slots share one model.
    app.worker_main(
        [
            "worker",
            "--pool=threads",
            f"--concurrency={settings.worker.slots}",
            f"--queues={queue(model)}",
            f"--hostname={model}.{os.getpid()}@{settings.worker.name}",
            "--without-gossip",
            "--without-mingle",
            "--loglevel=WARNING",
        ]
    )


def _end(pulse: Pulse) -> None:
    """Let what is nearly done be posted, give the rest back, and be gone before we are killed."""
    time.sleep(LAST_WORDS_S)
    pulse.give_back()
    os._exit(0)


def _exit_hard() -> None:
    # A thread stuck in native code cannot be interrupted; the supervisor starts a fresh process.
    os._exit(STUCK)
