"""Delivered objects become committed: destinations are asked, and what they lack is sent again."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol, Self

from dicom_node.base.errors import Refused, Transient
from dicom_node.dimse import Answer, Question
from dicom_node.flow.deliver import Pace
from dicom_node.settings import Peer, Settings
from dicom_node.standard.status import DUPLICATE_TRANSACTION, meaning
from dicom_node.store.ledger import Ledger, Uncommitted

logger = logging.getLogger(__name__)

LINGER_S = 5.0
"""Time that the association stays open for an answer on it."""

LOOK_S = 0.5
"""Seconds between two looks at what is due."""


class Line(Protocol):
    """An association to ask on; `dimse.commitment.Line` is one."""

    def connect(self) -> None:
        """Associate; `Unreachable`, or `Refused` where no commitment is offered."""

    def ask(self, question: Question) -> None:
        """Send the request; `Unreachable`, or `Refused` with the status."""

    def wait(self, seconds: float, ends: Callable[[], bool]) -> bool:
        """Return whether the answer came on this association."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc_info: object) -> None: ...


def keeper(ledger: Ledger, pace: Pace) -> Callable[[Answer], bool]:
    """Return what keeps an answer in the ledger; False for an unknown transaction."""

    def keep(answer: Answer) -> bool:
        # A duplicate transaction is the question's fault, not the object's: it is asked again.
        faults = {uid: code for uid, code in answer.failed.items() if code != DUPLICATE_TRANSACTION}
        failed = {uid: meaning(code) for uid, code in faults.items()}
        return ledger.commitments.answer(
            answer.transaction_uid, answer.committed, failed, pace.after_refusals
        )

    return keep


class Committer:
    """Asks each destination to commit to what it was sent, one thread and association for each.

    Parameters
    ----------
    connect : callable
        Makes a `Line` for a peer; it is connected here.
    """

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        connect: Callable[[Peer], Line],
        pace: Pace | None = None,
        linger_s: float = LINGER_S,
    ) -> None:
        self._peers = settings.peers
        self._ledger = ledger
        self._connect = connect
        self._pace = pace or Pace()
        self._linger_s = linger_s
        self._silences: dict[str, int] = {}
        self._held_until: dict[str, float] = {}
        self._stop = threading.Event()

    def take(self, settings: Settings) -> None:
        """Ask other peers from the next question on."""
        self._peers = settings.peers

    def step(self, now: float | None = None) -> int:
        """Ask for everything that is due once; return how many objects that was."""
        due = self._ledger.commitments.due(_moment(now))
        for name, wanted in due.items():
            self._ask(name, wanted, now)
        return sum(len(wanted) for wanted in due.values())

    def run(self, stop: threading.Event) -> None:
        """Ask until `stop` is set; every trouble is waited out."""
        self._stop = stop
        threads: dict[str, threading.Thread] = {}
        watch = self._ledger.watch()
        again = 0.0
        while not stop.wait(LOOK_S):
            if not watch.changed() and time.monotonic() < again:
                continue
            try:
                due = self._ledger.commitments.due(time.time())
                again = time.monotonic() + self._rest()
            except Transient as exc:
                logger.warning("storage commitment waits: %s", exc)
                continue
            for name, wanted in due.items():
                held = self._held_until.get(name, 0.0) > time.monotonic()
                if not held and not (name in threads and threads[name].is_alive()):
                    threads[name] = self._thread(name, wanted)
        watch.close()

    def _rest(self) -> float:
        """Return how long nothing can become due by time alone, in seconds."""
        due = self._ledger.commitments.next_due()
        return 5.0 if due is None else max(LOOK_S, min(5.0, due - time.time()))

    def _thread(self, name: str, wanted: Sequence[Uncommitted]) -> threading.Thread:
        thread = threading.Thread(
            target=self._guarded, args=(name, wanted), name=f"commit-{name}", daemon=True
        )
        thread.start()
        return thread

    def _guarded(self, name: str, wanted: Sequence[Uncommitted]) -> None:
        try:
            self._ask(name, wanted, None)
        except Transient as exc:
            logger.warning("storage commitment of %s waits: %s", name, exc)
        except Exception:  # a thread's rim: the loop starts another one
            logger.exception("storage commitment of %s ended; it starts again", name)
            self._hold(name)

    def _ask(self, name: str, wanted: Sequence[Uncommitted], now: float | None) -> None:
        peer = self._peers.get(name)
        if peer is None or not peer.storage_commitment:
            reason = f"{name} is no longer asked for storage commitment"
            self._ledger.commitments.put_off(wanted, reason, None, now)
            return
        question = Question(
            f"2.25.{uuid.uuid4().int}",
            tuple((one.sop_class_uid, one.sop_instance_uid) for one in wanted),
        )
        try:
            with self._connect(peer) as line:
                line.connect()
                # Recorded first: the answer may be here before the response to the question.
                wait = self._pace.before_asking_again
                self._ledger.commitments.ask(question.transaction_uid, wanted, wait, now)
                self._silences.pop(name, None)
                line.ask(question)
                line.wait(self._linger_s, self._stop.is_set)
        except Refused as exc:
            logger.warning("no storage commitment of %s: %s", name, exc)
            self._ledger.commitments.put_off(wanted, str(exc), self._pace.before_asking_again, now)
        except Transient as exc:
            wait_s = self._hold(name)
            if self._silences[name] == 1:
                logger.warning("storage commitment of %s waits: %s", name, exc)
            self._ledger.commitments.put_off(wanted, str(exc), partial(_after, wait_s), now)

    def _hold(self, name: str) -> float:
        count = self._silences.get(name, 0)
        wait = self._pace.after_silence(count)
        self._silences[name] = count + 1
        self._held_until[name] = time.monotonic() + wait
        return wait


def _after(seconds: float, _asks: int) -> float:
    return seconds


def _moment(now: float | None) -> float:
    return time.time() if now is None else now
