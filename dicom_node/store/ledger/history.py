"""What people ask: one Instance's trace, the state of the whole, the last arrivals."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from dicom_node.base.errors import NotFound
from dicom_node.store.clock import Clock
from dicom_node.store.ledger.database import Database, append, event
from dicom_node.store.ledger.states import (
    OPEN,
    TAKEN,
    UNSENT,
)
from dicom_node.store.schema import (
    conflicts,
    deliveries,
    destinations,
    events,
    instances,
    jobs,
    objects,
)


class History:
    """The read side."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def trace(self, ident: str) -> dict[str, Any]:
        """Return all that happened to an Instance, in order.

        Parameters
        ----------
        ident : str
            SOP Instance UID of an Instance or of a report, Study Instance UID, accession number
            or job id. Where it names several Instances, the last received one is told and ``also``
            lists the others.

        Raises
        ------
        NotFound
            Nothing has this name.
        """
        with self._database.reading() as connection:
            uids = find_instances(connection, ident)
            told = _trace(connection, uids[0])
        return told | {"also": uids[1:]}

    def status(self, at: float | None = None) -> dict[str, Any]:
        """Return counts by state, what waits and since when, and how destinations do."""
        now = self._clock.moment(at)
        with self._database.reading() as connection:
            oldest = connection.scalar(
                sa.select(sa.func.min(jobs.c.received_at)).where(jobs.c.state.in_(OPEN))
            )
            return {
                "at": now,
                "instances": _count(connection, instances.c.state),
                "jobs": _count(connection, jobs.c.state),
                "deliveries": _count(connection, deliveries.c.state),
                "conflicts": connection.scalar(sa.select(sa.func.count()).select_from(conflicts)),
                "oldest_open_s": 0.0 if oldest is None else max(0.0, now - oldest),
                "models": _models(connection),
                "destinations": _destinations(connection, now),
            }

    def recent(
        self, limit: int = 50, search: str = "", state: str = "", offset: int = 0
    ) -> list[dict[str, Any]]:
        """Return the last received Instances, newest first, one row per job.

        Parameters
        ----------
        search : str
            Part of a patient id, a patient name or an accession number, or a whole UID.
        state : str
            ``ignored``, a state of a job, ``delivered``, ``committed`` or ``undelivered``.
        """
        query = (
            sa.select(
                instances,
                jobs.c.id.label("job"),
                jobs.c.model,
                jobs.c.generation,
                jobs.c.rule,
                jobs.c.mode,
                jobs.c.state.label("job_state"),
                jobs.c.reason.label("job_reason"),
                jobs.c.attempts,
                jobs.c.ended_at,
                jobs.c.demonstration,
                jobs.c.result,
            )
            .outerjoin(jobs, jobs.c.sop_instance_uid == instances.c.sop_instance_uid)
            .order_by(instances.c.received_at.desc(), jobs.c.generation.desc(), jobs.c.model)
            .limit(limit)
            .offset(offset)
        )
        if search:
            query = query.where(_matches(search))
        if state:
            query = query.where(_in_state(state))
        with self._database.reading() as connection:
            rows = connection.execute(query).all()
            sent = _deliveries_of(connection, [row.job for row in rows if row.job])
        return [_recent(row, sent.get(row.job, [])) for row in rows]

    def conflicts(self, limit: int = 100) -> list[dict[str, Any]]:
        """Return Instances that came under a known UID with other content, newest first."""
        with self._database.reading() as connection:
            rows = connection.execute(
                sa.select(conflicts).order_by(conflicts.c.received_at.desc()).limit(limit)
            ).all()
        return [dict(row._mapping) for row in rows]

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
        with self._database.reading() as connection:
            return [dict(row._mapping) for row in connection.execute(query)]

    def note(self, stage: str, detail: str, at: float | None = None) -> None:
        """Keep an event that belongs to no Instance."""
        with self._database.writing() as connection:
            append(connection, [event("", stage, self._clock.moment(at), detail=detail, ms=0.0)])

    def newest_event(self) -> int:
        """Return the ``id`` of the last event, 0 when nothing ever happened."""
        with self._database.reading() as connection:
            return int(connection.scalar(sa.select(sa.func.max(events.c.id))) or 0)

    def stage_times(self, after: int, until: int) -> list[tuple[str, float]]:
        """Return stage and milliseconds of the events in ``(after, until]`` that took time."""
        query = sa.select(events.c.stage, events.c.ms).where(
            events.c.id > after, events.c.id <= until, events.c.ms.is_not(None)
        )
        with self._database.reading() as connection:
            return [(str(stage), float(ms)) for stage, ms in connection.execute(query)]

    def last_event(self) -> float:
        """Return when something last happened, 0 when nothing ever did."""
        with self._database.reading() as connection:
            found = connection.scalar(sa.select(events.c.at).order_by(events.c.id.desc()).limit(1))
        return float(found or 0.0)


def find_instances(connection: Connection, ident: str) -> list[str]:
    """Return SOP Instance UIDs that `ident` names, the last received first; see `trace`."""
    uid = instances.c.sop_instance_uid
    queries = (
        sa.select(uid).where(uid == ident),
        sa.select(jobs.c.sop_instance_uid).where(jobs.c.id == ident),
        sa.select(jobs.c.sop_instance_uid).join(objects).where(objects.c.sop_instance_uid == ident),
        sa.select(uid)
        .where((instances.c.study_instance_uid == ident) | (instances.c.accession_number == ident))
        .order_by(instances.c.received_at.desc()),
    )
    if ident:
        for query in queries:
            if found := list(dict.fromkeys(connection.scalars(query))):
                return found
    raise NotFound(f"nothing is known of {ident[:64]!r}")


def _trace(connection: Connection, uid: str) -> dict[str, Any]:
    def all_of(query: sa.Select[Any]) -> Sequence[Row[Any]]:
        return connection.execute(query).all()

    instance = connection.execute(
        sa.select(instances).where(instances.c.sop_instance_uid == uid)
    ).one()
    job_rows = all_of(
        sa.select(jobs)
        .where(jobs.c.sop_instance_uid == uid)
        .order_by(jobs.c.received_at, jobs.c.model)
    )
    ids = [row.id for row in job_rows]
    object_rows = all_of(sa.select(objects).where(objects.c.job.in_(ids)))
    delivery_rows = all_of(
        sa.select(deliveries).where(deliveries.c.job.in_(ids)).order_by(deliveries.c.id)
    )
    event_rows = all_of(
        sa.select(events).where(events.c.sop_instance_uid == uid).order_by(events.c.id)
    )
    conflict_rows = all_of(sa.select(conflicts).where(conflicts.c.sop_instance_uid == uid))
    told = [_job(row) for row in job_rows]
    last = told[-1] if told else None
    return {
        "sop_instance_uid": uid,
        "state": _state(
            instance.state,
            last["state"] if last else None,
            [row.state for row in delivery_rows if last and row.job == last["job"]],
        ),
        "instance": dict(instance._mapping),
        "jobs": told,
        "objects": [dict(row._mapping) for row in object_rows],
        "deliveries": [dict(row._mapping) for row in delivery_rows],
        "conflicts": [dict(row._mapping) for row in conflict_rows],
        "stages": _stages(event_rows),
    }


def _stages(rows: Sequence[Row[Any]]) -> list[dict[str, Any]]:
    """Return each stage with when it ended and how long it took, in milliseconds."""
    told: list[dict[str, Any]] = []
    before = rows[0].at if rows else 0.0
    for row in rows:
        ms = row.ms if row.ms is not None else max(0.0, (row.at - before) * 1000)
        told.append(
            {
                "stage": row.stage,
                "at": row.at,
                "ms": round(ms, 3),
                "job": row.job,
                "detail": row.detail,
            }
        )
        before = row.at
    return told


def _job(row: Row[Any]) -> dict[str, Any]:
    told = dict(row._mapping)
    told["job"] = told.pop("id")
    del told["token"]  # a token is the right to the job: it stays inside
    told["send_to"] = json.loads(told["send_to"])
    told["report_order"] = json.loads(told["report_order"])
    told["result"] = json.loads(told["result"]) if told["result"] else None
    return told


def _state(instance: str, job: str | None, sent: Sequence[str]) -> str:
    """Return one word for how far an Instance has come."""
    if job is None:
        return instance
    if job not in ("reported", "rejected") or not sent:
        return job
    if any(state in UNSENT for state in sent):
        return "retrying" if "retrying" in sent else job
    if "sent" in sent:
        return "delivered"
    return "committed" if "committed" in sent else job


def _count(connection: Connection, column: sa.ColumnElement[str]) -> dict[str, int]:
    rows = connection.execute(sa.select(column, sa.func.count()).group_by(column)).all()
    return {str(state): int(count) for state, count in rows}


def _models(connection: Connection) -> dict[str, dict[str, int]]:
    rows = connection.execute(
        sa.select(jobs.c.model, jobs.c.state, sa.func.count()).group_by(jobs.c.model, jobs.c.state)
    ).all()
    told: dict[str, dict[str, int]] = {}
    for model, state, count in rows:
        told.setdefault(model, {})[state] = count
    return told


def _destinations(connection: Connection, now: float) -> list[dict[str, Any]]:
    waiting: dict[str, tuple[int, float]] = {
        name: (count, oldest)
        for name, count, oldest in connection.execute(
            sa.select(
                deliveries.c.destination,
                sa.func.count(),
                sa.func.min(deliveries.c.created_at),
            )
            .where(deliveries.c.state.in_(UNSENT))
            .group_by(deliveries.c.destination)
        )
    }
    awaited = connection.execute(
        sa.select(deliveries.c.destination, sa.func.count())
        .where(deliveries.c.ask_at > 0, deliveries.c.state == "sent")
        .group_by(deliveries.c.destination)
    )
    uncommitted: dict[str, int] = {row[0]: row[1] for row in awaited}
    lines = {row.name: row for row in connection.execute(sa.select(destinations)).all()}
    told = []
    for name in sorted({*waiting, *lines, *uncommitted}):
        count, oldest = waiting.get(name, (0, now))
        line = lines.get(name)
        told.append(
            {
                "name": name,
                "waiting": count,
                "oldest_s": max(0.0, now - oldest),
                "uncommitted": uncommitted.get(name, 0),
                "failures": line.failures if line else 0,
                "held_until": line.held_until if line else 0.0,
                "reason": line.reason if line else "",
            }
        )
    return told


def _matches(search: str) -> sa.ColumnElement[bool]:
    uids = (
        instances.c.sop_instance_uid,
        instances.c.study_instance_uid,
        instances.c.series_instance_uid,
        jobs.c.id,
    )
    texts = (instances.c.patient_id, instances.c.patient_name, instances.c.accession_number)
    return sa.or_(
        *(column == search for column in uids),
        *(column.icontains(search, autoescape=True) for column in texts),
    )


def _in_state(state: str) -> sa.ColumnElement[bool]:
    unsent = sa.exists().where(deliveries.c.job == jobs.c.id, deliveries.c.state.in_(UNSENT))
    sent = sa.exists().where(deliveries.c.job == jobs.c.id, deliveries.c.state.in_(TAKEN))
    if state == "delivered":
        return sent & ~unsent
    if state == "committed":
        only = sa.exists().where(deliveries.c.job == jobs.c.id, deliveries.c.state == "sent")
        return sent & ~unsent & ~only
    if state in ("undelivered", "retrying", "pending"):
        return unsent
    if state == "ignored":
        return instances.c.state == state
    return jobs.c.state == state


def _deliveries_of(connection: Connection, ids: Sequence[str]) -> dict[str, list[Row[Any]]]:
    found: dict[str, list[Row[Any]]] = {}
    for row in connection.execute(
        sa.select(deliveries).where(deliveries.c.job.in_(ids)).order_by(deliveries.c.id)
    ):
        found.setdefault(row.job, []).append(row)
    return found


def _recent(row: Row[Any], sent: Sequence[Row[Any]]) -> dict[str, Any]:
    told = dict(row._mapping)
    result = json.loads(told.pop("result") or "null")
    waits = next((d.reason for d in sent if d.state in UNSENT and d.reason), "")
    told["state"] = _state(row.state, row.job_state, [d.state for d in sent])
    told["reason"] = waits or row.job_reason or row.reason
    told["text"] = result["text"] if result else None
    told["presence"] = result["presence"] if result else None
    told["because"] = "" if waits or not result else (result["reason"] or {}).get("text", "")
    told["ms"] = sum(result["stages_ms"].values()) if result else None
    told["deliveries"] = [
        {"destination": d.destination, "kind": d.kind, "state": d.state, "reason": d.reason}
        for d in sent
    ]
    return told
