"""In which order rows are locked: deliveries, jobs, Instances, conflicts, destinations; by ids.

A delivery's trigger locks its job. Whoever changes one has that order, and whoever changes many
locks each kind by its ids first. Else two would wait for each other. SQLite has one writer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dicom_node.store.schema import deliveries, destinations, instances, jobs


def lock_deliveries(
    connection: Connection, which: sa.ColumnElement[bool], values: Mapping[str, Any] = {}
) -> sa.ColumnElement[bool]:
    """Lock some deliveries, then their jobs; return the condition of what is locked.

    There may be more by the time at which they are: their jobs would be locked before them.
    """
    if connection.dialect.name == "sqlite":
        return which
    mine = sa.select(deliveries.c.id, deliveries.c.job).where(which).order_by(deliveries.c.id)
    rows = connection.execute(mine.with_for_update(key_share=True), values).all()
    _lock_jobs(connection, jobs.c.id == _any_of({row.job for row in rows}, sa.String))
    return sa.and_(which, deliveries.c.id == _any_of([row.id for row in rows], sa.Integer))


def lock_jobs(
    connection: Connection, which: sa.ColumnElement[bool], values: Mapping[str, Any] = {}
) -> sa.ColumnElement[bool]:
    """Lock some jobs of which no delivery is changed; return the condition of what is locked."""
    if connection.dialect.name == "sqlite":
        return which
    made = _lock_jobs(connection, which, values)
    return sa.and_(which, jobs.c.id == _any_of(made, sa.String))


def lock_instances(
    connection: Connection, uids: Sequence[str], *, with_deliveries: bool = False
) -> None:
    """Lock some Instances behind all their jobs; no job comes to them until this ends.

    Parameters
    ----------
    with_deliveries : bool
        Lock the deliveries of these jobs as well, before them; then none is made either.
    """
    if connection.dialect.name == "sqlite":
        return
    of_these = jobs.c.sop_instance_uid == _any_of(uids, sa.String)
    theirs = deliveries.c.job.in_(sa.select(jobs.c.id).where(of_these))
    number = instances.c.number
    last = sa.select(number).where(instances.c.sop_instance_uid == _any_of(uids, sa.String))
    while True:
        tried = connection.begin_nested()
        sent: Sequence[int] = ()
        if with_deliveries:
            first = sa.select(deliveries.c.id).where(theirs).order_by(deliveries.c.id)
            sent = connection.scalars(first.with_for_update(key_share=True)).all()
        made = _lock_jobs(connection, of_these)
        connection.execute(last.order_by(number).with_for_update())
        more: sa.ColumnElement[bool] = sa.exists().where(
            of_these, jobs.c.id != _all_of(made, sa.String)
        )
        if with_deliveries:
            more |= sa.exists().where(theirs, deliveries.c.id != _all_of(sent, sa.Integer))
        if not connection.scalar(sa.select(more)):
            tried.commit()
            return
        # One was made between two of these locks, and would be locked in the wrong order: all are
        # let go, and locked once more.
        tried.rollback()


def lock_destinations(
    connection: Connection, which: sa.ColumnElement[bool], values: Mapping[str, Any] = {}
) -> None:
    """Lock some destinations, behind their deliveries, before several are changed."""
    if connection.dialect.name != "sqlite":
        name = destinations.c.name
        mine = sa.select(name).where(which).order_by(name)
        connection.execute(mine.with_for_update(key_share=True), values)


def _lock_jobs(
    connection: Connection, which: sa.ColumnElement[bool], values: Mapping[str, Any] = {}
) -> Sequence[str]:
    mine = sa.select(jobs.c.id).where(which).order_by(jobs.c.id)
    return connection.scalars(mine.with_for_update(key_share=True), values).all()


def _any_of(values: Any, kind: type[sa.types.TypeEngine[Any]]) -> Any:
    return sa.any_(sa.cast(list(values), sa.ARRAY(kind)))


def _all_of(values: Any, kind: type[sa.types.TypeEngine[Any]]) -> Any:
    return sa.all_(sa.cast(list(values), sa.ARRAY(kind)))
