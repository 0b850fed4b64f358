"""No statement of a hot path scans a table that grows: SQLite itself says how it would run each."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from ledgers import NOW, fresh, instance, on, reported, route
from pydicom import Dataset

from dicom_node.store.catalogue import Catalogue
from dicom_node.store.ledger import Ledger
from dicom_node.store.spool import Spool
from dicom_node.web.health import Counts

GROWING = "instances|jobs|objects|deliveries|events|judgements|counters|conflicts|commitments"


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    ledger = Ledger.open(fresh(tmp_path_factory.mktemp("plans")))
    reported(ledger)
    for n in range(2, 30):
        on(ledger, NOW + n).instances.receive(instance(n), [route()] if n % 2 else [])
    yield ledger
    ledger.close()


HOT: dict[str, Callable[[Ledger], object]] = {
    "a hand-out": lambda ledger: on(ledger, NOW + 30).jobs.hand_out("phantom", 2, NOW + 90, 1),
    "expiry": lambda ledger: on(ledger, NOW + 31).jobs.expire(5),
    "what waits": lambda ledger: on(ledger, NOW + 31).jobs.waiting(),
    "when a job is due": lambda ledger: on(ledger, NOW).jobs.next_due(),
    "a clock that was ahead": lambda ledger: on(ledger, NOW + 31).jobs.redate(),
    "deliveries from a clock that was ahead": lambda ledger: on(
        ledger, NOW + 31
    ).deliveries.redate(),
    "due destinations": lambda ledger: on(ledger, NOW + 31).deliveries.due_destinations(),
    "due deliveries": lambda ledger: on(ledger, NOW + 31).deliveries.due(),
    "when a delivery is due": lambda ledger: on(ledger, NOW).deliveries.next_due(),
    "due commitments": lambda ledger: on(ledger, NOW + 31).commitments.due(),
    "when a commitment is due": lambda ledger: ledger.commitments.next_due(),
    "a trace": lambda ledger: ledger.history.trace("1.2.3.1"),
    "status": lambda ledger: ledger.history.status(),
    "health": lambda ledger: ledger.history.answers(),
    "events": lambda ledger: ledger.history.events_after(3, 10, ("received",)),
    "stage times": lambda ledger: ledger.history.stage_times(0, 50),
    "the newest event": lambda ledger: (ledger.history.newest_event(), ledger.history.last_event()),
    "a page": lambda ledger: ledger.history.page(5),
    "the next page": lambda ledger: ledger.history.page(5, before=ledger.history.page(5).older),
    "a page by state": lambda ledger: [
        ledger.history.page(5, state=state)
        for state in ("failed", "delivered", "reported", "ignored", "undelivered")
    ],
    "a search": lambda ledger: ledger.history.page(5, "doe jane"),
    "a search by UID": lambda ledger: ledger.history.page(5, "1.2.3.1"),
    "tiles": lambda ledger: ledger.results.pulse(NOW),
    "export": lambda ledger: list(ledger.results.between(NOW, NOW + 99)),
    "purge": lambda ledger: ledger.purge.purgeable(1, 1),
    "filling": lambda ledger: ledger.filling.next_rows(),
}


def plans(ledger: Ledger, act: Callable[[], object]) -> list[str]:
    """Return the lines of the plans of all statements that `act` runs."""
    asked: list[tuple[str, Any]] = []
    engine = ledger.database._engine

    def note(_c: Any, _cursor: Any, statement: str, parameters: Any, _x: Any, many: bool) -> None:
        asked.append((statement, parameters[0] if many else parameters))

    sa.event.listen(engine, "before_cursor_execute", note)
    try:
        act()
    finally:
        sa.event.remove(engine, "before_cursor_execute", note)
    lines = []
    with ledger.database.reading() as connection:
        for statement, parameters in asked:
            if statement.lstrip()[:6].upper() in ("SELECT", "UPDATE", "INSERT", "WITH N"):
                rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
                lines += [f"{row[3]}    in {statement[:200]}" for row in rows]
    return lines


def scans(lines: list[str]) -> list[str]:
    """Return what looks at every row of a table that grows; the head of an index is none."""
    return [line for line in lines if re.match(rf"SCAN ({GROWING})\b(?!.*USING)", line)]


@pytest.mark.parametrize("name", HOT)
def test_no_hot_statement_scans_what_grows(ledger: Ledger, name: str) -> None:
    lines = plans(ledger, lambda: HOT[name](ledger))
    assert lines
    assert not scans(lines)


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
    counts = Counts(ledger, Spool(tmp_path))
    list(counts.collect())
    assert not scans(plans(ledger, lambda: list(counts.collect())))


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
