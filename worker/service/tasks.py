"""The Celery task of a worker: claim, pipeline, post; the only file of the worker with Celery."""

from __future__ import annotations

import logging
import os
import select
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from celery import bootsteps, signals
from celery.exceptions import SecurityWarning
from pydantic import ValidationError

from dicom_node.base.errors import (
    ChexFractError,
    NotFound,
    OutOfResources,
    Stale,
    Transient,
    Unreachable,
)
from dicom_node.base.job import TASK, Claim, Handout, Ticket, WorkerHeartbeat, queue
from dicom_node.base.logs import Sparse
from dicom_node.base.rims import OneOfMany
from dicom_node.base.service_manager import READY, notify
from dicom_node.flow import broker
from worker.models import BrokenAccelerator, Unexplained
from worker.pipeline import Case, Pipeline
from worker.service import heartbeat
from worker.service.batches import BatchFormer
from worker.service.node import NodeClient
from worker.service.nodes import Nodes, shown_url
from worker.service.turns import Turns
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


class LeaseRenewal:
    """Renews the leases of jobs in work for as long as work moves on, and ends a stuck worker.

    A heartbeat that beats while the model hangs would keep a lost job for ever, so each beat
    asks whether anything has moved since the last one.

    Parameters
    ----------
    stuck_after : float
        Seconds without movement after which `give_up` is called.
    give_up : callable
        Ends the process; an argument for tests.
    monotonic : callable
        The clock.
    alive : AliveFile, optional
        Touched while this worker is not stuck.
    """

    def __init__(
        self,
        stuck_after: float,
        give_up: Callable[[], None] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        alive: heartbeat.AliveFile | None = None,
    ) -> None:
        self._alive = alive or heartbeat.AliveFile(None)
        self._monotonic = monotonic
        self._stuck_after = stuck_after
        self._give_up = give_up or _exit_hard
        self._jobs: dict[str, tuple[NodeClient, Ticket, float]] = {}
        self._renewed: dict[str, float] = {}
        self._moved = self._monotonic()
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
        self._moved = self._monotonic()

    def hold(self, node: NodeClient, ticket: Ticket, lease_s: float) -> None:
        """Keep the lease of a claimed job."""
        with self._lock:
            self._jobs[ticket.job] = (node, ticket, lease_s)
            self._renewed[ticket.job] = self._monotonic()
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
                # No attempt is spent: the images are not to blame for a restart.
                node.release(ticket, "the worker was stopped", counts=False)

    def _run(self) -> None:
        while not self._ends.wait(0.25) and self.beat():
            self._alive.touch()

    def beat(self) -> bool:
        """Renew the leases of what has moved on; return whether this worker is not stuck."""
        if not self._jobs:
            self.moved()
            return True
        # Of the monotonic clock: a wall clock that is set forward would end a healthy worker.
        if self._monotonic() - self._moved > self._stuck_after:
            logger.critical("no progress for %.0f s: this worker ends", self._stuck_after)
            self._give_up()
            return False
        self._renew_leases()
        return True

    def _renew_leases(self) -> None:
        with self._lock:
            held = list(self._jobs.values())
        now = self._monotonic()
        for node, ticket, lease_s in held:
            since = self._renewed.get(ticket.job, now)
            # A third, so that two renewals may be lost; and only what has moved on: a stuck worker
            # must lose its jobs.
            if now - since < lease_s / 3 or self._moved <= since:
                continue
            self._renewed[ticket.job] = now
            # Each may wait for a node that gives no answer, and this worker is not at fault.
            self._alive.touch()
            # A lost lease shows itself when the result is posted; until then nothing is to be done.
            with suppress(ChexFractError):
                node.renew(ticket)


class Job:
    """One claimed job on its way through the worker."""

    __slots__ = ("case", "claim", "done", "node", "ticket")

    def __init__(self, node: NodeClient, ticket: Ticket, claim: Claim, case: Case) -> None:
        self.node = node
        self.ticket = ticket
        self.claim = claim
        self.case = case
        self.done: Future[None] = Future()
        """Set when the job was posted or given back."""


@dataclass(frozen=True)
class WorkExecutors:
    """Who does a desk's work: threads here; a simulation has its own."""

    preparing: Executor
    building: Executor
    former: Callable[..., BatchFormer[Job]] = BatchFormer
    connect: Callable[..., NodeClient] = NodeClient

    @classmethod
    def of(cls, settings: Settings) -> WorkExecutors:
        """Return threads: twice as many that prepare as there are processors."""
        processors = os.cpu_count() or 1
        preparing = min(settings.worker.batch, max(4, 2 * processors))
        return cls(
            ThreadPoolExecutor(preparing, thread_name_prefix="prepare"),
            ThreadPoolExecutor(min(4, max(2, processors // 2)), thread_name_prefix="build"),
        )


class HandoutDesk:
    """What a worker does with hand-outs.

    Preparing slots claim, fetch and decode ahead of the model; one model thread takes what is
    ready in batches; reports are built and posted behind it.

    Parameters
    ----------
    pipeline : Pipeline
        The loaded model and what stands around it.
    settings : Settings
        worker.toml.
    secret : str
        The secret of the nodes' job API, where a node has none of its own.
    pulse : LeaseRenewal
        Keeps the leases.
    on_room : callable, optional
        Called, in any thread, when there may be room for a hand-out again.
    executors : WorkExecutors, optional
        Do the work; threads, when left out.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        settings: Settings,
        secret: str,
        pulse: LeaseRenewal,
        on_room: Callable[[], None] = lambda: None,
        executors: WorkExecutors | None = None,
    ) -> None:
        self._pipeline = pipeline
        self._settings = settings
        self._pulse = pulse
        self._on_room = on_room
        executors = executors or WorkExecutors.of(settings)
        self._nodes = Nodes(settings.worker, secret, executors.connect)
        self._done = 0
        self._held = 0
        self._count_lock = threading.Lock()
        self._name = f"{settings.worker.name}:{os.getpid()}"
        self.batches = executors.former(self._describe, self._batch_limit, on_room)
        self._preparing, self._building = executors.preparing, executors.building
        self._turns = Turns()

    def close(self) -> None:
        """Finish what is in work, then close the connections to the nodes."""
        self._turns.close()
        self._preparing.shutdown(cancel_futures=True)
        self.batches.close()
        self._building.shutdown()
        self._nodes.close()

    def _batch_limit(self) -> int:
        """Return how many pictures the model gets at a time."""
        return max(1, min(self._settings.worker.batch, self._pipeline.limit.most))

    @property
    def held(self) -> int:
        """Tickets in this worker: those that wait for a slot as well."""
        return self._held

    def has_room(self) -> bool:
        """Whether another hand-out may be taken.

        So much is taken that a batch is ready when the model has done its last one, and no more:
        the next worker may be idle. While a suspect waits for an empty worker, nothing is.
        """
        if self._turns.is_emptying:
            return False
        worker = self._settings.worker
        behind = self._held < (worker.slots + 2) * worker.batch
        return behind and self.batches.ahead < max(1, (worker.slots - 1) * worker.batch)

    def nodes(self) -> list[NodeClient]:
        """Return the nodes that this worker knows."""
        return self._nodes.all()

    def presence(self) -> WorkerHeartbeat:
        """Return what this worker tells of itself."""
        info = self._pipeline.info
        return WorkerHeartbeat(
            worker=self._name[:128],
            card=heartbeat.card(info),
            device=heartbeat.device(info.device),
            busy=self._pulse.count,
            done=self._done,
            batches=heartbeat.batches(self.batches.figures, self._batch_limit()),
        )

    def work(self, handout: Handout, *, urgent: bool = False) -> None:
        """Do every job of a hand-out whose ticket is still good; return when all are done."""
        wait(self.take(handout, urgent=urgent))

    def take(self, handout: Handout, *, urgent: bool = False) -> list[Future[None]]:
        """Begin every job of a hand-out and return at once.

        Parameters
        ----------
        urgent : bool
            Its jobs go to the model before those that are not.

        Returns
        -------
        list of Future
            One per ticket, set when its job was posted, given back or passed over.
        """
        node = self._nodes.find(handout.node)
        if node is None:
            dropped.error(
                "dropped a hand-out of %s, which is not in worker.nodes", shown_url(handout.node)
            )
            return []
        with self._count_lock:
            self._held += len(handout.tickets)
        done: list[Future[None]] = [Future() for _ in handout.tickets]
        # Before the jobs begin: the last may be done before this method returns.
        for ends in done:
            ends.add_done_callback(self._let_go)
        tickets = tuple(zip(handout.tickets, done, strict=True))

        def begin() -> None:
            # All at once and first: the batch former waits for what is expected, and forms whole
            # batches of it.
            self.batches.expect(len(tickets))
            for ticket, ends in tickets:
                self._preparing.submit(self._prepare_job, node, ticket, ends, urgent=urgent)

        self._turns.ask(begin, len(tickets), alone=handout.alone, urgent=urgent)
        return done

    def _let_go(self, _: Future[None]) -> None:
        with self._count_lock:
            self._held -= 1
        self._turns.leave()
        self._on_room()

    def _prepare_job(
        self, node: NodeClient, ticket: Ticket, done: Future[None], *, urgent: bool
    ) -> None:
        """Claim a job, fetch its Instance and make its picture, then bring it to the model."""
        job = None
        with self._giving_back(node, ticket):
            job = self._fetch_job(node, ticket)
        if job is None:
            self.batches.miss()
            self._pulse.drop(ticket)
            done.set_result(None)
            return
        job.done = done
        if job.case.is_waiting:
            # it was given back before, or an earlier worker died of it: its neighbours are spared
            self.batches.put(job, urgent=urgent, alone=job.claim.attempt > 1)
        else:
            self.batches.miss()
            self._building.submit(self._finish_job, job)

    def _fetch_job(self, node: NodeClient, ticket: Ticket) -> Job | None:
        try:
            claim = node.claim(ticket, self._name)
        except Stale:
            return None  # handed out again meanwhile: someone else has it
        self._pulse.hold(node, ticket, claim.lease_s)
        started = time.perf_counter()
        content = node.instance(ticket, claim.size, self._pulse.moved)
        fetched = (time.perf_counter() - started) * 1000
        judgement = claim.order.judgement
        if judgement is None:
            case = self._pipeline.prepare(content)
        else:
            case = self._pipeline.prepare_judged(content, judgement.report)
        case.stages_ms = {"fetch": round(fetched, 1), **case.stages_ms}
        self._pulse.moved()
        return Job(node, ticket, claim, case)

    def _describe(self, jobs: Sequence[Job]) -> None:
        """Let the model describe a batch, and hand it on to be built and posted."""
        self._pulse.moved()
        is_described = False

        def give_back(exc: Exception) -> None:
            for job in jobs:
                self._building.submit(self._give_up, job, exc)

        with OneOfMany(give_back):
            self._pipeline.describe([job.case for job in jobs], self._pulse.moved)
            is_described = True
        if not is_described:
            return
        self._pulse.moved()
        for job in jobs:
            if not isinstance(job.case.trouble, BrokenAccelerator):
                self._building.submit(self._finish_job, job)
        self._end_if_broken(jobs)

    def _finish_job(self, job: Job) -> None:
        try:
            with self._giving_back(job.node, job.ticket):
                self._post_result(job)
        finally:
            self._pulse.drop(job.ticket)
            job.done.set_result(None)

    def _give_up(self, job: Job, fault: Exception) -> None:
        try:
            with self._giving_back(job.node, job.ticket):
                raise fault
        finally:
            self._pulse.drop(job.ticket)
            job.done.set_result(None)

    def _end_if_broken(self, jobs: Sequence[Job]) -> None:
        """End this process when the accelerator is lost to it, after all others were posted."""
        lost = [job for job in jobs if isinstance(job.case.trouble, BrokenAccelerator)]
        if not lost:
            return
        wait([job.done for job in jobs if job not in lost], LAST_WORDS_S)
        # Nothing but a new process brings a lost device back. It counts: were a picture to
        # blame, it would end one process after another.
        reason = str(lost[0].case.trouble)
        logger.critical("the accelerator is lost: %s", reason)
        for job in lost:
            self._release_job(job.node, job.ticket, reason, counts=True)
            self._pulse.drop(job.ticket)
        self._pulse.give_back()
        _exit_hard()
        for job in lost:
            job.done.set_result(None)

    def _post_result(self, job: Job) -> None:
        if job.case.trouble is not None:
            raise job.case.trouble
        conclusion = self._pipeline.build(job.case, job.claim.order, job.ticket.token)
        self._pulse.moved()
        contents = [document.content for document in conclusion.documents]
        job.node.post(job.ticket, conclusion.result, contents, progress=self._pulse.moved)
        with self._count_lock:
            self._done += 1
        logger.info(
            "job %s %s in %s ms",
            job.ticket.job[:12],
            conclusion.result.outcome,
            round(sum(job.case.stages_ms.values())),
            extra={"job": job.ticket.job, "stages_ms": dict(job.case.stages_ms)},
        )

    @contextmanager
    def _giving_back(self, node: NodeClient, ticket: Ticket) -> Iterator[None]:
        """Give the job back, with the reason, when a block fails: none may wait for its lease."""

        def note(exc: Exception) -> None:
            logger.error("job failed", exc_info=exc)
            self._release_job(node, ticket, f"{type(exc).__name__} in the worker", counts=True)

        with OneOfMany(note):  # any fault must reach the ledger
            try:
                yield
            except Stale as exc:
                logger.warning("result dropped: %s", exc)
            except (OutOfResources, MemoryError) as exc:
                self._release_job(node, ticket, f"out of memory: {exc}", counts=True, delay_s=10.0)
            except Unexplained as exc:
                self._release_job(node, ticket, str(exc), counts=True, delay_s=10.0)
            except Transient as exc:
                self._release_job(node, ticket, str(exc), counts=False, delay_s=1.0)
            except ChexFractError as exc:
                self._release_job(node, ticket, str(exc), counts=True)

    def _release_job(
        self, node: NodeClient, ticket: Ticket, reason: str, *, counts: bool, delay_s: float = 0.0
    ) -> None:
        logger.warning("job %s given back: %s", ticket.job[:12], reason)
        # A node that is away takes the job back itself when the lease ends.
        with suppress(ChexFractError):
            node.release(ticket, reason, counts=counts, delay_s=delay_s)


def announce(desk: HandoutDesk, wait: Callable[[float], object] = time.sleep) -> None:
    """Tell each node again and again that this worker is there; only pages depend on it."""
    while True:
        is_known = True
        for node in desk.nodes():
            # What only pages show must not end quietly.
            with OneOfMany(lambda exc: logger.error("not announced", exc_info=exc)):
                try:
                    node.announce(desk.presence())
                except ChexFractError as exc:
                    logger.debug("not announced: %s", exc)
                    is_known = isinstance(exc, NotFound)
        wait(ANNOUNCE_S if is_known else ANNOUNCE_S / 10)


def register(app: Any, desk: HandoutDesk) -> None:
    """Register the one task of the worker at `app`; it returns once its jobs are begun."""

    @app.task(name=TASK, ignore_result=True, bind=True)  # type: ignore[untyped-decorator, unused-ignore]
    def describe(task: Any, handout: dict[str, Any]) -> None:
        try:
            message = Handout.model_validate(handout)
        except ValidationError:
            dropped.error("dropped a message that is not a hand-out")
            return
        info = task.request.delivery_info or {}
        desk.take(message, urgent=info.get("priority") == broker.PRIORITY_STEPS[0])


class WakePipe:
    """Wakes whoever waits for a file descriptor: the broker's event loop, the thread that ends."""

    def __init__(self) -> None:
        self.waiting, self._ringing = os.pipe()
        os.set_blocking(self.waiting, False)
        # A signal handler that blocks on a full pipe would never return.
        os.set_blocking(self._ringing, False)

    def ring(self, *_: object, **__: object) -> None:
        """Wake the waiter; safe in a signal handler."""
        with suppress(BlockingIOError):  # it rings already
            os.write(self._ringing, b"!")

    def hush(self, *_: object) -> None:
        """Take note of all rings so far."""
        with suppress(BlockingIOError):
            os.read(self.waiting, 4096)


def take_while_there_is_room(app: Any, desk: HandoutDesk, room: WakePipe) -> None:
    """Let `app` take a message from the broker only while the desk has room for a hand-out.

    What is taken is out of every other worker's reach. The event loop sleeps up to a second, so
    the doorbell wakes it when the model has taken a batch.
    """

    class RoomStep(bootsteps.StartStopStep):  # type: ignore[misc, unused-ignore]
        requires = ("celery.worker.consumer.tasks:Tasks",)

        def start(self, consumer: Any) -> None:
            limits = consumer.task_consumer.channel.qos  # a new one with each connection
            # Celery asks this before it takes a message: what stays in Redis can go to an idle
            # worker.
            usual = limits.can_consume
            limits.can_consume = lambda: desk.has_room() and usual()

        def register_with_event_loop(self, consumer: Any, hub: Any) -> None:
            hub.add_reader(room.waiting, room.hush)

    app.steps["consumer"].add(RoomStep)


def run(settings: Settings, pipeline: Pipeline, secret: str) -> None:
    """Take hand-outs until the process is asked to end.

    Raises
    ------
    Unreachable
        The broker gives no answer at the start, or Celery gives it up; otherwise it is waited for.
    """
    broker.ping(settings.worker.broker, files=settings.worker.broker_files)
    app = broker.app(settings.worker.broker, files=settings.worker.broker_files)
    alive = heartbeat.AliveFile(settings.worker.alive_file)
    pulse = LeaseRenewal(settings.worker.stuck_after, alive=alive)
    room = WakePipe()
    desk = HandoutDesk(pipeline, settings, secret, pulse, room.ring)
    register(app, desk)
    take_while_there_is_room(app, desk, room)
    signals.setup_logging.connect(_quiet_celery, weak=False)
    pulse.start()
    threading.Thread(target=announce, args=(desk,), name="announce", daemon=True).start()
    end_on_signals(desk, pulse)
    model = settings.worker.model
    logger.info("ready: %s on queue %s", pipeline.algorithm.version, queue(model))
    notify(READY)
    # To root it says what is so of messages in pickle, and names an option that is not ours.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    # One process: CUDA does not survive a fork. A task only begins its jobs, so one thread does.
    app.worker_main(
        [
            "--quiet",  # its banner would stand between our lines of JSON
            "worker",
            "--pool=threads",
            "--concurrency=1",
            f"--queues={queue(model)}",
            f"--hostname={model}.{os.getpid()}@{settings.worker.name}",
            "--without-gossip",
            "--without-mingle",
            "--without-heartbeat",
        ]
    )
    # Whoever asked this process to end was answered by `_end_process`: this is the broker's doing.
    pulse.give_back()
    raise Unreachable(
        f"{broker.redacted(settings.worker.broker)}: Celery ended without being asked to; "
        "start this worker again"
    )


def _quiet_celery(**_: object) -> None:
    """Keep the logs of this program: Celery would set the level of all of them to its own."""
    for name in ("celery", "kombu"):
        logging.getLogger(name).setLevel(logging.WARNING)


def end_on_signals(desk: HandoutDesk, pulse: LeaseRenewal) -> None:
    """End the process at SIGINT, SIGTERM and SIGHUP, whatever Celery does with them.

    Celery's warm shutdown waits for its pool, its connections and at times for ever. At SIGHUP it
    would become a fresh worker without the environment that `serve` gave to this one; a process
    that ends is started again by whoever keeps it.
    """
    bell = WakePipe()
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup: it outlives its terminal
        numbers.append(signal.SIGHUP)

    def end() -> None:
        select.select([bell.waiting], [], [])
        _end_process(desk, pulse)

    threading.Thread(target=end, name="end", daemon=True).start()

    def install(**_: object) -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        for number in numbers:
            signal.signal(number, bell.ring)

    install()
    # Celery puts its own in the same place when it starts
    signals.worker_ready.connect(install, weak=False)
    signals.worker_shutting_down.connect(bell.ring, weak=False)


def _end_process(desk: HandoutDesk, pulse: LeaseRenewal) -> None:
    """Let what is nearly done be posted, give the rest back, and be gone before we are killed."""
    until = time.monotonic() + LAST_WORDS_S
    while desk.held and time.monotonic() < until:
        time.sleep(0.01)
    pulse.give_back()
    os._exit(0)


def _exit_hard() -> None:
    # A thread stuck in native code cannot be interrupted; the supervisor starts a fresh process.
    os._exit(STUCK)
