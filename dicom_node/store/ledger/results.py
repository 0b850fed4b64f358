"""What operators take out of the ledger: results in bulk, and who works."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from dicom_node.store.ledger.database import Database
from dicom_node.store.schema import deliveries, events, instances, jobs

_PAGE = 500


class Results(Database):
    """The read side for export and doctor."""

    def results(self, since: float, until: float) -> Iterator[dict[str, Any]]:
        """Yield each job of the Instances received in this time, oldest first.

        Parameters
        ----------
        since, until : float
            Seconds since the epoch; ``since`` is part of the time, ``until`` is not.
        """
        after: tuple[float, str] = (since, "")
        while True:
            with self.reading() as connection:
                rows = connection.execute(_page(after, until)).all()
                sent = _deliveries_of(connection, [row.job for row in rows])
            for row in rows:
                yield _result(row, sent.get(row.job, []))
            if len(rows) < _PAGE:
                return
            after = (rows[-1].received_at, rows[-1].job)

    def workers(self) -> list[dict[str, Any]]:
        """Return each worker that ever claimed a job with the time of its last claim."""
        last = sa.func.max(jobs.c.started_at)
        query = (
            sa.select(jobs.c.worker, last.label("claimed_at"))
            .where(jobs.c.worker != "")
            .group_by(jobs.c.worker)
            .order_by(last.desc())
        )
        with self.reading() as connection:
            return [dict(row._mapping) for row in connection.execute(query)]

    def last_event(self) -> float:
        """Return when something last happened, 0 when nothing ever did."""
        with self.reading() as connection:
            found = connection.scalar(sa.select(events.c.at).order_by(events.c.id.desc()).limit(1))
        return float(found or 0.0)

    def revision(self) -> str | None:
        """Return the version of the schema, None where there is no ledger yet."""
        return self._version()


def _page(after: tuple[float, str], until: float) -> sa.Select[Any]:
    at, job = instances.c.received_at, jobs.c.id
    return (
        sa.select(
            instances,
            jobs.c.id.label("job"),
            jobs.c.rule,
            jobs.c.mode,
            jobs.c.model,
            jobs.c.model_version,
            jobs.c.demonstration,
            jobs.c.generation,
            jobs.c.state.label("job_state"),
            jobs.c.reason.label("job_reason"),
            jobs.c.attempts,
            jobs.c.worker,
            jobs.c.started_at,
            jobs.c.ended_at,
            jobs.c.result,
        )
        .join(jobs, jobs.c.sop_instance_uid == instances.c.sop_instance_uid)
        .where(sa.or_(at > after[0], sa.and_(at == after[0], job > after[1])), at < until)
        .order_by(at, job)
        .limit(_PAGE)
    )


def _deliveries_of(connection: Connection, ids: Sequence[str]) -> dict[str, list[Row[Any]]]:
    found: dict[str, list[Row[Any]]] = {}
    query = sa.select(deliveries).where(deliveries.c.job.in_(ids)).order_by(deliveries.c.id)
    for row in connection.execute(query):
        found.setdefault(row.job, []).append(row)
    return found


def _result(row: Row[Any], sent: Sequence[Row[Any]]) -> dict[str, Any]:
    told = dict(row._mapping)
    told["result"] = json.loads(told["result"]) if told["result"] else {}
    told["deliveries"] = [
        {"destination": d.destination, "kind": d.kind, "state": d.state, "ended_at": d.ended_at}
        for d in sent
    ]
    return told
