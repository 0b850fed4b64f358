"""Who made results: model, version, device and options, each kept once and named by its number."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dicom_node.base.job import Result
from dicom_node.store.ledger.database import Database, fetch, write
from dicom_node.store.ledger.kept_results import load_result
from dicom_node.store.schema import instances, jobs, makers, workers

EVERY_S = 60.0
"""Seconds between two notes of the last result of a maker, or of the last claim of a worker."""


def _made_by(name: str) -> sa.Label[str]:
    """Return a column of a job's maker; a job of before 0006 has its own."""
    found = sa.select(makers.c[name]).where(makers.c.id == jobs.c.maker_id).scalar_subquery()
    return sa.func.coalesce(found, jobs.c[name]).label(name)


MODEL_VERSION = _made_by("model_version")
DEVICE_UID = _made_by("device_uid")

OPTIONS = (
    sa.select(makers.c.options).where(makers.c.id == jobs.c.maker_id).scalar_subquery()
).label("options")
"""None for a job of before 0006: its result has them."""

JOB_COLUMNS: tuple[sa.ColumnElement[Any], ...] = (
    *(column for column in jobs.c if column.name not in ("model_version", "device_uid")),
    MODEL_VERSION,
    DEVICE_UID,
)
"""All of a job, with what its maker says; what `views.ResultView.of` wants is among them."""


_KEY = ("model", "model_version", "device_uid", "demonstration", "options")

_NUMBER = sa.select(makers.c.id).where(*(makers.c[n] == sa.bindparam(f"its_{n}") for n in _KEY))
_NOTE = (
    makers.update()
    .where(makers.c.id == sa.bindparam("number"), makers.c.last_at < sa.bindparam("now"))
    .values(last_at=sa.bindparam("now"))
)


class _Statements:
    """What is written for most results and claims, in the words of one database."""

    def __init__(self, database: Database) -> None:
        self.add = database.insert(makers).on_conflict_do_nothing()
        new = database.insert(workers)
        self.note_worker = new.on_conflict_do_update(
            index_elements=[workers.c.name], set_={"claimed_at": new.excluded.claimed_at}
        )


class Makers:
    """Finds the number of a maker, and notes when makers and workers were last active."""

    def __init__(self, database: Database) -> None:
        self._statements = database.once(_Statements)
        self._known: dict[tuple[Any, ...], int] = {}
        self._noted: dict[int | str, float] = {}

    def number(self, connection: Connection, result: Result, now: float) -> int:
        """Return the number of who made `result`, in the transaction that records it."""
        key = {name: getattr(result, name) for name in _KEY}
        number = self._known.get(tuple(key.values()))
        if number is None:
            asked = {f"its_{name}": value for name, value in key.items()}
            found = fetch(connection, _NUMBER, asked)
            if not found:
                # Not remembered: this transaction may fail, and its row with it.
                write(connection, self._statements.add, [key | {"last_at": now}], is_whole=False)
                found = fetch(connection, _NUMBER, asked)
                return int(found[0].id) if found else 0
            number = self._known[tuple(key.values())] = int(found[0].id)
        if self.is_due(number, now):
            write(connection, _NOTE, [{"number": number, "now": now}])
        return number

    def note_claim(self, connection: Connection, worker: str, now: float) -> None:
        """Note that a worker has claimed a job; where it `is_due`."""
        claimed = {"name": worker, "claimed_at": now}
        write(connection, self._statements.note_worker, [claimed], is_whole=False)

    def is_due(self, who: int | str, now: float) -> bool:
        """Return whether a maker's last result or a worker's last claim is to be noted, once."""
        if abs(now - self._noted.get(who, 0.0)) < EVERY_S:
            return False
        if len(self._noted) > _MOST_NOTED:
            self._noted.clear()
        self._noted[who] = now
        return True


def name_makers(
    database: Database, connection: Connection, of_instances: sa.ColumnElement[bool]
) -> int:
    """Name the makers of results of before 0006 by their numbers; return how many results.

    Parameters
    ----------
    of_instances : condition
        Which Instances, by an indexed column of theirs.
    """
    columns = (jobs.c.id, jobs.c.model, jobs.c.model_version, jobs.c.device_uid)
    query = (
        sa.select(*columns, jobs.c.demonstration, jobs.c.result, jobs.c.ended_at)
        .join(instances, instances.c.sop_instance_uid == jobs.c.sop_instance_uid)
        .where(of_instances, jobs.c.maker_id.is_(None), jobs.c.model_version != "")
    )
    made: dict[tuple[Any, ...], list[Any]] = {}
    for row in connection.execute(query):
        if row.result:
            options = str(load_result(row.result).get("options") or "")
            key = (row.model, row.model_version, row.device_uid, row.demonstration, options)
            made.setdefault(key, []).append(row)
    for key, rows in made.items():
        values = dict(zip(_KEY, key, strict=True))
        connection.execute(
            database.insert(makers).on_conflict_do_nothing(), values | {"last_at": 0.0}
        )
        same = sa.and_(*(makers.c[name] == value for name, value in values.items()))
        number = connection.scalar(sa.select(makers.c.id).where(same))
        last = max(row.ended_at for row in rows)
        later = makers.update().where(makers.c.id == number, makers.c.last_at < last)
        connection.execute(later.values(last_at=last))
        # a trigger counts each, so it is named once
        is_open = jobs.c.id.in_([row.id for row in rows]) & jobs.c.maker_id.is_(None)
        connection.execute(jobs.update().where(is_open).values(maker_id=number))
    return sum(map(len, made.values()))


_MOST_NOTED = 1000
