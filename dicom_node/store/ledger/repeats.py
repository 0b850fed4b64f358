"""What comes again under a known SOP Instance UID: whose it is, and what follows from it.

The same bytes, or the same pixels in another coding, are the same image: it gets its first job if
it had none and a rule takes it now, and a further sender gets the *same* report. Other content is
a conflict, kept apart until somebody adopts it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from dicom_node.settings import SENDER
from dicom_node.store.clock import Clock
from dicom_node.store.ledger.database import Database, change, fetch, write
from dicom_node.store.ledger.deliveries import add_deliveries
from dicom_node.store.ledger.events import Details, NewEvent, Stage, append
from dicom_node.store.ledger.kept_results import load_result
from dicom_node.store.ledger.locks import lock_instances
from dicom_node.store.ledger.search import replace_words, searched_text, sort_name
from dicom_node.store.ledger.states import WITH_RESULT, InstanceState, JobState
from dicom_node.store.ledger.wanted import Wish, dump_wishes, load_wishes, wishes_of
from dicom_node.store.schema import conflicts, instances, jobs, likenesses, objects, senders

SAME_BYTES, SAME_PIXELS = "same bytes again", "same pixels again"
KEPT_APART = "same SOP Instance UID with other content; kept apart, not analysed"

ReceiptKind = Literal["new", "known", "duplicate", "comparing", "conflict"]

MATTERS = {
    "sop_class_uid": "SOP Class UID",
    "study_instance_uid": "Study Instance UID",
    "series_instance_uid": "Series Instance UID",
    "patient_id": "Patient ID",
    "issuer_of_patient_id": "Issuer of Patient ID",
    "patient_name": "Patient's Name",
    "patient_birth_date": "Patient's Birth Date",
    "patient_sex": "Patient's Sex",
    "accession_number": "Accession Number",
    "modality": "Modality",
    "body_part": "Body Part Examined",
    "view": "View Position",
    "presentation_intent": "Presentation Intent Type",
}
"""Facts of a header in which the same image does not differ, and their names."""

LOSSY = frozenset(f"1.2.840.10008.1.2.4.{tail}" for tail in ("50", "51", "81", "91", "203"))
"""Transfer syntaxes that may change pixels: a copy in one of them has a UID of its own (PS3.3
C.7.6.1.1.5)."""

LOST = "lost"
"""Stands for the digest of a file that is not where the ledger says; equal to none."""

MOST_SENDERS = 64
"""Senders of one Instance that are distinguished; a hospital has a few."""

WAITING, SAME, REPLACED = "waiting", "same", "replaced"
"""States of a likeness: to be compared; the same pixels; what an adopted correction replaced."""


@dataclass(frozen=True, slots=True)
class Likeness:
    """What came under a known UID with other bytes and has to be compared with the first file."""

    id: int
    sop_instance_uid: str
    transfer_syntax_uid: str
    file: str
    first_file: str
    calling_ae: str
    calling_host: str
    called_ae: str
    association: str
    priority: int
    received_at: float


_COMPARED = [name for name in Likeness.__slots__ if name != "first_file"]
_TO_COMPARE = (
    sa.select(*(likenesses.c[name] for name in _COMPARED), instances.c.file)
    .join(instances, instances.c.sop_instance_uid == likenesses.c.sop_instance_uid)
    .where(likenesses.c.state == WAITING)
    .order_by(likenesses.c.received_at, likenesses.c.id)
    .limit(sa.bindparam("number"))
)

# What each repetition asks and writes is built once: building took longer than asking.

_OF_INSTANCE = sa.bindparam("uid", type_=sa.Text)
_FIRST = sa.select(instances).where(instances.c.sop_instance_uid == _OF_INSTANCE)
_RESENT = (
    instances.update()
    .where(instances.c.sop_instance_uid == _OF_INSTANCE)
    .values(resends=instances.c.resends + sa.literal_column("1"))
)
_KEEP_AGAIN = (
    instances.update()
    .where(instances.c.sop_instance_uid == _OF_INSTANCE)
    .values(file=sa.bindparam("new_file"), purged_at=0, kept_at=sa.bindparam("now"))
)
_HAVE_SENT = senders.c.sop_instance_uid == _OF_INSTANCE
_SENT_AGAIN = (
    senders.update()
    .where(
        _HAVE_SENT,
        senders.c.calling_ae == sa.bindparam("title"),
        senders.c.calling_host == sa.bindparam("host"),
    )
    .values(
        received=senders.c.received + sa.literal_column("1"),
        last_at=sa.bindparam("now"),
        association=sa.bindparam("by"),
    )
)
_SENDERS = sa.select(sa.func.count().label("n")).select_from(senders).where(_HAVE_SENT)
_ADD_SENDER = senders.insert()
_JOBS = (
    sa.select(jobs, instances.c.calling_ae, instances.c.calling_host)
    .join(instances, instances.c.sop_instance_uid == jobs.c.sop_instance_uid)
    .where(jobs.c.sop_instance_uid == _OF_INSTANCE)
    .order_by(jobs.c.generation)
)
_ROUTE = (
    instances.update()
    .where(instances.c.sop_instance_uid == _OF_INSTANCE)
    .values(state=InstanceState.ROUTED, reason="")
)
_OF_JOB = jobs.c.id == sa.bindparam("job_id")
_SEND_ALSO = jobs.update().where(_OF_JOB).values(send_to=sa.bindparam("wishes"))
_SEND_ALSO_SOONER = _SEND_ALSO.values(priority=sa.bindparam("sooner"))
_PARTS = sa.select(objects.c.part, objects.c.kind).where(objects.c.job == sa.bindparam("job_id"))
_ADD_LIKENESS = likenesses.insert()
_IS_SAME = (
    likenesses.update()
    .where(likenesses.c.id == sa.bindparam("likeness"), likenesses.c.state == WAITING)
    .values(state=SAME, file="")
)
_COMPARED_ROW = sa.select(likenesses).where(likenesses.c.id == sa.bindparam("likeness"))
_FILE_KEY = ("sop_instance_uid", "sha256", "transfer_syntax_uid")


def _with_file(table: sa.Table) -> sa.Select[Any]:
    """Return the query of a table's rows of one file."""
    return sa.select(table).where(*(table.c[n] == sa.bindparam(f"its_{n}") for n in _FILE_KEY))


def _file_key(instance: Any) -> dict[str, str]:
    """Return the values of `_with_file`."""
    return {f"its_{name}": getattr(instance, name) for name in _FILE_KEY}


_LIKENESS = _with_file(likenesses)
_CONFLICT = _with_file(conflicts)


def _wider_wish(known: Wish | None, asked: Wish, job: Row[Any], route: Any) -> Wish | None:
    """Return what a destination gets now; None where a further rule adds nothing to it."""
    new = Wish(asked.kinds, asked.when, route.rule, route.mode, route.allow_demonstration)
    if known is None:
        return new
    if not known.when:
        return None  # it gets every result already
    own = (known.mode, known.allow_demonstration) if known.rule else ()
    if (own or (job.mode, bool(job.allow_demonstration))) == (new.mode, new.allow_demonstration):
        results = tuple(dict.fromkeys((*known.when, *asked.when))) if asked.when else ()
        kinds = tuple(dict.fromkeys((*known.kinds, *asked.kinds)))
        kinds = kinds if known.kinds and asked.kinds else ()
        return None if results == known.when else replace(new, kinds=kinds, when=results)
    # not under one rule what only the other sends: a live rule for every result covers both
    return new if new.mode == "live" and not new.when else None


class Repeats:
    """Records what comes again.

    Parameters
    ----------
    add_job : callable
        Makes the first job of an Instance for a route: (connection, instance row, route, now).
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        add_job: Callable[[Connection, Any, Any, float], str],
    ) -> None:
        self._database = database
        self._clock = clock
        self._add_job = add_job

    def record(
        self,
        connection: Connection,
        first: Row[Any],
        instance: Any,
        routes: Sequence[Any],
        at: float,
    ) -> tuple[ReceiptKind, tuple[str, ...], str, str]:
        """Record what came under the UID of `first`; return kind, new jobs, file and reason.

        Both have their digests.
        """
        if (first.sha256, first.transfer_syntax_uid) == (
            instance.sha256,
            instance.transfer_syntax_uid,
        ):
            return self._record_duplicate(connection, first, instance, routes, at)
        known = self._known_likeness(connection, instance)
        if known is not None and known.state == SAME:
            return self._record_duplicate(connection, first, instance, routes, at, known)
        if known is not None:
            reason = "content that was replaced" if known.state == REPLACED else "being compared"
            self._note_sender(connection, first, instance, at, reason)
            return "duplicate" if known.state == REPLACED else "comparing", (), known.file, reason
        if kept := self._kept_conflict(connection, instance):
            file = kept.file or self._keep_again(connection, kept, instance, at)
            return "conflict", (), file, KEPT_APART
        if reason := _header_difference(first, instance):
            return "conflict", (), self._add_conflict(connection, instance, reason, at), reason
        return "comparing", (), self._add_likeness(connection, instance, at), "being compared"

    def waiting(self, limit: int = 4) -> list[Likeness]:
        """Return what has to be compared, the first that came first."""
        rows = self._database.look(_TO_COMPARE, number=limit)
        return [Likeness(**dict(zip((*_COMPARED, "first_file"), row, strict=True))) for row in rows]

    def settle_same(
        self, likeness: Likeness, routes: Sequence[Any]
    ) -> tuple[tuple[str, ...], str] | None:
        """Record that it is the same image; None where it was settled already.

        Returns
        -------
        jobs : tuple of str
            The jobs that follow from it.
        file : str
            The Instance's file: the second one where retention has removed the first meanwhile.
        """
        now = self._clock.wall()
        with self._database.writing() as connection:
            lock_instances(connection, [likeness.sop_instance_uid])
            if not change(connection, _IS_SAME, {"likeness": likeness.id}):
                return None
            first = _first_instance(connection, likeness.sop_instance_uid)
            (known,) = fetch(connection, _COMPARED_ROW, {"likeness": likeness.id})
            done = self._record_duplicate(connection, first, likeness, routes, now, known)
            return done[1], done[2]

    def settle_other(self, likeness: Likeness, reason: str) -> None:
        """Record that it is another image: a conflict."""
        now = self._clock.wall()
        with self._database.writing() as connection:
            row = connection.execute(
                likenesses.delete()
                .where(likenesses.c.id == likeness.id, likenesses.c.state == WAITING)
                .returning(*likenesses.c)
            ).first()
            if row is not None:
                self._add_conflict(connection, row, f"{KEPT_APART}: it {reason}", now)

    def _record_duplicate(
        self,
        connection: Connection,
        first: Row[Any],
        instance: Any,
        routes: Sequence[Any],
        now: float,
        known: Row[Any] | None = None,
    ) -> tuple[ReceiptKind, tuple[str, ...], str, str]:
        """Record that the same image came again: in the coding of `known`, or the same bytes."""
        uid, file = first.sop_instance_uid, str(first.file)
        write(connection, _RESENT, [{"uid": uid}])
        if first.purged_at:
            # retention had removed the file: the new file takes its place
            file = str(instance.file)
            write(connection, _KEEP_AGAIN, [{"uid": uid, "new_file": file, "now": now}])
            if known is not None:
                _exchange_coding(connection, first, known)
        what = SAME_BYTES if known is None else SAME_PIXELS
        is_other = self._note_sender(connection, first, instance, now, what)
        made = (
            self._follow_routes(connection, first, instance, routes, now, is_other) if file else ()
        )
        return "duplicate", made, file, ""

    def _note_sender(
        self, connection: Connection, first: Row[Any], instance: Any, now: float, what: str
    ) -> bool:
        """Remember who sent it again, with an event; return whether it is another sender."""
        uid, who = first.sop_instance_uid, (instance.calling_ae[:64], instance.calling_host[:64])
        association = str(getattr(instance, "association", ""))
        is_other = who != (first.calling_ae[:64], first.calling_host[:64])
        asked = {"uid": uid, "title": who[0], "host": who[1]}
        if change(connection, _SENT_AGAIN, asked | {"now": now, "by": association}):
            return is_other
        ((count,),) = fetch(connection, _SENDERS, {"uid": uid})
        # AE titles are free text: somebody who makes them up may not fill the ledger
        if count >= MOST_SENDERS:
            return is_other
        new = {
            "sop_instance_uid": uid,
            "calling_ae": who[0],
            "calling_host": who[1],
            "called_ae": instance.called_ae,
            "association": association,
            "received": 1,
            "first_at": now,
            "last_at": now,
        }
        write(connection, _ADD_SENDER, [new], is_whole=False)
        said = Details(calling_ae=who[0], calling_host=who[1], association=association, reason=what)
        append(connection, [NewEvent(uid, Stage.DUPLICATE, now, details=said)])
        return is_other

    def _follow_routes(
        self,
        connection: Connection,
        first: Row[Any],
        instance: Any,
        routes: Sequence[Any],
        now: float,
        is_other: bool,
    ) -> tuple[str, ...]:
        """Do for a repetition what the rules of now ask for and has not been done."""
        newest = _newest_jobs(connection, first.sop_instance_uid)
        made = []
        for route in routes:
            job = newest.get(route.model)
            if job is None and newest and not is_other:
                # Another model for the same sender is a replay, which is asked for on purpose.
                job = max(newest.values(), key=lambda row: (row.received_at, row.generation))
            if job is None:
                asked = _without_sender(route) if is_other else route
                made.append(self._follow_route(connection, first, instance, asked, now))
            else:
                self._add_destinations(connection, job, route, now)
        return tuple(made)

    def _follow_route(
        self, connection: Connection, first: Row[Any], instance: Any, route: Any, now: float
    ) -> str:
        uid = first.sop_instance_uid
        job = self._add_job(connection, first, route, now)
        write(connection, _ROUTE, [{"uid": uid}])
        said = Details(
            rule=route.rule,
            model=route.model,
            mode=route.mode,
            calling_ae=instance.calling_ae,
            calling_host=instance.calling_host,
        )
        append(connection, [NewEvent(uid, Stage.ROUTED, now, job, said)])
        return job

    def _add_destinations(
        self, connection: Connection, job: Row[Any], route: Any, now: float
    ) -> None:
        """Let destinations that a job does not know yet get its report."""
        wishes = load_wishes(job.send_to)
        added = {
            name: wish
            for name, asked in wishes_of(_without_sender(route)).items()
            if (wish := _wider_wish(wishes.get(name), asked, job, route)) is not None
        }
        if not added:
            return
        values = {"job_id": job.id, "wishes": dump_wishes(wishes | added)}
        if job.state == JobState.RECEIVED and route.priority is not None:
            sooner = min(job.priority, int(route.priority))
            write(connection, _SEND_ALSO_SOONER, [values | {"sooner": sooner}])
        else:
            write(connection, _SEND_ALSO, [values])
        names = ", ".join(added)
        said = Details(rule=route.rule, model=job.model, mode=f"{route.mode}, also to {names}")
        append(connection, [NewEvent(job.sop_instance_uid, Stage.ROUTED, now, job.id, said)])
        if job.state not in WITH_RESULT:
            return
        kept = load_result(job.result)
        is_rejected = job.state == JobState.REJECTED
        word = "rejected" if is_rejected else kept.get("presence") or "undetermined"
        parts = fetch(connection, _PARTS, {"job_id": job.id})
        pairs = [(str(row.part), str(row.kind)) for row in parts]
        demonstration = job.model if job.demonstration else ""
        new = {
            name: wish
            for name, wish in added.items()
            if name not in wishes or (wishes[name].when and word not in wishes[name].when)
        }
        add_deliveries(connection, job, new, pairs, word, demonstration, now)

    def _known_likeness(self, connection: Connection, instance: Any) -> Row[Any] | None:
        return next(iter(fetch(connection, _LIKENESS, _file_key(instance))), None)

    def _kept_conflict(self, connection: Connection, instance: Any) -> Row[Any] | None:
        return next(iter(fetch(connection, _CONFLICT, _file_key(instance))), None)

    def _add_conflict(self, connection: Connection, instance: Any, reason: str, now: float) -> str:
        row = {c.name: getattr(instance, c.name) for c in conflicts.c if hasattr(instance, c.name)}
        row.pop("id", None)
        if self._database.insert_new(connection, conflicts, row | {"received_at": now}):
            said = Details(
                calling_ae=instance.calling_ae,
                calling_host=instance.calling_host,
                association=str(getattr(instance, "association", "")),
                reason=reason,
            )
            new = NewEvent(instance.sop_instance_uid, Stage.CONFLICT, now, details=said)
            append(connection, [new])
        return str(instance.file)

    def _keep_again(self, connection: Connection, kept: Row[Any], instance: Any, now: float) -> str:
        """Let a file take the place of one that retention has removed; return its name."""
        connection.execute(
            conflicts.update()
            .where(conflicts.c.id == kept.id)
            .values(file=instance.file, size=instance.size, received_at=now, purged_at=0)
        )
        return str(instance.file)

    def _add_likeness(self, connection: Connection, instance: Any, now: float) -> str:
        names = [c.name for c in likenesses.c if hasattr(instance, c.name) and c.name != "id"]
        row = {name: getattr(instance, name) for name in names}
        new = row | {"state": WAITING, "received_at": now}
        write(connection, _ADD_LIKENESS, [new], is_whole=False)
        return str(instance.file)


def replace_content(
    connection: Connection, first: Row[Any], conflict: Row[Any], corrected: Any, now: float
) -> None:
    """Let a conflict's content stand for its Instance; remember what it has replaced.

    When the old content comes again, it is known and no conflict.
    """
    uid = first.sop_instance_uid
    facts = {c.name: getattr(corrected, c.name) for c in instances.c if hasattr(corrected, c.name)}
    kept = ("calling_ae", "calling_host", "called_ae", "association", "priority")
    facts = {
        name: value for name, value in facts.items() if name not in (*kept, "sop_instance_uid")
    }
    facts |= {"sha256": conflict.sha256, "sort_name": sort_name(corrected.patient_name)}
    connection.execute(
        instances.update()
        .where(instances.c.sop_instance_uid == uid)
        .values(**facts, kept_at=now, purged_at=0)
    )
    if first.number is not None:
        texts = (
            searched_text(
                instance_row.patient_name, instance_row.patient_id, instance_row.accession_number
            )
            for instance_row in (first, corrected)
        )
        replace_words(connection, first.number, *texts)
    connection.execute(conflicts.delete().where(conflicts.c.id == conflict.id))
    connection.execute(likenesses.delete().where(_is_same_file(likenesses, first)))
    # What had the pixels of the old content has its patient and order, too.
    connection.execute(
        likenesses.update()
        .where(likenesses.c.sop_instance_uid == uid, likenesses.c.state == SAME)
        .values(state=REPLACED)
    )
    connection.execute(
        likenesses.insert().values(
            sop_instance_uid=uid,
            transfer_syntax_uid=first.transfer_syntax_uid,
            sha256=first.sha256,
            size=first.size,
            state=REPLACED,
            calling_ae=first.calling_ae,
            calling_host=first.calling_host,
            called_ae=first.called_ae,
            received_at=first.received_at,
        )
    )
    connection.execute(
        likenesses.delete().where(likenesses.c.sop_instance_uid == uid, likenesses.c.state == SAME)
    )


def add_route(connection: Connection, job: str, wishes: Mapping[str, Wish]) -> None:
    """Let destinations that a new job does not know get its report, too."""
    known = load_wishes(
        connection.scalar(sa.select(jobs.c.send_to).where(jobs.c.id == job)) or "{}"
    )
    more = {name: wish for name, wish in wishes.items() if name not in known and name != SENDER}
    if more:
        connection.execute(
            jobs.update().where(jobs.c.id == job).values(send_to=dump_wishes(known | more))
        )


def _without_sender(route: Any) -> Any:
    """Return what a route asks for, without a sender that nobody knows and that is not the first.

    A job waits for the sender that its Instance names; for another one, that nobody knows, there is
    no place to be remembered in: it may send again.
    """
    return replace(route, send_to=tuple(name for name in route.send_to if name != SENDER))


def _first_instance(connection: Connection, uid: str) -> Row[Any]:
    (row,) = fetch(connection, _FIRST, {"uid": uid})
    found: Row[Any] = row
    return found


def _exchange_coding(connection: Connection, first: Row[Any], known: Row[Any]) -> None:
    """Let the Instance have the coding that is kept now; its own stays known as the same image."""
    coding = ("transfer_syntax_uid", "sha256", "size")
    now, before = ({name: getattr(row, name) for name in coding} for row in (known, first))
    is_first = instances.c.sop_instance_uid == first.sop_instance_uid
    connection.execute(instances.update().where(is_first).values(now))
    connection.execute(likenesses.update().where(likenesses.c.id == known.id).values(before))


def _newest_jobs(connection: Connection, uid: str) -> Mapping[str, Row[Any]]:
    """Return the last job of each model."""
    return {row.model: row for row in fetch(connection, _JOBS, {"uid": uid})}


def _header_difference(first: Row[Any], instance: Any) -> str:
    """Return why what came cannot be the same image, as far as its header says; else empty."""
    differing = [
        name
        for field, name in MATTERS.items()
        if getattr(first, field, "") != getattr(instance, field, "")
    ]
    if differing:
        return f"{KEPT_APART}: it differs in {', '.join(differing)}"
    syntaxes = {first.transfer_syntax_uid, instance.transfer_syntax_uid}
    if len(syntaxes) > 1 and syntaxes & LOSSY:
        return f"{KEPT_APART}: it is a lossy copy"
    if not first.file or first.sha256 == LOST:
        return f"{KEPT_APART}: the first file is gone, so that they cannot be compared"
    return ""


def _is_same_file(table: sa.Table, instance: Any) -> sa.ColumnElement[bool]:
    return sa.and_(
        table.c.sop_instance_uid == instance.sop_instance_uid,
        table.c.sha256 == instance.sha256,
        table.c.transfer_syntax_uid == instance.transfer_syntax_uid,
    )
