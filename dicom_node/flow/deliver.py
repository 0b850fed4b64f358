"""From the ledger to the archives: each object once settled, retried for days, never given up."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from dicom_node.base.errors import (
    ChexFractError,
    MismatchedAnswer,
    NotFound,
    NotUnderstood,
    Refused,
    Transient,
)
from dicom_node.flow.loop import Crew, Loop
from dicom_node.flow.tracing import TraceExporter
from dicom_node.peers import who_calls
from dicom_node.settings import SENDER, Peer, Settings, unknown_sender
from dicom_node.settings import Delivery as Waits
from dicom_node.standard.header import CUT_OFF
from dicom_node.standard.part10 import recast
from dicom_node.standard.sr_classes import SR_CLASSES
from dicom_node.standard.status import StatusKind, is_stored, meaning, read_status
from dicom_node.store.ledger import DueDelivery, Ledger, ReportFile
from dicom_node.store.ledger.replaced import NOTE
from dicom_node.store.ledger.states import TAKEN, UNSENT, DeliveryState
from dicom_node.store.spool import Spool

logger = logging.getLogger(__name__)


REMOVED_REPORT = "retention has removed the report; replay the Instance"

TURN = 1000
"""Objects after which a turn to a destination ends: under load it would never end, and what it has
seen would grow with all that it sends."""

LOOK_S = 0.25
"""Seconds between two looks at what became due by time alone."""

REDATE_S = 5.0
"""Seconds between two looks for times that were written by a clock which was ahead."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Waits in seconds: first and longest, doubling in between.

    ``refused`` is for an object that the destination answered with a failure, ``silent`` for a
    destination that does not answer, ``uncommitted`` for a storage commitment that is not
    answered; ``idle`` is how long an association stays open, ``gather`` how long a delivery waits
    for others whose commitment is asked for together with its own.
    """

    refused: tuple[float, float] = (30.0, 3600.0)
    silent: tuple[float, float] = (1.0, 30.0)
    uncommitted: tuple[float, float] = (600.0, 3600.0)
    idle: float = 2.0
    gather: float = 1.0

    @classmethod
    def of(cls, waits: Waits) -> Pace:
        """Return the waits of ``[delivery]``."""
        return cls(
            refused=(waits.refused_first, waits.refused_longest),
            silent=(waits.silent_first, waits.silent_longest),
            uncommitted=(waits.uncommitted_first, waits.uncommitted_longest),
        )

    def after_refusals(self, count: int) -> float:
        """Return the wait after `count` earlier refusals of the same object."""
        return _doubled_wait(self.refused, count)

    def after_silence(self, count: int) -> float:
        """Return the wait after `count` earlier attempts without an answer."""
        return _doubled_wait(self.silent, count)

    def before_asking_again(self, count: int) -> float:
        """Return the wait for an answer after `count` earlier questions."""
        return _doubled_wait(self.uncommitted, count)


class SendingAssociation(Protocol):
    """An association to one peer that is used again; as `dimse.scu.Destination`."""

    def connect(self, sop_classes: Sequence[str]) -> None:
        """Associate, proposing these SOP classes; `Unreachable` when that fails."""

    def accepts(self, sop_class_uid: str) -> bool:
        """Return whether the peer accepted this SOP class."""

    def store(self, content: Path | bytes) -> int:
        """Send one file and return the status; `Unreachable` when the association breaks."""

    def close(self) -> None:
        """Release the association."""


class Deliverer:
    """Sends what is due, one loop and one association per destination.

    Parameters
    ----------
    connect : callable
        Makes a `SendingAssociation` for a peer; it is connected here.
    crew : Crew, optional
        Drives the loops of destinations; without it, `step` itself sends what is due.
    traces : TraceExporter, optional
        Takes the route of each delivered report.
    look : callable, optional
        Returns why a peer that calls a report a duplicate may not have it, empty where it has it
        (`dimse.lookup.why_not_there`): another node may have sent it.
    """

    def __init__(
        self,
        settings: Settings,
        spool: Spool,
        ledger: Ledger,
        connect: Callable[[Peer], SendingAssociation],
        pace: Pace | None = None,
        crew: Crew | None = None,
        traces: TraceExporter | None = None,
        look: Callable[[Peer, Path | bytes], str] | None = None,
    ) -> None:
        self._traces = traces
        self._peers = settings.peers
        self._give_up = settings.delivery.give_up
        self._spool = spool
        self._ledger = ledger
        self._connect = connect
        self._look = look
        self._pace = pace or Pace()
        self._lines: dict[str, _Line] = {}
        self._breaks: dict[int, int] = {}
        self._redated_at = 0.0
        self._crew = crew
        self.clock = ledger.clock

    def take(self, settings: Settings) -> None:
        """Send to other peers; an object that is under way gets there, and what waits is tried."""
        self._peers = settings.peers
        self._wake_deliveries()

    def loop(self) -> Loop:
        """Return the loop that looks for what is due; it waits for no destination."""
        self._wake_deliveries()
        return Loop("delivery", self.step, self.clock, self._ledger.watch())

    def step(self) -> float:
        """Try everything that is due; return in how many seconds there may be more."""
        for name in self._due_destinations():
            if self._crew is None:
                self._drain_destination(name)
            elif not self._crew.has(_loop_name(name)) and self._ledger.turns.take(_loop_name(name)):
                self._crew.add(self._loop_to(name))
        if self._crew is None:
            for name, line in self._lines.items():
                line.close()
                self._ledger.turns.give_back(_loop_name(name))
        return self._wait_time()

    def _wake_deliveries(self) -> None:
        """Try at once what waits: the peers in the settings may be others than before."""
        try:
            self._ledger.deliveries.wake(SENDER, *self._peers)
        except Transient as exc:
            logger.warning("delivery waits: %s", exc)

    def _due_destinations(self) -> list[str]:
        """Return the destinations with something to send now, whatever the clock was before."""
        now = self.clock.wall()
        if not 0 <= now - self._redated_at < REDATE_S:
            self._ledger.deliveries.redate()
            self._redated_at = now
        return self._ledger.deliveries.due_destinations()

    def _loop_to(self, name: str) -> Loop:
        """Return a loop that sends to one destination, and ends a little after the last object."""
        until = self.clock.monotonic() + self._pace.idle

        def step() -> float | None:
            nonlocal until
            if self._drain_destination(name):
                until = self.clock.monotonic() + self._pace.idle
            return LOOK_S if self.clock.monotonic() < until else None

        def close() -> None:
            if line := self._lines.pop(name, None):
                line.close()
            self._ledger.turns.give_back(_loop_name(name))

        watch = self._ledger.watch()
        return Loop(_loop_name(name), step, self.clock, watch, rests=False, on_end=close)

    def _drain_destination(self, name: str) -> int:
        """Send what is due to one destination; return how many were dealt with.

        Of several nodes on one ledger one sends there at a time, or each object would go twice.
        """
        count = 0
        seen: set[int] = set()
        if not self._ledger.turns.take(_loop_name(name)):
            return 0
        while count < TURN and (self._crew is None or not self._crew.is_ending()):
            if name not in self._ledger.deliveries.due_destinations():
                break
            due = self._ledger.deliveries.due(destination=name)
            # each once in a turn: what was put off by no time at all would come again for ever
            due = [delivery for delivery in due if delivery.id not in seen]
            if not due:
                break
            seen |= {delivery.id for delivery in due}
            count += len(due)
            if not self._send_all(name, due):
                break
        if count:
            self._ledger.deliveries.make_durable()
        return count

    def _send_all(self, name: str, due: Sequence[DueDelivery]) -> bool:
        """Send these; return whether the destination is still there for more."""
        if name == SENDER:
            for delivery in due:
                self._find_sender(delivery)
            return True
        peer = self._peers.get(name)
        if peer is None:
            reason = f"{name} is no longer in [peers]; add it again"
            self._ledger.deliveries.hold(name, reason, self.clock.wall() + self._pace.silent[1])
            return False
        line = self._line_to_peer(name, peer)
        for delivery in due:
            # asked before each object: a person who holds a destination wants it now
            if self._ledger.holds.is_held("destination", name):
                return False
            try:
                if line.ensure(_proposed_classes(peer, due)):
                    self._ledger.deliveries.resume(name)
                self._send_delivery(line, peer, delivery)
            except _Broken as exc:
                self._put_behind(delivery, exc)
                self._hold_destination(name, line, exc)
                return False
            except (Transient, Refused) as exc:
                self._hold_destination(name, line, exc)
                return False
        return True

    def _line_to_peer(self, name: str, peer: Peer) -> _Line:
        """Return the line to a destination, a fresh line where the peer is no longer the same."""
        line = self._lines.get(name)
        if line is None or line.peer != peer:
            if line is not None:
                line.close()
            line = self._lines[name] = _Line(peer, self._connect(peer))
        return line

    def _send_delivery(self, line: _Line, peer: Peer, delivery: DueDelivery) -> None:
        if delivery.kind == NOTE and not self._may_hide(line, delivery):
            return
        stored = self._choose_object(line, peer, delivery)
        if stored is None:
            wanted = "the SR SOP class settled on" if delivery.chosen else "no SOP class of it"
            accepted = "no longer accepts" if delivery.chosen else "accepts"
            self._put_off_refused(delivery, f"{delivery.destination} {accepted} {wanted}", None)
            return
        if not stored.file:
            # retention has removed it, before this destination was named: no later try finds it
            self._ledger.deliveries.give_up(delivery.id, f"given up: {REMOVED_REPORT}")
            logger.error(
                "given up sop=%s destination=%s: %s",
                delivery.sop_instance_uid,
                delivery.destination,
                REMOVED_REPORT,
            )
            return
        began = self.clock.monotonic()
        try:
            status = line.destination.store(self._object_content(stored))
        except Transient as exc:
            raise _Broken(str(exc)) from exc
        except MismatchedAnswer as exc:
            self._put_off_refused(delivery, str(exc), None)
            return
        except (OSError, NotFound, NotUnderstood) as exc:
            # what it says of a file may hold its path, and this is shown on pages
            reason = f"its file cannot be read: {type(exc).__name__}"
            if CUT_OFF in str(exc):
                reason = "its file is cut off"
            self._put_off_refused(delivery, f"{reason}; replay the Instance", None)
            return
        ms = (self.clock.monotonic() - began) * 1000
        # "duplicate" is success where an attempt of ours may have arrived without an answer
        is_there = is_stored(status, was_sent_before=delivery.unanswered > 0)
        if not is_there:
            reason = f"{delivery.destination} answered {meaning(status)}"
            if self._look and read_status(status).kind is StatusKind.DUPLICATE:
                line.close()  # a peer may allow one association at a time
                why = self._look(peer, self._object_content(stored))
                is_there, reason = not why, f"{reason} and {why}"
        if not is_there:
            self._put_off_refused(delivery, reason, status)
            return
        ask_at = self.clock.wall() + self._pace.gather if peer.storage_commitment else 0.0
        self._ledger.deliveries.delivered(delivery.id, status, ms, ask_at)
        self._breaks.pop(delivery.id, None)
        logger.info(
            "delivered sop=%s destination=%s status=0x%04X ms=%.0f",
            delivery.sop_instance_uid,
            delivery.destination,
            status,
            ms,
            extra={"job": delivery.job},
        )
        if self._traces is not None:
            self._export_trace(self._traces, delivery)

    def _export_trace(self, traces: TraceExporter, delivery: DueDelivery) -> None:
        """Hand the route of what was delivered to OpenTelemetry; nothing waits for that."""
        trace = self._ledger.history.trace(delivery.job)
        said = {"chexfract.job": delivery.job, "chexfract.destination": delivery.destination}
        traces.export(delivery.job, trace.stages, said)

    def _may_hide(self, line: _Line, delivery: DueDelivery) -> bool:
        """Return whether the old report may be hidden now: the new one is there before it goes."""
        name, ledger = delivery.destination, self._ledger.deliveries
        state = ledger.report_state(delivery.job, name)
        if state in UNSENT:
            reason = f"{name} has no report yet that replaces the old one"
            next_at = self.clock.wall() + self._pace.refused[0]
            ledger.postpone(delivery.id, reason, next_at, counts=False)
        elif state not in (*TAKEN, DeliveryState.SETTLED):
            ledger.withhold(delivery.id, f"{name} did not get the report that replaces it")
        elif not any(line.destination.accepts(stored.sop_class_uid) for stored in delivery.objects):
            reason = f"{name} takes no Key Object Selection Documents; the old report stays visible"
            ledger.withhold(delivery.id, reason)
        else:
            return True
        return False

    def _choose_object(self, line: _Line, peer: Peer, delivery: DueDelivery) -> ReportFile | None:
        """Return what to send, settled in the ledger before the first attempt."""
        by_class = {stored.sop_class_uid: stored for stored in delivery.objects}
        wanted = [SR_CLASSES[name] for name in peer.sop_classes]
        order = wanted if delivery.kind == "sr" else list(by_class)
        usable = [
            by_class[uid] for uid in order if uid in by_class and line.destination.accepts(uid)
        ]
        if delivery.chosen:
            chosen = [s for s in delivery.objects if s.sop_instance_uid == delivery.chosen]
            usable = [s for s in chosen if line.destination.accepts(s.sop_class_uid)]
        if not usable:
            return None
        # on the disk before the first byte goes: another class later would be a second report
        settled = self._ledger.deliveries.choose(delivery.id, usable[0].sop_instance_uid)
        return next((s for s in usable if s.sop_instance_uid == settled), None)

    def _object_content(self, stored: ReportFile) -> Path | bytes:
        """Return an object's file, or the bytes of a report in another class than is kept."""
        path = self._spool.path(stored.file)
        if not stored.is_recast:
            return path
        return recast(path.read_bytes(), stored.sop_class_uid, stored.sop_instance_uid)

    def _put_off_refused(self, delivery: DueDelivery, reason: str, status: int | None) -> None:
        """Put one object off: the destination is there and does not take it."""
        age = self.clock.wall() - delivery.created_at
        if self._give_up and delivery.created_at and age >= self._give_up:
            self._ledger.deliveries.give_up(delivery.id, f"given up: {reason}")
            logger.error(
                "given up sop=%s destination=%s after %.0f s: %s",
                delivery.sop_instance_uid,
                delivery.destination,
                age,
                reason,
            )
            return
        wait = self._pace.after_refusals(delivery.attempts)
        self._ledger.deliveries.postpone(
            delivery.id, reason, self.clock.wall() + wait, counts=True, status=status
        )
        logger.warning(
            "not delivered sop=%s attempts=%d next=%.0fs: %s",
            delivery.sop_instance_uid,
            delivery.attempts + 1,
            wait,
            reason,
        )

    def _put_behind(self, delivery: DueDelivery, exc: Exception) -> None:
        """Let the others go first: an object that breaks each association may not hold them up."""
        count = self._breaks.get(delivery.id, 0)
        self._breaks[delivery.id] = count + 1
        wait = self._pace.after_silence(count) if count else 0.0
        self._ledger.deliveries.postpone(
            delivery.id, str(exc), self.clock.wall() + wait, counts=False
        )

    def _hold_destination(self, name: str, line: _Line, exc: Exception) -> None:
        """Hold a whole destination: it does not answer; this costs no attempt."""
        line.close()
        failures = self._ledger.deliveries.destination(name).failures
        wait = self._pace.after_silence(failures)
        self._ledger.deliveries.hold(name, str(exc), self.clock.wall() + wait)
        if failures == 0:
            logger.warning("held destination=%s: %s", name, exc)

    def _find_sender(self, delivery: DueDelivery) -> None:
        peers = self._peers
        # Whoever showed the certificate of a peer was known by it when the Instance came.
        caller = who_calls(peers, delivery.calling_ae, delivery.calling_host, certificate=b"")
        if caller.name is not None:
            kinds = peers[caller.name].objects
            self._ledger.deliveries.redirect(delivery.job, caller.name, kinds)
            return
        reason = unknown_sender(delivery.calling_ae, delivery.calling_host, caller.problem)
        wait = self._pace.refused[1]  # until other peers are known: they wake it
        self._ledger.deliveries.postpone(
            delivery.id, reason, self.clock.wall() + wait, counts=False
        )

    def _wait_time(self) -> float:
        """Return how long nothing can become due by time alone, in seconds."""
        due = self._ledger.deliveries.next_due()
        return 5.0 if due is None else max(LOOK_S, min(5.0, due - self.clock.wall()))


class _Broken(Transient):
    """An association broke while an object was being sent."""


class _Line:
    """The association to a destination and what it was asked for."""

    def __init__(self, peer: Peer, destination: SendingAssociation) -> None:
        self.peer = peer
        self.destination = destination
        self._proposed: frozenset[str] = frozenset()
        self._is_open = False

    def ensure(self, sop_classes: Sequence[str]) -> bool:
        """Associate, unless an association that proposed all of these is open; True if it did."""
        if self._is_open and self._proposed.issuperset(sop_classes):
            return False
        self.close()
        self.destination.connect(sop_classes)
        self._proposed, self._is_open = frozenset(sop_classes), True
        return True

    def close(self) -> None:
        """Release the association."""
        if self._is_open:
            self._is_open = False
            try:
                self.destination.close()
            except (ChexFractError, OSError) as exc:
                logger.debug("closing an association: %s", exc)


def _loop_name(destination: str) -> str:
    """Return the name of the loop that sends there, and of its turn."""
    return f"deliver-{destination}"


def _proposed_classes(peer: Peer, due: Sequence[DueDelivery]) -> list[str]:
    """Return what to propose: every SR SOP class in the peer's order, then what is due."""
    classes = [SR_CLASSES[name] for name in peer.sop_classes]
    classes += [stored.sop_class_uid for delivery in due for stored in delivery.objects]
    return list(dict.fromkeys(classes))


def _doubled_wait(bounds: tuple[float, float], count: int) -> float:
    first, longest = bounds
    return float(min(first * 2.0 ** min(count, 32), longest))
