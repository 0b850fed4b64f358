"""What people ask: one Instance's trace, the state of the whole, the last arrivals."""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import islice
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from dicom_node.base.errors import NotFound
from dicom_node.base.job import ReportOrder
from dicom_node.store.clock import Clock
from dicom_node.store.ledger.database import Database, fetch, fetch_among
from dicom_node.store.ledger.deliveries import IS_SENT
from dicom_node.store.ledger.events import (
    JOB_DIGITS,
    OLD_JOB_DIGITS,
    Details,
    Event,
    NewEvent,
    append,
)
from dicom_node.store.ledger.events import Stage as Kind
from dicom_node.store.ledger.holds import names_of
from dicom_node.store.ledger.kept_results import load_result
from dicom_node.store.ledger.makers import DEVICE_UID, JOB_COLUMNS, MODEL_VERSION
from dicom_node.store.ledger.orders import order_of
from dicom_node.store.ledger.past import EVENT_COLUMNS, KeptEvent, all_events, kept_event
from dicom_node.store.ledger.search import newest_numbers, words_of
from dicom_node.store.ledger.states import OPEN, UNSENT, DeliveryState, JobState
from dicom_node.store.ledger.variants import CHOSEN_UID
from dicom_node.store.ledger.views import (
    Arrival,
    ConflictView,
    DeliveryView,
    DestinationState,
    FindingJudgement,
    InstanceView,
    JobView,
    JudgementView,
    ObjectView,
    ResultView,
    Sent,
    Totals,
    Trace,
    TraceStep,
    kept_times,
)
from dicom_node.store.ledger.wanted import load_wishes
from dicom_node.store.schema import (
    IS_ASKED,
    IS_LATER,
    IS_UNFINISHED,
    IS_UNSENT,
    conflicts,
    deliveries,
    destinations,
    events,
    instances,
    jobs,
    judgements,
    likenesses,
    marks,
    objects,
    orders,
    totals,
)

_CHUNK = 200
"""Rows that a filter looks at in one go."""

_INSTANCE = tuple(f.name for f in fields(InstanceView))
_JOB_COLUMNS = (
    jobs.c.id.label("job"),
    jobs.c.model,
    jobs.c.generation,
    jobs.c.received_at.label("job_at"),
    jobs.c.rule,
    jobs.c.mode,
    jobs.c.state.label("job_state"),
    jobs.c.standing,
    jobs.c.reason.label("job_reason"),
    jobs.c.attempts,
    jobs.c.ended_at,
    jobs.c.demonstration,
    jobs.c.result,
    MODEL_VERSION,
    DEVICE_UID,
)

_COMPARING = (
    sa.select(sa.func.count()).select_from(likenesses).where(likenesses.c.state == "waiting")
)

_OLDEST_OPEN = sa.select(sa.func.min(jobs.c.received_at)).where(
    IS_UNFINISHED, jobs.c.state.in_([sa.literal_column(f"'{state}'") for state in OPEN])
)
_WAITING_FOR = (
    sa.select(deliveries.c.destination, sa.func.count(), sa.func.min(deliveries.c.created_at))
    .where(IS_UNSENT)
    .group_by(deliveries.c.destination)
)
_UNCOMMITTED = (
    sa.select(deliveries.c.destination, sa.func.count())
    .where(IS_ASKED, IS_SENT)
    .group_by(deliveries.c.destination)
)
_DESTINATIONS = sa.select(destinations)
_HELD_BY_PEOPLE = names_of("destination")

STANDINGS = {
    "delivered": ("delivered", "committed"),
    "reported": ("reported", "retrying", "delivered", "committed"),
}
"""What a filter by state stands for, where it is more than the word itself."""


@dataclass(frozen=True, slots=True)
class ArrivalPage:
    """Rows of the worklist, and the key of the page behind them; empty at the end."""

    rows: tuple[Arrival, ...]
    older: str


_IS_SETTLED: sa.ColumnElement[bool] = sa.literal_column(
    "age(events.xmin) > age(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS xid))", sa.Boolean
)


class History:
    """The read side."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def trace(self, ident: str) -> Trace:
        """Return all that happened to an Instance, in order.

        Parameters
        ----------
        ident : str
            SOP Instance UID of an Instance or of a report, Study Instance UID, accession number
            or job id. Where it names several Instances, the last received is shown and ``also``
            lists the others.

        Raises
        ------
        NotFound
            Nothing has this name.
        """
        with self._database.reading() as connection:
            uids = find_instances(connection, ident)
            return replace(_read_trace(connection, uids[0]), also=tuple(uids[1:]))

    def last_instances(self, limit: int) -> list[InstanceView]:
        """Return the Instances that came last, the newest first."""
        query = sa.select(instances).order_by(instances.c.received_at.desc()).limit(limit)
        with self._database.reading() as connection:
            return [instance_view(row) for row in connection.execute(query)]

    def status(self) -> Totals:
        """Return counts by state, what waits and since when, and how destinations do."""
        now = self._clock.wall()
        with self._database.reading() as connection:
            oldest = connection.scalar(_OLDEST_OPEN)
            counted = connection.execute(_TOTALS).all()
            by_state: dict[str, dict[str, int]] = {"instances": {}, "jobs": {}, "deliveries": {}}
            models: dict[str, dict[str, int]] = {}
            kept_apart = 0
            for what, name, state, n in counted:
                if what == "results":
                    continue
                if what == "conflicts":
                    kept_apart += int(n)
                    continue
                by_state[what][state] = by_state[what].get(state, 0) + int(n)
                if what == "jobs":
                    models.setdefault(name, {})[state] = int(n)
            return Totals(
                at=now,
                instances=by_state["instances"],
                jobs=by_state["jobs"],
                deliveries=by_state["deliveries"],
                conflicts=kept_apart,
                comparing=connection.scalar(_COMPARING) or 0,
                oldest_open_s=0.0 if oldest is None else max(0.0, now - oldest),
                models=models,
                destinations=tuple(_destination_states(connection, now)),
            )

    def answers(self) -> None:
        """Ask the ledger something small.

        Raises
        ------
        Unreachable
            It gives no answer.
        """
        with self._database.reading() as connection:
            connection.execute(sa.select(totals.c.n).limit(1)).all()

    def recent(
        self, limit: int = 50, search: str = "", state: str = "", offset: int = 0
    ) -> list[Arrival]:
        """Return the last received Instances, newest first, one row per job; see `page`."""
        with self._database.reading() as connection:
            rows = arrivals(connection, search, state, "", self._database.is_sqlite)
            return list(islice(rows, offset, offset + limit))

    def page(
        self, limit: int = 50, search: str = "", state: str = "", before: str = ""
    ) -> ArrivalPage:
        """Return a page of Instances, newest first, one row per job.

        Parameters
        ----------
        search : str
            Words of a patient's name, a patient id or an accession number, in any order, each may
            be only the beginning, the case does not count; or a whole UID or job id.
        state : str
            ``ignored``, a state of a job, ``delivered``, ``committed`` or ``undelivered``.
        before : str
            The key ``older`` of the page that is newer; empty for the first.
        """
        with self._database.reading() as connection:
            rows = arrivals(connection, search, state, before, self._database.is_sqlite)
            found = list(islice(rows, limit))
            behind = next(rows, None)
            # the key names the Instance: its other jobs are on this page, too
            while behind and not _is_of_job(search, state) and _is_same(behind, found[-1]):
                found.append(behind)
                behind = next(rows, None)
        return ArrivalPage(tuple(found), place_key(found[-1], search, state) if behind else "")

    def conflicts(self, limit: int = 100) -> list[ConflictView]:
        """Return Instances that came under a known UID with other content, newest first."""
        with self._database.reading() as connection:
            rows = connection.execute(
                sa.select(conflicts).order_by(conflicts.c.id.desc()).limit(limit)
            ).all()
        return [ConflictView(**row._mapping) for row in rows]

    def events_after(self, after: int, limit: int, stages: Sequence[str] = ()) -> list[Event]:
        """Return events in the order in which they were kept, with the facts of their Instance.

        Parameters
        ----------
        after : int
            The ``id`` of the last event that the caller knows; 0 begins at the first.
        stages : sequence of str
            Only these; empty: all.
        """
        own = sa.select(events).where(events.c.id > after, self._is_settled)
        own = own.order_by(events.c.id).limit(limit)
        if stages:
            own = own.where(events.c.stage.in_(stages))
        with self._database.reading() as connection:
            rows = connection.execute(own).all()
            by_number, by_uid = _instances_of(connection, rows)
        found = []
        for row in rows:
            instance = by_uid.get(row.sop_instance_uid) or by_number.get(row.instance)
            found.append(_event_of_row(row, instance))
        return found

    @property
    def _is_settled(self) -> sa.ColumnElement[bool]:
        """That no event with a lower id can come any more.

        PostgreSQL gives ids out when a transaction writes and shows rows when it commits: a
        transaction that began earlier may end later. SQLite has one writer at a time.
        """
        return sa.true() if self._database.is_sqlite else _IS_SETTLED

    def note(self, stage: str, detail: str) -> None:
        """Keep an event that belongs to no Instance."""
        new = NewEvent("", stage, self._clock.wall(), details=Details(sentence=detail), ms=0.0)
        with self._database.writing() as connection:
            append(connection, [new])

    def mark(self, name: str) -> int | None:
        """Return how far work of this name has come; None before its first mark."""
        with self._database.reading() as connection:
            found = connection.scalar(sa.select(marks.c.value).where(marks.c.name == name))
        return None if found is None else int(found)

    def set_mark(self, name: str, value: int) -> None:
        """Note how far work of this name has come."""
        with self._database.writing() as connection:
            self._database.insert_new(connection, marks, {"name": name, "value": value})
            connection.execute(marks.update().where(marks.c.name == name).values(value=value))

    def newest_event(self) -> int:
        """Return the ``id`` of the last event before which none is missing; 0 for none."""
        with self._database.reading() as connection:
            newest = sa.select(sa.func.max(events.c.id)).where(self._is_settled)
            return int(connection.scalar(newest) or 0)

    def stage_times(self, after: int, until: int) -> list[tuple[str, float]]:
        """Return stage and milliseconds of the events in ``(after, until]`` that took time.

        `TO_REPORT` stands for the whole way of an image, from its reception to its report,
        `MODEL_SHARE` for its part of the model's time, which a batch of images shares.
        """
        between = (events.c.id > after) & (events.c.id <= until)
        query = sa.select(events.c.stage, events.c.ms).where(between, events.c.ms.is_not(None))
        made = sa.select(events.c.instance, events.c.job).where(
            between, events.c.stage.in_((Kind.REPORTED, Kind.REJECTED)), events.c.is_typed == 1
        )
        found = []
        with self._database.reading() as connection:
            found += [(str(stage), float(ms)) for stage, ms in connection.execute(query)]
            for number, prefix in connection.execute(made).all():
                rows = connection.execute(
                    sa.select(jobs.c.id, jobs.c.result, jobs.c.ended_at - jobs.c.received_at)
                    .join(instances, instances.c.sop_instance_uid == jobs.c.sop_instance_uid)
                    .where(instances.c.number == number)
                ).all()
                for job, result, whole_s in rows:
                    if job.startswith(prefix) and result:
                        found.append((TO_REPORT, max(0.0, whole_s * 1000)))
                        content = load_result(result)
                        took = kept_times(content)
                        found += took.items()
                        if "model" in took:
                            share = took["model"] / int(content.get("batch") or 1)
                            found.append((MODEL_SHARE, share))
        return found

    def last_event(self) -> float:
        """Return when something last happened, 0 when nothing ever did."""
        with self._database.reading() as connection:
            newest = sa.select(sa.func.max(events.c.id)).scalar_subquery()
            found = connection.scalar(sa.select(events.c.at).where(events.c.id == newest))
        return float(found or 0.0)


TO_REPORT, MODEL_SHARE = "to report", "model share"

_TOTALS = (
    sa.select(totals.c.what, totals.c.name, totals.c.state, sa.func.sum(totals.c.n).label("n"))
    .group_by(totals.c.what, totals.c.name, totals.c.state)
    .having(sa.func.sum(totals.c.n) > 0)
)


_UID = instances.c.sop_instance_uid
_NAME: sa.BindParameter[str] = sa.bindparam("ident")
_NAMED = (
    sa.select(_UID).where(_UID == _NAME),
    sa.select(jobs.c.sop_instance_uid).where(jobs.c.id == _NAME),
    sa.select(jobs.c.sop_instance_uid).join(objects).where(objects.c.sop_instance_uid == _NAME),
    sa.select(_UID)
    .where((instances.c.study_instance_uid == _NAME) | (instances.c.accession_number == _NAME))
    .order_by(instances.c.received_at.desc()),
)
"""What somebody may name an Instance by, in the order in which it is looked for."""


_OF_DELIVERY: tuple[sa.ColumnElement[Any], ...] = (
    *(column for column in deliveries.c if column.name != "sop_instance_uid"),
    CHOSEN_UID.label("sop_instance_uid"),
)


def find_instances(connection: Connection, ident: str) -> list[str]:
    """Return SOP Instance UIDs that `ident` names, the last received first; see `trace`."""
    if ident:
        for query in _NAMED:
            rows = fetch(connection, query, {"ident": ident})
            if found := list(dict.fromkeys(str(row[0]) for row in rows)):
                return found
    raise NotFound(f"nothing is known of {ident[:64]!r}")


def instance_view(row: Any) -> InstanceView:
    """Return a row of instances as a view."""
    return InstanceView(**{name: getattr(row, name) for name in _INSTANCE})


def judgement_view(row: Any) -> JudgementView:
    """Return a row of judgements as a view."""
    said = json.loads(row.findings) if row.findings else []
    findings = tuple(FindingJudgement(finding["finding"], finding["verdict"]) for finding in said)
    words = (row.reader, row.verdict, row.comment, row.corrected_text)
    return JudgementView(row.id, row.job, row.at, *words, findings)


def _read_trace(connection: Connection, uid: str) -> Trace:
    def all_of(query: sa.Select[Any]) -> Sequence[Row[Any]]:
        return connection.execute(query).all()

    row = connection.execute(sa.select(instances).where(instances.c.sop_instance_uid == uid)).one()
    instance = instance_view(row)
    job_rows = all_of(
        sa.select(*JOB_COLUMNS, orders.c.content.label("ordered"))
        .outerjoin(orders, orders.c.id == jobs.c.order_id)
        .where(jobs.c.sop_instance_uid == uid)
        .order_by(jobs.c.received_at, jobs.c.model)
    )
    ids = [job.id for job in job_rows]
    delivery_rows = all_of(
        sa.select(*_OF_DELIVERY).where(deliveries.c.job.in_(ids)).order_by(deliveries.c.id)
    )
    made = tuple(_job_view(job) for job in job_rows)
    last = made[-1] if made else None
    return Trace(
        sop_instance_uid=uid,
        state=_arrival_state(
            instance.state,
            last.state if last else None,
            [delivery.state for delivery in delivery_rows if last and delivery.job == last.job],
        ),
        instance=instance,
        jobs=made,
        objects=tuple(
            ObjectView(**made_object._mapping)
            for made_object in all_of(
                sa.select(objects).where(objects.c.job.in_(ids)).order_by(objects.c.part)
            )
        ),
        deliveries=tuple(DeliveryView(**delivery._mapping) for delivery in delivery_rows),
        conflicts=tuple(
            ConflictView(**conflict._mapping)
            for conflict in all_of(sa.select(conflicts).where(conflicts.c.sop_instance_uid == uid))
        ),
        stages=tuple(_trace_steps(_events_of(connection, instance), instance, made)),
        judgements=tuple(
            judgement_view(judgement)
            for judgement in all_of(
                sa.select(judgements).where(judgements.c.job.in_(ids)).order_by(judgements.c.id)
            )
        ),
    )


def _events_of(connection: Connection, instance: InstanceView) -> list[KeptEvent]:
    """Return the events of an Instance: those kept by its UID, which are older, then the others."""
    query = sa.select(*EVENT_COLUMNS).order_by(events.c.id)
    by_uid = query.where(
        events.c.sop_instance_uid == instance.sop_instance_uid, events.c.sop_instance_uid != ""
    )
    found = [kept_event(row) for row in connection.execute(by_uid)]
    return found if instance.number is None else found + all_events(connection, instance.number)


_BY_NUMBER = sa.select(instances).where(
    instances.c.number.in_(sa.bindparam("numbers", expanding=True))
)
_BY_UID = sa.select(instances).where(
    instances.c.sop_instance_uid.in_(sa.bindparam("uids", expanding=True))
)


def _instances_of(
    connection: Connection, rows: Sequence[Row[Any]]
) -> tuple[dict[int, Any], dict[str, Any]]:
    """Return the Instances that some events are about, by number and by UID."""
    numbers = {row.instance for row in rows if row.instance is not None}
    uids = {row.sop_instance_uid for row in rows if row.sop_instance_uid}
    # of few lengths: each length is another statement, of which a connection keeps 128
    found = fetch_among(connection, _BY_NUMBER, "numbers", list(numbers))
    found += fetch_among(connection, _BY_UID, "uids", list(uids))
    return (
        {row.number: row for row in found if row.number is not None},
        {row.sop_instance_uid: row for row in found},
    )


def _event_of_row(row: Row[Any], instance: Any) -> Event:
    facts = ("patient_id", "study_instance_uid", "sop_class_uid", "calling_ae", "calling_host")
    return Event(
        row.id,
        instance.sop_instance_uid if instance is not None else row.sop_instance_uid,
        row.job,
        row.stage,
        row.at,
        row.ms,
        Details.load(row.detail, bool(row.is_typed)),
        not row.is_typed,
        *(getattr(instance, name) if instance is not None else "" for name in facts),
    )


def _trace_steps(
    rows: Sequence[KeptEvent], instance: InstanceView, made: Sequence[JobView]
) -> Iterator[TraceStep]:
    """Yield each stage with when it ended and how long it took, in milliseconds.

    What stands in the Instance and its jobs is not kept in events again, and comes from there.
    """
    before = rows[0].at if rows else 0.0
    for row in rows:
        details = Details.load(row.detail, row.is_typed)
        job = next((view for view in made if row.job and view.job.startswith(row.job)), None)
        whole = job.job if job else row.job
        if row.is_typed and job and row.stage == Kind.ROUTED:
            details = replace(details, rule=job.rule, model=job.model, mode=job.mode)
        elif row.is_typed and row.stage == Kind.RECEIVED:
            details = replace(
                details, calling_ae=instance.calling_ae, calling_host=instance.calling_host
            )
        elif row.is_typed and job and job.result and row.stage in (Kind.REPORTED, Kind.REJECTED):
            left = sum(job.result.stages_ms.values())
            for stage, ms in job.result.stages_ms.items():
                left -= ms
                before = max(job.started_at, row.at - left / 1000)
                yield TraceStep.of(stage, before, ms, whole, Details())
            reason = job.result.reason
            details = replace(
                details,
                model=job.model,
                version=job.model_version,
                code=str(reason.code) if reason else "",
                reason=reason.text if reason else "",
            )
        ms = row.ms if row.ms is not None else max(0.0, (row.at - before) * 1000)
        yield TraceStep.of(row.stage, row.at, ms, whole, details)
        before = row.at


def _job_view(row: Any) -> JobView:
    same: tuple[str, ...] = (
        "sop_instance_uid",
        "model",
        "generation",
        "rule",
        "mode",
        "priority",
        "state",
    )
    same += ("standing", "worker", "until", "dated_at", "attempts", "handouts", "next_at")
    same += ("reason", "received_at", "started_at", "ended_at", "model_version", "device_uid")
    order: ReportOrder = order_of(row, row.ordered)
    return JobView(
        **{name: getattr(row, name) for name in same},
        job=row.id,
        allow_demonstration=bool(row.allow_demonstration),
        demonstration=bool(row.demonstration),
        send_to=load_wishes(row.send_to),
        report_order=order,
        is_judgement=order.judgement is not None,
        result=ResultView.of(row),
    )


def _arrival_state(instance: str, job: str | None, sent: Sequence[str]) -> str:
    """Return one word for how far an Instance has come."""
    if job is None:
        return instance
    if job not in (JobState.REPORTED, JobState.REJECTED) or not sent:
        return job
    if any(state in UNSENT for state in sent):
        return DeliveryState.RETRYING.value if DeliveryState.RETRYING in sent else job
    if DeliveryState.SENT in sent or DeliveryState.SETTLED in sent:
        return "delivered"
    return "committed" if DeliveryState.COMMITTED in sent else job


def _destination_states(connection: Connection, now: float) -> Iterator[DestinationState]:
    waiting: dict[str, tuple[int, float]] = {
        name: (count, oldest) for name, count, oldest in connection.execute(_WAITING_FOR)
    }
    uncommitted: dict[str, int] = {row[0]: row[1] for row in connection.execute(_UNCOMMITTED)}
    known = {row.name: row for row in connection.execute(_DESTINATIONS).all()}
    by_people = set(connection.scalars(_HELD_BY_PEOPLE))
    for name in sorted({*waiting, *known, *uncommitted}):
        count, oldest = waiting.get(name, (0, now))
        row = known.get(name)
        yield DestinationState(
            name=name,
            waiting=count,
            oldest_s=max(0.0, now - oldest),
            uncommitted=uncommitted.get(name, 0),
            failures=row.failures if row else 0,
            held_until=row.held_until if row else 0.0,
            reason=row.reason if row else "",
            is_held=name in by_people,
        )


# the worklist -------------------------------------------------------------------------------------


def arrivals(
    connection: Connection,
    search: str,
    state: str,
    before: str,
    is_sqlite: bool,
    is_oldest: bool = False,
    until: float = 0.0,
) -> Iterator[Arrival]:
    """Yield rows of the worklist, newest first; nothing is looked at that is not needed.

    Parameters
    ----------
    is_oldest : bool
        The oldest first; not behind a search.
    until : float
        Of jobs in a state, newest first, none is missing whose image was received before; of
        others only some come. 0 sets no bound.
    """
    search = search.replace("\0", " ").strip()  # PostgreSQL takes no NUL
    place = _page_start(before)
    if search:
        uids = _find_named(connection, search) if before == "" else []
        if uids:
            yield from rows_of(connection, [uids], state)
        elif words_of(search):
            found = newest_numbers(connection, search, is_sqlite, place.number if place else None)
            yield from rows_of(connection, _uids_of(connection, found), state)
        return
    if state in ("undelivered", "pending"):
        yield from _undelivered_arrivals(connection, place, is_oldest)
    elif state == "ignored":
        where = instances.c.state == "ignored"
        yield from rows_of(
            connection, _chunks_by_arrival(connection, where, place, is_oldest), state
        )
    elif state:
        standings = STANDINGS.get(state, (state,))
        several = [
            _jobs_in_standing(connection, standing, place, is_oldest, until)
            for standing in standings
        ]
        # each comes in order already: only as many rows are read as a page shows
        ids = heapq.merge(*several, reverse=not is_oldest)
        yield from rows_of_jobs(connection, (job for _, job in ids))
    else:
        yield from rows_of(
            connection, _chunks_by_arrival(connection, sa.true(), place, is_oldest), ""
        )


def place_key(row: Arrival, search: str, state: str) -> str:
    """Return the place of a row in the worklist: behind it the next page begins.

    A state lists jobs, and the job of a re-run began later than its image came.
    """
    is_of_job = _is_of_job(search, state) and row.job_at is not None
    at = row.job_at if is_of_job else row.received_at
    place = f"{at!r}~{row.number or 0}~{row.sop_instance_uid}"
    # several models' jobs of an image begin at the same moment
    return f"{place}~{row.job}" if is_of_job else place


def _is_of_job(search: str, state: str) -> bool:
    """Return whether rows come by the time of their job, and not of their Instance."""
    return bool(state) and state != "ignored" and not search


def _is_same(row: Arrival, other: Arrival) -> bool:
    return row.sop_instance_uid == other.sop_instance_uid


@dataclass(frozen=True, slots=True)
class PageStart:
    """Where a page begins: behind this Instance, or this job."""

    received_at: float
    number: int
    sop_instance_uid: str
    job: str = ""
    """Empty in the key of a time alone, and in those of older versions."""


def _page_start(before: str) -> PageStart | None:
    try:
        at, number, uid, *job = before.split("~", 3)
        return PageStart(float(at), int(number), uid, *job)
    except ValueError:
        return None


def _find_named(connection: Connection, search: str) -> list[str]:
    """Return the Instances that a whole UID, job id, patient id or accession number names."""
    conditions = (
        sa.select(instances.c.sop_instance_uid, instances.c.received_at).where(
            (instances.c.sop_instance_uid == search) | (instances.c.study_instance_uid == search)
        ),
        sa.select(instances.c.sop_instance_uid, instances.c.received_at)
        .join(jobs, jobs.c.sop_instance_uid == instances.c.sop_instance_uid)
        .where(jobs.c.id == search),
        sa.select(instances.c.sop_instance_uid, instances.c.received_at)
        .join(jobs, jobs.c.sop_instance_uid == instances.c.sop_instance_uid)
        .join(objects, objects.c.job == jobs.c.id)
        .where(objects.c.sop_instance_uid == search),
    )
    is_uid = search.replace(".", "").isdigit() and "." in search
    is_job = len(search) in (JOB_DIGITS, OLD_JOB_DIGITS)
    wanted = [conditions[0], conditions[2]] if is_uid else [conditions[1]] if is_job else []
    if " " not in search and any(c.isdigit() for c in search):
        whole = (instances.c.patient_id == search) | (instances.c.accession_number == search)
        wanted.append(sa.select(instances.c.sop_instance_uid, instances.c.received_at).where(whole))
    for query in wanted:
        found = connection.execute(query.limit(1000)).all()
        if found:
            return [uid for uid, _ in sorted(found, key=lambda item: -item[1])]
    return []


def _chunks_by_arrival(
    connection: Connection,
    where: sa.ColumnElement[bool],
    place: PageStart | None,
    is_oldest: bool,
) -> Iterator[list[str]]:
    """Yield chunks of Instances in the order of reception, the last first or the first."""
    at, uid = instances.c.received_at, instances.c.sop_instance_uid
    chunk = 64
    while True:
        query = sa.select(at, uid).where(where).limit(chunk)
        query = query.order_by(at, uid) if is_oldest else query.order_by(at.desc(), uid.desc())
        if place is not None and is_oldest:
            # as two conditions: with `at >=` beside it the index on the time is used
            behind = (at > place.received_at) | (uid > place.sop_instance_uid)
            query = query.where(at >= place.received_at, behind)
        elif place is not None:
            behind = (at < place.received_at) | (uid < place.sop_instance_uid)
            query = query.where(at <= place.received_at, behind)
        rows = connection.execute(query).all()
        if rows:
            yield [row.sop_instance_uid for row in rows]
            place = PageStart(rows[-1].received_at, 0, rows[-1].sop_instance_uid)
        if len(rows) < chunk:
            return
        chunk = _CHUNK


def _jobs_in_standing(
    connection: Connection,
    standing: str,
    place: PageStart | None,
    is_oldest: bool,
    until: float = 0.0,
) -> Iterator[tuple[float, str]]:
    """Yield time and id of the jobs in a standing, the last received one first or the first."""
    at = jobs.c.received_at
    if until and not is_oldest and (place is None or place.received_at >= until):
        # behind the first jobs of those images later ones may have begun: all but a few have none
        later = sa.and_(IS_LATER, at >= until)
        yield from _chunks_in_standing(connection, standing, place, is_oldest, later)
        place = PageStart(until, 0, "")
    yield from _chunks_in_standing(connection, standing, place, is_oldest, sa.true())


def _chunks_in_standing(
    connection: Connection,
    standing: str,
    place: PageStart | None,
    is_oldest: bool,
    where: sa.ColumnElement[bool],
) -> Iterator[tuple[float, str]]:
    at, job = jobs.c.received_at, jobs.c.id
    after: tuple[float, str] | None = None
    if place is not None and place.job:
        after = (place.received_at, place.job)
    while True:
        query = (
            sa.select(at, job)
            .where(jobs.c.standing == standing, jobs.c.standing != "", where)
            .limit(_CHUNK)
        )
        query = query.order_by(at, job) if is_oldest else query.order_by(at.desc(), job.desc())
        if after is not None and is_oldest:
            query = query.where(at >= after[0], (at > after[0]) | (job > after[1]))
        elif after is not None:
            query = query.where(at <= after[0], (at < after[0]) | (job < after[1]))
        elif place is not None:
            is_behind = at > place.received_at if is_oldest else at < place.received_at
            query = query.where(is_behind)
        rows = connection.execute(query).all()
        for row in rows:
            yield row.received_at, row.id
        if len(rows) < _CHUNK:
            return
        after = (rows[-1].received_at, rows[-1].id)


def _undelivered_arrivals(
    connection: Connection, place: PageStart | None, is_oldest: bool
) -> Iterator[Arrival]:
    """Yield what waits to be sent; there is never much of it."""
    query = sa.select(deliveries.c.job).where(IS_UNSENT).distinct()
    at, job = jobs.c.received_at, jobs.c.id
    order = (at, job) if is_oldest else (at.desc(), job.desc())
    rows = connection.execute(sa.select(at, job).where(job.in_(query)).order_by(*order)).all()
    yield from rows_of_jobs(
        connection, (row.id for row in rows if _is_behind(row, place, is_oldest))
    )


def _is_behind(row: Any, place: PageStart | None, is_oldest: bool) -> bool:
    """Return whether a job stands behind the place where a page begins."""
    if place is None:
        return True
    # of a time alone nothing of that moment
    mine = (row.received_at, row.id if place.job else "")
    its = (place.received_at, place.job)
    return mine > its if is_oldest else mine < its


def _uids_of(connection: Connection, numbers: Iterable[int]) -> Iterator[list[str]]:
    source, size = iter(numbers), 2  # few at first: the first may be all that is wanted
    while chunk := list(islice(source, size)):
        size = min(4 * size, 64)
        rows = connection.execute(
            sa.select(instances.c.number, instances.c.sop_instance_uid).where(
                instances.c.number.in_(chunk)
            )
        ).all()
        known = {row.number: row.sop_instance_uid for row in rows}
        yield [known[number] for number in chunk if number in known]


def rows_of(
    connection: Connection, chunks: Iterable[Sequence[str]], state: str
) -> Iterator[Arrival]:
    """Yield the rows of Instances, for each the last generation first, in the order given."""
    for uids in chunks:
        query = (
            sa.select(instances, *_JOB_COLUMNS)
            .outerjoin(jobs, jobs.c.sop_instance_uid == instances.c.sop_instance_uid)
            .where(instances.c.sop_instance_uid.in_(uids))
            .order_by(jobs.c.generation.desc(), jobs.c.model)
        )
        by_uid: dict[str, list[Arrival]] = {}
        for row in _read_arrivals(connection, query):
            by_uid.setdefault(row.sop_instance_uid, []).append(row)
        for uid in uids:
            yield from (row for row in by_uid.get(uid, ()) if is_in_state(row, state))


def rows_of_jobs(connection: Connection, ids: Iterator[str]) -> Iterator[Arrival]:
    """Yield the rows of jobs, in the order given."""
    while chunk := list(islice(ids, 64)):
        query = (
            sa.select(instances, *_JOB_COLUMNS)
            .join(jobs, jobs.c.sop_instance_uid == instances.c.sop_instance_uid)
            .where(jobs.c.id.in_(chunk))
        )
        known = {row.job: row for row in _read_arrivals(connection, query)}
        yield from (known[job] for job in chunk if job in known)


def _read_arrivals(connection: Connection, query: sa.Select[Any]) -> list[Arrival]:
    rows = connection.execute(query).all()
    sent = deliveries_of(connection, [row.job for row in rows if row.job])
    return [_arrival_of_row(row, sent.get(row.job, [])) for row in rows]


def is_in_state(row: Arrival, state: str) -> bool:
    """Return whether a filter by state shows a row."""
    if not state:
        return True
    if state in ("undelivered", "pending"):
        return any(delivery.state in UNSENT for delivery in row.deliveries)
    if state == "ignored":
        return row.state == state
    return row.state in STANDINGS.get(state, (state,))


def deliveries_of(connection: Connection, ids: Sequence[str]) -> dict[str, list[Row[Any]]]:
    """Return the deliveries of some jobs, by job."""
    found: dict[str, list[Row[Any]]] = {}
    if ids:
        query = sa.select(deliveries).where(deliveries.c.job.in_(ids)).order_by(deliveries.c.id)
        for row in connection.execute(query):
            found.setdefault(row.job, []).append(row)
    return found


def _arrival_of_row(row: Any, sent: Sequence[Row[Any]]) -> Arrival:
    same: tuple[str, ...] = (
        "job",
        "model",
        "generation",
        "job_at",
        "rule",
        "mode",
        "job_state",
        "job_reason",
        "attempts",
    )
    same += ("ended_at", "demonstration")
    facts = {name: getattr(row, name) for name in _INSTANCE}
    result = ResultView.of(row) if row.job else None
    waits = next((d.reason for d in sent if d.state in UNSENT and d.reason), "")
    why = result.reason.text if result and result.reason else ""
    facts["state"] = _arrival_state(row.state, row.job_state, [d.state for d in sent])
    facts["reason"] = waits or row.job_reason or row.reason
    return Arrival(
        **facts,
        **{name: getattr(row, name) for name in same},
        text=result.text if result else None,
        presence=result.presence if result else None,
        because="" if waits else why,
        ms=sum(result.stages_ms.values()) if result else None,
        deliveries=tuple(Sent(d.destination, d.kind, d.state, d.reason, d.ended_at) for d in sent),
    )
