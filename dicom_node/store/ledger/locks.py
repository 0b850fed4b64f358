"""In which order the rows of several deliveries are locked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dicom_node.store.schema import deliveries, jobs


def lock_deliveries(
    connection: Connection, which: sa.ColumnElement[bool], values: Mapping[str, Any] = {}
) -> None:
    """Lock some deliveries, then their jobs, before several are changed (PostgreSQL).

    A delivery's trigger locks its job. Whoever changes one has that order, and whoever changes
    many locks each kind by its ids, then destinations: else two would wait for each other.
    """
    if connection.dialect.name == "sqlite":
        return
    mine = sa.select(deliveries.c.id).where(which).order_by(deliveries.c.id)
    connection.execute(mine.with_for_update(key_share=True), values)
    of_these = jobs.c.id.in_(sa.select(deliveries.c.job).where(which))
    theirs = sa.select(jobs.c.id).where(of_these).order_by(jobs.c.id)
    connection.execute(theirs.with_for_update(key_share=True), values)
