"""Who works on what: hand-outs, claims, leases and the one result of each job."""

from __future__ import annotations

import secrets
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from dicom_node.base.errors import NotFound, Stale
from dicom_node.base.job import ReportOrder, Result, Ticket
from dicom_node.base.plurals import counted
from dicom_node.store.clock import TOLERANCE_S, Clock
from dicom_node.store.ledger.database import Database, change, fetch, fetch_among, write
from dicom_node.store.ledger.deliveries import insert_deliveries
from dicom_node.store.ledger.events import (
    Details,
    NewEvent,
    Stage,
    append,
    insert_events,
    said_of,
)
from dicom_node.store.ledger.holds import names_of
from dicom_node.store.ledger.kept_results import dump_result
from dicom_node.store.ledger.locks import lock_jobs
from dicom_node.store.ledger.makers import Makers
from dicom_node.store.ledger.orders import order_of
from dicom_node.store.ledger.states import FINDINGS, HELD, NO_FINDING, OPEN, WITH_RESULT, JobState
from dicom_node.store.schema import IS_UNFINISHED, holds, instances, jobs, objects, orders

LONGEST_WAIT_S = 120.0
"""No wait of a job that was given back is longer."""

TURNED_AWAY_S = 2.0
"""Wait of a job for another worker, after a held worker has come for it."""

TOKEN_BYTES = 12
"""Nobody guesses 96 bits within a lease, and each job keeps its token."""

_TOLD = 3
"""Hand-outs of one job that stand in its history; a node without workers repeats them."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """The work behind a claim; ``size`` is that of the Part 10 file in bytes."""

    job: str
    attempt: int
    lease_s: float
    size: int
    file: str
    order: ReportOrder


@dataclass(frozen=True, slots=True)
class Held:
    """A running job: who works on it, from which file, and what the report shall be."""

    worker: str
    file: str
    transfer_syntax_uid: str
    order: ReportOrder


@dataclass(frozen=True, slots=True)
class Expired:
    """What `JobLedger.expire` found: counts of jobs."""

    queued: int = 0
    running: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class Waiting:
    """Open jobs of one model; ``oldest`` is when the first of those that wait was received.

    ``due_by`` and ``queued_by`` split the counts by priority: stat, normal, low.
    """

    due: int = 0
    queued: int = 0
    running: int = 0
    oldest: float = 0.0
    due_by: tuple[int, int, int] = (0, 0, 0)
    queued_by: tuple[int, int, int] = (0, 0, 0)


# What is asked many times a second is built once: building took longer than asking.


def _is_one_of(states: Sequence[JobState]) -> sa.ColumnElement[bool]:
    """Return the condition with the states in its words, which no call has to put there."""
    return jobs.c.state.in_([sa.literal_column(f"'{state}'") for state in states])


_RECEIVED = jobs.c.state == sa.literal_column(f"'{JobState.RECEIVED}'")
_IS_FREE = jobs.c.model.not_in(names_of("model")) & jobs.c.rule.not_in(names_of("rule"))
"""Nobody holds it back."""
_IS_TIME = jobs.c.next_at <= sa.bindparam("now")
_GROUP = (jobs.c.model, jobs.c.state, jobs.c.priority)
_IS_OPEN = sa.and_(IS_UNFINISHED, _is_one_of(OPEN))
_IS_HELD = sa.and_(IS_UNFINISHED, _is_one_of(HELD))
_WAITING = (
    sa.select(
        *_GROUP,
        sa.func.count().label("number"),
        sa.func.sum(sa.case((_IS_FREE & _IS_TIME, 1), else_=0)).label("due"),
        sa.func.min(sa.case((_IS_FREE | ~_RECEIVED, jobs.c.received_at))).label("oldest"),
    )
    .where(_IS_OPEN)
    .group_by(*_GROUP)
)
_NEXT_DUE = sa.select(
    sa.select(sa.func.min(jobs.c.next_at))
    .where(IS_UNFINISHED, _RECEIVED, jobs.c.next_at > sa.bindparam("now"))
    .scalar_subquery(),
    sa.select(sa.func.min(jobs.c.until)).where(_IS_HELD).scalar_subquery(),
)
_IS_BEFORE = _IS_HELD & (jobs.c.dated_at < sa.bindparam("before"))
_IS_AHEAD = _IS_OPEN & (
    (jobs.c.dated_at > sa.bindparam("latest")) | (jobs.c.received_at > sa.bindparam("latest"))
)
_FIRST_AHEAD = sa.select(jobs.c.id).where(_IS_AHEAD).limit(1)
_LATE = sa.case(
    (jobs.c.dated_at > sa.bindparam("now"), jobs.c.dated_at - sa.bindparam("now")), else_=0.0
)
_REDATE = (
    jobs.update()
    .where(_IS_AHEAD)
    .values(
        next_at=jobs.c.next_at - _LATE,
        until=jobs.c.until - _LATE,
        dated_at=jobs.c.dated_at - _LATE,
        # the order of reception is the order of work
        received_at=sa.case(
            (jobs.c.received_at > sa.bindparam("now"), sa.bindparam("now")),
            else_=jobs.c.received_at,
        ),
    )
)
_EXTEND = (
    jobs.update()
    .where(_IS_BEFORE)
    .values(
        until=jobs.c.until + sa.bindparam("more"), dated_at=jobs.c.dated_at + sa.bindparam("more")
    )
)
_IS_OVER = _IS_HELD & (jobs.c.until <= sa.bindparam("now"))
_OVER = sa.select(jobs).where(_IS_OVER).with_for_update(skip_locked=True)
_FIRST_OVER = sa.select(jobs.c.id).where(_IS_OVER).limit(1)
_ROW = (
    sa.select(jobs, instances.c.file, instances.c.size, instances.c.calling_ae)
    .add_columns(instances.c.calling_host, instances.c.transfer_syntax_uid)
    .add_columns(orders.c.content.label("ordered"))
    .join(instances, instances.c.sop_instance_uid == jobs.c.sop_instance_uid)
    .outerjoin(orders, orders.c.id == jobs.c.order_id)
    .where(jobs.c.id == sa.bindparam("job"))
)
_LOCKED_ROW = _ROW.with_for_update(of=jobs)
_ADD_OBJECTS = objects.insert()
_HELD_WORKER = names_of("worker").where(holds.c.name == sa.bindparam("of"))
_FILE = (
    sa.select(jobs.c.state, jobs.c.token, instances.c.file)
    .join(instances, instances.c.sop_instance_uid == jobs.c.sop_instance_uid)
    .where(jobs.c.id == sa.bindparam("of"))
)
_IS_MINE = (jobs.c.id == sa.bindparam("of")) & (jobs.c.token == sa.bindparam("by"))
_NO_HOLDER: dict[str, Any] = {"state": str(JobState.RECEIVED), "token": "", "until": 0}
"""What a job becomes that nobody has any more."""
_CLAIM = (
    jobs.update()
    .where(_IS_MINE, jobs.c.state == JobState.QUEUED)
    .values(
        state=JobState.RUNNING,
        worker=sa.bindparam("who"),
        until=sa.bindparam("end"),
        dated_at=sa.bindparam("now"),
        started_at=sa.bindparam("now"),
        attempts=jobs.c.attempts + 1,
    )
)


def _claim_at_once(claim: sa.Update) -> sa.Select[Any]:
    """Return a claim and its event as one statement; no row where there is anything to say."""
    is_held = sa.exists(names_of("worker").where(holds.c.name == sa.bindparam("who")))
    columns = (jobs.c.id.label("job"), jobs.c.sop_instance_uid, jobs.c.attempts, jobs.c.worker)
    claimed = (
        claim.where(~is_held)
        .returning(*columns, jobs.c.order_id, jobs.c.report_order)
        .cte("claimed")
    )
    said = said_of(attempt=claimed.c.attempts, worker=claimed.c.worker)
    return (
        sa.select(claimed.c.attempts, claimed.c.order_id, claimed.c.report_order)
        .add_columns(instances.c.size, instances.c.file, orders.c.content.label("ordered"))
        .join(instances, instances.c.sop_instance_uid == claimed.c.sop_instance_uid)
        .outerjoin(orders, orders.c.id == claimed.c.order_id)
        .add_cte(insert_events(claimed, Stage.CLAIMED, said).cte("noted"))
    )


_CLAIM_AT_ONCE = _claim_at_once(_CLAIM)
_UNPUBLISH = (
    jobs.update()
    .where(_IS_MINE, jobs.c.state == JobState.QUEUED)
    .values(_NO_HOLDER | {"handouts": jobs.c.handouts - 1})
)
_REPORT = (
    jobs.update()
    .where(_IS_MINE, jobs.c.state == JobState.RUNNING)
    .values(
        state=sa.bindparam("outcome"),
        until=0,
        ended_at=sa.bindparam("now"),
        reason=sa.bindparam("why"),
        maker_id=sa.bindparam("maker"),
        demonstration=sa.bindparam("is_demonstration"),
        result=sa.bindparam("content"),
        finding=sa.bindparam("found"),
        is_kept=sa.bindparam("keeps"),
    )
)


def _report_at_once(report: sa.Update, stage: Stage) -> sa.Select[Any]:
    """Return the statement that ends a job with a result, keeps the event and returns the row."""
    reported = report.returning(*jobs.c, jobs.c.id.label("job")).cte("reported")
    return (
        sa.select(*(column for column in reported.c if column.name != "job"))
        .add_columns(instances.c.calling_ae, instances.c.calling_host)
        .add_columns(orders.c.content.label("ordered"))
        .join(instances, instances.c.sop_instance_uid == reported.c.sop_instance_uid)
        .outerjoin(orders, orders.c.id == reported.c.order_id)
        .add_cte(insert_events(reported, stage).cte("noted"))
    )


_REPORTS_AT_ONCE = {
    stage: _report_at_once(_REPORT, stage) for stage in (Stage.REPORTED, Stage.REJECTED)
}


_NEXT = (
    sa.select(jobs.c.id, jobs.c.sop_instance_uid, jobs.c.handouts)
    .where(
        IS_UNFINISHED,
        _RECEIVED,
        jobs.c.model == sa.bindparam("of"),
        _IS_TIME,
        _IS_FREE,
    )
    .order_by(jobs.c.priority, jobs.c.received_at, jobs.c.id)
    .limit(sa.bindparam("most"))
    .with_for_update(skip_locked=True)
)
_NEXT_OF_PRIORITY = _NEXT.where(jobs.c.priority == sa.bindparam("only"))
_QUEUE = (
    jobs.update()
    .where(jobs.c.id == sa.bindparam("job"), _RECEIVED)
    .values(
        state=sa.literal_column(f"'{JobState.QUEUED}'"),
        token=sa.bindparam("given"),
        until=sa.bindparam("until_then"),
        dated_at=sa.bindparam("now"),
        handouts=jobs.c.handouts + 1,
    )
)


def _queue_at_once(query: sa.Select[Any]) -> sa.Select[Any]:
    """Return the statement that hands out what a query finds, and keeps the events."""
    due = query.add_columns(jobs.c.priority, jobs.c.received_at).cte("due")
    order = (due.c.priority, due.c.received_at, due.c.id)
    place = sa.func.row_number().over(order_by=order).label("place")
    columns = (due.c.id.label("job"), due.c.sop_instance_uid, due.c.handouts)
    placed = sa.select(*columns, place).order_by(place).cte("placed")
    token = sa.text("(CAST(:tokens AS text[]))[placed.place]")
    given = (
        jobs.update()
        .where(jobs.c.id == placed.c.job)
        .values(
            state=sa.literal_column(f"'{JobState.QUEUED}'"),
            token=token,
            until=sa.bindparam("until_then"),
            dated_at=sa.bindparam("now"),
            handouts=jobs.c.handouts + 1,
        )
        .returning(jobs.c.id, jobs.c.token, placed.c.place)
        .cte("given")
    )
    first = sa.select(placed).where(placed.c.handouts < _TOLD).cte("first")
    noted = insert_events(first, Stage.QUEUED).cte("noted")
    return sa.select(given.c.id, given.c.token).order_by(given.c.place).add_cte(noted)


_QUEUE_AT_ONCE = _queue_at_once(_NEXT)
_QUEUE_PRIORITY_AT_ONCE = _queue_at_once(_NEXT_OF_PRIORITY)
_TRIED = sa.select(jobs.c.id).where(
    jobs.c.id.in_(sa.bindparam("ids", expanding=True)), jobs.c.attempts > 0
)


class _Count(NamedTuple):
    """A row of `_WAITING`."""

    model: str
    state: str
    priority: int
    number: int
    due: int
    oldest: float | None


class JobLedger:
    """Dispatch and the job API."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._makers = Makers(database)

    def hand_out(
        self,
        model: str,
        limit: int,
        until: float,
        priority: int | None = None,
    ) -> list[Ticket]:
        """Give fresh tokens to the next jobs of `model` that are due: received to queued.

        Parameters
        ----------
        limit : int
            Most jobs to take, in order of priority and reception.
        until : float
            Time after which a ticket that nobody claimed is void, seconds since the epoch.
        priority : int, optional
            Take jobs of this priority only: 0 stat, 1 normal, 2 low.
        """
        now = self._clock.wall()
        wanted = {"of": model, "now": now, "most": limit}
        query = _NEXT if priority is None else _NEXT_OF_PRIORITY
        if priority is not None:
            wanted["only"] = priority
        # a power cut may undo this: the jobs are handed out again, and the lost tickets are void
        if not self._database.is_sqlite:
            at_once = _QUEUE_AT_ONCE if priority is None else _QUEUE_PRIORITY_AT_ONCE
            tokens = [secrets.token_urlsafe(TOKEN_BYTES) for _ in range(limit)]
            wanted |= {"until_then": until, "tokens": tokens}
            given = self._database.in_one(at_once, wanted, durable=False)
            return [Ticket(job=row.id, token=row.token) for row in given]
        with self._database.writing(durable=False) as connection:
            rows = fetch(connection, query, wanted)
            tickets = [Ticket(job=row.id, token=secrets.token_urlsafe(TOKEN_BYTES)) for row in rows]
            if tickets:
                values = [
                    {"job": ticket.job, "given": ticket.token, "until_then": until, "now": now}
                    for ticket in tickets
                ]
                write(connection, _QUEUE, values)
            events = [
                NewEvent(row.sop_instance_uid, Stage.QUEUED, now, row.id)
                for row in rows
                if row.handouts < _TOLD
            ]
            append(connection, events)
        return tickets

    def tried(self, tickets: Sequence[Ticket]) -> set[str]:
        """Return which of these jobs were worked on before, without a result."""
        if not tickets:
            return set()
        with self._database.reading() as connection:
            ids = [ticket.job for ticket in tickets]
            return {str(row.id) for row in fetch_among(connection, _TRIED, "ids", ids)}

    def unpublish(self, tickets: Sequence[Ticket]) -> None:
        """Take back tickets that the broker did not get; this counts as no attempt."""
        with self._database.writing(durable=False) as connection:
            for ticket in sorted(tickets, key=lambda ticket: ticket.job):
                change(connection, _UNPUBLISH, {"of": ticket.job, "by": ticket.token})

    def waiting(self) -> dict[str, Waiting]:
        """Return how many jobs of each model are due, handed out and being worked on."""
        found = self._database.look(_WAITING, now=self._clock.wall())
        rows = [_Count._make(row) for row in found]
        models = {row.model for row in rows}
        return {
            model: _waiting_counts([row for row in rows if row.model == model]) for model in models
        }

    def next_due(self) -> float | None:
        """Return when the next job becomes due, or its time runs out; None without any."""
        (times,) = self._database.look(_NEXT_DUE, now=self._clock.wall())
        known = [float(t) for t in times if t is not None]
        return min(known) if known else None

    def redate(self) -> int:
        """Let every wait and lease from a clock that was ahead begin now; return how many.

        A time in the future stands beside the moment at which it was written. When that moment
        lies in the future, too, the clock has been set back since.
        """
        now = self._clock.wall()
        latest = {"latest": now + TOLERANCE_S}
        if not self._database.look(_FIRST_AHEAD, **latest):
            return 0
        with self._database.writing() as connection:
            lock_jobs(connection, _IS_AHEAD, latest)
            return change(connection, _REDATE, latest | {"now": now})

    def extend_leases(self, by: float) -> int:
        """Move what was dated before the clock was set ahead `by` so many seconds, just now."""
        # what was dated after the jump is right: half the jump lies between the two clocks
        before = self._clock.wall() - by / 2
        with self._database.writing(durable=False) as connection:
            lock_jobs(connection, _IS_BEFORE, {"before": before})
            return change(connection, _EXTEND, {"before": before, "more": by})

    def expire(self, attempts: int) -> Expired:
        """Take back what nobody claimed in time and what nobody worked on any more.

        Parameters
        ----------
        attempts : int
            A job that was worked on so often ends as failed.
        """
        now = self._clock.wall()
        queued = running = failed = 0
        # a look first: as a rule nothing is over, and the write lock is everybody's
        if not self._database.look(_FIRST_OVER, now=now):
            return Expired()
        with self._database.writing() as connection:
            for row in fetch(connection, _OVER, {"now": now}):
                if row.state == JobState.QUEUED:
                    queued += self._requeue_job(connection, row, now)
                elif row.attempts >= attempts:
                    tries = counted(row.attempts, "attempt")
                    reason = f"no result after {tries}; the last worker fell silent"
                    failed += self._fail_job(connection, row, reason, now)
                else:
                    running += self._requeue_job(
                        connection, row, now, _pause_after_fall(row.id, row.attempts)
                    )
        return Expired(queued, running, failed)

    def claim(self, job: str, token: str, worker: str, lease_s: float) -> Claimed:
        """Begin an attempt: queued to running. The same claim again has the same answer.

        Raises
        ------
        Stale
            The token no longer holds the job.
        NotFound
            There is no such job.
        """
        now = self._clock.wall()
        values = {"of": job, "by": token, "who": worker, "end": now + lease_s, "now": now}
        if not self._database.is_sqlite:
            for row in self._database.in_one(_CLAIM_AT_ONCE, values, durable=False):
                if self._makers.is_due(worker, now):
                    with self._database.writing(durable=False) as connection:
                        self._makers.note_claim(connection, worker, now)
                return _claimed(job, row, lease_s)
        if self._turns_away(job, token, worker, now):
            raise _stale_token(job)
        with self._database.writing(durable=False, in_a_row=True) as connection:
            changed = change(connection, _CLAIM, values)
            row = self._read_row(connection, job)
            # not changed and yet ours: the answer to the first claim was lost on the way
            if not changed and (row.state, row.token, row.worker) != (
                JobState.RUNNING,
                token,
                worker,
            ):
                raise _stale_token(job)
            if changed:
                details = Details(attempt=row.attempts, worker=worker)
                new = NewEvent(row.sop_instance_uid, Stage.CLAIMED, now, job, details)
                append(connection, [new])
                if self._makers.is_due(worker, now):
                    self._makers.note_claim(connection, worker, now)
            else:
                lease = {"until": now + lease_s, "dated_at": now}
                _change_held(connection, job, token, JobState.RUNNING, lease)
        return _claimed(job, row, lease_s)

    def _turns_away(self, job: str, token: str, worker: str, now: float) -> bool:
        """Return whether a worker is held; then its ticket is void and the job soon another's."""
        if not self._database.look(_HELD_WORKER, of=worker):
            return False
        with self._database.writing() as connection:
            # or the held worker, which may be the only one, would take it again and again
            rest = {"next_at": now + TURNED_AWAY_S, "dated_at": now}
            _change_held(connection, job, token, JobState.QUEUED, _NO_HOLDER | rest)
            row = self._read_row(connection, job)
        return (row.state, row.token) != (JobState.RUNNING, token)

    def instance_file(self, job: str, token: str) -> str:
        """Return the spool name of the Instance behind a running job.

        Raises
        ------
        Stale, NotFound
            See `claim`.
        """
        rows = self._database.look(_FILE, of=job)
        if not rows:
            raise _unknown_job(job)
        ((state, holder, file),) = rows
        if (state, holder) != (JobState.RUNNING, token):
            raise _stale_token(job)
        return str(file)

    def held(self, job: str, token: str) -> Held | None:
        """Return the running job of a token; None where its result is recorded already.

        Raises
        ------
        Stale, NotFound
            See `claim`.
        """
        rows = self._database.look_named(_ROW, job=job)
        if not rows:
            raise _unknown_job(job)
        (row,) = rows
        if row.token != token or row.state not in (JobState.RUNNING, *WITH_RESULT):
            raise _stale_token(job)
        if row.state in WITH_RESULT:
            return None
        order = order_of(row, row.ordered)
        return Held(row.worker, row.file, row.transfer_syntax_uid, order)

    def renew(self, job: str, token: str, lease_s: float) -> None:
        """Extend the lease: the work has made progress.

        Raises
        ------
        Stale, NotFound
            See `claim`.
        """
        now = self._clock.wall()
        with self._database.writing(durable=False) as connection:
            lease = {"until": now + lease_s, "dated_at": now}
            if not _change_held(connection, job, token, JobState.RUNNING, lease):
                self._read_row(connection, job)
                raise _stale_token(job)

    def report(
        self,
        job: str,
        token: str,
        result: Result,
        files: Mapping[str, str],
    ) -> bool:
        """Record the one result of a job, its objects and their deliveries.

        Parameters
        ----------
        files : mapping
            Spool name of each object's file by its part; they are durable.

        Returns
        -------
        bool
            True: the result is recorded, now or by an earlier call with the same token.

        Raises
        ------
        Stale
            The token no longer holds the job; nothing was changed.
        NotFound
            There is no such job, or an object has no file.
        """
        now = self._clock.wall()
        missing = [o.part for o in result.objects if o.part not in files]
        if missing:
            raise NotFound(f"job {job}: no file for part {missing[0]!r} of the result")
        with self._database.writing(in_a_row=True) as connection:
            values = {
                "of": job,
                "by": token,
                "outcome": result.outcome,
                "now": now,
                "why": str(result.reason.code) if result.reason else "",
                "maker": self._makers.number(connection, result, now),
                "is_demonstration": result.demonstration,
                "content": dump_result(result),
                "keeps": 1 if result.objects else 0,
                "found": FINDINGS.get(result.presence or "", NO_FINDING),
            }
            row = self._end_job(connection, Stage(result.outcome), values)
            if row is None:
                row = self._read_row(connection, job)
                # recorded by an earlier call whose answer was lost: it gets the same answer
                if row.token == token and row.state in WITH_RESULT:
                    return True
                raise _stale_token(job)
            self._add_objects(connection, job, result, files)
            insert_deliveries(connection, row, result, now)
        return True

    def release(
        self,
        job: str,
        token: str,
        reason: str,
        counts: bool = True,
        delay_s: float = 0.0,
        max_attempts: int = 5,
    ) -> str:
        """Give a job back without a result and return its new state: received or failed.

        Raises
        ------
        Stale, NotFound
            See `claim`.
        """
        now = self._clock.wall()
        with self._database.writing() as connection:
            row = self._read_row(connection, job, lock=True)
            if (row.state, row.token) != (JobState.RUNNING, token):
                raise _stale_token(job)
            if counts and row.attempts >= max_attempts:
                tries = counted(row.attempts, "attempt")
                self._fail_job(connection, row, f"after {tries}: {reason}", now)
                return "failed"
            values = {
                "worker": "",
                "attempts": row.attempts if counts else row.attempts - 1,
                "next_at": now + min(delay_s, LONGEST_WAIT_S),
                "dated_at": now,
                "reason": reason,
            }
            _change_held(connection, job, token, JobState.RUNNING, _NO_HOLDER | values)
            if counts or reason != row.reason:
                details = Details(reason=reason)
                new = NewEvent(row.sop_instance_uid, Stage.RELEASED, now, job, details)
                append(connection, [new])
        return "received"

    def _read_row(self, connection: Connection, job: str, lock: bool = False) -> Row[Any]:
        rows: list[Row[Any]] = fetch(connection, _LOCKED_ROW if lock else _ROW, {"job": job})
        if not rows:
            raise _unknown_job(job)
        return rows[0]

    def _end_job(
        self, connection: Connection, stage: Stage, values: Mapping[str, Any]
    ) -> Row[Any] | None:
        """Give a job its result and return its row; None where the token does not hold it."""
        if not self._database.is_sqlite:
            found = fetch(connection, _REPORTS_AT_ONCE[stage], values)
            return found[0] if found else None
        if not change(connection, _REPORT, values):
            return None
        row = self._read_row(connection, values["of"])
        append(connection, [NewEvent(row.sop_instance_uid, stage, values["now"], row.id)])
        return row

    def _requeue_job(
        self, connection: Connection, row: Row[Any], now: float, delay_s: float = 0.0
    ) -> int:
        was_running = row.state == JobState.RUNNING
        reason = f"{row.worker or 'the worker'} fell silent" if was_running else ""
        values = {"worker": "", "next_at": now + delay_s, "dated_at": now, "reason": reason}
        changed = _change_held(connection, row.id, row.token, row.state, _NO_HOLDER | values)
        if was_running or row.handouts <= _TOLD:
            details = Details(worker=row.worker, attempt=row.attempts) if was_running else Details()
            append(
                connection, [NewEvent(row.sop_instance_uid, Stage.EXPIRED, now, row.id, details)]
            )
        return changed

    def _fail_job(self, connection: Connection, row: Row[Any], reason: str, now: float) -> int:
        values = {"state": str(JobState.FAILED), "token": "", "is_kept": 0, "until": 0}
        values |= {"ended_at": now, "reason": reason}
        changed = _change_held(connection, row.id, row.token, JobState.RUNNING, values)
        details = Details(reason=reason)
        append(connection, [NewEvent(row.sop_instance_uid, Stage.FAILED, now, row.id, details)])
        return changed

    def _add_objects(
        self, connection: Connection, job: str, result: Result, files: Mapping[str, str]
    ) -> None:
        made = [
            item.model_dump() | {"job": job, "file": files[item.part]} for item in result.objects
        ]
        if made:
            write(connection, _ADD_OBJECTS, made, is_whole=False)


def _claimed(job: str, row: Row[Any], lease_s: float) -> Claimed:
    return Claimed(job, row.attempts, lease_s, row.size, row.file, order_of(row, row.ordered))


def _waiting_counts(rows: Sequence[_Count]) -> Waiting:
    """Return the counts of one model from its rows, one per state and priority."""
    due, queued, running, oldest = [0, 0, 0], [0, 0, 0], 0, 0.0
    for row in rows:
        if row.state == JobState.RECEIVED:
            due[row.priority] = int(row.due)
        elif row.state == JobState.QUEUED:
            queued[row.priority] = int(row.number)
        else:
            running += int(row.number)
            continue
        if row.oldest is not None:
            oldest = min(oldest or row.oldest, row.oldest)
    return Waiting(
        sum(due),
        sum(queued),
        running,
        float(oldest),
        (due[0], due[1], due[2]),
        (queued[0], queued[1], queued[2]),
    )


def _change_held(
    connection: Connection, job: str, token: str, state: str, values: Mapping[str, Any]
) -> int:
    """Change a job that is in this state and has this token; return how many there were: 0 or 1."""
    asked = {"of": job, "by": token, "was": str(state)}
    asked |= {f"new_{name}": value for name, value in values.items()}
    return change(connection, _change_of(tuple(values)), asked)


@cache
def _change_of(names: tuple[str, ...]) -> sa.Update:
    """Return the statement that gives some columns of a held job new values."""
    held = jobs.update().where(_IS_MINE, jobs.c.state == sa.bindparam("was"))
    return held.values({name: sa.bindparam(f"new_{name}") for name in names})


def _pause_after_fall(job: str, attempts: int) -> float:
    """Return the wait after a worker fell silent: an Instance that kills workers may not rule.

    Jobs that fell together get waits apart, so that they do not meet in one worker again.
    """
    # 0.5 to 1.5 by the job's id: the same at each fall, different from job to job
    apart = 0.5 + zlib.crc32(job.encode()) / 2**32
    return 0.0 if attempts < 2 else min(2.0 ** (attempts - 1), 60.0) * apart


def _unknown_job(job: str) -> NotFound:
    return NotFound(f"no job {job[:64]!r}")


def _stale_token(job: str) -> Stale:
    return Stale(f"job {job}: this token no longer holds it")
