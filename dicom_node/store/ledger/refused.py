"""Callers that were refused within the last day: who, why and how often."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from dicom_node.store.clock import Clock
from dicom_node.store.ledger.database import Database
from dicom_node.store.schema import refused_callers

KEPT_S = 86400.0
"""Time for which a refusal is shown after it was last seen."""
MOST_ROWS = 2000


@dataclass(frozen=True, slots=True)
class RefusedCaller:
    """A caller that was refused; times are seconds since the epoch."""

    ae_title: str
    address: str
    called_ae: str
    reason: str
    count: int
    first_at: float
    last_at: float


class RefusedCallers:
    """Counts of refused callers."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def add(self, counts: Sequence[Any]) -> None:
        """Add counts (`dimse.refusals.Refusal`), and forget what is older than a day."""
        now = self._clock.wall()
        new = self._database.insert(refused_callers)
        keys = list(refused_callers.primary_key.columns)
        statement = new.on_conflict_do_update(
            index_elements=keys,
            set_={
                "count": refused_callers.c.count + new.excluded.count,
                "last_at": new.excluded.last_at,
            },
        )
        columns = [column.name for column in refused_callers.c]
        with self._database.writing() as connection:
            old = refused_callers.c.last_at < now - KEPT_S
            connection.execute(refused_callers.delete().where(old))
            count = connection.scalar(sa.select(sa.func.count()).select_from(refused_callers)) or 0
            if count < MOST_ROWS:
                rows = [{name: getattr(refusal, name) for name in columns} for refusal in counts]
                connection.execute(statement, rows)

    def recent(self, limit: int = 50) -> list[RefusedCaller]:
        """Return who was refused within the last day, the last first."""
        since = self._clock.wall() - KEPT_S
        with self._database.reading() as connection:
            rows = connection.execute(
                sa.select(refused_callers)
                .where(refused_callers.c.last_at >= since)
                .order_by(refused_callers.c.last_at.desc())
                .limit(limit)
            ).all()
        return [RefusedCaller(**row._mapping) for row in rows]
