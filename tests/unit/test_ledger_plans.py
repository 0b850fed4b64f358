"""No statement of a hot path scans a table that grows: SQLite itself says how it would run each."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from grower import grown
from hot import HOT
from ledgers import NOW, fresh, instance, on, reported, route
from pydicom import Dataset

from dicom_node.store.catalogue import Catalogue
from dicom_node.store.ledger import Ledger
from dicom_node.store.spool import Spool
from dicom_node.web.health import LedgerCounts

GROWING = "instances|jobs|objects|deliveries|events|judgements|counters|conflicts|commitments"
GROWING += "|study_numbers|senders|likenesses|past_events"


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    ledger = Ledger.open(fresh(tmp_path_factory.mktemp("plans")))
    reported(ledger)
    for n in range(2, 30):
        on(ledger, NOW + n).instances.receive(instance(n), [route()] if n % 2 else [])
    yield ledger
    ledger.close()


def plans(ledger: Ledger, act: Callable[[], object]) -> list[str]:
    """Return the lines of the plans of all statements that `act` runs."""
    asked: list[str] = []
    engine = ledger.database._engine

    def listen(connection: Any, *_: Any) -> None:  # the driver tells of those without SQLAlchemy
        connection.set_trace_callback(asked.append)

    disconnect(ledger)
    sa.event.listen(engine, "connect", listen)
    try:
        act()
    finally:
        sa.event.remove(engine, "connect", listen)
        disconnect(ledger)
    lines = []
    with ledger.database.reading() as connection:
        for statement in dict.fromkeys(asked):
            if statement.lstrip()[:6].upper() in ("SELECT", "UPDATE", "INSERT", "WITH N"):
                cursor: Any = connection.connection.cursor()
                rows = cursor.execute(f"EXPLAIN QUERY PLAN {statement}").fetchall()
                lines += [f"{row[3]}    in {statement[:200]}" for row in rows]
    return lines


def disconnect(ledger: Ledger) -> None:
    """Let the next statement have a new connection."""
    for looker in ledger.database._lookers:
        looker.close()
    ledger.database._lookers.clear()
    ledger.database._engine.dispose()


def scans(lines: list[str]) -> list[str]:
    """Return what looks at every row of a table that grows; the head of an index is none."""
    return [line for line in lines if re.match(rf"SCAN ({GROWING})\b(?!.*USING)", line)]


@pytest.mark.parametrize("name", HOT)
def test_no_hot_statement_scans_what_grows(ledger: Ledger, name: str) -> None:
    lines = plans(ledger, lambda: HOT[name](ledger))
    assert lines
    assert not scans(lines)


POLLED = (
    "expiry",
    "what waits",
    "when a job is due",
    "a clock that was ahead",
    "deliveries from a clock that was ahead",
    "leases after a jump",
    "due destinations",
    "due deliveries",
    "when a delivery is due",
    "due commitments",
    "when a commitment is due",
    "what waits to be compared",
)


@pytest.mark.parametrize("name", POLLED)
def test_what_is_asked_all_day_is_planned_once(ledger: Ledger, name: str) -> None:
    """A bound value that decides whether an index can be used has SQLite plan at each execution."""
    planned: list[tuple[Any, ...]] = []

    def listen(connection: Any, *_: Any) -> None:
        def note(action: int, *what: Any) -> int:
            if action in (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_UPDATE):
                planned.append(what)
            return sqlite3.SQLITE_OK

        connection.set_authorizer(note)

    disconnect(ledger)
    sa.event.listen(ledger.database._engine, "connect", listen)
    try:
        HOT[name](ledger)
        assert planned
        HOT[name](ledger)
        planned.clear()
        HOT[name](ledger)
        assert not planned
    finally:
        sa.event.remove(ledger.database._engine, "connect", listen)
        disconnect(ledger)


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"StudyInstanceUID": "1.2.4"},
        {"PatientID": "PID1"},
        {"PatientID": "PI*"},
        {"PatientName": "DOE^J*"},
        {"AccessionNumber": "A1"},
        {"StudyDate": "20260101-20260131"},
        {"SOPInstanceUID": "2.25.1"},
    ],
)
@pytest.mark.parametrize("level", ["PATIENT", "STUDY", "SERIES", "IMAGE"])
def test_no_query_scans_what_grows(
    ledger: Ledger, tmp_path: Path, level: str, keys: dict[str, str]
) -> None:
    asked = Dataset()
    for keyword, value in keys.items():
        setattr(asked, keyword, value)
    catalogue = Catalogue(ledger, Spool(tmp_path), "NODE")
    lines = plans(ledger, lambda: list(islice(catalogue.find(level, asked), 20)))  # type: ignore[arg-type]
    assert lines
    assert not scans(lines)


def test_the_metrics_scan_nothing_that_grows(ledger: Ledger, tmp_path: Path) -> None:
    counts = LedgerCounts(ledger, Spool(tmp_path))
    list(counts.collect())
    assert not scans(plans(ledger, lambda: list(counts.collect())))


@pytest.fixture(scope="module")
def two_sizes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Ledger, Ledger]]:
    """A ledger of 2,200 Instances and one of 8,800."""
    folder = tmp_path_factory.mktemp("sizes")
    both = tuple(Ledger.open(grown(folder / str(size), size)) for size in (2200, 8800))
    yield both[0], both[1]
    for ledger in both:
        ledger.close()


def work(ledger: Ledger, act: Callable[[], object]) -> int:
    """Return how many instructions of SQLite's machine `act` takes, in units of 20."""
    count = 0

    def tick() -> int:
        nonlocal count
        count += 1
        return 0

    def listen(connection: Any, *_: object) -> None:
        connection.set_progress_handler(tick, 20)

    act()
    sa.event.listen(ledger.database._engine, "checkout", listen)
    try:
        act()
    finally:
        sa.event.remove(ledger.database._engine, "checkout", listen)
    return count


@pytest.mark.parametrize("name", HOT)
def test_what_is_hot_takes_as_much_work_in_a_larger_ledger(
    two_sizes: tuple[Ledger, Ledger], name: str
) -> None:
    """No time is measured: the same instructions on any machine, however busy."""
    small, large = (work(ledger, lambda one=ledger: HOT[name](one)) for ledger in two_sizes)
    assert large <= 1.5 * small + 5


def test_work_that_grows_would_be_seen(two_sizes: tuple[Ledger, Ledger]) -> None:
    def look(ledger: Ledger) -> int:
        return work(ledger, lambda: ledger.purge.unnamed(["x"]))

    assert look(two_sizes[1]) > 3 * look(two_sizes[0])


def test_a_scan_would_be_seen(ledger: Ledger) -> None:
    def scan() -> None:
        with ledger.database.reading() as connection:
            connection.execute(sa.text("SELECT count(*) FROM events WHERE detail = 'x'")).all()

    assert scans(plans(ledger, scan))


def test_no_trigger_goes_through_all_deliveries_of_a_state(ledger: Ledger) -> None:
    with ledger.database.reading() as connection:
        query = (
            "SELECT sql FROM sqlite_master WHERE name IN ('deliveries_standing', 'jobs_standing')"
        )
        made = [row[0] for row in connection.exec_driver_sql(query)]
        for sql in made:
            act = sql[sql.index("UPDATE jobs") : sql.rindex(";")]
            act = act.replace("NEW.job", "'x'").replace("NEW.id", "'x'")
            rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {act}").all()
            assert not [row for row in rows if "(state=" in row[3]]
    assert len(made) == 2
