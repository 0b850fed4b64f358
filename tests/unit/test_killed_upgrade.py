"""A start that is killed while it upgrades the ledger: the next one goes on, however often.

``EVERY_STATEMENT=1`` kills at each statement; without it at some of them.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import killed
import pytest
import sqlalchemy as sa
from postgresql import Cluster, cluster

from dicom_node.store.ledger import Ledger
from dicom_node.store.ledger.database import Database
from dicom_node.store.schema import VERSIONS

OLD = Path(__file__).resolve().parents[1] / "drill" / "ledgers"
STRIDE = (1, 1) if os.environ.get("EVERY_STATEMENT") else (53, 11)
"""Statements between two kills, in the migrations and in what follows them."""

pytestmark = [pytest.mark.timeout(0)] if os.environ.get("EVERY_STATEMENT") else []
"""Some hundred kills take minutes."""


@pytest.fixture(scope="module")
def server() -> Iterator[Cluster]:
    with cluster() as running:
        yield running


@pytest.fixture(params=["sqlite-0001", "sqlite-0005", "postgresql-0003"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A ledger that an older version left with work in every state."""
    database, version = request.param.split("-")
    text = (OLD / f"{version}.sql").read_text(encoding="utf-8")
    if database == "postgresql":
        return str(request.getfixturevalue("server").old(version, text))
    with closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as db:
        db.executescript(text)
    return f"sqlite:///{tmp_path}/ledger.sqlite"


ROWS = (
    "SELECT sop_instance_uid, patient_name, file FROM instances ORDER BY 1",
    "SELECT id, state, attempts, token FROM jobs ORDER BY 1",
    "SELECT job, destination, state, reason FROM deliveries ORDER BY 1, 2",
    "SELECT job, part, sop_instance_uid FROM objects ORDER BY 1, 2",
    "SELECT count(*) FROM events",
)


def asked(url: str, *queries: str) -> list[list[tuple[object, ...]]]:
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        found = [
            [tuple(row) for row in connection.execute(sa.text(query)).all()] for query in queries
        ]
    engine.dispose()
    return found


def version_of(url: str) -> str:
    database = Database(url)
    version = database.revision()
    database.close()
    return str(version)


def test_a_killed_start_is_taken_up_by_the_next_and_nothing_is_lost(url: str) -> None:
    before, old = asked(url, *ROWS), version_of(url)
    kills, kill_at = 0, 0
    while version_of(url) == old and not killed.upgrade(url, kill_at, small=0):
        kills, kill_at = kills + 1, kill_at + STRIDE[0]
        assert asked(url, *ROWS) == before
    kill_at = 0
    while not killed.upgrade(url, kill_at, small=0):
        kills, kill_at = kills + 1, kill_at + STRIDE[1]
        assert version_of(url) == VERSIONS[-1]
    assert kills > 1
    assert asked(url, *ROWS) == before
    ledger = Ledger.open(url)
    while ledger.upgrading.step():
        continue
    while rows := ledger.filling.next_rows():
        ledger.filling.fill(rows, {})
    status = ledger.history.status()
    counted = asked(url, "SELECT state, count(*) FROM jobs GROUP BY state")[0]
    assert status.jobs == dict(counted)
    assert {row.number for row in ledger.history.recent(99)} == set(range(1, 12))
    ledger.close()
    if url.startswith("sqlite"):
        assert asked(url, "PRAGMA integrity_check", "PRAGMA foreign_key_check") == [[("ok",)], []]


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_a_first_start_that_is_killed_is_made_up_by_the_next(
    request: pytest.FixtureRequest, tmp_path: Path, database: str
) -> None:
    url = f"sqlite:///{tmp_path}/ledger.sqlite"
    if database == "postgresql":
        url = request.getfixturevalue("server").without_tables()
    kill_at = 1
    while not killed.upgrade(url, kill_at, small=2000):
        kill_at += 3 * STRIDE[0]
    assert kill_at > 99
    assert version_of(url) == VERSIONS[-1]
    ledger = Ledger.open(url)
    assert re.search("instances", str(ledger.history.status()))
    ledger.close()
