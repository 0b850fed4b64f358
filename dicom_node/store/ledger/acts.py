"""What an operator does on purpose: retry, resend, replay; each leaves an event."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from dicom_node.base.errors import Busy, NotFound
from dicom_node.base.job import Predecessor
from dicom_node.store.clock import Clock
from dicom_node.store.ledger.database import Database
from dicom_node.store.ledger.events import Details, NewEvent, Stage, append
from dicom_node.store.ledger.history import find_instances
from dicom_node.store.ledger.instances import Instances, content_datetime, job_id
from dicom_node.store.ledger.orders import order_of, split_order
from dicom_node.store.ledger.states import FINAL, TAKEN, UNSENT, DeliveryState, JobState
from dicom_node.store.ledger.views import FindingJudgement
from dicom_node.store.schema import (
    deliveries,
    destinations,
    instances,
    jobs,
    judgements,
    objects,
    orders,
)


class Acts:
    """Explicit acts of the operator."""

    def __init__(self, database: Database, clock: Clock, instances: Instances) -> None:
        self._database = database
        self._clock = clock
        self._instances = instances

    def retry(self, ident: str, at: float | None = None, by: str = "") -> int:
        """Let failed jobs and waiting deliveries of an Instance, a study or a job try again now.

        Returns
        -------
        int
            How many jobs and deliveries will be tried; 0 when nothing had failed or was waiting.

        Raises
        ------
        NotFound
            Nothing has this name, or the image file is gone and has to be sent again.
        """
        now = self._clock.moment(at)
        with self._database.writing() as connection:
            rows = self._jobs_of(connection, ident)
            count = 0
            for row in rows:
                if row.state == JobState.FAILED:
                    count += self._restart(connection, row, now, by)
                elif row.state == JobState.RECEIVED and row.next_at > now:
                    count += _now(connection, row, now)
            return count + _send_now(connection, [row.id for row in rows], now)

    def retry_failed(self, at: float | None = None, by: str = "") -> int:
        """Let every failed job whose image is still here try again; return how many."""
        now = self._clock.moment(at)
        with self._database.writing() as connection:
            rows = connection.execute(
                sa.select(jobs, instances.c.file)
                .join(instances)
                .where(jobs.c.state == JobState.FAILED, instances.c.file != "")
            ).all()
            return sum(self._restart(connection, row, now, by) for row in rows)

    def resend(self, ident: str, at: float | None = None, by: str = "") -> int:
        """Send what was sent already once more: the same objects with the same UIDs.

        What is withheld stays withheld.

        Raises
        ------
        NotFound
            Nothing has this name, or the report's file is gone.
        """
        now = self._clock.moment(at)
        with self._database.writing() as connection:
            count = 0
            for row in self._jobs_of(connection, ident):
                gone = connection.scalar(
                    sa.select(objects.c.part).where(objects.c.job == row.id, objects.c.file == "")
                )
                if gone is not None:
                    raise NotFound(f"job {row.id}: retention has removed its report; replay it")
                count += _send_now(connection, [row.id], now)
                changed = connection.execute(
                    deliveries.update()
                    .where(deliveries.c.job == row.id, deliveries.c.state.in_(TAKEN))
                    .values(
                        state=DeliveryState.PENDING,
                        attempts=0,
                        next_at=now,
                        dated_at=now,
                        reason="",
                        ended_at=0,
                    )
                ).rowcount
                if changed:
                    told = Details(by=by)
                    new = NewEvent(row.sop_instance_uid, Stage.RESEND, now, row.id, told)
                    append(connection, [new])
                count += changed
        return count

    def replay(self, ident: str, at: float | None = None, by: str = "") -> tuple[str, ...]:
        """Analyse again: a new job, whose report names the last one as its predecessor.

        Returns
        -------
        tuple of str
            Ids of the new jobs, one per model.

        Raises
        ------
        NotFound
            Nothing has this name, it has no job, or the image file is gone.
        Busy
            The last job has no result yet.
        """
        now = self._clock.moment(at)
        with self._database.writing() as connection:
            newest: dict[tuple[str, str], Row[Any]] = {}
            for row in self._jobs_of(connection, ident, whole_instance=True):
                key = (row.sop_instance_uid, row.model)
                if key not in newest or row.generation > newest[key].generation:
                    newest[key] = row
            if not newest:
                raise NotFound(f"{ident[:64]!r} has no job to replay")
            for row in newest.values():
                if row.state not in FINAL:
                    raise Busy(f"job {row.id} is {row.state}; wait for its result")
                _require_file(row)
            return tuple(self._next_generation(connection, row, now, by) for row in newest.values())

    def judge(
        self,
        job: str,
        verdict: Literal["agree", "disagree"],
        by: str,
        comment: str = "",
        at: float | None = None,
        corrected_text: str = "",
        findings: Sequence[FindingJudgement] = (),
    ) -> None:
        """Keep what a reader thinks of a result, of each finding, and what it should have said.

        Raises
        ------
        NotFound
            There is no such job, or it has no result.
        """
        now = self._clock.moment(at)
        with self._database.writing() as connection:
            row = connection.execute(
                sa.select(jobs.c.sop_instance_uid, jobs.c.result).where(jobs.c.id == job)
            ).first()
            if row is None or not row.result:
                raise NotFound("there is no result to judge")
            said = [{"finding": one.finding, "verdict": one.verdict} for one in findings]
            connection.execute(
                judgements.insert().values(
                    job=job,
                    at=now,
                    reader=by,
                    verdict=verdict,
                    comment=comment,
                    corrected_text=corrected_text,
                    findings=json.dumps(said, ensure_ascii=False) if said else "",
                )
            )
            told = Details(by=by, reason=comment)
            new = NewEvent(row.sop_instance_uid, Stage(verdict), now, job, told, ms=0.0)
            append(connection, [new])

    def _jobs_of(
        self, connection: Connection, ident: str, whole_instance: bool = False
    ) -> Sequence[Row[Any]]:
        uids = find_instances(connection, ident)
        query = (
            sa.select(
                jobs,
                instances.c.file,
                instances.c.study_instance_uid,
                orders.c.content.label("ordered"),
            )
            .join(instances, instances.c.sop_instance_uid == jobs.c.sop_instance_uid)
            .outerjoin(orders, orders.c.id == jobs.c.order_id)
            .where(jobs.c.sop_instance_uid.in_(uids))
            .order_by(jobs.c.received_at, jobs.c.generation)
        )
        rows = connection.execute(query).all()
        one = [row for row in rows if row.id == ident]
        return rows if whole_instance or not one else one

    def _restart(self, connection: Connection, row: Row[Any], now: float, by: str) -> int:
        _require_file(row)
        changed = connection.execute(
            jobs.update()
            .where(jobs.c.id == row.id, jobs.c.state == JobState.FAILED)
            .values(
                state=JobState.RECEIVED,
                attempts=0,
                handouts=0,
                next_at=now,
                dated_at=now,
                ended_at=0,
                token="",
                worker="",
            )
        ).rowcount
        if changed:
            new = NewEvent(row.sop_instance_uid, Stage.RETRY, now, row.id, Details(by=by))
            append(connection, [new])
        return changed

    def _next_generation(self, connection: Connection, row: Row[Any], now: float, by: str) -> str:
        generation = row.generation + 1
        job = job_id(row.sop_instance_uid, row.model, generation)
        order = order_of(row, row.ordered).model_copy(
            update={
                "instance_number": self._instances.next_number(
                    connection, row.study_instance_uid, row.model
                ),
                "content_datetime": content_datetime(now),
                "generation": generation,
                "predecessor": _predecessor(connection, row),
            }
        )
        shared, own = split_order(order)
        copied = ("sop_instance_uid", "model", "rule", "mode", "allow_demonstration", "priority")
        values = {name: getattr(row, name) for name in (*copied, "send_to")}
        connection.execute(
            jobs.insert().values(
                **values,
                id=job,
                generation=generation,
                order_id=self._instances.order_id(connection, shared),
                report_order=own,
                state=JobState.RECEIVED,
                received_at=now,
            )
        )
        told = Details(generation=generation, by=by)
        append(connection, [NewEvent(row.sop_instance_uid, Stage.REPLAY, now, job, told)])
        return job


def _predecessor(connection: Connection, row: Row[Any]) -> Predecessor | None:
    """Return the report that the archives have: the one that was chosen, else the preferred."""
    made = connection.execute(
        sa.select(objects)
        .where(objects.c.job == row.id, objects.c.kind == "sr")
        .order_by(objects.c.part)
    ).all()
    if not made:
        return order_of(row, row.ordered).predecessor
    chosen = set(
        connection.scalars(
            sa.select(deliveries.c.sop_instance_uid).where(
                deliveries.c.job == row.id, deliveries.c.kind == "sr"
            )
        )
    )
    last = next((o for o in made if o.sop_instance_uid in chosen), made[0])
    return Predecessor(
        study_instance_uid=row.study_instance_uid,
        series_instance_uid=last.series_instance_uid,
        sop_class_uid=last.sop_class_uid,
        sop_instance_uid=last.sop_instance_uid,
    )


def _require_file(row: Row[Any]) -> None:
    if not row.file:
        raise NotFound(
            f"{row.sop_instance_uid}: retention has removed the image; send it again first"
        )


def _now(connection: Connection, row: Row[Any], now: float) -> int:
    return connection.execute(
        jobs.update()
        .where(jobs.c.id == row.id, jobs.c.state == JobState.RECEIVED)
        .values(next_at=now, dated_at=now)
    ).rowcount


def _send_now(connection: Connection, ids: Sequence[str], now: float) -> int:
    """Make waiting deliveries of these jobs due, and their destinations be tried, at once."""
    waiting = deliveries.c.job.in_(ids) & deliveries.c.state.in_(UNSENT)
    names = list(connection.scalars(sa.select(deliveries.c.destination).where(waiting).distinct()))
    connection.execute(
        destinations.update().where(destinations.c.name.in_(names)).values(held_until=0)
    )
    return connection.execute(
        deliveries.update().where(waiting).values(next_at=now, dated_at=now)
    ).rowcount
