"""What operators take out of the ledger: results in bulk, and who works."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from dicom_node.store.ledger.database import Database, append, event, moment
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

    def pulse(self, since: float, received_since: float) -> dict[str, Any]:
        """Return what ended since then, how long it took, and which workers took work.

        Parameters
        ----------
        since : float
            Seconds since the epoch.
        received_since : float
            Jobs that are older than this are not looked at: the whole ledger would be slow.

        Returns
        -------
        dict
            ``ended``: jobs by state; ``seconds``: from receipt to result, ascending;
            ``workers``: names of those that claimed a job.
        """
        query = sa.select(
            jobs.c.state, jobs.c.received_at, jobs.c.started_at, jobs.c.ended_at, jobs.c.worker
        ).where(jobs.c.received_at >= received_since)
        with self.reading() as connection:
            rows = connection.execute(query).all()
        ended = [row for row in rows if row.ended_at >= since]
        return {
            "ended": dict(Counter(str(row.state) for row in ended)),
            "seconds": sorted(row.ended_at - row.received_at for row in ended),
            "workers": sorted(
                {row.worker for row in rows if row.worker and row.started_at >= since}
            ),
        }

    def events_after(
        self, after: int, limit: int, stages: Sequence[str] = ()
    ) -> list[dict[str, Any]]:
        """Return events in the order in which they were kept, with the facts of their Instance.

        Parameters
        ----------
        after : int
            The ``id`` of the last event that the caller knows; 0 begins at the first.
        stages : sequence of str
            Only these; empty: all.
        """
        facts = ("patient_id", "study_instance_uid", "sop_class_uid", "calling_ae", "calling_host")
        query = (
            sa.select(events, *(instances.c[name] for name in facts))
            .outerjoin(instances, instances.c.sop_instance_uid == events.c.sop_instance_uid)
            .where(events.c.id > after)
            .order_by(events.c.id)
            .limit(limit)
        )
        if stages:
            query = query.where(events.c.stage.in_(stages))
        with self.reading() as connection:
            return [dict(row._mapping) for row in connection.execute(query)]

    def note(self, stage: str, detail: str, at: float | None = None) -> None:
        """Keep an event that belongs to no Instance."""
        with self.writing() as connection:
            append(connection, [event("", stage, moment(at), detail=detail, ms=0.0)])

    def versions(self, since: float) -> dict[str, list[dict[str, Any]]]:
        """Return the versions of each model that made results since then, the last one first."""
        last = sa.func.max(jobs.c.ended_at)
        query = (
            sa.select(
                jobs.c.model,
                jobs.c.model_version,
                jobs.c.demonstration,
                jobs.c.device_uid,
                sa.func.count().label("results"),
                last.label("last_at"),
            )
            .where(jobs.c.received_at >= since, jobs.c.model_version != "")
            .group_by(jobs.c.model, jobs.c.model_version, jobs.c.demonstration, jobs.c.device_uid)
            .order_by(last.desc())
        )
        told: dict[str, list[dict[str, Any]]] = {}
        with self.reading() as connection:
            for row in connection.execute(query):
                told.setdefault(str(row.model), []).append(dict(row._mapping))
        return told

    def newest_event(self) -> int:
        """Return the ``id`` of the last event, 0 when nothing ever happened."""
        with self.reading() as connection:
            return int(connection.scalar(sa.select(sa.func.max(events.c.id))) or 0)

    def stage_times(self, after: int, until: int) -> list[tuple[str, float]]:
        """Return stage and milliseconds of the events in ``(after, until]`` that took time."""
        query = sa.select(events.c.stage, events.c.ms).where(
            events.c.id > after, events.c.id <= until, events.c.ms.is_not(None)
        )
        with self.reading() as connection:
            return [(str(stage), float(ms)) for stage, ms in connection.execute(query)]

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
