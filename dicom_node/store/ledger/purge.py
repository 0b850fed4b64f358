"""Which files retention may remove; the rows stay."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from dicom_node.store.actor import Actor
from dicom_node.store.clock import Clock
from dicom_node.store.ledger.database import Database
from dicom_node.store.ledger.events import Details, NewEvent, Stage, append
from dicom_node.store.ledger.kept_results import dump_content, load_result
from dicom_node.store.ledger.states import (
    OPEN,
    TAKEN,
    UNSENT,
    WITH_RESULT,
    DeliveryState,
    InstanceState,
)
from dicom_node.store.ledger.views import kept_times
from dicom_node.store.schema import (
    conflicts,
    deliveries,
    events,
    instances,
    jobs,
    likenesses,
    marks,
    objects,
)

STEPS = frozenset(("queued", "claimed", "fetch", "decode", "inputs", "model", "report")) | {
    "queried",
    "retrieved",
    "accessed",
}
"""Stages that tell how something came about, and which nobody asks for later."""

REPEATED = frozenset(("released", "expired", "duplicate", "retrying", "asked", "uncommitted"))
"""Stages of which one stays for each thing that they happened to: the last, with their count and
the time of the first."""


FreedKind = Literal["delivered", "kept", "ignored", "reports", "conflicts"]
"""What a person may let go before its time: image files whose reports were delivered, image files
whose reports stay here (withheld, or without a destination), image files that no rule took, files
of reports that were delivered, and other content under a known UID."""

FREED_IMAGES: Collection[FreedKind] = ("delivered", "kept", "ignored")


@dataclass(frozen=True, slots=True)
class FileWeight:
    """How many files there are, and their bytes; None where only the disk knows."""

    count: int
    size: int | None


@dataclass(frozen=True, slots=True)
class Purgeable:
    """A file that nothing waits for any more; ``key`` names its row."""

    what: Literal["image", "report", "conflict"]
    key: tuple[str, ...]
    file: str


class Purge:
    """Retention's side."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def purgeable(
        self,
        images_s: float,
        reports_s: float,
        limit: int = 500,
        ignored_s: float | None = None,
        conflicts_s: float | None = None,
    ) -> list[Purgeable]:
        """Return files whose time is over and which no job or delivery waits for."""
        now = self._clock.wall()
        apart = now - (reports_s if conflicts_s is None else conflicts_s)
        images = {**_free_before(now, images_s, ignored_s), "limit": limit}
        reports = {"before": now - reports_s, "limit": limit}
        with self._database.reading() as connection:
            image_rows = connection.execute(_FREE_IMAGES, images).all()
            report_rows = connection.execute(_FREE_REPORTS, reports).all()
            conflict_rows = connection.execute(
                _FREE_CONFLICTS, {"before": apart, "limit": limit}
            ).all()
        return (
            [Purgeable("image", (r.sop_instance_uid,), r.file) for r in image_rows]
            + [Purgeable("report", (r.job, r.part), r.file) for r in report_rows]
            + [Purgeable("conflict", (str(r.id),), r.file) for r in conflict_rows]
        )

    def forget(
        self,
        item: Purgeable,
        images_s: float,
        reports_s: float,
        sha256: str = "",
        ignored_s: float | None = None,
    ) -> bool:
        """Record that a file is about to be removed; False when something needs it again.

        With an image's digest: when it comes again, that alone tells whether it is the same.

        The row goes first: a crash then leaves a file that nobody names, which the sweep finds,
        and never a row that names a file which is gone.
        """
        now = self._clock.wall()
        is_free, said = {
            "image": (_IMAGE_IS_FREE, _free_before(now, images_s, ignored_s)),
            "report": (_REPORT_IS_FREE, {"before": now - reports_s}),
            "conflict": (conflicts.c.purged_at == 0, {}),
        }[item.what]
        return self._forget(item, is_free, said, sha256)

    def _forget(
        self,
        item: Purgeable,
        is_free: sa.ColumnElement[bool],
        said: Mapping[str, float],
        sha256: str,
        by: Actor | None = None,
    ) -> bool:
        """Record that a file is about to be removed, where it is still free by what is `said`."""
        now = self._clock.wall()
        table, key = {
            "image": (instances, instances.c.sop_instance_uid == item.key[0]),
            # a report's variants in other SR classes are made of one file
            "report": (objects, objects.c.job == item.key[0]),
            "conflict": (
                conflicts,
                conflicts.c.id == (int(item.key[0]) if item.what == "conflict" else 0),
            ),
        }[item.what]
        # by its file, too: since it was found the row may have got another, or the id another row
        where = key & (table.c.file == item.file) & is_free
        values: dict[str, Any] = {"purged_at": now, "file": ""}
        if item.what == "image":
            is_unknown = instances.c.sha256 == ""
            # never over a digest that is known
            values["sha256"] = sa.case((is_unknown, sha256), else_=instances.c.sha256)
        # by whom it may be needed again; locked first, since an UPDATE of PostgreSQL that has
        # waited for a row judges by all other rows as they were before
        owner = {
            "image": sa.select(instances.c.number).where(key),
            "report": sa.select(jobs.c.id).where(jobs.c.id == item.key[0]),
            "conflict": sa.select(conflicts.c.id).where(key),
        }[item.what]
        with self._database.writing() as connection:
            connection.execute(owner.with_for_update())
            gone = table.update().where(where).values(values)
            changed = connection.execute(gone, dict(said)).rowcount
            if changed and item.what == "report":
                left = sa.exists().where(objects.c.job == item.key[0], objects.c.file != "")
                connection.execute(
                    jobs.update().where(jobs.c.id == item.key[0], ~left).values(is_kept=0)
                )
            if changed and item.what == "image":
                details = (
                    Details(
                        reason=f"image file removed before its time, by {by.name or 'somebody'}",
                        by=by.name,
                        address=by.address,
                    )
                    if by
                    else Details()
                )
                append(connection, [NewEvent(item.key[0], Stage.PURGED, now, details=details)])
        return changed > 0

    def due(
        self,
        images_s: float,
        reports_s: float,
        ignored_s: float | None = None,
        conflicts_s: float | None = None,
    ) -> dict[str, FileWeight]:
        """Return how much `purgeable` would find: ``images``, ``reports``, ``conflicts``."""
        now, count = self._clock.wall(), sa.func.count()
        apart = now - (reports_s if conflicts_s is None else conflicts_s)
        with self._database.reading() as connection:
            images = connection.execute(
                sa.select(count, sa.func.sum(instances.c.size)).where(_IMAGE_IS_FREE),
                _free_before(now, images_s, ignored_s),
            ).one()
            reports = connection.scalar(
                sa.select(sa.func.count(sa.distinct(objects.c.file)))
                .join(jobs, jobs.c.id == objects.c.job)
                .where(_JOB_MAY_HAVE_FREE, _REPORT_IS_FREE),
                {"before": now - reports_s},
            )
            others = connection.execute(
                sa.select(count, sa.func.sum(conflicts.c.size)).where(
                    conflicts.c.purged_at == 0, conflicts.c.received_at < apart
                )
            ).one()
        return {
            "images": FileWeight(int(images[0]), int(images[1] or 0)),
            "reports": FileWeight(int(reports or 0), None),
            "conflicts": FileWeight(int(others[0]), int(others[1] or 0)),
        }

    # what a person lets go before its time ----------------------------------------------------

    def weigh(self, kind: FreedKind, before: float) -> FileWeight:
        """Return how much a person may let go: files that were done with before a time.

        What is not delivered yet, has failed or was given up is never among them. It looks at
        every file that is kept: ask it aside.
        """
        with self._database.reading() as connection:
            row = connection.execute(_weighed(kind, before)).one()
        return FileWeight(int(row.n), None if kind == "reports" else int(row.size or 0))

    def kept_files(self) -> dict[str, FileWeight]:
        """Return how many files of each kind are kept: ``images``, ``reports``, ``conflicts``."""
        size, count = sa.func.sum(instances.c.size), sa.func.count()
        apart = sa.select(count, sa.func.sum(conflicts.c.size)).where(conflicts.c.file != "")
        with self._database.reading() as connection:
            images = connection.execute(sa.select(count, size).where(instances.c.file != "")).one()
            others = connection.execute(apart).one()
            reports = connection.scalar(
                sa.select(count).select_from(jobs).where(jobs.c.is_kept == 1, jobs.c.ended_at > 0)
            )
        return {
            "images": FileWeight(int(images[0]), int(images[1] or 0)),
            "reports": FileWeight(int(reports or 0), None),
            "conflicts": FileWeight(int(others[0]), int(others[1] or 0)),
        }

    def removable(self, kind: FreedKind, before: float, limit: int = 500) -> list[Purgeable]:
        """Return some of the files of `weigh`."""
        query = _freed(kind, before).limit(limit)
        with self._database.reading() as connection:
            rows = connection.execute(query).all()
        if kind == "reports":
            return [Purgeable("report", (row.job, row.part), row.file) for row in rows]
        if kind == "conflicts":
            return [Purgeable("conflict", (str(row.id),), row.file) for row in rows]
        return [Purgeable("image", (row.sop_instance_uid,), row.file) for row in rows]

    def let_go(
        self, item: Purgeable, kind: FreedKind, before: float, by: Actor, sha256: str = ""
    ) -> bool:
        """Record that a person removes a file; False where something needs it meanwhile.

        As `forget`: the row goes first, and an image's digest stays.
        """
        return self._forget(item, _may_go(kind, before), {}, sha256, by)

    def condense(self, before: float, limit: int = 500, last: int | None = None) -> int:
        """Condense what was kept before this time; return how many events were looked at.

        What an Instance came from, its result, failures, where its report went and who judged it
        stays; of what was tried again and again one event with a count; of what a result says
        about its making the time of the model and of the rest. It goes through the events by
        their key and remembers how far it came.

        Parameters
        ----------
        last : int, optional
            The last event that may be condensed: others behind it are still waited for.
        """
        with self._database.reading() as connection:
            plan = _plan(connection, before, limit, last)
        if plan is None:
            return 0  # what lies behind is young too, and there is much of it
        mark = marks.c.name == _CONDENSED
        # Nothing is lost with it in a power cut: it is done again.
        with self._database.writing(durable=False) as connection:
            self._database.insert_new(connection, marks, {"name": _CONDENSED, "value": 0})
            moved = marks.update().where(mark, marks.c.value == plan.begin)
            if not connection.execute(moved.values(value=plan.end)).rowcount:
                return 0  # another process has done it meanwhile
            if plan.dropped:
                connection.execute(_DROP, {"ids": plan.dropped})
            if plan.counted:
                connection.execute(_COUNT, plan.counted)
            if plan.results:
                connection.execute(_SHORTEN, plan.results)
        return plan.looked_at

    def condensed(self) -> int:
        """Return the last event that `condense` has looked at."""
        mark = sa.select(marks.c.value).where(marks.c.name == _CONDENSED)
        with self._database.reading() as connection:
            return int(connection.scalar(mark) or 0)

    def keep_statistics(self) -> None:
        """Let SQLite look at samples of its tables, so that it chooses indexes by what is there."""
        if self._database.is_sqlite:
            with self._database.writing() as connection:
                connection.exec_driver_sql("PRAGMA analysis_limit = 400")
                connection.exec_driver_sql("PRAGMA optimize")

    def give_back_pages(self, count: int = 32) -> None:
        """Give some free pages of a SQLite file back to the disk, where it was made for that."""
        if self._database.is_sqlite:
            with self._database.writing(durable=False) as connection:
                connection.exec_driver_sql(f"PRAGMA incremental_vacuum({count:d})")

    def named_files(self) -> Iterator[str]:
        """Yield the file of every row that has one, some rows a transaction.

        No index is kept for a question that is asked once a day: this walks through the rows.
        """
        for first, next_ones in _NAMED_FILES:
            query, behind = first, dict[str, Any]()
            while True:
                with self._database.reading() as connection:
                    rows = connection.execute(query, behind).all()
                yield from (row.file for row in rows)
                if len(rows) < _FILES_AT_ONCE:
                    break
                query = next_ones
                behind = {f"last_{place}": value for place, value in enumerate(rows[-1][:-1])}

    def unnamed(self, files: Sequence[str]) -> set[str]:
        """Return those of `files` that no row names; for a few: it looks at every row."""
        named: set[str] = set()
        with self._database.reading() as connection:
            for table in (instances, objects, conflicts, likenesses):
                named |= set(
                    connection.scalars(sa.select(table.c.file).where(table.c.file.in_(files)))
                )
        return set(files) - named


_FILES_AT_ONCE = 2000


def _files_of(table: sa.Table, *key: sa.Column[Any]) -> tuple[sa.Select[Any], sa.Select[Any]]:
    """Return the question for the first files of a table, and that for those behind some."""
    # short transactions: a long view would keep SQLite's log from being copied back
    first = sa.select(*key, table.c.file).where(table.c.file != "")
    first = first.order_by(*key).limit(_FILES_AT_ONCE)
    last = (sa.bindparam(f"last_{place}", type_=own.type) for place, own in enumerate(key))
    return first, first.where(sa.tuple_(*key) > sa.tuple_(*last))


_NAMED_FILES = (
    _files_of(instances, instances.c.kept_at, instances.c.sop_instance_uid),  # has an index
    _files_of(objects, objects.c.job, objects.c.part),
    _files_of(conflicts, conflicts.c.id),
    _files_of(likenesses, likenesses.c.id),
)

_CONDENSED = "condensed"
"""The mark with the last event that was condensed."""

_DROP = events.delete().where(events.c.id.in_(sa.bindparam("ids", expanding=True)))
_COUNT = (
    events.update()
    .where(events.c.id == sa.bindparam("event"))
    .values(detail=sa.bindparam("said"), is_typed=1)
)
_SHORTEN = (
    jobs.update()
    .where(jobs.c.id == sa.bindparam("of"), jobs.c.result == sa.bindparam("long"))
    .values(result=sa.bindparam("short"))
)
_BY_KEY: tuple[sa.ColumnElement[Any], ...] = (
    *(events.c.id, events.c.stage, events.c.at, events.c.instance, events.c.sop_instance_uid),
    *(events.c.job, events.c.detail, events.c.is_typed),
)
_MODEL, _OTHER = "model", "other"


@dataclass(slots=True)
class _Plan:
    """What becomes of some events: ``begin`` and ``end`` are places in their order."""

    begin: int
    end: int
    looked_at: int
    dropped: list[int]
    counted: list[dict[str, object]]
    results: list[dict[str, object]]


def _plan(connection: Connection, before: float, limit: int, last: int | None) -> _Plan | None:
    """Return what becomes of the next old events; None where there are none.

    Made before the ledger is locked. Nobody else changes old events.
    """
    mark = sa.select(marks.c.value).where(marks.c.name == _CONDENSED)
    begin = int(connection.scalar(mark) or 0)
    query = sa.select(*_BY_KEY).where(events.c.id > begin).order_by(events.c.id).limit(limit)
    if last is not None:
        query = query.where(events.c.id <= last)
    # a young one between old ones was dated by a clock that was ahead: it stays
    rows = [row for row in connection.execute(query) if row.at < before]
    if rows and rows[-1].stage in STEPS:
        # SQLite gives its highest id to the next row once it is free: who has come so far in the
        # audit trail would never see that row
        newest = connection.scalar(sa.select(sa.func.max(events.c.id)))
        rows = [row for row in rows if row.id != newest]
    if not rows:
        return None
    again = [row for row in rows if row.stage in REPEATED]
    dropped = [row.id for row in rows if row.stage in STEPS]
    groups: dict[tuple[object, ...], list[Row[Any]]] = {}
    for row in [*_condensed(connection, again, begin), *again]:
        groups.setdefault(_likeness(row), []).append(row)
    counted: list[dict[str, object]] = []
    for group in groups.values():
        if len(group) > 1:
            *earlier, kept = group
            dropped += [row.id for row in earlier]
            counted.append({"event": kept.id, "said": _counted(group).dump()})
    ended = {row.instance for row in rows if row.stage in WITH_RESULT and row.instance is not None}
    results = _shortened(connection, ended, before)
    return _Plan(begin, rows[-1].id, len(rows), dropped, counted, results)


def _condensed(connection: Connection, again: Sequence[Row[Any]], begin: int) -> list[Row[Any]]:
    """Return the events that stand for those of before, of the same Instances."""
    found: list[Row[Any]] = []
    numbers = {row.instance for row in again if row.instance is not None}
    uids = {row.sop_instance_uid for row in again if row.sop_instance_uid}
    for column, values in ((events.c.instance, numbers), (events.c.sop_instance_uid, uids)):
        if values:
            query = sa.select(*_BY_KEY).where(column.in_(values), events.c.stage.in_(REPEATED))
            if column is events.c.sop_instance_uid:
                query = query.where(column != "")  # the index has no others
            found += connection.execute(query.where(events.c.id <= begin)).all()
    return sorted(found, key=lambda row: int(row.id))


def _likeness(row: Row[Any]) -> tuple[object, ...]:
    """Return what events have in common of which one is kept."""
    d = Details.load(row.detail, bool(row.is_typed))
    about = (d.kind, d.destination, d.calling_ae, d.calling_host)
    return (row.instance, row.sop_instance_uid, row.job, row.stage, *about)


def _counted(group: Sequence[Row[Any]]) -> Details:
    """Return the details of the last of some events, with how many there were since when."""
    all_of = [Details.load(row.detail, bool(row.is_typed)) for row in group]
    return replace(
        all_of[-1],
        count=sum(one.count or 1 for one in all_of),
        since=min(one.since or row.at for one, row in zip(all_of, group, strict=True)),
    )


def _shortened(
    connection: Connection, numbers: Collection[int], before: float
) -> list[dict[str, object]]:
    """Return results of some Instances with the time of the model and of all else only."""
    if not numbers:
        return []
    query = (
        sa.select(jobs.c.id, jobs.c.result)
        .join(instances, instances.c.sop_instance_uid == jobs.c.sop_instance_uid)
        .where(instances.c.number.in_(numbers), jobs.c.result != "", jobs.c.ended_at < before)
    )
    found: list[dict[str, object]] = []
    for job, text in connection.execute(query):
        content = load_result(text)
        took = kept_times(content)
        if len(took) > 2:
            rest = sum(ms for stage, ms in took.items() if stage != _MODEL)
            content["stages_ms"] = {_OTHER: round(rest, 1)}
            if _MODEL in took:
                content["stages_ms"][_MODEL] = took[_MODEL]
            found.append({"of": job, "long": text, "short": dump_content(content)})
    return found


_THERE = (*TAKEN, DeliveryState.SETTLED)
"""Deliveries of which somebody has said that the destination has the report."""


def _freed(kind: FreedKind, before: float) -> sa.Select[Any]:
    """Return the statement that finds what a person may let go."""
    where = _may_go(kind, before)
    if kind == "reports":
        return (
            sa.select(objects.c.job, objects.c.part, objects.c.file)
            .join(jobs, jobs.c.id == objects.c.job)
            .where(jobs.c.is_kept == 1, jobs.c.ended_at > 0, jobs.c.ended_at < before, where)
        )
    if kind == "conflicts":
        return sa.select(conflicts.c.id, conflicts.c.file, conflicts.c.size).where(where)
    return sa.select(instances.c.sop_instance_uid, instances.c.file, instances.c.size).where(where)


def _weighed(kind: FreedKind, before: float) -> sa.Select[Any]:
    found = _freed(kind, before).subquery()
    # variants of a report in other SR classes are made of one file
    is_report = kind == "reports"
    count = sa.func.count(sa.distinct(found.c.file)) if is_report else sa.func.count()
    size = sa.null() if is_report else sa.func.sum(found.c.size)
    return sa.select(*(count.label("n"), size.label("size")))


def _may_go(kind: FreedKind, before: float) -> sa.ColumnElement[bool]:
    """Return what a person may let go; stricter than what goes when its time is over."""
    if kind == "conflicts":
        is_old = conflicts.c.received_at < before
        return sa.and_(conflicts.c.purged_at == 0, conflicts.c.file != "", is_old)
    if kind == "reports":
        return _report_may_go(before)
    is_old = sa.and_(instances.c.file != "", instances.c.kept_at < before)
    if kind == "ignored":
        return sa.and_(is_old, instances.c.state == InstanceState.IGNORED, ~sa.exists(_some_job()))
    is_under_way = sa.exists(
        _some_job(jobs.c.state.not_in(WITH_RESULT) | (jobs.c.ended_at >= before))
    )
    known = (*_THERE, DeliveryState.WITHHELD)
    is_undelivered = sa.exists(
        _some_delivery(deliveries.c.state.not_in(known) | (deliveries.c.ended_at >= before))
    )
    stays_here = sa.or_(
        sa.exists(_some_delivery(deliveries.c.state == DeliveryState.WITHHELD)),
        sa.exists(
            _some_job(
                jobs.c.state.in_(WITH_RESULT),
                ~sa.exists(
                    sa.select(sa.literal(1)).where(deliveries.c.job == jobs.c.id).correlate(jobs)
                ),
            )
        ),
    )
    return sa.and_(
        is_old,
        sa.exists(_some_job()),
        ~is_under_way,
        ~is_undelivered,
        stays_here if kind == "kept" else ~stays_here,
    )


def _some_job(*where: sa.ColumnElement[bool]) -> sa.Select[Any]:
    of_instance = jobs.c.sop_instance_uid == instances.c.sop_instance_uid
    return sa.select(sa.literal(1)).where(of_instance, *where).correlate(instances)


def _some_delivery(where: sa.ColumnElement[bool]) -> sa.Select[Any]:
    return (
        sa.select(sa.literal(1))
        .select_from(deliveries.join(jobs, deliveries.c.job == jobs.c.id))
        .where(jobs.c.sop_instance_uid == instances.c.sop_instance_uid, where)
        .correlate(instances)
    )


def _report_may_go(before: float) -> sa.ColumnElement[bool]:
    """Return whether a report was delivered to all that should have it, some time ago."""
    of_job = deliveries.c.job == objects.c.job
    is_there = sa.select(sa.literal(1)).where(of_job, deliveries.c.state.in_(_THERE))
    is_not = sa.select(sa.literal(1)).where(
        of_job,
        deliveries.c.state.not_in(_THERE)
        | (deliveries.c.ended_at >= before)
        | (deliveries.c.ask_at > 0),
    )
    ended = sa.select(sa.literal(1)).where(jobs.c.id == objects.c.job, jobs.c.ended_at < before)
    return sa.and_(
        objects.c.file != "",
        sa.exists(ended.correlate(objects)),
        sa.exists(is_there.correlate(objects)),
        ~sa.exists(is_not.correlate(objects)),
    )


_BEFORE, _IGNORED = (
    sa.bindparam(name, type_=instances.c.kept_at.type) for name in ("before", "ignored")
)
"""The times before which all was done with: of what a rule took, and of what none took."""


def _free_before(now: float, images_s: float, ignored_s: float | None) -> dict[str, float]:
    """Return the times that `_IMAGE_IS_FREE` asks for."""
    before = now - images_s
    ignored = before if ignored_s is None else now - ignored_s
    return {"before": before, "ignored": ignored, "later": max(before, ignored)}


def _image_is_free() -> sa.ColumnElement[bool]:
    of_instance = jobs.c.sop_instance_uid == instances.c.sop_instance_uid
    undone: Collection[sa.ColumnElement[bool]] = (
        jobs.c.state.in_(OPEN),
        jobs.c.ended_at >= _BEFORE,
    )
    busy = sa.select(sa.literal(1)).where(of_instance, sa.or_(*undone))
    unsent = (
        sa.select(sa.literal(1))
        .select_from(deliveries.join(jobs, deliveries.c.job == jobs.c.id))
        .where(
            of_instance,
            deliveries.c.state.in_(UNSENT) | (deliveries.c.ended_at >= _BEFORE),
        )
    )
    return sa.and_(
        instances.c.file != "",
        instances.c.kept_at
        < sa.case((instances.c.state == InstanceState.IGNORED, _IGNORED), else_=_BEFORE),
        # says no more than the line above, in a form that the index on `kept_at` can use
        instances.c.kept_at < sa.bindparam("later"),
        ~sa.exists(busy.correlate(instances)),
        ~sa.exists(unsent.correlate(instances)),
    )


def _report_is_free() -> sa.ColumnElement[bool]:
    ended = sa.select(sa.literal(1)).where(jobs.c.id == objects.c.job, jobs.c.ended_at < _BEFORE)
    unsent = sa.select(sa.literal(1)).where(
        deliveries.c.job == objects.c.job,
        # What is not committed to may have to be sent again.
        deliveries.c.state.in_(UNSENT)
        | (deliveries.c.ended_at >= _BEFORE)
        | (deliveries.c.ask_at > 0),
    )
    return sa.and_(
        objects.c.file != "",
        sa.exists(ended.correlate(objects)),
        ~sa.exists(unsent.correlate(objects)),
    )


# Built once: retention asks in each of its turns, and building took as long as the answer.
_IMAGE_IS_FREE, _REPORT_IS_FREE = _image_is_free(), _report_is_free()
_JOB_MAY_HAVE_FREE = sa.and_(jobs.c.is_kept == 1, jobs.c.ended_at > 0, jobs.c.ended_at < _BEFORE)
"""Says no more than `_REPORT_IS_FREE`, in a form that an index can use."""
_LIMIT = sa.bindparam("limit", type_=sa.Integer)
_FREE_IMAGES = (
    sa.select(instances.c.sop_instance_uid, instances.c.file).where(_IMAGE_IS_FREE).limit(_LIMIT)
)
_FREE_REPORTS = (
    sa.select(objects.c.job, objects.c.part, objects.c.file)
    .join(jobs, jobs.c.id == objects.c.job)
    .where(_JOB_MAY_HAVE_FREE, _REPORT_IS_FREE)
    .limit(_LIMIT)
)
_FREE_CONFLICTS = (
    sa.select(conflicts.c.id, conflicts.c.file)
    .where(conflicts.c.purged_at == 0, conflicts.c.received_at < _BEFORE)
    .limit(_LIMIT)
)
