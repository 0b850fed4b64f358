"""Reports in bulk: for export and doctor, and as an archive would show them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, islice
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dicom_node.store.clock import Clock
from dicom_node.store.ledger.database import Database
from dicom_node.store.ledger.history import deliveries_of, judgement_view
from dicom_node.store.ledger.makers import DEVICE_UID, MODEL_VERSION
from dicom_node.store.ledger.orders import has_judgement
from dicom_node.store.ledger.search import newest_numbers
from dicom_node.store.ledger.states import TAKEN
from dicom_node.store.ledger.variants import (
    IS_CHOSEN,
    ReportFile,
    is_recast,
    keep_variant,
    variants_of,
)
from dicom_node.store.ledger.views import (
    Agreement,
    JudgementView,
    ModelVersion,
    Pulse,
    ReportView,
    ResultRow,
    ResultView,
    Sent,
    WorkerClaim,
)
from dicom_node.store.schema import (
    deliveries,
    instances,
    jobs,
    judgements,
    makers,
    objects,
    totals,
    workers,
)

_PAGE = 500

_FIRST_PAGE = 24
"""Rows that are looked at first where only a few may be wanted; each page has twice as many."""

SELECTIVE = 1000
"""Up to so many Instances that a condition names are gathered and put in order; where it names
more, the newest are looked at one after another until enough match."""

_MOST_WORKERS = 1000

COLUMNS = {
    "study_instance_uid": instances.c.study_instance_uid,
    "patient_id": instances.c.patient_id,
    "accession_number": instances.c.accession_number,
    "study_date": instances.c.study_date,
    "series_instance_uid": objects.c.series_instance_uid,
    "sop_instance_uid": objects.c.sop_instance_uid,
}
"""What reports are found by."""

_OF_OBJECTS = ("series_instance_uid", "sop_instance_uid")
_INDEXED = ("study_instance_uid", "patient_id", "accession_number", "study_date")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which reports are looked for, by the columns in `COLUMNS`; when empty: all.

    ``exact`` has the possible values of a column, ``span`` its first and its last value, ``like``
    a text in which ``*`` and ``?`` are wildcards. ``order`` has columns by which studies come, each
    with whether the highest comes first; those that are equal come newest first. ``words`` are
    beginnings of words of the patient's name.
    """

    exact: Mapping[str, Sequence[str]] = field(default_factory=dict)
    like: Mapping[str, str] = field(default_factory=dict)
    span: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    order: tuple[tuple[str, bool], ...] = ()
    words: tuple[str, ...] = ()


class Results:
    """The read side for many at once."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    # export ---------------------------------------------------------------------------------------

    def between(self, since: float, until: float) -> Iterator[ResultRow]:
        """Yield each job of the Instances received in this time, oldest first.

        Parameters
        ----------
        since, until : float
            Seconds since the epoch; ``since`` is part of the time, ``until`` is not.
        """
        at, after, begin = instances.c.received_at, "", since
        while True:
            # Instances received at one time are distinguished by their UIDs.
            behind = (at > begin) | (instances.c.sop_instance_uid > after)
            uids = (
                sa.select(at, instances.c.sop_instance_uid)
                .where(at >= begin, at < until, behind)
                .order_by(at, instances.c.sop_instance_uid)
                .limit(_PAGE)
            )
            with self._database.reading() as connection:
                page = connection.execute(uids).all()
                rows = list(_rows_of(connection, [row.sop_instance_uid for row in page]))
            yield from rows
            if len(page) < _PAGE:
                return
            begin, after = page[-1]

    def workers(self) -> list[WorkerClaim]:
        """Return each worker that claimed a job lately with the time of its last claim."""
        query = sa.select(workers.c.name, workers.c.claimed_at).order_by(
            workers.c.claimed_at.desc()
        )
        with self._database.reading() as connection:
            return [WorkerClaim(*row) for row in connection.execute(query.limit(_MOST_WORKERS))]

    def pulse(self, since: float) -> Pulse:
        """Return what ended since then, how long it took, and which workers took work."""
        at = jobs.c.ended_at
        query = sa.select(jobs.c.state, jobs.c.received_at, at).where(
            jobs.c.is_kept.in_((0, 1)), at >= since, at > 0
        )
        claimed = sa.select(workers.c.name).where(workers.c.claimed_at >= since)
        with self._database.reading() as connection:
            rows = connection.execute(query).all()
            names = tuple(connection.scalars(claimed.order_by(workers.c.name)))
        return Pulse(
            ended=dict(Counter(str(row.state) for row in rows)),
            seconds=tuple(sorted(row.ended_at - row.received_at for row in rows)),
            workers=names,
        )

    def versions(self, since: float) -> dict[str, list[ModelVersion]]:
        """Return the versions of each model that made results since then, the last first.

        How many results of each there are is over all time.
        """
        named = (
            makers.c.model,
            makers.c.model_version,
            makers.c.demonstration,
            makers.c.device_uid,
        )
        made, last = sa.func.coalesce(sa.func.sum(totals.c.n), 0), sa.func.max(makers.c.last_at)
        is_counted = (totals.c.what == "results") & (totals.c.name == sa.cast(makers.c.id, sa.Text))
        query = (
            sa.select(*named, made, last)
            .outerjoin(totals, is_counted)
            .where(makers.c.last_at >= since)
            .group_by(*named)
            .order_by(last.desc())
        )
        found: dict[str, list[ModelVersion]] = {}
        with self._database.reading() as connection:
            for row in connection.execute(query):
                found.setdefault(str(row[0]), []).append(ModelVersion(*row))
        return found

    def agreement(self) -> dict[str, list[Agreement]]:
        """Return how far readers agree with each version of each model.

        Of several judgements of a result the last one counts. People make judgements one by one:
        there are few of them beside results.
        """
        later = judgements.alias("later")
        last = sa.select(sa.func.max(later.c.id)).where(later.c.job == judgements.c.job)
        agree = sa.func.sum(sa.case((judgements.c.verdict == "agree", 1), else_=0))
        query = (
            sa.select(jobs.c.model, MODEL_VERSION, agree, sa.func.count() - agree)
            .join(jobs, jobs.c.id == judgements.c.job)
            .where(judgements.c.id == last.scalar_subquery())
            .group_by(jobs.c.model, MODEL_VERSION)
            .order_by(jobs.c.model, sa.func.max(judgements.c.at).desc())
        )
        found: dict[str, list[Agreement]] = {}
        with self._database.reading() as connection:
            for row in connection.execute(query):
                found.setdefault(str(row[0]), []).append(Agreement(*row))
        return found

    # as an archive --------------------------------------------------------------------------------

    def studies(self, wanted: Wanted = Wanted()) -> Iterator[tuple[str, str]]:
        """Yield Study Instance UID and patient id of studies with reports, the newest first."""
        seen: set[str] = set()
        with self._database.reading() as connection:
            conditions = _object_conditions(wanted)
            selective = _selective_query(connection, wanted)
        if selective is not None:
            with self._database.reading() as connection:
                found = _gather_studies(connection, selective, conditions, wanted.order)
            yield from found
            return
        if wanted.words and not wanted.order:
            yield from self._studies_by_words(wanted.words, conditions)
            return
        place: tuple[Any, Any] | None = None
        size = _FIRST_PAGE
        while True:
            with self._database.reading() as connection:
                if wanted.order:
                    page, place = _ordered_studies(
                        connection, conditions, wanted.order[0], place, size
                    )
                else:
                    page, place = _newest_studies(connection, conditions, place, size)
            size = min(2 * size, _PAGE)
            for study, patient in page:
                if study not in seen:
                    seen.add(study)
                    yield study, patient
            if place is None:
                return

    def _studies_by_words(
        self, words: Sequence[str], conditions: list[sa.ColumnElement[bool]]
    ) -> Iterator[tuple[str, str]]:
        """Yield studies whose patient's name has words that begin so, the newest first."""
        behind, seen, size = None, set[str](), _FIRST_PAGE
        number = instances.c.number
        while True:
            with self._database.reading() as connection:
                is_sqlite = self._database.is_sqlite
                found = newest_numbers(connection, " ".join(words), is_sqlite, behind)
                numbers = list(islice(found, size))
                query = (
                    sa.select(instances.c.study_instance_uid, instances.c.patient_id)
                    .select_from(_SHOWN)
                    .where(_IS_SHOWN, number.in_(numbers), *conditions)
                    .order_by(number.desc())
                )
                rows = connection.execute(query).all() if numbers else []
            for study, patient in rows:
                if study not in seen:
                    seen.add(study)
                    yield str(study), str(patient)
            if len(numbers) < size:
                return
            behind, size = numbers[-1], min(2 * size, _PAGE)

    def studies_of_patients(self, patient_ids: Collection[str]) -> list[tuple[str, str]]:
        """Return Study Instance UID and patient id of all studies of some patients."""
        return list(self.studies(Wanted(exact={"patient_id": tuple(patient_ids)})))

    def objects(self, studies: Sequence[str]) -> list[ReportView]:
        """Return the objects of studies that others may see, newest first.

        Of the variants of one SR only those that a destination took are among them, or, where
        none did yet, that which was made first.
        """
        query = (
            sa.select(*_REPORT, deliveries.c.sop_instance_uid.label("took"))
            .select_from(
                _SHOWN.outerjoin(
                    deliveries,
                    IS_CHOSEN & deliveries.c.state.in_(TAKEN),
                )
            )
            .where(_IS_SHOWN, instances.c.study_instance_uid.in_(studies))
            .order_by(jobs.c.ended_at.desc(), objects.c.job, objects.c.part)
        )
        with self._database.reading() as connection:
            rows = [_report_view(row) for row in connection.execute(query).all()]
        taken = {row.job for row in rows if row.took and row.kind == "sr"}
        first: dict[str, str] = {}
        for row in rows:
            if row.kind == "sr" and not is_recast(row.part):
                first.setdefault(row.job, row.part)
        shown = {
            (row.job, row.part): row
            for row in rows
            if row.kind != "sr" or (row.took if row.job in taken else row.part == first[row.job])
        }
        return list(shown.values())

    def give_out(self, job: str, sop_classes: Sequence[str]) -> ReportFile | None:
        """Return a job's report as the first of some SR classes that it may have, None without.

        It is known by its UID from then on.
        """
        with self._database.reading() as connection:
            made = variants_of(connection, [job]).get(job, ())
        variants = {report.sop_class_uid: report for report in made}
        found = next((variants[uid] for uid in sop_classes if uid in variants), None)
        if found is not None and found.is_recast:
            with self._database.writing() as connection:
                keep_variant(self._database, connection, job, found.sop_instance_uid)
        return found


_SHOWN = objects.join(jobs, jobs.c.id == objects.c.job).join(
    instances, instances.c.sop_instance_uid == jobs.c.sop_instance_uid
)
# What a shadow rule or a demonstration model made is for nobody outside.
_IS_LIVE = (jobs.c.mode == "live") & (~jobs.c.demonstration | jobs.c.allow_demonstration)
_IS_SHOWN = (objects.c.file != "") & _IS_LIVE
_FACTS: tuple[str, ...] = (
    "study_instance_uid",
    "patient_id",
    "patient_name",
    "patient_birth_date",
    "patient_sex",
)
_FACTS += ("accession_number", "study_date", "study_time", "study_description")
_FACTS += ("issuer_of_patient_id", "study_id", "referring_physician")
_REPORT = (
    objects.c.job,
    objects.c.part,
    objects.c.kind,
    objects.c.file,
    objects.c.sop_class_uid,
    objects.c.sop_instance_uid,
    objects.c.series_instance_uid,
    objects.c.modality,
    instances.c.sop_instance_uid.label("source_instance_uid"),
    *(instances.c[name] for name in _FACTS),
    instances.c.is_filled,
    jobs.c.ended_at.label("made_at"),
)


def _report_view(row: Any) -> ReportView:
    said = dict(row._mapping)
    return ReportView(**{**said, "is_filled": bool(said["is_filled"])})


def _object_conditions(wanted: Wanted) -> list[sa.ColumnElement[bool]]:
    found: list[sa.ColumnElement[bool]] = [
        COLUMNS[name].in_(values) for name, values in wanted.exact.items()
    ]
    found += [COLUMNS[name].between(*span) for name, span in wanted.span.items()]
    for name, text in wanted.like.items():
        column, start = COLUMNS[name], _fixed_start(text)
        # two comparisons that an index answers; LIKE alone would look at every row
        if start:
            found.append((column >= start) & (column < start + _LAST))
        # what LIKE takes for wild cards is text here, and the escape sign as well
        plain = text.replace("/", "//").replace("%", "/%").replace("_", "/_")
        pattern = plain.replace("*", "%").replace("?", "_")
        if text != f"{start}*":
            found.append(column.like(pattern, escape="/"))
    if "study_date" in {*wanted.exact, *wanted.like, *wanted.span}:
        found.append(instances.c.study_date != "")
    return found


_LAST = "\U0010ffff"
"""Behind every character: what begins with a text lies before the text and this."""


def _fixed_start(pattern: str) -> str:
    """Return what all that matches begins with."""
    ends = [at for mark in "*?" if (at := pattern.find(mark)) >= 0]
    return pattern[: min(ends)] if ends else pattern


def _selective_query(connection: Connection, wanted: Wanted) -> sa.Select[Any] | None:
    """Return what names a few Instances by an index, or None where nothing does."""
    for name in _OF_OBJECTS:
        if name == "sop_instance_uid" and name in wanted.exact:
            return (
                sa.select(jobs.c.sop_instance_uid)
                .join(objects, objects.c.job == jobs.c.id)
                .where(objects.c.sop_instance_uid.in_(wanted.exact[name]))
            )
    for name in _INDEXED:
        only = Wanted(
            {k: v for k, v in wanted.exact.items() if k == name},
            {k: v for k, v in wanted.like.items() if k == name and _fixed_start(v)},
            {k: v for k, v in wanted.span.items() if k == name},
        )
        conditions = _object_conditions(only)
        if not conditions:
            continue
        named = sa.select(instances.c.sop_instance_uid).where(*conditions)
        # counting stops there: to know that there are many costs no more than to find few
        most = SELECTIVE * max(1, len(only.exact.get(name, ())))
        counted = sa.select(sa.func.count()).select_from(named.limit(most + 1).subquery())
        if int(connection.scalar(counted) or 0) <= most:
            return named
    everything = sa.select(instances.c.sop_instance_uid)
    counted = sa.select(sa.func.count()).select_from(everything.limit(SELECTIVE + 1).subquery())
    is_small = wanted.order and int(connection.scalar(counted) or 0) <= SELECTIVE
    return everything if is_small else None


def _gather_studies(
    connection: Connection,
    selective: sa.Select[Any],
    conditions: list[sa.ColumnElement[bool]],
    order: Sequence[tuple[str, bool]],
) -> list[tuple[str, str]]:
    """Return the studies of a few Instances that match, in order, else the newest first."""
    study, patient = instances.c.study_instance_uid, instances.c.patient_id
    columns = [(sa.func.min(COLUMNS[name]), is_down) for name, is_down in order]
    query = (
        sa.select(study, sa.func.min(patient))
        .select_from(_SHOWN)
        .where(_IS_SHOWN, instances.c.sop_instance_uid.in_(selective), *conditions)
        .group_by(study)
        .order_by(
            *(column.desc() if is_down else column for column, is_down in columns),
            sa.func.max(jobs.c.ended_at).desc(),
            study,
        )
    )
    return [(str(row[0]), str(row[1])) for row in connection.execute(query)]


def _ordered_studies(
    connection: Connection,
    conditions: list[sa.ColumnElement[bool]],
    order: tuple[str, bool],
    place: tuple[Any, Any] | None,
    size: int,
) -> tuple[list[tuple[str, str]], tuple[Any, Any] | None]:
    """Return studies by the index of a column, and where to go on; None: at the end.

    Of a ledger that is too large to be sorted; what is equal comes as it was received.
    """
    (name, is_down), number = order, instances.c.number
    column = COLUMNS[name]
    page = sa.select(column, number).where(column != "").limit(size)
    page = page.order_by(column.desc(), number.desc()) if is_down else page.order_by(column, number)
    if place is not None:
        value, last = place
        behind = (column < value) if is_down else (column > value)
        same = (number < last) if is_down else (number > last)
        # says no more than the pair, in a form that the index can begin at
        within = (column <= value) if is_down else (column >= value)
        page = page.where(within, behind | same)
    rows = connection.execute(page).all()
    if not rows:
        return [], None
    query = (
        sa.select(number, instances.c.study_instance_uid, instances.c.patient_id)
        .select_from(_SHOWN)
        .where(_IS_SHOWN, number.in_([row[1] for row in rows]), *conditions)
    )
    known = {row[0]: (str(row[1]), str(row[2])) for row in connection.execute(query)}
    found = [known[row[1]] for row in rows if row[1] in known]
    last_row = (rows[-1][0], rows[-1][1])
    return list(dict.fromkeys(found)), last_row if len(rows) == size else None


def _newest_studies(
    connection: Connection,
    conditions: list[sa.ColumnElement[bool]],
    place: tuple[Any, Any] | None,
    size: int,
) -> tuple[list[tuple[str, str]], tuple[Any, Any] | None]:
    """Return studies of the next reports, newest first, and where to go on; None: at the end."""
    at, job = jobs.c.ended_at, jobs.c.id
    page = (
        sa.select(at, job)
        .where(jobs.c.is_kept == 1, at > 0)
        .order_by(at.desc(), job.desc())
        .limit(size)
    )
    if place is not None:
        page = page.where(at <= place[0], (at < place[0]) | (job < place[1]))
    ids = connection.execute(page).all()
    if not ids:
        return [], None
    query = (
        sa.select(instances.c.study_instance_uid, instances.c.patient_id)
        .select_from(_SHOWN)
        .where(_IS_SHOWN, job.in_([row.id for row in ids]), *conditions)
        .order_by(at.desc(), job.desc())
    )
    found = [(str(row[0]), str(row[1])) for row in connection.execute(query)]
    last = (ids[-1].ended_at, ids[-1].id)
    return list(dict.fromkeys(found)), last if len(ids) == size else None


_RESULT = (
    instances.c.sop_instance_uid,
    instances.c.series_instance_uid,
    instances.c.study_instance_uid,
    instances.c.patient_id,
    instances.c.patient_name,
    instances.c.accession_number,
    instances.c.calling_ae,
    instances.c.modality,
    instances.c.body_part,
    instances.c.view,
    instances.c.received_at,
    jobs.c.id.label("job"),
    jobs.c.worker,
    jobs.c.started_at,
    jobs.c.ended_at,
    jobs.c.rule,
    jobs.c.mode,
    jobs.c.model,
    MODEL_VERSION,
    jobs.c.demonstration,
    jobs.c.generation,
    jobs.c.attempts,
    jobs.c.state.label("job_state"),
    jobs.c.reason.label("job_reason"),
)
_RESULT_NAMES = tuple(column.key for column in _RESULT)


def _rows_of(connection: Connection, uids: Sequence[str]) -> Iterator[ResultRow]:
    query = (
        sa.select(*_RESULT, jobs.c.result, DEVICE_UID, jobs.c.state, jobs.c.report_order)
        .join(jobs, jobs.c.sop_instance_uid == instances.c.sop_instance_uid)
        .where(instances.c.sop_instance_uid.in_(uids))
        .order_by(instances.c.received_at, instances.c.sop_instance_uid, jobs.c.generation)
    )
    rows = connection.execute(query).all()
    ids = [row.job for row in rows]
    sent, judged = deliveries_of(connection, ids), _judgements_of(connection, ids)
    for row in rows:
        yield ResultRow(
            **dict(zip(_RESULT_NAMES, row, strict=False)),
            result=ResultView.of(row),
            deliveries=tuple(
                Sent(d.destination, d.kind, d.state, d.reason, d.ended_at)
                for d in sent.get(row.job, ())
            ),
            judgements=tuple(judged.get(row.job, ())),
            is_judgement=has_judgement(row.report_order),
        )


def _judgements_of(connection: Connection, ids: Sequence[str]) -> dict[str, list[JudgementView]]:
    if not ids:
        return {}
    query = (
        sa.select(judgements).where(judgements.c.job.in_(ids)).order_by(judgements.c.job)
    ).order_by(judgements.c.id)
    rows = connection.execute(query).all()
    return {job: [judgement_view(row) for row in some] for job, some in groupby(rows, _job_of)}


def _job_of(row: Any) -> str:
    return str(row.job)
