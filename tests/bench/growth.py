"""``python -m tests.bench.growth [--sizes 1000 100000 1000000]``: what a growing ledger costs.

A dozen Instances go through the ledger as they do in life: received, handed out, reported,
delivered. Their rows are then cloned by SQL, each with UIDs, a patient and a study of its own, one
every 30 s back in time. One line per operation: its median at each size, and the ratio of the
largest to the smallest. The files of the clones are those of the dozen.
"""

from __future__ import annotations

import argparse
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import count, islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

import reports
from ledgers import ORDER, instance, result, route
from pydicom import Dataset
from results import VARIANTS

from dicom_node.base.job import ReportObject, Ticket
from dicom_node.store.catalogue import Catalogue
from dicom_node.store.ledger import Ledger
from dicom_node.store.spool import Spool
from dicom_node.web.health import Counts
from worker.report.sr import build_each

SEED = 12
BATCH = 20_000
NEW = count(10**7)

Row = tuple[str, float]


def seeded(folder: Path) -> tuple[Ledger, Spool]:
    """Return a ledger with a dozen delivered reports, and their spool."""
    url = f"sqlite:///{folder}/ledger.sqlite"
    Ledger.upgrade(url)
    ledger, spool = Ledger.open(url), Spool(folder / "spool")
    about = (reports.source(), reports.CASES["fracture"], reports.ALGORITHM, ORDER)
    (document, *_) = build_each(*about, VARIANTS)
    for n in range(1, SEED + 1):
        one_way(ledger, n, spool.write_report(f"{n}", "t", "sr", document.content))
    return ledger, spool


def one_way(ledger: Ledger, n: int, file: str) -> None:
    """Take an Instance from reception to its delivered report."""
    now = time.time()
    uid = f"2.25.27968167350518808808951352200159778{n:08d}"
    ledger.instances.receive(
        instance(
            n,
            sop_instance_uid=uid,
            study_instance_uid=f"2.25.19359446026014257573586858805735715{n:08d}",
            series_instance_uid=f"2.25.33870703744360119282699248991724425{n:08d}",
            file="",
            sha256="",
            patient_id=f"PHANTOM-{n}",
            patient_name=f"Phantom^Chest^No {n}",
            accession_number=f"PH{n}",
            study_date="20260105",
            study_time="090000",
            institution="No hospital",
            study_description="Drawn chest phantom",
        ),
        [route()],
        at=now,
    )
    (ticket,) = ledger.jobs.hand_out("phantom", 1, now + 60, now)
    ledger.jobs.claim(ticket.job, ticket.token, "host:4711", 60, now)
    ledger.jobs.report(ticket.job, ticket.token, made(ticket, n), {"sr": file}, now)
    (due,) = ledger.deliveries.due(now + 1)
    ledger.deliveries.choose(due.id, due.objects[0].sop_instance_uid)
    ledger.deliveries.delivered(due.id, 0, now + 1, 12.0)


def made(ticket: Ticket, n: int) -> object:
    """Return a result as the demonstration model makes one."""
    return result(
        ticket,
        text="Fracture of the left 2nd rib. Fracture of the left 8th rib.",
        presence="present",
        objects=(
            ReportObject(
                kind="sr",
                part="sr",
                sop_class_uid="1.2.840.10008.5.1.4.1.1.88.34",
                sop_instance_uid=f"2.25.31319313070627173463507520130940485{n:08d}",
                series_instance_uid=f"2.25.98864892376104560836385237740853252{n:08d}",
            ),
        ),
    )


def grow(path: Path, wanted: int) -> None:
    """Clone the dozen by SQL until there are so many Instances."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA synchronous = OFF")
        db.execute("PRAGMA cache_size = -200000")
        have = db.execute("SELECT max(number) FROM instances").fetchone()[0]
        triggers = db.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"
        ).fetchall()
        for name, _ in triggers:  # the clones stand as the dozen do, and are counted at the end
            db.execute(f"DROP TRIGGER {name}")
        while have < wanted:
            end = min(have + BATCH, wanted)
            db.execute("BEGIN IMMEDIATE")
            for statement in cloning(db, have + 1, end):
                db.execute(statement)
            db.execute("COMMIT")
            have = end
        db.execute("DELETE FROM totals")
        for table, name in {
            "instances": "''",
            "jobs": "model",
            "deliveries": "destination",
        }.items():
            counted = f"SELECT '{table}', {name}, state, 0, count(*) FROM {table} GROUP BY 2, 3"
            db.execute(f"INSERT INTO totals (what, name, state, shard, n) {counted}")
        for _, sql in triggers:
            db.execute(sql)
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def cloning(db: sqlite3.Connection, begin: int, end: int) -> Iterator[str]:
    """Yield the statements that add the Instances with these numbers."""
    numbers = (
        f"WITH RECURSIVE n(i) AS (SELECT {begin} UNION ALL SELECT i + 1 FROM n WHERE i < {end}) "
    )
    template = f"(i % {SEED}) + 1"
    job = "printf('%08x', i) || substr({}, 9)"

    def clone(table: str, source: str, changed: dict[str, str]) -> str:
        columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
        if table in ("events", "deliveries"):
            columns.remove("id")
        shown = ", ".join(changed.get(name, f"t.{name}") for name in columns)
        return (
            f"INSERT INTO {table} ({', '.join(columns)}) {numbers}SELECT {shown} FROM n, {source}"
        )

    def tail(column: str) -> str:
        return f"substr(t.{column}, 1, 36) || printf('%08d', i)"

    back = f"{time.time()} - 30 * i"
    of_instance = f"instances s CROSS JOIN {{}} WHERE s.number = {template} AND "
    yield clone(
        "instances",
        f"instances t WHERE t.number = {template}",
        {
            **{f"{x}_instance_uid": tail(f"{x}_instance_uid") for x in ("sop", "study", "series")},
            "patient_id": "'PHANTOM-' || i",
            "patient_name": "'Name' || (i % 5000) || '^Chest'",
            "folded_name": "'name' || (i % 5000) || '^chest'",
            "accession_number": "'PH' || i",
            "number": "i",
            "received_at": back,
            "kept_at": back,
            "purged_at": back,
        },
    )
    yield (
        f"INSERT INTO words (rowid, text) {numbers}"
        "SELECT i, 'name' || (i % 5000) || ' chest phantom ' || i || ' ph' || i FROM n"
    )
    same = "{}.sop_instance_uid = s.sop_instance_uid"
    yield clone(
        "jobs",
        of_instance.format("jobs t") + same.format("t"),
        {
            "id": job.format("t.id"),
            "sop_instance_uid": tail("sop_instance_uid"),
            "received_at": back,
            "started_at": f"{back} + 1",
            "ended_at": f"{back} + 2",
        },
    )
    of_job = same.format("j") + " AND t.job = j.id"
    yield clone(
        "objects",
        of_instance.format("jobs j CROSS JOIN objects t") + of_job,
        {
            "job": job.format("t.job"),
            "sop_instance_uid": tail("sop_instance_uid"),
            "series_instance_uid": tail("series_instance_uid"),
        },
    )
    yield clone(
        "deliveries",
        of_instance.format("jobs j CROSS JOIN deliveries t") + of_job,
        {
            "job": job.format("t.job"),
            "sop_instance_uid": tail("sop_instance_uid"),
            "created_at": back,
            "ended_at": f"{back} + 3",
        },
    )
    yield clone(
        "events",
        f"events t WHERE t.instance = {template}",
        {
            "instance": "i",
            "at": back,
            "job": "CASE t.job WHEN '' THEN '' ELSE printf('%08x', i) END",
        },
    )
    yield clone(
        "counters",
        of_instance.format("counters t") + "t.study_instance_uid = s.study_instance_uid",
        {"study_instance_uid": tail("study_instance_uid")},
    )


def operations(ledger: Ledger, spool: Spool) -> dict[str, Callable[[], object]]:
    """Return what is measured, by name."""
    catalogue = Catalogue(ledger, spool, "NODE")
    file = next(iter(spool.names("reports", 0)))
    with closing(sqlite3.connect(ledger.url.removeprefix("sqlite:///"))) as db:
        total = db.execute("SELECT max(number) FROM instances").fetchone()[0]
        middle = f"SELECT * FROM instances WHERE number = {max(SEED + 1, total // 2)}"
        db.row_factory = sqlite3.Row
        row = db.execute(middle).fetchone()
    place = ledger.history.page(50).older
    counts = Counts(ledger, spool)

    def find(limit: int = 20, **keys: str) -> list[Dataset]:
        asked = Dataset()
        for keyword, value in keys.items():
            setattr(asked, keyword, value)
        return list(islice(catalogue.find("STUDY", asked), limit))

    def reported() -> None:
        one_way(ledger, next(NEW), file)

    return {
        "reception to delivery": reported,
        "claim and dispatch: nothing due": lambda: ledger.jobs.hand_out("phantom", 8, 9e9),
        "due deliveries": lambda: ledger.deliveries.due(time.time()),
        "due commitments": lambda: ledger.commitments.due(time.time()),
        "times that were ahead": lambda: (
            ledger.jobs.redate(time.time()),
            ledger.deliveries.redate(time.time()),
        ),
        "trace": lambda: ledger.history.trace(row["sop_instance_uid"]),
        "page, newest": lambda: ledger.history.page(50),
        "page, the next": lambda: ledger.history.page(50, before=place),
        "page, state failed": lambda: ledger.history.page(50, state="failed"),
        "page, state delivered": lambda: ledger.history.page(50, state="delivered"),
        "search: a patient id": lambda: ledger.history.page(50, row["patient_id"]),
        "search: chest name7": lambda: ledger.history.page(2, "chest name7"),
        "study by UID": lambda: find(StudyInstanceUID=row["study_instance_uid"]),
        "studies by patient id": lambda: find(PatientID=row["patient_id"]),
        "studies by name": lambda: find(2, PatientName="Name7*"),
        "studies by date": lambda: find(StudyDate="20260105"),
        "studies, the newest": find,
        "status": ledger.history.status,
        "health": ledger.history.answers,
        "metrics": lambda: list(counts.collect()),
        "tiles": lambda: ledger.results.pulse(time.time() - 3600, time.time() - 86400),
        "start": lambda: Ledger.open(ledger.url).close(),
        "purge: what is due": lambda: ledger.purge.purgeable(time.time(), 1e8, 1e8),
        "export, a row": lambda: list(islice(ledger.results.between(0, 9e9), 1000)),
    }


def measured(act: Callable[[], object], times: int) -> float:
    """Return the median of some runs in milliseconds, after one that is not counted."""
    act()
    took = []
    for _ in range(times):
        began = time.perf_counter()
        act()
        took.append((time.perf_counter() - began) * 1e3)
    return statistics.median(took)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 100_000, 1_000_000])
    parser.add_argument("--times", type=int, default=7)
    parser.add_argument("--folder", type=Path, help="where the ledgers are kept")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        ledger, spool = seeded(Path(name))
        table: dict[str, list[float]] = {}
        sizes = []
        for size in given.sizes:
            grow(Path(name) / "ledger.sqlite", size)
            sizes.append((Path(name) / "ledger.sqlite").stat().st_size / size)
            for title, act in operations(ledger, spool).items():
                per = 1000 if title.startswith("export") else 1
                table.setdefault(title, []).append(measured(act, given.times) / per)
        ledger.close()
    print(f"{'ms (median)':34}" + "".join(f"{size:>12,}" for size in given.sizes) + "   ratio")
    for title, took in table.items():
        print(f"{title:34}" + "".join(f"{ms:12.2f}" for ms in took) + f"{took[-1] / took[0]:8.2f}")
    print(f"{'bytes an Instance':34}" + "".join(f"{one:12.0f}" for one in sizes))


if __name__ == "__main__":
    main()
