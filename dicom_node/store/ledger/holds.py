"""What people hold back until they let it go: it waits meanwhile, and none of it is a failure.

A held destination is sent nothing. Jobs of a held model or rule are handed to nobody; those that
wait in the broker are taken back, those that a worker has are finished. A held worker gets no
further job.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, cast, get_args

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dicom_node.base.errors import NotFound
from dicom_node.store.actor import Actor
from dicom_node.store.clock import Clock
from dicom_node.store.ledger.database import Database
from dicom_node.store.ledger.locks import lock_deliveries, lock_jobs
from dicom_node.store.ledger.states import JobState
from dicom_node.store.ledger.views import View
from dicom_node.store.schema import IS_UNFINISHED, IS_UNSENT, deliveries, destinations, holds, jobs

HoldKind = Literal["destination", "model", "rule", "worker"]

HOLD_KINDS: tuple[HoldKind, ...] = get_args(HoldKind)


@dataclass(frozen=True, slots=True)
class Hold(View):
    """One thing that is held, by whom and why."""

    kind: HoldKind
    name: str
    reason: str
    held_by: str
    address: str
    since: float


class Holds:
    """Holding and letting go."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def hold(self, kind: HoldKind, name: str, by: Actor, reason: str = "") -> bool:
        """Hold something; False where it is held already, and then stays as it is."""
        now = self._clock.wall()
        row = {"kind": kind, "name": name, "reason": reason[:256], "since": now}
        row |= {"held_by": by.name, "address": by.address}
        with self._database.writing() as connection:
            statement = self._database.insert(holds).on_conflict_do_nothing()
            new = connection.execute(statement.returning(holds.c.name), row).first() is not None
            if new and kind in ("model", "rule"):
                _take_back(connection, kind, name)
        return new

    def let_go(self, kind: HoldKind, name: str) -> Hold:
        """Let something go that is held; return what was.

        Raises
        ------
        NotFound
            It is not held.
        """
        now = self._clock.wall()
        which = (holds.c.kind == kind) & (holds.c.name == name)
        with self._database.writing() as connection:
            row = connection.execute(sa.select(holds).where(which).with_for_update()).first()
            if row is None:
                raise NotFound(f"{kind} {name[:64]!r} is not held")
            connection.execute(holds.delete().where(which))
            if kind == "destination":
                _send_now(connection, name, row.since, now)
        return Hold(**row._mapping)

    def held(self) -> list[Hold]:
        """Return everything that is held, by kind and name."""
        with self._database.reading() as connection:
            rows = connection.execute(sa.select(holds).order_by(holds.c.kind, holds.c.name)).all()
        return [Hold(**row._mapping) for row in rows]

    def is_held(self, kind: HoldKind, name: str) -> bool:
        """Return whether something is held."""
        return bool(self._database.look(_IS_HELD, held_kind=kind, held_name=name))


def names_of(kind: HoldKind) -> sa.Select[tuple[str]]:
    """Return the query of what is held of one kind, for statements that leave it out."""
    return sa.select(holds.c.name).where(holds.c.kind == kind)


_IS_HELD = sa.select(holds.c.name).where(
    holds.c.kind == sa.bindparam("held_kind"), holds.c.name == sa.bindparam("held_name")
)


def _take_back(connection: Connection, kind: HoldKind, name: str) -> None:
    """Take back what waits in the broker: its tickets are stale from now on."""
    column = jobs.c.model if kind == "model" else jobs.c.rule
    waiting = sa.and_(IS_UNFINISHED, jobs.c.state == JobState.QUEUED, column == name)
    connection.execute(
        jobs.update()
        .where(lock_jobs(connection, waiting))
        .values(state=JobState.RECEIVED, token="", until=0)
    )


def _send_now(connection: Connection, name: str, since: float, now: float) -> None:
    """Let all be tried at once, none of it older by the time for which it was held."""
    waiting = sa.and_(IS_UNSENT, deliveries.c.destination == name)
    waiting = lock_deliveries(connection, waiting)
    created = deliveries.c.created_at
    later = created + (now - sa.case((created > since, created), else_=since))
    connection.execute(
        deliveries.update()
        .where(waiting)
        .values(
            created_at=sa.case((created > 0, later), else_=created),
            next_at=now,
            dated_at=now,
        )
    )
    connection.execute(
        destinations.update()
        .where(destinations.c.name == name)
        .values(failures=0, held_until=0, reason="", changed_at=now)
    )


def known_kind(text: str, known: Collection[HoldKind] = HOLD_KINDS) -> HoldKind:
    """Return a word as a kind.

    Raises
    ------
    NotFound
        Nothing of this kind can be held.
    """
    if text not in known:
        raise NotFound(f"{text[:32]!r} cannot be held; {', '.join(known)} can")
    return cast("HoldKind", text)
