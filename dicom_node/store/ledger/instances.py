"""The ledger's first step: an Instance was received, and these jobs follow from it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine import Connection

from dicom_node.base.job import ReportOrder
from dicom_node.base.local_time import local_time
from dicom_node.standard.priority import FROM_DIMSE, DimsePriority, Priority
from dicom_node.store.clock import Clock
from dicom_node.store.ledger.batch import Batch
from dicom_node.store.ledger.database import (
    Database,
    DriverTransaction,
    PreparedStatement,
    fetch,
    write,
)
from dicom_node.store.ledger.events import (
    ADD_EVENT,
    JOB_DIGITS,
    JOB_PREFIX,
    Details,
    NewEvent,
    Stage,
    event_row,
)
from dicom_node.store.ledger.locks import lock_instances
from dicom_node.store.ledger.orders import load_own, split_order
from dicom_node.store.ledger.repeats import ReceiptKind, Repeats
from dicom_node.store.ledger.search import (
    ADD_WORDS,
    ADD_WORDS_POSTGRESQL,
    indexed_text,
    searched_text,
    sort_name,
)
from dicom_node.store.ledger.states import InstanceState, JobState
from dicom_node.store.ledger.wanted import dump_wishes, wishes_of
from dicom_node.store.schema import counters, instances, jobs, marks, orders, study_numbers


@dataclass(frozen=True, slots=True)
class Instance:
    """What the header of a received Instance says, and where its file is.

    ``priority`` is Priority (0000,0700) of the C-STORE request; ``size`` is in bytes. ``sha256`` is
    over the data set, and empty until somebody has had to compare it.
    """

    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    study_instance_uid: str
    series_instance_uid: str
    sha256: str
    size: int
    file: str
    patient_id: str = ""
    patient_name: str = ""
    patient_birth_date: str = ""
    patient_sex: str = ""
    accession_number: str = ""
    study_date: str = ""
    study_time: str = ""
    modality: str = ""
    body_part: str = ""
    view: str = ""
    manufacturer: str = ""
    station_name: str = ""
    institution: str = ""
    study_description: str = ""
    series_description: str = ""
    presentation_intent: str = ""
    calling_ae: str = ""
    calling_host: str = ""
    called_ae: str = ""
    priority: int = 0
    issuer_of_patient_id: str = ""
    study_id: str = ""
    referring_physician: str = ""
    association: str = ""


@dataclass(frozen=True, slots=True)
class Route:
    """What a rule asks for one Instance.

    ``send_to`` holds names of peers, and ``"@sender"`` where the sender is not a known peer (yet).
    ``objects`` says which kinds each of them takes; a name that is missing takes every kind.
    ``when`` says which results a destination gets (`wanted.result_word`); a name that is
    missing gets every report.
    ``priority`` is 0 (stat), 1 (normal), 2 (low), or None for that of the C-STORE request.
    """

    rule: str
    model: str
    mode: Literal["live", "shadow"] = "live"
    send_to: tuple[str, ...] = ()
    objects: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    priority: int | None = None
    allow_demonstration: bool = False
    order: ReportOrder = field(
        default_factory=lambda: ReportOrder(content_datetime=datetime.fromtimestamp(0, UTC))
    )
    when: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Receipt:
    """What the ledger made of a received Instance.

    ``file`` is the spool file that stands for the Instance: that of the first reception. A
    ``known`` UID waits for its bytes to be compared; nothing is recorded. What is ``comparing`` is
    recorded, and its pixels are compared later (`repeats`).
    """

    kind: ReceiptKind
    jobs: tuple[str, ...] = ()
    file: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class _Arrival:
    instance: Instance
    routes: Sequence[Route]
    reason: str
    at: float


REMEMBERED = 4096
"""Studies whose first report's time a process remembers: their images come close together."""

_ANY_ORDER = sa.text(
    "SELECT jobs.report_order FROM instances "
    "JOIN jobs ON jobs.sop_instance_uid = instances.sop_instance_uid "
    "WHERE instances.study_instance_uid = :study AND jobs.model = :for_model LIMIT 1"
)
"""Any report of a study and model: each tells when the first of them was made."""

_THIS = instances.c.sop_instance_uid == sa.bindparam("uid")
_LOCKED = sa.select(instances).where(_THIS).with_for_update()
_NOTE_DIGEST = (
    instances.update()
    .where(_THIS, instances.c.sha256 == sa.literal_column("''"))
    .values(sha256=sa.bindparam("digest"))
)
_FACTS = tuple(f.name for f in fields(Instance))
_JOB = (
    "id",
    "sop_instance_uid",
    "model",
    "generation",
    "rule",
    "mode",
    "allow_demonstration",
    "priority",
    "send_to",
    "order_id",
    "report_order",
    "state",
    "received_at",
)


_INSTANCE = (*_FACTS, "is_filled", "state", "reason", "received_at", "kept_at", "sort_name")


def _add_at_once(database: Database) -> sa.TextClause:
    """Return what records an Instance, its words, its job and their events at once (PostgreSQL).

    The job is that of one route and of the study's first image, as most are. Of a later image the
    answer has its number in the study, and the job is added with what that asks for.
    """
    types = {name: jobs.c[name].type.compile(dialect=database.dialect) for name in _JOB}
    facts = ", ".join(f":instances_{name}" for name in _INSTANCE)
    job = ", ".join(f"CAST(:jobs_{name} AS {type_})" for name, type_ in types.items())
    return sa.text(
        f"WITH added AS (INSERT INTO instances ({', '.join(_INSTANCE)}) "  # noqa: S608 - names from above
        f"VALUES ({facts}) ON CONFLICT DO NOTHING RETURNING number), "
        "found AS (INSERT INTO words (number, text) "
        "SELECT number, array_to_tsvector(string_to_array(CAST(:words AS TEXT), ' ')) FROM added "
        "ON CONFLICT (number) DO NOTHING), "
        "numbered AS MATERIALIZED (SELECT number, "
        "study_number(CAST(:instances_study_instance_uid AS TEXT), CAST(:jobs_model AS TEXT)) "
        "AS place FROM added), "
        f"made AS (INSERT INTO jobs ({', '.join(_JOB)}) "
        f"SELECT {job} FROM numbered WHERE place = 1), "
        "noted AS (INSERT INTO events (instance, job, at, stage, is_typed) "
        "SELECT number, job, CAST(:instances_received_at AS DOUBLE PRECISION), stage, 1 "
        f"FROM (SELECT number, '' AS job, '{Stage.RECEIVED}' AS stage FROM added UNION ALL "
        f"SELECT number, CAST(:job_prefix AS TEXT), '{Stage.ROUTED}' FROM numbered "
        "WHERE place = 1) of_both) "
        "SELECT number, place FROM numbered"
    )


def _next_in_study(study: sa.BindParameter[str], model: sa.BindParameter[str]) -> Any:
    """Return the statement that gives out the next number of a study (SQLite)."""
    before = sa.select(counters.c.last).where(
        counters.c.study_instance_uid == study, counters.c.model == model
    )
    return (
        sqlite.insert(study_numbers)
        .values(
            study_instance_uid=study,
            model=model,
            last=sa.func.coalesce(before.scalar_subquery(), sa.literal_column("0"))
            + sa.literal_column("1"),
        )
        .on_conflict_do_update(
            index_elements=study_numbers.primary_key.columns,
            set_={"last": study_numbers.c.last + sa.literal_column("1")},
        )
        .returning(study_numbers.c.last)
    )


class _Statements:
    """What reception writes, in the words of one database."""

    def __init__(self, database: Database) -> None:
        study, model = (
            sa.bindparam("study", type_=sa.Text),
            sa.bindparam("model_name", type_=sa.Text),
        )
        self.numbers: Any = (
            _next_in_study(study, model)
            if database.is_sqlite
            else sa.select(sa.func.study_number(study, model))
        )
        new = database.insert(instances).on_conflict_do_nothing()
        if database.is_sqlite:
            new = new.values(number=next_number())
        self.add_instance = database.prepared(new.returning(instances.c.number), _INSTANCE)
        adds_words = ADD_WORDS if database.is_sqlite else ADD_WORDS_POSTGRESQL
        self.add_words = database.prepared(adds_words)
        self.add_order = database.prepared(
            database.insert(orders).on_conflict_do_nothing(), ("content",)
        )
        self.find_order = database.prepared(
            sa.text("SELECT id FROM orders WHERE content = :content")
        )
        self.count_up = database.prepared(self.numbers)
        self.add_at_once = None if database.is_sqlite else database.prepared(_add_at_once(database))
        self.any_order = database.prepared(_ANY_ORDER)
        self.add_job = database.prepared(jobs.insert(), _JOB)
        self.add_event = database.prepared(ADD_EVENT)


class Instances:
    """Reception."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self.repeats = Repeats(database, clock, self.add_job)
        self._received = Batch(self._receive_batch)
        self._statements = database.once(_Statements)
        self._order_ids: dict[str, int] = {}
        self._new_orders: dict[str, int] = {}
        self._begun_at: dict[tuple[str, str], datetime | None] = {}
        self._new_begun: dict[tuple[str, str], datetime | None] = {}

    def receive(
        self,
        instance: Instance,
        routes: Sequence[Route],
        reason: str = "",
    ) -> Receipt:
        """Record an Instance whose file is durable, and the jobs that follow from it.

        Parameters
        ----------
        instance : Instance
            Its ``file`` was kept by the spool.
        routes : sequence of Route
            One job each; none leaves the Instance ``ignored`` for `reason`.

        Returns
        -------
        Receipt
            ``duplicate`` when the same bytes are known, ``conflict`` when the UID is known with
            other bytes; neither makes a job. ``known`` when a digest is missing that would tell:
            `note_digest`, then ask again with ``sha256``.

        Raises
        ------
        Unreachable, OutOfResources
            Nothing was recorded: answer 0xA700 (DICOM PS3.4 Table B.2-1).
        """
        arrival = _Arrival(instance, routes, reason, self._clock.wall())
        return self._received(arrival) or self._record_again(arrival)

    def _order_id(self, driver: DriverTransaction, shared: str) -> int:
        """Return the id of what the orders of many jobs have in common."""
        known = self._order_ids.get(shared)
        if known is None:
            # insert, then look: of two processes the second finds the row of the first
            driver.run(self._statements.add_order, {"content": shared})
            known = driver.number(self._statements.find_order, {"content": shared})
            self._new_orders[shared] = known
        return known

    def order_id(self, connection: Connection, shared: str) -> int:
        """Return the id of what orders have in common, in the transaction of the job itself."""
        statement = self._database.insert(orders).on_conflict_do_nothing()
        connection.execute(statement, {"content": shared})
        found = connection.scalar(sa.select(orders.c.id).where(orders.c.content == shared))
        return int(found or 0)

    def note_digest(self, sop_instance_uid: str, sha256: str) -> None:
        """Remember the digest of an Instance that came before, unless it is remembered."""
        with self._database.writing() as connection:
            write(connection, _NOTE_DIGEST, [{"uid": sop_instance_uid, "digest": sha256}])

    def _receive_batch(self, arrivals: Sequence[_Arrival]) -> list[Receipt | None]:
        """Record in one transaction what comes for the first time; None for the others."""
        in_order = sorted(arrivals, key=_order_of_arrival)
        with self._database.driving() as driver:
            self._new_orders.clear()
            self._new_begun.clear()
            # In one order: two listeners that get the same images in two orders would each wait
            # for what the other has begun to record (PostgreSQL).
            made = {id(arrival): self._record_first(driver, arrival) for arrival in in_order}
            receipts = [made[id(arrival)] for arrival in arrivals]
        self._order_ids |= self._new_orders  # not before they are committed
        if len(self._begun_at) > REMEMBERED:
            self._begun_at.clear()
        self._begun_at |= self._new_begun
        return receipts

    def _record_first(self, driver: DriverTransaction, arrival: _Arrival) -> Receipt | None:
        if self._statements.add_at_once is not None and len(arrival.routes) == 1:
            return self._record_at_once(driver, arrival, self._statements.add_at_once)
        instance, now, uid = arrival.instance, arrival.at, arrival.instance.sop_instance_uid
        reason = _why_ignored(arrival)
        added = driver.first(self._statements.add_instance, _instance_row(arrival, reason))
        # a known UID: the others of the batch go on, and this Instance is compared outside of it
        if added is None:
            return None
        text = searched_text(instance.patient_name, instance.patient_id, instance.accession_number)
        words = indexed_text(text, self._database.is_sqlite)
        driver.run(self._statements.add_words, {"n": added[0], "t": words})
        stages = [NewEvent(uid, Stage.RECEIVED, now)]
        if reason:
            stages.append(NewEvent(uid, Stage.IGNORED, now, details=Details(reason=reason)))
        made = [self._add_job(driver, instance, route, now) for route in arrival.routes]
        stages += [NewEvent(uid, Stage.ROUTED, now, job) for job in made]
        driver.run(self._statements.add_event, *(event_row(stage) for stage in stages))
        return Receipt("new", tuple(made), instance.file, reason)

    def _record_at_once(
        self, driver: DriverTransaction, arrival: _Arrival, statement: PreparedStatement
    ) -> Receipt | None:
        """Do as `_record_first` for an Instance with one route (PostgreSQL)."""
        instance, (route,), now = arrival.instance, arrival.routes, arrival.at
        shared, own = split_order(_order_of_route(route, 1, now))
        job = _job_row(instance, route, now)
        job |= {"order_id": self._order_id(driver, shared), "report_order": own}
        facts = (instance.patient_name, instance.patient_id, instance.accession_number)
        values = {f"instances_{name}": v for name, v in _instance_row(arrival, "").items()}
        values |= {f"jobs_{name}": value for name, value in job.items()}
        values |= {"words": searched_text(*facts), "job_prefix": str(job["id"])[:JOB_PREFIX]}
        added = driver.first(statement, values)
        if added is None:
            return None
        if added[1] != 1:
            self._add_job(driver, instance, route, now, int(str(added[1])))
            routed = NewEvent(instance.sop_instance_uid, Stage.ROUTED, now, str(job["id"]))
            driver.run(self._statements.add_event, event_row(routed))
        return Receipt("new", (str(job["id"]),), instance.file)

    def _add_job(
        self,
        driver: DriverTransaction,
        instance: Instance,
        route: Route,
        now: float,
        number: int = 0,
    ) -> str:
        """Add the job of one route and return its id.

        Parameters
        ----------
        number : int
            That of its report in the study, where it has been given out.
        """
        counter = _counter_key(instance.study_instance_uid, route.model)
        number = number or driver.number(self._statements.count_up, counter)
        order = _order_of_route(route, number, now)
        if number > 1:
            order = order.model_copy(
                update={"series_datetime": self._series_begun_at(driver, counter)}
            )
        shared, own = split_order(order)
        job = _job_row(instance, route, now) | {
            "order_id": self._order_id(driver, shared),
            "report_order": own,
        }
        driver.run(self._statements.add_job, job)
        return str(job["id"])

    def _series_begun_at(
        self, driver: DriverTransaction, counter: dict[str, Any]
    ) -> datetime | None:
        """Return when the first report of a study and model was made, None where none tells."""
        key = (str(counter["study"]), str(counter["model_name"]))
        for known in (self._begun_at, self._new_begun):
            if key in known:
                return known[key]
        asked = {"study": key[0], "for_model": key[1]}
        found = driver.first(self._statements.any_order, asked)
        self._new_begun[key] = _series_datetime(str(found[0])) if found else None
        return self._new_begun[key]

    def series_datetime(self, connection: Connection, study: str, model: str) -> datetime | None:
        """Return when the first report of a study and model was made, None where none tells."""
        found = connection.scalar(_ANY_ORDER, {"study": study, "for_model": model})
        return _series_datetime(found) if found else None

    def next_number(self, connection: Connection, study: str, model: str) -> int:
        """Return an Instance Number (0020,0013) that no other report of the study has."""
        return int(connection.scalar(self._statements.numbers, _counter_key(study, model)) or 1)

    def keep_numbers(self, connection: Connection, study: str, models: Sequence[str]) -> None:
        """Keep the numbers that a study has given out: one of its images leaves it.

        PostgreSQL counts the reports of a study's images until there is a row; SQLite has one.
        """
        if not self._database.is_sqlite:
            for model in models:
                row = {"study_instance_uid": study, "model": model, "last": 1}
                self._database.insert_new(connection, study_numbers, row)

    def known(self, sop_instance_uid: str) -> Instance | None:
        """Return the Instance as it was first received, if it was."""
        columns = [instances.c[f.name] for f in fields(Instance)]
        with self._database.reading() as connection:
            row = connection.execute(
                sa.select(*columns).where(instances.c.sop_instance_uid == sop_instance_uid)
            ).one_or_none()
        return None if row is None else Instance(**row._mapping)

    def _record_again(self, arrival: _Arrival) -> Receipt:
        """Record what came under a known UID."""
        with self._database.writing() as connection:
            lock_instances(connection, [arrival.instance.sop_instance_uid])
            # locked: its file may be removed at this moment (PostgreSQL)
            (first,) = fetch(connection, _LOCKED, {"uid": arrival.instance.sop_instance_uid})
            if not (first.sha256 and arrival.instance.sha256):
                return Receipt("known", file=first.file)
            kind, made, file, reason = self.repeats.record(
                connection, first, arrival.instance, arrival.routes, arrival.at
            )
            return Receipt(kind, made, file, reason)

    def add_job(self, connection: Connection, instance: Any, route: Route, now: float) -> str:
        """Add the first job of an Instance for a route and return its id."""
        study, model = instance.study_instance_uid, route.model
        order = _order_of_route(route, self.next_number(connection, study, model), now)
        begun = self.series_datetime(connection, study, model)
        shared, own = split_order(order.model_copy(update={"series_datetime": begun}))
        job = _job_row(instance, route, now)
        job |= {"order_id": self.order_id(connection, shared), "report_order": own}
        connection.execute(jobs.insert().values(**job))
        return str(job["id"])


def next_number() -> sa.ScalarSelect[int]:
    """Return the number of a new Instance in SQLite, behind all that there were before 0004."""
    base = sa.select(marks.c.value).where(marks.c.name == "base").scalar_subquery()
    last = sa.select(sa.func.max(instances.c.number)).where(instances.c.number.is_not(None))
    highest = sa.func.max(sa.func.coalesce(last.scalar_subquery(), 0), base, type_=sa.Integer)
    return sa.select(highest + sa.literal_column("1")).scalar_subquery()


def _counter_key(study: str, model: str) -> dict[str, Any]:
    return {"study": study, "model_name": model}


def _instance_row(arrival: _Arrival, reason: str) -> dict[str, Any]:
    row = {name: getattr(arrival.instance, name) for name in _FACTS}
    state = InstanceState.IGNORED if reason else InstanceState.ROUTED
    at = arrival.at
    row |= {"is_filled": 1, "state": state, "reason": reason}
    row["sort_name"] = sort_name(arrival.instance.patient_name)
    return row | {"received_at": at, "kept_at": at}


def _order_of_arrival(arrival: _Arrival) -> tuple[str, str]:
    return arrival.instance.study_instance_uid, arrival.instance.sop_instance_uid


def _why_ignored(arrival: _Arrival) -> str:
    return "" if arrival.routes else (arrival.reason or "no rule matched")


def _job_row(instance: Instance, route: Route, now: float) -> dict[str, Any]:
    priority = _priority_of_request(instance.priority) if route.priority is None else route.priority
    return {
        "id": job_id(instance.sop_instance_uid, route.model, 1),
        "sop_instance_uid": instance.sop_instance_uid,
        "model": route.model,
        "generation": 1,
        "rule": route.rule,
        "mode": route.mode,
        "allow_demonstration": route.allow_demonstration,
        "priority": priority,
        "send_to": dump_wishes(wishes_of(route)),
        "state": JobState.RECEIVED,
        "received_at": now,
    }


def _priority_of_request(asked: int) -> Priority:
    """Return what Priority (0000,0700) means here; a number that the Standard has not is normal."""
    known = {int(number): priority for number, priority in FROM_DIMSE.items()}
    return known.get(asked, FROM_DIMSE[DimsePriority.MEDIUM])


def _order_of_route(route: Route, number: int, now: float) -> ReportOrder:
    """Return the order of one Instance's report, the same for each rebuild."""
    update = {"instance_number": number, "content_datetime": content_datetime(now)}
    return route.order.model_copy(update=update | {"generation": 1, "predecessor": None})


def _series_datetime(report_order: str) -> datetime | None:
    """Return when the first report of its series was made, as one of the reports tells."""
    own = load_own(report_order)
    moment = own.get("series_datetime")
    if moment is None and own.get("instance_number", 1) == 1:
        moment = own.get("content_datetime")
    return datetime.fromisoformat(moment) if moment else None


def job_id(sop_instance_uid: str, model: str, generation: int) -> str:
    """Return the id of a job: the same for the same (Instance, model, generation)."""
    key = f"{sop_instance_uid}\n{model}\n{generation}"
    digest = hashlib.sha256(key.encode()).digest()
    return base64.b32hexencode(digest[:15]).decode().lower()[:JOB_DIGITS]


def content_datetime(at: float) -> datetime:
    """Return `at` in the node's time zone, to the second: when a report says it was made."""
    return local_time(int(at))
