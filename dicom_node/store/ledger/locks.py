"""In which order the rows of several deliveries and destinations are locked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dicom_node.store.schema import deliveries, destinations, jobs


def lock_deliveries(
    connection: Connection,
    which: sa.ColumnElement[bool],
    values: Mapping[str, Any] = {},
    with_jobs: sa.ColumnElement[bool] | None = None,
) -> sa.ColumnElement[bool]:
    """Lock some deliveries, then their jobs; return the condition of what is locked (PostgreSQL).

    A delivery's trigger locks its job. Whoever changes one has that order, and whoever changes
    many locks each kind by its ids: deliveries, jobs, Instances, then destinations. Else two would
    wait for each other.

    Parameters
    ----------
    with_jobs : condition, optional
        Jobs that are locked with them, whether they have deliveries or not.
    """
    if connection.dialect.name == "sqlite":
        return which
    mine = sa.select(deliveries.c.id, deliveries.c.job).where(which).order_by(deliveries.c.id)
    rows = connection.execute(mine.with_for_update(key_share=True), values).all()
    # of those that are locked: there may be more by now, whose jobs would be locked before them
    of_these = jobs.c.id == sa.any_(sa.cast(list({row.job for row in rows}), sa.ARRAY(sa.String)))
    if with_jobs is not None:
        of_these |= with_jobs
    theirs = sa.select(jobs.c.id).where(of_these).order_by(jobs.c.id)
    connection.execute(theirs.with_for_update(key_share=True))
    ids = sa.cast([row.id for row in rows], sa.ARRAY(sa.Integer))
    return which & (deliveries.c.id == sa.any_(ids))


def lock_destinations(
    connection: Connection, which: sa.ColumnElement[bool], values: Mapping[str, Any] = {}
) -> None:
    """Lock some destinations, behind their deliveries, before several are changed (PostgreSQL)."""
    if connection.dialect.name != "sqlite":
        name = destinations.c.name
        mine = sa.select(name).where(which).order_by(name)
        connection.execute(mine.with_for_update(key_share=True), values)
