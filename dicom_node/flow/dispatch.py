"""From the ledger to the workers: a bounded window of hand-outs, in order, until each is done."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from dicom_node.base.errors import Transient
from dicom_node.base.job import Handout, Ticket
from dicom_node.flow.loop import POLL_S, Loop
from dicom_node.settings import Settings
from dicom_node.store.ledger import Ledger, Waiting

logger = logging.getLogger(__name__)

Publish = Callable[[Handout, int], None]

REDATE_S = 5.0
"""Seconds between two looks for times that were written by a clock which was ahead."""

SHARES = 4
"""A backlog is spread over at least this many hand-outs, so that several workers get some."""

_PAUSE_S = (0.25, 5.0)
"""First and longest wait after the broker refused, doubling."""


class Dispatcher:
    """Hands out what waits, and takes back what nobody finished in time.

    Parameters
    ----------
    publish : callable
        Puts a hand-out, with its priority (0 stat, 1 normal, 2 low), into its model's queue;
        raises `Transient` when the broker does not take it.
    """

    def __init__(self, settings: Settings, ledger: Ledger, publish: Publish) -> None:
        self._node = settings.jobs_url
        self._limits = settings.dispatch
        self._ledger = ledger
        self._publish = publish
        self._silent: dict[str, _Silence] = {}
        self._redated_at = 0.0
        self.clock = ledger.clock
        self._jumps = self.clock.jumps()
        self._ahead = 0.0

    def loop(self) -> Loop:
        """Return the loop that dispatches: it waits for nothing longer than the ledger's lock."""
        return Loop("dispatch", self.step, self.clock, self._ledger.watch())

    def step(self) -> float:
        """Do what is due; return in how many seconds there may be more, unless something changes.

        Raises
        ------
        Unreachable, OutOfResources
            The ledger gives no answer.
        """
        self._keep_leases()
        now = self.clock.wall()
        # negative after the clock was set back: then, of all times, it has to be looked at
        if not 0 <= now - self._redated_at < REDATE_S:
            self._ledger.jobs.redate()
            self._redated_at = now
        expired = self._ledger.jobs.expire(self._limits.attempts)
        if expired.queued or expired.running or expired.failed:
            logger.info(
                "taken back queued=%d running=%d failed=%d",
                expired.queued,
                expired.running,
                expired.failed,
            )
        for model, waiting in self._ledger.jobs.waiting().items():
            silence = self._silent.get(model)
            # a silence that ends later than any pause lasts was noted by a clock that was ahead
            if silence and now < silence.until <= now + _PAUSE_S[1]:
                continue
            try:
                self._hand_out(model, waiting)
                self._silent.pop(model, None)
            except _BrokerSilent as exc:
                self._back_off(model, exc, now)
        return self._pause_time(now)

    def _keep_leases(self) -> None:
        """Move held jobs along when the clock was set ahead: their workers go by other clocks."""
        self._ahead += self._jumps.since_last()
        if self._ahead > 0:
            self._ledger.jobs.extend_leases(self._ahead)
        self._ahead = 0.0

    def _hand_out(self, model: str, waiting: Waiting) -> None:
        """Fill the window; what is stat has one of its own, so that it never waits behind."""
        window, queued = self._limits.window, waiting.queued
        for priority, due in enumerate(waiting.due_by):
            taken = waiting.queued_by[0] if priority == 0 else queued
            room = min(window - taken, due)
            # Under a backlog room comes ticket by ticket, as workers claim them: hand-outs of one
            # would make a GPU's batches one. So it is saved up, while workers have some to take.
            if 0 < room < min(self._limits.batch, window) and room < due and taken > 0:
                continue
            if room > 0:
                # few jobs go in small hand-outs, so that several workers get some
                share = (due + taken) // SHARES
                queued += self._hand_out_some(model, priority, room, share)

    def _hand_out_some(self, model: str, priority: int, room: int, share: int) -> int:
        # not by the time at which the step began: a clock that was set back since would let a
        # ticket that nobody claims be good for as long as it was set by
        until = self.clock.wall() + self._limits.queued_for
        tickets = self._ledger.jobs.hand_out(model, room, until, priority)
        tried = self._ledger.jobs.tried(tickets)
        fresh = [ticket for ticket in tickets if ticket.job not in tried]
        size = max(1, min(self._limits.batch, share))
        # what may have killed a worker goes last and alone: it must not spoil its neighbours again
        parts = [*_ticket_parts(fresh, size), *((t,) for t in tickets if t.job in tried)]
        for i, part in enumerate(parts):
            alone = part[0].job in tried
            handout = Handout(node=self._node, model=model, tickets=part, alone=alone)
            try:
                self._publish(handout, priority)
            except Transient as exc:
                # what the broker may have got after all is void: the tokens are taken back
                self._ledger.jobs.unpublish([t for late in parts[i:] for t in late])
                raise _BrokerSilent(str(exc)) from exc
        return len(tickets)

    def _back_off(self, model: str, exc: Exception, now: float) -> None:
        """Wait before the next try for this model; another's queue may be well."""
        failures = self._silent[model].failures if model in self._silent else 0
        if failures == 0:
            logger.warning("hand-outs wait model=%s: %s", model, exc)
        pause = min(_PAUSE_S[0] * 2.0 ** min(failures, 16), _PAUSE_S[1])
        self._silent[model] = _Silence(failures + 1, now + pause)

    def _pause_time(self, now: float) -> float:
        """Return how long nothing can become due by time alone, in seconds."""
        due = self._ledger.jobs.next_due()
        times = [silence.until for silence in self._silent.values()]
        times += [] if due is None else [due]
        return max(POLL_S, min(1.0, *(t - now for t in times))) if times else 1.0


@dataclass(frozen=True, slots=True)
class _Silence:
    """Refusals of the broker in a row, and until when it is left alone."""

    failures: int
    until: float


class _BrokerSilent(Transient):
    """The broker, not the ledger, gave no answer."""


def _ticket_parts(tickets: Sequence[Ticket], size: int) -> Iterator[tuple[Ticket, ...]]:
    for start in range(0, len(tickets), size):
        yield tuple(tickets[start : start + size])
