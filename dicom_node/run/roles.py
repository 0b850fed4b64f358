"""The roles of a node, each a process that `serve` starts: listener, courier, web."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Protocol

from dicom_node import in_force
from dicom_node.base.errors import Unreachable
from dicom_node.base.local_time import set_zone
from dicom_node.credentials import read_credentials
from dicom_node.run.supervisor import HEART, STOP_S
from dicom_node.settings import Settings

if TYPE_CHECKING:
    from dicom_node.store.ledger import Ledger
    from dicom_node.store.spool import Spool

logger = logging.getLogger(__name__)

HANGS_AFTER_S = 90.0
"""Time without a turn after which a loop counts as hung: three times what a locked ledger takes."""

COLLECTED = (10_000, 2, 2)
"""New objects after which the collector looks at them, and how often it looks at older ones."""

MOST_FAULTS = 5
"""After so many faults in a row a loop is not trusted to recover: a new process begins afresh."""


class Turning(Protocol):
    """Work that turns again and again, as `flow.loop.Loop`."""

    name: str
    turned_at: float
    """When it last turned, by the monotonic clock."""
    faults: int
    """Unforeseen faults in a row."""


class WebLoop:
    """The turns of the web server's event loop, which is not ours."""

    name = "web"
    faults = 0

    def __init__(self) -> None:
        self.turned_at = time.monotonic()

    def __call__(self) -> None:
        """Note that it turns."""
        self.turned_at = time.monotonic()


def check_turns(loops: Sequence[Turning]) -> None:
    """Raise `Unreachable` when one of these hangs or fails: its role is started again."""
    now = time.monotonic()
    hung = [loop.name for loop in loops if now - loop.turned_at > HANGS_AFTER_S]
    if hung:
        raise Unreachable(f"{', '.join(hung)} hangs")
    failing = [loop.name for loop in loops if loop.faults >= MOST_FAULTS]
    if failing:
        raise Unreachable(f"{', '.join(failing)} fails again and again")


class Life:
    """A role's life: that it beats, what it runs with, when it takes other peers and rules.

    Parameters
    ----------
    config : Path
        What was accepted of node.toml, or node.toml itself.
    """

    def __init__(self, config: Path) -> None:
        self._config = config
        self._is_asked = False
        self.ends = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.ends.set())
        signal.signal(signal.SIGHUP, self._ask_to_end)
        # Only now: what changes while it is read is read again.
        self.settings = in_force.read(config)
        set_zone(self.settings.node.time_zone)

    def ready(self) -> None:
        """Tell that the role works, with what is accepted now."""
        _beat_heart(b"R")
        # what was imported stays for good: the collector need not walk it again and again
        gc.collect()
        gc.freeze()
        # What is left to walk is little. Seldom collected, associations that have ended (circles
        # of some thousand objects) would be most of what a role holds.
        gc.set_threshold(*COLLECTED)

    def live(
        self, take: Callable[[Settings], None], check: Callable[[], None] = lambda: None
    ) -> None:
        """Beat until the end.

        Parameters
        ----------
        take : callable
            Takes settings with other peers and rules, while work goes on.
        check : callable
            Raises when the role cannot work any more.
        """
        while not self.ends.wait(1):
            check()
            if self._is_asked:
                self._is_asked = False
                take(in_force.read(self._config))
                _beat_heart(b"T")
            _beat_heart(b".")

    def _ask_to_end(self, _signal: int, _frame: FrameType | None) -> None:
        self._is_asked = True


def run_role(name: str, config: Path) -> None:
    """Be one of the roles until SIGTERM; SIGHUP takes other peers and rules.

    Raises
    ------
    ConfigurationError, Unreachable
        The role cannot work; the message says what to change.
    """
    {"listener": _run_listener, "courier": _run_courier, "web": _run_web}[name](Life(config))


def _run_listener(life: Life) -> None:
    from dicom_node.dimse.commitment import Reports
    from dicom_node.dimse.port import Port
    from dicom_node.dimse.refusals import Refusals
    from dicom_node.dimse.scp import Listener
    from dicom_node.flow.commit import keeper
    from dicom_node.flow.deliver import Pace
    from dicom_node.flow.intake import Intake
    from dicom_node.store.catalogue import Catalogue

    settings = life.settings
    spool, ledger = _open_stores(settings, "instances", "refused")
    spool.sweep(older_than_s=3600)
    intake = Intake(settings, spool, ledger)
    catalogue = Catalogue(ledger, spool, settings.node.ae_title)
    commitments = Reports(keeper(ledger, Pace.of(settings.delivery)))
    refusals = Refusals(ledger.refused.add)
    port = Port.of(settings.node.host, settings.node.port)
    listener = Listener(settings, intake, spool.has_room, catalogue, commitments, refusals, port)

    def take(new: Settings) -> None:
        spool.min_free = new.retention.min_free
        intake.settings = new
        listener.take(new)

    def check() -> None:
        if not listener.is_listening:
            raise Unreachable("the listener's socket is gone")

    listener.start()
    logger.info("%s listens on port %d", settings.node.ae_title, listener.port)
    life.ready()
    life.live(take, check)
    listener.stop()


def _run_courier(life: Life) -> None:
    from dicom_node.dimse.commitment import CommitmentAssociation
    from dicom_node.dimse.lookup import why_not_there
    from dicom_node.dimse.scu import Destination
    from dicom_node.flow import broker, tracing
    from dicom_node.flow.commit import Committer, keeper
    from dicom_node.flow.deliver import Deliverer, Pace
    from dicom_node.flow.dispatch import Dispatcher
    from dicom_node.flow.loop import Loop, Threads
    from dicom_node.flow.repeat import Comparer
    from dicom_node.operate.audit import Auditor
    from dicom_node.operate.notify import Notifier
    from dicom_node.peers import same_host
    from dicom_node.settings import Peer
    from dicom_node.store.filling import Filler
    from dicom_node.store.ledger.upkeep import TURN_S
    from dicom_node.store.retention import RetentionSweep

    settings = life.settings
    spool, ledger = _open_stores(settings, "jobs", "deliveries", "commitments")

    def connect(peer: Peer) -> Destination:
        return Destination(settings.node.ae_title, peer)

    def look(peer: Peer, report: Path | bytes) -> str:
        return why_not_there(settings.node.ae_title, peer, report)

    pace = Pace.of(settings.delivery)
    keep = keeper(ledger, pace)
    peers = settings.peers

    def ask(peer: Peer) -> CommitmentAssociation:
        by = same_host(peers, peer.host)
        return CommitmentAssociation(settings.node.ae_title, peer, keep, by)

    crew = Threads(life.ends)
    committer = Committer(settings, ledger, ask, pace, crew=crew)
    traces = tracing.from_environment()
    deliverer = Deliverer(settings, spool, ledger, connect, pace, crew, traces, look)
    auditor = Auditor(settings, ledger)
    publisher = broker.publisher(settings.broker.url, broker.files_of(settings.broker))
    comparer = Comparer(settings, spool, ledger)
    dispatching = Dispatcher(settings, ledger, publisher).loop()
    delivering = deliverer.loop()
    sweep = RetentionSweep(settings, spool, ledger)
    loops = [
        dispatching,
        delivering,
        committer.loop(),
        comparer.loop(),
        Loop("retention", sweep.step, ledger.clock),
        Loop("filling the ledger", Filler(ledger, spool).step, ledger.clock),
        Notifier(settings, ledger, spool).loop(),
        auditor.loop(),
    ]
    if ledger.is_sqlite:  # PostgreSQL's server has processes for it
        upkeep = ledger.upkeep.step
        loops.append(Loop("upkeep", upkeep, ledger.clock, ledger.watch(), rest_s=TURN_S))
    roles = Threads(life.ends)

    def take(new: Settings) -> None:
        nonlocal peers
        peers = new.peers
        spool.min_free = new.retention.min_free
        sweep.take(new)
        deliverer.take(new)
        committer.take(new)
        comparer.take(new)
        auditor.take(new)

    def check() -> None:
        if dead := roles.dead():
            raise Unreachable(f"{', '.join(dead)} ended by itself")
        # the others may wait for a disk or a mail server as long as it takes
        check_turns((dispatching, delivering))

    for loop in loops:
        roles.add(loop)
    life.ready()
    life.live(take, check)
    roles.join(STOP_S / 2)
    crew.join(STOP_S / 4)
    if traces is not None:
        traces.flush()


def _run_web(life: Life) -> None:
    from dicom_node.web.app import WebSite, serve_web

    settings = life.settings
    spool, ledger = _open_stores(settings, "jobs", "history", "studies")
    site = WebSite(settings, ledger, spool, read_credentials(settings))
    turn = WebLoop()

    def take(new: Settings) -> None:
        spool.min_free = new.retention.min_free
        site.take(new)

    def beat() -> None:
        try:
            life.live(take, lambda: check_turns((turn,)))
        except Unreachable:
            logger.exception("the event loop hangs")  # no more beats: the supervisor ends it

    threading.Thread(target=beat, name="heart", daemon=True).start()
    serve_web(settings, site, life.ends, ready=life.ready, turn=turn)


def _open_stores(settings: Settings, *parts: str) -> tuple[Spool, Ledger]:
    """Return spool and ledger, with the parts that the first image or request waits for."""
    from dicom_node.store.audit_file import AuditFile
    from dicom_node.store.ledger import Ledger
    from dicom_node.store.spool import Spool

    path = settings.audit_file
    is_safe = (lambda: AuditFile(path).is_safe) if path else (lambda: True)
    spool = Spool(settings.spool_dir, settings.retention.min_free, is_safe)
    ledger = Ledger.open(settings.ledger_url)
    ledger.prepare(*parts)
    return spool, ledger


def _beat_heart(sign: bytes) -> None:
    descriptor = os.environ.get(HEART)
    if descriptor:
        with contextlib.suppress(OSError):
            os.write(int(descriptor), sign)
