"""From the ledger to the archives: each object once settled, retried for days, never given up."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from dicom_node.base.errors import ChexFractError, NotFound, NotUnderstood, Refused, Transient
from dicom_node.peers import unknown_sender, who_calls
from dicom_node.settings import SENDER, Peer, Settings
from dicom_node.settings import Delivery as Waits
from dicom_node.standard.sr_classes import SR_CLASSES
from dicom_node.standard.status import is_stored, meaning
from dicom_node.store.ledger import DueDelivery, Ledger, ReportFile
from dicom_node.store.spool import Spool

logger = logging.getLogger(__name__)


POLL_S = 0.02
"""Seconds between two looks at whether the ledger has changed; a look costs microseconds."""

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
        return _doubled(self.refused, count)

    def after_silence(self, count: int) -> float:
        """Return the wait after `count` earlier attempts without an answer."""
        return _doubled(self.silent, count)

    def before_asking_again(self, count: int) -> float:
        """Return the wait for an answer after `count` earlier questions."""
        return _doubled(self.uncommitted, count)


class Destination(Protocol):
    """An association to one peer that is used again; `dimse.scu.Destination` is one."""

    def connect(self, sop_classes: Sequence[str]) -> None:
        """Associate, proposing these SOP classes; `Unreachable` when that fails."""

    def accepts(self, sop_class_uid: str) -> bool:
        """Return whether the peer accepted this SOP class."""

    def store(self, path: Path) -> int:
        """Send one object and return the status; `Unreachable` when the association breaks."""

    def close(self) -> None:
        """Release the association."""


class Deliverer:
    """Sends what is due, one thread and one association per destination.

    Parameters
    ----------
    connect : callable
        Makes a `Destination` for a peer; it is connected here.
    """

    def __init__(
        self,
        settings: Settings,
        spool: Spool,
        ledger: Ledger,
        connect: Callable[[Peer], Destination],
        pace: Pace | None = None,
    ) -> None:
        self._peers = settings.peers
        self._give_up = settings.delivery.give_up
        self._spool = spool
        self._ledger = ledger
        self._connect = connect
        self._pace = pace or Pace()
        self._lines: dict[str, _Line] = {}
        self._breaks: dict[int, int] = {}
        self._redated_at = 0.0
        self.turned_at = time.monotonic()
        """When the loop last turned; its threads wait for destinations, it does not."""

    def take(self, settings: Settings) -> None:
        """Send to other peers; an object that is under way gets there, and what waits is tried."""
        self._peers = settings.peers
        self._wake()

    def step(self, now: float | None = None) -> float:
        """Try everything that is due once; return in how many seconds there may be more."""
        for name in self._due(_moment(now)):
            self._drain(name, now)
        for line in self._lines.values():
            line.close()
        return self._wait(_moment(now))

    def run(self, stop: threading.Event) -> None:
        """Deliver until `stop` is set; every trouble is waited out."""
        self._wake()
        watch = self._ledger.watch()
        threads: dict[str, threading.Thread] = {}
        again = 0.0
        while not stop.is_set():
            self.turned_at = time.monotonic()
            if not watch.changed() and time.monotonic() < again:
                stop.wait(POLL_S)
                continue
            try:
                for name in self._due(time.time()):
                    if name not in threads or not threads[name].is_alive():
                        threads[name] = self._thread(name, stop)
                again = time.monotonic() + self._wait(time.time())
            except Transient as exc:
                logger.warning("delivery waits: %s", exc)
                again = time.monotonic() + 1.0
                stop.wait(1.0)
            # It rests as long as it worked: under load it may not take the processor from workers.
            stop.wait(max(POLL_S, min(1.0, time.monotonic() - self.turned_at)))
        for thread in threads.values():
            thread.join(timeout=5)
        watch.close()

    def _wake(self) -> None:
        """Try at once what waits: the peers in the settings may be others than before."""
        try:
            for name in (SENDER, *self._peers):
                self._ledger.deliveries.wake(name)
        except Transient as exc:
            logger.warning("delivery waits: %s", exc)

    def _due(self, now: float) -> list[str]:
        """Return the destinations with something to send now, whatever the clock was before."""
        if not 0 <= now - self._redated_at < REDATE_S:
            self._ledger.deliveries.redate(now)
            self._redated_at = now
        return self._ledger.deliveries.due_destinations(now)

    def _thread(self, name: str, stop: threading.Event) -> threading.Thread:
        thread = threading.Thread(
            target=self._serve, args=(name, stop), name=f"deliver-{name}", daemon=True
        )
        thread.start()
        return thread

    def _serve(self, name: str, stop: threading.Event) -> None:
        """Send to one destination while there is something to send, and a little longer."""
        watch = self._ledger.watch()
        until = time.monotonic() + self._pace.idle
        try:
            look = 0.0
            while not stop.is_set() and time.monotonic() < until:
                if watch.changed() or time.monotonic() > look:
                    look = time.monotonic() + LOOK_S
                    if self._drain(name, None, stop):
                        until = time.monotonic() + self._pace.idle
                stop.wait(POLL_S)
        except Transient as exc:
            logger.warning("delivery to %s waits: %s", name, exc)
        except Exception:  # a thread's rim: the loop starts another one
            logger.exception("delivery to %s ended; it starts again", name)
            stop.wait(1.0)
        finally:
            watch.close()
            if line := self._lines.pop(name, None):
                line.close()

    def _drain(self, name: str, now: float | None, stop: threading.Event | None = None) -> int:
        """Send what is due to one destination; return how many were dealt with."""
        count = 0
        seen: set[int] = set()
        while stop is None or not stop.is_set():
            at = _moment(now)
            if name not in self._ledger.deliveries.due_destinations(at):
                break
            due = self._ledger.deliveries.due(at, destination=name)
            due = [delivery for delivery in due if delivery.id not in seen]
            if not due:
                break
            seen |= {delivery.id for delivery in due}
            count += len(due)
            if not self._send_all(name, due, now):
                break
        return count

    def _send_all(self, name: str, due: Sequence[DueDelivery], now: float | None) -> bool:
        """Send these; return whether the destination is still there for more."""
        if name == SENDER:
            for delivery in due:
                self._find_sender(delivery, now)
            return True
        peer = self._peers.get(name)
        if peer is None:
            reason = f"{name} is no longer in [peers]; add it again"
            self._ledger.deliveries.hold(name, reason, _moment(now) + self._pace.silent[1], now)
            return False
        line = self._line(name, peer)
        for delivery in due:
            try:
                if line.ensure(_classes(peer, due)):
                    self._ledger.deliveries.resume(name, now)
                self._send(line, peer, delivery, now)
            except _Broken as exc:
                self._put_behind(delivery, exc, now)
                self._hold(name, line, exc, now)
                return False
            except (Transient, Refused) as exc:
                self._hold(name, line, exc, now)
                return False
        return True

    def _line(self, name: str, peer: Peer) -> _Line:
        """Return the line to a destination, a fresh one where the peer is no longer the same."""
        line = self._lines.get(name)
        if line is None or line.peer != peer:
            if line is not None:
                line.close()
            line = self._lines[name] = _Line(peer, self._connect(peer))
        return line

    def _send(self, line: _Line, peer: Peer, delivery: DueDelivery, now: float | None) -> None:
        stored = self._choose(line, peer, delivery)
        if stored is None:
            wanted = "the SR SOP class settled on" if delivery.chosen else "no SOP class of it"
            accepted = "no longer accepts" if delivery.chosen else "accepts"
            self._refused(delivery, f"{delivery.destination} {accepted} {wanted}", None, now)
            return
        if not stored.file:
            self._refused(delivery, "its file is gone; replay the Instance", None, now)
            return
        began = time.monotonic()
        try:
            status = line.destination.store(self._spool.path(stored.file))
        except Transient as exc:
            raise _Broken(str(exc)) from exc
        except (OSError, NotFound, NotUnderstood) as exc:
            self._refused(delivery, f"its file cannot be read: {type(exc).__name__}", None, now)
            return
        ms = (time.monotonic() - began) * 1000
        if not is_stored(status, was_sent_before=delivery.unanswered > 0):
            reason = f"{delivery.destination} answered {meaning(status)}"
            self._refused(delivery, reason, status, now)
            return
        ask_at = _moment(now) + self._pace.gather if peer.storage_commitment else 0.0
        self._ledger.deliveries.delivered(delivery.id, status, now, ms, ask_at)
        self._breaks.pop(delivery.id, None)
        logger.info(
            "delivered sop=%s destination=%s status=0x%04X ms=%.0f",
            delivery.sop_instance_uid,
            delivery.destination,
            status,
            ms,
        )

    def _choose(self, line: _Line, peer: Peer, delivery: DueDelivery) -> ReportFile | None:
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
        settled = self._ledger.deliveries.choose(delivery.id, usable[0].sop_instance_uid)
        return next((s for s in usable if s.sop_instance_uid == settled), None)

    def _refused(
        self, delivery: DueDelivery, reason: str, status: int | None, now: float | None
    ) -> None:
        """Put one object off: the destination is there and does not take it."""
        age = _moment(now) - delivery.created_at
        if self._give_up and delivery.created_at and age >= self._give_up:
            self._ledger.deliveries.give_up(delivery.id, f"given up: {reason}", now)
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
            delivery.id, reason, _moment(now) + wait, counts=True, status=status, at=now
        )
        logger.warning(
            "not delivered sop=%s attempts=%d next=%.0fs: %s",
            delivery.sop_instance_uid,
            delivery.attempts + 1,
            wait,
            reason,
        )

    def _put_behind(self, delivery: DueDelivery, exc: Exception, now: float | None) -> None:
        """Let the others go first: an object that breaks each association may not hold them up."""
        count = self._breaks.get(delivery.id, 0)
        self._breaks[delivery.id] = count + 1
        wait = self._pace.after_silence(count) if count else 0.0
        self._ledger.deliveries.postpone(
            delivery.id, str(exc), _moment(now) + wait, counts=False, at=now
        )

    def _hold(self, name: str, line: _Line, exc: Exception, now: float | None) -> None:
        """Hold a whole destination: it does not answer; this costs no attempt."""
        line.close()
        failures = self._ledger.deliveries.destination(name).failures
        wait = self._pace.after_silence(failures)
        self._ledger.deliveries.hold(name, str(exc), _moment(now) + wait, now)
        if failures == 0:
            logger.warning("held destination=%s: %s", name, exc)

    def _find_sender(self, delivery: DueDelivery, now: float | None) -> None:
        peers = self._peers
        # Whoever showed the certificate of a peer was known by it when the Instance came.
        caller = who_calls(peers, delivery.calling_ae, delivery.calling_host, certificate=b"")
        if caller.name is not None:
            kinds = peers[caller.name].objects
            self._ledger.deliveries.redirect(delivery.job, caller.name, kinds, now)
            return
        reason = unknown_sender(delivery.calling_ae, delivery.calling_host, caller.problem)
        wait = self._pace.refused[1]  # until other peers are known: they wake it
        self._ledger.deliveries.postpone(
            delivery.id, reason, _moment(now) + wait, counts=False, at=now
        )

    def _wait(self, now: float) -> float:
        """Return how long nothing can become due by time alone, in seconds."""
        due = self._ledger.deliveries.next_due(now)
        return 5.0 if due is None else max(LOOK_S, min(5.0, due - now))


class _Broken(Transient):
    """An association broke while an object was being sent."""


class _Line:
    """The association to a destination and what it was asked for."""

    def __init__(self, peer: Peer, destination: Destination) -> None:
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


def _classes(peer: Peer, due: Sequence[DueDelivery]) -> list[str]:
    """Return what to propose: every SR SOP class in the peer's order, then what is due."""
    classes = [SR_CLASSES[name] for name in peer.sop_classes]
    classes += [stored.sop_class_uid for delivery in due for stored in delivery.objects]
    return list(dict.fromkeys(classes))


def _doubled(bounds: tuple[float, float], count: int) -> float:
    first, longest = bounds
    return float(min(first * 2.0 ** min(count, 32), longest))


def _moment(now: float | None) -> float:
    return time.time() if now is None else now
