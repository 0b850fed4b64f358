"""What an operator does on purpose: retry, resend, replay; each leaves an event."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from dicom_node.base.errors import Busy, NotFound
from dicom_node.base.job import JudgedFinding, JudgedReport, Judgement, Predecessor
from dicom_node.standard.uids import object_uid
from dicom_node.store.actor import Actor
from dicom_node.store.clock import Clock
from dicom_node.store.ledger.database import Database
from dicom_node.store.ledger.events import Details, NewEvent, Stage, append, signed
from dicom_node.store.ledger.history import find_instances
from dicom_node.store.ledger.instances import (
    Instance,
    Instances,
    Route,
    content_datetime,
    job_id,
)
from dicom_node.store.ledger.kept_results import load_result
from dicom_node.store.ledger.locks import (
    lock_deliveries,
    lock_destinations,
    lock_instances,
    lock_jobs,
)
from dicom_node.store.ledger.makers import JOB_COLUMNS, OPTIONS
from dicom_node.store.ledger.orders import order_of, split_order
from dicom_node.store.ledger.repeats import add_route, replace_content
from dicom_node.store.ledger.replaced import find_rejection_notes
from dicom_node.store.ledger.states import (
    FINAL,
    OPEN,
    RESENT,
    UNSENT,
    DeliveryState,
    InstanceState,
    JobState,
)
from dicom_node.store.ledger.variants import CHOSEN_UID
from dicom_node.store.ledger.views import ConflictView, FindingJudgement
from dicom_node.store.ledger.wanted import wishes_of
from dicom_node.store.schema import (
    IS_UNFINISHED,
    conflicts,
    deliveries,
    destinations,
    instances,
    jobs,
    judgements,
    objects,
    orders,
)

REMOVED = "retention has removed it; send it again"


@dataclass(frozen=True, slots=True)
class Judged:
    """What follows from a reader's judgement: the job of the report that tells of it, or none."""

    job: str = ""
    why: str = ""
    """Why no report follows, where one was asked for."""


class Acts:
    """Explicit acts of the operator."""

    def __init__(self, database: Database, clock: Clock, instances: Instances) -> None:
        self._database = database
        self._clock = clock
        self._instances = instances

    def retry(self, ident: str, by: str | Actor = "") -> int:
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
        now = self._clock.wall()
        with self._database.writing() as connection:
            rows = self._jobs_of(connection, ident, _hold_files(connection, ident))
            count = 0
            for row in rows:
                if row.state == JobState.FAILED:
                    count += self._restart_job(connection, row, now, by)
                    continue
                hurried = _send_now(connection, [row.id], now)
                if row.state == JobState.RECEIVED and row.next_at > now:
                    hurried += _make_due(connection, row, now)
                if hurried:
                    details = Details(**signed(by))
                    new = NewEvent(row.sop_instance_uid, Stage.RETRY, now, row.id, details)
                    append(connection, [new])
                count += hurried
            return count

    def retry_failed(self, by: str | Actor = "") -> int:
        """Let every failed job whose image is still here try again; return how many."""
        now = self._clock.wall()
        has_failed = sa.and_(IS_UNFINISHED, jobs.c.state == JobState.FAILED)
        with self._database.writing() as connection:
            has_failed = lock_jobs(connection, has_failed)
            of_failed = sa.select(jobs.c.sop_instance_uid).where(has_failed)
            _hold_instances(connection, instances.c.sop_instance_uid.in_(of_failed))
            rows = connection.execute(
                sa.select(jobs, instances.c.file)
                .join(instances)
                .where(has_failed, instances.c.file != "")
                .order_by(jobs.c.id)
            ).all()
            return sum(self._restart_job(connection, row, now, by) for row in rows)

    def resend(self, ident: str, by: str | Actor = "") -> int:
        """Send what was sent already once more: the same objects with the same UIDs.

        What is withheld stays withheld.

        Raises
        ------
        NotFound
            Nothing has this name, or the report's file is gone.
        """
        now = self._clock.wall()
        with self._database.writing() as connection:
            count = 0
            for row in self._jobs_of(connection, ident, _hold_files(connection, ident)):
                if gone := _why_gone(connection, row.id):
                    raise NotFound(f"job {row.id}: {gone}")
                count += _send_now(connection, [row.id], now)
                changed = connection.execute(
                    deliveries.update()
                    .where(deliveries.c.job == row.id, deliveries.c.state.in_(RESENT))
                    .values(
                        state=DeliveryState.PENDING,
                        attempts=0,
                        next_at=now,
                        dated_at=now,
                        reason="",
                        ended_at=0,
                        unanswered=1,  # it went there before: "duplicate" is good news
                    )
                ).rowcount
                if changed:
                    details = Details(**signed(by))
                    new = NewEvent(row.sop_instance_uid, Stage.RESEND, now, row.id, details)
                    append(connection, [new])
                count += changed
        return count

    def unsent(self, ident: str) -> list[str]:
        """Return what `resend` leaves as it is, and why: one line for each delivery."""
        with self._database.reading() as connection:
            ids = [row.id for row in self._jobs_of(connection, ident)]
            rows = connection.execute(
                sa.select(deliveries)
                .where(deliveries.c.job.in_(ids), deliveries.c.state == DeliveryState.WITHHELD)
                .order_by(deliveries.c.id)
            ).all()
            open_jobs = [
                f"job {row.id} is {row.state}: there is no report yet"
                for row in self._jobs_of(connection, ident)
                if row.state not in FINAL
            ]
        withheld = [f"{row.kind} to {row.destination} stays withheld: {row.reason}" for row in rows]
        return withheld + open_jobs

    def release(self, ident: str, by: str | Actor = "") -> tuple[int, tuple[str, ...]]:
        """Send what a shadow rule has withheld; return how many, and what stays and why.

        What a destination does not take, what a demonstration model wrote, and what retention has
        removed stays withheld.

        Raises
        ------
        NotFound
            Nothing has this name.
        """
        now = self._clock.wall()
        with self._database.writing() as connection:
            uids = _hold_files(connection, ident)
            rows = {row.id: row for row in self._jobs_of(connection, ident, uids)}
            held = connection.execute(
                sa.select(deliveries)
                .where(
                    deliveries.c.job.in_(list(rows)), deliveries.c.state == DeliveryState.WITHHELD
                )
                .order_by(deliveries.c.id)
            ).all()
            count, stays, released = 0, [], {}
            for delivery in held:
                job = rows[delivery.job]
                why = _why_withheld(delivery, job) or _why_gone(connection, job.id)
                if why:
                    stays.append(f"{delivery.kind} to {delivery.destination}: {why}")
                    continue
                count += connection.execute(
                    deliveries.update()
                    .where(
                        deliveries.c.id == delivery.id, deliveries.c.state == DeliveryState.WITHHELD
                    )
                    .values(
                        state=DeliveryState.PENDING,
                        reason="",
                        next_at=now,
                        dated_at=now,
                        created_at=now,
                        ended_at=0,
                    )
                ).rowcount
                released[job.id] = job.sop_instance_uid
            append(
                connection,
                [
                    NewEvent(uid, Stage.RELEASE, now, job_id_, Details(**signed(by)))
                    for job_id_, uid in released.items()
                ],
            )
        return count, tuple(stays)

    def settle(
        self,
        ident: str,
        outcome: Literal["sent", "given-up"],
        destination: str = "",
        by: str | Actor = "",
    ) -> int:
        """End deliveries that wait: the archive has them, or shall not get them; return how many.

        Parameters
        ----------
        destination : str
            Only those to this destination; empty: all that wait.

        Raises
        ------
        NotFound
            Nothing has this name.
        """
        now = self._clock.wall()
        is_sent = outcome == "sent"
        state = DeliveryState.SETTLED if is_sent else DeliveryState.GIVEN_UP
        who = signed(by)
        who["by"] = who["by"] or "the operator"
        reason = f"settled as {outcome}, by {who['by']}"
        with self._database.writing() as connection:
            rows = {row.id: row for row in self._jobs_of(connection, ident)}
            waiting = deliveries.c.job.in_(list(rows)) & deliveries.c.state.in_(UNSENT)
            if destination:
                waiting &= deliveries.c.destination == destination
            mine = lock_deliveries(connection, waiting)
            found = connection.execute(sa.select(deliveries).where(mine)).all()
            connection.execute(
                deliveries.update()
                .where(mine)
                .values(state=state, reason=reason, ended_at=now, ask_at=0)
            )
            stage = Stage.SETTLED if is_sent else Stage.GIVEN_UP
            append(
                connection,
                [
                    NewEvent(
                        rows[delivery.job].sop_instance_uid,
                        stage,
                        now,
                        delivery.job,
                        Details(
                            kind=delivery.kind,
                            destination=delivery.destination,
                            reason=f"as {outcome}",
                            **who,
                        ),
                    )
                    for delivery in found
                ],
            )
        return len(found)

    def replay(self, ident: str, by: str | Actor = "", rejects: bool = False) -> tuple[str, ...]:
        """Analyse again: a new job, whose report names the last report as its predecessor.

        Parameters
        ----------
        rejects : bool
            Archives are asked to hide what the new report replaces.

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
        now = self._clock.wall()
        with self._database.writing() as connection:
            newest: dict[tuple[str, str], Row[Any]] = {}
            uids = _hold_files(connection, ident)
            for row in self._jobs_of(connection, ident, uids, whole_instance=True):
                key = (row.sop_instance_uid, row.model)
                if key not in newest or row.generation > newest[key].generation:
                    newest[key] = row
            if not newest:
                raise NotFound(f"{ident[:64]!r} has no job to replay")
            for row in newest.values():
                if row.state not in FINAL:
                    raise Busy(f"job {row.id} is {row.state}; wait for its result")
                _require_file(row)
            return tuple(
                self._next_generation(connection, row, now, by, rejects=rejects)
                for row in newest.values()
            )

    def in_conflict(self, uids: Sequence[str]) -> list[str]:
        """Return those of some Instances for which other content is kept apart."""
        found: set[str] = set()
        with self._database.reading() as connection:
            for start in range(0, len(uids), 500):
                part = conflicts.c.sop_instance_uid.in_(uids[start : start + 500])
                query = sa.select(conflicts.c.sop_instance_uid).where(part, conflicts.c.file != "")
                found |= set(connection.scalars(query))
        return [uid for uid in uids if uid in found]

    def analyse(self, instance: Instance, route: Route, by: str | Actor = "") -> str:
        """Add the first job of an Instance that no rule took; return it.

        Raises
        ------
        Busy
            It has a job already.
        NotFound
            Its file is gone.
        """
        now, uid = self._clock.wall(), instance.sop_instance_uid
        with self._database.writing() as connection:
            row = connection.execute(
                sa.select(instances).where(instances.c.sop_instance_uid == uid).with_for_update()
            ).first()
            if row is None or not row.file:
                raise NotFound(f"{uid}: retention has removed the image; send it again first")
            if self._jobs_of(connection, uid):
                raise Busy(f"{uid} has a job already; run it again instead")
            job = self._instances.add_job(connection, row, route, now)
            connection.execute(
                instances.update()
                .where(instances.c.sop_instance_uid == uid)
                .values(state=InstanceState.ROUTED, reason="")
            )
            details = Details(rule=route.rule, model=route.model, mode=route.mode, **signed(by))
            append(connection, [NewEvent(uid, Stage.ROUTED, now, job, details)])
        return job

    def kept_apart(self, ident: str) -> ConflictView:
        """Return the last conflict under a name (SOP Instance UID, study, accession number).

        Raises
        ------
        NotFound
            There is none.
        """
        with self._database.reading() as connection:
            uids = find_instances(connection, ident)
            row = connection.execute(
                sa.select(conflicts)
                .where(conflicts.c.sop_instance_uid.in_(uids))
                .order_by(conflicts.c.received_at.desc(), conflicts.c.id.desc())
                .limit(1)
            ).first()
        if row is None:
            raise NotFound(f"{ident[:64]!r}: nothing is kept apart; there is nothing to adopt")
        return ConflictView(**row._mapping)

    def adopt(
        self,
        conflict: int,
        corrected: Instance,
        routes: Sequence[Route],
        by: str | Actor = "",
        rejects: bool = False,
    ) -> tuple[list[str], str]:
        """Let what was kept apart stand for its Instance; return new jobs and the replaced file.

        Each model that has reported reports again, the old report being the predecessor; an
        Instance without a job gets those that the rules ask for. With `rejects` archives are asked
        to hide what the new reports replace.

        Raises
        ------
        NotFound
            It is not kept apart any more.
        Busy
            The last job has no result yet.
        """
        now = self._clock.wall()
        with self._database.writing() as connection:
            kept_apart = sa.select(conflicts).where(conflicts.c.id == conflict)
            if (row := connection.execute(kept_apart).first()) is not None:
                uid = row.sop_instance_uid
                _hold_files(connection, uid)  # before the conflict, as a repetition locks them
                # locked: its file may be removed at this moment (PostgreSQL)
                row = connection.execute(kept_apart.with_for_update()).first()
            if row is None:
                raise NotFound("it is not kept apart any more")
            if not row.file:  # since the caller has read its header
                raise NotFound(f"{row.sop_instance_uid}: {REMOVED}")
            corrected = replace(corrected, file=row.file)
            newest = {newest_job.model: newest_job for newest_job in self._jobs_of(connection, uid)}
            for newest_job in newest.values():
                if newest_job.state not in FINAL:
                    raise Busy(f"job {newest_job.id} is {newest_job.state}; wait for its result")
            first = connection.execute(
                sa.select(instances).where(instances.c.sop_instance_uid == uid)
            ).one()
            if corrected.study_instance_uid != first.study_instance_uid:
                self._instances.keep_numbers(connection, first.study_instance_uid, list(newest))
            replace_content(connection, first, row, corrected, now)
            details = Details(reason="corrected content takes the place of the first", **signed(by))
            append(connection, [NewEvent(uid, Stage.ADOPTED, now, details=details)])
            made = [
                self._next_generation(
                    connection, newest_job, now, by, first.study_instance_uid, rejects=rejects
                )
                for newest_job in self._jobs_of(connection, uid)
                if newest[newest_job.model].id == newest_job.id
            ]
            by_model = {route.model: route for route in routes}
            for model, job in zip(newest, made, strict=True):
                if route := by_model.get(model):
                    add_route(connection, job, wishes_of(route))
            if not newest:
                corrected_row = connection.execute(
                    sa.select(instances).where(instances.c.sop_instance_uid == uid)
                ).one()
                made = [
                    self._instances.add_job(connection, corrected_row, route, now)
                    for route in routes
                ]
                if made:
                    connection.execute(
                        instances.update()
                        .where(instances.c.sop_instance_uid == uid)
                        .values(state=InstanceState.ROUTED, reason="")
                    )
        return made, str(first.file)

    def judge(
        self,
        job: str,
        verdict: Literal["agree", "disagree"],
        by: str | Actor,
        comment: str = "",
        corrected_text: str = "",
        findings: Sequence[FindingJudgement] = (),
        sends: bool = False,
        rejects: bool = False,
    ) -> Judged:
        """Keep what a reader thinks of a result, of each finding, and what it should have said.

        Parameters
        ----------
        findings : sequence of FindingJudgement
            Each names a fracture as `dicom_node.base.job.finding_names` does.
        sends : bool
            A report that tells of the judgement follows the judged one to its destinations.
        rejects : bool
            Archives are then asked to hide what that report replaces.

        Raises
        ------
        NotFound
            There is no such job, or it has no result.
        """
        now = self._clock.wall()
        with self._database.writing() as connection:
            row = connection.execute(
                sa.select(jobs.c.sop_instance_uid, jobs.c.result).where(jobs.c.id == job)
            ).first()
            if row is None or not row.result:
                raise NotFound("there is no result to judge")
            said = [{"finding": judged.finding, "verdict": judged.verdict} for judged in findings]
            connection.execute(
                judgements.insert().values(
                    job=job,
                    at=now,
                    reader=signed(by)["by"],
                    verdict=verdict,
                    comment=comment,
                    corrected_text=corrected_text,
                    findings=json.dumps(said, ensure_ascii=False) if said else "",
                )
            )
            details = Details(reason=comment, **signed(by))
            new = NewEvent(row.sop_instance_uid, Stage(verdict), now, job, details, ms=0.0)
            append(connection, [new])
            if not sends:
                return Judged()
            judged = tuple(
                JudgedFinding(
                    finding=judged.finding[:256], verdict=_verdict_of_word(judged.verdict)
                )
                for judged in findings
            )
            words: dict[str, Any] = {
                "comment": comment,
                "corrected_text": corrected_text,
                "findings": judged,
            }
            words |= {"reader": signed(by)["by"][:256], "verdict": verdict}
            return self._order_after_judgement(connection, job, now, by, words, rejects)

    def _order_after_judgement(
        self,
        connection: Connection,
        job: str,
        now: float,
        by: str | Actor,
        words: dict[str, Any],
        rejects: bool,
    ) -> Judged:
        """Let a report that tells of a judgement follow the report that was judged."""
        uid = sa.select(jobs.c.sop_instance_uid).where(jobs.c.id == job).scalar_subquery()
        # two judgements at one time make one generation after the other
        _hold_instances(connection, instances.c.sop_instance_uid == uid)
        every = self._jobs_of(connection, job, whole_instance=True)
        judged = next(row for row in every if row.id == job)
        rows = [row for row in every if row.model == judged.model]
        newest = max(rows, key=lambda row: int(row.generation))
        before = order_of(judged, judged.ordered).judgement
        report = before.report if before is not None else _judged_report(judged)
        later = (row for row in rows if row.generation > judged.generation)
        if any(order_of(row, row.ordered).judgement is None for row in later):
            return Judged(why="a later analysis of the image has taken the report's place")
        if not judged.file:
            return Judged(why="retention has removed the image; its report stays as it is")
        if not _is_out(connection, judged):
            return Judged(why="the report itself was not sent")
        judgement = Judgement(**words, report=report)
        made = self._next_generation(
            connection, newest, now, by, rejects=rejects, judgement=judgement
        )
        return Judged(made)

    def _jobs_of(
        self,
        connection: Connection,
        ident: str,
        uids: Sequence[str] = (),
        *,
        whole_instance: bool = False,
    ) -> Sequence[Row[Any]]:
        """Return the jobs that a name means, among those of `uids` where these are locked.

        An Instance may have come to a study since: it would be locked by nobody.
        """
        uids = uids or find_instances(connection, ident)
        query: sa.Select[Any] = (
            sa.select(
                *JOB_COLUMNS,
                OPTIONS,
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
        named = [row for row in rows if row.id == ident]
        return rows if whole_instance or not named else named

    def _restart_job(
        self, connection: Connection, row: Row[Any], now: float, by: str | Actor
    ) -> int:
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
            new = NewEvent(row.sop_instance_uid, Stage.RETRY, now, row.id, Details(**signed(by)))
            append(connection, [new])
        return changed

    def _next_generation(
        self,
        connection: Connection,
        row: Row[Any],
        now: float,
        by: str | Actor,
        study_before: str = "",
        *,
        rejects: bool = False,
        judgement: Judgement | None = None,
    ) -> str:
        """Add the job that follows `row`, whose report was of the study `study_before`."""
        generation = row.generation + 1
        job = job_id(row.sop_instance_uid, row.model, generation)
        study, model = row.study_instance_uid, row.model
        # A note is of one study: what an image has left behind elsewhere is not hidden.
        is_rejecting = rejects and study_before in ("", study)
        order = order_of(row, row.ordered).model_copy(
            update={
                "instance_number": self._instances.next_number(connection, study, model),
                "content_datetime": content_datetime(now),
                "generation": generation,
                "predecessor": _find_predecessor(connection, row, study_before or study),
                "series_datetime": self._instances.series_datetime(connection, study, model),
                "judgement": judgement,
                "rejection_notes": find_rejection_notes(connection, row) if is_rejecting else (),
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
        why = "with a reader's judgement" if judgement is not None else ""
        details = Details(generation=generation, reason=why, **signed(by))
        append(connection, [NewEvent(row.sop_instance_uid, Stage.REPLAY, now, job, details)])
        return job


def _verdict_of_word(word: str) -> Literal["agree", "disagree"]:
    return "agree" if word == "agree" else "disagree"


def _judged_report(row: Row[Any]) -> JudgedReport:
    """Return what a job's result said, for a report that repeats it."""
    kept = load_result(row.result)
    return JudgedReport.model_validate(
        {
            name: kept[name]
            for name in ("text", "presence", "warnings", "reason", "options")
            if name in kept
        }
        | ({"options": row.options} if row.options else {})
        | {
            "model_version": row.model_version,
            "device_uid": row.device_uid,
            "demonstration": bool(row.demonstration),
        }
    )


def _is_out(connection: Connection, row: Row[Any]) -> bool:
    """Return whether others have a report, or may see it, or will."""
    if row.mode == "live" and (not row.demonstration or row.allow_demonstration):
        return True
    some = sa.select(deliveries.c.id).where(
        deliveries.c.job == row.id, deliveries.c.state != DeliveryState.WITHHELD
    )
    return connection.scalar(some.limit(1)) is not None


def _expected_report(row: Row[Any], study: str) -> Predecessor | None:
    """Return the report that an open job with a judgement will make, else None."""
    order = order_of(row, row.ordered)
    if order.judgement is None or row.state not in OPEN or order.predecessor is None:
        return None
    report, sop_class = order.judgement.report, order.predecessor.sop_class_uid
    source, generation = row.sop_instance_uid, order.generation
    uid = object_uid("sr", sop_class, source, report.device_uid, report.options, generation)
    return order.predecessor.model_copy(
        update={"study_instance_uid": study, "sop_instance_uid": uid}
    )


def _find_predecessor(connection: Connection, row: Row[Any], study: str) -> Predecessor | None:
    """Return the report that the archives have: that which was chosen, else the preferred."""
    made = connection.execute(
        sa.select(objects)
        .where(objects.c.job == row.id, objects.c.kind == "sr")
        .order_by(objects.c.part)
    ).all()
    if not made:
        return _expected_report(row, study) or order_of(row, row.ordered).predecessor
    chosen = set(
        connection.scalars(
            sa.select(CHOSEN_UID).where(deliveries.c.job == row.id, deliveries.c.kind == "sr")
        )
    )
    last = next((o for o in made if o.sop_instance_uid in chosen), made[0])
    return Predecessor(
        study_instance_uid=study,
        series_instance_uid=last.series_instance_uid,
        sop_class_uid=last.sop_class_uid,
        sop_instance_uid=last.sop_instance_uid,
    )


def _why_withheld(delivery: Row[Any], job: Row[Any]) -> str:
    """Return why a delivery cannot be released; empty where a shadow rule alone held it."""
    if delivery.reason.endswith("is in shadow mode"):
        if job.demonstration and not job.allow_demonstration:
            return "a demonstration model wrote it, which means nothing about a patient"
        return ""
    return str(delivery.reason)


def _hold_files(connection: Connection, ident: str) -> list[str]:
    """Keep what a name means from being removed until this transaction ends (PostgreSQL).

    Before it is looked at: retention may be removing a file at this moment, and would not see the
    job or the delivery that needs it again. Return the Instances that are locked.
    """
    uids = find_instances(connection, ident)
    lock_instances(connection, uids, with_deliveries=True)
    mine = deliveries.c.job.in_(sa.select(jobs.c.id).where(jobs.c.sop_instance_uid.in_(uids)))
    names = sa.select(deliveries.c.destination).where(mine, deliveries.c.state.in_(UNSENT))
    lock_destinations(connection, destinations.c.name.in_(names))
    return uids


def _hold_instances(connection: Connection, which: sa.ColumnElement[bool]) -> None:
    # in one order, so that two never wait for each other
    number = instances.c.number
    connection.execute(sa.select(number).where(which).order_by(number).with_for_update())


def _why_gone(connection: Connection, job: str) -> str:
    """Return why a report cannot be sent; empty where its files are here."""
    gone = sa.select(objects.c.part).where(objects.c.job == job, objects.c.file == "")
    is_gone = connection.scalar(gone.limit(1)) is not None
    return "retention has removed its report; replay it" if is_gone else ""


def _require_file(row: Row[Any]) -> None:
    if not row.file:
        raise NotFound(
            f"{row.sop_instance_uid}: retention has removed the image; send it again first"
        )


def _make_due(connection: Connection, row: Row[Any], now: float) -> int:
    return connection.execute(
        jobs.update()
        .where(jobs.c.id == row.id, jobs.c.state == JobState.RECEIVED)
        .values(next_at=now, dated_at=now)
    ).rowcount


def _send_now(connection: Connection, ids: Sequence[str], now: float) -> int:
    """Make waiting deliveries of these jobs due, and their destinations be tried, at once."""
    waiting = deliveries.c.job.in_(ids) & deliveries.c.state.in_(UNSENT)
    names = list(connection.scalars(sa.select(deliveries.c.destination).where(waiting).distinct()))
    # One that was held for the first time since the others were locked is not waited for: whoever
    # has locked it may wait for these.
    free = sa.select(destinations.c.name).where(destinations.c.name.in_(names))
    free = free.with_for_update(skip_locked=True, key_share=True)
    connection.execute(
        destinations.update().where(destinations.c.name.in_(free)).values(held_until=0)
    )
    return connection.execute(
        deliveries.update().where(waiting).values(next_at=now, dated_at=now)
    ).rowcount
