"""Which object goes where, and how far it has come."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from dicom_node.base.job import RejectionNote, Result
from dicom_node.settings import SENDER, unknown_sender
from dicom_node.store.clock import TOLERANCE_S, Clock
from dicom_node.store.ledger.database import Database, change, fetch, fetch_among, write
from dicom_node.store.ledger.events import (
    Details,
    NewEvent,
    Stage,
    append,
    insert_events,
    said_of,
)
from dicom_node.store.ledger.holds import names_of
from dicom_node.store.ledger.locks import lock_deliveries, lock_destinations
from dicom_node.store.ledger.orders import order_of
from dicom_node.store.ledger.replaced import NOTE
from dicom_node.store.ledger.states import UNSENT, DeliveryState
from dicom_node.store.ledger.variants import (
    CHOSEN_NAME,
    CHOSEN_UID,
    IS_CHOSEN,
    ReportFile,
    keep_variant,
    variants_of,
)
from dicom_node.store.ledger.views import DestinationState
from dicom_node.store.ledger.wanted import Wish, load_wishes, result_word
from dicom_node.store.schema import (
    IS_ASKED,
    IS_UNSENT,
    deliveries,
    destinations,
    instances,
    jobs,
    marks,
    objects,
)

RESTORED = "restored"
_IS_RESTORED = marks.c.name == RESTORED

IS_SENT = sa.func.coalesce(deliveries.c.state, sa.literal_column("''")) == sa.literal_column(
    f"'{DeliveryState.SENT}'"
)
"""In words that keep SQLite from the index on the state: most deliveries are sent."""


@dataclass(frozen=True, slots=True)
class DueDelivery:
    """One thing to send to one destination.

    ``objects`` holds what may be sent for it: the report as each SR SOP class, or the one object
    of another kind. ``chosen`` is the SOP Instance UID of the object that was settled on before the
    first attempt; a retry sends no other. ``unanswered`` counts attempts whose answer is not known:
    the object may have arrived.
    """

    id: int
    job: str
    sop_instance_uid: str
    destination: str
    kind: str
    objects: tuple[ReportFile, ...]
    attempts: int
    chosen: str
    calling_ae: str
    calling_host: str
    unanswered: int = 0
    created_at: float = 0.0


# What is asked many times a second is built once: building took longer than asking.

_HELD = sa.select(destinations.c.name).where(destinations.c.held_until > sa.bindparam("now"))
_DUE_DESTINATIONS = (
    sa.select(deliveries.c.destination)
    .where(
        IS_UNSENT,
        deliveries.c.next_at <= sa.bindparam("now"),
        deliveries.c.destination.not_in(_HELD),
        deliveries.c.destination.not_in(names_of("destination")),
    )
    .distinct()
    .order_by(deliveries.c.destination)
)
_HELD_UNTIL = sa.func.coalesce(destinations.c.held_until, 0)
# max() of two values has another name in SQLite and in PostgreSQL
_NEXT_AT = sa.case((deliveries.c.next_at < _HELD_UNTIL, _HELD_UNTIL), else_=deliveries.c.next_at)
_NEXT_DUE = (
    sa.select(sa.func.min(_NEXT_AT))
    .select_from(deliveries)
    .outerjoin(destinations, destinations.c.name == deliveries.c.destination)
    .where(IS_UNSENT, deliveries.c.destination.not_in(names_of("destination")))
)
_IS_AHEAD = sa.or_(IS_UNSENT, IS_ASKED) & (deliveries.c.dated_at > sa.bindparam("latest"))
_FIRST_AHEAD = sa.select(deliveries.c.id).where(_IS_AHEAD).limit(1)
_IS_HELD_AHEAD = destinations.c.changed_at > sa.bindparam("latest")
_FIRST_HELD_AHEAD = sa.select(destinations.c.name).where(_IS_HELD_AHEAD).limit(1)


_DUE = (
    sa.select(
        deliveries,
        CHOSEN_UID.label("chosen"),
        jobs.c.sop_instance_uid.label("source"),
        instances.c.calling_ae,
        instances.c.calling_host,
        sa.select(marks.c.value).where(_IS_RESTORED).scalar_subquery().label("restored"),
    )
    .join(jobs, jobs.c.id == deliveries.c.job)
    .join(instances, instances.c.sop_instance_uid == jobs.c.sop_instance_uid)
    .where(
        deliveries.c.destination == sa.bindparam("destination"),
        IS_UNSENT,
        deliveries.c.next_at <= sa.bindparam("now"),
    )
    .order_by(deliveries.c.next_at, deliveries.c.id)
    .limit(sa.bindparam("most"))
)
_OBJECTS = sa.select(objects).where(objects.c.job.in_(sa.bindparam("made_by", expanding=True)))
_FAILURES = sa.select(destinations.c.failures).where(
    destinations.c.name == sa.bindparam("destination")
)
_THIS = deliveries.c.id == sa.bindparam("delivery")
_WANTED = sa.bindparam("wanted", type_=sa.String)
_CHOOSE = (
    deliveries.update()
    .where(_THIS)
    .values(
        sop_instance_uid=sa.case(
            (
                deliveries.c.sop_instance_uid == "",
                sa.func.coalesce(
                    sa.select(CHOSEN_NAME)
                    .where(objects.c.job == deliveries.c.job, objects.c.sop_instance_uid == _WANTED)
                    .limit(1)
                    .scalar_subquery(),
                    _WANTED,
                ),
            ),
            else_=deliveries.c.sop_instance_uid,
        ),
        unanswered=deliveries.c.unanswered + 1,
    )
)


def _is_one_of(states: Sequence[DeliveryState]) -> sa.ColumnElement[bool]:
    """Return the condition with the states in its words, which no call has to put there."""
    return deliveries.c.state.in_([sa.literal_column(f"'{state}'") for state in states])


_DELIVERED = (
    deliveries.update()
    .where(_THIS, _is_one_of(UNSENT))
    .values(
        state=DeliveryState.SENT,
        status=sa.bindparam("answer"),
        reason="",
        ended_at=sa.bindparam("now"),
        asks=0,
        ask_at=sa.bindparam("ask"),
        dated_at=sa.bindparam("now"),
        unanswered=0,
    )
)
_CHANGED = _DELIVERED.returning(deliveries.c.job, deliveries.c.kind, deliveries.c.destination).cte(
    "changed"
)
_SENT = (
    sa.select(_CHANGED, jobs.c.sop_instance_uid).join(jobs, jobs.c.id == _CHANGED.c.job).cte("sent")
)
_DELIVERED_AT_ONCE = sa.select(_CHANGED.c.job).add_cte(
    insert_events(
        _SENT,
        Stage.SENT,
        said_of(
            kind=_SENT.c.kind,
            destination=_SENT.c.destination,
            status=sa.cast(sa.bindparam("answer"), sa.Integer),
        ),
        sa.bindparam("took"),
    ).cte("noted")
)
"""With its event, in one statement; no row where it is not open."""
_POSTPONE = (
    deliveries.update()
    .where(_THIS, _is_one_of(UNSENT))
    .values(
        state=DeliveryState.RETRYING,
        reason=sa.bindparam("why"),
        next_at=sa.bindparam("then"),
        dated_at=sa.bindparam("now"),
        status=sa.bindparam("answer"),
        attempts=deliveries.c.attempts + sa.bindparam("more"),
        unanswered=sa.case(
            (deliveries.c.unanswered > 0, deliveries.c.unanswered - sa.bindparam("answered")),
            else_=0,
        ),
    )
)
_OF_DESTINATION = destinations.c.name == sa.bindparam("at")
_HOLD = (
    destinations.update()
    .where(_OF_DESTINATION)
    .values(
        failures=destinations.c.failures + 1,
        held_until=sa.bindparam("then"),
        changed_at=sa.bindparam("now"),
        reason=sa.bindparam("why"),
    )
)
_IS_HELD_BACK = sa.and_(
    deliveries.c.destination == sa.bindparam("at"),
    IS_UNSENT,
    (deliveries.c.state == DeliveryState.PENDING)
    | ((deliveries.c.state == DeliveryState.RETRYING) & (deliveries.c.attempts == 0)),
    # a row that says the same already is not written again: thousands may wait
    deliveries.c.reason != sa.bindparam("why"),
)
_HELD_BACK: dict[str, Any] = {"state": DeliveryState.RETRYING, "reason": sa.bindparam("why")}
_RELEASE = destinations.update().where(_OF_DESTINATION).values(failures=0, held_until=0)
_RESUME = (
    destinations.update()
    .where(_OF_DESTINATION)
    .values(failures=0, held_until=0, reason="", changed_at=sa.bindparam("now"))
)
_IS_UNTRIED = sa.and_(IS_UNSENT, deliveries.c.attempts == 0)
_WAITS_FOR = _IS_UNTRIED & deliveries.c.destination.in_(sa.bindparam("names", expanding=True))


def _make_due(which: sa.ColumnElement[bool]) -> sa.Update:
    now: sa.BindParameter[Any] = sa.bindparam("now")
    return deliveries.update().where(which).values(next_at=now, dated_at=now)


_WAKE = _make_due(_WAITS_FOR)
"""Built once: this is executed in each turn."""
_ADD = deliveries.insert()
_CHOSEN = sa.select(deliveries.c.job, CHOSEN_UID).where(_THIS)
_CHOOSE_AT_ONCE = _CHOOSE.returning(CHOSEN_UID, sa.exists().where(IS_CHOSEN).label("has_row"))
"""With whether the object has a row already, as that which was made has."""
_WITH_SOURCE = (
    sa.select(deliveries, jobs.c.sop_instance_uid.label("source")).join(jobs).where(_THIS)
)


class Deliveries:
    """The deliverer's side."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def due(
        self, limit_per_destination: int = 32, destination: str | None = None
    ) -> list[DueDelivery]:
        """Return what may be sent now, by destination; destinations that are held have none."""
        now = self._clock.wall()
        names = self.due_destinations() if destination is None else [destination]
        found: list[DueDelivery] = []
        with self._database.reading() as connection:
            for name in names:
                found += _due_of(connection, name, now, limit_per_destination)
        return found

    def doubt(self) -> None:
        """Note that archives may have more than is recorded here: a backup was restored.

        What was sent after the backup was taken is there under the same UIDs, and an archive that
        answers "duplicate" to it has it.
        """
        with self._database.writing() as connection:
            if sa.inspect(connection).has_table(marks.name):
                self._database.insert_new(connection, marks, {"name": RESTORED, "value": 1})

    def due_destinations(self) -> list[str]:
        """Return the destinations with something to send now, but for those that are held."""
        now = self._clock.wall()
        return [str(name) for (name,) in self._database.look(_DUE_DESTINATIONS, now=now)]

    def next_due(self) -> float | None:
        """Return when something will be due to send; None when all is settled."""
        ((found,),) = self._database.look(_NEXT_DUE)
        return None if found is None else float(found)

    def redate(self) -> int:
        """Let every wait from a clock that was ahead begin now; see `JobLedger.redate`."""
        now = self._clock.wall()
        latest = {"latest": now + TOLERANCE_S}
        look = self._database.look
        if not (look(_FIRST_AHEAD, **latest) or look(_FIRST_HELD_AHEAD, **latest)):
            return 0
        late, held = deliveries.c.dated_at - now, destinations.c.changed_at - now
        with self._database.writing() as connection:
            mine = lock_deliveries(connection, _IS_AHEAD, latest)
            count = connection.execute(
                deliveries.update()
                .where(mine)
                .values(
                    next_at=deliveries.c.next_at - late,
                    ask_at=sa.case(
                        (deliveries.c.ask_at > 0, deliveries.c.ask_at - late), else_=0.0
                    ),
                    dated_at=now,
                ),
                latest,
            ).rowcount
            lock_destinations(connection, _IS_HELD_AHEAD, latest)
            connection.execute(
                destinations.update()
                .where(_IS_HELD_AHEAD)
                .values(held_until=destinations.c.held_until - held, changed_at=now),
                latest,
            )
            return count

    def choose(self, delivery: int, sop_instance_uid: str) -> str:
        """Settle before an attempt which object is sent; return that which is settled.

        The attempt counts as unanswered until `delivered` or `postpone` records its status: a
        process may end, or a line break, after the object has arrived.
        """
        values = {"delivery": delivery, "wanted": sop_instance_uid}
        if not self._database.is_sqlite:
            ((settled, has_row),) = self._database.in_one(_CHOOSE_AT_ONCE, values)
            if has_row:
                return str(settled)
        with self._database.writing() as connection:
            if self._database.is_sqlite:
                write(connection, _CHOOSE, [values])
            ((job, settled),) = fetch(connection, _CHOSEN, {"delivery": delivery})
            keep_variant(self._database, connection, job, settled)
            return str(settled)

    def delivered(
        self,
        delivery: int,
        status: int,
        ms: float | None = None,
        ask_at: float = 0.0,
    ) -> bool:
        """Record that the destination took it, with the status of its C-STORE response.

        From `ask_at` on, unless it is 0, the destination is asked to commit to keep it.
        """
        now = self._clock.wall()
        values = {"delivery": delivery, "answer": status, "now": now, "ask": ask_at}
        # A power cut that undoes it lets the object be sent again, and its answer is right then:
        # `choose` has noted on the disk that an attempt is open.
        if not self._database.is_sqlite:
            took = {"took": ms}
            return bool(self._database.in_one(_DELIVERED_AT_ONCE, values | took, durable=False))
        with self._database.writing(durable=False) as connection:
            changed = change(connection, _DELIVERED, values)
            if changed:
                (row,) = fetch(connection, _WITH_SOURCE, values)
                details = Details(kind=row.kind, destination=row.destination, status=status)
                append(connection, [NewEvent(row.source, Stage.SENT, now, row.job, details, ms)])
        return bool(changed)

    def make_durable(self) -> None:
        """Return when all that `delivered` has recorded is on the disk."""
        self._database.sync()

    def committed(self, delivery: int) -> bool:
        """Record that the destination has committed to keep it (DICOM PS3.4 Annex J)."""
        with self._database.writing() as connection:
            return commit_delivery(connection, delivery, self._clock.wall())

    def postpone(
        self,
        delivery: int,
        reason: str,
        next_at: float,
        counts: bool = True,
        status: int | None = None,
    ) -> bool:
        """Record that it could not be sent, why, and when to try again."""
        now = self._clock.wall()
        values = {
            "delivery": delivery,
            "why": reason,
            "then": next_at,
            "now": now,
            "answer": status,
            "more": 1 if counts else 0,
            # an answer came: this attempt is not in doubt any more
            "answered": 0 if status is None else 1,
        }
        with self._database.writing() as connection:
            before = [row.reason for row in fetch(connection, _WITH_SOURCE, values)]
            row = _change_delivery(connection, _POSTPONE, values)
            if row is not None and (counts or before != [reason]):
                details = Details(kind=row.kind, destination=row.destination, reason=reason)
                append(connection, [NewEvent(row.source, Stage.RETRYING, now, row.job, details)])
        return row is not None

    def withhold(self, delivery: int, reason: str) -> bool:
        """Record that its destination does not get it, and why."""
        now = self._clock.wall()
        values = {"state": DeliveryState.WITHHELD, "reason": reason, "ended_at": now}
        with self._database.writing() as connection:
            row = settle_delivery(connection, delivery, UNSENT, values)
            if row is not None:
                details = Details(kind=row.kind, destination=row.destination, reason=reason)
                append(connection, [NewEvent(row.source, Stage.WITHHELD, now, row.job, details)])
        return row is not None

    def report_state(self, job: str, destination: str) -> str:
        """Return the state of a job's report at a destination; empty where it does not go there."""
        with self._database.reading() as connection:
            found = connection.scalar(
                sa.select(deliveries.c.state).where(
                    deliveries.c.job == job,
                    deliveries.c.destination == destination,
                    deliveries.c.kind == "sr",
                )
            )
        return str(found or "")

    def give_up(self, delivery: int, reason: str) -> bool:
        """Record that an object which is refused again and again is tried no more."""
        now = self._clock.wall()
        values = {"state": DeliveryState.GIVEN_UP, "reason": reason, "ended_at": now}
        with self._database.writing() as connection:
            row = settle_delivery(connection, delivery, UNSENT, values)
            if row is not None:
                details = Details(kind=row.kind, destination=row.destination, reason=reason)
                append(connection, [NewEvent(row.source, Stage.GIVEN_UP, now, row.job, details)])
        return row is not None

    def hold(self, destination: str, reason: str, next_at: float) -> None:
        """Hold everything for a destination that gives no answer; this costs no attempt."""
        now = self._clock.wall()
        with self._database.writing() as connection:
            values = {"at": destination, "then": next_at, "now": now, "why": reason}
            said = {"at": destination, "why": reason}
            mine = lock_deliveries(connection, _IS_HELD_BACK, said)
            connection.execute(deliveries.update().where(mine).values(_HELD_BACK), said)
            self._database.insert_new(connection, destinations, {"name": destination})
            write(connection, _HOLD, [values])

    def wake(self, *names: str) -> int:
        """Make all that waits for destinations due now: what they need may have changed."""
        now = self._clock.wall()
        with self._database.writing() as connection:
            # all of them first: behind the jobs of one destination's come no other deliveries
            said = {"names": names}
            mine = lock_deliveries(connection, _WAITS_FOR, said)
            due = _WAKE if mine is _WAITS_FOR else _make_due(mine)
            count = connection.execute(due, {**said, "now": now}).rowcount
            for name in sorted(names):
                change(connection, _RELEASE, {"at": name})
            return count

    def resume(self, destination: str) -> None:
        """Release what was held: the destination answers again."""
        # a look first: this is asked for each object that is sent, and as a rule nothing is held
        held = self._database.look(_FAILURES, destination=destination)
        if not held or not held[0][0]:
            return
        with self._database.writing() as connection:
            write(connection, _RESUME, [{"at": destination, "now": self._clock.wall()}])

    def destination(self, destination: str) -> DestinationState:
        """Return how a destination is doing."""
        with self._database.reading() as connection:
            row = connection.execute(
                sa.select(destinations).where(destinations.c.name == destination)
            ).one_or_none()
        if row is None:
            return DestinationState(destination)
        return DestinationState(
            destination,
            failures=row.failures,
            held_until=row.held_until,
            reason=row.reason,
        )

    def redirect(self, job: str, destination: str, kinds: Collection[str]) -> int:
        """Send to `destination` what waits for the sender of this job, now that it is known.

        A kind that the destination does not take, or gets anyway, is withheld with that reason.
        Returns how many deliveries will be sent.
        """
        now = self._clock.wall()
        sent = 0
        with self._database.writing() as connection:
            waiting = sa.and_(
                deliveries.c.job == job,
                deliveries.c.destination == SENDER,
                deliveries.c.state.in_(UNSENT),
            )
            mine = lock_deliveries(connection, waiting)
            query = sa.select(deliveries).where(mine).order_by(deliveries.c.id)
            rows = connection.execute(query).all()
            for row in rows:
                sent += self._redirect_delivery(connection, row, destination, kinds, now)
        return sent

    def _redirect_delivery(
        self,
        connection: Connection,
        row: Row[Any],
        destination: str,
        kinds: Collection[str],
        now: float,
    ) -> bool:
        taken = connection.scalar(
            sa.select(deliveries.c.id).where(
                deliveries.c.job == row.job,
                deliveries.c.destination == destination,
                deliveries.c.part == row.part,
            )
        )
        values: dict[str, Any] = {
            "state": DeliveryState.PENDING,
            "reason": "",
            "destination": destination,
        }
        values |= {"next_at": now, "dated_at": now}
        if taken is not None or row.kind not in (*kinds, NOTE):
            why = "gets it already" if taken is not None else f"takes no {row.kind}"
            values = {
                "state": DeliveryState.WITHHELD,
                "reason": f"{destination} {why}",
                "ended_at": now,
            }
        changed = settle_delivery(connection, row.id, UNSENT, values)
        return changed is not None and values["state"] == DeliveryState.PENDING


def settle_delivery(
    connection: Connection,
    delivery: int,
    states: Sequence[DeliveryState],
    values: dict[str, Any],
) -> Row[Any] | None:
    """Change a delivery that is in one of `states`; return it, or None when it is not."""
    asked = {f"new_{name}": value for name, value in values.items()} | {"delivery": delivery}
    return _change_delivery(connection, _change_of(tuple(values), tuple(states)), asked)


def _change_delivery(
    connection: Connection, statement: sa.Update, values: Mapping[str, Any]
) -> Row[Any] | None:
    """Change the delivery that `values` name; return it, or None where it is in another state."""
    if not change(connection, statement, values):
        return None
    row: Row[Any]
    (row,) = fetch(connection, _WITH_SOURCE, values)
    return row


@cache
def _change_of(names: tuple[str, ...], states: tuple[DeliveryState, ...]) -> sa.Update:
    """Return the statement that gives some columns of a delivery new values."""
    new: dict[str, Any] = {name: sa.bindparam(f"new_{name}") for name in names}
    return deliveries.update().where(_THIS, _is_one_of(states)).values(new)


def commit_delivery(connection: Connection, delivery: int, now: float) -> bool:
    """Record that its destination keeps it; False when it was not sent or is committed already."""
    values = {"state": DeliveryState.COMMITTED, "reason": "", "ask_at": 0.0}
    row = settle_delivery(connection, delivery, (DeliveryState.SENT,), values)
    if row is not None:
        details = Details(kind=row.kind, destination=row.destination)
        append(connection, [NewEvent(row.source, Stage.COMMITTED, now, row.job, details)])
    return row is not None


def insert_deliveries(connection: Connection, job: Row[Any], result: Result, now: float) -> None:
    """Make one delivery for each destination and each thing of a result that it takes."""
    parts = [(made.part, str(made.kind)) for made in result.objects if made.kind != NOTE]
    demonstration = result.model if result.demonstration else ""
    wishes, word = load_wishes(job.send_to), result_word(result)
    add_deliveries(connection, job, wishes, parts, word, demonstration, now)
    notes = [made.part for made in result.objects if made.kind == NOTE]
    if not notes:
        return
    for part, note in zip(notes, order_of(job, job.ordered).rejection_notes, strict=False):
        having = _receivers_of_note(note, wishes, word)
        add_deliveries(connection, job, having, [(part, NOTE)], word, demonstration, now)


def _receivers_of_note(
    note: RejectionNote, wishes: Mapping[str, Wish], word: str
) -> dict[str, Wish]:
    """Return who has what a note hides and gets the new report; others would refuse the note."""
    # a destination that no rule names: the sender, which is known by now
    has_sender = bool(set(note.destinations) - set(wishes))
    return {
        name: replace(wish, kinds=())
        for name, wish in wishes.items()
        if (name in note.destinations or (name == SENDER and has_sender))
        and (not wish.when or word in wish.when)
    }


def add_deliveries(
    connection: Connection,
    job: Row[Any],
    wishes: Mapping[str, Wish],
    parts: Sequence[tuple[str, str]],
    result: str,
    demonstration: str,
    now: float,
) -> int:
    """Make deliveries of a report that is made; return how many will be sent.

    Parameters
    ----------
    job : Row
        With `calling_ae` and `calling_host` of its Instance.
    wishes : mapping
        What each destination gets.
    parts : sequence of (part, kind)
        What the report consists of.
    result : str
        By `wanted.result_word`.
    demonstration : str
        The model's name, if it is a demonstration model.
    """
    events: list[NewEvent] = []
    rows: list[dict[str, Any]] = []
    sent = 0
    for destination, wish in wishes.items():
        if wish.when and result not in wish.when:
            detail = f"nothing to {destination}: the result is {result}"
            words = Details(sentence=detail)
            events.append(
                NewEvent(job.sop_instance_uid, DeliveryState.WITHHELD, now, job.id, words)
            )
            continue
        withheld = _why_withheld(job, wish, demonstration)
        for part, kind in _sendable_parts(parts):
            if wish.kinds and kind not in wish.kinds:
                continue
            state, reason = DeliveryState.PENDING, ""
            if withheld:
                state, reason = DeliveryState.WITHHELD, withheld
            elif destination == SENDER:
                state, reason = (
                    DeliveryState.RETRYING,
                    unknown_sender(job.calling_ae, job.calling_host),
                )
            rows.append(
                {
                    "job": job.id,
                    "destination": destination,
                    "part": part,
                    "kind": kind,
                    "state": state,
                    "reason": reason,
                    "next_at": now,
                    "dated_at": now,
                    "created_at": now,
                    "ended_at": now if withheld else 0,
                }
            )
            sent += not withheld
            if reason:
                why = Details(kind=kind, destination=destination, reason=reason)
                events.append(NewEvent(job.sop_instance_uid, state, now, job.id, why))
    if rows:
        write(connection, _ADD, rows, is_whole=False)
    append(connection, events)
    return sent


def _sendable_parts(parts: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return (part, kind) of what can be sent; the SOP classes of one report are one thing."""
    report = [("sr", "sr")] if any(kind == "sr" for _, kind in parts) else []
    return report + [(part, kind) for part, kind in parts if kind != "sr"]


def _why_withheld(job: Row[Any], wish: Wish, demonstration: str) -> str:
    """Return why a destination does not get a report; the rule that named it decides."""
    rule, mode = (wish.rule, wish.mode) if wish.rule else (job.rule, job.mode)
    if mode == "shadow":
        return f"rule {rule!r} is in shadow mode"
    if demonstration and not (wish.allow_demonstration if wish.rule else job.allow_demonstration):
        return (
            f"{demonstration} is a demonstration model and rule {rule!r} has no "
            "allow_demonstration = true"
        )
    return ""


def _due_of(connection: Connection, destination: str, now: float, limit: int) -> list[DueDelivery]:
    asked = {"destination": destination, "now": now, "most": limit}
    rows = fetch(connection, _DUE, asked)
    others = {row.job for row in rows if row.kind != "sr"}
    made = fetch_among(connection, _OBJECTS, "made_by", list(others))
    reports = variants_of(connection, list({row.job for row in rows if row.kind == "sr"}))
    found = []
    for row in rows:
        things = tuple(
            ReportFile(o.kind, o.part, o.sop_class_uid, o.sop_instance_uid, o.file)
            for o in made
            if o.job == row.job and o.kind == row.kind and o.part == row.part
        )
        if row.kind == "sr":
            things = tuple(reports.get(row.job, ()))
        found.append(
            DueDelivery(
                row.id,
                row.job,
                row.source,
                row.destination,
                row.kind,
                things,
                row.attempts,
                row.chosen,
                row.calling_ae,
                row.calling_host,
                # after a restore each attempt may be the second: "duplicate" is then an answer to
                # one of ours
                row.unanswered + (1 if row.restored else 0),
                row.created_at,
            )
        )
    return found
