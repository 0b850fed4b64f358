"""Ledgers for tests: a fresh file in a moment, and what is put into it."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import sqlalchemy as sa

from dicom_node.base.job import ReportObject, ReportOrder, Result, Ticket
from dicom_node.store import schema
from dicom_node.store.clock import Clock
from dicom_node.store.ledger import Instance, Ledger, Route

Thing = TypeVar("Thing")

NOW = 1_800_000_000.0
SR = "1.2.840.10008.5.1.4.1.1.88.34"
ORDER = ReportOrder(content_datetime="2000-01-01T00:00:00Z", sop_classes=("comprehensive3d",))


@cache
def _empty() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.sqlite"
        Ledger.upgrade(f"sqlite:///{path}")
        return path.read_bytes()


def fresh(folder: Path) -> str:
    """Return the URL of a new ledger in `folder`; migrations have run once per session."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ledger.sqlite").write_bytes(_empty())
    return f"sqlite:///{folder}/ledger.sqlite"


def expand(url: str, readable_by: str | None = schema.VERSIONS[-1]) -> str:
    """Add to a ledger's schema what a next version may add; return the number of its schema.

    Parameters
    ----------
    readable_by : str or None
        Oldest schema version whose software may go on using it; None leaves the mark out.
    """
    version = f"{int(schema.VERSIONS[-1]) + 1:04d}"
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        for table in schema.metadata.sorted_tables:
            added = "since_next VARCHAR(64) DEFAULT 'next' NOT NULL"
            connection.execute(sa.text(f"ALTER TABLE {table.name} ADD COLUMN {added}"))
        connection.execute(sa.text("CREATE TABLE nexts (id INTEGER PRIMARY KEY)"))
        connection.execute(sa.text("CREATE INDEX ix_jobs_since_next ON jobs (since_next)"))
        connection.execute(sa.text("UPDATE alembic_version SET version_num = :v"), {"v": version})
        if readable_by is not None:
            mark = {"name": schema.readable_mark(version), "value": int(readable_by)}
            connection.execute(schema.marks.insert(), mark)
    engine.dispose()
    return version


def schema_differences(url: str) -> list[Any]:
    """Return how the schema of a ledger differs from that of this software."""
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    engine = sa.create_engine(url)
    known = schema.metadata.tables.keys()  # all but those of the full text search

    def is_wanted(thing: Any, name: str | None, kind: str, is_found: bool, other: Any) -> bool:
        if kind == "table":
            return name in known
        is_index = kind in ("index", "unique_constraint")
        return not is_index or is_found or schema.is_index_of(thing, engine.dialect.name)

    with engine.connect() as connection:
        options = {"include_object": is_wanted}
        context = MigrationContext.configure(connection, opts=options)
        found = compare_metadata(context, schema.metadata)
    engine.dispose()
    return list(found)


def on(thing: Thing, moment: float) -> Thing:
    """Return `thing` (a ledger, or what has its clock): calls of it happen at this moment."""
    return cast(Thing, _At(thing, cast(Any, thing).clock, moment))


class _At:
    """Sets a clock for as long as a call takes; both sides of it, so that no jump is seen."""

    def __init__(self, thing: Any, clock: Clock, moment: float) -> None:
        self._thing, self._clock, self._moment = thing, clock, moment

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._thing, name)
        return self._called(found) if callable(found) else _At(found, self._clock, self._moment)

    def _called(self, call: Any) -> Any:
        clock, moment = self._clock, self._moment

        def called(*given: Any, **named: Any) -> Any:
            before = dict(vars(clock))
            since = moment - clock.wall() + clock.monotonic()
            vars(clock).update(wall=lambda: moment, monotonic=lambda: since)
            try:
                return call(*given, **named)
            finally:
                vars(clock).clear()
                vars(clock).update(before)

        return called


def instance(n: int = 1, **changed: Any) -> Instance:
    facts: dict[str, Any] = {
        "sop_instance_uid": f"1.2.3.{n}",
        "sop_class_uid": "1.2.840.10008.5.1.4.1.1.1",
        "transfer_syntax_uid": "1.2.840.10008.1.2.1",
        "study_instance_uid": "1.2.4",
        "series_instance_uid": "1.2.5",
        "sha256": f"{n:064x}",
        "size": 100 + n,
        "file": f"images/aa/{n}.dcm",
        "patient_id": "PID1",
        "patient_name": "Doe^Jane",
        "accession_number": "A1",
        "modality": "CR",
        "calling_ae": "MODALITY",
        "calling_host": "10.0.0.9",
    }
    return Instance(**(facts | changed))


def route(**changed: Any) -> Route:
    facts: dict[str, Any] = {
        "rule": "frontal",
        "model": "phantom",
        "send_to": ("archive",),
        "allow_demonstration": True,
        "order": ORDER,
    }
    return Route(**(facts | changed))


def result(ticket: Ticket, n: int = 1, **changed: Any) -> Result:
    facts: dict[str, Any] = {
        "token": ticket.token,
        "outcome": "reported",
        "model": "phantom",
        "model_version": "0.1.0",
        "device_uid": "2.25.1",
        "demonstration": True,
        "text": "No fracture.",
        "presence": "absent",
        "stages_ms": {"fetch": 1.0, "decode": 2.0, "model": 30.0, "report": 4.0},
        "objects": (
            ReportObject(
                kind="sr",
                part="sr",
                sop_class_uid=SR,
                sop_instance_uid=f"2.25.{n}",
                series_instance_uid="2.25.99",
            ),
        ),
    }
    return Result(**(facts | changed))


def post(ledger: Ledger, ticket: Ticket, answer: Result, at: float | None = None) -> bool:
    files = {o.part: f"reports/aa/{ticket.job[:8]}.{o.part}.dcm" for o in answer.objects}
    book = ledger if at is None else on(ledger, at)
    return book.jobs.report(ticket.job, ticket.token, answer, files)


def taken(ledger: Ledger, worker: str = "w", at: float = NOW) -> Ticket:
    (ticket,) = on(ledger, at).jobs.hand_out("phantom", 1, at + 60)
    on(ledger, at).jobs.claim(ticket.job, ticket.token, worker, 60)
    return ticket


def reported(ledger: Ledger, n: int = 1, at: float = NOW, **routed: Any) -> Ticket:
    on(ledger, at).instances.receive(instance(n), [route(**routed)])
    ticket = taken(ledger, at=at)
    post(ledger, ticket, result(ticket, n), at)
    return ticket
