"""Which delivered objects a destination is asked to commit to, and what it answered.

DICOM PS3.4 Annex J. The question is recorded before it is asked: its answer may come at once, to
another process, or after a restart.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from dicom_node.base.plurals import counted
from dicom_node.store.clock import Clock
from dicom_node.store.ledger.database import Database, fetch, write
from dicom_node.store.ledger.deliveries import IS_SENT, commit_delivery, settle_delivery
from dicom_node.store.ledger.events import Details, NewEvent, Stage, append
from dicom_node.store.ledger.holds import names_of
from dicom_node.store.ledger.locks import lock_deliveries
from dicom_node.store.ledger.states import DeliveryState
from dicom_node.store.ledger.variants import CHOSEN_UID, IS_CHOSEN
from dicom_node.store.schema import IS_ASKED, commitments, deliveries, jobs, objects


@dataclass(frozen=True, slots=True)
class Uncommitted:
    """One delivered object; ``asks`` counts how often its commitment was asked for already."""

    delivery: int
    job: str
    source: str
    destination: str
    kind: str
    sop_class_uid: str
    sop_instance_uid: str
    asks: int
    reason: str


# What is asked many times a second is built once: building took longer than asking.

_IS_FREE = deliveries.c.destination.not_in(names_of("destination"))
_IS_ASKED = sa.and_(IS_SENT, IS_ASKED, _IS_FREE)
_IS_DUE = _IS_ASKED & (deliveries.c.ask_at <= sa.bindparam("now"))
_DUE_DESTINATIONS = sa.select(deliveries.c.destination).where(_IS_DUE).distinct()
_NEXT_DUE = sa.select(sa.func.min(deliveries.c.ask_at)).where(_IS_ASKED)
_DUE = (
    sa.select(
        deliveries.c.id,
        deliveries.c.job,
        jobs.c.sop_instance_uid,
        deliveries.c.destination,
        deliveries.c.kind,
        objects.c.sop_class_uid,
        objects.c.sop_instance_uid,
        deliveries.c.asks,
        deliveries.c.reason,
    )
    .join(jobs, jobs.c.id == deliveries.c.job)
    .join(objects, IS_CHOSEN)
    .where(deliveries.c.destination == sa.bindparam("destination"), _IS_DUE)
    .order_by(deliveries.c.ask_at, deliveries.c.id)
    .limit(sa.bindparam("most"))
)
_OF_TRANSACTION = commitments.c.transaction_uid == sa.bindparam("transaction")
_ASKED = (
    sa.select(
        commitments.c.ended_at.label("answered_at"),
        commitments.c.attempts.label("asked_after"),
        deliveries,
        CHOSEN_UID.label("chosen"),
    )
    .join(deliveries, deliveries.c.id == commitments.c.delivery)
    .where(_OF_TRANSACTION)
)
_IS_OF_TRANSACTION = deliveries.c.id.in_(sa.select(commitments.c.delivery).where(_OF_TRANSACTION))
_ADD = commitments.insert()
_END = (
    commitments.update()
    .where(_OF_TRANSACTION, commitments.c.ended_at == 0)
    .values(ended_at=sa.bindparam("now"))
)


class Commitments:
    """The side of storage commitment."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def due(self, limit_per_destination: int = 100) -> dict[str, list[Uncommitted]]:
        """Return what a commitment is to be asked for now, by destination."""
        now = self._clock.wall()
        # without a value: PostgreSQL plans a question about "until now" again each time it is asked
        first = self.next_due()
        if first is None or first > now:
            return {}
        names = [str(name) for (name,) in self._database.look(_DUE_DESTINATIONS, now=now)]
        with self._database.reading() as connection:
            return {
                name: _due_objects(connection, name, now, limit_per_destination) for name in names
            }

    def next_due(self) -> float | None:
        """Return when the next commitment is to be asked for; None when none is."""
        ((found,),) = self._database.look(_NEXT_DUE)
        return None if found is None else float(found)

    def ask(
        self,
        transaction_uid: str,
        wanted: Sequence[Uncommitted],
        wait: Callable[[int], float],
    ) -> None:
        """Record that a transaction asks for these.

        Parameters
        ----------
        wait : callable
            Takes how often it was asked for before; returns in how many seconds it is asked for
            again unless there is an answer.
        """
        now = self._clock.wall()
        with self._database.writing() as connection:
            events = []
            for delivered in sorted(wanted, key=attrgetter("delivery")):  # one order of locks
                asked = f"not committed yet: asked {counted(delivered.asks + 1, 'time')}"
                values = {
                    "asks": delivered.asks + 1,
                    "ask_at": now + wait(delivered.asks),
                    "dated_at": now,
                    "reason": asked if delivered.asks else "storage commitment asked for",
                }
                row = settle_delivery(connection, delivered.delivery, (DeliveryState.SENT,), values)
                if row is None:
                    continue
                question = {
                    "transaction_uid": transaction_uid,
                    "delivery": delivered.delivery,
                    "attempts": row.attempts,
                    "asked_at": now,
                }
                write(connection, _ADD, [question], is_whole=False)
                if not delivered.asks:
                    detail = Details(kind=delivered.kind, destination=delivered.destination)
                    events.append(
                        NewEvent(delivered.source, Stage.ASKED, now, delivered.job, detail)
                    )
            append(connection, events)

    def put_off(
        self,
        wanted: Sequence[Uncommitted],
        reason: str,
        wait: Callable[[int], float] | None,
    ) -> None:
        """Record why these could not be asked for, and when to try again; None: never."""
        now = self._clock.wall()
        with self._database.writing() as connection:
            events = []
            for delivered in sorted(wanted, key=attrgetter("delivery")):  # one order of locks
                ask_at = 0.0 if wait is None else now + wait(delivered.asks)
                values = {"ask_at": ask_at, "dated_at": now, "reason": reason}
                row = settle_delivery(connection, delivered.delivery, (DeliveryState.SENT,), values)
                if row is not None and reason != delivered.reason:
                    detail = Details(
                        kind=delivered.kind, destination=delivered.destination, reason=reason
                    )
                    events.append(
                        NewEvent(delivered.source, Stage.UNCOMMITTED, now, delivered.job, detail)
                    )
            append(connection, events)

    def answer(
        self,
        transaction_uid: str,
        committed: Collection[str],
        failed: Mapping[str, str],
        wait: Callable[[int], float],
        by: Collection[str] | None = None,
    ) -> bool:
        """Record what a destination answered; False for a transaction that nobody began with it.

        A failed object is sent again. The same answer again changes nothing.

        Parameters
        ----------
        committed : collection of str
            SOP Instance UIDs.
        failed : mapping
            Reasons by SOP Instance UID.
        wait : callable
            Takes how often an object was refused before; returns in how many seconds it is sent.
        by : collection of str, optional
            Destinations as which the host that answers is known.
        """
        now = self._clock.wall()
        with self._database.writing() as connection:
            asked = {"transaction": transaction_uid}
            lock_deliveries(connection, _IS_OF_TRANSACTION, asked)
            rows = fetch(connection, _ASKED, asked)
            # a transaction has one destination: of another peer's word nothing is believed
            if by is not None and any(row.destination not in by for row in rows):
                return False
            for row in rows:
                if row.chosen in committed:
                    commit_delivery(connection, row.id, now)
                elif row.chosen in failed:
                    self._send_again(connection, row, failed[row.chosen], wait, now)
            write(connection, _END, [{"transaction": transaction_uid, "now": now}])
        return bool(rows)

    def _send_again(
        self,
        connection: Connection,
        row: Row[Any],
        reason: str,
        wait: Callable[[int], float],
        now: float,
    ) -> None:
        # Not for an answer that came before, and not for an answer about an earlier attempt.
        if row.answered_at or row.asked_after != row.attempts:
            return
        why = f"{row.destination} does not commit: {reason}"
        values = {
            "state": DeliveryState.RETRYING,
            "reason": why,
            "attempts": row.attempts + 1,
            "next_at": now + wait(row.attempts),
            "dated_at": now,
            "ask_at": 0.0,
            "ended_at": 0.0,
        }
        settled = settle_delivery(connection, row.id, (DeliveryState.SENT,), values)
        if settled is not None:
            details = Details(kind=row.kind, destination=row.destination, reason=why)
            append(connection, [NewEvent(settled.source, Stage.RETRYING, now, row.job, details)])


def _due_objects(connection: Connection, name: str, now: float, limit: int) -> list[Uncommitted]:
    asked = {"destination": name, "now": now, "most": limit}
    return [Uncommitted(*row) for row in fetch(connection, _DUE, asked)]
