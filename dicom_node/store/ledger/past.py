"""Events of Instances that are over: all of one in one row, and read as if each stood alone.

An event costs a row and a place in two indexes, all of them more than a third of an Instance's
bytes, and after a week hardly anybody asks for them. Software of before 0009 does not know the
packed rows: a trace there begins with what came later.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dicom_node.store.clock import Clock
from dicom_node.store.ledger.database import Database
from dicom_node.store.ledger.events import Stage
from dicom_node.store.ledger.states import OPEN, UNSENT
from dicom_node.store.schema import deliveries, events, instances, jobs, marks, past_events

AGE_S = 7 * 86400.0
"""Age of an event that lets its Instance be looked at."""

REST_S = 86400.0
"""Time without an event after which an Instance is over, where nothing of it is open."""

MOST_EVENTS = 64
"""Events of one Instance that are packed; of what has more the others stay, so that no row is
written again and again while it grows."""

_PACKED = "packed"
"""The mark with the last event that was looked at."""


class KeptEvent(NamedTuple):
    """An event as it is kept, without its Instance."""

    stage: str
    at: float
    job: str
    ms: float | None
    detail: str
    is_typed: bool


_NAMED = (
    *(Stage.RECEIVED, Stage.ROUTED, Stage.QUEUED, Stage.CLAIMED, Stage.REPORTED),
    *(Stage.SENT, Stage.COMMITTED, Stage.PURGED),
)
"""Stages that have a number in packed rows: their place here, which stays."""

_REST: tuple[Any, ...] = (0, None, None)
"""What of an event's job, detail and duration is left out at its end."""

_DEFLATED = b"\x01"
"""The first byte of packed events that are deflated with `_FAMILIAR`; JSON begins otherwise."""

_FAMILIAR = (
    b'"retrying","given up","resend","duplicate","calling_ae":"","calling_host":"","association":"'
    b'","by":"","address":"","k":"basic-text","r":"no answer"}],[3,999,1,{"n":1,"w":":1"}],[4,28,1]'
    b',[5,18,1,{"k":"sr","d":"","s":0}],[6,1,{"k":"sr","d":""}],[7,86400]]]'
    b'[17948757812,["3456789abcdef012"],[[0,0],[1,4,1],[2,731,1],[3,950,1,{"n":1,"w":"'
)
"""What nearly every packed life consists of, the most usual last. It stays as it is: rows of the
ledger are read by it."""

_WINDOW = -12
"""Deflated without head and sum, within 4 KB: a life is 200 bytes, and 60 deflated."""


def pack_events(kept: Sequence[KeptEvent]) -> bytes:
    """Return events as deflated JSON; their times are kept to the millisecond.

    ``[first time, jobs, [[stage, milliseconds since the one before, job, detail, duration], ...]]``
    where a job is its place among `jobs`, from 1.
    """
    names = list(dict.fromkeys(event.job for event in kept if event.job))
    first = before = round(kept[0].at * 1000)
    packed = []
    for event in kept:
        stage: Any = _NAMED.index(Stage(event.stage)) if event.stage in _NAMED else event.stage
        at = round(event.at * 1000)
        detail: Any = event.detail
        if event.is_typed:  # what is not is a sentence, and stays a text
            detail = json.loads(event.detail) if event.detail else None
        rest = [names.index(event.job) + 1 if event.job else 0, detail, event.ms]
        while rest and rest[-1] == _REST[len(rest) - 1]:
            rest.pop()
        packed.append([stage, at - before, *rest])
        before = at
    text = json.dumps([first, names, packed], ensure_ascii=False, separators=(",", ":"))
    deflating = zlib.compressobj(9, zlib.DEFLATED, _WINDOW, 5, zdict=_FAMILIAR)
    return _DEFLATED + deflating.compress(text.encode(errors="surrogatepass")) + deflating.flush()


def unpack_events(content: bytes | str) -> list[KeptEvent]:
    """Return the events of `pack_events`; those of before 0011 are the JSON itself."""
    if isinstance(content, bytes) and content.startswith(_DEFLATED):
        content = zlib.decompressobj(_WINDOW, zdict=_FAMILIAR).decompress(content[1:])
    at, names, packed = json.loads(content)
    found = []
    for entry in packed:
        stage, later, job, detail, ms = entry + list(_REST[len(entry) - 2 :])
        at += later
        is_typed = not isinstance(detail, str)
        if is_typed:
            has_any = detail is not None
            detail = (
                json.dumps(detail, ensure_ascii=False, separators=(",", ":")) if has_any else ""
            )
        name = str(_NAMED[stage]) if isinstance(stage, int) else stage
        found.append(
            KeptEvent(name, at / 1000, names[job - 1] if job else "", ms, detail, is_typed)
        )
    return found


EVENT_COLUMNS = (
    *(events.c.stage, events.c.at, events.c.job, events.c.ms, events.c.detail),
    events.c.is_typed,
)
"""Those of `KeptEvent`."""


def kept_event(row: Any) -> KeptEvent:
    """Return a row of events as an event."""
    about = (row.stage, row.at, row.job, row.ms, row.detail)
    return KeptEvent(*about, is_typed=bool(row.is_typed))


def all_events(connection: Connection, number: int) -> list[KeptEvent]:
    """Return the events of an Instance, in order, wherever they are kept."""
    # one statement: between two, they could move from the one to the other (PostgreSQL)
    none = sa.cast(sa.null(), past_events.c.content.type).label("content")
    own = sa.select(events.c.id, *EVENT_COLUMNS, none).where(events.c.instance == number)
    constants: list[sa.ColumnElement[Any]] = [
        sa.literal_column(word) for word in ("-1", "''", "0.0", "''", "NULL", "''", "1")
    ]
    past = sa.select(*constants, past_events.c.content).where(past_events.c.number == number)
    found: list[KeptEvent] = []
    for row in sorted(connection.execute(own.union_all(past)), key=lambda row: int(row.id)):
        if row.id < 0:
            found += unpack_events(row.content)
        else:
            found.append(kept_event(row))
    return found


class PastEvents:
    """Packs the events of Instances that are over, a few at a time."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def pack(self, limit: int = 200, last: int | None = None) -> int:
        """Pack what belongs to the next old events; return how many of them were looked at.

        It goes through the events by their key and remembers how far it came.

        Parameters
        ----------
        last : int, optional
            The last event that may be packed: others behind it are still waited for.
        """
        now = self._clock.wall()
        with self._database.reading() as connection:
            begin = int(connection.scalar(_MARK) or 0)
            query = sa.select(events.c.id, events.c.instance, events.c.at)
            query = query.where(events.c.id > begin).order_by(events.c.id).limit(limit)
            if last is not None:
                query = query.where(events.c.id <= last)
            # a young one between old ones was dated by a clock that was ahead
            old = [row for row in connection.execute(query) if row.at < now - AGE_S]
            if not old:
                return 0  # what lies behind is young too, and there is much of it
            numbers = {row.instance for row in old if row.instance is not None}
            kept = _events_of_closed(connection, numbers, now - REST_S, last)
            packed = _packed_before(connection, kept)
        rows, moved = [], []
        for number, found in kept.items():
            known = unpack_events(packed[number]) if number in packed else []
            new = [kept_event(row) for row in found]
            new = new[: max(0, MOST_EVENTS - len(known))]
            if new:
                rows.append({"number": number, "content": pack_events([*known, *new])})
                moved += [row.id for row in found[: len(new)]]
        self._move(begin, int(old[-1].id), rows, moved)
        return len(old)

    def _move(
        self, begin: int, end: int, rows: list[dict[str, Any]], moved: Collection[int]
    ) -> None:
        # Nothing is lost with it in a power cut: it is done again.
        with self._database.writing(durable=False) as connection:
            self._database.insert_new(connection, marks, {"name": _PACKED, "value": 0})
            is_ours = (marks.c.name == _PACKED) & (marks.c.value == begin)
            if not connection.execute(marks.update().where(is_ours).values(value=end)).rowcount:
                return  # another process has done it meanwhile
            if not rows:
                return
            insert = self._database.insert(past_events)
            content = insert.excluded.content
            key = [past_events.c.number]
            connection.execute(
                insert.on_conflict_do_update(index_elements=key, set_={"content": content}), rows
            )
            connection.execute(_DROP, {"ids": list(moved)})


_MARK = sa.select(marks.c.value).where(marks.c.name == _PACKED)
_DROP = events.delete().where(events.c.id.in_(sa.bindparam("ids", expanding=True)))


def _events_of_closed(
    connection: Connection, numbers: Collection[int], before: float, last: int | None
) -> dict[int, list[Any]]:
    """Return the events of those of some Instances that are over, in order.

    The newest of all events stays: SQLite would give its key to the next one.
    """
    uid = jobs.c.sop_instance_uid
    of_some = instances.c.number.in_(numbers)
    undone = (
        sa.select(instances.c.number)
        .join(jobs, uid == instances.c.sop_instance_uid)
        .outerjoin(deliveries, deliveries.c.job == jobs.c.id)
        .where(of_some, jobs.c.state.in_(OPEN) | deliveries.c.state.in_(UNSENT))
    )
    over = set(numbers) - set(connection.scalars(undone))
    query = sa.select(events.c.id, events.c.instance, *EVENT_COLUMNS).where(
        events.c.instance.in_(over)
    )
    found: dict[int, list[Any]] = {}
    for row in connection.execute(query.order_by(events.c.id)) if over else ():
        found.setdefault(row.instance, []).append(row)
    newest = connection.scalar(sa.select(sa.func.max(events.c.id)))
    return {
        number: [row for row in rows if row.id != newest]
        for number, rows in found.items()
        if (last is None or rows[-1].id <= last) and max(row.at for row in rows) < before
    }


def _packed_before(connection: Connection, numbers: Collection[int]) -> dict[int, bytes]:
    query = sa.select(past_events).where(past_events.c.number.in_(numbers))
    return {row.number: row.content for row in connection.execute(query)} if numbers else {}
