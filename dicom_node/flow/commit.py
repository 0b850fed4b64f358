"""Delivered objects become committed: destinations are asked, and what they lack is sent again."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol, Self

from dicom_node.base.errors import Refused, Transient
from dicom_node.dimse import CommitmentAnswer, Question
from dicom_node.flow.deliver import Pace
from dicom_node.flow.loop import Crew, Loop
from dicom_node.settings import Peer, Settings
from dicom_node.standard.status import DUPLICATE_TRANSACTION, meaning
from dicom_node.store.ledger import Ledger, Uncommitted

logger = logging.getLogger(__name__)

LINGER_S = 5.0
"""Time that the association stays open for an answer on it."""

LOOK_S = 0.5
"""Seconds between two looks at what is due."""


class AskingAssociation(Protocol):
    """An association to ask on; as `dimse.commitment.CommitmentAssociation`."""

    def connect(self) -> None:
        """Associate; `Unreachable`, or `Refused` where no commitment is offered."""

    def ask(self, question: Question) -> None:
        """Send the request; `Unreachable`, or `Refused` with the status."""

    def wait(self, seconds: float, ends: Callable[[], bool]) -> bool:
        """Return whether the answer came on this association."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc_info: object) -> None: ...


def keeper(ledger: Ledger, pace: Pace) -> Callable[[CommitmentAnswer], bool]:
    """Return what keeps an answer in the ledger; False for an unknown transaction."""

    def keep(answer: CommitmentAnswer) -> bool:
        # A duplicate transaction is the question's fault, not the object's: it is asked again.
        faults = {uid: code for uid, code in answer.failed.items() if code != DUPLICATE_TRANSACTION}
        failed = {uid: meaning(code) for uid, code in faults.items()}
        return ledger.commitments.answer(
            answer.transaction_uid, answer.committed, failed, pace.after_refusals, answer.by
        )

    return keep


class Committer:
    """Asks each destination to commit to what it was sent, one loop and association for each.

    Parameters
    ----------
    connect : callable
        Makes an `AskingAssociation` for a peer; it is connected here.
    crew : Crew, optional
        Drives the loops of destinations; without it, `step` itself asks.
    """

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        connect: Callable[[Peer], AskingAssociation],
        pace: Pace | None = None,
        linger_s: float = LINGER_S,
        crew: Crew | None = None,
    ) -> None:
        self._peers = settings.peers
        self._ledger = ledger
        self._connect = connect
        self._pace = pace or Pace()
        self._linger_s = linger_s
        self._silences: dict[str, int] = {}
        self._held_until: dict[str, float] = {}
        self._crew = crew
        self.clock = ledger.clock

    def take(self, settings: Settings) -> None:
        """Ask other peers from the next question on."""
        self._peers = settings.peers

    def loop(self) -> Loop:
        """Return the loop that looks for what is due; it waits for no destination."""
        watch = self._ledger.watch()
        return Loop("storage commitment", self.step, self.clock, watch, rest_s=LOOK_S)

    def step(self) -> float:
        """Ask for everything that is due; return in how many seconds there may be more."""
        for name, wanted in self._ledger.commitments.due().items():
            if self._crew is None:
                self._ask_peer(name, wanted)
            elif not (self._is_held(name) or self._crew.has(f"commit-{name}")):
                self._crew.add(self._loop_to(name))
        return self._rest_time()

    def _is_held(self, name: str) -> bool:
        return self._held_until.get(name, 0.0) > self.clock.monotonic()

    def _rest_time(self) -> float:
        """Return how long nothing can become due by time alone, in seconds."""
        due = self._ledger.commitments.next_due()
        return 5.0 if due is None else max(LOOK_S, min(5.0, due - self.clock.wall()))

    def _loop_to(self, name: str) -> Loop:
        """Return a loop that asks one destination once; after a fault it asks again."""
        turn = f"commit-{name}"

        def step() -> None:
            if not self._ledger.turns.take(turn):
                return  # another node on this ledger asks there
            if wanted := self._ledger.commitments.due().get(name):
                self._ask_peer(name, wanted)

        return Loop(turn, step, self.clock, on_end=lambda: self._ledger.turns.give_back(turn))

    def _is_ending(self) -> bool:
        return self._crew is not None and self._crew.is_ending()

    def _ask_peer(self, name: str, wanted: Sequence[Uncommitted]) -> None:
        peer = self._peers.get(name)
        if peer is None or not peer.storage_commitment:
            reason = f"{name} is no longer asked for storage commitment"
            self._ledger.commitments.put_off(wanted, reason, None)
            return
        question = Question(
            f"2.25.{uuid.uuid4().int}",
            tuple((delivered.sop_class_uid, delivered.sop_instance_uid) for delivered in wanted),
        )
        try:
            with self._connect(peer) as line:
                line.connect()
                # Recorded first: the answer may be here before the response to the question.
                wait = self._pace.before_asking_again
                self._ledger.commitments.ask(question.transaction_uid, wanted, wait)
                self._silences.pop(name, None)
                line.ask(question)
                line.wait(self._linger_s, self._is_ending)
        except Refused as exc:
            logger.warning("no storage commitment of %s: %s", name, exc)
            self._ledger.commitments.put_off(wanted, str(exc), self._pace.before_asking_again)
        except Transient as exc:
            wait_s = self._hold_peer(name)
            if self._silences[name] == 1:
                logger.warning("storage commitment of %s waits: %s", name, exc)
            self._ledger.commitments.put_off(wanted, str(exc), partial(_after_asks, wait_s))

    def _hold_peer(self, name: str) -> float:
        count = self._silences.get(name, 0)
        wait = self._pace.after_silence(count)
        self._silences[name] = count + 1
        self._held_until[name] = self.clock.monotonic() + wait
        return wait


def _after_asks(seconds: float, _asks: int) -> float:
    return seconds
