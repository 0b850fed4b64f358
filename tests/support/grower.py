"""Grows a ledger to any size: a dozen Instances live their life, and their rows are cloned by SQL.

Each clone has UIDs, a patient, a study, a job, an object, a delivery and events of its own, one
every 30 s. UIDs and job ids are scattered over their whole range, as hashes and the UIDs of many
devices are: rows that come one behind the other do not stand side by side in an index.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from ledgers import instance, result, route

from dicom_node.base.job import ReportObject, Ticket
from dicom_node.store.ledger import Ledger
from dicom_node.store.ledger.past import AGE_S, KeptEvent, pack_events
from dicom_node.store.ledger.search import indexed_text, searched_text
from dicom_node.store.ledger.upkeep import LEAST_NEW, MERGED, NEW_SHARE
from dicom_node.store.spool import Spool

SEED = 12
BATCH = 20_000
EVERY_S = 30.0
NAMES = 5000
"""Patient names that differ; as in life, several patients share each, in any order."""

SPREAD, RANGE = 2654435761, 2**32
"""Knuth's multiplicative hash: i * SPREAD mod RANGE is another number for each i below RANGE."""


def grown(folder: Path, size: int, report: bytes = b"a report") -> str:
    """Return the URL of a SQLite ledger of so many Instances; it is kept for the next time.

    Its spool lies beside it, with the reports of the dozen, all of these bytes.
    """
    path = folder / "ledger.sqlite"
    url = f"sqlite:///{path}"
    folder.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        has_tables = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if not has_tables:
        path.unlink()
        seed(url, folder, report)
    Ledger.upgrade(url)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA synchronous = OFF")
        db.execute("PRAGMA cache_size = -400000")
        grow(Sqlite(db), size)
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return url


def grown_postgresql(url: str, folder: Path, size: int, report: bytes = b"a report") -> str:
    """Grow the PostgreSQL ledger at `url`, and return the URL; see `grown`."""
    import psycopg

    with psycopg.connect(
        sa.make_url(url).set(drivername="postgresql").render_as_string(False)
    ) as db:
        db.autocommit = True
        if not db.execute("SELECT EXISTS (SELECT 1 FROM instances)").fetchone()[0]:
            seed(url, folder, report)
        Ledger.upgrade(url)
        db.execute("SET synchronous_commit = off")
        if grow(Postgresql(db), size):
            db.execute("VACUUM ANALYZE")
    return url


class Sqlite:
    """What is said otherwise in SQLite."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self.execute = db.execute
        self._db = db

    def columns(self, table: str) -> list[str]:
        return [row[1] for row in self.execute(f"PRAGMA table_info({table})")]

    @contextmanager
    def without_triggers(self) -> Iterator[None]:
        triggers = self.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"
        ).fetchall()
        for name, _ in triggers:
            self.execute(f"DROP TRIGGER {name}")
        yield
        for _, sql in triggers:
            self.execute(sql)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self.execute("BEGIN IMMEDIATE")
        yield
        self.execute("COMMIT")

    def decimal(self, number: str, width: int) -> str:
        return f"printf('%0{width}d', {number})"

    def hexadecimal(self, number: str, width: int) -> str:
        return f"printf('%0{width}x', {number})"

    words = "INSERT INTO words (rowid, text) {numbers} SELECT i, {text} FROM n WHERE i <= {merged}"

    def add_past(self, rows: Iterator[tuple[int, bytes]]) -> None:
        self._db.executemany("INSERT INTO past_events (number, content) VALUES (?, ?)", rows)

    def settle(self, last: int) -> None:
        """Leave the index of words as a node does shortly before it merges all of it again.

        The newest have come one by one since it did so last. They take the number behind the last
        by themselves.
        """
        merged = merged_before(last)
        self.execute("INSERT INTO words (words, rank) VALUES ('automerge', 0)")
        if merged > SEED:
            self.execute("INSERT INTO words (words) VALUES ('optimize')")
            self.execute("INSERT OR REPLACE INTO marks VALUES (?, ?)", (MERGED, merged))
        newest = self.execute(
            "SELECT number, patient_name, patient_id, accession_number FROM instances "
            "WHERE number > ?",
            (merged,),
        ).fetchall()
        for number, *texts in newest:
            text = indexed_text(searched_text(*texts), is_sqlite=True)
            self.execute("INSERT INTO words (rowid, text) VALUES (?, ?)", (number, text))
            if number % 50 == 0:  # a busy second
                self.execute("INSERT INTO words (words, rank) VALUES ('merge', 160)")


class Postgresql:
    """What is said otherwise in PostgreSQL."""

    def __init__(self, db: Any) -> None:
        self._db = db
        self.execute = db.execute
        self.transaction = db.transaction

    def columns(self, table: str) -> list[str]:
        found = "SELECT column_name FROM information_schema.columns WHERE table_name = %s"
        return [row[0] for row in self.execute(found, (table,))]

    @contextmanager
    def without_triggers(self) -> Iterator[None]:
        self.execute("SET session_replication_role = replica")
        yield
        self.execute("SET session_replication_role = origin")

    def decimal(self, number: str, width: int) -> str:
        return f"lpad(({number})::text, {width}, '0')"

    def hexadecimal(self, number: str, width: int) -> str:
        return f"lpad(to_hex({number}), {width}, '0')"

    words = (
        "INSERT INTO words (number, text) {numbers} "
        "SELECT i, array_to_tsvector(string_to_array({text}, ' ')) FROM n"
    )

    def add_past(self, rows: Iterator[tuple[int, bytes]]) -> None:
        into = "COPY past_events (number, content) FROM STDIN"
        with self._db.cursor() as cursor, cursor.copy(into) as copy:
            for row in rows:
                copy.write_row(row)

    def settle(self, last: int) -> None:
        """Let the sequence of numbers go on behind the clones."""
        self.execute(f"SELECT setval('instance_numbers', {last})")


def grow(db: Any, size: int) -> bool:
    """Clone the dozen until there are so many Instances; return whether there were fewer."""
    have = db.execute("SELECT max(number) FROM instances").fetchone()[0]
    begin = time.time() - EVERY_S * size
    if have >= size:
        return False
    life = kept_life(db)
    with db.without_triggers():  # the clones stand as the dozen do, and are counted at the end
        for first in range(have + 1, size + 1, BATCH):
            last = min(first + BATCH - 1, size)
            with db.transaction():
                for statement in cloning(db, first, last, size, begin):
                    db.execute(statement)
                past = int(min(last + 1, max(first, size - AGE_S / EVERY_S)))
                db.add_past((n, packed_life(life, n, begin)) for n in range(first, past))
        with db.transaction():
            db.execute("DELETE FROM totals")
            for table, name in {
                "instances": "''",
                "jobs": "model",
                "deliveries": "destination",
            }.items():
                counted = f"SELECT '{table}', {name}, state, 0, count(*) FROM {table} GROUP BY 2, 3"
                db.execute(f"INSERT INTO totals (what, name, state, shard, n) {counted}")
            counted = (
                "SELECT 'results', CAST(maker_id AS TEXT), '', 0, count(*) FROM jobs "
                "WHERE maker_id IS NOT NULL GROUP BY 2"
            )
            db.execute(f"INSERT INTO totals (what, name, state, shard, n) {counted}")
    db.settle(size)
    return True


def merged_before(size: int) -> int:
    """Return up to which number words are merged in a ledger that will merge all of them next."""
    return max(SEED, size - max(LEAST_NEW, size // NEW_SHARE))


def cloning(db: Any, first: int, last: int, size: int, begin: float) -> Iterator[str]:
    """Yield the statements that add the Instances with these numbers.

    Files of images older than a day are gone, as with ``retention.images = "24h"``, and events of
    Instances older than a week are packed.
    """
    numbers = (
        f"WITH RECURSIVE n(i) AS (SELECT {first} UNION ALL SELECT i + 1 FROM n WHERE i < {last}) "
    )
    template = f"(i % {SEED}) + 1"
    spread = f"(CAST(i AS BIGINT) * {SPREAD} % {RANGE})"

    def clone(table: str, source: str, changed: dict[str, str]) -> str:
        columns = db.columns(table)
        if table in ("events", "deliveries"):
            columns.remove("id")
        shown = ", ".join(changed.get(name, f"t.{name}") for name in columns)
        return (
            f"INSERT INTO {table} ({', '.join(columns)}) {numbers}SELECT {shown} FROM n, {source}"
        )

    def uid(root: int) -> str:
        scattered, own = db.decimal(spread, 10), db.decimal("i", 8)
        return f"'2.25.{root}' || {scattered} || '9671643505188088089' || {own}"

    prefix = db.hexadecimal(spread, 8)
    name = f"(i * 1009 % {NAMES})"
    at = f"{begin!r} + {EVERY_S!r} * i"
    is_old = f"i < {size} - 86400 / {EVERY_S!r}"
    is_past = f"i < {size} - {AGE_S!r} / {EVERY_S!r}"
    digest = f"{db.hexadecimal(spread, 16)} || '{'5e' * 24}'"
    of_instance = f"instances s CROSS JOIN {{}} WHERE s.number = {template} AND "
    yield clone(
        "instances",
        f"instances t WHERE t.number = {template}",
        {
            "sop_instance_uid": uid(17),
            "study_instance_uid": uid(19),
            "series_instance_uid": uid(33),
            "patient_id": "'PHANTOM-' || i",
            "patient_name": f"'Name' || {name} || '^Chest'",
            "sort_name": f"'name' || {name} || '^chest'",
            "accession_number": "'PH' || i",
            "number": "i",
            "received_at": at,
            "kept_at": at,
            "file": f"CASE WHEN {is_old} THEN '' ELSE "
            f"'images/' || {db.hexadecimal('i % 16', 1)} || '/' || {prefix} || "
            f"'{'b' * 32}.' || {db.hexadecimal('i', 16)} || '.dcm' END",
            "sha256": f"CASE WHEN {is_old} THEN {digest} ELSE '' END",
            "purged_at": f"CASE WHEN {is_old} THEN {at} + 86500 ELSE 0 END",
        },
    )
    longer = indexed_text("phantom", is_sqlite=isinstance(db, Sqlite))
    text = f"'name' || {name} || ' chest {longer} ' || i || ' ph' || i"
    yield db.words.format(numbers=numbers, text=text, merged=merged_before(size))
    same = "{}.sop_instance_uid = s.sop_instance_uid"
    yield clone(
        "jobs",
        of_instance.format("jobs t") + same.format("t"),
        {
            "id": f"{prefix} || substr(t.id, 9)",
            "sop_instance_uid": uid(17),
            "received_at": at,
            "started_at": f"{at} + 1",
            "ended_at": f"{at} + 2",
        },
    )
    of_job = same.format("j") + " AND t.job = j.id"
    yield clone(
        "objects",
        of_instance.format("jobs j CROSS JOIN objects t") + of_job,
        {
            "job": f"{prefix} || substr(t.job, 9)",
            "sop_instance_uid": uid(31),
            "series_instance_uid": uid(98),
        },
    )
    yield clone(
        "deliveries",
        of_instance.format("jobs j CROSS JOIN deliveries t") + of_job,
        {
            "job": f"{prefix} || substr(t.job, 9)",
            "created_at": at,
            "ended_at": f"{at} + 3",
        },
    )
    yield clone(
        "events",
        f"events t WHERE t.instance = {template} AND NOT {is_past}",
        {
            "instance": "i",
            "at": at,
            "job": f"CASE t.job WHEN '' THEN '' ELSE {prefix} END",
        },
    )
    yield (
        "INSERT INTO events (instance, job, at, stage, detail, is_typed) "
        f"{numbers}SELECT i, '', {at} + 86500, 'purged', '', 1 FROM n "
        f"WHERE {is_old} AND NOT {is_past}"
    )
    yield clone(
        "study_numbers",
        of_instance.format("study_numbers t") + "t.study_instance_uid = s.study_instance_uid",
        {"study_instance_uid": uid(19)},
    )


LATER_S = (0, 0.004, 0.731, 0.95, 28.472, 1.806, 86411.337)
"""Between the events of a life: received, routed, queued, claimed, reported, sent, purged."""


def kept_life(db: Any) -> list[KeptEvent]:
    """Return the events of the first of the dozen, and that its file was removed, each at its time
    after the first."""
    rows = db.execute(
        "SELECT stage, job, ms, detail FROM events WHERE instance = 1 ORDER BY id"
    ).fetchall()
    kept = [
        KeptEvent(stage, at, job, ms, detail, is_typed=True)
        for at, (stage, job, ms, detail) in zip(
            accumulate(LATER_S), (*rows, ("purged", "", None, "")), strict=False
        )
    ]
    assert len(kept) == len(LATER_S), "the dozen live another life than before"
    return kept


def packed_life(life: list[KeptEvent], n: int, begin: float) -> bytes:
    """Return the packed events of the Instance with this number."""
    received, job = begin + EVERY_S * n, f"{n * SPREAD % RANGE:08x}"
    return pack_events(
        [event._replace(at=received + event.at, job=event.job and job) for event in life]
    )


def seed(url: str, folder: Path, report: bytes) -> None:
    """Make a ledger with a dozen delivered reports, and their spool."""
    Ledger.upgrade(url)
    ledger, spool = Ledger.open(url), Spool(folder / "spool")
    for n in range(1, SEED + 1):
        live_through(ledger, n, spool.write_report(f"{n}", "t", "sr", report))
    ledger.close()


def uid_of(root: int, n: int) -> str:
    """Return the UID that a clone with this number has: scattered, 44 characters as UUIDs give."""
    return f"2.25.{root}{n * SPREAD % RANGE:010d}9671643505188088089{n:08d}"


def live_through(ledger: Ledger, n: int, file: str) -> None:
    """Take an Instance from reception to its delivered report, one after another."""
    ledger.instances.receive(
        instance(
            n,
            sop_instance_uid=uid_of(17, n),
            study_instance_uid=uid_of(19, n),
            series_instance_uid=uid_of(33, n),
            file=f"images/{n % 16:x}/{n * SPREAD % RANGE:08x}{'b' * 32}.{n:016x}.dcm",
            sha256="",
            size=8_000_000 + n,
            patient_id=f"PHANTOM-{n}",
            patient_name=f"Name{n}^Chest",
            patient_birth_date="19700101",
            patient_sex="F",
            accession_number=f"PH{n}",
            study_date="20260105",
            study_time="090000",
            body_part="CHEST",
            view="PA",
            manufacturer="No maker",
            station_name="ROOM1",
            institution="No hospital",
            study_description="Drawn chest phantom",
            called_ae="CHEXFRACT",
        ),
        [route()],
    )
    (ticket,) = ledger.jobs.hand_out("phantom", 1, time.time() + 60)
    ledger.jobs.claim(ticket.job, ticket.token, "host:4711", 60)
    ledger.jobs.report(ticket.job, ticket.token, made_result(ticket, n), {"sr": file})
    (due,) = ledger.deliveries.due()
    ledger.deliveries.choose(due.id, due.objects[0].sop_instance_uid)
    ledger.deliveries.delivered(due.id, 0, 12.0)


def made_result(ticket: Ticket, n: int) -> Any:
    """Return a result as the demonstration model makes one."""
    return result(
        ticket,
        model_version="0.1.0+phantom-65dfb8e0.dc907454",
        device_uid="2.25.249858307960418913127460968628224361122",
        options="0c384e0aa1f2429bdb86b8ec487c8dc1c62cbd5e3e0c35c7a23bcef0e7a62f4d",
        text="Fracture of the left 2nd rib. Fracture of the left 8th rib.",
        presence="present",
        objects=(
            ReportObject(
                kind="sr",
                part="sr",
                sop_class_uid="1.2.840.10008.5.1.4.1.1.88.34",
                sop_instance_uid=uid_of(31, n),
                series_instance_uid=uid_of(98, n),
            ),
        ),
    )
