"""What operators take out of the ledger: results in bulk, and who works."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from dicom_node.store.clock import Clock
from dicom_node.store.ledger.database import Database
from dicom_node.store.ledger.states import TAKEN
from dicom_node.store.schema import deliveries, instances, jobs, objects

_PAGE = 500

_OF_OBJECTS = {
    "study_instance_uid": instances.c.study_instance_uid,
    "series_instance_uid": objects.c.series_instance_uid,
    "sop_instance_uid": objects.c.sop_instance_uid,
    "patient_id": instances.c.patient_id,
    "patient_name": instances.c.patient_name,
    "accession_number": instances.c.accession_number,
    "study_date": instances.c.study_date,
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which objects of results are looked for; an empty one: all.

    ``exact`` has the possible values of a column, ``like`` a text in which ``*`` and ``?`` are
    wildcards and the case does not count, ``study_dates`` the first and the last day, YYYYMMDD.
    ``order`` has columns by which studies come, each with whether the highest comes first.
    """

    exact: Mapping[str, Sequence[str]] = field(default_factory=dict)
    like: Mapping[str, str] = field(default_factory=dict)
    study_dates: tuple[str, str] | None = None
    order: tuple[tuple[str, bool], ...] = ()


class Results:
    """The read side for export and doctor."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def between(self, since: float, until: float) -> Iterator[dict[str, Any]]:
        """Yield each job of the Instances received in this time, oldest first.

        Parameters
        ----------
        since, until : float
            Seconds since the epoch; ``since`` is part of the time, ``until`` is not.
        """
        after: tuple[float, str] = (since, "")
        while True:
            with self._database.reading() as connection:
                rows = connection.execute(_page(after, until)).all()
                sent = _deliveries_of(connection, [row.job for row in rows])
            for row in rows:
                yield _result(row, sent.get(row.job, []))
            if len(rows) < _PAGE:
                return
            after = (rows[-1].received_at, rows[-1].job)

    def reports(
        self,
        study_instance_uid: str = "",
        series_instance_uid: str = "",
        sop_instance_uid: str = "",
        patient_id: str = "",
        accession_number: str = "",
        limit: int = 1000,
    ) -> list[dict[str, Any]]:
        """Return objects of results whose files are here, newest first; for Query/Retrieve.

        An empty parameter matches everything. Each row has the object's ``kind``, ``part``, UIDs,
        ``file`` and ``made_at``, and the facts of its source Instance under their own names, the
        source's UID as ``source_instance_uid``.
        """
        wanted = {
            instances.c.study_instance_uid: study_instance_uid,
            objects.c.series_instance_uid: series_instance_uid,
            objects.c.sop_instance_uid: sop_instance_uid,
            instances.c.patient_id: patient_id,
            instances.c.accession_number: accession_number,
        }
        query = (
            sa.select(
                instances,
                instances.c.sop_instance_uid.label("source_instance_uid"),
                objects.c.kind,
                objects.c.part,
                objects.c.job,
                objects.c.file.label("object_file"),
                objects.c.sop_class_uid.label("object_class_uid"),
                objects.c.sop_instance_uid.label("object_instance_uid"),
                objects.c.series_instance_uid.label("object_series_uid"),
                jobs.c.ended_at.label("made_at"),
                jobs.c.report_order,
            )
            .join(jobs, jobs.c.id == objects.c.job)
            .join(instances, instances.c.sop_instance_uid == jobs.c.sop_instance_uid)
            .where(objects.c.file != "", *(c == value for c, value in wanted.items() if value))
            .order_by(jobs.c.ended_at.desc(), objects.c.part)
            .limit(limit)
        )
        with self._database.reading() as connection:
            rows = connection.execute(query).all()
        return [_report(row._mapping) for row in rows]

    def studies(self, wanted: Wanted) -> list[tuple[str, str]]:
        """Return Study Instance UID and patient id of studies with objects, newest first."""
        study, patient = instances.c.study_instance_uid, instances.c.patient_id
        columns = [(sa.func.min(_OF_OBJECTS[name]), is_down) for name, is_down in wanted.order]
        query = (
            sa.select(study, sa.func.min(patient))
            .select_from(_SHOWN)
            .where(_IS_SHOWN, *_conditions(wanted))
            .group_by(study)
            .order_by(*(column.desc() if is_down else column for column, is_down in columns))
            .order_by(sa.func.max(jobs.c.ended_at).desc(), study)
        )
        with self._database.reading() as connection:
            return [(str(row[0]), str(row[1])) for row in connection.execute(query)]

    def variants(self, sop_instance_uid: str) -> dict[str, str]:
        """Return the files of one report by SOP class, whichever of its Instances is named."""
        named = sa.select(objects.c.job).where(
            objects.c.sop_instance_uid == sop_instance_uid, objects.c.kind == "sr"
        )
        query = sa.select(objects.c.sop_class_uid, objects.c.file).where(
            objects.c.job.in_(named), objects.c.kind == "sr", objects.c.purged_at == 0
        )
        with self._database.reading() as connection:
            return {str(row.sop_class_uid): str(row.file) for row in connection.execute(query)}

    def objects(self, studies: Sequence[str]) -> list[dict[str, Any]]:
        """Return the objects of studies that others may see, newest first.

        Of the variants of one SR only those that a destination took are among them, or, where
        none did yet, the one that is tried first.
        """
        query = (
            sa.select(
                objects, instances.c.study_instance_uid, deliveries.c.sop_instance_uid.label("took")
            )
            .select_from(
                _SHOWN.outerjoin(
                    deliveries,
                    (deliveries.c.job == objects.c.job)
                    & (deliveries.c.sop_instance_uid == objects.c.sop_instance_uid)
                    & deliveries.c.state.in_(TAKEN),
                )
            )
            .where(_IS_SHOWN, instances.c.study_instance_uid.in_(studies))
            .order_by(jobs.c.ended_at.desc(), objects.c.job, objects.c.part)
        )
        with self._database.reading() as connection:
            rows = connection.execute(query).all()
        taken = {row.job for row in rows if row.took and row.kind == "sr"}
        first: dict[str, str] = {}
        for row in rows:
            if row.kind == "sr":
                first.setdefault(row.job, row.part)
        told = {
            (row.job, row.part): dict(row._mapping)
            for row in rows
            if row.kind != "sr" or (row.took if row.job in taken else row.part == first[row.job])
        }
        return list(told.values())

    def workers(self) -> list[dict[str, Any]]:
        """Return each worker that ever claimed a job with the time of its last claim."""
        last = sa.func.max(jobs.c.started_at)
        query = (
            sa.select(jobs.c.worker, last.label("claimed_at"))
            .where(jobs.c.worker != "")
            .group_by(jobs.c.worker)
            .order_by(last.desc())
        )
        with self._database.reading() as connection:
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
        with self._database.reading() as connection:
            rows = connection.execute(query).all()
        ended = [row for row in rows if row.ended_at >= since]
        return {
            "ended": dict(Counter(str(row.state) for row in ended)),
            "seconds": sorted(row.ended_at - row.received_at for row in ended),
            "workers": sorted(
                {row.worker for row in rows if row.worker and row.started_at >= since}
            ),
        }

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
        with self._database.reading() as connection:
            for row in connection.execute(query):
                told.setdefault(str(row.model), []).append(dict(row._mapping))
        return told


_SHOWN = objects.join(jobs, jobs.c.id == objects.c.job).join(
    instances, instances.c.sop_instance_uid == jobs.c.sop_instance_uid
)
# What a shadow rule or a demonstration model made is for nobody outside.
_IS_SHOWN = (
    (objects.c.file != "")
    & (jobs.c.mode == "live")
    & (~jobs.c.demonstration | jobs.c.allow_demonstration)
)


def _conditions(wanted: Wanted) -> list[sa.ColumnElement[bool]]:
    found: list[sa.ColumnElement[bool]] = [
        _OF_OBJECTS[name].in_(texts) for name, texts in wanted.exact.items()
    ]
    for name, text in wanted.like.items():
        plain = text.replace("/", "//").replace("%", "/%").replace("_", "/_")
        pattern = plain.replace("*", "%").replace("?", "_")
        # A name may have more component groups than are asked for.
        around = f"%{pattern.rstrip('^=')}%" if name == "patient_name" else pattern
        found.append(_OF_OBJECTS[name].ilike(around, escape="/"))
    if wanted.study_dates:
        found.append(instances.c.study_date.between(*wanted.study_dates))
    return found


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


def _report(row: Mapping[Any, Any]) -> dict[str, Any]:
    told = dict(row)
    told["file"] = told.pop("object_file")
    told["sop_class_uid"] = told.pop("object_class_uid")
    told["sop_instance_uid"] = told.pop("object_instance_uid")
    told["series_instance_uid"] = told.pop("object_series_uid")
    told["report_order"] = json.loads(told["report_order"])
    return told
