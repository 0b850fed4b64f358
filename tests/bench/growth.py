"""``python -m tests.bench.growth``: what a growing ledger costs, one line per operation.

    python -m tests.bench.growth [--database sqlite postgresql] [--sizes 1000 100000 1000000]
                                 [--times 40] [--folder DIR] [--only WORDS] [--json FILE]

A ledger of each size is grown once (see `grower`; ``--folder`` keeps them) and stays warm in the
page cache of the system. Each operation runs at all sizes in turn, so that what else the machine
does meets all of them alike; the median, the 95th percentile and the ratio of the medians of the
largest and the smallest are shown.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

import reports
import sqlalchemy as sa
from grower import grown, grown_postgresql, live_through
from ledgers import ORDER
from postgresql import Cluster, cluster
from pydicom import Dataset

from dicom_node.store.catalogue import Catalogue
from dicom_node.store.ledger import Ledger
from dicom_node.store.ledger.studies import StudyFilter
from dicom_node.store.spool import Spool
from dicom_node.web.health import LedgerCounts
from worker.report.sr import build_each

A_ROW = {"purge: left-over files, a row": 2000, "export, a row": 1000}
"""Rows that an operation walks through; its time is that of one."""

SERVER = ("shared_buffers=2GB", "max_wal_size=8GB")
"""How PostgreSQL is set up; all else as it comes: each commit is on the disk before its answer."""


@dataclass(frozen=True)
class Grown:
    """A grown ledger, and what is asked of it."""

    size: int
    ledger: Ledger
    spool: Spool
    bytes_each: float


def drawn_report() -> bytes:
    """Return the bytes of a real report."""
    about = (reports.source(), reports.CASES["fracture"], reports.ALGORITHM, ORDER)
    (document, *_) = build_each(*about, ("comprehensive3d",))
    return document.content


def sqlite_ledger(folder: Path, size: int) -> Grown:
    """Return a SQLite ledger of this size."""
    ledger = Ledger.open(grown(folder, size, drawn_report()))
    return Grown(size, ledger, Spool(folder / "spool"), used_bytes(ledger) / size)


def postgresql_ledger(server: Cluster, folder: Path, size: int) -> Grown:
    """Return a PostgreSQL ledger of this size."""
    place = folder / f"postgresql-{size}"
    ledger = Ledger.open(
        grown_postgresql(server.named(f"grown{size}"), place, size, drawn_report())
    )
    return Grown(size, ledger, Spool(place / "spool"), used_bytes(ledger) / size)


def used_bytes(ledger: Ledger) -> int:
    """Return the bytes that a ledger takes on the disk, without free pages."""
    with ledger.database.reading() as connection:
        if not ledger.is_sqlite:
            found = connection.scalar(sa.text("SELECT pg_database_size(current_database())"))
            return int(found or 0)
        page, pages, free = (
            int(connection.exec_driver_sql(f"PRAGMA {name}").scalar() or 0)
            for name in ("page_size", "page_count", "freelist_count")
        )
        return page * (pages - free)


def operations(grown: Grown, numbers: Iterator[int]) -> dict[str, Callable[[], object]]:
    """Return what is measured, by name."""
    ledger, spool, size = grown.ledger, grown.spool, grown.size
    catalogue = Catalogue(ledger, spool, "NODE")
    counts = LedgerCounts(ledger, spool)
    middle = size // 2 + 7
    with ledger.database.reading() as connection:
        row = connection.execute(
            sa.text("SELECT * FROM instances WHERE number = :n"), {"n": middle}
        ).one()
        file = connection.scalar(sa.text("SELECT file FROM objects LIMIT 1"))
        report = connection.scalar(
            sa.text(
                "SELECT o.sop_instance_uid FROM objects o JOIN jobs j ON j.id = o.job "
                "WHERE j.sop_instance_uid = :uid"
            ),
            {"uid": row.sop_instance_uid},
        )
    place = ledger.history.page(50).older
    by_name, by_finding = StudyFilter(sort="name"), StudyFilter(sort="finding")
    next_by_name = ledger.studies.page(50, by_name).older
    name = "name7"  # the beginning of 111 of 5,000 names, in a ledger of any size

    def find(level: str = "STUDY", limit: int = 20, **keys: str) -> list[Dataset]:
        asked = Dataset()
        for keyword, value in keys.items():
            setattr(asked, keyword, value)
        return list(islice(catalogue.find(level, asked), limit))  # type: ignore[arg-type]

    def reported() -> None:
        live_through(ledger, next(numbers), file)

    def start() -> None:
        Ledger.open(ledger.url).close()

    now = time.time()
    files, export = A_ROW
    return {
        "reception to delivery": reported,
        "hand-out, nothing due": lambda: ledger.jobs.hand_out("phantom", 8, 9e9),
        "what waits": ledger.jobs.waiting,
        "due deliveries": lambda: ledger.deliveries.due(),
        "due commitments": lambda: ledger.commitments.due(),
        "times that were ahead": lambda: (
            ledger.jobs.redate(),
            ledger.deliveries.redate(),
        ),
        "trace by SOP Instance UID": lambda: ledger.history.trace(row.sop_instance_uid),
        "trace by report UID": lambda: ledger.history.trace(report),
        "trace by accession number": lambda: ledger.history.trace(row.accession_number),
        "page, newest": lambda: ledger.history.page(50),
        "page, the next": lambda: ledger.history.page(50, before=place),
        "page, in the middle": lambda: ledger.history.page(
            50, before=f"{row.received_at!r}~{row.number}~{row.sop_instance_uid}"
        ),
        "page, state failed": lambda: ledger.history.page(50, state="failed"),
        "page, state delivered": lambda: ledger.history.page(50, state="delivered"),
        "page, state ignored": lambda: ledger.history.page(50, state="ignored"),
        "studies by name": lambda: ledger.studies.page(50, by_name),
        "studies by name, the next": lambda: ledger.studies.page(50, by_name, next_by_name),
        "studies by finding": lambda: ledger.studies.page(50, by_finding),
        "search: a patient id": lambda: ledger.history.page(50, row.patient_id),
        "search: one name": lambda: ledger.history.page(1, name),
        "search: two words": lambda: ledger.history.page(1, f"chest {name}"),
        "search: a word of all": lambda: ledger.history.page(50, "chest"),
        "search: two words of all": lambda: ledger.history.page(50, "phantom che"),
        "search: no such word": lambda: ledger.history.page(50, "chest nobody"),
        "C-FIND: study by UID": lambda: find(StudyInstanceUID=row.study_instance_uid),
        "C-FIND: studies by patient id": lambda: find(PatientID=row.patient_id),
        "C-FIND: studies by accession": lambda: find(AccessionNumber=row.accession_number),
        "C-FIND: studies by name": lambda: find(limit=1, PatientName=f"{name}*"),
        "C-FIND: studies by date": lambda: find(StudyDate="20260105"),
        "C-FIND: studies, newest": find,
        "C-FIND: patients, newest": lambda: find("PATIENT"),
        "C-FIND: series of a study": lambda: find(
            "SERIES", StudyInstanceUID=row.study_instance_uid
        ),
        "C-FIND: a report": lambda: find("IMAGE", SOPInstanceUID=report),
        "status": ledger.history.status,
        "health": ledger.history.answers,
        "metrics": lambda: list(counts.collect()),
        "tiles": lambda: ledger.results.pulse(now - 3600),
        "workers": ledger.results.workers,
        "versions": lambda: ledger.results.versions(now - 30 * 86400),
        "start": start,
        "purge: what is due": lambda: ledger.purge.purgeable(86400, 365 * 86400),
        files: lambda: list(islice(ledger.purge.named_files(), A_ROW[files])),
        export: lambda: list(islice(ledger.results.between(0, 9e9), A_ROW[export])),
    }


def measured(
    acts: dict[int, Callable[[], object]], times: int
) -> dict[int, tuple[list[float], list[float]]]:
    """Return milliseconds of each run at each size, and those of the processor alone.

    The first run of each is not counted.
    """
    took: dict[int, tuple[list[float], list[float]]] = {size: ([], []) for size in acts}
    for n in range(times + 1):
        for size, act in acts.items():
            began, worked = time.perf_counter(), time.thread_time()
            act()
            if n:
                took[size][0].append((time.perf_counter() - began) * 1e3)
                took[size][1].append((time.thread_time() - worked) * 1e3)
    return took


def row_of(name: str, took: dict[int, tuple[list[float], list[float]]]) -> dict[str, Any]:
    """Return one line of the table."""
    per = A_ROW.get(name, 1)
    sizes = sorted(took)
    at = {
        size: {
            "median": statistics.median(wall) / per,
            "p95": sorted(wall)[int(0.95 * (len(wall) - 1))] / per,
            "processor": statistics.median(worked) / per,
            "n": len(wall),
        }
        for size, (wall, worked) in sorted(took.items())
    }
    first, last = at[sizes[0]], at[sizes[-1]]
    ratio, processor = (last[key] / first[key] for key in ("median", "processor"))
    return {"name": name, "unit": "ms", "at": at, "ratio": ratio, "processor_ratio": processor}


def shown(row: dict[str, Any]) -> str:
    """Return a line for people."""
    cells = "".join(f"{cell['median']:9.2f} {cell['p95']:8.2f}" for cell in row["at"].values())
    return f"{row['name']:32}{cells}{row['ratio']:7.2f}{row['processor_ratio']:7.2f}"


def bench(database: str, given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure one database and print its table."""
    with ExitStack() as stack:
        if database == "sqlite":
            ledgers = [sqlite_ledger(folder / f"sqlite-{size}", size) for size in given.sizes]
        else:
            server = stack.enter_context(cluster(folder / "postgresql", SERVER))
            ledgers = [postgresql_ledger(server, folder, size) for size in given.sizes]
        for ledger in ledgers:
            stack.callback(ledger.ledger.close)
        print(f"\n{database}, ms: median and 95th percentile of {given.times}")
        print(f"{'':32}" + "".join(f"{size:>18,}" for size in given.sizes) + "  ratio    cpu")
        numbers = count(10**7 + int(time.time()) % 10**6 * 10)
        acts = {ledger.size: operations(ledger, numbers) for ledger in ledgers}
        rows = []
        for name in acts[given.sizes[0]]:
            if given.only and not any(word in name for word in given.only):
                continue
            took = measured({size: found[name] for size, found in acts.items()}, given.times)
            rows.append(row_of(name, took))
            print(shown(rows[-1]), flush=True)
        each = {str(ledger.size): ledger.bytes_each for ledger in ledgers}
        print(f"{'bytes an Instance':32}" + "".join(f"{n:>9.0f}{'':9}" for n in each.values()))
    return {"database": database, "rows": rows, "bytes_each": each}


def flat(table: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield one row per operation and size, in the form of all benches."""
    for row in table["rows"]:
        first = min(row["at"])
        for size, cell in row["at"].items():
            yield {
                "name": f"{table['database']}: {row['name']}",
                "unit": row["unit"],
                "n": cell["n"],
                "median": cell["median"],
                "p95": cell["p95"],
                "ratio": cell["median"] / row["at"][first]["median"],
                "processor_ratio": cell["processor"] / row["at"][first]["processor"],
                "anchor": f"{first:,} Instances",
                "size": size,
            }


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--database", nargs="+", default=["sqlite"])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 100_000, 1_000_000])
    parser.add_argument("--times", type=int, default=40)
    parser.add_argument("--only", nargs="+", help="words of the operations to measure")
    parser.add_argument("--folder", type=Path, help="where the ledgers are kept")
    parser.add_argument("--json", type=Path, help="where the figures are written")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)  # the account that PostgreSQL runs as has to get in
        found = [bench(url, given, given.folder or Path(name)) for url in given.database]
    if given.json:
        rows = [row for table in found for row in flat(table)]
        machine = {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "load": round(os.getloadavg()[0], 1),
            "python": platform.python_version(),
            "sqlite": sqlite3.sqlite_version,
        }
        content = {"bench": "growth", "machine": machine, "rows": rows}
        given.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
